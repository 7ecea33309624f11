"""Model -> compiled form: which policies each workload and host endpoint here goes through, what their rules come to.

What "unknown" means is decided here, once. An address in the space that no known member holds may be anybody: no
selector of an allow, pass or log rule matches it, negated or not, and every one of a deny rule does. A network
set that has the address is known all the same: that it is in the group is certain. Ports by name are the
known members' and follow the same rule. A workload of another node is known by hashes of its labels; where a selector
asks for more than those answer (a part of a value), KNOWN is the workloads of this node alone. So:

    allow  selector      in S                       deny  selector      in S, or in SPACE and not in KNOWN
    allow  not selector  not in S and in KNOWN,     deny  not selector  not in S
                         or not in S and not in SPACE
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TypeVar

from bgpmesh.frozen import frozen
from bgpmesh.policy.chains import WITH_PORTS
from bgpmesh.policy.crowds import Crowds
from bgpmesh.policy.form import (
    FAMILIES,
    Body,
    Compiled,
    End,
    Ground,
    HasPort,
    HostInterface,
    InSet,
    IsIcmp,
    IsIn,
    IsProtocol,
    Layer,
    Line,
    Phase,
    Run,
    SetSource,
    Stack,
    Term,
    canonical,
    digest,
)
from bgpmesh.policy.index import Addresses, Index, Inherited, Key, Keys, Tally, Thing, tally_of
from bgpmesh.policy.model import Host, Member, Model
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
from bgpmesh.policy.selector import Selector, is_remote_capable, matches
from bgpmesh.route.claim import Claims
from bgpmesh.route.nlri import Nlri

MULTIPORT = 15  # ports of one multiport match, a range counting two (XT_MULTI_PORTS)

Terms = tuple[Term, ...]
Choice = tuple[Terms, ...]  # one of these must hold; none: the rule can match nothing
V = TypeVar("V")


@frozen
class _Post:
    """One direction of a policy: where it stands among the others, and on whom. Its chain names tier and policy."""

    tier: str
    place: tuple[float, float]  # the order of the tier, and its own in there
    policy: Policy
    direction: Direction
    keys: AbstractSet[Key]  # of the workloads here that it selects; follows them


@frozen
class _Way:
    """What a stack is, by names: who decides, not what they decide. A changed rule moves nobody to another class."""

    direction: Direction
    layers: tuple[tuple[str, tuple[str, ...]], ...]  # (tier, chains of bodies)
    profiles: tuple[str, ...]  # chains of bodies
    phase: Phase = Phase.NORMAL

    def bodies(self) -> Iterator[str]:
        """Yield all the chains of bodies."""
        for _, chains in self.layers:
            yield from chains
        yield from self.profiles


class Compiler:
    """Compiles one model after another. The answer is that of a new Compiler; what did not change costs little.

    Level by level, and no further than something differs: members and policies -> the stacks of each workload here ->
    the stacks in use -> the bodies in those -> the sets that these need -> what is in them.
    """

    def __init__(self) -> None:
        self._last = Compiled(Model(), {}, {}, {}, {})
        self._here = Index(Keys)  # the workloads of this node, by the policies' selectors
        self._everyone = Index(Addresses)  # members and network sets, by what sets are about
        self._crowds = Crowds()  # the workloads of other nodes, in the same sets
        self._profiles: dict[str, tuple[Profile, Direction]] = {}  # by chain
        self._inherited: Inherited = {}
        self._posts: dict[str, _Post] = {}  # by chain, in the order in which they decide
        self._early: dict[str, _Post] = {}  # the same of policies that hosts alone have, and before all others
        self._ways: dict[str, _Way] = {}  # of the stacks in use, by chain
        self._rules: dict[str, tuple[Rule, ...]] = {}  # what the bodies in use are made from, by chain
        self._tallies: dict[str, Tally] = {}  # of the sets in use, by name

    def compile(self, model: Model, changed: Collection[str] | None = None) -> Compiled:
        """Return the compiled form of a model.

        `changed`: the keys of all members that came, changed or went since the last call; None: anybody may have, which
        costs a look at each. The mapping of members may be the one of the last time, changed in place.
        """
        last = self._last
        changes = self._changes(model, changed)
        affected = self._place_profiles(model.profiles) if model.profiles != last.model.profiles else set()
        if (model.policies, model.tiers) != (last.model.policies, last.model.tiers):
            affected |= self._place_policies(model)
        here = self._here.things
        moved = {key: thing if _is_here(thing) else None for key, thing in changes.items()}
        moved = {key: thing for key, thing in moved.items() if thing is not None or key in here}
        self._here.update(moved, self._inherited)
        classes = self._classes(affected | moved.keys())
        hosts = self._hosts(model)
        stacks, bodies = self._in_use(model, classes, hosts)
        if bodies is not last.bodies or model.space != last.model.space:
            sources = {name: source for body in bodies.values() for name, source in body.sets.items()}
            asked = {source.content for source in sources.values() if not isinstance(source.content, tuple)}
            self._everyone.ask(asked - {Ground.SPACE})
            self._crowds.ask(self._everyone.groups)
            self._tallies = {name: tally_of(sources[name], self._everyone, model.space) for name in sorted(sources)}
        self._everyone.update(changes, self._inherited)
        sets = _kept({name: tally.made() for name, tally in self._tallies.items()}, last.sets)
        self._last = Compiled(model, stacks, classes, bodies, sets, hosts)
        return self._last

    @property
    def remote(self) -> Mapping[Nlri, Claims]:
        """The addresses of other nodes' workloads with what is said of each; follows `learn`."""
        return self._crowds.said

    def learn(self, changes: Mapping[Nlri, Claims | None]) -> bool:
        """Take in what is said of addresses of other nodes' workloads (None: nothing any more), for the next call.

        Tell whether it is of some another thing than before, beside those that come and go.
        """
        return self._crowds.learn(changes)

    def _changes(self, model: Model, changed: Collection[str] | None) -> dict[Key, Thing | None]:
        """Return the members, network sets and host endpoints that are not as they were."""
        known, members = self._everyone.things, model.members
        if changed is None or not known:
            changed = [key for key, member in members.items() if known.get(key) is not member]
            changed += [key for key in known if isinstance(key, str) and key not in members]
        now: dict[Key, Thing | None] = {key: members.get(key) for key in changed}
        if model.network_sets != self._last.model.network_sets:
            now |= {(group.namespace, group.name): None for group in self._last.model.network_sets}
            now |= {(group.namespace, group.name): group for group in model.network_sets}
        if model.hosts != self._last.model.hosts:
            now |= {_host_key(host): None for host in self._last.model.hosts}
            now |= {_host_key(host): host.member for host in model.hosts}
        return {key: thing for key, thing in now.items() if known.get(key) != thing}

    def _place_profiles(self, profiles: Collection[Profile]) -> set[Key]:
        """Take other profiles; return the workloads here whose stacks that may touch."""
        here, inherited = self._here.things, self._inherited
        names = {profile.name for profile, _ in self._profiles.values()} ^ {profile.name for profile in profiles}
        self._profiles = {
            _body_chain(direction, None, profile.name, ""): (profile, direction)
            for profile in profiles
            for direction in Direction
        }
        self._inherited = {profile.name: profile.labels for profile in profiles if profile.labels}
        if self._inherited != inherited:
            return set(here)
        return {
            key for key, thing in here.items() if isinstance(thing, Member) and not names.isdisjoint(thing.profiles)
        }

    def _place_policies(self, model: Model) -> set[Key]:
        """Put other policies in their order; return the workloads here whose stacks that may touch."""
        ordered = in_order(model)
        self._here.ask({policy.selector for _, policy, _ in ordered})
        old, self._posts = self._posts, {}
        for tier, policy, salt in ordered:
            keys = self._here.groups[policy.selector].keys
            for direction in sorted(policy.types, key=lambda direction: direction.value):
                post = _Post(tier.name, (tier.order, policy.order), policy, direction, keys)
                # A twin that says the same decides nothing that the first has not decided.
                chain = _body_chain(direction, tier.name, policy.key, salt, is_staged=policy.is_staged)
                self._posts.setdefault(chain, post)
        self._early = {
            _body_chain(direction, tier.name, policy.key, salt, is_staged=policy.is_staged): _Post(
                tier.name, (0, 0), policy, direction, set()
            )
            for phase in Phase
            if phase.is_early
            for tier, policy, salt in in_order(model, phase)
            for direction in policy.types
        }
        affected: set[Key] = set()
        for chain in old.keys() | self._posts.keys():
            was, now = old.get(chain), self._posts.get(chain)
            if was is None or now is None or (was.place, was.policy.selector) != (now.place, now.policy.selector):
                affected.update(*(post.keys for post in (was, now) if post is not None))
        return affected

    def _classes(self, affected: AbstractSet[Key]) -> Mapping[str, Mapping[Direction, str]]:
        """Return the chains of the stacks of each workload here, worked out anew for those that are affected."""
        last = self._last.classes
        here = {key: thing for key in affected if isinstance(thing := self._here.things.get(key), Member)}
        rows: dict[tuple[Key, Direction], list[tuple[str, list[str]]]]
        rows = {(key, direction): [] for key in here for direction in Direction}
        for chain, post in self._posts.items():
            for key in post.keys & affected:
                row = rows[key, post.direction]
                if not row or row[-1][0] != post.tier:
                    row.append((post.tier, []))
                row[-1][1].append(chain)
        found: dict[str, dict[Direction, str]] = {}
        for key, member in here.items():
            own = found[member.key] = {}
            for direction in Direction:
                layers = tuple((tier, tuple(chains)) for tier, chains in rows[key, direction])
                named = (_body_chain(direction, None, name, "") for name in member.profiles)
                way = _Way(direction, layers, tuple(chain for chain in named if chain in self._profiles))
                own[direction] = _stack_chain(way)
                self._ways[own[direction]] = way
        gone = {key for key in affected if key not in here and key in last}
        new = {key: own for key, own in found.items() if last.get(key) != own}
        if not gone and not new:
            return last
        classes = {key: own for key, own in last.items() if key not in gone} | new
        return classes if new.keys() <= last.keys() else {key: classes[key] for key in sorted(classes)}

    def _hosts(self, model: Model) -> Mapping[str, HostInterface]:
        """Return the host endpoints that are enforced here. They are few, so any change is everybody's."""
        last = self._last
        if model.hosts == last.model.hosts and _of_objects(model) == _of_objects(last.model):
            return last.hosts
        found: dict[str, HostInterface] = {}
        here = {host.interface: host.member for host in model.hosts if host.interface is not None}
        for interface, member in sorted(here.items()):
            given = [self._inherited[name] for name in member.profiles if name in self._inherited]
            labels = {key: value for own in (*given, member.labels) for key, value in own.items()}
            meant = [row for row in (self._early | self._posts).items() if matches(row[1].policy.selector, labels)]
            stacks: dict[tuple[Phase, Direction], str] = {}
            for phase, direction in itertools.product(Phase, Direction):
                rows = ((post.tier, chain) for chain, post in meant if _is_asked(post, phase, direction))
                by_tier = itertools.groupby(rows, key=operator.itemgetter(0))
                layers = tuple((tier, tuple(chain for _, chain in own)) for tier, own in by_tier)
                named = (_body_chain(direction, None, name, "") for name in member.profiles if phase is Phase.NORMAL)
                way = _Way(direction, layers, tuple(chain for chain in named if chain in self._profiles), phase)
                if layers or phase is Phase.NORMAL:
                    stacks[phase, direction] = _stack_chain(way)
                    self._ways[_stack_chain(way)] = way
            found[interface] = HostInterface(member.key, interface, stacks)
        return _kept(found, last.hosts)

    def _in_use(
        self, model: Model, classes: Mapping[str, Mapping[Direction, str]], hosts: Mapping[str, HostInterface]
    ) -> tuple[Mapping[str, Stack], Mapping[str, Body]]:
        """Return the stacks that somebody here goes through, and the bodies in them."""
        last = self._last
        used = set(itertools.chain.from_iterable(own.values() for own in classes.values()))
        used |= set(itertools.chain.from_iterable(host.stacks.values() for host in hosts.values()))
        if used == last.stacks.keys() and _of_objects(model) == _of_objects(last.model):
            return last.stacks, last.bodies
        self._ways = {chain: self._ways[chain] for chain in sorted(used)}
        bodies = self._bodies({chain for way in self._ways.values() for chain in way.bodies()})
        defaults = {tier.name: tier.default for tier in model.tiers}
        stacks = {chain: _stack(chain, way, bodies, defaults) for chain, way in self._ways.items()}
        return _kept(stacks, last.stacks), bodies

    def _bodies(self, chains: AbstractSet[str]) -> Mapping[str, Body]:
        """Return the bodies of these chains, those of the last time where their rules are the same."""
        old, kept = self._last.bodies, self._rules
        bodies: dict[str, Body] = {}
        self._rules = {}
        for chain in sorted(chains):
            post = self._posts.get(chain) or self._early.get(chain)
            of, direction = self._profiles[chain] if post is None else (post.policy, post.direction)
            rules = self._rules[chain] = of.ingress if direction is Direction.INGRESS else of.egress
            if chain in old and kept[chain] == rules:
                bodies[chain] = old[chain]
            elif isinstance(of, Policy):
                bodies[chain] = replace(body_of(chain, direction, of.tier, of.key, rules), is_staged=of.is_staged)
            else:
                bodies[chain] = body_of(chain, direction, None, of.name, rules)
        return _kept(bodies, old)


