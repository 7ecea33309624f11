"""What a node knows when it decides: the objects in force, and who is where. The compiler's whole input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from bgpmesh.frozen import frozen
from bgpmesh.policy.rule import Icmp, IPNetwork, NetworkSet, Policy, Profile, Tier
from bgpmesh.route.claim import Claims
from bgpmesh.route.nlri import IPAddress, Nlri, host_nlri


@frozen
class Member:
    """A workload that is known, here or elsewhere. What has an `interface` is here, and policies are enforced on it."""

    key: str  # namespace/name
    labels: Mapping[str, str]  # with those of its namespace, see `rule`
    addresses: tuple[IPAddress, ...]
    ports: Mapping[tuple[str, int], int] = field(default_factory=dict)  # (name, protocol) -> number
    interface: str | None = None
    profiles: tuple[str, ...] = ()  # a name that no profile has allows nothing


@frozen
class Host:
    """A host endpoint. Selectors of rules mean the addresses that it says it has; those of policies mean itself.

    The member's key is what people see, `host NODE/NAME`. `interface`: where it is enforced here, `*` for all that have
    no other; None: not here.
    """

    member: Member
    interface: str | None = None


@frozen
class Model:
    """Everything that verdicts depend on; the order within a tuple means nothing.

    `space`: pools, pod CIDRs and the `pods` of ranges, where an address that no member holds is unknown, not nobody's;
    without any, every address is. A tier that policies name and nobody defined has the defaults of `Tier`.
    """

    tiers: tuple[Tier, ...] = ()
    policies: tuple[Policy, ...] = ()
    profiles: tuple[Profile, ...] = ()
    network_sets: tuple[NetworkSet, ...] = ()
    members: Mapping[str, Member] = field(default_factory=dict)  # by key
    space: tuple[IPNetwork, ...] = ()
    addresses: frozenset[IPAddress] = frozenset()  # this node's own
    remote: Mapping[Nlri, Claims] = field(default_factory=dict)  # of other nodes' workloads; filled by `Compiler.learn`
    hosts: tuple[Host, ...] = ()  # of one interface no more than one

    def owner(self, address: IPAddress) -> Member | None:
        """Return who holds the address; O(members)."""
        return next((member for member in self.members.values() if address in member.addresses), None)

    def is_remote(self, address: IPAddress) -> bool:
        """Tell whether a workload of another node has the address, of which hashes of its labels are known."""
        return host_nlri(address) in self.remote

    def is_unknown(self, address: IPAddress) -> bool:
        """Tell whether the address may be that of a workload we know nothing of; O(members)."""
        if self.is_remote(address) or self.owner(address) is not None:
            return False
        if any(address in host.member.addresses for host in self.hosts):
            return False
        return not self.space or any(address in net for net in self.space)


@frozen
class Packet:
    """The first packet of a connection, after destination NAT as the chains see it; a port of None is in no range.

    `into`, `out`: the interfaces of this node by which it comes and goes, where they are no workloads' and are known.
    """

    source: IPAddress
    destination: IPAddress
    protocol: int
    source_port: int | None = None
    port: int | None = None
    icmp: Icmp | None = None  # with a code
    into: str | None = None
    out: str | None = None

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.source.version
