"""The Rib: what every peer told us, what we believe of it, and what follows for kernel and peers.

    receive, originate, peer_up, host_routes_changed ..   note the fact; cheap
    work(limit)                                           re-resolve, select, want, offer; in slices
    fib, next_hops (Deltas), take(peer)                   what follows

Everything moves as (one path, many prefixes). `_candidates` holds for each prefix its one Path, or a
tuple of them; a batch without competition is `dict.update`. Dirty prefixes are worked on in runs of
equal candidates, and the decision for one combination of candidates is remembered until a next hop moves.

A peer that sends several paths of a prefix (RFC 7911) has its table by path, and among the candidates of a prefix it
has a Path for each attribute set, in the order of their identifiers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import cast

from bgpmesh.delta import Delta, drop
from bgpmesh.peering.message import Negotiated
from bgpmesh.peering.peer import Peer, most_but_a_fifth
from bgpmesh.rib.claimants import Claimants, Refused
from bgpmesh.rib.decision import Kept, Path, Selection, decide, select
from bgpmesh.rib.drain import Drain
from bgpmesh.rib.export import Group, Member, Told, View, agreed, end_of_ribs, view_of
from bgpmesh.rib.filter import Answer, Chain
from bgpmesh.rib.nexthop import NextHop, OwnRoute
from bgpmesh.rib.numbers import Numbers
from bgpmesh.rib.rule import BUILT_IN, Filter
from bgpmesh.rib.ways import Ways
from bgpmesh.route import roles
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.claim import IDENTITY, Claims, Kind, has_kind, identity_of, without_claims
from bgpmesh.route.community import BLACKHOLE, GRACEFUL_SHUTDOWN, LLGR_STALE, NO_ADVERTISE, NO_EXPORT, NO_LLGR
from bgpmesh.route.nlri import (
    PATH_ID_SIZE,
    PATH_WIDTHS,
    WIDTHS,
    Family,
    Nlri,
    path_id_of,
    prefix_of,
)
from bgpmesh.route.path import LOCAL, Blackhole, HostRoute, PeerName, Resolution, Source, Target, Via

MEMO_ENTRIES = 20_000  # combinations of candidates whose decision is remembered
SPARE_PATHS = 1_000  # Paths without prefixes that a peer may keep before they are swept
REJECTED = "import filter"  # what the reason of a path that filters rejected begins with
WAITING = "waiting until this node is in sync"

MAX_PREFIXES, MAX_IDENTITIES = "max_prefixes", "max_identities"  # as the file has them

Candidates = Path | tuple[Path, ...]
# An attribute set that came, what the filters made of it, by which rules and with what said, whether its claims count.
_Became = tuple[PathAttributes, PathAttributes | None, str, frozenset[str], bool]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One path of a prefix as operators see it, with the reason of its fate."""

    peer: PeerName | None
    attributes: PathAttributes  # as the import filters left them
    is_best: bool
    is_multipath: bool
    is_stale: bool
    reason: str  # the step that put it out or, for the best, that left it alone; why it is not eligible
    resolution: Resolution | None  # what its next hop is in this kernel
    read_at: float  # monotonic second of the last UPDATE with this attribute set; 0.0: not received
    filtered: str  # the import filters and rules that changed it, or the one that rejected it
    is_accepted: bool  # by filters and loop checks
    kept: Kept
    path_id: int | None = None  # as its peer sent it (RFC 7911)


@dataclass(slots=True, eq=False)
class AdjRibIn:
    """What one peer told us, before filters; it outlives a session while stale paths are kept."""

    peer: Peer
    source: Source
    filters: Chain  # on import
    table: dict[Nlri, Path] = field(default_factory=dict)
    path_keys: dict[Nlri, Nlri | tuple[Nlri, ...]] = field(default_factory=dict)  # where several may come, by prefix
    stale: set[Nlri] = field(default_factory=set)
    sizes: Counter[int] = field(default_factory=Counter)  # entries by the width of their key
    paths: dict[_Became, Path] = field(default_factory=dict)
    identities: Counter[int] = field(default_factory=Counter)  # those among them of which something is said
    member: Member | None = None  # None: the session is down
    swept_at: int = 0  # len(paths) after the last sweep
    lowered: dict[tuple[Path, Kept], Path] = field(default_factory=dict)  # what is kept of stale paths

    def keys_of(self, nlri: Nlri) -> tuple[Nlri, ...]:
        """Return the keys of the paths of a prefix that came with identifiers, in the order of those."""
        keys = self.path_keys.get(nlri, ())
        return (Nlri(keys),) if isinstance(keys, bytes) else keys


