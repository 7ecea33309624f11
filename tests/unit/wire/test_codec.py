"""What the codec says of messages, and what it makes of ours."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from dataclasses import replace

import pytest
from exabgp.bgp.message import Message as ExaMessage

from bgpmesh.peering.message import (
    Capabilities,
    Cease,
    EndOfRib,
    GracefulRestart,
    Keepalive,
    LongLived,
    Message,
    Negotiated,
    Notification,
    Open,
    PathIds,
    Refresh,
    RouteRefresh,
)
from bgpmesh.peering.peer import Peer
from bgpmesh.rib.export import Batch
from bgpmesh.route.attributes import Asn, AsPath, PathAttributes, RouterId, SegmentKind
from bgpmesh.route.nlri import Family, Nlri, parse_nlri
from bgpmesh.route.path import PeerName, Role
from bgpmesh.wire import codec as codec_module
from bgpmesh.wire import fastpath
from bgpmesh.wire.codec import Codec, Garbage, Routes
from bgpmesh.wire.fastpath import without_martians
from tests.bench import feeder
from tests.bench.feeder import message

ADDRESS = ipaddress.ip_address("192.0.2.1")
BOTH = Capabilities(families=(Family.IPV4, Family.IPV6))
OURS = Open(Asn(64512), 9, RouterId(1), BOTH)
THEIRS = Open(Asn(64512), 30, RouterId(2), BOTH)
GOOD = bytes.fromhex("40010100" + "4002060201" + "0000fde9" + "400304c0000201" + "40050400000064")


def codec(asn: int = 64512, ours: Open = OURS, role: Role | None = None) -> Codec:
    """Return a codec that has encoded our OPEN."""
    role = role or (Role.NON_CLIENT if asn == ours.asn else Role.EXTERNAL)
    made = Codec(Peer(PeerName("peer"), ADDRESS, Asn(asn), role, ADDRESS, ours.asn, ours.router_id))
    made.encode(ours)
    return made


def octets(message: Message) -> bytes:
    """Return a message as a peer sends it."""
    return Codec(Peer(PeerName("us"), ADDRESS, Asn(1), Role.EXTERNAL, ADDRESS, Asn(1), RouterId(9))).encode(message)


def agreed(theirs: Open = THEIRS, ours: Open = OURS, asn: int = 64512) -> Negotiated:
    """Return what two OPENs agree on."""
    (negotiated,) = codec(asn, ours).feed(octets(theirs), 0.0)
    assert isinstance(negotiated, Negotiated)
    return negotiated


def established(asn: int = 64512, theirs: Open = THEIRS) -> Codec:
    """Return a codec that is past the OPENs."""
    made = codec(asn)
    made.feed(octets(replace(theirs, asn=Asn(asn))), 0.0)
    return made


def update(attributes: bytes, announced: bytes = b"", withdrawn: bytes = b"") -> bytes:
    """Return an UPDATE."""
    return feeder.update(withdrawn, attributes, announced)


def garbage(data: bytes, made: Codec | None = None) -> Garbage:
    """Return the Garbage that `data` is."""
    (said,) = (made or established()).feed(data, 0.0)
    assert isinstance(said, Garbage)
    return said


# ── OPEN ─────────────────────────────────────────────────────────────────────


def test_open_comes_back_as_it_was() -> None:
    """AS, hold time, identifier and every capability survive the wire."""
    offered = Capabilities(
        families=(Family.IPV4, Family.IPV6),
        enhanced_refresh=True,
        extended_message=True,
        graceful_restart=GracefulRestart(
            120,
            is_restarting=True,
            families=((Family.IPV4, True), (Family.IPV6, False)),
            survives_notification=True,
        ),
        long_lived=LongLived(((Family.IPV4, True, 0xFFFFFF), (Family.IPV6, False, 1))),
    )
    sent = Open(Asn(4_200_000_000), 9, RouterId(0xC0000201), offered)
    assert sent == agreed(sent, asn=4_200_000_000).received


def test_a_peer_is_configured_otherwise_under_a_session() -> None:
    """What it says next has to begin with its own AS, and then need not."""
    made, peer = (
        established(65002),
        Peer(PeerName("p"), ADDRESS, Asn(65002), Role.EXTERNAL, ADDRESS, Asn(1), RouterId(9)),
    )
    withdrawn = []
    for is_enforced in (False, True, False):
        made.configure(replace(peer, enforce_first_as=is_enforced))
        (said,) = made.feed(update(GOOD[:-7], bytes((24, 10, 1, 1))), 0.0)
        assert isinstance(said, Routes)
        withdrawn.append(len(said.withdrawn))
    assert withdrawn == [0, 1, 0]


@pytest.mark.parametrize(("is_restarting", "is_kept"), [(False, False), (False, True), (True, False), (True, True)])
def test_restart_bits_are_ours_to_say(is_restarting: bool, is_kept: bool) -> None:
    """The R and F bits on the wire are those of our Capabilities, not ExaBGP's (RFC 4724 §3)."""
    restart = GracefulRestart(120, is_restarting, ((Family.IPV4, is_kept),))
    wire = octets(replace(OURS, capabilities=replace(BOTH, graceful_restart=restart)))
    expected = bytes((64, 6, 0x80 * is_restarting, 120, 0, 1, 1, 0x80 * is_kept))
    assert expected in wire


