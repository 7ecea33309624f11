"""What is set on sockets, on both ends alike, and what the kernel says it dropped."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bgpmesh.events import OpenReceived
from bgpmesh.peering.session import Send
from bgpmesh.route.attributes import RouterId
from bgpmesh.route.nlri import IPAddress, IPNetwork
from bgpmesh.route.path import Role
from bgpmesh.wire import sockets
from tests.unit.wire.test_speaker import (
    OPEN,
    V6,
    A,
    B,
    Node,
    connect,
    open_both,
    pair,
    play,
    running,
    varied,
)


@pytest.mark.parametrize(("a", "b"), [(A, B), (V6, V6)])
def test_md5_with_the_same_password(a: IPAddress, b: IPAddress) -> None:
    """Both sides sign, both accept; also a password that looks like base64."""

    async def scenario() -> None:
        one, two = pair(a=a, b=b, password="deadbeef")  # noqa: S106
        async with running(one, two):
            await connect(one, two)
            await open_both(one, two)

    play(scenario())


def test_gtsm_lets_the_neighbour_in() -> None:
    """Both send with TTL 255 and take nothing less."""

    async def scenario() -> None:
        one, two = pair(ttl_security=1)
        async with running(one, two):
            await connect(one, two)
            await open_both(one, two)

    play(scenario())


def test_gtsm_does_not_hear_who_is_called_too_far() -> None:
    """A called peer whose packets arrive with 64 is not heard: it gets no OPEN through."""

    async def scenario() -> None:
        one, two = pair()
        two.peer = replace(two.peer, ttl_security=1)
        async with running(one, two):
            await connect(two, one)
            one.speaker.execute(Send(1, OPEN))
            two.speaker.execute(Send(1, replace(OPEN, router_id=RouterId(2))))
            await one.first(OpenReceived)  # this direction has 255
            assert two.speaker.connections[1].octets_in == 0

    play(scenario())


@pytest.mark.parametrize(
    ("options", "ttl", "least"),
    [
        ({"role": Role.EXTERNAL}, 1, 0),
        ({"role": Role.EXTERNAL, "multihop": 4}, 4, 0),
        ({"ttl_security": 3}, 255, 253),
        ({}, 64, 0),
    ],
)
def test_ttl(options: dict[str, Role | int], ttl: int, least: int) -> None:
    """Single-hop eBGP sends 1, multihop its number, GTSM 255; iBGP the default: both ways of connecting alike."""

    async def scenario() -> None:
        one, two = pair()
        one.peer, two.peer = varied(one.peer, options), varied(two.peer, options)
        async with running(one, two):
            await connect(one, two)
            for node in (one, two):
                sock = node.speaker.connections[1].sock
                assert ttl == sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
                assert least == sock.getsockopt(socket.IPPROTO_IP, 21)  # IP_MINTTL

    play(scenario())


def test_the_counters_are_read_from_the_kernel() -> None:
    """All four are there on a kernel with TCP MD5."""
    assert set(sockets.COUNTERS) == set(sockets.dropped_counters())


@pytest.mark.parametrize(
    ("options", "counter", "expected"),
    [
        ({"password": "x"}, "TCPMD5Failure", "MD5 mismatch suspected: .* by 3: the peer signs with another password"),
        ({"password": "x"}, "TCPMD5NotFound", "MD5 mismatch suspected: .* by 3: the peer does not sign"),
        ({}, "TCPMD5Unexpected", "MD5 mismatch suspected: .* by 3: the peer signs, and no password is configured here"),
        ({"ttl_security": 2}, "TCPMinTTLDrop", "TTL security mismatch suspected: .* by 3: .* more than 2 hops away"),
        ({}, "TCPMD5Failure", ""),
        ({}, "TCPMinTTLDrop", ""),
        ({"password": "x"}, "TCPMD5Unexpected", ""),
    ],
)
def test_what_the_kernel_drops_is_put_down_to_a_peer_that_it_fits(
    options: dict[str, object], counter: str, expected: str
) -> None:
    """Each counter says something of peers with, or without, a password or TTL security only."""
    peer = replace(Node(A, 179, B, 179).peer, **options)  # type: ignore[arg-type]
    assert re.fullmatch(expected + ".*" * bool(expected), sockets.suspicion(peer, Counter({counter: 3})))


ROOM = int(Path("/proc/sys/net/core/optmem_max").read_text(encoding="ascii"))
MANY: list[IPAddress] = [ipaddress.IPv4Address("10.0.0.1") + n for n in range(ROOM // 100)]
SOME = ipaddress.ip_network("10.0.0.0/8")


def test_more_keys_than_a_socket_holds_are_told_as_that() -> None:
    """They count against a limit of the kernel: the words name it, and blame neither memory nor MD5."""
    with pytest.raises(sockets.SocketError) as caught:
        sockets.listening_socket(A, 0, dict.fromkeys(MANY, "secret")).close()
    said = "cannot allocate memory: the MD5 keys of all peers take more than net.core.optmem_max"
    assert sockets.unheld(caught.value, A) == said


def test_keys_are_known_as_they_are_where_some_could_not_be_set() -> None:
    """What has gone is not taken away again, and what has come goes with its peer."""
    with sockets.listening_socket(A, 0, {SOME: "secret"}) as listening:
        present: dict[IPAddress | IPNetwork, str] = {SOME: "secret"}
        with pytest.raises(sockets.SocketError):
            sockets.set_keys(listening, present, dict.fromkeys(MANY, "secret"))
        assert list(present) == MANY[: len(present)]
        sockets.set_keys(listening, present, {SOME: "other"})
        assert present == {SOME: "other"}
