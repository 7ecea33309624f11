"""BGP messages as values (RFC 4271 §4), and what two OPENs agreed on.

The codec turns bytes into these and back; the session machine sees nothing else. An UPDATE is not
here: it is a batch of routes (`events.RoutesReceived`, `rib.export.Batch`).
"""

from __future__ import annotations

import enum
from dataclasses import field

from bgpmesh.frozen import frozen
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.nlri import Family


class Code(enum.IntEnum):
    """NOTIFICATION error codes (RFC 4271 §4.5, RFC 7313, RFC 9687)."""

    HEADER = 1
    OPEN = 2
    UPDATE = 3
    HOLD_TIMER = 4
    STATE_MACHINE = 5
    CEASE = 6
    ROUTE_REFRESH = 7
    SEND_HOLD_TIMER = 8


class Cease(enum.IntEnum):
    """Cease subcodes (RFC 4486, RFC 8538, RFC 9384)."""

    MAX_PREFIXES = 1
    ADMIN_SHUTDOWN = 2
    PEER_DECONFIGURED = 3
    ADMIN_RESET = 4
    CONNECTION_REJECTED = 5
    OTHER_CONFIGURATION_CHANGE = 6
    CONNECTION_COLLISION = 7
    OUT_OF_RESOURCES = 8
    HARD_RESET = 9
    BFD_DOWN = 10


@frozen
class GracefulRestart:
    """The graceful-restart capability, code 64 (RFC 4724 §3)."""

    restart_time: int  # seconds, 0 to 4095
    is_restarting: bool = False  # the R bit
    families: tuple[tuple[Family, bool], ...] = ()  # with the F bit: forwarding state was preserved
    survives_notification: bool = False  # the N bit (RFC 8538 §2)


@frozen
class LongLived:
    """The long-lived graceful-restart capability, code 71 (RFC 9494 §3)."""

    families: tuple[tuple[Family, bool, int], ...] = ()  # with the F bit, and the seconds that paths are kept


@frozen
class PathIds:
    """What the ADD-PATH capability, code 69, says of a family: its speaker can receive several paths, or send them."""

    family: Family
    receive: bool
    send: bool


@frozen
class Capabilities:
    """What an OPEN offers (RFC 5492)."""

    families: tuple[Family, ...] = ()
    four_octet_asn: bool = True  # RFC 6793
    route_refresh: bool = True  # RFC 2918
    enhanced_refresh: bool = False  # its sender says where an answer to ROUTE-REFRESH begins and ends (RFC 7313)
    extended_message: bool = False  # its sender takes messages of up to 65,535 octets (RFC 8654)
    graceful_restart: GracefulRestart | None = None
    add_path: tuple[PathIds, ...] = ()  # RFC 7911
    long_lived: LongLived | None = None  # never without the one before
    ipv6_next_hops: bool = False  # for IPv4 prefixes (RFC 8950)
    other: tuple[tuple[int, bytes], ...] = ()  # (code, value) of those that have no field here

    def describe(self) -> tuple[str, ...]:
        """Return the capabilities in words, for `bgpmesh peers NAME`."""
        words = [f"multiprotocol {family.label}" for family in self.families]
        words += ["four-octet-asn"] if self.four_octet_asn else []
        words += ["route-refresh"] if self.route_refresh else []
        words += ["enhanced-route-refresh"] if self.enhanced_refresh else []
        words += ["extended-message"] if self.extended_message else []
        words += ["extended-next-hop"] if self.ipv6_next_hops else []
        if self.graceful_restart is not None:
            restart = self.graceful_restart
            kept = ",".join(f.label + ("+F" if forwarding else "") for f, forwarding in restart.families)
            bits = ("R " if restart.is_restarting else "") + ("N " if restart.survives_notification else "")
            words.append(f"graceful-restart {restart.restart_time} s {bits}{kept}")
        if self.long_lived is not None:
            each = (
                f"{f.label}{'+F' if is_kept else ''} {seconds} s" for f, is_kept, seconds in self.long_lived.families
            )
            words.append(f"long-lived-graceful-restart {', '.join(each)}".rstrip())
        for paths in self.add_path:
            ways = " and ".join(way for way, is_said in (("receive", paths.receive), ("send", paths.send)) if is_said)
            words.append(f"add-path {paths.family.label} {ways}")
        return (*words, *(CAPABILITY_NAMES.get(code, f"code {code}") for code, _ in self.other))


