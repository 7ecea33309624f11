"""The feeder feeds, and the sink counts: what a benchmark says rests on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FEEDER = Path(__file__).parent / "feeder.py"


def program(*arguments: str) -> subprocess.Popen[str]:
    """Start the feeder with these arguments."""
    return subprocess.Popen(
        [sys.executable, str(FEEDER), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def lines(process: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    """Return what the program said, by event."""
    out, _ = process.communicate(timeout=120)
    return {line["event"]: line for line in map(json.loads, out.splitlines())}


@pytest.mark.parametrize("shape", [("1", "0"), ("7", "0"), ("3", "1"), ("1", "100")])
@pytest.mark.parametrize(("family", "address"), [("ipv4", "127.0.0.1"), ("ipv6", "::1")])
def test_what_is_fed_is_counted(family: str, address: str, shape: tuple[str, str]) -> None:
    """Every route arrives once, stands, and goes again, whatever the packing."""
    common = ("--family", family, "--timeout", "60")
    sink = program(
        *("--listen", address, "--port", "0", "--asn", "65001", "--peer-asn", "70000"),
        *("--expect", "2500", "--expect-withdrawn", *common),
    )
    assert sink.stdout is not None
    port = str(json.loads(sink.stdout.readline())["port"])
    feeder = program(
        *("--connect", address, "--port", port, "--asn", "70000", "--peer-asn", "65001", "--router-id", "192.0.2.9"),
        *("--routes", "2500", "--sets", shape[0], "--per-update", shape[1], "--withdraw-after", "0", "--hold", "60"),
        *common,
    )
    counted = lines(sink)
    said = lines(feeder)
    assert counted["received"]["prefixes"] == 2500
    assert counted["lost"]["strays"] == 0
    assert (sink.returncode, said["withdrawn"]["updates"] > 0) == (0, True)


def test_missing_routes_are_told() -> None:
    """A sink that does not get what it expects exits 1 and says how much it got."""
    sink = program(
        *("--listen", "127.0.0.1", "--port", "0", "--asn", "65001", "--peer-asn", "65001"),
        *("--expect", "10", "--timeout", "30"),
    )
    assert sink.stdout is not None
    port = str(json.loads(sink.stdout.readline())["port"])
    feeder = program(
        *("--connect", "127.0.0.1", "--port", port, "--asn", "65001", "--peer-asn", "65001", "--routes", "9"),
        *("--timeout", "60"),
    )
    assert lines(feeder)["sent"]["updates"] == 1
    assert lines(sink)["ended"]["prefixes"] == 9
    assert (feeder.returncode, sink.returncode) == (0, 1)


def test_a_held_feeder_announces_when_told_and_stays_until_stopped() -> None:
    """With --wait nothing is announced before a line comes; SIGTERM ends an endless hold with exit 0."""
    sink = program(
        *("--listen", "127.0.0.1", "--port", "0", "--asn", "1", "--peer-asn", "1", "--expect", "5", "--hold", "inf")
    )
    assert sink.stdout is not None
    port = str(json.loads(sink.stdout.readline())["port"])
    feeder = program(
        *("--connect", "127.0.0.1", "--port", port, "--asn", "1", "--peer-asn", "1", "--routes", "5"),
        *("--wait", "--hold", "inf"),
    )
    assert feeder.stdout is not None
    assert feeder.stdin is not None
    assert json.loads(feeder.stdout.readline())["event"] == "established"
    assert json.loads(sink.stdout.readline())["event"] == "established"
    feeder.stdin.write("go\n")
    feeder.stdin.flush()
    assert json.loads(feeder.stdout.readline())["event"] == "sent"
    assert json.loads(sink.stdout.readline())["prefixes"] == 5
    feeder.terminate()
    assert lines(feeder)["ended"]["reason"] == "stopped"
    assert lines(sink)["ended"]["reason"].startswith("NOTIFICATION 6/2")
    assert (feeder.returncode, sink.returncode) == (0, 0)
