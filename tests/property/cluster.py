"""A cluster of Engines in memory: real sessions, RIBs and wire bytes; no socket, no kernel, no clock.

Time is a number that the cluster moves. Between two events anything that may happen next is drawn
by a seeded generator, so every run is one interleaving, and the same seed is the same run.
"""

from __future__ import annotations

import ipaddress
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from bgpmesh.engine import Engine
from bgpmesh.events import (
    ChainsRead,
    ChainsWritten,
    Command,
    Configured,
    Connected,
    ConnectFailed,
    Disconnected,
    EndpointAdded,
    EndpointRemoved,
    Event,
    FibRead,
    FibWritten,
    GarbageReceived,
    HostRoutesChanged,
    LinksRead,
    LinkWritten,
    MessageReceived,
    NextHopsWritten,
    ObjectsChanged,
    OpenReceived,
    RoutesReceived,
    SetsWritten,
    StartRoutes,
    Stopping,
    TimerFired,
)
from bgpmesh.peering.connection import State
from bgpmesh.peering.message import Negotiated
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.ranges import Ranges
from bgpmesh.peering.session import Dial, Hangup, Send
from bgpmesh.policy.chains import AddressSet, ChainKey, Rules
from bgpmesh.policy.objects import Key, Value
from bgpmesh.rib.export import Batch, Told
from bgpmesh.route.nlri import IPAddress, Nlri, nlri_of, prefix_text
from bgpmesh.route.path import HostRoute, HostRouteKind, PeerName, Resolution, Target
from bgpmesh.wire.codec import Codec, Garbage
from bgpmesh.wire.fastpath import Routes
from bgpmesh.workload.endpoint import Endpoint, LinkSpec
from tests.flat import pairs

K = TypeVar("K")
V = TypeVar("V")

MakeEngine = Callable[[Configured, Iterable[PeerName] | None, Callable[[], float]], Engine]

SUBNETS = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/64"))


@dataclass(eq=False)
class End:
    """One end of a connection: whose it is, its codec, and the bytes on their way to it."""

    node: Node
    peer: PeerName
    connection: int
    codec: Codec
    inbox: deque[bytes] = field(default_factory=deque)
    other: End | None = None
    is_started: bool = False
    is_open: bool = True


@dataclass(eq=False)
class Kernel:
    """What a kernel keeps when the daemon dies."""

    routes: dict[Nlri, Target] = field(default_factory=dict)
    next_hops: dict[IPAddress, Resolution] = field(default_factory=dict)
    writes: int = 0  # routes written or deleted, ever
    links: dict[str, LinkSpec] = field(default_factory=dict)
    chains: dict[ChainKey, Rules] = field(default_factory=dict)
    sets: dict[str, AddressSet] = field(default_factory=dict)
    set_writes: list[tuple[str, AddressSet | None, AddressSet | None]] = field(default_factory=list)  # before, after


@dataclass(eq=False)
class Node:
    """One node: its engine while it runs, its kernel and its list of held peers always."""

    name: str
    configured: Configured
    kernel: Kernel = field(default_factory=Kernel)
    listed: frozenset[PeerName] = frozenset()
    engine: Engine | None = None
    ends: dict[int, End] = field(default_factory=dict)
    heard: list[tuple[PeerName, str]] = field(default_factory=list)
    hungry: set[PeerName] = field(default_factory=set)  # for whom there may be routes
    endpoints: dict[str, Endpoint] = field(default_factory=dict)  # on disk
    objects: dict[Key, Value] = field(default_factory=dict)  # the same

    def routes(self) -> dict[str, Target]:
        """Return the kernel's routes, readable."""
        return {prefix_text(nlri): target for nlri, target in sorted(self.kernel.routes.items())}


