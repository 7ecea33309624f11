"""Neighbours that are known by the range they call from: who is let in, for how long, and what is left of them."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.control.peers import ranges
from bgpmesh.engine import Engine
from bgpmesh.events import (
    Connected,
    ConnectFailed,
    Disconnected,
    DrainChanged,
    Event,
    MessageReceived,
    OpenReceived,
    RoutesReceived,
)
from bgpmesh.peering.bfd import Watched
from bgpmesh.peering.connection import State
from bgpmesh.peering.message import Cease, EndOfRib, Keepalive, Negotiated, Notification, Open
from bgpmesh.peering.ranges import PeerRange, Ranges
from bgpmesh.peering.session import Dial, Hangup, Send
from bgpmesh.restart import LastLife
from bgpmesh.rib.drain import Drain
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.nlri import Family, parse_nlri
from bgpmesh.route.path import PeerName
from tests.unit.test_engine import ADOPTED, HOP, KEPT, World, configured, peer

ADDRESS, OTHER = ipaddress.ip_address("198.51.100.9"), ipaddress.ip_address("198.51.100.10")
NAME, SECOND = PeerName("leaves@198.51.100.9"), PeerName("leaves@198.51.100.10")


def leaves(network: str = "198.51.100.0/24", limit: int = 8, name: str = "leaves", **options: object) -> PeerRange:
    """Return a range of iBGP neighbours."""
    around = ipaddress.ip_network(network)
    template = peer(0, name=PeerName(name), address=around.network_address, **options)
    return PeerRange(around, limit, template, Watched(name, "192.0.2.1", str(around.network_address), 1, 300, 3))


def world_of(*ranges: PeerRange) -> World:
    """Return a node with one peer of the file and these ranges, after a first boot."""
    world = World(Engine(configured(peer(2), ranges=ranges), None, lambda: 0.5))
    world.boot({})
    return world


def call(world: World, name: PeerName = NAME) -> int:
    """Have a speaker call; return the number of the connection."""
    world.connections += 1
    address = ipaddress.ip_address(name.partition("@")[2])
    world.engine.handle(Connected(world.connections, name, HOP, address, is_inbound=True), world.now)
    return world.connections


def establish(world: World, name: PeerName = NAME, restart: object = KEPT) -> int:
    """Have a speaker call, and bring its session up."""
    number = call(world, name)
    sent = next(c.message for c in world.settle() if isinstance(c, Send) and isinstance(c.message, Open))
    received = replace(sent, router_id=RouterId(sent.router_id + number))
    received = replace(received, capabilities=replace(sent.capabilities, graceful_restart=restart))  # type: ignore[arg-type]
    agreed = Negotiated(sent, received, 9, (Family.IPV4,), four_octet_asn=True)
    tell(world, OpenReceived(number, agreed), MessageReceived(number, Keepalive()))
    return number


def tell(world: World, *events: Event) -> list[object]:
    """Have these happen; return what the wire is told."""
    for event in events:
        world.engine.handle(event, world.now)
    return list(world.settle())


def refuse(world: World, number: int) -> None:
    """Have a speaker send an OPEN that is refused for its AS."""
    ours = next(c.message for c in world.settle() if isinstance(c, Send) and isinstance(c.message, Open))
    theirs = replace(ours, asn=Asn(65001))
    told = tell(
        world, OpenReceived(number, Negotiated(ours, theirs, 9, (), four_octet_asn=True, refusal=Notification(2, 2)))
    )
    assert told == [Send(number, Notification(2, 2)), Hangup(number)]


def test_the_longest_range_counts_and_a_peers_own_address_is_in_none() -> None:
    """Of two ranges around an address it is the smaller one's; an address of a peer of the file is no speaker's."""
    ranges = Ranges([leaves(), leaves("198.51.100.8/30", name="few"), leaves("2001:db8::/64", name="six")], [OTHER])
    for text, expected in (
        ("198.51.100.9", "few@198.51.100.9"),
        ("198.51.100.12", "leaves@198.51.100.12"),
        ("2001:db8::7", "six@2001:db8::7"),
        ("198.51.100.10", None),
        ("198.51.101.1", None),
    ):
        address = ipaddress.ip_address(text)
        around = ranges.around(address)
        assert (None if around is None else around.name_of(address)) == expected
    assert ranges.speaker(PeerName("leaves@198.51.100.9")) is None, "another range has it"
    for nobody in ("few", "few@", "few@x", "@198.51.100.9", "few@198.51.100.9@"):
        assert ranges.speaker(PeerName(nobody)) is None


def test_a_restart_waits_for_no_range_and_no_program_that_a_reload_has_taken_away() -> None:
    """Neither could say anything any more: a program that was not started before has no end to tell of."""
    given = configured(peer(2), ranges=(leaves(),), processes=("p",))
    world = World(Engine(given, None, lambda: 0.5, last=LastLife(announced={"p": 2})))
    world.boot(ADOPTED)
    restart = world.engine.peers.restart
    assert restart.reasons().keys() == {"n2", "leaves", "process p"}
    tell(world, configured(peer(2)))
    assert restart.reasons().keys() == {"n2"}


def test_a_speaker_is_a_peer_for_as_long_as_anything_of_it_is_left() -> None:
    """It appears with its call, stays while its paths are stale, is gone with the last of them, and never called."""
    world = world_of(leaves())
    number = establish(world)
    assert world.engine.peers.sessions[NAME].state is State.ESTABLISHED
    attributes = PathAttributes(next_hop=HOP, local_pref=100)
    tell(world, RoutesReceived(number, attributes, [parse_nlri("10.244.7.0/26")], (), world.now))
    assert ("10.244.7.0/26" in str(world.written()), NAME in world.engine.peers.held) == (True, True)

    assert tell(world, Disconnected(number, "closed by peer")) == []
    assert world.engine.rib.stale_count(NAME) == 1
    assert world.at(60.0) == []
    assert NAME in world.engine.peers.sessions
    assert world.at(121.0) == []
    assert (NAME in world.engine.peers.sessions, NAME in world.engine.peers.held) == (False, True)
    world.written()
    assert world.engine.peers.held == frozenset()
    assert NAME not in world.engine.peers.faults


def test_without_graceful_restart_a_speaker_is_gone_with_its_connection() -> None:
    """Nothing of it is kept, and nobody waits for it; it may come again."""
    world = world_of(leaves())
    tell(world, Disconnected(establish(world, restart=None), "closed by peer"))
    assert list(world.engine.peers.sessions) == ["n2"]
    assert world.engine.next_wakeup() == float("inf")
    establish(world)
    assert world.engine.peers.sessions[NAME].state is State.ESTABLISHED


def test_of_more_speakers_than_there_may_be_the_last_is_turned_away() -> None:
    """It is told so, named once, and counts nowhere; who is there stays."""
    world = world_of(leaves(limit=1))
    establish(world)
    for _ in range(2):
        number = call(world, SECOND)
        told = world.settle()
        assert told == [Send(number, Notification.cease(Cease.CONNECTION_REJECTED)), Hangup(number)]
    assert set(world.engine.peers.sessions) == {"n2", NAME}
    reason = "range_limit = 1 speakers are here already"
    assert world.told_of("peer.failed") == [{"peer": SECOND, "reason": reason}]
    (row,) = ranges(world.engine)
    assert (row["speakers"], row["last_error"]) == (1, f"{SECOND}: {reason}")


THIRD = PeerName("leaves@198.51.100.11")


def test_who_has_come_to_no_session_makes_room_for_the_next_caller() -> None:
    """The one that called first, whether it says nothing or stops halfway; it is told, and may call again."""
    world = world_of(leaves(limit=2))
    first, second = call(world), call(world, SECOND)
    sent = next(c.message for c in world.settle() if isinstance(c, Send) and isinstance(c.message, Open))
    received = replace(sent, router_id=RouterId(9))
    tell(world, OpenReceived(second, Negotiated(sent, received, 9, (Family.IPV4,), four_octet_asn=True)))
    turned_away = Notification.cease(Cease.CONNECTION_REJECTED)
    assert world.engine.peers.sessions[SECOND].state is State.OPEN_CONFIRM

    third = call(world, THIRD)
    assert world.settle()[:2] == [Send(first, turned_away), Hangup(first)]
    assert tell(world, Disconnected(first, "closed by us")) == []
    assert set(world.engine.peers.sessions) == {"n2", SECOND, THIRD}
    again = call(world)
    assert world.settle()[:2] == [Send(second, turned_away), Hangup(second)]
    assert set(world.engine.peers.sessions) == {"n2", THIRD, NAME}
    for number in (third, again):
        agreed = Negotiated(sent, received, 9, (Family.IPV4,), four_octet_asn=True)
        tell(world, OpenReceived(number, agreed), MessageReceived(number, Keepalive()))
    assert {world.engine.peers.sessions[name].state for name in (THIRD, NAME)} == {State.ESTABLISHED}
    assert world.told_of("peer.failed") == [
        {"peer": name, "reason": "made room for a later caller: no session yet"} for name in (NAME, SECOND)
    ]


def test_a_speaker_whose_paths_are_held_makes_no_room() -> None:
    """Neither on its way back, nor while it is away, nor while it stays out for having sent too much."""
    world = world_of(leaves(limit=1, max_prefixes=1, max_prefixes_restart=60))
    attributes = PathAttributes(next_hop=HOP, local_pref=100)
    number = establish(world)
    tell(world, RoutesReceived(number, attributes, [parse_nlri("10.244.7.0/26")], (), world.now))
    tell(world, Disconnected(number, "closed by peer"))
    assert is_turned_away(world)
    call(world)
    world.settle()
    assert world.engine.peers.sessions[NAME].state is State.OPEN_SENT
    assert is_turned_away(world)

    world = world_of(leaves(limit=1, max_prefixes=1, max_prefixes_restart=60))
    nlris = [parse_nlri(f"10.244.{n}.0/26") for n in (7, 8)]
    tell(world, RoutesReceived(establish(world), attributes, nlris, (), world.now))
    assert is_turned_away(world)


def test_where_one_cannot_make_room_nobody_does() -> None:
    """A limit that a reload has lowered asks for more than one."""
    world = world_of(leaves(limit=3))
    establish(world)
    establish(world, THIRD)
    call(world, PeerName("leaves@198.51.100.12"))
    world.settle()
    tell(world, configured(peer(2), ranges=(leaves(limit=2),)))
    assert is_turned_away(world)
    assert PeerName("leaves@198.51.100.12") in world.engine.peers.sessions


def is_turned_away(world: World) -> bool:
    """Have another speaker call, and tell whether it is turned away and nobody else."""
    number = call(world, SECOND)
    return world.settle() == [Send(number, Notification.cease(Cease.CONNECTION_REJECTED)), Hangup(number)]


def test_a_speaker_of_another_as_is_named_once_and_forgotten() -> None:
    """Its OPEN is refused with the reason; it has no session afterwards, and that it tries again is no news."""
    world = world_of(leaves())
    for _ in range(3):
        refuse(world, call(world))
    assert list(world.engine.peers.sessions) == ["n2"]
    words = "AS mismatch: the peer says 65001, configured is 64512"
    assert world.told_of("peer.failed") == [{"peer": NAME, "reason": words}]
    assert ranges(world.engine)[0]["last_error"] == f"{NAME}: {words}"
    establish(world)
    assert ranges(world.engine)[0]["last_error"] == "", "it is in order now"


def test_md5_failures_are_put_down_to_the_range() -> None:
    """Who signs wrongly has no name; the range has, and the counters that rise again are no news."""
    world = world_of(leaves())
    for number in (2, 3):
        reason = f"MD5 mismatch suspected: TCPMD5Failure rose by {number}"
        tell(world, ConnectFailed(PeerName("leaves"), reason))
    assert len(world.told_of("peer.failed")) == 1
    assert ranges(world.engine)[0]["last_error"] == f"leaves: {reason}"


def test_who_is_in_no_range_is_hung_up_on() -> None:
    """A name that a reload has taken out while the connection was on its way is nobody's."""
    world = world_of(leaves("198.51.100.128/25"))
    number = call(world)
    assert world.settle() == [Hangup(number)]
    assert list(world.engine.peers.sessions) == ["n2"]


