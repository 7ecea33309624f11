"""Replay a journal: `python -m tests.replay FILE` prints what people were told, and what it all came to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bgpmesh.journal.story import read
from tests.replay.test_stories import told

print(json.dumps(told(read(Path(sys.argv[1]))), indent=1))  # noqa: T201  this is its purpose
