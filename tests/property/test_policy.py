"""Policies: an oracle, the explanation and the rendered chains agree on every packet, whatever the way to them."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpmesh.policy.attribution import Counters
from bgpmesh.policy.chains import ChainKey, Rules, Standing, restore_text
from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.explain import Step, explain, judge, why_not
from bgpmesh.policy.form import Compiled
from bgpmesh.policy.iptables import Options, render
from bgpmesh.policy.model import Host, Member, Model, Packet
from bgpmesh.policy.preview import turns
from bgpmesh.policy.rule import (
    LAST,
    Action,
    Direction,
    Failsafe,
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
from tests.property.chains import IN, OUT, THROUGH, Flow, Seen, Tables, Way, restore, travel
from tests.property.chains import Host as Table
from tests.property.oracle import first_match, holder, labels_of, passes, selects

HERE_1, HERE_2, THERE, NOBODY_KNOWS, OUTSIDE, HOST = range(6)
PLACES = {
    4: [ipaddress.ip_address(a) for a in ("10.0.1.1", "10.0.1.2", "10.0.2.3", "10.0.2.4", "198.51.100.7", "192.0.2.1")],
    6: [ipaddress.ip_address(a) for a in ("fd00::1", "fd00::2", "fd00::3", "fd00::4", "2001:db8::7", "2001:db8:1::1")],
}
EXTERNALS = {  # floating addresses, in tests/property/test_nat.py; here they are nobody's
    4: [ipaddress.ip_address(f"203.0.113.{last}") for last in (1, 2, 3)],
    6: [ipaddress.ip_address(f"2001:db8:f::{last}") for last in (1, 2, 3)],
}
POOLS = (ipaddress.ip_network("10.0.0.0/16"), ipaddress.ip_network("fd00::/64"))
NETS = [
    *POOLS,
    *map(ipaddress.ip_network, ("10.0.1.1/32", "10.0.2.0/24", "198.51.100.0/24", "0.0.0.0/0")),
    *map(ipaddress.ip_network, ("fd00::2/127", "2001:db8::/32", "::/0")),
    *(ipaddress.ip_network(EXTERNALS[family][0]) for family in (4, 6)),
]
SELECTORS = [
    parse(text)
    for text in (
        "all()",
        "a == 'x'",
        "a != 'x'",
        "a in {'x', 'y'}",
        "has(b)",
        "!has(b)",
        "b == 'y' || a == 'y'",
        "a == 'x' || !has(b)",
        "projectcalico.org/namespace == 'shop'",
        "projectcalico.org/namespace == 'shop' && a == 'x'",
    )
]
PORTS: list[Port] = ["web", "dns", PortRange(80, 80), PortRange(0, 1023), PortRange(8000, 8999), PortRange(53, 53)]
PORTS += [PortRange(20_000 + 2 * n, 20_000 + 2 * n) for n in range(12)]
ICMPS = [Icmp(8), Icmp(8, 0), Icmp(135), Icmp(3, 1)]
LABELS = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]))


ASPECTS = ["nets", "not_nets", "selector", "not_selector", "ports", "not_ports"]
VALUES: dict[str, st.SearchStrategy[object]] = {
    "nets": st.lists(st.sampled_from(NETS), min_size=1, max_size=3, unique=True).map(tuple),
    "selector": st.sampled_from(SELECTORS),
    "ports": st.lists(st.sampled_from(PORTS), min_size=1, max_size=9, unique=True).map(tuple),
}


@st.composite
def sides(draw: st.DrawFn) -> Side:
    """Draw what a rule says of one end: a thing or two."""
    aspects = draw(st.lists(st.sampled_from(ASPECTS), min_size=1, max_size=2, unique=True))
    return replace(Side(), **{aspect: draw(VALUES[aspect.removeprefix("not_")]) for aspect in aspects})  # type: ignore[arg-type]


PROTOCOLS = st.sampled_from([6, 17, 1, 58, 50])
PARTS: dict[str, st.SearchStrategy[object]] = {
    "source": sides(),
    "destination": sides(),
    "protocol": PROTOCOLS,
    "not_protocol": PROTOCOLS,
    "icmp": st.sampled_from(ICMPS),
    "not_icmp": st.sampled_from(ICMPS),
    "ip_version": st.sampled_from([4, 6]),
}

ENDS = ["source", "destination"]
ACTIONS = st.sampled_from([Action.ALLOW, Action.ALLOW, Action.DENY, Action.DENY, Action.PASS, Action.LOG])


@st.composite
def a_rule(draw: st.DrawFn) -> Rule:
    """Draw a rule that asks for nothing, one thing or two, so that packets meet it."""
    parts = draw(st.lists(st.sampled_from([*ENDS, *ENDS, *PARTS]), max_size=2, unique=True))
    return replace(Rule(draw(ACTIONS)), **{part: draw(PARTS[part]) for part in parts})  # type: ignore[arg-type]


RULES = st.lists(a_rule(), min_size=1, max_size=3).map(tuple)
DEFAULTS = st.sampled_from([Action.PASS, Action.DENY])


def of_hosts(types: frozenset[Direction]) -> st.SearchStrategy[dict[str, bool]]:
    """Draw what a policy is besides to hosts: most often nothing."""
    words = ["", "", "is_on_forward", "is_untracked", *(["is_pre_dnat"] if types == {Direction.INGRESS} else [])]
    return st.sampled_from(words).map(lambda word: {"is_on_forward": True, word: True} if word else {})


HOSTS = st.sampled_from([(), (), ("*",), ("eth0",), ("eth0", "*"), ("eth0", "eth1"), (None,), (None, "*")])


@st.composite
def hosts(draw: st.DrawFn) -> tuple[Host, ...]:
    """Draw host endpoints here, and one elsewhere, with addresses that may lie in the space of workloads."""
    places = st.sampled_from([(), (HOST,), (OUTSIDE,), (NOBODY_KNOWS,)])
    ports = st.sampled_from([{}, {("web", 6): 80}])
    named = st.sampled_from([(), ("kns.shop",), ("other",)])
    return tuple(
        Host(
            Member(
                f"host n1/{number}",
                draw(LABELS),
                tuple(PLACES[family][place] for place in draw(places) for family in (4, 6)),
                draw(ports),
                None,
                draw(named),
            ),
            interface,
        )
        for number, interface in enumerate(draw(HOSTS))
    )


@st.composite
def a_policy(draw: st.DrawFn, name: str) -> Policy:
    """Draw a policy; half of them are on everybody."""
    types = draw(st.sampled_from([frozenset({Direction.INGRESS}), frozenset({Direction.EGRESS}), frozenset(Direction)]))
    return Policy(
        name,
        draw(st.sampled_from([None, "shop"])),
        draw(st.sampled_from(["default", "first"])),
        draw(st.sampled_from([1.0, 2.0, LAST])),
        draw(st.just(SELECTORS[0]) | st.sampled_from(SELECTORS)),
        types,
        draw(RULES) if Direction.INGRESS in types else (),
        draw(RULES) if Direction.EGRESS in types else (),
        is_staged=draw(st.integers(0, 7)) == 7,
        **draw(of_hosts(types)),
    )


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Draw a node with two workloads, one known elsewhere, and what applies to them."""
    policies = [draw(a_policy(f"p{number}")) for number in range(draw(st.integers(1, 4)))]
    other = Profile("other", draw(LABELS), draw(RULES), draw(RULES))
    named = st.sampled_from([("kns.shop",), ("kns.shop",), ("other", "kns.shop"), ("other",), ("absent",)])
    members = [
        Member(
            f"shop/{number}",
            {"projectcalico.org/namespace": "shop", **draw(LABELS)},
            (PLACES[4][number], PLACES[6][number]),
            draw(st.sampled_from([{}, {("web", 6): 80}, {("web", 17): 53, ("dns", 17): 53}, {("web", 6): 8080}])),
            f"bgpm{number}aaaaaaaaaa" if number != THERE else None,
            draw(named) if number != THERE else draw(st.sampled_from([(), ("other",)])),
        )
        for number in range(3)
        if number != THERE or draw(st.booleans())
    ]
    groups = [
        NetworkSet(f"n{n}", draw(st.sampled_from([None, "shop"])), draw(LABELS), (draw(st.sampled_from(NETS)),))
        for n in range(draw(st.integers(0, 2)))
    ]
    return Model(
        tuple(Tier(name, order, draw(DEFAULTS)) for name, order in (("first", 1.0), ("default", 2.0))),
        tuple(policies),
        (Profile("kns.shop"), other),
        tuple(groups),
        {member.key: member for member in members},
        draw(st.sampled_from([POOLS, POOLS[:1], ()])),
        frozenset({PLACES[4][HOST], PLACES[6][HOST]}),
        hosts=draw(hosts()),
    )


