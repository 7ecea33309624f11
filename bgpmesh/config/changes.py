"""In which keys two configurations differ, with both values as they stand in a file; a password is never shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields, is_dataclass
from itertools import zip_longest
from typing import NamedTuple

from bgpmesh.config.filters import in_words
from bgpmesh.config.options import Config
from bgpmesh.config.values import Options, key_of, knobs
from bgpmesh.rib.rule import Rule
from bgpmesh.route.nlri import Family
from bgpmesh.workload.floating import FloatingIp

SECRET, OTHER_SECRET = "(secret)", "(another secret)"  # what is said in place of one

_SECTIONS = {  # where it is not the name of the field
    "pools": "pool",
    "nodes": "node",
    "neighbours": "peer",
    "filters": "filter",
    "floating": "floating_ip",
    "routes": "kernel",
    "namespaces": "namespace",
}


class KeyChange(NamedTuple):
    """A key, or a whole table, and how it stood and stands; None: it is not there. `part`: the field of the Config."""

    key: str
    before: str | None
    after: str | None
    part: str


def changes(old: Config, new: Config) -> list[KeyChange]:
    """Return the keys that differ, in the order of the file."""
    found: list[KeyChange] = []
    for each in fields(Config):
        before, after = getattr(old, each.name), getattr(new, each.name)
        section = _SECTIONS.get(each.name, each.name)
        if isinstance(before, tuple):
            found += (KeyChange(*change, each.name) for change in _of_named(section, before, after))
        elif is_dataclass(before) and not isinstance(before, type):
            found += (KeyChange(*change, each.name) for change in _of_table(section, before, after))
    return found


_Change = tuple[str, str | None, str | None]


def _of_named(section: str, before: Sequence[Options], after: Sequence[Options]) -> Iterator[_Change]:
    old, new = ({_name(each): each for each in tables} for tables in (before, after))
    for name in dict.fromkeys((*old, *new)):
        where = f"{section}.{name}"
        if name not in new:
            yield where, _whole(old[name]), None
        elif name not in old:
            yield where, None, _whole(new[name])
        else:
            yield from _of_table(where, old[name], new[name])


def _name(options: Options) -> str:
    return json.dumps(str(options.external)) if isinstance(options, FloatingIp) else str(getattr(options, "name", ""))


def _of_table(where: str, old: Options, new: Options) -> Iterator[_Change]:
    for knob in knobs(type(old)):
        before, after = getattr(old, knob.name), getattr(new, knob.name)
        key = f"{where}.{key_of(knob)}"
        if before == after:
            continue
        if "tables" in knob.metadata:
            for number, rows in enumerate(zip_longest(before, after), 1):
                was, now = (None if row is None else _text(knob, row) for row in rows)
                if rows[0] != rows[1]:
                    yield f"{key}[{number}]", was, now
        elif _is_secret(knob) and before is not None and after is not None:
            yield key, SECRET, OTHER_SECRET
        else:
            yield key, _text(knob, before), _text(knob, after)


def _whole(options: Options) -> str:
    """Return a table on one line, without what is as by default."""
    rows = [(knob, getattr(options, knob.name)) for knob in knobs(type(options))]
    return _inline((key_of(knob), _text(knob, value)) for knob, value in rows if value != knob.default)


def _is_secret(knob: Field[object]) -> bool:
    return "Password" in str(knob.type)


def _text(knob: Field[object], value: object) -> str | None:
    if value is not None and _is_secret(knob):
        return SECRET
    if knob.type == "Labels" and isinstance(value, tuple):
        return _inline((key, json.dumps(text)) for key, text in value)
    return _toml(value)


def _toml(value: object) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
        case Family():
            return json.dumps(value.label)
        case Rule():
            return in_words(value)
        case tuple():
            return f"[{', '.join(str(_toml(each)) for each in value)}]"
    if is_dataclass(value) and type(value).__str__ is object.__str__:
        return _inline((each.name, _toml(getattr(value, each.name))) for each in fields(value))
    return json.dumps(str(value), ensure_ascii=False)


def _inline(pairs: Iterator[tuple[str, str | None]]) -> str:
    return f"{{ {', '.join(f'{key} = {value}' for key, value in pairs if value is not None)} }}"