_of_objects = operator.attrgetter("tiers", "policies", "profiles")


def in_order(model: Model, phase: Phase = Phase.NORMAL) -> list[tuple[Tier, Policy, str]]:
    """Return the policies of a phase in order, each with its tier and what tells twins apart; staged ones too.

    Two kinds of object may have one namespace and name in one tier: both hold, and each has its chain.
    """
    tiers = {tier.name: tier for tier in model.tiers}
    policies = [policy for policy in model.policies if _first_phase(policy) is phase]
    names = Counter((policy.tier, policy.key, policy.is_staged) for policy in policies)
    found: list[tuple[Tier, Policy, str]] = []
    for policy in policies:
        is_twin = names[policy.tier, policy.key, policy.is_staged] > 1
        salt = canonical((policy.selector, policy.types, policy.ingress, policy.egress)) if is_twin else ""
        found.append((tiers.get(policy.tier, Tier(policy.tier)), policy, salt))
    found.sort(key=lambda row: (row[0].order, row[0].name, row[1].order, row[1].namespace or "", row[1].name, row[2]))
    return found


def _first_phase(policy: Policy) -> Phase:
    return Phase.UNTRACKED if policy.is_untracked else Phase.PRE_DNAT if policy.is_pre_dnat else Phase.NORMAL


