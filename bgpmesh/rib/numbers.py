"""Our own identifiers of paths, where a peer takes several of a prefix (RFC 7911 §3).

A path has one for its peer and the identifier that the peer gave it, of all prefixes and towards all peers: so it
keeps it for as long as it is there, whatever becomes of its attributes, and a peer that moves from one update group to
another hears nothing of it. None is ever given twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgpmesh.route.nlri import PATH_ID_SIZE
from bgpmesh.route.path import PeerName

SPARE = 1_000  # identifiers of paths that are gone, kept beyond as many as there are

_Theirs = tuple[PeerName | None, bytes]  # None: this node itself; b"": the peer sends one path of a prefix


class Numbers:
    """The identifiers given; `are_many` asks for `keep`, with what there still is."""

    def __init__(self) -> None:
        self._ours: dict[_Theirs, bytes] = {}
        self._last = 0
        self._kept = 0

    @property
    def are_many(self) -> bool:
        """Whether most of them may be of paths that are gone."""
        return len(self._ours) > 2 * self._kept + SPARE

    def of(self, peer: PeerName | None, theirs: bytes) -> bytes:
        """Return our identifier of what a peer calls so."""
        ours = self._ours.get((peer, theirs))
        if ours is None:
            self._last = self._last % 0xFFFFFFFF + 1  # 0 is left to those who have only one
            ours = self._ours[peer, theirs] = self._last.to_bytes(PATH_ID_SIZE, "big")
        return ours

    def keep(self, alive: Iterable[_Theirs]) -> None:
        """Forget all others."""
        wanted = set(alive)
        self._ours = {key: ours for key, ours in self._ours.items() if key in wanted}
        self._kept = len(self._ours)
