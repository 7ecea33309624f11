"""Whether a peer is saying a family again, from BoRR to EoRR (RFC 7313): what it does not repeat goes then.

    established ──▶ first table ──End-of-RIB──▶ told ──BoRR──▶ told again ──EoRR, or REFRESH_S──▶ told

Where both agreed on graceful restart a BoRR before the End-of-RIB of its family is ignored (§4): what is stale then is
that of the restart. A second BoRR begins anew, and so does the clock. An EoRR without a BoRR means nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgpmesh.route.nlri import Family

# The bound that §4 allows: a peer that never says EoRR keeps nothing alive with it.
REFRESH_S = 300.0

NEVER = float("inf")


class Refreshing:
    """The families of one session that are being told again."""

    def __init__(self) -> None:
        self._untold: set[Family] = set()  # whose End-of-RIB is still to come, and will
        self._until: dict[Family, float] = {}

    def established(self, untold: Iterable[Family]) -> None:
        """Begin with a session; of `untold` an End-of-RIB will come."""
        self._untold, self._until = set(untold), {}

    def end_of_rib(self, family: Family) -> None:
        """Let a family have been told."""
        self._untold.discard(family)

    def begun(self, family: Family, now: float) -> bool:
        """Note BoRR; return whether all that is held of the family may be stale now."""
        if family in self._untold:
            return False
        self._until[family] = now + REFRESH_S
        return True

    def ended(self, family: Family) -> bool:
        """Note EoRR; return whether it ends what was begun."""
        return self._until.pop(family, None) is not None

    def due(self, now: float) -> frozenset[Family]:
        """Return the families of which EoRR is not waited for any longer."""
        over = frozenset(family for family, until in self._until.items() if until <= now)
        for family in over:
            del self._until[family]
        return over

    def next_due(self) -> float:
        """Return the second at which something is due, infinity if never."""
        return min(self._until.values(), default=NEVER)
