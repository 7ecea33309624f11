"""What a Delta hands out, flat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def pairs(runs: Iterable[tuple[V, Iterable[K]]]) -> list[tuple[K, V]]:
    """Return (key, value) of what `Delta.take` returned, in its order."""
    return [(key, value) for value, keys in runs for key in keys]
