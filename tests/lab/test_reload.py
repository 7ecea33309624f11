"""A configuration comes in force while the daemon runs: what must change does, and nothing else notices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from signal import SIGHUP, SIGKILL, SIGTERM

import pytest

from containerlab.lab import Lab
from tests.lab.cluster import NODES, PATIENT, PROTOCOL, blocks, lab_of, text_of, without_node
from tests.lab.nodes import BLOCKS, CONFIG, Neighbour, Node, file_of, neighbour, pair, peer_of

OTHER = "/run/bgpmesh/other.toml"
NOISY, STEADY, THIRD = (
    peer_of("noisy", "10.0.0.2"),
    peer_of("steady", "10.0.0.3", 65003),
    peer_of("third", "10.0.0.4", 65004),
)
GOOD = file_of(NOISY + STEADY)
BAD = GOOD.replace("hold_time = 90", "hold_time = 2").replace('address6 = "2001:db8::1"', 'address6 = "10.0.0.9"')
BAD_KEYS = {"cluster.hold_time", "node.n1.address6"}


# ── one node ─────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One lab for the tests of one node."""
    with pair() as made:
        yield made


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    """Give a node with a configuration and no daemon yet, print its log and leave nothing of it behind."""
    made = Node(lab)
    made.configure(GOOD)
    yield made
    made.show_log()
    made.remove()


@dataclass(slots=True)
class Raw:
    """The two neighbours of GOOD."""

    noisy: Neighbour
    steady: Neighbour


@pytest.fixture
def raw(node: Node) -> Iterator[Raw]:
    """Run the node's daemon, with both neighbours in session."""
    node.start()
    made = Raw(neighbour(node.lab), neighbour(node.lab, "10.0.0.3", asn=65003))
    node.await_up("noisy", "steady")
    yield made
    for each in (made.noisy, made.steady):
        each.stop()


WAYS = ("file", "own-file", "signal")


def put_in_force(node: Node, text: str, way: str) -> None:
    """Have the daemon take a configuration, one way or another, and wait until it has."""
    generation = node.metric("bgpmesh_config_generation")
    if way == "file":
        node.lab.write(node.name, OTHER, text)
        done = node.command("reload", OTHER)
        assert done.returncode == 0, done.stderr
    else:
        node.configure(text)
        if way == "own-file":
            done = node.command("reload")
            assert done.returncode == 0, done.stderr
        else:
            node.daemon.send_signal(SIGHUP)
    node.until(lambda: node.metric("bgpmesh_config_generation") == generation + 1, "the next generation")


@pytest.mark.parametrize("way", WAYS)
def test_only_what_changed_changes(node: Node, raw: Raw, way: str) -> None:
    """Peers and prefixes come, change and go; a session that nothing was said about lives on and hears of it."""
    life, uptime_s = node.life("steady"), float(str(node.peer("steady")["uptime_s"]))

    changed = file_of(
        NOISY.replace("passive = true", "passive = true\nhold_time = 60") + STEADY + THIRD,
        node='advertise = ["203.0.113.7/32", "2001:db8:7::7/128"]',
    )
    put_in_force(node, changed, way)

    assert raw.noisy.await_end() == [(6, 6)], "Cease, other configuration change (RFC 4486)"
    noisy, third = neighbour(node.lab), neighbour(node.lab, "10.0.0.4", asn=65004)
    node.await_up("noisy", "third")
    assert node.peer("noisy")["hold_time"] == 60
    node.until(lambda: is_told(raw.steady, "20cb007107"), "203.0.113.7/32 announced")
    node.until(lambda: is_told(raw.steady, "8020010db8000700000000000000000007"), "2001:db8:7::7/128 announced")
    assert life == node.life("steady")

    put_in_force(node, file_of(STEADY), way)

    assert noisy.await_end() == [(6, 3)], "Cease, peer de-configured (RFC 4486)"
    assert third.await_end() == [(6, 3)]
    assert [peer["name"] for peer in node.ask("peers")] == ["steady"]  # type: ignore[attr-defined]
    node.until(lambda: is_told(raw.steady, "000520cb007107"), "203.0.113.7/32 withdrawn")
    assert life == node.life("steady")
    assert float(str(node.peer("steady")["uptime_s"])) > uptime_s
    assert node.prefixes() == BLOCKS


def is_told(speaker: Neighbour, octets: str) -> bool:
    """Tell whether an UPDATE with these octets has come."""
    return any(octets in str(event["body"]) for event in speaker.events("update"))


