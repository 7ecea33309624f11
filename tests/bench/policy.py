"""The policy bench: what a change costs, and what a packet costs, beside chains as Felix has them.

One lab for each packet filter and number of workloads: three nodes, one with nothing, one with ours, one with the
other's (policyside.py), each with two of its workloads on links. They take turns, change by change; then packets
go from one workload through the node to the other (packets.c), and the nodes take turns again.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bgpmesh.kernel.chains import present_backends
from bgpmesh.workload.endpoint import Endpoint
from containerlab.lab import End, Lab, Node, Topology, until
from tests.bench.policyside import BGPMESH, CHANGES, FELIX
from tests.bench.population import PORT, average_pair, world
from tests.bench.scenario import Scale
from tests.bench.stage import Program, number
from tests.bench.yardstick import compiled

NOTHING = "no rules"
NAME = "policy"  # of the scenario
_SIDES = {NOTHING: "none", BGPMESH: "ours", FELIX: "felix"}  # the names of their nodes
_SOURCE = Path(__file__).parent / "packets.c"
_PER_BURST, _BURSTS = 32, 800  # a burst is over before others get the core; no more packets than there are ports
_FREED_S = 0.3  # after which the kernel has given back what it forgot

WORDS = {
    "all": "all of it, from nothing",
    "labels": "a label: only sets change",
    "known": "one workload more, of a known class",
    "new": "one workload more, of a new class",
    "policy": "one policy more, on a tenth of them",
    "new flow": "a packet of a new flow",
    "established": "a packet of an established flow",
}
Unit = Literal["ms", "us"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one thing cost once."""

    what: str  # a key of WORDS
    backend: str
    workloads: int
    by: str  # bgpmesh, felix-like, no rules
    value: float
    unit: Unit
    cpu_ms: float | None = None  # of the side and its programs, where that was looked at


def sizes(scale: Scale) -> list[int]:
    """Return the numbers of workloads that are measured."""
    return [size for size in (100, 1_000, 5_000) if size <= max(100, scale.routes // 20)]


def cases(scale: Scale) -> list[tuple[str, int]]:
    """Return the packet filters and numbers of workloads."""
    if shutil.which("ipset") is None:
        return []
    return [(backend, size) for backend in present_backends() if backend for size in sizes(scale)]


def left_out() -> list[str]:
    """Return what is not measured here, and why; a line for each reason."""
    if shutil.which("ipset") is None:
        return [f"{NAME}: the other side needs ipset"]
    found = [f"{NAME} on {each}: no iptables-{each}" for each in ("nft", "legacy") if each not in present_backends()]
    return found + ([] if shutil.which("cc") else [f"{NAME}, packets: no C compiler"])


def measure(backend: str, workloads: int, runs: int) -> list[Cost]:
    """Measure one case. Raises LabError; without a C compiler no packets are sent."""
    of = {side: average_pair(world(workloads, is_felix=side == FELIX).endpoints) for side in _SIDES}
    found: list[Cost] = []
    with Lab(_topology(of)) as lab:
        words = ("--backend", backend, "--workloads", workloads, "--runs", runs)
        programs: dict[str, Program] = {}
        for side in (BGPMESH, FELIX):  # one after the other
            programs[side] = Program.start(lab, _SIDES[side], "policyside", "--side", side, *words)
            took = number(programs[side].said("in force"), "ms")
            found.append(Cost("all", backend, workloads, side, took, "ms"))
        for run in range(1, runs + 1):
            for what in CHANGES:
                for side, program in programs.items():
                    program.go()
                    said = program.said(f"{what} {run}")
                    cpu_ms = number(said, "cpu_ms")
                    found.append(Cost(what, backend, workloads, side, number(said, "ms"), "ms", cpu_ms))
        for program in programs.values():
            program.said("at rest")
        sender = compiled(lab.directory, _SOURCE)
        if sender is not None:
            for _ in range(runs):
                for what in ("new flow", "established"):
                    for side, ends in of.items():
                        took = _packets(lab, str(sender), _SIDES[side], ends, is_new=what == "new flow")
                        found.append(Cost(what, backend, workloads, side, took, "us"))
    return found


def _packets(lab: Lab, program: str, node: str, ends: tuple[Endpoint, Endpoint], *, is_new: bool) -> float:
    """Return the microseconds of a packet, a lower quartile of bursts. Raises LabError where one did not arrive."""
    source, destination = (str(each.addresses[0]) for each in ends)
    answering = lab.start(f"{node}-b", [program, "answer", str(PORT)])
    before = _arrived(lab, node)
    kind = "new" if is_new else "established"
    words = [program, "send", source, destination, str(PORT), str(_BURSTS), str(_PER_BURST), kind]
    bursts = [float(line) for line in lab.exec(f"{node}-a", words).stdout.split()]
    wanted = before + _BURSTS * _PER_BURST
    until(lambda: _arrived(lab, node) >= wanted, f"{node}: all packets to arrive")  # the last are under way
    answering.kill()
    if node != _SIDES[NOTHING]:
        lab.exec(node, [program, "flush"])
        time.sleep(_FREED_S)
    return statistics.quantiles(bursts, n=4)[0] / 1000


def _arrived(lab: Lab, node: str) -> int:
    return int(lab.exec(f"{node}-b", ["cat", "/sys/class/net/eth0/statistics/rx_packets"]).stdout)


def _topology(of: dict[str, tuple[Endpoint, Endpoint]]) -> Topology:
    parts = [part for side, ends in of.items() for part in _parts(_SIDES[side], ends)]
    return Topology(
        "policy",
        tuple(part for part in parts if isinstance(part, Node)),
        tuple(part for part in parts if not isinstance(part, Node)),
    )


def _parts(name: str, ends: Sequence[Endpoint]) -> Iterator[Node | tuple[End, End, int]]:
    """Yield a node that forwards, and two workloads on it."""
    sysctls = [("net.ipv4.ip_forward", "1")]
    routes: list[str] = []
    for suffix, endpoint in zip("ab", ends, strict=True):
        address, link = endpoint.addresses[0], endpoint.interface
        sysctls.append((f"net.ipv4.conf.{link}.proxy_arp", "1"))
        routes.append(f"ip route add {address} dev {link}")
        inside = f"{name}-{suffix}"
        yield Node(inside, "linux", ("ip route add default dev eth0",), (), (), (), "")
        yield End(name, link), End(inside, "eth0", addresses=(f"{address}/32",)), 0
    env = (("XTABLES_LOCKFILE", f"/run/xtables-{name}.lock"),)  # or the nodes would wait for each other: /run is shared
    yield Node(name, "linux", tuple(routes), (), env, tuple(sysctls), "")
