"""The common unicast UPDATE at memory speed.

What this file knows: messages stand one behind the other in a buffer; an UPDATE is one attribute set
and many prefixes; the wire form of a /32 (or /128) *is* its `Nlri` key. So the work for 100,000
prefixes is one dictionary lookup for each UPDATE, and slices. The rules:

* **It never judges.** What it does not like (a length, a flag, an attribute set that is not clean,
  another family, another type of message) it leaves where it stands, and the codec has ExaBGP look at
  that one message. So one place says what is wrong with an UPDATE.
* **Attribute sets are interned by their wire bytes**, in one table for each negotiation class: the
  same bytes mean other things on a session without four-octet AS numbers, or on an external one. The
  key is the next hop of MP_REACH_NLRI and the bytes of everything but the two MP attributes.
* **UPDATEs of one set in a row become one `Routes`**, so a peer that sends one prefix in each UPDATE
  costs the RIB no more than one that packs them. Withdrawals come first in a `Routes`; one that
  already announces takes no more of them.
* **A run of such UPDATEs is told by its repeated head.** Splitting a window of the buffer at the head
  of the first yields the keys; a piece that is not as long as a key ends the run. The head holds the
  marker and the length, so by induction each piece ends where the next message starts.
* **Path identifiers (RFC 7911) are cut off with the prefix**: keys of that other width cost one look at each UPDATE.

RFC 4271 §4.1 to §4.3, RFC 4760 §3 to §5, RFC 7606 §5, RFC 7911 §3.
"""

from __future__ import annotations

import itertools
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from bgpmesh.errors import PeerError
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.nlri import PATH_ID_SIZE, PATH_WIDTHS, Family, Nlri, is_martian, prefix_of, prefix_text

MARKER = b"\xff" * 16
HEADER_SIZE = 19
MESSAGE_SIZE, EXTENDED_SIZE = 4096, 65535  # octets of a message (RFC 4271 §4.1), and of an extended one (RFC 8654 §4)
UPDATE = 2
UPDATE_MINIMUM = 23
MP_REACH, MP_UNREACH = 14, 15
EXTENDED_LENGTH = 0x10  # attribute flag (RFC 4271 §4.3)
INTERNED_LIMIT = 65_536  # attribute sets in one table; past it the oldest eighth goes

_UPDATE_HEAD = struct.Struct("!16sHBHH")  # marker, length, type, withdrawn length, attribute length if that is 0
_IPV4, _IPV6 = b"\x00\x01\x01", b"\x00\x02\x01"  # AFI and SAFI of unicast, as in the MP attributes
# MP_REACH_NLRI with one /128, up to its next hop: (where that is in the attribute, its size).
_SINGLE_HOST_HEADS = {
    start + bytes((size + 22,)) + _IPV6 + bytes((size,)): (len(start) + 5, size)
    for start in (b"\x80\x0e", b"\x90\x0e\x00")
    for size in (16, 32)
}
_STRAY = tuple(0xFF >> bits if bits else 0 for bits in range(8))  # bits behind the prefix, by its length modulo 8
_WIRE_SIZE = tuple(1 + (bits + 7) // 8 for bits in range(256))  # octets of a prefix on the wire, by its length
_BLOCK = 32
_BLOCKS = tuple(struct.Struct(f"{width}s" * _BLOCK) for width in range(22))  # cut 32 slices of one width at once
_COMMON_OCTETS = bytes({*range(1, 224)} - {127})  # with which no prefix begins that nobody routes to
_RUN = 64  # messages looked at together; more would copy more for nothing where a run is short

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True, eq=False)
class Routes:
    """What UPDATEs said: first the withdrawals, then these prefixes with these attributes.

    What RFC 7606 turned into a withdrawal stands in `withdrawn` and is counted.
    """

    attributes: PathAttributes | None  # None where nothing is announced
    announced: list[Nlri]  # of one width
    withdrawn: list[Nlri]
    read_at: float = 0.0  # monotonic seconds, as given to `feed`
    treated_as_withdraw: int = 0  # UPDATEs, 0 or 1
    attributes_discarded: int = 0
    problem: str = ""  # what was malformed, in words