def packets() -> Iterator[Packet]:
    """Yield first packets of connections that come by here: every pair of ends, a few kinds.

    The two ends of most are on one interface, as those behind a router are.
    """
    for family, places in PLACES.items():
        for source, destination in itertools.permutations(range(6), 2):
            if {source, destination} & {HERE_1, HERE_2, HOST} or {source, destination} == {NOBODY_KNOWS, OUTSIDE}:
                ends = places[source], places[destination]
                ways = INTERFACES.get(source), INTERFACES.get(destination)
                kinds = (
                    Packet(*ends, 6, 40_000, 80),
                    Packet(*ends, 6, 80, 8080),
                    Packet(*ends, 17, 20_002, 53),
                    Packet(*ends, 17, 53, 20_002),
                    Packet(*ends, 1 if family == 4 else 58, icmp=Icmp(8 if family == 4 else 135, source % 2)),
                    Packet(*ends, 50),
                )
                yield from (replace(packet, into=ways[0], out=ways[1]) for packet in kinds)


INTERFACES = {THERE: "eth0", NOBODY_KNOWS: "eth0", OUTSIDE: "eth1"}
PACKETS = list(packets())
HERE = {PLACES[family][number] for family in (4, 6) for number in (HERE_1, HERE_2)}


FAILSAFES = st.lists(
    st.builds(Failsafe, st.sampled_from([6, 17]), st.sampled_from([80, 53, 8080]), st.sampled_from([None, *NETS])),
    max_size=2,
    unique=True,
).map(tuple)
TO_HOST = st.builds(
    Options,
    to_host=st.sampled_from(["deny", "allow", "return"]),
    failsafe_inbound=FAILSAFES,
    failsafe_outbound=FAILSAFES,
)


