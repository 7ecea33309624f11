"""Path identifiers on the wire (RFC 7911): the capability, what is read with them and what is written."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.peering.message import Capabilities, Negotiated, Open, PathIds
from bgpmesh.peering.peer import Peer
from bgpmesh.rib.export import Batch
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.nlri import Family, Nlri, parse_nlri, path_id_of, path_key, prefix_of
from bgpmesh.route.path import PeerName, Role
from bgpmesh.wire.codec import Codec, Decoded, Garbage, Routes
from bgpmesh.wire.fastpath import cut, pack, without_martians
from tests.bench import feeder
from tests.bench.feeder import message

ADDRESS = ipaddress.ip_address("192.0.2.1")
FAMILIES = (Family.IPV4, Family.IPV6)
OURS = Open(Asn(64512), 9, RouterId(1), Capabilities(families=FAMILIES))
THEIRS = replace(OURS, router_id=RouterId(2))
GOOD = bytes.fromhex("40010100" + "4002060201" + "0000fde9" + "400304c0000201" + "40050400000064")
HOP6 = bytes.fromhex("20010db8" + "00" * 11 + "01")


def offering(opened: Open, *paths: PathIds) -> Open:
    """Return an OPEN that offers ADD-PATH."""
    return replace(opened, capabilities=replace(opened.capabilities, add_path=paths))


def both_ways(*families: Family) -> tuple[PathIds, ...]:
    """Return an offer to receive and to send several paths of these families."""
    return tuple(PathIds(family, receive=True, send=True) for family in families)


def codec(ours: Open) -> Codec:
    """Return a codec that has encoded our OPEN."""
    made = Codec(Peer(PeerName("peer"), ADDRESS, Asn(64512), Role.NON_CLIENT, ADDRESS, Asn(64512), RouterId(1)))
    made.encode(ours)
    return made


def ends(*families: Family) -> tuple[Codec, Codec]:
    """Return both ends of a session on which several paths of these families go either way."""
    ours, theirs = offering(OURS, *both_ways(*families)), offering(THEIRS, *both_ways(*families))
    us, peer = codec(ours), codec(theirs)
    our_open, their_open = us.encode(ours), peer.encode(theirs)
    us.feed(their_open, 0.0)
    peer.feed(our_open, 0.0)
    return us, peer


def keyed(path_id: int, prefix: str) -> Nlri:
    """Return the key of a path."""
    return path_key(parse_nlri(prefix), path_id)


def said(codec: Codec, octets: bytes) -> tuple[list[Nlri], list[Nlri]]:
    """Return what was announced and what was withdrawn."""
    decoded = codec.feed(octets, 0.0)
    routes = [each for each in decoded if isinstance(each, Routes)]
    assert len(routes) == len(decoded), decoded
    return [k for each in routes for k in each.announced], [k for each in routes for k in each.withdrawn]


# ── the capability ───────────────────────────────────────────────────────────


def test_the_offer_is_on_the_wire_as_rfc_7911_has_it() -> None:
    """AFI, SAFI and 1 (receive), 2 (send) or 3 for each family; and it comes back as it was."""
    ours = offering(OURS, PathIds(Family.IPV4, receive=True, send=False), PathIds(Family.IPV6, receive=True, send=True))
    wire = codec(ours).encode(ours)
    assert bytes.fromhex("4508" + "00010101" + "00020103") in wire
    (agreed,) = codec(OURS).feed(codec(ours).encode(replace(ours, router_id=RouterId(2))), 0.0)
    assert isinstance(agreed, Negotiated)
    assert agreed.received.capabilities.add_path == ours.capabilities.add_path
    assert ("add-path ipv4 receive", "add-path ipv6 receive and send") == ours.capabilities.describe()[-2:]


@pytest.mark.parametrize(
    ("ours", "theirs", "comes", "goes"),
    [
        ((True, True), (True, True), True, True),
        ((True, False), (False, True), True, False),
        ((False, True), (True, False), False, True),
        ((True, False), (True, False), False, False),
        ((False, True), (False, True), False, False),
    ],
)
def test_a_way_is_open_where_one_sends_and_the_other_receives(
    ours: tuple[bool, bool], theirs: tuple[bool, bool], comes: bool, goes: bool
) -> None:
    """Of a family that only one side names nothing is agreed."""
    our_open = offering(OURS, PathIds(Family.IPV4, *ours), *both_ways(Family.IPV6))
    their_open = offering(THEIRS, PathIds(Family.IPV4, *theirs))
    (agreed,) = codec(our_open).feed(codec(their_open).encode(their_open), 0.0)
    assert isinstance(agreed, Negotiated)
    expected = frozenset({Family.IPV4} if comes else ()), frozenset({Family.IPV4} if goes else ())
    assert expected == (agreed.path_ids_in, agreed.path_ids_out)


@pytest.mark.parametrize("value", ["000101", "00010104", "00010100", "0001010300020107"])
def test_an_odd_offer_is_as_if_it_was_not_made(value: str) -> None:
    """A length or direction that RFC 7911 does not know: the capability is not understood, and that is all."""
    packed = bytes.fromhex(value)
    capabilities = bytes.fromhex("010400010001") + bytes((69, len(packed))) + packed
    body = b"\4\xfc\0\0\x09\0\0\0\2" + bytes((len(capabilities) + 2, 2, len(capabilities))) + capabilities
    (agreed,) = codec(offering(OURS, *both_ways(*FAMILIES))).feed(message(1, body), 0.0)
    assert isinstance(agreed, Negotiated)
    assert agreed.refusal is None
    assert (agreed.path_ids_in, agreed.path_ids_out) == (frozenset(), frozenset())
    assert agreed.received.capabilities.other == ((69, packed),)


# ── UPDATEs ──────────────────────────────────────────────────────────────────


def test_several_paths_are_read_and_withdrawn_by_identifier() -> None:
    """The same prefix by two identifiers is two keys, also in one UPDATE; both families."""
    us, _ = ends(*FAMILIES)
    one, two = b"\0\0\0\1\x18\x0a\1\2", b"\0\0\0\2\x18\x0a\1\2"
    update = feeder.update(b"", GOOD, one + two)
    assert said(us, update) == ([keyed(1, "10.1.2.0/24"), keyed(2, "10.1.2.0/24")], [])
    assert said(us, feeder.update(two, b"", b"")) == ([], [keyed(2, "10.1.2.0/24")])
    nlri6 = b"\xff\0\0\1\x20\x20\x01\x0d\xb8" + b"\0\0\0\0\x80" + HOP6
    reach = b"\0\2\1\x10" + HOP6 + b"\0" + nlri6
    attributes = b"\x80\x0e" + bytes((len(reach),)) + reach + GOOD
    assert said(us, feeder.update(b"", attributes, b"")) == (
        [keyed(0xFF000001, "2001:db8::/32"), keyed(0, "2001:db8::1/128")],
        [],
    )


def test_a_family_without_identifiers_is_read_as_ever() -> None:
    """Of two families one may have them; a session without them has none."""
    us, _ = ends(Family.IPV6)
    assert said(us, feeder.update(b"", GOOD, b"\x18\x0a\1\2")) == ([parse_nlri("10.1.2.0/24")], [])


def broken(us: Codec, update: bytes) -> Garbage:
    """Return what ends the session."""
    decoded: list[Decoded] = us.feed(update, 0.0)
    assert isinstance(decoded[-1], Garbage), decoded
    return decoded[-1]


@pytest.mark.parametrize("nlri", ["00", "000000", "00000001", "0000000118", "00000001180a01", "00000001210a010203"])
@pytest.mark.parametrize("field", ["announced", "withdrawn"])
def test_an_identifier_or_prefix_cut_short_ends_the_session(nlri: str, field: str) -> None:
    """What follows cannot be told any more (RFC 7606 §5.3): invalid network field."""
    us, _ = ends(*FAMILIES)
    whole = b"\0\0\0\1\x18\x0a\1\2" + bytes.fromhex(nlri)
    parts = (b"", GOOD, whole) if field == "announced" else (whole, b"", b"")
    notification = broken(us, feeder.update(*parts)).notification
    assert (3, 10) == (notification.code, notification.subcode)
    assert us.feed(feeder.update(b"", GOOD, b"\0\0\0\1\x18\x0a\1\2"), 0.0) == []


def test_an_identifier_cut_short_in_mp_reach_ends_the_session() -> None:
    """The same for IPv6."""
    reach = b"\0\2\1\x10" + HOP6 + b"\0" + b"\0\0\0\1\x20\x20\x01\x0d\xb8" + b"\0\0\0"
    for announced in (b"", b"\0\0\0\1\x18\x0a\1\2"):
        us, _ = ends(*FAMILIES)
        update = feeder.update(b"", b"\x80\x0e" + bytes((len(reach),)) + reach + GOOD, announced)
        notification = broken(us, update).notification
        assert (3, 9) == (notification.code, notification.subcode)


def test_treat_as_withdraw_is_by_path() -> None:
    """An UPDATE with a malformed attribute withdraws its paths, not others of these prefixes."""
    us, _ = ends(*FAMILIES)
    malformed = GOOD.replace(bytes.fromhex("400304c0000201"), bytes.fromhex("400304e0000001"))
    (routes,) = us.feed(feeder.update(b"", malformed, b"\0\0\0\7\x18\x0a\1\2"), 0.0)
    assert isinstance(routes, Routes)
    assert (routes.announced, routes.withdrawn) == ([], [keyed(7, "10.1.2.0/24")])
    assert routes.treated_as_withdraw == 1


@pytest.mark.parametrize("prefix", ["10.0.0.0/32", "10.0.0.0/26", "0.0.0.0/0", "2001:db8::/128", "2001::/52"])
def test_what_is_packed_with_identifiers_is_cut_again(prefix: str) -> None:
    """Of one length or among others, all come back in order, and messages are not overfull."""
    key = parse_nlri(prefix)
    family = Family.IPV4 if len(key) == 5 else Family.IPV6
    other = parse_nlri("10.4.0.0/14" if family is Family.IPV4 else "fd00::/9")
    for keys in (
        [Nlri(number.to_bytes(4, "big") + key) for number in range(70)],
        [Nlri(number.to_bytes(4, "big") + (key if number % 3 else other)) for number in range(70)],
    ):
        fields = list(pack(keys, family, 100))
        assert max(map(len, fields)) <= 100
        assert keys == [each for field in fields for each in cut(field, family.bits, 4) or []]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_we_send_the_other_end_reads(family: Family) -> None:
    """A batch of paths and its withdrawal, in more than one UPDATE."""
    us, peer = ends(*FAMILIES)
    base = parse_nlri("10.0.0.0/32" if family is Family.IPV4 else "2001:db8::/128")
    keys = [Nlri(b"\0\0\0\x05" + base[:-2] + number.to_bytes(2, "big")) for number in range(1000)]
    hop = ipaddress.ip_address("192.0.2.9" if family is Family.IPV4 else "2001:db8::9")
    updates = peer.encode_batch(Batch(family, PathAttributes(next_hop=hop), keys))
    assert len(updates) > 1
    assert said(us, b"".join(updates)) == (keys, [])
    assert said(us, b"".join(peer.encode_batch(Batch(family, None, keys)))) == ([], keys)


def test_martians_are_told_by_the_prefix_not_by_the_identifier() -> None:
    """An identifier that looks like a loopback address is none; a loopback prefix is left out."""
    good, bad = keyed(0x7F7F7F7F, "10.1.0.0/16"), keyed(1, "127.1.0.0/16")
    routes = without_martians(Routes(PathAttributes(), [good, bad], []))
    assert routes.announced == [good]
    assert "127.1.0.0/16" in routes.problem


def test_keys_say_what_they_are() -> None:
    """The prefix and the identifier of a path's key; of a prefix's key itself, and none."""
    key, path = parse_nlri("10.1.0.0/16"), keyed(9, "10.1.0.0/16")
    assert (prefix_of(path), path_id_of(path)) == (key, 9)
    assert (prefix_of(key), path_id_of(key)) == (key, None)
