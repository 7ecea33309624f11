"""BGP bytes to values and back, with ExaBGP as the protocol engine.

    codec      messages, and the UPDATEs that the fast path leaves alone
      opening    OPENs: capabilities, what two of them agree on
      reading    attribute sets, by the table of RFC 7606
      flows      flow specifications
      foreign    how ExaBGP is called: any exception of it becomes one of ours, as the bytes are the peer's

Nothing else knows it. It encodes and decodes OPENs, negotiates, decodes attributes and prefixes; what it has not, or
has otherwise than we need it, stands at the head of each of these.

RFC 2918, RFC 4271 §4 and §6, RFC 4760, RFC 7313 §4 and §5, RFC 7606 §5, RFC 7911, RFC 8654.
"""

from __future__ import annotations

import dataclasses
import operator
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from exabgp.bgp.message import KeepAlive, Notify
from exabgp.bgp.message import Message as ExaMessage
from exabgp.bgp.message.action import Action
from exabgp.bgp.message.direction import Direction
from exabgp.bgp.message.refresh import RouteRefresh as ExaRouteRefresh
from exabgp.bgp.message.update import EOR
from exabgp.protocol.family import AFI, SAFI
from exabgp.protocol.ip import NoNextHop

from bgpmesh.errors import PeerError
from bgpmesh.frozen import frozen
from bgpmesh.peering.message import (
    Code,
    EndOfRib,
    Keepalive,
    Message,
    Negotiated,
    Notification,
    Open,
    Refresh,
    RouteRefresh,
)
from bgpmesh.peering.peer import Peer
from bgpmesh.rib.export import Batch
from bgpmesh.route.attributes import Asn, PathAttributes
from bgpmesh.route.flow import Flow, FlowKey
from bgpmesh.route.nlri import ROUTED, Family, Nlri, link_of
from bgpmesh.wire.fastpath import (
    EXTENDED_LENGTH,
    EXTENDED_SIZE,
    HEADER_SIZE,
    MARKER,
    MESSAGE_SIZE,
    MP_REACH,
    MP_UNREACH,
    UPDATE,
    UPDATE_MINIMUM,
    Context,
    Interned,
    Routes,
    Table,
    bound,
    cut,
    decode_updates,
)
from bgpmesh.wire.flows import Flows, flow_keys, flow_of, has_flows, mp_family
from bgpmesh.wire.foreign import called, quieten
from bgpmesh.wire.opening import OPEN, Opening
from bgpmesh.wire.packing import (
    FAMILIES,
    announcements,
    encode_attributes,
    message,
    update_body,
    withdrawals,
)
from bgpmesh.wire.reading import Item, Reading, TreatAsWithdraw, frame, refuse_unknown

__all__ = ["Codec", "Decoded", "Flows", "Garbage", "Routes"]

NOTIFICATION, KEEPALIVE, ROUTE_REFRESH = 3, 4, 5
_MINIMUM = {OPEN: 29, UPDATE: UPDATE_MINIMUM, NOTIFICATION: 21, KEEPALIVE: 19, ROUTE_REFRESH: 19}  # RFC 4271 §6.1


@frozen
class Garbage:
    """What ends the session: the NOTIFICATION it earns, and why in words. Nothing is decoded behind it."""

    notification: Notification
    text: str


Decoded = Negotiated | Keepalive | RouteRefresh | EndOfRib | Notification | Routes | Flows | Garbage

_value_of = operator.attrgetter(*(field.name for field in dataclasses.fields(PathAttributes)))

# What distinguishes negotiation classes: four-octet AS numbers, an external session, the AS that must come
# first. The tables are shared by all connections of a class and outlive them, so that a set keeps its
# object over a flap.
_TABLES: dict[tuple[bool, bool, Asn | None, str], Table] = {}
_ENCODED: dict[bool, dict[object, bytes]] = {True: {}, False: {}}  # by four-octet AS numbers


