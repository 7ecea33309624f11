"""The core as one object: told what happened, it answers what should be true.

`handle` notes one fact, `work` thinks in slices, `next_wakeup` names the second at which to send
`TimerFired`. What should be true stands in six Deltas (`rib.fib`, `rib.next_hops`, `links`, `chains`, `sets`,
`connections`), what is to be said to peers in `commands` and in the batches that `take` pulls, what people should know
in `notes`, and what must be on disk before anything else is done in `held`.

A restart (RFC 4724 §4.1). At the first read-back of the kernel the engine knows whether it
restarted: peers are on the list of those whose paths the node holds *and* routes of ours are in the
kernel. Then it sets the R bit, calls every listed peer at once, holds what it found, and selects
among learnt paths, sweeps and sends End-of-RIB only once in sync: when each listed peer has sent
End-of-RIB, or owes none, or does not answer, or the time is up (`restart.py`). Own prefixes never wait.

What may not happen here:
 1. A peer's paths are used before its name is in `held`, or its name leaves while one is in the kernel.
 2. A workload's own announcement leaves before its link and its route are acknowledged, or its link goes
    before its route. Its link is not open before the chains are acknowledged that protect it, and is closed while a
    hook of ours is gone and cannot be had again.
 3. End-of-RIB leaves while a prefix still waits for a decision.
 4. A workload of another node leaves a set that was found at start before this node is in sync and has taken in what
    the others say.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from typing import TypeVar, assert_never

from bgpmesh.delta import Delta
from bgpmesh.errors import ConfigError, refused
from bgpmesh.events import (
    ChainsRead,
    ChainsWritten,
    Command,
    Configured,
    Connected,
    ConnectFailed,
    ConnectionsCut,
    ConnectionsReviewed,
    Disconnected,
    DropsFollowed,
    EndpointAdded,
    EndpointRemoved,
    Event,
    FibObserved,
    FibRead,
    FibWritten,
    FloatingIpsKept,
    FlowsReceived,
    GarbageReceived,
    HostRoutesChanged,
    Level,
    LinkNamesRead,
    LinkObserved,
    LinksRead,
    LinkWritten,
    MessageReceived,
    NextHopsWritten,
    Note,
    ObjectsChanged,
    OpenReceived,
    RoutesReceived,
    SetsWritten,
    StartRoutes,
    Stopping,
    TimerFired,
)
from bgpmesh.peering.message import Cease, EndOfRib, Keepalive, Negotiated, Notification, RouteRefresh
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.session import (
    Dial,
    Established,
    Hangup,
    LocalRestart,
    Output,
    Send,
    Session,
    StaleExpired,
    State,
    WentDown,
    restart_agreed,
)
from bgpmesh.policy.chains import AddressSet, ChainKey, Rules
from bgpmesh.policy.identity import Sayings
from bgpmesh.policy.iptables import SPARE
from bgpmesh.policy.nat import FAMILIES, NOTHING, Translation, external_set, floating_chains, inside_set, translation
from bgpmesh.policy.protection import TABLES, Protection, members_within
from bgpmesh.restart import NEVER, Awaited
from bgpmesh.rib.claimants import Claimants
from bgpmesh.rib.export import Batch
from bgpmesh.rib.rib import Rib
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.claim import Kind, claim
from bgpmesh.route.nlri import Family, IPAddress, Nlri, host_nlri, network_of, nlri_of, prefix_text
from bgpmesh.route.path import Blackhole, HostRouteKind, OnLink, PeerName, Target
from bgpmesh.workload.endpoint import Endpoint, LinkSpec, endpoint_of, link_of
from bgpmesh.workload.floating import FloatingIps, Lead
from bgpmesh.workload.pool import Addresses, Pool

# UPDATEs whose way to the kernel is remembered for `trace`.
REMEMBERED_UPDATES = 1024
# What other nodes say of their workloads is taken up so many seconds after the last time: when the sets are as they
# were wanted (or twice as long as that took), and at the latest.
LESSON_S, LAST_LESSON_S = 0.01, 1.0
NEVER_YET = float("-inf")

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True, eq=False)
class Update:
    """One UPDATE on its way to the kernel, by the monotonic clock; what `trace` and `convergence_seconds` tell."""

    peer: PeerName
    read_at: float
    nlris: Sequence[Nlri]
    is_withdrawal: bool
    decided_at: float | None = None
    programmed_at: float | None = None


@dataclass(slots=True)
class Identity:
    """What other nodes hear of the workloads here, and what is heard of theirs."""

    sayings: Sayings = field(default_factory=Sayings)
    refused: Counter[PeerName] = field(default_factory=Counter)  # prefixes of which a peer said what it may not say
    problem: dict[PeerName, str] = field(default_factory=dict)  # the first of them in words; of a session
    held: dict[str, frozenset[bytes]] = field(default_factory=dict)  # other nodes' members of the sets found at start
    learnt_at: float = NEVER_YET  # when the sets were last made to follow what other nodes say
    pause_s: float = LESSON_S  # and how long they are left alone then


@dataclass(frozen=True, slots=True)
class _LocalRoute:
    """A prefix of this node: what the kernel does with it and whether peers hear of it."""

    target: Target | None
    is_advertised: bool
    attributes: PathAttributes | None = None
    is_for_cluster: bool = False  # it is announced to the nodes of the cluster only
    has_waited: bool = False  # it needs no route of its own in the kernel to be announced


@dataclass(slots=True)
class _Ways:
    """Where floating addresses lead on this node, and what else is known of them."""

    wanted: dict[IPAddress, Lead] = field(default_factory=dict)
    made: dict[IPAddress, Lead] = field(default_factory=dict)  # as the packet filter has it
    waits_for: set[Nlri] = field(default_factory=set)  # routes of workloads, before their addresses are announced
    found_inside: frozenset[Nlri] = frozenset()  # at start, until this node is in sync and knows them itself
    attributes: PathAttributes = field(default_factory=PathAttributes)  # what they are announced with
    said: tuple[object, ...] = ()  # what address translation was last made from, and what that came to
    translation: Translation = NOTHING


@dataclass(slots=True)
class Review:
    """What is known of connections that stand, and may no longer be allowed."""

    generation: int = 0  # grows with what they may do
    reviewed: int = 0  # under which of them they were looked at last
    problem: str = ""  # why that cannot be done
    is_called_for: bool = False  # something has changed that they may depend on: not a workload that comes or goes


class Engine:
    """Sessions, RIB and workloads of one node; owned by one task, without clock, socket or thread.

    `listed` are the peers whose paths the node held when it last ran; None where that is not known.
    `jitter` answers a number in [0, 1). With `adopt_endpoints` the workloads are not remembered: links of
    ours that are found at start tell them.
    """

    def __init__(
        self,
        configured: Configured,
        listed: Iterable[PeerName] | None,
        jitter: Callable[[], float],
        *,
        adopt_endpoints: bool = False,
    ) -> None:
        self.configured = configured
        self.sessions: dict[PeerName, Session] = {}
        self.rib = Rib(
            configured.asn, configured.router_id, configured.cluster_id, configured.ecmp, configured.kernel_enabled
        )
        self.rib.is_deferring = True  # until the first read-back tells whether this is a restart
        self.links: Delta[str, LinkSpec] = Delta()
        self.chains: Delta[ChainKey, Rules] = Delta()
        self.sets: Delta[str, AddressSet] = Delta()
        self.policy_errors = 0  # chains and sets that were refused, every time
        self.protection = Protection()
        self.is_policy_known = True  # False: what stands in the packet filter stays as it is, see `_protect`
        self._is_protection_due = True  # it is to be worked out anew
        self.review = Review()
        self._closed: set[str] = set()  # links of workloads that chains do not protect yet
        self.connections: Delta[IPAddress, IPAddress] = Delta()  # floating address -> all that its connections lead to
        self.floating = FloatingIps()
        self.floating_known: frozenset[IPAddress] = frozenset()  # of the whole cluster
        self._ways, self.identity = _Ways(), Identity()
        self.endpoints: dict[str, Endpoint] = {}
        self._specs: dict[str, LinkSpec] = {}  # by interface: what the link of a workload is when it is open
        self.addresses = Addresses()
        self._leaving: dict[str, Endpoint] = {}  # by interface: removed, and the link stands until the routes are gone
        self._disputed: set[str] = set()  # links of ours that no workload can be adopted from
        self.commands: deque[Command] = deque()
        self.notes: deque[Note] = deque()
        self._listed = None if listed is None else frozenset(listed)
        self.held: frozenset[PeerName] = self._listed or frozenset()
        self.is_in_sync = False
        self.in_sync_at: float | None = None
        self.converged: list[tuple[float, int]] = []  # (seconds, prefixes): emptied by the metrics
        self.updates: deque[Update] = deque(maxlen=REMEMBERED_UPDATES)
        self.treated_as_withdraw: Counter[PeerName] = Counter()
        self.attributes_discarded: Counter[PeerName] = Counter()
        self.update_problem: dict[PeerName, str] = {}  # what was wrong with an UPDATE last, in words; of a session
        self.drift_repaired = 0
        self._adopt_endpoints = adopt_endpoints
        self._jitter = jitter
        self._local_restart = LocalRestart()
        self._peer_of: dict[int, PeerName] = {}  # connection -> peer
        self._wakeups: dict[PeerName, float] = {}
        self._agenda: list[tuple[float, PeerName]] = []  # a heap of the same, and of what it was before
        self._away: set[PeerName] = set(self.held)  # on the list without a session
        self._resume_at: dict[PeerName, float] = {}  # sessions closed for too many prefixes
        self._awaited = Awaited(self.sessions)
        self._booted_at: float | None = None
        self._local: dict[Nlri, _LocalRoute] = {}
        self._announce_when_written: set[Nlri] = set()
        self._undecided: list[Update] = []
        self._unwritten: dict[Nlri, Update] = {}  # by the last prefix of the UPDATE
        self._is_stopping = False
        self._configure(configured, NEVER)

    # ── the face ─────────────────────────────────────────────────────────────

    def handle(self, event: Event, now: float) -> None:  # noqa: C901, PLR0912, PLR0915  one line for all that can happen
        """Note one fact; cost in proportion to it. `now` is the monotonic clock in seconds."""
        match event:
            case RoutesReceived():
                self._routes_received(event, now)
            case FlowsReceived():
                pass  # nobody is offered the family yet
            case MessageReceived(connection, message):
                self._message_received(connection, message, now)
            case Connected():
                self._connected(event, now)
            case ConnectFailed(peer, reason):
                self._connect_failed(peer, reason, now)
            case Disconnected(connection, reason):
                self._disconnected(connection, reason, now)
            case OpenReceived(connection, negotiated):
                self._open_received(connection, negotiated, now)
            case GarbageReceived():
                self._garbage_received(event, now)
            case FibWritten(done, failed):
                self._fib_written(done, now)
                self._refused(self.rib.fib, failed, "route.refused", now, word="prefix", show=prefix_text)
            case NextHopsWritten(done, failed):
                self.rib.next_hops.acknowledge(done)
                self._refused(self.rib.next_hops, failed, "next-hop.refused", now, word="address", show=str)
            case FibObserved(routes):
                self._fib_observed(routes)
            case FibRead():
                self._fib_read(event, now)
            case HostRoutesChanged(added, removed):
                self.rib.host_routes_changed(added, removed)
                touched = {route.prefix for route in (*added, *removed)} if self.floating.in_force else set()
                own = (route.kind is HostRouteKind.LOCAL for route in (*added, *removed))
                if any(host_nlri(address) in touched for address in self.floating.in_force) or (
                    self.protection.expected(self.configured.around.node) and any(own)
                ):
                    self._is_protection_due = True
            case LinksRead(links):
                self._links_read(links)
            case LinkNamesRead(names, addresses):
                self.rib.links_named(names, addresses)
                if self.protection.expected(self.configured.around.node):
                    self._is_protection_due = True
            case LinkObserved(interface, link):
                self._link_observed(interface, link)
            case LinkWritten(interface, failure):
                self._link_written(interface, failure, now)
            case ChainsRead():
                self._chains_read(event)
            case ChainsWritten(done, failed):
                self.policy_errors += sum(key.table not in SPARE for key in failed)
                self._packets_written(self.chains, done, failed, "chain", now)
            case SetsWritten(done, failed):
                self.policy_errors += len(failed)
                self._packets_written(self.sets, done, failed, "set", now)
                if self.sets.is_at_rest:
                    self.identity.pause_s = min(max(LESSON_S, 2 * (now - self.identity.learnt_at)), LAST_LESSON_S)
            case ConnectionsCut(done, failed):
                self._connections_cut(done, failed, now)
            case ConnectionsReviewed():
                self._connections_reviewed(event)
            case FloatingIpsKept(floating):
                self.floating.keep(floating)
                self._take_addresses()
                self._is_protection_due = True
            case Configured():
                self._configure(event, now)
            case ObjectsChanged(objects):
                self.is_policy_known = objects is not None
                self.protection.objects = objects or {}
                self._is_protection_due = self.review.is_called_for = True
                self._say(self.endpoints.values())
                self._originate()
            case DropsFollowed(group):
                self.protection.log_group = group
                self._is_protection_due = True
            case EndpointAdded(endpoint):
                self._endpoint_added(endpoint)
            case EndpointRemoved(key):
                self._endpoint_removed(key, now)
            case TimerFired(unheard):
                self._timer_fired(unheard, now)
            case Stopping():
                self._stop(now)
            case _:
                assert_never(event)
        if self._leaving:
            self._remove_links()

    def work(self, limit: int, now: float) -> bool:
        """Decide about up to `limit` prefixes that changed, and who is protected how; True if more remains."""
        if self._is_protection_due:
            self._protect()
        is_left = self.rib.work(limit)
        self._learn(now, is_busy=is_left)
        if is_left:
            return True
        if self._undecided:
            self._decided(now)
        self._forget_held()
        if self.rib.is_floating_stirred or (self._ways.found_inside and not self.rib.fib.keep_unwanted):
            self.rib.is_floating_stirred = False
            if not self.rib.fib.keep_unwanted:
                self._ways.found_inside = frozenset()
            self._is_protection_due = True
            return True
        return False

    def take(self, peer: PeerName, limit: int) -> list[Batch | EndOfRib]:
        """Return the next batches for a peer, of about `limit` prefixes together; [] when there is none."""
        return self.rib.take(peer, limit)

    def next_wakeup(self) -> float:
        """Return the monotonic second at which to send TimerFired, infinity if never."""
        earliest = self._next_due()
        if self.rib.said:
            earliest = min(earliest, self._next_lesson())
        if self._booted_at is not None and not self.is_in_sync:
            earliest = min(earliest, self._awaited.next_check())
        return earliest

    def waiting_for(self) -> dict[PeerName, str]:
        """Return the peers that keep this restart from being in sync, each with the reason."""
        return self._awaited.reasons()

    def endpoint_problem(self, key: str) -> str | None:
        """Return why a workload is not connected yet ("" while it is under way), None once it is."""
        endpoint = self.endpoints[key]
        if (refusal := self.links.refused.get(endpoint.interface)) is not None:
            return refusal.reason
        if endpoint.interface in self._closed and not self.is_policy_known:
            return "which policies are in force is not known"
        if endpoint.interface in self._closed and (chains := [k for k in self.chains.refused if k.table in TABLES]):
            return f"chain {chains[0]}: {self.chains.refused[chains[0]].reason}"
        if self.links.actual.get(endpoint.interface) != self._specs[endpoint.interface]:
            return ""
        for nlri in map(host_nlri, endpoint.addresses):
            if (refusal := self.rib.fib.refused.get(nlri)) is not None:
                return refusal.reason
            said, _, why = self.rib.kernel_reason(nlri).partition(": ")
            if said == "none" and why:  # nor will there ever be one
                return f"no route to {prefix_text(nlri)}: {why}"
            if self.configured.kernel_enabled and self.rib.fib.actual.get(nlri) != OnLink(endpoint.interface):
                return ""
        return None

    def trace(self, nlri: Nlri) -> Update | None:
        """Return the latest remembered UPDATE that spoke of this prefix; O(prefixes remembered)."""
        return next((update for update in reversed(self.updates) if nlri in update.nlris), None)

    # ── sessions ─────────────────────────────────────────────────────────────

    def _session(self, connection: int) -> Session | None:
        name = self._peer_of.get(connection)
        return None if name is None else self.sessions.get(name)

    def _connected(self, event: Connected, now: float) -> None:
        session = self.sessions.get(event.peer)
        if session is None:  # it was removed while the connection was on its way
            self.commands.append(Hangup(event.connection))
            return
        self._peer_of[event.connection] = event.peer
        self._apply(event.peer, session.connected(event.connection, event.is_inbound, now), now)

    def _connect_failed(self, name: PeerName, reason: str, now: float) -> None:
        if name in self.sessions:
            self._apply(name, self.sessions[name].connect_failed(reason, now), now)

    def _disconnected(self, connection: int, reason: str, now: float) -> None:
        name = self._peer_of.pop(connection, None)
        if name is not None:
            self._apply(name, self.sessions[name].disconnected(connection, reason, now), now)

    def _open_received(self, connection: int, negotiated: Negotiated, now: float) -> None:
        if (session := self._session(connection)) is not None:
            self._apply(session.peer.name, session.open_received(connection, negotiated, now), now)

    def _garbage_received(self, event: GarbageReceived, now: float) -> None:
        if (session := self._session(event.connection)) is not None:
            outputs = session.garbage_received(event.connection, event.notification, event.text, now)
            self._apply(session.peer.name, outputs, now)

    def _timer_fired(self, unheard: Collection[int], now: float) -> None:
        due: list[PeerName] = []
        while self._next_due() <= now:
            due.append(heappop(self._agenda)[1])
            del self._wakeups[due[-1]]
        for name in due:
            session = self.sessions[name]
            is_resumed = self._resume_at.get(name, NEVER) <= now
            if is_resumed:
                del self._resume_at[name]
            self._apply(name, session.start(now) if is_resumed else session.tick(now, unheard), now)
        self._check_sync(now, unheard)

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

    def _message_received(
        self, connection: int, message: Keepalive | RouteRefresh | EndOfRib | Notification, now: float
    ) -> None:
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
            case RouteRefresh(family):
                outputs = session.message_received(connection, message, now)
                if session.connection == connection:
                    self.rib.refresh(name, family)
            case _:
                outputs = session.message_received(connection, message, now)
        self._apply(name, outputs, now)
        self._check_sync(now)

    def _routes_received(self, event: RoutesReceived, now: float) -> None:
        session = self._session(event.connection)
        if session is None:
            return
        name = session.peer.name
        self._apply(name, session.update_received(event.connection, now), now)
        if session.connection != event.connection or session.state is not State.ESTABLISHED:
            return
        if event.problem:
            self.treated_as_withdraw[name] += event.treated_as_withdraw
            self.attributes_discarded[name] += event.attributes_discarded
            if self.update_problem.get(name) != event.problem:  # who does it wrong does so in every UPDATE
                self.update_problem[name] = event.problem
                self._note("update.malformed", Level.WARNING, peer=name, reason=event.problem)
        self._awaited.updated(name, now)
        self.rib.receive(name, event.attributes, event.announced, event.withdrawn, event.read_at)
        for nlris, is_withdrawal in ((event.announced, False), (event.withdrawn, True)):
            if nlris:
                update = Update(name, event.read_at, nlris, is_withdrawal)
                self.updates.append(update)
                self._undecided.append(update)
        self._hear_of_refusals()
        if (over := self.rib.is_over_limit(name)) is not None:
            self._over_limit(session, *over, now)

    def _hear_of_refusals(self) -> None:
        """Count what peers said of addresses and may not say; tell of the first of a session."""
        for refused_claim in self.rib.refused_claims:
            name, nlri, count, reason = refused_claim
            self.identity.refused[name] += count
            if name not in self.identity.problem:
                self.identity.problem[name] = reason
                self._note("identity.refused", Level.WARNING, peer=name, prefix=prefix_text(nlri), reason=reason)
        self.rib.refused_claims.clear()

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
        self._check_sync(now)

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
                case WentDown(reason, retain):
                    self._went_down(session, reason, retain)
                case StaleExpired(families):
                    if not self._is_stopping:
                        self.rib.sweep(name, families)
                        self._note("peer.stale-swept", peer=name, family=_labels(families))
                case _:
                    assert_never(output)
        self._wake_at(name, min(session.next_wakeup(), self._resume_at.get(name, NEVER)))

    def _established(self, session: Session, up: Established, now: float) -> None:
        name = session.peer.name
        self.held |= {name}
        self._away.discard(name)
        self.update_problem.pop(name, None)
        self.identity.problem.pop(name, None)
        self.rib.peer_up(session.peer, up.negotiated, up.keep)
        self.commands.append(StartRoutes(up.connection, name))
        if self.is_in_sync:
            self.rib.send_end_of_rib(name)
        self._awaited.established(session.peer, up.negotiated, now)
        self._note(
            "peer.up",
            peer=name,
            address=session.peer.address,
            family=_labels(up.negotiated.families),
            hold_time_s=up.negotiated.hold_time,
            stale=_labels(up.keep) or None,
        )
        self._check_sync(now)

    def _went_down(self, session: Session, reason: str, retain: frozenset[Family]) -> None:
        name = session.peer.name
        if self._is_stopping:
            return  # the kernel's routes stay, and so does the list
        self._away.add(name)
        self.rib.peer_down(name, retain)
        self._note("peer.down", Level.WARNING, peer=name, reason=reason, kept=_labels(retain) or None)

    def _stop(self, now: float) -> None:
        self._is_stopping = True
        for name, session in self.sessions.items():
            is_silent = restart_agreed(session.negotiated)
            farewell = None if is_silent else Notification.cease(Cease.ADMIN_SHUTDOWN, "bgpmesh stops")
            self._apply(name, session.stop(now, farewell), now)

    # ── being in sync ────────────────────────────────────────────────────────

    def _fib_read(self, event: FibRead, now: float) -> None:
        self.rib.next_hops.observe_all(event.next_hops)
        self.rib.fib.observe_all(event.routes)
        waiting = self._announce_when_written | self._ways.waits_for
        self._announce_written({n for n in waiting if self._is_written(n, self._local[n].target)})
        if event.repaired:
            self._drifted(event.repaired, "found otherwise by a read-back", routes_count=event.repaired)
        if self._booted_at is None:
            self._boot(bool(event.routes), now)

    def _boot(self, has_routes: bool, now: float) -> None:
        """Start the sessions, as a restart or as a first boot: the kernel is known now."""
        configured = self.configured
        self._booted_at = now
        routes_kept = has_routes or not configured.kernel_enabled
        listed = frozenset(self.sessions) if self._listed is None and has_routes else (self._listed or frozenset())
        self._local_restart.is_forwarding_kept = (bool(listed) and routes_kept) or not configured.kernel_enabled
        if listed and routes_kept:
            self._local_restart.is_restarting = True
            self.held = listed
            self._away = set(listed)
            self._awaited.limit = now + configured.restart_deferral
            for name in sorted(listed & self.sessions.keys()):
                self._awaited.add(name, now)
            self._note("restart.began", peer=",".join(self._awaited.names) or None)
        for name, session in self.sessions.items():
            self._apply(name, session.start(now, at_once=name in self._awaited.names), now)
        self._check_sync(now)

    def _check_sync(self, now: float, unheard: Collection[int] = ()) -> None:
        if self.is_in_sync or self._booted_at is None or self._awaited.is_waiting(now, unheard):
            return
        was_restart = self._local_restart.is_restarting
        if left := self._awaited.give_up():
            self._note("restart.gave-up-waiting", Level.WARNING, peer=",".join(left), reason=str(left))
        self.is_in_sync = True
        self.in_sync_at = now
        self._local_restart.is_restarting = False
        self.rib.is_deferring = False
        for name, session in self.sessions.items():
            session.call_passive = False
            if session.state is State.ESTABLISHED:
                self.rib.send_end_of_rib(name)
        if was_restart:
            self._note("restart.in-sync", waited_s=now - self._booted_at)

    def _forget_held(self) -> None:
        """Take peers off the list whose paths are gone, from the kernel too (rule 1)."""
        if not self._away or self._is_stopping or not self.is_in_sync or not self.rib.fib.is_at_rest:
            return
        gone = {name for name in self._away if not self.rib.stale_count(name)}
        self._away -= gone
        self.held -= gone

    # ── what this node itself has ────────────────────────────────────────────

    @property
    def node(self) -> str:
        """The node's name."""
        return self.configured.node

    def _configure(self, new: Configured, now: float) -> None:
        self.configured = new
        self.floating.configure(new.floating)
        saying = claim(new.cluster_asn or new.asn, Kind.FLOATING)
        if self._ways.attributes.large_communities != (saying,):
            self._ways.attributes = PathAttributes(large_communities=(saying,))
        self._take_addresses()
        for address, key in self.addresses.in_use().items():
            self._warn_of_taken(key, address)
        self.rib.configure(new.asn, new.router_id, new.cluster_id, new.ecmp)
        self.rib.believe(Claimants(new.owners) if new.has_identity else None)
        self._hear_of_refusals()
        wanted = {peer.name: peer for peer in new.peers}
        awaited = wanted.keys() & self._awaited.names
        for name, session in list(self.sessions.items()):
            if wanted.get(name) != session.peer:
                self._remove_session(session, is_gone=name not in wanted, now=now)
        for name, peer in wanted.items():
            if name not in self.sessions:
                self._add_session(peer, now, is_awaited=name in awaited)
        self._is_protection_due = self.review.is_called_for = True
        self._say(self.endpoints.values())
        self._originate()
        self._check_sync(now)

    def _take_addresses(self) -> None:
        """Have addresses given as configuration and commands say."""
        new = self.configured
        taken = {address: f"floating address of {each.workload}" for address, each in self.floating.in_force.items()}
        # A peer within our blocks is a workload that speaks BGP: it asks for its address by name.
        promised = {peer.address for peer in new.peers}
        self.addresses.configure(new.pools, new.pod_cidrs, taken | dict(new.taken), promised)

    def _add_session(self, peer: Peer, now: float, *, is_awaited: bool) -> None:
        session = self.sessions[peer.name] = Session(peer, self._local_restart, self._jitter)
        if is_awaited:  # it was changed before it could say what we held of it when we restarted
            self._awaited.add(peer.name, now)
        if self._booted_at is not None:
            self._apply(peer.name, session.start(now, at_once=is_awaited), now)

    def _remove_session(self, session: Session, *, is_gone: bool, now: float) -> None:
        name = session.peer.name
        cause = Cease.PEER_DECONFIGURED if is_gone else Cease.OTHER_CONFIGURATION_CHANGE
        self._apply(name, session.stop(now, Notification.cease(cause)), now)
        self._awaited.discard(name)
        for of_peer in (self._wakeups, self._resume_at, self.update_problem, self.identity.problem):
            of_peer.pop(name, None)
        for connection in [c for c, n in self._peer_of.items() if n == name]:
            del self._peer_of[connection]
            self.commands.append(Hangup(connection))
        del self.sessions[name]

    def _originate(self) -> None:
        """Make the RIB's local prefixes what configuration and workloads say."""
        wanted = self._local_routes()
        for nlri in self._local.keys() - wanted.keys():
            self.rib.retire(nlri)
            self._announce_when_written.discard(nlri)
        for nlri, route in wanted.items():
            if self._local.get(nlri) != route:
                waits = isinstance(route.target, OnLink) and not self._is_written(nlri, route.target)
                waits = waits and not route.has_waited  # a floating address: for its workload's route
                self._originate_one(nlri, route, advertise=route.is_advertised and not waits)
                if waits and route.is_advertised:
                    self._announce_when_written.add(nlri)
        self._local = wanted

    def _originate_one(self, nlri: Nlri, route: _LocalRoute, *, advertise: bool) -> None:
        self.rib.originate(
            nlri, route.target, advertise=advertise, attributes=route.attributes, is_for_cluster=route.is_for_cluster
        )

    def _say(self, endpoints: Iterable[Endpoint]) -> None:
        """Have at hand what the nodes of the cluster are to hear of some workloads of this one."""
        configured = self.configured
        if not configured.has_identity or not self.is_policy_known:  # labels of namespaces are objects' matter
            self.identity.sayings = Sayings()
            return
        claims = self.protection.claims(endpoints, configured.around)
        for key in self.identity.sayings.take(claims, configured.cluster_asn or configured.asn):
            self._note("identity.too-long", Level.WARNING, endpoint=key, reason=self.identity.sayings.too_long[key])

    def _local_routes(self) -> dict[Nlri, _LocalRoute]:
        configured = self.configured
        routes = {
            nlri_of(cidr): _LocalRoute(Blackhole(), _is_pool_advertised(configured.pools, cidr.network_address))
            for cidr in configured.pod_cidrs
        }
        for network in configured.advertise:
            routes[nlri_of(network)] = _LocalRoute(None, is_advertised=True)
        for endpoint in self.endpoints.values():
            if self.links.actual.get(endpoint.interface) != self._specs[endpoint.interface]:
                continue  # the link comes first
            for address in endpoint.addresses:
                is_covered = self.addresses.is_covered(address)
                is_own = not is_covered and _is_pool_advertised(configured.pools, address)
                was = routes.get(host_nlri(address))
                is_advertised = is_own or (was is not None and was.is_advertised)
                # Other nodes believe what is said of an address in a block of ours that is more than the address.
                is_block = was is not None and isinstance(was.target, Blackhole)
                saying = self.identity.sayings.by_key.get(endpoint.key) if is_covered and not is_block else None
                routes[host_nlri(address)] = _LocalRoute(
                    OnLink(endpoint.interface),
                    is_advertised or saying is not None,
                    saying,
                    is_for_cluster=saying is not None and not is_advertised,
                )
        self._ways.waits_for.clear()
        for external in self._ways.made.keys() & self._ways.wanted.keys():
            lead = self._ways.made[external]
            internal, target = host_nlri(lead.internal), OnLink(lead.interface)
            if internal in routes and routes[internal].target == target:
                is_advertised = self._is_written(internal, target)
                routes[host_nlri(external)] = _LocalRoute(target, is_advertised, self._ways.attributes, has_waited=True)
                self._ways.waits_for.add(internal)
        return routes

    def _endpoint_added(self, endpoint: Endpoint) -> None:
        known = self.endpoints.get(endpoint.key)
        is_known = known is not None  # and some of its labels have changed
        is_where_it_was = known is not None and known.addresses == endpoint.addresses
        self.addresses.claim(endpoint.key, endpoint.addresses)
        self.endpoints[endpoint.key] = endpoint
        self._specs[endpoint.interface] = link_of(endpoint)
        self._leaving.pop(endpoint.interface, None)
        self._disputed.discard(endpoint.interface)
        if not is_known:
            self._closed.add(endpoint.interface)
        self.review.is_called_for = self.review.is_called_for or is_known
        self._is_protection_due = True
        self._say((endpoint,))
        self._want_link(endpoint)
        for address in endpoint.addresses:
            self._warn_of_taken(endpoint.key, address)
        if not is_where_it_was or self.configured.has_identity:  # its labels say nothing to routes, but for identity
            self._originate()

    def _warn_of_taken(self, key: str, address: IPAddress) -> None:
        """Say that a workload has the address of another host: a reload, or an older version, let it be so."""
        if (holder := self.configured.taken.get(address)) is not None:
            self._note("endpoint.address-taken", Level.WARNING, endpoint=key, address=address, reason=f"also {holder}")

    def _endpoint_removed(self, key: str, now: float) -> None:
        endpoint = self.endpoints.pop(key, None)
        if endpoint is None:
            return  # two removed it at once, or a removal and an addition that failed
        self.addresses.release(key, self._believed_until(endpoint, now))
        self.identity.sayings.forget(key)
        self._originate()
        self._leaving[endpoint.interface] = endpoint
        self._is_protection_due = True

    def _believed_until(self, endpoint: Endpoint, now: float) -> float:
        """Return how long a node that does not hear us may take the addresses for this workload's (RFC 4724 §4.2)."""
        said = (route for nlri in map(host_nlri, endpoint.addresses) if (route := self._local.get(nlri)) is not None)
        if not self.configured.has_identity or not any(route.attributes is not None for route in said):
            return now
        peers = [peer for peer in self.configured.peers if peer.in_cluster]
        return now + max((peer.hold_time + peer.graceful_restart for peer in peers), default=0)

    def _remove_links(self) -> None:
        """Want the links of removed workloads gone, each once its host routes are (rule 2).

        With the link the kernel would drop them in silence, which the next read-back takes for drift. A daemon that
        ends before finds at its next start a link that nobody wants.
        """
        for interface, endpoint in list(self._leaving.items()):
            if not self._is_routed(endpoint):
                del self._leaving[interface]
                self._closed.discard(interface)
                del self._specs[interface]
                self.links.want(interface, None)

    def _is_routed(self, endpoint: Endpoint) -> bool:
        """Tell whether a removed workload has its link, and a route on it that is about to be deleted."""
        fib, target = self.rib.fib, OnLink(endpoint.interface)
        addresses = (*endpoint.addresses, *(each.external for each in self.floating.of(endpoint.key)))
        is_there = self.links.actual.get(endpoint.interface) == self._specs[endpoint.interface]
        return (
            is_there  # or it would be made again, to be removed
            and not fib.keep_unwanted  # nothing is deleted before this node is in sync
            and any(fib.actual.get(n) == target and n not in fib.refused for n in map(host_nlri, addresses))
        )

    def _links_read(self, links: Mapping[str, LinkSpec]) -> None:
        if self._adopt_endpoints:
            self._adopt_endpoints = False
            for endpoint in filter(None, map(endpoint_of, links.values())):
                self._adopt(endpoint)
        self._disputed &= links.keys()
        self.links.observe_all({name: link for name, link in links.items() if name not in self._disputed})
        self._is_protection_due = True
        if not self.is_policy_known:
            for endpoint in self.endpoints.values():
                if (link := links.get(endpoint.interface)) is not None and link.is_open:
                    self._closed.discard(endpoint.interface)
                    self._want_link(endpoint)
        self._originate()

    def _adopt(self, endpoint: Endpoint) -> None:
        """Know a workload again by its link.

        Where another has its name or an address, one of the two aliases is no longer true, and nothing tells which. The
        second link is left as it is, neither used nor deleted, since a workload may live on it: removing the wrong
        one and adding the right one then costs no packet. The next start has a record again, and goes by that.
        """
        key, interface = endpoint.key, endpoint.interface
        if (known := self.endpoints.get(key)) is not None and known.interface == interface:
            return
        try:
            if known is not None:
                raise refused("name", key, f"its link is {known.interface}")
            self._endpoint_added(endpoint)
        except ConfigError as error:
            self._disputed.add(interface)
            reason = f"{error}; the link is left as it is until the next start"
            self._note("endpoint.not-adopted", Level.WARNING, endpoint=key, interface=interface, reason=reason)
        else:
            self._note("endpoint.adopted", endpoint=key, interface=interface)

    def _link_observed(self, interface: str, link: LinkSpec | None) -> None:
        if interface in self._disputed:
            return
        self.links.observe(interface, link)
        self._is_protection_due = self._is_protection_due or not self.endpoints
        if interface not in self._leaving and self.links.wanted.get(interface) != link:
            self._drifted(1, "changed by somebody else", interface=interface)
        self._originate()

    def _link_written(self, interface: str, failure: str | None, now: float) -> None:
        if failure is not None:
            self._refused(self.links, {interface: failure}, "link.refused", now, word="interface", show=str)
        else:
            was_refused = interface in self.links.refused
            self.links.acknowledge((interface,))
            self._is_protection_due = self._is_protection_due or not self.endpoints  # the last link may be gone
            if was_refused:
                self._note("link.recovered", interface=interface)
        self._originate()

    def _is_written(self, nlri: Nlri, target: Target | None) -> bool:
        return not self.configured.kernel_enabled or self.rib.fib.actual.get(nlri) == target

    # ── chains and sets ──────────────────────────────────────────────────────

    @property
    def rules_in_force(self) -> int:
        """How many rules of ours stand as they are wanted."""
        return sum(len(rules) for key, rules in self.chains.wanted.items() if self.chains.actual.get(key) == rules)

    def unmade(self) -> dict[str, str]:
        """Return which chains, sets and host endpoints cannot be as they are wanted, each with the reason."""
        refused = {key: refusal.reason for key, refusal in self.chains.refused.items() if key.table not in SPARE}
        chains = {f"chain {key}": reason for key, reason in refused.items()}
        sets = {f"set {name}": refusal.reason for name, refusal in self.sets.refused.items()}
        cuts = {f"connections of {each}": refusal.reason for each, refusal in self.connections.refused.items()}
        unreviewed = {"connections that are no longer allowed": self.review.problem} if self.review.problem else {}
        hosts = self.protection.unplaced if self.configured.kernel_enabled else {}
        return chains | sets | cuts | unreviewed | hosts

    def unguarded(self) -> list[tuple[str, str, str]]:
        """Return (object, field, reason) of a second guard that cannot be had: all else is in force without it."""
        reasons = {key.family: refusal.reason for key, refusal in self.chains.refused.items() if key.table in SPARE}
        return [
            ("[policy]", "workload_to_host", f"no second guard of the host (IPv{family}): {reason}")
            for family, reason in sorted(reasons.items())
        ]

    def _chains_read(self, event: ChainsRead) -> None:
        if self.rib.is_deferring and not self.sets.actual:
            self._adopt_floating(event.sets)
            self._is_protection_due = True
        if self._booted_at is None and self.configured.has_identity:
            others = [owner.blocks for owner in self.configured.owners if owner.name != self.node]
            self.identity.held = members_within(event.sets, itertools.chain.from_iterable(others))
            self._is_protection_due = True
        changed = [f"chain {key}" for key in _changed(self.chains, event.chains)]
        changed += [f"set {name}" for name in _changed(self.sets, event.sets)]
        self.chains.observe_all(event.chains)
        self.sets.observe_all(event.sets)
        if changed:
            self._drifted(len(changed), "changed by somebody else", value=", ".join(changed))
            self.review.generation += 1  # something may have begun meanwhile that nothing allows
        self._open_and_close()
        self._lead()

    def unknowable(self) -> list[tuple[str, str, str]]:
        """Return (object, field, reason) of what asks for more than is known here, and of whom others know nothing.

        Where this is the only node there is nothing to be known.
        """
        configured = self.configured
        if {owner.name for owner in configured.owners} == {self.node}:
            return []
        found = self.protection.unanswered(has_identity=configured.has_identity)
        found += [(f"workload {key}", "", reason) for key, reason in sorted(self.identity.sayings.too_long.items())]
        if configured.has_identity:
            found += [
                (f"workload {key}", "ip", f"{address} is in no block of this node: other nodes know nothing of it")
                for address, key in sorted(self.addresses.in_use().items(), key=lambda row: row[1])
                if key in self.endpoints and not self.addresses.is_covered(address)
            ]
        return found

    def _packets_written(
        self, delta: Delta[K, V], done: Sequence[K], failed: Mapping[K, str], word: str, now: float
    ) -> None:
        recovered = [key for key in done if key in delta.refused]
        delta.acknowledge(done)
        self._refused(delta, failed, f"{word}.refused", now, word=word, show=str)
        for key in recovered:
            self._note(f"{word}.recovered", Level.INFO, **{word: str(key)})
        self._open_and_close()
        self._lead()

    def _protect(self) -> None:
        """Want the chains and sets that configuration, objects and workloads come to.

        Where the objects that were in force are not known, nothing of theirs is touched: who is protected stays so, and
        nobody else is let in.
        """
        self._is_protection_due = False
        self.chains.keep_unwanted = self.sets.keep_unwanted = not self.is_policy_known
        configured = self.configured
        translated = self._translated()
        chains, sets = dict(translated.chains), dict(translated.sets)
        if configured.kernel_enabled and self.is_policy_known:
            is_needed = bool(self.endpoints or self.links.actual or self._disputed)
            before = self.protection.compiled
            expected = self.protection.expected(configured.around.node)
            interfaces = {address: self.rib.interfaces_with(address) for address in expected}
            own_chains, own_sets = self.protection.wanted(
                self.endpoints, configured.around, interfaces, is_needed=is_needed, held=self.identity.held
            )
            if self.review.is_called_for and not self.protection.compiled.is_like(before):
                self.review.generation += 1
            self.review.is_called_for = False
            # Both may have something in a built-in chain.
            chains = own_chains | {key: rules + own_chains.get(key, ()) for key, rules in chains.items()}
            sets = sets | own_sets
        _want_all(self.chains, chains)
        _want_all(self.sets, sets)
        self._open_and_close()
        self._lead()

    def _learn(self, now: float, *, is_busy: bool) -> None:
        """Make the sets follow what other nodes say of their workloads, in batches.

        The next batch waits until the one before is written, so many small changes cost no more than a large one, and
        there are moments at which everything is as it is wanted. What was found at start is held until this node
        is in sync and has taken in all that it was told.
        """
        said = self.rib.said
        if not self.configured.kernel_enabled:
            said.clear()  # it has no workloads
            return
        is_over = bool(self.identity.held) and not self.rib.fib.keep_unwanted
        if not is_over and (
            not said or (is_busy and now < self.identity.learnt_at + LAST_LESSON_S) or now < self._next_lesson()
        ):
            return
        self.identity.learnt_at = now
        if self.protection.learn(said):
            self.review.is_called_for = True
        said.clear()
        if is_over:
            self.identity.held = {}
        self._protect()

    def _next_lesson(self) -> float:
        return self.identity.learnt_at + (self.identity.pause_s if self.sets.is_at_rest else LAST_LESSON_S)

    @property
    def is_policy_in_force(self) -> bool:
        """Whether chains and sets are what objects and workloads say, but for what is refused."""
        return not self._is_protection_due and self.chains.is_at_rest and self.sets.is_at_rest

    @property
    def is_review_due(self) -> bool:
        """Whether connections are to be looked at: what is in force is not what they were let in under."""
        return (
            self.review.reviewed != self.review.generation
            and self.configured.around.is_revoking
            and not (self.configured.has_identity and self.rib.fib.keep_unwanted)  # others have not said yet who is who
            and bool(self.endpoints)
            and self.is_policy_in_force
        )

    def _connections_reviewed(self, event: ConnectionsReviewed) -> None:
        if not event.problem:
            self.review.reviewed = event.generation
        if event.problem != self.review.problem:
            self.review.problem = event.problem
            name = "connections.unreviewed" if event.problem else "connections.reviewed"
            self._note(name, Level.WARNING if event.problem else Level.INFO, reason=event.problem or None)
        if event.revoked or event.restored:
            self._note("connections.revoked", revoked_count=event.revoked, restored_count=event.restored or None)

    def _open_and_close(self) -> None:
        """Open the links of workloads that are protected by now; close all where our hooks cannot be had (rule 2)."""
        if self._is_protection_due or not self.is_policy_known:
            return
        chains, sets = self.chains, self.protection.compiled.sets
        lost = [k for k in chains.refused if k.table in TABLES and not k.is_ours and k not in chains.actual]
        is_whole = not any(k.table in TABLES for k in chains.unsettled()) and not any(
            name in sets for name in self.sets.unsettled()
        )
        if not lost and not (is_whole and self._closed):
            return
        for endpoint in self.endpoints.values():
            is_closed = endpoint.interface in self._closed
            if lost and not is_closed:
                self._closed.add(endpoint.interface)
                self._note("endpoint.closed", Level.ERROR, endpoint=endpoint.key, reason=f"no hook in {lost[0]}")
            elif is_whole and is_closed:
                self._closed.discard(endpoint.interface)
            else:
                continue
            self._want_link(endpoint)

    def _want_link(self, endpoint: Endpoint) -> None:
        spec = self._specs[endpoint.interface]
        self.links.want(
            endpoint.interface, replace(spec, is_open=False) if endpoint.interface in self._closed else spec
        )

    # ── floating addresses ───────────────────────────────────────────────────

    def floating_problem(self, external: IPAddress) -> str | None:
        """Return why a floating address of this node is not as it was said ("" while it is under way), None once it is.

        As it was said is: packets are led to the workload, connections that led elsewhere are cut, peers hear of it.
        """
        problems = [reason for address, reason in self.floating_problems() if address == external]
        if problems:
            return problems[0]
        lead = self._ways.wanted.get(external)
        if lead is None:
            return None  # the workload is on another node
        refusals = [self.chains.refused.get(chain) for chain in floating_chains(external.version)]
        refusals += [self.sets.refused.get(external_set(external.version)), self.connections.refused.get(external)]
        if (refusal := next(filter(None, refusals), None)) is not None:
            return refusal.reason
        is_led = self._ways.made.get(external) == lead and self.connections.actual.get(external) == lead.internal
        local = self._local.get(host_nlri(external))
        return None if is_led and local is not None and local.is_advertised else ""

    def floating_problems(self) -> list[tuple[IPAddress, str]]:
        """Return which floating addresses cannot be as they were said on this node, each with the reason."""
        return list(self.floating.problems(self.endpoints, self.floating_taken()))

    def floating_taken(self, *more: IPAddress) -> dict[IPAddress, str]:
        """Return who on this node has each address that can lead nowhere, being its own; `more` are asked for too."""
        own = (address for address in (*self.floating.in_force, *more) if self.rib.is_own(host_nlri(address)))
        return dict.fromkeys(own, "this host") | dict(self.addresses.in_use())

    def is_announced(self, external: IPAddress) -> bool:
        """Tell whether this node announces a floating address."""
        local = self._local.get(host_nlri(external))
        return local is not None and local.is_advertised and local.attributes is self._ways.attributes

    def is_floating_gone(self, external: IPAddress) -> bool:
        """Tell whether nothing of a floating address is left on this node: no translation, no connection, no route."""
        nlri = host_nlri(external)
        return external not in self._ways.made and external not in self.connections.actual and nlri not in self._local

    def lead(self, external: IPAddress) -> Lead | None:
        """Return what a floating address leads to here."""
        return self._ways.wanted.get(external)

    @property
    def translation(self) -> Translation:
        """What addresses are translated to here."""
        return self._ways.translation

    def _translated(self) -> Translation:
        """Return the address translation that pools, floating addresses and workloads come to."""
        new, before = self.configured, self._ways.wanted
        leads = self.floating.leads(self.endpoints, self.floating_taken())
        self._ways.wanted = leads if new.kernel_enabled else {}
        if self._ways.wanted != before:
            self._originate()
        others = (network_of(nlri).network_address for nlri in self.rib.floating | self._ways.found_inside)
        self.floating_known = frozenset((*self.floating.in_force, *others))
        if not new.kernel_enabled:
            return NOTHING
        said = (new.pools, tuple(leads.values()), self.floating_known, new.around.space, new.interface_prefix)
        if said != self._ways.said:  # a workload that comes or goes has no floating address, most often
            self._ways.said, self._ways.translation = said, translation(*said)
        return self._ways.translation

    def _lead(self) -> None:
        """Follow what the packet filter does with floating addresses.

        Connections are cut after that, so that none comes back the old way. The address is announced from then on, and
        goes on to be while it moves.
        """
        for family in FAMILIES:
            name = external_set(family)
            if self.sets.actual.get(name) != self.sets.wanted.get(name) or any(
                self.chains.actual.get(chain) != self.chains.wanted.get(chain) for chain in floating_chains(family)
            ):
                continue
            new = {address: lead for address, lead in self._ways.wanted.items() if address.version == family}
            old = {address: lead for address, lead in self._ways.made.items() if address.version == family}
            for address in old.keys() - new.keys():
                del self._ways.made[address]
                self.connections.want(address, None)
            for address, lead in new.items():
                self._ways.made[address] = lead
                if self.connections.wanted.get(address) != lead.internal:
                    self.connections.want(address, lead.internal)
            if old != new:
                self._originate()

    def _adopt_floating(self, sets: Mapping[str, AddressSet]) -> None:
        """Take what an earlier life has left: what it knew as inside, and which floating addresses led to workloads.

        The first holds until this node is in sync and knows the others' itself. What has become of the second while
        nobody looked is not known, so their connections count as leading nowhere that is right.
        """
        for family in FAMILIES:
            inside, externals = (sets.get(name) for name in (inside_set(family), external_set(family)))
            self._ways.found_inside |= _hosts(inside)
            for nlri in _hosts(externals):
                address = network_of(nlri).network_address
                self.connections.observe(address, address)

    def _connections_cut(self, done: Sequence[IPAddress], failed: Mapping[IPAddress, str], now: float) -> None:
        recovered = [address for address in done if address in self.connections.refused]
        self.connections.acknowledge(done)
        self._refused(self.connections, failed, "connections.uncut", now, word="address", show=str)
        for address in recovered:
            self._note("connections.cut", address=address)

    # ── what the kernel answered ─────────────────────────────────────────────

    def _fib_written(self, done: Sequence[Nlri], now: float) -> None:
        recovered = [nlri for nlri in done if nlri in self.rib.fib.refused] if self.rib.fib.refused else []
        self.rib.fib.acknowledge(done)
        for nlri in recovered:
            self._note("route.recovered", prefix=prefix_text(nlri))
        self._announce_written(done)
        if self._unwritten:
            for nlri in self._unwritten.keys() & done:
                update = self._unwritten.pop(nlri)
                update.programmed_at = now
                self.converged.append((now - update.read_at, len(update.nlris)))
        self._forget_held()

    def _announce_written(self, nlris: Collection[Nlri]) -> None:
        """Announce what waited for these routes."""
        if self._announce_when_written:
            for nlri in self._announce_when_written.intersection(nlris):
                self._announce_when_written.discard(nlri)
                self._originate_one(nlri, self._local[nlri], advertise=True)
        if self._ways.waits_for and not self._ways.waits_for.isdisjoint(nlris):
            self._originate()

    def _fib_observed(self, routes: Mapping[Nlri, Target | None]) -> None:
        for nlri, target in routes.items():
            self.rib.fib.observe(nlri, target)
        changed = [nlri for nlri, target in routes.items() if self.rib.fib.wanted.get(nlri) != target]
        if changed:
            others = len(changed) - 1 or None
            self._drifted(len(changed), "changed by somebody else", prefix=prefix_text(changed[0]), others_count=others)

    def _decided(self, now: float) -> None:
        """Remember which UPDATEs now wait for the kernel: the RIB is at rest."""
        wanted, actual = self.rib.fib.wanted, self.rib.fib.actual
        for update in self._undecided:
            update.decided_at = now
            last = update.nlris[-1]
            if wanted.get(last) != actual.get(last):
                self._unwritten[last] = update
        self._undecided.clear()
        if len(self._unwritten) > REMEMBERED_UPDATES and self.rib.fib.is_at_rest:
            self._unwritten.clear()  # what never came to be written

    def _refused(
        self, delta: Delta[K, V], failed: Mapping[K, str], name: str, now: float, *, word: str, show: Callable[[K], str]
    ) -> None:
        """Leave what the kernel refused in the gap; say so once for a burst, and only when it is new."""
        new = [key for key in failed if key not in delta.refused]
        for key, reason in failed.items():
            delta.refuse(key, reason, now)
        if new:
            keys = {word: show(new[0]), "reason": failed[new[0]], "others_count": len(new) - 1 or None}
            self._note(name, Level.WARNING, **keys)

    def _drifted(self, count: int, reason: str, **keys: object) -> None:
        """Count what is to be repaired; `keys` say what it is."""
        self.drift_repaired += count
        self._note("drift.found", Level.WARNING, **keys, reason=reason)

    def _note(self, name: str, level: Level = Level.INFO, **keys: object) -> None:
        self.notes.append(Note(name, level, keys))


def _want_all(delta: Delta[K, V], wanted: Mapping[K, V]) -> None:
    """Want exactly these."""
    for key in delta.wanted.keys() - wanted.keys():
        delta.want(key, None)
    for key, value in wanted.items():
        if delta.wanted.get(key) != value:
            delta.want(key, value)


def _hosts(found: AddressSet | None) -> set[Nlri]:
    """Return the single addresses in a set of prefixes."""
    members = () if found is None else found.members
    return {Nlri(member) for member in members if member[0] == 8 * (len(member) - 1)}


def _changed(delta: Delta[K, V], found: Mapping[K, V]) -> list[K]:
    """Return what was as wanted, by what we knew, and is not by what was found."""
    known = delta.actual
    return [key for key, value in delta.wanted.items() if known.get(key) == value and found.get(key) != value]


def _labels(families: Iterable[Family]) -> str:
    return ",".join(sorted(family.label for family in families))


def _is_pool_advertised(pools: Sequence[Pool], address: IPAddress) -> bool:
    """Tell whether the pool around an address is announced; an address in no pool is."""
    return all(pool.advertise for pool in pools if address in pool.cidr)
