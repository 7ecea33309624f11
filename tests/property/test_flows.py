"""Flow specifications: their rules mean what the RFC means, no bytes harm anybody, arrival order is no matter."""

from __future__ import annotations

import functools
import ipaddress
import random
import re
import shlex
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpmesh.peering.message import Capabilities, Open
from bgpmesh.policy.flowmatch import Unfit, matches
from bgpmesh.policy.flowspec import Flows
from bgpmesh.policy.iptables import Options
from bgpmesh.policy.rule import ICMP, ICMPV6, TCP, UDP
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.flow import Comparison, Component, Field, Flow, FlowKey, Kind, Prefix, flow_prefix, rank
from bgpmesh.route.nlri import FLOWSPEC, IPAddress
from bgpmesh.route.path import PeerName
from bgpmesh.wire.codec import Flows as Said
from bgpmesh.wire.codec import Garbage
from tests.unit.route.test_flow import first_of
from tests.unit.wire.test_codec import codec, octets, update
from tests.unit.wire.test_flows import ALL, BARE, THEIRS, packed

# ── what is asked, out of few values, so that packets meet it ────────────────

ADDRESSES = {
    4: [ipaddress.ip_address(f"10.{high}.0.{low}") for high in (0, 1, 128) for low in (0, 1, 255)],
    6: [ipaddress.ip_address(f"2001:db8:{high:x}::{low:x}:0:0") for high in (0, 1, 0x8000) for low in (0, 1, 0xFFFF)],
}
VALUES = {
    Kind.PROTOCOL: (TCP, UDP, ICMP, ICMPV6, 47),
    Kind.ICMP_TYPE: (0, 3, 8, 128, 200),
    Kind.ICMP_CODE: (0, 1, 13),
    Kind.TCP_FLAGS: (0x02, 0x12, 0x01, 0x40, 0xC0, 0x5002),
    Kind.LENGTH: (40, 41, 1400, 65535),
    Kind.DSCP: (0, 46, 63),
}
PORTS = (0, 1, 53, 80, 81, 65535)
WITH_PORTS = (Kind.PORT, Kind.DESTINATION_PORT, Kind.SOURCE_PORT)
OF_ALL = (Kind.DESTINATION, Kind.SOURCE, Kind.PROTOCOL, Kind.LENGTH, Kind.DSCP)


@st.composite
def fields(draw: st.DrawFn, kind: Kind) -> Field:
    """Draw a component."""
    values = st.sampled_from(VALUES.get(kind, PORTS))
    operators = st.integers(0, 3 if kind.is_bitmask else 7)
    rows = draw(st.lists(st.builds(Comparison, operators, values, st.booleans()), min_size=1, max_size=4))
    return Field(kind, tuple(rows), draw(st.binary(min_size=1, max_size=3)))


@st.composite
def flows(draw: st.DrawFn, version: int | None = None) -> Flow:
    """Draw a flow of packets that a rule can tell."""
    version = version or draw(st.sampled_from((4, 6)))
    width = 32 if version == 4 else 128
    of_one_protocol = draw(st.sampled_from(((Kind.ICMP_TYPE, Kind.ICMP_CODE), (*WITH_PORTS, Kind.TCP_FLAGS), ())))
    chosen = draw(st.sets(st.sampled_from((*OF_ALL, *of_one_protocol)), min_size=1, max_size=4))
    components: list[Component] = []
    for kind in sorted(chosen):
        if kind > Kind.SOURCE:
            components.append(draw(fields(kind)))
            continue
        length = draw(st.sampled_from((0, 8, 16, 31, 32) if version == 4 else (0, 32, 48, 96, 128)))
        offset = draw(st.sampled_from((0, 16, 31))) if version == 6 and length > 31 else 0
        address = draw(st.sampled_from(ADDRESSES[version]))
        assert length <= width
        components.append(flow_prefix(kind, address, length, offset))
    return Flow(FlowKey(FLOWSPEC[version == 6], repr(components).encode()), tuple(components))


