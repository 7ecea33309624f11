"""BFD in a cluster: a path that is silent moves its traffic, a daemon that is away does not."""

from __future__ import annotations

import json
import os
import statistics
import sys
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from time import monotonic, sleep
from typing import cast

import pytest

from containerlab.lab import PATIENCE_S, Lab, Process, until
from tests.lab.agents import hear_again, silence
from tests.lab.cluster import (
    NODES,
    PATIENT,
    SESSIONS,
    Cluster,
    Traffic,
    Watch,
    announcing,
    blocks,
    laid_out,
    reply,
    serve,
    text_of,
)

IS_LONG = bool(os.environ.get("BGPMESH_SOAK"))
TRIES = 50 if IS_LONG else 4
HOLD_TRIES = 5 if IS_LONG else 1
CHURN_S = 300.0 if IS_LONG else 15.0
HERE = Path(__file__).parent
QUICK = "{ interval_ms = 100, multiplier = 3 }"
HOLD_TIME = "90"  # what BFD does not find is not found in the time of a test
ANYCAST, PORT = "203.0.113.7", "7007"
# On a machine that may be busy nobody says when a process has its turn: there it is sooner than anything else could be.
MOST_S = 0.4 if IS_LONG else 30.0
ROUTES = 100_000

FEEDER = """
[peer.feeder]
address = "192.0.2.9"
asn = 65001
passive = true
import = ["all"]
hold_time = 90
graceful_restart = 0
"""


def text(**options: str) -> str:
    """Return the configuration of the demo with BFD between the nodes."""
    usual = {"hold_time": HOLD_TIME, "restart_deferral": PATIENT, "bfd": QUICK}
    return text_of("config/demo.toml", **(usual | options))


def await_paths(cluster: Cluster, *sessions: tuple[str, str]) -> None:
    """Wait until BFD sees these paths from both ends."""
    for one, other in sessions:
        for node, peer in ((one, other), (other, one)):
            cluster.until(node, partial(is_path_up, cluster, node, peer), f"BFD with {peer}")


def is_path_up(cluster: Cluster, node: str, peer: str) -> bool:
    """Tell whether BFD sees a path."""
    return cluster.peer(node, peer)["bfd"] == "up"


def flaps(cluster: Cluster, *nodes: str) -> list[str]:
    """Return what BFD of these nodes' daemons has told of as down."""
    return [f"{node}: {line}" for node in nodes for line in cluster.log(node).splitlines() if "bfd.down" in line]


# ── a silent neighbour ───────────────────────────────────────────────────────


def test_traffic_leaves_a_silent_neighbour_in_less_than_400_ms() -> None:
    """Its packets are dropped both ways at the switch and every link stays up: another node is taken at once.

    The 400 ms are asked for by `make soak`; the hold time is a minute and a half.
    """
    gaps = sorted(gaps_when_silent(text(), TRIES, has_bfd=True))
    print(f"{TRIES} tries, gaps in ms: {[round(1000 * gap) for gap in gaps]}, median {statistics.median(gaps):.3f}")  # noqa: T201
    assert gaps[-1] < MOST_S
    # Not each of them: who had no turn just before that is found silent so much sooner.
    assert statistics.median(gaps) > 0.1, "something was cut"


def test_without_bfd_traffic_leaves_a_silent_neighbour_within_the_hold_time() -> None:
    """Both sides keep its paths (RFC 8538 over an expired hold timer), and these lose to the other node's."""
    gaps = gaps_when_silent(text(hold_time="3", bfd="false"), HOLD_TRIES, has_bfd=False)
    print(f"{HOLD_TRIES} tries, gaps in s: {[round(gap, 2) for gap in gaps]}")  # noqa: T201
    assert max(gaps) < (3.0 + MOST_S if IS_LONG else MOST_S)


