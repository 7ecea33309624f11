"""Cluster, nodes and neighbours of the file -> the peers that one node should have.

The options are what an operator writes in `[cluster]`, `[node.*]` and `[peer.*]`; each knob carries its
help, unit, range and choices in the metadata of its field, and the configuration reader, the example
file and the error messages are made from that. Keys of the metadata:

 * `help`: one line;  `unit`: "s";  `range`: lowest and highest;  `choices`: the words allowed;
 * `version`: of an address, where only one will do;  `pattern`: an expression, and it in words;
 * `refused`: single values within the range that cannot be, and `refused_reason`;
 * `key`: the name in the file where it is not the field's;
 * `or`: keys of which one stands in place of one that is required;
 * in the example file: `shown`, a right-hand side other than the default; `example`, one that is commented out.

Which sessions there are:

 * `mesh`: every node with every other. `reflectors`: those with `reflector = true` among themselves, and
   each of the others with each of them, as its client (RFC 4456 §4). `none`: only `[peer.*]`.
 * Nodes of one AS are iBGP. Nodes of different ASes are external to each other, whatever the topology
   makes of them, and trust each other: they import all and export their own (RFC 8212 §2 leaves that to us).
 * Of two nodes one is passive: a reflector towards its client, which it may know by a range alone; of others the one
   with the numerically lower address. It calls once, when it starts, and else waits for the call of the other, so that
   calls collide (RFC 4271 §6.8) only where both start within one round trip.
 * Several paths of a prefix (RFC 7911) come from reflectors: nodes and other reflectors take them. What a node says to
   its reflector is its own, one path of each prefix, and so is all that is said in a mesh.
 * A family is offered where we have an address that can be its next hop; FlowSpec, which has none, to whom the file
   names for it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import field, replace
from typing import NewType

from bgpmesh.frozen import frozen
from bgpmesh.peering.bfd import Watched
from bgpmesh.peering.peer import NOBODY, AddPath, FlowLimit, Owner, Peer, most_but_a_fifth
from bgpmesh.peering.ranges import PeerRange
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.nlri import ROUTED, Family, IPAddress, IPNetwork, family_of_address, link_of
from bgpmesh.route.path import PeerName, Role
from bgpmesh.route.roles import ROLES

Hops = NewType("Hops", int)  # in the file also `true`
Ttl = NewType("Ttl", int)  # the same
Password = NewType("Password", str)  # never shown
Labels = tuple[tuple[str, str], ...]  # sorted

ASN_RANGE = (1, 4_294_967_295)
_ASN = {"range": ASN_RANGE, "refused": (23_456,), "refused_reason": "it is AS_TRANS (RFC 6793 §9)"}
_HOLD_TIME = {
    "unit": "s",
    "range": (0, 65_535),
    "refused": (1, 2),
    "refused_reason": "1 and 2 are below the minimum of 3 s (RFC 4271 §4.2)",
}
PORT_RANGE = (1, 65_535)


@frozen
class Limit:
    """How many prefixes a peer may send in each family, and when it is tried again after more: N or a table."""

    limit: int
    warn: int  # from so many on people are told
    restart: int = 60  # seconds


@frozen
class Bfd:
    """How the path to a peer is watched: `true`, or a table."""

    interval_ms: int = 300  # between packets, either way, at the least
    multiplier: int = 3  # packets that may be missed
    hops: int = 0  # how far away the peer is at most; 0: as its session says, or not known


@frozen
class ClusterOptions:
    """What holds for every node: `[cluster]`."""

    asn: Asn = field(metadata={"help": "AS number of the cluster", **_ASN, "shown": "64512"})
    identity: bool = field(default=False, metadata={"help": "carry workload labels in BGP"})
    max_identities: int = field(
        default=250_000,
        metadata={
            "help": "addresses with labels a node or reflector may send in each family",
            "range": (1, 100_000_000),
        },
    )
    topology: str = field(
        default="mesh",
        metadata={
            "help": "sessions between the nodes: all with all, through reflectors, or only [peer.*]",
            "choices": ("mesh", "reflectors", "none"),
        },
    )
    hold_time: int = field(
        default=9,
        metadata={"help": "a silent peer is down after this; keepalive is a third", **_HOLD_TIME},
    )
    graceful_restart: int = field(
        default=120, metadata={"help": "how long peers keep our routes; 0: off", "unit": "s", "range": (0, 4095)}
    )
    long_lived_graceful_restart: int = field(
        default=0,
        metadata={
            "help": "and beyond that, after all other routes and marked (RFC 9494); 0: off",
            "unit": "s",
            "range": (0, 0xFFFFFF),
        },
    )
    restart_deferral: float = field(
        default=10.0,
        metadata={"help": "longest wait to be in sync after a restart", "unit": "s", "range": (0, 3600)},
    )
    password: Password | None = field(
        default=None, repr=False, metadata={"help": "TCP MD5 between the nodes, or:", "example": '"secret"'}
    )
    password_file: str | None = field(
        default=None,
        metadata={"help": "a file whose first line is the password", "example": '"/etc/bgpmesh/mesh.key"'},
    )
    bfd: Bfd | None = field(
        default=None,
        metadata={"help": "BFD between the nodes: true, or { interval_ms = 300, multiplier = 3 }", "shown": "false"},
    )
    max_prefixes: int = field(
        default=100_000,
        metadata={"help": "prefixes a node may send in each family", "range": (1, 100_000_000)},
    )
    add_path: AddPath | None = field(
        default=AddPath(),
        metadata={
            "help": "reflectors pass on several paths (RFC 7911): true, false, { send = 8 }",
            "shown": "true",
        },
    )
    port: int = field(default=179, metadata={"help": "TCP port the nodes listen on", "range": PORT_RANGE})


@frozen
class NodeOptions:
    """One node: `[node.NAME]`."""

    name: str
    address: IPAddress = field(metadata={"help": "session source, next hop, default router id", "shown": '"192.0.2.1"'})
    address6: IPAddress | None = field(
        default=None, metadata={"help": "next hop of its IPv6 routes", "version": 6, "shown": '"2001:db8::1"'}
    )
    pod_cidrs: tuple[IPNetwork, ...] = field(
        default=(),
        metadata={
            "help": "the blocks its workloads get their addresses from",
            "shown": '["10.244.1.0/26", "fd00:10:244:1::/112"]',
        },
    )
    advertise: tuple[IPNetwork, ...] = field(
        default=(),
        metadata={
            "help": "single addresses and prefixes of the node itself, to announce",
            "example": '["203.0.113.7/32"]',
        },
    )
    reflector: bool = field(default=False, metadata={"help": "a route reflector (topology reflectors)"})
    labels: Labels = field(default=(), metadata={"help": "for the selectors of [peer.*]", "shown": '{ rack = "r1" }'})
    asn: Asn | None = field(
        default=None, metadata={"help": "where it is not the cluster's", **_ASN, "example": "64513"}
    )
    router_id: RouterId | None = field(
        default=None, metadata={"help": "where it is not `address`", "example": '"192.0.2.1"'}
    )
    cluster_id: RouterId | None = field(
        default=None, metadata={"help": "of a reflector, where it is not its router id", "example": '"192.0.2.1"'}
    )
    listen: tuple[IPAddress, ...] = field(
        default=(),
        metadata={"help": "where to accept calls, where it is not `address`", "example": '["0.0.0.0", "::"]'},
    )


@frozen
class PeerOptions:
    """A neighbour outside the cluster, or all that call from a range: `[peer.NAME]`."""

    name: str
    address: IPAddress | None = field(  # None: it has a range
        metadata={
            "help": "where it is called; or a range or an interface",
            "or": ("range", "interface"),
            "link_local": True,
            "shown": '"192.0.2.254"',
        }
    )
    asn: Asn = field(metadata={"help": "its AS number", **_ASN, "shown": "65001"})
    range: IPNetwork | None = field(
        default=None,
        metadata={"help": "everybody who calls from there; each is NAME@ADDRESS", "example": '"192.0.2.128/25"'},
    )
    interface: str | None = field(
        default=None,
        metadata={
            "help": "the link at whose other end it is, found by router advertisements: no address is needed",
            "pattern": (r"[^\s/%]{1,15}", "the name of a link"),
            "example": '"eth1"',
        },
    )
    range_limit: int = field(
        default=256, metadata={"help": "speakers of the range at a time", "range": (1, 100_000), "example": "256"}
    )
    pods: tuple[IPNetwork, ...] = field(
        default=(),
        metadata={
            "help": "of a range: its speakers are of the cluster, and what they say of addresses in these is believed",
            "example": '["10.244.128.0/17"]',
        },
    )
    nodes: str = field(
        default="all()",
        metadata={"help": "selector over node labels: who talks to it", "example": "\"rack == 'r1'\""},
    )
    passive: bool | None = field(
        default=None, metadata={"help": "wait for its call; always so for a range", "shown": "false"}
    )
    reflector_client: bool = field(default=False, metadata={"help": "iBGP: reflect to and from it (RFC 4456)"})
    imports: tuple[str, ...] | None = field(
        default=None,
        metadata={
            "key": "import",
            "help": "filters in order, of [filter.*] or all, own, none; absent: all on iBGP, none on eBGP",
            "example": '["pods-only"]',
        },
    )
    exports: tuple[str, ...] | None = field(
        default=None, metadata={"key": "export", "help": "the same, outwards", "example": '["own"]'}
    )
    port: int = field(default=179, metadata={"help": "its TCP port", "range": PORT_RANGE})
    source: IPAddress | None = field(
        default=None,
        metadata={
            "help": "our end, where it is not the node's address",
            "link_local": True,
            "example": '"192.0.2.1"',
        },
    )
    password: Password | None = field(
        default=None, repr=False, metadata={"help": "TCP MD5 (RFC 2385), or:", "example": '"secret"'}
    )
    password_file: str | None = field(
        default=None,
        metadata={"help": "a file whose first line is the password", "example": '"/etc/bgpmesh/tor1.key"'},
    )
    hold_time: int | None = field(
        default=None,
        metadata={"help": "where it is not the cluster's", **_HOLD_TIME, "example": "90"},
    )
    graceful_restart: int | None = field(
        default=None,
        metadata={"help": "where it is not the cluster's; 0: off", "unit": "s", "range": (0, 4095), "example": "120"},
    )
    long_lived_graceful_restart: int | None = field(
        default=None,
        metadata={
            "help": "where it is not the cluster's; 0: off",
            "unit": "s",
            "range": (0, 0xFFFFFF),
            "example": "86400",
        },
    )
    ttl_security: Hops = field(
        default=Hops(0),
        metadata={
            "help": "GTSM (RFC 5082): true (one hop) or how many hops away",
            "range": (1, 254),
            "example": "true",
        },
    )
    multihop: Ttl = field(
        default=Ttl(0),
        metadata={"help": "eBGP beyond one hop: true, or the TTL of our packets", "range": (2, 255), "example": "4"},
    )
    max_prefixes: Limit | None = field(
        default=None,
        metadata={
            "help": "in each family, or a table; told of from warn on (4/5), tried again after restart s",
            "range": (1, 100_000_000),
            "example": "{ limit = 1000, warn = 800, restart = 60 }",
        },
    )
    add_path: AddPath | None = field(
        default=None,
        metadata={
            "help": "several paths of a prefix (RFC 7911), or true; send 0: only the best",
            "example": "{ send = 8, receive = true }",
        },
    )
    next_hop: str = field(
        default="auto", metadata={"help": "of what we announce to it", "choices": ("auto", "self", "keep")}
    )
    enforce_first_as: bool | None = field(
        default=None, metadata={"help": "eBGP: the first AS must be its own; absent: true", "example": "true"}
    )
    local_asn: Asn | None = field(
        default=None,
        metadata={
            "help": "our AS on this session, where it is not the node's, which stands behind it",
            **_ASN,
            "example": "64999",
        },
    )
    allow_own_asn: int = field(
        default=0,
        metadata={"help": "how often our own AS may stand in AS_PATH before that is a loop", "range": (0, 10)},
    )
    role: str | None = field(
        default=None,
        metadata={
            "help": "eBGP: what we are to it (RFC 9234), so that no route leaks",
            "choices": tuple(ROLES),
            "example": '"customer"',
        },
    )
    flowspec: FlowLimit | None = field(
        default=None,
        metadata={
            "help": "take FlowSpec (RFC 8955): so many flows, each so many seconds after it was last announced (0: for "
            "ever)",
            "example": "{ rules = 100, ttl = 3600 }",
        },
    )
    families: tuple[Family, ...] = field(
        default=ROUTED, metadata={"help": "over this one session, whatever its transport"}
    )
    bfd: Bfd | None = field(
        default=None,
        metadata={
            "help": "true, or { interval_ms = 300, multiplier = 3, hops = 1 }: 1 hop away at most",
            "shown": "false",
        },
    )

    @property
    def near(self) -> IPAddress:
        """Its address, or the first of its range; for what depends on the family. Nobody's while it is not found."""
        if self.range is not None:
            return self.range.network_address
        if self.address is None:
            assert self.interface is not None
            return ipaddress.ip_address(f"{NOBODY}%{self.interface}")
        return self.address

    @property
    def is_found(self) -> bool:
        """Whether it is known where it is: what is by its link alone has to be found first."""
        return self.interface is None or self.address is not None

    def at(self, ends: tuple[IPAddress, IPAddress] | None) -> PeerOptions:
        """Return it with our end and its own, as they were found on its link."""
        return self if ends is None or self.interface is None else replace(self, source=ends[0], address=ends[1])


