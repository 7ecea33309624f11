"""The tables of an object, read key by key.

Every fault is kept, with its path, and reading goes on with a harmless value: one pass names all of them. A key
that nobody asked for is unknown, and a fault too. null is the same as absent, as it is for an API server.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeGuard, TypeVar

from bgpmesh.frozen import frozen
from bgpmesh.policy.rule import NAMESPACE_LABEL, NAMESPACE_PREFIX, IPNetwork, PortRange
from bgpmesh.policy.selector import Everything, Selector, SelectorError, parse

T = TypeVar("T")

LONGEST_LABEL = 63  # characters of one part of a DNS name (RFC 1123), and of a label's value
LONGEST_NAME = 253  # characters of a DNS name
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_KEY_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?!.*--)(?=.*[a-z])[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")  # RFC 6335 §5.1
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]+")
_NETWORK = re.compile(r"[0-9A-Fa-f.:]+/[0-9]{1,3}")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # IPv4-mapped: never on a wire (RFC 4291 §2.5.5.2)
_CUT = 60  # characters of a value that a reason shows


class Fault(NamedTuple):
    """Where in an object (`spec.ingress[0].from[1].ipBlock.cidr`, "": the whole), and what is wrong there."""

    field: str
    reason: str


@frozen
class Head:
    """What stands around a spec; `namespace` None: the kind has none."""

    name: str
    namespace: str | None
    labels: Mapping[str, str]
    tier: str = "default"
    is_staged: bool = False


class BadValueError(ValueError):
    """A value cannot be; says why, without where."""


@dataclass(slots=True)
class Findings:
    """What was found out about one object: faults, and what is allowed and probably not meant."""

    faults: dict[Fault, None] = field(default_factory=dict)  # each once, in the order found
    warnings: dict[Fault, None] = field(default_factory=dict)
    opened: list[Fields] = field(default_factory=list)

    def close(self) -> None:
        """Refuse every key that nobody asked for."""
        for fields in self.opened:
            fields.refuse_rest("is not known here")


class Fields:
    """One table of an object. A key of the wrong type is a fault and counts as absent."""

    __slots__ = ("_asked", "_table", "findings", "path")

    def __init__(self, value: object, path: str, findings: Findings) -> None:
        self.path = path
        self.findings = findings
        self._asked: set[object] = set()
        self._table: Mapping[object, object] = value if isinstance(value, Mapping) else {}
        if isinstance(value, Mapping):
            findings.opened.append(self)
        else:
            findings.faults[Fault(path, f"is {shown(value)}, not a table")] = None

    def at(self, key: str) -> str:
        """Return the path of a key."""
        return f"{self.path}.{key}" if self.path and key else self.path or key

    def refuse(self, key: str, reason: str) -> None:
        """Note a fault of a key ("": of the whole table)."""
        self.findings.faults[Fault(self.at(key), reason)] = None

    def warn(self, key: str, reason: str) -> None:
        """Note what is allowed and probably not meant."""
        self.findings.warnings[Fault(self.at(key), reason)] = None

    def refuse_rest(self, reason: str, *, is_empty_fine: bool = False) -> None:
        """Refuse every key that was not asked for so far; `is_empty_fine`: but for what is empty, or zero."""
        known = {_plain(key): key for key in self._asked if isinstance(key, str)}
        for key, value in self._table.items():
            if key in self._asked or (is_empty_fine and not value):
                continue
            name = key if isinstance(key, str) else shown(key)
            guess = known.get(_plain(name))
            self.refuse(printable(name), reason + (f": did you mean {guess}?" if guess else ""))
        self._asked.update(self._table)

    def take(self, key: str) -> object:
        """Return the value of a key, None where it is absent."""
        self._asked.add(key)
        return self._table.get(key)

    def has(self, key: str) -> bool:
        """Tell whether the key is there, of whatever type."""
        return self.take(key) is not None

    def text(self, key: str, default: str = "") -> str:
        """Return a text."""
        value = self.take(key)
        if value is None:
            return default
        if is_text(value):
            return value
        self.refuse(key, f"is {shown(value)}, not a text")
        return default

    def flag(self, key: str) -> bool:
        """Return whether a key is true; absent: false."""
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            self.refuse(key, f"is {shown(value)}, not true or false")
        return value is True

    def whole(self, key: str, low: int, high: int) -> int | None:
        """Return a whole number from `low` to `high`."""
        return self.one(key, lambda value: whole(value, low, high))

    def number(self, key: str) -> float | None:
        """Return a finite number."""
        return self.one(key, _number)

    def choice(self, key: str, choices: Mapping[str, T], default: T, *, is_required: bool = False) -> T:
        """Return what a word stands for."""
        value = self.take(key)
        if value is None:
            if is_required:
                self.refuse(key, f"is missing: one of {', '.join(choices)}")
            return default
        if isinstance(value, str) and value in choices:
            return choices[value]
        self.refuse(key, f"is {shown(value)}, not one of {', '.join(choices)}")
        return default

    def one(self, key: str, read: Callable[[object], T]) -> T | None:
        """Return what `read` makes of a value."""
        value = self.take(key)
        return None if value is None else self._read(key, value, read)

    def each(self, key: str, read: Callable[[object], T]) -> tuple[T, ...]:
        """Return what `read` makes of each element of a list."""
        found = (self._read(name, value, read) for name, value in self._elements(key))
        return tuple(value for value in found if value is not None)

    def _read(self, key: str, value: object, read: Callable[[object], T]) -> T | None:
        try:
            return read(value)
        except BadValueError as error:
            self.refuse(key, str(error))
            return None

    def _elements(self, key: str) -> Iterator[tuple[str, object]]:
        value = self.take(key)
        if isinstance(value, list | tuple):
            yield from ((f"{key}[{index}]", element) for index, element in enumerate(value))
        elif value is not None:
            self.refuse(key, f"is {shown(value)}, not a list")

    def count(self, key: str) -> int:
        """Return how many elements a list has."""
        value = self.take(key)
        return len(value) if isinstance(value, list | tuple) else 0

    def table(self, key: str) -> Fields | None:
        """Return a table within."""
        value = self.take(key)
        if value is None:
            return None
        fields = Fields(value, self.at(key), self.findings)
        return fields if isinstance(value, Mapping) else None

    def tables(self, key: str) -> list[Fields]:
        """Return the tables of a list."""
        elements = list(self._elements(key))
        found = [Fields(value, self.at(name), self.findings) for name, value in elements]
        return [each for each, (_, value) in zip(found, elements, strict=True) if isinstance(value, Mapping)]

    def texts(self, key: str) -> dict[str, str]:
        """Return a table of texts by text."""
        value = self.take(key)
        if value is not None and not isinstance(value, Mapping):
            self.refuse(key, f"is {shown(value)}, not a table")
            return {}
        good: dict[str, str] = {}
        for name, text in (value or {}).items():
            if is_text(name) and is_text(text):
                good[name] = text
            else:
                self.refuse(key, f"has {shown(name)} = {shown(text)}: both must be texts")
        return good

    def labels(self, key: str, *, are_own: bool = False) -> dict[str, str]:
        """Return labels; those that an object gives itself (`are_own`) cannot claim a namespace."""
        good: dict[str, str] = {}
        for name, value in self.texts(key).items():
            try:
                good[label_key(name)] = label_value(value)
            except BadValueError as error:
                self.refuse(key, str(error))
            if are_own and (name == NAMESPACE_LABEL or name.startswith(NAMESPACE_PREFIX)):
                self.refuse(key, f"has {shown(name)}, which is given by the namespace alone")
        return good

    def selector(self, key: str) -> Selector | None:
        """Return a selector of our language; None where it is absent or blank."""
        text = self.text(key)
        if not text.strip():
            return None
        try:
            return parse(text)
        except SelectorError as error:
            self.refuse(key, str(error))
            return Everything()


def _plain(key: str) -> str:
    return key.replace("_", "").lower()


def is_text(value: object) -> TypeGuard[str]:
    """Tell whether this is a text; half a surrogate pair, which JSON can carry, is none."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def printable(text: str, limit: int = _CUT) -> str:
    """Return a text of others as it may stand in a line of ours: short, without control characters."""
    cut = text if len(text) <= limit else f"{text[:limit]}.."
    return cut if cut.isprintable() else repr(cut)[1:-1]


