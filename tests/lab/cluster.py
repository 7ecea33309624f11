"""A cluster of real daemons in a lab, the traffic between its workloads, and a watch over its kernels.

What tests of a single daemon (`nodes`) need just as well is here too: how the programs of this folder are run, and
what a node is asked.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, Signals
from typing import cast

import pytest

from bgpmesh.control import client
from containerlab.lab import PATIENCE_S, REPOSITORY, Lab, Process, missing, until

PROTOCOL = "77"
OF_THE_KERNEL = "2"  # routes that it makes itself, as it does while a link-local address is new
CONFIG = "/run/bgpmesh/cluster.toml"
STATE = "/var/lib/bgpmesh"
PINGS = 15  # a round; 0.3 s
HEARD_S = 180.0  # TCP that was cut tries again after as long as it was cut
KERNEL = f"ip -N route show table all proto {PROTOCOL}; ip -N -6 route show table all proto {PROTOCOL}; ip -N nexthop"

NODES = ("n1", "n2", "n3")
CLIENTS = ("c1", "c2", "c3", "c4")
SESSIONS = {"mesh3": tuple(combinations(NODES, 2)), "reflector": tuple(("rr1", client) for client in CLIENTS)}
HOLDERS = {"mesh3": NODES, "reflector": CLIENTS}  # the nodes with pods
METRICS = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9179/metrics').read().decode())"
# A daemon that is frozen for a while, or gets no turn on a busy machine, must not lose its sessions by that.
PATIENT = "90"
PATIENT_PROGRAM = str(Path(__file__).with_name("patient.py"))


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload: its node, its namespace's name, and its addresses, IPv4 first."""

    name: str
    node: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """What a daemon says of itself."""

    is_in_sync: bool
    drift_repaired: int
    states: Mapping[str, str]  # peer -> state
    last_errors: Mapping[str, str]


@contextmanager
def lab_of(name: str) -> Iterator[Lab]:
    """Lay out a topology of the repository, or skip; after a failure the end of every log is printed."""
    if reason := missing():
        pytest.skip(f"needs network namespaces: {reason}")
    with Lab(REPOSITORY / f"containerlab/{name}/{name}.clab.yml") as lab:
        yield lab


@contextmanager
def laid_out(name: str, *, is_patient: bool = False) -> Iterator[Cluster]:
    """Lay out a topology of the repository for a cluster.

    `is_patient`: its daemons wait long after a restart for peers that do not answer (`patient.py`).
    """
    with lab_of(name) as lab:
        yield Cluster(lab, command=(sys.executable, PATIENT_PROGRAM) if is_patient else ("bgpmesh",))


