"""Filters, and what FRR and BIRD see of them: over iBGP and eBGP, and while they change.

n1: bgpmesh, AS 65001   10.0.0.1 2001:db8::1  --------  10.0.0.2 2001:db8::2   peer: FRR or BIRD
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest

from containerlab.lab import until
from tests.interop.pair import ASN, Kind, Pair, configuration, kinds, pair
from tests.interop.speakers import Bird, Frr, Heard
from tests.lab.cluster import Watch

MARK = "65002:7"
OWN = ("203.0.113.7/32", "10.1.0.0/24", "2001:db8:7::7/128")
KINDS = kinds(Bird, Frr)
FIRST = """
[filter.in]
[[filter.in.rule]]
prefix = "10.2.1.0/24"
action = "reject"
[[filter.in.rule]]
community = "65002:*"
action = "accept"
local_pref = 250
remove_community = "65002:*"
add_large_community = "65001:1:1"

[filter.out]
default = "accept"
[[filter.out.rule]]
prefix = "203.0.113.0/24 ge 32"
action = "accept"
add_community = ["65001:100", "no-export"]
add_large_community = "65001:2:3"
add_ext_community = "rt:65001:100"
local_pref = 321
med = 77
prepend = 2
[[filter.out.rule]]
prefix = "10.1.0.0/24"
action = "reject"
"""
SECOND = """
[filter.in]
[[filter.in.rule]]
prefix = "10.2.0.0/24"
action = "reject"
[[filter.in.rule]]
family = "ipv6"
action = "accept"
prefix = "2001:db8:2::/64"
local_pref = 250
add_large_community = "65001:1:1"
remove_community = "65002:7"
[[filter.in.rule]]
action = "accept"

[filter.out]
default = "accept"
[[filter.out.rule]]
prefix = "203.0.113.0/24 ge 32"
action = "reject"
"""


def text(kind: Kind, filters: str) -> str:
    """Return our configuration, with filters."""
    return configuration(kind[1], OWN, imports="in", exports=("own", "out"), rest=filters)


@contextmanager
def under(kind: Kind, filters: str) -> Iterator[Pair]:
    """Bring a pair up whose node has filters."""
    with pair(kind, text(kind, filters), lambda setup: replace(setup, mark=MARK)) as both:
        both.await_established()
        yield both


def first(kind: Kind) -> str:
    """Return the filters before; within the AS nothing is prepended, which would be a loop."""
    return FIRST if kind[1] != ASN else FIRST.replace("prepend = 2\n", "")


def in_brief(both: Pair, prefix: str) -> dict[str, object]:
    """Return what `routes --received` says of a prefix."""
    found = both.ask("routes", "--received", "other", prefix)
    assert isinstance(found, list)
    path = found[0]["paths"][0]
    after = path["after"] or {}
    keys = ("accepted", "filtered", "communities")
    return {key: path[key] for key in keys} | {
        f"{key} after": after.get(key) for key in ("local_pref", "communities", "large_communities")
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_export_says_they_see_and_what_import_says_we_have(kind: Kind) -> None:
    """Communities of all three kinds, MED, LOCAL_PREF within the AS and prepending without; rejected paths say why."""
    is_external = kind[1] != ASN
    with under(kind, first(kind)) as both:
        both.await_routes({"203.0.113.7/32", "2001:db8:7::7/128"}, {"10.2.0.0/24", "2001:db8:2::/64"})
        ext = {Frr: "RT:65001:100", Bird: "rt:65001:100"}[kind[0]]
        assert isinstance(both.speaker, Bird | Frr)
        heard = both.speaker.heard("203.0.113.7/32")
        path = "65001 65001 65001" if is_external else ""
        shown = "65535:65281" if kind[0] is Bird else "no-export"
        assert heard == Heard(
            path,
            "10.0.0.1",
            77,
            heard.local_pref if is_external and heard is not None else 321,
            tuple(sorted(("65001:100", shown))),
            ("65001:2:3",),
            (ext,),
        )
        plain = both.speaker.heard("2001:db8:7::7/128")
        assert plain is not None
        assert (plain.as_path, plain.communities, plain.local_pref) == (
            "65001" if is_external else "",
            (),
            plain.local_pref if is_external else 100,
        )
        assert in_brief(both, "10.2.0.0/24") == {
            "accepted": True,
            "filtered": "in rule 2",
            "communities": [MARK],
            "local_pref after": 250,
            "communities after": [],
            "large_communities after": ["65001:1:1"],
        }
        rejected = in_brief(both, "10.2.1.0/24")
        assert (rejected["accepted"], rejected["filtered"], rejected["local_pref after"]) == (False, "in rule 1", None)
        peer = both.peer()
        assert (peer["accepted"], peer["advertised"]) == (2, 2)
        assert int(str(peer["received"])) >= 3, "FRR sends an external neighbour its own routes too"


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_filters_changes_what_differs_and_nothing_else(kind: Kind) -> None:
    """No session is reset, no route is asked for again, and what stays as it was is not written again."""
    with under(kind, first(kind)) as both:
        both.await_routes({"203.0.113.7/32", "2001:db8:7::7/128"}, {"10.2.0.0/24", "2001:db8:2::/64"})
        before, sent = both.ask("peers", "other"), both.messages("out", "update")
        watch = Watch(both.lab, "n1")
        both.reload(text(kind, SECOND))
        both.await_routes({"10.1.0.0/24", "2001:db8:7::7/128"}, {"10.2.1.0/24", "2001:db8:2::/64"})
        after = both.ask("peers", "other")
        assert isinstance(before, list)
        assert isinstance(after, list)
        for key in ("transitions", "state"):
            assert before[0][key] == after[0][key]
        assert (both.messages("in", "route-refresh"), both.messages("out", "route-refresh")) == (0, 0)
        assert both.messages("out", "update") == sent + 2, "one announces, one withdraws"
        written = watch.end()
        assert not [line for line in written if "2001:db8:2::/64" in line]
        assert in_brief(both, "2001:db8:2::/64")["local_pref after"] == 250
        until(partial(is_as_before, both), "the other route as it was")


def is_as_before(both: Pair) -> bool:
    """Tell whether the route that no rule is about is still there."""
    assert isinstance(both.speaker, Bird | Frr)
    heard = both.speaker.heard("2001:db8:7::7/128")
    return heard is not None and heard.communities == ()
