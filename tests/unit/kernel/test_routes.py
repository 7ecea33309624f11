"""The bytes of routes and nexthop objects, both ways."""

from __future__ import annotations

import ipaddress
import random
import socket
import struct
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.kernel.netlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    RTM_DELROUTE,
    RTM_NEWLINK,
    RTM_NEWNEXTHOP,
    RTM_NEWROUTE,
    attribute,
    attributes,
    message,
    number,
    walk,
)
from bgpmesh.kernel.routes import (
    GROUP_IDS,
    IFF_UP,
    IFLA_IFNAME,
    OBJECT_IDS,
    RTA_DST,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_NH_ID,
    RTA_OIF,
    RTA_PRIORITY,
    RTA_TABLE,
    RTN_BLACKHOLE,
    RTN_UNICAST,
    Hop,
    Link,
    Nexthop,
    RouteReader,
    Shape,
    ask_answer,
    delete_route,
    for_each,
    group_id,
    joined,
    new_nexthop,
    new_route,
    object_id,
    read_links,
    read_nexthops,
)
from bgpmesh.route.nlri import IPAddress, Nlri, nlri_of, parse_nlri
from bgpmesh.route.path import Via

IPV4 = st.ip_addresses(v=4)
IPV6 = st.ip_addresses(v=6)


def keys_of(width: int) -> st.SearchStrategy[list[Nlri]]:
    """Prefixes of one family: 32 or 128 bits wide."""
    network = ipaddress.IPv4Network if width == 32 else ipaddress.IPv6Network
    one = st.builds(
        lambda address, length: nlri_of(network((address, length), strict=False)),
        st.integers(0, 2**width - 1),
        st.integers(0, width),
    )
    return st.lists(one, min_size=1, max_size=20, unique=True)


@st.composite
def bursts(draw: st.DrawFn) -> tuple[list[Nlri], Shape]:
    """Prefixes of one family and a shape that their routes may have."""
    width = draw(st.sampled_from((32, 128)))
    gateways = (IPV4 if width == 32 else IPV6).map(lambda address: address.packed)
    hops = st.lists(st.builds(Hop, st.integers(1, 2**31 - 1), gateways), min_size=1, max_size=4, unique=True)
    protocol, metric = draw(st.integers(1, 255)), draw(st.integers(1, 2**32 - 1))
    table = draw(st.integers(1, 2**32 - 1))
    ways: tuple[Shape, ...] = (
        Shape(RTN_BLACKHOLE, protocol, table, metric),
        Shape(RTN_UNICAST, protocol, table, metric, nexthop_id=draw(st.integers(1, 2**32 - 1))),
        Shape(RTN_UNICAST, protocol, table, metric, hops=tuple(sorted(draw(hops)))),
        Shape(RTN_UNICAST, protocol, table, metric, hops=(Hop(draw(st.integers(1, 2**31 - 1))),)),
    )
    return draw(keys_of(width)), draw(st.sampled_from(ways))


@given(bursts(), st.integers(1, 2**31))
def test_what_is_encoded_is_decoded_again(burst: tuple[list[Nlri], Shape], first: int) -> None:
    """A burst holds one message for each prefix, in order, with the shape that was asked for."""
    keys, shape = burst
    data = bytes(for_each(new_route(len(keys[0]), shape, NLM_F_CREATE | NLM_F_REPLACE), keys, first))
    assert [(RTM_NEWROUTE, key, shape) for key in keys] == [(k, n, s) for k, _, n, s in RouteReader().read(data)]
    assert list(range(first, first + len(keys))) == [sequence for _, _, sequence, _, _ in walk(data)]


@given(bursts())
def test_a_delete_names_prefix_table_metric_protocol_and_the_way_it_is_told(burst: tuple[list[Nlri], Shape]) -> None:
    """Told none, it fits whatever way the route goes."""
    keys, shape = burst
    for told in (replace(shape, kind=0), Shape(0, shape.protocol, shape.table, shape.metric)):
        found = list(RouteReader().read(bytes(for_each(delete_route(len(keys[0]), told), keys, 1))))
        assert [(RTM_DELROUTE, key, told) for key in keys] == [(k, n, s) for k, _, n, s in found]


