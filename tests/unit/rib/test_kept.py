"""What counts of a peer that is away: alike after a restart, after all others in doubt and in the long run."""

from __future__ import annotations

from dataclasses import replace

from bgpmesh.peering.message import LongLived
from bgpmesh.peering.peer import AddPath
from bgpmesh.rib.decision import Kept
from bgpmesh.rib.rule import Community, Filter, Rule
from bgpmesh.route.attributes import RouterId
from bgpmesh.route.nlri import Family
from bgpmesh.route.path import PeerName, Role, Via
from tests.unit.rib.ribworld import BOTH, World, address, internal, key, via

P, P6 = "10.1.0.0/16", "2001:db8:5::/48"
A, B = internal("a", 11), internal("b", 12)
NAME = PeerName("a")
PREFERRED = replace(via("192.0.2.9"), local_pref=200)


def kept(world: World, prefix: str) -> dict[str, Kept]:
    """Return how each path of a prefix is kept, by peer."""
    return {shown.peer or "local": shown.kept for shown in world.shown(prefix)}


def test_a_doubted_path_loses_to_any_that_is_not_stale() -> None:
    """Whatever LOCAL_PREF says; said again it wins as before."""
    world = World(A, B)
    world.hear("a", PREFERRED, P)
    world.hear("b", via("192.0.2.10"), P)
    world.rib.peer_down(NAME, BOTH)
    assert world.best(P) == "a", "a restart changes no choice"
    world.up(A, BOTH)
    world.rib.peer_down(NAME, BOTH, is_doubted=True)
    assert (world.best(P), world.reasons(P)) == ("b", {"a": "stale", "b": "stale"})
    world.up(A, BOTH)
    assert world.best(P) == "b", "until it is said again"
    world.hear("a", PREFERRED, P)
    assert (world.best(P), kept(world, P)) == ("a", dict.fromkeys("ab", Kept.ALIKE))


def test_a_doubted_path_without_an_alternative_goes_on_untouched() -> None:
    """No kernel route is written, and no peer told anything."""
    world = World(A, replace(B, cluster_id=None))
    world.rib.originate(key("10.9.0.0/16"), None, advertise=True)
    world.hear("a", via("192.0.2.9"), P)
    before = world.fib()
    world.rib.fib.take(10, 0.0)
    world.rib.fib.acknowledge([key(P)])
    world.take("b")
    world.rib.peer_down(NAME, BOTH, is_doubted=True)
    assert before == world.fib()
    assert len(world.rib.fib) == 0
    assert world.take("b") == []
    assert kept(world, P) == {"a": Kept.DOUBTED}
    world.rib.sweep(NAME, BOTH)
    assert world.fib() == {}


def test_doubts_are_about_what_is_retained() -> None:
    """A family that is not goes, as ever."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), P)
    world.hear("a", via("2001:db8::9"), P6)
    world.rib.peer_down(NAME, frozenset({Family.IPV4}), is_doubted=True)
    assert {P: Via((address("192.0.2.9"),))} == world.fib()


def test_filters_that_change_leave_doubts_where_they_are() -> None:
    """What is stale goes through them as it came, and is kept as it was."""
    marked = replace(A, imports=("mark",))
    world = World()
    world.rib.filter([Filter("mark", default="accept")], [])
    world.up(marked)
    world.up(B)
    world.hear("a", PREFERRED, P)
    world.hear("b", via("192.0.2.10"), P)
    world.rib.peer_down(NAME, BOTH, is_doubted=True)
    marking = Filter("mark", rules=(Rule(action="accept", local_pref=300),))
    world.rib.filter([marking], [marked, B])
    world.work()
    (shown,) = (each for each in world.shown(P) if each.peer == "a")
    assert (world.best(P), shown.kept, shown.attributes.local_pref) == ("b", Kept.DOUBTED, 300)


# ── for long (RFC 9494) ──────────────────────────────────────────────────────

STALE, NOT_LONG = 0xFFFF0006, 0xFFFF0007
KNOWING, OTHER = internal("k", 13, Role.CLIENT, RouterId(900)), internal("o", 14, Role.CLIENT, RouterId(900))


def listened() -> World:
    """Return a reflector with a client that knows what is long-lived, and one that does not."""
    world = World(A, B, OTHER, cluster_id=RouterId(900))
    world.up(KNOWING, long_lived=LongLived())
    return world


def outlived(world: World, families: frozenset[Family] = BOTH) -> None:
    """Let peer a be away for longer than its restart time."""
    world.rib.peer_down(NAME, BOTH)
    world.work()
    world.rib.outlive(NAME, families)


def test_a_long_lived_path_is_marked_comes_last_and_goes_to_who_knows() -> None:
    """LLGR_STALE on it, whatever it was before; others hear a withdrawal, and the kernel nothing."""
    world = listened()
    world.hear("a", replace(PREFERRED, communities=(1,)), P)
    assert (world.heard("o", P) is None, world.heard("k", P) is None) == (False, False)
    installed = world.fib()
    outlived(world)
    assert installed == world.fib()
    assert world.take("o") == [(None, [P])]
    assert (told := world.heard("k", P)) is not None
    assert told.communities == (1, STALE)
    assert [(each.kept, each.is_stale, each.is_best) for each in world.shown(P)] == [(Kept.LONG_LIVED, True, True)]
    assert world.rib.long_lived_count(NAME) == world.rib.stale_count(NAME) == 1
    world.hear("b", via("192.0.2.10"), P)
    assert (world.best(P), world.reasons(P)) == ("b", {"a": "stale", "b": "stale"})
    assert world.heard("o", P) is not None


def test_a_reload_takes_no_long_lived_path_from_who_knows() -> None:
    """What a peer has said of itself stays as long as its session."""
    world = listened()
    world.hear("a", PREFERRED, P)
    outlived(world)
    world.take("k")
    world.rib.filter([], [KNOWING, OTHER])
    assert world.take("k") == []
    assert world.heard("k", P) is not None


def test_one_that_is_not_to_be_kept_for_long_goes() -> None:
    """NO_LLGR, said by the peer or by an import filter, whose rejection changes nothing about that."""
    world = World(A)
    world.hear("a", replace(PREFERRED, communities=(NOT_LONG,)), P)
    world.hear("a", PREFERRED, "10.2.0.0/16")
    outlived(world)
    assert {"10.2.0.0/16"} == set(world.fib())
    world = World()
    world.rib.filter([Filter("short", rules=(Rule(action="accept", add_community=(Community("no-llgr"),)),))], [])
    world.up(replace(A, imports=("short",)))
    world.hear("a", PREFERRED, P)
    outlived(world)
    assert (world.fib(), world.rib.prefixes()) == ({}, [])


def test_a_family_is_long_lived_for_itself() -> None:
    """The other stays as it was, and each is swept alone."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), P)
    world.hear("a", via("2001:db8::9"), P6)
    outlived(world, frozenset({Family.IPV6}))
    assert (kept(world, P), kept(world, P6)) == ({"a": Kept.ALIKE}, {"a": Kept.LONG_LIVED})
    world.rib.sweep(NAME, frozenset({Family.IPV6}))
    assert ({P}, 0) == (set(world.fib()), world.rib.long_lived_count(NAME))


