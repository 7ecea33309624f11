"""The machine of RFC 4271 §8 by example: what each event makes it say."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.peering.connection import State
from bgpmesh.peering.message import (
    Capabilities,
    Cease,
    EndOfRib,
    GracefulRestart,
    Keepalive,
    Message,
    Negotiated,
    Notification,
    Open,
    RouteRefresh,
)
from bgpmesh.peering.offer import LocalRestart
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.session import Dial, Established, Hangup, Output, Send, Session, StaleExpired, WentDown
from bgpmesh.peering.stale import STALE_PATHS_S
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.nlri import Family
from bgpmesh.route.path import PeerName, Role

BOTH = frozenset({Family.IPV4, Family.IPV6})
COLLISION = Notification.cease(Cease.CONNECTION_COLLISION)

PEER = Peer(
    name=PeerName("n2"),
    address=ipaddress.ip_address("192.0.2.2"),
    asn=Asn(65001),
    role=Role.EXTERNAL,
    local_address=ipaddress.ip_address("192.0.2.1"),
    local_asn=Asn(65000),
    router_id=RouterId(10),
    next_hops=(
        (Family.IPV4, ipaddress.ip_address("192.0.2.1")),
        (Family.IPV6, ipaddress.ip_address("2001:db8::1")),
    ),
)
RESTART = GracefulRestart(30, families=((Family.IPV4, True), (Family.IPV6, True)))


def make(peer: Peer = PEER, local: LocalRestart | None = None) -> Session:
    return Session(peer, local or LocalRestart(), lambda: 0.5)


def agreed(
    session: Session,
    *,
    router_id: int = 20,
    asn: int = 65001,
    hold_time: int = 9,
    restart: GracefulRestart | None = RESTART,
    refusal: Notification | None = None,
    text: str = "",
) -> Negotiated:
    sent = session.open_message()
    received = Open(Asn(asn), hold_time, RouterId(router_id), Capabilities(tuple(BOTH), graceful_restart=restart))
    return Negotiated(
        sent, received, min(hold_time, 9), (Family.IPV4, Family.IPV6), True, refusal=refusal, refusal_text=text
    )


def establish(session: Session, connection: int = 1, now: float = 0.0, **said: object) -> list[Output]:
    """Bring the session up over a connection that the peer makes."""
    session.start(now)
    session.connected(connection, True, now)
    session.open_received(connection, agreed(session, **said), now)  # type: ignore[arg-type]  # keywords of `agreed`
    return session.message_received(connection, Keepalive(), now)


def notified(outputs: list[Output], connection: int) -> Message | None:
    """Return what was said on a connection before it was hung up; the hang-up must be there."""
    assert Hangup(connection) in outputs
    said = [o.message for o in outputs if isinstance(o, Send) and o.connection == connection]
    return said[-1] if said else None


# ── up ───────────────────────────────────────────────────────────────────────


def test_the_way_up() -> None:
    """Call, OPEN, KEEPALIVE, established, with the states on the way."""
    session = make()
    states = [session.state]
    assert [Dial(PEER.name)] == session.start(0)
    states.append(session.state)
    assert [Send(1, session.open_message())] == session.connected(1, False, 1)
    states.append(session.state)
    negotiated = agreed(session)
    assert [Send(1, Keepalive())] == session.open_received(1, negotiated, 2)
    states.append(session.state)
    assert [Established(1, negotiated, frozenset())] == session.message_received(1, Keepalive(), 3)
    states.append(session.state)
    way = [State.IDLE, State.CONNECT, State.OPEN_SENT, State.OPEN_CONFIRM, State.ESTABLISHED]
    assert way == states
    assert dict.fromkeys(way[1:], 1) == dict(session.transitions)
    seen = (session.established_at, session.connection, session.negotiated, session.last_error)
    assert (3, 1, negotiated, "") == seen


def test_a_passive_peer_is_not_called() -> None:
    """The passive side waits in Active for ever, and answers a connection with its OPEN."""
    session = make(replace(PEER, is_passive=True))
    assert session.start(0) == []
    assert (State.ACTIVE, float("inf")) == (session.state, session.next_wakeup())
    assert session.tick(1e6) == []
    assert [Send(1, session.open_message())] == session.connected(1, True, 1e6)


def test_the_passive_one_of_two_nodes_calls_once_when_it_starts() -> None:
    """Whichever node starts later is heard at once; after that the calls come from one side only."""
    session = make(replace(PEER, is_passive=True, in_cluster=True))
    assert [Dial(PEER.name)] == session.start(0)
    session.connect_failed("connection refused", 0)
    assert (State.ACTIVE, float("inf"), session.tick(1e6)) == (session.state, session.next_wakeup(), [])
    session.stop(2e6, None)
    assert [Dial(PEER.name)] == session.start(2e6)


def test_a_restart_calls_a_passive_peer_until_told_to_stop() -> None:
    """`at_once` calls the passive peer and tries again; clearing `call_passive` ends that."""
    session = make(replace(PEER, is_passive=True))
    assert [Dial(PEER.name)] == session.start(0, at_once=True)
    session.connect_failed("connection refused", 0)
    assert [Dial(PEER.name)] == session.tick(session.next_wakeup())
    assert session.called_since == 0
    session.connect_failed("connection refused", 2)
    session.call_passive = False
    assert float("inf") == session.next_wakeup()


def test_calls_back_off_between_one_and_eight_seconds() -> None:
    """Each failure doubles the pause up to 8 s; jitter adds at most a quarter."""
    for jitter, pauses in ((0.0, [1.0, 2.0, 4.0, 6.4, 6.4]), (0.999999, [1.25, 2.5, 5.0, 8.0, 8.0])):
        session = Session(PEER, LocalRestart(), lambda jitter=jitter: jitter)  # type: ignore[misc]
        session.start(0)
        seen = []
        now = 0.0
        for _ in pauses:
            session.connect_failed("connection refused", now)
            seen.append(round(session.next_wakeup() - now, 4))
            now = session.next_wakeup()
            session.tick(now)
        assert pauses == seen


def test_an_inbound_connection_is_answered_right_after_an_error() -> None:
    """Back-off is for the connections we make: the peer's is answered at once."""
    session = make()
    establish(session)
    session.garbage_received(1, Notification(1, 2), "bad length", 1)
    assert [Send(2, session.open_message())] == session.connected(2, True, 1)


