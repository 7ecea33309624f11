"""Preparing a host whose /proc/sys is a directory of the test's."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from bgpmesh import log
from bgpmesh.kernel import sysctls
from bgpmesh.kernel.sysctls import HostSettings, kernel_has_ipv6, prepare_host, wrong

RIGHT = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/fib_multipath_hash_policy": "1",
    "net/ipv4/nexthop_compat_mode": "0",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/fib_multipath_hash_policy": "1",
}
# destination, length, source, length, next hop, metric, references, use, flags, link
ADVERTISED = f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}1 00000400 00000001 00000000 00450003 {{}}\n"
STATIC = f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}1 00000400 00000001 00000000 00000003 {{}}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sys"


def fill(root: Path, values: dict[str, str]) -> None:
    for name, value in values.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n", encoding="ascii")


def value(root: Path, name: str) -> str:
    return (root / name).read_text(encoding="ascii").strip()


def test_a_host_that_is_right_is_not_written(root: Path) -> None:
    """Not one file is touched."""
    fill(root, RIGHT)
    for name in RIGHT:
        (root / name).chmod(0o444)
    before = {name: (root / name).stat().st_mtime_ns for name in RIGHT}
    assert prepare_host(root=root) == []
    assert {name: (root / name).stat().st_mtime_ns for name in RIGHT} == before


def test_what_is_wrong_is_told_and_left(root: Path) -> None:
    """As a person would put it right, and what follows meanwhile."""
    fill(root, RIGHT | {"net/ipv4/ip_forward": "0"})
    assert wrong(root) == [("net.ipv4.ip_forward=1", "net.ipv4.ip_forward is 0: forwarding is off", True)]
    assert value(root, "net/ipv4/ip_forward") == "0"


def test_a_link_that_lives_on_router_advertisements_keeps_heeding_them(root: Path, tmp_path: Path) -> None:
    """It is moved to accept_ra 2 when IPv6 forwarding is turned on; links with routes of their own are left."""
    links = {f"net/ipv6/conf/{link}/accept_ra": "1" for link in ("uplink", "static")}
    fill(root, RIGHT | {"net/ipv6/conf/all/forwarding": "0"} | links)
    routes = tmp_path / "ipv6_route"
    routes.write_text(ADVERTISED.format("uplink") + STATIC.format("static"), encoding="ascii")
    assert prepare_host(root=root, routes6=routes) == []
    assert [value(root, name) for name in (*links, "net/ipv6/conf/all/forwarding")] == ["2", "1", "1"]


def test_what_does_not_exist_is_named_with_what_follows(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without any IPv6 is no problem of the host's."""
    monkeypatch.setattr(sysctls, "_opens_ipv6", lambda: False)
    fill(root, {name: text for name, text in RIGHT.items() if "ipv6" not in name})
    assert prepare_host(root=root) == []
    fill(root, {"net/ipv6/fib_multipath_hash_policy": "1"})
    assert prepare_host(root=root) == ["net.ipv6.conf.all.forwarding does not exist: IPv6 forwarding is off"]


def test_in_doubt_a_kernel_has_ipv6(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sysctls may be hidden, all of them or those; a socket may be refused for other reasons."""
    answers = iter((None, OSError(errno.EMFILE, ""), OSError(errno.EAFNOSUPPORT, "")))

    def opened(*_: int) -> Mock:
        if (refusal := next(answers)) is not None:
            raise refusal
        return Mock()

    monkeypatch.setattr("socket.socket", opened)
    fill(root, {"net/ipv4/ip_forward": "1"})
    for expected in (True, True, False):
        sysctls._opens_ipv6.cache_clear()
        assert kernel_has_ipv6(root) is expected
    assert kernel_has_ipv6(root.parent)
    fill(root, {"net/ipv6/conf/all/forwarding": "1"})
    assert kernel_has_ipv6(root)
    sysctls._opens_ipv6.cache_clear()


def test_neighbour_tables_grow_and_never_shrink(root: Path) -> None:
    """What an operator raised higher stays."""
    small, large = "net/ipv4/neigh/default/gc_thresh1", "net/ipv4/neigh/default/gc_thresh3"
    fill(root, RIGHT | {small: "128", large: "65536"})
    assert prepare_host(root=root) == []
    assert (value(root, small), value(root, large)) == ("1024", "65536")


def test_what_was_changed_on_the_host_is_told_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else turns forwarding off: it is on again, and the log says what was found."""
    fill(root, RIGHT | {"net/ipv4/ip_forward": "0"})
    log.LOGGER.propagate = True
    with caplog.at_level("INFO", logger="bgpmesh"):
        assert prepare_host(root=root) == prepare_host(root=root) == []
    assert value(root, "net/ipv4/ip_forward") == "1"
    assert caplog.messages == ['host.sysctl-set key=net.ipv4.ip_forward value=1 reason="was 0"']


def test_what_is_wrong_with_the_host_is_told_once_and_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each minute would be too often; what is wrong meanwhile stands in the problems."""
    found = iter((["a"], ["a", "b"], ["b"]))
    monkeypatch.setattr(sysctls, "prepare_host", lambda: next(found))
    host = HostSettings()
    with caplog.at_level("INFO", "bgpmesh"):
        for problems in (("a",), ("a", "b"), ("b",)):
            host.prepare()
            assert host.problems == problems
    told = ["host.unprepared reason=a", "host.unprepared reason=b", 'host.prepared reason="no longer: a"']
    assert caplog.messages == told


def test_a_link_whose_name_is_no_text_keeps_heeding_advertisements(root: Path, tmp_path: Path) -> None:
    """A name is any octets but white space."""
    link = os.fsdecode(b"n\xff")
    routes6 = tmp_path / "ipv6_route"
    routes6.write_bytes(os.fsencode(ADVERTISED.format(link)))
    fill(root, RIGHT | {"net/ipv6/conf/all/forwarding": "0", f"net/ipv6/conf/{link}/accept_ra": "1"})
    assert prepare_host(root=root, routes6=routes6) == []
    assert value(root, f"net/ipv6/conf/{link}/accept_ra") == "2"


def test_a_sysctl_that_vanishes_with_its_link_is_a_problem_in_words(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when it was read."""
    monkeypatch.setattr(sysctls, "_read", lambda _: "0")
    problem = sysctls.put(sysctls.Setting("net/ipv4/conf/gone0/forwarding", 1, "nothing passes"), root)
    why = os.strerror(errno.ENOENT)
    assert problem == f"net.ipv4.conf.gone0.forwarding is 0 and cannot be written ({why}): nothing passes"
