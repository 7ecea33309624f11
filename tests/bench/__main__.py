"""The command: `python -m tests.bench [--quick]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from containerlab.lab import LabError, missing
from tests.bench.daemons import DAEMONS, Daemon
from tests.bench.play import Measured, run, run_feeder_alone
from tests.bench.report import Report
from tests.bench.scenario import SCENARIOS, Scenario

RESULTS = Path(__file__).parent / "results"


def tell(text: str) -> None:
    """Print a line, now."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options, with what --quick stands for filled in."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="measure daemons side by side")
    parser.add_argument("--quick", action="store_true", help="20,000 routes, 2 runs each, two minutes at most")
    parser.add_argument("--routes", type=int, help="how many to announce (100,000)")
    parser.add_argument("--runs", type=int, help="how often each scenario is played with each daemon (5)")
    parser.add_argument("--budget", type=float, metavar="S", help="begin no run after so many seconds (3,600)")
    parser.add_argument("--scenario", action="append", choices=[row.name for row in SCENARIOS], help="only this one")
    parser.add_argument("--daemon", action="append", choices=[one.name for one in DAEMONS], help="only this one")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the report goes")
    options = parser.parse_args(argv)
    routes, runs, budget = (20_000, 2, 100.0) if options.quick else (100_000, 5, 3600.0)
    options.routes = options.routes or routes
    options.runs = options.runs or runs
    options.budget = options.budget or budget
    return options


def chosen_daemons(names: Sequence[str] | None) -> list[Daemon]:
    """Return the daemons to measure; those that are not here are named and passed over."""
    daemons = [daemon for daemon in DAEMONS if names is None or daemon.name in names]
    for daemon in daemons:
        if reason := daemon.missing():
            tell(f"{daemon.name} is left out: {reason}")
    return [daemon for daemon in daemons if not daemon.missing()]


def measure(report: Report, scenarios: Sequence[Scenario], daemons: Sequence[Daemon], runs: int, budget: float) -> None:
    """Fill the report: A B A B, so that whatever else the machine does meets all of them alike."""
    last = time.monotonic() + budget
    for scenario in scenarios:
        if scenario.timed == "announce":
            try:
                report.feeder.append(run_feeder_alone(scenario, report.routes))
            except LabError as error:
                _fail(report, f"{scenario.name}, the feeder alone: {error}")
    for number in range(runs):
        for scenario in scenarios:
            for daemon in daemons:
                name = f"{scenario.name}, {daemon.name}, run {number + 1}"
                if time.monotonic() > last:
                    return _fail(report, f"{name} and what follows: no time left of the {budget:g} s")
                try:
                    measured = run(scenario, daemon, report.routes)
                except (LabError, OSError, subprocess.TimeoutExpired) as error:
                    _fail(report, f"{name}: {error}")
                else:
                    report.runs.append(measured)
                    tell(f"{name}/{runs}: {_line(measured)}")
    return None


def _fail(report: Report, problem: str) -> None:
    report.problems.append(problem)
    tell(f"failed: {problem}")


def _line(measured: Measured) -> str:
    line = f"{measured.seconds:.3f} s, {measured.cpu_s:.2f} s of CPU, {measured.peak_rss_mb:.0f} MB"
    return line if measured.seen_by == "notifications" else f"{line} (by {measured.seen_by})"


def main(argv: Sequence[str]) -> int:
    """Run as a program; returns 1 if anything failed, and says what."""
    options = arguments(argv)
    if reason := missing():
        tell(f"bench: {reason}")
        return 1
    daemons = chosen_daemons(options.daemon)
    scenarios = [row for row in SCENARIOS if options.scenario is None or row.name in options.scenario]
    only = [f" --{what} {name}" for what in ("scenario", "daemon") for name in getattr(options, what) or ()]
    command = f"python -m tests.bench --routes {options.routes} --runs {options.runs}{''.join(only)}"
    versions = {daemon.name: daemon.version() for daemon in daemons}
    report = Report(datetime.now(tz=UTC).astimezone(), command, options.routes, versions)
    try:
        measure(report, scenarios, daemons, options.runs, options.budget)
    except KeyboardInterrupt:
        _fail(report, "interrupted")
    path = report.write(options.results)
    tell(f"\n{report.markdown()}\n{path.name} and the .json beside it have all of it")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