class Cluster:
    """Nodes joined by in-memory connections, driven in a seeded random order."""

    def __init__(self, configurations: list[Configured], seed: int, make_engine: MakeEngine = Engine) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.nodes = {configured.node: Node(configured.node, configured) for configured in configurations}
        self.cut: set[frozenset[str]] = set()  # pairs of nodes that cannot reach each other
        self._connections = 0
        self._make_engine = make_engine

    # ── what a test does ─────────────────────────────────────────────────────

    def start(self, name: str) -> None:
        """Start a node's daemon on whatever its kernel and its list hold."""
        node = self.nodes[name]
        node.engine = self._make_engine(node.configured, node.listed, self.random.random)
        if node.objects:
            self._tell(node, ObjectsChanged(dict(node.objects)))
        for endpoint in node.endpoints.values():
            self._tell(node, EndpointAdded(endpoint))
        self._tell(node, LinksRead(dict(node.kernel.links)))
        self._tell(node, ChainsRead(dict(node.kernel.chains), dict(node.kernel.sets)))
        if node.endpoints:
            self._turn(node)
        host = [HostRoute(nlri_of(subnet), 2, None, 0, HostRouteKind.CONNECTED, 2, 254) for subnet in SUBNETS]
        self._tell(node, HostRoutesChanged(host, ()))
        self._tell(node, FibRead(dict(node.kernel.routes), dict(node.kernel.next_hops)))

    def kill(self, name: str) -> None:
        """Kill a daemon: its sockets close, its kernel goes on."""
        node = self.nodes[name]
        node.engine = None
        for end in list(node.ends.values()):
            self._close(end)

    def stop(self, name: str) -> None:
        """Stop a daemon in order."""
        self._tell(self.nodes[name], Stopping())
        self._turn(self.nodes[name])
        self.kill(name)

    def reconfigure(self, name: str, configured: Configured) -> None:
        """Reload a node."""
        node = self.nodes[name]
        before, node.configured = node.configured, configured
        for end in node.ends.values():
            was, now = _peer(before, end.peer), _peer(configured, end.peer)
            if was is not None and now is not None and now.has_same_session(was):
                end.codec.configure(now)
        self._tell(node, configured)

    def become(self, name: str, configured: Configured | None) -> None:
        """Have a node run with this configuration: it starts, is reloaded, or (None) stops for good."""
        if configured is None:
            if self.nodes[name].engine is not None:
                self.stop(name)
            del self.nodes[name]
        elif name in self.nodes:
            self.reconfigure(name, configured)
        else:
            self.nodes[name] = Node(name, configured)
            self.start(name)

    def attach(self, name: str, endpoint: Endpoint) -> None:
        """Have a workload on a node, or the same with other labels."""
        self.nodes[name].endpoints[endpoint.key] = endpoint
        self._tell_if_up(name, EndpointAdded(endpoint))

    def detach(self, name: str, key: str) -> None:
        """Have a workload no longer."""
        del self.nodes[name].endpoints[key]
        self._tell_if_up(name, EndpointRemoved(key))

    def apply(self, name: str, objects: dict[Key, Value]) -> None:
        """Have these objects of packet policy in force on a node, and no other."""
        self.nodes[name].objects = objects
        self._tell_if_up(name, ObjectsChanged(dict(objects)))

    def _tell_if_up(self, name: str, event: Event) -> None:
        if self.nodes[name].engine is not None:
            self._tell(self.nodes[name], event)

    def sever(self, one: str, other: str) -> None:
        """Let nothing get through between two nodes: what was on its way is lost, and neither hears of it."""
        self.cut.add(frozenset((one, other)))
        for node, peer in ((one, other), (other, one)):
            for end in self.nodes[node].ends.values():
                if end.peer == peer:
                    end.inbox.clear()
                    end.other = None

    def settle(self, seconds: float = 20.0) -> None:
        """Let everything happen that will within so many seconds, in a random order."""
        end_at = self.now + seconds
        while True:
            if self._step():
                continue
            wakeups = [n.engine.next_wakeup() for n in self.nodes.values() if n.engine is not None]
            self.now = max(self.now, min([*wakeups, end_at]))
            if self.now >= end_at:
                return
            for node in self.nodes.values():
                if node.engine is not None and node.engine.next_wakeup() <= self.now:
                    self._tell(node, TimerFired())

    def is_established(self, name: str, peer: str) -> bool:
        """Tell whether `name` has a session with `peer`."""
        engine = self.nodes[name].engine
        return engine is not None and engine.peers.sessions[PeerName(peer)].state is State.ESTABLISHED

    # ── how it happens ───────────────────────────────────────────────────────

    def _tell(self, node: Node, event: Event) -> None:
        assert node.engine is not None
        node.engine.handle(event, self.now)

    def _step(self) -> bool:
        """Do one thing that can be done now; False if nothing can."""
        choices = [node for node in self.nodes.values() if node.engine is not None]
        self.random.shuffle(choices)
        return any(self._turn(node) or self._deliver(node) for node in choices)

    def _turn(self, node: Node) -> bool:
        engine = node.engine
        assert engine is not None
        worked = engine.work(self.random.choice((1, 3, 1000)), self.now)
        node.listed = engine.peers.held
        while engine.peers.commands:
            worked = True
            self._execute(node, engine.peers.commands.popleft())
        node.hungry |= engine.rib.stirred()
        for end in list(node.ends.values()):
            if end.is_started and end.is_open and end.peer in node.hungry and self.random.random() < 0.8:
                taken = engine.take(end.peer, self.random.choice((1, 100)))
                if not taken:
                    node.hungry.discard(end.peer)  # until it is stirred
                for item in taken:
                    worked = True
                    self._emit(end, item)
        return self._program(node) or worked

    def _program(self, node: Node) -> bool:
        engine = node.engine
        assert engine is not None
        hops = pairs(engine.rib.next_hops.take(100, self.now))
        for address, resolution in hops:
            _put(node.kernel.next_hops, address, resolution)
        routes = pairs(engine.rib.fib.take(self.random.choice((1, 100)), self.now))
        for nlri, target in routes:
            _put(node.kernel.routes, nlri, target)
            node.kernel.writes += 1
        if hops:
            self._tell(node, NextHopsWritten([address for address, _ in hops], {}))
        if routes:
            self._tell(node, FibWritten([nlri for nlri, _ in routes], {}))
        return self._protect(node) or bool(hops or routes)

    def _protect(self, node: Node) -> bool:
        engine, kernel = node.engine, node.kernel
        assert engine is not None
        if self.random.random() < 0.3:
            return len(engine.packets.sets) + len(engine.packets.chains) + len(engine.local.links) > 0  # it is busy
        sets = pairs(engine.packets.sets.take(self.random.choice((1, 100)), self.now))
        for name, wanted in sets:
            kernel.set_writes.append((name, kernel.sets.get(name), wanted))
            _put(kernel.sets, name, wanted)
        chains = pairs(engine.packets.chains.take(100, self.now))
        for key, rules in chains:
            _put(kernel.chains, key, rules)
        links = pairs(engine.local.links.take(self.random.choice((1, 100)), self.now))
        for interface, link in links:
            _put(kernel.links, interface, link)
        if sets:
            self._tell(node, SetsWritten([name for name, _ in sets], {}))
        if chains:
            self._tell(node, ChainsWritten([key for key, _ in chains], {}))
        for interface, _ in links:
            self._tell(node, LinkWritten(interface))
        return bool(sets or chains or links)

    def _execute(self, node: Node, command: Command) -> None:
        match command:
            case Dial(peer):
                self._dial(node, peer)
            case Send(connection, message):
                if (end := node.ends.get(connection)) is not None:
                    self._put_bytes(end, end.codec.encode(message))
            case StartRoutes(connection, _):
                node.ends[connection].is_started = True
                node.hungry.add(node.ends[connection].peer)
            case Hangup(connection):
                if (end := node.ends.get(connection)) is not None:
                    self._close(end)

    def _dial(self, node: Node, name: PeerName) -> None:
        other = self.nodes.get(str(name))
        mine = next((peer for peer in node.configured.peers if peer.name == name), None)
        if other is None or mine is None:
            self._tell(node, ConnectFailed(name, "nobody is there"))
            return
        theirs = next((peer for peer in other.configured.peers if peer.name == node.name), None)
        if theirs is None and mine.local_address is not None:
            ranges = Ranges(other.configured.ranges, (peer.address for peer in other.configured.peers))
            around = ranges.around(mine.local_address)
            theirs = None if around is None else around.speaker(mine.local_address)
        if other.engine is None or theirs is None or frozenset((node.name, other.name)) in self.cut:
            self._tell(node, ConnectFailed(name, "refused"))
            return
        self._connections += 2
        here = End(node, name, self._connections, Codec(mine))
        there = End(other, theirs.name, self._connections + 1, Codec(theirs))
        here.other, there.other = there, here
        for end, local, remote, is_inbound in (
            (here, theirs.address, mine.address, False),
            (there, mine.address, theirs.address, True),
        ):
            end.node.ends[end.connection] = end
            self._tell(end.node, Connected(end.connection, end.peer, local, remote, is_inbound))

    def _emit(self, end: End, item: Told) -> None:
        if not isinstance(item, Batch):
            self._put_bytes(end, end.codec.encode(item))
            return
        for message in end.codec.encode_batch(item):
            self._put_bytes(end, message)

    def _put_bytes(self, end: End, data: bytes) -> None:
        if end.other is not None and end.other.is_open:
            end.other.inbox.append(data)

    def _close(self, end: End) -> None:
        end.is_open = False
        end.node.ends.pop(end.connection, None)
        other = end.other
        if other is not None and other.is_open:
            other.inbox.append(b"")  # the end of the stream, behind what was sent

    def _deliver(self, node: Node) -> bool:
        waiting = [end for end in node.ends.values() if end.inbox]
        if not waiting:
            return False
        end = self.random.choice(waiting)
        data = end.inbox.popleft()
        if not data:
            end.is_open = False
            node.ends.pop(end.connection, None)
            self._tell(node, Disconnected(end.connection, "closed by peer"))
            return True
        for decoded in end.codec.feed(data, self.now):
            self._tell(node, self._event(end, decoded))
        return True

    def _event(self, end: End, decoded: object) -> Event:
        match decoded:
            case Negotiated():
                return OpenReceived(end.connection, decoded)
            case Routes():
                end.node.heard += [(end.peer, prefix_text(nlri)) for nlri in decoded.announced]
                return RoutesReceived(
                    end.connection, decoded.attributes, decoded.announced, decoded.withdrawn, self.now
                )
            case Garbage(notification, text):
                return GarbageReceived(end.connection, notification, text)
            case _:
                return MessageReceived(end.connection, decoded)  # type: ignore[arg-type]


def _peer(configured: Configured, name: PeerName) -> Peer | None:
    """Return a peer of a node, or the speaker of a range of its, None where there is none of this name."""
    named = next((peer for peer in configured.peers if peer.name == name), None)
    return named or Ranges(configured.ranges, (peer.address for peer in configured.peers)).speaker(name)


def _put(table: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
