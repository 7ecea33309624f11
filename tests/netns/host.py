"""A host of a test's own: a thread in fresh namespaces, its workloads, an engine and the edge of its chains."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial

import pytest

from bgpmesh import config
from bgpmesh.engine import Engine
from bgpmesh.events import EndpointAdded, Event
from bgpmesh.kernel.chains import ChainsEdge
from bgpmesh.kernel.sets import Sets
from bgpmesh.policy.attribution import Counters
from bgpmesh.policy.chains import AddressSet
from bgpmesh.workload.endpoint import Endpoint
from tests.waiting import DEADLINE_S, beside, until

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)

FILE = """
[cluster]
asn = 64512
[pool.default]
cidr = "10.244.0.0/16"
{four}
[pool.other]
cidr = "10.245.0.0/16"
[pool.default6]
cidr = "fd00:10:244::/48"
{six}
[node.n1]
address = "192.0.2.1"
pod_cidrs = ["10.244.1.0/26"]
"""
ON = FILE.format(four="masquerade = true", six="masquerade = true")
OFF = FILE.format(four="", six="")
THEIRS = {  # a rule of somebody else, of each family
    4: "-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE",
    6: "-A POSTROUTING -s fd17::/16 -j MASQUERADE",
}

Story = Callable[["World"], Coroutine[None, None, None]]


def apart(story: Callable[[], object]) -> None:
    """Tell a story in a thread in fresh network and mount namespaces, with an empty /run and `lo` up.

    What it raises is raised here; skips where there can be no namespaces.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces are made")
    failures: list[BaseException] = []

    def body() -> None:
        try:
            if _libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS) != 0:
                pytest.skip(f"needs CAP_SYS_ADMIN: unshare says {os.strerror(ctypes.get_errno())}")
            run("mount", "--make-rprivate", "/")
            run("mount", "-t", "tmpfs", "none", "/run")
            run("ip", "link", "set", "lo", "up")
            story()
        except BaseException as failure:  # noqa: BLE001  carried over to the test's own thread
            failures.append(failure)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def run(*command: str, stdin: str = "") -> str:
    """Return what a command printed; it must succeed."""
    done = subprocess.run(command, input=stdin, check=False, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
    return done.stdout


def run_all(commands: str) -> None:
    """Run commands, one a line."""
    for line in commands.strip().splitlines():
        run(*line.split())


def connect(endpoint: Endpoint) -> None:
    """Give a workload its namespace and link, as the links' edge would; nobody has to be asked for by ARP or ND."""
    name, link = endpoint.name, endpoint.interface
    here, inside = "02:00:00:00:00:01", "02:00:00:00:00:02"
    run_all(f"""
        ip netns add {name}
        ip link add {link} address {here} type veth peer name eth0 address {inside} netns {name}
        ip link set {link} up
        ip -n {name} link set lo up
        ip -n {name} link set eth0 up
        ip -n {name} neigh add 169.254.1.1 lladdr {here} dev eth0
        ip -n {name} neigh add fe80::1 lladdr {here} dev eth0
    """)
    for address in endpoint.addresses:
        run_all(f"""
            ip -n {name} addr add {address} dev eth0 {"nodad" if address.version == 6 else ""}
            ip neigh add {address} lladdr {inside} dev {link}
            ip route add {address} dev {link}
        """)
    run_all(f"""
        ip -n {name} route add 169.254.1.1 dev eth0
        ip -n {name} route add default via 169.254.1.1
        ip -n {name} -6 route add default via fe80::1 dev eth0
    """)


def without_net_admin() -> None:
    """Have this thread, and what it starts, without CAP_NET_ADMIN (capset(2), linux/capability.h)."""
    assert _libc.prctl(24, 12, 0, 0, 0) == 0  # PR_CAPBSET_DROP: also for programs
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert _libc.capget(header, data) == 0
    for part in (0, 1, 2):
        data[part] &= ~(1 << 12)
    assert _libc.capset(header, data) == 0


def sets_of_ours() -> dict[str, AddressSet]:
    """Return what the kernel has."""
    with closing(Sets()) as sets:
        return sets.read()


@dataclass
class World:
    """The engine of a node, the edge that serves it, and other people's hands on the same kernel."""

    backend: str
    text: str = ON
    attached: tuple[Endpoint, ...] = ()  # workloads that the daemon knows from the beginning
    events: list[Event] = field(default_factory=list)
    applied: list[float] = field(default_factory=list)
    known: tuple[Event, ...] = ()  # what the engine hears before it looks at anything
    counters: Counters = field(default_factory=Counters)
    engine: Engine = field(init=False)
    edge: ChainsEdge = field(init=False)

    def iptables(self, family: int, *words: str, table: str = "nat") -> str:
        """Run iptables of the kind under test."""
        return run(f"{_PROGRAMS[family]}-{self.backend}", "-w", "-t", table, *words)

    def restore(self, family: int, lines: list[str], *, table: str = "nat") -> None:
        """Have a table be this, whatever it was, in one transaction."""
        text = "\n".join([f"*{table}", *lines, "COMMIT", ""])
        run(f"{_PROGRAMS[family]}-{self.backend}-restore", "-w", stdin=text)

    def saved(self, family: int) -> list[str]:
        """Return chains and rules as they are listed, without counters."""
        lines = run(f"{_PROGRAMS[family]}-{self.backend}-save").splitlines()
        return [line.partition(" [")[0] for line in lines if not line.startswith("#")]

    def filters(self) -> list[str]:
        """Return all rules of the tables that decide, both families, without counters."""
        tables = [(family, table) for family in _PROGRAMS.values() for table in ("filter", "mangle", "raw")]
        saved = [run(f"{family}-{self.backend}-save", "-t", table).splitlines() for family, table in tables]
        return [line for lines in saved for line in lines if line.startswith("-A")]

    def report(self, event: Event) -> None:
        """Let the engine hear it."""
        self.events.append(event)
        self.engine.handle(event, time.monotonic())
        self.engine.work(1000, time.monotonic())
        packets = self.engine.packets
        self.counters.know(packets.chains.wanted, packets.protection.compiled, self.engine.flows.causes)
        self.edge.kick()

    def reload(self, text: str) -> None:
        """Put a configuration in force."""
        self.engine.handle(config.effective(config.parse(text, "f.toml"), "n1"), time.monotonic())
        self.engine.work(1000, time.monotonic())
        self.edge.kick()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Live one life of a daemon: a new engine, a new edge, over what is in the kernel."""
        self.engine = Engine(config.effective(config.parse(self.text, "f.toml"), "n1"), (), lambda: 0.0)
        for endpoint in self.attached:
            self.engine.handle(EndpointAdded(endpoint), time.monotonic())
        for event in self.known:
            self.engine.handle(event, time.monotonic())
        self.engine.work(1000, time.monotonic())
        self.events.clear()
        self.applied.clear()
        edge = partial(ChainsEdge, counters=self.counters, on_apply=self.applied.append)
        self.edge = edge(self.engine.packets.chains, self.engine.packets.sets, self.report)
        await self.edge.start()
        await self.edge.settle()
        try:
            async with beside(self.edge.run()):
                yield
        finally:
            self.edge.close()

    async def until(self, is_so: Callable[[], object], what: str) -> None:
        """Poll until something is so."""
        await until(is_so, lambda: f"{what}: {self.events} {self.engine.packets.unmade()}")

    async def settled(self) -> None:
        """Wait until all is as wanted."""
        await self.until(lambda: not len(self.engine.packets.chains) and not len(self.engine.packets.sets), "as wanted")

    def read_back(self) -> None:
        """Have the minute over."""
        self.edge._read_at = -math.inf
        self.edge._awake.set()

    def repaired(self) -> list[str]:
        """Return what was found changed, by name."""
        return [str(note.keys["value"]) for note in self.engine.notes if note.name == "drift.found"]


_PROGRAMS = {4: "iptables", 6: "ip6tables"}
