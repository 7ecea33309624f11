"""What is kept of a peer over a NOTIFICATION (RFC 8538), for long (RFC 9494), and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgpmesh.peering.message import Capabilities, Cease, EndOfRib, GracefulRestart, Keepalive, LongLived, Notification
from bgpmesh.peering.session import Established, Hangup, Output, Send, Session, StaleExpired, StaleOutlived, WentDown
from bgpmesh.peering.stale import STALE_PATHS_S
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


@pytest.mark.parametrize(("restart", "said"), [(None, True), (RESTART, False), (SURVIVING, True)])
def test_a_session_that_hands_over_says_so_where_that_costs_nothing(
    restart: GracefulRestart | None, said: bool
) -> None:
    """A peer that keeps paths over a lost connection only is left without a word, and the next session has them."""
    session = make()
    establish(session, restart=restart)
    cease = Notification.cease(Cease.OTHER_CONFIGURATION_CHANGE)
    outputs = session.hand_over(replace(PEER, hold_time=30), 1, cease)
    assert outputs[: 2 if said else 1] == [*([Send(1, cease)] if said else []), Hangup(1)]
    assert (frozenset() if restart is None else BOTH, False) == retained(outputs)
    after = make(replace(PEER, hold_time=30))
    after.succeed(session)
    (up,) = (o for o in establish(after, connection=2, now=2, restart=restart) if isinstance(o, Established))
    assert (up.keep, after.down_reason) == (retained(outputs)[0], f"closed by us: {cease.describe()}")


# ── a second life ────────────────────────────────────────────────────────────


def test_a_peer_back_without_the_capability_loses_its_paths_at_once() -> None:
    """It has told us that it preserves nothing (RFC 4724 section 4.2)."""
    session = make()
    establish(session)
    session.disconnected(1, "closed by peer", 1)
    (up,) = (o for o in establish(session, connection=2, now=2, restart=None) if isinstance(o, Established))
    assert up.keep == frozenset()
    assert session.next_wakeup() < 30, "nothing but the keepalive is due"
    assert session.message_received(2, EndOfRib(Family.IPV4), 3) == []


def test_a_peer_back_without_a_family_loses_its_paths_at_once() -> None:
    """The family is not agreed on any more, whatever the capability says of it."""
    session = make()
    establish(session)
    session.disconnected(1, "closed by peer", 1)
    session.connected(2, True, 2)
    session.open_received(2, replace(agreed(session), families=(Family.IPV6,)), 2)
    (up,) = (o for o in session.message_received(2, Keepalive(), 2) if isinstance(o, Established))
    assert up.keep == frozenset({Family.IPV6})


# ── long-lived (RFC 9494) ────────────────────────────────────────────────────

LONG_LIVED = LongLived(((Family.IPV4, True, 1_000), (Family.IPV6, True, 500)))
IPV4, IPV6 = frozenset({Family.IPV4}), frozenset({Family.IPV6})
AGES = StaleOutlived | StaleExpired


def patient(seconds: int = 10_000) -> Session:
    """Return a session that keeps paths for so long, of a peer that is not called."""
    return make(replace(PEER, is_passive=True, long_lived_graceful_restart=seconds))


def up(
    session: Session,
    connection: int,
    now: float,
    long_lived: LongLived | None = LONG_LIVED,
    restart: GracefulRestart | None = RESTART,
) -> frozenset[Family]:
    """Bring a session up; return what stays for now."""
    session.start(now)
    session.connected(connection, True, now)
    negotiated = agreed(session, hold_time=0, restart=restart)
    offered = replace(negotiated.received.capabilities, long_lived=long_lived)
    negotiated = replace(negotiated, received=replace(negotiated.received, capabilities=offered))
    session.open_received(connection, negotiated, now)
    outputs = session.message_received(connection, Keepalive(), now)
    return next(output.keep for output in outputs if isinstance(output, Established))


def aged(session: Session, until: float) -> list[tuple[float, AGES]]:
    """Let time pass; return what becomes of stale paths, and when."""
    seen: list[tuple[float, AGES]] = []
    while (now := session.next_wakeup()) <= until:
        seen += [(now, each) for each in session.tick(now) if isinstance(each, StaleOutlived | StaleExpired)]
    return seen


def test_after_the_restart_time_each_family_has_its_own() -> None:
    """30 s as ever, then as long as the peer asks for."""
    session = patient()
    up(session, 1, 0)
    assert session.disconnected(1, "closed by peer", 1) == [WentDown("closed by peer", BOTH)]
    gone = [(31, StaleOutlived(BOTH)), (31 + 500, StaleExpired(IPV6)), (31 + 1_000, StaleExpired(IPV4))]
    assert gone == aged(session, 1e6)


def test_we_keep_paths_no_longer_than_we_want_to() -> None:
    """Our own figure is a limit too."""
    session = patient(600)
    up(session, 1, 0)
    session.disconnected(1, "closed by peer", 1)
    assert [531, 631] == [now for now, _ in aged(session, 1e6)][1:]


@pytest.mark.parametrize(("seconds", "long_lived"), [(0, LONG_LIVED), (10_000, None), (10_000, LongLived())])
def test_both_sides_must_want_it(seconds: int, long_lived: LongLived | None) -> None:
    """Else paths go with the restart time."""
    session = patient(seconds)
    up(session, 1, 0, long_lived)
    session.disconnected(1, "closed by peer", 1)
    assert [(31, StaleExpired(BOTH))] == aged(session, 1e6)


def test_a_family_that_is_in_one_capability_only() -> None:
    """Of graceful restart alone it goes with that; of the other alone it is long-lived at once."""
    session = patient()
    up(session, 1, 0, LongLived(((Family.IPV6, True, 500),)), GracefulRestart(30, families=((Family.IPV4, True),)))
    assert [WentDown("gone", BOTH), StaleOutlived(IPV6)] == session.disconnected(1, "gone", 1)
    assert [(31, StaleExpired(IPV4)), (501, StaleExpired(IPV6))] == aged(session, 1e6)


def test_without_a_restart_time_paths_are_long_lived_at_once() -> None:
    """RFC 9494 section 4.2: nothing but these procedures then."""
    session = patient()
    up(session, 1, 0, restart=GracefulRestart(0, families=RESTART.families))
    assert [WentDown("gone", BOTH), StaleOutlived(BOTH)] == session.disconnected(1, "gone", 1)
    assert [(501, StaleExpired(IPV6)), (1_001, StaleExpired(IPV4))] == aged(session, 1e6)


def test_a_hard_reset_keeps_nothing_for_long() -> None:
    """Nor does a NOTIFICATION, where the N bit was not agreed."""
    session = patient()
    up(session, 1, 0)
    session.disconnected(1, "gone", 1)
    assert aged(session, 40) == [(31, StaleOutlived(BOTH))]
    up(session, 2, 50)
    assert session.message_received(2, HOLD_TIMER, 51)[-1] == WentDown(session.last_error, frozenset())
    assert aged(session, 1e6) == []


@pytest.mark.parametrize("back_at", [20, 100])
def test_who_is_back_is_asked_for_the_f_bit_that_counts(back_at: float) -> None:
    """Before the restart time is over that of graceful restart, after it that of the other capability."""
    session = patient()
    up(session, 1, 0)
    session.disconnected(1, "gone", 1)
    aged(session, back_at)
    restart = GracefulRestart(30, families=((Family.IPV4, True), (Family.IPV6, False)))
    long_lived = LongLived(((Family.IPV4, False, 1_000), (Family.IPV6, True, 500)))
    assert up(session, 2, back_at, long_lived, restart) == (IPV4 if back_at < 31 else IPV6)


def test_who_is_back_without_the_capability_loses_what_was_long_lived() -> None:
    """At once, although graceful restart says that all was preserved."""
    session = patient()
    up(session, 1, 0)
    session.disconnected(1, "gone", 1)
    aged(session, 100)
    assert up(session, 2, 100, None) == frozenset()


def test_end_of_rib_ends_it_and_a_clock_does_where_it_never_comes() -> None:
    """Two minutes after the return at the latest, not after a day."""
    session = patient()
    up(session, 1, 0)
    session.disconnected(1, "gone", 1)
    aged(session, 100)
    assert up(session, 2, 100) == BOTH
    assert session.message_received(2, EndOfRib(Family.IPV4), 110) == [StaleExpired(IPV4)]
    assert [(100 + STALE_PATHS_S, StaleExpired(IPV6))] == aged(session, 1e6)


def test_coming_and_going_does_not_wind_it_up() -> None:
    """What was not swept yet goes when it would have gone; what came new meanwhile turns after the restart time."""
    session = patient()
    up(session, 1, 0)
    session.disconnected(1, "gone", 1)
    aged(session, 100)
    seen: list[tuple[float, AGES]] = []
    for connection in range(2, 6):
        now = 100.0 * connection
        seen += aged(session, now)
        assert up(session, connection, now) == BOTH
        session.disconnected(connection, "gone", now + 10)
    seen += aged(session, 1e6)
    assert [at for at, each in seen if each == StaleExpired(IPV6)] == [531]
    assert [at for at, each in seen if each == StaleExpired(IPV4)] == [1_031]
    assert (240, StaleOutlived(BOTH)) in seen


def test_once_said_again_a_loss_begins_anew() -> None:
    """End-of-RIB has wound the clock up."""
    session = patient()
    up(session, 1, 0)
    session.disconnected(1, "gone", 1)
    aged(session, 100)
    up(session, 2, 100)
    for family in BOTH:
        session.message_received(2, EndOfRib(family), 101)
    session.disconnected(2, "gone", 200)
    assert [(230, StaleOutlived(BOTH)), (730, StaleExpired(IPV6)), (1_230, StaleExpired(IPV4))] == aged(session, 1e6)


def test_the_capabilities_in_words() -> None:
    """As `peers NAME` shows what a peer offers."""
    restart = replace(SURVIVING, is_restarting=True)
    words = Capabilities(graceful_restart=restart, long_lived=LongLived(((Family.IPV4, True, 60),))).describe()
    assert words[-2:] == ("graceful-restart 30 s R N ipv4+F,ipv6+F", "long-lived-graceful-restart ipv4+F 60 s")
    assert (
        Capabilities(graceful_restart=RESTART, long_lived=LongLived()).describe()[-1] == "long-lived-graceful-restart"
    )
