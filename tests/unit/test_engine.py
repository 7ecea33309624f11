"""What the engine decides by itself: restarts, the list of held peers, workloads, limits, stops."""

from __future__ import annotations

import ipaddress
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from bgpmesh.engine import Engine
from bgpmesh.errors import ConfigError
from bgpmesh.events import (
    BfdReported,
    ChainsRead,
    ChainsWritten,
    Command,
    Configured,
    Connected,
    ConnectFailed,
    ConnectionsReviewed,
    Disconnected,
    EndpointAdded,
    EndpointRemoved,
    Event,
    FibObserved,
    FibRead,
    FibWritten,
    HostRoutesChanged,
    LinkNamesRead,
    LinkObserved,
    LinksRead,
    LinkWritten,
    MessageReceived,
    ObjectsChanged,
    OpenReceived,
    RoutesReceived,
    SetsWritten,
    Stopping,
    TimerFired,
)
from bgpmesh.paths import LEAST_STAY_S
from bgpmesh.peering import bfd
from bgpmesh.peering.connection import State
from bgpmesh.peering.message import (
    Capabilities,
    Cease,
    EndOfRib,
    GracefulRestart,
    Keepalive,
    LongLived,
    Negotiated,
    Notification,
    Open,
    RouteRefresh,
)
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.session import Dial, Hangup, Send
from bgpmesh.policy.chains import ChainKey
from bgpmesh.policy.iptables import Options
from bgpmesh.policy.objects import read
from bgpmesh.policy.protection import Surroundings
from bgpmesh.rib.export import Batch
from bgpmesh.rib.rule import Filter, PrefixRange
from bgpmesh.rib.rule import Rule as FilterRule
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.nlri import Family, Nlri, host_nlri, nlri_of, parse_nlri, prefix_text
from bgpmesh.route.path import Blackhole, HostRoute, HostRouteKind, OnLink, PeerName, Role, Target, Via
from bgpmesh.workload.endpoint import Endpoint, LinkSpec, interface_name, link_of
from bgpmesh.workload.pool import Masquerade, Pool
from tests.flat import pairs, protect

N2, N3 = PeerName("n2"), PeerName("n3")
FAR = parse_nlri("10.244.2.0/26")
OWN = parse_nlri("10.244.1.0/26")
HOP = ipaddress.IPv4Address("192.0.2.2")
LAN = HostRoute(parse_nlri("192.0.2.0/24"), 2, None, 0, HostRouteKind.CONNECTED, 2, 254)
ADOPTED: dict[Nlri, Target] = {OWN: Blackhole(), FAR: Via((HOP,))}
WEB = Endpoint(
    "web",
    "shop",
    (),
    (ipaddress.IPv4Address("10.244.9.9"),),
    interface_name("bgpm", "shop/web"),
    "/run/netns/web",
)
ROUTE = host_nlri(WEB.addresses[0])


def peer(number: int, **options: object) -> Peer:
    base = Peer(
        name=PeerName(f"n{number}"),
        address=ipaddress.IPv4Address(f"192.0.2.{number}"),
        asn=Asn(64512),
        role=Role.NON_CLIENT,
        local_address=ipaddress.IPv4Address("192.0.2.1"),
        local_asn=Asn(64512),
        router_id=RouterId(1),
        families=(Family.IPV4,),
        next_hops=((Family.IPV4, ipaddress.IPv4Address("192.0.2.1")),),
        is_passive=True,
    )
    return replace(base, **options)  # type: ignore[arg-type]  # keywords of the dataclass


def configured(*peers: Peer, **options: object) -> Configured:
    base = Configured(
        node="n1",
        asn=Asn(64512),
        router_id=RouterId(1),
        cluster_id=None,
        peers=peers or (peer(2), peer(3)),
        pod_cidrs=(ipaddress.ip_network("10.244.1.0/26"),),
        advertise=(),
        pools=(),
    )
    return replace(base, **options)  # type: ignore[arg-type]  # keywords of the dataclass


@dataclass
class World:
    """An engine with a hand on every lever; `now` starts at 100 s."""

    engine: Engine
    now: float = 100.0
    connections: int = 0
    of: dict[PeerName, int] = field(default_factory=dict)

    def boot(self, routes: Mapping[Nlri, Target]) -> list[Command]:
        """Read the kernel back, as at every start; returns what the wire is told."""
        self.engine.handle(HostRoutesChanged([LAN], ()), self.now)
        self.engine.handle(LinksRead({}), self.now)
        self.engine.handle(FibRead(dict(routes), {}), self.now)
        return self.settle()

    def settle(self) -> list[Command]:
        """Let the engine think; returns what the wire is told."""
        while self.engine.work(1000, self.now):
            pass
        commands = list(self.engine.peers.commands)
        self.engine.peers.commands.clear()
        return commands

    def at(self, seconds: float) -> list[Command]:
        """Fire the timer once at `seconds` after the start."""
        self.now = 100.0 + seconds
        self.engine.handle(TimerFired(), self.now)
        return self.settle()

    def establish(
        self,
        name: PeerName,
        restart: GracefulRestart | None,
        hold_time: int = 9,
        long_lived: LongLived | None = None,
        families: tuple[Family, ...] = (Family.IPV4,),
        *,
        route_refresh: bool = True,
    ) -> Open:
        """Bring a session up; returns the OPEN that we sent."""
        self.connections += 1
        number = self.of[name] = self.connections
        session = self.engine.peers.sessions[name]
        address = session.peer.address
        self.engine.handle(Connected(number, name, address, address, is_inbound=True), self.now)
        sent = next(c.message for c in self.settle() if isinstance(c, Send) and isinstance(c.message, Open))
        offered = Capabilities(families, route_refresh=route_refresh, graceful_restart=restart, long_lived=long_lived)
        received = Open(Asn(64512), hold_time, RouterId(number + 1), offered)
        self.engine.handle(
            OpenReceived(number, Negotiated(sent, received, hold_time, families, four_octet_asn=True)), self.now
        )
        self.engine.handle(MessageReceived(number, Keepalive()), self.now)
        self.settle()
        return sent

    def announce(self, name: PeerName, *prefixes: str) -> list[Command]:
        """Let a peer announce prefixes; returns what the wire is told."""
        attributes = PathAttributes(next_hop=HOP, local_pref=100)
        nlris = [parse_nlri(prefix) for prefix in prefixes]
        self.engine.handle(RoutesReceived(self.of[name], attributes, nlris, (), self.now), self.now)
        return self.settle()

    def end_of_rib(self, name: PeerName) -> None:
        """Let a peer say End-of-RIB."""
        self.engine.handle(MessageReceived(self.of[name], EndOfRib(Family.IPV4)), self.now)
        self.settle()

    def written(self) -> list[tuple[str, Target | None]]:
        """Write what the kernel is asked to, and return it."""
        taken = pairs(self.engine.rib.fib.take(1000, self.now))
        self.engine.handle(FibWritten([nlri for nlri, _ in taken], {}), self.now)
        self.settle()
        return sorted((prefix_text(nlri), target) for nlri, target in taken)

    def links(self) -> list[tuple[str, LinkSpec | None]]:
        """Return what links are asked for."""
        return sorted(pairs(self.engine.local.links.take(9, self.now)), key=lambda pair: pair[1] is not None)

    def told_of(self, name: str) -> list[Mapping[str, object]]:
        """Return the keys of every note of that name."""
        return [note.keys for note in self.engine.notes if note.name == name]

    def told(self, name: PeerName) -> list[str]:
        """Return what a peer is told now: prefixes announced, `-` before those withdrawn, EoR."""
        said = []
        for item in self.engine.rib.take(name, 1000):
            if isinstance(item, Batch):
                said += [("" if item.attributes else "-") + prefix_text(nlri) for nlri in item.nlris]
            else:
                said.append("EoR")
        return said


KEPT = GracefulRestart(120, families=((Family.IPV4, True),))


def restarted(*peers: Peer, listed: tuple[PeerName, ...] = (N2,)) -> World:
    world = World(Engine(configured(*peers), listed, lambda: 0.5))
    world.boot(ADOPTED)
    return world


def test_a_first_boot_waits_for_nothing() -> None:
    """With nothing listed and nothing in the kernel the node is in sync at once, and neither R nor F is set."""
    world = World(Engine(configured(), None, lambda: 0.5))
    world.boot({})
    assert world.engine.peers.is_in_sync
    restart = world.establish(N2, KEPT).capabilities.graceful_restart
    assert restart == GracefulRestart(
        120, is_restarting=False, families=((Family.IPV4, False),), survives_notification=True
    )
    assert world.told(N2) == ["10.244.1.0/26", "EoR"]


def test_a_restart_calls_the_listed_peer_at_once_although_it_is_the_passive_side() -> None:
    """Who is on the list is called; who is not waits for the call of the other side."""
    world = World(Engine(configured(), (N2,), lambda: 0.5))
    assert world.boot(ADOPTED) == [Dial(N2)]


def test_a_restart_touches_no_route_until_the_listed_peer_has_said_all() -> None:
    """Adopted routes are neither replaced nor deleted, and End-of-RIB waits, until the peer's End-of-RIB."""
    world = restarted()
    restart = world.establish(N2, KEPT).capabilities.graceful_restart
    assert restart == GracefulRestart(
        120, is_restarting=True, families=((Family.IPV4, True),), survives_notification=True
    )
    assert world.told(N2) == ["10.244.1.0/26"]
    world.announce(N2, "10.244.2.0/26")
    assert world.written() == []
    assert not world.engine.peers.is_in_sync
    world.end_of_rib(N2)
    assert world.engine.peers.is_in_sync
    assert world.written() == []
    assert world.told(N2) == ["EoR"]


