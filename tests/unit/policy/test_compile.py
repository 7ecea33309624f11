"""From the model to stacks, lines and sets."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.policy.chains import HASH_IP_PORT, AddressSet, member_text, port_member
from bgpmesh.policy.compile import Compiler, body_of
from bgpmesh.policy.form import (
    Body,
    Compiled,
    End,
    Ground,
    HasPort,
    InSet,
    IsIn,
    IsProtocol,
    SetSource,
    canonical,
)
from bgpmesh.policy.index import anchors
from bgpmesh.policy.model import Member, Model
from bgpmesh.policy.rule import (
    ICMPV6,
    TCP,
    UDP,
    Action,
    Direction,
    Icmp,
    NetworkSet,
    Policy,
    Port,
    PortRange,
    Profile,
    Rule,
    Side,
    Tier,
)
from bgpmesh.policy.selector import parse
from bgpmesh.route.nlri import parse_nlri

NAMESPACE = "projectcalico.org/namespace"
INGRESS = frozenset({Direction.INGRESS})
WEB = Member(
    "shop/web",
    {"app": "web", NAMESPACE: "shop"},
    (ipaddress.ip_address("10.0.1.1"),),
    {("http", TCP): 8080},
    "bgpmweb",
    ("kns.shop",),
)
DB = Member(
    "shop/db", {"app": "db", NAMESPACE: "shop"}, (ipaddress.ip_address("10.0.1.2"),), {}, "bgpmdb", ("kns.shop",)
)
FAR = Member("shop/far", {"app": "web", NAMESPACE: "shop"}, (ipaddress.ip_address("10.0.2.1"),), {("http", TCP): 80})
MODEL = Model(
    profiles=(Profile("kns.shop"),),
    members={member.key: member for member in (WEB, DB, FAR)},
    space=(ipaddress.ip_network("10.0.0.0/16"),),
)


def policy(name: str, selector: str = "all()", *rules: Rule, tier: str = "default", order: float = 1) -> Policy:
    """Return a policy on what reaches those it selects."""
    return Policy(name, None, tier, order, parse(selector), INGRESS, rules)


def stack(compiled: Compiled, key: str, direction: Direction = Direction.INGRESS) -> list[tuple[str, list[str]]]:
    """Return the tiers of a workload with the names of the policies in them."""
    chosen = compiled.stacks[compiled.classes[key][direction]]
    return [(layer.tier, [compiled.bodies[chain].policy for chain in layer.bodies]) for layer in chosen.layers]


def body(rule: Rule) -> Body:
    """Return one rule's lines."""
    return body_of("bm-pi-x", Direction.INGRESS, "default", "p", (rule,))


def test_tiers_and_policies_stand_in_order() -> None:
    """By order, then by name; a tier that selects nobody is not there, and one that nobody defined comes last."""
    model = replace(
        MODEL,
        tiers=(Tier("second", 2), Tier("first", 1), Tier("unused", 0)),
        policies=(
            policy("b", tier="second"),
            policy("a", tier="second"),
            policy("c", tier="second", order=0),
            policy("d", tier="first"),
            policy("other", "app == 'db'", tier="unused"),
            policy("e", tier="undefined"),
        ),
    )
    expected = [("first", ["d"]), ("second", ["c", "a", "b"]), ("undefined", ["e"])]
    assert expected == stack(Compiler().compile(model), "shop/web")


def test_what_is_not_enforced_on_workloads_is_in_no_stack() -> None:
    """Those of hosts before connection tracking or address translation are left out."""
    any_ = policy("any")
    policies = (replace(any_, is_untracked=True), replace(any_, is_pre_dnat=True))
    assert [] == stack(Compiler().compile(replace(MODEL, policies=policies)), "shop/web")


def test_a_direction_that_is_not_of_the_policys_types_stays_open() -> None:
    """A policy on ingress is in no egress stack."""
    compiled = Compiler().compile(replace(MODEL, policies=(policy("p"),)))
    assert [] == stack(compiled, "shop/web", Direction.EGRESS)


