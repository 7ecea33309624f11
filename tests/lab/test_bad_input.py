"""Whatever comes in, from files, neighbours, the kernel or people: it is told in words and harms nothing else."""

from __future__ import annotations

import itertools
import json
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from bgpmesh.control import client
from containerlab.lab import Lab, until
from tests.bench.feeder import KEEPALIVE, OPEN, UPDATE, attribute, message, update
from tests.lab.nodes import BLOCKS, CONFIG, Neighbour, Node, announcement, file_of, neighbour, pair, peer_of
from tests.lab.stubborn import REFUSED, TRIES

STEADY = ("203.0.113.0/24", "2001:db8:113::/48")

PEERS = (
    peer_of("noisy", "10.0.0.2")
    + peer_of("steady", "10.0.0.3", 65003)
    + peer_of("inner", "10.0.0.4", 64512)
    + peer_of("locked", "10.0.0.5", 65005, 'password = "right"')
)


@dataclass(slots=True)
class Scene:
    """A daemon with two neighbours that stay: `steady`, and `inner` of its own AS."""

    node: Node
    steady: Neighbour
    inner: Neighbour

    def neighbour(self, **options: object) -> Neighbour:
        """Start one that does not stay."""
        return neighbour(self.node.lab, **options)  # type: ignore[arg-type]

    def assert_unharmed(self, before: tuple[object, object], uptime_s: object) -> None:
        """Check that `steady` has lived on, and that its routes are where they were."""
        assert before == self.node.life("steady")
        assert isinstance(uptime_s, float)
        self.node.until(lambda: float(str(self.node.peer("steady")["uptime_s"])) > uptime_s, "a growing uptime")
        assert self.node.prefixes() == BLOCKS | set(STEADY)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """One for all tests of this module; each leaves it as it found it."""
    with pair() as lab:
        node = Node(lab)
        node.configure(file_of(PEERS))
        node.start()
        steady = neighbour(lab, "10.0.0.3", asn=65003)
        inner = neighbour(lab, "10.0.0.4", asn=64512)
        node.await_up("steady", "inner")
        steady.send(announcement(STEADY[:1], "10.0.0.3", [65003]) + announcement(STEADY[1:], "2001:db8::2", [65003]))
        node.await_prefixes(BLOCKS | set(STEADY))
        yield Scene(node, steady, inner)


# ── files ────────────────────────────────────────────────────────────────────

TEN_MISTAKES = """
[cluster]
asn = 0
topology = "ring"
hold_time = 2
colour = "red"
[pool.default]
cidr = "10.244.0.0/33"
[node.n1]
address = "10.0.0.1"
pod_cidrs = ["10.99.0.0/26"]
[node.n2]
address = "10.0.0.1"
[peer.tor]
address = "10.0.0.2"
asn = "many"
import = ["nobody"]
[kernel]
protocol = 12
[bogus]
"""
MISTAKEN = {
    "cluster.asn", "cluster.topology", "cluster.hold_time", "cluster.colour", "pool.default.cidr",
    "node.n1.pod_cidrs", "node.n2.address", "peer.tor.asn", "peer.tor.import", "kernel.protocol", "bogus",
}  # fmt: skip


def test_ten_mistakes_are_all_told(scene: Scene) -> None:
    """`check` and `run` name every mistake of a file by file, key, value and reason, and exit with 2."""
    file = "/run/bgpmesh/wrong.toml"
    scene.node.lab.write("n1", file, TEN_MISTAKES)

    checked = scene.node.command("check", "--config", file)
    listed = scene.node.command("check", "--config", file, "--json")
    options = ("--socket", "/run/bgpmesh/wrong.sock", "--state", "/run/bgpmesh/wrong")
    ran = scene.node.command("run", "--config", file, *options)

    assert (2, 2, 2) == (checked.returncode, listed.returncode, ran.returncode)
    errors = json.loads(listed.stdout)["errors"]
    assert {error["key"] for error in errors} == MISTAKEN
    lines = [f"bgpmesh: {file}: {e['key']} = {e['value']}: {e['reason']}".replace(" = : ", ": ") for e in errors]
    assert checked.stderr.splitlines() == lines
    assert ran.stderr.splitlines() == lines
