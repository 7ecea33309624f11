"""What the kernel has, as far as we know: read in one go, then kept up with what is heard and written."""

from __future__ import annotations

import errno
import functools
import ipaddress
import operator
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from bgpmesh.kernel import routes
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


_address = functools.lru_cache(1024)(ipaddress.ip_address)  # a table has many routes and few gateways


@dataclass(frozen=True, slots=True)
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


class Mirror:
    """The routes, nexthop objects and links of one network namespace.

    `ours` and `nexthops` are changed by whoever writes and hears; the rest through the methods.
    """

    def __init__(self, options: KernelOptions) -> None:
        self._options = options
        self.has_objects = True
        self.nexthops: dict[int, Nexthop] = {}  # everybody's
        self.ours: dict[Nlri, Shape] = {}
        self.leftovers: dict[Slot, Shape] = {}  # ours at a metric of an earlier configuration
        self.foreign: dict[Slot, tuple[Shape, ...]] = {}
        self.blocked: set[Nlri] = set()  # prefixes where somebody else is in our place
        self.displaced: set[Nlri] = set()  # those where ours was before: to be set right, so nothing resolves there
        self.links: dict[int, Link] = {}
        self.indexes: dict[str, int] = {}

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

    def members(self, identifier: int) -> tuple[int, ...]:
        """Return the ids in a group; an object is its own only member."""
        nexthop = self.nexthops.get(identifier)
        return nexthop.members if nexthop and nexthop.hop is None else (identifier,)

    def weights(self, identifier: int) -> tuple[int, ...]:
        """Return the shares of the members of a group, (): all alike."""
        nexthop = self.nexthops.get(identifier)
        return nexthop.weights if nexthop else ()

    def note_link(self, link: Link) -> Link | None:
        """Record a link; return what it was."""
        had = self.forget_link(link.index)
        self.links[link.index] = link
        self.indexes[link.name] = link.index
        return had

    def forget_link(self, index: int) -> Link | None:
        """Record that a link is gone; return what it was."""
        had = self.links.pop(index, None)
        if had is not None and self.indexes.get(had.name) == index:
            del self.indexes[had.name]
        return had

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

    def displace(self, key: Nlri) -> set[HostRoute]:
        """Record that who is in our place for a prefix, or is about to be, took it from us.

        Returns the host routes that are none any more: whatever they lead to, they go.
        """
        slot = self._our_slot(key)
        gone = set(self._host_routes_of(slot, self.foreign.get(slot, ())))
        self.displaced.add(key)
        return gone

    def concede(self, key: Nlri) -> set[HostRoute]:
        """Let who took our place for a prefix have it, which nobody wishes back; return the host routes that it is."""
        self.displaced.discard(key)
        slot = self._our_slot(key)
        return set(self._host_routes_of(slot, self.foreign.get(slot, ())))

    def _our_slot(self, key: Nlri) -> Slot:
        return Slot(key, self._options.table, self._options.metric)

    def is_touched_by(self, fallen: Collection[int], risen: Collection[int]) -> bool:
        """Tell whether anything goes by a link that fell or vanished, or was held down by one that rose; O(routes)."""
        foreign = {shape for shapes in self.foreign.values() for shape in shapes}
        shapes = foreign.union(self.ours.values())
        return (
            any(hop.link in fallen for shape in shapes for hop in shape.hops)
            or any(nexthop.hop and nexthop.hop.link in fallen for nexthop in self.nexthops.values())
            or any(hop.link in risen for shape in shapes if shape.is_down for hop in shape.hops)
            or any(n.hop and n.hop.link in risen for n in self.nexthops.values() if n.is_down)
        )

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
            hops = shape.hops
            if shape.nexthop_id:
                members = [self.nexthops.get(member) for member in self.members(shape.nexthop_id)]
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

    # ── reading ──────────────────────────────────────────────────────────────

    @classmethod
    def read(cls, door: Door, reader: RouteReader, options: KernelOptions) -> Mirror:
        """Return everything there is; about a tenth of a second for 100,000 routes.

        Raises OSError: InterruptedError where something changed meanwhile.
        """
        found = cls(options)
        for data in door.dump(routes.dump_links(door.reserve(1))):
            for _, link in routes.read_links(data):
                found.note_link(link)
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

    def _read_routes(self, door: Door, reader: RouteReader, family: int, table: int) -> None:
        protocol, ours_at, ours = self._options.protocol, (self._options.table, self._options.metric, 0), self.ours
        try:
            for data in door.dump(routes.dump_routes(door.reserve(1), family, table)):
                for _, _, key, shape in reader.read(data):
                    if shape.protocol == protocol and (shape.table, shape.metric, shape.tos) == ours_at:
                        ours.setdefault(key, shape)  # of several the first is the one in use
                        continue
                    slot = Slot(key, shape.table, shape.metric, shape.tos)
                    if shape.protocol == protocol and shape.table == self._options.table:
                        self.leftovers[slot] = shape
                    else:
                        self.foreign[slot] = (*self.foreign.get(slot, ()), shape)
        except FileNotFoundError:
            return  # nobody has used that table yet
