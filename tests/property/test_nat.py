"""Address translation: what it should be by its description, what the rules do, and what the explanation says."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.explain import explain, why_not
from bgpmesh.policy.form import Compiled
from bgpmesh.policy.iptables import Options, render
from bgpmesh.policy.model import Member, Model, Packet
from bgpmesh.policy.nat import Translation, translation
from bgpmesh.policy.rule import Action
from bgpmesh.route.nlri import IPAddress
from bgpmesh.workload.floating import Lead
from bgpmesh.workload.pool import Masquerade, Pool
from tests.property.chains import IN, OUT, THROUGH, Flow, Tables, travel
from tests.property.test_policy import (
    EMPTY,
    EXTERNALS,
    HERE_1,
    HERE_2,
    HOST,
    INTERFACES,
    NETS,
    NOBODY_KNOWS,
    OUTSIDE,
    PLACES,
    TO_HOST,
    models,
    restored,
)

Rewrites = list[tuple[str, str]]  # what is done, and the address that is put in ("": that of the link)

LINKS = {HERE_1: "bgpm0aaaaaaaaaa", HERE_2: "bgpm1aaaaaaaaaa"}
CIDRS = tuple(map(ipaddress.ip_network, ("10.0.1.0/24", "10.0.2.0/24", "fd00::/127", "fd00::2/127")))


@dataclass(frozen=True)
class World:
    """What is translated: floating addresses of the workloads here, what else is known, and the pools."""

    leads: tuple[Lead, ...]
    elsewhere: tuple[IPAddress, ...]
    pools: tuple[Pool, ...]

    def translation(self) -> Translation:
        """Return it as rules."""
        return translation(self.pools, self.leads, self.elsewhere)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw where each floating address leads, to nobody among others, and which pools masquerade how."""
    leads: list[Lead] = []
    elsewhere: list[IPAddress] = []
    for external in itertools.chain.from_iterable(EXTERNALS.values()):
        place = draw(st.sampled_from([HERE_1, HERE_2, HERE_1, "elsewhere", None]))
        if isinstance(place, int):
            internal = PLACES[external.version][place]
            is_first = not any(lead.internal == internal and lead.is_outbound for lead in leads)
            leads.append(Lead(external, internal, LINKS[place], is_first and draw(st.booleans())))
        elif place:
            elsewhere.append(external)
    return World(draw(st.permutations(leads).map(tuple)), tuple(elsewhere), tuple(draw(pools(cidr)) for cidr in CIDRS))


def pools(cidr: ipaddress.IPv4Network | ipaddress.IPv6Network) -> st.SearchStrategy[Pool]:
    """Draw how a pool masquerades."""
    version = cidr.version
    excluded = st.lists(st.sampled_from([net for net in NETS if net.version == version]), max_size=2, unique=True)
    source = st.sampled_from([None, PLACES[version][HOST]])
    masquerade = st.builds(Masquerade, excluded.map(tuple), source)
    return st.builds(Pool, st.just(str(cidr)), st.just(cidr), st.none() | masquerade)


def rewrites(world: World, packet: Packet, own: frozenset[IPAddress]) -> Rewrites | None:
    """Return what becomes of a packet that passes, by the description in `policy/nat.py`; None: it is a lie."""
    to = {lead.external: lead.internal for lead in world.leads}
    if packet.source in to and (packet.into or "").startswith("bgpm"):
        return None
    done: Rewrites = []
    destination = packet.destination
    if destination in to:
        destination = to[destination]
        done.append(("dnat", str(destination)))
    if destination in own or (packet.source == destination and not done):
        return done
    mine = sorted((lead for lead in world.leads if lead.internal == packet.source), key=lambda lead: int(lead.external))
    leaving = [lead for lead in mine if lead.is_outbound]
    ranges = [pool for pool in world.pools if packet.source.version == pool.cidr.version]
    is_inside = destination in {*to, *world.elsewhere} or any(destination in pool.cidr for pool in ranges)
    if mine and destination == packet.source:
        return [*done, ("snat", str((leaving or mine)[0].external))]
    if is_inside:
        return done
    if leaving:
        return [*done, ("snat", str(leaving[0].external))]
    for pool in ranges:
        how = pool.masquerade
        if packet.source in pool.cidr and how is not None and not any(destination in net for net in how.exclude):
            return [*done, ("masquerade", "") if how.source is None else ("snat", str(how.source))]
    return done


