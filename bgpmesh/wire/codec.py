"""BGP bytes to values and back, with ExaBGP as the protocol engine. The only module that knows it.

ExaBGP encodes and decodes OPENs, negotiates, decodes attributes and every UPDATE that the fast path
leaves alone. What it has not, or has otherwise than we need it, is here:

* RFC 7606 is acted on here, by the table `ATTRIBUTES`: flags, lengths, duplicates and missing
  attributes become a withdrawal, a discard or the end of the session. ExaBGP only notes them.
* Only the capabilities that we act on reach it: it would end the session for a host name cut short.
* ORIGIN above 2, AS 0 (RFC 7607), empty segments and next hops that are no host pass in ExaBGP.
* Community attributes are arrays of numbers and read as such: ExaBGP sorts the list again for each
  member, which takes 20 ms for one full message, and every distinct set of a peer would cost that.
* Any exception of it that is not a `Notify` becomes one: the bytes are the peer's.
* Flow specifications are cut here, so that each keeps its bytes: they are its key, and what its order goes by. ExaBGP
  reads what is in one; it passes over one that it cannot read, and over an address that stands twice.
* The graceful-restart capability has the R, N and F bits that our `Capabilities` say, and nothing is
  offered that we do not handle (ExaBGP would add a host name).

RFC 2918, RFC 4271 §4 and §6, RFC 4760, RFC 5492, RFC 6793, RFC 7313 §4 and §5, RFC 7606, RFC 7607, RFC 7911,
RFC 8538 §2, RFC 8654, RFC 8955 §4, RFC 8956 §3, RFC 9072, RFC 9494 §3.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import operator
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from exabgp.bgp.message import KeepAlive, Notify
from exabgp.bgp.message import Message as ExaMessage
from exabgp.bgp.message import Open as ExaOpen
from exabgp.bgp.message.action import Action
from exabgp.bgp.message.direction import Direction
from exabgp.bgp.message.open.asn import ASN
from exabgp.bgp.message.open.capability import Capabilities as ExaCapabilities
from exabgp.bgp.message.open.capability import Graceful
from exabgp.bgp.message.open.capability import Negotiated as ExaNegotiated
from exabgp.bgp.message.open.capability.addpath import AddPath as ExaAddPath
from exabgp.bgp.message.open.capability.capability import Capability
from exabgp.bgp.message.open.holdtime import HoldTime
from exabgp.bgp.message.open.routerid import RouterID
from exabgp.bgp.message.open.version import Version
from exabgp.bgp.message.refresh import RouteRefresh as ExaRouteRefresh
from exabgp.bgp.message.update import EOR
from exabgp.bgp.message.update.attribute import Attribute, Attributes
from exabgp.bgp.message.update.nlri import NLRI
from exabgp.bgp.neighbor import Neighbor
from exabgp.environment import getenv
from exabgp.logger import log as exabgp_log
from exabgp.protocol.family import AFI, SAFI
from exabgp.protocol.ip import NoNextHop

from bgpmesh.errors import PeerError
from bgpmesh.peering.message import (
    Capabilities,
    Code,
    EndOfRib,
    GracefulRestart,
    Keepalive,
    LongLived,
    Message,
    Negotiated,
    Notification,
    Open,
    PathIds,
    Refresh,
    RouteRefresh,
)
from bgpmesh.peering.peer import Peer
from bgpmesh.rib.export import Batch
from bgpmesh.route import roles
from bgpmesh.route.attributes import (
    OPTIONAL_NON_TRANSITIVE,
    OPTIONAL_TRANSITIVE,
    Asn,
    AsPath,
    AttributeRow,
    Origin,
    PathAttributes,
    RouterId,
    SegmentKind,
    Treatment,
)
from bgpmesh.route.flow import Comparison, Component, Field, Flow, FlowKey, Kind, flow_prefix
from bgpmesh.route.nlri import FLOWSPEC, ROUTED, Family, IPAddress, Nlri
from bgpmesh.wire.fastpath import (
    EXTENDED_LENGTH,
    EXTENDED_SIZE,
    HEADER_SIZE,
    MARKER,
    MESSAGE_SIZE,
    MP_REACH,
    MP_UNREACH,
    PARTIAL,
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
    announcements,
    encode_attributes,
    message,
    update_body,
    withdrawals,
)

__all__ = ["Codec", "Decoded", "Flows", "Garbage", "Routes"]

OPEN, NOTIFICATION, KEEPALIVE, ROUTE_REFRESH = 1, 3, 4, 5
_MINIMUM = {OPEN: 29, UPDATE: UPDATE_MINIMUM, NOTIFICATION: 21, KEEPALIVE: 19, ROUTE_REFRESH: 19}  # RFC 4271 §6.1
_INTERNAL_ONLY = {LOCAL_PREF, ORIGINATOR_ID, CLUSTER_LIST}  # RFC 7606 §7.5, §7.9, §7.10
_ADD_PATH = 69
_UNDERSTOOD = {1, 2, 6, 64, 65, _ADD_PATH, 70}  # capability codes with a field of their own
_ARRAYS = {  # octets of a member
    NEXT_HOP: 4,
    COMMUNITIES: 4,
    EXT_COMMUNITIES: 8,
    IPV6_EXT_COMMUNITIES: 20,
    LARGE_COMMUNITIES: 12,
    ONLY_TO_CUSTOMER: 4,
}
_SINGLE = {NEXT_HOP, ONLY_TO_CUSTOMER}  # those of one member
_FAMILIES = {(family.afi, family.safi): family for family in Family}
_SURVIVES_NOTIFICATION = 0x4  # the N bit, behind the R bit (RFC 8538 §2)
_EXTENDED_NEXT_HOP = 5
_IPV4_BY_IPV6 = struct.pack("!HHH", 1, 1, 2)  # IPv4 unicast may have IPv6 next hops (RFC 8950 §4)
_LONG_LIVED = 71  # a capability that ExaBGP does not know (RFC 9494 §3)


@dataclass(frozen=True, slots=True)
class Garbage:
    """What ends the session: the NOTIFICATION it earns, and why in words. Nothing is decoded behind it."""

    notification: Notification
    text: str


@dataclass(frozen=True, slots=True)
class Flows:
    """What one UPDATE says of flow specifications: those announced, with these attributes, and those withdrawn."""

    attributes: PathAttributes | None  # None where none is announced
    announced: tuple[Flow, ...]
    withdrawn: tuple[FlowKey, ...]
    treated_as_withdraw: int = 0  # 0 or 1
    attributes_discarded: int = 0
    problem: str = ""  # what was malformed, in words


Decoded = Negotiated | Keepalive | RouteRefresh | EndOfRib | Notification | Routes | Flows | Garbage

_value_of = operator.attrgetter(*(field.name for field in dataclasses.fields(PathAttributes)))

# What distinguishes negotiation classes: four-octet AS numbers, an external session, the AS that must come
# first. The tables are shared by all connections of a class and outlive them, so that a set keeps its
# object over a flap.
_TABLES: dict[tuple[bool, bool, Asn | None], Table] = {}
_ENCODED: dict[bool, dict[object, bytes]] = {True: {}, False: {}}  # by four-octet AS numbers


def _first_asn(peer: Peer) -> Asn | None:
    """Return the AS that each AS_PATH of the peer has to begin with (RFC 4271 §6.3), None where that is not asked."""
    return peer.asn if peer.is_external and peer.enforce_first_as else None


@functools.cache
def _quieten_exabgp() -> None:
    """Set what ExaBGP keeps for the whole process: no log (a decoded UPDATE would write one), no caches of its own."""
    settings = getenv()
    settings.log.enable = False
    settings.cache.attributes = False
    exabgp_log.init(settings)


class Codec:
    """The bytes of one connection; `feed` takes what was read, `encode` gives what to write.

    A peer's OPEN is negotiated against ours: one that comes before ours was encoded waits, and what is
    behind it. Call `feed(b"", now)` after encoding ours.
    """

    def __init__(self, peer: Peer) -> None:
        _quieten_exabgp()
        self._peer = peer
        self._buffer = b""
        self._sent: Open | None = None
        self._is_dead = False
        self._is_refresh_enhanced = False
        self._longest_in = self._longest_out = MESSAGE_SIZE  # octets of a message: what we take, what the peer does
        self._context: Context | None = None  # once negotiated
        self._exabgp: Any = None  # ExaBGP's Negotiated, once our OPEN is encoded
        self._neighbor: Any = None
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
                return self._encode_open(message)
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

    def _encode_open(self, ours: Open) -> bytes:
        self._neighbor, sent, encoded = _offer(ours, self._peer.asn)
        self._exabgp = ExaNegotiated(self._neighbor)
        self._exabgp.sent(sent)
        self._sent = ours
        self._longest_in = EXTENDED_SIZE if ours.capabilities.extended_message else MESSAGE_SIZE
        return encoded

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
                if stop is None or (buffer[at + 18] == OPEN and self._sent is None):
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
            return [self._decode_open(body)]
        if kind == NOTIFICATION:
            return [Notification(body[0], body[1], body[2:])]
        if kind == KEEPALIVE:
            return [Keepalive()]
        if self._context is None:
            raise PeerError(Code.STATE_MACHINE, 1, "UPDATE or ROUTE-REFRESH before OPEN")
        if kind == ROUTE_REFRESH:
            return _decode_refresh(body, self._context, is_enhanced=self._is_refresh_enhanced)
        return self._decode_update(body, self._context, now)

    def _decode_open(self, body: bytes) -> Negotiated:
        """Return what both OPENs agree on, with the refusal where they do not (RFC 4271 §6.2)."""
        if body[0] != 4:
            raise PeerError(Code.OPEN, 1, f"BGP version {body[0]} instead of 4", b"\0\4")
        capabilities = tuple(_capabilities(body[9:]))
        # ExaBGP also judges what we only show, and looks at the length that does not count (RFC 9072 §2).
        plain = body[:9] + _parameters(each for each in capabilities if _is_understood(*each))
        theirs = _called(lambda: ExaMessage.unpack(OPEN, plain, Direction.IN, self._exabgp), Code.OPEN)
        _called(lambda: self._exabgp.received(theirs), Code.OPEN)
        received = _open(theirs, int.from_bytes(body[5:9], "big"), capabilities)
        sent = self._sent
        assert sent is not None  # `feed` waits for it
        families = tuple(f for f in sent.capabilities.families if f in received.capabilities.families)
        self._four_octet_asn = bool(self._exabgp.asn4)
        offers = (sent.capabilities, received.capabilities)
        self._is_refresh_enhanced = all(offer.enhanced_refresh for offer in offers)
        self._longest_out = EXTENDED_SIZE if received.capabilities.extended_message else MESSAGE_SIZE
        self._exabgp.families = [(AFI.create(f.afi), SAFI.create(f.safi)) for f in families]
        paths = self._exabgp.addpath
        path_ids_in = frozenset(f for f in families if paths.receive(AFI.create(f.afi), SAFI.create(f.safi)))
        path_ids_out = frozenset(f for f in families if paths.send(AFI.create(f.afi), SAFI.create(f.safi)))
        has_ipv6_next_hops = sent.capabilities.ipv6_next_hops and received.capabilities.ipv6_next_hops
        self._exabgp.nexthop = [(AFI.ipv4, SAFI.unicast, AFI.ipv6)] if has_ipv6_next_hops else []
        self._context = self._joined(frozenset(families), path_ids_in, has_ipv6_next_hops=has_ipv6_next_hops)
        refusal, text = self._refusal(sent, received)
        return Negotiated(
            sent=sent,
            received=received,
            hold_time=int(self._exabgp.holdtime),
            families=families,
            four_octet_asn=self._four_octet_asn,
            message_size=self._longest_out,
            path_ids_in=path_ids_in,
            path_ids_out=path_ids_out,
            ipv6_next_hops=has_ipv6_next_hops,
            refusal=refusal,
            refusal_text=text,
        )

    def _joined(
        self, families: frozenset[Family], with_path_ids: frozenset[Family], *, has_ipv6_next_hops: bool
    ) -> Context:
        """Return the context of the class that this session is of: what was decoded for one is for all of it."""
        negotiation_class = (self._four_octet_asn, self._peer.is_external, self._first_asn)
        self._table = _TABLES.setdefault(negotiation_class, Table())
        return Context(families, self._table, self._intern, with_path_ids, self._longest_in, has_ipv6_next_hops)

    def _refusal(self, sent: Open, received: Open) -> tuple[Notification | None, str]:
        """Return why the session cannot be: what ExaBGP's validation says, with the real AS numbers, and more."""
        if received.asn == 0:
            return Notification(Code.OPEN, 2), "the peer says AS 0, which is reserved (RFC 7607)"
        if received.router_id == sent.router_id and received.asn == sent.asn:  # ExaBGP compares two octets of the AS
            return Notification(Code.OPEN, 3), f"the peer has our router id {ipaddress.IPv4Address(sent.router_id)}"
        if received.asn != self._peer.asn:
            return Notification(Code.OPEN, 2), f"the peer says AS {received.asn}, expected AS {self._peer.asn}"
        if words := roles.mismatch(sent.capabilities.other, received.capabilities.other):
            return Notification(Code.OPEN, 11), words
        refused = _called(lambda: self._exabgp.validate(self._neighbor), Code.OPEN)
        if refused is None:
            return _refusal_of_families(sent.capabilities.families, received.capabilities.families)
        code, subcode, text = refused
        match subcode:
            case 3:
                text = f"router id {ipaddress.IPv4Address(received.router_id)} is not valid"
            case 6:
                text = f"hold time {received.hold_time} s is below the minimum of 3 s (RFC 4271 §6.2)"
        return Notification(code, subcode), text

    # ── UPDATE, the slow way ─────────────────────────────────────────────────

    def _decode_update(self, body: bytes, context: Context, now: float) -> list[Decoded]:
        """Return what an UPDATE says that the fast path left alone; raises PeerError.

        ExaBGP reads the prefixes and the MP attributes, `_intern` the other ones.
        """
        withdrawn, attributes, announced = _sections(body)
        items, fault = _frame(attributes)
        mp = {item.code: item for item in items if item.code in {MP_REACH, MP_UNREACH}}
        if len(mp) < sum(item.code in mp for item in items):
            raise PeerError(Code.UPDATE, 1, "MP_REACH_NLRI or MP_UNREACH_NLRI stands twice (RFC 7606 §3 g)")
        _refuse_unknown(items)
        rest = b"".join(item.raw for item in items if item.code not in mp)
        of_flows = [item for item in mp.values() if _has_flows(item, context)]
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
        bare = update_body(withdrawn, mp_raw, announced)
        try:
            update = _called(lambda: ExaMessage.unpack(UPDATE, bare, Direction.IN, self._exabgp), Code.UPDATE)
        except PeerError as error:
            subcode, lead = error.subcode, context.lead(Family.IPV4)
            if subcode == 10 and cut(withdrawn, 32, lead) is not None and cut(announced, 32, lead) is not None:
                subcode = 9  # it is in an MP attribute (RFC 4760 §7)
            raise PeerError(error.code, subcode, error.text, mp_raw if subcode == 9 else b"") from error
        if isinstance(update, EOR):
            self._check_without_routes(rest, fault)
            marked = update.nlris[0]
            family = _FAMILIES.get((int(marked.afi), int(marked.safi)))
            return [EndOfRib(family)] if family in context.families and not rest else []
        if update.attributes:  # it was given the MP ones only and took them out; what it adds is its refusal
            raise PeerError(Code.UPDATE, 9, "MP_REACH_NLRI or MP_UNREACH_NLRI is empty", mp_raw)
        return list(self._routes(_keys(update, mp.get(MP_REACH)), rest, fault, now))

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

    def _flows(self, items: Iterable[_Item], rest: bytes, fault: str) -> Flows:
        """Return what the MP attributes with flow specifications say; raises PeerError where they cannot be cut.

        One that cannot be read is withdrawn alone: the others stand whole beside it (RFC 8955 §10, RFC 7606 §5.4).
        """
        announced: list[Flow] = []
        withdrawn: list[FlowKey] = []
        unread: list[FlowKey] = []
        for item in items:
            keys = list(_flow_keys(item))
            if item.code == MP_UNREACH:
                withdrawn += keys
                continue
            for key in keys:
                flow = _flow(key)
                if flow is None:
                    unread.append(key)
                else:
                    announced.append(flow)
        if not announced and not unread:
            self._check_without_routes(rest, fault)
            return Flows(None, (), tuple(withdrawn))
        reading = _Reading(self._exabgp, is_external=self._peer.is_external, first_asn=self._first_asn)
        try:
            if fault:
                raise _TreatAsWithdraw(fault)
            attributes = reading.read(None, rest)
        except _TreatAsWithdraw as reason:
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
        reading = _Reading(self._exabgp, is_external=self._peer.is_external, first_asn=None)
        try:
            if fault:
                raise _TreatAsWithdraw(fault)
            reading.read_items(rest, has_mp_next_hop=True)  # no next hop is looked at where nothing has one
        except _TreatAsWithdraw as reason:
            raise PeerError(Code.UPDATE, 1, f"{reason}, and no prefix is announced (RFC 7606 §5.2)") from reason

    def _interned(self, next_hop: bytes, rest: bytes) -> Interned:
        return self._table.sets.get((next_hop, rest)) or self._intern(next_hop, rest)

    def _intern(self, next_hop: bytes, rest: bytes) -> Interned:
        """Decode a set of attribute bytes and remember it; raises PeerError for what resets the session."""
        reading = _Reading(self._exabgp, is_external=self._peer.is_external, first_asn=self._first_asn)
        try:
            interned = Interned(reading.read(next_hop, rest), reading.discarded, reading.problem)
        except _TreatAsWithdraw as reason:
            interned = Interned(None, reading.discarded, str(reason))
        self._table.keep(next_hop, rest, interned)
        return interned


