"""A pytest plugin: `-p tests.side_by_side -n WORKERS` runs labs beside each other.

A lab has namespaces of its own for all that it touches and waits for timers most of its time, so any two may run at
once. Tests of one file that share a lab go to one worker. What computes takes turns on two, and those are given out
among the first, as the longest.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

ROOT = Path(__file__).parent.parent
LABS = ("tests/lab/", "tests/interop/", "tests/netns/", "tests/policy/")
HEAVY = ("tests/bench/", "tests/compose/", "tests/lab/test_bfd.py::test_no_path_flaps_while_everything_churns")


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """What tests/side_by_side.py says."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the name of the unit that a test belongs to."""
        if nodeid.startswith(HEAVY):
            return "heavy"
        if not nodeid.startswith(LABS):
            return "computing"
        file, _, _ = nodeid.partition("::")
        return file if 'scope="module"' in (ROOT / file).read_text(encoding="utf-8") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduler:
    """Take the place of `--dist`."""
    return Scheduler(config, log)
