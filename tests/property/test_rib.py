"""The Rib beside a model that recomputes everything from its inputs, naively and from scratch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpmesh.peering.message import EndOfRib, LongLived, RouteRefresh
from bgpmesh.peering.peer import Peer
from bgpmesh.rib import export
from bgpmesh.rib.adjribin import MAX_PREFIXES
from bgpmesh.rib.decision import Kept
from bgpmesh.rib.drain import Drain
from bgpmesh.rib.export import Batch
from bgpmesh.rib.rib import Rib
from bgpmesh.rib.rule import BUILT_IN, Community, Filter, Rule
from bgpmesh.route.attributes import PathAttributes, RouterId
from bgpmesh.route.nlri import Family, IPAddress, Nlri, contains, family_of, host_nlri
from bgpmesh.route.path import Blackhole, HostRoute, HostRouteKind, OnLink, PeerName, Resolution, Role, Target, Via
from tests.flat import pairs
from tests.property.filters import Outcome, definitions, outcome
from tests.property.strategies import (
    ASN,
    BOTH,
    CLUSTER_ID,
    HOSTS,
    NEXT_HOPS,
    PEERS,
    PREFIXES,
    ROUTER_ID,
    ROUTER_IDS,
    batches,
)
from tests.property.strategies import negotiated as negotiate

V = TypeVar("V")
KNOWS_LONG_LIVED = {"c1", "n1", "e1"}  # and the others are not told of it

# ── the model ────────────────────────────────────────────────────────────────


MOST = 2  # prefixes that a peer may send, whatever it does: who asks about it is told how many count


@dataclass(frozen=True, eq=False)
class Known:
    """A path as the model sees it: from whom (None: local), with what."""

    peer: PeerName | None
    attributes: PathAttributes
    target: Target | None = None  # of a local one, and of one that import discards
    kept: Kept = Kept.ALIKE

    @property
    def is_external(self) -> bool:
        """Whether it came over eBGP."""
        return self.peer is not None and PEERS[self.peer].is_external

    @property
    def hop(self) -> tuple[IPAddress, bool]:
        """Its next hop, and whether only a connected subnet will do."""
        assert self.peer is not None
        assert self.attributes.next_hop is not None
        return self.attributes.next_hop, PEERS[self.peer].is_single_hop


@dataclass
class World:
    """The inputs, and nothing else."""

    received: dict[PeerName, dict[Nlri, PathAttributes]] = field(default_factory=dict)
    stale: dict[PeerName, set[Nlri]] = field(default_factory=dict)
    kept: dict[PeerName, dict[Nlri, Kept]] = field(default_factory=dict)  # those among them that count less
    up: set[PeerName] = field(default_factory=set)
    local: dict[Nlri, Target | None] = field(default_factory=dict)
    hosts: set[HostRoute] = field(default_factory=set)
    is_deferring: bool = False
    ecmp: int = 2
    peers: dict[PeerName, Peer] = field(
        default_factory=lambda: {
            name: replace(peer, max_prefixes=MOST, max_prefixes_warn=1) for name, peer in PEERS.items()
        }
    )
    filters: dict[str, Filter] = field(default_factory=lambda: dict(BUILT_IN))
    drain: Drain = Drain.NONE

    def filtered(
        self, names: tuple[str, ...], asn: int, peer: PeerName | None, attributes: PathAttributes, nlri: Nlri
    ) -> Outcome:
        """Send one prefix through filters."""
        return outcome([self.filters[name] for name in names], asn, peer, attributes, nlri)


class Answer:
    """What follows from a World; every question is worked out anew from the inputs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._resolved: dict[tuple[IPAddress, bool], Resolution | None] = {}
        self._selected: dict[Nlri, tuple[Known, list[Known]] | None] = {}

    def paths(self, nlri: Nlri) -> list[Known]:
        """Return every path of a prefix that import lets pass."""
        found = [self.taken_in(name, nlri, table[nlri]) for name, table in self.world.received.items() if nlri in table]
        if nlri in self.world.local:
            return [Known(None, PathAttributes(), self.world.local[nlri])]  # nothing beats our own
        return [path for path in found if path is not None]

    def taken_in(self, name: PeerName, nlri: Nlri, attributes: PathAttributes) -> Known | None:
        """Return what import makes of a path."""
        peer = self.world.peers[name]
        answer = self.world.filtered(peer.imports, peer.asn, name, attributes, nlri)
        made = answer.attributes
        if made is None:
            return None
        if peer.is_external:
            if "local_pref" not in answer.said:
                made = replace(made, local_pref=None)
            if 0xFFFF0000 in made.communities:
                made = replace(made, local_pref=0)
            if 0xFFFF029A in made.communities and not {0xFFFFFF01, 0xFFFFFF02} & set(made.communities):
                made = replace(made, communities=tuple(sorted((*made.communities, 0xFFFFFF01))))
        kept = self.world.kept.get(name, {}).get(nlri, Kept.ALIKE)
        if kept is Kept.LONG_LIVED:
            made = replace(made, communities=tuple(sorted({*made.communities, 0xFFFF0006})))
        return Known(name, made, Blackhole() if "blackhole" in answer.said else None, kept)

    @staticmethod
    def is_looped(path: Known) -> bool:
        """Tell whether a loop check refuses it."""
        attributes = path.attributes
        return (
            any(ASN in members for _, members in attributes.as_path.segments)
            or attributes.originator_id == ROUTER_ID
            or CLUSTER_ID in attributes.cluster_list
        )

    def host(self, prefix: Nlri) -> HostRoute | None:
        """Return the kernel route of others that counts at a prefix."""
        routes = [route for route in self.world.hosts if route.prefix == prefix]
        return min(routes, key=lambda r: (r.metric, r.link, str(r.gateway)), default=None)

    def could_need(self, nlri: Nlri) -> set[tuple[IPAddress, bool]]:
        """Return the next hops that our route for a prefix could ever use."""
        return {
            path.hop
            for path in self.paths(nlri)
            if path.peer is not None and path.target is None and not self.is_looped(path)
        }

    def leads_to(self, start: tuple[IPAddress, bool], goal: tuple[IPAddress, bool]) -> bool:
        """Tell whether resolving one next hop could come to need another."""
        seen: set[tuple[IPAddress, bool]] = set()
        ahead = {start}
        while ahead:
            if goal in ahead:
                return True
            seen |= ahead
            ahead = {
                hop
                for at in ahead
                if not at[1]
                for nlri in PREFIXES
                if nlri[0] and contains(nlri, host_nlri(at[0])) and self.host(nlri) is None
                for hop in self.could_need(nlri)
            } - seen
        return False

    def resolve(self, hop: tuple[IPAddress, bool]) -> Resolution | None:
        """Return what a next hop is, None where it cannot be reached."""
        if hop not in self._resolved:
            self._resolved[hop] = self._resolve(hop)
        return self._resolved[hop]

    def _resolve(self, hop: tuple[IPAddress, bool]) -> Resolution | None:
        at, is_single_hop = hop
        if str(at) == "192.0.2.1" and self.world.received.keys() | self.world.up:
            return None
        covering = {Nlri(route.prefix) for route in self.world.hosts} | set(PREFIXES)
        for nlri in sorted((n for n in covering if contains(n, host_nlri(at))), key=lambda n: -n[0]):
            host = self.host(nlri)
            if host is not None and not (is_single_hop and host.kind is HostRouteKind.GATEWAY):
                is_usable = host.kind in {HostRouteKind.CONNECTED, HostRouteKind.GATEWAY}
                return Resolution(host.link, host.gateway, host.metric) if is_usable else None
            if host is not None or is_single_hop or nlri[0] == 0:
                continue
            if any(self.leads_to(needed, hop) for needed in self.could_need(nlri)):
                continue
            selected = self.select(nlri)
            if selected is None:
                continue
            best = selected[0]
            if best.peer is not None and best.target is None:
                found = self.resolve(best.hop)
                assert found is not None
                return Resolution(found.link, found.gateway or best.hop[0], found.cost)
            if best.target is not None:
                return None
        return None

    def select(self, nlri: Nlri) -> tuple[Known, list[Known]] | None:
        """Return the best path, and all that are equal up to the cost."""
        if nlri not in self._selected:
            self._selected[nlri] = self._select(nlri)
        return self._selected[nlri]

    def _select(self, nlri: Nlri) -> tuple[Known, list[Known]] | None:
        left: list[Known] = []
        for path in self.paths(nlri):
            if path.peer is None:
                return path, [path]
            if self.world.is_deferring or self.is_looped(path):
                continue
            if path.target is not None or self.resolve(path.hop) is not None:
                left.append(path)
        if not left:
            return None

        def keep(rank: Callable[[Known], int]) -> None:
            left[:] = [path for path in left if rank(path) == min(map(rank, left))]

        keep(lambda p: p.kept is not Kept.ALIKE or 0xFFFF0006 in p.attributes.communities)
        keep(lambda p: -(100 if p.attributes.local_pref is None else p.attributes.local_pref))
        keep(lambda p: p.attributes.as_path.length)
        keep(lambda p: p.attributes.origin)
        by_as: dict[int | None, int] = {}
        for path in left:
            first = path.attributes.as_path.first
            by_as[first] = min(by_as.get(first, 1 << 40), path.attributes.med or 0)
        left = [path for path in left if (path.attributes.med or 0) == by_as[path.attributes.as_path.first]]
        keep(lambda p: not p.is_external)
        keep(self.cost)
        equal = list(left)
        keep(self.router_id)
        keep(lambda p: len(p.attributes.cluster_list))
        keep(lambda p: int(PEERS[p.peer].address) if p.peer else 0)
        return left[0], equal

    def cost(self, path: Known) -> int:
        """Return what it costs to reach a path's next hop."""
        found = self.resolve(path.hop)
        return 0 if found is None else found.cost

    @staticmethod
    def router_id(path: Known) -> int:
        """Return who made a path, or else who sent it."""
        assert path.peer is not None
        own = ROUTER_IDS[path.peer]
        return own if path.attributes.originator_id is None else path.attributes.originator_id

    def target(self, nlri: Nlri) -> Target | None:
        """Return the kernel route of a prefix."""
        selected = self.select(nlri)
        if selected is None:
            return None
        best, equal = selected
        if best.peer is None or best.target is not None:
            return best.target
        others = [p for p in equal if p is not best and p.target is None]
        others.sort(key=lambda p: (self.router_id(p), int(PEERS[p.peer].address) if p.peer else 0))
        hops = list(dict.fromkeys(path.hop[0] for path in (best, *others)))[: self.world.ecmp]
        return Via(tuple(sorted(hops, key=int)))

    def is_connected(self, nlri: Nlri) -> bool:
        """Tell whether this host has a prefix itself."""
        return any(
            route.prefix == nlri and route.kind in {HostRouteKind.CONNECTED, HostRouteKind.LOCAL}
            for route in self.world.hosts
        )

    def fib(self) -> dict[Nlri, Target]:
        """Return every kernel route."""
        targets = {nlri: self.target(nlri) for nlri in PREFIXES if not self.is_connected(nlri)}
        return {nlri: target for nlri, target in targets.items() if target is not None}

    def told(self, name: PeerName) -> dict[Nlri, PathAttributes]:
        """Return what a peer is to have heard."""
        peer = PEERS[name]
        found: dict[Nlri, PathAttributes] = {}
        for nlri in PREFIXES:
            selected = self.select(nlri)
            if selected is not None:
                made = self._told(peer.name, nlri, selected[0])
                if made is not None and made.originator_id != ROUTER_IDS[name] and made.next_hop != peer.address:
                    found[nlri] = made
        return found

    def _may_tell(self, name: PeerName, best: Known) -> bool:
        peer, communities = self.world.peers[name], best.attributes.communities
        if best.peer == name or 0xFFFFFF02 in communities:
            return False
        if 0xFFFF0006 in communities and name not in KNOWS_LONG_LIVED:
            return False
        if peer.is_external and 0xFFFFFF01 in communities:
            return False
        is_kept = best.peer is None and best.target is not None
        return self.world.drain is not Drain.STOPPED and (self.world.drain is not Drain.DRAINED or is_kept)

    def _told(self, name: PeerName, nlri: Nlri, best: Known) -> PathAttributes | None:
        peer, came = self.world.peers[name], best.attributes
        if not self._may_tell(name, best):
            return None
        answer = self.world.filtered(peer.exports, peer.local_asn, best.peer, came, nlri)
        if answer.attributes is None:
            return None
        came = answer.attributes
        if self.world.drain is not Drain.NONE:
            came = replace(came, local_pref=0, communities=tuple(sorted({0xFFFF0000, *came.communities})))
        ours = dict(peer.next_hops)[family_of(nlri)]
        if "next_hop" in answer.said:
            assert came.next_hop is not None
            ours = came.next_hop
        if peer.is_external:
            subnets = [r for r in self.world.hosts if r.kind is HostRouteKind.CONNECTED]
            is_third_party = (
                peer.next_hop == "auto"
                and came.next_hop is not None
                and any(
                    contains(Nlri(r.prefix), host_nlri(peer.address))
                    and contains(Nlri(r.prefix), host_nlri(came.next_hop))
                    for r in subnets
                )
            )
            return replace(
                came,
                as_path=came.as_path.prepended(ASN),
                next_hop=came.next_hop if is_third_party else ours,
                med=came.med if "med" in answer.said else None,
                local_pref=None,
                originator_id=None,
                cluster_list=(),
            )
        preferred = 100 if came.local_pref is None else came.local_pref
        if best.peer is None:
            return replace(came, next_hop=ours, local_pref=preferred)
        if best.is_external:
            return replace(came, local_pref=preferred)
        if Role.CLIENT not in {peer.role, PEERS[best.peer].role}:
            return None
        return replace(
            came,
            local_pref=preferred,
            originator_id=came.originator_id or ROUTER_IDS[best.peer],
            cluster_list=(CLUSTER_ID, *came.cluster_list),
        )


