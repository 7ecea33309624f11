"""The peers a node should have, from the options of the cluster file."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.peering.bfd import Watched
from bgpmesh.peering.mesh import peers_of, warnings_of, watched_of
from bgpmesh.peering.options import Bfd, ClusterOptions, Hops, Limit, NodeOptions, Password, PeerOptions, Ttl
from bgpmesh.peering.peer import AddPath, Peer
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.nlri import ROUTED, Family, IPAddress
from bgpmesh.route.path import Role

CLUSTER = ClusterOptions(Asn(64512))


def address(text: str) -> IPAddress:
    """Return an address."""
    return ipaddress.ip_address(text)


def number(text: str) -> RouterId:
    """Return a router id."""
    return RouterId(int(ipaddress.IPv4Address(text)))


N1 = NodeOptions("n1", address("192.0.2.1"), address("2001:db8::1"))
N2 = NodeOptions("n2", address("192.0.2.2"), address("2001:db8::2"))
N3 = NodeOptions("n3", address("192.0.2.10"))
RR = replace(N2, name="rr", reflector=True)
TOR = PeerOptions("tor", address("192.0.2.254"), Asn(65001))


def only(node: NodeOptions, peer: PeerOptions, cluster: ClusterOptions = CLUSTER) -> Peer:
    """Return the one peer of a node with one neighbour."""
    (made,) = peers_of(node, cluster, (node,), (peer,))
    return made


def shape(node: NodeOptions, *others: NodeOptions, cluster: ClusterOptions = CLUSTER) -> dict[str, Role]:
    """Return who a node talks to, in what role."""
    return {str(peer.name): peer.role for peer in peers_of(node, cluster, (node, *others), ())}


def test_a_client_calls_its_reflector_whatever_their_addresses() -> None:
    """The reflector may know it by a range alone, and cannot call it then; reflectors have the order of addresses."""
    cluster = ClusterOptions(Asn(64512), topology="reflectors")
    second = replace(N3, name="rr2", reflector=True)
    for client in (N1, replace(N3, name="n9", address=address("192.0.2.99"))):
        nodes = (client, RR, second)
        assert [peer.is_passive for peer in peers_of(client, cluster, nodes, ())] == [False, False]
        made = {str(peer.name): peer.is_passive for peer in peers_of(RR, cluster, nodes, ())}
        assert made == {client.name: True, "rr2": True}


def test_bfd_watches_the_nodes_of_the_cluster_and_the_neighbours_that_say_so() -> None:
    """Between the ends of the BGP session; how far away a peer is follows from that session, or is not known (0)."""
    cluster, quick = replace(CLUSTER, bfd=Bfd()), Bfd(100, 5)
    other_as = replace(N3, asn=Asn(64513))
    neighbours = (
        replace(TOR, bfd=quick),
        replace(TOR, name="far", address=address("2001:db8::fd"), bfd=quick, multihop=Ttl(4)),
        replace(TOR, name="guarded", address=address("192.0.2.252"), bfd=quick, ttl_security=Hops(2)),
        replace(TOR, name="inside", address=address("192.0.2.251"), asn=Asn(64512), bfd=quick),
        replace(TOR, name="told", address=address("192.0.2.250"), asn=Asn(64512), bfd=replace(quick, hops=1)),
        replace(TOR, name="unwatched", address=address("192.0.2.249")),
        replace(TOR, name="elsewhere", address=address("192.0.2.248"), bfd=Bfd(), source=address("192.0.2.9")),
    )
    assert set(watched_of(N1, cluster, (N1, N2, other_as), neighbours)) == {
        Watched("n2", "192.0.2.1", "192.0.2.2", 0, 300, 3),
        Watched("n3", "192.0.2.1", "192.0.2.10", 1, 300, 3),
        Watched("tor", "192.0.2.1", "192.0.2.254", 1, 100, 5),
        Watched("far", "2001:db8::1", "2001:db8::fd", 4, 100, 5),
        Watched("guarded", "192.0.2.1", "192.0.2.252", 2, 100, 5),
        Watched("inside", "192.0.2.1", "192.0.2.251", 0, 100, 5),
        Watched("told", "192.0.2.1", "192.0.2.250", 1, 100, 5),
        Watched("elsewhere", "192.0.2.9", "192.0.2.248", 1, 300, 3),
    }
    assert watched_of(N1, CLUSTER, (N1, N2), (TOR,)) == ()


def test_bfd_that_is_slower_than_the_hold_timer_is_warned_of() -> None:
    """By name; a hold time of 0 is none."""
    slow = Bfd(3000, 3)
    said = warnings_of(N1, replace(CLUSTER, bfd=slow), (N1, N2), (replace(TOR, bfd=slow, hold_time=0, imports=()),))
    assert [warning for warning in said if "bfd" in warning] == [
        "cluster.bfd takes as long to find that a peer is gone as the hold time of 9 s"
    ]


def test_in_a_mesh_every_node_talks_to_every_other() -> None:
    """All are non-clients of each other, and nobody reflects."""
    peers = peers_of(N2, CLUSTER, (N1, N2, N3), ())
    assert [(peer.name, peer.role, peer.cluster_id, peer.in_cluster) for peer in peers] == [
        ("n1", Role.NON_CLIENT, None, True),
        ("n3", Role.NON_CLIENT, None, True),
    ]


def test_the_numerically_lower_address_waits() -> None:
    """192.0.2.2 is below 192.0.2.10, as a number; exactly one of two ends is passive."""
    assert [peer.is_passive for peer in peers_of(N2, CLUSTER, (N1, N2, N3), ())] == [False, True]
    assert [peer.is_passive for peer in peers_of(N3, CLUSTER, (N1, N2, N3), ())] == [False, False]


def test_clients_talk_to_reflectors_only() -> None:
    """Reflectors mesh among themselves and have the others as clients."""
    cluster = replace(CLUSTER, topology="reflectors")
    second = replace(N3, name="rr2", reflector=True)
    client = replace(N1, name="c")
    assert shape(client, N1, RR, second, cluster=cluster) == {"rr": Role.NON_CLIENT, "rr2": Role.NON_CLIENT}
    expected = {"c": Role.CLIENT, "n1": Role.CLIENT, "rr2": Role.NON_CLIENT}
    assert shape(RR, client, N1, second, cluster=cluster) == expected


def test_reflectors_pass_on_several_paths_and_nodes_send_their_own() -> None:
    """A reflector sends, also to another one; everybody takes from reflectors; `false` and a mesh have none of it."""
    cluster = replace(CLUSTER, topology="reflectors", add_path=AddPath(4))
    second = replace(N3, name="rr2", reflector=True)

    def offered(node: NodeOptions, cluster: ClusterOptions) -> dict[str, AddPath | None]:
        return {peer.name: peer.add_path for peer in peers_of(node, cluster, (N1, RR, second), ())}

    assert offered(N1, cluster) == {"rr": AddPath(0), "rr2": AddPath(0)}
    assert offered(RR, cluster) == {"n1": AddPath(4, receive=False), "rr2": AddPath(4)}
    assert set(offered(RR, replace(cluster, add_path=None)).values()) == {None}
    assert set(offered(RR, replace(cluster, topology="mesh")).values()) == {None}


def test_the_cluster_id_of_a_reflector_defaults_to_its_router_id() -> None:
    """Clients have none; a configured one counts."""
    cluster = replace(CLUSTER, topology="reflectors")

    def cluster_ids(node: NodeOptions, other: NodeOptions) -> set[RouterId | None]:
        return {peer.cluster_id for peer in peers_of(node, cluster, (node, other), ())}

    assert cluster_ids(RR, N1) == {number("192.0.2.2")}
    assert cluster_ids(replace(RR, cluster_id=RouterId(7)), N1) == {RouterId(7)}
    assert cluster_ids(N1, RR) == {None}


def test_without_a_topology_there_are_only_neighbours() -> None:
    """Topology none leaves [peer.*]."""
    peers = peers_of(N1, replace(CLUSTER, topology="none"), (N1, N2), (TOR,))
    assert [peer.name for peer in peers] == ["tor"]


def test_nodes_of_different_ases_trust_each_other() -> None:
    """They are external, import all and export their own; RFC 8212 is for neighbours outside."""
    (peer,) = peers_of(N1, CLUSTER, (N1, replace(N2, asn=Asn(64513))), ())
    assert (peer.role, peer.asn, peer.local_asn) == (Role.EXTERNAL, 64513, 64512)
    assert (peer.imports, peer.exports, peer.enforce_first_as, peer.in_cluster) == (("all",), ("own",), True, True)


def test_a_family_is_offered_where_we_can_be_its_next_hop() -> None:
    """IPv6 needs `address6`, whatever the session runs over."""
    assert peers_of(N1, CLUSTER, (N1, N3), ())[0].next_hops == (
        (Family.IPV4, address("192.0.2.1")),
        (Family.IPV6, address("2001:db8::1")),
    )
    assert peers_of(N3, CLUSTER, (N1, N3), ())[0].families == (Family.IPV4,)


def test_an_ipv6_neighbour_is_met_at_our_ipv6_address() -> None:
    """The session runs over IPv6, and IPv4 routes have our IPv4 address as next hop."""
    peer = only(N1, replace(TOR, address=address("2001:db8::fe")))
    assert (peer.local_address, peer.families) == (address("2001:db8::1"), (Family.IPV4, Family.IPV6))


def test_a_node_with_an_ipv6_address_alone_is_next_hop_of_both_families() -> None:
    """`address` may be IPv6; the router id has to be given then. IPv4 goes to who takes such next hops (RFC 8950)."""
    node = NodeOptions("six", address("2001:db8::6"), router_id=RouterId(6))
    (peer,) = peers_of(node, CLUSTER, (node, N1), ())
    assert (peer.address, peer.families, peer.is_passive) == (address("2001:db8::1"), ROUTED, False)
    assert dict(peer.next_hops) == dict.fromkeys(ROUTED, node.address)


def test_what_a_neighbour_does_not_say_holds_from_the_cluster() -> None:
    """Timers and limits; the cluster's password and port are the nodes' own."""
    cluster = replace(CLUSTER, hold_time=30, graceful_restart=60, max_prefixes=7, port=1179, password=Password("x"))
    peer = only(N1, TOR, cluster)
    assert (peer.hold_time, peer.graceful_restart, peer.max_prefixes, peer.max_prefixes_restart) == (30, 60, 7, 60)
    assert (peer.password, peer.port, peer.listen_port) == (None, 179, 1179)
    said = replace(TOR, hold_time=0, graceful_restart=0, max_prefixes=Limit(9, 8, 5), port=2179, password=Password("y"))
    peer = only(N1, said, cluster)
    assert (peer.hold_time, peer.graceful_restart, peer.max_prefixes, peer.max_prefixes_restart) == (0, 0, 9, 5)
    assert peer.max_prefixes_warn == 8
    assert (peer.password, peer.port, peer.listen_port) == ("y", 2179, 1179)


def test_nothing_goes_either_way_over_ebgp_until_it_is_said() -> None:
    """RFC 8212, for each direction alone; iBGP imports and exports all."""
    assert (only(N1, TOR).imports, only(N1, TOR).exports) == (("none",), ("none",))
    half = only(N1, replace(TOR, imports=("all",)))
    assert (half.imports, half.exports) == (("all",), ("none",))
    inside = only(N1, replace(TOR, asn=Asn(64512)))
    assert (inside.imports, inside.exports, inside.role) == (("all",), ("all",), Role.NON_CLIENT)


def test_a_reflector_client_makes_this_node_reflect() -> None:
    """Whatever the topology, and towards all of its peers."""
    client = replace(TOR, asn=Asn(64512), reflector_client=True)
    peers = peers_of(N1, CLUSTER, (N1, N2), (client,))
    assert [(peer.name, peer.role, peer.cluster_id) for peer in peers] == [
        ("n2", Role.NON_CLIENT, number("192.0.2.1")),
        ("tor", Role.CLIENT, number("192.0.2.1")),
    ]


def test_single_hop_and_the_first_as_follow_from_the_options() -> None:
    """EBGP is single-hop without multihop, and checks the first AS unless told otherwise."""
    assert (only(N1, TOR).is_single_hop, only(N1, TOR).enforce_first_as) == (True, True)
    far = only(N1, replace(TOR, multihop=Ttl(4), enforce_first_as=False))
    assert (far.is_single_hop, far.multihop, far.enforce_first_as) == (False, 4, False)
    assert only(N1, replace(TOR, ttl_security=Hops(2))).ttl_security == 2


def test_source_and_listen_override_the_nodes_address() -> None:
    """The source is our end and next hop of its family; `listen` of the same family is where calls are accepted."""
    node = replace(N1, listen=(address("::"), address("0.0.0.0")))
    peer = only(node, replace(TOR, source=address("198.51.100.1")))
    assert (peer.local_address, peer.listen_address) == (address("198.51.100.1"), address("0.0.0.0"))
    assert peer.next_hops == ((Family.IPV4, address("198.51.100.1")), (Family.IPV6, address("2001:db8::1")))


@pytest.mark.parametrize(
    ("node", "cluster", "peer", "expected"),
    [
        (N1, CLUSTER, replace(TOR, imports=("all",), exports=("own",)), []),
        (N1, CLUSTER, replace(TOR, asn=Asn(64512)), []),
        (
            N1,
            CLUSTER,
            replace(TOR, imports=("all",)),
            ["peer.tor is eBGP without export: nothing is announced (RFC 8212)"],
        ),
        (
            N3,
            CLUSTER,
            replace(TOR, asn=Asn(64512), address=address("2001:db8::fe")),
            ["peer.tor is not offered ipv6: node.n3 has no address of it"],
        ),
        (
            replace(N3, pod_cidrs=(ipaddress.ip_network("fd00::/64"),)),
            CLUSTER,
            replace(TOR, asn=Asn(64512)),
            ["node.n3 has IPv6 prefixes and no address6: they are announced to nobody"],
        ),
        (
            replace(N3, address=address("2001:db8::3"), pod_cidrs=(ipaddress.ip_network("10.244.3.0/26"),)),
            CLUSTER,
            replace(TOR, asn=Asn(64512), families=(Family.IPV6,)),
            ["node.n3 has IPv4 prefixes and no IPv4 address: who takes no IPv6 next hops does not hear of them"],
        ),
        (
            RR,
            CLUSTER,
            replace(TOR, asn=Asn(64512)),
            ["node.rr.reflector does nothing with cluster.topology = mesh"],
        ),
        (
            N1,
            replace(CLUSTER, topology="reflectors"),
            replace(TOR, asn=Asn(64512)),
            ["cluster.topology is reflectors, and no node has reflector = true: there is no session"],
        ),
        (
            N1,
            replace(CLUSTER, topology="none", identity=True),
            replace(TOR, asn=Asn(64512)),
            ["cluster.identity does nothing with cluster.topology = none: there are no sessions between nodes"],
        ),
        (
            replace(RR, asn=Asn(64513)),
            replace(CLUSTER, topology="reflectors", identity=True),
            replace(TOR, asn=Asn(64513)),
            ["node.rr.asn is not the cluster's: no reflector passes on who its workloads are"],
        ),
    ],
)
def test_what_is_probably_not_meant_is_said(
    node: NodeOptions, cluster: ClusterOptions, peer: PeerOptions, expected: list[str]
) -> None:
    """Allowed, and most likely a mistake."""
    assert list(warnings_of(node, cluster, (node,), (peer,))) == expected
