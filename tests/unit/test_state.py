"""What survives a restart, and what happens when it did not."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgpmesh.errors import ConfigError
from bgpmesh.events import DrainChanged
from bgpmesh.restart import LastLife
from bgpmesh.rib.drain import Drain
from bgpmesh.state import DOCUMENTS, KeptConfig, Loaded, Marks, State
from bgpmesh.workload.endpoint import Endpoint
from bgpmesh.workload.floating import FloatingIp

WEB = Endpoint(
    "web",
    "shop",
    (("app", "web"), ("tier", "front")),
    (ipaddress.ip_address("10.244.1.5"), ipaddress.ip_address("fd00::5")),
    "bgpmabcdefghijk",
    "/run/netns/web",
    (("http", "tcp", 8080),),
    (4, 4026532200),
)
FLOATING = (
    FloatingIp(ipaddress.ip_address("203.0.113.10"), "shop/web", outbound=True),
    FloatingIp(ipaddress.ip_address("2001:db8:f::10"), "shop/web"),
)
CONFIG = KeptConfig('[cluster]\nasn = 64512 # "é"\n', "/etc/bgpmesh/bgpmesh.toml", "ab" * 32)

FOUND = {f"eth{n}": (ipaddress.ip_address(f"fe80::1%eth{n}"), ipaddress.ip_address(f"fe80::2%eth{n}")) for n in (1, 2)}
LIFE = LastLife(is_bare=True, announced={"p": 2})
DRAIN = DrainChanged(Drain.DRAINING, is_to_stop=True, text="moving racks", limit=600, below=0.5, begun_at=70.25)
OBJECTS = {"a.json": {"documents": [{"kind": "Tier"}], "problems": []}}


def changed(file: Path, change: Callable[[Any], object]) -> None:
    """Have somebody else write a document, who knows of no checksum."""
    document = json.loads(file.read_text(encoding="utf-8"))
    del document["crc32"]
    change(document)
    file.write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


def test_every_document_comes_back_as_it_was_kept(state: State, tmp_path: Path) -> None:
    """Round trip of all ten; `uninstall` knows each of them."""
    hops = (ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1"))
    said = [
        state.save_peers(["n3", "n2"]),
        state.save_last_life("here", LIFE),
        state.save_kernel(Marks(77, 254)),
        state.save_next_hops(hops),
        state.save_neighbours(FOUND),
        state.save_endpoints([WEB]),
        state.save_floating_ips(FLOATING),
        state.save_objects(OBJECTS),
        state.save_drain(DRAIN),
        state.save_config(CONFIG),
    ]
    assert said == [""] * 10
    assert {each.name for each in tmp_path.iterdir()} == {f"{name}.json" for name in DOCUMENTS}
    assert state.peers() == Loaded(("n2", "n3"))
    assert state.last_life("here") == Loaded(LIFE)
    assert state.kernel() == Loaded(Marks(77, 254))
    assert state.next_hops() == Loaded(hops)
    assert state.neighbours() == Loaded(FOUND)
    assert state.endpoints() == Loaded((WEB,))
    assert state.floating_ips() == Loaded(FLOATING)
    assert state.objects() == Loaded(OBJECTS)
    assert state.drain() == Loaded(DRAIN)
    assert state.config() == Loaded(CONFIG)


@pytest.mark.parametrize(
    "rows", [7, [["fe80::1%eth1"]], [["fe80::1", "fe80::2"]], [["fe80::1%eth1", "fe80::2%eth2"]], [["x", "fe80::2%a"]]]
)
def test_neighbours_that_are_garbled_are_found_anew(state: State, tmp_path: Path, rows: object) -> None:
    """Both ends are of one link, or nothing is taken."""
    (tmp_path / "neighbours.json").write_text(json.dumps({"neighbours": rows}), encoding="utf-8")
    read = state.neighbours()
    assert read.value is None
    assert "garbled" in read.problem


def test_what_is_kept_of_a_life_holds_for_its_network_stack(state: State) -> None:
    """In another one, or where stacks have no names, nobody knows that no route is missing."""
    state.save_last_life("here", LIFE)
    assert state.last_life("elsewhere") == Loaded(LastLife(is_bare=False, announced={"p": 2}))
    state.save_last_life("", LIFE)
    assert state.last_life("") == Loaded(LastLife(is_bare=False, announced={"p": 2}))


@pytest.mark.parametrize("kept", [7, {}, {"announced": 1}, {"announced": {"p": "2"}, "network": "here", "bare": True}])
def test_a_life_that_is_garbled_is_not_known(state: State, tmp_path: Path, kept: object) -> None:
    """It is no exception, and nothing is claimed."""
    (tmp_path / "last_life.json").write_text(json.dumps({"last_life": kept}), encoding="utf-8")
    read = state.last_life("here")
    assert read.value is None
    assert "garbled" in read.problem


@pytest.mark.parametrize("kept", [7, {"protocol": 77}, {"protocol": "77", "table": 254}, {"protocol": 2, "table": 254}])
def test_garbled_marks_are_nobodys(state: State, tmp_path: Path, kept: object) -> None:
    """Routes are deleted by them; where no route is ours there are none, which is no problem."""
    (tmp_path / "kernel.json").write_text(json.dumps({"kernel": kept}), encoding="utf-8")
    read = state.kernel()
    assert (read.value, "garbled" in read.problem) == (None, True)
    assert state.save_kernel(None) == ""
    assert state.kernel() == Loaded(None)


ROW: dict[str, object] = {"external": "1.2.3.4", "workload": "a/b", "outbound": True}


@pytest.mark.parametrize(
    "rows",
    [[{"external": "1.2.3.4"}], [ROW | {"external": 1}], [ROW | {"outbound": 1}], [ROW, ROW | {"workload": "b"}]],
)
def test_floating_addresses_that_are_garbled_are_none(state: State, tmp_path: Path, rows: object) -> None:
    """Half of them would be announced and the others not."""
    (tmp_path / "floating_ips.json").write_text(json.dumps({"floating_ips": rows}), encoding="utf-8")
    read = state.floating_ips()
    assert read.value is None
    assert "garbled" in read.problem


def test_a_full_disk_keeps_no_list_that_lacks_a_peer(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written over in place, shorter or not; what is not there yet is a problem as elsewhere."""

    def is_full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "open", is_full)
        assert "No space left" in state.save_peers(["n2"])
        assert state.peers() == Loaded(None)
    assert state.save_peers(["n2"]) == ""
    for names in ("n2", "n3", "a-long-name"), ("n3",):
        with monkeypatch.context() as full:
            full.setattr(os, "open", is_full)
            assert state.save_peers(names) == ""
        assert state.peers() == Loaded(tuple(sorted(names)))
    assert {each.name for each in tmp_path.iterdir()} == {"peers.json"}


