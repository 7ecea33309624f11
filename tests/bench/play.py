"""One run: a scenario with a daemon in a lab of its own, timed and checked. An act is a function here."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from signal import SIGKILL, SIGTERM

from containerlab.lab import Lab, LabError, Process, until
from tests.bench.daemons import NODE, Daemon, Neighbour, Setup, until_listening
from tests.bench.scenario import ASN, DUT, FEEDER, QUIET, Act, Scale, Scenario, clients, members
from tests.bench.stage import (
    STEP_S,
    Line,
    Program,
    check,
    cpu_s,
    exact_cpu_s,
    many_neighbours,
    number,
    numbers,
    pair,
    peak_rss_mb,
    segment,
    until_at_rest,
)
from tests.bench.watch import expected

CHURN_HOLD_S = 3
ASKED = 5  # how often the command for the state is timed

# Times a command where it runs, without what it takes to get there.
# Exit status 1 is an answer too: a neighbour that never calls is a reason not to be ready.
TIMING = """
import subprocess, sys, time
began = time.monotonic()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.monotonic() - began)
sys.exit(done.returncode > 1)
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run came to. The peak is of the daemon's whole life, the CPU time of what was measured."""

    scenario: str
    daemon: str
    value: float  # in the unit of the scenario; less is better
    cpu_s: float  # of the daemon, user and system
    peak_rss_mb: float
    seen_by: str = "notifications"  # see watch.py
    also: Mapping[str, float] = field(default_factory=dict)  # by name and unit


@dataclass(frozen=True, slots=True)
class Limit:
    """What no daemon could beat, in seconds."""

    scenario: str
    what: str
    seconds: float


def run(scenario: Scenario, daemon: Daemon, scale: Scale) -> Measured:
    """Play a scenario once; raises LabError where a step fails or the outcome is not right."""
    return ACTS[scenario.act](scenario, daemon, scale)


def _measured(
    scenario: Scenario,
    daemon: Daemon,
    processes: Sequence[Process],
    value: float,
    *,
    used_s: float,
    seen_by: str = "notifications",
    also: Mapping[str, float],
) -> Measured:
    return Measured(scenario.name, daemon.name, value, used_s, peak_rss_mb(processes), seen_by, also)


# ── the feed, from the wire to the kernel ────────────────────────────────────


@dataclass(slots=True)
class Stage:
    """A daemon between a feeder and a watch over its kernel, at rest until the feeder is told to go."""

    scenario: Scenario
    daemon: Daemon
    lab: Lab
    processes: list[Process]
    feeder: Program
    watch: Program
    fed: set[bytes]  # packed addresses
    used_before_s: float = 0.0  # of CPU time

    def load(self) -> tuple[Line, Line]:
        """Feed; returns what feeder and watch said of it, once the kernel holds the feed."""
        self.feeder.go()
        end = self.watch.said("complete", self.processes)
        check(end, self.fed)
        return self.feeder.said("sent", self.processes), end

    def rest(self) -> None:
        """Wait until the daemon has nothing in hand; what it uses from here on counts."""
        self.used_before_s = until_at_rest(self.processes)

    def until_kernel(self, end: Line, began: float) -> Measured:
        """Return the time from a monotonic second to what the watch saw."""
        seconds, by = number(end, "at") - began, str(end["seen_by"])
        return self.measured(seconds, {"routes/s": len(self.fed) / seconds}, seen_by=by)

    def measured(self, value: float, also: Mapping[str, float], seen_by: str = "notifications") -> Measured:
        """Return what it came to, with what the daemon has cost."""
        used_s = cpu_s(self.processes) - self.used_before_s
        return _measured(self.scenario, self.daemon, self.processes, value, used_s=used_s, seen_by=seen_by, also=also)


@contextmanager
def _staged(
    scenario: Scenario,
    daemon: Daemon,
    routes: int,
    *,
    feeder: Sequence[object] = (),
    watch: Sequence[object] = (),
    setup: Setup | None = None,
) -> Iterator[Stage]:
    """Lay it all out; `feeder` and `watch` are more words for these programs."""
    with Lab(pair()) as lab:
        setup = setup or Setup((Neighbour(FEEDER[scenario.family]),))
        processes = daemon.start(lab, NODE, setup)
        watching = Program.start(
            lab, NODE, "watch", "--first", scenario.first, "--routes", routes,
            "--gateway", FEEDER[scenario.family], "--timeout", STEP_S, *watch,
        )  # fmt: skip
        feeding = _feeder(lab, scenario, routes, *feeder)
        feeding.said("established", processes)
        watching.said("watching complete", processes)
        yield Stage(scenario, daemon, lab, processes, feeding, watching, expected(scenario.first, routes))