def without_martians(routes: Routes) -> Routes:
    """Return the same without prefixes that nobody routes to, which are ignored and told of (RFC 4271 §6.3)."""
    announced = routes.announced
    leading = b"".join(announced)[_lead_of(announced[0]) + 1 :: len(announced[0])] if announced else b""
    if not leading.translate(None, _COMMON_OCTETS):
        return routes
    martians = [nlri for nlri in announced if is_martian(prefix_of(nlri))]
    if martians:
        first = prefix_text(martians[0])
        routes.problem = routes.problem or f"ignored {len(martians)} prefixes that nobody routes to, first {first}"
        gone = frozenset(martians)
        routes.announced = [nlri for nlri in announced if nlri not in gone]
    return routes


class Interned(NamedTuple):
    """What one run of attribute bytes means, decoded once.

    `attributes` is None where RFC 7606 says treat-as-withdraw; `problem` has the reason.
    """

    attributes: PathAttributes | None
    discarded: int = 0  # attributes left out as malformed or out of place
    problem: str = ""


@dataclass(slots=True, eq=False)
class Table:
    """The attribute sets that connections of one negotiation class have seen; bounded."""

    sets: dict[tuple[bytes, bytes], Interned] = field(default_factory=dict)  # by (MP next hop or b"", the rest)
    clean: dict[bytes, PathAttributes] = field(default_factory=dict)  # those for classic NLRI with nothing wrong

    def keep(self, next_hop: bytes, rest: bytes, interned: Interned) -> None:
        """Remember a set; not one that is longer than a message of old, as thousands of those are more than memory."""
        if len(rest) > MESSAGE_SIZE:
            return
        bound(self.sets)
        self.sets[next_hop, rest] = interned
        if not next_hop and interned.attributes is not None and not interned.discarded:
            bound(self.clean)
            self.clean[rest] = interned.attributes