def router_id_of(node: NodeOptions) -> RouterId | None:
    """Return the node's BGP identifier; None: it has to be given, since `address` is IPv6 (RFC 6286 §2.1)."""
    if node.router_id is None and node.address.version == 4:
        return RouterId(int(node.address))
    return node.router_id


def asn_of(node: NodeOptions, cluster: ClusterOptions) -> Asn:
    """Return the node's AS: its own, or the cluster's."""
    return cluster.asn if node.asn is None else node.asn


def local_asn_of(peer: PeerOptions, node: NodeOptions, cluster: ClusterOptions) -> Asn:
    """Return the AS that the node is in for a neighbour."""
    return asn_of(node, cluster) if peer.local_asn is None else peer.local_asn


def is_reflecting(node: NodeOptions, cluster: ClusterOptions, peers: Iterable[PeerOptions]) -> bool:
    """Tell whether the node reflects: by the topology, or because one of its `peers` is a client of it."""
    return (node.reflector and cluster.topology == "reflectors") or any(peer.reflector_client for peer in peers)


def cluster_id_of(node: NodeOptions, cluster: ClusterOptions, peers: Iterable[PeerOptions]) -> RouterId | None:
    """Return the cluster id that a reflecting node puts on what it passes on, None where it does not reflect."""
    if not is_reflecting(node, cluster, peers):
        return None
    return router_id_of(node) if node.cluster_id is None else node.cluster_id


