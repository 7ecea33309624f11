"""BGP roles (RFC 9234) with BIRD and FRR: right and wrong ones, and the mark that each puts on routes for the other.

n1: bgpmesh, AS 65001   10.0.0.1  --------  10.0.0.2   peer: BIRD or FRR, AS 65002
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import cast

import pytest

from containerlab.lab import until
from tests.interop.pair import ASN, THEIR_ASN, Pair, configuration, pair
from tests.interop.speakers import Bird, Frr, each_of

OWN = "203.0.113.7/32"
FORWARD = "10.2.0.0/24"
KINDS = each_of(Bird, Frr)


def related(kind: type[Bird | Frr], ours: str, theirs: str) -> AbstractContextManager[Pair]:
    """Bring both up in their roles."""
    text = configuration(THEIR_ASN, (OWN,), f'role = "{ours}"')
    return pair((kind, THEIR_ASN), text, lambda setup: replace(setup, role=theirs))


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_above_marks_what_goes_down(kind: type[Bird | Frr]) -> None:
    """As its provider we mark what it hears; as its customer we read the mark that it has put on what we hear."""
    with related(kind, "provider", "customer") as both:
        both.await_established()
        speaker = both.speaker
        assert isinstance(speaker, Bird | Frr)
        until(lambda: speaker.only_to_customer(OWN) == ASN, "our mark at the customer")
    with related(kind, "customer", "provider") as both:
        both.await_established()
        until(lambda: _marks(both) == [65002], "the provider's mark here")


def _marks(both: Pair) -> list[int]:
    routes = cast("list[dict[str, list[dict[str, dict[str, str]]]]]", both.ask("routes", FORWARD) or [])
    others = [path["other_attributes"] for route in routes for path in route["paths"]]
    return [int(other["35"], 16) for other in others if "35" in other]


@pytest.mark.parametrize("kind", KINDS)
def test_roles_that_do_not_fit_are_refused_in_words(kind: type[Bird | Frr]) -> None:
    """Two providers of one another: no session, and both say why."""
    with related(kind, "provider", "provider") as both:
        until(lambda: "role mismatch" in str(both.peer().get("last_error")), "the mismatch to be told")
        assert both.peer()["state"] != "Established"
