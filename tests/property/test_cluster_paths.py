"""Behind reflectors that pass on several paths (RFC 7911) a node forwards as in a full mesh."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.events import Configured
from bgpmesh.peering.peer import AddPath, Peer
from bgpmesh.route.path import Target
from tests.property.cluster import Cluster
from tests.property.test_cluster import SEEDS, mesh, reflected, started

ANYCAST = ("203.0.113.7/32", "203.0.113.8/32", "2001:db8:7::7/128")


def passing_on(configured: Configured, is_reflector: bool) -> Configured:
    """Return a node of a cluster with `add_path`: reflectors send and take, nodes take."""
    ours = AddPath(8 if is_reflector else 0, receive=True)
    peers = [
        replace(peer, add_path=replace(ours, receive=not is_reflector or peer.name in {"n1", "n2"}))
        for peer in configured.peers
    ]
    return replace(configured, peers=tuple(peers))


def behind_reflectors(count: int) -> list[Configured]:
    """Return two reflectors, n1 and n2, and their clients from n3 on."""
    return [passing_on(each, each.cluster_id is not None) for each in reflected(count)]


def announcing(configured: Configured, prefixes: tuple[str, ...]) -> Configured:
    """Return the node with these addresses of its own."""
    return replace(configured, advertise=tuple(map(ipaddress.ip_network, prefixes)))


def drawn(cluster: Cluster) -> dict[int, tuple[str, ...]]:
    """Draw who of n3 to n6 announces which addresses."""
    return {number: tuple(p for p in ANYCAST if cluster.random.random() < 0.6) for number in range(3, 7)}


def as_in_a_mesh(cluster: Cluster, announced: dict[int, tuple[str, ...]]) -> dict[str, dict[str, Target]]:
    """Return the routes that these nodes would have in a full mesh of them."""
    whole = [announcing(each, announced[int(each.node[1:])]) for each in mesh(6) if int(each.node[1:]) in announced]
    names = {each.node for each in whole}
    whole = [replace(each, peers=tuple(p for p in each.peers if p.name in names)) for each in whole]
    other = started(whole, cluster.random.randrange(1000))
    return {name: node.routes() for name, node in other.nodes.items()}


def routes(cluster: Cluster) -> dict[str, dict[str, Target]]:
    """Return the routes of the clients."""
    return {name: node.routes() for name, node in cluster.nodes.items() if name not in {"n1", "n2"}}


@pytest.mark.parametrize("seed", SEEDS)
def test_ecmp_through_reflectors_is_that_of_a_full_mesh(seed: int) -> None:
    """The same next hops in every kernel, whoever announces what, also as that changes; nobody hears its own."""
    configurations = behind_reflectors(4)
    cluster = started(configurations, seed)
    for _ in range(3):
        announced = drawn(cluster)
        for configured in configurations[2:]:
            cluster.reconfigure(configured.node, announcing(configured, announced[int(configured.node[1:])]))
        cluster.settle()
        assert as_in_a_mesh(cluster, announced) == routes(cluster)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reflector_that_is_killed_comes_back_without_a_write(seed: int) -> None:
    """Its paths are stale with whatever identifiers they had, and fresh with those that it gives anew."""
    configurations = behind_reflectors(4)
    cluster = started([announcing(each, ANYCAST if each.pod_cidrs else ()) for each in configurations], seed)
    before = {name: node.kernel.writes for name, node in cluster.nodes.items()}
    held = routes(cluster)
    cluster.kill("n1")
    cluster.settle(cluster.random.choice((0.5, 5, 30)))
    cluster.start("n1")
    cluster.settle(30)
    assert {name: node.kernel.writes for name, node in cluster.nodes.items()} == before
    assert held == routes(cluster)
    assert all(
        node.engine is not None and not any(map(node.engine.rib.stale_count, node.engine.peers.sessions))
        for node in cluster.nodes.values()
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_one_of_two_that_goes_leaves_the_other(seed: int) -> None:
    """A node that is stopped is out of every other's next hops in the end, and those that stay are as in a mesh."""
    configurations = behind_reflectors(4)
    cluster = started([announcing(each, ANYCAST if each.pod_cidrs else ()) for each in configurations], seed)
    cluster.reconfigure("n1", replace(cluster.nodes["n1"].configured, peers=_without("n4", cluster, "n1")))
    cluster.reconfigure("n2", replace(cluster.nodes["n2"].configured, peers=_without("n4", cluster, "n2")))
    cluster.settle(30)
    found = {name: held for name, held in routes(cluster).items() if name != "n4"}
    assert as_in_a_mesh(cluster, dict.fromkeys((3, 5, 6), ANYCAST)) == found


def _without(name: str, cluster: Cluster, of: str) -> tuple[Peer, ...]:
    return tuple(peer for peer in cluster.nodes[of].configured.peers if peer.name != name)
