"""Values as JSON and back, by the annotations of their classes: one form for each kind of annotation.

Nothing here knows an event. A class is written as an object with the fields that are not as by default; where one
of several classes may stand, its name stands beside it.
"""

from __future__ import annotations

import base64
import enum
import ipaddress
import json
import sys
import types
import typing
from binascii import b2a_base64
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from itertools import groupby

from bgpmesh.frozen import frozen
from bgpmesh.route.nlri import Nlri

MEMO = 1024  # values whose written form is remembered: about 1 MB


@frozen
class Form:
    """How the values of one annotation are written and read; `write` is None where they are JSON as they are.

    `read` raises ValueError in words, or KeyError and TypeError as Python's own functions do.
    """

    write: Callable[..., object] | None
    read: Callable[..., object]

    def written(self, value: object) -> object:
        """Return the value as JSON, but for packed prefixes, which `rendered` turns into text."""
        return value if self.write is None else self.write(value)


class Forms:
    """The forms of all that events are made of, compiled from annotations when they are first met."""

    def __init__(self) -> None:
        self._forms: dict[object, Form] = {}
        self._secrets: dict[object, str] = {}
        self._indices: tuple[frozenset[int], str] = (frozenset(), "")  # the same connections come again and again

    def of(self, hint: object) -> Form:
        """Return the form of an annotation."""
        form = self._forms.get(hint)
        if form is None:
            if isinstance(hint, type) and is_dataclass(hint):
                record = _Record(self, hint)
                form = self._forms[hint] = Form(record.write, record.read)
            else:
                form = self._forms[hint] = self._compiled(hint)
        return form

    def secret(self) -> Form:
        """Return the form of what nobody may read."""

        def write(value: object) -> object:
            return None if value is None else self._secrets.setdefault(value, f"secret-{len(self._secrets) + 1}")

        return Form(write, lambda value: value)

    def _compiled(self, hint: object) -> Form:  # noqa: C901  one line for each kind of annotation
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if hint is Nlri:
            return Form(lambda nlri: _packed((nlri,)), lambda text: _only(_unpacked(text)))
        if isinstance(hint, typing.NewType):
            return self.of(hint.__supertype__)
        if origin is typing.Literal:
            return Form(None, lambda value: _choice(args, value))
        if origin in (typing.Union, types.UnionType):
            return self._union(args)
        if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
            return self._sequence(args[0], tuple)
        if origin is tuple:
            return self._row(args, tuple)
        if origin is Mapping or origin is dict:
            return self._mapping(*args)
        if origin is Collection and args == (int,):
            return Form(self._ranges, _unranged)
        if origin in (Sequence, list):
            return self._sequence(args[0], list)
        if origin in (frozenset, set, Collection):
            write, read = self.of(args[0]).written, self.of(args[0]).read
            return Form(lambda v: sorted(map(write, v), key=str), lambda v: frozenset(map(read, list_of(v))))
        if isinstance(hint, type):
            return self._scalar(hint)
        raise TypeError(f"the journal has no form for {hint}")

    def _scalar(self, hint: type) -> Form:
        if issubclass(hint, enum.Enum):
            return Form(lambda member: member.name, hint.__getitem__)
        if issubclass(hint, tuple) and hasattr(hint, "_make"):
            return self._row(tuple(typing.get_type_hints(hint).values()), hint._make)
        if hint is bytes:
            return Form(lambda data: base64.b64encode(data).decode(), lambda text: base64.b64decode(text_of(text)))
        if hint in _ADDRESSES | _NETWORKS:
            return Form(str, hint)
        if hint is float:
            return Form(None, number_of)
        if hint in (bool, int, str):
            return Form(None, partial(exactly, hint))
        if hint is object:
            return Form(None, lambda value: value)
        raise TypeError(f"the journal has no form for {hint}")

    def _union(self, args: tuple[object, ...]) -> Form:
        some = [arg for arg in args if arg is not types.NoneType]
        if set(some) == _ADDRESSES:
            form = Form(str, ipaddress.ip_address)
        elif set(some) == _NETWORKS:
            form = Form(str, ipaddress.ip_network)
        elif len(some) == 1:
            form = self.of(some[0])
        else:
            form = self._one_of([arg for arg in some if isinstance(arg, type)])
        if len(some) == len(args):
            return form
        write, read = form.write, form.read
        return Form(
            None if write is None else lambda value: None if value is None else write(value),
            lambda value: None if value is None else read(value),
        )

    def _one_of(self, classes: Collection[type]) -> Form:
        """Return the form of one of several classes, its name beside it; of a text or number among them as it is."""
        forms = {cls.__name__: self.of(cls) for cls in classes if is_dataclass(cls)}
        plain = tuple(cls for cls in classes if cls in {str, int})
        if len(forms) + len(plain) < len(classes):
            raise TypeError(f"the journal has no form for one of {classes}")

        def write(value: object) -> object:
            name = type(value).__name__
            return (name, forms[name].written(value)) if name in forms else value

        def read(value: object) -> object:
            if type(value) in plain:
                return value
            name, rest = list_of(value)
            return forms[text_of(name)].read(rest)

        return Form(write, read)

    def _sequence(self, item: object, make: Callable[[Iterable[object]], object]) -> Form:
        if item is Nlri:
            return Form(_packed, lambda text: make(_unpacked(text)))
        form = self.of(item)
        read, write = form.read, form.write
        return Form(list if write is None else lambda v: list(map(write, v)), lambda v: make(map(read, list_of(v))))

    def _row(self, args: tuple[object, ...], make: Callable[[Iterable[object]], object]) -> Form:
        forms = tuple(map(self.of, args))

        def write(row: Iterable[object]) -> object:
            return [form.written(value) for form, value in zip(forms, row, strict=True)]

        def read(row: object) -> object:
            return make(form.read(value) for form, value in zip(forms, list_of(row), strict=True))

        return Form(write, read)

    def _mapping(self, key: object, value: object) -> Form:
        """Return the form of a table: runs of keys that share one value, and the value."""
        keys, values = self._sequence(key, list), self.of(value)

        def write(table: Mapping[object, object]) -> object:
            items, found, runs, end = list(table), list(table.values()), [], 0
            for _, alike in groupby(map(id, found)):  # most are shared; to compare them would cost ten times as much
                start, end = end, end + len(list(alike))
                runs.append((values.written(found[start]), keys.written(items[start:end])))
            return runs

        def read(runs: object) -> object:
            table: dict[object, object] = {}
            for run in list_of(runs):
                one, some = list_of(run)
                table.update(dict.fromkeys(list_of(keys.read(some)), values.read(one)))
            return table

        return Form(write, read)

    def _ranges(self, indices: Collection[int]) -> str:
        """Write numbers of which many follow each other: `3:502,600:600`."""
        wanted = frozenset(indices)
        if wanted != self._indices[0]:
            parts = []
            for _, run in groupby(enumerate(sorted(wanted)), lambda pair: pair[1] - pair[0]):
                first, *_, last = [number for _, number in run] * 2
                parts.append(f"{first}:{last}")
            self._indices = wanted, ",".join(parts)
        return self._indices[1]


