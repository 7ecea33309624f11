"""What a flow specification means, which of two goes first, and how people read it."""

from __future__ import annotations

import functools
import ipaddress
import itertools

import pytest

from bgpmesh.route.flow import (
    EQ,
    GT,
    LT,
    MATCH,
    NOT,
    Comparison,
    Component,
    Field,
    Flow,
    FlowKey,
    Kind,
    Prefix,
    flow_prefix,
    rank,
)
from bgpmesh.route.nlri import Family

IPV4, IPV6 = Family.IPV4_FLOWSPEC, Family.IPV6_FLOWSPEC


def to(text: str, offset: int = 0, kind: Kind = Kind.DESTINATION) -> Prefix:
    """Return a prefix component; the bits before `offset` do not count."""
    address, _, length = text.partition("/")
    return flow_prefix(kind, ipaddress.ip_address(address), int(length), offset)


def field(kind: Kind, *rows: tuple[int, int] | tuple[int, int, bool], data: bytes = b"") -> Field:
    """Return a component of tests: operator, value, and whether it is joined by "and"."""
    return Field(kind, tuple(Comparison(*row) for row in rows), data)


def flow(*components: Component, family: Family = IPV4) -> Flow:
    """Return a flow; what it is called by is of no matter."""
    return Flow(FlowKey(family, repr(components).encode()), components)


def first_of(one: Flow, two: Flow) -> int:
    """Return which goes first, -1 or 1 (0: equal), as the pseudocode of RFC 8955 §5.1 and RFC 8956 §4 has it."""
    for a, b in itertools.zip_longest(one.components, two.components):
        if a is None or b is None:
            return 1 if a is None else -1
        if a.kind != b.kind:
            return -1 if a.kind < b.kind else 1
        if isinstance(a, Prefix) and isinstance(b, Prefix):
            if a.offset != b.offset:
                return -1 if a.offset < b.offset else 1
            width, common = a.address.max_prefixlen, min(a.length, b.length)
            ours, theirs = (int(each.address) >> width - common for each in (a, b))
            sizes = a.length, b.length
        elif isinstance(a, Field) and isinstance(b, Field):
            common = min(len(a.data), len(b.data))
            ours, theirs = (int.from_bytes(each.data[:common], "big") for each in (a, b))
            sizes = len(a.data), len(b.data)
        if ours != theirs:
            return -1 if ours < theirs else 1
        if sizes[0] != sizes[1]:
            return -1 if sizes[0] > sizes[1] else 1
    return 0


PORT = field(Kind.PORT, (EQ, 25), data=b"\x81\x19")
SEVERAL = [
    flow(to("10.0.0.0/8")),
    flow(to("10.1.0.0/16")),
    flow(to("10.1.0.0/16"), to("0.0.0.0/0", kind=Kind.SOURCE)),
    flow(to("9.0.0.0/8"), PORT),
    flow(to("10.1.0.0/16"), PORT),
    flow(to("0.0.0.0/0")),
    flow(to("192.0.2.0/24", kind=Kind.SOURCE)),
    flow(PORT),
    flow(field(Kind.PORT, (EQ, 25), (EQ, 26), data=b"\x01\x19\x81\x1a")),
    flow(field(Kind.PORT, (EQ, 25), (EQ, 24), data=b"\x01\x19\x81\x18")),
    flow(field(Kind.PORT, (EQ, 25), data=b"\x91\x00\x19")),
    flow(field(Kind.PROTOCOL, (EQ, 6), data=b"\x81\x06")),
    flow(field(Kind.PROTOCOL, (EQ, 6), data=b"\x81\x06"), PORT),
]
SEVERAL6 = [
    flow(to("::/0"), family=IPV6),
    flow(to("2001:db8::/32"), family=IPV6),
    flow(to("2001:db8:1::/48"), family=IPV6),
    flow(to("::1234:5678:9a00:0/104", 64), family=IPV6),
    flow(to("::1234:5678:0:0/96", 64), family=IPV6),
    flow(to("::1234:5678:9a00:0/104", 65), family=IPV6),
    flow(to("2001:db8::/32", 16), family=IPV6),
]


