"""Filters in a row, rules in a filter, terms and changes of a rule."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.rib.filter import Answer, Chain
from bgpmesh.rib.rule import (
    BUILT_IN,
    Community,
    ExtCommunity,
    Filter,
    LargeCommunity,
    NextHopTerm,
    PathExpression,
    PrefixRange,
    Prepend,
    Rule,
)
from bgpmesh.route.attributes import Asn, PathAttributes
from bgpmesh.route.community import GRACEFUL_SHUTDOWN, NO_EXPORT
from bgpmesh.route.nlri import Family, Nlri, prefix_text
from bgpmesh.route.path import PeerName
from tests.unit.rib.ribworld import address, changed, key, sequence, via

TOR = PeerName("tor")
OURS = Asn(64512)


def ranges(*said: str) -> tuple[PrefixRange, ...]:
    """Return ranges written as PREFIX LOW HIGH."""
    parts = [text.split() for text in said]
    return tuple(PrefixRange(ipaddress.ip_network(prefix), int(low), int(high)) for prefix, low, high in parts)


def run(definition: Filter | list[Filter], attributes: PathAttributes, *prefixes: str) -> dict[str, Answer]:
    """Return what becomes of prefixes that `tor` announces, each with its answer."""
    filters = [definition] if isinstance(definition, Filter) else definition
    answers = Chain(filters, OURS).run(TOR, attributes, [key(prefix) for prefix in prefixes])
    return {prefix_text(nlri): answer for answer in answers for nlri in answer.nlris}


def of(*rules: Rule, default: str = "reject") -> Filter:
    """Return a filter f."""
    return Filter("f", default, rules)


@pytest.mark.parametrize(
    ("names", "peer", "stopped_by"),
    [
        ((), TOR, ""),
        (("all",), TOR, ""),
        (("own",), None, ""),
        (("own",), TOR, "own"),
        (("all", "none"), None, "none"),
        (("none", "all"), None, "none"),
    ],
)
def test_every_filter_must_let_it_pass(names: tuple[str, ...], peer: PeerName | None, stopped_by: str) -> None:
    """The first filter that stops a batch is named; nothing undoes it."""
    attributes, nlris = via("192.0.2.9"), [key("10.0.0.0/8")]
    (answer,) = Chain([BUILT_IN[name] for name in names], OURS).run(peer, attributes, nlris)
    assert (nlris, stopped_by) == (answer.nlris, answer.by)
    assert answer.attributes is (None if stopped_by else attributes)


def test_what_one_filter_changes_the_next_one_sees() -> None:
    """And both are named."""
    first = Filter("a", "accept", (Rule(action="accept", add_community=(Community("64512:1"),)),))
    second = Filter("b", "reject", (Rule(action="accept", community=(Community("64512:1"),), med=5),))
    (answer,) = run([first, second], via("192.0.2.9"), "10.0.0.0/8").values()
    assert answer.attributes is not None
    assert (answer.attributes.communities, answer.attributes.med, answer.by, answer.said) == (
        (64512 << 16 | 1,),
        5,
        "a rule 1, b rule 1",
        frozenset({"med"}),
    )
    (answer,) = run([second, first], via("192.0.2.9"), "10.0.0.0/8").values()
    assert (answer.attributes, answer.by) == (None, "b default")


def test_the_first_rule_that_matches_decides() -> None:
    """Whatever stands behind it; the default where none does; a part of a batch has a fate of its own."""
    filtering = of(
        Rule(prefix=ranges("10.1.0.0/16 24 24"), action="reject"),
        Rule(prefix=ranges("10.0.0.0/8 16 24"), action="accept"),
        Rule(prefix=ranges("10.1.0.0/16 24 32"), action="accept", med=9),
    )
    prefixes = ("10.1.2.0/24", "10.2.2.0/24", "10.1.2.0/25", "10.1.0.0/16", "10.0.0.0/8", "11.0.0.0/16")
    found = run(filtering, via("192.0.2.9"), *prefixes)
    assert {prefix: (a.attributes is not None, a.by) for prefix, a in found.items()} == {
        "10.1.2.0/24": (False, "f rule 1"),
        "10.2.2.0/24": (True, ""),
        "10.1.2.0/25": (True, "f rule 3"),
        "10.1.0.0/16": (True, ""),
        "10.0.0.0/8": (False, "f default"),
        "11.0.0.0/16": (False, "f default"),
    }


@pytest.mark.parametrize(
    ("prefix", "low", "high", "inside", "outside"),
    [
        ("10.1.0.0/16", 16, 16, ["10.1.0.0/16"], ["10.1.0.0/17", "10.0.0.0/15", "10.0.0.0/16"]),
        ("10.1.0.0/16", 26, 32, ["10.1.0.0/26", "10.1.255.255/32"], ["10.1.0.0/25", "10.2.0.0/26", "10.0.255.255/32"]),
        ("0.0.0.0/0", 0, 32, ["0.0.0.0/0", "255.255.255.255/32", "10.0.0.0/8"], ["::/0"]),
        ("0.0.0.0/0", 0, 0, ["0.0.0.0/0"], ["0.0.0.0/1", "128.0.0.0/1"]),
        ("::/0", 0, 128, ["::/0", "ffff::1/128"], ["0.0.0.0/0"]),
        ("2001:db8::/32", 48, 64, ["2001:db8:1::/48", "2001:db8::/64"], ["2001:db8::/32", "2001:db9::/48"]),
        ("255.255.255.255/32", 32, 32, ["255.255.255.255/32"], ["255.255.255.254/32"]),
    ],
)
def test_a_range_of_prefixes(prefix: str, low: int, high: int, inside: list[str], outside: list[str]) -> None:
    """Under the prefix, and as long as it says; its ends are within."""
    filtering = of(Rule(prefix=ranges(f"{prefix} {low} {high}"), action="accept"))
    for each, expected in [*((p, True) for p in inside), *((p, False) for p in outside)]:
        assert (run(filtering, via("192.0.2.9"), each)[each].attributes is not None) is expected, each


RICH = changed(
    via("192.0.2.9", 65001, 65002),
    communities=(64512 << 16 | 7, NO_EXPORT),
    large_communities=((64512, 1, 2),),
    ext_communities=(bytes.fromhex("0002fc0000000064"),),
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(action="accept", community=(Community("64512:7"),)), True),
        (Rule(action="accept", community=(Community("64512:8"), Community("no-export"))), True),
        (Rule(action="accept", community=(Community("64512:*"),)), True),
        (Rule(action="accept", community=(Community("*:8"), Community("graceful-shutdown"))), False),
        (Rule(action="accept", large_community=(LargeCommunity("64512:*:2"),)), True),
        (Rule(action="accept", large_community=(LargeCommunity("64512:1:3"),)), False),
        (Rule(action="accept", ext_community=(ExtCommunity("rt:64512:100"),)), True),
        (Rule(action="accept", ext_community=(ExtCommunity("soo:64512:100"),)), False),
        (Rule(action="accept", as_path=(PathExpression("^65001"), PathExpression("^1"))), True),
        (Rule(action="accept", as_path=(PathExpression("^65002"),)), False),
        (Rule(action="accept", next_hop=NextHopTerm((ipaddress.ip_network("192.0.2.0/24"),))), True),
        (Rule(action="accept", next_hop=NextHopTerm((ipaddress.ip_network("2001:db8::/64"),))), False),
        (Rule(action="accept", peer=("n1", "tor")), True),
        (Rule(action="accept", peer=("local",)), False),
        (Rule(action="accept", family=(Family.IPV4,)), True),
        (Rule(action="accept", family=(Family.IPV6,)), False),
        (Rule(action="accept", community=(Community("64512:7"),), as_path=(PathExpression("^$"),)), False),
        (Rule(action="accept"), True),
    ],
)
def test_terms(rule: Rule, expected: bool) -> None:
    """Every term has to be true, and of several values in one any will do."""
    assert (run(of(rule), RICH, "10.0.0.0/8")["10.0.0.0/8"].attributes is not None) is expected


def test_a_speaker_of_a_range_goes_by_the_name_of_the_range() -> None:
    """It is NAME@address."""
    filtering = of(Rule(peer=("pods",), action="accept"))
    (answer,) = Chain([filtering], OURS).run(PeerName("pods@10.0.0.9"), via("10.0.0.9"), [key("10.1.0.0/16")])
    assert answer.attributes is not None


@pytest.mark.parametrize(
    ("rule", "field", "expected"),
    [
        (
            Rule(action="accept", add_community=(Community("64512:1"), Community("graceful-shutdown"))),
            "communities",
            (64512 << 16 | 1, 64512 << 16 | 7, GRACEFUL_SHUTDOWN, NO_EXPORT),
        ),
        (Rule(action="accept", remove_community=(Community("64512:*"),)), "communities", (NO_EXPORT,)),
        (
            Rule(action="accept", remove_community=(Community("*:*"),), add_community=(Community("64512:7"),)),
            "communities",
            (64512 << 16 | 7,),
        ),
        (
            Rule(
                action="accept",
                add_large_community=(LargeCommunity("1:2:3"),),
                remove_large_community=(LargeCommunity("64512:*:*"),),
            ),
            "large_communities",
            ((1, 2, 3),),
        ),
        (
            Rule(
                action="accept",
                add_ext_community=(ExtCommunity("rt:192.0.2.1:5"), ExtCommunity("soo:4200000000:6")),
                remove_ext_community=(ExtCommunity("rt:64512:*"),),
            ),
            "ext_communities",
            (bytes.fromhex("0102c00002010005"), bytes.fromhex("0203fa56ea000006")),
        ),
        (Rule(action="accept", local_pref=0), "local_pref", 0),
        (Rule(action="accept", med=7), "med", 7),
        (Rule(action="accept", prepend=Prepend(2)), "as_path", sequence(OURS, OURS, 65001, 65002)),
        (
            Rule(action="accept", prepend=Prepend(asns=(Asn(1), Asn(2)))),
            "as_path",
            sequence(1, 2, 65001, 65002),
        ),
        (
            Rule(action="accept", next_hop=NextHopTerm(to=address("192.0.2.77"))),
            "next_hop",
            address("192.0.2.77"),
        ),
    ],
)
def test_changes(rule: Rule, field: str, expected: object) -> None:
    """Each changes its own field, and nothing else."""
    answer = run(of(rule), RICH, "10.0.0.0/8")["10.0.0.0/8"]
    assert answer.attributes is not None
    assert expected == getattr(answer.attributes, field)
    assert answer.by == "f rule 1"
    assert answer.attributes.same_as(replace(RICH, **{field: expected}))  # type: ignore[arg-type]


def test_a_rule_that_sets_a_next_hop_is_about_routes_of_its_family() -> None:
    """An IPv4 next hop is none of an IPv6 route: the default decides about that."""
    filtering = of(Rule(action="accept", next_hop=NextHopTerm(to=address("192.0.2.77"))), default="accept")
    (answer,) = run(filtering, via("2001:db8::5"), "2001:db8:1::/64").values()
    assert answer.attributes is not None
    assert answer.attributes.next_hop == address("2001:db8::5")


def test_a_change_that_changes_nothing_keeps_the_object() -> None:
    """Sets are compared by identity later on; what was said counts all the same."""
    rule = Rule(action="accept", add_community=(Community("64512:7"),), med=3)
    rich = changed(RICH, med=3)
    (answer,) = run(of(rule), rich, "10.0.0.0/8").values()
    assert answer.attributes is rich
    assert answer.said == {"med"}


def test_one_set_and_one_fate_is_one_object() -> None:
    """Also over batches, and whether it was changed or not."""
    filtering = of(
        Rule(prefix=ranges("10.0.0.0/8 24 24"), action="accept", med=1),
        Rule(prefix=ranges("10.0.0.0/8 16 24"), action="accept"),
    )
    chain, attributes = Chain([filtering], OURS), via("192.0.2.9")
    made = []
    for nlris in ([key("10.1.1.0/24"), key("10.1.0.0/16")], [key("10.2.0.0/16")], [key("10.2.2.0/24")]):
        made += [answer.attributes for answer in chain.run(TOR, attributes, nlris)]
    assert made[0] is made[3]
    assert made[1] is made[2] is attributes


def test_a_batch_with_one_fate_is_not_copied() -> None:
    """Where its lowest and highest key have it, so have all between them."""
    nlris: list[Nlri] = [key(f"10.1.{number}.0/24") for number in range(256)]
    filtering = of(Rule(prefix=ranges("10.0.0.0/8 24 32"), action="accept"))
    (answer,) = Chain([filtering], OURS).run(TOR, via("192.0.2.9"), nlris)
    assert answer.nlris is nlris


def test_attributes_are_looked_at_once_for_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many batches it comes in."""
    asked: list[PathAttributes] = []
    chain = Chain([of(Rule(action="accept", community=(Community("64512:7"),)))], OURS)
    (stage,) = chain._stages
    rule = stage._rules[0]
    tests = rule.tests

    def ask(held: PathAttributes) -> bool:
        asked.append(held)
        return tests[0](held)

    monkeypatch.setattr(rule, "tests", (ask,))
    for number in range(200):
        chain.run(TOR, RICH, [key(f"10.0.{number}.0/24")])
    assert asked == [RICH]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("10.0.0.0/8 8 8", "10.0.0.0/8"),
        ("10.0.0.0/8 8 24", "10.0.0.0/8 le 24"),
        ("10.0.0.0/8 8 32", "10.0.0.0/8 le 32"),
        ("10.0.0.0/8 24 32", "10.0.0.0/8 ge 24"),
        ("10.0.0.0/8 24 24", "10.0.0.0/8 ge 24 le 24"),
        ("10.0.0.1/32 32 32", "10.0.0.1/32"),
    ],
)
def test_a_range_is_shown_as_it_is_written(said: str, shown: str) -> None:
    """The shortest form."""
    assert str(ranges(said)[0]) == shown
