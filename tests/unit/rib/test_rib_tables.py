"""The Rib's tables: sessions, staleness, deferral, checks, limits, views."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgpmesh.rib.locrib import MEMO_PATHS, WAITING
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.nlri import Family
from bgpmesh.route.path import Blackhole, OnLink, PeerName, Via
from tests.flat import pairs
from tests.unit.rib.ribworld import (
    ASN,
    BOTH,
    CLUSTER_ID,
    NONE,
    ROUTER_ID,
    World,
    address,
    changed,
    external,
    internal,
    key,
    sequence,
    via,
)

A, B = internal("a", 11), internal("b", 12)
P, Q = "10.1.0.0/16", "10.2.0.0/16"
NAME = PeerName("a")


def test_withdraw_from_the_best_peer_promotes_the_runner_up() -> None:
    """The next best takes over, with its next hop."""
    world = World(A, B)
    world.hear("a", changed(via("192.0.2.9"), local_pref=200), P)
    world.hear("b", via("192.0.2.10"), P)
    assert world.reasons(P) == {"a": "local-pref", "b": "local-pref"}
    world.lose("a", P)
    assert {P: Via((address("192.0.2.10"),))} == world.fib()
    assert world.reasons(P) == {"b": "only path"}


def test_an_update_that_withdraws_and_announces_a_prefix_announces_it() -> None:
    """RFC 4271 §3.1 forbids it; taken as an announcement, as §4.3 asks."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), P)
    world.rib.receive(NAME, via("192.0.2.10"), [key(P)], [key(P)])
    assert {P: Via((address("192.0.2.10"),))} == world.fib()


def test_equal_paths_share_the_traffic() -> None:
    """Both are shown as multipath, one as best, and the loser of the tie-break says which step it was."""
    world = World(A, B)
    world.hear("a", via("192.0.2.9"), P)
    world.hear("b", via("192.0.2.10"), P)
    assert {P: Via((address("192.0.2.9"), address("192.0.2.10")))} == world.fib()
    assert [(c.peer, c.is_best, c.is_multipath) for c in world.shown(P)] == [("a", True, True), ("b", False, True)]
    assert world.reasons(P) == {"a": "router-id", "b": "router-id"}


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        (via("192.0.2.9", 65001, ASN), f"loop: our AS {ASN} is in AS_PATH"),
        (changed(via("192.0.2.9"), originator_id=ROUTER_ID), "loop: ORIGINATOR_ID is ours"),
        (changed(via("192.0.2.9"), cluster_list=(RouterId(5), CLUSTER_ID)), "loop: our cluster is in CLUSTER_LIST"),
        (PathAttributes(), "no next hop"),
    ],
)
def test_a_loop_is_kept_and_named(attributes: PathAttributes, why: str) -> None:
    """What came back to us is stored, shown with its reason, and never selected."""
    world = World(A, cluster_id=CLUSTER_ID)
    world.hear("a", attributes, P)
    assert {"a": why} == world.reasons(P)
    assert world.fib() == {}
    assert world.rib.counts(NAME)[Family.IPV4] == (1, 0, 0)


def test_an_import_filter_that_stops_a_path_is_its_reason() -> None:
    """What RFC 8212 keeps out is counted as received, not as accepted."""
    world = World(replace(external("e", "192.0.2.14"), imports=("none",)))
    world.hear("e", via("192.0.2.14", 65001), P)
    assert world.reasons(P) == {"e": "import filter none"}
    assert world.rib.counts(PeerName("e"))[Family.IPV4] == (1, 0, 0)
    assert [key(P)] == [nlri for nlri, _ in world.rib.received(PeerName("e"))]


def test_a_neighbours_local_pref_does_not_count() -> None:
    """LOCAL_PREF over eBGP is ignored (RFC 4271 §5.1.5)."""
    world = World(A, external("e", "192.0.2.14"))
    world.hear("e", changed(via("192.0.2.14", 65001, 65002), local_pref=500), P)
    world.hear("a", via("192.0.2.9", 65001), P)
    assert world.best(P) == "a"


