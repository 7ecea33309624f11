#!/usr/bin/env python3
"""Labs out of containerlab's topology files, in network namespaces alone: no containerlab, no containers.

A lab is one *holder* process, the first of a PID namespace, with a network, a mount and (rootless) a user
namespace. Everything else hangs below it, so killing the holder, or the death of whoever
started it, takes the whole lab along: processes, links, mounts and files.

    holder   /run, /etc and /var of its own; bridges of the topology; /run/netns
      n1     network, host name and mounts of its own: /run/bgpmesh, /var/lib/bgpmesh, /etc/bgpmesh, binds
      n2     ...

* Nothing is done in the root namespace: a container engine there drops what bridges forward.
* /run/netns is shared among the nodes (and is no other lab's), as a workload's namespace is named there.
* /etc and /var are overlays: mount points, and what programs leave there, never reach the host.
* A bridge's ports and the bridge itself live in the holder's namespace and are named there as in the file.

What the file may say: `defaults`, `kinds`, `groups` and `nodes` merged in this order; kinds `linux` and
`bridge`; `exec`, `binds`, `env`, `sysctls`, `cmd`; `links`, brief and extended (veth). What a namespace
cannot honour is refused by name, and what means nothing to it (images, ports, labels) is passed over.

As a command: `lab.py run TOPOLOGY -- COMMAND...` starts each node's `cmd`, waits until the daemons of ours have their
sessions, runs COMMAND beside them, where `node NAME COMMAND...` runs one in a node, and leaves with its exit status.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from types import TracebackType
from typing import Self

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0
SETTLE_S = 30.0  # longest wait for the sessions of a lab before a command runs in it

_HONOURED = {"kind", "group", "exec", "binds", "env", "sysctls", "cmd"}
_MEANINGLESS = {
    "image", "image-pull-policy", "restart-policy", "runtime", "auto-remove", "labels", "ports", "memory", "cpu",
    "cpu-set", "mgmt-ipv4", "mgmt-ipv6", "privileged", "cap-add", "shm-size", "security-opts", "cgroupns-mode",
}  # fmt: skip
_OWN_FOLDERS = ("/run/bgpmesh", "/var/lib/bgpmesh", "/etc/bgpmesh")


class LabError(Exception):
    """A topology that cannot be brought up, or a lab command that failed; the text says which and why."""


# ── the topology file ────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Node:
    """One node with everything that the file says of it, at any level."""

    name: str
    kind: str
    exec: tuple[str, ...]
    binds: tuple[tuple[Path, str, bool], ...]  # source, target, is_read_only
    env: tuple[tuple[str, str], ...]
    sysctls: tuple[tuple[str, str], ...]
    cmd: str


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link."""

    node: str
    interface: str
    mac: str = ""
    addresses: tuple[str, ...] = ()  # with prefix length


@dataclass(frozen=True, slots=True)
class Topology:
    """A parsed topology file."""

    name: str
    nodes: tuple[Node, ...]
    links: tuple[tuple[End, End, int], ...]  # the two ends and the MTU in bytes, 0 for the kernel's own


def load(path: Path) -> Topology:
    """Return the topology of a `*.clab.yml`; raises LabError with every reason it cannot be built."""
    faults: list[str] = []
    document = _section(yaml.safe_load(path.read_text(encoding="utf-8")), "the file", faults)
    topology = _section(document.get("topology"), "topology", faults)
    nodes = tuple(
        _node(name, _section(own, f"node {name}", faults), topology, path.parent, faults)
        for name, own in _section(topology.get("nodes"), "nodes", faults).items()
    )
    links = tuple(
        _link(_section(link, f"link {number}", faults), number, {node.name for node in nodes}, faults)
        for number, link in enumerate(_items(topology.get("links")))
    )
    if not nodes:
        faults.append("no nodes")
    if faults:
        raise LabError("\n".join(f"{path}: {fault}" for fault in faults))
    return Topology(str(document.get("name", path.stem)), nodes, links)


