"""Programs that speak ExaBGP's text API: heard, answered, ended, started again; whatever they do the loop goes on."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bgpmesh import log
from bgpmesh.events import Event, ProcessEnded, ProcessSpoke
from bgpmesh.helpers import edge, warden
from bgpmesh.helpers.edge import Command, Helpers, ProcessOptions, Program
from bgpmesh.route.nlri import Nlri, parse_nlri, prefix_text
from bgpmesh.wire.announcements import parse
from tests.waiting import DEADLINE_S, until


class World:
    """The programs of one node, what they announce as the engine would have it, and what went to the log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[Event] = []
        self.logged: list[str] = []
        self.is_busy = False
        monkeypatch.setattr(log, "info", self._log)
        monkeypatch.setattr(log, "warning", self._log)
        self.helpers = Helpers(
            {"BGPMESH_NODE": "n1"}, self.events.append, self._why_not, lambda: parse, is_busy=lambda: self.is_busy
        )

    def _log(self, name: str, **keys: object) -> None:
        self.logged.append(log.render(name, keys))

    def _why_not(self, nlri: Nlri) -> str:
        return "it is n2's" if nlri == parse_nlri("10.9.0.0/16") else ""

    @property
    def announced(self) -> list[str]:
        """The prefixes that are announced now."""
        found: dict[str, set[Nlri]] = {}
        for event in self.events:
            if isinstance(event, ProcessEnded):
                found.pop(event.process, None)
            elif isinstance(event, ProcessSpoke):
                said = found.setdefault(event.process, set())
                (said.difference_update if event.attributes is None else said.update)(event.nlris)
        return sorted(prefix_text(nlri) for said in found.values() for nlri in said)

    def program(self, name: str = "p") -> dict[str, object]:
        """Return how one is."""
        return next(each for each in self.helpers.shown() if each["name"] == name)

    def has_logged(self, words: str) -> bool:
        """Tell whether a line of the log has these words."""
        return any(words in line for line in self.logged)


def alive(pid: int) -> bool:
    """Tell whether a process is there, and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it went before it was opened, or read
        return False


def shell(script: str, name: str = "p", max_routes: int = 1000) -> ProcessOptions:
    """Return a program."""
    return ProcessOptions(name, Command(("/bin/sh", "-c", script)), max_routes=max_routes)


def python(code: str) -> ProcessOptions:
    """Return a program."""
    return ProcessOptions("p", Command((sys.executable, "-u", "-c", code)))


def running(
    monkeypatch: pytest.MonkeyPatch, body: Callable[[World], Awaitable[None]], *programs: ProcessOptions
) -> World:
    """Run programs while `body` looks at them; then nothing of them is left."""

    async def main() -> World:
        world = World(monkeypatch)
        world.helpers.configure(programs)
        task = asyncio.create_task(world.helpers.run())
        try:
            await body(world)
        finally:
            task.cancel()
            await asyncio.wait([task])
        return world

    return asyncio.run(main())


def pid_in(file: Path) -> int:
    """Return the number that a program has written."""
    return int(file.read_text(encoding="ascii"))


def has_written(file: Path) -> Callable[[], bool]:
    """Tell whether a program has written its number."""
    return lambda: file.exists() and file.read_text(encoding="ascii").endswith("\n")


# ── what they say ────────────────────────────────────────────────────────────


def test_a_program_announces_withdraws_and_is_answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each line is answered as ExaBGP does: the next one comes once the answer was read."""
    lines = (
        "announce route 10.1.0.1 next-hop self",
        "nonsense",
        "# a remark",
        "debug hello",
        "announce route 10.9.0.0/16 next-hop self",
        "announce attributes next-hop self nlri 10.2.0.0/16 10.3.0.0/16",
        "withdraw route 10.2.0.0/16",
        "disable-ack",
        "withdraw route 10.4.0.0/16",
        "enable-ack",
    )
    code = f"""
import os, sys, time
answers = []
for line in {lines}:
    print(line)
    if line not in ("debug hello", "withdraw route 10.4.0.0/16"):
        answers.append(sys.stdin.readline().strip())
names = [os.environ["BGPMESH_NODE"], os.environ["BGPMESH_PROCESS"]]
open({str(tmp_path / "answers")!r}, "w").write(" ".join(answers + names) + "\\n")
time.sleep(100)
"""

    async def body(world: World) -> None:
        await until(has_written(tmp_path / "answers"))
        await until(lambda: world.announced == ["10.1.0.1/32", "10.3.0.0/16"])
        shown = world.program()
        assert (shown["state"], shown["restarts"]) == ("running", 0)
        assert shown["last_error"] == "line 5, prefix = 10.9.0.0/16: it is n2's"
        assert world.helpers.up == {"p": True}

    world = running(monkeypatch, body, python(code))
    assert (tmp_path / "answers").read_text() == "done error done error done done done done n1 p\n"
    assert world.has_logged("process.debug process=p text=hello")
    assert world.has_logged('process.refused process=p reason="line 2, word 1 = nonsense: not announce or withdraw"')
    assert world.announced == []


