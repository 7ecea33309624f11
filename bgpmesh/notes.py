"""What people should know: written by the rooms of the engine, told by the daemon.

A burst that the kernel refused is one note, and only what is refused for the first time makes one: the rest is in the
Delta for whoever asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeVar

from bgpmesh.delta import Delta
from bgpmesh.events import Level, Note

K = TypeVar("K")
V = TypeVar("V")


class Notes(deque[Note]):
    """The notes that nobody has told yet, oldest first, and what they have come to."""

    def __init__(self) -> None:
        super().__init__()
        self.drift_repaired = 0  # routes, links, chains and sets that somebody else had changed

    def add(self, name: str, level: Level = Level.INFO, **keys: object) -> None:
        """Have this told."""
        self.append(Note(name, level, keys))

    def drifted(self, count: int, reason: str, **keys: object) -> None:
        """Count what is to be repaired; `keys` say what it is."""
        self.drift_repaired += count
        self.add("drift.found", Level.WARNING, **keys, reason=reason)

    def refused(
        self, delta: Delta[K, V], failed: Mapping[K, str], name: str, now: float, *, word: str, show: Callable[[K], str]
    ) -> None:
        """Leave what the kernel refused in the gap; say so once for a burst, and only when it is new."""
        new = [key for key in failed if key not in delta.refused]
        for key, reason in failed.items():
            delta.refuse(key, reason, now)
        if new:
            keys = {word: show(new[0]), "reason": failed[new[0]], "others_count": len(new) - 1 or None}
            self.add(name, Level.WARNING, **keys)