def test_what_is_obeyed_after_a_power_cut_is_on_disk_under_its_name(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text before it has its name, the name before anybody is told; other documents cost neither."""
    forced: list[tuple[str, bool]] = []

    def fsync(fd: int) -> None:
        forced.append((Path(f"/proc/self/fd/{fd}").readlink().name, (tmp_path / "drain.json").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    assert state.save_drain(DRAIN) == ""
    assert forced == [("drain.json.new", False), (tmp_path.name, True)]
    assert state.save_peers(["n2"]) == ""
    assert len(forced) == 2


def test_what_was_never_kept_is_no_problem(state: State) -> None:
    """A first boot."""
    assert state.peers() == Loaded(None, "")
    assert state.next_hops() == Loaded(None, "")
    assert state.endpoints() == Loaded(None, "")
    assert state.floating_ips() == Loaded(None, "")
    assert state.config() == Loaded(None, "")


def test_workloads_that_an_older_daemon_kept_are_read(state: State, tmp_path: Path) -> None:
    """It did not say which namespace each is in."""
    state.save_endpoints([WEB])
    changed(tmp_path / "endpoints.json", lambda document: document["endpoints"][0].pop("netns_inode"))
    assert state.endpoints() == Loaded((replace(WEB, netns_inode=None),))


def test_a_drain_that_an_older_daemon_kept_is_read(state: State, tmp_path: Path) -> None:
    """It waits with the usual limits, from when it is taken up on; what is no number is garbled."""
    kept: dict[str, object] = {"state": "draining", "stop": True, "text": "racks"}
    for more, value in (
        ({}, DrainChanged(Drain.DRAINING, is_to_stop=True, text="racks")),
        ({"begun_at": 1.5, "limit": "5", "below": 1}, None),
    ):
        (tmp_path / "drain.json").write_text(json.dumps({"drain": kept | more}), encoding="utf-8")
        assert state.drain().value == value


def test_an_empty_list_is_not_the_same_as_none(state: State) -> None:
    """A node that holds nobody's paths has said so."""
    state.save_peers([])
    assert state.peers() == Loaded(())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00\x00\x00",
        '{"endpoints": [',
        "[]",
        '{"other": []}',
        '{"endpoints": {}}',
        '{"endpoints": [7]}',
        '{"endpoints": [{"name": "web"}]}',
        "[" * 100_000,
    ],
)
def test_a_garbled_document_is_a_problem_in_words(state: State, tmp_path: Path, text: str) -> None:
    """No value, no exception, and the file is named."""
    (tmp_path / "endpoints.json").write_text(text, encoding="utf-8")
    read = state.endpoints()
    assert read.value is None
    assert read.problem.startswith(f"{tmp_path}/endpoints.json is garbled: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 5),
        ("labels", [["a"]]),
        ("labels", "a=b"),
        ("addresses", ["10.244.1"]),
        ("ports", [["http", "tcp", "8080"]]),
        ("ports", [["http", "tcp", True]]),
        ("netns", None),
        ("netns_inode", [4]),
        ("netns_inode", [4, "4026532200"]),
    ],
)
def test_one_wrong_field_refuses_the_whole_document(state: State, tmp_path: Path, field: str, value: object) -> None:
    """Half a list of workloads would take the others' links away."""
    state.save_endpoints([WEB])
    changed(tmp_path / "endpoints.json", lambda document: document["endpoints"][0].update({field: value}))
    assert state.endpoints().value is None


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, "workload shop/web is there twice"),
        ({"name": "db"}, "interface bgpmabcdefghijk is there twice"),
        ({"name": "db", "interface": "bgpm22222222222"}, "address 10.244.1.5 is there twice"),
    ],
)
def test_workloads_that_cannot_both_be_are_garbled(
    state: State, tmp_path: Path, other: dict[str, str], expected: str
) -> None:
    """Each field is well, and yet a daemon that believed them could not begin."""
    state.save_endpoints([WEB, replace(WEB, **other)])  # type: ignore[arg-type]  # texts, all three
    assert state.endpoints() == Loaded(None, f"{tmp_path}/endpoints.json is garbled: {expected}")


