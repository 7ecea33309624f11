"""Host endpoints from the command line to the packet: one node without workloads, and a host outside.

The lab is containerlab/pair.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from signal import SIGKILL
from typing import cast

import pytest

from tests.lab.cluster import reply, serve
from tests.lab.guarded import calico
from tests.lab.nodes import JsonObject, Node, file_of, pair

ADDRESS, PORT, FAILSAFE = "10.0.0.1", "5005", "3784"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Give a node that serves two ports of UDP itself."""
    with pair() as lab:
        node = Node(lab)
        node.configure(file_of())
        node.start()
        for port in (PORT, FAILSAFE):
            serve(lab, "n1", ADDRESS, port)
        yield node
        node.remove()
        assert "bm-" not in node.sh("iptables-save; ip6tables-save")


def passes(node: Node, port: str, tries: int = 60) -> bool:
    """Tell whether an answer comes back to the host outside."""
    return reply(node.lab, "peer", ADDRESS, port, tries=tries) != ""


def apply(at: Node, kind: str, name: str, **spec: object) -> JsonObject:
    """Apply an object, which has its name as a label, and return the answer: it is not refused."""
    found = at.apply(calico(kind, name, None, labels={"name": name}, **spec))
    assert found["refused"] == []
    return found


def counted(node: Node) -> list[str]:
    """Return the rules of policies that have dropped something, with how much."""
    lines = node.sh("iptables-save -c").splitlines()
    return [line for line in lines if "-A bm-ci-" in line and line.endswith("-j DROP") and "[0:0]" not in line]


def test_a_host_endpoint_closes_the_node_and_a_policy_opens_it(node: Node) -> None:
    """Failsafe ports aside; over a crash too; listed and explained; what is on no interface is told."""
    assert passes(node, PORT)
    assert passes(node, FAILSAFE)
    name = cast("JsonObject", node.ask("status"))["node"]
    by_address = {"node": name, "expectedIPs": [ADDRESS], "profiles": ["absent"]}
    assert apply(node, "HostEndpoint", "edge", **by_address)["warnings"] == []
    assert not passes(node, PORT, tries=2)
    assert passes(node, FAILSAFE)

    (row,) = cast("list[JsonObject]", node.ask("policy list"))
    assert (row["workload"], row["phase"]) == (f"host {name}/edge", "normal")
    ask = ["policy", "explain", "--from", "10.0.0.2", "--to", ADDRESS, "--protocol", "udp", "--json", "--port"]
    verdicts = [json.loads(node.command(*ask, port).stdout) for port in (PORT, FAILSAFE)]
    assert [told["verdict"] for told in verdicts] == ["deny", "allow"]
    assert verdicts[1]["steps"][0]["policy"] == "(failsafe_inbound)"
    assert all(told["unknown"] == [] for told in verdicts)

    node.stop(SIGKILL)
    assert not passes(node, PORT, tries=2)
    dropped = counted(node)
    assert dropped
    node.start()
    assert dropped == counted(node), "a chain was written anew"
    assert "drift" not in node.daemon.output()
    allow = {"action": "Allow", "protocol": "UDP", "destination": {"ports": [int(PORT)]}}
    apply(node, "GlobalNetworkPolicy", "open", selector="name == 'edge'", ingress=[allow])
    assert passes(node, PORT)
    other = apply(node, "HostEndpoint", "far", node=name, expectedIPs=["203.0.113.1"])
    reason = "not in force: no interface has one of its expectedIPs"
    assert other["warnings"] == [{"object": "HostEndpoint far", "field": "", "reason": reason}]
    for endpoint in ("edge", "far"):
        assert node.command("delete", "hostendpoint", endpoint).returncode == 0
    assert passes(node, PORT)
    assert "bm-" not in node.sh("iptables-save; ip6tables-save")
