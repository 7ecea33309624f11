"""Path attributes: one frozen set, interned by whoever made it and compared with `is` on the hot path."""

from __future__ import annotations

import enum
from dataclasses import fields
from typing import NewType

from bgpmesh.frozen import frozen
from bgpmesh.route.nlri import IPAddress

Asn = NewType("Asn", int)
RouterId = NewType("RouterId", int)  # the BGP identifier as an unsigned 32-bit integer (RFC 6286)


class Origin(enum.IntEnum):
    """ORIGIN (RFC 4271 §5.1.1); lower is preferred."""

    IGP = 0
    EGP = 1
    INCOMPLETE = 2


class SegmentKind(enum.IntEnum):
    """The kind of an AS_PATH segment (RFC 4271 §4.3, RFC 5065)."""

    SET = 1
    SEQUENCE = 2
    CONFED_SEQUENCE = 3
    CONFED_SET = 4


_TWO_OCTETS = 0xFFFF  # the highest AS number that they hold
CONFEDERATION = frozenset({SegmentKind.CONFED_SEQUENCE, SegmentKind.CONFED_SET})


@frozen
class AsPath:
    """AS_PATH: segments of (kind, AS numbers), leftmost nearest."""

    segments: tuple[tuple[SegmentKind, tuple[Asn, ...]], ...] = ()

    @property
    def length(self) -> int:
        """Hops for the decision process: a set counts one, confederation segments none (RFC 5065 §5.3)."""
        total = 0
        for kind, members in self.segments:
            if kind is SegmentKind.SEQUENCE:
                total += len(members)
            elif kind is SegmentKind.SET:
                total += 1
        return total

    @property
    def first(self) -> Asn | None:
        """The neighbouring AS: the leftmost of the first sequence, None for an empty path or a leading set.

        Confederation segments in front are the way within this AS, not the neighbour (RFC 5065 §5.3).
        """
        for kind, members in self.segments:
            if kind is SegmentKind.SEQUENCE and members:
                return members[0]
            if kind not in CONFEDERATION:
                break
        return None

    def outside(self) -> AsPath:
        """Return the path as others than the members of a confederation may see it; itself most often."""
        left = tuple(segment for segment in self.segments if segment[0] not in CONFEDERATION)
        return self if len(left) == len(self.segments) else AsPath(left)

    def count(self, asn: Asn) -> int:
        """Return how often `asn` stands in the path: the loop check (RFC 4271 §9.1.2)."""
        return sum(members.count(asn) for _, members in self.segments)

    def prepended(self, asn: Asn) -> AsPath:
        """Return the path with `asn` in front (RFC 4271 §5.1.2); a segment holds 255 at most."""
        if self.segments and self.segments[0][0] is SegmentKind.SEQUENCE and len(self.segments[0][1]) < 255:
            return AsPath(((SegmentKind.SEQUENCE, (asn, *self.segments[0][1])), *self.segments[1:]))
        return AsPath(((SegmentKind.SEQUENCE, (asn,)), *self.segments))

    def octets(self, width: int) -> int:
        """Return how many octets the segments take, with so many for each AS; one holds 255 at most (RFC 4271 §4.3)."""
        return sum(2 * -(-len(members) // 255) + width * len(members) for _, members in self.segments)

    def __str__(self) -> str:
        """Render as people read it: `65001 65002 {64512 64513}`."""
        shown = []
        for kind, members in self.segments:
            text = " ".join(map(str, members))
            match kind:
                case SegmentKind.SEQUENCE:
                    shown.append(text)
                case SegmentKind.SET:
                    shown.append("{" + text + "}")
                case SegmentKind.CONFED_SEQUENCE:
                    shown.append("(" + text + ")")
                case SegmentKind.CONFED_SET:
                    shown.append("[" + text + "]")
        return " ".join(shown)


@frozen(eq=False)
class PathAttributes:
    """Everything an UPDATE says about its prefixes but the prefixes.

    Identity is the fast comparison (sets are interned by wire bytes, per negotiation class);
    `same_as` compares by value where two classes may have made the same set twice.
    """

    origin: Origin = Origin.IGP
    as_path: AsPath = AsPath()
    next_hop: IPAddress | None = None  # None only for local paths before export, and not for all
    link_local: IPAddress | None = None  # second address of an IPv6 next hop (RFC 2545 §3)
    med: int | None = None
    local_pref: int | None = None  # None: absent, as on eBGP; the decision takes 100
    atomic_aggregate: bool = False
    aggregator: tuple[Asn, IPAddress] | None = None
    communities: tuple[int, ...] = ()  # RFC 1997, 32 bits each, sorted
    originator_id: RouterId | None = None
    cluster_list: tuple[RouterId, ...] = ()
    ext_communities: tuple[bytes, ...] = ()  # RFC 4360, 8 bytes each, sorted
    large_communities: tuple[tuple[int, int, int], ...] = ()  # RFC 8092, sorted
    other: tuple[tuple[int, int, bytes], ...] = ()  # (flags, code, value) that we pass on or only show
    partial: tuple[int, ...] = ()  # codes of those above, but `other`, that came with the Partial bit; ascending

    def same_as(self, other: PathAttributes) -> bool:
        """Tell whether both say the same, whoever decoded them."""
        if self is other:
            return True
        return all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self))


