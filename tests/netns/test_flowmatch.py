"""What the matches of flows mean to the kernel: packets of many kinds, of which it counts those that RFC 8955 means."""

from __future__ import annotations

import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from bgpmesh.policy.chains import identified, restore_text
from bgpmesh.policy.flowmatch import Unfit, matches
from bgpmesh.policy.rule import ICMP, ICMPV6, TCP, UDP
from bgpmesh.route.flow import Comparison, Component, Field, Flow, FlowKey, Kind, flow_prefix
from bgpmesh.route.nlri import FLOWSPEC
from tests.netns.host import apart, run, run_all
from tests.property.test_flows import ADDRESSES, OF_ALL, PORTS, VALUES, WITH_PORTS, Seen, is_meant
from tests.waiting import DEADLINE_S

FLOWS, PACKETS = 150, 400  # of each family
CHAIN = "bm-flowspec"
GRE = 47
HEADER = {4: 20, 6: 40}
LEAST = {TCP: 20, UDP: 8, ICMP: 8, ICMPV6: 8, GRE: 4}  # octets behind the IP header
_COUNTED = re.compile(r"^\[(\d+):\d+\] -A bm-flowspec .*--comment \"?bm:([A-Za-z0-9_-]{16})", re.MULTILINE)


def some_flows(chance: random.Random, version: int) -> Iterator[Flow]:
    """Yield flows that can be told, out of few values."""
    while True:
        own = chance.choice(((Kind.ICMP_TYPE, Kind.ICMP_CODE), (*WITH_PORTS, Kind.TCP_FLAGS), ()))
        chosen = chance.sample((*OF_ALL, *own), chance.randint(1, 4))
        components: list[Component] = []
        for kind in sorted(chosen):
            if kind <= Kind.SOURCE:
                length = chance.choice((0, 8, 16, 32) if version == 4 else (0, 32, 48, 96, 128))
                offset = chance.choice((0, 16, 31)) if version == 6 and length else 0
                components.append(flow_prefix(kind, chance.choice(ADDRESSES[version]), length, offset))
                continue
            most = 3 if kind.is_bitmask else 7
            rows = [
                Comparison(chance.randint(0, most), chance.choice(VALUES.get(kind, PORTS)), chance.random() < 0.4)
                for _ in range(chance.randint(1, 3))
            ]
            components.append(Field(kind, tuple(rows), b""))
        flow = Flow(FlowKey(FLOWSPEC[version == 6], repr(components).encode()), tuple(components))
        try:
            matches(flow)
        except Unfit:
            continue
        yield flow


def some_packets(chance: random.Random, version: int) -> Iterator[Seen]:
    """Yield packets of the same values, and of those beside them."""

    def near(kind: Kind, most: int) -> int:
        return max(0, min(most, chance.choice(VALUES.get(kind, PORTS)) + chance.choice((-1, 0, 0, 1))))

    while True:
        protocol = chance.choice((TCP, TCP, UDP, UDP, ICMP if version == 4 else ICMPV6, GRE))
        yield Seen(
            chance.choice(ADDRESSES[version]),
            chance.choice(ADDRESSES[version]),
            protocol,
            near(Kind.SOURCE_PORT, 65535),
            near(Kind.PORT, 65535),
            (near(Kind.ICMP_TYPE, 254), near(Kind.ICMP_CODE, 255)),
            chance.randrange(256),
            max(HEADER[version] + LEAST[protocol], near(Kind.LENGTH, 1401)),
            near(Kind.DSCP, 63),
        )


def octets(packet: Seen) -> bytes:
    """Return a packet as it is on the wire, behind the Ethernet header."""
    version = packet.source.version
    room = packet.length - HEADER[version]
    if packet.protocol == TCP:
        behind = struct.pack("!HHIIBBHHH", packet.source_port, packet.port, 1, 1, 0x50, packet.flags, 1024, 0, 0)
    elif packet.protocol == UDP:
        behind = struct.pack("!HHHH", packet.source_port, packet.port, room, 0)
    elif packet.protocol == GRE:
        behind = b"\0\0\0\0"
    else:
        behind = bytes((*packet.icmp, 0, 0, 0, 0, 0, 0))
    behind = behind.ljust(room, b"\0")
    ends: bytes = packet.source.packed + packet.destination.packed
    if version == 6:
        return struct.pack("!IHBB", 6 << 28 | packet.dscp << 22, room, packet.protocol, 64) + ends + behind
    head = struct.pack("!BBHHHBBH", 0x45, packet.dscp << 2, packet.length, 1, 0, 64, packet.protocol, 0) + ends
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + head[12:] + behind


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_counts_what_the_rfc_means(backend: str, version: int) -> None:
    """Each flow as many as are its own; of several lines of a flow a packet is counted by one."""
    chance = random.Random(version)
    flow_source, packet_source = some_flows(chance, version), some_packets(chance, version)
    flows = [next(flow_source) for _ in range(FLOWS)]
    packets = [next(packet_source) for _ in range(PACKETS)]
    expected = {str(flow): sum(is_meant(flow, packet) for packet in packets) for flow in flows}
    assert len([count for count in expected.values() if count]) > FLOWS // 3
    assert any(len(matches(flow)) > 1 and expected[str(flow)] for flow in flows)
    program = f"{'iptables' if version == 4 else 'ip6tables'}-{backend}"

    def story() -> None:
        run_all("""
            ip link add here address 02:00:00:00:00:01 type veth peer name there
            sysctl -qw net.ipv6.conf.there.disable_ipv6=1
            ip link set here up
            ip link set there up
        """)  # nothing but the test's own packets comes in: no solicitation, no report of groups
        rows = [(flow, line) for flow in {str(flow): flow for flow in flows}.values() for line in matches(flow)]
        rules = identified(CHAIN, [f"{line} -j bm-flowspec-next".lstrip() for _, line in rows])
        text = restore_text("raw", {CHAIN: rules, "bm-flowspec-next": identified("x", ["-i lo -j DROP"])})
        run(f"{program}-restore", "-n", stdin=text)
        run(program, "-t", "raw", "-A", "PREROUTING", "-i", "here", "-j", CHAIN)
        ether = bytes.fromhex("020000000001" + "020000000002") + (b"\x08\x00" if version == 4 else b"\x86\xdd")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as door:
            door.bind(("there", 0))
            for packet in packets:
                door.send(ether + octets(packet))
        deadline = time.monotonic() + DEADLINE_S
        counted: Counter[str] = Counter()
        while counted != Counter(expected) and time.monotonic() < deadline:
            listed = run(f"{program}-save", "-c", "-t", "raw")
            counts = [int(count) for count, _ in _COUNTED.findall(listed)]
            assert len(counts) == len(rows)
            counted = Counter({str(flow): 0 for flow in flows})
            for (flow, _), count in zip(rows, counts, strict=True):
                counted[str(flow)] += count
            time.sleep(0.05)
        assert {text: count for text, count in counted.items() if count != expected[text]} == {}

    apart(story)
