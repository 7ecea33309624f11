"""The session machine of RFC 4271 §8, sans-IO: what happened and `now` in, what to do about it out.

One `Session` is one life of the conversation with a Peer after another. It opens no socket and reads
no clock; the engine turns its outputs into commands for the wire and calls for the RIB.

Rules:
 1. At most two connections live at a time, and at most one of them is established.
 2. Every connection handed in by `connected` stays until it is lost or answered with `Hangup`;
    after that nothing is said on it, and what still arrives from it is ignored.
 3. A collision is settled by `Connection.outlives`, as soon as both sides must come to the same result.
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

import re
from collections import Counter
from collections.abc import Callable, Collection

from bgpmesh.frozen import frozen
from bgpmesh.peering.connection import NEVER, OPEN_HOLD_S, Connection, State
from bgpmesh.peering.message import (
    Cease,
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
from bgpmesh.peering.offer import LocalRestart, families_offered, open_to, why_refused
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.refresh import Refreshing
from bgpmesh.peering.stale import Stale, retainable
from bgpmesh.route.nlri import Family
from bgpmesh.route.path import PeerName

# Connects are tried again after 1 to 8 s: a pause that doubles, and up to a quarter more. The first is short, as
# who refuses at first is a neighbour that starts too.
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 6.4

# What keeps a session from coming up is told when it has done so for so many times (a neighbour may start as we do),
# and so many things of one peer.
TOLD_AT = 3
MOST_TOLD = 8

# RFC 6608 §3: the subcode says the state, one octet of data the type of the message.
_UNEXPECTED_IN = {State.OPEN_SENT: 1, State.OPEN_CONFIRM: 2, State.ESTABLISHED: 3}
_OPEN, _UPDATE = (1, "OPEN"), (2, "UPDATE")
_KINDS: dict[type, tuple[int, str]] = {
    EndOfRib: _UPDATE,
    Keepalive: (4, "KEEPALIVE"),
    RouteRefresh: (5, "ROUTE-REFRESH"),
}


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
        self._connections: dict[int, Connection] = {}
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
        outputs += _expired(self._stale.end())
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
            is_kept = connection.negotiated is not None and connection.negotiated.is_graceful
            if is_up and is_kept and not connection.survives_notification:
                outputs += self._drop(connection, None)
                outputs += self._lost(connection, reason, now, is_graceful=True)
            else:
                outputs += self._fault(connection, notification, reason, now)
        self._is_started = False
        gone = self._stale.families.difference(families_offered(to))
        for family in gone:
            self._stale.end_of_rib(family)
        return self._settle(outputs + _expired(gone))

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
        if not self._is_started:
            return self._settle(_hang_up(connection, self._refusal if is_inbound else None))
        if not is_inbound and any(not c.is_inbound or c.state is not State.OPEN_SENT for c in others):
            return self._settle([Hangup(connection)])  # rule 3: too late, and nothing was said
        if self.negotiated is not None and not self.negotiated.is_graceful:
            return self._settle(_hang_up(connection, Notification.cease(Cease.CONNECTION_COLLISION)))
        for older in others:
            # The peer makes one connection at a time: it has given up an older one that went nowhere.
            if is_inbound and older.is_inbound and older.state is not State.ESTABLISHED:
                outputs += self._drop(older, Notification.cease(Cease.CONNECTION_COLLISION))
        self._connections[connection] = Connection(connection, is_inbound, now + OPEN_HOLD_S)
        outputs.append(Send(connection, self.open_message()))
        return self._settle(outputs)

    def open_message(self) -> Open:
        """Return the OPEN we would send now."""
        is_kept = self._local.is_forwarding_kept or self.was_established
        return open_to(self.peer, is_restarting=self._local.is_restarting, is_forwarding_kept=is_kept)

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
            why = why_refused(self.peer, negotiated, negotiated.refusal)
            return self._settle(self._fault(opened, negotiated.refusal, why, now))
        self.called_since = None
        outputs: list[Output] = []
        for other in [c for c in self._connections.values() if c is not opened]:
            stays = other.outlives(negotiated)
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
        """Take any message but OPEN and UPDATE; a request of ROUTE-REFRESH asks nothing of the session."""
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
            case _ if spoken.state is not State.ESTABLISHED:
                return self._unexpected(spoken, _KINDS[type(message)], now)
        spoken.heard(now)
        match message:
            case EndOfRib(family):  # the peer has said all it has (RFC 4724 §4.2)
                self._refreshing.end_of_rib(family)
                return _expired({family} if self._stale.end_of_rib(family) else ())
            case RouteRefresh(family, Refresh.BEGIN):
                return [RefreshBegan(family)] if self._refreshing.begun(family, now) else []
            case RouteRefresh(family, Refresh.END):
                return _expired({family} if self._refreshing.ended(family) else ())
            case _:
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
        outputs += self._age_stale(now) + _expired(self._refreshing.due(now))
        return self._settle(outputs + self._dial(now))

    def next_wakeup(self) -> float:
        """Return the monotonic second at which `tick` has something to do, infinity if never."""
        deadlines = [self._retry_at if self._may_call() else NEVER]
        deadlines += [min(c.hold_deadline, c.keepalive_deadline) for c in self._connections.values()]
        return min(*deadlines, self._stale.next_due(), self._refreshing.next_due())

    # ── the path to the peer ─────────────────────────────────────────────────

    def path_failed(self, reason: str, now: float, *, is_independent: bool) -> list[Output]:
        """Take it from BFD that the path is broken, and keep nothing of the peer (RFC 5882 §4.3).

        A session that is down already keeps stale paths of a peer that restarts, unless BFD `is_independent` of the
        control planes of both: where it is not, it goes down with what restarts, and says nothing of the path.
        """
        connection = self._connections.get(self.connection) if self.connection is not None else None
        if connection is not None:
            return self._settle(self._fault(connection, Notification.cease(Cease.BFD_DOWN), reason, now))
        return _expired(self._stale.end()) if is_independent else []

    def path_recovered(self, now: float) -> list[Output]:
        """Take it from BFD that the path is there: a peer that is to be called is called now."""
        self._failures, self._retry_at = 0, min(self._retry_at, now)
        return self._settle(self._dial(now))

    # ── the connections ──────────────────────────────────────────────────────

    def _establish(self, connection: Connection, now: float) -> list[Output]:
        assert connection.negotiated is not None
        outputs: list[Output] = []
        for other in [c for c in self._connections.values() if c is not connection]:
            outputs += self._give_up(other, now)
        connection.state = State.ESTABLISHED
        connection.heard(now)
        self._refreshing.established(connection.negotiated.families if connection.negotiated.is_graceful else ())
        self.negotiated, self.connection, self.established_at = connection.negotiated, connection.number, now
        self.last_error = self.down_reason  # what failed while connecting is of no interest any more
        self._failed_so.clear()
        self._untold = ""
        self.was_established = True
        kept = self._stale.back(connection.negotiated, now)
        return [*outputs, Established(connection.number, connection.negotiated, kept)]

    def _give_up(self, connection: Connection, now: float) -> list[Output]:
        """Close the connection that a collision is decided against; an established one as if TCP had failed."""
        if connection.state is not State.ESTABLISHED:
            return self._drop(connection, Notification.cease(Cease.CONNECTION_COLLISION))
        outputs = self._drop(connection, None)
        return outputs + self._lost(connection, "replaced: the peer opened a new connection", now, is_graceful=True)

    def _lost(
        self, connection: Connection, reason: str, now: float, *, is_graceful: bool, is_doubted: bool = False
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

    def _drop(self, connection: Connection, notification: Notification | None) -> list[Output]:
        """Close a connection for no fault of the session's; the caller says what follows if it was established."""
        self._connections.pop(connection.number, None)
        if notification is not None and notification.is_final and connection.survives_notification:
            notification = notification.as_hard_reset()
        return _hang_up(connection.number, notification)

    def _fault(self, connection: Connection, notification: Notification, reason: str, now: float) -> list[Output]:
        is_over = notification.is_final
        dropped = self._drop(connection, notification)
        return dropped + self._ended_by(notification, connection, reason, now, is_over=is_over)

    def _ended_by(
        self, notification: Notification, connection: Connection, reason: str, now: float, *, is_over: bool
    ) -> list[Output]:
        """Forget a connection after a NOTIFICATION, ours or the peer's (rule 6)."""
        is_graceful = connection.survives_notification and not is_over
        is_doubted = notification.code in {Code.HOLD_TIMER, Code.SEND_HOLD_TIMER}
        return self._lost(connection, reason, now, is_graceful=is_graceful, is_doubted=is_doubted)

    def _unexpected(self, connection: Connection, kind: tuple[int, str], now: float) -> list[Output]:
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
        outlived: list[Output] = [StaleOutlived(turning)] if turning else []
        return outlived + _expired(over)

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


def _hang_up(connection: int, notification: Notification | None) -> list[Output]:
    """Close a connection; None: without a word."""
    said: list[Output] = [Send(connection, notification)] if notification is not None else []
    return [*said, Hangup(connection)]


def _expired(families: Collection[Family]) -> list[Output]:
    """Have what is still stale of these families go, if there are any."""
    return [StaleExpired(frozenset(families))] if families else []
