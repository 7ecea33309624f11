"""FlowSpec from the session to the packet filter, and what operators see of it."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import cast

import pytest

from bgpmesh.control import tables, views
from bgpmesh.engine import Engine
from bgpmesh.events import (
    ChainsRead,
    ChainsWritten,
    Connected,
    Disconnected,
    EndpointAdded,
    FibRead,
    FlowsReceived,
    LinksRead,
    MessageReceived,
    OpenReceived,
    SetsWritten,
    Stopping,
    TimerFired,
)
from bgpmesh.metrics import Metrics
from bgpmesh.peering.connection import State
from bgpmesh.peering.message import Capabilities, EndOfRib, GracefulRestart, Keepalive, Negotiated, Open
from bgpmesh.peering.peer import FlowLimit
from bgpmesh.peering.session import Send
from bgpmesh.policy.attribution import Counters
from bgpmesh.policy.chains import ids_of
from bgpmesh.route.attributes import Asn, AsPath, PathAttributes, RouterId, SegmentKind
from bgpmesh.route.flow import EQ, Flow, Kind
from bgpmesh.route.nlri import FLOWSPEC, Family
from bgpmesh.route.path import PeerName
from tests.flat import pairs
from tests.unit.conftest import Running
from tests.unit.policy.test_flowspec import DROP, HOOK, LIMIT, MAIN, REDIRECT, dns
from tests.unit.route.test_flow import field, flow, to
from tests.unit.test_engine import WEB, configured, peer
from tests.unit.test_metrics import one

N2 = PeerName("n2")
ALL = (Family.IPV4, *FLOWSPEC)
RESTART = GracefulRestart(120, families=tuple((family, True) for family in ALL))
LIMITS = FlowLimit(rules=2, ttl=60)


class World:
    """A node with one neighbour from which flows are taken; the packet filter does what it is asked to."""

    def __init__(self, limit: FlowLimit | None = LIMITS, *, kernel_enabled: bool = True) -> None:
        neighbour = peer(2, flowspec=limit, listen_port=1790)
        self.configured = configured(neighbour, kernel_enabled=kernel_enabled)
        self.engine = Engine(self.configured, (), lambda: 0.0)
        self.now = 100.0
        self.connection = 0
        self.refuses = False

    def boot(self) -> None:
        """Read the kernel back."""
        self.engine.handle(LinksRead({}), self.now)
        self.engine.handle(FibRead({}, {}), self.now)
        self.settle()

    def establish(self, restart: GracefulRestart | None = RESTART) -> Open:
        """Bring the session up; returns our OPEN."""
        self.connection += 1
        address = ipaddress.ip_address("192.0.2.2")
        self.engine.handle(Connected(self.connection, N2, address, address, is_inbound=True), self.now)
        said = (c.message for c in self.engine.peers.commands if isinstance(c, Send) and isinstance(c.message, Open))
        ours = next(said)
        self.engine.peers.commands.clear()
        theirs = Open(Asn(64512), 9, RouterId(2), Capabilities(ALL, graceful_restart=restart))
        agreed = tuple(family for family in ours.capabilities.families if family in ALL)
        negotiated = Negotiated(ours, theirs, 9, agreed, four_octet_asn=True)
        self.engine.handle(OpenReceived(self.connection, negotiated), self.now)
        self.engine.handle(MessageReceived(self.connection, Keepalive()), self.now)
        self.settle()
        return ours

    def announce(self, *flows: Flow, attributes: PathAttributes = DROP, problem: str = "") -> None:
        """Let the neighbour announce flows."""
        self.engine.handle(
            FlowsReceived(self.connection, attributes, flows, (), int(bool(problem)), 0, problem), self.now
        )
        self.settle()

    def settle(self) -> None:
        """Let the engine think, and the packet filter follow, until neither has anything to do."""
        packets = self.engine.packets
        while True:
            while self.engine.work(1000, self.now):
                pass
            sets, chains = packets.sets.take(1000, self.now), packets.chains.take(1000, self.now)
            if not sets and not chains:
                return
            self.engine.handle(SetsWritten([key for key, _ in pairs(sets)], {}), self.now)
            keys = [key for key, _ in pairs(chains)]
            failed = {key: "no such match" for key in keys if key.is_of_flows and self.refuses}
            self.engine.handle(ChainsWritten([key for key in keys if key not in failed], failed), self.now)

    def rules(self) -> list[str]:
        """Return the rules of flows that stand, from the first that drops on."""
        rules = self.engine.packets.chains.actual.get(MAIN, ())
        return [rule.partition(" -m ")[0] for rule in rules if rule.endswith("-j DROP")]

    def states(self) -> list[tuple[str, str]]:
        """Return state and reason of each flow."""
        return [each[1:] for each in self.engine.flows.listing(self.engine.packets.chains.actual)]

    def told(self) -> list[str]:
        """Return the names of notes of flows."""
        return [note.name for note in self.engine.notes if note.name.startswith(("flow.", "update."))]


@pytest.fixture
def world() -> World:
    """Return a node that is in sync, with its session up."""
    made = World()
    made.boot()
    made.establish()
    return made


def test_the_families_are_offered_to_whom_the_file_names() -> None:
    """With graceful restart for each of them; nobody else is offered them."""
    for limit, families in ((LIMITS, ALL), (None, (Family.IPV4,))):
        made = World(limit)
        made.boot()
        ours = made.establish().capabilities
        restart = ours.graceful_restart
        assert restart is not None
        assert (ours.families, tuple(family for family, _ in restart.families)) == (families, families)


def test_an_end_of_rib_is_said_in_each_family(world: World) -> None:
    """RFC 4724 §4: also where there is nothing to say, and nothing ever will be."""
    said = world.engine.take(N2, 1000)
    assert [each.family for each in said if isinstance(each, EndOfRib)] == list(ALL)


def test_a_flow_comes_into_force_and_goes(world: World) -> None:
    """Announced, withdrawn; the way there is first and last, and chains are there only as long as flows are."""
    world.announce(dns(1))
    assert world.rules() == ["-d 10.244.1.1/32 -p 17"]
    assert world.engine.packets.chains.actual[HOOK][0].endswith("-j bm-flowspec")
    assert world.states() == [("in force", "")]
    assert world.engine.rib.counts(N2)[Family.IPV4] == (0, 0, 0)  # it is no route
    world.engine.handle(FlowsReceived(1, None, (), (dns(1).key,)), world.now)
    world.settle()
    assert (world.engine.packets.chains.actual, world.engine.packets.sets.actual) == ({}, {})
    assert world.told() == ["flow.taken", "flow.withdrawn"]


def test_no_flow_closes_the_ports_of_bgp(world: World) -> None:
    """Those on which this node really listens, and calls."""
    world.announce(dns(1))
    rules = world.engine.packets.chains.actual[MAIN]
    assert any("--dports" in rule and "1790" in rule for rule in rules)
    assert any("--sports" in rule and "179," in rule for rule in rules)


def test_flows_go_with_the_session_or_are_stale(world: World) -> None:
    """Kept where graceful restart was agreed for the family, and swept at its End-of-RIB."""
    world.announce(dns(1), dns(1, 6))
    world.engine.handle(Disconnected(world.connection, "reset"), world.now)
    world.settle()
    assert [state for state, _ in world.states()] == ["in force", "in force"]
    world.establish()
    world.announce(dns(1))
    for family in ALL:
        world.engine.handle(MessageReceived(world.connection, EndOfRib(family)), world.now)
    world.settle()
    assert [each.entry.flow for each in world.engine.flows.listing({})] == [dns(1)]


def test_without_graceful_restart_flows_go_at_once() -> None:
    """With the session."""
    made = World()
    made.boot()
    made.establish(None)
    made.announce(dns(1))
    made.engine.handle(Disconnected(made.connection, "reset"), made.now)
    made.settle()
    assert (made.states(), made.engine.packets.chains.actual) == ([], {})


def test_an_orderly_stop_leaves_them_in_the_kernel(world: World) -> None:
    """As it leaves routes; only `uninstall` takes them away."""
    world.announce(dns(1))
    world.engine.handle(Stopping(), world.now)
    world.settle()
    assert world.rules() == ["-d 10.244.1.1/32 -p 17"]


def test_the_timer_comes_when_a_flow_is_over(world: World) -> None:
    """`next_wakeup` knows; what a keepalive is due for is another matter."""
    world.announce(dns(1))
    world.now = 159.9
    assert world.engine.next_wakeup() <= 160.0
    for second in (120.0, 140.0, 160.0):
        world.now = second
        world.engine.handle(MessageReceived(world.connection, Keepalive()), world.now)
        world.engine.handle(TimerFired(), world.now)
        world.settle()
    assert world.states() == [("expired", "not announced again within 60 s")]
    assert world.engine.packets.chains.actual == {}
    assert world.told()[-1] == "flow.expired"


def test_who_is_in_the_path_does_not_believe_it(world: World) -> None:
    """RFC 4271 §9: our own AS, as of routes."""
    loop = replace(DROP, as_path=AsPath(((SegmentKind.SEQUENCE, (Asn(65001), Asn(64512))),)))
    world.announce(dns(1), attributes=loop)
    assert world.states() == [("refused", "loop: our AS 64512 is in AS_PATH")]


def test_what_was_malformed_is_counted_and_told(world: World) -> None:
    """As of routes (RFC 7606)."""
    world.announce(problem="flow specification ff is malformed (RFC 8955 §4.2)")
    assert world.engine.peers.faults[N2].treated_as_withdraw == 1
    assert world.told() == ["update.malformed"]


def test_flows_of_a_session_that_is_not_up_are_nothing() -> None:
    """What was still on its way when it ended."""
    made = World()
    made.boot()
    made.announce(dns(1))
    assert made.states() == []


def test_a_changed_limit_needs_no_session(world: World) -> None:
    """What waited comes in force at once; with less room, what came last no longer is."""
    world.announce(dns(1), dns(2), dns(3))
    assert [state for state, _ in world.states()] == ["in force", "in force", "refused"]
    (neighbour,) = world.configured.peers
    for rules, expected in ((3, ["in force"] * 3), (1, ["in force", "refused", "refused"])):
        changed = replace(world.configured, peers=(replace(neighbour, flowspec=FlowLimit(rules, 0)),))
        world.engine.handle(changed, world.now)
        world.settle()
        assert expected == [state for state, _ in world.states()]
    assert world.engine.peers.sessions[neighbour.name].state is State.ESTABLISHED


def test_a_refused_rule_keeps_no_workload_waiting(world: World) -> None:
    """Its link is opened when its own chains stand; the node is ready again once the flow is put aside."""
    world.refuses = True
    world.engine.handle(EndpointAdded(WEB), world.now)
    world.announce(dns(1))
    assert world.states() == [("refused", "the packet filter refuses it: no such match")]
    spec = world.engine.local.links.wanted[WEB.interface]
    assert spec.is_open
    assert world.engine.packets.unmade() == {}
    assert world.engine.packets.policy_errors


def test_without_a_kernel_nothing_is_filtered() -> None:
    """A reflector off the path: they are listed, and say why."""
    made = World(kernel_enabled=False)
    made.boot()
    made.establish()
    made.announce(dns(1))
    assert made.engine.packets.chains.wanted == {}
    (row,) = cast("list[dict[str, object]]", views.answer("policy flows", {}, Running(made.engine)))
    assert (row["state"], row["reason"]) == ("pending", "kernel.enabled is false")
    assert made.engine.work(1000, made.now) is False


def test_what_stands_at_a_start_is_held_until_in_sync() -> None:
    """Also where its rules are not known."""
    before = World()
    before.boot()
    before.establish()
    before.announce(dns(1))
    standing = before.engine.packets.chains.actual
    unknown = {MAIN: ("?", *ids_of(standing[MAIN])), HOOK: standing[HOOK]}
    made = World()
    made.engine.handle(LinksRead({}), made.now)
    made.engine.handle(ChainsRead(unknown, dict(before.engine.packets.sets.actual)), made.now)
    made.settle()
    assert made.engine.packets.chains.actual == unknown
    made.engine.handle(FibRead({}, {}), made.now)
    made.settle()
    assert made.engine.packets.chains.actual == {}


# ── what operators see ───────────────────────────────────────────────────────


@pytest.fixture
def shown() -> Running:
    """Return a daemon with flows in three states, counted."""
    made = World(FlowLimit(rules=2, ttl=3600))
    made.boot()
    made.establish()
    made.announce(dns(2))
    made.announce(dns(1), attributes=LIMIT)
    made.announce(dns(3), attributes=REDIRECT)
    running = Running(made.engine)
    packets = made.engine.packets
    running.counters.know(packets.chains.wanted, packets.protection.compiled, made.engine.flows.causes)
    count = {key: dict.fromkeys(ids_of(rules), (3, 300)) for key, rules in packets.chains.actual.items()}
    running.counters.read(count)
    return running


def rows(running: Running) -> list[dict[str, object]]:
    """Return what `policy flows` answers."""
    return cast("list[dict[str, object]]", views.answer("policy flows", {}, running))


def test_flows_are_listed_in_order_with_what_became_of_them(shown: Running) -> None:
    """Match and action in words; at second 100 of the clock they are as old as nothing."""
    keys = ("rule", "match", "action", "state", "reason", "expires_s", "packets", "passed")
    what = "protocol udp, destination port 53"
    assert [tuple(row[key] for key in keys) for row in rows(shown)] == [
        (2, f"to 10.244.1.1/32, {what}", "limit to 1000000 bytes/s", "in force", None, 3600.0, 3, 3),
        (1, f"to 10.244.1.2/32, {what}", "drop", "in force", None, 3600.0, 3, 0),
        (3, f"to 10.244.1.3/32, {what}", "accept", "refused", "redirection is not done", 3600.0, 0, 0),
    ]
    assert {row["peer"] for row in rows(shown)} == {"n2"}


def test_the_table_has_a_line_for_each(shown: Running) -> None:
    """And says so where there is none."""
    lines = tables.flows(rows(shown)).splitlines()
    assert lines[0].split() == [
        *("PEER", "RULE", "MATCH", "ACTION", "STATE", "REASON", "AGE", "EXPIRES", "PACKETS", "BYTES", "PASSED")
    ]
    assert "redirection is not done" in lines[3]
    assert "in 1 h 00 min" in lines[1]
    assert tables.flows([]) == "no flows"


def test_a_peer_in_full_has_its_flows_counted(shown: Running) -> None:
    """By state, with the limits."""
    (row,) = cast("list[dict[str, object]]", views.answer("peers", {"name": "n2"}, shown))
    assert row["flowspec"] == {
        "rules": 2,
        "ttl": 3600,
        "in force": 2,
        "pending": 0,
        "refused": 1,
        "expired": 0,
        "not remembered": 0,
    }
    assert "flowspec      2 in force, 1 refused; at most 2, each for 1 h 00 min" in tables.peer([row])


def test_status_names_what_is_not_in_force(shown: Running) -> None:
    """A line for each peer: the first flow, why, and how many more."""
    assert isinstance(status := views.answer("status", {}, shown), dict)
    reason = "not in force: redirection is not done"
    assert {"object": "flowspec n2", "field": "rule 3", "reason": reason} in status["policy"]["warnings"]


def test_the_metrics_have_every_state(shown: Running) -> None:
    """By peer, or the sums; drops by the name of the peer."""
    for per_peer, labels in ((True, {"peer": "n2"}), (False, {})):
        text = Metrics(shown, per_peer=per_peer).render()
        found = [one(text, "flowspec_rules", **labels, state=word) for word in ("in_force", "refused", "expired")]
        assert found == [2, 1, 0]
        assert one(text, "flowspec_refused_total", **labels) == 1
        assert one(text, "policy_drops_total", policy="flowspec n2") == 6


def test_an_explanation_begins_with_the_flows(shown: Running) -> None:
    """A drop ends it; `--why-not` names it, `--live` counts it; what goes on meets everything else."""
    question = {"from": "198.51.100.7", "to": "10.244.1.2", "protocol": "udp", "port": "53", "why_not": True}
    told = cast("dict[str, object]", views.answer("policy explain", {**question, "live": True}, shown))
    (step,) = cast("list[dict[str, object]]", told["steps"])
    keys = ("direction", "workload", "policy", "rule", "action", "chain", "packets")
    assert tuple(step[key] for key in keys) == ("ingress", "node n1", "flowspec n2", 1, "deny", "bm-flowspec", 3)
    assert (told["verdict"], told["why_not"]) == ("deny", ["node n1: rule 1 of flowspec n2 denies it"])
    told = cast("dict[str, object]", views.answer("policy explain", question | {"to": "10.244.1.1"}, shown))
    assert [each["action"] for each in cast("list[dict[str, object]]", told["steps"])] == ["rate-limit"]
    assert told["verdict"] == "allow"
    assert "lets it pass within the limit" in str(told["unknown"])


def test_drops_are_listed_by_peer_and_rule(shown: Running) -> None:
    """Like those of a policy."""
    found = cast("list[dict[str, object]]", views.answer("policy drops", {}, shown))
    assert sorted((str(row["policy"]), row["rule"], row["packets"]) for row in found) == [
        ("flowspec n2", 1, 3),
        ("flowspec n2", 2, 3),
    ]


def test_what_a_flow_has_counted_stays_when_others_come_and_go() -> None:
    """Its rule is written anew, at another place, and begins at nothing."""
    made = World(FlowLimit(9, 0))
    made.boot()
    made.establish()
    counters = Counters()

    def count(packets: int) -> None:
        wanted = made.engine.packets
        counters.know(wanted.chains.wanted, wanted.protection.compiled, made.engine.flows.causes)
        counters.written([MAIN])
        counters.read({MAIN: {ids_of(wanted.chains.actual[MAIN])[-1]: (packets, 0)}})

    made.announce(dns(9))
    count(5)
    made.announce(dns(1), flow(to("10.0.0.0/32"), field(Kind.PROTOCOL, (EQ, 47))))
    count(2)
    assert [(cause.rule, n) for (_, cause), (n, _) in counters.sums.items()] == [(1, 7)]
    assert counters.drops()["flowspec n2"] == 7
