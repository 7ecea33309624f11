"""The metrics listener: GET /metrics, /live, /ready and the page at /; in our loop, without a thread.

One request a connection, answered and closed. What a stranger may do is bounded: the size of the request,
the time it takes, the number at once; whatever is no GET or HEAD of a page we have is refused by number.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import field
from typing import NewType, Protocol

from bgpmesh import log
from bgpmesh.control import views
from bgpmesh.errors import refused
from bgpmesh.frozen import frozen

Listen = NewType("Listen", str)  # host:port, [address]:port, or "" for off

LARGEST_HEADER = 8192  # octets
TIMEOUT_S = 10.0  # for a whole request, and for the answer to leave
MOST_CLIENTS = 64  # at a time

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
JSON_TEXT = "application/json"


@frozen
class MetricsOptions:
    """`[metrics]`."""

    listen: Listen = field(
        default=Listen("127.0.0.1:9179"),
        metadata={"help": '/metrics, /live, /ready (JSON reasons), / (status page); "" is off'},
    )
    per_peer: bool = field(default=True, metadata={"help": "false: no series for each peer, their sums only"})


def split_listen(text: str) -> tuple[str, int] | None:
    """Return host and port of `host:port` ("" as host: every address), None for ""; raises ValueError in words."""
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    is_bare = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or (":" in host and not is_bare) or "/" in host:
        raise ValueError('not host:port, [address]:port or ""')
    if not 0 <= int(port[:6]) <= 65_535:
        raise ValueError("the port is not between 0 (any free one) and 65535")
    return host.strip("[]"), int(port)


@frozen
class Answer:
    """A status code, a media type and a body."""

    code: int
    media_type: str
    body: bytes


class Renders(Protocol):
    """The metrics, as far as this module needs to know them."""

    def render(self) -> bytes:
        """Return every series in the text format."""


class Pages(views.Running, Protocol):
    """What the pages need of the daemon; asked anew for each request."""

    @property
    def metrics(self) -> Renders:
        """The series."""

    async def freshen(self) -> None:
        """Have read what costs something to read, and is shown: in a moment at most."""


class HttpServer:
    """Serves the pages at `listen` ("": nowhere); `start` first, then `run` in a task of the daemon's group."""

    def __init__(self, listen: str, pages: Pages) -> None:
        self._listen = listen
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self) -> None:
        """Listen; raises ConfigError where the address cannot be had."""
        place = split_listen(self._listen)
        if place is None:
            return
        host, port = place
        try:
            self._server = await asyncio.start_server(self._serve, host or None, port, limit=LARGEST_HEADER)
        except OSError as error:
            raise refused("metrics.listen", self._listen, error.strerror or str(error)) from error

    @property
    def port(self) -> int:
        """The port it listens on; 0: none."""
        return 0 if self._server is None else int(self._server.sockets[0].getsockname()[1])

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._server is None:
            return
        try:
            await self._server.serve_forever()
        finally:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        writer.transport.set_write_buffer_limits(0)  # drained means sent, all of it
        try:
            if self._clients > MOST_CLIENTS:
                return
            is_head, answer = await self._read_and_answer(reader)
            head = (
                f"HTTP/1.1 {answer.code} {_REASONS[answer.code]}\r\nContent-Type: {answer.media_type}\r\n"
                f"Content-Length: {len(answer.body)}\r\nConnection: close\r\nCache-Control: no-store\r\n"
                + ("Allow: GET, HEAD\r\n" if answer.code == 405 else "")
                + "X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; "
                "style-src 'unsafe-inline'\r\n\r\n"
            )
            writer.write(head.encode() + (b"" if is_head else answer.body))
            async with asyncio.timeout(TIMEOUT_S):
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            log.debug("http.client-lost", reason=str(error) or type(error).__name__)
        finally:
            self._clients -= 1
            writer.close()
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()  # a client that does not read keeps nothing of ours

    async def _read_and_answer(self, reader: asyncio.StreamReader) -> tuple[bool, Answer]:
        """Return whether only the head is wanted, and the answer."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return False, _said(431, f"a request has at most {LARGEST_HEADER} octets")
        except TimeoutError:
            return False, _said(408, f"no request within {TIMEOUT_S:g} s")
        words = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
            return False, _said(400, "not an HTTP/1 request")
        method, target, _ = words
        if method not in {"GET", "HEAD"}:
            return False, _said(405, "only GET and HEAD")
        path = target.partition("?")[0]
        if path == "/metrics":
            await self._pages.freshen()
        return method == "HEAD", self._page(path)

    def _page(self, path: str) -> Answer:
        match path:
            case "/metrics":
                return Answer(200, PROMETHEUS_TEXT, self._pages.metrics.render())
            case "/live":
                # Being able to say so is the proof: the loop turns.
                return Answer(200, JSON_TEXT, b'{"live": true}\n')
            case "/ready":
                reasons = self._pages.reasons()
                body = json.dumps({"ready": not reasons, "reasons": reasons}).encode() + b"\n"
                return Answer(503 if reasons else 200, JSON_TEXT, body)
            case "/":
                return Answer(200, "text/html; charset=utf-8", page(views.status(self._pages)).encode())
            case _:
                return _said(404, "there are /, /metrics, /live and /ready")


def _said(code: int, text: str) -> Answer:
    return Answer(code, "text/plain; charset=utf-8", f"{code} {_REASONS[code]}: {text}\n".encode())


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse}td,th{text-align:left;padding:.2em 1.2em .2em 0;border-bottom:1px solid #ddd}"
    ".n{text-align:right}.bad{color:#b00020}.good{color:#1b7f3b}"
)
_COLUMNS = ("name", "address", "asn", "state", "received", "accepted", "advertised", "last_error")


def page(status: Mapping[str, object]) -> str:
    """Return the status page: the answer of `bgpmesh status` as HTML; every value is escaped."""
    reasons, peers = status.get("reasons"), status.get("peers")
    rows = "".join(_row(peer) for peer in peers if isinstance(peer, Mapping)) if isinstance(peers, list) else ""
    why = "".join(f"<li>{_escaped(reason)}</li>" for reason in reasons) if isinstance(reasons, list) else ""
    ready = "<span class=good>ready</span>" if status.get("ready") else "<span class=bad>not ready</span>"
    node = _escaped(status.get("node", ""))
    counts = "".join(
        f"<tr><th>{_escaped(table)}</th><td>{_escaped(_counted(status.get(table)))}</td></tr>"
        for table in ("rib", "fib")
    )
    heads = "".join(f"<th>{_escaped(column.replace('_', ' '))}</th>" for column in _COLUMNS)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=10><title>{node} - bgpmesh"
        f"</title><style>{_STYLE}</style><h1>{node}: {ready}</h1><ul>{why}</ul><table>{counts}</table>"
        f"<h2>Peers</h2><table><tr>{heads}</tr>{rows}</table><p><a href=/metrics>metrics</a> <a href=/ready>ready</a>\n"
    )


def _row(peer: Mapping[str, object]) -> str:
    cells = []
    for column in _COLUMNS:
        is_over = column == "last_error" and peer.get("state") == "Established"
        value = None if is_over else peer.get(column)
        style = " class=n" if isinstance(value, int) else ""
        if column == "state":
            style = " class=good" if value == "Established" else " class=bad"
        cells.append(f"<td{style}>{_escaped('' if value is None else value)}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _counted(table: object) -> str:
    return ", ".join(f"{key} {value}" for key, value in table.items()) if isinstance(table, Mapping) else ""


def _escaped(value: object) -> str:
    from html import escape  # noqa: PLC0415  its table of entities takes a millisecond, and few look at the page

    return escape(str(value))