@pytest.mark.parametrize(
    ("after", "cease"),
    [
        ((leaves(hold_time=30),), Cease.OTHER_CONFIGURATION_CHANGE),
        ((), Cease.PEER_DECONFIGURED),
        ((leaves(), leaves("198.51.100.0/28", name="few")), Cease.OTHER_CONFIGURATION_CHANGE),
        ((leaves(exports=("own",), limit=1),), None),
    ],
    ids=["changed", "removed", "taken over", "filtered otherwise"],
)
def test_a_reload_is_about_the_speakers_of_its_range_alone(after: tuple[PeerRange, ...], cease: Cease | None) -> None:
    """Another template ends its sessions, none ends them for good; other filters and limits reset nobody."""
    others = leaves("203.0.113.0/24", name="others")
    stays = PeerName("others@203.0.113.5")
    world = world_of(leaves(), others)
    number = establish(world, restart=None)
    establish(world, stays)
    told = tell(world, configured(peer(2), ranges=(*after, others)))
    assert told == ([] if cease is None else [Send(number, Notification.cease(cease)), Hangup(number)])
    assert (NAME in world.engine.peers.sessions) is (cease is None)
    assert world.engine.peers.sessions[stays].state is State.ESTABLISHED


def test_a_template_that_changes_keeps_what_its_speakers_said_where_they_keep_it_too() -> None:
    """With graceful restart over NOTIFICATIONs (RFC 8538) paths are stale until the speaker has called and said all."""
    world = world_of(leaves())
    number = establish(world, restart=replace(KEPT, survives_notification=True))
    attributes = PathAttributes(next_hop=HOP, local_pref=100)
    tell(world, RoutesReceived(number, attributes, [parse_nlri("10.244.7.0/26")], (), world.now))
    world.written()
    tell(world, configured(peer(2), ranges=(leaves(hold_time=30),)))
    session = world.engine.peers.sessions[NAME]
    assert (session.state, world.engine.rib.stale_count(NAME), world.written()) == (State.ACTIVE, 1, [])
    number = establish(world, restart=replace(KEPT, survives_notification=True))
    tell(world, RoutesReceived(number, attributes, [parse_nlri("10.244.7.0/26")], (), world.now))
    tell(world, MessageReceived(number, EndOfRib(Family.IPV4)))
    assert (world.engine.rib.stale_count(NAME), world.written()) == (0, [])
    tell(world, configured(peer(2), ranges=()))
    assert ("10.244.7.0/26", None) in world.written()