def test_long_lived_graceful_restart_on_the_wire() -> None:
    """AFI, SAFI, flags, three octets of seconds (RFC 9494 §3); unknown families are passed over."""
    value = bytes.fromhex("00010180000e10 00190100000001 00020100000002")
    offered = Capabilities((Family.IPV4,), graceful_restart=GracefulRestart(0))
    long_lived = LongLived(((Family.IPV4, True, 3600), (Family.IPV6, False, 2)))
    sent = replace(OURS, capabilities=replace(offered, long_lived=long_lived))
    assert b"\x47\x0e" + value[:7] + value[14:] in octets(sent)
    for restart, capability, expected in (
        (b"\x40\x02\x00\x00", b"\x47\x15" + value, long_lived),
        (b"\x40\x02\x00\x00", b"\x47\x00", LongLived()),
        (b"\x40\x02\x00\x00", b"\x47\x06" + value[:6], None),
        (b"", b"\x47\x15" + value, None),
    ):
        parameters = restart + capability
        body = b"\4\xfd\xe9\0\x1e\0\0\0\2" + bytes((len(parameters) + 2, 2, len(parameters))) + parameters
        (negotiated,) = codec(65001).feed(message(1, body), 0.0)
        assert isinstance(negotiated, Negotiated)
        assert expected == negotiated.received.capabilities.long_lived
        assert negotiated.refusal is None


def test_only_what_is_handled_is_offered() -> None:
    """No host name: codes 1, 2 and 65, and 6, 64 and 70 where asked for."""
    received = agreed(replace(THEIRS, capabilities=BOTH)).received
    assert received.capabilities.other == ()
    assert received.capabilities == BOTH


def test_hold_time_and_families_are_what_both_offer() -> None:
    """The smaller hold time, and the families in common."""
    negotiated = agreed(replace(THEIRS, hold_time=3, capabilities=Capabilities(families=(Family.IPV6,))))
    assert (negotiated.hold_time, negotiated.families, negotiated.four_octet_asn) == (3, (Family.IPV6,), True)


def test_hold_time_zero_is_accepted() -> None:
    """A peer may do without keepalives (RFC 4271 §4.2)."""
    negotiated = agreed(replace(THEIRS, hold_time=0))
    assert (negotiated.hold_time, negotiated.refusal) == (0, None)


def test_peer_without_capabilities_speaks_ipv4() -> None:
    """RFC 4760 §8: who does not announce the capability speaks IPv4 unicast, with two-octet AS numbers."""
    made = codec(65001)
    (negotiated,) = made.feed(message(1, b"\4\xfd\xe9\0\x1e\0\0\0\2\0"), 0.0)
    assert isinstance(negotiated, Negotiated)
    assert negotiated.refusal is None
    assert (negotiated.families, negotiated.four_octet_asn) == ((Family.IPV4,), False)


@pytest.mark.parametrize("capability", [b"\x49\3\xff\xfe\xfd", b"\x45\3\0\1\1", b"\x4b\0", b"\5\1\0"])
def test_what_is_only_shown_is_not_judged(capability: bytes) -> None:
    """A host name, ADD-PATH, software version or next hop encoding that is cut short is no reason to refuse a peer."""
    size = len(capability)
    (negotiated,) = codec(65001).feed(
        message(1, b"\4\xfd\xe9\0\x1e\0\0\0\2" + bytes((size + 2, 2, size)) + capability), 0.0
    )
    assert isinstance(negotiated, Negotiated)
    assert negotiated.refusal is None
    assert negotiated.received.capabilities.other == ((capability[0], capability[2:]),)


def test_unknown_capabilities_are_kept_to_show() -> None:
    """What we do not understand is listed with its value."""
    (negotiated,) = codec(65001).feed(message(1, b"\4\xfd\xe9\0\x1e\0\0\0\2\x07\2\5\xc8\3abc"), 0.0)
    assert isinstance(negotiated, Negotiated)
    assert negotiated.received.capabilities.other == ((200, b"abc"),)


IPV6_HOP = ipaddress.ip_address("2001:db8::9")
BY_IPV6 = replace(BOTH, ipv6_next_hops=True)


def by_ipv6(*, is_offered: bool = True) -> Codec:
    """Return a codec past the OPENs that said whether IPv4 may have IPv6 next hops."""
    made = Codec(Peer(PeerName("peer"), ADDRESS, Asn(64512), Role.NON_CLIENT, ADDRESS, Asn(64512), RouterId(1)))
    made.encode(replace(OURS, capabilities=BY_IPV6))
    (negotiated,) = made.feed(octets(replace(THEIRS, capabilities=replace(BY_IPV6, ipv6_next_hops=is_offered))), 0.0)
    assert isinstance(negotiated, Negotiated)
    assert negotiated.ipv6_next_hops is is_offered
    assert negotiated.received.capabilities.other == ()
    return made


