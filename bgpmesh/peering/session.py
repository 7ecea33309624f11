"""The session machine of RFC 4271 §8, sans-IO: what happened and `now` in, what to do about it out.

One `Session` is one life of the conversation with a Peer after another. It opens no socket and reads
no clock; the engine turns its outputs into commands for the wire and calls for the RIB.

Rules:
 1. At most two connections live at a time, and at most one of them is established.
 2. Every connection handed in by `connected` stays until it is lost or answered with `Hangup`;
    after that nothing is said on it, and what still arrives from it is ignored.
 3. A collision is settled as soon as both sides must come to the same result (RFC 4271 §6.8), which is
    often before the second OPEN: the first tells the peer's identifier. When an OPEN arrives and the
    other connection is
        one of ours in OpenSent, or any     that of the higher (identifier, AS) stays (RFC 6286 §2.3)
        one in OpenConfirm
        the peer's in OpenSent              the peer may still give it up: it goes if ours wins, else both stay
        Established                         the newcomer goes, unless graceful restart was agreed and its OPEN
                                            offers it: then the old one is dead (RFC 4724 §5). With a new
                                            R bit that is certain; without, it may be a call that was made
                                            before and came late, so its KEEPALIVE is awaited
    A call of ours that is answered after the peer's OPEN came elsewhere is given up before a word is said.
 4. Back-off is for the connections we make. One that the peer makes is answered at once.
 5. Stale paths have one clock (`stale`), started when they became stale. A peer that restarts again and again before
    its End-of-RIB does not wind it up: forwarding survives one that is killed twice (RFC 8538 §4.1, where RFC 4724
    §4.2 has them deleted).
 6. Where both sides say so (the N bit), a NOTIFICATION ends a session as a lost connection does, whoever sent it, and
    only a hard reset ends it for good (RFC 8538). What is meant for good, and said to such a peer, is said as one. A
    session with other options takes over what is kept, and the clocks. A peer that keeps paths over a lost connection
    only (RFC 4724 §4.2) is not told of those options, as it is not of a restart: to know why would cost it the routes.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

from bgpmesh.frozen import frozen
from bgpmesh.peering.message import (
    Capabilities,
    Cease,
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
    RouteRefresh,
)
from bgpmesh.peering.peer import AddPath, Peer
from bgpmesh.peering.refresh import Refreshing
from bgpmesh.peering.stale import Stale, retainable
from bgpmesh.route import roles
from bgpmesh.route.nlri import FLOWSPEC, ROUTED, Family
from bgpmesh.route.path import PeerName

# RFC 4271 §8.2.2 suggests 4 minutes for the hold timer while an OPEN is awaited.
OPEN_HOLD_S = 240.0

# A peer may take nothing of what we send for as long, or for twice the hold time where that is longer (RFC 9687 §5).
SEND_HOLD_S = 480.0

# Connects are tried again after 1 to 8 s: a pause that doubles, and up to a quarter more. The first is short, as
# who refuses at first is a neighbour that starts too.
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 6.4

# What keeps a session from coming up is told when it has done so for so many times (a neighbour may start as we do),
# and so many things of one peer.
TOLD_AT = 3
MOST_TOLD = 8

NEVER = float("inf")


class State(enum.Enum):
    """The states of RFC 4271 §8.2.2, under the names operators know."""

    IDLE = "Idle"
    CONNECT = "Connect"
    ACTIVE = "Active"
    OPEN_SENT = "OpenSent"
    OPEN_CONFIRM = "OpenConfirm"
    ESTABLISHED = "Established"


# RFC 6608 §3: the subcode says the state, one octet of data the type of the message.
_UNEXPECTED_IN = {State.OPEN_SENT: 1, State.OPEN_CONFIRM: 2, State.ESTABLISHED: 3}
_OPEN, _UPDATE, _KEEPALIVE, _ROUTE_REFRESH = (1, "OPEN"), (2, "UPDATE"), (4, "KEEPALIVE"), (5, "ROUTE-REFRESH")


@dataclass(slots=True)
class LocalRestart:
    """What our OPENs say about our own restart (RFC 4724 §3); shared by all sessions, changed by the engine."""

    is_restarting: bool = False  # the R bit of the OPENs we send now
    is_forwarding_kept: bool = False  # the F bit of first sessions; later ones of this daemon's life always set it


# ── outputs ──────────────────────────────────────────────────────────────────


@frozen
class Dial:
    """Call this peer now; answered by `connected` or `connect_failed`."""

    peer: PeerName


@frozen
class Send:
    """Send this message on that connection, behind what was sent before it."""

    connection: int
    message: Message


@frozen
class Hangup:
    """Close the connection once what was sent has left (a second at most); no event follows."""

    connection: int


@frozen
class Established:
    """The session is up. Stale paths of `keep` stay for now, other stale ones of this peer go at once."""

    connection: int
    negotiated: Negotiated
    keep: frozenset[Family]


@frozen
class WentDown:
    """The session was up and is not. Paths of `retain` become stale, the others go at once.

    `is_doubted`: a hold timer has ended it, so nobody knows whether they lead anywhere.
    """

    reason: str
    retain: frozenset[Family]
    is_doubted: bool = False


@frozen
class RefreshBegan:
    """All that is held of this family is stale until it is said again; the rest goes with `StaleExpired`."""

    family: Family


@frozen
class StaleExpired:
    """What is still stale of these families goes: End-of-RIB or EoRR came, or the time is up."""

    families: frozenset[Family]


@frozen
class StaleOutlived:
    """What is still stale of these families is kept for long: the peer is away beyond its restart time (RFC 9494)."""

    families: frozenset[Family]


Output = Dial | Send | Hangup | Established | WentDown | RefreshBegan | StaleExpired | StaleOutlived


@dataclass(slots=True, eq=False)
class _Connection:
    """One TCP connection from OpenSent on."""

    number: int
    is_inbound: bool
    hold_deadline: float
    state: State = State.OPEN_SENT
    negotiated: Negotiated | None = None
    keepalive_deadline: float = NEVER
    has_won: bool = False  # a collision, while it still waited for its OPEN

    @property
    def patience(self) -> float:
        """Seconds of silence that end it; a hold time of 0 counts once it is established (RFC 4271 §4.4)."""
        if self.negotiated is None or (not self.negotiated.hold_time and self.state is not State.ESTABLISHED):
            return OPEN_HOLD_S
        return self.negotiated.hold_time or NEVER

    @property
    def send_patience(self) -> float:
        """Seconds in which it takes nothing that we send that end it; without keepalives there is no end (RFC 9687)."""
        hold_time = self.negotiated.hold_time if self.negotiated is not None else 0
        return max(SEND_HOLD_S, 2.0 * hold_time) if hold_time else NEVER

    def heard(self, now: float) -> None:
        """Start the hold timer afresh."""
        self.hold_deadline = now + self.patience

    def spoke(self, now: float, jitter: float) -> None:
        """Start the keepalive timer afresh: a third of the hold time, or up to a quarter less (RFC 4271 §10)."""
        hold_time = self.negotiated.hold_time if self.negotiated is not None else 0
        self.keepalive_deadline = now + hold_time / 3 * (1 - jitter / 4) if hold_time else NEVER


class Session:
    """The conversation with one peer; every method returns what is to be done, in order.

    Read by views: `state`, `established_at`, `connection` and `negotiated` (both None unless
    established), `last_error` (why it is down, or was before), `transitions` (how often each state was entered).
    What keeps it from coming up is told once: `take_failure`.
    """

    def __init__(self, peer: Peer, local: LocalRestart, jitter: Callable[[], float]) -> None:
        """Make a stopped session; `jitter` returns a number in [0, 1)."""
        self.peer = peer
        self.state = State.IDLE
        self.established_at: float | None = None
        self.last_error = "" if peer.is_found else "no router advertisement has come from it yet"
        self.down_reason = ""  # why the last life ended; calls that fail since say nothing of that
        self.negotiated: Negotiated | None = None
        self.connection: int | None = None
        self.transitions: Counter[State] = Counter()
        self.call_passive = False  # call although we are the passive side; the engine ends it once in sync
        self.called_since: float | None = None  # second of the first call that no OPEN has answered yet
        self._local = local
        self._jitter = jitter
        self._is_started = False
        self._refusal: Notification | None = None  # what callers are told while it is stopped
        self._is_introduced = False  # to a node of the cluster, by the one call of a passive side
        self._is_calling = False
        self.was_established = False  # in this daemon's life: what we forward has been preserved since
        self._retry_at = NEVER
        self._failures = 0
        self._failed_so: Counter[str] = Counter()  # why it did not come up since it was, and how often
        self._untold = ""
        self._connections: dict[int, _Connection] = {}
        self._refreshing = Refreshing()
        self._stale = Stale()

    @property
    def is_over(self) -> bool:
        """Whether there is no connection, and nothing is kept of one that was."""
        return not self._connections and not self._stale.families

    def is_unheard(self, unheard: Collection[int]) -> bool:
        """Whether the peer may have said something that nobody has looked at, where that is so of these connections.

        How our call went may then wait to be looked at too.
        """
        is_call_unheard = self.connection is None and self._is_calling and bool(unheard)
        return is_call_unheard or not self._connections.keys().isdisjoint(unheard)

    # ── the operator ─────────────────────────────────────────────────────────

    def start(self, now: float, *, at_once: bool = False) -> list[Output]:
        """Begin: call the peer, or wait for its call if it is the one that calls.

        Of two nodes of the cluster both call once, since either may be the later to start, and then only one of
        them again. `at_once` calls a passive peer again and again until `call_passive` is set to False.
        """
        self.call_passive = at_once
        if not self._is_started:
            self._is_started, self._refusal = True, None
            self._is_introduced = not self.peer.in_cluster
            self._retry_at = now
        return self._settle(self._dial(now))

    def take_failure(self) -> str:
        """Return, once, what has kept the session from coming up several times now; "" where there is no news."""
        reason, self._untold = self._untold, ""
        return reason

    def stop(self, now: float, notification: Notification | None, why: str = "") -> list[Output]:
        """End, and keep nothing of the peer. None closes without a word, as a restart wants it (RFC 4724 §4.1).

        Of an administrative shutdown those are told who call meanwhile (RFC 4486 §4 has a NOTIFICATION for such calls).
        """
        reason = why or (f"closed by us: {notification.describe()}" if notification else "closed by us for a restart")
        outputs: list[Output] = []
        for connection in list(self._connections.values()):
            outputs += self._drop(connection, notification)
            outputs += self._lost(connection, reason, now, is_graceful=False)
        outputs += self._end_stale()
        if self._is_started:
            self.last_error = reason
        self._is_started = False
        is_shutdown = notification is not None and notification.subcode == Cease.ADMIN_SHUTDOWN
        self._refusal = notification if is_shutdown else None
        self.called_since = None
        return self._settle(outputs)

    def hand_over(self, to: Peer, now: float, notification: Notification) -> list[Output]:
        """End for a session with other options, which succeeds this one: what rule 6 keeps is kept, if offered."""
        reason = f"closed by us: {notification.describe()}"
        outputs: list[Output] = []
        for connection in list(self._connections.values()):
            is_up = connection.state is State.ESTABLISHED
            if is_up and restart_agreed(connection.negotiated) and not _survives_notification(connection):
                outputs += self._drop(connection, None)
                outputs += self._lost(connection, reason, now, is_graceful=True)
            else:
                outputs += self._fault(connection, notification, reason, now)
        self._is_started = False
        offered = _families_offered(to)
        if gone := frozenset(
            family for family in self._stale.families.difference(offered) if self._stale.end_of_rib(family)
        ):
            outputs.append(StaleExpired(gone))
        return self._settle(outputs)

    def succeed(self, other: Session) -> None:
        """Begin where another session with the same speaker has ended."""
        self.was_established, self.last_error = other.was_established, other.last_error
        self.down_reason, self._stale = other.down_reason, other._stale

    # ── the wire ─────────────────────────────────────────────────────────────

    def connected(self, connection: int, is_inbound: bool, now: float) -> list[Output]:
        """Note that a TCP connection stands: say OPEN on it, or refuse it."""
        outputs: list[Output] = []
        if not is_inbound:
            self._is_calling = False
        others = list(self._connections.values())
        established = next((c for c in others if c.state is State.ESTABLISHED), None)
        if not self._is_started:
            return self._settle(
                self._drop(_Connection(connection, is_inbound, NEVER), self._refusal if is_inbound else None)
            )
        if not is_inbound and any(not c.is_inbound or c.state is not State.OPEN_SENT for c in others):
            return self._settle([Hangup(connection)])  # rule 3: too late, and nothing was said
        if established is not None and not restart_agreed(established.negotiated):
            newcomer = _Connection(connection, is_inbound, NEVER)
            return self._settle(self._drop(newcomer, Notification.cease(Cease.CONNECTION_COLLISION)))
        for older in others:
            # The peer makes one connection at a time: it has given up an older one that went nowhere.
            if is_inbound and older.is_inbound and older is not established:
                outputs += self._drop(older, Notification.cease(Cease.CONNECTION_COLLISION))
        self._connections[connection] = _Connection(connection, is_inbound, now + OPEN_HOLD_S)
        outputs.append(Send(connection, self.open_message()))
        return self._settle(outputs)

    def connect_failed(self, reason: str, now: float) -> list[Output]:
        """Note that our call came to nothing (or, for a passive peer, why its calls do not get through)."""
        if self._is_calling:
            self._is_calling = False
            self._back_off(now)
        if self._is_started and all(c.state is State.OPEN_SENT for c in self._connections.values()):
            self._failed(reason)
        return self._settle([])

    def disconnected(self, connection: int, reason: str, now: float) -> list[Output]:
        """Note that a connection ended without a NOTIFICATION: paths are kept where that was agreed (RFC 4724 §4.2)."""
        lost = self._connections.get(connection)
        if lost is None:
            return []
        where = "" if lost.state is State.ESTABLISHED else f" in {lost.state.value}"
        if lost.state is State.OPEN_SENT:
            ours = f"{self.peer.local_address or 'this node'}, AS {self.peer.local_asn}"
            where += f": the peer may not know {ours}, or ask for TTL security"
        return self._settle(self._lost(lost, reason + where, now, is_graceful=True))

    def open_received(self, connection: int, negotiated: Negotiated, now: float) -> list[Output]:
        """Take the peer's OPEN: refuse it, settle a collision, or confirm it with a KEEPALIVE."""
        opened = self._connections.get(connection)
        if opened is None:
            return []
        if opened.state is not State.OPEN_SENT:
            return self._unexpected(opened, _OPEN, now)
        if negotiated.refusal is not None:
            words = self._refusal_words(negotiated.refusal, negotiated)
            return self._settle(self._fault(opened, negotiated.refusal, words, now))
        self.called_since = None
        outputs: list[Output] = []
        for other in [c for c in self._connections.values() if c is not opened]:
            stays = _outlives(other, negotiated)
            if stays is None:
                continue
            if stays:
                other.has_won = True
                outputs += self._drop(opened, Notification.cease(Cease.CONNECTION_COLLISION))
                return self._settle(outputs)
            outputs += self._give_up(other, now)
        opened.state = State.OPEN_CONFIRM
        opened.negotiated = negotiated
        opened.heard(now)
        opened.spoke(now, self._jitter())
        return self._settle([*outputs, Send(connection, Keepalive())])

    def message_received(
        self, connection: int, message: Keepalive | RouteRefresh | EndOfRib | Notification, now: float
    ) -> list[Output]:
        """Take any message but OPEN and UPDATE; what End-of-RIB means for paths is told by `end_of_rib_received`."""
        spoken = self._connections.get(connection)
        if spoken is None:
            return []
        match message:
            case Notification():
                reason = f"reset by peer: {message.describe()}"
                if (message.code, message.subcode) == (Code.OPEN, 2):
                    reason += f" (ours is {self.peer.local_asn})"
                outputs: list[Output] = [Hangup(connection)]
                is_over = message.is_hard_reset
                return self._settle(outputs + self._ended_by(message, spoken, reason, now, is_over=is_over))
            case Keepalive() if spoken.state is State.OPEN_CONFIRM:
                return self._settle(self._establish(spoken, now))
            case Keepalive():
                kind = _KEEPALIVE
            case EndOfRib():
                kind = _UPDATE
            case RouteRefresh():
                kind = _ROUTE_REFRESH
        if spoken.state is not State.ESTABLISHED:
            return self._unexpected(spoken, kind, now)
        spoken.heard(now)
        return []

    def update_received(self, connection: int, now: float) -> list[Output]:
        """Note an UPDATE; its routes count only if `connection` is that of the established session."""
        spoken = self._connections.get(connection)
        if spoken is None:
            return []
        if spoken.state is not State.ESTABLISHED:
            return self._unexpected(spoken, _UPDATE, now)
        spoken.heard(now)
        return []

    def garbage_received(self, connection: int, notification: Notification, text: str, now: float) -> list[Output]:
        """Note that the peer broke the protocol; it is told, and its paths are kept by rule 6 only."""
        spoken = self._connections.get(connection)
        if spoken is None:
            return []
        return self._settle(self._fault(spoken, notification, text, now))

    def sending_stalled(self, connection: int, since: float, now: float) -> list[Output]:
        """End a connection that took nothing of what waits for it since second `since`, once that is too long.

        Its peer may well keep it alive: it says KEEPALIVE, and hears none of ours (RFC 9687).
        """
        stalled = self._connections.get(connection)
        if stalled is None or now < since + stalled.send_patience:
            return []
        reason = f"send hold timer expired: the peer took nothing for {now - since:.0f} s"
        return self._settle(self._fault(stalled, Notification(Code.SEND_HOLD_TIMER), reason, now))

    def refresh_marked(self, family: Family, now: float, *, is_begin: bool) -> list[Output]:
        """Take BoRR or EoRR of the established session: between them all of a family is said again (RFC 7313 §4)."""
        if is_begin:
            return [RefreshBegan(family)] if self._refreshing.begun(family, now) else []
        return [StaleExpired(frozenset({family}))] if self._refreshing.ended(family) else []

    def end_of_rib_received(self, family: Family, now: float) -> list[Output]:  # noqa: ARG002  every event carries its time
        """Sweep what is stale of this family, once: the peer has said all it has (RFC 4724 §4.2)."""
        self._refreshing.end_of_rib(family)
        if self.state is not State.ESTABLISHED or not self._stale.end_of_rib(family):
            return []
        return [StaleExpired(frozenset({family}))]

    # ── time ─────────────────────────────────────────────────────────────────

    def tick(self, now: float, unheard: Collection[int] = ()) -> list[Output]:
        """Do what is due: hold and keepalive timers, stale paths, the next call.

        The hold timer of an `unheard` connection is not judged: what it has to say has not been looked at.
        """
        outputs: list[Output] = []
        for connection in list(self._connections.values()):
            if now >= connection.hold_deadline and connection.number not in unheard:
                reason = f"hold timer expired after {connection.patience:.0f} s"
                outputs += self._fault(connection, Notification(Code.HOLD_TIMER), reason, now)
            elif now >= connection.keepalive_deadline:
                connection.spoke(now, self._jitter())
                outputs.append(Send(connection.number, Keepalive()))
        outputs += self._age_stale(now)
        if over := self._refreshing.due(now):
            outputs.append(StaleExpired(over))
        return self._settle(outputs + self._dial(now))

    def next_wakeup(self) -> float:
        """Return the monotonic second at which `tick` has something to do, infinity if never."""
        deadlines = [self._retry_at if self._may_call() else NEVER]
        deadlines += [min(c.hold_deadline, c.keepalive_deadline) for c in self._connections.values()]
        return min(*deadlines, self._stale.next_due(), self._refreshing.next_due())

    # ── what we say ──────────────────────────────────────────────────────────

    def open_message(self) -> Open:
        """Return the OPEN we would send now; a family that we cannot be the next hop of is not offered."""
        peer = self.peer
        families = _families_offered(peer)
        routed = tuple(family for family in families if family in ROUTED)
        restart = long_lived = None
        if peer.graceful_restart:
            is_kept = self._local.is_forwarding_kept or self.was_established
            restart = GracefulRestart(
                restart_time=min(peer.graceful_restart, 4095),
                is_restarting=self._local.is_restarting,
                families=tuple((family, is_kept) for family in families),
                survives_notification=True,
            )
            if (seconds := peer.long_lived_graceful_restart) > 0:
                long_lived = LongLived(tuple((family, is_kept, seconds) for family in routed))
        role = ((roles.CAPABILITY, bytes((roles.ROLES[peer.bgp_role],))),) if peer.bgp_role else ()
        offered = peer.add_path or AddPath(0, receive=False)
        paths = tuple(PathIds(f, offered.receive, offered.send > 0) for f in routed)
        paths = paths if offered.receive or offered.send else ()
        capabilities = Capabilities(
            families=families,
            enhanced_refresh=True,
            extended_message=True,
            graceful_restart=restart,
            long_lived=long_lived,
            add_path=paths,
            ipv6_next_hops=Family.IPV4 in routed,
            other=role,
        )
        return Open(peer.local_asn, peer.hold_time, peer.router_id, capabilities)

    def _refusal_words(self, refusal: Notification, negotiated: Negotiated) -> str:
        """Return why the peer's OPEN was refused, with what it says and what the limit is."""
        if (refusal.code, refusal.subcode) == (Code.OPEN, 2) and negotiated.received.asn != self.peer.asn:
            return f"AS mismatch: the peer says {negotiated.received.asn}, configured is {self.peer.asn}"
        return negotiated.refusal_text or refusal.describe()

    # ── the path to the peer ─────────────────────────────────────────────────

    def path_failed(self, reason: str, now: float, *, is_independent: bool) -> list[Output]:
        """Take it from BFD that the path is broken, and keep nothing of the peer (RFC 5882 §4.3).

        A session that is down already keeps stale paths of a peer that restarts, unless BFD `is_independent` of the
        control planes of both: where it is not, it goes down with what restarts, and says nothing of the path.
        """
        connection = self._connections.get(self.connection) if self.connection is not None else None
        if connection is not None:
            return self._settle(self._fault(connection, Notification.cease(Cease.BFD_DOWN), reason, now))
        return self._end_stale() if is_independent else []

    def path_recovered(self, now: float) -> list[Output]:
        """Take it from BFD that the path is there: a peer that is to be called is called now."""
        self._failures, self._retry_at = 0, min(self._retry_at, now)
        return self._settle(self._dial(now))

    # ── the connections ──────────────────────────────────────────────────────

    def _establish(self, connection: _Connection, now: float) -> list[Output]:
        assert connection.negotiated is not None
        outputs: list[Output] = []
        for other in [c for c in self._connections.values() if c is not connection]:
            outputs += self._give_up(other, now)
        connection.state = State.ESTABLISHED
        connection.heard(now)
        self._refreshing.established(connection.negotiated.families if restart_agreed(connection.negotiated) else ())
        self.negotiated, self.connection, self.established_at = connection.negotiated, connection.number, now
        self.last_error = self.down_reason  # what failed while connecting is of no interest any more
        self._failed_so.clear()
        self._untold = ""
        self.was_established = True
        kept = self._stale.back(connection.negotiated, now)
        return [*outputs, Established(connection.number, connection.negotiated, kept)]

    def _give_up(self, connection: _Connection, now: float) -> list[Output]:
        """Close the connection that a collision is decided against; an established one as if TCP had failed."""
        if connection.state is not State.ESTABLISHED:
            return self._drop(connection, Notification.cease(Cease.CONNECTION_COLLISION))
        outputs = self._drop(connection, None)
        return outputs + self._lost(connection, "replaced: the peer opened a new connection", now, is_graceful=True)

    def _lost(
        self, connection: _Connection, reason: str, now: float, *, is_graceful: bool, is_doubted: bool = False
    ) -> list[Output]:
        """Forget a connection that failed, and say what that means for the session."""
        self._connections.pop(connection.number, None)
        if connection.state is not State.ESTABLISHED:
            if not connection.is_inbound or self._retry_at <= now:
                self._back_off(now)
            if not self._connections:
                self._failed(reason)
            return []
        assert connection.negotiated is not None
        assert self.established_at is not None
        if now - self.established_at >= LAST_RETRY_S:
            self._failures = 0
        self._back_off(now)
        self.last_error = self.down_reason = reason
        self.negotiated = self.connection = self.established_at = None
        self._refreshing.established(())
        retain = retainable(connection.negotiated) if is_graceful else frozenset()
        self._stale.lost(connection.negotiated, retain, now)
        return [WentDown(reason, retain, is_doubted and bool(retain)), *self._age_stale(now)]

    def _failed(self, reason: str) -> None:
        """Note why there is no session. What comes again and again is told the third time, numbers in it aside."""
        self.last_error = reason
        kind = re.sub(r"\d+", "", reason)
        if kind in self._failed_so or len(self._failed_so) < MOST_TOLD:  # peers choose some of the words
            self._failed_so[kind] += 1
            if self._failed_so[kind] == TOLD_AT:
                self._untold = reason

    def _drop(self, connection: _Connection, notification: Notification | None) -> list[Output]:
        """Close a connection for no fault of the session's; the caller says what follows if it was established."""
        self._connections.pop(connection.number, None)
        if notification is not None and notification.is_final and _survives_notification(connection):
            notification = notification.as_hard_reset()
        said: list[Output] = [Send(connection.number, notification)] if notification is not None else []
        return [*said, Hangup(connection.number)]

    def _fault(self, connection: _Connection, notification: Notification, reason: str, now: float) -> list[Output]:
        is_over = notification.is_final
        dropped = self._drop(connection, notification)
        return dropped + self._ended_by(notification, connection, reason, now, is_over=is_over)

    def _ended_by(
        self, notification: Notification, connection: _Connection, reason: str, now: float, *, is_over: bool
    ) -> list[Output]:
        """Forget a connection after a NOTIFICATION, ours or the peer's (rule 6)."""
        is_graceful = _survives_notification(connection) and not is_over
        is_doubted = notification.code in {Code.HOLD_TIMER, Code.SEND_HOLD_TIMER}
        return self._lost(connection, reason, now, is_graceful=is_graceful, is_doubted=is_doubted)

    def _unexpected(self, connection: _Connection, kind: tuple[int, str], now: float) -> list[Output]:
        """Answer a message that the state has no place for (RFC 6608)."""
        number, name = kind
        notification = Notification(Code.STATE_MACHINE, _UNEXPECTED_IN[connection.state], bytes((number,)))
        reason = f"the peer sent {name} in {connection.state.value}"
        return self._settle(self._fault(connection, notification, reason, now))

    # ── calling, waiting, expiring ───────────────────────────────────────────

    def _may_call(self) -> bool:
        """Whether a call is wanted: none under way, and no connection that got as far as the peer's OPEN.

        An inbound one in OpenSent does not count, else a caller that says nothing would keep us from calling.
        """
        if not self._is_started or self._is_calling or self.peer.of_range is not None:
            return False
        if self.peer.is_passive and self._is_introduced and not self.call_passive:
            return False
        return all(c.is_inbound and c.state is State.OPEN_SENT for c in self._connections.values())

    def _dial(self, now: float) -> list[Output]:
        if now < self._retry_at or not self._may_call():
            return []
        self._is_calling = self._is_introduced = True
        if self.called_since is None:
            self.called_since = now
        return [Dial(self.peer.name)]

    def pause(self, now: float) -> float:
        """Return the seconds until a call where this life ends now, jitter aside; the more have failed, the more."""
        is_long = self.established_at is not None and now - self.established_at >= LAST_RETRY_S
        return FIRST_RETRY_S if is_long else min(FIRST_RETRY_S * 2**self._failures, LAST_RETRY_S)

    def _back_off(self, now: float) -> None:
        pause = self.pause(now)
        self._failures = min(self._failures + 1, 8)
        self._retry_at = now + pause * (1 + self._jitter() / 4)

    def _age_stale(self, now: float) -> list[Output]:
        turning, over = self._stale.due(now)
        outputs: list[Output] = [StaleOutlived(turning)] if turning else []
        return [*outputs, StaleExpired(over)] if over else outputs

    def _end_stale(self) -> list[Output]:
        over = self._stale.end()
        return [StaleExpired(over)] if over else []

    def _settle(self, outputs: list[Output]) -> list[Output]:
        """Bring `state` in line with the connections: that of the one that got furthest."""
        reached = {c.state for c in self._connections.values()}
        state = State.ACTIVE if self._is_started else State.IDLE
        if self._is_started and self._is_calling:
            state = State.CONNECT
        for further in (State.OPEN_SENT, State.OPEN_CONFIRM, State.ESTABLISHED):
            if further in reached:
                state = further
        if state is not self.state:
            self.state = state
            self.transitions[state] += 1
        return outputs


