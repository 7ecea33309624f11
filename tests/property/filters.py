"""Filters drawn at random, and what they come to by the words of the documentation: one prefix and rule at a time."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from hypothesis import strategies as st

from bgpmesh.rib.rule import (
    Community,
    ExtCommunity,
    Filter,
    LargeCommunity,
    NextHopTerm,
    PathExpression,
    PrefixRange,
    Prepend,
    Rule,
)
from bgpmesh.route.attributes import Asn, AsPath, PathAttributes
from bgpmesh.route.nlri import Family, Nlri, family_of, network_of
from tests.property.strategies import NEXT_HOPS, PREFIXES

# ── expressions over AS_PATH ─────────────────────────────────────────────────

Tree = tuple[object, ...]  # ("as", low, high), ("^",), ("$",), ("in turn", ..), ("one of", ..), ("often", tree, mark)

ASNS = (1, 2, 3, 65001)

letters: st.SearchStrategy[Tree] = st.one_of(
    st.sampled_from(ASNS).map(lambda asn: ("as", asn, asn)),
    st.tuples(st.sampled_from(ASNS), st.sampled_from(ASNS)).map(lambda ends: ("as", min(ends), max(ends))),
    st.just(("as", 0, 4_294_967_295)),
    st.just(("^",)),
    st.just(("$",)),
)
trees: st.SearchStrategy[Tree] = st.recursive(
    letters,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: ("in turn", *parts)),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: ("one of", *parts)),
        st.tuples(inner, st.sampled_from("*+?")).map(lambda pair: ("often", *pair)),
    ),
    max_leaves=8,
)
paths = st.lists(st.sampled_from(ASNS), max_size=5)


TREES: dict[str, Tree] = {}  # by their texts


def written(tree: Tree) -> PathExpression:
    """Return a tree as an operator would write it, and remember it."""
    text = text_of(tree)
    TREES[text] = tree
    return PathExpression(text)


def text_of(tree: Tree) -> str:
    """Return the text of a tree."""
    match tree:
        case ("as", 0, _):
            return "."
        case ("as", low, high):
            return str(low) if low == high else f"[{low}-{high}]"
        case ("in turn", *parts):
            return "(" + "_".join(text_of(cast("Tree", part)) for part in parts) + ")"
        case ("one of", *parts):
            return "(" + "|".join(text_of(cast("Tree", part)) for part in parts) + ")"
        case ("often", inner, mark):
            return f"({text_of(cast('Tree', inner))}){mark}"
        case (anchor,):
            return str(anchor)
    raise AssertionError(tree)


def ends_of(tree: Tree, symbols: Sequence[object], start: int) -> set[int]:
    """Return where a stretch that matches may end if it begins at `start`."""
    match tree:
        case ("as", int() as low, int() as high):
            at = symbols[start] if start < len(symbols) else None
            return {start + 1} if isinstance(at, int) and low <= at <= high else set()
        case ("in turn", *parts):
            ends = {start}
            for part in parts:
                ends = {end for at in ends for end in ends_of(cast("Tree", part), symbols, at)}
            return ends
        case ("one of", *parts):
            return {end for part in parts for end in ends_of(cast("Tree", part), symbols, start)}
        case ("often", inner, mark):
            reached = new = {start}
            once: set[int] = set()
            while new:
                found = {end for at in new for end in ends_of(cast("Tree", inner), symbols, at)}
                once |= found if new == {start} or mark != "?" else set()
                new = set() if mark == "?" else found - reached
                reached = reached | found
            return once if mark == "+" else {start} | once
        case (anchor,):
            return {start + 1} if start < len(symbols) and symbols[start] == anchor else set()
    raise AssertionError(tree)


def does_match(tree: Tree, path: Sequence[int]) -> bool:
    """Tell whether a path has such a stretch anywhere."""
    symbols = ["^", *path, "$"]
    return any(ends_of(tree, symbols, start) for start in range(len(symbols) + 1))


# ── filters ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Outcome:
    """What becomes of one prefix: its attributes (None: rejected), who changed or rejected it, what was said."""

    attributes: PathAttributes | None
    by: tuple[str, ...]
    said: frozenset[str]


COMMUNITIES = ("64512:1", "64512:2", "65001:1", "no-export", "no-advertise", "graceful-shutdown", "blackhole")
NUMBERS = {"no-export": "65535:65281", "no-advertise": "65535:65282", "graceful-shutdown": "65535:0"}
NUMBERS["blackhole"] = "65535:666"
LARGE = ("64512:1:1", "64512:1:2", "1:1:1")
EXT = {"rt:64512:1": "0002fc0000000001", "soo:192.0.2.1:2": "0103c00002010002", "030c000000000008": "030c000000000008"}


def ranges_over(prefixes: Sequence[Nlri]) -> st.SearchStrategy[PrefixRange]:
    """Draw ranges around these prefixes."""
    numbers = st.integers(0, 128)
    return st.sampled_from(prefixes).flatmap(
        lambda nlri: st.tuples(st.integers(0, nlri[0]), numbers, numbers).map(lambda drawn: _range(nlri, *drawn))
    )


def _range(nlri: Nlri, length: int, first: int, second: int) -> PrefixRange:
    network = network_of(nlri).supernet(new_prefix=length)
    bits = network.max_prefixlen
    low, high = sorted(length + number % (bits - length + 1) for number in (first, second))
    return PrefixRange(network, low, high)


def listed(one: st.SearchStrategy[str] | st.SearchStrategy[PrefixRange], most: int = 3) -> st.SearchStrategy[object]:
    """Draw nothing, most often, or a few."""
    return st.one_of(st.just(()), st.just(()), st.lists(one, min_size=1, max_size=most, unique=True).map(tuple))


def terms_over(prefixes: Sequence[Nlri], peers: Sequence[str]) -> st.SearchStrategy[dict[str, object]]:
    """Draw what a rule may ask, of these prefixes and peers."""
    return st.fixed_dictionaries(
        {
            "prefix": listed(ranges_over(prefixes)),
            "community": listed(st.sampled_from((*COMMUNITIES, "64512:*", "*:1")).map(Community)),
            "large_community": listed(st.sampled_from((*LARGE, "64512:*:1")).map(LargeCommunity), 1),
            "ext_community": listed(st.sampled_from((*EXT, "rt:64512:*")).map(ExtCommunity), 1),
            "as_path": listed(trees.map(written), 2),
            "peer": listed(st.sampled_from(peers)),
            "family": st.sampled_from(((), (), (Family.IPV4,), (Family.IPV6,))),
        }
    )


communities_change = {
    "add_community": listed(st.sampled_from(COMMUNITIES).map(Community), 2),
    "remove_community": listed(st.sampled_from((*COMMUNITIES, "64512:*")).map(Community), 2),
    "add_large_community": listed(st.sampled_from(LARGE).map(LargeCommunity), 1),
    "remove_large_community": listed(st.just(LargeCommunity("64512:*:*")), 1),
    "add_ext_community": listed(st.sampled_from(tuple(EXT)).map(ExtCommunity), 1),
    "remove_ext_community": listed(st.sampled_from(("rt:64512:*", *EXT)).map(ExtCommunity), 1),
}
others_change = {
    "local_pref": st.sampled_from((None, 0, 50, 300)),
    "med": st.sampled_from((None, 0, 7)),
    "blackhole": st.sampled_from((False, False, True)),
    "prepend": st.sampled_from((None, Prepend(2), Prepend(asns=(Asn(3), Asn(2))))),
    "next_hop": st.sampled_from(
        (
            None,
            NextHopTerm((ipaddress.ip_network("10.0.0.0/8"),)),
            NextHopTerm((ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/64"))),
            NextHopTerm(to=NEXT_HOPS[Family.IPV4][3]),
            NextHopTerm(to=NEXT_HOPS[Family.IPV6][0]),
        )
    ),
}


def filters_over(
    terms: st.SearchStrategy[dict[str, object]], changes: Mapping[str, st.SearchStrategy[object]]
) -> st.SearchStrategy[Filter]:
    """Draw a filter of rules with such terms and changes."""
    rules = st.builds(
        lambda action, asked, changed: Rule(action=action, **asked, **(changed if action == "accept" else {})),
        st.sampled_from(("accept", "accept", "reject")),
        terms,
        st.fixed_dictionaries({}, optional=dict(changes)),
    )
    return st.builds(
        lambda name, default, some: Filter(name, default, tuple(some)),
        st.sampled_from(("f", "g", "h")),
        st.sampled_from(("accept", "reject")),
        st.lists(rules, max_size=4),
    )


some_ranges = ranges_over(PREFIXES)
definitions = filters_over(terms_over(PREFIXES, ("c1", "n1", "e1", "local")), {**communities_change, **others_change})


def outcome(filters: Iterable[Filter], asn: int, peer: str | None, attributes: PathAttributes, nlri: Nlri) -> Outcome:
    """Send one prefix through filters in order."""
    by: tuple[str, ...] = ()
    said: frozenset[str] = frozenset()
    current = attributes
    for each in filters:
        number, rule = next(
            ((n, rule) for n, rule in enumerate(each.rules, 1) if matches(rule, peer, current, nlri)),
            (0, Rule(action=each.default)),
        )
        name = (
            each.name
            if each.name in {"all", "own", "none"}
            else f"{each.name} {f'rule {number}' * bool(number) or 'default'}"
        )
        if rule.action == "reject":
            return Outcome(None, (name,), frozenset())
        after = changed(rule, asn, current)
        spoken = {"local_pref": rule.local_pref is not None, "med": rule.med is not None, "blackhole": rule.blackhole}
        new = {key for key, is_said in spoken.items() if is_said}
        if rule.next_hop is not None and (rule.next_hop.to is not None or rule.next_hop.is_self):
            new.add("next_hop_self" if rule.next_hop.is_self else "next_hop")
        if new or not after.same_as(current):
            by = (*by, name)
        current, said = after, said | new
    return Outcome(current, by, said)


def matches(rule: Rule, peer: str | None, attributes: PathAttributes, nlri: Nlri) -> bool:
    """Tell whether every term is true."""
    network = network_of(nlri)
    answers = [not rule.family or family_of(nlri) in rule.family]
    if rule.prefix:
        answers.append(
            any(
                each.network.version == network.version
                and each.ge <= network.prefixlen <= each.le
                and network.network_address in each.network
                for each in rule.prefix
            )
        )
    if rule.peer:
        answers.append((peer or "local") in rule.peer)
    if rule.community:
        answers.append(any(_is_like(text, held) for held in texts(attributes) for text in rule.community))
    if rule.large_community:
        held_large = [":".join(map(str, each)) for each in attributes.large_communities]
        answers.append(any(_is_like(text, held) for held in held_large for text in rule.large_community))
    if rule.ext_community:
        answers.append(any(_is_like_ext(t, held) for held in attributes.ext_communities for t in rule.ext_community))
    if rule.next_hop is not None and rule.next_hop.within:
        at = attributes.next_hop
        answers.append(at is not None and any(at.version == n.version and at in n for n in rule.next_hop.within))
    if rule.next_hop is not None and rule.next_hop.to is not None:
        answers.append(rule.next_hop.to.version == network.version)
    if rule.as_path:
        path = [asn for _, members in attributes.as_path.segments for asn in members]
        answers.append(any(does_match(TREES[text], path) for text in rule.as_path))
    return all(answers)


def texts(attributes: PathAttributes) -> list[str]:
    """Return the communities in numbers."""
    return [f"{each >> 16}:{each & 0xFFFF}" for each in attributes.communities]


def _is_like(text: str, held: str) -> bool:
    pairs = zip(NUMBERS.get(text, text).split(":"), held.split(":"), strict=True)
    return all(said in ("*", number) for said, number in pairs)


def _is_like_ext(text: str, held: bytes) -> bool:
    return held.hex().startswith("0002fc00") if text == "rt:64512:*" else held.hex() == EXT[text]


def changed(rule: Rule, asn: int, attributes: PathAttributes) -> PathAttributes:
    """Return the attributes as the rule leaves them."""
    goes = [text for text in texts(attributes) if any(_is_like(each, text) for each in rule.remove_community)]
    comes = [NUMBERS.get(text, text) for text in rule.add_community]
    communities = sorted({_number(text) for text in (*(set(texts(attributes)) - set(goes)), *comes)})
    large = {each for each in attributes.large_communities if not (rule.remove_large_community and each[0] == 64512)}
    large |= {cast("tuple[int, int, int]", tuple(map(int, text.split(":")))) for text in rule.add_large_community}
    ext = {e for e in attributes.ext_communities if not any(_is_like_ext(t, e) for t in rule.remove_ext_community)}
    ext |= {bytes.fromhex(EXT[text]) for text in rule.add_ext_community}
    path: AsPath = attributes.as_path
    if rule.prepend is not None:
        for each in reversed(rule.prepend.asns or (Asn(asn),) * rule.prepend.times):
            path = path.prepended(each)
    hop, second = attributes.next_hop, attributes.link_local
    if rule.next_hop is not None and rule.next_hop.to is not None:
        hop, second = rule.next_hop.to, None
    return replace(
        attributes,
        communities=tuple(communities),
        large_communities=tuple(sorted(large)),
        ext_communities=tuple(sorted(ext)),
        local_pref=attributes.local_pref if rule.local_pref is None else rule.local_pref,
        med=attributes.med if rule.med is None else rule.med,
        as_path=path,
        next_hop=hop,
        link_local=second,
    )


def _number(text: str) -> int:
    first, second = text.split(":")
    return int(first) << 16 | int(second)
