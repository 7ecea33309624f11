"""Claims about the wire for inputs that nobody thought of."""

from __future__ import annotations

import ipaddress
from dataclasses import fields, replace
from functools import partial
from typing import get_args
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpmesh.peering.message import Capabilities, GracefulRestart, Negotiated, Open, PathIds
from bgpmesh.peering.peer import Peer
from bgpmesh.rib.export import Batch
from bgpmesh.route.attributes import (
    ATTRIBUTES,
    OPTIONAL_TRANSITIVE,
    Asn,
    AsPath,
    Origin,
    PathAttributes,
    RouterId,
    SegmentKind,
    octets_of,
)
from bgpmesh.route.nlri import ROUTED, Family, IPAddress, Nlri
from bgpmesh.route.path import PeerName, Role
from bgpmesh.wire import codec as codec_module
from bgpmesh.wire.codec import Codec, Decoded, Garbage, Routes
from bgpmesh.wire.packing import encode_attributes
from tests.bench.feeder import message

OURS, THEIRS = Asn(64512), Asn(65001)


def codecs(*, four_octet_asn: bool = True, is_external: bool = False, has_paths: bool = False) -> tuple[Codec, Codec]:
    """Return the two ends of a session whose OPENs are exchanged, ours and the peer's; with path identifiers or not."""
    theirs = THEIRS if is_external else OURS
    role = Role.EXTERNAL if is_external else Role.NON_CLIENT

    def end(asn: Asn, other: Asn) -> Codec:
        address = ipaddress.ip_address("192.0.2.1")
        return Codec(Peer(PeerName("peer"), address, other, role, address, asn, RouterId(1)))

    paths = tuple(PathIds(family, receive=True, send=True) for family in ROUTED) if has_paths else ()
    capabilities = Capabilities(families=(Family.IPV4, Family.IPV6), add_path=paths)
    theirs_offer = Capabilities(families=(Family.IPV4, Family.IPV6), four_octet_asn=four_octet_asn, add_path=paths)
    us, peer = end(OURS, theirs), end(theirs, OURS)
    our_open = us.encode(Open(OURS, 9, RouterId(1), capabilities))
    their_open = peer.encode(Open(theirs, 9, RouterId(2), theirs_offer))
    (agreed,) = us.feed(their_open, 0.0)
    peer.feed(our_open, 0.0)
    assert isinstance(agreed, Negotiated)
    assert agreed.refusal is None
    return us, peer


Said = tuple[object, ...]


def flattened(decoded: list[Decoded]) -> list[Said]:
    """Return what was said prefix by prefix, so that joined UPDATEs compare with single ones."""
    said: list[Said] = []
    for value in decoded:
        if isinstance(value, Routes):
            said += [("withdraw", key) for key in value.withdrawn]
            said += [("announce", key, id(value.attributes)) for key in value.announced]
            if value.treated_as_withdraw or value.attributes_discarded or value.problem:
                said.append((value.treated_as_withdraw, value.attributes_discarded, value.problem))
        else:
            said.append((value,))
    return said


def slowly(codec: Codec, data: bytes) -> list[Decoded]:
    """Return what ExaBGP's decoder makes of `data`, the fast path being closed, and no field cut by us."""
    with (
        patch.object(codec_module, "decode_updates", lambda _data, at, _context, _read_at: ([], at)),
        patch.object(codec_module, "_cut", lambda *_: None),
    ):
        return codec.feed(data, 0.0)


# ── UPDATEs, right and wrong ─────────────────────────────────────────────────


