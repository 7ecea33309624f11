"""A daemon goes and comes back, and no packet notices: RFC 4724 end to end, on real kernels."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import combinations
from signal import SIGKILL, SIGTERM, Signals

import pytest

from containerlab.lab import Process
from tests.lab.cluster import (
    NODES,
    PATIENT,
    SESSIONS,
    STATE,
    Cluster,
    Traffic,
    Watch,
    announcing,
    blocks,
    laid_out,
    text_of,
    without_node,
)

ADDRESSES = {"n2": ("192.0.2.2", "2001:db8::2"), "n3": ("192.0.2.3", "2001:db8::3")}


# ── nothing lost, nothing written ────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Restart:
    """One way for daemons to go and come back."""

    victims: tuple[str, ...]
    number: Signals
    topology: str = "mesh3"
    frozen: str = ""  # with this one frozen a first start comes nowhere near being in sync, and is ended as well
    is_state_lost: bool = False


RESTARTS = {
    "kill-lowest": Restart(("n1",), SIGKILL),
    "kill-highest": Restart(("n3",), SIGKILL),
    "term-lowest": Restart(("n1",), SIGTERM),
    "term-highest": Restart(("n3",), SIGTERM),
    "kill-lowest-twice": Restart(("n1",), SIGKILL, frozen="n2"),
    "kill-highest-twice": Restart(("n3",), SIGKILL, frozen="n1"),
    "term-highest-twice": Restart(("n3",), SIGTERM, frozen="n1"),
    "kill-two-at-once": Restart(("n1", "n3"), SIGKILL),
    "kill-and-lose-the-state": Restart(("n1",), SIGKILL, is_state_lost=True),
    "kill-reflector": Restart(("rr1",), SIGKILL, "reflector"),
    "term-reflector": Restart(("rr1",), SIGTERM, "reflector"),
    "kill-reflector-twice": Restart(("rr1",), SIGKILL, "reflector", frozen="c4"),
    "kill-reflector-and-client": Restart(("rr1", "c3"), SIGKILL, "reflector"),
}


# Some in `make test`, all in `make soak`.
CHOSEN = list(RESTARTS) if os.environ.get("BGPMESH_SOAK") else list(RESTARTS)[::2]


@pytest.mark.parametrize("restart", [RESTARTS[name] for name in CHOSEN], ids=CHOSEN)
def test_restart_loses_no_packet_and_writes_no_route(restart: Restart) -> None:
    """Daemons that go and come back lose no packet, write no route on any node, and leave nothing stale."""
    victims = restart.victims
    with laid_out(restart.topology, is_patient=True) as cluster:
        cluster.bring_up(restart.topology)
        cluster.attach_workloads()
        nodes = tuple(cluster.daemons)
        before = {node: cluster.kernel(node) for node in nodes}
        listed = {node: cluster.listed_workloads(node) for node in nodes}
        watches = {node: Watch(cluster.lab, node) for node in nodes}
        traffic = Traffic(cluster.lab, tuple(combinations(cluster.workloads, 2)))

        end(cluster, restart)
        if restart.frozen:
            with cluster.frozen(restart.frozen):
                cluster.start(*victims)
                for node in victims:
                    cluster.until_logged(node, "restart.began")
                    cluster.until_logged(node, "peer.up")
                cluster.stop(restart.number, *victims)
            for node in victims:
                assert "restart.in-sync" not in cluster.log(node), f"{node} was ended before that"
        if restart.is_state_lost:
            for node in victims:
                cluster.lab.exec(node, ["find", STATE, "-mindepth", "1", "-delete"])
        traffic.await_rounds()
        assert before == {node: cluster.kernel(node) for node in nodes}, f"while {victims} are away"

        cluster.start(*victims)
        cluster.await_sync(*nodes)
        cluster.await_sessions(SESSIONS[restart.topology])
        cluster.await_no_stale(*nodes)
        traffic.await_rounds()

        assert traffic.stop() == []
        assert {node: [] for node in nodes} == {node: watch.end() for node, watch in watches.items()}
        assert before == {node: cluster.kernel(node) for node in nodes}
        assert listed == {node: cluster.listed_workloads(node) for node in nodes}
        for node in victims:
            assert "restart.in-sync" in cluster.log(node), f"{node} restarted"
            assert "restart.gave-up-waiting" not in cluster.log(node), f"{node} heard all of its peers"


def end(cluster: Cluster, restart: Restart) -> None:
    """End the victims and wait until every peer of theirs has noticed; SIGTERM tells it no more than a crash does."""
    cluster.stop(restart.number, *restart.victims)
    for one, other in SESSIONS[restart.topology]:
        for node, peer in ((one, other), (other, one)):
            if peer in restart.victims and node not in restart.victims:
                cluster.until(node, partial(cluster.has_peer, node, peer, is_up=False), f"{peer} gone")
                # TCP may well be reset: who is killed with something unread does that.
                assert "Cease" not in cluster.last_error(node, peer)


def test_nodes_restarted_one_after_the_other_lose_nothing() -> None:
    """Crash, orderly stop, two crashes in a row, an upgrade with another configuration, a reload that resets sessions.

    No packet is lost and no route that stays is touched. What is stale on the others is swept once for each family.
    """
    more = "198.51.100.0/25"
    with laid_out("mesh3", is_patient=True) as cluster:
        texts = cluster.bring_up("mesh3")
        cluster.attach_workloads()
        before = {node: cluster.kernel(node) for node in NODES}
        watches = {node: Watch(cluster.lab, node) for node in NODES}
        traffic = Traffic(cluster.lab, tuple(combinations(cluster.workloads, 2)))

        restart(cluster, "n1", SIGKILL)
        restart(cluster, "n2", SIGTERM)
        restart(cluster, "n1", SIGKILL, times=2)
        upgraded = announcing(texts["n3"].replace(f"hold_time = {PATIENT}", "hold_time = 60"), "n3", more)
        assert upgraded.count("hold_time = 60") == 1
        cluster.configure("n3", upgraded)
        restart(cluster, "n3", SIGTERM)
        for node in ("n1", "n2"):
            cluster.await_prefixes(node, cluster.prefixes(node) | {more})
        cluster.reload("n1", texts["n1"].replace(f"hold_time = {PATIENT}", "hold_time = 60"))
        for peer in ("n2", "n3"):
            cluster.until_logged(
                "n1", f'peer.down peer={peer} reason="closed by us: Cease, other configuration change"'
            )
        cluster.await_sessions(SESSIONS["mesh3"])
        cluster.await_no_stale(*NODES)
        traffic.await_rounds()

        assert traffic.stop() == []
        for node, watch in watches.items():
            assert [line for line in watch.end() if not line.startswith(f"{more} ")] == [], node
        assert before == {node: without_routes(cluster.kernel(node), more) for node in NODES}


def restart(cluster: Cluster, victim: str, number: Signals, *, times: int = 1) -> None:
    """End a node's daemon and start it again, `times` in a row; the others sweep once for each family."""
    others = [node for node in NODES if node != victim]
    for left in reversed(range(times)):
        cluster.stop(number, victim)
        for node in others:
            cluster.until(node, partial(cluster.has_peer, node, victim, is_up=False), f"{victim} gone")
        swept = {node: sweeps(cluster, node, victim) for node in others}
        cluster.start(victim)
        if left:
            cluster.until_logged(victim, "restart.began")
            continue
        cluster.await_sync(*NODES)
        cluster.await_sessions(SESSIONS["mesh3"])
        cluster.await_no_stale(*NODES)
        assert "restart.gave-up-waiting" not in cluster.log(victim)
        for node in others:
            new = sweeps(cluster, node, victim)[len(swept[node]) :]
            # The first of two lives may have said all it had, and died of the second signal only then.
            assert times > 1 or sorted(new) == ["ipv4", "ipv6"], f"what {node} has swept of {victim}"


