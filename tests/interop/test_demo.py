"""`make demo` is what most people see first, so it is a test too."""

from __future__ import annotations

import subprocess
import sys

import pytest

from containerlab.lab import REPOSITORY, missing


@pytest.mark.skipif(bool(missing()), reason=f"no labs here: {missing()}")
def test_the_demo_shows_what_it_claims() -> None:
    """Every step of the demo holds, ending with the time that each took."""
    done = subprocess.run(
        [sys.executable, "-m", "containerlab.demo"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in all" in done.stdout.splitlines()[-1]