def test_workloads_with_the_same_stack_are_one_class() -> None:
    """Two workloads share chains until a policy tells them apart, and only in the direction it has."""
    same = Compiler().compile(replace(MODEL, policies=(policy("p"),)))
    assert same.classes["shop/web"] == same.classes["shop/db"]
    apart = Compiler().compile(replace(MODEL, policies=(policy("p", "app == 'web'"),)))
    assert apart.classes["shop/web"][Direction.INGRESS] != apart.classes["shop/db"][Direction.INGRESS]
    assert apart.classes["shop/web"][Direction.EGRESS] == apart.classes["shop/db"][Direction.EGRESS]


def test_a_changed_rule_moves_nobody_to_another_class() -> None:
    """The body's lines differ, the names of everything stay."""
    before = Compiler().compile(replace(MODEL, policies=(policy("p", "all()", Rule(Action.ALLOW)),)))
    after = Compiler().compile(replace(MODEL, policies=(policy("p", "all()", Rule(Action.DENY)),)))
    assert before.classes == after.classes
    assert before.bodies != after.bodies


def test_an_unchanged_policy_is_not_compiled_again() -> None:
    """The body of the last time is used."""
    compiler = Compiler()
    first = compiler.compile(replace(MODEL, policies=(policy("p", "all()", Rule(Action.ALLOW)),)))
    again = compiler.compile(
        replace(MODEL, policies=(policy("p", "all()", Rule(Action.ALLOW)), policy("q", "all()", Rule(Action.DENY))))
    )
    kept = {chain for chain in first.bodies if again.bodies[chain] is first.bodies[chain]}
    assert set(first.bodies) == kept


def test_two_policies_of_one_name_in_one_tier_both_hold() -> None:
    """A NetworkPolicy of Kubernetes and one of Calico may both be `shop/web`; the order of reading means nothing."""
    twins = (policy("p", "all()", Rule(Action.ALLOW)), policy("p", "app == 'web'", Rule(Action.DENY)))
    one, other = (Compiler().compile(replace(MODEL, policies=order)) for order in (twins, twins[::-1]))
    assert one.stacks == other.stacks
    assert [("default", ["p", "p"])] == stack(one, "shop/web")
    assert [("default", ["p"])] == stack(one, "shop/db")


def test_two_policies_that_say_the_same_are_one() -> None:
    """Where the first of them stands; the second would decide nothing."""
    twins = (policy("p", "all()", Rule(Action.ALLOW), order=3), policy("p", "all()", Rule(Action.ALLOW), order=1))
    between = policy("q", order=2)
    for order in (twins, twins[::-1]):
        compiled = Compiler().compile(replace(MODEL, policies=(*order, between)))
        assert [("default", ["p", "q"])] == stack(compiled, "shop/web")


def members(compiled: Compiled, content: object) -> set[str]:
    """Return what is in the IPv4 set of this content."""
    found = compiled.sets[SetSource(4, content).name]  # type: ignore[arg-type]
    return {member_text(member) for member in found.members}


def test_a_set_has_the_members_and_network_sets_that_the_selector_means() -> None:
    """Workloads of this node and of others, and the nets of network sets with such labels."""
    group = NetworkSet("n", "shop", {"app": "web"}, (ipaddress.ip_network("198.51.100.0/24"),))
    selector = parse(f"app == 'web' && {NAMESPACE} == 'shop'")
    rule = Rule(Action.ALLOW, source=Side(selector=selector))
    compiled = Compiler().compile(replace(MODEL, network_sets=(group,), policies=(policy("p", "all()", rule),)))
    assert {"10.0.1.1/32", "10.0.2.1/32", "198.51.100.0/24"} == members(compiled, selector)


def test_a_profiles_labels_are_those_of_the_workloads_that_name_it() -> None:
    """Its own labels win; a policy may select by the profile's."""
    profile = Profile("kns.shop", {"app": "any", "env": "prod"})
    model = replace(MODEL, profiles=(profile,), policies=(policy("p", "env == 'prod' && app == 'web'"),))
    compiled = Compiler().compile(model)
    assert [("default", ["p"])] == stack(compiled, "shop/web")
    assert [] == stack(compiled, "shop/db")


