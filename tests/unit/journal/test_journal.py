"""What a journal keeps, what it never keeps, and what becomes of one that is not whole."""

from __future__ import annotations

import gzip
import ipaddress
import json
import logging
import typing
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from bgpmesh.config.values import is_secret
from bgpmesh.delta import Delta
from bgpmesh.engine import Engine
from bgpmesh.errors import ConfigError
from bgpmesh.events import (
    Configured,
    EndpointAdded,
    EndpointRemoved,
    Event,
    FibRead,
    LinksRead,
    MessageReceived,
    RoutesReceived,
    TimerFired,
)
from bgpmesh.journal.forms import Forms, rendered
from bgpmesh.journal.record import KEYS, Journal, lines_of
from bgpmesh.journal.story import Handled, Took, Worked, read
from bgpmesh.peering.message import Cease, Notification
from bgpmesh.peering.peer import Peer
from bgpmesh.restart import LastLife
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.nlri import Nlri, parse_nlri
from bgpmesh.route.path import PeerName, Role
from bgpmesh.workload.endpoint import Endpoint

PASSWORD = "correct horse battery staple"  # noqa: S105  nobody's
ADDRESS = ipaddress.ip_address("192.0.2.2")
PEER = Peer(PeerName("n2"), ADDRESS, Asn(64512), Role.NON_CLIENT, None, Asn(64512), RouterId(1), password=PASSWORD)
CONFIGURED = Configured("n1", Asn(64512), RouterId(1), None, (PEER,), (ipaddress.ip_network("10.0.0.0/26"),), (), ())


LAST = LastLife(announced={"p": 2})


def journal_of(directory: Path, *, limit: int = 1_000_000, recorded: int = 0) -> tuple[Journal, Engine]:
    journal = Journal(directory, "n1", 1.7e9, limit=limit, recorded=recorded)
    return journal, journal.engine(CONFIGURED, [PeerName("n2")], lambda: 0.25, adopt_endpoints=True, last=LAST)


def begin(engine: Engine) -> None:
    engine.handle(LinksRead({}), 1.0)
    engine.handle(FibRead({}, {}), 1.0)
    engine.work(100, 1.0)


