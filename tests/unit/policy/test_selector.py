"""The selector language."""

from __future__ import annotations

import pytest

from bgpmesh.policy.selector import AllOf, AnyOf, Everything, Has, Not, OneOf, SelectorError, matches, parse

R1 = {"rack": "r1", "zone": "a", "example.org/role": "edge"}


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
    ],
)
def test_a_selector_means_who_it_says(text: str, expected: bool) -> None:
    """Equality, sets, presence, negation and their combinations; != and not in hold where the label is absent."""
    assert matches(parse(text), R1) is expected


def test_and_binds_closer_than_or_and_not_closest() -> None:
    """The tree says how the text was understood."""
    assert parse("!has(a) && has(b) || all()") == AnyOf((AllOf((Not(Has("a")), Has("b"))), Everything()))


def test_blanks_do_not_matter() -> None:
    """Two texts that differ in blanks only are equal, as the order within a set is no difference."""
    assert parse("a in {'x','y'}") == parse(" a  in { 'y' , 'x' } ") == OneOf("a", frozenset({"x", "y"}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "column 1: expected a label, has(..), all(), ! or (, not the end"),
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
    ],
)
def test_a_fault_names_its_column(text: str, expected: str) -> None:
    """Counted from 1, with what was expected there."""
    with pytest.raises(SelectorError) as caught:
        parse(text)
    assert str(caught.value) == expected
