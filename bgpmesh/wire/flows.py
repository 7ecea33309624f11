"""Flow specifications out of MP attributes (RFC 8955 §4, RFC 8956 §3).

They are cut here, so that each keeps its bytes: they are its key, and what its order goes by. ExaBGP reads what is in
one; it passes over one that it cannot read, and over an address that stands twice.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterator
from typing import Any

from exabgp.bgp.message.action import Action
from exabgp.bgp.message.update.nlri import NLRI
from exabgp.protocol.family import AFI, SAFI

from bgpmesh.errors import PeerError
from bgpmesh.frozen import frozen
from bgpmesh.peering.message import Code
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.flow import Comparison, Component, Field, Flow, FlowKey, Kind, flow_prefix
from bgpmesh.route.nlri import FLOWSPEC, Family
from bgpmesh.wire.fastpath import MP_REACH, MP_UNREACH, Context
from bgpmesh.wire.foreign import called
from bgpmesh.wire.packing import FAMILIES
from bgpmesh.wire.reading import Item


@frozen
class Flows:
    """What one UPDATE says of flow specifications: those announced, with these attributes, and those withdrawn."""

    attributes: PathAttributes | None  # None where none is announced
    announced: tuple[Flow, ...]
    withdrawn: tuple[FlowKey, ...]
    treated_as_withdraw: int = 0  # 0 or 1
    attributes_discarded: int = 0
    problem: str = ""  # what was malformed, in words


def has_flows(item: Item, context: Context) -> bool:
    """Tell whether an MP attribute is about flow specifications of a family that was agreed on, and no End-of-RIB."""
    family = mp_family(item)
    is_end = item.code == MP_UNREACH and len(item.value) == 3
    return family in FLOWSPEC and family in context.families and not is_end


def mp_family(item: Item) -> Family | None:
    """Return the family that an MP attribute is about; None where it is cut short, or of one that we do not know."""
    return FAMILIES.get((int.from_bytes(item.value[:2], "big"), item.value[2])) if len(item.value) > 2 else None


def flow_keys(item: Item) -> Iterator[FlowKey]:
    """Yield the NLRI of an MP attribute; raises PeerError where their lengths do not add up (RFC 4760 §7).

    The next hop, if there is one, says nothing (RFC 8955 §4).
    """
    family = mp_family(item)
    assert family is not None  # `has_flows`
    nlri, at = item.value, 3
    if item.code == MP_REACH:
        at = 5 + nlri[3] if len(nlri) > 3 else len(nlri) + 1
    if at >= len(nlri):
        raise PeerError(Code.UPDATE, 9, f"{family.label}: MP_REACH_NLRI is cut short or empty", item.raw)
    while at < len(nlri):
        width = 2 if nlri[at] >= 0xF0 else 1  # RFC 8955 §4.1
        start = at + width
        at = start + (int.from_bytes(nlri[at:start], "big") & (0xFFF if width == 2 else 0xFF))
        if at > len(nlri) or start > len(nlri):
            raise PeerError(Code.UPDATE, 9, f"{family.label}: an NLRI is longer than what is there", item.raw)
        yield FlowKey(family, nlri[start:at])


@functools.lru_cache(maxsize=1_024)
def flow_of(key: FlowKey) -> Flow | None:
    """Return the flow specification that an NLRI is; None where it is malformed."""
    size = len(key.nlri)
    length = bytes((size,)) if size < 0xF0 else (0xF000 | size).to_bytes(2, "big")
    family = AFI.create(key.family.afi), SAFI.create(key.family.safi)
    read, _ = called(lambda: NLRI.unpack_nlri(*family, length + key.nlri, Action.ANNOUNCE, None), Code.UPDATE)
    if read is None or any(len(rules) > 1 for kind, rules in read.rules.items() if kind <= Kind.SOURCE):
        return None
    components = (_component(kind, data, read.rules[kind]) for kind, data in _component_data(key))
    return Flow(key, tuple(components))


def _component_data(key: FlowKey) -> Iterator[tuple[Kind, bytes]]:
    """Yield each component of a well-formed NLRI, and how it is written behind its type."""
    nlri, at = key.nlri, 0
    while at < len(nlri):
        kind, start = Kind(nlri[at]), at + 1
        at = start
        if kind <= Kind.SOURCE:
            offset = nlri[at + 1] if key.family is Family.IPV6_FLOWSPEC else 0
            at += (2 if key.family is Family.IPV6_FLOWSPEC else 1) + (nlri[at] - offset + 7) // 8
        else:
            is_last = False
            while not is_last:
                is_last = bool(nlri[at] & 0x80)
                at += 1 + (1 << (nlri[at] >> 4 & 3))
        yield kind, nlri[start:at]


def _component(kind: Kind, data: bytes, rules: Any) -> Component:
    """Return a component as ExaBGP has read it."""
    if kind <= Kind.SOURCE:
        (rule,) = rules
        address = ipaddress.ip_address(rule.cidr.ton())
        return flow_prefix(kind, address, int(rule.cidr.mask), int(getattr(rule, "offset", 0)))
    return Field(
        kind, tuple(Comparison(int(r.operations) & 7, int(r.value), bool(r.operations & 0x40)) for r in rules), data
    )
