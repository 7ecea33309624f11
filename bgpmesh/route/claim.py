"""What the nodes of a cluster tell each other about an address: large communities `ASN : x : y` (RFC 8092).

ASN is the cluster's. Of the 64 bits of x and y the first 4 are the kind, the other 60 a hash of what is said, 0 where
the kind says it all. Operators' own large communities have small numbers, and so kind 0, which is none of ours.

Nobody signs them. So they are heard on sessions between nodes of the cluster only, and taken off on all others,
both ways.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import replace

from bgpmesh.route.attributes import Asn, PathAttributes

LargeCommunity = tuple[int, int, int]
Claims = frozenset[int]  # what is said of a workload, each as its 64 bits; see `policy.identity`

_HASH_BITS = 60


class Kind(enum.IntEnum):
    """What is said of the prefix, by the first 4 bits."""

    LABEL = 1  # the workload with this address has this label with this value
    LABEL_KEY = 2  # it has this label
    NAMESPACE_LABEL = 3  # the same two of its namespace
    NAMESPACE_LABEL_KEY = 4
    NAMESPACE = 5  # the name of its namespace
    PORT = 6  # a port of this name; see `policy.identity`
    FLOATING = 15  # it is a floating address; hash 0


IDENTITY = frozenset(kind.value for kind in Kind if kind is not Kind.FLOATING)  # what is said of a workload
_KINDS = frozenset(kind.value for kind in Kind)


def claim(asn: Asn, kind: Kind, digest: int = 0) -> LargeCommunity:
    """Return the community that says this; `digest` is a hash, of which the lower 60 bits are taken."""
    value = kind << _HASH_BITS | digest & ((1 << _HASH_BITS) - 1)
    return asn, value >> 32, value & 0xFFFFFFFF


def has_kind(communities: Iterable[LargeCommunity], asn: Asn | None, kind: Kind) -> bool:
    """Tell whether one of them says something of this kind in the name of that cluster (None: of none)."""
    return any(first == asn and second >> 28 == kind for first, second, _ in communities)


def identity_of(communities: Iterable[LargeCommunity], asn: Asn | None) -> Claims | None:
    """Return what is said of a workload in the name of that cluster, None where nothing is."""
    found = frozenset(x << 32 | y for first, x, y in communities if first == asn and x >> 28 in IDENTITY)
    return found or None


def without_claims(attributes: PathAttributes, asn: Asn | None, kinds: Collection[int] = _KINDS) -> PathAttributes:
    """Return the attributes without what is said in the name of that cluster; the same ones where nothing is."""
    left = tuple(each for each in attributes.large_communities if each[0] != asn or each[1] >> 28 not in kinds)
    return attributes if len(left) == len(attributes.large_communities) else replace(attributes, large_communities=left)
