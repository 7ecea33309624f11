"""The timers of a connection, and which of two that collide stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bgpmesh.peering.connection import OPEN_HOLD_S, State
from bgpmesh.peering.message import (
    EndOfRib,
    Keepalive,
    Notification,
    RouteRefresh,
)
from bgpmesh.peering.offer import LocalRestart
from bgpmesh.peering.session import Established, Hangup, Send, Session, WentDown
from bgpmesh.route.nlri import Family
from tests.unit.peering.test_session import BOTH, COLLISION, PEER, RESTART, agreed, establish, make, notified

# ── timers ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, (3.0, 6.0, 9.0, 12.0)), (0.5, (2.625, 5.25, 7.875, 10.5))])
def test_keepalives_leave_at_a_third_of_the_hold_time(jitter: float, seconds: Sequence[float]) -> None:
    """Hold time 9: a KEEPALIVE every 3 s or up to a quarter earlier, as long as the peer is heard."""
    session = Session(PEER, LocalRestart(), lambda: jitter)
    establish(session)
    for second in seconds:
        session.update_received(1, second - 1)
        assert second == session.next_wakeup()
        assert [Send(1, Keepalive())] == session.tick(second)


def test_silence_ends_the_session() -> None:
    """Without a message for the hold time: NOTIFICATION 4, and the reason with its number."""
    session = make()
    establish(session)
    outputs = session.tick(9)
    assert Notification(4) == notified(outputs, 1)
    assert WentDown("hold timer expired after 9 s", frozenset()) in outputs
    assert session.last_error == "hold timer expired after 9 s"


def test_silence_is_not_judged_before_what_came_was_looked_at() -> None:
    """While input waits the hold timer does not end the session, but keepalives leave; then it counts at once."""
    session = make()
    establish(session)
    assert [Send(1, Keepalive())] == session.tick(9, unheard={1})
    assert session.state is State.ESTABLISHED
    assert Notification(4) == notified(session.tick(9.1, unheard={2}), 1)


@pytest.mark.parametrize(
    ("hold_time", "patience"), [(3, 480), (90, 480), (240, 480), (300, 600), (65535, 131070)], ids=str
)
def test_a_peer_that_takes_nothing_is_given_up(hold_time: int, patience: int) -> None:
    """Eight minutes, or twice the hold time where that is longer, although the peer says KEEPALIVE (RFC 9687)."""
    session = make(replace(PEER, hold_time=65535))
    negotiated = replace(agreed(session), hold_time=hold_time)
    session.start(0)
    session.connected(1, True, 0)
    session.open_received(1, negotiated, 0)
    session.message_received(1, Keepalive(), 0)
    assert session.sending_stalled(1, 100, 100 + patience - 1) == []
    assert session.state is State.ESTABLISHED

    outputs = session.sending_stalled(1, 100, 100 + patience)

    assert Notification(8) == notified(outputs, 1)
    assert Notification(8).describe() == "send hold timer expired"
    assert session.last_error == f"send hold timer expired: the peer took nothing for {patience} s"
    assert session.sending_stalled(1, 100, 100 + patience) == []


def test_without_keepalives_nobody_waits_for_what_is_taken() -> None:
    """A hold time of 0 turns the send hold timer off too (RFC 9687)."""
    session = make()
    establish(session, hold_time=0)
    assert session.sending_stalled(1, 0, 1e6) == []


@pytest.mark.parametrize("message", [Keepalive(), EndOfRib(Family.IPV4), RouteRefresh(Family.IPV4)])
def test_every_message_keeps_the_session(message: Keepalive | EndOfRib | RouteRefresh) -> None:
    """The hold timer starts afresh with whatever the peer says."""
    session = make()
    establish(session)
    session.message_received(1, message, 5)
    session.tick(9)
    assert session.state is State.ESTABLISHED


def test_hold_time_zero_has_no_timers() -> None:
    """A peer that offers 0 is accepted; nothing is sent and nothing expires."""
    session = make()
    establish(session, hold_time=0)
    assert float("inf") == session.next_wakeup()
    assert session.tick(1e9) == []
    assert session.state is State.ESTABLISHED


def test_an_open_is_awaited_for_four_minutes() -> None:
    """OpenSent has the large hold timer."""
    session = make(replace(PEER, is_passive=True))
    session.start(0)
    session.connected(1, True, 0)
    assert session.tick(OPEN_HOLD_S - 1) == []
    assert Notification(4) == notified(session.tick(OPEN_HOLD_S), 1)
    assert session.last_error == "hold timer expired after 240 s"


# ── collision (RFC 4271 §6.8) ────────────────────────────────────────────────


@pytest.mark.parametrize(("router_id", "first", "goes"), [(20, 2, 1), (5, 1, 2), (5, 2, 2)])
def test_the_connection_of_the_higher_identifier_stays(router_id: int, first: int, goes: int) -> None:
    """Ours is 10, connection 1 is ours and 2 the peer's; both in OpenSent when the first OPEN comes."""
    session = make()
    session.start(0)
    session.connected(1, False, 0)
    session.connected(2, True, 0)
    outputs = session.open_received(first, agreed(session, router_id=router_id), 0)
    assert notified(outputs, goes) == COLLISION
    assert Hangup(3 - goes) not in outputs