class Treatment(enum.Enum):
    """What RFC 7606 asks for a malformed attribute."""

    RESET = "session-reset"
    WITHDRAW = "treat-as-withdraw"
    DISCARD = "attribute-discard"


@frozen
class AttributeRow:
    """One row of what we know about an attribute type.

    `field` is the field of PathAttributes, "" where the codec takes it apart (MP_REACH_NLRI), and `other`
    where it is checked and passed on, and nothing is done with what it says.
    `flags` are the well-known/optional and transitive bits it must carry (RFC 4271 §4.3).
    `ebgp` says whether it crosses an external session on export.
    """

    name: str
    code: int
    flags: int
    malformed: Treatment
    field: str
    ebgp: bool


WELL_KNOWN, OPTIONAL_TRANSITIVE, OPTIONAL_NON_TRANSITIVE = 0x40, 0xC0, 0x80
PARTIAL = 0x20  # somebody on the way did not know it, or put it on (RFC 4271 §5)

ATTRIBUTES: tuple[AttributeRow, ...] = (
    AttributeRow("origin", 1, WELL_KNOWN, Treatment.WITHDRAW, "origin", ebgp=True),
    AttributeRow("as_path", 2, WELL_KNOWN, Treatment.WITHDRAW, "as_path", ebgp=True),
    AttributeRow("next_hop", 3, WELL_KNOWN, Treatment.WITHDRAW, "next_hop", ebgp=True),
    AttributeRow("med", 4, OPTIONAL_NON_TRANSITIVE, Treatment.WITHDRAW, "med", ebgp=False),
    AttributeRow("local_pref", 5, WELL_KNOWN, Treatment.WITHDRAW, "local_pref", ebgp=False),
    AttributeRow("atomic_aggregate", 6, WELL_KNOWN, Treatment.DISCARD, "atomic_aggregate", ebgp=True),
    AttributeRow("aggregator", 7, OPTIONAL_TRANSITIVE, Treatment.DISCARD, "aggregator", ebgp=True),
    AttributeRow("communities", 8, OPTIONAL_TRANSITIVE, Treatment.WITHDRAW, "communities", ebgp=True),
    AttributeRow("originator_id", 9, OPTIONAL_NON_TRANSITIVE, Treatment.WITHDRAW, "originator_id", ebgp=False),
    AttributeRow("cluster_list", 10, OPTIONAL_NON_TRANSITIVE, Treatment.WITHDRAW, "cluster_list", ebgp=False),
    AttributeRow("mp_reach_nlri", 14, OPTIONAL_NON_TRANSITIVE, Treatment.RESET, "", ebgp=True),
    AttributeRow("mp_unreach_nlri", 15, OPTIONAL_NON_TRANSITIVE, Treatment.RESET, "", ebgp=True),
    AttributeRow("ext_communities", 16, OPTIONAL_TRANSITIVE, Treatment.WITHDRAW, "ext_communities", ebgp=True),
    AttributeRow("ipv6_ext_communities", 25, OPTIONAL_TRANSITIVE, Treatment.WITHDRAW, "other", ebgp=True),  # RFC 5701
    AttributeRow("large_communities", 32, OPTIONAL_TRANSITIVE, Treatment.WITHDRAW, "large_communities", ebgp=True),
    AttributeRow("only_to_customer", 35, OPTIONAL_TRANSITIVE, Treatment.WITHDRAW, "other", ebgp=True),  # RFC 9234
)


def octets_of(attributes: PathAttributes, *, four_octet_asn: bool) -> int:
    """Return the octets of these in an UPDATE, but of MP_REACH_NLRI (RFC 4271 §4.3, RFC 6793 §4.2.2)."""
    width, path, aggregator = 4 if four_octet_asn else 2, attributes.as_path, attributes.aggregator
    sizes = [1, path.octets(width)]
    sizes += [4 for one in (attributes.med, attributes.local_pref, attributes.originator_id) if one is not None]
    if attributes.next_hop is not None and attributes.next_hop.version == 4:
        sizes.append(4)
    if attributes.atomic_aggregate:
        sizes.append(0)
    if aggregator is not None:
        sizes.append(width + 4)
        if not four_octet_asn and aggregator[0] > _TWO_OCTETS:
            sizes.append(8)
    if not four_octet_asn and any(asn > _TWO_OCTETS for _, members in path.segments for asn in members):
        sizes += filter(None, (path.outside().octets(4),))
    lists = (
        4 * len(attributes.communities),
        4 * len(attributes.cluster_list),
        8 * len(attributes.ext_communities),
        12 * len(attributes.large_communities),
    )
    sizes += filter(None, lists)
    sizes += [len(value) for flags, _, value in attributes.other if flags & OPTIONAL_TRANSITIVE == OPTIONAL_TRANSITIVE]
    return sum(size + (3 if size < 256 else 4) for size in sizes)
