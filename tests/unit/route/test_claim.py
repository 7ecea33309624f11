"""What nodes say of addresses by large communities."""

from __future__ import annotations

from bgpmesh.route.attributes import Asn, PathAttributes
from bgpmesh.route.claim import Kind, claim, has_kind, without_claims

OURS, THEIRS = Asn(64512), Asn(64513)


def test_a_claim_is_four_bits_of_kind_and_sixty_of_hash() -> None:
    """In the name of the cluster; a hash that is longer is cut."""
    assert claim(OURS, Kind.FLOATING) == (64512, 0xF000_0000, 0)
    assert claim(OURS, Kind.FLOATING, 0xF123_4567_89AB_CDEF) == (64512, 0xF123_4567, 0x89AB_CDEF)


def test_only_the_cluster_s_own_are_heard_and_taken_off() -> None:
    """Others', and small numbers as operators write them, stay; where none is nothing is made anew."""
    kept = ((64512, 1, 2), (64513, 0xF000_0000, 0))
    said = PathAttributes(large_communities=(*kept, claim(OURS, Kind.FLOATING, 7)))
    assert has_kind(said.large_communities, OURS, Kind.FLOATING)
    assert not has_kind(kept, OURS, Kind.FLOATING)
    assert not has_kind(said.large_communities, None, Kind.FLOATING)
    left = without_claims(said, OURS)
    assert left.large_communities == kept
    assert without_claims(left, OURS) is left
    assert without_claims(said, None) is said
