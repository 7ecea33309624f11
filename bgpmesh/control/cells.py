"""What stands in the cells of a table, and cells in columns: the members of answers as people read them.

Imports nothing of ours, like the client. Part of what is shown was said by peers, so every cell is cleaned
of control characters, which terminals obey; who writes a line of his own cleans it himself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Row = Mapping[str, object]


def clean(text: str) -> str:
    """Return a text without control characters: some of it was said by peers, and terminals obey them."""
    return "".join(c if c.isprintable() else "?" for c in text)


def field(row: object, key: str) -> object:
    """Return one member of an answer, None where it has none."""
    return row.get(key) if isinstance(row, Mapping) else None


def each_of(value: object) -> list[Row]:
    """Return the tables in a list of an answer."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def list_of(row: object, key: str) -> list[object]:
    """Return a member of an answer that is a list, an empty one where it is not there."""
    value = field(row, key)
    return value if isinstance(value, list) else []


def cell(value: object) -> str:
    """Return a value for a cell: nothing for null, yes and no, a list with commas."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(cell, value))
        case dict():
            return ", ".join(f"{key}={cell(member)}" for key, member in value.items())
        case _:
            return clean(str(value))


def duration(seconds: object) -> str:
    """Return a duration in its two largest units: 12 s, 3 min 05 s, 2 h 10 min, 4 d 03 h."""
    if not isinstance(seconds, int | float):
        return ""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 10 or whole == seconds else f"{seconds:.1f} s"
    for size, unit, smaller, part in ((86_400, "d", "h", 3600), (3600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part:02} {smaller}"
    return ""


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns, numbers to the right; a column that is empty in every row is left out."""
    numeric = [True] * len(heads)
    cells = [list(heads)]
    for row in rows:
        for column, value in enumerate(row):
            numeric[column] &= value is None or (isinstance(value, int) and not isinstance(value, bool))
        cells.append([cell(value) for value in row])
    shown = [c for c in range(len(heads)) if len(cells) == 1 or any(row[c] for row in cells[1:])]
    widths = {column: max(len(row[column]) for row in cells) for column in shown}
    lines = []
    for row in cells:
        parts = [row[c].rjust(widths[c]) if numeric[c] and len(cells) > 1 else row[c].ljust(widths[c]) for c in shown]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Return `name  value` lines, values aligned, without the empty ones."""
    shown = [(name, cell(value)) for name, value in rows]
    shown = [(name, value) for name, value in shown if value]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown)


def listing(result: object, columns: Sequence[str], nothing: str) -> str:
    """Return one line for each row of an answer; a column has the name of the JSON member that is in it."""
    rows = each_of(result)
    heads = [column.upper().replace("_", " ") for column in columns]
    return table(heads, ([row.get(column) for column in columns] for row in rows)) if rows else nothing