def test_what_nobody_announces_any_more_is_swept_once_in_sync() -> None:
    """An adopted route that no peer announces goes when the node is in sync, not before."""
    world = restarted()
    world.establish(N2, KEPT)
    assert world.written() == []
    world.end_of_rib(N2)
    assert world.written() == [("10.244.2.0/26", None)]


def test_a_peer_that_refuses_our_calls_is_given_up_after_three_seconds() -> None:
    """A dead neighbour holds nobody up longer than 3 s."""
    world = restarted()
    world.engine.handle(ConnectFailed(N2, "refused"), world.now)
    world.at(2.9)
    assert not world.engine.peers.is_in_sync
    world.at(3.0)
    assert world.engine.peers.is_in_sync


def test_a_peer_without_graceful_restart_owes_a_second_of_silence() -> None:
    """Without capability 64 a second without an UPDATE stands for End-of-RIB."""
    world = restarted()
    world.establish(N2, None)
    world.at(0.8)
    world.announce(N2, "10.244.2.0/26")
    world.at(1.7)
    assert not world.engine.peers.is_in_sync
    world.at(1.8)
    assert world.engine.peers.is_in_sync


def test_a_quiet_second_is_not_judged_before_what_came_was_looked_at() -> None:
    """While input of the peer waits it is not silent."""
    world = restarted()
    world.establish(N2, None)
    world.now += 1.5
    world.engine.handle(TimerFired({world.of[N2]}), world.now)
    assert not world.engine.peers.is_in_sync
    world.engine.handle(TimerFired({world.of[N2] + 1}), world.now)
    assert world.engine.peers.is_in_sync


def test_two_nodes_that_restart_together_do_not_wait_for_each_other() -> None:
    """For a peer whose OPEN has the R bit three seconds of silence stand for its End-of-RIB."""
    world = restarted()
    world.establish(N2, replace(KEPT, is_restarting=True))
    world.at(2.9)
    assert not world.engine.peers.is_in_sync
    world.at(3.0)
    assert world.engine.peers.is_in_sync


def test_a_peer_that_does_it_wrong_in_every_update_is_told_of_once() -> None:
    """Each malformed UPDATE counts, and is told of where the reason is another than the last one of the session."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    for _ in range(2):
        world.establish(N2, None)
        for problem in ("flags", "flags", "length", "length"):
            event = RoutesReceived(world.of[N2], None, (), [FAR], world.now, treated_as_withdraw=1, problem=problem)
            world.engine.handle(event, world.now)
        world.engine.handle(Disconnected(world.of[N2], "closed by peer"), world.now)
    told = [note.keys["reason"] for note in world.engine.notes if note.name == "update.malformed"]
    assert told == ["flags", "length"] * 2
    assert world.engine.peers.faults[N2].treated_as_withdraw == 8


def test_an_end_of_rib_that_is_not_owed_ends_no_waiting() -> None:
    """Without capability 64 the second counts, also where the peer says End-of-RIB of one family already."""
    own = ((Family.IPV4, HOP), (Family.IPV6, ipaddress.IPv6Address("2001:db8::1")))
    world = restarted(peer(2, families=tuple(Family), next_hops=own))
    world.establish(N2, None)
    world.at(0.8)
    world.end_of_rib(N2)
    world.at(1.7)
    assert not world.engine.peers.is_in_sync
    world.at(1.8)
    assert world.engine.peers.is_in_sync


def test_where_we_do_not_offer_graceful_restart_no_end_of_rib_is_owed() -> None:
    """A speaker need not send End-of-RIB to one without the capability, so a second of silence stands for it."""
    world = restarted(peer(2, graceful_restart=0))
    world.establish(N2, KEPT)
    world.at(0.9)
    assert not world.engine.peers.is_in_sync
    world.at(1.0)
    assert world.engine.peers.is_in_sync


def test_a_listed_peer_that_a_reload_changes_is_still_waited_for() -> None:
    """Its session begins anew, and what the kernel has of it stays until it has said all."""
    world = restarted()
    world.establish(N2, KEPT)
    world.engine.handle(configured(peer(2, hold_time=30), peer(3)), world.now)
    assert Dial(N2) in world.settle()
    assert not world.engine.peers.is_in_sync
    assert world.written() == []
    world.establish(N2, KEPT)
    world.announce(N2, "10.244.2.0/26")
    world.end_of_rib(N2)
    assert world.engine.peers.is_in_sync
    assert world.written() == []


def test_a_listed_peer_that_a_reload_removes_is_not_waited_for() -> None:
    """Nothing more will come of it."""
    world = restarted()
    world.engine.handle(configured(peer(3)), world.now)
    assert world.engine.peers.is_in_sync


def test_a_listed_peer_over_its_limit_is_not_waited_for() -> None:
    """We closed that session ourselves, and nothing of it is to be used."""
    world = restarted(peer(2, max_prefixes=1))
    world.establish(N2, KEPT)
    world.announce(N2, "10.244.2.0/26", "10.244.3.0/26")
    assert world.engine.peers.is_in_sync


def test_a_peer_that_restarts_too_and_says_end_of_rib_is_done() -> None:
    """With the R bit End-of-RIB counts as ever."""
    world = restarted()
    world.establish(N2, replace(KEPT, is_restarting=True))
    world.end_of_rib(N2)
    assert world.engine.peers.is_in_sync


def test_a_client_waits_for_its_reflector_that_restarts_too() -> None:
    """A reflector whose OPEN has the R bit owes its client End-of-RIB: others' routes come only when it is in sync."""
    world = restarted(peer(2, reflects_to_us=True))
    world.establish(N2, replace(KEPT, is_restarting=True))
    world.at(2.0)
    assert not world.engine.peers.is_in_sync
    world.end_of_rib(N2)
    assert world.engine.peers.is_in_sync


def test_a_listed_peer_that_goes_away_again_is_called_for_three_seconds() -> None:
    """The three seconds of a peer that does not answer begin with the call, not with our start."""
    world = restarted(peer(2), peer(3), listed=(N2, N3))
    world.engine.handle(ConnectFailed(N2, "refused"), world.now)
    world.establish(N2, KEPT)
    world.establish(N3, KEPT)
    world.at(4.0)
    world.engine.handle(Disconnected(world.of[N2], "closed by peer"), world.now)
    world.end_of_rib(N3)
    called_at = next(second for second in range(4, 9) if Dial(N2) in world.at(second))
    world.at(called_at + 2.9)
    assert not world.engine.peers.is_in_sync
    world.at(called_at + 3.0)
    assert world.engine.peers.is_in_sync


def test_a_peer_that_has_answered_is_not_given_up_before_we_have_looked() -> None:
    """We did not run for a while, or so many answer that there was no time: its connection, then its OPEN, waits."""
    world = restarted()
    world.now += 5.0
    world.engine.handle(TimerFired({7}), world.now)  # somebody's is unread: how our call went may be so too
    assert not world.engine.peers.is_in_sync
    address = ipaddress.IPv4Address("192.0.2.1")
    world.engine.handle(Connected(1, N2, address, HOP, is_inbound=False), world.now)
    world.at(5.9)
    assert not world.engine.peers.is_in_sync
    world.now += 1.0
    world.engine.handle(TimerFired({1}), world.now)  # it has sent something
    assert not world.engine.peers.is_in_sync
    world.engine.handle(TimerFired(()), world.now)  # it has not
    assert world.engine.peers.is_in_sync


def test_seconds_in_which_we_did_not_run_are_nobodys_silence() -> None:
    """A frozen daemon looks again before it gives anybody up, and also where the limit is over meanwhile."""
    world = restarted()
    assert world.engine.next_wakeup() <= world.now + 3.0
    world.at(60.0)
    assert not world.engine.peers.is_in_sync
    assert world.engine.next_wakeup() <= world.now + 1.0
    world.at(61.0)
    assert world.engine.peers.is_in_sync

    world = restarted(peer(2, hold_time=0))
    world.establish(N2, KEPT)
    assert world.engine.next_wakeup() <= world.now + 10.0
    world.at(30.0)
    assert not world.engine.peers.is_in_sync
    assert world.engine.next_wakeup() <= world.now + 1.0
    world.at(31.0)
    assert world.engine.peers.is_in_sync


def test_the_deferral_limit_ends_the_waiting() -> None:
    """A listed peer that is up and never says End-of-RIB is waited for `restart_deferral` seconds."""
    world = restarted(peer(2, hold_time=0))
    world.establish(N2, KEPT, hold_time=0)
    world.at(9.9)
    assert not world.engine.peers.is_in_sync
    assert world.engine.peers.restart.reasons() == {N2: "no End-of-RIB yet for ipv4"}
    world.at(10.0)
    assert world.engine.peers.is_in_sync


def test_without_a_readable_list_every_peer_counts() -> None:
    """Routes of ours without a list: all configured peers are called and waited for."""
    world = World(Engine(configured(), None, lambda: 0.5))
    assert sorted(map(repr, world.boot(ADOPTED))) == [repr(Dial(N2)), repr(Dial(N3))]
    assert not world.engine.peers.is_in_sync


