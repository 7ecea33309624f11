"""What is kept of a neighbour that comes back otherwise than it went: a raw speaker with graceful restart."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.bench.feeder import NOTIFICATION, attribute, message, update
from tests.lab.cluster import PROTOCOL, Watch
from tests.lab.nodes import BLOCKS, Neighbour, Node, announcement, file_of, neighbour, pair, peer_of

V4, V6 = ["198.51.100.0/24", "198.51.101.0/24"], ["2001:db8:9::/48"]
THEIRS = {*V4, *V6}
ENDS = update(b"", b"", b"") + update(b"", attribute(0x80, 15, b"\0\2\1"), b"")  # End-of-RIB of both families
RESTARTING, SURVIVING = 0x8000, 0x4000  # the R bit (RFC 4724 §3), the N bit (RFC 8538 §2)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Run a daemon with one neighbour that calls."""
    with pair() as lab:
        made = Node(lab)
        made.configure(file_of(peer_of("other", "10.0.0.2")))
        made.start()
        yield made
        made.show_log()


def back(node: Node, bits: int = 0, router_id: str = "", restart_time: int = 120) -> Neighbour:
    """Start the neighbour, which has kept its forwarding; returns once it has said all and nothing is stale."""
    families = "".join(struct.pack("!HBB", afi, 1, 0x80).hex() for afi in (1, 2))
    options = ["--capability", f"64:{bits | restart_time:04x}{families}"]
    other = neighbour(node.lab, options=[*options, *(["--router-id", router_id] if router_id else [])])
    other.await_established()
    other.send(announcement(V4, "10.0.0.2", [65002]) + announcement(V6, "2001:db8::2", [65002]) + ENDS)
    node.await_prefixes(BLOCKS | THEIRS)
    node.until(lambda: node.is_up("other") and not node.peer("other")["stale"], "all of it to be fresh")
    return other


def await_stale(node: Node, count: int) -> None:
    """Wait until the session is down and so many paths are stale."""
    node.until(lambda: not node.is_up("other") and node.peer("other")["stale"] == count, f"{count} stale paths")


def written(watch: Watch) -> list[str]:
    """End a watch; return which of our routes were written."""
    return [line for line in watch.end() if f"proto {PROTOCOL}" in line]


def test_another_router_id_moves_no_route(node: Node) -> None:
    """It is the same neighbour by its address."""
    back(node).stop()
    await_stale(node, len(THEIRS))
    watch = Watch(node.lab, "n1")
    other = back(node, RESTARTING, "192.0.2.99")
    assert written(watch) == []
    other.stop()


def test_a_neighbour_that_restarts_before_we_notice_moves_no_route(node: Node) -> None:
    """Its new connection takes the place of one that is half open (RFC 4724 §5)."""
    first = back(node)
    watch = Watch(node.lab, "n1")
    second = back(node, RESTARTING)
    assert first.await_end() == []
    assert written(watch) == []
    second.stop()


def test_a_neighbour_that_asks_for_no_time_is_not_waited_for(node: Node) -> None:
    """Also where it says that it keeps its forwarding."""
    back(node, restart_time=0).stop()
    node.await_prefixes(BLOCKS)


@pytest.mark.parametrize("subcode", [0, 2, 9, 10, 250])
def test_a_hard_reset_alone_ends_what_a_neighbour_has_said(node: Node, subcode: int) -> None:
    """Whatever else its Cease is for, known or not (RFC 8538 §4.2)."""
    other = back(node, SURVIVING)
    watch = Watch(node.lab, "n1")
    other.send(message(NOTIFICATION, bytes((6, subcode))))
    await_stale(node, 0 if subcode == 9 else len(THEIRS))
    if subcode == 9:
        node.await_prefixes(BLOCKS)
    assert bool(written(watch)) is (subcode == 9)
    other.await_end()
