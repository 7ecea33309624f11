"""One line of ExaBGP's text API: what it announces, and how it is refused."""

from __future__ import annotations

import ipaddress
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.errors import ConfigError
from bgpmesh.route.attributes import Asn, AsPath, Origin, PathAttributes, SegmentKind
from bgpmesh.route.nlri import parse_nlri
from bgpmesh.wire.announcements import parse

ROUTE = "announce route 10.0.0.0/8 next-hop self"
THERE_ARE = (
    "not taken here; there are next-hop, origin, as-path, med, local-preference, atomic-aggregate, aggregator, "
    "community, large-community, extended-community"
)
KINDS = "not route or attributes or attribute or ipv4 or ipv6"
UNKNOWN_ASN = "an AS number is 1 to 4294967295, and there is one at least"

# As ExaBGP's healthcheck writes it, with all of its options that say something of a route.
HEALTHCHECK = (
    "neighbor * announce route 192.0.2.1/32 next-hop self med 100 local-preference 200 community [ 65000:1 no-export ] "
    "extended-community [ target:65000:7 origin:10.0.0.1:2 ] large-community [ 65000:1:2 ] as-path [ 65001 65002 ]"
)


def said(**values: object) -> dict[str, object]:
    """Return the fields of attributes, those that are as by default left out."""
    return values


def fields_of(attributes: PathAttributes | None) -> dict[str, object] | None:
    """Return the same of what was parsed; None: it was withdrawn."""
    if attributes is None:
        return None
    usual = PathAttributes()
    values = {field.name: getattr(attributes, field.name) for field in fields(PathAttributes)}
    return {name: value for name, value in values.items() if value != getattr(usual, name)}


GOOD: list[tuple[str, list[str], dict[str, object] | None]] = [
    (
        HEALTHCHECK,
        ["192.0.2.1/32"],
        said(
            med=100,
            local_pref=200,
            communities=(65000 << 16 | 1, 0xFFFFFF01),
            ext_communities=(bytes.fromhex("0002fde800000007"), bytes.fromhex("01030a0000010002")),
            large_communities=((65000, 1, 2),),
            as_path=AsPath(((SegmentKind.SEQUENCE, (Asn(65001), Asn(65002))),)),
        ),
    ),
    ("announce route 192.0.2.1 next-hop 10.0.0.1", ["192.0.2.1/32"], said(next_hop=ipaddress.ip_address("10.0.0.1"))),
    ("  announce\troute 2001:db8::1 next-hop\tself  ", ["2001:db8::1/128"], said()),
    ("neighbor * withdraw route 192.0.2.1/32 next-hop self med 1000", ["192.0.2.1/32"], None),
    ("withdraw route 2001:db8::/32", ["2001:db8::/32"], None),
    (
        "announce attributes med 5 next-hop self community 1:1 nlri 10.0.0.0/24 2001:db8::/64 10.0.0.0/24",
        ["10.0.0.0/24", "2001:db8::/64"],
        said(med=5, communities=(1 << 16 | 1,)),
    ),
    ("withdraw attribute nlri 10.0.0.0/24", ["10.0.0.0/24"], None),
    ("announce ipv4 unicast 10.0.0.0/8 next-hop self", ["10.0.0.0/8"], said()),
    ("withdraw ipv6 unicast 2001:db8::/32", ["2001:db8::/32"], None),
    (
        f"{ROUTE} origin incomplete atomic-aggregate",
        ["10.0.0.0/8"],
        said(origin=Origin.INCOMPLETE, atomic_aggregate=True),
    ),
    (
        f"{ROUTE} aggregator ( 65001:10.0.0.9 )",
        ["10.0.0.0/8"],
        said(aggregator=(65001, ipaddress.ip_address("10.0.0.9"))),
    ),
    (
        f"{ROUTE} as-path [ 1 2 ] ( 3 4.4 )",
        ["10.0.0.0/8"],
        said(as_path=AsPath(((SegmentKind.SEQUENCE, (Asn(1), Asn(2))), (SegmentKind.SET, (Asn(3), Asn(4 << 16 | 4)))))),
    ),
    (
        f"{ROUTE} extended-community 0x40040001447a0000",
        ["10.0.0.0/8"],
        said(ext_communities=(bytes.fromhex("40040001447a0000"),)),
    ),
    (f"{ROUTE} med 4294967295", ["10.0.0.0/8"], said(med=0xFFFFFFFF)),
]

