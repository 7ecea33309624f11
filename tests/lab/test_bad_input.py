"""Whatever comes in, from files, neighbours, the kernel or people: it is told in words and harms nothing else."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from bgpmesh.control import client
from tests.bench.feeder import KEEPALIVE, OPEN, UPDATE, attribute, message, update
from tests.lab.nodes import (
    BLOCKS,
    CONFIG,
    Neighbour,
    Node,
    announcement,
    file_of,
    neighbour,
    pair,
    peer_of,
    withdrawal,
)
from tests.lab.stubborn import REFUSED, TRIES

STUBBORN = str(Path(__file__).with_name("stubborn.py"))
STEADY = ("203.0.113.0/24", "2001:db8:113::/48")

RIGHT = "correct horse"
PEERS = (
    peer_of("noisy", "10.0.0.2")
    + peer_of("steady", "10.0.0.3", 65003)
    + peer_of("inner", "10.0.0.4", 64512)
    + peer_of("locked", "10.0.0.5", 65005, f'password = "{RIGHT}"')
)


@dataclass(slots=True)
class Scene:
    """A daemon with two neighbours that stay: `steady`, and `inner` of its own AS."""

    node: Node
    steady: Neighbour
    inner: Neighbour

    def neighbour(self, **options: object) -> Neighbour:
        """Start one that does not stay."""
        return neighbour(self.node.lab, **options)  # type: ignore[arg-type]

    def assert_unharmed(self, before: tuple[object, object], uptime_s: object) -> None:
        """Check that `steady` has lived on, and that its routes are where they were."""
        assert before == self.node.life("steady")
        assert isinstance(uptime_s, float)
        self.node.until(lambda: float(str(self.node.peer("steady")["uptime_s"])) > uptime_s, "a growing uptime")
        assert self.node.prefixes() == BLOCKS | set(STEADY)


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    """One for all tests of this module; each leaves it as it found it."""
    with pair() as lab:
        node = Node(lab)
        node.configure(file_of(PEERS))
        node.start()
        steady = neighbour(lab, "10.0.0.3", asn=65003)
        inner = neighbour(lab, "10.0.0.4", asn=64512)
        node.await_up("steady", "inner")
        steady.send(announcement(STEADY[:1], "10.0.0.3", [65003]) + announcement(STEADY[1:], "2001:db8::2", [65003]))
        node.await_prefixes(BLOCKS | set(STEADY))
        yield Scene(node, steady, inner)


@pytest.fixture
def scene(stage: Scene) -> Iterator[Scene]:
    """Give the scene of this module; what the daemon has logged lately is printed, and shown after a failure."""
    yield stage
    stage.node.show_log()


# ── files ────────────────────────────────────────────────────────────────────

TEN_MISTAKES = """
[cluster]
asn = 0
topology = "ring"
hold_time = 2
colour = "red"
[pool.default]
cidr = "10.244.0.0/16"
[node.n1]
address = "10.0.0.1"
pod_cidrs = ["10.99.0.0/26"]
[node.n2]
address = "10.0.0.1"
[peer.tor1]
address = "10.0.0.2"
asn = "many"
[peer.tor2]
address = "10.0.0.3"
asn = 65001
import = ["nobody"]
[kernel]
protocol = 12
[bogus]
"""
MISTAKEN = {
    "cluster.asn", "cluster.topology", "cluster.hold_time", "cluster.colour", "node.n1.pod_cidrs",
    "node.n2.address", "peer.tor1.asn", "peer.tor2.import", "kernel.protocol", "bogus",
}  # fmt: skip


def test_ten_mistakes_are_all_told(scene: Scene) -> None:
    """`check` and `run` name every mistake of a file by file, key, value and reason, and exit with 2."""
    file = "/run/bgpmesh/wrong.toml"
    scene.node.lab.write("n1", file, TEN_MISTAKES)

    checked = scene.node.command("check", "--config", file)
    listed = scene.node.command("check", "--config", file, "--json")
    options = ("--socket", "/run/bgpmesh/wrong.sock", "--state", "/run/bgpmesh/wrong")
    ran = scene.node.command("run", "--config", file, *options)

    assert (2, 2, 2) == (checked.returncode, listed.returncode, ran.returncode)
    errors = json.loads(listed.stdout)["errors"]
    assert {error["key"] for error in errors} == MISTAKEN
    lines = [f"bgpmesh: {file}: {error['key']} = {error['value']}: {error['reason']}" for error in errors]
    assert len(lines) == 10
    assert checked.stderr.splitlines() == lines
    assert ran.stderr.splitlines() == lines


# ── neighbours ───────────────────────────────────────────────────────────────

ORIGIN, PATH = attribute(0x40, 1, b"\0"), attribute(0x40, 2, b"")
MARKER = b"\xff" * 16
GARBAGE = {
    "noise": (b"what a mess" * 9, (1, 1), "marker"),
    "too-short": (MARKER + b"\0\x12\4", (1, 2), "length"),
    "too-long": (MARKER + b"\xff\xff\1", (1, 2), "length"),  # an UPDATE may be (RFC 8654)
    "long-keepalive": (message(KEEPALIVE, b"\0"), (1, 2), "length"),
    "unknown-type": (message(99, b""), (1, 3), "type"),
    "cut-update": (message(UPDATE, b"\xff\xff\0\0"), (3, 1), "UPDATE"),
    "bad-prefix": (update(b"", ORIGIN + PATH + attribute(0x40, 3, b"\x0a\0\0\2"), b"\x21" + bytes(5)), (3, 10), "33"),
    "second-open": (message(OPEN, b"\4\xfd\xea\0\x5a\x0a\0\0\2\0"), (5, 3), "OPEN"),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_costs_its_sender_the_session_and_nobody_else(scene: Scene, kind: str) -> None:
    """A peer that sends garbage is told why, loses session and routes, and may come back; the others live on."""
    garbage, expected, words = GARBAGE[kind]
    node, prefix = scene.node, "192.0.2.0/24"
    before, uptime_s = node.life("steady"), node.peer("steady")["uptime_s"]
    noisy = scene.neighbour()
    node.await_up("noisy")
    noisy.send(announcement([prefix], "10.0.0.2", [65002]))
    node.await_settled(prefix)

    noisy.send(garbage + message(KEEPALIVE, b""))
    told = noisy.await_end()

    assert [expected] == told
    node.until(lambda: not node.is_up("noisy"), "the end of the session")
    assert words in str(node.peer("noisy")["last_error"])
    node.until(lambda: not node.routes(prefix), f"no route to {prefix}")
    scene.assert_unharmed(before, uptime_s)
    again = scene.neighbour()
    node.await_up("noisy")
    again.stop()
    node.until(lambda: not node.is_up("noisy"), "the end of the session")


def test_wrong_open_is_answered_in_words(scene: Scene) -> None:
    """A peer of another AS than configured, or with an impossible hold time, is told so and is named so."""
    node = scene.node
    before, uptime_s = node.life("steady"), node.peer("steady")["uptime_s"]

    wrong_as = scene.neighbour(asn=65099).await_end()
    node.until(lambda: node.peer("noisy")["state"] == "Active", "the end of the session")
    as_error = node.peer("noisy")["last_error"]
    wrong_time = scene.neighbour(hold_time=1).await_end()
    node.until(lambda: node.peer("noisy")["last_error"] != as_error, "another error")

    assert [(2, 2)] == wrong_as
    assert as_error == "AS mismatch: the peer says 65099, configured is 65002"
    assert [(2, 6)] == wrong_time
    assert "hold time" in str(node.peer("noisy")["last_error"])
    scene.assert_unharmed(before, uptime_s)


@pytest.mark.parametrize(("password", "counter"), [("wrong", "TCPMD5Failure"), ("", "TCPMD5NotFound")])
def test_wrong_password_is_suspected(scene: Scene, password: str, counter: str) -> None:
    """A caller with another MD5 password, or none, gets no session, and `last_error` says what the kernel counted."""
    node = scene.node
    before, uptime_s = node.life("steady"), node.peer("steady")["uptime_s"]
    locked = scene.neighbour(bind="10.0.0.5", asn=65005, password=password)

    suspected = f"MD5 mismatch suspected: {counter} rose by"
    node.until(lambda: suspected in str(node.peer("locked")["last_error"]), suspected)

    assert node.peer("locked")["state"] == "Active"
    locked.stop()
    right = scene.neighbour(bind="10.0.0.5", asn=65005, password=RIGHT)
    node.await_up("locked")
    right.stop()
    node.until(lambda: not node.is_up("locked"), "the end of the session")
    scene.assert_unharmed(before, uptime_s)


def test_unanswered_calls_are_told_apart(scene: Scene) -> None:
    """Calls that are refused, that nobody answers, or that nobody is there for: `last_error` and `status` say which."""
    node = scene.node
    lab = node.lab
    before, uptime_s = node.life("steady"), node.peer("steady")["uptime_s"]

    def failed(name: str, how: str) -> bool:
        return str(node.peer(name)["last_error"]).startswith(f"{how}: ")

    calling = "".join(
        peer_of(name, address).replace("passive = true", "")
        for name, address in (("refuses", "10.0.0.2"), ("ignores", "10.0.0.6"), ("absent", "10.0.0.99"))
    )
    lab.exec("peer", ["ip", "rule", "add", "from", "10.0.0.6", "blackhole"])
    node.configure(file_of(PEERS.replace(peer_of("noisy", "10.0.0.2"), "") + calling))
    try:
        assert node.command("reload").returncode == 0
        for name, expected in (
            ("refuses", "connection refused"),
            ("ignores", "timed out"),
            ("absent", "no route to host"),
        ):
            node.until(partial(failed, name, expected), expected)
    finally:
        lab.exec("peer", ["ip", "rule", "del", "from", "10.0.0.6", "blackhole"])
        node.configure(file_of(PEERS))
        assert node.command("reload").returncode == 0
    scene.assert_unharmed(before, uptime_s)


# ── next hops ────────────────────────────────────────────────────────────────

FAR = {"4": ("192.0.2.128/25", "172.16.5.5"), "6": ("2001:db8:99::/48", "2001:db8:5::5")}
WAYS = {
    "connected-4": ("4", "address {} 172.16.5.1/24 dev eth1"),
    "gateway-4": ("4", "route {} 172.16.5.0/24 via 10.0.0.2"),
    "connected-6": ("6", "address {} 2001:db8:5::1/64 dev eth1 nodad"),
    "gateway-6": ("6", "-6 route {} 2001:db8:5::/64 via 2001:db8::2"),
}


@pytest.mark.parametrize("way", WAYS)
def test_path_waits_for_the_way_to_its_next_hop(scene: Scene, way: str) -> None:
    """A path whose next hop cannot be reached says so, is in the kernel once it can, and no longer than that."""
    family, change = WAYS[way]
    prefix, next_hop = FAR[family]
    node = scene.node
    unreachable = [f"next hop {next_hop} cannot be reached: no route"]
    scene.inner.send(announcement([prefix], next_hop))
    node.until(lambda: node.path_reasons(prefix) == unreachable, str(unreachable))
    assert ("none", []) == (node.kernel_says(prefix), node.routes(prefix))

    node.ip(change.format("add"))
    node.await_settled(prefix)
    assert node.path_reasons(prefix) == ["only path"]
    assert len(node.routes(prefix)) == 1

    node.ip(change.format("del").removesuffix(" nodad"))
    node.until(lambda: not node.routes(prefix), f"no route to {prefix}")
    node.until(lambda: node.path_reasons(prefix) == unreachable, str(unreachable))
    node.await_settled(prefix, "none")

    scene.inner.send(withdrawal([prefix]))
    node.until(lambda: node.route(prefix) == {}, f"{prefix} withdrawn")


# ── the kernel ───────────────────────────────────────────────────────────────


def test_refused_route_is_told_tried_again_and_written_in_the_end() -> None:
    """A route that the kernel refuses is `failed:` with its words; others are written, and it too once it may be."""
    refused = {"198.51.100.0/24": errno.EINVAL, "2001:db8:51::/48": errno.ENOSPC}
    with pair() as lab:
        node = Node(lab)
        node.configure(file_of(peer_of("steady", "10.0.0.3", 65003)))
        lab.write("n1", str(REFUSED), "".join(f"{prefix} {number}\n" for prefix, number in refused.items()))
        node.start(command=(sys.executable, STUBBORN))
        steady = neighbour(lab, "10.0.0.3", asn=65003)
        node.await_up("steady")
        # One UPDATE for each family: what is refused is in the middle of what is not.
        steady.send(announcement(["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"], "10.0.0.3", [65003]))
        steady.send(announcement(["2001:db8:50::/48", "2001:db8:51::/48"], "2001:db8::2", [65003]))

        node.await_prefixes(BLOCKS | {"192.0.2.0/24", "203.0.113.0/24", "2001:db8:50::/48"})
        for prefix, number in refused.items():
            node.await_settled(prefix, f"failed: {os.strerror(number)}")
        assert node.fib("failed") == 2
        assert node.metric('bgpmesh_fib_routes{state="failed"}') == 2

        node.until(lambda: min(map(len, tries(node).values())) >= 3, "three tries of each")
        lab.exec("n1", ["rm", str(REFUSED)])
        node.await_prefixes(BLOCKS | {"192.0.2.0/24", "203.0.113.0/24", "2001:db8:50::/48", *refused})
        for prefix in refused:
            node.await_settled(prefix)
        assert node.fib("failed") == 0
        for times in tries(node).values():
            # Not sooner than after 1 s, then not sooner than after 2 s.
            assert [later - at >= pause for at, later, pause in zip(times, times[1:], (1, 2), strict=False)] == [
                True
            ] * 2
        assert all(f"route.recovered prefix={prefix}" in node.daemon.output() for prefix in refused)


def tries(node: Node) -> dict[str, list[float]]:
    """Return when each refused prefix was tried, in monotonic seconds."""
    found: dict[str, list[float]] = {}
    for line in node.lab.read(node.name, str(TRIES)).splitlines():
        prefix, at = line.split()
        found.setdefault(prefix, []).append(float(at))
    return found


def test_read_only_sysctls_are_named() -> None:
    """Where /proc/sys is read-only, a sysctl with a wrong value is a reason by its name; right ones are none."""
    with pair() as lab:
        node = Node(lab)
        node.configure(file_of())
        node.sh("echo 0 > /proc/sys/net/ipv4/ip_forward; mount --bind /proc/sys /proc/sys")
        node.sh("mount -o remount,bind,ro /proc/sys")
        node.start()
        expected = "net.ipv4.ip_forward is 0 and /proc/sys is read-only: forwarding is off"

        assert expected in node.reasons()
        answered = node.command("status")
        assert answered.returncode == 1
        assert expected in answered.stdout
        assert "net.ipv4.ip_forward is 0" in node.daemon.output()
        node.await_prefixes(BLOCKS)

        node.stop()
        node.sh("mount -o remount,bind,rw /proc/sys")
        node.start()
        assert node.reasons() == []
        node.stop()
        node.sh("mount -o remount,bind,ro /proc/sys")
        node.start()
        assert node.reasons() == []


# ── people ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shared", ["socket", "state"])
def test_second_daemon_is_refused_by_name_of_the_first(scene: Scene, shared: str) -> None:
    """A second daemon on the same socket or state directory ends with 2 and names node and pid of the first."""
    node = scene.node
    before, uptime_s = node.life("steady"), node.peer("steady")["uptime_s"]
    other = {"socket": ("--state", "/run/bgpmesh/second"), "state": ("--socket", "/run/bgpmesh/second.sock")}
    status = Path(f"/proc/{node.daemon.pid}/status").read_text("ascii")
    pid = status.partition("NSpid:")[2].splitlines()[0].split()[-1]

    second = node.command("run", "--config", CONFIG, *other[shared])

    assert second.returncode == 2
    assert re.search(rf"node n1\b.*\bpid {pid}\b", second.stderr), second.stderr
    scene.assert_unharmed(before, uptime_s)


NOWHERE = ("--socket", "/run/bgpmesh/nowhere.sock")
USES: dict[str, tuple[int, tuple[str, ...]]] = {
    "none": (2, ()),
    "unknown": (2, ("reticulate",)),
    "missing-argument": (2, ("trace",)),
    "missing-choice": (2, ("workload", "add", "web")),
    "no-daemon": (3, ("status", *NOWHERE)),
    "no-daemon-peers": (3, ("peers", *NOWHERE)),
    "no-daemon-reload": (3, ("reload", *NOWHERE)),
    "no-config": (2, ("check", "--config", "/nowhere.toml")),
    "no-node": (2, ("check", "--config", CONFIG, "--node", "n9")),
    "no-file-to-reload": (2, ("reload", "/nowhere.toml")),
    "no-namespace": (2, ("workload", "add", "web", "--netns", "/nowhere")),
    "not-a-namespace": (2, ("workload", "add", "web", "--netns", "/dev/null")),
    "not-a-name": (2, ("workload", "add", "we b", "--netns", "/proc/self/ns/net")),
    "not-an-address": (2, ("workload", "add", "web", "--netns", "/proc/self/ns/net", "--ip", "10.244.1.300")),
    "not-a-label": (2, ("workload", "add", "web", "--netns", "/proc/self/ns/net", "--label", "web")),
    "no-workload": (1, ("workload", "del", "web")),
    "no-peer": (1, ("peers", "nobody")),
    "no-route": (1, ("routes", "192.0.2.77/32")),
    "not-a-prefix": (2, ("routes", "192.0.2.77/33")),
    "no-trace": (1, ("trace", "192.0.2.77/32")),
    "uninstall-while-running": (1, ("uninstall", "--config", CONFIG)),
    "peers": (0, ("peers", "steady")),
}


def test_wrong_use_has_an_exit_code_and_a_reason(scene: Scene) -> None:
    """Bad use exits with 2, the answer no with 1, no daemon with 3, each with a word of why on standard error."""
    before, uptime_s = scene.node.life("steady"), scene.node.peer("steady")["uptime_s"]

    answers = {name: scene.node.command(*words) for name, (_, words) in USES.items()}

    assert {name: code for name, (code, _) in USES.items()} == {n: answer.returncode for n, answer in answers.items()}
    silent = [name for name, answer in answers.items() if answer.returncode and not answer.stderr + answer.stdout]
    assert silent == []
    assert [name for name, answer in answers.items() if "Traceback" in answer.stderr] == []
    assert scene.node.ask("workload list") == []
    scene.assert_unharmed(before, uptime_s)


def test_requests_of_any_shape_are_answered(scene: Scene) -> None:
    """Whatever a client sends gets an answer of one line, an error where something is missing, and harms nothing."""
    node = scene.node
    before, uptime_s = node.life("steady"), node.peer("steady")["uptime_s"]
    wrong: list[object] = [None, True, 5, -1.5, "", "x\0y", "\ud800", [], ["x"], {}, {"x": 1}, "x" * 70_000]
    keys = ("name", "namespace", "netns", "ip", "label", "prefix", "received", "advertised", "kernel", "text", "file")
    commands = ("workload add", "workload del", "workload list", "peers", "routes", "trace", "status", "pool show")
    lines = [
        json.dumps({"command": command, "args": {"name": "web", "netns": "/x", key: value}})
        for command, key, value in itertools.product(commands, keys, wrong)
    ]
    lines += [
        json.dumps({"command": "reload", "args": {key: value}}) for key in ("text", "file") for value in wrong[1:]
    ]
    lines += [json.dumps(value) for value in wrong] + ["", "{", '{"command": 5}', '{"command": "status", "args": 5}']
    lines += [json.dumps({"command": command, "args": {}}) for command in (*commands, "sing")]
    with socket.socket(socket.AF_UNIX) as client_end, open("/dev/null", "rb") as nothing:  # noqa: PTH123
        client_end.settimeout(60.0)
        client_end.connect(f"{node.daemon.root}{client.DEFAULT_SOCKET}")
        with client_end.makefile("r", encoding="ascii") as answers:
            for line in lines:
                # Every request carries a descriptor: one that is wanted, wanted and useless, or neither.
                socket.send_fds(client_end, [f"{line}\n".encode()], [nothing.fileno()])
                answered = answers.readline()
                assert answered, f"no answer to {line[:200]}"
                answer = json.loads(answered)
                assert answer.keys() in ({"result"}, {"error"}), line
                if line.startswith('{"command": "workload add"') or line in {"", "{"}:
                    assert answer.keys() == {"error"}, line
    assert node.ask("workload list") == []
    assert node.metric("bgpmesh_workloads") == 0
    scene.assert_unharmed(before, uptime_s)


def test_two_at_once_for_one_workload(scene: Scene) -> None:
    """Of two additions of one name at the same time one is refused, and of two removals none harms the daemon."""
    node = scene.node
    before, uptime_s = node.life("steady"), node.peer("steady")["uptime_s"]
    path = node.lab.add_workload_namespace("n1", "web")

    added = twice(node, f"bgpmesh workload add web --netns {path}")
    listed = node.ask("workload list")
    removed = twice(node, "bgpmesh workload del web")

    assert [0, 2] == sorted(added)
    assert isinstance(listed, list)
    assert len(listed) == 1
    assert set(removed) <= {0, 1}
    assert node.ask("workload list") == []
    node.lab.exec("n1", ["ip", "netns", "del", "web"])
    scene.assert_unharmed(before, uptime_s)


def twice(node: Node, command: str) -> list[int]:
    """Run a command twice at the same time and return both exit statuses."""
    processes = [node.lab.start(node.name, command.split()) for _ in range(2)]
    return [process.entry.wait(60) for process in processes]