def test_a_list_without_routes_is_a_reboot_and_no_restart() -> None:
    """After a reboot the list is there and the kernel is empty: nothing was preserved, so F is not claimed."""
    world = World(Engine(configured(), (N2,), lambda: 0.5))
    world.boot({})
    assert world.engine.peers.is_in_sync
    restart = world.establish(N2, KEPT).capabilities.graceful_restart
    assert restart == GracefulRestart(
        120, is_restarting=False, families=((Family.IPV4, False),), survives_notification=True
    )


def test_without_a_kernel_the_list_alone_decides_and_f_is_set() -> None:
    """A reflector off the path restarts by its list, and claims F: nothing forwards through it."""
    world = World(Engine(configured(kernel_enabled=False, pod_cidrs=()), (N2,), lambda: 0.5))
    world.boot({})
    assert not world.engine.peers.is_in_sync
    restart = world.establish(N2, KEPT).capabilities.graceful_restart
    assert restart == GracefulRestart(
        120, is_restarting=True, families=((Family.IPV4, True),), survives_notification=True
    )


def test_a_peer_is_on_the_list_until_its_paths_are_gone_from_the_kernel() -> None:
    """The name is there when the session is up, while stale paths stay, and until the kernel has let them go."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.written()
    held = [world.engine.peers.held]
    world.establish(N2, replace(KEPT, restart_time=5))
    held.append(world.engine.peers.held)
    world.announce(N2, "10.244.2.0/26")
    world.written()
    world.engine.handle(MessageReceived(world.of[N2], Notification(6, 2)), world.now)
    world.settle()
    held.append(world.engine.peers.held)
    assert world.written() == [("10.244.2.0/26", None)]
    held.append(world.engine.peers.held)
    assert held == [frozenset(), {N2}, {N2}, frozenset()]


def test_a_second_kill_before_being_in_sync_finds_the_list_whole() -> None:
    """The list does not shrink while a restart still waits."""
    world = restarted(listed=(N2, N3))
    world.establish(N2, KEPT)
    world.written()
    assert world.engine.peers.held == {N2, N3}


@pytest.mark.parametrize("is_covered", [False, True])
def test_a_workload_has_its_link_then_its_route_then_its_announcement(is_covered: bool) -> None:
    """Nothing is written before the link stands, nothing announced before the route is in the kernel."""
    address = ipaddress.IPv4Address("10.244.1.9" if is_covered else "10.244.9.9")
    endpoint = replace(WEB, addresses=(address,))
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.written()
    world.establish(N2, KEPT)
    world.told(N2)
    world.engine.handle(EndpointAdded(endpoint), world.now)
    protect(world.engine, world.now)
    world.settle()
    assert world.written() == []
    assert world.engine.endpoint_problem(endpoint.key) == ""
    assert pairs(world.engine.local.links.take(9, world.now)) == [(endpoint.interface, link_of(endpoint))]
    world.engine.handle(LinkWritten(endpoint.interface), world.now)
    world.settle()
    assert world.told(N2) == []
    assert world.written() == [(f"{address}/32", OnLink(endpoint.interface))]
    assert world.engine.endpoint_problem(endpoint.key) is None
    assert world.told(N2) == ([] if is_covered else [f"{address}/32"])
    world.engine.handle(EndpointRemoved(endpoint.key), world.now)
    world.settle()
    assert world.told(N2) == ([] if is_covered else [f"-{address}/32"])
    assert world.written() == [(f"{address}/32", None)]


def test_a_workload_that_is_found_at_start_as_it_should_be_is_announced() -> None:
    """Nothing is written then, so nothing is acknowledged: what was read is as good."""
    world = World(Engine(configured(), (N2,), lambda: 0.5))
    world.engine.handle(EndpointAdded(WEB), world.now)
    world.engine.handle(HostRoutesChanged([LAN], ()), world.now)
    world.engine.handle(LinksRead({WEB.interface: link_of(WEB)}), world.now)
    world.engine.handle(FibRead({OWN: Blackhole(), ROUTE: OnLink(WEB.interface)}, {}), world.now)
    world.settle()
    assert world.written() == []
    world.establish(N2, KEPT)
    assert world.told(N2) == ["10.244.1.0/26", "10.244.9.9/32"]


def test_a_link_that_cannot_be_made_says_why() -> None:
    """The reason of the kernel edge is the workload's, and no route is wanted."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.written()
    world.engine.handle(EndpointAdded(WEB), world.now)
    protect(world.engine, world.now)
    world.engine.local.links.take(9, world.now)
    world.engine.handle(LinkWritten(WEB.interface, "no such namespace"), world.now)
    world.settle()
    assert world.engine.endpoint_problem(WEB.key) == "no such namespace"
    assert world.written() == []


def test_links_of_ours_tell_the_workloads_of_a_daemon_that_lost_its_state() -> None:
    """Without remembered workloads an alias on the host is enough to know one again."""
    world = World(Engine(configured(), (), lambda: 0.5, adopt_endpoints=True))
    links: dict[str, LinkSpec] = {WEB.interface: link_of(WEB)}
    world.engine.handle(LinksRead(links), world.now)
    assert world.engine.local.endpoints == {WEB.key: WEB}
    protect(world.engine, world.now)
    assert pairs(world.engine.local.links.take(9, world.now)) == []


def attached(world: World, endpoint: Endpoint = WEB) -> World:
    """Bring a workload up, and forget what was told."""
    world.engine.handle(EndpointAdded(endpoint), world.now)
    protect(world.engine, world.now)
    world.engine.local.links.take(9, world.now)
    world.engine.handle(LinkWritten(endpoint.interface), world.now)
    world.settle()
    assert (f"{endpoint.addresses[0]}/32", OnLink(endpoint.interface)) in world.written()
    assert world.engine.endpoint_problem(endpoint.key) is None
    world.engine.notes.clear()
    return world


def leaving() -> World:
    """Return a world whose workload was just removed; its route is in flight to be deleted."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    attached(world).engine.handle(EndpointRemoved(WEB.key), world.now)
    world.settle()
    assert pairs(world.engine.rib.fib.take(9, world.now)) == [(ROUTE, None)]
    assert world.links() == []
    return world


def test_a_link_goes_once_the_route_on_it_is_gone() -> None:
    """The kernel would drop the route with the link, and a read-back would take that for drift."""
    world = leaving()
    world.engine.handle(FibWritten([ROUTE], {}), world.now)
    assert world.links() == [(WEB.interface, None)]


def test_a_link_goes_although_its_route_cannot_be_deleted() -> None:
    """The kernel drops the route with it."""
    world = leaving()
    world.engine.handle(FibWritten([], {ROUTE: "no memory"}), world.now)
    assert world.links() == [(WEB.interface, None)]


@pytest.mark.parametrize("how", ["written", "observed", "read-back"])
def test_a_link_goes_when_its_address_has_another_way(how: str) -> None:
    """The workload may have moved to another node, whose route takes the place of ours."""
    world = leaving()
    via: dict[Nlri, Target] = {ROUTE: Via((HOP,))}
    if how == "written":
        world.establish(N2, None)
        world.announce(N2, prefix_text(ROUTE))
        world.engine.handle(FibWritten([ROUTE], {}), world.now)  # the deletion, still
    else:
        world.engine.handle(FibObserved(via) if how == "observed" else FibRead(via, {}), world.now)
    assert world.links() == [(WEB.interface, None)]


@pytest.mark.parametrize("how", ["observed", "read-back"])
@pytest.mark.parametrize("left", [None, replace(link_of(WEB), alias="")])
def test_a_link_that_goes_or_breaks_by_itself_while_it_is_leaving_is_not_made_again(
    how: str, left: LinkSpec | None
) -> None:
    """As when the namespace of the workload dies in the moment of its removal: nobody's hand, so no drift."""
    world = leaving()
    links = {} if left is None else {WEB.interface: left}
    world.engine.handle(LinkObserved(WEB.interface, left) if how == "observed" else LinksRead(links), world.now)
    assert world.links() == ([] if left is None else [(WEB.interface, None)])
    assert world.engine.notes.drift_repaired == 0
    assert world.told_of("drift.found") == []


def test_a_workload_that_comes_back_while_its_link_is_leaving_keeps_it() -> None:
    """The link is as wanted, and its route is written again."""
    world = leaving()
    world.engine.handle(EndpointAdded(WEB), world.now)
    protect(world.engine, world.now)
    world.engine.handle(FibWritten([ROUTE], {}), world.now)
    world.settle()
    assert world.links() == []
    assert world.written() == [(prefix_text(ROUTE), OnLink(WEB.interface))]
    assert world.engine.endpoint_problem(WEB.key) is None


def test_a_workload_removed_before_its_link_stands_leaves_nothing() -> None:
    """There is no route to wait for, and no link to be made only to be removed."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.engine.handle(EndpointAdded(WEB), world.now)
    protect(world.engine, world.now)
    world.engine.handle(EndpointRemoved(WEB.key), world.now)
    assert world.links() == []


def test_a_workload_removed_before_this_node_is_in_sync_does_not_wait_for_it() -> None:
    """No route is deleted until then, and the namespace may be wanted for something else."""
    world = World(Engine(configured(), (N2,), lambda: 0.5))
    world.engine.handle(EndpointAdded(WEB), world.now)
    protect(world.engine, world.now)
    world.engine.handle(LinksRead({WEB.interface: link_of(WEB)}), world.now)
    world.engine.handle(FibRead({**ADOPTED, ROUTE: OnLink(WEB.interface)}, {}), world.now)
    world.settle()
    assert world.engine.endpoint_problem(WEB.key) is None
    world.engine.handle(EndpointRemoved(WEB.key), world.now)
    assert world.links() == [(WEB.interface, None)]


def test_a_link_that_was_leaving_when_the_daemon_ended_goes_at_the_next_start() -> None:
    """The workload is remembered no more, so nobody wants it."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.engine.handle(LinksRead({WEB.interface: link_of(WEB)}), world.now)
    assert world.links() == [(WEB.interface, None)]