def test_a_silent_caller_does_not_keep_us_from_calling() -> None:
    """An inbound connection without an OPEN leaves our own calls going."""
    session = make()
    session.start(0)
    session.connected(1, True, 0)
    session.connect_failed("timed out", 5)
    assert [Dial(PEER.name)] == session.tick(session.next_wakeup())


def test_our_call_that_is_answered_late_is_given_up_in_silence() -> None:
    """Nothing was said on it, so no collision can end both."""
    session = make()
    session.start(0)
    session.connected(1, True, 0)
    session.open_received(1, agreed(session), 0)
    assert [Hangup(2)] == session.connected(2, False, 0)


# ── faults ───────────────────────────────────────────────────────────────────


def test_unexpected_messages_have_the_subcode_of_their_state() -> None:
    """RFC 6608: 1 in OpenSent, 2 in OpenConfirm, 3 in Established, with the type as data."""
    opened = make()
    opened.start(0)
    opened.connected(1, True, 0)
    assert Notification(5, 1, b"\x04") == notified(opened.message_received(1, Keepalive(), 0), 1)
    opened.connected(2, True, 0)
    assert Notification(5, 1, b"\x02") == notified(opened.update_received(2, 0), 2)
    confirmed = make()
    confirmed.start(0)
    confirmed.connected(1, True, 0)
    confirmed.open_received(1, agreed(confirmed), 0)
    assert Notification(5, 2, b"\x05") == notified(confirmed.message_received(1, RouteRefresh(Family.IPV4), 0), 1)
    assert confirmed.last_error == "the peer sent ROUTE-REFRESH in OpenConfirm"
    established = make()
    establish(established)
    assert Notification(5, 3, b"\x01") == notified(established.open_received(1, agreed(established), 0), 1)


def test_a_notification_is_decoded_in_last_error() -> None:
    """What the peer said when it left is what the operator reads, and no path is retained."""
    session = make()
    establish(session)
    outputs = session.message_received(1, Notification.cease(Cease.ADMIN_SHUTDOWN, "moving racks"), 1)
    assert [Hangup(1), WentDown(session.last_error, frozenset())] == outputs
    assert session.last_error == "reset by peer: Cease, administrative shutdown: moving racks"


def test_what_comes_after_the_hangup_is_ignored() -> None:
    """Rule 2: a forgotten connection is not heard."""
    session = make()
    establish(session)
    session.stop(1, None)
    negotiated = agreed(session)
    assert session.open_received(1, negotiated, 2) == []
    assert session.message_received(1, Keepalive(), 2) == []
    assert session.update_received(1, 2) == []
    assert session.garbage_received(1, Notification(1, 1), "", 2) == []
    assert session.disconnected(1, "closed by peer", 2) == []


def test_a_stopped_session_refuses_connections() -> None:
    """Of a shutdown who calls is told; a call of ours that is answered after the stop does not count."""
    session = make()
    session.start(0)
    cease = Notification.cease(Cease.ADMIN_SHUTDOWN, "drained")
    outputs = session.stop(1, cease)
    assert outputs == []
    assert (State.IDLE, float("inf")) == (session.state, session.next_wakeup())
    assert [Hangup(1)] == session.connected(1, False, 2)
    assert [Send(2, cease), Hangup(2)] == session.connected(2, True, 2)
    session.stop(3, Notification.cease(Cease.MAX_PREFIXES))
    assert [Hangup(3)] == session.connected(3, True, 4)


