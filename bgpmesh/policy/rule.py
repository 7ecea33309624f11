"""The model: what may pass between whom, as values. Everything read is lowered to this, everything written starts here.

Labels are one flat mapping. A workload's own come as they are; those of its namespace as `pcns.KEY`, and the
namespace's name as `projectcalico.org/namespace`. So a namespace selector is a selector like any other,
and "within its namespace" is one more condition.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import field
from enum import Enum

from bgpmesh.frozen import frozen
from bgpmesh.policy.selector import Everything, Selector

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

TCP, UDP, ICMP, ICMPV6, SCTP, UDPLITE = 6, 17, 1, 58, 132, 136  # IANA protocol numbers
PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmpv6": ICMPV6, "sctp": SCTP, "udplite": UDPLITE}

NAMESPACE_LABEL = "projectcalico.org/namespace"  # of a workload: the name of its namespace
NAMESPACE_PREFIX = "pcns."  # of a workload: a label of its namespace
WORKLOAD_LABEL = "projectcalico.org/orchestrator"  # of a workload, and of nothing else: "k8s", as Calico has it
EVERYBODY = Everything()
LAST = float("inf")  # the order of what has none: after all that have one


class Action(Enum):
    """What a rule does with what it matches."""

    ALLOW = "allow"
    DENY = "deny"
    PASS = "pass"  # noqa: S105  no password: on to the next tier
    LOG = "log"  # and on to the next rule


class Direction(Enum):
    """Seen from the workload: what reaches it, what leaves it."""

    INGRESS = "ingress"
    EGRESS = "egress"


@frozen
class PortRange:
    """Ports from `first` to `last`, both among them."""

    first: int
    last: int


Port = PortRange | str  # a name stands for a port of the destination workload, by protocol


@frozen
class Side:
    """Who may be at one end of a packet; what is absent says nothing, and all that is there must hold.

    `nets`, `not_nets`: empty says nothing. `ports`, `not_ports`: the same. `selector`: a known workload or
    network set with such labels (see `explain` for what is unknown).
    """

    nets: tuple[IPNetwork, ...] = ()
    not_nets: tuple[IPNetwork, ...] = ()
    selector: Selector | None = None
    not_selector: Selector | None = None
    ports: tuple[Port, ...] = ()
    not_ports: tuple[Port, ...] = ()


@frozen
class Icmp:
    """An ICMP or ICMPv6 type, and a code (None: any)."""

    type: int
    code: int | None = None


@frozen
class Rule:
    """One line of a policy: an action, and what a packet must be for it. None says nothing."""

    action: Action
    ip_version: int | None = None  # 4 or 6
    protocol: int | None = None
    not_protocol: int | None = None
    icmp: Icmp | None = None
    not_icmp: Icmp | None = None
    source: Side = Side()
    destination: Side = Side()


@frozen
class Policy:
    """Rules for those that the selector means; `namespace` None: for workloads of every namespace, and hosts.

    The selector has the namespace's condition in it. A direction that is not in `types` is not closed by it.
    """

    name: str
    namespace: str | None = None
    tier: str = "default"
    order: float = LAST
    selector: Selector = EVERYBODY
    types: frozenset[Direction] = frozenset()
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    is_staged: bool = False  # counted and explained, not enforced
    is_untracked: bool = False  # of a host, and of nobody else: before connection tracking
    is_pre_dnat: bool = False  # of a host, and of nobody else: before destination NAT
    is_on_forward: bool = False  # of a host: also what is forwarded through it

    @property
    def key(self) -> str:
        """`namespace/name` or `name`, as people see it."""
        return self.name if self.namespace is None else f"{self.namespace}/{self.name}"

    def rules(self, direction: Direction) -> tuple[Rule, ...]:
        """Return the rules of one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


@frozen
class Tier:
    """Policies that decide together; where one of them selects and none matches, `default` does."""

    name: str
    order: float = LAST
    default: Action = Action.DENY  # or PASS


@frozen
class Profile:
    """What holds after the last tier, for those that name it; every namespace has one that allows all."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ingress: tuple[Rule, ...] = (Rule(Action.ALLOW),)
    egress: tuple[Rule, ...] = (Rule(Action.ALLOW),)


@frozen
class NetworkSet:
    """Addresses outside the cluster that have labels; `namespace` None: known to every namespace."""

    name: str
    namespace: str | None
    labels: Mapping[str, str]
    nets: tuple[IPNetwork, ...]


@frozen
class HostEndpoint:
    """An interface of a node (`*`: those with no other) that policies apply to; by name, or by an address it has."""

    name: str
    node: str
    interface: str | None
    addresses: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    ports: Mapping[tuple[str, int], int] = field(default_factory=dict)  # (name, protocol) -> number


@frozen
class Failsafe:
    """A port that no host endpoint closes: of this node and for a source in the net, or the other way round."""

    protocol: int  # TCP, UDP or SCTP
    port: int
    net: IPNetwork | None = None  # None: everybody

    def __str__(self) -> str:
        """Render as in the configuration: `tcp:22`, `tcp:192.0.2.0/24:22`."""
        name = next(name for name, number in PROTOCOLS.items() if number == self.protocol)
        return ":".join(map(str, (name, *(() if self.net is None else (self.net,)), self.port)))


# Calico's defaults (ssh and DHCP or DNS and DHCP, then both ways BGP, etcd, Typha, the API server, and older etcd),
# and BFD of one hop (RFC 5881 §4) and of several (RFC 5883 §5), which is sent to its port from both sides.
_BOTH_WAYS = tuple(Failsafe(TCP, port) for port in (179, 2379, 2380, 5473, 6443, 6666, 6667)) + tuple(
    Failsafe(UDP, port) for port in (3784, 4784)
)
FAILSAFE_INBOUND = (Failsafe(TCP, 22), Failsafe(UDP, 68), *_BOTH_WAYS)
FAILSAFE_OUTBOUND = (Failsafe(UDP, 53), Failsafe(UDP, 67), *_BOTH_WAYS)
