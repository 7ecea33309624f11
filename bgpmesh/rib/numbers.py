"""Our own identifiers of paths, where a peer takes several of a prefix (RFC 7911 §3).

A path has one for its peer and the identifier that the peer gave it, of all prefixes and towards all peers: so it
keeps it for as long as it is there, whatever becomes of its attributes, and a peer that moves from one update group to
another hears nothing of it. None is ever given twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from bgpmesh.rib.adjribin import AdjRibIn
from bgpmesh.rib.decision import Path
from bgpmesh.route.nlri import PATH_ID_SIZE, Nlri
from bgpmesh.route.path import PeerName

SPARE = 1_000  # identifiers of paths that are gone, kept beyond as many as there are

_Theirs = tuple[PeerName | None, bytes]  # None: this node itself; b"": the peer sends one path of a prefix


class Numbers:
    """The identifiers given to what peers told us, and to what is this node's own."""

    def __init__(self, ins: Mapping[PeerName, AdjRibIn]) -> None:
        self._ins = ins
        self._ours: dict[_Theirs, bytes] = {}
        self._last = 0
        self._kept = 0

    def of(self, path: Path, nlris: Collection[Nlri]) -> bytes | None:
        """Return our identifier of a path of these prefixes; None: there is none for all of them."""
        if len(self._ours) > 2 * self._kept + SPARE:
            alive = set(self._alive())
            self._ours = {key: ours for key, ours in self._ours.items() if key in alive}
            self._kept = len(self._ours)
        peer, theirs = path.peer, b""
        rib_in = None if peer is None else self._ins.get(peer)
        if rib_in is not None and rib_in.has_path_ids:
            first, *others = {rib_in.path_id(path, nlri) for nlri in nlris}
            if others or first is None:
                return None
            theirs = first
        ours = self._ours.get((peer, theirs))
        if ours is None:
            self._last = self._last % 0xFFFFFFFF + 1  # 0 is left to those who have only one
            ours = self._ours[peer, theirs] = self._last.to_bytes(PATH_ID_SIZE, "big")
        return ours

    def _alive(self) -> Iterator[_Theirs]:
        """Yield all that may have an identifier of ours: each peer and, of its own, each identifier."""
        yield None, b""
        for name, rib_in in self._ins.items():
            yield name, b""
            yield from ((name, theirs) for theirs in rib_in.path_ids())
