"""What FRR and BIRD see of a node that leaves service, over iBGP and eBGP (RFC 8326, RFC 9003)."""

from __future__ import annotations

import pytest

from containerlab.lab import until
from tests.interop.pair import ASN, Kind, Pair, went_down
from tests.interop.speakers import Bird, Frr
from tests.interop.test_filters import KINDS, under

FILTERS = '[filter.in]\ndefault = "accept"\n[filter.out]\ndefault = "accept"\n'
OURS = {"203.0.113.7/32", "10.1.0.0/24", "2001:db8:7::7/128"}
TEXT = "moving räcks"
# FRR does not show the words that a hard reset carries (RFC 8538), which it asks for.
END = {Bird: ("Administrative shutdown", TEXT), Frr: ("Cease/Administrative Shutdown",)}
MARK = {Bird: "65535:0", Frr: "graceful-shutdown"}


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_see_the_mark_then_the_withdrawal_then_the_end(kind: Kind) -> None:
    """With its words; then all routes without the mark again, and what they say when they shut the session down."""
    is_external = kind[1] != ASN
    with under(kind, FILTERS) as both:
        speaker = both.speaker
        assert isinstance(speaker, Bird | Frr)
        until(lambda: both.speaker.received() == OURS, "our routes")
        drain = both.lab.start("n1", ["bgpmesh", "drain", "--limit", "600", "--below", "0"])
        until(lambda: marks(both) == {True}, "the mark")
        heard = speaker.heard("203.0.113.7/32")
        assert heard is not None
        # FRR obeys it by itself, BIRD by a filter.
        if not is_external or kind[0] is Frr:
            assert heard.local_pref == 0
        both.lab.exec("n1", ["bgpmesh", "drain", "--limit", "0", "--text", TEXT])
        assert drain.entry.wait(30) == 0
        until(lambda: all(words in speaker.end() for words in END[kind[0]]), "how it ended")
        until(lambda: both.speaker.held() == set(), "nothing of ours")
        assert both.ask("undrain") == {"state": "none", "waiting_for": {}}
        both.await_established()
        until(lambda: both.speaker.received() == OURS and marks(both) == {False}, "our routes without the mark")
        speaker.shut(TEXT)
        until(lambda: f"administrative shutdown: {TEXT}" in went_down(both), "the words of theirs")


def marks(both: Pair) -> set[bool]:
    """Return whether routes of ours are marked."""
    assert isinstance(both.speaker, Bird | Frr)
    heard = [both.speaker.heard(prefix) for prefix in sorted(OURS)]
    return {each is not None and MARK[type(both.speaker)] in each.communities for each in heard}
