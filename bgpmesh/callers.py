"""Who calls from the ranges of this node: what each of them is like, who was here, and who came to nothing.

`peering/ranges.py` has what a range is. Sessions are those of `peers.py`, which asks here by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from bgpmesh.events import Configured, Level
from bgpmesh.notes import Notes
from bgpmesh.peering.bfd import Watched
from bgpmesh.peering.connection import State
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.ranges import PeerRange, Ranges, Refusals
from bgpmesh.peering.session import Session
from bgpmesh.route.nlri import IPAddress
from bgpmesh.route.path import PeerName

# Speakers who were here in this daemon's life and are remembered for that.
MOST_MET = 4096
# Who calls, and has not come to a session.
_CALLING = (State.OPEN_SENT, State.OPEN_CONFIRM)


class Callers:
    """The speakers of all ranges, as the configuration has them."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._ranges = Ranges()
        self._refusals: defaultdict[PeerName, Refusals] = defaultdict(Refusals)
        self._met: dict[PeerName, None] = {}

    def configure(self, new: Configured) -> None:
        """Take the ranges, and the addresses that belong to none."""
        self._ranges = Ranges(new.ranges, (peer.address for peer in new.peers))
        for name in self._refusals.keys() - set(self.names):
            del self._refusals[name]

    @property
    def names(self) -> tuple[PeerName, ...]:
        """The ranges, by name."""
        return tuple(each.name for each in self._ranges.all)

    @property
    def templates(self) -> list[Peer]:
        """What the speakers of each range are like."""
        return [each.template for each in self._ranges.all]

    def has(self, address: IPAddress) -> bool:
        """Tell whether who calls from there is somebody, a peer of the file or a speaker."""
        return self._ranges.has(address)

    def find(self, name: PeerName) -> tuple[PeerRange, Peer] | None:
        """Return the range of `NAME@ADDRESS`, and it as a peer; None: there is no such speaker now."""
        found = self._ranges.find(name)
        return None if found is None else (found[0], found[0].speaker(found[1]))

    def among(self, names: Collection[PeerName]) -> dict[PeerName, Peer]:
        """Return those of the names that are speakers, as the peers that they are now."""
        found = ((name, self.find(name)) for name in names if "@" in name)
        return {name: each[1] for name, each in found if each is not None}

    def watched(self, names: Collection[PeerName]) -> tuple[Watched, ...]:
        """Return how BFD watches the paths to those of the names that are speakers."""
        if all(each.watched is None for each in self._ranges.all):
            return ()
        found = (self._ranges.find(name) for name in sorted(names))
        watched = (around.watching(address) for around, address in filter(None, found))
        return tuple(each for each in watched if each is not None)

    def who_gives_way(
        self, around: PeerRange, sessions: Iterable[Session], held: Collection[PeerName]
    ) -> list[Session] | None:
        """Return which sessions have to end to have room for one more speaker of a range; None: there is no room.

        Who called first and has come to no session gives way, for RFC 4271 has it 4 minutes to say OPEN: callers who
        never do keep nobody out, and who does has said it in a round trip.
        """
        speakers = [session for session in sessions if session.peer.of_range == around.name]
        count = max(0, len(speakers) - around.limit + 1)
        late = [each for each in speakers if each.state in _CALLING and each.peer.name not in held]
        return late[:count] if len(late) >= count else None

    # ── who was here ─────────────────────────────────────────────────────────

    def leave(self, name: PeerName, *, was_established: bool) -> None:
        """Take note that a speaker is gone. If it had a session, what we forward has been preserved since."""
        if was_established:
            self._met[name] = None
            if len(self._met) > MOST_MET:
                del self._met[next(iter(self._met))]

    def was_here(self, name: PeerName) -> bool:
        """Tell whether a speaker had a session in this daemon's life, as far as that is remembered."""
        return name in self._met

    def came(self, peer: Peer) -> None:
        """Take note that a speaker has a session."""
        if peer.of_range is not None:
            self._refusals[peer.of_range].forget(peer.name)

    def came_to_nothing(self, of_range: PeerName, name: PeerName, reason: str) -> None:
        """Take note that nothing came of a call, and say so where that is news; `name` may be that of the range."""
        if self._refusals[of_range].add(name, reason):
            self._notes.add("peer.failed", Level.WARNING, peer=name, reason=reason)

    def last_refusal(self, of_range: PeerName) -> str:
        """Return who came to nothing last, and why; "": nobody."""
        return self._refusals[of_range].last if of_range in self._refusals else ""