def test_of_two_links_with_one_address_the_second_is_left_alone() -> None:
    """Aliases that contradict each other end no daemon, and nothing is deleted that may be in use."""
    key = "shop/db"
    second = replace(WEB, name="db", interface=interface_name("bgpm", key))
    renamed = replace(WEB, interface="bgpmaaaaaaaaaaa")
    links = {endpoint.interface: link_of(endpoint) for endpoint in (WEB, second, renamed)}
    world = World(Engine(configured(), (), lambda: 0.5, adopt_endpoints=True))
    world.engine.handle(LinksRead(links), world.now)
    assert world.engine.local.endpoints == {WEB.key: WEB}
    assert [note["reason"] for note in world.told_of("endpoint.not-adopted")] == [
        "ip = 10.244.9.9: already in use by shop/web; the link is left as it is until the next start",
        f"name = shop/web: its link is {WEB.interface}; the link is left as it is until the next start",
    ]
    protect(world.engine, world.now)
    assert world.links() == []
    world.engine.handle(LinkObserved(second.interface, replace(link_of(second), alias="")), world.now)
    world.engine.handle(LinksRead(links), world.now)
    assert world.links() == []
    world.engine.handle(EndpointRemoved(WEB.key), world.now)
    world.engine.handle(EndpointAdded(second), world.now)
    protect(world.engine, world.now)
    assert world.links() == [(WEB.interface, None), (second.interface, link_of(second))]


def test_a_workload_cannot_have_the_address_of_somebody_else() -> None:
    """Of a node, say; where a reload makes it so the log tells."""
    world = attached(World(Engine(configured(), (), lambda: 0.5)))
    world.engine.handle(configured(taken={HOP: "node n2", WEB.addresses[0]: "node n9"}), world.now)
    assert world.told_of("endpoint.address-taken") == [
        {"endpoint": "shop/web", "address": WEB.addresses[0], "reason": "also node n9"}
    ]
    with pytest.raises(ConfigError, match=r"^ip = 192\.0\.2\.2: already in use by node n2$"):
        world.engine.local.addresses.request("shop/db", (HOP,))


def test_an_address_of_this_host_is_refused_as_soon_as_the_link_stands() -> None:
    """There will be no route to it, so nobody waits for one."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    own = HostRoute(ROUTE, 2, None, 0, HostRouteKind.LOCAL, 2, 255)
    world.engine.handle(HostRoutesChanged([own], ()), world.now)
    world.engine.handle(EndpointAdded(WEB), world.now)
    protect(world.engine, world.now)
    world.engine.local.links.take(9, world.now)
    world.engine.handle(LinkWritten(WEB.interface), world.now)
    world.settle()
    assert world.engine.endpoint_problem(WEB.key) == "no route to 10.244.9.9/32: connected on this host"


def test_a_link_that_is_refused_is_told_of_by_its_name_and_again_once_it_stands() -> None:
    """Once for a row of failures."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.engine.handle(EndpointAdded(WEB), world.now)
    protect(world.engine, world.now)
    for failure in ("no such namespace", "no such namespace", None):
        world.now += 10.0
        assert world.links() == [(WEB.interface, link_of(WEB))]
        world.engine.handle(LinkWritten(WEB.interface, failure), world.now)
    refused = {"interface": WEB.interface, "reason": "no such namespace", "others_count": None}
    assert world.told_of("link.refused") == [refused]
    assert world.told_of("link.recovered") == [{"interface": WEB.interface}]


def test_drift_is_told_of_by_what_it_is() -> None:
    """The first prefix and how many others, an interface, or a number of next hops; each is counted."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.engine.handle(EndpointAdded(WEB), world.now)
    protect(world.engine, world.now)
    world.engine.handle(FibObserved({OWN: None, FAR: Via((HOP,))}), world.now)
    world.engine.handle(LinkObserved(WEB.interface, None), world.now)
    world.engine.handle(FibRead({}, {}, lost=[OWN], moved=2), world.now)
    assert [{k: v for k, v in keys.items() if k != "reason"} for keys in world.told_of("drift.found")] == [
        {"prefix": "10.244.1.0/26", "others_count": 1},
        {"interface": WEB.interface},
        {"prefix": "10.244.1.0/26", "others_count": None, "next_hops_count": 2},
    ]
    assert world.engine.notes.drift_repaired == 6


def test_too_many_prefixes_close_the_session_for_a_while() -> None:
    """Over `max_prefixes`: Cease, maximum number of prefixes, and another try `max_prefixes_restart` later."""
    world = World(Engine(configured(peer(2, max_prefixes=2, is_passive=False)), (), lambda: 0.5))
    assert world.boot({}) == [Dial(N2)]
    world.engine.handle(ConnectFailed(N2, "refused"), world.now)
    world.establish(N2, KEPT)
    commands = world.announce(N2, "10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24")
    cease = Notification(6, Cease.MAX_PREFIXES, bytes((0, 1, 1, 0, 0, 0, 2)))
    assert commands == [Send(world.of[N2], cease), Hangup(world.of[N2])]
    why = "sent more than max_prefixes = 2 ipv4 prefixes: closed for 60 s"
    assert world.engine.peers.sessions[N2].last_error == why
    assert world.told_of("peer.down") == [{"peer": "n2", "reason": why, "kept": None}]
    assert world.at(59) == []
    assert world.at(60) == [Dial(N2)]


@pytest.mark.parametrize("is_passive", [False, True])
def test_who_sends_too_much_at_once_again_waits_longer_each_time(is_passive: bool) -> None:
    """With `restart` 0 the wait is the one between calls, whoever calls: 1 s, twice that, and 6.4 s at the most."""
    world = World(
        Engine(configured(peer(2, max_prefixes=1, max_prefixes_restart=0, is_passive=is_passive)), (), lambda: 0.0)
    )
    world.boot({})
    if not is_passive:
        world.engine.handle(ConnectFailed(N2, "refused"), world.now)
        world.at(1)
    waits = []
    for _ in range(5):
        world.establish(N2, KEPT)
        world.announce(N2, "10.1.0.0/24", "10.2.0.0/24")
        waits.append(world.engine.next_wakeup() - world.now)
        world.engine.handle(Connected(99, N2, HOP, HOP, is_inbound=True), world.now)
        assert [Hangup(99)] == world.settle()
        world.at(world.engine.next_wakeup() - 100.0)
    expected = [1.0, 2.0, 4.0, 6.4, 6.4] if is_passive else [2.0, 4.0, 6.4, 6.4, 6.4]
    assert waits == pytest.approx(expected)
    assert world.engine.peers.sessions[N2].last_error.endswith("closed for 6 s")
    world.establish(N2, KEPT)
    world.at(world.now - 100.0 + 7)
    world.announce(N2, "10.1.0.0/24", "10.2.0.0/24")
    assert world.engine.peers.sessions[N2].last_error.endswith("closed for 1 s"), "it was up for a while"


def test_a_limit_that_is_near_is_told_of_once_in_a_session() -> None:
    """From `warn` on, of each family; whoever looks sees it as long as it is so."""
    limits = {"max_prefixes": 4, "max_prefixes_warn": 3}
    world = World(Engine(configured(peer(2, **limits)), (), lambda: 0.5))
    world.boot({})
    for _ in range(2):
        world.establish(N2, None)
        world.announce(N2, "10.1.0.0/24", "10.2.0.0/24")
        assert world.engine.rib.near_limits(N2) == {}
        world.announce(N2, "10.3.0.0/24")
        world.announce(N2, "10.4.0.0/24")
        assert world.engine.rib.near_limits(N2) == {(Family.IPV4, "max_prefixes"): (4, 4)}
        world.engine.handle(Disconnected(world.of[N2], "closed by peer"), world.now)
    told = {"peer": "n2", "family": "ipv4", "reason": "3 of 4 (max_prefixes)"}
    assert world.told_of("peer.limit-near") == [told, told]
    world.engine.handle(configured(peer(2, max_prefixes=9, max_prefixes_warn=9)), world.now)
    world.establish(N2, None)
    world.announce(N2, "10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24")
    world.engine.handle(configured(peer(2, **limits)), world.now)
    assert len(world.told_of("peer.limit-near")) == 3, "a limit that is lower now"


def test_limits_are_changed_under_a_session() -> None:
    """A lower one counts at once, and with a higher one a peer that was closed for it need not wait."""
    world = World(Engine(configured(peer(2, is_passive=False)), (), lambda: 0.5))
    world.boot({})
    world.engine.handle(ConnectFailed(N2, "refused"), world.now)
    world.establish(N2, KEPT)
    world.announce(N2, "10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24")
    world.engine.handle(configured(peer(2, is_passive=False, max_prefixes=3)), world.now)
    assert world.settle() == []
    world.engine.handle(configured(peer(2, is_passive=False, max_prefixes=2)), world.now)
    cease = Notification(6, Cease.MAX_PREFIXES, bytes((0, 1, 1, 0, 0, 0, 2)))
    assert world.settle() == [Send(world.of[N2], cease), Hangup(world.of[N2])]
    world.engine.handle(configured(peer(2, is_passive=False, max_prefixes=9)), world.now)
    assert world.settle() == [Dial(N2)]


def test_what_is_changed_under_a_session_is_acted_upon() -> None:
    """Paths are asked for again to be judged by their first AS, an own next hop is told anew, who calls may change."""
    world = World(Engine(configured(peer(2), peer(3)), (), lambda: 0.5))
    world.boot({})
    world.written()
    world.establish(N2, KEPT)
    world.engine.take(N2, 100)
    hop = ipaddress.IPv4Address("192.0.2.11")
    changed = peer(2, enforce_first_as=True, next_hops=((Family.IPV4, hop),))
    world.engine.handle(configured(changed, peer(3, is_passive=False)), world.now)
    assert world.settle() == [Send(world.of[N2], RouteRefresh(Family.IPV4))]
    (batch,) = [each for each in world.engine.take(N2, 100) if isinstance(each, Batch)]
    assert (batch.nlris, batch.attributes and batch.attributes.next_hop) == ([OWN], hop)
    assert world.at(1) == [Dial(N3)]


def test_a_peer_that_cannot_be_asked_again_is_judged_anew_in_another_session() -> None:
    """It knows no ROUTE-REFRESH: what it said would stand, or be missing, by the first AS that counted before."""
    world = World(Engine(configured(peer(2)), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, None, route_refresh=False)
    world.announce(N2, "10.1.0.0/24")
    world.engine.handle(configured(peer(2, enforce_first_as=True)), world.now)
    cease = Notification.cease(Cease.OTHER_CONFIGURATION_CHANGE)
    assert world.settle() == [Send(world.of[N2], cease), Hangup(world.of[N2])]
    assert world.engine.rib.prefixes() == [OWN]
    world.establish(N2, None, route_refresh=False)
    assert world.engine.peers.sessions[N2].state is State.ESTABLISHED


def test_a_peer_that_calls_while_it_is_closed_for_too_many_prefixes_does_not_stay_out() -> None:
    """Its call is hung up on, and after `max_prefixes_restart` it is answered."""
    world = World(Engine(configured(peer(2, max_prefixes=1)), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, KEPT)
    world.announce(N2, "10.1.0.0/24", "10.2.0.0/24")
    for seconds in (1, 59):
        world.at(seconds)
        world.engine.handle(Connected(90 + seconds, N2, HOP, HOP, is_inbound=True), world.now)
        assert [Hangup(90 + seconds)] == world.settle()
    assert world.engine.next_wakeup() == 160.0
    world.at(60)
    world.establish(N2, KEPT)
    assert world.engine.peers.sessions[N2].state is State.ESTABLISHED


def test_a_route_refresh_before_the_session_is_up_is_named_in_the_notification() -> None:
    """What came unexpectedly is said by its own type, not as an UPDATE (RFC 6608 §3)."""
    world = World(Engine(configured(peer(2)), (), lambda: 0.5))
    world.boot({})
    world.engine.handle(Connected(1, N2, HOP, HOP, is_inbound=True), world.now)
    (sent,) = (c.message for c in world.settle() if isinstance(c, Send) and isinstance(c.message, Open))
    world.engine.handle(OpenReceived(1, Negotiated(sent, sent, 9, (Family.IPV4,), four_octet_asn=True)), world.now)
    world.settle()
    world.engine.handle(MessageReceived(1, RouteRefresh(Family.IPV4)), world.now)
    assert [Send(1, Notification(5, 2, b"\5")), Hangup(1)] == world.settle()


def test_a_stop_says_nothing_where_graceful_restart_was_agreed() -> None:
    """SIGTERM looks like a crash to peers that keep our paths; the others get a Cease."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, KEPT)
    world.establish(N3, None)
    world.engine.handle(Stopping(), world.now)
    cease = Notification.cease(Cease.ADMIN_SHUTDOWN, "bgpmesh stops")
    hangups = [Hangup(world.of[N2]), Send(world.of[N3], cease), Hangup(world.of[N3])]
    assert world.settle() == hangups
    assert world.engine.peers.held == {N2, N3}


