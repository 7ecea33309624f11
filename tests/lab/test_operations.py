"""What operators and hosts do to one daemon: requests that cannot be, a disk that refuses, sysctls, the supervisor."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from signal import SIGHUP, SIGKILL

import pytest

from bgpmesh.workload.endpoint import interface_name
from containerlab.lab import until
from tests.lab.nodes import BLOCKS, Node, file_of, pair

STATE = "/var/lib/bgpmesh"
# A supervisor's socket (sd_notify(3)): what comes is printed, without its numbers.
SUPERVISOR = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
    heard.bind("\\0" + sys.argv[1])
    print("listening", flush=True)
    while True:
        print(heard.recv(4096).decode().split("\\n")[0], flush=True)
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Node]:
    """One daemon for all tests of this module; each leaves it running."""
    with pair() as lab:
        node = Node(lab)
        node.configure(file_of())
        node.sh(f"mkdir -p {STATE}; mount -t tmpfs -o size=64k none {STATE}")
        node.start()
        yield node


@pytest.fixture
def node(stage: Node) -> Iterator[Node]:
    """Give the daemon; what it has logged lately is printed, and shown after a failure."""
    yield stage
    stage.show_log()


def drift(node: Node) -> list[str]:
    """Return what this daemon has logged of drift."""
    return [line.partition("drift.found ")[2] for line in node.daemon.output().splitlines() if "drift.found" in line]


def restarted(node: Node) -> None:
    node.stop()
    node.start()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--ip", "fd00::1%eth0"], "ip = fd00::1%eth0: not an IP address (without prefix length or zone)"),
        (["--label", "a=1", "--label", "a=2"], "label = a=2: a is 1 already"),
        (["--ip", "10.244.1.9", "--ip", "10.244.1.9"], "ip = 10.244.1.9: is asked for twice"),
    ],
)
def test_a_workload_that_cannot_be_is_refused_and_leaves_nothing(node: Node, words: list[str], reason: str) -> None:
    """The reason names what was asked for; no link, no route, no address stays behind."""
    path = node.lab.add_workload_namespace(node.name, f"refused{len(reason)}")
    links = node.ip("-br link")
    refused = node.command("workload", "add", "web", "--netns", path, *words)
    assert (refused.returncode, refused.stderr) == (2, f"bgpmesh: {reason}\n")
    assert (node.ask("workload list"), node.ip("-br link"), node.prefixes()) == ([], links, BLOCKS)


def test_a_workload_cannot_take_the_address_of_a_host(node: Node) -> None:
    """Of this node by its file, or of this host by its kernel; the answer comes at once and says who has it."""
    path = node.lab.add_workload_namespace(node.name, "thief")
    node.ip("addr add 192.0.2.77/32 dev lo")
    reasons = {
        "10.0.0.1": "ip = 10.0.0.1: already in use by node n1",
        "192.0.2.77": "workload = default/thief: no route to 192.0.2.77/32: connected on this host",
    }
    for address, reason in reasons.items():
        refused = node.command("workload", "add", "thief", "--netns", path, "--ip", address)
        assert (refused.returncode, refused.stderr) == (2, f"bgpmesh: {reason}\n")
    node.until(lambda: interface_name("bgpm", "default/thief") not in node.ip("-br link"), "no link left")
    assert (node.ask("workload list"), node.prefixes()) == ([], BLOCKS)


def test_workloads_that_come_and_go_are_no_drift(node: Node) -> None:
    """Their routes go before their links; a repair that is one is told by its prefix."""
    before, said_before = node.fib("drift_repaired"), len(drift(node))
    for number in range(3):
        path = node.lab.add_workload_namespace(node.name, f"brief{number}")
        assert node.command("workload", "add", "brief", "--netns", path).returncode == 0
        assert node.command("workload", "del", "brief").returncode == 0
        node.ip(f"netns del brief{number}")
    node.ip("route del blackhole 10.244.1.0/26 proto 77")
    node.until(lambda: node.fib("drift_repaired") > before, "the repair of a route that was deleted")
    node.await_prefixes(BLOCKS)
    assert node.fib("drift_repaired") == before + 1
    # By its news, or by a read-back for the links that went, where that comes first.
    assert [said.partition(" reason=")[0] for said in drift(node)[said_before:]] == ["prefix=10.244.1.0/26"]


def test_a_workload_known_by_a_process_gets_its_link_back(node: Node) -> None:
    """Also from a daemon that was killed meanwhile: it remembers which namespace that process id led to."""
    process = node.lab.start(node.name, ["unshare", "--net", "sh", "-c", "echo $$; exec sleep 600"])
    process.until(lambda: process.output().endswith("\n"), "its id in the lab")
    assert node.command("workload", "add", "process", "--pid", process.output().strip()).returncode == 0
    interface = interface_name("bgpm", "default/process")
    node.stop(SIGKILL)
    node.ip(f"link del {interface}")
    node.start()
    node.until(lambda: interface in node.ip("-br link show up"), "the link made again")
    assert node.command("workload", "del", "process").returncode == 0
    process.kill()


def test_a_workload_whose_namespace_went_says_so_in_the_list(node: Node) -> None:
    """Until it is removed, or its namespace is back; `pool check` finds its addresses, and frees them."""
    path = node.lab.add_workload_namespace(node.name, "gone")
    assert node.command("workload", "add", "gone", "--netns", path).returncode == 0
    assert json.loads(node.command("workload", "list", "--json").stdout)[0]["problem"] is None
    node.ip("netns del gone")
    expected = f"network namespace {path}: No such file or directory"
    node.until(lambda: expected in node.command("workload", "list").stdout, expected)
    assert f"workload default/gone is not connected: {expected}" in node.command("status").stdout
    checked = node.command("pool", "check")
    assert (checked.returncode, checked.stdout.count("default/gone"), expected in checked.stdout) == (1, 1, True)
    (leak,) = json.loads(node.command("pool", "check", "--fix", "--json").stdout)["leaks"]
    assert (leak["workload"], leak["fixed"], len(leak["addresses"])) == ("default/gone", True, 2)
    checked = node.command("pool", "check")
    assert (checked.returncode, checked.stdout) == (0, "no address is held in vain\n")
    assert node.ask("workload list") == []
    assert interface_name("bgpm", "default/gone") not in node.ip("-br link")


@pytest.mark.parametrize(
    ("refuse", "allow", "why"),
    [
        (
            f"dd if=/dev/zero of={STATE}/fill bs=1k count=100 2>/dev/null || true",
            f"rm {STATE}/fill",
            "No space left on device",
        ),
        (f"mount -o remount,ro {STATE}", f"mount -o remount,rw {STATE}", "Read-only file system"),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_that_refuses_stops_no_daemon(node: Node, refuse: str, allow: str, why: str) -> None:
    """It starts on it and says so, once; what could not be kept is kept when the disk allows it."""
    node.stop()
    node.sh(refuse)
    try:
        node.configure(file_of(cluster=f"graceful_restart = {300 + len(why)}"))  # something new to be kept
        node.start()
        problem = f"{STATE}/config.json cannot be written: {why}"
        assert problem in node.reasons()  # a second after the start also what was not known before
        assert node.prefixes() == BLOCKS
        path = node.lab.add_workload_namespace(node.name, f"disk{len(why)}")
        assert node.command("workload", "add", "disk", "--netns", path).returncode == 0
        all_three = [problem, *(f"{STATE}/{each}.json cannot be written: {why}" for each in ("last_life", "endpoints"))]
        node.until(lambda: node.reasons() == all_three, "each document named")
        assert node.command("workload", "del", "disk").returncode == 0
    finally:
        node.sh(allow)
    node.until(lambda: node.reasons() == [], "ready")
    assert f"graceful_restart = {300 + len(why)}" in node.sh(f"cat {STATE}/config.json")
    assert node.daemon.output().count("state.unwritten") == 3
    restarted(node)
    assert node.ask("workload list") == []


def test_the_supervisor_hears_of_start_reload_and_stop(node: Node) -> None:
    """READY comes again behind RELOADING, also where the file is bad."""
    node.stop()
    listener = node.lab.start(node.name, [sys.executable, "-c", SUPERVISOR, "bgpmesh-supervisor"])
    listener.await_said("listening")
    node.start(command=("env", "NOTIFY_SOCKET=@bgpmesh-supervisor", "bgpmesh"))
    told = ["listening", "READY=1"]
    listener.until(lambda: listener.output().splitlines() == told, "READY")
    node.configure("nonsense")
    node.daemon.send_signal(SIGHUP)
    told += ["RELOADING=1", "READY=1"]
    listener.until(lambda: listener.output().splitlines() == told, "RELOADING and READY")
    assert any("not TOML" in reason for reason in node.reasons())
    node.configure(file_of())
    node.stop()
    until(lambda: listener.output().splitlines() == [*told, "STOPPING=1"], "STOPPING")
    listener.kill()
    node.start()
