"""TOML -> one frozen Config; every error at once, each with file, key, value and reason.

The knobs are the fields of the options classes in the packages that use them; their metadata (help,
unit, range, choices: see `peering.options`) is all that is needed to read a value, to refuse it in words, and
to write the example file. Adding a knob is adding a field there, and nothing here.

    file.py      the whole file: `load`, `parse`, and what it means for one node: `effective`, `warnings`
    options.py   which table is read into which options; `Config` is all of them
    tables.py    one table -> one options object, with every problem in it
    values.py    one value, by the type of its field
    checks.py    what does not fit together: overlaps, duplicates, families, selectors
    filters.py   the same for filters, and a rule in words
    shown.py     what `bgpmesh check` says of it
    changes.py   in which keys two of them differ
    example.py   config/bgpmesh.example.toml

What may not happen here:
 1. A key is ignored. Unknown ones are refused with a guess, known ones whose feature is absent by name.
 2. A password is shown: not in an error, not in a repr.
 3. Somebody gets a Config while there is a problem.
"""

from __future__ import annotations

from bgpmesh.config.changes import KeyChange, changes
from bgpmesh.config.example import example
from bgpmesh.config.file import defaults, effective, find_node, load, parse, read, state_directory, warnings
from bgpmesh.config.options import Config
from bgpmesh.config.shown import shown

__all__ = [
    "Config",
    "KeyChange",
    "changes",
    "defaults",
    "effective",
    "example",
    "find_node",
    "load",
    "parse",
    "read",
    "shown",
    "state_directory",
    "warnings",
]