def test_own_prefixes_go_first() -> None:
    """Ours beats any learnt path; retired, the learnt one takes over; changed, the kernel follows."""
    world = World(A)
    world.hear("a", changed(via("192.0.2.9"), local_pref=500), P)
    world.rib.originate(key(P), Blackhole(), advertise=True)
    assert {P: Blackhole()} == world.fib()
    assert world.reasons(P) == {"local": "local", "a": "local"}
    world.rib.originate(key(P), OnLink("bgpm1"), advertise=True)
    assert {P: OnLink("bgpm1")} == world.fib()
    world.rib.originate(key(P), None, advertise=True)
    assert (world.fib(), world.rib.kernel_reason(key(P))) == ({}, "none")
    world.rib.retire(key(P))
    assert {P: Via((address("192.0.2.9"),))} == world.fib()


def test_a_peer_down_takes_its_paths_or_leaves_them_stale() -> None:
    """Families to retain stay selected and stale, the others go at once (RFC 4724 §4.2)."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), P)
    world.hear("a", via("2001:db8::9"), "2001:db8:5::/48")
    world.rib.peer_down(NAME, frozenset({Family.IPV4}))
    assert {P} == set(world.fib())
    assert [c.is_stale for c in world.shown(P)] == [True]
    assert world.rib.stale_count(NAME) == 1
    world.rib.sweep(NAME, BOTH)
    assert world.fib() == {}
    assert world.rib.prefixes() == []


def test_a_restarted_peer_keeps_what_it_says_again() -> None:
    """Announced again it is fresh, by End-of-RIB the rest is swept; the kernel sees only what went."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), P, Q)
    world.work()
    world.rib.fib.acknowledge([nlri for nlri, _ in pairs(world.rib.fib.take(10, 0.0))])
    world.rib.peer_down(NAME, BOTH)
    world.up(A, keep=BOTH)
    world.hear("a", via("192.0.2.9"), P)
    world.work()
    assert [c.is_stale for prefix in (P, Q) for c in world.shown(prefix)] == [False, True]
    world.rib.sweep(NAME, frozenset({Family.IPV6}))
    world.work()
    assert pairs(world.rib.fib.take(10, 0.0)) == []
    world.rib.sweep(NAME, frozenset({Family.IPV4}))
    world.work()
    assert [(key(Q), None)] == pairs(world.rib.fib.take(10, 0.0))


def test_a_new_session_that_keeps_nothing_starts_empty() -> None:
    """Stale families that the peer's OPEN did not keep are dropped when it comes back."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), P)
    world.rib.peer_down(NAME, BOTH)
    world.up(A, keep=NONE)
    assert world.fib() == {}


def test_killed_twice_before_it_was_in_sync_a_peer_loses_nothing() -> None:
    """A path that is stale when the session ends again stays stale (other than RFC 4724 §4.2)."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), P)
    for _ in range(2):
        world.rib.peer_down(NAME, BOTH)
        world.up(A, keep=BOTH)
    assert {P} == set(world.fib())
    assert world.rib.stale_count(NAME) == 1


def test_a_late_update_of_a_session_that_ended_says_nothing() -> None:
    """What was still queued when the peer went is dropped, for known and unknown peers."""
    world = World(A)
    world.rib.peer_down(NAME, NONE)
    world.hear("a", via("192.0.2.9"), P)
    assert world.fib() == {}


