"""The daemon's own part: what becomes of a bug. Everything else of it is seen in the lab tests."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from bgpmesh.daemon import Daemon, Overrides, choose
from bgpmesh.state import State

DEADLINE_S = 60.0


def _break() -> None:
    raise ZeroDivisionError("a bug")


def test_a_bug_in_any_callback_ends_the_process(tmp_path: Path) -> None:
    """A loop that only logged it would leave a daemon that counts as alive and does half of its work."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = tmp_path / "bgpmesh.toml"
    file.write_text(
        f'[cluster]\nasn = 64512\nport = {port}\n[node.n1]\naddress = "127.0.0.1"\n'
        '[kernel]\nenabled = false\n[metrics]\nlisten = ""\n',
        encoding="utf-8",
    )

    async def scenario() -> None:
        overrides = Overrides(str(tmp_path / "socket"), str(tmp_path / "state"))
        chosen = choose(str(file), "n1", overrides)
        state = State(tmp_path / "state")
        state.open("n1")
        try:
            daemon = Daemon(chosen, overrides, state)
            asyncio.get_running_loop().call_later(0.1, _break)
            async with asyncio.timeout(DEADLINE_S):
                await daemon.run()
        finally:
            state.close()

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scenario())
    assert [str(bug) for bug in caught.value.exceptions] == ["a bug"]