def test_ipv4_by_ipv6_next_hops_on_the_wire() -> None:
    """The capability, then MP_REACH_NLRI of AFI 1 with 16 octets of next hop (RFC 8950 §3, §4), there and back."""
    assert bytes.fromhex("0506000100010002") in octets(replace(OURS, capabilities=BY_IPV6))
    nlris = [parse_nlri("10.1.0.0/16"), parse_nlri("10.2.3.4/32")]
    attributes = PathAttributes(next_hop=IPV6_HOP, local_pref=100)
    (wire,) = by_ipv6().encode_batch(Batch(Family.IPV4, attributes, nlris))
    assert b"\0\1\1\x10" + IPV6_HOP.packed + b"\0" in wire
    made = by_ipv6()
    for _ in range(2):  # as it is read first, and as it is known
        (said,) = made.feed(wire, 0.0)
        assert isinstance(said, Routes)
        assert said.announced == nlris
        assert said.attributes is not None
        assert said.attributes.same_as(attributes)
    (gone,) = made.feed(update(feeder.attribute(0x80, 15, b"\0\1\1\x10\x0a\1")), 0.0)
    assert isinstance(gone, Routes)
    assert gone.withdrawn == nlris[:1]


@pytest.mark.parametrize("order", [1, -1])
def test_families_with_one_next_hop_are_told_apart(order: int) -> None:
    """UPDATEs of one attribute set in a row, of IPv6 with path identifiers and of IPv4 without (RFC 7911, RFC 8950)."""
    ways = (PathIds(Family.IPV6, receive=True, send=False), PathIds(Family.IPV6, receive=False, send=True))
    ours, theirs = (replace(BY_IPV6, add_path=(way,)) for way in ways)
    made = codec(ours=replace(OURS, capabilities=ours))
    made.feed(octets(replace(THEIRS, capabilities=theirs)), 0.0)
    sent = [
        (Family.IPV6, Nlri(bytes(3) + b"\1" + parse_nlri("2001:db8:1::/48"))),
        (Family.IPV6, Nlri(bytes(3) + b"\2" + parse_nlri("fe80::/64"))),
        (Family.IPV4, parse_nlri("10.1.0.0/16")),
        (Family.IPV4, parse_nlri("127.0.0.0/8")),
    ]
    attributes = PathAttributes(next_hop=IPV6_HOP, local_pref=100)
    updates = [by_ipv6().encode_batch(Batch(family, attributes, [key]))[0] for family, key in sent[::order]]
    heard = made.feed(b"".join(updates), 0.0)
    routes = [without_martians(said) for said in heard if isinstance(said, Routes)]
    assert [key for _, key in (sent[0], sent[2])][::order] == [key for said in routes for key in said.announced]


LINK_LOCAL = ipaddress.ip_address("fe80::2")


@pytest.mark.parametrize(
    "hops",
    [LINK_LOCAL.packed, LINK_LOCAL.packed * 2, IPV6_HOP.packed + LINK_LOCAL.packed, bytes(16) + LINK_LOCAL.packed],
    ids=["alone", "twice", "behind another", "behind none"],
)
def test_a_link_local_next_hop_is_of_the_link_of_its_session(hops: bytes) -> None:
    """Each of the ways that neighbours write it; what was read on one link is not taken for another's."""
    reach = feeder.attribute(0x80, 14, b"\0\2\1" + bytes((len(hops),)) + hops + b"\0\x20\x20\1\x0d\xb8")
    for link in ("eth1", "eth2"):
        at = ipaddress.ip_address(f"fe80::2%{link}")
        made = Codec(Peer(PeerName("peer"), at, Asn(64512), Role.NON_CLIENT, ADDRESS, Asn(64512), RouterId(1)))
        made.encode(OURS)
        made.feed(octets(THEIRS), 0.0)
        (said,) = made.feed(update(reach + GOOD[:-7]), 0.0)
        assert isinstance(said, Routes)
        assert said.attributes is not None
        assert (said.attributes.next_hop, said.attributes.link_local) == (at, None)


def test_next_hops_of_the_wrong_family_end_the_session() -> None:
    """IPv6 ones for IPv4 that were not agreed on, and IPv4 ones for IPv6 in any case (RFC 4760 §7)."""
    reach = feeder.attribute(0x80, 14, b"\0\1\1\x10" + IPV6_HOP.packed + b"\0\x10\x0a\1")
    assert garbage(update(reach + GOOD[:-7]), by_ipv6(is_offered=False)).notification.subcode == 9
    reach = feeder.attribute(0x80, 14, b"\0\2\1\4\x0a\0\0\2\0\x20\x20\1\x0d\xb8")
    for made in (by_ipv6(), by_ipv6(is_offered=False)):
        assert garbage(update(reach + GOOD[:-7]), made).notification.subcode == 9