@dataclass(frozen=True)
class Seen:
    """A packet as a rule sees it."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    source_port: int
    port: int
    icmp: tuple[int, int]
    flags: int
    length: int
    dscp: int


@st.composite
def seen(draw: st.DrawFn, version: int) -> Seen:
    """Draw a packet out of the same values."""
    near = {kind: st.sampled_from(sorted({v for each in vs for v in (each - 1, each, each + 1)})) for kind, vs in _ALL}

    def value(kind: Kind, most: int) -> int:
        return max(0, min(most, draw(near[kind])))

    return Seen(
        draw(st.sampled_from(ADDRESSES[version])),
        draw(st.sampled_from(ADDRESSES[version])),
        draw(st.sampled_from(VALUES[Kind.PROTOCOL])),
        value(Kind.SOURCE_PORT, 65535),
        value(Kind.PORT, 65535),
        (value(Kind.ICMP_TYPE, 254), value(Kind.ICMP_CODE, 255)),
        draw(st.integers(0, 255)),
        value(Kind.LENGTH, 65535),
        value(Kind.DSCP, 63),
    )


_ALL = [*VALUES.items(), (Kind.PORT, PORTS), (Kind.SOURCE_PORT, PORTS)]


def is_meant(flow: Flow, packet: Seen) -> bool:  # noqa: C901  one line for each component
    """Tell whether a packet is one of a flow, written from RFC 8955 §4.2.2."""
    icmp = ICMP if flow.version == 4 else ICMPV6
    has_ports, has_icmp, has_flags = packet.protocol in {TCP, UDP}, packet.protocol == icmp, packet.protocol == TCP
    for component in flow.components:
        match component:
            case Prefix(kind=kind):
                ok = component.holds(packet.destination if kind is Kind.DESTINATION else packet.source)
            case Field(kind=Kind.PROTOCOL):
                ok = component.holds(packet.protocol)
            case Field(kind=Kind.PORT):
                ok = has_ports and (component.holds(packet.port) or component.holds(packet.source_port))
            case Field(kind=Kind.DESTINATION_PORT):
                ok = has_ports and component.holds(packet.port)
            case Field(kind=Kind.SOURCE_PORT):
                ok = has_ports and component.holds(packet.source_port)
            case Field(kind=Kind.ICMP_TYPE):
                ok = has_icmp and component.holds(packet.icmp[0])
            case Field(kind=Kind.ICMP_CODE):
                ok = has_icmp and component.holds(packet.icmp[1])
            case Field(kind=Kind.TCP_FLAGS):
                ok = has_flags and component.holds(packet.flags)
            case Field(kind=Kind.LENGTH):
                ok = component.holds(packet.length)
            case _:
                ok = component.kind is Kind.DSCP and component.holds(packet.dscp)
        if not ok:
            return False
    return True


# ── the rules, as iptables reads them ────────────────────────────────────────

_OPTION = re.compile(r"(! )?(--?[a-z0-9-]+) (?:(\S+)(?: (?=[A-Z])(\S+))?)?")


def does_match(line: str, packet: Seen) -> bool:
    """Tell whether a packet matches a line: each option in it, from iptables-extensions(8)."""
    words = shlex.split(line)
    at = 0
    while at < len(words):
        is_negated = words[at] == "!"
        at += is_negated
        option, at = words[at], at + 1
        if option == "-m":
            at += 1
            is_negated_next = words[at] == "!"
            at += is_negated_next
            is_negated, option, at = is_negated_next, words[at], at + 1
        values = words[at : at + _ARGUMENTS.get(option, 1)]
        at += len(values)
        if _holds(option, values, packet) is is_negated:
            return False
    return True


_ARGUMENTS = {"--tcp-flags": 2, "--ecn-tcp-ece": 0, "--ecn-tcp-cwr": 0}
_BITS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "NONE": 0}


def _holds(option: str, values: list[str], packet: Seen) -> bool:  # noqa: C901  one line for each option
    def is_in(text: str, value: int) -> bool:
        spans = (each.partition(":") for each in text.split(","))
        return any(int(first) <= value <= int(last or first) for first, _, last in spans)

    match option:
        case "-d" | "-s":
            address, _, mask = values[0].partition("/")
            own = packet.destination if option == "-d" else packet.source
            width = own.max_prefixlen
            bits = (1 << width) - (1 << width - int(mask)) if mask.isdigit() else int(ipaddress.ip_address(mask))
            return int(own) & bits == int(ipaddress.ip_address(address)) & bits
        case "-p":
            return packet.protocol == int(values[0])
        case "--dports":
            return is_in(values[0], packet.port)
        case "--sports":
            return is_in(values[0], packet.source_port)
        case "--icmp-type" | "--icmpv6-type":
            kind, _, code = values[0].partition("/")
            return packet.icmp[0] == int(kind) and (not code or packet.icmp[1] == int(code))
        case "--tcp-flags":
            asked, is_set = (sum(_BITS[name] for name in each.split(",")) for each in values)
            return packet.flags & asked == is_set
        case "--ecn-tcp-ece" | "--ecn-tcp-cwr":
            return bool(packet.flags & (0x40 if option.endswith("ece") else 0x80))
        case "--length":
            return is_in(values[0], packet.length)
        case "--dscp":
            return packet.dscp == int(values[0])
    raise AssertionError(f"no such option: {option}")


@settings(max_examples=200)
@given(st.data())
def test_the_rules_of_a_flow_mean_what_the_rfc_means(data: st.DataObject) -> None:
    """A packet of the flow matches one line, any other none; what is refused is refused by name."""
    flow = data.draw(flows())
    try:
        lines = matches(flow)
    except Unfit as reason:
        lines = ()
        if "no packet" not in str(reason):
            return
    for packet in data.draw(st.lists(seen(flow.version), min_size=1, max_size=20)):
        assert sum(does_match(line, packet) for line in lines) == is_meant(flow, packet), (str(flow), lines, packet)


@given(st.lists(flows(4), max_size=8))
def test_flows_are_sorted_as_pairs_are_compared(several: list[Flow]) -> None:
    """RFC 8955 §5.1, whatever stands in them."""
    found = sorted(several, key=rank)
    assert [rank(each) for each in found] == [
        rank(each) for each in sorted(several, key=functools.cmp_to_key(first_of))
    ]


@given(st.lists(flows(), max_size=6, unique_by=lambda flow: flow.key), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(several: list[Flow], chance: random.Random) -> None:
    """The same flows of two peers come to the same rules, whoever announced which first, and what went in between."""
    peers = [PeerName("tor1"), PeerName("tor2")]
    said = [(peer, flow) for peer in peers for flow in several]

    def told(order: list[tuple[PeerName, Flow]]) -> list[str]:
        table = Flows()
        for peer in peers:
            table.peer_up(peer, (), 100, 0)
        for peer, flow in order:
            table.take(peer, PathAttributes(), [flow], (), 1.0)
        for peer, flow in order[::2]:
            table.take(peer, None, (), [flow.key], 2.0)
            table.take(peer, PathAttributes(), [flow], (), 3.0)
        chains, _ = table.wanted(Options(), [], {}, {}, is_settled=True)
        return [rule for key in sorted(chains) for rule in chains[key]]

    mixed = list(said)
    chance.shuffle(mixed)
    assert told(said) == told(mixed)


@given(st.sampled_from(FLOWSPEC), st.lists(st.binary(max_size=30) | st.binary(min_size=240, max_size=300), max_size=3))
def test_any_bytes_are_a_flow_or_none(family: object, nlris: list[bytes]) -> None:
    """What has its length is read or withdrawn, and said again it is the same; nothing is raised."""
    afi = 1 if family is FLOWSPEC[0] else 2
    value = afi.to_bytes(2, "big") + b"\x85\0\0" + packed(*nlris)
    made = codec(64512, ALL)
    made.feed(octets(THEIRS), 0.0)
    raw = update(b"\x90\x0e" + len(value).to_bytes(2, "big") + value + BARE)
    (first,) = made.feed(raw, 0.0)
    if not nlris:
        assert isinstance(first, Garbage)
        return
    assert isinstance(first, Said)
    assert sorted([*(flow.key.nlri for flow in first.announced), *(key.nlri for key in first.withdrawn)]) == sorted(
        nlris
    )
    (again,) = made.feed(raw, 1.0)
    assert isinstance(again, Said)
    assert (again.announced, again.withdrawn) == (first.announced, first.withdrawn)
    for flow in first.announced:
        assert str(flow)
        assert rank(flow) <= rank(flow)


@given(st.binary(max_size=40))
def test_any_attribute_is_flows_or_garbage(value: bytes) -> None:
    """MP_REACH_NLRI of the family with any content."""
    made = codec(64512, Open(Asn(64512), 9, RouterId(1), Capabilities(families=FLOWSPEC)))
    made.feed(octets(THEIRS), 0.0)
    value = b"\0\1\x85" + value
    (found,) = made.feed(update(b"\x80\x0e" + bytes((len(value),)) + value + BARE), 0.0)
    assert isinstance(found, Said | Garbage)
