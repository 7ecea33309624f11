"""Numbered data over TCP, there and back, in a workload's namespace: `flow.py serve|send ADDRESS PORT`.

The server sends back what it gets. The client sends the numbers 0, 1, 2 ... without a pause until SIGTERM,
checks that they come back complete and in order, and prints one line of JSON. Standard library only, and
no import of ours: it is started beside a dozen pings on a busy machine.
"""

import json
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

CHUNK = 100  # numbers at a time
PAUSE_S = 0.005  # between chunks, so that the flow leaves the machine something
LATE_S = 5.0  # in which the other end says that it has something twice


def segments_lost() -> int:
    """Return how many segments this network namespace sent again that had not arrived the first time.

    On a busy machine timers go off for nothing; the other end then says that it has the segment twice (RFC 2883), which
    is waited for. SYNs do not count: what is there is a flow that flows, and before it the first neighbour may take a
    second to find.
    """
    deadline = time.monotonic() + LATE_S
    while (lost := _segments_lost()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return lost


def _segments_lost() -> int:
    count: dict[str, int] = {}
    for file in ("/proc/self/net/snmp", "/proc/self/net/netstat"):
        rows = [line.split() for line in Path(file).read_text("ascii").splitlines()]
        for names, values in zip(rows[::2], rows[1::2], strict=True):
            if names[0] in ("Tcp:", "TcpExt:"):
                count.update(zip(names[1:], map(int, values[1:]), strict=True))
    # One word of the other end may speak of several segments; it is counted by words, and since Linux 5.9 by segments.
    twice = max(count["TCPDSACKRecv"] + count["TCPDSACKOfoRecv"], count.get("TCPDSACKRecvSegs", 0))
    return max(0, count["RetransSegs"] - count["TCPSynRetrans"] - twice)


def serve(address: str, port: int) -> None:
    """Send back everything of one connection."""
    with socket.create_server((address, port), family=family_of(address)) as listener:
        print("listening", flush=True)  # noqa: T201  a program's output
        connection, _ = listener.accept()
    with connection:
        while data := connection.recv(1 << 16):
            connection.sendall(data)
    print(json.dumps({"lost": segments_lost()}), flush=True)  # noqa: T201


def send(address: str, port: int) -> None:
    """Send numbers until SIGTERM and check what comes back."""
    is_over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_over.set())
    sent = back = 0
    is_in_order = True
    with socket.socket(family_of(address), socket.SOCK_STREAM) as connection:
        connection.connect((address, port))

        def write() -> None:
            nonlocal sent
            while not is_over.wait(PAUSE_S):
                connection.sendall(struct.pack(f"!{CHUNK}Q", *range(sent, sent + CHUNK)))
                sent += CHUNK
            connection.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        left = b""
        while data := connection.recv(1 << 16):
            if not back:
                print("flowing", flush=True)  # noqa: T201
            left += data
            whole = len(left) // 8
            numbers = struct.unpack(f"!{whole}Q", left[: 8 * whole])
            is_in_order = is_in_order and numbers == tuple(range(back, back + whole))
            back += whole
            left = left[8 * whole :]
        writer.join()
    answer = {"sent": sent, "back": back, "is_in_order": is_in_order, "lost": segments_lost()}
    print(json.dumps(answer), flush=True)  # noqa: T201


def family_of(address: str) -> socket.AddressFamily:
    """Return the family of an address in text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


if __name__ == "__main__":
    {"serve": serve, "send": send}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
