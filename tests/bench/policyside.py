"""One side of the policy bench, in a node: it puts a population in force, then changes one thing whenever it is told.

    {"event": "in force", "at": 81.0, "ms": 680.1}
    {"event": "labels 1", "at": 82.0, "ms": 1.4, "cpu_ms": 2.0}

A change is in force when the kernel has taken all of it: for bgpmesh from the event that the engine handles to the
last acknowledgement that it hears, with the edge that writes as in the daemon; for the other from what is already
rendered to the end of the last program. Afterwards it is undone, out of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from bgpmesh import config
from bgpmesh.engine import Engine
from bgpmesh.events import (
    ChainsWritten,
    EndpointAdded,
    EndpointRemoved,
    Event,
    FibWritten,
    LinksRead,
    ObjectsChanged,
    SetsWritten,
)
from bgpmesh.kernel.chains import ChainsEdge
from bgpmesh.policy.chains import AddressSet
from bgpmesh.policy.protection import Protection
from bgpmesh.workload.endpoint import link_of
from tests.bench.feeder import say
from tests.bench.felix import Tables, Writer, felix_like, fill, set_commands, table_texts
from tests.bench.population import CONFIGURATION, World, changes, world

BGPMESH, FELIX = "bgpmesh", "felix-like"
CHANGES = ("labels", "known", "new", "policy")
_SLICE = 1000


class Side(Protocol):
    """Somebody who keeps a packet filter."""

    async def begin(self) -> float:
        """Put the population in force; returns the seconds."""

    async def change(self, what: str) -> float:
        """Put one change in force; returns the seconds."""

    async def undo(self, what: str) -> None:
        """Take it back."""

    async def end(self) -> None:
        """Leave all as it is."""


class Bgpmesh:
    """The engine of a node, and the edge that writes its chains and sets: what the daemon runs, without its sessions.

    Links and routes are said to be made: they come after.
    """

    def __init__(self, count: int) -> None:
        self._before = world(count)
        self._after = changes(self._before)
        effective = config.effective(config.parse(CONFIGURATION, "bench.toml"), "n1")
        self._engine = Engine(effective, (), lambda: 0.0)
        self._edge = ChainsEdge(self._engine.packets.chains, self._engine.packets.sets, self._report)
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._written = 0  # chains and sets, by the last change

    async def begin(self) -> float:
        """Go from knowing of all to the last chain, as a daemon starts."""
        engine, now = self._engine, time.monotonic()
        for endpoint in self._before.endpoints.values():
            engine.handle(EndpointAdded(endpoint), now)
        engine.handle(LinksRead({each.interface: link_of(each) for each in self._before.endpoints.values()}), now)
        began = time.monotonic()
        engine.handle(ObjectsChanged(self._before.objects), now)
        self._work()
        await self._edge.start()
        await self._edge.settle()
        took = time.monotonic() - began
        engine.handle(FibWritten([key for _, keys in engine.rib.fib.take(1 << 20, now) for key in keys], {}), now)
        self._task = asyncio.create_task(self._edge.run())
        self._check()
        return took

    async def change(self, what: str) -> float:
        """Let the engine handle what is different, until chains and sets are as wanted."""
        return await self._go(self._before, self._after[what])

    async def undo(self, what: str) -> None:
        """Do the same backwards."""
        await self._go(self._after[what], self._before)

    async def end(self) -> None:
        """Stop looking after it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _go(self, old: World, new: World) -> float:
        events: list[Event] = [EndpointRemoved(key) for key in old.endpoints if key not in new.endpoints]
        events += [EndpointAdded(each) for key, each in new.endpoints.items() if old.endpoints.get(key) is not each]
        if old.objects is not new.objects:
            events.append(ObjectsChanged(new.objects))
        self._settled.clear()
        self._written = 0
        began = time.monotonic()
        for event in events:
            self._report(event)
        await self._settled.wait()
        took = time.monotonic() - began
        self._check()
        if not self._written:
            raise SystemExit("nothing was written")
        return took

    def _report(self, event: Event) -> None:
        if isinstance(event, ChainsWritten | SetsWritten):
            self._written += len(event.done)
        self._engine.handle(event, time.monotonic())
        self._work()
        self._edge.kick()
        if self._engine.packets.is_policy_in_force:
            self._settled.set()

    def _work(self) -> None:
        while self._engine.work(_SLICE, time.monotonic()):
            pass

    def _check(self) -> None:
        if unmade := self._engine.packets.unmade():
            raise SystemExit(str(unmade))


class FelixLike:
    """Chains for each workload, read and written by programs."""

    def __init__(self, count: int, backend: str) -> None:
        self._writer = Writer(backend)
        self._protection = Protection()
        self._around = config.effective(config.parse(CONFIGURATION, "bench.toml"), "n1").around
        before = world(count, is_felix=True)
        self._sets, self._tables = self._made(before)
        self._after = {what: self._made(changed) for what, changed in changes(before, is_felix=True).items()}

    async def begin(self) -> float:
        """Write all tables; sets are filled before."""
        fill(self._sets)
        texts = table_texts({}, self._tables)
        began = time.monotonic()
        self._writer.write_tables(texts, reads=True)
        return time.monotonic() - began

    async def change(self, what: str) -> float:
        """Write sets, then tables."""
        sets, tables = self._after[what]
        commands, texts = set_commands(self._sets, sets), table_texts(self._tables, tables)
        began = time.monotonic()
        self._writer.write_sets(commands)
        self._writer.write_tables(texts, reads=True)
        return time.monotonic() - began

    async def undo(self, what: str) -> None:
        """Do the same backwards."""
        sets, tables = self._after[what]
        self._writer.write_sets(set_commands(sets, self._sets))
        self._writer.write_tables(table_texts(tables, self._tables), reads=False)

    async def end(self) -> None:
        """End the threads."""
        self._writer.close()

    def _made(self, of: World) -> tuple[Mapping[str, AddressSet], Tables]:
        self._protection.objects = of.objects
        self._protection.wanted(of.endpoints, self._around, is_needed=False)
        return self._protection.compiled.sets, felix_like(self._protection.compiled)


def _cpu_s() -> float:
    """Return what this process and its ended children have used."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


async def _play(side: Side, runs: int) -> None:
    loop = asyncio.get_running_loop()
    took = await side.begin()
    gc.freeze()  # as the daemon does
    gc.enable()
    say("in force", ms=took * 1000)
    for number in range(1, runs + 1):
        for what in CHANGES:
            await loop.run_in_executor(None, sys.stdin.readline)
            before = _cpu_s()
            took = await side.change(what)
            used = _cpu_s() - before
            await side.undo(what)
            say(f"{what} {number}", ms=took * 1000, cpu_ms=used * 1000)
    await side.end()
    say("at rest")
    await loop.run_in_executor(None, sys.stdin.readline)


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description="one side of the policy bench")
    parser.add_argument("--side", choices=(BGPMESH, FELIX), required=True)
    parser.add_argument("--backend", choices=("nft", "legacy"), required=True)
    parser.add_argument("--workloads", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    options = parser.parse_args(argv)
    # Somebody's rule, which no packet meets, tells which packet filter is the one in use.
    for program in ("iptables", "ip6tables"):
        for words in (("-N", "others"), ("-A", "others", "-j", "RETURN")):
            subprocess.run([f"{program}-{options.backend}", "-w", *words], check=True)
    gc.disable()  # as the daemon does until it has started
    count = options.workloads
    asyncio.run(_play(Bgpmesh(count) if options.side == BGPMESH else FelixLike(count, options.backend), options.runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
