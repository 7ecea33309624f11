"""The compiled form: sets, chains of lines, and who goes through which. What the renderer writes and `explain` walks.

Staged policies are in it too, as runs: lines that decide nothing. A packet is counted by the first that matches.

A policy or profile is a **body** in each direction it has, a chain of lines. A **stack** is all that one direction of
a workload goes through: layers (tiers) of bodies, then profiles. Workloads with the same stack share its chain:
they are one class. A line is all-of: what a rule says with "or" has become several lines with the rule's
number, and what it says about unknown addresses is spelled out in them, so nothing that walks a line needs to
know which action is careful in which way.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import field
from enum import Enum
from typing import assert_never

from bgpmesh.frozen import frozen
from bgpmesh.policy.chains import AddressSet
from bgpmesh.policy.model import Model, Packet
from bgpmesh.policy.rule import Action, Direction, Icmp, IPNetwork, PortRange
from bgpmesh.policy.selector import Selector
from bgpmesh.route.nlri import IPAddress

FAMILIES = (4, 6)


class End(Enum):
    """An end of a packet, by ipset's word for it."""

    SOURCE = "src"
    DESTINATION = "dst"


@frozen
class IsProtocol:
    """The packet has this protocol number, or another one."""

    number: int
    is_negated: bool = False


@frozen
class IsIcmp:
    """The packet, of its family's ICMP, has this type and code, or differs in one. A line has the protocol before."""

    icmp: Icmp
    is_negated: bool = False


@frozen
class IsIn:
    """The address at one end lies in this net."""

    end: End
    net: IPNetwork


@frozen
class InSet:
    """The address at one end, with the protocol and the port there in a hash:ip,port, is in the set, or not."""

    end: End
    name: str
    is_negated: bool = False
    with_port: bool = False


@frozen
class HasPort:
    """The port at one end lies in one of the ranges, or in none. A line has a protocol with ports before."""

    end: End
    ranges: tuple[PortRange, ...]
    is_negated: bool = False


Term = IsProtocol | IsIcmp | IsIn | InSet | HasPort


def holds(term: Term, packet: Packet, sets: Mapping[str, AddressSet]) -> bool:
    """Tell whether one term holds for the packet."""
    match term:
        case IsProtocol(number, is_negated):
            return (packet.protocol == number) is not is_negated
        case IsIcmp(icmp, is_negated):
            own = packet.icmp
            same = own is not None and own.type == icmp.type and icmp.code in {None, own.code}
            return same is not is_negated
        case IsIn(end, net):
            return _address(packet, end) in net
        case InSet(end, name, is_negated, with_port):
            found, address = sets[name], _address(packet, end)
            has = found.holds_port(address, packet.protocol, _port(packet, end)) if with_port else found.holds(address)
            return has is not is_negated
        case HasPort(end, ranges, is_negated):
            port = _port(packet, end)
            return (port is not None and any(r.first <= port <= r.last for r in ranges)) is not is_negated
    assert_never(term)


def _address(packet: Packet, end: End) -> IPAddress:
    return packet.source if end is End.SOURCE else packet.destination


def _port(packet: Packet, end: End) -> int | None:
    return packet.source_port if end is End.SOURCE else packet.port


@frozen
class Line:
    """All terms must hold; `rule` is the number of the rule that it comes from, counted from 1."""

    terms: tuple[Term, ...]
    action: Action
    rule: int


class Phase(Enum):
    """Where a stack is asked. A workload has the normal one alone; what the first two allow is not asked again."""

    UNTRACKED = "untracked"  # of a host, before connection tracking: what it allows is not tracked
    PRE_DNAT = "pre-DNAT"  # of a host, as it comes in and before destination NAT
    NORMAL = "normal"  # of a host: to and from the host itself
    FORWARD = "forward"  # of a host: what is forwarded

    @property
    def last(self) -> Action:
        """What happens at the end of the stack; PASS: nothing has been said, and the next phase is asked."""
        return {Phase.NORMAL: Action.DENY, Phase.FORWARD: Action.ALLOW}.get(self, Action.PASS)

    @property
    def is_early(self) -> bool:
        """Tell whether another phase comes after it."""
        return self.last is Action.PASS


class Ground(Enum):
    """The sets that tell who is unknown: in the space and not known, or not known by the text of its labels."""

    SPACE = "space"
    KNOWN = "known"
    HERE = "here"


@frozen
class SetSource:
    """A set that a line needs: what is in it is another matter, the name does not depend on it.

    `content`: members that a selector means, the nets as listed, the members' ports of that name, or common ground.
    """

    family: int
    content: Selector | tuple[IPNetwork, ...] | str | Ground

    @property
    def name(self) -> str:
        """At most 31 characters (IPSET_MAXNAMELEN less one)."""
        return _set_name(self)


