"""Which path is best: a table of steps, read from the top, and why every other path lost.

RFC 4271 §9.1.2.2 removes paths from consideration step by step, and so do we: a comparison of two
at a time is not a total order once MED counts only within a neighbouring AS. RFC 4456 §9 adds
ORIGINATOR_ID and the length of CLUSTER_LIST, RFC 9494 §4.3 that what is stale for long comes last. Several paths
of one peer (RFC 7911) stand among the candidates in the order of their identifiers, and the first of those that
nothing else tells apart wins. The name of a step is the reason that operators see.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter

from bgpmesh.rib.nexthop import NextHop
from bgpmesh.route.attributes import PathAttributes, RouterId
from bgpmesh.route.claim import Claims
from bgpmesh.route.community import LLGR_STALE, bandwidth_of
from bgpmesh.route.nlri import IPAddress, address_rank
from bgpmesh.route.path import PeerName, Source, Target, Via

DEFAULT_LOCAL_PREF = 100


class Kept(enum.Enum):
    """How a path counts of which its peer may know no longer."""

    ALIKE = "alike"  # like any other, also while it is stale after a restart (RFC 4724 §4.2)
    DOUBTED = "doubted"  # kept after a hold timer expired (RFC 8538): after all others
    LONG_LIVED = "long-lived"  # kept beyond the restart time (RFC 9494): the same, and marked


@dataclass(slots=True, eq=False)
class Path:
    """One way to get there: an attribute set from one source, shared by all prefixes that have it.

    `received` is what came, `attributes` what the import filters made of it. `refusal` says why it
    can never be selected; "" where only its next hop decides. A local path has no next hop but a
    target of its own (None: nothing goes into the kernel), and so has one that the import filters discard.
    """

    source: Source
    received: PathAttributes
    attributes: PathAttributes
    refusal: str = ""
    filtered: str = ""  # the import filters and rules that changed it, or the one that rejected it
    next_hop: NextHop | None = None
    target: Target | None = None
    is_advertised: bool = True
    is_floating: bool = False  # a node of the cluster says that its prefixes are floating addresses
    claims: Claims | None = None  # of one received: what its node says of who has the address, and may say
    is_for_cluster: bool = False  # a single address in a block of its node: nobody outside needs it
    kept: Kept = Kept.ALIKE  # how it counts while its peer is away
    is_movable: bool = False  # of a local one: others may announce it as well, and nothing here ends when this does not
    read_at: float = 0.0  # monotonic second of the last UPDATE that carried this set
    alone: Selection = field(init=False)  # what is selected where this is the only candidate
    local_pref: int = field(init=False)
    as_path_length: int = field(init=False)
    med: int = field(init=False)
    neighbouring_as: int = field(init=False)  # 0: none
    router_id: RouterId = field(init=False)
    is_least_preferred: bool = field(init=False)

    def __post_init__(self) -> None:
        attributes = self.attributes
        preferred = attributes.local_pref
        self.local_pref = DEFAULT_LOCAL_PREF if preferred is None else preferred
        self.as_path_length = attributes.as_path.length
        self.med = attributes.med or 0  # an absent MED is the lowest (RFC 4271 §9.1.2.2 c)
        self.neighbouring_as = attributes.as_path.first or 0
        self.router_id = self.source.router_id if attributes.originator_id is None else attributes.originator_id
        self.is_least_preferred = self.kept is not Kept.ALIKE or LLGR_STALE in attributes.communities
        self.alone = Selection(self, (self,), self.target, (self,))

    @property
    def peer(self) -> PeerName | None:
        """Who it came from, None for this node itself."""
        return self.source.peer

    @property
    def is_eligible(self) -> bool:
        """Whether it may be selected now."""
        return not self.refusal and (self.next_hop is None or self.next_hop.resolution is not None)

    @property
    def why_not(self) -> str:
        """Why it may not be selected now, in words; "" where it may."""
        if self.refusal or self.next_hop is None or self.next_hop.resolution is not None:
            return self.refusal
        return f"next hop {self.next_hop.address} cannot be reached: {self.next_hop.reason}"


Candidates = Path | tuple[Path, ...]  # the one of a prefix, or several


def candidates(paths: Collection[Path]) -> Candidates | None:
    """Return paths as the candidates of a prefix; None: there is none."""
    if len(paths) > 1:
        return tuple(paths)
    return next(iter(paths), None)


class Ranking:
    """Eligible paths of a prefix in their order: first the equal ones, then each the best once those before are gone.

    All of them, as any may be what some peer may hear; those behind the equal ones are ranked where somebody asks.
    """

    __slots__ = ("_equal", "_is_ranked", "_others")

    def __init__(self, eligible: Iterable[Path], decision: Decision) -> None:
        equal = set(decision.equal)
        self._equal = _in_order(decision)
        self._others = [path for path in eligible if path not in equal]
        self._is_ranked = False

    def __iter__(self) -> Iterator[Path]:
        yield from self._equal
        if not self._is_ranked:
            self._others, self._is_ranked = ranked(self._others), True
        yield from self._others


@dataclass(slots=True, eq=False)
class Selection:
    """What was selected for a prefix; one object is shared by all prefixes with the same candidates."""

    best: Path
    multipath: tuple[Path, ...]  # the best first, then those it shares the traffic with
    target: Target | None
    ranked: Iterable[Path] = ()  # all that may be passed on, in order; (): nobody takes more than the best


Key = Callable[[Path], int | str | tuple[int, int, str]]


def _lowest_med_per_neighbouring_as(paths: Sequence[Path]) -> list[Path]:
    lowest: dict[int, int] = {}
    for path in paths:
        lowest[path.neighbouring_as] = min(path.med, lowest.get(path.neighbouring_as, path.med))
    return [path for path in paths if path.med == lowest[path.neighbouring_as]]


def _lowest(key: Key | None, paths: Sequence[Path]) -> Sequence[Path]:
    if key is None:
        return _lowest_med_per_neighbouring_as(paths)
    ranks = list(map(key, paths))
    lowest = min(ranks)
    if ranks.count(lowest) == len(ranks):
        return paths  # most steps put nobody out
    return [path for path, rank in zip(paths, ranks, strict=True) if rank == lowest]


# The order of these tables *is* the decision process: of each step the lowest stay. None: MED, which counts within
# a neighbouring AS only. What is still in after UP_TO_COST is equal for ECMP.
BEFORE_MED: tuple[tuple[str, Key], ...] = (
    ("local", lambda p: not p.source.is_local),
    ("own-block", lambda p: p.claims is None),  # its node says who has it, and nobody else's word counts
    ("stale", lambda p: p.is_least_preferred),  # RFC 9494 §4.3
    ("local-pref", lambda p: -p.local_pref),
    ("as-path-length", lambda p: p.as_path_length),
    ("origin", lambda p: p.attributes.origin),
)
BEHIND_MED: tuple[tuple[str, Key], ...] = (
    ("prefer-external", lambda p: not p.source.is_external),
    ("igp-cost", lambda p: 0 if p.next_hop is None else p.next_hop.cost),
)
UP_TO_COST: tuple[tuple[str, Key | None], ...] = (*BEFORE_MED, ("med", None), *BEHIND_MED)
TIE_BREAKS: tuple[tuple[str, Key], ...] = (  # and then, of one peer, the first: "path-id"
    ("router-id", lambda p: p.router_id),
    ("cluster-list-length", lambda p: len(p.attributes.cluster_list)),
    ("peer-address", lambda p: p.source.rank[0]),
    ("peer-name", lambda p: p.source.rank[1]),  # two peers at one address, told apart by port
)
_BEFORE_MED = tuple(key for _, key in BEFORE_MED)
_BEHIND_MED = tuple(key for _, key in (*BEHIND_MED, *TIE_BREAKS))


@dataclass(slots=True)
class Decision:
    """The outcome among eligible paths: who won, by which step, and which step put out each other."""

    best: Path
    won_by: str
    equal: list[Path]  # in after UP_TO_COST, the best among them
    lost: dict[Path, str]


def decide(paths: Sequence[Path]) -> Decision:
    """Decide among eligible paths, at least one; but for several of one peer their order changes nothing."""
    lost: dict[Path, str] = {}
    won_by = "only path"
    left: Sequence[Path] = paths
    equal: Sequence[Path] = paths
    for table in (UP_TO_COST, TIE_BREAKS):
        for name, key in table:
            if len(left) < 2:
                break
            kept = _lowest(key, left)
            if len(kept) < len(left):
                stays = set(kept)
                lost.update((path, name) for path in left if path not in stays)
                left, won_by = kept, name
        if table is UP_TO_COST:
            equal = left
    if len(left) > 1:
        lost.update((path, "path-id") for path in left[1:])
        won_by = "path-id"
    return Decision(left[0], won_by, list(equal), lost)


def ranked(paths: Sequence[Path]) -> list[Path]:
    """Return eligible paths in order, each the best of what is left of them then, in n log n steps.

    Within a neighbouring AS the lower MED goes first, and what is first in its AS is compared over ASes: so MED
    decides between no others.
    """
    if len(paths) < 2:
        return list(paths)
    behind = {path: (*(key(path) for key in _BEHIND_MED), at) for at, path in enumerate(paths)}
    alike: dict[tuple[object, ...], dict[int, list[Path]]] = {}
    for path in paths:
        of_as = alike.setdefault(tuple(key(path) for key in _BEFORE_MED), {})
        of_as.setdefault(path.neighbouring_as, []).append(path)
    found: list[Path] = []
    for _, of_as in sorted(alike.items(), key=itemgetter(0)):
        each_as = (sorted(some, key=lambda path: (path.med, behind[path])) for some in of_as.values())
        found += merge(*each_as, key=behind.__getitem__)  # of these the lowest first, though none need be sorted so
    return found


def select(paths: Sequence[Path], ecmp: int, *, is_ranked: bool = False) -> Selection | None:
    """Return what is selected among candidates, with at most `ecmp` distinct next hops; None: none is eligible.

    `is_ranked`: some peer takes several paths of a prefix.
    """
    eligible = [path for path in paths if path.is_eligible]
    if not eligible:
        return None
    decision = decide(eligible)
    best = decision.best
    ranked = Ranking(eligible, decision) if is_ranked and len(eligible) > 1 else ()
    alone = Selection(best, (best,), best.target, ranked) if ranked else best.alone
    if len(decision.equal) == 1 or best.next_hop is None or best.claims is not None:
        return alone
    hops: dict[IPAddress, float | None] = {}  # with the bandwidth of the first path
    chosen: list[Path] = []
    for path in _in_order(decision):
        if path.next_hop is not None and (path.next_hop.address in hops or len(hops) < max(ecmp, 1)):
            hops.setdefault(path.next_hop.address, bandwidth_of(path.attributes.ext_communities))
            chosen.append(path)
    if len(chosen) == 1:
        return alone
    next_hops = tuple(sorted(hops, key=address_rank))
    via = Via(next_hops, _weights([hops[address] for address in next_hops]))
    return Selection(best, tuple(chosen), via, ranked)


def _weights(bandwidths: Sequence[float | None]) -> tuple[int, ...]:
    """Return the shares of next hops, 1 to 100; (), all alike, unless each says its bandwidth."""
    said = [bandwidth for bandwidth in bandwidths if bandwidth]
    if len(said) < len(bandwidths) or len(set(said)) == 1:
        return ()
    weights = tuple(max(1, round(100 * bandwidth / max(said))) for bandwidth in said)
    return weights if len(set(weights)) > 1 else ()


def _in_order(decision: Decision) -> list[Path]:
    """Return the paths that are equal for ECMP, the best first."""
    best = decision.best
    return sorted(decision.equal, key=lambda p: (p is not best, p.router_id, p.source.rank))
