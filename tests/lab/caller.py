"""Who answers at an address, asked again and again, and for how long nobody does. Standard library only.

caller.py serve NAME PORT ADDRESS...   answers with NAME, UDP and TCP, until killed; says "listening"
caller.py poll ADDRESS PORT            asks by UDP every few ms until SIGTERM, once by one connection and once by a
                                       new one each time, from a port that no other had; says who answered, in the
                                       order of the asking, and the longest gap in ms
caller.py hold ADDRESS PORT            a TCP connection that is written to until it breaks; says who answered and why
"""

from __future__ import annotations

import itertools
import json
import signal
import socket
import sys
import threading
import time

EVERY_S = 0.004  # a port comes again after four minutes; a connection is remembered for two
PORTS = itertools.cycle(range(1024, 65536))


def family_of(address: str) -> socket.AddressFamily:
    """Return the family of an address in text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(name: str, port: str, *addresses: str) -> None:
    """Answer with a name."""
    said = name.encode()

    def datagrams(opened: socket.socket) -> None:
        while True:
            asked, asker = opened.recvfrom(64)
            opened.sendto(asked + said, asker)

    def stream(connection: socket.socket) -> None:
        with connection:
            connection.sendall(said)
            while connection.recv(1024):
                pass

    def streams(listener: socket.socket) -> None:
        while True:
            threading.Thread(target=stream, args=(listener.accept()[0],), daemon=True).start()

    for address in addresses:
        opened = socket.socket(family_of(address), socket.SOCK_DGRAM)
        opened.bind((address, int(port)))
        threading.Thread(target=datagrams, args=(opened,), daemon=True).start()
        listener = socket.create_server((address, int(port)), family=family_of(address))
        threading.Thread(target=streams, args=(listener,), daemon=True).start()
    print("listening", flush=True)  # noqa: T201  a program's output
    signal.pause()


class Answers:
    """Who has answered in order, and the longest time in which nobody did."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._last: tuple[str, float] | None = None
        self._by_number: list[tuple[int, str]] = []

    @property
    def names(self) -> list[str]:
        """Who has answered, by the number of what was asked; nobody twice in a row."""
        return [name for name, _ in itertools.groupby(name for _, name in sorted(self._by_number))]

    def came(self, number: int, name: str, at: float) -> bool:
        """Note an answer; True if it is of another than the one that came before."""
        before, since = self._last or ("", at)
        self.longest_s = max(self.longest_s, at - since)
        self._last = name, at
        self._by_number.append((number, name))
        return name != before

    def __len__(self) -> int:
        """How many there were."""
        return len(self._by_number)


def bind_anew(opened: socket.socket) -> None:
    """Give a socket a port that none had lately: to connection tracking it would be the connection of before."""
    while True:
        try:
            opened.bind(("", next(PORTS)))
        except OSError:  # somebody has that port
            continue
        return


def poll(address: str, port: str) -> None:
    """Ask until SIGTERM."""
    ended: list[int] = []  # no Event, whose lock a signal may find taken by what it interrupts
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    kept, fresh = Answers(), Answers()
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as one:
        one.connect((address, int(port)))
        one.setblocking(False)
        waiting: list[socket.socket] = []
        number = 0
        while not ended:
            time.sleep(EVERY_S)
            another = socket.socket(family_of(address), socket.SOCK_DGRAM)
            another.setblocking(False)
            bind_anew(another)
            number += 1
            waiting.append(another)
            for opened in (one, another):
                try:
                    if opened is another:  # once: a socket that connects again takes another way of several
                        opened.connect((address, int(port)))
                    opened.send(b"%d?" % number)
                except OSError:
                    continue  # unreachable for the moment
            for opened, answers in ((one, kept), *((each, fresh) for each in waiting)):
                try:
                    while answer := opened.recv(64):
                        asked, _, name = answer.decode().partition("?")
                        if answers.came(int(asked), name, time.monotonic()) and answers is fresh:
                            print(f"answered {name}", flush=True)  # noqa: T201
                except OSError:
                    continue
            while len(waiting) > 50:
                waiting.pop(0).close()
    print(  # noqa: T201
        json.dumps(
            {
                word: {"names": answers.names, "gap_ms": round(1000 * answers.longest_s)}
                for word, answers in (("kept", kept), ("fresh", fresh))
            }
        ),
        flush=True,
    )


def hold(address: str, port: str) -> None:
    """Write to a TCP connection until it breaks."""
    with socket.create_connection((address, int(port)), timeout=30) as connection:
        print(f"connected {connection.recv(64).decode()}", flush=True)  # noqa: T201
        try:
            while True:
                connection.sendall(b"x")
                time.sleep(0.05)
        except OSError as error:
            print(f"broken {error.strerror}", flush=True)  # noqa: T201


if __name__ == "__main__":
    {"serve": lambda: serve(*sys.argv[2:]), "poll": lambda: poll(*sys.argv[2:]), "hold": lambda: hold(*sys.argv[2:])}[
        sys.argv[1]
    ]()
