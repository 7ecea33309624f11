"""What an update group is to hear, what it has been told, and how far each of its peers is with that.

Peers with the same `View` form one `Group`: an exported attribute set is computed once, a batch is
packed and encoded once, and the same bytes go to all of them. The group knows what all of it has
been told (`sent`) and what has changed since (`pending`, latest wins, so flaps coalesce). When
somebody is ready to send, pending changes are compared with `sent` and go into the group's log as
batches. A member holds a position in the log, and is in one of these states:

    in the dump    new, or asked for everything again: reads batches of `sent` as it was at its position
    in step        reads the log from its position
    behind         the log had to be cut before it read on, or it came from another group: `dirty` holds
                   the prefixes where it may be wrong, each with what it was told; the latest is sent

So a slow member costs memory by the number of prefixes, never by churn. What a member must not hear
(its own route, one that names it as ORIGINATOR, one through its own address) is an exception computed
when it reads.

Of a family of which such peers take several paths of a prefix (RFC 7911) all this goes by path: `sent`, `pending` and
the log have keys of paths. Which paths are told are the first `most_paths` of the selection's order that these peers
may hear, one for each next hop: another by the same would give them nothing. In one flush what comes goes before what
leaves, so that a peer is never between two paths.

A path that fits no message that these peers take is not told (`too_long`): what they had of the prefix is withdrawn.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby, islice, repeat
from operator import attrgetter
from typing import TypeVar, cast

from bgpmesh.delta import drop
from bgpmesh.peering.message import EndOfRib, Refresh, RouteRefresh
from bgpmesh.rib.decision import Path, Selection
from bgpmesh.rib.filter import Answer, Chain
from bgpmesh.rib.view import View, fits, may_hear, rewrite
from bgpmesh.route.attributes import PathAttributes, RouterId
from bgpmesh.route.nlri import Family, IPAddress, Nlri, family_of
from bgpmesh.route.path import PeerName

BATCH_PREFIXES = 4_000  # one batch is one turn's worth for a socket
FLUSH_PREFIXES = 20_000  # changes packed at once
LOG_SLACK = 200_000  # prefixes that the log may hold beyond as many as the group was told (some 16 bytes each)
SPARE_ADVERTS = 20_000  # exported attribute sets kept beyond twice as many as were in use, before they are swept

B = TypeVar("B", bound=tuple[object, ...])  # of what changes alike: the width of the keys, what it is now (None: gone)
V = TypeVar("V")

_value_of = attrgetter(*(field.name for field in fields(PathAttributes)))


@dataclass(slots=True, eq=False)
class Batch:
    """One attribute set and many prefixes of one family, for every peer of an update group.

    `attributes` None withdraws. `encoded` is the wire's own: the bytes are made once for the group.
    """

    family: Family
    attributes: PathAttributes | None
    nlris: list[Nlri]
    encoded: list[bytes] | None = None


Told = Batch | EndOfRib | RouteRefresh  # what a peer is sent, in this order


# ── what was told ────────────────────────────────────────────────────────────


@dataclass(slots=True, eq=False)
class Advert:
    """What a group hears of a prefix, and who must not; one object for all prefixes that are alike."""

    attributes: PathAttributes
    origin: PeerName | None
    is_too_long: bool = False  # it fits no message, and nobody hears it

    def is_for(self, member: Member) -> bool:
        """Whether this member hears it: never who it came from, who made it, nor whose address is the next hop."""
        return (
            self.origin != member.name
            and self.attributes.originator_id != member.router_id
            and self.attributes.next_hop != member.address  # RFC 4271 §5.1.3
        )


@dataclass(slots=True, eq=False)
class Entry:
    """One change in the log: these prefixes are now `after` (None: gone), and were `befores` (None: nothing)."""

    batch: Batch
    after: Advert | None
    befores: Sequence[Advert | None] | None  # as the batch's prefixes; None: none of them was told before, most often
    is_silent: bool = False  # the attributes are as they were: only the origins, old and new, see a change
    is_repeat: bool = False  # was told, and is wanted again
    names: set[PeerName | None] = field(init=False)
    originators: set[RouterId | None] = field(init=False)
    next_hops: set[IPAddress | None] = field(init=False)

    def __post_init__(self) -> None:
        adverts = {self.after, *(self.befores or ())} - {None}
        self.names = {advert.origin for advert in adverts if advert is not None}
        self.originators = {advert.attributes.originator_id for advert in adverts if advert is not None}
        self.next_hops = {advert.attributes.next_hop for advert in adverts if advert is not None}

    def told(self) -> Iterator[tuple[Nlri, Advert | None]]:
        """Yield each prefix with what the group was told before."""
        return zip(self.batch.nlris, repeat(None) if self.befores is None else self.befores, strict=False)

    def heard_by(self, member: Member) -> list[Batch]:
        """Return what this member is sent of it: the shared batch, most often."""
        if (
            member.name not in self.names
            and member.router_id not in self.originators
            and member.address not in self.next_hops
        ):
            return [] if self.is_silent else [self.batch]
        hears = self.after is not None and self.after.is_for(member)
        if self.befores is None:
            return [self.batch] if hears else []
        announced: list[Nlri] = []
        withdrawn: list[Nlri] = []
        for nlri, before in self.told():
            was_told = before is not None and before.is_for(member)
            if hears and not (was_told and self.is_silent):
                announced.append(nlri)
            elif was_told and not hears:
                withdrawn.append(nlri)
        family, after = self.batch.family, self.after
        batches = [Batch(family, None, withdrawn)] if withdrawn else []
        return [*batches, Batch(family, after.attributes, announced)] if after is not None and announced else batches


@dataclass(slots=True, eq=False)
class Member:
    """One peer's place in its group."""

    name: PeerName
    router_id: RouterId
    address: IPAddress
    group: Group
    position: int = 0  # of the next log entry to read
    dump: deque[Entry] = field(default_factory=deque)  # still to read before the log
    dirty: dict[Nlri, Advert | None] = field(default_factory=dict)  # behind: what it was told
    again: set[Nlri] = field(default_factory=set)  # of these, wanted even if nothing changed
    refreshing: set[Family] = field(default_factory=set)  # asked for again, once in step
    ending: list[Family] = field(default_factory=list)  # sent again; EoRR follows
    was_told_all: bool = False  # End-of-RIB was sent
    is_refresh_enhanced: bool = False

    @property
    def is_to_be_refreshed(self) -> bool:
        """Whether an answer to ROUTE-REFRESH is due; BoRR never leaves before End-of-RIB (RFC 7313 §4)."""
        return bool(self.refreshing) and (self.was_told_all or not self.is_refresh_enhanced)

    def fall_behind(self) -> None:
        """Leave dump and log; remember for every prefix not yet read what this member was told."""
        for entry in self.dump:
            for nlri, before in entry.told():
                self.dirty.setdefault(nlri, before)
            if entry.is_repeat:
                self.again.update(entry.batch.nlris)
        self.dump.clear()
        for entry in self.group.entries_from(self.position):
            for nlri, before in entry.told():
                self.dirty.setdefault(nlri, before)
        self.position = self.group.end


