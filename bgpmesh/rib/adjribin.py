"""What one peer told us: its paths by key, which of them are stale, and how many it may have.

    put, withdraw            what an UPDATE does to it
    stale, stale_of, lower   what is left of a session that is over (RFC 4724, RFC 8538, RFC 9494)
    over_limit, counts ..    what it holds, without a look at each path

A key is a prefix or, where the peer sends several paths of one (RFC 7911), a path. `paths_of` tells of a prefix what
there is; only this module knows how the keys of its paths are found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bgpmesh.delta import drop
from bgpmesh.peering.peer import Peer, most_but_a_fifth
from bgpmesh.rib.decision import Candidates, Kept, Path, candidates
from bgpmesh.rib.filter import Chain
from bgpmesh.rib.nexthop import NextHop
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.community import LLGR_STALE, NO_LLGR
from bgpmesh.route.nlri import PATH_ID_SIZE, PATH_WIDTHS, WIDTHS, Family, Nlri, by_width, prefix_of
from bgpmesh.route.path import Source

SPARE_PATHS = 1_000  # Paths without prefixes that a peer may keep before they are swept
MAX_PREFIXES, MAX_IDENTITIES = "max_prefixes", "max_identities"  # as the file has them

# An attribute set that came, what the filters made of it, by which rules and with what said, whether its claims count.
Became = tuple[PathAttributes, PathAttributes | None, str, frozenset[str], bool]


@dataclass(slots=True, eq=False)
class AdjRibIn:
    """What one peer told us, before filters; it outlives a session while stale paths are kept."""

    peer: Peer
    source: Source
    filters: Chain  # on import
    table: dict[Nlri, Path] = field(default_factory=dict)
    stale: set[Nlri] = field(default_factory=set)
    made: dict[Became, Path] = field(default_factory=dict)  # what import has made of what came
    _keys: dict[Nlri, Nlri | tuple[Nlri, ...]] = field(default_factory=dict)  # where several may come, by prefix
    _sizes: Counter[int] = field(default_factory=Counter)  # entries by the width of their key
    _identities: Counter[int] = field(default_factory=Counter)  # those among them of which something is said
    _stale_sizes: Counter[int] = field(default_factory=Counter)  # the same two of what is stale
    _stale_identities: Counter[int] = field(default_factory=Counter)
    _lowered: dict[tuple[Path, Kept], Path] = field(default_factory=dict)  # what is kept of stale paths
    _swept_at: int = 0  # len(made) after the last sweep

    def begin(self, peer: Peer, source: Source, filters: Chain) -> None:
        """Begin another session; what is stale stays as it was read."""
        self.peer, self.source, self.filters = peer, source, filters
        self.made.clear()
        self._lowered.clear()
        self._swept_at = 0

    # ── routes come and go ───────────────────────────────────────────────────

    def put(self, path: Path, keys: Iterable[Nlri]) -> dict[Nlri, Path]:
        """Have a path under keys of one width; returns them with it."""
        batch: dict[Nlri, Path] = dict.fromkeys(keys, path)
        width, before, is_identity = len(next(iter(batch))), len(self.table), path.claims is not None
        if is_identity or self._identities.get(width):
            self._identities[width] += len(batch) * is_identity - self._identities_of(batch)[width]
            if self.stale:
                still = self.stale.intersection(batch)
                self._stale_identities[width] += len(still) * is_identity - self._identities_of(still)[width]
        self.table.update(batch)
        self._sizes[width] += len(self.table) - before
        return batch

    def know_keys(self, keys: Mapping[Nlri, Nlri]) -> None:
        """Know of prefixes a key of a path each, which was put."""
        known = self._keys
        for nlri, key in keys.items():
            others = known.get(nlri)
            if others is None:
                known[nlri] = key
            elif key != others and key not in (several := self.keys_of(nlri)):
                known[nlri] = tuple(sorted((*several, key)))

    def know_several(self, keys: Mapping[Nlri, Iterable[Nlri]]) -> None:
        """Know of prefixes keys of several paths each: one by one thousands of a prefix would take seconds."""
        for nlri, new in keys.items():
            several = tuple(sorted({*self.keys_of(nlri), *new}))
            self._keys[nlri] = several if len(several) > 1 else several[0]

    def withdraw(self, keys: Iterable[Nlri]) -> tuple[list[Nlri], dict[Nlri, None]]:
        """Take out what there is of these; returns the prefixes that are gone, and those that may have paths left."""
        table = self.table
        gone = list(dict.fromkeys(filter(table.__contains__, keys)))
        if gone:
            self.refresh(gone)
            if any(self._identities.values()):
                self._identities.subtract(self._identities_of(gone))
            drop(table, gone)
            self._sizes.subtract(Counter(map(len, gone)))
        return self._forget_keys(gone) if self._keys else (gone, {})

    def _forget_keys(self, gone: Iterable[Nlri]) -> tuple[list[Nlri], dict[Nlri, None]]:
        prefixes, others = dict[Nlri, None](), list[Nlri]()
        for key in gone:
            nlri = prefix_of(key)
            if nlri is key:
                others.append(key)
            else:
                prefixes[nlri] = None
        for nlri in prefixes:
            left = tuple(filter(self.table.__contains__, self.keys_of(nlri)))
            if left:
                self._keys[nlri] = left if len(left) > 1 else left[0]
            else:
                del self._keys[nlri]
        return others, prefixes

    def left_of_others(self, keys: Sequence[Nlri]) -> list[Nlri]:
        """Return what may be left of these prefixes by a session that carried one path of each, where this has several.

        Or the other way round.
        """
        if len(keys[0]) in PATH_WIDTHS:
            return list(map(prefix_of, keys)) if any(self._sizes[plain] for plain, _ in WIDTHS.values()) else []
        return [key for nlri in keys for key in self.keys_of(nlri)] if self._keys else []

    def forget_unused(self) -> bool:
        """Forget Paths without prefixes where there may be many; tell whether it was time for that."""
        if len(self.made) <= 2 * self._swept_at + SPARE_PATHS:
            return False
        live = set(self.table.values())
        self.made = {key: path for key, path in self.made.items() if path in live}
        self._swept_at = len(self.made)
        return True

    # ── several paths of a prefix ────────────────────────────────────────────

    def keys_of(self, nlri: Nlri) -> tuple[Nlri, ...]:
        """Return the keys of the paths of a prefix that came with identifiers, in the order of those."""
        keys = self._keys.get(nlri, ())
        return (Nlri(keys),) if isinstance(keys, bytes) else keys

    def paths_of(self, nlris: Iterable[Nlri]) -> dict[Nlri, Candidates | None]:
        """Return prefixes with their paths that came with identifiers, in the order of those, each of several once."""
        path_of, known = self.table.__getitem__, self._keys
        return {
            nlri: path_of(keys)
            if isinstance(keys := known.get(nlri, ()), bytes)
            else candidates(dict.fromkeys(map(path_of, keys)))
            for nlri in nlris
        }

    def path_id(self, path: Path, nlri: Nlri) -> bytes | None:
        """Return by which identifier a path of a prefix came, the first of several, b"": without; None: not now."""
        for key in self.keys_of(nlri):
            if self.table[key] is path:
                return key[:PATH_ID_SIZE]
        return b"" if self.table.get(nlri) is path else None

    def path_ids(self) -> Iterator[bytes]:
        """Yield the identifiers by which paths came, again and again."""
        return (key[:PATH_ID_SIZE] for nlri in self._keys for key in self.keys_of(nlri))

    @property
    def has_path_ids(self) -> bool:
        """Whether anything came with an identifier."""
        return bool(self._keys)

    # ── what is stale ────────────────────────────────────────────────────────

    def doubt(self, families: Iterable[Family] | None = None) -> None:
        """Let all that there is be stale, or all of these families; O(table)."""
        if families is None:
            self.stale = set(self.table)
            self._stale_sizes, self._stale_identities = Counter(self._sizes), Counter(self._identities)
            return
        self.stale.update(self.keys_in(families))
        for width in _widths(families):
            self._stale_sizes[width], self._stale_identities[width] = self._sizes[width], self._identities[width]

    def refresh(self, keys: Iterable[Nlri]) -> None:
        """Let none of these be stale: the peer says them again, or they go."""
        again = self.stale.intersection(keys) if self.stale else ()
        if again:
            self._stale_sizes.subtract(Counter(map(len, again)))
            if any(self._stale_identities.values()):
                self._stale_identities.subtract(self._identities_of(again))
            self.stale.difference_update(again)

    def keys_in(self, families: Iterable[Family]) -> list[Nlri]:
        """Return all keys of these families; O(table)."""
        widths = _widths(families)
        return [key for key in self.table if len(key) in widths]

    def stale_of(self, families: Iterable[Family]) -> list[Nlri]:
        """Return the keys that are stale of these families."""
        widths = _widths(families)
        return [key for key in self.stale if len(key) in widths]

    def kept(self, path: Path, kept: Kept) -> Path:
        """Return what is kept of a path while its peer is away."""
        found = self._lowered.get((path, kept))
        if found is None:
            attributes = path.attributes
            if kept is Kept.LONG_LIVED and LLGR_STALE not in attributes.communities:
                attributes = replace(attributes, communities=tuple(sorted((*attributes.communities, LLGR_STALE))))
            found = self._lowered[path, kept] = replace(path, attributes=attributes, kept=kept)
        return found

    def lower(self, keys: Iterable[Nlri], kept: Kept) -> Iterator[tuple[Path, dict[Nlri, Path]]]:
        """Put in the place of paths what is kept of them, if that is less; yields it, with keys of one width."""
        alike: dict[Path, list[Nlri]] = {}
        for key in keys:
            alike.setdefault(self.table[key], []).append(key)
        for path, some in alike.items():
            if path.kept is Kept.ALIKE or (path.kept is Kept.DOUBTED and kept is Kept.LONG_LIVED):
                lowered = self.kept(path, kept)
                for part in by_width(some):
                    yield lowered, self.put(lowered, part)

    def is_short_lived(self, key: Nlri) -> bool:
        """Tell whether the peer, or a filter, wants a path not to be kept for long (RFC 9494 §4.2)."""
        path = self.table[key]
        return any(NO_LLGR in attributes.communities for attributes in (path.received, path.attributes))

    def sweep(self, families: Iterable[Family]) -> list[Nlri]:
        """Return what is still stale of these families, and will never count for less."""
        self._lowered.clear()
        return self.stale_of(families)

    # ── how much there is ────────────────────────────────────────────────────

    def over_limit(self) -> tuple[Family, str] | None:
        """Return a family of which the peer announced more than it may, before filters, and the limit's name.

        Of several paths of a prefix each counts: a limit is there for what it costs to hold them. What is still stale
        does not count, as it may never say that again; but as much again as the limit at the most, or a peer that
        restarts or begins a refresh time after time and comes to no end would have as much as it likes. None: it is
        within its limits.
        """
        return next(((family, limit) for family, limit, count, most, _ in self._limits() if count > most), None)

    def near_limits(self) -> dict[tuple[Family, str], tuple[int, int]]:
        """Return of which family and limit so much was announced that people want to know: how many, of most.

        It counts as `over_limit` does.
        """
        found = self._limits()
        return {(family, limit): (count, most) for family, limit, count, most, warn in found if count >= warn > 0}

    def _limits(self) -> Iterator[tuple[Family, str, int, int, int]]:
        """Yield of each family that there is and limit what counts, the most that may, and what people are told of."""
        peer, sizes, with_identity = self.peer, self._sizes, self._identities
        for family, widths in WIDTHS.items():
            plain, by_path = widths
            entries = sizes.get(plain, 0) + sizes.get(by_path, 0)
            if not entries:
                continue
            identities = with_identity.get(plain, 0) + with_identity.get(by_path, 0)
            prefixes = entries - identities
            if self.stale:
                stale_identities = sum(map(self._stale_identities.__getitem__, widths))
                stale_prefixes = sum(map(self._stale_sizes.__getitem__, widths)) - stale_identities
                prefixes -= min(peer.max_prefixes, stale_prefixes)
                identities -= min(peer.max_identities, stale_identities)
            yield family, MAX_PREFIXES, prefixes, peer.max_prefixes, peer.max_prefixes_warn
            yield family, MAX_IDENTITIES, identities, peer.max_identities, most_but_a_fifth(peer.max_identities)

    def counts(self) -> dict[Family, tuple[int, int]]:
        """Return (received, accepted) for each family; accepted passed filters and loop checks."""
        refused: Counter[int] = Counter()
        if any(path.refusal for path in set(self.table.values())):
            refused.update(len(key) for key, path in self.table.items() if path.refusal)
        sizes = {family: sum(map(self._sizes.__getitem__, widths)) for family, widths in WIDTHS.items()}
        return {family: (size, size - sum(map(refused.__getitem__, WIDTHS[family]))) for family, size in sizes.items()}

    @property
    def identities(self) -> int:
        """How many prefixes there are of which the peer said who has the address, and was believed."""
        return self._identities.total()

    @property
    def long_lived(self) -> int:
        """How many of the stale paths are kept beyond the restart time; O(stale)."""
        return sum(self.table[key].kept is Kept.LONG_LIVED for key in self.stale)

    def _identities_of(self, keys: Iterable[Nlri]) -> Counter[int]:
        """Return by width how many of these are there, and something is said of them."""
        return Counter(len(key) for key in keys if _is_identity(self.table.get(key)))

    def prefixes_by(self, hops: Collection[NextHop]) -> Iterator[Nlri]:
        """Yield the prefixes with a path by one of these next hops; O(table) where there is one."""
        paths = {path for path in set(self.table.values()) if path.next_hop in hops}
        return (prefix_of(key) for key, path in self.table.items() if path in paths) if paths else iter(())


def _is_identity(path: Path | None) -> bool:
    return path is not None and path.claims is not None


def _widths(families: Iterable[Family]) -> set[int]:
    return {width for family in families for width in WIDTHS.get(family, ())}
