"""A pytest plugin for continuous integration: `-p tests.no_skip` makes a skipped test a failed one.

A suite that skips what it lacks says "passed" about code that never ran. On a developer's machine that is a
kindness; where everything is installed on purpose it hides that something was not.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

# What nobody can install: each with the reason why.
ALLOWED = ("containerlab's schema is not here",)  # it lies beside the repository or not; it is not ours to copy


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the report of a skipped test into one of a failed test; an expected failure is no skip."""
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for a whole file that skips itself."""
    report = yield
    _refuse(report)
    return report


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome != "skipped":
        return
    reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(allowed in reason for allowed in ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {reason}"
