"""Expressions over AS_PATH: a regular expression whose letters are AS numbers.

    65001        this AS                    ^ $      the beginning and the end of the path
    .            any one AS                 _        between two of them; it asks nothing, as a space
    [1-9 12]     one AS of these            ( | )    alternatives
    * + ?        as often as wanted, once or more often, at most once

An expression matches a path that has such a stretch anywhere: `65001` and `_65001_` are the same, `^65001` is the
neighbour, `65001$` who announced it, `^$` an empty path, `^65001 .*65009$` what AS 65009 announces and 65001 passes on.
As in FRR, but that a number is a whole AS number, never a part of one. The members of sets and of confederation
segments count like others, in the order in which they stand.

The expression becomes an automaton of positions (Glushkov's) that is walked with sets of positions, so a path costs
its length times the length of the expression at the most: no expression can be made slow by what a peer sends.
"""

from __future__ import annotations

from typing import NoReturn

from bgpmesh.frozen import frozen
from bgpmesh.route.attributes import AsPath

LONGEST, DEEPEST = 1_000, 50  # characters of an expression, parentheses in one another
REMEMBERED = 10_000  # AS numbers whose positions are remembered

_START, _END = -1, -2  # stand at either end of every path
_HIGHEST = 4_294_967_295
Ranges = tuple[tuple[int, int], ...]


@frozen
class _Part:
    """A part of an expression: whether it may be empty, and the positions that it may begin and end with, as bits."""

    is_empty: bool
    first: int
    last: int


class Expression:
    """One expression, compiled; raises ValueError with the column, counted from 1, of what it does not understand."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = self._depth = 0
        self._positions: list[Ranges] = []  # what stands at each
        self._follow: list[int] = []  # the positions that may come next, as bits
        self._known: dict[int, int] = {}  # AS number -> positions that take it, as bits
        if len(text) > LONGEST:
            raise ValueError(f"longer than {LONGEST} characters")
        whole = self._alternatives()
        if self._at < len(text):
            self._refuse("there is no ( for it")
        if not self._positions:
            raise ValueError("asks nothing; an empty path is ^$, any path is .*")
        self._whole = whole

    def matches(self, path: AsPath) -> bool:
        """Tell whether the path has such a stretch."""
        if self._whole.is_empty:
            return True
        symbols = [_START]
        for _, members in path.segments:
            symbols += members
        symbols.append(_END)
        states, first, last, follow, known = 0, self._whole.first, self._whole.last, self._follow, self._known
        for symbol in symbols:
            taking = known.get(symbol)
            if taking is None:
                taking = self._taking(symbol)
            reached = first  # it may begin anywhere
            while states:
                lowest = states & -states
                reached |= follow[lowest.bit_length() - 1]
                states ^= lowest
            states = reached & taking
            if states & last:
                return True
        return False

    def _taking(self, symbol: int) -> int:
        """Return the positions that take an AS, as bits, and remember them."""
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        found = 0
        for number, ranges in enumerate(self._positions):
            if any(low <= symbol <= high for low, high in ranges):
                found |= 1 << number
        self._known[symbol] = found
        return found

    # ── reading ──

    def _refuse(self, reason: str, at: int | None = None) -> NoReturn:
        where = self._at if at is None else at
        found = self._text[where : where + 1] or "the end"
        raise ValueError(f"column {where + 1}: {found} is not understood: {reason}")

    def _next(self) -> str:
        """Return the next character that is no separator, "" at the end."""
        while self._at < len(self._text) and self._text[self._at] in "_ ":
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _alternatives(self) -> _Part:
        found = self._sequence()
        while self._next() == "|":
            self._at += 1
            other = self._sequence()
            found = _Part(found.is_empty or other.is_empty, found.first | other.first, found.last | other.last)
        return found

    def _sequence(self) -> _Part:
        found = _Part(is_empty=True, first=0, last=0)
        while (character := self._next()) and character not in "|)":
            other = self._repeated()
            self._link(found.last, other.first)
            found = _Part(
                found.is_empty and other.is_empty,
                found.first | (other.first if found.is_empty else 0),
                other.last | (found.last if other.is_empty else 0),
            )
        return found

    def _repeated(self) -> _Part:
        found = self._one()
        # Directly behind it: a separator in between would be what is repeated, and that is nothing.
        while self._at < len(self._text) and self._text[self._at] in "*+?":
            character = self._text[self._at]
            self._at += 1
            if character != "?":
                self._link(found.last, found.first)
            found = _Part(found.is_empty or character != "+", found.first, found.last)
        return found

    def _one(self) -> _Part:
        character = self._next()
        if character.isascii() and character.isdecimal():
            number = self._number()
            return self._position(((number, number),))
        self._at += 1
        match character:
            case ".":
                return self._position(((0, _HIGHEST),))
            case "^":
                return self._position(((_START, _START),))
            case "$":
                return self._position(((_END, _END),))
            case "[":
                return self._position(self._ranges())
            case "(":
                self._depth += 1
                if self._depth > DEEPEST:
                    self._refuse(f"more than {DEEPEST} parentheses in one another", self._at - 1)
                found = self._alternatives()
                if self._next() != ")":
                    self._refuse("a ( is not closed")
                self._at += 1
                self._depth -= 1
                return found
        self._at -= 1
        return self._refuse("there is nothing to repeat" if character in "*+?" else "it has no meaning here")

    def _number(self) -> int:
        start = self._at
        while self._at < len(self._text) and self._text[self._at] in "0123456789":
            self._at += 1
        number = int(self._text[start : self._at])
        if number > _HIGHEST:
            raise ValueError(f"column {start + 1}: AS {self._text[start : self._at]} is above {_HIGHEST}")
        return number

    def _ranges(self) -> Ranges:
        start, found = self._at - 1, []
        while self._next() != "]":
            if self._next() not in set("0123456789"):
                self._refuse("not LOW-HIGH or an AS number" if self._next() else "a [ is not closed")
            low = high = self._number()
            if self._text[self._at : self._at + 1] == "-":
                self._at += 1
                if self._text[self._at : self._at + 1] not in set("0123456789"):
                    self._refuse("not LOW-HIGH")
                high = self._number()
            if (low, high) == (0, 9):
                self._refuse("it would be AS 0 to 9; any one AS is written as .", start)
            if low > high:
                self._refuse(f"{low} is above {high}", start)
            found.append((low, high))
        self._at += 1
        if not found:
            self._refuse("it is empty", start)
        return tuple(found)

    def _position(self, ranges: Ranges) -> _Part:
        bit = 1 << len(self._positions)
        self._positions.append(ranges)
        self._follow.append(0)
        return _Part(is_empty=False, first=bit, last=bit)

    def _link(self, last: int, first: int) -> None:
        """Let these positions be followed by those."""
        while last:
            lowest = last & -last
            self._follow[lowest.bit_length() - 1] |= first
            last ^= lowest
