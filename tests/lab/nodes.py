"""One daemon with raw neighbours: what the tests of bad input, foreign hands and reloads drive.

    n1: bgpmesh, AS 64512   10.0.0.1 2001:db8::1  --------  10.0.0.2 to .6 2001:db8::2   peer: raw speakers

The lab is containerlab/pair.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from subprocess import CompletedProcess
from typing import cast

from bgpmesh.control import client
from containerlab.lab import PATIENCE_S, Lab, Process, until
from tests.bench.feeder import attribute, update
from tests.lab.cluster import PROTOCOL, ask, lab_of, metrics

CONFIG = "/etc/bgpmesh/bgpmesh.toml"
ASN = 64512
RAW = str(Path(__file__).with_name("raw.py"))
HANDS = "99"  # the protocol of routes and nexthop objects that are somebody else's

JsonObject = dict[str, object]


# ── what neighbours say ──────────────────────────────────────────────────────


def announcement(prefixes: Sequence[str], next_hop: str, as_path: Sequence[int] = ()) -> bytes:
    """Return an UPDATE that announces prefixes of one family; without AS path it is an internal one."""
    path = struct.pack(f"!BB{len(as_path)}I", 2, len(as_path), *as_path) if as_path else b""
    attributes = attribute(0x40, 1, b"\0") + attribute(0x40, 2, path)
    if not as_path:
        attributes += attribute(0x40, 5, struct.pack("!I", 100))
    hop = ipaddress.ip_address(next_hop)
    if hop.version == 4:
        return update(b"", attributes + attribute(0x40, 3, hop.packed), _nlri(prefixes))
    reach = attribute(0x80, 14, b"\0\2\1\x10" + hop.packed + b"\0" + _nlri(prefixes))
    return update(b"", reach + attributes, b"")


def withdrawal(prefixes: Sequence[str]) -> bytes:
    """Return an UPDATE that withdraws prefixes of one family."""
    if ":" in prefixes[0]:
        return update(b"", attribute(0x80, 15, b"\0\2\1" + _nlri(prefixes)), b"")
    return update(_nlri(prefixes), b"", b"")


def _nlri(prefixes: Iterable[str]) -> bytes:
    networks = map(ipaddress.ip_network, prefixes)
    return b"".join(
        bytes((network.prefixlen,)) + network.network_address.packed[: (network.prefixlen + 7) // 8]
        for network in networks
    )


@dataclass(slots=True)
class Neighbour:
    """A raw speaker that runs in the node `peer`."""

    process: Process
    control: str

    def events(self, kind: str) -> list[JsonObject]:
        """Return what it has told of a kind so far."""
        lines = [line for line in self.process.output().splitlines() if line.startswith("{") and line.endswith("}")]
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def await_established(self) -> None:
        """Wait until its session stands at this end."""
        self.process.until(lambda: self.events("established"), "the raw speaker's session")

    def send(self, data: bytes) -> None:
        """Have it put these bytes on its connection."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(60.0)
            asking.connect(f"{self.process.root}{self.control}")
            with asking.makefile("rw", encoding="ascii") as lines:
                lines.write(json.dumps({"send": data.hex()}) + "\n")
                lines.flush()
                assert lines.readline() == "{}\n"

    def await_end(self) -> list[tuple[object, object]]:
        """Wait until its connection has ended and return code and subcode of each NOTIFICATION it got."""
        until(lambda: not self.process.is_running, "the end of the raw speaker's connection")
        return [(event["code"], event["subcode"]) for event in self.events("notification")]

    def stop(self) -> None:
        """End it as a crash would."""
        if self.process.is_running:
            self.process.kill()


