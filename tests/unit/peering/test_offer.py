"""What our OPEN says, and what is said of one that is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgpmesh.peering.message import (
    Capabilities,
    LongLived,
    Notification,
)
from bgpmesh.peering.offer import LocalRestart
from bgpmesh.peering.session import Session
from bgpmesh.route.nlri import Family
from tests.unit.peering.test_session import PEER, agreed, establish, make, notified


def test_the_f_bit_is_honest() -> None:
    """F is clear at a first boot, set with forwarding kept, and set for every later session of this daemon's life."""
    local = LocalRestart()
    session = make(local=local)
    assert _bits(session) == (False, {False})
    local.is_restarting = local.is_forwarding_kept = True
    assert _bits(session) == (True, {True})
    local.is_restarting = local.is_forwarding_kept = False
    establish(session)
    assert _bits(session) == (False, {True})


def _bits(session: Session) -> tuple[bool, set[bool]]:
    restart = session.open_message().capabilities.graceful_restart
    assert restart is not None
    return restart.is_restarting, {is_kept for _, is_kept in restart.families}


def test_a_family_without_a_next_hop_of_ours_is_not_offered() -> None:
    """IPv6 stays away where we have no IPv6 address to be the next hop."""
    session = make(replace(PEER, next_hops=PEER.next_hops[:1], graceful_restart=0))
    expected = Capabilities((Family.IPV4,), enhanced_refresh=True, extended_message=True, ipv6_next_hops=True)
    assert expected == session.open_message().capabilities


def test_our_open_has_the_n_bit() -> None:
    """Wherever it offers graceful restart."""
    restart = make().open_message().capabilities.graceful_restart
    assert restart is not None
    assert restart.survives_notification


def test_our_open_asks_for_it_only_where_configured() -> None:
    """Both families with the F bit of graceful restart, and never without that."""
    for restart, seconds, expected in (
        (120, 0, None),
        (0, 60, None),
        (120, 60, LongLived(((Family.IPV4, False, 60), (Family.IPV6, False, 60)))),
    ):
        session = make(replace(PEER, graceful_restart=restart, long_lived_graceful_restart=seconds))
        assert expected == session.open_message().capabilities.long_lived
    establish(session)
    assert session.open_message().capabilities.long_lived == LongLived(
        ((Family.IPV4, True, 60), (Family.IPV6, True, 60))
    )


@pytest.mark.parametrize(
    ("refusal", "text", "words"),
    [
        (Notification(2, 2), "", "AS mismatch: the peer says 65002, configured is 65001"),
        (Notification(2, 6), "hold time 2 s is below the minimum of 3 s", "hold time 2 s is below the minimum of 3 s"),
        (Notification(2, 3), "", "OPEN message error, bad BGP identifier"),
    ],
)
def test_a_refused_open(refusal: Notification, text: str, words: str) -> None:
    """The peer gets the NOTIFICATION that the negotiation gave, the operator the words."""
    session = make()
    session.start(0)
    session.connected(1, False, 0)
    outputs = session.open_received(1, agreed(session, asn=65002, refusal=refusal, text=text), 0)
    assert refusal == notified(outputs, 1)
    assert words == session.last_error


def test_an_as_that_is_right_is_not_blamed() -> None:
    """An OPEN whose two AS numbers disagree is refused as bad peer AS, with the right one in capability 65."""
    session = make()
    session.start(0)
    session.connected(1, False, 0)
    text = "ASN in OPEN (65009) did not match ASN expected (65001)"
    session.open_received(1, agreed(session, asn=65001, refusal=Notification(2, 2), text=text), 0)
    assert session.last_error == text
