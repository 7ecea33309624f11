"""A raw BGP speaker that feeds routes as fast as its socket takes them, or counts what it gets.

Standard library only, and nothing of bgpmesh, so that it can measure any daemon. The UPDATEs are
encoded before the session comes up. It prints one JSON object a line; `at` is CLOCK_MONOTONIC in
seconds, which all processes of a machine share, so a feeder's and a sink's times can be subtracted.

    feeder.py --connect 192.0.2.1 --bind 192.0.2.2 --asn 65001 --peer-asn 64512 --routes 100000 --sets 1000
    feeder.py --listen 192.0.2.3 --asn 65002 --peer-asn 64512 --expect 100000

    {"event": "established", "at": 81.004}
    {"event": "sent", "at": 81.101, "updates": 1000, "octets": 553000, "began": 81.005}
    {"event": "received", "at": 81.190, "prefixes": 100000, "began": 81.020, "updates": 130, "strays": 0}

What it does once the session is up are `--steps`, with `--wait` each at a line on standard input:

    announce    everything, and End-of-RIB                                      sent
    withdraw    everything                                                      withdrawn
    churn       withdraw and announce everything in turn, `--changes` in all,   churned
                then `--singles` more
    singles     announce `--singles` more, one each 20 ms, and tell when        announced singly
    drop        close the connection without a word                             dropped

The prefixes are consecutive single addresses from `--first`, so one side knows what the other
announces. Exit 0: everything asked for happened; 1: it did not, and the last line says what did.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import math
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import TextIO

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4
MARKER = b"\xff" * 16
ROOM = 4096 - 23  # octets of an UPDATE behind its two length fields
READ_SIZE = 1 << 18
LATEST = 0.2  # seconds between two looks at whether to stop
CHUNK = 1 << 16  # octets of whole messages that go to the socket at once
AGAIN_S = 0.02  # between two calls
SINGLES_EVERY_S = 0.02
RESTART_S = 120  # how long we would wait for ourselves, if graceful restart is offered

STEPS = {
    "announce": "sent",
    "withdraw": "withdrawn",
    "churn": "churned",
    "singles": "announced singly",
    "drop": "dropped",
}


# ── what is sent ─────────────────────────────────────────────────────────────


def message(kind: int, body: bytes) -> bytes:
    """Return a message with its header."""
    return MARKER + struct.pack("!HB", 19 + len(body), kind) + body


def attribute(flags: int, code: int, value: bytes) -> bytes:
    """Return a path attribute, with two octets of length."""
    return struct.pack("!BBH", flags | 0x10, code, len(value)) + value


def opening(asn: int, router_id: int, hold_time: int, version: int, *, has_graceful_restart: bool = False) -> bytes:
    """Return an OPEN for the unicast family of an IP version and four-octet AS numbers.

    With graceful restart (RFC 4724) its sender says that it has not restarted and keeps forwarding.
    """
    family = struct.pack("!HBB", 1 if version == 4 else 2, 0, 1)
    capabilities = [(1, family), (65, struct.pack("!I", asn))]
    if has_graceful_restart:
        capabilities.append((64, struct.pack("!HHBB", RESTART_S, 1 if version == 4 else 2, 1, 0x80)))
    text = b"".join(bytes((code, len(value))) + value for code, value in capabilities)
    head = struct.pack("!BHHI", 4, asn if asn < 65536 else 23456, hold_time, router_id)
    return message(OPEN, head + bytes((len(text) + 2, 2, len(text))) + text)


def update(withdrawn: bytes, attributes: bytes, nlri: bytes) -> bytes:
    """Return an UPDATE."""
    lengths = len(withdrawn).to_bytes(2, "big"), len(attributes).to_bytes(2, "big")
    return message(UPDATE, lengths[0] + withdrawn + lengths[1] + attributes + nlri)


@dataclass(frozen=True)
class Feed:
    """What to announce: `routes` single addresses from `first` on, over `sets` attribute sets.

    `per_update` 0 packs UPDATEs full, a set's prefixes standing together; any other number puts that
    many into each UPDATE, the sets taking turns.
    """

    first: IPAddress
    routes: int
    sets: int
    next_hop: IPAddress
    asn: int
    is_internal: bool
    per_update: int = 0

    @property
    def is_ipv6(self) -> bool:
        """Whether the prefixes are IPv6."""
        return self.first.version == 6

    def _attributes(self, number: int) -> bytes:
        path = b"" if self.is_internal else struct.pack("!BBI", 2, 1, self.asn)
        parts = [attribute(0x40, 1, b"\0"), attribute(0x40, 2, path)]
        if not self.is_ipv6:
            parts.append(attribute(0x40, 3, self.next_hop.packed))
        if self.is_internal:
            parts.append(attribute(0x40, 5, struct.pack("!I", 100)))
        parts.append(attribute(0xC0, 8, struct.pack("!HH", self.asn & 0x7FFF, number)))
        return b"".join(parts)

    def _groups(self) -> Iterator[tuple[int, range]]:
        """Yield (number of the set, numbers of the prefixes) for each group of UPDATEs."""
        step = self.per_update or max(math.ceil(self.routes / self.sets), 1)
        for count, start in enumerate(range(0, self.routes, step)):
            yield count % self.sets, range(start, min(start + step, self.routes))

    def announcements(self) -> list[bytes]:
        """Return the UPDATEs that announce everything."""
        updates: list[bytes] = []
        for number, members in self._groups():
            attributes = self._attributes(number)
            if self.is_ipv6:
                head = b"\0\2\1\x10" + self.next_hop.packed + b"\0"
                room = ROOM - len(attributes) - 4 - len(head)
                updates += [
                    update(b"", attribute(0x80, 14, head + nlri) + attributes, b"")
                    for nlri in self._nlri(members, room)
                ]
            else:
                updates += [update(b"", attributes, nlri) for nlri in self._nlri(members, ROOM - len(attributes))]
        return updates

    def withdrawals(self) -> list[bytes]:
        """Return the UPDATEs that withdraw everything."""
        fields = self._nlri(range(self.routes), ROOM - 7)
        if self.is_ipv6:
            return [update(b"", attribute(0x80, 15, b"\0\2\1" + nlri), b"") for nlri in fields]
        return [update(nlri, b"", b"") for nlri in fields]

    def singles(self, count: int) -> list[bytes]:
        """Return UPDATEs that announce the next addresses, one each."""
        after = ipaddress.ip_address(int(self.first) + self.routes)
        return replace(self, first=after, routes=count, sets=1, per_update=1).announcements()

    def end_of_rib(self) -> bytes:
        """Return the End-of-RIB marker of the family."""
        return update(b"", attribute(0x80, 15, b"\0\2\1") if self.is_ipv6 else b"", b"")

    def _nlri(self, members: range, room: int) -> Iterator[bytes]:
        bits = self.first.max_prefixlen
        base, size = int(self.first), bits // 8
        step = room // (1 + size)
        for at in range(members.start, members.stop, step):
            part = range(at, min(at + step, members.stop))
            yield b"".join(bytes((bits,)) + (base + number).to_bytes(size, "big") for number in part)


# ── what is received ─────────────────────────────────────────────────────────


@dataclass
class Tally:
    """Which of the expected single addresses stand announced; everything else is a stray."""

    first: IPAddress
    expect: int
    present: int = 0
    most: int = 0  # that stood announced at one time
    strays: int = 0
    updates: int = 0
    began: float = 0.0  # monotonic seconds of the first announcement
    _is_present: bytearray = field(default_factory=bytearray, repr=False)

    def __post_init__(self) -> None:
        self._is_present = bytearray(self.expect)

    def take(self, body: bytes) -> None:
        """Count what an UPDATE says."""
        self.updates += 1
        attributes_at = 4 + int.from_bytes(body[:2], "big")
        nlri_at = attributes_at + int.from_bytes(body[attributes_at - 2 : attributes_at], "big")
        withdrawn, announced = body[2 : attributes_at - 2], body[nlri_at:]
        if self.first.version == 6:
            withdrawn, announced = _mp_fields(body[attributes_at:nlri_at])
        if withdrawn:
            self._mark(withdrawn, 0)
        if announced:
            self.began = self.began or time.monotonic()
            self._mark(announced, 1)

    def _mark(self, nlri: bytes, value: int) -> None:
        base, is_present, changed = int(self.first), self._is_present, 0
        for number in self._numbers(nlri):
            index = number - base
            if 0 <= index < self.expect:
                changed += value - is_present[index]
                is_present[index] = value
            else:
                self.strays += 1
        self.present += changed
        self.most = max(self.most, self.present)

    def _numbers(self, nlri: bytes) -> Iterator[int]:
        """Yield the addresses of a field; -1 for a prefix that is no single address."""
        bits = self.first.max_prefixlen
        width = bits // 8 + 1
        if len(nlri) % width == 0 and nlri[::width].count(bits) * width == len(nlri):
            if width == 5:
                yield from (number for _, number in struct.iter_unpack("!BI", nlri))
            else:
                yield from (high << 64 | low for _, high, low in struct.iter_unpack("!BQQ", nlri))
            return
        at = 0
        while at < len(nlri):
            stop = at + 1 + (nlri[at] + 7) // 8
            yield int.from_bytes(nlri[at + 1 : stop], "big") if nlri[at] == bits else -1
            at = stop


def _mp_fields(attributes: bytes) -> tuple[bytes, bytes]:
    """Return the prefixes in MP_UNREACH_NLRI and in MP_REACH_NLRI."""
    fields = {14: b"", 15: b""}
    at = 0
    while at < len(attributes):
        flags, code = attributes[at], attributes[at + 1]
        start = at + (4 if flags & 0x10 else 3)
        stop = start + int.from_bytes(attributes[at + 2 : start], "big")
        if code == 14:
            fields[14] = attributes[start + 5 + attributes[start + 3] : stop]
        elif code == 15:
            fields[15] = attributes[start + 3 : stop]
        at = stop
    return fields[15], fields[14]


# ── the session ──────────────────────────────────────────────────────────────


class SessionEnded(Exception):  # noqa: N818  # it may be what was asked for
    """The peer closed the connection or sent a NOTIFICATION; the text says which."""


class Session:
    """One BGP session over a connected socket: OPEN, keepalives, a queue out, a tally in."""

    def __init__(self, sock: socket.socket, opened: bytes, hold_time: int, tally: Tally) -> None:
        self.tally = tally
        self.is_established = False
        self.is_stopping = False
        self._silence_s = 0.0  # the longest
        self._heard_at = time.monotonic()
        self._sock = sock
        self._keepalive_every = hold_time / 3
        self._keepalive_at = math.inf
        self._unread = b""
        self._queue: deque[memoryview] = deque()
        self._is_cut = False  # the first of the queue is partly sent
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self.send([opened])

    @property
    def silence_s(self) -> float:
        """The longest that the peer has said nothing, up to now, since `begin_silence`."""
        return max(self._silence_s, time.monotonic() - self._heard_at)

    def begin_silence(self) -> None:
        """Forget how long the peer was silent before."""
        self._silence_s, self._heard_at = 0.0, time.monotonic()

    @property
    def is_sent(self) -> bool:
        """Whether the socket has taken everything."""
        return not self._queue

    def send(self, messages: Sequence[bytes]) -> None:
        """Queue messages behind what is queued."""
        chunk: list[bytes] = []
        size = 0
        for each in messages:
            chunk.append(each)
            size += len(each)
            if size >= CHUNK:
                self._queue.append(memoryview(b"".join(chunk)))
                chunk, size = [], 0
        if chunk:
            self._queue.append(memoryview(b"".join(chunk)))

    def run(self, is_done: Callable[[], bool], deadline: float, *, wake: TextIO | None = None) -> bool:
        """Send and receive until `is_done`, until `wake` can be read, or until the monotonic second `deadline`.

        False if it was the deadline. Raises SessionEnded, also within LATEST seconds of `stop`.
        """
        readers: list[socket.socket | TextIO] = [self._sock] if wake is None else [self._sock, wake]
        readable: list[socket.socket | TextIO] = []
        while not is_done() and wake not in readable:
            if self.is_stopping:
                raise SessionEnded("stopped")
            now = time.monotonic()
            if now >= deadline:
                return False
            if now >= self._keepalive_at:
                self._keepalive_at = now + self._keepalive_every
                self._queue.insert(1 if self._is_cut else 0, memoryview(message(KEEPALIVE, b"")))
            wait = min(deadline, self._keepalive_at) - now
            writers = [self._sock] if self._queue else []
            readable, writable, _ = select.select(readers, writers, [], min(wait, LATEST))
            if self._sock in readable:
                self._read()
            if writable:
                self._write()
        return True

    def stop(self) -> None:
        """Have `run` end; may be called by a signal handler."""
        self.is_stopping = True

    def drop(self) -> None:
        """End the connection without a word."""
        self._sock.close()

    def close(self) -> None:
        """End the session with a Cease, administrative shutdown."""
        try:
            self._sock.setblocking(True)
            self._sock.settimeout(1)
            self._sock.sendall(message(NOTIFICATION, b"\6\2"))
        except OSError:
            pass  # it is gone already
        self._sock.close()

    def _write(self) -> None:
        while self._queue:
            first = self._queue[0]
            try:
                sent = self._sock.send(first)
            except BlockingIOError:
                return
            self._is_cut = sent < len(first)
            if self._is_cut:
                self._queue[0] = first[sent:]
                return
            self._queue.popleft()

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except ConnectionError as error:
            raise SessionEnded(str(error)) from error
        if not data:
            raise SessionEnded("closed by the peer")
        self._silence_s, self._heard_at = self.silence_s, time.monotonic()
        data = self._unread + data
        at = 0
        while len(data) - at >= 19:
            stop = at + int.from_bytes(data[at + 16 : at + 18], "big")
            if stop > len(data):
                break
            self._take(data[at + 18], data[at + 19 : stop])
            at = stop
        self._unread = data[at:]

    def _take(self, kind: int, body: bytes) -> None:
        if kind == UPDATE:
            self.tally.take(body)
        elif kind == OPEN:
            theirs = int.from_bytes(body[3:5], "big")
            self._keepalive_every = min(self._keepalive_every, theirs / 3) if theirs else math.inf
            self._keepalive_at = time.monotonic() + self._keepalive_every
            self.send([message(KEEPALIVE, b"")])
        elif kind == KEEPALIVE:
            self.is_established = True
        elif kind == NOTIFICATION:
            raise SessionEnded(f"NOTIFICATION {body[0]}/{body[1]} {body[2:].hex()}")


def connect(local: IPAddress | None, remote: IPAddress, port: int, deadline: float) -> socket.socket:
    """Return a connection, tried again until the monotonic second `deadline`; raises OSError then."""
    family = socket.AF_INET6 if remote.version == 6 else socket.AF_INET
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if local is not None:
                sock.bind((str(local), 0))
            sock.settimeout(max(deadline - time.monotonic(), 0.1))
            sock.connect((str(remote), port))
        except OSError:
            sock.close()
            if time.monotonic() >= deadline:
                raise
            time.sleep(AGAIN_S)
        else:
            return sock


def accept(local: IPAddress, port: int, deadline: float) -> socket.socket:
    """Return the first connection that comes in; raises TimeoutError at the monotonic second `deadline`."""
    family = socket.AF_INET6 if local.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(local), port))
        listener.listen(1)
        say("listening", port=listener.getsockname()[1])
        listener.settimeout(max(deadline - time.monotonic(), 0.1))
        return listener.accept()[0]


# ── the program ──────────────────────────────────────────────────────────────


def say(event: str, **values: object) -> None:
    """Print what happened, now."""
    line = {"event": event, "at": time.monotonic(), **values}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, with what hangs together filled in."""
    parser = argparse.ArgumentParser(description="feed a BGP speaker with routes, or count those it sends")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--connect", type=ipaddress.ip_address, metavar="ADDR", help="call this speaker")
    where.add_argument("--listen", type=ipaddress.ip_address, metavar="ADDR", help="wait for its call here")
    parser.add_argument("--bind", type=ipaddress.ip_address, metavar="ADDR", help="call from this address")
    parser.add_argument("--port", type=int, default=179)
    parser.add_argument("--asn", type=int, required=True)
    parser.add_argument("--peer-asn", type=int, required=True, help="equal to --asn: internal")
    parser.add_argument("--router-id", type=ipaddress.IPv4Address, help="default: the session's IPv4 address")
    parser.add_argument("--hold-time", type=int, default=90, help="seconds")
    parser.add_argument("--family", choices=("ipv4", "ipv6"), default="ipv4")
    parser.add_argument("--first", type=ipaddress.ip_address, help="first prefix; default 10.0.0.0 or 2001:db8:a::")
    parser.add_argument("--next-hop", type=ipaddress.ip_address, help="default: the session's own address")
    parser.add_argument("--routes", type=int, default=0, help="how many to announce")
    parser.add_argument("--sets", type=int, default=1, help="attribute sets among them")
    parser.add_argument("--per-update", type=int, default=0, help="prefixes in each UPDATE; 0: as many as fit")
    parser.add_argument("--expect", type=int, default=0, help="how many to receive")
    parser.add_argument("--steps", default="announce", help=f"of {', '.join(STEPS)}, with commas between them")
    parser.add_argument("--wait", action="store_true", help="do each step once a line comes on standard input")
    parser.add_argument("--changes", type=int, default=0, help="of routes, that a churn is made of")
    parser.add_argument("--singles", type=int, default=0, help="routes that are announced singly")
    parser.add_argument("--graceful-restart", action="store_true", help="offer it")
    parser.add_argument("--again", action="store_true", help="if the session ends, call again and announce again")
    parser.add_argument("--expect-withdrawn", action="store_true", help="wait until all received are withdrawn")
    parser.add_argument("--hold", type=float, default=0.0, metavar="S", help="stay up for S seconds then; or inf")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="for each step")
    options = parser.parse_args(argv)
    if options.first is None:
        options.first = ipaddress.ip_address("10.0.0.0" if options.family == "ipv4" else "2001:db8:a::")
    return options


