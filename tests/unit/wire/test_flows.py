"""Flow specifications on the wire: what ExaBGP reads of them, and what we do about those that it cannot read."""

from __future__ import annotations

import ipaddress

import pytest

from bgpmesh.peering.message import Capabilities, EndOfRib, Open
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.flow import EQ, GT, LT, MATCH, NOT, Comparison, Field, Flow, FlowKey, Kind, flow_prefix
from bgpmesh.route.nlri import FLOWSPEC, ROUTED, Family, parse_nlri
from bgpmesh.wire.codec import Codec, Decoded, Flows, Garbage, Routes
from tests.unit.wire.test_codec import GOOD, codec, octets, update

IPV4, IPV6 = FLOWSPEC
ALL = Open(Asn(64512), 9, RouterId(1), Capabilities(families=(*ROUTED, *FLOWSPEC)))
THEIRS = Open(Asn(64512), 30, RouterId(2), Capabilities(families=(*ROUTED, *FLOWSPEC)))
BARE = bytes.fromhex("40010100" + "4002060201" + "0000fde9" + "40050400000064")  # no NEXT_HOP
DISCARD = bytes.fromhex("c010088006000000000000")  # traffic-rate-bytes of 0
PORT_25 = bytes.fromhex("0118c0000203810604" + "8119")  # RFC 8955 §4.3.1
RANGE = bytes.fromhex("0118c0000202" + "18cb0071" + "0403" + "89458b911f90")  # RFC 8955 §4.3.2
OFFSET = bytes.fromhex("01684012345678" + "9a038106")  # RFC 8956 §3.8.1


def spoken(families: Open = THEIRS) -> Codec:
    """Return a codec that is past the OPENs."""
    made = codec(64512, ALL)
    made.feed(octets(families), 0.0)
    return made


def packed(*nlris: bytes) -> bytes:
    """Return NLRI with their lengths (RFC 8955 §4.1)."""
    sizes = (len(nlri) for nlri in nlris)
    heads = (bytes((size,)) if size < 240 else (0xF000 | size).to_bytes(2, "big") for size in sizes)
    return b"".join(head + nlri for head, nlri in zip(heads, nlris, strict=True))


def reach(*nlris: bytes, family: Family = IPV4, next_hop: bytes = b"") -> bytes:
    """Return MP_REACH_NLRI."""
    value = family.afi.to_bytes(2, "big") + bytes((family.safi, len(next_hop))) + next_hop + b"\0" + packed(*nlris)
    return b"\x90\x0e" + len(value).to_bytes(2, "big") + value


def unreach(*nlris: bytes, family: Family = IPV4) -> bytes:
    """Return MP_UNREACH_NLRI."""
    value = family.afi.to_bytes(2, "big") + bytes((family.safi,)) + packed(*nlris)
    return b"\x90\x0f" + len(value).to_bytes(2, "big") + value


def said(attributes: bytes, announced: bytes = b"", withdrawn: bytes = b"") -> list[Decoded]:
    """Return what one UPDATE says."""
    return spoken().feed(update(attributes, announced, withdrawn), 0.0)


def flows(attributes: bytes) -> Flows:
    """Return what one UPDATE says of flows, and of nothing else."""
    (found,) = said(attributes)
    assert isinstance(found, Flows)
    return found


def flow(nlri: bytes, family: Family = IPV4) -> Flow:
    """Return the flow that an NLRI is."""
    (found,) = flows(reach(nlri, family=family) + BARE).announced
    return found


def test_the_examples_of_the_rfc_are_read() -> None:
    """RFC 8955 §4.3.1 and §4.3.2: prefixes, protocol, a port, and a range or a value."""
    to = flow_prefix(Kind.DESTINATION, ipaddress.ip_address("192.0.2.0"), 24)
    tcp = Field(Kind.PROTOCOL, (Comparison(EQ, 6),), b"\x81\x06")
    assert flow(PORT_25) == Flow(
        FlowKey(IPV4, PORT_25), (to, tcp, Field(Kind.PORT, (Comparison(EQ, 25),), b"\x81\x19"))
    )
    ports = Field(
        Kind.PORT, (Comparison(GT | EQ, 137), Comparison(LT | EQ, 139, is_and=True), Comparison(EQ, 8080)), RANGE[-7:]
    )
    since = flow_prefix(Kind.SOURCE, ipaddress.ip_address("203.0.113.0"), 24)
    assert flow(RANGE) == Flow(FlowKey(IPV4, RANGE), (to, since, ports))


