"""Daemons end at any moment, alone and in pairs, and no packet notices."""

from __future__ import annotations

import os
import time
from itertools import combinations
from random import Random
from signal import SIGKILL, SIGTERM

import pytest

from tests.lab.cluster import SESSIONS, Traffic, Watch, laid_out

ROUNDS = 150 if os.environ.get("BGPMESH_SOAK") else 4


@pytest.mark.parametrize("topology", SESSIONS)
def test_ends_at_any_moment_lose_no_packet_and_write_no_route(topology: str) -> None:
    """One or two daemons end, up to three times in a row and anywhere on their way up, and all is as it was."""
    chance = Random(topology)  # the same choices in every run; the moments they fall on differ anyway
    with laid_out(topology, is_patient=True) as cluster:
        cluster.bring_up(topology)
        cluster.attach_workloads()
        nodes = tuple(cluster.daemons)
        before = {node: cluster.kernel(node) for node in nodes}
        watches = {node: Watch(cluster.lab, node) for node in nodes}
        traffic = Traffic(cluster.lab, tuple(combinations(cluster.workloads, 2)))
        for number in range(ROUNDS):
            victims = chance.sample(nodes, chance.choice((1, 1, 2)))
            signal = chance.choice((SIGKILL, SIGKILL, SIGTERM))
            cluster.stop(signal, *victims)
            moments = [chance.uniform(0.0, 1.2) for _ in range(chance.randrange(3))]
            print(f"round {number}: {signal.name} to {victims}, again after {moments} s")  # noqa: T201  shown on failure
            for moment in moments:
                cluster.start(*victims)
                time.sleep(moment)
                cluster.stop(SIGKILL, *victims)
            cluster.start(*victims)
            cluster.await_sync(*nodes)
            cluster.await_sessions(SESSIONS[topology])
            cluster.await_no_stale(*nodes)
            assert {node: [] for node in nodes} == {node: watch.so_far() for node, watch in watches.items()}
        assert traffic.stop() == []
        assert {node: [] for node in nodes} == {node: watch.end() for node, watch in watches.items()}
        assert before == {node: cluster.kernel(node) for node in nodes}
