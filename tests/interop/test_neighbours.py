"""bgpmesh and the neighbours people have: BIRD, FRR, GoBGP and OpenBGPD, as iBGP and as eBGP."""

from __future__ import annotations

from dataclasses import replace

import pytest

from containerlab.lab import until
from tests.interop.pair import OURS, THEIRS, Kind, configuration, kinds, ours, pair
from tests.interop.speakers import SPEAKERS, Setup
from tests.lab.cluster import Watch


def keyed(asn: int, password: str) -> str:
    """Return our configuration with a password."""
    return configuration(asn, options=f'password = "{password}"')


def helping(setup: Setup) -> Setup:
    """Return the setup of one that only helps; FRR forgets our graceful restart where both have called at once."""
    return replace(setup, helps_only=True, is_passive=True)


@pytest.mark.parametrize("kind", kinds(*SPEAKERS))
def test_routes_of_both_families_go_both_ways_and_are_withdrawn(kind: Kind) -> None:
    """What either side announces the other has, with a next hop that works; what it withdraws is gone there."""
    with pair(kind) as both:
        both.await_established()
        both.await_routes(OURS, THEIRS)
        for family, prefix, next_hop in (("-4", "10.2.0.0/24", "10.0.0.2"), ("-6", "2001:db8:2::/64", "2001:db8::2")):
            printed = both.lab.exec(
                "n1", ["ip", family, "route", "get", prefix.replace("/", "1/").split("/")[0]]
            ).stdout
            assert f"via {next_hop} dev eth1" in printed
        both.speaker.withdraw("10.2.1.0/24")
        both.speaker.withdraw("2001:db8:2::/64")
        both.speaker.announce("2001:db8:22::/64")
        now = {"203.0.113.8/32", "10.1.0.0/24", "2001:db8:1::/64"}
        both.reload(configuration(kind[1], now))
        both.await_routes(now, {"10.2.0.0/24", "2001:db8:22::/64"})


@pytest.mark.parametrize("kind", kinds(*(each for each in SPEAKERS if each.asks_refresh)))
def test_a_route_refresh_is_answered_with_everything(kind: Kind) -> None:
    """Each family that is asked for again is sent again (RFC 2918), and nothing is lost over it."""
    with pair(kind) as both:
        both.await_established()
        both.await_routes(OURS, THEIRS)
        sent = both.messages("out", "update")
        both.speaker.refresh()
        until(lambda: both.messages("in", "route-refresh") >= 2, "ROUTE-REFRESH of two families")
        until(lambda: both.messages("out", "update") >= sent + 2, "the UPDATEs of two families")
        both.await_routes(OURS, THEIRS)


@pytest.mark.parametrize("kind", kinds(*(each for each in SPEAKERS if each.keeps_forwarding)))
def test_a_neighbour_that_crashes_keeps_its_routes_here(kind: Kind) -> None:
    """Killed with -9 its paths are stale and forward on; back again they are fresh, and no route was written."""
    with pair(kind) as both:
        both.await_established()
        both.await_routes(OURS, THEIRS)
        watch = Watch(both.lab, "n1")
        both.speaker.kill()
        until(lambda: both.stale() == THEIRS, "all of its paths to be stale")
        assert both.kernel() == THEIRS
        both.speaker.start()
        both.await_established()
        until(lambda: not both.stale(), "its paths to be fresh")
        both.await_routes(OURS, THEIRS)
        assert ours(watch.end()) == []


@pytest.mark.parametrize("kind", kinds(*(each for each in SPEAKERS if not each.keeps_forwarding)))
def test_a_neighbour_that_promises_nothing_loses_its_routes(kind: Kind) -> None:
    """One whose restart capability lists no family (RFC 4724 section 3) is not waited for."""
    with pair(kind) as both:
        both.await_established()
        both.await_routes(OURS, THEIRS)
        both.speaker.kill()
        until(lambda: not both.kernel(), "its routes to go")
        both.speaker.start()
        both.await_established()
        both.await_routes(OURS, THEIRS)


@pytest.mark.parametrize("kind", kinds(*SPEAKERS))
def test_our_crash_is_helped_by_the_neighbour(kind: Kind) -> None:
    """Killed with -9 we keep our kernel's routes and they keep ours; started again, nothing was written."""
    with pair(kind, theirs=helping) as both:
        both.await_established()
        both.await_routes(OURS, THEIRS)
        watch = Watch(both.lab, "n1")
        both.ours.kill()
        until(lambda: not both.speaker.is_established(), f"{both.speaker.name} to notice")
        until(lambda: both.speaker.held() == OURS, f"{both.speaker.name} to keep ours")
        assert both.kernel() == THEIRS
        until(both.speaker.is_settled, f"{both.speaker.name} to be past its own beginnings")
        both.start()
        both.await_established()
        both.await_routes(OURS, THEIRS)
        until(lambda: not both.stale(), "our restart to be over")
        assert ours(watch.end()) == []


@pytest.mark.parametrize("kind", kinds(*(each for each in SPEAKERS if each.has_md5)))
def test_md5_right_and_wrong(kind: Kind) -> None:
    """With differing keys nothing is established and the reason says MD5; with the same key everything is."""
    wrong, right = "one-key", "another-key"
    asn = kind[1]
    with pair(kind, keyed(asn, wrong), lambda setup: replace(setup, password=right)) as both:
        until(lambda: "MD5" in str(both.peer().get("last_error")), "the reason to name MD5")
        assert both.peer()["state"] != "Established"
        assert not both.speaker.is_established()
        both.reload(keyed(asn, right))
        both.await_established()
        both.await_routes(OURS, THEIRS)
