"""One TCP connection of a session, from OpenSent on: how far it got, its timers, and which of two stays.

A collision is settled as soon as both sides must come to the same result (RFC 4271 §6.8), which is often before the
second OPEN: the first tells the peer's identifier. When an OPEN arrives and the other connection is

    one of ours in OpenSent, or any     that of the higher (identifier, AS) stays (RFC 6286 §2.3)
    one in OpenConfirm
    the peer's in OpenSent              the peer may still give it up: it goes if ours wins, else both stay
    Established                         the newcomer goes, unless graceful restart was agreed and its OPEN
                                        offers it: then the old one is dead (RFC 4724 §5). With a new
                                        R bit that is certain; without, it may be a call that was made
                                        before and came late, so its KEEPALIVE is awaited
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from bgpmesh.peering.message import Negotiated

# RFC 4271 §8.2.2 suggests 4 minutes for the hold timer while an OPEN is awaited.
OPEN_HOLD_S = 240.0

# A peer may take nothing of what we send for as long, or for twice the hold time where that is longer (RFC 9687 §5).
SEND_HOLD_S = 480.0

NEVER = float("inf")


class State(enum.Enum):
    """The states of RFC 4271 §8.2.2, under the names operators know."""

    IDLE = "Idle"
    CONNECT = "Connect"
    ACTIVE = "Active"
    OPEN_SENT = "OpenSent"
    OPEN_CONFIRM = "OpenConfirm"
    ESTABLISHED = "Established"


@dataclass(slots=True, eq=False)
class Connection:
    """One TCP connection, as the session sees it."""

    number: int
    is_inbound: bool
    hold_deadline: float
    state: State = State.OPEN_SENT
    negotiated: Negotiated | None = None
    keepalive_deadline: float = NEVER
    has_won: bool = False  # a collision, while it still waited for its OPEN

    @property
    def survives_notification(self) -> bool:
        """Whether it is that of an established session, and both sides keep paths over a NOTIFICATION."""
        return self.state is State.ESTABLISHED and self.negotiated is not None and self.negotiated.survives_notification

    @property
    def patience(self) -> float:
        """Seconds of silence that end it; a hold time of 0 counts once it is established (RFC 4271 §4.4)."""
        if self.negotiated is None or (not self.negotiated.hold_time and self.state is not State.ESTABLISHED):
            return OPEN_HOLD_S
        return self.negotiated.hold_time or NEVER

    @property
    def send_patience(self) -> float:
        """Seconds in which it takes nothing that we send that end it; without keepalives there is no end (RFC 9687)."""
        hold_time = self.negotiated.hold_time if self.negotiated is not None else 0
        return max(SEND_HOLD_S, 2.0 * hold_time) if hold_time else NEVER

    def heard(self, now: float) -> None:
        """Start the hold timer afresh."""
        self.hold_deadline = now + self.patience

    def spoke(self, now: float, jitter: float) -> None:
        """Start the keepalive timer afresh: a third of the hold time, or up to a quarter less (RFC 4271 §10)."""
        hold_time = self.negotiated.hold_time if self.negotiated is not None else 0
        self.keepalive_deadline = now + hold_time / 3 * (1 - jitter / 4) if hold_time else NEVER

    def outlives(self, negotiated: Negotiated) -> bool | None:
        """Tell whether it stays and the one on which an OPEN just came goes; None: not to be said yet."""
        if self.state is State.ESTABLISHED:
            restart = negotiated.received.capabilities.graceful_restart
            before = self.negotiated.received.capabilities.graceful_restart if self.negotiated is not None else None
            if restart is None or before is None:
                return True
            return False if restart.is_restarting and not before.is_restarting else None
        ours, theirs = negotiated.sent, negotiated.received
        is_winner = self.is_inbound is not ((ours.router_id, ours.asn) > (theirs.router_id, theirs.asn))
        if is_winner and self.state is State.OPEN_SENT:
            # One of ours that has won before and got no OPEN since is dead at the other end: the peer calls again.
            return None if self.is_inbound else not self.has_won
        return is_winner
