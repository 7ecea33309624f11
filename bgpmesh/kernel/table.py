"""The kernel's tables as one thread knows them: our routes and nexthop objects, and everybody else's.

`Table` belongs to the thread that owns the `Door`; nothing in it waits, except for the kernel's lock.
It writes what it is told, listens to what others do, reads everything back where it cannot be sure,
and says what it found as events.

What bit, or would:
 1. Replacing a route ignores whose it is. So a prefix that is not ours yet is written with
    "only if there is none" (NLM_F_EXCL), and where one is, a read-back decides whose. A route of
    somebody else that was there first stays and ours is refused; one that took the place of ours
    (`Mirror.displaced`) is set right, and is no host route meanwhile: that goes wherever it leads.
 2. An object that is deleted takes its routes with it in silence, and so does a link that goes
    down, with objects too. News of either only makes us suspicious; a read-back tells.
 3. What we write comes back to nobody (the listening socket filters it), so our belief changes on
    the kernel's answer and nowhere else. Where answers are lost, a read-back decides what was done.
 4. An id is a hash, so after a restart the object does not say which BGP next hop it stands for. We
    know those we were told of, and those that are their own gateway. A route by any other is
    reported as `Via(())`, which is nobody's wish; once somebody wishes for it, its id says that it
    is right already and nothing is written.
 5. The cost of a `Resolution` is not in the kernel. It is remembered, and not worth a write.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import filterfalse
from typing import NamedTuple, TypeVar

from bgpmesh import log
from bgpmesh.delta import drop
from bgpmesh.events import Event, FibObserved, FibRead, FibWritten, HostRoutesChanged, NextHopsWritten
from bgpmesh.kernel import netlink, routes
from bgpmesh.kernel.mirror import KernelOptions, Mirror, Slot
from bgpmesh.kernel.netlink import Door, Refused
from bgpmesh.kernel.routes import Hop, Link, Nexthop, RouteReader, Shape
from bgpmesh.route.nlri import IPAddress, Nlri
from bgpmesh.route.path import Blackhole, HostRoute, OnLink, Resolution, Target, Via

BURST_MESSAGES = 2000
FELL_ROUTES = 200  # so many routes of one next hop are worth a look whether its object can take them along
BURST_BYTES = 128 * 1024  # what the smallest send buffer takes
DUMP_TRIES = 10  # a table that never holds still is then reported as it is: unreadable, and read later

FOREIGN_ROUTE = "foreign route"

_NEW = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
_SET = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
_NO_SUCH_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)
K = TypeVar("K")
V = TypeVar("V")


class _Missing(NamedTuple):
    """Why a target cannot be written now, and what has to happen first: a link's name, or a next hop."""

    text: str
    awaited: frozenset[object]


class _Piece(NamedTuple):
    """Routes that one template writes: all of one family; no shape: they are deleted."""

    keys: list[Nlri]
    shape: Shape | None
    flags: int
    target: Target | None


@dataclass(slots=True)
class _News:
    """What one hearing brought."""

    observed: dict[Nlri, Shape | None] = field(default_factory=dict)  # routes of ours that others changed
    added: set[HostRoute] = field(default_factory=set)
    removed: set[HostRoute] = field(default_factory=set)
    awaited: set[object] = field(default_factory=set)  # what something may have waited for


