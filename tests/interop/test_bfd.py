"""BFD with the neighbours that have it: FRR's bfdd and BIRD, as iBGP and eBGP neighbours, over IPv4 and IPv6.

    n1: bgpmesh   10.0.0.1 2001:db8::1  --------  10.0.0.2 2001:db8::2   peer: one of the two

FRR takes an iBGP neighbour of its own subnet for a single hop, BIRD every one for multihop; what the neighbour does
is found out. The lab is containerlab/pair.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from time import sleep, time

import pytest

from containerlab.lab import REPOSITORY, Lab, Process, until
from tests.interop.speakers import Bird, Frr, Setup, why_not

IS_LONG = bool(os.environ.get("BGPMESH_SOAK"))
CONFIG = "/etc/bgpmesh/bgpmesh.toml"
ASN = 65001
OURS, THEIRS = {"10.1.0.0/24", "2001:db8:1::/64"}, {"10.2.0.0/24", "2001:db8:2::/64"}
# Processes may get no turn for long on a busy machine, the neighbours' BFD among them. A hold timer of 9 s that is set
# anew each 3 s is never sooner than the sum.
INTERVAL_MS, DETECTION_S, LATE_S = (100, 0.3, 0.7) if IS_LONG else (500, 1.5, 4.5)
PATIENCE = 1 if IS_LONG else 2  # times as long where nothing may go down

KINDS = [
    pytest.param(
        (speaker, asn, family),
        id=f"{speaker.name}-{relation}-ipv{family}",
        marks=pytest.mark.skipif(bool(why_not(speaker)), reason=f"{speaker.name}: {why_not(speaker)}"),
    )
    for speaker in (Frr, Bird)
    for relation, asn in (("ibgp", ASN), ("ebgp", 65002))
    for family in (4, 6)
    if IS_LONG or (relation, family) != ("ibgp", 6)
]
Kind = tuple[type[Bird | Frr], int, int]  # which speaker, its AS, and the family of the session


@dataclass
class Watched:
    """bgpmesh on n1, a speaker on peer, and BFD between them."""

    lab: Lab
    speaker: Bird | Frr
    daemon: Process = field(init=False)

    def start(self) -> None:
        """Start our daemon."""
        self.daemon = self.lab.start("n1", ["bgpmesh", "run", "--config", CONFIG])

    def peer(self) -> dict[str, object]:
        """Return our view of the peer, empty while nobody answers."""
        answer = self.lab.exec("n1", ["bgpmesh", "peers", "other", "--json"], check=False).stdout
        return dict(json.loads(answer)[0]) if answer.startswith("[") else {}

    def bfd(self) -> dict[str, object]:
        """Return our view of the path."""
        session = self.peer().get("bfd_session")
        return session if isinstance(session, dict) else {}

    def kernel(self) -> set[str]:
        """Return the prefixes of our routes in the kernel, but for our own."""
        words = ["sh", "-c", "ip -j -4 route show proto 77; ip -j -6 route show proto 77"]
        lines = self.lab.exec("n1", words).stdout.splitlines()
        return {row["dst"] for line in lines for row in json.loads(line)}

    def await_up(self) -> None:
        """Wait until session, path and routes are there at both ends."""
        until(lambda: self.peer().get("state") == "Established", "our session")
        until(self.speaker.is_established, "their session")
        until(lambda: self.peer().get("bfd") == "up", "our BFD")
        until(lambda: self.speaker.bfd().lower() == "up", "their BFD")
        until(lambda: self.kernel() == THEIRS, "their routes")
        until(lambda: self.speaker.received() == OURS, "our routes")

    def silence(self) -> float:
        """Have nothing pass any more, links up; return the second of that, by the clock on the wall."""
        self._filter("-A")
        return time()

    def down_at(self) -> float:
        """Return when our session ended last, by our log."""
        lines = [line for line in self.daemon.output().splitlines() if "peer.down" in line]
        return datetime.strptime(lines[-1][:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()  # noqa: DTZ007  it is local

    def hear_again(self) -> None:
        """Have everything pass again."""
        self._filter("-D")

    def _filter(self, action: str) -> None:
        rules = (
            f"{each} -w {action} {hook} -i eth1 -j DROP" for each in ("iptables", "ip6tables") for hook in ("INPUT",)
        )
        outwards = (f"{each} -w {action} OUTPUT -o eth1 -j DROP" for each in ("iptables", "ip6tables"))
        self.lab.exec("peer", ["sh", "-ec", "\n".join((*rules, *outwards))])


@contextmanager
def watched(kind: Kind, *, they_help_only: bool = False, patience: int = 1) -> Iterator[Watched]:
    """Bring both ends up, with a detection time that is so many times as long."""
    speaker, asn, family = kind
    own, other = (("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2"))[family == 6]
    with Lab(REPOSITORY / "containerlab/pair/pair.clab.yml") as lab:
        setup = Setup(
            asn=asn,
            address="10.0.0.2",
            address6="2001:db8::2",
            neighbor=own,
            neighbor_asn=ASN,
            bfd_ms=INTERVAL_MS,
            bfd_multiplier=3 * patience,
            helps_only=they_help_only,
            announce=tuple(sorted(THEIRS)),
        )
        text = f"""
