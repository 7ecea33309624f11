"""The end of it: everything of ours out of the kernel's routes, with no memory of how it came there."""

from __future__ import annotations

import contextlib
import errno
import functools
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable

from bgpmesh.errors import KernelError
from bgpmesh.kernel import routes
from bgpmesh.kernel.bursts import Piece, transact
from bgpmesh.kernel.mirror import DUMP_TRIES, KernelOptions
from bgpmesh.kernel.netlink import Door, Refused
from bgpmesh.kernel.routes import RouteReader, Shape
from bgpmesh.route.nlri import Nlri, prefix_text


def remove_all(door: Door, options: KernelOptions) -> list[str]:
    """Remove every route of our protocol, in whatever table, then our nexthop objects; say what.

    Raises KernelError where the kernel refuses to tell or to delete.
    """
    reader, said = RouteReader(), []
    by_shape: dict[tuple[int, int], list[Nlri]] = defaultdict(list)
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = functools.partial(routes.dump_routes, family=family, table=0, protocol=options.protocol)
            for _, _, key, shape in reader.read(_whole(door, request)):
                if shape.protocol == options.protocol:
                    by_shape[shape.table, shape.metric].append(key)
                    said.append(f"route {prefix_text(key)} table {shape.table} metric {shape.metric}")
        for (table, metric), keys in by_shape.items():
            anything = Shape(0, options.protocol, table, metric)
            _insist(transact(door, [Piece(keys, None)], anything).values(), "route")
        objects = [
            nexthop
            for _, nexthop in routes.read_nexthops(_whole(door, routes.dump_nexthops))
            if nexthop.protocol == options.protocol
        ]
        for nexthop in sorted(objects, key=lambda nexthop: nexthop.hop is not None):  # groups before their members
            sequence = door.reserve(1)
            _insist(door.transact(routes.joined([routes.delete_nexthop(0, nexthop.id)], sequence), sequence), "nexthop")
            said.append(f"nexthop {'group' if nexthop.hop is None else 'object'} {nexthop.id}")
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return said  # a kernel without nexthop objects
        raise KernelError("uninstall", error.errno or 0, error.strerror or "unknown") from error
    return said


def _whole(door: Door, request: Callable[[int], bytes]) -> bytes:
    """Return the answer of a dump that nothing disturbed; `request` makes it for a sequence number."""
    for _ in range(DUMP_TRIES - 1):
        with contextlib.suppress(InterruptedError):
            return b"".join(door.dump(request(door.reserve(1))))
    return b"".join(door.dump(request(door.reserve(1))))


def _insist(refused: Iterable[Refused], what: str) -> None:
    """Raise for the first refusal that does not mean that it is gone already."""
    for answer in refused:
        if answer.errno not in (errno.ESRCH, errno.ENOENT):
            raise KernelError(what, answer.errno, answer.text)
