"""What peers hear: who, as what, in which batches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgpmesh.peering.peer import AddPath
from bgpmesh.rib import export
from bgpmesh.rib.export import Batch
from bgpmesh.route.attributes import Asn, AsPath, PathAttributes, RouterId, SegmentKind
from bgpmesh.route.nlri import Family, parse_nlri, prefix_text
from bgpmesh.route.path import Blackhole, PeerName, Role
from tests.unit.rib.ribworld import (
    ASN,
    CLUSTER_ID,
    ROUTER_ID,
    World,
    address,
    changed,
    external,
    host,
    internal,
    key,
    sequence,
    via,
)

P, Q = "10.1.0.0/16", "10.2.0.0/16"


def reflecting() -> World:
    """Return a reflector with two clients, two non-clients and two external peers."""
    peers = [internal(name, 20 + at, Role.CLIENT, CLUSTER_ID) for at, name in enumerate(("c1", "c2"))]
    peers += [internal(name, 30 + at, Role.NON_CLIENT, CLUSTER_ID) for at, name in enumerate(("n1", "n2"))]
    peers += [external("e1", "192.0.2.41"), external("e2", "192.0.2.42", 65002)]
    return World(*peers, cluster_id=CLUSTER_ID)


@pytest.mark.parametrize(
    ("source", "hearers"),
    [
        ("c1", {"c2", "n1", "n2", "e1", "e2"}),
        ("n1", {"c1", "c2", "e1", "e2"}),
        ("e1", {"c1", "c2", "n1", "n2", "e2"}),
        ("local", {"c1", "c2", "n1", "n2", "e1", "e2"}),
    ],
)
def test_a_reflector_passes_on_as_rfc_4456_says(source: str, hearers: set[str]) -> None:
    """From a client to all, from a non-client to clients, from outside and ourselves to all; never back."""
    world = reflecting()
    if source == "local":
        world.rib.originate(key(P), Blackhole(), advertise=True)
    else:
        world.hear(source, via("192.0.2.9", 65001), P)
    assert hearers == {name for name in ("c1", "c2", "n1", "n2", "e1", "e2") if world.heard(name, P)}


def test_without_reflection_ibgp_is_not_passed_on_to_ibgp() -> None:
    """In a full mesh only what is ours or came from outside goes to the others."""
    world = World(internal("a", 11), internal("b", 12), external("e", "192.0.2.41"))
    world.hear("a", via("192.0.2.9"), P)
    world.hear("e", via("192.0.2.41", 65001), Q)
    assert world.take("b") == [("192.0.2.41", [Q])]
    assert [hop for hop, prefixes in world.take("e") if P in prefixes] == ["192.0.2.9"]


def test_a_link_local_next_hop_is_passed_on_to_nobody() -> None:
    """It means another host, or none, on any other link: ours stands in its place, within the AS too."""
    link_local = replace(
        external("l", "192.0.2.43"),
        address=address("fe80::9%eth2"),
        next_hops=((Family.IPV4, address("fe80::1%eth2")), (Family.IPV6, address("fe80::1%eth2"))),
    )
    world = World(internal("a", 11), external("e", "192.0.2.41"), link_local)
    world.rib.ways.links_named({2: "eth2"}, {})
    world.rib.host_routes_changed([host("fe80::/64", 2)], [])
    world.hear("l", via("fe80::9%eth2", 65001), P)
    world.hear("e", via("192.0.2.41", 65002), Q)
    assert [hop for hop, prefixes in world.take("a") if P in prefixes] == ["192.0.2.1"]
    assert [hop for hop, prefixes in world.take("e") if P in prefixes] == ["192.0.2.1"]
    assert world.take("l") == [], "who takes no IPv6 next hops for IPv4 hears of no IPv4"


def test_reflected_attributes() -> None:
    """ORIGINATOR_ID is set once, CLUSTER_LIST grows in front, the rest is unchanged (RFC 4456 §8)."""
    world = reflecting()
    world.hear("c1", changed(via("192.0.2.9", 65009), med=5), P)
    world.hear("n1", changed(via("192.0.2.9"), originator_id=RouterId(77), cluster_list=(RouterId(5),)), Q)
    first, second = world.heard("c2", P), world.heard("c2", Q)
    assert first is not None
    assert second is not None
    assert (RouterId(20), (CLUSTER_ID,), 100, 5) == (
        first.originator_id,
        first.cluster_list,
        first.local_pref,
        first.med,
    )
    assert (address("192.0.2.9"), sequence(65009)) == (first.next_hop, first.as_path)
    assert (RouterId(77), (CLUSTER_ID, RouterId(5))) == (second.originator_id, second.cluster_list)


def test_who_made_a_route_does_not_hear_it_from_us() -> None:
    """A client does not get its own route back by way of another reflector."""
    world = reflecting()
    world.hear("n1", changed(via("192.0.2.9"), originator_id=RouterId(20), cluster_list=(RouterId(5),)), P)
    assert world.heard("c1", P) is None
    assert world.heard("c2", P) is not None


def test_nobody_hears_of_a_route_through_its_own_address() -> None:
    """The next hop would be the receiver (RFC 4271 §5.1.3): it is not told, and what it was told is withdrawn."""
    world = World(internal("a", 11), external("e", "192.0.2.41"), external("f", "192.0.2.42"))
    world.hear("a", via("192.0.2.9"), P)
    assert world.take("e") == [("192.0.2.9", [P])]
    world.hear("a", via("192.0.2.41"), P)
    assert world.take("e") == [(None, [P])]
    assert world.heard("e", P) is None
    assert world.heard("f", P) is not None


def test_what_crosses_an_external_session() -> None:
    """Our AS in front; LOCAL_PREF, MED, ORIGINATOR_ID, CLUSTER_LIST and what is not transitive stay behind."""
    world = reflecting()
    rich = changed(
        via("198.51.100.9", 65009),
        med=5,
        local_pref=200,
        originator_id=RouterId(77),
        cluster_list=(RouterId(5),),
        ext_communities=(b"\x00" * 8, b"\x40" + b"\x00" * 7),
        other=((0xC0, 99, b"x"), (0x80, 98, b"y"), (0xC0, 35, b"\0\0\0\7"), (0xE0, 25, bytes(20))),
    )
    world.rib.host_routes_changed([host("198.51.100.0/24", 5)], [])
    world.hear("c1", rich, P)
    told = world.heard("e1", P)
    assert told is not None
    expected = PathAttributes(
        as_path=sequence(ASN, 65009),
        next_hop=address("192.0.2.1"),
        ext_communities=(b"\x00" * 8,),
        other=((0xE0, 99, b"x"), (0xC0, 35, b"\0\0\0\7"), (0xE0, 25, bytes(20))),  # RFC 4271 §5: of the first alone
    )
    assert expected.same_as(told)


def test_sets_that_differ_in_the_partial_bit_alone_are_two() -> None:
    """Peers hear of the change, and filters and reflection keep the bit (RFC 4271 §5)."""
    world = reflecting()
    plain = changed(via("192.0.2.9", 65001), communities=(7,))
    for said in (plain, changed(plain, partial=(8,)), plain):
        world.hear("c1", said, P)
        assert [len(told) for _, told in world.take("e1")] == [1]
        for name in ("e1", "n1"):
            assert changed(world.heard(name, P)).partial == said.partial


def test_confederation_segments_stay_behind() -> None:
    """A neighbour outside would have to take them for malformed (RFC 5065 §5); inside they go on."""
    world = reflecting()
    members = ((SegmentKind.CONFED_SEQUENCE, (Asn(64513),)), (SegmentKind.CONFED_SET, (Asn(64514),)))
    inside = changed(via("192.0.2.9"), as_path=AsPath((*members, *sequence(65009).segments)))
    world.hear("c1", inside, P)
    assert [sequence(ASN, 65009), inside.as_path] == [
        heard and heard.as_path for heard in (world.heard("e1", P), world.heard("c2", P))
    ]


def test_our_own_med_goes_out() -> None:
    """What we set on our own prefixes is ours to say."""
    world = World(external("e", "192.0.2.41"))
    world.rib.originate(key(P), Blackhole(), advertise=True, attributes=PathAttributes(med=7))
    told = world.heard("e", P)
    assert told is not None
    assert (7, sequence(ASN), address("192.0.2.1")) == (told.med, told.as_path, told.next_hop)


@pytest.mark.parametrize(
    ("mode", "received", "expected"),
    [
        ("auto", "192.0.2.9", "192.0.2.9"),
        ("auto", "198.51.100.9", "192.0.2.1"),
        ("self", "192.0.2.9", "192.0.2.1"),
        ("keep", "198.51.100.9", "198.51.100.9"),
    ],
)
def test_the_next_hop_to_an_external_peer(mode: str, received: str, expected: str) -> None:
    """Auto keeps a third party's on the shared subnet (RFC 4271 §5.1.3), else it is ours; the others do as they say."""
    world = World(internal("a", 11), replace(external("e", "192.0.2.41"), next_hop=mode))
    world.rib.host_routes_changed([host("198.51.100.0/24", 5)], [])
    world.hear("a", via(received), P)
    told = world.heard("e", P)
    assert told is not None
    assert address(expected) == told.next_hop


