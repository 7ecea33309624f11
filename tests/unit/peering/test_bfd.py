"""The machine of RFC 5880 §6.8 by its paragraphs: what a packet, a second or an operator makes of a session."""

from __future__ import annotations

import json

import pytest

from bgpmesh.peering.bfd import (
    NEVER,
    SLOW_US,
    Change,
    Diag,
    DiscardedError,
    Output,
    Packet,
    Session,
    State,
    Timing,
    decode,
    diag_words,
    encode,
)

ADMIN_DOWN, DOWN, INIT, UP = State
OURS, THEIRS = 0x11111111, 0x22222222
FAST = 300_000
TIMING = Timing(FAST, 3)


def make(timing: Timing = TIMING, jitter: float = 0.0) -> Session:
    return Session(OURS, timing, lambda: jitter, 0.0)


def packet(
    state: State,
    *,
    multiplier: int = 3,
    min_tx_us: int = SLOW_US,
    min_rx_us: int = FAST,
    is_poll: bool = False,
    is_final: bool = False,
    is_independent: bool = True,
    is_demand: bool = False,
) -> Packet:
    """Return a packet of the peer."""
    return Packet(
        state,
        0,
        multiplier,
        THEIRS,
        OURS,
        min_tx_us,
        min_rx_us,
        is_poll=is_poll,
        is_final=is_final,
        is_independent=is_independent,
        is_demand=is_demand,
    )


def up(timing: Timing = TIMING, jitter: float = 0.0, *, min_tx_us: int = FAST, min_rx_us: int = FAST) -> Session:
    """Return a session that is up at second 0, its first Poll Sequence over."""
    session = make(timing, jitter)
    session.received(packet(DOWN, min_rx_us=min_rx_us), 0.0)
    session.received(packet(UP, min_tx_us=min_tx_us, min_rx_us=min_rx_us), 0.0)
    session.received(packet(UP, min_tx_us=min_tx_us, min_rx_us=min_rx_us, is_final=True), 0.0)
    assert UP is session.state
    return session


def sent(outputs: list[Output]) -> list[Packet]:
    return [output for output in outputs if isinstance(output, Packet)]


def changes(outputs: list[Output]) -> list[Change]:
    return [output for output in outputs if isinstance(output, Change)]


# ── packets (§4.1, §6.8.6) ───────────────────────────────────────────────────

# From the octets: version and diagnostic, state and flags, multiplier, length; two discriminators; three intervals.
GOLDEN = {
    "our-first": (
        "20400318 11111111 00000000 000f4240 000493e0 00000000",
        Packet(DOWN, 0, 3, OURS, 0, SLOW_US, FAST),
    ),
    "up-with-poll-and-c": (
        "20e80318 11111111 22222222 000493e0 000493e0 00000000",
        Packet(UP, 0, 3, OURS, THEIRS, FAST, FAST, is_poll=True, is_independent=True),
    ),
    "first-of-bird": (
        "20400318 5d9bc684 00000000 000f4240 000186a0 00000000",
        Packet(DOWN, 0, 3, 0x5D9BC684, 0, SLOW_US, 100_000),
    ),
    "final-of-bird": (
        "20d00318 5d9bc684 b60963d7 000186a0 000186a0 00000000",
        Packet(UP, 0, 3, 0x5D9BC684, 0xB60963D7, 100_000, 100_000, is_final=True),
    ),
    "frr-with-echo": (
        "20c00318 ffa7fcc6 ac1ee002 000186a0 000186a0 0000c350",
        Packet(UP, 0, 3, 0xFFA7FCC6, 0xAC1EE002, 100_000, 100_000, 50_000),
    ),
    "frr-coming-up-after-silence": (
        "21900318 ffa7fcc6 ac1ee002 000186a0 000186a0 0000c350",
        Packet(INIT, 1, 3, 0xFFA7FCC6, 0xAC1EE002, 100_000, 100_000, 50_000, is_final=True),
    ),
    "expired": (
        "21480318 11111111 00000000 000f4240 000493e0 00000000",
        Packet(DOWN, 1, 3, OURS, 0, SLOW_US, FAST, is_independent=True),
    ),
    "demand": (
        "20c20118 22222222 11111111 000f4240 00000000 00000000",
        Packet(UP, 0, 1, THEIRS, OURS, SLOW_US, 0, is_demand=True),
    ),
    "admin-down": (
        "2700ff18 22222222 00000000 ffffffff ffffffff 00000000",
        Packet(ADMIN_DOWN, 7, 255, THEIRS, 0, 0xFFFFFFFF, 0xFFFFFFFF),
    ),
}