def _feeder(lab: Lab, scenario: Scenario, routes: int, *words: object) -> Program:
    return Program.start(
        lab, "feeder", "feeder", "--connect", DUT[scenario.family], "--bind", FEEDER[scenario.family],
        "--asn", ASN, "--peer-asn", ASN, "--router-id", FEEDER["ipv4"],
        "--family", scenario.family, "--first", scenario.first, "--routes", routes, "--sets", scenario.sets,
        "--timeout", STEP_S, "--wait", "--hold", "inf", *words,
    )  # fmt: skip


def _announce(scenario: Scenario, daemon: Daemon, scale: Scale) -> Measured:
    """Measure UPDATE to kernel."""
    with _staged(scenario, daemon, scale.routes) as stage:
        stage.rest()
        sent, end = stage.load()
        return stage.until_kernel(end, number(sent, "began"))


def _withdraw(scenario: Scenario, daemon: Daemon, scale: Scale) -> Measured:
    """Withdraw everything."""
    return _until_gone(scenario, daemon, scale.routes, "withdraw", "withdrawn")


def _lost(scenario: Scenario, daemon: Daemon, scale: Scale) -> Measured:
    """Close the connection."""
    return _until_gone(scenario, daemon, scale.few, "drop", "dropped")


def _until_gone(scenario: Scenario, daemon: Daemon, routes: int, step: str, event: str) -> Measured:
    feeder, watch = ("--steps", f"announce,{step}"), ("--steps", "complete,gone")
    with _staged(scenario, daemon, routes, feeder=feeder, watch=watch) as stage:
        stage.load()
        stage.watch.said("watching gone", stage.processes)
        stage.rest()
        stage.feeder.go()
        end = stage.watch.said("gone", stage.processes)
        check(end, set())
        return stage.until_kernel(end, number(stage.feeder.said(event), "began"))


