"""A journal gives back what was recorded, and its replay an engine like the one that kept it."""

from __future__ import annotations

import ipaddress
import json
import random
import typing
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpmesh.engine import Engine
from bgpmesh.events import Command, Configured, Event
from bgpmesh.journal.forms import Forms, rendered
from bgpmesh.journal.record import Journal
from bgpmesh.journal.story import read
from bgpmesh.route.nlri import IPNetwork, Nlri, nlri_of
from bgpmesh.route.path import PeerName
from tests.outcome import outcome
from tests.property.cluster import Cluster
from tests.property.test_cluster import mesh, reflected

PLENTY = 100_000_000  # octets

# ── every event, whatever is in it ───────────────────────────────────────────

EVENTS: tuple[type[Event], ...] = typing.get_args(Event)
NETWORKS: st.SearchStrategy[IPNetwork] = st.one_of(
    st.from_type(ipaddress.IPv4Network), st.from_type(ipaddress.IPv6Network)
)
NLRIS: st.SearchStrategy[Nlri] = NETWORKS.map(nlri_of)


def any_of(hint: object) -> st.SearchStrategy[object]:
    """Return values of an annotation, whose prefixes are prefixes; no number is NaN, and so unlike itself."""
    with_prefixes: typing.Any = st.register_type_strategy
    with_prefixes(Nlri, NLRIS)
    with_prefixes(float, st.floats(allow_nan=False))
    return st.from_type(typing.cast("type[object]", hint))


def is_same(one: object, other: object) -> bool:
    """Tell whether the second is the first as a journal gives it back: secrets hidden, identity aside."""
    if is_dataclass(one) and type(one) is type(other):
        shown = [each.name for each in fields(one) if each.repr]
        return all(is_same(getattr(one, name), getattr(other, name)) for name in shown)
    if isinstance(other, dict):
        return is_same(list(typing.cast("Mapping[object, object]", one).items()), list(other.items()))
    if isinstance(other, frozenset):
        return set(typing.cast("Iterable[object]", one)) == other
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return one == other and (isinstance(one, int) or type(one) is type(other))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_every_event_comes_back_as_it_was(event: type[Event], data: st.DataObject) -> None:
    """What is written as JSON and read by another is the same value."""
    value = data.draw(any_of(event))
    text = rendered(Forms().of(event).written(value))
    assert is_same(value, Forms().of(event).read(json.loads(text)))


# ── the same answers ─────────────────────────────────────────────────────────


class Kept(deque[Command]):
    """Commands that are remembered when they are taken out."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Command] = []

    def append(self, command: Command) -> None:
        """Add one."""
        self.all.append(command)
        super().append(command)


@dataclass
class Lives:
    """Every engine that a cluster ever had, each with its journal."""

    directory: Path
    all: list[tuple[Engine, Kept, Journal]] = field(default_factory=list)

    def engine(self, configured: Configured, listed: Iterable[PeerName] | None, jitter: Callable[[], float]) -> Engine:
        """Return an engine that keeps a journal."""
        directory = self.directory / str(len(self.all))
        directory.mkdir()
        journal = Journal(directory, configured.node, 0.0, limit=PLENTY)
        engine = journal.engine(configured, listed, jitter)
        engine.peers.commands = kept = Kept()
        self.all.append((engine, kept, journal))
        return engine

    def assert_replayed(self) -> None:
        """Compare each engine with what comes of its journal."""
        for engine, kept, journal in self.all:
            journal.write(journal.pages())
            story = read(journal.file)
            *_, (_, again) = story.replay()
            assert outcome(engine) == outcome(again)
            assert list(engine.notes) == list(again.notes)
            assert kept.all == list(again.peers.commands)
            assert engine.next_wakeup() == again.next_wakeup()


@pytest.mark.parametrize("configurations", [mesh(4), reflected(3)], ids=["mesh", "reflected"])
@pytest.mark.parametrize("seed", range(8))
def test_a_replay_answers_as_the_recorded_engine_did(
    configurations: list[Configured], seed: int, tmp_path: Path
) -> None:
    """Whatever befell a cluster, each engine's tables, notes and commands come out of its journal again."""
    lives, draw = Lives(tmp_path), random.Random(seed)
    cluster = Cluster(configurations, seed, lives.engine)
    for name in cluster.nodes:
        cluster.start(name)
    cluster.settle(draw.choice((0.5, 20)))
    for _ in range(4):
        name = draw.choice(list(cluster.nodes))
        node = cluster.nodes[name]
        match draw.randrange(5):
            case 0:
                (cluster.kill if node.engine is not None else cluster.start)(name)
            case 1 if node.engine is not None:
                cluster.stop(name)
            case 2 if node.engine is not None:
                cluster.reconfigure(name, replace(node.configured, peers=node.configured.peers[1:], ecmp=1))
            case 3 if node.engine is not None:
                cluster.reconfigure(name, next(each for each in configurations if each.node == name))
            case _:
                cluster.cut ^= {frozenset(draw.sample(sorted(cluster.nodes), 2))}
        for _ in range(draw.choice((10, 10_000))):
            if not cluster._step():
                break
        cluster.settle(draw.choice((1, 30, 200)))
    lives.assert_replayed()
