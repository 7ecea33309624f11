"""A watch over a kernel's routes that costs whoever writes them little: says when the last one came, or went.

Standard library only. It listens to the kernel's route notifications with a filter that the kernel runs,
which lets through the prefixes with the last six bits of the last one: one of 64, so that neither the
writer nor this program has 100,000 wake-ups to pay for. When all of those were seen, the whole table is
read out once and compared; what was seen then counts. Otherwise (a notification was lost, or another prefix
came later than the sample) the table is read again and again, and the time is that of the first
reading that was right: `seen_by` says which it was.

    {"event": "watching", "at": 81.004}
    {"event": "complete", "at": 81.101, "seen_by": "notifications", "count": 100000, "digest": "..."}
    {"event": "gone", "at": 84.190, "seen_by": "notifications", "count": 0, "digest": "..."}

`at` is CLOCK_MONOTONIC in seconds. The digest is of the sorted prefixes that have the right gateway. Exit 1:
it did not come to that; the last line says what the kernel held instead.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import ipaddress
import json
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# linux/netlink.h, linux/rtnetlink.h, linux/nexthop.h, asm-generic/socket.h
NLMSG_ERROR, NLMSG_DONE, NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 2, 3, 1, 0x300, 0x10
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWNEXTHOP, RTM_GETNEXTHOP = 24, 25, 26, 104, 106
RTMGRP = {4: 0x40, 6: 0x400}
RTA_DST, RTA_GATEWAY, RTA_TABLE, RTA_NH_ID, NHA_ID, NHA_GROUP, NHA_GATEWAY = 1, 5, 15, 30, 1, 2, 6
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
SOL_NETLINK, NETLINK_GET_STRICT_CHK, SO_RCVBUFFORCE, SO_ATTACH_FILTER = 270, 12, 33, 26
DST_AT = 40  # of the prefix in a message, behind the kernel's RTA_TABLE
SAMPLE = 63  # the bits of the last octet that are looked at
AGAIN_S = 0.02
BUFFER = 64 << 20


def digest(prefixes: Iterable[bytes]) -> str:
    """Return one short text for a set of packed addresses."""
    return hashlib.sha256(b"".join(sorted(prefixes))).hexdigest()[:16]


def expected(first: IPAddress, routes: int) -> set[bytes]:
    """Return the packed addresses of a feed."""
    size, base = first.max_prefixlen // 8, int(first)
    return {(base + number).to_bytes(size, "big") for number in range(routes)}


# ── notifications ────────────────────────────────────────────────────────────


class Notices:
    """The kernel's word on a sample of single addresses."""

    def __init__(self, version: int, residue: int) -> None:
        """Have notified those whose last octet has this residue in the bits of SAMPLE."""
        self._width = 4 if version == 4 else 16
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        except PermissionError:  # in a user namespace
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._filter(residue)
        self._sock.bind((0, RTMGRP[version]))

    def _filter(self, residue: int) -> None:
        load_octet, mask, equal, answer = 0x30, 0x54, 0x15, 0x06  # linux/bpf_common.h
        code = (
            (load_octet, 0, 0, 17),  # rtm_dst_len
            (equal, 0, 4, self._width * 8),
            (load_octet, 0, 0, DST_AT + self._width - 1),
            (mask, 0, 0, SAMPLE),
            (equal, 0, 1, residue),
            (answer, 0, 0, 0xFFFF),
            (answer, 0, 0, 0),
        )
        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
        head = struct.pack("HP", len(code), ctypes.addressof(program))
        self._sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)

    def wait(self, wanted: set[bytes], kind: int, deadline: float) -> float | None:
        """Return the monotonic second at which the last of these was told to be new or deleted.

        None if notifications were lost, or at the monotonic second `deadline`.
        """
        left, at, width = set(wanted), time.monotonic(), self._width
        while left:
            self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._sock.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return None
            at = time.monotonic()
            if int.from_bytes(data[4:6], sys.byteorder) == kind:
                left.discard(data[DST_AT : DST_AT + width])
        return at


# ── reading out ──────────────────────────────────────────────────────────────


class Reader:
    """Reads the single addresses of the main table, with their gateways."""

    def __init__(self, version: int) -> None:
        self._family = socket.AF_INET if version == 4 else socket.AF_INET6
        self._width = 4 if version == 4 else 16
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._sock.settimeout(30)
        self._sock.bind((0, 0))

    def read(self) -> dict[bytes, bytes]:
        """Return packed address -> packed gateway (empty: none, or several), of one consistent reading."""
        while True:
            is_torn, gateways = False, self._gateways()
            found: dict[bytes, bytes] = {}
            known: dict[bytes, bytes] = {}  # what follows the prefix is the same for most
            body = struct.pack("=BBBBBBBBI", self._family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
            body += struct.pack("=HHI", 8, RTA_TABLE, RT_TABLE_MAIN)
            bits, width = self._width * 8, self._width
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

    def _gateways(self) -> dict[bytes, bytes]:
        """Return id -> packed gateway of the nexthop objects."""
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
    """What is waited for, and both ways of seeing it."""

    def __init__(self, feed: set[bytes], gateway: IPAddress) -> None:
        self._feed = feed
        self._gateway = gateway.packed
        self._residue = max(feed)[-1] & SAMPLE
        self._notices = Notices(gateway.version, self._residue)
        self._reader = Reader(gateway.version)

    def wait(self, wanted: set[bytes], timeout_s: float) -> bool:
        """Say when the table holds exactly `wanted`, which is the whole feed or nothing; False if in vain."""
        event, kind = ("complete", RTM_NEWROUTE) if wanted else ("gone", RTM_DELROUTE)
        deadline = time.monotonic() + timeout_s
        sample = {prefix for prefix in self._feed if prefix[-1] & SAMPLE == self._residue}
        at = self._notices.wait(sample, kind, deadline)
        seen_by = "notifications"
        while True:
            began = time.monotonic()
            found = self._reader.read()
            right = {prefix for prefix, through in found.items() if through == self._gateway}
            is_equal = right == wanted and len(found) == len(right)
            if at is None or not is_equal:
                at, seen_by = began, "readings"
            if is_equal or began > deadline:
                say(event if is_equal else f"not {event}", at, seen_by=seen_by, count=len(found), digest=digest(right))
                return is_equal
            at = None
            time.sleep(AGAIN_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program; ends when what it waits for has come, and gone if asked for."""
    parser = argparse.ArgumentParser(description="say when the kernel has every route of a feed")
    parser.add_argument("--first", type=ipaddress.ip_address, required=True)
    parser.add_argument("--routes", type=int, required=True)
    parser.add_argument("--gateway", type=ipaddress.ip_address, required=True)
    parser.add_argument("--until-gone", action="store_true", help="wait for the end of all of them too")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="for each step")
    options = parser.parse_args(argv)
    feed = expected(options.first, options.routes)
    watch = Watch(feed, options.gateway)
    say("watching", time.monotonic())
    is_seen = watch.wait(feed, options.timeout) and (not options.until_gone or watch.wait(set(), options.timeout))
    return 0 if is_seen else 1


if __name__ == "__main__":
    sys.exit(main())
