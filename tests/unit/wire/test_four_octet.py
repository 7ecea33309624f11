"""Peers without four-octet AS numbers: what they say is put together, what they are told can be (RFC 6793 §4.2)."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.peering.message import Capabilities, Negotiated, Open
from bgpmesh.peering.peer import Peer
from bgpmesh.rib.export import Batch
from bgpmesh.route.attributes import Asn, AsPath, PathAttributes, RouterId, SegmentKind
from bgpmesh.route.nlri import Family, parse_nlri
from bgpmesh.route.path import PeerName, Role
from bgpmesh.wire.codec import Codec, Routes
from tests.malformed import ACCEPT, OLD, OUTSIDE, TRANSITIVE, Row, a, as_path, path

ADDRESS = ipaddress.ip_address("10.0.0.1")
SET, SEQUENCE, CONFED = 1, 2, 3
HERE, THERE = bytes((192, 0, 2, 7)), bytes((192, 0, 2, 8))


def spoken(asn: int, *, is_old: bool, ours: int = 64512) -> Codec:
    """Return a codec past the OPENs with an external peer that must begin its paths with its own AS."""
    peer = Peer(PeerName("p"), ADDRESS, Asn(asn), Role.EXTERNAL, ADDRESS, Asn(ours), RouterId(1))
    codec = Codec(replace(peer, enforce_first_as=True))
    codec.encode(Open(Asn(ours), 90, RouterId(1), Capabilities((Family.IPV4,))))
    theirs = Capabilities((Family.IPV4,), four_octet_asn=not is_old)
    (negotiated,) = codec.feed(Codec(peer).encode(Open(Asn(asn), 90, RouterId(2), theirs)), 0.0)
    assert isinstance(negotiated, Negotiated)
    assert negotiated.refusal is None
    return codec


@dataclass(frozen=True, slots=True)
class Case:
    """Attributes of a peer without four-octet AS numbers, and what they mean together."""

    name: str
    short: tuple[tuple[int, tuple[int, ...]], ...]  # AS_PATH
    long: tuple[tuple[int, tuple[int, ...]], ...]  # AS4_PATH; (): none
    expected: str
    aggregator: int = 0  # of AGGREGATOR, at HERE; 0: none
    long_aggregator: int = 0  # of AS4_AGGREGATOR, at THERE
    aggregated_by: tuple[int, bytes] | None = None


FIRST, LAST = (SEQUENCE, (65005, 23456, 23456)), (SEQUENCE, (70000, 70001))
CASES = (
    Case("none", ((SEQUENCE, (65005, 65006)),), (), "65005 65006"),
    Case("the end is replaced", (FIRST,), (LAST,), "65005 70000 70001"),
    Case("all is replaced", (FIRST,), ((SEQUENCE, (65005, 70000, 70001)),), "65005 70000 70001"),
    Case("longer than the path", ((SEQUENCE, (65005,)),), (LAST,), "65005"),
    Case("as long with a set", (FIRST, (SET, (1, 2))), ((SEQUENCE, (70000,)), (SET, (1,))), "65005 23456 70000 {1}"),
    Case("a set counts one", ((SEQUENCE, (65005,)), (SET, (1, 2, 3))), ((SET, (80000, 80001)),), "65005 {80000 80001}"),
    Case("a confederation is left out", (FIRST,), ((CONFED, (64513,)), (SEQUENCE, (70000,))), "65005 23456 70000"),
    Case("aggregator", (FIRST,), (), "65005 23456 23456", 65005, 0, (65005, HERE)),
    Case("real aggregator", (FIRST,), (LAST,), "65005 23456 23456", 65005, 70000, (65005, HERE)),
    Case("long aggregator", (FIRST,), (LAST,), "65005 70000 70001", 23456, 70000, (70000, THERE)),
    Case("long aggregator alone", (FIRST,), (LAST,), "65005 70000 70001", 0, 70000, None),
    Case("nobody's aggregator", (FIRST,), (LAST,), "65005 70000 70001", 23456, 0, (23456, HERE)),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_an_old_speaker_says_is_put_together(case: Case) -> None:
    """AS4_PATH stands for the end of AS_PATH, unless a real aggregator says that both are out of date (§4.2.3)."""
    more = a(TRANSITIVE, 17, path(*case.long)) if case.long else b""
    if case.aggregator:
        more += a(TRANSITIVE, 7, struct.pack("!H", case.aggregator) + HERE)
    if case.long_aggregator:
        more += a(TRANSITIVE, 18, struct.pack("!I", case.long_aggregator) + THERE)
    row = Row("", "", ACCEPT, attributes=as_path(path(*case.short, width="H")), more=more, sender=OLD)
    (said,) = spoken(65005, is_old=True).feed(row.update(), 0.0)
    assert isinstance(said, Routes)
    assert said.attributes is not None
    assert (said.attributes_discarded, said.problem) == (0, "")
    assert str(said.attributes.as_path) == case.expected
    by = said.attributes.aggregator
    assert (None if by is None else (by[0], by[1].packed)) == case.aggregated_by


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize(("first", "is_taken"), [(65005, True), (65006, False), (23456, False)])
def test_the_first_as_is_that_of_the_peer(first: int, is_taken: bool, is_old: bool) -> None:
    """It is enforced on what was put together (RFC 4271 §6.3)."""
    sender = OLD if is_old else replace(OUTSIDE, asn=65005)
    segments = path((SEQUENCE, (first, 65007)), width="H" if is_old else "I")
    row = Row("", "", ACCEPT, attributes=as_path(segments), sender=sender)
    (said,) = spoken(65005, is_old=is_old).feed(row.update(), 0.0)
    assert isinstance(said, Routes)
    assert (said.treated_as_withdraw, bool(said.announced)) == ((0, True) if is_taken else (1, False))


asns = st.sampled_from([1, 23456, 65001, 65535, 65536, 70000, 4_200_000_000])
segments = st.tuples(st.sampled_from([SegmentKind.SEQUENCE, SegmentKind.SET]), st.lists(asns, min_size=1, max_size=6))


@given(st.lists(segments, max_size=4), asns, st.sampled_from([64512, 4_200_000_001]))
def test_what_an_old_speaker_is_told_can_be_put_together(
    drawn: list[tuple[SegmentKind, list[int]]], aggregator: int, ours: int
) -> None:
    """It passes on AS_PATH with AS_TRANS and AS4_PATH as they are, and who knows both reads the path as it was."""
    told = AsPath()
    for kind, members in reversed(drawn):
        if kind is SegmentKind.SEQUENCE:
            for asn in members:
                told = told.prepended(Asn(asn))
        else:
            told = AsPath(((kind, tuple(map(Asn, members))), *told.segments))
    told = told.prepended(Asn(ours))
    attributes = PathAttributes(as_path=told, next_hop=ADDRESS, aggregator=(Asn(aggregator), ADDRESS))
    sent = spoken(65005, is_old=True, ours=ours).encode_batch(
        Batch(Family.IPV4, attributes, [parse_nlri("10.0.0.0/8")])
    )
    reader = spoken(65007, is_old=True, ours=65009)
    reader._first_asn = None
    (said,) = reader.feed(b"".join(sent), 0.0)
    assert isinstance(said, Routes)
    assert said.attributes is not None
    assert (str(said.attributes.as_path), said.attributes.aggregator) == (str(told), attributes.aggregator)
