"""The sockets against real ones on the loopback: every way a connection comes, stalls and goes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import pytest

from bgpmesh.events import (
    Connected,
    ConnectFailed,
    Disconnected,
    Event,
    GarbageReceived,
    MessageReceived,
    OpenReceived,
    RoutesReceived,
    SendingStalled,
    StartRoutes,
)
from bgpmesh.peering.message import Capabilities, Cease, EndOfRib, Keepalive, Notification, Open
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.session import Dial, Hangup, Send
from bgpmesh.rib.export import Batch
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.nlri import Family, IPAddress, Nlri
from bgpmesh.route.path import PeerName, Role
from bgpmesh.wire import speaker
from bgpmesh.wire.codec import Codec
from bgpmesh.wire.speaker import Speaker
from tests.waiting import until

NET = f"127.{os.getpid() % 254 + 1}.{os.getpid() // 254 % 256}"  # where no other process takes a port that is free
A, B = ipaddress.ip_address(f"{NET}.1"), ipaddress.ip_address(f"{NET}.2")
V6 = ipaddress.ip_address("::1")
NAME = PeerName("other")
OPEN = Open(Asn(65000), 9, RouterId(1), Capabilities((Family.IPV4, Family.IPV6)))
CEASE = Notification.cease(Cease.ADMIN_SHUTDOWN, "moving racks")
E = TypeVar("E")


def varied(peer: Peer, options: Mapping[str, object]) -> Peer:
    """Return the peer with some of its fields changed."""
    return replace(peer, **options)  # type: ignore[arg-type]  # fields of Peer


class Node:
    """A speaker that knows one peer, and what it reported."""

    def __init__(self, local: IPAddress, port: int, remote: IPAddress, remote_port: int, **options: object) -> None:
        self.peer = Peer(
            name=NAME,
            address=remote,
            asn=Asn(65000),
            role=Role.CLIENT,
            local_address=local,
            local_asn=Asn(65000),
            router_id=RouterId(port),
            port=remote_port,
            listen_port=port,
        )
        self.peer = varied(self.peer, options)
        self.events: list[Event] = []
        self.batches: list[Batch | EndOfRib] = []
        self.is_busy = False
        self.speaker = Speaker(self.events.append, self.take, is_busy=lambda: self.is_busy)

    def take(self, _peer: PeerName, _limit: int) -> list[Batch | EndOfRib]:
        """Give one batch at a time."""
        return [self.batches.pop(0)] if self.batches else []

    def seen(self, kind: type[E]) -> list[E]:
        """Return the events of a kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    async def first(self, kind: type[E]) -> E:
        """Wait for the first event of a kind."""
        await until(lambda: self.seen(kind), lambda: self.events)
        return self.seen(kind)[0]

    @property
    def connection(self) -> int:
        """The number of the newest connection."""
        return self.seen(Connected)[-1].connection