WATCHED = (
    bfd.Watched("n2", "192.0.2.1", "192.0.2.2", 0, 300, 3),
    bfd.Watched("n3", "192.0.2.1", "192.0.2.3", 0, 300, 3),
)


def watching(*, is_restarted: bool = False) -> World:
    """Return a node that has begun, with BFD to both of its peers."""
    world = World(Engine(configured(watched=WATCHED), (N2,) if is_restarted else (), lambda: 0.5))
    world.boot(ADOPTED if is_restarted else {})
    return world


def report(
    world: World,
    name: PeerName,
    state: bfd.State,
    *,
    is_failure: bool = False,
    is_independent: bool = True,
    at: float | None = None,
) -> list[Command]:
    """Have BFD report the path to a peer; returns what the wire is told."""
    diag = bfd.Diag.EXPIRED if is_failure else bfd.Diag.NONE
    said = bfd.Report(name, state, diag, state, 0, is_independent, is_failure, world.now if at is None else at)
    world.engine.handle(BfdReported(said), world.now)
    return world.settle()


def with_routes(world: World, *names: PeerName, restart: GracefulRestart | None = KEPT) -> None:
    """Have sessions with these, over paths that are up, and a route of each in the kernel."""
    for name in names:
        report(world, name, bfd.State.UP)
        world.establish(name, restart)
        world.announce(name, f"10.244.{name[1]}.0/26")
        world.end_of_rib(name)
    world.written()
    world.engine.notes.clear()


BFD_DOWN = Notification(6, 10)  # RFC 9384


def test_a_broken_path_ends_the_session_and_keeps_nothing() -> None:
    """Although graceful restart was agreed, whoever's BFD outlives what; the other session notices nothing."""
    for is_independent in (True, False):
        world = watching()
        with_routes(world, N2, N3)
        said = report(world, N2, bfd.State.DOWN, is_failure=True, is_independent=is_independent)
        assert said == [Send(world.of[N2], BFD_DOWN), Hangup(world.of[N2])]
        assert world.written() == [("10.244.2.0/26", None)]
        assert world.told_of("bfd.down") == [{"peer": "n2", "reason": "control detection time expired"}]
        (down,) = world.told_of("peer.down")
        assert (down["reason"], down["kept"]) == ("BFD: control detection time expired", None)
        assert world.engine.peers.sessions[N3].state is State.ESTABLISHED


def test_a_path_that_nobody_wants_watched_any_more_is_no_failure() -> None:
    """AdminDown of either side, and an agent that is gone, take no session down; they are told of."""
    world = watching()
    with_routes(world, N2)
    assert report(world, N2, bfd.State.DOWN) == []
    assert world.written() == []
    assert [note.level.value for note in world.engine.notes] == ["info"]
    assert report(world, N2, bfd.State.INIT) == []
    assert len(world.told_of("bfd.down")) == 1


def test_a_session_comes_up_without_bfd() -> None:
    """Never up, down, or coming up: what was never up cannot fail."""
    world = watching()
    for state in (bfd.State.DOWN, bfd.State.INIT, bfd.State.DOWN):
        report(world, N2, state)
    world.establish(N2, KEPT)
    report(world, N2, bfd.State.DOWN)
    assert world.engine.peers.sessions[N2].state is State.ESTABLISHED
    assert world.told_of("bfd.down") == []


@pytest.mark.parametrize("is_independent", [True, False])
def test_stale_paths_end_by_bfd_that_outlives_both_daemons(is_independent: bool) -> None:
    """Of a peer that restarts they are kept where its BFD may have gone down with it (RFC 5882 section 4.3.2)."""
    world = watching()
    with_routes(world, N2)
    world.engine.handle(Disconnected(world.of[N2], "connection reset by peer"), world.now)
    world.settle()
    assert world.written() == []
    report(world, N2, bfd.State.DOWN, is_failure=True, is_independent=is_independent)
    assert world.written() == ([("10.244.2.0/26", None)] if is_independent else [])
    assert world.engine.peers.sessions[N2].last_error == "connection reset by peer"


@pytest.mark.parametrize("is_independent", [True, False])
def test_a_restart_waits_for_nobody_whose_path_is_broken(is_independent: bool) -> None:
    """What was adopted of it goes at once, not after the calls that it ignores; but for a peer that may restart too."""
    world = watching(is_restarted=True)
    report(world, N2, bfd.State.DOWN, is_failure=True, is_independent=is_independent)
    assert world.engine.peers.is_in_sync is is_independent
    assert world.written() == ([("10.244.2.0/26", None)] if is_independent else [])


def test_a_failure_from_before_a_session_is_not_one_of_it() -> None:
    """A daemon that comes back hears of it late, and may have a new session over the mended path by then."""
    world = watching()
    with_routes(world, N2)
    assert report(world, N2, bfd.State.UP, is_failure=True, at=world.now - 1) == []
    assert world.engine.peers.sessions[N2].state is State.ESTABLISHED
    assert [note.name for note in world.engine.notes] == ["bfd.down", "bfd.up"]


def test_a_path_that_was_down_for_a_moment_has_failed() -> None:
    """Although it is up again before anybody hears of it: the peer has closed its end."""
    world = watching()
    with_routes(world, N2)
    world.now += 5
    assert report(world, N2, bfd.State.UP, is_failure=True)[0] == Send(world.of[N2], BFD_DOWN)


def test_a_peer_whose_path_is_there_again_is_called_at_once() -> None:
    """And not when the pause between two calls is over; who calls us is waited for."""
    world = World(Engine(configured(peer(2, is_passive=False), peer(3), watched=WATCHED), (), lambda: 0.5))
    assert world.boot({}) == [Dial(N2)]
    world.engine.handle(ConnectFailed(N2, "timed out"), world.now)
    assert world.settle() == []
    assert report(world, N2, bfd.State.UP) == [Dial(N2)]
    assert report(world, N3, bfd.State.UP) == []