# ── in: messages ─────────────────────────────────────────────────────────────


def _called(call: Callable[[], Any], code: Code) -> Any:
    """Return what ExaBGP answers; raises PeerError for what it refuses, and for what it trips over (`code`)."""
    try:
        return call()
    except Notify as error:
        if error.code == Code.HEADER:
            raise PeerError(error.code, error.subcode, "bad message length", bytes(error.data)) from error
        raise PeerError(error.code, error.subcode, bytes(error.data).decode("utf-8", "replace")) from error
    except Exception as error:  # the bytes are the peer's, and what ExaBGP trips over is not listed
        raise PeerError(code, 0, f"not understood ({type(error).__name__})") from error


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
    family = _FAMILIES.get((afi, safi))
    known = {Refresh.REQUEST, Refresh.BEGIN, Refresh.END} if is_enhanced else {Refresh.REQUEST}
    return [RouteRefresh(family, Refresh(subtype))] if family in context.families and subtype in known else []


def _refusal_of_families(ours: tuple[Family, ...], theirs: tuple[Family, ...]) -> tuple[Notification | None, str]:
    """Refuse a session that could carry nothing; the data says which families we want (RFC 5492 §3)."""
    if set(ours) & set(theirs):
        return None, ""
    wanted = b"".join(struct.pack("!BBHBB", 1, 4, family.afi, 0, family.safi) for family in ours)
    said = ", ".join(family.label for family in theirs) or "none that we know"
    return Notification(Code.OPEN, 7, wanted), f"no address family in common: the peer offers {said}"


