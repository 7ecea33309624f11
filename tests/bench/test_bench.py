"""The benchmark builds, and measures only what is right; how fast it was is nobody's business here."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from containerlab.lab import LabError, missing
from tests.bench.__main__ import main
from tests.bench.daemons import DAEMONS, Bgpmesh
from tests.bench.play import _check
from tests.bench.scenario import SCENARIOS
from tests.bench.watch import Watch, digest, expected

ROUTES = 1000
WATCH = Path(__file__).parent / "watch.py"

needs_lab = pytest.mark.skipif(bool(missing()), reason=missing())


@needs_lab
@pytest.mark.skipif(os.geteuid() != 0, reason="the other daemons change their user: needs root")
def test_every_scenario_is_right_with_every_daemon(tmp_path: Path) -> None:
    """One run of each ends with the kernel as fed, and is in the report."""
    if absent := [reason for daemon in DAEMONS if (reason := daemon.missing())]:
        pytest.skip("; ".join(absent))
    assert 0 == main(["--routes", str(ROUTES), "--runs", "1", "--results", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    document = json.loads(path.read_text("utf-8"))
    expected_runs = {(scenario.name, daemon.name) for scenario in SCENARIOS for daemon in DAEMONS}
    assert expected_runs == {(run["scenario"], run["daemon"]) for run in document["runs"]}
    assert path.with_suffix(".md").read_text("utf-8").count(f"| {Bgpmesh.name} |") == len(SCENARIOS)


def test_a_kernel_that_holds_other_routes_fails_the_run() -> None:
    """The right number of wrong routes is no result."""
    feed = expected(ipaddress.ip_address("10.0.0.0"), ROUTES)
    other = expected(ipaddress.ip_address("10.0.0.1"), ROUTES)
    with pytest.raises(LabError):
        _check({"count": ROUTES, "digest": digest(other)}, feed)


class Kernel:
    """A network namespace with a link and a watch over ten routes; commands go to a shell in it."""

    def __init__(self, timeout_s: int) -> None:
        user = ["--user", "--map-root-user"] if os.geteuid() else []
        command = ["unshare", *user, "--net", "sh", "-e"]
        self._shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.run("ip link add v0 type veth peer v1; ip address add 192.0.2.1/24 dev v0; ip link set v0 up")
        watch = f"{sys.executable} {WATCH} --first 10.0.0.0 --routes 10 --gateway 192.0.2.2"
        self.run(f"{watch} --until-gone --timeout {timeout_s} &")

    def run(self, *lines: str) -> None:
        """Run commands, in their order; the next `said` may come before they are through."""
        assert self._shell.stdin
        self._shell.stdin.write("\n".join(lines) + "\n")
        self._shell.stdin.flush()

    def said(self) -> dict[str, object]:
        """Return the next line of the watch."""
        assert self._shell.stdout
        line: dict[str, object] = json.loads(self._shell.stdout.readline())
        return line

    def close(self) -> int:
        """Return the exit status of the watch, which has nothing left to wait for."""
        self._shell.communicate("wait $!\n", timeout=120)
        return self._shell.returncode


def routes(verb: str, numbers: range, way: str = "") -> list[str]:
    """Return the commands that change some of the feed's routes."""
    return [f"ip route {verb} 10.0.0.{number}/32 {way}" for number in numbers]


@needs_lab
def test_the_watch_sees_routes_come_and_go() -> None:
    """It says so when the last one came, and when the last one went, whatever else lies in the table."""
    kernel = Kernel(120)
    assert "watching" == kernel.said()["event"]
    kernel.run("ip route add 10.0.0.0/24 via 192.0.2.3", *routes("add", range(10), "via 192.0.2.2"))
    assert ("complete", 10) == ((line := kernel.said())["event"], line["count"])
    kernel.run(*routes("delete", range(10)))
    assert ("gone", 0) == ((line := kernel.said())["event"], line["count"])
    assert 0 == kernel.close()


@pytest.mark.parametrize("told", [None, 0.0])
def test_the_table_is_read_again_where_too_little_was_told(
    told: float | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notifications that were lost (None), or were not the last, are no time; the first right reading is."""
    first, gateway = ipaddress.ip_address("10.0.0.0"), ipaddress.ip_address("192.0.2.2")
    feed = expected(first, 10)
    readings = iter([{}, dict.fromkeys(feed, gateway.packed)])
    monkeypatch.setattr("tests.bench.watch.Notices", lambda *_: SimpleNamespace(wait=lambda *_: told))
    monkeypatch.setattr("tests.bench.watch.Reader", lambda *_: SimpleNamespace(read=lambda: next(readings)))
    assert Watch(feed, gateway).wait(feed, 60)
    line = json.loads(capsys.readouterr().out)
    assert ("complete", "readings", True) == (line["event"], line["seen_by"], line["at"] > 0)


@needs_lab
def test_the_watch_does_not_take_another_gateway() -> None:
    """Ten routes of which one leads elsewhere are not the feed."""
    kernel = Kernel(2)
    kernel.run(*routes("add", range(9), "via 192.0.2.2"), *routes("add", range(9, 10), "via 192.0.2.3"))
    assert "watching" == kernel.said()["event"]
    line = kernel.said()
    assert ("not complete", 10) == (line["event"], line["count"])
    assert digest(expected(ipaddress.ip_address("10.0.0.0"), 9)) == line["digest"]
    assert 1 == kernel.close()
