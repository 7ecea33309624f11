"""Cluster, nodes and neighbours of the file (`options`) -> the peers that one node should have.

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

from collections.abc import Iterable

from bgpmesh.peering.bfd import Watched
from bgpmesh.peering.options import Bfd, ClusterOptions, Limit, NodeOptions, PeerOptions
from bgpmesh.peering.peer import AddPath, Owner, Peer, most_but_a_fifth
from bgpmesh.peering.ranges import PeerRange
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.nlri import ROUTED, Family, IPAddress, family_of_address, link_of
from bgpmesh.route.path import PeerName, Role


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
