"""A watch over the kernels of a mesh: says when the last of them has the pod CIDRs of all the others.

Runs in a node of a lab, whose namespaces are named below /run/netns. It listens to the route notifications of every
node; when all that is wanted was told, the tables are read out and compared, again and again until they are right.

    {"event": "watching", "at": 81.004}
    {"event": "complete", "at": 90.101, "seen_by": "notifications", "nodes": 30}
"""

from __future__ import annotations

import argparse
import ctypes
import ipaddress
import os
import selectors
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.scenario import Member, members
from tests.bench.watch import RTM_NEWROUTE, LostError, Notices, Reader, SilentError, say

CLONE_NEWNET = 0x40000000  # linux/sched.h
AGAIN_S = 0.05


@contextmanager
def network_of(node: str) -> Iterator[None]:
    """Open sockets in a node's network namespace; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open("rb") as own, Path(f"/run/netns/{node}").open("rb") as other:
        for namespace in (other, own):
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            if namespace is other:
                yield


@dataclass(slots=True)
class Kernel:
    """The kernel of one node: packed pod CIDR -> packed gateway, as wanted; and what was not told yet."""

    name: str
    wanted: dict[bytes, bytes]
    notices: Notices
    reader: Reader
    untold: set[bytes] = field(default_factory=set)

    @classmethod
    def of(cls, member: Member, everybody: Sequence[Member]) -> Kernel:
        """Open both ways of seeing it."""
        wanted = {
            ipaddress.ip_network(other.block).network_address.packed: ipaddress.ip_address(other.address).packed
            for other in everybody
            if other is not member
        }
        bits = ipaddress.ip_network(member.block).prefixlen
        with network_of(member.name):
            return cls(member.name, wanted, Notices(4, bits), Reader(4, bits), set(wanted))

    def hear(self) -> None:
        """Take what its kernel tells; raises LostError."""
        try:
            while (heard := self.notices.hear(0)) is not None:
                if heard[0] == RTM_NEWROUTE:
                    self.untold.discard(heard[1])
        except SilentError:
            pass  # heard again while there is more

    @property
    def is_right(self) -> bool:
        """Whether its table holds all that is wanted; its own pod CIDR may be there or not."""
        found = self.reader.read()
        return self.wanted.items() <= found.items() and len(found) <= len(self.wanted) + 1


def wait(kernels: Sequence[Kernel], deadline: float) -> tuple[float, str]:
    """Return the monotonic second of the last route, and by what it was seen; raises TimeoutError."""
    poller = selectors.DefaultSelector()
    for kernel in kernels:
        poller.register(kernel.notices.sock, selectors.EVENT_READ, kernel)
    at, seen_by = time.monotonic(), "notifications"
    try:
        while any(kernel.untold for kernel in kernels):
            for key, _ in poller.select(max(deadline - time.monotonic(), 0)):
                key.data.hear()
                at = time.monotonic()
            if time.monotonic() > deadline:
                break
    except LostError:
        seen_by = "readings"
    while wrong := [kernel.name for kernel in kernels if not kernel.is_right]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not complete: {', '.join(wrong)}")
        time.sleep(AGAIN_S)
        at, seen_by = time.monotonic(), "readings"
    return at, seen_by


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program; ends when every kernel is complete."""
    parser = argparse.ArgumentParser(description="say when every kernel of a mesh is complete")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S")
    options = parser.parse_args(argv)
    everybody = members(options.nodes)
    kernels = [Kernel.of(member, everybody) for member in everybody]
    say("watching", time.monotonic())
    try:
        at, seen_by = wait(kernels, time.monotonic() + options.timeout)
    except TimeoutError as error:
        say("not complete", time.monotonic(), reason=str(error))
        return 1
    say("complete", at, seen_by=seen_by, nodes=len(kernels))
    return 0


if __name__ == "__main__":
    sys.exit(main())
