"""The store: what stays in force when an object, a file or a directory goes bad, and what is a deletion."""

from __future__ import annotations

import json
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.policy.store import Answer, Store

Json = dict[str, object]
DIRECTORY_GONE = "policies.d cannot be read: No such file or directory"


def policy(name: str, selector: str = "all()", tier: str = "", kind: str = "GlobalNetworkPolicy") -> Json:
    """Return a policy of Calico."""
    spec: Json = {"selector": selector, "types": ["Ingress"]}
    if tier:
        spec["tier"] = tier
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}


def tier(name: str) -> Json:
    """Return a tier."""
    return {"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": name}, "spec": {"order": 5}}


def names(store: Store) -> list[str]:
    """Return what is in force."""
    return sorted(str(key).partition(" ")[2] for key in store.objects())


def selectors(store: Store) -> list[object]:
    """Return the selectors of the objects in force, as they were written."""
    return [cast("dict[str, Json]", each.document)["spec"]["selector"] for each in store.kept().values()]


def reasons(answer: Answer) -> list[tuple[str, str]]:
    """Return who was refused and why."""
    return [(remark.object.partition(" ")[2], remark.reason) for remark in answer.refused]


def restarted(store: Store) -> Store:
    """Return the store of the next life, by way of the disk."""
    another = Store()
    assert another.restore(json.loads(json.dumps(store.saved(), default=str))) == []
    return another


BAD = policy("one", "app ==")


def test_an_applied_object_that_goes_bad_keeps_its_last_good_form_until_mended_or_deleted() -> None:
    """Over a restart too, and it is listed as long."""
    store = Store()
    store.apply([policy("one", "has(a)")])
    answer = store.apply([BAD, policy("two")])
    assert ([each.partition(" ")[2] for each in answer.done], len(answer.refused)) == (["two"], 1)
    for each in (store, restarted(store)):
        assert names(each) == ["one", "two"]
        assert "has(a)" in selectors(each)
        assert [remark.field for remark in each.problems()] == ["spec.selector"]
    assert store.apply([policy("one", "has(b)")]).refused == ()
    assert (store.problems(), "has(b)" in selectors(store)) == ([], True)
    store.apply([BAD])
    store.delete_named("gnp", "one", None)
    assert (names(store), store.problems()) == (["two"], [])


def test_a_new_object_that_is_bad_is_refused_and_forgotten() -> None:
    """As an API server does it."""
    store = Store()
    assert len(store.apply([BAD]).refused) == 1
    assert (names(store), store.problems()) == ([], [])


def test_an_object_of_a_file_goes_with_it_and_no_sooner() -> None:
    """What cannot be read is no deletion: neither a file, nor the directory, nor an object that says nothing."""
    store = Store()
    both: list[object] = [policy("one", "has(a)"), policy("two")]
    assert store.files({"a.json": both})
    assert not store.files({"a.json": both})
    for found in (
        DIRECTORY_GONE,
        {"a.json": "cannot be read: Permission denied"},
        {"a.json": [BAD, policy("two")]},
        {"a.json": [{"kind": "GlobalNetworkPolicy"}, policy("two")]},
        {"a.json": [["not an object"]]},
    ):
        assert store.files(found)
        for each in (store, restarted(store)):
            assert (names(each), "has(a)" in selectors(each)) == (["one", "two"], True)
        assert store.problems() != []
    assert store.files({"a.json": [policy("two")]})
    assert (names(store), store.problems()) == (["two"], [])
    assert store.files({})
    assert (names(store), store.files({})) == ([], False)


def test_a_directory_that_was_never_there_is_no_problem() -> None:
    """Nobody has to have one."""
    store = Store()
    assert not store.files(DIRECTORY_GONE)
    assert store.problems() == []


def test_an_object_of_a_file_is_the_files() -> None:
    """No command changes it; one that was applied before gives way to it, and comes back."""
    store = Store()
    store.apply([policy("one", "has(a)")])
    store.files({"b.json": [policy("one", "has(b)")], "c.json": [policy("one", "has(c)")]})
    assert selectors(store) == ["has(b)"]
    assert [remark.reason for remark in store.problems()] == ["stands in b.json too, which counts"]
    assert reasons(store.apply([policy("one")])) == [("one", "stands in b.json: change it there")]
    store.files({})
    assert selectors(store) == ["has(a)"]
    store.files({"b.json": [policy("two")]})
    assert reasons(store.delete_named("gnp", "two", None)) == [("two", "stands in b.json: delete it there")]


def test_a_tier_with_policies_in_it_stays() -> None:
    """By command it is refused, in a file the last good form stays and is listed; together they go in any order."""
    store = Store()
    store.apply([tier("first"), policy("first.one", tier="first")])
    assert reasons(store.delete_named("tier", "first", None)) == [("first", "still holds one")]
    assert len(store.delete([tier("first"), policy("first.one", tier="first")]).done) == 2
    store.files({"a.json": [tier("first")], "b.json": [policy("first.one", tier="first")]})
    store.files({"b.json": [policy("first.one", tier="first")]})
    assert names(store) == ["first", "first.one"]
    assert [r.reason for r in store.problems()] == ["is gone from a.json, and still holds one"]
    store.files({})
    assert (names(store), store.problems()) == ([], [])


@pytest.mark.parametrize("kind", ["NetworkPolicy", "networkpolicies", "netpol", "np"])
def test_two_kinds_of_one_name_are_told_apart(kind: str) -> None:
    """Kubernetes' and Calico's NetworkPolicy: the short word alone does not say which."""
    store = Store()
    of_kubernetes: Json = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "one"},
        "spec": {},
    }
    store.apply([of_kubernetes, policy("one", kind="NetworkPolicy")])
    (remark,) = store.delete_named(kind, "one", "default").refused
    assert remark.reason.startswith("is not the only one: say NetworkPolicy")
    assert len(store.delete_named("NetworkPolicy.projectcalico.org", "one", "default").done) == 1
    assert len(store.delete_named(kind, "one", "default").done) == 1
    assert reasons(store.delete_named(kind, "one", "default")) == [("default/one", "is not there")]


STATES = st.lists(
    st.dictionaries(
        st.sampled_from(["a.json", "b.json"]),
        st.lists(st.sampled_from([policy("one", "has(a)"), policy("one", "has(b)"), policy("two"), BAD]), max_size=3)
        | st.just("cannot be read: Permission denied"),
    )
    | st.just(DIRECTORY_GONE),
    max_size=5,
)


@given(STATES, st.lists(st.sampled_from([policy("one", "has(c)"), policy("three"), BAD]), max_size=3))
def test_good_files_decide_whatever_was_before(states: list[dict[str, object] | str], applied: list[object]) -> None:
    """After any way, once all is readable and good, what is in force is as if nothing else had been."""
    last: dict[str, list[object] | str] = {"a.json": [policy("one", "has(a)")], "z.json": [tier("t")]}
    store, fresh = Store(), Store()
    store.apply(applied)
    for state in states:
        store.files(state)  # type: ignore[arg-type]  # what the strategy draws
        store = restarted(store)
    store.files(last)
    fresh.apply(applied)
    fresh.files(last)
    assert store.kept() == fresh.kept()
    assert set(store.problems()) == set(fresh.problems())
