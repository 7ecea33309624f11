"""BGP roles: what two autonomous systems are to each other, and that routes go only down after they went up (RFC 9234).

A role is our own on one session: `customer` means that the neighbour is our provider. Attribute Only to Customer says
that a route has been given to a customer or a peer, so that it may go to customers alone from there on. It stands among
the attributes that are passed on as they came (`PathAttributes.other`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from bgpmesh.route.attributes import OPTIONAL_TRANSITIVE, PARTIAL, Asn, PathAttributes

CAPABILITY = 9
ONLY_TO_CUSTOMER = 35

ROLES: Mapping[str, int] = {"provider": 0, "rs": 1, "rs-client": 2, "customer": 3, "peer": 4}  # RFC 9234 §4.1
_OTHER_END = {"provider": "customer", "rs": "rs-client", "rs-client": "rs", "customer": "provider", "peer": "peer"}
_NAMES = {value: name for name, value in ROLES.items()}
_FROM_ABOVE_OR_BESIDE = {"customer", "peer", "rs-client"}  # of whom: our provider, peer or route server
_TO_BELOW_OR_BESIDE = {"provider", "peer", "rs"}  # to whom: our customer, peer or route server's client


def mismatch(ours: Iterable[tuple[int, bytes]], theirs: Iterable[tuple[int, bytes]]) -> str:
    """Return why two OPENs, by their capabilities, cannot make a session (§4.2); "" where they can.

    A neighbour that says no role is believed to have the right one.
    """
    own = _said(ours)
    said = _said(theirs)
    if not own or not said:
        return ""
    (name,) = own
    if said == {_OTHER_END[name]}:
        return ""
    return f"role mismatch: the peer says {' and '.join(sorted(said))}, to our {name} it should be {_OTHER_END[name]}"


def _said(capabilities: Iterable[tuple[int, bytes]]) -> set[str]:
    said = {value for code, value in capabilities if code == CAPABILITY}
    return {_NAMES.get(value[0], value.hex()) if len(value) == 1 else value.hex() or "nothing" for value in said}


def leak(role: str, asn: Asn, attributes: PathAttributes) -> str:
    """Return how a route that a neighbour in this AS sent must have leaked (§5); "" where it need not."""
    by = only_to_customer(attributes)
    if by is None or role not in {"provider", "rs", "peer"} or (role == "peer" and by == asn):
        return ""
    return f"leak: AS {by} gave it to a customer or peer, and our {_OTHER_END[role]} passed it on (RFC 9234)"


def received(role: str, asn: Asn, attributes: PathAttributes) -> PathAttributes:
    """Return what a neighbour in this AS sent, marked where it may only go to customers from here on (§5)."""
    return _marked(attributes, asn, is_ours=False) if role in _FROM_ABOVE_OR_BESIDE else attributes


def may_leave(role: str, attributes: PathAttributes) -> bool:
    """Tell whether a route may go to a neighbour (§5)."""
    return role not in _FROM_ABOVE_OR_BESIDE or only_to_customer(attributes) is None


def sent(role: str, asn: Asn, attributes: PathAttributes, *, is_ours: bool) -> PathAttributes:
    """Return what a neighbour hears from us, this AS, marked where it may only go to customers from there on (§5).

    `is_ours`: the route begins here.
    """
    return _marked(attributes, asn, is_ours=is_ours) if role in _TO_BELOW_OR_BESIDE else attributes


def only_to_customer(attributes: PathAttributes) -> Asn | None:
    """Return the AS that marked a route, None where none did."""
    marks = (Asn(int.from_bytes(value, "big")) for _, code, value in attributes.other if code == ONLY_TO_CUSTOMER)
    return next(marks, None)


def _marked(attributes: PathAttributes, asn: Asn, *, is_ours: bool) -> PathAttributes:
    if only_to_customer(attributes) is not None:
        return attributes
    flags = OPTIONAL_TRANSITIVE if is_ours else OPTIONAL_TRANSITIVE | PARTIAL  # put on by another than who began it
    mark = (flags, ONLY_TO_CUSTOMER, asn.to_bytes(4, "big"))
    return replace(attributes, other=tuple(sorted((*attributes.other, mark), key=lambda each: each[1])))
