"""What a compiler answers does not depend on what it saw before; and what stays equal stays the same object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.form import Compiled
from bgpmesh.policy.iptables import Options, render, verdicts
from bgpmesh.policy.model import Member, Model
from bgpmesh.route.nlri import IPAddress
from tests.property.test_policy import PLACES, RULES, SELECTORS, mixed, models

PARTS = ["policies", "tiers", "profiles", "network_sets", "space", "addresses", "hosts"]
TABLES = ["stacks", "classes", "bodies", "sets", "hosts"]
TWEAKS: dict[str, st.SearchStrategy[object]] = {
    "order": st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]),
    "selector": st.sampled_from(SELECTORS),
    "ingress": RULES,
    "is_staged": st.booleans(),
}
SELDOM = st.integers(0, 4).map(lambda number: number == 4)
PLACE = st.sampled_from([(PLACES[4][number], PLACES[6][number]) for number in range(4)])

OPTIONS = Options()


@dataclass(frozen=True)
class Step:
    """What of another model comes into force, which of its members (None: gone), and what the compiler is told.

    `tweaks`: a policy, by its number, and what is otherwise about it; a tier's order; a profile that goes.
    """

    target: Model
    parts: set[str]
    tweaks: list[tuple[int, dict[str, object]]]
    is_tier_last: bool
    is_profile_gone: bool
    members: dict[str, Member | None]
    hint: str


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """Draw a change: most often a member or two, or one part of the model; addresses wander between members."""
    target = draw(models())
    keys = draw(st.sets(st.sampled_from(["shop/0", "shop/1", "shop/2"]), max_size=2))
    members: dict[str, Member | None] = {key: target.members.get(key) for key in keys}
    for key, member in members.items():
        if member is not None and draw(st.booleans()):
            members[key] = draw(st.none() | PLACE.map(partial(_at, member)))
    parts = draw(st.sets(st.sampled_from(PARTS), max_size=2))
    one = st.tuples(st.integers(0, 3), st.sampled_from(sorted(TWEAKS)))
    tweaks = [(number, {part: draw(TWEAKS[part])}) for number, part in draw(st.lists(one, max_size=2))]
    hint = draw(st.sampled_from(["exact", "exact", "too many", "none"]))
    return Step(target, parts, tweaks, draw(SELDOM), draw(SELDOM), members, hint)


def _at(member: Member, addresses: tuple[IPAddress, ...]) -> Member:
    return replace(member, addresses=addresses)


def tables(compiled: Compiled) -> dict[str, Mapping[str, object]]:
    return {name: getattr(compiled, name) for name in TABLES}


def changed_by(step: Step, model: Model) -> Model:
    """Return the model after a step, but for the members."""
    model = replace(model, **{part: getattr(step.target, part) for part in step.parts})
    policies = list(model.policies)
    for number, tweak in step.tweaks:
        if number < len(policies):
            policies[number] = replace(policies[number], **tweak)  # type: ignore[arg-type]
    tiers = model.tiers
    if step.is_tier_last:
        tiers = (replace(tiers[0], order=3.0 - tiers[0].order), *tiers[1:])
    profiles = model.profiles[1:] if step.is_profile_gone else model.profiles
    return replace(model, policies=tuple(policies), tiers=tiers, profiles=profiles)


@settings(max_examples=60)
@given(models(), st.lists(steps(), min_size=1, max_size=6))
def test_after_any_changes_the_answer_is_that_of_a_new_compiler(first: Model, path: list[Step]) -> None:
    """Whoever says what changed, exactly or too much of it, and whoever does not; over one mapping of members.

    What an earlier call answered stays as it was. So it is with what is rendered of it.
    """
    members = dict(first.members)
    model = replace(first, members=members)
    compiler = Compiler()
    compiled = compiler.compile(model)
    known, last = verdicts(compiled, OPTIONS), tables(compiled)
    copies = {name: dict(table) for name, table in last.items()}
    for step in path:
        changed = {key for key, member in step.members.items() if members.get(key) != member}
        for key, member in step.members.items():
            members.pop(key, None)
            if member is not None:
                members[key] = member
        model = changed_by(step, model)
        hints = {"exact": changed, "too many": changed | {"shop/0", "shop/9"}, "none": None}
        compiled = compiler.compile(model, hints[step.hint])
        known, now = verdicts(compiled, OPTIONS, known), tables(compiled)
        assert render(compiled, OPTIONS, known) == render(compiled, OPTIONS)
        assert {name: dict(table) for name, table in last.items()} == copies
        for name, fresh in tables(Compiler().compile(mixed(model))).items():
            assert list(now[name].items()) == list(fresh.items())
            assert (now[name] is last[name]) is (now[name] == last[name])
            for key in now[name].keys() & last[name].keys():
                assert (now[name][key] is last[name][key]) is (now[name][key] == last[name][key])
        last = now
        copies = {name: dict(table) for name, table in now.items()}
