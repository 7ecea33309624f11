"""The workloads of other nodes in the sets: by what is said of them, many addresses at a time.

A **crowd** is all addresses of which the same is said (`identity`). Whom selectors mean is asked once for a crowd,
and an address that joins or leaves one is an entry more or less in the sets that the crowd is in: it costs the same
whether it is the first or the hundred thousandth. As in the index, a selector that asks for certain values is
tried on the crowds only of which one of those is said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bgpmesh.policy.chains import WITH_PORTS
from bgpmesh.policy.form import Ground
from bgpmesh.policy.identity import Question, marks, ports_named, question_of
from bgpmesh.policy.index import Addresses, Content, anchors
from bgpmesh.route.claim import Claims
from bgpmesh.route.nlri import Nlri


@dataclass(slots=True, eq=False)
class Crowd:
    """Addresses of which the same is said, and the contents that mean those who have them."""

    addresses: set[Nlri] = field(default_factory=set)
    contents: set[Content] = field(default_factory=set)


class Crowds:
    """What is said of each address, and so who is in which set; the sets are the index's, with all others in them."""

    def __init__(self) -> None:
        self.said: dict[Nlri, Claims] = {}
        self._crowds: dict[Claims, Crowd] = {}
        self._groups: dict[Content, Addresses] = {}
        self._tests: dict[Content, Question] = {}  # of the selectors that claims answer
        self._marked: dict[int | None, dict[Content, None]] = {}  # claim -> selectors tried where it is; None: always

    def ask(self, groups: Mapping[Content, Addresses]) -> None:
        """Be in these groups and in no other; one that is the object it was has who is meant in it already."""
        gone = {content for content, group in self._groups.items() if groups.get(content) is not group}
        new = {content: group for content, group in groups.items() if self._groups.get(content) is not group}
        self._groups = dict(groups)
        if gone:
            self._leave(gone)
        for content in new:
            self._prepare(content)
        for claims, crowd in self._crowds.items() if new else ():
            for content, group in new.items():
                if self._means(content, claims):
                    crowd.contents.add(content)
                    _come(group, _members(content, claims, crowd.addresses))

    def _leave(self, gone: set[Content]) -> None:
        for crowd in self._crowds.values():
            crowd.contents -= gone
        self._tests = {content: test for content, test in self._tests.items() if content not in gone}
        for mark, table in self._marked.items():
            self._marked[mark] = {content: None for content in table if content not in gone}

    def _prepare(self, content: Content) -> None:
        if isinstance(content, (str, Ground)) or (test := question_of(content)) is None:
            return
        self._tests[content] = test
        pairs = anchors(content)
        for mark in (None if pairs is None else marks(pairs)) or (None,):
            self._marked.setdefault(mark, {})[content] = None

    def learn(self, changes: Mapping[Nlri, Claims | None]) -> bool:
        """Take in what is said of addresses now (None: nothing); tell whether of some it was another thing before."""
        moves: dict[tuple[Claims | None, Claims | None], list[Nlri]] = {}
        for (nlri, now), was in zip(changes.items(), map(self.said.get, changes), strict=True):
            if was is not now and was != now:
                moves.setdefault((was, now), []).append(nlri)
        for (was, now), nlris in moves.items():
            self._move(nlris, was, now)
        return any(was is not None and now is not None for was, now in moves)

    def _move(self, nlris: list[Nlri], was: Claims | None, now: Claims | None) -> None:
        left = None if was is None else self._crowds[was]
        joined = None if now is None else self._crowd(now)
        old = frozenset() if left is None else left.contents
        new = frozenset() if joined is None else joined.contents
        # First who comes, so that what stays never leaves. A port of one name may have another number.
        for content in new:
            if now is not None and (content not in old or isinstance(content, str)):
                _come(self._groups[content], _members(content, now, nlris))
        for content in old:
            if was is not None and (content not in new or isinstance(content, str)):
                _go(self._groups[content], _members(content, was, nlris))
        if left is not None and was is not None:
            left.addresses.difference_update(nlris)
            if not left.addresses:
                del self._crowds[was]
        if joined is not None and now is not None:
            joined.addresses.update(nlris)
            self.said.update(dict.fromkeys(nlris, now))
        else:
            for nlri in nlris:
                del self.said[nlri]

    def _crowd(self, claims: Claims) -> Crowd:
        crowd = self._crowds.get(claims)
        if crowd is None:
            crowd = self._crowds[claims] = Crowd(contents=set(self._meaning(claims)))
        return crowd

    def _meaning(self, claims: Claims) -> Iterator[Content]:
        """Yield the contents that mean those of whom this is said."""
        tried = {content for claim in (*claims, None) for content in self._marked.get(claim, ())}
        yield from (content for content in tried if self._tests[content](claims))
        yield from (content for content in self._groups if content not in self._tests and self._means(content, claims))

    def _means(self, content: Content, claims: Claims) -> bool:
        if isinstance(content, str):
            return bool(ports_named(content, claims))
        if isinstance(content, Ground):
            return content is Ground.KNOWN
        test = self._tests.get(content)
        return test is not None and test(claims)


def _members(content: Content, claims: Claims, nlris: Iterable[Nlri]) -> Iterable[bytes]:
    """Return what addresses are in the set of a content: themselves, or their ports of that name."""
    if not isinstance(content, str):
        return nlris
    ends = [
        bytes((protocol, number >> 8, number & 0xFF))
        for protocol, number in ports_named(content, claims)
        if protocol in WITH_PORTS
    ]
    return [nlri[1:] + end for nlri in nlris for end in ends]


def _come(group: Addresses, members: Iterable[bytes]) -> None:
    for family, some in _by_family(members):
        group.tallies[family].come(some)


def _go(group: Addresses, members: Iterable[bytes]) -> None:
    for family, some in _by_family(members):
        group.tallies[family].go(some)


def _by_family(members: Iterable[bytes]) -> Iterator[tuple[int, Collection[bytes]]]:
    found: dict[int, list[bytes]] = {4: [], 6: []}
    for member in members:
        found[4 if len(member) <= 7 else 6].append(member)
    yield from ((family, some) for family, some in found.items() if some)