def shown(value: object) -> str:
    """Return a value as its author would know it again, on a line; O(1)."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value if len(value) <= _CUT else f"{value[:_CUT]}..")
        case int() if value.bit_length() > 128:
            return f"a number of {value.bit_length()} bits"
        case int() | float():
            return str(value)
        case Mapping():
            return "a table"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def whole(value: object, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`; raises BadValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValueError(f"is {shown(value)}, not a whole number")
    if not low <= value <= high:
        raise BadValueError(f"is {shown(value)}, not between {low} and {high}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValueError(f"is {shown(value)}, not a number")
    if not -1e308 <= value <= 1e308:  # also NaN
        raise BadValueError(f"is {shown(value)}, not a finite number")
    return float(value)


def dns_label(value: object) -> str:
    """Return a name of one part (RFC 1123): a namespace's, a tier's; raises BadValueError."""
    if isinstance(value, str) and len(value) <= LONGEST_LABEL and _DNS_LABEL.fullmatch(value):
        return value
    raise BadValueError(
        f"is {shown(value)}, not 1 to {LONGEST_LABEL} of a-z, 0-9 and '-', with a letter or digit at both ends"
    )


def dns_name(value: object) -> str:
    """Return a name of parts with dots between (RFC 1123); raises BadValueError."""
    if isinstance(value, str) and len(value) <= LONGEST_NAME and _DNS_NAME.fullmatch(value):
        return value
    raise BadValueError(
        f"is {shown(value)}, not 1 to {LONGEST_NAME} of a-z, 0-9, '-' and '.', with a letter or digit at both ends"
        " of every part"
    )


def label_key(value: object) -> str:
    """Return a label's key: a DNS name and `/` may stand before its name; raises BadValueError."""
    if isinstance(value, str):
        prefix, slash, name = value.rpartition("/")
        is_prefix = not slash or (len(prefix) <= LONGEST_NAME and _DNS_NAME.fullmatch(prefix))
        if is_prefix and len(name) <= LONGEST_LABEL and _KEY_NAME.fullmatch(name):
            return value
    raise BadValueError(
        f"has {shown(value)}, which is no label's key: a DNS name and '/' (or neither), then 1 to {LONGEST_LABEL} of"
        " A-Z, a-z, 0-9, '-', '_' and '.', with a letter or digit at both ends"
    )


