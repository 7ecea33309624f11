"""A mesh changes while it runs: a tenth node is added, and what is not confirmed is rolled back with the forwarding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import cast

import pytest

from containerlab.lab import Lab, missing
from tests.lab.cluster import CONFIG, PATIENT, Cluster, Watch, Workload
from tests.lab.nodes import document_of

ALL = tuple(f"n{number}" for number in range(1, 11))
FIRST, LAST = ALL[:-1], ALL[-1]
CUT = "/run/bgpmesh/cut.toml"
CLOSED = document_of(
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": "default"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
)


def text_of(*nodes: str, topology: str = "mesh") -> str:
    """Return the file of a cluster of these nodes."""
    tables = [
        f'[node.{node}]\naddress = "192.0.2.{node[1:]}"\npod_cidrs = ["10.244.{node[1:]}.0/26"]\n' for node in nodes
    ]
    head = f'[cluster]\nasn = 64512\nhold_time = {PATIENT}\ntopology = "{topology}"\n'
    return "\n".join([head, '[pool.default]\ncidr = "10.244.0.0/16"\n', *tables])


def blocks(*nodes: str) -> set[str]:
    """Return the pod CIDRs of these nodes."""
    return {f"10.244.{node[1:]}.0/26" for node in nodes}


def topology() -> str:
    """Return ten nodes on one switch."""
    nodes = [f'    {n}:\n      kind: linux\n      exec: ["ip address add 192.0.2.{n[1:]}/24 dev eth1"]' for n in ALL]
    links = [f'    - endpoints: ["{node}:eth1", "switch:{node}"]' for node in ALL]
    return "\n".join(
        ["name: ten", "topology:", "  nodes:", "    switch:\n      kind: bridge", *nodes, "  links:", *links]
    )


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run nine of the ten nodes, with a workload on the first two."""
    if reason := missing():
        pytest.skip(f"needs network namespaces: {reason}")
    file: Path = tmp_path_factory.mktemp("ten") / "ten.clab.yml"
    file.write_text(topology(), encoding="utf-8")
    with Lab(file) as lab:
        made = Cluster(lab)
        for node in FIRST:
            made.configure(node, text_of(*FIRST))
        made.start(*FIRST)
        made.await_sync(*FIRST)
        await_mesh(made, *FIRST)
        for node in FIRST[:2]:
            made.attach(node)
        await_pings(made)
        yield made


def await_mesh(mesh: Cluster, *nodes: str) -> None:
    """Wait until every session is up, and every kernel has every block."""
    mesh.await_sessions(combinations(nodes, 2))
    for node in nodes:
        mesh.until(node, partial(mesh.has_prefixes, node, blocks(*nodes)), "routes to all blocks")


def hosts(mesh: Cluster, node: str) -> set[str]:
    """Return the addresses of the workloads of a node."""
    return {address for each in mesh.workloads if each.node == node for address in each.addresses}


def lives(mesh: Cluster, *nodes: str) -> dict[tuple[str, str], dict[str, int]]:
    """Return how often each state of each session was entered."""
    both_ways = [*combinations(nodes, 2), *(pair[::-1] for pair in combinations(nodes, 2))]
    return {(node, peer): cast("dict[str, int]", mesh.peer(node, peer)["transitions"]) for node, peer in both_ways}


def has_reply(mesh: Cluster, caller: Workload, called: Workload) -> bool:
    """Tell whether one workload is answered by the other."""
    words = ["ping", "-c", "1", "-W", "1", called.addresses[0]]
    return mesh.lab.exec(caller.node, words, inside=caller.name, check=False).returncode == 0


def await_pings(mesh: Cluster, *, answered: bool = True) -> None:
    """Wait until the workload of n1 is answered by that of n2, or no longer is."""
    caller, called = mesh.workloads
    mesh.until("n1", lambda: has_reply(mesh, caller, called) is answered, f"pings answered: {answered}")


def unconfirmed(mesh: Cluster) -> object:
    """Return what n1 has on trial."""
    return cast("dict[str, object]", mesh.ask("n1", "status"))["unconfirmed"]


def apply(mesh: Cluster, file: str, text: str, seconds: str) -> None:
    """Have n1 try something out."""
    mesh.lab.write("n1", file, text)
    mesh.lab.exec("n1", ["bgpmesh", "apply", "-f", file, "--confirm", seconds])


