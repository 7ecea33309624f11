"""Packet policy from the command line to the packet: one node, two workloads, and a host outside.

    peer ── n1: shop/web, shop/db

The lab is containerlab/pair.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import cast

import pytest

from tests.lab.nodes import BLOCKS, Node, file_of, pair

SOURCE = str(Path(__file__).with_name("source.py"))
PORT = "5005"
FOREIGN = "-A FORWARD -s 172.17.0.0/16 -j ACCEPT"
FILE = file_of()

JsonObject = dict[str, object]


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Give a node with two workloads, each with a server of UDP."""
    with pair() as lab:
        node = Node(lab)
        node.configure(FILE)
        node.sh(f"iptables -w {FOREIGN}; ip6tables -w -A FORWARD -s fd17::/16 -j ACCEPT")
        before = saved(node)
        node.start()
        node.await_prefixes(BLOCKS)
        for name in ("web", "db"):
            path = lab.add_workload_namespace("n1", name)
            added = node.command(*f"workload add {name} --netns {path} -n shop --label app={name}".split(), "--json")
            assert added.returncode == 0, added.stderr + node.daemon.output()
            for address in json.loads(added.stdout)["addresses"]:
                server = lab.start(
                    "n1", ["ip", "netns", "exec", name, sys.executable, "-ISE", SOURCE, "serve", address, PORT]
                )
                server.until(lambda server=server: "listening" in server.output(), "a server")  # type: ignore[misc]
        yield node
        node.remove()
        assert before == saved(node)


def saved(node: Node) -> list[str]:
    """Return every chain and rule of the node without counters, and the name of every set; empty tables are none."""
    lines = [
        line.partition(" [")[0]
        for program in ("iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save")
        for line in node.sh(program).splitlines()
        if line.startswith(("-A", ":bm-"))
    ]
    return lines + node.sh("ipset list -name").splitlines()


def addresses(node: Node, name: str) -> list[str]:
    """Return the addresses of a workload, IPv4 first."""
    rows = cast("list[JsonObject]", node.ask("workload list"))
    return cast("list[str]", next(row["addresses"] for row in rows if row["name"] == name))


def passes(node: Node, source: str, target: str, tries: int = 60) -> bool:
    """Tell whether an answer comes back to a workload (or to the node) from a target."""
    inside = ["ip", "netns", "exec", source] if source != "n1" else []
    command = [*inside, sys.executable, "-ISE", SOURCE, "ask", target, PORT, str(tries)]
    return node.lab.exec("n1", command, check=False).stdout.strip() != ""


def apply(node: Node, *documents: JsonObject) -> JsonObject:
    """Apply objects and return the answer."""
    node.lab.write(
        "n1", "/run/bgpmesh/objects.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    )
    answer = node.command("apply", "-f", "/run/bgpmesh/objects.json", "--json")
    found: JsonObject = json.loads(answer.stdout)
    assert answer.returncode == (2 if found["refused"] else 0)
    return found


def network_policy(name: str, **spec: object) -> JsonObject:
    """Return a NetworkPolicy of the namespace `shop`."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": {}, **spec},
    }


def test_a_policy_closes_and_opens(node: Node) -> None:
    """From apply to delete, over a crash and a restart; explain says the same."""
    web, db = addresses(node, "web"), addresses(node, "db")
    for target in (*db,):
        assert passes(node, "web", target)
    assert apply(node, network_policy("closed", policyTypes=["Ingress"])) == {
        "applied": ["NetworkPolicy shop/closed"],
        "refused": [],
        "warnings": [],
    }
    for target in (*db, *web):
        assert not passes(node, "web" if target in db else "db", target, tries=2)
        assert passes(node, "n1", target), "a node reaches its own workloads"
    told = node.command("policy", "explain", "--from", "shop/web", "--to", "shop/db", "--port", PORT, "--json")
    assert (told.returncode, json.loads(told.stdout)["verdict"]) == (1, "deny")
    opened = network_policy("web", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}])
    apply(node, opened)
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
    assert node.command("delete", "networkpolicy", "web", "-n", "shop").returncode == 0
    assert node.command("delete", "networkpolicy", "web", "-n", "shop").returncode == 1
    assert all(passes(node, "db", target) for target in web)
