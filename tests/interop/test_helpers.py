"""ExaBGP's own healthcheck as a program of ours, and what a neighbour hears of it.

n1: bgpmesh with two healthchecks, AS 65001   10.0.0.1  --------  10.0.0.2   peer: BIRD or FRR
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from signal import SIGKILL, SIGTERM

import pytest

from containerlab.lab import until
from tests.interop.pair import ASN, CONFIG, THEIR_ASN, THEIRS, Kind, Pair, configuration, kinds, pair
from tests.interop.speakers import Bird, Frr, Setup, each_of
from tests.lab.cluster import lab_of, metrics

PROGRAMS = "[process.metric]\nrun = %s\n[process.withdrawing]\nrun = %s\n"
KEPT, WITHDRAWN = "203.0.113.10/32", "203.0.113.20/32"
UP, DOWN = 100, 1000
WELL = "/run/bgpmesh/well"


def healthcheck(prefix: str, *more: str) -> str:
    """Return the command, as TOML: the service is well while a file is there."""
    options = ["--ip", prefix, "--no-ip-setup", "--no-syslog", "--interval", "0.2", "--fast-interval", "0.1"]
    options += ["--rise", "1", "--fall", "1", "--community", "65002:7", "--cmd", f"test -e {WELL}"]
    return json.dumps([sys.executable, "-m", "exabgp", "healthcheck", *options, *more])


@contextmanager
def checked(kind: Kind) -> Iterator[Pair]:
    """Bring a pair up whose node has two healthchecks."""
    programs = PROGRAMS % (healthcheck(KEPT), healthcheck(WITHDRAWN, "--withdraw-on-down"))
    with pair(kind, configuration(kind[1], (), rest=programs)) as both:
        both.lab.write("n1", WELL, "")
        both.await_established()
        yield both


def med(both: Pair, prefix: str) -> int | None:
    """Return the MED that the neighbour has heard, None where it has no such prefix."""
    assert isinstance(both.speaker, Bird | Frr)
    heard = both.speaker.heard(prefix)
    return None if heard is None else heard.med


def helpers_alive(both: Pair) -> list[str]:
    """Return the healthchecks that run in the lab."""
    listed = both.lab.exec("n1", ["ps", "-eo", "pid,args"]).stdout.splitlines()
    return [line for line in listed if "healthcheck" in line and "ps -eo" not in line]


@pytest.mark.parametrize("kind", [*kinds(Bird, asns=[THEIR_ASN]), *kinds(Frr, asns=[ASN])])
def test_healthcheck_is_heard_by_a_neighbour(kind: Kind) -> None:
    """Announced while the service is well; else with a higher MED, or withdrawn; and nothing of it outlives us."""
    with checked(kind) as both:
        until(lambda: (med(both, KEPT), med(both, WITHDRAWN)) == (UP, UP), "both to be announced")
        assert isinstance(both.speaker, Bird | Frr)
        heard = both.speaker.heard(KEPT)
        assert heard is not None
        assert (heard.communities, heard.next_hop) == (("65002:7",), "10.0.0.1")
        both.lab.exec("n1", ["rm", WELL])
        until(lambda: (med(both, KEPT), med(both, WITHDRAWN)) == (DOWN, None), "the service to be down")
        both.lab.write("n1", WELL, "")
        until(lambda: (med(both, KEPT), med(both, WITHDRAWN)) == (UP, UP), "the service to be up again")
        page = metrics(both.lab, "n1")
        assert 'bgpmesh_process_up{process="metric"} 1.0' in page
        assert 'bgpmesh_process_routes{process="metric"} 1.0' in page
        # A daemon that is killed leaves none of them, and its next life announces before it says End-of-RIB.
        assert helpers_alive(both)
        until(lambda: both.kernel() == THEIRS, "a kernel by which a restart is told from a first boot")
        both.ours.stop(SIGKILL)
        until(lambda: not helpers_alive(both), "the healthchecks to end")
        assert both.speaker.held() == {KEPT, WITHDRAWN}
        both.start()
        told = [med(both, KEPT)]
        until(partial(sees_established, both, told), "the session to be back")
        until(lambda: dict(both.ask("status") or {}).get("ready"), "n1 to be ready")  # type: ignore[call-overload]
        assert set(told) == {UP}
        both.ours.stop(SIGTERM)
        assert not helpers_alive(both)
        assert both.speaker.held() == {KEPT, WITHDRAWN}


GATED = """
[cluster]
asn = 65001
topology = "none"
hold_time = 9
restart_deferral = 100
[node.n1]
address = "10.0.0.1"
[peer.other]
address = "10.0.0.2"
asn = 65002
import = ["none"]
export = ["own"]
[process.slow]
run = ["/run/bgpmesh/slow"]
"""
SLOW = f"""#!/bin/sh
for step in "1 {KEPT}" "2 {WITHDRAWN}"; do
    until test -e /run/bgpmesh/go${{step%% *}}; do sleep 0.1; done
    echo "announce route ${{step#* }} next-hop self"
done
exec sleep 600
"""


@pytest.mark.parametrize("kind", each_of(Bird, Frr))
def test_nothing_is_withdrawn_of_a_node_that_is_killed_before_it_has_learnt_a_route(kind: type[Bird | Frr]) -> None:
    """Nor between the first word of a program and the last that it had said."""
    with lab_of("pair") as lab:
        setup = Setup(65002, "10.0.0.2", "2001:db8::2", "10.0.0.1", ASN, announce=("10.2.0.0/24",))
        other = kind(lab, "peer", setup)
        both = Pair(lab, other)
        lab.write("n1", CONFIG, GATED)
        lab.write("n1", "/run/bgpmesh/slow", SLOW)
        lab.exec("n1", ["chmod", "+x", "/run/bgpmesh/slow"])
        for gate in (1, 2):
            lab.write("n1", f"/run/bgpmesh/go{gate}", "")
        both.start()
        other.start()
        until(lambda: other.received() == {KEPT, WITHDRAWN}, "both to be announced")
        assert both.kernel() == set()
        both.ours.stop(SIGKILL)
        lab.exec("n1", ["rm", "/run/bgpmesh/go1", "/run/bgpmesh/go2"])
        both.start()
        both.await_established()
        until(lambda: waits_for(both) == "process slow: it has said nothing yet", "it to be waited for")
        assert other.held() == {KEPT, WITHDRAWN}
        lab.write("n1", "/run/bgpmesh/go1", "")
        until(lambda: waits_for(both) == "process slow: 1 of 2 prefixes are not said again yet", "the first")
        assert other.held() == {KEPT, WITHDRAWN}
        lab.write("n1", "/run/bgpmesh/go2", "")
        until(lambda: waits_for(both) == "", "the node to be ready")
        assert other.held() == {KEPT, WITHDRAWN}


def waits_for(both: Pair) -> str:
    """Return for whom alone our node is not ready, "" where it is; ".." while it does not say."""
    status = both.ask("status")
    reasons = status.get("reasons", [".."]) if isinstance(status, dict) else [".."]
    return "; ".join(map(str, reasons)).removeprefix("not in sync after a restart: waiting for ")


def sees_established(both: Pair, told: list[int | None]) -> bool:
    """Tell whether the session is back, and take note of what the neighbour has of the prefix meanwhile."""
    told.append(med(both, KEPT))
    return both.peer().get("state") == "Established" and both.speaker.is_established()