def kept_in(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


# ── what is kept ─────────────────────────────────────────────────────────────


def test_a_journal_is_text_with_a_line_for_each_thing_that_was_told(tmp_path: Path) -> None:
    """The format as the package's prose has it."""
    journal, engine = journal_of(tmp_path)
    begin(engine)
    engine.rib.fib.take(10, 1.0)
    engine.take(PeerName("n2"), 7)
    journal.write(journal.pages())
    head, start, *rest = map(json.loads, kept_in(journal.file))
    assert {"journal": 1, "node": "n1", "epoch": 1.7e9, "dropped": 0} == {
        k: v for k, v in head.items() if k != "bgpmesh"
    }
    assert ["start", ["n2"], True, {"announced": [[2, ["p"]]]}] == [start[0], *start[2:]]
    assert [
        ["LinksRead", 1.0, {"links": []}],
        ["FibRead", 1.0, {"routes": [], "next_hops": []}],
        ["work", 1.0, 100],
        ["took", "fib", "5:GgoAAAA="],
        ["take", "n2", 7],
    ] == rest


def test_what_was_read_is_what_was_told(tmp_path: Path) -> None:
    """Constructor's arguments, events, slices, keys and the numbers of the jitter, each with its line."""
    journal, engine = journal_of(tmp_path)
    begin(engine)
    engine.rib.fib.take(10, 1.0)
    engine.handle(TimerFired({5, 3, 4, 9}), 30.0)
    journal.write(journal.pages())
    story = read(journal.file)
    hidden = replace(CONFIGURED, peers=(replace(PEER, password="secret-1"),))  # noqa: S106  that it is hidden is the claim
    assert (hidden, ("n2",), True, LAST) == (story.configured, story.listed, story.adopt_endpoints, story.last)
    assert story.dropped == 0
    assert (
        Handled(3, LinksRead({}), 1.0),
        Handled(4, FibRead({}, {}), 1.0),
        Worked(5, 100, 1.0),
        Took(6, "fib", (parse_nlri("10.0.0.0/26"),)),
        Handled(7, TimerFired(frozenset({3, 4, 5, 9})), 30.0),
    ) == story.records


def test_the_line_of_an_event_is_there_when_the_engine_fails_on_it(tmp_path: Path) -> None:
    """The last line of a crash is its cause, and the replay fails as the engine did."""
    journal, engine = journal_of(tmp_path)
    begin(engine)
    for name in ("a", "b"):
        mine = Endpoint(name, "default", (), (ADDRESS,), f"bgpm{name}", "/run/netns/x")
        with nullcontext() if name == "a" else pytest.raises(ConfigError, match="already in use by default/a"):
            engine.handle(EndpointAdded(mine), 2.0)
    journal.write(journal.pages())
    story = read(journal.file)
    assert Handled(7, EndpointAdded(mine), 2.0) == story.records[-1]
    with pytest.raises(ConfigError, match="already in use by default/a"):
        list(story.replay())


def test_keys_of_every_width_come_back_in_their_order() -> None:
    """Of prefixes and of paths (RFC 7911), of both families, also where as many octets could be of another width."""
    prefixes = [parse_nlri("10.0.0.0/8"), parse_nlri("2001:db8::/32")]
    four, nine, six, one = (prefixes[0], Nlri(b"\0\0\0\1" + prefixes[0]), prefixes[1], Nlri(bytes(4) + prefixes[1]))
    form = Forms().of(typing.get_type_hints(RoutesReceived)["announced"])
    for keys in ([four], [nine] * 3, [nine, four, four, six], [six, one, nine, one], [one, one], [four, one, nine]):
        assert keys == form.read(json.loads(rendered(form.written(keys))))


def test_every_delta_of_an_engine_is_watched(tmp_path: Path) -> None:
    """What edges take keys of is in the journal's table, all of it."""
    _, engine = journal_of(tmp_path)
    rooms: list[object] = [engine]
    deltas: dict[int, Delta[object, object]] = {}
    for room in rooms:
        for each in vars(room).values():
            if isinstance(each, Delta):
                deltas[id(each)] = each  # a room that reads those of another has them too
            elif type(each).__module__.startswith("bgpmesh.") and hasattr(each, "__dict__") and each not in rooms:
                rooms.append(each)
    assert len(KEYS) == len(deltas)
    assert [] == [delta for delta in deltas.values() if delta.on_take is None]


def test_a_number_that_is_a_member_of_an_enumeration_is_a_number(tmp_path: Path) -> None:
    """Where the annotation says int, a Cease is the int that it is; marshal alone would refuse it."""
    journal, engine = journal_of(tmp_path)
    event = MessageReceived(7, Notification.cease(Cease.HARD_RESET))
    engine.handle(event, 1.0)
    journal.write(journal.pages())
    assert (Handled(3, event, 1.0),) == read(journal.file).records


def test_objects_that_were_one_are_one_again() -> None:
    """Attribute sets are compared by identity: equal ones that were two objects stay two."""
    forms, again = Forms().of(RoutesReceived), Forms().of(RoutesReceived)
    one, other = PathAttributes(med=1), PathAttributes(med=1)
    events = [RoutesReceived(1, each, [parse_nlri("10.0.0.0/8")], [], 1.0) for each in (one, other, one)]
    texts = [rendered(forms.written(event)) for event in events]
    first, second, third = (typing.cast("RoutesReceived", again.read(json.loads(text))).attributes for text in texts)
    assert first is third
    assert first is not second
    assert first is not None
    assert second is not None
    assert first.same_as(second)


# ── what is never kept ───────────────────────────────────────────────────────


def test_no_password_is_in_memory_or_on_disk(tmp_path: Path) -> None:
    """Neither the first configuration nor a later one brings it into a journal; that it changed is seen."""
    journal, engine = journal_of(tmp_path, recorded=1_000_000)
    begin(engine)
    changed = replace(PEER, password=PASSWORD + "r")
    engine.handle(replace(CONFIGURED, peers=(changed, replace(PEER, name=PeerName("n3")))), 2.0)
    journal.write(journal.pages())
    story = read(tmp_path / "recording.journal")
    assert [["secret-1"], ["secret-2", "secret-1"]] == [
        [peer.password for peer in each.peers]
        for each in (story.configured, *(r.event for r in story.records if isinstance(r, Handled)))
        if isinstance(each, Configured)
    ]
    texts = [b"".join(journal.pages()), gzip.decompress(journal.file.read_bytes())]
    texts.append((tmp_path / "recording.journal").read_bytes())
    assert [False] * 3 == [b"horse" in text for text in texts]
    assert [0o600] * 2 == [path.stat().st_mode & 0o777 for path in (journal.file, tmp_path / "recording.journal")]


def test_every_field_that_sounds_like_a_secret_is_taken_for_one() -> None:
    """What the configuration would not show is kept out of the repr, by which the journal knows it."""
    met: set[type] = set()
    waiting: list[object] = list(typing.get_args(Event))
    while waiting:
        hint = waiting.pop()
        waiting += typing.get_args(hint)
        if isinstance(hint, type) and is_dataclass(hint) and hint not in met:
            met.add(hint)
            waiting += typing.get_type_hints(hint).values()
    named = {
        f"{cls.__name__}.{each.name}": each.repr
        for cls in met
        for each in fields(cls)
        if is_secret(each.name) and each.type != "bool"
    }
    assert {"Peer.password": False, "Options.passed": True} == named  # what a chain does with what has passed


# ── bounds ───────────────────────────────────────────────────────────────────


def test_memory_keeps_the_newest_and_says_how_much_is_lost(tmp_path: Path) -> None:
    """However long it goes on, the text is no longer than was allowed, and the last line is the last event."""
    journal, engine = journal_of(tmp_path, limit=300_000)
    begin(engine)
    for second in range(20_000):
        engine.handle(TimerFired(), float(second))
    pages = journal.pages()
    assert sum(map(len, pages)) < 300_000 + 65_536 + 2_000  # a page that is not full yet, head and start
    journal.write(pages)
    story = read(journal.file)
    assert 20_000 + 3 == story.dropped + len(story.records)
    assert Handled(2 + len(story.records), TimerFired(()), 19_999.0) == story.records[-1]
    with pytest.raises(ConfigError, match=f"line 2: {story.dropped} lines that followed are lost: not to be replayed"):
        next(story.replay())


def test_one_event_larger_than_the_memory_is_no_reason_to_have_more(tmp_path: Path) -> None:
    """A read-back of a full table goes as it came."""
    journal, engine = journal_of(tmp_path, limit=100_000)
    begin(engine)
    engine.handle(LinksRead({}), 2.0)
    engine.handle(EndpointRemoved("x" * 200_000), 3.0)
    assert 5 == json.loads(next(lines_of(journal.pages())))["dropped"]
    assert sum(map(len, journal.pages()[1:])) == 0


def test_a_recording_ends_where_it_is_full_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is on disk then is the beginning, and can be replayed; memory goes on."""
    journal, engine = journal_of(tmp_path, recorded=2_000)
    begin(engine)
    with caplog.at_level(logging.WARNING, "bgpmesh"):
        for second in range(100):
            engine.handle(TimerFired(), float(second))
    path = tmp_path / "recording.journal"
    assert [f'journal.recording-ended file={path} reason="state.record_mb is reached"'] == caplog.messages
    assert 1_900 < path.stat().st_size <= 2_000
    assert 0 < sum(1 for _ in read(path).replay()) < 100
    journal.write(journal.pages())
    assert 103 == len(read(journal.file).records)


def test_a_new_daemon_keeps_the_recording_of_the_one_before(tmp_path: Path) -> None:
    """It is what tells of a `kill -9`."""
    begin(journal_of(tmp_path, recorded=10_000)[1])
    journal_of(tmp_path, recorded=10_000)
    assert 3 == len(read(tmp_path / "recording.old.journal").records)
    assert () == read(tmp_path / "recording.journal").records


def test_without_a_limit_there_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An engine that keeps no journal is a plain one, and who asks is told."""
    journal, engine = journal_of(tmp_path, limit=0)
    assert type(engine) is Engine
    journal.write(journal.pages())
    assert [f'journal.unwritten file={journal.file} reason="there is none: state.journal_mb is 0"'] == caplog.messages


def test_a_disk_that_refuses_is_told_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the document nor the recording ends the daemon."""
    journal, engine = journal_of(tmp_path / "absent", recorded=1_000)
    begin(engine)
    journal.write(journal.pages())
    assert [
        f'journal.recording-ended file={tmp_path}/absent/recording.journal reason="No such file or directory"',
        f'journal.unwritten file={tmp_path}/absent/journal.gz reason="No such file or directory"',
    ] == caplog.messages


# ── what is no journal ───────────────────────────────────────────────────────


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    _, engine = journal_of(tmp_path, recorded=1_000_000)
    begin(engine)
    return tmp_path / "recording.journal"


def test_a_line_that_was_being_written_counts_for_nothing(recording: Path) -> None:
    """So does a kill look."""
    whole = read(recording).records
    recording.write_bytes(recording.read_bytes()[:-3])
    assert whole[:-1] == read(recording).records


BAD: dict[str, tuple[int, str, str]] = {
    "no JSON": (3, "]", "Expecting value: line 1 column 1 (char 0)"),
    "another format": (1, '{"journal":2}', "a journal of format 2; this version reads 1"),
    "something else": (1, '{"peers":[]}', "no journal"),
    "no start": (2, '["work",1.0,5,6]', "'work' is not start"),
    "an unknown event": (3, '["Sneezed",1.0,{}]', "unknown: 'Sneezed'"),
    "an unknown field": (3, '["LinksRead",1.0,{"links":[],"nose":1}]', "LinksRead has no nose"),
    "a field that is missing": (
        3,
        '["LinkObserved",1.0,{}]',
        "LinkObserved: LinkObserved.__init__() missing 2 required positional arguments: 'interface' and 'link'",
    ),
    "another kind of value": (3, '["EndpointRemoved",1.0,{"key":7}]', "7 is not str"),
    "no time": (3, '["Stopping",true,{}]', "True is not a number"),
    "half a prefix": (3, '["took","fib","5:GgoA"]', "3 octets are no prefixes of 5"),
    "an unknown Delta": (3, '["took","nose","5:GgoA"]', "unknown: 'nose'"),
    "nothing": (3, "[]", "a line without a kind"),
    "too much": (3, '["work",1.0,5,6]', "'work' with 3 values"),
}


@pytest.mark.parametrize(("line", "text", "reason"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named_with_the_reason(recording: Path, line: int, text: str, reason: str) -> None:
    """One error, whatever is wrong."""
    lines = recording.read_text().splitlines()
    lines[line - 1] = text
    recording.write_text("\n".join([*lines, ""]))
    with pytest.raises(ConfigError) as caught:
        read(recording)
    assert f"{recording}: line {line}: {reason}" == str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "line 2: ends before its start"),
        (
            b"\xff\xfe",
            "journal: no journal: 'ascii' codec can't decode byte 0xff in position 0: ordinal not in range(128)",
        ),
        (
            gzip.compress(b"{}\n")[:-9],
            "journal: no journal: Compressed file ended before the end-of-stream marker was reached",
        ),
    ],
    ids=["empty", "bytes", "half"],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    """The same error for what cannot be read at all."""
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "x")
    assert f"{tmp_path}/x: {reason}" == str(caught.value)


def test_a_replay_that_differs_is_told_with_the_line(recording: Path) -> None:
    """An engine that has not in its gap what the recorded one had is another engine."""
    with recording.open("a") as file:
        file.write('["took","fib","5:GgoACQA="]\n')
    with pytest.raises(ConfigError, match=r"line 6: fib has other keys in its gap: b'.*' is not there"):
        list(read(recording).replay())
