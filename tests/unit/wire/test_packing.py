"""What is told and what fits a message: the RIB and the wire have to agree on it."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.peering.peer import Peer
from bgpmesh.rib.drain import Drain
from bgpmesh.rib.view import Agreed, fits, view_of
from bgpmesh.route.attributes import Asn, AsPath, PathAttributes, RouterId, SegmentKind
from bgpmesh.route.nlri import Family, Nlri
from bgpmesh.route.path import PeerName, Role
from bgpmesh.wire.packing import announcements, encode_attributes

ADDRESS, ASN = ipaddress.ip_address("192.0.2.1"), Asn(64512)
SHORT = PathAttributes(  # the longest of those of which that is told at a glance
    as_path=AsPath(((SegmentKind.SEQUENCE, (Asn(70000),) * 255),)),
    med=1,
    local_pref=1,
    atomic_aggregate=True,
    aggregator=(Asn(70000), ADDRESS),
    originator_id=RouterId(1),
    cluster_list=(RouterId(1),),
    ext_communities=(bytes(8),) * 8,
    large_communities=((1, 2, 3),) * 99,
)


@pytest.mark.parametrize("has_paths", [False, True])
@pytest.mark.parametrize(
    ("family", "hop"), [(Family.IPV4, "192.0.2.1"), (Family.IPV4, "2001:db8::1"), (Family.IPV6, "2001:db8::1")]
)
def test_what_fits_is_announced(family: Family, hop: str, has_paths: bool) -> None:
    """The RIB tells just that, to the last octet: a longer path would be withdrawn here."""
    peer = Peer(PeerName("peer"), ADDRESS, ASN, Role.NON_CLIENT, ADDRESS, ASN, RouterId(1))
    paths = frozenset((family,) if has_paths else ())
    agreed = Agreed(
        (family,), four_octet_asn=True, message_size=4096, hears_long_lived=False, ipv6_next_hops=True, path_ids=paths
    )
    view = view_of(peer, agreed, None, Drain.NONE)
    short = replace(SHORT, next_hop=ipaddress.ip_address(hop))
    assert fits(view, short, family)
    assert any(announcements(family, short, encode_attributes(short, four_octet_asn=False), [Nlri(bytes(21))], 4096))
    prefix = Nlri(bytes(4 * has_paths + 1 + family.bits // 8))
    answers = set()
    for size in range(3950, 4096):
        attributes = PathAttributes(next_hop=ipaddress.ip_address(hop), other=((0xC0, 200, bytes(size)),))
        encoded = encode_attributes(attributes, four_octet_asn=True)
        is_sent = any(announcements(family, attributes, encoded, [prefix], agreed.message_size))
        assert (size, fits(view, attributes, family)) == (size, is_sent)
        answers.add(is_sent)
    assert answers == {True, False}