# ── the daemon ───────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Node:
    """A daemon in a node of a lab, and the ways to ask it and its kernel."""

    lab: Lab
    name: str = "n1"
    daemon: Process = field(init=False)
    config: str = CONFIG

    def configure(self, text: str) -> None:
        """Write the operator's file; a daemon that runs does not read it."""
        self.lab.write(self.name, self.config, text)

    def start(self, *options: str, command: Sequence[str] = ("bgpmesh",)) -> None:
        """Start the daemon on the operator's file, and wait until it is in sync."""
        self.daemon = self.lab.start(self.name, [*command, "run", "--config", self.config, *options])
        self.until(self._is_in_sync, "in sync")

    def _is_in_sync(self) -> bool:
        try:
            return self.status()["in_sync"] is True
        except client.NoDaemonError:
            return False

    def stop(self, number: Signals = SIGTERM) -> None:
        """End the daemon; an orderly end is exit status 0."""
        expected = -SIGKILL if number is SIGKILL else 0
        assert expected == self.daemon.stop(number), self.daemon.output()

    def remove(self) -> None:
        """Stop the daemon if it runs and take away everything of it."""
        if self.daemon.is_running:
            self.daemon.kill()
        self.command("uninstall", "--config", self.config)

    def ask(self, command: str, **args: object) -> object:
        """Return the answer to a request; raises as the client does."""
        return ask(self.daemon, command, **args)

    def command(self, *words: str) -> CompletedProcess[str]:
        """Run a command of ours in the node, whatever comes of it."""
        return self.lab.exec(self.name, ["bgpmesh", *words], check=False)

    def apply(self, *documents: JsonObject) -> JsonObject:
        """Apply objects and return the answer; the exit status says whether one was refused."""
        done = self.command("apply", "-f", self.written(*documents), "--json")
        assert done.returncode in {0, 2}, done.stdout + done.stderr
        found: JsonObject = json.loads(done.stdout)
        assert done.returncode == (2 if found["refused"] else 0)
        return found

    def written(self, *documents: JsonObject) -> str:
        """Write objects into a file of the node and return its path."""
        path = "/run/bgpmesh/objects.json"
        self.lab.write(self.name, path, document_of(*documents))
        return path

    def show_log(self) -> None:
        """Print what the daemon has logged lately, which is shown after a failure."""
        print("\n".join(self.daemon.output().splitlines()[-60:]))  # noqa: T201

    def ip(self, words: str) -> str:
        """Run `ip` with these words in the node and return what it says."""
        return self.lab.exec(self.name, ["ip", *words.split()]).stdout

    def sh(self, script: str) -> str:
        """Run a shell script in the node and return what it says."""
        return self.lab.exec(self.name, ["sh", "-ec", script]).stdout

    def until(self, holds: Callable[[], object], what: str, deadline_s: float = PATIENCE_S) -> None:
        """Wait, a minute at most where nothing else is said, until something holds, as long as the daemon runs."""
        self.daemon.until(holds, f"{self.name}: {what}", deadline_s)

    # ── what it says ─────────────────────────────────────────────────────────

    def status(self) -> JsonObject:
        """Return its status."""
        return cast("JsonObject", self.ask("status"))

    def reasons(self) -> list[str]:
        """Return why it is not ready."""
        return cast("list[str]", self.status()["reasons"])

    def fib(self, key: str) -> int:
        """Return a number of the status' `fib`."""
        return cast("dict[str, int]", self.status()["fib"])[key]

    def peer(self, name: str) -> JsonObject:
        """Return one peer in full."""
        return cast("list[JsonObject]", self.ask("peers", name=name))[0]

    def is_up(self, name: str) -> bool:
        """Tell whether its session with a peer is established."""
        return self.peer(name)["state"] == "Established"

    def await_up(self, *names: str) -> None:
        """Wait until these sessions are established."""
        for name in names:
            self.until(lambda name=name: self.is_up(name), f"session with {name}")  # type: ignore[misc]

    def life(self, name: str) -> tuple[object, object]:
        """Return what tells one life of a session from another: how often each state was entered, and the state."""
        peer = self.peer(name)
        return peer["transitions"], peer["state"]

    def route(self, prefix: str) -> JsonObject:
        """Return what `routes` says of a prefix; empty where it says nothing."""
        routes = cast("list[JsonObject]", self.ask("routes", prefix=prefix))
        return routes[0] if routes else {}

    def kernel_says(self, prefix: str) -> object:
        """Return the `kernel` of a prefix."""
        return self.route(prefix).get("kernel")

    def path_reasons(self, prefix: str) -> list[object]:
        """Return the reason of each path of a prefix."""
        return [path["reason"] for path in cast("list[JsonObject]", self.route(prefix).get("paths", []))]

    def metric(self, name: str) -> float:
        """Return the value of a series without labels."""
        page = metrics(self.lab, self.name)
        found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
        assert found is not None, page
        return float(found[1])

    # ── its kernel ───────────────────────────────────────────────────────────

    def routes(self, prefix: str) -> list[str]:
        """Return the kernel's routes to exactly this prefix, in all tables, as `ip` lists them, spaces squeezed."""
        family = "-6" if ":" in prefix else "-4"
        listed = self.ip(f"-N {family} route show exact {prefix} table all")
        return [" ".join(line.split()) for line in listed.splitlines()]

    def prefixes(self) -> set[str]:
        """Return the prefixes of the routes of ours."""
        return self.lab.prefixes(self.name, PROTOCOL)

    def await_prefixes(self, expected: set[str]) -> None:
        """Wait until the kernel has routes of ours to exactly these."""
        self.until(lambda: self.prefixes() == expected, f"routes to {sorted(expected)}")

    def await_settled(self, prefix: str, expected: str = "installed") -> None:
        """Wait until the daemon says this of a prefix's route."""
        self.until(lambda: self.kernel_says(prefix) == expected, f"{prefix} {expected}")


