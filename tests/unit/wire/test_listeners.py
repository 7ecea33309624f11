"""Who gets in where, with which key and from how far away."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import replace

import pytest

from bgpmesh.events import Connected, ConnectFailed, Disconnected, OpenReceived
from bgpmesh.peering.ranges import PeerRange
from bgpmesh.peering.session import Dial, Send
from bgpmesh.route.attributes import RouterId
from bgpmesh.route.nlri import IPAddress
from bgpmesh.route.path import PeerName
from bgpmesh.wire import speaker
from tests.unit.wire.test_speaker import (
    NAME,
    NET,
    OPEN,
    V6,
    A,
    B,
    Node,
    connect,
    free_port,
    pair,
    play,
    running,
)
from tests.waiting import until


def test_a_peer_from_afar_is_heard_where_only_neighbours_were() -> None:
    """The listener's GTSM follows the peers that it is for (RFC 5082 §3)."""
    far = ipaddress.ip_address(f"{NET}.3")

    async def scenario() -> None:
        near, other = pair(ttl_security=1)
        async with running(near, other):
            newcomer = replace(near.peer, name=PeerName("far"), address=far, ttl_security=0)
            near.speaker.configure((near.peer, newcomer))
            with socket.socket() as caller:
                caller.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 64)
                caller.bind((str(far), 0))
                caller.setblocking(False)
                called = (str(A), near.peer.listen_port)
                await asyncio.wait_for(asyncio.get_running_loop().sock_connect(caller, called), 60)
                await near.first(Connected)

    play(scenario())


def test_only_the_configured_address_listens() -> None:
    """Another address of the same host refuses; a listener whose last peer goes is closed."""

    async def scenario() -> None:
        node = Node(A, free_port(), B, 1)
        async with running(node):
            assert accepts(A, node.peer.listen_port)
            assert not accepts(ipaddress.ip_address(f"{NET}.3"), node.peer.listen_port)
            node.speaker.configure(())
            assert not accepts(A, node.peer.listen_port)

    play(scenario())


def test_who_calls_before_anybody_is_taken_in_is_not_refused() -> None:
    """A node that starts listens at once, and hears its callers when it is ready."""

    async def scenario() -> None:
        late, early = pair()
        tasks = [asyncio.create_task(node.speaker.run()) for node in (late, early)]
        try:
            late.speaker.configure((late.peer,))
            early.speaker.configure((early.peer,))
            early.speaker.execute(Dial(early.peer.name))
            assert not (await early.first(Connected)).is_inbound
            assert late.events == []
            late.speaker.accept()
            assert (await late.first(Connected)).is_inbound
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    play(scenario())


