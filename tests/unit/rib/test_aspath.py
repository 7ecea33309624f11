"""Expressions over AS_PATH."""

from __future__ import annotations

import pytest

from bgpmesh.rib.aspath import DEEPEST, LONGEST, Expression
from bgpmesh.route.attributes import Asn, AsPath, SegmentKind
from tests.unit.rib.ribworld import sequence

CASES = [  # (expression, paths that match, paths that do not)
    ("65001", [(65001,), (1, 65001, 2)], [(), (650011,), (6500, 1)]),
    ("_65001_", [(65001,), (1, 65001, 2)], [(), (650011,), (165001,)]),
    ("^65001", [(65001,), (65001, 2)], [(2, 65001), (650011,)]),
    ("^65001_", [(65001,), (65001, 2)], [(2, 65001)]),
    ("65001$", [(65001,), (2, 65001)], [(65001, 2)]),
    ("^$", [()], [(1,)]),
    ("^.$", [(1,), (4_294_967_295,)], [(), (1, 2)]),
    ("^.+$", [(1,), (1, 2)], [()]),
    ("^..?$", [(1,), (1, 2)], [(), (1, 2, 3)]),
    (".*", [(), (1,)], []),
    ("^65001 .*65009$", [(65001, 65009), (65001, 5, 6, 65009)], [(65001,), (5, 65001, 65009)]),
    ("65001_65002", [(65001, 65002), (1, 65001, 65002)], [(65001, 1, 65002), (65002, 65001)]),
    ("65001 65002", [(65001, 65002)], [(65001,)]),
    ("^(65001|65002)$", [(65001,), (65002,)], [(65001, 65002)]),
    ("^65001|65002$", [(65001, 5), (5, 65002)], [(5, 65001), (65002, 5)]),
    ("^65001(_65001)*$", [(65001,), (65001, 65001, 65001)], [(), (65001, 2), (65001, 2, 65001)]),
    ("^(65001_65002)+$", [(65001, 65002), (65001, 65002, 65001, 65002)], [(65001,), (65001, 65002, 65001)]),
    ("(^|_)65001_", [(65001,), (2, 65001)], [(2,)]),
    ("_65001($|_)", [(65001,), (65001, 2)], [(2,)]),
    ("^[64512-65534]$", [(64512,), (65534,), (65000,)], [(64511,), (65535,), (64512, 64512)]),
    ("^[1-5 9]+$", [(1, 9, 5)], [(6,), (9, 6)]),
    ("^1.2$", [(1, 7, 2)], [(1, 2), (12,)]),
]


@pytest.mark.parametrize(("text", "paths", "others"), CASES)
def test_what_matches(text: str, paths: list[tuple[int, ...]], others: list[tuple[int, ...]]) -> None:
    """As in FRR, but over whole AS numbers."""
    expression = Expression(text)
    assert [expression.matches(sequence(*path)) for path in paths] == [True] * len(paths)
    assert [expression.matches(sequence(*path)) for path in others] == [False] * len(others)


def test_members_of_sets_count_like_others() -> None:
    """In the order in which they stand."""
    path = AsPath(((SegmentKind.SEQUENCE, (Asn(1),)), (SegmentKind.SET, (Asn(2), Asn(3)))))
    assert [Expression(text).matches(path) for text in ("1_2_3$", "^...$", "_3$", "_2$")] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "asks nothing; an empty path is ^$, any path is .*"),
        ("_", "asks nothing; an empty path is ^$, any path is .*"),
        ("()", "asks nothing; an empty path is ^$, any path is .*"),
        ("65001)", "column 6: ) is not understood: there is no ( for it"),
        ("(65001", "column 7: the end is not understood: a ( is not closed"),
        ("*", "column 1: * is not understood: there is nothing to repeat"),
        ("65001_*", "column 7: * is not understood: there is nothing to repeat"),
        ("AS65001", "column 1: A is not understood: it has no meaning here"),
        ("65001{2}", "column 6: { is not understood: it has no meaning here"),
        ("[0-9]+", "column 1: [ is not understood: it would be AS 0 to 9; any one AS is written as ."),
        ("[5-3]", "column 1: [ is not understood: 5 is above 3"),
        ("[]", "column 1: [ is not understood: it is empty"),
        ("[5-]", "column 4: ] is not understood: not LOW-HIGH"),
        ("[5", "column 3: the end is not understood: a [ is not closed"),
        ("[x]", "column 2: x is not understood: not LOW-HIGH or an AS number"),
        ("4294967296", "column 1: AS 4294967296 is above 4294967295"),
        ("1" * (LONGEST + 1), f"longer than {LONGEST} characters"),
        ("(" * (DEEPEST + 1), f"column 51: ( is not understood: more than {DEEPEST} parentheses in one another"),
    ],
)
def test_what_is_not_understood(text: str, reason: str) -> None:
    """With the column, counted from 1."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is compared
        Expression(text)
    assert str(caught.value) == reason


def test_no_expression_is_slow() -> None:
    """What makes a backtracking matcher take for ever takes a step for each AS here."""
    expression = Expression("^(.*.*)*(.+)+(65001 .*)*9$")
    path = AsPath(((SegmentKind.SEQUENCE, (Asn(65001),) * 255),) * 8)
    assert not expression.matches(path)