def shared_addresses(node: NodeOptions, other: NodeOptions) -> tuple[IPAddress, IPAddress] | None:
    """Return the two ends of the session between two nodes: of `address`, else IPv6; None: nothing in common."""
    if node.address.version == other.address.version:
        return node.address, other.address
    ours, theirs = own_address(node, Family.IPV6), own_address(other, Family.IPV6)
    return None if ours is None or theirs is None else (ours, theirs)


def own_address(node: NodeOptions, family: Family) -> IPAddress | None:
    """Return the node's own address of a family: what its routes of that family have as next hop."""
    if family is Family.IPV6 and node.address6 is not None:
        return node.address6
    return node.address if family_of_address(node.address) is family else None


def peers_of(
    node: NodeOptions, cluster: ClusterOptions, nodes: Iterable[NodeOptions], neighbours: Iterable[PeerOptions]
) -> tuple[Peer, ...]:
    """Return every peer `node` should have, by name; `neighbours` are those that select this node."""
    neighbours = tuple(neighbours)
    cluster_id = cluster_id_of(node, cluster, neighbours)
    others = [other for other in nodes if other.name != node.name and has_session(node, other, cluster)]
    made = [_node_peer(node, other, cluster, cluster_id) for other in others]
    made += [_neighbour_peer(node, peer, cluster, cluster_id) for peer in neighbours if peer.range is None]
    return tuple(sorted((peer for peer in made if peer is not None), key=lambda peer: peer.name))