def test_a_shared_subnet_that_goes_changes_the_next_hop_once() -> None:
    """The peer hears the prefixes whose next hop changed, in one batch, and nothing else."""
    world = World(internal("a", 11), external("e", "203.0.113.2"))
    shared = host("203.0.113.0/24", 6)
    world.rib.host_routes_changed([shared, host("198.51.100.0/24", 5)], [])
    world.hear("a", via("203.0.113.9"), P)
    world.hear("a", via("198.51.100.9"), Q)
    assert world.take("e") == [("203.0.113.9", [P]), ("192.0.2.1", [Q])]
    world.rib.host_routes_changed([host("203.0.113.0/28", 6)], [])
    assert [said for said in world.take("e") if Q in said[1]] == []
    world.rib.host_routes_changed([host("203.0.113.2/32", 6), host("203.0.113.0/30", 7)], [])
    assert world.take("e") == [("192.0.2.1", [P])]


def test_without_an_own_address_own_prefixes_of_a_family_stay_home() -> None:
    """There is no next hop to give them, so nobody is told."""
    world = World(replace(internal("a", 11), next_hops=((Family.IPV4, address("192.0.2.1")),)))
    world.rib.originate(key("2001:db8:5::/48"), Blackhole(), advertise=True)
    world.rib.originate(key(P), Blackhole(), advertise=True)
    assert world.take("a") == [("192.0.2.1", [P])]


