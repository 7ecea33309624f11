"""What a flow specification becomes in the words of iptables, what is done, and what cannot be said is refused."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from bgpmesh.policy.flowmatch import MOST_LINES, Doing, Unfit, doing, judge, matches
from bgpmesh.policy.model import Packet
from bgpmesh.policy.rule import ICMP, TCP, UDP, Icmp
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.flow import EQ, GT, LT, MATCH, NOT, Kind
from bgpmesh.route.nlri import Family
from tests.unit.route.test_flow import field, flow, to

IPV6 = Family.IPV6_FLOWSPEC


def rate(value: float, *, packets: bool = False) -> bytes:
    """Return the extended community of a rate."""
    return bytes((0x80, 0x0C if packets else 0x06, 0xFD, 0xE9)) + struct.pack("!f", value)


def asked(*communities: bytes, other: tuple[tuple[int, int, bytes], ...] = ()) -> Doing:
    """Return what attributes with these extended communities ask for."""
    return doing(PathAttributes(ext_communities=communities, other=other))


ACTION = bytes.fromhex("8007000000000000")
TARGET = bytes.fromhex("0002fde900000064")


# ── the match ────────────────────────────────────────────────────────────────


def test_a_flow_is_one_line_where_one_says_it() -> None:
    """Prefixes, the protocol, then what it has, then what the header has."""
    found = matches(
        flow(
            to("10.244.1.2/32"),
            to("192.0.2.0/24", kind=Kind.SOURCE),
            field(Kind.PROTOCOL, (EQ, UDP)),
            field(Kind.DESTINATION_PORT, (EQ, 53)),
            field(Kind.LENGTH, (GT | EQ, 1000)),
            field(Kind.DSCP, (EQ, 46)),
        )
    )
    assert [each.partition(" -m length") for each in found] == [
        (
            "-d 10.244.1.2/32 -s 192.0.2.0/24 -p 17 -m multiport --dports 53",
            " -m length",
            " --length 1000:65535 -m dscp --dscp 46",
        )
    ]


def test_everything_is_one_line_without_a_match() -> None:
    """A destination of no bits, and fields that may be anything."""
    found = matches(
        flow(to("0.0.0.0/0"), field(Kind.PROTOCOL, (7, 0)), field(Kind.LENGTH, (7, 0)), field(Kind.DSCP, (7, 9)))
    )
    assert found == ("",)


@pytest.mark.parametrize(
    ("comparisons", "expected"),
    [
        (((EQ, 80), (EQ, 443)), "80,443"),
        (((GT | EQ, 137), (LT | EQ, 139, True), (EQ, 8080)), "137:139,8080"),
        (((LT | GT, 80),), "0:79,81:65535"),
        (((GT, 65534),), "65535"),
        (((EQ, 80), (EQ, 81), (EQ, 80)), "80:81"),
        (((LT, 10), (7, 3)), "0:65535"),
    ],
)
def test_ports_are_lists_and_ranges(comparisons: tuple[tuple[int, int], ...], expected: str) -> None:
    """Overlaps and neighbours are joined."""
    found = matches(flow(field(Kind.PROTOCOL, (EQ, TCP)), field(Kind.SOURCE_PORT, *comparisons)))
    assert found == (f"-p 6 -m multiport --sports {expected}",)


def test_more_ports_than_one_match_holds_are_several_lines() -> None:
    """Fifteen, and a range counts as two (XT_MULTI_PORTS)."""
    some = field(Kind.DESTINATION_PORT, *((EQ, 2 * port) for port in range(16)))
    one, two = matches(flow(field(Kind.PROTOCOL, (EQ, TCP)), some))
    assert one == "-p 6 -m multiport --dports 0,2,4,6,8,10,12,14,16,18,20,22,24,26,28"
    assert two == "-p 6 -m multiport --dports 30"


def test_a_port_of_either_end_is_counted_once() -> None:
    """The second line is for those that the first does not have."""
    found = matches(flow(field(Kind.PROTOCOL, (EQ, UDP)), field(Kind.PORT, (EQ, 53))))
    assert found == (
        "-p 17 -m multiport --sports 53",
        "-p 17 -m multiport ! --sports 53 -m multiport --dports 53",
    )


def test_ports_mean_tcp_and_udp() -> None:
    """RFC 8955 §4.2.2.4: the component never matches another protocol."""
    port = field(Kind.DESTINATION_PORT, (EQ, 80))
    assert matches(flow(port)) == ("-p 6 -m multiport --dports 80", "-p 17 -m multiport --dports 80")
    several = field(Kind.PROTOCOL, (EQ, TCP), (EQ, 132))
    assert matches(flow(several, port)) == ("-p 6 -m multiport --dports 80",)


@pytest.mark.parametrize(
    ("family", "comparisons", "expected"),
    [
        (Family.IPV4_FLOWSPEC, ((EQ, 6), (EQ, 47)), ("-p 6", "-p 47")),
        (Family.IPV4_FLOWSPEC, ((LT | GT, 6),), ("! -p 6",)),
        (IPV6, ((LT | GT, 6),), ("! -p 6",)),
        (IPV6, ((EQ, 43), (EQ, 58)), ("-p 58",)),
    ],
)
def test_protocols_are_asked_for_one_by_one(
    family: Family, comparisons: tuple[tuple[int, int], ...], expected: tuple[str, ...]
) -> None:
    """Of IPv6 what is behind the extension headers, which are no protocols (RFC 8956 §3.3)."""
    assert matches(flow(field(Kind.PROTOCOL, *comparisons), family=family)) == expected


def test_icmp_is_asked_by_type_and_code() -> None:
    """RFC 8955 §4.2.2.7: only of ICMP packets; RFC 8956 §3.4: of ICMPv6."""
    kind, code = field(Kind.ICMP_TYPE, (EQ, 3), (EQ, 8)), field(Kind.ICMP_CODE, (LT, 2))
    assert matches(flow(kind)) == ("-p 1 -m icmp --icmp-type 3", "-p 1 -m icmp --icmp-type 8")
    assert matches(flow(field(Kind.ICMP_TYPE, (7, 0)), field(Kind.ICMP_CODE, (7, 0)))) == ("-p 1",)
    assert matches(flow(kind, code, family=IPV6)) == tuple(
        f"-p 58 -m icmp6 --icmpv6-type {each}" for each in ("3/0", "3/1", "8/0", "8/1")
    )


@pytest.mark.parametrize(
    ("comparisons", "expected"),
    [
        (((MATCH, 0x12),), ("-m tcp --tcp-flags SYN,ACK SYN,ACK",)),
        (((MATCH, 0x02), (NOT, 0x10, True)), ("-m tcp --tcp-flags SYN,ACK SYN",)),
        (((NOT, 0x03),), ("-m tcp --tcp-flags FIN,SYN NONE",)),
        (((0, 0x03),), ("-m tcp --tcp-flags FIN,SYN SYN", "-m tcp --tcp-flags FIN FIN")),
        (((MATCH, 0xC0),), ("-m ecn --ecn-tcp-ece -m ecn --ecn-tcp-cwr",)),
        (((NOT | MATCH, 0x80),), ("-m ecn ! --ecn-tcp-cwr",)),
        (((0, 0x01), (NOT, 0x01)), ("",)),
        (((MATCH, 0x5002), (MATCH, 0x02)), ("-m tcp --tcp-flags SYN SYN",)),
    ],
)
def test_tcp_flags_are_masks(comparisons: tuple[tuple[int, int], ...], expected: tuple[str, ...]) -> None:
    """RFC 8955 §4.2.2.9; the data offset counts as zero."""
    found = matches(flow(field(Kind.TCP_FLAGS, *comparisons)))
    assert tuple(each.removeprefix("-p 6").lstrip() for each in found) == expected


def test_dscp_and_length_are_one_line_each() -> None:
    """Of DSCP the two highest bits say nothing (RFC 8955 §4.2.2.11)."""
    assert matches(flow(field(Kind.DSCP, (EQ, 0xC0 | 46), (EQ, 10)))) == ("-m dscp --dscp 10", "-m dscp --dscp 46")
    assert matches(flow(field(Kind.DSCP, (LT | GT, 46)))) == ("-m dscp ! --dscp 46",)
    assert matches(flow(field(Kind.LENGTH, (EQ, 40), (GT, 1400)))) == (
        "-m length --length 40:40",
        "-m length --length 1401:65535",
    )


def test_an_offset_is_a_mask() -> None:
    """RFC 8956 §3.1: ip6tables takes any."""
    assert matches(flow(to("::1234:5678:9a00:0/104", 64), family=IPV6)) == ("-d ::1234:5678:9a00:0/::ffff:ffff:ff00:0",)


@pytest.mark.parametrize(
    ("components", "reason"),
    [
        ((field(Kind.FRAGMENT, (0, 2)),), "fragments cannot be told: connection tracking puts them together first"),
        ((field(Kind.FLOW_LABEL, (EQ, 5)),), "iptables has no match of the flow label"),
        ((field(Kind.TCP_FLAGS, (MATCH, 0x100)),), "iptables has no match of the TCP flags 0x100"),
        ((field(Kind.PROTOCOL, (EQ, 0)),), "iptables has no match of protocol 0"),
        ((field(Kind.ICMP_TYPE, (EQ, 255)),), "iptables has no match of ICMP type 255"),
        ((field(Kind.PORT, (0, 5)),), "no packet can match it"),
        ((field(Kind.PROTOCOL, (EQ, ICMP)), field(Kind.PORT, (EQ, 53))), "no packet can match it"),
        ((field(Kind.ICMP_CODE, (EQ, 0)),), f"it comes to more than {MOST_LINES} rules"),
        ((field(Kind.PROTOCOL, (GT, 17)),), f"it comes to more than {MOST_LINES} rules"),
        ((field(Kind.PORT, *((EQ, 2 * port) for port in range(300))),), "it has more than 256 values"),
    ],
)
def test_what_cannot_be_said_exactly_is_refused(components: tuple[object, ...], reason: str) -> None:
    """By name, and nothing wider is said."""
    with pytest.raises(Unfit, match=f"^{reason}$"):
        matches(flow(*components))  # type: ignore[arg-type]


# ── what is done ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("communities", "expected"),
    [
        ((), "accept"),
        ((TARGET,), "accept"),
        ((rate(0),), "drop"),
        ((rate(-5),), "drop"),
        ((rate(15),), "drop"),
        ((rate(0, packets=True),), "drop"),
        ((rate(1e6),), "limit to 1000000 bytes/s"),
        ((rate(100.9, packets=True),), "limit to 100 packets/s"),
        ((rate(0.5, packets=True),), "limit to 0.5 packets/s"),
        ((rate(1e6), rate(2000)), "limit to 2000 bytes/s"),
        ((rate(1e6), rate(50, packets=True)), "limit to 1000000 bytes/s and 50 packets/s"),
        ((rate(1e6), rate(0, packets=True)), "drop"),
        ((rate(1e6), ACTION[:7] + b"\1"), "limit to 1000000 bytes/s, then further flows"),
        ((ACTION[:7] + b"\1",), "accept, then further flows"),
        ((ACTION,), "accept"),
    ],
)
def test_rates_and_actions_are_read(communities: tuple[bytes, ...], expected: str) -> None:
    """RFC 8955 §7.1 to §7.3; where several limits are said each of them holds (§7.7)."""
    assert str(asked(*communities)) == expected


def test_limits_are_said_as_hashlimit_has_them() -> None:
    """Octets by the second, packets by the second or the minute, of which a second's worth may come at once."""
    assert asked(rate(1e6), rate(50, packets=True)).limits == (
        "--hashlimit-above 1000000b/s",
        "--hashlimit-above 50/second --hashlimit-burst 50",
    )
    assert asked(rate(0.5, packets=True)).limits == ("--hashlimit-above 30/minute --hashlimit-burst 1",)
    assert asked(rate(0)).limits == ()


