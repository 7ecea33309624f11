"""What no single value shows: parts of the file that do not fit together."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence

from bgpmesh.config.tables import Reader
from bgpmesh.helpers.edge import ProcessOptions
from bgpmesh.peering.mesh import (
    has_session,
    local_asn_of,
    own_address,
    peers_of,
    ranges_of,
    router_id_of,
    shared_addresses,
)
from bgpmesh.peering.options import ClusterOptions, NodeOptions, PeerOptions
from bgpmesh.peering.peer import Peer
from bgpmesh.policy import selector
from bgpmesh.route.nlri import IPAddress, IPNetwork, family_of_address, is_martian, link_of, nlri_of
from bgpmesh.workload.floating import FloatingIp, why_not_external
from bgpmesh.workload.pool import Pool


def check(
    reader: Reader,
    cluster: ClusterOptions | None,
    pools: Sequence[Pool],
    nodes: Sequence[NodeOptions],
    neighbours: Sequence[PeerOptions],
) -> None:
    """Refuse what no single value shows: what does not fit together.

    Of tables that are incomplete what they do say is checked too, so that every problem is named at once.
    """
    part_nodes = [node for node in reader.incomplete if isinstance(node, NodeOptions)]
    part_peers = [peer for peer in reader.incomplete if isinstance(peer, PeerOptions)]
    are_all_pools_known = not any(isinstance(pool, Pool) for pool in reader.incomplete)
    _check_prefixes(reader, pools, [*nodes, *part_nodes], are_all_pools_known=are_all_pools_known)
    _check_advertised(reader, [*nodes, *part_nodes])
    _check_addresses(reader, nodes)
    _check_router_ids(reader, nodes)
    addressed = [peer for peer in (*neighbours, *part_peers) if peer.address is not None]
    _check_neighbour_addresses(reader, nodes, addressed)
    _check_links(reader, nodes, [*neighbours, *part_peers])
    ranged = [peer for peer in (*neighbours, *part_peers) if peer.range is not None]
    for peer in ranged:
        _check_range(reader, peer, pools, nodes)
    _check_nested_ranges(reader, cluster, nodes, ranged, addressed)
    of_nodes = {node.name for node in nodes}
    for peer in (*neighbours, *part_peers):
        if peer.name in of_nodes:
            reader.refuse(f"peer.{peer.name}", None, "a node has this name too")
        _check_neighbour(reader, peer)
    if cluster is not None:
        _check_cluster(reader, cluster, nodes, neighbours)
        _check_long_lived(reader, cluster, neighbours)
        for node in nodes:
            _check_ways(reader, node, neighbours)
            _check_families(reader, cluster, node, neighbours)
            _check_bfd(reader, cluster, node, neighbours)


def _check_prefixes(
    reader: Reader, pools: Sequence[Pool], nodes: Sequence[NodeOptions], *, are_all_pools_known: bool
) -> None:
    _check_overlaps(reader, [(pool.cidr, f"pool.{pool.name}.cidr") for pool in pools])
    for pool in pools:
        for reserved in pool.reserved:
            if not _is_inside(reserved, pool.cidr):
                reader.refuse(f"pool.{pool.name}.reserved", str(reserved), f"outside the pool {pool.cidr}")
        options = pool.masquerade
        parts = () if options is None else (*options.exclude, *([options.source] if options.source else []))
        for part in parts:
            if part.version != pool.cidr.version:
                reader.refuse(f"pool.{pool.name}.masquerade", str(part), f"not of the family of the pool {pool.cidr}")
    _check_overlaps(reader, [(cidr, f"node.{node.name}.pod_cidrs") for node in nodes for cidr in node.pod_cidrs])
    for node in nodes if are_all_pools_known else ():
        for cidr in node.pod_cidrs:
            ranges = [pool.cidr for pool in pools if pool.cidr.version == cidr.version]
            if ranges and not any(_is_inside(cidr, pool) for pool in ranges):
                reader.refuse(f"node.{node.name}.pod_cidrs", str(cidr), "outside every pool")


def _check_advertised(reader: Reader, nodes: Sequence[NodeOptions]) -> None:
    for node in nodes:
        for network in node.advertise:
            if is_martian(nlri_of(network)):
                reason = "nobody routes there: whoever hears of it takes no notice"
                reader.refuse(f"node.{node.name}.advertise", str(network), reason)


def _check_overlaps(reader: Reader, ranges: Sequence[tuple[IPNetwork, str]]) -> None:
    """Refuse each range that lies in one before it; O(n log n), since networks overlap by nesting only."""
    outer: tuple[IPNetwork, str] | None = None
    order = sorted(ranges, key=lambda row: (row[0].version, int(row[0].network_address), row[0].prefixlen))
    for cidr, key in order:
        if outer is not None and _is_inside(cidr, outer[0]):
            reader.refuse(key, str(cidr), f"overlaps {outer[0]} of {outer[1]}")
        else:
            outer = (cidr, key)


def _owners(nodes: Sequence[NodeOptions]) -> list[tuple[IPAddress, str]]:
    """Return every address of a node with its key; `address` may be repeated as `address6`."""
    own = [(node.address, f"node.{node.name}.address") for node in nodes]
    second = [(n.address6, f"node.{n.name}.address6") for n in nodes if n.address6 not in {None, n.address}]
    return own + [(address, key) for address, key in second if address is not None]


def _check_addresses(reader: Reader, nodes: Sequence[NodeOptions]) -> None:
    owners: dict[IPAddress, str] = {}
    for address, key in _owners(nodes):
        if (owner := owners.setdefault(address, key)) != key:
            reader.refuse(key, str(address), f"also the {owner}")


def taken_by_others(
    nodes: Sequence[NodeOptions], neighbours: Sequence[PeerOptions], pod_cidrs: Sequence[IPNetwork]
) -> dict[IPAddress, str]:
    """Return who has each address that no workload of the node with these blocks can have, in words.

    A neighbour within one of the blocks is none of them: there it can only be a workload, which speaks BGP.
    """
    taken = {
        peer.address: f"peer {peer.name}"
        for peer in neighbours
        if peer.address is not None and not any(peer.address in block for block in pod_cidrs)
    }
    taken |= {peer.source: f"the source of peer {peer.name}" for peer in neighbours if peer.source is not None}
    for node in nodes:
        own = (node.address, node.address6, *node.listen)
        taken |= {each: f"node {node.name}" for each in own if each is not None and not each.is_unspecified}
    return taken


def check_floating(
    reader: Reader,
    floating: Sequence[FloatingIp],
    pools: Sequence[Pool],
    nodes: Sequence[NodeOptions],
    neighbours: Sequence[PeerOptions],
) -> None:
    """Refuse floating addresses that somebody else has, and two by which one workload would leave."""
    taken = taken_by_others(nodes, neighbours, ()) | announced_by(nodes)
    blocks = [block for node in nodes for block in node.pod_cidrs]
    leaving: dict[tuple[str, int], IPAddress] = {}
    for each in floating:
        where, address = f'floating_ip."{each.external}"', each.external
        reason = why_not_external(address, pools, blocks)
        if reason or address in taken:
            reader.refuse(where, None, reason or f"already in use by {taken[address]}")
        other = leaving.setdefault((each.workload, address.version), address) if each.outbound else address
        if other != address:
            reason = f"connections of {each.workload} leave by {other} already"
            reader.refuse(f"{where}.outbound", each.outbound, reason)


def announced_by(nodes: Sequence[NodeOptions]) -> dict[IPAddress, str]:
    """Return who announces each single address as its own, in words."""
    return {
        network.network_address: f"node {node.name}, which announces it as its own"
        for node in nodes
        for network in node.advertise
        if network.prefixlen == network.max_prefixlen
    }


def _check_router_ids(reader: Reader, nodes: Sequence[NodeOptions]) -> None:
    """Refuse two nodes with one BGP identifier, which no two of an AS may share (RFC 6286 §2.1)."""
    owners: dict[int, str] = {}
    for node in sorted(nodes, key=lambda node: node.router_id is not None):  # those that say nothing come first
        router_id, key = router_id_of(node), f"node.{node.name}.router_id"
        if router_id is None:
            reader.refuse(key, None, "missing: needed where `address` is IPv6")
        elif (owner := owners.setdefault(router_id, key)) != key and node.router_id is not None:
            reader.refuse(key, str(ipaddress.IPv4Address(router_id)), f"also the {owner}")


def _check_neighbour_addresses(reader: Reader, nodes: Sequence[NodeOptions], neighbours: Sequence[PeerOptions]) -> None:
    """Refuse an address that two have; two neighbours may share one where no node talks to both."""
    owners = dict(_owners(nodes))
    by_address: dict[IPAddress, list[PeerOptions]] = {}
    for peer in neighbours:
        key = f"peer.{peer.name}.address"
        assert peer.address is not None
        if peer.address in owners:
            reader.refuse(key, str(peer.address), f"also the {owners[peer.address]}")
        for other in by_address.setdefault(peer.address, []):
            both = next((n.name for n in nodes if selects(peer, n) and selects(other, n)), None)
            if both is not None:
                reason = f"also the peer.{other.name}.address, and node {both} talks to both"
                reader.refuse(key, str(peer.address), reason)
                break
        by_address[peer.address].append(peer)


def _check_neighbour(reader: Reader, peer: PeerOptions) -> None:
    where, called = f"peer.{peer.name}", peer.range or peer.address
    if peer.interface is not None:
        _check_interface(reader, peer, where)
        called = None
    if peer.source is not None and called is not None and peer.source.version != called.version:
        kind = "address" if peer.range is None else "range"
        reader.refuse(f"{where}.source", str(peer.source), f"not of the family of {kind} {called}")
    if peer.range is None:
        for key, value in (("pods", [str(each) for each in peer.pods] or None), ("range_limit", _own_limit(peer))):
            if value is not None:
                reader.refuse(f"{where}.{key}", value, "only with range")
    if peer.interface is None and link_of(peer.address) != link_of(peer.source):
        reason = f"address {peer.address} and our end have to be link-local addresses of one link"
        reader.refuse(f"{where}.source", None if peer.source is None else str(peer.source), reason)
    if link_of(peer.address) and max(peer.multihop, peer.ttl_security) > 1:
        key, value = ("multihop", peer.multihop) if peer.multihop else ("ttl_security", peer.ttl_security)
        reader.refuse(f"{where}.{key}", value, f"{peer.address} is one hop away")
    if peer.ttl_security and peer.multihop:
        reader.refuse(f"{where}.multihop", peer.multihop, "not together with ttl_security")
    _check_selector(reader, peer, where)


def _check_interface(reader: Reader, peer: PeerOptions, where: str) -> None:
    """Refuse what a neighbour that is found on its link cannot have."""
    for key, value in (("address", peer.address), ("range", peer.range), ("source", peer.source)):
        if value is not None:
            reader.refuse(f"{where}.{key}", str(value), f"not together with interface {peer.interface}")
    for key, hops in (("multihop", peer.multihop), ("ttl_security", peer.ttl_security)):
        if hops > 1:
            reader.refuse(f"{where}.{key}", hops, "it is one hop away, on its link")


def _check_links(reader: Reader, nodes: Sequence[NodeOptions], neighbours: Sequence[PeerOptions]) -> None:
    """Refuse two neighbours of one node on one link: of whom of them an advertisement is, it does not say."""
    linked = [peer for peer in neighbours if peer.interface is not None]
    for number, peer in enumerate(linked):
        for other in linked[:number]:
            both = next((n.name for n in nodes if selects(peer, n) and selects(other, n)), None)
            if both is not None and peer.interface == other.interface:
                reason = f"also the peer.{other.name}.interface, and node {both} talks to both"
                reader.refuse(f"peer.{peer.name}.interface", peer.interface, reason)
                break


def check_processes(reader: Reader, processes: Sequence[ProcessOptions]) -> None:
    """Refuse programs for nodes that a selector does not say."""
    for process in processes:
        _check_selector(reader, process, f"process.{process.name}")


def _check_selector(reader: Reader, chosen: PeerOptions | ProcessOptions, where: str) -> None:
    try:
        selector.parse(chosen.nodes)
    except selector.SelectorError as error:
        reader.refuse(f"{where}.nodes", chosen.nodes, str(error))


def _own_limit(peer: PeerOptions) -> int | None:
    """Return the `range_limit` where it is not the default."""
    return None if peer.range_limit == PeerOptions.__dataclass_fields__["range_limit"].default else peer.range_limit


def _check_range(reader: Reader, peer: PeerOptions, pools: Sequence[Pool], nodes: Sequence[NodeOptions]) -> None:
    """Refuse a range that is not one of other hosts, and what makes no sense with one."""
    where, network = f"peer.{peer.name}.range", peer.range
    assert network is not None
    if peer.address is not None:
        reader.refuse(where, str(network), f"not together with address {peer.address}")
    if network.is_multicast or (network.version == 6 and network.is_link_local):
        reader.refuse(where, str(network), "not the addresses of hosts that can call")
    if peer.passive is False:
        reader.refuse(f"peer.{peer.name}.passive", None, "false: speakers of a range are never called")
    if peer.port != PeerOptions.__dataclass_fields__["port"].default:
        reader.refuse(f"peer.{peer.name}.port", peer.port, "speakers of a range are never called")
    own = [(address, key) for node in nodes if selects(peer, node) for address, key in _owners([node])]
    own += [(each, f"node.{n.name}.listen") for n in nodes if selects(peer, n) for each in n.listen]
    own += [] if peer.source is None else [(peer.source, f"peer.{peer.name}.source")]
    covered = next((row for row in own if row[0] in network), None)
    if covered is not None:
        reader.refuse(where, str(network), f"covers {covered[0]}, the {covered[1]}: nobody else calls from there")
    blocks = [(pool.cidr, f"pool.{pool.name}") for pool in pools]
    blocks += [(cidr, f"node.{node.name}.pod_cidrs") for node in nodes for cidr in node.pod_cidrs]
    touched = next((row for row in blocks if _touches(network, row[0])), None)
    if touched is not None:
        reader.refuse(where, str(network), f"touches {touched[0]} of {touched[1]}: a workload could call")


def _check_nested_ranges(
    reader: Reader,
    cluster: ClusterOptions | None,
    nodes: Sequence[NodeOptions],
    ranged: Sequence[PeerOptions],
    addressed: Sequence[PeerOptions],
) -> None:
    """Refuse one range of two peers, and who has no password within a range that has one: the kernel asks for it."""
    for place, outer in enumerate(ranged):
        assert outer.range is not None
        for inner in ranged[place + 1 :]:
            both = next((n.name for n in nodes if selects(inner, n) and selects(outer, n)), None)
            if inner.range == outer.range and both is not None:
                reason = f"also the peer.{outer.name}.range, and node {both} talks to both"
                reader.refuse(f"peer.{inner.name}.range", str(inner.range), reason)
        if outer.password is None:
            continue
        reason = f"missing: it lies in the peer.{outer.name}.range {outer.range}, which has one"
        for inner in (*ranged, *addressed):
            around = inner.range or inner.address
            is_inside = inner is not outer and around is not None and _touches(outer.range, around)
            is_inside = is_inside and (inner.range is None or inner.range.prefixlen > outer.range.prefixlen)
            if is_inside and inner.password is None and any(selects(inner, n) and selects(outer, n) for n in nodes):
                reader.refuse(f"peer.{inner.name}.password", None, reason)
        if cluster is None or cluster.password is not None:
            continue
        inside = [n for n in nodes if any(a is not None and a in outer.range for a in (n.address, n.address6))]
        for node, other in ((n, o) for o in inside for n in nodes if n is not o and selects(outer, n)):
            ends = shared_addresses(node, other) if has_session(node, other, cluster) else None
            if ends is not None and ends[1] in outer.range:
                reason = f"missing: node.{other.name} lies in the peer.{outer.name}.range {outer.range}, which has one"
                reader.refuse("cluster.password", None, reason)


def _touches(network: IPNetwork, other: IPNetwork | IPAddress) -> bool:
    """Tell whether two of them have an address in common."""
    if isinstance(other, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return other in network
    return _is_inside(network, other) or _is_inside(other, network)


def _check_ways(reader: Reader, node: NodeOptions, neighbours: Sequence[PeerOptions]) -> None:
    """Refuse a range where the node has no address that its speakers could call."""
    for peer in neighbours:
        if peer.range is None or peer.source is not None or not selects(peer, node):
            continue
        if own_address(node, family_of_address(peer.near)) is None:
            reason = f"node {node.name} has no address of its family: needs source"
            reader.refuse(f"peer.{peer.name}.range", str(peer.range), reason)


def _check_cluster(
    reader: Reader, cluster: ClusterOptions, nodes: Sequence[NodeOptions], neighbours: Sequence[PeerOptions]
) -> None:
    if len({node.address.version for node in nodes}) > 1:
        for number, node in enumerate(nodes):
            for other in nodes[number + 1 :]:
                if has_session(node, other, cluster) and shared_addresses(node, other) is None:
                    reason = f"no address family in common with node.{other.name}"
                    reader.refuse(f"node.{node.name}.address", str(node.address), reason)
    for peer in neighbours:
        chosen = [node for node in nodes if selects(peer, node)]
        external = [node.name for node in chosen if local_asn_of(peer, node, cluster) != peer.asn]
        internal = [node.name for node in chosen if node.name not in external]
        if peer.role and internal:
            reader.refuse(f"peer.{peer.name}.role", peer.role, f"needs eBGP, and node {internal[0]} has the same AS")
        if peer.reflector_client and external:
            reason = f"needs iBGP, and node {external[0]} has another AS"
            reader.refuse(f"peer.{peer.name}.reflector_client", peer.reflector_client, reason)


def _check_long_lived(reader: Reader, cluster: ClusterOptions, neighbours: Sequence[PeerOptions]) -> None:
    """Refuse long-lived graceful restart where nothing is graceful: the one is never offered alone (RFC 9494 §3)."""
    tables: list[tuple[str, int | None, int | None]] = [
        ("cluster", cluster.long_lived_graceful_restart, cluster.graceful_restart)
    ]
    tables += [(f"peer.{p.name}", p.long_lived_graceful_restart, p.graceful_restart) for p in neighbours]
    for where, seconds, restart in tables:
        if seconds and not (cluster.graceful_restart if restart is None else restart):
            reader.refuse(f"{where}.long_lived_graceful_restart", seconds, "needs graceful_restart")


def _check_bfd(reader: Reader, cluster: ClusterOptions, node: NodeOptions, neighbours: Sequence[PeerOptions]) -> None:
    """Refuse BFD where the node has no address to send from."""
    chosen = {peer.name: peer for peer in neighbours if peer.bfd is not None and selects(peer, node) and peer.is_found}
    for peer in peers_of(node, cluster, (), chosen.values()):  # of a range it is refused already
        if peer.local_address is None:
            reason = f"node {node.name} has no address of its family: needs source"
            reader.refuse(f"peer.{peer.name}.bfd", True, reason)


def _check_families(
    reader: Reader, cluster: ClusterOptions, node: NodeOptions, neighbours: Sequence[PeerOptions]
) -> None:
    """Refuse a neighbour with whom no family is left: the node has no address that could be a next hop."""
    chosen = [peer for peer in neighbours if selects(peer, node)]
    made: list[Peer] = [*peers_of(node, cluster, (), chosen)]
    made += [each.template for each in ranges_of(node, cluster, chosen)]
    silent = {peer.name for peer in made if not peer.families}
    for peer in chosen:
        if peer.name in silent:
            said = [family.label for family in peer.families]
            reader.refuse(f"peer.{peer.name}.families", said, f"node {node.name} has no address of it")


def selects(chosen: PeerOptions | ProcessOptions, node: NodeOptions) -> bool:
    """Tell whether the neighbour or the program is one of this node's."""
    try:
        return selector.matches(_selector(chosen.nodes), dict(node.labels))
    except selector.SelectorError:
        return False  # refused where it stands


@functools.lru_cache(maxsize=1024)
def _selector(text: str) -> selector.Selector:
    """Return what a text says; it is asked of every node, several times."""
    return selector.parse(text)


def _is_inside(inner: IPNetwork, outer: IPNetwork) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)
