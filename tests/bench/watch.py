"""A watch over a kernel's routes that costs whoever writes them little: says when the last one came, or went.

Standard library only. It listens to the kernel's route notifications with a filter that the kernel runs,
which lets through the prefixes with the last six bits of the last one: one of 64, so that neither the
writer nor this program has 100,000 wake-ups to pay for. When all of those were seen, the whole table is
read out once and compared; what was seen then counts. Otherwise (a notification was lost, or another prefix
came later than the sample) the table is read again and again, and the time is that of the first
reading that was right: `seen_by` says which it was. Where a nexthop object is deleted the kernel takes its routes
along without a word; it answers a question about such objects only when that is done, so the answer's time counts.

What it waits for are `--steps`; those with * begin with a line on standard input:

    complete    the table holds the feed                                                        complete
    gone        the table holds nothing of it                                                   gone
    singles     `--singles` more come one by one; every one is looked at                        singles
    settled *   the table holds the feed and those, by readings alone                           settled
    kept        every change to the feed's routes is counted; after a line, until nothing       kept
                was changed for two seconds; then the table has to hold the feed

    {"event": "watching complete", "at": 81.004}
    {"event": "complete", "at": 81.101, "seen_by": "notifications", "count": 100000, "digest": "..."}
    {"event": "gone", "at": 84.190, "seen_by": "notifications", "count": 0, "digest": "..."}

`at` is CLOCK_MONOTONIC in seconds. The digest is of the sorted prefixes that have the right gateway. Exit 1:
it did not come to that; the last line says "not ..." and what the kernel held instead.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import ipaddress
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# linux/netlink.h, linux/rtnetlink.h, linux/nexthop.h, asm-generic/socket.h
NLMSG_ERROR, NLMSG_DONE, NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 2, 3, 1, 0x300, 0x10
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106
RTMGRP = {4: 0x40, 6: 0x400}
RTNLGRP_NEXTHOP = 32
RTA_DST, RTA_GATEWAY, RTA_TABLE, RTA_NH_ID, NHA_ID, NHA_GROUP, NHA_GATEWAY = 1, 5, 15, 30, 1, 2, 6
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_GET_STRICT_CHK, SO_RCVBUFFORCE, SO_ATTACH_FILTER = 270, 1, 12, 33, 26
DST_AT = 40  # of the prefix in a message, behind the kernel's RTA_TABLE
SAMPLE = 63  # the bits of the last octet that are looked at
AGAIN_S = 0.02
STRAGGLERS_S = 0.003  # by so much the last route may come after the last of the sample
SETTLING_EVERY_S = 0.2
QUIET_S = 2.0  # FRR rests for a second between two parts of its routes
BUFFER = 64 << 20


def digest(prefixes: Iterable[bytes]) -> str:
    """Return one short text for a set of packed addresses."""
    return hashlib.sha256(b"".join(sorted(prefixes))).hexdigest()[:16]


def expected(first: IPAddress, routes: int) -> set[bytes]:
    """Return the packed addresses of a feed."""
    size, base = first.max_prefixlen // 8, int(first)
    return {(base + number).to_bytes(size, "big") for number in range(routes)}


# ── notifications ────────────────────────────────────────────────────────────


class LostError(Exception):
    """The kernel had more to tell than the buffer holds."""


class SilentError(Exception):
    """A nexthop object was deleted; the kernel does not tell of the routes that go with it."""


class Notices:
    """The kernel's word on routes of one prefix length, all of them or a sample."""

    def __init__(self, version: int, bits: int, residue: int | None = None) -> None:
        """Have those notified whose last octet has this residue in the bits of SAMPLE; None: all."""
        self._width = 4 if version == 4 else 16
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        except PermissionError:  # in a user namespace
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._filter(bits, residue)
        self.sock.bind((0, RTMGRP[version]))
        self.sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_NEXTHOP)

    def _filter(self, bits: int, residue: int | None) -> None:
        load_octet, mask, equal, answer = 0x30, 0x54, 0x15, 0x06  # linux/bpf_common.h
        type_at = 4 if sys.byteorder == "little" else 5
        code = (
            (load_octet, 0, 0, type_at),
            (equal, 6, 0, RTM_DELNEXTHOP),  # to the first answer
            (equal, 6, 0, RTM_NEWNEXTHOP),  # to the last
            (load_octet, 0, 0, 17),  # rtm_dst_len
            (equal, 0, 4, bits),  # to the last answer
            (load_octet, 0, 0, DST_AT + self._width - 1),
            (mask, 0, 0, 0 if residue is None else SAMPLE),
            (equal, 0, 1, residue or 0),
            (answer, 0, 0, 0xFFFF),
            (answer, 0, 0, 0),
        )
        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
        head = struct.pack("HP", len(code), ctypes.addressof(program))
        self.sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)

    def hear(self, timeout_s: float) -> tuple[int, bytes] | None:
        """Return what happened (RTM_NEWROUTE, RTM_DELROUTE) to which prefix; None: nothing yet.

        Raises LostError, and SilentError (once all before it has been heard).
        """
        self.sock.settimeout(max(timeout_s, 0))
        try:
            data = self.sock.recv(1 << 16)
        except (TimeoutError, BlockingIOError):
            return None
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            raise LostError from error
        kind = int.from_bytes(data[4:6], sys.byteorder)
        if kind == RTM_DELNEXTHOP:
            raise SilentError
        return kind, data[DST_AT : DST_AT + self._width]

    def wait(self, wanted: set[bytes], kind: int, deadline: float) -> dict[bytes, float] | None:
        """Return the monotonic second at which each of these was first told to be new or deleted.

        None if notifications were lost, or at the monotonic second `deadline`. Raises SilentError if what is waited for
        are deletions.
        """
        found: dict[bytes, float] = {}
        while len(found) < len(wanted):
            try:
                heard = self.hear(max(deadline - time.monotonic(), 0.001))
            except LostError:
                return None
            except SilentError:
                if kind == RTM_DELROUTE:
                    raise
                continue
            if heard is None:
                return None
            if heard[0] == kind and heard[1] in wanted:
                found.setdefault(heard[1], time.monotonic())
        return found


