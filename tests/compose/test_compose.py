"""The compose file, brought up for real: three nodes, three workloads, Prometheus.

Grafana is not started (its image is no Debian package): test_units.py looks at the dashboard's shape, and
here Prometheus is asked each of its expressions.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict
from urllib.parse import urlencode

import pytest

from tests.compose.stack import ROOT, Stack, docker, eventually, provide_images

NODES = ("n1", "n2", "n3")
# The first start makes the base image (see stack.py), and the machine may be busy with other things.
pytestmark = pytest.mark.timeout(900)

# What a machine that is busy with other things may be a case of.
OF_A_BUSY_MACHINE = {"BgpmeshConvergenceSlow", "BgpmeshLoopLate"}

# What Grafana puts in place of its variables.
VARIABLES = {"$node": ".*", "$__rate_interval": "30s"}

# Runs in a node, since that is where the names of the fabric are known; one path a line in, one answer a line out.
ASK = """
import sys, urllib.request
for path in sys.stdin:
    print(urllib.request.urlopen("http://prometheus:9090/api/v1/" + path.strip(), timeout=10).read().decode())
"""


class Workload(TypedDict):
    """An element of `workload list --json`, as far as it is looked at here."""

    name: str
    addresses: list[str]
    interface: str


class Peer(TypedDict):
    """A peer of `status --json`, as far as it is looked at here."""

    name: str
    state: str


class Rule(TypedDict):
    """A rule as Prometheus holds it, as far as it is looked at here."""

    name: str
    health: str
    state: str


class Ping(NamedTuple):
    """How one ping went."""

    is_answered: bool
    ttl: int | None
    said: str


def workloads(stack: Stack, node: str) -> list[Workload]:
    """Return the workloads of a node; none where its daemon does not answer yet."""
    answer = stack.attempt(node, "bgpmesh", "workload", "list", "--json")
    listed: list[Workload] = json.loads(answer.stdout) if answer.returncode == 0 else []
    return listed


def address_of(stack: Stack, node: str, version: int) -> str:
    """Return the address of the one workload of a node."""
    (workload,) = eventually(lambda: workloads(stack, node), lambda seen: len(seen) == 1, f"the workload of {node}")
    (address,) = [a for a in workload["addresses"] if (":" in a) == (version == 6)]
    return address


def ping(stack: Stack, source: str, address: str) -> Ping:
    """Send one echo request from a container."""
    went = stack.attempt(source, "ping", "-n", "-c", "1", "-W", "1", address)
    found = re.search(r"ttl=(\d+)", went.stdout)
    return Ping(went.returncode == 0, int(found.group(1)) if found else None, went.stdout + went.stderr)


def established(stack: Stack, node: str) -> list[str]:
    """Return the names of the peers with which the node has an established session."""
    answer = stack.attempt(node, "bgpmesh", "status", "--json")
    peers: list[Peer] = json.loads(answer.stdout)["peers"] if answer.stdout.startswith("{") else []
    return sorted(peer["name"] for peer in peers if peer["state"] == "Established")


def fetch(stack: Stack, paths: list[str]) -> list[str]:
    """Return what Prometheus answers to each path of its interface; nothing where it could not be asked."""
    went = subprocess.run(
        ["docker", "exec", "--interactive", stack.container("n1"), "python3", "-c", ASK],
        env=stack.env,
        input="\n".join(paths),
        text=True,
        capture_output=True,
        timeout=180,
        check=False,
    )
    return went.stdout.splitlines() if went.returncode == 0 else []


def ask(stack: Stack, queries: list[str]) -> dict[str, int]:
    """Return how many series Prometheus has in answer to each query; -1 where it could not be asked."""
    answers = fetch(stack, [f"query?{urlencode({'query': query})}" for query in queries])
    if not answers:
        return dict.fromkeys(queries, -1)
    return {query: len(json.loads(answer)["data"]["result"]) for query, answer in zip(queries, answers, strict=True)}


def loaded_rules(stack: Stack) -> list[Rule]:
    """Return the alert rules that Prometheus holds."""
    return [
        rule
        for answer in fetch(stack, ["rules"])
        for group in json.loads(answer)["data"]["groups"]
        for rule in group["rules"]
    ]


def dashboard_queries() -> list[str]:
    """Return every expression of the dashboard, as Grafana sends it with everything chosen."""
    read = json.loads((ROOT / "config/grafana/bgpmesh.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in read["panels"] for target in panel.get("targets", [])]
    for name, value in VARIABLES.items():
        queries = [query.replace(name, value) for query in queries]
    return sorted(set(queries))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Stack]:
    """Bring the compose file up, and take it down: of the project nothing is left, and the host never saw it."""
    with docker() as stack:
        provide_images(stack)
        try:
            stack.compose("build")
            stack.compose("up", "--detach", "n1", "w1")
            # The other nodes are not there: whatever answers later, BGP brought the way to it.
            address_of(stack, "n1", 4)
            early = [ping(stack, "w1", f"10.244.{n}.{host}") for n in (2, 3) for host in (0, 1, 2)]
            assert [p for p in early if p.is_answered] == []
            stack.compose("up", "--detach")
            for node in NODES:
                others = sorted(set(NODES) - {node})
                eventually(lambda n=node: established(stack, n), others.__eq__, f"sessions of {node}")  # type: ignore[misc]
            yield stack
        except BaseException:
            print(stack.compose("logs", "--no-color", "--tail=60"))  # noqa: T201 - pytest shows it with the failure
            raise
        finally:
            stack.compose("down", "--volumes", "--timeout", "5")
        assert stack.leftovers() == ""


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("source", "target"), [("1", "2"), ("2", "3"), ("3", "1")])
def test_workloads_of_different_nodes_ping_each_other(cluster: Stack, source: str, target: str, version: int) -> None:
    """A workload reaches one behind another node, through two routers and no tunnel: the TTL falls by two."""
    address = address_of(cluster, f"n{target}", version)
    answer = eventually(
        lambda: ping(cluster, f"w{source}", address), lambda seen: seen.is_answered, f"w{source} to {address}"
    )
    assert answer.ttl == 64 - 2


@pytest.mark.parametrize("node", NODES)
def test_each_kernel_has_the_expected_routes_of_ours(cluster: Stack, node: str) -> None:
    """A kernel has its own block, its own workload and the others' blocks by way of their nodes; nothing else."""
    blocks = {n: f"10.244.{n[1]}.0/26" for n in NODES}
    expected = {*blocks.values(), address_of(cluster, node, 4)}

    def routes() -> set[str]:
        listed = cluster.attempt(node, "ip", "--json", "route", "show", "proto", "77").stdout
        return {route["dst"] for route in json.loads(listed or "[]")}

    eventually(routes, expected.__eq__, f"routes of {node}")
    for other in sorted(set(NODES) - {node}):
        taken = cluster.attempt(node, "ip", "--json", "route", "get", f"10.244.{other[1]}.63").stdout
        assert json.loads(taken)[0]["gateway"] == f"192.0.2.1{other[1]}"


