"""Sessions between link-local addresses (RFC 4007): both families go by next hops that are of the link alone.

n1: bgpmesh, AS 65001   fe80::1%eth1  --------  fe80::2%eth1   peer: BIRD
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from signal import SIGKILL

import pytest

from containerlab.lab import until
from tests.interop.pair import OURS, THEIR_ASN, THEIRS, Kind, Pair, configuration, kinds, pair
from tests.interop.speakers import Bird, Setup
from tests.lab.cluster import Watch, next_hops_of

PLACE = """
address = "fe80::2%eth1"
source = "fe80::1%eth1"
"""
OPTIONS = """
password = "of the link"
ttl_security = true
bfd = { interval_ms = 100 }
"""


@contextmanager
def linked(kind: Kind) -> Iterator[Pair]:
    """Bring a pair up whose session is between link-local addresses."""

    def theirs(setup: Setup) -> Setup:
        return replace(
            setup,
            address6="fe80::2",
            neighbor="fe80::1%eth1",
            ipv6_next_hops=True,
            password="of the link",  # noqa: S106  nobody's
            has_ttl_security=kind[1] == THEIR_ASN,
            bfd_ms=100,
        )

    options = OPTIONS if kind[1] == THEIR_ASN else OPTIONS.replace("ttl_security", "passive")
    with pair(kind, configuration(kind[1], options=options, where=PLACE), theirs) as both:
        for node, address in (("n1", "fe80::1/64"), ("peer", "fe80::2/64")):
            both.lab.exec(node, ["ip", "address", "add", address, "dev", "eth1", "nodad"])
        yield both


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
        watch = Watch(both.lab, "n1")
        both.ours.stop(SIGKILL)
        both.start()
        both.await_established()
        until(lambda: dict(both.ask("status") or {}).get("in_sync"), "the restart to be over")  # type: ignore[call-overload]
        assert watch.end() == []
        both.await_routes(OURS, THEIRS)