def _outlives(other: _Connection, negotiated: Negotiated) -> bool | None:
    """Tell whether `other` stays and the one on which the OPEN just came goes; None: not to be said yet (rule 3)."""
    if other.state is State.ESTABLISHED:
        restart = negotiated.received.capabilities.graceful_restart
        before = other.negotiated.received.capabilities.graceful_restart if other.negotiated is not None else None
        if restart is None or before is None:
            return True
        return False if restart.is_restarting and not before.is_restarting else None
    ours, theirs = negotiated.sent, negotiated.received
    is_winner = other.is_inbound is not ((ours.router_id, ours.asn) > (theirs.router_id, theirs.asn))
    if is_winner and other.state is State.OPEN_SENT:
        # One of ours that has won before and got no OPEN since is dead at the other end: the peer calls again.
        return None if other.is_inbound else not other.has_won
    return is_winner


def _families_offered(peer: Peer) -> tuple[Family, ...]:
    """Return what an OPEN to a peer offers; FlowSpec has no next hop that could be ours (RFC 8955 §4)."""
    able = {family for family, _ in peer.next_hops}
    return tuple(family for family in peer.families if family in able) + (FLOWSPEC if peer.flowspec is not None else ())


def restart_agreed(negotiated: Negotiated | None) -> bool:
    """Tell whether both OPENs carried the graceful-restart capability."""
    return negotiated is not None and all(
        message.capabilities.graceful_restart is not None for message in (negotiated.sent, negotiated.received)
    )


def _survives_notification(connection: _Connection) -> bool:
    """Tell whether a connection is that of an established session, and both sides keep it over a NOTIFICATION."""
    if connection.state is not State.ESTABLISHED or connection.negotiated is None:
        return False
    said = (connection.negotiated.sent, connection.negotiated.received)
    restarts = [message.capabilities.graceful_restart for message in said]
    return all(restart is not None and restart.survives_notification for restart in restarts)