def test_an_ipv6_prefix_may_begin_in_the_middle() -> None:
    """RFC 8956 §3.8.1: ::1234:5678:9a00:0/64-104 and the upper-layer protocol."""
    to = flow_prefix(Kind.DESTINATION, ipaddress.ip_address("::1234:5678:9a00:0"), 104, 64)
    assert flow(OFFSET, IPV6).components == (to, Field(Kind.PROTOCOL, (Comparison(EQ, 6),), b"\x81\x06"))


def test_bitmasks_and_reserved_bits_are_read() -> None:
    """RFC 8955 §4.2.1: reserved bits say nothing, nor does the first "and"; a value has one octet or more."""
    found = flow(bytes.fromhex("09" + "4d02" + "d20010" + "0c" + "82f2"))
    masks = (Comparison(MATCH, 2), Comparison(NOT, 16, is_and=True))
    assert found.components == (
        Field(Kind.TCP_FLAGS, masks, bytes.fromhex("4d02d20010")),
        Field(Kind.FRAGMENT, (Comparison(NOT, 2),), b"\x82\xf2"),
    )


@pytest.mark.parametrize("next_hop", [b"", bytes(4)])
def test_a_next_hop_is_not_looked_at(next_hop: bytes) -> None:
    """RFC 8955 §4: its length should be 0, and it is ignored."""
    found = flows(reach(PORT_25, next_hop=next_hop) + BARE + DISCARD)
    assert found.attributes is not None
    assert (found.attributes.next_hop, found.attributes.ext_communities) == (None, (DISCARD[3:],))


def test_several_are_cut_each_with_its_own_bytes() -> None:
    """Lengths from 240 up have two octets (RFC 8955 §4.1)."""
    long = b"\x04" + b"\x01\x35" * 150 + b"\x81\x35"
    found = flows(reach(PORT_25, long, RANGE) + BARE)
    assert [each.key.nlri for each in found.announced] == [PORT_25, long, RANGE]


def test_a_withdrawal_needs_no_attributes_and_is_not_read() -> None:
    """It takes what has the same bytes, whatever they mean."""
    assert flows(unreach(PORT_25, b"\xff", family=IPV6)) == Flows(
        None, (), (FlowKey(IPV6, PORT_25), FlowKey(IPV6, b"\xff"))
    )


def test_the_end_of_rib_of_each_family_is_told() -> None:
    """RFC 4724 §2."""
    for family in FLOWSPEC:
        assert said(unreach(family=family)) == [EndOfRib(family)]


def test_flows_and_routes_of_one_update_are_told_apart() -> None:
    """RFC 7606 §5.1 asks for one of them; who sends several means them all."""
    found = said(reach(PORT_25) + GOOD + unreach(RANGE, family=IPV6), bytes.fromhex("18c63364"))
    of_flows, of_routes = found
    assert isinstance(of_flows, Flows)
    assert isinstance(of_routes, Routes)
    assert [each.key for each in of_flows.announced] == [FlowKey(IPV4, PORT_25)]
    assert of_flows.withdrawn == (FlowKey(IPV6, RANGE),)
    assert of_routes.announced == [parse_nlri("198.51.100.0/24")]


