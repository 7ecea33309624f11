"""Packet policy from the command line to the packet: one node, two workloads, and a host outside.

    peer ── n1: shop/web, shop/db

The lab is containerlab/pair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from signal import SIGKILL, SIGTERM
from typing import cast

import pytest

from containerlab.lab import until
from tests.lab.cluster import Stream, packet_filter, reply, serve, set_names
from tests.lab.nodes import BLOCKS, JsonObject, Node, file_of, pair

PORT = "5005"
FOREIGN = "-A FORWARD -s 172.17.0.0/16 -j ACCEPT"
FILE = file_of()


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Give a node with two workloads, each with a server of UDP."""
    with pair() as lab:
        node = Node(lab)
        node.configure(FILE)
        node.sh(f"iptables -w {FOREIGN}; ip6tables -w -A FORWARD -s fd17::/16 -j ACCEPT")
        # Connections of UDP are looked at some commands after their last datagram, which may take a while.
        node.sh("echo 600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout")
        before = saved(node)
        node.start()
        node.await_prefixes(BLOCKS)
        for name in ("web", "db"):
            path = lab.add_workload_namespace("n1", name)
            added = node.command(*f"workload add {name} --netns {path} -n shop --label app={name}".split(), "--json")
            assert added.returncode == 0, added.stderr + node.daemon.output()
            for address in json.loads(added.stdout)["addresses"]:
                serve(lab, "n1", address, PORT, inside=name)
        yield node
        node.remove()
        assert before == saved(node)


def saved(node: Node) -> list[str]:
    """Return every rule of the node, every chain of ours, and the name of every set; empty tables are none."""
    lines = [line for line in packet_filter(node.lab, node.name) if line.startswith(("-A", ":bm-"))]
    return lines + set_names(node.lab, node.name)


def addresses(node: Node, name: str) -> list[str]:
    """Return the addresses of a workload, IPv4 first."""
    rows = cast("list[JsonObject]", node.ask("workload list"))
    return cast("list[str]", next(row["addresses"] for row in rows if row["name"] == name))


def passes(node: Node, source: str, target: str, tries: int = 60) -> bool:
    """Tell whether an answer comes back to a workload (or to the node) from a target."""
    inside = source if source != "n1" else ""
    return reply(node.lab, "n1", target, PORT, tries=tries, inside=inside) != ""