def test_a_line_with_a_prefix_that_may_not_be_is_not_taken_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a line that is refused nothing is announced; what is beyond the limit is refused too."""
    script = (
        "echo announce attributes next-hop self nlri 10.1.0.0/16 10.9.0.0/16; "
        "echo announce attributes next-hop self nlri 10.2.0.0/16 10.3.0.0/16 10.4.0.0/16; "
        "echo announce attributes next-hop self nlri 10.5.0.0/16 10.6.0.0/16; sleep 100"
    )

    async def body(world: World) -> None:
        await until(lambda: world.announced == ["10.5.0.0/16", "10.6.0.0/16"])
        assert world.has_logged("line 1, prefix = 10.9.0.0/16: it is n2's")
        assert world.program()["last_error"] == "line 2, max_routes = 2: it announces 0 already"

    running(monkeypatch, body, shell(script, max_routes=2))


def test_lines_that_are_no_text_or_too_long_are_refused_and_the_next_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in between, a good line counts, and each is counted."""
    code = """
import sys, time
out = sys.stdout.buffer
out.write(b"\\xff\\x00\\n" + b"x" * 100_000 + b"\\n" + b"y" * 20_000 + b"\\nannounce route 10.1.0.1 next-hop self\\n")
out.flush()
time.sleep(100)
"""

    async def body(world: World) -> None:
        await until(lambda: world.announced == ["10.1.0.1/32"])
        assert world.has_logged("line 1, not ASCII at octet 1")
        assert world.has_logged("line 2, longer than 16384 octets")
        assert world.has_logged("line 3, longer than 16384 octets")

    running(monkeypatch, body, python(code))


def test_a_program_that_reads_no_answers_is_heard_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """More answers than any pipe holds: the last line is taken."""
    lines = 40_000
    script = f"yes '#' | head -n {lines}; echo announce route 10.1.0.1 next-hop self; sleep 100"

    async def body(world: World) -> None:
        await until(lambda: world.announced == ["10.1.0.1/32"])

    running(monkeypatch, body, shell(script))


