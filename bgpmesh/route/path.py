"""Where a path came from, and what the kernel is asked to do with a prefix."""

from __future__ import annotations

import enum
from dataclasses import field
from typing import NewType

from bgpmesh.frozen import frozen
from bgpmesh.route.attributes import RouterId
from bgpmesh.route.nlri import IPAddress, address_rank

PeerName = NewType("PeerName", str)


class Role(enum.Enum):
    """What a peer is to us (RFC 4456 §4): decides what is passed on to whom."""

    CLIENT = "client"
    NON_CLIENT = "non-client"
    EXTERNAL = "external"


@frozen(eq=False)
class Source:
    """Who a path came from; one object for each life of a session, compared with `is`."""

    peer: PeerName | None  # None: this node itself
    role: Role | None
    router_id: RouterId  # the peer's BGP identifier, from its OPEN
    address: IPAddress | None
    is_single_hop: bool = False  # single-hop eBGP: the next hop must be on a connected subnet
    # What peers are ordered by: address, then name.
    rank: tuple[tuple[int, int, str], str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", (address_rank(self.address), self.peer or ""))

    @property
    def is_local(self) -> bool:
        """Whether this node itself is the origin."""
        return self.peer is None

    @property
    def is_external(self) -> bool:
        """Whether it was learnt over eBGP."""
        return self.role is Role.EXTERNAL


LOCAL = Source(None, None, RouterId(0), None)


# ── what a prefix should be in the kernel ────────────────────────────────────


@frozen
class Blackhole:
    """Discard: underneath the node's own blocks, so that unused addresses do not loop."""


@frozen
class Via:
    """Forward to these BGP next hops, sorted; several are ECMP. What each resolves to is kept apart.

    `weights` are their shares, as they come, 1 to 256 each; (): all alike.
    """

    next_hops: tuple[IPAddress, ...]
    weights: tuple[int, ...] = ()

    @property
    def shares(self) -> tuple[tuple[IPAddress, int], ...]:
        """The next hops with the weight of each."""
        return tuple(zip(self.next_hops, self.weights or (1,) * len(self.next_hops), strict=True))


@frozen
class OnLink:
    """Deliver on this link of the host (its name): a workload's own address."""

    interface: str


Target = Blackhole | Via | OnLink


@frozen
class Resolution:
    """What a BGP next hop is in this kernel: out of that link, by that gateway (None: it is on the link)."""

    link: int  # interface index
    gateway: IPAddress | None
    cost: int  # the metric of the kernel route found; connected is 0


@frozen
class HostRoute:
    """A route of the kernel that is not ours, or an address of the host: what next hops resolve in.

    One whose link is down is not reported.
    """

    prefix: bytes  # an Nlri key
    link: int  # interface index; 0 where it has none
    gateway: IPAddress | None
    metric: int
    kind: HostRouteKind
    protocol: int  # rtm_protocol
    table: int


class HostRouteKind(enum.Enum):
    """What a kernel route of somebody else does with a packet."""

    CONNECTED = "connected"  # scope link: the subnet is on the link
    GATEWAY = "gateway"
    LOCAL = "local"  # an address of this host
    DISCARD = "discard"  # blackhole, unreachable or prohibit