def test_a_speaker_that_becomes_a_peer_of_the_file_changes_over() -> None:
    """An address that the file names from now on is the named peer's: the speaker's session ends, its does begin."""
    world = world_of(leaves())
    number = establish(world)
    named = peer(9, name=PeerName("named"), address=ADDRESS, is_passive=False)
    told = tell(world, configured(peer(2), named, ranges=(leaves(),)))
    cease = Notification.cease(Cease.OTHER_CONFIGURATION_CHANGE)
    assert told == [Send(number, cease), Hangup(number), Dial(PeerName("named"))]
    assert set(world.engine.peers.sessions) == {"n2", "named"}


def test_a_speaker_that_sent_too_much_stays_out_for_a_while() -> None:
    """Closed for too many prefixes it is hung up on until its time is over, and then it is welcome."""
    world = world_of(leaves(max_prefixes=1, max_prefixes_restart=60))
    attributes = PathAttributes(next_hop=HOP, local_pref=100)
    nlris = [parse_nlri(f"10.244.{n}.0/26") for n in (7, 8)]
    told = tell(world, RoutesReceived(establish(world), attributes, nlris, (), world.now))
    assert [c.message.subcode for c in told if isinstance(c, Send) and isinstance(c.message, Notification)] == [1]
    number = call(world)
    assert world.settle() == [Hangup(number)]
    assert "sent more than max_prefixes" in world.engine.peers.sessions[NAME].last_error
    world.at(61.0)
    assert NAME not in world.engine.peers.sessions
    establish(world)
    assert world.engine.peers.sessions[NAME].state is State.ESTABLISHED