def sweeps(cluster: Cluster, node: str, peer: str) -> list[str]:
    """Return the families of which a node's present daemon has swept what was stale of a peer."""
    return re.findall(rf"peer\.stale-swept peer={peer} family=(\S+)", cluster.log(node))


def without_routes(listed: str, prefix: str) -> str:
    """Return what a kernel has listed, without the routes to one prefix."""
    return "".join(line for line in listed.splitlines(keepends=True) if not line.startswith(f"{prefix} "))


@pytest.mark.parametrize("way", ["frozen", "away for long"])
def test_a_daemon_is_not_heard_of_for_longer_than_it_said(way: str) -> None:
    """Its kernel forwards on and its peers' do: over hold timers (RFC 8538), and over the restart time (RFC 9494)."""
    options = {"hold_time": "3"} if way == "frozen" else {"graceful_restart": "2", "long_lived_graceful_restart": "600"}
    with laid_out("mesh3", is_patient=True) as cluster:
        text = text_of("config/demo.toml", **({"hold_time": PATIENT, "restart_deferral": PATIENT} | options))
        cluster.bring_up("mesh3", dict.fromkeys(NODES, text))
        cluster.attach_workloads()
        watches = {node: Watch(cluster.lab, node) for node in NODES}
        traffic = Traffic(cluster.lab, tuple(combinations(cluster.workloads, 2)))

        if way == "frozen":
            with cluster.frozen("n3"):
                for node in ("n1", "n2"):
                    cluster.until_logged(node, 'peer.down peer=n3 reason="hold timer expired after 3 s" kept=ipv4,ipv6')
                traffic.await_rounds()
        else:
            cluster.stop(SIGKILL, "n3")
            for node in ("n1", "n2"):
                cluster.until_logged(node, "peer.long-lived peer=n3 family=ipv4,ipv6")
            traffic.await_rounds()
            cluster.start("n3")
        cluster.await_sync(*NODES)
        cluster.await_sessions(SESSIONS["mesh3"])
        cluster.await_no_stale(*NODES)
        traffic.await_rounds()

        assert traffic.stop() == []
        assert {node: [] for node in NODES} == {node: watch.end() for node, watch in watches.items()}


