"""The unix socket: one JSON request a line, one JSON answer a line.

    -> {"command": "peers", "args": {"name": "n2"}}
    <- {"result": [..]}            or  {"error": {"kind": "config", "problems": [{"file", "key", "value", "reason"}]}}

A command that follows something answers like any other, and goes on with a line for each thing that happens:

    <- {"result": {..}}
    <- {"next": {..}}              again and again, until the client hangs up, or asks for something else

Descriptors (a workload's network namespace) come with the line as SCM_RIGHTS. A result that is an iterator
is sent as a JSON array piece by piece, so that a large table holds up neither the loop nor the memory.

What may happen and must harm nobody: a client that sends no newline, half a line, or a line without end;
one that never reads; one that follows and is gone; hundreds of clients; more descriptors than asked for; a socket
file left by a daemon that was killed; two daemons starting in the same moment (a lock beside the socket decides).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Protocol

from bgpmesh import log
from bgpmesh.control.client import DEFAULT_SOCKET
from bgpmesh.errors import ConfigError, Problem, refused
from bgpmesh.frozen import frozen

LONGEST_LINE = 32 << 20  # octets; `reload F` and `apply -f F` hand a whole file over
MOST_DESCRIPTORS = 8  # with one request
MOST_CLIENTS = 128  # at a time; further ones are told so
SEND_TIMEOUT_S = 30.0  # for a client to take the next piece of its answer
TELL_AGAIN_S = 60.0  # between two lines in the log about clients that cannot be taken
PIECE = 1 << 16  # octets of an answer sent at a time


@frozen
class ControlOptions:
    """`[control]`."""

    socket: str = field(
        default=DEFAULT_SOCKET,
        metadata={
            "help": "where the commands find the daemon",
            "pattern": (r"/.*", "an absolute path"),
            "longest": 103,  # sockaddr_un.sun_path has 107; BFD's is named by four more
        },
    )


@frozen
class Request:
    """What a client asks. The descriptors are closed when the answer is there: keep a copy (`os.dup`), if any."""

    command: str
    args: dict[str, object]
    descriptors: tuple[int, ...] = ()


class RequestError(Exception):
    """A request has no answer: `kind` is "not-found" (exit 1) or "bad-request" (exit 2)."""

    def __init__(self, kind: str, reason: str, *, key: str = "", value: str = "") -> None:
        super().__init__(reason)
        self.kind = kind
        self.problem = Problem("", key, value, reason)


class Following(Protocol):
    """What goes on after the answer. Closed however it ends."""

    async def __anext__(self) -> object:
        """Wait for the next thing to send."""

    async def aclose(self) -> None:
        """Hear that nobody wants it any longer."""


@frozen
class Stream:
    """An answer with more to come."""

    result: object
    following: Following


Handler = Callable[[Request], Awaitable[object]]


class ControlServer:
    """Serves one socket for the daemon of `node`; `start` first, then `run` in a task of the daemon's group."""

    def __init__(self, path: str, handler: Handler, node: str) -> None:
        self._path = path
        self._handler = handler
        self._node = node
        self._socket: socket.socket | None = None
        self._lock: int | None = None
        self._clients = 0

    def start(self) -> None:
        """Take the socket; a file left by a dead daemon is replaced. Blocks for a second at most.

        Raises ConfigError naming the daemon that has it, or why the path cannot be had.
        """
        path = Path(self._path)
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._lock = os.open(lock_path(self._path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _take_lock(self._lock, self._path, self._node)
            if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
                raise refused("control.socket", self._path, "something else than a socket is there")
            if _answers(self._path):
                raise refused("control.socket", self._path, "another program answers there")
            path.unlink(missing_ok=True)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.setblocking(False)
            os.fchmod(self._socket.fileno(), 0o600)  # the mode of the file that bind makes; no moment in between
            self._socket.bind(self._path)
            self._socket.listen(64)
        except OSError as error:
            self._release()
            raise refused("control.socket", self._path, error.strerror or str(error)) from error
        except ConfigError:
            self._release()
            raise

    async def run(self) -> None:
        """Serve until cancelled, then remove the socket."""
        if self._socket is None:
            raise RuntimeError("start comes first")
        loop = asyncio.get_running_loop()
        told_at = -TELL_AGAIN_S
        try:
            async with asyncio.TaskGroup() as clients:
                while True:
                    try:
                        connection, _ = await loop.sock_accept(self._socket)
                    except OSError as error:
                        # Out of descriptors, or the client is gone again: neither ends the service.
                        if loop.time() >= told_at + TELL_AGAIN_S:
                            told_at = loop.time()
                            log.warning("control.client-not-taken", reason=error.strerror or str(error))
                        await asyncio.sleep(0.1)
                        continue
                    clients.create_task(self._serve(connection))
        finally:
            self._release()

    def _release(self) -> None:
        """Give the socket up; its file goes first, while the lock still keeps others from making theirs."""
        if self._socket is not None:
            Path(self._path).unlink(missing_ok=True)
            self._socket.close()
        if self._lock is not None:
            os.close(self._lock)
        self._socket = self._lock = None

    async def _serve(self, connection: socket.socket) -> None:
        """Answer one client until it goes, breaks the rules or stops reading."""
        connection.setblocking(False)
        reader = _LineReader(connection)
        self._clients += 1
        try:
            if self._clients > MOST_CLIENTS:
                await _send(connection, _error("busy", (Problem("", "", "", f"over {MOST_CLIENTS} clients"),)))
                return
            while (line := await reader.line()) is not None:
                try:
                    await self._answer(connection, line, reader.take_descriptors())
                finally:
                    reader.close_descriptors()
        except _TooMuchError as error:
            with contextlib.suppress(OSError, TimeoutError):
                await _send(connection, _error("bad-request", (Problem("", "", "", str(error)),)))
        except (OSError, TimeoutError):
            pass  # the client went away, or does not read; its answer is nobody else's business
        finally:
            self._clients -= 1
            reader.close_descriptors()
            connection.close()

    async def _answer(self, connection: socket.socket, line: bytes, descriptors: tuple[int, ...]) -> None:
        try:
            result = await self._handler(_request(line, descriptors))
        except ConfigError as error:
            await _send(connection, _error("config", error.problems))
        except RequestError as error:
            await _send(connection, _error(error.kind, (error.problem,)))
        else:
            if isinstance(result, Stream):
                await _send_stream(connection, result)
            elif isinstance(result, Iterator):
                await _send_array(connection, result)
            else:
                await _send(connection, json.dumps({"result": result}).encode() + b"\n")


def lock_path(path: str) -> str:
    """Return the file whose lock says that a daemon has the socket."""
    return f"{path}.lock"


def _take_lock(lock: int, path: str, node: str) -> None:
    """Lock and sign the lock file; raises ConfigError naming who holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another daemon"
        raise refused("control.socket", path, f"{holder} has it") from error
    with contextlib.suppress(OSError):  # on a full disk the lock holds unsigned
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"the daemon of node {node} (pid {os.getpid()})\n".encode(), 0)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def _request(line: bytes, descriptors: tuple[int, ...]) -> Request:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError("bad-request", f"not JSON: {error}") from error
    match document:
        case {"command": str(command), "args": dict(args)}:
            return Request(command, args, descriptors)
        case {"command": str(command)} if "args" not in document:
            return Request(command, {}, descriptors)
    raise RequestError("bad-request", 'a request is {"command": NAME, "args": {..}}')


def _error(kind: str, problems: tuple[Problem, ...]) -> bytes:
    return json.dumps({"error": {"kind": kind, "problems": [p._asdict() for p in problems]}}).encode() + b"\n"


async def _send(connection: socket.socket, data: bytes) -> None:
    """Send all; raises TimeoutError where the client takes no piece for a while."""
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    for start in range(0, len(data), PIECE):
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await loop.sock_sendall(connection, view[start : start + PIECE])


async def _send_array(connection: socket.socket, members: Iterator[object]) -> None:
    """Send the members as one JSON array, and let the loop do other things between two pieces."""
    piece = bytearray(b'{"result": [')
    is_first = True
    for member in members:
        if not is_first:
            piece += b", "
        is_first = False
        piece += json.dumps(member).encode()
        if len(piece) >= PIECE:
            await _send(connection, bytes(piece))
            piece.clear()
            await asyncio.sleep(0)
    await _send(connection, bytes(piece) + b"]}\n")


async def _send_stream(connection: socket.socket, stream: Stream) -> None:
    """Send the answer, and what follows until the client says or closes something."""
    async with contextlib.aclosing(stream.following):
        await _send(connection, json.dumps({"result": stream.result}).encode() + b"\n")
        heard = asyncio.ensure_future(_readable(connection))
        try:
            while not heard.done():
                coming = asyncio.ensure_future(anext(stream.following))
                try:
                    await asyncio.wait((heard, coming), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    coming.cancel()
                if coming.done() and not coming.cancelled():
                    await _send(connection, json.dumps({"next": coming.result()}).encode() + b"\n")
        finally:
            heard.cancel()


class _TooMuchError(Exception):
    """The client sent a line or descriptors beyond the limits."""


class _LineReader:
    """Lines and descriptors of one client, within the limits."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._searched = 0  # no newline before this
        self._descriptors: list[int] = []

    async def line(self) -> bytes | None:
        """Return the next line without its end, None once the client is done; raises _TooMuchError, OSError."""
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            if len(self._buffer) > LONGEST_LINE:
                raise _TooMuchError(f"a request is one line of at most {LONGEST_LINE} octets")
            data = await self._receive()
            if not data:
                return None
            self._buffer += data
        found = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return found

    def take_descriptors(self) -> tuple[int, ...]:
        """Return what came with the lines up to here; still ours to close."""
        return tuple(self._descriptors)

    def close_descriptors(self) -> None:
        """Close what came."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    async def _receive(self) -> bytes:
        while True:
            try:
                data, descriptors, flags, _ = socket.recv_fds(
                    self._connection, PIECE, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await _readable(self._connection)
                continue
            self._descriptors += descriptors
            if flags & socket.MSG_CTRUNC and len(descriptors) < MOST_DESCRIPTORS:
                raise _TooMuchError("descriptors that came were lost: the daemon has too many files open")
            if len(self._descriptors) > MOST_DESCRIPTORS:
                raise _TooMuchError(f"at most {MOST_DESCRIPTORS} descriptors come with a request")
            return data


async def _readable(connection: socket.socket) -> None:
    """Wait until there is something to read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(connection)