@pytest.mark.parametrize(
    ("theirs", "notification", "words"),
    [
        (replace(THEIRS, asn=Asn(70001)), Notification(2, 2), "the peer says AS 70001, expected AS 64512"),
        (replace(THEIRS, asn=Asn(0)), Notification(2, 2), "the peer says AS 0"),
        (replace(THEIRS, router_id=RouterId(0)), Notification(2, 3), "router id 0.0.0.0 is not valid"),
        (replace(THEIRS, router_id=RouterId(1)), Notification(2, 3), "our router id 0.0.0.1"),
        (replace(THEIRS, hold_time=2), Notification(2, 6), "hold time 2 s is below the minimum of 3 s"),
    ],
)
def test_open_that_cannot_be_is_refused(theirs: Open, notification: Notification, words: str) -> None:
    """The refusal has its NOTIFICATION and names the real values (RFC 4271 §6.2, RFC 6286, RFC 7607)."""
    negotiated = agreed(theirs)
    assert notification == negotiated.refusal
    assert words in negotiated.refusal_text


def test_equal_router_id_is_refused_with_four_octet_asn() -> None:
    """An internal peer with our identifier is refused also where the AS needs four octets (RFC 6286 §2.1)."""
    ours = replace(OURS, asn=Asn(4_200_000_000))
    negotiated = agreed(replace(ours, hold_time=30), ours, 4_200_000_000)
    assert Notification(2, 3) == negotiated.refusal


def test_equal_router_id_is_fine_between_systems() -> None:
    """The identifier need be unique within an AS only (RFC 6286 §2.1)."""
    assert agreed(replace(THEIRS, asn=Asn(65001), router_id=RouterId(1)), asn=65001).refusal is None


def test_a_session_that_could_carry_nothing_is_refused() -> None:
    """Without a family in common the NOTIFICATION says which ones we want (RFC 5492 §3)."""
    theirs = replace(THEIRS, capabilities=Capabilities((Family.IPV6,)))
    negotiated = agreed(theirs, replace(OURS, capabilities=Capabilities((Family.IPV4,))))
    assert Notification(2, 7, b"\1\4\0\1\0\1") == negotiated.refusal
    assert negotiated.refusal_text == "no address family in common: the peer offers ipv6"


def test_open_before_ours_waits() -> None:
    """A peer that is faster than we are is negotiated with once our OPEN is encoded."""
    made = Codec(Peer(PeerName("peer"), ADDRESS, Asn(64512), Role.NON_CLIENT, ADDRESS, Asn(64512), RouterId(1)))
    assert made.feed(octets(THEIRS) + octets(Keepalive()), 0.0) == []
    made.encode(OURS)
    negotiated, keepalive = made.feed(b"", 0.0)
    assert isinstance(negotiated, Negotiated)
    assert Keepalive() == keepalive


@pytest.mark.parametrize(
    ("body", "notification"),
    [
        (b"\3\xfd\xe9\0\x1e\0\0\0\2\0", Notification(2, 1, b"\0\4")),
        (b"\4\xfd\xe9\0\x1e\0\0\0\2\2\1\0", Notification(2, 4)),
        (b"\4\xfd\xe9\0\x1e\0\0\0\2\5\2\0", Notification(2, 0)),
        (b"\4\xfd\xe9\0\x1e\0\0\0\2\4\2\2\x40\4", Notification(2, 0)),
        (b"\4\xfd\xe9\0\x1e\0\0\0\2\xff\xff", Notification(2, 0)),
        (b"\4\xfd\xe9\0\x1e\0\0\0\2\4\2\2\x40\0", Notification(2, 0)),
    ],
)
def test_malformed_open_ends_the_session(body: bytes, notification: Notification) -> None:
    """Version, parameter types and lengths are checked (RFC 4271 §6.2, RFC 5492, RFC 9072)."""
    assert notification == garbage(message(1, body), codec(65001)).notification


@pytest.mark.parametrize("length", [b"\xff", b"\x09", b"\x01"])
def test_long_parameters_are_told_by_their_type(length: bytes) -> None:
    """The one-octet length before type 255 does not count, unless it is 0 (RFC 9072 §2)."""
    body = b"\4\xfd\xe9\0\x1e\0\0\0\2" + length + b"\xff\0\x09\2\0\6\1\4\0\2\0\1"
    (negotiated,) = codec(65001).feed(message(1, body), 0.0)
    assert isinstance(negotiated, Negotiated)
    assert (Family.IPV6,) == negotiated.received.capabilities.families


# ── the header and the small messages ────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "notification"),
    [
        (b"\xff" * 15 + b"\0\0\x13\4", Notification(1, 1)),
        (b"\xff" * 16 + b"\0\x12\4", Notification(1, 2, b"\0\x12")),
        (b"\xff" * 16 + b"\x10\x01\2", Notification(1, 2, b"\x10\x01")),
        (b"\xff" * 16 + b"\0\x14\4\0", Notification(1, 2, b"\0\x14")),
        (b"\xff" * 16 + b"\0\x16\2", Notification(1, 2, b"\0\x16")),
        (b"\xff" * 16 + b"\0\x13\3", Notification(1, 2, b"\0\x13")),
        (b"\xff" * 16 + b"\0\x1c\1", Notification(1, 2, b"\0\x1c")),
        (b"\xff" * 16 + b"\0\x13\x06", Notification(1, 3, b"\6")),
    ],
)
def test_header_errors_have_their_data(data: bytes, notification: Notification) -> None:
    """Marker, length and type are checked before anything else (RFC 4271 §6.1)."""
    assert notification == garbage(data).notification


