"""Every path attribute has a vector: bytes that are right and wrong, and what they mean."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import fields
from pathlib import Path
from typing import TypedDict

import pytest

from bgpmesh.peering.message import Capabilities, Open
from bgpmesh.peering.peer import Peer
from bgpmesh.rib.export import Batch
from bgpmesh.route.attributes import ATTRIBUTES, Asn, AttributeRow, PathAttributes, RouterId, Treatment
from bgpmesh.route.nlri import Family, family_of, prefix_text
from bgpmesh.route.path import PeerName, Role
from bgpmesh.wire.codec import Codec, Decoded, Garbage, Routes

DIRECTORY = Path(__file__).parent / "wire"
VECTORS = sorted(DIRECTORY.glob("*.json"))
FAMILIES = (Family.IPV4, Family.IPV6)


class Case(TypedDict, total=False):
    """One UPDATE in hex, the session it comes over, and what it means."""

    says: str
    session: str  # internal, external or two-octet
    update: str
    expected: list[object]
    passed_on: list[str]  # what we would send of it, in hex


class Vector(TypedDict):
    """The cases of one attribute."""

    cases: list[Case]
    malformed: list[Case]


def codec_of(session: str) -> Codec:
    """Return a codec that is past the OPENs."""
    role, asn = (Role.EXTERNAL, Asn(65001)) if session == "external" else (Role.NON_CLIENT, Asn(64512))
    address = ipaddress.ip_address("192.0.2.1")
    ours = Codec(Peer(PeerName("peer"), address, asn, role, address, Asn(64512), RouterId(1)))
    theirs = Codec(Peer(PeerName("us"), address, Asn(64512), role, address, asn, RouterId(2)))
    offer = Capabilities(families=FAMILIES, four_octet_asn=session != "two-octet")
    ours.encode(Open(Asn(64512), 9, RouterId(1), Capabilities(families=FAMILIES)))
    ours.feed(theirs.encode(Open(asn, 9, RouterId(2), offer)), 0.0)
    return ours


def plain(value: object) -> object:
    """Return a field's value as JSON has it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [plain(member) for member in value]
    return value if isinstance(value, bool | int) or value is None else str(value)


def meaning(decoded: Decoded) -> object:
    """Return what was decoded as JSON has it, without what is as always."""
    if isinstance(decoded, Garbage):
        return {"reset": decoded.notification.describe(), "data": decoded.notification.data.hex(), "text": decoded.text}
    if not isinstance(decoded, Routes):
        return str(decoded)
    shown: dict[str, object] = {}
    if decoded.attributes is not None:
        absent = PathAttributes()
        shown["attributes"] = {
            field.name: plain(getattr(decoded.attributes, field.name))
            for field in fields(PathAttributes)
            if getattr(decoded.attributes, field.name) != getattr(absent, field.name)
        }
    shown["announced"] = [prefix_text(key) for key in decoded.announced]
    shown["withdrawn"] = [prefix_text(key) for key in decoded.withdrawn]
    for name in ("treated_as_withdraw", "attributes_discarded", "problem"):
        if getattr(decoded, name):
            shown[name] = getattr(decoded, name)
    return {name: value for name, value in shown.items() if value}


def answer(case: Case) -> tuple[list[object], list[str]]:
    """Return what the case's UPDATE means, and what we would pass on of it over the same session."""
    codec = codec_of(case["session"])
    decoded = codec.feed(bytes.fromhex(case["update"]), 0.0)
    passed_on = [
        octets.hex()
        for said in decoded
        if isinstance(said, Routes) and said.attributes is not None
        for octets in codec.encode_batch(Batch(family_of(said.announced[0]), said.attributes, said.announced))
    ]
    return [meaning(said) for said in decoded], passed_on


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_the_bytes_mean_what_the_vector_says(path: Path, is_updating_golden: bool) -> None:
    """Each UPDATE of a vector decodes to what stands beside it, and is passed on as it says."""
    vector: Vector = json.loads(path.read_text(encoding="utf-8"))
    if is_updating_golden:
        for case in (*vector["cases"], *vector["malformed"]):
            case["expected"], case["passed_on"] = answer(case)
        path.write_text(json.dumps(vector, indent=2) + "\n", encoding="utf-8")
    for case in (*vector["cases"], *vector["malformed"]):
        assert (case["says"], case["expected"], case["passed_on"]) == (case["says"], *answer(case))


@pytest.mark.parametrize("row", ATTRIBUTES, ids=lambda row: row.name)
def test_every_attribute_has_a_vector_and_is_treated_as_its_row_says(row: AttributeRow) -> None:
    """What RFC 7606 asks for a malformed attribute is what each malformed case comes to."""
    path = DIRECTORY / f"{row.name}.json"
    assert path.exists(), f"{row.name} has no vector"
    vector: Vector = json.loads(path.read_text(encoding="utf-8"))
    assert vector["cases"]
    assert vector["malformed"]
    for case in vector["malformed"]:
        (said,) = codec_of(case["session"]).feed(bytes.fromhex(case["update"]), 0.0)
        found = Treatment.RESET
        if isinstance(said, Routes):
            found = Treatment.WITHDRAW if said.treated_as_withdraw else Treatment.DISCARD
            assert (said.treated_as_withdraw, said.attributes_discarded) in {(1, 0), (0, 1)}, case["says"]
        assert (case["says"], row.malformed) == (case["says"], found)


def test_there_are_vectors() -> None:
    """An empty directory proves nothing."""
    assert len(VECTORS) > len(ATTRIBUTES)
