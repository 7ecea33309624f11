"""Files of objects -> plain data: JSON, TOML, and YAML where PyYAML is there (`pip install bgpmesh[yaml]`).

What the data means is the business of `policy/objects.py`.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

LARGEST = 16 << 20  # octets of one file
TRIES = 5  # to find a directory at rest
_SUFFIXES = {".json": "json", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}

Stamp = tuple[int, ...]
Stamps = Mapping[str, Stamp]


class UnreadableError(Exception):
    """A file or text of objects cannot be read; why, in words."""


def parse(text: str, name: str) -> list[object]:
    """Return the documents of a text by its file's name; one with another name is JSON or else YAML.

    Raises UnreadableError.
    """
    kind = _SUFFIXES.get(Path(name).suffix.lower()) or ("json" if text.lstrip()[:1] in {"{", "["} else "yaml")
    try:
        match kind:
            case "json":
                return [json.loads(text)]
            case "toml":
                return [tomllib.loads(text)]
            case _:
                return _yaml(text)
    except RecursionError as error:
        raise UnreadableError("is nested too deeply") from error
    except ValueError as error:
        raise UnreadableError(f"is not {kind.upper()}: {error}") from error


def is_configuration(text: str, name: str) -> bool:
    """Tell whether a text, by its file's name, is a configuration and no objects: TOML without a `kind`."""
    kind = _SUFFIXES.get(Path(name).suffix.lower(), "")
    if kind not in {"", "toml"}:
        return False
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError):
        return kind == "toml"  # what is wrong with it is said where it is read
    return "kind" not in document and (bool(document) or kind == "toml")


def _yaml(text: str) -> list[object]:
    try:
        import yaml  # noqa: PLC0415  an extra, and nobody else needs it
    except ImportError as error:
        raise UnreadableError("is YAML, which needs PyYAML: pip install 'bgpmesh[yaml]', or write JSON") from error
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return list(yaml.load_all(text, loader))
    except yaml.YAMLError as error:
        raise UnreadableError(f"is not YAML: {' '.join(str(error).split())}") from error
    except (LookupError, AttributeError, TypeError) as error:  # what PyYAML makes of `!!bool x`
        raise UnreadableError("is not YAML: a value is not of the type that its tag says") from error


def read(path: Path) -> list[object]:
    """Return the documents of a file; raises UnreadableError."""
    return parse(text_of(path), path.name)


def text_of(path: Path) -> str:
    """Return what is in a file; raises UnreadableError."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    if len(data) > LARGEST:
        raise UnreadableError(f"has more than {LARGEST} octets")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is not UTF-8 at byte {error.start}") from error


def stamps(directory: Path) -> Stamps | str:
    """Return when each file of objects in a directory was changed (inode, time, size), or why that cannot be told.

    The time is that of the last change of any kind: one that may be read again has not been written to.
    """
    found: dict[str, Stamp] = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in _SUFFIXES:
                    try:
                        stat = entry.stat()  # of what a symbolic link leads to: a ConfigMap is made of them
                        found[entry.name] = (stat.st_dev, stat.st_ino, stat.st_ctime_ns, stat.st_size)
                    except OSError as error:
                        found[entry.name] = (error.errno or 0,)
    except OSError as error:
        return f"{directory} cannot be read: {error.strerror}"
    return found


def snapshot(directory: Path) -> tuple[Stamps | str, dict[str, list[object] | str] | str]:
    """Return the stamps, and the documents of each file or why it cannot be read, as they were at one moment.

    Where somebody is about to change the files it takes a few tries; if he never stops, it is what was read last.
    """
    found = stamps(directory)
    for _ in range(TRIES):
        if isinstance(found, str):
            return found, found
        before, documents = found, read_all(directory, sorted(found))
        found = stamps(directory)
        if found == before:
            break
    return before, documents


def read_all(directory: Path, names: Sequence[str]) -> dict[str, list[object] | str]:
    """Return the documents of each of these files, or why it cannot be read."""
    found: dict[str, list[object] | str] = {}
    for name in names:
        try:
            found[name] = read(directory / name)
        except UnreadableError as error:
            found[name] = str(error)
    return found