EXTENDED = replace(BOTH, extended_message=True)


def long_update(size: int) -> bytes:
    """Return an UPDATE of exactly so many octets, of an unknown attribute and prefixes."""
    filler = size - 23 - len(GOOD) - 4 - 5
    return update(GOOD + b"\xd0\x63" + filler.to_bytes(2, "big") + bytes(filler), b"\x20\x0a\0\0\1")


@pytest.mark.parametrize("chunk", [1 << 16, 1000])
@pytest.mark.parametrize("size", [4096, 4097, 65535])
def test_extended_messages_are_taken_where_we_said_so(size: int, chunk: int) -> None:
    """What counts is our capability: its receiver may send such messages, whatever it takes itself (RFC 8654 §4)."""
    made = codec(ours=replace(OURS, capabilities=EXTENDED))
    made.feed(octets(THEIRS), 0.0)
    data = long_update(size)
    assert len(data) == size
    said = [each for at in range(0, size, chunk) for each in made.feed(data[at : at + chunk], 0.0)]
    assert [[parse_nlri("10.0.0.1/32")]] == [each.announced for each in said if isinstance(each, Routes)]
    assert [Keepalive()] == made.feed(octets(Keepalive()), 0.0)


def test_extended_messages_are_refused_where_we_did_not_say_so() -> None:
    """Then the length is a bad one, also of a peer that takes them (RFC 8654 §5)."""
    made = established(theirs=replace(THEIRS, capabilities=EXTENDED))
    assert Notification(1, 2, b"\x10\x01") == garbage(long_update(4097), made).notification


@pytest.mark.parametrize(("kind", "size"), [(1, 4097), (4, 20), (4, 65535)])
def test_open_and_keepalive_are_never_extended(kind: int, size: int) -> None:
    """They have no longer form, whatever was agreed (RFC 8654 §4)."""
    made = codec(ours=replace(OURS, capabilities=EXTENDED))
    made.feed(octets(replace(THEIRS, capabilities=EXTENDED)), 0.0)
    assert Notification(1, 2, size.to_bytes(2, "big")) == garbage(message(kind, bytes(size - 19)), made).notification


def test_long_sets_are_decoded_and_not_kept() -> None:
    """A peer that sends attributes of 60,000 octets again and again fills no table of ours with them."""
    made = codec(ours=replace(OURS, capabilities=EXTENDED))
    made.feed(octets(THEIRS), 0.0)
    before = len(made._table.sets)
    first, second = made.feed(long_update(60_000) + long_update(60_000), 0.0)
    assert isinstance(first, Routes)
    assert isinstance(second, Routes)
    assert first.attributes is not None
    assert second.attributes is not None
    assert first.attributes.same_as(second.attributes)
    assert before == len(made._table.sets)


@pytest.mark.parametrize(
    "sent",
    [
        Keepalive(),
        RouteRefresh(Family.IPV6),
        EndOfRib(Family.IPV4),
        EndOfRib(Family.IPV6),
        Notification.cease(Cease.ADMIN_SHUTDOWN, "moving racks — soon"),
        Notification(1, 2, b"\0\x12"),
    ],
)
def test_messages_come_back_as_they_were(sent: Message) -> None:
    """What is encoded decodes to itself."""
    assert [sent] == established().feed(octets(sent), 0.0)


def test_route_refresh_of_another_length_ends_the_session() -> None:
    """The NOTIFICATION carries the whole message (RFC 7313 §5)."""
    data = message(5, b"\0\1\0\1\0")
    assert Notification(7, 1, data) == garbage(data).notification


@pytest.mark.parametrize("body", [b"\0\1\1\1", b"\0\1\2\1", b"\0\1\7\1", b"\0\x19\0\x46"])
def test_other_refreshes_are_ignored(body: bytes) -> None:
    """Other subtypes (RFC 7313 §5) and families that were not agreed (RFC 2918 §4) ask for nothing."""
    assert established().feed(message(5, body), 0.0) == []


@pytest.mark.parametrize("family", [Family.IPV4, Family.IPV6], ids=lambda family: family.label)
@pytest.mark.parametrize("kind", list(Refresh))
def test_begin_and_end_of_a_refresh_are_heard_where_both_know_them(kind: Refresh, family: Family) -> None:
    """BoRR and EoRR come back as they were; of a peer that did not offer them they mean nothing (RFC 7313 §4)."""
    enhanced = replace(BOTH, enhanced_refresh=True)
    said = octets(RouteRefresh(family, kind))
    for offered, theirs, is_heard in ((enhanced, enhanced, True), (enhanced, BOTH, False), (BOTH, enhanced, False)):
        made = codec(ours=replace(OURS, capabilities=offered))
        made.feed(octets(replace(THEIRS, capabilities=theirs)), 0.0)
        expected = [RouteRefresh(family, kind)] if is_heard or kind is Refresh.REQUEST else []
        assert expected == made.feed(said, 0.0)


def test_update_before_open_ends_the_session() -> None:
    """Without an OPEN nothing says how to read it (RFC 6608)."""
    assert Notification(5, 1) == garbage(update(b""), codec()).notification


