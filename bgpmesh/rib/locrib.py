"""What we believe of each prefix: the paths that there are of it, and what is selected among them.

    insert, replace, remove   paths came or went; cheap, the prefixes are remembered
    take_work, settle         decide about some of those, and say what is selected now in the place of what

`candidates` holds for each prefix its one Path, or a tuple of them; a batch without competition is `dict.update`.
Prefixes are worked on in runs of equal candidates, and the decision for one combination of candidates is remembered
until something else that it depends on has changed. Of a peer that sends several paths of a prefix (RFC 7911) there is
a Path for each attribute set, in the order of their identifiers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import TypeVar, cast

from bgpmesh.delta import drop
from bgpmesh.rib.decision import Candidates, Path, Selection, decide, select
from bgpmesh.rib.decision import candidates as candidates_of
from bgpmesh.rib.nexthop import NextHop, OwnRoute
from bgpmesh.route.community import GRACEFUL_SHUTDOWN
from bgpmesh.route.nlri import WIDTHS, Family, Nlri, by_width
from bgpmesh.route.path import PeerName

MEMO_PATHS = 100_000  # of all combinations of candidates whose decision is remembered
WAITING = "waiting until this node is in sync"

V = TypeVar("V")
# Prefixes of one family as keys, what was selected, and what is. A dict is made of another in a quarter of the time.
Changed = tuple[Mapping[Nlri, object], Selection | None, Selection | None]


class LocRib:
    """The candidates of all prefixes, and the selections; `candidates` and `selected` are for others to read."""

    def __init__(self, ecmp: int) -> None:
        self.candidates: dict[Nlri, Candidates] = {}
        self.selected: dict[Nlri, Selection] = {}
        self.is_deferring = False  # learnt paths are stored but not selected
        self._sizes: Counter[int] = Counter()
        self._decided: dict[tuple[Path, ...], Selection | None] = {}
        self._decided_paths = 0  # of all combinations in it
        self._dirty: dict[Nlri, object] = {}
        self._work: Iterator[tuple[Nlri, object]] = iter(())  # what was dirty when the work on it began
        self._work_left = 0  # of it
        self._ecmp = ecmp
        self._is_ranked = False  # some peer takes several paths of a prefix, or took

    # ── paths come and go ────────────────────────────────────────────────────

    def insert(self, path: Path, batch: dict[Nlri, Path]) -> Mapping[Nlri, object]:
        """Have a path, given with each prefix, in the place of whatever its peer had; returns what is new."""
        candidates, peer = self.candidates, path.source.peer
        present = set(map(candidates.get, batch))
        after = {before: _with(before, peer, path) for before in present}
        if all(before is now for before, now in after.items()):
            return {}  # said again
        if len(after) == 1 and path in after.values():
            candidates.update(batch)  # nobody else has these
        else:
            befores = list(map(candidates.get, batch))
            now = cast("Iterator[Candidates]", map(after.__getitem__, befores))
            candidates.update(zip(batch, now, strict=True))
        self._dirty.update(batch)
        return batch

    def replace(self, peer: PeerName, found: Mapping[Nlri, Candidates | None]) -> Mapping[Nlri, object]:
        """Have these paths of prefixes in the place of what their peer had; returns the prefixes where that is new."""
        candidates = self.candidates
        after: dict[tuple[Candidates | None, Candidates | None], Candidates | None] = {}
        stirred: dict[Nlri, None] = {}
        for nlri, mine in found.items():
            before = candidates.get(nlri)
            if (pair := (before, mine)) not in after:
                after[pair] = _with(before, peer, mine)
            now = after[pair]
            if now is before:
                continue
            if now is None:
                del candidates[nlri]
            else:
                candidates[nlri] = now
            stirred[nlri] = None
        self._dirty.update(stirred)
        return stirred

    def remove(self, peer: PeerName | None, nlris: Sequence[Nlri]) -> Mapping[Nlri, object]:
        """Have no path of a peer that had one of each prefix; returns them."""
        candidates = self.candidates
        befores = list(map(candidates.__getitem__, nlris))
        after = {before: _with(before, peer, None) for before in set(befores)}
        if not any(after.values()):
            drop(candidates, nlris)  # nobody else has these
        else:
            for nlri, before in zip(nlris, befores, strict=True):
                left = after[before]
                if left is None:
                    del candidates[nlri]
                else:
                    candidates[nlri] = left
        stirred = dict.fromkeys(nlris)
        self._dirty.update(stirred)
        return stirred

    # ── decisions ────────────────────────────────────────────────────────────

    @property
    def has_work(self) -> bool:
        """Whether there is anything to decide."""
        return bool(self._dirty or self._work_left)

    def defer(self, is_deferring: bool) -> None:
        """Select local paths only, or all again."""
        if is_deferring != self.is_deferring:
            self.is_deferring = is_deferring
            self.decide_again(self.candidates)

    def split_over(self, ecmp: int) -> bool:
        """Select so many next hops at most, from the next decision on; tell whether that is new."""
        is_new, self._ecmp = ecmp != self._ecmp, ecmp
        return is_new

    def rank(self) -> None:
        """Have the paths of each prefix in their order: some peer takes several."""
        if not self._is_ranked:
            self._is_ranked = True
            self.decide_again(self.candidates)

    def decide_again(self, nlris: Iterable[Nlri]) -> None:
        """Remember no decision; those about these prefixes may be others now."""
        self._forget_decisions()
        self._dirty.update(dict.fromkeys(nlris))

    def _forget_decisions(self) -> None:
        self._decided.clear()
        self._decided_paths = 0

    def take_work(self, limit: int) -> Collection[Nlri]:
        """Return up to `limit` prefixes about which there is to decide, in the order in which they came."""
        if not self._work_left:
            dirty, self._dirty = self._dirty, {}
            if len(dirty) <= limit:
                return dirty
            self._work, self._work_left = iter(dirty.items()), len(dirty)
        nlris = dict(islice(self._work, limit))
        self._work_left -= len(nlris)
        if not self._work_left:
            self._work = iter(())
        return nlris

    def settle(self, nlris: Collection[Nlri]) -> Iterator[Changed]:
        """Decide about prefixes; yields what is selected now, once it is."""
        for candidates, alike in _runs(nlris, list(map(self.candidates.get, nlris))):
            new = None if candidates is None else self._select(candidates)
            olds: Iterable[tuple[Selection | None, Collection[Nlri]]] = ((None, alike),)  # most often: none had one
            if not self.selected.keys().isdisjoint(alike):
                olds = _runs(alike, list(map(self.selected.get, alike)))
            for old, same in olds:
                if old is not new:
                    for part in by_width(same):
                        width = len(next(iter(part)))
                        self._sizes[width] += ((new is not None) - (old is not None)) * len(part)
                        yield self._put(part, new), old, new

    def _put(self, nlris: Collection[Nlri], new: Selection | None) -> Mapping[Nlri, object]:
        if new is None:
            drop(self.selected, nlris)
            return dict.fromkeys(nlris)
        batch = dict.fromkeys(nlris, new)
        self.selected.update(batch)
        return batch

    def _is_ready(self, path: Path) -> bool:
        return path.is_eligible and (path.source.is_local or not self.is_deferring)

    def _select(self, candidates: Candidates) -> Selection | None:
        if isinstance(candidates, Path):
            return candidates.alone if self._is_ready(candidates) else None
        if candidates in self._decided:
            return self._decided[candidates]
        if self._decided_paths > MEMO_PATHS:
            self._forget_decisions()
        self._decided_paths += len(candidates)
        ready = [path for path in candidates if path.source.is_local] if self.is_deferring else candidates
        selection = select(ready, self._ecmp, is_ranked=self._is_ranked)
        self._decided[candidates] = selection
        return selection

    # ── views ────────────────────────────────────────────────────────────────

    def reasons(self, nlri: Nlri) -> dict[Path, str]:
        """Return all paths of a prefix with the step that put each out or, for the best, that left it alone.

        Of what may not be selected it is why not.
        """
        paths = _as_tuple(self.candidates.get(nlri))
        ready = [path for path in paths if self._is_ready(path)]
        reasons = {path: path.why_not or WAITING for path in paths}
        if ready:
            decision = decide(ready)
            for path, step in {**decision.lost, decision.best: decision.won_by}.items():
                is_leaving = step == "local-pref" and GRACEFUL_SHUTDOWN in path.attributes.communities
                reasons[path] = f"{step} (graceful shutdown)" if is_leaving else step
        return reasons

    def size(self, family: Family) -> int:
        """Count the prefixes of a family that have a selected path."""
        return self._sizes[WIDTHS[family][0]]

    def own_route(self, prefix: Nlri) -> OwnRoute | None:
        """Return what is selected for a prefix, and what could be; None where we know nothing of it."""
        if prefix not in self.candidates and prefix not in self.selected:
            return None
        paths = _as_tuple(self.candidates.get(prefix))
        selection = self.selected.get(prefix)
        possible: tuple[NextHop, ...] = ()
        if not any(path.source.is_local for path in paths):
            ways = (path for path in paths if not path.refusal and path.claims is None)
            possible = tuple(path.next_hop for path in ways if path.next_hop is not None)
        if selection is None:
            return OwnRoute(None, None, possible)
        return OwnRoute(selection.target, selection.best.next_hop, possible)


def _as_tuple(candidates: Candidates | None) -> tuple[Path, ...]:
    if candidates is None:
        return ()
    return (candidates,) if isinstance(candidates, Path) else candidates


def _with(before: Candidates | None, peer: PeerName | None, mine: Candidates | None) -> Candidates | None:
    """Return candidates with these paths in the place of whatever their peer had; the same where it had just these."""
    if before is None or (isinstance(before, Path) and before.source.peer == peer):
        return mine  # most often: nobody else has it
    paths = _as_tuple(before)
    if candidates_of([path for path in paths if path.source.peer == peer]) == mine:
        return before
    return candidates_of([*(path for path in paths if path.source.peer != peer), *_as_tuple(mine)])


def _runs(nlris: Collection[Nlri], values: list[V]) -> Iterable[tuple[V, Collection[Nlri]]]:
    """Return prefixes, one at least, by what they have; most often all have the same."""
    if values[0] is values[-1] and values.count(values[0]) == len(values):
        return ((values[0], nlris),)
    alike: dict[V, list[Nlri]] = {}
    keys, at = list(nlris), 0
    for value, run in groupby(values):
        start, at = at, at + len(list(run))
        alike.setdefault(value, []).extend(keys[start:at])
    return alike.items()