def gaps_when_silent(plain: str, tries: int, *, has_bfd: bool) -> list[float]:
    """Return how long n1 had no answer of an address that n2 and n3 have, each time that n2 fell silent; in seconds."""
    plain += "[kernel]\necmp = 1\n"
    with laid_out("mesh3") as cluster:
        lab = cluster.lab
        for node in ("n2", "n3"):
            lab.exec(node, ["ip", "address", "add", f"{ANYCAST}/32", "dev", "lo"])
            lab.start(node, [sys.executable, "-ISE", str(HERE / "source.py"), "serve", ANYCAST, PORT, node])
        texts = {node: announcing(plain, node, f"{ANYCAST}/32") for node in ("n2", "n3")}
        cluster.bring_up("mesh3", {"n1": plain} | texts)
        if has_bfd:
            await_paths(cluster, *SESSIONS["mesh3"])
        await_way(cluster, "192.0.2.2")
        prober = lab.start("n1", [sys.executable, "-ISE", str(HERE / "prober.py"), "watch", ANYCAST, PORT])
        prober.until(lambda: prober.output().count("\n") > 100, "answers")

        cuts = []
        for _ in range(tries):
            before = monotonic()
            silence(lab, "n2")
            await_way(cluster, "192.0.2.3")
            cuts.append((before, monotonic()))
            hear_again(lab, "n2")
            if has_bfd:
                await_paths(cluster, ("n1", "n2"))
            await_way(cluster, "192.0.2.2")
            count = prober.output().count("\n")
            prober.until(lambda count=count: prober.output().count("\n") > count + 100, "answers")  # type: ignore[misc]
        prober.stop(SIGTERM)
        assert ("hold timer expired" in cluster.log("n1")) is not has_bfd
        return [gap_at(prober, *cut) for cut in cuts]


def await_way(cluster: Cluster, next_hop: str) -> None:
    """Wait until the kernel of n1 sends the anycast address there."""

    def leads_there() -> bool:
        return f"via {next_hop} " in cluster.lab.exec("n1", ["ip", "route", "get", ANYCAST]).stdout

    cluster.until("n1", leads_there, f"{ANYCAST} by {next_hop}")


def gap_at(prober: Process, begun: float, over: float) -> float:
    """Return the longest time without an answer of those that something was cut in, between these two seconds."""
    answered = [float(line) for line in prober.output().splitlines() if line[:1].isdigit()]
    return max(later - earlier for earlier, later in pairwise(answered) if later > begun and earlier < over)


# ── daemons that go and come back ────────────────────────────────────────────


@pytest.mark.parametrize("number", [SIGKILL, SIGTERM], ids=["kill", "term"])
@pytest.mark.parametrize("node", ["n1", "n3"])
def test_a_daemon_goes_and_bfd_stays(number: Signals, node: str) -> None:
    """No path goes down, no packet is lost, no route is written; the next daemon finds the process that has run on."""
    with laid_out("mesh3", is_patient=True) as cluster:
        cluster.bring_up("mesh3", dict.fromkeys(NODES, text()))
        cluster.attach_workloads()
        await_paths(cluster, *SESSIONS["mesh3"])
        watches = {each: Watch(cluster.lab, each) for each in NODES}
        traffic = Traffic(cluster.lab, tuple(combinations(cluster.workloads, 2)))
        others = [each for each in NODES if each != node]
        cluster.stop(number, node)
        for other in others:
            cluster.until(other, partial(cluster.has_peer, other, node, is_up=False), f"{node} gone")
        traffic.await_rounds(4)
        for other in others:
            assert is_path_up(cluster, other, node), cluster.log(other)
        cluster.start(node)
        cluster.await_sync(*NODES)
        cluster.await_sessions(SESSIONS["mesh3"])
        await_paths(cluster, *SESSIONS["mesh3"])
        cluster.await_no_stale(*NODES)
        traffic.await_rounds()
        assert traffic.stop() == []
        assert {each: [] for each in NODES} == {each: watch.end() for each, watch in watches.items()}
        assert flaps(cluster, *NODES) == []
        assert "bfd.agent-found" in cluster.log(node)


