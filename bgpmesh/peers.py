"""Whom this node talks to: a session for each peer, the timers of all, a restart, the list of held peers, BFD.

A restart (RFC 4724 §4.1). At the first read-back of the kernel (`boot`) it is known whether this node
restarted: peers are on the list of those whose paths the node holds, or programs had announced something, *and* routes
of ours are in the kernel, or it is known that there were none (`LastLife`). Then it sets the R bit, calls every listed
peer at once, holds what it found, and selects among learnt paths, sweeps and sends End-of-RIB only once in sync: when
each listed peer has sent End-of-RIB, or owes none, or does not answer, or the time is up (`restart.py`). Own prefixes
never wait.

What may not happen here:
 1. A peer's paths are used before its name is in `held`, or its name leaves while one is in the kernel.
 2. End-of-RIB leaves while a prefix still waits for a decision: it is asked for once this node is in sync, and the
    RIB keeps it back until it is at rest.

A speaker of a range has a session from its first call until nothing of it is left: no connection, no stale path, and no
restart that waits for it. It is called by nobody, so it comes when it wants to.

BFD (RFC 5882) says of a peer's path that it is broken, and never that a session may come up: one comes up without it,
as with a peer that has none. A path that was up and is broken ends the session and all that the peer has said. Of a
peer that is away it ends what is still held, if both sides' BFD outlives their daemons; where it does not, it goes down
with a peer that restarts, and says nothing of the path. What somebody wants (AdminDown) is no failure.

Out of service (`rib/drain.py`). A node that has stopped has no sessions, and begins none until it is told to return.
Then it calls everybody, and says that it is the last choice until whoever answers has said all, and the kernel has it.

What is learnt goes to the RIB, what is to be said to `commands`. Workloads and packets are nothing to a session.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Protocol, assert_never

from bgpmesh.callers import Callers
from bgpmesh.events import (
    BfdReported,
    Command,
    Configured,
    Connected,
    ConnectFailed,
    Disconnected,
    DrainChanged,
    FlowsReceived,
    GarbageReceived,
    Level,
    MessageReceived,
    OpenReceived,
    ProcessEnded,
    ProcessSpoke,
    RoutesReceived,
    SendingStalled,
    StartRoutes,
    Stopping,
    TimerFired,
)
from bgpmesh.notes import Notes
from bgpmesh.peering import bfd
from bgpmesh.peering.message import Cease, EndOfRib, Notification, Refresh, RouteRefresh
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.ranges import PeerRange
from bgpmesh.peering.session import (
    Dial,
    Established,
    Hangup,
    LocalRestart,
    Output,
    RefreshBegan,
    Send,
    Session,
    StaleExpired,
    StaleOutlived,
    State,
    WentDown,
    restart_agreed,
)
from bgpmesh.restart import NEVER, Awaited, LastLife
from bgpmesh.rib.drain import Drain
from bgpmesh.rib.rib import Rib
from bgpmesh.route.nlri import Family, prefix_text
from bgpmesh.route.path import PeerName

# BFD goes on so long at least without a daemon: a supervisor has started it again by then.
LEAST_STAY_S = 10.0
# Between the withdrawal of all routes and the end of the sessions: what is still sent to us is forwarded.
WITHDRAWN_S = 1.0
# Who calls, and has not come to a session.
_CALLING = (State.OPEN_SENT, State.OPEN_CONFIRM)


@dataclass(slots=True)
class Faults:
    """What a peer did wrong: counts of all its sessions, and the words of this one ("": nothing yet)."""

    treated_as_withdraw: int = 0  # UPDATEs (RFC 7606)
    attributes_discarded: int = 0
    update_problem: str = ""  # what was wrong with an UPDATE last
    claims_refused: int = 0  # prefixes of which it said what it may not say
    claims_problem: str = ""  # the first of them
    near_limits: set[tuple[Family, str]] = field(default_factory=set)  # of this session, told of


class Followed(Protocol):
    """What lives and dies with sessions as paths do, and is none."""

    def peer_up(self, peer: Peer, keep: frozenset[Family]) -> None:
        """Begin a session: what is stale of `keep` stays for now."""

    def peer_down(self, name: PeerName, retain: frozenset[Family]) -> None:
        """End a session: what is of `retain` becomes stale, the rest goes."""

    def mark_stale(self, name: PeerName, family: Family) -> None:
        """Let all of a family be stale until it is said again."""

    def sweep(self, name: PeerName, families: frozenset[Family]) -> None:
        """Drop what is still stale of these families."""

    def limit(self, peer: Peer) -> None:
        """Take other limits for a peer."""

    def forget(self, name: PeerName) -> None:
        """Remember nothing of a peer of whom nothing is held."""


class Peers:
    """The sessions of one node; `followed` is told of them as the RIB is.

    `listed` are the peers whose paths the node held when it last ran, None where that is not known; `last` is what else
    is known of then.
    `jitter` answers a number in [0, 1).
    """

    def __init__(
        self,
        configured: Configured,
        rib: Rib,
        followed: Followed,
        notes: Notes,
        *,
        listed: Iterable[PeerName] | None,
        last: LastLife,
        jitter: Callable[[], float],
    ) -> None:
        self.commands: deque[Command] = deque()  # what the wire is to do
        self.sessions: dict[PeerName, Session] = {}
        self.faults: defaultdict[PeerName, Faults] = defaultdict(Faults)
        self.callers = Callers(notes)
        self._leaving: set[PeerName] = set()  # speakers of ranges that may be over
        self._listed, self._last = None if listed is None else frozenset(listed), last
        self.held: frozenset[PeerName] = self._listed or frozenset()  # on disk before anything else is done
        self.watched: tuple[bfd.Watched, ...] = ()  # what BFD is to watch
        self.bfd: dict[PeerName, bfd.Report] = {}  # what it says of that
        self._stay_s = LEAST_STAY_S
        self.is_in_sync = False
        self._configured = configured
        self._rib = rib
        self._rib.is_deferring = True  # until the first read-back tells whether this is a restart
        self._followed = followed
        self._notes = notes
        self._jitter = jitter
        self._local_restart = LocalRestart()
        self._peer_of: dict[int, PeerName] = {}  # connection -> peer
        self._wakeups: dict[PeerName, float] = {}
        self._agenda: list[tuple[float, PeerName]] = []  # a heap of the same, and of what it was before
        self._away: set[PeerName] = set(self.held)  # on the list without a session
        self._resume_at: dict[PeerName, float] = {}  # sessions closed for too many prefixes
        self._awaited = Awaited(self.sessions)
        self._booted_at: float | None = None
        self._is_stopping = False
        self.drain = DrainChanged(Drain.NONE)  # on disk before a peer hears of it
        self._close_at = NEVER  # when the sessions of a node that stops end
        self._is_awaiting_return = False  # of peers: that they say what they have

    def configure(self, new: Configured, now: float) -> None:
        """Have a session with each of these peers, and with nobody else; `check_sync` comes after."""
        self._configured = new
        self.callers.configure(new)
        everybody = (*new.peers, *self.callers.templates)
        self._stay_s = max([LEAST_STAY_S, *(peer.asks_for_s for peer in everybody)])
        self._hear_of_refusals()
        wanted = {peer.name: peer for peer in new.peers}
        speakers = self.callers.among(self.sessions)
        awaited = frozenset(self._awaited.names)
        before: dict[PeerName, Peer] = {}
        ended: dict[PeerName, Session] = {}
        for name, session in list(self.sessions.items()):
            changed = wanted.get(name) or speakers.get(name)
            if changed is not None and changed.has_same_session(session.peer):
                before[name], session.peer = session.peer, changed
            else:
                is_another = session.peer.of_range is not None and self.callers.has(session.peer.address)
                self._remove(session, changed, now, is_gone=changed is None and not is_another)
                ended[name] = session
        self._rib.filter(new.filters, (*new.peers, *speakers.values()))
        for name, peer in before.items():
            if self.sessions[name].peer != peer:
                self._amended(self.sessions[name], peer, now)
        for name, peer in (wanted | speakers).items():
            if name not in self.sessions:
                self._add(peer, ended.get(name), now, is_awaited=name in awaited)
        for name in ended.keys() - self.sessions.keys():
            self._forget(ended[name])
        self._watch()
        names = {PeerName(each.name) for each in self.watched}
        self.bfd = {name: report for name, report in self.bfd.items() if name in names}

    def next_wakeup(self) -> float:
        """Return the monotonic second at which a timer is due, infinity if none is."""
        earliest = self._next_due()
        if self._booted_at is not None and (not self.is_in_sync or self._is_awaiting_return):
            earliest = min(earliest, self._awaited.next_check())
        return min(earliest, self._close_at)

    def waiting_for(self) -> dict[PeerName, str]:
        """Return the peers that keep this restart from being in sync, each with the reason."""
        return self._awaited.reasons()

    # ── what the wire tells ──────────────────────────────────────────────────

    def connected(self, event: Connected, now: float) -> None:
        """Give a connection to the session of its peer."""
        session = self.sessions.get(event.peer) or self._let_in(event, now)
        if session is None:  # there is no room, or it was removed while the connection was on its way
            self.commands.append(Hangup(event.connection))
            return
        self._peer_of[event.connection] = event.peer
        self._apply(event.peer, session.connected(event.connection, event.is_inbound, now), now)

    def connect_failed(self, event: ConnectFailed, now: float) -> None:
        """Tell a session that our call came to nothing."""
        if event.peer in self.sessions:
            self._apply(event.peer, self.sessions[event.peer].connect_failed(event.reason, now), now)
        elif event.peer in self.callers.names:
            self.callers.came_to_nothing(event.peer, event.peer, event.reason)

    def disconnected(self, event: Disconnected, now: float) -> None:
        """Tell a session that its connection is gone."""
        name = self._peer_of.pop(event.connection, None)
        if name is not None:
            self._apply(name, self.sessions[name].disconnected(event.connection, event.reason, now), now)

    def open_received(self, event: OpenReceived, now: float) -> None:
        """Give an OPEN to its session."""
        if (session := self._session(event.connection)) is not None:
            self._apply(session.peer.name, session.open_received(event.connection, event.negotiated, now), now)

    def garbage_received(self, event: GarbageReceived, now: float) -> None:
        """End the session of a peer that sent what ends one."""
        if (session := self._session(event.connection)) is not None:
            outputs = session.garbage_received(event.connection, event.notification, event.text, now)
            self._apply(session.peer.name, outputs, now)

    def sending_stalled(self, event: SendingStalled, now: float) -> None:
        """Tell a session that its peer has taken nothing for a while."""
        if (session := self._session(event.connection)) is not None:
            self._apply(session.peer.name, session.sending_stalled(event.connection, event.since, now), now)

    def message_received(self, event: MessageReceived, now: float) -> None:
        """Give any other message but an UPDATE to its session, and to the RIB what is for it."""
        connection, message = event.connection, event.message
        session = self._session(connection)
        if session is None:
            return
        name = session.peer.name
        match message:
            case EndOfRib(family):
                outputs = session.update_received(connection, now)
                if session.connection == connection:
                    outputs += session.end_of_rib_received(family, now)
                    self._awaited.end_of_rib(name, family, now)
            case RouteRefresh(family, kind):
                outputs = session.message_received(connection, message, now)
                if session.connection == connection and kind is Refresh.REQUEST:
                    self._rib.refresh(name, family)
                elif session.connection == connection:
                    outputs += session.refresh_marked(family, now, is_begin=kind is Refresh.BEGIN)
            case _:
                outputs = session.message_received(connection, message, now)
        self._apply(name, outputs, now)
        self.check_sync(now)

    def routes_received(self, event: RoutesReceived, now: float) -> PeerName | None:
        """Give an UPDATE to the RIB; return whose it was, None where it is not to be heard."""
        session = self._update_received(event, now)
        if session is None:
            return None
        name = session.peer.name
        self._rib.receive(name, event.attributes, event.announced, event.withdrawn, event.read_at)
        self._hear_of_refusals()
        if (over := self._rib.is_over_limit(name)) is not None:
            self._over_limit(session, *over, now)
        else:
            self._warn_of_limits(name)
        return name

    def flows_received(self, event: FlowsReceived, now: float) -> Peer | None:
        """Note an UPDATE of flow specifications; return whose it was, None where it is not to be heard."""
        session = self._update_received(event, now)
        return None if session is None else session.peer

    def _update_received(self, event: RoutesReceived | FlowsReceived, now: float) -> Session | None:
        """Return whose UPDATE it is, if it is to be heard; what was wrong with it is counted."""
        session = self._session(event.connection)
        if session is None:
            return None
        name = session.peer.name
        self._apply(name, session.update_received(event.connection, now), now)
        if session.connection != event.connection or session.state is not State.ESTABLISHED:
            return None
        if event.problem:
            faults = self.faults[name]
            faults.treated_as_withdraw += event.treated_as_withdraw
            faults.attributes_discarded += event.attributes_discarded
            if faults.update_problem != event.problem:  # who does it wrong does so in every UPDATE
                faults.update_problem = event.problem
                self._notes.add("update.malformed", Level.WARNING, peer=name, reason=event.problem)
        self._awaited.updated(name, now)
        return session

    def timer_fired(self, event: TimerFired, now: float) -> None:
        """Let every session have its turn that is due."""
        due: list[PeerName] = []
        while self._next_due() <= now:
            due.append(heappop(self._agenda)[1])
            del self._wakeups[due[-1]]
        for name in due:
            session = self.sessions[name]
            is_resumed = self._resume_at.get(name, NEVER) <= now
            if is_resumed:
                del self._resume_at[name]
            self._apply(name, session.start(now) if is_resumed else session.tick(now, event.unheard), now)
        if self._close_at <= now:
            self._close(now)
        self.check_sync(now, event.unheard)

    def stop(self, _: Stopping, now: float) -> None:
        """End every session: the kernel's routes stay, and so does the list."""
        self._is_stopping = True
        kept = {name for name, session in self.sessions.items() if restart_agreed(session.negotiated)}
        self.watched = tuple(each for each in self.watched if each.name in kept)
        for name, session in self.sessions.items():
            is_silent = name in kept
            farewell = None if is_silent else Notification.cease(Cease.ADMIN_SHUTDOWN, "bgpmesh stops")
            self._apply(name, session.stop(now, farewell), now)

    # ── what BFD tells ───────────────────────────────────────────────────────

    def bfd_wanted(self) -> tuple[tuple[bfd.Watched, ...], float]:
        """Return what BFD is to watch, and for how long without this daemon: while a peer may keep our routes."""
        return self.watched, self._stay_s

    def bfd_reported(self, event: BfdReported, now: float) -> None:
        """Take note of how the path to a peer is, and end what went over one that is broken."""
        report, name = event.report, PeerName(event.report.name)
        session = self.sessions.get(name)
        if session is None or all(each.name != name for each in self.watched):
            return  # it was told that nobody wants to know any more, and has not heard it yet
        before, self.bfd[name] = self.bfd.get(name), report
        was_up = before is not None and before.state == bfd.State.UP
        is_up = report.state == bfd.State.UP
        if report.is_failure or (was_up and not is_up):
            reason = bfd.diag_words(report.diag) if not is_up else "it was down for a moment"
            level = Level.WARNING if report.is_failure else Level.INFO
            self._notes.add("bfd.down", level, peer=name, reason=reason)
            if report.is_failure:
                self._path_failed(session, report, reason, now)
        if is_up and (report.is_failure or not was_up):
            self._notes.add("bfd.up", peer=name)
            self._apply(name, session.path_recovered(now), now)

    def _path_failed(self, session: Session, report: bfd.Report, reason: str, now: float) -> None:
        name = session.peer.name
        if session.established_at is not None and session.established_at > report.at:
            return  # it began since
        outputs = session.path_failed(f"BFD: {reason}", now, is_independent=report.is_independent)
        self._apply(name, outputs, now)
        if report.is_independent:
            self._awaited.discard(name)
            self.check_sync(now)

    # ── sessions ─────────────────────────────────────────────────────────────

    def _session(self, connection: int) -> Session | None:
        name = self._peer_of.get(connection)
        return None if name is None else self.sessions.get(name)

    def _add(self, peer: Peer, before: Session | None, now: float, *, is_awaited: bool) -> None:
        session = self.sessions[peer.name] = Session(peer, self._local_restart, self._jitter)
        if before is not None:
            session.succeed(before)
        if is_awaited:  # it was changed before it could say what we held of it when we restarted
            self._awaited.add(peer.name, now)
        if self.is_closed:
            self._apply(peer.name, session.stop(now, self._farewell()), now)
        elif self._booted_at is not None:
            self._apply(peer.name, session.start(now, at_once=is_awaited), now)

    def _amended(self, session: Session, before: Peer, now: float) -> None:
        """Act on what has changed under a session; the RIB has done its part."""
        peer = session.peer
        name = peer.name
        if peer.flowspec is not None and peer.flowspec != before.flowspec:
            self._followed.limit(peer)
        limits = (peer.max_prefixes, peer.max_identities)
        if name in self._resume_at and limits != (before.max_prefixes, before.max_identities):
            del self._resume_at[name]
            self._apply(name, session.start(now), now)  # it may keep within the new ones
        if session.connection is not None and session.state is State.ESTABLISHED:
            if (over := self._rib.is_over_limit(name)) is not None:
                self._over_limit(session, *over, now)
            else:
                self._warn_of_limits(name)
                if peer.enforce_first_as != before.enforce_first_as:
                    self._ask_again(session, session.connection)
        self._wake_at(name, min(session.next_wakeup(), self._resume_at.get(name, NEVER)))

    def _ask_again(self, session: Session, connection: int) -> None:
        """Have a peer say again what it has said, so that it is judged anew, if it can (RFC 2918)."""
        negotiated = session.negotiated
        if negotiated is not None and negotiated.received.capabilities.route_refresh:
            self.commands.extend(Send(connection, RouteRefresh(family)) for family in negotiated.families)

    def _let_in(self, event: Connected, now: float) -> Session | None:
        """Return the new session of one that calls from a range; None: it does not, or is one too many."""
        found = self.callers.find(event.peer)
        if found is None or self._booted_at is None:
            return None
        around, peer = found
        if not self._make_room(around, now):
            self.commands.append(Send(event.connection, Notification.cease(Cease.CONNECTION_REJECTED)))
            reason = f"range_limit = {around.limit} speakers are here already"
            self.callers.came_to_nothing(around.name, event.peer, reason)
            return None
        self._add(peer, None, now, is_awaited=False)
        session = self.sessions[event.peer]
        session.was_established = self.callers.was_here(event.peer)
        return session

    def _make_room(self, around: PeerRange, now: float) -> bool:
        """Have room for one more speaker of a range; tell whether there is.

        Who called first and has come to no session gives way, for RFC 4271 has it 4 minutes to say OPEN: callers who
        never do keep nobody out, and who does has said it in a round trip.
        """
        speakers = [session for session in self.sessions.values() if session.peer.of_range == around.name]
        count = len(speakers) - around.limit + 1
        late = [each for each in speakers if each.state in _CALLING and each.peer.name not in self.held]
        if len(late) < count:
            return False
        for session in late[: max(0, count)]:
            name = session.peer.name
            self._apply(name, session.stop(now, Notification.cease(Cease.CONNECTION_REJECTED)), now)
            self.callers.came_to_nothing(around.name, name, "made room for a later caller: no session yet")
            del self.sessions[name]
            self._forget(session)
        return True

    def _doubt(self, session: Session) -> None:
        """Have it looked at whether anything is left of a speaker of a range."""
        if session.peer.of_range is not None and session.is_over:
            self._leaving.add(session.peer.name)

    def let_go(self) -> None:
        """Forget the speakers of ranges of whom nothing is left."""
        if not self._leaving or self._is_stopping:
            return
        leaving, self._leaving = self._leaving, set()
        for name in leaving:
            session = self.sessions.get(name)
            if session is None or not session.is_over or name in self._resume_at or name in self._awaited.names:
                continue
            if not session.transitions[State.ESTABLISHED] and session.peer.of_range is not None and session.last_error:
                self.callers.came_to_nothing(session.peer.of_range, name, session.last_error)
            del self.sessions[name]
            self._forget(session)
        self._watch()

    def _forget(self, session: Session) -> None:
        """Remember nothing of a peer without a session, but for its paths until they have left the kernel (rule 1)."""
        name = session.peer.name
        for of_peer in (self._wakeups, self._resume_at, self.faults, self.bfd):
            of_peer.pop(name, None)
        self._followed.forget(name)
        if session.peer.of_range is not None:
            self.callers.leave(name, was_established=session.was_established)

    def _watch(self) -> None:
        """Have BFD watch the paths to the peers of the file, and to speakers of ranges whose paths are held."""
        speakers = self.callers.watched(self.sessions.keys() & self.held)
        watched = () if self.is_closed else (*self._configured.watched, *speakers)
        if watched != self.watched:
            self.watched = watched

    def _remove(self, session: Session, changed: Peer | None, now: float, *, is_gone: bool) -> None:
        """End a session, for good or for another with the changed peer; what the same speaker said may be kept."""
        name = session.peer.name
        cause = Notification.cease(Cease.PEER_DECONFIGURED if is_gone else Cease.OTHER_CONFIGURATION_CHANGE)
        if changed is not None and changed.graceful_restart and changed.is_same_speaker(session.peer):
            self._apply(name, session.hand_over(changed, now, cause), now)
        else:
            self._apply(name, session.stop(now, cause), now)
        self._awaited.discard(name)
        self._begin_anew(name)
        for of_peer in (self._wakeups, self._resume_at):
            of_peer.pop(name, None)
        for connection in [c for c, n in self._peer_of.items() if n == name]:
            del self._peer_of[connection]
            self.commands.append(Hangup(connection))
        del self.sessions[name]

    def _apply(self, name: PeerName, outputs: Iterable[Output], now: float) -> None:
        """Carry out what a session answered."""
        session = self.sessions[name]
        for output in outputs:
            match output:
                case Dial() | Send():
                    self.commands.append(output)
                case Hangup(connection):
                    self._peer_of.pop(connection, None)
                    self.commands.append(output)
                case Established():
                    self._established(session, output, now)
                case WentDown():
                    self._went_down(session, output)
                case RefreshBegan() | StaleExpired() | StaleOutlived():
                    self._staled(name, output)
                case _:
                    assert_never(output)
        self._wake_at(name, min(session.next_wakeup(), self._resume_at.get(name, NEVER)))
        self._doubt(session)

    def _staled(self, name: PeerName, output: RefreshBegan | StaleExpired | StaleOutlived) -> None:
        """Tell what is stale of a peer, and what of that goes or is kept for long."""
        match output:
            case RefreshBegan(family):
                self._rib.mark_stale(name, family)
                self._followed.mark_stale(name, family)
            case StaleExpired(families):
                if not self._is_stopping:
                    self._rib.sweep(name, families)
                    self._followed.sweep(name, families)
                    self._notes.add("peer.stale-swept", peer=name, family=_labels(families))
            case StaleOutlived(families):
                self._rib.outlive(name, families)
                self._notes.add("peer.long-lived", Level.WARNING, peer=name, family=_labels(families))

    def _established(self, session: Session, up: Established, now: float) -> None:
        name = session.peer.name
        self.held |= {name}
        self._away.discard(name)
        self._begin_anew(name)
        if session.peer.of_range is not None:
            self.callers.came(session.peer)
            self._watch()
        self._rib.peer_up(session.peer, up.negotiated, up.keep)
        self._followed.peer_up(session.peer, up.keep)
        self.commands.append(StartRoutes(up.connection, name))
        if self.is_in_sync:
            self._rib.send_end_of_rib(name)
        self._awaited.established(session.peer, up.negotiated, now)
        self._notes.add(
            "peer.up",
            peer=name,
            address=session.peer.address,
            family=_labels(up.negotiated.families),
            hold_time_s=up.negotiated.hold_time,
            stale=_labels(up.keep) or None,
        )
        self.check_sync(now)

    def _went_down(self, session: Session, down: WentDown) -> None:
        name = session.peer.name
        if self._is_stopping:
            return  # the kernel's routes stay, and so does the list
        self._away.add(name)
        self._rib.peer_down(name, down.retain, is_doubted=down.is_doubted)
        self._followed.peer_down(name, down.retain)
        self._notes.add("peer.down", Level.WARNING, peer=name, reason=down.reason, kept=_labels(down.retain) or None)

    def _over_limit(self, session: Session, family: Family, limit: str, now: float) -> None:
        peer = session.peer
        most = peer.max_identities if limit == "max_identities" else peer.max_prefixes
        afi_safi = family.afi.to_bytes(2, "big") + bytes((family.safi,)) + most.to_bytes(4, "big")
        notification = Notification(6, Cease.MAX_PREFIXES, afi_safi)  # RFC 4486 §4
        self._apply(peer.name, session.stop(now, notification), now)
        session.last_error = f"sent more than {limit} = {most} {family.label} prefixes"
        self._resume_at[peer.name] = now + peer.max_prefixes_restart
        self._wake_at(peer.name, self._resume_at[peer.name])
        self._awaited.discard(peer.name)  # it is we who do not want to hear it
        self.check_sync(now)

    def _warn_of_limits(self, name: PeerName) -> None:
        """Tell once in a session of each limit that is near."""
        near = self._rib.near_limits(name)
        if not near or near.keys() <= self.faults[name].near_limits:
            return
        told = self.faults[name].near_limits
        for (family, limit), (count, most) in near.items():
            if (family, limit) not in told:
                told.add((family, limit))
                reason = f"{count} of {most} ({limit})"
                self._notes.add("peer.limit-near", Level.WARNING, peer=name, family=family.label, reason=reason)

    def _hear_of_refusals(self) -> None:
        """Count what peers said of addresses and may not say; tell of the first of a session."""
        for name, nlri, count, reason in self._rib.refused_claims:
            faults = self.faults[name]
            faults.claims_refused += count
            if not faults.claims_problem:
                faults.claims_problem = reason
                self._notes.add("identity.refused", Level.WARNING, peer=name, prefix=prefix_text(nlri), reason=reason)
        self._rib.refused_claims.clear()

    def _begin_anew(self, name: PeerName) -> None:
        """Forget what a session did wrong in words: another begins."""
        if name in self.faults:
            self.faults[name].update_problem = self.faults[name].claims_problem = ""
            self.faults[name].near_limits.clear()

    # ── the agenda ───────────────────────────────────────────────────────────

    def _wake_at(self, name: PeerName, at: float) -> None:
        """Have a session looked at when it is due; what the agenda had for it before is passed over."""
        if self._wakeups.get(name) == at:
            return
        self._wakeups[name] = at
        if len(self._agenda) > 4 * len(self._wakeups) + 64:
            self._agenda = [(other, of) for of, other in self._wakeups.items()]
            heapify(self._agenda)
        else:
            heappush(self._agenda, (at, name))

    def _next_due(self) -> float:
        agenda = self._agenda
        while agenda and self._wakeups.get(agenda[0][1]) != agenda[0][0]:
            heappop(agenda)
        return agenda[0][0] if agenda else NEVER

    # ── being in sync ────────────────────────────────────────────────────────

    @property
    def is_booted(self) -> bool:
        """Whether the kernel was read back, and so whether sessions have begun."""
        return self._booted_at is not None

    def boot(self, now: float, *, has_routes: bool) -> None:
        """Start the sessions, as a restart or as a first boot: the kernel is known now."""
        configured = self._configured
        self._booted_at = now
        routes_are_known = has_routes or self._last.is_bare
        routes_kept = routes_are_known or not configured.kernel_enabled
        is_unknown = self._listed is None and routes_are_known
        listed = frozenset(self.sessions) if is_unknown else (self._listed or frozenset())
        ranges = self.callers.names if is_unknown else ()
        counts = dict.fromkeys(configured.processes, 1) if self._last.announced is None else self._last.announced
        announced = {name: counts.get(name, 0) for name in configured.processes}
        had_spoken = self._last.announced is not None and any(announced.values())
        is_restart = bool(listed or ranges or had_spoken) and routes_kept
        self._local_restart.is_forwarding_kept = is_restart or not configured.kernel_enabled
        if is_restart:
            self.held = listed
            self._away = set(listed)
        if self.is_closed:
            self._close(now)
            self.check_sync(now)
            return
        if is_restart:
            self._local_restart.is_restarting = True
            self._awaited.limit = now + configured.restart_deferral
            self._awaited.add_ranges(ranges)
            for speaker in self.callers.among(sorted(listed - self.sessions.keys())).values():
                self._add(speaker, None, now, is_awaited=False)
            for name in sorted(listed & self.sessions.keys()):
                self._awaited.add(name, now)
            self._awaited.add_processes(announced)
            self._notes.add("restart.began", peer=",".join(self._awaited.names) or None)
        if self.drain.drain is Drain.UNDRAINING:
            self._await_all(now)
        for name, session in self.sessions.items():
            self._apply(name, session.start(now, at_once=name in self._awaited.names), now)
        self._watch()
        self.check_sync(now)

    @property
    def announced(self) -> Mapping[str, int]:
        """How many prefixes programs had announced in the last life of which peers may still hold any."""
        return self._awaited.announced

    def process_spoke(self, event: ProcessSpoke, now: float) -> None:
        """Note that a program speaks of prefixes."""
        self._awaited.process_spoke(event.process, event.nlris)
        self.check_sync(now)

    def process_ended(self, event: ProcessEnded, now: float) -> None:
        """Wait no longer for what a program has to announce."""
        self._awaited.process_ended(event.process)
        self.check_sync(now)

    def check_sync(self, now: float, unheard: Collection[int] = ()) -> None:
        """Be in sync where nobody is waited for any longer: learnt paths are selected from then on."""
        if self.is_in_sync and self._is_awaiting_return and not self._awaited.is_waiting(now, unheard):
            self._end_waiting("drain.gave-up-waiting")
        if self.is_in_sync or self._booted_at is None or self._awaited.is_waiting(now, unheard):
            return
        was_restart = self._local_restart.is_restarting
        self._end_waiting("restart.gave-up-waiting")
        self.is_in_sync = True
        self._local_restart.is_restarting = False
        self._rib.is_deferring = False
        for name, session in self.sessions.items():
            if session.state is State.ESTABLISHED:
                self._rib.send_end_of_rib(name)
        if was_restart:
            self._notes.add("restart.in-sync", waited_s=now - self._booted_at)

    def _end_waiting(self, name: str) -> None:
        """Wait for nobody any longer; a note of this name tells who is left."""
        if left := self._awaited.give_up():
            self._notes.add(name, Level.WARNING, peer=",".join(left), reason=str(left))
        self._awaited.limit, self._is_awaiting_return = NEVER, False
        for session in self.sessions.values():
            session.call_passive = False
            self._doubt(session)

    # ── out of service, and back ─────────────────────────────────────────────

    @property
    def is_closed(self) -> bool:
        """Whether this node has stopped, and so has no sessions."""
        return self.drain.drain is Drain.STOPPED and self._close_at == NEVER

    def drain_changed(self, event: DrainChanged, now: float) -> None:
        """Leave service so far, or return to it; peers hear first, and what they then say decides when it is over."""
        if event == self.drain:
            return
        was_closed, self.drain = self.is_closed, event
        self._rib.drain(event.drain)
        self._notes.add("drain.changed", state=event.drain.value)
        self._close_at = NEVER
        if self._booted_at is None:
            self._watch()
        elif event.drain is Drain.STOPPED:
            self._close_at = now + WITHDRAWN_S
        elif was_closed:
            self._watch()
            self._await_all(now)
            for name, session in self.sessions.items():
                self._apply(name, session.start(now, at_once=True), now)

    def return_to_service(self) -> bool:
        """Say no longer that this node is the last choice, once the kernel has what peers said; True if that is now."""
        if self.drain.drain is not Drain.UNDRAINING or self._is_awaiting_return or not self.is_in_sync:
            return False
        if not self._rib.fib.is_at_rest:
            return False
        self.drain = DrainChanged(Drain.NONE)
        self._rib.drain(Drain.NONE)
        self._notes.add("drain.changed", state=Drain.NONE.value)
        return True

    def _await_all(self, now: float) -> None:
        """Wait for what everybody has to say, as after a restart: nobody has a session yet."""
        self._is_awaiting_return = True
        self._awaited.limit = min(self._awaited.limit, now + self._configured.restart_deferral)
        self._awaited.add_ranges(self.callers.names)
        for name in self.sessions:
            self._awaited.add(name, now)

    def _close(self, now: float) -> None:
        """End every session of a node that stops, with a word."""
        self._close_at = NEVER
        self.watched, self.bfd = (), {}
        self._resume_at.clear()
        for name, session in self.sessions.items():
            self._apply(name, session.stop(now, self._farewell()), now)

    def _farewell(self) -> Notification:
        """Return what a peer reads of the end of its session, and when it calls before we are back."""
        return Notification.cease(Cease.ADMIN_SHUTDOWN, self.drain.text)

    def forget_held(self) -> None:
        """Take peers off the list whose paths are gone, from the kernel too (rule 1)."""
        if not self._away or self._is_stopping or not self.is_in_sync or not self._rib.fib.is_at_rest:
            return
        gone = {name for name in self._away if not self._rib.stale_count(name)}
        self._away -= gone
        self.held -= gone


def _labels(families: Iterable[Family]) -> str:
    return ",".join(sorted(family.label for family in families))