def test_a_flood_leaves_the_loop_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that never stops printing gets a share: the loop comes round many times for each of its turns."""
    monkeypatch.setattr(edge, "WINDOW_S", 2 * DEADLINE_S)  # however long it takes

    async def body(world: World) -> None:
        await until(lambda: world.has_logged("process.refused"))
        rounds = 0
        before = world.helpers.shown()[0]["last_error"]
        while world.helpers.shown()[0]["last_error"] == before or rounds < 200:
            rounds += 1
            await asyncio.sleep(0)
        refused = [line for line in world.logged if "process.refused" in line]
        assert len(refused) <= edge.LINES

    running(monkeypatch, body, shell("yes nonsense"))


def test_a_flood_of_errors_has_no_more_of_the_processor_than_one_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter at most: what is spent on them is rested for three times."""
    spent_s = rested_s = 0.0
    log_line = Program._log

    def log_slowly(program: Program, name: str, **keys: Any) -> None:
        nonlocal spent_s
        began_at = asyncio.get_running_loop().time()
        log_line(program, name, **keys)
        spent_s += asyncio.get_running_loop().time() - began_at

    async def rest(seconds: float) -> None:
        nonlocal rested_s
        rested_s += seconds
        await asyncio.sleep(seconds)

    async def body(_: World) -> None:
        await until(lambda: spent_s > 0.0)
        assert rested_s >= edge.REST * spent_s

    monkeypatch.setattr(Program, "_log", log_slowly)
    monkeypatch.setattr(edge, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": rest}))
    running(monkeypatch, body, shell("yes nonsense >&2"))


def test_nothing_is_taken_while_the_engine_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines wait in the pipe."""

    async def body(world: World) -> None:
        world.is_busy = True
        await until(lambda: world.helpers.up == {"p": True})
        await until(lambda: world.has_logged("process.said process=p text=printed"))
        assert world.announced == []
        world.is_busy = False
        await until(lambda: world.announced == ["10.1.0.1/32"])

    running(monkeypatch, body, shell("echo announce route 10.1.0.1 next-hop self; echo printed >&2; sleep 100"))


# ── how they end ─────────────────────────────────────────────────────────────


def test_routes_go_with_the_program_which_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """How it ended is said; half a line at its end is none; it comes back later each time."""
    monkeypatch.setattr(edge, "AGAIN_S", (0.01, 0.02))
    script = "echo announce route 10.1.0.1 next-hop self; printf 'announce route 10.2.0.1 next-hop self'; exit 3"

    async def body(world: World) -> None:
        await until(lambda: int(str(world.program()["restarts"] if world.helpers.up else 0)) >= 3)
        ended = [type(event).__name__ for event in world.events]
        assert ended[:4] == ["ProcessSpoke", "ProcessEnded", "ProcessSpoke", "ProcessEnded"]
        assert world.has_logged('process.ended process=p reason="exit code 3" again_s=0.0')
        assert world.has_logged("line 2, the output ends within the line")
        assert not any(parse_nlri("10.2.0.1/32") in e.nlris for e in world.events if isinstance(e, ProcessSpoke))

    running(monkeypatch, body, shell(script))


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (("/nonexistent",), "cannot be started: No such file or directory"),
        (("/etc/passwd",), "cannot be started: Permission denied"),
        (("/bin/sh", "-c", "kill -9 $$"), "signal 9"),
        (("/bin/sh", "-c", "exec >&-; sleep 100"), "it closed its standard output"),
        (("/bin/sh", "-c", "kill -9 $PPID; sleep 1"), "its warden was killed"),
        (("/bin/sh", "-c", "sleep 5 & kill -9 $PPID; wait"), "its warden was killed"),
    ],
)
def test_how_it_ended_is_said(monkeypatch: pytest.MonkeyPatch, run: tuple[str, ...], reason: str) -> None:
    """In words."""

    async def body(world: World) -> None:
        await until(lambda: world.has_logged("process.ended"))
        assert (world.program()["state"], world.program()["pid"]) == ("waiting", None)
        assert world.program()["last_error"] == reason
        assert isinstance(world.events[-1], ProcessEnded)

    running(monkeypatch, body, ProcessOptions("p", Command(run)))


def test_what_it_started_ends_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also what ignores SIGTERM, left its process group or its parent, and holds the pipes open."""
    monkeypatch.setattr(edge, "AGAIN_S", (60.0, 60.0))
    script = f"""
setsid sh -c 'trap "" TERM; echo $$ > {tmp_path}/away; sleep 1000' &
(sh -c 'trap "" TERM; echo $$ > {tmp_path}/orphan; while :; do sleep 1; done' &)
while [ ! -s {tmp_path}/away ] || [ ! -s {tmp_path}/orphan ]; do sleep 0.05; done
exit 0
"""

    async def body(world: World) -> None:
        await until(lambda: world.has_logged("exit code 0"))
        assert [alive(pid_in(tmp_path / name)) for name in ("away", "orphan")] == [False, False]

    running(monkeypatch, body, shell(script))


def other_warden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str) -> None:
    """Have programs run by a warden that is another in this."""
    text = Path(edge.WARDEN).read_text(encoding="utf-8")
    assert text.count(old) == 1
    other = tmp_path / "warden.py"
    other.write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(edge, "WARDEN", str(other))


def test_a_warden_that_does_not_end_is_killed_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """It has said how its program ended, and gets no turn after that."""
    other_warden(monkeypatch, tmp_path, "\n    main()\n", "\n    main()\n    time.sleep(1000)\n")

    async def body(world: World) -> None:
        await until(lambda: world.helpers.up == {"p": True})

    running(monkeypatch, body, shell("sleep 1000"))
    gc.collect()
    assert not [warning for warning in recwarn if "is still running" in str(warning.message)]


def test_at_a_stop_it_gets_sigterm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And has its time to end by itself; here it has plenty."""
    other_warden(monkeypatch, tmp_path, f"\nGRACE_S = {warden.GRACE_S}", "\nGRACE_S = 60.0")
    monkeypatch.setattr(edge, "END_S", 2 * DEADLINE_S)
    script = f"trap 'echo x > {tmp_path}/asked; exit' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done"

    async def body(_: World) -> None:
        await until(has_written(tmp_path / "pid"))

    running(monkeypatch, body, shell(script))
    assert has_written(tmp_path / "asked")()


def test_one_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With what it has started."""
    script = (
        f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done"
    )

    async def body(_: World) -> None:
        await until(has_written(tmp_path / "pid"))

    running(monkeypatch, body, shell(script))
    assert [alive(pid_in(tmp_path / name)) for name in ("pid", "child")] == [False, False]


