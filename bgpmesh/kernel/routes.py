"""Routes and nexthop objects as the kernel's bytes: bursts encoded, dumps and notifications decoded.

Both directions work on many messages at once. A burst is one template repeated, with a strided
slice for each column that differs (the sequence number, the prefix). A dump is mostly one message
over and over with another prefix: everything but the prefix is looked up whole in a cache, and
parsed attribute by attribute only the first time.

A `Shape` is a route without its prefix, in one canonical form, so that what we wrote and what we
read back compare equal: no hops beside a nexthop id, none for a discard (IPv6 shows `lo`), hops sorted.
"""

from __future__ import annotations

import functools
import hashlib
import socket
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field
from itertools import groupby
from operator import add
from typing import NamedTuple, cast

from bgpmesh.frozen import frozen
from bgpmesh.kernel.netlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_DUMP,
    RTM_DELNEXTHOP,
    RTM_DELROUTE,
    RTM_GETLINK,
    RTM_GETNEXTHOP,
    RTM_GETROUTE,
    RTM_NEWNEXTHOP,
    RTM_NEWROUTE,
    attribute,
    attributes,
    message,
    number,
    walk,
)
from bgpmesh.route.nlri import IPAddress, Nlri, link_of
from bgpmesh.route.path import Via

# linux/rtnetlink.h
RTN_UNICAST, RTN_LOCAL, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 1, 2, 6, 7, 8
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH = 1, 4, 5, 6, 9
RTA_TABLE, RTA_VIA, RTA_NH_ID = 15, 18, 30
RTM_F_CLONED = 0x200
RTNH_F_DEAD, RTNH_F_ONLINK, RTNH_F_LINKDOWN = 1, 4, 16
NHA_ID, NHA_GROUP, NHA_BLACKHOLE, NHA_OIF, NHA_GATEWAY = 1, 2, 4, 5, 6
IFLA_IFNAME, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS = 3, 29, 8
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000

_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NEXTHOP = struct.Struct("=BBBBI")  # family, scope, protocol, reserved, flags
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, weight - 1, link
_MEMBER = struct.Struct("=IBBH")  # nexthop_grp: id, weight - 1, high bits, reserved

_WORD = struct.Struct("=I")

_DST_AT = HEADER.size + _ROUTE.size + 8 + 4  # where a dumped prefix stands: behind RTA_TABLE and its own header
_CACHE_LIMIT = 10_000
FEWEST_TOGETHER = 8  # messages of a dump; fewer are read one by one

# Ours by their number: single objects, then groups. The upper halves of 2^31, where nobody counts up to by hand.
OBJECT_IDS = range(1 << 30, 3 << 29)
GROUP_IDS = range(3 << 29, 1 << 31)


class Hop(NamedTuple):
    """One way out: the link, and the gateway's packed address (empty: the destination is on the link)."""

    link: int
    gateway: bytes = b""


@frozen
class Shape:
    """What a kernel route is, but for its prefix."""

    kind: int  # rtm_type
    protocol: int
    table: int
    metric: int
    nexthop_id: int = 0
    hops: tuple[Hop, ...] = ()
    tos: int = 0
    is_down: bool = field(default=False, compare=False)  # the kernel's word on the link, not part of the route
    down: tuple[Hop, ...] = field(default=(), compare=False)  # the same, of single ways of several


@frozen
class Nexthop:
    """What a nexthop object is: a hop, or a group of other objects (members sorted, weights as they are; (): all 1)."""

    id: int
    protocol: int
    hop: Hop | None
    members: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
    is_down: bool = field(default=False, compare=False)


@frozen
class Link:
    """A link of this namespace, as far as routes care."""

    index: int
    name: str
    is_up: bool  # administratively
    has_carrier: bool


# ── identifiers ──────────────────────────────────────────────────────────────


@functools.lru_cache(maxsize=4_096)
def object_id(address: IPAddress) -> int:
    """Return the id of a BGP next hop's object: the same in every life of the daemon."""
    return _hashed(OBJECT_IDS, b"next hop", _octets(address))


