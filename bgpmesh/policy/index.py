"""The selector index: whom each selector means, the addresses that makes, who has a port of a name.

Told what changed, it redoes what that touches. A selector that asks for a certain value of a label (its
**anchors**: one of these pairs must be there) is tried on those that have it only, and who is new tries the
selectors that its labels are anchors of; a selector without anchors is tried on everybody. The answers depend
on what is there alone, not on the way to it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from bgpmesh.policy.chains import HASH_IP_PORT, HASH_NET, WITH_PORTS, AddressSet, port_member, whole
from bgpmesh.policy.form import Ground, SetSource
from bgpmesh.policy.model import Member
from bgpmesh.policy.rule import NAMESPACE_LABEL, WORKLOAD_LABEL, IPNetwork, NetworkSet
from bgpmesh.policy.selector import AllOf, AnyOf, OneOf, Selector, matches
from bgpmesh.route.nlri import host_nlri

Key = str | tuple[str | None, str]  # of a member; (namespace, name) of a network set
Thing = Member | NetworkSet
Changes = Mapping[Key, Thing | None]  # what is new, or otherwise than before; None: gone
Inherited = Mapping[str, Mapping[str, str]]  # profile -> the labels it gives, where it gives any
Content = Selector | str | Ground  # whom a selector means, who has a port of that name, who is known (KNOWN, HERE)
Members = Collection[bytes]  # of sets: what somebody brings into them
_Pair = tuple[str, str]  # a label and its value

EVERYWHERE = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


class Group(Protocol):
    """What is kept of those that a content means."""

    def change(self, key: Key, before: Members | None, after: Members | None) -> None:
        """Hear that somebody brings other members than before; None: is not meant."""


class Keys:
    """Who is meant."""

    def __init__(self, content: Content) -> None:
        del content
        self.keys: set[Key] = set()

    def change(self, key: Key, before: Members | None, after: Members | None) -> None:
        """Hear that somebody is meant, or is not."""
        del before
        if after is None:
            self.keys.discard(key)
        else:
            self.keys.add(key)


class Tally:
    """A set, and how many bring each member. What it is made into is the same object until it differs."""

    def __init__(self, family: int, kind: str, members: Members = ()) -> None:
        self._counts = dict.fromkeys(members, 1)
        self._made = AddressSet(family, frozenset(members), kind)
        self._is_stale = False

    def add(self, member: bytes) -> None:
        """Count one more that brings a member."""
        count = self._counts.get(member, 0)
        self._counts[member] = count + 1
        self._is_stale = self._is_stale or not count

    def drop(self, member: bytes) -> None:
        """Count one less."""
        count = self._counts[member] - 1
        if count:
            self._counts[member] = count
        else:
            del self._counts[member]
            self._is_stale = True

    def come(self, members: Members) -> None:
        """Count one more for each of many, all different."""
        if self._counts.keys().isdisjoint(members):
            self._counts.update(dict.fromkeys(members, 1))
            self._is_stale = self._is_stale or bool(members)
        else:
            for member in members:
                self.add(member)

    def go(self, members: Members) -> None:
        """Count one less for each of many."""
        for member in members:
            self.drop(member)

    def made(self) -> AddressSet:
        """Return it as a set; O(members) where it has changed: 100,000 take 1 to 3 ms."""
        if self._is_stale:
            members = frozenset(self._counts)
            if members != self._made.members:
                self._made = AddressSet(self._made.family, members, self._made.kind)
            self._is_stale = False
        return self._made


class Addresses:
    """What those that are meant bring, by family: their nets, or for the name of a port their ports of that name."""

    def __init__(self, content: Content) -> None:
        kind = HASH_IP_PORT if isinstance(content, str) else HASH_NET
        self.tallies = {family: Tally(family, kind) for family in (4, 6)}

    def change(self, key: Key, before: Members | None, after: Members | None) -> None:
        """Hear that somebody brings other members than before."""
        del key
        for member in after or ():  # first, so that what stays never leaves
            self.tallies[_family(member)].add(member)
        for member in before or ():
            self.tallies[_family(member)].drop(member)


G = TypeVar("G", bound=Group)


class Index(Generic[G]):
    """Members and network sets, and a group of them for each content that was asked for."""

    def __init__(self, group: Callable[[Content], G]) -> None:
        self.things: dict[Key, Thing] = {}
        self.groups: dict[Content, G] = {}  # of the contents that were asked for last
        self._new_group = group
        self._inherited: Inherited = {}
        self._labelled: dict[_Pair, set[Key]] = {}  # label -> who has it
        self._anchored: dict[_Pair | None, list[tuple[Selector, G]]] = {}  # None: those without anchors
        self._ports: dict[str, G] = {}
        self._known: list[G] = []  # of members alone: of KNOWN, to which others add (`crowds`), and of HERE

    def ask(self, contents: Iterable[Content]) -> None:
        """Have a group for each of these contents, and for no other; one that was there stays the object it was."""
        old, self.groups = self.groups, {}
        self._anchored, self._ports, self._known = {}, {}, []
        for content in contents:
            group = self.groups[content] = old[content] if content in old else self._filled(content)
            if isinstance(content, str):
                self._ports[content] = group
            elif isinstance(content, Ground):
                self._known.append(group)
            else:
                for anchor in anchors(content) or (None,):
                    self._anchored.setdefault(anchor, []).append((content, group))

    def update(self, changes: Changes, inherited: Inherited) -> None:
        """Take in what changed, and the labels that profiles give now; another one of those is everybody's matter."""
        if inherited != self._inherited:
            changes = {**self.things, **changes}
        for key, new in changes.items():
            old = self.things.pop(key, None)
            was = {} if old is None else _labels(old, self._inherited)
            now = {} if new is None else _labels(new, inherited)
            before = {} if old is None else self._joined(old, was)
            after = {} if new is None else self._joined(new, now)
            for group, members in before.items():
                if group not in after:
                    group.change(key, members, None)
            for group, members in after.items():
                group.change(key, before.get(group), members)
            for pair in was.items() - now.items():
                self._labelled[pair].discard(key)
                if not self._labelled[pair]:
                    del self._labelled[pair]
            for pair in now.items() - was.items():
                self._labelled.setdefault(pair, set()).add(key)
            if new is not None:
                self.things[key] = new
        self._inherited = dict(inherited)

    def _filled(self, content: Content) -> G:
        """Return the group of a content that nobody asked for before."""
        group = self._new_group(content)
        keys = None if isinstance(content, (str, Ground)) else self._candidates(content)
        for key in self.things if keys is None else keys:
            thing = self.things[key]
            members = _brought(content, thing, _labels(thing, self._inherited))
            if members is not None:
                group.change(key, None, members)
        return group

    def _candidates(self, selector: Selector) -> set[Key] | None:
        """Return some that have those among them whom a selector means; None: everybody."""
        match selector:
            case OneOf(key, values):
                return set().union(*(self._labelled.get((key, value), ()) for value in values))
            case AllOf(terms):
                some = [keys for term in terms if (keys := self._candidates(term)) is not None]
                return set.intersection(*sorted(some, key=len)) if some else None
            case AnyOf(terms):
                found = [keys for term in terms if (keys := self._candidates(term)) is not None]
                return set().union(*found) if len(found) == len(terms) else None
            case _:
                return None

    def _joined(self, thing: Thing, labels: Mapping[str, str]) -> dict[G, Members]:
        """Return the groups that somebody is in, and what it brings into each."""
        found: dict[G, Members] = {}
        nets = _nets(thing)
        for pair in (*labels.items(), None):
            for selector, group in self._anchored.get(pair, ()):
                if group not in found and matches(selector, labels):
                    found[group] = nets
        if isinstance(thing, Member):
            found |= dict.fromkeys(self._known, nets)
        if self._ports:
            found |= {self._ports[name]: members for name, members in _ports(thing).items() if name in self._ports}
        return found


