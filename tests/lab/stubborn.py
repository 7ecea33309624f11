"""bgpmesh behind a netlink door that fails on demand: it refuses the routes that a file names.

    stubborn.py run --config F          (the arguments are those of bgpmesh)

Each line of /run/bgpmesh/refused is a prefix and an errno; while it stands there, writing that prefix is
refused with it, and each try is noted in /run/bgpmesh/tries as prefix and monotonic second.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bgpmesh import cli
from bgpmesh.kernel import netlink
from bgpmesh.kernel.fib import FibEdge
from bgpmesh.kernel.netlink import NetlinkDoor, Refused

REFUSED = Path("/run/bgpmesh/refused")
TRIES = Path("/run/bgpmesh/tries")
_RTA_DST, _RTMSG_BYTES = 1, 12


class StubbornDoor(NetlinkDoor):
    """The kernel, but for what REFUSED names."""

    def transact(self, messages: bytes | bytearray, last: int) -> list[Refused]:
        """Keep from the kernel what is to be refused, and answer in its place."""
        lines = REFUSED.read_text("ascii").splitlines() if REFUSED.exists() else []
        errnos = {prefix: int(number) for prefix, number in map(str.split, lines)}
        passed, refused, answering = bytearray(), [], last
        for prefix, sequence, text in _split(bytes(messages)):
            if prefix in errnos:
                with TRIES.open("a", encoding="ascii") as tries:
                    tries.write(f"{prefix} {time.monotonic()}\n")
                refused.append(Refused(sequence, errnos[prefix], os.strerror(errnos[prefix])))
            else:
                at, answering = len(passed), sequence
                passed += text
        if not refused:
            return super().transact(messages, last)
        if passed:
            flags = struct.unpack_from("=H", passed, at + 6)[0]
            struct.pack_into("=H", passed, at + 6, flags | netlink.NLM_F_ACK)
            refused += super().transact(passed, answering)
        return refused


def _split(messages: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield (the prefix of a new route or "", sequence number, octets) of each message."""
    at = 0
    for kind, _, sequence, start, end in netlink.walk(messages):
        prefix = ""
        if kind == netlink.RTM_NEWROUTE:
            destination = netlink.attributes(messages, start + _RTMSG_BYTES, end).get(_RTA_DST)
            if destination is not None:
                prefix = f"{ipaddress.ip_address(destination)}/{messages[start + 1]}"
        stop = (end + 3) & ~3
        yield prefix, sequence, messages[at:stop]
        at = stop


if __name__ == "__main__":
    with patch("bgpmesh.daemon.FibEdge", functools.partial(FibEdge, open_door=StubbornDoor)):
        sys.exit(cli.main())
