"""What the runs say together: medians, spread, ratios; as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from tests.bench.play import FeederLimit, Measured
from tests.bench.scenario import SCENARIOS, Scenario

YARDSTICK = "bird"


def machine() -> dict[str, str | int]:
    """Return what the figures depend on; nothing that names the machine."""
    return {
        "cpu": _first_value(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
    }


def _first_value(path: Path, key: str) -> str:
    lines: Iterable[str] = path.read_text("utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


@dataclass(slots=True)
class Report:
    """Everything that one invocation found."""

    began: datetime
    command: str
    routes: int
    versions: Mapping[str, str]
    machine: Mapping[str, str | int] = field(default_factory=machine)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    feeder: list[FeederLimit] = field(default_factory=list)
    runs: list[Measured] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_quiet(self) -> bool:
        """Whether the machine had nothing else to do when it began."""
        return self.load_before < 0.5

    def table(self) -> str:
        """Return the figures as Markdown."""
        lines = [
            "| scenario | daemon | runs | median | min - max | routes/s | CPU | peak memory | x BIRD |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for scenario in SCENARIOS:
            title = scenario.title.format(routes=f"{self.routes:,}")
            yardstick = self._median(scenario, YARDSTICK)
            for daemon in self.versions:
                runs = self.of(scenario, daemon)
                if not runs:
                    continue
                times = [run.seconds for run in runs]
                median = statistics.median(times)
                ratio = f"{median / yardstick:.2f}" if yardstick else "-"
                lines.append(
                    f"| {title} | {daemon} | {len(runs)} | {median:.3f} s | {min(times):.3f} - {max(times):.3f} s"
                    f" | {self.routes / median:,.0f} | {statistics.median(run.cpu_s for run in runs):.2f} s"
                    f" | {max(run.peak_rss_mb for run in runs):.0f} MB | {ratio} |"
                )
        return "\n".join(lines)

    def limits(self) -> str:
        """Return the feeder's own limit as Markdown."""
        titles = {scenario.name: scenario.title.format(routes=f"{self.routes:,}") for scenario in SCENARIOS}
        rows = [
            f"| {titles[limit.scenario]} | {limit.sent_s:.3f} s | {limit.received_s:.3f} s |" for limit in self.feeder
        ]
        return "\n".join(["| feeder alone | the socket took it | a sink had counted it |", "|---|---|---|", *rows])

    def markdown(self) -> str:
        """Return the whole report."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        facts = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        load = f"load {self.load_before:.2f} when it began"
        if not self.is_quiet:
            load += " - **taken under load**: other work had the cores too, compare within this table only"
        parts = [
            f"# {self.began:%Y-%m-%d %H:%M}",
            f"`{self.command}`; {versions}; {facts}; {load}.",
            self.table(),
            self.limits(),
        ]
        late = sum(run.seen_by != "notifications" for run in self.runs)
        if late:
            parts.append(f"{late} of {len(self.runs)} runs were timed by reading the table again and again (20 ms).")
        if self.problems:
            parts.append("\n".join(f"- failed: {problem}" for problem in self.problems))
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> Path:
        """Write the table and everything behind it beside each other; returns the path of the table."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.began:%Y-%m-%d-%H%M%S}.md"
        path.write_text(self.markdown(), "utf-8")
        path.with_suffix(".json").write_text(json.dumps(self._document(), indent=1) + "\n", "utf-8")
        return path

    def of(self, scenario: Scenario, daemon: str) -> Sequence[Measured]:
        """Return the runs of one scenario with one daemon."""
        return [run for run in self.runs if (run.scenario, run.daemon) == (scenario.name, daemon)]

    def _median(self, scenario: Scenario, daemon: str) -> float | None:
        times = [run.seconds for run in self.of(scenario, daemon)]
        return statistics.median(times) if times else None

    def _document(self) -> dict[str, object]:
        return {
            "date": self.began.isoformat(timespec="seconds"),
            "command": self.command,
            "routes": self.routes,
            "machine": dict(self.machine),
            "load_before": round(self.load_before, 2),
            "is_quiet": self.is_quiet,
            "versions": dict(self.versions),
            "runs": [_rounded(asdict(run)) for run in self.runs],
            "feeder": [_rounded(asdict(limit)) for limit in self.feeder],
            "problems": self.problems,
        }


def _rounded(values: dict[str, object]) -> dict[str, object]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}
