"""What a Delta hands out, flat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from bgpmesh.engine import Engine
from bgpmesh.events import ChainsWritten, SetsWritten

K = TypeVar("K")
V = TypeVar("V")


def pairs(runs: Iterable[tuple[V, Iterable[K]]]) -> list[tuple[K, V]]:
    """Return (key, value) of what `Delta.take` returned, in its order."""
    return [(key, value) for value, keys in runs for key in keys]


def protect(engine: Engine, now: float) -> None:
    """Let the engine think, and have every chain and set as it wants them: so links may be opened."""
    engine.work(1000, now)
    engine.handle(SetsWritten([key for key, _ in pairs(engine.packets.sets.take(10_000, now))], {}), now)
    engine.handle(ChainsWritten([key for key, _ in pairs(engine.packets.chains.take(10_000, now))], {}), now)
