"""What should be true, what is, and the gap between them.

A `Delta` is the whole contract between the core and an edge that makes a table real: the core
says `want`, the edge says `take`, then `acknowledge` or `refuse`. Nobody sends steps, so a lost
message, a restart and a meddling operator are one case: the gap is what is left to do.

Rules:
 1. A key in flight is not taken again until it is acknowledged or refused; the latest wish wins then.
 2. A refused key stays in the gap and comes back after a back-off that doubles from 1 s to 60 s; a new
    wish for it is tried at once.
 3. While `keep_unwanted` is set nothing that exists is deleted only because nobody wants it: a
    restarted daemon holds what it found until it knows better.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from itertools import groupby, islice, repeat
from typing import Generic, TypeVar

from bgpmesh.frozen import frozen

K = TypeVar("K")
V = TypeVar("V")

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0


@frozen
class Refusal:
    """Why a key is not as wanted, how often it was tried, and the monotonic second of the next try."""

    reason: str
    attempts: int
    retry_at: float


class Delta(Generic[K, V]):
    """Track *wanted* against *actual*; O(1) for each key touched, except `observe_all`.

    `wanted`, `actual` and `refused` may be read by anybody and changed only through the methods.

    A key that is not as wanted stands in the gap or in flight, never in both; a batch then goes through
    without a look at the large tables, whose every look is a miss of the processor's caches.
    """

    __slots__ = ("_gap", "_in_flight", "_keep_unwanted", "_touched", "actual", "on_take", "refused", "wanted")

    def __init__(self) -> None:
        self.wanted: dict[K, V] = {}
        self.actual: dict[K, V] = {}
        self.refused: dict[K, Refusal] = {}
        self._gap: dict[K, V | None] = {}  # what is not as wanted, with what is, in the order it was touched
        self._in_flight: dict[K, V | None] = {}
        self._touched: set[K] = set()  # in flight, and wished or observed anew since
        self._keep_unwanted = False
        self.on_take: Callable[[Collection[K]], None] | None = None  # is told what is put in flight: the journal

    @property
    def keep_unwanted(self) -> bool:
        """Whether what exists and nobody wants is left alone (rule 3)."""
        return self._keep_unwanted

    @keep_unwanted.setter
    def keep_unwanted(self, value: bool) -> None:
        self._keep_unwanted = value
        if not value:
            self._look_again(self.actual.keys() - self.wanted.keys())

    @property
    def is_at_rest(self) -> bool:
        """Whether every key is as wanted, or refused; O(1)."""
        return len(self) <= len(self.refused)

    @property
    def is_in_flight(self) -> bool:
        """Whether the outcome of anything that was taken is still to be heard; O(1)."""
        return bool(self._in_flight)

    def want(self, key: K, value: V | None) -> None:
        """Declare the value `key` should have; None: it should not exist."""
        if value is None:
            self.unwant_many((key,))
        else:
            self.want_many((key,), value)

    def want_many(self, keys: Collection[K], value: V) -> None:
        """Declare one value for many keys."""
        batch: dict[K, V] = dict.fromkeys(keys, value)
        self.wanted.update(batch)
        # Two views are compared by walking the shorter.
        is_quiet = not self.refused and batch.keys().isdisjoint(self._in_flight.keys())
        if is_quiet and self.actual.keys().isdisjoint(batch.keys()):
            self._gap.update(batch)  # the common batch: new keys
        else:
            self._wish_anew(batch)

    def unwant_many(self, keys: Collection[K]) -> None:
        """Declare that none of the keys should exist."""
        drop(self.wanted, keys)
        batch: dict[K, V | None] = dict.fromkeys(keys)
        is_quiet = not self.refused and batch.keys().isdisjoint(self._in_flight.keys())
        if is_quiet and batch.keys() <= self.actual.keys():
            self._gap.update(batch)  # the common batch: all of them are real
        else:
            self._wish_anew(keys)

    def observe(self, key: K, value: V | None) -> None:
        """Record what `key` really is, as somebody else made it; its back-off, if any, goes on."""
        if value is None:
            self.actual.pop(key, None)
        else:
            self.actual[key] = value
        self._look_again((key,))

    def observe_all(self, actual: Mapping[K, V]) -> None:
        """Replace our belief with a full read-back; O(wanted + actual). What is in flight is not judged."""
        self.actual = found = dict(actual)
        wanted = self.wanted
        wrong = list(_unlike(wanted, map(found.get, wanted)))
        self._gap = dict.fromkeys(found.keys() - wanted.keys() - self._in_flight.keys())
        self._look_again(wrong)
        self._touched.update(self._in_flight)
        self.refused = {key: refusal for key, refusal in self.refused.items() if key in self._gap}

    def take(self, limit: int, now: float) -> list[tuple[V | None, list[K]]]:
        """Return up to `limit` keys that are not as wanted, by their wanted value (None: gone), and put them in flight.

        Keys that share one value, the same object, come together.
        """
        if not self._gap:
            return []
        runs: dict[int, tuple[V | None, list[K]]] = {}
        later: dict[K, V | None] = {}
        gap, taken = self._gap, 0
        while gap and taken < limit:
            # A slice at a time: deleting the first key of a dict again and again is quadratic.
            some = dict(islice(gap.items(), limit - taken))
            drop(gap, some)
            due = self._launch(some, now, later)
            taken += len(due)
            keys, values, start = list(due), list(due.values()), 0
            for _, alike in groupby(map(id, values)):
                end = start + len(list(alike))
                runs.setdefault(id(values[start]), (values[start], []))[1].extend(keys[start:end])
                start = end
        gap.update(later)
        return list(runs.values())

    def take_unwanted(self, now: float) -> list[K]:
        """Return all keys that are to be gone, and put them in flight; what is to be changed stays."""
        later: dict[K, V | None] = {}
        if any(value is not None for value in self._gap.values()):
            some: dict[K, V | None] = {key: value for key, value in self._gap.items() if value is None}
            drop(self._gap, some)
        else:
            some, self._gap = self._gap, {}  # a table that all goes is not copied
        gone = list(self._launch(some, now, later))
        self._gap.update(later)
        return gone

    def take_again(self, keys: Collection[K]) -> list[K]:
        """Put exactly these keys in flight, as a journal has it; returns those not in its gap, which stay out."""
        strangers = [key for key in keys if key not in self._gap]
        self._in_flight.update((key, self._gap.pop(key)) for key in keys if key in self._gap)
        return strangers

    def _launch(self, some: dict[K, V | None], now: float, later: dict[K, V | None]) -> dict[K, V | None]:
        """Put those of some keys of the gap that are due in flight and return them; others go into `later`."""
        if self._keep_unwanted:
            some = {key: value for key, value in some.items() if value is not None}  # they come back when it ends
        if self.refused:
            waiting = {key for key in some if key in self.refused and self.refused[key].retry_at > now}
            later.update((key, some.pop(key)) for key in waiting)
        if self._in_flight:
            self._in_flight.update(some)
        else:
            self._in_flight = some
        if some and self.on_take is not None:
            self.on_take(some)
        return some

    def acknowledge(self, done: Collection[K]) -> None:
        """Record that what was in flight for these keys is now so; a key that is not in flight says nothing."""
        in_flight = self._in_flight
        if not all(map(in_flight.__contains__, done)):
            done = [key for key in dict.fromkeys(done) if key in in_flight]
        values = list(map(in_flight.get, done))
        kinds = set(map(id, values))
        if kinds == {id(None)}:
            drop(self.actual, done)
        elif id(None) not in kinds:
            self.actual.update(zip(done, values, strict=True))  # type: ignore[arg-type]  # none of them is None
        else:
            for key, value in zip(done, values, strict=True):
                if value is None:
                    self.actual.pop(key, None)
                else:
                    self.actual[key] = value
        drop(in_flight, done)
        drop(self.refused, done)
        if not self._touched.isdisjoint(done):
            touched = self._touched.intersection(done)
            self._touched -= touched
            self._look_again(touched)

    def refuse(self, key: K, reason: str, now: float) -> Refusal:
        """Record that what was in flight for `key` was not done, and why; it is tried again later."""
        self._in_flight.pop(key, None)
        self._touched.discard(key)
        attempts = self.refused[key].attempts + 1 if key in self.refused else 1
        delay = min(FIRST_RETRY_S * 2 ** min(attempts - 1, 10), LAST_RETRY_S)
        refusal = Refusal(reason, attempts, now + delay)
        self.refused[key] = refusal
        self._look_again((key,))
        return refusal

    def hurry(self, keys: Iterable[K]) -> None:
        """Have refused keys tried at once: what they waited for has happened. Their attempts still count."""
        for key in keys:
            refusal = self.refused.get(key)
            if refusal is not None:
                self.refused[key] = replace(refusal, retry_at=float("-inf"))

    def has_work(self, now: float) -> bool:
        """Tell whether `take` would return something; O(keys that wait), most often O(1)."""
        return bool(self._gap) and any(
            not (self._keep_unwanted and value is None)
            and not (key in self.refused and self.refused[key].retry_at > now)
            for key, value in self._gap.items()
        )

    def unsettled(self) -> Iterator[K]:
        """Yield the keys that `len` counts."""
        yield from self._gap
        yield from self._in_flight

    def next_retry(self) -> float:
        """Return the monotonic second of the earliest retry, infinity where none waits."""
        return min((refusal.retry_at for refusal in self.refused.values()), default=float("inf"))

    def __len__(self) -> int:
        """Count the keys not known to be as wanted: waiting and in flight."""
        return len(self._gap) + len(self._in_flight)

    def _wish_anew(self, keys: Iterable[K]) -> None:
        """Look at keys again, whose wish is new: it is tried at once."""
        drop(self.refused, keys)
        self._look_again(keys)

    def _look_again(self, keys: Iterable[K]) -> None:
        """Have in the gap what is not as wanted; what is in flight waits for its outcome."""
        gap, wanted, actual, in_flight = self._gap, self.wanted, self.actual, self._in_flight
        for key in keys:
            wish = wanted.get(key)
            if key in in_flight:
                self._touched.add(key)
            elif not _same(wish, actual.get(key)):
                gap[key] = wish
            else:
                gap.pop(key, None)
                self.refused.pop(key, None)


def drop(table: MutableMapping[K, V], keys: Iterable[K]) -> None:
    """Take these keys out of a table, those that are in it; a batch at the speed of the dict's own code."""
    if table:
        deque(map(table.pop, keys, repeat(None)), maxlen=0)
        if not table:
            table.clear()  # a dict that was emptied key by key keeps its room: 5 MB for 100,000


def _unlike(table: Mapping[K, V], others: Iterable[V | None]) -> Iterator[K]:
    """Yield the keys whose value differs from its other; values are shared, so each pair is compared once."""
    alike: dict[tuple[int, int], bool] = {}
    for (key, value), other in zip(table.items(), others, strict=True):
        if value is not other:
            pair = (id(value), id(other))
            if pair not in alike:
                alike[pair] = value == other
            if not alike[pair]:
                yield key


def _same(one: object, other: object) -> bool:
    # Values are shared, so most are equal by being one; comparing two dataclasses costs ten times as much.
    return one is other or one == other
