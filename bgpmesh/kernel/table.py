"""The kernel's tables as one thread knows them: routes of ours made so, and everybody else's watched.

`Table` belongs to the thread that owns the `Door`; nothing in it waits, except for the kernel's lock.
It writes what it is told, listens to what others do, reads everything back where it cannot be sure,
and says what it found as events.

What bit, or would:
 1. Replacing a route ignores whose it is. So a prefix that is not ours yet is written with
    "only if there is none" (NLM_F_EXCL), and where one is, a read-back decides whose. A route of
    somebody else that was there first stays and ours is refused; one that took the place of ours
    (`Mirror.displaced`) is set right, and is no host route meanwhile: that goes wherever it leads.
 2. Our belief changes on the kernel's answer and nowhere else: what we write, nobody tells us. Where
    answers are lost, a read-back decides what was done.
 3. A route to a workload is wanted as soon as its link was made, of which we may not have heard yet.
"""

from __future__ import annotations

import errno
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import filterfalse

from bgpmesh import log
from bgpmesh.delta import drop
from bgpmesh.events import Event, FibObserved, FibRead, FibWritten, HostRoutesChanged, NextHopsWritten
from bgpmesh.kernel import netlink
from bgpmesh.kernel.bursts import Piece, transact
from bgpmesh.kernel.mirror import KernelOptions, Mirror, Slot
from bgpmesh.kernel.netlink import Door, Refused
from bgpmesh.kernel.nexthops import Missing, NextHops, distinct
from bgpmesh.kernel.routes import RouteReader, Shape
from bgpmesh.route.nlri import IPAddress, Nlri, prefix_text
from bgpmesh.route.path import OnLink, Resolution, Target, Via

FELL_ROUTES = 200  # so many routes of one next hop are worth a look whether its object can take them along

FOREIGN_ROUTE = "a foreign route has its place (same prefix, table and metric)"

