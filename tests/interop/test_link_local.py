"""Sessions between link-local addresses (RFC 4007): both families go by next hops that are of the link alone.

n1: bgpmesh, AS 65001   fe80::1%eth1  --------  fe80::2%eth1   peer: BIRD or OpenBGPD

Or nobody says which addresses: who is at the other end of the link is found by router advertisements (RFC 4861).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from signal import SIGKILL

import pytest

from containerlab.lab import Lab, until
from tests.interop.pair import ASN, CONFIG, OURS, THEIR_ASN, THEIRS, Kind, Pair, configuration, kinds, pair
from tests.interop.speakers import Bird, Frr, GoBgp, OpenBgpd, Setup, link_local_of, why_not
from tests.lab.cluster import PROTOCOL, Watch, lab_of, next_hops_of

PLACE = """
address = "fe80::2%eth1"
source = "fe80::1%eth1"
"""
UNNUMBERED = 'interface = "eth1"'
ADVERTISING = """
router id 10.0.0.2;
protocol device { }
protocol radv { interface "eth1" { max ra interval 4; default lifetime 0; }; }
"""
OPTIONS = """
password = "of the link"
ttl_security = true
bfd = { interval_ms = 1000, multiplier = 20 }
"""


@contextmanager
def linked(kind: Kind, where: str = PLACE) -> Iterator[Pair]:
    """Bring a pair up whose session is between link-local addresses, fe80::1 and fe80::2."""

    def theirs(setup: Setup) -> Setup:
        return replace(
            setup,
            address6="fe80::2",
            neighbor="fe80::1%eth1",
            ipv6_next_hops=True,
            is_unnumbered=where == UNNUMBERED,
            password="of the link",  # noqa: S106  nobody's
            has_ttl_security=kind[1] == THEIR_ASN,
            bfd_ms=1000,
            bfd_multiplier=20,  # what is asked is whether there is a path: nobody is to lose it on a busy machine
        )

    options = OPTIONS if kind[1] == THEIR_ASN else OPTIONS.replace("ttl_security", "passive")
    with pair(kind, configuration(kind[1], options=options, where=where), theirs) as both:
        name_ends(both.lab)
        yield both


def name_ends(lab: Lab) -> None:
    """Give both ends addresses that can be said in a file, in place of those that the kernel has made."""
    for node, address in (("n1", "fe80::1/64"), ("peer", "fe80::2/64")):
        lab.exec(node, ["ip", "-6", "address", "flush", "dev", "eth1", "scope", "link"])
        lab.exec(node, ["ip", "address", "add", address, "dev", "eth1", "nodad"])


def written_by_a_restart(both: Pair) -> list[str]:
    """Kill our daemon, start it, and return what became of our kernel's routes until it was in sync."""
    watch = Watch(both.lab, "n1")
    both.ours.stop(SIGKILL)
    until(lambda: not both.speaker.is_established(), f"{both.speaker.name} to notice")
    until(both.speaker.is_settled, f"{both.speaker.name} to be past its own beginnings")
    both.start()
    both.await_established()
    until(lambda: dict(both.ask("status") or {}).get("in_sync"), "the restart to be over")  # type: ignore[call-overload]
    return watch.end()


@pytest.mark.parametrize("kind", kinds(Bird))
def test_both_families_go_by_the_link(kind: Kind) -> None:
    """With TCP MD5, BFD and (eBGP) GTSM, called or (iBGP) calling; a restart finds its routes again and writes none."""
    with linked(kind) as both:
        both.await_established()
        both.await_routes(OURS, THEIRS)
        for prefix in THEIRS:
            assert next_hops_of(both.lab, "n1", prefix) == {"fe80::2"}
        assert isinstance(both.speaker, Bird)
        for prefix in OURS:
            heard = both.speaker._ask(f"show route {prefix} all")
            assert "via fe80::1 on eth1" in heard
        until(lambda: both.peer()["bfd"] == "up", "BFD to see the path")
        assert written_by_a_restart(both) == []
        both.await_routes(OURS, THEIRS)


def say_router(both: Pair) -> None:
    """Have the neighbour's host say in router advertisements that it is there."""
    if why_not(Bird):
        pytest.skip(f"nobody to say so: {why_not(Bird)}")
    both.lab.write("peer", "/run/radv.conf", ADVERTISING)
    both.lab.start("peer", ["bird", "-f", "-c", "/run/radv.conf", "-s", "/run/radv.ctl"])