def test_who_comes_back_hears_that_what_we_forward_is_preserved() -> None:
    """A speaker that was here in this daemon's life may have kept our routes: the F bit is set, as for any peer."""
    world = world_of(leaves())
    bits = []
    for _ in range(2):
        number = call(world)
        ours = next(c.message for c in world.settle() if isinstance(c, Send) and isinstance(c.message, Open))
        restart = ours.capabilities.graceful_restart
        assert restart is not None
        bits.append(restart.families[0][1])
        tell(world, Disconnected(number, "closed by peer"))
        tell(world, Disconnected(establish(world, restart=None), "closed by peer"))
        assert NAME not in world.engine.peers.sessions
    assert bits == [False, True]


@pytest.mark.parametrize("in_cluster", [True, False])
def test_a_node_out_of_service_keeps_no_speaker_and_comes_back_for_whoever_calls_again(in_cluster: bool) -> None:
    """Stopped, it tells why; back, it is the last choice until all have had time to call."""
    world = world_of(leaves(in_cluster=in_cluster))
    establish(world)
    tell(world, DrainChanged(Drain.STOPPED))
    world.at(2.0)
    assert NAME not in world.engine.peers.sessions
    number = call(world)
    *said, hangup = world.settle()
    told = [c.message.subcode for c in said if isinstance(c, Send) and isinstance(c.message, Notification)]
    assert (told, hangup) == ([Cease.ADMIN_SHUTDOWN], Hangup(number))
    assert (NAME in world.engine.peers.sessions, world.told_of("peer.failed")) == (False, [])
    tell(world, DrainChanged(Drain.UNDRAINING))
    number = establish(world)
    world.written()
    assert world.engine.peers.drain.drain is Drain.UNDRAINING
    world.at(9.0)
    tell(world, MessageReceived(number, Keepalive()))
    world.at(12.1)
    assert (world.engine.peers.drain.drain, NAME in world.engine.peers.sessions) == (Drain.NONE, True)


