"""What a target is in the kernel: a route's shape, and the nexthop objects and groups that it takes.

Where the kernel has no objects, or an id is taken, a next hop has none: its gateway then stands in the routes.

What bit, or would:
 1. An id is a hash, so after a restart the object does not say which BGP next hop it stands for. We
    know those we were told of, and those that are their own gateway. A route by any other is
    reported as `Via(())`, which is nobody's wish; once somebody wishes for it, its id says that it
    is right already and nothing is written.
 2. The cost of a `Resolution` is not in the kernel. It is remembered, and not worth a write.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from bgpmesh.delta import drop
from bgpmesh.kernel import netlink, routes
from bgpmesh.kernel.bursts import BURST_MESSAGES
from bgpmesh.kernel.mirror import KernelOptions, Mirror
from bgpmesh.kernel.netlink import Door, Refused
from bgpmesh.kernel.routes import Hop, Nexthop, RouteReader, Shape
from bgpmesh.route.nlri import IPAddress, address_rank, is_link_local
from bgpmesh.route.path import Blackhole, OnLink, Resolution, Target, Via

_NEW = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
_SET = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
_NO_SUCH_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)


class Missing(NamedTuple):
    """Why a target cannot be written now, and what has to happen first: a link's name, or a next hop."""

    text: str
    awaited: frozenset[object]