@pytest.mark.parametrize(("octets", "value"), GOLDEN.values(), ids=GOLDEN)
def test_the_octets_of_a_packet(octets: str, value: Packet) -> None:
    """Each field stands where the RFC draws it, both ways."""
    assert bytes.fromhex(octets) == encode(value)
    assert value == decode(bytes.fromhex(octets))


REFUSED = {
    "empty": ("", "too short"),
    "a header too short": ("20c00318 22222222 11111111 000493e0 000493e0 000000", "too short"),
    "version 0": ("00c00318 22222222 11111111 000493e0 000493e0 00000000", "not version 1"),
    "version 2": ("40c00318 22222222 11111111 000493e0 000493e0 00000000", "not version 1"),
    "length of 23": ("20c00317 22222222 11111111 000493e0 000493e0 00000000", "length does not fit"),
    "longer than it is": ("20c00319 22222222 11111111 000493e0 000493e0 00000000", "length does not fit"),
    "authenticated": ("20c4031a 22222222 11111111 000493e0 000493e0 00000000 0102", "authenticated"),
    "multiplier of zero": ("20c00018 22222222 11111111 000493e0 000493e0 00000000", "multiplier is zero"),
    "multipoint": ("20c10318 22222222 11111111 000493e0 000493e0 00000000", "multipoint"),
    "of nobody": ("20c00318 00000000 11111111 000493e0 000493e0 00000000", "no discriminator"),
    "up with nobody": ("20c00318 22222222 00000000 000493e0 000493e0 00000000", "does not say whom it answers"),
    "init with nobody": ("20800318 22222222 00000000 000493e0 000493e0 00000000", "does not say whom it answers"),
}


