"""The connections: call, read, write; nothing here knows what a message means.

Complications that shaped this:

 1. **Fairness.** One turn of the loop reads one piece from each connection that has something, and sends
    slices of routes for a few milliseconds. Piece and slice shrink where the work on them took long. A
    peer that floods us, or is flooded by us, delays nobody's keepalive.
 2. **Back-pressure out.** The RIB is asked for routes only while little is waiting to be sent, so a peer
    that stops reading costs one slice of bytes; its changes coalesce in the RIB meanwhile.
    One that takes nothing for long is told of, again and again (RFC 9687 is the session's).
 3. **Back-pressure in.** While the engine's queue is long nothing is read; TCP slows the peers down.
 4. **The last words.** A peer says NOTIFICATION, then closes; our next write then fails while that
    message still lies unread. So a failed write never ends a connection: the reader does, once it
    has read all there is. The other way round, closing with unread bytes would send a reset that
    destroys our NOTIFICATION on its way: we shut down the sending side and wait for the peer to close.

RFC 4271 §8.2.1. Who calls comes through `listeners`. What is set on a socket, and the words for what goes wrong with
one, are in `sockets`.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bgpmesh.events import (
    Command,
    Connected,
    ConnectFailed,
    Disconnected,
    Event,
    FlowsReceived,
    GarbageReceived,
    MessageReceived,
    OpenReceived,
    RoutesReceived,
    SendingStalled,
    StartRoutes,
)
from bgpmesh.peering.message import EndOfRib, Keepalive, Message, Negotiated, Notification, Open, RouteRefresh
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.ranges import PeerRange, Ranges
from bgpmesh.peering.session import Dial, Hangup, Send
from bgpmesh.rib.export import Batch, Told
from bgpmesh.route.path import PeerName
from bgpmesh.wire.codec import Codec, Decoded, Flows, Garbage
from bgpmesh.wire.fastpath import without_martians
from bgpmesh.wire.listeners import Listeners
from bgpmesh.wire.sockets import (
    SocketError,
    address_of,
    calling_socket,
    dropped_counters,
    suspicion,
    unheard,
    words,
)

CONNECT_S = 5.0  # a call that is not answered; the kernel repeats its SYN after 1 and 3 s
HANGUP_S = 1.0  # for what was sent to leave, and for the peer to close
UPKEEP_S = 1.0  # listeners that could not be bound are tried again
DROPPED_S = 3.0  # between looks at the counters of what is dropped: one look sees one or two tries of a caller
OPENED_S = 30.0  # whose OPEN was refused within this time is kept away by no signature and no TTL
STALL_S = 10.0  # until it is told that a socket takes nothing, and then each time again
BUSY_S = 0.002  # until we look again whether the engine has caught up

LEAST_READ, FIRST_READ, MOST_READ = 4096, 16384, 262144  # octets in one piece
LEAST_TAKE, FIRST_TAKE, MOST_TAKE = 64, 256, 4096  # prefixes in one slice
LONG_S = 0.010  # reading a piece or sending a slice should not take longer
WRITE_MARK = 131072  # octets waiting to be sent above which no routes are asked for

_KINDS: dict[type, str] = {
    Open: "open",
    Negotiated: "open",
    Keepalive: "keepalive",
    RouteRefresh: "route-refresh",
    EndOfRib: "update",
    Notification: "notification",
}


class CodecLike(Protocol):
    """What the speaker needs of a codec: one for each connection."""

    def encode(self, message: Message) -> bytes:
        """Return the message with its header."""

    def feed(self, data: bytes, now: float) -> list[Decoded]:
        """Return what the messages completed by `data` say."""

    def encode_batch(self, batch: Batch) -> list[bytes]:
        """Return the UPDATEs of a batch."""

    def configure(self, peer: Peer) -> None:
        """Go on with a peer that is configured otherwise under the same session."""


@dataclass(slots=True, eq=False)
class Connection:
    """One TCP connection with a peer; read by views, changed only by the speaker."""

    number: int
    peer: Peer
    is_inbound: bool
    sock: socket.socket = field(repr=False)
    codec: CodecLike = field(repr=False)
    wants_routes: bool = False  # the session is established
    waiting: int = 0  # octets that the kernel has not taken yet
    octets_in: int = 0
    octets_out: int = 0
    out: deque[memoryview] = field(default_factory=deque, repr=False)
    piece: int = FIRST_READ
    slice: int = FIRST_TAKE
    write_error: str = ""
    stalled_at: float = 0.0  # second at which the kernel last took something, while more waits
    closer: asyncio.TimerHandle | None = None  # while hanging up

    @property
    def has_room(self) -> bool:
        """Whether routes may be put on it: little is waiting, and what is sent still leaves."""
        return self.waiting < WRITE_MARK and not self.write_error and self.closer is None


@dataclass(slots=True, eq=False)
class _Call:
    """A connection attempt under way."""

    peer: Peer
    sock: socket.socket
    timer: asyncio.TimerHandle
    counters: Counter[str]  # of what is dropped, a moment before it began


class Speaker:
    """All BGP sockets of the node. Called from inside the running loop; reports from it, never re-entrantly.

    Read by views: `connections`, `messages` (by peer or range, direction in/out and type) and `problems` (what cannot
    be listened on, with the reason).
    """

    def __init__(
        self,
        report: Callable[[Event], None],
        take: Callable[[PeerName, int], Sequence[Told]],
        *,
        is_busy: Callable[[], bool] = lambda: False,
        codec: Callable[[Peer], CodecLike] = Codec,
    ) -> None:
        """`take(peer, limit)` gives the next routes for a peer; `is_busy` stops reading for a while."""
        self.connections: dict[int, Connection] = {}
        self.messages: Counter[tuple[PeerName, str, str]] = Counter()
        self._report = report
        self._take = take
        self._is_busy = is_busy
        self._codec = codec
        self._numbers = itertools.count(1)
        self._peers: dict[PeerName, Peer] = {}
        self._ranges = Ranges()
        self._listeners = Listeners(lambda sock, peer: self._adopt(sock, peer, is_inbound=True))
        self.problems = self._listeners.problems
        self._calls: dict[PeerName, _Call] = {}
        self._hanging_up: set[Connection] = set()
        self._fed: dict[PeerName, Connection] = {}  # established
        self._paused: set[Connection] = set()  # not read from while the engine is busy
        self._hungry: OrderedDict[int, Connection] = OrderedDict()  # to be asked for routes, in this order
        self._is_pulling = False
        self._opened: dict[PeerName, float] = {}  # second of the last OPEN that no session came of, for a while
        self._dropped: Counter[str] = Counter()
        self._stalled_next = 0.0  # second at which to look again who takes nothing
        self._dropped_next = 0.0  # second at which to look at the counters again

    # ── the door ─────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Keep the listeners up until cancelled; then close every socket."""
        self._dropped = dropped_counters()
        try:
            while True:
                self._upkeep()
                await asyncio.sleep(UPKEEP_S)
        finally:
            for call in list(self._calls.values()):
                self._end_call(call).close()
            for connection in [*self.connections.values(), *self._hanging_up]:
                self._close(connection)
            self._listeners.close()

    async def finish(self) -> None:
        """Wait until every `Hangup` is done, a second at most: for an orderly stop, before `run` is cancelled."""
        while self._hanging_up:  # noqa: ASYNC110  each has a timer of its own
            await asyncio.sleep(0.01)

    def configure(self, peers: tuple[Peer, ...], ranges: tuple[PeerRange, ...] = ()) -> None:
        """Listen for these peers and for who calls from these ranges, with MD5 keys, and for nobody else; idempotent.

        Call it after the engine's answer to the same change was executed. The engine has hung up what it no longer
        wants; a connection of a peer as it was that still stands is one that it has not heard of yet.
        """
        self._peers = {peer.name: peer for peer in peers}
        self._ranges = Ranges(ranges, (peer.address for peer in peers))
        self._listeners.configure(peers, self._ranges)
        for name, call in list(self._calls.items()):
            if name not in self._peers:
                self._end_call(call).close()
            elif self._peers[name] != call.peer:
                self._dial(name)  # again, the new way: somebody waits for the answer
        for connection in list(self.connections.values()):
            self._configure(connection)

    def _configure(self, connection: Connection) -> None:
        """Go on with a peer as it is now, or end what it is no longer."""
        name = connection.peer.name
        now = self._peers.get(name) or self._ranges.speaker(name)
        if now is None or not now.has_same_session(connection.peer):
            self._ended(connection, "the configuration changed")
        elif now != connection.peer:
            connection.peer = now
            connection.codec.configure(now)

    def accept(self) -> None:
        """Take in who calls. Until then callers wait with the kernel."""
        self._listeners.accept()

    def execute(self, command: Command) -> None:
        """Do what the engine says. What it says about a connection that is gone is ignored."""
        if isinstance(command, Dial):  # a peer that is new is configured behind this, in the same turn of the loop
            asyncio.get_running_loop().call_soon(self._dial, command.peer)
            return
        connection = self.connections.get(command.connection)
        if connection is None:
            return
        match command:
            case Send(message=message):
                self._write(connection, connection.codec.encode(message))
                self._count(connection, "out", _KINDS[type(message)], 1)
                if isinstance(message, Open):  # the peer's may be here already, and was waiting for ours
                    asyncio.get_running_loop().call_soon(self._feed, connection, b"")
            case StartRoutes():
                connection.wants_routes = True
                self._fed[connection.peer.name] = connection
                self._opened.pop(connection.peer.name, None)
                self._ask(connection)
            case Hangup():
                self._hang_up(connection)

    def kick(self, peers: Iterable[PeerName]) -> None:
        """Ask the RIB again for these peers, those that have a session."""
        for name in peers:
            if (connection := self._fed.get(name)) is not None:
                self._ask(connection)

    # ── calling ──────────────────────────────────────────────────────────────

    def _dial(self, name: PeerName) -> None:
        loop = asyncio.get_running_loop()
        peer = self._peers.get(name)
        if peer is None:
            loop.call_soon(self._report, ConnectFailed(name, "it is not configured"))
            return
        if name in self._calls:
            self._end_call(self._calls[name]).close()
        try:
            sock = calling_socket(peer)
        except SocketError as error:
            loop.call_soon(self._report, ConnectFailed(name, unheard(error, peer)))
            return
        call = _Call(peer, sock, loop.call_later(CONNECT_S, self._call_timed_out, name), self._dropped)
        self._calls[name] = call
        loop.add_writer(sock, self._call_answered, call)

    def _call_answered(self, call: _Call) -> None:
        code = call.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == errno.ETIMEDOUT:
            self._call_timed_out(call.peer.name)
        elif code:
            self._call_failed(call, unheard(OSError(code, ""), call.peer))
        else:
            self._adopt(self._end_call(call), call.peer, is_inbound=False)

    def _call_timed_out(self, name: PeerName) -> None:
        call = self._calls[name]
        suspected = suspicion(call.peer, self._dropped_now() - call.counters)
        self._call_failed(call, suspected or unheard(TimeoutError(errno.ETIMEDOUT, ""), call.peer))

    def _call_failed(self, call: _Call, reason: str) -> None:
        self._end_call(call).close()
        asyncio.get_running_loop().call_soon(self._report, ConnectFailed(call.peer.name, reason))

    def _end_call(self, call: _Call) -> socket.socket:
        """Forget a call and return its socket, no longer watched."""
        call.timer.cancel()
        asyncio.get_running_loop().remove_writer(call.sock)
        del self._calls[call.peer.name]
        return call.sock

    def _upkeep(self) -> None:
        """Open what could not be opened, and tell who takes nothing, and whom MD5 or GTSM may be keeping away."""
        self._listeners.open()
        now = asyncio.get_running_loop().time()
        if now >= self._stalled_next:
            self._stalled_next = now + STALL_S
            for connection in list(self.connections.values()):
                if connection.out and now - connection.stalled_at >= STALL_S:
                    self._report(SendingStalled(connection.number, connection.stalled_at))
        if now < self._dropped_next:
            return
        counters = self._dropped_now()
        rose, self._dropped, self._dropped_next = counters - self._dropped, counters, now + DROPPED_S
        self._opened = {name: at for name, at in self._opened.items() if now - at < OPENED_S}
        if not rose:
            return
        # A connection may stand and carry nothing: a SYN-ACK has TTL 255 where what follows has not. Who has said OPEN,
        # and was refused, has another trouble; the counters are those of somebody else then.
        there = self._fed.keys() | self._calls.keys() | self._opened.keys()
        missing = [peer for name, peer in self._peers.items() if name not in there]
        missing += [each.template for each in self._ranges.all]
        for peer in missing:
            if suspected := suspicion(peer, rose):
                self._report(ConnectFailed(peer.name, suspected))

    def _dropped_now(self) -> Counter[str]:
        """Return the counters of what is dropped; as they were while no file can be opened (EMFILE)."""
        try:
            return dropped_counters()
        except OSError:
            return self._dropped

    # ── connections ──────────────────────────────────────────────────────────

    def _adopt(self, sock: socket.socket, peer: Peer, *, is_inbound: bool) -> None:
        """Make a connection of a socket that stands, and report it."""
        try:
            local, remote = address_of(sock.getsockname()), address_of(sock.getpeername())
        except OSError as error:  # gone again already
            sock.close()
            if not is_inbound:
                self._report(ConnectFailed(peer.name, words(error)))
            return
        connection = Connection(next(self._numbers), peer, is_inbound, sock, self._codec(peer))
        self.connections[connection.number] = connection
        asyncio.get_running_loop().add_reader(sock, self._read, connection)
        self._report(Connected(connection.number, peer.name, local, remote, is_inbound))

    def _read(self, connection: Connection) -> None:
        """Read one piece and report what it says; a piece that took long makes the next one smaller."""
        loop = asyncio.get_running_loop()
        if self._is_busy() and connection.closer is None:
            loop.remove_reader(connection.sock)
            if not self._paused:
                loop.call_later(BUSY_S, self._read_again)
            self._paused.add(connection)
            return
        try:
            data = connection.sock.recv(connection.piece)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._ended(connection, words(error))
            return
        if not data:
            self._ended(connection, connection.write_error or "closed by peer")
            return
        connection.octets_in += len(data)
        started = loop.time()
        self._feed(connection, data)
        spent = loop.time() - started
        if spent > LONG_S or len(data) == connection.piece:
            connection.piece = min(max(_adapted(connection.piece, spent), LEAST_READ), MOST_READ)

    def _read_again(self) -> None:
        """Go on reading where we paused, once the engine has caught up."""
        loop = asyncio.get_running_loop()
        if self._is_busy() and self._paused:
            loop.call_later(BUSY_S, self._read_again)
            return
        for connection in self._paused:
            loop.add_reader(connection.sock, self._read, connection)
        self._paused.clear()

    def unread(self) -> set[int]:
        """Return the connections on which something came that is left unread for now."""
        return {connection.number for connection in self._paused}

    def _feed(self, connection: Connection, data: bytes) -> None:
        """Decode and report, until the connection is hung up."""
        number = connection.number
        if number not in self.connections:
            return
        updates = 0
        for decoded in connection.codec.feed(data, asyncio.get_running_loop().time()):
            match decoded:
                case Keepalive() | RouteRefresh() | EndOfRib() | Notification():
                    self._count(connection, "in", _KINDS[type(decoded)], 1)
                    self._report(MessageReceived(number, decoded))
                case Negotiated():
                    self._count(connection, "in", "open", 1)
                    self._opened[connection.peer.name] = asyncio.get_running_loop().time()
                    self._report(OpenReceived(number, decoded))
                case Garbage(notification, text):
                    self._report(GarbageReceived(number, notification, text))
                case Flows():
                    updates += 1
                    self._report(
                        FlowsReceived(
                            number,
                            decoded.attributes,
                            decoded.announced,
                            decoded.withdrawn,
                            decoded.treated_as_withdraw,
                            decoded.attributes_discarded,
                            decoded.problem,
                        )
                    )
                case routes:
                    updates += 1
                    without_martians(routes)
                    self._report(
                        RoutesReceived(
                            number,
                            routes.attributes,
                            routes.announced,
                            routes.withdrawn,
                            routes.read_at,
                            routes.treated_as_withdraw,
                            routes.attributes_discarded,
                            routes.problem,
                        )
                    )
            if number not in self.connections:
                break
        self._count(connection, "in", "update", updates)

    def _write(self, connection: Connection, data: bytes) -> None:
        """Send, or keep what the kernel does not take; never blocks."""
        if connection.write_error:
            return
        is_idle = not connection.out
        connection.out.append(memoryview(data))
        connection.waiting += len(data)
        if is_idle:
            self._flush(connection)
            if connection.out:
                connection.stalled_at = asyncio.get_running_loop().time()
                asyncio.get_running_loop().add_writer(connection.sock, self._writable, connection)

    def _writable(self, connection: Connection) -> None:
        self._flush(connection)
        connection.stalled_at = asyncio.get_running_loop().time()
        if not connection.out:
            asyncio.get_running_loop().remove_writer(connection.sock)
            if connection.closer is not None:
                self._say_goodbye(connection)
                return
        self._ask(connection)

    def _flush(self, connection: Connection) -> None:
        out = connection.out
        try:
            while out:
                sent = connection.sock.sendmsg(list(itertools.islice(out, 64)))
                connection.waiting -= sent
                connection.octets_out += sent
                while out and sent >= len(out[0]):
                    sent -= len(out.popleft())
                if sent:
                    out[0] = out[0][sent:]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            # Not the end yet: what the peer said before it went is still to be read (complication 4).
            connection.write_error = words(error)
            out.clear()
            connection.waiting = 0

    def _ended(self, connection: Connection, reason: str) -> None:
        """Report that a connection is over, unless we were hanging up anyway."""
        is_ours = connection in self._hanging_up
        self._close(connection)
        if not is_ours:
            self._report(Disconnected(connection.number, reason))

    def _hang_up(self, connection: Connection) -> None:
        del self.connections[connection.number]
        self._hanging_up.add(connection)
        loop = asyncio.get_running_loop()
        connection.closer = loop.call_later(HANGUP_S, self._close, connection)
        loop.add_reader(connection.sock, self._read, connection)  # also if reading had paused
        if not connection.out:
            self._say_goodbye(connection)

    def _say_goodbye(self, connection: Connection) -> None:
        """Tell the peer that nothing follows; the reader closes once it says the same."""
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        if connection.closer is not None:
            connection.closer.cancel()
        self.connections.pop(connection.number, None)
        self._hanging_up.discard(connection)
        self._paused.discard(connection)
        if self._fed.get(connection.peer.name) is connection:
            del self._fed[connection.peer.name]
        loop.remove_reader(connection.sock)
        loop.remove_writer(connection.sock)
        connection.sock.close()

    # ── routes ───────────────────────────────────────────────────────────────

    def _ask(self, connection: Connection) -> None:
        """Put a connection in line for routes, if it wants them and has room."""
        if connection.wants_routes and connection.has_room:
            self._hungry[connection.number] = connection
            if not self._is_pulling:
                self._is_pulling = True
                asyncio.get_running_loop().call_soon(self._pull)

    def _pull(self) -> None:
        """Give each connection in line a slice of routes, round after round, for `LONG_S` at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LONG_S
        while self._hungry and loop.time() < until:
            _, connection = self._hungry.popitem(last=False)
            if connection.number not in self.connections or not connection.has_room:
                continue
            started = loop.time()
            told: list[bytes] = []
            refreshes = 0
            for batch in self._take(connection.peer.name, connection.slice):
                if isinstance(batch, Batch):
                    told += connection.codec.encode_batch(batch)
                else:
                    told.append(connection.codec.encode(batch))
                    refreshes += isinstance(batch, RouteRefresh)
            if told:
                self._count(connection, "out", "update", len(told) - refreshes)
                self._count(connection, "out", "route-refresh", refreshes)
                self._write(connection, b"".join(told))
                self._hungry[connection.number] = connection
                spent = loop.time() - started
                connection.slice = min(max(_adapted(connection.slice, spent), LEAST_TAKE), MOST_TAKE)
        self._is_pulling = bool(self._hungry)
        if self._hungry:
            loop.call_soon(self._pull)

    def _count(self, connection: Connection, direction: str, kind: str, number: int) -> None:
        if number:
            peer = connection.peer
            self.messages[peer.of_range or peer.name, direction, kind] += number


def _adapted(size: int, spent: float) -> int:
    """Return how much to take on next time, after `size` took `spent` seconds."""
    return size // 2 if spent > LONG_S else size * 2 if spent < LONG_S / 4 else size