def test_one_link_local_next_hop_of_two_links_is_two() -> None:
    """As objects and in groups; the ids of others are what they were."""
    first, second = (ipaddress.ip_address(f"fe80::1%eth{number}") for number in (1, 2))
    assert len({object_id(first), object_id(second), object_id(ipaddress.ip_address("fe80::1"))}) == 3
    assert group_id(Via((first, second))) != group_id(Via((first, ipaddress.ip_address("fe80::1%eth3"))))
    assert object_id(ipaddress.ip_address("192.0.2.1")) == 1_274_520_689


def test_only_the_last_of_a_burst_asks_for_an_answer() -> None:
    """The kernel reports every failure anyway, so one acknowledgement tells that all were handled."""
    keys = [parse_nlri(f"10.0.{i}.0/24") for i in range(5)]
    burst = for_each(new_route(5, Shape(RTN_BLACKHOLE, 77, 254, 32), NLM_F_CREATE), keys, 1)
    ask_answer(burst, len(burst) // 5 * 4)
    asked = [bool(flags & NLM_F_ACK) for _, flags, _, _, _ in walk(bytes(burst))]
    expected = [False, False, False, False, True]
    assert expected == asked


def dumped(key: Nlri, *ways: bytes, flags: int = 0) -> bytes:
    """Return a route as the kernel lists it: the table first, then the prefix, where it has one."""
    family = socket.AF_INET if len(key) == 5 else socket.AF_INET6
    body = struct.pack("=BBBBBBBBI", family, key[0], 0, 0, 254, 77, 0, RTN_UNICAST, flags) + number(RTA_TABLE, 254)
    if key[0]:
        body += attribute(RTA_DST, key[1:])
    return message(RTM_NEWROUTE, 0, 1, body + number(RTA_PRIORITY, 32) + b"".join(ways))


@given(st.one_of(keys_of(32), keys_of(128)), st.integers(1, 2**32 - 1), st.randoms(use_true_random=False))
def test_a_dump_is_decoded_alike_however_often_its_shapes_were_seen(
    keys: list[Nlri], identifier: int, shuffled: random.Random
) -> None:
    """The cache of shapes never mixes up prefixes, the default route included."""
    reader = RouteReader()
    messages = [(key, Shape(RTN_UNICAST, 77, 254, 32, i), dumped(key, number(RTA_NH_ID, i)))
                for key in keys for i in (identifier, identifier ^ 1 or 5)]  # fmt: skip
    shuffled.shuffle(messages)
    for _ in range(2):
        found = list(reader.read(b"".join(data for _, _, data in messages)))
        assert [(key, shape) for key, shape, _ in messages] == [(key, shape) for _, _, key, shape in found]


PARTS = st.tuples(
    st.one_of(keys_of(32), keys_of(128)), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 5)
)


@given(st.lists(PARTS, max_size=6), st.integers(0, 40), st.booleans())
def test_a_dump_that_is_cut_together_is_what_it_is_message_by_message(
    parts: list[tuple[list[Nlri], list[int], int]], lost: int, is_learnt: bool
) -> None:
    """Whatever stands beside what, in the same order, also where the end is missing."""
    messages = [
        dumped(key, number(RTA_NH_ID, ids[at % len(ids)]))
        for keys, ids, times in parts
        for at, key in enumerate(keys * times)
    ]
    data = b"".join(messages)
    data = data[: max(len(data) - lost, 0)]
    reader = RouteReader()
    one_by_one = [(key, shape) for _, _, key, shape in (reader if is_learnt else RouteReader()).read(data)]
    assert one_by_one == [(key, shape) for keys, shape in reader.read_dump(data) for key in keys]


def test_a_long_run_of_one_shape_comes_in_few_pieces() -> None:
    """Of 1,000 routes each piece has twice as many as the one before."""
    keys = [parse_nlri(f"10.0.{i >> 8}.{i & 255}/32") for i in range(1_000)]
    pieces = list(RouteReader().read_dump(b"".join(dumped(key, number(RTA_NH_ID, 5)) for key in keys)))
    assert keys == [key for some, _ in pieces for key in some]
    assert len(pieces) < 10