# ── the Rib under test ───────────────────────────────────────────────────────

Step = tuple[object, ...]


class Pair:
    """A Rib and a World that are told the same, and the peers' ears."""

    def __init__(self) -> None:
        self.world = World()
        self.rib = Rib(ASN, ROUTER_ID, CLUSTER_ID, self.world.ecmp, kernel_enabled=True)
        self.told: dict[PeerName, dict[Nlri, PathAttributes]] = {}
        self.asked_again: set[PeerName] = set()
        self.owed: dict[PeerName, set[Nlri]] = {}  # asked for again, and not yet heard again
        self.ends: dict[PeerName, list[Family]] = {}
        self.installed: dict[Nlri, Target] = {}

    def do(self, step: Step) -> None:  # noqa: C901, PLR0912 - one case for each thing that can happen
        """Let one thing happen to both."""
        match step:
            case ("announce", str() as name, (PathAttributes() as attributes, list() as nlris)):
                if name in self.world.up:
                    self.rib.receive(PeerName(name), attributes, nlris, [])
                    self.world.received[PeerName(name)].update(dict.fromkeys(nlris, attributes))
                    self.world.stale[PeerName(name)] -= set(nlris)
                    for nlri in nlris:
                        self.world.kept.get(PeerName(name), {}).pop(nlri, None)
            case ("withdraw", str() as name, list() as nlris):
                if name in self.world.up:
                    self.rib.receive(PeerName(name), None, [], nlris)
                    self._forget(PeerName(name), lambda nlri: nlri in nlris)
            case ("up", str() as name, frozenset() as keep):
                self._up(PeerName(name), keep)
            case ("down", str() as name, frozenset() as retain, bool() as is_doubted):
                self._down(PeerName(name), retain, is_doubted=is_doubted)
            case ("outlive", str() as name, frozenset() as families):
                if name not in self.world.up:
                    self._outlive(PeerName(name), families)
            case ("sweep", str() as name, frozenset() as families):
                stale = self.world.stale.get(PeerName(name), set())
                self.rib.sweep(PeerName(name), families)
                self._forget(PeerName(name), lambda nlri: nlri in stale and family_of(nlri) in families)
                self._drop_if_gone(PeerName(name))
            case ("originate", nlri, target):
                self.rib.originate(nlri, target, advertise=True, is_movable=target is None)  # type: ignore[arg-type]
                self.world.local[nlri] = target  # type: ignore[index,assignment]
            case ("retire", nlri):
                self.rib.retire(nlri)  # type: ignore[arg-type]
                self.world.local.pop(nlri, None)  # type: ignore[call-overload]
            case ("host", HostRoute() as route):
                if route in self.world.hosts:
                    self.world.hosts.discard(route)
                    self.rib.host_routes_changed([], [route])
                else:
                    self.world.hosts.add(route)
                    self.rib.host_routes_changed([route], [])
            case ("defer", bool() as value):
                self.rib.is_deferring = self.world.is_deferring = value
            case ("refresh", str() as name, Family() as family):
                self.rib.refresh(PeerName(name), family)
                self.asked_again.add(PeerName(name))
                told = self.told.get(PeerName(name), {})
                self.owed.setdefault(PeerName(name), set()).update(n for n in told if family_of(n) is family)
            case ("filter", dict() as filters, dict() as used):
                self.world.filters = {**BUILT_IN, **filters}
                for name, (imports, exports) in used.items():
                    peer = self.world.peers[name]
                    self.world.peers[name] = replace(peer, imports=imports, exports=exports)
                self.rib.filter(filters.values(), self.world.peers.values())
            case ("drain", Drain() as drain):
                self.rib.drain(drain)
                self.world.drain = drain
            case ("work", int() as limit):
                self.rib.work(limit)
            case ("take", str() as name, int() as limit):
                self.take(PeerName(name), limit)
            case ("settle",):
                self.settle()
            case _:
                raise AssertionError(step)

    def _up(self, name: PeerName, keep: frozenset[Family]) -> None:
        negotiated = negotiate(PEERS[name], ROUTER_IDS[name])
        if name in KNOWS_LONG_LIVED:
            offered = replace(negotiated.received.capabilities, long_lived=LongLived())
            negotiated = replace(negotiated, received=replace(negotiated.received, capabilities=offered))
        self.rib.peer_up(self.world.peers[name], negotiated, keep)
        self.rib.send_end_of_rib(name)
        self.world.up.add(name)
        table = self.world.received.setdefault(name, {})
        self.world.stale[name] = set(table)
        self._forget(name, lambda nlri: family_of(nlri) not in keep)
        self.told[name], self.ends[name] = {}, []
        self.asked_again.discard(name)
        self.owed.pop(name, None)

    def _down(self, name: PeerName, retain: frozenset[Family], *, is_doubted: bool) -> None:
        self.rib.peer_down(name, retain, is_doubted=is_doubted)
        self.world.up.discard(name)
        self._forget(name, lambda nlri: family_of(nlri) not in retain)
        stale = self.world.stale[name] = set(self.world.received.get(name, {}))
        if is_doubted:
            kept = self.world.kept.setdefault(name, {})
            kept.update({nlri: Kept.DOUBTED for nlri in stale if nlri not in kept})
        self.told.pop(name, None)
        self.owed.pop(name, None)
        self._drop_if_gone(name)

    def _outlive(self, name: PeerName, families: frozenset[Family]) -> None:
        stale = [nlri for nlri in self.world.stale.get(name, set()) if family_of(nlri) in families]
        unwanted = {nlri for nlri in stale if 0xFFFF0007 in self.world.received[name][nlri].communities}
        self.rib.outlive(name, families)
        self._forget(name, lambda nlri: nlri in unwanted)
        left = [nlri for nlri in stale if nlri not in unwanted]
        self.world.kept.setdefault(name, {}).update(dict.fromkeys(left, Kept.LONG_LIVED))
        self._drop_if_gone(name)

    def _drop_if_gone(self, name: PeerName) -> None:
        if name not in self.world.up and not self.world.received.get(name):
            self.world.received.pop(name, None)

    def _forget(self, name: PeerName, which: Callable[[Nlri], bool]) -> None:
        table = self.world.received.get(name, {})
        for nlri in [nlri for nlri in table if which(nlri)]:
            del table[nlri]
            self.world.stale[name].discard(nlri)
            self.world.kept.get(name, {}).pop(nlri, None)

    def take(self, name: PeerName, limit: int) -> bool:
        """Let one peer hear some; every change must be one."""
        batches = self.rib.take(name, limit)
        for batch in batches:
            if isinstance(batch, EndOfRib):
                assert batch.family not in self.ends[name], "End-of-RIB twice"
                self.ends[name].append(batch.family)
                continue
            if isinstance(batch, RouteRefresh):
                continue
            told = self.told[name]
            self.owed.get(name, set()).difference_update(batch.nlris)
            for nlri in batch.nlris:
                if batch.attributes is None:
                    assert nlri in told, "withdrawn, but never told"
                    del told[nlri]
                else:
                    is_new = nlri not in told or not told[nlri].same_as(batch.attributes)
                    assert is_new or name in self.asked_again, "told twice"
                    told[nlri] = batch.attributes
        return bool(batches)

    def settle(self) -> None:
        """Finish everything, and compare with what follows from the inputs alone."""
        rib, answer = self.rib, Answer(self.world)
        for _ in range(1_000):
            if not rib.work(3):
                break
        else:
            pytest.fail("work never ends")
        for name in self.told:
            while self.take(name, 3):
                pass
            assert not rib.has_routes_for(name)
        fib = answer.fib()
        assert fib == rib.fib.wanted
        for family in BOTH:
            chosen = [nlri for nlri in PREFIXES if family_of(nlri) is family and answer.select(nlri)]
            assert len(chosen) == rib.size(family)
        hops = {hop for target in fib.values() if isinstance(target, Via) for hop in target.next_hops}
        assert hops == set(rib.next_hops.wanted)
        for hop in hops:
            possible = [answer.resolve((hop, is_single_hop)) for is_single_hop in (True, False)]
            assert rib.next_hops.wanted[hop] in possible
        for nlri in PREFIXES:
            selected = answer.select(nlri)
            best = next((c for c in rib.candidates(nlri) if c.is_best), None)
            expected = None if selected is None else selected[0].peer or "local"
            assert expected == (None if best is None else best.peer or "local")
            assert all(c.reason for c in rib.candidates(nlri))
            stale = {name for name, nlris in self.world.stale.items() if nlri in nlris}
            assert stale == {c.peer for c in rib.candidates(nlri) if c.is_stale}
        for name, told in self.told.items():
            assert visible(answer.told(name)) == visible(told), name
            assert visible(told) == visible(dict(rib.advertised(name)))
            for family in BOTH:
                count = sum(family_of(nlri) is family for nlri in told)
                received = sum(family_of(nlri) is family for nlri in self.world.received[name])
                assert (received, count) == rib.counts(name)[family][::2]
                counted = received - min(MOST, sum(family_of(nlri) is family for nlri in self.world.stale[name]))
                assert rib.near_limits(name).get((family, MAX_PREFIXES), (0, MOST)) == (counted, MOST)
            came = self.world.received[name].items()
            passed = [answer.taken_in(name, nlri, attributes) for nlri, attributes in came]
            accepted = sum(path is not None and not answer.is_looped(path) for path in passed)
            assert accepted == sum(counted[1] for counted in rib.counts(name).values())
            assert sorted(self.ends[name], key=lambda f: f.afi) == list(BOTH)
        assert not any(self.owed.values()), "asked for again, and not heard"
        self.asked_again.clear()
        self._write(fib)

    def _write(self, fib: dict[Nlri, Target]) -> None:
        """Play the kernel: what is taken is done, and afterwards it has what is wanted."""
        while changes := pairs(self.rib.fib.take(4, 0.0)):
            for nlri, target in changes:
                assert self.installed.get(nlri) != target, "a route written that was right"
                if target is None:
                    del self.installed[nlri]
                else:
                    self.installed[nlri] = target
            self.rib.fib.acknowledge([nlri for nlri, _ in changes])
        if not self.rib.fib.keep_unwanted:
            assert fib == self.installed


