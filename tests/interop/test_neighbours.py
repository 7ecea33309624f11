"""bgpmesh and the neighbours people have: BIRD, FRR, GoBGP and OpenBGPD, as iBGP and as eBGP.

    n1: bgpmesh, AS 65001   10.0.0.1 2001:db8::1  --------  10.0.0.2 2001:db8::2   peer: one of the four

One session over IPv4 carries both families. The lab is containerlab/pair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from containerlab.lab import Lab, Process, until
from tests.interop.speakers import SPEAKERS, AnySpeaker, Setup, why_not
from tests.lab.cluster import PROTOCOL, Watch, lab_of, metrics

CONFIG = "/etc/bgpmesh/bgpmesh.toml"
ASN = 65001
OURS = {"203.0.113.7/32", "10.1.0.0/24", "2001:db8:1::/64", "2001:db8:7::7/128"}
THEIRS = {"10.2.0.0/24", "10.2.1.0/24", "2001:db8:2::/64"}

Kind = tuple[type[AnySpeaker], int]  # which speaker, and its AS


def _kinds(holds: Callable[[type[AnySpeaker]], bool] = lambda _: True) -> list[object]:
    """Return the speakers for which `holds`, each as iBGP and as eBGP neighbour."""
    return [
        pytest.param(
            (speaker, asn),
            id=f"{speaker.name}-{relation}",
            marks=pytest.mark.skipif(bool(why_not(speaker)), reason=f"{speaker.name}: {why_not(speaker)}"),
        )
        for speaker in SPEAKERS
        if holds(speaker)
        for relation, asn in (("ibgp", ASN), ("ebgp", 65002))
    ]


@dataclass(slots=True)
class Pair:
    """bgpmesh on n1, a speaker on peer."""

    lab: Lab
    speaker: AnySpeaker
    ours: Process = field(init=False)

    def configure(self, prefixes: set[str], password: str = "", options: str = "") -> None:
        """Write our configuration: what we announce, the password of the session, and more lines of the peer."""
        listed = ", ".join(f'"{prefix}"' for prefix in sorted(prefixes))
        text = f"""
[cluster]
asn = {ASN}
topology = "none"
hold_time = 9
[node.n1]
address = "10.0.0.1"
address6 = "2001:db8::1"
advertise = [{listed}]
[peer.other]
address = "10.0.0.2"
asn = {self.speaker.setup.asn}
import = ["all"]
export = ["own"]
{f'password = "{password}"' if password else ""}
{options}
"""
        self.lab.write("n1", CONFIG, text)

    def start(self) -> None:
        """Start our daemon."""
        self.ours = self.lab.start("n1", ["bgpmesh", "run", "--config", CONFIG])

    def await_established(self) -> None:
        """Wait until both ends say Established."""
        until(lambda: self.peer().get("state") == "Established", "bgpmesh to be Established")
        until(self.speaker.is_established, f"{self.speaker.name} to be Established")

    def await_routes(self, ours: set[str], theirs: set[str]) -> None:
        """Wait until they have exactly `ours`, and our kernel exactly `theirs`."""
        until(lambda: self.speaker.received() == ours, f"{self.speaker.name} to have {sorted(ours)}")
        until(lambda: self.kernel() == theirs, f"our kernel to have {sorted(theirs)}")

    def ask(self, *words: str) -> object:
        """Return what one of our commands answers, None while nobody does."""
        answer = self.lab.exec("n1", ["bgpmesh", *words, "--json"], check=False).stdout
        return json.loads(answer) if answer else None

    def peer(self) -> dict[str, object]:
        """Return our view of the session."""
        status = self.ask("status")
        peers = status.get("peers") if isinstance(status, dict) else None
        return dict(peers[0]) if peers else {}

    def kernel(self) -> set[str]:
        """Return the prefixes of our kernel's routes of ours."""
        return self.lab.prefixes("n1", PROTOCOL)

    def stale(self) -> set[str]:
        """Return the prefixes whose best path is of a neighbour that is away."""
        routes = self.ask("routes")
        return {
            route["prefix"]
            for route in (routes if isinstance(routes, list) else [])
            if any(path["stale"] and path["best"] for path in route["paths"])
        }

    def messages(self, direction: str, kind: str) -> int:
        """Return how many messages of a kind our metrics have counted."""
        page = metrics(self.lab, "n1")
        found = re.search(
            rf'^bgpmesh_messages_total{{direction="{direction}",type="{kind}"}} (\S+)$', page, re.MULTILINE
        )
        return int(float(found[1])) if found else 0


