"""What a node begins with, what it writes when, and what becomes of a disk that refuses."""

from __future__ import annotations

import ipaddress
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpmesh.engine import Engine
from bgpmesh.events import EndpointAdded, FibRead
from bgpmesh.keeper import Keeper
from bgpmesh.restart import LastLife
from bgpmesh.saved import Saved
from bgpmesh.state import KeptConfig, State
from tests.unit.test_engine import ADOPTED, N2, WEB, configured

KEPT = KeptConfig("text", "file", "digest")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """Return a state directory that is open."""
    state = State(tmp_path / "state")
    state.open("n1")
    yield state
    state.close()


def start(state: State) -> tuple[Saved, Engine, Keeper]:
    """Begin a life."""
    saved = Saved(state, KEPT)
    engine = Engine(configured(), saved.peers, lambda: 0.5, adopt_endpoints=not saved.has_endpoints)
    return saved, engine, Keeper(state, lambda _: None)


def test_what_has_changed_is_written_and_found_at_the_next_start(state: State) -> None:
    """A first boot knows nothing, which is no problem."""
    saved, engine, keeper = start(state)
    assert (saved.peers, saved.has_endpoints, saved.problems) == (None, False, {})
    engine.handle(FibRead({}, {}), 1.0)
    engine.peers.held = frozenset((N2,))
    engine.handle(EndpointAdded(WEB), 1.0)
    saved.save(engine, keeper, 1.0)
    again = Saved(state, KEPT)
    assert (again.peers, again.endpoints, again.has_endpoints) == (frozenset((N2,)), {WEB.key: WEB}, True)
    assert state.config().value == KEPT


def test_what_has_not_changed_is_not_written_again(state: State, tmp_path: Path) -> None:
    """A turn that changes nothing costs no write."""
    saved, engine, keeper = start(state)
    saved.save(engine, keeper, 1.0)
    for file in (tmp_path / "state").glob("*.json"):
        file.unlink()
    saved.save(engine, keeper, 2.0)
    assert list((tmp_path / "state").glob("*.json")) == []


def test_a_start_that_is_broken_off_leaves_an_unknown_list_unknown(state: State) -> None:
    """Nobody on it would let the next start sweep at once; once the kernel is read everybody is."""
    saved, engine, keeper = start(state)
    saved.save(engine, keeper, 1.0)
    assert state.peers().value is None
    saved, engine, keeper = start(state)
    engine.handle(FibRead(ADOPTED, {}), 2.0)
    saved.save(engine, keeper, 2.0)
    assert state.peers().value == ("n2", "n3")


def test_a_life_is_written_once_it_has_begun_and_whenever_it_is_another(state: State) -> None:
    """Not before the kernel is known: until then the one before stands."""
    state.save_last_life("here", LastLife(is_bare=True, announced={"p": 2}))
    saved = Saved(state, KEPT, "here")
    assert saved.last == LastLife(is_bare=True, announced={"p": 2})
    engine, keeper = Engine(configured(), saved.peers, lambda: 0.5, last=saved.last), Keeper(state, lambda _: None)
    saved.save(engine, keeper, 1.0)
    assert Saved(state, KEPT, "here").last.announced == {"p": 2}
    engine.handle(FibRead(ADOPTED, {}), 2.0)
    engine.work(100, 2.0)
    saved.save(engine, keeper, 2.0)
    assert Saved(state, KEPT, "here").last == LastLife(is_bare=False, announced={})
    assert Saved(state, KEPT, "elsewhere").last == LastLife(is_bare=False, announced={})


def test_who_was_found_on_a_link_is_written_and_known_at_the_next_start(state: State) -> None:
    """Once, and no more while nobody else is."""
    saved, engine, keeper = start(state)
    ends = ipaddress.ip_address("fe80::1%eth1"), ipaddress.ip_address("fe80::2%eth1")
    saved.know({"eth1": ends})
    saved.save(engine, keeper, 1.0)
    assert Saved(state, KEPT).neighbours == {"eth1": ends}
    state.save_neighbours({})
    saved.save(engine, keeper, 2.0)
    assert Saved(state, KEPT).neighbours == {}


def test_what_the_disk_refuses_is_a_problem_and_tried_again(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not before a second is over; told once, and once more when it is written."""
    saved, engine, keeper = start(state)
    shutil.move(tmp_path / "state", tmp_path / "away")
    engine.handle(FibRead({}, {}), 9.0)
    engine.handle(EndpointAdded(WEB), 10.0)
    with caplog.at_level(logging.INFO, "bgpmesh"):
        saved.save(engine, keeper, 10.0)
        assert saved.problems.keys() == {"peers", "last_life", "endpoints", "config"}
        assert saved.next_try(10.0) == 11.0
        shutil.move(tmp_path / "away", tmp_path / "state")
        saved.save(engine, keeper, 10.9)
        assert "endpoints" in saved.problems
        saved.save(engine, keeper, 11.0)
    assert (saved.problems, saved.next_try(11.0)) == ({}, float("inf"))
    names = [message.split()[:2] for message in caplog.messages]
    assert names.count(["state.unwritten", "file=endpoints"]) == names.count(["state.written", "file=endpoints"]) == 1
    assert Saved(state, KEPT).endpoints == {WEB.key: WEB}


def test_a_configuration_that_cannot_be_kept_is_not_kept(state: State, tmp_path: Path) -> None:
    """So it does not come in force; what is kept stays, and is what is written later."""
    saved, engine, keeper = start(state)
    saved.save(engine, keeper, 1.0)
    shutil.move(tmp_path / "state", tmp_path / "away")
    new = KeptConfig("new", "file", "digest")
    assert saved.keep(new, 2.0)
    shutil.move(tmp_path / "away", tmp_path / "state")
    saved.save(engine, keeper, 4.0)
    assert state.config().value == KEPT
    assert saved.keep(new, 5.0) == ""
    assert state.config().value == new


def test_what_cannot_be_read_is_said_and_unknown(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the same as empty: whose paths are held, and which workloads there are, the kernel has to tell."""
    for name in ("peers", "endpoints"):
        (tmp_path / "state" / f"{name}.json").write_text("{", encoding="utf-8")
    with caplog.at_level(logging.WARNING, "bgpmesh"):
        saved = Saved(state, KEPT)
    assert (saved.peers, saved.has_endpoints) == (None, False)
    assert [message.split()[:2] for message in caplog.messages] == [
        ["state.unreadable", "file=peers"],
        ["state.unreadable", "file=endpoints"],
    ]
