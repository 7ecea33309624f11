"""The command: `python -m tests.bench [--quick]`."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from containerlab.lab import LabError, missing
from tests.bench.daemons import DAEMONS, Daemon
from tests.bench.play import Limit, Measured, feeder_alone, kernel_alone, run
from tests.bench.policy import NAME as POLICY
from tests.bench.policy import WORDS, cases, measure
from tests.bench.policy import left_out as left_out_of_policy
from tests.bench.policyside import BGPMESH
from tests.bench.report import Report, read_as, shown
from tests.bench.scenario import SCENARIOS, Scale, Scenario

RESULTS = Path(__file__).parent / "results"
UNITS = {scenario.name: scenario.unit for scenario in SCENARIOS}


def tell(text: str) -> None:
    """Print a line, now."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options, with what --quick stands for filled in."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="measure daemons side by side")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, 2 runs each, two to three minutes")
    parser.add_argument("--routes", type=int, help="how many to announce (100,000); everything else in proportion")
    parser.add_argument("--runs", type=int, help="how often each scenario is played with each daemon (5)")
    parser.add_argument("--budget", type=float, metavar="S", help="begin no run after so many seconds (3,600)")
    parser.add_argument(
        "--scenario", action="append", choices=[*(row.name for row in SCENARIOS), POLICY], help="only this one"
    )
    parser.add_argument("--daemon", action="append", choices=[one.name for one in DAEMONS], help="only this one")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the report goes")
    options = parser.parse_args(argv)
    routes, runs, budget = (10_000, 2, 300.0) if options.quick else (100_000, 5, 3600.0)
    options.routes = options.routes or routes
    options.runs = options.runs or runs
    options.budget = options.budget or budget
    return options


class Bench:
    """Fills a report: A B C A B C, so that whatever else the machine does meets all of them alike."""

    def __init__(self, report: Report, budget: float) -> None:
        self._report = report
        self._budget = budget
        self._last = time.monotonic() + budget

    def play(self, scenarios: Sequence[Scenario], daemons: Sequence[Daemon], runs: int) -> None:
        """Play everything that many times; what fails is noted and the rest goes on."""
        for number in range(runs):
            for scenario in scenarios:
                if number == 0 and scenario.act == "announce":
                    self._take_limits(f"{scenario.name}, the feeder alone", feeder_alone, scenario)
                if scenario.act in {"announce", "withdraw"} and scenario.sets == 1:
                    self._take_limits(f"{scenario.name}, the kernel alone", kernel_alone, scenario)
                for daemon in daemons:
                    if daemon.why_not(scenario):
                        continue
                    name = f"{scenario.name}, {daemon.name}, run {number + 1}"
                    if time.monotonic() > self._last:
                        return self.fail(f"{name} and what follows: no time left of the {self._budget:g} s")
                    self._take(f"{name}/{runs}", scenario, daemon)
        return None

    def play_policy(self, runs: int) -> None:
        """Measure what packet policy costs, case by case; in each of them everything that many times."""
        for backend, workloads in cases(self._report.scale):
            name = f"{POLICY}, {backend}, {workloads:,} workloads"
            if time.monotonic() > self._last:
                return self.fail(f"{name} and what follows: no time left of the {self._budget:g} s")
            try:
                found = measure(backend, workloads, runs)
            except (LabError, OSError, subprocess.SubprocessError) as error:
                self.fail(f"{name}: {error}")
                continue
            self._report.costs += found
            for what, words in WORDS.items():
                values = {c.by: [each.value for each in found if (each.what, each.by) == (what, c.by)] for c in found}
                medians = (f"{by} {statistics.median(each):.2f}" for by, each in values.items() if each)
                unit = next((each.unit for each in found if each.what == what), "")
                tell(f"{name}, {words}: {', '.join(medians)} {unit}")
        return None

    def fail(self, problem: str) -> None:
        """Note what went wrong."""
        self._report.problems.append(problem)
        tell(f"failed: {problem}")

    def _take(self, name: str, scenario: Scenario, daemon: Daemon) -> None:
        try:
            measured = run(scenario, daemon, self._report.scale)
        except (LabError, OSError, subprocess.TimeoutExpired) as error:
            self.fail(f"{name}: {error}")
        else:
            self._report.runs.append(measured)
            tell(f"{name}: {_line(measured)}")

    def _take_limits(self, name: str, measure: Callable[[Scenario, Scale], list[Limit]], scenario: Scenario) -> None:
        try:
            limits = measure(scenario, self._report.scale)
        except (LabError, OSError, subprocess.TimeoutExpired) as error:
            self.fail(f"{name}: {error}")
        else:
            self._report.limits += limits
            tell(f"{name}: {', '.join(f'{limit.seconds:.3f} s ({limit.what})' for limit in limits)}")


def _line(measured: Measured) -> str:
    parts = [shown(measured.value, UNITS[measured.scenario])]
    parts += [f"{measured.cpu_s:.2f} s of CPU", f"{measured.peak_rss_mb:.0f} MB"]
    parts += [f"{name} {read_as(value)}" for name, value in measured.also.items()]
    return ", ".join(parts) + ("" if measured.seen_by == "notifications" else f" (by {measured.seen_by})")


def left_out(scenarios: Sequence[Scenario], daemons: Sequence[Daemon]) -> list[str]:
    """Return who does not play what, and why; a line for each reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for daemon in daemons:
        for scenario in scenarios:
            if reason := daemon.missing() or daemon.why_not(scenario):
                reasons.setdefault((daemon.name, reason), []).append(scenario.name)
    return [f"{name} in {', '.join(without)}: {reason}" for (name, reason), without in reasons.items()]


def main(argv: Sequence[str]) -> int:
    """Run as a program; returns 1 if anything failed, and says what."""
    options = arguments(argv)
    if reason := missing():
        tell(f"bench: {reason}")
        return 1
    chosen = [daemon for daemon in DAEMONS if options.daemon is None or daemon.name in options.daemon]
    daemons = [daemon for daemon in chosen if not daemon.missing()]
    scenarios = [row for row in SCENARIOS if options.scenario is None or row.name in options.scenario]
    only = [f" --{what} {name}" for what in ("scenario", "daemon") for name in getattr(options, what) or ()]
    command = f"python -m tests.bench --routes {options.routes} --runs {options.runs}{''.join(only)}"
    versions = {daemon.name: daemon.version() for daemon in daemons}
    report = Report(datetime.now(tz=UTC).astimezone(), command, Scale.of(options.routes), versions)
    has_policy = POLICY in (options.scenario or [POLICY]) and any(daemon.name == BGPMESH for daemon in daemons)
    report.left_out = left_out(scenarios, chosen) + (left_out_of_policy() if has_policy else [])
    for each in report.left_out:
        tell(f"left out: {each}")
    bench = Bench(report, options.budget)
    try:
        bench.play(scenarios, daemons, options.runs)
        if has_policy:
            bench.play_policy(options.runs)
    except KeyboardInterrupt:
        bench.fail("interrupted")
    path = report.write(options.results)
    tell(f"\n{report.markdown()}\n{path.name} and the .json and .svg beside it have all of it")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
