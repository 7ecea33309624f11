"""A cluster with the workloads of a layout, and the three matrices of a world: expected, with packets, explained."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bgpmesh.control.client import DEFAULT_SOCKET
from containerlab.lab import Process
from tests.lab.cluster import NODES, PATIENT, Cluster, laid_out, text_of
from tests.policy.cases import EXTRAS, NINE, SERVED, Layout, Step, cells
from tests.policy.oracle import Cell, Object, Oracle, World

PROBER = str(Path(__file__).with_name("prober.py"))
SOCKET = "/run/bgpmesh/prober.sock"
FIRST_PORT, LAST_PORT = 10_000, 60_000  # source ports of sweeps: one a sweep, since connections are remembered
GRACE_S = 0.15  # at least: how long an answer that must not come is waited for
PATIENCE_S = (2.0, 4.0, 8.0, 30.0)  # for an answer that must come, one try after the other


@dataclass(slots=True)
class Stage:
    """The cluster, with the objects and workloads of the step that it is in."""

    cluster: Cluster
    layout: Layout
    has_identity: bool = False
    prober: Process = field(init=False)
    grace_s: float = GRACE_S
    is_spreading: bool = False  # what a command has changed is in force on its own node, and on its way to the others
    _step: Step = field(default_factory=Step)
    _workloads: dict[str, Mapping[str, str]] = field(default_factory=dict)  # with their labels
    _objects: dict[tuple[str, ...], Object] = field(default_factory=dict)
    _source_port: int = FIRST_PORT

    @property
    def nodes(self) -> list[str]:
        """The nodes that have workloads, or may get some."""
        return sorted(set(self.layout.nodes.values()))

    def begin(self) -> None:
        """Attach the nine, and start servers and the prober in their namespaces and in those of the extras."""
        names = {key: namespace_of(key) for key in (*NINE, *EXTRAS)}
        for key, name in names.items():
            self.cluster.lab.add_workload_namespace(self.layout.nodes[key], name)
        for key in NINE:
            self._attach(key, {"pod": key[-1]})
        for words in (["serve"], ["probe", SOCKET]):
            process = self.cluster.lab.start("n1", [sys.executable, "-ISE", PROBER, *words, *names.values()])
            process.await_said("listening")
        self.prober = process

    # ── from step to step ────────────────────────────────────────────────────

    def become(self, step: Step) -> None:
        """Make what is there that of a step; it is in force when this returns."""
        wanted = {identity(each): each for each in self.world(step).objects}
        before = self._workloads.copy(), self._namespaces()
        gone = [each for key, each in self._objects.items() if key not in wanted]
        new = [each for key, each in wanted.items() if self._objects.get(key) != each]
        labels = {key: step.labels.get(key, {"pod": key[-1]}) for key in (*NINE, *step.extras)}
        for key in [key for key in self._workloads if key not in labels]:
            self._detach(key)
        if gone:
            self._everywhere("delete", gone)
        if new:
            self._everywhere("apply", new)
        self._objects = wanted
        for key, given in labels.items():
            if key not in self._workloads:
                self._attach(key, given)
            elif self._workloads[key] != given:
                self._label(key, given)
        self.is_spreading = self.has_identity and before != (self._workloads, self._namespaces())

    def world(self, step: Step) -> World:
        """Return the step as the oracle takes it."""
        return step.world(self.layout, has_identity=self.has_identity)

    def _namespaces(self) -> list[Object]:
        return [each for each in self._objects.values() if each["kind"] == "Namespace"]

    def _everywhere(self, command: str, objects: Sequence[Object]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        words = ["bgpmesh", command, "-f", "-", "--json"]
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            answers = pool.map(lambda node: self.cluster.lab.exec(node, words, stdin=text), self.nodes)
            for answer in answers:
                said = json.loads(answer.stdout)
                assert said["refused"] == [], said

    def _attach(self, key: str, labels: Mapping[str, str]) -> None:
        where, _, name = key.partition("/")
        words = ["workload", "add", name, "-n", where, "--netns", f"/run/netns/{namespace_of(key)}"]
        for address in self.layout.addresses(key):
            words += ["--ip", str(address)]
        for label, value in labels.items():
            words += ["--label", f"{label}={value}"]
        for (port, protocol), number in SERVED.items():
            words += ["--port", f"{port}={protocol.lower()}:{number}"]
        self._command(key, words)
        self._workloads[key] = labels

    def _detach(self, key: str) -> None:
        where, _, name = key.partition("/")
        self._command(key, ["workload", "del", name, "-n", where])
        del self._workloads[key]

    def _label(self, key: str, labels: Mapping[str, str]) -> None:
        where, _, name = key.partition("/")
        changes = [f"{label}={value}" for label, value in labels.items()]
        changes += [f"{label}-" for label in self._workloads[key] if label not in labels]
        self._command(key, ["workload", "label", name, "-n", where, *changes])
        self._workloads[key] = labels

    def _command(self, key: str, words: Sequence[str]) -> None:
        self.cluster.lab.exec(self.layout.nodes[key], ["bgpmesh", *words])

    # ── the matrices ─────────────────────────────────────────────────────────

    def faults(self, world: World) -> list[str]:
        """Return in words every cell in which oracle, packets and explanation differ."""
        oracle = Oracle(world)
        asked = list(cells(world, self._next_port()))
        expected = [oracle.passes(cell) for cell in asked]
        with ThreadPoolExecutor(1) as beside:  # a sweep is mostly waiting
            future = beside.submit(self._explained, world, asked)
            packets = self._probed(world, asked, expected)
            explained = future.result()
        names = {address: pod.key for pod in world.pods for address in pod.addresses}
        return [
            f"{names[cell.source]} -> {names[cell.destination]}, {cell.protocol} {cell.port or 'echo'},"
            f" IPv{cell.source.version}: expected {wanted}, packets {passed}, explained {said}"
            for cell, wanted, passed, said in zip(asked, expected, packets, explained, strict=True)
            if not (wanted is passed is said)
        ]

    def sweep(self, probes: Sequence[object], expected: Iterable[int], patience_s: float, port: int) -> dict[str, Any]:
        """Return what the prober says of one sweep."""
        request = {
            "probes": probes,
            "expected": list(expected),
            "source_port": port,
            "grace": self.grace_s,
            "patience": patience_s,
        }
        answer: dict[str, Any]
        (answer,) = conversation(f"{self.prober.root}{SOCKET}", [request])
        return answer

    def _probed(self, world: World, asked: Sequence[Cell], expected: Sequence[bool]) -> list[bool]:
        """Return which cells are answered. What should be and is not is asked again, with more and more patience."""
        names = {address: namespace_of(pod.key) for pod in world.pods for address in pod.addresses}
        probes = [(names[c.source], c.protocol, str(c.destination), c.port) for c in asked]
        passed = [False] * len(probes)
        waiting = list(range(len(probes)))
        port = asked[0].source_port or self._next_port()
        for patience_s in PATIENCE_S:
            hoped = [at for at, number in enumerate(waiting) if expected[number]]
            answer = self.sweep([probes[number] for number in waiting], hoped, patience_s, port)
            for number, result in zip(waiting, answer["results"], strict=True):
                word, _, who = result.partition(" ")
                assert result == "" or word == "answer", f"{probes[number]}: {result}"
                assert not who or who == names[asked[number].destination], f"{probes[number]}: answered by {who}"
                passed[number] = passed[number] or bool(result)
            waiting = [number for number in waiting if expected[number] and not passed[number]]
            if not waiting:
                break
            port = self._next_port()
        return passed

    def _explained(self, world: World, asked: Sequence[Cell]) -> list[bool]:
        """Return which cells pass by the word of every node that holds one of their ends."""
        holders = {address: pod.node for pod in world.pods for address in pod.addresses}
        said = [True] * len(asked)
        for node in self.nodes:
            mine = [at for at, cell in enumerate(asked) if node in {holders[cell.source], holders[cell.destination]}]
            path = f"{self.cluster.daemons[node].root}{DEFAULT_SOCKET}"
            requests = [{"command": "policy explain", "args": arguments(asked[at])} for at in mine]
            for at, answer in zip(mine, conversation(path, requests), strict=True):
                said[at] = said[at] and answer["result"]["verdict"] == "allow"
        return said

    def _next_port(self) -> int:
        self._source_port += 1
        assert self._source_port < LAST_PORT
        return self._source_port


def arguments(cell: Cell) -> dict[str, object]:
    """Return what `policy explain` is asked of a cell."""
    ends = {"from": str(cell.source), "to": str(cell.destination), "protocol": cell.protocol.lower()}
    if cell.icmp_type is not None:
        return {**ends, "icmp": f"{cell.icmp_type}/0"}
    return {**ends, "port": cell.port, "source_port": cell.source_port}


def conversation(path: str, requests: Sequence[Mapping[str, object]]) -> list[Any]:
    """Return the answers to requests, a line each, all of them on one connection."""
    said = "".join(json.dumps(request) + "\n" for request in requests).encode()
    with socket.socket(socket.AF_UNIX) as asking, ThreadPoolExecutor(1) as writer:
        asking.settimeout(60.0)
        asking.connect(path)
        written = writer.submit(asking.sendall, said)  # beside the reading: neither end takes all before it answers
        with asking.makefile("rb") as lines:
            answers = [json.loads(lines.readline()) for _ in requests]
        written.result()
    return answers


def namespace_of(key: str) -> str:
    """Return the name of a workload's network namespace."""
    return f"w-{key.replace('/', '-')}"


def identity(document: Object) -> tuple[str, ...]:
    """Return which object a document is."""
    metadata = document["metadata"]
    return document["apiVersion"].partition("/")[0], document["kind"], metadata.get("namespace", ""), metadata["name"]


@contextmanager
def staged(layout: Layout, *, has_identity: bool = False) -> Iterator[Stage]:
    """Bring up three nodes, and the workloads where the layout has them."""
    with laid_out("mesh3") as cluster:
        text = text_of("config/demo.toml", hold_time=PATIENT, identity="true" if has_identity else "false")
        cluster.bring_up("mesh3", dict.fromkeys(NODES, text))
        stage = Stage(cluster, layout, has_identity)
        stage.begin()
        yield stage
