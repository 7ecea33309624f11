"""The Partial bit of what we know: one that came goes out again, whatever has become of the value (RFC 4271 §5)."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from bgpmesh.rib.export import Batch
from bgpmesh.route.attributes import PARTIAL, PathAttributes
from bgpmesh.route.nlri import Family, parse_nlri
from bgpmesh.wire import codec as codec_module
from bgpmesh.wire.codec import Codec, Routes
from bgpmesh.wire.packing import AS4_AGGREGATOR, AS4_PATH, ROWS
from bgpmesh.wire.reading import frame
from tests.bench.feeder import update
from tests.malformed import OLD, OUTSIDE, TRANSITIVE, Sender, a, as_path, path
from tests.unit.wire.test_four_octet import spoken

VALUES = {
    7: struct.pack("!I4s", 65005, bytes((192, 0, 2, 7))),
    8: bytes.fromhex("fc000064fc000065"),
    16: bytes.fromhex("0002fc0000000064"),
    25: bytes(20),
    32: struct.pack("!III", 64512, 1, 2),
    35: struct.pack("!I", 65005),
}


def codec_of(sender: Sender) -> Codec:
    """Return one past the OPENs."""
    return spoken(sender.asn, is_old=sender.is_two_octet)


def heard(sender: Sender, attributes: dict[int, bytes]) -> PathAttributes:
    """Return what an UPDATE says that has these attributes beside the usual ones."""
    values = sender.attributes | attributes
    (said,) = codec_of(sender).feed(update(b"", b"".join(values[code] for code in sorted(values)), b"\x08\x0a"), 0.0)
    assert isinstance(said, Routes)
    assert said.problem == ""
    assert said.attributes is not None
    return said.attributes


def partial_in(sender: Sender, attributes: PathAttributes) -> dict[int, bool]:
    """Return of the optional transitive attributes that such a peer is sent whether each is partial."""
    sent = codec_of(sender).encode_batch(Batch(Family.IPV4, attributes, [parse_nlri("10.0.0.0/8")]))
    (octets,) = sent
    items, fault = frame(octets[23 : 23 + int.from_bytes(octets[21:23], "big")])
    assert fault == ""
    return {item.code: bool(item.flags & PARTIAL) for item in items if item.flags & TRANSITIVE == TRANSITIVE}


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("code", VALUES, ids=lambda code: ROWS[code].name)
def test_the_bit_goes_out_where_it_came(code: int, is_slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each attribute alone, by the fast path and by ExaBGP's decoder; and the two sets are not the same."""
    if is_slow:
        monkeypatch.setattr(codec_module, "decode_updates", lambda _data, at, *_: ([], at))
    whole = {each: a(TRANSITIVE, each, value) for each, value in VALUES.items()}
    one, other = heard(OUTSIDE, whole), heard(OUTSIDE, whole | {code: a(TRANSITIVE | PARTIAL, code, VALUES[code])})
    assert partial_in(OUTSIDE, one) == dict.fromkeys(VALUES, False)
    assert partial_in(OUTSIDE, other) == dict.fromkeys(VALUES, False) | {code: True}
    assert not one.same_as(other)


def test_what_we_make_of_a_value_is_as_partial_as_it_came() -> None:
    """A community more, or another; what is taken off altogether is gone, and what never came partial is not."""
    came = heard(OUTSIDE, {code: a(TRANSITIVE | PARTIAL, code, VALUES[code]) for code in (7, 8, 16)})
    made = replace(came, communities=(1, *came.communities), ext_communities=(), large_communities=((1, 2, 3),))
    assert partial_in(OUTSIDE, made) == {7: True, 8: True, 32: False}


@pytest.mark.parametrize("bit", [0, PARTIAL])
def test_what_an_old_speaker_passed_on_unread_is_partial_for_the_next(bit: int) -> None:
    """AS4_PATH and AS4_AGGREGATOR of one such peer to another; those with four octets never see them."""
    here = bytes((192, 0, 2, 7))
    came = heard(
        OLD,
        {
            **as_path(path((2, (OLD.asn, 23456)), width="H")),
            7: a(TRANSITIVE, 7, struct.pack("!H4s", 23456, here)),
            AS4_PATH: a(TRANSITIVE | bit, AS4_PATH, path((2, (70000,)))),
            AS4_AGGREGATOR: a(TRANSITIVE | bit, AS4_AGGREGATOR, struct.pack("!I4s", 70000, here)),
        },
    )
    assert partial_in(OLD, came) == {7: False, AS4_PATH: bool(bit), AS4_AGGREGATOR: bool(bit)}
    assert partial_in(OUTSIDE, came) == {7: False}


@pytest.mark.parametrize("code", [1, 2, 3, 4])
def test_others_have_no_such_bit(code: int) -> None:
    """On what is well known or not transitive it means nothing, and is not passed on."""
    usual = OUTSIDE.attributes | {4: a(0x80, 4, struct.pack("!I", 7))}
    came = heard(OUTSIDE, usual | {code: bytes((usual[code][0] | PARTIAL,)) + usual[code][1:]})
    assert came.same_as(heard(OUTSIDE, usual))


def test_one_that_is_discarded_leaves_no_bit_behind() -> None:
    """Of an attribute that stands twice the first counts, with its flags (RFC 7606 §3 g)."""
    values = OUTSIDE.attributes | {8: a(TRANSITIVE, 8, VALUES[8]) + a(TRANSITIVE | PARTIAL, 8, VALUES[8])}
    (said,) = codec_of(OUTSIDE).feed(update(b"", b"".join(values.values()), b"\x08\x0a"), 0.0)
    assert isinstance(said, Routes)
    assert said.attributes is not None
    assert (said.attributes_discarded, said.attributes.partial) == (1, ())
