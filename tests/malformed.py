"""What can be wrong with an UPDATE, attribute by attribute, and what is to come of it: the table of RFC 7606.

Each row is one UPDATE over one kind of session, the section that says what to do, and that. The same rows go through
the codec and the session machine (tests/unit/wire/test_malformed.py) and over TCP to a daemon
(tests/lab/test_malformed.py). Before an UPDATE of the table its sender has announced the same prefix, with the origin
INCOMPLETE; what the table says has IGP.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field

from tests.bench.feeder import message, update

ASN = 64512  # ours
UPDATE = 2

# The prefix of every row; each row has one of its own where they meet in one table.
PREFIX, PREFIX6 = "198.51.100.0/32", "2001:db8:64::/128"
_PLACE, _PLACE6 = bytes.fromhex("20c6336400"), bytes.fromhex("80") + ipaddress.ip_address("2001:db8:64::").packed

WELL_KNOWN, OPTIONAL, TRANSITIVE = 0x40, 0x80, 0xC0
(ORIGIN, AS_PATH, NEXT_HOP, MED, LOCAL_PREF, ATOMIC_AGGREGATE, AGGREGATOR, COMMUNITIES, ORIGINATOR_ID, CLUSTER_LIST) = (
    range(1, 11)
)
MP_REACH, MP_UNREACH, EXT_COMMUNITIES, AS4_PATH, AS4_AGGREGATOR = 14, 15, 16, 17, 18
IPV6_EXT_COMMUNITIES, LARGE_COMMUNITIES, ONLY_TO_CUSTOMER = 25, 32, 35


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends: a neighbour outside, one inside, and one outside that knows no four-octet AS numbers."""

    name: str
    address: str
    asn: int
    is_two_octet: bool = False

    @property
    def is_external(self) -> bool:
        """Whether it is of another AS than we are."""
        return self.asn != ASN

    @property
    def attributes(self) -> dict[int, bytes]:
        """What goes with a prefix of it where nothing is wrong."""
        width = "H" if self.is_two_octet else "I"
        path = struct.pack(f"!BB{width}", 2, 1, self.asn) if self.is_external else b""
        said = {
            ORIGIN: a(WELL_KNOWN, ORIGIN, b"\0"),
            AS_PATH: a(WELL_KNOWN, AS_PATH, path),
            NEXT_HOP: a(WELL_KNOWN, NEXT_HOP, ipaddress.ip_address(self.address).packed),
        }
        return said if self.is_external else said | {LOCAL_PREF: a(WELL_KNOWN, LOCAL_PREF, number(100))}


