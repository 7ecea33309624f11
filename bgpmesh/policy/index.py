"""The selector index: which members and network sets each selector means, and the addresses that makes.

Told everything, it redoes what differs from the last time. A selector that asks for a certain value of a label
(its **anchors**: one of these pairs must be there) is tried on those that have it only, and who is new tries the
selectors that its labels are anchors of; a selector without anchors is tried on everybody. The answers depend
on the last call alone.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from bgpmesh.policy.form import AddressSet, Ground, PortSet, SetSource
from bgpmesh.policy.model import Member
from bgpmesh.policy.rule import NAMESPACE_LABEL, IPNetwork, NetworkSet
from bgpmesh.policy.selector import AllOf, AnyOf, OneOf, Selector, matches
from bgpmesh.route.nlri import IPAddress

Key = str | tuple[str | None, str]  # of a member; (namespace, name) of a network set
Thing = Member | NetworkSet
Inherited = Mapping[str, Mapping[str, str]]  # profile -> the labels it gives, where it gives any
PortMember = tuple[IPAddress, int, int]
_Counted = TypeVar("_Counted", IPNetwork, PortMember)
_Pair = tuple[str, str]  # a label and its value


@dataclass(slots=True)
class _Group:
    """Who a selector means, and how many of them have each net, by family."""

    keys: set[Key] = field(default_factory=set)
    nets: dict[int, dict[IPNetwork, int]] = field(default_factory=lambda: {4: {}, 6: {}})

    def add(self, key: Key, nets: Collection[IPNetwork]) -> None:
        self.keys.add(key)
        for net in nets:
            counts = self.nets[net.version]
            counts[net] = counts.get(net, 0) + 1

    def drop(self, key: Key, nets: Collection[IPNetwork]) -> None:
        if key in self.keys:
            self.keys.discard(key)
            for net in nets:
                _count_down(self.nets[net.version], net)


class Index:
    """Members and network sets by selector, and members' ports by name."""

    def __init__(self) -> None:
        self._inherited: Inherited = {}
        self._things: dict[Key, Thing] = {}
        self._labelled: dict[_Pair, set[Key]] = {}  # label -> who has it
        self._groups: dict[Selector, _Group] = {}
        self._anchored: dict[_Pair | None, list[Selector]] = {}  # None: those without anchors
        self._known = _Group()
        self._ports: dict[str, dict[PortMember, int]] = {}

    def update(self, things: Mapping[Key, Thing], inherited: Inherited, selectors: Collection[Selector]) -> None:
        """Make the index one of these things under these selectors, and of no others."""
        if inherited != self._inherited:  # rare, and it may touch anybody's labels
            for key in list(self._things):
                self._drop(key)
            self._inherited = dict(inherited)
        new = [selector for selector in selectors if selector not in self._groups]
        if new or len(selectors) != len(self._groups):
            self._groups = {selector: group for selector, group in self._groups.items() if selector in selectors}
            self._set_anchors()
        for key in [key for key, thing in self._things.items() if _differs(things.get(key), thing)]:
            self._drop(key)
        for key in [key for key in things if key not in self._things]:
            self._add(key, things[key])
        for selector in new:
            self._groups[selector] = self._group(selector)
        if new:
            self._set_anchors()

    def keys(self, selector: Selector) -> Collection[Key]:
        """Return who a selector of the last update means."""
        return self._groups[selector].keys

    def contents(self, source: SetSource, space: Collection[IPNetwork]) -> AddressSet | PortSet:
        """Return a set as it should be; its selector was in the last update."""
        content, family = source.content, source.family
        if isinstance(content, str):
            ports = frozenset(member for member in self._ports.get(content, ()) if member[0].version == family)
            return PortSet(source.name, family, ports)
        if isinstance(content, tuple):
            nets = frozenset(halved(content))
        elif content is Ground.SPACE:
            everywhere = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
            nets = frozenset(net for net in halved(space or everywhere) if net.version == family)
        else:
            group = self._known if isinstance(content, Ground) else self._groups[content]
            nets = frozenset(group.nets[family])
        return AddressSet(source.name, family, nets)

    def _set_anchors(self) -> None:
        self._anchored = {}
        for selector in self._groups:
            for anchor in anchors(selector) or (None,):
                self._anchored.setdefault(anchor, []).append(selector)

    def _group(self, selector: Selector) -> _Group:
        group = _Group()
        pairs = anchors(selector)
        keys = self._things.keys() if pairs is None else set().union(*(self._labelled.get(pair, ()) for pair in pairs))
        for key in keys:
            thing = self._things[key]
            if matches(selector, self._labels(thing)):
                group.add(key, _nets(thing))
        return group

    def _add(self, key: Key, thing: Thing) -> None:
        labels, nets = self._labels(thing), _nets(thing)
        self._things[key] = thing
        for pair in labels.items():
            self._labelled.setdefault(pair, set()).add(key)
        for selector in self._asking(labels):
            if matches(selector, labels):
                self._groups[selector].add(key, nets)
        if isinstance(thing, Member):
            self._known.add(key, nets)
            for name, member in _ports(thing):
                counts = self._ports.setdefault(name, {})
                counts[member] = counts.get(member, 0) + 1

    def _drop(self, key: Key) -> None:
        thing = self._things.pop(key)
        labels, nets = self._labels(thing), _nets(thing)
        for pair in labels.items():
            self._labelled[pair].discard(key)
            if not self._labelled[pair]:
                del self._labelled[pair]
        for selector in self._asking(labels):
            self._groups[selector].drop(key, nets)
        if isinstance(thing, Member):
            self._known.drop(key, nets)
            for name, member in _ports(thing):
                _count_down(self._ports[name], member)

    def _asking(self, labels: Mapping[str, str]) -> set[Selector]:
        """Return the selectors that may mean who has these labels."""
        return {selector for pair in (*labels.items(), None) for selector in self._anchored.get(pair, ())}

    def _labels(self, thing: Thing) -> Mapping[str, str]:
        if isinstance(thing, NetworkSet):
            return thing.labels if thing.namespace is None else {NAMESPACE_LABEL: thing.namespace, **thing.labels}
        given = [self._inherited[name] for name in thing.profiles if name in self._inherited]
        if not given:
            return thing.labels
        return {key: value for labels in (*given, thing.labels) for key, value in labels.items()}


