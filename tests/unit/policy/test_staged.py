"""Staged policies: counted where they would be asked, and without any effect."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from bgpmesh.policy.attribution import Counters
from bgpmesh.policy.chains import ChainKey, Rules, ids_of
from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.explain import explain
from bgpmesh.policy.form import Compiled
from bgpmesh.policy.iptables import render
from bgpmesh.policy.model import Member, Model, Packet
from bgpmesh.policy.rule import TCP, UDP, Action, Direction, Policy, PortRange, Profile, Rule, Side, Tier
from bgpmesh.policy.selector import parse
from tests.unit.policy.test_iptables import bare

SOURCE = ipaddress.ip_address("198.51.100.7")


def member(number: int, name: str) -> Member:
    """Return a workload here."""
    address = ipaddress.ip_address("10.0.0.0") + number
    return Member(f"shop/{name}", {"app": name}, (address,), {}, f"bgpm{name}", ("kns.shop",))


MEMBERS = {each.key: each for each in (member(1, "web"), member(2, "db"))}


def allow(port: int, action: Action = Action.ALLOW, protocol: int = TCP) -> Rule:
    """Return a rule about one port."""
    return Rule(action, protocol=protocol, destination=Side(ports=(PortRange(port, port),)))


def policy(name: str, *rules: Rule, tier: str = "default", selector: str = "app == 'db'") -> Policy:
    """Return a policy on what reaches some."""
    types = frozenset({Direction.INGRESS})
    return Policy(name, "shop", tier, selector=parse(selector), types=types, ingress=rules)


def staged(name: str, *rules: Rule, tier: str = "default") -> Policy:
    """Return the same, staged."""
    return replace(policy(name, *rules, tier=tier), is_staged=True)


def made(*policies: Policy) -> tuple[Compiled, dict[ChainKey, Rules]]:
    """Return what policies come to."""
    model = Model((Tier("soft", 1, Action.PASS),), policies, (Profile("kns.shop"),), (), MEMBERS)
    compiled = Compiler().compile(model)
    return compiled, render(compiled)


def chain(rendered: dict[ChainKey, Rules], name: str) -> list[str]:
    """Return the rules of an IPv4 chain of the filter table."""
    return bare(rendered[ChainKey(4, "filter", name)])


def steps(compiled: Compiled, port: int, protocol: int = TCP) -> list[tuple[object, ...]]:
    """Return what is said of a packet to `db`."""
    packet = Packet(SOURCE, MEMBERS["shop/db"].addresses[0], protocol, 40_000, port)
    return [(s.tier, s.policy, s.rule, s.action, s.is_staged) for s in explain(compiled, packet).steps]


def test_what_is_enforced_keeps_its_names_and_who_is_not_selected_its_class() -> None:
    """Only the class of those that a staged policy selects has another name: it has a rule more."""
    before, old = made(policy("a", allow(80)))
    after, new = made(policy("a", allow(80)), staged("b", allow(81)))
    assert after.classes["shop/web"] == before.classes["shop/web"]
    assert after.classes["shop/db"][Direction.EGRESS] == before.classes["shop/db"][Direction.EGRESS]
    own, was = (form.classes["shop/db"][Direction.INGRESS] for form in (after, before))
    assert own != was
    gone = {key for key in old if old[key] != new.get(key)}
    assert gone == {ChainKey(f, "filter", name) for f in (4, 6) for name in (was, "bm-tw-bgpmdb")}
    assert {body.policy for body in after.bodies.values() if body.is_staged} == {"shop/b"}


def test_a_run_stands_in_its_place_and_only_returns() -> None:
    """Behind what is asked before it, in one chain, without the log rules; it does not close the direction."""
    some = staged("b", allow(81), Rule(Action.LOG), allow(82, Action.DENY)), staged("c", allow(83))
    compiled, rendered = made(policy("a", allow(80)), *some, policy("d"))
    (layer,) = compiled.stacks[compiled.classes["shop/db"][Direction.INGRESS]].layers
    (run,) = layer.runs
    assert [compiled.bodies[each].policy for each in run.bodies] == ["shop/b", "shop/c"]
    assert chain(rendered, run.chain) == [f"-p 6 -m multiport --dports {port} -j RETURN" for port in (81, 82, 83)]
    stack = chain(rendered, compiled.classes["shop/db"][Direction.INGRESS])
    first = layer.bodies[0]
    assert stack[:3] == [f"-j {first}", "-m mark --mark 0x1000000/0x1000000 -j RETURN", f"-j {run.chain}"]
    assert steps(compiled, 82) == [
        ("default", "shop/b", 3, "deny", True),
        ("default", None, None, "deny", False),
    ]
    assert steps(compiled, 80) == [("default", "shop/a", 1, "allow", False)]
    assert steps(compiled, 84) == [("default", None, None, "deny", False)]


def test_a_tier_of_staged_policies_counts_as_absent_and_what_it_would_drop_is_said() -> None:
    """Its default would have the rest; the next tier and the profiles decide."""
    compiled, rendered = made(staged("a", allow(80)), staged("b"), staged("c", allow(9, Action.DENY), tier="soft"))
    stack = compiled.stacks[compiled.classes["shop/db"][Direction.INGRESS]]
    assert [(layer.tier, layer.is_absent) for layer in stack.layers] == [("soft", True), ("default", True)]
    assert [rule for rule in chain(rendered, stack.chain) if rule.endswith("-j DROP")] == ["-j DROP"]
    open_ = (None, "kns.shop", 1, "allow", False)
    soft = ("soft", None, None, "pass", True)
    assert steps(compiled, 80) == [soft, ("default", "shop/a", 1, "allow", True), open_]
    assert steps(compiled, 9) == [("soft", "shop/c", 1, "deny", True), ("default", None, None, "deny", True), open_]
    (run,) = stack.layers[1].runs
    assert chain(rendered, run.chain)[-1] == "-j RETURN"


def test_it_is_counted_by_policy_and_by_what_would_be() -> None:
    """Nothing of it is a drop; a policy in force of the same name has its own numbers."""
    compiled, rendered = made(policy("p", allow(80), tier="soft"), staged("p", allow(81), allow(53, protocol=UDP)))
    counters = Counters()
    counters.know(rendered, compiled)
    stack = compiled.stacks[compiled.classes["shop/db"][Direction.INGRESS]]
    (run,) = stack.layers[1].runs
    key = ChainKey(4, "filter", run.chain)
    first, second, rest = ids_of(rendered[key])
    counters.read({key: {first: (3, 180), second: (4, 200), rest: (2, 80)}})
    assert counters.staged() == {("shop/p", "allow"): 7, ("shop/p", "deny"): 2}
    assert counters.drops()["(no profile allows)"] == counters.by_verdict["deny"] == 0
    assert counters.drops().get("shop/p", 0) == 0
    assert counters.of(4, (run.chain, "deny", "default", None, None)) == (2, 80)
