"""GTSM (RFC 5082) with every neighbour: a neighbour that has it, and one that has not.

n1: bgpmesh, AS 65001   10.0.0.1  --------  10.0.0.2   peer: AS 65002
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from containerlab.lab import until
from tests.interop.pair import THEIR_ASN, THEIRS, configuration, pair
from tests.interop.speakers import SPEAKERS, AnySpeaker, each_of

PLACES = [
    pytest.param(where, *each.values, id=f"{where.split()[0]}-{each.id}", marks=each.marks)
    for where, speakers in (
        ('address = "10.0.0.2"', SPEAKERS),
        ('range = "10.0.0.2/31"', SPEAKERS),  # never called, it is held to it once it has called
    )
    for each in each_of(*speakers)
]


@pytest.mark.parametrize(("where", "kind"), PLACES)
def test_who_might_be_far_away_is_not_heard(where: str, kind: type[AnySpeaker]) -> None:
    """Packets with another TTL than 255 are dropped by the kernel before we see them; with it there is a session."""
    text = configuration(THEIR_ASN, options="ttl_security = true", where=where)
    with pair((kind, THEIR_ASN), text) as both:
        suspected = "TTL security mismatch suspected: TCPMinTTLDrop rose by"
        until(lambda: suspected in str(both.ask("status")), suspected)
        assert both.peer().get("state") != "Established"
        both.speaker.stop()
        both.speaker.setup = replace(both.speaker.setup, has_ttl_security=True)
        both.speaker.start()
        both.await_established()
        until(lambda: both.kernel() >= THEIRS, "its prefixes in our kernel")
