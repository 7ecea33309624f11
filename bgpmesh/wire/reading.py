"""A set of path attributes out of its bytes, by the table of RFC 7606.

RFC 7606 is acted on here, by the table `ATTRIBUTES`: flags, lengths, duplicates and missing attributes become a
withdrawal, a discard or the end of the session. ExaBGP only notes them. What else it has otherwise than we need it:

* ORIGIN above 2, AS 0 (RFC 7607), empty segments and next hops that are no host pass in ExaBGP.
* Community attributes are arrays of numbers and read as such: ExaBGP sorts the list again for each
  member, which takes 20 ms for one full message, and every distinct set of a peer would cost that.

RFC 4271 §4.3, §5 and §6.3, RFC 6793 §4.2 and §6, RFC 7606, RFC 7607, RFC 8092 §6, RFC 9234 §5. The table of what may
be wrong, and what comes of it, is tests/malformed.py.
"""

from __future__ import annotations

import functools
import ipaddress
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from exabgp.bgp.message.direction import Direction
from exabgp.bgp.message.update.attribute import Attribute, Attributes

from bgpmesh.errors import PeerError
from bgpmesh.peering.message import Code
from bgpmesh.route.attributes import (
    CONFEDERATION,
    OPTIONAL_NON_TRANSITIVE,
    OPTIONAL_TRANSITIVE,
    PARTIAL,
    Asn,
    AsPath,
    AttributeRow,
    Origin,
    PathAttributes,
    RouterId,
    SegmentKind,
    Treatment,
)
from bgpmesh.route.nlri import IPAddress, is_host
from bgpmesh.wire.fastpath import EXTENDED_LENGTH
from bgpmesh.wire.foreign import called
from bgpmesh.wire.packing import (
    AGGREGATOR,
    AS4_AGGREGATOR,
    AS4_PATH,
    AS_PATH,
    ATOMIC_AGGREGATE,
    CLUSTER_LIST,
    COMMUNITIES,
    EXT_COMMUNITIES,
    IPV6_EXT_COMMUNITIES,
    LARGE_COMMUNITIES,
    LOCAL_PREF,
    MED,
    NEXT_HOP,
    ONLY_TO_CUSTOMER,
    ORIGIN,
    ORIGINATOR_ID,
    ROWS,
)

_INTERNAL_ONLY = {LOCAL_PREF, ORIGINATOR_ID, CLUSTER_LIST}  # RFC 7606 §7.5, §7.9, §7.10
_ARRAYS = {  # octets of a member
    NEXT_HOP: 4,
    COMMUNITIES: 4,
    EXT_COMMUNITIES: 8,
    IPV6_EXT_COMMUNITIES: 20,
    LARGE_COMMUNITIES: 12,
    ONLY_TO_CUSTOMER: 4,
}
_SINGLE = {NEXT_HOP, ONLY_TO_CUSTOMER}  # those of one member


class TreatAsWithdraw(Exception):  # noqa: N818  # it is no error of the session
    """An attribute is malformed so that its UPDATE withdraws its prefixes (RFC 7606 §2); the text says why."""


class Item(NamedTuple):
    """One path attribute as it stands."""

    flags: int
    code: int
    value: bytes
    raw: bytes


def frame(attributes: bytes) -> tuple[list[Item], str]:
    """Return the attributes, and what is wrong with their lengths; then those before the fault (RFC 7606 §4)."""
    items: list[Item] = []
    at, size = 0, len(attributes)
    while at < size:
        flags, code = attributes[at], attributes[at + 1] if at + 1 < size else 0
        value_at = at + (4 if flags & EXTENDED_LENGTH else 3)
        stop = value_at + int.from_bytes(attributes[at + 2 : value_at], "big")
        if value_at > size or stop > size:
            return items, f"attribute {code} exceeds the attributes' length"
        items.append(Item(flags, code, attributes[value_at:stop], attributes[at:stop]))
        at = stop
    return items, ""


def refuse_unknown(items: Iterable[Item]) -> None:
    """Raise PeerError where there is a well-known attribute that we do not know (RFC 4271 §6.3).

    First of all: no other fault in an UPDATE is treated as strongly (RFC 7606 §3 h).
    """
    for item in items:
        if not item.flags & OPTIONAL_NON_TRANSITIVE and item.code not in ROWS.keys() | {AS4_PATH, AS4_AGGREGATOR}:
            raise PeerError(Code.UPDATE, 2, f"well-known attribute {item.code} is not known", item.raw)