class Rib:
    """AdjRibIn, LocRib and AdjRibOut of one node; the package's one door."""

    def __init__(
        self, asn: Asn, router_id: RouterId, cluster_id: RouterId | None, ecmp: int, kernel_enabled: bool
    ) -> None:
        self.fib: Delta[Nlri, Target] = Delta()
        self.floating: set[Nlri] = set()  # selected, and said to be floating addresses by the node that has them
        self.is_floating_stirred = False  # that set has changed; whoever reads it puts this back
        self.said: dict[Nlri, Claims | None] = {}  # what is said of addresses since whoever reads this emptied it
        self.refused_claims: list[Refused] = []  # the same
        self._claimants: Claimants | None = None  # None: nothing that is said of addresses is heard
        self._interned: dict[Claims, Claims] = {}
        self._interned_live = 0  # after the last sweep
        self._asn, self._router_id, self._cluster_id, self._ecmp = asn, router_id, cluster_id, ecmp
        self._kernel_enabled = kernel_enabled
        self._ins: dict[PeerName, AdjRibIn] = {}
        self._local: dict[Nlri, Path] = {}
        self._local_paths: dict[tuple[PathAttributes, Target | None, bool, bool, bool], Path] = {}
        self._local_attributes = PathAttributes()
        self._candidates: dict[Nlri, Candidates] = {}
        self._selected: dict[Nlri, Selection] = {}
        self._sizes: Counter[int] = Counter()
        self._decided: dict[tuple[Path, ...], Selection | None] = {}
        self._dirty: dict[Nlri, object] = {}
        self._work: list[Nlri] = []  # what was dirty when the work on it began, last first
        self._filters: Mapping[str, Filter] = BUILT_IN
        self._chains: dict[tuple[tuple[str, ...], Asn], Chain] = {}
        self._unfiltered: dict[PeerName, list[Nlri]] = {}  # what has still to go through changed import filters
        self._is_filtering = False  # peers are told nothing until all follows from the changed filters
        self._groups: dict[View, Group] = {}
        self._numbers = Numbers()
        self._passed_on = 1  # how many paths of a prefix some peer takes, or took
        self._stirred: set[PeerName] = set()  # for whom there may be something, beside the members of stirred groups
        self._owing: set[PeerName] = set()  # to whom we owe End-of-RIB
        self._is_deferring = False
        self._drain = Drain.NONE
        self.ways = Ways(self._candidates, self._own_route, is_kernel_enabled=kernel_enabled)
        self.host, self.next_hops = self.ways.host, self.ways.objects
        self._own_prefixes: set[Nlri] = set()  # connected on this host, or its addresses

    # ── who we are ───────────────────────────────────────────────────────────

    @property
    def is_deferring(self) -> bool:
        """Whether learnt paths are stored but not selected (RFC 4724 §4.1); local ones always are."""
        return self._is_deferring

    @is_deferring.setter
    def is_deferring(self, value: bool) -> None:
        # What exists unwanted is kept until the work that follows is done, not only until it is ordered.
        if value:
            self.fib.keep_unwanted = self.next_hops.keep_unwanted = True
        if value != self._is_deferring:
            self._is_deferring = value
            self._decide_all_again()

    def configure(self, asn: Asn, router_id: RouterId, cluster_id: RouterId | None, ecmp: int) -> None:
        """Take a new identity; loop checks and decisions are made again where they depend on it."""
        if (asn, router_id, cluster_id, ecmp) == (self._asn, self._router_id, self._cluster_id, self._ecmp):
            return
        self._asn, self._router_id, self._cluster_id, self._ecmp = asn, router_id, cluster_id, ecmp
        for rib_in in self._ins.values():
            for path in {*rib_in.table.values(), *rib_in.paths.values()}:
                if not path.refusal.startswith(REJECTED):
                    path.refusal = self._refusal(rib_in.peer, path.attributes)
        self.ways.doubt_recursion()
        self._decide_all_again()

    def believe(self, claimants: Claimants | None) -> None:
        """Take who may say what of addresses (None: nothing is heard); what was heard is judged again."""
        if claimants == self._claimants:
            return
        self._claimants = claimants
        for rib_in in self._ins.values():
            heard: dict[tuple[PathAttributes, Kept], list[Nlri]] = {}
            for nlri, path in rib_in.table.items() if rib_in.peer.in_cluster else ():
                if path.received.large_communities:
                    heard.setdefault((path.received, path.kept), []).append(nlri)
            rib_in.paths = {key: path for key, path in rib_in.paths.items() if not key[0].large_communities}
            for (attributes, kept), nlris in heard.items():
                self._store(rib_in, attributes, nlris, rib_in.table[nlris[0]].read_at, kept)

    def filter(self, filters: Iterable[Filter], peers: Iterable[Peer]) -> None:
        """Take the filters, and each peer as it is now; `work` finds out what follows for routes and peers.

        What came in goes through changed import filters again, as it was received; what is selected through changed
        export filters. No decision is made before the first is done, and no peer is told anything before all
        is: so each hears the difference, and nothing of what lies in between.
        """
        known = {**BUILT_IN, **{each.name: each for each in filters}}
        changed = {name for name in known.keys() | self._filters.keys() if known.get(name) != self._filters.get(name)}
        self._filters = known
        self._chains = {key: chain for key, chain in self._chains.items() if changed.isdisjoint(key[0])}
        for peer in peers:
            rib_in = self._ins.get(peer.name)
            if rib_in is not None and (rib_in.member is None or rib_in.peer.has_same_session(peer)):
                self._filter_peer(rib_in, peer, changed)
        self._take_own_addresses()
        for group in self._groups.values():  # those that are left: nobody has a filter now that is not there
            if not changed.isdisjoint(group.view.exports):
                group.filter(self._chain(group.view.exports, group.view.local_asn), list(self._selected))
                self._is_filtering = True

    def drain(self, drain: Drain) -> None:
        """Have peers hear what a node says that has left service so far; none is told anything before all is known."""
        if drain is self._drain:
            return
        self._drain = drain
        groups, self._groups = list(self._groups.values()), {}
        for group in groups:
            group.see(replace(group.view, drain=drain), list(self._selected))
            self._groups[group.view] = group
        self._is_filtering |= bool(groups)

    def _filter_peer(self, rib_in: AdjRibIn, peer: Peer, changed: Collection[str]) -> None:
        before, rib_in.peer = rib_in.peer, peer
        if peer.allow_own_asn != before.allow_own_asn:
            rib_in.paths.clear()  # none is judged as it was
        is_judged_alike = (peer.imports, peer.allow_own_asn) == (before.imports, before.allow_own_asn)
        if not is_judged_alike or not set(changed).isdisjoint(peer.imports):
            rib_in.filters = self._chain(peer.imports, peer.asn)
            self._unfiltered[peer.name] = list(rib_in.table)
            self._is_filtering = True
        if rib_in.member is not None and peer != before:
            was, subnet = rib_in.member.group.view, self.host.connected_subnet(peer.address)
            view = view_of(peer, was.agreed, subnet, self._drain)
            self._rank(view.most_paths)
            if view != was:
                self._move(rib_in.member, view)
                self._is_filtering = True

    def _filter_again(self, limit: int) -> None:
        """Send up to `limit` prefixes of a peer through its import filters, as they came."""
        name, nlris = next(iter(self._unfiltered.items()))
        part = nlris[-limit:]
        del nlris[-limit:]
        if not nlris:
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

    def _chain(self, names: tuple[str, ...], asn: Asn) -> Chain:
        """Return these filters in order; raises KeyError for a name that the configuration let through."""
        chain = self._chains.get((names, asn))
        if chain is None:
            chain = self._chains[names, asn] = Chain([self._filters[name] for name in names], asn)
        return chain

    # ── peers come and go ────────────────────────────────────────────────────

    def peer_up(self, peer: Peer, negotiated: Negotiated, keep: frozenset[Family]) -> None:
        """Begin a session: stale paths of `keep` stay, the rest of its stale paths go, everything is advertised."""
        received = negotiated.received
        source = Source(peer.name, peer.role, received.router_id, peer.address, peer.is_single_hop)
        rib_in = self._ins.get(peer.name)
        filters = self._chain(peer.imports, peer.asn)
        if rib_in is None:
            rib_in = self._ins[peer.name] = AdjRibIn(peer, source, filters)
        else:
            self.peer_down(peer.name, keep)
            rib_in = self._ins.setdefault(peer.name, rib_in)
            rib_in.peer, rib_in.source, rib_in.filters = peer, source, filters
            rib_in.paths.clear()
            rib_in.lowered.clear()
            rib_in.swept_at = 0
        self._take_own_addresses()
        subnet = self.host.connected_subnet(peer.address)
        view = view_of(peer, agreed(negotiated), subnet, self._drain)
        self._rank(view.most_paths)
        group = self._group(view)
        offers = (negotiated.sent.capabilities, received.capabilities)
        is_refresh_enhanced = all(offer.enhanced_refresh for offer in offers)
        rib_in.member = Member(
            peer.name, received.router_id, peer.address, group, is_refresh_enhanced=is_refresh_enhanced
        )
        group.join(rib_in.member)
        self._stirred.add(peer.name)

    def peer_down(self, name: PeerName, retain: frozenset[Family], *, is_doubted: bool = False) -> None:
        """End a session: its paths of `retain` become stale and stay selected, the others go.

        Where `is_doubted` they stay only as long as there is no other (RFC 8538 leaves that to us).
        """
        rib_in = self._ins.get(name)
        if rib_in is None:
            return
        if rib_in.member is not None:
            self._leave(rib_in.member)
            rib_in.member = None
        widths = _widths(retain)
        self._withdraw(rib_in, [nlri for nlri in rib_in.table if len(nlri) not in widths])
        rib_in.stale = set(rib_in.table)
        if is_doubted:
            self._keep(rib_in, [nlri for nlri in rib_in.stale if rib_in.table[nlri].kept is Kept.ALIKE], Kept.DOUBTED)
        self._drop_if_empty(rib_in)

    def outlive(self, name: PeerName, families: frozenset[Family]) -> None:
        """Keep what is still stale of these families for long, marked and after all others (RFC 9494 §4.2)."""
        rib_in = self._ins.get(name)
        if rib_in is None:
            return
        widths = _widths(families)
        stale = [nlri for nlri in rib_in.stale if len(nlri) in widths]
        self._withdraw(rib_in, [nlri for nlri in stale if _is_short_lived(rib_in.table[nlri])])
        left = [nlri for nlri in stale if nlri in rib_in.stale]
        self._keep(rib_in, [nlri for nlri in left if rib_in.table[nlri].kept is not Kept.LONG_LIVED], Kept.LONG_LIVED)
        self._drop_if_empty(rib_in)

    def _keep(self, rib_in: AdjRibIn, nlris: Iterable[Nlri], kept: Kept) -> None:
        """Put in the place of stale paths what is kept of them."""
        alike: dict[Path, list[Nlri]] = {}
        for nlri in nlris:
            alike.setdefault(rib_in.table[nlri], []).append(nlri)
        for path, some in alike.items():
            lowered = _kept(rib_in, path, kept)
            batch: dict[Nlri, Path] = dict.fromkeys(some, lowered)
            rib_in.table.update(batch)
            by_path = [nlri for nlri in some if len(nlri) in PATH_WIDTHS]
            if by_path:
                self._gather(rib_in, map(prefix_of, by_path))
                batch = {nlri: lowered for nlri in some if len(nlri) not in PATH_WIDTHS}
            self._insert(lowered, batch)

    def mark_stale(self, name: PeerName, family: Family) -> None:
        """Let all paths of a family be stale, and used, until the peer says them again (RFC 7313 §4); O(table)."""
        rib_in = self._ins.get(name)
        if rib_in is not None:
            widths = _widths([family])
            rib_in.stale.update(nlri for nlri in rib_in.table if len(nlri) in widths)

    def sweep(self, name: PeerName, families: frozenset[Family]) -> None:
        """Drop what is still stale of these families: the peer said End-of-RIB, or its time is up."""
        rib_in = self._ins.get(name)
        if rib_in is not None:
            rib_in.lowered.clear()
            widths = _widths(families)
            self._withdraw(rib_in, [nlri for nlri in rib_in.stale if len(nlri) in widths])
            self._drop_if_empty(rib_in)

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
        if rib_in is None or rib_in.member is None:
            return  # what was still on its way when the session ended
        if withdrawn:
            self._withdraw(rib_in, withdrawn)
        if announced and attributes is not None:
            if rib_in.stale:
                rib_in.stale.difference_update(announced)
            self._store(rib_in, attributes, announced, read_at)

    def _store(
        self,
        rib_in: AdjRibIn,
        attributes: PathAttributes,
        announced: Sequence[Nlri],
        read_at: float,
        kept: Kept = Kept.ALIKE,
    ) -> None:
        for nlris in _by_width(announced):
            if len(nlris[0]) in PATH_WIDTHS:
                self._store_paths(rib_in, attributes, nlris, read_at, kept)
                continue
            if rib_in.path_keys:  # stale ones of a session that carried several
                self._withdraw(rib_in, [key for nlri in nlris for key in rib_in.keys_of(nlri)])
            for answer in rib_in.filters.run(rib_in.peer.name, attributes, nlris):
                for part, is_believed in self._judged(rib_in, answer):
                    path = _kept(rib_in, self._path(rib_in, attributes, answer, is_believed=is_believed), kept)
                    path.read_at = read_at
                    batch: dict[Nlri, Path] = dict.fromkeys(part, path)
                    self._tabulate(rib_in, len(nlris[0]), batch, is_believed=is_believed)
                    self._insert(path, batch)

    def _store_paths(
        self, rib_in: AdjRibIn, attributes: PathAttributes, keys: Sequence[Nlri], read_at: float, kept: Kept
    ) -> None:
        """Store what came with path identifiers; filters and claims are about prefixes."""
        if any(rib_in.sizes[plain] for plain, _ in WIDTHS.values()):  # stale ones of a session that carried one of each
            self._withdraw(rib_in, [prefix_of(key) for key in keys])
        while keys:
            named = cast("dict[Nlri, Nlri]", {key[PATH_ID_SIZE:]: key for key in keys})
            for answer in rib_in.filters.run(rib_in.peer.name, attributes, list(named)):
                for part, is_believed in self._judged(rib_in, answer):
                    path = _kept(rib_in, self._path(rib_in, attributes, answer, is_believed=is_believed), kept)
                    path.read_at = read_at
                    batch = {named[nlri]: path for nlri in part}
                    self._tabulate(rib_in, len(keys[0]), batch, is_believed=is_believed)
            known = rib_in.path_keys
            for nlri, key in named.items():
                others = known.get(nlri)
                if others is None:
                    known[nlri] = key
                elif key != others and key not in (kept_keys := rib_in.keys_of(nlri)):
                    known[nlri] = tuple(sorted((*kept_keys, key)))
            self._gather(rib_in, named)
            if len(named) == len(keys):
                return
            keys = [key for key in keys if named[prefix_of(key)] != key]  # of a prefix that is there more than once

    def _tabulate(self, rib_in: AdjRibIn, width: int, batch: dict[Nlri, Path], *, is_believed: bool) -> None:
        """Put entries of one width into a peer's table."""
        before = len(rib_in.table)
        if is_believed or rib_in.identities[width]:
            were = sum(_is_identity(old) for old in map(rib_in.table.get, batch))
            rib_in.identities[width] += len(batch) * is_believed - were
        rib_in.table.update(batch)
        rib_in.sizes[width] += len(rib_in.table) - before

    def is_over_limit(self, name: PeerName) -> tuple[Family, str] | None:
        """Return a family of which the peer announced more than it may, before filters, and the limit's name.

        Of several paths of a prefix each counts: a limit is there for what it costs to hold them. What is still stale
        does not count: it may never say that again. None: it is within its limits.
        """
        rib_in = self._ins.get(name)
        if rib_in is None:
            return None
        for family, limit, count, most, _ in _limits(rib_in):
            excess, widths, is_identity = count - most, WIDTHS[family], limit == MAX_IDENTITIES
            if excess > 0 and excess > sum(
                len(nlri) in widths and _is_identity(rib_in.table[nlri]) is is_identity for nlri in rib_in.stale
            ):
                return family, limit
        return None

    def near_limits(self, name: PeerName) -> dict[tuple[Family, str], tuple[int, int]]:
        """Return of which family and limit a peer has announced so much that people want to know: how many, of most."""
        rib_in = self._ins.get(name)
        limits = () if rib_in is None else _limits(rib_in)
        return {(family, limit): (count, most) for family, limit, count, most, warn in limits if count >= warn > 0}

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
            self._insert(path, {nlri: path})

    def retire(self, nlri: Nlri) -> None:
        """Make a prefix no longer this node's own."""
        if self._local.pop(nlri, None) is not None:
            self._remove(None, [nlri])
            if len(self._local_paths) > 2 * len(self._local) + SPARE_PATHS:
                live = set(self._local.values())
                self._local_paths = {key: path for key, path in self._local_paths.items() if path in live}

    def host_routes_changed(self, added: Iterable[HostRoute], removed: Iterable[HostRoute]) -> None:
        """Follow the kernel's other routes: next hops in what changed are re-resolved by `work`."""
        for prefix in self.ways.host_routes_changed(added, removed):
            if self.host.is_own(prefix) == (prefix in self._own_prefixes):
                continue
            selection = self._selected.get(prefix)
            if prefix in self._own_prefixes:
                self._own_prefixes.discard(prefix)
                self._program({prefix: None}, None, selection)
            else:
                self._program({prefix: None}, selection, None)
                self._own_prefixes.add(prefix)
        for rib_in in self._ins.values():
            self._regroup(rib_in)

    # ── the thinking ─────────────────────────────────────────────────────────

    def work(self, limit: int) -> bool:
        """Think about up to `limit` prefixes; True if more remains."""
        if self._unfiltered:
            self._filter_again(limit)
            return True
        self._mark_users(self.ways.resolve())
        if not self._work and self._dirty:
            self._work = list(self._dirty)
            self._work.reverse()
            self._dirty.clear()
        keys = self._work[-limit:]
        del self._work[-limit:]
        keys.reverse()
        found = list(map(self._candidates.get, keys))
        alike: dict[Candidates | None, list[Nlri]] = {}
        if len(set(map(id, found))) == 1:
            alike[found[0]] = keys
        else:
            at = 0
            for candidates, run in groupby(found):
                start, at = at, at + len(list(run))
                alike.setdefault(candidates, []).extend(keys[start:at])
        for candidates, nlris in alike.items():
            self._settle(nlris, None if candidates is None else self._select(candidates))
        self._offer_backlogs(limit - len(keys))
        if self._has_work():
            return True
        self._stirred |= self._owing
        if self._is_filtering:
            self._is_filtering = False
            self._stirred.update(name for name, rib_in in self._ins.items() if rib_in.member is not None)
        if self.ways.has_idle:
            self._forget_hops()
        if self.fib.keep_unwanted and not self._is_deferring:
            self.fib.keep_unwanted = self.next_hops.keep_unwanted = False
        return False

    def _offer_backlogs(self, limit: int) -> None:
        """Offer up to `limit` prefixes of the table as it is to groups that began lately."""
        for group in self._groups.values():
            if limit <= 0:
                break
            if group.backlog:
                part = group.backlog[-limit:]
                del group.backlog[-limit:]
                limit -= len(part)
                group.is_stirred = True
                for selection, run in groupby(part, self._selected.get):
                    for nlris in _by_width(list(run)):
                        group.offer(selection, nlris)

    # ── what peers hear ──────────────────────────────────────────────────────

    def refresh(self, name: PeerName, family: Family) -> None:
        """Advertise a family to this peer again (RFC 2918), between BoRR and EoRR if it knows them (RFC 7313)."""
        member = self._member(name)
        if member is not None and family in member.group.view.agreed.families:
            member.refreshing.add(family)
            self._stirred.add(name)

    def send_end_of_rib(self, name: PeerName) -> None:
        """Close the first advertisement with End-of-RIB once what is queued has been taken (RFC 4724 §2)."""
        member = self._member(name)
        if member is not None:
            member.owes_end_of_rib = True
            self._owing.add(name)
            self._stirred.add(name)

    def stirred(self) -> set[PeerName]:
        """Return the peers for whom `take` may have something that it had not when it last returned nothing.

        Each is told once. It costs what has changed, not what there is: with thousands of peers most have nothing.
        """
        for group in self._groups.values():
            if group.is_stirred:
                group.is_stirred = False
                self._stirred.update(group.members)
        stirred, self._stirred = self._stirred, set()
        return stirred

    def has_routes_for(self, name: PeerName) -> bool:
        """Tell whether `take` may have something for the peer."""
        member = self._member(name)
        if member is None or self._is_filtering:
            return False
        return member.group.has_work_for(member) or (member.owes_end_of_rib and not self._has_work())

    def take(self, name: PeerName, limit: int) -> list[Told]:
        """Return the next batches for a peer, of about `limit` prefixes together; [] when there is none."""
        member = self._member(name)
        if member is None or self._is_filtering:
            return []
        taken = member.group.take(member, limit)
        if member.owes_end_of_rib and not self._has_work() and not member.group.has_work_for(member):
            member.owes_end_of_rib, member.was_told_all = False, True
            self._owing.discard(name)
            taken += end_of_ribs(member.group.view)
        return taken

    # ── views ────────────────────────────────────────────────────────────────

    def size(self, family: Family) -> int:
        """Count the prefixes of a family that have a selected path."""
        return self._sizes[WIDTHS[family][0]]

    def prefixes(self) -> list[Nlri]:
        """Return every prefix that anybody announces, selected or not, in the order of their keys."""
        return sorted(self._candidates, key=lambda nlri: (len(nlri), nlri[1:], nlri[0]))

    def best(self, nlri: Nlri) -> Selection | None:
        """Return what is selected for a prefix."""
        return self._selected.get(nlri)

    def candidates(self, nlri: Nlri) -> list[Candidate]:
        """Return every path of a prefix, the selected ones first, each with its reason."""
        paths = _as_tuple(self._candidates.get(nlri))
        selection = self._selected.get(nlri)
        eligible = [path for path in paths if self._is_ready(path)]
        decision = decide(eligible) if eligible else None
        shown: list[Candidate] = []
        for path, key, is_again in self._with_keys(nlri, paths):
            is_best = selection is not None and selection.best is path and not is_again
            reason = path.why_not or ("" if path in eligible else WAITING)
            if decision is not None and not reason:
                reason = decision.won_by if path is decision.best else decision.lost[path]
                if reason == "local-pref" and GRACEFUL_SHUTDOWN in path.attributes.communities:
                    reason = "local-pref (graceful shutdown)"
                reason = "path-id" if is_again else reason
            is_multipath = selection is not None and len(selection.multipath) > 1 and path in selection.multipath
            rib_in = None if path.peer is None else self._ins.get(path.peer)
            is_stale = rib_in is not None and key in rib_in.stale
            resolution = None if path.next_hop is None else path.next_hop.resolution
            shown.append(
                Candidate(
                    path.peer,
                    path.attributes,
                    is_best,
                    is_multipath,
                    is_stale,
                    reason,
                    resolution,
                    path.read_at,
                    path.filtered,
                    not path.refusal,
                    path.kept,
                    path_id_of(key),
                )
            )
        return sorted(shown, key=lambda c: (not c.is_best, not c.is_multipath, c.peer or "", c.path_id or 0))

    def _with_keys(self, nlri: Nlri, paths: Iterable[Path]) -> Iterator[tuple[Path, Nlri, bool]]:
        """Yield each path with its key in its peer's table; those that say the same as one before are there again."""
        for path in paths:
            rib_in = None if path.peer is None else self._ins.get(path.peer)
            known = () if rib_in is None else rib_in.keys_of(nlri)
            keys = [key for key in known if rib_in is not None and rib_in.table[key] is path] or [nlri]
            for number, key in enumerate(keys):
                yield path, key, number > 0

    def received(self, name: PeerName) -> Iterator[tuple[Nlri, PathAttributes]]:
        """Yield what a peer announced, before filters; where it sends several paths, by path."""
        rib_in = self._ins.get(name)
        return iter(()) if rib_in is None else ((nlri, path.received) for nlri, path in rib_in.table.items())

    def advertised(self, name: PeerName) -> Iterator[tuple[Nlri, PathAttributes]]:
        """Yield what a peer has been told, or is being told; where it takes several paths, by path."""
        member = self._member(name)
        return iter(()) if member is None else member.group.heard_by(member)

    def told_from(self, name: PeerName, nlri: Nlri) -> PeerName | None:
        """Return whose path it is that a peer has been told under this key, None for this node's own."""
        member = self._member(name)
        advert = None if member is None else member.group.sent.get(nlri)
        return None if advert is None else advert.origin

    def counts(self, name: PeerName) -> dict[Family, tuple[int, int, int]]:
        """Return (received, accepted, advertised) for each family; accepted passed filters and loop checks."""
        rib_in, member = self._ins.get(name), self._member(name)
        refused: Counter[int] = Counter()
        if rib_in is not None and any(path.refusal for path in set(rib_in.table.values())):
            refused.update(len(nlri) for nlri, path in rib_in.table.items() if path.refusal)
        counted: dict[Family, tuple[int, int, int]] = {}
        for family, widths in WIDTHS.items():
            received = 0 if rib_in is None else sum(map(rib_in.sizes.__getitem__, widths))
            told = 0 if member is None else member.group.count(member, family)
            counted[family] = (received, received - sum(map(refused.__getitem__, widths)), told)
        return counted

    def identities(self, name: PeerName) -> int:
        """Count the prefixes of which a peer said who has the address, and was believed."""
        rib_in = self._ins.get(name)
        return 0 if rib_in is None else rib_in.identities.total()

    def stale_count(self, name: PeerName) -> int:
        """Count the stale paths of a peer."""
        rib_in = self._ins.get(name)
        return 0 if rib_in is None else len(rib_in.stale)

    def long_lived_count(self, name: PeerName) -> int:
        """Count those among them that are kept beyond its restart time; O(stale)."""
        rib_in = self._ins.get(name)
        return 0 if rib_in is None else sum(rib_in.table[nlri].kept is Kept.LONG_LIVED for nlri in rib_in.stale)

    def holds_paths_of(self) -> set[PeerName]:
        """Return the peers, up or not, whose paths we hold."""
        return {name for name, rib_in in self._ins.items() if rib_in.table}

    def kernel_reason(self, nlri: Nlri) -> str:
        """Return what the kernel has of a prefix: installed, pending, none (with a reason), or failed and why."""
        selection = self._selected.get(nlri)
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

    # ── candidates ───────────────────────────────────────────────────────────

    def _judged(self, rib_in: AdjRibIn, answer: Answer) -> Sequence[tuple[Sequence[Nlri], bool]]:
        """Return the prefixes of an answer of whose claims all are believed, and those of which none is."""
        attributes, claimants = answer.attributes, self._claimants
        if attributes is None or claimants is None or not attributes.large_communities or not rib_in.peer.in_cluster:
            return ((answer.nlris, False),)
        if identity_of(attributes.large_communities, rib_in.peer.cluster_asn) is None:
            return ((answer.nlris, False),)
        believed, others, reason = claimants.judge(rib_in.peer, attributes.originator_id, answer.nlris)
        if others:
            self.refused_claims.append(Refused(rib_in.peer.name, others[0], len(others), reason))
        return [(part, is_believed) for part, is_believed in ((believed, True), (others, False)) if part]

    def _path(self, rib_in: AdjRibIn, received: PathAttributes, answer: Answer, *, is_believed: bool = False) -> Path:
        key = (received, answer.attributes, answer.by, answer.said, is_believed)
        path = rib_in.paths.get(key)
        if path is not None:
            return path
        if len(rib_in.paths) > 2 * rib_in.swept_at + SPARE_PATHS:
            live = set(rib_in.table.values())
            rib_in.paths = {key: path for key, path in rib_in.paths.items() if path in live}
            rib_in.swept_at = len(rib_in.paths)
            self.ways.has_idle = True
        attributes = received if answer.attributes is None else answer.attributes
        refusal = f"{REJECTED} {answer.by}" if answer.attributes is None else ""
        peer, claims = rib_in.peer, None
        if peer.is_external:
            attributes = _from_outside(attributes, answer.said)
            if peer.bgp_role:
                attributes = roles.received(peer.bgp_role, peer.asn, attributes)
        if attributes.large_communities and not peer.in_cluster:
            attributes = without_claims(attributes, peer.cluster_asn)
        elif is_believed:
            claims = self._intern(identity_of(attributes.large_communities, peer.cluster_asn))
        elif attributes.large_communities and self._claimants is not None:
            attributes = without_claims(attributes, peer.cluster_asn, IDENTITY)
        next_hop = target = None
        if "blackhole" in answer.said:
            target = Blackhole()
        elif attributes.next_hop is not None:
            next_hop = self.ways.to(attributes.next_hop, is_single_hop=rib_in.source.is_single_hop)
        path = Path(
            rib_in.source,
            received,
            attributes,
            refusal or self._refusal(peer, attributes),
            answer.by,
            next_hop,
            # The aggregate of its node leads to an address of which something is said.
            target if next_hop is None or claims is not None else next_hop.target,
            is_floating=peer.in_cluster and has_kind(attributes.large_communities, peer.cluster_asn, Kind.FLOATING),
            claims=claims,
            is_for_cluster=claims is not None,
        )
        rib_in.paths[key] = path
        return path

    def _intern(self, claims: Claims | None) -> Claims | None:
        """Return the one object for equal claims."""
        if claims is None:
            return None
        if len(self._interned) > MEMO_ENTRIES + 2 * self._interned_live:
            live = {path.claims for rib_in in self._ins.values() for path in rib_in.paths.values()}
            self._interned = {each: each for each in live if each is not None}
            self._interned_live = len(self._interned)
        return self._interned.setdefault(claims, claims)

    def _refusal(self, peer: Peer, attributes: PathAttributes) -> str:
        """Return why no path with these attributes from this peer can be selected; "" where it can."""
        return (
            self.loop(peer, attributes)
            or roles.leak(peer.bgp_role, peer.asn, attributes)
            or ("" if attributes.next_hop is not None else "no next hop")
        )

    def loop(self, peer: Peer, attributes: PathAttributes) -> str:
        """Return how what has these attributes has been here before; "" where it has not."""
        as_path = attributes.as_path
        for asn in (self._asn, peer.local_asn):
            if as_path.count(asn) > peer.allow_own_asn:
                return f"loop: our AS {asn} is in AS_PATH"
        if attributes.originator_id == self._router_id:
            return "loop: ORIGINATOR_ID is ours"
        if self._cluster_id is not None and self._cluster_id in attributes.cluster_list:
            return "loop: our cluster is in CLUSTER_LIST"
        return ""

    def _insert(self, path: Path, batch: dict[Nlri, Path]) -> None:
        candidates = self._candidates
        present = set(map(candidates.get, batch))
        after = {before: _with(before, path) for before in present}
        if all(before is now for before, now in after.items()):
            return  # said again
        if len(after) == 1 and path in after.values():
            candidates.update(batch)  # nobody else has these
        else:
            befores = list(map(candidates.get, batch))
            candidates.update(zip(batch, map(after.__getitem__, befores), strict=True))
        self._mark(batch)

    def _withdraw(self, rib_in: AdjRibIn, nlris: Collection[Nlri]) -> None:
        table = rib_in.table
        gone = list(dict.fromkeys(filter(table.__contains__, nlris)))
        if not gone:
            return
        if any(rib_in.identities.values()):
            rib_in.identities.subtract(Counter(len(nlri) for nlri in gone if _is_identity(table[nlri])))
        drop(table, gone)
        rib_in.sizes.subtract(Counter(map(len, gone)))
        rib_in.stale.difference_update(gone)
        if rib_in.path_keys:
            gone = self._without_paths(rib_in, gone)
        if gone:
            self._remove(rib_in.peer.name, gone)

    def _without_paths(self, rib_in: AdjRibIn, gone: Iterable[Nlri]) -> list[Nlri]:
        """Follow it that paths are gone of which a prefix may have several; return what else is gone."""
        known, prefixes, others = rib_in.path_keys, dict[Nlri, None](), list[Nlri]()
        for key in gone:
            nlri = prefix_of(key)
            if nlri is key:
                others.append(key)
                continue
            left = tuple(other for other in rib_in.keys_of(nlri) if other != key)
            if left:
                known[nlri] = left if len(left) > 1 else left[0]
            else:
                del known[nlri]
            prefixes[nlri] = None
        self._gather(rib_in, prefixes)
        return others

    def _gather(self, rib_in: AdjRibIn, nlris: Iterable[Nlri]) -> None:
        """Make the candidates of these prefixes have the paths that this peer sends of them now, each of several."""
        table, known, candidates, peer = rib_in.table, rib_in.path_keys, self._candidates, rib_in.peer.name
        after: dict[tuple[Candidates | None, tuple[Path, ...]], Candidates | None] = {}
        stirred: dict[Nlri, None] = {}
        for nlri in nlris:
            before = candidates.get(nlri)
            keys = known.get(nlri, ())
            mine = (table[keys],) if isinstance(keys, bytes) else tuple(dict.fromkeys(map(table.__getitem__, keys)))
            if (pair := (before, mine)) not in after:
                after[pair] = _with_all(before, peer, mine)
            now = after[pair]
            if now is before:
                continue
            if now is None:
                del candidates[nlri]
            else:
                candidates[nlri] = now
            stirred[nlri] = None
        self._mark(stirred)

    def _remove(self, peer: PeerName | None, nlris: Sequence[Nlri]) -> None:
        candidates = self._candidates
        befores = list(map(candidates.__getitem__, nlris))
        after = {before: _without(before, peer) for before in set(befores)}
        if not any(after.values()):
            drop(candidates, nlris)  # nobody else has these
        else:
            for nlri, before in zip(nlris, befores, strict=True):
                left = after[before]
                if left is None:
                    del candidates[nlri]
                else:
                    candidates[nlri] = left
        self._mark(dict.fromkeys(nlris))

    def _mark(self, batch: dict[Nlri, Path] | dict[Nlri, None]) -> None:
        self._dirty.update(batch)
        self.ways.candidates_moved(batch)

    def _rank(self, most_paths: int) -> None:
        """Have as many paths of a prefix in their order as some peer takes."""
        if most_paths > self._passed_on:
            self._passed_on = most_paths
            self._decide_all_again()

    def _decide_all_again(self) -> None:
        self._decided.clear()
        self._dirty.update(self._candidates)

    def _drop_if_empty(self, rib_in: AdjRibIn) -> None:
        if rib_in.member is None and not rib_in.table:
            del self._ins[rib_in.peer.name]
            self._take_own_addresses()
            self.ways.has_idle = True

    def _has_work(self) -> bool:
        return bool(
            self._unfiltered
            or self._dirty
            or self._work
            or self.ways.is_in_doubt
            or any(group.backlog for group in self._groups.values())
        )

    # ── selection ────────────────────────────────────────────────────────────

    def _is_ready(self, path: Path) -> bool:
        return path.is_eligible and (path.source.is_local or not self._is_deferring)

    def _select(self, candidates: Candidates) -> Selection | None:
        if isinstance(candidates, Path):
            return candidates.alone if self._is_ready(candidates) else None
        if candidates in self._decided:
            return self._decided[candidates]
        if len(self._decided) > MEMO_ENTRIES:
            self._decided.clear()
        selection = select([path for path in candidates if self._is_ready(path)], self._ecmp, self._passed_on)
        self._decided[candidates] = selection
        return selection

    def _settle(self, nlris: list[Nlri], new: Selection | None) -> None:
        """Make `new` what is selected for these prefixes, and everything that follows from it."""
        if self._selected.keys().isdisjoint(nlris):
            if new is not None:
                self._replace_all(nlris, None, new)
            return
        parts: dict[Selection | None, list[Nlri]] = {}
        olds = list(map(self._selected.get, nlris))
        if len(set(olds)) == 1:
            parts[olds[0]] = nlris
        else:
            for nlri, old in zip(nlris, olds, strict=True):
                parts.setdefault(old, []).append(nlri)
        for old, part in parts.items():
            if old is not new:
                self._replace_all(part, old, new)

    def _replace_all(self, nlris: Sequence[Nlri], old: Selection | None, new: Selection | None) -> None:
        for part in _by_width(nlris):
            self._replace(part, old, new)

    def _replace(self, nlris: Sequence[Nlri], old: Selection | None, new: Selection | None) -> None:
        batch = dict.fromkeys(nlris, new)
        if new is None:
            drop(self._selected, nlris)
            self._sizes[len(nlris[0])] -= len(nlris)
        else:
            self._selected.update(cast("dict[Nlri, Selection]", batch))
            if old is None:
                self._sizes[len(nlris[0])] += len(nlris)
        self._program(batch, old, new)
        if (old is not None and old.best.is_floating) or (new is not None and new.best.is_floating):
            self._mark_floating(nlris, is_floating=new is not None and new.best.is_floating)
        was, now = None if old is None else old.best.claims, None if new is None else new.best.claims
        if was is not now:
            self.said.update(dict.fromkeys(nlris, now))
        self.ways.selection_moved(batch)
        has_best_moved = old is None or new is None or old.best is not new.best
        for group in self._groups.values():
            if has_best_moved or group.view.most_paths:
                group.offer(new, nlris)

    def _mark_floating(self, nlris: Sequence[Nlri], *, is_floating: bool) -> None:
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

    # ── next hops ────────────────────────────────────────────────────────────

    def _forget_hops(self) -> None:
        """Forget the next hops that no path has any more."""
        live = {path.next_hop for rib_in in self._ins.values() for path in set(rib_in.table.values())}
        live.update(path.next_hop for rib_in in self._ins.values() for path in rib_in.paths.values())
        live.update(path.next_hop for selection in set(self._selected.values()) for path in selection.multipath)
        self.ways.keep(live)

    def _own_route(self, prefix: Nlri) -> OwnRoute | None:
        """Return what we have selected for a prefix, and what we could; None where we know nothing of it."""
        if prefix not in self._candidates and prefix not in self._selected:
            return None
        paths = _as_tuple(self._candidates.get(prefix))
        selection = self._selected.get(prefix)
        possible: tuple[NextHop, ...] = ()
        if not any(path.source.is_local for path in paths):
            ways = (path for path in paths if not path.refusal and path.claims is None)
            possible = tuple(path.next_hop for path in ways if path.next_hop is not None)
        if selection is None:
            return OwnRoute(None, None, possible)
        return OwnRoute(selection.target, selection.best.next_hop, possible)

    def _mark_users(self, moved: set[NextHop]) -> None:
        """Decide again where a path has one of these next hops."""
        if not moved:
            return
        self._decided.clear()
        for rib_in in self._ins.values():
            paths = {path for path in set(rib_in.table.values()) if path.next_hop in moved}
            if paths:
                self._dirty.update((prefix_of(nlri), None) for nlri, path in rib_in.table.items() if path in paths)

    def _take_own_addresses(self) -> None:
        peers = [rib_in.peer for rib_in in self._ins.values()]
        own = {peer.local_address for peer in peers if peer.local_address is not None}
        self.ways.know_own(own.union(address for peer in peers for _, address in peer.next_hops))

    # ── groups ───────────────────────────────────────────────────────────────

    def _member(self, name: PeerName) -> Member | None:
        rib_in = self._ins.get(name)
        return None if rib_in is None else rib_in.member

    def _group(self, view: View) -> Group:
        group = self._groups.get(view)
        if group is None:
            group = self._groups[view] = Group(view, self._chain(view.exports, view.local_asn), self._number)
            group.backlog = list(self._selected)
        return group

    def _number(self, path: Path, nlris: Sequence[Nlri]) -> bytes | None:
        """Return our identifier of a path of these prefixes (RFC 7911); None: there is none for all of them."""
        if self._numbers.are_many:
            self._numbers.keep(self._numbered())
        rib_in = None if path.peer is None else self._ins.get(path.peer)
        if rib_in is None or not rib_in.path_keys:
            return self._numbers.of(path.peer, b"")
        found = {_path_id(rib_in, path, nlri) for nlri in nlris}
        theirs = found.pop()
        if found or theirs is None:
            return None
        return self._numbers.of(path.peer, theirs)

    def _numbered(self) -> Iterator[tuple[PeerName | None, bytes]]:
        """Yield all that may have an identifier of ours: each peer and, of its own, each identifier."""
        yield None, b""
        for name, rib_in in self._ins.items():
            yield name, b""
            yield from ((name, key[:PATH_ID_SIZE]) for nlri in rib_in.path_keys for key in rib_in.keys_of(nlri))

    def _leave(self, member: Member) -> None:
        self._owing.discard(member.name)
        member.group.leave(member)
        self._drop_if_left(member.group)

    def _drop_if_left(self, group: Group) -> None:
        if not group.members:
            del self._groups[group.view]

    def _regroup(self, rib_in: AdjRibIn) -> None:
        """Move a peer to the group of its new view, where the subnet that it shares with us changed."""
        member = rib_in.member
        if member is None or not rib_in.peer.is_external or rib_in.peer.next_hop != "auto":
            return
        self._move(member, replace(member.group.view, shared_subnet=self.host.connected_subnet(rib_in.peer.address)))

    def _move(self, member: Member, view: View) -> None:
        old = member.group
        if view != old.view:
            self._group(view).transfer(member)
            self._stirred.add(member.name)
            self._drop_if_left(old)