def free_port(address: IPAddress = A) -> int:
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6) as probe:
        probe.bind((str(address), 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(node.speaker.run()) for node in nodes]
    for node in nodes:
        node.speaker.configure((node.peer,))
        node.speaker.accept()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def pair(*, a: IPAddress = A, b: IPAddress = B, **options: object) -> tuple[Node, Node]:
    """Return two nodes that know each other."""
    port_a, port_b = free_port(a), free_port(b)
    return Node(a, port_a, b, port_b, **options), Node(b, port_b, a, port_a, **options)


def play(scenario: Coroutine[object, object, None]) -> None:
    asyncio.run(scenario)


async def until_full(connection: speaker.Connection) -> None:
    """Wait until the kernel takes no more of what waits: not at once, as it still finds room for a while."""
    taken, looks = -1, 0

    def is_full() -> bool:
        nonlocal taken, looks
        is_still = connection.octets_out == taken and connection.waiting >= speaker.WRITE_MARK
        taken, looks = connection.octets_out, looks + 1 if is_still else 0
        return looks >= 50

    await until(is_full, lambda: connection.waiting)


async def connect(caller: Node, called: Node) -> None:
    caller.speaker.execute(Dial(NAME))
    await caller.first(Connected)
    await called.first(Connected)


async def open_both(*nodes: Node) -> None:
    for node in nodes:
        node.speaker.execute(Send(node.connection, replace(OPEN, router_id=node.peer.router_id)))
    for node in nodes:
        await node.first(OpenReceived)


def routes(count: int, *, third: int = 0) -> Batch:
    nlris = [Nlri(bytes((32, 10, third, n >> 8, n & 255))) for n in range(count)]
    return Batch(Family.IPV4, PathAttributes(next_hop=A, local_pref=100), nlris)


class Raw:
    """A peer made of a bare socket, which listens on B."""

    def __init__(self) -> None:
        self.listener = socket.create_server((str(B), 0), backlog=1)
        self.node = Node(A, free_port(), B, self.listener.getsockname()[1])
        self.codec = Codec(replace(self.node.peer, router_id=RouterId(2)))

    async def accept(self) -> socket.socket:
        """Let the node call, and return our end."""
        self.node.speaker.execute(Dial(NAME))
        await self.node.first(Connected)
        self.listener.settimeout(60)
        accepted, _ = self.listener.accept()
        self.listener.close()
        accepted.setblocking(False)
        return accepted

    async def say_open(self, sock: socket.socket) -> None:
        """Exchange OPENs."""
        sock.sendall(self.codec.encode(replace(OPEN, router_id=RouterId(2))))
        self.node.speaker.execute(Send(1, OPEN))
        await self.node.first(OpenReceived)


# ── a configuration that changes ─────────────────────────────────────────────


def test_a_call_to_a_peer_that_is_about_to_be_configured() -> None:
    """A reload has the engine call a new peer before the speaker knows it: the call is made, not refused."""

    async def scenario() -> None:
        a, b = pair()
        async with running(b):
            task = asyncio.create_task(a.speaker.run())
            a.speaker.execute(Dial(NAME))
            a.speaker.configure((a.peer,))
            await until(lambda: a.events)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert [type(event) for event in a.events] == [Connected]

    play(scenario())


def test_a_connection_of_a_peer_as_it_was_ends() -> None:
    """It came while the configuration changed: the engine cannot know to hang it up, and its options are old."""

    async def scenario() -> None:
        a, b = pair()
        async with running(a, b):
            await connect(a, b)
            a.speaker.configure((replace(a.peer, hold_time=30),))
            assert (await a.first(Disconnected)).reason == "the configuration changed"
            await b.first(Disconnected)
            assert a.speaker.connections == {}

    play(scenario())


# ── a connection and its messages ────────────────────────────────────────────


@pytest.mark.parametrize(("a", "b"), [(A, B), (V6, V6)])
def test_a_conversation(a: IPAddress, b: IPAddress) -> None:
    """Call, OPENs, KEEPALIVE, routes and End-of-RIB arrive as events, and are counted."""

    async def scenario() -> None:
        one, two = pair(a=a, b=b)
        async with running(one, two):
            await connect(one, two)
            assert [Connected(1, NAME, a, b, is_inbound=False)] == one.events
            assert [Connected(1, NAME, b, a, is_inbound=True)] == two.events
            await open_both(one, two)
            negotiated = (await two.first(OpenReceived)).negotiated
            assert (one.peer.router_id, 9, None) == (
                negotiated.received.router_id,
                negotiated.hold_time,
                negotiated.refusal,
            )
            one.speaker.execute(Send(1, Keepalive()))
            assert MessageReceived(1, Keepalive()) == await two.first(MessageReceived)
            one.batches += [routes(1000), EndOfRib(Family.IPV4)]
            one.speaker.execute(StartRoutes(1, NAME))
            await until(lambda: MessageReceived(1, EndOfRib(Family.IPV4)) in two.events, lambda: two.events[:5])
            assert routes(1000).nlris == [nlri for event in two.seen(RoutesReceived) for nlri in event.announced]
            assert 1 == one.speaker.messages[NAME, "out", "open"] == two.speaker.messages[NAME, "in", "keepalive"]
            assert one.speaker.messages[NAME, "out", "update"] >= 2

    play(scenario())


def test_an_open_that_comes_before_ours_is_not_lost() -> None:
    """The peer may be quicker than we are: its OPEN waits for ours."""

    async def scenario() -> None:
        raw = Raw()
        async with running(raw.node):
            sock = await raw.accept()
            sock.sendall(raw.codec.encode(OPEN))
            await until(lambda: raw.node.speaker.connections[1].octets_in)
            raw.node.speaker.execute(Send(1, OPEN))
            assert (await raw.node.first(OpenReceived)).connection == 1
            sock.close()

    play(scenario())


def test_garbage_is_reported_with_its_notification() -> None:
    """Bytes that are no BGP end in GarbageReceived, and nothing raises."""

    async def scenario() -> None:
        raw = Raw()
        async with running(raw.node):
            sock = await raw.accept()
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n" * 4)
            assert Notification(1, 1) == (await raw.node.first(GarbageReceived)).notification
            sock.close()

    play(scenario())


# ── calls that fail ──────────────────────────────────────────────────────────


def test_refused() -> None:
    """Nobody listens there."""

    async def scenario() -> None:
        node = Node(A, free_port(), B, free_port(B))
        async with running(node):
            node.speaker.execute(Dial(NAME))
            failed = await node.first(ConnectFailed)
            assert failed == ConnectFailed(NAME, f"connection refused: nothing listens at {B} port {node.peer.port}")

    play(scenario())


def test_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that never answers."""
    monkeypatch.setattr(speaker, "CONNECT_S", 0.5)

    async def scenario() -> None:
        with full_queue() as full:
            node = Node(A, free_port(), B, full.getsockname()[1])
            async with running(node):
                node.speaker.execute(Dial(NAME))
                reason = f"timed out: {B} port {node.peer.port} is down, filtered, or asks for an MD5 password"
                assert ConnectFailed(NAME, reason) == await node.first(ConnectFailed)

    play(scenario())


def test_a_speaker_without_descriptors_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel drops cannot be looked up then: listeners are kept up, and a call that is not answered ends."""
    monkeypatch.setattr(speaker, "UPKEEP_S", 0.01)
    monkeypatch.setattr(speaker, "DROPPED_S", 0.01)
    monkeypatch.setattr(speaker, "CONNECT_S", 0.1)
    looked: list[float] = []

    def none_left() -> Counter[str]:
        looked.append(asyncio.get_running_loop().time())
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario() -> None:
        with full_queue() as full:
            node = Node(A, free_port(), B, full.getsockname()[1])
            async with running(node):
                await asyncio.sleep(0)
                monkeypatch.setattr(speaker, "dropped_counters", none_left)
                node.speaker.execute(Dial(NAME))
                assert (await node.first(ConnectFailed)).reason.startswith("timed out: ")
                since = len(looked)
                await until(lambda: len(looked) > since + 1)

    play(scenario())


@contextlib.contextmanager
def full_queue() -> Iterator[socket.socket]:
    """Listen on B and answer nobody: the queue of connections is full, so the kernel drops the SYN of who calls."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server((str(B), 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full


def test_the_local_address_is_missing() -> None:
    """A call from an address this host has not says so, and so does the listener."""

    async def scenario() -> None:
        node = Node(ipaddress.ip_address("192.0.2.1"), 1790, B, free_port(B))
        reason = "the local address 192.0.2.1 is not on this host"
        async with running(node):
            assert {"192.0.2.1:1790": f"cannot listen on 192.0.2.1:1790: {reason}"} == node.speaker.problems
            node.speaker.execute(Dial(NAME))
            assert ConnectFailed(NAME, reason) == await node.first(ConnectFailed)

    play(scenario())


def test_a_peer_that_is_not_configured() -> None:
    """A call to nobody is answered like any other failure."""

    async def scenario() -> None:
        node = Node(A, free_port(), B, free_port(B))
        async with running(node):
            node.speaker.execute(Dial(PeerName("gone")))
            assert ConnectFailed(PeerName("gone"), "it is not configured") == await node.first(ConnectFailed)

    play(scenario())


# ── who may be kept away ─────────────────────────────────────────────────────


@pytest.mark.parametrize("wrong", ["other", None])
def test_md5_mismatch_is_suspected_on_both_sides(monkeypatch: pytest.MonkeyPatch, wrong: str | None) -> None:
    """The kernel's counters tell the caller why its call timed out, and the called why nobody comes."""
    monkeypatch.setattr(speaker, "CONNECT_S", 1.5)

    async def scenario() -> None:
        one, two = pair(password="secret")  # noqa: S106
        called, caller = one, two
        caller.peer = replace(caller.peer, password=wrong)
        async with running(one, two):
            await asyncio.sleep(0)
            caller.speaker.execute(Dial(NAME))
            assert (await called.first(ConnectFailed)).reason.startswith("MD5 mismatch suspected: TCPMD5")
            expected = "MD5 mismatch suspected: TCPMD5Failure rose by" if wrong else "timed out: "
            assert (await caller.first(ConnectFailed)).reason.startswith(expected)

    play(scenario())


def test_who_has_said_open_is_not_suspected_for_what_others_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel counts for all: a peer whose AS was refused must not be told to mend its password."""
    monkeypatch.setattr(speaker, "UPKEEP_S", 0.01)
    monkeypatch.setattr(speaker, "DROPPED_S", 0.01)
    dropped = Counter({"TCPMD5Unexpected": 0})
    monkeypatch.setattr(speaker, "dropped_counters", dropped.copy)

    async def scenario() -> None:
        one, two = pair()
        third = replace(one.peer, name=PeerName("third"), address=ipaddress.ip_address(f"{NET}.9"))
        async with running(one, two):
            one.speaker.configure((one.peer, third))
            await connect(two, one)
            await open_both(one, two)
            one.speaker.execute(Hangup(one.connection))
            await until(lambda: not one.speaker.connections)
            dropped["TCPMD5Unexpected"] += 1
            await one.first(ConnectFailed)
            assert {event.peer for event in one.seen(ConnectFailed)} == {"third"}
            monkeypatch.setattr(speaker, "OPENED_S", 0.0)
            dropped["TCPMD5Unexpected"] += 1
            await until(lambda: NAME in {event.peer for event in one.seen(ConnectFailed)})

    play(scenario())


# ── the end ──────────────────────────────────────────────────────────────────


def test_hangup_lets_the_last_message_out() -> None:
    """NOTIFICATION then Hangup: the peer reads it and the end, though its bytes lay unread; no event."""

    async def scenario() -> None:
        raw = Raw()
        async with running(raw.node):
            sock = await raw.accept()
            await raw.say_open(sock)
            raw.node.is_busy = True  # nothing is read from here on: a plain close would reset
            sock.sendall(raw.codec.encode(Keepalive()) * 100)
            raw.node.speaker.execute(Send(1, CEASE))
            raw.node.speaker.execute(Hangup(1))
            told = await all_of(sock)
            assert raw.node.speaker.connections == {}
            assert CEASE in raw.codec.feed(told, 0)
            sock.close()
            await raw.node.speaker.finish()
            assert raw.node.seen(Disconnected) + raw.node.seen(MessageReceived) == []

    play(scenario())


async def all_of(sock: socket.socket) -> bytes:
    """Read to the end; a reset raises."""
    told = b""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while data := await loop.sock_recv(sock, 65536):
            told += data
    return told


def test_hangup_does_not_wait_for_a_peer_that_stopped_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is gone after its time, flushed or not."""
    monkeypatch.setattr(speaker, "HANGUP_S", 0.1)

    async def scenario() -> None:
        raw = Raw()
        async with running(raw.node):
            sock = await raw.accept()
            connection = raw.node.speaker.connections[1]
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for _ in range(20000):
                raw.node.speaker.execute(Send(1, CEASE))
            assert connection.waiting > 0
            raw.node.speaker.execute(Hangup(1))
            await until(lambda: connection.sock.fileno() < 0)
            sock.close()

    play(scenario())


def test_the_peer_closes_or_resets() -> None:
    """Two ends, two reasons."""

    async def scenario() -> None:
        for linger, reason in ((None, "closed by peer"), (struct.pack("ii", 1, 0), "connection reset by peer")):
            raw = Raw()
            async with running(raw.node):
                sock = await raw.accept()
                if linger is not None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                sock.close()
                assert Disconnected(1, reason) == await raw.node.first(Disconnected)
                raw.node.speaker.execute(Send(1, Keepalive()))  # too late, and ignored
                assert raw.node.speaker.connections == {}

    play(scenario())


def test_last_words_survive_our_own_failing_write() -> None:
    """The peer says NOTIFICATION and resets; our next write fails; its words still come, before the end."""

    async def scenario() -> None:
        raw = Raw()
        async with running(raw.node):
            sock = await raw.accept()
            await raw.say_open(sock)
            raw.node.is_busy = True  # we have not read yet
            sock.sendall(raw.codec.encode(CEASE))
            sock.close()  # with our OPEN unread: a reset
            for _ in range(3):
                raw.node.speaker.execute(Send(1, Keepalive()))
            raw.node.is_busy = False
            await raw.node.first(Disconnected)
            assert [MessageReceived(1, CEASE)] == raw.node.seen(MessageReceived)
            assert raw.node.events.index(MessageReceived(1, CEASE)) < len(raw.node.events) - 1

    play(scenario())


# ── back-pressure ────────────────────────────────────────────────────────────


def test_a_peer_that_stops_reading_costs_one_slice() -> None:
    """Routes stay in the RIB while the socket is full, however often we are kicked; all come once it reads."""

    async def scenario() -> None:
        raw = Raw()
        async with running(raw.node):
            sock = await raw.accept()
            await raw.say_open(sock)
            node = raw.node
            node.batches = [routes(1000, third=n % 256) for n in range(4000)]
            node.speaker.execute(StartRoutes(1, NAME))
            connection = node.speaker.connections[1]
            await until_full(connection)
            left = len(node.batches)
            assert left > 0
            for _ in range(50):
                node.speaker.kick((NAME,))
                await asyncio.sleep(0)
            assert left == len(node.batches)
            assert connection.waiting < speaker.WRITE_MARK + 65536
            loop = asyncio.get_running_loop()
            while node.batches or connection.waiting:
                assert await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 60)
            sock.close()

    play(scenario())


