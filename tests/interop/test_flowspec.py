"""FlowSpec of BIRD and of GoBGP: what they ask for is done to the packets of a workload, and to nobody else's.

    w: a workload ── n1: bgpmesh   10.0.0.1 2001:db8::1  --------  10.0.0.2 2001:db8::2   peer: one of the two

Packets come from the peer's own node, by a static route. The lab is containerlab/pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from signal import SIGKILL
from typing import cast

import pytest

from containerlab.lab import Lab, until
from tests.interop.speakers import Bird, Filter, GoBgp, Setup, why_not
from tests.lab.cluster import Cluster, Workload, lab_of, metrics, packet_filter, reply, serve, set_names

ASN, THEIRS = 65001, 65002
CONFIG = f"""
[cluster]
asn = {ASN}
topology = "none"
hold_time = 9
[pool.four]
cidr = "10.244.0.0/16"
[pool.six]
cidr = "fd00:10:244::/48"
[node.n1]
address = "10.0.0.1"
address6 = "2001:db8::1"
pod_cidrs = ["10.244.1.0/26", "fd00:10:244:1::/112"]
[peer.other]
address = "10.0.0.2"
asn = {{asn}}
import = ["all"]
export = ["own"]
{{flowspec}}
"""
PING = ["ping", "-c", "1", "10.0.0.1"]
OPEN, CLOSED = "5053", "5054"  # UDP ports of the workload

AnySpeaker = Bird | GoBgp
Kind = tuple[type[AnySpeaker], int]


def kinds(*relations: tuple[type[AnySpeaker], str, int]) -> list[object]:
    """Return speakers as iBGP or eBGP neighbours."""
    return [
        pytest.param(
            (speaker, asn),
            id=f"{speaker.name}-{relation}",
            marks=pytest.mark.skipif(bool(why_not(speaker)), reason=f"{speaker.name}: {why_not(speaker)}"),
        )
        for speaker, relation, asn in relations
    ]


FEW = kinds((Bird, "ebgp", THEIRS), (GoBgp, "ibgp", ASN))
ALL = [*FEW, *kinds((Bird, "ibgp", ASN), (GoBgp, "ebgp", THEIRS))]


@dataclass(slots=True)
class Pair:
    """bgpmesh with a workload on n1, a speaker on peer."""

    cluster: Cluster
    speaker: AnySpeaker
    workload: Workload

    @property
    def lab(self) -> Lab:
        """The lab of both."""
        return self.cluster.lab

    def is_heard(self, port: str) -> bool:
        """Tell whether the workload answers on a port to the peer's node, over IPv4 and over IPv6; it may take long."""
        return all(reply(self.lab, "peer", each, port) for each in self.workload.addresses)

    def is_silent(self, port: str) -> bool:
        """Tell whether it does so over neither, to three datagrams each."""
        return not any(reply(self.lab, "peer", each, port, tries=3) for each in self.workload.addresses)

    def flows(self) -> list[tuple[str, str, str]]:
        """Return match, action and state of each flow."""
        rows = cast("list[dict[str, str]]", self.cluster.ask("n1", "policy flows"))
        return [(row["match"], row["action"], row["state"]) for row in rows]

    def await_flows(self, *expected: tuple[str, str, str]) -> None:
        """Wait until these are the flows, in their order."""
        self.cluster.until("n1", lambda: self.flows() == list(expected), f"flows {expected}, not {self.flows()}")

    def await_states(self, *expected: str) -> None:
        """Wait until the flows are in these states."""
        self.cluster.until("n1", lambda: [state for *_, state in self.flows()] == list(expected), f"{expected}")

    def was_reset_hard(self) -> bool:
        """Tell whether the last session ended so that nothing is kept (RFC 8538)."""
        (row,) = cast("list[dict[str, str]]", self.cluster.ask("n1", "peers", name="other"))
        return "hard reset" in row["went_down"]

    def filters(self, port: str | None, rate: int = 0) -> list[Filter]:
        """Return what is to be asked for about the workload, of each family."""
        ends = (f"{each}/{128 if ':' in each else 32}" for each in self.workload.addresses)
        return [Filter(end, None if port is None else int(port), rate) for end in ends]

    def keepalives(self) -> int:
        """Return how many KEEPALIVEs our metrics have counted."""
        page = metrics(self.lab, "n1")
        line = next(line for line in page.splitlines() if 'direction="in",type="keepalive"' in line)
        return int(float(line.split()[-1]))

    def ours(self) -> list[str]:
        """Return chains, rules and sets of flows on n1."""
        lines = packet_filter(self.lab, "n1") + set_names(self.lab, "n1")
        return [line for line in lines if "bm-flowspec" in line or line.endswith("-flows")]


