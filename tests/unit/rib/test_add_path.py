"""Several paths of one prefix from one peer, and to one (RFC 7911)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgpmesh.peering.peer import AddPath, Peer
from bgpmesh.rib.adjribin import AdjRibIn
from bgpmesh.rib.drain import Drain
from bgpmesh.rib.numbers import SPARE, Numbers
from bgpmesh.rib.rule import Community, Filter, Rule
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.community import GRACEFUL_SHUTDOWN, NO_ADVERTISE
from bgpmesh.route.nlri import Family, Nlri
from bgpmesh.route.path import Blackhole, PeerName, Role, Via
from tests.flat import pairs
from tests.unit.rib.ribworld import (
    BOTH,
    CLUSTER_ID,
    NONE,
    World,
    address,
    changed,
    external,
    internal,
    key,
    keyed,
    via,
)

P, Q, P6 = "10.1.0.0/16", "10.2.0.0/16", "2001:db8:5::/48"
RR = replace(internal("rr", 11), add_path=AddPath(0))
NAME = PeerName("rr")


def of(number: int) -> PathAttributes:
    """Return the path of a reflector's client."""
    return changed(
        via(f"192.0.2.{number}"), local_pref=100, originator_id=RouterId(number), cluster_list=(RouterId(11),)
    )


def ways(*numbers: int) -> Via:
    """Return the route by these next hops."""
    return Via(tuple(address(f"192.0.2.{number}") for number in numbers))


# ── from a peer ──────────────────────────────────────────────────────────────


def test_paths_of_one_peer_share_the_traffic() -> None:
    """Each stands with its identifier; what nothing tells apart but that is decided by it."""
    world = World(RR)
    world.hear_paths("rr", of(22), (7, P))
    world.hear_paths("rr", of(21), (9, P), (1, Q))
    assert {P: ways(21, 22), Q: ways(21)} == world.fib()
    assert [(c.path_id, c.is_best, c.is_multipath, c.reason) for c in world.shown(P)] == [
        (9, True, True, "router-id"),
        (7, False, True, "router-id"),
    ]
    alike = changed(of(30), originator_id=RouterId(21))
    world.hear_paths("rr", alike, (8, Q), (3, Q))
    assert [(c.path_id, c.is_best, c.reason) for c in world.shown(Q)] == [
        (1, True, "path-id"),
        (3, False, "path-id"),
        (8, False, "path-id"),
    ]


def test_a_path_is_replaced_and_withdrawn_by_its_identifier() -> None:
    """The other one stays as it is; withdrawn by an identifier that is not there, nothing goes."""
    world = World(RR)
    world.hear_paths("rr", of(21), (1, P), (1, P6))
    world.hear_paths("rr", of(22), (2, P))
    world.hear_paths("rr", of(23), (2, P))
    assert {ways(21, 23)} == {world.fib()[P]}
    world.lose_paths("rr", (3, P), (2, Q))
    assert {ways(21, 23)} == {world.fib()[P]}
    world.lose_paths("rr", (1, P))
    assert {ways(23)} == {world.fib()[P]}
    world.lose_paths("rr", (2, P), (1, P6))
    assert world.fib() == {}
    assert world.rib.prefixes() == []


def test_the_same_said_under_two_identifiers_is_there_until_both_are_gone() -> None:
    """It is shown twice, counts twice, and forwards until the second is withdrawn."""
    world = World(RR)
    world.hear_paths("rr", of(21), (1, P), (2, P))
    assert [(c.path_id, c.is_best, c.reason) for c in world.shown(P)] == [
        (1, True, "only path"),
        (2, False, "path-id"),
    ]
    assert world.rib.counts(NAME)[Family.IPV4] == (2, 2, 0)
    world.lose_paths("rr", (1, P))
    assert {P: ways(21)} == world.fib()
    assert [(c.path_id, c.is_best) for c in world.shown(P)] == [(2, True)]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_order_does_not_matter(order: tuple[int, ...]) -> None:
    """Of paths that differ in nothing but what no step asks, the lowest identifier wins, whenever it came."""
    world = World(RR)
    for path_id in order:
        world.hear_paths("rr", changed(of(21), communities=(path_id,)), (path_id, P))
    assert [c.path_id for c in world.shown(P)] == [1, 2, 3]
    world.lose_paths("rr", (1, P))
    assert [(c.path_id, c.is_best) for c in world.shown(P)] == [(2, True), (3, False)]