def restored(tables: dict[int, Tables], old: dict[ChainKey, Rules], new: dict[ChainKey, Rules]) -> dict[int, Tables]:
    """Return the tables after what changed was restored, each table in a transaction as the edge does it."""
    wanted: dict[tuple[int, str], dict[str, Rules | None]] = {}
    for key in old.keys() | new.keys():
        if old.get(key) != new.get(key):
            wanted.setdefault((key.family, key.table), {})[key.chain] = new.get(key)
    for (family, table), chains in wanted.items():
        lines = {
            chain: [f"-A {chain} {rule}" for rule in old.get(ChainKey(family, table, chain), ())] for chain in chains
        }
        standing = {chain: Standing(lines=tuple(own)) for chain, own in lines.items()}
        tables = tables | {family: restore(tables[family], restore_text(table, chains, standing))}
    return tables


EMPTY: dict[int, Tables] = {4: {}, 6: {}}


def failsafes_of(options: Options) -> dict[Direction, tuple[Failsafe, ...]]:
    """Return the ports that stay open."""
    return {Direction.INGRESS: options.failsafe_inbound, Direction.EGRESS: options.failsafe_outbound}


def met(model: Model, packet: Packet) -> tuple[Way, Flow]:
    """Return the hooks where a packet comes by, and the packet on its way."""
    source, destination = holder(model, packet.source), holder(model, packet.destination)
    into, out = (member and member.interface for member in (source, destination))
    flow = Flow(packet, into or packet.into or "", out or packet.out or "", mark=0x3F00_0000)
    way: Way = THROUGH
    if packet.destination in model.addresses:
        way = IN
    elif packet.source in model.addresses:
        way, flow.mark = OUT, 0
    return way, flow