@pytest.mark.parametrize(
    "nlri",
    [
        b"",  # no component: it would be every packet (RFC 8955 §4.2)
        bytes.fromhex("0121c0000201" + "00"),  # a prefix of 33 bits
        bytes.fromhex("0118c000"),  # a prefix cut short
        bytes.fromhex("038106" + "0118c00002"),  # not in the order of types
        bytes.fromhex("038106" + "038111"),  # a type that stands twice
        bytes.fromhex("0118c00002" + "0118c00003"),  # also of a prefix
        bytes.fromhex("0381"),  # a value that is not there
        bytes.fromhex("0306"),  # no last one
        bytes.fromhex("0d810a"),  # the flow label, which IPv4 has not
        bytes.fromhex("3f8101"),  # a type that nobody knows
        bytes.fromhex("03910106"),  # protocol 262
    ],
)
def test_one_that_cannot_be_read_is_withdrawn_alone(nlri: bytes) -> None:
    """RFC 8955 §10 with RFC 7606: the others of the UPDATE stand whole beside it."""
    found = flows(reach(PORT_25, nlri, RANGE) + BARE)
    assert [each.key.nlri for each in found.announced] == [PORT_25, RANGE]
    assert (found.withdrawn, found.treated_as_withdraw) == ((FlowKey(IPV4, nlri),), 1)
    assert found.problem == f"flow specification {nlri.hex()} is malformed (RFC 8955 §4.2)"


def test_an_ipv6_offset_behind_the_length_is_malformed() -> None:
    """RFC 8956 §3.1: offset < length < 129, but for ::/0."""
    bad = bytes.fromhex("014040")
    found = flows(reach(bad, bytes.fromhex("010000"), family=IPV6) + BARE)
    assert [str(each) for each in found.announced] == ["to ::/0"]
    assert found.withdrawn == (FlowKey(IPV6, bad),)


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        (BARE.replace(bytes.fromhex("40010100"), b""), "origin missing (RFC 7606 §3 d)"),
        (BARE + bytes.fromhex("c01007" + "80060000000000"), "ext_communities of 7 octets"),
        (BARE + b"\xc0\x10\xff", "attribute 16 exceeds the attributes' length"),
    ],
)
def test_malformed_attributes_withdraw_all_of_them(attributes: bytes, problem: str) -> None:
    """RFC 7606 §2 and §7.14, as of any route."""
    found = flows(reach(PORT_25, RANGE) + attributes)
    assert (found.attributes, found.announced) == (None, ())
    assert found.withdrawn == (FlowKey(IPV4, PORT_25), FlowKey(IPV4, RANGE))
    assert (found.treated_as_withdraw, found.problem) == (1, problem)


def test_malformed_attributes_beside_routes_withdraw_those_too() -> None:
    """What is wrong with the framing is wrong for everything that the UPDATE announces."""
    found = said(reach(PORT_25) + GOOD + b"\xc0\x10\xff", bytes.fromhex("18c63364"))
    assert [each.treated_as_withdraw for each in found if isinstance(each, Flows | Routes)] == [1, 1]


@pytest.mark.parametrize(
    "value",
    ["000185", "00018500", "0001850000", "00018504c000020100", "0001850000" + "0c" + PORT_25.hex(), "0001850000f0"],
)
def test_what_cannot_be_cut_ends_the_session(value: str) -> None:
    """RFC 4760 §7: without their lengths nobody knows which flows were meant."""
    octets_of_it = bytes.fromhex(value)
    (found,) = said(b"\x80\x0e" + bytes((len(octets_of_it),)) + octets_of_it + BARE)
    assert isinstance(found, Garbage)
    assert (found.notification.code, found.notification.subcode) == (3, 9)


def test_nobody_sends_a_family_that_was_not_agreed_on() -> None:
    """As of any other family."""
    made = spoken(Open(Asn(64512), 30, RouterId(2), Capabilities(families=ROUTED)))
    (found,) = made.feed(update(reach(PORT_25) + BARE), 0.0)
    assert isinstance(found, Garbage)
    assert "non-negotiated family" in found.text


def test_both_families_are_offered() -> None:
    """Multiprotocol capabilities of AFI 1 and 2 with SAFI 133."""
    wire = octets(ALL)
    assert b"\x01\x04\x00\x01\x00\x85" in wire
    assert b"\x01\x04\x00\x02\x00\x85" in wire
