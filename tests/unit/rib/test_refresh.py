"""Route refresh in the tables: what a peer says again, and what we say again (RFC 2918, RFC 7313)."""

from __future__ import annotations

from bgpmesh.route.nlri import Family, parse_nlri
from bgpmesh.route.path import Blackhole, PeerName
from tests.unit.rib.ribworld import World, internal, via

A, B = internal("a", 11), internal("b", 12)
NAME = PeerName("a")
P, Q, P6 = "10.1.0.0/24", "10.2.0.0/24", "2001:db8:5::/48"


def heard() -> World:
    """Return a world in which `a` has said three prefixes."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), P, Q)
    world.hear("a", via("2001:db8::9"), P6)
    return world


def test_what_is_not_said_again_goes() -> None:
    """All of the family is stale and used; the end takes what was not repeated, and nothing of the other family."""
    world = heard()
    world.rib.mark_stale(NAME, Family.IPV4)
    assert {P, Q, P6} == world.fib().keys()
    assert [True, True, False] == [world.shown(prefix)[0].is_stale for prefix in (P, Q, P6)]
    world.hear("a", via("192.0.2.9"), P)
    world.rib.sweep(NAME, frozenset({Family.IPV4}))
    assert {P, P6} == world.fib().keys()
    assert not world.shown(P)[0].is_stale


def test_what_is_withdrawn_meanwhile_is_gone() -> None:
    """A withdrawal within a refresh counts at once, and the end finds nothing of it."""
    world = heard()
    world.rib.mark_stale(NAME, Family.IPV4)
    world.lose("a", P)
    assert {Q, P6} == world.fib().keys()
    world.hear("a", via("192.0.2.9"), Q)
    world.rib.sweep(NAME, frozenset({Family.IPV4}))
    assert {Q, P6} == world.fib().keys()


def test_a_peer_that_nothing_is_held_of_says_nothing_again() -> None:
    """Neither an empty table nor an unknown peer is harmed."""
    world = World(A)
    for name in (NAME, PeerName("nobody")):
        world.rib.mark_stale(name, Family.IPV4)
        world.rib.sweep(name, frozenset({Family.IPV4}))
    assert world.fib() == {}


# ── what we say ──────────────────────────────────────────────────────────────


def saying(*prefixes: str) -> World:
    """Return a world in which enhanced `a` and plain `b` were told of prefixes of our own, and End-of-RIB."""
    world = World(B)
    world.up(A, enhanced=True)
    for prefix in prefixes:
        world.rib.originate(parse_nlri(prefix), Blackhole(), advertise=True)
    for name in ("a", "b"):
        world.rib.send_end_of_rib(PeerName(name))
        world.take(name)
    return world


def test_an_answer_stands_between_its_begin_and_its_end() -> None:
    """Each family for itself; a peer that does not know of it gets the routes alone."""
    world = saying(P, P6)
    for name in ("a", "b"):
        world.rib.refresh(PeerName(name), Family.IPV4)
    assert world.take("a") == [("BEGIN", ["ipv4"]), ("192.0.2.1", [P]), ("END", ["ipv4"])]
    assert world.take("b") == [("192.0.2.1", [P])]
    assert (world.take("a"), world.rib.has_routes_for(NAME)) == ([], False)


def test_an_answer_may_be_empty() -> None:
    """Then the peer learns that nothing is left."""
    world = saying(P6)
    world.rib.refresh(NAME, Family.IPV4)
    assert world.take("a") == [("BEGIN", ["ipv4"]), ("END", ["ipv4"])]


def test_an_answer_waits_for_the_end_of_the_first_table() -> None:
    """BoRR never leaves before End-of-RIB (RFC 7313 §4)."""
    world = World()
    world.up(A, enhanced=True)
    world.rib.originate(parse_nlri(P), Blackhole(), advertise=True)
    world.rib.refresh(NAME, Family.IPV4)
    assert world.take("a") == [("192.0.2.1", [P])]
    world.rib.send_end_of_rib(NAME)
    told = world.take("a")
    assert told == [
        ("end", ["ipv4"]),
        ("end", ["ipv6"]),
        ("BEGIN", ["ipv4"]),
        ("192.0.2.1", [P]),
        ("END", ["ipv4"]),
    ]


def test_what_changes_meanwhile_is_told_too() -> None:
    """A slow peer has all of the family before the end, whatever comes and goes between."""
    many = [f"10.{number}.0.0/16" for number in range(64)]
    world = saying(*many)
    world.rib.refresh(NAME, Family.IPV4)
    first = world.rib.take(NAME, 1)
    assert len(first) >= 1
    world.rib.retire(parse_nlri(many[0]))
    world.rib.originate(parse_nlri(P), Blackhole(), advertise=True)
    rest = world.take("a", limit=1)
    assert rest.index(("END", ["ipv4"])) >= 0
    assert ([(None, [many[0]])], [("192.0.2.1", [P])]) == (
        [said for said in rest if said[0] is None],
        [said for said in rest if P in said[1]],
    )


def test_a_second_request_meanwhile_is_answered_too() -> None:
    """The answer to it has a begin and an end of its own, behind those of the first."""
    world = saying(P)
    world.rib.refresh(NAME, Family.IPV4)
    (begun,) = world.rib.take(NAME, 1)[:1]
    assert begun is not None
    world.rib.refresh(NAME, Family.IPV4)
    rest = world.take("a")
    assert rest[-3:] == [("BEGIN", ["ipv4"]), ("192.0.2.1", [P]), ("END", ["ipv4"])]
    assert rest.count(("END", ["ipv4"])) == 2