[cluster]
asn = {ASN}
topology = "none"
[node.n1]
address = "10.0.0.1"
address6 = "2001:db8::1"
advertise = {json.dumps(sorted(OURS))}
[peer.other]
address = "{other}"
asn = {asn}
import = ["all"]
export = ["own"]
bfd = {{ interval_ms = {INTERVAL_MS}, multiplier = {3 * patience} }}
"""
        lab.write("n1", CONFIG, text)
        both = Watched(lab, speaker(lab, "peer", setup))
        both.start()
        both.speaker.start()
        both.await_up()
        yield both


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_neighbour_is_gone_within_the_detection_time_and_comes_back(kind: Kind) -> None:
    """Both ends have the rate that both wanted; nothing passes, and routes are gone at both; all is back after that."""
    speaker, asn, _ = kind
    with watched(kind) as both:
        until(lambda: both.bfd().get("detection_ms") == 3 * INTERVAL_MS, "the rate")
        seen = both.bfd()
        assert seen["interval_ms"] == INTERVAL_MS
        assert seen["single_hop"] is (asn != ASN or speaker is Frr)
        silent_at = both.silence()
        until(lambda: both.kernel() == set(), "their routes to go")
        assert both.down_at() - silent_at < DETECTION_S + LATE_S
        assert both.peer()["went_down"] == "BFD: control detection time expired"
        until(lambda: both.speaker.held() == set(), "our routes to go")
        both.hear_again()
        both.await_up()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "ipv4" in str(kind.id)])
def test_our_crash_is_nothing_to_the_neighbours_bfd(kind: Kind) -> None:
    """Killed with -9 the path stays up there and our routes are kept; the next daemon takes BFD over as it is."""
    with watched(kind, they_help_only=True, patience=PATIENCE) as both:
        since = both.speaker.bfd_since()
        assert since
        both.daemon.kill()
        until(lambda: not both.speaker.is_established(), "them to notice")
        sleep(2 * PATIENCE * DETECTION_S)
        assert (both.speaker.bfd().lower(), both.speaker.held(), both.kernel()) == ("up", OURS, THEIRS)
        both.start()
        both.await_up()
        assert since == both.speaker.bfd_since()
        assert "bfd.agent-found" in both.daemon.output()
        assert "bfd.down" not in both.daemon.output()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "ipv4" in str(kind.id)])
def test_bfd_of_a_neighbour_that_dies_with_it_says_nothing_of_the_path(kind: Kind) -> None:
    """All of it killed with -9 its routes are kept, since its BFD may have died with its BGP; it comes back to them."""
    with watched(kind) as both:
        assert both.bfd()["independent"] is False
        both.speaker.kill()
        until(lambda: both.peer().get("bfd") == "down", "BFD to notice")
        sleep(2 * DETECTION_S)
        assert both.kernel() == THEIRS
        both.speaker.start()
        both.await_up()


@pytest.mark.skipif(bool(why_not(Frr)), reason=f"frr: {why_not(Frr)}")
def test_a_neighbour_that_shuts_bfd_down_is_no_failure() -> None:
    """AdminDown is somebody's wish: our session stays; it matters again once it is up again."""
    with watched((Frr, 65002, 4)) as both:
        speaker = both.speaker
        assert isinstance(speaker, Frr)
        speaker.configure("bfd", "profile lab", "shutdown")
        # AdminDown is said once, and forgotten a detection time later: what was made of it stays in the log.
        shut = 'INFO bfd.down peer=other reason="neighbour signalled session down"'
        until(lambda: shut in both.daemon.output(), "BFD to be shut")
        sleep(2.0)
        assert (both.peer()["state"], both.kernel()) == ("Established", THEIRS)
        speaker.configure("bfd", "profile lab", "no shutdown")
        both.await_up()
        both.silence()
        until(lambda: both.kernel() == set(), "their routes to go")