def _section(value: object, what: str, faults: list[str]) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        faults.append(f"{what}: a mapping is needed, not {value!r}")
        return {}
    return {str(key): item for key, item in value.items()}


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _node(
    name: str, own: Mapping[str, object], topology: Mapping[str, object], folder: Path, faults: list[str]
) -> Node:
    """Merge what the four levels say: maps and lists add up, a bind by its target, other values replace."""
    defaults = _section(topology.get("defaults"), "defaults", faults)
    group = str(own.get("group", defaults.get("group", "")))
    of_group = _section(_section(topology.get("groups"), "groups", faults).get(group), f"group {group}", faults)
    kind = str(own.get("kind", of_group.get("kind", defaults.get("kind", ""))))
    of_kind = _section(_section(topology.get("kinds"), "kinds", faults).get(kind), f"kind {kind}", faults)
    levels = (defaults, of_kind, of_group, own)
    if kind not in {"linux", "bridge"}:
        faults.append(f"node {name}: kind {kind!r} cannot be built from namespaces (linux and bridge can)")
    faults += [
        f"node {name}: {key} is not supported in namespaces"
        for key in sorted({key for level in levels for key in level} - _HONOURED - _MEANINGLESS)
    ]
    env: dict[str, str] = {}
    sysctls: dict[str, str] = {}
    binds: dict[str, tuple[Path, str, bool]] = {}
    commands: list[str] = []
    for level in levels:
        env |= {key: str(value) for key, value in _section(level.get("env"), f"node {name} env", faults).items()}
        sysctls |= {
            key: str(value) for key, value in _section(level.get("sysctls"), f"node {name} sysctls", faults).items()
        }
        commands += [str(line) for line in _items(level.get("exec"))]
        for line in _items(level.get("binds")):
            source, _, rest = str(line).replace("__clabNodeName__", name).partition(":")
            target, _, mode = rest.partition(":")
            if not target.startswith("/"):
                faults.append(f"node {name}: bind {line}: the target is no absolute path")
            if not (folder / source).exists():
                faults.append(f"node {name}: bind {line}: {folder / source} does not exist")
            binds[target] = ((folder / source).resolve(), target, "ro" in mode.split(","))
    cmd = next((str(level["cmd"]) for level in reversed(levels) if "cmd" in level), "")
    return Node(
        name, kind, tuple(commands), tuple(binds.values()), tuple(env.items()), tuple(sysctls.items()), cmd
    )  # fmt: skip


def _link(link: Mapping[str, object], number: int, nodes: set[str], faults: list[str]) -> tuple[End, End, int]:
    """Return a link, brief ("n1:eth1") or extended (type veth)."""
    if link.get("type", "veth") != "veth":
        faults.append(f"link {number}: type {link['type']} is not supported in namespaces")
    ends: list[End] = []
    for position, item in enumerate(_items(link.get("endpoints"))):
        if isinstance(item, dict):
            end = End(
                str(item.get("node")),
                str(item.get("interface")),
                str(item.get("mac", "")),
                tuple(str(item[key]) for key in ("ipv4", "ipv6") if item.get(key)),
            )
        else:
            node, _, interface = str(item).partition(":")
            given = [_items(link.get(key))[position : position + 1] for key in ("ipv4", "ipv6")]
            end = End(node, interface, "", tuple(str(address[0]) for address in given if address and address[0]))
        if end.node not in nodes:
            faults.append(f"link {number}: there is no node {end.node!r}")
        if not 0 < len(end.interface) < 16:
            faults.append(f"link {number}: {end.interface!r} is no name for an interface (1 to 15 characters)")
        for address in end.addresses:
            try:
                ip_interface(address)
            except ValueError as error:
                faults.append(f"link {number}: {error}")
        ends.append(end)
    if len(ends) != 2:
        faults.append(f"link {number}: two endpoints are needed, not {len(ends)}")
        return End("", ""), End("", ""), 0
    mtu = link.get("mtu", 0)
    return ends[0], ends[1], mtu if isinstance(mtu, int) else 0


# ── the scripts that lay it out ──────────────────────────────────────────────