@dataclass(slots=True)
class Cluster:
    """The daemons of one lab. Every wait ends after a minute, or when a daemon ends that should run."""

    lab: Lab
    command: Sequence[str] = ("bgpmesh",)
    daemons: dict[str, Process] = field(default_factory=dict)
    workloads: list[Workload] = field(default_factory=list)

    # ── the way up ───────────────────────────────────────────────────────────

    def bring_up(self, topology: str, texts: Mapping[str, str] | None = None) -> dict[str, str]:
        """Start every node (those in `texts` on that text) and wait for its sessions and for routes to all blocks.

        Returns the configurations.
        """
        file = "config/demo.toml" if topology == "mesh3" else "containerlab/reflector/bgpmesh.toml"
        holders = HOLDERS[topology]
        used = dict.fromkeys(holders, text_of(file, hold_time=PATIENT, restart_deferral=PATIENT))
        if topology == "reflector":
            used["rr1"] = text_of("containerlab/reflector/rr1.toml", hold_time=PATIENT, restart_deferral=PATIENT)
        used |= texts or {}
        for node, text in used.items():
            self.configure(node, text)
        self.start(*used)
        self.await_sync(*used)
        self.await_sessions(SESSIONS[topology])
        for node in holders:
            self.until(node, partial(self.has_prefixes, node, blocks(*holders)), "routes to all blocks")
        return used

    def attach_workloads(self) -> None:
        """Give the first three nodes with pods a workload each, and wait until its routes stand."""
        holders = [node for node in self.daemons if node != "rr1"]
        for node in holders[:3]:
            workload = self.attach(node)
            self.await_prefixes(node, blocks(*holders) | {*workload.addresses})

    # ── daemons ──────────────────────────────────────────────────────────────

    def start(self, *nodes: str) -> None:
        """Start these nodes' daemons on the configuration that `configure` gave them."""
        for node in nodes:
            self.daemons[node] = self.lab.start(node, [*self.command, "run", "--config", CONFIG])

    def configure(self, node: str, text: str) -> None:
        """Write a node's configuration file; a daemon that runs does not read it."""
        self.lab.write(node, CONFIG, text)

    def reload(self, node: str, text: str) -> None:
        """Write a node's configuration file and put it in force."""
        self.configure(node, text)
        self.ask(node, "reload")

    def stop(self, number: Signals, *nodes: str) -> None:
        """Send the daemons of these nodes a signal, all at once, and wait for their end; an orderly one exits 0."""
        for node in nodes:
            self.daemons[node].send_signal(number)
        for node in nodes:
            expected = -SIGKILL if number is SIGKILL else 0
            status = self.daemons[node].entry.wait(PATIENCE_S)
            assert expected == status, f"exit status of {node}: {self.daemons[node].output()}"

    @contextmanager
    def frozen(self, node: str) -> Iterator[None]:
        """Stop a daemon's clock for a while: calls to it are taken by its kernel and not answered."""
        daemon = self.daemons[node]
        daemon.send_signal(SIGSTOP)
        until(lambda: _is_stopped(daemon.entry.pid), f"{node} to be frozen")  # its nsenter stops along with it
        try:
            yield
        finally:
            os.kill(daemon.entry.pid, SIGCONT)  # and passes this on
            until(lambda: not _is_stopped(daemon.pid), f"{node} to be thawed")

    def log(self, node: str) -> str:
        """Return what the present daemon of a node has logged."""
        return self.daemons[node].output()

    def until(self, node: str, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds, as long as the daemon of a node runs."""
        self.daemons[node].until(holds, f"{node}: {what}")

    def until_logged(self, node: str, words: str) -> None:
        """Wait until a daemon has logged something."""
        self.daemons[node].await_said(words)

    # ── what they say ────────────────────────────────────────────────────────

    def status(self, node: str) -> Status | None:
        """Return what a daemon says of itself; None while it does not answer."""
        try:
            answer = cast("dict[str, object]", self.ask(node, "status"))
        except client.NoDaemonError:
            return None
        peers = cast("list[dict[str, str]]", answer["peers"])
        return Status(
            is_in_sync=answer["in_sync"] is True,
            drift_repaired=cast("dict[str, int]", answer["fib"])["drift_repaired"],
            states={peer["name"]: peer["state"] for peer in peers},
            last_errors={peer["name"]: peer["last_error"] for peer in peers},
        )

    def has_no_stale(self, node: str) -> bool:
        """Tell whether a node answers and holds no stale path of any peer."""
        status = self.status(node)
        names = () if status is None else status.states
        rows = [cast("list[dict[str, int]]", self.ask(node, "peers", name=name)) for name in names]
        return bool(rows) and not any(row["stale"] for (row,) in rows)

    def peer(self, node: str, peer: str) -> dict[str, object]:
        """Return what a node says of a peer in full."""
        (row,) = cast("list[dict[str, object]]", self.ask(node, "peers", name=peer))
        return row

    def listed_workloads(self, node: str) -> list[object]:
        """Return what `workload list` says, labels aside."""
        rows = cast("list[dict[str, object]]", self.ask(node, "workload list"))
        return [{key: value for key, value in row.items() if key != "labels"} for row in rows]

    def ask(self, node: str, command: str, **args: object) -> object:
        """Return a daemon's answer to a request; raises as the client does."""
        return ask(self.daemons[node], command, **args)

    def has_peer(self, node: str, peer: str, *, is_up: bool) -> bool:
        """Tell whether a node answers and has its session with a peer up, or down."""
        status = self.status(node)
        return status is not None and (status.states.get(peer) == "Established") is is_up

    def last_error(self, node: str, peer: str) -> str:
        """Return why a node's session with a peer is down, or was before."""
        status = self.status(node)
        assert status is not None, f"{node} answers"
        return status.last_errors[peer]

    def is_in_sync(self, node: str) -> bool:
        """Tell whether a node answers and is in sync."""
        status = self.status(node)
        return status is not None and status.is_in_sync

    def await_sync(self, *nodes: str) -> None:
        """Wait until these nodes are in sync."""
        for node in nodes:
            self.until(node, partial(self.is_in_sync, node), "in sync")

    def await_sessions(self, sessions: Iterable[tuple[str, str]]) -> None:
        """Wait until both ends of these sessions say that they are up."""
        for one, other in sessions:
            for node, peer in ((one, other), (other, one)):
                self.until(node, partial(self.has_peer, node, peer, is_up=True), f"session with {peer}")

    def await_no_stale(self, *nodes: str) -> None:
        """Wait until these nodes hold no stale path."""
        for node in nodes:
            self.until(node, partial(self.has_no_stale, node), "no stale path")

    # ── their kernels ────────────────────────────────────────────────────────

    def kernel(self, node: str) -> str:
        """Return every route of ours and every nexthop object as the kernel lists them."""
        return self.lab.exec(node, ["sh", "-c", KERNEL]).stdout

    def prefixes(self, node: str) -> set[str]:
        """Return the prefixes of the routes of ours; a host route goes without its length."""
        return self.lab.prefixes(node, PROTOCOL)

    def has_prefixes(self, node: str, expected: set[str]) -> bool:
        """Tell whether a node's kernel has routes of ours to these, and maybe to others."""
        return expected <= self.prefixes(node)

    def await_no_next_hop(self, node: str, *addresses: str) -> None:
        """Wait until no nexthop object of a node leads by these addresses."""
        self.until(
            node,
            lambda: not any(f" via {address} " in self.kernel(node) for address in addresses),
            f"no nexthop object by {addresses}",
        )

    def await_prefixes(self, node: str, expected: set[str]) -> None:
        """Wait until a node's kernel has routes of ours to exactly these."""
        self.until(node, lambda: expected == self.prefixes(node), f"routes to {sorted(expected)}")

    # ── workloads ────────────────────────────────────────────────────────────

    def attach(self, node: str, *words: str, name: str = "") -> Workload:
        """Make a namespace for a workload on a node and hand it to the daemon; `words` are further options."""
        name = name or f"w-{node}"
        path = self.lab.add_workload_namespace(node, name)
        told = self.lab.exec(node, ["bgpmesh", "workload", "add", name, "--netns", path, "--json", *words]).stdout
        addresses = sorted(json.loads(told)["addresses"], key=lambda text: ":" in text)
        added = Workload(name, node, tuple(addresses))
        self.workloads.append(added)
        return added


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "T"


# ── what is run beside the daemons, and what nodes are asked ────────────────


def script(name: str, *words: str) -> list[str]:
    """Return the command that runs a program of this folder, one of those of the standard library alone."""
    return [sys.executable, "-ISE", str(Path(__file__).with_name(f"{name}.py")), *words]


def serve(lab: Lab, node: str, address: str, port: str, name: str = "", *, inside: str = "") -> Process:
    """Have a server of UDP on a node, or `inside` a workload's namespace there, that answers with whom it sees."""
    server = lab.start(node, script("source", "serve", address, port, *([name] if name else [])), inside=inside)
    server.await_said("listening")
    return server


def reply(lab: Lab, node: str, target: str, port: str, *, tries: int = 60, inside: str = "") -> str:
    """Return what such a server answers to who asks up to `tries` times, half a second each; "" where none does."""
    words = script("source", "ask", target, port, str(tries))
    return lab.exec(node, words, inside=inside, check=False, timeout=PATIENCE_S + tries).stdout.strip()


class Stream:
    """A TCP server of one workload that goes on sending, and another workload that hears it.

    Each place is a node and a network namespace there. `called`: the address that leads to the server's.
    """

    def __init__(
        self, lab: Lab, server: tuple[str, str], client: tuple[str, str], address: str, port: str, *, called: str = ""
    ) -> None:
        """Begin, and wait until it flows."""
        self._server = lab.start(server[0], script("stream", "serve", address, port), inside=server[1])
        self._server.await_said("listening")
        self._client = lab.start(client[0], script("stream", "hear", called or address, port), inside=client[1])
        self.await_heard(5)

    @property
    def sent(self) -> int:
        """How much the server has given to TCP, or one less."""
        return last_number(self._server)

    @property
    def heard(self) -> int:
        """How much has arrived, at least."""
        return last_number(self._client)

    def await_heard(self, more: int) -> None:
        """Wait until more has arrived."""
        wanted = self.heard + more
        self._client.until(lambda: self.heard >= wanted, f"{wanted} octets", HEARD_S)

    def await_sent(self, more: int) -> None:
        """Wait until the server has sent more."""
        wanted = self.sent + more
        self._server.until(lambda: self.sent >= wanted, f"{wanted} octets sent")

    def await_cut(self) -> None:
        """Wait until what is sent for a second does not arrive."""
        mark = self.sent, self.heard

        def is_cut() -> bool:
            nonlocal mark
            sent, heard = self.sent, self.heard
            if heard != mark[1]:
                mark = sent, heard
            return sent > mark[0] + 50

        self._server.until(is_cut, "the end of a connection that is no longer allowed")

    def stop(self) -> None:
        """End it."""
        for process in (self._client, self._server):
            process.kill()


def last_number(process: Process) -> int:
    """Return the last number that a process has printed on a whole line, 0 where there is none."""
    return next((int(line) for line in reversed(process.output().split("\n")[:-1]) if line.isdigit()), 0)


def ask(daemon: Process, command: str, **args: object) -> object:
    """Return a daemon's answer to a request; raises as the client does."""
    return client.call(f"{daemon.root}{client.DEFAULT_SOCKET}", command, args)


def metrics(lab: Lab, node: str) -> str:
    """Return the page of metrics of a node's daemon."""
    return lab.exec(node, [sys.executable, "-c", METRICS]).stdout


def next_hops_of(lab: Lab, node: str, address: str) -> set[str]:
    """Return the gateways by which a node's routes to a single address lead, through their nexthop objects."""
    family = "-6" if ":" in address else "-4"
    routes = json.loads(lab.exec(node, ["ip", "-j", family, "route", "show", address]).stdout or "[]")
    listed = json.loads(lab.exec(node, ["ip", "-j", "nexthop"]).stdout or "[]")
    objects = {each["id"]: each for each in listed}
    tops = [objects.get(route.get("nhid"), {}) for route in routes]
    members = [objects.get(part["id"], {}) for top in tops for part in top.get("group", [top] if top else [])]
    return {member["gateway"] for member in members if "gateway" in member}


def packet_filter(lab: Lab, node: str) -> list[str]:
    """Return what a node's packet filters hold, line by line without counters: of each kind of iptables and family.

    A table in which nobody has a chain or a rule counts as absent.
    """
    found: list[str] = []
    for program in ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"):
        for block in lab.exec(node, [f"{program}-save"]).stdout.split("COMMIT"):
            lines = [line.partition(" [")[0] for line in block.splitlines() if line and not line.startswith("#")]
            if any(line.startswith("-A") or line.endswith(" -") for line in lines):
                found += [program, *lines]
    return found


def set_names(lab: Lab, node: str) -> list[str]:
    """Return the names of all sets of a node."""
    return lab.exec(node, ["ipset", "list", "-name"]).stdout.splitlines()


# ── traffic ──────────────────────────────────────────────────────────────────


def pinging(lab: Lab, node: str, addresses: Sequence[str], *, inside: str = "") -> Process:
    """Start pings to these addresses from a node, or from a workload's namespace there."""
    started = lab.start(node, script("pings", *addresses), inside=inside)
    started.until(lambda: _counts(started), "pings")
    return started


def await_rounds(pings: Sequence[Process], count: int = 2) -> None:
    """Wait until each address has answered as often as it has been asked by now, and so many rounds more."""
    for ping, before in [(ping, _counts(ping)) for ping in pings]:
        wanted = {address: sent + count * PINGS for address, (sent, _) in before.items()}
        ping.until(partial(_has_answers, ping, wanted), f"so many answers: {wanted}")


def unanswered(pings: Sequence[Process]) -> list[str]:
    """End pings once all are answered or half a minute is over, and return what was lost, in words."""
    for ping in pings:
        ping.send_signal(SIGTERM)
    faults = []
    for ping in pings:
        status = ping.entry.wait(PATIENCE_S)
        short = {address: (sent, back) for address, (sent, back) in _counts(ping).items() if sent != back}
        if status or short:
            said = ping.output()[-500:] if status else ""
            faults.append(f"{ping.node}: pings: exit status {status}, (sent, answered) {short} {said}")
    return faults


def _has_answers(ping: Process, wanted: Mapping[str, int]) -> bool:
    counts = _counts(ping)
    return all(counts[address][1] >= count for address, count in wanted.items())


def _counts(ping: Process) -> dict[str, tuple[int, int]]:
    """Return of each address how many were sent and answered, as last told."""
    told = [line for line in ping.output().splitlines() if line.startswith("{") and line.endswith("}")]
    return {address: (sent, answered) for address, (sent, answered) in json.loads(told[-1]).items()} if told else {}


class Traffic:
    """Pings between workloads, both families and both directions, and TCP flows; every packet counts."""

    def __init__(self, lab: Lab, ends: Sequence[tuple[Workload, Workload]]) -> None:
        """Start pings both ways between each two, a flow over IPv4 one way and one over IPv6 the other."""
        self._pings: list[Process] = []
        self._flows: list[Process] = []
        self._servers: list[Process] = []
        ways: dict[Workload, list[str]] = {}
        for source, target in (*ends, *((target, source) for source, target in ends)):
            ways.setdefault(source, []).extend(target.addresses)
        self._pings = [pinging(lab, source.node, addresses, inside=source.name) for source, addresses in ways.items()]
        for port, (source, target) in enumerate((ends[0], ends[0][::-1]), start=5001):
            place = (target.addresses[port - 5001], str(port))
            server = lab.start(target.node, script("flow", "serve", *place), inside=target.name)
            server.await_said("listening")
            flow = lab.start(source.node, script("flow", "send", *place), inside=source.name)
            flow.await_said("flowing")
            self._servers.append(server)
            self._flows.append(flow)
        self.await_rounds(1)

    def await_rounds(self, count: int = 2) -> None:
        """Wait until every workload has answered so many rounds more to every other."""
        await_rounds(self._pings, count)

    def stop(self) -> list[str]:
        """End it all and return what was lost, in words; empty if nothing was."""
        for flow in self._flows:
            flow.send_signal(SIGTERM)
        faults = unanswered(self._pings)
        for process in (*self._flows, *self._servers):
            what = f"{process.node}: {' '.join(process.command)}"
            if status := process.entry.wait(PATIENCE_S):
                faults.append(f"{what}: exit status {status}: {process.output()}")
        for flow, server in zip(self._flows, self._servers, strict=True):
            seen, served = (json.loads(process.output().splitlines()[-1]) for process in (flow, server))
            expected = {"sent": seen["sent"], "back": seen["sent"], "is_in_order": True, "lost": 0}
            if seen != expected or served != {"lost": 0}:
                faults.append(f"{flow.node}: flow to {flow.command[-2]}: {seen}, at the other end {served}")
        return faults


# ── the watch ────────────────────────────────────────────────────────────────

# Of somebody else's protocol, far away from everything: a nexthop object and a route of each family.
_MARKS = (
    ("nexthop", "id 4000000{number}", "dev lo proto 99"),
    ("route", "blackhole 203.0.113.{number}/32", "proto 99"),
    ("-6 route", "blackhole 2001:db8:ffff::{number}/128", "proto 99"),
)


class Watch:
    """The kernel's own account of every route and nexthop object that is written in a node, between two marks."""

    def __init__(self, lab: Lab, node: str) -> None:
        """Begin; nothing is missed once this returns."""
        self._lab, self._node = lab, node
        self._monitor = lab.start(node, ["ip", "-N", "monitor", "route", "nexthop"])
        # It says nothing when it has begun to listen: mark until it hears.
        self._monitor.until(self._is_heard, f"{node}: a route monitor")
        self._until_marked(2)
        self._begun = len(self._monitor.output().splitlines())

    def end(self) -> list[str]:
        """Return what was written since the beginning, line by line as `ip monitor` tells it.

        It waits for a mark, so a monitor that is deaf never says that all was quiet.
        """
        self._until_marked(3)
        self._monitor.stop()
        return [line for line in self.so_far() if not _is_mark(line, 3)]

    def so_far(self) -> list[str]:
        """Return what the monitor has told since the beginning."""
        lines = self._monitor.output().splitlines()[self._begun :]
        return [line for line in lines if f" proto {OF_THE_KERNEL} " not in line]

    def _is_heard(self) -> bool:
        self._mark(1)
        return self._count(1) > 0

    def _mark(self, number: int) -> None:
        added = [f"ip {kind} add {key.format(number=number)} {rest}" for kind, key, rest in _MARKS]
        removed = [f"ip {kind} del {key.format(number=number)}" for kind, key, _ in _MARKS]
        self._lab.exec(self._node, ["sh", "-ec", "\n".join(added + removed)])

    def _until_marked(self, number: int) -> None:
        self._mark(number)
        self._monitor.until(lambda: self._count(number) == 2 * len(_MARKS), f"{self._node}: mark {number}")

    def _count(self, number: int) -> int:
        return sum(_is_mark(line, number) for line in self._monitor.output().splitlines())


def _is_mark(line: str, number: int) -> bool:
    return any(mark in line for mark in (f"id 4000000{number} ", f"203.0.113.{number} ", f"2001:db8:ffff::{number} "))


def blocks(*nodes: str) -> set[str]:
    """Return the pod CIDRs of these nodes, which both topologies number alike."""
    return {cidr for node in nodes for cidr in (f"10.244.{node[1]}.0/26", f"fd00:10:244:{node[1]}::/112")}


def text_of(file: str, **options: str) -> str:
    """Return a configuration of the repository, with options put into its `[cluster]`."""
    added = "".join(f"{key} = {value}\n" for key, value in options.items())
    return (REPOSITORY / file).read_text("utf-8").replace("[cluster]\n", f"[cluster]\n{added}", 1)


def without_node(text: str, node: str) -> str:
    """Return a configuration without one node."""
    shorter = re.sub(rf"(?ms)^\[node\.{node}\]\n.*?(?=^\[|\Z)", "", text)
    assert shorter != text, f"{node} was in it"
    return shorter


def announcing(text: str, node: str, *prefixes: str) -> str:
    """Return a configuration in which a node announces these as well."""
    return text.replace(f"[node.{node}]\n", f"[node.{node}]\nadvertise = {json.dumps(prefixes)}\n", 1)