def group_id(via: Via) -> int:
    """Return the id of the group of these next hops, in whatever order they come."""
    said = sorted(_octets(address) + (b"" if weight == 1 else bytes((weight - 1,))) for address, weight in via.shares)
    return _hashed(GROUP_IDS, b"group", b"".join(said))


def _octets(address: IPAddress) -> bytes:
    """Return what no other next hop has: many links have an fe80::1."""
    return address.packed + link_of(address).encode()


def _hashed(ids: range, kind: bytes, value: bytes) -> int:
    return ids[int.from_bytes(hashlib.blake2b(value, digest_size=8, person=kind).digest(), "big") % len(ids)]


# ── requests ─────────────────────────────────────────────────────────────────


def dump_routes(sequence: int, family: int, table: int, protocol: int = 0) -> bytes:
    """Ask for the routes of a family; table and protocol 0: all. The kernel filters (strict checking)."""
    body = _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0) + (number(RTA_TABLE, table) if table else b"")
    return message(RTM_GETROUTE, NLM_F_DUMP, sequence, body)


def dump_nexthops(sequence: int) -> bytes:
    """Ask for every nexthop object."""
    return message(RTM_GETNEXTHOP, NLM_F_DUMP, sequence, bytes(_NEXTHOP.size))


def dump_links(sequence: int) -> bytes:
    """Ask for every link, without its statistics."""
    return message(
        RTM_GETLINK, NLM_F_DUMP, sequence, bytes(_LINK.size) + number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    )


def new_nexthop(flags: int, sequence: int, nexthop: Nexthop, *, is_onlink: bool = False) -> bytes:
    """Make or replace a nexthop object; `is_onlink`: the kernel takes our word that the gateway is on the link."""
    if nexthop.hop is None:
        head = _NEXTHOP.pack(socket.AF_UNSPEC, 0, nexthop.protocol, 0, 0)
        weights = nexthop.weights or (1,) * len(nexthop.members)
        members = b"".join(
            _MEMBER.pack(member, weight - 1, 0, 0) for member, weight in zip(nexthop.members, weights, strict=True)
        )
        return message(
            RTM_NEWNEXTHOP, flags, sequence, head + number(NHA_ID, nexthop.id) + attribute(NHA_GROUP, members)
        )
    link, gateway = nexthop.hop
    family = socket.AF_INET6 if len(gateway) == 16 else socket.AF_INET
    head = _NEXTHOP.pack(family, 0, nexthop.protocol, 0, RTNH_F_ONLINK if is_onlink else 0)
    return message(
        RTM_NEWNEXTHOP,
        flags,
        sequence,
        head + number(NHA_ID, nexthop.id) + number(NHA_OIF, link) + attribute(NHA_GATEWAY, gateway),
    )


def delete_nexthop(sequence: int, identifier: int) -> bytes:
    """Remove a nexthop object; the kernel removes its routes with it, silently."""
    return message(RTM_DELNEXTHOP, 0, sequence, bytes(_NEXTHOP.size) + number(NHA_ID, identifier))


def new_route(width: int, shape: Shape, flags: int) -> bytes:
    """Make or replace a route of this shape; `width` is that of its key. The prefix is filled in by `for_each`."""
    # An IPv4 route that ends on the link says so in its scope; IPv6 knows no scopes.
    ends_on_link = width == 5 and any(not gateway for _, gateway in shape.hops)
    body = _body(width, shape, RT_SCOPE_LINK if ends_on_link else RT_SCOPE_UNIVERSE) + _way(shape, width)
    return message(RTM_NEWROUTE, flags, 0, body)


def delete_route(width: int, shape: Shape) -> bytes:
    """Remove a route by prefix (which `for_each` fills in), table, metric, protocol, and the way if `shape` goes any.

    Of several the kernel removes the first that fits.
    """
    anything = Shape(0, shape.protocol, shape.table, shape.metric)
    return message(RTM_DELROUTE, 0, 0, _body(width, anything, RT_SCOPE_NOWHERE) + _way(shape, width))