def visible(table: dict[Nlri, PathAttributes]) -> dict[Nlri, tuple[object, ...]]:
    """Return what can be compared by value."""
    return {nlri: export._value_of(attributes) for nlri, attributes in table.items()}


# ── what may happen ──────────────────────────────────────────────────────────

names = st.sampled_from(sorted(PEERS))


@st.composite
def filterings(draw: st.DrawFn, some: st.SearchStrategy[Filter] = definitions) -> Step:
    """Draw filters, and for some peers which of them they have; the others keep names that are still there."""
    filters = {each.name: each for each in draw(st.lists(some, max_size=3))}
    filters |= {name: Filter(name) for name in ("f", "g", "h") if name not in filters}
    in_order = st.lists(st.sampled_from([*filters, *BUILT_IN]), max_size=2, unique=True).map(tuple)
    used = draw(st.dictionaries(names, st.tuples(in_order, in_order), max_size=len(PEERS)))
    return ("filter", filters, used)


some_families = st.sampled_from((frozenset(), frozenset({Family.IPV4}), frozenset(BOTH)))
updates = st.one_of(batches(Family.IPV4), batches(Family.IPV4), batches(Family.IPV6))
prefixes = st.sampled_from(PREFIXES)
announce = st.tuples(st.just("announce"), names, updates)
withdraw = st.tuples(st.just("withdraw"), names, st.lists(prefixes, min_size=1, max_size=4, unique=True))
steps: st.SearchStrategy[Step] = st.one_of(
    announce,
    announce,
    announce,
    withdraw,
    st.tuples(st.just("up"), names, some_families),
    st.tuples(st.just("down"), names, some_families, st.booleans()),
    st.tuples(st.just("outlive"), names, some_families),
    st.tuples(st.just("sweep"), names, some_families),
    st.tuples(st.just("originate"), prefixes, st.sampled_from((None, Blackhole(), OnLink("bgpm1")))),
    st.tuples(st.just("retire"), prefixes),
    st.tuples(st.just("host"), st.sampled_from(HOSTS)),
    st.tuples(st.just("host"), st.sampled_from(HOSTS)),
    st.tuples(st.just("defer"), st.booleans()),
    st.tuples(st.just("refresh"), names, st.sampled_from(BOTH)),
    filterings(),
    st.tuples(st.just("drain"), st.sampled_from(Drain)),
    st.tuples(st.just("work"), st.integers(1, 5)),
    st.tuples(st.just("take"), names, st.integers(1, 5)),
    st.tuples(st.just("settle")),
)
START: tuple[Step, ...] = (
    *(("host", route) for route in HOSTS[:4]),
    *(("up", name, frozenset()) for name in PEERS),  # c1, c2, n1 first
)


