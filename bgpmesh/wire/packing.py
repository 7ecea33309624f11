"""Attribute sets and prefixes to the UPDATEs that carry them; what the fast path is for the way in.

An attribute set is encoded once and kept (the codec does), the prefixes are joined, and one UPDATE
holds as many as fit. IPv4 goes the classic way unless its next hop is IPv6 (RFC 8950); that and IPv6 go in
MP_REACH_NLRI, which comes first.

RFC 4271 §4.3 and §5, RFC 4760 §3 and §4, RFC 2545 §3, RFC 6793 §4.2.2, RFC 7606 §5.1, RFC 8654 §4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from bgpmesh import log
from bgpmesh.route.attributes import (
    ATTRIBUTES,
    OPTIONAL_NON_TRANSITIVE,
    OPTIONAL_TRANSITIVE,
    PARTIAL,
    Asn,
    AsPath,
    PathAttributes,
)
from bgpmesh.route.nlri import Family, Nlri
from bgpmesh.wire.fastpath import (
    EXTENDED_LENGTH,
    HEADER_SIZE,
    MARKER,
    MP_REACH,
    MP_UNREACH,
    UPDATE,
    UPDATE_MINIMUM,
    pack,
)

ORIGIN, AS_PATH, NEXT_HOP, MED, LOCAL_PREF, ATOMIC_AGGREGATE, AGGREGATOR, COMMUNITIES = range(1, 9)
ORIGINATOR_ID, CLUSTER_LIST, EXT_COMMUNITIES, AS4_PATH, AS4_AGGREGATOR, LARGE_COMMUNITIES = 9, 10, 16, 17, 18, 32
IPV6_EXT_COMMUNITIES, ONLY_TO_CUSTOMER = 25, 35
AS_TRANS = Asn(23456)  # RFC 6793 §9
ROWS = {row.code: row for row in ATTRIBUTES}
AFI_SAFI = {family: struct.pack("!HB", family.afi, family.safi) for family in Family}
FAMILIES = {(family.afi, family.safi): family for family in Family}


def message(kind: int, body: bytes) -> bytes:
    """Return a message with its header (RFC 4271 §4.1)."""
    return MARKER + struct.pack("!HB", HEADER_SIZE + len(body), kind) + body


def update_body(withdrawn: bytes, attributes: bytes, announced: bytes) -> bytes:
    """Return the body of an UPDATE with its two lengths (RFC 4271 §4.3)."""
    return b"".join(
        (len(withdrawn).to_bytes(2, "big"), withdrawn, len(attributes).to_bytes(2, "big"), attributes, announced)
    )


def _attribute(flags: int, code: int, value: bytes) -> bytes:
    if len(value) > 255:
        # Of more octets than can be said (AS_PATH doubles behind a two-octet neighbour) there is no UPDATE: no room.
        return struct.pack("!BBH", flags | EXTENDED_LENGTH, code, min(len(value), 0xFFFF)) + value
    return bytes((flags, code, len(value))) + value


def announcements(
    family: Family, attributes: PathAttributes, encoded: bytes, keys: list[Nlri], size: int
) -> Iterator[bytes]:
    """Yield UPDATEs of at most `size` octets with these attributes, which `encoded` has as bytes.

    None, and a warning, where they leave no room for a prefix, which the RIB would have kept back (`rib/view.py`).
    Raises ValueError for a next hop of another family.
    """
    hop = attributes.next_hop
    if hop is None or (family is Family.IPV6 and hop.version == 4):
        raise ValueError(f"{family.label} prefixes with next hop {hop}")
    room = size - UPDATE_MINIMUM - len(encoded)
    reach = b""
    if hop.version == 6:
        hops = hop.packed + (b"" if attributes.link_local is None else attributes.link_local.packed)
        reach = AFI_SAFI[family] + bytes((len(hops),)) + hops + b"\0"
        room -= 4 + len(reach)
    if room < len(keys[0]):
        log.warning("update.too_long", family=family.label, octets_count=len(encoded), prefixes_count=len(keys))
        return
    for nlri in pack(keys, family, room):
        if not reach:
            yield message(UPDATE, update_body(b"", encoded, nlri))
        else:  # RFC 7606 §5.1: MP_REACH_NLRI comes first
            mp = _attribute(OPTIONAL_NON_TRANSITIVE, MP_REACH, reach + nlri)
            yield message(UPDATE, update_body(b"", mp + encoded, b""))


def withdrawals(family: Family, keys: list[Nlri], size: int) -> Iterator[bytes]:
    """Yield UPDATEs of at most `size` octets that withdraw the keys and carry nothing else."""
    room = size - UPDATE_MINIMUM
    if family is Family.IPV4:
        for nlri in pack(keys, family, room):
            yield message(UPDATE, update_body(nlri, b"", b""))
    else:
        for nlri in pack(keys, family, room - 7):
            mp = _attribute(OPTIONAL_NON_TRANSITIVE, MP_UNREACH, AFI_SAFI[family] + nlri)
            yield message(UPDATE, update_body(b"", mp, b""))


def encode_attributes(attributes: PathAttributes, *, four_octet_asn: bool) -> bytes:
    """Return every attribute but the MP ones in ascending order of their codes (RFC 4271 §5).

    NEXT_HOP is among them where it is an IPv4 address. What came with the Partial bit goes with it, whatever we have
    made of its value.
    """
    values: dict[int, bytes] = {ORIGIN: bytes((attributes.origin,))}
    values[AS_PATH] = _segments(attributes.as_path, four_octet_asn=four_octet_asn)
    if attributes.next_hop is not None and attributes.next_hop.version == 4:
        values[NEXT_HOP] = attributes.next_hop.packed
    for code, number in (
        (MED, attributes.med),
        (LOCAL_PREF, attributes.local_pref),
        (ORIGINATOR_ID, attributes.originator_id),
    ):
        if number is not None:
            values[code] = number.to_bytes(4, "big")
    if attributes.atomic_aggregate:
        values[ATOMIC_AGGREGATE] = b""
    others = dict(_for_old_speakers(attributes) if not four_octet_asn else ())
    if attributes.aggregator is not None:
        asn, speaker = attributes.aggregator
        values[AGGREGATOR] = _asn(asn, four_octet_asn=four_octet_asn) + speaker.packed
    for code, members in (
        (COMMUNITIES, [number.to_bytes(4, "big") for number in attributes.communities]),
        (CLUSTER_LIST, [number.to_bytes(4, "big") for number in attributes.cluster_list]),
        (EXT_COMMUNITIES, attributes.ext_communities),
        (LARGE_COMMUNITIES, [struct.pack("!III", *numbers) for numbers in attributes.large_communities]),
    ):
        if members:
            values[code] = b"".join(members)
    flags = {code: ROWS[code].flags for code in values} | dict.fromkeys(others, OPTIONAL_TRANSITIVE)
    flags |= {code: flags[code] | PARTIAL for code in attributes.partial if code in flags}
    encoded = {code: _attribute(flags[code], code, value) for code, value in (values | others).items()}
    for came, code, value in attributes.other:
        if came & OPTIONAL_TRANSITIVE == OPTIONAL_TRANSITIVE:  # the others end here (RFC 4271 §5)
            partial = came & PARTIAL if code in ROWS else PARTIAL
            encoded[code] = _attribute(OPTIONAL_TRANSITIVE | partial, code, value)
    return b"".join(encoded[code] for code in sorted(encoded))


def _asn(asn: Asn, *, four_octet_asn: bool) -> bytes:
    if four_octet_asn:
        return asn.to_bytes(4, "big")
    return (asn if asn < 65536 else AS_TRANS).to_bytes(2, "big")


def _segments(path: AsPath, *, four_octet_asn: bool) -> bytes:
    """Return the segments' bytes; one segment holds 255 AS numbers at most (RFC 4271 §4.3)."""
    return b"".join(
        bytes((kind, len(members[at : at + 255])))
        + b"".join(_asn(asn, four_octet_asn=four_octet_asn) for asn in members[at : at + 255])
        for kind, members in path.segments
        for at in range(0, len(members), 255)
    )


def _for_old_speakers(attributes: PathAttributes) -> Iterator[tuple[int, bytes]]:
    """Yield AS4_PATH and AS4_AGGREGATOR where AS_TRANS stands for something (RFC 6793 §4.2.2)."""
    if any(asn > 65535 for _, members in attributes.as_path.segments for asn in members):
        value = _segments(attributes.as_path.outside(), four_octet_asn=True)
        if value:
            yield AS4_PATH, value
    if attributes.aggregator is not None and attributes.aggregator[0] > 65535:
        asn, speaker = attributes.aggregator
        yield AS4_AGGREGATOR, asn.to_bytes(4, "big") + speaker.packed
