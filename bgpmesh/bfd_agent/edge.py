"""The daemon's end: find the agent or start it, say what is to be watched, report what becomes of it.

    found       what runs is used: an earlier life of this daemon has left it, or an operator runs it
    not found   one is started, detached, with a socket that listens already: who looks for it from then on finds it
    another version    one is started that takes everything over from it, and no session notices

It is connected to while something is to be watched, and at start once where there is one, to be told that nothing is.
One that ends under us is started again, and has its sessions from the beginning: neighbours see those go down.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import bgpmesh
from bgpmesh import __version__, log
from bgpmesh.bfd_agent.sockets import bound, inode_of
from bgpmesh.events import BfdReported, Event
from bgpmesh.frozen import frozen
from bgpmesh.peering.bfd import PROTOCOL, Diag, Report, State, Watched

ANSWER_S = 5.0  # for an agent to begin, to greet, to hand over
AGAIN_S = 1.0  # between two tries
FAREWELL_S = 5.0  # for neighbours to be told that nobody watches them any more

Wanted = tuple[tuple[Watched, ...], float]  # and the seconds to go on without this daemon


@frozen
class Connection:
    """A connection with an agent, and what it said first."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: dict[str, object]


class AgentError(Exception):
    """The agent cannot be had; the text says why."""


def agent_path(control_socket: str) -> str:
    """Return where the agent of the daemon with this control socket listens."""
    return f"{control_socket}.bfd"


