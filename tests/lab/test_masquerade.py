"""Workloads that leave every pool: an outside host beyond the fabric sees their node, other workloads see them.

    n1: w-n1     n2: w-n2     n3: no daemon, no route to any pod, the host outside

The lab is containerlab/mesh3.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from signal import SIGKILL, SIGTERM

import pytest

from tests.lab.cluster import (
    CONFIG,
    PATIENT,
    Cluster,
    Workload,
    blocks,
    laid_out,
    packet_filter,
    reply,
    serve,
    set_names,
    text_of,
    without_node,
)

PORT = "5005"
OUTSIDE = ("192.0.2.3", "2001:db8::3")
NODE = ("192.0.2.1", "2001:db8::1")  # n1 as the fabric knows it

ON = without_node(text_of("config/demo.toml", hold_time=PATIENT), "n3")
OFF = ON.replace("masquerade = true\n", "")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """n1 and n2 with a workload each, and servers that answer with the source they see."""
    if shutil.which("ipset") is None:
        pytest.skip("needs ipset, to see what is left of sets")
    with laid_out("mesh3") as cluster:
        for node in ("n1", "n2"):
            cluster.configure(node, OFF)
        # Somebody else's table, so that it is there before and after.
        cluster.lab.exec(
            "n1", ["iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-s", "172.17.0.0/16", "-j", "ACCEPT"]
        )
        cluster.lab.exec("n1", ["ip6tables", "-w", "-t", "nat", "-A", "POSTROUTING", "-s", "fd17::/16", "-j", "ACCEPT"])
        cluster.start("n1", "n2")
        cluster.await_sync("n1", "n2")
        cluster.await_sessions([("n1", "n2")])
        one, two = cluster.attach("n1"), cluster.attach("n2")
        for workload in (one, two):
            cluster.await_prefixes(workload.node, blocks("n1", "n2") | {*workload.addresses})
        for address in OUTSIDE:
            serve(cluster.lab, "n3", address, PORT)
        for address in two.addresses:
            serve(cluster.lab, "n2", address, PORT, inside=two.name)
        yield cluster


def seen(cluster: Cluster, target: str, tries: int = 60) -> str:
    """Return the source that a packet from n1's workload has at a target, "" where no answer comes back."""
    (one,) = (each for each in cluster.workloads if each.node == "n1")
    return reply(cluster.lab, "n1", target, PORT, tries=tries, inside=one.name)


def rules(cluster: Cluster) -> tuple[int, list[object], list[str]]:
    """Return what status says of the packet filter, and why the node is not ready."""
    answer = json.loads(cluster.lab.exec("n1", ["bgpmesh", "status", "--json"], check=False).stdout)
    return answer["policy"]["rules"], answer["policy"]["errors"], answer["reasons"]


def saved(cluster: Cluster) -> list[str]:
    """Return what the packet filter of n1 holds, and the name of every set."""
    return packet_filter(cluster.lab, "n1") + set_names(cluster.lab, "n1")


def ours(cluster: Cluster) -> list[str]:
    """Return what of it is ours."""
    return [line for line in saved(cluster) if "bm-" in line or "bm:" in line]


def foreign(cluster: Cluster) -> list[str]:
    """Return the rules of others."""
    return [line for line in saved(cluster) if line.startswith("-A") and line not in ours(cluster)]


def await_rules(cluster: Cluster, count: int) -> None:
    """Wait until so many rules stand, and none is refused."""
    cluster.until("n1", lambda: rules(cluster)[:2] == (count, []), f"{count} rules")


def workload(cluster: Cluster, node: str) -> Workload:
    """Return the workload of a node."""
    return next(each for each in cluster.workloads if each.node == node)


def test_workloads_leave_by_their_node_and_meet_as_they_are(cluster: Cluster) -> None:
    """Through reload, a crash and a restart, until it is turned off and everything is as it was."""
    before, base, count = foreign(cluster), ours(cluster), rules(cluster)[0]
    own, others = workload(cluster, "n1").addresses, workload(cluster, "n2").addresses
    assert [seen(cluster, target, tries=2) for target in OUTSIDE] == ["", ""], "no route leads back to a workload"

    cluster.reload("n1", ON)
    await_rules(cluster, count + 8)
    assert tuple(seen(cluster, target) for target in OUTSIDE) == NODE
    assert tuple(seen(cluster, target) for target in others) == own
    assert rules(cluster)[2] == []

    cluster.stop(SIGKILL, "n1")
    standing = ours(cluster)
    assert tuple(seen(cluster, target) for target in OUTSIDE) == NODE
    cluster.start("n1")
    cluster.await_sync("n1")
    await_rules(cluster, count + 8)
    assert standing == ours(cluster)
    assert "drift.found" not in cluster.log("n1")
    assert tuple(seen(cluster, target) for target in OUTSIDE) == NODE

    hook = next(line for line in standing if line.startswith("-A POSTROUTING") and "-m mark" not in line)
    cluster.lab.exec("n1", ["sh", "-ec", f"iptables -w -t nat {hook.replace('-A', '-D', 1)}"])
    cluster.until_logged("n1", "nat POSTROUTING (IPv4)")
    cluster.until("n1", lambda: standing == ours(cluster), "the hook where it was")
    await_rules(cluster, count + 8)

    cluster.reload("n1", OFF)
    await_rules(cluster, count)
    cluster.until("n1", lambda: ours(cluster) == base, "nothing left of it")
    assert before == foreign(cluster)
    assert [seen(cluster, target, tries=2) for target in OUTSIDE] == ["", ""]

    cluster.reload("n1", ON)
    await_rules(cluster, count + 8)
    cluster.until("n1", lambda: standing == ours(cluster), "all of it once more")
    cluster.stop(SIGTERM, "n1")
    assert standing == ours(cluster)
    cluster.lab.exec("n1", ["touch", "/var/lib/bgpmesh/notes"])  # a mount of the lab, which cannot be removed
    removed = cluster.lab.exec("n1", ["bgpmesh", "uninstall", "--config", CONFIG]).stdout
    assert "chain nat bm-nat-outgoing (IPv4)" in removed
    assert "set bm-6-inside" in removed
    assert (before, []) == (foreign(cluster), ours(cluster))
