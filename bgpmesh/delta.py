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

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a key is not as wanted, how often it was tried, and the monotonic second of the next try."""

    reason: str
    attempts: int
    retry_at: float


class Delta(Generic[K, V]):
    """Track *wanted* against *actual*; O(1) for each key touched, except `observe_all`.

    `wanted`, `actual` and `refused` may be read by anybody and changed only through the methods.
    """

    __slots__ = ("_gap", "_in_flight", "_keep_unwanted", "actual", "refused", "wanted")

    def __init__(self) -> None:
        self.wanted: dict[K, V] = {}
        self.actual: dict[K, V] = {}
        self.refused: dict[K, Refusal] = {}
        self._gap: dict[K, object] = {}  # keys to look at, in the order they were touched
        self._in_flight: dict[K, V | None] = {}
        self._keep_unwanted = False

    @property
    def keep_unwanted(self) -> bool:
        """Whether what exists and nobody wants is left alone (rule 3)."""
        return self._keep_unwanted

    @keep_unwanted.setter
    def keep_unwanted(self, value: bool) -> None:
        self._keep_unwanted = value
        if not value:
            self._gap.update(dict.fromkeys(self.actual.keys() - self.wanted.keys()))

    @property
    def is_at_rest(self) -> bool:
        """Whether every key is as wanted, or refused; O(1) while more are waiting, or in flight, than are refused."""
        most = len(self.refused)
        return len(self._gap) <= most and len(self._in_flight) <= most and len(self) <= most

    def want(self, key: K, value: V | None) -> None:
        """Declare the value `key` should have; None: it should not exist."""
        if value is None:
            self.unwant_many((key,))
        else:
            self.want_many((key,), value)

    def want_many(self, keys: Collection[K], value: V) -> None:
        """Declare one value for many keys."""
        batch = dict.fromkeys(keys, value)
        self.wanted.update(batch)
        if self._is_quiet(batch) and self.actual.keys().isdisjoint(batch):
            self._gap.update(batch)  # the common batch: new keys
        else:
            self._touch(batch, is_wish=True)

    def unwant_many(self, keys: Collection[K]) -> None:
        """Declare that none of the keys should exist."""
        for key in keys:
            self.wanted.pop(key, None)
        if self._is_quiet(keys) and all(map(self.actual.__contains__, keys)):
            self._gap.update(dict.fromkeys(keys))  # the common batch: all of them are real
        else:
            self._touch(keys, is_wish=True)

    def observe(self, key: K, value: V | None) -> None:
        """Record what `key` really is, as somebody else made it; its back-off, if any, goes on."""
        if value is None:
            self.actual.pop(key, None)
        else:
            self.actual[key] = value
        self._touch((key,), is_wish=False)

    def observe_all(self, actual: Mapping[K, V]) -> None:
        """Replace our belief with a full read-back; O(wanted + actual). What is in flight is not judged."""
        self.actual = dict(actual)
        wanted, found = self.wanted, self.actual
        self._gap = {key: None for key in wanted.keys() | found.keys() if not _same(wanted.get(key), found.get(key))}
        self.refused = {key: refusal for key, refusal in self.refused.items() if key in self._gap}

    def take(self, limit: int, now: float) -> list[tuple[K, V | None]]:
        """Return up to `limit` (key, wanted value or None: delete) that are not as wanted, and put them in flight."""
        taken: list[tuple[K, V | None]] = []
        later: list[K] = []
        gap = self._gap
        while gap and len(taken) < limit:
            # A slice at a time: deleting the first key of a dict again and again is quadratic.
            keys = list(itertools.islice(gap, limit - len(taken)))
            for key in keys:
                del gap[key]
            if (
                self._is_quiet(keys)
                and self.actual.keys().isdisjoint(keys)
                and all(map(self.wanted.__contains__, keys))
            ):
                fresh = list(zip(keys, map(self.wanted.__getitem__, keys), strict=True))
                self._in_flight.update(fresh)
                taken += fresh
            else:
                self._take_each(keys, now, taken, later)
        gap.update(dict.fromkeys(later))
        return taken

    def _take_each(self, keys: list[K], now: float, taken: list[tuple[K, V | None]], later: list[K]) -> None:
        wanted, actual, in_flight, refused = self.wanted, self.actual, self._in_flight, self.refused
        for key in keys:
            value = wanted.get(key)
            if key in in_flight:
                later.append(key)
            elif _same(value, actual.get(key)):
                refused.pop(key, None)
            elif value is None and self._keep_unwanted:
                continue  # comes back when keep_unwanted ends
            elif refused and key in refused and refused[key].retry_at > now:
                later.append(key)
            else:
                in_flight[key] = value
                taken.append((key, value))

    def acknowledge(self, done: Iterable[K]) -> None:
        """Record that what was in flight for these keys is now so; a key that is not in flight says nothing."""
        in_flight, actual, wanted, refused, gap = self._in_flight, self.actual, self.wanted, self.refused, self._gap
        for key in done:
            if key not in in_flight:
                continue
            value = in_flight.pop(key)
            if value is None:
                actual.pop(key, None)
            else:
                actual[key] = value
            if refused:
                refused.pop(key, None)
            wish = wanted.get(key)
            if wish is not value and wish != value:
                gap[key] = None
            elif gap:
                gap.pop(key, None)

    def refuse(self, key: K, reason: str, now: float) -> Refusal:
        """Record that what was in flight for `key` was not done, and why; it is tried again later."""
        self._in_flight.pop(key, None)
        attempts = self.refused[key].attempts + 1 if key in self.refused else 1
        delay = min(FIRST_RETRY_S * 2 ** min(attempts - 1, 10), LAST_RETRY_S)
        self.refused[key] = Refusal(reason, attempts, now + delay)
        self._gap[key] = None
        return self.refused[key]

    def hurry(self, keys: Iterable[K]) -> None:
        """Have refused keys tried at once: what they waited for has happened. Their attempts still count."""
        for key in keys:
            refusal = self.refused.get(key)
            if refusal is not None:
                self.refused[key] = replace(refusal, retry_at=float("-inf"))

    def has_work(self, now: float) -> bool:
        """Tell whether `take` would return something; O(keys that wait), most often O(1)."""
        return any(
            key not in self._in_flight
            and not (self._keep_unwanted and key not in self.wanted)
            and not (key in self.refused and self.refused[key].retry_at > now)
            for key in self._gap
        )

    def next_retry(self) -> float:
        """Return the monotonic second of the earliest retry, infinity where none waits."""
        return min((refusal.retry_at for refusal in self.refused.values()), default=float("inf"))

    def __len__(self) -> int:
        """Count the keys not known to be as wanted: waiting and in flight."""
        return len(self._gap) + sum(key not in self._gap for key in self._in_flight)

    def _is_quiet(self, keys: Collection[K]) -> bool:
        """Tell whether none of these keys is in flight, and nothing at all was refused."""
        return not self.refused and self._in_flight.keys().isdisjoint(keys)

    def _touch(self, keys: Collection[K], *, is_wish: bool) -> None:
        """Look at keys again: those not as wanted are in the gap, and a new wish is tried at once."""
        gap, wanted, actual, in_flight, refused = self._gap, self.wanted, self.actual, self._in_flight, self.refused
        for key in keys:
            is_right = key not in in_flight and _same(wanted.get(key), actual.get(key))
            if refused and (is_wish or is_right):
                refused.pop(key, None)
            if is_right:
                gap.pop(key, None)
            else:
                gap[key] = None


def _same(one: object, other: object) -> bool:
    # Values are shared, so most are equal by being one; comparing two dataclasses costs ten times as much.
    return one is other or one == other
