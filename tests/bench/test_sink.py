"""The sink knows a complete feed from one that is not, and a well-formed UPDATE from one that is not."""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.feeder import KEEPALIVE, Feed, attribute, message, opening, update
from tests.bench.sink import Bitmap, Judge, Malformed

ROOT = Path(__file__).parents[2]
FIRST, HOP = ipaddress.IPv4Address("10.0.0.0"), ipaddress.IPv4Address("192.0.2.2")
ROUTES = 2000
ATTRIBUTES = {
    1: b"\0",
    2: b"",
    3: HOP.packed,
    5: struct.pack("!I", 100),
    9: HOP.packed,
    10: ipaddress.ip_address("192.0.2.1").packed,
}


def reflected(nlri: bytes, withdrawn: bytes = b"", **changes: bytes | None) -> bytes:
    """Return an UPDATE as a reflector sends it; `a9=...` replaces attribute 9, None leaves it out."""
    values = {f"a{code}": value for code, value in ATTRIBUTES.items()} | changes
    attributes = b"".join(attribute(0x40, int(key[1:]), value) for key, value in values.items() if value is not None)
    return update(withdrawn, attributes if nlri else b"", nlri)


def nlri(numbers: range) -> bytes:
    """Return single addresses of the feed."""
    return b"".join(b"\x20" + (FIRST + number).packed for number in numbers)


@contextmanager
def two_clients() -> Iterator[tuple[subprocess.Popen[str], list[socket.socket]]]:
    """Run a sink of two clients over the loopback; yields it with the established connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        words = ["--connect", "127.0.0.1", "--port", str(server.getsockname()[1]), "--bind", "127.0.0.2", "127.0.0.3"]
        words += ["--asn", "65001", "--first", str(FIRST), "--routes", str(ROUTES)]
        words += ["--next-hop", str(HOP), "--originator", str(HOP)]
        command = [sys.executable, "-m", "tests.bench.sink", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as sink:
            try:
                calls = [server.accept()[0] for _ in range(2)]
                for call in calls:
                    call.settimeout(60)
                    call.sendall(opening(65001, int(HOP), 90, 4) + message(KEEPALIVE, b""))
                assert sink.stdout
                assert "established" == json.loads(sink.stdout.readline())["event"]
                yield sink, calls
            finally:
                sink.terminate()
                for call in calls:
                    call.close()


def test_the_last_client_counts_and_repetitions_do_not() -> None:
    """It goes on where prefixes were told twice and others never, and takes the time of the read that completed it."""
    with two_clients() as (sink, (ready, late)):
        assert sink.stdout
        half, rest = nlri(range(700)), [nlri(range(700, 1400)), nlri(range(1400, ROUTES))]
        ready.sendall(b"".join(map(reflected, [half, *rest])))
        late.sendall(b"".join(map(reflected, [half, half, half])))
        began = time.monotonic()
        late.sendall(b"".join(map(reflected, rest)))
        said = json.loads(sink.stdout.readline())
        assert ("received", 8) == (said["event"], said["updates"])
        assert began <= said["last"] <= said["at"]


def test_a_malformed_update_ends_it() -> None:
    """Neither count nor time then: the run has failed."""
    with two_clients() as (sink, (good, bad)):
        assert sink.stdout
        parts = [nlri(range(start, start + 500)) for start in range(0, ROUTES, 500)]
        good.sendall(b"".join(map(reflected, [nlri(range(700)), *parts])))
        bad.sendall(b"".join(reflected(part, a9=None) for part in parts))  # at once: the first may end it
        said = json.loads(sink.stdout.readline())
        assert ("malformed", "attributes [9] are missing") == (said["event"], said["reason"])
        assert 1 == sink.wait(60)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\0\0", "too short"),
        (b"\0\x09\0\0", "withdrawn routes run over"),
        (b"\0\0\0\x09", "path attributes run over"),
        (reflected(nlri(range(1)), a3=b"\1\2\3")[19:], "attribute 3 has 3 octets"),
        (reflected(nlri(range(1)), a3=bytes(4))[19:], "next hop 00000000"),
        (reflected(nlri(range(1)), a9=bytes(4))[19:], "originator 00000000"),
        (reflected(nlri(range(1)), a5=None)[19:], "attributes [5] are missing"),
        (reflected(nlri(range(1)))[19:-1], "cut off"),
        (reflected(b"\x18\x0a\0\0")[19:], "no single addresses"),
        (reflected(nlri(range(ROUTES, ROUTES + 1)))[19:], "was not fed"),
        (update(b"", attribute(0x40, 1, b"\0") * 2, nlri(range(1)))[19:], "attribute 1 twice"),
        (update(b"", b"\x50\x01\x00\x09\x00", nlri(range(1)))[19:], "an attribute runs over"),
    ],
)
def test_what_no_reflector_may_send_is_refused(body: bytes, reason: str) -> None:
    """RFC 4271 section 6.3 and RFC 4456 section 8, and prefixes from nowhere."""
    with pytest.raises(Malformed, match=reason.replace("[", r"\[").replace("]", r"\]")):
        Bitmap(int(FIRST), ROUTES).take(1.0, *Judge(HOP.packed, HOP.packed).split(body))


def test_a_withdrawal_undoes_completeness() -> None:
    """The time is that of the UPDATE since which everything stands."""
    judge, bitmap = Judge(HOP.packed, HOP.packed), Bitmap(int(FIRST), 10)
    steps = [(nlri(range(10)), b""), (b"", nlri(range(3))), (nlri(range(2)), b""), (nlri(range(2, 3)), b"")]
    seen = []
    for at, (announced, withdrawn) in enumerate(steps, 1):
        bitmap.take(float(at), *judge.split(reflected(announced, withdrawn)[19:]))
        seen.append(bitmap.complete_at)
    assert [1.0, 0.0, 0.0, 4.0] == seen


def test_the_feeders_own_routes_lack_what_a_reflector_adds() -> None:
    """What was merely passed on is found out."""
    fed = Feed(first=FIRST, routes=10, sets=1, next_hop=HOP, asn=65001, is_internal=True).announcements()[0]
    with pytest.raises(Malformed, match=r"attributes \[9, 10\] are missing"):
        Judge(HOP.packed, HOP.packed).split(fed[19:])
