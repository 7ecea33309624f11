"""What the commands answer, as JSON and as tables; the whole outputs stand in tests/golden/cli."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from bgpmesh.control import tables, views
from bgpmesh.control.cells import duration
from bgpmesh.control.server import RequestError
from bgpmesh.events import (
    ChainsWritten,
    ConnectionsCut,
    EndpointAdded,
    FloatingIpsKept,
    HostRoutesChanged,
    LinkNamesRead,
    ObjectsChanged,
    RoutesReceived,
)
from bgpmesh.policy.chains import ChainKey
from bgpmesh.policy.objects import Key, read
from bgpmesh.policy.rule import Action, Direction, Policy, Rule, Side
from bgpmesh.policy.selector import parse
from bgpmesh.rib.rule import Community, Filter, PrefixRange
from bgpmesh.rib.rule import Rule as RouteRule
from bgpmesh.route.attributes import Asn, PathAttributes
from bgpmesh.route.claim import Kind, claim
from bgpmesh.route.nlri import Family, parse_nlri
from bgpmesh.route.path import HostRoute, HostRouteKind, PeerName
from bgpmesh.workload.endpoint import Endpoint
from bgpmesh.workload.floating import FloatingIp
from bgpmesh.workload.pool import Masquerade
from tests.flat import pairs, protect
from tests.unit.policy.test_attribution import BAD, WEB, made, policy, rule_of

if TYPE_CHECKING:
    from tests.unit.conftest import Running

GOLDEN = Path(__file__).parent.parent.parent / "golden" / "cli"

Questions = dict[str, tuple[str, dict[str, object], Callable[[object], str]]]

QUESTIONS: Questions = {
    "status": ("status", {}, tables.status),
    "peers": ("peers", {"name": None}, tables.peers),
    "peer-up": ("peers", {"name": "n2"}, tables.peer),
    "peer-down": ("peers", {"name": "n3"}, tables.peer),
    "routes": ("routes", {}, tables.routes),
    "routes-prefix": ("routes", {"prefix": "10.244.2.0/26"}, tables.routes),
    "routes-received": ("routes", {"received": "n2"}, tables.routes),
    "routes-advertised": ("routes", {"advertised": "n2"}, tables.routes),
    "routes-kernel": ("routes", {"kernel": True}, tables.kernel),
    "trace-learnt": ("trace", {"prefix": "10.244.2.0/26"}, tables.trace),
    "trace-own": ("trace", {"prefix": "10.244.1.5"}, tables.trace),
    "trace-unreachable": ("trace", {"prefix": "10.244.9.0/26"}, tables.trace),
    "workload-list": ("workload list", {}, tables.workloads),
    "pool-show": ("pool show", {}, tables.pools),
}


FILTERED: Questions = {
    "filtered-received": ("routes", {"received": "n2"}, tables.routes),
    "filtered-routes": ("routes", {}, tables.routes),
    "filtered-peer": ("peers", {"name": "n2"}, tables.peer),
    "filtered-trace-changed": ("trace", {"prefix": "10.244.2.0/26"}, tables.trace),
    "filtered-trace-rejected": ("trace", {"prefix": "10.244.9.0/26"}, tables.trace),
}


def asked(running: Running, command: str, args: dict[str, object]) -> object:
    """Return an answer as it arrives at the other end of the socket."""
    answer = views.answer(command, args, running)
    plain: object = json.loads(json.dumps(list(answer) if isinstance(answer, Iterator) else answer))
    return plain


@pytest.mark.parametrize("name", QUESTIONS)
def test_output_is_as_recorded(name: str, running: Running, is_updating_golden: bool) -> None:
    """Tables and JSON are what somebody looked at and found good."""
    compare(name, QUESTIONS, running, is_updating_golden)


NEAR: Questions = {
    "near-status": ("status", {}, tables.status),
    "near-peers": ("peers", {"name": None}, tables.peers),
    "near-peer": ("peers", {"name": "n2"}, tables.peer),
}


@pytest.mark.parametrize("name", NEAR)
def test_a_limit_that_is_near_is_shown(name: str, running: Running, is_updating_golden: bool) -> None:
    """In `status`, in the list of peers and with the peer, as long as it is so."""
    configured = running.engine.configured
    limited = tuple(replace(peer, max_prefixes=2, max_prefixes_warn=2) for peer in configured.peers)
    running.engine.handle(replace(configured, peers=limited), 30.0)
    compare(name, NEAR, running, is_updating_golden)


def compare(name: str, questions: Questions, running: Running, is_updating_golden: bool) -> None:
    """Ask, and compare with what is recorded."""
    command, args, show = questions[name]
    answer = asked(running, command, args)
    for suffix, text in (("json", json.dumps(answer, indent=2) + "\n"), ("txt", show(answer) + "\n")):
        file = GOLDEN / f"{name}.{suffix}"
        if is_updating_golden:
            file.write_text(text, encoding="utf-8")
        assert file.read_text(encoding="utf-8") == text


def with_filters(running: Running) -> None:
    """Put n2 under filters: one prefix is rejected, the other changed."""
    pods = RouteRule(
        prefix=(PrefixRange(ipaddress.ip_network("10.244.2.0/24"), 24, 32),),
        action="accept",
        local_pref=200,
        remove_community=(Community("64512:*"),),
        add_community=(Community("64512:200"),),
    )
    running.engine.handle(
        replace(
            running.engine.configured,
            peers=tuple(replace(peer, imports=("pods-only",)) for peer in running.engine.configured.peers),
            filters=(Filter("pods-only", "reject", (pods,)),),
        ),
        24.0,
    )
    while running.engine.work(1000, 24.0):
        pass


@pytest.mark.parametrize("name", FILTERED)
def test_output_under_filters_is_as_recorded(name: str, running: Running, is_updating_golden: bool) -> None:
    """Before and after import, who changed it, who rejected it; the session is the one it was."""
    with_filters(running)
    assert running.engine.peers.sessions[PeerName("n2")].established_at == 11.0
    compare(name, FILTERED, running, is_updating_golden)


def test_every_recorded_output_is_still_asked_for() -> None:
    """No golden file is left over from a question that nobody asks any more."""
    recorded = {file.stem for file in GOLDEN.iterdir() if not file.name.startswith("check")}
    assert recorded == {*QUESTIONS, *FILTERED, *NEAR}


def test_the_keys_of_status_are_those_of_the_contract(running: Running) -> None:
    """Programs find every field they were promised."""
    status = asked(running, "status", {})
    assert isinstance(status, dict)
    promised = {"node", "ready", "reasons", "uptime_s", "peers", "rib", "fib", "policy"}
    assert promised <= status.keys()
    assert {"wanted", "installed", "failed", "drift_repaired"} == status["fib"].keys()
    peer = {"name", "address", "asn", "state", "uptime_s", "received", "accepted", "advertised", "last_error"}
    assert peer | {"treated_as_withdraw", "attributes_discarded", "bfd"} <= status["peers"][0].keys()


def test_floating_addresses_are_listed_with_what_they_lead_to_or_why_not(running: Running) -> None:
    """Also the peer's that says so; what cannot be is an error of the packet filter in `status`, and no reason."""
    engine = running.engine
    assert (asked(running, "floating-ip list", {}), tables.floating_ips([])) == ([], "no floating addresses")
    kept = (
        FloatingIp(ipaddress.ip_address("203.0.113.10"), "default/web", outbound=True),
        FloatingIp(ipaddress.ip_address("203.0.113.11"), "default/db"),
        FloatingIp(ipaddress.ip_address("2001:db8:f::10"), "default/web"),
    )
    engine.handle(FloatingIpsKept(kept), 24.0)
    said = PathAttributes(
        next_hop=ipaddress.ip_address("192.0.2.2"), large_communities=(claim(Asn(64512), Kind.FLOATING),)
    )
    engine.handle(RoutesReceived(1, said, [parse_nlri("203.0.113.12/32")], [], 24.0), 24.0)
    protect(engine, 24.0)
    engine.work(1000, 24.0)
    shown = asked(running, "floating-ip list", {})
    assert tables.floating_ips(shown).splitlines() == [
        "EXTERNAL        WORKLOAD     ADDRESS     OUTBOUND  ANNOUNCED  FROM     PROBLEM",
        "203.0.113.10    default/web  10.244.1.5  yes       yes        command  under way",
        "203.0.113.11    default/db               no        no         command  no workload default/db on this node",
        "2001:db8:f::10  default/web              no        no         command  default/web has no IPv6 address",
        "203.0.113.12                                       no         peer n2",
    ]
    cut = [address for address, _ in pairs(engine.packets.leads.connections.take(9, 25.0))]
    engine.handle(ConnectionsCut(cut, {}), 25.0)
    first = asked(running, "floating-ip list", {})
    assert isinstance(first, list)
    assert first[0] == {
        "external": "203.0.113.10",
        "workload": "default/web",
        "outbound": True,
        "from": "command",
        "address": "10.244.1.5",
        "announced": True,
        "problem": None,
    }
    status = asked(running, "status", {})
    assert isinstance(status, dict)
    assert [(row["object"], row["reason"]) for row in status["policy"]["errors"]] == [
        ("floating_ip 203.0.113.11", "no workload default/db on this node"),
        ("floating_ip 2001:db8:f::10", "default/web has no IPv6 address"),
    ]


def test_a_node_with_reasons_is_not_ready(running: Running) -> None:
    """Ready means that there is no reason not to be."""
    running.problems.append("starting")
    status = asked(running, "status", {})
    assert isinstance(status, dict)
    assert status | {"ready": False, "reasons": ["starting"]} == status


def test_an_address_means_the_longest_prefix_around_it(running: Running) -> None:
    """People ask about addresses; without a host route the prefix that covers it is meant."""
    shown = [asked(running, "routes", {"prefix": text}) for text in ("10.244.2.9", "10.244.1.5", "10.244.1.6")]
    prefixes = [[route["prefix"] for route in answer] for answer in shown if isinstance(answer, list)]
    assert prefixes == [["10.244.2.0/26"], ["10.244.1.5/32"], ["10.244.1.0/26"]]


def test_a_prefix_that_nobody_has_is_an_empty_answer(running: Running) -> None:
    """Nothing known is no error; the command's exit code says so."""
    assert asked(running, "routes", {"prefix": "203.0.113.0/24"}) == []


@pytest.mark.parametrize(
    ("command", "args", "kind"),
    [
        ("peers", {"name": "n9"}, "not-found"),
        ("routes", {"received": "n9"}, "not-found"),
        ("routes", {"prefix": "10.0.0.1/8"}, "bad-request"),
        ("routes", {"prefix": ["x"]}, "bad-request"),
        ("trace", {"prefix": "203.0.113.0/24"}, "not-found"),
        ("trace", {}, "bad-request"),
        ("drain", {}, "bad-request"),
    ],
)
def test_what_cannot_be_answered_has_a_kind(command: str, args: dict[str, object], kind: str, running: Running) -> None:
    """A wrong question raises RequestError, never anything else."""
    with pytest.raises(RequestError) as caught:
        asked(running, command, args)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (0.25, "0.2 s"),
        (59.9, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7800, "2 h 10 min"),
        (356_400, "4 d 03 h"),
        (None, ""),
    ],
)
def test_durations_are_read_at_a_glance(seconds: object, expected: str) -> None:
    """Two units at most."""
    assert duration(seconds) == expected


def test_a_node_without_workloads_says_so() -> None:
    """Not a head with nothing below it."""
    blocks = [{"cidr": "10.244.1.0/26", "pool": "default", "used": 0, "free": 64}]
    said = tables.pools({"blocks": blocks, "addresses": []})
    assert said.splitlines()[1:] == ["10.244.1.0/26  default     0    64", "", "no address is in use"]


def test_the_error_of_an_earlier_session_is_not_shown_as_if_it_were_current() -> None:
    """A row has no error of a session that is up; in full it is why it went down before. JSON has both, as ever."""
    down = {"name": "n2", "state": "Active", "last_error": "connection refused", "went_down": "hold timer expired"}
    again = {**down, "state": "Established", "last_error": "hold timer expired"}
    assert [row.split()[2:] for row in tables.peers([down, again]).splitlines()[1:]] == [["connection", "refused"], []]
    assert "last error  connection refused\nwent down   hold timer expired" in tables.peer([down])
    assert "went down  hold timer expired" in (shown := tables.peer([again]))
    assert "last error" not in shown


def test_tables_obey_nobody() -> None:
    """Control characters that a peer said do not reach the terminal."""
    assert "\x1b" not in tables.peers([{"name": "n2", "last_error": "\x1b[2Jgone"}])


def test_what_the_packet_filter_refuses_is_in_status(running: Running) -> None:
    """By the object and the reason; a node whose pools cannot be masqueraded is told why, each reason once."""
    engine = running.engine
    before = engine.packets.rules_in_force
    (one, two) = (ChainKey(6, "nat", chain) for chain in ("POSTROUTING", "bm-POSTROUTING"))
    for key in (one, two, ChainKey(4, "nat", "bm-POSTROUTING")):
        engine.packets.chains.want(key, ("-j RETURN",))
    engine.packets.chains.take(10, 90.0)
    engine.handle(ChainsWritten([ChainKey(4, "nat", "bm-POSTROUTING")], dict.fromkeys((one, two), "none here")), 90.0)
    status = asked(running, "status", {})
    assert isinstance(status, dict)
    assert status["policy"] == {
        "policies": 0,
        "rules": before + 1,
        "errors": [
            {"object": "chain nat POSTROUTING (IPv6)", "field": "", "reason": "none here"},
            {"object": "chain nat bm-POSTROUTING (IPv6)", "field": "", "reason": "none here"},
        ],
        "warnings": [],
        "identities": 0,
    }
    assert views.unmade(engine) == ["chain nat POSTROUTING (IPv6) and 1 more: none here"]
    shown = tables.status(status)
    assert f"packet filter  0 policies, {before + 1} rules, 2 errors" in shown
    assert shown.count("  - chain nat") == 2
    assert tables.status(status | {"reasons": views.unmade(engine)}).count("  - chain nat") == 1, "said already"


def test_a_guard_that_cannot_be_had_is_a_warning_in_status(running: Running) -> None:
    """Once, and no reason not to be ready."""
    engine = running.engine
    keys = [ChainKey(4, "security", chain) for chain in ("INPUT", "bm-INPUT")]
    for key in keys:
        engine.packets.chains.want(key, ("-j RETURN",))
    engine.packets.chains.take(10, 90.0)
    engine.handle(ChainsWritten([], dict.fromkeys(keys, "no such table")), 90.0)
    status = asked(running, "status", {})
    assert isinstance(status, dict)
    reason = "no second guard of the host (IPv4): no such table"
    assert status["policy"]["errors"] == []
    assert status["policy"]["warnings"] == [{"object": "[policy]", "field": "workload_to_host", "reason": reason}]
    assert views.unmade(engine) == []
    assert f"[policy] workload_to_host {reason}" in tables.status(status)


def test_status_names_policies_that_ask_for_more_than_is_known(running: Running) -> None:
    """By object and rule; with identity only those that ask for a part of a value, and workloads nobody hears of."""
    engine = running.engine
    selectors = [parse("app == 'web'"), parse("app contains 'w'")]
    rules = tuple(Rule(Action.ALLOW, source=Side(selector=each)) for each in selectors)
    policy = Policy("p", "default", types=frozenset({Direction.INGRESS}), ingress=rules)
    engine.handle(ObjectsChanged({Key("NetworkPolicy", "default", "p"): policy}), 90.0)
    engine.work(1000, 90.0)

    def warned() -> list[tuple[str, str]]:
        status = asked(running, "status", {})
        assert isinstance(status, dict)
        shown = tables.status(status)
        assert all(row["reason"] in shown for row in status["policy"]["warnings"])
        return [(row["object"], row["field"]) for row in status["policy"]["warnings"]]

    assert [("NetworkPolicy default/p", "ingress[0]"), ("NetworkPolicy default/p", "ingress[1]")] == warned()
    engine.handle(replace(engine.configured, has_identity=True), 91.0)
    assert [("NetworkPolicy default/p", "ingress[1]")] == warned()
    elsewhere = engine.local.addresses.request("default/far", (ipaddress.ip_address("10.250.0.1"),))
    engine.handle(EndpointAdded(Endpoint("far", "default", (), elsewhere, "bgpmy", "/run/netns/far")), 92.0)
    assert ("workload default/far", "ip") in warned()
    engine.handle(replace(engine.configured, owners=engine.configured.owners[:1]), 93.0)
    assert [] == warned(), "it is the only node"


def test_drops_and_steps_carry_what_the_rules_have_seen(running: Running) -> None:
    """By rule, the most first, with the workload where it can only be one; zero is a number and no rule is none."""
    chains, compiled = made(policy("web", BAD, WEB), replace(policy("next", WEB), is_staged=True))
    running.counters.know(chains, compiled)
    running.engine.packets.protection.compiled = compiled
    for name, number, count in (("shop/web", 1, 3), ("(invalid)", None, 5)):
        key, rule = rule_of(chains, compiled, name, number)
        running.counters.read({key: {rule: (count, 100 * count)}})
    first, second = cast("list[dict[str, object]]", asked(running, "policy drops", {}))
    assert (first["policy"], first["packets"], first["workload"]) == ("(invalid)", 5, None)
    shown = {"policy": "shop/web", "tier": "default", "rule": 1, "action": "deny", "direction": "ingress"}
    assert shown | {"workload": "shop/db", "workloads": 1, "packets": 3, "bytes": 300} == {
        key: value for key, value in second.items() if key != "chain"
    }
    assert tables.drops([first, second]).splitlines()[2].split()[0] == "shop/web"
    assert tables.drops([]) == "nothing was dropped"
    assert asked(running, "policy drops", {"staged": True}) == []
    question: dict[str, object] = {"from": "192.0.2.7", "to": "shop/db", "port": "80", "live": True}
    told = cast("dict[str, list[dict[str, object]]]", asked(running, "policy explain", question))
    keys = ("policy", "rule", "action", "packets", "bytes", "staged")
    assert [tuple(step[key] for key in keys) for step in told["steps"]] == [
        ("shop/next", 1, "allow", 0, 0, True),
        ("shop/web", 1, "deny", 3, 300, False),
    ]
    assert "allow (staged)" in tables.explanation(told)
    question["from"] = "198.51.100.7"
    told = cast("dict[str, list[dict[str, object]]]", asked(running, "policy explain", question))
    assert [(step["policy"], step["packets"]) for step in told["steps"]] == [("shop/next", 0), ("shop/web", 0)]
    (row,) = cast("list[dict[str, list[dict[str, object]]]]", asked(running, "policy list", {}))
    assert (row["ingress"][0]["policies"], row["ingress"][0]["staged"]) == (["shop/web"], ["shop/next"])


DROP: dict[str, object] = {
    "time": None,
    "policy": "shop/db",
    "tier": "default",
    "rule": 2,
    "direction": "ingress",
    "workload": "shop/db",
    "from": "shop/web",
    "to": "shop/db",
    "source": "fd00::1",
    "destination": "fd00::2",
    "protocol": "udp",
    "source_port": 4000,
    "port": 53,
    "icmp": None,
}


def test_a_drop_is_a_line() -> None:
    """Who dropped it, whose it was, and its ends; control characters are nobody's to send."""
    assert tables.drop(DROP) == (
        "- shop/db rule 2 ingress of shop/db: udp [fd00::1]:4000 (shop/web) > [fd00::2]:53 (shop/db)"
    )
    echo = DROP | {"rule": None, "protocol": "icmp", "icmp": "8/0", "source": "10.0.0.1", "destination": "10.0.0.2"}
    echo |= dict.fromkeys(("source_port", "port", "from"))
    assert tables.drop(echo) == "- shop/db default ingress of shop/db: icmp 8/0 10.0.0.1 > 10.0.0.2 (shop/db)"
    spoofed = DROP | {"policy": "(spoofed)\x1b[2J"} | dict.fromkeys(("tier", "rule", "direction", "to"))
    assert tables.drop(spoofed).startswith("- (spoofed)?[2J of shop/db: udp [fd00::1]:4000")
    assert tables.drop({"lost": 3}) == "(3 or more were too fast to be shown)"


