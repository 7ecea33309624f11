"""Why a packet passes or does not."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.explain import Explanation, explain, why_not
from bgpmesh.policy.identity import encode
from bgpmesh.policy.iptables import Options
from bgpmesh.policy.model import Member, Model, Packet
from bgpmesh.policy.rule import TCP, Action, Direction, Icmp, Policy, PortRange, Profile, Rule, Side, Tier
from bgpmesh.policy.selector import parse
from bgpmesh.route.nlri import host_nlri

MISSES = "rule 2 of shop/db would allow it but for"
HOST, OUTSIDE = "192.0.2.1", "198.51.100.7"


def member(name: str, address: str, interface: str | None = None) -> Member:
    """Return a workload that is called what its label says."""
    profiles = ("kns.shop",) if interface else ()
    return Member(f"shop/{name}", {"app": name}, (ipaddress.ip_address(address),), {}, interface, profiles)


WEB, DB, FAR = member("web", "10.0.1.1", "bgpmweb"), member("db", "10.0.1.2", "bgpmdb"), member("far", "10.0.2.1")
FROM_WEB = Rule(
    Action.ALLOW,
    protocol=TCP,
    source=Side(selector=parse("app == 'web'")),
    destination=Side(ports=(PortRange(5432, 5432),)),
)
DB_POLICY = Policy(
    "db",
    "shop",
    selector=parse("app == 'db'"),
    types=frozenset({Direction.INGRESS}),
    ingress=(Rule(Action.LOG), FROM_WEB),
)
MODEL = Model(
    (),
    (DB_POLICY,),
    (Profile("kns.shop"),),
    (),
    {m.key: m for m in (WEB, DB, FAR)},
    (ipaddress.ip_network("10.0.0.0/16"),),
    frozenset({ipaddress.ip_address(HOST)}),
)


def packet(source: str, destination: str, port: int = 5432) -> Packet:
    """Return the first packet of a TCP connection."""
    return Packet(ipaddress.ip_address(source), ipaddress.ip_address(destination), TCP, 40_000, port)


def ask(source: str, destination: str, port: int = 5432, model: Model = MODEL, to_host: str = "deny") -> Explanation:
    """Return the explanation of a TCP connection."""
    return explain(Compiler().compile(model), packet(source, destination, port), Options(to_host=to_host))


def test_every_step_is_named() -> None:
    """The source's profile, then the log rule and the rule that allows, by number, and the chains they are in."""
    found = ask("10.0.1.1", "10.0.1.2")
    steps = [(s.direction, s.workload, s.tier, s.policy, s.rule, s.action, s.chain[:6]) for s in found.steps]
    into = (Direction.INGRESS, "shop/db", "default", "shop/db")
    expected = [
        (Direction.EGRESS, "shop/web", None, "kns.shop", 1, "allow", "bm-re-"),
        (*into, 1, "log", "bm-pi-"),
        (*into, 2, "allow", "bm-pi-"),
    ]
    assert expected == steps
    assert found.verdict is Action.ALLOW


def test_a_tier_that_nothing_matches_in_denies_by_default() -> None:
    """The last step names the tier and no policy."""
    last = ask("10.0.1.1", "10.0.1.2", 80).steps[-1]
    assert ("default", None, None, "deny") == (last.tier, last.policy, last.rule, last.action)


def test_a_tier_that_passes_by_default_goes_on() -> None:
    """Here to the profile, which allows."""
    found = ask("10.0.1.1", "10.0.1.2", 80, replace(MODEL, tiers=(Tier("default", default=Action.PASS),)))
    assert [("default", "pass"), (None, "allow")] == [(s.tier, s.action) for s in found.steps[-2:]]


def test_egress_that_is_denied_is_the_last_step() -> None:
    """The other side is not asked."""
    closed = replace(DB_POLICY, name="none", selector=parse("app == 'web'"), types=frozenset({Direction.EGRESS}))
    found = ask("10.0.1.1", "10.0.1.2", model=replace(MODEL, policies=(DB_POLICY, closed)))
    assert [(Direction.EGRESS, "deny")] == [(s.direction, s.action) for s in found.steps]


def test_a_workload_elsewhere_is_explained_from_what_is_known_and_listed() -> None:
    """Its policies are walked as if it were here, and the answer says that its own node decides."""
    far = replace(DB_POLICY, selector=parse("app == 'far'"))
    found = ask("10.0.1.1", "10.0.2.1", 80, replace(MODEL, policies=(far,)))
    assert ("shop/far", "deny") == (found.steps[-1].workload, found.steps[-1].action)
    assert ("ingress of shop/far: decided on its own node",) == found.unknown


def test_a_workload_elsewhere_is_open_before_a_policy_selects_it() -> None:
    """Whatever its profiles are: they are not known here."""
    assert ask("10.0.1.1", "10.0.2.1").verdict is Action.ALLOW


def test_an_address_that_may_be_anybodys_is_listed_and_no_selector_allows_it() -> None:
    """Also where the selector is everything."""
    everybody = replace(DB_POLICY, ingress=(Rule(Action.ALLOW, source=Side(selector=parse("all()"))),))
    found = ask("10.0.9.9", "10.0.1.2", model=replace(MODEL, policies=(everybody,)))
    assert Action.DENY is found.verdict
    assert ("10.0.9.9: no workload known here",) == found.unknown


def test_an_address_outside_every_pool_is_nobodys() -> None:
    """No selector means it, a negated one does, and nothing about it is unknown."""
    others = replace(DB_POLICY, ingress=(Rule(Action.ALLOW, source=Side(not_selector=parse("all()"))),))
    found = ask(OUTSIDE, "10.0.1.2", model=replace(MODEL, policies=(others,)))
    assert (Action.ALLOW, ()) == (found.verdict, found.unknown)


