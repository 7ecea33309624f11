"""Whose rule is it: the rules as they are written, told back to policies; and how many packets each of them has seen.

The kernel counts for each rule since that rule was written. Here the counts are added up by what the rule is for,
so that a chain that is written anew (which begins at nothing) takes nothing away. What a chain has counted between
the last reading and its end is read before it is written; what the kernel had when this process began is ours too.

    a rule of a policy        that policy
    the default of a tier     of the policies that close the direction there, the one that says least (the last of
                              those): where one only closes and others open, it is the one that closes
    what is fixed             a name in parentheses, which no policy can have

A dispatch is not among what is read on demand: its chains are as many as there are workloads, and all that it can
drop is a link that is nobody's. It is counted with each read-back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bgpmesh.frozen import frozen
from bgpmesh.policy.chains import ChainKey, Count, Counts, Rules, bare, ids_of
from bgpmesh.policy.form import Body, Compiled, Run, Stack, lines_of
from bgpmesh.policy.grammar import told_as
from bgpmesh.policy.rule import Action, Direction

INVALID, SPOOFED, REVOKED, GUARD = "(invalid)", "(spoofed)", "(revoked)", "(guard)"
UNKNOWN_LINK, TO_HOST, NO_PROFILE = "(unknown link)", "(workload_to_host)", "(no profile allows)"
NEIGHBOURS, ESTABLISHED = "(neighbour discovery)", "(established)"
FAILSAFE = {Direction.INGRESS: "(failsafe_inbound)", Direction.EGRESS: "(failsafe_outbound)"}
VERDICTS = (Action.ALLOW.value, Action.DENY.value, "established")  # allow: the first of a connection
FIXED = (INVALID, SPOOFED, REVOKED, GUARD, UNKNOWN_LINK, TO_HOST, NO_PROFILE)  # what drops and is no policy

_DROP = " -j DROP"
_BY_WORD = {"-m rpfilter ": SPOOFED, "-m connmark ": REVOKED, " INVALID ": INVALID}
_STAGED = ("bm-ui-", "bm-ue-")
_DISPATCH = ("bm-fd-", "bm-td-")
_TO_HOST = (("filter", "bm-to-host"), ("mangle", "bm-INPUT"))
_ON_THE_WAY = ("bm-fw-", "bm-tw-")
_ZERO: Count = (0, 0)

Place = tuple[str, str, str | None, str | None, int | None]  # chain, action, tier, policy, rule: of a `Step`


@frozen
class Cause:
    """What a rule is for. Chain, tier, policy and rule are those of a `Step`; several rules may be for one thing."""

    chain: str
    action: str  # of Action
    name: str  # whom people hold to account: the key of a policy, or a name in parentheses
    direction: Direction | None = None
    tier: str | None = None
    policy: str | None = None
    rule: int | None = None
    is_final: bool = False  # no other rule sees the packet: a drop or an accept
    is_staged: bool = False  # what would be; it decides nothing


def is_counted(key: ChainKey) -> bool:
    """Tell whether the chain's counters are worth a reading on demand."""
    return _has_meaning(key) and not key.chain.startswith(_DISPATCH)


def _has_meaning(key: ChainKey) -> bool:
    return key.is_ours and key.table != "nat" and not key.chain.startswith(_ON_THE_WAY)


def causes_of(key: ChainKey, rules: Rules, compiled: Compiled) -> tuple[Cause | None, ...]:
    """Return what each rule of a chain of ours is for; None where that is nothing anybody would count."""
    if (body := compiled.bodies.get(key.chain)) is not None:
        lines = _of_body(body, key.family)
        return tuple(None if told_as(rule) else next(lines, None) for rule in rules)  # the end of it is no line
    if (stack := compiled.stacks.get(key.chain)) is not None:
        ends = _ends(stack, compiled.bodies)
        return tuple(next(ends) if rule.endswith(_DROP) else None for rule in rules)
    if key.chain.startswith(_STAGED):
        run, direction, tier = next(row for row in _runs(compiled) if row[0].chain == key.chain)
        return tuple(_of_run(run, direction, tier, compiled.bodies, key.family))
    return tuple(_fixed(key, rule) for rule in rules)


def _runs(compiled: Compiled) -> Iterator[tuple[Run, Direction, str]]:
    for stack in compiled.stacks.values():
        for layer in stack.layers:
            for run in layer.runs:
                yield run, stack.direction, layer.tier