def test_a_node_is_added_and_nobody_else_notices(mesh: Cluster) -> None:
    """It is planned so, and no other session changes its state, and no route of another node is touched."""
    before, watches = lives(mesh, *FIRST), {node: Watch(mesh.lab, node) for node in ("n1", "n5")}
    mesh.configure("n1", text_of(*ALL))
    told = mesh.lab.exec("n1", ["bgpmesh", "diff", CONFIG, "--json"], check=False)
    sessions = json.loads(told.stdout)["sessions"]
    assert (told.returncode, [row["peer"] for row in sessions["added"]], sessions["unchanged"]) == (1, [LAST], 8)
    assert [sessions[word] for word in ("removed", "reset", "changed")] == [[], [], []]

    for node in FIRST:
        mesh.reload(node, text_of(*ALL))
    mesh.configure(LAST, text_of(*ALL))
    mesh.start(LAST)
    mesh.await_sync(LAST)
    await_mesh(mesh, *ALL)

    assert before == lives(mesh, *FIRST)
    new = ("10.244.10.0/26", "192.0.2.10")
    touched = {
        node: [line for line in watch.end() if not any(word in line for word in new)] for node, watch in watches.items()
    }
    assert touched == {"n1": [], "n5": []}
    assert mesh.lab.exec("n1", ["bgpmesh", "diff"], check=False).returncode == 0

    for node in FIRST:
        mesh.reload(node, text_of(*FIRST))
    mesh.stop(SIGTERM, LAST)
    for node in FIRST:
        mesh.await_prefixes(node, blocks(*FIRST) | hosts(mesh, node))
    assert before == lives(mesh, *FIRST)


def test_what_cuts_a_node_off_is_rolled_back_by_itself(mesh: Cluster) -> None:
    """Nobody could confirm it: sessions and routes come back, and packets flow."""
    lived = lives(mesh, "n2", "n1")["n2", "n1"]["Established"]
    apply(mesh, CUT, text_of(*FIRST, topology="none"), "1")
    mesh.until_logged("n1", 'apply.rolled-back value="configuration /run/bgpmesh/cut.toml" reason="not confirmed')
    await_mesh(mesh, *FIRST)
    await_pings(mesh)
    assert unconfirmed(mesh) is None
    assert lives(mesh, "n2", "n1")["n2", "n1"]["Established"] > lived, "it was gone"


def test_what_cuts_a_node_off_is_rolled_back_when_asked(mesh: Cluster) -> None:
    """Until then it is in force, and nothing else can be tried out."""
    apply(mesh, CUT, text_of(*FIRST, topology="none"), "3600")
    await_pings(mesh, answered=False)
    told = mesh.lab.exec("n1", ["bgpmesh", "status"], check=False).stdout
    assert "unconfirmed: configuration /run/bgpmesh/cut.toml, rolls back in" in told
    second = mesh.lab.exec("n1", ["bgpmesh", "apply", "-f", CUT, "--confirm", "9"], check=False)
    assert (second.returncode, "/run/bgpmesh/cut.toml: is not confirmed yet" in second.stderr) == (2, True)

    mesh.lab.exec("n1", ["bgpmesh", "rollback"])
    await_mesh(mesh, *FIRST)
    await_pings(mesh)
    assert mesh.lab.exec("n1", ["bgpmesh", "confirm"], check=False).returncode == 1


def test_a_crash_rolls_back_what_is_not_confirmed(mesh: Cluster) -> None:
    """Also where it is the daemon's own file by now; what is confirmed is back after the next one."""
    cut = text_of(*FIRST, topology="none")
    apply(mesh, CONFIG, cut, "3600")
    await_pings(mesh, answered=False)
    for is_confirmed in (False, True):
        mesh.stop(SIGKILL, "n1")
        mesh.start("n1")
        mesh.await_sync("n1")
        assert [bool(status.states) for status in [mesh.status("n1")] if status] == [not is_confirmed]
        if not is_confirmed:
            await_mesh(mesh, *FIRST)
            await_pings(mesh)
            apply(mesh, CONFIG, cut, "3600")
            mesh.lab.exec("n1", ["bgpmesh", "confirm"])
    mesh.lab.exec("n1", ["bgpmesh", "rollback"])
    await_mesh(mesh, *FIRST)
    await_pings(mesh)


def test_objects_are_tried_out_too(mesh: Cluster) -> None:
    """In force, and gone again; confirmed they stay."""
    file = "/run/bgpmesh/closed.json"
    for words, answered in (("rollback", True), ("confirm", False)):
        apply(mesh, file, CLOSED, "3600")
        await_pings_back(mesh, answered=False)
        mesh.lab.exec("n1", ["bgpmesh", words])
        await_pings_back(mesh, answered=answered)
    mesh.lab.exec("n1", ["bgpmesh", "delete", "-f", file])


def await_pings_back(mesh: Cluster, *, answered: bool) -> None:
    """Wait until the workload of n2 is answered by that of n1, or no longer is."""
    called, caller = mesh.workloads
    mesh.until("n1", lambda: has_reply(mesh, caller, called) is answered, f"pings answered: {answered}")