@pytest.mark.parametrize(("octets", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_discarded(octets: str, reason: str) -> None:
    """Every "MUST be discarded" of §6.8.6 that needs no session, with its reason."""
    with pytest.raises(DiscardedError, match=reason):
        decode(bytes.fromhex(octets))


def test_what_follows_a_packet_in_its_datagram_is_no_fault() -> None:
    """The length of the packet counts, not that of the datagram."""
    octets, value = GOLDEN["our-first"]
    assert value == decode(bytes.fromhex(octets) + b"more")


# ── the machine (§6.8.6) ─────────────────────────────────────────────────────


def in_state(state: State) -> Session:
    """Return a session in a state, at second 0."""
    session = up() if state is UP else make()
    if state is INIT:
        session.received(packet(DOWN), 0.0)
    if state is ADMIN_DOWN:
        session = up()
        session.disable(0.0)
    assert state is session.state
    return session


# (ours, the peer's) -> ours, and the diagnostic of that.
MACHINE = {
    (DOWN, ADMIN_DOWN): (DOWN, Diag.NONE),
    (DOWN, DOWN): (INIT, Diag.NONE),
    (DOWN, INIT): (UP, Diag.NONE),
    (DOWN, UP): (DOWN, Diag.NONE),
    (INIT, ADMIN_DOWN): (DOWN, Diag.NEIGHBOUR_DOWN),
    (INIT, DOWN): (INIT, Diag.NONE),
    (INIT, INIT): (UP, Diag.NONE),
    (INIT, UP): (UP, Diag.NONE),
    (UP, ADMIN_DOWN): (DOWN, Diag.NEIGHBOUR_DOWN),
    (UP, DOWN): (DOWN, Diag.NEIGHBOUR_DOWN),
    (UP, INIT): (UP, Diag.NONE),
    (UP, UP): (UP, Diag.NONE),
    (ADMIN_DOWN, ADMIN_DOWN): (ADMIN_DOWN, Diag.ADMIN_DOWN),
    (ADMIN_DOWN, DOWN): (ADMIN_DOWN, Diag.ADMIN_DOWN),
    (ADMIN_DOWN, INIT): (ADMIN_DOWN, Diag.ADMIN_DOWN),
    (ADMIN_DOWN, UP): (ADMIN_DOWN, Diag.ADMIN_DOWN),
}


@pytest.mark.parametrize(("before", "after"), MACHINE.items(), ids=[f"{a.name}-{b.name}" for a, b in MACHINE])
def test_every_state_with_every_state_of_the_peer(before: tuple[State, State], after: tuple[State, Diag]) -> None:
    """The table of §6.2 and §6.8.6, and each change is told and said at once."""
    session = in_state(before[0])
    outputs = session.received(packet(before[1]), 0.1)
    assert after == (session.state, session.diag)
    if after[0] is before[0]:
        assert changes(outputs) == []
    else:
        (change,) = changes(outputs)
        assert (before[0], *after) == (change.before, change.state, change.diag)
        assert after == (sent(outputs)[-1].state, sent(outputs)[-1].diag)


def test_a_failure_is_what_nobody_wanted() -> None:
    """Down by silence or by the peer's Down is one; by AdminDown of either side it is none (RFC 5882 §3.2)."""
    silent, told, theirs, ours, never = up(), up(), up(), up(), make()
    outcomes = [
        silent.tick(0.9),
        told.received(packet(DOWN), 0.1),
        theirs.received(packet(ADMIN_DOWN), 0.1),
        ours.disable(0.1),
        never.received(packet(DOWN), 0.1) and never.tick(3.1),
    ]
    assert [True, True, False, False, False] == [changes(outputs)[0].is_failure for outputs in outcomes]


def test_the_way_up_takes_a_round_trip() -> None:
    """Two machines that answer each other at once are up after the second packet of each."""
    one, other = make(), Session(THEIRS, TIMING, lambda: 0.0, 0.0)
    said = sent(one.tick(0.0))
    for turn in range(3):
        receiver = (other, one)[turn % 2]
        said = [reply for each in said for reply in sent(receiver.received(each, 0.0))]
    assert (UP, UP) == (one.state, other.state)


def test_a_packet_tells_whom_it_answers() -> None:
    """The peer's discriminator is taken from each packet and said in the next."""
    session = make()
    assert [(OURS, 0)] == [(p.my_discriminator, p.your_discriminator) for p in sent(session.tick(0.0))]
    outputs = session.received(packet(DOWN)._replace(your_discriminator=0), 0.1)
    assert (OURS, THEIRS) == (sent(outputs)[0].my_discriminator, sent(outputs)[0].your_discriminator)
    outputs = session.received(packet(UP)._replace(my_discriminator=7), 0.2)
    assert sent(outputs)[0].your_discriminator == 7


def test_the_c_bit_of_both_sides() -> None:
    """We always set it; the peer's is that of its last packet, also once it is silent."""
    session = up()
    assert (True, True) == (session.is_independent, sent(session.tick(0.3))[0].is_independent)
    session.received(packet(UP, min_tx_us=FAST, is_independent=False), 0.4)
    session.tick(1.5)
    assert (DOWN, False) == (session.state, session.is_independent)


# ── detection (§6.8.4, §6.8.1) ───────────────────────────────────────────────

# Our interval and multiplier, then the peer's rate and multiplier: the detection time in milliseconds.
DETECTION = [
    ((300, 3), (300, 3), 900),
    ((300, 3), (50, 3), 900),  # it may send faster, but we asked for no more
    ((50, 3), (300, 3), 900),
    ((300, 9), (300, 2), 600),  # its multiplier counts, not ours
    ((1000, 3), (2500, 4), 10_000),
]


@pytest.mark.parametrize(("ours", "theirs", "expected"), DETECTION)
def test_detection_time(ours: tuple[int, int], theirs: tuple[int, int], expected: int) -> None:
    """The peer's multiplier times the slower of its rate and what we want to be sent."""
    session = up(Timing(ours[0] * 1000, ours[1]))
    session.received(packet(UP, multiplier=theirs[1], min_tx_us=theirs[0] * 1000), 5.0)
    assert expected * 1000 == session.detection_us
    session.tick(5.0 + expected / 1000 - 0.001)
    assert session.state is UP
    (change,) = changes(session.tick(5.0 + expected / 1000))
    assert Change(UP, DOWN, Diag.EXPIRED, is_failure=True) == change


def test_detection_while_coming_up_is_slow() -> None:
    """A peer in Init that is heard no more is given up after its slow rate's time, and that is no failure."""
    session = make()
    session.received(packet(DOWN), 0.0)
    assert [] == changes(session.tick(2.9))
    assert [Change(INIT, DOWN, Diag.EXPIRED, is_failure=False)] == changes(session.tick(3.0))


def test_a_silent_peer_is_forgotten() -> None:
    """After a detection time nothing of it is left: its discriminator and what it wanted to be sent (§6.8.18)."""
    session = up(min_rx_us=5_000_000)
    assert session.interval_us == 5_000_000
    outputs = session.tick(0.9)
    assert (0, SLOW_US) == (session.remote_discriminator, session.interval_us)
    assert (DOWN, Diag.EXPIRED, 0) == (
        sent(outputs)[0].state,
        sent(outputs)[0].diag,
        sent(outputs)[0].your_discriminator,
    )


def test_a_peer_that_is_down_is_forgotten_too() -> None:
    """Its state is kept for a detection time only, whatever ours is."""
    session = up()
    session.received(packet(ADMIN_DOWN, min_tx_us=SLOW_US), 0.0)
    assert (DOWN, THEIRS, ADMIN_DOWN) == (session.state, session.remote_discriminator, session.remote_state)
    session.tick(3.0)
    assert (DOWN, 0, DOWN) == (session.state, session.remote_discriminator, session.remote_state)


def test_who_did_not_listen_blames_nobody() -> None:
    """A peer has an interval more from then on, as often in a row as its packets may be missed."""
    session = up()
    session.excuse(0.1)
    assert changes(session.tick(0.9)) != []
    session = up()
    for late in (0.8, 7.0, 8.0):
        session.excuse(late)
        session.tick(late + 0.29)
        assert session.state is UP
    session.excuse(8.2)
    assert [True] == [change.is_failure for change in changes(session.tick(8.31))]
    session = up()
    for late in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        session.excuse(late)
        session.received(packet(UP, min_tx_us=FAST), late + 0.1)
    assert session.state is UP
    unheard = make()
    unheard.excuse(5.0)
    assert unheard._detect_at == NEVER


# ── sending (§6.8.2, §6.8.7) ─────────────────────────────────────────────────


def test_the_rate_is_slow_until_it_is_up() -> None:
    """A second between packets, said so in each (§6.8.3)."""
    session = make()
    times = []
    while session.next_wakeup() < 3.5:
        times.append(session.next_wakeup())
        (said,) = sent(session.tick(times[-1]))
        assert (DOWN, SLOW_US, FAST) == (said.state, said.min_tx_us, said.min_rx_us)
    assert [0.0, 1.0, 2.0, 3.0] == times


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"), [(300, 300, 300), (300, 50, 300), (50, 300, 300), (100, 2000, 2000)]
)
def test_the_slower_of_two_wishes_counts(ours: int, theirs: int, expected: int) -> None:
    """Our rate is what we want to send at most, or what the peer wants to be sent at most."""
    session = up(Timing(ours * 1000, 3), min_rx_us=theirs * 1000)
    assert expected * 1000 == session.interval_us


@pytest.mark.parametrize(
    ("multiplier", "jitter", "share"), [(3, 0.0, 1.0), (3, 0.5, 0.875), (3, 1.0, 0.75), (1, 0.0, 0.9), (1, 1.0, 0.75)]
)
def test_jitter(multiplier: int, jitter: float, share: float) -> None:
    """75 to 100 % of the interval; with a multiplier of 1 no more than 90 %."""
    session = up(Timing(FAST, multiplier), jitter)
    at = session.next_wakeup()
    session.tick(at)
    assert session._send_at - at == pytest.approx(share * 0.3)


def test_a_poll_is_answered_at_once_whatever_the_state() -> None:
    """With F set and P clear, the timer of other packets untouched; but nothing is answered in AdminDown."""
    for state in (DOWN, INIT, UP):
        session = in_state(state)
        session.tick(session.next_wakeup())
        due = session.next_wakeup()
        same = {DOWN: ADMIN_DOWN, INIT: DOWN, UP: UP}[state]  # a state of the peer that changes nothing
        outputs = session.received(packet(same, min_tx_us=FAST if state is UP else SLOW_US, is_poll=True), 0.1)
        assert [(True, False)] == [(p.is_final, p.is_poll) for p in sent(outputs)], state
        if state is not DOWN:  # where hearing of the peer set the time at which it is forgotten
            assert due == session.next_wakeup()
    assert [] == in_state(ADMIN_DOWN).received(packet(UP, is_poll=True), 0.1)


def test_a_peer_that_wants_nothing_gets_nothing_but_answers() -> None:
    """A Required Min RX Interval of zero ends our packets (§6.8.7) but for answers, and another value begins anew."""
    session = up()
    session.received(packet(UP, min_tx_us=FAST, min_rx_us=0), 0.1)
    assert (0, NEVER) == (session.interval_us, session._send_at)
    assert [True] == [p.is_final for p in sent(session.received(packet(UP, min_rx_us=0, is_poll=True), 0.2))]
    session.received(packet(UP, min_tx_us=FAST), 0.5)
    assert session._send_at <= 0.8


def test_a_peer_in_demand_mode_hears_nothing_but_polls_and_changes() -> None:
    """While both are up (§6.6, §6.8.7): a change of ours is polled for, and silence of the peer is still judged."""
    session = up()
    session.received(packet(UP, min_tx_us=FAST, is_demand=True), 0.1)
    assert session.next_wakeup() == pytest.approx(1.0)  # its detection time
    assert [True] == [p.is_final for p in sent(session.received(packet(UP, is_demand=True, is_poll=True), 0.2))]
    session.configure(Timing(500_000, 3), 0.3)
    polls = sent(session.tick(0.3)) + sent(session.tick(session._send_at))
    assert [True, True] == [p.is_poll for p in polls]
    session.received(packet(UP, min_tx_us=FAST, is_demand=True, is_final=True), 0.7)
    assert session._send_at == NEVER
    assert [DOWN] == [p.state for p in sent(session.received(packet(DOWN, is_demand=True), 0.8))]


def test_demand_that_ends_begins_our_packets_again() -> None:
    """As soon as the peer takes its D bit back."""
    session = up()
    session.received(packet(UP, min_tx_us=FAST, is_demand=True), 0.1)
    assert session._send_at == NEVER
    assert [UP] == [p.state for p in sent(session.received(packet(UP, min_tx_us=FAST), 0.9))]
    assert session._send_at == pytest.approx(1.2)


# ── changes of intervals (§6.5, §6.8.3) ──────────────────────────────────────


def test_coming_up_is_a_change_of_our_rate_and_polled_for() -> None:
    """The faster rate is used at once, and said with P until F comes."""
    session = make()
    session.received(packet(DOWN), 0.0)
    outputs = session.received(packet(INIT), 0.1)
    assert [(UP, FAST, True)] == [(p.state, p.min_tx_us, p.is_poll) for p in sent(outputs)]
    assert session.next_wakeup() == pytest.approx(0.4)
    assert [True] == [p.is_poll for p in sent(session.tick(0.4))]
    session.received(packet(UP, min_tx_us=FAST, is_final=True), 0.5)
    assert [False] == [p.is_poll for p in sent(session.tick(0.7))]


def test_a_slower_rate_waits_for_the_end_of_the_poll() -> None:
    """The peer would take us for dead: it counts only once it has said that it knows."""
    session = up()
    session.configure(Timing(900_000, 3), 0.1)
    assert [(900_000, True)] == [(p.min_tx_us, p.is_poll) for p in sent(session.tick(0.1))]
    assert session.interval_us == FAST
    session.received(packet(UP, min_tx_us=FAST, is_final=True), 0.2)
    assert session.interval_us == 900_000


def test_a_shorter_detection_time_waits_for_the_end_of_the_poll() -> None:
    """The peer still sends at its old rate, until it has said that it knows that we want more."""
    session = up(min_tx_us=100_000)
    session.configure(Timing(100_000, 3), 0.1)
    session.received(packet(UP, min_tx_us=100_000), 0.2)
    assert session.detection_us == 900_000
    session.received(packet(UP, min_tx_us=100_000, is_final=True), 0.3)
    assert session.detection_us == 300_000


def test_what_we_want_to_be_sent_is_polled_for_while_down_too() -> None:
    """Our rate is the slow one before and after, and yet the peer is asked; the detection time follows at once."""
    session = in_state(INIT)
    session.received(packet(DOWN, min_tx_us=FAST), 0.0)
    session.configure(Timing(2_000_000, 3), 0.1)
    assert session.detection_us == 6_000_000
    session.configure(Timing(100_000, 3), 0.1)
    assert [(SLOW_US, 100_000, True)] == [(p.min_tx_us, p.min_rx_us, p.is_poll) for p in sent(session.tick(0.1))]
    assert session.detection_us == 900_000


def test_what_waits_for_a_poll_waits_no_longer_when_it_goes_down() -> None:
    """A session that is not up has nothing to lose."""
    session = up(min_tx_us=100_000)
    session.configure(Timing(100_000, 3), 0.1)
    session.received(packet(DOWN, min_tx_us=100_000), 0.2)
    assert session.detection_us == 300_000


def test_a_longer_detection_time_counts_at_once() -> None:
    """For the packet that was heard last, too: the peer may have begun to send slower."""
    session = up()
    session.configure(Timing(900_000, 3), 0.1)
    assert session.detection_us == 2_700_000
    session.tick(2.6)
    assert session.state is UP
    assert [True] == [change.is_failure for change in changes(session.tick(2.7))]


def test_a_faster_rate_that_the_peer_allows_counts_at_once() -> None:
    """And if the new interval is over since our last packet, one leaves now."""
    session = up(min_rx_us=5_000_000)
    outputs = session.received(packet(UP, min_tx_us=FAST, min_rx_us=FAST), 0.5)
    assert len(sent(outputs)) == 1
    assert session.next_wakeup() == pytest.approx(0.8)


def test_polls_do_not_overlap() -> None:
    """What changes during a Poll Sequence counts from the end of the next one, which follows at once."""
    session = up()
    session.configure(Timing(900_000, 3), 0.1)
    session.tick(0.1)
    session.configure(Timing(800_000, 3), 0.2)
    session.tick(0.2)
    outputs = session.received(packet(UP, min_tx_us=FAST, is_final=True), 0.3)
    assert [(800_000, True)] == [(p.min_tx_us, p.is_poll) for p in sent(outputs)]
    assert session.interval_us == FAST
    session.received(packet(UP, min_tx_us=FAST, is_final=True), 0.4)
    assert session.interval_us == 800_000
    assert [False] == [p.is_poll for p in sent(session.tick(session._send_at))]


def test_a_final_that_nobody_asked_for_changes_nothing() -> None:
    """The peer may answer twice."""
    session = up()
    due = session._send_at
    assert [] == session.received(packet(UP, min_tx_us=FAST, is_final=True), 0.1)
    assert due == session._send_at


def test_another_multiplier_is_said_in_the_next_packet() -> None:
    """It needs no poll (§6.8.12); what nobody changed sends nothing."""
    session = up()
    session.configure(TIMING, 0.05)
    assert session.next_wakeup() > 0.05
    session.configure(Timing(FAST, 5), 0.1)
    assert [(5, False)] == [(p.multiplier, p.is_poll) for p in sent(session.tick(0.1))]


def test_going_down_makes_the_rate_slow_at_once() -> None:
    """A second, and no faster until it is up again."""
    session = up()
    session.received(packet(DOWN), 0.1)
    assert session.interval_us == SLOW_US
    assert session._send_at == pytest.approx(1.1)


def test_a_rate_slower_than_slow_is_kept() -> None:
    """Whoever wants a packet each five seconds does not send each second while down."""
    session = make(Timing(5_000_000, 3))
    (said,) = sent(session.tick(0.0))
    assert (5_000_000, 5.0) == (said.min_tx_us, session.next_wakeup())


# ── the operator (§6.8.16) ───────────────────────────────────────────────────


def test_admin_down_is_said_again_and_again_until_it_is_heard() -> None:
    """At the rate that the peer expects, so that one lost packet is no failure to it, for its detection time."""
    session = up()
    outputs = session.disable(0.1)
    assert [(ADMIN_DOWN, Diag.ADMIN_DOWN)] == [(p.state, p.diag) for p in sent(outputs)]
    assert session.next_wakeup() == pytest.approx(0.4)
    assert [ADMIN_DOWN] == [p.state for p in sent(session.tick(0.4))]
    session.received(packet(UP, min_tx_us=FAST), 0.5)
    assert [False, True] == [session.is_left(now) for now in (0.9, 1.0)]
    session.received(packet(DOWN), 0.6)
    assert session.is_left(0.6)


def test_who_was_never_heard_needs_no_farewell() -> None:
    """Nobody is there to take its silence for a failure."""
    session = make()
    session.disable(1.0)
    assert session.is_left(1.0)


def test_enabled_again_it_comes_up_again() -> None:
    """From Down, with all that was configured."""
    session = up()
    session.disable(1.0)
    assert [Change(ADMIN_DOWN, DOWN, Diag.NONE, is_failure=False)] == changes(session.enable(1.1))
    session.received(packet(DOWN), 1.2)
    session.received(packet(UP, min_tx_us=FAST), 1.3)
    session.received(packet(UP, min_tx_us=FAST, is_final=True), 1.4)
    assert (UP, FAST) == (session.state, session.interval_us)


def test_disable_and_enable_say_nothing_twice() -> None:
    """What is so already is no change."""
    session = up()
    session.disable(1.0)
    assert [] == session.disable(1.1)
    session.enable(1.2)
    assert [] == session.enable(1.3)


# ── handing over ─────────────────────────────────────────────────────────────


def test_a_session_that_is_taken_over_goes_on_as_if_nothing_had_been() -> None:
    """All that it is goes through JSON; what both then answer is the same."""
    session = up()
    session.configure(Timing(900_000, 3), 0.1)  # with a poll under way
    other = Session.taken_over(json.loads(json.dumps(session.handed_over())), lambda: 0.0)
    for heard, now in ((packet(UP, min_tx_us=FAST), 0.2), (packet(UP, is_final=True), 0.5), (packet(DOWN), 0.9)):
        assert session.next_wakeup() == other.next_wakeup()
        assert session.tick(now) == other.tick(now)
        assert session.received(heard, now) == other.received(heard, now)
        assert session.handed_over() == other.handed_over()


def test_diagnostics_have_words() -> None:
    """Those of the RFC, and the number of one that is newer."""
    assert [diag_words(n) for n in (0, 1, 3, 8, 31)] == [
        "no diagnostic",
        "control detection time expired",
        "neighbour signalled session down",
        "reverse concatenated path down",
        "diagnostic 31",
    ]
