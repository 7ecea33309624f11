"""The control socket: both ends, over a real one."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import select
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bgpmesh.control import client, server
from bgpmesh.control.server import ControlServer, Request, RequestError, Stream
from bgpmesh.errors import ConfigError, Problem, refused
from tests.waiting import DEADLINE_S, beside, until


class Numbers:
    """Something to follow: numbers as fast as they are taken, or one and then silence."""

    closed = 0

    def __init__(self, *, is_endless: bool) -> None:
        self._number = 0
        self._is_endless = is_endless

    async def __anext__(self) -> object:
        """Return the next."""
        if self._number and not self._is_endless:
            await asyncio.Event().wait()
        self._number += 1
        return [self._number, "x" * 1000]

    async def aclose(self) -> None:
        """Count those that have ended."""
        Numbers.closed += 1


async def echo(request: Request) -> object:
    """Answer with what was asked; some commands fail, or read what their descriptor is of."""
    match request.command:
        case "refuse":
            raise refused("name", "web", "is taken")
        case "miss":
            raise RequestError("not-found", "no such peer", key="peer", value="n9")
        case "read":
            return [os.read(descriptor, 100).decode() for descriptor in request.descriptors]
        case "large":
            return (["x" * 1000, number] for number in range(2000))
        case "follow":
            return Stream("go", Numbers(is_endless=bool(request.args.get("endless"))))
        case _:
            return {"command": request.command, "args": request.args}


def served(path: str, scenario: Callable[[], Awaitable[None]], node: str = "n1") -> None:
    """Run a scenario while a server runs at `path`."""

    async def both() -> None:
        control = ControlServer(path, echo, node)
        control.start()
        async with beside(control.run()), asyncio.timeout(DEADLINE_S):
            await scenario()

    asyncio.run(both())


async def ask(path: str, command: str, args: dict[str, object], descriptors: tuple[int, ...] = ()) -> object:
    """Ask with the blocking client, in a thread."""
    return await asyncio.to_thread(client.call, path, command, args, descriptors)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return where the socket is to be."""
    return str(tmp_path / "run" / "s")


def test_an_answer_comes_back_and_the_socket_is_its_owners_alone(path: str) -> None:
    """The request arrives as it was made; the file has mode 0600, and goes with the server."""

    async def scenario() -> None:
        assert await ask(path, "peers", {"name": "né"}) == {"command": "peers", "args": {"name": "né"}}
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600  # noqa: PTH116  no event loop waits for it

    served(path, scenario)
    assert not Path(path).exists()


def test_refusals_carry_their_kind_and_every_problem(path: str) -> None:
    """A ConfigError is of kind config, a RequestError of its own."""

    async def scenario() -> None:
        with pytest.raises(client.RefusedError) as caught:
            await ask(path, "refuse", {})
        assert caught.value.kind == "config"
        assert caught.value.problems == [Problem("", "name", "web", "is taken")._asdict()]
        with pytest.raises(client.RefusedError) as caught:
            await ask(path, "miss", {})
        assert caught.value.kind == "not-found"

    served(path, scenario)


def test_a_descriptor_is_handed_over(path: str, tmp_path: Path) -> None:
    """The daemon reads through the client's descriptor, and closes its own copy when it has answered."""
    (tmp_path / "namespace").write_text("inside")

    async def scenario() -> None:
        before = open_descriptors()
        for _ in range(3):
            descriptor = os.open(tmp_path / "namespace", os.O_RDONLY)
            assert await ask(path, "read", {}, (descriptor,)) == ["inside"]
            os.close(descriptor)
        await until(lambda: open_descriptors() <= before + 1)

    served(path, scenario)


