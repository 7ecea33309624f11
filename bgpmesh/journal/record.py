"""The journal as it is kept: in memory, and on disk where that is wanted.

In memory a line is not text yet but what `marshal` makes of it, since most lines are never read: three quarters of
the octets, and less than half of the time. Even that waits for the end of the turn (`settle`), so that no route does:
until then a line is the event itself. So what is noted may not change meanwhile.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import marshal
import os
import typing
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from bgpmesh import __version__, log
from bgpmesh.delta import Delta
from bgpmesh.engine import Engine
from bgpmesh.events import Configured, Event
from bgpmesh.journal.forms import Forms, rendered
from bgpmesh.policy.chains import ChainKey
from bgpmesh.restart import UNKNOWN, LastLife
from bgpmesh.rib.export import Told
from bgpmesh.route.nlri import IPAddress, Nlri
from bgpmesh.route.path import PeerName

FORMAT = 1
FILE = "journal.gz"  # in the state directory: on a bug, and when asked for
RECORDING = "recording.journal"  # the same from the first event on
FORMER = "recording.old.journal"  # that of the daemon before
PAGE = 65_536  # octets that leave the memory together

# What edges take keys of, and what the keys are.
KEYS: dict[str, object] = {
    "fib": Nlri,
    "next_hops": IPAddress,
    "links": str,
    "chains": ChainKey,
    "sets": str,
    "connections": IPAddress,
}


def deltas_of(engine: Engine) -> dict[str, Delta[object, object]]:
    """Return the Deltas of an engine, by the names of `KEYS`."""
    rib, links, packets = engine.rib, engine.local.links, engine.packets
    deltas = (rib.fib, rib.next_hops, links, packets.chains, packets.sets, packets.leads.connections)
    return typing.cast("dict[str, Delta[object, object]]", dict(zip(KEYS, deltas, strict=True)))


class Journal:
    """The newest lines of one daemon's life in memory, `limit` octets of them, and all of them on disk where wanted.

    It keeps its files in `directory`. `recorded` octets are the most that the recording may have; 0: none.
    """

    def __init__(self, directory: Path, node: str, epoch: float, *, limit: int, recorded: int = 0) -> None:
        self.file, self._limit = directory / FILE, limit
        self._head = {"journal": FORMAT, "bgpmesh": __version__, "node": node, "epoch": epoch}
        self._start = ""
        self._noted: list[tuple[tuple[object, ...], Callable[[object], object] | None, object]] = []
        self._pages: deque[tuple[bytes, int]] = deque()  # with how many lines each has
        self._page: list[bytes] = []
        self._page_size = self._size = self._dropped = 0
        self._recording = _Recording(directory, recorded) if recorded else None
        self._forms = Forms()
        self._events = {event: self._forms.of(event).written for event in typing.get_args(Event)}
        self._took = {name: self._forms.of(Sequence[key]).written for name, key in KEYS.items()}  # type: ignore[valid-type]

    def engine(
        self,
        configured: Configured,
        listed: Iterable[PeerName] | None,
        jitter: Callable[[], float],
        *,
        adopt_endpoints: bool = False,
        last: LastLife = UNKNOWN,
    ) -> Engine:
        """Return an engine that keeps this journal; without a limit and a recording one that keeps none."""
        if not self._limit and self._recording is None:
            return Engine(configured, listed, jitter, adopt_endpoints=adopt_endpoints, last=last)
        names = None if listed is None else sorted(listed)
        life = self._forms.of(LastLife).written(last)
        self._start = rendered(("start", self._events[Configured](configured), names, adopt_endpoints, life))
        if self._recording is not None:
            self._recording.write(rendered({**self._head, "dropped": 0}))
            self._recording.write(self._start)
        return _Recorded(self, configured, names, jitter, adopt_endpoints=adopt_endpoints, last=last)

    # What happens, most often first.

    def handled(self, event: Event, now: float) -> None:
        """Note an event that is about to be handled."""
        kind = type(event)
        self._note((kind.__name__, now), self._events[kind], event)

    def worked(self, limit: int, now: float) -> None:
        """Note a slice of thinking."""
        self._note(("work", now, limit))

    def took(self, delta: str, keys: Collection[object]) -> None:
        """Note which keys of a Delta an edge puts in flight."""
        self._note(("took", delta), self._took[delta], list(keys))

    def taken(self, peer: PeerName, limit: int) -> None:
        """Note that a peer's batches are pulled."""
        self._note(("take", peer, limit))

    def drew(self, number: float) -> float:
        """Note what `jitter` answered, and return it."""
        self._note(("jitter", number))
        return number

    def _note(
        self, line: tuple[object, ...], write: Callable[[object], object] | None = None, last: object = None
    ) -> None:
        """Note a line; with `write` also what it makes of `last`, behind the rest."""
        self._noted.append((line, write, last))
        if self._recording is not None:
            self.settle()

    def settle(self) -> None:
        """Have lines of what was noted: at the end of each turn."""
        noted, self._noted = self._noted, []  # what has no form is a bug, and met once
        for line, write, last in noted:
            self._line(line if write is None else (*line, write(last)))

    def _line(self, line: tuple[object, ...]) -> None:
        try:
            data = marshal.dumps(line)  # type: ignore[arg-type]  # or ValueError
        except ValueError:  # a number that is a member of an enumeration
            data = marshal.dumps(rendered(line))
        self._page.append(data)
        self._page_size += len(data)
        if self._page_size >= PAGE:
            self._pages.append((b"".join(self._page), len(self._page)))
            self._size += self._page_size
            self._page, self._page_size = [], 0
            while self._size > self._limit:
                page, count = self._pages.popleft()
                self._size -= len(page)
                self._dropped += count
        if self._recording is not None:
            self._recording.write(rendered(line))

    # What becomes of it.

    def pages(self) -> list[bytes]:
        """Return the whole document as it is now, for `write`."""
        self.settle()
        head = {**self._head, "dropped": self._dropped}
        first = marshal.dumps(rendered(head)) + marshal.dumps(self._start)
        return [first, *(page for page, _ in self._pages), b"".join(self._page)]

    def write(self, pages: Sequence[bytes]) -> None:
        """Replace the file by this document, and say so; safe in a thread."""
        if not self._limit:
            log.warning("journal.unwritten", file=self.file, reason="there is none: state.journal_mb is 0")
            return
        fresh = self.file.with_name(f"{FILE}.new")
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123  its mode
                file.write(gzip.compress("".join(f"{line}\n" for line in lines_of(pages)).encode(), compresslevel=1))
            fresh.replace(self.file)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            log.error("journal.unwritten", file=self.file, reason=error.strerror)
        else:
            log.info("journal.written", file=self.file, dropped_count=self._dropped or None)