def _hops_of(selection: Selection | None) -> tuple[NextHop, ...]:
    """Return the next hops that the kernel route of a selection goes by; several for one address count once each."""
    if selection is None or not isinstance(selection.target, Via):
        return ()
    return tuple({path.next_hop: None for path in selection.multipath if path.next_hop is not None})


def _from_outside(attributes: PathAttributes, said: Collection[str]) -> PathAttributes:
    """Return what an external peer says as it counts here, after filters.

    LOCAL_PREF is not the neighbour's to say (RFC 4271 §5.1.5), but that it will be gone soon is (RFC 8326 §4.2). What
    it wants discarded goes no further than our AS (RFC 7999 §3.2).
    """
    communities = attributes.communities
    preferred = attributes.local_pref if "local_pref" in said else None
    if GRACEFUL_SHUTDOWN in communities:
        preferred = 0
    if BLACKHOLE in communities and NO_EXPORT not in communities and NO_ADVERTISE not in communities:
        communities = tuple(sorted((*communities, NO_EXPORT)))
    if (preferred, communities) == (attributes.local_pref, attributes.communities):
        return attributes
    return replace(attributes, local_pref=preferred, communities=communities)


def _is_short_lived(path: Path) -> bool:
    """Tell whether the peer, or a filter, wants a path not to be kept for long (RFC 9494 §4.2)."""
    return any(NO_LLGR in attributes.communities for attributes in (path.received, path.attributes))