def _of_run(run: Run, direction: Direction, tier: str, bodies: Mapping[str, Body], family: int) -> Iterator[Cause]:
    for body, line in lines_of(run, bodies, family):
        who = (body.policy, direction, tier, body.policy, line.rule)
        yield Cause(run.chain, line.action.value, *who, is_staged=True)
    if run.default is not None:
        yield Cause(run.chain, run.default.value, _closing(run.bodies, bodies), direction, tier, is_staged=True)


def _of_body(body: Body, family: int) -> Iterator[Cause]:
    for line in body.lines[family]:
        who = (body.policy, body.direction, body.tier, body.policy, line.rule)
        yield Cause(body.chain, line.action.value, *who, is_final=line.action is Action.DENY)


def _ends(stack: Stack, bodies: Mapping[str, Body]) -> Iterator[Cause]:
    """Yield what each drop of a class is for, in their order: the defaults of its tiers, and the end."""
    for layer in stack.layers:
        if layer.default is not Action.PASS and not layer.is_absent:
            name = _closing(layer.bodies, bodies)
            yield Cause(stack.chain, Action.DENY.value, name, stack.direction, layer.tier, is_final=True)
    yield Cause(stack.chain, Action.DENY.value, NO_PROFILE, stack.direction, is_final=True)


def _closing(chains: Sequence[str], bodies: Mapping[str, Body]) -> str:
    """Return the policy to which the default of a tier is put down."""
    chosen = min(reversed(chains), key=lambda chain: sum(map(len, bodies[chain].lines.values())))
    return bodies[chosen].policy


def _fixed(key: ChainKey, rule: str) -> Cause | None:
    """Return what a rule of a chain that is always there is for."""
    chain = key.chain
    if rule.endswith(" -j ACCEPT"):
        name = ESTABLISHED if chain == "bm-accept" or "ESTABLISHED" in rule else None
        if "-m icmp6 " in rule:
            name = NEIGHBOURS
        if "-m multiport " in rule:
            name = FAILSAFE[Direction.INGRESS if chain.startswith("bm-f") else Direction.EGRESS]
        return Cause(chain, Action.ALLOW.value, name or "", policy=name, is_final=True)
    if rule.endswith(" -j RETURN") and (key.table, chain) == ("filter", "bm-OUTPUT"):
        return Cause(chain, Action.ALLOW.value, "")
    if not rule.endswith(_DROP):
        return None
    if (key.table, chain) in _TO_HOST and bare(rule) == "-j DROP":
        return Cause("bm-to-host", Action.DENY.value, TO_HOST, Direction.EGRESS, is_final=True)
    name = next((name for word, name in _BY_WORD.items() if word in rule), GUARD)
    if chain.startswith(_DISPATCH):
        name = UNKNOWN_LINK
    return Cause(chain, Action.DENY.value, name, policy=name, is_final=True)


def _place(cause: Cause) -> Place:
    return cause.chain, cause.action, cause.tier, cause.policy, cause.rule


def _who(cause: Cause) -> tuple[str, str, bool]:
    return cause.name, cause.action, cause.is_staged


