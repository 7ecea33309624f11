"""The policy directory while somebody writes in it: never half of a change."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from bgpmesh import keeper, objects
from bgpmesh.events import Event, ObjectsChanged
from bgpmesh.keeper import Keeper
from bgpmesh.state import State
from tests.waiting import beside, until


def text(*names: str) -> str:
    """Return a file with policies of these names."""
    items = [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"podSelector": {}},
        }
        for name in names
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


class World:
    """A keeper over a directory, and every state of what is in force that it told of."""

    def __init__(self, path: Path) -> None:
        self.directory = path / "policies.d"
        self.directory.mkdir()
        (path / "state").mkdir()
        self.told: list[set[str]] = []
        self.keeper = Keeper(State(path / "state"), self._hear)

    def _hear(self, event: Event) -> None:
        assert isinstance(event, ObjectsChanged)
        names = {key.name for key in event.objects or ()}
        if names not in self.told[-1:]:  # it also tells where only what is wrong has changed
            self.told.append(names)

    def watch(self, change: Callable[[], None], holds: Callable[[], bool]) -> None:
        """Begin, change something, and wait until something is so."""

        async def story() -> None:
            assert self.keeper.restore(self.directory)
            async with beside(self.keeper.watch(lambda: self.directory)):
                await asyncio.to_thread(change)
                await until(holds, lambda: self.told)

        asyncio.run(story())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Give a keeper that looks often."""
    monkeypatch.setattr(keeper, "WATCH_S", 0.3)
    return World(tmp_path)


def policies(*names: str) -> list[object]:
    """Return the same as documents."""
    found: list[object] = json.loads(text(*names))["items"]
    return found


def test_what_is_tried_out_is_kept_once_it_is_confirmed(world: World, tmp_path: Path) -> None:
    """Until then a restart comes back to what was applied before; what files have stays, however it ends."""
    (world.directory / "f.json").write_text(text("of-file"))
    kept = world.keeper
    assert kept.restore(world.directory)
    kept.apply(policies("old"))
    for is_confirmed, left in ((False, {"old"}), (True, {"old", "new"})):
        assert kept.try_out(policies("new")).done == ("NetworkPolicy shop/new",)
        assert kept.save() == ""
        assert {"old", "new", "of-file"} == world.told[-1] == {key.name for key in kept.store.objects()}
        assert {"old", "of-file"} == after_restart(world, tmp_path)
        if is_confirmed:
            assert kept.confirm() == ""
        kept.take_back()  # of what is confirmed there is nothing to take back
        assert kept.save() == ""
        assert {"of-file", *left} == world.told[-1] == after_restart(world, tmp_path)


def test_a_disk_that_refuses_leaves_it_unconfirmed(world: World, tmp_path: Path) -> None:
    """It can be confirmed again, or taken back."""
    assert world.keeper.restore(world.directory)
    world.keeper.try_out(policies("new"))
    (tmp_path / "state" / "objects.json.new").mkdir()
    assert "cannot be written" in world.keeper.confirm()
    world.keeper.take_back()
    assert world.told[-1] == set()


def after_restart(world: World, tmp_path: Path) -> set[str]:
    """Return the names of what another daemon would have in force."""
    another = Keeper(State(tmp_path / "state"), lambda _: None)
    assert another.restore(world.directory)
    return {key.name for key in another.store.objects()}


def publish(world: World, version: str, files: dict[str, str]) -> None:
    """Put files in place as a ConfigMap does: a directory of its own, and one link that is renamed."""
    place = world.directory / f"..{version}"
    place.mkdir()
    for name, content in files.items():
        (place / name).write_text(content)
        if not (world.directory / name).is_symlink():
            (world.directory / name).symlink_to(f"..data/{name}")
    fresh = world.directory / "..data_tmp"
    fresh.symlink_to(place.name)
    fresh.rename(world.directory / "..data")


def test_a_config_map_is_exchanged_at_one_blow(world: World) -> None:
    """A policy that moves from one file of it to another is in force all the time."""
    publish(world, "v1", {"a.json": text("one"), "b.json": text("closed")})
    world.watch(
        lambda: publish(world, "v2", {"a.json": text("closed"), "b.json": text("two")}),
        lambda: world.told[-1] == {"closed", "two"},
    )
    assert world.told == [{"one", "closed"}, {"closed", "two"}]


@pytest.mark.parametrize("is_first", [True, False])
def test_an_exchange_in_the_middle_of_reading_is_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch, *, is_first: bool
) -> None:
    """At the start and later: what moved to a file that was read already is not lost."""
    publish(world, "v1", {"a.json": text("one"), "b.json": text("closed")})
    read, changes = objects.read, [{"a.json": text("closed"), "b.json": text("two")}]

    def reading(path: Path) -> list[object]:
        found = read(path)
        if path.name == "a.json" and changes and (is_first or world.told):
            publish(world, "v2", changes.pop())
        return found

    monkeypatch.setattr(objects, "read", reading)
    change = (lambda: None) if is_first else lambda: os.utime(world.directory / "a.json")
    world.watch(change, lambda: bool(world.told) and world.told[-1] == {"closed", "two"})
    assert all("closed" in each for each in world.told)


def test_a_file_that_is_being_written_is_not_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncated first, and empty for some looks, as with `cp` over a slow line."""
    pytest.importorskip("yaml")
    place = world.directory / "a.yaml"  # JSON is YAML, and an empty one has nothing in it
    place.write_text(text("one", "two"))

    looks = iter(range(6))

    def looked_at(directory: Path) -> objects.Stamps | str:
        if world.told and (number := next(looks, None)) is not None:  # each look finds it changed since the last
            place.write_text("" if number < 5 else text("one", "two", "four"))
            os.utime(place, (number, number))
        return objects.stamps(directory)

    monkeypatch.setattr(keeper, "objects", SimpleNamespace(stamps=looked_at, snapshot=objects.snapshot))
    world.watch(lambda: None, lambda: "four" in world.told[-1])
    assert next(looks, None) is None
    assert world.told == [{"one", "two"}, {"one", "two", "four"}]


@pytest.mark.parametrize("odd", ["!!bool x", "!!int ''", "!!timestamp x", "{2024-01-01: x}", "&a [*a]"])
def test_odd_yaml_ends_nobody(world: World, odd: str) -> None:
    """Its file is a problem, the others count, and what is in force is kept on the disk."""
    pytest.importorskip("yaml")
    document = json.loads(text("odd"))
    document["items"][0]["metadata"]["annotations"] = "ODD"
    (world.directory / "b.yaml").write_text(json.dumps(document).replace('"ODD"', odd))
    (world.directory / "a.json").write_text(text("one"))
    assert world.keeper.restore(world.directory)
    assert world.told == [{"one"}]
    (problem,) = world.keeper.problems()
    assert "odd" in problem or "b.yaml" in problem
    assert world.keeper.save() == ""


def rename(old: Path, new: Path) -> None:
    old.rename(new)


def write(place: Path, content: str) -> None:
    place.write_text(content)


def test_what_cannot_be_read_takes_nothing_away(world: World) -> None:
    """The directory gone, a file that may not be read, and both back again."""
    place, away = world.directory / "a.json", world.directory.with_name("away")
    place.write_text(text("one"))
    world.watch(lambda: rename(world.directory, away), lambda: bool(world.keeper.problems()))
    assert world.told == [{"one"}]
    away.rename(world.directory)
    place.write_text("half {")
    world.told.clear()
    world.watch(lambda: write(place, text("one", "two")), lambda: world.told[-1] == {"one", "two"})
    assert world.keeper.problems() == []
    assert all("one" in each for each in world.told)
