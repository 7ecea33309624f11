"""ExaBGP's text API, as far as it announces unicast routes: `parse` takes one line.

    [neighbor *] announce route PREFIX next-hop self|ADDRESS [ATTRIBUTE VALUE ..]
    [neighbor *] withdraw route PREFIX [..]
    [neighbor *] announce attributes next-hop self|ADDRESS [ATTRIBUTE VALUE ..] nlri PREFIX ..
    [neighbor *] withdraw attributes [..] nlri PREFIX ..
    announce and withdraw also with `ipv4 unicast` or `ipv6 unicast` for `route`, and `attribute` for `attributes`

The sentences are read here, so that no word is passed over and every fault has its place; what follows the name of an
attribute is read by ExaBGP's own parser of it. Words of ExaBGP that are not taken are refused by name: among them
`split`, by which one line would stand for any number of routes, and neighbours other than `*`, since what each peer
hears its export filters say.
"""

from __future__ import annotations

import functools
import ipaddress
import struct
from collections.abc import Callable, Iterable
from typing import Any

from exabgp.configuration.core.format import formated
from exabgp.configuration.static import parser

from bgpmesh.errors import refused
from bgpmesh.route import community
from bgpmesh.route.attributes import Asn, AsPath, Origin, PathAttributes, SegmentKind
from bgpmesh.route.nlri import IPAddress, Nlri, family_of, family_of_address, is_host, parse_nlri

Announced = tuple[PathAttributes | None, tuple[Nlri, ...]]  # None: withdrawn

_BIGGEST = 0xFFFFFFFF
_LONGEST_AS_PATH = 255
_SHOWN = 100  # characters of a word that cannot be
_EXTENDED_LENGTH = 0x10  # attribute flag (RFC 4271 §4.3)

# Attributes that are taken, with ExaBGP's parser of what follows the name.
_VALUES: dict[str, Callable[[Any], Any]] = {
    "origin": parser.origin,
    "as-path": parser.as_path,
    "med": parser.med,
    "local-preference": parser.local_preference,
    "atomic-aggregate": parser.atomic_aggregate,
    "aggregator": parser.aggregator,
    "community": parser.community,
    "large-community": parser.large_community,
    "extended-community": parser.extended_community,
}
# ExaBGP carries what is above 65535 behind a colon over into the number before it.
_CHECKS: dict[str, Callable[[str], object]] = {
    "community": community.community,
    "large-community": community.large_community,
}


