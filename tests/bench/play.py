"""One run: a scenario with a daemon in a lab of its own, timed and checked."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from containerlab.lab import End, Lab, LabError, Node, Process, Topology, until
from tests.bench.daemons import NODE, Daemon
from tests.bench.scenario import ASN, DUT, FEEDER, Scenario
from tests.bench.watch import digest, expected

HERE = Path(__file__).parent
STEP_S = 60.0  # the longest that anything may take
REST_S = 0.3  # a daemon that used no CPU time for so long has nothing in hand
GO = "/run/go"  # a line in it and the feeder goes on
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run came to. The peak is of the daemon's whole life, the rest is of what was timed."""

    scenario: str
    daemon: str
    seconds: float  # from the feeder's first byte to the kernel's last route
    cpu_s: float  # of the daemon, user and system
    peak_rss_mb: float
    feed_s: float  # until the socket had taken the whole feed
    seen_by: str  # see watch.py


@dataclass(frozen=True, slots=True)
class FeederLimit:
    """The feed with a sink at the other end instead of a daemon: seconds until it was sent, and counted."""

    scenario: str
    sent_s: float
    received_s: float


def run(scenario: Scenario, daemon: Daemon, routes: int) -> Measured:
    """Play a scenario once; raises LabError where a step fails or the kernel does not hold the feed."""
    with Lab(_topology()) as lab:
        processes = daemon.start(lab, scenario.family)
        watch = _watch(lab, scenario, routes)
        feeder = _feeder(lab, scenario, routes)
        _said(feeder, "established", processes)
        _said(watch, "watching", processes)
        _until_at_rest(processes)
        before = _cpu_s(processes)
        _go(lab)
        end, started = _said(watch, "complete", processes), "sent"
        _check(end, expected(scenario.first, routes))
        if scenario.timed == "withdraw":
            _until_at_rest(processes)
            before = _cpu_s(processes)
            _go(lab)
            end, started = _said(watch, "gone", processes), "withdrawn"
            _check(end, set())
        cpu_s = _cpu_s(processes) - before
        sent = _said(feeder, started, processes)
        return Measured(
            scenario=scenario.name,
            daemon=daemon.name,
            seconds=_number(end, "at") - _number(sent, "began"),
            cpu_s=cpu_s,
            peak_rss_mb=sum(map(_peak_rss_mb, processes)),
            feed_s=_number(sent, "at") - _number(sent, "began"),
            seen_by=str(end["seen_by"]),
        )


def run_feeder_alone(scenario: Scenario, routes: int) -> FeederLimit:
    """Feed a sink: what no daemon could beat. Raises LabError."""
    with Lab(_topology()) as lab:
        sink = lab.start(
            NODE,
            _python(
                "feeder.py", "--listen", DUT[scenario.family], "--asn", ASN, "--peer-asn", ASN,
                "--family", scenario.family, "--expect", routes, "--timeout", STEP_S, "--hold", "inf",
            ),
        )  # fmt: skip
        _said(sink, "listening")
        feeder = _feeder(lab, scenario, routes)
        _said(feeder, "established", [sink])
        _go(lab)
        received, sent = _said(sink, "received"), _said(feeder, "sent")
        began = _number(sent, "began")
        return FeederLimit(scenario.name, _number(sent, "at") - began, _number(received, "at") - began)


# ── the lab ──────────────────────────────────────────────────────────────────


def _topology() -> Topology:
    nodes = tuple(Node(name, "linux", (), (), (), (), "") for name in (NODE, "feeder"))
    ends = [
        End(node.name, "eth1", addresses=(f"{addresses['ipv4']}/24", f"{addresses['ipv6']}/64"))
        for node, addresses in zip(nodes, (DUT, FEEDER), strict=True)
    ]
    return Topology("bench", nodes, ((ends[0], ends[1], 0),))


def _python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(HERE / script), *map(str, arguments)]


def _watch(lab: Lab, scenario: Scenario, routes: int) -> Process:
    command = _python(
        "watch.py", "--first", scenario.first, "--routes", routes, "--gateway", FEEDER[scenario.family],
        "--timeout", STEP_S, *(["--until-gone"] if scenario.timed == "withdraw" else []),
    )  # fmt: skip
    return lab.start(NODE, command)


def _feeder(lab: Lab, scenario: Scenario, routes: int) -> Process:
    """Start the feeder; it announces, and withdraws, at a line in GO."""
    command = _python(
        "feeder.py", "--connect", DUT[scenario.family], "--bind", FEEDER[scenario.family],
        "--asn", ASN, "--peer-asn", ASN, "--router-id", FEEDER["ipv4"],
        "--family", scenario.family, "--first", scenario.first, "--routes", routes, "--sets", scenario.sets,
        "--timeout", STEP_S, "--wait", "--withdraw-on-line", "--hold", "inf",
    )  # fmt: skip
    # Opened for both ways it has no end, whoever writes to it comes and goes.
    return lab.start("feeder", ["sh", "-c", f"mkfifo {GO} && exec {shlex.join(command)} <> {GO}"])


def _go(lab: Lab) -> None:
    done = lab.outside(["sh", "-c", f"echo > {GO}"])
    if done.returncode:
        raise LabError(done.stderr.strip())


# ── what was said, and what it cost ──────────────────────────────────────────


def _said(process: Process, event: str, others: Sequence[Process] = ()) -> dict[str, object]:
    """Wait until a program of ours has said this; raises LabError where it, or one of the others, ends before."""

    def lines() -> dict[str, dict[str, object]]:
        whole = process.output().rpartition("\n")[0].splitlines()
        return {line["event"]: line for line in map(json.loads, filter(lambda line: line.startswith("{"), whole))}

    def is_over() -> bool:
        return event in lines() or not process.is_running or not all(other.is_running for other in others)

    until(is_over, f"{process.node}: {event!r}", 2 * STEP_S)
    found = lines().get(event)
    if found is not None:
        return found
    ended = next((other for other in (*others, process) if not other.is_running), process)
    raise LabError(f"{ended.node}: {ended.command[0]} ended before {event!r}: {ended.output()[-2000:].strip()}")


def _number(line: dict[str, object], key: str) -> float:
    value = line[key]
    if not isinstance(value, int | float):
        raise LabError(f"{key} is {value!r}")
    return float(value)


def _check(read: dict[str, object], wanted: set[bytes]) -> None:
    """Compare what the kernel held with what was fed; raises LabError."""
    if (read["count"], read["digest"]) != (len(wanted), digest(wanted)):
        raise LabError(f"the kernel holds {read['count']} routes ({read['digest']}), not the {len(wanted)} of the feed")


def _cpu_s(processes: Sequence[Process]) -> float:
    """Return the CPU time that processes have used, in seconds (in steps of one tick, mostly 10 ms)."""
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def _peak_rss_mb(process: Process) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise LabError(f"{process.node}: {process.command[0]} has no VmHWM")


def _until_at_rest(processes: Sequence[Process]) -> None:
    """Wait until the daemon has used no CPU time for a while."""
    last, since = _cpu_s(processes), time.monotonic()

    def is_at_rest() -> bool:
        nonlocal last, since
        if (now := _cpu_s(processes)) != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= REST_S

    until(is_at_rest, "the daemon to be at rest", STEP_S)
