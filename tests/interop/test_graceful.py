"""What is kept of whom, over NOTIFICATIONs (RFC 8538) and for long (RFC 9494), with BIRD and FRR on the other end.

The pair of `test_neighbours`; restart times of seconds, so that what comes after them can be waited for.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest

from containerlab.lab import until
from tests.interop.pair import ASN, OURS, THEIR_ASN, THEIRS, Kind, Pair, configuration, kinds, ours, pair, went_down
from tests.interop.speakers import Bird, Frr, why_not
from tests.lab.cluster import Watch

STALE = {"65535:6", "llgr-stale"}  # as the two write it
BIRD, FRR = kinds(Bird, asns=[THEIR_ASN]), kinds(Frr, asns=[ASN])
OUTLIVING = [*BIRD, *FRR] if os.environ.get("BGPMESH_SOAK") else BIRD
PATIENT = "long_lived_graceful_restart = 600\ngraceful_restart = 3"


def long_lived(both: Pair) -> set[str]:
    """Return the prefixes of which we have a long-lived stale path, marked as such."""
    routes = both.ask("routes")
    return {
        route["prefix"]
        for route in (routes if isinstance(routes, list) else [])
        if any(path["long_lived_stale"] and "65535:6" in path["communities"] for path in route["paths"])
    }


def neighbour(both: Pair) -> Bird | Frr:
    """Return the other end."""
    assert isinstance(both.speaker, Bird | Frr)
    return both.speaker


def is_marked(both: Pair, prefix: str) -> bool:
    """Tell whether the neighbour has this prefix from us as a long-lived stale one."""
    heard = neighbour(both).heard(prefix)
    return heard is not None and bool(STALE & set(heard.communities))


@pytest.mark.parametrize("kind", OUTLIVING)
def test_a_neighbour_that_stays_away_is_outlived(kind: Kind) -> None:
    """Beyond its restart time its routes stay, marked; once it is back they are fresh, and it has ours."""
    with pair(
        kind, configuration(kind[1], options=PATIENT), lambda s: replace(s, graceful_restart=2, long_lived=600)
    ) as both:
        both.await_established()
        both.await_routes(OURS, THEIRS)
        watch = Watch(both.lab, "n1")
        both.speaker.kill()
        until(lambda: long_lived(both) == THEIRS, "all of its paths to be long-lived")
        assert both.kernel() == THEIRS
        assert ours(watch.end()) == []
        both.speaker.start()
        both.await_established()
        until(lambda: not both.stale(), "its paths to be fresh")
        both.await_routes(OURS, THEIRS)


@pytest.mark.parametrize("kind", OUTLIVING)
def test_we_are_outlived_by_a_neighbour(kind: Kind) -> None:
    """Killed with -9 and away beyond our restart time: it keeps our routes, marked; back again none was written."""
    with pair(kind, configuration(kind[1], options=PATIENT), partial(replace, long_lived=600)) as both:
        both.await_established()
        both.await_routes(OURS, THEIRS)
        watch = Watch(both.lab, "n1")
        both.ours.kill()
        until(lambda: is_marked(both, "10.1.0.0/24"), f"{both.speaker.name} to have marked our routes")
        assert neighbour(both).held() == OURS
        both.start()
        both.await_established()
        until(lambda: not is_marked(both, "10.1.0.0/24"), f"{both.speaker.name} to have fresh ones")
        both.await_routes(OURS, THEIRS)
        until(lambda: not both.stale(), "our restart to be over")
        assert ours(watch.end()) == []


# ── a reload that resets the session ─────────────────────────────────────────


_CLOCK = re.compile(r"\b(\d\d):(\d\d):(\d\d\.\d{3})\b")


def _clocks(table: str) -> list[float]:
    """Return the seconds of the day that BIRD prints of each route."""
    return [3600 * int(hour) + 60 * int(minute) + float(second) for hour, minute, second in _CLOCK.findall(table)]


@pytest.mark.parametrize("kind", BIRD)
def test_a_reload_that_resets_the_session_of_a_neighbour_without_rfc_8538(kind: Kind) -> None:
    """It has our routes as they came at first: for a NOTIFICATION it would have dropped them."""
    with pair(kind) as both:
        both.await_established()
        both.await_routes(OURS, THEIRS)
        assert isinstance(both.speaker, Bird)
        before, heard_at = both.speaker.table(), time.monotonic()
        until(lambda: time.monotonic() > heard_at + 2.0, "what comes again to be younger")
        both.reload(configuration(kind[1], options="hold_time = 12"))
        until(lambda: bool(went_down(both)), "the session to end")
        both.await_established()
        until(lambda: not both.stale(), "its paths to be fresh")
        both.await_routes(OURS, THEIRS)
        # BIRD works out what it prints of a route's age, and is some milliseconds off from one time to the next.
        until(lambda: _are_as_old(both, before), "the routes of before")


def _are_as_old(both: Pair, before: str) -> bool:
    """Tell whether BIRD has the routes that it had, as they came then."""
    assert isinstance(both.speaker, Bird)
    after = both.speaker.table()
    if _CLOCK.sub("", after) != _CLOCK.sub("", before):
        return False
    ages = [(a - b + 43_200) % 86_400 - 43_200 for a, b in zip(*map(_clocks, (after, before)), strict=True)]
    return bool(ages) and max(map(abs, ages)) < 1.0


# ── NOTIFICATION (RFC 8538) ──────────────────────────────────────────────────


@contextmanager
def surviving() -> Iterator[tuple[Pair, Frr]]:
    """Bring up a pair of which both sides keep a session's routes over a NOTIFICATION, with a hold time of 3 s."""
    theirs = partial(replace, survives_notification=True)
    with pair((Frr, ASN), configuration(ASN, options="hold_time = 3"), theirs) as both:
        assert isinstance(both.speaker, Frr)
        both.await_established()
        both.await_routes(OURS, THEIRS)
        yield both, both.speaker