def _latency(scenario: Scenario, daemon: Daemon, scale: Scale) -> Measured:
    """Announce routes one by one; the median counts."""
    count = scale.singles
    feeder = ("--steps", "announce,singles", "--singles", count)
    watch = ("--steps", "complete,singles", "--singles", count)
    with _staged(scenario, daemon, scale.few, feeder=feeder, watch=watch) as stage:
        stage.load()
        stage.watch.said("watching singles", stage.processes)
        stage.rest()
        stage.feeder.go()
        end = stage.watch.said("singles", stage.processes)
        check(end, expected(scenario.first, scale.few + count))
        sent = numbers(stage.feeder.said("announced singly"), "times")
        took = sorted((there - here) * 1000 for here, there in zip(sent, numbers(end, "times"), strict=True))
        p99 = took[(len(took) * 99 - 1) // 100]
        return stage.measured(statistics.median(took), {"p99 ms": p99, "most ms": took[-1]})


def _idle(scenario: Scenario, daemon: Daemon, scale: Scale) -> Measured:
    """Do nothing at all, for a while."""
    with _staged(scenario, daemon, scale.routes) as stage:
        stage.load()
        stage.rest()
        before, began = exact_cpu_s(stage.processes), time.monotonic()
        time.sleep(scale.idle_s)
        used_s, seconds = exact_cpu_s(stage.processes) - before, time.monotonic() - began
        return stage.measured(100 * used_s / seconds, {})


def _churn(scenario: Scenario, daemon: Daemon, scale: Scale) -> Measured:
    """Withdraw and announce everything, over and over; the longest silence of the daemon to a neighbour counts.

    One more route comes last: it shows that all before it has been taken in, where the kernel may still hold the feed.
    """
    setup = Setup((Neighbour(FEEDER["ipv4"]), Neighbour(QUIET)), hold_time=CHURN_HOLD_S)
    words = ("--hold-time", CHURN_HOLD_S)
    feeder = (*words, "--steps", "announce,churn", "--changes", scale.changes, "--singles", 1)
    watch = ("--steps", "complete,settled", "--singles", 1)
    with _staged(scenario, daemon, scale.routes, feeder=feeder, watch=watch, setup=setup) as stage:
        quiet = Program.start(
            stage.lab, "feeder", "feeder", "--connect", DUT["ipv4"], "--bind", QUIET,
            "--asn", ASN, "--peer-asn", ASN, "--hold", "inf", "--timeout", STEP_S, *words,
        )  # fmt: skip
        quiet.said("established", stage.processes)
        stage.load()
        stage.rest()
        stage.feeder.go()
        churned = stage.feeder.said("churned", stage.processes)
        stage.watch.go()
        end = stage.watch.said("settled", stage.processes)
        check(end, expected(scenario.first, scale.routes + 1))
        silence_s = max(_silence_s(stage.feeder), _silence_s(quiet))
        seconds = number(end, "at") - number(churned, "began")
        return stage.measured(silence_s, {"all of it s": seconds, "changes/s": scale.changes / seconds})


def _silence_s(program: Program) -> float:
    """End a feeder; returns how long its neighbour has been silent. Raises LabError if the session was lost before."""
    program.process.send_signal(SIGTERM)
    ended = program.said("ended")
    if ended["reason"] != "stopped":
        raise LabError(f"a session was lost: {ended['reason']}")
    return number(ended, "silence_s")


def _restart(scenario: Scenario, daemon: Daemon, scale: Scale) -> Measured:
    """Kill it and start it again at once; the feeder, which agreed to graceful restart, calls again."""
    setup = Setup((Neighbour(FEEDER["ipv4"]),), has_graceful_restart=True)
    feeder, watch = ("--graceful-restart", "--again"), ("--steps", "complete,kept")
    with _staged(scenario, daemon, scale.routes, feeder=feeder, watch=watch, setup=setup) as stage:
        stage.load()
        stage.watch.said("watching kept", stage.processes)
        stage.rest()
        for process in reversed(stage.processes):
            process.send_signal(SIGKILL)
        for process in stage.processes:
            process.entry.wait(STEP_S)
        began, stage.used_before_s = time.monotonic(), 0.0
        stage.processes = daemon.start(stage.lab, NODE, replace(setup, is_restart=True))
        in_sync_at = _until_in_sync(stage, daemon, scale.routes)
        stage.watch.go()
        end = stage.watch.said("kept", stage.processes)
        check(end, stage.fed)
        if end["is_lost"]:
            raise LabError("the kernel had more changes to tell than could be counted")
        seconds = max(in_sync_at, number(end, "last")) - began
        return stage.measured(seconds, {"routes touched": number(end, "touched")})


def _until_in_sync(stage: Stage, daemon: Daemon, routes: int) -> float:
    """Return the monotonic second at which the daemon's first yes had come."""

    def is_in_sync() -> bool:
        if dead := [process for process in stage.processes if not process.is_running]:
            raise LabError(f"{dead[0].command[0]} ended: {dead[0].output()[-2000:].strip()}")
        return daemon.is_in_sync(stage.lab, routes)

    until(is_in_sync, f"{daemon.name} to be in sync", STEP_S)
    return time.monotonic()


# ── without a feed to the kernel ─────────────────────────────────────────────


def _reflect(scenario: Scenario, daemon: Daemon, scale: Scale) -> Measured:
    """From one neighbour to clients; nothing goes to the kernel."""
    own = clients(scenario.clients)
    setup = Setup((Neighbour(FEEDER["ipv4"]), *(Neighbour(address, is_client=True) for address in own)), has_fib=False)
    with many_neighbours(), Lab(pair(scenario.clients)) as lab:
        processes = daemon.start(lab, NODE, setup)
        sink = Program.start(
            lab, "feeder", "sink", "--connect", DUT["ipv4"], "--bind", *own, "--asn", ASN, "--timeout", STEP_S,
            "--first", scenario.first, "--routes", scale.routes,
            "--next-hop", FEEDER["ipv4"], "--originator", FEEDER["ipv4"],
        )  # fmt: skip
        feeder = _feeder(lab, scenario, scale.routes)
        feeder.said("established", processes)
        sink.said("established", processes)
        before = until_at_rest(processes)
        feeder.go()
        end = sink.said("received", processes)
        used_s, seconds = cpu_s(processes) - before, number(end, "last") - number(feeder.said("sent"), "began")
        also = {"UPDATEs": number(end, "updates"), "CPU of the sink s": number(end, "cpu_s")}
        return _measured(scenario, daemon, processes, seconds, used_s=used_s, also=also)


def _mesh(scenario: Scenario, daemon: Daemon, scale: Scale) -> Measured:
    """Start a daemon in every node of a segment; CPU and memory are the sum over all of them."""
    nodes = members(scale.nodes)
    setup = Setup(mesh=nodes)
    with many_neighbours(), Lab(segment(scale.nodes)) as lab:
        watch = Program.start(lab, nodes[0].name, "meshwatch", "--nodes", scale.nodes, "--timeout", STEP_S)
        watch.said("watching")
        processes: list[Process] = []
        first = last = time.monotonic()
        for node in nodes:
            last = time.monotonic()
            processes += daemon.start(lab, node.name, setup)
        end = watch.said("complete", processes)
        at, also = number(end, "at"), {"from the first start s": number(end, "at") - first}
        return _measured(
            scenario, daemon, processes, at - last, used_s=cpu_s(processes), seen_by=str(end["seen_by"]), also=also
        )


def _start(scenario: Scenario, daemon: Daemon, _: Scale) -> Measured:
    """Start with one neighbour that never calls, and ask for the state."""
    with Lab(pair()) as lab:
        began = time.monotonic()
        processes = daemon.start(lab, NODE, Setup((Neighbour(FEEDER["ipv4"]),), has_fib=daemon.has_fib))
        until_listening(processes)
        used_s, seconds = exact_cpu_s(processes), time.monotonic() - began
        until_at_rest(processes)
        command = [sys.executable, "-c", TIMING, *daemon.status]
        status_ms = statistics.median(float(lab.exec(NODE, command).stdout) * 1000 for _ in range(ASKED))
        also = {"by the clock s": seconds, "status command ms": status_ms}
        return _measured(scenario, daemon, processes, used_s, used_s=used_s, also=also)


ACTS: Mapping[Act, Callable[[Scenario, Daemon, Scale], Measured]] = {
    "announce": _announce,
    "withdraw": _withdraw,
    "reflect": _reflect,
    "lost": _lost,
    "restart": _restart,
    "latency": _latency,
    "mesh": _mesh,
    "churn": _churn,
    "idle": _idle,
    "start": _start,
}


# ── what no daemon could beat ────────────────────────────────────────────────


def feeder_alone(scenario: Scenario, scale: Scale) -> list[Limit]:
    """Feed a sink in the daemon's place. Raises LabError."""
    with Lab(pair()) as lab:
        sink = Program.start(
            lab, NODE, "feeder", "--listen", DUT[scenario.family], "--asn", ASN, "--peer-asn", ASN,
            "--family", scenario.family, "--expect", scale.routes, "--timeout", STEP_S, "--hold", "inf",
        )  # fmt: skip
        sink.said("listening")
        feeder = _feeder(lab, scenario, scale.routes)
        feeder.said("established", [sink.process])
        feeder.go()
        received, sent = sink.said("received"), feeder.said("sent")
        began = number(sent, "began")
        return [
            Limit(scenario.name, "feeder, the socket took all", number(sent, "at") - began),
            Limit(scenario.name, "feeder, a sink had counted all", number(received, "at") - began),
        ]


def kernel_alone(scenario: Scenario, scale: Scale) -> list[Limit]:
    """Write, or delete, the same routes with a program that does no more (yardstick.py). Raises LabError."""
    with Lab(pair()) as lab:
        program = Program.start(
            lab, NODE, "yardstick", "--gateway", FEEDER[scenario.family], "--device", "eth1",
            "--first", scenario.first, "--routes", scale.routes,
        )  # fmt: skip
        said = program.said("measured")
        verb, key = ("deleted", "delete_s") if scenario.act == "withdraw" else ("added", "add_s")
        return [Limit(scenario.name, f"kernel, all {verb} by a program in {said['by']}", number(said, key))]