def ranges_of(node: NodeOptions, cluster: ClusterOptions, neighbours: Iterable[PeerOptions]) -> tuple[PeerRange, ...]:
    """Return the ranges from which `node` takes calls, by name; `neighbours` are those that select this node."""
    neighbours = tuple(neighbours)
    cluster_id = cluster_id_of(node, cluster, neighbours)
    made: list[PeerRange] = []
    for options in neighbours:
        template = None if options.range is None else _neighbour_peer(node, options, cluster, cluster_id)
        if template is not None and options.range is not None:
            watched = None if options.bfd is None else _watched(template, options.bfd)
            made.append(PeerRange(options.range, options.range_limit, template, watched))
    return tuple(sorted(made, key=lambda each: each.name))


def watched_of(
    node: NodeOptions, cluster: ClusterOptions, nodes: Iterable[NodeOptions], neighbours: Iterable[PeerOptions]
) -> tuple[Watched, ...]:
    """Return the paths that BFD watches, of the peers that `peers_of` returns."""
    neighbours = tuple(neighbours)
    options = {PeerName(peer.name): peer.bfd for peer in neighbours}
    watched = []
    for peer in peers_of(node, cluster, nodes, neighbours):
        bfd = cluster.bfd if peer.in_cluster else options[peer.name]
        if bfd is not None and peer.local_address is not None:  # without one it was refused when the file was read
            watched.append(_watched(peer, bfd))
    return tuple(watched)


