"""One value of the file, by the type of its field: what it means, or why it cannot be, in words."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from typing import ClassVar, Protocol

from bgpmesh.control.http import split_listen
from bgpmesh.peering.options import ASN_RANGE, Bfd, Limit, Password
from bgpmesh.peering.peer import AddPath, FlowLimit, most_but_a_fifth
from bgpmesh.policy.rule import SCTP, TCP, UDP, Failsafe
from bgpmesh.rib.aspath import Expression
from bgpmesh.rib.rule import NextHopTerm, PrefixRange, Prepend
from bgpmesh.route import community
from bgpmesh.route.attributes import Asn
from bgpmesh.route.nlri import ROUTED, Family, IPAddress, IPNetwork, is_host, is_link_local, link_of
from bgpmesh.workload.pool import Masquerade

_LINK = re.compile(r"[^\s/%]{1,15}")  # IFNAMSIZ
MOST_FLOWS = 10_000  # of one peer: every packet to an address that one is about walks them
LONGEST_PASSWORD = 80  # octets: TCP_MD5SIG_MAXKEYLEN of the kernel

_LABEL_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
_PREFIX_RANGE = re.compile(r"(\S+)(?: +ge +([0-9]{1,4}))?(?: +le +([0-9]{1,4}))?")
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


class Options(Protocol):
    """Any options class: a dataclass whose fields say what they are in their metadata."""

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]


class BadValueError(Exception):
    """A value cannot be: each part of it that is wrong, with the reason; `good` is what is right of a list."""

    def __init__(self, *faults: tuple[object, str], good: tuple[object, ...] | None = None) -> None:
        super().__init__()
        self.faults = faults
        self.good = good


Meta = Mapping[str, object]


def parse(knob: Field[object], value: object) -> object:
    """Return what the file's value means for this field; raises BadValueError."""
    kind = str(knob.type).removesuffix(" | None")
    return _KINDS[kind](value, knob.metadata)


def _bool(value: object, _: Meta) -> bool:
    if isinstance(value, bool):
        return value
    raise BadValueError((value, "not true or false"))


def _int(value: object, meta: Meta) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValueError((value, "not a whole number"))
    _in_range(value, meta)
    return value


def _float(value: object, meta: Meta) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(value, float) and math.isnan(value))
    ):
        raise BadValueError((value, "not a number"))
    _in_range(value, meta)
    return float(value)


def _in_range(value: float, meta: Meta) -> None:
    match meta.get("range"):
        case (int() as low, int() as high):
            if not low <= value <= high:
                unit = f" {meta['unit']}" if "unit" in meta else ""
                raise BadValueError((value, f"not between {low} and {high}{unit}"))
    if value in _refused_values(meta):
        raise BadValueError((value, str(meta["refused_reason"])))


def _refused_values(meta: Meta) -> tuple[object, ...]:
    refused = meta.get("refused", ())
    return refused if isinstance(refused, tuple) else ()


def _str(value: object, meta: Meta) -> str:
    if not isinstance(value, str):
        raise BadValueError((value, "not a string"))
    match meta.get("choices"):
        case tuple(choices) if value not in choices:
            raise BadValueError((value, f"not one of {', '.join(choices)}{guess(value, choices)}"))
    match meta.get("pattern"):
        case (str(pattern), str(words)) if not re.fullmatch(pattern, value):
            raise BadValueError((value, f"not {words}"))
    match meta.get("longest"):
        case int(longest) if len(value.encode()) > longest:
            raise BadValueError((value, f"longer than {longest} octets"))
    if "\0" in value:
        raise BadValueError((value, "has a NUL in it"))
    return value


def password_of(value: object, _: Meta) -> Password:
    """Return the password; raises BadValueError."""
    if not isinstance(value, str):
        raise BadValueError((value, "not a string"))
    if not 1 <= len(value.encode()) <= LONGEST_PASSWORD:
        raise BadValueError((value, f"not 1 to {LONGEST_PASSWORD} octets long"))
    return Password(value)