class _Record:
    """A dataclass as an object with the fields that are not as by default, and, under "#", its identity.

    Its fields are looked at when the first value comes: a daemon's start has no time for those that it never meets.
    """

    __slots__ = ("_cls", "_forms", "_has_identity", "_known", "_memo", "_rows")

    def __init__(self, forms: Forms, cls: type) -> None:
        self._forms, self._cls = forms, cls
        self._has_identity = "__eq__" not in vars(cls)
        self._memo: dict[object, dict[str, object]] = {}
        self._known: dict[object, tuple[object, object]] = {}
        self._rows: tuple[tuple[str, Callable[..., object] | None, Callable[..., object], object], ...] = ()

    def _compiled(self) -> tuple[tuple[str, Callable[..., object] | None, Callable[..., object], object], ...]:
        hints = _hints(self._cls)
        rows = []
        for each in fields(self._cls):
            form = self._forms.of(hints[each.name]) if each.repr else self._forms.secret()
            default = each.default if each.default_factory is MISSING else each.default_factory()
            rows.append((each.name, form.write, form.read, default))
        self._rows = tuple(rows)
        return self._rows

    def write(self, value: object) -> object:
        """Return the object."""
        if self._has_identity:
            memo = self._memo.get(value)
            if memo is None:
                if len(self._memo) >= MEMO:
                    self._memo.clear()
                # An id is used again once the object is gone; then nobody can tell that it was another.
                memo = self._memo[value] = {"#": id(value), **self._written(value)}
            return memo
        return self._written(value)

    def _written(self, value: object) -> dict[str, object]:
        shown = {}
        for name, write, _, default in self._rows or self._compiled():
            each = getattr(value, name)
            if each is not default and each != default:
                shown[name] = each if write is None else write(each)
        return shown

    def read(self, value: object) -> object:
        """Return an equal value."""
        if not isinstance(value, dict):
            raise ValueError(f"{self._cls.__name__}: {value!r:.40} is not an object")  # noqa: TRY004  see `Form`
        given = {key: each for key, each in value.items() if key != "#"}
        if self._has_identity:
            identity, found = value.get("#"), self._known.get(value.get("#"))
            if found is not None and found[0] == given:
                return found[1]
            made = self._made(given)
            self._known[identity] = given, made
            return made
        return self._made(given)

    def _made(self, given: dict[str, object]) -> object:
        known = {name: read for name, _, read, _ in self._rows or self._compiled()}
        if unknown := given.keys() - known.keys():
            raise ValueError(f"{self._cls.__name__} has no {', '.join(sorted(unknown))}")
        try:
            return self._cls(**{name: known[name](each) for name, each in given.items()})
        except TypeError as error:
            raise ValueError(f"{self._cls.__name__}: {error}") from error


