"""What changed and why, from what is remembered of the log and of UPDATEs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from bgpmesh import cli, log
from bgpmesh.cli.commands import _since
from bgpmesh.control import tables, views
from bgpmesh.rib.candidate import Candidate
from bgpmesh.route.nlri import Nlri, parse_nlri
from tests.unit.conftest import Running

PREFIX = "10.244.2.0/26"  # n2 has announced it
Show = Callable[..., list[tuple[object, object]]]


@pytest.fixture
def shown(running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Show]:
    """Return a function that returns (event, keys) of `history`, of a log with several events."""
    log.remembered.clear()
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    log.info("peer.up", peer="n2", kept=None)
    log.warning("peer.down", peer="n3", reason="timed out")
    monkeypatch.setattr(time, "time", lambda: 2000.0)
    log.warning("route.refused", prefix="10.9.9.0/24", reason="no room")
    log.error("config.refused", reason="line 1: not TOML")

    def ask(**args: object) -> list[tuple[object, object]]:
        found = views.answer("history", args, running)
        assert isinstance(found, list)
        assert found == sorted(found, key=lambda event: str(event["at"]))
        return [(event["event"], event["keys"]) for event in found]

    yield ask
    log.remembered.clear()


def test_all_that_is_remembered(shown: Show) -> None:
    """In order, without keys that say nothing; since some second only what is younger."""
    names = ["peer.up", "peer.down", "route.refused", "config.refused"]
    assert [name for name, _ in shown()] == names
    assert shown()[0] == ("peer.up", {"peer": "n2"})
    assert [name for name, _ in shown(since=1500.0)] == names[2:]


def test_of_a_prefix_its_updates_and_those_who_tell_of_it(shown: Show) -> None:
    """What befell other prefixes and peers is left out; what befell the node is not."""
    found = shown(prefix=PREFIX)
    assert [name for name, _ in found] == ["peer.up", "config.refused", "route.announced"]
    keys = found[-1][1]
    assert isinstance(keys, dict)
    assert (keys["peer"], keys["prefix"]) == ("n2", PREFIX)
    assert ("route.refused", {"prefix": "10.9.9.0/24", "reason": "no room"}) in shown(prefix="10.9.9.0/24")


def test_of_a_prefix_whose_path_took_the_place_of_whose(shown: Show, running: Running) -> None:
    """Each time: what is best now does not say what was before; a first path, and one that goes, replace none."""
    engine, nlri = running.engine, parse_nlri(PREFIX)
    engine.rib.originate(nlri, None, advertise=True)
    engine.work(1000, 91.0)
    engine.rib.retire(nlri)
    engine.work(1000, 92.0)
    assert [keys for name, keys in shown(prefix=PREFIX) if name == "route.replaced"] == [
        {"peer": "local", "prefix": PREFIX, "in_place_of": "n2"},
        {"peer": "n2", "prefix": PREFIX, "in_place_of": "local"},
    ]
    assert "route.replaced" not in {name for name, _ in shown(prefix="10.244.9.0/26")}


def test_who_tells_of_a_prefix_is_found_out_once(
    shown: Show, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each of 2,000 events: among thousands of UPDATEs that takes seconds, in which the daemon does nothing."""
    asked, candidates = list[Nlri](), running.engine.rib.candidates

    def counted(nlri: Nlri) -> list[Candidate]:
        asked.append(nlri)
        return candidates(nlri)

    monkeypatch.setattr(running.engine.rib, "candidates", counted)
    assert "peer.up" in {name for name, _ in shown(prefix=PREFIX)}
    assert len(asked) == 1


def test_only_the_newest_are_remembered(shown: Show) -> None:
    """A log that goes on for years costs no more than this."""
    for number in range(log.REMEMBERED + 5):
        log.info("peer.up", peer=f"n{number}")
    assert len(shown()) == log.REMEMBERED
    assert shown()[-1] == ("peer.up", {"peer": f"n{log.REMEMBERED + 4}"})


def test_a_person_sees_time_level_event_and_keys() -> None:
    """Of levels those that are worse than usual; the time is this host's."""
    rows = [
        {"at": "2026-01-02T03:04:05.678+00:00", "level": "info", "event": "peer.up", "keys": {"peer": "n2"}},
        {"at": "2026-01-02T03:04:06.000+00:00", "level": "warning", "event": "peer.down", "keys": {"reason": "x y"}},
    ]
    lines = tables.history(rows).splitlines()[1:]
    assert [line[16:] for line in lines] == [
        ":05.678           peer.up    peer=n2",
        ":06.000  WARNING  peer.down  reason=x y",
    ]
    assert tables.history([]) == "nothing is remembered of it"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 9910), ("10m", 9400), ("2h", 2800), ("1d", 0), ("1970-01-01T00:01:00+00:00", 60)],
)
def test_since_is_a_duration_or_a_time(text: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In seconds since 1970."""
    monkeypatch.setattr(time, "time", lambda: 10_000.0)
    assert expected == _since(text)


@pytest.mark.parametrize("text", ["", "x", "xm", "10", "1e400d", "nand", "-5m"])
def test_what_is_neither_is_bad_use(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The value is named."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(["history", f"--since={text}"])
    assert f"{text!r} is neither as 90s, 10m, 2h or 1d nor an ISO 8601 time" in capsys.readouterr().err
