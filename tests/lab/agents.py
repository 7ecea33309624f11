"""Agents of BFD in the nodes of a lab, and the unix socket by which a daemon has them.

n1 192.0.2.1 2001:db8::1 ────┐ switch ┌──── n2 192.0.2.2 2001:db8::2       n3 is not needed
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from bgpmesh.peering.bfd import Diag, Report, State, Watched
from containerlab.lab import PATIENCE_S, REPOSITORY, Lab, Process, until

SOCKET = "/run/bgpmesh/bgpmesh.sock.bfd"
ADDRESSES = {"n1": ("192.0.2.1", "2001:db8::1"), "n2": ("192.0.2.2", "2001:db8::2")}
COMMAND = ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-P", "-S", "-m", "bgpmesh.bfd_agent"]

_connections: list[socket.socket] = []  # that daemons have, or had


def watched(node: str, hops: int = 1, interval_ms: int = 100, multiplier: int = 3) -> list[Watched]:
    """Return the two sessions of n1 or n2 with the other one, IPv4 and IPv6."""
    (other,) = ADDRESSES.keys() - {node}
    return [
        Watched(name, local, remote, hops, interval_ms, multiplier)
        for name, local, remote in zip(("ipv4", "ipv6"), ADDRESSES[node], ADDRESSES[other], strict=True)
    ]


@dataclass
class Agent:
    """An agent, and what a daemon's end of its socket has heard."""

    process: Process
    place: str = SOCKET
    reports: list[Report] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    discarded: dict[str, int] = field(default_factory=dict)
    said: dict[str, object] = field(default_factory=dict)  # its greeting
    errors: list[str] = field(default_factory=list)
    is_hung_up: bool = False
    _socket: socket.socket | None = None
    _left: bytes = b""

    @property
    def path(self) -> str:
        """Its socket, as seen from here."""
        return f"/proc/{self.process.pid}/root{self.place}"

    def connect(self) -> None:
        """Be a daemon that has just started."""
        found = socket.socket(socket.AF_UNIX)
        _connections.append(found)
        self.process.until(lambda: not found.connect_ex(self.path), "the agent's socket")
        found.setblocking(False)
        self._socket, self._left, self.is_hung_up, self.said = found, b"", False, {}
        self.until(lambda: self.said, "its greeting")

    def disconnect(self) -> None:
        """Be a daemon that was killed."""
        assert self._socket is not None
        self._socket.close()
        self._socket = None

    def send(self, what: object) -> None:
        """Say something on one line, or these octets."""
        assert self._socket is not None
        self._socket.settimeout(PATIENCE_S)
        self._socket.sendall(what if isinstance(what, bytes) else json.dumps(what).encode() + b"\n")
        self._socket.setblocking(False)

    def want(self, rows: Sequence[Watched], stay_s: float = 60.0) -> None:
        """Say what is to be watched."""
        self.send({"wanted": rows, "stay_s": stay_s})

    def hear(self) -> None:
        """Take in what it has said since."""
        try:
            while self._socket is not None:
                data = self._socket.recv(1 << 16)
                if not data:
                    self.is_hung_up = True
                    return
                *lines, self._left = (self._left + data).split(b"\n")
                for line in map(json.loads, lines):
                    self._take(line)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.is_hung_up = True

    def _take(self, line: dict[str, object]) -> None:
        match line:
            case {"report": dict(row)}:
                self.reports.append(Report(**row))
            case {"problems": list(problems), "discarded": dict(discarded)}:
                self.problems, self.discarded = problems, discarded
            case {"error": str(error)}:
                self.errors.append(error)
            case {"protocol": _}:
                self.said = line
            case _:
                raise AssertionError(line)

    def latest(self, name: str) -> Report | None:
        """Return the newest report of a session."""
        self.hear()
        return next((report for report in reversed(self.reports) if report.name == name), None)

    def states(self) -> dict[str, State]:
        """Return the state of each session as it was reported last."""
        self.hear()
        return {report.name: State(report.state) for report in self.reports}

    def failures(self) -> list[tuple[str, Diag]]:
        """Return the failures that were reported."""
        self.hear()
        return [(report.name, Diag(report.diag)) for report in self.reports if report.is_failure]

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds, reading meanwhile."""

        def is_so() -> bool:
            self.hear()
            return bool(holds())

        until(is_so, f"{what}; it said {self.reports[-4:]} {self.problems} {self.errors}")

    def await_states(self, state: State, *names: str) -> None:
        """Wait until these sessions (none named: all) are in a state."""

        def are_so() -> bool:
            states = self.states()
            return bool(states) and all(states.get(name) is state for name in names or states)

        self.until(are_so, f"{names or 'all'} to be {state.name}")

    def await_end(self) -> None:
        """Wait until the process has ended."""
        until(lambda: not self.process.is_running, "the end of the agent")


def start(lab: Lab, node: str, *options: str, place: str = SOCKET) -> Agent:
    """Start an agent with its socket in a place, and connect to it."""
    agent = Agent(lab.start(node, [*COMMAND, place, *options]), place)
    agent.connect()
    return agent


@contextmanager
def agents() -> Iterator[tuple[Lab, Agent, Agent]]:
    """Lay out three nodes on a switch, with an agent in n1 and in n2."""
    with Lab(REPOSITORY / "containerlab/mesh3/mesh3.clab.yml") as lab:
        try:
            yield lab, start(lab, "n1"), start(lab, "n2")
        finally:
            while _connections:
                _connections.pop().close()


def silence(lab: Lab, node: str) -> float:
    """Have the switch drop all that goes to a node and comes from it, the link up; return the monotonic second."""
    lab.outside(["bridge", "link", "set", "dev", node, "state", "0"])
    return monotonic()


def hear_again(lab: Lab, node: str) -> None:
    """Have the switch pass on again what goes to a node and comes from it."""
    lab.outside(["bridge", "link", "set", "dev", node, "state", "3"])


def scheduler(pid: int) -> int:
    """Return the policy that a process is scheduled by."""
    return os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK
