"""Chains as text, and the difference between two of them."""

from __future__ import annotations

import ipaddress
import itertools
import re
from dataclasses import replace

import pytest

from bgpmesh.policy.chains import ChainKey, Rules, ids_of, restore_text
from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.iptables import BIN, HOOKS, SPARE, Options, render
from bgpmesh.policy.model import Member, Model, Packet
from bgpmesh.policy.rule import TCP, Action, Direction, Icmp, Policy, PortRange, Profile, Rule, Side
from bgpmesh.policy.selector import parse
from tests.property.chains import IN, THROUGH, Flow, Host, Tables, Way, restore, travel

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def model(count: int, *policies: Policy) -> Model:
    """Return a node with so many workloads, whose links differ in their first and in their last character."""
    members = [
        Member(
            f"shop/w{n}",
            {"n": str(n % 2)},
            (ipaddress.ip_address("10.0.0.0") + n, ipaddress.ip_address("fd00::") + n),
            {},
            f"bgpm{ALPHABET[n % 4]}{ALPHABET[n // 4 % 32]}{n // 128:09d}",
            ("kns.shop",),
        )
        for n in range(count)
    ]
    return Model((), policies, (Profile("kns.shop"),), (), {m.key: m for m in members})


def policy(name: str, *rules: Rule, selector: str = "all()") -> Policy:
    """Return a policy on what reaches those it selects."""
    return Policy(name, selector=parse(selector), types=frozenset({Direction.INGRESS}), ingress=rules)


def table(found: dict[ChainKey, Rules], name: str = "filter", family: int = 4) -> dict[str, Rules]:
    """Return the chains of one table, built-in ones as they begin."""
    return {k.chain: rules for k, rules in found.items() if (k.family, k.table) == (family, name)}


def chains(of: Model, family: int = 4, options: Options = Options()) -> dict[str, Rules]:
    """Return the filter table."""
    return table(render(Compiler().compile(of), options), family=family)


def bare(rules: tuple[str, ...]) -> list[str]:
    """Return rules without their ids."""
    return [re.sub(r"-m comment --comment bm:[\w-]{16} ", "", rule) for rule in rules]


HTTP = Rule(Action.ALLOW, protocol=TCP, destination=Side(ports=(PortRange(80, 80), PortRange(8000, 8080))))


def test_a_policys_rules_are_a_chain() -> None:
    """An allow marks and returns, a deny drops, a pass marks, a log says whose it is."""
    net = Side(nets=(ipaddress.ip_network("192.0.2.0/24"),))
    ping = Rule(Action.PASS, icmp=Icmp(8, 0))
    found = chains(model(1, policy("p", HTTP, Rule(Action.DENY, source=net), ping, Rule(Action.LOG, not_protocol=17))))
    (chain,) = (name for name in found if name.startswith("bm-pi-"))
    expected = [
        "-p 6 -m multiport --dports 80,8000:8080 -g bm-allow",
        "-s 192.0.2.0/24 -j DROP",
        "-p 1 -m icmp --icmp-type 8/0 -g bm-pass",
        f"! -p 17 -j LOG --log-prefix {chain}:",
        "-j MARK --set-xmark 0x8000000/0x8000000",
    ]
    assert expected == bare(found[chain])


def test_what_denies_or_passes_on_has_to_be_gone_through() -> None:
    """An emptied chain of such a policy lets through less, not more; one that only allows needs no more rules."""
    denies, allows = policy("a", Rule(Action.DENY, protocol=TCP)), policy("b", Rule(Action.ALLOW))
    passes = policy("a", Rule(Action.PASS, protocol=TCP))
    last = replace(denies, tier="next")
    for policies in ((denies, allows), (denies, replace(denies, name="aa"), allows), (passes, allows, last)):
        found = chains(model(2, *policies))
        bodies = [name for name in found if name.startswith("bm-pi-")]
        assert len(bodies) == len(policies)
        for flushed in (*bodies, ""):
            kept = {name: () if name == flushed else rules for name, rules in found.items()}
            assert "DROP" == run(kept, flow())
    udp = Packet(ipaddress.ip_address("10.0.0.0"), ipaddress.ip_address("10.0.0.1"), 17, 40_000, 80)
    assert "ACCEPT" == run(chains(model(2, denies, allows)), flow(packet=udp))


def test_the_source_of_a_packet_is_looked_at_twice() -> None:
    """By rules of ours for IPv6, by one and the kernel's own filter for IPv4."""
    found = render(Compiler().compile(model(1)))
    tables = [(f, name) for f in (4, 6) for name in ("raw", "mangle") if "bm-PREROUTING" in table(found, name, f)]
    assert [(4, "raw"), (6, "raw"), (6, "mangle")] == tables


@pytest.mark.parametrize("family", [4, 6])
def test_the_host_is_guarded_twice_where_workloads_may_not_reach_it(family: int) -> None:
    """Neighbour discovery and answers apart."""
    guard = table(render(Compiler().compile(model(2))), "mangle", family)
    start = ipaddress.ip_address("10.0.0.0" if family == 4 else "fd00::")
    assert "DROP" == run(guard, flow(packet=Packet(start, start, TCP, 1, 2), out=""), "INPUT")
    assert run(guard, flow(packet=Packet(start, start, TCP, 1, 2), out="", state="ESTABLISHED"), "INPUT") is None
    revoked = flow(packet=Packet(start, start, TCP, 1, 2), out="", state="ESTABLISHED", connmark=Options().revoked)
    assert "DROP" == run(guard, revoked, "INPUT")
    assert run(guard, flow(packet=Packet(start, start, TCP, 1, 2), out="", into="eth0"), "INPUT") is None
    solicitation = flow(packet=Packet(start, start, 58, icmp=Icmp(135, 0)), out="")
    assert run(guard, solicitation, "INPUT") == (None if family == 6 else "DROP")


def test_a_class_asks_its_policies_then_its_profiles() -> None:
    """Who is accepted returns; the end of a tier and the end of all drop."""
    found = chains(model(1, policy("p", HTTP)))
    body, profile, stack = (next(n for n in found if n.startswith(start)) for start in ("bm-pi-", "bm-ri-", "bm-ci-"))
    back = "-m mark --mark 0x1000000/0x1000000 -j RETURN"
    assert [f"-j {body}", back, "-j DROP", f"-j {profile}", back, "-j DROP"] == bare(found[stack])


def test_a_workload_is_one_rule_in_each_direction() -> None:
    """On to the class; marks were cleared before."""
    found = chains(model(1))
    for letter, direction in (("f", "e"), ("t", "i")):
        rules = bare(found[f"bm-{letter}w-bgpmaa000000000"])
        (stack,) = (name for name in found if name.startswith(f"bm-c{direction}-"))
        assert [f"-g {stack}"] == rules


def test_a_new_workload_of_a_known_class_rewrites_its_own_chains_and_the_dispatch_only() -> None:
    """Nothing of policies is touched."""
    before, after = chains(model(2, policy("p", HTTP))), chains(model(3, policy("p", HTTP)))
    changed = {name for name in after if before.get(name) != after[name]}
    assert {"bm-fd-bgpm", "bm-td-bgpm", "bm-fw-bgpmca000000000", "bm-tw-bgpmca000000000"} == changed


@pytest.mark.parametrize("count", [1, BIN, BIN + 1, 200])
def test_the_dispatch_finds_every_workload_and_drops_who_is_none(count: int) -> None:
    """However many there are; and no chain asks for more interfaces than characters can follow."""
    found = chains(model(count))
    names = sorted(name[6:] for name in found if name.startswith("bm-fw-"))
    ends = {name: [f"-i {name[6:]} -j ACCEPT"] if name.startswith("bm-fw-") else bare(r) for name, r in found.items()}
    host = Host(ends, {})
    packet = Packet(ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("10.0.0.2"), TCP)
    assert len(names) == count
    assert all(host.run("bm-fd-bgpm", Flow(packet, into=name)) == "ACCEPT" for name in names)
    assert "DROP" == host.run("bm-fd-bgpm", Flow(packet, into="bgpmaa99999999x"))
    assert max(len(rules) for name, rules in found.items() if name.startswith("bm-fd-")) <= len(ALPHABET) + 1


def run(found: dict[str, tuple[str, ...]], flow: Flow, hook: str = "FORWARD") -> str | None:
    """Run a packet through the chains."""
    return Host({name: list(rules) for name, rules in found.items()}, {}).run(hook, flow)


def flow(**change: object) -> Flow:
    """Return a packet from the first to the second workload, or as changed."""
    packet = Packet(ipaddress.ip_address("10.0.0.0"), ipaddress.ip_address("10.0.0.1"), TCP, 40_000, 80)
    return replace(Flow(packet, "bgpmaa000000000", "bgpmba000000000"), **change)  # type: ignore[arg-type]


DENY_ALL = policy("none")


def test_a_pass_ends_its_tier_and_no_other() -> None:
    """What stands behind it in the tier is not asked, and the next tier is asked afresh."""
    http, rest = Rule(Action.PASS, protocol=TCP), Rule(Action.DENY, protocol=TCP)
    first = policy("p", Rule(Action.PASS), rest)
    second = replace(policy("q", http, rest), tier="next")
    found = chains(model(2, first, second))
    ends = ipaddress.ip_address("10.0.0.0"), ipaddress.ip_address("10.0.0.1")
    assert "ACCEPT" == run(found, flow())
    assert "DROP" == run(found, flow(packet=Packet(*ends, 17, 40_000, 80)))


def test_what_is_established_passes_before_any_policy_and_what_is_revoked_does_not() -> None:
    """And what connection tracking calls invalid is dropped, allowed or not."""
    closed, opened = chains(model(2, DENY_ALL)), chains(model(2))
    assert "ACCEPT" == run(closed, flow(state="ESTABLISHED"))
    assert "DROP" == run(closed, flow())
    assert "ACCEPT" == run(opened, flow())
    assert "DROP" == run(opened, flow(state="INVALID"))
    assert "DROP" == run(opened, flow(state="ESTABLISHED", connmark=0x0100_0000))


def test_what_passes_has_the_mark_whatever_it_came_with() -> None:
    """A second guard can ask for it."""
    for state in ("NEW", "ESTABLISHED"):
        one = flow(state=state, mark=0x0200_0001)
        assert "ACCEPT" == run(chains(model(2)), one)
        assert one.mark & 0x0100_0001 == 0x0100_0001


def test_other_peoples_packets_are_left_alone() -> None:
    """What neither comes from nor goes to a link of ours has no verdict."""
    for hook in ("FORWARD", "INPUT", "OUTPUT"):
        one = flow(into="eth0", out="docker0")
        assert run(chains(model(2)), one, hook) is None
        assert one.mark == 0


@pytest.mark.parametrize("family", [4, 6])
def test_an_emptied_chain_opens_nothing(family: int) -> None:
    """Whichever of those between the hook and the policies somebody flushes, what was denied stays denied."""
    found = chains(model(2, DENY_ALL, policy("p", HTTP, selector="n == 'x'")), family)
    start = ipaddress.ip_address("10.0.0.0" if family == 4 else "fd00::")
    packet = Packet(start, start + 1, TCP, 40_000, 80)
    assert run(found, flow(packet=packet)) == "DROP"
    for name in found.keys() - {"FORWARD"}:
        kept = {chain: () if chain == name else rules for chain, rules in found.items()}
        assert run(kept, flow(packet=packet, mark=0x0100_0000)) in {
            "DROP",
            None if name == "bm-forwarded" else "DROP",
        }


@pytest.mark.parametrize(("to_host", "verdict"), [("deny", "DROP"), ("allow", "ACCEPT"), ("return", None)])
def test_a_workload_reaches_its_host_as_the_option_says(to_host: str, verdict: str | None) -> None:
    """After its own policies."""
    found = chains(model(2), options=Options(to_host=to_host))
    assert verdict == run(found, flow(out=""), "INPUT")
    closed = replace(DENY_ALL, types=frozenset({Direction.EGRESS}))
    assert "DROP" == run(chains(model(2, closed), options=Options(to_host=to_host)), flow(out=""), "INPUT")


def test_neighbour_discovery_reaches_the_host_and_router_advertisements_do_not() -> None:
    """IPv6 only, and whatever the policies."""
    found = chains(model(2, replace(DENY_ALL, types=frozenset(Direction))), 6)
    start = ipaddress.ip_address("fd00::")
    verdicts = [
        run(found, flow(packet=Packet(start, start, 58, icmp=Icmp(kind, 0)), out=""), "INPUT")
        for kind in (133, 134, 135, 136, 128)
    ]
    assert ["ACCEPT", "DROP", "ACCEPT", "ACCEPT", "DROP"] == verdicts


def test_the_host_reaches_its_workloads() -> None:
    """Ours says nothing to what the host sends."""
    assert run(chains(model(2, DENY_ALL)), flow(into=""), "OUTPUT") is None


def test_names_fit_and_begin_with_our_mark() -> None:
    """28 characters of a chain."""
    found = chains(model(40, replace(policy("p" * 253, HTTP), namespace="n" * 253)))
    assert all(name.startswith("bm-") and len(name) <= 28 for name in found.keys() - HOOKS["filter"])


@pytest.mark.parametrize(
    "name", ["bgpm a", "bgpm\n-A", "bgpm -j ACCEPT", "eth0", "bgpmx+", "bgpm'", "bgpm" + "x" * 12, ""]
)
def test_a_link_that_is_called_otherwise_is_refused(name: str) -> None:
    """Nothing that is not a plain name of ours reaches the text."""
    one = model(1)
    odd = replace(one, members={key: replace(member, interface=name) for key, member in one.members.items()})
    with pytest.raises(ValueError, match="no name of a workload's link"):
        chains(odd)


def test_names_of_people_do_not_reach_the_text() -> None:
    """A policy may be called anything, and so may a tier, a profile and a port."""
    evil = "x\n-A INPUT -j ACCEPT\n"
    one = model(
        1, replace(policy(evil, Rule(Action.ALLOW, destination=Side(ports=(evil,)))), tier=evil, namespace=evil)
    )
    member = replace(one.members["shop/w0"], profiles=(evil,))
    text = restore_text("filter", chains(replace(one, profiles=(Profile(evil),), members={member.key: member})))
    assert "INPUT -j ACCEPT" not in text
    assert "bm-4-" in text


def test_an_id_depends_on_the_chain_and_on_what_stands_before() -> None:
    """The same rule elsewhere has another id; the same chain has the same ids."""
    deny, first = Rule(Action.DENY), Rule(Action.ALLOW, protocol=17)
    one, two = (chains(model(1, policy("p", *rules))) for rules in ((deny, deny), (first, deny)))
    (chain,) = (name for name in one if name.startswith("bm-pi-"))
    assert len({each for rules in one.values() for each in ids_of(rules)}) == sum(map(len, one.values()))
    assert bare(one[chain])[1] == bare(two[chain])[1]
    assert one[chain][1] != two[chain][1]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("to_host", "unused"), [("deny", SPARE), ("allow", set()), ("return", set())])
def test_the_hooks_lead_to_our_chains_in_every_table(to_host: str, unused: set[str], family: int) -> None:
    """With ids, to chains that are there; nothing is dropped or accepted on the way."""
    found = render(Compiler().compile(model(1)), Options(to_host=to_host))
    hooks = [key for key in found if key.family == family and not key.is_ours]
    assert {key.table for key in hooks} == HOOKS.keys() - unused
    for key in hooks:
        assert key.chain in HOOKS[key.table]
        assert all(ids_of(found[key]))
        targets = [rule.partition("-j ")[2].split()[0] for rule in found[key]]
        assert {t for t in targets if ChainKey(family, key.table, t) not in found} <= {"MARK"}


@pytest.mark.parametrize("family", [4, 6])
def test_what_has_no_rules_is_no_chain_and_no_hook(family: int) -> None:
    """A packet pays for every hook that it passes."""
    found = render(Compiler().compile(model(1)))
    assert all(found.values())
    assert (ChainKey(family, "mangle", "PREROUTING") in found) is (family == 6)
    assert ChainKey(family, "raw", "OUTPUT") not in found


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("into", "out"), [("bgpmaa000000000", "eth0"), ("eth0", "bgpmaa000000000")])
def test_what_is_forwarded_without_a_verdict_is_dropped_by_the_guard(family: int, into: str, out: str) -> None:
    """Whatever mark it came with; what has one passes, and so does what is no workload's."""
    found = render(Compiler().compile(model(2)))
    guard, verdict = table(found, "mangle", family), table(found, family=family)
    start = ipaddress.ip_address("10.0.0.0" if family == 4 else "fd00::")
    packet = Packet(start, start + 1, TCP, 40_000, 80)

    def passes(one: Flow, *tables: tuple[dict[str, Rules], str]) -> bool:
        return all(run(rules, one, hook) != "DROP" for rules, hook in tables)

    before, after, between = (guard, "FORWARD"), (guard, "POSTROUTING"), (verdict, "FORWARD")
    assert not passes(Flow(packet, into, out, mark=0x0100_0000), before, after)
    assert passes(Flow(packet, into, out), before, between, after)
    assert passes(Flow(packet, "eth0", "eth1", mark=0x0100_0000), before, after)
    assert passes(Flow(packet, "", out), after)  # the host's own goes by OUTPUT


TO_HOST: Way = (*IN[:3], ("mangle", "INPUT"), *IN[3:])
WAYS = [("bgpmaa000000000", "bgpmba000000000"), ("bgpmaa000000000", "eth0"), ("eth0", "bgpmba000000000")]
OVER = [
    ("NEW", 0),
    ("INVALID", 0),
    ("ESTABLISHED", Options().revoked),
]  # state and connection mark of what may not pass


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("to_host", ["deny", "allow", "return"])
def test_nothing_that_is_taken_away_opens_anything(to_host: str, family: int) -> None:
    """Whichever chain is emptied, in whichever table, and whichever rule of ours in a built-in chain is deleted."""
    tables: Tables = {}
    denied = model(2, DENY_ALL, replace(DENY_ALL, name="out", types=frozenset({Direction.EGRESS})))
    for key, rules in render(Compiler().compile(denied), Options(to_host=to_host)).items():
        if key.family == family:
            tables.setdefault(key.table, {})[key.chain] = list(rules)
    start = ipaddress.ip_address("10.0.0.0" if family == 4 else "fd00::")
    packet = Packet(start, start + 1, TCP, 40_000, 80)
    ways: list[tuple[str, str, Way]] = [(*ends, THROUGH) for ends in WAYS]
    ways.append(("bgpmaa000000000", "", TO_HOST))
    for chains in tables.values():
        for chain, kept in chains.items():
            parts = [slice(None)] if chain.startswith("bm-") else [slice(None), *(slice(n, n + 1) for n in range(9))]
            for part in parts:
                chains[chain] = [*kept]
                del chains[chain][part]
                for (into, out, way), (state, connmark) in itertools.product(ways, OVER):
                    one = Flow(packet, into, out, state, mark=0x3F00_0000, connmark=connmark)
                    assert "DROP" == travel(tables, {}, one, way), (chain, part, into, out, state)
            chains[chain] = kept


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("to_host", ["allow", "return"])
def test_without_our_verdict_nothing_new_reaches_the_host(to_host: str, family: int) -> None:
    """Whatever mark it came with, and whatever others accept; neighbour discovery and answers apart."""
    found = render(Compiler().compile(model(2)), Options(to_host=to_host))
    before, after = table(found, "mangle", family), table(found, "security", family)
    verdict = table(found, "filter", family)
    start = ipaddress.ip_address("10.0.0.0" if family == 4 else "fd00::")

    def passes(one: Flow, *, is_asked: bool) -> bool:
        hooks = [(before, "INPUT"), *([(verdict, "INPUT")] if is_asked else []), (after, "INPUT")]
        return all(run(rules, one, hook) != "DROP" for rules, hook in hooks)

    plain = flow(packet=Packet(start, start, TCP, 1, 2), out="", mark=0x3F00_0000)
    solicitation = replace(plain, packet=Packet(start, start, 58, icmp=Icmp(135, 0)))
    known, foreign = replace(plain, state="ESTABLISHED"), replace(plain, into="eth0", mark=0)
    for one in (plain, known, foreign):
        assert passes(replace(one), is_asked=True)
    assert not passes(replace(plain), is_asked=False)
    assert not passes(replace(known, connmark=Options().revoked), is_asked=False)
    assert passes(replace(known), is_asked=False)
    assert passes(replace(foreign), is_asked=False)
    assert passes(replace(solicitation), is_asked=False) is (family == 6)


def test_a_difference_makes_the_old_the_new() -> None:
    """From any model to any other: what changed is written whole, and what goes is deleted last."""
    states = [chains(model(n, *policies)) for n, policies in ((2, ()), (200, (policy("p", HTTP),)), (9, (DENY_ALL,)))]
    for old in states:
        for new in states:
            wanted: dict[str, Rules | None] = {name: rules for name, rules in new.items() if old.get(name) != rules}
            wanted |= dict.fromkeys(old.keys() - new.keys())
            was = {"filter": {name: list(rules) for name, rules in old.items()}}
            result = restore(was, restore_text("filter", wanted))
            assert {name: list(rules) for name, rules in new.items()} == result["filter"]
