"""Import and export filters: which routes pass, and as what.

A `Filter` is rules and a default. The first rule of which every term matches decides (of several values in one term
any will do), else the default does. A session has filters in order: a route has to be accepted by each, and what one
of them changes the next one sees. `all`, `own` and `none` are filters like others.

What costs what. A batch is one attribute set and many prefixes, and a filter is asked once for it:

* Terms over attributes are asked once for each attribute set. They leave the rules that are in question for it, and
  what each would make of the set: a plan, which is remembered by the identity of the set.
* Keys of one family, as bytes, are ordered by length and then by address. So the prefixes under P that are L bits long
  are one interval, those of `P ge N le M` one interval for each length, and the first rule that matches cuts the keys
  of a family into intervals. Which these are depends only on the rules in question: a partition, remembered by
  them. A batch is looked up in it by bisection; where its lowest and highest key lie in one interval, all of it does.

So 100,000 prefixes with one attribute set ask for communities and AS_PATH once, and cost one bisection each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from bgpmesh.frozen import frozen
from bgpmesh.rib.aspath import Expression
from bgpmesh.rib.rule import BUILT_IN, LOCAL, Filter, PrefixRange, Rule, changes_of, families_of
from bgpmesh.route import community
from bgpmesh.route.attributes import Asn, AsPath, PathAttributes
from bgpmesh.route.community import large_number, large_parts
from bgpmesh.route.nlri import ROUTED, IPAddress, IPNetwork, Nlri, nlri_of
from bgpmesh.route.path import PeerName

MEMO_ENTRIES = 20_000  # attribute sets whose plan is remembered, of one filter

_WIDTHS = {family: 1 + family.bits // 8 for family in ROUTED}  # octets of a key
NOTHING: frozenset[str] = frozenset()
SAID = ("local_pref", "med", "next_hop", "blackhole")  # the keys on which a filter has the last word


@frozen(eq=False)
class Answer:
    """Prefixes that share one fate: what they pass as, or None where they do not.

    `by` names the filters and rules that changed them, or the one that stopped them. `said` are the keys on which a
    filter has the last word: `rewrite` leaves them alone, and so does what we make of a route that comes in.
    """

    attributes: PathAttributes | None
    nlris: Collection[Nlri]
    by: str = ""
    said: frozenset[str] = NOTHING


class Filters:
    """The filters that there are, and what sessions ask: those that filter alike share a chain."""

    def __init__(self) -> None:
        self._known: Mapping[str, Filter] = BUILT_IN
        self._chains: dict[tuple[tuple[str, ...], Asn], Chain] = {}

    def take(self, filters: Iterable[Filter]) -> set[str]:
        """Take these beside those built in; returns the names that mean something else now."""
        known = {**BUILT_IN, **{each.name: each for each in filters}}
        changed = {name for name in known.keys() | self._known.keys() if known.get(name) != self._known.get(name)}
        self._known = known
        self._chains = {key: chain for key, chain in self._chains.items() if changed.isdisjoint(key[0])}
        return changed

    def chain(self, names: tuple[str, ...], asn: Asn) -> Chain:
        """Return these filters in order; raises KeyError for a name that the configuration let through."""
        chain = self._chains.get((names, asn))
        if chain is None:
            chain = self._chains[names, asn] = Chain([self._known[name] for name in names], asn)
        return chain


class Chain:
    """Filters in order; `asn` is whom `prepend = N` repeats. Of sessions that filter alike all share one."""

    def __init__(self, filters: Iterable[Filter], asn: Asn) -> None:
        self._stages = [_Stage(each, asn) for each in filters if each is not BUILT_IN["all"]]

    def run(self, peer: PeerName | None, attributes: PathAttributes, nlris: Collection[Nlri]) -> Sequence[Answer]:
        """Send a batch of one family through; `peer` is who told us, None: this node itself.

        The same object comes back for attributes that nobody changed, and one object for one set and one fate.
        """
        answers: Sequence[Answer] = (Answer(attributes, nlris),)
        for stage in self._stages:
            if len(answers) == 1:
                answers = stage.run(peer, answers[0])
            else:
                answers = [after for before in answers for after in stage.run(peer, before)]
        return answers


@frozen(eq=False)
class _Fate:
    """What a rule, or the default, makes of one attribute set (or of all that come, where nobody looks at them)."""

    is_accepted: bool
    attributes: PathAttributes | None  # as changed; None: as they came
    by: str
    said: frozenset[str]


Bounds = list[bytes]
# Where intervals begin; for each, one more than those, the place of its rule among all of them; and these.
_Partition = tuple[Bounds, list[int], tuple[int, ...]]
_Plan = tuple[Bounds, list[int], tuple[_Fate, ...]]  # the same, and what each of these rules makes of the set


class _Stage:
    """One filter, compiled."""

    def __init__(self, definition: Filter, asn: Asn) -> None:
        is_built_in = definition is BUILT_IN.get(definition.name)
        names = [f"{definition.name} rule {number}" for number in range(1, len(definition.rules) + 1)]
        rules = [_Compiled(rule, asn, name) for rule, name in zip(definition.rules, names, strict=True)]
        last = definition.name if is_built_in else f"{definition.name} default"
        self._rules = [*rules, _Compiled(Rule(action=definition.default), asn, last)]
        self._asks_attributes = any(rule.tests or rule.changes for rule in self._rules)
        self._asks_peer = any(rule.peers for rule in self._rules)
        # By width of the keys, and by peer and attribute set where these are asked about.
        self._plans: dict[tuple[PeerName | None, int], dict[PathAttributes | None, _Plan]] = {}
        self._planned = 0
        self._partitions: dict[tuple[int, tuple[int, ...]], _Partition] = {}

    def run(self, peer: PeerName | None, before: Answer) -> Sequence[Answer]:
        """Return what becomes of prefixes that got as far as this filter, of others what they are already."""
        attributes, nlris = before.attributes, before.nlris
        if attributes is None or not nlris:
            return (before,)
        width = len(next(iter(nlris)))
        plans = self._plans.setdefault((peer if self._asks_peer else None, width), {})
        key = attributes if self._asks_attributes else None
        plan = plans.get(key)
        if plan is None:
            if self._planned >= MEMO_ENTRIES:
                self._plans.clear()
                plans, self._planned = self._plans.setdefault((peer if self._asks_peer else None, width), {}), 0
            plan = plans[key] = self._plan(peer, attributes, width)
            self._planned += 1
        bounds, places, fates = plan
        lowest = bisect_right(bounds, min(nlris)) if bounds else 0
        if not bounds or lowest == bisect_right(bounds, max(nlris)):
            return (_answered(before, fates[places[lowest]], nlris),)
        parts: dict[int, list[Nlri]] = {}
        for nlri in nlris:
            parts.setdefault(places[bisect_right(bounds, nlri)], []).append(nlri)
        return [_answered(before, fates[place], part) for place, part in parts.items()]

    def _plan(self, peer: PeerName | None, attributes: PathAttributes, width: int) -> _Plan:
        asked: list[int] = []
        for number, rule in enumerate(self._rules):
            if rule.may_match(peer, attributes, width):
                asked.append(number)
                if rule.spans is None:
                    break  # whatever comes here
        bounds, places, used = self._partition(width, tuple(asked))
        return bounds, places, tuple([self._rules[number].fate(attributes) for number in used])

    def _partition(self, width: int, asked: tuple[int, ...]) -> _Partition:
        """Return the intervals of keys, each with the first of these rules that has it; the last of them has all."""
        found = self._partitions.get((width, asked))
        if found is not None:
            return found
        spans = {number: (self._rules[number].spans or {}).get(width, []) for number in asked[:-1]}
        edges = sorted({edge for each in spans.values() for span in each for edge in span})
        bounds: Bounds = []
        numbers = [asked[-1]]  # before the first edge nothing begins
        for edge in edges:
            number = next((n for n, each in spans.items() if _is_within(edge, each)), asked[-1])
            if number != numbers[-1]:
                bounds.append(edge)
                numbers.append(number)
        if len(self._partitions) >= MEMO_ENTRIES:
            self._partitions.clear()
        used = tuple(dict.fromkeys(numbers))
        found = self._partitions[width, asked] = bounds, [used.index(number) for number in numbers], used
        return found


def _answered(before: Answer, fate: _Fate, nlris: Collection[Nlri]) -> Answer:
    if not fate.is_accepted:
        return Answer(None, nlris, fate.by)
    if fate.attributes is None and not fate.said:
        return before if nlris is before.nlris else replace(before, nlris=nlris)
    attributes = before.attributes if fate.attributes is None else fate.attributes
    by = f"{before.by}, {fate.by}" if before.by else fate.by
    return Answer(attributes, nlris, by, before.said | fate.said)


# ── one rule, compiled ───────────────────────────────────────────────────────

_Span = tuple[bytes, bytes]  # the first key, and the first one behind the last
_Test = Callable[[PathAttributes], bool]
_Changes = Mapping[str, Callable[[PathAttributes], object]]  # by the field that each gives another value


class _Compiled:
    """One rule: terms over attributes as functions, prefixes as intervals of keys, changes as functions."""

    def __init__(self, rule: Rule, asn: Asn, name: str) -> None:
        self._widths = {_WIDTHS[family] for family in families_of(rule)}
        self.peers = frozenset(rule.peer)
        self.tests = _tests(rule)
        self.changes = _changes(rule, asn)
        self.spans = _spans(rule.prefix) if rule.prefix else None
        said = {key for key in changes_of(rule) if key in SAID}
        if rule.next_hop is not None and rule.next_hop.is_self:
            said = said - {"next_hop"} | {"next_hop_self"}
        self._unchanged = _Fate(rule.action == "accept", None, name, frozenset(said))

    def may_match(self, peer: PeerName | None, attributes: PathAttributes, width: int) -> bool:
        """Tell whether it matches such a route of some prefix."""
        if width not in self._widths or (self.spans is not None and width not in self.spans):
            return False
        if self.peers and (LOCAL if peer is None else peer.partition("@")[0]) not in self.peers:
            return False  # a speaker of a range is NAME@address
        for test in self.tests:  # noqa: SIM110  a generator would cost more than the test, most often
            if not test(attributes):
                return False
        return True

    def fate(self, attributes: PathAttributes) -> _Fate:
        """Return what it makes of this set."""
        values = {name: make(attributes) for name, make in self.changes.items()}
        new = {name: value for name, value in values.items() if value != getattr(attributes, name)}
        if not new:
            return self._unchanged
        made = replace(attributes, **new)  # type: ignore[arg-type]
        return _Fate(self._unchanged.is_accepted, made, self._unchanged.by, self._unchanged.said)


def _tests(rule: Rule) -> tuple[_Test, ...]:
    tests: list[_Test] = []
    if rule.community:
        has = community.matcher(map(community.community, rule.community), community.BITS)
        tests.append(lambda held: has(held.communities))
    if rule.large_community:
        has_large = community.matcher(map(community.large_community, rule.large_community), community.LARGE_BITS)
        tests.append(lambda held: has_large(map(large_number, held.large_communities)))
    if rule.ext_community:
        has_ext = community.matcher(map(community.ext_community, rule.ext_community), community.EXT_BITS)
        tests.append(lambda held: has_ext(map(_number, held.ext_communities)))
    if rule.next_hop is not None and rule.next_hop.within:
        within = rule.next_hop.within
        tests.append(lambda held: any(_lies_in(held.next_hop, network) for network in within))
    if rule.as_path:
        expressions = tuple(map(Expression, rule.as_path))
        tests.append(lambda held: any(expression.matches(held.as_path) for expression in expressions))
    return tuple(tests)


def _changes(rule: Rule, asn: Asn) -> _Changes:
    made: dict[str, Callable[[PathAttributes], object]] = {}
    if rule.remove_community or rule.add_community:
        edit = _editor(rule.remove_community, rule.add_community, community.community, community.BITS)
        made["communities"] = lambda held: edit(held.communities)
    if rule.remove_large_community or rule.add_large_community:
        edit_large = _editor(
            rule.remove_large_community, rule.add_large_community, community.large_community, community.LARGE_BITS
        )
        made["large_communities"] = lambda held: tuple(
            map(large_parts, edit_large(map(large_number, held.large_communities)))
        )
    if rule.remove_ext_community or rule.add_ext_community:
        edit_ext = _editor(
            rule.remove_ext_community, rule.add_ext_community, community.ext_community, community.EXT_BITS
        )
        made["ext_communities"] = lambda held: tuple(
            each.to_bytes(8, "big") for each in edit_ext(map(_number, held.ext_communities))
        )
    if rule.local_pref is not None:
        made["local_pref"] = lambda _: rule.local_pref
    if rule.med is not None:
        made["med"] = lambda _: rule.med
    if rule.prepend is not None:
        asns = rule.prepend.asns or (asn,) * rule.prepend.times
        made["as_path"] = lambda held: _prepended(held.as_path, asns)
    if rule.next_hop is not None and rule.next_hop.to is not None:
        to = rule.next_hop.to
        made |= {"next_hop": lambda _: to, "link_local": lambda _: None}
    return made


def _editor(
    removed: Sequence[str], added: Sequence[str], parse: Callable[[str], community.Pattern], bits: int
) -> Callable[[Iterable[int]], tuple[int, ...]]:
    """Return what takes some communities out, then puts others in; the result is sorted, each once."""
    goes = community.matcher(map(parse, removed), bits)
    comes = {number for number in (community.only(parse(text), bits) for text in added) if number is not None}
    if not removed:
        return lambda held: tuple(sorted(comes.union(held)))
    return lambda held: tuple(sorted(comes | {each for each in held if not goes((each,))}))


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _lies_in(address: IPAddress | None, network: IPNetwork) -> bool:
    return address is not None and address.version == network.version and address in network


def _prepended(path: AsPath, asns: Sequence[Asn]) -> AsPath:
    for asn in reversed(asns):
        path = path.prepended(asn)
    return path


def _spans(ranges: Iterable[PrefixRange]) -> dict[int, list[_Span]]:
    """Return the intervals of keys that these prefixes are, by the width of the key; sorted, none touches another."""
    found: dict[int, list[tuple[int, int]]] = {}
    for each in ranges:
        key = nlri_of(each.network)
        bits, first = each.network.max_prefixlen, int.from_bytes(key[1:], "big")
        for length in range(each.ge, each.le + 1):
            start = length << bits | first
            found.setdefault(len(key), []).append((start, start + (1 << bits - key[0])))
    spans: dict[int, list[_Span]] = {}
    for width, numbers in found.items():
        merged: list[tuple[int, int]] = []
        for start, end in sorted(numbers):
            if merged and start <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        spans[width] = [(start.to_bytes(width, "big"), end.to_bytes(width, "big")) for start, end in merged]
    return spans


def _is_within(key: bytes, spans: Sequence[_Span]) -> bool:
    at = bisect_right(spans, key, key=lambda span: span[0]) - 1
    return at >= 0 and key < spans[at][1]
