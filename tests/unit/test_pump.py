"""What a turn does, when the next one comes, and who hears of it; the engine is a list of what it was told."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import cast

import pytest

from bgpmesh.engine import Engine
from bgpmesh.events import ConnectFailed, Event, FibWritten, TimerFired
from bgpmesh.pump import BUSY, Pump
from bgpmesh.route.path import PeerName
from tests.waiting import DEADLINE_S

NEVER = float("inf")
SOON_S = 0.5  # of what is not to be over before the test has said what is to happen then, on a busy machine
EVENT = ConnectFailed(PeerName("n2"), "refused")


@dataclass
class Told:
    """Stands in for the engine, the wire and what acts."""

    events: list[Event] = field(default_factory=list)
    turns: int = 0
    left: int = 0  # slices of thinking
    wakeup: float = NEVER
    again: float = NEVER
    bug: Exception | None = None
    connections: dict[int, object] = field(default_factory=lambda: {1: None, 2: None})

    def handle(self, event: Event, _: float) -> None:
        """Remember an event."""
        self.events.append(event)
        if isinstance(event, TimerFired):
            self.wakeup = NEVER
        if self.bug is not None:
            raise self.bug

    def work(self, _limit: int, _now: float) -> bool:
        """Tell whether there is more to think."""
        self.left -= 1
        return self.left > 0

    def next_wakeup(self) -> float:
        """Return when it wants to be called."""
        return self.wakeup

    def unread(self) -> set[int]:
        """Return which connection has something to say."""
        return {2}

    def act(self) -> float:
        """Count the turn."""
        self.turns += 1
        again, self.again = self.again, NEVER
        return again


def run(scenario: Callable[[Pump, Told], Coroutine[object, object, None]], told: Told | None = None) -> Told:
    """Run a scenario against a pump that has begun."""
    told = told or Told()

    async def begun() -> None:
        pump = Pump(cast("Engine", told), lambda: told, told.act)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await scenario(pump, told)
        finally:
            pump.close()

    asyncio.run(begun())
    return told


def test_nothing_is_handled_before_the_first_turn() -> None:
    """The kernel is read first; then what was reported is handled in order, and reports bring their own turns."""

    async def scenario(pump: Pump, told: Told) -> None:
        pump.report(EVENT)
        await asyncio.sleep(0)
        assert told.events == []
        pump.turn()
        assert told.events == [EVENT]
        pump.report(EVENT)
        assert told.events == [EVENT]
        assert await pump.until(lambda: len(told.events) == 2, DEADLINE_S)

    assert run(scenario).turns == 2


def test_silence_proves_nothing_while_something_waits_to_be_handled() -> None:
    """A timer that is due fires before what waits, with every connection as unheard; its own event knows who is."""

    async def scenario(pump: Pump, told: Told) -> None:
        told.wakeup = 0.0
        pump.turn()
        pump.report(EVENT)
        pump.turn()
        assert told.events == [TimerFired({1: None, 2: None}.keys()), EVENT]
        told.events.clear()
        told.wakeup = pump.now() + SOON_S
        pump.turn()
        assert await pump.until(lambda: bool(told.events), DEADLINE_S)
        assert told.events[-1] == TimerFired({2})

    run(scenario)


def test_who_was_stopped_for_a_while_reads_before_timers_fire(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop signal ends epoll_wait(2) with nothing, also where there is something to read."""

    async def scenario(pump: Pump, told: Told) -> None:
        loop = cast("asyncio.SelectorEventLoop", asyncio.get_running_loop())
        reading, writing = socket.socketpair()
        with reading, writing:
            loop.add_reader(reading, lambda: pump.report(EVENT) if reading.recv(1) else None)
            told.wakeup = pump.now() + SOON_S
            pump.turn()
            writing.send(b"x")
            selector = loop._selector  # type: ignore[attr-defined]

            def stopped(_: float | None) -> list[object]:
                """Last for longer than was asked for, and bring nothing."""
                monkeypatch.undo()
                time.sleep(2 * SOON_S)
                return []

            monkeypatch.setattr(selector, "select", stopped)
            assert await pump.until(lambda: TimerFired({2}) in told.events, DEADLINE_S)
            loop.remove_reader(reading)
        assert [event for event in told.events if event in (EVENT, TimerFired({2}))] == [EVENT, TimerFired({2})]

    run(scenario)


def test_a_turn_comes_while_there_is_more_to_think() -> None:
    """Three slices are three turns."""

    async def scenario(pump: Pump, told: Told) -> None:
        pump.turn()
        assert await pump.until(lambda: told.left == 0, DEADLINE_S)

    assert run(scenario, Told(left=3)).turns == 3


def test_what_was_acknowledged_is_followed_by_the_next_burst() -> None:
    """A turn ends there, though more waits."""

    async def scenario(pump: Pump, told: Told) -> None:
        pump.report(FibWritten((), {}))
        pump.report(EVENT)
        pump.turn()
        assert told.events == [FibWritten((), {})]
        assert await pump.until(lambda: EVENT in told.events, DEADLINE_S)

    run(scenario)


def test_what_could_not_be_done_is_tried_again_when_it_was_said() -> None:
    """Nothing else happens meanwhile."""

    async def scenario(pump: Pump, told: Told) -> None:
        told.again = pump.now() + 0.01
        pump.turn()
        assert await pump.until(lambda: told.turns == 2, DEADLINE_S)

    run(scenario)


def test_who_waits_in_vain_is_told_so_and_forgotten() -> None:
    """Also one whose caller has gone."""

    async def scenario(pump: Pump, told: Told) -> None:
        pump.turn()
        assert not await pump.until(lambda: False, 0.01)
        gone = asyncio.ensure_future(pump.until(lambda: told.turns == 2, DEADLINE_S))
        await asyncio.sleep(0)
        gone.cancel()
        pump.turn()
        assert pump._waiters == []

    run(scenario)


def test_what_comes_true_in_the_moment_in_which_the_time_is_up_has_come_true() -> None:
    """A turn that ends the waiting, and the end of the time right behind it: who waits hears of both at once."""

    async def scenario(pump: Pump, _: Told) -> None:
        loop, is_over = asyncio.get_running_loop(), asyncio.Event()
        waiting = asyncio.ensure_future(pump.until(is_over.is_set, SOON_S))
        await asyncio.sleep(0)

        def late() -> None:
            is_over.set()
            time.sleep(2 * SOON_S)  # the machine is busy: turn and timeout are due in one round of the loop
            loop.call_soon(pump.turn)

        loop.call_soon(late)
        assert await waiting

    run(scenario)


def test_a_full_inbox_keeps_the_wire_from_reading() -> None:
    """Until it has been handled."""

    async def scenario(pump: Pump, told: Told) -> None:
        for _ in range(BUSY + 1):
            pump.report(EVENT)
        assert pump.is_busy()
        pump.turn()
        assert await pump.until(lambda: len(told.events) == BUSY + 1, DEADLINE_S)
        assert not pump.is_busy()

    run(scenario)


def test_a_bug_is_the_end_and_stays_the_reason() -> None:
    """A signal that comes after it does not make it an orderly stop; no further turn is taken."""

    async def scenario(pump: Pump, told: Told) -> None:
        pump.report(EVENT)
        pump.turn()
        await pump.ended.wait()
        pump.end()
        pump.report(EVENT)
        pump.turn()
        assert pump.bug is told.bug
        assert told.events == [EVENT]

    assert run(scenario, Told(bug=ZeroDivisionError())).turns == 0
