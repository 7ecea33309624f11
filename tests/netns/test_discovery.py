"""Who is on a link, by router advertisements, in a network namespace of each test's own: two ends of a wire in one."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections.abc import Callable, Coroutine

import pytest

from bgpmesh.events import Connected, Event
from bgpmesh.peering.peer import Peer
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.path import PeerName, Role
from bgpmesh.wire import discovery
from bgpmesh.wire.discovery import Discovery
from bgpmesh.wire.speaker import Speaker
from tests.netns.host import apart, run
from tests.waiting import DEADLINE_S

Scenario = Callable[["Ends"], Coroutine[None, None, None]]
ADVERTISEMENT = struct.pack("!BBHBBHII", 134, 0, 0, 0, 0, 0, 0, 0)


class Ends:
    """Both ends of a wire, `a` and `b`, with one edge that looks at some of them."""

    def __init__(self) -> None:
        self.changes = 0
        self.talking: set[str] = set()
        self.edge = Discovery(self._changed, self.talking.__contains__, {})
        self.marks = 0

    def _changed(self) -> None:
        self.changes += 1

    async def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not holds():  # noqa: ASYNC110  the edge says it no other way
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"waited in vain for {what}: {self.found()}, {self.edge.problems}") from None

    async def settle(self) -> None:
        """Wait until what was sent by now has been heard: until what comes behind it, on another wire, is."""
        self.marks += 1
        near, far = f"c{self.marks}", f"d{self.marks}"
        add(near, far)
        self.edge.configure(["a", *(f"c{number}" for number in range(1, self.marks + 1))])
        await self.until(lambda: self.edge.problems == [], "a look at it")
        say(f"fe80::{far}", ADVERTISEMENT, end=far)
        await self.until(lambda: near in self.edge.found, "the mark")

    def found(self) -> dict[str, tuple[str, str]]:
        """Return who was found where."""
        return {name: (str(ours), str(theirs)) for name, (ours, theirs) in self.edge.found.items()}


@pytest.fixture
def wire() -> Callable[[Scenario], None]:
    """Give a way to run a scenario on a wire whose ends have fe80::a and fe80::b."""

    def within(scenario: Scenario) -> None:
        async def begun() -> None:
            ends = Ends()
            running = asyncio.ensure_future(ends.edge.run())
            try:
                await scenario(ends)
            finally:
                running.cancel()

        def whole() -> None:
            add("a", "b")
            asyncio.run(begun())

        apart(whole)

    return within


def add(*ends: str) -> None:
    """Add a wire with these ends, each with its name in its address."""
    run("ip", "link", "add", "name", ends[0], "type", "veth", "peer", "name", ends[1])
    for name in ends:
        run("ip", "link", "set", "dev", name, "addrgenmode", "none")
        run("ip", "address", "add", f"fe80::{name}/64", "dev", name, "nodad")
        run("ip", "link", "set", "dev", name, "up")


def say(source: str, message: bytes, hop_limit: int = 255, *, end: str = "b") -> None:
    """Send an ICMPv6 message from an address of an end to all on its wire."""
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hop_limit)
        sock.bind((source, 0, 0, socket.if_nametoindex(end)))
        sock.sendto(message, ("ff02::1", 0, 0, socket.if_nametoindex(end)))


def test_both_ends_find_each_other(wire: Callable[[Scenario], None]) -> None:
    """Each says that it is there, and knows its own address and the other's; what is not asked for is not looked at."""

    async def scenario(ends: Ends) -> None:
        ends.edge.configure(["a", "b"])
        await ends.until(lambda: len(ends.edge.found) == 2, "both")
        assert ends.found() == {"a": ("fe80::a%a", "fe80::b%a"), "b": ("fe80::b%b", "fe80::a%b")}
        assert (ends.changes, ends.edge.problems) == (2, [])
        ends.edge.configure([])
        assert ends.found() == {}

    wire(scenario)


