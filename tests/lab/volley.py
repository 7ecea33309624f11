"""Datagrams of many flows at a steady pace, and an account of each that arrives where none should.

volley.py send RATE FLOW...   each FLOW is `NAME,SOURCE,TARGET,PORT`, RATE datagrams a second each; SOURCE "" is any
volley.py hear PORT           says "listening"

Both print a line of JSON again and again: `{"at": seconds, "seen": {flow: datagrams so far}, ..}`, by the monotonic
clock. The sender counts what came back, and in "tries" how often it has sent; of what had arrived by "told_until" the
hearer has told. The name of a flow says what is to become of it: one that begins with `no-` must not arrive, and the
hearer prints `{"at": seconds, "strayed": flow}` where one does, with the time at which the kernel took it; one with
`-echo` in it is sent back. Standard library only: it runs in a workload's namespace.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import sys
import time

TOLD_S = 0.2
AT_ONCE_S = 0.005
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75  # linux/in.h, linux/in6.h
_SO_TIMESTAMPNS, _TIMESPEC = 35, struct.Struct("@ll")  # asm-generic/socket.h, time(7)


class Account:
    """Counts by flow, told a few times a second."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._told_at = 0.0

    def count(self, flow: str) -> None:
        """Note one datagram."""
        self._seen[flow] = self._seen.get(flow, 0) + 1

    def tell(self, now: float, **more: float) -> None:
        """Print the counts, and more, if the last line is old enough."""
        if now >= self._told_at + TOLD_S:
            self._told_at = now
            tell({"at": now, "seen": self._seen, **more})


def tell(what: dict[str, object]) -> None:
    """Print one line at once."""
    print(json.dumps(what), flush=True)  # noqa: T201  a program's output


def hear(port: int) -> None:
    """Take datagrams of either family until killed."""
    account = Account()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as opened:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        opened.bind(("::", port))
        print("listening", flush=True)  # noqa: T201  a program's output
        while True:
            select.select([opened], [], [], TOLD_S)
            now = time.monotonic()
            with contextlib.suppress(BlockingIOError):
                while True:
                    take(opened, account)
            account.tell(time.monotonic(), told_until=now)


def take(opened: socket.socket, account: Account) -> None:
    """Take one datagram; raises BlockingIOError where there is none."""
    data, control, _, sender = opened.recvmsg(256, 64)
    flow = data.decode()
    account.count(flow)
    if flow.startswith("no-"):
        seconds, nanoseconds = _TIMESPEC.unpack(next(value for _, kind, value in control if kind == _SO_TIMESTAMPNS))
        tell({"at": seconds + nanoseconds / 1e9 + monotonic_of_zero(), "strayed": flow})
    if "-echo" in flow:
        with contextlib.suppress(OSError):
            opened.sendto(data, sender)


def monotonic_of_zero() -> float:
    """Return what the monotonic clock showed when the other one showed 0; read while nobody took the turn from us."""
    while True:
        before, now, after = time.monotonic(), time.time(), time.monotonic()
        if after - before < AT_ONCE_S:
            return before - now


def send(rate: float, flows: list[str]) -> None:
    """Send until killed; what the kernel refuses to send is as good as lost."""
    account = Account()
    sockets: list[tuple[socket.socket, bytes, tuple[str, int]]] = []
    for flow in flows:
        name, source, target, port = flow.split(",")
        opened = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM)
        opened.setblocking(False)
        level, option = (
            (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT) if ":" in target else (socket.IPPROTO_IP, _IP_TRANSPARENT)
        )
        if source:
            opened.setsockopt(level, option, 1)  # also an address that is somebody else's
        opened.bind((source, 0))
        sockets.append((opened, name.encode(), (target, int(port))))
    due, tries = time.monotonic(), 0
    while True:
        tries += 1
        for opened, data, address in sockets:
            with contextlib.suppress(OSError):
                opened.sendto(data, address)
        due = max(due + 1 / rate, time.monotonic() - 1.0)
        while (left := due - time.monotonic()) > 0:
            for opened in select.select([each for each, _, _ in sockets], [], [], left)[0]:
                with contextlib.suppress(OSError):
                    account.count(opened.recv(256).decode())
        account.tell(time.monotonic(), tries=tries)


if __name__ == "__main__":
    if sys.argv[1] == "hear":
        hear(int(sys.argv[2]))
    else:
        send(float(sys.argv[2]), sys.argv[3:])