def _first_asn(peer: Peer) -> Asn | None:
    """Return the AS that each AS_PATH of the peer has to begin with (RFC 4271 §6.3), None where that is not asked."""
    return peer.asn if peer.is_external and peer.enforce_first_as else None


class Codec:
    """The bytes of one connection; `feed` takes what was read, `encode` gives what to write.

    A peer's OPEN is negotiated against ours: one that comes before ours was encoded waits, and what is
    behind it. Call `feed(b"", now)` after encoding ours.
    """

    def __init__(self, peer: Peer) -> None:
        quieten()
        self._peer = peer
        self._buffer = b""
        self._opening = Opening(peer.asn)
        self._is_dead = False
        self._is_refresh_enhanced = False
        self._longest_in = self._longest_out = MESSAGE_SIZE  # octets of a message: what we take, what the peer does
        self._context: Context | None = None  # once negotiated
        self._four_octet_asn = True
        self._first_asn = _first_asn(peer)
        self._table = Table()  # the class's, once negotiated

    def configure(self, peer: Peer) -> None:
        """Go on with a peer that is configured otherwise under the same session."""
        self._peer, self._first_asn = peer, _first_asn(peer)
        if self._context is not None:
            was = self._context
            self._context = self._joined(was.families, was.with_path_ids, has_ipv6_next_hops=was.has_ipv6_next_hops)

    # ── out ──────────────────────────────────────────────────────────────────

    def encode(self, message: Message) -> bytes:
        """Return the message with its header; our OPEN is remembered for the negotiation."""
        match message:
            case Open():
                self._longest_in = EXTENDED_SIZE if message.capabilities.extended_message else MESSAGE_SIZE
                return self._opening.encode(message)
            case Keepalive():
                return bytes(KeepAlive().message())
            case RouteRefresh(family, kind):
                return bytes(ExaRouteRefresh(family.afi, family.safi, int(kind)).message())
            case EndOfRib(family):
                return bytes(EOR(AFI.create(family.afi), SAFI.create(family.safi)).message())
            case Notification(code, subcode, data):
                return bytes(Notify(code, subcode, data[: MESSAGE_SIZE - HEADER_SIZE - 2]).message())

    def encode_batch(self, batch: Batch) -> list[bytes]:
        """Return the UPDATEs that announce or withdraw a batch; made once for the update group.

        Withdraws where the attributes leave no room for a prefix: the peer must not keep an older path.
        """
        if batch.encoded is not None:
            return batch.encoded
        updates: list[bytes] = []
        if batch.nlris:
            if batch.attributes is not None:
                encoded = self._encoded_attributes(batch.attributes)
                updates = list(announcements(batch.family, batch.attributes, encoded, batch.nlris, self._longest_out))
            if not updates:
                updates = list(withdrawals(batch.family, batch.nlris, self._longest_out))
        batch.encoded = updates
        return updates

    def _encoded_attributes(self, attributes: PathAttributes) -> bytes:
        encoded, key = _ENCODED[self._four_octet_asn], _value_of(attributes)
        found = encoded.get(key)
        if found is None:
            found = encode_attributes(attributes, four_octet_asn=self._four_octet_asn)
            if len(found) <= MESSAGE_SIZE:
                bound(encoded)
                encoded[key] = found
        return found

    # ── in ───────────────────────────────────────────────────────────────────

    def feed(self, data: bytes, now: float) -> list[Decoded]:
        """Return what the messages completed by `data` say, in order; `now` is when they were read.

        Any chunking gives the same, but that UPDATEs of one attribute set in one chunk may be joined.
        After Garbage nothing more is decoded.
        """
        if self._is_dead:
            return []
        buffer = self._buffer + data
        decoded: list[Decoded] = []
        at = 0
        try:
            while True:
                if self._context is not None:
                    routes, at = decode_updates(buffer, at, self._context, now)
                    decoded += routes
                stop = _end_of_message(buffer, at, self._longest_in)
                if stop is None or (buffer[at + 18] == OPEN and self._opening.sent is None):
                    break
                decoded += self._decode(buffer[at + 18], buffer[at + HEADER_SIZE : stop], now)
                at = stop
        except PeerError as error:
            self._is_dead = True
            decoded.append(Garbage(Notification(error.code, error.subcode, error.data), error.text))
        self._buffer = b"" if self._is_dead else buffer[at:]
        return decoded

    def _decode(self, kind: int, body: bytes, now: float) -> list[Decoded]:
        """Return what one message says; raises PeerError."""
        if kind == OPEN:
            negotiated = self._opening.decode(body)
            self._begin(negotiated)
            return [negotiated]
        if kind == NOTIFICATION:
            return [Notification(body[0], body[1], body[2:])]
        if kind == KEEPALIVE:
            return [Keepalive()]
        if self._context is None:
            raise PeerError(Code.STATE_MACHINE, 1, "UPDATE or ROUTE-REFRESH before OPEN")
        if kind == ROUTE_REFRESH:
            return _decode_refresh(body, self._context, is_enhanced=self._is_refresh_enhanced)
        return self._decode_update(body, self._context, now)

    def _begin(self, negotiated: Negotiated) -> None:
        """Go by what was agreed from here on."""
        self._four_octet_asn = negotiated.four_octet_asn
        self._longest_out = negotiated.message_size
        offers = (negotiated.sent.capabilities, negotiated.received.capabilities)
        self._is_refresh_enhanced = all(offer.enhanced_refresh for offer in offers)
        self._context = self._joined(
            frozenset(negotiated.families), negotiated.path_ids_in, has_ipv6_next_hops=negotiated.ipv6_next_hops
        )

    def _joined(
        self, families: frozenset[Family], with_path_ids: frozenset[Family], *, has_ipv6_next_hops: bool
    ) -> Context:
        """Return the context of the class that this session is of: what was decoded for one is for all of it."""
        negotiation_class = (self._four_octet_asn, self._peer.is_external, self._first_asn, link_of(self._peer.address))
        self._table = _TABLES.setdefault(negotiation_class, Table())
        return Context(families, self._table, self._intern, with_path_ids, self._longest_in, has_ipv6_next_hops)

    # ── UPDATE, the slow way ─────────────────────────────────────────────────

    def _decode_update(self, body: bytes, context: Context, now: float) -> list[Decoded]:
        """Return what an UPDATE says that the fast path left alone; raises PeerError.

        ExaBGP judges the MP attributes, and reads the prefixes where a field of them is not sound: of those that are it
        sees one, as it takes two seconds for a message full of them. `_intern` reads the other attributes.
        """
        withdrawn, attributes, announced = _sections(body)
        items, fault = frame(attributes)
        mp = {item.code: item for item in items if item.code in {MP_REACH, MP_UNREACH}}
        if len(mp) < sum(item.code in mp for item in items):
            raise PeerError(Code.UPDATE, 1, "MP_REACH_NLRI or MP_UNREACH_NLRI stands twice (RFC 7606 §3 g)")
        refuse_unknown(items)
        rest = b"".join(item.raw for item in items if item.code not in mp)
        of_flows = [item for item in mp.values() if has_flows(item, context)]
        if of_flows:
            found = self._flows(of_flows, rest, fault)
            if not (withdrawn or announced) and len(of_flows) == len(mp):
                return [found]
            behind = attributes[
                sum(len(item.raw) for item in items) :
            ]  # what is wrong with the framing, if anything is
            others = b"".join(item.raw for item in items if item not in of_flows) + behind
            return [found, *self._decode_update(update_body(withdrawn, others, announced), context, now)]
        if (withdrawn or announced) and Family.IPV4 not in context.families:
            if not mp:
                return [Routes(None, [], [], now, problem="ignored IPv4 prefixes: the family was not agreed")]
            withdrawn = announced = b""
        mp_raw = b"".join(item.raw for item in mp.values())
        sound = _cut(withdrawn, announced, mp, context)
        bare = update_body(withdrawn, mp_raw, announced) if sound is None else sound[1]
        try:
            update = called(lambda: ExaMessage.unpack(UPDATE, bare, Direction.IN, self._opening.exabgp), Code.UPDATE)
        except PeerError as error:
            subcode, lead = error.subcode, context.lead(Family.IPV4)
            if subcode == 10 and cut(withdrawn, 32, lead) is not None and cut(announced, 32, lead) is not None:
                subcode = 9  # it is in an MP attribute (RFC 4760 §7)
            raise PeerError(error.code, subcode, error.text, mp_raw if subcode == 9 else b"") from error
        if isinstance(update, EOR):
            self._check_without_routes(rest, fault)
            marked = update.nlris[0]
            family = FAMILIES.get((int(marked.afi), int(marked.safi)))
            return [EndOfRib(family)] if family in context.families and not rest else []
        if update.attributes:  # it was given the MP ones only and took them out; what it adds is its refusal
            raise PeerError(Code.UPDATE, 9, "MP_REACH_NLRI or MP_UNREACH_NLRI is empty", mp_raw)
        prefixes = _keys(update, mp.get(MP_REACH))
        return list(self._routes(prefixes if sound is None else sound[0], rest, fault, now))

    def _routes(self, prefixes: _Prefixes, rest: bytes, fault: str, now: float) -> list[Routes]:
        """Return the routes of one UPDATE, or all of it withdrawn where its framing (`fault`) or a set is malformed."""
        groups = [(b"", prefixes.with_next_hop), (prefixes.mp_next_hop, prefixes.with_mp)]
        groups = [(next_hop, keys) for next_hop, keys in groups if keys]
        if not groups:
            self._check_without_routes(rest, fault)
            return [Routes(None, [], prefixes.withdrawn, now)] if prefixes.withdrawn else []
        sets = [] if fault else [self._interned(next_hop, rest) for next_hop, _ in groups]
        problem = fault or next((found.problem for found in sets if found.attributes is None), "")
        if problem:
            everything = prefixes.withdrawn + prefixes.with_next_hop + prefixes.with_mp
            return [Routes(None, [], everything, now, treated_as_withdraw=1, problem=problem)]
        routes = [Routes(found.attributes, keys, [], now) for found, (_, keys) in zip(sets, groups, strict=True)]
        routes[0].withdrawn = prefixes.withdrawn
        routes[0].attributes_discarded, routes[0].problem = sets[0].discarded, sets[0].problem
        return routes

    def _flows(self, items: Iterable[Item], rest: bytes, fault: str) -> Flows:
        """Return what the MP attributes with flow specifications say; raises PeerError where they cannot be cut.

        One that cannot be read is withdrawn alone: the others stand whole beside it (RFC 8955 §10, RFC 7606 §5.4).
        """
        announced: list[Flow] = []
        withdrawn: list[FlowKey] = []
        unread: list[FlowKey] = []
        for item in items:
            keys = list(flow_keys(item))
            if item.code == MP_UNREACH:
                withdrawn += keys
                continue
            for key in keys:
                flow = flow_of(key)
                if flow is None:
                    unread.append(key)
                else:
                    announced.append(flow)
        if not announced and not unread:
            self._check_without_routes(rest, fault)
            return Flows(None, (), tuple(withdrawn))
        reading = self._reading()
        try:
            if fault:
                raise TreatAsWithdraw(fault)
            attributes = reading.read(None, rest)
        except TreatAsWithdraw as reason:
            everything = (*withdrawn, *unread, *(flow.key for flow in announced))
            return Flows(None, (), everything, 1, reading.discarded, str(reason))
        problem = f"flow specification {unread[0].nlri.hex()} is malformed (RFC 8955 §4.2)" if unread else ""
        return Flows(
            attributes if announced else None,
            tuple(announced),
            (*withdrawn, *unread),
            treated_as_withdraw=int(bool(unread)),
            attributes_discarded=reading.discarded,
            problem=problem or reading.problem,
        )

    def _check_without_routes(self, rest: bytes, fault: str) -> None:
        """Raise PeerError where an UPDATE that announces nothing has malformed attributes.

        What it was to announce may have been lost in them, so no withdrawal would do (RFC 7606 §5.2).
        """
        reading = Reading(self._opening.exabgp, is_external=self._peer.is_external, first_asn=None)
        try:
            if fault:
                raise TreatAsWithdraw(fault)
            reading.read_items(rest, has_mp_next_hop=True)  # no next hop is looked at where nothing has one
        except TreatAsWithdraw as reason:
            raise PeerError(Code.UPDATE, 1, f"{reason}, and no prefix is announced (RFC 7606 §5.2)") from reason

    def _reading(self) -> Reading:
        peer = self._peer
        return Reading(
            self._opening.exabgp,
            is_external=peer.is_external,
            first_asn=self._first_asn,
            link=link_of(peer.address),
        )

    def _interned(self, next_hop: bytes, rest: bytes) -> Interned:
        return self._table.sets.get((next_hop, rest)) or self._intern(next_hop, rest)

    def _intern(self, next_hop: bytes, rest: bytes) -> Interned:
        """Decode a set of attribute bytes and remember it; raises PeerError for what resets the session."""
        reading = self._reading()
        try:
            interned = Interned(reading.read(next_hop, rest), reading.discarded, reading.problem)
        except TreatAsWithdraw as reason:
            interned = Interned(None, reading.discarded, str(reason))
        self._table.keep(next_hop, rest, interned)
        return interned


