"""Many raw BGP speakers in one process, which all daemons of a lab call: they feed the same table to each.

    table.py CONTROL ADDRESS=ASN...

Each address listens on port 179 and answers a call with an OPEN in its own name. The control socket takes one JSON
object a line, {ADDRESS: "ff.."}, and puts the octets on every connection of that address. "established ADDRESS PEER"
is printed for each session. Standard library only, and nothing of bgpmesh.
"""

from __future__ import annotations

import ipaddress
import json
import select
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.feeder import KEEPALIVE, OPEN, message
from tests.lab.raw import opening

HOLD_TIME_S = 90


@dataclass(slots=True, eq=False)
class Call:
    """One connection: of which speaker, and from whom."""

    opened: socket.socket
    speaker: str
    peer: str
    heard: bytes = b""
    is_established: bool = False


class Table:
    """The speakers, and who has called them."""

    def __init__(self, control: socket.socket, speakers: dict[str, int]) -> None:
        self._control = control
        self._speakers = speakers
        self._listening = {socket.create_server((address, 179)): address for address in speakers}
        self._calls: dict[socket.socket, Call] = {}

    def run(self) -> None:
        """Go on until killed."""
        keepalive_at = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= keepalive_at:
                keepalive_at = now + HOLD_TIME_S / 3
                for call in self._calls.values():
                    if call.is_established:
                        call.opened.sendall(message(KEEPALIVE, b""))
            ready, _, _ = select.select(
                [self._control, *self._listening, *self._calls], [], [], max(keepalive_at - now, 0.0)
            )
            for each in ready:
                if each is self._control:
                    self._obey()
                elif each in self._listening:
                    opened, (peer, _) = each.accept()
                    self._calls[opened] = Call(opened, self._listening[each], peer)
                else:
                    self._read(self._calls[each])

    def _obey(self) -> None:
        asking, _ = self._control.accept()
        with asking, asking.makefile("rw", encoding="ascii") as lines:
            said = json.loads(lines.readline())
            for call in self._calls.values():
                if call.is_established:
                    call.opened.sendall(bytes.fromhex(said.get(call.speaker, "")))
            lines.write("{}\n")

    def _read(self, call: Call) -> None:
        try:
            data = call.opened.recv(65_536)
        except OSError:
            data = b""
        if not data:
            del self._calls[call.opened]
            call.opened.close()
            return
        call.heard += data
        while len(call.heard) >= 19 and len(call.heard) >= (size := int.from_bytes(call.heard[16:18], "big")):
            kind, call.heard = call.heard[18], call.heard[size:]
            if kind == OPEN:
                router_id = int(ipaddress.IPv4Address(call.speaker))
                call.opened.sendall(opening(self._speakers[call.speaker], router_id, HOLD_TIME_S))
                call.opened.sendall(message(KEEPALIVE, b""))
            elif kind == KEEPALIVE and not call.is_established:
                call.is_established = True
                print("established", call.speaker, call.peer, flush=True)  # noqa: T201  what it is for


def main() -> None:
    """Run as a program."""
    speakers = {address: int(asn) for address, _, asn in (word.partition("=") for word in sys.argv[2:])}
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(sys.argv[1])
        control.listen()
        Table(control, speakers).run()


if __name__ == "__main__":
    main()
