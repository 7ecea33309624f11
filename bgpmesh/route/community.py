"""Communities as people write them, and patterns over them: 64512:100, no-export, 64512:*, 64512:1:2, rt:64512:100.

A pattern is a list of (mask, value) over the community as one number of 32, 96 or 64 bits: those bits that count, and
what they are. A text without `*` is a pattern that one community alone matches; only an extended one may stand for two
encodings of the same. RFC 1997, RFC 4360 §4, RFC 5668, RFC 7999, RFC 8092, RFC 8326, RFC 9494.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Callable, Iterable, Mapping

Masked = tuple[int, int]  # (mask, value)
Pattern = tuple[Masked, ...]

NO_EXPORT, NO_ADVERTISE, NO_EXPORT_SUBCONFED = 0xFFFFFF01, 0xFFFFFF02, 0xFFFFFF03  # RFC 1997
BLACKHOLE = 0xFFFF029A  # RFC 7999
GRACEFUL_SHUTDOWN = 0xFFFF0000  # RFC 8326
LLGR_STALE, NO_LLGR = 0xFFFF0006, 0xFFFF0007  # RFC 9494

WELL_KNOWN: Mapping[str, int] = {
    "no-export": NO_EXPORT,
    "no-advertise": NO_ADVERTISE,
    "no-export-subconfed": NO_EXPORT_SUBCONFED,
    "blackhole": BLACKHOLE,
    "graceful-shutdown": GRACEFUL_SHUTDOWN,
    "llgr-stale": LLGR_STALE,
    "no-llgr": NO_LLGR,
}
BITS, LARGE_BITS, EXT_BITS = 32, 96, 64

_EXT_KINDS = {"rt": 2, "soo": 3}  # the low octet of the type (RFC 4360 §4, §5)
_EXT_WORDS = {code: word for word, code in _EXT_KINDS.items()}
_TWO_OCTET_AS, _IPV4, _FOUR_OCTET_AS = 0, 1, 2  # its high octet, without the bits for "ours" and "not transitive"
_HIGH = 0x3F
_LINK_BANDWIDTH = 4


def bandwidth_of(ext_communities: Iterable[bytes]) -> float | None:
    """Return the link bandwidth in octets a second (draft-ietf-idr-link-bandwidth §2), None where none is said."""
    for said in ext_communities:
        if said[0] & _HIGH == _TWO_OCTET_AS and said[1] == _LINK_BANDWIDTH:
            (found,) = struct.unpack("!f", said[4:])
            return float(found) if 0 < found < float("inf") else None
    return None


def community(text: str) -> Pattern:
    """Return the pattern of `A:B`, each a number up to 65535 or `*`, or of a well-known name; raises ValueError."""
    if text in WELL_KNOWN:
        return (((1 << BITS) - 1, WELL_KNOWN[text]),)
    parts = text.split(":")
    if len(parts) != 2:
        raise ValueError(f"not A:B (up to 65535, or *) and none of {', '.join(WELL_KNOWN)}")
    return (_joined(parts, 16),)


def large_community(text: str) -> Pattern:
    """Return the pattern of `A:B:C`, each a number up to 4294967295 or `*`; raises ValueError."""
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError("not A:B:C (up to 4294967295, or *)")
    return (_joined(parts, 32),)


def ext_community(text: str) -> Pattern:
    """Return the pattern of `rt:A:B` or `soo:A:B`, or of 16 hexadecimal digits; raises ValueError.

    A is an AS number or an IPv4 address; B a number or `*`: up to 4294967295 behind a two-octet AS number, up to
    65535 else. What stands for a two-octet AS number may be encoded as a four-octet one (RFC 5668): both match.
    """
    if re.fullmatch(r"[0-9a-f]{16}", text):
        return (((1 << EXT_BITS) - 1, int(text, 16)),)
    word, *parts = text.split(":")
    if word not in _EXT_KINDS or len(parts) != 2:
        raise ValueError("not rt:A:B or soo:A:B (A an AS number or IPv4 address, B a number or *) nor 16 digits of hex")
    if "." in parts[0]:
        try:
            first = int(ipaddress.IPv4Address(parts[0]))
        except ValueError as error:
            raise ValueError(f"{parts[0]} is not an IPv4 address") from error
        return (_ext(_IPV4, word, first, parts[1], 16),)
    first = _number(parts[0], 32)
    if first > 0xFFFF:
        return (_ext(_FOUR_OCTET_AS, word, first, parts[1], 16),)
    found = [_ext(_TWO_OCTET_AS, word, first, parts[1], 32)]
    if parts[1] == "*" or int(parts[1]) <= 0xFFFF:
        found.append(_ext(_FOUR_OCTET_AS, word, first, parts[1], 16))
    return tuple(found)


def only(pattern: Pattern, bits: int) -> int | None:
    """Return the community that a pattern of so many bits stands for, in its first encoding; None: there are several.

    Of an extended one the transitive kind.
    """
    mask, value = pattern[0]
    full = (1 << bits) - 1
    return value if mask == full or (bits == EXT_BITS and mask == full & ~(0xC0 << 56)) else None


def matcher(patterns: Iterable[Pattern], bits: int) -> Callable[[Iterable[int]], bool]:
    """Return what tells whether any of some communities, as numbers of so many bits, matches any of these patterns."""
    full = (1 << bits) - 1
    masked = [each for pattern in patterns for each in pattern]
    exact = frozenset(value for mask, value in masked if mask == full)
    others = tuple((mask, value) for mask, value in masked if mask != full)
    if not others:
        return lambda held: not exact.isdisjoint(held)
    return lambda held: any(each in exact or any(each & mask == value for mask, value in others) for each in held)


def large_number(value: tuple[int, int, int]) -> int:
    """Return a large community as one number of 96 bits."""
    return value[0] << 64 | value[1] << 32 | value[2]


def large_parts(number: int) -> tuple[int, int, int]:
    """Return a large community from its number."""
    return number >> 64, number >> 32 & 0xFFFFFFFF, number & 0xFFFFFFFF


def ext_text(value: bytes) -> str:
    """Return `rt:A:B` or `soo:A:B` for route targets and origins (RFC 4360 §4, RFC 5668), hexadecimal for others."""
    word, kind = _EXT_WORDS.get(value[1]), value[0] & _HIGH
    if word is None or kind not in {_TWO_OCTET_AS, _IPV4, _FOUR_OCTET_AS}:
        return value.hex()
    if kind == _TWO_OCTET_AS:
        return f"{word}:{int.from_bytes(value[2:4], 'big')}:{int.from_bytes(value[4:8], 'big')}"
    first = int.from_bytes(value[2:6], "big")
    shown = str(ipaddress.IPv4Address(first)) if kind == _IPV4 else str(first)
    return f"{word}:{shown}:{int.from_bytes(value[6:8], 'big')}"


def _number(text: str, bits: int) -> int:
    """Return a number of so many bits; raises ValueError."""
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text or 'nothing'} is not a number or *")
    if len(text) > 10 or int(text) >> bits:
        raise ValueError(f"{text} is above {(1 << bits) - 1}")
    return int(text)


def _joined(parts: Iterable[str], bits: int) -> Masked:
    """Return the pattern of numbers of so many bits each, side by side."""
    mask = value = 0
    for part in parts:
        mask, value = mask << bits, value << bits
        if part != "*":
            mask, value = mask | (1 << bits) - 1, value | _number(part, bits)
    return mask, value


def _ext(high: int, word: str, first: int, second: str, bits: int) -> Masked:
    mask, value = _joined((second,), bits)
    head = high << 56 | _EXT_KINDS[word] << 48
    # The two bits before the kind say who assigned the type, and that it is not transitive.
    return mask | (0x3FFF << 48) | ((1 << 48 - bits) - 1) << bits, head | first << bits | value