def test_blocks_come_and_go(node: Node, raw: Raw) -> None:
    """Pod CIDRs are changed in the kernel and told to peers, whose sessions live on."""
    lives = [node.life(name) for name in ("noisy", "steady")]
    put_in_force(node, GOOD.replace("10.244.1.0/26", "10.244.9.0/26"), "file")

    node.await_prefixes({"10.244.9.0/26", "fd00:10:244:1::/112"})
    for speaker in (raw.noisy, raw.steady):
        node.until(partial(is_told, speaker, "1a0af40900"), "the new block announced")
        node.until(partial(is_told, speaker, "00051a0af40100"), "the old block withdrawn")
    assert lives == [node.life(name) for name in ("noisy", "steady")]


def test_bad_file_changes_nothing(node: Node, raw: Raw) -> None:
    """`reload F` of a bad file exits with 2 and every problem; sessions, routes, readiness and generation stay."""
    assert raw.steady.process.is_running
    before = [node.life(name) for name in ("noisy", "steady")]
    node.lab.write("n1", OTHER, BAD)

    refused = node.command("reload", OTHER)

    assert refused.returncode == 2
    lines = refused.stderr.splitlines()
    assert {line.split(": ")[2].split(" = ")[0] for line in lines} == BAD_KEYS
    assert all(line.startswith(f"bgpmesh: {OTHER}: ") for line in lines)
    assert (True, []) == (node.status()["ready"], node.reasons())
    assert node.metric("bgpmesh_config_generation") == 1
    assert before == [node.life(name) for name in ("noisy", "steady")]
    assert node.prefixes() == BLOCKS


def test_bad_file_of_the_operator_is_outlived(node: Node, raw: Raw) -> None:
    """After SIGHUP on a bad file, and after a crash and a start, it runs on what was in force, not ready, all told."""
    assert raw.steady.process.is_running
    before = [node.life(name) for name in ("noisy", "steady")]
    node.configure(BAD)
    node.daemon.send_signal(SIGHUP)
    node.until(lambda: not node.status()["ready"], "not ready")

    told = node.reasons()
    assert {reason.split(": ")[2].split(" = ")[0] for reason in told} == BAD_KEYS
    assert before == [node.life(name) for name in ("noisy", "steady")]
    assert all(f"{key} = " in node.daemon.output() for key in BAD_KEYS)

    node.stop(SIGKILL)
    node.start()
    assert told == [reason for reason in node.reasons() if reason.startswith("configuration: ")]
    assert [peer["name"] for peer in node.ask("peers")] == ["noisy", "steady"]  # type: ignore[attr-defined]
    assert node.prefixes() == BLOCKS
    assert node.command("status").returncode == 1

    node.configure(GOOD)
    node.daemon.send_signal(SIGHUP)
    node.until(lambda: not [r for r in node.reasons() if r.startswith("configuration: ")], "no problem left")


def test_without_a_good_configuration_ever_it_does_not_start(node: Node) -> None:
    """A bad file where nothing was in force before: exit 2, every problem, and nothing done to the kernel."""
    node.configure(BAD)
    node.daemon = node.lab.start("n1", ["bgpmesh", "run", "--config", CONFIG])

    assert node.daemon.entry.wait(60) == 2
    assert all(key in node.daemon.output() for key in BAD_KEYS)
    assert node.prefixes() == set()


@pytest.mark.parametrize("number", [SIGKILL, SIGTERM])
def test_confirmed_reload_outlives_restarts_until_the_file_changes(node: Node, number: int) -> None:
    """What `reload F` put in force is kept over a restart, until the operator's own file is another."""
    node.start()
    put_in_force(node, file_of(STEADY + THIRD), "file")
    assert names(node) == ["steady", "third"]

    node.stop(SIGKILL if number == SIGKILL else SIGTERM)
    node.start()
    assert names(node) == ["steady", "third"]
    assert node.command("diff").returncode == 1, "the file has something else"

    node.configure(GOOD)  # the same again, newly written
    node.stop(SIGKILL if number == SIGKILL else SIGTERM)
    node.start()
    assert names(node) == ["steady", "third"]

    node.configure(file_of(NOISY))
    node.stop(SIGKILL if number == SIGKILL else SIGTERM)
    node.start()
    assert names(node) == ["noisy"]


