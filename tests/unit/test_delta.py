"""Delta: wanted, actual, the gap, and what is in flight between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.delta import Delta
from tests.flat import pairs


def written(*values: tuple[str, int]) -> Delta[str, int]:
    """Return a Delta whose wishes are all real."""
    delta: Delta[str, int] = Delta()
    for key, value in values:
        delta.want(key, value)
    delta.acknowledge([key for key, _ in pairs(delta.take(100, 0.0))])
    return delta


def test_a_wish_is_taken_once_and_real_once_acknowledged() -> None:
    """What is wanted is taken, in flight, and then actual."""
    delta: Delta[str, int] = Delta()
    delta.want_many(["a", "b"], 1)
    assert pairs(delta.take(10, 0.0)) == [("a", 1), ("b", 1)]
    assert pairs(delta.take(10, 0.0)) == []
    assert len(delta) == 2
    delta.acknowledge(["a", "b"])
    assert delta.actual == {"a": 1, "b": 1}
    assert len(delta) == 0


def test_take_keeps_to_its_limit() -> None:
    """No more than `limit` keys leave at once, and none is lost."""
    delta: Delta[int, int] = Delta()
    delta.want_many(range(5), 1)
    assert [len(pairs(delta.take(2, 0.0))) for _ in range(4)] == [2, 2, 1, 0]


def test_the_latest_wish_wins_after_a_flight() -> None:
    """A key in flight is not taken again; once acknowledged, what was wished meanwhile is."""
    delta: Delta[str, int] = Delta()
    delta.want("a", 1)
    delta.take(10, 0.0)
    delta.want("a", 2)
    assert pairs(delta.take(10, 0.0)) == []
    assert not delta.has_work(0.0)
    delta.acknowledge(["a"])
    assert pairs(delta.take(10, 0.0)) == [("a", 2)]


def test_a_wish_withdrawn_before_it_was_real_costs_nothing() -> None:
    """Want and unwant before anybody took: there is nothing to do."""
    delta: Delta[str, int] = Delta()
    delta.want("a", 1)
    delta.want("a", None)
    assert not delta.has_work(0.0)
    assert pairs(delta.take(10, 0.0)) == []


def test_what_is_unwanted_is_deleted() -> None:
    """An actual key that nobody wants is taken as None, and gone once acknowledged."""
    delta = written(("a", 1), ("b", 1))
    delta.unwant_many(["a", "b"])
    assert pairs(delta.take(10, 0.0)) == [("a", None), ("b", None)]
    delta.acknowledge(["a", "b"])
    assert delta.actual == {}


def test_an_equal_wish_is_no_work() -> None:
    """Wanting what is already so, by another equal object, changes nothing."""
    delta: Delta[str, tuple[int, ...]] = Delta()
    delta.want("a", (1, 2))
    delta.acknowledge([key for key, _ in pairs(delta.take(10, 0.0))])
    delta.want("a", (1, 2))
    assert not delta.has_work(0.0)
    assert len(delta) == 0


def test_an_acknowledgement_of_nothing_in_flight_is_ignored() -> None:
    """A late or double acknowledgement does not make us forget what is real."""
    delta = written(("a", 1))
    delta.acknowledge(["a", "b"])
    assert delta.actual == {"a": 1}


def test_a_refusal_backs_off_and_doubles() -> None:
    """A refused key waits 1 s, then 2, 4 .. 60 s, counts its attempts, and says why."""
    delta: Delta[str, int] = Delta()
    delta.want("a", 1)
    waits, now = [], 0.0
    for _ in range(8):
        assert pairs(delta.take(10, now)) == [("a", 1)]
        refusal = delta.refuse("a", "no such device", now)
        assert pairs(delta.take(10, now)) == []
        assert not delta.has_work(now)
        waits.append(refusal.retry_at - now)
        assert refusal.retry_at == delta.next_retry()
        now = refusal.retry_at
        assert delta.has_work(now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (delta.refused["a"].attempts, delta.refused["a"].reason) == (8, "no such device")


def test_a_success_ends_the_back_off() -> None:
    """Once acknowledged a key is refused no more."""
    delta: Delta[str, int] = Delta()
    delta.want("a", 1)
    delta.take(10, 0.0)
    delta.refuse("a", "busy", 0.0)
    delta.take(10, 1.0)
    delta.acknowledge(["a"])
    assert delta.refused == {}
    assert delta.next_retry() == float("inf")


def test_a_new_wish_is_tried_at_once() -> None:
    """A refused key that is wanted otherwise does not wait for its back-off."""
    delta: Delta[str, int] = Delta()
    delta.want("a", 1)
    delta.take(10, 0.0)
    delta.refuse("a", "busy", 0.0)
    delta.want("a", 2)
    assert pairs(delta.take(10, 0.0)) == [("a", 2)]


def test_one_refusal_does_not_hold_up_the_others() -> None:
    """Keys beside a refused one are taken, and the refused one is still in the gap."""
    delta: Delta[str, int] = Delta()
    delta.want_many(["a", "b"], 1)
    delta.take(10, 0.0)
    delta.refuse("a", "busy", 0.0)
    delta.acknowledge(["b"])
    delta.want("c", 1)
    assert pairs(delta.take(10, 0.5)) == [("c", 1)]
    assert len(delta) == 2


def test_an_observation_does_not_shorten_the_back_off() -> None:
    """Somebody who keeps changing a refused key does not make us try faster."""
    delta = written(("a", 1))
    delta.want("a", 2)
    delta.take(10, 0.0)
    delta.refuse("a", "busy", 0.0)
    delta.observe("a", 7)
    assert pairs(delta.take(10, 0.5)) == []
    delta.observe("a", 2)
    assert delta.refused == {}


def test_a_foreign_change_is_set_right() -> None:
    """An observed value other than wanted is taken again; an unwanted newcomer is deleted."""
    delta = written(("a", 1))
    delta.observe("a", None)
    delta.observe("x", 9)
    assert pairs(delta.take(10, 0.0)) == [("a", 1), ("x", None)]


def test_what_nobody_wants_is_kept_while_told_so() -> None:
    """With keep_unwanted what was found stays, wishes are still done, and afterwards the rest goes."""
    delta: Delta[str, int] = Delta()
    delta.keep_unwanted = True
    delta.observe_all({"a": 1, "b": 1, "c": 1})
    delta.want("a", 1)
    delta.want("b", 2)
    assert pairs(delta.take(10, 0.0)) == [("b", 2)]
    assert not delta.has_work(0.0)
    delta.acknowledge(["b"])
    delta.keep_unwanted = False
    assert delta.has_work(0.0)
    assert pairs(delta.take(10, 0.0)) == [("c", None)]


def test_a_read_back_is_compared_in_full() -> None:
    """After observe_all the gap is exactly what differs, and refusals of what is right are forgotten."""
    delta = written(("a", 1), ("b", 1))
    delta.want("c", 1)
    delta.take(10, 0.0)
    delta.refuse("c", "busy", 0.0)
    delta.observe_all({"a": 1, "c": 1, "x": 1})
    assert delta.refused == {}
    assert {("b", 1), ("x", None)} == set(pairs(delta.take(10, 0.0)))


def test_a_read_back_does_not_judge_what_is_in_flight() -> None:
    """What was on its way during a dump is decided by its acknowledgement."""
    delta: Delta[str, int] = Delta()
    delta.want("a", 1)
    delta.take(10, 0.0)
    delta.observe_all({})
    assert pairs(delta.take(10, 0.0)) == []
    delta.acknowledge(["a"])
    assert delta.actual == {"a": 1}
    assert len(delta) == 0


keys = st.sampled_from("abcd")
values = st.one_of(st.none(), st.integers(1, 2))
happenings = st.one_of(
    st.tuples(st.just("want"), keys, values),
    st.tuples(st.just("want_many"), st.lists(keys, unique=True), st.integers(1, 2)),
    st.tuples(st.just("unwant_many"), st.lists(keys, unique=True), st.none()),
    st.tuples(st.just("observe"), keys, values),
    st.tuples(st.just("read back"), st.just(""), st.none()),
    st.tuples(st.just("keep"), st.just(""), st.sampled_from((None, 1))),
    st.tuples(st.just("take"), st.just(""), st.integers(1, 3)),
    st.tuples(st.just("take unwanted"), st.just(""), st.none()),
    st.tuples(st.just("acknowledge"), keys, st.none()),
    st.tuples(st.just("refuse"), keys, st.none()),
)


@given(st.lists(happenings, max_size=40))
def test_the_gap_closes_whatever_happened(  # noqa: C901, PLR0912 - one case for each thing that can happen
    happened: list[tuple[str, str | list[str], int | None]],
) -> None:
    """After any mixture of wishes, observations, answers and refusals the table becomes what is wanted."""
    delta: Delta[str, int] = Delta()
    kernel: dict[str, int] = {}
    in_flight: dict[str, int | None] = {}
    wanted: dict[str, int] = {}
    now = 0.0

    def write(key: str) -> None:
        value = in_flight.pop(key)
        if value is None:
            kernel.pop(key, None)
        else:
            kernel[key] = value
        delta.acknowledge([key])

    for what, key, value in happened:
        now += 0.4
        match what, key, value:
            case "want", str(), _:
                delta.want(key, value)
                wanted = {**wanted, key: value} if value else {k: v for k, v in wanted.items() if k != key}
            case "want_many", list(), int():
                delta.want_many(key, value)
                wanted |= dict.fromkeys(key, value)
            case "unwant_many", list(), _:
                delta.unwant_many(key)
                wanted = {k: v for k, v in wanted.items() if k not in key}
            case "observe", str(), _:
                if value is None:
                    kernel.pop(key, None)
                else:
                    kernel[key] = value
                delta.observe(key, value)
            case "read back", _, _:
                delta.observe_all(kernel)
            case "keep", _, _:
                delta.keep_unwanted = value is not None
            case "take", _, int():
                taken = pairs(delta.take(value, now))
                assert in_flight.keys().isdisjoint(key for key, _ in taken), "taken twice"
                in_flight |= dict(taken)
            case "take unwanted", _, _:
                gone = delta.take_unwanted(now)
                assert in_flight.keys().isdisjoint(gone), "taken twice"
                assert wanted.keys().isdisjoint(gone), "taken as unwanted"
                in_flight |= dict.fromkeys(gone)
            case "acknowledge", str(), _:
                if key in in_flight:
                    write(key)
            case "refuse", str(), _:
                if key in in_flight:
                    del in_flight[key]
                    delta.refuse(key, "no", now)
    for key in list(in_flight):
        write(key)
    delta.keep_unwanted = False
    while taken := pairs(delta.take(2, now + 1000)):
        in_flight |= dict(taken)
        for key, _ in taken:
            write(key)
    assert wanted == kernel
    assert (wanted, 0, {}) == (delta.actual, len(delta), delta.refused)


@pytest.mark.parametrize("count", [0, 1, 2_000])
def test_length_counts_each_key_once(count: int) -> None:
    """A key that is in flight and wanted otherwise counts once."""
    delta: Delta[int, int] = Delta()
    delta.want_many(range(count), 1)
    delta.take(count, 0.0)
    delta.want_many(range(count), 2)
    assert count == len(delta)


def test_a_delta_is_at_rest_when_only_refused_keys_are_left() -> None:
    """Waiting and in flight are no rest; refused is, as nothing will come of it until its next try."""
    delta: Delta[str, int] = Delta()
    seen = [delta.is_at_rest]
    delta.want_many(["a", "b"], 1)
    seen.append(delta.is_at_rest)
    delta.take(10, 0.0)
    seen.append(delta.is_at_rest)
    delta.refuse("a", "no", 0.0)
    seen.append(delta.is_at_rest)
    delta.acknowledge(["b"])
    seen.append(delta.is_at_rest)
    assert [True, False, False, False, True] == seen


def test_what_was_taken_can_be_taken_again_by_its_keys() -> None:
    """Each taking is told, deletions alone too; another Delta takes the same keys, and no strangers."""
    told: list[list[str]] = []
    one, other = written(("a", 1), ("b", 1)), written(("a", 1), ("b", 1))
    one.on_take = lambda keys: told.append(list(keys))
    for delta in (one, other):
        delta.want_many(["c", "d"], 2)
        delta.want("a", None)
    one.take_unwanted(0.0)
    one.take(1, 0.0)
    one.take(0, 0.0)
    assert [["a"], ["c"]] == told
    assert [[], ["x"]] == [other.take_again(["a"]), other.take_again(["c", "x"])]
    for delta in (one, other):
        delta.acknowledge(["a", "c"])
    assert (one.actual, len(one)) == (other.actual, len(other)) == ({"b": 1, "c": 2}, 1)
