"""Members of sets as they lie in the kernel's messages."""

from __future__ import annotations

import ipaddress

import pytest

from bgpmesh.kernel.sets import _SHAPES
from bgpmesh.policy.chains import HASH_IP_PORT, HASH_NET, port_member
from bgpmesh.route.nlri import parse_nlri

# As Linux 6.18 listed them, two entries each.
NETS_4 = bytes.fromhex(
    "180007800c000180080001000a0000010500030020000000180007800c000180080001000a0000000500030008000000"
)
PORTS_6 = bytes.fromhex(
    "2c0007801800018014000200fd00000000000000000000000000000106000440005000000500070088000000"
    "2c0007801800018014000200fd00000000000000000000000000000106000440005000000500070084000000"
)
ADDRESS = ipaddress.ip_address("fd00::1")
CASES = [
    (HASH_NET, 4, NETS_4, [parse_nlri("10.0.0.1/32"), parse_nlri("10.0.0.0/8")]),
    (HASH_IP_PORT, 6, PORTS_6, [port_member(ADDRESS, 136, 80), port_member(ADDRESS, 132, 80)]),
]
WITH_EXCEPTION = bytes.fromhex("200007800c000180080001000a00000105000300200000000800084000000004")


@pytest.mark.parametrize(("kind", "family", "listed", "members"), CASES)
def test_a_listing_is_read(kind: str, family: int, listed: bytes, members: list[bytes]) -> None:
    """Any number of entries; what is cut short, or has other bits in it, is not taken for members."""
    shape = _SHAPES[kind, family]
    assert shape.decode(listed) == members
    assert shape.decode(listed * 1000) == members * 1000
    assert shape.decode(b"") == []
    assert shape.decode(listed[:-4]) is None
    for place in range(12):  # the headers of the first entry
        assert shape.decode(listed[:place] + bytes((listed[place] ^ 1,)) + listed[place + 1 :]) is None


@pytest.mark.parametrize(("kind", "family", "listed", "members"), CASES)
def test_members_are_written_as_they_are_listed(kind: str, family: int, listed: bytes, members: list[bytes]) -> None:
    """But that the address says in which order its bytes stand (NLA_F_NET_BYTEORDER)."""
    shape = _SHAPES[kind, family]
    written = bytearray(shape.encode(members))
    for entry in range(0, len(written), len(written) // 2):
        assert written[entry + 11] & 0x40
        written[entry + 11] &= ~0x40
    assert bytes(written) == listed


def test_an_entry_that_is_an_exception_is_no_member() -> None:
    """`nomatch` stands in it."""
    assert _SHAPES[HASH_NET, 4].decode(WITH_EXCEPTION) is None
    assert _SHAPES[HASH_NET, 4].decode(WITH_EXCEPTION * 3) is None  # as long as four entries


def test_a_member_of_another_kind_or_family_is_refused() -> None:
    """A set has one kind of them."""
    with pytest.raises(ValueError, match="another kind or family"):
        _SHAPES[HASH_NET, 4].encode([parse_nlri("10.0.0.1/32"), port_member(ADDRESS, 6, 80)])
