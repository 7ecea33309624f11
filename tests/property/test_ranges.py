"""Nodes that their reflectors know by a range alone, whatever the order in which messages arrive."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.events import Configured
from bgpmesh.peering.connection import State
from bgpmesh.peering.ranges import PeerRange
from bgpmesh.route.path import PeerName, Role
from tests.property.cluster import Cluster
from tests.property.test_cluster import SEEDS, assert_converged, node, started

CLIENTS = (3, 4, 5)


def reflected() -> list[Configured]:
    """Two reflectors, n1 and n2, that do not forward, and clients of both, which call and are in no file but theirs."""
    reflectors = []
    for number in (1, 2):
        made = node(number, {3 - number: Role.NON_CLIENT, 3: Role.CLIENT}, cluster_id=number, prefixes=())
        other, client = made.peers
        template = replace(client, name=PeerName("leaves"), is_passive=True, in_cluster=False)
        around = PeerRange(ipaddress.ip_network("192.0.2.0/24"), 8, template)
        reflectors.append(replace(made, peers=(other,), ranges=(around,), kernel_enabled=False))
    clients = [node(i, {1: Role.NON_CLIENT, 2: Role.NON_CLIENT}) for i in CLIENTS]
    return [*reflectors, *clients]


def speakers(cluster: Cluster, reflector: str) -> dict[str, State]:
    """Return the sessions of a reflector with speakers of its range."""
    engine = cluster.nodes[reflector].engine
    assert engine is not None
    return {name: each.state for name, each in engine.peers.sessions.items() if each.peer.of_range is not None}


ALL = {f"leaves@192.0.2.{number}": State.ESTABLISHED for number in CLIENTS}


@pytest.mark.parametrize("seed", SEEDS)
def test_reflectors_that_know_nobody_serve_all_and_restart_unnoticed(seed: int) -> None:
    """Everybody who calls is heard and hears; a reflector that is killed comes back, and no client's kernel changes."""
    configurations = reflected()
    cluster = started(configurations, seed)
    assert_converged(cluster, configurations)
    assert (speakers(cluster, "n1"), speakers(cluster, "n2")) == (ALL, ALL)
    before = {name: n.kernel.writes for name, n in cluster.nodes.items()}
    both = cluster.random.random() < 0.5
    victims = ("n1", "n2") if both else ("n1",)
    for victim in victims:
        cluster.kill(victim)
    cluster.settle(cluster.random.choice((0.5, 2, 20)))
    for victim in victims:
        cluster.start(victim)
    cluster.settle(30)
    assert {name: n.kernel.writes for name, n in cluster.nodes.items()} == before
    assert_converged(cluster, configurations)
    assert (speakers(cluster, "n1"), speakers(cluster, "n2")) == (ALL, ALL)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_speaker_that_stays_away_is_forgotten_by_all(seed: int) -> None:
    """Its routes go when its time is over, and so does its name; another that comes is heard."""
    configurations = reflected()
    cluster = started(configurations, seed)
    cluster.kill("n5")
    cluster.settle(cluster.random.choice((1, 100)))
    if cluster.random.random() < 0.5:
        cluster.kill("n2")
        cluster.start("n2")
    cluster.settle(300)
    left = [each for each in configurations if each.node != "n5"]
    assert_converged(cluster, left)
    rest = {name: state for name, state in ALL.items() if name != "leaves@192.0.2.5"}
    assert (speakers(cluster, "n1"), speakers(cluster, "n2")) == (rest, rest)
    assert "leaves@192.0.2.5" not in cluster.nodes["n1"].listed | cluster.nodes["n2"].listed
    cluster.start("n5")
    cluster.settle(30)
    assert (speakers(cluster, "n1"), speakers(cluster, "n2")) == (ALL, ALL)
