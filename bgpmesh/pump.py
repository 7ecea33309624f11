"""What edges report goes into the engine, a turn at a time; what it answers is acted on before the next.

One turn handles what is in the inbox, lets the engine think for a slice and has its answers acted on; then the loop
has its turn, so that keepalives leave on time. Whoever waits for the engine to be in some state hears of it at the end
of a turn.

What may not happen here:
 1. A hold timer is judged by silence while what came in waits to be handled.
 2. There is more to do, or a second that the engine has named, and no turn will come.
 3. A bug in a turn, or in any other callback, is survived: the loop would log it and go on, with half of a turn undone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bgpmesh.engine import Engine
from bgpmesh.events import Event, FibWritten, TimerFired

# Prefixes the engine decides about before the loop has its turn: some 5 ms.
SLICE = 20_000
# Events are handled for this long before the engine thinks, in seconds.
TURN_S = 0.005
# Events waiting for the engine from which on sockets are not read: the peers' TCP holds the rest.
BUSY = 64


class Wire(Protocol):
    """The speaker, as far as this module needs to know it."""

    @property
    def connections(self) -> Mapping[int, object]:
        """All connections, by number."""

    def unread(self) -> Collection[int]:
        """Return the connections that have sent something which nobody has read."""


@dataclass(slots=True)
class _Waiter:
    """Somebody who waits for the engine to be in some state."""

    is_over: Callable[[], bool]
    done: asyncio.Future[None]


class Pump:
    """Drives one engine, from inside the running loop, until it has `ended`: by a wish, or by a `bug`.

    `act` makes true what the engine has come to, and returns the monotonic second at which to try that again,
    infinity if there is no need. `wire` is asked for when a timer fires. Reports wait until the first `turn`.
    """

    def __init__(self, engine: Engine, wire: Callable[[], Wire], act: Callable[[], float]) -> None:
        self.ended = asyncio.Event()
        self.bug: Exception | None = None
        self._engine = engine
        self._wire = wire
        self._act = act
        self._inbox: deque[Event] = deque()
        self._waiters: list[_Waiter] = []
        self._is_coming = True  # a turn, by the loop or by whoever begins
        self._due = float("inf")  # the second that was named at the end of the last turn
        self._timer: asyncio.TimerHandle | None = None
        self._is_timer_due = False  # its event is in the inbox
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._broke)

    def report(self, event: Event) -> None:
        """Take an event from an edge; it is handled in the next turn of the loop."""
        self._inbox.append(event)
        self._come()

    def turn(self) -> None:
        """Take a turn now, and from now on whenever there is something to do."""
        self._is_coming = False
        if self.ended.is_set():
            return
        try:
            self._turn()
        except Exception as bug:  # noqa: BLE001  rule 3
            self.end(bug)

    def hear(self) -> None:
        """Handle all that was reported so far, before the first `turn`."""
        while self._inbox:
            self._turn()

    def is_busy(self) -> bool:
        """Tell whether the engine has so much to handle that nothing more should be read."""
        return len(self._inbox) > BUSY

    def now(self) -> float:
        """Return the monotonic clock of the engine's events, in seconds."""
        return self._loop.time()

    async def until(self, is_over: Callable[[], bool], seconds: float) -> bool:
        """Wait until the engine is so, `seconds` at most; False if it is not."""
        if is_over():
            return True
        waiter = _Waiter(is_over, self._loop.create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter.done
        except TimeoutError:
            return waiter.done.done() and not waiter.done.cancelled()  # in the same round of the loop
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return True

    def end(self, bug: Exception | None = None) -> None:
        """Take no more turns."""
        self.bug = self.bug or bug
        self.ended.set()

    def close(self) -> None:
        """Leave nothing behind in the loop."""
        if self._timer is not None:
            self._timer.cancel()

    def _come(self) -> None:
        """Have a turn come by itself."""
        if not self._is_coming:
            self._is_coming = True
            self._loop.call_soon(self.turn)

    def _broke(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End this process over a bug in any callback (rule 3)."""
        bug = context.get("exception")
        if isinstance(bug, Exception) and "handle" in context:
            self.end(bug)
        else:
            loop.default_exception_handler(context)

    def _turn(self) -> None:
        engine, now = self._engine, self.now()
        if self._inbox and self._due <= now:
            # Keepalives leave although there is always more to do. Whose hold timer ran out is judged later,
            # in the order of what came in.
            engine.handle(TimerFired(frozenset(self._wire().connections)), now)
        while self._inbox:
            event = self._inbox.popleft()
            if isinstance(event, TimerFired):
                self._is_timer_due, event = False, TimerFired(self._wire().unread())
            engine.handle(event, now)
            if isinstance(event, FibWritten) or self.now() > now + TURN_S:
                break  # an acknowledged burst is followed by the next one, not by more reading
        is_left = engine.work(SLICE, now) or bool(self._inbox)
        again = self._act()
        for waiter in [waiter for waiter in self._waiters if waiter.is_over()]:
            self._waiters.remove(waiter)
            if not waiter.done.done():
                waiter.done.set_result(None)
        if is_left:
            self._come()
        self._due = min(engine.next_wakeup(), again)
        self._set_timer(self._due)

    def _set_timer(self, at: float) -> None:
        if self._is_timer_due or (self._timer is not None and at == self._timer.when()):
            return  # what is set anew in every turn never comes where one turn follows the other
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at == float("inf") else self._loop.call_at(at, self._timer_came)

    def _timer_came(self) -> None:
        """Report it two rounds of the loop later, behind all that there is to read by now (rule 1).

        Who was stopped for a while (SIGSTOP, a frozen cgroup) comes out of the wait empty-handed: epoll_wait(2) is
        interrupted then, also where something has come, and in Python ends if its time is over.
        """
        self._timer, self._is_timer_due = None, True
        self._loop.call_soon(self._loop.call_soon, self.report, TimerFired())