class Counters:
    """What the rules of ours have counted, since this process began and before that as far as the kernel knew."""

    def __init__(self) -> None:
        self.by_verdict: Counter[str] = Counter(dict.fromkeys(VERDICTS, 0))
        self.by_name: Counter[tuple[str, str, bool]] = (
            Counter()
        )  # (name of a cause, its action, is staged), if in force
        self.sums: dict[tuple[int, Cause], Count] = {}  # (family, cause), of what is in force
        self.told: dict[tuple[int, str], Cause] = {}  # (family, prefix) of rules that tell of drops
        self._compiled: Compiled | None = None
        self._others: Mapping[ChainKey, Sequence[Cause | None]] = {}
        self._rules: dict[ChainKey, Rules] = {}
        self._living: set[tuple[int, Cause]] = set()
        self._causes: dict[ChainKey, dict[str, Cause]] = {}  # by the id of the rule
        self._before: dict[ChainKey, dict[str, Cause]] = {}  # of the rules that stand until the new ones do
        self._last: dict[ChainKey, Counts] = {}  # as it was read

    def know(
        self,
        chains: Mapping[ChainKey, Rules],
        compiled: Compiled,
        others: Mapping[ChainKey, Sequence[Cause | None]] | None = None,
    ) -> None:
        """Hear which rules there are to be, and forget what is of no rule any more; O(chains) for a new form.

        `others`: what the rules of chains are for that are not of the compiled form.
        """
        others = self._others if others is None else others
        if compiled is self._compiled and others is self._others:
            return
        self._compiled, self._others = compiled, others
        ours = {key: rules for key, rules in chains.items() if _has_meaning(key)}
        changed = [key for key, rules in ours.items() if self._rules.get(key) is not rules]
        if not changed and len(ours) == len(self._rules):
            return
        for key in changed:
            self._before.setdefault(key, self._causes.get(key, {}))
            causes = others[key] if key in others else causes_of(key, ours[key], compiled)
            self._causes[key] = {
                rule: cause for rule, cause in zip(ids_of(ours[key]), causes, strict=True) if cause is not None
            }
            for rule, cause in zip(ours[key], causes[1:], strict=False):  # what the next one drops
                if cause is not None and (prefix := told_as(rule)):
                    self.told[key.family, prefix] = cause
        for key in self._rules.keys() - ours.keys():
            self._before.setdefault(key, self._causes.pop(key))
        self._rules = ours
        self._living = living = {(key.family, cause) for key, own in self._causes.items() for cause in own.values()}
        self.sums = {place: count for place, count in self.sums.items() if place in living}
        self.told = {place: cause for place, cause in self.told.items() if (place[0], cause) in living}
        names = {(cause.name, cause.is_staged) for _, cause in living}
        self.by_name = Counter({who: count for who, count in self.by_name.items() if (who[0], who[2]) in names})
        for _, cause in living:
            self.by_name[_who(cause)] += 0

    def read(self, counts: Mapping[ChainKey, Counts]) -> None:
        """Add what came since the last reading of these chains."""
        for key, now in counts.items():
            last = self._last.get(key, {})
            if now == last or (key not in self._causes and key not in self._before):
                continue  # what is not known yet is read again
            self._last[key] = now if now.keys() >= last.keys() else {**last, **now}  # a listing may be torn
            own, before = self._causes.get(key, {}), self._before.get(key, {})
            for rule, (packets, size) in now.items():
                cause = own.get(rule) or before.get(rule)
                was = last.get(rule, _ZERO)
                if cause is None or was == (packets, size):
                    continue
                if packets < was[0]:  # written anew behind our back
                    was = _ZERO
                self._add(key.family, cause, packets - was[0], size - was[1], is_living=rule in own)

    def written(self, keys: Iterable[ChainKey]) -> None:
        """Hear that chains were written anew, or are gone: they begin at nothing."""
        for key in keys:
            self._last.pop(key, None)
            self._before.pop(key, None)

    def drops(self) -> dict[str, int]:
        """Return the packets that were dropped, by policy in force, and by what drops and is none."""
        deny = Action.DENY.value
        found = dict.fromkeys(FIXED, 0)
        found |= {name: n for (name, action, is_staged), n in self.by_name.items() if action == deny and not is_staged}
        return found

    def staged(self) -> dict[tuple[str, str], int]:
        """Return by staged policy, and by what it would do, the first packets of connections it would do that to."""
        return {(name, action): n for (name, action, is_staged), n in self.by_name.items() if is_staged}

    def of(self, family: int, place: Place) -> Count | None:
        """Return what the rules have seen that a step stands for, None where there are none; O(rules in force)."""
        own = [each for each in self._living if each[0] == family and _place(each[1]) == place]
        counts = [self.sums.get(each, _ZERO) for each in own]
        return (sum(packets for packets, _ in counts), sum(size for _, size in counts)) if own else None

    def _add(self, family: int, cause: Cause, packets: int, size: int, *, is_living: bool) -> None:
        if cause.is_final and cause.name != NEIGHBOURS:  # which is no connection
            self.by_verdict["established" if cause.name == ESTABLISHED else cause.action] += packets
        if is_living or _who(cause) in self.by_name:
            self.by_name[_who(cause)] += packets
        if is_living:
            before = self.sums.get((family, cause), _ZERO)
            self.sums[family, cause] = before[0] + packets, before[1] + size
