"""Many routes in few sends, and each refusal back to its prefix.

The kernel reports a failure even where no acknowledgement was asked, and goes on with the next message: so one is
asked of the last of a burst only, and every refusal is known by its sequence number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bgpmesh.kernel import routes
from bgpmesh.kernel.netlink import Door, Refused
from bgpmesh.kernel.routes import Shape
from bgpmesh.route.nlri import Nlri
from bgpmesh.route.path import Target

BURST_MESSAGES = 2000
BURST_BYTES = 128 * 1024  # what the smallest send buffer takes


class Piece(NamedTuple):
    """Routes of one shape; none: they are deleted."""

    keys: list[Nlri]
    shape: Shape | None
    flags: int = 0
    target: Target | None = None  # what the shape is for


def transact(door: Door, pieces: Iterable[Piece], anything: Shape) -> dict[Nlri, Refused]:
    """Send the pieces in bursts; return the refusals by prefix. `anything` says whose routes a delete means.

    Raises OSError where an answer is lost: what was done is then not known.
    """
    refused: dict[Nlri, Refused] = {}
    burst = bytearray()
    numbered: list[Nlri] = []
    first = size = 0

    def flush() -> None:
        routes.ask_answer(burst, len(burst) - size)
        for answer in door.transact(burst, first + len(numbered) - 1):
            refused[numbered[answer.sequence - first]] = answer
        burst.clear()
        numbered.clear()

    for keys, shape, flags in _alike(pieces):
        width = len(keys[0])
        one = routes.delete_route(width, anything) if shape is None else routes.new_route(width, shape, flags)
        start = 0
        while start < len(keys):
            room = min(BURST_MESSAGES - len(numbered), (BURST_BYTES - len(burst)) // len(one))
            if room <= 0:
                flush()
                continue
            if not numbered:
                first = door.reserve(BURST_MESSAGES)
            some = keys[start : start + room]
            burst += routes.for_each(one, some, first + len(numbered))
            size = len(one)
            numbered += some
            start += len(some)
    if numbered:
        flush()
    return refused


def _alike(pieces: Iterable[Piece]) -> Iterator[tuple[list[Nlri], Shape | None, int]]:
    """Yield what one template writes: keys of one family, their shape, the flags."""
    for keys, shape, flags, _ in pieces:
        widths = set(map(len, keys))
        for width in sorted(widths):
            yield keys if len(widths) == 1 else [key for key in keys if len(key) == width], shape, flags