def test_stop_says_why_on_every_connection() -> None:
    """A Cease leaves on the established connection; with None it is closed without a word."""
    session = make()
    establish(session)
    cease = Notification.cease(Cease.PEER_DECONFIGURED)
    outputs = session.stop(1, cease)
    assert cease == notified(outputs, 1)
    assert WentDown("closed by us: Cease, peer de-configured", frozenset()) == outputs[-1]
    silent = make()
    establish(silent)
    assert None is notified(silent.stop(1, None), 1)


def test_what_failed_on_the_way_up_is_forgotten_once_up() -> None:
    """An established session shows why its last life ended, not that its first call was refused."""
    session = make()
    session.start(0)
    session.connect_failed("connection refused", 0)
    assert session.last_error == "connection refused"
    establish(session)
    assert session.last_error == ""
    session.disconnected(1, "closed by peer", 1)
    establish(session, connection=2, now=2)
    assert session.last_error == "closed by peer"


def test_md5_trouble_of_a_passive_peer_is_shown() -> None:
    """A failure without a call of ours is only noted."""
    session = make(replace(PEER, is_passive=True))
    session.start(0)
    assert session.connect_failed("MD5 mismatch suspected: TCPMD5Failure rose by 3", 1) == []
    assert session.last_error == "MD5 mismatch suspected: TCPMD5Failure rose by 3"


def test_what_is_dropped_unseen_is_shown_while_an_open_is_waited_for() -> None:
    """Of a connection that has stood, a failure of another says nothing."""
    session = make()
    session.start(0)
    session.connected(1, False, 0)
    session.connect_failed("TTL security mismatch suspected", 3)
    assert (session.state, session.last_error) == (State.OPEN_SENT, "TTL security mismatch suspected")
    session.open_received(1, agreed(session), 3)
    session.connect_failed("another", 3)
    assert session.last_error == "TTL security mismatch suspected"


def test_what_keeps_a_session_from_coming_up_is_told_once_until_it_is_up() -> None:
    """The third time, whatever numbers are in it; and again after a session. Peers cannot make it endless."""
    session = make()
    session.start(0)
    told = []
    for number in range(9):
        session.connect_failed(f"rose by {number}", number)
        told.append(session.take_failure())
        session.connect_failed(f"other {'x' * number}", number)
        assert session.take_failure() == ""
    assert told == ["", "", "rose by 2", *[""] * 6]
    establish(session)
    session.disconnected(1, "closed by peer", 10)
    for number in range(3):
        session.connect_failed("refused", 20 + number)
    assert session.take_failure() == "refused"


def test_the_words_of_a_refusal_say_what_we_are() -> None:
    """A peer that expects another AS, and one that hangs up before its OPEN."""
    session = make()
    session.start(0)
    session.connected(1, False, 0)
    session.message_received(1, Notification(2, 2), 0)
    assert session.last_error == "reset by peer: OPEN message error, bad peer AS (ours is 65000)"
    session.connected(2, False, 1)
    session.disconnected(2, "closed by peer", 1)
    assert session.last_error == (
        "closed by peer in OpenSent: the peer may not know 192.0.2.1, AS 65000, or ask for TTL security"
    )


# ── graceful restart (RFC 4724) ──────────────────────────────────────────────


def test_a_lost_connection_retains_what_the_peer_can_preserve() -> None:
    """The families of the peer's capability become stale, whatever their F bit."""
    session = make()
    establish(session, restart=GracefulRestart(30, families=((Family.IPV4, False),)))
    assert [WentDown("closed by peer", frozenset({Family.IPV4}))] == session.disconnected(1, "closed by peer", 1)


@pytest.mark.parametrize("restart", [None, GracefulRestart(0, families=RESTART.families), GracefulRestart(30)])
def test_nothing_is_retained_where_nothing_was_agreed(restart: GracefulRestart | None) -> None:
    """No capability, no time or no families: the paths go with the connection."""
    session = make()
    establish(session, restart=restart)
    assert [WentDown("closed by peer", frozenset())] == session.disconnected(1, "closed by peer", 1)


def test_nothing_is_retained_where_we_do_not_offer_it() -> None:
    """Both sides must have said so."""
    session = make(replace(PEER, graceful_restart=0))
    establish(session)
    assert [WentDown("closed by peer", frozenset())] == session.disconnected(1, "closed by peer", 1)


def test_a_peer_that_stays_away_is_swept_after_its_restart_time() -> None:
    """30 s after the loss, once."""
    session = make(replace(PEER, is_passive=True))
    establish(session)
    session.disconnected(1, "closed by peer", 1)
    assert session.next_wakeup() == 31
    assert session.tick(30.9) == []
    assert [StaleExpired(BOTH)] == session.tick(31)
    assert session.tick(1e6) == []


