"""What counts of a peer that is away: alike after a restart, after all others where that is in doubt."""

from __future__ import annotations

from dataclasses import replace

from bgpmesh.rib.decision import Kept
from bgpmesh.rib.rule import Filter, Rule
from bgpmesh.route.nlri import Family
from bgpmesh.route.path import PeerName, Via
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