def prefixes(bits: int, excess: int, *, has_paths: bool = False) -> st.SearchStrategy[bytes]:
    """Return NLRI fields: of one length or of many, host bits set or not, rarely too long or cut."""
    lead = 4 if has_paths else 0
    lengths = st.integers(0, bits + excess)

    def encode(parts: list[tuple[int, bytes]]) -> bytes:
        return b"".join(body[17 : 17 + lead] + bytes((length,)) + body[: (length + 7) // 8] for length, body in parts)

    body = st.binary(min_size=17 + lead, max_size=17 + lead)
    one = st.tuples(lengths, body)
    host = st.tuples(st.just(bits), body)
    equal = lengths.flatmap(lambda length: st.lists(st.tuples(st.just(length), body), max_size=70))
    return st.one_of(st.lists(host, max_size=70), st.lists(one, max_size=5), equal).map(encode)


@st.composite
def attribute(draw: st.DrawFn) -> bytes:
    """Draw one path attribute that is right, nearly right, or of an unknown kind."""
    row = draw(st.sampled_from([row for row in ATTRIBUTES if row.field]))
    values: dict[str, st.SearchStrategy[bytes]] = {
        "origin": st.sampled_from([b"\0", b"\1", b"\2", b"\3"]),
        "as_path": st.sampled_from([b"", b"\2\1\0\0\xfd\xe9", b"\1\1\0\1\0\0\2\1\0\0\0\1", b"\2\0", b"\2\1\0\0\0\0"]),
        "next_hop": st.sampled_from([b"\xc0\0\2\1", b"\0\0\0\0", b"\xe0\0\0\1", b"\xc0\0\2\1" * 4]),
        "atomic_aggregate": st.just(b""),
        "aggregator": st.sampled_from([b"\0\0\xfd\xe9\xc0\0\2\1", b"\xfd\xe9\xc0\0\2\1"]),
        "ext_communities": st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=4).map(b"".join),
        "ipv6_ext_communities": st.lists(st.binary(min_size=20, max_size=20), min_size=1, max_size=2).map(b"".join),
        "large_communities": st.lists(st.binary(min_size=12, max_size=12), min_size=1, max_size=4).map(b"".join),
    }
    right = values.get(row.name, st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=2).map(b"".join))
    value = draw(st.one_of(right, right, right, right, st.binary(max_size=9)))
    code = draw(st.sampled_from([row.code] * 12 + [17, 18, 26, 40, 99]))
    flags = row.flags if code == row.code else draw(st.sampled_from([0xC0, 0x80, 0xE0, 0x40]))
    flags ^= draw(st.sampled_from([0] * 12 + [0x20, 0x40, 0x80, 0x01]))
    if draw(st.sampled_from([False] * 5 + [True])):
        return bytes((flags | 0x10, code)) + len(value).to_bytes(2, "big") + value
    return bytes((flags, code, len(value))) + value


GOOD = b"\x40\1\1\0" + b"\x40\2\6\2\1\0\0\xfd\xe9" + b"\x40\3\4\xc0\0\2\1"
GOOD_FOR_TWO_OCTETS = b"\x40\1\1\0" + b"\x40\2\4\2\1\xfd\xe9" + b"\x40\3\4\xc0\0\2\1"


