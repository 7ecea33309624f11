"""Import and export filters: which routes pass, and as what.

A filter is asked once for an attribute set and all the prefixes that came with it, and answers
groups: the prefixes that pass with these attributes, those that pass with others, those that do
not pass (None). So a filter that looks at attributes only costs one answer for a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.nlri import Nlri
from bgpmesh.route.path import Source


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Prefixes that share one fate: what they pass as, or None and the filter that stopped them."""

    attributes: PathAttributes | None
    nlris: Sequence[Nlri]
    stopped_by: str = ""


Groups = Sequence[tuple[PathAttributes | None, Sequence[Nlri]]]
Filter = Callable[[Source, PathAttributes, Sequence[Nlri]], Groups]

BUILT_IN: Mapping[str, Filter] = {
    "all": lambda _source, attributes, nlris: ((attributes, nlris),),
    "own": lambda source, attributes, nlris: ((attributes if source.is_local else None, nlris),),
    "none": lambda _source, _attributes, nlris: ((None, nlris),),
}


def run(names: Sequence[str], source: Source, attributes: PathAttributes, nlris: Sequence[Nlri]) -> list[Answer]:
    """Send a batch through filters in order; what one of them stops does not reach the next.

    No filter at all lets everything pass. Raises KeyError for a name that the configuration let through.
    """
    passing = [Answer(attributes, nlris)]
    stopped: list[Answer] = []
    for name in names:
        coming, passing = passing, []
        for answer in coming:
            if answer.attributes is None:
                continue
            for result, group in BUILT_IN[name](source, answer.attributes, answer.nlris):
                if result is None:
                    stopped.append(Answer(None, group, name))
                else:
                    passing.append(Answer(result, group))
    return passing + stopped
