"""Floating addresses in a cluster: a host outside, behind a router that the nodes talk to by eBGP, calls them.

    n1: shop/web, shop/db     n2: shop/api     n3: shop/cache     tor     client

The lab is containerlab/fabric.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from signal import SIGKILL, SIGTERM
from typing import cast

import pytest

from containerlab.lab import PATIENCE_S, REPOSITORY, Process
from tests.lab.cluster import CONFIG, NODES, Cluster, laid_out, packet_filter, reply, script, serve, set_names

PORT, SOURCE_PORT = "5001", "5005"
CLUSTER, TOR = ((REPOSITORY / f"containerlab/fabric/{name}.toml").read_text("utf-8") for name in ("bgpmesh", "tor"))

OF_FILE = ("203.0.113.10", "2001:db8:f::10")
BY_COMMAND = ("203.0.113.20", "2001:db8:f::20")
CLIENT = ("198.51.100.9", "2001:db8:c::9")
NODE_OF = {"web": "n1", "db": "n1", "api": "n2", "cache": "n3"}
ADDRESSES = {
    "web": ("10.244.1.10", "fd00:10:244:1::10"),
    "db": ("10.244.1.11", "fd00:10:244:1::11"),
    "api": ("10.244.2.10", "fd00:10:244:2::10"),
    "cache": ("10.244.3.10", "fd00:10:244:3::10"),
}
ADDRESS_OF_NODE = {"n1": ("192.0.2.1", "2001:db8::1"), "n2": ("192.0.2.2", "2001:db8::2")}

Row = dict[str, object]


def attach(cluster: Cluster, name: str, node: str, addresses: tuple[str, ...]) -> None:
    """Connect a workload whose namespace is there already."""
    words = [word for address in addresses for word in ("--ip", address)]
    path = f"/run/netns/{name}"
    cluster.lab.exec(node, ["bgpmesh", "workload", "add", name, "-n", "shop", "--netns", path, *words])


def detach(cluster: Cluster, name: str, node: str) -> None:
    """Disconnect a workload."""
    cluster.lab.exec(node, ["bgpmesh", "workload", "del", name, "-n", "shop"])


def answering(cluster: Cluster, name: str, node: str, addresses: tuple[str, ...]) -> list[Process]:
    """Have a workload answer, with its name and with the sources that it sees."""
    caller = cluster.lab.start(node, script("caller", "serve", name, PORT, *addresses), inside=name)
    caller.await_said("listening")
    return [caller, *(serve(cluster.lab, node, each, SOURCE_PORT, name, inside=name) for each in addresses)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Everything up, a server in each workload and one outside."""
    if shutil.which("ipset") is None:
        pytest.skip("needs ipset, to see what is left of sets")
    with laid_out("fabric") as cluster:
        for node in NODES:
            cluster.configure(node, CLUSTER)
        cluster.configure("tor", TOR)
        cluster.start(*NODES, "tor")
        cluster.await_sync(*NODES, "tor")
        cluster.await_sessions([("n1", "n2"), ("n2", "n3"), ("n1", "n3")])
        for node in NODES:
            cluster.until(node, partial(cluster.has_peer, node, "tor", is_up=True), "session with tor")
            cluster.until(node, partial(cluster.has_prefixes, node, {"198.51.100.0/24", "2001:db8:c::/64"}), "outside")
        cluster.lab.exec("tor", ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        for name, node in NODE_OF.items():
            cluster.lab.add_workload_namespace(node, name)
            attach(cluster, name, node, ADDRESSES[name])
            answering(cluster, name, node, ADDRESSES[name])
        for each in CLIENT:
            serve(cluster.lab, "client", each, SOURCE_PORT, "client")
        yield cluster


def asked(cluster: Cluster, of: str, target: str, *, tries: int = 60) -> str:
    """Return who answers a workload or the client, and the source it saw; "" where nobody answers."""
    inside = of if of in NODE_OF else ""
    return reply(cluster.lab, NODE_OF.get(of, of), target, SOURCE_PORT, tries=tries, inside=inside)


def floating(cluster: Cluster, node: str, external: str) -> Row:
    """Return what a node says of a floating address; empty where it does not know it."""
    rows = cast("list[Row]", json.loads(cluster.lab.exec(node, ["bgpmesh", "floating-ip", "list", "--json"]).stdout))
    return next((row for row in rows if row["external"] == external), {})


def reasons(cluster: Cluster, node: str) -> list[str]:
    """Return why a node is not ready."""
    answer = json.loads(cluster.lab.exec(node, ["bgpmesh", "status", "--json"], check=False).stdout)
    return cast("list[str]", answer["reasons"])


def await_way(cluster: Cluster, node: str, external: str, via: str | None) -> None:
    """Wait until a node's kernel sends an address by that gateway (None: has no route of ours to it)."""

    def is_so() -> bool:
        family = "-6" if ":" in external else "-4"
        rows = json.loads(cluster.lab.exec(node, ["ip", "-j", family, "route", "show", external, "proto", "77"]).stdout)
        found = cluster.kernel(node) if rows else ""
        if via is None:
            return not rows
        named = [line for line in found.splitlines() if line.startswith(f"id {rows[0].get('nhid')} ")] if rows else []
        return any(f" via {via} " in line for line in named)

    cluster.until(node, is_so, f"{external} via {via}")


def ours(cluster: Cluster, node: str) -> list[str]:
    """Return what of a node's packet filter is ours, and the names of our sets."""
    return [line for line in packet_filter(cluster.lab, node) + set_names(cluster.lab, node) if "bm" in line]


def poll(cluster: Cluster, address: str) -> Process:
    """Have the client ask an address again and again; returns once it was answered."""
    process = cluster.lab.start("client", script("caller", "poll", address, PORT))
    process.await_said("answered")
    return process


def await_answer(process: Process, name: str) -> None:
    """Wait until somebody is the last who began to answer."""
    process.until(lambda: process.output().rstrip().endswith(f"answered {name}"), f"an answer of {name}")


def ended(process: Process) -> dict[str, dict[str, object]]:
    """Stop the client, and return what it has seen."""
    assert process.stop(SIGTERM) == 0, process.output()
    return cast("dict[str, dict[str, object]]", json.loads(process.output().splitlines()[-1]))


def hold(cluster: Cluster, address: str) -> Process:
    """Have the client hold a TCP connection."""
    process = cluster.lab.start("client", script("caller", "hold", address, PORT))
    process.await_said("connected")
    return process


def await_broken(process: Process) -> str:
    """Wait until the connection is broken, and return why."""
    assert process.entry.wait(PATIENCE_S) == 0
    return process.output().rstrip().rpartition("broken ")[2]


def test_everybody_finds_the_workload_and_it_sees_them_as_they_are(cluster: Cluster) -> None:
    """From outside, other nodes, their workloads and itself; it leaves by its own address, others by their node's."""
    for family in (0, 1):
        external, web = OF_FILE[family], ADDRESSES["web"][family]
        for node in ("n2", "n3", "tor"):
            await_way(cluster, node, external, ADDRESS_OF_NODE["n1"][family])
        seen = {
            way: asked(cluster, *way)
            for way in (
                ("client", external),
                ("api", external),
                ("db", external),
                ("web", external),
                ("web", ADDRESSES["api"][family]),
                ("web", CLIENT[family]),
                ("db", CLIENT[family]),
                ("api", CLIENT[family]),
            )
        }
        assert seen == {
            ("client", external): f"web {CLIENT[family]}",
            ("api", external): f"web {ADDRESSES['api'][family]}",
            ("db", external): f"web {ADDRESSES['db'][family]}",
            ("web", external): f"web {external}",
            ("web", ADDRESSES["api"][family]): f"api {web}",
            ("web", CLIENT[family]): f"client {external}",
            ("db", CLIENT[family]): f"client {ADDRESS_OF_NODE['n1'][family]}",
            ("api", CLIENT[family]): f"client {ADDRESS_OF_NODE['n2'][family]}",
        }
        for node in NODES:  # the host's own packets, by OUTPUT on n1
            assert asked(cluster, node, external).split()[0] == "web"
        assert floating(cluster, "n1", external) == {
            "external": external,
            "workload": "shop/web",
            "outbound": True,
            "from": "configuration",
            "address": web,
            "announced": True,
            "problem": None,
        }
        elsewhere = floating(cluster, "n2", external)
        assert (elsewhere["address"], elsewhere["announced"], elsewhere["problem"]) == (None, False, None)
    assert [reasons(cluster, node) for node in NODES] == [[], [], []]


def explained(cluster: Cluster, of: str, target: str) -> dict[str, object]:
    """Return what the node of a workload, or n1, explains of a datagram."""
    source = f"shop/{of}" if of in NODE_OF else of
    words = ["bgpmesh", "policy", "explain", "--from", source, "--to", target, "--protocol", "udp", "--json"]
    answer = cluster.lab.exec(NODE_OF.get(of, "n1"), words, check=False).stdout
    return cast("dict[str, object]", json.loads(answer))


@pytest.mark.parametrize("family", [0, 1])
def test_the_explanation_says_who_is_reached_and_which_source_they_see(cluster: Cluster, family: int) -> None:
    """As the servers tell it; and of what another node translates that it does."""
    external, web, node = OF_FILE[family], ADDRESSES["web"][family], ADDRESS_OF_NODE["n1"][family]
    for of, target, led, source in (
        (CLIENT[family], external, web, CLIENT[family]),
        ("db", external, web, ADDRESSES["db"][family]),
        ("web", external, web, external),
        ("web", CLIENT[family], CLIENT[family], external),
        ("db", CLIENT[family], CLIENT[family], node),
        ("api", CLIENT[family], CLIENT[family], ADDRESS_OF_NODE["n2"][family]),
    ):
        answer = explained(cluster, of, target)
        steps = cast("list[Row]", answer["steps"])
        to = {step["action"]: step["to"] for step in steps if step["to"] is not None}
        own = ADDRESSES[of][family] if of in NODE_OF else of
        assert (to.get("dnat", target), to.get("snat", to.get("masquerade", own))) == (led, source), steps
        assert answer["unknown"] == []
        caller = "client" if of == CLIENT[family] else of
        assert asked(cluster, caller, target).split()[1] == source
    elsewhere = explained(cluster, "api", external)
    assert elsewhere["unknown"] == [f"{external}: a floating address, translated on the node of its workload"]
    lie = explained(cluster, external, ADDRESSES["db"][family])
    assert [(step["workload"], step["policy"]) for step in cast("list[Row]", lie["steps"])] == [
        ("shop/web", "(spoofed)")
    ]


def tell(text: str) -> None:
    """Put a measurement into the test's output."""
    print(f"\n{text}")  # noqa: T201  what it is for


def command(cluster: Cluster, node: str, *words: str) -> int:
    """Run `bgpmesh floating-ip` and return its exit status."""
    return cluster.lab.exec(node, ["bgpmesh", "floating-ip", *words], check=False).returncode


@pytest.mark.parametrize("family", [0, 1])
def test_it_moves_by_command_within_a_node_and_between_nodes(cluster: Cluster, family: int) -> None:
    """While the client asks; its connections are cut, so that none goes on with who no longer has the address."""
    external = BY_COMMAND[family]
    standing = ours(cluster, "n1")
    assert command(cluster, "n1", "add", external, "shop/web") == 0
    for node in ("n2", "n3", "tor"):
        await_way(cluster, node, external, ADDRESS_OF_NODE["n1"][family])
    cluster.until("n2", lambda: floating(cluster, "n2", external).get("from") == "peer n1", "the address known")
    assert asked(cluster, "api", external) == f"web {ADDRESSES['api'][family]}", "never masqueraded"
    told = json.loads(cluster.lab.exec("tor", ["bgpmesh", "routes", external, "--json"]).stdout)
    assert [path["large_communities"] for path in told[0]["paths"]] == [[]], "no business of the outside"

    asking, held = poll(cluster, external), hold(cluster, external)
    assert command(cluster, "n1", "add", external, "shop/db") == 0
    await_answer(asking, "db")
    moved = ended(asking)
    tell(f"{external} moved on n1: {moved}")
    assert moved["kept"]["names"] == moved["fresh"]["names"] == ["web", "db"]
    assert await_broken(held) == "Connection reset by peer"

    asking, held = poll(cluster, external), hold(cluster, external)
    assert command(cluster, "n2", "add", external, "shop/api") == 0
    assert command(cluster, "n1", "del", external) == 0
    await_answer(asking, "api")
    for node in ("n1", "n3", "tor"):
        await_way(cluster, node, external, ADDRESS_OF_NODE["n2"][family])
    moved = ended(asking)
    tell(f"{external} moved from n1 to n2: {moved}")
    assert moved["kept"]["names"] == ["db", "api"]
    names = cast("list[str]", moved["fresh"]["names"])
    assert (names[0], names[-1], {*names}) == ("db", "api", {"db", "api"}), "while both nodes announce it, either"
    assert await_broken(held) == "Connection reset by peer"
    cluster.until("n1", lambda: ours(cluster, "n1") == standing, "nothing left of it")
    assert asked(cluster, "web", external) == f"api {ADDRESSES['web'][family]}"

    assert command(cluster, "n2", "del", external) == 0
    for node in ("n1", "n3", "tor"):
        await_way(cluster, node, external, None)
    assert asked(cluster, "client", external, tries=2) == ""
    assert floating(cluster, "n2", external) == {}
    assert [reasons(cluster, node) for node in NODES] == [[], [], []]
    statuses = [cluster.status(node) for node in NODES]
    assert [status.drift_repaired for status in statuses if status is not None] == [0, 0, 0]


def test_what_cannot_be_is_refused_by_name(cluster: Cluster) -> None:
    """By the commands' exit status; what is kept for a workload that is not here is named in `status`."""
    external = "203.0.113.30"
    assert command(cluster, "n1", "add", OF_FILE[0], "shop/db") == 2
    assert command(cluster, "n1", "del", OF_FILE[0]) == 2
    assert command(cluster, "n1", "del", external) == 1
    assert command(cluster, "n1", "add", "10.244.9.9", "shop/db") == 2
    assert command(cluster, "n1", "add", "192.0.2.254", "shop/db") == 2
    assert command(cluster, "n1", "add", external, "shop/web", "--outbound") == 2, "the file's address is that already"
    assert command(cluster, "n1", "add", external, "shop/nobody") == 0
    assert floating(cluster, "n1", external)["problem"] == "no workload shop/nobody on this node"
    answer = json.loads(cluster.lab.exec("n1", ["bgpmesh", "status", "--json"]).stdout)
    assert [row["object"] for row in answer["policy"]["errors"]] == [f"floating_ip {external}"]
    assert answer["reasons"] == []
    assert command(cluster, "n1", "del", external) == 0


def test_it_follows_its_workload_to_another_node(cluster: Cluster) -> None:
    """One of the file: removed here and added there, nobody gives a command about the address."""
    asking = poll(cluster, OF_FILE[0])
    detach(cluster, "web", "n1")
    until_gone = partial(await_way, cluster, "tor")
    for external in OF_FILE:
        until_gone(external, None)
    there = ("10.244.3.20", "fd00:10:244:3::20")
    cluster.lab.add_workload_namespace("n3", "web3")
    cluster.lab.exec(
        "n3",
        ["bgpmesh", "workload", "add", "web", "-n", "shop", "--netns", "/run/netns/web3"]
        + [word for each in there for word in ("--ip", each)],
    )
    servers = answering(cluster, "web3", "n3", there)
    await_answer(asking, "web3")
    tell(f"{OF_FILE[0]} followed its workload from n1 to n3: {ended(asking)}")
    for family, external in enumerate(OF_FILE):
        assert asked(cluster, "client", external) == f"web3 {CLIENT[family]}"
        assert asked(cluster, "web", external, tries=1) == "", "it has no link"
    assert [reasons(cluster, node) for node in NODES] == [[], [], []]
    for server in servers:
        server.kill()
    detach(cluster, "web", "n3")
    attach(cluster, "web", "n1", ADDRESSES["web"])
    for family, external in enumerate(OF_FILE):
        await_way(cluster, "tor", external, ADDRESS_OF_NODE["n1"][family])
        assert asked(cluster, "client", external) == f"web {CLIENT[family]}"


def test_a_crash_and_a_restart_lose_nothing(cluster: Cluster) -> None:
    """Neither the address of the file nor that of a command; nothing is written anew."""
    external = BY_COMMAND[0]
    assert command(cluster, "n1", "add", external, "shop/db") == 0
    await_way(cluster, "tor", external, ADDRESS_OF_NODE["n1"][0])
    asking = [poll(cluster, each) for each in (external, OF_FILE[0])]
    standing = ours(cluster, "n1")
    cluster.stop(SIGKILL, "n1")
    cluster.start("n1")
    cluster.await_sync("n1")
    cluster.await_sessions([("n1", "n2"), ("n1", "n3")])
    cluster.until("n1", lambda: floating(cluster, "n1", external)["announced"], "the address announced")
    cluster.until("n1", partial(cluster.has_peer, "n1", "tor", is_up=True), "session with tor")
    cluster.await_no_stale("n2", "n3", "tor")
    assert ours(cluster, "n1") == standing
    for each, name in zip(asking, ("db", "web"), strict=True):
        seen = ended(each)
        tell(f"{name} over a crash: {seen}")
        assert seen["kept"]["names"] == seen["fresh"]["names"] == [name]
    assert "drift.found" not in cluster.log("n1")
    assert command(cluster, "n1", "del", external) == 0
    await_way(cluster, "tor", external, None)


def test_uninstall_leaves_nothing(cluster: Cluster) -> None:
    """Neither chains nor sets, nor what was kept of commands."""
    assert command(cluster, "n3", "add", BY_COMMAND[0], "shop/cache") == 0
    cluster.stop(SIGTERM, "n3")
    assert ours(cluster, "n3") != []
    cluster.lab.exec("n3", ["touch", "/var/lib/bgpmesh/notes"])  # a mount of the lab, which cannot be removed
    removed = cluster.lab.exec("n3", ["bgpmesh", "uninstall", "--config", CONFIG]).stdout
    assert "file /var/lib/bgpmesh/floating_ips.json" in removed
    assert ours(cluster, "n3") == []
    cluster.start("n3")
    cluster.await_sync("n3")
    attach(cluster, "cache", "n3", ADDRESSES["cache"])
    cluster.await_sessions([("n2", "n3"), ("n1", "n3")])
    cluster.until("n3", partial(cluster.has_peer, "n3", "tor", is_up=True), "session with tor")
    cluster.until("n3", lambda: floating(cluster, "n3", BY_COMMAND[0]) == {}, "nothing of it known")
