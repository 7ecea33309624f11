"""Labels over BGP: a policy on one node means workloads of another, on real kernels.

    mesh3        n1, n2, n3 on one segment, each with each
    reflector    c1 to c4, each with rr1, which forwards nothing

`web` lives on the first node, `db` on the second, `mob` on the third. Who may reach `db` is said on its node only.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from signal import SIGKILL, SIGTERM
from typing import cast

import pytest

from containerlab.lab import PATIENCE_S, Process
from tests.lab.cluster import (
    HOLDERS,
    PATIENT,
    SESSIONS,
    Cluster,
    Stream,
    Workload,
    blocks,
    laid_out,
    last_number,
    reply,
    script,
    serve,
    text_of,
)

PORT = "5005"
FILES = {"mesh3": "config/demo.toml", "reflector": "containerlab/reflector/bgpmesh.toml"}
CHANGES = 200 if os.environ.get("BGPMESH_SOAK") else 10

JsonObject = dict[str, object]

ONLY_API: JsonObject = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "api", "namespace": "shop"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "db"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "api"}}}]}],
    },
}


@dataclass(slots=True)
class Shop:
    """A cluster with identity, and its three workloads."""

    cluster: Cluster
    topology: str
    found: dict[str, Workload] = field(default_factory=dict)

    @property
    def nodes(self) -> Sequence[str]:
        """The nodes with workloads."""
        return HOLDERS[self.topology][:3]

    def open(self, texts: dict[str, str] | None = None) -> None:
        """Start everything; `db` lets in whoever has `app=api`."""
        options = {"hold_time": PATIENT, "restart_deferral": PATIENT, "identity": "true"}
        used = dict.fromkeys(HOLDERS[self.topology], text_of(FILES[self.topology], **options))
        if self.topology == "reflector":
            used["rr1"] = text_of("containerlab/reflector/rr1.toml", **options)
        self.cluster.bring_up(self.topology, used | (texts or {}))
        for node, name in zip(self.nodes, ("web", "db", "mob"), strict=True):
            self.attach(node, name)
        self.apply(self.nodes[1], ONLY_API)
        self.serve("db")
        self.await_known(self.nodes[1], 4)

    def attach(self, node: str, name: str, *words: str) -> None:
        """Make a workload `shop/NAME` with the label `app=NAME` on a node."""
        self.found[name] = self.cluster.attach(node, "-n", "shop", "--label", f"app={name}", *words, name=name)

    def serve(self, name: str) -> None:
        """Have a server of UDP in a workload, on each of its addresses."""
        for address in self.found[name].addresses:
            serve(self.cluster.lab, self.found[name].node, address, PORT, inside=name)

    def probe(self, name: str, *words: str) -> Process:
        """Start a prober in a workload."""
        return self.cluster.lab.start(self.found[name].node, script("prober", *words), inside=name)

    def label(self, name: str, app: str) -> None:
        """Give a workload another `app`."""
        self.cluster.ask(self.found[name].node, "workload label", name=name, namespace="shop", label=[f"app={app}"])

    def apply(self, node: str, document: JsonObject) -> JsonObject:
        """Put an object in force on a node."""
        return cast("JsonObject", self.cluster.ask(node, "apply", documents=[document]))

    def passes(self, source: str, address: str, tries: int) -> bool:
        """Tell whether an answer comes back to a workload within so many half seconds."""
        return reply(self.cluster.lab, self.found[source].node, address, PORT, tries=tries, inside=source) != ""

    def await_passage(self, source: str, *, is_open: bool) -> None:
        """Wait until a workload reaches `db` at each of its addresses, or none."""
        for address in self.found["db"].addresses:
            words = f"{source} to reach {address}: {is_open}"
            self.cluster.until(self.nodes[1], lambda to=address: self.passes(source, to, 1) is is_open, words)  # type: ignore[misc]

    def known(self, node: str) -> object:
        """Return of how many addresses elsewhere a node knows the labels."""
        return cast("dict[str, JsonObject]", self.cluster.ask(node, "status"))["policy"]["identities"]

    def await_known(self, node: str, count: int) -> None:
        """Wait until a node knows the labels of so many addresses elsewhere."""
        self.cluster.until(node, lambda: self.known(node) == count, f"to know {count} addresses")

    def peer(self, node: str, name: str) -> JsonObject:
        """Return what a node says of a peer."""
        return cast("list[JsonObject]", self.cluster.ask(node, "peers", name=name))[0]


@pytest.mark.parametrize("topology", SESSIONS)
def test_a_label_there_opens_a_port_here(topology: str) -> None:
    """A label changed on one node opens and closes a port on another; the kernel gets no route for it."""
    with laid_out(topology) as cluster:
        shop = Shop(cluster, topology)
        shop.open()
        here, there, _ = shop.nodes
        shop.await_passage("web", is_open=False)
        shop.label("web", "api")
        shop.await_passage("web", is_open=True)
        assert not shop.passes("mob", shop.found["db"].addresses[0], 1)
        stream = Stream(cluster.lab, (there, "db"), (here, "web"), shop.found["db"].addresses[0], "5008")
        stream.await_heard(20)
        shop.label("web", "web")
        shop.await_passage("web", is_open=False)
        stream.await_cut()

        holders = HOLDERS[topology]
        for node, name in zip(shop.nodes, ("web", "db", "mob"), strict=True):
            assert blocks(*holders) | {*shop.found[name].addresses} == cluster.prefixes(node)
        told = cast(
            "JsonObject",
            cluster.ask(
                there, "policy explain", **{"from": shop.found["web"].addresses[0], "to": "shop/db"}, port=PORT
            ),
        )
        assert told["verdict"] == "deny"
        assert "a workload of another node" in str(told["unknown"])

        warned = shop.apply(there, part_of_a_value())["warnings"]
        assert [each["object"] for each in cast("list[JsonObject]", warned)] == ["NetworkPolicy shop/default.part"]
        status = cast("dict[str, JsonObject]", cluster.ask(there, "status"))["policy"]
        assert "contains 'ap'" in str(status["warnings"])

        cluster.ask(here, "workload del", name="web", namespace="shop")
        shop.await_known(there, 2)
        assert {0} == {
            shop.peer(node, peer)["claims_refused"] for node in shop.nodes for peer in peers_of(node, topology)
        }


def await_asked(probers: Sequence[Process], more: int) -> None:
    """Wait until each of these has asked so many times more, and had its answers."""
    for prober, wanted in [(prober, last_number(prober) + more) for prober in probers]:
        prober.until(lambda prober=prober, wanted=wanted: last_number(prober) >= wanted, f"{wanted} probes")  # type: ignore[misc]


def part_of_a_value() -> JsonObject:
    """Return a policy of Calico that asks for what hashes do not tell."""
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "NetworkPolicy",
        "metadata": {"name": "default.part", "namespace": "shop"},
        "spec": {
            "tier": "default",
            "selector": "app == 'nobody'",
            "types": ["Ingress"],
            "ingress": [{"action": "Allow", "source": {"selector": "app contains 'ap'"}}],
        },
    }


def peers_of(node: str, topology: str) -> list[str]:
    """Return the peers of a node."""
    pairs = [pair for pair in SESSIONS[topology] if node in pair]
    return [other for pair in pairs for other in pair if other != node]


@pytest.mark.parametrize("topology", SESSIONS)
def test_daemons_go_and_nobody_gains_or_loses(topology: str) -> None:
    """Each daemon is killed in turn: no new connection that may be made fails, and none that may not comes about."""
    with laid_out(topology, is_patient=True) as cluster:
        shop = Shop(cluster, topology)
        shop.open()
        shop.label("web", "api")
        shop.await_passage("web", is_open=True)
        shop.await_passage("mob", is_open=False)
        allowed = [shop.probe("web", "ask", address, PORT) for address in shop.found["db"].addresses]
        denied = [shop.probe("mob", "watch", address, PORT) for address in shop.found["db"].addresses]
        await_asked(allowed, 1)
        for victim in [*shop.nodes, *(["rr1"] if topology == "reflector" else [])]:
            cluster.stop(SIGKILL, victim)
            await_asked(allowed, 80)  # what would be lost is lost by now
            cluster.start(victim)
            nodes = tuple(cluster.daemons)
            cluster.await_sync(*nodes)
            cluster.await_sessions(SESSIONS[topology])
            cluster.await_no_stale(*nodes)
            shop.await_known(shop.nodes[1], 4)
        for process in (*allowed, *denied):
            process.send_signal(SIGTERM)
            assert process.entry.wait(PATIENCE_S) == 0, process.output()
        counts = [json.loads(process.output().splitlines()[-1]) for process in allowed]
        assert all(count["asked"] - count["answered"] in (0, 1) for count in counts), f"but for the last: {counts}"
        assert all(count["answered"] > 50 for count in counts), counts
        assert ["watching\n"] * len(denied) == [process.output() for process in denied]


def test_what_a_liar_says_is_not_believed() -> None:
    """A node that takes another's block for its own is heard by nobody, counted and named; its route is a route."""
    with laid_out("mesh3") as cluster:
        shop = Shop(cluster, "mesh3")
        text = text_of(FILES["mesh3"], hold_time=PATIENT, identity="true")
        second, third = ('["10.244.2.0/26", "fd00:10:244:2::/112"]', '["10.244.3.0/26", "fd00:10:244:3::/112"]')
        assert second in text
        liar = text.replace(second, "[]").replace(third, second)
        for node, words in {"n1": text, "n2": text, "n3": liar}.items():
            cluster.configure(node, words)
        cluster.start("n1", "n2", "n3")
        cluster.await_sync("n1", "n2", "n3")
        cluster.await_sessions(SESSIONS["mesh3"])
        shop.attach("n1", "db")
        shop.serve("db")
        shop.attach("n2", "web")
        shop.attach("n3", "api", "--ip", "10.244.2.50", "--ip", "fd00:10:244:2::50")
        shop.apply("n1", ONLY_API)
        lie = "10.244.2.50"
        cluster.until("n1", lambda: lie in cluster.prefixes("n1"), f"a route to {lie}")
        shop.await_known("n1", 2)
        for node in ("n1", "n2"):  # both families of the lie may come later than anything else that was waited for
            cluster.until(node, partial(has_refused, shop, node), "two claims refused")
            assert "in a block of node n3" in str(shop.peer(node, "n3")["claims_problem"])
            assert cluster.log(node).count("identity.refused") == 1
        assert not shop.passes("api", shop.found["db"].addresses[0], 2)
        shop.label("web", "api")
        cluster.until("n1", lambda: shop.passes("web", shop.found["db"].addresses[0], 1), "web to reach db")
        (route,) = cast("list[JsonObject]", cluster.ask("n1", "routes", prefix=f"{lie}/32"))
        assert [path["large_communities"] for path in cast("list[JsonObject]", route["paths"])] == [[]]