def test_descriptors_that_the_daemon_has_no_room_for_are_missed(path: str) -> None:
    """The kernel drops them silently; the client is told why its request cannot be."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as asking:
            asking.setblocking(False)
            await loop.sock_connect(asking, path)
            await loop.sock_sendall(asking, b'{"command": "x"}\n')
            await loop.sock_recv(asking, 1000)  # it has been taken, and needs no more descriptors
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            try:
                socket.send_fds(asking, [b'{"command": "read"}\n'], [0])
                said = json.loads(await loop.sock_recv(asking, 1000))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        expected = "descriptors that came were lost: the daemon has too many files open"
        assert [problem["reason"] for problem in said["error"]["problems"]] == [expected]

    served(path, scenario)


def open_descriptors() -> int:
    """Count what this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def is_hung_up(connection: socket.socket) -> bool:
    """Tell whether the other end has closed, without reading."""
    poll = select.poll()
    poll.register(connection, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def test_a_large_table_arrives_whole(path: str) -> None:
    """An iterator becomes one JSON array."""

    async def scenario() -> None:
        answer = await ask(path, "large", {})
        assert isinstance(answer, list)
        assert answer == [["x" * 1000, number] for number in range(2000)]

    served(path, scenario)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'"status"',
        b"{}",
        b'{"command": 1}',
        b'{"command": "x", "args": []}',
        b"\xff\xfe",
        b"[" * 100_000,
        b"",
    ],
)
def test_bad_requests_are_answered_and_the_connection_goes_on(line: bytes, path: str) -> None:
    """Whatever the line, it gets one answer of kind bad-request, and the next request its own."""

    async def scenario() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line + b'\n{"command": "next"}\n')
        answers = [json.loads(await reader.readline()) for _ in range(2)]
        assert [answers[0]["error"]["kind"], answers[1]] == [
            "bad-request",
            {"result": {"command": "next", "args": {}}},
        ]
        writer.close()

    served(path, scenario)


def test_a_line_without_end_is_cut_off(path: str) -> None:
    """More than the limit without a newline is refused and the connection closed."""

    async def scenario() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        with suppress(ConnectionError):
            writer.write(b"x" * (server.LONGEST_LINE + 2 * server.PIECE))
            await writer.drain()
        with suppress(ConnectionError):
            assert b"bad-request" in await reader.readline()
            assert await reader.read() == b""
        writer.close()

    served(path, scenario)