def _body(width: int, shape: Shape, scope: int) -> bytes:
    """Return a route message's body for the family of keys of this width."""
    family = socket.AF_INET if width == 5 else socket.AF_INET6
    table = shape.table if shape.table < 256 else 0
    return (
        _ROUTE.pack(family, 0, 0, 0, table, shape.protocol, scope, shape.kind, 0)
        + attribute(RTA_DST, bytes(width - 1))
        + number(RTA_PRIORITY, shape.metric)
        + (b"" if table else number(RTA_TABLE, shape.table))
    )


def _way(shape: Shape, width: int) -> bytes:
    """Return the attributes that say where to; `width` is that of the keys."""
    if shape.nexthop_id:
        return number(RTA_NH_ID, shape.nexthop_id)
    if len(shape.hops) == 1:
        link, gateway = shape.hops[0]
        return number(RTA_OIF, link) + _by(gateway, width)
    if shape.hops:
        ways = b""
        for link, gateway in shape.hops:
            inner = _by(gateway, width)
            ways += _HOP.pack(_HOP.size + len(inner), 0, 0, link) + inner
        return attribute(RTA_MULTIPATH, ways)
    return b""


def _by(gateway: bytes, width: int) -> bytes:
    """Return the attribute of a gateway, if there is one: another for one of the other family."""
    if len(gateway) + 1 in {1, width}:
        return attribute(RTA_GATEWAY, gateway) if gateway else b""
    return attribute(RTA_VIA, struct.pack("=H", socket.AF_INET6) + gateway)


def for_each(template: bytes, keys: Sequence[Nlri], first_sequence: int) -> bytearray:
    """Return the message of a route once for each key, all of its width, numbered and with the key's prefix in it."""
    size, count, width = len(template), len(keys), len(keys[0])
    burst, column = bytearray(template * count), b"".join(keys)
    burst[17::size] = column[0::width]  # rtm_dst_len
    for i in range(width - 1):
        burst[32 + i :: size] = column[1 + i :: width]  # RTA_DST
    sequences = array("I", range(first_sequence, first_sequence + count)).tobytes()
    for i in range(4):
        burst[8 + i :: size] = sequences[i::4]  # nlmsg_seq
    return burst


def joined(messages: Sequence[bytes], first_sequence: int) -> bytearray:
    """Return a burst of separately made messages, numbered, with an acknowledgement asked of the last."""
    burst = bytearray()
    at = 0
    for sequence, made in enumerate(messages, first_sequence):
        at = len(burst)
        burst += made
        struct.pack_into("=I", burst, at + 8, sequence)
    ask_answer(burst, at)
    return burst


def ask_answer(burst: bytearray, at: int) -> None:
    """Ask for an acknowledgement of the message at that offset."""
    burst[at + 6] |= NLM_F_ACK


# ── answers and news ─────────────────────────────────────────────────────────