def _kept(rib_in: AdjRibIn, path: Path, kept: Kept) -> Path:
    """Return what is kept of a path of this peer that is away."""
    if path.kept is kept:
        return path
    found = rib_in.lowered.get((path, kept))
    if found is None:
        attributes = path.attributes
        if kept is Kept.LONG_LIVED and LLGR_STALE not in attributes.communities:
            attributes = replace(attributes, communities=tuple(sorted((*attributes.communities, LLGR_STALE))))
        found = rib_in.lowered[path, kept] = replace(path, attributes=attributes, kept=kept)
    return found


def _limits(rib_in: AdjRibIn) -> Iterator[tuple[Family, str, int, int, int]]:
    """Yield of each family and limit what a peer has announced, the most that it may, and what people are told of."""
    peer = rib_in.peer
    for family, widths in WIDTHS.items():
        size = sum(map(rib_in.sizes.__getitem__, widths))
        identities = sum(map(rib_in.identities.__getitem__, widths))
        yield family, MAX_PREFIXES, size - identities, peer.max_prefixes, peer.max_prefixes_warn
        yield family, MAX_IDENTITIES, identities, peer.max_identities, most_but_a_fifth(peer.max_identities)


def _is_identity(path: Path | None) -> bool:
    return path is not None and path.claims is not None