def test_unknown_fields_are_ignored(state: State, tmp_path: Path) -> None:
    """An older daemon reads what a newer one wrote."""
    state.save_endpoints([WEB])
    changed(
        tmp_path / "endpoints.json", lambda document: (document["endpoints"][0].update(mtu=9000), document.update(v=2))
    )
    assert state.endpoints() == Loaded((WEB,))


def test_no_octet_that_a_disk_has_lost_is_obeyed(state: State, tmp_path: Path) -> None:
    """One bit of each: another AS number would be in force, or routes of another protocol deleted as ours."""
    state.save_config(CONFIG)
    state.save_kernel(Marks(77, 254))
    state.save_peers(["n2", "tor@192.0.2.7"])
    for file, read in (("config", state.config), ("kernel", state.kernel), ("peers", state.peers)):
        path = tmp_path / f"{file}.json"
        good, kept = path.read_bytes(), read()
        assert kept.problem == ""
        for place in range(len(good)):
            path.write_bytes(good[:place] + bytes((good[place] ^ 1,)) + good[place + 1 :])
            found = read()
            assert found == kept or "garbled" in found.problem


def test_a_document_that_cannot_be_read_or_written_is_named(state: State, tmp_path: Path) -> None:
    """A directory in its place stands for a broken disk."""
    (tmp_path / "peers.json").mkdir()
    assert state.peers() == Loaded(None, f"{tmp_path}/peers.json cannot be read: Is a directory")
    assert state.save_peers(["n1"]) == f"{tmp_path}/peers.json cannot be written: Is a directory"
    assert list(tmp_path.iterdir()) == [tmp_path / "peers.json"]


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """The configuration may hold a password."""
    state = State(tmp_path / "deep" / "state")
    state.open("n1")
    state.save_config(CONFIG)
    state.close()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "deep" / "state").iterdir()}
    assert modes == {"config.json": 0o600, "lock": 0o600}
    assert (tmp_path / "deep" / "state").stat().st_mode & 0o777 == 0o700


def test_a_second_daemon_is_refused_by_name_of_the_first(state: State, tmp_path: Path) -> None:
    """Node and process id; once the first is gone, the second may."""
    state.open("n1")
    with pytest.raises(ConfigError) as caught:
        State(tmp_path).open("n2")
    expected = f"state.directory = {tmp_path}: in use by the daemon of node n1, pid {os.getpid()}"
    assert str(caught.value) == expected
    state.close()
    second = State(tmp_path)
    second.open("n2")
    second.close()


def test_a_lock_dies_with_its_process(state: State, tmp_path: Path) -> None:
    """A crash leaves a lock file, and no lock."""
    script = "import sys, os, pathlib, bgpmesh.state as s; s.State(pathlib.Path(sys.argv[1])).open('n1'); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60).returncode == 9
    state.open("n2")
    state.close()


def test_a_full_disk_keeps_nobody_from_the_lock(state: State, tmp_path: Path) -> None:
    """The lock holds without a signature, and what cannot be kept says so."""
    (tmp_path / "lock").symlink_to("/dev/full")
    state.open("n1")
    with pytest.raises(ConfigError, match="in use by"):
        State(tmp_path).open("n2")
    (tmp_path / "peers.json.new").symlink_to("/dev/full")
    assert state.save_peers(["n2"]) == f"{tmp_path}/peers.json cannot be written: No space left on device"
    state.close()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """With the system's words."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"state\.directory = .*: Not a directory"):
        State(tmp_path / "file" / "state").open("n1")