def _is_asked(post: _Post, phase: Phase, direction: Direction) -> bool:
    """Tell whether a direction of a policy of the host's is asked in that phase."""
    is_forward = phase is Phase.FORWARD and post.policy.is_on_forward
    first = _first_phase(post.policy)
    return post.direction is direction and (first is phase or (is_forward and first is Phase.NORMAL))


def _host_key(host: Host) -> Key:
    return (" host", host.member.key)  # no namespace's name


def _is_here(thing: Thing | None) -> bool:
    return isinstance(thing, Member) and thing.interface is not None


@functools.lru_cache(maxsize=65_536)
def _body_chain(direction: Direction, tier: str | None, key: str, salt: str, *, is_staged: bool = False) -> str:
    """Return the chain of a policy, or (no tier) of a profile; of a staged policy the name that stands for it."""
    kind = "r" if tier is None else "s" if is_staged else "p"
    return f"bm-{kind}{direction.value[0]}-{digest(tier or '', key, salt)}"


@functools.lru_cache(maxsize=65_536)
def _stack_chain(way: _Way) -> str:
    phase = () if way.phase is Phase.NORMAL else (way.phase.value,)
    return f"bm-c{way.direction.value[0]}-{digest(canonical((way.layers, way.profiles)), *phase)}"


def _stack(chain: str, way: _Way, bodies: Mapping[str, Body], defaults: Mapping[str, Action]) -> Stack:
    layers = tuple(
        _layer(way, tier, defaults.get(tier, Tier(tier).default), [bodies[each] for each in chains])
        for tier, chains in way.layers
    )
    return Stack(chain, way.direction, layers, way.profiles, way.phase)


