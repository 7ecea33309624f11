"""The table of RFC 7606 against the codec and the session machine."""

from __future__ import annotations

import ipaddress

import pytest

from bgpmesh.peering.connection import State
from bgpmesh.peering.message import Capabilities, Keepalive, Negotiated, Notification, Open
from bgpmesh.peering.offer import LocalRestart
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.session import Hangup, Send, Session
from bgpmesh.route.attributes import Asn, Origin, RouterId
from bgpmesh.route.nlri import Family, parse_nlri
from bgpmesh.route.path import PeerName, Role
from bgpmesh.wire.codec import Codec, Garbage, Routes
from tests.malformed import ASN, ROWS, Row, Sender

FAMILIES = (Family.IPV4, Family.IPV6)
OURS = Open(Asn(ASN), 90, RouterId(1), Capabilities(families=FAMILIES))


def peer_of(sender: Sender) -> Peer:
    """Return the peer that a sender is."""
    role = Role.EXTERNAL if sender.is_external else Role.NON_CLIENT
    address = ipaddress.ip_address(sender.address)
    return Peer(
        PeerName(sender.name),
        address,
        Asn(sender.asn),
        role,
        address,
        OURS.asn,
        OURS.router_id,
        enforce_first_as=sender.is_external,
    )


def established(sender: Sender) -> tuple[Codec, Negotiated]:
    """Return a codec past the OPENs, and what they agreed on."""
    codec = Codec(peer_of(sender))
    codec.encode(OURS)
    offered = Capabilities(families=FAMILIES, four_octet_asn=not sender.is_two_octet)
    theirs = Codec(peer_of(sender)).encode(Open(Asn(sender.asn), 90, RouterId(2), offered))
    (negotiated,) = codec.feed(theirs, 0.0)
    assert isinstance(negotiated, Negotiated)
    return codec, negotiated


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_of_the_table(row: Row) -> None:
    """What is wrong with an UPDATE comes to what the RFC says, is counted and named, and goes no further."""
    codec, _ = established(row.sender)
    nlri = parse_nlri(row.prefix())
    table: dict[object, Origin] = {}
    counted, words = [0, 0], ""
    notification = (0, 0)
    for said in (*codec.feed(row.before(), 0.0), *codec.feed(row.update(), 0.0)):
        if isinstance(said, Garbage):
            notification, words = (said.notification.code, said.notification.subcode), said.text
            continue
        assert isinstance(said, Routes)
        counted[0] += said.treated_as_withdraw
        counted[1] += said.attributes_discarded
        words = said.problem or words
        for gone in said.withdrawn:
            table.pop(gone, None)
        if said.attributes is not None:
            table |= dict.fromkeys(said.announced, said.attributes.origin)

    expected = row.treatment
    assert notification == expected.notification
    assert counted == [expected.treated_as_withdraw, expected.attributes_discarded]
    assert row.words in words
    if not expected.notification[0]:
        assert table.get(nlri) == (None if expected.treated_as_withdraw else Origin.IGP)
    if expected.notification[0]:
        assert codec.feed(row.before(), 0.0) == []


@pytest.mark.parametrize("row", [row for row in ROWS if row.treatment.notification[0]], ids=lambda row: row.name)
def test_a_reset_is_told_and_ends_the_session(row: Row) -> None:
    """The session machine says the NOTIFICATION, closes, and says why."""
    codec, negotiated = established(row.sender)
    session = Session(peer_of(row.sender), LocalRestart(), lambda: 0.0)
    session.start(0.0)
    session.connected(1, is_inbound=True, now=0.0)
    session.open_received(1, negotiated, 0.0)
    session.message_received(1, Keepalive(), 0.0)
    assert session.state is State.ESTABLISHED
    (garbage,) = codec.feed(row.update(), 0.0)
    assert isinstance(garbage, Garbage)

    outputs = session.garbage_received(1, garbage.notification, garbage.text, 1.0)

    sent = [output.message for output in outputs if isinstance(output, Send)]
    assert [(said.code, said.subcode) for said in sent if isinstance(said, Notification)] == [
        row.treatment.notification
    ]
    assert Hangup(1) in outputs
    assert session.state is not State.ESTABLISHED
    assert session.last_error == garbage.text


def test_the_table_is_whole() -> None:
    """Each row has a name of its own, and no kind of treatment is left out."""
    assert len({row.name for row in ROWS}) == len(ROWS) >= 80
    assert {"accepted", "treat-as-withdraw", "attribute discard", "session reset"} == {
        row.treatment.name for row in ROWS
    }
