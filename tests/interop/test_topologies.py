"""The topologies of containerlab/ that are more than one segment or one reflector, as their README.md describe them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import combinations
from signal import SIGKILL
from typing import cast

from containerlab.lab import REPOSITORY
from tests.lab.cluster import Cluster, Traffic, Watch, blocks, laid_out, next_hops_of, text_of

CLIENTS = ("c1", "c2", "c3", "c4", "c5")
REFLECTORS = ("rr1", "rr2")


def start(cluster: Cluster, *nodes: str) -> None:
    """Start these nodes' daemons as the topology does, on the files that it binds, and wait until they are in sync."""
    for node in nodes:
        cluster.daemons[node] = cluster.lab.start(node)
    cluster.await_sync(*nodes)


def paths_of(cluster: Cluster, node: str, prefix: str) -> list[dict[str, object]]:
    """Return what a node says of each path of a prefix."""
    routes = cast("list[dict[str, list[dict[str, object]]]]", cluster.ask(node, "routes", prefix=prefix))
    return [path for route in routes for path in route["paths"]]


def await_blocks(cluster: Cluster, nodes: Sequence[str], holders: Iterable[str]) -> None:
    """Wait until these nodes' kernels have routes to all blocks of others."""
    for node in nodes:
        cluster.until(node, partial(cluster.has_prefixes, node, blocks(*holders)), "routes to all blocks")


# ── reflectors2 ──────────────────────────────────────────────────────────────


def test_both_reflectors_have_what_their_clients_have() -> None:
    """The reflectors' file is the clients' with `[kernel] enabled = false`."""
    folder = REPOSITORY / "containerlab/reflectors2"
    clients = tomllib.loads((folder / "bgpmesh.toml").read_text(encoding="utf-8"))
    reflectors = tomllib.loads((folder / "reflectors.toml").read_text(encoding="utf-8"))
    assert {**clients, "kernel": {"enabled": False}} == reflectors


def test_one_of_two_reflectors_goes_and_comes_back_and_no_kernel_notices() -> None:
    """Its paths go with it at once, no packet is lost and no route written; what loops between the two is refused."""
    with laid_out("reflectors2") as cluster:
        # Without graceful restart nothing is kept of a reflector that is away: the other one has to do.
        for node in (*REFLECTORS, *CLIENTS):
            file = "reflectors" if node in REFLECTORS else "bgpmesh"
            cluster.configure(node, text_of(f"containerlab/reflectors2/{file}.toml", graceful_restart="0"))
        cluster.start(*REFLECTORS, *CLIENTS)
        sessions = [(reflector, client) for reflector in REFLECTORS for client in CLIENTS]
        cluster.await_sessions([REFLECTORS, *sessions])
        await_blocks(cluster, CLIENTS, CLIENTS)
        for node, other in (REFLECTORS, REFLECTORS[::-1]):
            cluster.until(node, partial(is_refused, cluster, node, other), "the loop to be refused")
            assert cluster.prefixes(node) == set()

        for node in CLIENTS[:3]:
            cluster.attach(node)
        for node in CLIENTS:
            await_both(cluster, node)
        watches = {node: Watch(cluster.lab, node) for node in CLIENTS}
        traffic = Traffic(cluster.lab, tuple(combinations(cluster.workloads, 2)))
        cluster.stop(SIGKILL, "rr1")
        for node in CLIENTS:
            cluster.until(node, partial(cluster.has_peer, node, "rr1", is_up=False), "rr1 gone")
            assert {path["peer"] for path in paths_of(cluster, node, other_block(node))} == {"rr2"}
        traffic.await_rounds()
        cluster.start("rr1")
        cluster.await_sync("rr1")
        cluster.await_sessions(sessions)
        for node in CLIENTS:
            await_both(cluster, node)
        traffic.await_rounds()
        assert traffic.stop() == []
        assert {node: [] for node in CLIENTS} == {node: watch.end() for node, watch in watches.items()}


def other_block(node: str) -> str:
    """Return the pods of another client."""
    return "10.244.2.0/26" if node == "c1" else "10.244.1.0/26"


def await_both(cluster: Cluster, node: str) -> None:
    """Wait until a client has another one's pods from both reflectors."""

    def has_both() -> bool:
        return {path["peer"] for path in paths_of(cluster, node, other_block(node))} == {*REFLECTORS}

    cluster.until(node, has_both, "paths of both reflectors")


def is_refused(cluster: Cluster, node: str, other: str) -> bool:
    """Tell whether a reflector has refused what the other one reflected of c1's pods."""
    reasons = [path["reason"] for path in paths_of(cluster, node, "10.244.1.0/26") if path["peer"] == other]
    return bool(reasons) and set(reasons) == {"loop: our cluster is in CLUSTER_LIST"}


# ── subnets ──────────────────────────────────────────────────────────────────


def test_next_hops_on_another_subnet_are_resolved_through_the_hosts_routes() -> None:
    """The session and the packets go over the router; the kernel's route goes and comes with the host's."""
    nodes = ("n1", "n2", "n3")
    with laid_out("subnets") as cluster:
        start(cluster, "r1", *nodes)
        cluster.await_sessions(combinations(("r1", *nodes), 2))
        await_blocks(cluster, ("r1", *nodes), nodes)
        ways = {"n1": "192.0.2.254", "n2": "192.0.2.254", "r1": "198.51.100.3"}
        assert {node: {way} for node, way in ways.items()} == {
            node: next_hops_of(cluster.lab, node, "10.244.3.0/26") for node in ways
        }
        (path,) = paths_of(cluster, "n1", "10.244.3.0/26")
        assert (path["peer"], path["next_hop"]) == ("n3", "198.51.100.3")

        for node in nodes:
            cluster.attach(node)
        traffic = Traffic(cluster.lab, tuple(combinations(cluster.workloads, 2)))
        traffic.await_rounds()
        assert traffic.stop() == []

        cluster.lab.exec("n1", ["ip", "route", "del", "198.51.100.0/24"])
        cluster.until("n1", lambda: "10.244.3.0/26" not in cluster.prefixes("n1"), "no way to n3")
        cluster.lab.exec("n1", ["ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.254"])
        await_blocks(cluster, ["n1"], nodes)
