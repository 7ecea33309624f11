"""Extended messages (RFC 8654) and enhanced route refresh (RFC 7313) with BIRD and FRR.

n1: bgpmesh, AS 65001   10.0.0.1 2001:db8::1  --------  10.0.0.2 2001:db8::2   peer: BIRD or FRR, AS 65002
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from containerlab.lab import until
from tests.interop.pair import OURS, THEIR_ASN, THEIRS, Pair, configuration, pair
from tests.interop.speakers import Bird, Frr, Setup, each_of, why_not

MANY = 1500  # communities, of four octets each: more than a message of 4,096 octets holds
SPEAKERS = each_of(Bird, Frr)


def text(*, is_marked: bool) -> str:
    """Return our configuration; marked, what we announce carries as many communities."""
    marks = ", ".join(f'"64512:{number}"' for number in range(MANY))
    rest = f'[filter.marked]\n[[filter.marked.rule]]\naction = "accept"\nadd_community = [{marks}]'
    return configuration(THEIR_ASN, exports=("own", "marked") if is_marked else ("own",), rest=rest)


@contextmanager
def up(speaker: type[Bird | Frr], *, is_extended: bool = False, is_marked: bool = False) -> Iterator[Pair]:
    """Bring both up; `is_marked`: what either announces has more communities than 4,096 octets hold."""

    def theirs(setup: Setup) -> Setup:
        return replace(setup, is_extended=is_extended, marks_count=MANY if is_marked else 0)

    with pair((speaker, THEIR_ASN), text(is_marked=is_marked), theirs) as both:
        both.await_established()
        yield both


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_routes_that_need_extended_messages_go_both_ways(speaker: type[Bird | Frr]) -> None:
    """Attributes of 6,000 octets are heard by either side, whole."""
    with up(speaker, is_extended=True, is_marked=True) as both:
        assert "extended-message" in both.offered()
        both.await_routes(OURS, THEIRS)
        listed = both.ask("routes", "10.2.0.0/24")
        assert isinstance(listed, list)
        assert MANY == len(listed[0]["paths"][0]["communities"])
        assert isinstance(both.speaker, Bird | Frr)
        heard = both.speaker.heard("10.1.0.0/24")
        assert heard is not None
        assert "64512:0" in heard.communities  # neither prints all of that many


@pytest.mark.skipif(bool(why_not(Bird)), reason=f"bird: {why_not(Bird)}")
def test_a_neighbour_without_them_is_spared() -> None:
    """What only an extended message holds is not announced to it, and the session stands."""
    with up(Bird) as both:
        assert "extended-message" not in both.offered()
        both.await_routes(OURS, THEIRS)
        both.configure(text(is_marked=True))
        both.lab.exec("n1", ["bgpmesh", "reload"])
        both.await_routes(set(), THEIRS)
        assert both.peer()["last_error"] == ""


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_a_refresh_has_a_begin_and_an_end(speaker: type[Bird | Frr]) -> None:
    """Their requests are answered between BoRR and EoRR, what they say again between theirs keeps its routes."""
    with up(speaker) as both:
        assert "enhanced-route-refresh" in both.offered()
        both.await_routes(OURS, THEIRS)
        both.speaker.refresh()
        until(lambda: both.messages("out", "route-refresh") >= 4, "BoRR and EoRR of two families")
        both.await_routes(OURS, THEIRS)
        asked = both.messages("in", "route-refresh")
        assert isinstance(both.speaker, Bird | Frr)
        both.speaker.send_again()
        if speaker is Bird:  # FRR marks only what it was asked for
            until(lambda: both.messages("in", "route-refresh") >= asked + 4, "BoRR and EoRR of two families")
        both.await_routes(OURS, THEIRS)
        until(lambda: not both.stale(), "nothing stale")
        assert both.speaker.is_established()
