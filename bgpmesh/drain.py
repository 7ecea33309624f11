"""Taking a node out of service, and back: traffic moves first, as the counters of the kernel tell (RFC 8326).

`rib/drain.py` has the steps and what peers hear at each; here is what leads from one to the next.

    drain     draining -> traffic is small for three seconds, or the limit is over ->
                          drained   where workloads are here: their addresses stay, as the last choice
                          stopped   where none is, or as asked for: all is withdrawn, then sessions end with a word
    undrain   undraining -> none    once peers have said what they have, and it is in the kernel (`peers.py`)

Measured is what this host receives on the links that lead to peers and next hops, without what it hands on to its
workloads, unless they are to be cut off too. What workloads here send each other counts as handed on, so that it may
be measured too small; never is a node drained sooner than three seconds after its peers heard of it.

What may happen and must harm nobody: the command ends (the drain goes on, and `undrain` takes it back), the daemon ends
(the step is on disk; a wait goes on with what is left of its limit), counters cannot be read (then the limit decides).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bgpmesh.control.server import RequestError, Stream
from bgpmesh.engine import Engine
from bgpmesh.errors import KernelError
from bgpmesh.events import DrainChanged
from bgpmesh.frozen import frozen
from bgpmesh.kernel.traffic import traffic
from bgpmesh.pump import Pump
from bgpmesh.rib.drain import Drain

SAMPLE_S = 1.0
QUIET_SAMPLES = 3  # one after the other
# Sessions end within this, and are back within this beyond `restart_deferral`.
SETTLE_S = 30.0
MOST_FOLLOWERS = 16

Progress = dict[str, object]
Counters = Callable[[], dict[int, tuple[int, int]]]


@frozen
class DrainOptions:
    """How long to wait for traffic to go, in seconds, which rate is none, in octets a second, and what comes then."""

    limit: float = 60.0
    below: float = 10_000.0
    stop: bool = False  # close all sessions at the end, also those that workloads need
    text: str = "drained"  # what peers are told when sessions end, up to 255 octets


class Follower:
    """Who hears how a drain goes: the newest of it."""

    def __init__(self, leave: Callable[[Follower], None]) -> None:
        self._leave = leave
        self._newest: Progress = {}
        self._some = asyncio.Event()

    def tell(self, progress: Progress) -> None:
        """Have it hear of this, in place of what it has not taken."""
        self._newest = progress
        self._some.set()

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Progress:
        """Wait for the next."""
        await self._some.wait()
        self._some.clear()
        return self._newest

    async def aclose(self) -> None:
        """Follow no longer."""
        self._leave(self)


class Drainer:
    """Takes one node out of service and back."""

    def __init__(self, engine: Engine, pump: Pump, counters: Counters = traffic) -> None:
        self._engine = engine
        self._pump = pump
        self._counters = counters
        self._is_asked = asyncio.Event()
        self._followers: set[Follower] = set()

    # ── requests ─────────────────────────────────────────────────────────────

    def begin(self, options: DrainOptions) -> Stream:
        """Begin, or go on under other options, and tell how it goes until it has come to its end."""
        if len(self._followers) >= MOST_FOLLOWERS:
            raise RequestError("bad-request", f"{MOST_FOLLOWERS} follow already")
        follower = Follower(self._followers.discard)
        self._followers.add(follower)
        if self._state is Drain.DRAINED and options.stop:
            self._to(DrainChanged(Drain.STOPPED, text=options.text))
        elif self._state not in (Drain.DRAINED, Drain.STOPPED):
            wait = (options.limit, options.below, self._pump.now())
            self._to(DrainChanged(Drain.DRAINING, options.stop, options.text, *wait))
        self._is_asked.set()
        return Stream({"state": self._state.value, "limit": options.limit, "below": options.below}, follower)

    async def end(self) -> Progress:
        """Return to service; answers once traffic may come back."""
        if self._state is not Drain.NONE:
            self._to(DrainChanged(Drain.UNDRAINING))
            limit_s = self._engine.configured.restart_deferral + SETTLE_S
            await self._pump.until(lambda: self._state is not Drain.UNDRAINING, limit_s)
        return {"state": self._state.value, "waiting_for": dict(self._engine.peers.restart.reasons())}

    # ── what drives it ───────────────────────────────────────────────────────

    async def run(self) -> None:
        """Lead each drain to its end; one that the daemon's end broke off is taken up."""
        if self._state is Drain.DRAINING:
            self._is_asked.set()
        while True:
            await self._is_asked.wait()
            self._is_asked.clear()
            if self._state in (Drain.DRAINED, Drain.STOPPED):
                await self._end("it was out of service before")
            else:
                await self._drain(self._engine.peers.drain)

    async def _drain(self, asked: DrainChanged) -> None:
        taken_at, quiet = self._pump.now(), 0
        begun_at = taken_at if asked.begun_at is None else min(asked.begun_at, taken_at)  # less: the host was booted
        before: tuple[float, int] | None = None
        while True:
            await asyncio.sleep(SAMPLE_S)
            measured, problem = await self._measure(is_to_stop=asked.is_to_stop)
            if self._is_asked.is_set():
                return
            if self._state is not Drain.DRAINING:
                self._tell({"state": self._state.value, "reason": "taken back"})
                return
            now, rate = self._pump.now(), None
            if measured is not None and before is not None:
                rate = max(0, measured - before[1]) / (now - before[0])
            before = None if measured is None else (now, measured)
            quiet = quiet + 1 if rate is not None and rate <= asked.below else 0
            waited_s = now - begun_at
            progress: Progress = {"state": self._state.value, "waited_s": round(waited_s, 1), "limit_s": asked.limit}
            progress |= {"rate": None if rate is None else round(rate), "below": asked.below, "problem": problem}
            self._tell(progress)
            if not self._engine.peers.is_in_sync and now < taken_at + SETTLE_S:
                continue  # after a restart peers hear of it again first: they keep what they heard before, and send on
            if quiet >= QUIET_SAMPLES:
                reason = f"below {asked.below:g} B/s for {QUIET_SAMPLES} s"
            elif waited_s >= asked.limit:
                left = "traffic is not known" if rate is None else f"there are {rate:.0f} B/s still"
                reason = f"{asked.limit:g} s are over, and {left}"
            else:
                continue
            await self._finish(asked, reason)
            return

    async def _finish(self, asked: DrainChanged, reason: str) -> None:
        stop = asked.is_to_stop or not self._engine.local.endpoints
        self._to(DrainChanged(Drain.STOPPED if stop else Drain.DRAINED, text=asked.text))
        await self._end(reason)

    async def _end(self, reason: str) -> None:
        """Tell the outcome once it is one: sessions end a moment after all is withdrawn."""
        peers = self._engine.peers
        await self._pump.until(lambda: peers.is_closed or peers.drain.drain is not Drain.STOPPED, SETTLE_S)
        self._tell(self._outcome(reason))

    async def _measure(self, *, is_to_stop: bool) -> tuple[int | None, str]:
        """Return the octets that came by now, since ever, and why that is not known ("": it is)."""
        engine = self._engine
        if not engine.configured.kernel_enabled:
            return 0, ""  # nothing goes through it
        uplinks = engine.rib.ways.links_towards(each.peer.address for each in engine.peers.sessions.values())
        workloads = set() if is_to_stop else engine.rib.host.links_of(engine.local.links.actual.keys())
        try:
            counted = await asyncio.to_thread(self._counters)
        except KernelError as error:
            return None, error.text
        came = sum(counted[link][0] for link in uplinks & counted.keys())
        return came - sum(counted[link][1] for link in workloads & counted.keys()), ""

    @property
    def _state(self) -> Drain:
        return self._engine.peers.drain.drain

    def _to(self, changed: DrainChanged) -> None:
        self._pump.report(changed)
        self._pump.turn()  # now: it is on disk, and the next request finds it so

    def _outcome(self, reason: str) -> Progress:
        return {"state": self._state.value, "reason": reason, "workloads": len(self._engine.local.endpoints)}

    def _tell(self, progress: Progress) -> None:
        for follower in self._followers:
            follower.tell(progress)
