"""What every run is made of: a lab, the bench's own programs in it and what they say, and what the daemon costs."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from containerlab.lab import REPOSITORY, End, Lab, LabError, Node, Process, Topology, until
from tests.bench.daemons import NODE
from tests.bench.scenario import DUT, FEEDER, QUIET, clients, members
from tests.bench.watch import digest

STEP_S = 300.0  # the longest that anything may take, on a machine that is busy with other things
EMPTY_S = 60.0  # that the host's table of neighbours may take to be empty again
REST_S = 0.3  # a daemon that used no CPU time for so long has nothing in hand
TICKS = os.sysconf("SC_CLK_TCK")

Line = dict[str, object]  # what a program says, one JSON object a line


# ── topologies ───────────────────────────────────────────────────────────────


def pair(client_count: int = 0) -> Topology:
    """Return feeder ── dut; the feeder's end has the addresses of a reflector's clients too."""
    own = {name: (f"{each['ipv4']}/20", f"{each['ipv6']}/64") for name, each in ((NODE, DUT), ("feeder", FEEDER))}
    others = tuple(f"{address}/20" for address in (QUIET, *clients(client_count)))
    ends = End(NODE, "eth1", addresses=own[NODE]), End("feeder", "eth1", addresses=own["feeder"] + others)
    return Topology("bench", (_node(NODE), _node("feeder")), ((*ends, 0),))


def segment(count: int) -> Topology:
    """Return that many nodes on one bridge."""
    nodes = members(count)
    links = tuple(
        (End(each.name, "eth1", addresses=(f"{each.address}/20",)), End("br0", f"port{number}"), 0)
        for number, each in enumerate(nodes)
    )
    return Topology("bench", (*(_node(each.name) for each in nodes), _node("br0", "bridge")), links)


def _node(name: str, kind: str = "linux") -> Node:
    # Link-local addresses that can be used at once: FRR refuses an IPv6 session before it has one.
    sysctls = tuple((f"net.ipv6.conf.{each}.accept_dad", "0") for each in ("all", "eth1"))
    return Node(name, kind, (), (), (), sysctls if kind == "linux" else (), "")


@contextmanager
def many_neighbours() -> Iterator[None]:
    """Give the host room for thousands of neighbours meanwhile: one table serves all namespaces, by default with 1,024.

    Where these sysctls cannot be written (without root) it stays as it is. It is made small again when most of them
    are gone, which takes a while after their namespaces: in a full table others would find no neighbour.
    """
    wanted = {"gc_thresh3": 32768, "gc_thresh2": 16384, "gc_thresh1": 8192}  # each above the next
    folder = Path("/proc/sys/net/ipv4/neigh/default")
    had: dict[str, int] = {}
    with suppress(OSError):
        for name, value in wanted.items():
            had[name] = int((folder / name).read_text("ascii"))
            (folder / name).write_text(str(max(value, had[name])), "ascii")
    try:
        yield
    finally:
        with suppress(OSError, LabError):
            until(lambda: _neighbours() < had.get("gc_thresh2", sys.maxsize), "fewer neighbours", EMPTY_S)
        with suppress(OSError):
            for name, value in reversed(had.items()):
                (folder / name).write_text(str(value), "ascii")


def _neighbours() -> int:
    """Return how many of IPv4 there are in all namespaces."""
    _, first, *_ = Path("/proc/net/stat/arp_cache").read_text("ascii").splitlines()
    return int(first.split()[0], 16)


# ── the bench's own programs ─────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Program:
    """A module of this package that runs in a node and goes on at a line on its standard input."""

    lab: Lab
    process: Process
    _input: str

    @classmethod
    def start(cls, lab: Lab, node: str, module: str, *arguments: object) -> Program:
        """Start it in a node."""
        command = ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", f"tests.bench.{module}"]
        command += map(str, arguments)
        # Opened for both ways it has no end, whoever writes to it comes and goes.
        fifo = f"/run/{module}-{len(lab.processes)}"
        return cls(lab, lab.start(node, ["sh", "-c", f"mkfifo {fifo} && exec {shlex.join(command)} <> {fifo}"]), fifo)

    def go(self) -> None:
        """Give it its line."""
        done = self.lab.outside(["sh", "-c", f"echo > {self._input}"])
        if done.returncode:
            raise LabError(done.stderr.strip())

    def said(self, event: str, others: Sequence[Process] = ()) -> Line:
        """Wait until it has said this; raises LabError where it, or one of the others, ends before."""
        process = self.process

        def lines() -> dict[str, Line]:
            whole = process.output().rpartition("\n")[0].splitlines()
            return {line["event"]: line for line in map(json.loads, filter(lambda line: line.startswith("{"), whole))}

        def is_over() -> bool:
            return event in lines() or not process.is_running or not all(other.is_running for other in others)

        until(is_over, f"{process.node}: {event!r}", 2 * STEP_S)
        found = lines().get(event)
        if found is not None:
            return found
        ended = next((other for other in (*others, process) if not other.is_running), process)
        raise LabError(f"{ended.node}: ended before {event!r}: {ended.output()[-2000:].strip()}")


def number(line: Line, key: str) -> float:
    """Return a number that was said; raises LabError where it is none."""
    value = line[key]
    if not isinstance(value, int | float):
        raise LabError(f"{key} is {value!r}")
    return float(value)


def numbers(line: Line, key: str) -> list[float]:
    """Return the numbers that were said; raises LabError where there are none."""
    value = line[key]
    if not isinstance(value, list) or not value:
        raise LabError(f"{key} is {value!r}")
    return [float(each) for each in value]


def check(read: Line, wanted: set[bytes]) -> None:
    """Compare what the kernel held with what was fed; raises LabError."""
    if (read["count"], read["digest"]) != (len(wanted), digest(wanted)):
        raise LabError(f"the kernel holds {read['count']} routes ({read['digest']}), not the {len(wanted)} of the feed")


# ── what the daemon costs ────────────────────────────────────────────────────


def cpu_s(processes: Sequence[Process]) -> float:
    """Return the CPU time that processes have used, in seconds (in steps of one tick, mostly 10 ms)."""
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def exact_cpu_s(processes: Sequence[Process]) -> float:
    """Return what the threads that live have used, to the nanosecond; an ended thread is forgotten."""
    tasks = (task for process in processes for task in Path(f"/proc/{process.pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text("ascii").split()[0]) for task in tasks) / 1e9


def peak_rss_mb(processes: Sequence[Process]) -> float:
    """Return VmHWM, the sum over processes."""
    return sum(map(_peak_rss_mb, processes))


def _peak_rss_mb(process: Process) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise LabError(f"{process.node}: {process.command[0]} has no VmHWM")


def until_at_rest(processes: Sequence[Process]) -> float:
    """Wait until the daemon has used no CPU time for a while; returns what it has used by then."""
    last, since = cpu_s(processes), time.monotonic()

    def is_at_rest() -> bool:
        nonlocal last, since
        if (now := cpu_s(processes)) != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= REST_S

    until(is_at_rest, "the daemon to be at rest", STEP_S)
    return last
