"""What a change of objects would do: to the objects, to what workloads are under, to the connections that stand.

The change is made in a copy of the store, both states are compiled by a compiler of their own, and connections are
judged by both forms as a review judges them (`explain.judge`). Nothing here is shared with who runs on: all that comes
in is a copy or never changes, so this may be done in a thread beside the loop. What functions of this package remember
(`functools.lru_cache`) is safe there.

    cut        lives, and the new form does not let it begin: the review after the change would mark it
    restored   has been cut, and the new form lets it begin
    kept       lives, the new form does not let it begin any more, and nothing is cut (`[policy] revoke = false`)

Where the change comes to the same form there is no review, so there is nothing of the three.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Protocol

from bgpmesh.frozen import frozen
from bgpmesh.policy.explain import Step, denier, judge
from bgpmesh.policy.form import Body, Compiled, Phase, Stack
from bgpmesh.policy.model import Packet
from bgpmesh.policy.objects import Key, Remark, Value
from bgpmesh.policy.protection import Protection, Surroundings
from bgpmesh.policy.rule import Direction
from bgpmesh.policy.store import Store
from bgpmesh.route.claim import Claims
from bgpmesh.route.nlri import IPAddress, Nlri, host_nlri
from bgpmesh.workload.endpoint import Endpoint

MOST_TOLD = 1000  # connections of one fate


class Tracked(Protocol):
    """A connection as the kernel tracks it (`kernel/conntrack.py`)."""

    @property
    def destination(self) -> IPAddress:
        """As it was called."""

    @property
    def reply_destination(self) -> IPAddress:
        """Who is answered: another than the source where that was translated."""

    @property
    def packet(self) -> Packet | None:
        """Its first packet, as filters have seen it."""

    @property
    def mark(self) -> int:
        """The mark of the connection."""


@frozen
class Change:
    """The objects in force as they are and as they would be, and what became of the request."""

    before: Mapping[Key, Value]
    after: Mapping[Key, Value]
    done: tuple[str, ...]
    refused: tuple[Remark, ...]
    warnings: tuple[Remark, ...]

    def expected(self, node: str) -> set[IPAddress]:
        """Return the addresses by which host endpoints of a node find their interfaces, or would."""
        protection = Protection()
        found: set[IPAddress] = set()
        for protection.objects in (self.before, self.after):
            found |= protection.expected(node)
        return found


@frozen
class Basis:
    """What is known at one moment that verdicts depend on besides objects: copies, and values that never change."""

    endpoints: Mapping[str, Endpoint]
    around: Surroundings
    interfaces: Mapping[IPAddress, Collection[str]] = field(default_factory=dict)
    remote: Mapping[Nlri, Claims] = field(default_factory=dict)
    has_identity: bool = False
    is_alone: bool = False  # no other node is configured


@frozen
class Turn:
    """What would change for one direction of a workload, or of a host endpoint in one phase: policies by name.

    `changed`: their rules, or who those mean; of tiers and of the order, in words. `staged`: what of all that decides
    nothing.
    """

    workload: str
    direction: Direction
    phase: Phase
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    staged: tuple[str, ...]


@frozen
class Fate:
    """A connection, and what denies it: in the new form, or for what would be restored in the present one."""

    connection: Tracked
    packet: Packet
    step: Step | None
    source: str | None  # the workloads here
    destination: str | None


@frozen
class Lot:
    """All connections of one fate: how many they are, and the first MOST_TOLD by their ends."""

    count: int = 0
    fates: tuple[Fate, ...] = ()


@frozen
class Outcome:
    """What a change would do. The objects are named as people call them."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    deleted: tuple[str, ...]
    refused: tuple[Remark, ...]
    warnings: tuple[Remark, ...]
    turns: tuple[Turn, ...]
    cut: Lot = Lot()
    restored: Lot = Lot()
    kept: Lot = Lot()


def change_of(store: Store, documents: Iterable[object], *, is_deletion: bool = False) -> Change:
    """Return what applying or deleting the objects in the documents would make of those in force.

    `store` is a copy, and it is changed.
    """
    before = store.objects()
    answer = store.delete(documents) if is_deletion else store.apply(documents)
    return Change(before, store.objects(), answer.done, answer.refused, answer.warnings)


def outcome(basis: Basis, change: Change, tracked: Sequence[Tracked]) -> Outcome:
    """Return what the change would do; `tracked` are the living connections of the workloads here.

    O(workloads + connections), and a compilation from nothing.
    """
    protection = Protection()
    ends = {host_nlri(end) for each in tracked if each.packet for end in (each.packet.source, each.packet.destination)}
    protection.learn({nlri: basis.remote[nlri] for nlri in ends if nlri in basis.remote})  # the rest is nobody's fate
    protection.objects = change.before
    before = protection.compile(basis.endpoints, basis.around, basis.interfaces)
    protection.objects = change.after
    after = protection.compile(basis.endpoints, basis.around, basis.interfaces)
    added, changed, deleted = (tuple(map(str, keys)) for keys in _differences(change))
    known = Counter((*added, *changed, *deleted))
    return Outcome(
        added,
        changed,
        tuple((Counter(change.done) - known).elements()),
        deleted,
        change.refused,
        (*change.warnings, *_remarks(protection, basis, {*added, *changed})),
        tuple(turns(before, after)),
        **_lots(before, after, basis, tracked),
    )


def _differences(change: Change) -> tuple[list[Key], list[Key], list[Key]]:
    before, after = change.before, change.after
    added = [key for key in after if key not in before]
    changed = [key for key, value in after.items() if key in before and before[key] != value]
    return added, changed, [key for key in before if key not in after]