def test_an_update_full_of_paths_of_one_prefix_is_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one for each: thousands of them would keep all other peers waiting for seconds."""
    keys_of, looked = AdjRibIn.keys_of, list[Nlri]()

    def look(table: AdjRibIn, nlri: Nlri) -> tuple[Nlri, ...]:
        looked.append(nlri)
        return keys_of(table, nlri)

    monkeypatch.setattr(AdjRibIn, "keys_of", look)
    world = World(RR)
    paths = [(number, prefix) for number in range(300) for prefix in (P, Q)]
    world.hear_paths("rr", of(22), *paths, (299, Q))
    world.lose_paths("rr", *paths[:-3])
    assert [key(P), key(Q)] * 2 == looked
    assert [(299, P), (298, Q), (299, Q)] == [(c.path_id, prefix) for prefix in (P, Q) for c in world.shown(prefix)]


def test_paths_of_a_peer_that_is_away_are_stale_one_by_one() -> None:
    """Said again by its identifier a path is fresh; the sweep takes the other one only."""
    world = World(RR)
    world.hear_paths("rr", of(21), (1, P))
    world.hear_paths("rr", of(22), (2, P))
    world.rib.peer_down(NAME, frozenset({Family.IPV4}))
    assert {P: ways(21, 22)} == world.fib()
    world.up(RR, keep=BOTH)
    world.hear_paths("rr", of(21), (1, P))
    assert [(c.path_id, c.is_stale) for c in world.shown(P)] == [(1, False), (2, True)]
    world.rib.sweep(NAME, frozenset({Family.IPV6}))
    assert {P: ways(21, 22)} == world.fib()
    world.rib.sweep(NAME, BOTH)
    assert {P: ways(21)} == world.fib()
    world.rib.peer_down(NAME, NONE)
    assert world.fib() == {}


def test_other_identifiers_after_a_restart_change_no_route() -> None:
    """A peer may number its paths anew (RFC 7911 §5): what it says and what is stale go by the same next hops."""
    world = World(RR)
    world.hear_paths("rr", of(21), (1, P))
    world.hear_paths("rr", of(22), (2, P))
    world.work()
    world.rib.fib.acknowledge([nlri for nlri, _ in pairs(world.rib.fib.take(10, 0.0))])
    world.rib.peer_down(NAME, BOTH)
    world.up(RR, keep=BOTH)
    for number, path_id in ((21, 8), (22, 9)):
        world.hear_paths("rr", of(number), (path_id, P))
        world.work()
        assert pairs(world.rib.fib.take(10, 0.0)) == []
    world.rib.sweep(NAME, BOTH)
    world.work()
    assert pairs(world.rib.fib.take(10, 0.0)) == []
    assert [c.path_id for c in world.shown(P)] == [8, 9]


@pytest.mark.parametrize("came_with_ids", [True, False])
def test_a_session_that_no_longer_carries_several_says_all_of_a_prefix(came_with_ids: bool) -> None:
    """After a restart with identifiers where there were none, or without, what is said of a prefix is all of it."""
    world = World(RR)
    said = {True: lambda n: world.hear_paths("rr", of(n), (n, P)), False: lambda n: world.hear("rr", of(n), P)}
    said[came_with_ids](21)
    if came_with_ids:
        said[True](22)
    world.rib.peer_down(NAME, BOTH)
    world.up(RR, keep=BOTH)
    said[not came_with_ids](23)
    assert {P: ways(23)} == world.fib()
    assert world.rib.stale_count(NAME) == 0
    world.rib.peer_down(NAME, NONE)
    assert world.fib() == {}


def test_import_filters_see_each_path() -> None:
    """One is rejected by what it carries, the other passes; a filter that changes goes through both again."""
    tagged = Filter("tagged", "accept", (Rule(community=(Community("64512:1"),), action="reject"),))
    world = World()
    world.rib.filter([tagged], [])
    filtered = replace(RR, imports=("tagged",))
    world.up(filtered)
    world.hear_paths("rr", of(21), (1, P))
    world.hear_paths("rr", changed(of(22), communities=(64512 << 16 | 1,)), (2, P))
    assert {P: ways(21)} == world.fib()
    assert [c.reason for c in world.shown(P) if c.path_id == 2] == ["import filter tagged rule 1"]
    assert world.rib.counts(NAME)[Family.IPV4] == (2, 1, 0)
    world.rib.filter([tagged], [replace(RR, imports=("all",))])
    assert {P: ways(21, 22)} == world.fib()


def test_the_limit_counts_paths() -> None:
    """Three paths of two prefixes are three."""
    world = World(replace(RR, max_prefixes=2))
    world.hear_paths("rr", of(21), (1, P), (1, Q))
    assert world.rib.is_over_limit(NAME) is None
    world.hear_paths("rr", of(22), (2, P))
    assert world.rib.is_over_limit(NAME) == (Family.IPV4, "max_prefixes")


def test_what_was_received_is_shown_by_path() -> None:
    """Every path that came, with its identifier."""
    world = World(RR)
    world.hear_paths("rr", of(21), (1, P))
    world.hear_paths("rr", of(22), (2, P))
    received = {key: attributes.next_hop for key, attributes in world.rib.received(NAME)}
    assert {keyed(1, P): address("192.0.2.21"), keyed(2, P): address("192.0.2.22")} == received


def test_a_next_hop_that_is_lost_takes_its_path_out() -> None:
    """Paths of one peer go by different next hops: one that cannot be reached leaves the other."""
    world = World(RR)
    world.hear_paths("rr", of(21), (1, P))
    world.hear_paths("rr", via("198.51.100.1"), (2, P))
    assert {P: ways(21)} == world.fib()
    assert [(c.path_id, c.is_best) for c in world.shown(P)] == [(1, True), (2, False)]


# ── to a peer ────────────────────────────────────────────────────────────────


def client(name: str, last: int, send: int = 8) -> Peer:
    """Return a client of this reflector that takes several paths."""
    return replace(internal(name, last, Role.CLIENT, CLUSTER_ID), add_path=AddPath(send, receive=False))


def reflector(send: int = 8) -> World:
    """Return a reflector with four clients that take several paths, and one that does not."""
    peers = [client(f"c{number}", 20 + number, send) for number in range(1, 5)]
    return World(*peers, internal("plain", 30, Role.CLIENT, CLUSTER_ID), cluster_id=CLUSTER_ID)


def test_every_way_is_passed_on_but_to_who_it_came_from() -> None:
    """Each of several under an identifier of its own, the same for all; who takes one path hears of the best."""
    world = reflector()
    for number in (1, 2, 3):
        world.hear(f"c{number}", via(f"192.0.2.2{number}"), P)
    everything = world.told("c4")
    assert {"192.0.2.21", "192.0.2.22", "192.0.2.23"} == set(everything.values())
    assert len({path_id for path_id, _ in everything}) == 3
    assert {key: hop for key, hop in everything.items() if hop != "192.0.2.21"} == world.told("c1")
    assert {(None, P): "192.0.2.21"} == world.told("plain")


def test_a_way_that_goes_is_withdrawn_and_the_others_are_not_touched() -> None:
    """One UPDATE takes it back by its identifier; the identifiers of the others stay, also when they change."""
    world = reflector()
    for number in (1, 2, 3):
        world.hear(f"c{number}", via(f"192.0.2.2{number}"), P)
    before = world.told("c4")
    world.lose("c1", P)
    assert world.take("c4") == [(None, [P])]
    left = {key: hop for key, hop in before.items() if hop != "192.0.2.21"}
    assert left == world.told("c4")
    world.hear("c2", changed(via("192.0.2.22"), med=5, communities=(1,)), P)
    assert left == world.told("c4")
    world.hear("c1", via("192.0.2.21"), P)
    assert before == world.told("c4")


def test_as_many_as_are_asked_for_in_the_order_of_the_decision() -> None:
    """Equal ones first, then what would be best without these; a better one that comes puts the last out."""
    world = reflector(send=2)
    world.hear("c1", changed(via("192.0.2.21"), local_pref=50), P)
    world.hear("c2", changed(via("192.0.2.22"), local_pref=70), P)
    world.hear("c3", changed(via("192.0.2.23"), local_pref=60), P)
    assert {"192.0.2.22", "192.0.2.23"} == set(world.told("c4").values())
    world.hear("c1", changed(via("192.0.2.21"), local_pref=90), P)
    assert {"192.0.2.21", "192.0.2.22"} == set(world.told("c4").values())
    world.lose("c2", P)
    assert {"192.0.2.21", "192.0.2.23"} == set(world.told("c4").values())


@pytest.mark.parametrize("others", [1, 8], ids=["nobody-takes-more", "somebody-takes-more"])
@pytest.mark.parametrize("send", [1, 2])
def test_what_may_not_be_heard_takes_no_others_place(send: int, others: int) -> None:
    """However far down the order what may be told stands, and however many paths others take."""
    picky = replace(client("c9", 29, send), exports=("out",))
    world = World(cluster_id=CLUSTER_ID)
    world.rib.filter([Filter("out", "accept", (Rule(peer=("c1", "c2", "c3", "c4"), action="reject"),))], [])
    for number in range(1, 7):
        world.up(client(f"c{number}", 20 + number, others))
        world.hear(f"c{number}", changed(via(f"192.0.2.{20 + number}"), local_pref=100 - number), P)
    world.up(picky)
    assert ["192.0.2.25", "192.0.2.26"][:send] == sorted(world.told("c9").values())


def test_what_comes_goes_out_before_what_leaves() -> None:
    """A peer that is told of another way and loses one is never between them."""
    world = reflector(send=1)
    world.hear("c1", via("192.0.2.21"), P)
    world.take("c4")
    world.lose("c1", P)
    world.hear("c2", via("192.0.2.22"), P)
    assert world.take("c4") == [("192.0.2.22", [P]), (None, [P])]


def test_one_path_for_each_next_hop() -> None:
    """The same way by another reflector is not passed on beside it, and takes its place when it goes."""
    world = reflector()
    other = replace(internal("rr2", 40, Role.NON_CLIENT, CLUSTER_ID), add_path=AddPath())
    world.up(other)
    world.hear("c1", via("192.0.2.21"), P)
    reflected = changed(via("192.0.2.21"), originator_id=RouterId(21), cluster_list=(RouterId(40),))
    world.hear_paths("rr2", reflected, (5, P))
    assert [hop for (_, prefix), hop in world.told("c4").items() if prefix == P] == ["192.0.2.21"]
    (first,) = world.told("c4")
    world.lose("c1", P)
    assert ["192.0.2.21"] == list(world.told("c4").values())
    assert first not in world.told("c4")
    assert world.told("c1") == {}, "it made that route"


def test_rules_and_filters_hold_for_each_path() -> None:
    """What is not for advertising, or between non-clients, is left out, and the next one takes its place."""
    world = World(client("c1", 21, 2), cluster_id=CLUSTER_ID)
    for number in (31, 32, 33):
        world.up(internal(f"n{number}", number, Role.NON_CLIENT, CLUSTER_ID))
        world.hear(f"n{number}", via(f"192.0.2.{number}"), P)
    world.up(replace(internal("n40", 40, Role.NON_CLIENT, CLUSTER_ID), add_path=AddPath(2)))
    world.hear("c1", changed(via("192.0.2.21"), local_pref=90), P)
    assert {"192.0.2.31", "192.0.2.32"} == set(world.told("c1").values())
    assert {"192.0.2.21"} == set(world.told("n40").values())
    world.hear("n31", changed(via("192.0.2.31"), communities=(NO_ADVERTISE,)), P)
    assert {"192.0.2.32", "192.0.2.33"} == set(world.told("c1").values())


def test_an_export_filter_that_changes_withdraws_by_path() -> None:
    """Only what it now stops is withdrawn; what passes keeps its identifier and is not said again."""
    world = World(cluster_id=CLUSTER_ID)
    tagged = Filter("tagged", "accept", (Rule(community=(Community("64512:1"),), action="reject"),))
    world.rib.filter([tagged], [])
    for number in (1, 2):
        world.up(client(f"c{number}", 20 + number))
    world.up(client("c4", 24))
    world.hear("c1", via("192.0.2.21"), P)
    world.hear("c2", changed(via("192.0.2.22"), communities=(64512 << 16 | 1,)), P)
    before = world.told("c4")
    world.rib.filter([tagged], [replace(client("c4", 24), exports=("tagged",))])
    assert world.take("c4") == [(None, [P])]
    assert {key: hop for key, hop in before.items() if hop == "192.0.2.21"} == world.told("c4")


def test_own_routes_are_among_them() -> None:
    """What this node itself announces goes before what it learnt."""
    world = reflector()
    world.hear("c1", via("192.0.2.21"), P)
    world.rib.originate(key(P), Blackhole(), advertise=True)
    assert {"192.0.2.1", "192.0.2.21"} == set(world.told("c4").values())
    assert {"192.0.2.1"} == set(world.told("c1").values())
    world.rib.retire(key(P))
    assert {"192.0.2.21"} == set(world.told("c4").values())


def test_paths_that_came_with_identifiers_are_passed_on_as_several() -> None:
    """Of two reflectors in a row the second tells its clients all that the first told it."""
    world = World(client("c4", 24), cluster_id=CLUSTER_ID)
    world.up(replace(internal("rr2", 40, Role.NON_CLIENT, CLUSTER_ID), add_path=AddPath()))
    for number, path_id in ((21, 900), (22, 7)):
        attributes = changed(via(f"192.0.2.{number}"), originator_id=RouterId(number), cluster_list=(RouterId(40),))
        world.hear_paths("rr2", attributes, (path_id, P), (path_id, Q), (path_id, P6))
    told = world.told("c4")
    assert {"192.0.2.21", "192.0.2.22"} == {hop for (_, prefix), hop in told.items() if prefix == P}
    assert len({path_id for path_id, _ in told}) == 2
    world.lose_paths("rr2", (900, P))
    assert {"192.0.2.22"} == {hop for (_, prefix), hop in world.told("c4").items() if prefix == P}
    assert {"192.0.2.21", "192.0.2.22"} == {hop for (_, prefix), hop in world.told("c4").items() if prefix == Q}


def test_one_who_asks_again_hears_every_path_again() -> None:
    """ROUTE-REFRESH and a later session get all of them, and then End-of-RIB."""
    world = reflector()
    for number in (1, 2):
        world.hear(f"c{number}", via(f"192.0.2.2{number}"), P)
    world.take("c4")
    world.rib.refresh(PeerName("c4"), Family.IPV4)
    assert sorted(world.take("c4")) == [("192.0.2.21", [P]), ("192.0.2.22", [P])]
    world.up(client("c5", 25))
    world.rib.send_end_of_rib(PeerName("c5"))
    said = world.take("c5")
    assert sorted(said[:2]) == [("192.0.2.21", [P]), ("192.0.2.22", [P])]
    assert said[2:] == [("end", ["ipv4"]), ("end", ["ipv6"])]


def test_to_an_external_peer_each_with_our_own_next_hop() -> None:
    """The rules of the session make each path; they differ in their AS paths."""
    world = World(external("e1", "192.0.2.41"), external("e2", "192.0.2.42", 65002))
    world.up(replace(external("e3", "192.0.2.43", 65003), add_path=AddPath(), next_hop="self"))
    world.hear("e1", via("192.0.2.41", 65001), P)
    world.hear("e2", via("192.0.2.42", 65002), P)
    assert ["192.0.2.1", "192.0.2.1"] == list(world.told("e3").values())
    paths = {attributes.as_path.first for _, attributes in world.rib.advertised(PeerName("e3"))}
    assert {Asn(64512)} == paths


def test_identifiers_do_not_pile_up_with_peers_and_paths_that_come_and_go() -> None:
    """Speakers of a range and identifiers of a peer may be any number: what is gone leaves nothing for ever."""
    world = World(client("c4", 24), RR, cluster_id=CLUSTER_ID)
    world.hear("c4", via("192.0.2.24"), Q)
    for number in range(2, 2 * SPARE):
        world.hear_paths("rr", of(21), (number, P))
        world.lose_paths("rr", (number - 1, P))
        world.take("c4")
        name = f"leaves@{number}"
        world.up(internal(name, 31, Role.CLIENT, CLUSTER_ID))
        world.hear(name, via("192.0.2.31"), Q)
        world.take("c4")
        world.rib.peer_down(PeerName(name), NONE)
    world.take("c4")
    assert len(world.rib._numbers._ours) <= 2 * SPARE
    assert [hop for (_, prefix), hop in world.told("c4").items() if prefix == P] == ["192.0.2.21"]


def test_what_is_kept_for_long_is_kept_by_path() -> None:
    """Beyond the restart time (RFC 9494) each path counts last; one that is there from elsewhere takes over."""
    world = World(RR, internal("b", 12))
    world.hear_paths("rr", of(21), (1, P))
    world.hear_paths("rr", of(22), (2, P))
    world.rib.peer_down(NAME, BOTH)
    world.rib.outlive(NAME, BOTH)
    assert {P: ways(21, 22)} == world.fib()
    assert [(c.path_id, c.is_stale) for c in world.shown(P)] == [(1, True), (2, True)]
    world.hear("b", via("192.0.2.23"), P)
    assert {P: ways(23)} == world.fib()
    world.up(RR, keep=BOTH)
    world.hear_paths("rr", of(21), (1, P))
    world.rib.sweep(NAME, BOTH)
    assert {P: ways(21, 23)} == world.fib()


def test_a_peer_that_refreshes_says_each_path_again() -> None:
    """Between BoRR and EoRR (RFC 7313) a path that is not said again goes, and the other of its prefix stays."""
    world = World(RR)
    world.hear_paths("rr", of(21), (1, P))
    world.hear_paths("rr", of(22), (2, P))
    world.rib.mark_stale(NAME, Family.IPV4)
    world.hear_paths("rr", of(22), (2, P))
    assert {P: ways(21, 22)} == world.fib()
    world.rib.sweep(NAME, frozenset({Family.IPV4}))
    assert {P: ways(22)} == world.fib()


def test_numbers_of_paths_that_are_gone_are_forgotten() -> None:
    """An identifier is given once; those that their peer has no more are not kept for ever."""
    world, attributes = World(RR), of(21)
    world.hear_paths("rr", attributes, (1, P))
    numbers, path = Numbers(world.rib._ins), world.rib._ins[NAME].table[keyed(1, P)]
    first = numbers.of(path, [key(P)])
    given = {first}
    for number in range(2, SPARE + 3):
        world.hear_paths("rr", attributes, (number, Q))
        given.add(numbers.of(path, [key(Q)]))
        world.lose_paths("rr", (number, Q))
    assert len(given) == SPARE + 2
    assert first == numbers.of(path, [key(P)])
    world.hear_paths("rr", attributes, (2, Q))
    assert numbers.of(path, [key(Q)]) not in given


def test_each_of_several_is_the_last_choice_of_a_reflector_that_leaves_service() -> None:
    """Under the identifiers that it has; what is drained passes none on."""
    world = reflector()
    for number in (1, 2, 3):
        world.hear(f"c{number}", via(f"192.0.2.2{number}"), P)
    before = world.told("c4")
    world.rib.drain(Drain.DRAINING)
    assert before == world.told("c4")
    marks = {(each.local_pref, each.communities) for _, each in world.rib.advertised(PeerName("c4"))}
    assert marks == {(0, (GRACEFUL_SHUTDOWN,))}
    world.rib.drain(Drain.DRAINED)
    assert world.told("c4") == {}
    world.rib.drain(Drain.NONE)
    assert set(before.values()) == set(world.told("c4").values())
