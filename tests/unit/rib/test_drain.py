"""What peers hear of a node that leaves service, and of one that comes back (RFC 8326)."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.rib.drain import Drain
from bgpmesh.rib.rule import Filter, Rule
from bgpmesh.route.attributes import RouterId
from bgpmesh.route.community import GRACEFUL_SHUTDOWN, NO_EXPORT
from bgpmesh.route.nlri import parse_nlri
from bgpmesh.route.path import Blackhole, OnLink, Role
from tests.unit.rib.ribworld import World, changed, external, internal, via

BLOCK, WORKLOAD, ANYCAST, TRANSIT, REFLECTED = (
    "10.1.0.0/26",
    "10.1.0.5/32",
    "203.0.113.7/32",
    "10.9.0.0/16",
    "10.8.0.0/16",
)
OWN, ALL = {BLOCK, WORKLOAD}, {BLOCK, WORKLOAD, ANYCAST, TRANSIT, REFLECTED}


def world() -> World:
    """Return a reflector with a block, a workload, an address that others announce too, and routes to pass on."""
    made = World(
        internal("a", 11, Role.CLIENT, RouterId(900)),
        internal("b", 12, Role.CLIENT, RouterId(900)),
        external("e", "192.0.2.20"),
        external("f", "192.0.2.30", 65003),
        cluster_id=RouterId(900),
    )
    made.rib.originate(parse_nlri(BLOCK), Blackhole(), advertise=True)
    made.rib.originate(parse_nlri(WORKLOAD), OnLink("bgpm1"), advertise=True)
    made.rib.originate(parse_nlri(ANYCAST), None, advertise=True, is_movable=True)
    made.hear("f", changed(via("192.0.2.30", 65003), communities=(NO_EXPORT - 256,)), TRANSIT)
    made.hear("a", changed(via("192.0.2.11"), local_pref=300), REFLECTED)
    return made


def heard(made: World, name: str) -> dict[str, tuple[bool, int | None]]:
    """Return what a peer has been told: whether it is marked, and LOCAL_PREF."""
    made.take(name)
    return {
        prefix: (GRACEFUL_SHUTDOWN in told.communities, told.local_pref)
        for prefix in ALL
        if (told := made.heard(name, prefix)) is not None
    }


@pytest.mark.parametrize("step", [Drain.DRAINING, Drain.UNDRAINING])
def test_all_that_is_announced_is_the_last_choice(step: Drain) -> None:
    """Within the AS by LOCAL_PREF too, own, learnt and reflected; other communities stay, and the order is kept."""
    made = world()
    assert heard(made, "b") == dict.fromkeys(ALL, (False, 100)) | {REFLECTED: (False, 300)}
    made.rib.drain(step)
    assert heard(made, "b") == dict.fromkeys(ALL, (True, 0))
    assert heard(made, "e") == dict.fromkeys(ALL, (True, None))
    told = made.heard("e", TRANSIT)
    assert told is not None
    assert told.communities == (GRACEFUL_SHUTDOWN, NO_EXPORT - 256)


def test_a_drained_node_announces_what_nobody_else_has() -> None:
    """Its blocks and workloads stay, as the last choice; a peer that comes then hears the same."""
    made = world()
    heard(made, "e")
    made.rib.drain(Drain.DRAINING)
    heard(made, "e")
    made.rib.drain(Drain.DRAINED)
    made.work()
    gone = [prefix for hop, prefixes in made.take("e") if hop is None for prefix in prefixes]
    assert set(gone) == ALL - OWN
    assert heard(made, "b") == dict.fromkeys(OWN, (True, 0))
    made.up(internal("c", 13))
    assert heard(made, "c") == dict.fromkeys(OWN, (True, 0))


def test_a_stopped_node_withdraws_all_and_back_in_service_says_all_again() -> None:
    """Nothing is left of the mark."""
    made = world()
    before = heard(made, "b")
    made.rib.drain(Drain.STOPPED)
    assert heard(made, "b") == {}
    made.rib.drain(Drain.NONE)
    assert heard(made, "b") == before


def test_a_change_of_step_says_each_prefix_once() -> None:
    """And a step that changes nothing for a peer says nothing."""
    made = world()
    heard(made, "b")
    made.rib.drain(Drain.DRAINING)
    assert sorted(prefix for _, prefixes in made.take("b") for prefix in prefixes) == sorted(ALL)
    made.rib.drain(Drain.UNDRAINING)
    assert made.take("b") == []


def test_an_export_filter_does_not_take_the_mark_away() -> None:
    """Nor does it set another LOCAL_PREF: who leaves service leaves."""
    made = World(internal("a", 11))
    rule = Rule(action="accept", local_pref=500, med=7)
    made.rib.filter([Filter("f", "accept", (rule,))], [replace(internal("a", 11), exports=("f",))])
    made.rib.originate(parse_nlri(BLOCK), Blackhole(), advertise=True)
    assert (told := made.heard("a", BLOCK)) is not None
    assert (told.local_pref, told.med) == (500, 7)
    made.rib.drain(Drain.DRAINING)
    assert (told := made.heard("a", BLOCK)) is not None
    assert (told.local_pref, told.med, told.communities) == (0, 7, (GRACEFUL_SHUTDOWN,))
    made.rib.filter([], [internal("a", 11)])  # a reload
    assert (told := made.heard("a", BLOCK)) is not None
    assert (told.local_pref, told.med, told.communities) == (0, None, (GRACEFUL_SHUTDOWN,))


def test_a_neighbour_that_leaves_loses_with_the_reason_named() -> None:
    """`routes` says why."""
    made = World(external("e", "192.0.2.20"), external("f", "192.0.2.30", 65003))
    made.hear("e", changed(via("192.0.2.20", 65001), communities=(GRACEFUL_SHUTDOWN,)), TRANSIT)
    made.hear("f", via("192.0.2.30", 65003, 65004), TRANSIT)
    assert made.reasons(TRANSIT) == {"e": "local-pref (graceful shutdown)", "f": "local-pref"}
    assert made.best(TRANSIT) == "f"


def test_links_towards_peers_and_next_hops_are_told_by_number() -> None:
    """The loopback and what leads nowhere are none of them."""
    made = World(external("e", "192.0.2.20"))
    made.hear("e", via("192.0.2.20", 65001), TRANSIT)
    made.work()
    assert made.rib.ways.links_towards(()) == {2}
    assert made.rib.ways.links_towards([ipaddress.ip_address("198.51.100.1")]) == {2}