@pytest.mark.parametrize("kind", kinds(Frr, GoBgp))
def test_an_unnumbered_neighbour_is_found(kind: Kind) -> None:
    """FRR's `neighbor eth1 interface`, GoBGP's `neighbor-interface`: no address on either side; restarts write nothing.

    GoBGP finds us by our advertisements. It sends none, and asks its users to run a program beside it that does. Nor
    has it BFD.
    """
    has_bfd = kind[0] is Frr

    def theirs(setup: Setup) -> Setup:
        return replace(setup, neighbor="eth1", is_unnumbered=True, bfd_ms=1000 if has_bfd else 0, bfd_multiplier=20)

    options = "bfd = { interval_ms = 1000, multiplier = 20 }" if has_bfd else ""
    with pair(kind, configuration(kind[1], where=UNNUMBERED, options=options), theirs) as both:
        if kind[0] is GoBgp:
            say_router(both)
        both.await_established()
        both.await_routes(OURS, THEIRS)
        for prefix in THEIRS:
            assert next_hops_of(both.lab, "n1", prefix) == {link_local_of(both.lab, "peer")}
        if has_bfd:
            until(lambda: both.peer()["bfd"] == "up", "BFD to see the path")
        assert written_by_a_restart(both) == []
        both.await_routes(OURS, THEIRS)


def ipv6_of(prefixes: set[str]) -> set[str]:
    """Return those of IPv6."""
    return {prefix for prefix in prefixes if ":" in prefix}


@pytest.mark.parametrize("kind", kinds(OpenBgpd))
def test_ipv6_goes_by_the_link_also_without_ipv6_next_hops(kind: Kind) -> None:
    """OpenBGPD, by address: it has nothing like `interface`. Where it has no RFC 8950 it hears no IPv4 of ours.

    What 7.7 says of IPv4 has next hop 127.0.0.1, as on Linux it takes the first address of the host for its own; that
    is in no kernel.
    """

    def theirs(setup: Setup) -> Setup:
        return replace(setup, address6="fe80::2", neighbor="fe80::1%eth1")

    with pair(kind, configuration(kind[1], where=PLACE), theirs, name_ends) as both:
        both.await_established()
        heard = OURS if "extended-next-hop" in both.offered() else ipv6_of(OURS)
        until(lambda: both.speaker.received() == heard, f"it to have {sorted(heard)}")
        until(lambda: ipv6_of(both.kernel()) == ipv6_of(THEIRS), "its IPv6 prefixes in our kernel")
        for prefix in ipv6_of(THEIRS):
            assert next_hops_of(both.lab, "n1", prefix) == {"fe80::2"}
        assert written_by_a_restart(both) == []
        until(lambda: both.speaker.received() == heard, f"it to have {sorted(heard)} again")


@pytest.mark.parametrize("kind", kinds(Bird, asns=(THEIR_ASN,)))
def test_a_neighbour_that_advertises_itself_is_found(kind: Kind) -> None:
    """BIRD's protocol radv: it has a session with us by our address, and we with it by what it says."""
    with linked(kind, UNNUMBERED) as both:
        both.await_established()
        both.await_routes(OURS, THEIRS)
        assert both.peer()["address"] == "fe80::2%eth1"


def test_two_of_ours_find_each_other() -> None:
    """Who is killed is back at once, and neither kernel notices."""
    with lab_of("pair") as lab:
        started = {}
        for number, node, asn, prefixes in ((1, "n1", ASN, OURS), (2, "peer", THEIR_ASN, THEIRS)):
            text = configuration(ASN + THEIR_ASN - asn, prefixes, where=UNNUMBERED)
            text = text.replace(f"asn = {ASN}", f"asn = {asn}", 1).replace("[node.n1]", f"[node.{node}]")
            lab.write(node, CONFIG, text.replace("10.0.0.1", f"10.0.0.{number}"))
            started[node] = lab.start(node, ["bgpmesh", "run", "--config", CONFIG])
        until(lambda: lab.prefixes("n1", PROTOCOL) == THEIRS, "theirs")
        until(lambda: lab.prefixes("peer", PROTOCOL) >= {"10.1.0.0/24", "2001:db8:1::/64"}, "ours")
        watches = [Watch(lab, node) for node in ("n1", "peer")]
        started["n1"].stop(SIGKILL)
        again = lab.start("n1", ["bgpmesh", "run", "--config", CONFIG])
        again.until(lambda: "restart.in-sync" in again.output(), "the restart to be over")
        assert "restart.gave-up-waiting" not in again.output()
        assert [watch.end() for watch in watches] == [[], []]