@pytest.mark.parametrize("several", [SEVERAL, SEVERAL6])
def test_the_order_is_that_of_the_pseudocode(several: list[Flow]) -> None:
    """Every pair goes as the RFCs compare them, and a whole table is sorted as one that compares pairs sorts it."""
    for one, two in itertools.product(several, repeat=2):
        assert first_of(one, two) == (rank(one) > rank(two)) - (rank(one) < rank(two)), (str(one), str(two))
    assert sorted(several, key=functools.cmp_to_key(first_of)) == sorted(several, key=rank)


def test_a_longer_prefix_goes_first_and_then_the_lower_address() -> None:
    """RFC 8955 §5.1: the more specific of two, one of which contains the other; else the lowest IP value."""
    inner, outer, lower = flow(to("10.1.0.0/16")), flow(to("10.0.0.0/8")), flow(to("9.255.0.0/16"))
    assert [lower, inner, outer] == sorted([outer, inner, lower], key=rank)


def test_a_flow_that_says_more_goes_first() -> None:
    """RFC 8955 §5.1: the component that is missing has the type infinity."""
    assert rank(flow(to("10.1.0.0/16"), PORT)) < rank(flow(to("10.1.0.0/16")))


def test_the_longer_of_two_strings_goes_first() -> None:
    """RFC 8955 §5.1: where the common prefix is equal, the longest string has the higher precedence."""
    longer = flow(field(Kind.PORT, (EQ, 25), (EQ, 80), data=b"\x01\x19\x81\x50"))
    shorter = flow(field(Kind.PORT, (EQ, 25), data=b"\x01\x19"))
    assert rank(longer) < rank(shorter)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (0, ()),
        (EQ, (5,)),
        (GT, (6,)),
        (GT | EQ, (5, 6)),
        (LT, (4,)),
        (LT | EQ, (4, 5)),
        (LT | GT, (4, 6)),
        (7, (4, 5, 6)),
    ],
)
def test_numbers_are_compared_by_every_operator(operator: int, expected: tuple[int, ...]) -> None:
    """RFC 8955 §4.2.1.1, table 1."""
    asked = field(Kind.PORT, (operator, 5))
    assert expected == tuple(value for value in (4, 5, 6) if asked.holds(value))


@pytest.mark.parametrize(
    ("operator", "expected"),
    [(0, (1, 2, 3)), (NOT, (0,)), (MATCH, (3,)), (NOT | MATCH, (0, 1, 2))],
)
def test_bits_are_compared_by_every_operator(operator: int, expected: tuple[int, ...]) -> None:
    """RFC 8955 §4.2.1.2: any of them, none of them, all of them, not all of them."""
    asked = field(Kind.TCP_FLAGS, (operator, 3))
    assert expected == tuple(value for value in range(4) if asked.holds(value))


def test_and_binds_closer_than_or() -> None:
    """RFC 8955 §4.2.1.1: the example of §4.3.2, ports {range [137, 139] or 8080}."""
    asked = field(Kind.PORT, (GT | EQ, 137), (LT | EQ, 139, True), (EQ, 8080))
    assert {137, 138, 139, 8080} == {port for port in range(65536) if asked.holds(port)}


def test_only_the_bits_between_offset_and_length_count() -> None:
    """RFC 8956 §3.1 with the example of §3.8.1: ::1234:5678:9a00:0/64-104."""
    asked = to("::1234:5678:9a00:0/104", 64)
    assert asked.holds(ipaddress.ip_address("2001:db8::1234:5678:9aff:1"))
    assert not asked.holds(ipaddress.ip_address("2001:db8::1234:5678:9b00:0"))


def test_people_read_it() -> None:
    """As an operator would say it, in one line."""
    asked = flow(
        to("10.1.0.0/16"),
        to("192.0.2.0/24", kind=Kind.SOURCE),
        field(Kind.PROTOCOL, (EQ, 17), (EQ, 99)),
        field(Kind.PORT, (GT | EQ, 137), (LT | EQ, 139, True), (LT | GT, 53)),
        field(Kind.TCP_FLAGS, (MATCH, 0x12), (NOT, 0x05, True), (0, 0x100)),
        field(Kind.FRAGMENT, (NOT | MATCH, 2)),
    )
    assert str(asked) == (
        "to 10.1.0.0/16, from 192.0.2.0/24, protocol udp or 99, port >=137 and <=139 or !=53, "
        "TCP flags syn+ack and not fin|rst or bit 8, fragment not is-fragment"
    )
    assert str(flow(to("::1:0:0/104", 64), family=IPV6)) == "to ::1:0:0/104 from bit 64"
