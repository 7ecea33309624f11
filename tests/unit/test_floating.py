"""Floating addresses in the engine: who announces them when, who knows of them, and what is cut."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import replace

import pytest

from bgpmesh.engine import Engine
from bgpmesh.events import (
    ChainsRead,
    ChainsWritten,
    ConnectionsCut,
    EndpointAdded,
    EndpointRemoved,
    FibRead,
    FloatingIpsKept,
    HostRoutesChanged,
    LinksRead,
    LinkWritten,
    RoutesReceived,
    SetsWritten,
)
from bgpmesh.peering.peer import Peer
from bgpmesh.policy.chains import AddressSet, ChainKey, whole
from bgpmesh.policy.nat import floating_chains, inside_set
from bgpmesh.rib.export import Batch
from bgpmesh.route.attributes import Asn, PathAttributes
from bgpmesh.route.claim import Kind, claim
from bgpmesh.route.nlri import IPAddress, host_nlri, parse_nlri
from bgpmesh.route.path import Blackhole, HostRoute, HostRouteKind, OnLink, PeerName
from bgpmesh.workload.endpoint import Endpoint, interface_name, link_of
from bgpmesh.workload.floating import FloatingIp
from bgpmesh.workload.pool import Masquerade, Pool
from tests.flat import pairs
from tests.unit.test_engine import ADOPTED, HOP, KEPT, LAN, N2, N3, OWN, World, configured, peer

POOLS = (Pool("p", ipaddress.ip_network("10.244.0.0/16"), Masquerade()),)
EXTERNAL, OTHER = ipaddress.IPv4Address("203.0.113.10"), ipaddress.IPv4Address("203.0.113.11")
FLOATING = claim(Asn(64512), Kind.FLOATING)


def workload(name: str, last: int) -> Endpoint:
    address = ipaddress.IPv4Address(f"10.244.1.{last}")
    return Endpoint(name, "shop", (), (address,), interface_name("bgpm", f"shop/{name}"), f"/run/netns/{name}")


WEB, DB = workload("web", 5), workload("db", 6)
TO_WEB, TO_DB = FloatingIp(EXTERNAL, "shop/web"), FloatingIp(EXTERNAL, "shop/db")


def in_cluster(number: int, **options: object) -> Peer:
    return peer(number, in_cluster=True, cluster_asn=64512, **options)


def world(*floating: FloatingIp, pools: tuple[Pool, ...] = POOLS) -> World:
    """Return a node with a session, on which nothing of the packet filter is written yet."""
    made = configured(in_cluster(2), in_cluster(3), pools=pools, floating=floating)
    here = World(Engine(made, (), lambda: 0.5))
    here.boot({})
    filtered(here)
    here.written()
    here.establish(N2, KEPT)
    here.told(N2)
    return here


def attach(here: World, endpoint: Endpoint, nat: str | None = None) -> list[ChainKey]:
    """Have a workload, its link and its route, and the packet filter as it is wanted.

    But for the chains of address translation where `nat` says something: "" leaves them in flight, else it is why they
    are refused. They are returned.
    """
    engine = here.engine
    engine.handle(EndpointAdded(endpoint), here.now)
    engine.work(1000, here.now)
    engine.handle(SetsWritten([name for name, _ in pairs(engine.packets.sets.take(99, here.now))], {}), here.now)
    taken = [key for key, _ in pairs(engine.packets.chains.take(99, here.now))]
    held = [key for key in taken if key.table == "nat" and nat is not None]
    engine.handle(
        ChainsWritten([key for key in taken if key not in held], dict.fromkeys(held, nat) if nat else {}), here.now
    )
    link(here, endpoint)
    return held


def link(here: World, endpoint: Endpoint) -> None:
    """Have the link of a workload, and its routes."""
    here.engine.local.links.take(9, here.now)
    here.engine.handle(LinkWritten(endpoint.interface), here.now)
    here.settle()
    here.written()


def filtered(here: World) -> None:
    """Have the packet filter as it is wanted."""
    engine = here.engine
    engine.handle(SetsWritten([name for name, _ in pairs(engine.packets.sets.take(99, here.now))], {}), here.now)
    engine.handle(ChainsWritten([key for key, _ in pairs(engine.packets.chains.take(99, here.now))], {}), here.now)
    here.settle()


def cut(here: World) -> list[tuple[IPAddress, IPAddress | None]]:
    """Have connections as they are wanted, and return what that was."""
    taken = pairs(here.engine.packets.leads.connections.take(99, here.now))
    here.engine.handle(ConnectionsCut([address for address, _ in taken], {}), here.now)
    return taken


def inside(here: World) -> frozenset[object]:
    """Return what is not masqueraded."""
    return frozenset(here.engine.packets.sets.wanted[inside_set(4)].members)


def members(*texts: str) -> frozenset[object]:
    return frozenset(whole(map(ipaddress.ip_network, texts)))


def test_it_is_announced_once_packets_are_led_to_the_workload() -> None:
    """Link, the workload's route, the packet filter: then peers hear of it, by a community of its own."""
    here = world(TO_WEB)
    assert here.engine.packets.leads.problem(EXTERNAL) is None, "a workload of the file may be elsewhere"
    first = world(TO_WEB)
    held = attach(first, WEB, "")
    assert set(floating_chains(4)[-2:]) <= set(held)
    assert (first.told(N2), first.engine.packets.leads.problem(EXTERNAL)) == ([], "")
    first.engine.handle(ChainsWritten(held, {}), first.now)
    first.settle()
    assert first.told(N2) == ["203.0.113.10/32"]

    here.engine.handle(EndpointAdded(WEB), here.now)
    here.engine.work(1000, here.now)
    filtered(here)
    assert here.told(N2) == []
    here.engine.local.links.take(9, here.now)
    here.engine.handle(LinkWritten(WEB.interface), here.now)
    here.settle()
    assert here.told(N2) == []
    assert here.engine.packets.leads.problem(EXTERNAL) == ""
    assert here.written() == [("10.244.1.5/32", OnLink(WEB.interface)), ("203.0.113.10/32", OnLink(WEB.interface))]
    (batch,) = here.engine.rib.take(N2, 9)
    assert isinstance(batch, Batch)
    assert batch.attributes is not None
    assert (batch.nlris, batch.attributes.large_communities) == ([host_nlri(EXTERNAL)], (FLOATING,))
    assert cut(here) == [(EXTERNAL, WEB.addresses[0])]
    assert (here.engine.packets.leads.problem(EXTERNAL), here.engine.local.is_announced(EXTERNAL)) == (None, True)