def test_bfd_goes_on_where_a_restart_was_agreed_and_ends_elsewhere() -> None:
    """At an orderly stop; and for as long as any peer may keep our routes."""
    world = watching()
    with_routes(world, N2)
    with_routes(world, N3, restart=None)
    assert world.engine.peers.paths.wanted() == (WATCHED, 120)
    world.engine.handle(Stopping(), world.now)
    assert world.engine.peers.paths.wanted() == (WATCHED[:1], 120)


def test_bfd_that_is_configured_anew_resets_no_session() -> None:
    """Intervals are nothing to BGP; what is said of a path that nobody watches any more is passed over."""
    world = watching()
    with_routes(world, N2)
    quicker = WATCHED[0]._replace(interval_ms=100)
    world.engine.handle(configured(watched=(quicker,)), world.now)
    assert world.settle() == []
    assert world.engine.peers.paths.watched == (quicker,)
    world.engine.handle(configured(), world.now)
    assert report(world, N2, bfd.State.DOWN, is_failure=True) == []
    assert not world.engine.peers.paths.reports


@pytest.mark.parametrize(
    ("restart", "is_told"), [(None, True), (KEPT, False), (replace(KEPT, survives_notification=True), True)]
)
def test_a_reload_resets_only_the_session_that_changed(restart: GracefulRestart | None, is_told: bool) -> None:
    """A peer with other options gets a new session and a Cease, but where that would cost routes it could keep.

    Its neighbour hears nothing.
    """
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, restart)
    world.establish(N3, KEPT)
    kept = world.engine.peers.sessions[N3]
    world.engine.handle(configured(peer(2, hold_time=30), peer(3)), world.now)
    cease = Send(world.of[N2], Notification.cease(Cease.OTHER_CONFIGURATION_CHANGE))
    assert world.settle() == [*([cease] if is_told else []), Hangup(world.of[N2])]
    assert world.engine.peers.sessions[N3] is kept


def test_a_neighbour_that_moves_leaves_none_behind_at_its_old_address() -> None:
    """Who is there is de-configured (RFC 4486), and keeps nothing for us to come back to (RFC 8538)."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, KEPT)
    world.establish(N3, replace(KEPT, survives_notification=True))
    moved = [peer(n, address=ipaddress.IPv4Address(f"192.0.2.{n + 7}")) for n in (2, 3)]
    world.engine.handle(configured(*moved), world.now)
    said = [each.message for each in world.settle() if isinstance(each, Send)]
    gone = Notification.cease(Cease.PEER_DECONFIGURED)
    assert said == [gone, gone.as_hard_reset()]


def test_two_neighbours_that_change_their_addresses_are_still_there() -> None:
    """Each is to come back under the name of the other."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, None)
    addresses = [ipaddress.IPv4Address(f"192.0.2.{n}") for n in (3, 2)]
    world.engine.handle(configured(*(peer(n, address=a) for n, a in zip((2, 3), addresses, strict=True))), world.now)
    said = [each.message for each in world.settle() if isinstance(each, Send)]
    assert said == [Notification.cease(Cease.OTHER_CONFIGURATION_CHANGE)]


def test_a_peer_taken_out_takes_its_routes_along() -> None:
    """Removing a peer from the configuration says so to it and withdraws what it announced."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.written()
    world.establish(N2, KEPT)
    world.announce(N2, "10.244.2.0/26")
    world.written()
    world.engine.handle(configured(peer(3)), world.now)
    assert world.settle()[0] == Send(world.of[N2], Notification.cease(Cease.PEER_DECONFIGURED))
    assert world.written() == [("10.244.2.0/26", None)]


def test_prefixes_follow_the_configuration() -> None:
    """A pod CIDR and a single address that come and go are announced and withdrawn; only the block is blackholed."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.written()
    world.establish(N2, KEPT)
    world.told(N2)
    single = (ipaddress.ip_network("203.0.113.7/32"),)
    block = (ipaddress.ip_network("10.244.5.0/26"),)
    world.engine.handle(configured(advertise=single, pod_cidrs=block), world.now)
    world.settle()
    assert sorted(world.told(N2)) == ["-10.244.1.0/26", "10.244.5.0/26", "203.0.113.7/32"]
    assert world.written() == [("10.244.1.0/26", None), ("10.244.5.0/26", Blackhole())]


def test_an_update_is_traced_from_the_wire_to_the_kernel() -> None:
    """`trace` and the histogram know when an UPDATE was read, decided and acknowledged."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.written()
    world.establish(N2, KEPT)
    world.announce(N2, "10.244.2.0/26", "10.244.2.64/26")
    world.now += 0.25
    world.written()
    assert world.engine.converged == [(0.25, 2)]
    update = world.engine.trace(FAR)
    assert update is not None
    assert (update.peer, update.read_at, update.decided_at, update.programmed_at) == (N2, 100.0, 100.0, 100.25)
    assert world.engine.trace(nlri_of(ipaddress.ip_network("10.9.0.0/24"))) is None


def test_pools_that_masquerade_are_chains_and_sets_until_they_do_not() -> None:
    """A node that writes no routes writes no chains either; what is refused is told once, and again once it stands."""
    pools = (Pool("p", ipaddress.ip_network("10.244.0.0/16"), Masquerade()),)
    world = World(Engine(configured(pools=pools, kernel_enabled=False), None, lambda: 0.5))
    world.settle()
    assert (world.engine.packets.chains.wanted, world.engine.packets.sets.wanted) == ({}, {})
    world.engine.handle(configured(pools=pools), world.now)
    world.settle()
    taken = [key for key, _ in pairs(world.engine.packets.chains.take(9, world.now))]
    assert len(taken) == 3
    world.engine.handle(ChainsWritten(taken[1:], {taken[0]: "no permission"}), world.now)
    assert (world.engine.packets.rules_in_force, world.engine.packets.policy_errors) == (3, 1)
    assert world.engine.packets.unmade() == {f"chain {taken[0]}": "no permission"}
    assert [key for key, _ in pairs(world.engine.packets.chains.take(9, world.now + 1))] == taken[:1]
    world.engine.handle(ChainsWritten(taken[:1], {}), world.now + 1)
    assert (world.engine.packets.rules_in_force, world.engine.packets.unmade()) == (4, {})
    assert world.told_of("chain.refused") == [{"chain": str(taken[0]), "reason": "no permission", "others_count": None}]
    assert world.told_of("chain.recovered") == [{"chain": str(taken[0])}]
    world.engine.handle(configured(), world.now + 2)
    world.settle()
    assert sorted(pairs(world.engine.packets.chains.take(9, world.now + 2))) == [(key, None) for key in sorted(taken)]


def test_chains_that_somebody_changed_are_drift_and_what_was_found_at_start_is_not() -> None:
    """Each is told by its name; what nobody wants is removed."""
    pools = (Pool("p", ipaddress.ip_network("10.244.0.0/16"), Masquerade()),)
    world = World(Engine(configured(pools=pools), None, lambda: 0.5))
    world.settle()
    wanted, sets = dict(world.engine.packets.chains.wanted), dict(world.engine.packets.sets.wanted)
    old = ChainKey(4, "nat", "bm-old")
    world.engine.handle(ChainsRead(wanted | {old: ("?",)}, sets), world.now)
    assert pairs(world.engine.packets.chains.take(9, world.now)) == [(old, None)]
    assert (len(world.engine.packets.sets), world.engine.notes.drift_repaired) == (0, 0)
    world.engine.handle(ChainsWritten([old], {}), world.now)
    entry = ChainKey(4, "nat", "bm-POSTROUTING")
    world.engine.handle(ChainsRead(wanted | {entry: ("?", "")}, {}), world.now)
    assert [key for key, _ in pairs(world.engine.packets.chains.take(9, world.now))] == [entry]
    assert world.engine.notes.drift_repaired == 1 + len(sets)
    (keys,) = world.told_of("drift.found")
    assert str(keys["value"]).startswith("chain nat bm-POSTROUTING (IPv4), set bm-4-")


CLOSED = replace(link_of(WEB), is_open=False)


def test_a_link_is_opened_once_every_chain_and_set_that_protects_it_stands() -> None:
    """It is made at once, and closed; a table that is refused keeps it so, and the answer says which."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.engine.handle(EndpointAdded(WEB), world.now)
    world.settle()
    assert world.links() == [(WEB.interface, CLOSED)]
    world.engine.handle(LinkWritten(WEB.interface), world.now)
    keys = [key for key, _ in pairs(world.engine.packets.chains.take(1000, world.now))]
    refused = [key for key in keys if (key.family, key.table) == (6, "mangle")]
    done = [key for key in keys if key not in refused]
    world.engine.handle(ChainsWritten(done, dict.fromkeys(refused, "ip6tables is not installed")), world.now)
    world.settle()
    assert world.links() == []
    assert world.written() == [(prefix_text(OWN), Blackhole())]
    problem = world.engine.endpoint_problem(WEB.key)
    assert problem is not None
    assert problem.endswith(": ip6tables is not installed")
    world.now += 2
    protect(world.engine, world.now)
    assert world.links() == [(WEB.interface, link_of(WEB))]
    world.engine.handle(LinkWritten(WEB.interface), world.now)
    world.settle()
    assert (prefix_text(ROUTE), OnLink(WEB.interface)) in world.written()