def names(node: Node) -> list[object]:
    """Return the names of its peers."""
    return [peer["name"] for peer in node.ask("peers")]  # type: ignore[attr-defined]


def test_reload_says_what_waits_for_a_restart_and_nothing_else(node: Node) -> None:
    """What the command line overrides has not changed; what a daemon is built with warns at every reload until then."""
    moved = ("--socket", "/run/bgpmesh/moved.sock")
    node.daemon = node.lab.start(
        "n1", ["bgpmesh", "run", "--config", CONFIG, *moved, "--state", "/run/bgpmesh/moved-state"]
    )
    node.until(lambda: node.command("status", *moved).returncode != 3, "an answer at the socket")

    same = node.command("reload", *moved)
    node.configure(GOOD.replace("[pool.default]", "[kernel]\nmetric = 33\n[pool.default]", 1))
    other = [node.command("reload", *moved) for _ in range(2)]

    assert (0, [0, 0]) == (same.returncode, [each.returncode for each in other])
    assert "has changed" not in same.stdout + same.stderr
    assert ["[kernel] has changed" in each.stdout + each.stderr for each in other] == [True, True]
    assert all("metric 32" in line for line in node.routes("10.244.1.0/26"))
    node.daemon.kill()
    node.command("uninstall", "--config", CONFIG, *moved, "--state", "/run/bgpmesh/moved-state")


def test_a_restart_elsewhere_in_the_kernel_leaves_nothing_where_routes_were(node: Node) -> None:
    """Under another protocol, in another table, and without any route."""
    for kernel, table, left in (
        ("protocol = 78\ntable = 100", "100", BLOCKS),
        ("protocol = 78", "main", BLOCKS),
        ("enabled = false", "main", set()),
        ("", "main", BLOCKS),
    ):
        node.configure(GOOD.replace("[pool.default]", f"[kernel]\n{kernel}\n[pool.default]", 1))
        node.start()
        protocol = "78" if "78" in kernel else PROTOCOL
        other = PROTOCOL if protocol == "78" else "78"
        for of, wanted in ((protocol, left), (other, set[str]())):
            node.until(lambda p=of, w=wanted: node.lab.prefixes("n1", p) == w, f"{kernel}: {wanted} of {of}")  # type: ignore[misc]
        listed = {line.split()[1] for line in node.ip(f"route show table {table} proto {protocol}").splitlines()}
        assert listed == {prefix for prefix in left if ":" not in prefix}
        node.stop()


# ── a mesh ───────────────────────────────────────────────────────────────────

MESH = text_of("config/demo.toml", hold_time=PATIENT)


def test_node_is_taken_out_and_put_back() -> None:
    """Without a node the others lose its routes and their sessions with it, and nothing else, until it is back."""
    with lab_of("mesh3") as lab:
        mesh = {name: Node(lab, name, config="/run/bgpmesh/cluster.toml") for name in NODES}
        for node in mesh.values():
            node.configure(MESH)
            node.start()
        await_mesh(mesh)
        lives = {pair_: mesh[pair_[0]].life(pair_[1]) for pair_ in (("n1", "n2"), ("n2", "n1"))}

        for name in ("n1", "n2"):
            put_in_force(mesh[name], without_node(MESH, "n3"), "own-file")
        for name in ("n1", "n2"):
            mesh[name].await_prefixes(blocks("n1", "n2"))
            assert names(mesh[name]) == [{"n1": "n2", "n2": "n1"}[name]]
        mesh["n3"].await_prefixes(blocks("n3"))
        errors = [str(mesh["n3"].peer(name)["last_error"]) for name in ("n1", "n2")]
        words = ("Cease", "refused", "closed", "reset")  # the last of a call that was hung up on before it was read
        assert [any(word in error for word in words) for error in errors] == [True, True], errors
        assert lives == {pair_: mesh[pair_[0]].life(pair_[1]) for pair_ in lives}

        for name in ("n1", "n2"):
            put_in_force(mesh[name], MESH, "signal")
        await_mesh(mesh)
        assert lives == {pair_: mesh[pair_[0]].life(pair_[1]) for pair_ in lives}


def await_mesh(mesh: dict[str, Node]) -> None:
    """Wait until every session is up, and every kernel has every block."""
    for one, other in combinations(NODES, 2):
        mesh[one].await_up(other)
        mesh[other].await_up(one)
    for node in mesh.values():
        node.await_prefixes(blocks(*NODES))
