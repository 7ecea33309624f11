"""What peers do wrong, or cannot take: counted over all sessions of each, and told in words once in a session."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from bgpmesh.events import FlowsReceived, Level, RoutesReceived
from bgpmesh.notes import Notes
from bgpmesh.rib.claimants import Refused
from bgpmesh.route.nlri import Family, Nlri, prefix_text
from bgpmesh.route.path import PeerName


@dataclass(slots=True)
class Faults:
    """What a peer did wrong: counts of all its sessions, and the words of this one ("": nothing yet)."""

    treated_as_withdraw: int = 0  # UPDATEs (RFC 7606)
    attributes_discarded: int = 0
    update_problem: str = ""  # what was wrong with an UPDATE last
    claims_refused: int = 0  # prefixes of which it said what it may not say
    claims_problem: str = ""  # the first of them
    near_limits: set[tuple[Family, str]] = field(default_factory=set)  # of this session, told of
    unsaid: set[Nlri] = field(default_factory=set)  # prefixes of which it is not told a path: too long


class FaultsOf(defaultdict[PeerName, Faults]):
    """The faults of each peer."""

    def __init__(self, notes: Notes) -> None:
        super().__init__(Faults)
        self._notes = notes

    def begin_anew(self, name: PeerName) -> None:
        """Forget what a session did wrong in words: another begins."""
        if name in self:
            self[name].update_problem = self[name].claims_problem = ""
            self[name].near_limits.clear()
            self[name].unsaid.clear()

    def update_malformed(self, name: PeerName, event: RoutesReceived | FlowsReceived) -> None:
        """Count what was wrong with an UPDATE."""
        faults = self[name]
        faults.treated_as_withdraw += event.treated_as_withdraw
        faults.attributes_discarded += event.attributes_discarded
        if faults.update_problem != event.problem:  # who does it wrong does so in every UPDATE
            faults.update_problem = event.problem
            self._notes.add("update.malformed", Level.WARNING, peer=name, reason=event.problem)

    def limits_near(self, name: PeerName, near: Mapping[tuple[Family, str], tuple[int, int]]) -> None:
        """Tell once in a session of each limit that is near: (family, key) to (prefixes, limit)."""
        if near:
            told = self[name].near_limits
            for (family, limit), (count, most) in near.items():
                if (family, limit) not in told:
                    told.add((family, limit))
                    reason = f"{count} of {most} ({limit})"
                    self._notes.add("peer.limit-near", Level.WARNING, peer=name, family=family.label, reason=reason)

    def claims_refused(self, claims: list[Refused]) -> None:
        """Count what peers said of addresses and may not say, and empty the list; tell of the first of a session."""
        for name, nlri, count, reason in claims:
            faults = self[name]
            faults.claims_refused += count
            if not faults.claims_problem:
                faults.claims_problem = reason
                self._notes.add("identity.refused", Level.WARNING, peer=name, prefix=prefix_text(nlri), reason=reason)
        claims.clear()

    def too_long(self, name: PeerName, nlris: Collection[Nlri], size: int) -> None:
        """Say of which prefixes a peer that takes messages of `size` octets is told no path, where that is new."""
        told, now = self[name].unsaid, set(nlris)
        new = [nlri for nlri in nlris if nlri not in told]
        if new:
            keys = {"prefix": prefix_text(new[0]), "reason": fits_none(size), "others_count": len(new) - 1 or None}
            self._notes.add("route.too-long", Level.WARNING, peer=name, **keys)
        elif told and not now:
            self._notes.add("route.fits", peer=name)
        self[name].unsaid = now


def fits_none(size: int) -> str:
    """Return in words why a path goes to nobody who takes messages of `size` octets."""
    return f"its attributes fit no message of {size} octets, the longest that the peer takes (RFC 8654)"
