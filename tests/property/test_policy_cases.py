"""The truth tables without packets: what is compiled and explained of every case against the oracle of tests/policy."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bgpmesh.policy.explain import explain
from bgpmesh.policy.form import Compiled
from bgpmesh.policy.model import Packet
from bgpmesh.policy.objects import read
from bgpmesh.policy.protection import Protection, Surroundings
from bgpmesh.policy.rule import Action, Icmp
from bgpmesh.workload.endpoint import Endpoint
from tests.policy.cases import APART, TOGETHER, Case, Layout, cells, kubernetes_cases
from tests.policy.cases_calico import calico_cases
from tests.policy.oracle import Cell, Oracle, Pod, World

SOURCE_PORT = 20_000


def every_case(layout: Layout) -> list[Case]:
    """Return the cases of both APIs."""
    return [*kubernetes_cases(layout), *calico_cases(layout)]


class Node:
    """What one node makes of one world after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._protection = Protection()

    def compiled(self, world: World) -> Compiled:
        """Return what it comes to; without identity it knows the workloads that it has."""
        found = read(world.objects)
        assert found.refused == []
        self._protection.objects = found.objects
        endpoints = {pod.key: endpoint_of(pod) for pod in world.pods if pod.node == self.name}
        self._protection.wanted(endpoints, Surroundings(world.space), is_needed=False)
        return self._protection.compiled


def endpoint_of(pod: Pod) -> Endpoint:
    """Return a workload as its node has it."""
    ports = tuple((name, protocol.lower(), number) for (name, protocol), number in pod.ports.items())
    labels = tuple(sorted(pod.labels.items()))
    name = f"bgpm{pod.namespace}{pod.name}"
    return Endpoint(pod.name, pod.namespace, labels, pod.addresses, name, "/run/netns/w", ports)


def packet_of(cell: Cell) -> Packet:
    """Return the packet of a cell."""
    icmp = None if cell.icmp_type is None else Icmp(cell.icmp_type, 0)
    return Packet(cell.source, cell.destination, cell.number, cell.source_port, cell.port, icmp)


def differences(nodes: Iterable[Node], world: World, part: slice) -> list[tuple[Cell, str, bool, bool]]:
    """Return the cells of a world that a node explains otherwise: the cell, the node, the oracle's word and its own."""
    oracle = Oracle(world)
    compiled = {node.name: node.compiled(world) for node in nodes}
    holders = {address: pod.node for pod in world.pods for address in pod.addresses}
    found = []
    for cell in list(cells(world, SOURCE_PORT))[part]:
        for node in {holders[cell.source], holders[cell.destination]}:
            expected = oracle.passes_at(node, cell)
            said = explain(compiled[node], packet_of(cell)).verdict is Action.ALLOW
            if said is not expected:
                found.append((cell, node, expected, said))
    return found


def test_there_are_as_many_cases_as_cyclonus_has() -> None:
    """In its nine categories, each case under a name of its own."""
    names = [(case.category, case.name) for case in every_case(TOGETHER)]
    assert len(names) == len(set(names))
    assert names == [(case.category, case.name) for case in every_case(APART)]
    count = [sum(category == case.category for case in kubernetes_cases(TOGETHER)) for category in dict(names)]
    assert count[:9] == [6, 4, 112, 70, 6, 16, 2, 13, 1]


@pytest.mark.parametrize("layout", [TOGETHER, APART], ids=["together", "apart"])
def test_every_case_is_explained_as_the_oracle_has_it(layout: Layout) -> None:
    """A third of the cells of each step, in turn; and the nodes go from each case to the next."""
    nodes = [Node(name) for name in sorted(set(layout.nodes.values()))]
    worlds = [
        (case, number, step.world(layout)) for case in every_case(layout) for number, step in enumerate(case.steps)
    ]
    faults = [
        (case.category, case.name, number, differing[0], len(differing))
        for turn, (case, number, world) in enumerate(worlds)
        if (differing := differences(nodes, world, slice(turn % 3, None, 3)))
    ]
    assert faults == []