def test_nothing_is_decoded_behind_garbage() -> None:
    """The session is over with the first error."""
    made = established()
    first, second = made.feed(octets(Keepalive()) + b"\0" * 19 + octets(Keepalive()), 0.0)
    assert Keepalive() == first
    assert isinstance(second, Garbage)
    assert made.feed(octets(Keepalive()), 0.0) == []


# ── UPDATE ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "notification"),
    [
        (message(2, b"\0\5\0\0"), Notification(3, 1)),
        (message(2, b"\0\0\0\5"), Notification(3, 1)),
        (update(GOOD, b"\x21\x0a\0\0\1\0"), Notification(3, 10)),
        (update(GOOD, b"\x20\x0a\0\0"), Notification(3, 10)),
        (update(b"", b"", b"\x18\x0a\0"), Notification(3, 10)),
        (update(GOOD + b"\x40\x63\1\7", b"\x08\x0a"), Notification(3, 2, b"\x40\x63\1\7")),
        (update(b"\x80\x0e\3\0\2\1"), Notification(3, 9, b"\x80\x0e\3\0\2\1")),
    ],
)
def test_update_errors_that_end_the_session(data: bytes, notification: Notification) -> None:
    """Lengths inside, prefixes (RFC 7606 §5.3) and unknown well-known attributes (RFC 4271 §6.3)."""
    assert notification == garbage(data).notification


def test_attribute_beyond_the_end_withdraws() -> None:
    """An attribute that is longer than the attributes are withdraws the prefixes (RFC 7606 §4)."""
    (said,) = established().feed(update(GOOD + b"\xc0\x08\x08\0\0\0\0", b"\x08\x0a", b"\x08\x0b"), 0.0)
    assert isinstance(said, Routes)
    assert ([parse_nlri("11.0.0.0/8"), parse_nlri("10.0.0.0/8")], 1) == (said.withdrawn, said.treated_as_withdraw)
    assert said.attributes is None


REACH = bytes.fromhex("800e1e00020110" + "20010db8000000000000000000000002" + "004020010db800010000")


@pytest.mark.parametrize(
    ("attributes", "withdrawn"),
    [
        (b"\x40\1\5\0" + REACH, b""),
        (b"\x40\1\1\0\x40\2\xff", b"\x08\x0b"),
        (b"\x40\1\1\7", b"\x08\x0b"),
        (b"\x40\1\1\7" + b"\x80\x0f\3\0\2\1", b""),
    ],
    ids=["MP_REACH_NLRI swallowed", "cut short", "malformed", "beside an empty MP_UNREACH_NLRI"],
)
def test_malformed_attributes_without_prefixes_end_the_session(attributes: bytes, withdrawn: bytes) -> None:
    """What such an UPDATE announced may be lost, and an older path of it must not stay (RFC 7606 §5.2)."""
    assert Notification(3, 1) == garbage(update(attributes, b"", withdrawn)).notification


@pytest.mark.parametrize("attributes", [GOOD, GOOD + b"\x40\6\1\0", b"\x40\1\1\0"])
def test_sound_attributes_without_prefixes_say_nothing(attributes: bytes) -> None:
    """Attributes that nothing goes with are no error, not even with one to discard, nor with others missing."""
    assert established().feed(update(attributes), 0.0) == []
    (said,) = established().feed(update(attributes, b"", b"\x08\x0b"), 0.0)
    assert isinstance(said, Routes)
    assert [parse_nlri("11.0.0.0/8")] == said.withdrawn


def test_as_0_in_as4_path_discards_it() -> None:
    """AS4_PATH is dropped where it is malformed, and the path stays (RFC 7607 §2, RFC 6793 §6)."""
    old = replace(THEIRS, capabilities=replace(BOTH, four_octet_asn=False))
    path = b"\x40\1\1\0" + b"\x40\2\6\2\2\xfd\xe9\x5b\xa0" + b"\x40\3\4\xc0\0\2\1"
    (said,) = established(65001, old).feed(update(path + b"\xc0\x11\6\2\1\0\0\0\0", b"\x08\x0a"), 0.0)
    assert isinstance(said, Routes)
    assert said.attributes is not None
    assert (str(said.attributes.as_path), said.attributes_discarded) == ("65001 23456", 1)


def test_a_full_message_that_is_malformed_is_not_read_prefix_by_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """ExaBGP sees one prefix of each sound field, or a message of 65,000 would hold everybody up for seconds."""
    seen: list[bytes] = []
    unpack = ExaMessage.unpack

    def noting(kind: int, body: bytes, *rest: object) -> object:
        seen.append(body)
        return unpack(kind, body, *rest)

    made = codec(ours=replace(OURS, capabilities=EXTENDED))
    made.feed(octets(THEIRS), 0.0)
    monkeypatch.setattr(ExaMessage, "unpack", noting)
    keys = [bytes((24, 10)) + number.to_bytes(2, "big") for number in range(9000)]
    malformed = update(b"\x40\1\1\7" + GOOD[4:] + REACH, b"".join(keys[:4500]), b"".join(keys[4500:]))
    (said,) = made.feed(malformed, 0.0)
    assert isinstance(said, Routes)
    assert said.treated_as_withdraw == 1
    assert len(said.withdrawn) == 9000 + 1
    assert len(seen) == 1
    assert len(seen[0]) < 100


