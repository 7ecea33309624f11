"""The Rib: what every peer told us, what we believe of it, and what follows for kernel and peers.

    receive, originate, peer_up, host_routes_changed ..   note the fact; cheap
    work(limit)                                           re-resolve, select, want, offer; in slices
    fib, next_hops (Deltas), take(peer)                   what follows

Everything moves as (one path, many prefixes), through the parts in this order: an `AdjRibIn` for each peer, `Import`,
`LocRib`, then the `fib` and the update `Groups`. None of them knows the Rib; it hands on what they answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import cast

from bgpmesh.delta import Delta
from bgpmesh.peering.message import Negotiated
from bgpmesh.peering.peer import Peer
from bgpmesh.rib.adjribin import SPARE_PATHS, AdjRibIn
from bgpmesh.rib.candidate import Candidate, candidates
from bgpmesh.rib.claimants import Claimants
from bgpmesh.rib.decision import Kept, Path, Selection
from bgpmesh.rib.drain import Drain
from bgpmesh.rib.export import Told
from bgpmesh.rib.filter import Filters
from bgpmesh.rib.groups import Groups
from bgpmesh.rib.importing import Import
from bgpmesh.rib.locrib import LocRib
from bgpmesh.rib.nexthop import NextHop
from bgpmesh.rib.numbers import Numbers
from bgpmesh.rib.rule import Filter
from bgpmesh.rib.ways import Ways
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.claim import Claims
from bgpmesh.route.nlri import (
    PATH_ID_SIZE,
    PATH_WIDTHS,
    WIDTHS,
    Family,
    IPAddress,
    Nlri,
    by_width,
    nlri_order,
    prefix_of,
)
from bgpmesh.route.path import LOCAL, HostRoute, PeerName, Source, Target, Via


class Rib:
    """AdjRibIn, LocRib and AdjRibOut of one node; the package's one door."""

    def __init__(
        self, asn: Asn, router_id: RouterId, cluster_id: RouterId | None, ecmp: int, kernel_enabled: bool
    ) -> None:
        self.fib: Delta[Nlri, Target] = Delta()
        self.floating: set[Nlri] = set()  # selected, and said to be floating addresses by the node that has them
        self.is_floating_stirred = False  # that set has changed; whoever reads it puts this back
        self.said: dict[Nlri, Claims | None] = {}  # what is said of addresses since whoever reads this emptied it
        # Prefixes whose best path became another's: whose it was, whose it is; the same.
        self.replaced: list[tuple[Collection[Nlri], PeerName | None, PeerName | None]] = []
        self._kernel_enabled = kernel_enabled
        self._ins: dict[PeerName, AdjRibIn] = {}
        self._local: dict[Nlri, Path] = {}
        self._local_paths: dict[tuple[PathAttributes, Target | None, bool, bool, bool], Path] = {}
        self._local_attributes = PathAttributes()
        self._table = LocRib(ecmp)
        self.ways = Ways(self._table.candidates, self._table.own_route, is_kernel_enabled=kernel_enabled)
        self.host, self.next_hops = self.ways.host, self.ways.objects
        self._own_prefixes: set[Nlri] = set()  # connected on this host, or its addresses
        self._import = Import(self._ins, self.ways, asn, router_id, cluster_id)
        self.refused_claims = self._import.refused  # what is said of addresses and not believed; the same
        self.loop = self._import.loop  # how what has some attributes has been here before, in words
        self._filters = Filters()
        self._unfiltered: dict[PeerName, list[Nlri]] = {}  # what has still to go through changed import filters
        self._numbers = Numbers(self._ins)
        self._groups = Groups(self._filters, self._table.selected, self._numbers.of)

    # ── who we are ───────────────────────────────────────────────────────────

    @property
    def is_deferring(self) -> bool:
        """Whether learnt paths are stored but not selected (RFC 4724 §4.1); local ones always are."""
        return self._table.is_deferring

    @is_deferring.setter
    def is_deferring(self, value: bool) -> None:
        # What exists unwanted is kept until the work that follows is done, not only until it is ordered.
        if value:
            self.fib.keep_unwanted = self.next_hops.keep_unwanted = True
        self._table.defer(value)

    def configure(self, asn: Asn, router_id: RouterId, cluster_id: RouterId | None, ecmp: int) -> None:
        """Take a new identity; loop checks and decisions are made again where they depend on it."""
        if self._import.configure(asn, router_id, cluster_id) | self._table.split_over(ecmp):
            self.ways.candidates_moved(self._table.candidates)
            self._table.decide_again(self._table.candidates)

    def believe(self, claimants: Claimants | None) -> None:
        """Take who may say what of addresses (None: nothing is heard); what was heard is judged again."""
        if not self._import.believe(claimants):
            return
        for rib_in in self._ins.values():
            heard: dict[tuple[PathAttributes, Kept], list[Nlri]] = {}
            for key, path in rib_in.table.items() if rib_in.peer.in_cluster else ():
                if path.received.large_communities:
                    heard.setdefault((path.received, path.kept), []).append(key)
            rib_in.made = {became: path for became, path in rib_in.made.items() if not became[0].large_communities}
            for (attributes, kept), keys in heard.items():
                self._store(rib_in, attributes, keys, rib_in.table[keys[0]].read_at, kept)

    def filter(self, filters: Iterable[Filter], peers: Iterable[Peer]) -> None:
        """Take the filters, and each peer as it is now; `work` finds out what follows for routes and peers.

        What came in goes through changed import filters again, as it was received; what is selected through changed
        export filters. No decision is made before the first is done, and no peer is told anything before all
        is: so each hears the difference, and nothing of what lies in between.
        """
        changed = self._filters.take(filters)
        others: list[Peer] = []
        for peer in peers:
            rib_in = self._ins.get(peer.name)
            if rib_in is not None and (peer.name not in self._groups.members or rib_in.peer.has_same_session(peer)):
                others += [peer] if peer != rib_in.peer else []
                self._filter_peer(rib_in, peer, changed)
        self._groups.is_held |= self._see(others)
        self._take_own_addresses()
        self._groups.filter(changed)

    def drain(self, drain: Drain) -> None:
        """Have peers hear what a node says that has left service so far; none is told anything before all is known."""
        self._groups.drain(drain)

    def _filter_peer(self, rib_in: AdjRibIn, peer: Peer, changed: set[str]) -> None:
        before, rib_in.peer = rib_in.peer, peer
        if peer.allow_own_asn != before.allow_own_asn:
            rib_in.made.clear()  # none is judged as it was
        is_judged_alike = (peer.imports, peer.allow_own_asn) == (before.imports, before.allow_own_asn)
        if not is_judged_alike or not changed.isdisjoint(peer.imports):
            rib_in.filters = self._filters.chain(peer.imports, peer.asn)
            self._unfiltered[peer.name] = list(rib_in.table)
            self._groups.is_held = True

    def _see(self, peers: Iterable[Peer]) -> bool:
        """Have peers in the groups of their present views; tell whether any is another."""
        most_paths = self._groups.see((peer, self.host.connected_subnet(peer.address)) for peer in peers)
        if most_paths:
            self._table.rank()
        return most_paths is not None

    def _filter_again(self, limit: int) -> None:
        """Send up to `limit` prefixes of a peer through its import filters, as they came."""
        name, keys = next(iter(self._unfiltered.items()))
        part = keys[-limit:]
        del keys[-limit:]
        if not keys:
            del self._unfiltered[name]
        rib_in = self._ins.get(name)
        if rib_in is None:
            return
        alike: dict[Path, list[Nlri]] = {}
        for path, run in groupby(part, rib_in.table.get):
            if path is not None:
                alike.setdefault(path, []).extend(run)
        for path, some in alike.items():
            self._store(rib_in, path.received, some, path.read_at, path.kept)

    # ── peers come and go ────────────────────────────────────────────────────

    def peer_up(self, peer: Peer, negotiated: Negotiated, keep: frozenset[Family]) -> None:
        """Begin a session: stale paths of `keep` stay, the rest of its stale paths go, everything is advertised."""
        source = Source(peer.name, peer.role, negotiated.received.router_id, peer.address, peer.is_single_hop)
        filters = self._filters.chain(peer.imports, peer.asn)
        rib_in = self._ins.get(peer.name)
        if rib_in is None:
            self._ins[peer.name] = AdjRibIn(peer, source, filters)
        else:
            self.peer_down(peer.name, keep)
            self._ins.setdefault(peer.name, rib_in).begin(peer, source, filters)
        self._take_own_addresses()
        if self._groups.join(peer, negotiated, self.host.connected_subnet(peer.address)):
            self._table.rank()

    def peer_down(self, name: PeerName, retain: frozenset[Family], *, is_doubted: bool = False) -> None:
        """End a session: its paths of `retain` become stale and stay selected, the others go.

        Where `is_doubted` they stay only as long as there is no other (RFC 8538 leaves that to us).
        """
        rib_in = self._ins.get(name)
        if rib_in is None:
            return
        self._groups.leave(name)
        self._withdraw(rib_in, rib_in.keys_in(frozenset(WIDTHS) - retain))
        rib_in.doubt()
        if is_doubted:
            self._lower(rib_in, rib_in.stale, Kept.DOUBTED)
        self._drop_if_empty(rib_in)

    def outlive(self, name: PeerName, families: frozenset[Family]) -> None:
        """Keep what is still stale of these families for long, marked and after all others (RFC 9494 §4.2)."""
        rib_in = self._ins.get(name)
        if rib_in is not None:
            self._withdraw(rib_in, list(filter(rib_in.is_short_lived, rib_in.stale_of(families))))
            self._lower(rib_in, rib_in.stale_of(families), Kept.LONG_LIVED)
            self._drop_if_empty(rib_in)

    def mark_stale(self, name: PeerName, family: Family) -> None:
        """Let all paths of a family be stale, and used, until the peer says them again (RFC 7313 §4); O(table)."""
        rib_in = self._ins.get(name)
        if rib_in is not None:
            rib_in.doubt([family])

    def sweep(self, name: PeerName, families: frozenset[Family]) -> None:
        """Drop what is still stale of these families: the peer said End-of-RIB, or its time is up."""
        rib_in = self._ins.get(name)
        if rib_in is not None:
            self._withdraw(rib_in, rib_in.sweep(families))
            self._drop_if_empty(rib_in)

    def _lower(self, rib_in: AdjRibIn, keys: Iterable[Nlri], kept: Kept) -> None:
        """Have what is kept of stale paths in their place."""
        for path, batch in rib_in.lower(keys, kept):
            if len(next(iter(batch))) in PATH_WIDTHS:
                self._replace(rib_in, map(prefix_of, batch))
            else:
                self.ways.candidates_moved(self._table.insert(path, batch))

    def _drop_if_empty(self, rib_in: AdjRibIn) -> None:
        if rib_in.peer.name not in self._groups.members and not rib_in.table:
            del self._ins[rib_in.peer.name]
            self._take_own_addresses()
            self.ways.has_idle = True

    def _take_own_addresses(self) -> None:
        own: dict[int, IPAddress] = {}  # by their objects: most are one, and are slow to hash
        for rib_in in self._ins.values():
            peer = rib_in.peer
            if peer.local_address is not None:
                own[id(peer.local_address)] = peer.local_address
            for _, address in peer.next_hops:
                own[id(address)] = address
        self.ways.know_own(set(own.values()))

    # ── routes come and go ───────────────────────────────────────────────────

    def receive(
        self,
        name: PeerName,
        attributes: PathAttributes | None,
        announced: Sequence[Nlri],
        withdrawn: Sequence[Nlri],
        read_at: float = 0.0,
    ) -> None:
        """Store one UPDATE of an established peer; a prefix both withdrawn and announced is announced."""
        rib_in = self._ins.get(name)
        if rib_in is None or name not in self._groups.members:
            return  # what was still on its way when the session ended
        if withdrawn:
            self._withdraw(rib_in, withdrawn)
        if announced and attributes is not None:
            rib_in.refresh(announced)
            self._store(rib_in, attributes, announced, read_at)

    def _store(
        self,
        rib_in: AdjRibIn,
        attributes: PathAttributes,
        announced: Sequence[Nlri],
        read_at: float,
        kept: Kept = Kept.ALIKE,
    ) -> None:
        for keys in by_width(announced):
            if rib_in.stale:
                self._withdraw(rib_in, rib_in.left_of_others(keys))
            if len(keys[0]) in PATH_WIDTHS:
                self._store_paths(rib_in, attributes, keys, read_at, kept)
                continue
            for path, part in self._import.run(rib_in, attributes, keys, read_at, kept):
                self.ways.candidates_moved(self._table.insert(path, rib_in.put(path, part)))

    def _store_paths(
        self, rib_in: AdjRibIn, attributes: PathAttributes, keys: Sequence[Nlri], read_at: float, kept: Kept
    ) -> None:
        """Store what came with path identifiers; filters and claims are about prefixes."""
        named = cast("dict[Nlri, Nlri]", {key[PATH_ID_SIZE:]: key for key in keys})
        several: dict[Nlri, list[Nlri]] = {}
        if len(named) < len(keys):  # a prefix is there more than once
            for key in keys:
                several.setdefault(prefix_of(key), []).append(key)
        for path, part in self._import.run(rib_in, attributes, list(named), read_at, kept):
            of_part = chain.from_iterable(map(several.__getitem__, part)) if several else map(named.__getitem__, part)
            rib_in.put(path, of_part)
        if several:
            rib_in.know_several(several)
        else:
            rib_in.know_keys(named)
        self._replace(rib_in, named)

    def _withdraw(self, rib_in: AdjRibIn, keys: Collection[Nlri]) -> None:
        gone, stirred = rib_in.withdraw(keys)
        if stirred:
            self._replace(rib_in, stirred)
        if gone:
            self.ways.candidates_moved(self._table.remove(rib_in.peer.name, gone))

    def _replace(self, rib_in: AdjRibIn, nlris: Iterable[Nlri]) -> None:
        """Make the candidates of these prefixes have the paths that this peer sends of them now, each of several."""
        self.ways.candidates_moved(self._table.replace(rib_in.peer.name, rib_in.paths_of(nlris)))

    def originate(
        self,
        nlri: Nlri,
        target: Target | None,
        *,
        advertise: bool,
        attributes: PathAttributes | None = None,
        is_for_cluster: bool = False,
        is_movable: bool = False,
    ) -> None:
        """Make a prefix this node's own: `target` is its kernel route (None: none of ours)."""
        said = self._local_attributes if attributes is None else attributes
        key = (said, target, advertise, is_for_cluster, is_movable)
        path = self._local_paths.get(key)
        if path is None:
            path = Path(
                LOCAL,
                said,
                said,
                target=target,
                is_advertised=advertise,
                is_for_cluster=is_for_cluster,
                is_movable=is_movable,
            )
            self._local_paths[key] = path
        if self._local.get(nlri) is not path:
            self._local[nlri] = path
            self.ways.candidates_moved(self._table.insert(path, {nlri: path}))

    def retire(self, nlri: Nlri) -> None:
        """Make a prefix no longer this node's own."""
        if self._local.pop(nlri, None) is not None:
            self.ways.candidates_moved(self._table.remove(None, [nlri]))
            if len(self._local_paths) > 2 * len(self._local) + SPARE_PATHS:
                live = set(self._local.values())
                self._local_paths = {key: path for key, path in self._local_paths.items() if path in live}

    def host_routes_changed(self, added: Iterable[HostRoute], removed: Iterable[HostRoute]) -> None:
        """Follow the kernel's other routes: next hops in what changed are re-resolved by `work`."""
        for prefix in self.ways.host_routes_changed(added, removed):
            if self.host.is_own(prefix) == (prefix in self._own_prefixes):
                continue
            selection = self._table.selected.get(prefix)
            if prefix in self._own_prefixes:
                self._own_prefixes.discard(prefix)
                self._program({prefix: None}, None, selection)
            else:
                self._program({prefix: None}, selection, None)
                self._own_prefixes.add(prefix)
        peers = (rib_in.peer for rib_in in self._ins.values())
        self._see(peer for peer in peers if peer.is_external and peer.next_hop == "auto")

    # ── the thinking ─────────────────────────────────────────────────────────

    def work(self, limit: int) -> bool:
        """Think about up to `limit` prefixes; True if more remains."""
        if self._unfiltered:
            self._filter_again(limit)
            return True
        moved = self.ways.resolve()
        if moved:
            self._table.decide_again(chain.from_iterable(rib_in.prefixes_by(moved) for rib_in in self._ins.values()))
        nlris = self._table.take_work(limit)
        for batch, old, new in self._table.settle(nlris) if nlris else ():
            if old is not None and new is not None and old.best.peer != new.best.peer:
                self.replaced.append((batch, old.best.peer, new.best.peer))
            self._follow(batch, old, new)
            self._groups.offer(batch, old, new)
        self._groups.offer_backlogs(limit - len(nlris))
        if self._has_work():
            return True
        self._groups.all_is_offered()
        if self.ways.has_idle:
            self._forget_hops()
        if self.fib.keep_unwanted and not self.is_deferring:
            self.fib.keep_unwanted = self.next_hops.keep_unwanted = False
        return False

    def _has_work(self) -> bool:
        return bool(self._unfiltered or self._table.has_work or self.ways.is_in_doubt or self._groups.has_backlog)

    def _follow(self, batch: Mapping[Nlri, object], old: Selection | None, new: Selection | None) -> None:
        """Do what follows here from it that prefixes, the keys, have another selection."""
        self._program(batch, old, new)
        if (old is not None and old.best.is_floating) or (new is not None and new.best.is_floating):
            self._mark_floating(batch, is_floating=new is not None and new.best.is_floating)
        was, now = None if old is None else old.best.claims, None if new is None else new.best.claims
        if was is not now:
            self.said.update(dict.fromkeys(batch, now))
        self.ways.selection_moved(batch)

    def _mark_floating(self, nlris: Iterable[Nlri], *, is_floating: bool) -> None:
        """Note which prefixes are floating addresses by what was selected for them; a longer range is none."""
        hosts = [nlri for nlri in nlris if nlri[0] == 8 * (len(nlri) - 1)]
        before = len(self.floating)
        if is_floating:
            self.floating.update(hosts)
        else:
            self.floating.difference_update(hosts)
        self.is_floating_stirred |= len(self.floating) != before

    def _program(self, batch: Mapping[Nlri, object], old: Selection | None, new: Selection | None) -> None:
        """Move prefixes, the keys, from one kernel route to another, and count the next hops in use."""
        was, now = None if old is None else old.target, None if new is None else new.target
        gone, come = _hops_of(old), _hops_of(new)
        if not self._kernel_enabled or (was == now and gone == come):
            return
        nlris: Collection[Nlri] = batch
        if not batch.keys().isdisjoint(self._own_prefixes):
            nlris = [nlri for nlri in batch if nlri not in self._own_prefixes]
            if not nlris:
                return
        self.ways.count(gone, come, len(nlris))
        if was == now:
            return
        if now is None:
            self.fib.unwant_many(nlris)
        else:
            self.fib.want_many(nlris, now)

    def _forget_hops(self) -> None:
        """Forget the next hops that no path has any more."""
        ins, selections = self._ins.values(), set(self._table.selected.values())
        paths = chain(*(rib_in.table.values() for rib_in in ins), *(rib_in.made.values() for rib_in in ins))
        self.ways.keep({path.next_hop for path in chain(set(paths), *(each.multipath for each in selections))})

    # ── what peers hear ──────────────────────────────────────────────────────

    def refresh(self, name: PeerName, family: Family) -> None:
        """Advertise a family to this peer again (RFC 2918), between BoRR and EoRR if it knows them (RFC 7313)."""
        self._groups.refresh(name, family)

    def send_end_of_rib(self, name: PeerName) -> None:
        """Close the first advertisement with End-of-RIB once what is queued has been taken (RFC 4724 §2)."""
        self._groups.owe_end_of_rib(name)

    def stirred(self) -> set[PeerName]:
        """Return the peers for whom `take` may have something that it had not when it last returned nothing.

        Each is told once. It costs what has changed, not what there is: with thousands of peers most have nothing.
        """
        return self._groups.stirred()

    def has_routes_for(self, name: PeerName) -> bool:
        """Tell whether `take` may have something for the peer."""
        return self._groups.has_routes_for(name) or self._may_end(name)

    def take(self, name: PeerName, limit: int) -> list[Told]:
        """Return the next batches for a peer, of about `limit` prefixes together; [] when there is none."""
        return self._groups.take(name, limit, may_end=self._may_end(name))

    def _may_end(self, name: PeerName) -> bool:
        return self._groups.owes_end_of_rib(name) and not self._has_work()

    # ── views ────────────────────────────────────────────────────────────────

    def size(self, family: Family) -> int:
        """Count the prefixes of a family that have a selected path."""
        return self._table.size(family)

    def prefixes(self) -> list[Nlri]:
        """Return every prefix that anybody announces, selected or not, in the order of their keys."""
        return sorted(self._table.candidates, key=nlri_order)

    def best(self, nlri: Nlri) -> Selection | None:
        """Return what is selected for a prefix."""
        return self._table.selected.get(nlri)

    def candidates(self, nlri: Nlri) -> list[Candidate]:
        """Return every path of a prefix, the selected ones first, each with its reason."""
        return candidates(nlri, self.best(nlri), self._table.reasons(nlri), self._ins)

    def received(self, name: PeerName) -> Iterator[tuple[Nlri, PathAttributes]]:
        """Yield what a peer announced, before filters; where it sends several paths, by path."""
        rib_in = self._ins.get(name)
        return iter(()) if rib_in is None else ((key, path.received) for key, path in rib_in.table.items())

    def advertised(self, name: PeerName) -> Iterator[tuple[Nlri, PathAttributes]]:
        """Yield what a peer has been told, or is being told; where it takes several paths, by path."""
        member = self._groups.members.get(name)
        return iter(()) if member is None else member.group.heard_by(member)

    def is_told(self, name: PeerName, nlri: Nlri) -> bool:
        """Tell whether a peer has been told, or is being told, of a prefix, by whatever path."""
        member = self._groups.members.get(name)
        return member is not None and member.group.is_heard_by(member, nlri)

    def unsaid_to(self, name: PeerName) -> list[Nlri]:
        """Return of which prefixes a peer is not told a path because that fits no message which it takes."""
        member = self._groups.members.get(name)
        return [] if member is None else member.group.unsaid_to(member)

    def unsaid_stirred(self) -> dict[PeerName, list[Nlri]]:
        """Return that of the peers of whom it may be another now; each is told of once."""
        return {name: self.unsaid_to(name) for name in self._groups.unsaid_stirred()}

    def told_from(self, name: PeerName, nlri: Nlri) -> PeerName | None:
        """Return whose path it is that a peer has been told under this key, None for this node's own."""
        member = self._groups.members.get(name)
        advert = None if member is None else member.group.sent.get(nlri)
        return None if advert is None else advert.origin

    def is_over_limit(self, name: PeerName) -> tuple[Family, str] | None:
        """Return a family of which the peer announced more than it may, before filters, and the limit's name."""
        rib_in = self._ins.get(name)
        return None if rib_in is None else rib_in.over_limit()

    def near_limits(self, name: PeerName) -> dict[tuple[Family, str], tuple[int, int]]:
        """Return of which family and limit a peer has announced so much that people want to know: how many, of most."""
        rib_in = self._ins.get(name)
        return {} if rib_in is None else rib_in.near_limits()

    def counts(self, name: PeerName) -> dict[Family, tuple[int, int, int]]:
        """Return (received, accepted, advertised) for each family; accepted passed filters and loop checks."""
        rib_in, member = self._ins.get(name), self._groups.members.get(name)
        told = {family: 0 if member is None else member.group.count(member, family) for family in WIDTHS}
        counted = dict.fromkeys(WIDTHS, (0, 0)) if rib_in is None else rib_in.counts()
        return {family: (*both, told[family]) for family, both in counted.items()}

    def identities(self, name: PeerName) -> int:
        """Count the prefixes of which a peer said who has the address, and was believed."""
        rib_in = self._ins.get(name)
        return 0 if rib_in is None else rib_in.identities

    def stale_count(self, name: PeerName) -> int:
        """Count the stale paths of a peer."""
        rib_in = self._ins.get(name)
        return 0 if rib_in is None else len(rib_in.stale)

    def long_lived_count(self, name: PeerName) -> int:
        """Count those among them that are kept beyond its restart time; O(stale)."""
        rib_in = self._ins.get(name)
        return 0 if rib_in is None else rib_in.long_lived

    def kernel_reason(self, nlri: Nlri) -> str:
        """Return what the kernel has of a prefix: installed, pending, none (with a reason), or failed and why."""
        selection = self.best(nlri)
        if nlri in self._own_prefixes and selection is not None and selection.target is not None:
            return "none: connected on this host"
        if nlri in self.fib.refused:
            return f"failed: {self.fib.refused[nlri].reason}"
        if selection is not None and selection.best.claims is not None:
            return "none: it lies in a block of its node, which leads there"
        wanted = self.fib.wanted.get(nlri)
        actual = self.fib.actual.get(nlri)
        if wanted is None:
            return "none" if actual is None else "installed"
        return "installed" if wanted == actual else "pending"


def _hops_of(selection: Selection | None) -> tuple[NextHop, ...]:
    """Return the next hops that the kernel route of a selection goes by; several for one address count once each."""
    if selection is None or not isinstance(selection.target, Via):
        return ()
    return tuple({path.next_hop: None for path in selection.multipath if path.next_hop is not None})