class Table:
    """Writes and watches the routes of one network namespace, in one thread."""

    def __init__(
        self,
        door: Door,
        options: KernelOptions,
        report: Callable[[Event], None],
        hurry: Callable[[Sequence[Nlri | IPAddress]], None],
        known: Iterable[IPAddress] = (),
    ) -> None:
        """`hurry` is told of refused prefixes and next hops whose next try should not wait."""
        self._door = door
        self._options = options
        self._report = report
        self._hurry = hurry
        self._reader = RouteReader()
        self._is_read = False
        self._now = Mirror(options)
        # What we know beyond it.
        self._addresses: dict[int, IPAddress] = {routes.object_id(address): address for address in known}
        self._resolved: dict[IPAddress, Resolution] = {}  # as last written
        self._inline: set[IPAddress] = set()  # next hops that have no object of their own
        self._inline_targets: dict[Nlri, Via] = {}  # routes written by gateway instead of by id
        self._targets: dict[Shape, Via] = {}  # what a route by nexthop id was written for
        # What was refused, and what may help: a link's name, a next hop, or the prefix itself (a foreign route).
        self._waiting: dict[Nlri | IPAddress, frozenset[object]] = {}
        # Reasons to look again.
        self._is_suspicious = False
        self._fallen: set[int] = set()  # links that went down, lost carrier or vanished
        self._risen: set[int] = set()
        self._is_untidy = False

    # ── reading ──────────────────────────────────────────────────────────────

    def is_alarmed(self) -> bool:
        """Tell whether something was heard that may need a read-back soon; O(1)."""
        return self._is_suspicious or bool(self._fallen) or bool(self._risen)

    def must_read_back(self) -> bool:
        """Tell whether what was heard may have changed what nobody told us of, and be calm again if not."""
        if self._is_suspicious or self._now.is_touched_by(self._fallen, self._risen):
            return True
        self._fallen.clear()
        self._risen.clear()
        return False

    def read_back(self) -> None:
        """Read everything and report what is not as we left it (the first time: everything).

        Raises OSError where the kernel does not answer or never holds still.
        """
        self._discard_news()
        was, found = self._now, self._read_whole()
        self._now = found
        self._is_suspicious = False
        self._fallen.clear()
        self._risen.clear()
        self._is_untidy = True
        if was.has_objects and not found.has_objects:
            log.warning("fib.nexthop_objects_unavailable", reason="the kernel has none; gateways stand in the routes")
        self._learn_addresses()

        lost = [key for key, shape in was.ours.items() if found.ours.get(key) != shape]
        found.displaced = found.blocked.intersection(was.displaced.union(lost))
        added, removed = found.host_routes_since(was)
        if added or removed or not self._is_read:
            self._report(HostRoutesChanged(tuple(added), tuple(removed)))
        if lost or not self._is_read or found.ours != was.ours or found.objects() != was.objects():
            moved = [
                number for number, object_ in was.objects().items() if found.nexthops.get(number, object_) != object_
            ]
            self._report(FibRead(self._targets_of(found.ours), self._next_hops(), len(lost) + len(moved)))
        self._is_read = True
        stirred = {link.name for index, link in found.links.items() if was.links.get(index) != link}
        self._wake({*(was.blocked - found.blocked), *stirred})

    def _discard_news(self) -> None:
        """Hear what is told of the time before a read-back, which knows better, and forget it."""
        for _ in range(DUMP_TRIES):
            with contextlib.suppress(OSError):
                if not self._door.hear():
                    return

    def _read_whole(self) -> Mirror:
        for _ in range(DUMP_TRIES - 1):
            try:
                return Mirror.read(self._door, self._reader, self._options)
            except InterruptedError:
                continue
        return Mirror.read(self._door, self._reader, self._options)

    def _learn_addresses(self) -> None:
        """Name the objects that are their own gateway."""
        for identifier, nexthop in self._now.objects().items():
            if identifier not in self._addresses and nexthop.hop and nexthop.hop.gateway:
                address = ipaddress.ip_address(nexthop.hop.gateway)
                if routes.object_id(address) == identifier:
                    self._addresses[identifier] = address

    def _next_hops(self) -> dict[IPAddress, Resolution]:
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

    # ── what a shape stands for ──────────────────────────────────────────────

    def _targets_of(self, shapes: Mapping[Nlri, Shape]) -> dict[Nlri, Target]:
        """Return the targets of routes of ours; O(1) for each but the distinct ones."""
        distinct = {id(shape): shape for shape in shapes.values()}
        targets = {number: self._target(shape) for number, shape in distinct.items()}
        found = {key: targets[id(shape)] for key, shape in shapes.items()}
        for key, via in self._inline_targets.items():
            if key in found and shapes[key] == self._shape(via):
                found[key] = via
        return found

    def _target(self, shape: Shape) -> Target:
        """Return what a route does, `Via(())` where nobody could wish for it."""
        known = self._targets.get(shape)
        # A group loses the members that somebody deletes, and then no longer does what it was made for.
        if known is not None and _members(known) == self._members(shape.nexthop_id):
            return known
        if shape.kind == routes.RTN_BLACKHOLE:
            return Blackhole()
        if shape.kind != routes.RTN_UNICAST or shape.tos:
            return Via(())
        if shape.nexthop_id:
            members, weights = self._members(shape.nexthop_id)
            addresses = [self._addresses[identifier] for identifier in members if identifier in self._addresses]
            if len(addresses) < len(members):
                return Via(())
            shares = dict(zip(addresses, weights, strict=bool(weights)))
            ordered = _in_order(addresses)
            return Via(ordered, tuple(shares[address] for address in ordered) if weights else ())
        if len(shape.hops) == 1 and not shape.hops[0].gateway:
            link = self._now.links.get(shape.hops[0].link)
            return OnLink(link.name) if link else Via(())
        return Via(_in_order(ipaddress.ip_address(hop.gateway) for hop in shape.hops if hop.gateway))

    def _shape(self, target: Target) -> Shape | _Missing:
        """Return the route that does it, making the group it needs; or what has to happen first."""
        match target:
            case Blackhole():
                return self._intern(routes.RTN_BLACKHOLE)
            case OnLink(interface):
                index = self._now.indexes.get(interface)
                if index is None:
                    return _Missing(f"link {interface} does not exist", frozenset((interface,)))
                return self._intern(routes.RTN_UNICAST, hops=(Hop(index),))
            case Via():
                return self._shape_via(target)

    def _shape_via(self, via: Via) -> Shape | _Missing:
        next_hops = via.next_hops
        missing = [address for address in next_hops if not self._is_written(address)]
        if missing or not next_hops:
            named = ", ".join(map(str, missing)) or "none"
            return _Missing(f"next hop is not written: {named}", frozenset(missing))
        if self._inline.isdisjoint(next_hops):
            if len(next_hops) == 1:
                return self._intern(routes.RTN_UNICAST, routes.object_id(next_hops[0]))
            shape = self._intern(routes.RTN_UNICAST, routes.group_id(via))
            if self._may_group(shape, via):
                refusal = self._write_group(shape.nexthop_id, via)
                return _Missing(refusal, frozenset(next_hops)) if refusal else shape
        hops = {_hop(address, self._resolved[address]) for address in next_hops}  # all alike: a last resort
        return self._intern(routes.RTN_UNICAST, hops=tuple(sorted(hops)))

    def _members(self, identifier: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the objects that a nexthop id stands for, with their weights."""
        return self._now.members(identifier), self._now.weights(identifier)

    def _may_group(self, shape: Shape, via: Via) -> bool:
        """Tell whether the id is free for this group: neither another's of ours nor somebody else's object."""
        known = self._targets.get(shape)
        holder = self._now.nexthops.get(shape.nexthop_id)
        is_anothers = known is not None and set(known.shares) != set(via.shares)
        return not is_anothers and (holder is None or holder.protocol == self._options.protocol)

    def _intern(self, kind: int, nexthop_id: int = 0, hops: tuple[Hop, ...] = ()) -> Shape:
        options = self._options
        return self._reader.intern(Shape(kind, options.protocol, options.table, options.metric, nexthop_id, hops))

    def _is_written(self, address: IPAddress) -> bool:
        if address in self._inline:
            return True
        nexthop = self._now.nexthops.get(routes.object_id(address))
        return nexthop is not None and nexthop.protocol == self._options.protocol and address in self._resolved

    # ── writing ──────────────────────────────────────────────────────────────

    def write(
        self,
        next_hops: Sequence[tuple[IPAddress, Resolution]],
        wanted: Sequence[tuple[Target | None, list[Nlri]]],
        doomed: Collection[IPAddress] = (),
    ) -> None:
        """Write next hops, then routes, which come by their target (None: to be gone), and report what came of each.

        `doomed`: next hops that nothing is to use any more, in the way of whose object their routes may go.
        """
        if next_hops:
            done, refused = self._write_next_hops(next_hops)
            self._report(NextHopsWritten(done, refused))
            drop(self._waiting, done)
            self._wake(set(done))
        for target, keys in wanted:
            if target is None and doomed and len(keys) > FELL_ROUTES:
                self._fell(keys, doomed)
        if wanted:
            written, failed = self._write_routes(wanted, is_again=False)
            self._report(FibWritten(written, failed))

    def _fell(self, keys: Iterable[Nlri], doomed: Iterable[IPAddress]) -> None:
        """Delete the objects of doomed next hops whose routes are all among `keys`: the kernel takes these along.

        One message for a node that is gone, in a third of the time or less. The kernel tells nobody of
        the routes (`ip monitor route` stays silent).
        """
        ours = self._now.ours
        going = list(filter(ours.__contains__, keys))
        shapes = list(map(ours.__getitem__, going))
        going_count, present_count = _count(shapes), _count(ours.values())
        in_use = self._used_by_others()
        in_use.update(member for nexthop in self._now.nexthops.values() for member in nexthop.members)
        felled = set()
        for address in doomed:
            shape = self._intern(routes.RTN_UNICAST, routes.object_id(address))
            is_plain = self._is_written(address) and address not in self._inline and shape.nexthop_id not in in_use
            if is_plain and FELL_ROUTES < going_count[shape] == present_count[shape]:
                felled.add(shape.nexthop_id)
        felled -= self._delete_objects(list(felled)).keys()
        if felled:
            gone = [key for key, shape in zip(going, shapes, strict=True) if shape.nexthop_id in felled]
            self._believe(gone, None, None)

    def settle(self, doomed: Collection[IPAddress], *, may_sweep: bool) -> list[IPAddress]:
        """Delete these next hops, and what else of ours no route uses; return those that one still does.

        Called when nothing else is to be written. `may_sweep`: what an earlier life left and nobody
        has wished for since may go too.
        """
        if not doomed and not self._is_untidy:
            return []
        self._is_untidy = False
        used = self._used_by_others().union(shape.nexthop_id for shape in _count(self._now.ours.values()))
        objects = self._now.objects()
        groups = [nexthop.id for nexthop in objects.values() if nexthop.hop is None and nexthop.id not in used]
        if not may_sweep:
            groups = [
                identifier for identifier in groups if all(m in self._addresses for m in self._now.members(identifier))
            ]
        self._delete_objects(groups)
        for nexthop in self._now.nexthops.values():
            used.update(nexthop.members)
        if may_sweep:
            self._sweep(self._now.objects().keys() - used - self._addresses.keys())
        inline = {address for via in self._inline_targets.values() for address in via.next_hops}
        busy = [a for a in doomed if (a in inline if a in self._inline else routes.object_id(a) in used)]
        free = [address for address in doomed if address not in set(busy)]
        if free:
            self._drop_next_hops(free)
        return busy

    def _used_by_others(self) -> set[int]:
        """Return the objects that routes of somebody else go by, or ours of an earlier metric."""
        used = {shape.nexthop_id for shapes in self._now.foreign.values() for shape in shapes}
        used.update(shape.nexthop_id for shape in self._now.leftovers.values())
        return used

    def _drop_next_hops(self, free: Sequence[IPAddress]) -> None:
        objects = self._now.objects()
        by_id = {routes.object_id(address): address for address in free if address not in self._inline}
        failed = self._delete_objects([identifier for identifier in by_id if identifier in objects])
        refused = {by_id[identifier]: text for identifier, text in failed.items()}
        done = [address for address in free if address not in refused]
        for address in done:
            self._inline.discard(address)
            self._resolved.pop(address, None)
            if self._addresses.get(routes.object_id(address)) == address:
                del self._addresses[routes.object_id(address)]
        self._report(NextHopsWritten(done, refused))

    def _sweep(self, unknown: Iterable[int]) -> None:
        """Remove objects of an earlier life that nothing uses, and routes at a metric we had then."""
        self._delete_objects(list(unknown))
        by_shape: dict[tuple[Shape, int], list[Slot]] = defaultdict(list)
        for slot, shape in self._now.leftovers.items():
            by_shape[shape, len(slot.key)].append(slot)
        for (shape, _), slots in by_shape.items():
            keys = [slot.key for slot in slots]
            try:
                self._transact([_Piece(keys, None, 0, None)], shape)
            except OSError:
                self._is_suspicious = True
                return
            for slot in slots:
                del self._now.leftovers[slot]

    def _delete_objects(self, identifiers: Sequence[int]) -> dict[int, str]:
        """Delete nexthop objects of ours; return the refusals. One that is gone already is no refusal."""
        failed: dict[int, str] = {}
        messages = [(identifier, routes.delete_nexthop(0, identifier)) for identifier in identifiers]
        for identifier, refusal in self._each(messages).items():
            if refusal.errno != errno.ENOENT:
                failed[identifier] = refusal.text
        gone = set(identifiers) - failed.keys()
        drop(self._now.nexthops, gone)
        if gone:
            self._targets = {shape: via for shape, via in self._targets.items() if shape.nexthop_id not in gone}
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
                self._is_suspicious = True
                text = f"the answer was lost: {error.strerror}"
                answers = [Refused(first + number, error.errno or 0, text) for number in range(len(some))]
            refused.update((some[answer.sequence - first][0], answer) for answer in answers)
        return refused

    def _write_next_hops(
        self, wanted: Sequence[tuple[IPAddress, Resolution]]
    ) -> tuple[list[IPAddress], dict[IPAddress, str]]:
        refused: dict[IPAddress, str] = {}
        fresh: list[tuple[IPAddress, Resolution]] = []
        for address, resolution in wanted:
            identifier = routes.object_id(address)
            if not self._may_use(identifier, address):
                self._inline.add(address)
                self._resolved[address] = resolution
                self._rewrite_inline(address)
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
        for address, resolution in fresh:
            if address in left:
                refused[address] = left[address].text
                link = self._now.links.get(resolution.link)
                self._waiting[address] = frozenset((link.name,) if link else ())
        return [address for address, _ in wanted if address not in refused], refused

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
        by_id = {routes.object_id(address): (address, resolution) for address, resolution in wanted}
        messages = []
        for identifier, (address, resolution) in by_id.items():
            flags = _SET if identifier in self._now.nexthops else _NEW
            nexthop = self._object(address, resolution)
            messages.append((identifier, routes.new_nexthop(flags, 0, nexthop, is_onlink=is_onlink)))
        refused = self._each(messages)
        if any(answer.errno == errno.EEXIST for answer in refused.values()):
            self._is_suspicious = True  # somebody took the id this moment; the read-back will show who
        for identifier, (address, resolution) in by_id.items():
            if identifier not in refused:
                self._now.nexthops[identifier] = self._object(address, resolution)
                self._addresses[identifier] = address
                self._resolved[address] = resolution
                if address in self._inline:
                    self._inline.discard(address)
                    self._rewrite_inline(address)
        return {by_id[identifier][0]: answer for identifier, answer in refused.items()}

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

    def _rewrite_inline(self, address: IPAddress) -> None:
        """Write again what went by this next hop's gateway: that has changed, or it has an object now."""
        users: dict[Via, list[Nlri]] = defaultdict(list)
        for key, via in self._inline_targets.items():
            if address in via.next_hops:
                users[via].append(key)
        if not users:
            return
        _, failed = self._write_routes(users.items(), is_again=False)
        if failed:
            self._report(FibObserved(dict.fromkeys(failed)))

    def _write_routes(
        self, wanted: Iterable[tuple[Target | None, list[Nlri]]], *, is_again: bool
    ) -> tuple[list[Nlri], dict[Nlri, str]]:
        done: list[Nlri] = []
        failed: dict[Nlri, str] = {}
        pieces: list[_Piece] = []
        for target, keys in wanted:
            pieces += self._plan(target, keys, done, failed)
        if not pieces:
            return done, failed
        try:
            refused = self._transact(pieces, self._intern(0))
        except OSError as error:
            self._judge(pieces, f"the answer was lost: {error.strerror}", done, failed)
            return done, failed
        again = self._settle_pieces(pieces, refused, done, failed)
        if again and not is_again:
            # Somebody has a route there that we did not know of: look whose, then decide.
            try:
                self.read_back()
            except OSError as error:
                failed.update((key, str(error.strerror)) for _, keys in again for key in keys)
                return done, failed
            more, worse = self._write_routes(again, is_again=True)
            done += more
            failed.update(worse)
        else:
            failed.update((key, refused[key].text) for _, keys in again for key in keys)
        return done, failed

    def _plan(
        self, target: Target | None, keys: list[Nlri], done: list[Nlri], failed: dict[Nlri, str]
    ) -> Iterator[_Piece]:
        """Yield the pieces that make `target` true for the keys; what is so already, or cannot be, is noted."""
        ours = self._now.ours
        if target is None:
            self._concede(keys)
            there = list(filter(ours.__contains__, keys))
            done += filterfalse(ours.__contains__, keys)
            yield from _by_family(there, None, 0, None)
            return
        shape = self._shape(target)
        if isinstance(shape, _Missing):
            for key in keys:
                failed[key] = shape.text
                self._waiting[key] = shape.awaited
            return
        if shape.nexthop_id and isinstance(target, Via):
            self._targets[shape] = target
        if self._now.blocked and not self._now.blocked.isdisjoint(keys):
            for key in self._now.blocked.intersection(keys) - self._now.displaced:
                if key in ours:
                    continue
                failed[key] = FOREIGN_ROUTE
                self._waiting[key] = frozenset((key,))
            keys = [key for key in keys if key not in failed]
        blocked = self._now.blocked
        if ours.keys().isdisjoint(keys) and not blocked:
            yield from _by_family(keys, shape, _NEW, target)  # the common batch: all of it new
            return
        held = [key for key in keys if key in ours or key in blocked]
        done += [key for key in held if ours.get(key) == shape]
        yield from _by_family([key for key in keys if key not in ours and key not in blocked], shape, _NEW, target)
        yield from _by_family([key for key in held if ours.get(key) != shape], shape, _SET, target)

    def _concede(self, keys: Iterable[Nlri]) -> None:
        """Leave our place to who took it, where nobody wishes ours back any more."""
        if self._now.displaced and not self._now.displaced.isdisjoint(keys):
            freed = [self._now.concede(key) for key in self._now.displaced.intersection(keys)]
            self._report(HostRoutesChanged(tuple(set().union(*freed)), ()))

    def _transact(self, pieces: Sequence[_Piece], anything: Shape) -> dict[Nlri, Refused]:
        """Send the pieces in bursts; return the refusals by prefix. `anything` says whose routes a delete means."""
        refused: dict[Nlri, Refused] = {}
        burst = bytearray()
        numbered: list[Nlri] = []
        first = size = 0

        def flush() -> None:
            routes.ask_answer(burst, len(burst) - size)
            for answer in self._door.transact(burst, first + len(numbered) - 1):
                refused[numbered[answer.sequence - first]] = answer
            burst.clear()
            numbered.clear()

        for keys, shape, flags, _ in pieces:
            room_of_one = len(_encode(keys[:1], shape, flags, anything, 0))
            start = 0
            while start < len(keys):
                room = min(BURST_MESSAGES - len(numbered), (BURST_BYTES - len(burst)) // room_of_one)
                if room <= 0:
                    flush()
                    continue
                if not numbered:
                    first = self._door.reserve(BURST_MESSAGES)
                some = keys[start : start + room]
                burst += _encode(some, shape, flags, anything, first + len(numbered))
                size = room_of_one
                numbered += some
                start += len(some)
        if numbered:
            flush()
        return refused

    def _settle_pieces(
        self, pieces: Sequence[_Piece], refused: Mapping[Nlri, Refused], done: list[Nlri], failed: dict[Nlri, str]
    ) -> list[tuple[Target, list[Nlri]]]:
        """Note what the kernel answered; return what it would not overwrite, by target."""
        again: list[tuple[Target, list[Nlri]]] = []
        for keys, shape, flags, target in pieces:
            good = keys
            if refused and not refused.keys().isdisjoint(keys):
                good, held = [], []
                for key in keys:
                    answer = refused.get(key)
                    if answer is None or (shape is None and answer.errno == errno.ESRCH):
                        good.append(key)
                    elif flags == _NEW and answer.errno == errno.EEXIST:
                        held.append(key)
                    else:
                        failed[key] = self._refusal(key, target, answer)
                if held and target is not None:
                    again.append((target, held))
            self._believe(good, shape, target)
            if flags != _NEW:
                self._is_untidy = True
            done += good
        return again

    def _refusal(self, key: Nlri, target: Target | None, answer: Refused) -> str:
        """Return the kernel's text; note what may make the next try go better."""
        match target:
            case OnLink(interface):
                self._waiting[key] = frozenset((interface,))
            case Via(next_hops):
                self._waiting[key] = frozenset(next_hops)
            case _:
                pass
        return answer.text

    def _believe(self, keys: list[Nlri], shape: Shape | None, target: Target | None) -> None:
        """Record that these are now so."""
        if shape is None:
            drop(self._now.ours, keys)
        else:
            self._now.ours.update(dict.fromkeys(keys, shape))
        drop(self._waiting, keys)
        if isinstance(target, Via) and shape is not None and not shape.nexthop_id:
            self._inline_targets.update(dict.fromkeys(keys, target))
        else:
            drop(self._inline_targets, keys)
        for key in self._now.displaced.intersection(keys) if self._now.displaced else ():
            if shape is not None:
                self._now.set_foreign(Slot(key, self._options.table, self._options.metric), ())
            self._now.displaced.discard(key)

    def _judge(self, pieces: Sequence[_Piece], text: str, done: list[Nlri], failed: dict[Nlri, str]) -> None:
        """Find out by reading back what was done of pieces whose answers were lost."""
        try:
            self.read_back()
        except OSError:
            self._is_suspicious = True
            failed.update((key, text) for piece in pieces for key in piece.keys)
            return
        ours = self._now.ours
        for keys, shape, _, target in pieces:
            good = [key for key in keys if ours.get(key) == shape]
            self._believe(good, shape, target)
            done += good
            failed.update((key, text) for key in keys if ours.get(key) != shape)

    # ── listening ────────────────────────────────────────────────────────────

    def hear(self) -> None:
        """Take in what others did since the last call, and report it."""
        news = _News()
        try:
            heard = self._door.hear()
        except OSError as error:
            log.warning("fib.news_lost", reason=str(error.strerror))
            self._is_suspicious = True
            return
        for data in heard:
            match netlink.HEADER.unpack_from(data)[1]:
                case netlink.RTM_NEWROUTE | netlink.RTM_DELROUTE:
                    for kind, flags, key, shape in self._reader.read(data):
                        self._hear_route(kind, flags, key, shape, news)
                case netlink.RTM_NEWLINK | netlink.RTM_DELLINK:
                    for kind, link in routes.read_links(data):
                        self._hear_link(kind, link, news)
                case netlink.RTM_NEWNEXTHOP | netlink.RTM_DELNEXTHOP:
                    for kind, nexthop in routes.read_nexthops(data):
                        self._hear_nexthop(kind, nexthop)
                case netlink.RTM_DELADDR:
                    self._is_suspicious = True
        self._tell(news)

    def _tell(self, news: _News) -> None:
        if news.added or news.removed:
            self._report(HostRoutesChanged(tuple(news.added), tuple(news.removed)))
        if news.observed:
            there = self._targets_of({key: shape for key, shape in news.observed.items() if shape is not None})
            self._report(FibObserved({key: there.get(key) for key in news.observed}))
        self._wake(news.awaited)

    def _hear_route(self, kind: int, flags: int, key: Nlri, shape: Shape, news: _News) -> None:
        options, found = self._options, self._now
        slot = Slot(key, shape.table, shape.metric, shape.tos)
        is_our_place = found.is_our_place(slot)
        is_new = kind == netlink.RTM_NEWROUTE
        replaces = is_new and bool(flags & netlink.NLM_F_REPLACE)
        if shape.protocol == options.protocol and shape.table == options.table:
            if not is_our_place:
                return  # the next read-back lists it
            if is_new and found.ours.get(key) != shape:
                news.observed[key] = found.ours[key] = shape
            elif not is_new and found.ours.pop(key, None) is not None:
                news.observed[key] = None
            if replaces:
                self._change_foreign(slot, (), news)
            return
        if shape.table not in found.tables:
            return
        had = found.foreign.get(slot, ())
        if not is_new:
            left = tuple(other for other in had if other != shape)
            self._change_foreign(slot, left if len(left) < len(had) else (), news)
            if is_our_place and not left:
                news.awaited.add(key)
            return
        if is_our_place and replaces and key in found.ours:
            del found.ours[key]
            news.removed.update(self._now.displace(key))
            news.observed[key] = None
        # IPv6 tells of a route that joined others with all of their ways.
        is_whole = replaces or len(shape.hops) > 1
        self._change_foreign(slot, (shape,) if is_whole else (*(o for o in had if o != shape), shape), news)

    def _change_foreign(self, slot: Slot, shapes: tuple[Shape, ...], news: _News) -> None:
        added, removed = self._now.set_foreign(slot, shapes)
        news.removed.update(removed - news.added)
        news.added.difference_update(removed)
        news.added.update(added - news.removed)
        news.removed.difference_update(added)

    def _hear_link(self, kind: int, link: Link, news: _News) -> None:
        if kind == netlink.RTM_DELLINK:
            self._now.forget_link(link.index)
            self._fallen.add(link.index)
            return
        had = self._now.note_link(link)
        if had == link:
            return
        news.awaited.add(link.name)
        if had is not None:
            if (had.is_up and not link.is_up) or (had.has_carrier and not link.has_carrier):
                self._fallen.add(link.index)
            else:
                self._risen.add(link.index)

    def _hear_nexthop(self, kind: int, nexthop: Nexthop) -> None:
        had = self._now.nexthops.get(nexthop.id)
        if kind == netlink.RTM_NEWNEXTHOP and had in {None, nexthop}:
            self._now.nexthops[nexthop.id] = nexthop  # new, it has no users yet
        else:
            # Whoever routes by it goes another way now, or none. That is left to the read-back: what is taken
            # in here it would find as it left it, and report nothing.
            self._is_suspicious = True

    def _wake(self, happened: set[object]) -> None:
        """Have what waited for any of this tried at once."""
        if not self._waiting or not happened:
            return
        woken = [key for key, awaited in self._waiting.items() if not awaited.isdisjoint(happened)]
        drop(self._waiting, woken)
        if woken:
            self._hurry(woken)


def _count(shapes: Collection[Shape]) -> Counter[Shape]:
    """Count equal shapes; most are one object, and hashing each would take longer than all the rest."""
    by_id = dict(zip(map(id, shapes), shapes, strict=True))
    counted: Counter[Shape] = Counter()
    for number, count in Counter(map(id, shapes)).items():
        counted[by_id[number]] += count
    return counted


def _hop(address: IPAddress, resolution: Resolution) -> Hop:
    """Return the content of a next hop's object: its gateway, or itself where it is on the link."""
    return Hop(resolution.link, (resolution.gateway or address).packed)


def _encode(keys: list[Nlri], shape: Shape | None, flags: int, anything: Shape, first: int) -> bytearray:
    if shape is None:
        return routes.delete_routes(keys, anything, first)
    return routes.new_routes(keys, shape, flags, first)


def _members(via: Via) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of their objects and their weights, as groups are compared."""
    return routes.members_of((routes.object_id(address), weight) for address, weight in via.shares)


def _in_order(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    return tuple(sorted(addresses, key=lambda address: (address.version, int(address))))


def _by_family(keys: list[Nlri], shape: Shape | None, flags: int, target: Target | None) -> Iterator[_Piece]:
    if len(set(map(len, keys))) == 1:
        yield _Piece(keys, shape, flags, target)
        return
    for width in (5, 17):
        alike = [key for key in keys if len(key) == width]
        if alike:
            yield _Piece(alike, shape, flags, target)