def test_sampling_is_left_out_and_said_to_be() -> None:
    """It changes nothing about what passes."""
    assert asked(ACTION[:7] + b"\2").remark == "sampling is not done"


@pytest.mark.parametrize(
    ("community", "reason"),
    [
        ("8008fde900000064", "redirection is not done"),
        ("8108c00002010064", "redirection is not done"),
        ("82080000fde90064", "redirection is not done"),
        ("0800000000000000", "redirection is not done"),
        ("010cc00002010000", "redirection is not done"),
        ("800900000000002e", "traffic marking is not done"),
        ("80060000" + "7fc00000", "a rate of nan is none"),
        ("80060000" + "7f800000", "a rate of inf is none"),
        ("80060000" + struct.pack("!f", 1e10).hex(), "no more than 4000000000 bytes/s can be counted"),
        ("800c0000" + struct.pack("!f", 2e6).hex(), "no more than 1000000 packets/s can be counted"),
        ("80ff000000000000", "extended community 0x80ff000000000000 is not known, and may be an action"),
        ("0702000000000000", "extended community 0x0702000000000000 is not known, and may be an action"),
        ("c006000000000000", "extended community 0xc006000000000000 is not known, and may be an action"),
    ],
)
def test_what_is_not_done_is_no_accept(community: str, reason: str) -> None:
    """Beside a rate as well as alone."""
    for others in ((), (rate(0),)):
        with pytest.raises(Unfit, match=f"^{reason}"):
            asked(*others, bytes.fromhex(community))