def _listen(value: object, _: Meta) -> str:
    if not isinstance(value, str):
        raise BadValueError((value, "not a string"))
    try:
        split_listen(value)
    except ValueError as error:
        raise BadValueError((value, str(error))) from error
    return value


def _router_id(value: object, _: Meta) -> int:
    try:
        number = int(ipaddress.IPv4Address(value if isinstance(value, str) else ""))
    except ValueError as error:
        raise BadValueError((value, "not four numbers with dots")) from error
    if number == 0:
        raise BadValueError((value, "zero is no identifier (RFC 6286 §2.1)"))
    return number


def _address(value: object, meta: Meta) -> IPAddress:
    try:
        address = ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError as error:
        raise BadValueError((value, "not an IP address")) from error
    if meta.get("version", address.version) != address.version:
        raise BadValueError((value, f"not an IPv{meta['version']} address"))
    if address.is_multicast or (address.is_unspecified and not meta.get("unspecified")):
        raise BadValueError((value, "not the address of one host"))
    if is_link_local(address):
        if not meta.get("link_local"):
            raise BadValueError((value, "a link-local address, which is of one link only"))
        if not _LINK.fullmatch(link_of(address)):
            raise BadValueError((value, "a link-local address without its link, as in fe80::2%eth1"))
    elif link_of(address):
        raise BadValueError((value, "only a link-local address has a link"))
    return address


def _network(value: object, _: Meta) -> IPNetwork:
    text = value if isinstance(value, str) and "%" not in value else ""  # Python would take a link here too
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        try:
            loose = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise BadValueError((value, "not a prefix")) from error
        raise BadValueError((value, f"host bits are set; the prefix is {loose}")) from error


def _many(one: Callable[[object, Meta], object]) -> Callable[[object, Meta], tuple[object, ...]]:
    """Return a parser of a list of what `one` parses: each bad member is named, and none may stand twice."""

    def parse_all(value: object, meta: Meta) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise BadValueError((value, "not a list"))
        good: list[object] = []
        faults: list[tuple[object, str]] = []
        for member in value:
            try:
                parsed = one(member, meta)
            except BadValueError as error:
                faults += error.faults
            else:
                faults += [(member, "stands here twice")] if parsed in good else []
                good.append(parsed)
        if faults:
            raise BadValueError(*faults, good=tuple(good))
        return tuple(good)

    return parse_all


def _one_or_many(value: object, meta: Meta) -> tuple[object, ...]:
    return _many(_address)([value] if isinstance(value, str) else value, {**meta, "unspecified": True})


def _family(value: object, _: Meta) -> Family:
    for family in ROUTED:
        if value == family.label:
            return family
    raise BadValueError((value, "not one of ipv4, ipv6"))


def _command(value: object, _: Meta) -> tuple[str, ...]:
    """Return a program and its arguments."""
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise BadValueError((value, 'not a program and its arguments: ["PROGRAM", "ARGUMENT", ..]'))
    if not value[0] or any("\0" in word for word in value):
        raise BadValueError((value, "has a NUL in it" if value[0] else "has no program"))
    return tuple(value)


def _families(value: object, meta: Meta) -> tuple[object, ...]:
    if value == []:
        raise BadValueError((value, "empty: a session has at least one family"))
    return _many(_family)(value, meta)


def _labels(value: object, _: Meta) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise BadValueError((value, "not a table of labels"))
    faults: list[tuple[object, str]] = []
    for key, text in value.items():
        if not _LABEL_KEY.fullmatch(key):
            faults.append((key, "not a label key: letters, digits, '.', '_', '-' and '/'"))
        if not isinstance(text, str):
            faults.append((text, f"label {key} is not a string"))
        elif not _LABEL_VALUE.fullmatch(text):
            faults.append((text, f"label {key} is not letters, digits, '.', '_' and '-', 63 at most"))
    if faults:
        raise BadValueError(*faults)
    return tuple(sorted(value.items()))


def _hops(value: object, meta: Meta) -> int:
    return (1 if value else 0) if isinstance(value, bool) else _int(value, meta)


def _ttl(value: object, meta: Meta) -> int:
    return (255 if value else 0) if isinstance(value, bool) else _int(value, meta)


