"""A journal that was read, and its replay."""

from __future__ import annotations

import gzip
import json
import typing
import zlib
from collections.abc import Iterator
from pathlib import Path

from bgpmesh.engine import Engine
from bgpmesh.errors import ConfigError, Problem
from bgpmesh.events import Configured, Event
from bgpmesh.frozen import frozen
from bgpmesh.journal.forms import Forms, exactly, list_of, number_of, text_of
from bgpmesh.journal.record import FORMAT, KEYS, deltas_of
from bgpmesh.restart import UNKNOWN, LastLife
from bgpmesh.route.path import PeerName


@frozen
class Handled:
    """An event that was handled."""

    line: int
    event: Event
    now: float


@frozen
class Worked:
    """A slice of thinking."""

    line: int
    limit: int
    now: float


@frozen
class Took:
    """Keys of a Delta that were put in flight."""

    line: int
    delta: str
    keys: tuple[object, ...]


@frozen
class Taken:
    """A pull of a peer's batches."""

    line: int
    peer: PeerName
    limit: int


_Start = tuple[Configured, tuple[PeerName, ...] | None, bool, LastLife]
Record = Handled | Worked | Took | Taken


@frozen
class Story:
    """A journal that was read."""

    file: str
    node: str
    version: str  # of the daemon
    epoch: float  # Unix time of second 0
    dropped: int  # lines lost before the first of `records`
    configured: Configured  # as the daemon began
    listed: tuple[PeerName, ...] | None
    adopt_endpoints: bool
    last: LastLife
    records: tuple[Record, ...]
    jitter: tuple[float, ...]  # in the order of the asking

    def replay(self) -> Iterator[tuple[Record, Engine]]:
        """Yield each record and the engine after it; its notes and commands pile up unless they are taken out.

        What the engine raised on its last line it raises again. Raises ConfigError where the journal has lost its
        beginning, or where this engine does not do as the recorded one did.
        """
        if self.dropped:
            raise _bad(self.file, 2, f"{self.dropped} lines that followed are lost: not to be replayed from the start")
        numbers = iter(self.jitter)

        def jitter() -> float:
            for number in numbers:
                return number
            raise _bad(self.file, 0, "this engine asks for more jitter than the recorded one did")

        engine = Engine(self.configured, self.listed, jitter, adopt_endpoints=self.adopt_endpoints, last=self.last)
        deltas = deltas_of(engine)
        for record in self.records:
            match record:
                case Handled(_, event, now):
                    engine.handle(event, now)
                case Worked(_, limit, now):
                    engine.work(limit, now)
                case Taken(_, peer, limit):
                    engine.take(peer, limit)
                case Took(line, name, keys):
                    if strangers := deltas[name].take_again(keys):
                        raise _bad(self.file, line, f"{name} has other keys in its gap: {strangers[0]!r} is not there")
            yield record, engine


def read(path: Path) -> Story:
    """Return what a journal tells; raises ConfigError that names the line and what is wrong there.

    A last line without its end was being written when the daemon was killed, and counts for nothing.
    """
    file, number = str(path), 0
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode("ascii")
    except OSError as error:
        raise _bad(file, 0, error.strerror or str(error)) from error
    except (EOFError, ValueError, zlib.error) as error:
        raise _bad(file, 0, f"no journal: {error}") from error
    pages = _Pages(file)
    try:
        for number, line in enumerate(text.split("\n")[:-1], 1):
            pages.turn(number, line)
    except KeyError as error:
        raise _bad(file, number, f"unknown: {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise _bad(file, number, str(error)) from error
    return pages.story()


class _Pages:
    """What was read up to a line."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._head: dict[str, object] = {}
        self._start: _Start | None = None
        self._records: list[Record] = []
        self._jitter: list[float] = []
        forms = Forms()
        self._head_forms = {"journal": forms.of(int), "bgpmesh": forms.of(str), "node": forms.of(str)}
        self._head_forms |= {"epoch": forms.of(float), "dropped": forms.of(int)}
        self._events = {event.__name__: forms.of(event) for event in typing.get_args(Event)}
        self._listed, self._life = forms.of(tuple[str, ...] | None), forms.of(LastLife)
        self._keys = {name: forms.of(tuple[key, ...]) for name, key in KEYS.items()}  # type: ignore[valid-type]

    def turn(self, number: int, line: str) -> None:
        """Take the next line; raises ValueError, TypeError or KeyError."""
        value = json.loads(line)
        if number == 1:
            self._take_head(value)
        elif number == 2:
            self._take_start(list_of(value))
        else:
            self._take_record(number, list_of(value))

    def _take_head(self, value: object) -> None:
        if not isinstance(value, dict) or "journal" not in value:
            raise ValueError("no journal")
        if value["journal"] != FORMAT:
            raise ValueError(f"a journal of format {value['journal']!r:.40}; this version reads {FORMAT}")
        self._head = {key: form.read(value[key]) for key, form in self._head_forms.items()}

    def _take_start(self, value: list[object]) -> None:
        kind, configured, listed, adopts, *more = value
        if kind != "start":
            raise ValueError(f"{kind!r:.40} is not start")
        last = self._life.read(*more) if more else UNKNOWN  # which older daemons did not know
        found = self._events["Configured"].read(configured), self._listed.read(listed), exactly(bool, adopts), last
        self._start = typing.cast("_Start", found)

    def _take_record(self, line: int, value: list[object]) -> None:
        if not value:
            raise ValueError("a line without a kind")
        kind, *rest = value
        match kind, rest:
            case "jitter", [number]:
                self._jitter.append(number_of(number))
            case "work", [now, limit]:
                self._records.append(Worked(line, exactly(int, limit), number_of(now)))
            case "take", [peer, limit]:
                self._records.append(Taken(line, PeerName(text_of(peer)), exactly(int, limit)))
            case "took", [delta, keys]:
                found_keys = typing.cast("tuple[object, ...]", self._keys[text_of(delta)].read(keys))
                self._records.append(Took(line, text_of(delta), found_keys))
            case _, [now, event]:
                found_event = typing.cast("Event", self._events[text_of(kind)].read(event))
                self._records.append(Handled(line, found_event, number_of(now)))
            case _:
                raise ValueError(f"{kind!r:.40} with {len(rest)} values")

    def story(self) -> Story:
        """Return it all; raises ConfigError where the beginning is not there."""
        if self._start is None:
            raise _bad(self._file, 2, "ends before its start")
        head = typing.cast("dict[str, typing.Any]", self._head)
        return Story(
            self._file,
            head["node"],
            head["bgpmesh"],
            head["epoch"],
            head["dropped"],
            *self._start,
            tuple(self._records),
            tuple(self._jitter),
        )


def _bad(file: str, line: int, reason: str) -> ConfigError:
    return ConfigError((Problem(file, f"line {line}" if line else "journal", "", reason),))
