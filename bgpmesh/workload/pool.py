"""Pools and the addresses that this node gives out from its own blocks."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import field

from bgpmesh.errors import refused
from bgpmesh.frozen import frozen
from bgpmesh.route.nlri import IPAddress, IPNetwork

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # IPv4-mapped: never on a wire (RFC 4291 §2.5.5.2)


@frozen
class Masquerade:
    """How packets that leave every pool get another source: the address of the link they leave by, or `source`."""

    exclude: tuple[IPNetwork, ...] = ()  # destinations to which they keep their own
    source: IPAddress | None = None


@frozen
class Pool:
    """A range that workload addresses are drawn from, cluster-wide ([pool.NAME])."""

    name: str
    cidr: IPNetwork = field(
        metadata={"help": "the range; pools do not overlap, and hold the pod CIDRs", "shown": '"10.244.0.0/16"'}
    )
    masquerade: Masquerade | None = field(
        default=None,
        metadata={
            "help": 'source NAT to outside of every pool: true, or { exclude = [..], source = "A" }',
            "shown": "false",
        },
    )
    advertise: bool = field(default=True, metadata={"help": "announce the pod CIDRs and addresses in it"})
    reserved: tuple[IPNetwork, ...] = field(
        default=(), metadata={"help": "never given to a workload", "example": '["10.244.0.0/30"]'}
    )


def is_unicast(address: IPAddress) -> bool:
    """Tell whether an address is one host's, and can be routed to it."""
    number = int(address)
    return not (
        address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or address.is_link_local
        or (address.version == 4 and (number < 1 << 24 or number >= 0xF0 << 24))
        or (address.version == 6 and address in _MAPPED)
    )


