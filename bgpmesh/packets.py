"""What may pass here: the chains and sets of this node, the links that wait for them, and connections that stand.

Objects, configuration, workloads and what other nodes say of theirs are worked into chains and sets by `protect`, in
`Engine.work`; until then there is only a `doubt`. `leads` adds the floating addresses, `flowspec` what peers ask for.

What may not happen here:
 1. A workload's link is open before the chains and sets are acknowledged that protect it. It is closed while a hook of
    ours is gone and cannot be had again.
 2. A workload of another node leaves a set that was found at start before this node is in sync and has taken in what
    the others say.
 3. Where the objects that were in force are not known, anything of theirs is touched: who is protected stays so, and
    nobody else is let in.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from bgpmesh.delta import Delta
from bgpmesh.events import (
    ChainsRead,
    ChainsWritten,
    Configured,
    ConnectionsReviewed,
    DropsFollowed,
    HostRoutesChanged,
    Level,
    ObjectsChanged,
    SetsWritten,
)
from bgpmesh.flowspec import Flowspec
from bgpmesh.leads import Leads
from bgpmesh.local import Local
from bgpmesh.notes import Notes
from bgpmesh.policy.chains import AddressSet, ChainKey, Rules
from bgpmesh.policy.flowchain import is_of_flows
from bgpmesh.policy.iptables import SPARE
from bgpmesh.policy.protection import TABLES, Protection, members_within
from bgpmesh.rib.rib import Rib
from bgpmesh.route.claim import Claims
from bgpmesh.route.nlri import host_nlri
from bgpmesh.route.path import HostRouteKind
from bgpmesh.workload.endpoint import Endpoint

# What other nodes say of their workloads is taken up so many seconds after the last time: when the sets are as they
# were wanted (or twice as long as that took), and at the latest.
LESSON_S, LAST_LESSON_S = 0.01, 1.0
NEVER, NEVER_YET = float("inf"), float("-inf")

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class Review:
    """What is known of connections that stand, and may no longer be allowed."""

    generation: int = 0  # grows with what they may do
    reviewed: int = 0  # under which of them they were looked at last
    problem: str = ""  # why that cannot be done
    is_called_for: bool = False  # something has changed that they may depend on: not a workload that comes or goes


NAMED = 4  # chains and sets, in one line of the log


class Packets:
    """The packet filter of one node, as it should be and as it is."""

    def __init__(self, configured: Configured, rib: Rib, local: Local, flowspec: Flowspec, notes: Notes) -> None:
        self.chains: Delta[ChainKey, Rules] = Delta()
        self.sets: Delta[str, AddressSet] = Delta()
        self.leads = Leads(rib, local, notes, self.chains, self.sets)
        self.protection = Protection()
        self.review = Review()
        self.policy_errors = 0  # chains and sets that were refused, every time
        self.is_policy_known = True  # rule 3
        self._configured = configured
        self._rib = rib
        self._local = local
        self._flowspec = flowspec
        self._notes = notes
        self._is_in_doubt = True  # chains and sets are to be worked out anew
        self._held: dict[str, frozenset[bytes]] = {}  # other nodes' members of the sets found at start
        self._learnt_at = NEVER_YET  # when the sets were last made to follow what other nodes say
        self._pause_s = LESSON_S  # and how long they are left alone then

    # ── what they depend on ──────────────────────────────────────────────────

    def doubt(self, *, connections: bool = False) -> None:
        """Have chains and sets worked out anew; `connections`: and those looked at that stand, if less may pass."""
        self._is_in_doubt = True
        self.review.is_called_for = self.review.is_called_for or connections

    def configure(self, new: Configured) -> None:
        """Take the configuration, the room of workloads first."""
        self._configured = new
        self.doubt(connections=True)
        self._local.say(self.claims_of(self._local.endpoints.values()))

    def objects_changed(self, event: ObjectsChanged, _: float) -> None:
        """Take the objects in force, which may not be known."""
        self.is_policy_known = event.objects is not None
        self.protection.objects = event.objects or {}
        self.doubt(connections=True)
        if self._configured.has_identity:  # else nobody hears of labels, whatever they are
            self._local.say(self.claims_of(self._local.endpoints.values()))

    def claims_of(self, endpoints: Iterable[Endpoint]) -> Mapping[str, Claims] | None:
        """Return what the nodes of the cluster are to hear of some workloads, by key; None: nothing of any."""
        if not self._configured.has_identity or not self.is_policy_known:  # labels of namespaces are objects' matter
            return None
        return self.protection.claims(endpoints, self._configured.around)

    def drops_followed(self, event: DropsFollowed, _: float) -> None:
        """Have rules tell of what they drop, or no longer."""
        self.protection.log_group = event.group
        self.doubt()

    def host_routes_changed(self, event: HostRoutesChanged) -> None:
        """Doubt what depends on which addresses are the host's own; the RIB knows them already."""
        routes = (*event.added, *event.removed)
        floating = self._local.floating.in_force
        touched = {route.prefix for route in routes} if floating else set()
        own = (route.kind is HostRouteKind.LOCAL for route in routes)
        if any(host_nlri(address) in touched for address in floating) or (self._has_expected_addresses and any(own)):
            self.doubt()

    def links_named(self) -> None:
        """Doubt what depends on the names of the host's links; the RIB knows them already."""
        if self._has_expected_addresses:
            self.doubt()

    @property
    def _has_expected_addresses(self) -> bool:
        return bool(self.protection.expected(self._configured.around.node))

    # ── the thinking ─────────────────────────────────────────────────────────

    def work(self) -> None:
        """Have chains and sets wanted by what is known by now."""
        is_settled = not self._rib.is_deferring
        are_flows_due = self._configured.kernel_enabled and self._flowspec.flows.is_due(is_settled=is_settled)
        if self._is_in_doubt or are_flows_due:
            self._protect()

    def learn(self, now: float, *, is_busy: bool) -> None:
        """Make the sets follow what other nodes say of their workloads, in batches.

        The next batch waits until the one before is written, so many small changes cost no more than a large one, and
        there are moments at which everything is as it is wanted. What was found at start is held until this node
        is in sync and has taken in all that it was told (rule 2).
        """
        said = self._rib.said
        if not self._configured.kernel_enabled:
            said.clear()  # it has no workloads
            return
        is_over = bool(self._held) and not self._rib.fib.keep_unwanted
        if not is_over and (
            not said or (is_busy and now < self._learnt_at + LAST_LESSON_S) or now < self._next_lesson()
        ):
            return
        self._learnt_at = now
        if self.protection.learn(said):
            self.review.is_called_for = True
        said.clear()
        if is_over:
            self._held = {}
        self._protect()

    def hear(self) -> bool:
        """Take up what other nodes say of floating addresses; True if there is something to work out."""
        if not self.leads.hear():
            return False
        self.doubt()
        return True

    def next_wakeup(self) -> float:
        """Return the monotonic second at which to `learn`, infinity if there is nothing."""
        return self._next_lesson() if self._rib.said else NEVER

    def _next_lesson(self) -> float:
        return self._learnt_at + (self._pause_s if self.sets.is_at_rest else LAST_LESSON_S)

    def _protect(self) -> None:
        """Want the chains and sets that configuration, objects and workloads come to."""
        self._is_in_doubt = False
        self.chains.keep_unwanted = self.sets.keep_unwanted = not self.is_policy_known
        configured, local = self._configured, self._local
        translated = self.leads.translate(configured)
        chains, sets = dict(translated.chains), dict(translated.sets)
        if configured.kernel_enabled and self.is_policy_known:
            before = self.protection.compiled
            expected = self.protection.expected(configured.around.node)
            interfaces = {address: self._rib.host.interfaces_with(address) for address in expected}
            own_chains, own_sets = self.protection.wanted(
                local.endpoints, configured.around, interfaces, is_needed=local.has_links, held=self._held
            )
            if self.review.is_called_for and not self.protection.compiled.is_like(before):
                self.review.generation += 1
            self.review.is_called_for = False
            chains, sets = _merged(chains, own_chains), sets | own_sets
        if configured.kernel_enabled:
            asked_chains, asked_sets = self._asked()
            chains, sets = _merged(asked_chains, chains), sets | asked_sets
        _want_all(self.chains, chains)
        _want_all(self.sets, sets)
        self._follow()

    def _asked(self) -> tuple[dict[ChainKey, Rules], dict[str, AddressSet]]:
        """Return the chains and sets of what peers ask for, as far as they may be by now."""
        options = replace(self._configured.around.options, log_group=self.protection.log_group)
        templates = (each.template for each in self._configured.ranges)
        ports = [(peer.listen_port, peer.port) for peer in (*self._configured.peers, *templates)]
        flows, is_settled = self._flowspec.flows, not self._rib.is_deferring
        return flows.wanted(options, ports, self.chains.actual, self.sets.actual, is_settled=is_settled)

    # ── what the kernel answered ─────────────────────────────────────────────

    def chains_read(self, event: ChainsRead, *, is_start: bool) -> None:
        """Take a read-back; `is_start`: what stands is of an earlier life."""
        if self._rib.is_deferring and not self.sets.actual:
            self.leads.adopt(event.sets)
            self.doubt()
        if is_start and self._configured.has_identity:
            others = [owner.blocks for owner in self._configured.owners if owner.name != self._configured.node]
            self._held = members_within(event.sets, itertools.chain.from_iterable(others))
            self.doubt()
        if is_start:
            self._flowspec.flows.found(event.chains)
            self.doubt()
        changed = [f"chain {key}" for key in _changed(self.chains, event.chains)]
        changed += [f"set {name}" for name in _changed(self.sets, event.sets)]
        self.chains.observe_all(event.chains)
        self.sets.observe_all(event.sets)
        if changed:
            named, more = ", ".join(changed[:NAMED]), len(changed[NAMED:]) or None
            self._notes.drifted(len(changed), "changed by somebody else", value=named, others_count=more)
            self.review.generation += 1  # something may have begun meanwhile that nothing allows
        self._follow()

    def chains_written(self, event: ChainsWritten, now: float) -> None:
        """Take note of which chains are as wanted, and which cannot be."""
        self.policy_errors += sum(key.table not in SPARE for key in event.failed)
        self._written(self.chains, event.done, event.failed, "chain", now)
        if any(map(is_of_flows, (*event.done, *event.failed))):
            self._flowspec.written(self.chains.actual, event.failed, now)
            self.doubt()  # they come and go in steps

    def sets_written(self, event: SetsWritten, now: float) -> None:
        """Take note of the same of sets."""
        self.policy_errors += len(event.failed)
        self._written(self.sets, event.done, event.failed, "set", now)
        if self.sets.is_at_rest:
            self._pause_s = min(max(LESSON_S, 2 * (now - self._learnt_at)), LAST_LESSON_S)

    def _written(self, delta: Delta[K, V], done: Sequence[K], failed: Mapping[K, str], word: str, now: float) -> None:
        recovered = [key for key in done if key in delta.refused]
        delta.acknowledge(done)
        self._notes.refused(delta, failed, f"{word}.refused", now, word=word, show=str)
        for key in recovered:
            self._notes.add(f"{word}.recovered", Level.INFO, **{word: str(key)})
        self._follow()

    def _follow(self) -> None:
        """Have links and floating addresses follow what stands in the packet filter."""
        self._guard()
        self.leads.follow()

    def _guard(self) -> None:
        """Have links opened where workloads are protected by now; closed where our hooks cannot be had (rule 1)."""
        if self._is_in_doubt or not self.is_policy_known:
            return
        chains, sets = self.chains, self.protection.compiled.sets
        lost = [k for k in chains.refused if k.table in TABLES and not k.is_ours and k not in chains.actual]
        is_whole = not any(k.table in TABLES and not k.is_of_flows for k in chains.unsettled()) and not any(
            name in sets for name in self.sets.unsettled()
        )
        self._local.guard(is_whole=is_whole, missing=f"no hook in {lost[0]}" if lost else "")

    # ── connections that stand ───────────────────────────────────────────────

    @property
    def is_policy_in_force(self) -> bool:
        """Whether chains and sets are what objects and workloads say, but for what is refused."""
        return not self._is_in_doubt and self.chains.is_at_rest and self.sets.is_at_rest

    @property
    def is_review_due(self) -> bool:
        """Whether connections are to be looked at: what is in force is not what they were let in under."""
        return (
            self.review.reviewed != self.review.generation
            and self._configured.around.is_revoking
            and not (self._configured.has_identity and self._rib.fib.keep_unwanted)  # others have not said who is who
            and bool(self._local.endpoints)
            and self.is_policy_in_force
        )

    def connections_reviewed(self, event: ConnectionsReviewed, _: float) -> None:
        """Take note of what a review has come to."""
        if not event.problem:
            self.review.reviewed = event.generation
        if event.problem != self.review.problem:
            self.review.problem = event.problem
            name = "connections.unreviewed" if event.problem else "connections.reviewed"
            self._notes.add(name, Level.WARNING if event.problem else Level.INFO, reason=event.problem or None)
        if event.revoked or event.restored:
            self._notes.add("connections.revoked", revoked_count=event.revoked, restored_count=event.restored or None)

    # ── what is wrong ────────────────────────────────────────────────────────

    @property
    def rules_in_force(self) -> int:
        """How many rules of ours stand as they are wanted."""
        return sum(len(rules) for key, rules in self.chains.wanted.items() if self.chains.actual.get(key) == rules)

    def why_closed(self) -> str:
        """Return what keeps links closed that are to be opened, "" if it is only a matter of time."""
        if not self.is_policy_known:
            return "which policies are in force is not known"
        refused = [key for key in self.chains.refused if key.table in TABLES and not key.is_of_flows]
        return f"chain {refused[0]}: {self.chains.refused[refused[0]].reason}" if refused else ""

    def unmade(self) -> dict[str, str]:
        """Return which chains, sets and host endpoints cannot be as they are wanted, each with the reason."""
        connections = self.leads.connections
        refused = {key: refusal.reason for key, refusal in self.chains.refused.items() if key.table not in SPARE}
        chains = {f"chain {key}": reason for key, reason in refused.items()}
        sets = {f"set {name}": refusal.reason for name, refusal in self.sets.refused.items()}
        cuts = {f"connections of {each}": refusal.reason for each, refusal in connections.refused.items()}
        unreviewed = {"connections that are no longer allowed": self.review.problem} if self.review.problem else {}
        hosts = self.protection.unplaced if self._configured.kernel_enabled else {}
        return chains | sets | cuts | unreviewed | hosts

    def unguarded(self) -> list[tuple[str, str, str]]:
        """Return (object, field, reason) of a second guard that cannot be had: all else is in force without it."""
        reasons = {key.family: refusal.reason for key, refusal in self.chains.refused.items() if key.table in SPARE}
        return [
            ("[policy]", "workload_to_host", f"no second guard of the host (IPv{family}): {reason}")
            for family, reason in sorted(reasons.items())
        ]

    def unknowable(self) -> list[tuple[str, str, str]]:
        """Return (object, field, reason) of what asks for more than is known here, and of whom others know nothing.

        Where this is the only node there is nothing to be known.
        """
        configured, local = self._configured, self._local
        if {owner.name for owner in configured.owners} == {configured.node}:
            return []
        found = self.protection.unanswered(has_identity=configured.has_identity)
        found += [(f"workload {key}", "", reason) for key, reason in sorted(local.sayings.too_long.items())]
        if configured.has_identity:
            found += [
                (f"workload {key}", "ip", f"{address} is in no block of this node: other nodes know nothing of it")
                for address, key in sorted(local.addresses.in_use().items(), key=lambda row: row[1])
                if key in local.endpoints and not local.addresses.is_covered(address)
            ]
        return found


def _merged(first: Mapping[ChainKey, Rules], other: Mapping[ChainKey, Rules]) -> dict[ChainKey, Rules]:
    """Return both; of a built-in chain in which both have something the first's rules go first."""
    return {**other, **{key: rules + other.get(key, ()) for key, rules in first.items()}}


def _want_all(delta: Delta[K, V], wanted: Mapping[K, V]) -> None:
    """Want exactly these."""
    for key in delta.wanted.keys() - wanted.keys():
        delta.want(key, None)
    for key, value in wanted.items():
        if delta.wanted.get(key) != value:
            delta.want(key, value)


def _changed(delta: Delta[K, V], found: Mapping[K, V]) -> list[K]:
    """Return what was as wanted, by what we knew, and is not by what was found."""
    known = delta.actual
    return [key for key, value in delta.wanted.items() if known.get(key) == value and found.get(key) != value]
