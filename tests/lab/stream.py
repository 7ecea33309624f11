"""A TCP stream of single octets, one each 20 ms, and what arrives of it: whether a connection is cut.

stream.py serve ADDRESS PORT    says "listening"; sends to each that calls, and says how much TCP has taken so far
stream.py hear ADDRESS PORT     says how much has arrived so far, whenever something does
"""

from __future__ import annotations

import socket
import sys
import time

PACE_S = 0.02


def main() -> None:
    """Be either end."""
    what, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if what == "serve":
        with socket.create_server((address, port), family=family) as server:
            print("listening", flush=True)  # noqa: T201  what it is for
            connection, _ = server.accept()
            count = 0
            while connection.send(b"."):
                count += 1
                print(count, flush=True)  # noqa: T201  the same
                time.sleep(PACE_S)
    with socket.create_connection((address, port)) as opened:
        count = 0
        while data := opened.recv(1 << 16):
            count += len(data)
            print(count, flush=True)  # noqa: T201  the same


if __name__ == "__main__":
    main()