def test_what_the_packet_filter_refuses_is_not_announced() -> None:
    """And the reason is the address's, until it is gone."""
    here = world(TO_WEB)
    engine = here.engine
    attach(here, WEB, "no such target")
    assert (here.told(N2), engine.packets.leads.problem(EXTERNAL)) == ([], "no such target")
    here.now += 60
    filtered(here)
    cut(here)
    assert (here.told(N2), engine.packets.leads.problem(EXTERNAL)) == (["203.0.113.10/32"], None)


def test_it_moves_without_being_withdrawn() -> None:
    """From one workload here to another; what led to the first is cut once the packet filter leads to the second."""
    here = world()
    for endpoint in (WEB, DB):
        attach(here, endpoint)
    here.engine.handle(FloatingIpsKept((TO_WEB,)), here.now)
    here.settle()
    filtered(here)
    cut(here)
    here.written()
    assert here.told(N2) == ["203.0.113.10/32"]
    here.engine.handle(FloatingIpsKept((TO_DB,)), here.now)
    here.settle()
    assert cut(here) == []
    filtered(here)
    assert cut(here) == [(EXTERNAL, DB.addresses[0])]
    assert here.written() == [("203.0.113.10/32", OnLink(DB.interface))]
    assert (here.told(N2), here.engine.packets.leads.problem(EXTERNAL)) == ([], None)
    here.engine.handle(FloatingIpsKept(()), here.now)
    here.settle()
    assert here.told(N2) == ["-203.0.113.10/32"], "before the packet filter has changed"
    assert not here.engine.packets.leads.is_gone(EXTERNAL)
    filtered(here)
    assert cut(here) == [(EXTERNAL, None)]
    assert here.engine.packets.leads.is_gone(EXTERNAL)


def test_it_goes_with_its_workload_whose_link_waits_for_both_routes() -> None:
    """Withdrawn first; the link goes when no route of ours is on it."""
    here = world(TO_WEB)
    attach(here, WEB)
    filtered(here)
    cut(here)
    here.written()
    here.told(N2)
    here.engine.handle(EndpointRemoved(WEB.key), here.now)
    here.settle()
    assert here.told(N2) == ["-203.0.113.10/32"]
    assert here.links() == []
    assert here.written() == [("10.244.1.5/32", None), ("203.0.113.10/32", None)]
    assert here.links() == [(WEB.interface, None)]
    filtered(here)
    assert cut(here) == [(EXTERNAL, None)]
    assert here.engine.packets.chains.wanted.keys().isdisjoint(floating_chains(4)[-2:])