def test_a_call_of_the_peer_that_said_nothing_may_still_be_given_up() -> None:
    """The peer's would win, but only once its OPEN is there: until then ours goes on."""
    session = make()
    session.start(0)
    session.connected(1, False, 0)
    session.connected(2, True, 0)
    assert [Send(1, Keepalive())] == session.open_received(1, agreed(session), 0)
    assert notified(session.open_received(2, agreed(session), 0), 1) == COLLISION


@pytest.mark.parametrize(("router_id", "goes"), [(20, 1), (5, 2)])
def test_a_confirmed_connection_collides_too(router_id: int, goes: int) -> None:
    """Ours is in OpenConfirm when the peer's arrives; its OPEN decides."""
    session = make()
    session.start(0)
    session.connected(1, False, 0)
    session.open_received(1, agreed(session, router_id=router_id), 0)
    session.connected(2, True, 0)
    assert notified(session.open_received(2, agreed(session, router_id=router_id), 0), goes) == COLLISION


def test_equal_identifiers_are_decided_by_the_as() -> None:
    """RFC 6286 §2.3: the larger AS number's connection stays; theirs is 65001, ours 65000."""
    session = make()
    session.start(0)
    session.connected(1, False, 0)
    session.connected(2, True, 0)
    assert notified(session.open_received(2, agreed(session, router_id=10), 0), 1) == COLLISION


def test_a_winner_that_never_got_an_open_loses_the_second_time() -> None:
    """A dead connection in OpenSent must not keep the peer out for four minutes."""
    session = make()
    session.start(0)
    session.connected(1, False, 0)
    session.connected(2, True, 0)
    assert notified(session.open_received(2, agreed(session, router_id=5), 0), 2) == COLLISION
    session.connected(3, True, 2)
    assert notified(session.open_received(3, agreed(session, router_id=5), 2), 1) == COLLISION
    assert session.state is State.OPEN_CONFIRM


def test_established_refuses_a_newcomer() -> None:
    """Without graceful restart a second connection gets Cease/7 and the first goes on."""
    session = make()
    establish(session, restart=None)
    outputs = session.connected(2, True, 1)
    assert [Send(2, COLLISION), Hangup(2)] == outputs
    assert (session.state, session.connection) == (State.ESTABLISHED, 1)


def test_established_gives_way_to_a_peer_that_restarted() -> None:
    """With graceful restart agreed, an OPEN that offers it again ends the old connection as a TCP failure would."""
    session = make()
    establish(session)
    assert [Send(2, session.open_message())] == session.connected(2, True, 1)
    assert session.state is State.ESTABLISHED
    outputs = session.open_received(2, agreed(session, restart=replace(RESTART, is_restarting=True)), 2)
    assert Hangup(1) == outputs[0]
    assert WentDown("replaced: the peer opened a new connection", BOTH) == outputs[1]
    assert Send(2, Keepalive()) == outputs[2]
    up = session.message_received(2, Keepalive(), 3)[0]
    assert isinstance(up, Established)
    assert (up.connection, up.keep) == (2, BOTH)


def test_established_waits_for_the_keepalive_of_a_newcomer_without_the_r_bit() -> None:
    """It may be a call made before this session came up, which its maker closes; a KEEPALIVE says it is not."""
    session = make()
    establish(session)
    session.connected(2, True, 1)
    assert [Send(2, Keepalive())] == session.open_received(2, agreed(session), 2)
    assert [Hangup(2)] == session.message_received(2, COLLISION, 3)
    assert session.connection == 1
    session.connected(3, True, 4)
    session.open_received(3, agreed(session), 4)
    outputs = session.message_received(3, Keepalive(), 4)
    assert [Hangup(1), WentDown("replaced: the peer opened a new connection", BOTH)] == outputs[:2]
    assert session.connection == 3


def test_established_refuses_a_newcomer_that_does_not_offer_restart() -> None:
    """The newcomer's OPEN without the capability is a plain collision."""
    session = make()
    establish(session)
    session.connected(2, True, 1)
    outputs = session.open_received(2, agreed(session, restart=None), 2)
    assert [Send(2, COLLISION), Hangup(2)] == outputs
    assert session.connection == 1


def test_becoming_established_ends_the_other_connection() -> None:
    """A second connection still in OpenSent goes when the first is up."""
    session = make()
    session.start(0)
    session.connected(1, False, 0)
    session.open_received(1, agreed(session), 0)
    session.connected(2, True, 0)
    assert notified(session.message_received(1, Keepalive(), 1), 2) == COLLISION