def test_bits_behind_the_prefix_are_cleared() -> None:
    """One prefix has one key, whatever a peer leaves in the bits that do not count."""
    (said,) = established().feed(update(GOOD, b"\x0a\x0a\xff" + b"\x1f\x0a\0\0\1"), 0.0)
    assert isinstance(said, Routes)
    assert [parse_nlri("10.192.0.0/10"), parse_nlri("10.0.0.0/31")] == said.announced


def test_equal_bytes_are_one_object_over_connections() -> None:
    """Two connections of one class share their attribute sets."""
    data = update(GOOD, b"\x08\x0a")
    first, second = established().feed(data, 0.0) + established().feed(data, 0.0)
    assert isinstance(first, Routes)
    assert isinstance(second, Routes)
    assert first.attributes is second.attributes


def test_classes_do_not_share() -> None:
    """LOCAL_PREF counts from an internal peer and is discarded from an external one, though the bytes are equal."""
    data = update(GOOD, b"\x08\x0a")
    inside, outside = established().feed(data, 0.0) + established(65001).feed(data, 0.0)
    assert isinstance(inside, Routes)
    assert isinstance(outside, Routes)
    assert inside.attributes is not None
    assert outside.attributes is not None
    assert (inside.attributes.local_pref, inside.attributes_discarded) == (100, 0)
    assert (outside.attributes.local_pref, outside.attributes_discarded) == (None, 1)


@pytest.mark.parametrize(("asn", "withdrawn"), [(65001, 0), (65002, 1)])
def test_first_as_is_the_peers_where_that_is_enforced(asn: int, withdrawn: int) -> None:
    """A path that does not begin with the external peer's AS withdraws (RFC 4271 §6.3, RFC 7606 §7.2)."""
    peer = Peer(PeerName("peer"), ADDRESS, Asn(asn), Role.EXTERNAL, ADDRESS, OURS.asn, OURS.router_id)
    made = Codec(replace(peer, enforce_first_as=True))
    made.encode(OURS)
    made.feed(octets(replace(THEIRS, asn=Asn(asn))), 0.0)
    (said,) = made.feed(update(GOOD, b"\x08\x0a"), 0.0)
    assert isinstance(said, Routes)
    assert said.treated_as_withdraw == withdrawn