def test_ways_are_sorted_and_a_gateway_of_the_other_family_is_read() -> None:
    """Two listings of one multipath route compare equal, and RTA_VIA is a gateway too."""
    ways = [Hop(3, b"\xc0\0\2\3"), Hop(2, b"\xc0\0\2\2")]
    multipath = b"".join(struct.pack("=HBBi", 16, 0, 0, hop.link) + attribute(RTA_GATEWAY, hop.gateway) for hop in ways)
    via = struct.pack("=H", socket.AF_INET6) + bytes(15) + b"\1"
    key = parse_nlri("10.0.0.0/8")
    data = dumped(key, attribute(RTA_MULTIPATH, multipath)) + dumped(key, number(RTA_OIF, 2), attribute(18, via))
    assert [tuple(sorted(ways)), (Hop(2, bytes(15) + b"\1"),)] == [s.hops for _, _, _, s in RouteReader().read(data)]


def test_a_route_whose_link_is_down_says_so_and_is_the_same_route() -> None:
    """Down is the kernel's word on the link; it neither hides nor changes the route."""
    key = parse_nlri("10.0.0.0/8")
    reader = RouteReader()
    up, down = (next(iter(reader.read(dumped(key, number(RTA_OIF, 2), flags=flags))))[3] for flags in (0, 16))
    assert (up, False, True) == (down, up.is_down, down.is_down)


@given(st.binary(max_size=200), st.sampled_from((RTM_NEWROUTE, RTM_NEWNEXTHOP, RTM_NEWLINK)))
def test_any_bytes_are_survived(body: bytes, kind: int) -> None:
    """What is cut short or makes no sense is skipped, never raised."""
    for data in (body, HEADER.pack(16 + len(body), kind, 0, 0, 0) + body):
        list(RouteReader().read(data))
        list(RouteReader().read_dump(20 * data))
        list(read_nexthops(data))
        list(read_links(data))
        attributes(data, 0, len(data))


@given(st.one_of(IPV4, IPV6), st.integers(1, 2**31 - 1))
def test_a_nexthop_object_is_decoded_as_it_was_encoded(gateway: IPAddress, link: int) -> None:
    """Objects and groups come back with id, protocol and content."""
    single = Nexthop(object_id(gateway), 77, Hop(link, gateway.packed))
    group = Nexthop(group_id(Via((gateway,))), 77, None, (3, 5, 9))
    shared = replace(group, weights=(1, 256, 40))
    data = bytes(joined([new_nexthop(0, 0, each) for each in (single, group, shared)], 7))
    assert [(RTM_NEWNEXTHOP, each) for each in (single, group, shared)] == list(read_nexthops(data))
    numbers = [7, 8, 9]
    assert numbers == [sequence for _, _, sequence, _, _ in walk(data)]


@given(st.lists(st.one_of(IPV4, IPV6), min_size=1, max_size=5, unique=True), st.randoms(use_true_random=False))
def test_ids_depend_on_the_next_hops_alone(addresses: list[IPAddress], shuffled: random.Random) -> None:
    """A restarted daemon comes to the same ids, whatever order it hears of the next hops in."""
    other = list(addresses)
    shuffled.shuffle(other)
    for weights in ((), tuple(range(2, 2 + len(addresses)))):
        shares = dict(Via(tuple(addresses), weights).shares)
        via = Via(tuple(other), tuple(shares[address] for address in other) if weights else ())
        assert group_id(Via(tuple(addresses), weights)) == group_id(via)
        assert group_id(via) in GROUP_IDS
    assert group_id(via) != group_id(Via(tuple(addresses)))
    assert all(object_id(address) in OBJECT_IDS for address in addresses)


def test_ids_stay_what_they_were() -> None:
    """The ids are in kernels already: another hash would orphan every object of an earlier version."""
    found = (object_id(ipaddress.ip_address("192.0.2.2")), group_id(Via((ipaddress.ip_address("192.0.2.2"),))))
    expected = (1579119144, 1643345479)
    assert expected == found


def test_a_bridge_s_word_on_its_port_is_no_link() -> None:
    """AF_BRIDGE messages tell of a port leaving a bridge, not of a link that is gone."""
    named = attribute(IFLA_IFNAME, b"eth0\0")
    real, port = (
        message(RTM_NEWLINK, 0, 0, struct.pack("=BxHiII", family, 1, 4, IFF_UP, 0) + named)
        for family in (socket.AF_UNSPEC, 7)
    )
    expected = [(RTM_NEWLINK, Link(4, "eth0", is_up=True, has_carrier=False))]
    assert expected == list(read_links(real + port))
