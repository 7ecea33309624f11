"""BGP roles (RFC 9234), another AS on one session, and our own AS in AS_PATH."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgpmesh.peering.peer import Peer
from bgpmesh.route.attributes import OPTIONAL_TRANSITIVE, PARTIAL, Asn, PathAttributes
from bgpmesh.route.nlri import parse_nlri
from bgpmesh.route.path import PeerName
from bgpmesh.route.roles import ONLY_TO_CUSTOMER, ROLES, mismatch, only_to_customer
from tests.unit.rib.ribworld import ASN, World, changed, external, sequence, via

P = "10.1.0.0/16"
FROM, TO = 65001, 65002


def between(name: str, at: str, asn: int, role: str) -> Peer:
    """Return an external peer to which we have a role."""
    return replace(external(name, at, asn), bgp_role=role)


def marked(asn: int) -> PathAttributes:
    """Return attributes with Only to Customer."""
    mark = (OPTIONAL_TRANSITIVE, ONLY_TO_CUSTOMER, asn.to_bytes(4, "big"))
    return changed(via("192.0.2.41", FROM), other=(mark,))


def passed_on(role_in: str, attributes: PathAttributes, role_out: str) -> tuple[str, int | str | None]:
    """Return why a path was refused, and what another peer hears of it: its mark, or nothing."""
    world = World(
        between("in", "192.0.2.41", FROM, role_in),
        between("out", "192.0.2.42", TO, role_out),
    )
    world.hear("in", attributes, P)
    heard = world.heard("out", P)
    reason = world.reasons(P)["in"]
    return (reason if "leak" in reason else ""), "nothing" if heard is None else only_to_customer(heard)


@pytest.mark.parametrize(
    ("role_in", "mark", "role_out", "expected"),
    [
        ("", None, "", None),
        ("", 9, "", 9),
        ("customer", None, "customer", "nothing"),  # from one provider to another: the leak that all this is about
        ("customer", None, "peer", "nothing"),
        ("customer", None, "rs-client", "nothing"),
        ("customer", None, "provider", FROM),
        ("customer", 9, "provider", 9),
        ("customer", None, "", FROM),
        ("peer", None, "customer", "nothing"),
        ("peer", None, "provider", FROM),
        ("peer", FROM, "provider", FROM),
        ("rs-client", None, "peer", "nothing"),
        ("rs-client", None, "provider", FROM),
        ("provider", None, "customer", None),
        ("provider", None, "peer", ASN),
        ("provider", None, "rs-client", None),
        ("provider", None, "provider", ASN),
        ("rs", None, "rs", ASN),
        ("", 9, "customer", "nothing"),
    ],
)
def test_what_is_passed_on_between_roles(role_in: str, mark: int | None, role_out: str, expected: object) -> None:
    """RFC 9234 §5, on the way in and on the way out."""
    attributes = via("192.0.2.41", FROM) if mark is None else marked(mark)
    assert passed_on(role_in, attributes, role_out) == ("", expected)


def test_the_mark_is_partial_where_another_put_it_on_than_who_began_the_route() -> None:
    """RFC 4271 §5: on what we pass on; not on what is ours, nor because we pass it on."""
    world = World(between("in", "192.0.2.41", FROM, "provider"), between("out", "192.0.2.42", TO, "provider"))
    world.hear("in", via("192.0.2.41", FROM), P)
    world.rib.originate(parse_nlri("10.7.0.0/24"), None, advertise=True)
    flags = [heard.other[0][0] for prefix in (P, "10.7.0.0/24") if (heard := world.heard("out", prefix)) is not None]
    assert flags == [OPTIONAL_TRANSITIVE | PARTIAL, OPTIONAL_TRANSITIVE]


@pytest.mark.parametrize(("role", "mark"), [("provider", 9), ("rs", FROM), ("peer", 9)])
def test_a_leaked_route_is_not_selected(role: str, mark: int) -> None:
    """A customer passed on what its other provider gave it; a peer what came from elsewhere."""
    reason, heard = passed_on(role, marked(mark), "provider")
    assert f"AS {mark} gave it to a customer or peer" in reason
    assert heard == "nothing"


def test_roles_of_two_ends_fit() -> None:
    """Each with its counterpart only; who says none is believed (RFC 9234 §4.2)."""
    fits = {
        (ours, theirs)
        for ours, first in ROLES.items()
        for theirs, second in ROLES.items()
        if not mismatch([(9, bytes((first,)))], [(1, b""), (9, bytes((second,)))])
    }
    assert fits == {
        ("provider", "customer"),
        ("customer", "provider"),
        ("rs", "rs-client"),
        ("rs-client", "rs"),
        ("peer", "peer"),
    }
    assert not mismatch([(9, b"\0")], [])
    assert not mismatch([], [(9, b"\7")])
    assert mismatch([(9, b"\0")], [(9, b"\3"), (9, b"\4")]) == (
        "role mismatch: the peer says customer and peer, to our provider it should be customer"
    )


@pytest.mark.parametrize(("value", "said"), [(b"", "nothing"), (b"\0\3", "0003"), (b"\7", "07")])
def test_what_is_no_role_is_shown_as_it_came(value: bytes, said: str) -> None:
    """A role is one octet: no other number of them is one, whatever they come to."""
    assert mismatch([(9, b"\0")], [(9, value)]) == (
        f"role mismatch: the peer says {said}, to our provider it should be customer"
    )


def test_another_as_on_one_session_has_ours_behind_it() -> None:
    """So the nodes of our AS still see a loop in what comes back."""
    other = replace(external("out", "192.0.2.42", TO), local_asn=Asn(64999), asn_behind=ASN)
    world = World(external("in", "192.0.2.41", FROM), other)
    world.hear("in", via("192.0.2.41", FROM), P)
    heard = world.heard("out", P)
    assert heard is not None
    assert heard.as_path == sequence(64999, ASN, FROM)


def test_our_own_as_is_let_in_as_often_as_said() -> None:
    """It counts for each AS that we are; a change judges what came before anew, in the same session."""
    peer = external("in", "192.0.2.41", FROM)
    world = World(peer)
    world.hear("in", via("192.0.2.41", FROM, ASN), P)
    assert world.reasons(P) == {"in": f"loop: our AS {ASN} is in AS_PATH"}
    assert world.best(P) is None
    world.rib.filter((), [replace(peer, allow_own_asn=1)])
    assert world.best(P) == "in"
    world.hear("in", via("192.0.2.41", FROM, ASN, ASN), P)
    assert world.best(P) is None
    world.rib.filter((), [replace(peer, allow_own_asn=2)])
    assert world.best(P) == PeerName("in")
    world.rib.filter((), [peer])
    assert world.best(P) is None