def verdict(model: Model, compiled: Compiled, tables: dict[int, Tables], packet: Packet) -> bool:
    """Return what the chains do with a packet, at the hooks where it comes by."""
    way, flow = met(model, packet)
    is_a_workloads = flow.into.startswith("bgpm") or flow.out.startswith("bgpm")
    answer = travel(tables[packet.family], compiled.sets, flow, way)
    assert way != THROUGH or answer is not None or not is_a_workloads
    mangle = tables[packet.family]["mangle"]
    guard = Table(mangle, {}).run("INPUT", flow) if way == IN and "INPUT" in mangle else None
    assert answer == "DROP" or guard != "DROP"
    return answer != "DROP"


@settings(max_examples=150)
@given(models(), st.integers(0, 6), TO_HOST)
def test_the_oracle_the_explanation_and_the_chains_agree(model: Model, first: int, options: Options) -> None:
    """One verdict for a packet, three ways to it; and who asks why not is answered when, and only when, it is no."""
    compiled = Compiler().compile(model)
    tables = restored(EMPTY, {}, render(compiled, options))
    to_host, may_pass = options.to_host != "deny", judge(compiled, options)
    failsafes = failsafes_of(options)
    for packet in PACKETS[first::7]:
        expected = passes(model, packet, to_host=to_host, failsafes=failsafes)
        assert expected is (explain(compiled, packet, options).verdict is Action.ALLOW)
        assert expected is not bool(why_not(compiled, packet, options))
        here = passes(model, packet, to_host=to_host, only_here=True, failsafes=failsafes)
        assert here is verdict(model, compiled, tables, packet)
        is_a_workloads = bool({packet.source, packet.destination} & HERE)
        of_workloads = passes(model, packet, to_host=to_host, only_here=True, are_hosts_asked=False)
        assert may_pass(packet) is (of_workloads if is_a_workloads else None)


@settings(max_examples=100)
@given(models(), st.integers(0, 6), TO_HOST, st.sampled_from([0, 7077]))
def test_what_the_rules_count_is_put_down_to_the_steps_of_the_explanation(
    model: Model, first: int, options: Options, group: int
) -> None:
    """Each step here that has rules of its own has counted the packet, and one thing is held to account for a drop.

    Who follows hears of that one, and of no other; and following changes no verdict.
    """
    options = replace(options, log_group=group)
    compiled = Compiler().compile(model)
    rendered = render(compiled, options)
    tables = restored(EMPTY, {}, rendered)
    for packet in PACKETS[first::7]:
        counters = Counters()
        counters.know(rendered, compiled)
        way, flow = met(model, packet)
        seen: Seen = {}
        is_dropped = travel(tables[packet.family], compiled.sets, flow, way, seen) == "DROP"
        counts: dict[ChainKey, dict[str, tuple[int, int]]] = {}
        for (table, chain, rule), count in seen.items():
            counts.setdefault(ChainKey(packet.family, table, chain), {})[rule] = (count, 100 * count)
        counters.read(counts)
        to_host = options.to_host != "deny"
        here = passes(model, packet, to_host=to_host, only_here=True, failsafes=failsafes_of(options))
        assert here is not is_dropped
        assert counters.by_verdict["deny"] == is_dropped == sum(counters.drops().values())
        told = [counters.told[packet.family, prefix] for prefix in flow.told]
        assert len(told) == (1 if group and is_dropped else 0)
        assert all(counters.drops()[cause.name] == 1 for cause in told)
        steps = explain(compiled, packet, options).steps
        here_only = [step for step in steps if is_of_this_node(model, step)]
        places = [(step.chain, step.action, step.tier, step.policy, step.rule) for step in here_only]
        for at in places:
            found = counters.of(packet.family, at)
            if found is not None:
                count = places.count(at)  # more than one of a log rule that is several lines, and of several ends
                assert found == (count, 100 * count), at


