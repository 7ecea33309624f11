"""Which configuration a daemon starts with, and what a reload makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bgpmesh.chosen import Chosen, Overrides, choose
from bgpmesh.errors import ConfigError
from bgpmesh.state import State

GOOD = '[cluster]\nasn = 64512\n[node.n1]\naddress = "192.0.2.1"\n'
OTHER = GOOD.replace("64512", "64513")
BAD = GOOD.replace("64512", '"x"')


class Disk:
    """An operator's file and a state directory."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "bgpmesh.toml"
        self.overrides = Overrides(state_directory=str(directory))
        self.state = State(directory)

    def start(self, text: str) -> Chosen:
        """Choose as a daemon does that finds this text in the file."""
        self.file.write_text(text, encoding="utf-8")
        return choose(str(self.file), "n1", self.overrides)

    def keep(self, chosen: Chosen) -> None:
        """Have it in force when the daemon ends."""
        assert self.state.save_config(chosen.kept) == ""


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Return a directory for all of it."""
    return Disk(tmp_path)


def asn(chosen: Chosen) -> int:
    """Return what tells one configuration from the other."""
    return chosen.configuration.cluster.asn


def test_the_file_decides(disk: Disk) -> None:
    """Whatever was in force before."""
    disk.keep(disk.start(GOOD))
    chosen = disk.start(OTHER)
    assert (asn(chosen), chosen.problems) == (64513, ())


def test_a_bad_file_gives_way_to_what_was_in_force(disk: Disk) -> None:
    """And is told of; with nothing in force there is no daemon."""
    with pytest.raises(ConfigError):
        disk.start(BAD)
    disk.keep(disk.start(GOOD))
    chosen = disk.start(BAD)
    assert (asn(chosen), chosen.kept.text) == (64512, GOOD)
    assert "asn" in chosen.problems[0]


@pytest.mark.parametrize("bad", ['[node.n1]\naddress = "192.0.2.1\n', "[node]\n", "hostname = n1\n"])
def test_a_bad_file_still_says_where_the_state_is(tmp_path: Path, bad: str) -> None:
    """What was in force is found there, whatever is wrong with the rest of the file."""
    file, state = tmp_path / "bgpmesh.toml", tmp_path / "state"
    where = f'[ state ] # ours\ndirectory = "{state}"\n'
    file.write_text(GOOD + where, encoding="utf-8")
    state.mkdir()
    assert State(state).save_config(choose(str(file), "n1", Overrides()).kept) == ""
    file.write_text(bad + where, encoding="utf-8")
    chosen = choose(str(file), "n1", Overrides())
    assert (asn(chosen), chosen.configuration.state.directory) == (64512, str(state))
    assert chosen.problems


def test_a_kept_configuration_that_is_garbled_is_told_of(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    """The operator's file decides then, which may be another."""
    disk.keep(disk.start(GOOD).reloaded(OTHER, "/elsewhere.toml").chosen)
    path = disk.file.with_name("config.json")
    path.write_text(path.read_text(encoding="utf-8").replace("64513", "64519"), encoding="utf-8")
    assert asn(disk.start(GOOD)) == 64512
    assert "config.json is garbled: it is not as it was written" in caplog.text


def test_a_reload_of_another_file_holds_until_the_own_one_changes(disk: Disk) -> None:
    """The file that the daemon was started with has not been touched since: its content is no news."""
    chosen = disk.start(GOOD).reloaded(OTHER, "/elsewhere.toml").chosen
    assert asn(chosen) == 64513
    disk.keep(chosen)
    assert asn(disk.start(GOOD)) == 64513
    assert asn(disk.start(GOOD + "\n")) == 64512


def test_a_reload_takes_the_file_as_it_is_now(disk: Disk) -> None:
    """With all its problems where it has some."""
    chosen = disk.start(GOOD)
    disk.file.write_text(OTHER, encoding="utf-8")
    assert asn(chosen.reloaded(None, None)[0]) == 64513
    disk.file.write_text(BAD, encoding="utf-8")
    with pytest.raises(ConfigError):
        chosen.reloaded(None, None)


def test_what_a_daemon_is_built_with_stays_over_a_reload(disk: Disk) -> None:
    """It is told, and so is what the command line says in place of the file."""
    chosen, asked, warnings = disk.start(GOOD).reloaded(GOOD + "[kernel]\nenabled = false\n", None)
    assert "[kernel] has changed: that takes effect when the daemon restarts" in warnings
    assert (chosen.configuration.kernel.enabled, asked.kernel.enabled) == (True, False)
    assert chosen.configuration.state.directory == disk.overrides.state_directory


def test_what_is_on_trial_does_not_outlive_a_restart(disk: Disk) -> None:
    """What was in force before is kept, also where the operator's file has the other one."""
    before = disk.start(GOOD)
    disk.file.write_text(OTHER, encoding="utf-8")
    assert disk.state.save_config(before.pinned()) == ""
    assert asn(disk.start(OTHER)) == 64512
    assert asn(disk.start(OTHER + "\n")) == 64513


def test_there_is_one_step_back(disk: Disk) -> None:
    """And from there forward again; the same text once more is no step."""
    chosen = disk.start(GOOD)
    assert chosen.kept.previous == ""
    chosen = chosen.reloaded(OTHER, "/elsewhere.toml").chosen
    for _ in range(2):
        disk.keep(chosen)
        chosen = disk.start(GOOD).reloaded(OTHER, "/elsewhere.toml").chosen
        assert (asn(chosen), chosen.kept.previous) == (64513, GOOD)
    chosen = chosen.previous().chosen
    assert (asn(chosen), chosen.kept.previous) == (64512, OTHER)
    disk.keep(chosen)
    assert asn(disk.start(GOOD + "\n").previous().chosen) == 64512