# ── in: messages ─────────────────────────────────────────────────────────────


def _end_of_message(buffer: bytes, at: int, longest: int) -> int | None:
    """Return where the message at `at` ends, None while it is not whole; raises PeerError (RFC 4271 §6.1).

    We take up to `longest` octets of it; not of an OPEN or a KEEPALIVE, which are never extended (RFC 8654 §4).
    """
    if len(buffer) - at < HEADER_SIZE:
        return None
    marker, length, kind = struct.unpack_from("!16sHB", buffer, at)
    if marker != MARKER:
        raise PeerError(Code.HEADER, 1, "the marker is not all ones")
    most = {OPEN: MESSAGE_SIZE, KEEPALIVE: HEADER_SIZE}.get(kind, longest)
    if not _MINIMUM.get(kind, HEADER_SIZE) <= length <= most:
        text = f"{length} octets is no length of a message of type {kind}"
        raise PeerError(Code.HEADER, 2, text, length.to_bytes(2, "big"))
    if kind not in _MINIMUM:
        raise PeerError(Code.HEADER, 3, f"message type {kind} is not known", bytes((kind,)))
    return at + length if at + length <= len(buffer) else None


def _decode_refresh(body: bytes, context: Context, *, is_enhanced: bool) -> list[Decoded]:
    """Return the request, or BoRR or EoRR where that was agreed; other subtypes and families are ignored.

    RFC 2918 §4, RFC 7313 §4 and §5.
    """
    if len(body) != 4:
        whole = message(ROUTE_REFRESH, body)
        raise PeerError(Code.ROUTE_REFRESH, 1, f"ROUTE-REFRESH with {len(body)} octets instead of 4", whole)
    afi, subtype, safi = struct.unpack("!HBB", body)
    family = FAMILIES.get((afi, safi))
    known = {Refresh.REQUEST, Refresh.BEGIN, Refresh.END} if is_enhanced else {Refresh.REQUEST}
    return [RouteRefresh(family, Refresh(subtype))] if family in context.families and subtype in known else []