LIMITS = {  # prefixes in a batch, in a flush, in the log; spare attribute sets
    "tiny": (2, 3, 2, 2),
    "short log": (50, 50, 2, 0),
    "as they are": (export.BATCH_PREFIXES, export.FLUSH_PREFIXES, export.LOG_SLACK, export.SPARE_ADVERTS),
}


@pytest.fixture(params=LIMITS, autouse=True)
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make batches split, logs overflow and slow members fall behind with a handful of prefixes, or not."""
    names = ("BATCH_PREFIXES", "FLUSH_PREFIXES", "LOG_SLACK", "SPARE_ADVERTS")
    for name, value in zip(names, LIMITS[request.param], strict=True):
        monkeypatch.setattr(export, name, value)


examples = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@examples
@given(st.lists(steps, max_size=40))
def test_incremental_equals_from_scratch(happened: list[Step]) -> None:
    """Whatever happened in whatever slices, the Rib says what its inputs alone say, to kernel and peers."""
    pair = Pair()
    for step in (*START, *happened, ("settle",), ("defer", False), ("settle",)):
        pair.do(step)


narrow_prefixes = st.lists(st.sampled_from(PREFIXES[1:5]), min_size=1, max_size=4, unique=True)
narrow_names = st.sampled_from(("c1", "c2", "n1"))
narrow_steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(
        st.just("announce"),
        narrow_names,
        st.tuples(
            st.builds(
                PathAttributes,
                next_hop=st.just(NEXT_HOPS[Family.IPV4][3]),
                local_pref=st.sampled_from((100, 200)),
                med=st.sampled_from((0, 1)),
                originator_id=st.sampled_from((None, RouterId(101))),
            ),
            narrow_prefixes,
        ),
    ),
    st.tuples(st.just("withdraw"), narrow_names, narrow_prefixes),
    st.tuples(st.just("refresh"), narrow_names, st.just(Family.IPV4)),
    st.tuples(st.just("drain"), st.sampled_from(Drain)),
    st.tuples(st.just("work"), st.just(100)),
    st.tuples(st.just("take"), narrow_names, st.integers(1, 5)),
    st.tuples(st.just("take"), narrow_names, st.integers(1, 5)),
)


@examples
@given(st.lists(narrow_steps, max_size=40))
def test_what_peers_heard_is_what_they_should_know(happened: list[Step]) -> None:
    """Three peers fight for few prefixes and read at their own pace: each ends with what from-scratch says."""
    pair = Pair()
    for step in (*START[:7], *happened, ("settle",)):
        pair.do(step)


def states_of(pair: Pair) -> tuple[object, ...]:
    """Return what a Rib says at rest."""
    pair.settle()
    return dict(pair.rib.fib.wanted), {name: visible(told) for name, told in pair.told.items()}


@examples
@given(st.lists(st.tuples(names, updates), min_size=1, max_size=4, unique_by=lambda s: (s[0], tuple(s[1][1]))))
def test_any_order_of_announcements_gives_the_same_tables(
    said: list[tuple[PeerName, tuple[PathAttributes, list[Nlri]]]],
) -> None:
    """Every permutation of what peers announce, with something else announced and withdrawn before, ends alike."""
    taken: set[tuple[PeerName, Nlri]] = set()
    apart: list[Step] = []
    for name, (attributes, nlris) in said:  # one announcement for each prefix and peer: order must not matter
        left = [nlri for nlri in nlris if (name, nlri) not in taken]
        taken |= {(name, nlri) for nlri in left}
        apart.append(("announce", name, (attributes, left)))
    ends = []
    for order in itertools.permutations(apart):
        pair = Pair()
        for step in START:
            pair.do(step)
        for step in order:
            pair.do(("announce", step[1], (PathAttributes(next_hop=NEXT_HOPS[Family.IPV4][3]), list(PREFIXES[:8]))))
            pair.do(("withdraw", step[1], [n for n in PREFIXES[:8] if (step[1], n) not in taken]))
            pair.do(("work", 2))
        for step in order:
            pair.do(("withdraw", step[1], [n for n in PREFIXES if (step[1], n) in taken]))
        for step in order:
            pair.do(step)
        ends.append(states_of(pair))
    assert all(end == ends[0] for end in ends)


# ── filters ──────────────────────────────────────────────────────────────────

easy_hops = {
    family: [hop for hop in hops if str(hop) in {"192.0.2.20", "2001:db8::5"}] for family, hops in NEXT_HOPS.items()
}
easy_updates = updates.map(
    lambda update: (replace(update[0], next_hop=easy_hops[family_of(update[1][0])][0]), update[1])
)
easy = st.tuples(st.just("announce"), names, easy_updates)
# Filters of which each wants a mark that another puts on or takes off: what lies between two of them differs from both.
MARKS = (Community("64512:1"), Community("64512:2"))
marking = st.builds(
    lambda action, wanted, gone, come: Rule(
        action=action,
        community=wanted,
        **({"remove_community": gone, "add_community": come} if action == "accept" else {}),
    ),
    st.sampled_from(("accept", "accept", "accept", "reject")),
    *(st.sampled_from(((), *((mark,) for mark in MARKS))) for _ in range(3)),
)
plain_filters = st.builds(
    lambda name, default, some: Filter(name, default, tuple(some)),
    st.sampled_from(("f", "g", "h")),
    st.sampled_from(("accept", "reject")),
    st.lists(marking, min_size=1, max_size=2),
)
plain_filterings = filterings(plain_filters)
turns = st.lists(st.one_of(st.tuples(st.just("work"), st.integers(1, 9)), st.tuples(names, st.integers(1, 5))))


def heard_by(pair: Pair) -> dict[PeerName, dict[Nlri, tuple[object, ...]]]:
    return {name: visible(told) for name, told in pair.told.items()}


class Ears:
    """Who listens to a Rib while its filters change: what each peer was told of, and what was written."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.told: dict[PeerName, list[Nlri]] = {name: [] for name in pair.told}
        self.written: list[Nlri] = []

    def listen(self, name: PeerName, limit: int) -> bool:
        """Let a peer hear some."""
        batches = [batch for batch in self.pair.rib.take(name, limit) if isinstance(batch, Batch)]
        for batch in batches:
            self.told[name] += batch.nlris
            for nlri in batch.nlris:
                _put(self.pair.told[name], nlri, batch.attributes)
        return bool(batches)

    def write(self, limit: int) -> bool:
        """Let the kernel do some."""
        changes = pairs(self.pair.rib.fib.take(limit, 0.0))
        for nlri, target in changes:
            self.written.append(nlri)
            _put(self.pair.installed, nlri, target)
        self.pair.rib.fib.acknowledge([nlri for nlri, _ in changes])
        return bool(changes)

    def finish(self) -> None:
        """Let all happen that still will."""
        while self.pair.rib.work(5):
            pass
        for name in self.told:
            while self.listen(name, 3):
                pass
        while self.write(3):
            pass
        self.pair.settle()