OUTSIDE = Sender("outside", "10.0.0.2", 65002)
INSIDE = Sender("inside", "10.0.0.4", ASN)
OLD = Sender("old", "10.0.0.5", 65005, is_two_octet=True)


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is to come of an UPDATE, and how often it counts."""

    name: str
    treated_as_withdraw: int = 0
    attributes_discarded: int = 0
    notification: tuple[int, int] = (0, 0)  # what ends the session, code and subcode


def reset(code: int, subcode: int) -> Treatment:
    """Return the end of a session with this NOTIFICATION."""
    return Treatment("session reset", notification=(code, subcode))


ACCEPT = Treatment("accepted")
WITHDRAW = Treatment("treat-as-withdraw", treated_as_withdraw=1)
DISCARD = Treatment("attribute discard", attributes_discarded=1)
LIST, UNKNOWN, OPTIONAL_ERROR, NETWORK = reset(3, 1), reset(3, 2), reset(3, 9), reset(3, 10)


@dataclass(frozen=True, slots=True)
class Row:
    """One UPDATE: the attributes of `sender` with these in place of its own (b"": without it), and `more` behind them.

    `reach` and `unreach` are the values of the MP attributes, and make it one of IPv6. `body` stands for all of that.
    """

    name: str
    section: str
    treatment: Treatment
    words: str = ""  # what the reason names
    attributes: dict[int, bytes] = field(default_factory=dict)
    more: bytes = b""
    sender: Sender = OUTSIDE
    reach: bytes | None = None
    unreach: bytes | None = None
    mp_flags: int = OPTIONAL
    withdrawn: bytes = b""
    nlri: bytes = _PLACE
    body: bytes = b""

    @property
    def is_ipv6(self) -> bool:
        """Whether its prefix is of IPv6."""
        return self.reach is not None or self.unreach is not None

    def prefix(self, number: int = 0) -> str:
        """Return the prefix it is about, as number so-and-so."""
        network = ipaddress.ip_network(PREFIX6 if self.is_ipv6 else PREFIX)
        return f"{network.network_address + number}/{network.prefixlen}"

    def before(self, number: int = 0) -> bytes:
        """Return the sound UPDATE that goes before it."""
        said = self.sender.attributes | {ORIGIN: a(WELL_KNOWN, ORIGIN, b"\2")}
        if self.is_ipv6:
            said = {MP_REACH: a(OPTIONAL, MP_REACH, reach())} | said
            del said[NEXT_HOP]
        sound = update(b"", b"".join(said.values()), b"" if self.is_ipv6 else _PLACE)
        return _about(sound, number)

    def update(self, number: int = 0) -> bytes:
        """Return the UPDATE."""
        if self.body:
            return _about(message(UPDATE, self.body), number)
        said = self.sender.attributes | self.attributes
        if self.is_ipv6 and NEXT_HOP not in self.attributes:
            del said[NEXT_HOP]
        if self.unreach is not None:
            said = dict(self.attributes)
        if self.unreach is not None:
            said = {MP_UNREACH: a(self.mp_flags, MP_UNREACH, self.unreach)} | said
        if self.reach is not None:
            said = {MP_REACH: a(self.mp_flags, MP_REACH, self.reach)} | said
        nlri = b"" if self.is_ipv6 else self.nlri
        return _about(update(self.withdrawn, b"".join(said.values()) + self.more, nlri), number)


def _about(data: bytes, number: int) -> bytes:
    """Return an UPDATE with its prefix as number so-and-so."""
    for place in (_PLACE, _PLACE6):
        moved = (int.from_bytes(place[1:], "big") + number).to_bytes(len(place) - 1, "big")
        data = data.replace(place, place[:1] + moved)
    return data


def a(flags: int, code: int, value: bytes) -> bytes:
    """Return an attribute with one octet of length."""
    return bytes((flags, code, len(value))) + value


def number(value: int) -> bytes:
    """Return four octets."""
    return value.to_bytes(4, "big")


HOP6 = ipaddress.ip_address("2001:db8::2").packed


def reach(next_hop: bytes = HOP6, nlri: bytes = _PLACE6, family: bytes = b"\0\2\1", reserved: bytes = b"\0") -> bytes:
    """Return the value of MP_REACH_NLRI."""
    return family + bytes((len(next_hop),)) + next_hop + reserved + nlri


def path(*segments: tuple[int, tuple[int, ...]], width: str = "I") -> bytes:
    """Return AS_PATH segments, each of a kind and AS numbers."""
    return b"".join(struct.pack(f"!BB{len(asns)}{width}", kind, len(asns), *asns) for kind, asns in segments)


def as_path(value: bytes) -> dict[int, bytes]:
    """Return AS_PATH with this value."""
    return {AS_PATH: a(WELL_KNOWN, AS_PATH, value)}


def hop(address: str) -> dict[int, bytes]:
    """Return NEXT_HOP."""
    return {NEXT_HOP: a(WELL_KNOWN, NEXT_HOP, ipaddress.ip_address(address).packed)}


FIRST = (2, (65002,))
AGGREGATED = number(65002) + bytes((192, 0, 2, 7))
SPEAKER = bytes((192, 0, 2, 7))
COMMUNITY, EXT_COMMUNITY, LARGE_COMMUNITY = bytes(4), b"\0\2" + bytes(6), bytes(12)
SOUND = OUTSIDE.attributes
ALL = b"".join(SOUND.values())

ROWS: tuple[Row, ...] = (
    # ── ORIGIN ──
    Row("origin-optional", "7606 §3 c", WITHDRAW, "origin", {ORIGIN: a(TRANSITIVE, ORIGIN, b"\0")}),
    Row("origin-non-transitive", "7606 §3 c", WITHDRAW, "origin", {ORIGIN: a(0, ORIGIN, b"\0")}),
    Row("origin-partial", "7606 §3 c", ACCEPT, "", {ORIGIN: a(0x60, ORIGIN, b"\0")}),
    Row("origin-unused-bits", "4271 §4.3", ACCEPT, "", {ORIGIN: a(0x4F, ORIGIN, b"\0")}),
    Row("origin-extended-length", "4271 §4.3", ACCEPT, "", {ORIGIN: b"\x50\1\0\1\0"}),
    Row("origin-empty", "7606 §7.1", WITHDRAW, "origin", {ORIGIN: a(WELL_KNOWN, ORIGIN, b"")}),
    Row("origin-two-octets", "7606 §7.1", WITHDRAW, "origin", {ORIGIN: a(WELL_KNOWN, ORIGIN, b"\0\0")}),
    Row("origin-3", "7606 §7.1", WITHDRAW, "origin", {ORIGIN: a(WELL_KNOWN, ORIGIN, b"\3")}),
    Row("origin-twice", "7606 §3 g", DISCARD, "attribute 1", more=a(WELL_KNOWN, ORIGIN, b"\1")),
    Row("origin-missing", "7606 §3 d", WITHDRAW, "origin", {ORIGIN: b""}),
    # ── AS_PATH ──
    Row("as_path-optional", "7606 §3 c", WITHDRAW, "as_path", {AS_PATH: a(TRANSITIVE, AS_PATH, path(FIRST))}),
    Row("as_path-segment-0", "7606 §7.2", WITHDRAW, "as_path", as_path(path(FIRST, (0, (1,))))),
    Row("as_path-segment-5", "7606 §7.2", WITHDRAW, "as_path", as_path(path(FIRST, (5, (1,))))),
    Row("as_path-overrun", "7606 §7.2", WITHDRAW, "as_path", as_path(path(FIRST) + b"\2\2" + bytes(7))),
    Row("as_path-underrun", "7606 §7.2", WITHDRAW, "as_path", as_path(path(FIRST) + b"\2")),
    Row("as_path-empty-segment", "7606 §7.2", WITHDRAW, "as_path", as_path(path(FIRST, (2, ())))),
    Row("as_path-as-0", "7607 §2", WITHDRAW, "as_path", as_path(path(FIRST, (2, (0,))))),
    Row("as_path-confed-sequence", "5065 §5", WITHDRAW, "as_path", as_path(path(FIRST, (3, (64513,))))),
    Row("as_path-confed-set", "5065 §5", WITHDRAW, "as_path", as_path(path(FIRST, (4, (64513,))))),
    Row("as_path-confed-sequence-first", "5065 §5", WITHDRAW, "as_path", as_path(path((3, (64513,)), FIRST))),
    Row("as_path-other-first-as", "7606 §7.2", WITHDRAW, "as_path", as_path(path((2, (65009, 65002))))),
    Row("as_path-empty", "7606 §7.2", WITHDRAW, "as_path", as_path(b"")),
    Row("as_path-missing", "7606 §3 d", WITHDRAW, "as_path", {AS_PATH: b""}),
    Row("as_path-set", "4271 §4.3", ACCEPT, "", as_path(path(FIRST, (1, (65003, 65004))))),
    Row("as_path-twice", "7606 §3 g", DISCARD, "attribute 2", more=a(WELL_KNOWN, AS_PATH, b"\2")),
    # ── NEXT_HOP ──
    Row("next_hop-optional", "7606 §3 c", WITHDRAW, "next_hop", {NEXT_HOP: a(OPTIONAL, NEXT_HOP, b"\x0a\0\0\2")}),
    Row("next_hop-empty", "7606 §7.3", WITHDRAW, "next_hop", {NEXT_HOP: a(WELL_KNOWN, NEXT_HOP, b"")}),
    Row("next_hop-three-octets", "7606 §7.3", WITHDRAW, "next_hop", {NEXT_HOP: a(WELL_KNOWN, NEXT_HOP, b"\x0a\0\0")}),
    Row("next_hop-five-octets", "7606 §7.3", WITHDRAW, "next_hop", {NEXT_HOP: a(WELL_KNOWN, NEXT_HOP, bytes(5))}),
    Row("next_hop-eight-octets", "7606 §7.3", WITHDRAW, "next_hop", {NEXT_HOP: a(WELL_KNOWN, NEXT_HOP, bytes(8))}),
    Row("next_hop-unspecified", "4271 §6.3", WITHDRAW, "next_hop", hop("0.0.0.0")),
    Row("next_hop-multicast", "4271 §6.3", WITHDRAW, "next_hop", hop("224.0.0.5")),
    Row("next_hop-reserved", "4271 §6.3", WITHDRAW, "next_hop", hop("240.0.0.1")),
    Row("next_hop-broadcast", "4271 §6.3", WITHDRAW, "next_hop", hop("255.255.255.255")),
    Row("next_hop-missing", "7606 §3 d", WITHDRAW, "next_hop", {NEXT_HOP: b""}),
    Row("next_hop-twice", "7606 §3 g", DISCARD, "attribute 3", more=a(WELL_KNOWN, NEXT_HOP, b"")),
    # ── MULTI_EXIT_DISC ──
    Row("med-transitive", "7606 §3 c", WITHDRAW, "med", {MED: a(TRANSITIVE, MED, number(7))}),
    Row("med-well-known", "7606 §3 c", WITHDRAW, "med", {MED: a(WELL_KNOWN, MED, number(7))}),
    Row("med-empty", "7606 §7.4", WITHDRAW, "med", {MED: a(OPTIONAL, MED, b"")}),
    Row("med-three-octets", "7606 §7.4", WITHDRAW, "med", {MED: a(OPTIONAL, MED, bytes(3))}),
    Row("med-five-octets", "7606 §7.4", WITHDRAW, "med", {MED: a(OPTIONAL, MED, bytes(5))}),
    Row("med-twice", "7606 §3 g", DISCARD, "attribute 4", more=a(OPTIONAL, MED, number(7)) + a(OPTIONAL, MED, b"")),
    # ── LOCAL_PREF ──
    Row("local_pref-from-outside", "7606 §7.5", DISCARD, "local_pref", {5: a(WELL_KNOWN, LOCAL_PREF, number(9))}),
    Row("local_pref-from-outside-short", "7606 §7.5", DISCARD, "local_pref", {5: a(WELL_KNOWN, LOCAL_PREF, b"\0")}),
    Row("local_pref-from-outside-flags", "7606 §7.5", DISCARD, "local_pref", {5: a(OPTIONAL, LOCAL_PREF, number(9))}),
    Row("local_pref-empty", "7606 §7.5", WITHDRAW, "local_pref", {5: a(WELL_KNOWN, LOCAL_PREF, b"")}, sender=INSIDE),
    Row(
        "local_pref-short", "7606 §7.5", WITHDRAW, "local_pref", {5: a(WELL_KNOWN, LOCAL_PREF, bytes(3))}, sender=INSIDE
    ),
    Row("local_pref-optional", "7606 §3 c", WITHDRAW, "local_pref", {5: a(OPTIONAL, 5, number(9))}, sender=INSIDE),
    Row("local_pref-twice", "7606 §3 g", DISCARD, "attribute 5", more=a(WELL_KNOWN, LOCAL_PREF, b""), sender=INSIDE),
    Row("local_pref-missing", "none: as BIRD does", ACCEPT, "", {LOCAL_PREF: b""}, sender=INSIDE),
    # ── ATOMIC_AGGREGATE ──
    Row("atomic_aggregate-one-octet", "7606 §7.6", DISCARD, "atomic_aggregate", more=a(WELL_KNOWN, 6, b"\0")),
    Row("atomic_aggregate-optional", "7606 §3 c", WITHDRAW, "atomic_aggregate", more=a(TRANSITIVE, 6, b"")),
    Row("atomic_aggregate-twice", "7606 §3 g", DISCARD, "attribute 6", more=a(WELL_KNOWN, 6, b"") * 2),
    # ── AGGREGATOR ──
    Row("aggregator-six-octets", "7606 §7.7", DISCARD, "aggregator", more=a(TRANSITIVE, AGGREGATOR, AGGREGATED[2:])),
    Row("aggregator-empty", "7606 §7.7", DISCARD, "aggregator", more=a(TRANSITIVE, AGGREGATOR, b"")),
    Row("aggregator-as-0", "7607 §2", DISCARD, "aggregator", more=a(TRANSITIVE, AGGREGATOR, bytes(4) + SPEAKER)),
    Row("aggregator-well-known", "7606 §3 c", WITHDRAW, "aggregator", more=a(WELL_KNOWN, AGGREGATOR, AGGREGATED)),
    Row("aggregator-twice", "7606 §3 g", DISCARD, "attribute 7", more=a(TRANSITIVE, AGGREGATOR, AGGREGATED) * 2),
    Row(
        "aggregator-eight-octets-of-old",
        "7606 §7.7",
        DISCARD,
        "aggregator",
        more=a(TRANSITIVE, AGGREGATOR, AGGREGATED),
        sender=OLD,
    ),
    # ── COMMUNITIES ──
    Row("communities-empty", "7606 §7.8", WITHDRAW, "communities", more=a(TRANSITIVE, COMMUNITIES, b"")),
    Row("communities-three-octets", "7606 §7.8", WITHDRAW, "communities", more=a(TRANSITIVE, COMMUNITIES, bytes(3))),
    Row("communities-six-octets", "7606 §7.8", WITHDRAW, "communities", more=a(TRANSITIVE, COMMUNITIES, bytes(6))),
    Row("communities-non-transitive", "7606 §3 c", WITHDRAW, "communities", more=a(OPTIONAL, COMMUNITIES, COMMUNITY)),
    Row("communities-partial", "7606 §3 c", ACCEPT, "", more=a(0xE0, COMMUNITIES, COMMUNITY)),
    Row("communities-twice", "7606 §3 g", DISCARD, "attribute 8", more=a(TRANSITIVE, COMMUNITIES, COMMUNITY) * 2),
    # ── ORIGINATOR_ID, CLUSTER_LIST ──
    Row("originator_id-from-outside", "7606 §7.9", DISCARD, "originator_id", more=a(OPTIONAL, ORIGINATOR_ID, SPEAKER)),
    Row("originator_id-from-outside-short", "7606 §7.9", DISCARD, "originator_id", more=a(OPTIONAL, 9, bytes(3))),
    Row("originator_id-short", "7606 §7.9", WITHDRAW, "originator_id", more=a(OPTIONAL, 9, bytes(3)), sender=INSIDE),
    Row("originator_id-long", "7606 §7.9", WITHDRAW, "originator_id", more=a(OPTIONAL, 9, bytes(5)), sender=INSIDE),
    Row(
        "originator_id-transitive",
        "7606 §3 c",
        WITHDRAW,
        "originator_id",
        more=a(TRANSITIVE, 9, SPEAKER),
        sender=INSIDE,
    ),
    Row("originator_id-twice", "7606 §3 g", DISCARD, "attribute 9", more=a(OPTIONAL, 9, SPEAKER) * 2, sender=INSIDE),
    Row("cluster_list-from-outside", "7606 §7.10", DISCARD, "cluster_list", more=a(OPTIONAL, CLUSTER_LIST, SPEAKER)),
    Row("cluster_list-from-outside-short", "7606 §7.10", DISCARD, "cluster_list", more=a(OPTIONAL, 10, bytes(6))),
    Row("cluster_list-empty", "7606 §7.10", WITHDRAW, "cluster_list", more=a(OPTIONAL, 10, b""), sender=INSIDE),
    Row(
        "cluster_list-six-octets", "7606 §7.10", WITHDRAW, "cluster_list", more=a(OPTIONAL, 10, bytes(6)), sender=INSIDE
    ),
    Row(
        "cluster_list-transitive", "7606 §3 c", WITHDRAW, "cluster_list", more=a(TRANSITIVE, 10, SPEAKER), sender=INSIDE
    ),
    Row("cluster_list-twice", "7606 §3 g", DISCARD, "attribute 10", more=a(OPTIONAL, 10, SPEAKER) * 2, sender=INSIDE),
    # ── communities of other kinds ──
    Row("ext_communities-empty", "7606 §7.14", WITHDRAW, "ext_communities", more=a(TRANSITIVE, 16, b"")),
    Row("ext_communities-seven-octets", "7606 §7.14", WITHDRAW, "ext_communities", more=a(TRANSITIVE, 16, bytes(7))),
    Row(
        "ext_communities-non-transitive", "7606 §3 c", WITHDRAW, "ext_communities", more=a(OPTIONAL, 16, EXT_COMMUNITY)
    ),
    Row("ext_communities-twice", "7606 §3 g", DISCARD, "attribute 16", more=a(TRANSITIVE, 16, EXT_COMMUNITY) * 2),
    Row("ipv6_ext_communities", "5701 §2", ACCEPT, "", more=a(TRANSITIVE, IPV6_EXT_COMMUNITIES, bytes(40))),
    Row("ipv6_ext_communities-empty", "7606 §7.15", WITHDRAW, "ipv6_ext_communities", more=a(TRANSITIVE, 25, b"")),
    Row(
        "ipv6_ext_communities-short", "7606 §7.15", WITHDRAW, "ipv6_ext_communities", more=a(TRANSITIVE, 25, bytes(19))
    ),
    Row("ipv6_ext_communities-flags", "7606 §3 c", WITHDRAW, "ipv6_ext_communities", more=a(OPTIONAL, 25, bytes(20))),
    Row("large_communities-empty", "8092 §6", WITHDRAW, "large_communities", more=a(TRANSITIVE, 32, b"")),
    Row("large_communities-short", "8092 §6", WITHDRAW, "large_communities", more=a(TRANSITIVE, 32, bytes(11))),
    Row("large_communities-flags", "7606 §3 c", WITHDRAW, "large_communities", more=a(OPTIONAL, 32, LARGE_COMMUNITY)),
    Row("large_communities-twice", "7606 §3 g", DISCARD, "attribute 32", more=a(TRANSITIVE, 32, LARGE_COMMUNITY) * 2),
    # ── OTC ──
    Row("only_to_customer", "9234 §5", ACCEPT, "", more=a(TRANSITIVE, ONLY_TO_CUSTOMER, number(65002))),
    Row("only_to_customer-empty", "9234 §5", WITHDRAW, "only_to_customer", more=a(TRANSITIVE, 35, b"")),
    Row("only_to_customer-short", "9234 §5", WITHDRAW, "only_to_customer", more=a(TRANSITIVE, 35, bytes(3))),
    Row("only_to_customer-two", "9234 §5", WITHDRAW, "only_to_customer", more=a(TRANSITIVE, 35, bytes(8))),
    Row("only_to_customer-flags", "7606 §3 c", WITHDRAW, "only_to_customer", more=a(OPTIONAL, 35, number(65002))),
    Row("only_to_customer-twice", "7606 §3 g", DISCARD, "attribute 35", more=a(TRANSITIVE, 35, number(65002)) * 2),
    # ── AS4_PATH, AS4_AGGREGATOR ──
    Row("as4_path-of-new", "6793 §4.1", DISCARD, "as4_path", more=a(TRANSITIVE, AS4_PATH, path(FIRST))),
    Row("as4_aggregator-of-new", "6793 §4.1", DISCARD, "as4_aggregator", more=a(TRANSITIVE, 18, AGGREGATED)),
    Row("as4_path-flags", "7606 §3 c", WITHDRAW, "as4_path", more=a(OPTIONAL, AS4_PATH, path(FIRST)), sender=OLD),
    Row("as4_path-empty", "6793 §6", DISCARD, "as4_path", more=a(TRANSITIVE, AS4_PATH, b""), sender=OLD),
    Row("as4_path-cut", "6793 §6", DISCARD, "as4_path", more=a(TRANSITIVE, AS4_PATH, path(FIRST)[:-1]), sender=OLD),
    Row("as4_path-segment-9", "6793 §6", DISCARD, "as4_path", more=a(TRANSITIVE, 17, path((9, (1,)))), sender=OLD),
    Row("as4_path-empty-segment", "6793 §6", DISCARD, "as4_path", more=a(TRANSITIVE, 17, path((2, ()))), sender=OLD),
    Row("as4_path-as-0", "7607 §2", DISCARD, "as4_path", more=a(TRANSITIVE, 17, path((2, (0,)))), sender=OLD),
    Row("as4_path-confederation", "6793 §6", ACCEPT, "", more=a(TRANSITIVE, 17, path((3, (64513,)))), sender=OLD),
    Row(
        "as4_path-twice",
        "7606 §3 g",
        DISCARD,
        "attribute 17",
        more=a(TRANSITIVE, AS4_PATH, path((2, (65005,)))) * 2,
        sender=OLD,
    ),
    Row("as4_aggregator-flags", "7606 §3 c", WITHDRAW, "as4_aggregator", more=a(OPTIONAL, 18, AGGREGATED), sender=OLD),
    Row("as4_aggregator-short", "6793 §6", DISCARD, "as4_aggregator", more=a(TRANSITIVE, 18, bytes(7)), sender=OLD),
    Row("as4_aggregator-as-0", "7607 §2", DISCARD, "as4_aggregator", more=a(TRANSITIVE, 18, bytes(8)), sender=OLD),
    Row("as_path-four-octets-of-old", "7606 §7.2", WITHDRAW, "as_path", as_path(path((2, (65005,)))), sender=OLD),
    # ── attributes that nobody knows ──
    Row("unknown-transitive", "4271 §5", ACCEPT, "", more=a(TRANSITIVE, 99, b"what")),
    Row("unknown-non-transitive", "4271 §5", ACCEPT, "", more=a(OPTIONAL, 98, b"what")),
    Row("unknown-twice", "7606 §3 g", DISCARD, "attribute 99", more=a(TRANSITIVE, 99, b"what") * 2),
    Row("unknown-well-known", "4271 §6.3", UNKNOWN, "attribute 97", more=a(WELL_KNOWN, 97, b"what")),
    # ── lengths of and inside the attributes ──
    Row("attribute-overrun", "7606 §4", WITHDRAW, "attribute 8", more=b"\xc0\x08\x08" + bytes(4)),
    Row("attribute-extended-overrun", "7606 §4", WITHDRAW, "attribute 8", more=b"\xd0\x08\1\0" + bytes(4)),
    Row("attribute-underrun", "7606 §4", WITHDRAW, "length", more=b"\xc0\x08"),
    Row("attribute-flags-alone", "7606 §4", WITHDRAW, "length", more=b"\xc0"),
    Row("attributes-overrun", "7606 §3 a", LIST, "UPDATE", body=b"\0\0\0\xff" + ALL + _PLACE),
    Row("withdrawn-overrun", "7606 §3 a", LIST, "UPDATE", body=b"\0\xff\0\0" + ALL + _PLACE),
    Row("attribute-overrun-without-prefix", "7606 §5.2", LIST, "attribute 8", more=b"\xc0\x08\x08", nlri=b""),
    Row("malformed-without-prefix", "7606 §5.2", LIST, "origin", {ORIGIN: a(WELL_KNOWN, 1, b"\3")}, nlri=b""),
    # ── prefixes ──
    Row("nlri-33-bits", "7606 §5.3", NETWORK, "33", nlri=_PLACE + b"\x21" + bytes(5)),
    Row("nlri-cut", "7606 §5.3", NETWORK, "", nlri=_PLACE + b"\x18\x0a"),
    Row("nlri-nobody-routes-to", "4271 §6.3", ACCEPT, "", nlri=_PLACE + b"\x08\x7f"),
    Row("nlri-twice", "none: one prefix", ACCEPT, "", nlri=_PLACE * 2),
    Row("withdrawn-33-bits", "7606 §5.3", NETWORK, "33", withdrawn=b"\x21" + bytes(5)),
    Row("withdrawn-cut", "7606 §5.3", NETWORK, "", withdrawn=b"\x18\x0a"),
    # ── MP_REACH_NLRI ──
    Row("mp_reach-transitive", "7606 §5.3", OPTIONAL_ERROR, "", reach=reach(), mp_flags=TRANSITIVE),
    Row("mp_reach-well-known", "7606 §5.3", OPTIONAL_ERROR, "", reach=reach(), mp_flags=WELL_KNOWN),
    Row("mp_reach-twice", "7606 §3 g", LIST, "twice", reach=reach(), more=a(OPTIONAL, MP_REACH, reach())),
    Row("mp_reach-hop-of-five-octets", "7606 §7.11", OPTIONAL_ERROR, "", reach=reach(bytes(5))),
    Row("mp_reach-hop-of-four-octets", "7606 §7.11", OPTIONAL_ERROR, "", reach=reach(bytes((192, 0, 2, 1)))),
    Row("mp_reach-no-hop", "7606 §7.11", OPTIONAL_ERROR, "", reach=reach(b"")),
    Row("mp_reach-hop-overrun", "7606 §7.11", OPTIONAL_ERROR, "", reach=b"\0\2\1\xff" + HOP6),
    Row("mp_reach-cut", "7606 §5.3", OPTIONAL_ERROR, "", reach=b"\0\2"),
    Row("mp_reach-empty", "7606 §5.3", OPTIONAL_ERROR, "", reach=reach(nlri=b"")),
    Row("mp_reach-129-bits", "7606 §5.3", OPTIONAL_ERROR, "", reach=reach(nlri=b"\x81" + bytes(17))),
    Row("mp_reach-nlri-cut", "7606 §5.3", OPTIONAL_ERROR, "", reach=reach(nlri=_PLACE6[:-1])),
    Row("mp_reach-not-agreed", "7606 §5.4", OPTIONAL_ERROR, "", reach=reach(family=b"\0\2\2")),
    Row("mp_reach-reserved-octet", "4760 §3", ACCEPT, "", reach=reach(reserved=b"\1")),
    Row("mp_reach-hop-unspecified", "4271 §6.3", WITHDRAW, "next_hop", reach=reach(bytes(16))),
    Row("mp_reach-hop-multicast", "4271 §6.3", WITHDRAW, "next_hop", reach=reach(b"\xff\2" + bytes(14))),
    Row("mp_reach-second-hop-global", "2545 §3", ACCEPT, "", reach=reach(HOP6 + HOP6)),
    Row("mp_reach-without-origin", "7606 §3 d", WITHDRAW, "origin", {ORIGIN: b""}, reach=reach()),
    Row("mp_reach-with-malformed-med", "7606 §7.4", WITHDRAW, "med", {MED: a(OPTIONAL, MED, b"")}, reach=reach()),
    Row("mp_reach-beside-wrong-next_hop", "4760 §3", ACCEPT, "", {3: a(WELL_KNOWN, 3, b"")}, reach=reach()),
    # ── MP_UNREACH_NLRI ──
    Row("mp_unreach-transitive", "7606 §5.3", OPTIONAL_ERROR, "", unreach=b"\0\2\1" + _PLACE6, mp_flags=0xC0),
    Row(
        "mp_unreach-twice",
        "7606 §3 g",
        LIST,
        "twice",
        unreach=b"\0\2\1" + _PLACE6,
        more=a(OPTIONAL, MP_UNREACH, b"\0\2\1" + _PLACE6),
    ),
    Row("mp_unreach-cut", "7606 §5.3", OPTIONAL_ERROR, "", unreach=b"\0\2"),
    Row("mp_unreach-nlri-cut", "7606 §5.3", OPTIONAL_ERROR, "", unreach=b"\0\2\1" + _PLACE6[:-1]),
    Row("mp_unreach-129-bits", "7606 §5.3", OPTIONAL_ERROR, "", unreach=b"\0\2\1\x81" + bytes(17)),
    Row("mp_unreach-not-agreed", "7606 §5.4", OPTIONAL_ERROR, "", unreach=b"\0\2\2" + _PLACE6),
    Row(
        "mp_unreach-malformed",
        "7606 §5.2",
        LIST,
        "origin",
        {ORIGIN: a(WELL_KNOWN, 1, b"\3")},
        unreach=b"\0\2\1" + _PLACE6,
    ),
    # ── several at once: the strongest counts ──
    Row("discard-and-withdraw", "7606 §3 h", WITHDRAW, "med", {MED: a(OPTIONAL, MED, b"")}, a(WELL_KNOWN, 6, b"\0")),
    Row("withdraw-and-reset", "7606 §3 h", NETWORK, "", {ORIGIN: a(WELL_KNOWN, 1, b"\3")}, nlri=_PLACE + b"\x21"),
    Row("discard-and-reset", "7606 §3 h", UNKNOWN, "", more=a(WELL_KNOWN, 6, b"\0") + a(WELL_KNOWN, 97, b"")),
    Row("withdraw-and-unknown-well-known", "7606 §3 h", UNKNOWN, "", {1: a(64, 1, b"\3")}, a(WELL_KNOWN, 97, b"")),
    Row(
        "two-discarded",
        "7606 §3 h",
        Treatment("attribute discard", attributes_discarded=2),
        "local_pref",
        {LOCAL_PREF: a(WELL_KNOWN, LOCAL_PREF, number(9))},
        a(WELL_KNOWN, 6, b"\0"),
    ),
)
