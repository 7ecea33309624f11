"""A raw BGP speaker on a leash: it says what it is told to, byte for byte, and prints what it hears.

    raw.py --bind 10.0.0.2 --connect 10.0.0.1 --asn 65002 --control /run/bgpmesh/raw.sock

It opens a session for both families, keeps it alive, and takes one JSON request a line on its control
socket: {"send": "ff.."} puts these bytes on the connection. What happens is printed, one JSON object a line:
"established", "update" with its body, "notification" with code, subcode and data, "closed" at the end. With
--again it then opens the next one.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import math
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.feeder import KEEPALIVE, NOTIFICATION, OPEN, UPDATE, message

TCP_MD5SIG = 14  # linux/tcp.h
PATIENCE_S = 60.0


def say(event: str, **values: object) -> None:
    """Print what happened, now."""
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


def opening(
    asn: int, router_id: int, hold_time: int, *, is_two_octet: bool = False, more: Sequence[tuple[int, bytes]] = ()
) -> bytes:
    """Return an OPEN for IPv4 and IPv6 unicast, four-octet AS numbers unless it knows none, route refresh, and more."""
    capabilities = b"".join(
        bytes((code, len(value))) + value
        for code, value in (
            (1, struct.pack("!HBB", 1, 0, 1)),
            (1, struct.pack("!HBB", 2, 0, 1)),
            (2, b""),
            *(() if is_two_octet else ((65, struct.pack("!I", asn)),)),
            *more,
        )
    )
    fixed = struct.pack("!BHHI", 4, asn if asn < 65536 else 23456, hold_time, router_id)
    return message(OPEN, fixed + bytes((len(capabilities) + 2, 2, len(capabilities))) + capabilities)


def connect(options: argparse.Namespace) -> socket.socket:
    """Return a connection to the daemon, tried again until it takes one; raises OSError after a minute."""
    deadline = time.monotonic() + PATIENCE_S
    remote = ipaddress.ip_address(options.connect)
    family = socket.AF_INET if remote.version == 4 else socket.AF_INET6
    while True:
        calling = socket.socket(family, socket.SOCK_STREAM)
        try:
            calling.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
            if options.password:
                place = struct.pack("=HH4s120x", family, 0, remote.packed)
                key = options.password.encode()
                calling.setsockopt(
                    socket.IPPROTO_TCP, TCP_MD5SIG, struct.pack("=128sBBHI80s", place, 0, 0, len(key), 0, key)
                )
            calling.bind((options.bind, 0))
            calling.settimeout(max(deadline - time.monotonic(), 0.1))
            calling.connect((options.connect, 179))
        except OSError:
            calling.close()
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)
        else:
            return calling


class Speaker:
    """One session, from its OPEN to its end."""

    def __init__(self, peer: socket.socket, control: socket.socket, hold_time: int) -> None:
        self.is_over = False
        self._peer = peer
        self._control = control
        self._every_s = hold_time / 3
        self._heard = b""
        self._is_established = False

    def run(self) -> None:
        """Go on until the connection ends."""
        keepalive_at = math.inf
        while not self.is_over:
            now = time.monotonic()
            if self._is_established and now >= keepalive_at:
                keepalive_at = now + self._every_s
                self._send(message(KEEPALIVE, b""))
            patience_s = max(min(keepalive_at - now, self._every_s), 0.0)
            ready, _, _ = select.select([self._peer, self._control], [], [], patience_s)
            if self._peer in ready:
                self._read()
                keepalive_at = min(keepalive_at, now + self._every_s)
            if self._control in ready:
                self._obey()

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the end of it is still to be read
            self._peer.sendall(data)

    def _obey(self) -> None:
        asking, _ = self._control.accept()
        with asking, asking.makefile("rw", encoding="ascii") as lines:
            self._send(bytes.fromhex(json.loads(lines.readline())["send"]))
            lines.write("{}\n")

    def _read(self) -> None:
        try:
            data = self._peer.recv(65536)
        except OSError as error:
            data = b""
            say("lost", reason=str(error))
        if not data:
            self.is_over = True
            say("closed")
        self._heard += data
        while len(self._heard) >= 19:
            size = int.from_bytes(self._heard[16:18], "big")
            if len(self._heard) < size:
                return
            kind, body = self._heard[18], self._heard[19:size]
            self._heard = self._heard[size:]
            self._take(kind, body)

    def _take(self, kind: int, body: bytes) -> None:
        if kind == OPEN:
            self._send(message(KEEPALIVE, b""))
        elif kind == KEEPALIVE and not self._is_established:
            self._is_established = True
            say("established")
        elif kind == UPDATE:
            say("update", body=body.hex())
        elif kind == NOTIFICATION:
            say("notification", code=body[0], subcode=body[1], data=body[2:].hex())


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description="say what one is told to a BGP daemon")
    for name in ("bind", "connect", "control"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--asn", type=int, required=True)
    parser.add_argument("--hold-time", type=int, default=90)
    parser.add_argument("--password", default="")
    parser.add_argument("--two-octet", action="store_true", help="know no four-octet AS numbers")
    parser.add_argument("--router-id", default="", help="other than the address")
    parser.add_argument("--capability", action="append", default=[], metavar="CODE:HEX", help="offer this one too")
    parser.add_argument("--again", action="store_true", help="open the next session when one has ended")
    options = parser.parse_args()
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(options.control)
        control.listen()
        try:
            router_id = int(ipaddress.IPv4Address(options.router_id or options.bind))
            pairs = [each.partition(":") for each in options.capability]
            more = [(int(code), bytes.fromhex(value)) for code, _, value in pairs]
            said = opening(options.asn, router_id, options.hold_time, is_two_octet=options.two_octet, more=more)
            is_wanted = True
            while is_wanted:
                with connect(options) as peer:
                    with contextlib.suppress(OSError):  # the end of it is still to be read
                        peer.sendall(said)
                    Speaker(peer, control, options.hold_time).run()
                is_wanted = options.again
        finally:
            Path(options.control).unlink()


if __name__ == "__main__":
    main()
