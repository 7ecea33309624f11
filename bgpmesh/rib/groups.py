"""Who hears what: the update groups that there are, and which peer is in which.

A group has all peers with one `View`. It begins with the first of them and the table as it is, offered in slices; it
ends with the last. A peer whose view changes goes to another with what it was told, so it hears the difference; where
that of all of a group changes alike, as by a reload, the group goes on with the new one, and makes each batch once.
While `is_held` nobody is told anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import groupby

from bgpmesh.peering.message import Negotiated
from bgpmesh.peering.peer import Peer
from bgpmesh.rib.decision import Path, Selection
from bgpmesh.rib.drain import Drain
from bgpmesh.rib.export import Group, Member, Told, end_of_ribs
from bgpmesh.rib.filter import Filters
from bgpmesh.rib.view import View, agreed, view_of
from bgpmesh.route.nlri import Family, Nlri, by_width
from bgpmesh.route.path import PeerName


class Groups:
    """All update groups; a peer is here while its session is up."""

    def __init__(
        self,
        filters: Filters,
        selected: Mapping[Nlri, Selection],
        number: Callable[[Path, Collection[Nlri]], bytes | None],
    ) -> None:
        """Begin with none; `number` is as a Group has it."""
        self.by_view: dict[View, Group] = {}
        self.is_held = False  # until all follows from what has changed for many
        self._filters, self._selected, self._number = filters, selected, number
        self.members: dict[PeerName, Member] = {}
        self._stirred: set[PeerName] = set()  # for whom there may be something, beside the members of stirred groups
        self._owing: set[PeerName] = set()  # to whom we owe End-of-RIB
        self._drain = Drain.NONE

    # ── who is in which ──────────────────────────────────────────────────────

    def join(self, peer: Peer, negotiated: Negotiated, subnet: Nlri | None) -> int:
        """Take in a peer, in a subnet that we share; returns how many paths of a prefix it takes, 0: the best one."""
        view = view_of(peer, agreed(negotiated), subnet, self._drain)
        group, received = self._group(view), negotiated.received
        is_enhanced = received.capabilities.enhanced_refresh and negotiated.sent.capabilities.enhanced_refresh
        member = Member(peer.name, received.router_id, peer.address, group, is_refresh_enhanced=is_enhanced)
        self.members[peer.name] = member
        group.join(member)
        self._stirred.add(peer.name)
        return view.most_paths

    def leave(self, name: PeerName) -> None:
        """Let a peer go, if it is here."""
        member = self.members.pop(name, None)
        if member is not None:
            self._owing.discard(name)
            member.group.leave(member)
            self._drop_if_left(member.group)

    def see(self, peers: Iterable[tuple[Peer, Nlri | None]]) -> int | None:
        """See peers, each with the subnet that we share, as they are now.

        Returns how many paths of a prefix they take at most, None: all is as it was.
        """
        moved: dict[tuple[View, View], list[Member]] = {}
        for peer, subnet in peers:
            member = self.members.get(peer.name)
            if member is not None:
                old = member.group.view
                view = view_of(peer, old.agreed, subnet, self._drain)
                if view != old:
                    moved.setdefault((old, view), []).append(member)
        for (_, view), members in moved.items():
            group = members[0].group
            if len(members) == len(group.members) and view not in self.by_view:
                self._see_anew(group, view)
                continue
            for member in members:
                self._group(view).transfer(member)
                self._stirred.add(member.name)
            self._drop_if_left(group)
        return max((view.most_paths for _, view in moved), default=None)

    def _see_anew(self, group: Group, view: View) -> None:
        """Have all of a group see otherwise; nobody else sees like that."""
        del self.by_view[group.view]
        group.see(view, self._filters.chain(view.exports, view.local_asn), list(self._selected))
        self.by_view[view] = group

    def _group(self, view: View) -> Group:
        group = self.by_view.get(view)
        if group is None:
            filters = self._filters.chain(view.exports, view.local_asn)
            group = self.by_view[view] = Group(view, filters, self._number)
            group.backlog = list(self._selected)
        return group

    def _drop_if_left(self, group: Group) -> None:
        if not group.members:
            del self.by_view[group.view]

    # ── what they hear ───────────────────────────────────────────────────────

    def filter(self, changed: set[str]) -> None:
        """Send what is selected through export filters of these names again."""
        for group in self.by_view.values():
            view = group.view
            if not changed.isdisjoint(view.exports):
                group.filter(self._filters.chain(view.exports, view.local_asn), list(self._selected))
                self.is_held = True

    def drain(self, drain: Drain) -> None:
        """Have all hear what a node says that has left service so far."""
        if drain is self._drain:
            return
        self._drain = drain
        groups = list(self.by_view.values())
        for group in groups:
            self._see_anew(group, replace(group.view, drain=drain))
        self.is_held |= bool(groups)

    def offer(self, nlris: Collection[Nlri], old: Selection | None, new: Selection | None) -> None:
        """Note what is selected for prefixes of one family, and was."""
        has_best_moved = old is None or new is None or old.best is not new.best
        for group in self.by_view.values():
            if has_best_moved or group.view.most_paths:
                group.offer(new, nlris)

    def offer_backlogs(self, limit: int) -> None:
        """Offer up to `limit` prefixes of the table as it is to groups that began lately."""
        for group in self.by_view.values():
            if limit <= 0:
                break
            if group.backlog:
                part = group.backlog[-limit:]
                del group.backlog[-limit:]
                limit -= len(part)
                group.is_stirred = True
                for selection, run in groupby(part, self._selected.get):
                    for nlris in by_width(list(run)):
                        group.offer(selection, nlris)

    @property
    def has_backlog(self) -> bool:
        """Whether some group was not offered all of the table yet."""
        return any(group.backlog for group in self.by_view.values())

    def all_is_offered(self) -> None:
        """Know that nothing else is to be worked out: End-of-RIB may be sent, and nobody is held any longer."""
        self._stirred |= self._owing
        if self.is_held:
            self.is_held = False
            self._stirred.update(self.members)

    # ── what each is told ────────────────────────────────────────────────────

    def refresh(self, name: PeerName, family: Family) -> None:
        """Advertise a family to this peer again."""
        member = self.members.get(name)
        if member is not None and family in member.group.view.agreed.families:
            member.refreshing.add(family)
            self._stirred.add(name)

    def owe_end_of_rib(self, name: PeerName) -> None:
        """Owe it to a peer."""
        if name in self.members:
            self._owing.add(name)
            self._stirred.add(name)

    def owes_end_of_rib(self, name: PeerName) -> bool:
        """Tell whether we do, and may say something."""
        return name in self._owing and not self.is_held

    def stirred(self) -> set[PeerName]:
        """Return the peers for whom there may be something now, each once."""
        for group in self.by_view.values():
            if group.is_stirred:
                group.is_stirred = False
                self._stirred.update(group.members)
        stirred, self._stirred = self._stirred, set()
        return stirred

    def unsaid_stirred(self) -> set[PeerName]:
        """Return the peers who may be not told of other prefixes than before, as those fit no message; each once."""
        stirred: set[PeerName] = set()
        for group in self.by_view.values():
            if group.is_too_long_stirred:
                group.is_too_long_stirred = False
                stirred.update(group.members)
        return stirred

    def has_routes_for(self, name: PeerName) -> bool:
        """Tell whether `take` may return routes."""
        member = self.members.get(name)
        return member is not None and not self.is_held and member.group.has_work_for(member)

    def take(self, name: PeerName, limit: int, *, may_end: bool) -> list[Told]:
        """Return the next batches for a peer, of about `limit` prefixes together, and where it `may_end` End-of-RIB."""
        member = self.members.get(name)
        if member is None or self.is_held:
            return []
        taken = member.group.take(member, limit)
        if may_end and not member.group.has_work_for(member):
            self._owing.discard(name)
            member.was_told_all = True
            taken += end_of_ribs(member.group.view)
        return taken