def label_value(value: object) -> str:
    """Return a label's value; raises BadValueError."""
    if isinstance(value, str) and len(value) <= LONGEST_LABEL and (not value or _KEY_NAME.fullmatch(value)):
        return value
    raise BadValueError(
        f"has {shown(value)}, which is no label's value: at most {LONGEST_LABEL} of A-Z, a-z, 0-9, '-', '_' and '.',"
        " with a letter or digit at both ends"
    )


def network(value: object, *, is_strict: bool = False) -> IPNetwork:
    """Return a prefix; `is_strict`: without bits of the host. Raises BadValueError."""
    if isinstance(value, str) and _NETWORK.fullmatch(value):
        try:
            found = ipaddress.ip_network(value, strict=False)
        except ValueError:
            pass
        else:
            if is_strict and found.network_address != ipaddress.ip_address(value.partition("/")[0]):
                raise BadValueError(f"is {shown(value)}, with bits set beyond its length: write {found}")
            if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_MAPPED):
                raise BadValueError(f"is {shown(value)}: IPv4 within IPv6 is on no wire; write it as IPv4")
            return found
    raise BadValueError(f"is {shown(value)}, not a prefix such as 192.0.2.0/24 or 2001:db8::/32")


def strict_network(value: object) -> IPNetwork:
    """Return a prefix without bits of the host; raises BadValueError."""
    return network(value, is_strict=True)


def network_or_address(value: object) -> IPNetwork:
    """Return a prefix, or the prefix of one address; raises BadValueError."""
    if isinstance(value, str) and _ADDRESS.fullmatch(value):
        return ipaddress.ip_network(address(value))
    return network(value)


def address(value: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address; raises BadValueError."""
    if isinstance(value, str) and _ADDRESS.fullmatch(value):
        try:
            return ipaddress.ip_address(value)
        except ValueError:
            pass
    raise BadValueError(f"is {shown(value)}, not an address such as 192.0.2.1 or 2001:db8::1")


def port_name(value: object) -> str:
    """Return the name of a port (RFC 6335 §5.1); raises BadValueError."""
    if isinstance(value, str) and len(value) <= 15 and _PORT_NAME.fullmatch(value):
        return value
    raise BadValueError(
        f"is {shown(value)}, not the name of a port: 1 to 15 of a-z, 0-9 and single '-', a letter among them"
    )


def port_number(value: object) -> PortRange:
    """Return one port; raises BadValueError."""
    number = whole(value, 1, 65535)
    return PortRange(number, number)
