"""Whom this node talks to: a session for each peer, the list of held peers, in service and out.

What may not happen here:
 1. A peer's paths are used before its name is in `held`, or its name leaves while one is in the kernel.
 2. End-of-RIB leaves while a prefix still waits for a decision: it is asked for once this node is in sync, and the
    RIB keeps it back until it is at rest.

A speaker of a range has a session from its first call until nothing of it is left: no connection, no stale path, and no
restart that waits for it. It is called by nobody, so it comes when it wants to.

A path that BFD saw up and that is broken (`paths.py`) ends the session and all that the peer has said. Of a peer that
is away it ends what is still held, if both sides' BFD outlives their daemons; where it does not, it goes down with a
peer that restarts, and says nothing of the path.

Out of service (`rib/drain.py`). A node that has stopped has no sessions, and begins none until it is told to return.
Then it calls everybody, and says that it is the last choice until whoever answers has said all, and the kernel has it.

What is learnt goes to the RIB, what is to be said to `commands`. Workloads and packets are nothing to a session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Protocol, assert_never

from bgpmesh.agenda import NEVER, Agenda
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
    RoutesReceived,
    SendingStalled,
    StartRoutes,
    Stopping,
    TimerFired,
)
from bgpmesh.faults import FaultsOf
from bgpmesh.notes import Notes
from bgpmesh.paths import Paths
from bgpmesh.peering.connection import State
from bgpmesh.peering.message import Cease, EndOfRib, Notification, Refresh, RouteRefresh
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.session import (
    Dial,
    Established,
    Hangup,
    Output,
    RefreshBegan,
    Send,
    Session,
    StaleExpired,
    StaleOutlived,
    WentDown,
)
from bgpmesh.restart import LastLife, Restart
from bgpmesh.rib.drain import Drain
from bgpmesh.rib.rib import Rib
from bgpmesh.route.nlri import Family
from bgpmesh.route.path import PeerName

# Between the withdrawal of all routes and the end of the sessions: what is still sent to us is forwarded.
WITHDRAWN_S = 1.0


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
        self.faults = FaultsOf(notes)
        self.paths = Paths(notes)
        self.callers = Callers(notes)
        self._leaving: set[PeerName] = set()  # speakers of ranges that may be over
        self.held = frozenset(listed or ())  # on disk before anything else is done
        self.restart = Restart(None if listed is None else self.held, last, self.sessions, notes)
        self._configured = configured
        self._rib = rib
        self._rib.is_deferring = True  # until the first read-back tells whether this is a restart
        self._followed = followed
        self._notes = notes
        self._jitter = jitter
        self._session_of: dict[int, Session] = {}  # by connection
        self._agenda = Agenda()
        self._away: set[PeerName] = set(self.held)  # on the list without a session
        self._is_stopping = False
        self.drain = DrainChanged(Drain.NONE)  # on disk before a peer hears of it
        self._close_at = NEVER  # when the sessions of a node that stops end

    def configure(self, new: Configured, now: float) -> None:
        """Have a session with each of these peers, and with nobody else; `check_sync` comes after."""
        self._configured = new
        self.callers.configure(new)
        self.paths.stay_for((*new.peers, *self.callers.templates))
        self.faults.claims_refused(self._rib.refused_claims)
        wanted = {peer.name: peer for peer in new.peers}
        speakers = self.callers.among(self.sessions)
        awaited = frozenset(self.restart.names)
        before: dict[PeerName, Peer] = {}
        ended: dict[PeerName, Session] = {}
        for name, session in list(self.sessions.items()):
            changed = wanted.get(name) or speakers.get(name)
            if changed is not None and changed.has_same_session(session.peer):
                before[name], session.peer = session.peer, changed
            else:
                address, is_of_file = session.peer.address, changed is None and session.peer.of_range is None
                self._remove(session, changed, now, is_gone=is_of_file or not self.callers.has(address))
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

    def next_wakeup(self) -> float:
        """Return the monotonic second at which a timer is due, infinity if none is."""
        return min(self._agenda.next_due(), self.restart.next_check(), self._close_at)

    # ── what the wire tells ──────────────────────────────────────────────────

    def connected(self, event: Connected, now: float) -> None:
        """Give a connection to the session of its peer."""
        session = self.sessions.get(event.peer) or self._let_in(event, now)
        if session is None:  # there is no room, or it was removed while the connection was on its way
            self.commands.append(Hangup(event.connection))
            return
        self._session_of[event.connection] = session
        self.restart.connected(event.peer, now)
        self._apply(session, session.connected(event.connection, event.is_inbound, now), now)

    def connect_failed(self, event: ConnectFailed, now: float) -> None:
        """Tell a session that our call came to nothing."""
        if (session := self.sessions.get(event.peer)) is not None:
            self._apply(session, session.connect_failed(event.reason, now), now)
        elif event.peer in self.callers.names:
            self.callers.came_to_nothing(event.peer, event.peer, event.reason)

    def disconnected(self, event: Disconnected, now: float) -> None:
        """Tell a session that its connection is gone."""
        if (session := self._session_of.pop(event.connection, None)) is not None:
            self._apply(session, session.disconnected(event.connection, event.reason, now), now)

    def open_received(self, event: OpenReceived, now: float) -> None:
        """Give an OPEN to its session."""
        if (session := self._session_of.get(event.connection)) is not None:
            self._apply(session, session.open_received(event.connection, event.negotiated, now), now)

    def garbage_received(self, event: GarbageReceived, now: float) -> None:
        """End the session of a peer that sent what ends one."""
        if (session := self._session_of.get(event.connection)) is not None:
            outputs = session.garbage_received(event.connection, event.notification, event.text, now)
            self._apply(session, outputs, now)

    def sending_stalled(self, event: SendingStalled, now: float) -> None:
        """Tell a session that its peer has taken nothing for a while."""
        if (session := self._session_of.get(event.connection)) is not None:
            self._apply(session, session.sending_stalled(event.connection, event.since, now), now)

    def message_received(self, event: MessageReceived, now: float) -> None:
        """Give any other message but an UPDATE to its session, and to the RIB what is for it."""
        connection, message = event.connection, event.message
        session = self._session_of.get(connection)
        if session is None:
            return
        name = session.peer.name
        outputs = session.message_received(connection, message, now)
        if session.connection == connection:
            match message:
                case EndOfRib(family):
                    self.restart.end_of_rib(name, family, now)
                case RouteRefresh(family, Refresh.REQUEST):
                    self._rib.refresh(name, family)
                case _:
                    pass
        self._apply(session, outputs, now)
        self.check_sync(now)

    def routes_received(self, event: RoutesReceived, now: float) -> PeerName | None:
        """Give an UPDATE to the RIB; return whose it was, None where it is not to be heard."""
        session = self._update_received(event, now)
        if session is None:
            return None
        name = session.peer.name
        self._rib.receive(name, event.attributes, event.announced, event.withdrawn, event.read_at)
        self.faults.claims_refused(self._rib.refused_claims)
        if (over := self._rib.is_over_limit(name)) is not None:
            self._over_limit(session, *over, now)
        else:
            self.faults.limits_near(name, self._rib.near_limits(name))
        return name

    def flows_received(self, event: FlowsReceived, now: float) -> Peer | None:
        """Note an UPDATE of flow specifications; return whose it was, None where it is not to be heard."""
        session = self._update_received(event, now)
        return None if session is None else session.peer

    def _update_received(self, event: RoutesReceived | FlowsReceived, now: float) -> Session | None:
        """Return whose UPDATE it is, if it is to be heard; what was wrong with it is counted."""
        session = self._session_of.get(event.connection)
        if session is None:
            return None
        name = session.peer.name
        if outputs := session.update_received(event.connection, now):
            self._apply(session, outputs, now)  # else its hold timer is later, no more: looked at when it was due
        if session.connection != event.connection or session.state is not State.ESTABLISHED:
            return None
        if event.problem:
            self.faults.update_malformed(name, event)
        self.restart.updated(name, now)
        return session

    def timer_fired(self, event: TimerFired, now: float) -> None:
        """Let every session have its turn that is due."""
        for name, is_reopened in self._agenda.take_due(now):
            session = self.sessions[name]
            self._apply(session, session.start(now) if is_reopened else session.tick(now, event.unheard), now)
        if self._close_at <= now:
            self._close(now)
        self.check_sync(now, event.unheard)

    def stop(self, _: Stopping, now: float) -> None:
        """End every session: the kernel's routes stay, and so does the list."""
        self._is_stopping = True
        kept = {name for name, each in self.sessions.items() if each.negotiated and each.negotiated.is_graceful}
        self.paths.watch(each for each in self.paths.watched if each.name in kept)
        for name, session in self.sessions.items():
            is_silent = name in kept
            farewell = None if is_silent else Notification.cease(Cease.ADMIN_SHUTDOWN, "bgpmesh stops")
            self._apply(session, session.stop(now, farewell), now)

    def bfd_reported(self, event: BfdReported, now: float) -> None:
        """Take note of how the path to a peer is, and end what went over one that is broken."""
        report = event.report
        name = PeerName(report.name)
        if (session := self.sessions.get(name)) is None:
            return
        failure, is_up_anew = self.paths.reported(report)
        has_begun_since = session.established_at is not None and session.established_at > report.at
        if failure is not None and not has_begun_since:
            outputs = session.path_failed(f"BFD: {failure}", now, is_independent=report.is_independent)
            self._apply(session, outputs, now)
            if report.is_independent:
                self.restart.discard(name)
                self.check_sync(now)
        if is_up_anew:
            self._notes.add("bfd.up", peer=name)
            self._apply(session, session.path_recovered(now), now)

    # ── sessions ─────────────────────────────────────────────────────────────

    def _add(self, peer: Peer, before: Session | None, now: float, *, is_awaited: bool) -> Session:
        session = self.sessions[peer.name] = Session(peer, self.restart.local, self._jitter)
        if before is not None:
            session.succeed(before)
        if is_awaited:  # it was changed before it could say what we held of it when we restarted
            self.restart.add(peer.name, now)
        if self.is_closed:
            self._apply(session, session.stop(now, self._farewell()), now)
        elif self.restart.is_booted:
            self._apply(session, session.start(now, at_once=is_awaited), now)
        return session

    def _amended(self, session: Session, before: Peer, now: float) -> None:
        """Act on what has changed under a session; the RIB has done its part."""
        peer = session.peer
        name = peer.name
        if peer.flowspec is not None and peer.flowspec != before.flowspec:
            self._followed.limit(peer)
        limits = (peer.max_prefixes, peer.max_identities)
        if limits != (before.max_prefixes, before.max_identities) and self._agenda.open(name):
            self._apply(session, session.start(now), now)  # it may keep within the new ones
        if session.connection is not None and session.state is State.ESTABLISHED:
            if (over := self._rib.is_over_limit(name)) is not None:
                self._over_limit(session, *over, now)
            else:
                self.faults.limits_near(name, self._rib.near_limits(name))
                if peer.enforce_first_as != before.enforce_first_as:
                    self._ask_again(session, session.connection, now)
        self._agenda.wake(name, session.next_wakeup())

    def _ask_again(self, session: Session, connection: int, now: float) -> None:
        """Have a peer say again what it has said, so that it is judged anew: if it can (RFC 2918), in this session."""
        negotiated = session.negotiated
        if negotiated is not None and negotiated.received.capabilities.route_refresh:
            self.commands.extend(Send(connection, RouteRefresh(family)) for family in negotiated.families)
            return
        self._apply(session, session.stop(now, Notification.cease(Cease.OTHER_CONFIGURATION_CHANGE)), now)
        self._apply(session, session.start(now), now)

    def _let_in(self, event: Connected, now: float) -> Session | None:
        """Return the new session of one that calls from a range; None: it does not, or is one too many."""
        found = self.callers.find(event.peer)
        if found is None or not self.restart.is_booted:
            return None
        around, peer = found
        late = self.callers.who_gives_way(around, self.sessions.values(), self.held)
        if late is None:
            self.commands.append(Send(event.connection, Notification.cease(Cease.CONNECTION_REJECTED)))
            reason = f"range_limit = {around.limit} speakers are here already"
            self.callers.came_to_nothing(around.name, event.peer, reason)
            return None
        for each in late:
            name = each.peer.name
            self._apply(each, each.stop(now, Notification.cease(Cease.CONNECTION_REJECTED)), now)
            self.callers.came_to_nothing(around.name, name, "made room for a later caller: no session yet")
            self.restart.discard(name)
            del self.sessions[name]
            self._forget(each)
        session = self._add(peer, None, now, is_awaited=False)
        session.was_established = self.callers.was_here(event.peer)
        return session

    def _doubt(self, session: Session) -> None:
        """Have it looked at whether anything is left of a speaker of a range."""
        if session.peer.of_range is not None and session.is_over:
            self._leaving.add(session.peer.name)

    def tell_unsaid(self) -> None:
        """Say which routes peers are not told, as they fit no message."""
        for name, nlris in self._rib.unsaid_stirred().items():
            if (negotiated := self.sessions[name].negotiated) is not None:
                self.faults.too_long(name, nlris, negotiated.message_size)

    def let_go(self) -> None:
        """Forget the speakers of ranges of whom nothing is left."""
        if not self._leaving or self._is_stopping:
            return
        leaving, self._leaving = self._leaving, set()
        for name in leaving:
            session = self.sessions.get(name)
            if session is None or not session.is_over or self._agenda.is_closed(name) or name in self.restart.names:
                continue
            if not session.transitions[State.ESTABLISHED] and session.peer.of_range is not None and session.last_error:
                self.callers.came_to_nothing(session.peer.of_range, name, session.last_error)
            del self.sessions[name]
            self._forget(session)
        self._watch()

    def _forget(self, session: Session) -> None:
        """Remember nothing of a peer without a session, but for its paths until they have left the kernel (rule 1)."""
        name = session.peer.name
        self._agenda.forget(name)
        self.faults.pop(name, None)
        self._followed.forget(name)
        if session.peer.of_range is not None:
            self.callers.leave(name, was_established=session.was_established)

    def _watch(self) -> None:
        """Have BFD watch the paths to the peers of the file, and to speakers of ranges whose paths are held."""
        speakers = self.callers.watched(self.sessions.keys() & self.held)
        self.paths.watch(() if self.is_closed else (*self._configured.watched, *speakers))

    def _remove(self, session: Session, changed: Peer | None, now: float, *, is_gone: bool) -> None:
        """End a session, for good or for another with the changed peer; what the same speaker said may be kept."""
        name = session.peer.name
        cause = Notification.cease(Cease.PEER_DECONFIGURED if is_gone else Cease.OTHER_CONFIGURATION_CHANGE)
        if changed is not None and changed.graceful_restart and changed.is_same_speaker(session.peer):
            self._apply(session, session.hand_over(changed, now, cause), now)
        else:
            self._apply(session, session.stop(now, cause), now)
        self.restart.discard(name)
        self.faults.begin_anew(name)
        self._agenda.forget(name)
        for connection in [number for number, of in self._session_of.items() if of is session]:
            del self._session_of[connection]
            self.commands.append(Hangup(connection))
        del self.sessions[name]

    def _apply(self, session: Session, outputs: Iterable[Output], now: float) -> None:
        """Carry out what a session answered."""
        name = session.peer.name
        for output in outputs:
            match output:
                case Dial() | Send():
                    self.commands.append(output)
                case Hangup(connection):
                    self._session_of.pop(connection, None)
                    self.commands.append(output)
                case Established():
                    self._established(session, output, now)
                case WentDown():
                    self._went_down(session, output)
                case RefreshBegan() | StaleExpired() | StaleOutlived():
                    self._staled(name, output)
                case _:
                    assert_never(output)
        if why := session.take_failure():
            self._notes.add("peer.failed", Level.WARNING, peer=name, address=session.peer.address, reason=why)
        self._agenda.wake(name, session.next_wakeup())
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
        self.faults.begin_anew(name)
        if session.peer.of_range is not None:
            self.callers.came(session.peer)
            self._watch()
        self._rib.peer_up(session.peer, up.negotiated, up.keep)
        self._followed.peer_up(session.peer, up.keep)
        self.commands.append(StartRoutes(up.connection, name))
        if self.is_in_sync:
            self._rib.send_end_of_rib(name)
        self.restart.established(session.peer, up.negotiated, now)
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
        # Not sooner than we would call it, whoever calls whom: it would do it again at once.
        closed_s = max(peer.max_prefixes_restart, session.pause(now))
        why = f"sent more than {limit} = {most} {family.label} prefixes: closed for {closed_s:.0f} s"
        self._apply(session, session.stop(now, notification, why), now)
        self._agenda.close(peer.name, now + closed_s)
        self.restart.discard(peer.name)  # it is we who do not want to hear it
        self.check_sync(now)

    # ── being in sync ────────────────────────────────────────────────────────

    @property
    def is_in_sync(self) -> bool:
        """Whether nobody is waited for any longer, and learnt paths are selected."""
        return self.restart.is_in_sync

    def boot(self, now: float, *, has_routes: bool) -> None:
        """Start the sessions, as a restart or as a first boot: the kernel is known now."""
        configured, ranges = self._configured, self.callers.names
        listed = self.restart.boot(configured, ranges, now, has_routes=has_routes, is_closed=self.is_closed)
        if listed is not None:
            self.held, self._away = listed, set(listed)
        if self.is_closed:
            self._close(now)
            self.check_sync(now)
            return
        if listed is not None:
            for speaker in self.callers.among(sorted(listed - self.sessions.keys())).values():
                self._add(speaker, None, now, is_awaited=False)
            self.restart.begin(sorted(listed & self.sessions.keys()), now)
        if self.drain.drain is Drain.UNDRAINING:
            self.restart.begin_return(configured, ranges, now)
        for name, session in self.sessions.items():
            self._apply(session, session.start(now, at_once=name in self.restart.names), now)
        self._watch()
        self.check_sync(now)

    def check_sync(self, now: float, unheard: Collection[int] = ()) -> None:
        """Be in sync where nobody is waited for any longer: learnt paths are selected from then on."""
        was_in_sync = self.restart.is_in_sync
        if not self.restart.ends(now, unheard):
            return
        self._rib.is_deferring = False
        for name, session in self.sessions.items():
            session.call_passive = False
            self._doubt(session)
            if not was_in_sync and session.state is State.ESTABLISHED:
                self._rib.send_end_of_rib(name)

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
        if not self.restart.is_booted:
            self._watch()
        elif event.drain is Drain.STOPPED:
            self._close_at = now + WITHDRAWN_S
        elif was_closed:
            self._watch()
            self.restart.begin_return(self._configured, self.callers.names, now)
            for session in self.sessions.values():
                self._apply(session, session.start(now, at_once=True), now)

    def return_to_service(self) -> bool:
        """Say no longer that this node is the last choice, once the kernel has what peers said; True if that is now."""
        if self.drain.drain is not Drain.UNDRAINING or self.restart.is_returning or not self.is_in_sync:
            return False
        if not self._rib.fib.is_at_rest:
            return False
        self.drain = DrainChanged(Drain.NONE)
        self._rib.drain(Drain.NONE)
        self._notes.add("drain.changed", state=Drain.NONE.value)
        return True

    def _close(self, now: float) -> None:
        """End every session of a node that stops, with a word."""
        self._close_at = NEVER
        self.paths.watch(())
        self.restart.close()
        for name, session in self.sessions.items():
            self._agenda.open(name)
            self._apply(session, session.stop(now, self._farewell()), now)

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