class RouteReader:
    """Decodes route messages; remembers what it has parsed, so that equal routes share one Shape."""

    def __init__(self) -> None:
        self._known: dict[bytes, Shape] = {}
        self._shapes: dict[tuple[Shape, bool, tuple[Hop, ...]], Shape] = {}

    def intern(self, shape: Shape) -> Shape:
        """Return the one object that stands for this shape: comparing 100,000 of them is then comparing identities."""
        return self._shapes.setdefault((shape, shape.is_down, shape.down), shape)

    def read(self, data: bytes) -> Iterator[tuple[int, int, Nlri, Shape]]:
        """Yield (type, flags, prefix, shape) of each IPv4 and IPv6 route message; others are skipped."""
        offset, size, unpack = 0, len(data), HEADER.unpack_from
        while offset + 28 <= size:
            length, kind, flags, _, _ = unpack(data, offset)
            end = offset + length
            if length < 16 or end > size:
                return
            if kind in (RTM_NEWROUTE, RTM_DELROUTE) and length >= 28:
                is_v4 = data[offset + 16] == socket.AF_INET
                at = offset + _DST_AT
                stop = at + (4 if is_v4 else 16)
                if stop <= end and data[at - 4 : at] == (_V4_DST if is_v4 else _V6_DST):
                    rest = data[offset + 16 : offset + 17] + data[offset + 18 : at] + data[stop:end]
                    if (shape := self._shape_of(rest, data, offset, end)) is not None:
                        yield kind, flags, Nlri(data[offset + 17 : offset + 18] + data[at:stop]), shape
                else:
                    parsed = _parse_route(data, offset, end)
                    if parsed is not None:
                        yield kind, flags, parsed[0], self.intern(parsed[1])
            offset = (end + 3) & ~3

    def read_dump(self, data: bytes) -> Iterator[tuple[Sequence[Nlri], Shape]]:
        """Yield prefixes and the shape that they share, in the order of a dump: of a large one in a third of the time.

        Messages that differ in the prefix and in what follows it are cut together, twice as many each time that
        goes well.
        """
        offset, size, most = 0, len(data), FEWEST_TOGETHER
        while offset + HEADER.size <= size:
            length = HEADER.unpack_from(data, offset)[0]
            if length < HEADER.size:
                return
            count = min(most, (size - offset) // length)
            keys, start, tails = _cut(data, offset, length, count)
            if len(keys) < FEWEST_TOGETHER:
                end = (offset + length + 3) & ~3
                yield from (([key], shape) for _, _, key, shape in self.read(data[offset:end]))
                offset, most = end, FEWEST_TOGETHER
                continue
            at, known = 0, self._known.get
            for tail, alike in groupby(tails):
                first, at = at, at + len(list(alike))
                message, rest = offset + first * length, start + tail
                if (shape := known(rest) or self._shape_of(rest, data, message, message + length)) is not None:
                    yield keys[first:at], shape
            offset += at * length
            most = 2 * most if at == count else FEWEST_TOGETHER

    def _shape_of(self, rest: bytes, data: bytes, offset: int, end: int) -> Shape | None:
        """Return the shape of the route in a message, which is known by all of it but header and prefix."""
        shape = self._known.get(rest)
        if shape is None and (parsed := _parse_route(data, offset, end)) is not None:
            if len(self._known) >= _CACHE_LIMIT:
                self._known.clear()
                self._shapes.clear()
            shape = self._known[rest] = self.intern(parsed[1])
        return shape


def _cut(data: bytes, offset: int, length: int, count: int) -> tuple[list[Nlri], bytes, Sequence[bytes]]:
    """Cut so many messages, up to the first that is not as the first but for prefix and rest.

    Returns the prefixes, what all have in common (family, and what is before the address), and the rest of each.
    """
    width = 4 if data[offset + HEADER.size : offset + HEADER.size + 1] == _V4_FAMILY else 16
    if count < FEWEST_TOGETHER or length % 4 or length < _DST_AT + width or data[offset + 4 : offset + 6] != _NEW_ROUTE:
        return [], b"", ()
    columns = list(zip(*_message(width, length).iter_unpack(data[offset : offset + count * length]), strict=True))
    (head, *_), (family, *_), _, (before, *_), _, _ = columns
    if before[-4:] != (_V4_DST if width == 4 else _V6_DST):
        return [], b"", ()
    for column, value in ((columns[0], head), (columns[1], family), (columns[3], before)):
        if column[:count].count(value) != count:
            count = next(at for at, other in enumerate(column) if other != value)
    keys = cast("list[Nlri]", list(map(add, columns[2][:count], columns[4][:count])))
    return keys, family + before, columns[5][:count]


@functools.lru_cache(maxsize=64)
def _message(width: int, length: int) -> struct.Struct:
    """Return how to cut it: length, type and flags; family; length of the prefix; up to its address; that; the rest."""
    return struct.Struct(f"=8s8xcc{_DST_AT - 18}s{width}s{length - _DST_AT - width}s")


_NEW_ROUTE = struct.pack("=H", RTM_NEWROUTE)
_V4_FAMILY = bytes((socket.AF_INET,))
_V4_DST = struct.pack("=HH", 8, RTA_DST)
_V6_DST = struct.pack("=HH", 20, RTA_DST)


def _parse_route(data: bytes, offset: int, end: int) -> tuple[Nlri, Shape] | None:
    """Return one route, None for what is no unicast prefix of ours to know (cloned, multicast routing)."""
    family, length, _, tos, table, protocol, _, kind, flags = _ROUTE.unpack_from(data, offset + 16)
    if family not in (socket.AF_INET, socket.AF_INET6) or flags & RTM_F_CLONED:
        return None
    width = 4 if family == socket.AF_INET else 16
    found = attributes(data, offset + 28, end)
    destination = found.get(RTA_DST, bytes(width))
    if len(destination) != width:
        return None
    is_discard = kind in (RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT)
    identifier = _word(found, RTA_NH_ID)
    hops: list[Hop] = []
    down: list[Hop] = []
    if not identifier and not is_discard:
        if RTA_MULTIPATH in found:
            for hop, is_down in _hops(found[RTA_MULTIPATH]):
                hops.append(hop)
                if is_down:
                    down.append(hop)
        elif RTA_OIF in found or RTA_GATEWAY in found:
            hops = [Hop(_word(found, RTA_OIF), _gateway(found))]
    shape = Shape(
        kind,
        protocol,
        _word(found, RTA_TABLE) or table,
        _word(found, RTA_PRIORITY),
        identifier,
        tuple(sorted(hops)),
        tos,
        bool(flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN)),
        tuple(down),
    )
    return Nlri(bytes((length,)) + destination), shape


