"""The selector language: a text -> who it means, by labels.

    rack == 'r1' && !(has(old) || tier in {'a', 'b'})

| term                                           | means                                          |
|------------------------------------------------|------------------------------------------------|
| `key == 'v'`, `key in {'v', 'w'}`, `has(key)`  | by value; by presence                          |
| `key != 'v'`, `key not in {'v', 'w'}`          | not those; holds where the label is absent too |
| `key contains 'v'`, `starts with`, `ends with` | by a part of the value; never of an absent one |
| `all()`                                        | everybody                                      |
| `!x`, `x && y`, `x || y`, `(x)`                | `!` binds closest, then `&&`, then `||`        |

It is Calico's. A key is 1 to 512 letters, digits, `.`, `/`, `-` and `_`. A value stands in quotes of either kind and
cannot have that kind in it: nothing is escaped. Blanks are free, also within `not in`, which may be `notin`. `global()`
(who is in no namespace) is no term: it stands alone, where namespaces are meant (`is_global`).

A parsed selector is a value: two texts that differ in blanks, quotes and the order of a set only are equal. `show`
writes the one text for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, assert_never

from bgpmesh.frozen import frozen

DEEPEST = 50  # parentheses and negations within each other; far more than anybody writes
LONGEST_KEY = 512  # characters; Calico's limit

_BLANKS = re.compile(r"\s*")
_TOKEN = re.compile(r"""(?P<string>'[^']*'|"[^"]*")|(?P<sign>==|!=|&&|\|\||[!(){},])|(?P<word>[A-Za-z0-9_./-]+)""")
_GLOBAL = re.compile(r"\s*global\s*\(\s*\)\s*")
_WORDS = ("in", "not", "notin", "contains", "starts", "startswith", "ends", "endswith")  # after a key
_CUT = 40  # characters of a faulty token that an error shows


class SelectorError(ValueError):
    """The text is no selector; says where, as `column N` counted from 1."""


@frozen
class Everything:
    """`all()`."""


@frozen
class Has:
    """`has(key)`."""

    key: str


@frozen
class OneOf:
    """`key == 'v'` and `key in {..}`."""

    key: str
    values: frozenset[str]


@frozen
class Part:
    """`key contains 'v'`, `key starts with 'v'`, `key ends with 'v'`: by a part of the value."""

    key: str
    where: Literal["contains", "starts with", "ends with"]
    text: str


@frozen
class Not:
    """`!x`, and what `!=` and `not in` stand for."""

    term: Selector


@frozen
class AllOf:
    """`x && y && ..`."""

    terms: tuple[Selector, ...]


@frozen
class AnyOf:
    """`x || y || ..`."""

    terms: tuple[Selector, ...]