def _watched(peer: Peer, bfd: Bfd) -> Watched:
    ends = str(peer.local_address), str(peer.address)
    return Watched(peer.name, *ends, bfd.hops or _hops(peer), bfd.interval_ms, bfd.multiplier)


def _hops(peer: Peer) -> int:
    """Return how far away a peer is at most, as its session says; 0: it does not, as inside of an AS."""
    if link_of(peer.address):
        return 1
    return peer.ttl_security or peer.multihop or int(peer.is_external)


def owners_of(nodes: Iterable[NodeOptions], neighbours: Iterable[PeerOptions]) -> tuple[Owner, ...]:
    """Return who may speak of which addresses: each node of those in its own blocks, speakers of those in `pods`."""
    found = ((node, router_id_of(node)) for node in nodes)
    owners = [Owner(PeerName(n.name), router_id, n.pod_cidrs) for n, router_id in found if router_id is not None]
    return (*owners, *(Owner(PeerName(peer.name), None, peer.pods) for peer in neighbours if peer.pods))


def has_session(node: NodeOptions, other: NodeOptions, cluster: ClusterOptions) -> bool:
    """Tell whether the topology joins two nodes."""
    match cluster.topology:
        case "mesh":
            return True
        case "reflectors":
            return node.reflector or other.reflector
        case _:
            return False