def _layer(way: _Way, tier: str, default: Action, bodies: list[Body]) -> Layer:
    """Return a tier. Before the other phases it has no default: what it says nothing of is asked there."""
    default = Action.PASS if way.phase.is_early else default
    enforced = [body for body in bodies if not body.is_staged]
    parts: list[str | Run] = []
    for is_staged, group in itertools.groupby(bodies, key=lambda body: body.is_staged):
        chains = tuple(body.chain for body in group)
        if is_staged:
            last = None if enforced or way.phase.is_early else default
            parts.append(Run(f"bm-u{way.direction.value[0]}-{digest(canonical((chains, last)))}", chains, last))
        else:
            parts += chains
    return Layer(tier, default, tuple(parts), any(body.can_pass for body in enforced))


def _kept(now: dict[str, V], last: Mapping[str, V]) -> Mapping[str, V]:
    """Return what is now, the values of the last time where they are equal, and the whole of it where all are."""
    for key, value in now.items():
        old = last.get(key)
        if old is not None and old is not value and old == value:
            now[key] = old
    is_same = len(now) == len(last) and all(map(operator.is_, now.values(), map(last.get, now)))
    return last if is_same else now


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
    return Body(chain, direction, tier, key, lines, {s.name: s for s in sources if s.name in used})


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
            yield ((self._in(side.selector),), *self._unknown(_ground(side.selector)))
        if side.not_selector is not None:
            yield self._outside(self._in(side.not_selector, is_negated=True), _ground(side.not_selector))
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

    def _unknown(self, known: Ground = Ground.KNOWN) -> Choice:
        """Return the further choice that a deny rule has: an address we know too little of."""
        return ((self._in(Ground.SPACE), self._in(known, is_negated=True)),) if self._is_deny else ()

    def _outside(self, not_in: InSet, known: Ground = Ground.KNOWN) -> Choice:
        """Return who is outside a group: for a deny rule whoever is not in it, else only who is known not to be."""
        if self._is_deny:
            return ((not_in,),)
        return ((not_in, self._in(known)), (not_in, self._in(Ground.SPACE, is_negated=True)))


def _ground(selector: Selector) -> Ground:
    """Return who is known well enough for a selector."""
    return Ground.KNOWN if is_remote_capable(selector) else Ground.HERE