def test_only_families_with_the_f_bit_are_kept_when_it_is_back() -> None:
    """F clear, or the family no longer in the capability: not kept."""
    session = make()
    establish(session)
    session.disconnected(1, "closed by peer", 1)
    back = establish(session, connection=2, now=5, restart=GracefulRestart(30, families=((Family.IPV4, True),)))
    assert isinstance(back[0], Established)
    assert frozenset({Family.IPV4}) == back[0].keep


def test_end_of_rib_sweeps_its_family_once() -> None:
    """The first marker after the restart sweeps; a second one, and one of a family not stale, do not."""
    session = make()
    establish(session)
    session.disconnected(1, "closed by peer", 1)
    establish(session, connection=2, now=5)
    assert [StaleExpired(frozenset({Family.IPV6}))] == session.message_received(2, EndOfRib(Family.IPV6), 6)
    assert session.message_received(2, EndOfRib(Family.IPV6), 7) == []
    assert [StaleExpired(frozenset({Family.IPV4}))] == session.message_received(2, EndOfRib(Family.IPV4), 8)


def test_stale_paths_do_not_wait_for_end_of_rib_for_ever() -> None:
    """A peer that is back and never ends its table loses the rest when the clock is up."""
    session = make()
    establish(session)
    session.disconnected(1, "closed by peer", 1)
    establish(session, connection=2, now=5, hold_time=0)
    assert session.next_wakeup() == 1 + 30 + STALE_PATHS_S
    assert [StaleExpired(BOTH)] == session.tick(session.next_wakeup())


def test_a_second_restart_stays_under_the_first_clock() -> None:
    """Killed again before its End-of-RIB: paths stay, but the clock of the first loss runs on."""
    session = make()
    establish(session)
    session.disconnected(1, "closed by peer", 1)
    last = 1 + 30 + STALE_PATHS_S
    now, connection = 1.0, 1
    while now + 20 < last:
        now, connection = now + 20, connection + 1
        back = establish(session, connection=connection, now=now)
        assert [o.keep for o in back if isinstance(o, Established)] == [BOTH]
        assert [WentDown("closed by peer", BOTH)] == session.disconnected(connection, "closed by peer", now)
    swept = [o for o in session.tick(last) if isinstance(o, StaleExpired)]
    assert [StaleExpired(BOTH)] == swept


def test_a_broken_path_ends_the_session_at_once() -> None:
    """With a Cease that says BFD (RFC 9384), and nothing retained although that was agreed."""
    session = make()
    establish(session)
    outputs = session.path_failed("BFD: down", 5, is_independent=False)
    assert [Send(1, Notification(6, 10)), Hangup(1), WentDown("BFD: down", frozenset())] == outputs
    assert session.last_error == "BFD: down"


def test_a_broken_path_ends_stale_paths_where_bfd_outlives_both_sides() -> None:
    """All families at once; where it does not they stay under their own clock, and no path that is none is told of."""
    for is_independent in (False, True):
        session = make()
        establish(session)
        session.disconnected(1, "closed by peer", 5)
        outputs = session.path_failed("BFD: down", 6, is_independent=is_independent)
        assert ([StaleExpired(BOTH)] if is_independent else []) == outputs
        assert session.path_failed("BFD: down", 7, is_independent=True) == (
            [] if is_independent else [StaleExpired(BOTH)]
        )
        assert session.last_error == "closed by peer"


def test_a_path_that_is_there_again_is_called_over_at_once() -> None:
    """Without waiting for the pause to end, which is the first one again; not where the peer calls, or talks."""
    session = make()
    session.start(0)
    for now in (0.0, 10.0, 20.0):
        session.connect_failed("timed out", now)
        session.tick(now + 9)
    session.connect_failed("timed out", 30)
    assert session.path_recovered(31) == [Dial(PEER.name)]
    session.connect_failed("timed out", 31)
    assert session.next_wakeup() == 32.125
    assert make().path_recovered(1) == []
    passive = make(replace(PEER, is_passive=True))
    passive.start(0)
    assert passive.path_recovered(1) == []
    establish(session, now=40)
    assert session.path_recovered(41) == []


def test_a_failed_attempt_to_come_back_leaves_stale_paths_alone() -> None:
    """An error on a connection that never was established says nothing about the paths."""
    session = make()
    establish(session)
    session.disconnected(1, "closed by peer", 1)
    session.connected(2, True, 2)
    session.message_received(2, Notification.cease(Cease.CONNECTION_REJECTED), 2)
    back = establish(session, connection=3, now=3)
    assert [o.keep for o in back if isinstance(o, Established)] == [BOTH]