def test_a_node_that_dies_while_its_daemon_is_away_is_not_waited_for() -> None:
    """Stale paths would be kept for the whole restart time; BFD of both sides tells that the node itself is gone."""
    with laid_out("mesh3") as cluster:
        cluster.bring_up("mesh3", dict.fromkeys(NODES, text()))
        await_paths(cluster, *SESSIONS["mesh3"])
        cluster.stop(SIGKILL, "n2")
        for node in ("n1", "n3"):
            cluster.until(node, partial(cluster.has_peer, node, "n2", is_up=False), "n2 gone")
            assert blocks(*NODES) <= cluster.prefixes(node), "its routes are kept"
        silence(cluster.lab, "n2")
        for node in ("n1", "n3"):
            cluster.await_prefixes(node, blocks("n1", "n3"))  # waits half as long as they would be kept


def test_a_daemon_that_does_not_come_back_takes_bfd_along() -> None:
    """Peers keep its routes for the time that it asked for, BFD goes on as long, and is no failure when it ends."""
    with laid_out("mesh3") as cluster:
        cluster.bring_up("mesh3", dict.fromkeys(NODES, text(graceful_restart="12")))
        await_paths(cluster, *SESSIONS["mesh3"])
        cluster.stop(SIGKILL, "n3")
        cluster.until("n1", partial(cluster.has_peer, "n1", "n3", is_up=False), "n3 gone")
        assert blocks(*NODES) <= cluster.prefixes("n1")
        cluster.await_prefixes("n1", blocks("n1", "n2"))
        cluster.until("n1", lambda: not is_path_up(cluster, "n1", "n3"), "BFD to end")
        assert 'bfd.down peer=n3 reason="neighbour signalled session down"' in cluster.log("n1")
        until(lambda: is_gone(cluster.lab, "n3"), "its end")


def is_gone(lab: Lab, node: str) -> bool:
    """Tell whether nothing is left of a node's process of BFD."""
    found = lab.exec(node, ["sh", "-c", "ls /run/bgpmesh; ss -Huan"]).stdout
    return ".bfd" not in found and ":3784" not in found


def test_uninstall_ends_bfd_and_no_neighbour_takes_that_for_a_failure() -> None:
    """The process ends, its socket goes, and the others' sessions end by the stop and not by BFD."""
    with laid_out("mesh3") as cluster:
        cluster.bring_up("mesh3", dict.fromkeys(NODES, text()))
        await_paths(cluster, *SESSIONS["mesh3"])
        cluster.stop(SIGTERM, "n3")
        command = ["bgpmesh", "uninstall", "--config", "/run/bgpmesh/cluster.toml"]
        done = cluster.lab.exec("n3", command, check=False)  # directories of a lab are mount points, and stay
        assert "the process of BFD" in done.stdout + done.stderr
        until(partial(is_gone, cluster.lab, "n3"), "its end")
        cluster.until("n1", lambda: not is_path_up(cluster, "n1", "n3"), "BFD to end")
        assert "BFD" not in cluster.last_error("n1", "n3")
        assert "WARNING bfd.down" not in cluster.log("n1")


def test_bfd_is_switched_on_and_off_by_a_reload_and_no_session_notices() -> None:
    """On where one side has it, on both, with other intervals, and off again: BGP stays up, the process ends."""
    with laid_out("mesh3") as cluster:
        plain = text_of("config/demo.toml", hold_time=HOLD_TIME)
        cluster.bring_up("mesh3", dict.fromkeys(NODES, plain))
        lives = [cluster.peer("n1", peer)["transitions"] for peer in ("n2", "n3")]
        cluster.reload("n1", text())
        assert cluster.peer("n1", "n2")["bfd"] == "down"
        cluster.reload("n2", text(bfd="{ interval_ms = 200, multiplier = 5 }"))
        await_paths(cluster, ("n1", "n2"))
        cluster.reload("n1", text(bfd="true"))
        cluster.until("n2", lambda: detection(cluster, "n2", "n1") == 900, "three packets of 300 ms")
        cluster.until("n1", lambda: detection(cluster, "n1", "n2") == 1500, "five packets of 300 ms")
        for node in ("n1", "n2"):
            cluster.reload(node, plain)
            assert cluster.peer(node, "n3")["bfd"] is None
        for node in ("n1", "n2"):
            until(partial(is_gone, cluster.lab, node), "its end")
        assert lives == [cluster.peer("n1", peer)["transitions"] for peer in ("n2", "n3")]