def _hints(cls: type) -> dict[str, object]:
    """Return the annotations of a class, as `typing.get_type_hints` would in four times the time."""
    hints: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        scope = vars(sys.modules[base.__module__])
        for name, said in vars(base).get("__annotations__", {}).items():
            hints[name] = eval(said, scope) if isinstance(said, str) else said  # noqa: S307  what our own classes say
    return hints


_ADDRESSES: set[object] = {ipaddress.IPv4Address, ipaddress.IPv6Address}
_NETWORKS: set[object] = {ipaddress.IPv4Network, ipaddress.IPv6Network}


def _packed(nlris: Collection[Nlri]) -> object:
    """Return keys as their width and octets, for `rendered`; a list of such where several widths are there."""
    keys = nlris if isinstance(nlris, list) else list(nlris)
    if not keys:
        return ""
    width, data = len(keys[0]), b"".join(keys)
    # Of the narrowest or the widest as many octets are all of this one.
    if len(data) == width * len(keys) and (width in {5, 21} or len(set(map(len, keys))) == 1):
        return bytes((width,)) + data
    return [_packed(list(run)) for _, run in groupby(keys, len)]


def _packed_text(packed: object) -> str:
    assert isinstance(packed, bytes)
    return f"{packed[0]}:{b2a_base64(packed[1:], newline=False).decode()}"


rendered = json.JSONEncoder(separators=(",", ":"), check_circular=False, default=_packed_text).encode


def _unpacked(value: object) -> list[Nlri]:
    if isinstance(value, list):
        return [nlri for part in value for nlri in _unpacked(part)]
    if value == "":
        return []
    width, _, text = text_of(value).partition(":")
    size, data = {"5": 5, "9": 9, "17": 17, "21": 21}[width], base64.b64decode(text)
    if len(data) % size:
        raise ValueError(f"{len(data)} octets are no prefixes of {size}")
    return [Nlri(data[start : start + size]) for start in range(0, len(data), size)]


def _unranged(value: object) -> frozenset[int]:
    pairs = (part.partition(":") for part in text_of(value).split(",") if part)
    return frozenset(number for low, _, high in pairs for number in range(int(low), int(high) + 1))


def list_of(value: object) -> list[object]:
    """Return what is a list; raises ValueError."""
    found: list[object] = exactly(list, value)
    return found


def text_of(value: object) -> str:
    """Return what is a text; raises ValueError."""
    return exactly(str, value)


def number_of(value: object) -> float:
    """Return what is a number; raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r:.40} is not a number")  # noqa: TRY004  see `Form`
    return float(value)


T = typing.TypeVar("T")


def exactly(kind: type[T], value: object) -> T:
    """Return what is of a kind, and of no class of it: a bool is no int. Raises ValueError."""
    if type(value) is not kind:
        raise ValueError(f"{value!r:.40} is not {kind.__name__}")
    return value


def _only(nlris: list[Nlri]) -> Nlri:
    (nlri,) = nlris
    return nlri


def _choice(choices: tuple[object, ...], value: object) -> object:
    if value not in choices:
        raise ValueError(f"{value!r:.40} is none of {choices}")
    return value
