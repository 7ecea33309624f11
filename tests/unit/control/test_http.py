"""The metrics listener, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from bgpmesh.control import http
from bgpmesh.control.http import HttpServer, split_listen
from bgpmesh.errors import ConfigError
from tests.waiting import DEADLINE_S, beside

if TYPE_CHECKING:
    from tests.unit.conftest import Running


def served(running: Running, scenario: Callable[[int], Awaitable[None]]) -> None:
    """Run a scenario while the pages are served; it is told the port."""

    async def both() -> None:
        server = HttpServer("127.0.0.1:0", running)
        await server.start()
        async with beside(server.run()), asyncio.timeout(DEADLINE_S):
            await scenario(server.port)

    asyncio.run(both())


async def exchange(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    whole = await reader.read()
    writer.close()
    head, _, body = whole.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split(" ")[1]), dict(line.split(": ", 1) for line in lines), body


async def get(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Ask for a page."""
    return await exchange(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def test_the_four_pages(running: Running) -> None:
    """Metrics in Prometheus's text format, liveness, readiness, and a page for people."""

    async def scenario(port: int) -> None:
        code, headers, body = await get(port, "/metrics?x=1")
        assert (code, body) == (200, b"bgpmesh_ready 1\n")
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert (await get(port, "/live"))[0] == 200
        assert json.loads((await get(port, "/ready"))[2]) == {"ready": True, "reasons": []}
        code, headers, body = await get(port, "/")
        assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert b"Established" in body

    served(running, scenario)


def test_a_node_that_is_not_ready_says_why(running: Running) -> None:
    """503, and the reasons as JSON; the page is there all the same, and trusts nothing it shows."""
    running.problems.append("<script>alert(1)</script>")

    async def scenario(port: int) -> None:
        code, _, body = await get(port, "/ready")
        assert (code, json.loads(body)) == (503, {"ready": False, "reasons": ["<script>alert(1)</script>"]})
        code, _, body = await get(port, "/")
        assert (code, b"<script>" in body, b"&lt;script&gt;" in body) == (200, False, True)

    served(running, scenario)


def test_the_page_shows_no_error_of_a_session_that_is_up() -> None:
    """What ended the one before is in the answers of `peers`."""
    row = {"name": "n2", "state": "Established", "last_error": "hold timer expired"}
    assert ["hold timer" in http.page({"peers": [row | {"state": state}]}) for state in ("Established", "Idle")] == [
        False,
        True,
    ]


def test_a_large_answer_arrives_whole_however_slowly_it_is_read(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cut off while the client goes on reading."""
    large = b"x" * 5_000_000
    monkeypatch.setattr(type(running.metrics), "render", lambda _: large)

    async def scenario(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        received = bytearray()
        while data := await reader.read(10_000):
            received += data
        assert len(received.partition(b"\r\n\r\n")[2]) == len(large)
        writer.close()

    served(running, scenario)


def test_head_is_get_without_a_body(running: Running) -> None:
    """The length is that of the body which is left out."""

    async def scenario(port: int) -> None:
        code, headers, body = await get(port, "/metrics", "HEAD")
        assert (code, headers["Content-Length"], body) == (200, str(len("bgpmesh_ready 1\n")), b"")

    served(running, scenario)


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
    ],
)
def test_what_is_no_request_of_ours_is_refused_by_number(request_bytes: bytes, code: int, running: Running) -> None:
    """Every mistake has its status code."""

    async def scenario(port: int) -> None:
        assert (await exchange(port, request_bytes))[0] == code

    served(running, scenario)


def test_a_request_that_does_not_come_is_given_up(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection costs us something for a limited time only; others are answered meanwhile."""

    async def scenario(port: int) -> None:
        _, slow = await asyncio.open_connection("127.0.0.1", port)
        slow.write(b"GET / HT")
        assert (await get(port, "/live"))[0] == 200
        monkeypatch.setattr(http, "TIMEOUT_S", 0.2)
        assert (await exchange(port, b"GET / HT"))[0] == 408
        slow.close()

    served(running, scenario)


def test_clients_that_hang_up_early_are_forgotten(running: Running) -> None:
    """The next one is answered."""

    async def scenario(port: int) -> None:
        for _ in range(100):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET")
            writer.close()
        assert (await get(port, "/live"))[0] == 200

    served(running, scenario)


def test_an_address_that_cannot_be_had_is_a_problem_of_the_configuration(running: Running) -> None:
    """Another program on the port is named by the key that chose it."""

    async def scenario(port: int) -> None:
        with pytest.raises(ConfigError, match=f"metrics.listen = 127.0.0.1:{port}"):
            await HttpServer(f"127.0.0.1:{port}", running).start()

    served(running, scenario)


def test_an_empty_address_is_off(running: Running) -> None:
    """Nothing listens, and running it is over at once."""

    async def scenario() -> None:
        server = HttpServer("", running)
        await server.start()
        await server.run()
        assert server.port == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:9179", ("::1", 9179)), (":9179", ("", 9179))],
)
def test_listen_addresses(text: str, expected: tuple[str, int] | None) -> None:
    """host:port, [address]:port, :port for every address, and nothing."""
    assert split_listen(text) == expected


@pytest.mark.parametrize("text", ["9179", "::1:9179", "host:", "host:x", "host:70000", "http://host:80", "host:-1"])
def test_bad_listen_addresses(text: str) -> None:
    """What is none of those is refused."""
    with pytest.raises(ValueError, match=r"not host:port|the port is not"):
        split_listen(text)
