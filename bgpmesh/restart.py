"""When this node is in sync: whom it waits for before, after a restart, and what ends the waiting (RFC 4724 §4.1).

At the first read-back of the kernel (`boot`) it is known whether this node restarted: peers are on the list of those
whose paths the node holds, or programs had announced something, *and* routes of ours are in the kernel, or it is known
that there were none (`LastLife`). Then it sets the R bit, calls every listed peer at once, holds what it found, and
selects among learnt paths, sweeps and sends End-of-RIB only once in sync. Own prefixes never wait. A peer that was
listed is waited for until one of these:

 * it has said End-of-RIB for every family;
 * it owes none, and has been silent for a while: a second, or three where it restarts itself and may be waiting for us;
 * it has refused or ignored our calls for three seconds, one of them since it last let us in; not while it may have
   answered and nobody has looked, as where thousands are called at once;
 * it is not to be heard: it was taken out of the configuration, or sent too much.

Who is never called, the speakers of ranges, has until the limit; and where it is not known who was listed, so has every
range.

So is each program whose prefixes this node had announced (`[process.*]`), until it has spoken of as many as there were,
has ended, or is not configured any more: what peers hold of an earlier life as stale goes with our End-of-RIB. Where it
is not known how many there were, each program is waited for until its first word.

All of it ends at the limit, `restart_deferral` seconds after the start. Who comes so late that the process did not run
meanwhile (a frozen container, a machine that is moved) looks once more before anybody is given up. A node that returns
into service waits in the same way for everybody, and is in sync meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from bgpmesh.agenda import NEVER
from bgpmesh.events import Configured, Level
from bgpmesh.frozen import frozen
from bgpmesh.notes import Notes
from bgpmesh.peering.connection import State
from bgpmesh.peering.message import Negotiated
from bgpmesh.peering.offer import LocalRestart
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.session import Session
from bgpmesh.route.nlri import Family, Nlri
from bgpmesh.route.path import PeerName

# A listed peer that refuses or ignores our calls this long is not waited for after a restart.
NO_ANSWER_S = 3.0
# The OPEN of one that takes our call may come so long after that.
OPEN_S = 1.0
# Who is asked so late whether anybody is waited for has not run meanwhile.
LATE_S = 1.0
# A peer that owes no End-of-RIB has said all it had after this long without an UPDATE.
QUIET_S = 1.0
# The same for one that restarts itself (FRR says so for minutes after its start, and holds back its first UPDATE).
RESTARTING_QUIET_S = 3.0


@frozen
class LastLife:
    """What is known of the daemon's last life on this node, but for whose paths it held.

    `is_bare`: it ran in this very network stack and had no route in it, so that none is missing now.
    `announced`: how many prefixes each program had it announce; None where that is not known.
    """

    is_bare: bool = False
    announced: Mapping[str, int] | None = None


UNKNOWN = LastLife()


@dataclass(slots=True)
class _Words:
    """What we still expect of one program."""

    count: int  # of prefixes that it had announced
    spoken: set[Nlri] = field(default_factory=set)  # of


@dataclass(slots=True)
class _Wait:
    """What we still expect of one peer."""

    last_update: float
    missing: set[Family] = field(default_factory=set)  # families without End-of-RIB, once its session is established
    quiet_s: float = NEVER  # so long without an UPDATE stands for the End-of-RIB that it owes
    answer_until: float = 0.0  # a connection stands, and its OPEN may take so long


class Restart:
    """Whether this node is in sync, and who keeps it from that; `sessions` are this node's, as they are at any time.

    `listed` are the peers whose paths the node held when it last ran, None where that is not known; `last` is what else
    is known of then. Whoever is not awaited may be spoken of all the same: nothing happens.
    """

    def __init__(
        self,
        listed: frozenset[PeerName] | None,
        last: LastLife,
        sessions: Mapping[PeerName, Session],
        notes: Notes,
    ) -> None:
        self.local = LocalRestart()
        self.is_in_sync = False
        self.is_returning = False  # into service: in sync, and waiting all the same
        self._listed, self._last = listed, last
        self._sessions = sessions
        self._notes = notes
        self._booted_at: float | None = None
        self._is_waiting = False  # booted, and somebody may be waited for
        self._limit = NEVER  # the second at which all waiting ends
        self._look_at = 0.0  # for nobody it ends before that, but by a word: looking costs as much as there are peers
        self._waits: dict[PeerName, _Wait] = {}
        self._ranges: tuple[PeerName, ...] = ()  # whose speakers, and how many, nobody knows
        self._processes: dict[str, _Words] = {}

    @property
    def is_booted(self) -> bool:
        """Whether the kernel was read back, and so whether sessions have begun."""
        return self._booted_at is not None

    @property
    def names(self) -> Collection[PeerName]:
        """The peers that are waited for (to read)."""
        return self._waits.keys()

    @property
    def announced(self) -> dict[str, int]:
        """How many prefixes programs had announced that are still waited for."""
        return {name: words.count for name, words in self._processes.items()}

    def boot(
        self, configured: Configured, ranges: tuple[PeerName, ...], now: float, *, has_routes: bool, is_closed: bool
    ) -> frozenset[PeerName] | None:
        """Know the kernel; return whose paths are held where this is a restart, None where it is a first boot.

        Speakers of ranges are waited for where it is not known who they were. A closed node waits for nobody.
        """
        self._booted_at, self._is_waiting = now, True
        routes_are_known = has_routes or self._last.is_bare
        is_unknown = self._listed is None and routes_are_known
        listed = frozenset(self._sessions) if is_unknown else (self._listed or frozenset())
        ranges = ranges if is_unknown else ()
        counts = dict.fromkeys(configured.processes, 1) if self._last.announced is None else self._last.announced
        announced = {name: count for name in configured.processes if (count := counts.get(name, 0))}
        had_spoken = self._last.announced is not None and bool(announced)
        is_restart = bool(listed or ranges or had_spoken) and (routes_are_known or not configured.kernel_enabled)
        self.local.is_forwarding_kept = is_restart or not configured.kernel_enabled
        if is_restart and not is_closed:
            self.local.is_restarting = True
            self._limit = now + configured.restart_deferral
            self._ranges = ranges
            self._processes = {name: _Words(count) for name, count in announced.items()}
        return listed if is_restart else None

    def begin(self, names: Iterable[PeerName], now: float) -> None:
        """Wait for these peers, as a restart."""
        for name in names:
            self.add(name, now)
        self._notes.add("restart.began", peer=",".join(self.names) or None)

    def begin_return(self, configured: Configured, ranges: tuple[PeerName, ...], now: float) -> None:
        """Wait for what everybody has to say, as after a restart: nobody has a session yet."""
        self.is_returning = self._is_waiting = True
        self._limit = min(self._limit, now + configured.restart_deferral)
        self._ranges = ranges
        for name in self._sessions:
            self.add(name, now)

    def add(self, name: PeerName, now: float) -> None:
        """Wait for a peer from its beginning."""
        self._waits[name] = _Wait(now)

    def configure(self, configured: Configured) -> None:
        """Wait no longer for ranges and programs that are not configured any more."""
        ranges = {each.name for each in configured.ranges}
        self._ranges = tuple(name for name in self._ranges if name in ranges)
        for name in self._processes.keys() - set(configured.processes):
            del self._processes[name]

    def discard(self, name: PeerName) -> None:
        """Wait no longer for a peer that is not to be heard."""
        self._waits.pop(name, None)

    def close(self) -> None:
        """Wait for no peer any longer, as the node talks to none."""
        self._waits.clear()
        self._ranges = ()

    def connected(self, name: PeerName, now: float) -> None:
        """Note that a connection stands: its OPEN comes after it."""
        if (wait := self._waits.get(name)) is not None:
            wait.answer_until = now + OPEN_S

    def established(self, peer: Peer, negotiated: Negotiated, now: float) -> None:
        """Know what the peer's new session owes us."""
        if (wait := self._waits.get(peer.name)) is not None:
            wait.last_update = now
            wait.missing, wait.quiet_s = _owed(peer, negotiated)

    def updated(self, name: PeerName, now: float) -> None:
        """Note an UPDATE: the peer is not silent."""
        if (wait := self._waits.get(name)) is not None:
            wait.last_update = now

    def end_of_rib(self, name: PeerName, family: Family, now: float) -> None:
        """Note an End-of-RIB; the last one owed ends the waiting, and one that is not owed is an UPDATE like others."""
        if (wait := self._waits.get(name)) is not None:
            wait.last_update = now
            if family in wait.missing:
                wait.missing.discard(family)
                if not wait.missing:
                    del self._waits[name]

    def process_spoke(self, name: str, nlris: Iterable[Nlri]) -> None:
        """Note of which prefixes a program speaks, whatever it says; the last one owed ends the waiting."""
        if (words := self._processes.get(name)) is not None:
            words.spoken.update(nlris)
            if len(words.spoken) >= words.count:
                del self._processes[name]

    def process_ended(self, name: str) -> None:
        """Wait no longer for a program that has ended."""
        self._processes.pop(name, None)

    def ends(self, now: float, unheard: Collection[int] = ()) -> bool:
        """Tell whether the waiting is over with this: this node is in sync from now on, and nobody is awaited.

        The silence of connections whose input is `unheard` does not count.
        """
        if not self._is_waiting or self._is_anybody_left(now, unheard):
            return False
        if left := {name: reason for name, reason in self.reasons().items() if name in self._waits}:
            name = "drain.gave-up-waiting" if self.is_in_sync else "restart.gave-up-waiting"
            self._notes.add(name, Level.WARNING, peer=",".join(left), reason=str(left))
        if self.local.is_restarting and self._booted_at is not None:
            self._notes.add("restart.in-sync", waited_s=now - self._booted_at)
        self._waits.clear()
        self._ranges = ()
        self._processes.clear()
        self._limit, self.is_returning, self._is_waiting = NEVER, False, False
        self.is_in_sync, self.local.is_restarting = True, False
        return True

    def _is_anybody_left(self, now: float, unheard: Collection[int]) -> bool:
        if now >= min(self._look_at, self._limit):
            over = self._over(now)
            if now >= min([self._limit, *over.values()]) + LATE_S:
                self._excuse(now)
                over = self._over(now)
            for name in over:
                if not self._sessions[name].is_unheard(unheard):
                    del self._waits[name]
            self._look_at = min(self.next_check(), now + min(QUIET_S, OPEN_S))  # whatever happens takes no less
        return bool(self._waits or self._ranges or self._processes) and now < self._limit

    def _over(self, now: float) -> dict[PeerName, float]:
        """Return the peers for whom the waiting is over, each with the second at which that was so."""
        return {name: until for name, wait in self._waits.items() if (until := self._until(name, wait)) <= now}

    def next_check(self) -> float:
        """Return the second at which the waiting may end though nothing happens."""
        if not self._is_waiting:
            return NEVER
        return min([self._limit, *(self._until(name, wait) for name, wait in self._waits.items())])

    def _excuse(self, now: float) -> None:
        """Give up nobody for a silence in which we did not run."""
        if now >= self._limit + LATE_S:
            self._limit = now + OPEN_S
        for wait in self._waits.values():
            wait.last_update, wait.answer_until = now, now + OPEN_S

    def reasons(self) -> dict[PeerName, str]:
        """Return who is waited for, each with the reason."""
        reasons = dict.fromkeys(self._ranges, "it is not known who of them was here")
        for process, words in sorted(self._processes.items()):
            left = f"{words.count - len(words.spoken)} of {words.count} prefixes are not said again yet"
            reasons[PeerName(f"process {process}")] = left if words.spoken else "it has said nothing yet"
        for name, wait in self._waits.items():
            session = self._sessions[name]
            if session.state is not State.ESTABLISHED:
                reasons[name] = (
                    f"{session.state.value}: {session.last_error}" if session.last_error else "no session yet"
                )
            elif wait.missing:
                reasons[name] = "no End-of-RIB yet for " + ", ".join(sorted(f.label for f in wait.missing))
            else:
                reasons[name] = f"an UPDATE came less than {wait.quiet_s:g} s ago"
        return reasons

    def _until(self, name: PeerName, wait: _Wait) -> float:
        """Return the second at which a peer is not waited for any longer, as things stand."""
        session = self._sessions[name]
        if session.state is State.ESTABLISHED:
            return wait.last_update + wait.quiet_s
        if session.called_since is None:
            return NEVER
        return max(session.called_since + NO_ANSWER_S, wait.answer_until)


def _owed(peer: Peer, negotiated: Negotiated) -> tuple[set[Family], float]:
    """Return the families whose End-of-RIB a peer owes us, and the seconds of silence that stand for it.

    Where either side did not offer capability 64 it owes none. One that restarts itself may be waiting for
    us (RFC 4724 §4.1), so its silence counts too; but not that of our reflector: what it knows of other
    nodes comes once it is in sync, for which it waits for nothing of ours but silence.
    """
    restart = negotiated.received.capabilities.graceful_restart
    if restart is None or not negotiated.is_graceful:
        return set(), QUIET_S
    is_waiting_too = restart.is_restarting and not peer.reflects_to_us
    return set(negotiated.families), RESTARTING_QUIET_S if is_waiting_too else NEVER