def anchors(selector: Selector) -> Collection[_Pair] | None:
    """Return pairs one of which whoever is meant must have; None where the selector asks for no value."""
    match selector:
        case OneOf(key, values):
            return {(key, value) for value in values}
        case AllOf(terms):
            return min((found for term in terms if (found := anchors(term)) is not None), key=len, default=None)
        case AnyOf(terms):
            every = [anchors(term) for term in terms]
            pairs = {pair for found in every if found is not None for pair in found}
            return None if None in every else pairs
        case _:
            return None


def halved(nets: Collection[IPNetwork]) -> list[IPNetwork]:
    """Return the nets with two halves for a prefix of length 0, which the kernel's hash:net does not take."""
    return [part for net in nets for part in (net.subnets() if net.prefixlen == 0 else (net,))]


def _differs(new: Thing | None, old: Thing) -> bool:
    return new is not old and new != old


def _count_down(counts: dict[_Counted, int], key: _Counted) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


@functools.lru_cache(maxsize=65_536)
def _net_of(address: IPAddress) -> IPNetwork:
    return ipaddress.ip_network(address)


def _nets(thing: Thing) -> list[IPNetwork]:
    return [_net_of(address) for address in thing.addresses] if isinstance(thing, Member) else halved(thing.nets)


def _ports(member: Member) -> list[tuple[str, PortMember]]:
    return [
        (name, (address, protocol, number))
        for (name, protocol), number in member.ports.items()
        for address in member.addresses
    ]