_PREPARE = """
mount -t tmpfs none /run
mkdir -p /run/netns /run/lab/bin /run/lab/nodes
mount --bind /run/netns /run/netns
mount --make-shared /run/netns
# /var/lib for itself: without root only the top of an overlay is ours to write to.
for folder in /etc /var /var/lib; do
    upper=/run/lab/overlay$folder
    mkdir -p $upper/upper $upper/work
    mount -t overlay -o lowerdir=$folder,upperdir=$upper/upper,workdir=$upper/work overlay $folder
done
ip link set lo up
for switch in /proc/sys/net/bridge/bridge-nf-call-*; do
    [ ! -e "$switch" ] || echo 0 > "$switch"
done
"""

# The one way into a node. Everything here ends in exec, so the process of a node is the command itself.
_NODE = """#!/bin/sh
set -e
name=$1
shift
. "/run/lab/nodes/$name"
exec nsenter -t "$pid" -m -n -u -- "$@"
"""


def _holder_script(topology: Topology) -> str:
    """Return the shell script that the holder's namespaces are prepared with."""
    quoted = shlex.quote
    bgpmesh = f'#!/bin/sh\nexport PYTHONPATH={quoted(str(REPOSITORY))}\nexec {quoted(sys.executable)} -m bgpmesh "$@"\n'
    lines = ["set -e", _PREPARE]
    for name, text in (("node", _NODE), ("bgpmesh", bgpmesh)):
        lines.append(f"printf %s {quoted(text)} > /run/lab/bin/{name}; chmod +x /run/lab/bin/{name}")
    bridges = {node.name for node in topology.nodes if node.kind == "bridge"}
    batch = [f"link add {name} type bridge forward_delay 0 mcast_snooping 0" for name in sorted(bridges)]
    batch += [f"link set {name} up" for name in sorted(bridges)]
    lines += [f"ip netns add {quoted(node.name)}" for node in topology.nodes if node.kind != "bridge"]
    for left, right, mtu in topology.links:
        sides = [
            f"name {end.interface}"
            + ("" if end.node in bridges else f" netns {end.node}")
            + (f" address {end.mac}" if end.mac else "")
            + (f" mtu {mtu}" if mtu else "")
            for end in (left, right)
        ]
        batch.append(f"link add {sides[0]} type veth peer {sides[1]}")
        batch += [f"link set {end.interface} master {end.node} up" for end in (left, right) if end.node in bridges]
    lines.append(f"printf %s {quoted(chr(10).join(batch) + chr(10))} | ip -batch -")
    lines += ["{", *(_node_lines(node, topology) for node in topology.nodes if node.kind != "bridge"), "}"]
    return "\n".join(lines) + "\n"


def _node_lines(node: Node, topology: Topology) -> str:
    """Return the lines that make one node's mounts and leave a sleeper behind, to enter the node by."""
    quoted = shlex.quote
    inside = ["set -e", f"hostname {quoted(node.name)}", "mount -t sysfs none /sys", "ip link set lo up"]
    inside += [f"mkdir -p {folder}; mount -t tmpfs none {folder}" for folder in _OWN_FOLDERS]
    for source, target, is_read_only in node.binds:
        inside.append(f"mkdir -p {quoted(str(Path(target).parent))}")
        inside.append(f"mkdir -p {quoted(target)}" if source.is_dir() else f"touch {quoted(target)}")
        inside.append(f"mount --bind {quoted(str(source))} {quoted(target)}")
        if is_read_only:
            inside.append(f"mount -o remount,bind,ro {quoted(target)}")
    for key, value in node.sysctls:
        inside.append(f"echo {quoted(value)} > /proc/sys/{quoted(key.replace('.', '/'))}")
    for end in (end for *ends, _ in topology.links for end in ends if end.node == node.name):
        inside.append(f"ip link set {quoted(end.interface)} up")
        for address in end.addresses:
            flags = " nodad" if ":" in address else ""
            inside.append(f"ip address add {quoted(address)} dev {quoted(end.interface)}{flags}")
    inside += [shlex.join(shlex.split(line)) for line in node.exec]
    # The sleeper keeps no descriptor of the script, or whoever reads the script's output would wait for it.
    inside.append(f"printf 'pid=%s\\n' $$ > /run/lab/nodes/.{quoted(node.name)}")
    for key, value in node.env:
        inside.append(
            f"printf '%s\\n' {quoted(f'export {key}={quoted(value)}')} >> /run/lab/nodes/.{quoted(node.name)}"
        )
    inside.append(f"mv /run/lab/nodes/.{quoted(node.name)} /run/lab/nodes/{quoted(node.name)}")
    inside.append("exec sleep infinity < /dev/null > /dev/null 2>&1")
    # A network namespace, then mounts that stay in step with the lab only below /run/netns.
    return (
        f"nsenter --net=/run/netns/{quoted(node.name)} unshare -mu --propagation unchanged"
        f" sh -c {quoted(chr(10).join(inside))} &"
    )