def _put(table: dict[Nlri, V], nlri: Nlri, value: V | None) -> None:
    table.pop(nlri, None)
    if value is not None:
        table[nlri] = value


@examples
@given(st.lists(easy, min_size=1, max_size=12), plain_filterings, plain_filterings, turns)
def test_a_change_of_filters_is_told_and_written_once(
    said: list[Step], before: Step, after: Step, order: list[tuple[str, int]]
) -> None:
    """Nobody hears of a prefix that is the same to it, nor twice of one that is not; so does the kernel."""
    pair = Pair()
    for step in (*START, before, *said, ("settle",)):
        pair.do(step)
    heard, installed = heard_by(pair), dict(pair.installed)
    pair.do(after)
    ears = Ears(pair)
    for what, number in order:
        if what == "work":
            pair.rib.work(number)
            ears.write(number)
        else:
            ears.listen(PeerName(what), number)
    ears.finish()
    for name, table in heard_by(pair).items():
        different = [nlri for nlri in PREFIXES if table.get(nlri) != heard[name].get(nlri)]
        assert sorted(ears.told[name]) == sorted(different), name
    assert sorted(ears.written) == sorted(n for n in PREFIXES if installed.get(n) != pair.installed.get(n))


# ── the path does not matter: lists of states, walked in every way ───────────

