"""Everything that can happen (facts, past tense), and the few things said outwards.

An edge reports events; the engine answers with state (its Deltas), with `Command`s to the wire and
with `Note`s for people. Every event is plain data, so the journal can record and replay it.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field

from bgpmesh.frozen import frozen
from bgpmesh.peering.bfd import Report, Watched
from bgpmesh.peering.message import EndOfRib, Keepalive, Negotiated, Notification, RouteRefresh
from bgpmesh.peering.peer import Owner, Peer
from bgpmesh.peering.ranges import PeerRange
from bgpmesh.peering.session import Dial, Hangup, Send
from bgpmesh.policy.chains import AddressSet, ChainKey, Rules
from bgpmesh.policy.objects import Key, Value
from bgpmesh.policy.protection import Surroundings
from bgpmesh.rib.drain import Drain
from bgpmesh.rib.rule import Filter
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.flow import Flow, FlowKey
from bgpmesh.route.nlri import IPAddress, IPNetwork, Nlri
from bgpmesh.route.path import HostRoute, PeerName, Resolution, Target
from bgpmesh.workload.endpoint import Endpoint, LinkSpec
from bgpmesh.workload.floating import FloatingIp
from bgpmesh.workload.pool import Pool

# ── from the wire ────────────────────────────────────────────────────────────


@frozen
class Connected:
    """A TCP connection with a configured peer, or with one that calls from a range, stands.

    `connection` numbers it for the life of the daemon.
    """

    connection: int
    peer: PeerName
    local: IPAddress
    remote: IPAddress
    is_inbound: bool


@frozen
class ConnectFailed:
    """Our call to a peer was refused, timed out or could not be made; `reason` in words."""

    peer: PeerName
    reason: str


@frozen
class Disconnected:
    """A connection ended under us: closed, reset or failed; `reason` in words."""

    connection: int
    reason: str


@frozen
class SendingStalled:
    """A connection has taken nothing of what waits to be sent since second `since`; told again while it stays so."""

    connection: int
    since: float


@frozen
class OpenReceived:
    """The peer's OPEN came, and was negotiated against ours."""

    connection: int
    negotiated: Negotiated


@frozen
class MessageReceived:
    """Any other message but an UPDATE came."""

    connection: int
    message: Keepalive | RouteRefresh | EndOfRib | Notification


@frozen
class RoutesReceived:
    """One UPDATE: one attribute set (None where nothing is announced) and its prefixes.

    What RFC 7606 turned into a withdrawal stands in `withdrawn` and is counted.
    """

    connection: int
    attributes: PathAttributes | None
    announced: Sequence[Nlri]
    withdrawn: Sequence[Nlri]
    read_at: float  # monotonic seconds
    treated_as_withdraw: int = 0  # UPDATEs, 0 or 1
    attributes_discarded: int = 0
    problem: str = ""  # what was malformed, in words


@frozen
class FlowsReceived:
    """One UPDATE of flow specifications: those announced with one attribute set, and those withdrawn.

    What RFC 7606 turned into a withdrawal stands in `withdrawn` and is counted.
    """

    connection: int
    attributes: PathAttributes | None  # None where none is announced
    announced: tuple[Flow, ...]
    withdrawn: tuple[FlowKey, ...]
    treated_as_withdraw: int = 0  # UPDATEs, 0 or 1
    attributes_discarded: int = 0
    problem: str = ""  # what was malformed, in words


@frozen
class GarbageReceived:
    """The peer sent what ends a session: the NOTIFICATION it earns, and why in words."""

    connection: int
    notification: Notification
    text: str


@frozen
class BfdReported:
    """The process that runs BFD tells how the path to a peer is, or nobody does any longer (then it is down)."""

    report: Report


# ── from the kernel ──────────────────────────────────────────────────────────


@frozen
class FibRead:
    """A full read-back of our routes and nexthop objects: at start, each minute, after a link event."""

    routes: Mapping[Nlri, Target]
    next_hops: Mapping[IPAddress, Resolution]
    lost: Sequence[Nlri] = ()  # routes found other than we had left them
    moved: int = 0  # nexthop objects found so


@frozen
class FibObserved:
    """Somebody else changed or removed routes of ours: what they are now (None: gone)."""

    routes: Mapping[Nlri, Target | None]


@frozen
class FibWritten:
    """The kernel answered a burst: done as wanted, or refused with its text."""

    done: Sequence[Nlri]
    failed: Mapping[Nlri, str]


@frozen
class NextHopsWritten:
    """The same for nexthop objects."""

    done: Sequence[IPAddress]
    failed: Mapping[IPAddress, str]


@frozen
class HostRoutesChanged:
    """Routes of others, connected subnets and own addresses came and went (all of them, at start)."""

    added: Sequence[HostRoute]
    removed: Sequence[HostRoute]


@frozen
class LinksRead:
    """A full read-back of the workload links that are ours."""

    links: Mapping[str, LinkSpec]


@frozen
class LinkNamesRead:
    """The names of all links of this host by their numbers, at start and when there is a new one.

    `addresses`, at start only: which links have them. Later that is to be learnt from routes (HostRoutesChanged), which
    are read when chains stand already.
    """

    names: Mapping[int, str]
    addresses: Mapping[IPAddress, frozenset[int]] = field(default_factory=dict)


@frozen
class LinkObserved:
    """A workload link of ours changed or vanished without us (None: gone)."""

    interface: str
    link: LinkSpec | None


@frozen
class LinkWritten:
    """A workload link is as wanted, or is not, with the reason."""

    interface: str
    failure: str | None = None