def _connection(options: argparse.Namespace) -> socket.socket:
    deadline = time.monotonic() + float(options.timeout)
    if options.connect is not None:
        return connect(options.bind, options.connect, options.port, deadline)
    return accept(options.listen, options.port, deadline)


class Play:
    """What the options ask for, over one session or, with --again, over several."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._sock = _connection(options)
        own = ipaddress.ip_address(self._sock.getsockname()[0])
        self._feed = Feed(
            first=options.first,
            routes=options.routes,
            sets=options.sets,
            next_hop=options.next_hop or own,
            asn=options.asn,
            is_internal=options.asn == options.peer_asn,
            per_update=options.per_update,
        )
        self._updates = self._encode()
        router_id = int(options.router_id or own) & 0xFFFFFFFF
        self._opened = opening(
            options.asn,
            router_id,
            options.hold_time,
            options.first.version,
            has_graceful_restart=options.graceful_restart,
        )
        self._session = self._begin()
        self._is_first = True
        self._is_calling = False
        self._give_up_at = time.monotonic() + options.timeout
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def run(self) -> int:
        """Play it; returns the exit status."""
        while True:
            try:
                return 0 if self._once() else 1
            except SessionEnded as ended:
                if self._session.is_stopping or not (self._options.again or self._is_early):
                    tally = self._session.tally
                    say("ended", reason=str(ended), prefixes=tally.most, updates=tally.updates)
                    return 1
            finally:
                self._session.close()
            self._is_first, self._is_calling = self._is_first and self._is_early, True
            if self._session.is_stopping:
                return 0
            time.sleep(AGAIN_S)
            self._sock = _connection(self._options)
            self._session, self._is_calling = self._begin(), False

    @property
    def _is_early(self) -> bool:
        """Whether the session has not come up yet: a speaker that has just started may hang up a few times."""
        is_caller = self._options.connect is not None
        return is_caller and not self._session.is_established and time.monotonic() < self._give_up_at

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_calling:
            raise SystemExit(0)
        self._session.stop()

    def _begin(self) -> Session:
        options = self._options
        return Session(self._sock, self._opened, options.hold_time, Tally(options.first, options.expect))

    def _encode(self) -> dict[str, list[bytes]]:
        """Return the UPDATEs of each step."""
        feed, options = self._feed, self._options
        announcements, withdrawals = feed.announcements(), feed.withdrawals()
        singles = feed.singles(options.singles)
        rounds = options.changes // (2 * feed.routes) if feed.routes else 0
        return {
            "announce": [*announcements, feed.end_of_rib()],
            "withdraw": withdrawals,
            "churn": [*withdrawals, *announcements] * rounds + singles,
            "singles": singles,
            "drop": [],
        }

    def _once(self) -> bool:
        """Play one session; False if something did not come in time."""
        options, tally = self._options, self._session.tally
        if not self._until("established", lambda: self._session.is_established, asn=options.asn):
            return False
        steps = options.steps.split(",") if self._is_first else ["announce"]
        for step in steps if self._feed.routes else ():
            if options.wait and self._is_first:
                self._session.run(lambda: False, math.inf, wake=sys.stdin)
                sys.stdin.readline()
            if not self._step(step):
                return False
        if options.expect and not self._until("received", lambda: tally.most == options.expect):
            return False
        if options.expect_withdrawn and not self._until("lost", lambda: tally.present == 0):
            return False
        return self._hold()

    def _hold(self) -> bool:
        """Stay up as long as asked; SIGTERM is how a hold without end is ended."""
        try:
            self._session.run(lambda: False, time.monotonic() + self._options.hold)
        except SessionEnded as ended:
            if self._options.again and not self._session.is_stopping:
                raise
            say("ended", reason=str(ended), silence_s=self._session.silence_s)
        return True

    def _step(self, step: str) -> bool:
        session, updates = self._session, self._updates[step]
        if step == "drop":
            began = time.monotonic()
            session.drop()
            say(STEPS[step], began=began)
            raise SystemExit(0)
        if step == "singles":
            times: list[float] = []
            for each in updates:
                times.append(time.monotonic())
                session.send([each])
                session.run(lambda: False, times[-1] + SINGLES_EVERY_S)
            say(STEPS[step], times=times)
            return True
        session.begin_silence()
        session.send(updates)
        size, began = sum(map(len, updates)), time.monotonic()
        return self._until(STEPS[step], lambda: session.is_sent, updates=len(updates), octets=size, began=began)

    def _until(self, event: str, is_done: Callable[[], bool], **values: object) -> bool:
        """Run the session until something has come, and say so, or that it has not."""
        tally = self._session.tally
        is_in_time = self._session.run(is_done, time.monotonic() + float(self._options.timeout))
        counts = {"prefixes": tally.most, "updates": tally.updates, "strays": tally.strays, "began": tally.began}
        event = event if self._is_first else f"again {event}"
        say(event if is_in_time else f"not {event}", **(values or counts))
        return is_in_time


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program; once connected, SIGTERM and SIGINT end the session in order."""
    try:
        return Play(arguments(argv)).run()
    except OSError as error:
        say("ended", reason=str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