def test_while_deferring_only_our_own_is_selected() -> None:
    """Learnt paths wait with that reason; what the kernel has is kept until the selection is done."""
    world = World()
    adopted = {key(P): Via((address("192.0.2.9"),)), key("10.9.0.0/16"): Via((address("192.0.2.9"),))}
    world.rib.is_deferring = True
    world.rib.fib.observe_all(adopted)
    world.up(A)
    world.hear("a", via("192.0.2.9"), P)
    world.rib.originate(key(Q), Blackhole(), advertise=True)
    assert {Q: Blackhole()} == world.fib()
    assert world.reasons(P) == {"a": WAITING}
    assert [(key(Q), Blackhole())] == pairs(world.rib.fib.take(10, 0.0))
    assert world.rib.kernel_reason(key(P)) == "installed"
    world.rib.is_deferring = False
    assert world.rib.fib.keep_unwanted, "before the selection nothing may be swept"
    world.work()
    assert not (world.rib.fib.keep_unwanted)
    assert not (world.rib.next_hops.keep_unwanted)
    assert [(key("10.9.0.0/16"), None)] == pairs(world.rib.fib.take(10, 0.0))


def test_the_limit_counts_each_family_before_filters() -> None:
    """One more than allowed, in one family, is over; the same number split over two is not."""
    world = World(replace(internal("a", 11), max_prefixes=1, imports=("none",)))
    world.hear("a", via("192.0.2.9"), P)
    world.hear("a", via("2001:db8::9"), "2001:db8:5::/48")
    assert world.rib.is_over_limit(NAME) is None
    world.hear("a", via("192.0.2.9"), P, Q)
    assert (Family.IPV4, "max_prefixes") == world.rib.is_over_limit(NAME)
    world.lose("a", P)
    assert world.rib.is_over_limit(NAME) is None


def test_what_a_restarted_peer_has_not_said_again_does_not_count() -> None:
    """A peer that comes back with other prefixes is over the limit by these alone, not by the stale ones."""
    peer = replace(internal("a", 11), max_prefixes=2)
    world = World(peer)
    world.hear("a", via("192.0.2.9"), "10.1.0.0/16", "10.2.0.0/16")
    world.rib.peer_down(NAME, BOTH)
    world.up(peer, BOTH)
    world.hear("a", via("192.0.2.9"), "10.3.0.0/16", "10.4.0.0/16")
    assert world.rib.is_over_limit(NAME) is None
    world.hear("a", via("192.0.2.9"), "10.1.0.0/16")
    assert (Family.IPV4, "max_prefixes") == world.rib.is_over_limit(NAME)


def test_a_peer_that_never_comes_to_an_end_holds_twice_its_limit_at_most() -> None:
    """Restart after restart, and BoRR after BoRR, with other prefixes each time: staleness is no way around it."""
    peer = replace(internal("a", 11), max_prefixes=2)
    world = World(peer)
    for number in range(3):
        if number == 1:
            world.rib.peer_down(NAME, BOTH)
            world.up(peer, BOTH)
        elif number == 2:
            world.rib.mark_stale(NAME, Family.IPV4)
        world.hear("a", via("192.0.2.9"), f"10.{number}.0.0/17", f"10.{number}.128.0/17")
        assert world.rib.is_over_limit(NAME) == (None if number < 2 else (Family.IPV4, "max_prefixes"))


def test_what_is_near_the_limit_counts_as_the_limit_does() -> None:
    """What is about to be said again, or never, is not told of twice; a peer that comes to no end is."""
    near = (Family.IPV4, "max_prefixes")
    peer = replace(internal("a", 11), max_prefixes=4, max_prefixes_warn=3)
    world = World(peer)
    world.hear("a", via("192.0.2.9"), *(f"10.{n}.0.0/16" for n in range(1, 4)))
    assert {near: (3, 4)} == world.rib.near_limits(NAME)
    world.rib.peer_down(NAME, BOTH)
    world.up(peer, BOTH)
    assert {} == world.rib.near_limits(NAME)
    world.hear("a", via("192.0.2.9"), "10.4.0.0/16", "10.5.0.0/16")
    assert {} == world.rib.near_limits(NAME)
    world.hear("a", via("192.0.2.9", 65001), "10.1.0.0/16")
    world.hear("a", via("192.0.2.9"), "10.1.0.0/16")
    assert {near: (3, 4)} == world.rib.near_limits(NAME)
    world.lose("a", "10.2.0.0/16")
    assert {near: (3, 4)} == world.rib.near_limits(NAME), "a stale one that is gone was not counted"
    world.rib.sweep(NAME, BOTH)
    assert {near: (3, 4)} == world.rib.near_limits(NAME)
    world.rib.mark_stale(NAME, Family.IPV4)
    world.hear("a", via("192.0.2.9"), *(f"10.{n}.128.0/17" for n in range(5)))
    assert (near, {near: (5, 4)}) == (world.rib.is_over_limit(NAME), world.rib.near_limits(NAME))


