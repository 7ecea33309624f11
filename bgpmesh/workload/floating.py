"""Floating addresses: external addresses, each of which leads to a workload, wherever that lives.

They come from the file, which every node has, and from commands, which hold on the node where they were given. What
the file says of an address goes before what a command said of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field

from bgpmesh.errors import refused
from bgpmesh.frozen import frozen
from bgpmesh.route.nlri import IPAddress, IPNetwork
from bgpmesh.workload.endpoint import Endpoint
from bgpmesh.workload.pool import Pool, is_unicast

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"


@frozen
class FloatingIp:
    """One floating address: `[floating_ip."EXTERNAL"]`, or what a command made of one."""

    external: IPAddress = field(metadata={"is_name": True})
    workload: str = field(
        metadata={
            "help": "the workload it leads to, NAMESPACE/NAME; its node announces the address",
            "pattern": (f"{_NAME}/{_NAME}", "NAMESPACE/NAME"),
            "shown": '"shop/web"',
        }
    )
    outbound: bool = field(
        default=False, metadata={"help": "its own connections to outside every pool leave with this address"}
    )


@frozen
class Lead:
    """A floating address on the node that has its workload: what packets to it are rewritten to, and back."""

    external: IPAddress
    internal: IPAddress
    interface: str  # the workload's link on the host
    is_outbound: bool = False


class FloatingIps:
    """All floating addresses of the file and of commands given here, and what each leads to."""

    __slots__ = ("_by_workload", "in_force", "kept", "of_file")

    def __init__(self) -> None:
        self.of_file: tuple[FloatingIp, ...] = ()
        self.kept: tuple[FloatingIp, ...] = ()  # by commands on this node
        self.in_force: dict[IPAddress, FloatingIp] = {}  # the file's first, each by the address
        self._by_workload: dict[str, list[FloatingIp]] = {}

    def configure(self, of_file: Iterable[FloatingIp]) -> None:
        """Take what the file says."""
        self.of_file = in_order(of_file)
        self._merge()

    def keep(self, kept: Iterable[FloatingIp]) -> None:
        """Take what commands on this node have said, all of it."""
        self.kept = in_order(kept)
        self._merge()

    def _merge(self) -> None:
        self.in_force = {each.external: each for each in self.of_file}
        for each in self.kept:
            self.in_force.setdefault(each.external, each)
        self._by_workload = {}
        for each in self.in_force.values():
            self._by_workload.setdefault(each.workload, []).append(each)

    def of(self, key: str) -> Sequence[FloatingIp]:
        """Return those that lead to the workload `key`."""
        return self._by_workload.get(key, ())

    def leads(self, endpoints: Mapping[str, Endpoint], in_use: Mapping[IPAddress, str]) -> dict[IPAddress, Lead]:
        """Return what leads to these workloads: to the first address that a workload has of the family.

        None does that is a workload's own, as `in_use` tells; a reload may have it so.
        Connections of a workload leave by one address; of several that say `outbound` it is the first, the file's
        before others.
        """
        found: dict[IPAddress, Lead] = {}
        leaving: set[IPAddress] = set()
        for each in self.in_force.values():
            endpoint = endpoints.get(each.workload) if each.external not in in_use else None
            internal = None if endpoint is None else _of_family(endpoint.addresses, each.external.version)
            if endpoint is not None and internal is not None:
                is_outbound = each.outbound and internal not in leaving
                if is_outbound:
                    leaving.add(internal)
                found[each.external] = Lead(each.external, internal, endpoint.interface, is_outbound)
        return found

    def problems(
        self, endpoints: Mapping[str, Endpoint], in_use: Mapping[IPAddress, str]
    ) -> Iterator[tuple[IPAddress, str]]:
        """Yield what of it cannot be as it was said, in words; a workload that is not here is no problem of the file's.

        One address may have several.
        """
        leads = self.leads(endpoints, in_use)
        for each in self.kept:
            other = self.in_force[each.external]
            if other != each:
                yield each.external, f"the configuration has it for {other.workload}; not in force for {each.workload}"
            elif other is each and each.workload not in endpoints:
                yield each.external, f"no workload {each.workload} on this node"
        for each in self.in_force.values():
            lead = leads.get(each.external)
            if each.external in in_use:
                yield each.external, f"already in use by {in_use[each.external]}"
            elif lead is None and each.workload in endpoints:
                yield each.external, f"{each.workload} has no IPv{each.external.version} address"
            elif lead is not None and lead.is_outbound != each.outbound:
                yield each.external, f"connections of {each.workload} leave by another floating address"

    def has_of_file(self, external: IPAddress) -> bool:
        """Tell whether the file has this address."""
        return any(each.external == external for each in self.of_file)

    def check(
        self, new: FloatingIp, pools: Sequence[Pool], blocks: Iterable[IPNetwork], taken: Mapping[IPAddress, str]
    ) -> None:
        """Raise ConfigError where a command cannot have what it asks for; `taken`: who else has each address."""
        address = new.external
        if self.has_of_file(address):
            holder = self.in_force[address].workload
            raise refused("external", address, f"the configuration has it, for {holder}: change it there")
        if (reason := why_not_external(address, pools, blocks)) or (reason := _taken(taken, address)):
            raise refused("external", address, reason)
        for other in self.of(new.workload) if new.outbound else ():
            if other.outbound and other.external != address and other.external.version == address.version:
                raise refused("outbound", address, f"connections of {new.workload} leave by {other.external} already")

    def without(self, external: IPAddress) -> tuple[FloatingIp, ...]:
        """Return what commands have said but for one address; ConfigError where the file has that."""
        left = tuple(each for each in self.kept if each.external != external)
        if len(left) == len(self.kept) and self.has_of_file(external):
            holder = self.in_force[external].workload
            raise refused("external", external, f"the configuration has it, for {holder}: remove it there")
        return left


def in_order(floating: Iterable[FloatingIp]) -> tuple[FloatingIp, ...]:
    """Return them by address, IPv4 first."""
    return tuple(sorted(floating, key=lambda each: (each.external.version, int(each.external))))


def why_not_external(address: IPAddress, pools: Iterable[Pool], blocks: Iterable[IPNetwork]) -> str:
    """Return why an address cannot be a floating one, whoever has it; "" where it can."""
    if not is_unicast(address):
        return "is not a unicast address that can be routed to a node"
    for pool in pools:
        if address in pool.cidr:
            return f"lies in pool {pool.name} ({pool.cidr}), whose addresses are the workloads' own"
    for block in blocks:
        if address in block:
            return f"lies in pod CIDR {block}, whose addresses are the workloads' own"
    return ""


def _taken(taken: Mapping[IPAddress, str], address: IPAddress) -> str:
    return f"already in use by {taken[address]}" if address in taken else ""


def _of_family(addresses: Collection[IPAddress], version: int) -> IPAddress | None:
    return next((address for address in addresses if address.version == version), None)
