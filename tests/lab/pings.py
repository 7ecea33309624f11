"""Echo requests at a steady pace to some addresses, and how many are answered: `pings.py ADDRESS...`, until SIGTERM.

Prints {ADDRESS: [sent, answered]} a few times a second; the last once all are answered or half a minute is over, which
`ping` does not wait for: whatever its -W, an answer to its last request has two round trips. The pace begins with the
first answer: of two requests at once that are the first of their flow, connection tracking drops one, as ICMP has none
of the ways out that UDP has (`nf_ct_resolve_clash`). Until then the first is sent again each second, and counts once:
a neighbour may not be found at first. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time

PAUSE_S = 0.02
TOLD_S = 0.2
AGAIN_S = 1.0
PATIENCE_S = 30.0
REQUEST, REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}  # RFC 792, RFC 4443 §4.1
_ICMP_FILTER = _ICMPV6_FILTER = 1  # linux/icmp.h, linux/icmpv6.h
_SOL_RAW = 255


class Target:
    """An address, with the requests that it has not answered yet."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sent = 0
        self.waiting: set[int] = set()
        self.has_answered = False
        self._again_at = 0.0
        self._version = 6 if ":" in address else 4
        self._name = os.getpid() & 0xFFFF
        if self._version == 4:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            self.socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << REPLY[4]) & 0xFFFFFFFF))
        else:
            self.socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            wanted, bit = divmod(REPLY[6], 32)
            blocked = [~(1 << bit) & 0xFFFFFFFF if word == wanted else 0xFFFFFFFF for word in range(8)]
            self.socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, struct.pack("=8I", *blocked))
        self.socket.connect((address, 0))
        self.socket.setblocking(False)

    def ask(self, now: float) -> None:
        """Send the next request, if it is time for it; one that the kernel refuses is not answered either."""
        if not self.has_answered:
            if now < self._again_at:
                return
            self.sent, self._again_at = 0, now + AGAIN_S
        number, self.sent = self.sent, self.sent + 1
        self.waiting.add(number)
        body = struct.pack("!HHI", self._name, number & 0xFFFF, number)
        total = sum(struct.unpack("!5H", bytes((REQUEST[4], 0)) + body))
        total = (total >> 16) + (total & 0xFFFF)
        checksum = ~((total >> 16) + total) & 0xFFFF if self._version == 4 else 0  # the kernel sums what is ICMPv6
        with contextlib.suppress(OSError):
            self.socket.send(struct.pack("!BBH", REQUEST[self._version], 0, checksum) + body)

    def hear(self) -> None:
        """Take in the answers that have come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    packet = self.socket.recv(256)
                except BlockingIOError:
                    raise
                except OSError:  # somebody on the way says that it cannot be reached
                    continue
                name, _, number = struct.unpack_from(
                    "!HHI", packet, (4 * (packet[0] & 15) if self._version == 4 else 0) + 4
                )
                if name == self._name:
                    self.has_answered = True
                    self.waiting.discard(number)


def main(addresses: list[str]) -> None:
    """Ask until SIGTERM, wait for what is missing, and tell."""
    ended: list[int] = []  # no Event, whose lock a signal may find taken by what it interrupts
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    targets = [Target(address) for address in addresses]
    by_socket = {target.socket: target for target in targets}

    def tell() -> None:
        print(json.dumps({each.address: [each.sent, each.sent - len(each.waiting)] for each in targets}), flush=True)  # noqa: T201

    due = told_at = deadline = time.monotonic()
    while not ended or any(each.waiting for each in targets):
        now = time.monotonic()
        if ended:
            if now > deadline:
                break
        else:
            deadline = now + PATIENCE_S
            if now >= due:
                due = max(due + PAUSE_S, now)
                for each in targets:
                    each.ask(now)
        ready, _, _ = select.select(list(by_socket), [], [], PAUSE_S if ended else max(0.0, due - now))
        for one in ready:
            by_socket[one].hear()
        if now >= told_at + TOLD_S:
            told_at = now
            tell()
    tell()


if __name__ == "__main__":
    main(sys.argv[1:])