def test_connections_that_cannot_be_cut_are_named() -> None:
    """In the reasons of the node, until it is done."""
    here = world(TO_WEB)
    attach(here, WEB)
    filtered(here)
    here.engine.packets.leads.connections.take(9, here.now)
    here.engine.handle(ConnectionsCut([], {EXTERNAL: "no permission"}), here.now)
    assert here.engine.packets.unmade() == {"connections of 203.0.113.10": "no permission"}
    assert here.engine.packets.leads.problem(EXTERNAL) == "no permission"
    here.now += 60
    cut(here)
    assert (here.engine.packets.unmade(), here.engine.packets.leads.problem(EXTERNAL)) == ({}, None)


def heard(here: World, name: PeerName, prefixes: Iterable[str], communities: tuple[tuple[int, int, int], ...]) -> None:
    """Let a peer announce prefixes with these large communities."""
    attributes = PathAttributes(next_hop=HOP, local_pref=100, large_communities=communities)
    nlris = [parse_nlri(prefix) for prefix in prefixes]
    here.engine.handle(RoutesReceived(here.of[name], attributes, nlris, (), here.now), here.now)
    here.settle()


def test_what_another_node_announces_as_floating_is_inside() -> None:
    """As long as it does; a prefix that is no single address is not, nor is what is said of another cluster."""
    here = world(TO_WEB)
    base = members("10.244.0.0/16", "203.0.113.10/32")
    assert inside(here) == base
    heard(here, N2, ["203.0.113.11/32", "198.51.100.0/24"], (FLOATING,))
    assert inside(here) == base | members("203.0.113.11/32")
    heard(here, N2, ["203.0.113.12/32"], ((64512, 1, 2), claim(Asn(64513), Kind.FLOATING)))
    assert inside(here) == base | members("203.0.113.11/32")
    here.engine.handle(RoutesReceived(here.of[N2], None, (), [host_nlri(OTHER)], here.now), here.now)
    here.settle()
    assert inside(here) == base


def test_nobody_outside_the_cluster_says_what_is_floating_or_hears_it() -> None:
    """Its communities are taken off in both directions, and no others."""
    outside = peer(3, cluster_asn=64512)
    here = World(Engine(configured(in_cluster(2), outside, pools=POOLS, floating=(TO_WEB,)), (), lambda: 0.5))
    here.boot({})
    here.establish(N3, KEPT)
    here.told(N3)
    heard(here, N3, ["203.0.113.11/32"], (FLOATING, (64512, 1, 2)))
    assert inside(here) == members("10.244.0.0/16", "203.0.113.10/32")
    (candidate,) = here.engine.rib.candidates(host_nlri(OTHER))
    assert candidate.attributes.large_communities == ((64512, 1, 2),)
    attach(here, WEB)
    filtered(here)
    (batch,) = here.engine.rib.take(N3, 9)
    assert isinstance(batch, Batch)
    assert batch.attributes is not None
    assert (batch.nlris, batch.attributes.large_communities) == ([host_nlri(EXTERNAL)], ())


def test_after_a_restart_what_was_inside_stays_so_until_the_node_is_in_sync() -> None:
    """Then it is what peers say of it; what floated here and does not any more is cut."""
    here = World(Engine(configured(in_cluster(2), pools=POOLS, floating=(TO_WEB,)), (N2,), lambda: 0.5))
    here.engine.handle(EndpointAdded(WEB), here.now)
    known = AddressSet(4, whole(map(ipaddress.ip_network, ("10.244.0.0/16", f"{EXTERNAL}/32", f"{OTHER}/32"))))
    gone = ipaddress.IPv4Address("203.0.113.12")
    was_here = AddressSet(4, whole(map(ipaddress.ip_network, (f"{EXTERNAL}/32", f"{gone}/32"))))
    here.engine.handle(ChainsRead({}, {inside_set(4): known, "bm-4-fip": was_here}), here.now)
    here.engine.handle(HostRoutesChanged([LAN], ()), here.now)
    here.engine.handle(LinksRead({WEB.interface: link_of(WEB)}), here.now)
    here.engine.handle(FibRead(ADOPTED | {host_nlri(WEB.addresses[0]): OnLink(WEB.interface)}, {}), here.now)
    here.settle()
    assert inside(here) == known.members
    filtered(here)
    assert sorted(cut(here)) == [(EXTERNAL, WEB.addresses[0]), (gone, None)]
    here.establish(N2, KEPT)
    here.settle()
    assert inside(here) == known.members
    here.end_of_rib(N2)
    here.settle()
    assert here.engine.peers.is_in_sync
    assert inside(here) == members("10.244.0.0/16", f"{EXTERNAL}/32")


