"""Datagrams from ever new ports, so that each is the first of its connection; the other end is `source.py serve`.

prober.py ask ADDRESS PORT      one at a time until SIGTERM; each has half a minute; prints how many were sent, each
                                tenth time, and {"asked", "answered"} at the end
prober.py watch ADDRESS PORT    one each 2.5 ms until SIGTERM; prints when each that was answered was sent,
                                in seconds of CLOCK_MONOTONIC, once "watching" stands there

Standard library only.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import signal
import socket
import sys
import time

ANSWER_S = 30.0
PAUSE_S = 0.01
EVERY_S = 0.0025  # a port comes again after 160 s; a connection that was answered is remembered for 120 s
PORTS = range(1024, 65536)
LONGEST_S = 0.25  # that a watched datagram waits for its answer


SOURCES = itertools.cycle(PORTS)


class Ended(Exception):  # noqa: N818  no error
    """SIGTERM came."""


def end(*_: object) -> None:
    """Leave whatever goes on."""
    raise Ended


def opened(address: str, port: int) -> socket.socket:
    """Return a socket with a port of its own, to this address."""
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    if made.family is socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    while True:
        with contextlib.suppress(OSError):  # somebody has that port
            made.bind(("", next(SOURCES)))
            break
    made.connect((address, port))
    return made


def ask(address: str, port: int) -> None:
    """Ask and count answers."""
    asked = answered = 0
    try:
        while True:
            with opened(address, port) as asking:
                asking.settimeout(ANSWER_S)
                asked += 1  # before the answer is counted, whatever moment the end comes at
                with contextlib.suppress(OSError):
                    asking.send(b"?")
                    is_answered = bool(asking.recv(64))
                    answered += is_answered
            if asked % 10 == 1:
                print(asked, flush=True)  # noqa: T201  a program's output
            time.sleep(PAUSE_S)
    except Ended:
        print(json.dumps({"asked": asked, "answered": answered}), flush=True)  # noqa: T201


def watch(address: str, port: int) -> None:
    """Tell which datagrams were answered."""
    waiting: dict[int, tuple[float, socket.socket]] = {}
    poll = select.epoll()
    print("watching", flush=True)  # noqa: T201
    due = time.monotonic()
    with contextlib.suppress(Ended):
        while True:
            now = time.monotonic()
            if now >= due:
                due = max(due + EVERY_S, now)
                asking = opened(address, port)
                asking.setblocking(False)
                with contextlib.suppress(OSError):
                    asking.send(b"?")
                poll.register(asking.fileno(), select.EPOLLIN)
                waiting[asking.fileno()] = now, asking
            for number, _ in poll.poll(max(0.0, due - time.monotonic())):
                sent_at, asking = waiting.pop(number)
                with contextlib.suppress(OSError):
                    if asking.recv(64):
                        print(sent_at, flush=True)  # noqa: T201
                asking.close()
            for number, (sent_at, asking) in list(waiting.items()):
                if sent_at > now - LONGEST_S:
                    break
                del waiting[number]
                asking.close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    {"ask": ask, "watch": watch}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
