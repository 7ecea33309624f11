"""OPENs and what two of them agree on; ExaBGP encodes, decodes and negotiates.

* Only the capabilities that we act on reach it: it would end the session for a host name cut short.
* Nothing is offered that we do not handle (ExaBGP would add a host name), and the graceful-restart capability has the
  R, N and F bits that our `Capabilities` say.
* Its refusals name two octets of an AS, and it compares no more; ours name the real one.

RFC 4271 §4.2 and §6.2, RFC 4760 §8, RFC 5492, RFC 6286 §2, RFC 6793, RFC 7313 §3, RFC 7607, RFC 7911 §4, RFC 8538 §2,
RFC 8654 §3, RFC 8950 §4, RFC 9072, RFC 9234 §4, RFC 9494 §3.
"""

from __future__ import annotations

import functools
import ipaddress
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from exabgp.bgp.message import Message as ExaMessage
from exabgp.bgp.message import Open as ExaOpen
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
from exabgp.bgp.neighbor import Neighbor
from exabgp.protocol.family import AFI, SAFI

from bgpmesh.errors import PeerError
from bgpmesh.peering.message import (
    Capabilities,
    Code,
    GracefulRestart,
    LongLived,
    Negotiated,
    Notification,
    Open,
    PathIds,
)
from bgpmesh.route import roles
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.nlri import ROUTED, Family
from bgpmesh.wire.fastpath import EXTENDED_SIZE, MESSAGE_SIZE
from bgpmesh.wire.foreign import called
from bgpmesh.wire.packing import FAMILIES

OPEN = 1
_ADD_PATH = 69
_UNDERSTOOD = {1, 2, 6, 64, 65, _ADD_PATH, 70}  # capability codes with a field of their own
_SURVIVES_NOTIFICATION = 0x4  # the N bit, behind the R bit (RFC 8538 §2)
_EXTENDED_NEXT_HOP = 5
_IPV4_BY_IPV6 = struct.pack("!HHH", 1, 1, 2)  # IPv4 unicast may have IPv6 next hops (RFC 8950 §4)
_LONG_LIVED = 71  # a capability that ExaBGP does not know (RFC 9494 §3)


class Opening:
    """Both OPENs of one connection: ours first."""

    def __init__(self, peer_asn: Asn) -> None:
        self.sent: Open | None = None
        self.exabgp: Any = None  # its Negotiated, once ours is encoded; what is read of UPDATEs depends on it
        self._peer_asn = peer_asn
        self._neighbor: Any = None

    def encode(self, ours: Open) -> bytes:
        """Return our OPEN with its header, and remember it."""
        self._neighbor, sent, encoded = _offer(ours, self._peer_asn)
        self.exabgp = ExaNegotiated(self._neighbor)
        self.exabgp.sent(sent)
        self.sent = ours
        return encoded

    def decode(self, body: bytes) -> Negotiated:
        """Return what both OPENs agree on, with the refusal where they do not; raises PeerError (RFC 4271 §6.2)."""
        sent = self.sent
        assert sent is not None  # the codec waits for it
        if body[0] != 4:
            raise PeerError(Code.OPEN, 1, f"BGP version {body[0]} instead of 4", b"\0\4")
        offered = _offered(body[9:])
        plain = body[:9] + offered.understood
        theirs = called(lambda: ExaMessage.unpack(OPEN, plain, Direction.IN, self.exabgp), Code.OPEN)
        called(lambda: self.exabgp.received(theirs), Code.OPEN)
        received = _open(theirs, int.from_bytes(body[5:9], "big"), offered)
        families = tuple(f for f in sent.capabilities.families if f in received.capabilities.families)
        self.exabgp.families = [(AFI.create(f.afi), SAFI.create(f.safi)) for f in families]
        paths = self.exabgp.addpath
        ipv6_next_hops = sent.capabilities.ipv6_next_hops and received.capabilities.ipv6_next_hops
        self.exabgp.nexthop = [(AFI.ipv4, SAFI.unicast, AFI.ipv6)] if ipv6_next_hops else []
        refusal, text = self._refusal(sent, received)
        return Negotiated(
            sent=sent,
            received=received,
            hold_time=int(self.exabgp.holdtime),
            families=families,
            four_octet_asn=bool(self.exabgp.asn4),
            message_size=EXTENDED_SIZE if received.capabilities.extended_message else MESSAGE_SIZE,
            path_ids_in=frozenset(f for f in families if paths.receive(AFI.create(f.afi), SAFI.create(f.safi))),
            path_ids_out=frozenset(f for f in families if paths.send(AFI.create(f.afi), SAFI.create(f.safi))),
            ipv6_next_hops=ipv6_next_hops,
            refusal=refusal,
            refusal_text=text,
        )

    def _refusal(self, sent: Open, received: Open) -> tuple[Notification | None, str]:
        """Return why the session cannot be: what ExaBGP's validation says, with the real AS numbers, and more."""
        if received.asn == 0:
            return Notification(Code.OPEN, 2), "the peer says AS 0, which is reserved (RFC 7607)"
        if received.router_id == sent.router_id and received.asn == sent.asn:  # ExaBGP compares two octets of the AS
            return Notification(Code.OPEN, 3), f"the peer has our router id {ipaddress.IPv4Address(sent.router_id)}"
        if received.asn != self._peer_asn:
            return Notification(Code.OPEN, 2), f"the peer says AS {received.asn}, expected AS {self._peer_asn}"
        if words := roles.mismatch(sent.capabilities.other, received.capabilities.other):
            return Notification(Code.OPEN, 11), words
        refused = called(lambda: self.exabgp.validate(self._neighbor), Code.OPEN)
        if refused is None:
            return _refusal_of_families(sent.capabilities.families, received.capabilities.families)
        code, subcode, text = refused
        match subcode:
            case 3:
                text = f"router id {ipaddress.IPv4Address(received.router_id)} is not valid"
            case 6:
                text = f"hold time {received.hold_time} s is below the minimum of 3 s (RFC 4271 §6.2)"
        return Notification(code, subcode), text


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