def test_only_a_router_on_the_wire_is_heard_and_a_second_one_takes_nobodys_place(
    wire: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not who may be far away, nor who asks; and the first one stays while it speaks, or while there is a session."""

    async def scenario(ends: Ends) -> None:
        run("ip", "address", "add", "fe80::c/64", "dev", "b", "nodad")
        ends.edge.configure(["a"])
        await ends.until(lambda: ends.edge.problems == [], "a look at it")
        say("fe80::c", ADVERTISEMENT, hop_limit=254)
        say("fe80::c", ADVERTISEMENT[:8])
        say("fe80::c", struct.pack("!BBHI", 133, 0, 0, 0))
        say("fe80::c", ADVERTISEMENT[:1] + b"\1" + ADVERTISEMENT[2:])
        say("fe80::b", ADVERTISEMENT)
        await ends.until(lambda: ends.edge.found, "the router")
        first = "fe80::a%a", "fe80::b%a"
        assert ends.found() == {"a": first}
        say("fe80::c", ADVERTISEMENT)
        await ends.settle()
        assert ends.found()["a"] == first
        monkeypatch.setattr(discovery, "SILENT_S", 0.0)
        ends.talking.add("a")
        say("fe80::c", ADVERTISEMENT)
        await ends.settle()
        assert ends.found()["a"] == first
        ends.talking.clear()
        say("fe80::c", ADVERTISEMENT)
        await ends.until(lambda: ends.found()["a"] == ("fe80::a%a", "fe80::c%a"), "the other router")

    wire(scenario)


def test_an_address_that_changes_is_another_end(wire: Callable[[Scenario], None]) -> None:
    """A link without one, or that is not there, says so, and is looked at again."""

    async def scenario(ends: Ends) -> None:
        ends.edge.configure(["a", "b", "c"])
        await ends.until(lambda: len(ends.edge.found) == 2, "both")
        assert ends.edge.problems == ["c: there is no link-local address on it, or no such link that is up"]
        run("ip", "address", "del", "fe80::a/64", "dev", "a")
        await ends.until(lambda: len(ends.edge.problems) == 2, "the address to be gone")
        assert len(ends.edge.found) == 2, "who was found is called again as soon as it can be"
        run("ip", "address", "add", "fe80::d/64", "dev", "a", "nodad")
        await ends.until(lambda: ends.found()["a"] == ("fe80::d%a", "fe80::b%a"), "the other address")

    wire(scenario)


def test_a_neighbour_of_an_earlier_life_is_known_at_the_start(wire: Callable[[Scenario], None]) -> None:
    """Nothing changes while it is still there."""

    async def scenario(ends: Ends) -> None:
        known = {"a": (ipaddress.ip_address("fe80::a%a"), ipaddress.ip_address("fe80::b%a"))}
        ends.edge.found.update(known)
        ends.edge.configure(["a"])
        await ends.until(lambda: ends.edge.problems == [], "a look at it")
        say("fe80::b", ADVERTISEMENT)
        await ends.settle()
        assert (ends.edge.found["a"], ends.changes) == (known["a"], ends.marks)

    wire(scenario)


def test_calls_are_taken_on_a_link_that_was_made_anew(wire: Callable[[Scenario], None]) -> None:
    """Its name and its addresses are the same, and the socket goes over to it."""

    async def scenario(_ends: Ends) -> None:
        own, far = ipaddress.ip_address("fe80::a%a"), ipaddress.ip_address("fe80::b%a")
        peer = Peer(PeerName("far"), far, Asn(65002), Role.EXTERNAL, own, Asn(65001), RouterId(1))
        told: list[Event] = []
        speaker = Speaker(told.append, lambda _name, _limit: ())
        running = asyncio.ensure_future(speaker.run())
        try:
            speaker.configure((peer,))
            speaker.accept()
            for _ in range(2):
                told.clear()
                heard = await called(told)
                assert (heard.peer, heard.local, heard.remote) == ("far", own, far)
                run("ip", "link", "del", "dev", "a")
                add("a", "b")
        finally:
            running.cancel()

    wire(scenario)


async def called(told: list[Event]) -> Connected:
    """Call fe80::a from the other end, again and again, until that is told, and return it."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            for event in told:
                if isinstance(event, Connected):
                    return event
            with socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
                link = socket.if_nametoindex("b")
                sock.bind(("fe80::b", 0, 0, link))
                with contextlib.suppress(OSError):
                    await asyncio.get_running_loop().sock_connect(sock, ("fe80::a", 179, 0, link))
                await asyncio.sleep(0.05)


def test_a_link_whose_name_is_no_text_disturbs_nobody(wire: Callable[[Scenario], None]) -> None:
    """A name is any octets but white space; those that Python takes for such are none for the kernel."""

    async def scenario(ends: Ends) -> None:
        names = ("n\xe9", "x\x1cy")
        run("ip", "link", "add", names[0], "type", "veth", "peer", "name", names[1])
        for number, name in enumerate(names, 1):
            run("ip", "link", "set", name, "addrgenmode", "none")
            run("ip", "addr", "add", f"fe80::{number}/64", "dev", name, "nodad")
            run("ip", "link", "set", name, "up")
        ends.edge.configure(["a", "b", *names])
        await ends.until(lambda: ends.found().keys() == {"a", "b", *names} and ends.edge.problems == [], "all ends")

    wire(scenario)