def test_a_node_reaches_its_own_workloads() -> None:
    """Whatever their policies."""
    found = ask(HOST, "10.0.1.2", 22)
    assert (Action.ALLOW, ["bm-OUTPUT"]) == (found.verdict, [step.chain for step in found.steps])


@pytest.mark.parametrize(
    ("to_host", "verdict"), [("deny", Action.DENY), ("allow", Action.ALLOW), ("return", Action.ALLOW)]
)
def test_a_workload_reaches_its_host_as_the_option_says(to_host: str, verdict: Action) -> None:
    """After its own policies; where the host's rules go on, that is listed."""
    found = ask("10.0.1.1", HOST, to_host=to_host)
    assert verdict is found.verdict
    assert (to_host, "bm-to-host") == (found.steps[-1].action, found.steps[-1].chain)
    assert (to_host == "return") is bool(found.unknown)


def test_a_workload_reaches_itself() -> None:
    """No packet leaves it, so no policy sees one."""
    assert Explanation(Action.ALLOW, (), ()) == ask("10.0.1.2", "10.0.1.2", 1)


def test_icmp_is_asked_by_type_and_code() -> None:
    """A code that is not given is any."""
    rule = Rule(Action.ALLOW, icmp=Icmp(8))
    compiled = Compiler().compile(replace(MODEL, policies=(replace(DB_POLICY, ingress=(rule,)),)))
    ends = WEB.addresses[0], DB.addresses[0]
    verdicts = [explain(compiled, Packet(*ends, 1, icmp=Icmp(kind, 0))).verdict for kind in (8, 0)]
    assert [Action.ALLOW, Action.DENY] == verdicts


@pytest.mark.parametrize(
    ("source", "destination", "port", "expected"),
    [
        ("10.0.1.1", "10.0.1.2", 5432, ()),
        (
            "10.0.1.1",
            "10.0.1.2",
            80,
            (f"ingress of shop/db: {MISSES} the destination port",),
        ),
        (
            OUTSIDE,
            "10.0.1.2",
            80,
            (f"ingress of shop/db: {MISSES} the source address and the destination port",),
        ),
        ("10.0.1.1", HOST, 22, ("egress of shop/web: workload_to_host denies it",)),
    ],
)
def test_why_not_names_the_smallest_change(source: str, destination: str, port: int, expected: tuple[str, ...]) -> None:
    """The allow rule that misses least, and what it misses; nothing where the packet passes."""
    assert expected == why_not(Compiler().compile(MODEL), packet(source, destination, port))


def test_why_not_names_the_policies_that_only_close() -> None:
    """They have no rule that a step could name."""
    closed = replace(DB_POLICY, name="closed", ingress=())
    compiled = Compiler().compile(replace(MODEL, policies=(closed,)))
    assert why_not(compiled, packet("10.0.1.1", "10.0.1.2")) == (
        "ingress of shop/db: no rule of tier default (shop/closed) allows anything here",
    )


def test_why_not_names_the_rule_that_denies_and_every_direction_that_does() -> None:
    """Mending one of two would not help."""
    out = Policy("out", None, types=frozenset({Direction.EGRESS}), egress=(Rule(Action.DENY),))
    found = why_not(Compiler().compile(replace(MODEL, policies=(DB_POLICY, out))), packet("10.0.1.1", "10.0.1.2", 80))
    assert ("egress of shop/web: rule 1 of out denies it", "ingress of shop/db") == (found[0], found[1].split(":")[0])


@pytest.mark.parametrize(
    ("action", "side", "verdict"),
    [
        (Action.ALLOW, Side(selector=parse("app == 'web'")), Action.ALLOW),
        (Action.ALLOW, Side(selector=parse("app == 'db'")), Action.DENY),
        (Action.ALLOW, Side(not_selector=parse("app == 'db'")), Action.ALLOW),
        (Action.ALLOW, Side(not_selector=parse("app == 'web'")), Action.DENY),
        (Action.ALLOW, Side(selector=parse("app contains 'w'")), Action.DENY),
        (Action.ALLOW, Side(not_selector=parse("app contains 'x'")), Action.DENY),
        (Action.DENY, Side(selector=parse("app == 'db'")), Action.ALLOW),
        (Action.DENY, Side(not_selector=parse("app == 'web'")), Action.ALLOW),
        (Action.DENY, Side(selector=parse("app contains 'x'")), Action.DENY),
        (Action.DENY, Side(not_selector=parse("app contains 'w'")), Action.DENY),
    ],
)
def test_a_workload_known_by_hashes_is_unknown_to_what_they_do_not_answer(
    action: Action, side: Side, verdict: Action
) -> None:
    """No rule that allows means it there, negated or not, and every one that denies does; it is listed as known so."""
    rules = (Rule(action, source=side), *([Rule(Action.ALLOW)] if action is Action.DENY else []))
    compiler = Compiler()
    far = host_nlri(ipaddress.ip_address("10.0.9.9"))
    compiler.learn({far: encode({"projectcalico.org/namespace": "shop", "app": "web"})})
    model = replace(MODEL, policies=(replace(DB_POLICY, ingress=rules),), remote=compiler.remote)
    found = explain(compiler.compile(model), packet("10.0.9.9", "10.0.1.2"))
    assert verdict is found.verdict
    assert "a workload of another node, known by its address and hashes" in found.unknown[0]