BAD: list[tuple[str, str]] = [
    ("", "word 1: not announce or withdraw, where the line ends"),
    ("shutdown", "word 1 = shutdown: not announce or withdraw"),
    ("peer * announce route 1.1.1.1/32 next-hop self", "word 1 = peer: not announce or withdraw"),
    (
        "neighbor 10.0.0.1 announce route 1.1.1.1/32 next-hop self",
        "word 2 = 10.0.0.1: routes go to all peers, as their export filters say: write neighbor *",
    ),
    ("neighbor * , neighbor * announce route 1.1.1.1/32", "word 3 = ,: not announce or withdraw"),
    ("announce", f"word 2: {KINDS}, where the line ends"),
    ("announce flow route { match", f"word 2 = flow: {KINDS}"),
    ("announce route", "word 3: a prefix is missing"),
    ("announce route foo next-hop self", "word 3 = foo: 'foo' does not appear to be an IPv4 or IPv6 network"),
    ("announce route 10.0.0.1/8 next-hop self", "word 3 = 10.0.0.1/8: 10.0.0.1/8 has host bits set"),
    ("announce route fe80::%1/128 next-hop self", "word 3 = fe80::%1/128: a prefix has no zone"),
    ("announce ipv4 mpls 10.0.0.0/8", "word 3 = mpls: not unicast"),
    ("announce ipv6 unicast 10.0.0.0/8 next-hop self", "word 4 = 10.0.0.0/8: not a prefix of ipv6"),
    ("announce route 10.0.0.0/8", "word 4: there is no next-hop: write next-hop self"),
    ("announce route 10.0.0.0/8 next-hop", "word 5: not self or an IP address"),
    ("announce route 10.0.0.0/8 next-hop here", "word 5 = here: not self or an IP address"),
    (
        "announce route 10.0.0.0/8 next-hop 0.0.0.0",
        "word 5 = 0.0.0.0: not the address of a host that others could reach",
    ),
    *(
        (
            f"announce route 10.0.0.0/8 next-hop {address}",
            f"word 5 = {address}: not the address of a host that others could reach",
        )
        for address in ("0.1.2.3", "240.0.0.1", "255.255.255.255", "127.0.0.1", "224.0.0.1", "fe80::1")
    ),
    ("announce route 10.0.0.0/8 next-hop 2001:db8::1", "word 5 = 2001:db8::1: not of ipv4, as the prefix is"),
    (
        "announce attributes next-hop 10.0.0.1 nlri 10.0.0.0/8 2001:db8::/32",
        "word 4 = 10.0.0.1: not of ipv6, as the prefix is",
    ),
    ("announce attributes next-hop self", "word 5: not nlri, where the line ends"),
    ("announce attributes next-hop self nlri", "word 6: a prefix is missing"),
    (
        "announce attributes next-hop self nlri 10.0.0.0/8 x",
        "word 7 = x: 'x' does not appear to be an IPv4 or IPv6 network",
    ),
    (f"{ROUTE} med", "word 7: invalid MED"),
    (f"{ROUTE} med high", "word 7 = high: invalid MED high"),
    (f"{ROUTE} med 4294967296", "word 7 = 4294967296: not a value of med"),
    (f"{ROUTE} local-preference -1", "word 7 = -1: invalid local preference -1"),
    (f"{ROUTE} origin far", "word 7 = far: unknown origin far"),
    (f"{ROUTE} community [ 1:2", "word 9: invalid community name"),
    (f"{ROUTE} community [ 1:70000 ]", "word 8 = 1:70000: 70000 is above 65535"),
    (f"{ROUTE} community [ ]", "word 8 = ]: not a value of community"),
    (f"{ROUTE} large-community [ -1:2:3 ]", "word 8 = -1:2:3: not a value of large-community"),
    (f"{ROUTE} extended-community 0x00", "word 7 = 0x00: not a value of extended-community"),
    (f"{ROUTE} as-path [ 0 ]", f"word 9 = ]: {UNKNOWN_ASN}"),
    (f"{ROUTE} as-path [ ]", f"word 8 = ]: {UNKNOWN_ASN}"),
    (f"{ROUTE} as-path [ 1 x ]", "word 9 = x: could not parse as-path"),
    (f"{ROUTE} as-path [{' 1' * 256} ]", "word 264 = ]: longer than 255"),
    (f"{ROUTE} aggregator 0:1.1.1.1", "word 7 = 0:1.1.1.1: an AS number is 1 to 4294967295"),
    (f"{ROUTE} split /32", f"word 6 = split: {THERE_ARE}"),
    (f"{ROUTE} path-information 3", f"word 6 = path-information: {THERE_ARE}"),
    ("withdraw route 10.0.0.0/8 label 3", f"word 4 = label: {THERE_ARE}"),
    (f"announce route {'9' * 20_000} next-hop self", f"word 3 = {'9' * 100}: '{'9' * 199}"),
]


@pytest.mark.parametrize(("line", "prefixes", "values"), GOOD)
def test_a_line_says(line: str, prefixes: list[str], values: dict[str, object] | None) -> None:
    """What is announced with which attributes, or withdrawn."""
    attributes, nlris = parse(line)
    assert nlris == tuple(map(parse_nlri, prefixes))
    assert fields_of(attributes) == values


@pytest.mark.parametrize(("line", "reason"), BAD, ids=range(len(BAD)))
def test_a_line_is_refused(line: str, reason: str) -> None:
    """The word that cannot be is named by its place, and why."""
    with pytest.raises(ConfigError) as caught:
        parse(line)
    assert str(caught.value) == reason


def test_the_same_words_are_the_same_attributes() -> None:
    """What is announced again and again, as healthcheck does, is nothing new."""
    assert parse(f"{ROUTE} med 7")[0] is parse("announce route 10.0.0.1/32 next-hop self med 7")[0]


WORDS = st.sampled_from(
    (
        *("announce", "withdraw", "route", "attributes", "neighbor", "*", "10.0.0.0/8", "2001:db8::1", "nlri", "self"),
        *("next-hop", "med", "as-path", "community", "large-community", "extended-community", "aggregator", "origin"),
        *(
            "[",
            "]",
            "(",
            ")",
            "{",
            "}",
            ",",
            "1",
            "65536",
            "1:2",
            "1:2:3",
            "target:1:2",
            "0x",
            "-1",
            "igp",
            "²",
            "L",
            ":",
        ),
    )
)


@given(
    st.one_of(st.text(), st.lists(WORDS).map(" ".join), st.lists(WORDS).map(lambda more: f"{ROUTE} {' '.join(more)}"))
)
def test_any_line_is_taken_or_refused(line: str) -> None:
    """Whatever a program prints, there are prefixes, or a word that cannot be."""
    try:
        _, nlris = parse(line)
    except ConfigError:
        return
    assert nlris
