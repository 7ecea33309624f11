"""A peer that says a family again: what it does not repeat goes (RFC 7313)."""

from __future__ import annotations

import pytest

from bgpmesh.peering.message import EndOfRib, Negotiated, Refresh, RouteRefresh
from bgpmesh.peering.refresh import REFRESH_S
from bgpmesh.peering.session import Output, RefreshBegan, Session, StaleExpired
from bgpmesh.route.nlri import Family
from tests.unit.peering.test_session import RESTART, establish, make

V4, V6 = Family.IPV4, Family.IPV6


def told(*families: Family) -> Session:
    """Return an established session whose peer has told all of these families."""
    session = make()
    establish(session, restart=RESTART)
    for family in families:
        end_of_rib(session, family, 1)
    return session


def begin(session: Session, family: Family, now: float) -> list[Output]:
    return session.message_received(number(session), RouteRefresh(family, Refresh.BEGIN), now)


def end(session: Session, family: Family, now: float) -> list[Output]:
    return session.message_received(number(session), RouteRefresh(family, Refresh.END), now)


def end_of_rib(session: Session, family: Family, now: float) -> list[Output]:
    return session.message_received(number(session), EndOfRib(family), now)


def number(session: Session) -> int:
    """Return that of the established connection."""
    assert session.connection is not None
    return session.connection


def test_what_is_not_repeated_goes_with_the_end() -> None:
    """Between BoRR and EoRR all of one family is stale; an EoRR without a BoRR means nothing."""
    session = told(V4, V6)
    assert end(session, V4, 2) == []
    assert begin(session, V4, 3) == [RefreshBegan(V4)]
    assert begin(session, V4, 4) == [RefreshBegan(V4)]
    assert end(session, V6, 5) == []
    assert end(session, V4, 6) == [StaleExpired(frozenset({V4}))]
    assert end(session, V4, 7) == []


def test_nothing_is_begun_before_the_end_of_the_first_table() -> None:
    """Where both agreed on graceful restart a BoRR before End-of-RIB is ignored, and its EoRR with it."""
    session = told(V6)
    assert begin(session, V4, 2) == []
    assert end(session, V4, 3) == []
    assert begin(session, V6, 3) == [RefreshBegan(V6)]
    end_of_rib(session, V4, 4)
    assert begin(session, V4, 5) == [RefreshBegan(V4)]


def test_without_graceful_restart_no_end_is_waited_for() -> None:
    """A peer without the capability owes no End-of-RIB."""
    session = make()
    establish(session, restart=None)
    assert begin(session, V4, 2) == [RefreshBegan(V4)]


def test_an_end_that_never_comes_is_not_waited_for() -> None:
    """What is stale goes at the bound, which a second BoRR sets anew; no keepalive is needed for that."""
    session = make()
    establish(session, restart=None, hold_time=0)
    begin(session, V4, 10)
    begin(session, V4, 20)
    assert session.next_wakeup() == 20 + REFRESH_S
    assert session.tick(20 + REFRESH_S - 1) == []
    assert session.tick(20 + REFRESH_S) == [StaleExpired(frozenset({V4}))]
    assert end(session, V4, 20 + REFRESH_S + 1) == []


@pytest.mark.parametrize("restart", [None, RESTART])
def test_a_lost_session_ends_what_was_begun(restart: object) -> None:
    """What was stale follows the rules of the loss, and an EoRR of the next session means nothing."""
    session = make()
    establish(session, restart=restart)
    for family in (V4, V6):
        end_of_rib(session, family, 1)
    begin(session, V4, 2)
    session.disconnected(1, "closed by peer", 3)
    establish(session, connection=2, now=4, restart=restart)
    assert isinstance(session.negotiated, Negotiated)
    end_of_rib(session, V4, 5)
    assert end(session, V4, 6) == []
