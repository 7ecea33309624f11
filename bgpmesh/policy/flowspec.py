"""The flows of all peers: which are in force, in which order, and for how long (RFC 8955, RFC 8956).

`flowchain` makes rules of them.

Rules:
 1. Whom the file names for it is believed: there is no check against unicast routes (RFC 8955 §6 lets configuration
    switch it off), no import filter, and flows are passed on to nobody.
 2. Of a peer so many are in force at a time, first come. Of those that are not, 1,000 are remembered.
 3. A flow that is not announced again in time leaves the chain; announced again, it comes back, as a newcomer.
 4. Of equal flows of several peers one counts: of the higher local preference, then the shorter path, then by name.
 5. What one flow needs and this kernel has not is that flow's matter. Chains of flows are written apart from all others
    (`ChainKey.is_of_flows`), led to once they stand, and left before they go. Where they are refused, those that the
    kernel has not taken before are tried one by one.
 6. What stands at a start stays until this node is in sync, so that a restart lets nothing through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bgpmesh.policy.attribution import Cause
from bgpmesh.policy.chains import FLOWS_CHAIN, AddressSet, ChainKey, Rules, name_hash
from bgpmesh.policy.explain import Step
from bgpmesh.policy.flowchain import HOOK, JUMP, TABLE, FlowRule, Rendered, flows_set, guarded, is_led, render, walked
from bgpmesh.policy.flowmatch import NOTHING, Doing, Unfit, doing, matches
from bgpmesh.policy.form import FAMILIES
from bgpmesh.policy.iptables import Options
from bgpmesh.policy.model import Packet
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.flow import Flow, FlowKey, Rank, rank
from bgpmesh.route.nlri import Family, IPAddress
from bgpmesh.route.path import PeerName

REMEMBERED = 1000  # flows of a peer that are not in force
RETRY_S = 60.0  # what the packet filter has refused is tried again
NEVER = float("inf")
STATES = ("in force", "pending", "refused", "expired")


class Said(NamedTuple):
    """Something worth telling people: the name and the keys of a note."""

    name: str
    keys: Mapping[str, object]
    is_warning: bool = False


@dataclass(slots=True, eq=False)
class Entry:
    """A flow that a peer announces."""

    peer: PeerName
    number: int  # of the peer's flows, as they came: what people call it by
    flow: Flow
    rank: Rank
    attributes: PathAttributes
    heard_at: float = 0.0
    expires_at: float = NEVER
    doing: Doing = NOTHING
    lines: tuple[str, ...] = ()
    problem: str = ""  # why it cannot be in force
    retry_at: float = NEVER  # where that is the packet filter's
    is_in_force: bool = False  # it has its place among those that may be
    is_over: bool = False  # there was no room for it
    is_expired: bool = False
    is_stale: bool = False  # not announced since its session was lost
    is_proven: bool = False  # the packet filter has taken it as it is
    equal_of: PeerName | None = None  # whose equal flow counts instead

    @property
    def name(self) -> str:
        """Whom people hold to account, as they do a policy."""
        return f"flowspec {self.peer}"

    @property
    def is_waiting(self) -> bool:
        """Whether only room is missing."""
        return not (self.is_in_force or self.problem or self.is_expired)

    @property
    def place(self) -> tuple[Rank, bytes, int, int, PeerName]:
        """The order of flows of one family; of those with the same NLRI the first counts."""
        preference, path = self.attributes.local_pref, self.attributes.as_path
        return self.rank, self.flow.key.nlri, -(100 if preference is None else preference), path.length, self.peer

    @property
    def rule(self) -> FlowRule:
        """What is made of it."""
        key = f"{self.peer} {self.flow.key.family.label} {self.flow.key.nlri.hex()}"
        return FlowRule(self.name, self.number, self.flow, self.doing, self.lines, name_hash(key))

    def fit(self, refusal: str) -> None:
        """Know what is to be done, or why nothing can be."""
        before, self.problem, self.retry_at = (self.doing, self.lines), refusal, NEVER
        try:
            self.doing = doing(self.attributes)
            self.lines = self.lines or matches(self.flow)
        except Unfit as reason:
            self.problem = self.problem or str(reason)
        self.is_proven = self.is_proven and before == (self.doing, self.lines)
        if self.problem:
            self.is_in_force = self.is_over = self.is_expired = False


class Listed(NamedTuple):
    """A flow, what has become of it, one of STATES, and why."""

    entry: Entry
    state: str
    reason: str


@dataclass(slots=True)
class _OfPeer:
    """What one peer announces, in the order in which it came."""

    rules: int = 0
    ttl: int = 0
    entries: dict[FlowKey, Entry] = field(default_factory=dict)
    last: int = 0
    forgotten: int = 0  # that are not in force, and not remembered


class Flows:
    """Every flow that is announced to this node."""

    def __init__(self) -> None:
        self.refused: Counter[PeerName] = Counter()  # how often one was, by peer
        self.causes: Mapping[ChainKey, tuple[Cause | None, ...]] = {}  # of each rule; another object when they change
        self._rendered: dict[int, Rendered] = {}  # by family: what is wanted
        self._asked: dict[int, tuple[Entry, ...]] = {}  # by family: the flows in that
        self._peers: dict[PeerName, _OfPeer] = {}
        self._held: dict[ChainKey, Rules] = {}  # found at start (rule 6)
        self._on_trial: set[int] = set()  # families in which flows are tried one by one (rule 5)
        self._options = Options()
        self._made: dict[int, tuple[object, Rendered, tuple[Entry, ...]]] = {}  # by family: from what, and what that is
        self._version = self._wanted_version = 0
        self._due: float | None = None  # None: to be looked for

    # ── what peers say ───────────────────────────────────────────────────────

    def take(
        self,
        peer: PeerName,
        attributes: PathAttributes | None,
        announced: Iterable[Flow],
        withdrawn: Iterable[FlowKey],
        now: float,
        *,
        refusal: str = "",
    ) -> list[Said]:
        """Take in one UPDATE; a flow that is both withdrawn and announced is announced.

        `refusal`: why nothing that has these attributes is believed.
        """
        own = self._peers[peer]
        gone = [own.entries.pop(key) for key in withdrawn if key in own.entries]
        said = _told("flow.withdrawn", [entry for entry in gone if entry.is_in_force])
        refused: list[Entry] = []
        for flow in announced if attributes is not None else ():
            assert attributes is not None
            entry = self._hear(own, peer, flow, attributes, now)
            before = entry.problem
            entry.fit(refusal)
            if entry.problem and entry.problem != before:
                refused.append(entry)
        self.refused[peer] += len(refused)
        said += _told("flow.refused", refused, is_warning=True)
        said += self._settle(peer)
        return said

    def peer_up(self, peer: PeerName, keep: Collection[Family], rules: int, ttl: int) -> list[Said]:
        """Begin a session: stale flows of `keep` stay, other stale ones go.

        So many of its flows may be in force, and one that is not announced again goes after `ttl` seconds (0: never).
        """
        own = self._peers.setdefault(peer, _OfPeer())
        own.rules, own.ttl = rules, ttl
        return self._drop(peer, lambda entry: entry.is_stale and entry.flow.key.family not in keep, "a new session")

    def limit(self, peer: PeerName, rules: int, ttl: int) -> list[Said]:
        """Take other limits for a peer: where there is less room, what came last is in force no longer."""
        own = self._peers.get(peer)
        if own is None:
            return []
        own.rules, own.ttl = rules, ttl
        entries = own.entries.values()
        for entry in [each for each in entries if each.is_in_force][rules:]:
            entry.is_in_force = False
        for entry in entries:
            entry.expires_at = entry.heard_at + ttl if ttl else NEVER
        return self._settle(peer)

    def peer_down(self, peer: PeerName, retain: Collection[Family]) -> list[Said]:
        """End a session: flows of `retain` become stale and stay in force, the others go."""
        said = self._drop(peer, lambda entry: entry.flow.key.family not in retain, "the session is lost")
        for entry in self._of(peer):
            entry.is_stale = True
        return said

    def mark_stale(self, peer: PeerName, family: Family) -> None:
        """Let all flows of a family be stale, and in force, until they are announced again (RFC 7313 §4)."""
        for entry in self._of(peer):
            entry.is_stale = entry.is_stale or entry.flow.key.family is family

    def sweep(self, peer: PeerName, families: Collection[Family]) -> list[Said]:
        """Drop what is still stale of these families: the peer said End-of-RIB, or its time is up."""
        return self._drop(peer, lambda entry: entry.is_stale and entry.flow.key.family in families, "it was stale")

    def forget(self, peer: PeerName) -> None:
        """Remember nothing of a peer that has no flow any more."""
        self._peers.pop(peer, None)
        self.refused.pop(peer, None)

    # ── time ─────────────────────────────────────────────────────────────────

    def next_due(self) -> float:
        """Return the monotonic second at which `tick` has something to do, infinity if never."""
        if self._due is None:
            times = [each.expires_at for each in self._all() if not each.problem and not each.is_expired]
            self._due = min([*times, *(each.retry_at for each in self._all())], default=NEVER)
        return self._due

    def tick(self, now: float) -> list[Said]:
        """Take out what is not announced any more, and try again what the packet filter has refused."""
        if self.next_due() > now:
            return []
        over = [each for each in self._all() if each.expires_at <= now and not each.problem and not each.is_expired]
        said = _told("flow.expired", [entry for entry in over if entry.is_in_force], is_warning=True)
        for entry in over:
            entry.is_expired, entry.is_in_force, entry.is_over = True, False, False
        for entry in self._all():
            if entry.retry_at <= now:
                entry.problem, entry.retry_at = "", NEVER
        for peer in self._peers:
            said += self._settle(peer)
        return said

    # ── the packet filter ────────────────────────────────────────────────────

    def is_due(self, *, is_settled: bool) -> bool:
        """Tell whether `wanted` may have another answer than it had, but for what is in the packet filter."""
        return self._version != self._wanted_version or (is_settled and bool(self._held))

    def found(self, chains: Mapping[ChainKey, Rules]) -> None:
        """Hear what an earlier life has left (rule 6): of families in which packets are led there, not by this one."""
        ours = {family for family, rendered in self._rendered.items() if rendered.chains}
        led = {family for family in FAMILIES if family not in ours and is_led(family, chains)}
        self._held = {key: rules for key, rules in chains.items() if key.is_of_flows and key.family in led}

    def wanted(
        self,
        options: Options,
        ports: Iterable[tuple[int, int]],
        actual: Mapping[ChainKey, Rules],
        sets: Mapping[str, AddressSet],
        *,
        is_settled: bool,
    ) -> tuple[dict[ChainKey, Rules], dict[str, AddressSet]]:
        """Return the chains and sets that are the next step from what there is to what is to be (rule 5).

        `ports`: on which this node listens, and on which a peer does, for each peer. `is_settled`: it is in sync.
        """
        self._options, self._wanted_version = guarded(options, ports), self._version
        self._held = {} if is_settled else {key: r for key, r in self._held.items() if actual.get(key) == r}
        chains: dict[ChainKey, Rules] = {}
        kept: dict[str, AddressSet] = {}
        for family in FAMILIES:
            is_held = any(key.family == family for key in self._held)
            rendered, asked = (Rendered(), ()) if is_held else self._render(family)
            self._rendered[family], self._asked[family] = rendered, asked
            name = flows_set(family)
            if rendered.chains:
                chains |= rendered.chains
                kept[name] = AddressSet(family, rendered.about)
            elif is_held or is_led(family, actual):
                chains |= {key: r for key, r in actual.items() if key.is_of_flows and key.family == family}
                kept |= {name: sets[name]} if name in sets else {}
            if ChainKey(family, TABLE, FLOWS_CHAIN) in actual and (rendered.chains or is_held):
                chains[ChainKey(family, TABLE, HOOK)] = JUMP
        causes = {key: own for each in self._rendered.values() for key, own in each.causes.items()}
        self.causes = self.causes if causes == self.causes else causes
        return chains, kept

    def written(self, actual: Mapping[ChainKey, Rules], failed: Mapping[ChainKey, str], now: float) -> list[Said]:
        """Hear how chains are now, and what was refused; find out which flow is to blame (rule 5)."""
        said: list[Said] = []
        for family, rendered in self._rendered.items():
            unproven = [entry for entry in self._asked[family] if not entry.is_proven]
            reason = next((why for key, why in failed.items() if key.is_of_flows and key.family == family), None)
            if reason is None:
                if unproven and rendered.stands(actual):
                    for entry in unproven:
                        entry.is_proven = True
                    if family in self._on_trial:
                        self._changed()  # for the next one
            elif len(unproven) == 1 or (unproven and family in self._on_trial):
                entry = unproven[0]
                entry.problem, entry.retry_at = f"the packet filter refuses it: {reason}", now + RETRY_S
                entry.is_in_force = False
                self.refused[entry.peer] += 1
                said += _told("flow.refused", [entry], is_warning=True) + self._settle(entry.peer)
            elif unproven:
                self._on_trial.add(family)
                self._changed()
            if all(entry.is_proven for entry in self._counting(family)):
                self._on_trial.discard(family)
        return said

    # ── what people ask ──────────────────────────────────────────────────────

    def left_out(self) -> list[tuple[str, str, str]]:
        """Return (object, field, reason) for each peer of which flows are not in force: how many, and why the first."""
        found: list[tuple[str, str, str]] = []
        for _, own in sorted(self._peers.items()):
            idle = [each for each in own.entries.values() if not each.is_in_force]
            if idle:
                reason = self._state(idle[0], is_there=False)[1]
                others = f", {len(idle) + own.forgotten - 1} more" if len(idle) + own.forgotten > 1 else ""
                found.append((idle[0].name, f"rule {idle[0].number}", f"not in force: {reason}{others}"))
        return found

    def listing(self, actual: Mapping[ChainKey, Rules]) -> list[Listed]:
        """Return every flow that is remembered: by family, in the order in which they are or would be asked."""
        there: set[Entry] = set()
        for family in FAMILIES:
            self._counting(family)
            rendered = self._rendered.get(family, Rendered())
            if rendered.stands(actual) and is_led(family, actual):
                there.update(self._asked.get(family, ()))
        placed = sorted(self._all(), key=lambda entry: (entry.flow.version, entry.place))
        return [Listed(entry, *self._state(entry, is_there=entry in there)) for entry in placed]

    def forgotten(self) -> dict[PeerName, int]:
        """Return how many flows of each peer are neither in force nor remembered."""
        return {peer: own.forgotten for peer, own in self._peers.items() if own.forgotten}

    def _state(self, entry: Entry, *, is_there: bool) -> tuple[str, str]:
        if entry.problem:
            return "refused", entry.problem
        if entry.is_expired:
            return "expired", f"not announced again within {self._peers[entry.peer].ttl} s"
        if not entry.is_in_force:
            return "refused", f"the limit of {self._peers[entry.peer].rules} flows is reached"
        if entry.equal_of is not None:
            return "refused", f"the same flow of {entry.equal_of} counts"
        return ("in force" if is_there else "pending"), entry.doing.remark

    def explain(self, packet: Packet, own: Collection[IPAddress], node: str) -> tuple[list[Step], list[str]]:
        """Return the steps of a packet through the flows, and what of it is not known; `own`: this host's addresses."""
        rules = self._rendered.get(packet.family, Rendered()).rules
        return walked(rules, packet, own, node, self._options)

    # ── inside ───────────────────────────────────────────────────────────────

    def _all(self) -> Iterator[Entry]:
        for own in self._peers.values():
            yield from own.entries.values()

    def _of(self, peer: PeerName) -> Iterable[Entry]:
        return self._peers[peer].entries.values() if peer in self._peers else ()

    def _changed(self) -> None:
        self._version += 1
        self._due = None

    @staticmethod
    def _hear(own: _OfPeer, peer: PeerName, flow: Flow, attributes: PathAttributes, now: float) -> Entry:
        """Return the entry of a flow that is announced; its time begins anew."""
        entry = own.entries.get(flow.key)
        if entry is None:
            own.last += 1
            entry = own.entries[flow.key] = Entry(peer, own.last, flow, rank(flow), attributes)
        elif entry.is_expired:
            own.entries[flow.key] = own.entries.pop(flow.key)  # a newcomer (rule 3)
        entry.attributes, entry.heard_at, entry.expires_at = attributes, now, now + own.ttl if own.ttl else NEVER
        entry.is_expired = entry.is_stale = False
        return entry

    def _settle(self, peer: PeerName) -> list[Said]:
        """Put flows in force while there is room, those first that came first; forget what is too much."""
        own = self._peers[peer]
        room = max(own.rules - sum(entry.is_in_force for entry in own.entries.values()), 0)
        waiting = [entry for entry in own.entries.values() if entry.is_waiting]
        taken, left = waiting[:room], [entry for entry in waiting[room:] if not entry.is_over]
        for entry in taken:
            entry.is_in_force, entry.is_over = True, False
        for entry in left:
            entry.is_over = True
        self.refused[peer] += len(left)
        said = _told("flow.taken", taken)
        said += _told("flow.refused", left, is_warning=True, reason=f"the limit of {own.rules} flows is reached")
        idle = [key for key, entry in own.entries.items() if not entry.is_in_force]
        for key in idle[REMEMBERED:]:
            del own.entries[key]
            own.forgotten += 1
        self._changed()
        return said

    def _drop(self, peer: PeerName, is_gone: Callable[[Entry], bool], reason: str) -> list[Said]:
        """Forget some flows of a peer."""
        gone = [entry for entry in self._of(peer) if is_gone(entry)]
        if not gone:
            return []
        own = self._peers[peer]
        for entry in gone:
            del own.entries[entry.flow.key]
        said = _told("flow.withdrawn", [entry for entry in gone if entry.is_in_force], reason=reason)
        return said + self._settle(peer)

    def _counting(self, family: int) -> list[Entry]:
        """Return the flows of a family that are to be asked, in order; of equal ones know which counts (rule 4)."""
        found: list[Entry] = []
        placed = sorted((e for e in self._all() if e.flow.version == family and e.is_in_force), key=lambda e: e.place)
        for entry in placed:
            entry.equal_of = found[-1].peer if found and found[-1].flow.key == entry.flow.key else None
            if entry.equal_of is None:
                found.append(entry)
        return found

    def _render(self, family: int) -> tuple[Rendered, tuple[Entry, ...]]:
        """Return the chains of a family and the flows in them; those of the last time where nothing has changed."""
        said = (self._version, self._options)
        before, rendered, asked = self._made.get(family, (None, Rendered(), ()))
        if before != said:
            asked = tuple(self._counting(family))
            if family in self._on_trial:
                unproven = [entry for entry in asked if not entry.is_proven]
                asked = tuple(entry for entry in asked if entry.is_proven or entry is unproven[0])
            made = render(family, (entry.rule for entry in asked), self._options)
            # What is equal is the same object, as of all rules.
            were = rendered.chains
            rendered = replace(made, chains={k: were[k] if were.get(k) == r else r for k, r in made.chains.items()})
            self._made[family] = said, rendered, asked
        return rendered, asked


def _told(name: str, entries: list[Entry], *, is_warning: bool = False, reason: str = "") -> list[Said]:
    """Tell of the first of several flows, and how many others there are."""
    if not entries:
        return []
    first = entries[0]
    keys = {
        "peer": first.peer,
        "value": f"{first.flow}: {first.doing}",
        "reason": reason or first.problem or None,
        "others_count": len(entries) - 1 or None,
    }
    return [Said(name, keys, is_warning)]