def accepts(address: IPAddress, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((str(address), port)) == 0


def test_strangers_are_closed_at_once() -> None:
    """A connection from an address that is no peer's is closed and not reported."""

    async def scenario() -> None:
        node = Node(A, free_port(), B, 1)
        async with running(node):
            reader, writer = await asyncio.open_connection(str(A), node.peer.listen_port, local_addr=(f"{NET}.3", 0))
            assert await asyncio.wait_for(reader.read(), 60) == b""
            assert node.events == []
            writer.close()

    play(scenario())


def test_a_listener_that_cannot_be_bound_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has the port: a problem by name, gone once the port is free."""
    monkeypatch.setattr(speaker, "UPKEEP_S", 0.02)

    async def scenario() -> None:
        with socket.create_server((str(A), 0)) as squatter:
            node = Node(A, squatter.getsockname()[1], B, 1)
            place = f"{A}:{node.peer.listen_port}"
            async with running(node):
                problem = f"cannot listen on {place}: address already in use: by another BGP speaker of this host?"
                assert {place: problem} == node.speaker.problems
                squatter.close()
                await until(lambda: not node.speaker.problems)
                assert accepts(A, node.peer.listen_port)

    play(scenario())


RANGES = [(A, B, f"{NET}.0/30"), (V6, V6, "::/64")]


def caller_and_range(a: IPAddress, b: IPAddress, network: str, ours: str, theirs: str) -> tuple[Node, Node, PeerRange]:
    """Return one that listens for a range, one that calls from there, and the range, with their passwords."""
    called, caller = pair(a=a, b=b)
    caller.peer = replace(caller.peer, password=theirs)
    around = ipaddress.ip_network(network)
    template = replace(called.peer, name=PeerName("some"), address=around.network_address, password=ours)
    return called, caller, PeerRange(around, 8, template)


@pytest.mark.parametrize(("a", "b", "network"), RANGES, ids=["ipv4", "ipv6"])
def test_who_calls_from_a_range_with_its_password_is_a_speaker_of_it(a: IPAddress, b: IPAddress, network: str) -> None:
    """The kernel takes one key for all of it; the connection is of NAME@ADDRESS, its messages count as the range's."""

    async def scenario() -> None:
        called, caller, around = caller_and_range(a, b, network, "secret", "secret")
        async with running(called, caller):
            called.speaker.configure((), (around,))
            await connect(caller, called)
            assert called.seen(Connected)[0].peer == f"some@{b}"
            caller.speaker.execute(Send(caller.connection, replace(OPEN, router_id=RouterId(2))))
            called.speaker.execute(Send(called.connection, OPEN))
            await called.first(OpenReceived)
            assert called.speaker.messages["some", "in", "open"] == 1  # type: ignore[index]
            called.speaker.configure((), (around,))
            assert called.seen(Disconnected) == []
            called.speaker.configure((), (replace(around, template=replace(around.template, hold_time=30)),))
            await called.first(Disconnected)

    play(scenario())


@pytest.mark.parametrize(("a", "b", "network"), RANGES, ids=["ipv4", "ipv6"])
def test_a_wrong_password_from_a_range_is_suspected(
    monkeypatch: pytest.MonkeyPatch, a: IPAddress, b: IPAddress, network: str
) -> None:
    """Nobody is let in, and the range is told of; a key that changes holds from the next call on."""
    monkeypatch.setattr(speaker, "CONNECT_S", 1.5)

    async def scenario() -> None:
        called, caller, around = caller_and_range(a, b, network, "secret", "other")
        async with running(called, caller):
            called.speaker.configure((), (around,))
            await asyncio.sleep(0)
            caller.speaker.execute(Dial(NAME))
            told = await called.first(ConnectFailed)
            assert (told.peer, told.reason[:31]) == ("some", "MD5 mismatch suspected: TCPMD5F")
            await caller.first(ConnectFailed)
            assert called.seen(Connected) == []
            called.speaker.configure((), (replace(around, template=replace(around.template, password="other")),))  # noqa: S106
            await connect(caller, called)

    play(scenario())


def test_the_key_of_a_peer_within_a_range_is_its_own() -> None:
    """Of two keys that fit the kernel takes that of the longer prefix, and who has it is that peer."""

    async def scenario() -> None:
        called, caller, around = caller_and_range(A, B, f"{NET}.0/30", "of the range", "of the peer")
        named = replace(called.peer, password="of the peer")  # noqa: S106
        async with running(called, caller):
            called.speaker.configure((named,), (around,))
            await connect(caller, called)
            assert called.seen(Connected)[0].peer == NAME

    play(scenario())


def test_a_key_of_a_range_goes_with_it() -> None:
    """Once the password is taken out of the range, an unsigned call gets through."""

    async def scenario() -> None:
        called, caller, around = caller_and_range(A, B, f"{NET}.0/30", "secret", "")
        async with running(called, caller):
            called.speaker.configure((), (around,))
            called.speaker.configure((), (replace(around, template=replace(around.template, password=None)),))
            await connect(caller, called)

    play(scenario())


def test_a_key_goes_with_its_peer() -> None:
    """Once the password is taken out of the configuration, an unsigned call gets through."""

    async def scenario() -> None:
        one, two = pair()
        signed = replace(two.peer, password="secret")  # noqa: S106
        async with running(one, two):
            two.speaker.configure((signed,))
            two.speaker.configure((two.peer,))
            await connect(one, two)

    play(scenario())


def test_gtsm_keeps_out_who_calls_from_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller whose packets arrive with 64 does not even get its handshake through (RFC 5082 §3)."""
    monkeypatch.setattr(speaker, "CONNECT_S", 1.0)

    async def scenario() -> None:
        one, two = pair()
        two.peer = replace(two.peer, ttl_security=1)
        async with running(one, two):
            one.speaker.execute(Dial(NAME))
            assert (await one.first(ConnectFailed)).reason.startswith("timed out: ")
            assert {} == two.speaker.connections

    play(scenario())