def test_members_that_come_change_and_go_are_followed() -> None:
    """A compiler that has seen other models answers as a new one."""
    rule = Rule(Action.ALLOW, source=Side(selector=parse("app == 'web'")), destination=Side(ports=("http",)))
    base = replace(MODEL, policies=(policy("p", "all()", rule),))
    moved = replace(base, members={"shop/web": replace(WEB, labels={"app": "db"}), "shop/far": FAR})
    compiler = Compiler()
    for model in (
        base,
        moved,
        replace(base, members={}),
        base,
        replace(base, profiles=(Profile("kns.shop", {"app": "web"}),)),
    ):
        assert Compiler().compile(model).sets == compiler.compile(model).sets


def test_a_set_of_everything_is_two_halves() -> None:
    """The kernel's hash:net takes no prefix of length 0; without pools the space is everything."""
    rule = Rule(Action.DENY, source=Side(selector=parse("app == 'web'")))
    compiled = Compiler().compile(replace(MODEL, space=(), policies=(policy("p", "all()", rule),)))
    assert {"0.0.0.0/1", "128.0.0.0/1"} == members(compiled, Ground.SPACE)


def test_a_set_finds_an_address_by_every_length() -> None:
    """Single addresses and nets alike; the other family is never in it."""
    found = AddressSet(4, frozenset(map(parse_nlri, ("10.0.0.0/8", "192.0.2.1/32", "128.0.0.0/1"))))
    asked = ["10.1.2.3", "192.0.2.1", "192.0.2.2", "1.1.1.1", "::1"]
    assert [True, True, True, False, False] == [found.holds(ipaddress.ip_address(text)) for text in asked]


def test_a_set_of_ports_finds_a_port_of_an_address() -> None:
    """By address, protocol and number; a packet without a port, or of a protocol that has none, has nothing there."""
    address = ipaddress.ip_address("10.0.0.1")
    found = AddressSet(4, frozenset({port_member(address, TCP, 80)}), HASH_IP_PORT)
    asked = [(address, TCP, 80), (address, UDP, 80), (address, TCP, 81), (address, TCP, None), (address, 50, 80)]
    asked += [(ipaddress.ip_address("10.0.0.2"), TCP, 80), (ipaddress.ip_address("::1"), TCP, 80)]
    assert [True, *[False] * 6] == [found.holds_port(*each) for each in asked]


@pytest.mark.parametrize("protocol", [0, 1, 50, 58])
def test_a_protocol_without_ports_is_in_no_set(protocol: int) -> None:
    """The kernel would keep the member with port 0."""
    with pytest.raises(ValueError, match="has no ports"):
        port_member(ipaddress.ip_address("10.0.0.1"), protocol, 80)
    odd = replace(WEB, ports={("http", protocol): 80})
    rule = Rule(Action.ALLOW, protocol=TCP, destination=Side(ports=("http",)))
    model = replace(MODEL, members={odd.key: odd}, policies=(policy("p", "all()", rule),))
    assert set() == members(Compiler().compile(model), "http")


def test_a_member_is_shown_as_people_write_it() -> None:
    """Prefixes and ports of both families, without looking at the set."""
    texts = ["10.0.0.0/8", "fd00::1/128"]
    assert texts == [member_text(parse_nlri(text)) for text in texts]
    asked = [("10.0.0.1", 6, 80), ("fd00::1", 17, 53), ("10.0.0.1", 132, 65535), ("10.0.0.1", 136, 1)]
    shown = [member_text(port_member(ipaddress.ip_address(text), *rest)) for text, *rest in asked]
    assert ["10.0.0.1,tcp:80", "fd00::1,udp:53", "10.0.0.1,sctp:65535", "10.0.0.1,udplite:1"] == shown


def test_a_rule_of_the_other_family_has_no_line() -> None:
    """By its IP version, or because all its nets are of the other one."""
    only_4 = Rule(Action.ALLOW, ip_version=4)
    nets_4 = Rule(Action.ALLOW, source=Side(nets=(ipaddress.ip_network("10.0.0.0/8"),)))
    assert [(1, 0), (1, 0)] == [(len(body(rule).lines[4]), len(body(rule).lines[6])) for rule in (only_4, nets_4)]


def test_not_nets_of_the_other_family_say_nothing() -> None:
    """An IPv6 packet is outside every IPv4 net."""
    rule = Rule(Action.ALLOW, source=Side(not_nets=(ipaddress.ip_network("10.0.0.0/8"),)))
    assert () == body(rule).lines[6][0].terms