State = tuple[Step, ...]


def plain(hop: str, **options: object) -> PathAttributes:
    """Return a plain attribute set with a next hop."""
    next_hop = next(h for hops in NEXT_HOPS.values() for h in hops if str(h) == hop)
    return replace(PathAttributes(next_hop=next_hop), **options)  # type: ignore[arg-type]


P1, P2, P3 = PREFIXES[1], PREFIXES[4], PREFIXES[3]
SCENARIOS: dict[str, tuple[State, ...]] = {
    "a better path comes": (
        (("announce", "c1", (plain("192.0.2.20"), [P1])),),
        (
            ("announce", "c1", (plain("192.0.2.20"), [P1])),
            ("announce", "n1", (plain("192.0.2.12", local_pref=200), [P1])),
        ),
        (("announce", "n1", (plain("192.0.2.12", local_pref=200), [P1])),),
    ),
    "a chain of next hops": (
        (("announce", "c1", (plain("10.1.1.1"), [P2])),),
        (("announce", "c1", (plain("10.1.1.1"), [P2])), ("announce", "n1", (plain("10.2.2.2"), [PREFIXES[6]]))),
        (
            ("announce", "c1", (plain("10.1.1.1"), [P2])),
            ("announce", "n1", (plain("10.2.2.2"), [PREFIXES[6]])),
            ("announce", "c2", (plain("192.0.2.20"), [P3])),
        ),
        (("announce", "n1", (plain("10.2.2.2"), [P3])), ("announce", "c2", (plain("10.1.1.1"), [P2]))),
    ),
    "our own beside theirs": (
        (("originate", P1, Blackhole()), ("announce", "e1", (plain("192.0.2.20"), [P1, P2]))),
        (("announce", "e1", (plain("192.0.2.20"), [P1, P2])),),
        (("originate", P1, OnLink("bgpm1")), ("originate", P2, None)),
    ),
    "equal paths": (
        (("announce", "c1", (plain("192.0.2.20"), [P1])), ("announce", "c2", (plain("192.0.2.12"), [P1]))),
        (
            ("announce", "c1", (plain("192.0.2.20"), [P1])),
            ("announce", "c2", (plain("192.0.2.12"), [P1])),
            ("announce", "n1", (plain("172.16.0.5"), [P1])),
        ),
        (("announce", "c2", (plain("192.0.2.12", med=5), [P1])), ("announce", "n1", (plain("192.0.2.20"), [P1]))),
    ),
}