needs_frr = pytest.mark.skipif(bool(why_not(Frr)), reason=f"frr: {why_not(Frr)}")


@needs_frr
def test_a_neighbour_that_is_frozen_loses_nothing() -> None:
    """Both hold timers expire and both sides keep what they have; no route is written."""
    with surviving() as (both, frr):
        watch = Watch(both.lab, "n1")
        frr.freeze()
        until(lambda: both.stale() == THEIRS, "all of its paths to be stale")
        assert "hold timer expired" in went_down(both)
        frr.thaw()
        both.await_established()
        until(lambda: not both.stale(), "its paths to be fresh")
        both.await_routes(OURS, THEIRS)
        assert ours(watch.end()) == []


@needs_frr
@pytest.mark.parametrize("is_hard", [False, True], ids=["gracefully", "hard"])
def test_a_session_that_the_neighbour_resets(is_hard: bool) -> None:
    """What it says decides whether its routes go: an administrative reset, plain or within a hard one."""
    with surviving() as (both, frr):
        if not is_hard:
            frr.configure(f"router bgp {ASN}", "no bgp hard-administrative-reset")
        watch = Watch(both.lab, "n1")
        frr.reset()
        until(lambda: "administrative reset" in went_down(both), "the reset")
        assert ("hard reset" in went_down(both)) is is_hard
        both.await_established()
        until(lambda: not both.stale(), "its paths to be fresh")
        both.await_routes(OURS, THEIRS)
        assert bool(ours(watch.end())) is is_hard


@needs_frr
def test_who_is_taken_out_of_the_configuration_forgets_us_at_once() -> None:
    """It hears a hard reset, and keeps none of our routes although it could for two minutes."""
    with surviving() as (both, frr):
        both.reload(configuration(ASN).partition("[peer.other]")[0])
        until(lambda: not frr.held(), "FRR to forget our routes")
        assert not both.kernel()
