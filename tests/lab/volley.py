"""Datagrams of many flows at a steady pace, and an account of each that arrives where none should.

volley.py send RATE FLOW...   each FLOW is `NAME,SOURCE,TARGET,PORT`, RATE datagrams a second each; SOURCE "" is any
volley.py hear PORT           says "listening"

Both print a line of JSON again and again: `{"at": seconds, "seen": {flow: datagrams so far}}`, by the monotonic clock;
the sender counts what came back. The name of a flow says what is to become of it: one that begins with `no-` must not
arrive, and the hearer prints `{"at": seconds, "strayed": flow}` at once where one does; one with `-echo` in it is sent
back. Standard library only: it runs in a workload's namespace.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time

TOLD_S = 0.2
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75  # linux/in.h, linux/in6.h


class Account:
    """Counts by flow, told a few times a second."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._told_at = 0.0

    def count(self, flow: str) -> None:
        """Note one datagram."""
        self._seen[flow] = self._seen.get(flow, 0) + 1

    def tell(self, now: float) -> None:
        """Print the counts if the last line is old enough."""
        if now >= self._told_at + TOLD_S:
            self._told_at = now
            tell({"at": now, "seen": self._seen})


def tell(what: dict[str, object]) -> None:
    """Print one line at once."""
    print(json.dumps(what), flush=True)  # noqa: T201  a program's output


def hear(port: int) -> None:
    """Take datagrams of either family until killed."""
    account = Account()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as opened:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        opened.bind(("::", port))
        opened.settimeout(TOLD_S)
        print("listening", flush=True)  # noqa: T201  a program's output
        while True:
            with contextlib.suppress(TimeoutError):
                data, sender = opened.recvfrom(256)
                flow = data.decode()
                account.count(flow)
                if flow.startswith("no-"):
                    tell({"at": time.monotonic(), "strayed": flow})
                if "-echo" in flow:
                    with contextlib.suppress(OSError):
                        opened.sendto(data, sender)
            account.tell(time.monotonic())


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
    due = time.monotonic()
    while True:
        for opened, data, address in sockets:
            with contextlib.suppress(OSError):
                opened.sendto(data, address)
        due = max(due + 1 / rate, time.monotonic() - 1.0)
        while (left := due - time.monotonic()) > 0:
            for opened in select.select([each for each, _, _ in sockets], [], [], left)[0]:
                with contextlib.suppress(OSError):
                    account.count(opened.recv(256).decode())
        account.tell(time.monotonic())


if __name__ == "__main__":
    if sys.argv[1] == "hear":
        hear(int(sys.argv[2]))
    else:
        send(float(sys.argv[2]), sys.argv[3:])
