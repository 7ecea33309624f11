"""Communities in words, and patterns over them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.route import community
from bgpmesh.route.community import BITS, EXT_BITS, LARGE_BITS, Pattern, matcher, only

NUMBER_32 = st.integers(0, 0xFFFFFFFF)


def does_match(pattern: Pattern, number: int, bits: int) -> bool:
    return matcher([pattern], bits)((number,))


@pytest.mark.parametrize(("word", "number"), community.WELL_KNOWN.items())
def test_well_known_names(word: str, number: int) -> None:
    """A name is its number, and so is what `routes` shows of it."""
    assert only(community.community(word), BITS) == number
    assert community.community(f"{number >> 16}:{number & 0xFFFF}") == community.community(word)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), NUMBER_32)
def test_a_star_is_any_number(first: int, second: int, other: int) -> None:
    """In either place."""
    number = first << 16 | second
    assert does_match(community.community(f"{first}:{second}"), other, BITS) is (number == other)
    assert does_match(community.community(f"{first}:*"), other, BITS) is (other >> 16 == first)
    assert does_match(community.community(f"*:{second}"), other, BITS) is (other & 0xFFFF == second)
    assert does_match(community.community("*:*"), other, BITS)
    assert only(community.community(f"{first}:*"), BITS) is None


@given(NUMBER_32, NUMBER_32, NUMBER_32)
def test_large_communities(first: int, second: int, third: int) -> None:
    """Three numbers of 32 bits, as one of 96 and back."""
    number = community.large_number((first, second, third))
    assert community.large_parts(number) == (first, second, third)
    assert only(community.large_community(f"{first}:{second}:{third}"), LARGE_BITS) == number
    assert does_match(community.large_community(f"{first}:*:{third}"), number, LARGE_BITS)
    assert not does_match(community.large_community(f"{first}:*:{third ^ 1}"), number, LARGE_BITS)


@given(
    st.binary(min_size=8, max_size=8)
    | st.tuples(
        st.sampled_from((0, 1, 2, 0x40, 0x80, 3)), st.sampled_from((2, 3, 4)), st.binary(min_size=6, max_size=6)
    ).map(lambda parts: bytes(parts[:2]) + parts[2])
)
def test_what_is_shown_of_an_extended_community_matches_it(value: bytes) -> None:
    """Route targets and origins in words, all others as hex."""
    text = community.ext_text(value)
    assert does_match(community.ext_community(text), int.from_bytes(value, "big"), EXT_BITS)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("rt:64512:100", "0002fc0000000064"),
        ("soo:64512:4294967295", "0003fc00ffffffff"),
        ("rt:192.0.2.1:5", "0102c00002010005"),
        ("rt:4200000000:6", "0202fa56ea000006"),
        ("4302fc0000000064", "4302fc0000000064"),
    ],
)
def test_an_extended_community_is_encoded(text: str, encoded: str) -> None:
    """A two-octet AS number as such, though its four-octet encoding matches too."""
    assert only(community.ext_community(text), EXT_BITS) == int(encoded, 16)


def test_both_encodings_of_a_two_octet_as_number_match() -> None:
    """RFC 5668 has a second one; B is shorter in it."""
    four = int("02020000fc000064", 16)
    assert does_match(community.ext_community("rt:64512:100"), four, EXT_BITS)
    assert does_match(community.ext_community("rt:64512:*"), four, EXT_BITS)
    assert not does_match(community.ext_community("rt:64512:65636"), four, EXT_BITS)
    assert only(community.ext_community("rt:64512:*"), EXT_BITS) is None


@pytest.mark.parametrize(
    ("parse", "text", "reason"),
    [
        ("community", "no-exprot", "not A:B (up to 65535, or *) and none of no-export, no-advertise, "),
        ("community", "64512", "not A:B (up to 65535, or *) and none of no-export"),
        ("community", "64512:65536", "65536 is above 65535"),
        ("community", "64512:-1", "-1 is not a number or *"),
        ("community", "64512:", "nothing is not a number or *"),
        ("community", "64512:" + "9" * 5000, "is above 65535"),
        ("community", "64512:\u0661", "\u0661 is not a number or *"),
        ("large_community", "64512:1", "not A:B:C (up to 4294967295, or *)"),
        ("large_community", "64512:1:4294967296", "4294967296 is above 4294967295"),
        ("ext_community", "64512:100", "not rt:A:B or soo:A:B"),
        ("ext_community", "rt:64512", "not rt:A:B or soo:A:B"),
        ("ext_community", "rt:1.2.3:4", "1.2.3 is not an IPv4 address"),
        ("ext_community", "rt:4200000000:65536", "65536 is above 65535"),
        ("ext_community", "rt:*:5", "* is not a number"),
        ("ext_community", "0002FC0000000064", "not rt:A:B or soo:A:B"),
    ],
)
def test_what_is_none(parse: str, text: str, reason: str) -> None:
    """In words, with the limit."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is compared
        getattr(community, parse)(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0002fc0000000007", "rt:64512:7"),
        ("4102c00002010007", "rt:192.0.2.1:7"),
        ("0203000100000007", "soo:65536:7"),
        ("030c000000000008", "030c000000000008"),
    ],
)
def test_extended_communities_are_shown_as_people_write_them(value: str, expected: str) -> None:
    """Route targets and origins of all three forms; what we do not know stays hexadecimal."""
    assert community.ext_text(bytes.fromhex(value)) == expected