def _is_understood(code: int, value: bytes) -> bool:
    """Tell whether we act on a capability; not on ADD-PATH of an odd length or direction (RFC 7911 §4)."""
    is_odd = code == _ADD_PATH and (len(value) % 4 != 0 or not all(ways in {1, 2, 3} for ways in value[3::4]))
    return code in _UNDERSTOOD and not is_odd


def _has_long_lengths(parameters: bytes) -> bool:
    """Tell whether lengths have two octets: by the first type, the length before it is any but 0 (RFC 9072 §2)."""
    return parameters[0] != 0 and parameters[1:2] == b"\xff"


def _capabilities(parameters: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (code, value) of each capability of an OPEN; raises PeerError (RFC 5492 §4, RFC 9072 §2)."""
    size, at, width = parameters[0], 1, 1
    if _has_long_lengths(parameters):
        size, at, width = int.from_bytes(parameters[2:4], "big"), 4, 2
    if len(parameters) - at != size:
        raise PeerError(Code.OPEN, 0, f"optional parameters of {len(parameters) - at} octets, their length says {size}")
    while at < len(parameters):
        value_at = at + 1 + width
        stop = value_at + int.from_bytes(parameters[at + 1 : value_at], "big")
        if value_at > len(parameters) or stop > len(parameters):
            raise PeerError(Code.OPEN, 0, "an optional parameter is cut short")
        if parameters[at] != 2:
            raise PeerError(Code.OPEN, 4, f"optional parameter {parameters[at]} is not supported")
        at = value_at
        while at < stop:
            end = at + 2 + parameters[at + 1] if at + 1 < stop else stop + 1
            if end > stop:
                raise PeerError(Code.OPEN, 0, f"capability {parameters[at]} is cut short")
            yield parameters[at], parameters[at + 2 : end]
            at = end


def _parameters(capabilities: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the optional parameters of an OPEN with these capabilities, in the form without a limit (RFC 9072 §2)."""
    packed = b"".join(bytes((code, len(value))) + value for code, value in capabilities)
    parameter = struct.pack("!BH", 2, len(packed)) + packed
    return struct.pack("!BBH", 255, 255, len(parameter)) + parameter


class _Raw:
    """A capability that ExaBGP does not know."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def extract(self) -> list[bytes]:
        """Return the values that it has in an OPEN."""
        return [self._value]


@functools.lru_cache(maxsize=64)
def _offer(ours: Open, peer_asn: Asn) -> tuple[Any, Any, bytes]:
    """Return ExaBGP's neighbor and OPEN that say what ours says, and its bytes; most peers are told the same."""
    offered = ours.capabilities
    neighbor = Neighbor()
    neighbor["router-id"] = RouterID(str(ipaddress.IPv4Address(ours.router_id)))
    neighbor["local-as"], neighbor["peer-as"] = ASN(ours.asn), ASN(peer_asn)
    neighbor["hold-time"] = HoldTime(ours.hold_time)
    capability = neighbor["capability"]
    capability["asn4"] = offered.four_octet_asn
    capability["route-refresh"] = 2 if offered.route_refresh else 0
    capability["extended-message"] = offered.extended_message
    for family in offered.families:
        neighbor.add_family((AFI.create(family.afi), SAFI.create(family.safi)))
    capabilities = ExaCapabilities().new(neighbor, restarted=False)
    # ExaBGP offers it beside route refresh, and its own host name.
    if not offered.enhanced_refresh:
        capabilities.pop(Capability.CODE.ENHANCED_ROUTE_REFRESH, None)
    capabilities.pop(Capability.CODE.HOSTNAME, None)
    restart = offered.graceful_restart
    if restart is not None:
        capabilities[Capability.CODE.GRACEFUL_RESTART] = Graceful().set(
            (Graceful.RESTART_STATE if restart.is_restarting else 0)
            | (_SURVIVES_NOTIFICATION if restart.survives_notification else 0),
            restart.restart_time,
            [
                (AFI.create(family.afi), SAFI.create(family.safi), Graceful.FORWARDING_STATE if is_kept else 0)
                for family, is_kept in restart.families
            ],
        )
    paths = ExaAddPath()
    for each in offered.add_path:
        paths.add_path(AFI.create(each.family.afi), SAFI.create(each.family.safi), each.receive + 2 * each.send)
    if paths:
        capabilities[Capability.CODE.ADD_PATH] = paths
    for code, value in offered.other:
        capabilities[code] = _Raw(value)
    if offered.ipv6_next_hops:
        capabilities[_EXTENDED_NEXT_HOP] = _Raw(_IPV4_BY_IPV6)
    if offered.long_lived is not None:
        capabilities[_LONG_LIVED] = _Raw(_packed(offered.long_lived))
    sent = ExaOpen(Version(4), neighbor["local-as"], neighbor["hold-time"], neighbor["router-id"], capabilities)
    return neighbor, sent, bytes(sent.message())


def _says_ipv6_next_hops(code: int, value: bytes) -> bool:
    """Tell whether a capability says that IPv4 unicast may have IPv6 next hops."""
    return code == _EXTENDED_NEXT_HOP and any(value[at : at + 6] == _IPV4_BY_IPV6 for at in range(0, len(value), 6))


def _packed(offered: LongLived) -> bytes:
    """Return the value of the capability: for each family AFI, SAFI, the F bit and three octets of seconds."""
    return b"".join(
        struct.pack("!HBI", family.afi, family.safi, (0x80 if is_kept else 0) << 24 | seconds)
        for family, is_kept, seconds in offered.families
    )


def _long_lived(value: bytes) -> LongLived | None:
    """Return what a peer's capability says; None where it is cut short, which is no fault of the session's."""
    if len(value) % 7:
        return None
    rows = [(_FAMILIES.get((afi, safi)), rest) for afi, safi, rest in struct.iter_unpack("!HBI", value)]
    return LongLived(tuple((family, bool(rest >> 31), rest & 0xFFFFFF) for family, rest in rows if family is not None))


def _open(theirs: Any, router_id: int, capabilities: tuple[tuple[int, bytes], ...]) -> Open:
    """Return a peer's OPEN as ExaBGP read it; `capabilities` are as they came."""
    offered = theirs.capabilities
    real_asn = offered.get(Capability.CODE.FOUR_BYTES_ASN)
    multiprotocol = offered.get(Capability.CODE.MULTIPROTOCOL)
    restart = offered.get(Capability.CODE.GRACEFUL_RESTART)
    families: tuple[Family, ...] = (Family.IPV4,)  # RFC 4760 §8: what a speaker without the capability speaks
    if multiprotocol is not None:
        known = (_FAMILIES.get((int(afi), int(safi))) for afi, safi in multiprotocol)
        families = tuple(dict.fromkeys(family for family in known if family is not None))
    graceful = None
    if restart is not None:
        kept = ((_FAMILIES.get((int(afi), int(safi))), flags) for (afi, safi), flags in restart.items())
        graceful = GracefulRestart(
            restart_time=int(restart.restart_time),
            is_restarting=bool(restart.restart_flag & Graceful.RESTART_STATE),
            families=tuple((f, bool(flags & Graceful.FORWARDING_STATE)) for f, flags in kept if f is not None),
            survives_notification=bool(restart.restart_flag & _SURVIVES_NOTIFICATION),
        )
    long_lived = next((value for code, value in reversed(capabilities) if code == _LONG_LIVED), None)
    paths = ((_FAMILIES.get(key), ways) for key, ways in offered.get(Capability.CODE.ADD_PATH, {}).items())
    return Open(
        asn=Asn(int(theirs.asn if real_asn is None else real_asn)),
        hold_time=int(theirs.hold_time),
        router_id=RouterId(router_id),
        capabilities=Capabilities(
            families=families,
            four_octet_asn=real_asn is not None,
            route_refresh=bool(offered.announced(Capability.CODE.ROUTE_REFRESH)),
            enhanced_refresh=bool(offered.announced(Capability.CODE.ENHANCED_ROUTE_REFRESH)),
            extended_message=bool(offered.announced(Capability.CODE.EXTENDED_MESSAGE)),
            graceful_restart=graceful,
            # Without the other one it says nothing (RFC 9494 §3).
            long_lived=None if long_lived is None or graceful is None else _long_lived(long_lived),
            ipv6_next_hops=any(_says_ipv6_next_hops(*each) for each in capabilities),
            other=tuple(
                (code, value)
                for code, value in capabilities
                if code != _LONG_LIVED and not _is_understood(code, value) and not _says_ipv6_next_hops(code, value)
            ),
            add_path=tuple(PathIds(f, bool(ways & 1), bool(ways & 2)) for f, ways in paths if f in ROUTED),
        ),
    )


# ── in: UPDATE ───────────────────────────────────────────────────────────────


class _TreatAsWithdraw(Exception):  # noqa: N818  # it is no error of the session
    """An attribute is malformed so that its UPDATE withdraws its prefixes (RFC 7606 §2); the text says why."""


class _Item(NamedTuple):
    """One path attribute as it stands."""

    flags: int
    code: int
    value: bytes
    raw: bytes


def _sections(body: bytes) -> tuple[bytes, bytes, bytes]:
    """Return withdrawn routes, path attributes and NLRI; raises PeerError (RFC 4271 §6.3)."""
    attributes_at = 4 + int.from_bytes(body[:2], "big")
    nlri_at = attributes_at + int.from_bytes(body[attributes_at - 2 : attributes_at], "big")
    if attributes_at > len(body) or nlri_at > len(body):
        raise PeerError(Code.UPDATE, 1, "the lengths inside the UPDATE exceed it")
    return body[2 : attributes_at - 2], body[attributes_at:nlri_at], body[nlri_at:]


def _frame(attributes: bytes) -> tuple[list[_Item], str]:
    """Return the attributes, and what is wrong with their lengths; then those before the fault (RFC 7606 §4)."""
    items: list[_Item] = []
    at, size = 0, len(attributes)
    while at < size:
        flags, code = attributes[at], attributes[at + 1] if at + 1 < size else 0
        value_at = at + (4 if flags & EXTENDED_LENGTH else 3)
        stop = value_at + int.from_bytes(attributes[at + 2 : value_at], "big")
        if value_at > size or stop > size:
            return items, f"attribute {code} exceeds the attributes' length"
        items.append(_Item(flags, code, attributes[value_at:stop], attributes[at:stop]))
        at = stop
    return items, ""


def _refuse_unknown(items: Iterable[_Item]) -> None:
    """Raise PeerError where there is a well-known attribute that we do not know (RFC 4271 §6.3).

    First of all: no other fault in an UPDATE is treated as strongly (RFC 7606 §3 h).
    """
    for item in items:
        if not item.flags & OPTIONAL_NON_TRANSITIVE and item.code not in ROWS.keys() | {AS4_PATH, AS4_AGGREGATOR}:
            raise PeerError(Code.UPDATE, 2, f"well-known attribute {item.code} is not known", item.raw)


class _Prefixes(NamedTuple):
    """The keys that ExaBGP found in an UPDATE."""

    withdrawn: list[Nlri]
    with_next_hop: list[Nlri]
    with_mp: list[Nlri]
    mp_next_hop: bytes


def _keys(update: Any, reach: _Item | None) -> _Prefixes:
    """Return the keys that ExaBGP found; it was not given NEXT_HOP, so only MP_REACH_NLRI gives a prefix one.

    Raises PeerError for a next hop that ExaBGP lets pass where IPv4 may have IPv6 ones.
    """
    mp_next_hop = b"" if reach is None else reach.value[4 : 4 + reach.value[3]]
    if reach is not None and len(mp_next_hop) == 4 and _family_of(reach) is Family.IPV6:
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


def _has_flows(item: _Item, context: Context) -> bool:
    """Tell whether an MP attribute is about flow specifications of a family that was agreed on, and no End-of-RIB."""
    family = _family_of(item)
    is_end = item.code == MP_UNREACH and len(item.value) == 3
    return family in FLOWSPEC and family in context.families and not is_end


def _family_of(item: _Item) -> Family | None:
    return _FAMILIES.get((int.from_bytes(item.value[:2], "big"), item.value[2])) if len(item.value) > 2 else None


def _flow_keys(item: _Item) -> Iterator[FlowKey]:
    """Yield the NLRI of an MP attribute; raises PeerError where their lengths do not add up (RFC 4760 §7).

    The next hop, if there is one, says nothing (RFC 8955 §4).
    """
    family = _family_of(item)
    assert family is not None  # `_has_flows`
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
def _flow(key: FlowKey) -> Flow | None:
    """Return the flow specification that an NLRI is; None where it is malformed."""
    size = len(key.nlri)
    length = bytes((size,)) if size < 0xF0 else (0xF000 | size).to_bytes(2, "big")
    family = AFI.create(key.family.afi), SAFI.create(key.family.safi)
    read, _ = _called(lambda: NLRI.unpack_nlri(*family, length + key.nlri, Action.ANNOUNCE, None), Code.UPDATE)
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


class _Reading:
    """One set of attribute bytes being read, by the table of RFC 7606; afterwards what was discarded, and why."""

    def __init__(self, negotiated: Any, *, is_external: bool, first_asn: Asn | None) -> None:
        self.discarded = 0
        self.problem = ""
        self._negotiated = negotiated
        self._is_external = is_external
        self._first_asn = first_asn
        self._decoded = Attributes()  # what ExaBGP reads
        self._arrays: dict[int, bytes] = {}  # what we read
        self._other: list[tuple[int, int, bytes]] = []

    def read(self, next_hop: bytes | None, rest: bytes) -> PathAttributes:
        """Return what the attributes say; `next_hop` is that of MP_REACH_NLRI or b"", None where there is to be none.

        Raises _TreatAsWithdraw, or PeerError for an unknown well-known attribute (RFC 4271 §6.3).
        """
        seen = self.read_items(rest, has_mp_next_hop=next_hop != b"")
        wanted = (ORIGIN, AS_PATH, NEXT_HOP) if next_hop == b"" else (ORIGIN, AS_PATH)
        missing = [ROWS[code].name for code in wanted if code not in seen]
        if missing:
            raise _TreatAsWithdraw(f"{', '.join(missing)} missing (RFC 7606 §3 d)")
        if AGGREGATOR not in self._decoded:
            self._decoded.pop(AS4_AGGREGATOR, None)
        _called(self._decoded.reconcile_four_octet_as, Code.UPDATE)
        return self._attributes(self._arrays[NEXT_HOP] if next_hop == b"" else next_hop)

    def read_items(self, rest: bytes, *, has_mp_next_hop: bool) -> set[int]:
        """Read the attributes one by one and return the codes that are there; raises as `read` does."""
        items, fault = _frame(rest)
        _refuse_unknown(items)
        if fault:
            raise _TreatAsWithdraw(fault)
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

    def _read_known(self, row: AttributeRow, item: _Item, *, has_mp_next_hop: bool) -> None:
        if row.code in _INTERNAL_ONLY and self._is_external:
            self._discard(f"{row.name} from an external peer")
            return
        if row.code == NEXT_HOP and has_mp_next_hop:
            return  # RFC 4760 §3: not looked at
        if item.flags & OPTIONAL_TRANSITIVE != row.flags:
            raise _TreatAsWithdraw(f"{row.name} with flags 0x{item.flags:02x} (RFC 7606 §3 c)")
        why = self._malformation(row, item)
        if why and row.malformed is Treatment.DISCARD:
            self._discard(why)
        elif why:
            raise _TreatAsWithdraw(why)

    def _read_four_octet(self, item: _Item) -> None:
        """Read AS4_PATH or AS4_AGGREGATOR; not from one who must not send them (RFC 6793 §4.1 and §6)."""
        name = "as4_path" if item.code == AS4_PATH else "as4_aggregator"
        if self._negotiated.asn4:
            self._discard(f"{name} from a peer with four-octet AS numbers (RFC 6793 §4.1)")
            return
        if item.flags & OPTIONAL_TRANSITIVE != OPTIONAL_TRANSITIVE:
            raise _TreatAsWithdraw(f"{name} with flags 0x{item.flags:02x} (RFC 7606 §3 c)")
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

    def _malformation(self, row: AttributeRow, item: _Item) -> str:
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

    def _passed_to_exabgp(self, item: _Item, flags: int) -> str:
        try:
            decoded = _called(
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
            next_hop=None if next_hop is None else _host(next_hop[:16]),
            link_local=None if next_hop is None else _link_local(next_hop[16:]),
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
        )

    def _as_path(self) -> AsPath:
        path = self._decoded.get(AS_PATH)
        segments = () if path is None else path.aspath
        read = AsPath(tuple((SegmentKind(s.ID), tuple(Asn(int(asn)) for asn in s)) for s in segments))
        if self._first_asn not in {None, read.first}:
            raise _TreatAsWithdraw(f"as_path begins with AS {read.first}, not the peer's (RFC 4271 §6.3)")
        for kind, members in read.segments:
            if not members:
                raise _TreatAsWithdraw("as_path has an empty segment (RFC 7606 §7.2)")
            if 0 in members:
                raise _TreatAsWithdraw("as_path has AS 0 (RFC 7607 §2)")
            if self._is_external and kind in {SegmentKind.CONFED_SEQUENCE, SegmentKind.CONFED_SET}:
                raise _TreatAsWithdraw("as_path has a confederation segment from outside (RFC 5065 §5)")
        return read


@functools.lru_cache(maxsize=4_096)
def _large_communities(packed: bytes) -> tuple[tuple[int, int, int], ...]:
    """Return them sorted, each once; one object for the same, which many nodes say of workloads (`policy.identity`)."""
    return tuple(sorted(set(struct.iter_unpack("!III", packed))))


def _aggregator_malformation(item: _Item) -> str:
    """Return what ExaBGP lets pass in AGGREGATOR and AS4_AGGREGATOR: AS 0 (RFC 7607 §2)."""
    is_aggregator = item.code in {AGGREGATOR, AS4_AGGREGATOR}
    return "AS 0 (RFC 7607 §2)" if is_aggregator and not any(item.value[:-4]) else ""


def _host(packed: bytes) -> IPAddress:
    """Return a next hop; raises _TreatAsWithdraw where it can be no host (RFC 4271 §6.3)."""
    address = ipaddress.ip_address(packed)
    if address.is_unspecified or address.is_multicast or (packed[0] in {0, *range(240, 256)} and len(packed) == 4):
        raise _TreatAsWithdraw(f"next_hop {address} is no host")
    return address


def _link_local(packed: bytes) -> IPAddress | None:
    """Return the second address of an IPv6 next hop, where it is what it should be (RFC 2545 §3)."""
    address = ipaddress.ip_address(packed) if packed else None
    return address if address is not None and address.is_link_local else None


def _router_id(packed: bytes) -> RouterId:
    return RouterId(int.from_bytes(packed, "big"))