def _limit(value: object, meta: Meta) -> Limit:
    if not isinstance(value, dict):
        limit = _int(value, meta)
        return Limit(limit, most_but_a_fifth(limit))
    most = 100_000_000
    faults: list[tuple[object, str]] = []
    found = Limit(1, 1)
    try:
        numbers = {"limit": 1} | _numbers(value, {"limit": (1, most), "warn": (1, most), "restart": (0, most)})
        found = Limit(**{"warn": most_but_a_fifth(numbers["limit"])} | numbers)
    except BadValueError as error:
        faults += error.faults
    if "limit" not in value:
        faults.append((value, "limit is missing"))
    elif not faults and found.warn > found.limit:
        faults.append((found.warn, f"warn is above limit, {found.limit}"))
    if faults:
        raise BadValueError(*faults)
    return found


def _flow_limit(value: object, _: Meta) -> FlowLimit:
    if not isinstance(value, dict):
        raise BadValueError((value, "not a table { rules, ttl }; {} is the default of both"))
    return FlowLimit(**_numbers(value, {"rules": (1, MOST_FLOWS), "ttl": (0, 31_536_000)}))


def _bfd(value: object, _: Meta) -> Bfd | None:
    if isinstance(value, bool):
        return Bfd() if value else None
    if not isinstance(value, dict):
        raise BadValueError((value, "not true, false or { interval_ms, multiplier, hops }"))
    return Bfd(**_numbers(value, {"interval_ms": (10, 60_000), "multiplier": (1, 255), "hops": (1, 255)}))


def _add_path(value: object, _: Meta) -> AddPath | None:
    if isinstance(value, bool):
        return AddPath() if value else None
    if not isinstance(value, dict):
        raise BadValueError((value, "not true, false or { send, receive }"))
    receive = value.get("receive", True)
    numbers = {key: member for key, member in value.items() if key != "receive"}
    if not isinstance(receive, bool):
        raise BadValueError((receive, "receive is not true or false"))
    made = AddPath(**_numbers(numbers, {"send": (0, 255)}), receive=receive)
    return made if made.receive or made.send else None