def test_an_ipv6_redirection_is_none_either() -> None:
    """RFC 8956 §6.1: IPv6-address-specific communities have an attribute of their own (RFC 5701)."""
    target = bytes.fromhex("0002") + bytes(18)
    assert asked(other=((0xC0, 25, target),)) == Doing()
    with pytest.raises(Unfit, match="redirection is not done"):
        asked(other=((0xC0, 25, target + bytes.fromhex("000d") + bytes(18)),))


# ── one packet ───────────────────────────────────────────────────────────────

QUERY = Packet(ipaddress.ip_address("192.0.2.9"), ipaddress.ip_address("10.244.1.2"), UDP, 5353, 53)


@pytest.mark.parametrize(
    ("components", "expected"),
    [
        ((to("10.244.1.0/24"),), True),
        ((to("10.244.2.0/24"),), False),
        ((to("192.0.2.0/24", kind=Kind.SOURCE), field(Kind.PROTOCOL, (EQ, UDP))), True),
        ((field(Kind.DESTINATION_PORT, (EQ, 53)), field(Kind.SOURCE_PORT, (GT, 1023))), True),
        ((field(Kind.PORT, (EQ, 53)),), True),
        ((field(Kind.PORT, (EQ, 80)),), False),
        ((field(Kind.TCP_FLAGS, (0, 0)),), False),
        ((field(Kind.ICMP_TYPE, (EQ, 8)),), False),
    ],
)
def test_a_packet_is_judged_as_the_rules_would(components: tuple[object, ...], expected: bool) -> None:
    """By addresses, protocol and ports."""
    assert judge(flow(*components), QUERY) == (expected, ())  # type: ignore[arg-type]