def test_a_daemon_that_lost_its_state_finds_the_packet_filter_as_it_wants_it() -> None:
    """It knows the workloads by their links before it looks."""
    before = world(TO_WEB)
    attach(before, WEB)
    chains, sets = dict(before.engine.packets.chains.wanted), dict(before.engine.packets.sets.wanted)
    made = configured(in_cluster(2), pools=POOLS, floating=(TO_WEB,))
    here = World(Engine(made, None, lambda: 0.5, adopt_endpoints=True))
    here.engine.handle(LinksRead({WEB.interface: link_of(WEB)}), here.now)
    here.engine.handle(ChainsRead(chains, sets), here.now)
    here.settle()
    assert (here.engine.packets.chains.wanted, here.engine.packets.sets.wanted) == (chains, sets)
    assert (here.engine.packets.chains.take(9, here.now), here.engine.packets.sets.take(9, here.now)) == ([], [])


def test_a_workload_without_an_address_of_the_family_is_no_lead() -> None:
    """It is named, and the others are as they should be."""
    six = FloatingIp(ipaddress.ip_address("2001:db8:f::10"), "shop/web")
    here = world(TO_WEB, six)
    attach(here, WEB)
    filtered(here)
    cut(here)
    assert here.engine.local.floating_problems() == [(six.external, "shop/web has no IPv6 address")]
    assert here.engine.packets.leads.problem(six.external) == "shop/web has no IPv6 address"
    assert here.engine.packets.leads.problem(EXTERNAL) is None


def test_a_node_that_writes_no_routes_translates_nothing() -> None:
    """A reflector off the path."""
    made = configured(in_cluster(2), pools=POOLS, floating=(TO_WEB,), kernel_enabled=False)
    here = World(Engine(made, (), lambda: 0.5))
    here.boot({})
    here.engine.handle(EndpointAdded(WEB), here.now)
    here.settle()
    assert (here.engine.packets.chains.wanted, here.engine.packets.sets.wanted) == ({}, {})


def test_an_address_of_this_host_leads_nowhere() -> None:
    """Or the host could no longer be reached by it; it does once the host has it no more."""
    here = world(TO_WEB)
    own = HostRoute(host_nlri(EXTERNAL), 2, None, 0, HostRouteKind.LOCAL, 2, 255)
    here.engine.handle(HostRoutesChanged([own], ()), here.now)
    attach(here, WEB)
    assert here.engine.local.floating_problems() == [(EXTERNAL, "already in use by this host")]
    assert here.engine.packets.chains.wanted.keys().isdisjoint(floating_chains(4)[-2:])
    here.engine.handle(HostRoutesChanged((), [own]), here.now)
    here.settle()
    filtered(here)
    cut(here)
    assert here.engine.packets.leads.problem(EXTERNAL) is None
    here.engine.handle(HostRoutesChanged([own], ()), here.now)
    here.settle()
    filtered(here)
    assert cut(here) == [(EXTERNAL, None)]
    assert here.engine.local.floating_taken(OTHER) == {EXTERNAL: "this host", WEB.addresses[0]: WEB.key}


@pytest.mark.parametrize("is_of_file", [True, False])
def test_no_workload_gets_a_floating_address_as_its_own(is_of_file: bool) -> None:
    """Asked for by name it is refused, by whom it leads to; one that a workload had first leads nowhere."""
    here = world(*([TO_WEB] if is_of_file else []))
    if not is_of_file:
        here.engine.handle(FloatingIpsKept((TO_WEB,)), here.now)
    with pytest.raises(Exception, match="already in use by floating address of shop/web"):
        here.engine.local.addresses.request("shop/db", (EXTERNAL,))
    attach(here, replace(DB, addresses=(EXTERNAL,)))
    attach(here, WEB)
    assert here.engine.local.floating_problems() == [(EXTERNAL, "already in use by shop/db")]
    assert here.engine.packets.chains.wanted.keys().isdisjoint(floating_chains(4)[-2:])
    assert here.engine.rib.fib.wanted[host_nlri(EXTERNAL)] == OnLink(DB.interface)
    assert here.engine.rib.fib.wanted[OWN] == Blackhole()
