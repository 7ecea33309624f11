"""How a test with an event loop waits: it asks again and again, a minute at most, and never sleeps for a result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

DEADLINE_S = 60.0


async def until(holds: Callable[[], object], seen: Callable[[], object] = lambda: "") -> None:
    """Wait until something holds; after a minute fail with what was `seen` instead."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:.0f} s; seen: {seen()}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def beside(run: Coroutine[object, object, object]) -> AsyncIterator[None]:
    """Have a coroutine run meanwhile; it is cancelled, and has ended, after that."""
    task = asyncio.create_task(run)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
