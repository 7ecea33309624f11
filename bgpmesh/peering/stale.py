"""How long the paths of a peer that is away, or just back, may stay: one clock for each family.

    lost ──▶ stale ──(restart time)──▶ long-lived, or gone ──(its stale time)──▶ gone        RFC 4724, RFC 9494
               │ back before that                  │ back before that
               ▼                                   ▼
             gone with End-of-RIB, at the latest STALE_PATHS_S after the restart time, or after the return

A clock begins when paths become stale and ends with End-of-RIB. A peer that is lost again before it does not wind it
up, however often it comes and goes (RFC 8538 §4.1, RFC 9494 §4.2). A peer that is back keeps a family only where its
new OPEN says that forwarding was preserved: for what is long-lived the F bit of that capability counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from bgpmesh.peering.message import Capabilities, Negotiated
from bgpmesh.route.nlri import Family

# How long stale paths may wait for End-of-RIB beyond the restart time the peer asked for. Two
# minutes let a peer send a full table again.
STALE_PATHS_S = 120.0

NEVER = float("inf")


@dataclass(slots=True)
class _Clock:
    """The seconds that count for what is stale of a family."""

    restart_ends: float  # what is not long-lived is over by then, whether its peer is away or back
    stale_time: int = 0  # seconds that it may be long-lived; 0: not at all
    long_lived_ends: float = NEVER  # NEVER: it is not long-lived yet
    turns_at: float = NEVER  # when what is not long-lived becomes that
    ends_at: float = NEVER

    def away(self, until: float, stale_time: int) -> None:
        """Let the peer be away; `until` is when it should be back."""
        if self.long_lived_ends == NEVER:  # what was said again since has its own restart time, within the other clock
            until = min(until, self.restart_ends)
        self.stale_time = stale_time
        self.turns_at = until if stale_time else NEVER
        self.ends_at = self.long_lived_ends if stale_time else min(until, self.long_lived_ends)

    def back(self, now: float) -> None:
        """Let the peer say all that it has."""
        self.turns_at = NEVER
        is_long_lived = self.long_lived_ends < NEVER
        self.ends_at = min(self.long_lived_ends, now + STALE_PATHS_S) if is_long_lived else self.restart_ends

    def turn(self) -> None:
        """Let what is stale be long-lived from the second at which it was to become that."""
        if self.long_lived_ends == NEVER:
            self.long_lived_ends = self.turns_at + self.stale_time
        self.turns_at, self.ends_at = NEVER, self.long_lived_ends


class Stale:
    """The families of one peer of which something is stale."""

    def __init__(self) -> None:
        self._clocks: dict[Family, _Clock] = {}

    @property
    def families(self) -> frozenset[Family]:
        """Which they are."""
        return frozenset(self._clocks)

    def lost(self, negotiated: Negotiated, retain: frozenset[Family], now: float) -> None:
        """Let these families, and no others, be stale: the session that had agreed on this is lost."""
        restart = negotiated.received.capabilities.graceful_restart
        assert restart is not None or not retain
        stale_times = _stale_times(negotiated)
        listed = {family for family, _ in restart.families} if restart is not None else set()
        clocks = {}
        for family in retain:
            away_s = restart.restart_time if restart is not None and family in listed else 0
            clocks[family] = self._clocks.get(family) or _Clock(now + away_s + STALE_PATHS_S)
            clocks[family].away(now + away_s, stale_times.get(family, 0))
        self._clocks = clocks

    def back(self, negotiated: Negotiated, now: float) -> frozenset[Family]:
        """Return the families that stay for now: of those alone the peer has preserved its forwarding."""
        offered = negotiated.received.capabilities
        kept, long_kept = _preserved(offered)
        self._clocks = {
            family: clock
            for family, clock in self._clocks.items()
            if family in (kept if clock.long_lived_ends == NEVER else long_kept) and family in negotiated.families
        }
        for clock in self._clocks.values():
            clock.back(now)
        return self.families

    def end_of_rib(self, family: Family) -> bool:
        """Let a family be no longer stale; return whether it was."""
        return self._clocks.pop(family, None) is not None

    def end(self) -> frozenset[Family]:
        """Let nothing be stale any longer; return what was."""
        over, self._clocks = self.families, {}
        return over

    def due(self, now: float) -> tuple[frozenset[Family], frozenset[Family]]:
        """Return the families that become long-lived now, and those whose time is up."""
        turning = {family for family, clock in self._clocks.items() if clock.turns_at <= now}
        for family in turning:
            self._clocks[family].turn()
        over = frozenset(family for family, clock in self._clocks.items() if clock.ends_at <= now)
        for family in over:
            del self._clocks[family]
        return frozenset(turning - over), over

    def next_due(self) -> float:
        """Return the second at which something is due, infinity if never."""
        return min((min(clock.turns_at, clock.ends_at) for clock in self._clocks.values()), default=NEVER)


def retainable(negotiated: Negotiated) -> frozenset[Family]:
    """Return the families whose paths outlive a lost connection.

    Those in the peer's capability (RFC 4724 §4.2), and without a restart time those that may be long-lived (RFC 9494).
    """
    restart = negotiated.received.capabilities.graceful_restart
    if restart is None or not negotiated.is_graceful:
        return frozenset()
    stale_times = _stale_times(negotiated)
    families = {family for family, stale_time in stale_times.items() if stale_time}
    families |= {family for family, _ in restart.families} if restart.restart_time else set()
    return frozenset(families) & frozenset(negotiated.families)


def _stale_times(negotiated: Negotiated) -> dict[Family, int]:
    """Return the seconds for which each family may be long-lived: what the peer asks for, within what we allow."""
    ours, theirs = (said.capabilities.long_lived for said in (negotiated.sent, negotiated.received))
    if ours is None or theirs is None:
        return {}
    allowed = {family: seconds for family, _, seconds in ours.families}
    return {family: min(seconds, allowed.get(family, 0)) for family, _, seconds in theirs.families}


def _preserved(offered: Capabilities) -> tuple[set[Family], set[Family]]:
    """Return the families with the F bit: of graceful restart, and of long-lived graceful restart."""
    restart, long_lived = offered.graceful_restart, offered.long_lived
    return (
        {family for family, is_kept in restart.families if is_kept} if restart is not None else set(),
        {family for family, is_kept, _ in long_lived.families if is_kept} if long_lived is not None else set(),
    )