def leave(state: State) -> Iterator[Step]:
    """Undo a state."""
    for step in state:
        match step:
            case ("announce", name, (_, nlris)):
                yield ("withdraw", name, nlris)
            case ("originate", nlri, _):
                yield ("retire", nlri)


def between(before: State, after: State) -> list[Step]:
    """Return the steps from one state to the next."""
    gone = [step for step in leave(before) if step not in list(leave(after))]
    return [*gone, *after]


def walks(states: Sequence[State]) -> dict[str, list[list[Step]]]:
    """Return ways to the last state, as lists of steps between which something may be flushed."""
    around = [state for pair in zip(states, [()] * len(states), strict=True) for state in pair][:-1]
    backward = [*reversed(states), *states[1:]]
    return {
        "forward": [between(a, b) for a, b in itertools.pairwise([(), *states])],
        "back and forth": [between(a, b) for a, b in itertools.pairwise([(), *backward])],
        "through nothing": [between(a, b) for a, b in itertools.pairwise([(), *around])],
        "split": [[step] for a, b in itertools.pairwise([(), *states]) for step in between(a, b)],
        "at once": [[step for a, b in itertools.pairwise([(), *states]) for step in between(a, b)]],
        "directly": [list(states[-1])],
    }


CADENCES: dict[str, tuple[list[Step], bool]] = {
    "at the end": ([], False),
    "work each time": ([("work", 100)], False),
    "a little work": ([("work", 1), ("take", "c1", 1)], False),
    "settled each time": ([("settle",)], False),
    "everything twice": ([("work", 2)], True),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_path_does_not_matter(scenario: str) -> None:
    """A list of states, walked forward, back, through nothing, split, squashed, at five cadences, ends alike."""
    states = SCENARIOS[scenario]
    ends = {}
    for (way, parts), (cadence, (flush, is_twice)) in itertools.product(walks(states).items(), CADENCES.items()):
        pair = Pair()
        for step in (*START, ("take", "n1", 1)):
            pair.do(step)
        for part in parts:
            for step in part:
                pair.do(step)
                if is_twice:
                    pair.do(step)
            for step in flush:
                pair.do(step)
        ends[way, cadence] = states_of(pair)
    expected = ends["directly", "at the end"]
    assert dict.fromkeys(ends, expected) == ends


@examples
@given(st.lists(announce, max_size=8), st.lists(st.tuples(names, st.integers(1, 4)), max_size=10))
def test_a_session_that_returns_with_the_same_changes_nothing(
    said: list[Step], turns: list[tuple[PeerName, int]]
) -> None:
    """All peers restart gracefully and say the same again: no route is written, nobody is told anything."""
    pair = Pair()
    for step in (*START, *said):
        pair.do(step)
    pair.settle()
    tables = {name: dict(table) for name, table in pair.world.received.items()}
    name = PeerName("c1")
    pair.do(("down", name, frozenset(BOTH), False))
    pair.settle()
    pair.do(("up", name, frozenset(BOTH)))
    heard = {other: visible(told) for other, told in pair.told.items() if other != name}
    for nlri, attributes in tables[name].items():
        pair.do(("announce", name, (replace(attributes), [nlri])))  # equal, but another codec's object
        pair.do(("work", 1))
    pair.do(("sweep", name, frozenset(BOTH)))
    while pair.rib.work(5):
        pass
    assert pairs(pair.rib.fib.take(100, 0.0)) == []
    for other in heard:
        assert not any(pair.rib.take(other, 100))
    for who, limit in turns:
        pair.do(("take", who, limit))
    pair.settle()


def test_router_ids_differ() -> None:
    """The model's last tie-breaks rest on this."""
    assert len(set(ROUTER_IDS.values())) == len(ROUTER_IDS)
    assert RouterId(101) in ROUTER_IDS.values()