def tally_of(source: SetSource, everyone: Index[Addresses], space: Collection[IPNetwork]) -> Tally:
    """Return what a set is made from; its content was asked for, where it is one that an index answers."""
    content, family = source.content, source.family
    if isinstance(content, tuple):
        return Tally(family, HASH_NET, whole(content))
    if content is Ground.SPACE:
        return Tally(family, HASH_NET, whole(net for net in space or EVERYWHERE if net.version == family))
    return everyone.groups[content].tallies[family]


def anchors(selector: Selector) -> Collection[_Pair] | None:
    """Return pairs one of which whoever is meant must have; None where the selector asks for no value."""
    match selector:
        case OneOf(key, values):
            return {(key, value) for value in values}
        case AllOf(terms):
            return min((found for term in terms if (found := anchors(term)) is not None), key=_reach, default=None)
        case AnyOf(terms):
            every = [anchors(term) for term in terms]
            pairs = {pair for found in every if found is not None for pair in found}
            return None if None in every else pairs
        case _:
            return None


def _reach(pairs: Collection[_Pair]) -> tuple[bool, int]:
    """Return what sorts first that fewer have: the mark of a workload tells nobody apart."""
    return any(key == WORKLOAD_LABEL for key, _ in pairs), len(pairs)


def _brought(content: Content, thing: Thing, labels: Mapping[str, str]) -> Members | None:
    """Return what somebody brings into the group of a content; None: is not meant."""
    if isinstance(content, str):
        return _ports(thing).get(content)
    is_meant = isinstance(thing, Member) if isinstance(content, Ground) else matches(content, labels)
    return _nets(thing) if is_meant else None


def _labels(thing: Thing, inherited: Inherited) -> Mapping[str, str]:
    if isinstance(thing, NetworkSet):
        return thing.labels if thing.namespace is None else {NAMESPACE_LABEL: thing.namespace, **thing.labels}
    given = [inherited[name] for name in thing.profiles if name in inherited]
    if not given:
        return thing.labels
    return {key: value for labels in (*given, thing.labels) for key, value in labels.items()}


def _family(member: bytes) -> int:
    return 4 if len(member) <= 7 else 6


def _nets(thing: Thing) -> Members:
    return [host_nlri(address) for address in thing.addresses] if isinstance(thing, Member) else whole(thing.nets)


def _ports(thing: Thing) -> dict[str, list[bytes]]:
    """Return somebody's ports by their names."""
    found: dict[str, list[bytes]] = {}
    if isinstance(thing, NetworkSet):
        return found
    for (name, protocol), number in thing.ports.items():
        if protocol in WITH_PORTS:
            found.setdefault(name, []).extend(port_member(address, protocol, number) for address in thing.addresses)
    return found
