"""The kernel's own limit: how fast routes by one nexthop id can be added and deleted, by a program that does no more.

That program is yardstick.c where there is a C compiler. Elsewhere it is this one, with every burst encoded before
the clock runs, so that only its system calls are Python's; `by` says which it was.

    {"event": "measured", "at": 81.004, "by": "C", "add_s": 0.31, "delete_s": 0.30, "routes": 100000}
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.feeder import IPAddress, say
from tests.bench.watch import RTM_DELROUTE, RTM_NEWROUTE

SOURCE = Path(__file__).with_suffix(".c")
NEXTHOP_ID, PROTOCOL, METRIC, PER_CALL = 1, 77, 32, 1000
# linux/netlink.h, linux/rtnetlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE_CREATE = 1, 4, 0x500
RTA_DST, RTA_PRIORITY, RTA_NH_ID, RT_TABLE_MAIN, RT_SCOPE_NOWHERE, RTN_UNICAST = 1, 6, 30, 254, 255, 1
SO_SNDBUFFORCE = 32


def compiled(folder: Path, source: Path = SOURCE) -> Path | None:
    """Return the compiled program; None where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program = folder / source.stem
    subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return program


def message(kind: int, sequence: int, address: bytes, flags: int) -> bytes:
    """Return one RTM_NEWROUTE or RTM_DELROUTE."""
    is_new = kind == RTM_NEWROUTE
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    scope, way = (0, RTN_UNICAST) if is_new else (RT_SCOPE_NOWHERE, 0)
    body = struct.pack("=BBBBBBBBI", family, len(address) * 8, 0, 0, RT_TABLE_MAIN, PROTOCOL, scope, way, 0)
    body += struct.pack("=HH", 4 + len(address), RTA_DST) + address + struct.pack("=HHI", 8, RTA_PRIORITY, METRIC)
    if is_new:
        body += struct.pack("=HHI", 8, RTA_NH_ID, NEXTHOP_ID)
    flags |= NLM_F_REQUEST | (NLM_F_REPLACE_CREATE if is_new else 0)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def bursts(kind: int, first: IPAddress, routes: int) -> Iterator[bytes]:
    """Yield what one system call takes each; the last message of each asks for an acknowledgement."""
    for start in range(0, routes, PER_CALL):
        numbers = range(start, min(start + PER_CALL, routes))
        last = numbers[-1]
        yield b"".join(
            message(kind, number + 1, (first + number).packed, NLM_F_ACK if number == last else 0) for number in numbers
        )


def send(prepared: Sequence[bytes]) -> float:
    """Return how many seconds the kernel took for these bursts; raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE if os.geteuid() == 0 else socket.SO_SNDBUF, 4 << 20)
        began = time.monotonic()
        for burst in prepared:
            netlink.send(burst)
            number = -struct.unpack_from("=i", netlink.recv(1 << 16), 16)[0]
            if number:
                raise OSError(number, f"route refused: {os.strerror(number)}")
        return time.monotonic() - began


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description="measure the kernel's own limit")
    parser.add_argument("--gateway", type=ipaddress.ip_address, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--first", type=ipaddress.ip_address, required=True)
    parser.add_argument("--routes", type=int, required=True)
    parser.add_argument("--python", action="store_true", help="do without the C compiler")
    options = parser.parse_args(argv)
    first: IPAddress = options.first
    way = ["id", str(NEXTHOP_ID), "via", str(options.gateway), "dev", options.device]
    subprocess.run(["ip", f"-{first.version}", "nexthop", "add", *way], check=True)
    program = None if options.python else compiled(Path("/run"))
    if program is not None:
        words = [str(program), str(first.version), str(first), str(options.routes), str(PER_CALL), str(NEXTHOP_ID)]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
        by, add_s, delete_s = "C", float(said[0]), float(said[1])
    else:
        prepared = [list(bursts(kind, first, options.routes)) for kind in (RTM_NEWROUTE, RTM_DELROUTE)]
        by, (add_s, delete_s) = "Python", map(send, prepared)
    say("measured", by=by, add_s=add_s, delete_s=delete_s, routes=options.routes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