class _FaultError(Exception):
    """The word at this place, counted from 0, cannot be; the text says why."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at = at


class _Words:
    """The words of a line, as ExaBGP's parsers take them; `at` is the next one. Past the end they are empty."""

    afi = None  # they set it

    def __init__(self, words: Iterable[str]) -> None:
        self.tokens = list(words)
        self.at = 0

    def __call__(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def expect(self, *words: str) -> str:
        """Return the next word, which is one of these."""
        if (word := self()) not in words:
            raise self.fault(f"not {' or '.join(words)}" + ("" if word else ", where the line ends"))
        return word

    def fault(self, reason: str) -> _FaultError:
        """Return what is wrong with the word that was taken last."""
        return _FaultError(self.at - 1, reason)


def parse(line: str) -> Announced:
    """Return what a line announces or withdraws; raises ConfigError that names the word, counted from 1."""
    words = _Words(formated(line).split())
    try:
        return _sentence(words)
    except _FaultError as error:
        value = words.tokens[error.at] if error.at < len(words.tokens) else ""
        raise refused(f"word {error.at + 1}", value[:_SHOWN], str(error)[: 2 * _SHOWN]) from error


def _sentence(words: _Words) -> Announced:
    if words.peek() == "neighbor":
        words()
        if words() != "*":
            raise words.fault("routes go to all peers, as their export filters say: write neighbor *")
    action = words.expect("announce", "withdraw")
    nlris, begin, end = _objects(words)
    try:
        attributes, is_self = _attributes(tuple(words.tokens[begin:end]))
    except _FaultError as error:
        raise _FaultError(begin + error.at, str(error)) from error
    if action == "withdraw":
        return None, nlris
    if attributes.next_hop is None and not is_self:
        raise _FaultError(len(words.tokens), "there is no next-hop: write next-hop self")
    if attributes.next_hop is not None:
        family = family_of_address(attributes.next_hop)
        if other := next((nlri for nlri in nlris if family_of(nlri) is not family), None):
            at = words.tokens.index("next-hop", begin) + 1
            raise _FaultError(at, f"not of {family_of(other).label}, as the prefix is")
    return attributes, nlris


def _objects(words: _Words) -> tuple[tuple[Nlri, ...], int, int]:
    """Return the prefixes, and where the words about them begin and end."""
    kind = words.expect("route", "attributes", "attribute", "ipv4", "ipv6")
    if kind.startswith("attribute"):
        begin = words.at
        end = words.tokens.index("nlri", begin) if "nlri" in words.tokens[begin:] else len(words.tokens)
        words.at = end
        words.expect("nlri")
        return tuple(dict.fromkeys(_prefix(words) for _ in words.tokens[words.at :] or [""])), begin, end
    if kind != "route":
        words.expect("unicast")
    nlri = _prefix(words)
    if kind not in {"route", family_of(nlri).label}:
        raise words.fault(f"not a prefix of {kind}")
    return (nlri,), words.at, len(words.tokens)


def _prefix(words: _Words) -> Nlri:
    text = words()
    if "%" in text:
        raise words.fault("a prefix has no zone")
    try:
        return parse_nlri(text)
    except ValueError as error:
        raise words.fault(str(error) if text else "a prefix is missing") from error


@functools.lru_cache(maxsize=1024)
def _attributes(said: tuple[str, ...]) -> tuple[PathAttributes, bool]:
    """Return what some words say of routes, and whether the next hop is to be our own; one object for the same words.

    Raises _FaultError.
    """
    words, read = _Words(said), dict[str, Any]()
    next_hop: IPAddress | None = None
    is_self = False
    while name := words.peek():
        words()
        if name == "next-hop":
            next_hop = None if (is_self := words().lower() == "self") else _host(words)
        elif name in _VALUES:
            read[name] = _value(name, words)
        else:
            raise words.fault(f"not taken here; there are next-hop, {', '.join(_VALUES)}")
    aggregator = read.get("aggregator")
    attributes = PathAttributes(
        origin=Origin(read["origin"].origin if "origin" in read else 0),
        as_path=read.get("as-path", AsPath()),
        next_hop=next_hop,
        med=read.get("med"),
        local_pref=read.get("local-preference"),
        atomic_aggregate="atomic-aggregate" in read,
        aggregator=aggregator,
        communities=tuple(sorted(n for (n,) in set(struct.iter_unpack("!I", read.get("community", b""))))),
        ext_communities=tuple(sorted(c for (c,) in set(struct.iter_unpack("8s", read.get("extended-community", b""))))),
        large_communities=tuple(sorted(set(struct.iter_unpack("!III", read.get("large-community", b""))))),
    )
    return attributes, is_self


def _host(words: _Words) -> IPAddress:
    """Return the address that was taken last."""
    text = words.tokens[words.at - 1] if words.at <= len(words.tokens) else ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise words.fault("not self or an IP address") from error
    if not is_host(address) or address.is_link_local or address.is_loopback:
        raise words.fault("not the address of a host that others could reach")
    return address


def _value(name: str, words: _Words) -> Any:
    """Return an attribute as ExaBGP reads it, in our terms; raises _FaultError, whatever its parser trips over."""
    begin = words.at
    try:
        found = _TERMS[name](_VALUES[name](words))
    except ValueError as error:
        raise _at_word(words, begin, str(error).partition("\n")[0].strip()) from error
    except Exception as error:  # the words are a helper's, and what ExaBGP trips over is not listed
        raise _at_word(words, begin, f"not a value of {name}") from error
    for at, word in enumerate(words.tokens[begin : words.at], begin):
        if name in _CHECKS and ":" in word:
            try:
                _CHECKS[name](word)
            except ValueError as error:
                raise _FaultError(at, str(error)) from error
    return found


def _at_word(words: _Words, begin: int, reason: str) -> _FaultError:
    """Return a fault at the word that was taken last, or at the first that is missing."""
    return _FaultError(max(begin, min(words.at - 1, len(words.tokens))), reason)


def _number(value: int) -> int:
    if value > _BIGGEST:
        raise ValueError(f"above {_BIGGEST}")
    return value


def _as_path(found: Any) -> AsPath:
    segments = []
    for segment in found.aspath:
        members = tuple(Asn(int(asn)) for asn in segment)
        if not members or not all(0 < asn <= _BIGGEST for asn in members):
            raise ValueError(f"an AS number is 1 to {_BIGGEST}, and there is one at least")
        segments.append((SegmentKind(segment.ID), members))
    path = AsPath(tuple(segments))
    if any(kind not in {SegmentKind.SET, SegmentKind.SEQUENCE} for kind, _ in path.segments):
        raise ValueError("there is no confederation here (RFC 5065)")
    if sum(len(members) for _, members in path.segments) > _LONGEST_AS_PATH:
        raise ValueError(f"longer than {_LONGEST_AS_PATH}")
    return path


def _aggregator(found: Any) -> tuple[Asn, IPAddress]:
    asn = Asn(int(found.asn))
    if not 0 < asn <= _BIGGEST:
        raise ValueError(f"an AS number is 1 to {_BIGGEST}")
    return asn, ipaddress.IPv4Address(found.speaker.ton())


def _octets(found: Any, size: int) -> bytes:
    """Return the communities, of so many octets each, side by side."""
    packed = bytes(found.pack())
    value = packed[4:] if packed[0] & _EXTENDED_LENGTH else packed[3:]
    if len(value) % size or not value:
        raise ValueError(f"not of {size} octets each")
    return value


_TERMS: dict[str, Callable[[Any], object]] = {
    "origin": lambda found: found,
    "as-path": _as_path,
    "med": lambda found: _number(int(found.med)),
    "local-preference": lambda found: _number(int(found.localpref)),
    "atomic-aggregate": lambda _: True,
    "aggregator": _aggregator,
    "community": functools.partial(_octets, size=4),
    "large-community": functools.partial(_octets, size=12),
    "extended-community": functools.partial(_octets, size=8),
}
