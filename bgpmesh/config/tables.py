"""A table of the file -> one options object; keeps every problem that it meets."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import TypeVar

from bgpmesh.config.values import (
    BadValueError,
    Options,
    guess,
    is_secret,
    key_of,
    knobs,
    parse,
    password_of,
    printable,
    shown,
)
from bgpmesh.errors import Problem
from bgpmesh.peering.options import ClusterOptions, Password, PeerOptions
from bgpmesh.route.nlri import IPAddress

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

T = TypeVar("T", bound=Options)


class Reader:
    """Reads tables into options and keeps every problem that it meets."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.incomplete: list[Options] = []  # a required key is missing or bad, and None there: for further checks

    def refuse(self, where: str, value: object, reason: str, *, key: str = "") -> None:
        """Note a problem once; what may be a secret is not shown."""
        name = key or where.rpartition(".")[2]
        text = "" if value is None else "(not shown)" if is_secret(name) else shown(value)
        problem = Problem(self.file, printable(where), text, reason)
        if problem not in self.problems:
            self.problems.append(problem)

    def named(self, cls: type[T], tables: object, section: str) -> list[T]:
        """Return the options of every `[section.NAME]` that could be read."""
        if not isinstance(tables, dict):
            self.refuse(section, tables, f"not a table; write [{section}.NAME]")
            return []
        found = []
        for name, table in tables.items():
            if not _NAME.fullmatch(name):
                self.refuse(
                    f"{section}.{json.dumps(name)}", None, "a name is 1 to 63 letters, digits, '.', '_' and '-'"
                )
            elif not isinstance(table, dict) and any(key_of(knob) == name for knob in knobs(cls)):
                self.refuse(f"{section}.{name}", table, f"stands outside of a [{section}.NAME]")
            else:
                found.append(self.options(cls, table, f"{section}.{name}", (cls,), name=name))
        return [options for options in found if options is not None]

    def by_address(self, cls: type[T], tables: object, section: str, name: str) -> list[T]:
        """Return the options of every `[section."ADDRESS"]` that could be read; the field `name` has the address."""
        if not isinstance(tables, dict):
            self.refuse(section, tables, f'not a table; write [{section}."ADDRESS"]')
            return []
        found: dict[IPAddress, T | None] = {}
        for text, table in tables.items():
            where = f"{section}.{json.dumps(text)}"
            try:
                address = ipaddress.ip_address(text if "%" not in text else "")
            except ValueError:
                self.refuse(where, None, f'its name is not an IP address; write [{section}."ADDRESS"]')
                continue
            if address in found:
                self.refuse(where, None, f"stands here twice: it is {address}")
            found[address] = self.options(cls, table, where, (cls,), **{name: address})
        return [options for options in found.values() if options is not None]

    def options(  # noqa: C901  one key after the other, each with what may be wrong with it
        self, cls: type[T], table: object, where: str, all_of_table: Sequence[type[Options]], **fixed: object
    ) -> T | None:
        """Return one options object; None where a required key is missing or bad. Others fall back to their default."""
        if not isinstance(table, dict):
            self.refuse(where, table, "not a table")
            return None
        self._refuse_unknown(table, where, {key_of(knob) for other in all_of_table for knob in knobs(other)})
        values = dict(fixed)
        is_complete = True
        for knob in knobs(cls):
            key = key_of(knob)
            is_required = knob.default is MISSING and knob.default_factory is MISSING
            if key in table:
                try:
                    if (inner := knob.metadata.get("tables")) is not None:
                        values[knob.name] = self._tables(inner, table[key], f"{where}.{key}")
                    else:
                        values[knob.name] = parse(knob, table[key])
                    continue
                except BadValueError as error:
                    for value, reason in error.faults:
                        self.refuse(f"{where}.{key}", value, reason)
                    if error.good is not None:
                        values[knob.name] = error.good  # may be wrong beside others
            elif is_required and (instead := [other for other in knob.metadata.get("or", ()) if other in table]):
                values[knob.name], is_complete = None, is_complete and self._has(cls, instead[0], table)
                continue
            elif is_required:
                self.refuse(f"{where}.{key}", None, f"missing: {knob.metadata.get('help', 'required')}")
            if is_required:
                is_complete = False
                values[knob.name] = None
        make: Callable[..., T] = cls
        options = make(**values)
        if is_complete:
            return options
        self.incomplete.append(options)
        return None

    def _has(self, cls: type[Options], key: object, table: Mapping[str, object]) -> bool:
        """Tell whether a table has a good value under a key; what is wrong with it is told elsewhere."""
        for knob in knobs(cls):
            if key_of(knob) == key:
                try:
                    parse(knob, table[key_of(knob)])
                except BadValueError:
                    return False
        return True

    def _tables(self, cls: type[T], tables: object, where: str) -> tuple[Options, ...]:
        """Return the options of every `[[where]]`, also of those that are incomplete; named by place, from 1."""
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise BadValueError((tables, f"not a list of tables; write [[{where}]]"))
        found = (
            (self.options(cls, t, f"{where}[{place}]", (cls,)), self.incomplete) for place, t in enumerate(tables, 1)
        )
        return tuple(incomplete[-1] if options is None else options for options, incomplete in found)

    def _refuse_unknown(self, table: Mapping[str, object], where: str, known: Collection[str]) -> None:
        for key in table:
            if key not in known:
                self.refuse(f"{where}.{key}", table[key], "unknown key" + guess(key, known), key=key)

    def password(self, options: ClusterOptions | PeerOptions, where: str) -> Password | None:
        """Return the password that an options object names, read from its file where it is in one."""
        if options.password_file is None:
            return options.password
        key = f"{where}.password_file"
        if options.password is not None:
            self.refuse(key, options.password_file, "not together with password")
            return None
        path = Path(self.file).parent / options.password_file
        try:
            lines = path.read_bytes().decode().splitlines()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self.refuse(key, options.password_file, f"cannot be read: {why}")
            return None
        try:
            return password_of(lines[0].strip() if lines else "", {})
        except BadValueError as error:
            self.refuse(key, options.password_file, f"its first line {error.faults[0][1]}")
            return None
