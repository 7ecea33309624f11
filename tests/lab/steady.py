"""Numbered datagrams at a steady pace from one port, and who answers them: `steady.py ADDRESS PORT`, until SIGTERM.

The other end is `source.py serve ADDRESS PORT NAME`. Prints the name each time another one answers, in the order in
which they were asked, and at the end {"sent", "answered"}, once all are answered or half a minute is over. No more are
under way than a socket has room for, as the other end may get no turn for a while. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import sys
import time

PAUSE_S = 0.002
MOST_UNANSWERED = 200  # a datagram takes some 800 octets of a buffer, which has 212,992 at least
PATIENCE_S = 30.0


def main(address: str, port: int) -> None:
    """Ask until SIGTERM, wait for what is missing, and tell."""
    ended: list[int] = []  # no Event, whose lock a signal may find taken by what it interrupts
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    sent = answered = told = 0
    before = ""
    names: dict[int, str] = {}  # of those who answered what comes behind something unanswered
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        asking.connect((address, port))
        asking.setblocking(False)
        deadline = due = time.monotonic()
        while sent > answered or not ended:
            now = time.monotonic()
            if ended:
                if now > deadline:
                    break
            else:
                deadline = now + PATIENCE_S
                if now >= due and sent - answered < MOST_UNANSWERED:
                    due = max(due + PAUSE_S, now)
                    asking.send(str(sent).encode())
                    sent += 1
            select.select([asking], [], [], PAUSE_S)
            with contextlib.suppress(BlockingIOError):
                while answer := asking.recv(64).decode().split():
                    answered += 1
                    names[int(answer[2])] = answer[0]
            while name := names.pop(told, ""):
                told += 1
                if name != before:
                    before = name
                    print(name, flush=True)  # noqa: T201  a program's output
    print(json.dumps({"sent": sent, "answered": answered}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