def test_interned_sets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that never repeats itself fills a table, not the memory."""
    monkeypatch.setattr(fastpath, "INTERNED_LIMIT", 64)
    monkeypatch.setattr(codec_module, "_TABLES", {})
    made = established()
    for number in range(300):
        made.feed(update(GOOD + b"\xc0\x08\x04" + number.to_bytes(4, "big"), b"\x08\x0a"), 0.0)
    tables = codec_module._TABLES.values()
    assert max(max(len(table.sets), len(table.clean)) for table in tables) <= 64


def test_ipv4_not_agreed_is_ignored() -> None:
    """Prefixes of a family that only they speak change nothing, and are told of."""
    made = established(theirs=replace(THEIRS, capabilities=Capabilities(families=(Family.IPV6,))))
    (said,) = made.feed(update(GOOD, b"\x08\x0a"), 0.0)
    assert isinstance(said, Routes)
    assert (said.announced, said.withdrawn) == ([], [])
    assert "not agreed" in said.problem


def test_agreed_family_beside_one_not_agreed_is_heard() -> None:
    """IPv4 prefixes that are ignored take no IPv6 prefixes of the same UPDATE with them."""
    made = established(theirs=replace(THEIRS, capabilities=Capabilities(families=(Family.IPV6,))))
    reach = b"\0\2\1\x10" + ipaddress.ip_address("2001:db8::1").packed + b"\0\x20\x20\1\x0d\xb8"
    (said,) = made.feed(update(b"\x80\x0e" + bytes((len(reach),)) + reach + GOOD, b"\x08\x0a"), 0.0)
    assert isinstance(said, Routes)
    assert said.announced == [parse_nlri("2001:db8::/32")]


def test_order_of_announcement_and_withdrawal_is_kept() -> None:
    """A prefix announced, withdrawn and announced again in one chunk ends announced."""
    announce, withdraw = update(GOOD, b"\x08\x0a"), update(b"", b"", b"\x08\x0a")
    table: set[bytes] = set()
    for said in established().feed(announce + announce + withdraw + announce, 0.0):
        assert isinstance(said, Routes)
        table = (table - set(said.withdrawn)) | set(said.announced)
    assert {parse_nlri("10.0.0.0/8")} == table


# ── batches ──────────────────────────────────────────────────────────────────


def test_batch_is_encoded_once_for_its_group() -> None:
    """The bytes of the first peer of an update group are those of the others."""
    batch = Batch(Family.IPV4, PathAttributes(next_hop=ADDRESS), [parse_nlri("10.0.0.0/8")])
    first, second = established(), established()
    assert first.encode_batch(batch) is second.encode_batch(batch)


def test_large_batch_is_split_at_the_message_size() -> None:
    """No UPDATE is longer than 4,096 octets, and none is wasted."""
    keys = [parse_nlri(f"10.{number >> 8}.{number & 255}.0/24") for number in range(3000)]
    updates = established().encode_batch(Batch(Family.IPV4, PathAttributes(next_hop=ADDRESS), keys))
    assert [4096 - len(octets_) < 4 for octets_ in updates[:-1]] == [True] * (len(updates) - 1)
    assert len(updates) == 3


@pytest.mark.parametrize("family", [Family.IPV4, Family.IPV6], ids=lambda family: family.label)
def test_a_peer_that_takes_extended_messages_gets_full_ones(family: Family) -> None:
    """UPDATEs are filled up to 65,535 octets, of announcements and of withdrawals (RFC 8654 §4)."""
    hop, width = (ADDRESS, 5) if family is Family.IPV4 else (ipaddress.ip_address("2001:db8::1"), 17)
    keys = [
        Nlri(bytes((8 * width - 8,)) + number.to_bytes(width - 1, "big"))
        for number in range(1 << 24, 20_000 + (1 << 24))
    ]
    made = established(theirs=replace(THEIRS, capabilities=EXTENDED))
    for attributes in (PathAttributes(next_hop=hop), None):
        updates = made.encode_batch(Batch(family, attributes, keys))
        assert [65535 - len(sent) < width for sent in updates[:-1]] == [True] * (len(updates) - 1)
        assert max(map(len, updates)) <= 65535
        reader = codec(ours=replace(OURS, capabilities=EXTENDED))
        reader.feed(octets(THEIRS), 0.0)
        heard = [said for said in reader.feed(b"".join(updates), 0.0) if isinstance(said, Routes)]
        assert keys == [key for said in heard for key in (said.announced if attributes else said.withdrawn)]


def test_long_attributes_go_to_who_takes_extended_messages() -> None:
    """The same path is announced to such a peer, and withdrawn from another."""
    large = PathAttributes(next_hop=ADDRESS, communities=tuple(range(5000)))
    batch = Batch(Family.IPV4, large, [parse_nlri("10.0.0.0/8")])
    made = established(theirs=replace(THEIRS, capabilities=EXTENDED))
    (sent,) = made.encode_batch(batch)
    reader = codec(ours=replace(OURS, capabilities=EXTENDED))
    reader.feed(octets(THEIRS), 0.0)
    (said,) = reader.feed(sent, 0.0)
    assert isinstance(said, Routes)
    assert said.attributes is not None
    assert said.attributes.communities == large.communities


def test_attributes_too_long_for_a_prefix_withdraw_it() -> None:
    """A route that cannot be told is withdrawn: the peer must not keep what it had."""
    large = PathAttributes(next_hop=ADDRESS, communities=tuple(range(1020)))
    (sent,) = established().encode_batch(Batch(Family.IPV4, large, [parse_nlri("10.0.0.0/8")]))
    (said,) = established().feed(sent, 0.0)
    assert isinstance(said, Routes)
    assert [parse_nlri("10.0.0.0/8")] == said.withdrawn


@pytest.mark.parametrize("four_octet_asn", [True, False])
def test_a_path_that_has_grown_beyond_any_attribute_is_withdrawn(four_octet_asn: bool) -> None:
    """AS_PATH of an extended message in two octets each does not fit in four, as AS_PATH or as AS4_PATH."""
    path = AsPath(tuple((SegmentKind.SEQUENCE, (Asn(65001),) * 254 + (Asn(70000),)) for _ in range(65)))
    theirs = replace(THEIRS, capabilities=replace(EXTENDED, four_octet_asn=four_octet_asn))
    batch = Batch(Family.IPV4, PathAttributes(as_path=path, next_hop=ADDRESS), [parse_nlri("10.0.0.0/8")])
    (sent,) = established(theirs=theirs).encode_batch(batch)
    (said,) = established().feed(sent, 0.0)
    assert isinstance(said, Routes)
    assert [parse_nlri("10.0.0.0/8")] == said.withdrawn


def test_two_octet_peer_gets_as_trans_and_as4_path() -> None:
    """Confederation segments stay out of AS4_PATH (RFC 6793 §4.2.2)."""
    path = AsPath(
        ((SegmentKind.CONFED_SEQUENCE, (Asn(64513),)), (SegmentKind.SEQUENCE, (Asn(65001), Asn(70000)))),
    )
    old = replace(THEIRS, capabilities=replace(BOTH, four_octet_asn=False))
    attributes = PathAttributes(as_path=path, next_hop=ADDRESS)
    (sent,) = established(theirs=old).encode_batch(Batch(Family.IPV4, attributes, [parse_nlri("10.0.0.0/8")]))
    assert bytes.fromhex("40020a" + "0301fc01" + "0202fde95ba0") in sent
    assert bytes.fromhex("c0110a" + "02020000fde900011170") in sent


def test_nobody_is_asked_for_our_name() -> None:
    """ExaBGP would look it up while it is imported, and a start wait for a resolver that does not answer."""
    program = (
        "import socket\n"
        "def ask(*_): raise AssertionError\n"
        "socket.getfqdn = socket.gethostbyaddr = socket.getaddrinfo = ask\n"
        "import bgpmesh.wire.codec"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