def _node_peer(
    node: NodeOptions, other: NodeOptions, cluster: ClusterOptions, cluster_id: RouterId | None
) -> Peer | None:
    ends, router_id = shared_addresses(node, other), router_id_of(node)
    if ends is None or router_id is None:
        return None  # refused when the file was read
    local, remote = ends
    asn, other_asn = asn_of(node, cluster), asn_of(other, cluster)
    is_client = cluster.topology == "reflectors" and node.reflector and not other.reflector
    reflects_to_us = cluster.topology == "reflectors" and other.reflector and not node.reflector
    role = Role.EXTERNAL if asn != other_asn else Role.CLIENT if is_client else Role.NON_CLIENT
    next_hops = _next_hops(node, ROUTED)
    return Peer(
        name=PeerName(other.name),
        address=remote,
        asn=other_asn,
        role=role,
        local_address=local,
        local_asn=asn,
        router_id=router_id,
        cluster_asn=cluster.asn,
        in_cluster=True,
        is_reflector=cluster.topology == "reflectors" and other.reflector,
        reflects_to_us=reflects_to_us,
        port=cluster.port,
        listen_address=_listen_address(node, local),
        listen_port=cluster.port,
        is_passive=is_client or (int(local) < int(remote) and not reflects_to_us),
        families=tuple(family for family, _ in next_hops),
        hold_time=cluster.hold_time,
        graceful_restart=cluster.graceful_restart,
        long_lived_graceful_restart=cluster.long_lived_graceful_restart,
        password=cluster.password,
        max_prefixes=cluster.max_prefixes,
        max_prefixes_warn=most_but_a_fifth(cluster.max_prefixes),
        max_identities=cluster.max_identities,
        enforce_first_as=role is Role.EXTERNAL,
        imports=("all",),
        exports=("own",) if role is Role.EXTERNAL else ("all",),
        next_hops=next_hops,
        cluster_id=cluster_id,
        add_path=_add_path_between(node, other, cluster),
    )


def _add_path_between(node: NodeOptions, other: NodeOptions, cluster: ClusterOptions) -> AddPath | None:
    options = cluster.add_path
    if options is None or cluster.topology != "reflectors" or not (node.reflector or other.reflector):
        return None
    return AddPath(options.send if node.reflector else 0, receive=options.receive and other.reflector)


def _neighbour_peer(
    node: NodeOptions, peer: PeerOptions, cluster: ClusterOptions, cluster_id: RouterId | None
) -> Peer | None:
    router_id = router_id_of(node)
    if router_id is None:
        return None  # refused when the file was read
    asn, local_asn = asn_of(node, cluster), local_asn_of(peer, node, cluster)
    is_external = peer.asn != local_asn
    role = Role.EXTERNAL if is_external else Role.CLIENT if peer.reflector_client else Role.NON_CLIENT
    local = peer.source or (own_address(node, family_of_address(peer.near)) if peer.is_found else None)
    unsaid = ("none",) if is_external else ("all",)  # RFC 8212 §2
    next_hops = _next_hops(node, peer.families, peer.source if peer.is_found else peer.near)
    limit = peer.max_prefixes or Limit(cluster.max_prefixes, most_but_a_fifth(cluster.max_prefixes))
    return Peer(
        name=PeerName(peer.name),
        address=peer.near,
        asn=peer.asn,
        role=role,
        local_address=local,
        local_asn=local_asn,
        asn_behind=asn if is_external and local_asn != asn else None,
        allow_own_asn=peer.allow_own_asn,
        bgp_role=peer.role or "",
        router_id=router_id,
        in_cluster=bool(peer.pods),
        cluster_asn=cluster.asn,
        port=peer.port,
        listen_address=_listen_address(node, local),
        listen_port=cluster.port,
        is_passive=bool(peer.passive) or peer.range is not None or not peer.is_found,
        families=tuple(family for family, _ in next_hops),
        hold_time=cluster.hold_time if peer.hold_time is None else peer.hold_time,
        graceful_restart=cluster.graceful_restart if peer.graceful_restart is None else peer.graceful_restart,
        long_lived_graceful_restart=cluster.long_lived_graceful_restart
        if peer.long_lived_graceful_restart is None
        else peer.long_lived_graceful_restart,
        password=peer.password,
        ttl_security=peer.ttl_security,
        multihop=peer.multihop,
        max_prefixes=limit.limit,
        max_prefixes_warn=limit.warn,
        max_identities=cluster.max_identities if peer.pods else 0,
        max_prefixes_restart=limit.restart,
        enforce_first_as=is_external if peer.enforce_first_as is None else peer.enforce_first_as,
        imports=peer.imports or unsaid,  # an empty list is no policy either
        exports=peer.exports or unsaid,
        next_hops=next_hops,
        next_hop=peer.next_hop,
        cluster_id=cluster_id,
        add_path=peer.add_path,
        flowspec=peer.flowspec,
    )