class Reading:
    """One set of attribute bytes being read, by the table of RFC 7606; afterwards what was discarded, and why."""

    def __init__(self, negotiated: Any, *, is_external: bool, first_asn: Asn | None, link: str = "") -> None:
        """`link` is that of a session between link-local addresses."""
        self.discarded = 0
        self.problem = ""
        self._negotiated = negotiated
        self._is_external = is_external
        self._first_asn = first_asn
        self._link = link
        self._decoded = Attributes()  # what ExaBGP reads
        self._arrays: dict[int, bytes] = {}  # what we read
        self._other: list[tuple[int, int, bytes]] = []
        self._partial: list[int] = []  # codes that came with the Partial bit, and are not in `_other`

    def read(self, next_hop: bytes | None, rest: bytes) -> PathAttributes:
        """Return what the attributes say; `next_hop` is that of MP_REACH_NLRI or b"", None where there is to be none.

        Raises TreatAsWithdraw, or PeerError for an unknown well-known attribute (RFC 4271 §6.3).
        """
        seen = self.read_items(rest, has_mp_next_hop=next_hop != b"")
        wanted = (ORIGIN, AS_PATH, NEXT_HOP) if next_hop == b"" else (ORIGIN, AS_PATH)
        missing = [ROWS[code].name for code in wanted if code not in seen]
        if missing:
            raise TreatAsWithdraw(f"{', '.join(missing)} missing (RFC 7606 §3 d)")
        if AGGREGATOR not in self._decoded:
            self._decoded.pop(AS4_AGGREGATOR, None)
        called(self._decoded.reconcile_four_octet_as, Code.UPDATE)
        return self._attributes(self._arrays[NEXT_HOP] if next_hop == b"" else next_hop)

    def read_items(self, rest: bytes, *, has_mp_next_hop: bool) -> set[int]:
        """Read the attributes one by one and return the codes that are there; raises as `read` does."""
        items, fault = frame(rest)
        refuse_unknown(items)
        if fault:
            raise TreatAsWithdraw(fault)
        seen: set[int] = set()
        for item in items:
            row = ROWS.get(item.code)
            if item.code in seen:
                self._discard(f"attribute {item.code} stands more than once (RFC 7606 §3 g)")
            elif row is not None:
                self._read_known(row, item, has_mp_next_hop=has_mp_next_hop)
            elif item.code in {AS4_PATH, AS4_AGGREGATOR}:
                self._read_four_octet(item)
            else:
                self._other.append((item.flags & (OPTIONAL_TRANSITIVE | PARTIAL), item.code, item.value))
            seen.add(item.code)
        return seen

    def _discard(self, why: str) -> None:
        self.discarded += 1
        self.problem = self.problem or why

    def _read_known(self, row: AttributeRow, item: Item, *, has_mp_next_hop: bool) -> None:
        if row.code in _INTERNAL_ONLY and self._is_external:
            self._discard(f"{row.name} from an external peer")
            return
        if row.code == NEXT_HOP and has_mp_next_hop:
            return  # RFC 4760 §3: not looked at
        if item.flags & OPTIONAL_TRANSITIVE != row.flags:
            raise TreatAsWithdraw(f"{row.name} with flags 0x{item.flags:02x} (RFC 7606 §3 c)")
        why = self._malformation(row, item)
        if why and row.malformed is Treatment.DISCARD:
            self._discard(why)
        elif why:
            raise TreatAsWithdraw(why)
        elif row.flags == OPTIONAL_TRANSITIVE and row.field != "other":
            self._note_partial(item)

    def _note_partial(self, item: Item) -> None:
        if item.flags & PARTIAL:
            self._partial.append(item.code)

    def _read_four_octet(self, item: Item) -> None:
        """Read AS4_PATH or AS4_AGGREGATOR; not from one who must not send them (RFC 6793 §4.1 and §6)."""
        name = "as4_path" if item.code == AS4_PATH else "as4_aggregator"
        if self._negotiated.asn4:
            self._discard(f"{name} from a peer with four-octet AS numbers (RFC 6793 §4.1)")
            return
        if item.flags & OPTIONAL_TRANSITIVE != OPTIONAL_TRANSITIVE:
            raise TreatAsWithdraw(f"{name} with flags 0x{item.flags:02x} (RFC 7606 §3 c)")
        if not item.value:
            self._discard(f"{name} is empty")
            return
        why = _aggregator_malformation(item) or self._passed_to_exabgp(item, OPTIONAL_TRANSITIVE)
        path = self._decoded.get(AS4_PATH)
        if item.code == AS4_PATH and path is not None:
            if any(0 in segment for segment in path.aspath):
                why = "AS 0 (RFC 7607 §2)"
            elif not all(path.aspath):
                why = "an empty segment (RFC 6793 §6)"
            if why:
                del self._decoded[AS4_PATH]
        if why:
            self._discard(f"{name}: {why}")
        else:
            self._note_partial(item)

    def _malformation(self, row: AttributeRow, item: Item) -> str:
        """Keep what a known attribute says, or return what is wrong with it."""
        size = _ARRAYS.get(row.code)
        if size is not None:
            if not item.value or len(item.value) % size or (row.code in _SINGLE and len(item.value) != size):
                return f"{row.name} of {len(item.value)} octets"
            if row.field == "other":
                self._other.append((item.flags & (OPTIONAL_TRANSITIVE | PARTIAL), item.code, item.value))
            else:
                self._arrays[row.code] = item.value
            return ""
        if not item.value and row.code not in {AS_PATH, ATOMIC_AGGREGATE}:
            return f"{row.name} is empty"
        if row.code == ORIGIN and (len(item.value) != 1 or item.value[0] > Origin.INCOMPLETE):
            return f"origin is {item.value.hex()}"
        why = _aggregator_malformation(item) or self._passed_to_exabgp(item, row.flags)
        return f"{row.name}: {why}" if why else ""

    def _passed_to_exabgp(self, item: Item, flags: int) -> str:
        try:
            decoded = called(
                lambda: Attribute.unpack(item.code, flags, item.value, Direction.IN, self._negotiated), Code.UPDATE
            )
        except PeerError as error:
            return error.text
        self._decoded.add(decoded)
        return ""

    def _attributes(self, next_hop: bytes | None) -> PathAttributes:
        decoded, arrays = self._decoded, self._arrays
        # reconcile_four_octet_as has dropped the AGGREGATOR of AS_TRANS where AS4_AGGREGATOR says who it was
        aggregator = decoded.get(AGGREGATOR, decoded.get(AS4_AGGREGATOR))
        return PathAttributes(
            origin=Origin(decoded[ORIGIN].origin),
            as_path=self._as_path(),
            next_hop=None if next_hop is None else self._next_hop(next_hop),
            link_local=None if next_hop is None or self._link else _link_local(next_hop[16:]),
            med=int(decoded[MED].med) if MED in decoded else None,
            local_pref=int(decoded[LOCAL_PREF].localpref) if LOCAL_PREF in decoded else None,
            atomic_aggregate=ATOMIC_AGGREGATE in decoded,
            aggregator=None
            if aggregator is None
            else (Asn(int(aggregator.asn)), ipaddress.IPv4Address(aggregator.speaker.ton())),
            communities=tuple(sorted(n for (n,) in set(struct.iter_unpack("!I", arrays.get(COMMUNITIES, b""))))),
            originator_id=_router_id(decoded[ORIGINATOR_ID].ton()) if ORIGINATOR_ID in decoded else None,
            cluster_list=tuple(_router_id(c.ton()) for c in decoded[CLUSTER_LIST].clusters)
            if CLUSTER_LIST in decoded
            else (),
            ext_communities=tuple(
                sorted(c for (c,) in set(struct.iter_unpack("8s", arrays.get(EXT_COMMUNITIES, b""))))
            ),
            large_communities=_large_communities(arrays.get(LARGE_COMMUNITIES, b"")),
            other=tuple(self._other),
            partial=tuple(sorted(self._partial)),
        )

    def _next_hop(self, packed: bytes) -> IPAddress:
        """Return the first address; of those of a session over link-local ones that which is one, with its link."""
        of_link = map(_link_local, (packed[16:], packed[:16])) if self._link and len(packed) >= 16 else ()
        link_local = next(filter(None, of_link), None)
        return _host(packed[:16]) if link_local is None else ipaddress.ip_address(f"{link_local}%{self._link}")

    def _as_path(self) -> AsPath:
        path = self._decoded.get(AS_PATH)
        segments = () if path is None else path.aspath
        read = AsPath(tuple((SegmentKind(s.ID), tuple(Asn(int(asn)) for asn in s)) for s in segments))
        if self._first_asn not in {None, read.first}:
            raise TreatAsWithdraw(f"as_path begins with AS {read.first}, not the peer's (RFC 4271 §6.3)")
        for kind, members in read.segments:
            if not members:
                raise TreatAsWithdraw("as_path has an empty segment (RFC 7606 §7.2)")
            if 0 in members:
                raise TreatAsWithdraw("as_path has AS 0 (RFC 7607 §2)")
            if self._is_external and kind in CONFEDERATION:
                raise TreatAsWithdraw("as_path has a confederation segment from outside (RFC 5065 §5)")
        return read


