"""A pair: bgpmesh and one neighbour, as iBGP or as eBGP; one session over IPv4 carries both families.

    n1: bgpmesh, AS 65001   10.0.0.1 2001:db8::1  --------  10.0.0.2 2001:db8::2   peer: the neighbour

The lab is containerlab/pair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from _pytest.mark import ParameterSet

from containerlab.lab import Lab, Process, until
from tests.interop.speakers import AnySpeaker, Setup, why_not
from tests.lab.cluster import PROTOCOL, lab_of, metrics

CONFIG = "/etc/bgpmesh/bgpmesh.toml"
ASN, THEIR_ASN = 65001, 65002  # theirs as an eBGP neighbour
OURS = {"203.0.113.7/32", "10.1.0.0/24", "2001:db8:1::/64", "2001:db8:7::7/128"}
THEIRS = {"10.2.0.0/24", "10.2.1.0/24", "2001:db8:2::/64"}

Kind = tuple[type[AnySpeaker], int]  # which speaker, and its AS


def kinds(*speakers: type[AnySpeaker], asns: Iterable[int] = (ASN, THEIR_ASN)) -> list[ParameterSet]:
    """Return the speakers as parameters of a test, each in each AS."""
    return [
        pytest.param(
            (speaker, asn),
            id=f"{speaker.name}-{'ibgp' if asn == ASN else 'ebgp'}",
            marks=pytest.mark.skipif(bool(why_not(speaker)), reason=f"{speaker.name}: {why_not(speaker)}"),
        )
        for speaker in speakers
        for asn in asns
    ]


def configuration(
    asn: int,
    advertise: Iterable[str] = OURS,
    options: str = "",
    *,
    where: str = 'address = "10.0.0.2"',
    imports: str = "all",
    exports: Iterable[str] = ("own",),
    rest: str = "",
) -> str:
    """Return ours: `options` are lines of the peer, whose AS is `asn` and place `where`, `rest` is what follows."""
    return f"""
[cluster]
asn = {ASN}
topology = "none"
hold_time = 9
[node.n1]
address = "10.0.0.1"
address6 = "2001:db8::1"
advertise = {sorted(advertise)}
[peer.other]
{where}
asn = {asn}
import = ["{imports}"]
export = {list(exports)}
{options}
{rest}
"""


@dataclass(slots=True)
class Pair:
    """bgpmesh on n1, a speaker on peer."""

    lab: Lab
    speaker: AnySpeaker
    ours: Process = field(init=False)

    def configure(self, text: str) -> None:
        """Write our configuration."""
        self.lab.write("n1", CONFIG, text)

    def reload(self, text: str) -> None:
        """Write our configuration and have it read."""
        self.configure(text)
        self.lab.exec("n1", ["bgpmesh", "reload"])

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

    def offered(self) -> list[str]:
        """Return the capabilities of the neighbour in words."""
        listed = self.ask("peers", "other")
        assert isinstance(listed, list)
        return list(listed[0]["capabilities"])

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


def went_down(both: Pair) -> str:
    """Return why our session has ended, however many calls have failed since."""
    found = both.ask("peers", "other")
    return str(found[0]["went_down"]) if isinstance(found, list) else ""


def ours(told: list[str]) -> list[str]:
    """Return what of that was of our protocol."""
    return [line for line in told if f"proto {PROTOCOL}" in line]


@contextmanager
def pair(
    kind: Kind,
    text: str = "",
    theirs: Callable[[Setup], Setup] = lambda setup: setup,
    before: Callable[[Lab], None] = lambda _: None,
) -> Iterator[Pair]:
    """Bring a pair up: both sides started, nothing awaited.

    `text` is our configuration, `theirs` changes its setup, and `before` is called with the lab before anything starts.
    """
    speaker, asn = kind
    with lab_of("pair") as lab:
        before(lab)
        setup = Setup(asn, "10.0.0.2", "2001:db8::2", "10.0.0.1", ASN, announce=tuple(sorted(THEIRS)))
        both = Pair(lab, speaker(lab, "peer", theirs(setup)))
        both.configure(text or configuration(asn))
        both.start()
        both.speaker.start()
        yield both