def detection(cluster: Cluster, node: str, peer: str) -> object:
    """Return the detection time in milliseconds."""
    session = cluster.peer(node, peer)["bfd_session"]
    return session["detection_ms"] if isinstance(session, dict) else None


# ── packet policy ────────────────────────────────────────────────────────────


def test_a_host_that_lets_nobody_in_still_hears_bfd() -> None:
    """It is on the list of what no policy closes, as BGP is; all else is closed, and comes back with the policy."""
    with laid_out("mesh3") as cluster:
        cluster.bring_up("mesh3", dict.fromkeys(NODES, text()))
        await_paths(cluster, *SESSIONS["mesh3"])
        lab = cluster.lab
        serve(lab, "n1", "192.0.2.1", PORT)
        assert reply(lab, "n2", "192.0.2.1", PORT)
        endpoint = {"expectedIPs": ["192.0.2.1", "2001:db8::1"], "node": "n1", "profiles": ["nobody"]}
        head = {"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": "edge"}}
        lab.write("n1", "/run/bgpmesh/edge.json", json.dumps(head | {"spec": endpoint}))
        lab.exec("n1", ["bgpmesh", "apply", "-f", "/run/bgpmesh/edge.json"])
        assert not reply(lab, "n2", "192.0.2.1", PORT, tries=4)  # seconds, many times what BFD needs
        await_paths(cluster, *SESSIONS["mesh3"])
        assert flaps(cluster, *NODES) == []
        lab.exec("n1", ["bgpmesh", "delete", "hostendpoint", "edge"])
        assert reply(lab, "n2", "192.0.2.1", PORT)


# ── a busy machine ───────────────────────────────────────────────────────────


def test_no_path_flaps_while_everything_churns() -> None:
    """A full table comes and goes, both daemons pass it on and write it, and somebody keeps both cores busy."""
    with laid_out("mesh3") as cluster:
        cluster.configure("n1", text(max_prefixes=str(2 * ROUTES)) + FEEDER)
        cluster.configure("n2", text(max_prefixes=str(2 * ROUTES)))
        cluster.start("n1", "n2")
        cluster.await_sync("n1", "n2")
        cluster.await_sessions([("n1", "n2")])
        await_paths(cluster, ("n1", "n2"))
        busy = [
            cluster.lab.start("n3", [sys.executable, "-ISc", "while True: pass"]) for _ in range(os.cpu_count() or 1)
        ]
        feeder = feed(cluster.lab)
        seen, began = 0, monotonic()
        most_s = CHURN_S + 2 * PATIENCE_S
        while (lasted_s := monotonic() - began) < CHURN_S or (seen <= ROUTES / 2 and lasted_s < most_s):
            assert feeder.is_running, feeder.output()
            sleep(0.5)
            seen = max(seen, cast("int", cluster.peer("n2", "n1")["received"]))
        for process in (*busy, feeder):
            process.kill()
        assert flaps(cluster, "n1", "n2") == []
        await_paths(cluster, ("n1", "n2"))
        assert seen > ROUTES / 2, "it was passed on"
        for node in ("n1", "n2"):
            assert "peer.down peer=n2" not in cluster.log(node)
            assert "peer.down peer=n1" not in cluster.log(node)


def feed(lab: Lab) -> Process:
    """Have a speaker on n3 send n1 a full table, and take all of it back and send it again without end."""
    words = ["--connect", "192.0.2.1", "--bind", "192.0.2.9", "--asn", "65001", "--peer-asn", "64512"]
    words += ["--routes", str(ROUTES), "--sets", "1000", "--steps", "announce,churn", "--changes", str(1000 * ROUTES)]
    lab.exec("n3", ["ip", "address", "add", "192.0.2.9/24", "dev", "eth1"])
    script = str(HERE.parent / "bench/feeder.py")
    return lab.start("n3", [sys.executable, "-ISE", script, *words, "--timeout", str(CHURN_S + 4 * PATIENCE_S)])
