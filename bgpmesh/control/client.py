"""The other end of the control socket; standard library only, no asyncio, nothing of the core."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence

DEFAULT_SOCKET = "/run/bgpmesh/bgpmesh.sock"
TIMEOUT_S = 60.0
LONGEST_TRIAL_S = 86_400  # of what is applied and not confirmed; the daemon asks too


class NoDaemonError(Exception):
    """Nobody answers at the socket."""


class RefusedError(Exception):
    """The daemon said no: the kind ("config", "not-found", "bad-request") and the problems as plain data."""

    def __init__(self, kind: str, problems: Sequence[Mapping[str, str]]) -> None:
        super().__init__(kind)
        self.kind = kind
        self.problems = problems


def call(
    path: str,
    command: str,
    args: Mapping[str, object],
    descriptors: Sequence[int] = (),
    timeout_s: float | None = TIMEOUT_S,
) -> object:
    """Return the daemon's result; raises NoDaemonError or RefusedError. `timeout_s` is for each read, None: no end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(path)
        except OSError as error:
            raise _unreached(path, error) from error
        try:
            answer = _exchange(connection, json.dumps({"command": command, "args": args}).encode() + b"\n", descriptors)
        except OSError as error:
            raise NoDaemonError(f"the daemon at {path} did not answer: {error.strerror or error}") from error
    return _result(answer, path)


def follow(path: str, command: str, args: Mapping[str, object]) -> Iterator[object]:
    """Yield the daemon's result, and then all that it goes on to tell; raises as `call` does, also when it ends.

    The result has `TIMEOUT_S`; what follows may take as long as it takes.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(path)
            connection.sendall(json.dumps({"command": command, "args": args}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                yield _result(lines.readline(), path)
                connection.settimeout(None)
                for line in lines:
                    yield json.loads(line)["next"]
        except OSError as error:
            raise _unreached(path, error) from error
    raise NoDaemonError(f"the daemon at {path} has ended")


def _unreached(path: str, error: OSError) -> NoDaemonError:
    """Say that nobody answers there, or that whoever asks may not."""
    if isinstance(error, PermissionError):
        return NoDaemonError(f"the daemon's socket {path} is not for this user: {error.strerror} (are you root?)")
    return NoDaemonError(f"no daemon at {path}: {error.strerror or error}")


def _exchange(connection: socket.socket, request: bytes, descriptors: Sequence[int]) -> bytes:
    sent = socket.send_fds(connection, [request], descriptors) if descriptors else 0
    if sent < len(request):  # nothing left must send nothing: the daemon may have answered and closed
        connection.sendall(request[sent:])
    answer = bytearray()
    while not answer.endswith(b"\n"):
        chunk = connection.recv(1 << 18)
        if not chunk:
            break
        answer += chunk
    return bytes(answer)


def _result(answer: bytes, path: str) -> object:
    try:
        document = json.loads(answer)
    except ValueError as error:
        raise NoDaemonError(f"the daemon at {path} broke off its answer") from error
    if isinstance(document, dict) and "result" in document:
        return document["result"]
    error_part = document.get("error", {}) if isinstance(document, dict) else {}
    raise RefusedError(str(error_part.get("kind", "bad-answer")), error_part.get("problems", []))
