"""Address translation in the explanation: which steps, in which place, and what policies see of the packet."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.explain import Explanation, Step, explain, why_not
from bgpmesh.policy.iptables import Options
from bgpmesh.policy.model import Host, Member, Model, Packet
from bgpmesh.policy.nat import translation
from bgpmesh.policy.rule import TCP, Action, Direction, Policy, PortRange, Profile, Rule, Side
from bgpmesh.policy.selector import parse
from bgpmesh.workload.floating import Lead
from bgpmesh.workload.pool import Masquerade, Pool

HOST, OTHER_NODE, OUTSIDE, EXCLUDED = "192.0.2.1", "192.0.2.2", "198.51.100.7", "198.18.0.1"
TO_WEB, TO_DB, ELSEWHERE = "203.0.113.10", "203.0.113.11", "203.0.113.12"
WEB, DB, FAR = "10.0.1.1", "10.0.1.2", "10.0.2.1"
WEB6, TO_WEB6 = "fd00::1", "2001:db8:f::10"


def member(name: str, *addresses: str) -> Member:
    """Return a workload here."""
    own = tuple(map(ipaddress.ip_address, addresses))
    return Member(f"shop/{name}", {"app": name}, own, {}, f"bgpm{name}", ("kns.shop",))


def policy(name: str, app: str, direction: Direction, *rules: Rule, **change: object) -> Policy:
    """Return a policy of one direction on a workload."""
    is_ingress = direction is Direction.INGRESS
    made = Policy(
        name,
        selector=parse(f"app == '{app}'"),
        types=frozenset({direction}),
        ingress=rules if is_ingress else (),
        egress=() if is_ingress else rules,
    )
    return replace(made, **change)  # type: ignore[arg-type]


MODEL = Model(
    profiles=(Profile("kns.shop"),),
    members={each.key: each for each in (member("web", WEB, WEB6), member("db", DB))},
    space=(ipaddress.ip_network("10.0.0.0/16"), ipaddress.ip_network("fd00::/64")),
    addresses=frozenset({ipaddress.ip_address(HOST)}),
)
MASQUERADING = Masquerade((ipaddress.ip_network("198.18.0.0/15"),))
POOLS = (Pool("p", ipaddress.ip_network("10.0.0.0/16"), MASQUERADING), Pool("p6", ipaddress.ip_network("fd00::/64")))


def lead(external: str, internal: str, name: str, *, is_outbound: bool = False) -> Lead:
    """Return a floating address of a workload here."""
    return Lead(ipaddress.ip_address(external), ipaddress.ip_address(internal), f"bgpm{name}", is_outbound)


LEADS = (lead(TO_WEB, WEB, "web"), lead(TO_DB, DB, "db", is_outbound=True), lead(TO_WEB6, WEB6, "web"))
NAT = translation(POOLS, LEADS, [ipaddress.ip_address(ELSEWHERE)])


def packet(source: str, destination: str, port: int = 80, *, into: str | None = None) -> Packet:
    """Return the first packet of a TCP connection, as it is called."""
    return Packet(ipaddress.ip_address(source), ipaddress.ip_address(destination), TCP, 40_000, port, into=into)


def ask(source: str, destination: str, *policies: Policy, pools: tuple[Pool, ...] = POOLS) -> Explanation:
    """Return the explanation of a connection."""
    compiled = Compiler().compile(replace(MODEL, policies=policies))
    nat = NAT if pools is POOLS else translation(pools, LEADS)
    return explain(compiled, packet(source, destination), Options(), nat)


def shown(steps: tuple[Step, ...]) -> list[tuple[str, str | None, str, str | None, str]]:
    """Return direction, workload, action, address put in and the kind of chain of each step."""
    return [
        (s.direction.value, s.workload, s.action, None if s.to is None else str(s.to), s.chain if s.to else s.chain[:6])
        for s in steps
    ]


DNAT = ("ingress", "shop/web", "dnat", WEB, "bm-fip-dnat")
OUT_OF_WEB, OUT_OF_DB = ("egress", "shop/web", "allow", None, "bm-re-"), ("egress", "shop/db", "allow", None, "bm-re-")
INTO_WEB, INTO_DB = ("ingress", "shop/web", "allow", None, "bm-ri-"), ("ingress", "shop/db", "allow", None, "bm-ri-")


@pytest.mark.parametrize(
    ("source", "destination", "steps"),
    [
        (OUTSIDE, TO_WEB, [DNAT, INTO_WEB]),
        (DB, TO_WEB, [DNAT, OUT_OF_DB, INTO_WEB]),
        (FAR, TO_WEB, [DNAT, INTO_WEB]),
        (HOST, TO_WEB, [DNAT, ("ingress", "shop/web", "allow", None, "bm-OUT")]),
        (WEB, TO_WEB, [DNAT, OUT_OF_WEB, INTO_WEB, ("egress", "shop/web", "snat", TO_WEB, "bm-fip-snat")]),
        (DB, OUTSIDE, [OUT_OF_DB, ("egress", "shop/db", "snat", TO_DB, "bm-fip-snat")]),
        (DB, ELSEWHERE, [OUT_OF_DB]),
        (DB, WEB, [OUT_OF_DB, INTO_WEB]),
        (DB, DB, []),
        (WEB, FAR, [OUT_OF_WEB]),
        (WEB, EXCLUDED, [OUT_OF_WEB]),
        (OUTSIDE, WEB, [INTO_WEB]),
        (OUTSIDE, EXCLUDED, []),
    ],
)
def test_the_steps_of_a_connection(source: str, destination: str, steps: list[object]) -> None:
    """What it is translated to is met first, and what it leaves with last."""
    found = ask(source, destination)
    expected = [(*step[:4], step[4][:6] if step[3] is None else step[4]) for step in steps]  # type: ignore[index]
    assert shown(found.steps) == expected
    assert found.verdict is Action.ALLOW
    translated = [step for step in found.steps if step.to is not None]
    assert all((step.tier, step.policy, step.rule, step.is_staged) == (None, None, None, False) for step in translated)


@pytest.mark.parametrize("destination", [OUTSIDE, OTHER_NODE])
def test_what_masquerades_is_a_step_without_an_address(destination: str) -> None:
    """It is the one of the link that the packet leaves by; unless the pool says which."""
    *_, last = ask(WEB, destination).steps
    assert (last.workload, last.action, last.to, last.chain) == ("shop/web", "masquerade", None, "bm-nat-outgoing")
    source = ipaddress.ip_address("192.0.2.9")
    *_, last = ask(WEB, destination, pools=(Pool("p", POOLS[0].cidr, Masquerade((), source)),)).steps
    assert (last.action, last.to, last.chain) == ("snat", source, "bm-nat-outgoing")


def test_nothing_is_masqueraded_that_is_delivered_here_or_never_comes_by() -> None:
    """What goes to this node, and what is between others."""
    assert [step.action for step in ask(WEB, HOST).steps] == ["allow", "deny"]
    far = replace(member("far", FAR), interface=None)
    model = replace(MODEL, members={**MODEL.members, far.key: far})
    found = explain(Compiler().compile(model), packet(FAR, OUTSIDE), Options(), NAT)
    assert [step.action for step in found.steps] == ["allow"]


def test_policies_see_the_packet_as_it_is_translated() -> None:
    """At both ends; and what is denied does not leave."""
    to_db = Rule(Action.ALLOW, protocol=TCP, destination=Side(selector=parse("app == 'db'")))
    from_web = Rule(Action.ALLOW, source=Side(selector=parse("app == 'web'")))
    policies = policy("out", "web", Direction.EGRESS, to_db), policy("in", "db", Direction.INGRESS, from_web)
    found = ask(WEB, TO_DB, *policies)
    assert [(step.policy, step.rule, step.action) for step in found.steps] == [
        (None, None, "dnat"),
        ("out", 1, "allow"),
        ("in", 1, "allow"),
    ]
    found = ask(WEB, TO_WEB, *policies)
    assert [step.action for step in found.steps] == ["dnat", "deny"], "it is not itself that it may call"
    found = ask(OUTSIDE, TO_DB, *policies)
    assert [(step.action, step.tier) for step in found.steps] == [("dnat", None), ("deny", "default")]


def test_a_floating_address_of_another_node_is_called_as_it_is() -> None:
    """Its node translates it, so egress policy here sees the address that was called."""
    net = ipaddress.ip_network(f"{ELSEWHERE}/32")
    found = ask(
        WEB, ELSEWHERE, policy("out", "web", Direction.EGRESS, Rule(Action.DENY, destination=Side(nets=(net,))))
    )
    assert [(step.policy, step.action) for step in found.steps] == [("out", "deny")]
    assert found.unknown == (f"{ELSEWHERE}: a floating address, translated on the node of its workload",)
    assert ask(WEB, TO_DB).unknown == ()


def test_no_workload_sends_from_a_floating_address() -> None:
    """It is dropped as it comes in, whatever it calls; from elsewhere such a source is one like any other."""
    compiled = Compiler().compile(MODEL)
    lie = packet(TO_WEB, DB, into="bgpmweb")
    (step,) = explain(compiled, lie, Options(), NAT).steps
    assert (step.direction, step.workload, step.policy) == (Direction.EGRESS, "shop/web", "(spoofed)")
    assert (step.action, step.chain) == ("deny", "raw PREROUTING")
    assert why_not(compiled, lie, Options(), NAT) == ("no workload sends from a floating address: (spoofed) denies it",)
    honest = packet(ELSEWHERE, DB, into="eth0")
    assert explain(compiled, honest, Options(), NAT).verdict is Action.ALLOW
    assert why_not(compiled, honest, Options(), NAT) == ()


def test_why_not_is_about_the_translated_packet() -> None:
    """Rules are missed by what they say of that."""
    rule = Rule(Action.ALLOW, protocol=TCP, destination=Side(ports=(PortRange(443, 443),), selector=parse("all()")))
    compiled = Compiler().compile(replace(MODEL, policies=(policy("out", "db", Direction.EGRESS, rule),)))
    assert why_not(compiled, packet(DB, TO_WEB), Options(), NAT) == (
        "egress of shop/db: rule 1 of out would allow it but for the destination port",
    )


def of_host(name: str, net: str, action: Action, **change: object) -> Policy:
    """Return a policy of the host's on what comes in, about a destination."""
    rule = Rule(action, destination=Side(nets=(ipaddress.ip_network(net),)))
    return policy(name, "host", Direction.INGRESS, rule, is_on_forward=True, **change)