@frozen
class Open:
    """OPEN (RFC 4271 §4.2); `asn` is the real, four-octet one."""

    asn: Asn
    hold_time: int  # seconds; 0: no keepalives
    router_id: RouterId
    capabilities: Capabilities


@frozen
class Keepalive:
    """KEEPALIVE (RFC 4271 §4.4)."""


class Refresh(enum.IntEnum):
    """What a ROUTE-REFRESH is for: its subtype (RFC 7313 §3.2)."""

    REQUEST = 0  # please send this family again (RFC 2918)
    BEGIN = 1  # BoRR: from here on all of it is said again
    END = 2  # EoRR: it was


@frozen
class RouteRefresh:
    """ROUTE-REFRESH (RFC 2918, RFC 7313)."""

    family: Family
    kind: Refresh = Refresh.REQUEST


@frozen
class EndOfRib:
    """The End-of-RIB marker of a family (RFC 4724 §2)."""

    family: Family


@frozen
class Notification:
    """NOTIFICATION (RFC 4271 §4.5)."""

    code: int
    subcode: int = 0
    data: bytes = b""

    @staticmethod
    def cease(subcode: Cease, text: str = "") -> Notification:
        """Return a Cease; administrative ones carry up to 255 octets of text (RFC 9003 §2)."""
        if subcode not in {Cease.ADMIN_SHUTDOWN, Cease.ADMIN_RESET}:
            return Notification(Code.CEASE, subcode)
        words = text.encode()[:255].decode(errors="ignore").encode()
        return Notification(Code.CEASE, subcode, bytes((len(words),)) + words)

    @property
    def is_hard_reset(self) -> bool:
        """Whether it ends the session for good (RFC 8538 §3)."""
        return (self.code, self.subcode) == (Code.CEASE, Cease.HARD_RESET)

    @property
    def is_final(self) -> bool:
        """Whether it says that the session is meant to be over, with nothing of it kept (RFC 8538 §5.1)."""
        return self.is_hard_reset or (self.code == Code.CEASE and self.subcode in _FINAL)

    def as_hard_reset(self) -> Notification:
        """Return the hard reset that carries it (RFC 8538 §3.1)."""
        data = bytes((self.code, self.subcode)) + self.data
        return self if self.is_hard_reset else Notification(Code.CEASE, Cease.HARD_RESET, data)

    def describe(self) -> str:
        """Return what it says in words: `Cease, administrative shutdown: moving racks`."""
        name = CODE_NAMES.get(self.code, f"code {self.code}")
        if self.is_hard_reset and len(self.data) > 1:
            carried = Notification(self.data[0], self.data[1], self.data[2:])
            # One within another says nothing more, and there may be two thousand of them.
            words = "hard reset" if carried.is_hard_reset else carried.describe()
            return f"{name}, hard reset ({words})"
        sub = SUBCODE_NAMES.get((self.code, self.subcode), f"subcode {self.subcode}" if self.subcode else "")
        said = ""
        if self.code == Code.CEASE and self.subcode in {Cease.ADMIN_SHUTDOWN, Cease.ADMIN_RESET} and self.data:
            text = self.data[1 : 1 + self.data[0]].decode("utf-8", "replace")
            said = ": " + "".join(c if c.isprintable() else "?" for c in text) if text else ""
        return (f"{name}, {sub}" if sub else name) + said


