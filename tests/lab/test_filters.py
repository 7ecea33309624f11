"""Filters and what neighbours hear: of 100,000 routes that change only what differs, and of an attribute its flags."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.feeder import attribute, update
from tests.lab.cluster import PROTOCOL, Watch
from tests.lab.nodes import Neighbour, Node, file_of, neighbour, pair, peer_of

ROUTES, SETS = 100_000, 1_000
MOST_S = 150.0  # that so many may take on a busy machine
FEEDER = str(Path(__file__).parents[1] / "bench" / "feeder.py")


def filters(into: str = "", out: str = "") -> str:
    """Return a configuration of two neighbours under filters that accept what no rule of theirs is about."""
    source = peer_of("source", "10.0.0.2", 65002, "max_prefixes = 200000").replace('["all"]', '["into"]')
    sink = peer_of("sink", "10.0.0.3", 65003).replace('["own"]', '["out"]')
    rest = f'[filter.into]\ndefault = "accept"\n{into}\n[filter.out]\ndefault = "accept"\n{out}\n'
    return file_of(source + sink, rest=rest)


@dataclass(frozen=True, slots=True)
class Told:
    """What a raw speaker was told of 10.0.0.0/8, and what was written there in the kernel."""

    updates: int
    announced: int
    withdrawn: int
    written: int


@dataclass(slots=True)
class Fed:
    """A node that has 100,000 routes of `source` and passes them on to `sink`."""

    node: Node
    sink: Neighbour
    marks: int = 0

    def reload(self, text: str) -> None:
        """Put a configuration in force, and wait until the sink has heard of a prefix that is new in it."""
        self.marks += 1
        mark = f"198.51.100.{self.marks}/32"
        self.node.configure(text.replace("[node.n1]", f'[node.n1]\nadvertise = ["{mark}"]'))
        done = self.node.command("reload")
        assert done.returncode == 0, done.stderr
        octets = f"20c63364{self.marks:02x}"
        heard = f"{mark} heard"
        self.node.until(lambda: any(octets in str(e["body"]) for e in self.sink.events("update")), heard, MOST_S)

    def change(self, text: str) -> Told:
        """Change filters, and return what followed; neither session notices."""
        before, watch = len(self.sink.events("update")), Watch(self.node.lab, self.node.name)
        lives = [self.node.life(name) for name in ("source", "sink")]
        self.reload(text)
        self.reload(text)  # what the first has to say is said before the mark of the second
        assert lives == [self.node.life(name) for name in ("source", "sink")]
        self.node.until(lambda: self.node.fib("wanted") == self.node.fib("installed"), "the kernel to have it", MOST_S)
        written = sum(f"proto {PROTOCOL} " in line and " 10.0." in f" {line}" for line in watch.end())
        heard = [_prefixes(bytes.fromhex(str(event["body"]))) for event in self.sink.events("update")[before:]]
        announced, withdrawn = (sum(column) for column in zip(*heard, strict=True))
        return Told(sum(map(any, heard)), announced, withdrawn, written)


def _prefixes(body: bytes) -> tuple[int, int]:
    """Return how many prefixes of 10.0.0.0/8 an UPDATE announces and withdraws."""
    withdrawn = 2 + int.from_bytes(body[:2], "big")
    announced = withdrawn + 2 + int.from_bytes(body[withdrawn : withdrawn + 2], "big")
    return _count(body[announced:]), _count(body[2:withdrawn])


def _count(field: bytes) -> int:
    at = count = 0
    while at < len(field):
        count += field[at + 1] == 10
        at += 1 + (field[at] + 7) // 8
    return count


TAG = """
[[filter.out.rule]]
prefix = "10.0.1.0/24 ge 32"
action = "accept"
add_community = "64512:1"
"""
PREFER = """
[[filter.into.rule]]
action = "accept"
local_pref = 200
"""
REJECT = """
[[filter.into.rule]]
prefix = "10.0.2.0/24 ge 32"
action = "reject"
"""


@pytest.mark.timeout(900)
def test_a_change_of_filters_says_and_writes_the_difference() -> None:
    """Of 100,000 routes 256 are tagged, all preferred, 256 rejected, and all as it was: that, and nothing more."""
    with pair() as lab:
        node = Node(lab)
        node.configure(filters())
        node.start()
        sink = neighbour(lab, "10.0.0.3", asn=65003)
        words = ["--connect", "10.0.0.1", "--bind", "10.0.0.2", "--asn", "65002", "--peer-asn", "64512"]
        words += ["--routes", str(ROUTES), "--sets", str(SETS), "--hold", "inf"]
        lab.start("peer", [sys.executable, FEEDER, *words])
        node.await_up("source", "sink")
        node.until(lambda: node.fib("installed") >= ROUTES, "all routes in the kernel", MOST_S)
        fed = Fed(node, sink)
        fed.reload(filters())

        tagged = fed.change(filters(out=TAG))
        preferred = fed.change(filters(PREFER, TAG))
        rejected = fed.change(filters(REJECT + PREFER, TAG))
        counted = [node.peer("source")[key] for key in ("received", "accepted")]
        as_it_was = fed.change(filters())

        assert (tagged.announced, tagged.withdrawn, tagged.written) == (256, 0, 0)
        assert tagged.updates <= 4, "one for each attribute set"
        assert preferred == Told(0, 0, 0, 0)
        assert (rejected.updates, rejected.announced, rejected.withdrawn, rejected.written) == (1, 0, 256, 256)
        assert counted == [ROUTES, ROUTES - 256]
        assert (as_it_was.announced, as_it_was.withdrawn, as_it_was.written) == (512, 0, 256)
        assert as_it_was.updates <= 8
        node.stop()


def test_a_neighbour_hears_that_communities_came_partial() -> None:
    """The bit of two routes that differ in it alone, to which a filter adds a community (RFC 4271 §5)."""
    usual = attribute(0x40, 1, b"\0") + attribute(0x40, 2, bytes.fromhex("02010000fdea"))
    usual += attribute(0x40, 3, bytes((10, 0, 0, 2)))
    with pair() as lab:
        node = Node(lab)
        node.configure(filters(out=TAG))
        node.start()
        source, sink = neighbour(lab), neighbour(lab, "10.0.0.3", asn=65003)
        node.await_up("source", "sink")
        for number, flags in enumerate((0xC0, 0xE0)):
            nlri = bytes((32, 10, 0, 1, number))
            source.send(update(b"", usual + attribute(flags, 8, bytes.fromhex("fdea0007")), nlri))

        def heard(nlri: str) -> list[str]:
            bodies = [str(event["body"]) for event in sink.events("update")]
            return [body[body.index("0808fc000001fdea0007") - 2 :][:2] for body in bodies if body.endswith(nlri)]

        node.until(lambda: heard("200a000100") == ["c0"], "the one that came whole")
        node.until(lambda: heard("200a000101") == ["e0"], "the one that came partial")
        node.stop()