# ── what is swept, and when ──────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["refuses", "ignores"])
def test_dead_neighbour_does_not_block_a_restart(way: str) -> None:
    """A listed peer that refuses or ignores calls is soon waited for no longer; what was adopted of it goes then."""
    with laid_out("mesh3") as cluster:
        cluster.bring_up("mesh3")
        times = times_of_routes(cluster, "n1")
        watch = Watch(cluster.lab, "n1")
        cluster.stop(SIGKILL, "n1", "n2")
        if way == "ignores":
            cluster.lab.outside(["ip", "link", "set", "n2", "down"])  # its port of the switch

        before = datetime.now(UTC).astimezone()
        cluster.start("n1")
        cluster.await_sync("n1")
        cluster.await_prefixes("n1", blocks("n1", "n3"))
        log = cluster.log("n1")
        assert log.index("restart.began") < log.index("peer.up peer=n3") < log.index("restart.in-sync")
        times.until(lambda: gone_at(times, blocks("n2")), "routes to go")
        waited = re.search(r"restart\.in-sync waited_s=(\S+)", log)
        assert waited is not None
        # The log may come to the line behind the kernel; but it waited so long, and not before it was started.
        in_sync_at = (before + timedelta(seconds=float(waited[1]))).strftime("%Y-%m-%d %H:%M:%S.%f")[:23]
        assert in_sync_at <= min(gone_at(times, blocks("n2"))), "nothing goes before it is in sync"
        cluster.await_no_next_hop("n1", *ADDRESSES["n2"])
        assert "restart.gave-up-waiting" not in cluster.log("n1"), "the limit was not needed"
        assert but_for_deleted(watch.end(), blocks("n2"), ADDRESSES["n2"]) == []


def times_of_routes(cluster: Cluster, node: str) -> Process:
    """Start an account of a node's routes with the time of each change, and wait until nothing is missed."""
    started = cluster.lab.start(node, ["ip", "-ts", "-N", "monitor", "route"])

    def hears() -> bool:
        for word in ("add", "del"):
            cluster.lab.exec(node, ["ip", "route", word, "blackhole", "203.0.113.9/32", "proto", "99"])
        return "203.0.113.9" in started.output()

    started.until(hears, f"{node}: a route monitor")
    return started


