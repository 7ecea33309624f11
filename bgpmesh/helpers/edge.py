"""The daemon's end of its programs: has those run that are configured, each started again when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import NewType, TypeVar

from bgpmesh import log
from bgpmesh.errors import ConfigError, refused
from bgpmesh.events import Event, ProcessEnded, ProcessSpoke
from bgpmesh.frozen import frozen
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.nlri import Nlri, prefix_text

CHUNK = 16_384  # octets read at a time
LONGEST_LINE = 16_384  # octets
TURN_S = 0.002  # lines are handled for this long
REST = 3  # and then the daemon has so many times as long for others
BUSY_S = 0.01  # while the engine has more than enough to do, it is asked again after this
UNREAD_ANSWERS = 65_536  # octets that a program has not read; what comes on top is dropped
AGAIN_S = (1.0, 60.0)  # from the end of a program to the next start: doubled each time, at most
STEADY_S = 60.0  # a program that ran this long begins again with the first of them
LINES, WINDOW_S = 20, 10.0  # so many lines of one program in the log, in so many seconds
SHOWN = 500  # characters of a line in the log
KILLED = "its warden was killed"
LAST_WORDS_S = 1.0  # what it has said last is heard, or dropped, within this
END_S = 8.0  # a warden that has not ended what it wards by then is killed; more than its own patience

WARDEN = str(Path(__file__).parent / "warden.py")
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ")

T = TypeVar("T")
Command = NewType("Command", tuple[str, ...])
Announced = tuple[PathAttributes | None, tuple[Nlri, ...]]  # None: withdrawn
Parse = Callable[[str], Announced]  # raises ConfigError that names the word


@frozen
class ProcessOptions:
    """`[process.NAME]`."""

    name: str
    run: Command = field(
        metadata={
            "help": "a program that speaks ExaBGP's text API on its standard output, and its arguments",
            "shown": '["python3", "-m", "exabgp", "healthcheck", "--config", "/etc/bgpmesh/health.conf"]',
        }
    )
    nodes: str = field(
        default="all()", metadata={"help": "selector over node labels: who runs it", "example": "\"rack == 'r1'\""}
    )
    max_routes: int = field(default=1000, metadata={"help": "prefixes that it may announce", "range": (1, 100_000)})


class Helpers:
    """The programs of one node; `run` in a task, `configure` whenever they may be others.

    `why_not` tells why a prefix may not be announced, "" where it may. `load` returns what reads a line; it is called
    in a thread when there is a program for the first time.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        report: Callable[[Event], None],
        why_not: Callable[[Nlri], str],
        load: Callable[[], Parse],
        *,
        is_busy: Callable[[], bool],
    ) -> None:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self.environment = {**inherited, **environment, "TERM": "dumb"}
        self.report, self.why_not, self.is_busy = report, why_not, is_busy
        self._load = load
        self._parse: Parse | None = None
        self._wanted: dict[str, ProcessOptions] = {}
        self._programs: dict[str, tuple[Program, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    @property
    def up(self) -> dict[str, bool]:
        """Whether each program runs."""
        return {name: program.pid is not None for name, (program, _) in sorted(self._programs.items())}

    def shown(self) -> list[dict[str, object]]:
        """Return how each program is."""
        return [program.shown() for _, (program, _) in sorted(self._programs.items())]

    def configure(self, wanted: Iterable[ProcessOptions]) -> None:
        """Have these programs run, and no others; those that are the same programs as before go on."""
        self._wanted = {options.name: options for options in wanted}
        self._changed.set()

    async def run(self) -> None:
        """Have them run until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                over = {
                    name: task
                    for name, (program, task) in self._programs.items()
                    if not program.goes_on_as(self._wanted.get(name))
                }
                for task in over.values():
                    task.cancel()
                if over:
                    await asyncio.wait(over.values())
                for name in over:
                    del self._programs[name]
                if self._wanted and self._parse is None:
                    self._parse = await asyncio.to_thread(self._load)
                for name, options in self._wanted.items():
                    if name not in self._programs and self._parse is not None:
                        program = Program(options, self, self._parse)
                        self._programs[name] = (program, group.create_task(program.run()))


class Program:
    """One program: its lives, one after the other."""

    def __init__(self, options: ProcessOptions, helpers: Helpers, parse: Parse) -> None:
        self.options = options
        self.pid: int | None = None
        self._helpers, self._parse = helpers, parse
        self._loop = asyncio.get_running_loop()
        self._restarts = 0
        self._last_error = ""
        self._routes: set[Nlri] = set()
        self._line = 0  # of this life, from 1
        self._is_answered = True
        self._is_stopping = False
        self._line_of_life: asyncio.StreamWriter | None = None  # to its warden
        self._window_at, self._lines = float("-inf"), 0  # of what went to the log

    def goes_on_as(self, options: ProcessOptions | None) -> bool:
        """Go on with other options, where the life it has may be one with these; tell whether it does."""
        if options is None or options.run != self.options.run or len(self._routes) > options.max_routes:
            return False
        self.options = options
        return True

    def shown(self) -> dict[str, object]:
        """Return how it is."""
        return {
            "name": self.options.name,
            "state": "running" if self.pid is not None else "waiting",
            "pid": self.pid,
            "restarts": self._restarts,
            "last_error": self._last_error or None,
        }

    async def run(self) -> None:
        """Have it run until cancelled: it is started again when it ends, later each time."""
        first_s, longest_s = AGAIN_S
        pause_s = first_s
        while True:
            began_at = self._loop.time()
            life = asyncio.create_task(self._live())
            try:
                reason = await asyncio.shield(life)
            except asyncio.CancelledError:
                self._stop()
                await life
                raise
            if self._loop.time() - began_at >= STEADY_S:
                pause_s = first_s
            again_s = pause_s * random.uniform(1.0, 1.25)  # jitter
            pause_s = min(2 * pause_s, longest_s)
            self._last_error = reason
            log.warning("process.ended", process=self.options.name, reason=reason, again_s=again_s)
            await asyncio.sleep(again_s)
            self._restarts += 1

    # ── one life ─────────────────────────────────────────────────────────────

    def _stop(self) -> None:
        """Hear it no longer, and have its warden end it."""
        self._is_stopping = True
        self._helpers.report(ProcessEnded(self.options.name))
        if self._line_of_life is not None:
            self._line_of_life.write_eof()

    async def _live(self) -> str:
        """Start it and hear it until it ends; return how it did, in words. It is not cancelled, but stopped."""
        self._line, self._is_answered = 0, True
        try:
            warden, ours = await self._begun()
        except OSError as error:
            self._helpers.report(ProcessEnded(self.options.name))
            return f"cannot be started: {error.strerror}"
        reader, self._line_of_life = await asyncio.open_connection(sock=ours)
        if self._is_stopping:
            self._line_of_life.write_eof()
        said = asyncio.create_task(self._relay(_required(warden.stderr)))
        try:
            begun = (await reader.readline()).decode().strip()
            word, _, rest = begun.partition(" ")
            if word != "pid":
                return f"cannot be started: {rest}" if rest else KILLED
            self.pid = int(rest)
            log.info("process.started", process=self.options.name, pid=self.pid)
            return await self._heard(warden, reader)
        finally:
            self.pid = None
            self._routes.clear()
            self._helpers.report(ProcessEnded(self.options.name))
            life, self._line_of_life = self._line_of_life, None
            life.write_eof()  # which ends it, where it has not
            await self._over(warden, reader, said)
            life.close()

    async def _heard(self, warden: asyncio.subprocess.Process, reader: asyncio.StreamReader) -> str:
        """Hear it until it closes its standard output, or has ended and whoever holds that open says nothing more.

        Return how it ended, in words.
        """
        hearing = asyncio.create_task(self._hear(_required(warden.stdout), _required(warden.stdin)))
        ending = asyncio.create_task(reader.readline())
        await asyncio.wait({hearing, ending}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({hearing, ending}, timeout=LAST_WORDS_S)
        is_late = ending.cancel()
        if not hearing.cancel():
            hearing.result()
        await asyncio.wait({hearing, ending})
        return "it closed its standard output" if is_late else ending.result().decode().strip() or KILLED

    async def _begun(self) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """Return its warden and our end of the line to it; raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                return await self._start(theirs.fileno()), ours
            except OSError:
                ours.close()
                raise

    async def _start(self, descriptor: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", WARDEN, str(descriptor), *self.options.run),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=CHUNK,
            cwd="/",
            env={**self._helpers.environment, "BGPMESH_PROCESS": self.options.name},
            pass_fds=(descriptor,),
            start_new_session=True,
        )

    async def _over(
        self, warden: asyncio.subprocess.Process, reader: asyncio.StreamReader, said: asyncio.Task[None]
    ) -> None:
        """Return once nothing of it is left; what it has said and nobody has heard is dropped."""
        answers = _required(warden.stdin)
        unheard = asyncio.create_task(_drop(_required(warden.stdout)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await reader.read()  # until it closes its end, which is the last thing that it does
        answers.close()
        closed, gone = asyncio.create_task(_closed(answers)), asyncio.create_task(warden.wait())
        tasks: set[asyncio.Task[object]] = {unheard, closed, said, gone}
        _, late = await asyncio.wait(tasks, timeout=LAST_WORDS_S)
        if late:  # it does not end, or others hold its pipes open: `wait` is for both
            warden._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001  nothing else lets go of the pipes
            for task in late - {gone}:
                task.cancel()
            await asyncio.wait(late, timeout=LAST_WORDS_S)  # it was killed by that, and is no zombie after this
            gone.cancel()
            await asyncio.wait({gone})

    # ── what it says ─────────────────────────────────────────────────────────

    async def _hear(self, output: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Take its lines until there are no more; half a line at the end is none."""
        rest, is_too_long, spent_s = b"", False, 0.0
        while chunk := await output.read(CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                while self._helpers.is_busy() and not self._is_stopping:  # noqa: ASYNC110  it is asked of as seldom as this
                    await asyncio.sleep(BUSY_S)
                if self._is_stopping:
                    continue
                began_at = self._loop.time()
                self._line += 1
                if is_too_long or len(line) > LONGEST_LINE:
                    is_too_long = False
                    self._refuse(f"longer than {LONGEST_LINE} octets", answers)
                else:
                    self._take(line, answers)
                spent_s += self._loop.time() - began_at
                if spent_s > TURN_S:
                    await asyncio.sleep(REST * spent_s)
                    spent_s = 0.0
            if len(rest) > LONGEST_LINE:
                rest, is_too_long = b"", True
        if (rest or is_too_long) and not self._is_stopping:
            self._line += 1
            self._refuse("the output ends within the line", answers)

    def _take(self, line: bytes, answers: asyncio.StreamWriter) -> None:
        """Do what a line asks, and answer."""
        try:
            text = line.decode("ascii").rstrip()
        except UnicodeDecodeError as error:
            self._refuse(f"not ASCII at octet {error.start + 1}", answers)
            return
        match text.split(maxsplit=1):
            case ["debug", *_]:  # which ExaBGP does not answer
                self._log("process.debug", text=text.partition("debug")[2].strip()[:SHOWN])
                return
            case ["enable-ack"]:
                self._is_answered = True
            case ["disable-ack"]:
                self._answer("done", answers)
                self._is_answered = False
                return
            case ["silence-ack"]:
                self._is_answered = False
                return
            case [str(word), *_] if word.startswith("#"):
                pass
            case _:
                try:
                    self._announce(*self._parse(text))
                except ConfigError as error:
                    self._refuse(str(error), answers)
                    return
        self._answer("done", answers)

    def _announce(self, attributes: PathAttributes | None, nlris: tuple[Nlri, ...]) -> None:
        """Have all prefixes announced, or none; raises ConfigError."""
        if attributes is None:
            self._routes.difference_update(nlris)
        else:
            for nlri in nlris:
                if reason := self._helpers.why_not(nlri):
                    raise refused("prefix", prefix_text(nlri), reason)
            if len(self._routes | set(nlris)) > self.options.max_routes:
                raise refused("max_routes", self.options.max_routes, f"it announces {len(self._routes)} already")
            self._routes.update(nlris)
        self._helpers.report(ProcessSpoke(self.options.name, attributes, nlris))

    def _refuse(self, reason: str, answers: asyncio.StreamWriter) -> None:
        self._last_error = f"line {self._line}, {reason}"
        self._log("process.refused", is_warning=True, reason=self._last_error)
        self._answer("error", answers)

    def _answer(self, word: str, answers: asyncio.StreamWriter) -> None:
        """Answer, where answers are wanted and read."""
        is_read = not answers.is_closing() and answers.transport.get_write_buffer_size() < UNREAD_ANSWERS
        if self._is_answered and is_read:
            answers.write(f"{word}\n".encode())

    # ── the log ──────────────────────────────────────────────────────────────

    async def _relay(self, errors: asyncio.StreamReader) -> None:
        """Put its standard error into the log."""
        rest = b""
        while chunk := await errors.read(CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            rest, began_at = rest[:SHOWN], self._loop.time()
            for line in lines:
                self._log("process.said", text=line[:SHOWN].decode(errors="replace").rstrip())
            await asyncio.sleep(REST * (self._loop.time() - began_at))
        if rest:
            self._log("process.said", text=rest.decode(errors="replace"))

    def _log(self, name: str, *, is_warning: bool = False, **keys: object) -> None:
        """Write a line of the log, if this program has not had enough of them by now; then how many were left out."""
        now = self._loop.time()
        if now - self._window_at >= WINDOW_S:
            if self._lines > LINES:
                log.warning("process.muted", process=self.options.name, lines_count=self._lines - LINES)
            self._window_at, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES:
            (log.warning if is_warning else log.info)(name, process=self.options.name, **keys)


async def _drop(stream: asyncio.StreamReader) -> None:
    while await stream.read(CHUNK):
        pass


async def _closed(stream: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await stream.wait_closed()


def _required(stream: T | None) -> T:
    """Return a pipe that was asked for."""
    if stream is None:
        raise AssertionError("a pipe was asked for")
    return stream
