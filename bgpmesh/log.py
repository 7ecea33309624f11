"""One event a line: a dotted name in the past tense, then `key=value`, on stderr.

The words used as keys: `peer`, `prefix`, `family`, `endpoint`, `interface`, `chain`, `set`, `address`, `reason`,
`file`, `key`, `value`, `state`, `process`, `*_s` (seconds), `*_count`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from typing import NamedTuple

LOGGER = logging.getLogger("bgpmesh")
REMEMBERED = 2000  # the newest, for `bgpmesh history`


class Said(NamedTuple):
    """One event that was logged: second since 1970, level, name, and its keys."""

    at: float
    level: str
    name: str
    keys: dict[str, object]


remembered: deque[Said] = deque(maxlen=REMEMBERED)


def start(level: str = "INFO") -> None:
    """Send our log to stderr; called once by the daemon. Raises ValueError where there is no such level."""
    LOGGER.setLevel(level)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    # Nobody is shown where a line was said, nor by which thread: a third of what it costs.
    logging._srcfile = None  # noqa: SLF001  as the manual of logging says
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def render(name: str, keys: dict[str, object]) -> str:
    """Return `name key=value ...`; a value with blanks, quotes or control characters is quoted and escaped."""
    shown = [name]
    for key, value in keys.items():
        if value is None:
            continue
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        plain = text and text.isprintable() and not any(c in text for c in ' "=')
        shown.append(f"{key}={text}" if plain else f"{key}={_quoted(text)}")
    return " ".join(shown)


def _quoted(text: str) -> str:
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.replace("\\", "\\\\"))
    return '"' + escaped.replace('"', '\\"') + '"'


def _say(level: int, name: str, keys: dict[str, object]) -> None:
    remembered.append(Said(time.time(), logging.getLevelName(level).lower(), name, keys))
    LOGGER.log(level, "%s", render(name, keys))


def info(name: str, **keys: object) -> None:
    """Say what an operator follows: sessions, reloads, failures and recoveries."""
    _say(logging.INFO, name, keys)


def warning(name: str, **keys: object) -> None:
    """Say what is wrong and will be tried again."""
    _say(logging.WARNING, name, keys)


def error(name: str, **keys: object) -> None:
    """Say what needs somebody."""
    _say(logging.ERROR, name, keys)


def debug(name: str, **keys: object) -> None:
    """Say what only a developer follows, one prefix at a time."""
    if LOGGER.isEnabledFor(logging.DEBUG):
        LOGGER.debug("%s", render(name, keys))