def test_a_second_guard_that_cannot_be_had_keeps_nobody_out() -> None:
    """Nor is it an error, which would ring for ever; it is told until it stands."""
    world = World(Engine(configured(around=Surroundings(options=Options(to_host="allow"))), (), lambda: 0.5))
    engine = world.engine
    world.boot({})
    engine.handle(EndpointAdded(WEB), world.now)
    world.settle()
    assert world.links() == [(WEB.interface, CLOSED)]
    engine.handle(LinkWritten(WEB.interface), world.now)
    keys = [key for key, _ in pairs(engine.packets.chains.take(1000, world.now))]
    refused = dict.fromkeys((key for key in keys if key.table == "security"), "no such table")
    assert {key.family for key in refused} == {4, 6}
    engine.handle(ChainsWritten([key for key in keys if key not in refused], refused), world.now)
    sets = [name for name, _ in pairs(engine.packets.sets.take(1000, world.now))]
    engine.handle(SetsWritten(sets, {}), world.now)
    world.settle()
    assert world.links() == [(WEB.interface, link_of(WEB))]
    assert (engine.packets.unmade(), engine.packets.policy_errors, engine.packets.is_policy_in_force) == ({}, 0, True)
    told = [f"no second guard of the host (IPv{family}): no such table" for family in (4, 6)]
    assert engine.packets.unguarded() == [("[policy]", "workload_to_host", each) for each in told]
    world.now += 2
    protect(engine, world.now)
    assert engine.packets.unguarded() == []


def test_a_changed_label_closes_no_link() -> None:
    """The old chains hold until the new ones are in."""
    world = attached(World(Engine(configured(), (), lambda: 0.5)))
    world.engine.handle(EndpointAdded(replace(WEB, labels=(("app", "web"),))), world.now)
    world.settle()
    assert world.links() == []
    assert world.engine.endpoint_problem(WEB.key) is None


def test_links_are_closed_while_a_hook_of_ours_is_gone_and_cannot_be_had() -> None:
    """A hook that can be repaired closes nothing; once it stands again the links are opened."""
    world = attached(World(Engine(configured(), (), lambda: 0.5)))
    hook = ChainKey(4, "filter", "FORWARD")
    standing = {key: rules for key, rules in world.engine.packets.chains.wanted.items() if key != hook}
    world.engine.handle(ChainsRead(standing, dict(world.engine.packets.sets.wanted)), world.now)
    world.settle()
    assert world.links() == []
    assert [key for key, _ in pairs(world.engine.packets.chains.take(9, world.now))] == [hook]
    world.engine.handle(ChainsWritten([], {hook: "no permission"}), world.now)
    assert world.links() == [(WEB.interface, CLOSED)]
    assert world.told_of("endpoint.closed") == [{"endpoint": WEB.key, "reason": f"no hook in {hook}"}]
    world.engine.handle(LinkWritten(WEB.interface), world.now)
    world.now += 2
    protect(world.engine, world.now)
    assert world.links() == [(WEB.interface, link_of(WEB))]


def test_chains_stand_as_long_as_a_link_of_ours_does() -> None:
    """Also that of a workload which is leaving: they go after it."""
    world = leaving()
    assert len(world.engine.packets.chains.wanted) > 0
    world.engine.handle(FibWritten([ROUTE], {}), world.now)
    assert world.links() == [(WEB.interface, None)]
    world.settle()
    assert len(world.engine.packets.chains.wanted) > 0
    world.engine.handle(LinkWritten(WEB.interface), world.now)
    world.settle()
    assert world.engine.packets.chains.wanted == {}


def test_policies_that_are_not_known_leave_packets_as_they_are() -> None:
    """Chains and sets of the last life stand, who was open stays open, and nobody new is let in."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.engine.packets.is_policy_known = False
    standing = {ChainKey(4, "filter", "bm-FORWARD"): ("?", "x")}
    other = replace(WEB, name="db", interface=interface_name("bgpm", "shop/db"), addresses=(HOP,))
    world.engine.handle(EndpointAdded(WEB), world.now)
    world.engine.handle(LinksRead({WEB.interface: link_of(WEB)}), world.now)
    world.engine.handle(ChainsRead(standing, {}), world.now)
    world.engine.handle(EndpointAdded(other), world.now)
    world.settle()
    assert pairs(world.engine.packets.chains.take(9, world.now)) == []
    assert world.links() == [(other.interface, replace(link_of(other), is_open=False))]
    assert world.engine.endpoint_problem(other.key) == "which policies are in force is not known"


def test_connections_are_looked_at_when_what_they_may_do_has_changed_and_is_in_force() -> None:
    """Not when a workload comes or goes; until it can be done `unmade` says that it cannot."""
    world = attached(World(Engine(configured(), (), lambda: 0.5)))
    engine, now = world.engine, world.now
    assert engine.packets.is_review_due  # after a start: nobody knows what was let in before
    engine.handle(ConnectionsReviewed(engine.packets.review.generation, 0, 0), now)
    attached(world, replace(WEB, name="db", interface=interface_name("bgpm", "shop/db"), addresses=(HOP,)))
    assert not engine.packets.is_review_due
    closed = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {}}
    objects = read([{**closed, "metadata": {"name": "closed", "namespace": "shop"}}]).objects
    engine.handle(ObjectsChanged(objects), now)
    engine.work(1000, now)
    assert not engine.packets.is_review_due  # the chains come first
    protect(engine, now)
    assert engine.packets.is_review_due
    engine.handle(ConnectionsReviewed(engine.packets.review.generation, 0, 0, "none here"), now)
    assert engine.packets.is_review_due
    assert engine.packets.unmade() == {"connections that are no longer allowed": "none here"}
    engine.handle(ConnectionsReviewed(engine.packets.review.generation, 2, 1), now)
    assert (engine.packets.is_review_due, engine.packets.unmade()) == (False, {})
    assert world.told_of("connections.revoked") == [{"revoked_count": 2, "restored_count": 1}]
    engine.handle(EndpointAdded(replace(WEB, labels=(("app", "web"),))), now)
    engine.handle(ObjectsChanged(dict(objects)), now)
    protect(engine, now)
    assert not engine.packets.is_review_due  # nothing has come of it


def host_endpoint(**spec: object) -> ObjectsChanged:
    """Return what makes a host endpoint of this node the only object."""
    head = {"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": "edge"}}
    return ObjectsChanged(read([{**head, "spec": {"node": "n1", **spec}}]).objects)


def test_a_host_endpoint_finds_its_interface_by_an_address() -> None:
    """As addresses and names come and go; where none has it that is told, and nothing is wanted."""
    world = World(Engine(configured(around=Surroundings(node="n1")), (), lambda: 0.5))
    world.boot({})
    world.engine.handle(host_endpoint(expectedIPs=["192.0.2.1"]), world.now)
    world.settle()
    missing = {"HostEndpoint edge": "no interface has one of its expectedIPs"}
    assert (world.engine.packets.unmade(), world.engine.packets.chains.wanted) == (missing, {})

    own = HostRoute(parse_nlri("192.0.2.1/32"), 2, None, 0, HostRouteKind.LOCAL, 2, 255)
    world.engine.handle(HostRoutesChanged([own], ()), world.now)
    world.settle()
    assert world.engine.packets.unmade() == missing  # the link has no name yet
    world.engine.handle(LinkNamesRead({1: "lo", 2: "eth0"}), world.now)
    world.settle()
    assert world.engine.packets.unmade() == {}
    assert ChainKey(4, "filter", "bm-fh-eth0") in world.engine.packets.chains.wanted

    world.engine.handle(HostRoutesChanged((), [own]), world.now)
    world.settle()
    assert (world.engine.packets.unmade(), world.engine.packets.chains.wanted) == (missing, {})


def test_at_start_a_host_endpoint_finds_its_interface_before_routes_are_read() -> None:
    """The chains of the last life stand as they are; once routes are read these alone count."""
    world = World(Engine(configured(around=Surroundings(node="n1")), (), lambda: 0.5))
    world.engine.handle(host_endpoint(expectedIPs=["192.0.2.1"]), world.now)
    own = {ipaddress.ip_address("192.0.2.1"): frozenset({2})}
    world.engine.handle(LinkNamesRead({2: "eth0"}, own), world.now)
    world.settle()
    assert ChainKey(4, "filter", "bm-fh-eth0") in world.engine.packets.chains.wanted
    world.boot({})
    assert world.engine.packets.chains.wanted == {}


def test_a_host_endpoint_by_name_is_wanted_before_its_interface_is_there() -> None:
    """Without any workload; and with the endpoint everything goes."""
    world = World(Engine(configured(around=Surroundings(node="n1")), (), lambda: 0.5))
    world.boot({})
    world.engine.handle(host_endpoint(interfaceName="eth7"), world.now)
    world.settle()
    assert ChainKey(6, "filter", "bm-th-eth7") in world.engine.packets.chains.wanted
    world.engine.handle(ObjectsChanged({}), world.now)
    world.settle()
    assert world.engine.packets.chains.wanted == {}


def test_the_interface_towards_an_address_is_that_of_its_route() -> None:
    """For explain; None where there is no route, or its link has no name that is known."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    assert world.engine.rib.ways.interface_towards(HOP) is None
    world.engine.handle(LinkNamesRead({2: "eth0"}), world.now)
    assert world.engine.rib.ways.interface_towards(HOP) == "eth0"
    assert world.engine.rib.ways.interface_towards(ipaddress.ip_address("198.51.100.1")) is None


