"""Floating addresses: what is wanted depends on what is known, not on the order in which it came to be known."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.engine import Engine
from bgpmesh.events import (
    Configured,
    ConnectionsCut,
    EndpointAdded,
    EndpointRemoved,
    Event,
    FloatingIpsKept,
    LinkObserved,
    LinkWritten,
    RoutesReceived,
)
from bgpmesh.peering.peer import Peer
from bgpmesh.policy.chains import restore_text
from bgpmesh.policy.nat import floating_chains, inside_set
from bgpmesh.route.attributes import Asn, PathAttributes
from bgpmesh.route.claim import Kind, claim
from bgpmesh.route.nlri import Nlri, host_nlri, parse_nlri
from bgpmesh.route.path import OnLink, PeerName
from bgpmesh.workload.endpoint import Endpoint, interface_name
from bgpmesh.workload.floating import FloatingIp
from bgpmesh.workload.pool import Masquerade, Pool
from tests.flat import pairs, protect
from tests.unit.test_engine import HOP, KEPT, N2, N3, World, configured, peer

EXTERNALS = [ipaddress.ip_address(f"203.0.113.{last}") for last in range(1, 5)]
EXTERNALS += [ipaddress.ip_address(f"2001:db8:f::{last}") for last in (1, 2)]
NAMES = ("a", "b", "c")
WORKLOADS = {
    name: Endpoint(
        name,
        "shop",
        (),
        tuple(map(ipaddress.ip_address, (f"10.244.1.{at}", *([f"fd00::{at}"] if name != "c" else [])))),
        interface_name("bgpm", f"shop/{name}"),
        f"/run/netns/{name}",
    )
    for at, name in enumerate(NAMES, start=2)
}
FLOATING = st.lists(
    st.builds(
        FloatingIp, st.sampled_from(EXTERNALS), st.sampled_from([f"shop/{name}" for name in NAMES]), st.booleans()
    ),
    max_size=4,
    unique_by=lambda each: each.external,
).map(tuple)
LEARNT = st.dictionaries(st.sampled_from([host_nlri(e) for e in EXTERNALS if e.version == 4]), st.booleans())
PRESENT = st.sets(st.sampled_from(NAMES))
POOLS = (Pool("p", ipaddress.ip_network("10.244.0.0/16"), Masquerade()),)

Facts = tuple[tuple[FloatingIp, ...], tuple[FloatingIp, ...], set[str], dict[Nlri, bool]]
FACTS = st.tuples(FLOATING, FLOATING, PRESENT, LEARNT)


def in_cluster(number: int) -> Peer:
    return peer(number, in_cluster=True, cluster_asn=64512)


def configuration(floating: tuple[FloatingIp, ...]) -> Configured:
    return configured(in_cluster(2), in_cluster(3), pools=POOLS, floating=floating)


def learn(here: World, nlri: Nlri, *, is_claimed: bool) -> Event:
    said = (claim(Asn(64512), Kind.FLOATING),) if is_claimed else ()
    attributes = PathAttributes(next_hop=HOP, local_pref=100, large_communities=said)
    return RoutesReceived(here.of[N2], attributes, [nlri], (), here.now)


def changes(here: World, old: Facts, new: Facts) -> list[Event]:
    """Return what makes one state of affairs another, in no order."""
    events: list[Event] = [configuration(new[0]), FloatingIpsKept(new[1])]
    events += [EndpointRemoved(f"shop/{name}") for name in old[2] - new[2]]
    events += [EndpointAdded(WORKLOADS[name]) for name in new[2] - old[2]]
    lost = sorted(old[2])[:1]  # somebody has deleted a link: it is made again
    events += [LinkObserved(WORKLOADS[name].interface, None) for name in lost]
    gone = [nlri for nlri in old[3] if nlri not in new[3]]
    events += [RoutesReceived(here.of[N2], None, (), gone, here.now)] if gone else []
    events += [learn(here, nlri, is_claimed=is_claimed) for nlri, is_claimed in new[3].items()]
    return events


def serve(here: World) -> None:
    """Have everything made as it is wanted."""
    engine = here.engine
    for _ in range(3):
        here.settle()
        protect(engine, here.now)
        for interface, _spec in pairs(engine.local.links.take(99, here.now)):
            engine.handle(LinkWritten(interface), here.now)
        here.settle()
        here.written()
        cut = [address for address, _ in pairs(engine.packets.leads.connections.take(99, here.now))]
        engine.handle(ConnectionsCut(cut, {}), here.now)


def world() -> World:
    here = World(Engine(configuration(()), (), lambda: 0.5))
    here.boot({})
    here.establish(N2, KEPT)
    here.establish(N3, KEPT)
    return here


def outcome(here: World) -> tuple[object, ...]:
    """Return what packet filter, connections, kernel and a peer have, and who is told what is wrong."""
    engine = here.engine
    told = {nlri: attributes.large_communities for nlri, attributes in engine.rib.advertised(PeerName("n3"))}
    return (
        dict(engine.packets.chains.actual),
        dict(engine.packets.sets.actual),
        dict(engine.packets.leads.connections.actual),
        dict(engine.rib.fib.actual),
        told,
        engine.local.floating_problems(),
        set(engine.rib.floating),
    )


@given(st.lists(FACTS, min_size=1, max_size=4), st.randoms(use_true_random=False), st.data())
def test_the_way_to_a_state_does_not_matter(states: Sequence[Facts], order: Random, data: st.DataObject) -> None:
    """Whatever was before, in whatever order it became, and whether the edges kept pace: the same is made."""
    here = world()
    old: Facts = ((), (), set(), {})
    for new in states:
        events = changes(here, old, new)
        order.shuffle(events)
        for event in events:
            here.engine.handle(event, here.now)
            if data.draw(st.booleans()):
                serve(here)
            elif data.draw(st.booleans()):
                here.settle()
            # What was worked out for the one who came or went is what would have been for all.
            routes = dict(here.engine.local.routes)
            here.engine.local._originate()
            assert here.engine.local.routes == routes
        old = new
    serve(here)
    fresh = world()
    for event in changes(fresh, ((), (), set(), {}), states[-1]):
        fresh.engine.handle(event, fresh.now)
    serve(fresh)
    assert outcome(here) == outcome(fresh)


@given(FACTS)
def test_every_lead_is_announced_and_inside_and_nothing_else_leads(facts: Facts) -> None:
    """The file before commands, the first address of the family; and every line is one that iptables may get."""
    of_file, kept, present, learnt = facts
    here = world()
    for event in changes(here, ((), (), set(), {}), facts):
        here.engine.handle(event, here.now)
    serve(here)
    in_force = {each.external: each for each in kept} | {each.external: each for each in of_file}
    expected = {}
    for external, each in in_force.items():
        name = each.workload.partition("/")[2]
        addresses = [a for a in WORKLOADS[name].addresses if name in present and a.version == external.version]
        if addresses:
            expected[external] = (addresses[0], WORKLOADS[name].interface)
    engine = here.engine
    assert dict(engine.packets.leads.connections.actual) == {external: way[0] for external, way in expected.items()}
    assert {external for external in in_force if engine.local.is_announced(external)} == expected.keys()
    for external, (_, interface) in expected.items():
        assert engine.rib.fib.actual[host_nlri(external)] == OnLink(interface)
    inside = {host_nlri(each) for each in in_force if each.version == 4}
    inside |= {nlri for nlri, is_claimed in learnt.items() if is_claimed and engine.rib.best(nlri) is not None}
    theirs = {nlri for nlri in inside if nlri not in engine.rib.floating and network(nlri) not in in_force}
    assert engine.packets.sets.actual[inside_set(4)].members == inside - theirs | {parse_nlri("10.244.0.0/16")}
    for family in (4, 6):
        wanted = {
            key.chain: engine.packets.chains.actual[key]
            for key in floating_chains(family)
            if key in engine.packets.chains.actual
        }
        restore_text("nat", wanted)


def network(nlri: Nlri) -> object:
    return ipaddress.ip_address(nlri[1:])
