"""What the tests with real packets need."""

from __future__ import annotations

import pytest

from containerlab.lab import missing


@pytest.fixture(autouse=True, scope="session")
def _labs_can_run() -> None:
    """Skip where the host lets nobody make network namespaces."""
    if reason := missing():
        pytest.skip(f"needs network namespaces: {reason}")
