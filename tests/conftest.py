"""Options and fixtures of the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no reason for an example to fail, nor for a test whose first examples take long to be made.
settings.register_profile("bgpmesh", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bgpmesh")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden`."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected output of golden tests")


@pytest.fixture
def is_updating_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten with what the code says now; the change is reviewed like code."""
    return bool(request.config.getoption("--update-golden"))
