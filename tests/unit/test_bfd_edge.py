"""The daemon's end of BFD with real agents: found, started, replaced, lost; both ends of a path are on the loopback."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import SIGKILL

import pytest

from bgpmesh import __version__
from bgpmesh.bfd_agent import edge
from bgpmesh.bfd_agent.edge import BfdEdge, agent_path
from bgpmesh.events import BfdReported, Event
from bgpmesh.peering.bfd import PROTOCOL, Report, State, Watched
from tests.waiting import DEADLINE_S, beside, until


@dataclass
class Daemon:
    """What an edge is to a daemon."""

    path: str
    watched: tuple[Watched, ...]
    stay_s: float = 3600.0
    reports: list[Report] = field(default_factory=list)
    edge: BfdEdge = field(init=False)

    def __post_init__(self) -> None:
        self.edge = BfdEdge(self.path, lambda: (self.watched, self.stay_s), self.report)

    def report(self, event: Event) -> None:
        """Take a report."""
        assert isinstance(event, BfdReported)
        self.reports.append(event.report)

    def want(self, *watched: Watched) -> None:
        """Want other paths watched."""
        self.watched = watched
        self.edge.kick()

    def states(self) -> dict[str, int]:
        """Return what was reported last."""
        return {report.name: report.state for report in self.reports}

    async def are(self, state: State) -> None:
        """Wait until both ends are so."""
        await until(
            lambda: self.states() == {"one": state, "other": state}, lambda: (self.states(), self.edge.problems)
        )

    def greeting(self) -> dict[str, object]:
        """Return what the agent says to whoever comes."""
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(agent_path(self.path))
            with agent.makefile("rb") as lines:
                greeting: dict[str, object] = json.loads(lines.readline())
        return greeting

    @property
    def pid(self) -> int:
        """The agent's process."""
        return int(str(self.greeting()["pid"]))


