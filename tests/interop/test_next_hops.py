"""IPv4 between nodes that have IPv6 addresses only, with BIRD and FRR (RFC 8950).

n1: bgpmesh, AS 65001   2001:db8::1  --------  2001:db8::2   peer: BIRD or FRR, AS 65001
"""

from __future__ import annotations

import pytest

from containerlab.lab import until
from tests.interop.pair import ASN, CONFIG, Pair
from tests.interop.speakers import Bird, Frr, Setup, each_of
from tests.lab.cluster import PROTOCOL, lab_of

OURS, THEIRS = "203.0.113.7/32", "10.2.0.0/24"
TEXT = f"""
[cluster]
asn = {ASN}
topology = "none"
hold_time = 9
[node.n1]
address = "2001:db8::1"
router_id = "10.0.0.1"
advertise = ["{OURS}"]
[peer.other]
address = "2001:db8::2"
asn = {ASN}
"""


@pytest.mark.parametrize(
    "kind",
    each_of(Bird, Frr),
)
def test_ipv4_goes_by_ipv6_next_hops(kind: type[Bird | Frr]) -> None:
    """Both ways: what they say is in our kernel, by way of their IPv6 address, and carries packets; they hear ours."""
    with lab_of("pair") as lab:
        setup = Setup(ASN, "10.0.0.2", "2001:db8::2", "2001:db8::1", ASN, announce=(THEIRS,), ipv6_next_hops=True)
        both = Pair(lab, kind(lab, "peer", setup))
        lab.exec("n1", ["ip", "address", "flush", "dev", "eth1", "scope", "global", "to", "10.0.0.0/8"])
        lab.exec("n1", ["ip", "address", "add", "203.0.113.7/32", "dev", "lo"])
        lab.exec("peer", ["ip", "address", "add", "10.2.0.1/32", "dev", "lo"])
        lab.write("n1", CONFIG, TEXT)
        both.start()
        both.speaker.start()
        both.await_established()
        until(lambda: OURS in both.speaker.received(), "our prefix to be heard")
        until(lambda: THEIRS in lab.prefixes("n1", PROTOCOL), "their prefix in our kernel")
        assert "via inet6 2001:db8::2" in lab.exec("n1", ["ip", "route", "get", "10.2.0.1"]).stdout
        # BIRD leaves its kernel alone here.
        lab.exec("peer", ["ip", "route", "replace", OURS, "via", "inet6", "2001:db8::1", "dev", "eth1"])
        reached = ["ping", "-c", "1", "-W", "1", "-I", "203.0.113.7", "10.2.0.1"]
        until(lambda: lab.exec("n1", reached, check=False).returncode == 0, "an answer", every_s=0.2)
