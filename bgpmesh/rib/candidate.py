"""The paths of a prefix as operators see them: what each is, what has become of it, and why."""

from __future__ import annotations

from collections.abc import Mapping

from bgpmesh.frozen import frozen
from bgpmesh.rib.adjribin import AdjRibIn
from bgpmesh.rib.decision import Kept, Path, Selection
from bgpmesh.rib.locrib import WAITING
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.nlri import Nlri, path_id_of
from bgpmesh.route.path import PeerName, Resolution


@frozen
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


def candidates(
    nlri: Nlri, selection: Selection | None, reasons: Mapping[Path, str], tables: Mapping[PeerName, AdjRibIn]
) -> list[Candidate]:
    """Return every path of a prefix, the selected ones first; `reasons`: what each is and why, `tables`: of peers."""
    multipath = set(selection.multipath if selection is not None and len(selection.multipath) > 1 else ())
    ins = {rib_in.peer.name: rib_in for path in reasons if path.peer and (rib_in := tables.get(path.peer))}
    named: dict[Path, list[Nlri]] = {}  # by which identifiers each came; of thousands none is looked for
    for rib_in in ins.values():
        for key in rib_in.keys_of(nlri):
            named.setdefault(rib_in.table[key], []).append(key)
    shown: list[Candidate] = []
    for path, why in reasons.items():
        keys = named.get(path, [nlri])
        for key in keys:
            is_again = key is not keys[0]  # what says the same as one before
            shown.append(
                Candidate(
                    path.peer,
                    path.attributes,
                    is_best=selection is not None and selection.best is path and not is_again,
                    is_multipath=path in multipath,
                    is_stale=path.peer in ins and key in ins[path.peer].stale,
                    reason="path-id" if is_again and path.is_eligible and why != WAITING else why,
                    resolution=None if path.next_hop is None else path.next_hop.resolution,
                    read_at=path.read_at,
                    filtered=path.filtered,
                    is_accepted=not path.refusal,
                    kept=path.kept,
                    path_id=path_id_of(key),
                )
            )
    return sorted(shown, key=lambda c: (not c.is_best, not c.is_multipath, c.peer or "", c.path_id or 0))