def lines_of(pages: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a document."""
    for page in pages:
        stream = io.BytesIO(page)
        while stream.tell() < len(page):
            line = marshal.load(stream)  # noqa: S302  it never left this process
            yield line if isinstance(line, str) else rendered(line)


class _Recording:
    """The journal on disk, a line at a time, so that it is whole up to the moment of a `kill -9`."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._path, self._left = directory / RECORDING, limit
        self._descriptor: int | None = None
        try:
            with contextlib.suppress(FileNotFoundError):
                self._path.replace(directory / FORMER)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
        except OSError as error:
            self._end(error.strerror)

    def write(self, line: str) -> None:
        """Add a line, unless there is no more room."""
        if self._descriptor is None:
            return
        data = f"{line}\n".encode()
        self._left -= len(data)
        if self._left < 0:
            self._end("state.record_mb is reached")
            return
        try:
            if os.write(self._descriptor, data) < len(data):
                self._end("the disk is full")  # half a line is the last one
        except OSError as error:
            self._end(error.strerror)

    def _end(self, reason: str | None) -> None:
        log.warning("journal.recording-ended", file=self._path, reason=reason)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _Recorded(Engine):
    """An engine that writes down what it is told, before it acts on it."""

    def __init__(
        self,
        journal: Journal,
        configured: Configured,
        listed: Iterable[PeerName] | None,
        jitter: Callable[[], float],
        *,
        adopt_endpoints: bool,
        last: LastLife,
    ) -> None:
        self._journal = journal
        super().__init__(configured, listed, lambda: journal.drew(jitter()), adopt_endpoints=adopt_endpoints, last=last)
        for name, delta in deltas_of(self).items():
            delta.on_take = partial(journal.took, name)

    def handle(self, event: Event, now: float) -> None:
        self._journal.handled(event, now)
        super().handle(event, now)

    def work(self, limit: int, now: float) -> bool:
        self._journal.worked(limit, now)
        return super().work(limit, now)

    def take(self, peer: PeerName, limit: int) -> list[Told]:
        self._journal.taken(peer, limit)
        return super().take(peer, limit)