def test_bfd_watches_a_speaker_while_its_paths_are_held() -> None:
    """The path is watched from the session on, and no longer once it is gone."""
    world = world_of(leaves())
    assert watched(world) == []
    number = call(world)
    assert watched(world) == []
    tell(world, Disconnected(number, "closed by peer"))
    number = establish(world, restart=None)
    assert watched(world) == [Watched(NAME, "192.0.2.1", str(ADDRESS), 1, 300, 3)]
    tell(world, Disconnected(number, "closed by peer"))
    assert watched(world) == []


def watched(world: World) -> list[Watched]:
    """Return the paths that BFD is to watch."""
    return list(world.engine.peers.paths.watched)


# ── restarts ─────────────────────────────────────────────────────────────────


def restarted(listed: tuple[PeerName, ...] | None) -> World:
    """Return a node that was killed and runs again."""
    world = World(Engine(configured(peer(2), ranges=(leaves(),)), listed, lambda: 0.5))
    assert [c for c in world.boot(ADOPTED) if isinstance(c, Dial) and c.peer != "n2"] == [], "nobody calls it"
    return world


def test_a_restart_waits_for_a_listed_speaker_until_the_limit() -> None:
    """It cannot be called, so it has all of `restart_deferral` to call; then what was its goes."""
    world = restarted((NAME,))
    assert [each.name for each in world.engine.peers.paths.watched] == [NAME]
    world.at(9.9)
    assert (world.engine.peers.is_in_sync, NAME in world.engine.peers.sessions) == (False, True)
    assert world.written() == []
    world.at(10.0)
    assert (world.engine.peers.is_in_sync, NAME in world.engine.peers.sessions) == (True, False)
    assert world.written() == [("10.244.2.0/26", None)]
    assert world.engine.peers.held == frozenset()


def test_a_restart_is_over_when_the_listed_speaker_has_said_all() -> None:
    """It calls, says what it has and End-of-RIB: nothing is written, and nothing is waited for any longer."""
    world = restarted((NAME,))
    number = establish(world)
    attributes = PathAttributes(next_hop=HOP, local_pref=100)
    tell(world, RoutesReceived(number, attributes, [parse_nlri("10.244.2.0/26")], (), world.now))
    assert not world.engine.peers.is_in_sync
    tell(world, MessageReceived(number, EndOfRib(Family.IPV4)))
    assert world.engine.peers.is_in_sync
    assert world.written() == []


def test_where_the_list_is_lost_speakers_have_until_the_limit() -> None:
    """Nobody knows how many there were, so even a named peer's End-of-RIB ends nothing before the limit."""
    world = restarted(None)
    world.establish(PeerName("n2"), KEPT)
    world.end_of_rib(PeerName("n2"))
    assert not world.engine.peers.is_in_sync
    assert world.engine.peers.restart.reasons() == {"leaves": "it is not known who of them was here"}
    world.at(10.0)
    assert world.engine.peers.is_in_sync


def test_a_node_that_stops_while_it_waits_for_a_range_is_in_sync() -> None:
    """Whoever was there, nobody calls a node out of service; back in service it waits as long as ever."""
    world = World(Engine(configured(peer(2), ranges=(leaves(),)), None, lambda: 0.5))
    world.boot(ADOPTED)
    tell(world, DrainChanged(Drain.STOPPED))
    world.at(1.0)
    assert world.engine.peers.is_in_sync
    tell(world, DrainChanged(Drain.UNDRAINING))
    world.at(9.0)
    tell(world, DrainChanged(Drain.STOPPED))
    world.at(10.0)
    tell(world, DrainChanged(Drain.UNDRAINING))
    world.at(19.9)
    world.written()
    assert world.engine.peers.restart.is_returning
    world.at(20.0)
    assert not world.engine.peers.restart.is_returning


def test_who_makes_room_is_not_waited_for() -> None:
    """Who called a node out of service in the moment of its return, calls again, and says nothing."""
    world = world_of(leaves(limit=1))
    tell(world, DrainChanged(Drain.STOPPED))
    world.at(1.0)
    call(world)
    tell(world, DrainChanged(Drain.UNDRAINING))
    assert NAME in world.engine.peers.restart.names
    silent = call(world)
    told = world.settle()
    assert isinstance(told[0], Send)
    number = call(world, SECOND)
    told = world.settle()
    assert told[:2] == [Send(silent, Notification.cease(Cease.CONNECTION_REJECTED)), Hangup(silent)]
    assert isinstance(told[2], Send)
    assert told[2].connection == number
    world.at(11.0)
    assert not world.engine.peers.restart.is_returning