@functools.lru_cache(maxsize=4_096)
def _large_communities(packed: bytes) -> tuple[tuple[int, int, int], ...]:
    """Return them sorted, each once; one object for the same, which many nodes say of workloads (`policy.identity`)."""
    return tuple(sorted(set(struct.iter_unpack("!III", packed))))


def _aggregator_malformation(item: Item) -> str:
    """Return what ExaBGP lets pass in AGGREGATOR and AS4_AGGREGATOR: AS 0 (RFC 7607 §2)."""
    is_aggregator = item.code in {AGGREGATOR, AS4_AGGREGATOR}
    return "AS 0 (RFC 7607 §2)" if is_aggregator and not any(item.value[:-4]) else ""


def _host(packed: bytes) -> IPAddress:
    """Return a next hop; raises TreatAsWithdraw where it can be no host (RFC 4271 §6.3)."""
    address = ipaddress.ip_address(packed)
    if not is_host(address):
        raise TreatAsWithdraw(f"next_hop {address} is no host")
    return address


def _link_local(packed: bytes) -> IPAddress | None:
    """Return the second address of an IPv6 next hop, where it is what it should be (RFC 2545 §3)."""
    address = ipaddress.ip_address(packed) if packed else None
    return address if address is not None and address.is_link_local else None


def _router_id(packed: bytes) -> RouterId:
    return RouterId(int.from_bytes(packed, "big"))