# ── in: UPDATE ───────────────────────────────────────────────────────────────


def _sections(body: bytes) -> tuple[bytes, bytes, bytes]:
    """Return withdrawn routes, path attributes and NLRI; raises PeerError (RFC 4271 §6.3)."""
    attributes_at = 4 + int.from_bytes(body[:2], "big")
    nlri_at = attributes_at + int.from_bytes(body[attributes_at - 2 : attributes_at], "big")
    if attributes_at > len(body) or nlri_at > len(body):
        raise PeerError(Code.UPDATE, 1, "the lengths inside the UPDATE exceed it")
    return body[2 : attributes_at - 2], body[attributes_at:nlri_at], body[nlri_at:]


class _Prefixes(NamedTuple):
    """The keys of an UPDATE."""

    withdrawn: list[Nlri]
    with_next_hop: list[Nlri]
    with_mp: list[Nlri]
    mp_next_hop: bytes


def _cut(withdrawn: bytes, announced: bytes, mp: dict[int, Item], context: Context) -> tuple[_Prefixes, bytes] | None:
    """Return the keys of an UPDATE, and one like it with the first prefix of each field; None where one is unsound."""
    fields = [(withdrawn, Family.IPV4), (announced, Family.IPV4)]
    heads: list[bytes] = []
    for item in mp.values():
        family, value = mp_family(item), item.value
        at = 3 if item.code == MP_UNREACH else 5 + value[3] if len(value) > 3 else len(value)
        if family not in ROUTED or family not in context.families or at >= len(value):
            return None
        heads.append(value[:at])
        fields.append((value[at:], family))
    keys = [cut(field, family.bits, context.lead(family)) for field, family in fields]
    if any(each is None for each in keys):
        return None
    firsts = [_first(field, context.lead(family)) for field, family in fields]
    of_mp = {code: found for code, found in zip(mp, keys[2:], strict=True) if found is not None}
    samples = b"".join(
        bytes((item.flags, item.code))
        + (len(head) + len(first)).to_bytes(2 if item.flags & EXTENDED_LENGTH else 1, "big")
        + head
        + first
        for item, head, first in zip(mp.values(), heads, firsts[2:], strict=True)
    )
    reach = mp.get(MP_REACH)
    prefixes = _Prefixes(
        (keys[0] or []) + of_mp.get(MP_UNREACH, []),
        keys[1] or [],
        of_mp.get(MP_REACH, []),
        b"" if reach is None else reach.value[4 : 4 + reach.value[3]],
    )
    return prefixes, update_body(firsts[0], samples, firsts[1])


