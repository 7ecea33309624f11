"""Who is due when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.agenda import NEVER, Agenda
from bgpmesh.route.path import PeerName

N2, N3 = PeerName("n2"), PeerName("n3")
NAMES = st.sampled_from([PeerName(f"n{number}") for number in range(5)])


@given(st.lists(st.tuples(NAMES, st.integers(0, 20)), max_size=300), st.integers(0, 20))
def test_the_last_word_on_each_counts(said: list[tuple[PeerName, int]], now: int) -> None:
    """However often a session was put off or forward, it is due once, at the second that was named last."""
    agenda, last = Agenda(), dict[PeerName, float]()
    for name, at in said:
        agenda.wake(name, at)
        last[name] = at
    assert agenda.next_due() == min(last.values(), default=NEVER)
    expected = {name for name, at in last.items() if at <= now}
    due = agenda.take_due(now)
    assert (len(due), {name for name, _ in due}) == (len(expected), expected)
    assert agenda.next_due() == min((at for at in last.values() if at > now), default=NEVER)


def test_a_closed_session_begins_again_when_its_time_is_over() -> None:
    """Its own timers may still come before that, and then it is not over."""
    agenda = Agenda()
    agenda.wake(N2, 50)
    agenda.close(N2, 10)
    agenda.wake(N2, 5)
    agenda.wake(N3, 5)
    assert sorted(agenda.take_due(5)) == [(N2, False), (N3, False)]
    agenda.wake(N2, 50)
    assert (agenda.next_due(), agenda.is_closed(N2)) == (10, True)
    assert (agenda.take_due(10), agenda.is_closed(N2)) == ([(N2, True)], False)


def test_who_is_let_in_again_or_forgotten_is_not_closed() -> None:
    """What was said before does not come back with the next timer."""
    agenda = Agenda()
    for name in (N2, N3):
        agenda.close(name, 10)
    assert (agenda.open(N2), agenda.open(N2)) == (True, False)
    agenda.forget(N3)
    agenda.wake(N2, 20)
    assert agenda.next_due() == 20
    assert agenda.take_due(30) == [(N2, False)]
