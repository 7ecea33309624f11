"""The core as one object: told what happened, it answers what should be true.

`handle` notes one fact, `work` thinks in slices, `next_wakeup` names the second at which to send
`TimerFired`. Each fact goes to the room that it is about; a room knows those below it, and none the engine:

    packets   what may pass: chains and sets, connections that stand    packets.py
      leads     where floating addresses lead                             leads.py
    local     workloads, their links, what this node originates         local.py
    peers     sessions, timers, a restart, whose paths are held         peers.py
    flowspec  what peers ask of packets                                 flowspec.py
    rib       paths, the best of them, what follows                     rib/

What should be true stands in six Deltas (`rib.fib`, `rib.next_hops`, `local.links`, `packets.chains`,
`packets.sets`, `packets.leads.connections`), what is to be said to peers in `peers.commands` and in the batches that
`take` pulls, what people should know in `notes`, what must be on disk before anything else is done in `peers.held`.

What may not happen stands at the head of each room. Here is only what goes through several: who hears of what, in
which order, and the way of an UPDATE from the socket to the kernel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

from bgpmesh.events import (
    BfdReported,
    ChainsRead,
    ChainsWritten,
    Configured,
    Connected,
    ConnectFailed,
    ConnectionsCut,
    ConnectionsReviewed,
    Disconnected,
    DrainChanged,
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
    LinkNamesRead,
    LinkObserved,
    LinksRead,
    LinkWritten,
    MessageReceived,
    NextHopsWritten,
    ObjectsChanged,
    OpenReceived,
    ProcessEnded,
    ProcessSpoke,
    RoutesReceived,
    SendingStalled,
    SetsWritten,
    Stopping,
    TimerFired,
)
from bgpmesh.flowspec import Flowspec
from bgpmesh.local import Local
from bgpmesh.notes import Notes
from bgpmesh.packets import Packets
from bgpmesh.peers import Peers
from bgpmesh.restart import UNKNOWN, LastLife
from bgpmesh.rib.claimants import Claimants
from bgpmesh.rib.export import Told
from bgpmesh.rib.rib import Rib
from bgpmesh.route.nlri import Nlri, prefix_of, prefix_text
from bgpmesh.route.path import PeerName

# UPDATEs whose way to the kernel is remembered for `trace`, and so many replacements of best paths.
REMEMBERED_UPDATES = 1024
REMEMBERED_PREFIXES = 200_000  # of those replacements

E = TypeVar("E")
Room = Callable[[Event, float], None]  # what takes an event of its kind, and the second


@dataclass(slots=True, eq=False)
class Update:
    """One UPDATE on its way to the kernel, by the monotonic clock; what `trace` and `convergence_seconds` tell."""

    peer: PeerName
    read_at: float
    nlris: Sequence[Nlri]
    is_withdrawal: bool
    decided_at: float | None = None
    programmed_at: float | None = None


class Replacement(NamedTuple):
    """Prefixes whose best path became another's, at a monotonic second: whose it was, whose it is (None: our own)."""

    at: float
    nlris: Collection[Nlri]
    was: PeerName | None
    now: PeerName | None