@functools.lru_cache(maxsize=65_536)
def _set_name(source: SetSource) -> str:
    return f"bm-{source.family}-{digest(canonical(source.content))}"


@frozen
class Body:
    """One direction of a policy (its tier named) or of a profile (None), by family."""

    chain: str
    direction: Direction
    tier: str | None
    policy: str  # the key people know
    lines: Mapping[int, tuple[Line, ...]]
    sets: Mapping[str, SetSource]  # by name
    is_staged: bool = False

    @property
    def can_pass(self) -> bool:
        """Tell whether some line sends on to the next tier."""
        return any(line.action is Action.PASS for lines in self.lines.values() for line in lines)


@frozen
class Run:
    """Staged policies that stand one after the other in a tier; one chain, which returns whatever it has found.

    `default`: what would become of the rest, of a tier in which nothing is enforced; None: others decide it.
    """

    chain: str
    bodies: tuple[str, ...]
    default: Action | None


@frozen
class Layer:
    """A tier as one stack has it: the chains of bodies in order, and what happens where none matches.

    Runs of staged policies stand where they would be asked. A tier that has nothing else counts as absent.
    """

    tier: str
    default: Action
    parts: tuple[str | Run, ...]
    can_pass: bool

    @property
    def bodies(self) -> tuple[str, ...]:
        """The chains of what is enforced, in order."""
        return tuple(part for part in self.parts if isinstance(part, str))

    @property
    def runs(self) -> tuple[Run, ...]:
        """What is staged, in order."""
        return tuple(part for part in self.parts if isinstance(part, Run))

    @property
    def is_absent(self) -> bool:
        """Tell whether nothing of it is enforced."""
        return not self.bodies


@frozen
class Stack:
    """One direction of a class of workloads, or of a host endpoint; after the last profile what the phase says."""

    chain: str
    direction: Direction
    layers: tuple[Layer, ...]
    profiles: tuple[str, ...]  # chains of bodies
    phase: Phase = Phase.NORMAL


@frozen
class HostInterface:
    """A host endpoint where it is enforced: the chains of its stacks. Where it has none nothing is asked."""

    key: str
    interface: str  # `*`: all that have no host endpoint of their own
    stacks: Mapping[tuple[Phase, Direction], str]


@frozen
class Compiled:
    """What a model comes to on this node.

    From one to the next of a Compiler what is equal is the same object: each stack, body, class and set, and each of
    the mappings, whose keys are in order.
    """

    model: Model
    stacks: Mapping[str, Stack]  # by chain
    classes: Mapping[str, Mapping[Direction, str]]  # key of a workload here -> the chains of its stacks
    bodies: Mapping[str, Body]  # by chain
    sets: Mapping[str, AddressSet]  # by name
    hosts: Mapping[str, HostInterface] = field(default_factory=dict)  # by interface

    def host_on(self, interface: str) -> HostInterface | None:
        """Return the host endpoint that an interface is under."""
        return self.hosts.get(interface) or self.hosts.get("*")

    def is_like(self, other: Compiled) -> bool:
        """Tell whether both say the same of every packet, as far as equal parts are the same objects."""
        return self.sets is other.sets and self.has_rules_of(other)

    def has_rules_of(self, other: Compiled) -> bool:
        """Tell whether both come to the same rules, in the same way; what is in the sets is another matter."""
        parts = ((self.stacks, other.stacks), (self.classes, other.classes), (self.bodies, other.bodies))
        return all(one is two for one, two in (*parts, (self.hosts, other.hosts)))


def digest(*parts: str) -> str:
    """Return 20 characters of a hash, in the alphabet of names (100 bits: nobody makes two of the same)."""
    return base64.b32encode(hashlib.sha256("\0".join(parts).encode()).digest()).decode().lower()[:20]


def canonical(value: object) -> str:
    """Return a text that is the same for equal values, in every process: the order of a frozenset's `repr` is not."""
    if isinstance(value, frozenset):
        return "{" + ",".join(sorted(map(canonical, value))) + "}"
    if isinstance(value, tuple):
        return "(" + ",".join(map(canonical, value)) + ")"
    if dataclasses.is_dataclass(value):
        inner = tuple(getattr(value, part.name) for part in dataclasses.fields(value))
        return type(value).__name__ + canonical(inner)
    return repr(value)


def runs_of(stack: Stack) -> Iterator[Run]:
    """Yield what is staged in a stack."""
    for layer in stack.layers:
        yield from layer.runs


def lines_of(run: Run, bodies: Mapping[str, Body], family: int) -> Iterator[tuple[Body, Line]]:
    """Yield the lines of a run that would decide, each with the body it comes from."""
    for chain in run.bodies:
        for line in bodies[chain].lines[family]:
            if line.action is not Action.LOG:
                yield bodies[chain], line
