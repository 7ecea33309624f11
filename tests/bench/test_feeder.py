"""The feeder feeds, and the sink counts: what a benchmark says rests on it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.bench.feeder import KEEPALIVE, NOTIFICATION, UPDATE, message, opening

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
        *(
            "--routes",
            "2500",
            "--sets",
            shape[0],
            "--per-update",
            shape[1],
            "--hold",
            "60",
            "--steps",
            "announce,withdraw",
        ),
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
    assert lines(feeder)["sent"]["updates"] == 2  # with End-of-RIB
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


def test_a_session_that_is_lost_is_called_again_and_fed_again() -> None:
    """With --again the end of one session is the beginning of the next, End-of-RIB and graceful restart included."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        feeder = program(
            *(
                "--connect",
                "127.0.0.1",
                "--port",
                str(server.getsockname()[1]),
                "--asn",
                "65001",
                "--peer-asn",
                "65001",
            ),
            *("--routes", "5", "--again", "--graceful-restart", "--hold", "inf"),
        )
        for _ in range(2):
            with server.accept()[0] as call, call.makefile("rb") as stream:
                opened = receive(stream)
                assert bytes.fromhex("4006 0078 0001 01 80") in opened[1]
                call.sendall(opening(65001, 1, 90, 4) + message(KEEPALIVE, b""))
                kinds = [receive(stream) for _ in range(3)]
                assert [KEEPALIVE, UPDATE, UPDATE] == [kind for kind, _ in kinds]
                assert bytes(4) == kinds[2][1]
    feeder.terminate()
    said = lines(feeder)
    assert {"established", "sent", "again established", "again sent"} <= said.keys()


def receive(stream: BinaryIO) -> tuple[int, bytes]:
    """Return type and body of the next message."""
    head = stream.read(19)
    return head[18], stream.read(int.from_bytes(head[16:18], "big") - 19)


def test_churn_ends_with_everything_announced_and_one_more() -> None:
    """Ten changes to five routes are one withdrawal and one announcement of each; the marker comes last."""
    sink = program(
        *("--listen", "127.0.0.1", "--port", "0", "--asn", "1", "--peer-asn", "1", "--expect", "6", "--hold", "inf")
    )
    assert sink.stdout is not None
    port = str(json.loads(sink.stdout.readline())["port"])
    feeder = program(
        *("--connect", "127.0.0.1", "--port", port, "--asn", "1", "--peer-asn", "1", "--routes", "5"),
        *("--steps", "announce,churn,drop", "--changes", "10", "--singles", "1"),
    )
    said, counted = lines(feeder), lines(sink)
    assert ["established", "sent", "churned", "dropped"] == list(said)
    assert 3 == said["churned"]["updates"]
    assert (6, 0) == (counted["received"]["prefixes"], counted["received"]["strays"])
    assert "closed by the peer" == counted["ended"]["reason"]
    assert 0 < counted["ended"]["silence_s"] < 60


def test_a_speaker_that_is_not_ready_is_called_again() -> None:
    """One that hangs up, or refuses, before the session stands has only just started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        port = str(server.getsockname()[1])
        feeder = program("--connect", "127.0.0.1", "--port", port, "--asn", "1", "--peer-asn", "1", "--routes", "5")
        server.accept()[0].close()
        with server.accept()[0] as call:
            call.sendall(message(NOTIFICATION, b"\5\0"))
        with server.accept()[0] as call:
            call.sendall(opening(1, 1, 90, 4) + message(KEEPALIVE, b""))
            assert "sent" in lines(feeder)
    assert 0 == feeder.returncode