Story = Callable[[Daemon], Coroutine[None, None, None]]


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Story], None]]:
    """Give a way to tell a story of a daemon that has two ends of a path; its agent ends with it."""
    monkeypatch.setattr(edge, "ANSWER_S", DEADLINE_S)
    random = Random(os.getpid())
    one, other = (f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{n}" for n in (1, 2))
    # No detection time is waited for here, and none is to be over while the agent gets no turn.
    ends = Watched("one", one, other, 1, 50, 200), Watched("other", other, one, 1, 50, 200)
    daemon = Daemon(str(tmp_path / "bgpmesh.sock"), ends)

    def told(story: Story) -> None:
        asyncio.run(story(daemon))

    yield told
    edge.end(daemon.path)


def is_there(pid: int) -> bool:
    """Tell whether a process runs, and does not only wait for somebody to hear of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_file(daemon: Daemon) -> bool:
    """Tell whether there is something to find an agent by."""
    return Path(agent_path(daemon.path)).exists()


def remove(daemon: Daemon) -> None:
    """Take away what an agent is found by."""
    Path(agent_path(daemon.path)).unlink()


def test_an_agent_is_started_outlives_the_daemon_and_is_found_again(tell: Callable[[Story], None]) -> None:
    """The path is up all the time, the process is the same, and the next daemon hears that it is up."""

    async def story(daemon: Daemon) -> None:
        async with beside(daemon.edge.run()):
            await daemon.are(State.UP)
            pid = daemon.pid
        daemon.reports.clear()
        again = Daemon(daemon.path, daemon.watched)
        async with beside(again.edge.run()):
            await again.are(State.UP)
            assert pid == again.pid
            assert [report.state for report in again.reports] == [State.UP, State.UP]
            assert again.edge.problems == []

    tell(story)


def test_nothing_wanted_starts_nothing_and_ends_what_runs(tell: Callable[[Story], None]) -> None:
    """An agent that an earlier configuration has left ends; one comes again when it is wanted."""

    async def story(daemon: Daemon) -> None:
        idle = Daemon(daemon.path, ())
        async with beside(idle.edge.run()):
            await asyncio.sleep(0)
            assert not is_file(daemon)
            idle.want(*daemon.watched)
            await idle.are(State.UP)
            pid = idle.pid
            idle.want()
            await until(lambda: not is_there(pid) and not is_file(daemon))
            idle.reports.clear()
            idle.want(*daemon.watched)
            await idle.are(State.UP)
            assert idle.edge.problems == []
            left = idle.pid
        later = Daemon(daemon.path, ())
        async with beside(later.edge.run()):
            await until(lambda: not is_there(left))
        assert (later.reports, later.edge.problems) == ([], [])

    tell(story)


def test_an_agent_stays_as_long_as_was_said_last(tell: Callable[[Story], None]) -> None:
    """A reload may have changed how long peers keep our routes, and nothing of what is watched."""

    async def story(daemon: Daemon) -> None:
        async with beside(daemon.edge.run()):
            await daemon.are(State.UP)
            pid = daemon.pid
            daemon.stay_s = 0.0
            daemon.edge.kick()
        await until(lambda: not is_there(pid))

    tell(story)


def test_one_end_taken_away_is_no_failure_of_the_other(tell: Callable[[Story], None]) -> None:
    """It is reported down; given back it comes up."""

    async def story(daemon: Daemon) -> None:
        async with beside(daemon.edge.run()):
            await daemon.are(State.UP)
            both = daemon.watched
            daemon.want(both[0])
            await until(lambda: daemon.states()["one"] == State.DOWN)
            daemon.want(*both)
            await daemon.are(State.UP)
        assert not any(report.is_failure for report in daemon.reports)

    tell(story)


def test_an_agent_that_is_killed_is_told_of_and_started_again(tell: Callable[[Story], None]) -> None:
    """What it watched is down and has not failed, as far as this node knows; the next one comes up."""

    async def story(daemon: Daemon) -> None:
        async with beside(daemon.edge.run()):
            await daemon.are(State.UP)
            pid = daemon.pid
            os.kill(pid, SIGKILL)
            await until(lambda: daemon.edge.problems == ["BFD: the agent has ended"])
            await daemon.are(State.UP)
            assert (daemon.edge.problems, daemon.pid == pid) == ([], False)
        downs = [report for report in daemon.reports if report.state == State.DOWN]
        assert {report.name for report in downs} == {"one", "other"}
        assert not any(report.is_failure for report in daemon.reports)

    tell(story)


def test_another_version_is_replaced_and_nothing_goes_down(
    tell: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sessions go on in a process of this version; where that cannot be started they go on in the other one."""

    async def story(daemon: Daemon) -> None:
        async with beside(daemon.edge.run()):
            await daemon.are(State.UP)
            old = daemon.pid
        monkeypatch.setattr(edge, "__version__", "99.0.0")  # and so is each that this daemon starts another one
        newer = Daemon(daemon.path, daemon.watched)
        async with beside(newer.edge.run()):
            await newer.are(State.UP)
            assert old != newer.pid
            assert not is_there(old)
            new = newer.pid
        monkeypatch.setattr(edge.sys, "executable", "/bin/false")  # type: ignore[attr-defined]
        third = Daemon(daemon.path, daemon.watched)
        async with beside(third.edge.run()):
            await third.are(State.UP)
            assert new == third.pid
        assert not any(report.is_failure for report in (*daemon.reports, *newer.reports, *third.reports))
        assert {report.state for report in (*newer.reports, *third.reports)} == {State.UP}

    tell(story)


def test_an_agent_that_cannot_be_started_is_a_problem_in_words(
    tell: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, and over once it can be."""

    async def story(daemon: Daemon) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(edge.sys, "executable", "/bin/false")  # type: ignore[attr-defined]
            running = beside(daemon.edge.run())
            async with running:
                await until(lambda: daemon.edge.problems == ["BFD: the agent failed"])
                broken.undo()
                await daemon.are(State.UP)
                assert daemon.edge.problems == []

    tell(story)


def test_who_listens_and_says_nothing_is_a_problem_in_words(
    tell: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is whoever says something else than an agent."""
    monkeypatch.setattr(edge, "ANSWER_S", 0.2)

    async def story(daemon: Daemon) -> None:
        async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 ready\n")
            writer.close()

        path = agent_path(daemon.path)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(path)
            silent.listen()
            async with beside(daemon.edge.run()):
                await until(lambda: daemon.edge.problems == [f"BFD: nobody answers at {path}"])
        remove(daemon)
        server = await asyncio.start_unix_server(babble, path)
        async with server, beside(daemon.edge.run()):
            await until(lambda: any("Extra data" in problem or "JSON" in problem for problem in daemon.edge.problems))

    tell(story)


def test_a_bug_of_the_agent_is_in_our_log(tell: Callable[[Story], None], caplog: pytest.LogCaptureFixture) -> None:
    """It has no log of its own; what it says last is told, and it is started again."""

    async def story(daemon: Daemon) -> None:
        async def fail(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            greeting = {"protocol": PROTOCOL, "version": __version__, "pid": 1}
            writer.write(
                json.dumps(greeting).encode() + b"\n" + json.dumps({"bug": "ZeroDivisionError"}).encode() + b"\n"
            )
            writer.close()
            await writer.wait_closed()

        path = agent_path(daemon.path)
        server = await asyncio.start_unix_server(fail, path)
        async with beside(daemon.edge.run()):
            async with server:
                await until(lambda: "ZeroDivisionError" in caplog.text)
            await daemon.are(State.UP)

    tell(story)
