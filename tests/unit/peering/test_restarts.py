"""What is kept of a peer over a NOTIFICATION, and what is not (RFC 8538)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgpmesh.peering.message import Cease, Keepalive, Notification
from bgpmesh.peering.session import Established, Output, Send, StaleExpired, WentDown
from bgpmesh.route.nlri import Family
from tests.unit.peering.test_session import BOTH, PEER, RESTART, agreed, establish, make, notified

SURVIVING = replace(RESTART, survives_notification=True)
HOLD_TIMER, MALFORMED = Notification(4), Notification(3, 1)
SHUTDOWN = Notification.cease(Cease.ADMIN_SHUTDOWN, "moving racks")


def retained(outputs: list[Output]) -> tuple[frozenset[Family], bool]:
    """Return what the end of a session keeps, and whether it is doubted."""
    (down,) = (output for output in outputs if isinstance(output, WentDown))
    return down.retain, down.is_doubted


# ── NOTIFICATION (RFC 8538) ──────────────────────────────────────────────────


def test_our_open_has_the_n_bit() -> None:
    """Wherever it offers graceful restart."""
    restart = make().open_message().capabilities.graceful_restart
    assert restart is not None
    assert restart.survives_notification


@pytest.mark.parametrize("message", [HOLD_TIMER, MALFORMED, SHUTDOWN, Notification.cease(Cease.ADMIN_RESET)])
def test_a_notification_keeps_paths_where_both_sides_say_so(message: Notification) -> None:
    """Whatever it says but a hard reset; only a hold timer raises doubts. Without the peer's N bit they go."""
    session = make()
    establish(session, restart=SURVIVING)
    assert (BOTH, message is HOLD_TIMER) == retained(session.message_received(1, message, 1))
    session = make()
    establish(session)
    assert (frozenset(), False) == retained(session.message_received(1, message, 1))


def test_an_expired_hold_timer_keeps_paths_in_doubt() -> None:
    """The NOTIFICATION leaves as ever, and they go with the restart time of a peer that stays away."""
    session = make(replace(PEER, is_passive=True))
    establish(session, restart=SURVIVING)
    outputs = session.tick(9)
    assert HOLD_TIMER == notified(outputs, 1)
    assert (BOTH, True) == retained(outputs)
    assert [StaleExpired(BOTH)] == session.tick(9 + 30)


def test_garbage_keeps_paths_under_one_clock() -> None:
    """A peer that sends the same malformed UPDATE in each of its lives keeps its paths no longer than one."""
    session = make()
    establish(session, restart=SURVIVING)
    assert (BOTH, False) == retained(session.garbage_received(1, MALFORMED, "malformed", 1))
    swept: list[Output] = []
    for connection in range(2, 20):
        now = 10.0 * connection
        swept += [output for output in session.tick(now) if isinstance(output, StaleExpired)]
        establish(session, connection=connection, now=now, restart=SURVIVING)
        session.garbage_received(connection, MALFORMED, "malformed", now)
    assert [StaleExpired(BOTH)] == swept


@pytest.mark.parametrize(
    ("cause", "is_hard"),
    [
        (Cease.MAX_PREFIXES, True),
        (Cease.ADMIN_SHUTDOWN, True),
        (Cease.PEER_DECONFIGURED, True),
        (Cease.OTHER_CONFIGURATION_CHANGE, False),
        (Cease.OUT_OF_RESOURCES, False),
    ],
)
def test_what_is_meant_for_good_is_said_as_a_hard_reset(cause: Cease, is_hard: bool) -> None:
    """It carries what was meant (RFC 8538 section 3.1), and only a peer with the N bit hears it so."""
    meant = Notification.cease(cause, "moving racks")
    wrapped = Notification(6, 9, bytes((6, cause)) + meant.data)
    for restart, said in ((SURVIVING, wrapped if is_hard else meant), (RESTART, meant), (None, meant)):
        session = make()
        establish(session, restart=restart)
        outputs = session.stop(1, meant)
        assert said == notified(outputs, 1)
        assert (frozenset(), False) == retained(outputs)


def test_a_connection_that_was_never_up_is_not_reset_hard() -> None:
    """There is nothing that the peer could keep."""
    session = make()
    session.start(0)
    session.connected(1, True, 0)
    session.open_received(1, agreed(session, restart=SURVIVING), 0)
    assert SHUTDOWN == notified(session.stop(1, SHUTDOWN), 1)


def test_a_broken_path_is_a_hard_reset() -> None:
    """BFD says that the path is down: nothing is kept on either side (RFC 5882, RFC 9384)."""
    session = make()
    establish(session, restart=SURVIVING)
    outputs = session.path_failed("BFD: down", 5, is_independent=False)
    assert [Send(1, Notification(6, 9, bytes((6, 10)))), WentDown("BFD: down", frozenset())] == [
        outputs[0],
        outputs[-1],
    ]


def test_a_hard_reset_ends_everything() -> None:
    """Paths go, those that were stale already too, and the operator reads what it carried."""
    session = make()
    establish(session, restart=SURVIVING)
    session.disconnected(1, "closed by peer", 1)
    establish(session, connection=2, now=2, restart=SURVIVING)
    assert (frozenset(), False) == retained(session.message_received(2, SHUTDOWN.as_hard_reset(), 3))
    assert session.last_error == "reset by peer: Cease, hard reset (Cease, administrative shutdown: moving racks)"
    (up,) = (o for o in establish(session, connection=3, now=4, restart=SURVIVING) if isinstance(o, Established))
    assert up.keep == frozenset()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (HOLD_TIMER.as_hard_reset(), "Cease, hard reset (hold timer expired)"),
        (SHUTDOWN.as_hard_reset().as_hard_reset(), "Cease, hard reset (Cease, administrative shutdown: moving racks)"),
        (Notification(6, 9), "Cease, hard reset"),
        (Notification(6, 9, b"\x06"), "Cease, hard reset"),
        (Notification(6, 9, b"\x06\x09" * 2_000), "Cease, hard reset (hard reset)"),
        (Notification(6, 9, b"\xc8\x07"), "Cease, hard reset (code 200, subcode 7)"),
    ],
)
def test_a_hard_reset_in_words(message: Notification, words: str) -> None:
    """Whatever bytes it carries."""
    assert words == message.describe()


# ── a second life ────────────────────────────────────────────────────────────


def test_a_peer_back_without_the_capability_loses_its_paths_at_once() -> None:
    """It has told us that it preserves nothing (RFC 4724 section 4.2)."""
    session = make()
    establish(session)
    session.disconnected(1, "closed by peer", 1)
    (up,) = (o for o in establish(session, connection=2, now=2, restart=None) if isinstance(o, Established))
    assert up.keep == frozenset()
    assert session.next_wakeup() < 30, "nothing but the keepalive is due"
    assert session.end_of_rib_received(Family.IPV4, 3) == []


def test_a_peer_back_without_a_family_loses_its_paths_at_once() -> None:
    """The family is not agreed on any more, whatever the capability says of it."""
    session = make()
    establish(session)
    session.disconnected(1, "closed by peer", 1)
    session.connected(2, True, 2)
    session.open_received(2, replace(agreed(session), families=(Family.IPV6,)), 2)
    (up,) = (o for o in session.message_received(2, Keepalive(), 2) if isinstance(o, Established))
    assert up.keep == frozenset({Family.IPV6})