# ── reading out ──────────────────────────────────────────────────────────────


class Reader:
    """Reads the routes of one prefix length in the main table, with their gateways."""

    def __init__(self, version: int, bits: int) -> None:
        self._bits = bits
        self._family = socket.AF_INET if version == 4 else socket.AF_INET6
        self._width = 4 if version == 4 else 16
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._sock.settimeout(30)
        self._sock.bind((0, 0))

    def read(self) -> dict[bytes, bytes]:
        """Return packed address -> packed gateway (empty: none, or several), of one consistent reading."""
        while True:
            is_torn, gateways = False, self.gateways()
            found: dict[bytes, bytes] = {}
            known: dict[bytes, bytes] = {}  # what follows the prefix is the same for most
            body = struct.pack("=BBBBBBBBI", self._family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
            body += struct.pack("=HHI", 8, RTA_TABLE, RT_TABLE_MAIN)
            bits, width = self._bits, self._width
            for data, start, end, is_broken in self._dump(RTM_GETROUTE, body):
                is_torn = is_torn or is_broken
                head = data[start : start + 12]
                if head[1] != bits or head[4] != RT_TABLE_MAIN or head[7] != RTN_UNICAST:
                    continue
                at = start - 16 + DST_AT
                rest = data[at + width : end]
                gateway = known.get(rest)
                if gateway is None:
                    gateway = known[rest] = self._gateway(rest, gateways)
                found[data[at : at + width]] = gateway
            if not is_torn:
                return found

    def _gateway(self, rest: bytes, gateways: dict[bytes, bytes]) -> bytes:
        values = attributes(rest)
        return values.get(RTA_GATEWAY) or gateways.get(values.get(RTA_NH_ID, b""), b"")

    def gateways(self) -> dict[bytes, bytes]:
        """Return id -> packed gateway of the nexthop objects; waits until the kernel has done what it does to them."""
        found: dict[bytes, bytes] = {}
        for data, start, end, _ in self._dump(RTM_GETNEXTHOP, bytes(8)):
            values = attributes(data[start + 8 : end])
            found[values[NHA_ID]] = values.get(NHA_GATEWAY, b"")
        return found

    def _dump(self, kind: int, body: bytes) -> Iterator[tuple[bytes, int, int, bool]]:
        """Yield (data, start and end of a message's body in it, whether the dump is torn)."""
        self._sock.send(struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        while True:
            data = self._sock.recv(1 << 18)
            at = 0
            while at < len(data):
                length, told, flags = struct.unpack_from("=IHH", data, at)
                if told == NLMSG_DONE:
                    return
                if told == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, at + 16)[0]
                    raise OSError(number, f"dump {kind} refused")
                yield data, at + 16, at + length, bool(flags & NLM_F_DUMP_INTR)
                at += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the value of each attribute by its type."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += max((length + 3) & ~3, 4)
    return found


# ── the program ──────────────────────────────────────────────────────────────


def say(event: str, at: float, **values: object) -> None:
    """Print what happened, now."""
    sys.stdout.write(json.dumps({"event": event, "at": at, **values}) + "\n")
    sys.stdout.flush()


class Watch:
    """What is waited for, and both ways of seeing it. Each step says how it ended, and returns whether well."""

    def __init__(self, first: IPAddress, routes: int, singles: int, gateway: IPAddress, timeout_s: float) -> None:
        feed = sorted(expected(first, routes + singles))
        self._feed, self._singles = set(feed[:routes]), feed[routes:]
        self._residue = feed[routes - 1][-1] & SAMPLE
        self._gateway = gateway.packed
        self._timeout_s = timeout_s
        self._version, self._bits = gateway.version, gateway.max_prefixlen
        self._reader = Reader(self._version, self._bits)

    def complete(self) -> bool:
        """Wait until the table holds exactly the feed."""
        return self._sampled("complete", RTM_NEWROUTE, self._feed)

    def gone(self) -> bool:
        """Wait until the table holds nothing."""
        return self._sampled("gone", RTM_DELROUTE, set())

    def singles(self) -> bool:
        """Wait for the routes that come one by one; the feed, complete before, grows by them."""
        notices = Notices(self._version, self._bits)
        say("watching singles", time.monotonic())
        times = notices.wait(set(self._singles), RTM_NEWROUTE, time.monotonic() + self._timeout_s)
        self._feed |= set(self._singles)
        return self._read("singles", None if times is None else [times[prefix] for prefix in self._singles])

    def settled(self) -> bool:
        """Read from a line on standard input on, until the table holds the feed and what comes behind it."""
        sys.stdin.readline()
        return self._poll("settled", None, "readings", self._feed | set(self._singles), SETTLING_EVERY_S)

    def kept(self) -> bool:
        """Count what is done to the feed's routes, until two seconds after a line without any such thing."""
        notices = Notices(self._version, self._bits)
        say("watching kept", time.monotonic())
        touched, last, is_lost, is_told = 0, 0.0, False, False
        while True:
            ready, _, _ = select.select([notices.sock, *([] if is_told else [sys.stdin])], [], [], QUIET_S)
            if sys.stdin in ready:
                sys.stdin.readline()
                is_told = True
            elif not ready and is_told:
                return self._read("kept", None, touched=touched, last=last, is_lost=is_lost)
            while notices.sock in ready:
                try:
                    heard = notices.hear(0)
                except LostError:
                    is_lost, last = True, time.monotonic()
                    continue
                except SilentError:
                    last = time.monotonic()
                    continue
                if heard is None:
                    break
                if heard[1] in self._feed:
                    touched, last = touched + 1, time.monotonic()

    def _sampled(self, event: str, kind: int, wanted: set[bytes]) -> bool:
        notices = Notices(self._version, self._bits, self._residue)
        say(f"watching {event}", time.monotonic())
        sample = {prefix for prefix in self._feed if prefix[-1] & SAMPLE == self._residue}
        at, seen_by = None, "notifications"
        try:
            if times := notices.wait(sample, kind, time.monotonic() + self._timeout_s):
                at = max(times.values())
        except SilentError:
            self._reader.gateways()
            at, seen_by = time.monotonic(), "nexthop objects"
        time.sleep(STRAGGLERS_S)
        return self._poll(event, at, seen_by, wanted, AGAIN_S)

    def _poll(self, event: str, at: float | None, seen_by: str, wanted: set[bytes], every_s: float) -> bool:
        deadline = time.monotonic() + self._timeout_s
        while True:
            began = time.monotonic()
            found, right = self._reading()
            is_equal = right == wanted and len(found) == len(right)
            if at is None or not is_equal:
                at, seen_by = began, "readings"
            if is_equal or began > deadline:
                say(event if is_equal else f"not {event}", at, seen_by=seen_by, count=len(found), digest=digest(right))
                return is_equal
            at = None
            time.sleep(every_s)

    def _read(self, event: str, times: list[float] | None, **values: object) -> bool:
        found, right = self._reading()
        is_equal = right == self._feed and len(found) == len(right) and (times is not None or event != "singles")
        values |= {"count": len(found), "digest": digest(right)}
        say(event if is_equal else f"not {event}", time.monotonic(), **values, **({"times": times} if times else {}))
        return is_equal

    def _reading(self) -> tuple[dict[bytes, bytes], set[bytes]]:
        found = self._reader.read()
        return found, {prefix for prefix, through in found.items() if through == self._gateway}


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program; ends when what it waits for has come."""
    parser = argparse.ArgumentParser(description="say when the kernel has every route of a feed")
    parser.add_argument("--first", type=ipaddress.ip_address, required=True)
    parser.add_argument("--routes", type=int, required=True)
    parser.add_argument("--gateway", type=ipaddress.ip_address, required=True)
    parser.add_argument("--steps", default="complete", help="complete, gone, singles, settled, kept")
    parser.add_argument("--singles", type=int, default=0, help="routes behind these that come one by one")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="for each step")
    options = parser.parse_args(argv)
    watch = Watch(options.first, options.routes, options.singles, options.gateway, options.timeout)
    steps = {
        "complete": watch.complete,
        "gone": watch.gone,
        "singles": watch.singles,
        "settled": watch.settled,
        "kept": watch.kept,
    }
    return 0 if all(steps[step]() for step in options.steps.split(",")) else 1


if __name__ == "__main__":
    sys.exit(main())