# A path that is broken is meant to take all with it, although RFC 9384 leaves that open.
_FINAL = {Cease.MAX_PREFIXES, Cease.ADMIN_SHUTDOWN, Cease.PEER_DECONFIGURED, Cease.BFD_DOWN}

# Capabilities that we only show, by the IANA registry's code.
CAPABILITY_NAMES: dict[int, str] = {
    5: "extended-next-hop",
    9: "role",
    67: "dynamic",
    69: "add-path",
    71: "long-lived-graceful-restart",
    73: "host-name",
    75: "software-version",
}

CODE_NAMES: dict[int, str] = {
    Code.HEADER: "message header error",
    Code.OPEN: "OPEN message error",
    Code.UPDATE: "UPDATE message error",
    Code.HOLD_TIMER: "hold timer expired",
    Code.STATE_MACHINE: "finite state machine error",
    Code.CEASE: "Cease",
    Code.ROUTE_REFRESH: "ROUTE-REFRESH message error",
    Code.SEND_HOLD_TIMER: "send hold timer expired",
}

SUBCODE_NAMES: dict[tuple[int, int], str] = {
    (1, 1): "connection not synchronised",
    (1, 2): "bad message length",
    (1, 3): "bad message type",
    (2, 1): "unsupported version",
    (2, 2): "bad peer AS",
    (2, 3): "bad BGP identifier",
    (2, 4): "unsupported optional parameter",
    (2, 6): "unacceptable hold time",
    (2, 7): "unsupported capability",
    (2, 11): "role mismatch",
    (3, 1): "malformed attribute list",
    (3, 2): "unrecognised well-known attribute",
    (3, 3): "missing well-known attribute",
    (3, 4): "attribute flags error",
    (3, 5): "attribute length error",
    (3, 6): "invalid ORIGIN",
    (3, 8): "invalid NEXT_HOP",
    (3, 9): "optional attribute error",
    (3, 10): "invalid network field",
    (3, 11): "malformed AS_PATH",
    (5, 1): "unexpected message in OpenSent",
    (5, 2): "unexpected message in OpenConfirm",
    (5, 3): "unexpected message in Established",
    (6, 1): "maximum number of prefixes reached",
    (6, 2): "administrative shutdown",
    (6, 3): "peer de-configured",
    (6, 4): "administrative reset",
    (6, 5): "connection rejected",
    (6, 6): "other configuration change",
    (6, 7): "connection collision resolution",
    (6, 8): "out of resources",
    (6, 9): "hard reset",
    (6, 10): "BFD down",
    (7, 1): "invalid message length",
}

Message = Open | Keepalive | RouteRefresh | EndOfRib | Notification


@frozen
class Negotiated:
    """What our OPEN and the peer's agreed on (ExaBGP does the agreeing)."""

    sent: Open
    received: Open
    hold_time: int  # seconds, the smaller of the two; 0: none
    families: tuple[Family, ...]  # those both offered
    four_octet_asn: bool
    message_size: int = 4096  # octets of the longest message that the peer takes, header included
    path_ids_in: frozenset[Family] = frozenset()  # of these the peer sends several paths, each with its identifier
    path_ids_out: frozenset[Family] = frozenset()  # of these we do
    ipv6_next_hops: bool = False  # both take them for IPv4 prefixes
    refusal: Notification | None = None  # what ExaBGP's validation says: bad peer AS, hold time, identifier
    refusal_text: str = field(default="", compare=False)

    @property
    def is_graceful(self) -> bool:
        """Whether both OPENs carried the graceful-restart capability (RFC 4724 §4)."""
        return all(said.capabilities.graceful_restart is not None for said in (self.sent, self.received))

    @property
    def survives_notification(self) -> bool:
        """Whether both sides keep paths over a NOTIFICATION too: both said the N bit (RFC 8538 §2)."""
        restarts = [said.capabilities.graceful_restart for said in (self.sent, self.received)]
        return all(restart is not None and restart.survives_notification for restart in restarts)
