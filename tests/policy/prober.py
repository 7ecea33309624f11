"""Probes with real packets, thousands a second, from many network namespaces: one process that asks, one that answers.

    prober.py serve NETNS...         answers in each of these, and says "listening"
    prober.py probe SOCKET NETNS...  takes requests at a unix socket, and says "listening"

A request is a line of JSON, {"probes": [[NETNS, PROTOCOL, ADDRESS, PORT], ..], "expected": [INDEX, ..],
"source_port": N, "grace": SECONDS, "patience": SECONDS}; the answer has a result for each probe: "" for silence,
"answer", or what was wrong. Those expected are waited for as long as `patience`, all others for `grace`, or three
times as long as the slowest answer took, after the last was sent. `source_port`, which is the identifier of an echo
request too, is not to be used again: connection tracking remembers the last time.

TCP: a connection comes about. UDP: the server's own namespace comes back. ICMP: an echo reply. SCTP (RFC 9260): an
INIT ACK to an INIT, both written here onto raw sockets, so the kernel need not know SCTP, whose connection
tracking and matches it may well have. Where it does know it, its own answer (an ABORT) has come through just as well.

Standard library only, and no import of ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000
PORTS = (80, 81)
SCTP = 132
INIT, INIT_ACK = 1, 2
ECHO_REQUEST = {4: 8, 6: 128}  # RFC 792, RFC 4443 §4.1
ECHO_REPLY = {4: 0, 6: 129}
ICMP = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
FOLDER = Path("/run/netns")


def enter(name: str) -> None:
    """Be in a network namespace; raises OSError."""
    descriptor = os.open(FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"setns {name}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def opened(version: int, kind: int, protocol: int = 0, bind: int | None = None) -> socket.socket:
    """Return a socket of one family here, non-blocking."""
    new = socket.socket(FAMILY[version], kind | socket.SOCK_NONBLOCK, protocol)
    if version == 6:
        with contextlib.suppress(OSError):  # of raw ones
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if bind is not None:
        new.bind(("::" if version == 6 else "0.0.0.0", bind))
    return new


# ── SCTP ─────────────────────────────────────────────────────────────────────


def _table() -> Iterator[int]:
    for octet in range(256):
        value = octet
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # CRC32c, reflected
        yield value


_CRC32C = tuple(_table())


def crc32c(data: bytes) -> int:
    """Return the checksum of SCTP (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for octet in data:
        value = _CRC32C[(value ^ octet) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def sctp_packet(source: int, destination: int, tag: int, kind: int) -> bytes:
    """Return a packet with an INIT or an INIT ACK chunk (RFC 9260 §3.3.2, §3.3.3)."""
    cookie = struct.pack("!HHI", 7, 8, 0) if kind == INIT_ACK else b""
    chunk = struct.pack("!BBHIIHHI", kind, 0, 20 + len(cookie), 0x1234567, 65_536, 1, 1, 1) + cookie
    head = struct.pack("!HHI", source, destination, tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def payload(version: int, packet: bytes) -> bytes:
    """Return what a raw socket gave, without the header that it gives with IPv4."""
    return packet[4 * (packet[0] & 15) :] if version == 4 else packet


# ── the server ───────────────────────────────────────────────────────────────


class Loop:
    """Sockets, and what to do when there is something to read."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, tuple[socket.socket, Callable[[socket.socket], None]]] = {}

    def add(self, one: socket.socket, read: Callable[[socket.socket], None], events: int = select.EPOLLIN) -> None:
        """Watch a socket."""
        self._sockets[one.fileno()] = one, read
        self._epoll.register(one.fileno(), events)

    def turn(self, timeout: float | None = None) -> None:
        """Wait until something is there to read, and read it."""
        for number, _ in self._epoll.poll(timeout):
            one, read = self._sockets[number]
            read(one)

    def close(self) -> None:
        """Close every socket; connections end with a reset."""
        self._epoll.close()
        for one, _ in self._sockets.values():
            if one.type == socket.SOCK_STREAM:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
        self._sockets.clear()


def serve(names: list[str]) -> None:
    """Answer in every namespace, in both families, until killed."""
    loop = Loop()
    for name in names:
        enter(name)
        for version in (4, 6):
            for port in PORTS:
                listener = opened(version, socket.SOCK_STREAM, bind=port)
                listener.listen(4096)
                loop.add(listener, accept)
                loop.add(opened(version, socket.SOCK_DGRAM, bind=port), lambda one, name=name: answer_udp(one, name))  # type: ignore[misc]
            raw = opened(version, socket.SOCK_RAW, SCTP)
            loop.add(raw, lambda one, version=version: answer_sctp(one, version))  # type: ignore[misc]
    print("listening", flush=True)  # noqa: T201  what it is waited for by
    while True:
        loop.turn()


def accept(listener: socket.socket) -> None:
    """Take connections and end them."""
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def answer_udp(one: socket.socket, name: str) -> None:
    """Say who is here."""
    with contextlib.suppress(BlockingIOError):
        while True:
            _, asker = one.recvfrom(64)
            with contextlib.suppress(OSError):  # no way back, or no longer
                one.sendto(name.encode(), asker)


def answer_sctp(one: socket.socket, version: int) -> None:
    """Answer INIT chunks for the ports that are served."""
    with contextlib.suppress(BlockingIOError):
        while True:
            packet, asker = one.recvfrom(256)
            data = payload(version, packet)
            if len(data) < 20 or data[12] != INIT:
                continue
            source, port = struct.unpack_from("!HH", data)
            (tag,) = struct.unpack_from("!I", data, 16)
            if port in PORTS:
                with contextlib.suppress(OSError):
                    one.sendto(sctp_packet(port, source, tag, INIT_ACK), (asker[0], 0))


# ── the prober ───────────────────────────────────────────────────────────────

Probe = tuple[str, str, str, int | None]  # namespace, protocol, address, port


class Sweep:
    """One round of probes, all in flight at the same time."""

    def __init__(self, probes: list[Probe], source_port: int, expected: list[int]) -> None:
        self.results = [""] * len(probes)
        self.slowest_s = 0.0  # of those answered
        self._missing = set(expected)
        self._silent = len(probes)
        self._source_port = source_port
        self._loop = Loop()
        self._sent = [0.0] * len(probes)
        by_namespace: dict[str, list[tuple[int, Probe]]] = {}
        for number, probe in enumerate(probes):
            by_namespace.setdefault(probe[0], []).append((number, probe))
        for name, mine in by_namespace.items():
            enter(name)
            self._ask(mine)

    def run(self, grace_s: float, patience_s: float) -> None:
        """Take answers for as long as is said above; then nothing of the sweep is left."""
        begun = time.monotonic()
        while self._silent:
            wait = patience_s if self._missing else max(grace_s, 3 * self.slowest_s)
            left = begun + wait - time.monotonic()
            if left <= 0:
                break
            self._loop.turn(left)
        self._loop.close()

    def _note(self, number: int, result: str = "answer") -> None:
        if not self.results[number]:
            self.results[number] = result
            self._silent -= 1
            self._missing.discard(number)
            self.slowest_s = max(self.slowest_s, time.monotonic() - self._sent[number])

    def _ask(self, mine: list[tuple[int, Probe]]) -> None:
        """Send what goes out of the namespace that we are in."""
        for version in (4, 6):
            own = [(number, probe) for number, probe in mine if (":" in probe[2]) == (version == 6)]
            for protocol, ask in (("UDP", self._udp), ("SCTP", self._sctp), ("ICMP", self._icmp), ("TCP", self._tcp)):
                some = [(number, probe[2], probe[3] or 0) for number, probe in own if probe[1] == protocol]
                if some:
                    ask(version, some)

    def _send(self, one: socket.socket, number: int, data: bytes, place: tuple[str, int]) -> None:
        self._sent[number] = time.monotonic()
        try:
            one.sendto(data, place)
        except OSError as error:
            self._note(number, error.strerror or str(error))

    def _udp(self, version: int, some: list[tuple[int, str, int]]) -> None:
        numbers = {(address, port): number for number, address, port in some}

        def read(one: socket.socket) -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    said, place = one.recvfrom(64)
                    if place[:2] in numbers:
                        self._note(numbers[place[:2]], f"answer {said.decode()}")

        one = self._add(version, socket.SOCK_DGRAM, 0, self._source_port, read)
        for number, address, port in some:
            self._send(one, number, b"?", (address, port))

    def _sctp(self, version: int, some: list[tuple[int, str, int]]) -> None:
        numbers = {(address, port): number for number, address, port in some}

        def read(one: socket.socket) -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet, place = one.recvfrom(256)
                    data = payload(version, packet)
                    port, back = struct.unpack_from("!HH", data)
                    # What a workload asks itself comes by here too.
                    if back == self._source_port and data[12] != INIT and (place[0], port) in numbers:
                        self._note(numbers[place[0], port])

        one = self._add(version, socket.SOCK_RAW, SCTP, None, read)
        for number, address, port in some:
            self._send(one, number, sctp_packet(self._source_port, port, 0, INIT), (address, 0))

    def _icmp(self, version: int, some: list[tuple[int, str, int]]) -> None:
        numbers = {address: number for number, address, _ in some}

        def read(one: socket.socket) -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet, place = one.recvfrom(256)
                    kind, _, _, identifier, _ = struct.unpack_from("!BBHHH", payload(version, packet))
                    if kind == ECHO_REPLY[version] and identifier == self._source_port and place[0] in numbers:
                        self._note(numbers[place[0]])

        one = self._add(version, socket.SOCK_RAW, ICMP[version], None, read)
        head = struct.pack("!BBHHH", ECHO_REQUEST[version], 0, 0, self._source_port, 1)
        if version == 4:  # the kernel sums what it sends as ICMPv6, and no ICMP
            total = sum(struct.unpack("!4H", head))
            head = struct.pack("!BBHHH", ECHO_REQUEST[4], 0, ~((total >> 16) + total) & 0xFFFF, self._source_port, 1)
        for number, address, _ in some:
            self._send(one, number, head, (address, 0))

    def _tcp(self, version: int, some: list[tuple[int, str, int]]) -> None:
        for number, address, port in some:

            def connected(one: socket.socket, number: int = number) -> None:
                failure = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self._note(number, os.strerror(failure) if failure else "answer")

            one = opened(version, socket.SOCK_STREAM, bind=self._source_port)
            self._sent[number] = time.monotonic()
            status = one.connect_ex((address, port))
            if status not in {0, errno.EINPROGRESS}:
                self._note(number, os.strerror(status))
            # Watched from now on: before, it is ready at once, as one that is not connected.
            self._loop.add(one, connected, select.EPOLLOUT | select.EPOLLONESHOT)

    def _add(
        self, version: int, kind: int, protocol: int, bind: int | None, read: Callable[[socket.socket], None]
    ) -> socket.socket:
        one = opened(version, kind, protocol, bind)
        self._loop.add(one, read)
        return one


def probe(path: str, names: list[str]) -> None:
    """Take requests, one client after the other, until killed."""
    for name in names:
        enter(name)  # what cannot be entered is said at once
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("listening", flush=True)  # noqa: T201  what it is waited for by
        while True:
            asker, _ = listener.accept()
            with asker, asker.makefile("rw", encoding="ascii") as lines:
                for line in lines:
                    request = json.loads(line)
                    begun = time.monotonic()
                    probes = [tuple(each) for each in request["probes"]]
                    sweep = Sweep(probes, request["source_port"], request["expected"])
                    asked_s = time.monotonic() - begun
                    sweep.run(request["grace"], request["patience"])
                    answer = {"results": sweep.results, "slowest": sweep.slowest_s, "asked": asked_s}
                    lines.write(json.dumps(answer | {"took": time.monotonic() - begun}) + "\n")
                    lines.flush()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2:])
    else:
        probe(sys.argv[2], sys.argv[3:])