def _remarks(protection: Protection, basis: Basis, names: set[str]) -> Iterator[Remark]:
    """Yield what is odd about new objects in force, in the words of the answer to `apply`."""
    if not basis.has_identity and not basis.is_alone:  # with it, whoever read them has said so
        yield from (Remark(*each) for each in protection.unanswered(has_identity=False) if each[0] in names)
    for name, reason in protection.unplaced.items():
        if name in names:
            yield Remark(name, "", f"not in force: {reason}")


# ── what workloads are under ─────────────────────────────────────────────────


def turns(before: Compiled, after: Compiled) -> Iterator[Turn]:
    """Yield what changes for whom, if anything does; each pair of stacks is compared once.

    Both forms are of one compiler.
    """
    touched = {
        chain
        for chain, body in after.bodies.items()
        if chain in before.bodies and (body is not before.bodies[chain] or _means_others(body, before, after))
    }
    old, new = _places(before), _places(after)
    known: dict[tuple[str | None, str | None], tuple[tuple[str, ...], ...]] = {}
    for place in sorted(old.keys() | new.keys(), key=_order):
        pair = old.get(place), new.get(place)
        if pair not in known:
            known[pair] = _difference(before, after, pair, touched)
        if any(known[pair]):
            yield Turn(*place, *known[pair])


def _means_others(body: Body, before: Compiled, after: Compiled) -> bool:
    return any(after.sets[name] is not before.sets.get(name) for name in body.sets)


def _places(compiled: Compiled) -> dict[tuple[str, Direction, Phase], str]:
    """Return the chain of the stack of each workload and host endpoint here, by direction and phase."""
    found = {
        (key, direction, Phase.NORMAL): own[direction] for key, own in compiled.classes.items() for direction in own
    }
    for host in compiled.hosts.values():
        found |= {(host.key, direction, phase): chain for (phase, direction), chain in host.stacks.items()}
    return found


def _order(place: tuple[str, Direction, Phase]) -> tuple[str, int, str]:
    return place[0], list(Phase).index(place[2]), place[1].value


def _difference(
    before: Compiled, after: Compiled, pair: tuple[str | None, str | None], touched: set[str]
) -> tuple[tuple[str, ...], ...]:
    """Return the names of what is added, removed and changed, and of what of those is staged."""
    old, new = (
        None if chain is None else form.stacks[chain] for form, chain in zip((before, after), pair, strict=True)
    )
    was, now = dict(_bodies(old, before)), dict(_bodies(new, after))
    common = [chain for chain in now if chain in was]
    changed = [now[chain].policy for chain in common if chain in touched]
    defaults = {layer.tier: layer.default for layer in (old.layers if old else ())}
    changed += [
        f"default of tier {layer.tier}"
        for layer in (new.layers if new else ())
        if defaults.get(layer.tier, layer.default) is not layer.default
    ]
    changed += ["order"] if common != [chain for chain in was if chain in now] else []
    gone, come = [was[c] for c in was if c not in now], [now[c] for c in now if c not in was]
    staged = [body.policy for body in (*come, *gone, *(now[c] for c in common if c in touched)) if body.is_staged]
    names = ([body.policy for body in come], [body.policy for body in gone], changed, staged)
    return tuple(tuple(each) for each in names)


def _bodies(stack: Stack | None, compiled: Compiled) -> Iterator[tuple[str, Body]]:
    """Yield the policies and profiles that a stack asks, in order, those that are staged too."""
    for layer in stack.layers if stack else ():
        for part in layer.parts:
            for chain in (part,) if isinstance(part, str) else part.bodies:
                yield chain, compiled.bodies[chain]
    for chain in stack.profiles if stack else ():
        yield chain, compiled.bodies[chain]


# ── connections ──────────────────────────────────────────────────────────────


def _lots(before: Compiled, after: Compiled, basis: Basis, tracked: Sequence[Tracked]) -> dict[str, Lot]:
    """Return what would become of connections, as a review would have it."""
    if after.is_like(before):
        return {}
    options, is_revoking = basis.around.options, basis.around.is_revoking
    was_allowed, is_allowed = judge(before, options), judge(after, options)
    found: dict[str, list[tuple[Tracked, Packet]]] = {"cut": [], "restored": [], "kept": []}
    for each in tracked:
        packet = each.packet
        verdict = None if packet is None else is_allowed(packet)
        if packet is None or verdict is None:
            continue
        is_cut = bool(each.mark & options.revoked)
        if verdict and is_cut and is_revoking:
            found["restored"].append((each, packet))
        elif not verdict and not is_cut and (is_revoking or was_allowed(packet)):
            found["cut" if is_revoking else "kept"].append((each, packet))
    denied_by = {word: denier(before if word == "restored" else after, options) for word in found}
    owners = {address: key for key, endpoint in basis.endpoints.items() for address in endpoint.addresses}

    def fate(word: str, each: Tracked, packet: Packet) -> Fate:
        return Fate(each, packet, denied_by[word](packet), owners.get(packet.source), owners.get(packet.destination))

    return {
        word: Lot(len(rows), tuple(fate(word, *row) for row in heapq.nsmallest(MOST_TOLD, rows, key=_by_ends)))
        for word, rows in found.items()
    }


def _by_ends(row: tuple[Tracked, Packet]) -> tuple[int, ...]:
    packet = row[1]
    ends = int(packet.source), int(packet.destination), packet.protocol
    return (packet.family, *ends, packet.port or 0, packet.source_port or 0)
