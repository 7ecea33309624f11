"""What peers ask of packets by FlowSpec, over the lives of their sessions; `packets` has it in force.

The table itself, and what may not happen in it, is `policy/flowspec.py`. Here sessions and timers reach it, and what
it has to say becomes notes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from bgpmesh.events import FlowsReceived, Level
from bgpmesh.notes import Notes
from bgpmesh.peering.peer import Peer
from bgpmesh.policy.chains import ChainKey, Rules
from bgpmesh.policy.flowspec import Flows, Said
from bgpmesh.route.nlri import Family
from bgpmesh.route.path import PeerName


class Flowspec:
    """The flows of all peers, told of like the RIB."""

    def __init__(self, notes: Notes) -> None:
        self.flows = Flows()
        self._notes = notes

    def peer_up(self, peer: Peer, keep: Collection[Family]) -> None:
        """Begin a session: stale flows of `keep` stay for now."""
        if (limit := peer.flowspec) is not None:
            self._tell(self.flows.peer_up(peer.name, keep, limit.rules, limit.ttl))

    def limit(self, peer: Peer) -> None:
        """Take other limits for what is and will be announced in a session."""
        if (limit := peer.flowspec) is not None:
            self._tell(self.flows.limit(peer.name, limit.rules, limit.ttl))

    def peer_down(self, name: PeerName, retain: Collection[Family]) -> None:
        """End a session: its flows of `retain` become stale, the others go."""
        self._tell(self.flows.peer_down(name, retain))

    def mark_stale(self, name: PeerName, family: Family) -> None:
        """Let all flows of a family be stale until they are announced again."""
        self.flows.mark_stale(name, family)

    def sweep(self, name: PeerName, families: Collection[Family]) -> None:
        """Drop what is still stale of these families."""
        self._tell(self.flows.sweep(name, families))

    def forget(self, name: PeerName) -> None:
        """Remember nothing of a peer that has no flow any more."""
        self.flows.forget(name)

    def received(self, name: PeerName, event: FlowsReceived, refusal: str, now: float) -> None:
        """Take in an UPDATE of an established peer; `refusal`: why its attributes are not believed."""
        said = self.flows.take(name, event.attributes, event.announced, event.withdrawn, now, refusal=refusal)
        self._tell(said)

    def written(self, actual: Mapping[ChainKey, Rules], failed: Mapping[ChainKey, str], now: float) -> None:
        """Hear what has become of the chains."""
        self._tell(self.flows.written(actual, failed, now))

    def tick(self, now: float) -> None:
        """Do what is due: flows whose time is up, and those to be tried again."""
        self._tell(self.flows.tick(now))

    def next_wakeup(self) -> float:
        """Return the monotonic second at which `tick` has something to do, infinity if never."""
        return self.flows.next_due()

    def _tell(self, said: Iterable[Said]) -> None:
        for name, keys, is_warning in said:
            self._notes.add(name, Level.WARNING if is_warning else Level.INFO, **keys)