def test_what_masquerades_is_the_address_of_the_link_in_the_subnet_of_the_next_hop() -> None:
    """Of IPv6 the one of the link; None where that is not among the addresses that are configured."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})

    def route(prefix: str, kind: HostRouteKind, gateway: str | None = None) -> HostRoute:
        hop = None if gateway is None else ipaddress.ip_address(gateway)
        return HostRoute(parse_nlri(prefix), 2, hop, 0, kind, 2, 254)

    local, connected, by_gateway = HostRouteKind.LOCAL, HostRouteKind.CONNECTED, HostRouteKind.GATEWAY
    routes = (
        route("192.0.2.1/32", local),
        route("198.18.0.1/32", local),
        route("198.18.0.0/24", connected),
        route("203.0.113.0/24", by_gateway, "198.18.0.254"),
        route("2001:db8::1/128", local),
        route("2001:db8:1::/48", by_gateway, "fe80::1"),
    )
    world.engine.handle(HostRoutesChanged(routes, ()), world.now)

    def used(destination: str, *own: str) -> str:
        found = world.engine.rib.ways.masquerade_of(
            ipaddress.ip_address(destination), [*map(ipaddress.ip_address, own)]
        )
        return str(found)

    both = ("192.0.2.1", "198.18.0.1", "2001:db8::1")
    assert used(str(HOP), *both) == "192.0.2.1"
    assert used("203.0.113.9", *both) == "198.18.0.1"
    assert used("203.0.113.9", "192.0.2.1") == "None", "it has another in that subnet"
    assert used("2001:db8:1::9", *both) == "2001:db8::1"
    assert used("198.51.100.1", *both) == "None", "no route leads there"
    assert used(str(HOP), "192.0.2.99") == "None", "this host does not have it"


def test_every_event_has_its_room() -> None:
    """What can happen and nobody takes would end the daemon when it happens."""
    assert set(Engine(configured(), (), lambda: 0.5)._room_of) == set(typing.get_args(Event))


# ── kept for long (RFC 9494) ─────────────────────────────────────────────────

LONG_LIVED = LongLived(((Family.IPV4, True, 600),))


def test_paths_of_a_peer_that_stays_away_are_long_lived_and_then_gone() -> None:
    """Restart time, then stale time: the kernel's route stays to the end, and so does the name on the list."""
    world = World(Engine(configured(peer(2, long_lived_graceful_restart=1_000)), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, KEPT, long_lived=LONG_LIVED)
    world.announce(N2, "10.244.2.0/26")
    assert world.written() == [("10.244.1.0/26", Blackhole()), ("10.244.2.0/26", Via((HOP,)))]
    world.engine.handle(Disconnected(world.of[N2], "closed by peer"), world.now)
    world.at(119)
    assert world.engine.rib.long_lived_count(N2) == 0
    world.at(120)
    assert world.engine.rib.long_lived_count(N2) == 1
    assert world.told_of("peer.long-lived") == [{"peer": "n2", "family": "ipv4"}]
    world.at(719)
    assert (world.written(), N2 in world.engine.peers.held) == ([], True)
    world.at(720)
    assert world.written() == [("10.244.2.0/26", None)]
    assert N2 not in world.engine.peers.held


def test_a_session_that_a_hold_timer_ended_keeps_its_routes_in_doubt() -> None:
    """The kernel's route stays as long as nobody else has one; who is not stale is preferred at once."""
    kept = replace(KEPT, survives_notification=True)
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, kept)
    world.announce(N2, "10.244.2.0/26")
    world.written()
    world.at(9)
    assert (world.written(), world.engine.rib.stale_count(N2)) == ([], 1)
    world.establish(N3, kept)
    other = replace(PathAttributes(next_hop=ipaddress.ip_address("192.0.2.3")), local_pref=1)
    world.engine.handle(RoutesReceived(world.of[N3], other, [FAR], (), world.now), world.now)
    world.settle()
    assert world.written() == [("10.244.2.0/26", Via((ipaddress.ip_address("192.0.2.3"),)))]


def test_a_peer_with_the_n_bit_is_reset_hard_where_it_is_meant_for_good() -> None:
    """One that is over its limit or taken out, not one whose options change; then our next OPEN says F."""
    kept = replace(KEPT, survives_notification=True)
    world = World(Engine(configured(peer(2), peer(3, max_prefixes=1)), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, kept)
    world.establish(N3, kept)
    said = [each.message for each in world.announce(N3, "10.1.0.0/24", "10.2.0.0/24") if isinstance(each, Send)]
    assert said == [Notification(6, 9, bytes((6, 1, 0, 1, 1, 0, 0, 0, 1)))]
    world.engine.handle(configured(peer(2, hold_time=30)), world.now)
    said = [each.message for each in world.settle() if isinstance(each, Send)]
    assert said == [Notification.cease(Cease.OTHER_CONFIGURATION_CHANGE)]
    restart = world.establish(N2, kept).capabilities.graceful_restart
    assert restart == GracefulRestart(120, families=((Family.IPV4, True),), survives_notification=True)
    world.engine.handle(configured(peer(4)), world.now)
    said = [each.message for each in world.settle() if isinstance(each, Send)]
    assert said == [Notification(6, 9, bytes((6, 3)))]


@pytest.mark.parametrize(
    ("back", "families"),
    [
        (None, (Family.IPV4,)),
        (replace(KEPT, families=()), (Family.IPV4,)),
        (replace(KEPT, families=((Family.IPV4, False),)), (Family.IPV4,)),
        (replace(KEPT, families=((Family.IPV4, True),)), (Family.IPV6,)),
    ],
    ids=["no capability", "no family in it", "no F bit", "no such family"],
)
def test_who_is_back_without_what_it_was_kept_for_loses_its_routes_at_once(
    back: GracefulRestart | None, families: tuple[Family, ...]
) -> None:
    """The kernel's route goes with the new session, not with the End-of-RIB that may never come (RFC 4724 4.2)."""
    own = ((Family.IPV4, ipaddress.IPv4Address("192.0.2.1")), (Family.IPV6, ipaddress.IPv6Address("2001:db8::1")))
    world = World(Engine(configured(peer(2, families=tuple(Family)[:2], next_hops=own)), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, KEPT)
    world.announce(N2, "10.244.2.0/26")
    assert ("10.244.2.0/26", Via((HOP,))) in world.written()
    world.engine.handle(Disconnected(world.of[N2], "closed by peer"), world.now)
    world.settle()
    assert world.written() == []
    world.establish(N2, back, families=families)
    assert world.written() == [("10.244.2.0/26", None)]


@pytest.mark.parametrize(
    ("change", "is_surviving", "is_kept"),
    [
        ({"hold_time": 30}, True, True),
        ({"password": "new"}, True, True),
        ({"hold_time": 30}, False, True),
        ({"graceful_restart": 0}, True, False),
        ({"address": ipaddress.IPv4Address("192.0.2.9")}, True, False),
        ({"role": Role.CLIENT}, True, False),
        ({"bgp_role": "customer"}, True, False),
    ],
)
def test_a_session_that_a_reload_begins_anew_keeps_routes(
    change: dict[str, object], is_surviving: bool, is_kept: bool
) -> None:
    """Where the peer keeps ours too and is the same speaker: no route is written, and filters count at once."""
    kept = replace(KEPT, survives_notification=is_surviving)
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, kept)
    world.announce(N2, "10.244.2.0/26", "10.244.3.0/26")
    world.written()
    only = FilterRule(action="accept", prefix=(PrefixRange(ipaddress.ip_network("10.244.2.0/26"), 26, 26),))
    changed = configured(
        peer(2, imports=("only",), **change), filters=(Filter("only", "reject", (only,)), *configured().filters)
    )
    world.engine.handle(changed, world.now)
    world.settle()
    gone = [("10.244.3.0/26", None)]
    assert world.written() == (gone if is_kept else [("10.244.2.0/26", None), *gone])
    assert world.engine.rib.stale_count(N2) == (2 if is_kept else 0)
    if not is_kept:
        return
    world.establish(N2, kept)
    world.announce(N2, "10.244.2.0/26")
    world.end_of_rib(N2)
    assert (world.written(), world.engine.rib.stale_count(N2)) == ([], 0)


def test_a_reload_does_not_wind_up_the_clock_of_a_peer_that_is_away() -> None:
    """Its routes go with the restart time that was agreed, whatever its options are meanwhile."""
    world = World(Engine(configured(), (), lambda: 0.5))
    world.boot({})
    world.establish(N2, KEPT)
    world.announce(N2, "10.244.2.0/26")
    world.written()
    world.engine.handle(Disconnected(world.of[N2], "closed by peer"), world.now)
    world.at(100)
    world.engine.handle(configured(peer(2, hold_time=30)), world.now)
    world.settle()
    assert world.written() == []
    world.at(119)
    assert world.written() == []
    world.at(120)
    assert world.written() == [("10.244.2.0/26", None)]


@pytest.mark.parametrize(
    ("restart", "long_lived", "stay_s"), [(120, 0, 120), (120, 600, 720), (0, 600, LEAST_STAY_S), (5, 0, LEAST_STAY_S)]
)
def test_bfd_goes_on_for_as_long_as_peers_may_keep_our_routes(restart: int, long_lived: int, stay_s: float) -> None:
    """Long-lived ones too: nobody else can tell them that the path has failed."""
    options = {"graceful_restart": restart, "long_lived_graceful_restart": long_lived}
    world = World(Engine(configured(peer(2, **options)), (), lambda: 0.5))
    assert world.engine.peers.paths.wanted()[1] == stay_s