class Engine:
    """One node; owned by one task, without clock, socket or thread.

    `listed` are the peers whose paths the node held when it last ran, None where that is not known; `last` is what else
    is known of then.
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
        last: LastLife = UNKNOWN,
    ) -> None:
        self.configured = configured
        self.notes = Notes()
        self.converged: list[tuple[float, int]] = []  # (seconds, prefixes): emptied by the metrics
        self.updates: deque[Update] = deque(maxlen=REMEMBERED_UPDATES)
        self.replacements: deque[Replacement] = deque()
        self._replaced_count = 0  # their prefixes
        self._undecided: list[Update] = []
        self._unwritten: dict[Nlri, Update] = {}  # by the last prefix of the UPDATE
        self.rib = Rib(
            configured.asn, configured.router_id, configured.cluster_id, configured.ecmp, configured.kernel_enabled
        )
        self._flowspec = Flowspec(self.notes)
        self.flows = self._flowspec.flows
        self.peers = Peers(configured, self.rib, self._flowspec, self.notes, listed=listed, last=last, jitter=jitter)
        self.local = Local(configured, self.rib, self.notes, adopt_endpoints=adopt_endpoints)
        self.packets = Packets(configured, self.rib, self.local, self._flowspec, self.notes)
        self._room_of = self._rooms()
        self._configure(configured, float("inf"))

    @property
    def node(self) -> str:
        """The node's name."""
        return self.configured.node

    @property
    def life(self) -> LastLife | None:
        """What the next life should know of this one; None while it is not known how this one begins."""
        if not self.peers.restart.is_booted:
            return None
        fib, counts = self.rib.fib, dict[str, int]()
        if self.configured.processes:
            spoken, before = self.local.said, self.peers.restart.announced
            said = ((name, max(len(spoken.by(name)), before.get(name, 0))) for name in self.configured.processes)
            counts = {name: count for name, count in said if count}
        # While the first is written, or the last deleted, either is true: the kernel then tells itself.
        return LastLife(not (fib.wanted and fib.actual), counts)

    # ── the face ─────────────────────────────────────────────────────────────

    def handle(self, event: Event, now: float) -> None:
        """Note one fact; cost in proportion to it. `now` is the monotonic clock in seconds."""
        self._room_of[type(event)](event, now)
        self.local.remove_links()

    def work(self, limit: int, now: float) -> bool:
        """Decide about up to `limit` prefixes that changed, and who is protected how; True if more remains."""
        self.packets.work()
        is_left = self.rib.work(limit)
        if self.rib.replaced:
            self._remember_replaced(now)
        self.packets.learn(now, is_busy=is_left)
        if is_left:
            return True
        if self._undecided:
            self._decided(now)
        self.peers.tell_unsaid()
        self.peers.let_go()
        self.peers.forget_held()
        return self.packets.hear() or self.peers.return_to_service()

    def _remember_replaced(self, now: float) -> None:
        remembered = self.replacements
        for each in self.rib.replaced:
            remembered.append(Replacement(now, *each))
            self._replaced_count += len(remembered[-1].nlris)
        self.rib.replaced.clear()
        while len(remembered) > REMEMBERED_UPDATES or self._replaced_count > REMEMBERED_PREFIXES:
            self._replaced_count -= len(remembered.popleft().nlris)

    def take(self, peer: PeerName, limit: int) -> list[Told]:
        """Return the next batches for a peer, of about `limit` prefixes together; [] when there is none."""
        return self.rib.take(peer, limit)

    def next_wakeup(self) -> float:
        """Return the monotonic second at which to send TimerFired, infinity if never."""
        return min(self.peers.next_wakeup(), self.packets.next_wakeup(), self._flowspec.next_wakeup())

    def endpoint_problem(self, key: str) -> str | None:
        """Return why a workload is not connected yet ("" while it is under way), None once it is."""
        return self.local.problem(key, self.packets.why_closed())

    def trace(self, nlri: Nlri) -> Update | None:
        """Return the latest remembered UPDATE that spoke of this prefix; O(prefixes remembered)."""
        return next((update for update in reversed(self.updates) if nlri in update.nlris), None)

    def _rooms(self) -> dict[type[Event], Room]:
        """Return who takes what: all that can happen, once."""
        peers, packets = self.peers, self.packets
        return dict(
            (
                _to(RoutesReceived, self._routes_received),
                _to(FlowsReceived, self._flows_received),
                _to(MessageReceived, peers.message_received),
                _to(Connected, peers.connected),
                _to(ConnectFailed, peers.connect_failed),
                _to(Disconnected, peers.disconnected),
                _to(OpenReceived, peers.open_received),
                _to(GarbageReceived, peers.garbage_received),
                _to(SendingStalled, peers.sending_stalled),
                _to(BfdReported, peers.bfd_reported),
                _to(TimerFired, self._timer_fired),
                _to(Stopping, peers.stop),
                _to(DrainChanged, peers.drain_changed),
                _to(FibWritten, self._fib_written),
                _to(NextHopsWritten, self._next_hops_written),
                _to(FibObserved, self._fib_observed),
                _to(FibRead, self._fib_read),
                _to(HostRoutesChanged, self._host_routes_changed),
                _to(LinkNamesRead, self._links_named),
                _to(LinksRead, self._links_read),
                _to(LinkObserved, self._link_observed),
                _to(LinkWritten, self._link_written),
                _to(EndpointAdded, self._endpoint_added),
                _to(EndpointRemoved, self._endpoint_removed),
                _to(FloatingIpsKept, self._floating_kept),
                _to(ProcessSpoke, self._process_spoke),
                _to(ProcessEnded, self._process_ended),
                _to(ChainsRead, self._chains_read),
                _to(ChainsWritten, packets.chains_written),
                _to(SetsWritten, packets.sets_written),
                _to(ConnectionsCut, packets.leads.connections_cut),
                _to(ConnectionsReviewed, packets.connections_reviewed),
                _to(ObjectsChanged, packets.objects_changed),
                _to(DropsFollowed, packets.drops_followed),
                _to(Configured, self._configure),
            )
        )

    def _configure(self, new: Configured, now: float) -> None:
        self.configured = new
        self.local.configure(new)
        self.rib.configure(new.asn, new.router_id, new.cluster_id, new.ecmp)
        self.rib.believe(Claimants(new.owners) if new.has_identity else None)
        self.peers.restart.configure(new)
        self.peers.configure(new, now)
        self.packets.configure(new)
        self.peers.check_sync(now)

    def _timer_fired(self, event: TimerFired, now: float) -> None:
        self.peers.timer_fired(event, now)
        self._flowspec.tick(now)

    def _flows_received(self, event: FlowsReceived, now: float) -> None:
        if (peer := self.peers.flows_received(event, now)) is not None:
            refusal = "" if event.attributes is None else self.rib.loop(peer, event.attributes)
            self._flowspec.received(peer.name, event, refusal, now)

    # ── UPDATEs on their way to the kernel ───────────────────────────────────

    def _routes_received(self, event: RoutesReceived, now: float) -> None:
        name = self.peers.routes_received(event, now)
        if name is None:
            return
        negotiated = self.peers.sessions[name].negotiated
        by_path = negotiated is not None and negotiated.path_ids_in
        for nlris, is_withdrawal in ((event.announced, False), (event.withdrawn, True)):
            if nlris:
                update = Update(name, event.read_at, list(map(prefix_of, nlris)) if by_path else nlris, is_withdrawal)
                self.updates.append(update)
                self._undecided.append(update)

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

    def _fib_written(self, event: FibWritten, now: float) -> None:
        fib, done = self.rib.fib, event.done
        recovered = [nlri for nlri in done if nlri in fib.refused] if fib.refused else []
        fib.acknowledge(done)
        for nlri in recovered:
            self.notes.add("route.recovered", prefix=prefix_text(nlri))
        self.local.routes_written(done)
        if self._unwritten:
            for nlri in self._unwritten.keys() & done:
                update = self._unwritten.pop(nlri)
                update.programmed_at = now
                self.converged.append((now - update.read_at, len(update.nlris)))
        self.peers.forget_held()
        self.notes.refused(fib, event.failed, "route.refused", now, word="prefix", show=prefix_text)

    # ── the kernel's routes ──────────────────────────────────────────────────

    def _next_hops_written(self, event: NextHopsWritten, now: float) -> None:
        self.rib.next_hops.acknowledge(event.done)
        self.notes.refused(self.rib.next_hops, event.failed, "next-hop.refused", now, word="address", show=str)

    def _fib_observed(self, event: FibObserved, _: float) -> None:
        fib, routes = self.rib.fib, event.routes
        for nlri, target in routes.items():
            fib.observe(nlri, target)
        changed = [nlri for nlri, target in routes.items() if fib.wanted.get(nlri) != target]
        if changed:
            prefix, others = prefix_text(changed[0]), len(changed) - 1 or None
            self.notes.drifted(len(changed), "changed by somebody else", prefix=prefix, others_count=others)

    def _fib_read(self, event: FibRead, now: float) -> None:
        self.rib.next_hops.observe_all(event.next_hops)
        self.rib.fib.observe_all(event.routes)
        self.local.routes_read()
        if repaired := len(event.lost) + event.moved:
            prefix = prefix_text(event.lost[0]) if event.lost else None
            others, next_hops = max(len(event.lost) - 1, 0) or None, event.moved or None
            reason = "found otherwise by a read-back"
            self.notes.drifted(repaired, reason, prefix=prefix, others_count=others, next_hops_count=next_hops)
        if not self.peers.restart.is_booted:
            self.peers.boot(now, has_routes=bool(event.routes))

    def _host_routes_changed(self, event: HostRoutesChanged, _: float) -> None:
        self.rib.host_routes_changed(event.added, event.removed)
        self.packets.host_routes_changed(event)

    def _links_named(self, event: LinkNamesRead, _: float) -> None:
        self.rib.ways.links_named(event.names, event.addresses)
        self.packets.links_named()

    # ── workloads, and who is protected by that ──────────────────────────────

    def _endpoint_added(self, event: EndpointAdded, _: float) -> None:
        is_known = event.endpoint.key in self.local.endpoints  # and some of its labels have changed
        self.local.add(event.endpoint, self.packets.claims_of((event.endpoint,)))
        self.packets.doubt(connections=is_known)

    def _endpoint_removed(self, event: EndpointRemoved, now: float) -> None:
        if self.local.remove(event.key, now):
            self.packets.doubt()

    def _process_spoke(self, event: ProcessSpoke, now: float) -> None:
        self.local.process_spoke(event)
        self.peers.restart.process_spoke(event.process, event.nlris)
        self.peers.check_sync(now)

    def _process_ended(self, event: ProcessEnded, now: float) -> None:
        self.local.process_ended(event)
        self.peers.restart.process_ended(event.process)
        self.peers.check_sync(now)

    def _floating_kept(self, event: FloatingIpsKept, _: float) -> None:
        self.local.keep_floating(event.floating)
        self.packets.doubt()

    def _links_read(self, event: LinksRead, _: float) -> None:
        packets = self.packets
        self.local.links_read(event, packets.claims_of, is_policy_known=packets.is_policy_known)
        packets.doubt()

    def _link_observed(self, event: LinkObserved, _: float) -> None:
        self.local.link_observed(event)
        if not self.local.endpoints:
            self.packets.doubt()  # the last link may be gone

    def _link_written(self, event: LinkWritten, now: float) -> None:
        self.local.link_written(event, now)
        if not self.local.endpoints:
            self.packets.doubt()  # the same

    def _chains_read(self, event: ChainsRead, _: float) -> None:
        self.packets.chains_read(event, is_start=not self.peers.restart.is_booted)


def _to(kind: type[E], room: Callable[[E, float], None]) -> tuple[type[Event], Room]:
    """Return a row of the table of rooms: this one takes events of this kind, and is asked for no others."""
    return cast("type[Event]", kind), cast("Room", room)