def network_policy(name: str, **spec: object) -> JsonObject:
    """Return a NetworkPolicy of the namespace `shop`."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": {}, **spec},
    }


def allowing(name: str) -> JsonObject:
    """Return a policy that lets a workload reach the others."""
    source = {"podSelector": {"matchLabels": {"app": name}}}
    return network_policy(f"from-{name}", ingress=[{"from": [source]}])


FROM_WEB, FROM_DB = allowing("web"), allowing("db")


def test_a_policy_closes_and_opens(node: Node) -> None:
    """From apply to delete, over a crash and a restart; explain says the same."""
    web, db = addresses(node, "web"), addresses(node, "db")
    for target in (*db,):
        assert passes(node, "web", target)
    assert node.apply(network_policy("closed", policyTypes=["Ingress"])) == {
        "applied": ["NetworkPolicy shop/closed"],
        "refused": [],
        "warnings": [],
    }
    for target in (*db, *web):
        assert not passes(node, "web" if target in db else "db", target, tries=2)
        assert passes(node, "n1", target), "a node reaches its own workloads"
    told = node.command("policy", "explain", "--from", "shop/web", "--to", "shop/db", "--port", PORT, "--json")
    assert (told.returncode, json.loads(told.stdout)["verdict"]) == (1, "deny")
    node.apply(FROM_WEB)
    assert all(passes(node, "web", target) for target in db)
    assert not any(passes(node, "db", target, tries=2) for target in web)

    for number in (SIGKILL, SIGTERM):
        node.stop(number)
        assert all(passes(node, "web", target) for target in db)
        assert not any(passes(node, "db", target, tries=2) for target in web)
        node.start()
        assert all(passes(node, "web", target) for target in db)
        assert not any(passes(node, "db", target, tries=2) for target in web)
        assert "drift" not in node.daemon.output()

    node.command("workload", "label", "web", "-n", "shop", "app=other")
    assert not passes(node, "web", db[0], tries=2)
    node.command("workload", "label", "web", "-n", "shop", "app=web")
    assert passes(node, "web", db[0])
    assert node.command("delete", "networkpolicy", "closed", "-n", "shop").returncode == 0
    assert node.command("delete", "networkpolicy", "from-web", "-n", "shop").returncode == 0
    assert node.command("delete", "networkpolicy", "from-web", "-n", "shop").returncode == 1
    assert all(passes(node, "db", target) for target in web)


@pytest.mark.parametrize("family", [4, 6])
def test_a_change_cuts_the_connections_that_it_no_longer_allows(node: Node, family: int) -> None:
    """While the server goes on sending; what is allowed goes on, and what is allowed again comes back."""
    web, db = (addresses(node, name)[family == 6] for name in ("web", "db"))
    node.apply(network_policy("closed", policyTypes=["Ingress"]), FROM_WEB, FROM_DB)
    to_db = Stream(node.lab, ("n1", "db"), ("n1", "web"), db, "5006")
    to_web = Stream(node.lab, ("n1", "web"), ("n1", "db"), web, "5007")
    assert node.command("delete", "networkpolicy", "from-web", "-n", "shop").returncode == 0
    sent = to_db.sent
    to_db.await_sent(75)
    assert to_db.heard <= sent + 1, "it was cut when the command had its answer"
    to_web.await_heard(20)
    node.apply(FROM_WEB)
    to_db.await_heard(20)
    to_db.stop()
    to_web.stop()
    for name in ("closed", "from-web", "from-db"):
        node.command("delete", "networkpolicy", name, "-n", "shop")


FLOATING = {4: "203.0.113.10", 6: "2001:db8:f::10"}


def preview(node: Node, *documents: JsonObject, expected: int, delete: bool = False) -> JsonObject:
    """Preview objects, or their deletion, and return the answer; nothing is changed."""
    before = saved(node), node.ask("get")
    words = ["policy", "preview", "-f", node.written(*documents), *(["--delete"] if delete else [])]
    told = node.command(*words, "--json")
    assert told.returncode == expected, told.stdout + told.stderr
    found: JsonObject = json.loads(told.stdout)
    assert (saved(node), node.ask("get")) == before
    shown = node.command(*words)
    assert (shown.returncode, shown.stderr) == (expected, "")
    return found


def living(found: JsonObject, word: str) -> dict[tuple[object, object], JsonObject]:
    """Return connections of a preview by protocol and port."""
    rows = cast("list[JsonObject]", found[word])
    assert found[f"{word}_count"] == len(rows)
    return {(row["protocol"], row["port"]): row for row in rows}


@pytest.mark.parametrize("family", [4, 6])
def test_a_preview_names_exactly_what_the_change_then_cuts(node: Node, family: int) -> None:
    """TCP, UDP, and what was called by a floating address; and what a deletion would bring back."""
    web, db = (addresses(node, name)[family == 6] for name in ("web", "db"))
    external = FLOATING[family]
    assert node.command("floating-ip", "add", external, "shop/db").returncode == 0
    node.apply(network_policy("closed", policyTypes=["Ingress"]), FROM_WEB, FROM_DB)
    kept = Stream(node.lab, ("n1", "db"), ("n1", "web"), db, "5016")
    other = Stream(node.lab, ("n1", "web"), ("n1", "db"), web, "5017")
    led = Stream(node.lab, ("n1", "db"), ("n1", "web"), db, "5018", called=external)
    assert passes(node, "web", db)

    only = {**FROM_WEB["spec"]["ingress"][0], "ports": [{"port": 5016}]}  # type: ignore[index]
    narrow = network_policy("from-web", ingress=[only])
    found = preview(node, narrow, expected=1)
    assert (found["changed"], found["added"], found["revoke"]) == (["NetworkPolicy shop/from-web"], [], True)
    turns = cast("list[JsonObject]", found["workloads"])
    assert [(turn["workload"], turn["direction"], turn["changed"]) for turn in turns] == [
        ("shop/db", "ingress", ["shop/from-web"]),
        ("shop/web", "ingress", ["shop/from-web"]),
    ]
    cut = living(found, "cut")
    assert [key for key in cut if key[1] in {5016, 5017, 5018}] == [("tcp", 5018)]
    row = cut["tcp", 5018]
    assert (row["source"], row["destination"], row["translated_destination"]) == (web, external, db)
    assert (row["from"], row["to"], row["translated_source"]) == ("shop/web", "shop/db", None)
    assert (row["direction"], row["workload"], row["tier"], row["rule"]) == ("ingress", "shop/db", "default", None)
    datagrams = cut["udp", int(PORT)]
    assert (datagrams["from"], datagrams["to"], datagrams["translated_destination"]) == ("shop/web", "shop/db", None)
    staged = preview(node, network_policy("soon", policyTypes=["Egress"]) | {"staged": True}, expected=0)
    assert (staged["added"], staged["cut"]) == (["NetworkPolicy shop/soon"], [])
    for stream in (kept, other, led):
        stream.await_heard(20)

    assert node.apply(narrow)["applied"] == ["NetworkPolicy shop/from-web"]
    sent = led.sent
    led.await_sent(75)
    assert led.heard <= sent + 1, "it was cut when the command had its answer"
    for stream in (kept, other):
        stream.await_heard(20)
    found = preview(node, narrow, expected=0)
    assert (found["unchanged"], found["workloads"], found["cut"]) == (["NetworkPolicy shop/from-web"], [], [])
    back = preview(node, network_policy("closed", policyTypes=["Ingress"]), FROM_DB, narrow, expected=0, delete=True)
    assert set(cast("list[str]", back["deleted"])) == {
        f"NetworkPolicy shop/{n}" for n in ("closed", "from-db", "from-web")
    }
    assert ("tcp", 5018) in living(back, "restored")
    refused = preview(node, {**narrow, "spec": {"podSelector": "x"}}, expected=2)
    assert cast("list[JsonObject]", refused["refused"])[0]["object"] == "NetworkPolicy shop/from-web"
    for name in ("closed", "from-web", "from-db"):
        node.command("delete", "networkpolicy", name, "-n", "shop")
    led.await_heard(20)
    for stream in (kept, other, led):
        stream.stop()
    assert node.command("floating-ip", "del", external).returncode == 0


def test_connections_go_on_where_that_is_asked_for(node: Node) -> None:
    """[policy] revoke = false; a new connection is refused all the same."""
    node.configure(f"{FILE}\n[policy]\nrevoke = false\n")
    assert node.command("reload").returncode == 0
    db = addresses(node, "db")[0]
    stream = Stream(node.lab, ("n1", "db"), ("n1", "web"), db, "5008")
    closed = network_policy("closed", policyTypes=["Ingress"])
    found = preview(node, closed, expected=1)
    assert (found["revoke"], found["cut"]) == (False, [])
    assert ("tcp", 5008) in living(found, "kept")
    assert "would go on, and not begin again" in node.command("policy", "preview", "-f", node.written(closed)).stdout
    node.apply(closed)
    stream.await_heard(50)
    assert not passes(node, "web", db, tries=2)
    stream.stop()
    node.command("delete", "networkpolicy", "closed", "-n", "shop")
    node.configure(FILE)
    assert node.command("reload").returncode == 0


def dropped_by(node: Node, name: str) -> float:
    """Return what the metrics say that a policy has dropped; a reading may be some seconds old."""
    return node.metric(rf'bgpmesh_policy_drops_total\{{policy="{re.escape(name)}"\}}')


def test_drops_are_told_by_policy(node: Node) -> None:
    """In the metrics, by `policy drops`, and in the steps of `explain --live`: the same packets."""
    web, db = addresses(node, "web"), addresses(node, "db")
    node.apply(network_policy("closed", policyTypes=["Ingress"]))
    denied = node.metric(r'bgpmesh_policy_packets_total\{verdict="deny"\}')
    assert dropped_by(node, "shop/closed") == 0
    assert not passes(node, "web", db[0], tries=3)
    node.until(lambda: dropped_by(node, "shop/closed") == 3, "the drops in the metrics")
    assert node.metric(r'bgpmesh_policy_packets_total\{verdict="deny"\}') >= denied + 3

    (row,) = (row for row in each_of(node, "policy drops") if row["policy"] == "shop/closed")
    assert (row["tier"], row["rule"], row["direction"], row["packets"]) == ("default", None, "ingress", 3)
    told = node.command("policy", "explain", "--from", web[0], "--to", db[0], "--protocol", "udp", "--live", "--json")
    (*_, last) = json.loads(told.stdout)["steps"]
    assert (last["action"], last["packets"]) == ("deny", 3)

    node.apply(network_policy("web", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]))
    assert passes(node, "web", db[0])
    assert dropped_by(node, "shop/closed") == 3, "chains are written anew, sums go on"
    for name in ("closed", "web"):
        assert node.command("delete", "networkpolicy", name, "-n", "shop").returncode == 0


def test_a_staged_policy_says_what_it_would_do(node: Node) -> None:
    """In the metrics, by `policy drops --staged`, in `policy list` and in the explanation, and does nothing."""
    db = addresses(node, "db")[0]
    node.apply(network_policy("soon", policyTypes=["Ingress"]) | {"staged": True})
    # Each asks once, by a connection of its own: a datagram that is late is followed by another, and counted as well.
    asked = next(number for number in range(1, 61) if passes(node, "web", db, tries=1))
    would = r'bgpmesh_policy_staged_packets_total\{policy="shop/soon",verdict="deny"\}'
    node.until(lambda: node.metric(would) == asked, f"what it would have denied: {asked}")
    assert dropped_by(node, "(guard)") == 0
    (row,) = each_of(node, "policy drops", staged=True)
    assert (row["policy"], row["action"], row["packets"]) == ("shop/soon", "deny", asked)
    assert any("shop/soon" in str(row["ingress"]) for row in each_of(node, "policy list"))
    told = node.command("policy", "explain", "--from", "shop/web", "--to", "shop/db", "--json")
    answer = json.loads(told.stdout)
    assert (told.returncode, answer["verdict"]) == (0, "allow")
    assert [step["action"] for step in answer["steps"] if step["staged"]] == ["deny"]
    assert node.command("delete", "networkpolicy", "soon", "-n", "shop").returncode == 0


def test_drops_are_followed_as_they_happen(node: Node) -> None:
    """By two at once, over a crash of one; the rules that tell of drops are there as long as somebody looks."""
    db = addresses(node, "db")
    node.apply(network_policy("closed", policyTypes=["Ingress"]))
    before = saved(node)
    one, other = (node.lab.start("n1", ["bgpmesh", "policy", "drops", "--follow", *json]) for json in (["--json"], []))
    for each in (one, other):
        each.await_said("following")
    assert before != saved(node)
    assert not any(passes(node, "web", target, tries=1) for target in db)
    for each in (one, other):
        each.until(lambda each=each: each.output().count("shop/closed") == 2, "two drops")  # type: ignore[misc]
    other.kill()
    told = [json.loads(line) for line in one.output().splitlines() if line.startswith("{")]
    assert [(drop["policy"], drop["rule"], drop["from"], drop["to"]) for drop in told] == [
        ("shop/closed", None, "shop/web", "shop/db")
    ] * 2
    assert [drop["destination"] for drop in told] == db
    assert {(drop["protocol"], str(drop["port"])) for drop in told} == {("udp", PORT)}
    assert before != saved(node)
    one.kill()
    node.until(lambda: before == saved(node), "chains that tell of nothing")
    one = node.lab.start("n1", ["bgpmesh", "policy", "drops", "--follow"])
    one.await_said("following")
    assert before != saved(node)
    node.stop(SIGKILL)
    until(lambda: not one.is_running, "the end of what was followed")
    assert "has ended" in one.output()
    node.start()
    node.until(lambda: before == saved(node), "chains that tell of nothing, after a crash")
    assert "drift" not in node.daemon.output()
    assert node.command("delete", "networkpolicy", "closed", "-n", "shop").returncode == 0


def each_of(node: Node, command: str, **args: object) -> list[JsonObject]:
    """Return the rows of an answer."""
    return cast("list[JsonObject]", node.ask(command, **args))