def _next_hops(
    node: NodeOptions, families: tuple[Family, ...], source: IPAddress | None = None
) -> tuple[tuple[Family, IPAddress], ...]:
    """Return our own next hop of each family that has one; the source of the session goes before the node's."""
    if link_of(source):  # the one address that is sure to be there (RFC 8950)
        return tuple((family, source) for family in families if source is not None)
    found: list[tuple[Family, IPAddress]] = []
    for family in families:
        is_of_source = source is not None and family_of_address(source) is family
        address = source if is_of_source else own_address(node, family)
        if address is None and family is Family.IPV4:
            address = own_address(node, Family.IPV6)  # to those who take it (RFC 8950)
        if address is not None:
            found.append((family, address))
    return tuple(found)


def _listen_address(node: NodeOptions, local: IPAddress | None) -> IPAddress | None:
    """Return where the peer's calls are accepted: the `listen` of the same family, else our end of the session."""
    if local is None or link_of(local):
        return local
    return next((address for address in node.listen if address.version == local.version), local)


def warnings_of(
    node: NodeOptions, cluster: ClusterOptions, nodes: Iterable[NodeOptions], neighbours: Iterable[PeerOptions]
) -> tuple[str, ...]:
    """Return what is allowed and probably not meant, for `bgpmesh check`; `neighbours` select this node."""
    nodes = tuple(nodes)
    said: list[str] = []
    if cluster.topology == "reflectors" and not any(other.reflector for other in nodes):
        said.append("cluster.topology is reflectors, and no node has reflector = true: there is no session")
    if cluster.topology != "reflectors" and node.reflector:
        said.append(f"node.{node.name}.reflector does nothing with cluster.topology = {cluster.topology}")
    if cluster.identity and cluster.topology == "none":
        said.append("cluster.identity does nothing with cluster.topology = none: there are no sessions between nodes")
    if cluster.identity and cluster.topology == "reflectors" and asn_of(node, cluster) != cluster.asn:
        said.append(f"node.{node.name}.asn is not the cluster's: no reflector passes on who its workloads are")
    if any(n.version == 6 for n in (*node.pod_cidrs, *node.advertise)) and own_address(node, Family.IPV6) is None:
        said.append(f"node.{node.name} has IPv6 prefixes and no address6: they are announced to nobody")
    if any(n.version == 4 for n in (*node.pod_cidrs, *node.advertise)) and own_address(node, Family.IPV4) is None:
        said.append(
            f"node.{node.name} has IPv4 prefixes and no IPv4 address: who takes no IPv6 next hops does not hear of them"
        )
    said += _slow_bfd("cluster", cluster.bfd, cluster.hold_time)
    for peer in neighbours:
        said += _slow_bfd(
            f"peer.{peer.name}", peer.bfd, cluster.hold_time if peer.hold_time is None else peer.hold_time
        )
        if peer.asn != local_asn_of(peer, node, cluster):
            said += [
                f"peer.{peer.name} is eBGP without {key}: nothing is {does} (RFC 8212)"
                for key, value, does in (
                    ("import", peer.imports, "accepted"),
                    ("export", peer.exports, "announced"),
                )
                if not value
            ]
        source = peer.source if peer.interface is None else peer.near
        missing = set(peer.families) - {family for family, _ in _next_hops(node, peer.families, source)}
        said += [
            f"peer.{peer.name} is not offered {family.label}: node.{node.name} has no address of it"
            for family in sorted(missing, key=lambda family: family.label)
            if family_of_address(peer.near) is family or peer.families != ROUTED
        ]
        if peer.pods and not cluster.identity:
            said.append(f"peer.{peer.name}.pods does nothing with cluster.identity = false but for floating addresses")
    return tuple(said)


def _slow_bfd(where: str, bfd: Bfd | None, hold_time: int) -> list[str]:
    """Return the warning of BFD that tells no sooner than the hold timer does; a hold time of 0 is no timer."""
    if bfd is None or not 0 < hold_time * 1000 <= bfd.interval_ms * bfd.multiplier:
        return []
    return [f"{where}.bfd takes as long to find that a peer is gone as the hold time of {hold_time} s"]
