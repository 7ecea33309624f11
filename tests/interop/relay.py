"""A TCP relay between two BGP speakers, of whose two directions one can be stopped.

    relay.py 192.0.2.9 192.0.2.3        (where it listens, at port 1790, and whom it then calls, at port 179)

What the one who has called says goes through message by message. Once it has got SIGUSR1 the relay prints "stopped"
and reads no more of that: neither does anybody else, and TCP closes the window. What the other one says still goes
through, and so that it goes on saying it the relay tells it KEEPALIVE each second in the caller's place. Connections
that come after the signal are whole.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import sys
from pathlib import Path
from threading import Event, Thread

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.feeder import KEEPALIVE, message

PORT, THEIR_PORT = 1790, 179  # a speaker beside it may have the other one at all addresses
BUFFER = 4096  # octets that the kernel takes of the caller before it closes the window
HEADER = 19  # octets before the body of a message, two of them its length (RFC 4271 §4.1)
EVERY_S = 1.0


class Link:
    """One connection, from the caller to the one who is called."""

    def __init__(self, caller: socket.socket, called: socket.socket) -> None:
        self.is_stopped = Event()
        self._caller, self._called = caller, called

    def run(self) -> None:
        """Go on until either side has ended it."""
        answers = Thread(target=self._pass_answers)
        answers.start()
        with contextlib.suppress(OSError):
            while not self.is_stopped.is_set() and (said := _message(self._caller)):
                self._called.sendall(said)
            if self.is_stopped.is_set():
                print("stopped", flush=True)  # noqa: T201  what it is waited for by
                self._stand_in()
        self._end()
        answers.join()
        self._caller.close()
        self._called.close()

    def _stand_in(self) -> None:
        """Say KEEPALIVE until the caller's connection is reset, or is no more ours."""
        ended = select.poll()
        ended.register(self._caller, 0)  # POLLHUP and POLLERR come unasked
        while not ended.poll(EVERY_S * 1000):
            self._called.sendall(message(KEEPALIVE, b""))

    def _pass_answers(self) -> None:
        with contextlib.suppress(OSError):
            while said := self._called.recv(65536):
                self._caller.sendall(said)
        self._end()

    def _end(self) -> None:
        for sock in (self._caller, self._called):
            with contextlib.suppress(OSError):  # it has ended by itself
                sock.shutdown(socket.SHUT_RDWR)


def _message(sock: socket.socket) -> bytes:
    """Return the next message and take nothing behind it; b"" at the end."""
    header = sock.recv(HEADER, socket.MSG_WAITALL)
    if len(header) < HEADER:
        return b""
    rest = int.from_bytes(header[16:18], "big") - HEADER
    return header + (sock.recv(rest, socket.MSG_WAITALL) if rest else b"")


def main() -> None:
    """Run as a program."""
    own, other = sys.argv[1:]
    links: list[Link] = []

    def stop(*_: object) -> None:
        for link in links:
            link.is_stopped.set()

    signal.signal(signal.SIGUSR1, stop)
    with socket.create_server((own, PORT)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        print("listening", flush=True)  # noqa: T201  the same
        while True:
            caller, _ = server.accept()
            try:
                called = socket.create_connection((other, THEIR_PORT), source_address=(own, 0))
            except OSError:
                caller.close()
                continue
            links.append(Link(caller, called))
            Thread(target=links[-1].run, daemon=True).start()


if __name__ == "__main__":
    main()
