"""The topologies of containerlab/ that are more than one segment or one reflector, as their README.md describe them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import combinations, product
from signal import SIGKILL
from typing import cast

import pytest

from containerlab.lab import REPOSITORY, until
from tests.interop.speakers import Bird, Frr, GoBgp, why_not
from tests.lab.cluster import Cluster, Traffic, Watch, Workload, blocks, laid_out, next_hops_of, text_of

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


# ── leafspine ────────────────────────────────────────────────────────────────

FABRIC = ("spine1", "spine2", "leaf1", "leaf2", "n1", "n2")
LINKS = (
    *product(("spine1", "spine2"), ("leaf1", "leaf2")),
    *product(("leaf1", "leaf2"), ("n1", "n2")),
)
# Where what a silent leaf1 sends is dropped: at the other ends of its links, and at its own what comes.
AROUND_LEAF1 = {"leaf1": "eth+", "spine1": "eth1", "spine2": "eth1", "n1": "eth1", "n2": "eth1"}


def test_traffic_takes_both_leaves_and_the_one_that_is_left() -> None:
    """Both are next hops of one route; a leaf that is silent while its links are up is out of it; nothing leaks."""
    with laid_out("leafspine") as cluster:
        start(cluster, *FABRIC)
        cluster.await_sessions(LINKS)
        for node, peer in (*LINKS, *((peer, node) for node, peer in LINKS)):
            up = partial(cluster.has_peer, node, f"{peer}-v6", is_up=True)
            cluster.until(node, up, f"the session with {peer} over IPv6")
        both = of_both_families(
            {
                ("n1", "10.244.2.0/26"): ("16", "20"),
                ("n2", "10.244.1.0/26"): ("18", "22"),
                ("n1", "203.0.113.1"): ("16", "20"),
                ("spine1", "10.244.1.0/26"): ("1", "5"),
            }
        )
        await_next_hops(cluster, both)
        await_bfd(cluster, is_up=True)
        for node in ("n1", "n2"):
            cluster.attach(node)
        own, other = cluster.workloads
        answering = (*other.addresses, "203.0.113.1", "2001:db8:113::1")
        await_answers(cluster, own, answering)

        # A node that passed on what one leaf said would be heard by the other, and through that by the spines.
        ends = product(("leaf1", "leaf2"), ("n1", "n2", "n1-v6", "n2-v6"))
        assert [cluster.peer(leaf, node)["received"] for leaf, node in ends] == [1] * 8
        for pods in ("10.244.2.0/26", "fd00:10:244:2::/112"):
            ways = {path["as_path"] for path in paths_of(cluster, "spine1", pods)}
            assert ways == {"65011 64522", "65012 64522"}
        for address in ("203.0.113.2/32", "2001:db8:113::2/128"):
            heard = {str(path["peer"]) for path in paths_of(cluster, "leaf1", address)}
            assert {peer.removesuffix("-v6") for peer in heard} <= {"spine1", "spine2"}

        for node, interface in AROUND_LEAF1.items():
            drop(cluster, node, interface, "-I")
        await_bfd(cluster, is_up=False)
        await_next_hops(
            cluster,
            of_both_families(
                {
                    ("n1", "10.244.2.0/26"): ("20",),
                    ("n2", "10.244.1.0/26"): ("22",),
                    ("n1", "203.0.113.1"): ("20",),
                    ("spine1", "10.244.1.0/26"): ("5",),
                }
            ),
        )
        await_answers(cluster, own, answering)
        assert "LOWER_UP" in cluster.lab.exec("n1", ["ip", "link", "show", "eth1"]).stdout

        for node, interface in AROUND_LEAF1.items():
            drop(cluster, node, interface, "-D")
        await_next_hops(cluster, both)
        await_answers(cluster, own, answering)


def of_both_families(expected: dict[tuple[str, str], tuple[str, ...]]) -> dict[tuple[str, str], set[str]]:
    """Return by which links these nodes' routes to these prefixes of IPv4 lead, and the same ones of IPv6."""
    six = {
        "10.244.1.0/26": "fd00:10:244:1::/112",
        "10.244.2.0/26": "fd00:10:244:2::/112",
        "203.0.113.1": "2001:db8:113::1",
    }
    hops = {(node, prefix): {f"192.0.2.{link}" for link in links} for (node, prefix), links in expected.items()}
    return hops | {
        (node, six[prefix]): {f"2001:db8::{link}" for link in links} for (node, prefix), links in expected.items()
    }


