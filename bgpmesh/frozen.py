"""Values: what crosses a door is written once, and from then on compared, hashed and shared.

`frozen` is `dataclass(frozen=True, slots=True)` as the type checker sees it: it refuses every assignment. While
running nothing guards it, since the guard is dear: to make a value of eight fields took three times as long, and a
fifth of a start went into compiling three more methods for each of two hundred classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import TypeVar, dataclass_transform, overload

T = TypeVar("T")


def _shown(self: object) -> str:
    parts = (f"{part.name}={getattr(self, part.name)!r}" for part in fields(self) if part.repr)  # type: ignore[arg-type]
    return f"{type(self).__qualname__}({', '.join(parts)})"


@overload
def frozen(cls: type[T], /) -> type[T]: ...
@overload
def frozen(*, eq: bool = True, kw_only: bool = False) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(Field, field))
def frozen(
    cls: type[T] | None = None, /, *, eq: bool = True, kw_only: bool = False
) -> type[T] | Callable[[type[T]], type[T]]:
    """Make of a class with annotated fields a value; without `eq` it is equal to itself only."""

    def made(cls: type[T]) -> type[T]:
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = _shown  # type: ignore[method-assign]
        hashed = eq and cls.__dict__.get("__hash__") is None
        return dataclass(slots=True, repr=False, eq=eq, kw_only=kw_only, unsafe_hash=hashed)(cls)

    return made if cls is None else made(cls)