def packets(world: World) -> Iterator[Packet]:
    """Yield packets between all who are not members elsewhere, to and from floating addresses among them."""
    for family in (4, 6):
        ends = {place: PLACES[family][place] for place in (HERE_1, HERE_2, NOBODY_KNOWS, OUTSIDE, HOST)}
        links = {address: LINKS.get(place, INTERFACES.get(place)) for place, address in ends.items()}
        links |= dict.fromkeys(EXTERNALS[family], "eth1")
        links |= {lead.external: lead.interface for lead in world.leads}
        here = {ends[place] for place in (HERE_1, HERE_2, HOST)} | {*EXTERNALS[family]}
        for source, destination in itertools.product((*ends.values(), *EXTERNALS[family]), repeat=2):
            if source != destination and {source, destination} & here:
                yield Packet(source, destination, 6, 40_000, 80, into=links[source], out=links[destination])


def tables_of(nat: Translation, compiled: Compiled, options: Options) -> dict[int, Tables]:
    """Return the tables with the rules of both; in a built-in chain those of translation are first."""
    rendered = render(compiled, options)
    return restored(EMPTY, {}, rendered | {key: (*rules, *rendered.get(key, ())) for key, rules in nat.chains.items()})


@settings(max_examples=150)
@given(worlds(), models(), TO_HOST, st.integers(0, 4))
def test_the_description_the_rules_and_the_explanation_agree(
    world: World, model: Model, options: Options, first: int
) -> None:
    """Verdict and addresses; and a packet that no floating address has to do with passes as without."""
    nat = world.translation()
    compiled = Compiler().compile(model)
    tables = tables_of(nat, compiled, options)
    sets = {**compiled.sets, **nat.sets}
    floating = {*EXTERNALS[4], *EXTERNALS[6]}
    for packet in list(packets(world))[first::5]:
        is_own = packet.source in model.addresses
        way = OUT if is_own else IN if packet.destination in model.addresses else THROUGH
        flow = Flow(packet, packet.into or "", packet.out or "", mark=0 if is_own else 0x3F00_0000)
        is_passed = travel(tables[packet.family], sets, flow, way) != "DROP"
        if flow.state == "UNTRACKED" and packet.destination in {lead.external for lead in world.leads}:
            continue  # it is not translated, and comes to a workload that does not have the address
        found = explain(compiled, packet, options, nat)
        assert is_passed is (found.verdict is Action.ALLOW)
        assert is_passed is not bool(why_not(compiled, packet, options, nat))
        if is_passed:
            said = [(step.action, str(step.to or "")) for step in found.steps if step.action in REWRITING]
            expected = [] if flow.state == "UNTRACKED" else rewrites(world, packet, model.addresses)
            assert said == flow.translated == expected
        if not {packet.source, packet.destination} & floating:
            assert found.verdict is explain(compiled, packet, options).verdict


REWRITING = {"dnat", "snat", "masquerade"}


def plain() -> Model:
    """Return a model in which everything passes."""
    members = [
        Member(f"shop/{place}", {}, (PLACES[4][place], PLACES[6][place]), {}, link) for place, link in LINKS.items()
    ]
    return Model(members={each.key: each for each in members}, addresses=frozenset((PLACES[4][HOST], PLACES[6][HOST])))


@settings(max_examples=300)
@given(worlds())
def test_rules_do_what_is_described(world: World) -> None:
    """Every packet, with nothing in its way; and whoever lies about its source is found out."""
    nat, own = world.translation(), plain().addresses
    tables = restored(EMPTY, {}, dict(nat.chains))
    for packet in packets(world):
        is_own = packet.source in own
        way = OUT if is_own else IN if packet.destination in own else THROUGH
        flow = Flow(packet, packet.into or "", packet.out or "")
        answer = travel(tables[packet.family], nat.sets, flow, way)
        assert (None if answer == "DROP" else flow.translated) == rewrites(world, packet, own)
