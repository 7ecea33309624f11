"""What operators see of several paths of a prefix (RFC 7911)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import cast

import pytest

from bgpmesh.control import tables, views
from bgpmesh.rib.adjribin import AdjRibIn
from bgpmesh.route.nlri import Nlri
from bgpmesh.route.path import PeerName, Role
from tests.unit.rib.ribworld import CLUSTER_ID, World, changed, internal, key, via
from tests.unit.rib.test_add_path import RR, P, Q, client, of


def paths(world: World, **args: str) -> list[Mapping[str, object]]:
    """Return the paths of P as `bgpmesh routes` has them."""
    sessions = dict.fromkeys(world.rib._ins.keys() | {PeerName("c4")})
    local = SimpleNamespace(process_of=lambda _: None)
    engine = SimpleNamespace(rib=world.rib, local=local, peers=SimpleNamespace(sessions=sessions))
    running = cast("views.Running", SimpleNamespace(engine=engine))
    (route,) = cast("Iterable[Mapping[str, object]]", views.answer("routes", {"prefix": P, **args}, running))
    return cast("list[Mapping[str, object]]", route["paths"])


def shown(found: list[Mapping[str, object]], *keys: str) -> list[tuple[object, ...]]:
    """Return what they say under these keys."""
    return [tuple(path[each] for each in keys) for path in found]


def test_paths_of_one_peer_are_told_apart() -> None:
    """In what is there, what was received and what became of it: each with its identifier; so in the table."""
    world = World(RR)
    world.hear_paths("rr", of(21), (7, P))
    world.hear_paths("rr", changed(of(22), med=5), (9, P))
    world.work()
    rows = paths(world)
    assert shown(rows, "peer", "path_id", "best", "reason") == [("rr", 7, True, "med"), ("rr", 9, False, "med")]
    received = paths(world, received="rr")
    assert shown(received, "path_id", "next_hop", "accepted") == [(7, "192.0.2.21", True), (9, "192.0.2.22", True)]
    assert "rr path 9" in tables.routes([{"prefix": P, "kernel": "installed", "paths": rows}])


def test_many_paths_of_a_prefix_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of each is found by its identifier: a look through all of them for each would take minutes."""
    world, asked = World(RR), list[Nlri]()
    for number in range(1, 30):
        world.hear_paths("rr", changed(of(21), med=number), (number, P))
    world.work()
    keys_of = AdjRibIn.keys_of

    def counted(rib_in: AdjRibIn, nlri: Nlri) -> tuple[Nlri, ...]:
        asked.append(nlri)
        return keys_of(rib_in, nlri)

    monkeypatch.setattr(AdjRibIn, "keys_of", counted)
    received = paths(world, received="rr")
    assert shown(received, "path_id", "med") == [(number, number) for number in range(1, 30)]
    assert asked == [key(P)]


def test_who_was_told_of_a_prefix() -> None:
    """By one path or by several, but for who it came from; until it is taken back."""
    world = World(client("c4", 24), internal("c1", 21, Role.CLIENT, CLUSTER_ID), cluster_id=CLUSTER_ID)
    world.up(internal("c2", 22, Role.CLIENT, CLUSTER_ID))
    world.hear("c1", via("192.0.2.21"), P)
    told = [name for name in ("c1", "c2", "c4") if world.take(name) and world.rib.is_told(PeerName(name), key(P))]
    assert told == ["c2", "c4"]
    assert not world.rib.is_told(PeerName("c4"), key(Q))
    world.lose("c1", P)
    world.take("c4")
    assert not world.rib.is_told(PeerName("c4"), key(P))


def test_what_a_peer_was_told_says_whose_each_path_is() -> None:
    """Each with our identifier of it; this node's own has no peer."""
    world = World(client("c4", 24), internal("c1", 21, Role.CLIENT, CLUSTER_ID), cluster_id=CLUSTER_ID)
    world.up(internal("c2", 22, Role.CLIENT, CLUSTER_ID))
    world.hear("c1", via("192.0.2.21"), P)
    world.hear("c2", via("192.0.2.22"), P)
    world.rib.originate(key(P), None, advertise=True)
    world.take("c4")
    found = paths(world, advertised="c4")
    assert {("c1", "192.0.2.21"), ("c2", "192.0.2.22"), (None, "192.0.2.1")} == set(shown(found, "peer", "next_hop"))
    assert len({path["path_id"] for path in found} - {None}) == 3
