"""The decision table: every step puts out the right path, and says its name."""

from __future__ import annotations

import itertools
import random
import struct

import pytest

from bgpmesh.rib.decision import TIE_BREAKS, UP_TO_COST, Path, _lowest, decide, ranked, select
from bgpmesh.rib.nexthop import NextHop
from bgpmesh.route.attributes import Asn, AsPath, Origin, PathAttributes, RouterId, SegmentKind
from bgpmesh.route.path import LOCAL, PeerName, Resolution, Role, Source, Via
from tests.unit.rib.ribworld import address, sequence


def path(
    name: str,
    *,
    role: Role = Role.NON_CLIENT,
    cost: int = 0,
    hop: str = "192.0.2.9",
    at: str = "192.0.2.2",
    router_id: int = 5,
    **fields: object,
) -> Path:
    """Return an eligible path of a peer."""
    next_hop = NextHop(address(hop), is_single_hop=False, resolution=Resolution(2, None, cost))
    attributes = PathAttributes(**{"as_path": sequence(65001), "next_hop": next_hop.address, **fields})  # type: ignore[arg-type]
    source = Source(PeerName(name), role, RouterId(router_id), address(at))
    return Path(source, attributes, attributes, next_hop=next_hop, target=next_hop.target)


CASES = [
    ("local-pref", {"local_pref": 200}, {}),
    ("local-pref", {}, {"local_pref": 99}),
    ("as-path-length", {"as_path": sequence(65001)}, {"as_path": sequence(65001, 65002)}),
    ("origin", {"origin": Origin.IGP}, {"origin": Origin.INCOMPLETE}),
    ("med", {}, {"med": 5}),
    ("prefer-external", {"role": Role.EXTERNAL}, {"role": Role.CLIENT}),
    ("igp-cost", {"cost": 5}, {"cost": 10}),
    ("router-id", {"router_id": 4}, {}),
    ("router-id", {"originator_id": RouterId(3)}, {"router_id": 4}),
    ("cluster-list-length", {}, {"cluster_list": (RouterId(8),)}),
    ("peer-address", {"at": "192.0.2.2"}, {"at": "192.0.2.3"}),
    ("peer-address", {"at": "192.0.2.200"}, {"at": "2001:db8::2"}),
    ("peer-name", {}, {}),
]


@pytest.mark.parametrize(("step", "better", "worse"), CASES)
def test_each_step_puts_out_the_worse_and_says_its_name(
    step: str, better: dict[str, object], worse: dict[str, object]
) -> None:
    """Two paths that differ in one thing only: the step for it decides, in either order."""
    winner, loser = path("a", **better), path("b", **worse)  # type: ignore[arg-type]
    for order in itertools.permutations((winner, loser)):
        decision = decide(order)
        assert winner is decision.best
        assert (step, {loser: step}) == (decision.won_by, decision.lost)


def test_what_this_node_has_itself_always_wins() -> None:
    """A local path beats any preference."""
    own = Path(LOCAL, PathAttributes(), PathAttributes())
    learnt = path("a", local_pref=1000)
    assert {learnt: "local"} == decide([learnt, own]).lost


def test_the_neighbouring_as_stands_behind_a_confederation() -> None:
    """MEDs of two ASes are not compared because the paths came through the same confederation."""
    members = ((SegmentKind.CONFED_SEQUENCE, (Asn(64513),)),)
    first = path("a", med=10, as_path=AsPath((*members, *sequence(65001).segments)), router_id=1)
    second = path("b", med=5, as_path=AsPath((*members, *sequence(65002).segments)), router_id=9)
    assert {second: "router-id"} == decide([first, second]).lost


@pytest.mark.parametrize("seed", range(100))
def test_each_in_the_order_is_the_best_of_what_is_left(seed: int) -> None:
    """What is worked out at once is what deciding again without the best, and again, comes to."""
    draw = random.Random(seed)
    left = [
        path(
            f"p{draw.randrange(3)}",
            role=draw.choice((Role.EXTERNAL, Role.CLIENT)),
            cost=draw.choice((5, 10)),
            router_id=draw.choice((4, 5)),
            med=draw.randrange(4),
            as_path=sequence(draw.choice((65001, 65002, 65003)), *([65009] if draw.random() < 0.2 else [])),
        )
        for _ in range(12)
    ]
    found = ranked(left)
    for each in found:
        assert decide(left).best is each
        left.remove(each)
    assert left == []


