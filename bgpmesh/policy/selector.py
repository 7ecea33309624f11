"""The selector language: a text -> who it means, by labels.

    rack == 'r1' && !(has(old) || tier in {'a', 'b'})

`==`, `!=`, `in {..}`, `not in {..}`, `has(key)`, `all()`, `!`, `&&`, `||` and parentheses; `&&` binds closer
than `||`. `!=` and `not in` hold where the label is absent. A parsed selector is a value: two texts that
differ in blanks only are equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

DEEPEST = 50  # parentheses and negations within each other; far more than anybody writes

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>'[^']*'|"[^"]*")|(?P<sign>==|!=|&&|\|\||[!(){},])|(?P<word>[A-Za-z0-9_][A-Za-z0-9_./-]*))"""
)


class SelectorError(ValueError):
    """The text is no selector; says where, as `column N` counted from 1."""


@dataclass(frozen=True, slots=True)
class Everything:
    """`all()`."""


@dataclass(frozen=True, slots=True)
class Has:
    """`has(key)`."""

    key: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """`key == 'v'` and `key in {..}`."""

    key: str
    values: frozenset[str]


@dataclass(frozen=True, slots=True)
class Not:
    """`!x`, and what `!=` and `not in` stand for."""

    term: Selector


@dataclass(frozen=True, slots=True)
class AllOf:
    """`x && y && ..`."""

    terms: tuple[Selector, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """`x || y || ..`."""

    terms: tuple[Selector, ...]


Selector = Everything | Has | OneOf | Not | AllOf | AnyOf


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Tell whether the selector means who has these labels."""
    match selector:
        case Everything():
            return True
        case Has(key):
            return key in labels
        case OneOf(key, values):
            return labels.get(key) in values
        case Not(term):
            return not matches(term, labels)
        case AllOf(terms):
            return all(matches(term, labels) for term in terms)
        case AnyOf(terms):
            return any(matches(term, labels) for term in terms)
    assert_never(selector)


def parse(text: str) -> Selector:
    """Return the selector that the text says; raises SelectorError."""
    tokens = _Tokens(text)
    selector = _any_of(tokens, 0)
    if tokens.kind:
        raise tokens.unexpected("&&, || or the end")
    return selector


class _Tokens:
    """The text, one token ahead: `kind` ("" at the end), `text` and the column where it starts."""

    def __init__(self, text: str) -> None:
        self._whole = text
        self._position = 0
        self.kind = self.text = ""
        self.column = 1
        self.advance()

    def advance(self) -> str:
        """Go to the next token and return the text of the one left behind."""
        left = self.text
        rest = self._whole[self._position :]
        self.column = self._position + len(rest) - len(rest.lstrip()) + 1
        if not rest.strip():
            self.kind = self.text = ""
            return left
        found = _TOKEN.match(self._whole, self._position)
        if found is None:
            raise SelectorError(f"column {self.column}: {rest.strip()[0]!r} is not understood here")
        self.kind = found.lastgroup or ""
        self.text = found.group(self.kind)
        self._position = found.end()
        return left

    def expect(self, text: str) -> None:
        """Go past this sign or word, which must stand here."""
        if self.kind == "string" or self.text != text:
            raise self.unexpected(text)
        self.advance()

    def expect_kind(self, kind: str, what: str) -> str:
        """Go past a token of this kind and return its text, without quotes."""
        if self.kind != kind:
            raise self.unexpected(what)
        text = self.advance()
        return text[1:-1] if kind == "string" else text

    def unexpected(self, wanted: str) -> SelectorError:
        """Return the error for what stands here instead of what is `wanted`."""
        return SelectorError(f"column {self.column}: expected {wanted}, not {self.text or 'the end'}")


def _any_of(tokens: _Tokens, depth: int) -> Selector:
    terms = [_all_of(tokens, depth)]
    while tokens.text == "||":
        tokens.advance()
        terms.append(_all_of(tokens, depth))
    return terms[0] if len(terms) == 1 else AnyOf(tuple(terms))


def _all_of(tokens: _Tokens, depth: int) -> Selector:
    terms = [_term(tokens, depth)]
    while tokens.text == "&&":
        tokens.advance()
        terms.append(_term(tokens, depth))
    return terms[0] if len(terms) == 1 else AllOf(tuple(terms))


def _term(tokens: _Tokens, depth: int) -> Selector:
    if depth > DEEPEST:
        raise SelectorError(f"column {tokens.column}: nested more than {DEEPEST} deep")
    if tokens.text == "!":
        tokens.advance()
        return Not(_term(tokens, depth + 1))
    if tokens.text == "(":
        tokens.advance()
        inner = _any_of(tokens, depth + 1)
        tokens.expect(")")
        return inner
    key = tokens.expect_kind("word", "a label, has(..), all(), ! or (")
    if key in {"all", "has"} and tokens.text == "(":
        tokens.advance()
        term: Selector = Everything() if key == "all" else Has(tokens.expect_kind("word", "a label"))
        tokens.expect(")")
        return term
    return _comparison(tokens, key)


def _comparison(tokens: _Tokens, key: str) -> Selector:
    is_negated = tokens.text in {"!=", "not"}
    if tokens.text in {"==", "!="}:
        tokens.advance()
        values = {tokens.expect_kind("string", "a value in quotes")}
    elif tokens.text in {"in", "not"}:
        if is_negated:
            tokens.advance()
        tokens.expect("in")
        tokens.expect("{")
        values = {tokens.expect_kind("string", "a value in quotes")}
        while tokens.text == ",":
            tokens.advance()
            values.add(tokens.expect_kind("string", "a value in quotes"))
        tokens.expect("}")
    else:
        raise tokens.unexpected("==, !=, in or not in")
    chosen = OneOf(key, frozenset(values))
    return Not(chosen) if is_negated else chosen
