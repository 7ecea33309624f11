"""Which source a packet has where it arrives: a server that answers each datagram with the address it came from.

source.py serve ADDRESS PORT       says "listening"
source.py ask ADDRESS PORT TRIES   prints the answer; exit status 1 if there is none in TRIES half seconds
"""

from __future__ import annotations

import contextlib
import socket
import sys


def main() -> int:
    """Be the server or the one that asks."""
    what, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as opened:
        if what == "serve":
            opened.bind((address, port))
            print("listening", flush=True)  # noqa: T201  what it is for
            while True:
                _, asker = opened.recvfrom(64)
                with contextlib.suppress(OSError):  # no route leads back
                    opened.sendto(asker[0].encode(), asker)
        opened.settimeout(0.5)
        for _ in range(int(sys.argv[4])):
            opened.sendto(b"?", (address, port))
            try:
                answer, _ = opened.recvfrom(64)
            except TimeoutError:
                continue
            print(answer.decode())  # noqa: T201  what it is for
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