def _first(field: bytes, lead: int) -> bytes:
    """Return the first prefix of a sound field as it stands, b"" where there is none."""
    return field[: lead + 1 + (field[lead] + 7) // 8] if field else b""


def _keys(update: Any, reach: Item | None) -> _Prefixes:
    """Return the keys that ExaBGP found; it was not given NEXT_HOP, so only MP_REACH_NLRI gives a prefix one.

    Raises PeerError for a next hop that ExaBGP lets pass where IPv4 may have IPv6 ones.
    """
    mp_next_hop = b"" if reach is None else reach.value[4 : 4 + reach.value[3]]
    if reach is not None and len(mp_next_hop) == 4 and mp_family(reach) is Family.IPV6:
        raise PeerError(Code.UPDATE, 9, "MP_REACH_NLRI: IPv6 prefixes with an IPv4 next hop", reach.raw)
    found = _Prefixes([], [], [], mp_next_hop)
    for nlri in update.nlris:
        packed, length = nlri.cidr.ton(), int(nlri.cidr.mask)
        shift = len(packed) * 8 - length
        path_id = nlri.path_info.path_info  # b"" where there are none
        key = Nlri(
            path_id + bytes((length,)) + (int.from_bytes(packed, "big") >> shift << shift).to_bytes(len(packed), "big")
        )
        if nlri.action == Action.WITHDRAW:
            found.withdrawn.append(key)
        else:
            (found.with_next_hop if nlri.nexthop is NoNextHop else found.with_mp).append(key)
    # It has one NLRI for each of the one or two addresses of an IPv6 next hop.
    return found._replace(with_mp=found.with_mp[::2]) if len(mp_next_hop) == 32 else found
