"""Which source a packet has where it arrives: a server that answers each datagram with the address it came from.

source.py serve ADDRESS PORT [NAME]         says "listening"; answers "NAME ADDRESS" where it has a name, and behind
                                            that the number where it was asked with one
source.py ask ADDRESS PORT TRIES [FROM]     prints the answer; exit status 1 if there is none in TRIES half seconds;
                                            FROM is the port to ask from, always the same connection to a NAT
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

PATIENCE_S = 0.5


def main() -> int:
    """Be the server or the one that asks."""
    what, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as opened:
        if what == "serve":
            serve(opened, address, port, "".join(f"{name} " for name in sys.argv[4:]))
        return ask(opened, address, port, int(sys.argv[4]), *map(int, sys.argv[5:]))


def serve(opened: socket.socket, address: str, port: int, front: str) -> None:
    """Answer until killed."""
    opened.bind((address, port))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # for what comes while it has no turn
    print("listening", flush=True)  # noqa: T201  what it is for
    while True:
        asked, asker = opened.recvfrom(64)
        behind = f" {asked.decode()}" if asked.isdigit() else ""
        with contextlib.suppress(OSError):  # no route leads back
            opened.sendto(f"{front}{asker[0]}{behind}".encode(), asker)


def ask(opened: socket.socket, address: str, port: int, tries: int, own_port: int = 0) -> int:
    """Ask until there is an answer; connected, so that nobody else's counts."""
    opened.settimeout(PATIENCE_S)
    opened.bind(("", own_port))
    for _ in range(tries):
        try:
            opened.connect((address, port))
            opened.send(b"?")
            answer = opened.recv(64)
        except TimeoutError:
            continue
        except OSError:  # unreachable, or refused
            time.sleep(PATIENCE_S)
            continue
        print(answer.decode())  # noqa: T201  what it is for
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