# ── a running lab ────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Process:
    """A program started in a node. Its standard output and error are in `log`."""

    node: str
    command: tuple[str, ...]
    log: Path
    entry: subprocess.Popen[bytes]  # nsenter, which waits for the program and ends as it did
    pid: int  # of the program itself, as seen from outside

    @property
    def is_running(self) -> bool:
        """Tell whether the program still runs."""
        return self.entry.poll() is None

    @property
    def root(self) -> str:
        """The way from here to the files as it sees them, its sockets among them."""
        return f"/proc/{self.pid}/root"

    def output(self) -> str:
        """Return everything that it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def until(self, holds: Callable[[], object], what: str, deadline_s: float = PATIENCE_S) -> None:
        """Wait for `holds`; raises LabError with the program's last words if it ends before that."""
        until(lambda: holds() or not self.is_running, what, deadline_s)
        if not self.is_running:
            raise LabError(f"{self.node}: {self.command[0]} ended before {what}: {self.output()[-2000:].strip()}")

    def await_said(self, words: str) -> None:
        """Wait until it has printed this; raises as `until` does."""
        self.until(lambda: words in self.output(), f"{words!r} of {shlex.join(self.command)}")

    def send_signal(self, number: Signals) -> None:
        """Send it a signal; an ended program takes none."""
        if self.is_running:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def stop(self, number: Signals = SIGTERM) -> int:
        """Send a signal that ends it, wait until it has ended and return its exit status."""
        self.send_signal(number)
        return self.entry.wait(PATIENCE_S)

    def kill(self) -> int:
        """End it as a crash would (SIGKILL) and wait until it has ended."""
        return self.stop(SIGKILL)