def test_med_counts_only_within_a_neighbouring_as() -> None:
    """The classic three: whatever the order, the same wins, though no pairwise order of them exists."""
    first = path("a", med=10, as_path=sequence(65001), router_id=1)
    second = path("b", med=5, as_path=sequence(65001), router_id=9)
    third = path("c", med=20, as_path=sequence(65002), router_id=5)
    for order in itertools.permutations((first, second, third)):
        decision = decide(order)
        assert third is decision.best
        assert {first: "med", second: "router-id"} == decision.lost


def test_a_single_path_wins_as_the_only_one() -> None:
    """There is nobody to lose."""
    decision = decide([path("a")])
    assert (decision.won_by, decision.lost) == ("only path", {})


def test_equal_up_to_the_cost_is_shared() -> None:
    """Router id and what follows do not keep a path out of ECMP; next hops come sorted and distinct."""
    paths = [
        path("a", hop="192.0.2.9"),
        path("b", hop="192.0.2.10", router_id=6),
        path("c", hop="192.0.2.9", router_id=7),
    ]
    chosen = select(paths, ecmp=8)
    assert chosen is not None
    assert paths == list(chosen.multipath)
    assert Via((address("192.0.2.9"), address("192.0.2.10"))) == chosen.target


def test_a_step_that_puts_nobody_out_makes_no_list() -> None:
    """Most are such, and a prefix may have thousands of paths."""
    paths = [path(name, router_id=number) for number, name in enumerate("abc")]
    kept = [_lowest(key, paths) for _, key in UP_TO_COST if key is not None]
    assert all(each is paths for each in kept)
    assert _lowest(TIE_BREAKS[0][1], paths) == paths[:1]


@pytest.mark.parametrize("other", [{"cost": 1}, {"med": 1}, {"role": Role.EXTERNAL}, {"local_pref": 99}])
def test_unequal_is_not_shared(other: dict[str, object]) -> None:
    """One step before the tie-breaks is enough to be out."""
    chosen = select([path("a"), path("b", hop="192.0.2.10", **other)], ecmp=8)  # type: ignore[arg-type]
    assert chosen is not None
    assert len(chosen.multipath) == 1


def test_ecmp_is_limited_and_keeps_the_best() -> None:
    """No more next hops than allowed, the best one among them whatever its address."""
    paths = [path(name, hop=f"192.0.2.{30 - at}", router_id=at) for at, name in enumerate("abcd")]
    for order in itertools.permutations(paths):
        chosen = select(order, ecmp=2)
        assert chosen is not None
        assert Via((address("192.0.2.29"), address("192.0.2.30"))) == chosen.target
        assert paths[:2] == list(chosen.multipath)


def test_shares_follow_link_bandwidth_where_all_say_it() -> None:
    """The extended community of draft-ietf-idr-link-bandwidth, transitive or not; alike, or not all: no shares."""

    def chosen(*bandwidths: float | None) -> Via:
        said = [() if each is None else (b"\x40\x04\xfd\xe8" + struct.pack("!f", each),) for each in bandwidths]
        paths = [path(f"p{n}", hop=f"192.0.2.{10 + n}", ext_communities=each) for n, each in enumerate(said)]
        found = select(paths, ecmp=8)
        assert found is not None
        assert isinstance(found.target, Via)
        return found.target

    assert chosen(1e9, 4e9, 2e9).weights == (25, 100, 50)
    assert chosen(1.0, 1e9).weights == (1, 100)
    assert chosen(1e9, 1e9).weights == chosen(1e9, None).weights == chosen(1e9, float("inf")).weights == ()
    assert chosen(1e9, float("nan")).weights == chosen(1e9, 0.0).weights == ()


def test_what_cannot_be_reached_is_not_selected() -> None:
    """A better path without a way to its next hop is passed over, and says why."""
    lost = path("a", local_pref=200)
    assert lost.next_hop is not None
    lost.next_hop.resolution, lost.next_hop.reason = None, "no route"
    found = path("b")
    chosen = select([lost, found], ecmp=8)
    assert chosen is not None
    assert found is chosen.best
    assert lost.why_not == "next hop 192.0.2.9 cannot be reached: no route"
    assert select([lost], ecmp=8) is None