def test_what_is_not_to_be_advertised_is_not() -> None:
    """A local prefix without `advertise` stays home, also when it was told before."""
    world = World(internal("a", 11))
    world.rib.originate(key(P), Blackhole(), advertise=True)
    assert world.take("a") == [("192.0.2.1", [P])]
    world.rib.originate(key(P), Blackhole(), advertise=False)
    assert world.take("a") == [(None, [P])]


@pytest.mark.parametrize(
    ("community", "hearers"), [(0xFFFFFF01, {"n1"}), (0xFFFFFF02, set()), (0xFFFFFF03, {"n1"}), (1, {"n1", "e1"})]
)
def test_well_known_communities(community: int, hearers: set[str]) -> None:
    """NO_EXPORT and NO_EXPORT_SUBCONFED stop at our border, NO_ADVERTISE here (RFC 1997)."""
    world = reflecting()
    world.hear("c1", changed(via("192.0.2.9"), communities=(community,)), P)
    assert hearers == {name for name in ("n1", "e1") if world.heard(name, P)}


@pytest.mark.parametrize(("exports", "heard"), [(("own",), [Q]), (("none",), []), (("all",), [P, Q])])
def test_export_filters(exports: tuple[str, ...], heard: list[str]) -> None:
    """Own lets only this node's prefixes out, none nothing, all everything."""
    world = World(internal("a", 11), replace(external("e", "192.0.2.41"), exports=exports))
    world.hear("a", via("192.0.2.9"), P)
    world.rib.originate(key(Q), Blackhole(), advertise=True)
    assert heard == sorted(prefix for _, prefixes in world.take("e") for prefix in prefixes)