Selector = Everything | Has | OneOf | Part | Not | AllOf | AnyOf


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Tell whether the selector means who has these labels."""
    match selector:
        case Everything():
            return True
        case Has(key):
            return key in labels
        case OneOf(key, values):
            return labels.get(key) in values
        case Part(key, where, text):
            return key in labels and _has_part(labels[key], where, text)
        case Not(term):
            return not matches(term, labels)
        case AllOf(terms):
            return all(matches(term, labels) for term in terms)
        case AnyOf(terms):
            return any(matches(term, labels) for term in terms)
    assert_never(selector)


def _has_part(value: str, where: Literal["contains", "starts with", "ends with"], text: str) -> bool:
    if where == "contains":
        return text in value
    return value.startswith(text) if where == "starts with" else value.endswith(text)


def is_remote_capable(selector: Selector) -> bool:
    """Tell whether all of it can be answered for workloads of other nodes, whose labels are known as hashes.

    Equality, `in`, `has`, `all()` and what is made of them can; a part of a value cannot.
    """
    match selector:
        case Everything() | Has() | OneOf():
            return True
        case Part():
            return False
        case Not(term):
            return is_remote_capable(term)
        case AllOf(terms) | AnyOf(terms):
            return all(map(is_remote_capable, terms))
    assert_never(selector)


def all_of(terms: Iterable[Selector]) -> Selector:
    """Return who is meant by every one of the terms, as simple as `parse` would say it."""
    found: list[Selector] = []
    for term in terms:
        if isinstance(term, AllOf):
            found += term.terms
        elif not isinstance(term, Everything):
            found.append(term)
    return AllOf(tuple(found)) if len(found) > 1 else found[0] if found else Everything()


def with_prefix(selector: Selector, prefix: str) -> Selector:
    """Return the selector with `prefix` before each of its keys."""
    match selector:
        case Everything():
            return selector
        case Has() | OneOf() | Part():
            return replace(selector, key=prefix + selector.key)
        case Not(term):
            return Not(with_prefix(term, prefix))
        case AllOf(terms):
            return AllOf(tuple(with_prefix(term, prefix) for term in terms))
        case AnyOf(terms):
            return AnyOf(tuple(with_prefix(term, prefix) for term in terms))
    assert_never(selector)


def show(selector: Selector) -> str:
    """Return the text of a selector: `parse(show(x)) == x`, but for nesting beyond DEEPEST.

    Raises ValueError for a value with both kinds of quotes in it, which no text can say.
    """
    match selector:
        case Everything():
            return "all()"
        case Has(key):
            return f"has({key})"
        case OneOf():
            return _shown_set(selector, "==", "in")
        case Part(key, where, text):
            return f"{key} {where} {_quoted(text)}"
        case Not(OneOf() as term):
            return _shown_set(term, "!=", "not in")
        case Not(term):
            return f"!{_grouped(term, (AllOf, AnyOf))}"
        case AllOf(terms):
            return " && ".join(_grouped(term, (AllOf, AnyOf)) for term in terms)
        case AnyOf(terms):
            return " || ".join(_grouped(term, (AnyOf,)) for term in terms)
    assert_never(selector)


def _shown_set(term: OneOf, one: str, many: str) -> str:
    values = [_quoted(value) for value in sorted(term.values)]
    return f"{term.key} {one} {values[0]}" if len(values) == 1 else f"{term.key} {many} {{{', '.join(values)}}}"


def _quoted(value: str) -> str:
    if "'" in value and '"' in value:
        raise ValueError(f"no selector says {value!r}: it has both kinds of quotes in it")
    return f'"{value}"' if "'" in value else f"'{value}'"


def _grouped(term: Selector, groups: tuple[type, ...]) -> str:
    return f"({show(term)})" if isinstance(term, groups) else show(term)


def is_global(text: str) -> bool:
    """Tell whether the text is `global()`, whose place is the namespace selector of a rule."""
    return _GLOBAL.fullmatch(text) is not None


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
        blanks = _BLANKS.match(self._whole, self._position)
        start = self._position if blanks is None else blanks.end()
        self.column = start + 1
        if start == len(self._whole):
            self.kind = self.text = ""
            return left
        found = _TOKEN.match(self._whole, start)
        if found is None:
            raise SelectorError(f"column {self.column}: {self._whole[start]!r} is not understood here")
        self.kind = found.lastgroup or ""
        self.text = found.group(self.kind)
        self._position = found.end()
        return left

    def expect(self, text: str) -> None:
        """Go past this sign or word, which must stand here."""
        if self.text != text:  # a string has its quotes in `text`
            raise self.unexpected(text)
        self.advance()

    def expect_key(self, what: str) -> str:
        """Go past a label's key and return it."""
        if self.kind != "word":
            raise self.unexpected(what)
        if len(self.text) > LONGEST_KEY:
            raise SelectorError(
                f"column {self.column}: a label's key of {len(self.text)} characters, the limit is {LONGEST_KEY}"
            )
        return self.advance()

    def expect_value(self) -> str:
        """Go past a value and return it without its quotes."""
        if self.kind != "string":
            raise self.unexpected("a value in quotes")
        return self.advance()[1:-1]

    def unexpected(self, wanted: str) -> SelectorError:
        """Return the error for what stands here instead of what is `wanted`."""
        found = self.text if len(self.text) <= _CUT else f"{self.text[:_CUT]}.."
        shown = found if found.isprintable() else repr(found)
        return SelectorError(f"column {self.column}: expected {wanted}, not {shown or 'the end'}")


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
    column = tokens.column
    key = tokens.expect_key("a label, has(..), all(), ! or (")
    if key == "global" and tokens.text == "(":
        raise SelectorError(f"column {column}: global() stands alone, as the namespaceSelector of a rule")
    if key in {"all", "has"} and tokens.text == "(":
        tokens.advance()
        term: Selector = Everything() if key == "all" else Has(tokens.expect_key("a label"))
        tokens.expect(")")
        return term
    return _comparison(tokens, key)


def _comparison(tokens: _Tokens, key: str) -> Selector:
    if tokens.text not in {"==", "!=", *_WORDS}:
        raise tokens.unexpected("==, !=, in or not in")
    match tokens.advance():
        case "==":
            return OneOf(key, frozenset({tokens.expect_value()}))
        case "!=":
            return Not(OneOf(key, frozenset({tokens.expect_value()})))
        case "in":
            return OneOf(key, _values(tokens))
        case "not":
            tokens.expect("in")
            return Not(OneOf(key, _values(tokens)))
        case "notin":
            return Not(OneOf(key, _values(tokens)))
        case "contains":
            return Part(key, "contains", tokens.expect_value())
        case word:
            if word in {"starts", "ends"}:
                tokens.expect("with")
            return Part(key, "starts with" if word.startswith("starts") else "ends with", tokens.expect_value())


def _values(tokens: _Tokens) -> frozenset[str]:
    """Return the values of `{'a', 'b'}`; Calico takes a comma after the last one too."""
    tokens.expect("{")
    values = {tokens.expect_value()}
    while tokens.text == ",":
        tokens.advance()
        if tokens.text == "}":
            break
        values.add(tokens.expect_value())
    tokens.expect("}")
    return frozenset(values)