def test_a_client_that_never_reads_holds_up_nobody(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are answered meanwhile; it is dropped when it takes nothing for too long."""
    monkeypatch.setattr(server, "SEND_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(path)
            deaf.sendall(b'{"command": "large"}\n')
            for _ in range(20):
                await ask(path, "status", {})
            deaf.settimeout(DEADLINE_S)
            received = 0
            await until(lambda: is_hung_up(deaf))
            while data := await asyncio.to_thread(deaf.recv, 1 << 16):
                received += len(data)
            assert received < 2000 * 1000

    served(path, scenario)


def test_clients_that_go_away_are_forgotten(path: str) -> None:
    """Half a line, nothing at all, and many at once: the server goes on."""

    async def scenario() -> None:
        for data in (b"", b'{"comm'):
            with socket.socket(socket.AF_UNIX) as rude:
                rude.connect(path)
                rude.sendall(data)
        answers = await asyncio.gather(*(ask(path, str(number), {}) for number in range(50)))
        assert [a["command"] for a in answers if isinstance(a, dict)] == [str(number) for number in range(50)]

    served(path, scenario)


def test_a_second_daemon_is_refused_by_the_name_of_the_first(path: str) -> None:
    """The refusal names node and process of who has the socket, and leaves it alone."""

    async def scenario() -> None:
        with pytest.raises(ConfigError, match=rf"the daemon of node n1 \(pid {os.getpid()}\) has it"):
            ControlServer(path, echo, "n2").start()
        assert await ask(path, "status", {}) == {"command": "status", "args": {}}

    served(path, scenario)


def test_a_socket_left_by_a_dead_daemon_is_replaced(path: str) -> None:
    """Nobody has the lock, nobody answers: the file is a leftover."""
    Path(path).parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    async def scenario() -> None:
        assert await ask(path, "status", {}) == {"command": "status", "args": {}}

    served(path, scenario)


def test_what_is_no_socket_is_not_replaced(path: str) -> None:
    """A file that somebody keeps at the path stays."""
    Path(path).parent.mkdir()
    Path(path).write_text("precious")
    with pytest.raises(ConfigError, match="something else than a socket"):
        ControlServer(path, echo, "n1").start()
    assert Path(path).read_text() == "precious"


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    """Return a socket at the path that a test answers itself."""
    Path(path).parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        yield listening


def test_the_client_says_that_nobody_is_there(path: str, listener: socket.socket) -> None:
    """No file, nobody listening, and an answer broken off are all "no daemon"."""
    with pytest.raises(client.NoDaemonError, match="did not answer: timed out"):
        client.call(path, "status", {}, timeout_s=0.05)
    listener.close()
    with pytest.raises(client.NoDaemonError, match="Connection refused"):
        client.call(path, "status", {})
    Path(path).unlink()
    with pytest.raises(client.NoDaemonError, match="No such file"):
        client.call(path, "status", {})


def test_the_client_says_that_the_socket_is_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that runs is not said to be absent."""

    def refuse(_: socket.socket, __: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    expected = "^the daemon's socket s is not for this user: Permission denied"
    with pytest.raises(client.NoDaemonError, match=expected):
        client.call("s", "status", {})
    with pytest.raises(client.NoDaemonError, match=expected):
        next(client.follow("s", "policy drops", {}))


async def closed(count: int) -> None:
    """Wait until so many have ended that were followed."""
    await until(lambda: Numbers.closed >= count)


def test_what_is_followed_goes_on_line_by_line(path: str) -> None:
    """And ends when the client hangs up, also while nothing comes; others are answered meanwhile."""

    def follow(count: int, **args: object) -> list[object]:
        found = []
        for told in client.follow(path, "follow", args):
            found.append(told)
            if len(found) == count:
                break
        return found

    async def scenario() -> None:
        before = Numbers.closed
        told = await asyncio.to_thread(follow, 4, endless=True)
        assert told == ["go", *([number, "x" * 1000] for number in (1, 2, 3))]
        await closed(before + 1)
        silent = asyncio.create_task(asyncio.to_thread(follow, 2))
        assert await ask(path, "peers", {}) == {"command": "peers", "args": {}}
        assert len(await silent) == 2
        await closed(before + 2)

    served(path, scenario)


def test_who_follows_may_ask_for_something_else(path: str) -> None:
    """Then no more of it comes, and the answer does."""

    async def scenario() -> None:
        before = Numbers.closed
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"command": "follow"}\n')
        assert json.loads(await reader.readline()) == {"result": "go"}
        assert "next" in json.loads(await reader.readline())
        writer.write(b'{"command": "peers"}\n')
        assert json.loads(await reader.readline())["result"]["command"] == "peers"
        assert Numbers.closed == before + 1
        writer.close()

    served(path, scenario)


def test_who_follows_and_does_not_read_is_left(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any client that takes no piece of its answer."""
    monkeypatch.setattr(server, "SEND_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        before = Numbers.closed
        _, writer = await asyncio.open_unix_connection(path, limit=1)
        writer.write(b'{"command": "follow", "args": {"endless": true}}\n')
        await closed(before + 1)
        writer.close()

    served(path, scenario)


def test_the_end_of_the_daemon_ends_what_is_followed(path: str) -> None:
    """The client hears that nobody is there any more."""
    told: list[object] = []

    def follow() -> None:
        told.extend(client.follow(path, "follow", {}))

    async def whole() -> None:
        control = ControlServer(path, echo, "n1")
        control.start()
        async with beside(control.run()):
            following = asyncio.create_task(asyncio.to_thread(follow))
            await until(lambda: len(told) == 2)
        with pytest.raises(client.NoDaemonError, match="has ended"):
            await following

    asyncio.run(whole())