def ours(told: list[str]) -> list[str]:
    """Return what of that was of our protocol."""
    return [line for line in told if f"proto {PROTOCOL}" in line]


@contextmanager
def pair(
    kind: Kind,
    *,
    password: str = "",
    their_password: str = "",
    they_help_only: bool = False,
    options: str = "",
    theirs: Callable[[Setup], Setup] = lambda setup: setup,
) -> Iterator[Pair]:
    """Bring a pair up: both sides started, nothing awaited; `options` are lines of our peer, `theirs` changes it."""
    speaker, asn = kind
    with lab_of("pair") as lab:
        setup = Setup(
            asn=asn,
            address="10.0.0.2",
            address6="2001:db8::2",
            neighbor="10.0.0.1",
            neighbor_asn=ASN,
            password=their_password,
            helps_only=they_help_only,
            # FRR forgets that we offered graceful restart where both have called at once.
            is_passive=they_help_only,
            announce=tuple(sorted(THEIRS)),
        )
        both = Pair(lab, speaker(lab, "peer", theirs(setup)))
        both.configure(OURS, password, options)
        both.start()
        both.speaker.start()
        yield both


@pytest.mark.parametrize("kind", _kinds())
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
        both.configure({"203.0.113.8/32", "10.1.0.0/24", "2001:db8:1::/64"})
        both.lab.exec("n1", ["bgpmesh", "reload"])
        both.await_routes({"203.0.113.8/32", "10.1.0.0/24", "2001:db8:1::/64"}, {"10.2.0.0/24", "2001:db8:22::/64"})


@pytest.mark.parametrize("kind", _kinds(lambda speaker: speaker.asks_refresh))
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


@pytest.mark.parametrize("kind", _kinds(lambda speaker: speaker.keeps_forwarding))
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


@pytest.mark.parametrize("kind", _kinds(lambda speaker: not speaker.keeps_forwarding))
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


@pytest.mark.parametrize("kind", _kinds())
def test_our_crash_is_helped_by_the_neighbour(kind: Kind) -> None:
    """Killed with -9 we keep our kernel's routes and they keep ours; started again, nothing was written."""
    with pair(kind, they_help_only=True) as both:
        both.await_established()
        both.await_routes(OURS, THEIRS)
        watch = Watch(both.lab, "n1")
        both.ours.kill()
        until(lambda: not both.speaker.is_established(), f"{both.speaker.name} to notice")
        until(lambda: both.speaker.received() == OURS, f"{both.speaker.name} to keep ours")
        assert both.kernel() == THEIRS
        until(both.speaker.is_settled, f"{both.speaker.name} to be past its own beginnings")
        both.start()
        both.await_established()
        both.await_routes(OURS, THEIRS)
        until(lambda: not both.stale(), "our restart to be over")
        assert ours(watch.end()) == []


@pytest.mark.parametrize("kind", _kinds(lambda speaker: speaker.has_md5))
def test_md5_right_and_wrong(kind: Kind) -> None:
    """With differing keys nothing is established and the reason says MD5; with the same key everything is."""
    wrong, right = "one-key", "another-key"
    with pair(kind, password=wrong, their_password=right) as both:
        until(lambda: "MD5" in str(both.peer().get("last_error")), "the reason to name MD5")
        assert both.peer()["state"] != "Established"
        assert not both.speaker.is_established()
        both.configure(OURS, right)
        both.lab.exec("n1", ["bgpmesh", "reload"])
        both.await_established()
        both.await_routes(OURS, THEIRS)