def _hops(data: bytes) -> Iterator[tuple[Hop, bool]]:
    """Yield each way of several, and whether its link is down."""
    at = 0
    while at + _HOP.size <= len(data):
        length, flags, _, link = _HOP.unpack_from(data, at)
        if length < _HOP.size:
            return
        hop = Hop(link, _gateway(attributes(data, at + _HOP.size, min(at + length, len(data)))))
        yield hop, bool(flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN))
        at += (length + 3) & ~3


def _gateway(found: dict[int, bytes]) -> bytes:
    """Return the packed gateway; RTA_VIA is a gateway of the other family, behind its family number."""
    return found.get(RTA_GATEWAY) or found.get(RTA_VIA, b"")[2:]


def _word(found: dict[int, bytes], kind: int) -> int:
    """Return an unsigned 32-bit attribute, 0 where it is absent."""
    value = found.get(kind, b"")
    return _WORD.unpack_from(value)[0] if len(value) >= 4 else 0


def read_nexthops(data: bytes) -> Iterator[tuple[int, Nexthop]]:
    """Yield (type, object) of each nexthop message."""
    for kind, _, _, start, end in walk(data):
        if kind not in (RTM_NEWNEXTHOP, RTM_DELNEXTHOP) or end - start < _NEXTHOP.size:
            continue
        _, _, protocol, _, flags = _NEXTHOP.unpack_from(data, start)
        found = attributes(data, start + _NEXTHOP.size, end)
        members = found.get(NHA_GROUP)
        whole = members[: len(members) // _MEMBER.size * _MEMBER.size] if members else b""
        hop = Hop(_word(found, NHA_OIF), found.get(NHA_GATEWAY, b"")) if members is None else None
        shares = ((member, weight + 1) for member, weight, _, _ in _MEMBER.iter_unpack(whole))
        yield (
            kind,
            Nexthop(
                _word(found, NHA_ID),
                protocol,
                hop,
                *members_of(shares),
                bool(flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN)),
            ),
        )


def members_of(shares: Iterable[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return members and weights of a group as a `Nexthop` has them, from (id, weight) each."""
    sorted_shares = sorted(shares)
    weights = tuple(weight for _, weight in sorted_shares)
    return tuple(member for member, _ in sorted_shares), weights if set(weights) - {1} else ()


def read_links(data: bytes) -> Iterator[tuple[int, Link]]:
    """Yield (type, link) of each link message; a bridge's word on its ports is none."""
    for kind, _, _, start, end in walk(data):
        if end - start < _LINK.size:
            continue
        family, _, index, flags, _ = _LINK.unpack_from(data, start)
        if family != socket.AF_UNSPEC:
            continue
        name = attributes(data, start + _LINK.size, end).get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
        yield kind, Link(index, name, bool(flags & IFF_UP), bool(flags & IFF_LOWER_UP))