class Addresses:
    """Who has which address on this node (the package's prose has the rules).

    Rule 1. `request` either gives everything that was asked for, or raises and changes nothing.
    Rule 2. Configuration decides what is given from now on; what is in use stays with its owner.
    """

    __slots__ = ("_cursor", "_held", "_owner", "_pod_cidrs", "_pools", "_promised", "_resting", "_taken")

    def __init__(self) -> None:
        self._pools: tuple[Pool, ...] = ()
        self._pod_cidrs: tuple[IPNetwork, ...] = ()
        self._taken: dict[IPAddress, str] = {}
        self._promised: frozenset[IPAddress] = frozenset()
        self._owner: dict[IPAddress, str] = {}
        self._held: dict[str, tuple[IPAddress, ...]] = {}
        self._resting: dict[IPAddress, tuple[str, float]] = {}  # who had each, and until when nobody else gets it
        self._cursor = {4: -1, 6: -1}  # the last address given, as a number

    def configure(
        self,
        pools: tuple[Pool, ...],
        pod_cidrs: tuple[IPNetwork, ...],
        taken: Mapping[IPAddress, str] | None = None,
        promised: Collection[IPAddress] = (),
    ) -> None:
        """Take the pools of the cluster and the blocks of this node.

        `taken` names addresses that are no workload's: those of the nodes, say, by who has them. `promised` ones
        are for the workload that asks for them by name, and are given to no other.
        """
        self._pools = pools
        self._pod_cidrs = tuple(sorted(pod_cidrs, key=lambda block: (block.version, int(block.network_address))))
        self._taken = dict(taken or {})
        self._promised = frozenset(promised)

    def request(self, key: str, wanted: tuple[IPAddress, ...] = (), now: float = float("inf")) -> tuple[IPAddress, ...]:
        """Return the addresses of workload `key` from now on, IPv4 first.

        They are `wanted`, and for each family that is not in it one from this node's blocks, where it has such.
        A repeated request is answered as before. `now` is a second as `release` has it. Raises ConfigError naming the
        address and what stands against it.
        """
        if key in self._held:
            if set(wanted) <= set(self._held[key]):
                return self._held[key]
            raise refused("ip", _listed(wanted), f"{key} already has {_listed(self._held[key])}")
        self._resting = {address: row for address, row in self._resting.items() if row[1] > now}
        for index, address in enumerate(wanted):
            if address in wanted[:index]:
                raise refused("ip", address, "is asked for twice")
            self._check(address)
            owner, until = self._resting.get(address, (key, now))
            if owner != key:
                reason = f"other nodes may take it for {owner}, which had it, for {until - now:.0f} s more"
                raise refused("ip", address, reason)
        drawn: list[IPAddress] = []
        for version in (4, 6):
            if all(address.version != version for address in wanted):
                drawn += self._drawn(version)
        if not wanted and not drawn:
            raise refused("pod_cidrs", "", f"this node has none and no address was asked for: {key} would have none")
        self._cursor.update({address.version: int(address) for address in drawn})
        addresses = tuple(sorted((*wanted, *drawn), key=lambda address: address.version))
        self._hold(key, addresses)
        return addresses

    def claim(self, key: str, addresses: tuple[IPAddress, ...]) -> None:
        """Record that a workload has these addresses, whatever the configuration says: it was so before a restart.

        Raises ConfigError where another workload has one of them.
        """
        if self._held.get(key) == addresses:
            return  # as `request` left it
        for address in addresses:
            if self._owner.get(address, key) != key:
                raise refused("ip", address, f"already in use by {self._owner[address]}")
        self.release(key)
        self._hold(key, addresses)
        for address in addresses:
            if self.is_covered(address):
                self._cursor[address.version] = max(self._cursor[address.version], int(address))

    def release(self, key: str, until: float = float("-inf")) -> None:
        """Free the addresses of a workload, from some second on for others too; nothing happens where it has none."""
        for address in self._held.pop(key, ()):
            del self._owner[address]
            self._resting[address] = key, until

    def in_use(self) -> Mapping[IPAddress, str]:
        """Return who has each address (to read, not to change)."""
        return self._owner

    def is_covered(self, address: IPAddress) -> bool:
        """Tell whether a block of this node contains the address, so that it needs no announcement of its own."""
        return any(block.version == address.version and address in block for block in self._pod_cidrs)

    def _hold(self, key: str, addresses: tuple[IPAddress, ...]) -> None:
        self._held[key] = addresses
        self._owner.update(dict.fromkeys(addresses, key))

    def _check(self, address: IPAddress) -> None:
        """Raise ConfigError where a workload that asks for this very address cannot have it."""
        if not is_unicast(address):
            raise refused("ip", address, "is not a unicast address that can be routed to a workload")
        owner = self._owner.get(address) or self._taken.get(address)
        if owner is not None:
            raise refused("ip", address, f"already in use by {owner}")
        for pool, kept in self._reserved(address.version):
            if address in kept:
                raise refused("ip", address, f"reserved by pool {pool.name} ({kept})")

    def _drawn(self, version: int) -> list[IPAddress]:
        """Return one free address of the blocks of a family, none without blocks; ConfigError when all are gone."""
        blocks = [block for block in self._pod_cidrs if block.version == version]
        if not blocks:
            return []
        found = self._first_free(blocks, self._cursor[version] + 1) or self._first_free(blocks, 0)
        if found is None:
            raise self._exhausted(blocks)
        return [found]

    def _first_free(self, blocks: list[IPNetwork], low: int) -> IPAddress | None:
        """Return the lowest free address from the number `low` on; O(addresses in use)."""
        kept = [(int(n.network_address), int(n.broadcast_address)) for _, n in self._reserved(blocks[0].version)]
        for block in blocks:
            first = int(block.network_address)
            number = max(low, first + (block.version == 6 and block.prefixlen < 127))
            while number <= int(block.broadcast_address):
                address = block.network_address + (number - first)
                end = max((last for start, last in kept if start <= number <= last), default=None)
                if end is not None:
                    number = end + 1
                elif any(address in held for held in (self._owner, self._taken, self._promised, self._resting)):
                    number += 1
                else:
                    return address
        return None

    def _reserved(self, version: int) -> list[tuple[Pool, IPNetwork]]:
        return [(pool, kept) for pool in self._pools for kept in pool.reserved if kept.version == version]

    def _exhausted(self, blocks: list[IPNetwork]) -> Exception:
        held = self._owner.keys() | self._taken.keys() | self._promised
        resting = self._resting.keys() - held
        used, rests = (sum(any(a.version == b.version and a in b for b in blocks) for a in s) for s in (held, resting))
        verb = "has" if len(blocks) == 1 else "have"
        reserved = sum(block.num_addresses for block in blocks) - used - rests
        rest = f", {rests} that others may take for who had them" if rests else ""
        rest += f" and {reserved} reserved" if reserved else ""
        return refused("pod_cidrs", "", f"{_listed(blocks)} {verb} no address left, {used} in use{rest}")


def _listed(values: tuple[IPAddress, ...] | list[IPNetwork]) -> str:
    return ", ".join(map(str, values))
