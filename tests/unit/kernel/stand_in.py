"""What the engine does for the FIB edge, in a few lines: the Deltas, and events applied to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bgpmesh.delta import Delta
from bgpmesh.events import Event, FibObserved, FibRead, FibWritten, HostRoutesChanged, NextHopsWritten
from bgpmesh.kernel.fib import FibEdge, KernelOptions
from bgpmesh.kernel.netlink import Door, NetlinkDoor
from bgpmesh.route.nlri import IPAddress, Nlri, parse_nlri
from bgpmesh.route.path import HostRoute, Resolution, Target
from tests.waiting import beside, until


class Core:
    """The Deltas and what was reported; `now` is asked for the time of a refusal."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.fib: Delta[Nlri, Target] = Delta()
        self.next_hops: Delta[IPAddress, Resolution] = Delta()
        self.host_routes: set[HostRoute] = set()
        self.events: list[Event] = []
        self.failures: dict[object, str] = {}  # every refusal there ever was, the last of each
        self.drift = 0
        self.kick: Callable[[], None] = lambda: None
        self._now = now

    def want(self, routes: dict[str, Target | None]) -> None:
        """Want, or no longer want, routes by their prefixes as text."""
        for prefix, target in routes.items():
            self.fib.want(parse_nlri(prefix), target)

    def report(self, event: Event) -> None:
        """Do what the engine does with the event."""
        self.events.append(event)
        match event:
            case FibWritten(done, failed):
                self.fib.acknowledge(done)
                self.failures.update((key, reason) for key, reason in failed.items())
                for key, reason in failed.items():
                    self.fib.refuse(key, reason, self._now())
            case NextHopsWritten(reached, unreached):
                self.next_hops.acknowledge(reached)
                self.failures.update((key, reason) for key, reason in unreached.items())
                for address, reason in unreached.items():
                    self.next_hops.refuse(address, reason, self._now())
            case FibRead(routes, next_hops, lost, moved):
                self.fib.observe_all(routes)
                self.next_hops.observe_all(next_hops)
                self.drift += len(lost) + moved
            case FibObserved(observed):
                for key, target in observed.items():
                    self.fib.observe(key, target)
                self.drift += len(observed)
            case HostRoutesChanged(added, removed):
                self.host_routes.difference_update(removed)
                self.host_routes.update(added)
        self.kick()

    @asynccontextmanager
    async def running(
        self,
        options: KernelOptions | None = None,
        open_door: Callable[[], Door] = NetlinkDoor,
        known: tuple[IPAddress, ...] = (),
    ) -> AsyncIterator[FibEdge]:
        """Give an edge that has read back and runs."""
        edge = FibEdge(
            options or KernelOptions(),
            self.fib,
            self.next_hops,
            self.report,
            known_next_hops=known,
            open_door=open_door,
        )
        self.kick = edge.kick
        await edge.start()
        async with beside(edge.run()):
            await asyncio.sleep(0)
            yield edge

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Poll until something is so."""
        await until(is_so, lambda: ([type(e).__name__ for e in self.events[-20:]], self.failures, self.drift))

    async def at_rest(self, edge: FibEdge) -> None:
        """Wait until everything is as wanted."""
        edge.kick()
        await self.until(lambda: not self.fib and not self.next_hops)