@st.composite
def update(draw: st.DrawFn, *, has_paths: bool = False) -> bytes:
    """Draw an UPDATE: mostly sane, with every oddity now and then."""
    of = partial(prefixes, has_paths=has_paths)
    excess = draw(st.sampled_from([0] * 9 + [2]))
    withdrawn = draw(st.one_of(st.just(b""), of(32, excess)))
    announced = draw(st.one_of(st.just(b""), of(32, excess)))
    pieces = [
        draw(st.sampled_from([GOOD] * 5 + [GOOD_FOR_TWO_OCTETS] * 2 + [b""])),
        *draw(st.lists(attribute(), max_size=2)),
    ]
    hop = draw(
        st.sampled_from(
            ["20010db8" + "00" * 11 + "01", "20010db8" + "00" * 11 + "01fe80" + "00" * 13 + "02"] * 4 + ["", "c0000201"]
        )
    )
    reach = draw(st.one_of(st.just(b""), of(128, excess)))
    afi = draw(st.sampled_from([2] * 12 + [1, 25]))
    head = b"\0" + bytes((afi, 1))
    if reach or draw(st.sampled_from([False] * 12 + [True])):
        value = head + bytes((len(hop) // 2,)) + bytes.fromhex(hop) + b"\0" + reach
        pieces.insert(draw(st.integers(0, len(pieces))), b"\x90\x0e" + len(value).to_bytes(2, "big") + value)
    if draw(st.booleans()):
        value = head + draw(of(128, excess))
        pieces.insert(draw(st.integers(0, len(pieces))), b"\x90\x0f" + len(value).to_bytes(2, "big") + value)
    attributes = b"".join(pieces)
    off = draw(st.sampled_from([0] * 30 + [-1, 1]))
    body = len(withdrawn).to_bytes(2, "big") + withdrawn
    body += max(len(attributes) + off, 0).to_bytes(2, "big") + attributes + announced
    return message(2, body)


@st.composite
def flood(draw: st.DrawFn) -> bytes:
    """Draw a run of UPDATEs with one single address each, all alike but for it, and a few octets here and there."""
    good = draw(st.sampled_from([GOOD, GOOD_FOR_TWO_OCTETS]))
    hop = bytes.fromhex("20010db8" + "00" * 11 + "01") * draw(st.integers(1, 2))
    is_ipv6 = draw(st.booleans())

    def single(number: int) -> bytes:
        if not is_ipv6:
            return message(2, b"\0\0" + len(good).to_bytes(2, "big") + good + b"\x20" + number.to_bytes(4, "big"))
        value = b"\0\2\1" + bytes((len(hop),)) + hop + b"\0\x80" + number.to_bytes(16, "big")
        attributes = b"\x80\x0e" + bytes((len(value),)) + value + good
        return message(2, b"\0\0" + len(attributes).to_bytes(2, "big") + attributes)

    data = bytearray(b"".join(map(single, range(draw(st.sampled_from([2, 3, 66, 130]))))))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@settings(max_examples=300)
@given(st.lists(st.one_of(update(), update(), flood()), max_size=6), st.booleans(), st.booleans())
def test_fast_path_and_exabgp_agree(updates: list[bytes], four_octet_asn: bool, is_external: bool) -> None:
    """The same UPDATEs say the same through the fast path and through ExaBGP's decoder."""
    data = b"".join(updates)
    fast, _ = codecs(four_octet_asn=four_octet_asn, is_external=is_external)
    slow, _ = codecs(four_octet_asn=four_octet_asn, is_external=is_external)
    expected = flattened(slowly(slow, data))
    assert expected == flattened(fast.feed(data, 0.0))


@settings(max_examples=200)
@given(st.lists(st.one_of(update(has_paths=True), update(has_paths=True), update()), max_size=4), st.booleans())
def test_fast_path_and_exabgp_agree_on_path_identifiers(updates: list[bytes], is_external: bool) -> None:
    """The same where each prefix has one before it (RFC 7911), also where one is missing."""
    data = b"".join(updates)
    fast, _ = codecs(is_external=is_external, has_paths=True)
    slow, _ = codecs(is_external=is_external, has_paths=True)
    expected = flattened(slowly(slow, data))
    assert expected == flattened(fast.feed(data, 0.0))


@settings(max_examples=150)
@given(st.lists(update(), max_size=4))
def test_one_byte_at_a_time_says_the_same(updates: list[bytes]) -> None:
    """Chunking changes nothing but what is joined."""
    data = b"".join(updates)
    whole, _ = codecs()
    crumbs, _ = codecs()
    expected = flattened(whole.feed(data, 0.0))
    assert expected == flattened([said for at in range(len(data)) for said in crumbs.feed(data[at : at + 1], 0.0)])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw messages of every kind with some octets changed, dropped or added."""
    kinds = st.one_of(
        update(),
        st.sampled_from([message(4, b""), message(5, b"\0\1\0\1"), message(3, b"\6\2\3abc")]),
        st.builds(message, st.integers(0, 7), st.binary(max_size=60)),
    )
    data = bytearray(b"".join(draw(st.lists(kinds, min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 1))] = draw(st.binary(max_size=2))
        if not data:
            break
    return bytes(data)


@settings(max_examples=250)
@given(st.one_of(mutated(), st.binary(max_size=200), st.binary(max_size=100).map(lambda tail: b"\xff" * 16 + tail)))
def test_any_bytes_give_values_or_garbage(data: bytes) -> None:
    """No input makes an exception; behind Garbage nothing is said; one byte at a time says the same."""
    codec, _ = codecs()
    decoded = codec.feed(data, 0.0)
    assert all(isinstance(value, get_args(Decoded)) for value in decoded)
    assert not any(isinstance(value, Garbage) for value in decoded[:-1])
    crumbs, _ = codecs()
    assert flattened(decoded) == flattened(
        [said for at in range(len(data)) for said in crumbs.feed(data[at : at + 1], 0.0)]
    )
    if decoded and isinstance(decoded[-1], Garbage):
        assert codec.feed(message(4, b""), 0.0) == []
        assert 19 <= len(codec.encode(decoded[-1].notification)) <= 4096


@settings(max_examples=300)
@given(st.binary(max_size=90), st.integers(0, 255))
def test_any_open_gives_negotiated_or_garbage(parameters: bytes, size: int) -> None:
    """An OPEN's body may be anything."""
    peer = Peer(PeerName("peer"), ipaddress.ip_address("192.0.2.1"), OURS, Role.NON_CLIENT, None, OURS, RouterId(1))
    codec = Codec(peer)
    codec.encode(
        Open(OURS, 9, RouterId(1), Capabilities(families=(Family.IPV4,), graceful_restart=GracefulRestart(120)))
    )
    for tail in (parameters, bytes((size,)) + parameters, bytes((len(parameters),)) + parameters):
        fresh = Codec(peer)
        fresh.encode(Open(OURS, 9, RouterId(1), Capabilities(families=(Family.IPV4,))))
        decoded = fresh.feed(message(1, b"\4\xfc\0\0\x09\0\0\0\2" + tail), 0.0)
        assert all(isinstance(value, Negotiated | Garbage) for value in decoded)


# ── there and back ───────────────────────────────────────────────────────────

numbers = st.integers(0, 2**32 - 1)
asns = st.one_of(st.integers(1, 65535), st.integers(1, 2**32 - 1)).map(Asn)
router_ids = numbers.map(RouterId)
ipv4 = st.integers(0x01000000, 0xDFFFFFFF).map(ipaddress.IPv4Address)
ipv6 = st.integers(0x2001 << 112, 0x3FFF << 112).map(ipaddress.IPv6Address)
link_locals = st.integers(0, 2**64 - 1).map(lambda n: ipaddress.IPv6Address((0xFE80 << 112) + n))
segments = st.tuples(
    st.sampled_from([SegmentKind.SEQUENCE, SegmentKind.SET]), st.lists(asns, min_size=1, max_size=6).map(tuple)
)


def sorted_set(members: st.SearchStrategy[object], size: int) -> st.SearchStrategy[object]:
    """Return sorted tuples without duplicates."""
    return st.sets(members, max_size=size).map(lambda found: tuple(sorted(found)))  # type: ignore[type-var]


def sets_of(family: Family, *, is_external: bool) -> st.SearchStrategy[PathAttributes]:
    """Return attribute sets with every field that there is."""
    hops: st.SearchStrategy[IPAddress] = ipv4 if family is Family.IPV4 else ipv6
    internal: dict[str, st.SearchStrategy[object]] = {
        "local_pref": st.none() | numbers,
        "originator_id": st.none() | router_ids,
        "cluster_list": st.lists(router_ids, max_size=4).map(tuple),
    }
    strategies: dict[str, st.SearchStrategy[object]] = {
        "origin": st.sampled_from(Origin),
        "as_path": st.lists(segments, max_size=3).map(lambda found: AsPath(tuple(found))),
        "next_hop": hops,
        "link_local": st.none() if family is Family.IPV4 else st.none() | link_locals,
        "med": st.none() | numbers,
        "atomic_aggregate": st.booleans(),
        "aggregator": st.none() | st.tuples(asns, ipv4),
        "communities": sorted_set(numbers, 90),
        "ext_communities": sorted_set(st.binary(min_size=8, max_size=8), 40),
        "large_communities": sorted_set(st.tuples(numbers, numbers, numbers), 30),
        "other": st.none().map(lambda _: ()) | st.binary(max_size=300).map(lambda value: ((0xE0, 99, value),)),
    }
    if not is_external:
        strategies |= internal
    sets = st.builds(PathAttributes, **strategies)
    return st.builds(_partial, sets, st.sets(st.sampled_from(sorted(BY_CODE))))


BY_CODE = {row.code: row.field for row in ATTRIBUTES if row.flags == OPTIONAL_TRANSITIVE and row.field != "other"}


def _partial(attributes: PathAttributes, codes: set[int]) -> PathAttributes:
    return replace(attributes, partial=tuple(sorted(c for c in codes if getattr(attributes, BY_CODE[c]))))


def keys_of(family: Family) -> st.SearchStrategy[list[Nlri]]:
    """Return prefixes of all lengths, or single addresses."""
    width = family.bits

    def key(length: int, number: int) -> Nlri:
        shift = width - length
        return Nlri(bytes((length,)) + (number >> shift << shift).to_bytes(width // 8, "big"))

    numbers_of_family = st.integers(0, 2**width - 1)
    mixed = st.lists(st.builds(key, st.integers(0, width), numbers_of_family), min_size=1, max_size=40, unique=True)
    hosts = st.lists(st.builds(key, st.just(width), numbers_of_family), min_size=1, max_size=40, unique=True)
    return st.one_of(mixed, hosts)


@settings(max_examples=250)
@given(st.data(), st.sampled_from(ROUTED), st.booleans(), st.integers(0, 1100), st.integers(0, 600))
def test_how_long_attributes_are_is_known_before(
    data: st.DataObject, family: Family, four_octet_asn: bool, communities: int, hops: int
) -> None:
    """By which nothing is told that fits no message."""
    attributes = data.draw(sets_of(family, is_external=data.draw(st.booleans())))
    path = AsPath((*attributes.as_path.segments, *([(SegmentKind.SEQUENCE, (Asn(70000),) * hops)] if hops else [])))
    attributes = replace(attributes, as_path=path, communities=tuple(range(communities)))
    encoded = encode_attributes(attributes, four_octet_asn=four_octet_asn)
    assert octets_of(attributes, four_octet_asn=four_octet_asn) == len(encoded)


@settings(max_examples=250)
@given(st.data(), st.sampled_from(ROUTED), st.booleans(), st.booleans(), st.booleans())
def test_what_is_encoded_is_decoded(
    data: st.DataObject, family: Family, four_octet_asn: bool, is_external: bool, has_paths: bool
) -> None:
    """Every attribute and every prefix comes back as it was, also through two-octet AS numbers, and by path."""
    attributes = data.draw(sets_of(family, is_external=is_external))
    keys = data.draw(keys_of(family))
    if has_paths:
        keys = [Nlri(data.draw(st.binary(min_size=4, max_size=4)) + key) for key in keys]
    us, peer = codecs(four_octet_asn=four_octet_asn, is_external=is_external, has_paths=has_paths)
    updates = peer.encode_batch(Batch(family, attributes, keys))
    assert max(map(len, updates)) <= 4096
    decoded = [said for octets in updates for said in us.feed(octets, 0.0)]
    assert [key for said in decoded if isinstance(said, Routes) for key in said.announced] == keys
    for said in decoded:
        assert isinstance(said, Routes)
        assert said.problem == ""
        assert said.attributes is not None
        for name in (field.name for field in fields(PathAttributes)):
            if name == "as_path" and not four_octet_asn:
                continue
            assert getattr(attributes, name) == getattr(said.attributes, name), name
        assert attributes.as_path.length == said.attributes.as_path.length


@settings(max_examples=100)
@given(st.data(), st.sampled_from(ROUTED))
def test_withdrawals_come_back(data: st.DataObject, family: Family) -> None:
    """What is withdrawn is what the peer hears withdrawn."""
    keys = data.draw(keys_of(family))
    us, peer = codecs()
    updates = peer.encode_batch(Batch(family, None, keys))
    decoded = us.feed(b"".join(updates), 0.0)
    assert [key for said in decoded if isinstance(said, Routes) for key in said.withdrawn] == keys