def test_host_endpoints_are_listed_and_explained(running: Running) -> None:
    """After the workloads, phase by phase; the interface that a packet comes by is looked up."""
    engine = running.engine
    head = {"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": "lan"}}
    objects = read([{**head, "spec": {"node": "n1", "interfaceName": "eth0"}}]).objects
    engine.handle(ObjectsChanged(objects), 24.0)
    engine.handle(LinkNamesRead({2: "eth0"}), 24.0)
    engine.work(1000, 24.0)
    rows = asked(running, "policy list", {})
    assert isinstance(rows, list)
    seen = [(row["workload"], row["interface"], row["phase"]) for row in rows]
    assert [("default/web", "bgpmx", "normal"), ("host n1/lan", "eth0", "normal")] == seen
    assert "host n1/lan" in tables.policies(rows)
    told = asked(running, "policy explain", {"from": "192.0.2.77", "to": "n1", "port": "22"})
    assert isinstance(told, dict)
    assert [("host n1/lan", "(failsafe_inbound)")] == [(step["workload"], step["policy"]) for step in told["steps"]]
    assert "failsafe_inbound" in tables.explanation(told)


def test_the_explanation_has_what_packets_are_translated_to(running: Running) -> None:
    """As texts, in a column of its own; which address masquerades is the link's, where that is known."""
    engine = running.engine
    pools = tuple(replace(pool, masquerade=Masquerade()) for pool in engine.configured.pools)
    engine.handle(replace(engine.configured, pools=pools), 24.0)
    external = ipaddress.ip_address("203.0.113.10")
    engine.handle(FloatingIpsKept((FloatingIp(external, "default/web"),)), 24.0)
    engine.work(1000, 24.0)
    told = asked(running, "policy explain", {"from": "198.51.100.7", "to": str(external), "port": "80", "live": True})
    assert isinstance(told, dict)
    first, second = told["steps"]
    assert first == {
        "direction": "ingress",
        "workload": "default/web",
        "tier": None,
        "policy": None,
        "rule": None,
        "action": "dnat",
        "chain": "bm-fip-dnat",
        "to": "10.244.1.5",
        "staged": False,
        "packets": None,
        "bytes": None,
    }
    assert (second["action"], second["to"]) == ("allow", None)
    lines = tables.explanation(told).splitlines()
    assert lines[2].split() == ["DIRECTION", "WORKLOAD", "POLICY", "RULE", "ACTION", "TO", "CHAIN"]
    assert "dnat    10.244.1.5" in lines[3]

    outwards: dict[str, object] = {"from": "default/web", "to": "192.0.2.77"}
    told = asked(running, "policy explain", outwards)
    assert isinstance(told, dict)
    assert (told["steps"][-1]["action"], told["steps"][-1]["to"]) == ("masquerade", None)
    assert told["unknown"] == ["192.0.2.77: which address of eth0 it is masqueraded by"]
    own = HostRoute(parse_nlri("192.0.2.1/32"), 2, None, 0, HostRouteKind.LOCAL, 2, 255)
    engine.handle(HostRoutesChanged((own,), ()), 25.0)
    told = asked(running, "policy explain", outwards)
    assert isinstance(told, dict)
    assert (told["steps"][-1]["to"], told["unknown"]) == ("192.0.2.1", [])

    lie = asked(running, "policy explain", {"from": str(external), "to": "192.0.2.77", "why_not": True})
    assert isinstance(lie, dict)
    assert [(step["workload"], step["policy"]) for step in lie["steps"]] == [("default/web", "(spoofed)")]
    assert lie["why_not"] == ["no workload sends from a floating address: (spoofed) denies it"]


def test_long_lived_stale_paths_are_told_apart(running: Running) -> None:
    """`routes` marks them, `peers NAME` counts them."""
    engine, families = running.engine, frozenset({Family.IPV4})
    engine.rib.peer_down(PeerName("n2"), families)
    assert "\nstale         2 prefixes\n" in tables.peer(asked(running, "peers", {"name": "n2"}))
    engine.rib.outlive(PeerName("n2"), families)
    while engine.work(1000, 24.0):
        pass
    assert "\nstale         2 prefixes, 2 of them long-lived stale\n" in tables.peer(
        asked(running, "peers", {"name": "n2"})
    )
    lines = tables.routes(asked(running, "routes", {})).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("*S")] == ["10.244.2.0/26"]
    (route,) = cast("list[dict[str, list[dict[str, object]]]]", asked(running, "routes", {"prefix": "10.244.2.0/26"}))
    assert [(path["stale"], path["long_lived_stale"]) for path in route["paths"]] == [(True, True)]