def _numbers(table: dict[str, object], ranges: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Return the whole numbers in a table that may have these keys; a `ttl` is in seconds. Raises BadValueError."""
    faults: list[tuple[object, str]] = []
    numbers: dict[str, int] = {}
    for key, member in table.items():
        if key not in ranges:
            faults.append((table, f"unknown key {key}{guess(key, ranges)}"))
            continue
        try:
            numbers[key] = _int(member, {"range": ranges[key], "unit": "s"} if key == "ttl" else {"range": ranges[key]})
        except BadValueError as error:
            faults += [(bad, f"{key} is {reason}") for bad, reason in error.faults]
    if faults:
        raise BadValueError(*faults)
    return numbers


def _masquerade(value: object, _: Meta) -> Masquerade | None:
    if isinstance(value, bool):
        return Masquerade() if value else None
    if not isinstance(value, dict):
        raise BadValueError((value, "not true, false or { exclude, source }"))
    faults: list[tuple[object, str]] = []
    unknown = sorted(value.keys() - {"exclude", "source"})
    faults += [(value, f"unknown key {key}{guess(key, ('exclude', 'source'))}") for key in unknown]
    found: dict[str, object] = {}
    for key, kind in (("exclude", "tuple[IPNetwork, ...]"), ("source", "IPAddress")):
        if key in value:
            try:
                found[key] = _KINDS[kind](value[key], {})
            except BadValueError as error:
                faults += [(bad, f"{key}: {reason}") for bad, reason in error.faults]
    if faults:
        raise BadValueError(*faults)
    make: Callable[..., Masquerade] = Masquerade
    return make(**found)


def _failsafe(value: object, meta: Meta) -> Failsafe:
    """Return a port as Calico writes it: `tcp:22`, or with a prefix `tcp:192.0.2.0/24:22`, an IPv6 one in brackets."""
    word, colon, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    net, _, port = rest.rpartition(":")
    protocol = {"tcp": TCP, "udp": UDP, "sctp": SCTP}.get(word)
    if not colon or protocol is None or not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise BadValueError((value, "not PROTOCOL:PORT or PROTOCOL:PREFIX:PORT, of tcp, udp or sctp"))
    bare = net[1:-1] if net.startswith("[") and net.endswith("]") else net
    try:
        return Failsafe(protocol, int(port), _network(bare, meta) if net else None)
    except BadValueError as error:
        raise BadValueError(*((value, reason) for _, reason in error.faults)) from error


# ── filters ──────────────────────────────────────────────────────────────────


def _prefix_range(value: object, meta: Meta) -> PrefixRange:
    """Return a range as FRR writes it: P, `P ge N`, `P le N` or `P ge N le M`."""
    found = _PREFIX_RANGE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise BadValueError((value, "not PREFIX, PREFIX ge N, PREFIX le M or PREFIX ge N le M"))
    try:
        network = _network(found[1], meta)
    except BadValueError as error:
        raise BadValueError(*((value, reason) for _, reason in error.faults)) from error
    low = int(found[2]) if found[2] else network.prefixlen
    high = int(found[3]) if found[3] else network.max_prefixlen if found[2] else network.prefixlen
    for word, length in (("ge", low), ("le", high)):
        if not network.prefixlen <= length <= network.max_prefixlen:
            reason = f"{word} {length} is not between {network.prefixlen}, the length of the prefix, and "
            raise BadValueError((value, f"{reason}{network.max_prefixlen}"))
    if low > high:
        raise BadValueError((value, f"ge {low} is above le {high}: nothing is as long as that"))
    return PrefixRange(network, low, high)


def _terms(one: Callable[[object, Meta], object]) -> Callable[[object, Meta], tuple[object, ...]]:
    """Return a parser of what `one` parses, or of a list of such; an empty one would ask nothing."""

    def parse_all(value: object, meta: Meta) -> tuple[object, ...]:
        if value == []:
            raise BadValueError((value, "empty: leave the key out"))
        return _many(one)(value if isinstance(value, list) else [value], meta)

    return parse_all


def _checked(check: Callable[[str], object]) -> Callable[[object, Meta], str]:
    """Return a parser of texts that `check` reads, or raises ValueError in words."""

    def parse_text(value: object, meta: Meta) -> str:
        text = _str(value, meta)
        try:
            check(text)
        except ValueError as error:
            raise BadValueError((value, str(error))) from error
        return text

    return parse_text


def _communities(
    pattern: Callable[[str], community.Pattern], bits: int
) -> Callable[[object, Meta], tuple[object, ...]]:
    """Return a parser of communities, with `*` but where each is to be `added`."""
    one = _checked(pattern)

    def parse_one(value: object, meta: Meta) -> str:
        text = one(value, meta)
        if "added" in meta and community.only(pattern(text), bits) is None:
            raise BadValueError((value, "* stands for many: which of them is to be added?"))
        return text

    return _terms(parse_one)


def _asked_next_hop(value: object, meta: Meta) -> IPNetwork:
    if isinstance(value, str) and "/" not in value:
        raise BadValueError(
            (value, "in a list prefixes are asked for: with /32 or /128, or outside of a list to set it")
        )
    return _network(value, meta)


def _next_hop_term(value: object, meta: Meta) -> NextHopTerm:
    if value == "self":
        return NextHopTerm(is_self=True)
    if isinstance(value, str) and "/" not in value:
        to = _address(value, meta)
        if not is_host(to) or to.is_loopback:
            raise BadValueError((value, "not the address of a host that others could reach"))
        return NextHopTerm(to=to)
    try:
        within = _many(_asked_next_hop)([value] if isinstance(value, str) else value, meta)
    except BadValueError as error:  # the good ones among them are no term
        raise BadValueError(*error.faults) from error
    if not within:
        raise BadValueError((value, "empty: no next hop is in it"))
    make: Callable[..., NextHopTerm] = NextHopTerm
    return make(within)


def _prepend(value: object, meta: Meta) -> Prepend:
    if not isinstance(value, list):
        return Prepend(_int(value, meta))
    low, high = ASN_RANGE
    faults = [
        (each, f"not an AS number, {low} to {high}")
        for each in value
        if isinstance(each, bool) or not isinstance(each, int) or not low <= each <= high
    ]
    match meta.get("range"):
        case (int(), int() as most) if not 1 <= len(value) <= most:
            faults.append((value, f"not 1 to {most} AS numbers"))
    if faults:
        raise BadValueError(*faults)
    return Prepend(asns=tuple(map(Asn, value)))


_KINDS: dict[str, Callable[[object, Meta], object]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _str,
    "Asn": _int,
    "RouterId": _router_id,
    "Listen": _listen,
    "Hops": _hops,
    "Ttl": _ttl,
    "Limit": _limit,
    "FlowLimit": _flow_limit,
    "AddPath": _add_path,
    "Bfd": _bfd,
    "Masquerade": _masquerade,
    "Password": password_of,
    "Labels": _labels,
    "Command": _command,
    "IPAddress": _address,
    "IPNetwork": _network,
    "tuple[IPAddress, ...]": _one_or_many,
    "tuple[IPNetwork, ...]": _many(_network),
    "tuple[Family, ...]": _families,
    "tuple[Failsafe, ...]": _many(_failsafe),
    "tuple[str, ...]": _many(_str),
    "tuple[PrefixRange, ...]": _terms(_prefix_range),
    "tuple[Community, ...]": _communities(community.community, community.BITS),
    "tuple[LargeCommunity, ...]": _communities(community.large_community, community.LARGE_BITS),
    "tuple[ExtCommunity, ...]": _communities(community.ext_community, community.EXT_BITS),
    "tuple[PathExpression, ...]": _terms(_checked(Expression)),
    "tuple[PeerTerm, ...]": _terms(_str),
    "tuple[FamilyTerm, ...]": _terms(_family),
    "NextHopTerm": _next_hop_term,
    "Prepend": _prepend,
}


# ── showing ──────────────────────────────────────────────────────────────────


def _close(word: str, known: Iterable[str]) -> list[str]:
    from difflib import get_close_matches  # noqa: PLC0415  a good file asks for no guess

    return get_close_matches(word, list(known), 1)


def guess(key: str, known: Iterable[str]) -> str:
    """Return `; did you mean ..?`, or nothing where nothing known comes close."""
    close = _close(key.lower(), known)
    return f"; did you mean {close[0]}?" if close else ""


def is_secret(key: str) -> bool:
    """Tell whether what stands under this key, perhaps misspelt, may be a password; the name of a file is none."""
    word = key.lower()
    if word == "password_file":
        return False
    has_part = any(part in word for part in ("pass", "secret", "md5", "psw", "pwd"))
    return has_part or bool(_close(word, ["password", "password_file"]))


def shown(value: object) -> str:
    """Return a value as it would stand in the file; of a table its keys only."""
    match value:
        case bool():
            text = "true" if value else "false"
        case str():
            text = json.dumps(value, ensure_ascii=False)
        case int():
            text = str(value) if value.bit_length() < 1000 else f"a number of {value.bit_length()} bits"
        case dict():
            text = "{ " + ", ".join(value) + " }" if value else "{}"
        case list():
            text = "[" + ", ".join(map(shown, value[:8])) + (", .." if len(value) > 8 else "") + "]"
        case _:
            text = str(value)
    text = printable(text)
    return text if len(text) <= 100 else text[:100] + ".."


def printable(text: str) -> str:
    """Return a text that stays on its line: keys and values of a file may hold control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def toml(value: object) -> str:
    """Return a default as it stands in a file."""
    match value:
        case tuple():
            return "[" + ", ".join(map(toml, value)) + "]"
        case Family():
            return toml(value.label)
        case float() if value == int(value):
            return str(int(value))
    return shown(value)


def knobs(cls: type[Options]) -> list[Field[object]]:
    """Return the fields that are keys of the table; the name of a named table is none."""
    return [knob for knob in fields(cls) if knob.name != "name" and not knob.metadata.get("is_name")]


def key_of(knob: Field[object]) -> str:
    """Return the key of a field in the file."""
    return str(knob.metadata.get("key", knob.name))