def has_refused(shop: Shop, node: str) -> bool:
    """Tell whether a node has refused what n3 says of an address of each family."""
    return cast("int", shop.peer(node, "n3")["claims_refused"]) >= 2


def test_nobody_outside_hears_of_labels() -> None:
    """A peer that is no node of the cluster hears the blocks, and no address and no community."""
    with laid_out("mesh3") as cluster:
        shop = Shop(cluster, "mesh3")
        text = text_of(FILES["mesh3"], hold_time=PATIENT, identity="true")
        inside = text[: text.index("[node.n3]")]
        outside = text[: text.index("[node.n1]")].replace("identity = true", "") + text[text.index("[node.n3]") :]
        peers = {
            "n1": '[peer.out]\naddress = "192.0.2.3"\nasn = 64512\nnodes = "all()"\n',
            "n3": '[peer.n1]\naddress = "192.0.2.1"\nasn = 64512\n[peer.n2]\naddress = "192.0.2.2"\nasn = 64512\n',
        }
        for node, words in {
            "n1": inside + peers["n1"],
            "n2": inside + peers["n1"],
            "n3": outside + peers["n3"],
        }.items():
            cluster.configure(node, words)
        cluster.start("n1", "n2", "n3")
        cluster.await_sync("n1", "n2", "n3")
        shop.attach("n1", "web")
        shop.attach("n2", "db")
        shop.await_known("n1", 2)
        shop.await_known("n2", 2)
        cluster.until("n3", partial(cluster.has_prefixes, "n3", blocks("n1", "n2", "n3")), "routes to the blocks")
        shop.label("web", "api")  # whatever was to be said of it has been said once this is
        await_identity(shop, "n2", shop.found["web"].addresses[0])
        for name in ("n1", "n2"):
            heard = cast("list[JsonObject]", cluster.ask("n3", "routes", received=name))
            assert {row["prefix"] for row in heard} <= blocks("n1", "n2")
            said = [path["large_communities"] for row in heard for path in cast("list[JsonObject]", row["paths"])]
            assert said
            assert [] == [each for each in said if each]


