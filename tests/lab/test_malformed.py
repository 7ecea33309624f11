"""The table of RFC 7606 over TCP: what becomes of each UPDATE on the wire and in the tables, beside a healthy session.

    n1: bgpmesh, AS 64512   10.0.0.1  -----  10.0.0.2 outside, .3 steady, .4 inside, .5 old   peer: raw speakers

Rows that end no session share one, each with a prefix of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import pytest

from tests.lab.nodes import JsonObject, Neighbour, Node, announcement, file_of, neighbour, pair, peer_of
from tests.malformed import INSIDE, OLD, OUTSIDE, ROWS, Row, Sender

SENDERS = (OUTSIDE, INSIDE, OLD)
STEADY, STEADY_PREFIX = Sender("steady", "10.0.0.3", 65003), "203.0.113.0/24"
MILD = [row for row in ROWS if not row.treatment.notification[0]]
FATAL = [row for row in ROWS if row.treatment.notification[0]]
COUNTERS = ("treated_as_withdraw", "attributes_discarded")


@dataclass(slots=True)
class Scene:
    """A daemon, its raw neighbours, and the prefix number of each row."""

    node: Node
    raw: dict[str, Neighbour]

    def received(self, row: Row, number: int) -> object:
        """Return the origin of the row's prefix as its sender's table has it; None where it has none."""
        found = cast("list[JsonObject]", self.node.ask("routes", prefix=row.prefix(number), received=row.sender.name))
        return cast("list[JsonObject]", found[0]["paths"])[0]["origin"] if found else None

    def counters(self, sender: Sender) -> list[int]:
        """Return how many UPDATEs of a peer were treated as withdrawals, and how many attributes discarded."""
        peer = self.node.peer(sender.name)
        return [cast("int", peer[name]) for name in COUNTERS]

    def say(self, rows: Sequence[Row], *numbers: int) -> None:
        """Have each prefix announced in order, and wait until they are all there."""
        for sender in SENDERS:
            of_sender = [(row, number) for row, number in zip(rows, numbers, strict=True) if row.sender is sender]
            if of_sender:
                self.raw[sender.name].send(b"".join(row.before(number) for row, number in of_sender))
        for row, number in zip(rows, numbers, strict=True):
            self.node.until(
                lambda row=row, number=number: self.received(row, number) == "incomplete",  # type: ignore[misc]
                f"{row.prefix(number)} of {row.sender.name}",
            )


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Bring up the daemon and its neighbours."""
    with pair() as lab:
        node = Node(lab)
        peers = [peer_of(sender.name, sender.address, sender.asn) for sender in (*SENDERS, STEADY)]
        node.configure(file_of("".join(peers)))
        node.start()
        raw = {
            sender.name: neighbour(
                lab,
                sender.address,
                asn=sender.asn,
                options=["--again", *(["--two-octet"] if sender.is_two_octet else [])],
            )
            for sender in (*SENDERS, STEADY)
        }
        node.await_up(*raw)
        raw[STEADY.name].send(announcement([STEADY_PREFIX], STEADY.address, [STEADY.asn]))
        node.until(lambda: node.route(STEADY_PREFIX), STEADY_PREFIX)
        yield Scene(node, raw)
        node.show_log()


def test_the_mild_rows(scene: Scene) -> None:
    """What ends no session withdraws or discards what it should, is counted and named, and its session stays up."""
    node = scene.node
    lives = {name: node.life(name) for name in scene.raw}
    scene.say(MILD, *range(len(MILD)))

    for number, row in enumerate(MILD):
        treatment, before = row.treatment, scene.counters(row.sender)
        scene.raw[row.sender.name].send(row.update(number))
        node.until(lambda row=row, number=number: scene.received(row, number) != "incomplete", row.name)  # type: ignore[misc]
        expected = [treatment.treated_as_withdraw, treatment.attributes_discarded]
        found = [after - was for after, was in zip(scene.counters(row.sender), before, strict=True)]
        origin = scene.received(row, number)
        assert (row.name, expected, None if treatment.treated_as_withdraw else "igp") == (row.name, found, origin)
        if row.words:
            assert (row.name, True) == (row.name, row.words in str(node.peer(row.sender.name)["update_problem"]))

    assert lives == {name: node.life(name) for name in scene.raw}
    assert node.route(STEADY_PREFIX)


def test_the_fatal_rows(scene: Scene) -> None:
    """What ends the session is told by its NOTIFICATION and in words, costs the sender its routes, and nobody else."""
    node = scene.node
    life = node.life(STEADY.name)
    number = len(MILD)

    for row in FATAL:
        raw, name = scene.raw[row.sender.name], row.sender.name
        told, sessions = len(raw.events("notification")), len(raw.events("established"))
        scene.say([row], number)
        raw.send(row.update(number))
        node.until(lambda raw=raw, told=told: len(raw.events("notification")) > told, row.name)  # type: ignore[misc]
        said = raw.events("notification")[told:]
        assert (row.name, [row.treatment.notification]) == (row.name, [(n["code"], n["subcode"]) for n in said])
        # It calls again at once, and is answered at once.
        node.until(lambda raw=raw, was=sessions: len(raw.events("established")) > was, f"{name} again")  # type: ignore[misc]
        node.until(lambda name=name: node.is_up(name), f"{name} up again")  # type: ignore[misc]
        assert (row.name, None) == (row.name, scene.received(row, number))
        assert (row.name, True) == (row.name, row.words in str(node.peer(name)["last_error"]))

    assert life == node.life(STEADY.name)
    assert node.route(STEADY_PREFIX)