@frozen
class ChainsRead:
    """A read-back of our chains and sets: at start, each minute, when a hook is not as it was left.

    Rules of a chain that stands otherwise than was ever wanted are some that nobody can want.
    """

    chains: Mapping[ChainKey, Rules]
    sets: Mapping[str, AddressSet]


@frozen
class ChainsWritten:
    """The chains of one table are as wanted, or were refused, with the reason."""

    done: Sequence[ChainKey]
    failed: Mapping[ChainKey, str]


@frozen
class SetsWritten:
    """The same for sets, by their names."""

    done: Sequence[str]
    failed: Mapping[str, str]


@frozen
class ConnectionsCut:
    """Of these floating addresses no connection leads elsewhere any more; or it could not be done, and why."""

    done: Sequence[IPAddress]
    failed: Mapping[IPAddress, str]


@frozen
class ConnectionsReviewed:
    """Connections were looked at under the policies of a generation; or could not be, and why ("": they were)."""

    generation: int
    revoked: int  # that may not pass any more
    restored: int  # that may pass again
    problem: str = ""


# ── from operators and the daemon ────────────────────────────────────────────


@frozen
class Configured:
    """The effective configuration of this node, at start and after each reload."""

    node: str
    asn: Asn
    router_id: RouterId
    cluster_id: RouterId | None  # set: this node reflects
    peers: tuple[Peer, ...]
    pod_cidrs: tuple[IPNetwork, ...]
    advertise: tuple[IPNetwork, ...]  # [node.X] advertise
    pools: tuple[Pool, ...]
    interface_prefix: str = "bgpm"
    kernel_enabled: bool = True
    ecmp: int = 8
    graceful_restart: int = 120  # seconds
    restart_deferral: float = 10.0  # seconds
    taken: Mapping[IPAddress, str] = field(default_factory=dict)  # no workload's: who has each, in words
    around: Surroundings = field(default_factory=Surroundings)  # what packet policy depends on
    cluster_asn: Asn | None = None  # in whose name nodes speak of addresses (route/claim.py)
    floating: tuple[FloatingIp, ...] = ()  # of the whole cluster
    has_identity: bool = False  # nodes say of their workloads' addresses who has them
    owners: tuple[Owner, ...] = ()  # every node of the file, and every range whose speakers have addresses
    filters: tuple[Filter, ...] = ()  # that a peer may name, beside those that are built in
    watched: tuple[Watched, ...] = ()  # the paths to `peers` that BFD watches
    ranges: tuple[PeerRange, ...] = ()  # from which others call
    processes: tuple[str, ...] = ()  # programs whose announcements are this node's, by name


@frozen
class ObjectsChanged:
    """The objects of packet policy that are in force now, all of them; None: which they are is not known."""

    objects: Mapping[Key, Value] | None


@frozen
class DropsFollowed:
    """Somebody listens to an NFLOG group for what is dropped; 0: nobody does any longer."""

    group: int


@frozen
class DrainChanged:
    """This node is to be so far out of service: at start as it was left, then at each step."""

    drain: Drain
    is_to_stop: bool = False  # what is draining ends with all sessions closed, whatever that cuts
    text: str = "drained"  # what peers are told then (RFC 9003), up to 255 octets
    limit: float = 60.0  # seconds that what is draining waits for traffic to go
    below: float = 10_000.0  # octets a second that are no traffic
    begun_at: float | None = None  # monotonic second at which the wait began; None: it has not


@frozen
class EndpointAdded:
    """A workload was attached (its address is already taken from the pool)."""

    endpoint: Endpoint


@frozen
class EndpointRemoved:
    """A workload is to go."""

    key: str


@frozen
class FloatingIpsKept:
    """What commands have made of floating addresses on this node: all of it, at start and after each."""

    floating: tuple[FloatingIp, ...]


@frozen
class ProcessSpoke:
    """A program announced prefixes with these attributes, or withdrew them (None)."""

    process: str
    attributes: PathAttributes | None
    nlris: Sequence[Nlri]


@frozen
class ProcessEnded:
    """A program has ended, and with it what it announced; or it could not be started."""

    process: str


@frozen
class TimerFired:
    """The second that `next_wakeup` named has come.

    `unheard`: connections with input that was not handled yet; their silence proves nothing.
    """

    unheard: Collection[int] = ()


@frozen
class Stopping:
    """An orderly stop: a Cease to those without graceful restart, silence to the others."""


Event = (
    Connected
    | ConnectFailed
    | Disconnected
    | SendingStalled
    | OpenReceived
    | MessageReceived
    | RoutesReceived
    | FlowsReceived
    | GarbageReceived
    | BfdReported
    | FibRead
    | FibObserved
    | FibWritten
    | NextHopsWritten
    | HostRoutesChanged
    | LinksRead
    | LinkNamesRead
    | LinkObserved
    | LinkWritten
    | ChainsRead
    | ChainsWritten
    | SetsWritten
    | ConnectionsCut
    | ConnectionsReviewed
    | Configured
    | ObjectsChanged
    | DropsFollowed
    | DrainChanged
    | EndpointAdded
    | EndpointRemoved
    | FloatingIpsKept
    | ProcessSpoke
    | ProcessEnded
    | TimerFired
    | Stopping
)

# ── outwards (Dial, Send and Hangup are the sessions') ──────────────────────


@frozen
class StartRoutes:
    """The session is established: pull this peer's batches from the RIB while the socket is ready."""

    connection: int
    peer: PeerName


Command = Dial | Send | StartRoutes | Hangup


class Level(enum.Enum):
    """How loud a note is."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@frozen
class Note:
    """Something worth telling a human: a log line and, by its name, a counter."""

    name: str  # dotted, past tense: peer.up
    level: Level = Level.INFO
    keys: Mapping[str, object] = field(default_factory=dict)