def test_a_new_identity_judges_loops_anew() -> None:
    """After `configure` what was a loop may be none, and the other way round."""
    world = World(A)
    world.hear("a", via("192.0.2.9", 65009), P)
    assert {P} == set(world.fib())
    world.rib.configure(Asn(65009), ROUTER_ID, None, 8)
    assert world.fib() == {}
    world.rib.configure(ASN, ROUTER_ID, None, 8)
    assert {P} == set(world.fib())


def test_work_keeps_to_its_limit() -> None:
    """One slice thinks about so many prefixes, and says whether more remains."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), *(f"10.{n}.0.0/16" for n in range(5)))
    sizes = []
    while world.rib.work(2):
        sizes.append(len(world.rib.fib.wanted))
    assert sizes == [2, 4]
    assert (world.rib.size(Family.IPV4), world.rib.size(Family.IPV6)) == (5, 0)


def test_kernel_reasons() -> None:
    """pending, installed, failed with the kernel's words, none."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), P, Q)
    world.work()
    assert world.rib.kernel_reason(key(P)) == "pending"
    world.rib.fib.take(10, 0.0)
    world.rib.fib.acknowledge([key(P)])
    world.rib.fib.refuse(key(Q), "Network is unreachable", 0.0)
    assert world.rib.kernel_reason(key(P)) == "installed"
    assert world.rib.kernel_reason(key(Q)) == "failed: Network is unreachable"
    assert world.rib.kernel_reason(key("10.9.0.0/16")) == "none"


def test_a_peer_that_never_repeats_itself_leaves_no_rubbish() -> None:
    """A prefix that flaps through thousands of attribute sets costs no more than what is in use."""
    world = World(A)
    for med in range(5_000):
        world.hear("a", changed(via("192.0.2.9"), med=med), P)
        world.rib.work(10)
    assert len(world.rib._ins[NAME].made) < 2_100


def test_one_prefix_of_many_peers_that_flaps_is_remembered_up_to_a_limit() -> None:
    """Each time there is another combination of hundreds of paths: by their number alone that was gigabytes."""
    peers = [external(f"e{n}", f"192.0.2.{n}", 65000 + n) for n in range(2, 202)]
    world = World(*peers)
    for peer in peers:
        world.hear(peer.name, via(str(peer.address), peer.asn), P)
    table = world.rib._table
    for turn in range(MEMO_PATHS // len(peers) + 50):
        peer = peers[turn % len(peers)]
        world.hear(peer.name, changed(via(str(peer.address), peer.asn), med=turn), P)
        world.work()
        assert sum(map(len, table._decided)) <= MEMO_PATHS + len(peers)
    assert table._decided


def test_prefixes_come_in_their_own_order() -> None:
    """IPv4 before IPv6, by address, the shorter first."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), "10.2.0.0/16", "10.1.0.0/24", "10.1.0.0/16")
    world.hear("a", via("2001:db8::9"), "2001:db8:5::/48")
    wanted = ["10.1.0.0/16", "10.1.0.0/24", "10.2.0.0/16", "2001:db8:5::/48"]
    assert list(map(key, wanted)) == world.rib.prefixes()


def test_a_candidate_carries_what_people_ask_for() -> None:
    """Attributes, resolution and the second it was read stand with each path."""
    world = World(A)
    world.hear("a", via("192.0.2.9", 65001), P)
    (shown,) = world.shown(P)
    assert (NAME, sequence(65001), 7.0) == (shown.peer, shown.attributes.as_path, shown.read_at)
    assert shown.resolution is not None
    assert shown.resolution.link == 2
