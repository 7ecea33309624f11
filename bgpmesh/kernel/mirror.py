"""What the kernel has, as far as we know: read in one go, then kept up with what is heard and written.

What bit, or would: an object that is deleted takes its routes with it in silence, and so does a link that goes
down, with objects too. News of either only make us doubt; another reading tells. What we write comes back to nobody
(the listening socket filters it), so all that is heard is of others' doing.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import operator
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bgpmesh.frozen import frozen
from bgpmesh.kernel import netlink, routes
from bgpmesh.kernel.netlink import Door
from bgpmesh.kernel.routes import Hop, Link, Nexthop, RouteReader, Shape
from bgpmesh.route.nlri import Nlri
from bgpmesh.route.path import HostRoute, HostRouteKind

_KINDS = {
    routes.RTN_LOCAL: HostRouteKind.LOCAL,
    routes.RTN_BLACKHOLE: HostRouteKind.DISCARD,
    routes.RTN_UNREACHABLE: HostRouteKind.DISCARD,
    routes.RTN_PROHIBIT: HostRouteKind.DISCARD,
}
_NO_OBJECTS = (errno.EOPNOTSUPP, errno.EINVAL)
_V4_WIDTH = 5  # octets of an IPv4 prefix with its length
_MANY = 8  # routes that are added together
DUMP_TRIES = 10  # a table that never holds still is then reported as it is: unreadable, and read later

_address = functools.lru_cache(1024)(ipaddress.ip_address)  # a table has many routes and few gateways


@frozen
class KernelOptions:
    """Where our routes live and how they are marked ([kernel])."""

    enabled: bool = field(default=True, metadata={"help": "false: a reflector off the path, which writes no route"})
    protocol: int = field(
        default=77,
        metadata={
            "help": "marks routes and nexthop objects as ours",
            "range": (5, 255),  # below are the kernel's own and those of `ip route`
            "refused": (11, 12, 186, 187, 188, 189, 192),
            "refused_reason": "another routing daemon marks its routes with it, and would sweep ours",
        },
    )
    metric: int = field(default=32, metadata={"help": "of our routes; the lower wins", "range": (1, 4_294_967_294)})
    table: int = field(
        default=254,
        metadata={
            "help": "the kernel's table with our routes; 254 is main",
            "range": (1, 4_294_967_295),
            "refused": (255,),
            "refused_reason": "it is the kernel's table of local addresses",
        },
    )


class Slot(NamedTuple):
    """A place that one IPv4 route can hold (IPv6 routes may share one)."""

    key: Nlri
    table: int
    metric: int
    tos: int = 0


@dataclass(slots=True)
class News:
    """What one hearing brought that was not known."""

    observed: dict[Nlri, Shape | None] = field(default_factory=dict)  # routes of ours that others changed
    added: set[HostRoute] = field(default_factory=set)
    removed: set[HostRoute] = field(default_factory=set)
    awaited: set[object] = field(default_factory=set)  # what something may have waited for: a link's name, a prefix


class Mirror:
    """The routes, nexthop objects and links of one network namespace.

    `ours`, `behind`, `nexthops` and `leftovers` are changed by whoever writes; the rest through the methods.
    """

    def __init__(self, options: KernelOptions) -> None:
        self._options = options
        self.has_objects = True
        self.nexthops: dict[int, Nexthop] = {}  # everybody's
        self.ours: dict[Nlri, Shape] = {}
        self.leftovers: dict[Slot, Shape] = {}  # ours at a metric of an earlier configuration
        # IPv4 routes with our mark behind ours: appended, and in use by nobody.
        self.behind: dict[Shape, set[Nlri]] = {}
        self.foreign: dict[Slot, tuple[Shape, ...]] = {}
        self.blocked: set[Nlri] = set()  # prefixes where somebody else is in our place
        self.displaced: set[Nlri] = set()  # those where ours was before: to be set right, so nothing resolves there
        self.links: dict[int, Link] = {}
        self.indexes: dict[str, int] = {}
        # Reasons to read it all anew.
        self.is_in_doubt = False
        self._fallen: set[int] = set()  # links that went down, lost carrier or vanished
        self._risen: set[int] = set()

    @property
    def tables(self) -> tuple[int, ...]:
        """The tables we look at: ours, and those that next hops resolve in."""
        return tuple(dict.fromkeys((self._options.table, routes.RT_TABLE_MAIN, routes.RT_TABLE_LOCAL)))

    def is_our_place(self, slot: Slot) -> bool:
        """Tell whether our own routes go there."""
        return slot.table == self._options.table and slot.metric == self._options.metric and not slot.tos

    def objects(self) -> dict[int, Nexthop]:
        """Return the nexthop objects and groups that are ours."""
        return {key: nexthop for key, nexthop in self.nexthops.items() if nexthop.protocol == self._options.protocol}

    def members(self, identifier: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids in a group and their weights, (): all alike; an object is its own only member."""
        nexthop = self.nexthops.get(identifier)
        return (nexthop.members, nexthop.weights) if nexthop and nexthop.hop is None else ((identifier,), ())

    def used_by_others(self) -> set[int]:
        """Return the nexthop ids that routes of somebody else go by, or ours of an earlier metric."""
        used = {shape.nexthop_id for shapes in self.foreign.values() for shape in shapes}
        used.update(shape.nexthop_id for shape in self.leftovers.values())
        return used

    def set_foreign(self, slot: Slot, shapes: tuple[Shape, ...]) -> tuple[set[HostRoute], set[HostRoute]]:
        """Record what others have in a slot; return the host routes that came and went."""
        was = set(self._host_routes_of(slot, self.foreign.get(slot, ())))
        if shapes:
            self.foreign[slot] = shapes
        else:
            self.foreign.pop(slot, None)
        if self.is_our_place(slot):
            (self.blocked.add if shapes else self.blocked.discard)(slot.key)
        now = set(self._host_routes_of(slot, shapes))
        return now - was, was - now

    def host_routes_since(self, was: Mirror) -> tuple[set[HostRoute], set[HostRoute]]:
        """Return the host routes that came and went since an earlier reading; O(routes), cheap where they are alike."""
        added: set[HostRoute] = set()
        removed: set[HostRoute] = set()
        are_objects_alike = self.nexthops == was.nexthops
        for slot in self.foreign.keys() | was.foreign.keys():
            now, before = self.foreign.get(slot, ()), was.foreign.get(slot, ())
            # Shapes are interned with the state of their link, which their equality leaves out.
            is_alike = len(now) == len(before) and all(map(operator.is_, now, before))
            if is_alike and (are_objects_alike or not any(shape.nexthop_id for shape in now)):
                continue
            added.update(self._host_routes_of(slot, now))
            removed.update(was._host_routes_of(slot, before))
        return added - removed, removed - added

    def concede(self, key: Nlri) -> set[HostRoute]:
        """Let who took our place for a prefix have it, which nobody wishes back; return the host routes that it is."""
        self.displaced.discard(key)
        slot = Slot(key, self._options.table, self._options.metric)
        return set(self._host_routes_of(slot, self.foreign.get(slot, ())))

    def _host_routes_of(self, slot: Slot, shapes: Iterable[Shape]) -> Iterator[HostRoute]:
        """Yield what next hops may resolve in: a route of somebody else, once for each of its ways."""
        if self.is_our_place(slot) and slot.key in self.displaced:
            return
        for shape in shapes:
            if slot.tos or shape.is_down:
                continue
            kind = _KINDS.get(shape.kind)
            if kind is None and shape.kind != routes.RTN_UNICAST:
                continue  # broadcast, multicast, anycast, throw
            hops = tuple(hop for hop in shape.hops if hop not in shape.down)
            if shape.nexthop_id:
                members = [self.nexthops.get(member) for member in self.members(shape.nexthop_id)[0]]
                hops = tuple(member.hop for member in members if member and member.hop and not member.is_down)
            if kind is HostRouteKind.DISCARD:
                hops = (Hop(0),)
            for link, gateway in hops:
                yield HostRoute(
                    slot.key,
                    link,
                    _address(gateway) if gateway else None,
                    slot.metric,
                    kind or (HostRouteKind.GATEWAY if gateway else HostRouteKind.CONNECTED),
                    shape.protocol,
                    slot.table,
                )

    # ── listening ────────────────────────────────────────────────────────────

    def hear(self, heard: Iterable[bytes], reader: RouteReader) -> News:
        """Take in what others did since the last call, and return what follows from it."""
        news = News()
        for data in heard:
            match netlink.HEADER.unpack_from(data)[1]:
                case netlink.RTM_NEWROUTE | netlink.RTM_DELROUTE:
                    for kind, flags, key, shape in reader.read(data):
                        self._hear_route(kind, flags, key, shape, news)
                case netlink.RTM_NEWLINK | netlink.RTM_DELLINK:
                    for kind, link in routes.read_links(data):
                        self._hear_link(kind, link, news)
                case netlink.RTM_NEWNEXTHOP | netlink.RTM_DELNEXTHOP:
                    for kind, nexthop in routes.read_nexthops(data):
                        self._hear_nexthop(kind, nexthop)
                case netlink.RTM_DELADDR:
                    self.is_in_doubt = True
        return news

    def _hear_route(self, kind: int, flags: int, key: Nlri, shape: Shape, news: News) -> None:
        slot = Slot(key, shape.table, shape.metric, shape.tos)
        is_our_place = self.is_our_place(slot)
        is_new = kind == netlink.RTM_NEWROUTE
        replaces = is_new and bool(flags & netlink.NLM_F_REPLACE)
        if shape.protocol == self._options.protocol and shape.table == self._options.table:
            if not is_our_place:
                return  # the next reading lists it
            self._hear_ours(is_new, flags, key, shape, news)
            if replaces:
                self._change_foreign(slot, (), news)
            return
        if shape.table not in self.tables:
            return
        had = self.foreign.get(slot, ())
        if not is_new:
            self._hear_foreign_gone(slot, had, shape, news)
            return
        is_before_ours = replaces or (len(key) == _V4_WIDTH and not flags & netlink.NLM_F_APPEND)
        if is_our_place and is_before_ours and key in self.ours:
            # Who is there took our place: whatever the routes there lead to, they go.
            del self.ours[key]
            news.removed.update(self._host_routes_of(slot, had))
            self.displaced.add(key)
            news.observed[key] = None
        if replaces and len(had) > 1:
            self.is_in_doubt = True  # one of them is gone, and nobody says which
        others = () if replaces else tuple(o for o in had if o != shape and not _has_joined(o, key, shape))
        self._change_foreign(slot, (*others, shape), news)

    def _hear_ours(self, is_new: bool, flags: int, key: Nlri, shape: Shape, news: News) -> None:
        if is_new and self.ours.get(key) != shape:
            if key in self.ours and len(key) == _V4_WIDTH and flags & netlink.NLM_F_APPEND:
                self.behind.setdefault(shape, set()).add(key)
            else:
                news.observed[key] = self.ours[key] = shape
        elif not is_new and key in self.behind.get(shape, ()):
            self.behind[shape].discard(key)
        elif not is_new and self.ours.pop(key, None) is not None:
            news.observed[key] = None

    def _hear_foreign_gone(self, slot: Slot, had: tuple[Shape, ...], shape: Shape, news: News) -> None:
        left = tuple(other for other in had if other != shape)
        if had and len(left) == len(had):
            self.is_in_doubt = True  # IPv6 tells of one way of several as of a route of its own
            return
        self._change_foreign(slot, left, news)
        if self.is_our_place(slot) and not left:
            news.awaited.add(slot.key)

    def _change_foreign(self, slot: Slot, shapes: tuple[Shape, ...], news: News) -> None:
        added, removed = self.set_foreign(slot, shapes)
        news.removed.update(removed - news.added)
        news.added.difference_update(removed)
        news.added.update(added - news.removed)
        news.removed.difference_update(added)

    def _hear_link(self, kind: int, link: Link, news: News) -> None:
        if kind == netlink.RTM_DELLINK:
            self._forget_link(link.index)
            self._fallen.add(link.index)
            return
        had = self._note_link(link)
        if had == link:
            return
        news.awaited.add(link.name)
        if had is not None:
            is_worse = (had.is_up and not link.is_up) or (had.has_carrier and not link.has_carrier)
            (self._fallen if is_worse else self._risen).add(link.index)

    def _hear_nexthop(self, kind: int, nexthop: Nexthop) -> None:
        had = self.nexthops.get(nexthop.id)
        if kind == netlink.RTM_NEWNEXTHOP and had in {None, nexthop}:
            self.nexthops[nexthop.id] = nexthop  # new, it has no users yet
        else:
            # Whoever routes by it goes another way now, or none. That is left to the reading: what is taken
            # in here it would find as it left it, and report nothing.
            self.is_in_doubt = True

    def is_alarmed(self) -> bool:
        """Tell whether there may soon be need to read it anew; O(1)."""
        return self.is_in_doubt or bool(self._fallen) or bool(self._risen)

    def is_outdated(self) -> bool:
        """Tell whether the kernel may have changed what nobody told us of, and be calm again if not; O(routes)."""
        if self.is_in_doubt or self._is_touched():
            return True
        self._fallen.clear()
        self._risen.clear()
        return False

    def _is_touched(self) -> bool:
        """Tell whether anything goes by a link that fell or vanished, or was held down by one that rose."""
        shapes = {shape for shapes in self.foreign.values() for shape in shapes}.union(self.ours.values())
        return (
            any(hop.link in self._fallen for shape in shapes for hop in shape.hops)
            or any(nexthop.hop and nexthop.hop.link in self._fallen for nexthop in self.nexthops.values())
            or any(hop.link in self._risen for s in shapes for hop in (s.hops if s.is_down else s.down))
            or any(n.hop and n.hop.link in self._risen for n in self.nexthops.values() if n.is_down)
        )

    # ── reading ──────────────────────────────────────────────────────────────

    @classmethod
    def read(cls, door: Door, reader: RouteReader, options: KernelOptions) -> Mirror:
        """Return everything there is; about a tenth of a second for 100,000 routes.

        What was told of the time before is not heard any more: this knows better.
        Raises OSError where the kernel does not answer, InterruptedError where it never holds still.
        """
        for _ in range(DUMP_TRIES):
            with contextlib.suppress(OSError):
                if not door.hear():
                    break
        for _ in range(DUMP_TRIES - 1):
            with contextlib.suppress(InterruptedError):
                return cls._read_once(door, reader, options)
        return cls._read_once(door, reader, options)

    @classmethod
    def _read_once(cls, door: Door, reader: RouteReader, options: KernelOptions) -> Mirror:
        found = cls(options)
        for data in door.dump(routes.dump_links(door.reserve(1))):
            for _, link in routes.read_links(data):
                found._note_link(link)
        try:
            for data in door.dump(routes.dump_nexthops(door.reserve(1))):
                found.nexthops.update((nexthop.id, nexthop) for _, nexthop in routes.read_nexthops(data))
        except OSError as error:
            if error.errno not in _NO_OBJECTS:
                raise
            found.has_objects = False
        for family in (socket.AF_INET, socket.AF_INET6):
            for table in found.tables:
                found._read_routes(door, reader, family, table)
        found.blocked = {slot.key for slot in found.foreign if found.is_our_place(slot)}
        return found

    def _note_link(self, link: Link) -> Link | None:
        """Record a link; return what it was."""
        had = self._forget_link(link.index)
        self.links[link.index] = link
        self.indexes[link.name] = link.index
        return had

    def _forget_link(self, index: int) -> Link | None:
        had = self.links.pop(index, None)
        if had is not None and self.indexes.get(had.name) == index:
            del self.indexes[had.name]
        return had

    def _read_routes(self, door: Door, reader: RouteReader, family: int, table: int) -> None:
        protocol, ours_at = self._options.protocol, (self._options.table, self._options.metric, 0)
        taken: set[Nlri] = set()  # IPv4 prefixes where somebody else's route comes first: of several that is in use
        try:
            for data in door.dump(routes.dump_routes(door.reserve(1), family, table)):
                for keys, shape in reader.read_dump(data):
                    is_in_our_place = (shape.table, shape.metric, shape.tos) == ours_at
                    if shape.protocol == protocol and is_in_our_place:
                        self._add_ours([key for key in keys if key not in taken] if taken else keys, shape)
                        continue
                    slots = (Slot(key, shape.table, shape.metric, shape.tos) for key in keys)
                    if shape.protocol == protocol and shape.table == self._options.table:
                        self.leftovers.update(dict.fromkeys(slots, shape))
                        continue
                    for slot in slots:
                        self.foreign[slot] = (*self.foreign.get(slot, ()), shape)
                    if is_in_our_place and family == socket.AF_INET:
                        taken.update(keys)
        except FileNotFoundError:
            return  # nobody has used that table yet

    def _add_ours(self, keys: Sequence[Nlri], shape: Shape) -> None:
        """Record routes of ours as a dump has them: of several with one prefix the first is in use."""
        ours = self.ours
        if len(keys) >= _MANY:  # fewer are not worth a table of their own
            batch = dict.fromkeys(keys, shape)
            if len(batch) == len(keys) and ours.keys().isdisjoint(batch):
                ours.update(batch)
                return
        for key in keys:
            if ours.setdefault(key, shape) is not shape and len(key) == _V4_WIDTH:
                self.behind.setdefault(shape, set()).add(key)


def _has_joined(other: Shape, key: Nlri, shape: Shape) -> bool:
    """Tell whether a route is part of another by now: IPv6 tells of one that joined others with all of their ways."""
    return len(key) != _V4_WIDTH and bool(other.hops) and set(other.hops) <= set(shape.hops)
