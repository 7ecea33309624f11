"""Nodes leave service and come back under traffic: it moves first, and no packet is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from signal import SIGKILL
from typing import cast

from containerlab.lab import PATIENCE_S, Process
from tests.lab.cluster import (
    NODES,
    PATIENT,
    SESSIONS,
    Cluster,
    Traffic,
    announcing,
    blocks,
    laid_out,
    metrics,
    script,
    text_of,
)

ANYCAST, PORT = "203.0.113.7", "7007"
DRAINED = "reset by peer: Cease, administrative shutdown: drained"


@contextmanager
def anycast() -> Iterator[tuple[Cluster, Process]]:
    """Have n1 and n2 announce one address, and n3 ask there all the time; n1 is the one that answers."""
    plain = text_of("config/demo.toml", hold_time=PATIENT, restart_deferral=PATIENT) + "[kernel]\necmp = 1\n"
    with laid_out("mesh3", is_patient=True) as cluster:
        lab = cluster.lab
        for node in ("n1", "n2"):
            lab.exec(node, ["ip", "address", "add", f"{ANYCAST}/32", "dev", "lo"])
            lab.start(node, script("source", "serve", ANYCAST, PORT, node)).await_said("listening")
        texts = {node: announcing(plain, node, f"{ANYCAST}/32") for node in ("n1", "n2")}
        cluster.bring_up("mesh3", {"n3": plain} | texts)
        cluster.await_prefixes("n3", {*blocks(*NODES), ANYCAST})
        flow = lab.start("n3", script("steady", ANYCAST, PORT))
        await_answers(flow, "n1")
        yield cluster, flow


def await_answers(flow: Process, *names: str) -> None:
    """Wait until these nodes have answered, one after the other."""
    flow.until(lambda: flow.output().split() == [*names], f"answers from {names}")


def loss(flow: Process) -> Mapping[str, int]:
    """End the flow; return how many datagrams were sent and how many were answered."""
    flow.stop()
    return cast("dict[str, int]", json.loads(flow.output().splitlines()[-1]))


def await_error(cluster: Cluster, node: str, peer: str, error: str) -> None:
    """Wait until a node says this of its session with a peer; calls that are refused meanwhile say less."""
    cluster.until(node, lambda: cluster.last_error(node, peer) == error, error)


def run(cluster: Cluster, node: str, *words: str) -> dict[str, object]:
    """Return what a command answers."""
    done = cluster.lab.exec(node, ["bgpmesh", *words, "--json"], timeout=2 * PATIENCE_S)
    return cast("dict[str, object]", json.loads(done.stdout))


def said(cluster: Cluster, node: str, key: str) -> object:
    """Return a member of what `status` says."""
    return cast("dict[str, object]", cluster.ask(node, "status"))[key]


def has_no_session(cluster: Cluster, node: str) -> bool:
    """Tell whether a node neither has a session nor is about to have one."""
    return {"Idle"} == {row["state"] for row in cast("list[dict[str, str]]", said(cluster, node, "peers"))}


def test_traffic_leaves_a_node_before_its_sessions_and_comes_back_after_them() -> None:
    """The wait ends by what the kernel counts, a restart changes nothing, and of thousands of packets none is lost."""
    with anycast() as (cluster, flow):
        drained = run(cluster, "n1", "drain", "--limit", "600", "--below", "10000")
        assert (drained["state"], str(drained["reason"])) == ("stopped", "below 10000 B/s for 3 s")
        await_answers(flow, "n1", "n2")
        await_error(cluster, "n3", "n1", DRAINED)
        cluster.await_prefixes("n3", {*blocks("n2", "n3"), ANYCAST})
        cluster.await_prefixes("n1", blocks("n1"))
        assert said(cluster, "n1", "ready") is False
        assert "bgpmesh_drained 1.0" in metrics(cluster.lab, "n1")

        cluster.stop(SIGKILL, "n1")
        cluster.start("n1")
        cluster.await_sync("n1")
        assert said(cluster, "n1", "drain") == "stopped"
        for node in ("n2", "n3"):  # they call n1, and are told again
            await_error(cluster, node, "n1", DRAINED)
        cluster.until("n1", partial(has_no_session, cluster, "n1"), "both peers Idle")

        assert run(cluster, "n1", "undrain")["state"] == "none"
        cluster.await_sessions(SESSIONS["mesh3"])
        await_answers(flow, "n1", "n2", "n1")
        cluster.await_prefixes("n1", blocks(*NODES))
        cluster.until("n1", lambda: said(cluster, "n1", "ready"), "ready")
        counted = loss(flow)
        assert counted["sent"] == counted["answered"]
        assert counted["sent"] > 1000


def test_workloads_of_a_drained_node_go_on_until_it_stops() -> None:
    """Traffic between them and others loses nothing while all else moves away and comes back."""
    with anycast() as (cluster, flow):
        one, other = cluster.attach("n1"), cluster.attach("n3")
        for node in NODES:
            own = {*one.addresses} if node == "n1" else {*other.addresses} if node == "n3" else set()
            cluster.until(node, partial(cluster.has_prefixes, node, blocks(*NODES) | own), "all routes")
        traffic = Traffic(cluster.lab, [(one, other)])
        drained = run(cluster, "n1", "drain", "--limit", "5")
        assert (drained["state"], drained["workloads"]) == ("drained", 1)
        await_answers(flow, "n1", "n2")
        traffic.await_rounds()
        cluster.stop(SIGKILL, "n1")
        cluster.start("n1")
        cluster.await_sync("n1")
        cluster.await_sessions(SESSIONS["mesh3"])
        assert said(cluster, "n1", "drain") == "drained"
        traffic.await_rounds()
        await_answers(flow, "n1", "n2")
        assert run(cluster, "n1", "undrain")["state"] == "none"
        await_answers(flow, "n1", "n2", "n1")
        traffic.await_rounds()
        assert traffic.stop() == []
        counted = loss(flow)
        assert counted["sent"] == counted["answered"]

        assert run(cluster, "n1", "drain", "--stop", "--limit", "0")["state"] == "stopped"
        cluster.await_prefixes("n3", {*blocks("n2", "n3"), ANYCAST, *other.addresses})