@dataclass(slots=True)
class Lab:
    """A lab that stands between `__enter__` and `__exit__`: `with Lab(path) as lab: lab.exec("n1", [...])`."""

    source: Path | str | Topology
    topology: Topology = field(init=False)
    directory: Path = field(init=False)  # the logs of what was started, until the lab is gone
    processes: list[Process] = field(init=False, default_factory=list)
    _holder: subprocess.Popen[bytes] = field(init=False)
    _pid: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Read the topology."""
        self.topology = self.source if isinstance(self.source, Topology) else load(Path(self.source))

    def __enter__(self) -> Self:
        """Bring the lab up; raises LabError with what failed, and leaves nothing behind then."""
        unshare = ["unshare", *_user_namespace(), "--net", "--mount", "--pid", "--fork", "--kill-child"]
        self.directory = Path(tempfile.mkdtemp(prefix="bgpmesh-lab-"))
        # The holder reads a pipe of ours: it ends when we do, however we do.
        self._holder = subprocess.Popen(
            [*unshare, "--mount-proc", "--propagation", "private", "cat"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            self._pid = self._holder_pid()
            done = self._run(["sh", "-c", _holder_script(self.topology)], timeout=PATIENCE_S)
            # Every node's script has ended or become a sleeper by now: they hold the output that was waited for.
            absent = set(self.nodes) - set(self._run(["ls", "/run/lab/nodes"], timeout=PATIENCE_S).stdout.split())
            if done.returncode or absent:
                names = ", ".join(sorted(absent)) or "the lab"
                raise LabError(f"{self.topology.name}: {names} did not come up: {done.stderr.strip()}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the lab down; after a failure the end of every log is shown first."""
        if error is not None:
            for process in self.processes:
                print(f"── {process.node}: {shlex.join(process.command)}", file=sys.stderr)
                print("\n".join(process.output().splitlines()[-40:]), file=sys.stderr)
        self.close()

    def close(self) -> None:
        """End the holder, and with it everything in the lab."""
        self._holder.kill()
        self._holder.wait(PATIENCE_S)
        for pipe in (self._holder.stdin, self._holder.stderr):
            if pipe is not None:
                pipe.close()
        for process in self.processes:
            process.entry.wait(PATIENCE_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    def exec(
        self,
        node: str,
        command: Sequence[str],
        *,
        inside: str = "",
        check: bool = True,
        stdin: str = "",
        timeout: float = PATIENCE_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a node, or `inside` a network namespace there, and return what it printed.

        Raises LabError with its output if it fails and `check` is set.
        """
        done = self._run(["node", node, *_entry(inside), *command], stdin=stdin, timeout=timeout)
        if check and done.returncode:
            output = (done.stdout + done.stderr).strip()
            raise LabError(f"{node}: {shlex.join(command)}: exit status {done.returncode}: {output}")
        return done

    def outside(self, command: Sequence[str], *, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Run a command in the holder's own namespaces, where the bridges are."""
        return self._run(command, timeout=timeout)

    def start(self, node: str, command: Sequence[str] | None = None, *, inside: str = "") -> Process:
        """Start a program in a node, or `inside` a network namespace there, and leave it running.

        Without a command it is the `cmd` of the topology.
        """
        words = tuple(command) if command is not None else tuple(shlex.split(self.node(node).cmd))
        if not words:
            raise LabError(f"{node}: the topology names no cmd")
        log = self.directory / f"{len(self.processes)}-{node}.log"
        with log.open("wb") as output:
            entry = subprocess.Popen(
                self._enter(["node", node, *_entry(inside), *words]),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=self._environment(),
                start_new_session=True,
            )  # fmt: skip
        process = Process(node, words, log, entry, _child_of(entry))
        self.processes.append(process)
        return process

    def node(self, name: str) -> Node:
        """Return a node of the topology; raises LabError where there is none of that name."""
        for node in self.topology.nodes:
            if node.name == name:
                return node
        raise LabError(f"{self.topology.name}: there is no node {name!r}")

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes that a command can run in, in the order of the file."""
        return [node.name for node in self.topology.nodes if node.kind != "bridge"]

    def write(self, node: str, path: str, text: str) -> None:
        """Write a file as the node sees it."""
        self.exec(node, ["sh", "-c", 'mkdir -p "$(dirname "$1")" && cat > "$1"', "sh", path], stdin=text)

    def read(self, node: str, path: str) -> str:
        """Return a file as the node sees it."""
        return self.exec(node, ["cat", path]).stdout

    def add_workload_namespace(self, node: str, name: str) -> str:
        """Make a network namespace for a workload from inside a node and return its path."""
        self.exec(node, ["ip", "netns", "add", name])
        self.exec(node, ["ip", "-n", name, "link", "set", "lo", "up"])
        return f"/run/netns/{name}"

    def prefixes(self, node: str, protocol: str) -> set[str]:
        """Return the prefixes of a node's routes of a protocol, of all tables; a host route goes without its length."""
        listed = (
            self.exec(node, ["ip", "-j", family, "route", "show", "table", "all", "proto", protocol]).stdout
            for family in ("-4", "-6")
        )
        return {row["dst"] for text in listed for row in json.loads(text or "[]")}

    def _run(self, command: Sequence[str], *, timeout: float, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._enter(command), input=stdin, capture_output=True, text=True, check=False, timeout=timeout,
            env=self._environment(),
        )  # fmt: skip

    def _enter(self, command: Sequence[str]) -> list[str]:
        user = ["--user", "--preserve-credentials"] if os.geteuid() else []
        return ["nsenter", "-t", str(self._pid), *user, "--net", "--mount", "--pid", "--", *command]

    def _environment(self) -> dict[str, str]:
        path = os.environ.get("PATH", "/usr/bin:/bin")
        return {**os.environ, "PATH": f"/run/lab/bin:{path}:/usr/local/sbin:/usr/sbin:/sbin", "LAB": self.topology.name}

    def _holder_pid(self) -> int:
        """Return the process that holds the namespaces, once it has them and its /proc stands."""
        pid = _child_of(self._holder)
        until(lambda: _command_name(pid) == "cat" or self._holder.poll() is not None, "the lab's namespaces")
        if self._holder.poll() is not None and self._holder.stderr is not None:
            raise LabError(f"{self.topology.name}: no namespaces: {self._holder.stderr.read().decode().strip()}")
        return pid


def until(holds: Callable[[], object], what: str, deadline_s: float = PATIENCE_S, every_s: float = 0.02) -> None:
    """Ask again and again until `holds` answers yes; raises LabError naming `what` after the deadline."""
    deadline = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > deadline:
            raise LabError(f"waited {deadline_s:.0f} s in vain for {what}")
        time.sleep(every_s)


def missing() -> str:
    """Return what keeps labs from running here, in words; an empty text if nothing does."""
    absent = [tool for tool in ("unshare", "nsenter", "ip", "mount") if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not found (Debian: iproute2, util-linux)"
    if os.geteuid() and subprocess.run(["unshare", "-Urn", "true"], capture_output=True, check=False).returncode:
        return "this host does not let plain users make namespaces: use sudo"
    return ""


def _user_namespace() -> list[str]:
    reason = missing()
    if reason:
        raise LabError(reason)
    return ["--user", "--map-root-user"] if os.geteuid() else []


def _entry(namespace: str) -> list[str]:
    """Return what leads a command into a network namespace of that name; "" is where it is already."""
    return ["ip", "netns", "exec", namespace] if namespace else []


def _child_of(parent: subprocess.Popen[bytes]) -> int:
    """Return the one child of a process that forks once; its own number if it ended before."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    found: list[str] = []

    def has_forked() -> bool:
        try:
            found[:] = children.read_text(encoding="ascii").split()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return bool(found) or parent.poll() is not None

    until(has_forked, f"process {parent.pid} to fork", every_s=0.001)
    return int(found[0]) if found else parent.pid


def _command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


# ── the command ──────────────────────────────────────────────────────────────


def _settle(lab: Lab) -> list[str]:
    """Wait until our daemons have their sessions and nothing moves any more; return who has not come to that."""
    names = [name for name in lab.nodes if lab.node(name).cmd.startswith("bgpmesh run")]
    before: list[tuple[object, object]] = []
    waiting: list[str] = []
    deadline = time.monotonic() + SETTLE_S
    while names and time.monotonic() < deadline:
        waiting = []
        tables: list[tuple[object, object]] = []
        for name in names:
            asked = lab.exec(name, ["bgpmesh", "status", "--json"], check=False)
            status = json.loads(asked.stdout) if asked.returncode in {0, 1} else {}
            absent = [peer["name"] for peer in status.get("peers", ()) if peer["state"] != "Established"]
            if absent or not status:
                waiting.append(f"{name}: {f'no session with {absent[0]} yet' if absent else 'no daemon answers yet'}")
            tables.append((status.get("rib"), status.get("fib")))
        if not waiting and tables == before:
            return []
        before = tables
        time.sleep(0.5)
    return waiting


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(prog="lab.py", description="containerlab topologies in network namespaces")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="read a topology and say what is wrong with it")
    check.add_argument("topology", type=Path)
    run = commands.add_parser("run", help="bring a lab up, run a command in it (`node NAME ...`), take it down")
    run.add_argument("topology", type=Path)
    run.add_argument("--no-cmd", action="store_true", help="do not start the nodes' own cmd")
    run.add_argument("words", nargs="+", metavar="COMMAND")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "check":
            topology = load(chosen.topology)
            print(f"{topology.name}: {len(topology.nodes)} nodes, {len(topology.links)} links")
            return 0
        with Lab(chosen.topology) as lab:
            for node in () if chosen.no_cmd else lab.nodes:
                if lab.node(node).cmd:
                    lab.start(node)
            for unsettled in () if chosen.no_cmd else _settle(lab):
                print(f"lab.py: {unsettled}", file=sys.stderr)
            return subprocess.run(lab._enter(chosen.words), check=False, env=lab._environment()).returncode  # noqa: SLF001 - the same module
    except (LabError, OSError, yaml.YAMLError) as error:
        print(f"lab.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