# All that `rewrite` looks at: of the source its peer, router id and whether it is external; attributes, family, `said`.
_Exported = tuple[PeerName | None, RouterId, bool, PathAttributes, Family, frozenset[str]]


class Group:
    """An update group: what all peers with one view should hear, and were told."""

    def __init__(self, view: View, filters: Chain, number: Callable[[Path, Collection[Nlri]], bytes | None]) -> None:
        """Make an empty one; `number` tells our identifier of a path of these prefixes, None: they have not one."""
        self.view = view
        self._number = number
        self._told: dict[Nlri, tuple[bytes, ...]] = {}  # the identifiers of several paths that are wanted or sent
        self._filters = filters  # on export
        self.members: dict[PeerName, Member] = {}
        self.sent: dict[Nlri, Advert] = {}
        self.too_long: dict[Nlri, Advert] = {}  # of these prefixes a path is not told, as it fits no message
        self.is_too_long_stirred = False  # those may be others, or be new to a member
        self.is_stirred = False  # there may be something for every member
        self.backlog: list[Nlri] = []  # the table as it was when the group began, still to be offered
        self.uses: dict[Family, Counter[Advert]] = {family: Counter() for family in view.agreed.families}
        self._pending: dict[Nlri, Advert | None] = {}
        self._log: deque[Entry] = deque()
        self._log_start = 0
        self._log_prefixes = 0
        self._dump: list[Entry] | None = None  # of `sent` as it is; shared by all who join now
        self._adverts: dict[tuple[PathAttributes, PeerName | None, bool], Advert] = {}
        self._adverts_live = 0  # after the last sweep
        self._sets: dict[object, PathAttributes] = {}
        self._exported: dict[_Exported, Advert | None] = {}

    @property
    def end(self) -> int:
        """The position after the last entry of the log."""
        return self._log_start + len(self._log)

    def entries_from(self, position: int) -> Iterable[Entry]:
        """Return the log's entries from a position on."""
        return islice(self._log, position - self._log_start, None)

    def join(self, member: Member) -> None:
        """Take in a peer that was told nothing yet."""
        self.members[member.name] = member
        self.is_too_long_stirred |= bool(self.too_long)
        member.position = self.end
        if self._dump is None:
            self._dump = self._entries_of(self.sent.items())
        member.dump.extend(self._dump)

    def transfer(self, member: Member) -> None:
        """Take in a peer from another group, with all that it was told there."""
        old = member.group
        member.fall_behind()
        for nlri, advert in old.sent.items():
            member.dirty.setdefault(nlri, advert)
        old.leave(member)
        for nlri in self.sent:
            member.dirty.setdefault(nlri, None)
        self.members[member.name] = member
        self.is_too_long_stirred |= bool(self.too_long or old.too_long)
        member.group, member.position = self, self.end

    def leave(self, member: Member) -> None:
        """Let a peer go; what it was told is forgotten."""
        self.members.pop(member.name, None)
        self._forget_what_all_read()

    def offer(self, selection: Selection | None, nlris: Collection[Nlri]) -> None:
        """Note what is now selected for these prefixes, all of one family (None: nothing)."""
        family, path = family_of(next(iter(nlris))), None if selection is None else selection.best
        if family not in self.uses:
            return
        if self.too_long:
            drop(self.too_long, nlris)
            self.is_too_long_stirred = True
        if family in self.view.agreed.path_ids:
            self._offer_several(family, () if selection is None else selection.ranked or (selection.best,), nlris)
            return
        if path is None or not may_hear(self.view, path):
            self._want(nlris, None)
            return
        for answer in self._filters.run(path.peer, path.attributes, nlris):
            self._want(answer.nlris, self._export(path, answer, family))

    def filter(self, filters: Chain, table: list[Nlri]) -> None:
        """Take other filters: all of the table is to be offered again, and who was told the same hears nothing."""
        self._filters, self.backlog = filters, table

    def see(self, view: View, filters: Chain, table: list[Nlri]) -> None:
        """Look at routes otherwise from now on: the same follows as from other filters."""
        self.view = view
        self.filter(filters, table)
        self._exported.clear()

    def has_work_for(self, member: Member) -> bool:
        """Tell whether a take may return routes."""
        has_more = member.ending or member.is_to_be_refreshed or member.position < self.end or self._pending
        return bool(member.dirty or member.dump or has_more)

    def take(self, member: Member, limit: int) -> list[Told]:
        """Return the next batches for a member, about `limit` prefixes; [] when it was told everything."""
        taken: list[Told] = []
        while limit > 0 or not taken:  # [] means that there is nothing
            if member.dirty:
                if self.backlog:
                    break  # it came from another group: half a table must not withdraw the other half
                while self._pending:
                    self._flush()
                batches = self._catch_up(member, max(limit, 1))
            elif member.dump:
                batches = member.dump.popleft().heard_by(member)
            elif member.position < self.end:
                batches = self._log[member.position - self._log_start].heard_by(member)
                member.position += 1
            elif self._pending:
                self._flush()
                continue
            elif member.ending or member.is_to_be_refreshed:
                taken += self._answer(member)
                continue
            else:
                self._forget_what_all_read()
                break
            taken += batches
            limit -= sum(len(batch.nlris) for batch in batches) or 1
        return taken

    def _answer(self, member: Member) -> list[Told]:
        """Begin to tell a member again what it asked for, or end it once it was told (RFC 2918, RFC 7313)."""
        if ended := member.ending:
            member.ending = []
            return [RouteRefresh(family, Refresh.END) for family in ended]
        begun = [family for family in self.view.agreed.families if family in member.refreshing]
        wanted = ((nlri, a) for nlri, a in self.sent.items() if family_of(nlri) in member.refreshing)
        member.dump.extend(self._entries_of(wanted, is_repeat=True))
        member.refreshing.clear()
        if not member.is_refresh_enhanced:
            return []
        member.ending = begun
        return [RouteRefresh(family, Refresh.BEGIN) for family in begun]

    def heard_by(self, member: Member) -> Iterator[tuple[Nlri, PathAttributes]]:
        """Yield what a member has been told, or is about to be."""
        return ((nlri, advert.attributes) for nlri, advert in self.sent.items() if advert.is_for(member))

    def unsaid_to(self, member: Member) -> list[Nlri]:
        """Return of which prefixes a member is not told a path because it fits no message."""
        return [nlri for nlri, advert in self.too_long.items() if advert.is_for(member)]

    def is_heard_by(self, member: Member, nlri: Nlri) -> bool:
        """Tell whether a member has been told of a prefix, or is about to be."""
        keys = (nlri, *(Nlri(number + nlri) for number in self._told.get(nlri, ())))
        return any(advert.is_for(member) for advert in map(self.sent.get, keys) if advert is not None)

    def count(self, member: Member, family: Family) -> int:
        """Count what a member has been told of a family, or is about to be; O(distinct attribute sets)."""
        return sum(count for advert, count in self.uses.get(family, {}).items() if advert.is_for(member))

    # ── inside ──

    def _offer_several(self, family: Family, ranked: Iterable[Path], nlris: Collection[Nlri]) -> None:
        found: list[tuple[bytes, Advert]] = []
        next_hops: set[IPAddress | None] = set()
        for path in ranked:
            if len(found) == self.view.most_paths:
                break
            if path.attributes.next_hop in next_hops or not may_hear(self.view, path):
                continue
            number, answers = self._number(path, nlris), self._filters.run(path.peer, path.attributes, nlris)
            if len(nlris) > 1 and (number is None or len(answers) > 1):
                for nlri in nlris:
                    self._offer_several(family, ranked, [nlri])
                return
            advert = None if number is None else self._export(path, answers[0], family)
            if number is not None and advert is not None:
                next_hops.add(path.attributes.next_hop)
                found.append((number, advert))
        self._want_several(nlris, found)

    def _want_several(self, nlris: Collection[Nlri], found: Sequence[tuple[bytes, Advert]]) -> None:
        numbers, told = tuple(number for number, _ in found), self._told
        for number, advert in found:
            self._want(_keyed(number, nlris), advert)
        befores = list(map(told.get, nlris))
        for before in set(befores) - {None, numbers}:
            for number in set(before or ()) - set(numbers):
                gone = [nlri for nlri, was in zip(nlris, befores, strict=True) if was == before]
                self._want(_keyed(number, gone), None)
        if numbers:
            told.update(dict.fromkeys(nlris, numbers))
        else:
            drop(told, [nlri for nlri, was in zip(nlris, befores, strict=True) if was is not None])

    def _export(self, path: Path, answer: Answer, family: Family) -> Advert | None:
        source, attributes = path.source, answer.attributes
        if attributes is None:
            return None
        key = (source.peer, source.router_id, source.is_external, attributes, family, answer.said)
        if key not in self._exported:
            if len(self._exported) > FLUSH_PREFIXES:
                self._exported.clear()
            made = rewrite(self.view, path.source, attributes, family, answer.said)
            self._exported[key] = None if made is None else self._advert(made, path.peer, family)
        advert = self._exported[key]
        if advert is not None and advert.is_too_long:
            self.too_long.update(dict.fromkeys(answer.nlris, advert))
            self.is_too_long_stirred = True
            return None
        return advert

    def _advert(self, made: PathAttributes, origin: PeerName | None, family: Family) -> Advert:
        """Return the one object for this value and origin, so that equal is identical."""
        if len(self._adverts) > 2 * self._adverts_live + SPARE_ADVERTS:  # also while nobody reads, and all are pending
            self._forget_unused()
        attributes = self._sets.setdefault(_value_of(made), made)
        key = (attributes, origin, not fits(self.view, attributes, family))
        if key not in self._adverts:
            self._adverts[key] = Advert(*key)
        return self._adverts[key]

    def _forget_unused(self) -> None:
        used = {advert for uses in self.uses.values() for advert in uses}
        used.update(advert for advert in self._pending.values() if advert is not None)
        self._adverts = {key: advert for key, advert in self._adverts.items() if advert in used}
        self._adverts_live = len(self._adverts)
        self._sets = {_value_of(advert.attributes): advert.attributes for advert in self._adverts.values()}
        self._exported.clear()

    def _want(self, nlris: Collection[Nlri], advert: Advert | None) -> None:
        if advert is None and all(not table or table.keys().isdisjoint(nlris) for table in (self.sent, self._pending)):
            return  # never told, and not about to be: what is learnt from a mesh, mostly
        self._pending.update(dict.fromkeys(nlris, advert))
        self.is_stirred = True

    def _flush(self) -> None:
        """Compare a slice of what is pending with what was told, and log the differences."""
        if len(self._pending) > FLUSH_PREFIXES:
            taken = dict(islice(self._pending.items(), FLUSH_PREFIXES))
            drop(self._pending, taken)
        else:
            taken, self._pending = self._pending, {}
        keys, befores, is_any_gone = list(taken), list(map(self.sent.get, taken)), False
        buckets: dict[tuple[int, Advert | None, bool], tuple[list[Nlri], list[Advert | None]]] = {}
        at = 0
        for after, run in groupby(taken.values()):  # a run is what one batch of the Rib left here, most often
            start, at = at, at + len(list(run))
            nlris, were = keys[start:at], befores[start:at]
            is_any_gone |= after is None
            widths = set(map(len, nlris))
            if after is not None and len(widths) == 1 and not any(were):
                bucket = buckets.setdefault((widths.pop(), after, False), ([], []))
                bucket[0].extend(nlris)
                bucket[1].extend(were)
                continue
            for nlri, before in zip(nlris, were, strict=True):
                if before is not after:
                    is_silent = before is not None and after is not None and before.attributes is after.attributes
                    bucket = buckets.setdefault((len(nlri), after, is_silent), ([], []))
                    bucket[0].append(nlri)
                    bucket[1].append(before)
        if not buckets:
            return
        self._dump = None
        if is_any_gone:
            drop(self.sent, [nlri for nlri, after in taken.items() if after is None])
            taken = {nlri: after for nlri, after in taken.items() if after is not None}
        self.sent.update(cast("dict[Nlri, Advert]", taken))
        for (_, after, is_silent), (nlris, were) in self._in_order(buckets):
            family, is_any_told = family_of(nlris[0]), any(were)
            self._count_uses(family, were if is_any_told else (), after, len(nlris))
            for at in range(0, len(nlris), BATCH_PREFIXES):
                part = nlris[at : at + BATCH_PREFIXES]
                told = were[at : at + BATCH_PREFIXES] if is_any_told else None
                batch = Batch(family, None if after is None else after.attributes, part)
                self._log.append(Entry(batch, after, told, is_silent))
                self._log_prefixes += len(part)
        self._bound_log()

    def _count_uses(self, family: Family, were: Iterable[Advert | None], after: Advert | None, routes: int) -> None:
        uses = self.uses[family]
        if after is not None:
            uses[after] += routes
        for before, count in Counter(were).items():
            if before is not None:
                uses[before] -= count
                if not uses[before]:
                    del uses[before]

    def _bound_log(self) -> None:
        """Drop what everybody has read; while the log is still too long, those furthest back fall behind."""
        self._drop_before(min((member.position for member in self.members.values()), default=self.end))
        while self._log_prefixes > len(self.sent) + LOG_SLACK:
            for member in self.members.values():
                if member.position == self._log_start:
                    member.fall_behind()
            self._drop_before(min((member.position for member in self.members.values()), default=self.end))

    def _forget_what_all_read(self) -> None:
        if self._log and all(member.position == self.end for member in self.members.values()):
            self._drop_before(self.end)

    def _drop_before(self, position: int) -> None:
        while self._log_start < position:
            self._log_prefixes -= len(self._log.popleft().batch.nlris)
            self._log_start += 1

    def _catch_up(self, member: Member, limit: int) -> list[Batch]:
        """Send a member that is behind the latest of up to `limit` prefixes, where that is not what it was told."""
        member.fall_behind()  # what was logged since
        buckets: dict[tuple[int, PathAttributes | None], list[Nlri]] = {}
        for nlri in list(islice(member.dirty, limit)):
            told = _as_heard(member.dirty.pop(nlri), member)
            now = _as_heard(self.sent.get(nlri), member)
            is_again = nlri in member.again
            member.again.discard(nlri)
            if now is None and told is None:
                continue
            if now is not None and told is not None and not is_again and now.same_as(told):
                continue
            buckets.setdefault((len(nlri), now), []).append(nlri)
        return [Batch(family_of(nlris[0]), attributes, nlris) for (_, attributes, *_), nlris in self._in_order(buckets)]

    def _in_order(self, buckets: dict[B, V]) -> list[tuple[B, V]]:
        """Return changes as they are sent: of several paths those that go are last."""
        if not self.view.agreed.path_ids:
            return list(buckets.items())
        return sorted(buckets.items(), key=lambda bucket: bucket[0][1] is None)

    def _entries_of(self, adverts: Iterable[tuple[Nlri, Advert]], *, is_repeat: bool = False) -> list[Entry]:
        buckets: dict[tuple[int, Advert], list[Nlri]] = {}
        for nlri, advert in adverts:
            buckets.setdefault((len(nlri), advert), []).append(nlri)
        entries: list[Entry] = []
        for (_, advert), nlris in buckets.items():
            family = family_of(nlris[0])
            for at in range(0, len(nlris), BATCH_PREFIXES):
                part = nlris[at : at + BATCH_PREFIXES]
                told = [advert] * len(part) if is_repeat else None
                entries.append(Entry(Batch(family, advert.attributes, part), advert, told, is_repeat=is_repeat))
        return entries


def _keyed(path_id: bytes, nlris: Iterable[Nlri]) -> list[Nlri]:
    return cast("list[Nlri]", list(map(path_id.__add__, nlris)))


def _as_heard(advert: Advert | None, member: Member) -> PathAttributes | None:
    return advert.attributes if advert is not None and advert.is_for(member) else None


def end_of_ribs(view: View) -> list[EndOfRib]:
    """Return the End-of-RIB of every family of a session (RFC 4724 §2)."""
    return [EndOfRib(family) for family in view.agreed.families]
