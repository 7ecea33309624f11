"""GTSM (RFC 5082) with every neighbour: a neighbour that has it, and one that has not.

n1: bgpmesh, AS 65001   10.0.0.1  --------  10.0.0.2   peer: AS 65002
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from containerlab.lab import Lab, until
from tests.interop.speakers import SPEAKERS, AnySpeaker, Setup, each_of
from tests.interop.test_neighbours import ASN, CONFIG, THEIRS, Pair
from tests.lab.cluster import PROTOCOL, lab_of

TEXT = f"""
[cluster]
asn = {ASN}
topology = "none"
hold_time = 9
[node.n1]
address = "10.0.0.1"
address6 = "2001:db8::1"
[peer.other]
address = "10.0.0.2"
asn = 65002
ttl_security = true
import = ["all"]
export = ["own"]
"""


@pytest.mark.parametrize("kind", each_of(*SPEAKERS))
def test_who_might_be_far_away_is_not_heard(kind: type[AnySpeaker]) -> None:
    """Packets with another TTL than 255 are dropped by the kernel before we see them; with it there is a session."""
    with lab_of("pair") as lab:
        setup = Setup(65002, "10.0.0.2", "2001:db8::2", "10.0.0.1", ASN, announce=tuple(sorted(THEIRS)))
        both = Pair(lab, kind(lab, "peer", setup))
        lab.write("n1", CONFIG, TEXT)
        both.start()
        both.speaker.start()
        until(lambda: dropped(lab) > 3, "packets of the wrong TTL")
        assert both.peer()["state"] != "Established"
        both.speaker.stop()
        both.speaker.setup = replace(setup, has_ttl_security=True)
        both.speaker.start()
        both.await_established()
        until(lambda: lab.prefixes("n1", PROTOCOL) >= THEIRS, "its prefixes in our kernel")


def dropped(lab: Lab) -> int:
    """Return how many packets the kernel of n1 has dropped for their TTL."""
    lines = lab.exec("n1", ["nstat", "-asz", "TcpExtTCPMinTTLDrop"]).stdout.splitlines()
    return int(lines[-1].split()[1])
