"""Several paths of a prefix (RFC 7911): whatever has happened, what follows is that of what there is now."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpmesh.peering.peer import AddPath, Peer
from bgpmesh.rib.export import Batch
from bgpmesh.rib.rule import Community, Filter, Rule
from bgpmesh.route.attributes import PathAttributes, RouterId
from bgpmesh.route.nlri import Family, Nlri, parse_nlri, prefix_of, prefix_text
from bgpmesh.route.path import PeerName, Role
from tests.unit.rib.ribworld import BOTH, CLUSTER_ID, NONE, World, changed, external, internal, via

PREFIXES = ("10.1.0.0/16", "10.2.0.0/16", "2001:db8:5::/48")
MARK = 64512 << 16 | 1
MARKED = Filter("unmarked", "accept", (Rule(community=(Community("64512:1"),), action="reject"),))

# Whose paths come with identifiers, and who takes several.
PEERS: dict[str, Peer] = {
    "rr": replace(internal("rr", 11, Role.NON_CLIENT, CLUSTER_ID), add_path=AddPath(8)),
    "c1": replace(internal("c1", 21, Role.CLIENT, CLUSTER_ID), add_path=AddPath(2)),
    "c2": internal("c2", 22, Role.CLIENT, CLUSTER_ID),
    "c3": replace(internal("c3", 23, Role.CLIENT, CLUSTER_ID), add_path=AddPath(8, receive=False)),
    "e1": replace(external("e1", "192.0.2.41"), add_path=AddPath(0)),
}
SENDS_IDS = {name for name, peer in PEERS.items() if peer.add_path is not None and peer.add_path.receive}


def attributes_of(prefix: str, number: int) -> PathAttributes:
    """Return one of the attribute sets that a prefix may have; new each time."""
    net = "2001:db8::" if ":" in prefix else "192.0.2."
    made = via(f"{net}{50 + number % 4}", *([65001] if number % 5 == 0 else []))
    return changed(
        made,
        local_pref=None if number % 3 else 90,
        communities=(MARK,) if number % 7 == 0 else (),
        originator_id=RouterId(21) if number % 11 == 0 else None,
    )


@dataclass(slots=True)
class Scene:
    """A Rib, what its peers have said and not taken back, and what those have heard who listen."""

    world: World
    said: dict[str, dict[Nlri, PathAttributes]] = field(default_factory=lambda: {name: {} for name in PEERS})
    heard: dict[str, dict[Nlri, PathAttributes]] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=lambda: dict(PEERS))

    def up(self, name: str, keep: frozenset[Family] = NONE) -> None:
        """Establish a session."""
        self.world.up(self.peers[name], keep=keep)
        self.heard[name] = {}

    def announce(self, name: str, key: Nlri, attributes: PathAttributes) -> None:
        """Let a peer say one path."""
        self.said[name][key] = attributes
        self.world.rib.receive(PeerName(name), attributes, [key], [], 7.0)

    def listen(self, name: str, limit: int) -> None:
        """Let a peer take what there is for it, or a part."""
        for batch in self.world.rib.take(PeerName(name), limit):
            if not isinstance(batch, Batch):
                continue
            for nlri in batch.nlris:
                if batch.attributes is None:
                    assert self.heard[name].pop(nlri, None) is not None, "nothing is taken back that was not told"
                else:
                    self.heard[name][nlri] = batch.attributes

    def settle(self) -> None:
        """Let all that follows be done and told."""
        self.world.work()
        for name in self.heard:
            while self.world.rib.has_routes_for(PeerName(name)):
                self.listen(name, 3)

    def told(self) -> dict[str, list[tuple[str, tuple[object, ...]]]]:
        """Return what each peer has heard, without identifiers, which may be others."""
        return {
            name: sorted(
                (prefix_text(nlri), (str(a.next_hop), a.originator_id or 0, a.as_path.length, a.communities))
                for nlri, a in table.items()
            )
            for name, table in self.heard.items()
        }

    def chosen(self) -> dict[str, object]:
        """Return what is selected, and what all candidates are."""
        rib = self.world.rib
        return {
            prefix_text(nlri): sorted(
                (str(c.peer), c.path_id or 0, str(c.attributes.next_hop), c.is_best, c.is_multipath, c.reason)
                for c in rib.candidates(nlri)
            )
            for nlri in rib.prefixes()
        }


def key(name: str, prefix: str, path_id: int) -> Nlri:
    """Return the key by which a peer says a path."""
    lead = path_id.to_bytes(4, "big") if name in SENDS_IDS else b""
    return Nlri(lead + parse_nlri(prefix))


def begun() -> Scene:
    """Return a scene with every session up."""
    scene = Scene(World(cluster_id=CLUSTER_ID))
    scene.world.rib.filter([MARKED], [])
    for name in PEERS:
        scene.up(name)
    return scene


names = st.sampled_from(sorted(PEERS))
ids = st.sampled_from([0, 1, 2, 0xFFFFFFFF])


@st.composite
def step(draw: st.DrawFn) -> Callable[[Scene], None]:  # noqa: C901  one kind of event after the other
    """Draw something that happens."""
    kind = draw(
        st.sampled_from(["announce"] * 6 + ["withdraw"] * 3 + ["work", "listen", "down", "restart", "filter", "own"])
    )
    name, prefix, path_id = draw(names), draw(st.sampled_from(PREFIXES)), draw(ids)
    number, limit = draw(st.integers(0, 40)), draw(st.integers(1, 5))

    def run(scene: Scene) -> None:
        rib = scene.world.rib
        match kind:
            case "announce":
                scene.announce(name, key(name, prefix, path_id), attributes_of(prefix, number))
            case "withdraw":
                scene.said[name].pop(key(name, prefix, path_id), None)
                rib.receive(PeerName(name), None, [], [key(name, prefix, path_id)])
            case "work":
                rib.work(limit)
            case "listen":
                scene.listen(name, limit)
            case "down":
                scene.said[name].clear()
                rib.peer_down(PeerName(name), NONE)
                scene.up(name)
            case "restart":  # it says a part again, and End-of-RIB
                rib.peer_down(PeerName(name), BOTH)
                scene.up(name, keep=BOTH)
                left = [each for at, each in enumerate(sorted(scene.said[name])) if (number >> at) & 1]
                again = {each: scene.said[name][each] for each in left}
                scene.said[name].clear()
                for each, attributes in again.items():
                    scene.announce(name, each, attributes)
                rib.sweep(PeerName(name), BOTH)
            case "filter":
                one = replace(
                    scene.peers[name],
                    imports=("unmarked",) if number & 1 else ("all",),
                    exports=("unmarked",) if number & 2 else ("all",),
                )
                scene.peers[name] = one
                rib.filter([MARKED], [one])
            case _:
                if number & 1:
                    rib.originate(parse_nlri(prefix), None, advertise=True)
                else:
                    rib.retire(parse_nlri(prefix))

    return run


@settings(max_examples=400, deadline=None)
@given(st.lists(step(), max_size=40), st.randoms(use_true_random=False))
def test_what_is_selected_and_told_follows_from_what_there_is(
    steps: list[Callable[[Scene], None]], order: random.Random
) -> None:
    """As in a Rib that hears at once, in another order, only what there is in the end; nobody holds a path twice."""
    scene = begun()
    for run in steps:
        run(scene)
    scene.settle()
    fresh = Scene(World(cluster_id=CLUSTER_ID), peers=scene.peers)
    fresh.world.rib.filter([MARKED], [])
    for name in PEERS:
        fresh.up(name)
    own = [nlri for nlri in scene.world.rib.prefixes() if any(c.peer is None for c in scene.world.rib.candidates(nlri))]
    for nlri in own:
        fresh.world.rib.originate(nlri, None, advertise=True)
    paths = [(name, each, attributes) for name, table in scene.said.items() for each, attributes in table.items()]
    order.shuffle(paths)
    for path in paths:
        fresh.announce(*path)
    fresh.settle()
    assert fresh.chosen() == scene.chosen()
    assert fresh.told() == scene.told()
    for name, table in scene.heard.items():
        assert dict(scene.world.rib.advertised(PeerName(name))).keys() == table.keys()
        hops = [(prefix_of(nlri), a.next_hop) for nlri, a in table.items() if len(nlri) in {9, 21}]
        assert name == "e1" or len(hops) == len(set(hops)), "one path for each next hop"