def bound(table: dict[K, V]) -> None:
    """Make room: drop the oldest eighth of a full table.

    Not one by one: finding the first key of a dict walks over the holes that popping left.
    """
    if len(table) >= INTERNED_LIMIT:
        for key in list(itertools.islice(table, INTERNED_LIMIT // 8)):
            del table[key]


@dataclass(slots=True)
class Context:
    """What decoding depends on: the families agreed, the class's table, who decodes a set not seen before.

    `intern(MP next hop or b"", the other attributes)` may raise PeerError.
    """

    families: frozenset[Family]
    table: Table
    intern: Callable[[bytes, bytes], Interned]
    with_path_ids: frozenset[Family] = frozenset()  # prefixes of these come with a path identifier
    message_size: int = MESSAGE_SIZE  # octets of the longest message that we said we take
    has_ipv6_next_hops: bool = False  # of IPv4 prefixes (RFC 8950)
    of_mp: dict[bytes, Family] = field(init=False)  # what the MP attributes may be about, by AFI and SAFI
    has_plain_ipv4: bool = field(init=False)  # agreed on, and without path identifiers
    has_plain_ipv6: bool = field(init=False)

    def __post_init__(self) -> None:
        plain = self.families - self.with_path_ids
        self.has_plain_ipv4, self.has_plain_ipv6 = Family.IPV4 in plain, Family.IPV6 in plain
        both = {_IPV6: Family.IPV6} | ({_IPV4: Family.IPV4} if self.has_ipv6_next_hops else {})
        self.of_mp = {code: family for code, family in both.items() if family in self.families}

    def lead(self, family: Family) -> int:
        """Return how many octets stand before each prefix of a family."""
        return PATH_ID_SIZE if family in self.with_path_ids else 0


# ── many messages ────────────────────────────────────────────────────────────


def decode_updates(data: bytes, at: int, context: Context, read_at: float) -> tuple[list[Routes], int]:
    """Return what the UPDATEs from `at` on say, and where the first message stands that was left alone.

    That is the end of `data`, a message that is not whole yet, one that is no UPDATE, or one to be judged.
    """
    gathering = _Gathering(read_at)
    clean, longest = context.table.clean, context.message_size
    has_ipv4, has_ipv6 = context.has_plain_ipv4, context.has_plain_ipv6
    last = len(data) - UPDATE_MINIMUM
    while at <= last:
        marker, length, kind, withdrawn_size, attributes_size = _UPDATE_HEAD.unpack_from(data, at)
        stop = at + length
        if kind != UPDATE or marker != MARKER or not UPDATE_MINIMUM <= length <= longest or stop > len(data):
            break
        nlri_at = at + UPDATE_MINIMUM + attributes_size
        attributes, host_at, host_stop = None, nlri_at, stop
        if not withdrawn_size and nlri_at < stop and has_ipv4:
            attributes = clean.get(data[at + UPDATE_MINIMUM : nlri_at])
        elif not withdrawn_size and nlri_at == stop and has_ipv6:
            attributes, host_at = _single_ipv6_host(data, at, stop, context.table)
            host_stop = host_at + 17
        if attributes is None:
            if not _gather_one(data[at + HEADER_SIZE : stop], context, gathering):
                break
        elif host_stop < stop or (stop - host_at == 5 and data[host_at] == 32):
            run = _run_of_single_hosts(data, at, (host_at, host_stop), stop)
            gathering.announce(attributes, run)
            stop = at + length * len(run)
        else:
            keys = cut(data[nlri_at:stop], 32)
            if keys is None:
                break
            gathering.announce(attributes, keys)
        at = stop
    gathering.flush()
    return gathering.routes, at


def _run_of_single_hosts(data: bytes, at: int, host: tuple[int, int], stop: int) -> list[Nlri]:
    """Return the key at `host` of the UPDATE at `at`, and those of the UPDATEs behind it that differ in it alone."""
    host_at, host_stop = host
    between = data[host_stop:stop] + data[at:host_at]
    keys = [Nlri(data[host_at:host_stop])]
    if data.startswith(between, host_stop):
        width, bits = len(keys[0]), keys[0][0]
        # The last piece is left to the next look: nothing says that its message ends as the others do.
        for piece in data[host_at : host_at + _RUN * (stop - at)].split(between)[1:-1]:
            if len(piece) != width or piece[0] != bits:
                break
            keys.append(Nlri(piece))
    return keys


def _single_ipv6_host(data: bytes, at: int, stop: int, table: Table) -> tuple[PathAttributes | None, int]:
    """Return the attributes and the place of the /128 of an UPDATE that announces it in its first attribute.

    None where it does not, or where the set has not been seen, or is not clean.
    """
    begin = at + UPDATE_MINIMUM
    head = _SINGLE_HOST_HEADS.get(data[begin : begin + 7]) or _SINGLE_HOST_HEADS.get(data[begin : begin + 8])
    if head is None:
        return None, stop
    hop_at = begin + head[0]
    host_at = hop_at + head[1] + 1
    if host_at + 17 > stop or data[host_at] != 128:
        return None, stop
    interned = table.sets.get((data[hop_at : host_at - 1], data[host_at + 17 : stop]))
    return (interned.attributes if interned is not None and not interned.discarded else None), host_at


class _Gathering:
    """`Routes` in the making: UPDATEs come in order, neighbours of one attribute set are joined."""

    __slots__ = ("announced", "attributes", "read_at", "routes", "withdrawn")

    def __init__(self, read_at: float) -> None:
        self.read_at = read_at
        self.routes: list[Routes] = []
        self.attributes: PathAttributes | None = None
        self.announced: list[Nlri] = []
        self.withdrawn: list[Nlri] = []

    def announce(self, attributes: PathAttributes, keys: list[Nlri]) -> None:
        """Add prefixes with these attributes; of one width, though IPv4 may have the next hop of IPv6 (RFC 8950)."""
        if self.announced and (attributes is not self.attributes or len(keys[0]) != len(self.announced[0])):
            self.flush()
        self.attributes = attributes
        self.announced += keys

    def withdraw(self, keys: list[Nlri]) -> None:
        """Add withdrawals."""
        if self.announced:
            self.flush()
        self.withdrawn += keys

    def flush(self) -> None:
        """Close the one in the making."""
        if self.announced or self.withdrawn:
            self.routes.append(Routes(self.attributes, self.announced, self.withdrawn, self.read_at))
        self.attributes, self.announced, self.withdrawn = None, [], []


# ── one message ──────────────────────────────────────────────────────────────


class Update(NamedTuple):
    """An UPDATE taken apart: the keys of both families, the MP next hop and the bytes of the other attributes."""

    withdrawn: list[Nlri]
    announced: list[Nlri]  # with NEXT_HOP
    announced_mp: list[Nlri]  # with `next_hop`
    next_hop: bytes
    rest: bytes


def _gather_one(body: bytes, context: Context, gathering: _Gathering) -> bool:
    """Gather what one UPDATE says; False, and nothing gathered, where it is for the codec to judge."""
    update = take_apart(body, context)
    if update is None:
        return False
    announcements: list[tuple[PathAttributes, list[Nlri]]] = []
    for keys, next_hop in ((update.announced, b""), (update.announced_mp, update.next_hop)):
        if not keys:
            continue
        interned = context.table.sets.get((next_hop, update.rest))
        if interned is None:
            try:
                interned = context.intern(next_hop, update.rest)
            except PeerError:
                return False
        if interned.attributes is None or interned.discarded:
            return False
        announcements.append((interned.attributes, keys))
    if update.withdrawn:
        gathering.withdraw(update.withdrawn)
    for attributes, keys in announcements:
        gathering.announce(attributes, keys)
    return True


def take_apart(body: bytes, context: Context) -> Update | None:
    """Return the parts of a plain UPDATE; None for any other: malformed, of another family, End-of-RIB, void."""
    attributes_at = 4 + int.from_bytes(body[:2], "big")
    nlri_at = attributes_at + int.from_bytes(body[attributes_at - 2 : attributes_at], "big")
    if nlri_at > len(body):
        return None
    lead = context.lead(Family.IPV4)
    withdrawn, announced = cut(body[2 : attributes_at - 2], 32, lead), cut(body[nlri_at:], 32, lead)
    parts = split_attributes(body[attributes_at:nlri_at])
    if withdrawn is None or announced is None or parts is None:
        return None
    rest, reach, unreach = parts
    withdrawn_mp: list[Nlri] | None = []
    announced_mp: list[Nlri] | None = []
    next_hop = b""
    if unreach is not None:
        family = context.of_mp.get(unreach[:3])
        withdrawn_mp = None if family is None else cut(unreach[3:], family.bits, context.lead(family))
    if reach is not None:
        family = context.of_mp.get(reach[:3])
        hop_size = reach[3] if len(reach) > 3 else 0
        next_hop, nlri = reach[4 : 4 + hop_size], reach[5 + hop_size :]
        is_plain = family is not None and hop_size in {16, 32} and nlri
        announced_mp = cut(nlri, family.bits, context.lead(family)) if family is not None and is_plain else None
    if withdrawn_mp is None or announced_mp is None:
        return None
    is_agreed = Family.IPV4 in context.families or not (withdrawn or announced)
    says_something = announced or announced_mp or ((withdrawn or withdrawn_mp) and not rest)
    if not is_agreed or not says_something:
        return None
    return Update(withdrawn + withdrawn_mp, announced, announced_mp, next_hop, rest)


def split_attributes(attributes: bytes) -> tuple[bytes, bytes | None, bytes | None] | None:
    """Return the attributes but MP_REACH_NLRI and MP_UNREACH_NLRI as they stand, and the values of those two.

    None where the framing is wrong, or one of the two stands twice or with other flags than its own.
    """
    others: list[bytes] = []
    values: dict[int, bytes] = {}
    at = kept = 0
    size = len(attributes)
    while at + 3 <= size:
        flags, code = attributes[at], attributes[at + 1]
        if flags & EXTENDED_LENGTH:
            value_at = at + 4
            stop = value_at + int.from_bytes(attributes[at + 2 : value_at], "big")
        else:
            value_at = at + 3
            stop = value_at + attributes[at + 2]
        if stop > size or value_at > size:
            return None
        if code in {MP_REACH, MP_UNREACH}:
            if flags & ~EXTENDED_LENGTH != 0x80 or code in values:
                return None
            values[code] = attributes[value_at:stop]
            others.append(attributes[kept:at])
            kept = stop
        at = stop
    if at != size:
        return None
    others.append(attributes[kept:])
    return b"".join(others), values.get(MP_REACH), values.get(MP_UNREACH)


# ── prefixes ─────────────────────────────────────────────────────────────────


def cut(nlri: bytes, bits: int, lead: int = 0) -> list[Nlri] | None:
    """Return the keys of a field of prefixes of up to `bits` (32 or 128); None where it is malformed.

    Fast where all are of one length, which is the common case; bits behind a prefix's length are cleared. `lead` octets
    stand before each prefix, and stay: a path identifier.
    """
    if not nlri:
        return []
    size = len(nlri)
    if size <= lead:
        return None
    first = nlri[lead]
    width = lead + _WIRE_SIZE[first]
    if first > bits:
        return None
    if size % width or nlri[lead::width].count(first) * width != size:
        return _cut_mixed(nlri, bits, lead)
    slices = _slices(nlri, width)
    stray = _STRAY[first & 7]
    if stray and any(map(stray.__and__, nlri[width - 1 :: width])):
        slices = [piece[:-1] + bytes((piece[-1] & ~stray,)) for piece in slices]
    if first < bits - 7:
        padding = bytes(lead + bits // 8 + 1 - width)
        slices = [piece + padding for piece in slices]
    return slices  # type: ignore[return-value]  # bytes of a key's shape; NewType costs a call for each


def _slices(data: bytes, width: int) -> list[bytes]:
    whole = len(data) - len(data) % (width * _BLOCK)
    slices = list(itertools.chain.from_iterable(_BLOCKS[width].iter_unpack(data[:whole])))
    return slices + [data[at : at + width] for at in range(whole, len(data), width)]


def _cut_mixed(nlri: bytes, bits: int, lead: int) -> list[Nlri] | None:
    keys: list[Nlri] = []
    at, size, width = 0, len(nlri), lead + bits // 8 + 1
    while at < size:
        if at + lead >= size:
            return None
        length = nlri[at + lead]
        stop = at + lead + _WIRE_SIZE[length]
        if length > bits or stop > size:
            return None
        piece = nlri[at:stop]
        stray = _STRAY[length & 7]
        if stray and piece[-1] & stray:
            piece = piece[:-1] + bytes((piece[-1] & ~stray,))
        keys.append(Nlri(piece.ljust(width, b"\0")))
        at = stop
    return keys


def _lead_of(key: Nlri) -> int:
    return PATH_ID_SIZE if len(key) in PATH_WIDTHS else 0


def pack(keys: list[Nlri], family: Family, room: int) -> Iterator[bytes]:
    """Yield the wire form of the keys in fields of at most `room` octets, which holds one key at least."""
    lead = _lead_of(keys[0])
    width = lead + family.bits // 8 + 1
    joined = b"".join(keys)
    if joined[lead::width].count(family.bits) == len(keys):  # a key of full length is its own wire form
        step = room // width * width
        for at in range(0, len(joined), step):
            yield joined[at : at + step]
        return
    pieces = [key[: lead + _WIRE_SIZE[key[lead]]] for key in keys]
    ends = list(itertools.accumulate(map(len, pieces)))
    start = sent = 0
    while start < len(pieces):
        stop = bisect_right(ends, sent + room, start)
        yield b"".join(pieces[start:stop])
        start, sent = stop, ends[stop - 1]