def in_force(filters: list[Filter], action: str = "drop") -> list[tuple[str, str, str]]:
    """Return how flows of the workload are listed once they are in force."""
    ports = ["" if each.port is None else f", destination port {each.port}" for each in filters]
    return [
        (f"to {each.destination}, protocol udp{port}", action, "in force")
        for each, port in zip(filters, ports, strict=True)
    ]


def config_of(asn: int, flowspec: str) -> str:
    """Return the configuration of n1."""
    return CONFIG.format(asn=asn, flowspec=flowspec)


@contextmanager
def pair(kind: Kind, flowspec: str = "flowspec = { rules = 4 }") -> Iterator[Pair]:
    """Bring both up, with a workload that answers on two ports and a route to it."""
    speaker, asn = kind
    with lab_of("pair") as lab:
        setup = Setup(
            asn=asn,
            address="10.0.0.2",
            address6="2001:db8::2",
            neighbor="10.0.0.1",
            neighbor_asn=ASN,
            announce=("10.2.0.0/24",),
            has_flowspec=True,
        )
        cluster = Cluster(lab)
        cluster.configure("n1", config_of(asn, flowspec))
        cluster.start("n1")
        cluster.await_sync("n1")
        workload = cluster.attach("n1", name="w")
        for address in workload.addresses:
            for port in (OPEN, CLOSED):
                serve(lab, "n1", address, port, inside=workload.name)
            gateway = "2001:db8::1" if ":" in address else "10.0.0.1"
            lab.exec("peer", ["ip", "route", "add", address, "via", gateway])
        both = Pair(cluster, speaker(lab, "peer", setup), workload)
        both.speaker.start()
        until(both.speaker.is_established, f"{speaker.name} to be Established")
        cluster.until("n1", partial(cluster.has_prefixes, "n1", {"10.2.0.0/24"}), "its route")
        yield both


@pytest.mark.parametrize("kind", ALL)
def test_a_neighbour_has_packets_dropped_and_let_go_again(kind: Kind) -> None:
    """One port of a workload, over both families; it is told, counted and explained, and when withdrawn it is gone."""
    with pair(kind) as both:
        assert both.is_heard(OPEN)
        assert both.is_heard(CLOSED)
        asked = both.filters(CLOSED)
        both.speaker.ask_for(*asked)
        both.await_flows(*in_force(asked))
        assert both.is_silent(CLOSED)
        assert both.is_heard(OPEN)

        drops = cast("list[dict[str, object]]", both.cluster.ask("n1", "policy drops"))
        counted = {row["rule"]: row["packets"] for row in drops if row["policy"] == "flowspec other"}
        assert sorted(counted.values(), key=str) == [3, 3]
        assert 'bgpmesh_policy_drops_total{policy="flowspec other"} 6.0' in metrics(both.lab, "n1")
        assert 'bgpmesh_flowspec_rules{peer="other",state="in_force"} 2.0' in metrics(both.lab, "n1")
        for address, other in zip(both.workload.addresses, ("10.0.0.2", "2001:db8::2"), strict=True):
            question = {"from": other, "to": address, "protocol": "udp", "port": CLOSED, "why_not": True, "live": True}
            told = cast("dict[str, object]", both.cluster.ask("n1", "policy explain", **question))
            (step,) = cast("list[dict[str, object]]", told["steps"])
            assert (told["verdict"], step["policy"], step["packets"]) == ("deny", "flowspec other", 3)
            assert told["why_not"] == [f"node n1: rule {step['rule']} of flowspec other denies it"]
            told = cast("dict[str, object]", both.cluster.ask("n1", "policy explain", **question | {"port": OPEN}))
            assert told["verdict"] == "allow"

        both.speaker.ask_for(*both.filters(CLOSED, 1000))
        both.await_flows(*in_force(asked, "limit to 1000 bytes/s"))
        assert both.is_heard(CLOSED)
        both.speaker.ask_for()
        both.await_flows()
        both.cluster.until("n1", lambda: both.ours() == [], "nothing left of it")
        assert both.is_heard(CLOSED)