def gone_at(times: Process, prefixes: set[str]) -> list[str]:
    """Return when routes to these went, as the daemon's log writes it."""
    lines = [line.partition("] Deleted ") for line in times.output().splitlines()]
    return [at[1:24].replace("T", " ") for at, _, what in lines if what.split(" ")[0] in prefixes]


def test_peer_taken_out_of_the_configuration_while_away_is_swept() -> None:
    """What a restarted node adopted of a peer that it has no longer goes; nothing else is touched."""
    with laid_out("mesh3") as cluster:
        texts = cluster.bring_up("mesh3")
        watch = Watch(cluster.lab, "n1")
        cluster.stop(SIGKILL, "n1")
        cluster.configure("n1", without_node(texts["n1"], "n3"))

        cluster.start("n1")
        cluster.await_sync("n1")
        cluster.await_sessions([("n1", "n2")])
        cluster.await_prefixes("n1", blocks("n1", "n2"))
        cluster.await_no_next_hop("n1", *ADDRESSES["n3"])
        assert but_for_deleted(watch.end(), blocks("n3"), ADDRESSES["n3"]) == []


def test_what_ended_while_a_node_was_away_is_swept_on_both_sides() -> None:
    """A restarted node drops what its peers announce no longer, and they drop what it announces no longer."""
    theirs, its = ("198.51.100.0/25", "2001:db8:51::/48"), ("198.51.100.128/25", "2001:db8:52::/48")
    with laid_out("mesh3") as cluster:
        plain = text_of("config/demo.toml", hold_time=PATIENT)
        cluster.bring_up("mesh3", {"n2": announcing(plain, "n2", *theirs), "n3": announcing(plain, "n3", *its)})
        cluster.await_prefixes("n1", blocks(*NODES) | {*theirs, *its})
        cluster.await_prefixes("n2", blocks(*NODES) | {*its})
        cluster.await_prefixes("n3", blocks(*NODES) | {*theirs})
        watches = {node: Watch(cluster.lab, node) for node in NODES}

        cluster.stop(SIGKILL, "n3")
        cluster.reload("n2", plain)
        cluster.await_prefixes("n1", blocks(*NODES) | {*its})
        assert blocks(*NODES) | {*theirs} == cluster.prefixes("n3"), "nobody is there to take them away"
        cluster.configure("n3", plain)
        cluster.start("n3")
        cluster.await_sync("n3")
        for node in NODES:
            cluster.await_prefixes(node, blocks(*NODES))

        gone = {"n1": {*theirs, *its}, "n2": {*its}, "n3": {*theirs}}
        for node in NODES:
            assert but_for_deleted(watches[node].end(), gone[node]) == [], node


def test_first_boot_waits_for_nobody() -> None:
    """A node that holds no routes is in sync as soon as it runs, whoever is away and whatever it remembers."""
    with laid_out("mesh3") as cluster:
        cluster.configure("n1", text_of("config/demo.toml"))
        cluster.start("n1")
        cluster.await_sync("n1")
        cluster.await_prefixes("n1", blocks("n1"))
        assert "restart.began" not in cluster.log("n1")

    with laid_out("mesh3") as cluster:
        cluster.bring_up("mesh3")
        cluster.stop(SIGKILL, *NODES)
        for family in ("-4", "-6"):  # as a reboot does, which leaves the state directory alone
            cluster.lab.exec("n1", ["ip", family, "route", "flush", "proto", "77"])
        cluster.start("n1")
        cluster.await_sync("n1")
        cluster.await_prefixes("n1", blocks("n1"))
        assert "restart.began" not in cluster.log("n1")


def but_for_deleted(told: Sequence[str], prefixes: set[str], next_hops: Sequence[str] = ()) -> list[str]:
    """Return what a watch has told but for the end of these routes and of nexthop objects by these addresses."""
    routes = tuple(f"Deleted {prefix} " for prefix in prefixes)
    return [
        line
        for line in told
        if not line.startswith(routes)
        and not (line.startswith("Deleted id ") and any(f" via {address} " in line for address in next_hops))
    ]