def _as_tuple(candidates: Candidates | None) -> tuple[Path, ...]:
    if candidates is None:
        return ()
    return (candidates,) if isinstance(candidates, Path) else candidates


def _with(before: Candidates | None, path: Path) -> Candidates:
    """Return candidates with this path in the place of whatever its peer had."""
    paths = _as_tuple(before)
    if before is not None and path in paths:
        return before
    others = tuple(other for other in paths if other.source.peer != path.source.peer)
    return (*others, path) if others else path


def _with_all(before: Candidates | None, peer: PeerName, mine: tuple[Path, ...]) -> Candidates | None:
    """Return candidates with these paths in the place of whatever their peer had; the same where it had just these."""
    paths = _as_tuple(before)
    if mine == tuple(path for path in paths if path.source.peer == peer):
        return before
    now = (*(path for path in paths if path.source.peer != peer), *mine)
    return now if len(now) > 1 else next(iter(now), None)


def _path_id(rib_in: AdjRibIn, path: Path, nlri: Nlri) -> bytes | None:
    """Return by which identifier a peer sent a path of a prefix, the first of several, b"": without; None: not now."""
    table = rib_in.table
    for key in rib_in.keys_of(nlri):
        if table[key] is path:
            return key[:PATH_ID_SIZE]
    return b"" if table.get(nlri) is path else None


def _widths(families: Iterable[Family]) -> set[int]:
    return {width for family in families for width in WIDTHS.get(family, ())}


def _without(before: Candidates, peer: PeerName | None) -> Candidates | None:
    """Return candidates without the path of a peer; None: nobody is left."""
    left = tuple(other for other in _as_tuple(before) if other.source.peer != peer)
    return left if len(left) > 1 else next(iter(left), None)


def _by_width(nlris: Sequence[Nlri]) -> list[Sequence[Nlri]]:
    """Split prefixes by family; one family, as most often, is not copied."""
    widths = set(map(len, nlris))
    if len(widths) == 1:
        return [nlris]
    return [[nlri for nlri in nlris if len(nlri) == width] for width in sorted(widths)]
