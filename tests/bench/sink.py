"""Many clients of a route reflector in one process; it says when the last of them had the whole feed.

It opens the sessions, one from each address, and only frames what comes (a message is looked at for two of its
length fields), so that it is not what is measured: a client's UPDATEs are kept with the time of the read
that brought them. Once every client was told as many prefixes as the feed has, they are gone through in
full, and a bitmap per client says with which read it was complete; if prefixes came twice and others are
missing, it goes on.

    {"event": "established", "at": 81.004, "clients": 50}
    {"event": "received", "at": 81.190, "updates": 6500, "octets": 26000000, "cpu_s": 0.04}

IPv4 only. What makes an UPDATE malformed, or wrong for a reflected route (RFC 4271 section 6.3, RFC 4456 section 8),
ends it with exit status 1 and the reason.
"""

from __future__ import annotations

import argparse
import ipaddress
import math
import selectors
import signal
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

from tests.bench.feeder import (
    KEEPALIVE,
    MARKER,
    NOTIFICATION,
    OPEN,
    READ_SIZE,
    UPDATE,
    connect,
    message,
    opening,
    say,
)

ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF, ORIGINATOR_ID, CLUSTER_LIST = 1, 2, 3, 5, 9, 10
MOST_OCTETS = 4096


class Malformed(Exception):  # noqa: N818  # a verdict over somebody else
    """An UPDATE that no speaker may send; the text says why."""


@dataclass(slots=True)
class Judge:
    """Says whether an UPDATE is well formed and reflects what was fed; an attribute set is looked at once."""

    next_hop: bytes
    originator: bytes
    _known: set[bytes] = field(default_factory=set)

    def split(self, body: bytes) -> tuple[bytes, bytes]:
        """Return the withdrawn and the announced prefixes; raises Malformed."""
        if len(body) < 4:
            raise Malformed("an UPDATE too short for its two lengths")
        attributes_at = 4 + int.from_bytes(body[:2], "big")
        if attributes_at > len(body):
            raise Malformed("withdrawn routes run over the end")
        nlri_at = attributes_at + int.from_bytes(body[attributes_at - 2 : attributes_at], "big")
        if nlri_at > len(body):
            raise Malformed("path attributes run over the end")
        attributes, announced = body[attributes_at:nlri_at], body[nlri_at:]
        if announced and attributes not in self._known:
            self._look_at(attributes)
            self._known.add(attributes)
        return body[2 : attributes_at - 2], announced

    def _look_at(self, attributes: bytes) -> None:
        found = parse(attributes)
        if absent := {ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF, ORIGINATOR_ID, CLUSTER_LIST} - found.keys():
            raise Malformed(f"attributes {sorted(absent)} are missing")
        sizes = {ORIGIN: 1, AS_PATH: 0, NEXT_HOP: 4, LOCAL_PREF: 4, ORIGINATOR_ID: 4, CLUSTER_LIST: 4}
        for code, size in sizes.items():
            if len(found[code]) != size:
                raise Malformed(f"attribute {code} has {len(found[code])} octets")
        if found[NEXT_HOP] != self.next_hop or found[ORIGINATOR_ID] != self.originator:
            raise Malformed(f"next hop {found[NEXT_HOP].hex()}, originator {found[ORIGINATOR_ID].hex()}")


def parse(attributes: bytes) -> dict[int, bytes]:
    """Return the value of each path attribute by its code; raises Malformed."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(attributes):
        start = at + (4 if attributes[at] & 0x10 else 3)
        stop = start + int.from_bytes(attributes[at + 2 : start], "big")
        if stop > len(attributes) or start > len(attributes):
            raise Malformed("an attribute runs over the end")
        code = attributes[at + 1]
        if code in found:
            raise Malformed(f"attribute {code} twice")
        found[code] = attributes[start:stop]
        at = stop
    return found


def addresses(nlri: bytes) -> Iterator[int]:
    """Yield the single addresses of a field; raises Malformed for anything else."""
    if len(nlri) % 5 or nlri[::5].count(32) * 5 != len(nlri):
        raise Malformed("prefixes that are no single addresses, or are cut off")
    yield from (number for _, number in struct.iter_unpack("!BI", nlri))


@dataclass(slots=True)
class Bitmap:
    """Which of a feed's routes stand announced to one client, and since when all of them do."""

    first: int
    routes: int
    present: int = 0
    complete_at: float = 0.0  # monotonic seconds; 0: not yet
    _is_present: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._is_present = bytearray(self.routes)

    def take(self, at: float, withdrawn: bytes, announced: bytes) -> None:
        """Mark what an UPDATE says; raises Malformed, also for prefixes that were never fed."""
        for nlri, value in ((withdrawn, 0), (announced, 1)):
            for address in addresses(nlri):
                index = address - self.first
                if not 0 <= index < self.routes:
                    raise Malformed(f"{ipaddress.IPv4Address(address)} was not fed")
                self.present += value - self._is_present[index]
                self._is_present[index] = value
        if self.present < self.routes:
            self.complete_at = 0.0
        elif not self.complete_at:
            self.complete_at = at


