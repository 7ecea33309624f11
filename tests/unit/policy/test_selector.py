"""The selector language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.policy.selector import (
    DEEPEST,
    AllOf,
    AnyOf,
    Everything,
    Has,
    Not,
    OneOf,
    Part,
    Selector,
    SelectorError,
    all_of,
    is_global,
    is_remote_capable,
    matches,
    parse,
    show,
    with_prefix,
)

R1 = {"rack": "r1", "zone": "a", "example.org/role": "edge", "in": "x", "_-./": "odd"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all()", True),
        ("rack == 'r1'", True),
        ('rack == "r2"', False),
        ("rack != 'r2'", True),
        ("rack in {'r1', 'r2'}", True),
        ("rack in {'r3'}", False),
        ("rack not in {'r3'}", True),
        ("rack not in {'r1'}", False),
        ("absent != 'x'", True),
        ("absent not in {'x'}", True),
        ("absent == 'x'", False),
        ("has(rack)", True),
        ("!has(rack)", False),
        ("! has( absent )", True),
        ("example.org/role == 'edge'", True),
        ("rack == 'r1' && zone == 'b'", False),
        ("rack == 'r1' || zone == 'b'", True),
        ("zone == 'b' && zone == 'a' || rack == 'r1'", True),
        ("zone == 'b' && (zone == 'a' || rack == 'r1')", False),
        ("!(zone == 'a') || !zone == 'a'", False),
        ("  rack=='r1'&&zone=='a'  ", True),
        ("example.org/role contains 'dg'", True),
        ("example.org/role contains 'x'", False),
        ("example.org/role contains ''", True),
        ("absent contains ''", False),
        ("example.org/role starts with 'ed'", True),
        ("example.org/role starts with 'dg'", False),
        ("absent starts with ''", False),
        ("example.org/role ends with 'ge'", True),
        ("example.org/role ends with 'dg'", False),
        ("absent ends with ''", False),
        ("!absent ends with 'x'", True),
        ("!!has(rack)", True),
        ("in in {'x'}", True),
        ("_-./ == 'odd'", True),
        ("absent == \"it's\" || rack == 'r1'", True),
    ],
)
def test_a_selector_means_who_it_says(text: str, expected: bool) -> None:
    """Equality, sets, presence, negation and their combinations; != and not in hold where the label is absent."""
    assert matches(parse(text), R1) is expected


def test_and_binds_closer_than_or_and_not_closest() -> None:
    """The tree says how the text was understood."""
    assert parse("!has(a) && has(b) || all()") == AnyOf((AllOf((Not(Has("a")), Has("b"))), Everything()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a in {'x','y'}", " a  in { 'y' , 'x' } "),
        ("a == 'x'", '\ta\n== "x"\r\n'),
        ("a == 'x'", "a\u00a0==\u2003'x'"),
        ("a not in {'x'}", "a notin{'x'}"),
        ("a not in {'x'}", "a not\t in {'x',}"),
        ("a starts with 'x'", "a startswith'x'"),
        ("a ends with 'x'", "a ends\n with 'x'"),
        ("has(a)", "has ( a )"),
        ("all()", "((all( )))"),
        ("a in {'x'}", "a == 'x'"),
    ],
)
def test_blanks_quotes_and_order_do_not_matter(one: str, other: str) -> None:
    """Two texts that differ in no more than that are equal."""
    assert parse(one) == parse(other)


@pytest.mark.parametrize("key", ["all", "has", "global", "in", "not", "contains", "starts", "with", "-", "a/b.c-d_e"])
def test_a_word_of_the_language_is_a_key_where_a_key_stands(key: str) -> None:
    """What stands first is a key, unless a parenthesis follows."""
    assert parse(f"{key} == 'v' && {key} contains 'v'") == AllOf(
        (OneOf(key, frozenset("v")), Part(key, "contains", "v"))
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "column 1: expected a label, has(..), all(), ! or (, not the end"),
        ("   ", "column 4: expected a label, has(..), all(), ! or (, not the end"),
        ("rack", "column 5: expected ==, !=, in or not in, not the end"),
        ("rack = 'r1'", "column 6: '=' is not understood here"),
        ("rack == r1", "column 9: expected a value in quotes, not r1"),
        ("rack == 'r1", 'column 9: "\'" is not understood here'),
        ("rack in {}", "column 10: expected a value in quotes, not }"),
        ("rack in {'a' 'b'}", "column 14: expected }, not 'b'"),
        ("(rack == 'r1'", "column 14: expected ), not the end"),
        ("rack == 'r1')", "column 13: expected &&, || or the end, not )"),
        ("has rack", "column 5: expected ==, !=, in or not in, not rack"),
        ("all() all()", "column 7: expected &&, || or the end, not all"),
        ("(" * 60, "column 52: nested more than 50 deep"),
        ("!" * 100_000, "column 52: nested more than 50 deep"),
        ("!" * 30 + "(" * 30, "column 52: nested more than 50 deep"),
        ("a ==", "column 5: expected a value in quotes, not the end"),
        ("a == 'x' &&", "column 12: expected a label, has(..), all(), ! or (, not the end"),
        ("a == 'x' ||", "column 12: expected a label, has(..), all(), ! or (, not the end"),
        ("&& a == 'x'", "column 1: expected a label, has(..), all(), ! or (, not &&"),
        ("a == 'x' & b == 'y'", "column 10: '&' is not understood here"),
        ("a == 'x' | b == 'y'", "column 10: '|' is not understood here"),
        ("a == 'x' and b == 'y'", "column 10: expected &&, || or the end, not and"),
        ("a == 'x' b == 'y'", "column 10: expected &&, || or the end, not b"),
        ("a === 'x'", "column 5: '=' is not understood here"),
        ("a <> 'x'", "column 3: '<' is not understood here"),
        ("a !'x'", "column 3: expected ==, !=, in or not in, not !"),
        ("a not 'x'", "column 7: expected in, not 'x'"),
        ("a not in 'x'", "column 10: expected {, not 'x'"),
        ("a in 'x'", "column 6: expected {, not 'x'"),
        ("a in {x}", "column 7: expected a value in quotes, not x"),
        ("a in {,}", "column 7: expected a value in quotes, not ,"),
        ("a in {'x',,}", "column 11: expected a value in quotes, not ,"),
        ("a in {'x'", "column 10: expected }, not the end"),
        ("a in {'x'; 'y'}", "column 10: ';' is not understood here"),
        ("a notin 'x'", "column 9: expected {, not 'x'"),
        ("a starts 'x'", "column 10: expected with, not 'x'"),
        ("a ends x", "column 8: expected with, not x"),
        ("a starts with x", "column 15: expected a value in quotes, not x"),
        ("a startswith {'x'}", "column 14: expected a value in quotes, not {"),
        ("a contains {'x'}", "column 12: expected a value in quotes, not {"),
        ("a contains", "column 11: expected a value in quotes, not the end"),
        ("a IN {'x'}", "column 3: expected ==, !=, in or not in, not IN"),
        ("has()", "column 5: expected a label, not )"),
        ("has('a')", "column 5: expected a label, not 'a'"),
        ("has(a", "column 6: expected ), not the end"),
        ("has(a b)", "column 7: expected ), not b"),
        ("all(a)", "column 5: expected ), not a"),
        ("all(", "column 5: expected ), not the end"),
        ("all", "column 4: expected ==, !=, in or not in, not the end"),
        ("global()", "column 1: global() stands alone, as the namespaceSelector of a rule"),
        ("all() && global()", "column 10: global() stands alone, as the namespaceSelector of a rule"),
        ("()", "column 2: expected a label, has(..), all(), ! or (, not )"),
        ("(all()))", "column 8: expected &&, || or the end, not )"),
        ("'a' == 'x'", "column 1: expected a label, has(..), all(), ! or (, not 'a'"),
        ("!", "column 2: expected a label, has(..), all(), ! or (, not the end"),
        ("! && a == 'x'", "column 3: expected a label, has(..), all(), ! or (, not &&"),
        ("a == 'it's'", "column 10: expected &&, || or the end, not s"),
        ("a == \"x'", "column 6: '\"' is not understood here"),
        ("a == \\'x\\'", "column 6: '\\\\' is not understood here"),
        ("$a == 'x'", "column 1: '$' is not understood here"),
        ("key: value", "column 4: ':' is not understood here"),
        ("\u00e9 == 'x'", "column 1: '\u00e9' is not understood here"),
        ("a == 'x'\x00", "column 9: '\\x00' is not understood here"),
        ("a == 'x' 'b\nc'", "column 10: expected &&, || or the end, not \"'b\\nc'\""),
        ("all() " + "b" * 50, f"column 7: expected &&, || or the end, not {'b' * 40}.."),
        ("k" * 513 + " == 'x'", "column 1: a label's key of 513 characters, the limit is 512"),
    ],
)
def test_a_fault_names_its_column(text: str, expected: str) -> None:
    """Counted from 1, with what was expected there; on one line, and no longer than a line."""
    with pytest.raises(SelectorError) as caught:
        parse(text)
    assert str(caught.value) == expected


def test_a_long_text_is_read_in_one_pass() -> None:
    """Neither the number of terms nor the size of a set counts towards the depth."""
    text = " || ".join(f"a{number} == 'x'" for number in range(20_000))
    selector = parse(text)
    assert isinstance(selector, AnyOf)
    assert len(selector.terms) == 20_000
    assert parse("!" * DEEPEST + "all()")


@pytest.mark.parametrize(
    "text",
    [
        "all()",
        "!all()",
        "has(a)",
        "!has(a)",
        "!!has(a)",
        "a == 'x'",
        'a == "it\'s"',
        "a == ''",
        "a != 'x'",
        "!a != 'x'",
        "a in {'x', 'y'}",
        "a not in {'x', 'y'}",
        "a contains 'x'",
        "a starts with 'x'",
        "!a ends with 'x'",
        "has(a) && has(b) || has(c) && !has(d)",
        "(has(a) || has(b)) && has(c)",
        "!(has(a) && has(b))",
        "!(has(a) || has(b))",
        "(has(a) && has(b)) && has(c)",
        "(has(a) || has(b)) || has(c)",
    ],
)
def test_what_is_shown_is_the_one_text(text: str) -> None:
    """Each of these is how its own tree is shown."""
    assert show(parse(text)) == text


def test_no_text_says_a_value_with_both_kinds_of_quotes() -> None:
    """Nothing is escaped in the language."""
    with pytest.raises(ValueError, match="both kinds of quotes"):
        show(OneOf("a", frozenset({"'\""})))


_KEYS = st.text("abz09_./-", min_size=1, max_size=5)
_VALUES = st.text(st.characters(exclude_characters="'", exclude_categories=["Cs"]), max_size=5)
_LEAVES: st.SearchStrategy[Selector] = st.one_of(
    st.just(Everything()),
    st.builds(Has, _KEYS),
    st.builds(OneOf, _KEYS, st.frozensets(_VALUES, min_size=1, max_size=3)),
    st.builds(Part, _KEYS, st.sampled_from(("contains", "starts with", "ends with")), _VALUES),
)


def _grown(inner: st.SearchStrategy[Selector]) -> st.SearchStrategy[Selector]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(st.builds(Not, inner), st.builds(AllOf, several), st.builds(AnyOf, several))


@given(st.recursive(_LEAVES, _grown, max_leaves=12))
def test_what_is_shown_means_the_same(selector: Selector) -> None:
    """The text of a selector is parsed to that selector."""
    assert parse(show(selector)) == selector


@given(st.text(" \tab'\"(){}!=&|,:", max_size=12) | st.text(max_size=12))
def test_any_text_is_a_selector_or_a_fault_with_a_column(text: str) -> None:
    """There is no other outcome, and a column lies within the text or right behind it."""
    try:
        selector = parse(text)
    except SelectorError as error:
        word, column = str(error).partition(":")[0].split()
        assert word == "column"
        assert 1 <= int(column) <= len(text) + 1
    else:
        assert parse(show(selector)) == selector


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all() && has(a) && a == 'x' && a in {'x', 'y'}", True),
        ("!has(a) || a != 'x' || !(a not in {'x'})", True),
        ("a contains 'x'", False),
        ("!a starts with 'x'", False),
        ("has(a) || !(has(b) && c ends with 'x')", False),
    ],
)
def test_a_part_of_a_value_cannot_be_asked_of_another_node(text: str, expected: bool) -> None:
    """One such term anywhere is enough."""
    assert is_remote_capable(parse(text)) is expected


def test_all_of_is_as_simple_as_it_can_be() -> None:
    """No all() and no nesting; what is left of nothing is everybody."""
    a, b, c = Has("a"), Has("b"), Has("c")
    assert all_of(()) == all_of((Everything(), Everything())) == Everything()
    assert all_of((Everything(), a)) == a
    assert all_of((a, AllOf((b, c)), Everything())) == AllOf((a, b, c))
    assert all_of((AnyOf((a, b)), c)) == AllOf((AnyOf((a, b)), c))


def test_a_prefix_goes_before_every_key() -> None:
    """Values and the shape stay."""
    before = parse("all() && (!has(a) || b in {'x', 'y'}) && c ends with 'z'")
    assert with_prefix(before, "p.") == parse("all() && (!has(p.a) || p.b in {'x', 'y'}) && p.c ends with 'z'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("global()", True),
        (" global\t( ) ", True),
        ("!global()", False),
        ("global() && all()", False),
        ("all()", False),
        ("", False),
    ],
)
def test_global_stands_alone(text: str, expected: bool) -> None:
    """It is a word about namespaces, and no term."""
    assert is_global(text) is expected