def test_every_node_is_ready(cluster: Stack) -> None:
    """`bgpmesh status` says ready, which is the health check of the compose file as well."""
    for node in NODES:
        eventually(
            lambda n=node: cluster.attempt(n, "bgpmesh", "status"),  # type: ignore[misc]
            lambda seen: seen.returncode == 0,
            f"{node} ready",
        )


def test_prometheus_scrapes_every_node(cluster: Stack) -> None:
    """The three targets are up, under the names of their nodes."""
    queries = [f'up{{job="bgpmesh", node="{node}"}} == 1' for node in NODES]
    assert eventually(lambda: ask(cluster, queries), lambda seen: set(seen.values()) == {1}, "targets")


def test_every_expression_of_the_dashboard_has_an_answer(cluster: Stack) -> None:
    """No panel is empty on a running cluster: a misspelt series would be a success without a row."""
    queries = dashboard_queries()
    assert len(queries) > 20
    eventually(
        lambda: [query for query, rows in ask(cluster, queries).items() if rows < 1],
        lambda empty: empty == [],
        "expressions without an answer",
        120,
    )


def test_the_alerts_are_loaded_and_none_fires(cluster: Stack) -> None:
    """Prometheus evaluates every rule of the file, and a healthy cluster is no case of any."""
    names = re.findall(r"alert: (\w+)", (ROOT / "config/alerts.yml").read_text(encoding="utf-8"))
    rules = eventually(
        lambda: loaded_rules(cluster),
        lambda seen: len(seen) == len(names) and all(rule["health"] == "ok" for rule in seen),
        "rules evaluated",
    )
    assert [rule["name"] for rule in rules] == names
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert firing - OF_A_BUSY_MACHINE == set()


def test_a_workload_follows_its_node_into_a_new_container(cluster: Stack) -> None:
    """A node's container started anew has lost its links with its namespace; the workload is attached again."""
    address_of(cluster, "n3", 4)
    cluster.compose("restart", "--timeout", "5", "n3")
    address = address_of(cluster, "n1", 4)
    eventually(lambda: ping(cluster, "w3", address), lambda seen: seen.is_answered, f"w3 to {address}")


def test_the_host_sees_nothing_of_it(cluster: Stack) -> None:
    """A Docker daemon that the test started has its bridges in a namespace of its own."""
    links = {link.name for link in Path("/sys/class/net").iterdir()}
    bridges = sorted(name for name in links if name.startswith(("docker", "br-")))
    assert bridges == [] or not cluster.is_ours