class _Offered(NamedTuple):
    """What the optional parameters of an OPEN say."""

    understood: bytes  # as parameters: the capabilities of which ExaBGP reads the values
    long_lived: LongLived | None
    ipv6_next_hops: bool
    other: tuple[tuple[int, bytes], ...]


@functools.lru_cache(maxsize=64)
def _offered(parameters: bytes) -> _Offered:
    """Read optional parameters, which most peers of a node have alike; raises PeerError."""
    capabilities = tuple(_capabilities(parameters))
    # ExaBGP also judges what we only show, and looks at the length that does not count (RFC 9072 §2).
    understood = [each for each in capabilities if _is_understood(*each)]
    long_lived = next((value for code, value in reversed(capabilities) if code == _LONG_LIVED), None)
    return _Offered(
        _parameters(understood),
        None if long_lived is None else _long_lived(long_lived),
        any(_says_ipv6_next_hops(*each) for each in capabilities),
        tuple(
            each
            for each in capabilities
            if each[0] != _LONG_LIVED and each not in understood and not _says_ipv6_next_hops(*each)
        ),
    )


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
    rows = [(FAMILIES.get((afi, safi)), rest) for afi, safi, rest in struct.iter_unpack("!HBI", value)]
    return LongLived(tuple((family, bool(rest >> 31), rest & 0xFFFFFF) for family, rest in rows if family is not None))


def _open(theirs: Any, router_id: int, said: _Offered) -> Open:
    """Return a peer's OPEN as ExaBGP read it, with what it does not read."""
    offered = theirs.capabilities
    real_asn = offered.get(Capability.CODE.FOUR_BYTES_ASN)
    multiprotocol = offered.get(Capability.CODE.MULTIPROTOCOL)
    restart = offered.get(Capability.CODE.GRACEFUL_RESTART)
    families: tuple[Family, ...] = (Family.IPV4,)  # RFC 4760 §8: what a speaker without the capability speaks
    if multiprotocol is not None:
        known = (FAMILIES.get((int(afi), int(safi))) for afi, safi in multiprotocol)
        families = tuple(dict.fromkeys(family for family in known if family is not None))
    graceful = None
    if restart is not None:
        kept = ((FAMILIES.get((int(afi), int(safi))), flags) for (afi, safi), flags in restart.items())
        graceful = GracefulRestart(
            restart_time=int(restart.restart_time),
            is_restarting=bool(restart.restart_flag & Graceful.RESTART_STATE),
            families=tuple((f, bool(flags & Graceful.FORWARDING_STATE)) for f, flags in kept if f is not None),
            survives_notification=bool(restart.restart_flag & _SURVIVES_NOTIFICATION),
        )
    paths = ((FAMILIES.get(key), ways) for key, ways in offered.get(Capability.CODE.ADD_PATH, {}).items())
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
            long_lived=None if graceful is None else said.long_lived,
            ipv6_next_hops=said.ipv6_next_hops,
            other=said.other,
            add_path=tuple(PathIds(f, bool(ways & 1), bool(ways & 2)) for f, ways in paths if f in ROUTED),
        ),
    )
