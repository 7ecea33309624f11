"""Configurations on trial: confirmed, rolled back, ended by time; and the one step back from what was kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bgpmesh import config
from bgpmesh.chosen import Overrides, choose
from bgpmesh.control.server import RequestError
from bgpmesh.engine import Engine
from bgpmesh.errors import ConfigError
from bgpmesh.events import Configured
from bgpmesh.revisions import Revisions
from bgpmesh.saved import Saved
from bgpmesh.state import State
from tests.waiting import DEADLINE_S

GOOD = '[cluster]\nasn = 64512\n[node.n1]\naddress = "192.0.2.1"\n'
OTHER, THIRD = (GOOD.replace("64512", asn) for asn in ("64513", "64514"))
LONG_S = 3600.0


class World:
    """A daemon's configuration, from the disk to the engine."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "bgpmesh.toml"
        self.overrides = Overrides(state_directory=str(directory))
        self.state = State(directory)
        if not self.file.exists():
            self.file.write_text(GOOD, encoding="utf-8")
        chosen = choose(str(self.file), "n1", self.overrides)
        assert self.state.save_config(chosen.kept) == ""
        self.engine = Engine(config.effective(chosen.configuration, "n1"), (), lambda: 0.0)
        self.put: list[int] = []
        self.revisions = Revisions(chosen, Saved(self.state, chosen.kept), lambda: self.engine, self._put)

    def _put(self, configured: Configured) -> None:
        self.put.append(configured.asn)
        self.engine.handle(configured, 0.0)

    @property
    def asns(self) -> tuple[int, int, int]:
        """What is in force, what the engine has, and what a daemon would have that starts now."""
        again = choose(str(self.file), "n1", self.overrides).configuration.cluster.asn
        return self.revisions.config.cluster.asn, self.engine.configured.asn, again


def in_loop(directory: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario with a world of its own."""

    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await scenario(World(directory))

    asyncio.run(run())


def test_a_trial_is_in_force_and_kept_once_it_is_confirmed(tmp_path: Path) -> None:
    """Until then a restart comes back to what was in force, also where the operator's file has the new text."""

    async def scenario(world: World) -> None:
        world.file.write_text(OTHER, encoding="utf-8")
        answer = world.revisions.reload(OTHER, str(world.file), LONG_S)
        assert answer["unconfirmed"] == world.revisions.unconfirmed() != None  # noqa: E711  and it is something
        assert world.asns == (64513, 64513, 64512)
        assert world.revisions.confirm() == {"confirmed": f"configuration {world.file}", "generation": 2}
        assert (world.asns, world.revisions.unconfirmed()) == ((64513, 64513, 64513), None)
        with pytest.raises(RequestError, match="nothing waits"):
            world.revisions.confirm()

    in_loop(tmp_path, scenario)


def test_a_trial_ends_by_itself(tmp_path: Path) -> None:
    """With its time."""

    async def scenario(world: World) -> None:
        world.revisions.reload(OTHER, "/elsewhere.toml", 0.01)
        while world.revisions.unconfirmed() is not None:  # noqa: ASYNC110  what it waits for is that a timer does it
            await asyncio.sleep(0.01)
        assert (world.asns, world.put) == ((64512, 64512, 64512), [64513, 64512])

    in_loop(tmp_path, scenario)


def test_a_trial_is_rolled_back_at_once(tmp_path: Path) -> None:
    """And what that does is said, beforehand too; a confirmation is too late then."""

    async def scenario(world: World) -> None:
        world.revisions.reload(OTHER, "/elsewhere.toml", LONG_S)
        told = world.revisions.rollback(is_dry_run=True)
        assert (world.asns[0], told["rolled_back"]) == (64513, False)
        done = world.revisions.rollback(is_dry_run=False)
        assert done["changes"] == told["changes"]
        assert (world.asns, world.revisions.unconfirmed()) == ((64512, 64512, 64512), None)

    in_loop(tmp_path, scenario)


def test_there_is_one_trial_at_a_time(tmp_path: Path) -> None:
    """Another, and a reload, are refused with the name of the first; objects that are not on trial are not."""

    async def scenario(world: World) -> None:
        world.revisions.reload(OTHER, "/elsewhere.toml", LONG_S)
        for trial_s in (LONG_S, None):
            with pytest.raises(ConfigError, match=r"configuration /elsewhere.toml: is not confirmed yet"):
                world.revisions.reload(THIRD, "/third.toml", trial_s)
        world.revisions.check_is_free(of_objects=True)
        assert world.asns[0] == 64513
        world.revisions.confirm()
        world.revisions.reload(THIRD, "/third.toml")
        world.revisions.begin("NetworkPolicy shop/web", LONG_S, lambda: "", lambda: None)
        with pytest.raises(ConfigError, match="NetworkPolicy shop/web"):
            world.revisions.check_is_free(of_objects=True)
        world.revisions.reload(OTHER, "/elsewhere.toml")

    in_loop(tmp_path, scenario)


def test_rollback_goes_one_kept_configuration_back(tmp_path: Path) -> None:
    """And forward again; over restarts, while the file is as it was."""

    async def scenario(world: World) -> None:
        with pytest.raises(RequestError, match="no configuration was kept"):
            world.revisions.rollback(is_dry_run=False)
        world.revisions.reload(OTHER, "/elsewhere.toml")
        world.revisions.rollback(is_dry_run=False)
        assert world.asns == (64512, 64512, 64512)
        assert (
            World(tmp_path).revisions.rollback(is_dry_run=False)["to"]
            == "the configuration that was kept before this one"
        )

    in_loop(tmp_path, scenario)


def test_a_bad_configuration_is_never_on_trial(tmp_path: Path) -> None:
    """And a disk that refuses what a restart would come back to has nothing put in force."""

    async def scenario(world: World) -> None:
        with pytest.raises(ConfigError):
            world.revisions.reload(GOOD.replace("64512", '"x"'), "/bad.toml", LONG_S)
        (tmp_path / "config.json.new").mkdir()
        with pytest.raises(ConfigError, match="cannot be written"):
            world.revisions.reload(OTHER, "/elsewhere.toml", LONG_S)
        assert (world.put, world.revisions.unconfirmed()) == ([], None)

    in_loop(tmp_path, scenario)
