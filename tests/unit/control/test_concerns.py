"""What `status` warns of; the words about next hops and refused routes stand in tests/golden/cli too."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.control import concerns
from bgpmesh.events import BfdReported, EndpointAdded, FibWritten, LinkWritten
from bgpmesh.peering.bfd import Report, State
from bgpmesh.rib.rule import Filter
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.nlri import Family, parse_nlri
from bgpmesh.route.path import Blackhole, PeerName
from bgpmesh.workload.endpoint import Endpoint
from tests.flat import pairs
from tests.unit.conftest import Running

N2 = PeerName("n2")
UP = Report("n2", State.UP, 0, State.UP, 0, True, False, 24.0, 900.0, 300.0, True)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (UP, []),
        (UP._replace(state=State.DOWN, is_single_hop=None), ["BFD is down: nothing is heard from the peer"]),
        (
            UP._replace(state=State.DOWN, diag=1, is_single_hop=None),
            ["BFD is down: nothing is heard from the peer (control detection time expired)"],
        ),
        (
            UP._replace(state=State.INIT, diag=1, remote_state=State.DOWN),
            ["BFD is down: control detection time expired; the peer: Down"],
        ),
        (UP._replace(state=State.DOWN, remote_state=State.ADMIN_DOWN), []),
    ],
)
def test_a_session_that_bfd_does_not_watch_is_told(running: Running, report: Report, expected: list[str]) -> None:
    """It is up all the same; what a peer has shut down on purpose is no concern."""
    running.engine.handle(BfdReported(report), 24.0)
    assert expected == concerns.of_peer(running.engine, N2)


def test_a_peer_that_is_down_has_its_last_error_and_no_concern(running: Running) -> None:
    """BFD of n3 is down, and so is its session."""
    assert concerns.of_peer(running.engine, PeerName("n3")) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("few",), ["none of 2 prefixes is accepted: 10.244.2.0/26 by import filter few default"]),
        (("none",), []),
        (("all",), []),
    ],
)
def test_a_filter_that_takes_nothing_is_told(running: Running, names: tuple[str, ...], expected: list[str]) -> None:
    """Not where "none" is said: who says so means it."""
    engine, configured = running.engine, running.engine.configured
    peers = tuple(replace(peer, imports=names) if peer.name == "n2" else peer for peer in configured.peers)
    engine.handle(replace(configured, peers=peers, filters=(*configured.filters, Filter("few"))), 24.0)
    while engine.work(1000, 24.0):
        pass
    assert expected == concerns.of_peer(engine, N2)


BY_IPV6 = "no IPv4 route goes to it by our next hop {}: it does not offer extended-next-hop (RFC 8950); turn that on"


@pytest.mark.parametrize(
    ("ours", "is_offered", "exports", "expected"),
    [
        ("2001:db8::1", False, "all", "2001:db8::1 at the peer, or give this node an IPv4 address"),
        ("fe80::1%eth1", False, "all", 'fe80::1%eth1 at the peer, or say families = ["ipv6"] here'),
        ("2001:db8::1", True, "all", ""),
        ("2001:db8::1", False, "none", ""),
        ("192.0.2.1", False, "all", ""),
    ],
)
def test_ipv4_that_cannot_go_by_our_next_hop_is_told(
    running: Running, ours: str, is_offered: bool, exports: str, expected: str
) -> None:
    """Where this node has IPv6 addresses alone, and the peer takes no IPv6 next hop of IPv4 prefixes."""
    engine, configured, session = running.engine, running.engine.configured, running.engine.peers.sessions[N2]
    hops = ((Family.IPV4, ipaddress.ip_address(ours)),)
    peers = tuple(
        replace(peer, next_hops=hops, exports=(exports,)) if peer.name == "n2" else peer for peer in configured.peers
    )
    engine.handle(replace(configured, peers=peers), 24.0)
    assert session.negotiated is not None
    session.negotiated = replace(session.negotiated, ipv6_next_hops=is_offered)
    address, _, cure = expected.partition(" ")
    assert ([f"{BY_IPV6.format(address)} {cure}"] if expected else []) == concerns.of_peer(engine, N2)


def test_a_route_that_fits_no_message_is_told(running: Running) -> None:
    """In the log once, and again when it is another; and that nothing is kept back any more."""
    engine = running.engine
    reason = "its attributes fit no message of 4096 octets, the longest that the peer takes (RFC 8654)"

    def said(communities: int, *prefixes: str) -> list[tuple[object, ...]]:
        """Return what is told when this node has these prefixes with so many communities."""
        attributes = PathAttributes(communities=tuple(range(communities)))
        engine.notes.clear()
        for prefix in prefixes:
            engine.rib.originate(parse_nlri(prefix), None, advertise=True, attributes=attributes)
        while engine.work(1000, 24.0):
            pass
        keys = ("peer", "prefix", "reason", "others_count")
        return [(note.name, *map(note.keys.get, keys)) for note in engine.notes if note.name.startswith("route.")]

    assert said(2000, "10.7.1.0/24", "10.7.0.0/24") == [("route.too-long", "n2", "10.7.1.0/24", reason, 1)]
    assert [f"10.7.0.0/24 (and 1 more) is not told: {reason}"] == concerns.of_peer(engine, N2)
    assert said(2001, "10.7.0.0/24") == []
    assert said(2001, "10.7.9.0/24") == [("route.too-long", "n2", "10.7.9.0/24", reason, None)]
    assert said(10, "10.7.1.0/24", "10.7.0.0/24", "10.7.9.0/24") == [("route.fits", "n2", None, None, None)]
    assert concerns.of_peer(engine, N2) == []


def test_what_has_one_reason_is_told_once(running: Running) -> None:
    """The first that has it, and how many more; and there is an end of it."""
    engine = running.engine
    reasons = {parse_nlri(f"10.9.{number}.0/24"): "no room" for number in range(5)}
    reasons |= {parse_nlri(f"10.8.{number}.0/24"): f"reason {number}" for number in range(12)}
    for nlri in reasons:
        engine.rib.fib.want(nlri, Blackhole())
    pairs(engine.rib.fib.take(100, 24.0))
    engine.handle(FibWritten([], reasons), 24.0)
    said = concerns.of_node(engine)
    assert "route 10.9.0.0/24 (and 4 more) is not in the kernel: no room" in said
    assert "and 4 more for other reasons" in said


def test_a_workload_without_its_link_is_told(running: Running) -> None:
    """With what keeps it from it; not while it is under way."""
    engine = running.engine
    address = engine.local.addresses.request("default/db")
    engine.handle(EndpointAdded(Endpoint("db", "default", (), address, "bgpmy", "/run/netns/db")), 24.0)
    assert not any("default/db" in words for words in concerns.of_node(engine))
    while engine.work(1000, 24.0):
        pass
    pairs(engine.local.links.take(2, 24.0))
    engine.handle(LinkWritten("bgpmy", "network namespace /run/netns/db: No such file or directory"), 24.0)
    expected = "workload default/db is not connected: network namespace /run/netns/db: No such file or directory"
    assert expected in concerns.of_node(engine)