def test_what_is_not_known_of_a_packet_is_said() -> None:
    """Nobody asks for a length or a DSCP, and a port may not have been said."""
    asked_for = flow(to("10.244.1.0/24"), field(Kind.SOURCE_PORT, (EQ, 53)), field(Kind.LENGTH, (GT, 1000)))
    packet = Packet(QUERY.source, QUERY.destination, UDP, None, 53)
    assert judge(asked_for, packet) == (True, ("source port 53", "packet length >1000"))
    assert judge(flow(field(Kind.PORT, (EQ, 80))), packet) == (True, ("port 80",))


def test_the_first_packet_of_a_connection_has_syn() -> None:
    """Of TCP; of ICMP it has a type."""
    syn = Packet(QUERY.source, QUERY.destination, TCP, 40000, 80)
    assert judge(flow(field(Kind.TCP_FLAGS, (MATCH, 2))), syn) == (True, ())
    assert judge(flow(field(Kind.TCP_FLAGS, (MATCH, 16))), syn) == (False, ())
    echo = Packet(QUERY.source, QUERY.destination, ICMP, icmp=Icmp(8, 0))
    assert judge(flow(field(Kind.ICMP_TYPE, (EQ, 8)), field(Kind.ICMP_CODE, (EQ, 0))), echo) == (True, ())
