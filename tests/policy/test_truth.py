"""Truth tables: of every case each cell, with real packets, as an oracle has it and as the daemon explains it.

All workloads on one node, and spread over three. Spread, a node knows the labels of its own workloads only, and the
oracle takes that into account; with identity every node knows all of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.policy.cases import APART, TOGETHER, Case, Layout, Step, kubernetes_cases
from tests.policy.cases_calico import calico_cases
from tests.policy.lab import Stage, staged

IS_LONG = bool(os.environ.get("BGPMESH_SOAK"))
SOME = 1 if IS_LONG else 3  # on one node, one case of so many
SOME_APART = 1 if IS_LONG else 24  # over three
SHOWN = 20  # differing cells of a step
PATIENCE_S = 30.0  # for labels to reach the other nodes


def cases(layout: Layout, step: int = 1) -> list[Case]:
    """Return one case of `step`."""
    return [*kubernetes_cases(layout), *calico_cases(layout)][::step]


def title(case: Case) -> str:
    """Return what a case is called."""
    return f"{case.category}: {case.name}"


@pytest.fixture(scope="module")
def together() -> Iterator[Stage]:
    """All workloads on one node, after a sweep in which everything passes: a dead server reads as a denial."""
    with staged(TOGETHER) as stage:
        show(stage, Step())
        yield stage


@pytest.fixture(scope="module")
def apart() -> Iterator[Stage]:
    """Spread them over three nodes, and sweep likewise."""
    with staged(APART) as stage:
        show(stage, Step())
        yield stage


@pytest.fixture(scope="module")
def acquainted() -> Iterator[Stage]:
    """Spread them over three nodes that tell each other of their labels."""
    with staged(APART, has_identity=True) as stage:
        show(stage, Step())
        yield stage


def show(stage: Stage, step: Step) -> None:
    """Go to a step, and fail for any cell that is not as it should be."""
    stage.become(step)
    deadline = time.monotonic() + (PATIENCE_S if stage.is_spreading else 0.0)
    faults = stage.faults(stage.world(step))
    while faults and time.monotonic() < deadline:
        faults = stage.faults(stage.world(step))
    assert faults == [], f"{len(faults)} cells:\n" + "\n".join(faults[:SHOWN])


@pytest.mark.parametrize("case", cases(TOGETHER, SOME), ids=title)
def test_on_one_node(together: Stage, case: Case) -> None:
    """Each step of a case, on what the case before has left; so policies are made, changed and deleted all the time."""
    for step in case.steps:
        show(together, step)


@pytest.mark.parametrize("case", cases(APART, SOME_APART), ids=title)
def test_over_three_nodes(apart: Stage, case: Case) -> None:
    """The same, where source and destination are mostly two nodes' business."""
    for step in case.steps:
        show(apart, step)


# Hashes do not answer these, and the oracle knows labels whole (tests/property/test_identity.py has what holds then).
PARTS = ("starts with", "ends with", "contains")


@pytest.mark.parametrize(
    "case", [case for case in cases(APART, SOME_APART) if not any(part in case.name for part in PARTS)], ids=title
)
def test_over_three_nodes_that_know_each_other(acquainted: Stage, case: Case) -> None:
    """With labels carried by BGP every case is as if all were on one node."""
    for step in case.steps:
        show(acquainted, step)