def test_a_rule_on_ports_without_a_protocol_is_one_line_for_each_that_has_ports() -> None:
    """TCP, UDP, SCTP and UDP-Lite, less the one that is excluded."""
    rule = Rule(Action.ALLOW, not_protocol=UDP, destination=Side(ports=(PortRange(80, 80),)))
    ports = HasPort(End.DESTINATION, (PortRange(80, 80),))
    assert [(IsProtocol(number), ports) for number in (TCP, 132, 136)] == [line.terms for line in body(rule).lines[4]]


def test_protocol_0_matches_nothing() -> None:
    """`-p 0` would match every packet."""
    assert () == body(Rule(Action.ALLOW, protocol=0)).lines[4]


def test_icmp_of_the_other_family_matches_nothing() -> None:
    """An ICMPv6 type is no ICMP type."""
    rule = Rule(Action.ALLOW, protocol=ICMPV6, icmp=Icmp(128))
    assert (0, 1) == (len(body(rule).lines[4]), len(body(rule).lines[6]))


def test_many_ports_are_several_lines_and_many_excluded_ports_several_terms() -> None:
    """A multiport match takes 15 ports, a range counts two."""
    ports: tuple[Port, ...] = tuple(PortRange(n, n + 1) for n in range(0, 40, 2))
    some = body(Rule(Action.ALLOW, protocol=TCP, destination=Side(ports=ports))).lines[4]
    none = body(Rule(Action.ALLOW, protocol=TCP, destination=Side(not_ports=ports))).lines[4]
    assert [2, 2, 2] == [len(line.terms) for line in some]
    assert [4] == [len(line.terms) for line in none]


def test_one_net_stands_in_the_line_and_several_in_a_set() -> None:
    """And all of a family says nothing."""
    nets = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "192.0.2.0/24", "0.0.0.0/0")))
    kinds = [
        [type(term) for term in body(Rule(Action.ALLOW, source=Side(nets=nets[:count]))).lines[4][0].terms]
        for count in (1, 2, 3)
    ]
    assert [[IsIn], [InSet], []] == kinds


def names(rule: Rule) -> set[object]:
    """Return what sets a rule needs, whatever the family."""
    return {source.content for source in body(rule).sets.values()}


def test_what_is_unknown_opens_nothing() -> None:
    """An allow rule's negation asks who is known; a deny rule's selector takes in who is not."""
    selector = parse("app == 'web'")
    ground = {Ground.SPACE, Ground.KNOWN}
    assert {selector} == names(Rule(Action.ALLOW, source=Side(selector=selector)))
    assert {selector} | ground == names(Rule(Action.ALLOW, source=Side(not_selector=selector)))
    assert {selector} | ground == names(Rule(Action.DENY, source=Side(selector=selector)))
    assert {selector} == names(Rule(Action.DENY, source=Side(not_selector=selector)))


def test_names_of_sets_do_not_depend_on_the_order_of_a_frozenset() -> None:
    """Equal selectors have one name in every process, however they are written."""
    assert "OneOf('a',{'x','y'})" == canonical(parse("a in {'y', 'x'}"))


def test_a_named_port_is_the_port_of_whoever_has_it() -> None:
    """By address, protocol and number."""
    rule = Rule(Action.ALLOW, protocol=TCP, destination=Side(ports=("http",)))
    compiled = Compiler().compile(replace(MODEL, policies=(policy("p", "all()", rule),)))
    assert {"10.0.1.1,tcp:8080", "10.0.2.1,tcp:80"} == members(compiled, "http")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a in {'x', 'y'}", {("a", "x"), ("a", "y")}),
        ("has(b) && a in {'x', 'y'} && b == 'z'", {("b", "z")}),
        ("a == 'x' || b == 'z' && has(c)", {("a", "x"), ("b", "z")}),
        ("a == 'x' || has(b)", None),
        ("a != 'x'", None),
        ("all()", None),
    ],
)
def test_the_anchors_of_a_selector_are_pairs_one_of_which_must_be_there(
    text: str, expected: set[tuple[str, str]] | None
) -> None:
    """The fewest that it asks for; none where it means somebody who has no certain value."""
    assert expected == anchors(parse(text))
