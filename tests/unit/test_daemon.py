"""The daemon's own part: what becomes of a bug. Everything else of it is seen in the lab tests."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from bgpmesh import daemon
from bgpmesh.chosen import Overrides, choose
from bgpmesh.control.server import Request
from bgpmesh.daemon import Daemon
from bgpmesh.events import DrainChanged
from bgpmesh.journal.story import Handled, read
from bgpmesh.rib.drain import Drain
from bgpmesh.state import Loaded, State
from tests.waiting import DEADLINE_S, until


def _break() -> None:
    raise ZeroDivisionError("a bug")


def written(directory: Path) -> Path:
    """Write the file of a daemon without a kernel."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = directory / "bgpmesh.toml"
    file.write_text(
        f'[cluster]\nasn = 64512\nport = {port}\n[node.n1]\naddress = "127.0.0.1"\n'
        '[kernel]\nenabled = false\n[metrics]\nlisten = ""\n[state]\nrecord_mb = 1\n',
        encoding="utf-8",
    )
    return file


def run(directory: Path, begin: Callable[[Daemon], object]) -> None:
    """Run a daemon without a kernel to its end; `begin` is called once it is in sync."""
    file = written(directory)

    async def scenario() -> None:
        overrides = Overrides(str(directory / "socket"), str(directory / "state"))
        chosen = choose(str(file), "n1", overrides)
        state = State(directory / "state")
        state.open("n1")
        try:
            node = Daemon(chosen, state)

            def look() -> None:
                if node.engine.peers.is_in_sync:
                    begin(node)
                else:
                    asyncio.get_running_loop().call_later(0.01, look)

            look()
            async with asyncio.timeout(DEADLINE_S):
                await node.run()
        finally:
            state.close()

    asyncio.run(scenario())


def test_a_bug_in_any_callback_ends_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that only logged it would leave a daemon that counts as alive and does half of its work."""
    with pytest.raises(ExceptionGroup) as caught, caplog.at_level("INFO", "bgpmesh"):
        run(tmp_path, lambda _: _break())
    assert [str(bug) for bug in caught.value.exceptions] == ["a bug"]
    assert f"journal.written file={tmp_path}/state/journal.gz" == caplog.messages[-1]
    assert ["ObjectsChanged", "LinksRead", "FibRead"] == events_of(tmp_path / "state" / "journal.gz")[:3]


def test_an_orderly_life_leaves_a_recording_and_no_journal(tmp_path: Path) -> None:
    """From the first event to the farewell."""
    run(tmp_path, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    events = events_of(tmp_path / "state" / "recording.journal")
    assert ["ObjectsChanged", "LinksRead", "FibRead", "Stopping"] == [*events[:3], events[-1]]
    assert not (tmp_path / "state" / "journal.gz").exists()


def test_the_journal_is_written_when_asked_for(tmp_path: Path) -> None:
    """SIGUSR1 has it written, and the daemon goes on."""

    def end_when_written() -> None:
        if (tmp_path / "state" / "journal.gz").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            asyncio.get_running_loop().call_later(0.01, end_when_written)

    def ask(_: Daemon) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        end_when_written()

    run(tmp_path, ask)
    assert ["ObjectsChanged", "LinksRead", "FibRead"] == events_of(tmp_path / "state" / "journal.gz")[:3]


def test_signals_that_come_together_are_one_reload(tmp_path: Path) -> None:
    """With a large file each takes half a second, in which nobody hears of us."""
    generations: list[int] = []

    def ask(daemon: Daemon) -> None:
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGHUP)
        end_when_loaded(daemon)

    def end_when_loaded(daemon: Daemon) -> None:
        generations.append(daemon.generation)
        if daemon.generation > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            asyncio.get_running_loop().call_later(0.01, end_when_loaded, daemon)

    run(tmp_path, ask)
    assert generations[-1] == 2


def test_what_is_asked_for_while_a_daemon_begins_waits_until_it_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that came first would have what is on disk written over: the engine does not know of it yet."""
    state = State(tmp_path / "state")
    (tmp_path / "state").mkdir()
    stopped = DrainChanged(Drain.STOPPED, text="racks")
    assert state.save_drain(stopped) == ""
    answers: list[asyncio.Future[object]] = []

    async def clear(daemon: Daemon) -> None:
        answers.append(asyncio.ensure_future(daemon.answer(Request("reload", {}))))
        await asyncio.sleep(0.05)
        assert daemon.generation == 1

    def end_when_loaded(daemon: Daemon) -> None:
        if daemon.generation == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            asyncio.get_running_loop().call_later(0.01, end_when_loaded, daemon)

    monkeypatch.setattr(Daemon, "_clear_former_place", clear)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1))
    try:
        signal.raise_signal(signal.SIGHUP)  # to this thread: others do not block it
        run(tmp_path, end_when_loaded)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert [answer.done() for answer in answers] == [True]
    assert state.drain() == Loaded(stopped)


def test_a_daemon_that_ends_takes_no_other_configuration(tmp_path: Path) -> None:
    """It would end sessions with a word that are to be kept, and call new peers; the next life has it."""
    seen: list[tuple[int, int]] = []

    def reload(node: Daemon) -> None:
        file = tmp_path / "bgpmesh.toml"
        file.write_text(file.read_text(encoding="utf-8") + '[node.n2]\naddress = "127.0.0.2"\n', encoding="utf-8")
        node.pump.end()
        node.revisions.reload(None, None)
        seen.append((len(node.config.nodes), len(node.engine.configured.peers)))

    run(tmp_path, reload)
    assert seen == [(2, 0)]


def test_a_broken_disk_keeps_no_daemon_from_starting_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was in force can be neither read nor written; the operator's file is good."""
    (tmp_path / "state" / "config.json").mkdir(parents=True)
    file = written(tmp_path)

    async def scenario() -> None:
        overrides = Overrides(str(tmp_path / "socket"), str(tmp_path / "state"))
        main = asyncio.ensure_future(daemon._main(str(file), "n1", overrides))
        await until(lambda: main.done() or "config.json cannot be written" in caplog.text)
        if not main.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await main

    asyncio.run(scenario())


def events_of(path: Path) -> list[str]:
    """Return the names of the events of a journal."""
    return [type(record.event).__name__ for record in read(path).records if isinstance(record, Handled)]