class Client:
    """One session, and what came over it."""

    def __init__(self, options: argparse.Namespace, address: ipaddress.IPv4Address) -> None:
        deadline = time.monotonic() + options.timeout
        self.sock = connect(address, options.connect, options.port, deadline)
        self.sock.setblocking(False)
        self.is_established = False
        self.told = 0  # prefixes
        self.wanted = options.routes  # how many have to be told before it is looked at in full
        self.octets = 0
        self.updates: list[tuple[float, bytes]] = []
        self._bitmap = Bitmap(int(options.first), options.routes)
        self._seen = 0
        self._unread = b""
        self.sock.send(opening(options.asn, int(address), options.hold_time, 4))

    def keep_alive(self) -> None:
        """Send a KEEPALIVE; so few octets always fit."""
        self.sock.send(message(KEEPALIVE, b""))

    def read(self) -> None:
        """Frame what has come; raises Malformed, also where the session ends."""
        try:
            data = self.sock.recv(READ_SIZE)
        except ConnectionError as error:
            raise Malformed(f"the session ended: {error}") from error
        if not data:
            raise Malformed("the session ended")
        now = time.monotonic()
        self.octets += len(data)
        data = self._unread + data
        at = 0
        while len(data) - at >= 19:
            size = int.from_bytes(data[at + 16 : at + 18], "big")
            if not 19 <= size <= MOST_OCTETS or data[at : at + 16] != MARKER:
                raise Malformed("no message header")
            stop = at + size
            if stop > len(data):
                break
            self._take(data[at + 18], data[at + 19 : stop], now)
            at = stop
        self._unread = data[at:]

    def _take(self, kind: int, body: bytes, now: float) -> None:
        if kind == UPDATE:
            attributes_at = 4 + int.from_bytes(body[:2], "big")
            nlri_at = attributes_at + int.from_bytes(body[attributes_at - 2 : attributes_at], "big")
            self.told += (len(body) - nlri_at) // 5
            self.updates.append((now, body))
        elif kind == OPEN:
            self.keep_alive()
        elif kind == KEEPALIVE:
            self.is_established = True
        elif kind == NOTIFICATION:
            raise Malformed(f"NOTIFICATION {body[0]}/{body[1]} {body[2:].hex()}")

    def complete_at(self, judge: Judge) -> float:
        """Go through what has not been gone through; returns when the feed was complete, 0 if it is not.

        Raises Malformed.
        """
        for at, body in self.updates[self._seen :]:
            self._bitmap.take(at, *judge.split(body))
        self._seen = len(self.updates)
        self.wanted = self.told + self._bitmap.routes - self._bitmap.present
        return self._bitmap.complete_at


def run(options: argparse.Namespace, clients: Sequence[Client]) -> None:
    """Play all sessions until SIGTERM; raises Malformed, and TimeoutError where the feed did not come in time."""
    poller = selectors.DefaultSelector()
    for client in clients:
        poller.register(client.sock, selectors.EVENT_READ, client)
    judge = Judge(options.next_hop.packed, options.originator.packed)
    keepalive_at = time.monotonic() + options.hold_time / 3
    waiting, is_established, cpu_s = set(clients), False, math.nan
    while True:
        for key, _ in poller.select(max(keepalive_at - time.monotonic(), 0)):
            key.data.read()
        now = time.monotonic()
        if now >= keepalive_at:
            keepalive_at = now + options.hold_time / 3
            for client in clients:
                client.keep_alive()
        if not is_established and all(client.is_established for client in clients):
            is_established, cpu_s = True, time.process_time()
            say("established", clients=len(clients))
        waiting = {client for client in waiting if client.told < client.wanted}
        if waiting or math.isnan(cpu_s):
            continue
        used_s = time.process_time() - cpu_s
        times = {client: client.complete_at(judge) for client in clients}
        waiting = {client for client, at in times.items() if not at}
        if not waiting:
            octets, updates = sum(client.octets for client in clients), sum(len(client.updates) for client in clients)
            say("received", last=max(times.values()), updates=updates, octets=octets, cpu_s=used_s)
            cpu_s = math.nan


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program, until SIGTERM."""
    parser = argparse.ArgumentParser(description="be many clients of a route reflector")
    parser.add_argument("--connect", type=ipaddress.IPv4Address, required=True, metavar="ADDR")
    parser.add_argument("--port", type=int, default=179)
    parser.add_argument("--bind", type=ipaddress.IPv4Address, required=True, nargs="+", metavar="ADDR")
    parser.add_argument("--asn", type=int, required=True)
    parser.add_argument("--hold-time", type=int, default=9)
    parser.add_argument("--first", type=ipaddress.IPv4Address, required=True)
    parser.add_argument("--routes", type=int, required=True)
    parser.add_argument("--next-hop", type=ipaddress.IPv4Address, required=True)
    parser.add_argument("--originator", type=ipaddress.IPv4Address, required=True)
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="to connect")
    options = parser.parse_args(argv)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    try:
        run(options, [Client(options, address) for address in options.bind])
    except (Malformed, OSError) as error:
        say("malformed", reason=str(error))
    return 1


if __name__ == "__main__":
    sys.exit(main())