def drop(cluster: Cluster, node: str, interface: str, what: str) -> None:
    """Have a node drop all that comes in by an interface before anybody sees it (what: -I), or end that (-D)."""
    for program in ("iptables", "ip6tables"):
        cluster.lab.exec(node, [program, "-w", "-t", "raw", what, "PREROUTING", "-i", interface, "-j", "DROP"])


def await_bfd(cluster: Cluster, *, is_up: bool) -> None:
    """Wait until BFD of both nodes sees leaf1 so, over both families."""
    for node, peer in product(("n1", "n2"), ("leaf1", "leaf1-v6")):
        cluster.until(node, partial(sees, cluster, node, peer, is_up=is_up), f"BFD with {peer}")


def sees(cluster: Cluster, node: str, peer: str, *, is_up: bool) -> bool:
    """Tell whether BFD of a node sees a peer so."""
    return (cluster.peer(node, peer)["bfd"] == "up") is is_up


def await_next_hops(cluster: Cluster, expected: dict[tuple[str, str], set[str]]) -> None:
    """Wait until these nodes' routes to these prefixes have these next hops in the kernel."""
    for (node, prefix), hops in expected.items():

        def has_them(node: str = node, prefix: str = prefix, hops: set[str] = hops) -> bool:
            return next_hops_of(cluster.lab, node, prefix) == hops

        cluster.until(node, has_them, f"{prefix} by {sorted(hops)}")


def await_answers(cluster: Cluster, source: Workload, addresses: Sequence[str]) -> None:
    """Wait until ten pings in a row to each of these are answered."""
    for address in addresses:
        pings = ["ping", "-q", "-n", "-c", "10", "-i", "0.02", "-W", "1", address]

        def is_answered(pings: list[str] = pings) -> bool:
            return "10 received" in cluster.lab.exec(source.node, pings, inside=source.name, check=False).stdout

        cluster.until(source.node, is_answered, f"answers of {address}")


# ── mixed ────────────────────────────────────────────────────────────────────

SPEAKERS: dict[str, type[Frr | Bird | GoBgp]] = {"frr": Frr, "bird": Bird, "gobgp": GoBgp}
ALL_PREFIXES = blocks("n1", "n2", "n3", "n4")
NO_SPEAKERS = "; ".join(reason for speaker in SPEAKERS.values() if (reason := why_not(speaker)))
ASKED = {
    "frr": ["vtysh", "-N", "mixed", "-c", "show bgp ipv4 unicast", "-c", "show bgp ipv6 unicast"],
    "bird": ["birdc", "-s", "/run/bird-mixed.ctl", "show", "route"],
    "gobgp": ["sh", "-c", "gobgp global rib -a ipv4; gobgp global rib -a ipv6"],
}
PLACES = (("10.244.", ".1"), ("fd00:10:244:", "::1"))
# The selected and usable path of a prefix, as each of them prints it.
SELECTED = {"frr": r"^ ?\*>i? *(\S+/\d+)", "bird": r"^(\S+/\d+)\s+(?:unicast|blackhole)", "gobgp": r"^\*> +(\S+/\d+)"}


@pytest.mark.skipif(bool(NO_SPEAKERS), reason=NO_SPEAKERS)
def test_a_mesh_of_four_implementations_has_everybodys_prefixes() -> None:
    """As the topology starts them: each has a usable path to what every other one announces; n1 reaches them all."""
    with laid_out("mixed") as cluster:
        start(cluster, "n1")
        for speaker in SPEAKERS:
            cluster.lab.start(speaker)
        for speaker in SPEAKERS:
            cluster.until("n1", partial(cluster.has_peer, "n1", speaker, is_up=True), f"session with {speaker}")
        await_blocks(cluster, ["n1"], ("n1", "n2", "n3", "n4"))
        for speaker in SPEAKERS:
            until(lambda speaker=speaker: selected(cluster, speaker) >= ALL_PREFIXES, f"all prefixes at {speaker}")  # type: ignore[misc]
        for address in (f"{net}{number}{host}" for number in (2, 3, 4) for net, host in PLACES):
            cluster.lab.exec("n1", ["ping", "-c", "1", "-w", "30", address])


def selected(cluster: Cluster, speaker: str) -> set[str]:
    """Return the prefixes that a speaker has a usable path to."""
    said = cluster.lab.exec(speaker, ASKED[speaker], check=False).stdout
    return set(re.findall(SELECTED[speaker], said, re.MULTILINE))