def at_host(source: str, destination: str, *policies: Policy) -> Explanation:
    """Return the explanation where the host has an endpoint on eth0."""
    host = Host(Member("host n1/eth0", {"app": "host"}, ()), "eth0")
    compiled = Compiler().compile(replace(MODEL, policies=policies, hosts=(host,)))
    return explain(compiled, packet(source, destination, into="eth0"), Options(), NAT)


def test_policies_before_translation_see_the_address_that_was_called() -> None:
    """What is forwarded is asked of as it is translated."""
    early = of_host("early", f"{TO_WEB}/32", Action.DENY, is_pre_dnat=True)
    found = at_host(OUTSIDE, TO_WEB, early)
    assert [(step.policy, step.action) for step in found.steps] == [("early", "deny")]
    late = of_host("late", f"{WEB}/32", Action.DENY)
    found = at_host(OUTSIDE, TO_WEB, replace(early, name="other", ingress=()), late)
    assert [(step.policy, step.action) for step in found.steps] == [(None, "dnat"), ("late", "deny")]


def test_what_is_not_tracked_is_not_translated() -> None:
    """A doNotTrack policy that allows it says so."""
    untracked = of_host("fast", f"{TO_WEB}/32", Action.ALLOW, is_untracked=True)
    assert [step.action for step in at_host(OUTSIDE, TO_WEB, untracked).steps] == ["allow"]
    assert [step.action for step in at_host(OUTSIDE, TO_DB, untracked).steps] == ["dnat", "allow"]


def test_the_other_family_has_its_own() -> None:
    """With its own chains and sets; here nothing of it is masqueraded."""
    snat = ("egress", "shop/web", "snat", TO_WEB6, "bm-fip-snat")
    dnat = ("ingress", "shop/web", "dnat", WEB6, "bm-fip-dnat")
    assert shown(ask(WEB6, TO_WEB6).steps) == [dnat, OUT_OF_WEB, INTO_WEB, snat]
    assert [step.action for step in ask(WEB6, "2001:db8::9").steps] == ["allow"]