@pytest.mark.parametrize("kind", FEW)
def test_a_neighbour_cannot_close_bgp_or_ask_for_too_much(kind: Kind) -> None:
    """All that goes to the node itself is to be dropped, its session stands; a flow too many is refused by name."""
    with pair(kind) as both:
        own = [Filter("10.0.0.1/32", is_udp=False), Filter("2001:db8::1/128", is_udp=False)]
        assert both.lab.exec("peer", [*PING, "-w", "30"]).returncode == 0
        both.speaker.ask_for(*own)
        both.await_states("in force", "in force")
        assert both.lab.exec("peer", [*PING, "-W", "2"], check=False).returncode != 0
        heard = both.keepalives()
        both.cluster.until("n1", lambda: both.keepalives() >= heard + 4, "keepalives for longer than the hold time")
        both.speaker.ask_for(*own, *both.filters(CLOSED))
        both.await_states("in force", "in force", "in force", "in force")
        both.speaker.ask_for(*own, *both.filters(CLOSED), Filter("10.244.1.9/32"))
        both.await_states(*(["in force"] * 2 + ["refused"] + ["in force"] * 2))
        rows = cast("list[dict[str, str]]", both.cluster.ask("n1", "policy flows"))
        assert [row["reason"] for row in rows if row["state"] == "refused"] == ["the limit of 4 flows is reached"]
        both.cluster.until_logged("n1", 'reason="the limit of 4 flows is reached"')
        peers = cast("list[Mapping[str, object]]", both.cluster.ask("n1", "peers", name="other"))
        assert (peers[0]["state"], peers[0]["flowspec"]) == (
            "Established",
            {"rules": 4, "ttl": 3600, "in force": 4, "pending": 0, "refused": 1, "expired": 0, "not remembered": 0},
        )


@pytest.mark.parametrize("kind", FEW)
def test_flows_outlive_a_crash_of_either_end_and_not_an_orderly_end(kind: Kind) -> None:
    """Killed with -9 the neighbour's are stale and in force; so are ours over our own crash; a farewell ends them."""
    with pair(kind) as both:
        asked = both.filters(CLOSED)
        both.speaker.ask_for(*asked)
        both.await_flows(*in_force(asked))
        both.speaker.kill()
        both.cluster.until("n1", lambda: both.cluster.has_peer("n1", "other", is_up=False), "its end")
        rows = cast("list[dict[str, object]]", both.cluster.ask("n1", "policy flows"))
        assert [(row["state"], row["stale"]) for row in rows] == [("in force", True), ("in force", True)]
        assert both.is_silent(CLOSED)
        both.speaker.start()
        until(both.speaker.is_established, f"{both.speaker.name} to be Established")
        both.cluster.until(
            "n1",
            lambda: (
                [row["stale"] for row in cast("list[dict[str, object]]", both.cluster.ask("n1", "policy flows"))]
                == [False, False]
            ),
            "fresh flows",
        )
        both.await_flows(*in_force(asked))

        standing = both.ours()
        both.cluster.stop(SIGKILL, "n1")
        assert both.is_silent(CLOSED)
        both.cluster.start("n1")
        assert both.is_silent(CLOSED)
        both.cluster.await_sync("n1")
        both.await_flows(*in_force(asked))
        assert both.ours() == standing

        both.cluster.reload("n1", config_of(both.speaker.setup.asn, ""))
        both.await_flows()
        both.cluster.until("n1", lambda: both.ours() == [], "nothing left of it")
        both.cluster.until("n1", lambda: both.cluster.has_peer("n1", "other", is_up=True), "a session without FlowSpec")
        assert both.is_heard(CLOSED)
        both.cluster.reload("n1", config_of(both.speaker.setup.asn, "flowspec = { ttl = 5 }"))
        both.await_states("expired", "expired")  # they may be in force for a moment only, where rules take seconds
        both.cluster.until_logged("n1", "flow.expired")
        assert both.is_heard(CLOSED)
        both.speaker.stop()
        both.cluster.until("n1", lambda: both.cluster.has_peer("n1", "other", is_up=False), "its end")
        if isinstance(both.speaker, GoBgp) and not both.was_reset_hard():  # GoBGP 3.10 ends nothing by it (RFC 8538)
            both.await_states("expired", "expired")
        else:
            both.await_flows()
