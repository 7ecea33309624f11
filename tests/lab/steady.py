"""Numbered datagrams at a steady pace from one port, and who answers them: `steady.py ADDRESS PORT`, until SIGTERM.

The other end is `source.py serve ADDRESS PORT NAME`. Prints the name each time another one answers, and at the end
{"sent", "answered"}, the last once all are answered or half a minute is over. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import sys
import threading
import time

PAUSE_S = 0.002
PATIENCE_S = 30.0


def main(address: str, port: int) -> None:
    """Ask until SIGTERM, wait for what is missing, and tell."""
    is_over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_over.set())
    sent = answered = 0
    before = ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((address, port))
        asking.setblocking(False)
        deadline = due = time.monotonic()
        while sent > answered or not is_over.is_set():
            now = time.monotonic()
            if is_over.is_set():
                if now > deadline:
                    break
            else:
                deadline = now + PATIENCE_S
                if now >= due:
                    due = max(due + PAUSE_S, now)
                    sent += asking.send(b"?")
            select.select([asking], [], [], PAUSE_S)
            with contextlib.suppress(BlockingIOError):
                while name := asking.recv(64).decode().split()[0]:
                    answered += 1
                    if name != before:
                        before = name
                        print(name, flush=True)  # noqa: T201  a program's output
    print(json.dumps({"sent": sent, "answered": answered}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