def test_a_reload_ends_and_starts_only_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is configured as before goes on under its number; routes of another go at once."""

    def saying(name: str, prefix: str) -> ProcessOptions:
        return shell(f"echo announce route {prefix} next-hop self; sleep 100", name)

    async def body(world: World) -> None:
        await until(lambda: world.announced == ["10.1.0.1/32", "10.2.0.1/32", "10.3.0.1/32"])
        pid = world.program("a")["pid"]
        world.helpers.configure([saying("a", "10.1.0.1"), saying("b", "10.2.0.2")])
        await until(lambda: world.announced == ["10.1.0.1/32", "10.2.0.2/32"])
        assert world.program("a")["pid"] == pid
        assert list(world.helpers.up) == ["a", "b"]
        world.helpers.configure([])
        await until(lambda: not world.helpers.up)
        assert world.announced == []
        assert not alive(int(str(pid)))

    running(monkeypatch, body, saying("a", "10.1.0.1"), saying("b", "10.2.0.1"), saying("c", "10.3.0.1"))


def test_who_runs_a_program_and_how_much_it_may_say_is_changed_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it announces does not go for that; where it has announced more than it may now, it begins anew."""
    before = shell("echo announce attributes next-hop self nlri 10.1.0.1/32 10.1.0.2/32; sleep 100", "a")

    async def body(world: World) -> None:
        await until(lambda: world.announced == ["10.1.0.1/32", "10.1.0.2/32"])
        pid = world.program("a")["pid"]
        world.helpers.configure([replace(before, nodes="rack == 'r1'", max_routes=2), shell("sleep 100", "b")])
        await until(lambda: world.helpers.up == {"a": True, "b": True})
        assert world.program("a")["pid"] == pid
        assert not [each for each in world.events if isinstance(each, ProcessEnded)]
        world.helpers.configure([replace(before, max_routes=1)])
        await until(lambda: world.announced == [] and world.program("a")["pid"] not in {None, pid})

    running(monkeypatch, body, before)


DAEMON = """
import asyncio, sys
from bgpmesh.helpers.edge import Command, Helpers, ProcessOptions
from bgpmesh.wire.announcements import parse
helpers = Helpers({}, lambda _: None, lambda _: "", lambda: parse, is_busy=lambda: False)
helpers.configure([ProcessOptions("p", Command(("/bin/sh", "-c", sys.argv[1])))])
asyncio.run(helpers.run())
"""


def test_no_program_outlives_a_daemon_that_is_killed(tmp_path: Path) -> None:
    """Kill -9 of the daemon ends the program and what it started, though both ignore SIGTERM."""
    script = (
        f"trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/child; sleep 1000' & "
        f"echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done"
    )
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, script])
    try:
        files = [tmp_path / "pid", tmp_path / "child"]
        asyncio.run(until(lambda: all(has_written(file)() for file in files)))
        pids = [pid_in(file) for file in files]
        assert all(map(alive, pids))
        os.kill(daemon.pid, signal.SIGKILL)
        asyncio.run(until(lambda: not any(map(alive, pids))))
    finally:
        daemon.kill()
        daemon.wait()


def test_a_daemon_out_of_descriptors_starts_it_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And goes on meanwhile."""
    monkeypatch.setattr(edge, "AGAIN_S", (0.01, 0.01))
    file, pairs = tmp_path / "pid", [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]
    real = socket.socketpair

    def socketpair() -> tuple[socket.socket, socket.socket]:
        if pairs:
            raise pairs.pop()
        return real()

    async def body(world: World) -> None:
        monkeypatch.setattr(socket, "socketpair", socketpair)
        await until(has_written(file), lambda: world.logged)
        assert world.has_logged(f"cannot be started: {os.strerror(errno.EMFILE)}")

    running(monkeypatch, body, shell(f"echo $$ > {file}; exec sleep 1000"))


def test_what_it_started_ends_with_a_daemon_that_has_not_read_the_warden(tmp_path: Path) -> None:
    """The socket between them says then that it was reset, not that it has ended."""
    file, program = tmp_path / "pid", ("/bin/sh", "-c", "sleep 1000 & echo $! > $0; wait", str(tmp_path / "pid"))
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-I", "-S", edge.WARDEN, str(theirs.fileno()), *program]
        warden = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
    deadline = time.monotonic() + DEADLINE_S
    while not has_written(file)() and time.monotonic() < deadline:
        time.sleep(0.01)
    ours.close()
    warden.wait(DEADLINE_S)
    child = pid_in(file)
    is_left = alive(child)
    if is_left:
        os.kill(child, signal.SIGKILL)
    assert not is_left