def test_a_peer_that_takes_nothing_is_told_of_until_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported again and again, with the second since when; one that takes a little begins anew."""
    monkeypatch.setattr(speaker, "STALL_S", 0.05)
    monkeypatch.setattr(speaker, "UPKEEP_S", 0.05)

    async def scenario() -> None:
        raw = Raw()
        async with running(raw.node):
            sock = await raw.accept()
            await raw.say_open(sock)
            node, loop = raw.node, asyncio.get_running_loop()
            began = loop.time()
            node.batches = [routes(1000, third=n % 256) for n in range(4000)]
            node.speaker.execute(StartRoutes(1, NAME))
            await until_full(node.speaker.connections[1])
            told = len(node.seen(SendingStalled))
            await until(lambda: len(node.seen(SendingStalled)) >= told + 2)
            first, again = node.seen(SendingStalled)[-2:]
            assert first == again
            assert began < first.since < loop.time()
            while node.batches or node.speaker.connections[1].waiting:
                assert await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 60)
            assert node.speaker.connections[1].stalled_at > first.since
            told = len(node.seen(SendingStalled))
            await asyncio.sleep(0.2)  # a while in which nothing waits: nothing is told
            assert told == len(node.seen(SendingStalled))
            sock.close()

    play(scenario())


def test_nothing_is_read_while_the_engine_is_busy() -> None:
    """Messages wait in the kernel until the engine has caught up."""

    async def scenario() -> None:
        one, two = pair()
        async with running(one, two):
            await connect(one, two)
            await open_both(one, two)
            two.is_busy = True
            one.speaker.execute(Send(1, Keepalive()))
            for _ in range(50):
                await asyncio.sleep(0)
            assert two.seen(MessageReceived) == []
            two.is_busy = False
            assert MessageReceived(1, Keepalive()) == await two.first(MessageReceived)

    play(scenario())


def test_pieces_shrink_while_decoding_is_slow_and_grow_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that takes long to decode makes the next one smaller, down to a floor."""
    monkeypatch.setattr(speaker, "LONG_S", 0.0)

    async def scenario() -> None:
        one, two = pair()
        async with running(one, two):
            await connect(one, two)
            await open_both(one, two)
            for _ in range(10):
                before = two.speaker.connections[1].octets_in
                one.speaker.execute(Send(1, Keepalive()))
                await until(lambda before=before: two.speaker.connections[1].octets_in > before)  # type: ignore[misc]
            assert two.speaker.connections[1].piece == speaker.LEAST_READ

    play(scenario())
