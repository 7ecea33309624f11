"""Two BFD machines over a channel that loses and delays: they agree, they come up again, and changes harm nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpmesh.peering.bfd import NEVER, Change, DiscardedError, Output, Packet, Session, State, Timing, decode, encode

MOST_DELAY_S = 0.008  # with the least interval below never a gap as long as a detection time
SLACK_S = 1e-6  # of comparing floating-point seconds

timings = st.builds(
    Timing, st.sampled_from([20_000, 50_000, 100_000, 300_000, 1_000_000, 2_500_000]), st.integers(2, 5)
)


@dataclass
class Channel:
    """Two sessions and what is on its way between them, in order, each way."""

    sessions: tuple[Session, Session]
    random: Random
    loses: Callable[[float, int], bool]  # whether what this side sends now is lost
    now: float = 0.0
    failures: int = 0
    _waiting: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    _number: int = 0
    _last: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def take(self, side: int, outputs: list[Output]) -> None:
        """Put what a side sends on the channel."""
        for output in outputs:
            if isinstance(output, Change):
                self.failures += output.is_failure
            elif not self.loses(self.now, side):
                at = self._last[side] = max(self._last[side], self.now + self.random.uniform(0, MOST_DELAY_S))
                self._number += 1
                heappush(self._waiting, (at, self._number, 1 - side, encode(output)))

    def run(self, until: float) -> Iterator[None]:
        """Live until then, and stop after each thing that happens."""
        while True:
            due = [session.next_wakeup() for session in self.sessions]
            at = min(*due, self._waiting[0][0] if self._waiting else NEVER)
            if at > until:
                self.now = until
                return
            self.now = max(at, self.now)
            if self._waiting and self._waiting[0][0] <= self.now:
                _, _, side, data = heappop(self._waiting)
                outputs = self.sessions[side].received(decode(data), self.now)
            else:
                side = due.index(min(due))
                outputs = self.sessions[side].tick(self.now)
            self.take(side, outputs)
            yield

    @property
    def are_up(self) -> tuple[bool, bool]:
        """Which of the two is up."""
        return self.sessions[0].state is State.UP, self.sessions[1].state is State.UP

    @property
    def detection_s(self) -> float:
        """The detection times of both sides together."""
        return sum(session.detection_us for session in self.sessions) / 1e6


def channel(
    timing: tuple[Timing, Timing], seed: int, loses: Callable[[float, int], bool] = lambda *_: False
) -> Channel:
    random = Random(seed)
    one = Session(1, timing[0], random.random, 0.0)
    other = Session(2, timing[1], random.random, 0.0)
    return Channel((one, other), random, loses)


@given(
    st.tuples(timings, timings), st.integers(0, 1 << 32), st.lists(st.sampled_from([0, 0.1, 0.3, 0.6, 1]), max_size=8)
)
def test_two_sides_never_disagree_for_long(timing: tuple[Timing, Timing], seed: int, losses: list[float]) -> None:
    """One side is up and the other not for no longer than their detection times, whatever is lost, either way."""
    random = Random(seed)

    def loses(now: float, side: int) -> bool:
        period = int(now / 5) * 2 + side
        return random.random() < (losses[period] if period < len(losses) else 0)

    both = channel(timing, seed, loses)
    since, longest = None, 0.0
    for _ in both.run(60.0):
        is_up, is_other_up = both.are_up
        if is_up == is_other_up:
            since, longest = None, 0.0
            continue
        since = both.now if since is None else since
        longest = max(longest, both.detection_s)
        assert both.now - since <= longest + 2 * MOST_DELAY_S + SLACK_S


@given(st.tuples(timings, timings), st.integers(0, 1 << 32), st.floats(0, 20), st.sampled_from([0, 1]))
def test_they_come_up_again_when_nothing_is_lost_any_more(
    timing: tuple[Timing, Timing], seed: int, heals_at: float, deaf: int
) -> None:
    """Within the time at which each of them sends while down, and with the rates that both agreed to."""
    both = channel(timing, seed, lambda now, side: now < heals_at and side == deaf)
    slow = max(1.0, *(each.interval_us / 1e6 for each in timing))
    for _ in both.run(heals_at + max(each.multiplier for each in timing) * slow + 3 * slow):
        pass
    assert (True, True) == both.are_up
    one, other = both.sessions
    assert one.interval_us == other.interval_us == max(each.interval_us for each in timing)
    assert other.detection_us == timing[0].multiplier * one.interval_us
    assert one.detection_us == timing[1].multiplier * other.interval_us


@given(st.tuples(timings, timings), st.integers(0, 1 << 32), st.sampled_from([0, 1]))
def test_a_path_that_dies_is_noticed_within_the_detection_time(
    timing: tuple[Timing, Timing], seed: int, side: int
) -> None:
    """Both ends are down by then, also where one direction died: who hears nothing says so."""
    dies_at = 20.0
    is_one_way = seed % 2 == 0
    both = channel(timing, seed, lambda now, sender: now >= dies_at and (not is_one_way or sender == side))
    list(both.run(dies_at))
    assert (True, True) == both.are_up
    deaf = both.sessions[1 - side]
    detection_s = max(each.detection_us for each in both.sessions) / 1e6 if not is_one_way else deaf.detection_us / 1e6
    list(both.run(dies_at + detection_s + 2 * MOST_DELAY_S + SLACK_S))
    assert (False, False) == both.are_up
    assert both.failures == 2


changes = st.lists(st.tuples(st.floats(0.0, 3.0), st.sampled_from([0, 1]), timings), min_size=1, max_size=8)


@settings(max_examples=200)
@given(st.tuples(timings, timings), st.integers(0, 1 << 32), changes)
def test_intervals_may_change_at_any_time(
    timing: tuple[Timing, Timing], seed: int, script: list[tuple[float, int, Timing]]
) -> None:
    """Nothing goes down by it while nothing is lost, and in the end both agree on what was wanted last."""
    both = channel(timing, seed)
    list(both.run(20.0))
    last = list(timing)
    for pause, side, wanted in script:
        list(both.run(both.now + pause))
        both.sessions[side].configure(wanted, both.now)
        last[side] = wanted
    list(both.run(both.now + 30.0))
    assert (0, (True, True)) == (both.failures, both.are_up)
    for side, session in enumerate(both.sessions):
        assert session.interval_us == max(each.interval_us for each in last)
        assert session.detection_us == last[1 - side].multiplier * session.interval_us


@given(st.tuples(timings, timings), st.integers(0, 1 << 32), st.floats(0, 0.9))
def test_admin_down_is_no_failure_to_anybody(timing: tuple[Timing, Timing], seed: int, loss: float) -> None:
    """Also where the first of the packets that say so is lost; both sides are up again once it is enabled."""
    timing = timing[0]._replace(multiplier=max(3, timing[0].multiplier)), timing[1]  # with 2 a delay would be too much
    random, lost = Random(seed), [0]

    def loses(now: float, side: int) -> bool:
        if now < 20.0 or side or lost[0] or random.random() >= loss:
            return False
        lost[0] += 1  # only the first
        return True

    both = channel(timing, seed, loses)
    list(both.run(20.0))
    both.take(0, both.sessions[0].disable(20.0))
    list(both.run(30.0))
    assert (0, (False, False)) == (both.failures, both.are_up)
    both.take(0, both.sessions[0].enable(30.0))
    list(both.run(60.0))
    assert (0, (True, True)) == (both.failures, both.are_up)


packets = st.builds(
    Packet,
    st.sampled_from(State),
    st.integers(0, 31),
    st.integers(1, 255),
    st.integers(1, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF) | st.sampled_from([0, 300_000]),
    st.integers(0, 0xFFFFFFFF) | st.sampled_from([0, 300_000]),
    st.just(0),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(st.tuples(packets, st.floats(0, 5)), max_size=30), timings)
def test_nothing_that_a_peer_says_breaks_the_machine(script: list[tuple[Packet, float]], timing: Timing) -> None:
    """Any packets at any time: it never raises, always names a later time, and what it says is a packet."""
    session, now = Session(1, timing, lambda: 0.5, 0.0), 0.0
    for heard, pause in script:
        now += pause
        said: list[Output] = []
        while session.next_wakeup() <= now:
            at = session.next_wakeup()
            said += session.tick(at)
            assert session.next_wakeup() > at
        said += session.received(heard, now)
        assert session.next_wakeup() >= now or session._send_at >= now
        for output in said:
            if isinstance(output, Packet):
                assert output == decode(encode(output)) or not output.your_discriminator
                assert not (output.is_poll and output.is_final)


@given(st.binary(max_size=64))
def test_any_octets_are_a_packet_or_discarded(data: bytes) -> None:
    """Nothing else is raised, and what is a packet says the same when it is said again."""
    try:
        value = decode(data)
    except DiscardedError:
        return
    assert data[:24] == encode(value) or data[3] > 24


@pytest.mark.parametrize("seed", range(20))
def test_jitter_keeps_packets_apart(seed: int) -> None:
    """Packets of a session that is up leave 75 to 100 % of the interval apart."""
    both = channel((Timing(100_000, 3), Timing(100_000, 3)), seed)
    list(both.run(20.0))
    times: list[float] = []
    for _ in both.run(40.0):
        if both.sessions[0]._sent_at not in times:
            times.append(both.sessions[0]._sent_at)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) > 190
    assert 0.075 - SLACK_S <= min(gaps) < max(gaps) <= 0.1 + SLACK_S
