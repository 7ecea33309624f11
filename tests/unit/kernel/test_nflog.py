"""What is read out of a packet that a rule has told of."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.kernel.nflog import decode
from bgpmesh.policy.rule import ICMP, ICMPV6, SCTP, TCP, UDP

FOUR = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("10.0.0.2")
SIX = ipaddress.ip_address("fd00::1"), ipaddress.ip_address("fd00::2")
PORTS = struct.pack(">HH", 4000, 53) + bytes(4)


def ipv4(protocol: int, behind: bytes, *, options: bytes = b"", offset: int = 0) -> bytes:
    """Return a packet."""
    words = 5 + len(options) // 4
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, 4 * words + len(behind), 0, offset, 64, protocol, 0)
    return head + FOUR[0].packed + FOUR[1].packed + options + behind


def ipv6(protocol: int, behind: bytes) -> bytes:
    """Return a packet."""
    return struct.pack(">IHBB", 6 << 28, len(behind), protocol, 64) + SIX[0].packed + SIX[1].packed + behind


def told(payload: bytes) -> tuple[object, ...] | None:
    """Return protocol, ports and ICMP of a packet."""
    found = decode({9: payload, 10: b"bm-x:1\0"})
    return None if found is None else (found.protocol, found.source_port, found.port, found.icmp)


def test_the_whole_message() -> None:
    """Prefix, time, addresses, length; a link that is gone has no name."""
    time = struct.pack(">QQ", 1_700_000_000, 250_000)
    found = decode({3: time, 4: (1 << 30).to_bytes(4, "big"), 9: ipv4(UDP, PORTS), 10: b"bm-pi-x:3\0"})
    assert found is not None
    assert (found.prefix, found.time, found.link_in, found.link_out) == ("bm-pi-x:3", 1_700_000_000.25, "", "")
    assert (found.source, found.destination, found.length) == (*FOUR, 28)


def test_ports_and_icmp_are_found_behind_options_and_extensions() -> None:
    """And are not made up where a later fragment has none, or the rest was cut off."""
    assert told(ipv4(UDP, PORTS)) == (UDP, 4000, 53, None)
    assert told(ipv4(TCP, PORTS, options=bytes(8))) == (TCP, 4000, 53, None)
    assert told(ipv4(UDP, PORTS, offset=7)) == (UDP, None, None, None)
    assert told(ipv4(ICMP, b"\x08\x00")) == (ICMP, None, None, (8, 0))
    assert told(ipv6(ICMPV6, b"\x80\x01")) == (ICMPV6, None, None, (128, 1))
    options = bytes((44, 1)) + bytes(14)
    assert told(ipv6(0, options + bytes((SCTP, 0, 0, 1)) + bytes(4) + PORTS)) == (SCTP, 4000, 53, None)
    assert told(ipv6(44, bytes((UDP, 0, 0, 8)) + bytes(4) + PORTS)) == (UDP, None, None, None)
    assert told(ipv6(0, options[:4])) == (0, None, None, None)
    assert told(ipv4(UDP, PORTS[:3])) == (UDP, None, None, None)
    assert told(ipv4(50, PORTS)) == (50, None, None, None)


@given(st.dictionaries(st.sampled_from((3, 4, 5, 9, 10)), st.binary(max_size=80)))
def test_no_octets_break_it(found: dict[int, bytes]) -> None:
    """Whatever a workload sends."""
    decode(found)


@given(st.sampled_from((0x45, 0x4F, 0x60)), st.binary(max_size=128))
def test_no_headers_break_it(first: int, rest: bytes) -> None:
    """The same, where it looks like a packet."""
    decode({9: bytes((first,)) + rest})
