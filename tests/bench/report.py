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

from tests.bench.play import Limit, Measured
from tests.bench.plot import Bar, Panel, drawing
from tests.bench.policy import NOTHING, WORDS, Cost
from tests.bench.policyside import BGPMESH, CHANGES, FELIX
from tests.bench.scenario import SCENARIOS, Scale, Scenario

YARDSTICKS = ("bird", "frr")
NAMES = {"bird": "BIRD", "frr": "FRR"}


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


def shown(value: float, unit: str) -> str:
    """Return a figure as it is read."""
    digits = 2 if unit != "s" else 3 if value >= 0.1 else 4
    return f"{value:.{digits}f} {unit}"


def read_as(value: float) -> str:
    """Return a figure whose unit is in its name."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(slots=True)
class Report:
    """Everything that one invocation found."""

    began: datetime
    command: str
    scale: Scale
    versions: Mapping[str, str]
    machine: Mapping[str, str | int] = field(default_factory=machine)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    limits: list[Limit] = field(default_factory=list)
    runs: list[Measured] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_quiet(self) -> bool:
        """Whether the machine had little else to do when it began."""
        return self.load_before < 0.5

    @property
    def scenarios(self) -> list[Scenario]:
        """Those that were played at least once, in their order."""
        return [scenario for scenario in SCENARIOS if any(run.scenario == scenario.name for run in self.runs)]

    def of(self, scenario: Scenario, daemon: str) -> Sequence[Measured]:
        """Return the runs of one scenario with one daemon."""
        return [run for run in self.runs if (run.scenario, run.daemon) == (scenario.name, daemon)]

    def median(self, scenario: Scenario, daemon: str) -> float | None:
        """Return the middle figure; None where there is none."""
        values = [run.value for run in self.of(scenario, daemon)]
        return statistics.median(values) if values else None

    # ── as a table ───────────────────────────────────────────────────────────

    def table(self) -> str:
        """Return the results as Markdown."""
        lines = [
            "| scenario | daemon | runs | median | min - max | CPU | peak memory | x BIRD | x FRR | also (medians) |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for scenario in self.scenarios:
            lines += [
                self._row(scenario, daemon, self.of(scenario, daemon))
                for daemon in self.versions
                if self.of(scenario, daemon)
            ]
        return "\n".join(lines)

    def _row(self, scenario: Scenario, daemon: str, runs: Sequence[Measured]) -> str:
        values = [run.value for run in runs]
        median = statistics.median(values)
        ratios = [self._ratio(median, self.median(scenario, yardstick)) for yardstick in YARDSTICKS]
        spread = f"{shown(min(values), scenario.unit).split()[0]} - {shown(max(values), scenario.unit)}"
        also = [f"{name} {read_as(statistics.median(run.also[name] for run in runs))}" for name in runs[0].also]
        cells = [
            scenario.title(self.scale),
            daemon,
            str(len(runs)),
            shown(median, scenario.unit),
            spread,
            f"{statistics.median(run.cpu_s for run in runs):.2f} s",
            f"{max(run.peak_rss_mb for run in runs):.0f} MB",
            *ratios,
            ", ".join(also),
        ]
        return f"| {' | '.join(cells)} |"

    @staticmethod
    def _ratio(median: float, yardstick: float | None) -> str:
        if not yardstick:
            return "-"
        ratio = median / yardstick
        return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"

    def limits_table(self) -> str:
        """Return what no daemon could beat as Markdown."""
        titles = {scenario.name: scenario.title(self.scale) for scenario in SCENARIOS}
        kinds = dict.fromkeys((limit.scenario, limit.what) for limit in self.limits)
        rows = [f"| {titles[name]} | {what} | {self._limit(name, what):.3f} s |" for name, what in kinds]
        return "\n".join(["| the bench's own limits | alone | median |", "|---|---|---|", *rows])

    def _limit(self, scenario: str, what: str) -> float:
        return statistics.median(
            limit.seconds for limit in self.limits if (limit.scenario, limit.what) == (scenario, what)
        )

    # ── the policy bench ─────────────────────────────────────────────────────

    def costs_table(self) -> str:
        """Return changes and packets as Markdown; a change is also set beside what one workload more costs the other.

        That is the writing that the other cannot do without where it has something to write at all.
        """
        heads = ["policy", "backend", "workloads", "runs", "bgpmesh", "min - max", "Felix-like", "min - max"]
        heads += ["no rules", "x Felix-like", "x its one workload more"]
        lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for what, backend, workloads in self._cases():
            ours, other, nothing = (self._values(what, backend, workloads, by) for by in (BGPMESH, FELIX, NOTHING))
            unit = next(cost.unit for cost in self.costs if cost.what == what)
            writing = self._values("known", backend, workloads, FELIX) if what in CHANGES else []
            cells = [WORDS[what], backend, f"{workloads:,}", str(len(ours))]
            for values in (ours, other):
                cells += [shown(statistics.median(values), unit), f"{min(values):.2f} - {shown(max(values), unit)}"]
            cells.append(shown(statistics.median(nothing), unit) if nothing else "-")
            cells += [
                self._ratio(statistics.median(ours), statistics.median(values) if values else None)
                for values in (other, writing)
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _cases(self) -> list[tuple[str, str, int]]:
        found = dict.fromkeys((cost.what, cost.backend, cost.workloads) for cost in self.costs)
        return sorted(found, key=lambda case: (list(WORDS).index(case[0]), case[1] != "nft", case[2]))

    def _values(self, what: str, backend: str, workloads: int, by: str) -> list[float]:
        wanted = (what, backend, workloads, by)
        return [cost.value for cost in self.costs if (cost.what, cost.backend, cost.workloads, cost.by) == wanted]

    # ── all of it ────────────────────────────────────────────────────────────

    def markdown(self, plot: str = "") -> str:
        """Return the whole report; `plot` is the name of the drawing beside it."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        facts = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        load = f"load {self.load_before:.2f} when it began"
        if not self.is_quiet:
            load += " - **taken under load**: other work had the cores too, compare within this table only"
        parts = [f"# {self.began:%Y-%m-%d %H:%M}", f"`{self.command}`; {versions}; {facts}; {load}."]
        parts += [f"![medians]({plot})"] if plot else []
        parts += [self.table()] if self.runs else []
        parts += [self.limits_table()] if self.limits else []
        parts += [self.costs_table()] if self.costs else []
        late = sum(run.seen_by == "readings" for run in self.runs)
        if late:
            parts.append(f"{late} of {len(self.runs)} runs were timed by reading the table again and again (20 ms).")
        parts += ["\n".join(f"- left out: {each}" for each in self.left_out)] if self.left_out else []
        parts += ["\n".join(f"- failed: {each}" for each in self.problems)] if self.problems else []
        return "\n\n".join(parts) + "\n"

    # ── as files ─────────────────────────────────────────────────────────────

    def write(self, folder: Path) -> Path:
        """Write table, drawing and everything behind them beside each other; returns the path of the table."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.began:%Y-%m-%d-%H%M%S}.md"
        plot = path.with_suffix(".svg")
        path.write_text(self.markdown(plot.name), "utf-8")
        plot.write_text(drawing(f"{self.began:%Y-%m-%d}: medians, less is better", self._panels()), "utf-8")
        path.with_suffix(".json").write_text(json.dumps(self._document(), indent=1) + "\n", "utf-8")
        return path

    def _panels(self) -> list[Panel]:
        return [
            Panel(
                scenario.title(self.scale),
                tuple(
                    Bar(daemon, median, min(values), max(values), shown(median, scenario.unit))
                    for daemon in self.versions
                    if (values := [run.value for run in self.of(scenario, daemon)])
                    for median in (statistics.median(values),)
                ),
                next(
                    (
                        self._limit(limit.scenario, limit.what)
                        for limit in self.limits
                        if limit.scenario == scenario.name and limit.what.startswith("kernel")
                    ),
                    None,
                ),
            )
            for scenario in self.scenarios
        ] + [
            Panel(
                f"{WORDS[what]}: {workloads:,} workloads, {backend}",
                tuple(
                    Bar(by, median, min(values), max(values), shown(median, cost.unit))
                    for by in dict.fromkeys(cost.by for cost in self.costs)
                    if (values := self._values(what, backend, workloads, by))
                    for median in (statistics.median(values),)
                    for cost in (next(each for each in self.costs if each.what == what),)
                ),
            )
            for what, backend, workloads in self._cases()
        ]

    def _document(self) -> dict[str, object]:
        return {
            "date": self.began.isoformat(timespec="seconds"),
            "command": self.command,
            "scale": asdict(self.scale),
            "machine": dict(self.machine),
            "load_before": round(self.load_before, 2),
            "is_quiet": self.is_quiet,
            "versions": dict(self.versions),
            "units": {scenario.name: scenario.unit for scenario in self.scenarios},
            "runs": [_rounded(asdict(run)) for run in self.runs],
            "limits": [_rounded(asdict(limit)) for limit in self.limits],
            "policy": [_rounded(asdict(cost)) for cost in self.costs],
            "left_out": self.left_out,
            "problems": self.problems,
        }


def _rounded(values: Mapping[str, object]) -> dict[str, object]:
    return {
        key: _rounded(value) if isinstance(value, dict) else round(value, 4) if isinstance(value, float) else value
        for key, value in values.items()
    }