def test_what_is_said_again_is_fresh() -> None:
    """Without the mark, and what is not said again goes with End-of-RIB."""
    world = listened()
    world.hear("a", PREFERRED, P, "10.2.0.0/16")
    outlived(world)
    world.up(A, BOTH)
    world.hear("a", PREFERRED, P)
    assert kept(world, P) == {"a": Kept.ALIKE}
    assert (told := world.heard("o", P)) is not None
    assert told.communities == ()
    world.rib.sweep(NAME, BOTH)
    assert {P} == set(world.fib())


def test_a_peer_that_says_so_itself_comes_last_too() -> None:
    """A path that came with LLGR_STALE is somebody else's stale one (RFC 9494 section 4.3)."""
    world = listened()
    world.hear("a", replace(PREFERRED, communities=(STALE,)), P)
    assert (world.heard("o", P), world.heard("k", P) is None) == (None, False)
    world.hear("b", via("192.0.2.10"), P)
    assert world.best(P) == "b"
    assert not any(shown.is_stale for shown in world.shown(P))


def test_doubts_end_in_the_long_run_too() -> None:
    """A path that was doubted is marked like others, and after a second loss still is."""
    world = listened()
    world.hear("a", PREFERRED, P)
    world.rib.peer_down(NAME, BOTH, is_doubted=True)
    world.rib.outlive(NAME, BOTH)
    world.up(A, BOTH)
    world.rib.peer_down(NAME, BOTH, is_doubted=True)
    assert (kept(world, P), world.heard("o", P)) == ({"a": Kept.LONG_LIVED}, None)


def test_several_paths_of_a_prefix_are_kept_each_for_itself() -> None:
    """By identifier (RFC 7911): the one that is not to be kept for long goes, and what is said again is fresh alone."""
    several = replace(A, add_path=AddPath(0))
    world = World(several, B)
    world.hear_paths("a", via("192.0.2.21"), (1, P), (1, P6))
    world.hear_paths("a", replace(via("192.0.2.22"), communities=(NOT_LONG,)), (2, P))
    world.hear_paths("a", via("192.0.2.23"), (3, P))
    ways = {P: Via(tuple(address(f"192.0.2.{number}") for number in (21, 22, 23)))}
    world.rib.peer_down(NAME, frozenset({Family.IPV4}), is_doubted=True)
    assert ways == world.fib()
    world.hear("b", via("192.0.2.10"), P)
    assert {P: Via((address("192.0.2.10"),))} == world.fib()
    world.lose("b", P)
    world.rib.outlive(NAME, BOTH)
    assert {P: Via((address("192.0.2.21"), address("192.0.2.23")))} == world.fib()
    assert [(each.path_id, each.kept) for each in world.shown(P)] == [(1, Kept.LONG_LIVED), (3, Kept.LONG_LIVED)]
    assert world.rib.long_lived_count(NAME) == 2
    world.up(several, BOTH)
    world.hear_paths("a", via("192.0.2.23"), (3, P))
    assert {P: Via((address("192.0.2.23"),))} == world.fib()
    assert [(each.path_id, each.kept) for each in world.shown(P)] == [(3, Kept.ALIKE), (1, Kept.LONG_LIVED)]
    world.rib.sweep(NAME, BOTH)
    assert [each.path_id for each in world.shown(P)] == [3]