def document_of(*documents: JsonObject) -> str:
    """Return objects as one document."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})


_numbers = itertools.count(1)


def neighbour(
    lab: Lab,
    bind: str = "10.0.0.2",
    *,
    asn: int = 65002,
    password: str = "",
    hold_time: int = 90,
    options: Sequence[str] = (),
) -> Neighbour:
    """Start a raw speaker in `peer` that calls 10.0.0.1 from this address until it is answered."""
    control = f"/run/bgpmesh/raw-{next(_numbers)}.sock"
    command = [sys.executable, RAW, "--bind", bind, "--connect", "10.0.0.1", "--asn", str(asn), "--control", control]
    command += ["--hold-time", str(hold_time), *(["--password", password] if password else []), *options]
    return Neighbour(lab.start("peer", command), control)


@contextmanager
def pair() -> Iterator[Lab]:
    """Lay out the pair, or skip; `peer` has more addresses."""
    with lab_of("pair") as lab:
        for number in range(3, 7):
            lab.exec("peer", ["ip", "address", "add", f"10.0.0.{number}/24", "dev", "eth1"])
        yield lab


def file_of(peers: str = "", *, node: str = "", rest: str = "", cluster: str = "") -> str:
    """Return a configuration of n1; `peers` and `rest` are tables, `node` and `cluster` are lines of theirs."""
    return f"""
[cluster]
asn = {ASN}
topology = "none"
hold_time = 90
{cluster}
[pool.default]
cidr = "10.244.0.0/16"
[pool.default6]
cidr = "fd00:10:244::/48"
[node.n1]
address = "10.0.0.1"
address6 = "2001:db8::1"
pod_cidrs = ["10.244.1.0/26", "fd00:10:244:1::/112"]
{node}
{peers}
{rest}
"""


def peer_of(name: str, address: str, asn: int = 65002, *lines: str) -> str:
    """Return the table of a passive peer that everything is taken from."""
    table = [f"[peer.{name}]", f'address = "{address}"', f"asn = {asn}", "passive = true", 'import = ["all"]']
    return "\n".join([*table, 'export = ["own"]', *lines, ""])


BLOCKS = {"10.244.1.0/26", "fd00:10:244:1::/112"}
