"""The paths to peers, as BFD sees them (RFC 5882).

BFD says of a path that it is broken, and never that a session may come up: one comes up without it, as with a peer
that has none. What somebody wants (AdminDown) is no failure.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgpmesh.events import Level
from bgpmesh.notes import Notes
from bgpmesh.peering import bfd
from bgpmesh.peering.peer import Peer
from bgpmesh.route.path import PeerName

# BFD goes on so long at least without a daemon: a supervisor has started it again by then.
LEAST_STAY_S = 10.0


class Paths:
    """What BFD is to watch, and what it says of that; `reports` are of what is watched."""

    def __init__(self, notes: Notes) -> None:
        self.watched: tuple[bfd.Watched, ...] = ()
        self._names: set[PeerName] = set()  # of those
        self.reports: dict[PeerName, bfd.Report] = {}
        self._stay_s = LEAST_STAY_S
        self._notes = notes

    def wanted(self) -> tuple[tuple[bfd.Watched, ...], float]:
        """Return what BFD is to watch, and for how long without this daemon: while a peer may keep our routes."""
        return self.watched, self._stay_s

    def stay_for(self, peers: Iterable[Peer]) -> None:
        """Take how long these peers keep our routes."""
        self._stay_s = max([LEAST_STAY_S, *(peer.asks_for_s for peer in peers)])

    def watch(self, watched: Iterable[bfd.Watched]) -> None:
        """Have these watched, and nothing else."""
        if (new := tuple(watched)) != self.watched:
            self.watched = new
            self._names = {PeerName(each.name) for each in new}
            self.reports = {name: report for name, report in self.reports.items() if name in self._names}

    def is_watched(self, name: PeerName) -> bool:
        """Tell whether BFD watches the path to a peer."""
        return name in self._names

    def reported(self, report: bfd.Report) -> tuple[str | None, bool]:
        """Take note of how a path is; return why it failed, None where it did not, and whether it is up anew."""
        name = PeerName(report.name)
        if not self.is_watched(name):
            return None, False  # it was told that nobody wants to know any more, and has not heard it yet
        before, self.reports[name] = self.reports.get(name), report
        was_up = before is not None and before.state == bfd.State.UP
        is_up = report.state == bfd.State.UP
        reason = bfd.diag_words(report.diag) if not is_up else "it was down for a moment"
        if report.is_failure or (was_up and not is_up):
            level = Level.WARNING if report.is_failure else Level.INFO
            self._notes.add("bfd.down", level, peer=name, reason=reason)
        return reason if report.is_failure else None, is_up and (report.is_failure or not was_up)
