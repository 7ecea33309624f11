"""Filters beside an oracle that asks every rule about every prefix, one at a time."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpmesh.rib.aspath import Expression
from bgpmesh.rib.filter import Chain
from bgpmesh.rib.rule import BUILT_IN, Filter, PrefixRange, Rule
from bgpmesh.route.attributes import Asn, PathAttributes
from bgpmesh.route.nlri import ROUTED, Nlri, family_of, nlri_of
from bgpmesh.route.path import PeerName
from tests.property import filters as oracle
from tests.property.filters import Tree, does_match, text_of, trees
from tests.property.strategies import PREFIXES, attribute_sets
from tests.unit.rib.ribworld import sequence

OURS = Asn(64512)

examples = settings(max_examples=400, deadline=None)


@examples
@given(trees, st.lists(oracle.paths, min_size=1, max_size=8))
def test_an_expression_matches_what_its_tree_says(tree: Tree, paths: list[list[int]]) -> None:
    """The automaton and a search that tries everything agree."""
    expression = Expression(text_of(tree))
    assert [expression.matches(sequence(*path)) for path in paths] == [does_match(tree, path) for path in paths]


@st.composite
def near(draw: st.DrawFn) -> Nlri:
    """Draw a prefix of the small world, or one above or below it."""
    nlri = draw(st.sampled_from(PREFIXES))
    bits = 32 if len(nlri) == 5 else 128
    length = draw(st.integers(0, bits))
    number = int.from_bytes(nlri[1:], "big") | (draw(st.integers(0, (1 << bits) - 1)) >> nlri[0])
    number = number >> (bits - length) << (bits - length)
    return Nlri(bytes((length,)) + number.to_bytes(bits // 8, "big"))


sets = st.builds(
    lambda attributes, large, ext, communities: replace(
        attributes, large_communities=large, ext_communities=ext, communities=communities
    ),
    st.sampled_from(ROUTED).flatmap(attribute_sets),
    st.sampled_from(((), ((64512, 1, 1),), ((1, 1, 1), (64512, 1, 2)))),
    st.sampled_from(((), (bytes.fromhex("0002fc0000000001"),), (bytes.fromhex("030c000000000008"),))),
    st.lists(st.sampled_from((64512 << 16 | 1, 65001 << 16 | 1, 0xFFFFFF01, 0xFFFF0000)), unique=True).map(
        lambda some: tuple(sorted(some))
    ),
)
in_order = st.lists(
    st.one_of(oracle.definitions, st.sampled_from(sorted(BUILT_IN)).map(BUILT_IN.__getitem__)), max_size=3
)


@examples
@given(
    in_order,
    st.lists(
        st.tuples(sets, st.lists(near(), min_size=1, max_size=12, unique=True), st.sampled_from((None, "c1", "e1"))),
        min_size=1,
        max_size=4,
    ),
)
def test_filters_do_what_their_words_say(
    filters: list[Filter], batches: list[tuple[PathAttributes, list[Nlri], str | None]]
) -> None:
    """Whatever the rules, batches and their order: each prefix has the fate that it would have alone."""
    chain = Chain(filters, OURS)
    for attributes, prefixes, peer in (*batches, *batches):
        for family in ROUTED:
            nlris = [nlri for nlri in prefixes if family_of(nlri) is family]
            if not nlris:
                continue
            answers = chain.run(None if peer is None else PeerName(peer), attributes, nlris)
            assert sorted(nlri for answer in answers for nlri in answer.nlris) == sorted(nlris)
            for answer in answers:
                for nlri in answer.nlris:
                    expected = oracle.outcome(filters, OURS, peer, attributes, nlri)
                    assert ", ".join(expected.by) == answer.by
                    if expected.attributes is None:
                        assert answer.attributes is None
                    else:
                        assert answer.attributes is not None
                        assert expected.attributes.same_as(answer.attributes)
                        assert expected.said == answer.said
                        is_same = expected.attributes.same_as(attributes)
                        assert is_same or answer.attributes is not attributes


@examples
@given(st.lists(oracle.some_ranges, min_size=1, max_size=6), st.lists(near(), min_size=1, max_size=20))
def test_intervals_of_keys_are_the_prefixes_under_a_range(ranges: list[PrefixRange], prefixes: list[Nlri]) -> None:
    """Also at their ends, where they touch, and where one lies in the other."""
    rule = Rule(action="accept", prefix=tuple(ranges))
    chain = Chain([Filter("f", "reject", (rule,))], OURS)
    edges = [nlri_of(each.network) for each in rule.prefix]
    for nlri in (*prefixes, *edges):
        (answer,) = chain.run(None, PathAttributes(), [nlri])
        assert (answer.attributes is not None) is oracle.matches(rule, None, PathAttributes(), nlri)