def is_of_this_node(model: Model, step: Step) -> bool:
    """Tell whether a step is one of chains here: a workload's here, or a host endpoint's."""
    member = model.members.get(step.workload or "")
    return member is None or member.interface is not None


def enforced(model: Model) -> Model:
    """Return the model without what is staged."""
    return replace(model, policies=tuple(policy for policy in model.policies if not policy.is_staged))


@settings(max_examples=150)
@given(models(), st.integers(0, 6), st.sets(st.integers(0, 3), min_size=1))
def test_staged_policies_change_no_verdict_and_say_what_they_would_do(
    model: Model, first: int, chosen: set[int]
) -> None:
    """In the explanation and in the chains; of a tier that has no other, that is what the oracle says of it."""
    policies = [replace(policy, is_staged=n in chosen) for n, policy in enumerate(model.policies)]
    model = replace(model, policies=tuple(policies))
    compiled, without = Compiler().compile(model), Compiler().compile(enforced(model))
    tables = restored(EMPTY, {}, render(compiled))
    tiers = {tier.name: tier for tier in model.tiers}
    for packet in PACKETS[first::7]:
        found, plain = explain(compiled, packet), explain(without, packet)
        assert (found.verdict, found.unknown) == (plain.verdict, plain.unknown)
        assert [place(step) for step in found.steps if not step.is_staged] == [place(step) for step in plain.steps]
        here = passes(model, packet, to_host=False, only_here=True, failsafes=failsafes_of(Options()))
        assert here is verdict(model, compiled, tables, packet)
        for step in found.steps:
            if step.workload is None or step.workload not in model.members:
                continue
            labels = labels_of(model, model.members[step.workload])
            normal = [p for p in model.policies if p.tier == step.tier and not p.is_untracked and not p.is_pre_dnat]
            own = [policy for policy in normal if selects(policy, labels, step.direction, staged=True)]
            if step.is_staged and all(policy.is_staged for policy in own):
                own.sort(key=lambda policy: (policy.order, policy.namespace or "", policy.name))
                action = first_match(model, packet, [rule for policy in own for rule in policy.rules(step.direction)])
                assert step.action == (action or tiers[step.tier or ""].default).value


def place(step: Step) -> tuple[object, ...]:
    """Return a step without the chain of a class, which has another name where something is staged."""
    return step.direction, step.workload, step.tier, step.policy, step.rule, step.action


@settings(max_examples=150)
@given(models(), models(), st.booleans())
def test_a_preview_tells_of_somebody_when_and_only_when_the_form_differs(
    one: Model, other: Model, has_other_policies_only: bool
) -> None:
    """Of policies that come, go or change, of those they mean, of tiers and of order."""
    if has_other_policies_only:
        other = replace(one, policies=other.policies[: len(one.policies)] + one.policies[len(other.policies) :])
    compiler = Compiler()
    before, after = compiler.compile(one), compiler.compile(other)
    assert bool(list(turns(before, after))) is not after.is_like(before)


def mixed(model: Model) -> Model:
    """Return the same model, told in another order."""
    return replace(
        model,
        tiers=model.tiers[::-1],
        policies=model.policies[::-1],
        profiles=model.profiles[::-1],
        network_sets=model.network_sets[::-1],
        members={key: model.members[key] for key in reversed(list(model.members))},
        space=model.space[::-1],
        hosts=model.hosts[::-1],
    )


@given(st.lists(models(), min_size=2, max_size=4))
def test_the_path_does_not_matter(path: list[Model]) -> None:
    """After any changes the form, its text, its sets and what the differences add up to are those of a fresh start."""
    compiler, options, tables = Compiler(), Options(), EMPTY
    last: dict[ChainKey, Rules] = {}
    for model in path:
        compiled, fresh = compiler.compile(model), Compiler().compile(mixed(model))
        assert fresh.sets == compiled.sets
        assert list(fresh.sets) == list(compiled.sets)
        rendered = render(compiled, options)
        assert render(fresh, options) == rendered
        tables = restored(tables, last, rendered)
        for key, rules in rendered.items():
            assert not key.is_ours or list(rules) == tables[key.family][key.table][key.chain]
        last = rendered