class NextHops:
    """The BGP next hops that routes of ours may go by; `known`: those of an earlier life."""

    def __init__(self, door: Door, options: KernelOptions, reader: RouteReader, known: Iterable[IPAddress]) -> None:
        self._door = door
        self._options = options
        self._reader = reader
        self._now = Mirror(options)
        # What we know beyond it.
        self._addresses: dict[int, IPAddress] = {routes.object_id(address): address for address in known}
        self._resolved: dict[IPAddress, Resolution] = {}  # as last written
        self._inline: set[IPAddress] = set()  # next hops that have no object of their own
        self._made_for: dict[Shape, Via] = {}  # what a route by nexthop id was written for

    def adopt(self, found: Mirror) -> None:
        """Take what was read as what is there, and name the objects that are their own gateway."""
        self._now = found
        for identifier, nexthop in found.objects().items():
            if identifier not in self._addresses and nexthop.hop and nexthop.hop.gateway:
                address = self._address(nexthop.hop)
                if routes.object_id(address) == identifier:
                    self._addresses[identifier] = address

    def resolutions(self) -> dict[IPAddress, Resolution]:
        """Return what our objects, and the next hops without one, resolve to."""
        found = {address: self._resolved[address] for address in self._inline}
        for identifier, nexthop in self._now.objects().items():
            address = self._addresses.get(identifier)
            if address is None or nexthop.hop is None or address in self._inline:
                continue
            known = self._resolved.get(address)
            if known is None or _hop(address, known) != nexthop.hop:
                link, gateway = nexthop.hop
                by = ipaddress.ip_address(gateway) if gateway and gateway != address.packed else None
                known = self._resolved[address] = Resolution(link, by, 0)
            found[address] = known
        return found

    # ── a target and its shape ───────────────────────────────────────────────

    def target(self, shape: Shape) -> Target:
        """Return what a route of ours does, `Via(())` where nobody could wish for it."""
        known = self._made_for.get(shape)
        # A group loses the members that somebody deletes, and then no longer does what it was made for.
        if known is not None and _members(known) == self._now.members(shape.nexthop_id):
            return known
        if shape.kind == routes.RTN_BLACKHOLE:
            return Blackhole()
        if shape.kind != routes.RTN_UNICAST or shape.tos:
            return Via(())
        if shape.nexthop_id:
            members, weights = self._now.members(shape.nexthop_id)
            addresses = [self._addresses[identifier] for identifier in members if identifier in self._addresses]
            if len(addresses) < len(members):
                return Via(())
            shares = dict(zip(addresses, weights, strict=bool(weights)))
            ordered = _in_order(addresses)
            return Via(ordered, tuple(shares[address] for address in ordered) if weights else ())
        if len(shape.hops) == 1 and not shape.hops[0].gateway:
            link = self._now.links.get(shape.hops[0].link)
            return OnLink(link.name) if link else Via(())
        return Via(_in_order(self._address(hop) for hop in shape.hops if hop.gateway))

    def _address(self, hop: Hop) -> IPAddress:
        """Return the BGP next hop that is its own gateway, a link-local one with its link."""
        address, link = ipaddress.ip_address(hop.gateway), self._now.links.get(hop.link)
        return ipaddress.ip_address(f"{address}%{link.name}") if is_link_local(address) and link else address

    def shape(self, target: Target) -> Shape | Missing:
        """Return the route that does it, making the group it needs; or what has to happen first."""
        match target:
            case Blackhole():
                return self._intern(routes.RTN_BLACKHOLE)
            case OnLink(interface):
                index = self._now.indexes.get(interface)
                if index is None:
                    return Missing(f"link {interface} does not exist", frozenset((interface,)))
                return self._intern(routes.RTN_UNICAST, hops=(Hop(index),))
            case Via():
                return self._shape_via(target)

    def _shape_via(self, via: Via) -> Shape | Missing:
        next_hops = via.next_hops
        missing = [address for address in next_hops if not self._is_written(address)]
        if missing or not next_hops:
            named = ", ".join(map(str, missing)) or "none"
            return Missing(f"next hop is not written: {named}", frozenset(missing))
        if self._inline.isdisjoint(next_hops):
            is_group = len(next_hops) > 1
            identifier = routes.group_id(via) if is_group else routes.object_id(next_hops[0])
            shape = self._intern(routes.RTN_UNICAST, identifier)
            if not is_group or self._may_group(shape, via):
                refusal = self._write_group(identifier, via) if is_group else None
                if refusal:
                    return Missing(refusal, frozenset(next_hops))
                self._made_for[shape] = via
                return shape
        hops = {_hop(address, self._resolved[address]) for address in next_hops}  # all alike: a last resort
        return self._intern(routes.RTN_UNICAST, hops=tuple(sorted(hops)))

    def _intern(self, kind: int, nexthop_id: int = 0, hops: tuple[Hop, ...] = ()) -> Shape:
        options = self._options
        return self._reader.intern(Shape(kind, options.protocol, options.table, options.metric, nexthop_id, hops))

    def _is_written(self, address: IPAddress) -> bool:
        if address in self._inline:
            return True
        nexthop = self._now.nexthops.get(routes.object_id(address))
        return nexthop is not None and nexthop.protocol == self._options.protocol and address in self._resolved

    def _may_group(self, shape: Shape, via: Via) -> bool:
        """Tell whether the id is free for this group: neither another's of ours nor somebody else's object."""
        known = self._made_for.get(shape)
        holder = self._now.nexthops.get(shape.nexthop_id)
        is_anothers = known is not None and set(known.shares) != set(via.shares)
        return not is_anothers and (holder is None or holder.protocol == self._options.protocol)

    def _write_group(self, identifier: int, via: Via) -> str | None:
        """Make the group of these next hops true; return why it cannot be, None where it is."""
        wanted = Nexthop(identifier, self._options.protocol, None, *_members(via))
        holder = self._now.nexthops.get(identifier)
        if holder == wanted:
            return None
        refused = self._each([(identifier, routes.new_nexthop(_SET if holder else _NEW, 0, wanted))])
        if refused:
            return f"group of next hops: {refused[identifier].text}"
        self._now.nexthops[identifier] = wanted
        return None

    # ── writing ──────────────────────────────────────────────────────────────

    def write(
        self, wanted: Sequence[tuple[IPAddress, Resolution]]
    ) -> tuple[list[IPAddress], dict[IPAddress, str], set[IPAddress]]:
        """Make next hops resolve so; return those that do, the refusals, and by whose gateway routes do not go now.

        Of the last the gateway has changed, or they have an object now: the routes have to be written again.
        """
        moved: set[IPAddress] = set()
        fresh: list[tuple[IPAddress, Resolution]] = []
        for address, resolution in wanted:
            identifier = routes.object_id(address)
            if not self._may_use(identifier, address):
                self._inline.add(address)
                self._resolved[address] = resolution
                moved.add(address)
            elif self._now.nexthops.get(identifier) == self._object(address, resolution):
                self._addresses[identifier] = address
                self._resolved[address] = resolution
            else:
                fresh.append((address, resolution))
        left = self._send_objects(fresh, is_onlink=False)
        # The kernel wants to see for itself that a gateway is on the link; a host whose own default
        # route goes by a gateway outside every subnet (onlink) needs our word instead.
        stubborn = {a for a, answer in left.items() if answer.errno in _NO_SUCH_WAY}
        if stubborn:
            again = self._send_objects([item for item in fresh if item[0] in stubborn], is_onlink=True)
            left = {a: answer for a, answer in left.items() if a not in stubborn or a in again}
        lifted = self._inline.intersection(address for address, _ in fresh) - left.keys()
        self._inline -= lifted
        refused = {address: answer.text for address, answer in left.items()}
        return [address for address, _ in wanted if address not in refused], refused, moved | lifted

    def _may_use(self, identifier: int, address: IPAddress) -> bool:
        """Tell whether the id is free for this next hop: neither another's of ours nor somebody else's object."""
        if not self._now.has_objects:
            return False
        holder = self._now.nexthops.get(identifier)
        if self._addresses.get(identifier, address) != address:
            return False
        was_ours = address in self._resolved and address not in self._inline
        return holder is None or holder.protocol == self._options.protocol or was_ours

    def _object(self, address: IPAddress, resolution: Resolution) -> Nexthop:
        return Nexthop(routes.object_id(address), self._options.protocol, _hop(address, resolution))

    def _send_objects(
        self, wanted: Sequence[tuple[IPAddress, Resolution]], *, is_onlink: bool
    ) -> dict[IPAddress, Refused]:
        made = [(self._object(address, resolution), address, resolution) for address, resolution in wanted]
        by_id = {nexthop.id: (nexthop, address, resolution) for nexthop, address, resolution in made}
        messages = []
        for identifier, (nexthop, _, _) in by_id.items():
            flags = _SET if identifier in self._now.nexthops else _NEW
            messages.append((identifier, routes.new_nexthop(flags, 0, nexthop, is_onlink=is_onlink)))
        refused = self._each(messages)
        if any(answer.errno == errno.EEXIST for answer in refused.values()):
            self._now.is_in_doubt = True  # somebody took the id this moment; the read-back will show who
        for identifier, (nexthop, address, resolution) in by_id.items():
            if identifier not in refused:
                self._now.nexthops[identifier] = nexthop
                self._addresses[identifier] = address
                self._resolved[address] = resolution
        return {by_id[identifier][1]: answer for identifier, answer in refused.items()}

    # ── deleting ─────────────────────────────────────────────────────────────

    def fell(self, doomed: Iterable[IPAddress], identifiers: Collection[int]) -> set[int]:
        """Delete those of the objects that are of doomed next hops, and with them in silence the routes by them.

        Returns the ids that are gone. What routes of others, or groups, go by stays.
        """
        in_use = self._now.used_by_others()
        in_use.update(member for nexthop in self._now.nexthops.values() for member in nexthop.members)
        plain = (address for address in doomed if self._is_written(address) and address not in self._inline)
        felled = set(map(routes.object_id, plain)).intersection(identifiers) - in_use
        return felled - self._delete(list(felled)).keys()

    def settle(
        self, doomed: Collection[IPAddress], by_gateway: Collection[IPAddress], *, may_sweep: bool
    ) -> tuple[list[IPAddress], list[IPAddress], dict[IPAddress, str]]:
        """Delete these next hops, and what else no route uses: return those in use, those that are gone, the refusals.

        `by_gateway`: next hops whose gateway stands in routes. `may_sweep`: objects may go that an earlier life left
        and nobody has wished for since.
        """
        used = self._now.used_by_others().union(shape.nexthop_id for shape in distinct(self._now.ours.values()))
        objects = self._now.objects()
        groups = [nexthop for nexthop in objects.values() if nexthop.hop is None and nexthop.id not in used]
        self._delete([g.id for g in groups if may_sweep or all(m in self._addresses for m in g.members)])
        for nexthop in self._now.nexthops.values():
            used.update(nexthop.members)
        if may_sweep:
            self._delete(list(self._now.objects().keys() - used - self._addresses.keys()))
        busy = [a for a in doomed if (a in by_gateway if a in self._inline else routes.object_id(a) in used)]
        gone, refused = self._drop([address for address in doomed if address not in set(busy)])
        return busy, gone, refused

    def _drop(self, free: Sequence[IPAddress]) -> tuple[list[IPAddress], dict[IPAddress, str]]:
        objects = self._now.objects()
        by_id = {routes.object_id(address): address for address in free if address not in self._inline}
        failed = self._delete([identifier for identifier in by_id if identifier in objects])
        refused = {by_id[identifier]: text for identifier, text in failed.items()}
        gone = [address for address in free if address not in refused]
        for address in gone:
            self._inline.discard(address)
            self._resolved.pop(address, None)
            if self._addresses.get(routes.object_id(address)) == address:
                del self._addresses[routes.object_id(address)]
        return gone, refused

    def _delete(self, identifiers: Sequence[int]) -> dict[int, str]:
        """Delete nexthop objects of ours; return the refusals. One that is gone already is no refusal."""
        messages = [(identifier, routes.delete_nexthop(0, identifier)) for identifier in identifiers]
        refusals = self._each(messages).items()
        failed = {identifier: refusal.text for identifier, refusal in refusals if refusal.errno != errno.ENOENT}
        gone = set(identifiers) - failed.keys()
        drop(self._now.nexthops, gone)
        if gone:
            self._made_for = {shape: via for shape, via in self._made_for.items() if shape.nexthop_id not in gone}
        return failed

    def _each(self, messages: Sequence[tuple[int, bytes]]) -> dict[int, Refused]:
        """Send a few messages that are known by an id; return the refusals by id.

        Where the answers are lost, all count as refused and a read-back will tell.
        """
        refused: dict[int, Refused] = {}
        for start in range(0, len(messages), BURST_MESSAGES):
            some = messages[start : start + BURST_MESSAGES]
            first = self._door.reserve(len(some))
            burst = routes.joined([body for _, body in some], first)
            try:
                answers = self._door.transact(burst, first + len(some) - 1)
            except OSError as error:
                self._now.is_in_doubt = True
                text = f"the answer was lost: {error.strerror}"
                answers = [Refused(first + number, error.errno or 0, text) for number in range(len(some))]
            refused.update((some[answer.sequence - first][0], answer) for answer in answers)
        return refused


def distinct(shapes: Collection[Shape]) -> Collection[Shape]:
    """Return each object once; hashing them, of which most are one, would take longer than all the rest."""
    return dict(zip(map(id, shapes), shapes, strict=True)).values()


def _hop(address: IPAddress, resolution: Resolution) -> Hop:
    """Return the content of a next hop's object: its gateway, or itself where it is on the link."""
    return Hop(resolution.link, (resolution.gateway or address).packed)


def _members(via: Via) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of their objects and their weights, as groups are compared."""
    return routes.members_of((routes.object_id(address), weight) for address, weight in via.shares)


def _in_order(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    return tuple(sorted(addresses, key=address_rank))
