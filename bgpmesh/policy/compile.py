"""Model -> compiled form: which policies each workload here goes through, and what their rules come to.

What "unknown" means is decided here, once. An address in the space that no known member holds may be anybody: no
selector of an allow, pass or log rule matches it, negated or not, and every one of a deny rule does. A network
set that has the address is known all the same: that it is in the group is certain. Ports by name are the
known members' and follow the same rule. So:

    allow  selector      in S                       deny  selector      in S, or in SPACE and not in KNOWN
    allow  not selector  not in S and in KNOWN,     deny  not selector  not in S
                         or not in S and not in SPACE
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

from bgpmesh.policy.chains import WITH_PORTS
from bgpmesh.policy.form import (
    FAMILIES,
    Body,
    Compiled,
    End,
    Ground,
    HasPort,
    InSet,
    IsIcmp,
    IsIn,
    IsProtocol,
    Layer,
    Line,
    SetSource,
    Stack,
    Term,
    canonical,
    digest,
)
from bgpmesh.policy.index import Index, Key, Thing
from bgpmesh.policy.model import Model
from bgpmesh.policy.rule import (
    ICMP,
    ICMPV6,
    Action,
    Direction,
    Policy,
    PortRange,
    Profile,
    Rule,
    Side,
    Tier,
)
from bgpmesh.policy.selector import Selector

MULTIPORT = 15  # ports of one multiport match, a range counting two (XT_MULTI_PORTS)

Terms = tuple[Term, ...]
Choice = tuple[Terms, ...]  # one of these must hold; none: the rule can match nothing
Ordered = list[tuple[Tier, list[tuple[Policy, str]]]]


class Compiler:
    """Compiles one model after another. The answer is that of a new Compiler; what did not change costs less."""

    def __init__(self) -> None:
        self._here = Index()  # the workloads of this node, by the policies' selectors
        self._everyone = Index()  # members and network sets, by the rules' selectors
        self._bodies: dict[str, tuple[tuple[Rule, ...], Body]] = {}

    def compile(self, model: Model) -> Compiled:
        """Return the compiled form of a model."""
        inherited = {profile.name: profile.labels for profile in model.profiles if profile.labels}
        profiles = {profile.name: profile for profile in model.profiles}
        ordered = in_order(model)
        here = {key: member for key, member in model.members.items() if member.interface is not None}
        policies = [policy for _, rows in ordered for policy, _ in rows]
        self._here.update(dict(here.items()), inherited, {policy.selector for policy in policies})

        kept, self._bodies = self._bodies, {}
        rows: dict[tuple[Key, Direction], list[tuple[Tier, list[str]]]]
        rows = {(key, direction): [] for key in here for direction in Direction}
        for tier, policy, salt, direction in _enforced(ordered):
            chosen = self._here.keys(policy.selector)
            if not chosen:
                continue
            body = self._body(kept, policy, direction, salt)
            for key in chosen:
                row = rows[key, direction]
                if not row or row[-1][0] is not tier:
                    row.append((tier, []))
                row[-1][1].append(body.chain)

        stacks: dict[tuple[object, ...], Stack] = {}
        classes: dict[str, dict[Direction, str]] = {key: {} for key in sorted(here)}
        for key, own in classes.items():
            named = [profiles[name] for name in here[key].profiles if name in profiles]
            for direction in Direction:
                last = tuple(self._body(kept, profile, direction, "").chain for profile in named)
                way = (direction, tuple((tier.name, tuple(chains)) for tier, chains in rows[key, direction]), last)
                if way not in stacks:
                    stacks[way] = self._stack(direction, rows[key, direction], last)
                own[direction] = stacks[way].chain

        bodies = {chain: self._bodies[chain][1] for chain in sorted(self._bodies)}
        sources = {source for body in bodies.values() for source in body.sets}
        things: dict[Key, Thing] = dict(model.members.items())
        things |= {(group.namespace, group.name): group for group in model.network_sets}
        selectors = {s.content for s in sources if not isinstance(s.content, (str, tuple, Ground))}
        self._everyone.update(things, inherited, selectors)
        needed = {source.name: source for source in sources}
        sets = {name: self._everyone.contents(needed[name], model.space) for name in sorted(needed)}
        return Compiled(
            model,
            {stack.chain: stack for stack in sorted(stacks.values(), key=lambda stack: stack.chain)},
            classes,
            bodies,
            sets,
        )

    def _stack(self, direction: Direction, row: list[tuple[Tier, list[str]]], profiles: tuple[str, ...]) -> Stack:
        layers = tuple(
            Layer(tier.name, tier.default, tuple(chains), any(self._bodies[chain][1].can_pass for chain in chains))
            for tier, chains in row
        )
        # The name says who decides, not what they decide: a changed rule does not move anybody to another class.
        names = canonical((tuple((layer.tier, layer.bodies) for layer in layers), profiles))
        return Stack(f"bm-c{direction.value[0]}-{digest(names)}", direction, layers, profiles)

    def _body(
        self, kept: Mapping[str, tuple[tuple[Rule, ...], Body]], of: Policy | Profile, direction: Direction, salt: str
    ) -> Body:
        """Return the body of a policy or profile, the one of the last time where its rules are the same."""
        is_policy = isinstance(of, Policy)
        rules = of.ingress if direction is Direction.INGRESS else of.egress
        tier = of.tier if isinstance(of, Policy) else None
        key = of.key if isinstance(of, Policy) else of.name
        chain = f"bm-{'p' if is_policy else 'r'}{direction.value[0]}-{digest(tier or '', key, salt)}"
        if chain not in self._bodies:
            old = kept.get(chain)
            same = old is not None and (old[0] is rules or old[0] == rules)
            self._bodies[chain] = old if same and old else (rules, body_of(chain, direction, tier, key, rules))
        return self._bodies[chain][1]


def in_order(model: Model) -> Ordered:
    """Return the tiers that enforce something on workloads, and their policies, each with what tells twins apart.

    Two kinds of object may have one namespace and name in one tier: both hold, and each has its chain.
    """
    tiers = {tier.name: tier for tier in model.tiers}
    policies = [p for p in model.policies if not (p.is_staged or p.is_untracked or p.is_pre_dnat)]
    names = Counter((policy.tier, policy.key) for policy in policies)
    by_tier: dict[str, list[tuple[Policy, str]]] = {}
    for policy in policies:
        is_twin = names[policy.tier, policy.key] > 1
        salt = canonical((policy.selector, policy.types, policy.ingress, policy.egress)) if is_twin else ""
        by_tier.setdefault(policy.tier, []).append((policy, salt))
    for rows in by_tier.values():
        rows.sort(key=lambda row: (row[0].order, row[0].namespace or "", row[0].name, row[1]))
    used = sorted((tiers.get(name, Tier(name)) for name in by_tier), key=lambda tier: (tier.order, tier.name))
    return [(tier, by_tier[tier.name]) for tier in used]


def _enforced(ordered: Ordered) -> Iterator[tuple[Tier, Policy, str, Direction]]:
    for tier, rows in ordered:
        for policy, salt in rows:
            for direction in sorted(policy.types, key=lambda direction: direction.value):
                yield tier, policy, salt, direction


def body_of(chain: str, direction: Direction, tier: str | None, key: str, rules: tuple[Rule, ...]) -> Body:
    """Return the rules as lines, and the sets that they need."""
    sources: set[SetSource] = set()
    lines = {
        family: tuple(
            Line(tuple(itertools.chain.from_iterable(parts)), rule.action, number)
            for number, rule in enumerate(rules, 1)
            for parts in itertools.product(*_choices(rule, family, sources))
        )
        for family in FAMILIES
    }
    used = {term.name for own in lines.values() for line in own for term in line.terms if isinstance(term, InSet)}
    return Body(chain, direction, tier, key, lines, frozenset(s for s in sources if s.name in used))


def _choices(rule: Rule, family: int, sources: set[SetSource]) -> Iterator[Choice]:
    """Yield what must hold for the rule, one choice after the other."""
    if rule.ip_version not in (None, family):
        yield ()
    yield _protocols(rule, family)
    if rule.icmp is not None:
        yield ((IsIcmp(rule.icmp),),)
    if rule.not_icmp is not None:
        yield ((IsIcmp(rule.not_icmp, is_negated=True),),)
    is_deny = rule.action is Action.DENY
    yield from _Side(rule.source, End.SOURCE, family, is_deny, sources).choices()
    yield from _Side(rule.destination, End.DESTINATION, family, is_deny, sources).choices()


def _protocols(rule: Rule, family: int) -> Choice:
    """Return the protocols the rule is about; one that speaks of ports or of ICMP is about those that have them.

    0 is no protocol of a packet, and `-p 0` is iptables' word for all of them.
    """
    wanted = None if rule.protocol is None else {rule.protocol}
    if rule.icmp is not None or rule.not_icmp is not None:
        own = {ICMP if family == 4 else ICMPV6}
        wanted = own if wanted is None else wanted & own
    if any((*side.ports, *side.not_ports) for side in (rule.source, rule.destination)):
        wanted = set(WITH_PORTS) if wanted is None else wanted & WITH_PORTS
    if wanted is not None:
        return tuple((IsProtocol(number),) for number in sorted(wanted - {rule.not_protocol, 0}))
    return ((IsProtocol(rule.not_protocol, is_negated=True),),) if rule.not_protocol else ((),)


class _Side:
    """One side of a rule at one end of the packet, in one family."""

    def __init__(self, side: Side, end: End, family: int, is_deny: bool, sources: set[SetSource]) -> None:
        self._side, self._end, self._family, self._is_deny, self._sources = side, end, family, is_deny, sources

    def choices(self) -> Iterator[Choice]:
        """Yield what must hold for the side."""
        side = self._side
        own = tuple(sorted({net for net in side.nets if net.version == self._family}, key=canonical))
        if side.nets and not any(net.prefixlen == 0 for net in own):
            yield () if not own else ((IsIn(self._end, own[0]),),) if len(own) == 1 else ((self._in(own),),)
        own = tuple(sorted({net for net in side.not_nets if net.version == self._family}, key=canonical))
        if own:
            yield ((self._in(own, is_negated=True),),)
        if side.selector is not None:
            yield ((self._in(side.selector),), *self._unknown())
        if side.not_selector is not None:
            yield self._outside(self._in(side.not_selector, is_negated=True))
        yield from self._ports()

    def _ports(self) -> Iterator[Choice]:
        side = self._side
        if side.ports:
            names = sorted({port for port in side.ports if isinstance(port, str)})
            some = (*self._numbers(side.ports, is_negated=False), *(self._in(name) for name in names))
            yield (*((term,) for term in some), *(self._unknown() if names else ()))
        if side.not_ports:
            yield (self._numbers(side.not_ports, is_negated=True),)
            for name in sorted({port for port in side.not_ports if isinstance(port, str)}):
                yield self._outside(self._in(name, is_negated=True))

    def _numbers(self, ports: tuple[PortRange | str, ...], *, is_negated: bool) -> Terms:
        """Return the numbers in matches that are short enough."""
        ranges = sorted({port for port in ports if isinstance(port, PortRange)}, key=lambda r: (r.first, r.last))
        step = MULTIPORT // 2
        return tuple(HasPort(self._end, tuple(ranges[n : n + step]), is_negated) for n in range(0, len(ranges), step))

    def _in(self, content: Selector | tuple[object, ...] | str | Ground, *, is_negated: bool = False) -> InSet:
        source = SetSource(self._family, content)  # type: ignore[arg-type]
        self._sources.add(source)
        return InSet(self._end, source.name, is_negated, with_port=isinstance(content, str))

    def _unknown(self) -> Choice:
        """Return the further choice that a deny rule has: an address we know nothing of."""
        return ((self._in(Ground.SPACE), self._in(Ground.KNOWN, is_negated=True)),) if self._is_deny else ()

    def _outside(self, not_in: InSet) -> Choice:
        """Return who is outside a group: for a deny rule whoever is not in it, else only who is known not to be."""
        if self._is_deny:
            return ((not_in,),)
        return ((not_in, self._in(Ground.KNOWN)), (not_in, self._in(Ground.SPACE, is_negated=True)))