def await_identity(shop: Shop, node: str, address: str) -> None:
    """Wait until a node has been told of an address that is in no kernel."""

    def is_told() -> bool:
        rows = cast("list[JsonObject]", shop.cluster.ask(node, "routes", prefix=f"{address}/32"))
        return any(each["large_communities"] for row in rows for each in cast("list[JsonObject]", row["paths"]))

    shop.cluster.until(node, is_told, f"communities of {address}")


@pytest.mark.parametrize("topology", SESSIONS)
def test_from_a_command_to_a_packet(topology: str) -> None:
    """Print the time from a label's change on one node to the first packet that another lets in, and to the last."""
    with laid_out(topology) as cluster:
        shop = Shop(cluster, topology)
        shop.open()
        watch = shop.probe("web", "watch", shop.found["db"].addresses[0], PORT)
        watch.await_said("watching")
        opened, closed = [], []
        for _ in range(CHANGES):
            began = time.monotonic()
            shop.label("web", "api")
            watch.until(lambda began=began: any(at > began for at in answered(watch)), "a packet")  # type: ignore[misc]
            opened.append(min(at for at in answered(watch) if at > began) - began)
            began = time.monotonic()
            shop.label("web", "web")
            watch.until(lambda: time.monotonic() > max(answered(watch)) + 0.5, "the last packet")
            closed.append(max(answered(watch)) - began)
        watch.send_signal(SIGTERM)
        assert watch.entry.wait(PATIENCE_S) == 0
        for what, times in (("open", opened), ("close", closed)):
            cuts = statistics.quantiles(times, n=100, method="inclusive")
            line = f"{topology}: {what}: p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms, {CHANGES} changes"
            print(line)  # noqa: T201  what it is for
        assert len(opened) == len(closed) == CHANGES


def answered(watch: Process) -> list[float]:
    """Return when the datagrams were sent that were answered so far."""
    return [float(line) for line in watch.output().split("\n")[1:-1]]