class BfdEdge:
    """The agent, as the daemon has it; `run` in a task, `kick` whenever something else may be wanted.

    To be read: `problems`, in words, and `discarded`, packets that were not taken, by the reason.
    """

    def __init__(self, control_socket: str, wanted: Callable[[], Wanted], report: Callable[[Event], None]) -> None:
        self.problems: list[str] = []
        self.discarded: dict[str, int] = {}
        self._path = agent_path(control_socket)
        self._wanted, self._report = wanted, report
        self._said: Wanted = ((), 0.0)
        self._writer: asyncio.StreamWriter | None = None
        self._kicked = asyncio.Event()
        self._known: dict[str, Report] = {}

    def kick(self) -> None:
        """Say what is wanted, if it is something else than before."""
        if (wanted := self._wanted()) != self._said:  # the same tuple costs nothing to compare
            if wanted[0]:
                self._kicked.set()
            self._say()

    async def run(self) -> None:
        """Have an agent for as long as something is wanted, until cancelled; it goes on after that."""
        is_begin = inode_of(self._path) != 0  # an earlier life may have left one
        while True:
            while not (self._wanted()[0] or is_begin):
                self._kicked.clear()
                await self._kicked.wait()
            is_begin, pause_s = False, 0.0
            try:
                if (found := await self._found()) is not None:
                    await self._serve(found)
            except (AgentError, OSError, ValueError, TypeError) as error:
                self._problem(f"BFD: {error}")
                pause_s = AGAIN_S
            self._lose()
            await asyncio.sleep(pause_s)

    # ── to have an agent ─────────────────────────────────────────────────────

    async def _found(self) -> Connection | None:
        """Return a connection with an agent, None where there is none and none is wanted; raises what says why not."""
        found = await self._connected()
        if found is not None and found.greeting.get("version") == __version__:
            log.info("bfd.agent-found", pid=found.greeting.get("pid"))
            return found
        if found is not None:
            await self._replace(found)
        elif self._wanted()[0]:
            Path(self._path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with bound(self._path) as listener:
                await self._start("--listener", str(listener.fileno()), descriptors=(listener.fileno(),))
        else:
            return None
        found = await self._connected()
        if found is None or found.greeting.get("protocol") != PROTOCOL:
            raise AgentError("the agent has ended at once" if found is None else "the agent speaks another language")
        keys = {key: found.greeting.get(key) for key in ("pid", "version", "scheduling")}
        log.info("bfd.agent-started" if keys["version"] == __version__ else "bfd.agent-found", **keys)
        return found

    async def _replace(self, former: Connection) -> None:
        """Have an agent of this version take over from another; where that fails the other one goes on, or ends.

        It goes on if it speaks as we do.
        """
        keys = {key: former.greeting.get(key) for key in ("pid", "version")}
        log.info("bfd.agent-replaced", **keys)
        try:
            await self._start("--take-over")
        except AgentError as error:
            log.warning("bfd.agent-not-replaced", **keys, reason=str(error))
            if former.greeting.get("protocol") != PROTOCOL:
                former.writer.write(_line((), 0.0))
                async with asyncio.timeout(FAREWELL_S):
                    await former.reader.read()
                raise
        finally:
            former.writer.close()

    async def _connected(self) -> Connection | None:
        """Return a connection with the agent that listens; None: nobody does, or it was about to end."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._path)
                if line := await reader.readline():
                    agent = Connection(reader, writer, _object(line))
                    writer = None
                    return agent
        except (FileNotFoundError, ConnectionError):
            return None
        except TimeoutError as error:
            raise AgentError(f"nobody answers at {self._path}") from error
        finally:
            if writer is not None:
                writer.close()
        return None

    async def _start(self, *options: str, descriptors: Sequence[int] = ()) -> None:
        """Start an agent, which goes into the background once it has all it needs; raises AgentError."""
        package = str(Path(bgpmesh.__file__).parent.parent)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-S", "-m", "bgpmesh.bfd_agent", self._path, "--detach", *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": package},
            pass_fds=descriptors,
        )
        try:
            async with asyncio.timeout(ANSWER_S):
                _, said = await process.communicate()
        except TimeoutError as error:
            process.kill()
            raise AgentError("the agent does not begin") from error
        if process.returncode:
            raise AgentError(said.decode(errors="replace").strip().splitlines()[-1] if said else "the agent failed")

    # ── to talk with it ──────────────────────────────────────────────────────

    async def _serve(self, agent: Connection) -> None:
        """Say what is wanted, and report what is told, until the agent ends."""
        self._writer = agent.writer
        self._problem("")
        self._say()
        try:
            while line := await agent.reader.readline():
                self._hear(_object(line))
        finally:
            agent.writer.close()
        if self._said[0]:
            raise AgentError("the agent has ended")

    def _say(self) -> None:
        if self._writer is None:
            return
        self._said = rows, stay_s = self._wanted()
        self._writer.write(_line(rows, stay_s))
        names = {row.name for row in rows}
        self._known = {name: report for name, report in self._known.items() if name in names}

    def _hear(self, said: dict[str, object]) -> None:
        match said:
            case {"report": dict(row)}:
                report = Report(**row)
                self._known[report.name] = report
                self._report(BfdReported(report))
            case {"problems": list(problems), "discarded": dict(discarded)}:
                self.discarded = discarded
                self._problem(*(f"BFD: {problem}" for problem in problems))
            case {"bug": str(text)}:
                log.error("bfd.agent-failed", reason=text)
            case _:
                raise AgentError(f"the agent says what is not understood: {said!r:.80}")

    def _lose(self) -> None:
        """Forget an agent that is gone: what it watched is not known to be up, and has not failed either."""
        self._writer, self._said = None, ((), 0.0)
        for report in self._known.values():
            lost = report._replace(state=State.DOWN, diag=Diag.NONE, is_failure=False, detection_ms=0.0)
            self._report(BfdReported(lost))
        self._known.clear()

    def _problem(self, *problems: str) -> None:
        """Take note of what is wrong, and tell what is new and what is over."""
        new = [problem for problem in problems if problem]
        for problem in new:
            if problem not in self.problems:
                log.warning("bfd.problem", reason=problem)
        for problem in self.problems:
            if problem not in new:
                log.info("bfd.problem-over", reason=problem)
        self.problems = new


def end(control_socket: str) -> bool:
    """Have the agent tell all neighbours and end; False if there is none. Raises OSError where it does not end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.settimeout(FAREWELL_S)
        if agent.connect_ex(agent_path(control_socket)):
            return False
        agent.sendall(_line((), 0.0))
        while agent.recv(1 << 16):
            pass
    return True


def _line(rows: tuple[Watched, ...], stay_s: float) -> bytes:
    return json.dumps({"wanted": rows, "stay_s": stay_s}).encode() + b"\n"


def _object(line: bytes) -> dict[str, object]:
    """Return the object on a line; raises ValueError."""
    said = json.loads(line)
    if not isinstance(said, dict):
        raise ValueError(f"{line[:80]!r} is no object")  # noqa: TRY004  it is no fault of ours
    return said
