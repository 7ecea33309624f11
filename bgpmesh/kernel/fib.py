"""Makes the kernel's routes equal to the Deltas: takes what is not as wanted, has it written, reports.

```
 engine's Deltas ──take──▶ FibEdge (loop) ──bursts──▶ thread: Table ──▶ kernel
        ▲                       │  ◀──call_soon_threadsafe──┘  ◀── monitor
        └── engine.handle ◀── events
```

One thread owns both sockets and everything known of the kernel. The kernel's lock is shared by all
namespaces: whoever holds it stalls whoever writes, so the loop never does. At most two bursts are
out at a time, which keeps the kernel busy while the loop thinks, and lets a repair overtake
all but those two.

Order: next hops before the routes that use them, by standing first in a burst; deleted when the routes
are at rest and none uses them (`_doomed`). A next hop that is wanted again before that is said to be
gone, which the Delta answers by having it written.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from bgpmesh import log
from bgpmesh.delta import Delta
from bgpmesh.errors import KernelError
from bgpmesh.events import Event, NextHopsWritten
from bgpmesh.frozen import frozen
from bgpmesh.kernel.bursts import BURST_MESSAGES
from bgpmesh.kernel.mirror import KernelOptions
from bgpmesh.kernel.netlink import Door, NetlinkDoor
from bgpmesh.kernel.removal import remove_all
from bgpmesh.kernel.table import Table
from bgpmesh.route.nlri import IPAddress, Nlri
from bgpmesh.route.path import Resolution, Target

__all__ = ["FibEdge", "KernelOptions", "uninstall"]

BURSTS_IN_FLIGHT = 2
READ_BACK_S = 60.0  # the safety net
DEBOUNCE_S = 0.1  # a link that goes down tells in several messages
AGAIN_S = 1.0  # after a read-back that failed, and for next hops that are still in use
_MOMENT_S = 0.05
_STOP_S = 2.0  # longest wait for the thread; a read-back in hand takes a fraction of it


@frozen
class _Burst:
    """Something for the thread to write."""

    next_hops: list[tuple[IPAddress, Resolution]]
    routes: list[tuple[Target | None, list[Nlri]]]
    doomed: list[IPAddress]


@frozen
class _Settle:
    """Something for the thread to clean up, now that nothing is left to write."""

    doomed: tuple[IPAddress, ...]
    may_sweep: bool


class FibEdge:
    """The routes and nexthop objects of this network namespace; lives in one event loop.

    `known_next_hops`: BGP next hops of an earlier life, so that what it left can be named.
    `on_burst` hears how long each burst took, in seconds.
    """

    def __init__(
        self,
        options: KernelOptions,
        fib: Delta[Nlri, Target],
        next_hops: Delta[IPAddress, Resolution],
        report: Callable[[Event], None],
        *,
        known_next_hops: Iterable[IPAddress] = (),
        on_burst: Callable[[float], None] | None = None,
        open_door: Callable[[], Door] = NetlinkDoor,
    ) -> None:
        self._options = options
        self._fib = fib
        self._next_hops = next_hops
        self._report = report
        self._known = tuple(known_next_hops)
        self._on_burst = on_burst
        self._open_door = open_door
        # Of the loop.
        self._in_flight = 0
        self._timer: asyncio.TimerHandle | None = None  # when something is due that nobody will tell us of
        self._doomed: dict[IPAddress, None] = {}
        self._is_untidy = True  # the thread may have something to clean up beside these
        self._settle_at = 0.0
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Future[None]  # the thread is through, or died
        # Of the thread.
        self._told: list[tuple[Callable[..., None], tuple[object, ...]]] = []  # what the loop has yet to hear
        # Of both.
        self._jobs: deque[_Burst | _Settle] = deque()  # two at most: `_pump` counts them
        self._bell = -1  # an eventfd that wakes the thread
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Open the sockets, read what is there and report it: HostRoutesChanged with all, then FibRead.

        Raises KernelError where the kernel cannot be asked.
        """
        if not self._options.enabled:
            return
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, args=(opened,), name="fib", daemon=True)
        self._thread.start()
        try:
            await opened
        except BaseException:
            self._stop()
            raise

    async def run(self) -> None:
        """Keep the kernel as wanted until cancelled; what it has then stays."""
        if self._thread is None:
            await asyncio.get_running_loop().create_future()
        self.kick()
        try:
            await self._ended
        finally:
            self._stop()

    def kick(self) -> None:
        """Say that the Deltas have work: what there is room for is handed out at once."""
        if self._thread is None:
            return
        try:
            self._pump()
        except Exception as bug:  # noqa: BLE001 - the loop would only log it; `run` raises it
            _fail(self._ended, bug)

    # ── in the loop ──────────────────────────────────────────────────────────

    def _set_timer(self) -> None:
        """Come back when a retry or the settling is due; the end of a job kicks anyhow."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._in_flight:
            return
        at = min(self._fib.next_retry(), self._next_hops.next_retry())
        if self._doomed:
            at = min(at, self._settle_at)
        if at < float("inf"):
            # Not less than a moment: a retry may be due that the engine has not yet heard the outcome of.
            self._timer = self._loop.call_at(max(at, self._loop.time() + _MOMENT_S), self.kick)

    def _pump(self) -> None:
        """Hand the thread what is to be written, as long as it has room."""
        self._pardon()
        while self._in_flight < BURSTS_IN_FLIGHT:
            now = self._loop.time()
            writes: list[tuple[IPAddress, Resolution]] = []
            fallen: list[IPAddress] = []
            for resolution, addresses in self._next_hops.take(BURST_MESSAGES, now):
                if resolution is None:
                    fallen += addresses
                else:
                    writes += [(address, resolution) for address in addresses]
            self._doomed.update(dict.fromkeys(fallen))
            routes: list[tuple[Target | None, list[Nlri]]] = []
            if fallen and (gone := self._fib.take_unwanted(now)):
                routes.append((None, gone))  # all at once: they may go with the object
            else:
                routes = self._fib.take(BURST_MESSAGES, now)
            if not writes and not routes:
                break
            self._submit(_Burst(writes, routes, fallen))
        may_sweep = not self._fib.keep_unwanted
        is_due = self._loop.time() >= self._settle_at if self._doomed else self._is_untidy and may_sweep
        if is_due and not self._in_flight:
            doomed = tuple(self._doomed)
            self._doomed.clear()
            self._is_untidy &= not may_sweep
            self._submit(_Settle(doomed, may_sweep))
        self._set_timer()

    def _pardon(self) -> None:
        """Give back next hops that are to be deleted and wanted again: said to be gone, they are written anew."""
        pardoned = [address for address in self._doomed if address in self._next_hops.wanted]
        for address in pardoned:
            del self._doomed[address]
        if pardoned:
            self._report(NextHopsWritten(pardoned, {}))

    def _submit(self, job: _Burst | _Settle) -> None:
        self._in_flight += 1
        self._jobs.append(job)
        os.eventfd_write(self._bell, 1)

    def _written(self, burst_s: float, is_untidy: bool) -> None:
        """Note that the thread has written a burst; its events were reported before."""
        self._in_flight -= 1
        self._is_untidy = is_untidy
        if self._on_burst is not None:
            self._on_burst(burst_s)
        self.kick()

    def _settled(self, busy: Sequence[IPAddress]) -> None:
        """Note that the thread has cleaned up; its events were reported before."""
        self._in_flight -= 1
        self._doomed.update(dict.fromkeys(busy))
        self._settle_at = self._loop.time() + (AGAIN_S if busy else 0.0)
        self.kick()

    def _try_now(self, woken: Sequence[Nlri | IPAddress]) -> None:
        """Have refused prefixes and next hops tried without waiting: what was in their way is gone."""
        self._fib.hurry(key for key in woken if isinstance(key, bytes))
        self._next_hops.hurry(key for key in woken if not isinstance(key, bytes))
        self.kick()

    def _stop(self) -> None:
        """End the thread; what it was given is done first."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._is_stopping = True
        os.eventfd_write(self._bell, 1)
        thread.join(_STOP_S)
        if not thread.is_alive():
            os.close(self._bell)

    # ── in the thread ────────────────────────────────────────────────────────

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        """Have something called in the loop, with what else there is to say at the next `_hand_over`."""
        self._told.append((call, arguments))

    def _hand_over(self) -> None:
        """Have the loop hear, in one go: to wake it costs more than most of what it is told."""
        if self._told:
            told, self._told = self._told, []
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(_hear, told)

    def _serve(self, opened: asyncio.Future[None]) -> None:
        """Be the thread. Whatever ends it but being told to is raised in `run`."""
        try:
            door = self._open_door()
        except KernelError as error:
            self._tell(_fail, opened, error)
            self._hand_over()
            return
        try:
            report = functools.partial(self._tell, self._report)
            hurry = functools.partial(self._tell, self._try_now)
            served = Table(door, self._options, report, hurry, self._known)
            try:
                served.read_back()
            except OSError as error:
                failure = KernelError("read-back", error.errno or 0, error.strerror or "unknown")
                self._tell(_fail, opened, failure)
                return
            self._tell(_succeed, opened)
            self._hand_over()
            self._work(door, served)
            self._tell(_succeed, self._ended)
        except BaseException as bug:  # noqa: BLE001 - carried over to `run`, which raises it
            self._tell(_fail, opened, bug)
            self._tell(_fail, self._ended, bug)
        finally:
            self._hand_over()
            door.close()

    def _work(self, door: Door, served: Table) -> None:
        poll = select.poll()
        poll.register(door.fileno(), select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        safety_net_at, alarm_at, debounce_s = time.monotonic() + READ_BACK_S, float("inf"), DEBOUNCE_S
        while not (self._is_stopping and not self._jobs):
            patience_s = max(0.0, min(safety_net_at, alarm_at) - time.monotonic())
            ready = dict(poll.poll(patience_s * 1000))
            if self._bell in ready:
                os.eventfd_read(self._bell)
            if door.fileno() in ready:
                served.hear()
            self._hand_over()
            while self._jobs:
                self._do(self._jobs.popleft(), served)
                self._hand_over()
            now = time.monotonic()
            if served.is_alarmed():
                alarm_at = min(alarm_at, now + debounce_s)
            if now >= safety_net_at or (now >= alarm_at and served.must_read_back()):
                safety_net_at = now + _read_back(served)
                # In a storm of other people's routes half of the time is left for writing ours.
                debounce_s = max(DEBOUNCE_S, time.monotonic() - now)
                alarm_at = float("inf")
            elif now >= alarm_at:
                alarm_at = float("inf")
            self._hand_over()

    def _do(self, job: _Burst | _Settle, served: Table) -> None:
        match job:
            case _Burst(next_hops, routes, doomed):
                started = time.monotonic()
                served.write(next_hops, routes, doomed)
                self._tell(self._written, time.monotonic() - started, served.is_untidy)
            case _Settle(doomed, may_sweep):
                self._tell(self._settled, served.settle(doomed, may_sweep=may_sweep))


def uninstall(options: KernelOptions) -> list[str]:
    """Remove every route and nexthop object of ours from this network namespace, and say what.

    Raises KernelError. The daemon must not be running: it would repair.
    """
    door = NetlinkDoor()
    try:
        return remove_all(door, options)
    finally:
        door.close()


def _read_back(served: Table) -> float:
    """Read everything back; return when to do it again, in seconds."""
    try:
        served.read_back()
    except OSError as error:
        log.warning("fib.read_back_failed", reason=str(error.strerror))
        return AGAIN_S
    return READ_BACK_S


def _hear(told: Iterable[tuple[Callable[..., None], tuple[object, ...]]]) -> None:
    for call, arguments in told:
        call(*arguments)


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