def test_prefixes_with_the_same_attributes_share_a_batch_and_peers_share_batches() -> None:
    """One batch for each attribute set, the very same object for every peer of the group."""
    world = reflecting()
    for number in range(10):
        world.hear("n1", changed(via("192.0.2.9"), med=number % 2), f"10.{number}.0.0/16")
    world.work()
    one, other = world.rib.take(PeerName("c1"), 1000), world.rib.take(PeerName("c2"), 1000)
    assert len(one) == 2
    assert all(a is b for a, b in zip(one, other, strict=True))


def test_late_comers_share_their_first_batches_too() -> None:
    """Peers that come up after the table is full get the same packed batches."""
    world = reflecting()
    world.hear("n1", via("192.0.2.9"), P, Q)
    world.take("c1")
    late = [internal(name, at, Role.CLIENT, CLUSTER_ID) for name, at in (("c3", 51), ("c4", 52))]
    for peer in late:
        world.up(peer)
    world.work()
    one, other = (world.rib.take(peer.name, 1000) for peer in late)
    assert [len(batch.nlris) for batch in one if isinstance(batch, export.Batch)] == [2]
    assert all(a is b for a, b in zip(one, other, strict=True))


def test_flaps_between_two_turns_are_one_change_or_none() -> None:
    """Only the latest state is sent, and nothing if that is what was told."""
    world = reflecting()
    world.hear("n1", via("192.0.2.9"), P)
    assert world.take("c1") == [("192.0.2.9", [P])]
    world.take("c2")
    for med in range(10):
        world.hear("n1", changed(via("192.0.2.9"), med=med), P)
        world.work()
    world.lose("n1", P)
    world.work()
    world.hear("n1", via("192.0.2.9"), P)
    assert world.take("c1") == []


def test_end_of_rib_follows_everything_once() -> None:
    """It waits for what is still to be thought and sent, comes once for each family, and only when asked for."""
    world = World(internal("a", 11))
    world.rib.originate(key(P), Blackhole(), advertise=True)
    assert world.take("a") == [("192.0.2.1", [P])]
    world.rib.originate(key(Q), Blackhole(), advertise=True)
    world.rib.send_end_of_rib(PeerName("a"))
    assert world.rib.take(PeerName("a"), 10) == [], "the prefix is not thought about yet"
    assert world.take("a") == [("192.0.2.1", [Q]), ("end", ["ipv4"]), ("end", ["ipv6"])]
    assert world.take("a") == []


def test_refresh_sends_a_family_again_to_that_peer_only() -> None:
    """All of the family, once, and the others hear nothing (RFC 2918)."""
    world = World(internal("a", 11), internal("b", 12))
    world.rib.originate(key(P), Blackhole(), advertise=True)
    world.rib.originate(key("2001:db8:5::/48"), Blackhole(), advertise=True)
    for name in ("a", "b"):
        world.take(name)
    world.rib.refresh(PeerName("a"), Family.IPV4)
    assert world.take("a") == [("192.0.2.1", [P])]
    assert (world.take("a"), world.take("b")) == ([], [])


def test_a_peer_that_takes_the_lead_hears_a_withdrawal() -> None:
    """When the best path becomes a peer's own, that peer loses the other's; the others hear what changed."""
    world = reflecting()
    world.hear("n1", via("192.0.2.9"), P)
    assert world.take("c1") == [("192.0.2.9", [P])]
    world.take("c2")
    world.hear("c1", changed(via("192.0.2.10"), local_pref=200), P)
    assert world.take("c1") == [(None, [P])]
    assert world.take("c2") == [("192.0.2.10", [P])]


