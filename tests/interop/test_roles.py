"""BGP roles (RFC 9234) with BIRD and FRR: right and wrong ones, and the mark that each puts on routes for the other.

n1: bgpmesh, AS 65001   10.0.0.1  --------  10.0.0.2   peer: BIRD or FRR, AS 65002
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from containerlab.lab import until
from tests.interop.speakers import Bird, Frr, Setup, each_of
from tests.interop.test_neighbours import ASN, CONFIG, THEIRS, Pair
from tests.lab.cluster import lab_of

OWN = "203.0.113.7/32"
FORWARD = "10.2.0.0/24"
KINDS = each_of(Bird, Frr)


def text(role: str) -> str:
    """Return our configuration."""
    return f"""
[cluster]
asn = {ASN}
topology = "none"
hold_time = 9
[node.n1]
address = "10.0.0.1"
address6 = "2001:db8::1"
advertise = ["{OWN}"]
[peer.other]
address = "10.0.0.2"
asn = 65002
role = "{role}"
import = ["all"]
export = ["own"]
"""


@contextmanager
def pair(kind: type[Bird | Frr], ours: str, theirs: str) -> Iterator[Pair]:
    """Bring both up."""
    with lab_of("pair") as lab:
        setup = Setup(65002, "10.0.0.2", "2001:db8::2", "10.0.0.1", ASN, announce=tuple(sorted(THEIRS)), role=theirs)
        both = Pair(lab, kind(lab, "peer", setup))
        lab.write("n1", CONFIG, text(ours))
        both.start()
        both.speaker.start()
        yield both


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_above_marks_what_goes_down(kind: type[Bird | Frr]) -> None:
    """As its provider we mark what it hears; as its customer we read the mark that it has put on what we hear."""
    with pair(kind, "provider", "customer") as both:
        both.await_established()
        speaker = both.speaker
        assert isinstance(speaker, Bird | Frr)
        until(lambda: speaker.only_to_customer(OWN) == ASN, "our mark at the customer")
    with pair(kind, "customer", "provider") as both:
        both.await_established()
        until(lambda: _marks(both) == [65002], "the provider's mark here")


def _marks(both: Pair) -> list[int]:
    routes = cast("list[dict[str, list[dict[str, dict[str, str]]]]]", both.ask("routes", FORWARD) or [])
    others = [path["other_attributes"] for route in routes for path in route["paths"]]
    return [int(other["35"], 16) for other in others if "35" in other]


@pytest.mark.parametrize("kind", KINDS)
def test_roles_that_do_not_fit_are_refused_in_words(kind: type[Bird | Frr]) -> None:
    """Two providers of one another: no session, and both say why."""
    with pair(kind, "provider", "provider") as both:
        until(lambda: "role mismatch" in str(both.peer().get("last_error")), "the mismatch to be told")
        assert both.peer()["state"] != "Established"