_NEW = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
_SET = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE


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
        self._now = Mirror(options)
        self._next_hops = NextHops(door, options, self._reader, known)
        self._anything = Shape(0, options.protocol, options.table, options.metric)
        self._inline: dict[Nlri, Via] = {}  # routes written by gateway instead of by id
        # What was refused, and what may help: a link's name, a next hop, or the prefix itself (a foreign route).
        self._waiting: dict[Nlri | IPAddress, frozenset[object]] = {}
        self._is_read = False
        self.is_untidy = False  # `settle` may find something to remove beside next hops

    # ── reading and listening ────────────────────────────────────────────────

    def is_alarmed(self) -> bool:
        """Tell whether something was heard that may need a read-back soon; O(1)."""
        return self._now.is_alarmed()

    def must_read_back(self) -> bool:
        """Tell whether what was heard may have changed what nobody told us of, and be calm again if not."""
        return self._now.is_outdated()

    def read_back(self) -> None:
        """Read everything and report what is not as we left it (the first time: everything).

        Raises OSError where the kernel does not answer or never holds still.
        """
        was, found = self._now, Mirror.read(self._door, self._reader, self._options)
        self._now = found
        self._next_hops.adopt(found)
        self.is_untidy = True
        if was.has_objects and not found.has_objects:
            log.warning("fib.nexthop_objects_unavailable", reason="the kernel has none; gateways stand in the routes")

        lost = [key for key, shape in was.ours.items() if found.ours.get(key) != shape]
        found.displaced = found.blocked.intersection(was.displaced.union(lost))
        added, removed = found.host_routes_since(was)
        if added or removed or not self._is_read:
            self._report(HostRoutesChanged(tuple(added), tuple(removed)))
        if lost or not self._is_read or found.ours != was.ours or found.objects() != was.objects():
            moved = sum(found.nexthops.get(number, object_) != object_ for number, object_ in was.objects().items())
            self._report(FibRead(self._targets_of(found.ours), self._next_hops.resolutions(), lost, moved))
        self._is_read = True
        stirred = {link.name for index, link in found.links.items() if was.links.get(index) != link}
        self._wake({*(was.blocked - found.blocked), *stirred})
        self._clear_behind()

    def hear(self) -> None:
        """Take in what others did since the last call, and report it."""
        try:
            news = self._now.hear(self._door.hear(), self._reader)
        except OSError as error:
            log.warning("fib.news_lost", reason=str(error.strerror))
            self._now.is_in_doubt = True
            return
        if news.added or news.removed:
            self._report(HostRoutesChanged(tuple(news.added), tuple(news.removed)))
        if news.observed:
            there = self._targets_of({key: shape for key, shape in news.observed.items() if shape is not None})
            self._report(FibObserved({key: there.get(key) for key in news.observed}))
        self._wake(news.awaited)
        self._clear_behind()

    def _clear_behind(self) -> None:
        """Remove what somebody has appended to routes of ours with our mark, before it is in use as ours goes.

        One of several ways stays until then: the kernel would have them in the order in which they were said.
        """
        behind, self._now.behind = self._now.behind, {}
        for shape, keys in behind.items():
            if len(shape.hops) > 1 or not keys:
                continue
            prefix, others = prefix_text(min(keys)), len(keys) - 1 or None
            log.warning("fib.stray_removed", prefix=prefix, others_count=others, reason="appended to a route of ours")
            try:
                transact(self._door, [Piece(list(keys), None)], shape)
            except OSError:
                self._now.is_in_doubt = True

    def _targets_of(self, shapes: Mapping[Nlri, Shape]) -> dict[Nlri, Target]:
        """Return the targets of routes of ours; O(1) for each but the distinct ones."""
        targets = {id(shape): self._next_hops.target(shape) for shape in distinct(shapes.values())}
        found = {key: targets[id(shape)] for key, shape in shapes.items()}
        for key, via in self._inline.items():
            if key in found and shapes[key] == self._next_hops.shape(via):
                found[key] = via
        return found

    def _wake(self, happened: set[object]) -> None:
        """Have what waited for any of this tried at once."""
        if not self._waiting or not happened:
            return
        woken = [key for key, awaited in self._waiting.items() if not awaited.isdisjoint(happened)]
        drop(self._waiting, woken)
        if woken:
            self._hurry(woken)

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
            done, refused, moved = self._next_hops.write(next_hops)
            if moved:
                self._rewrite(moved)
            for address, resolution in next_hops:
                if address in refused:
                    link = self._now.links.get(resolution.link)
                    self._waiting[address] = frozenset((link.name,) if link else ())
            self._report(NextHopsWritten(done, refused))
            drop(self._waiting, done)
            self._wake(set(done))
        for target, keys in wanted:
            if target is None and doomed and len(keys) > FELL_ROUTES:
                self._fell(keys, doomed)
        if wanted:
            if any(isinstance(target, OnLink) for target, _ in wanted):
                self.hear()  # rule 3
            written, failed = self._write_routes(wanted, is_again=False)
            self._report(FibWritten(written, failed))

    def _rewrite(self, moved: set[IPAddress]) -> None:
        """Write again what went by the gateway of next hops of which that has changed, or that have an object now."""
        users: dict[Via, list[Nlri]] = defaultdict(list)
        for key, via in self._inline.items():
            if not moved.isdisjoint(via.next_hops):
                users[via].append(key)
        if users:
            _, failed = self._write_routes(users.items(), is_again=False)
            if failed:
                self._report(FibObserved(dict.fromkeys(failed)))

    def _fell(self, keys: Iterable[Nlri], doomed: Iterable[IPAddress]) -> None:
        """Delete the objects of doomed next hops whose routes are all among `keys`: the kernel takes these along.

        One message for a node that is gone, in a third of the time or less. The kernel tells nobody of
        the routes (`ip monitor route` stays silent).
        """
        ours = self._now.ours
        going = list(filter(ours.__contains__, keys))
        shapes = list(map(ours.__getitem__, going))
        going_count, present_count = _count(shapes), _count(ours.values())
        whole = {s.nexthop_id for s, count in going_count.items() if FELL_ROUTES < count == present_count[s]}
        felled = self._next_hops.fell(doomed, whole)
        if felled:
            gone = [key for key, shape in zip(going, shapes, strict=True) if shape.nexthop_id in felled]
            self._believe(gone, None, None)

    def settle(self, doomed: Collection[IPAddress], *, may_sweep: bool) -> list[IPAddress]:
        """Delete these next hops, and what else of ours no route uses; return those that one still does.

        Called when nothing else is to be written. `may_sweep`: what an earlier life left and nobody
        has wished for since may go too.
        """
        if not doomed and not self.is_untidy:
            return []
        self.is_untidy &= not may_sweep
        by_gateway = {address for via in self._inline.values() for address in via.next_hops}
        busy, gone, refused = self._next_hops.settle(doomed, by_gateway, may_sweep=may_sweep)
        if may_sweep:
            self._sweep()
        if gone or refused:
            self._report(NextHopsWritten(gone, refused))
        return busy

    def _sweep(self) -> None:
        """Remove routes at a metric that we had in an earlier life."""
        by_shape: dict[Shape, list[Slot]] = defaultdict(list)
        for slot, shape in self._now.leftovers.items():
            by_shape[Shape(0, shape.protocol, shape.table, shape.metric)].append(slot)
        for shape, slots in by_shape.items():
            try:
                transact(self._door, [Piece([slot.key for slot in slots], None)], shape)
            except OSError:
                self._now.is_in_doubt = True
                return
            drop(self._now.leftovers, slots)

    def _write_routes(
        self, wanted: Iterable[tuple[Target | None, list[Nlri]]], *, is_again: bool
    ) -> tuple[list[Nlri], dict[Nlri, str]]:
        done: list[Nlri] = []
        failed: dict[Nlri, str] = {}
        pieces = [p for target, keys in wanted for p in self._plan(target, keys, done, failed) if p.keys]
        try:
            refused = transact(self._door, pieces, self._anything)
        except OSError as error:
            self._judge(pieces, f"the answer was lost: {error.strerror}", done, failed)
            return done, failed
        again = self._settle_pieces(pieces, refused, done, failed)
        if again and not is_again:
            # Somebody has a route there that we did not know of: look whose, then decide. Where ours was to be
            # replaced it stands behind that one: it is in the way, and goes.
            behind = {key for piece in pieces if piece.flags == _SET for key in piece.keys}
            try:
                stuck = [key for _, keys in again for key in keys if key in behind]
                transact(self._door, [Piece(stuck, None)], self._anything)
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
    ) -> Iterator[Piece]:
        """Yield the pieces that make `target` true for the keys; what is so already, or cannot be, is noted."""
        ours = self._now.ours
        if target is None:
            self._concede(keys)
            there = list(filter(ours.__contains__, keys))
            done += filterfalse(ours.__contains__, keys)
            yield Piece(there, None)
            return
        shape = self._next_hops.shape(target)
        if isinstance(shape, Missing):
            for key in keys:
                failed[key] = shape.text
                self._waiting[key] = shape.awaited
            return
        if self._now.blocked and not self._now.blocked.isdisjoint(keys):
            for key in self._now.blocked.intersection(keys) - self._now.displaced:
                if key in ours:
                    continue
                failed[key] = FOREIGN_ROUTE
                self._waiting[key] = frozenset((key,))
            keys = [key for key in keys if key not in failed]
        blocked = self._now.blocked
        if ours.keys().isdisjoint(keys) and not blocked:
            yield Piece(keys, shape, _NEW, target)  # the common batch: all of it new
            return
        held = [key for key in keys if key in ours or key in blocked]
        done += [key for key in held if ours.get(key) == shape]
        yield Piece([key for key in keys if key not in ours and key not in blocked], shape, _NEW, target)
        yield Piece([key for key in held if ours.get(key) != shape], shape, _SET, target)

    def _concede(self, keys: Iterable[Nlri]) -> None:
        """Leave our place to who took it, where nobody wishes ours back any more."""
        if self._now.displaced and not self._now.displaced.isdisjoint(keys):
            freed = [self._now.concede(key) for key in self._now.displaced.intersection(keys)]
            self._report(HostRoutesChanged(tuple(set().union(*freed)), ()))

    def _settle_pieces(
        self, pieces: Sequence[Piece], refused: Mapping[Nlri, Refused], done: list[Nlri], failed: dict[Nlri, str]
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
                    elif flags and answer.errno == errno.EEXIST:
                        held.append(key)
                    else:
                        failed[key] = self._refusal(key, target, answer)
                if held and target is not None:
                    again.append((target, held))
            self._believe(good, shape, target)
            if flags != _NEW:
                self.is_untidy = True
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
            self._inline.update(dict.fromkeys(keys, target))
        else:
            drop(self._inline, keys)
        for key in self._now.displaced.intersection(keys) if self._now.displaced else ():
            if shape is not None:
                self._now.set_foreign(Slot(key, self._options.table, self._options.metric), ())
            self._now.displaced.discard(key)

    def _judge(self, pieces: Sequence[Piece], text: str, done: list[Nlri], failed: dict[Nlri, str]) -> None:
        """Find out by reading back what was done of pieces whose answers were lost."""
        try:
            self.read_back()
        except OSError:
            self._now.is_in_doubt = True
            failed.update((key, text) for piece in pieces for key in piece.keys)
            return
        ours = self._now.ours
        for keys, shape, _, target in pieces:
            good = [key for key in keys if ours.get(key) == shape]
            self._believe(good, shape, target)
            done += good
            failed.update((key, text) for key in keys if ours.get(key) != shape)


def _count(shapes: Collection[Shape]) -> Counter[Shape]:
    """Count equal shapes; most are one object, and is counted as one."""
    by_id = {id(shape): shape for shape in distinct(shapes)}
    counted: Counter[Shape] = Counter()
    for number, count in Counter(map(id, shapes)).items():
        counted[by_id[number]] += count
    return counted