def test_a_slow_peer_costs_prefixes_not_churn(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one peer never reads, a flapping prefix leaves a bounded log, and it hears the latest at last."""
    monkeypatch.setattr(export, "LOG_SLACK", 10)
    world = reflecting()
    for med in range(200):
        world.hear("n1", changed(via("192.0.2.9"), med=med), P)
        world.take("c1")
    (group,) = [g for g in world.rib._groups.by_view.values() if g.view.role is Role.CLIENT]
    assert len(group._log) <= 11
    assert len(group.members[PeerName("c2")].dirty) <= 1
    assert world.take("c2") == [("192.0.2.9", [P])]
    told = world.heard("c2", P)
    assert told is not None
    assert told.med == 199


def test_sets_that_wait_for_a_slow_peer_are_looked_over_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody reads all are needed: a look over them for each new one would take minutes of a large table."""
    monkeypatch.setattr(export, "SPARE_ADVERTS", 5)
    forget, looks = export.Group._forget_unused, list[int]()

    def look(group: export.Group) -> None:
        looks.append(len(group._adverts))
        forget(group)

    monkeypatch.setattr(export.Group, "_forget_unused", look)
    world = World(external("e", "192.0.2.41"), internal("slow", 12))
    for number in range(200):
        world.hear("e", changed(via("192.0.2.41", 65001), communities=(number,)), f"10.{number}.0.0/16")
    world.work()
    assert 0 < len(looks) < 20
    assert len(world.take("slow")) == 200


def test_a_family_that_was_not_agreed_on_is_not_sent() -> None:
    """A session of IPv4 only hears IPv4 only, and its End-of-RIB too."""
    world = World(replace(internal("a", 11), families=(Family.IPV4,)))
    world.rib.originate(key(P), Blackhole(), advertise=True)
    world.rib.originate(key("2001:db8:5::/48"), Blackhole(), advertise=True)
    world.rib.send_end_of_rib(PeerName("a"))
    assert world.take("a") == [("192.0.2.1", [P]), ("end", ["ipv4"])]
    assert world.rib.counts(PeerName("a"))[Family.IPV4] == (0, 0, 1)


def test_a_peer_that_changes_groups_hears_what_the_new_group_was_told_before() -> None:
    """Its old group lagged behind its new one: the difference is made up, and nothing is said twice."""
    small, wide = host("203.0.113.0/28", 6), host("203.0.113.0/24", 6)
    world = World(internal("a", 11), external("e1", "203.0.113.2"), external("e2", "203.0.113.200"))
    world.rib.host_routes_changed([small, wide], [])
    world.hear("a", via("192.0.2.9"), P)
    assert world.take("e1") == [("192.0.2.1", [P])]
    world.hear("a", via("192.0.2.9"), Q)
    assert world.take("e2") == [("192.0.2.1", [P, Q])]
    world.rib.host_routes_changed([], [small])
    assert world.take("e1") == [("192.0.2.1", [Q])]


def test_half_a_new_groups_table_withdraws_nothing() -> None:
    """A peer moved to a group that is still being filled waits, rather than hear withdrawals and all again."""
    world = World(internal("a", 11), external("e", "203.0.113.2"), external("stays", "198.51.100.2"))
    world.hear("a", via("192.0.2.9"), P)
    assert world.take("e") == [("192.0.2.1", [P])]
    world.rib.host_routes_changed([host("203.0.113.0/24", 6)], [])
    assert world.rib.take(PeerName("e"), 10) == []
    assert world.take("e") == []


def test_a_group_that_sees_otherwise_as_a_whole_is_told_as_one() -> None:
    """By a reload that is about all of them each hears one and the same batch; where it is not, each hears its own."""
    clients = [internal(f"c{number}", number, Role.CLIENT, CLUSTER_ID) for number in (2, 3, 4)]
    world = World(internal("n1", 11), *clients, cluster_id=CLUSTER_ID)
    world.hear("n1", via("192.0.2.9"), P)
    world.work()
    for client in clients:
        world.rib.take(client.name, 10)
    other = RouterId(901)
    world.rib.configure(ASN, ROUTER_ID, other, 8)
    world.rib.filter([], [replace(client, cluster_id=other) for client in clients])
    world.work()
    batches = [each for client in clients for each in world.rib.take(client.name, 10) if isinstance(each, Batch)]
    assert [(each is batches[0], [prefix_text(n) for n in each.nlris]) for each in batches] == [(True, [P])] * 3
    assert batches[0].attributes is not None
    assert batches[0].attributes.cluster_list == (other,)

    world.rib.filter([], [replace(clients[0], cluster_id=other, exports=("none",)), *clients[1:]])
    assert [world.take(client.name) for client in clients] == [
        [(None, [P])],
        [("192.0.2.9", [P])],
        [("192.0.2.9", [P])],
    ]
    assert [heard and heard.cluster_list for heard in (world.heard(c.name, P) for c in clients)] == [
        None,
        (CLUSTER_ID,),
        (CLUSTER_ID,),
    ]


def test_in_one_batch_some_prefixes_are_new_to_a_peer_and_some_have_changed() -> None:
    """A peer that loses the lead for one prefix hears the whole batch, also the prefix it knew otherwise."""
    world = reflecting()
    world.hear("n1", via("192.0.2.9"), P, Q)
    world.hear("c1", changed(via("192.0.2.10"), local_pref=200), P)
    assert [("192.0.2.9", [Q])] == world.take("c1")
    world.hear("n1", changed(via("192.0.2.9"), med=1), P, Q)
    world.lose("c1", P)
    assert [("192.0.2.9", [P, Q])] == [(hop, sorted(prefixes)) for hop, prefixes in world.take("c1")]


def test_a_refresh_that_is_overtaken_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that falls behind in the middle of hearing all again still hears all of it, each the latest."""
    monkeypatch.setattr(export, "BATCH_PREFIXES", 1)
    monkeypatch.setattr(export, "LOG_SLACK", 0)
    world = World(internal("a", 11), internal("b", 12))
    for prefix in (P, Q):
        world.rib.originate(key(prefix), Blackhole(), advertise=True)
    for name in ("a", "b"):
        world.take(name)
    world.rib.refresh(PeerName("a"), Family.IPV4)
    first = world.rib.take(PeerName("a"), 1)
    assert 1 == len(first)
    for med in range(5):
        world.rib.originate(key("10.3.0.0/16"), Blackhole(), advertise=True, attributes=PathAttributes(med=med))
        world.take("b")
    (group,) = world.rib._groups.by_view.values()
    assert group.members[PeerName("a")].dirty, "it did not fall behind"
    rest = sorted(prefix for _, prefixes in world.take("a") for prefix in prefixes)
    heard = [nlri for batch in first if isinstance(batch, export.Batch) for nlri in batch.nlris]
    assert [prefix for prefix in (P, Q) if key(prefix) not in heard] + ["10.3.0.0/16"] == rest


LONG = tuple(range(1, 1015))  # communities that leave room for no prefix in 4096 octets; one less does


@pytest.mark.parametrize("paths", [None, AddPath(2)])
def test_a_path_that_fits_no_message_is_not_told(paths: AddPath | None) -> None:
    """What the peer had of the prefix is withdrawn, and it is not listed nor counted as if it had been told."""
    world = World(external("out", "192.0.2.14"), replace(internal("a", 11), add_path=paths))
    name, said = PeerName("a"), via("192.0.2.14", 65001)
    world.hear("out", said, P, Q)
    assert {P, Q} == {prefix for _, prefix in world.told("a")}
    world.hear("out", changed(said, communities=LONG), P)
    assert [None] == [hop for hop, _ in world.take("a")]
    assert {Q} == {prefix for _, prefix in world.told("a")}
    assert (world.rib.counts(name)[Family.IPV4][2], world.rib.unsaid_to(name)) == (1, [parse_nlri(P)])
    assert world.rib.unsaid_to(PeerName("out")) == []
    assert not world.rib.is_told(name, parse_nlri(P))
    world.hear("out", changed(said, communities=LONG[:900]), P)
    assert {P, Q} == {prefix for _, prefix in world.told("a")}
    assert world.rib.unsaid_to(name) == []


def test_the_next_of_several_paths_is_told_where_the_first_fits_no_message() -> None:
    """It is the best that such a peer can hear of."""
    peers = [internal(f"c{number}", number, Role.CLIENT, CLUSTER_ID) for number in (21, 22)]
    world = World(*peers, replace(internal("a", 11), cluster_id=CLUSTER_ID, add_path=AddPath(1)), cluster_id=CLUSTER_ID)
    world.hear("c21", changed(via("192.0.2.21"), communities=LONG, local_pref=200), P)
    world.hear("c22", via("192.0.2.22"), P)
    assert ["192.0.2.22"] == list(world.told("a").values())
    assert world.rib.unsaid_to(PeerName("a")) == [parse_nlri(P)]
    world.lose("c21", P)
    assert ["192.0.2.22"] == list(world.told("a").values())
    assert world.rib.unsaid_to(PeerName("a")) == []
