"""What this node has on disk and what it should have there, but for the objects of packet policy (`keeper.py`).

What is found at a start is what the engine begins with. From then on each turn ends with a look at what has changed: it
is on disk before an edge acts on it. What the disk refuses is tried again, and is a problem meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping

from bgpmesh import log
from bgpmesh.engine import Engine
from bgpmesh.events import DrainChanged
from bgpmesh.keeper import Keeper
from bgpmesh.restart import UNKNOWN, LastLife
from bgpmesh.rib.drain import Drain
from bgpmesh.route.nlri import IPAddress
from bgpmesh.route.path import PeerName
from bgpmesh.state import KeptConfig, Marks, State
from bgpmesh.workload.endpoint import Endpoint
from bgpmesh.workload.floating import FloatingIp

# What the disk refused to keep is tried again after this.
SAVE_AGAIN_S = 1.0


class Saved:
    """The documents of one node, as they were read at first and as they were written last.

    `kept` is the configuration in force, `network` the name of the network stack ("": it has none), `marks` are those
    of our routes. `problems` tells what cannot be kept on disk, by the document.
    """

    def __init__(self, state: State, kept: KeptConfig, network: str = "", marks: Marks | None = None) -> None:
        self.problems: dict[str, str] = {}
        self._state = state
        self._kept, self._network, self._marks = kept, network, marks
        self._save_at = 0.0  # not before: the disk has refused
        peers, last, next_hops = state.peers(), state.last_life(network), state.next_hops()
        marked = state.kernel()
        neighbours = state.neighbours()
        endpoints, floating, drain = state.endpoints(), state.floating_ips(), state.drain()
        unread = {
            "peers": peers.problem,
            "last_life": last.problem,
            "kernel": marked.problem,
            "next_hops": next_hops.problem,
            "neighbours": neighbours.problem,
            "endpoints": endpoints.problem,
            "floating_ips": floating.problem,
            "drain": drain.problem,
        }
        for name, problem in unread.items():
            if problem:
                log.warning("state.unreadable", file=name, reason=problem)
        # None: nobody knows whose paths are held.
        self.peers = None if peers.value is None else frozenset(map(PeerName, peers.value))
        self.last = last.value or UNKNOWN
        self._life: LastLife | None = None  # nothing of this life is written
        self.marked = marked.value  # as routes of ours are until now; None: there are none, or nobody knows
        self.next_hops: frozenset[IPAddress] = frozenset(next_hops.value or ())
        self.neighbours = self._neighbours = neighbours.value or {}
        self.has_endpoints = endpoints.value is not None  # or links have to tell them
        self.endpoints: Mapping[str, Endpoint] = {each.key: each for each in endpoints.value or ()}
        self.floating: tuple[FloatingIp, ...] = floating.value or ()
        self.drain = drain.value or DrainChanged(Drain.NONE)
        self._config = state.config().value

    def save(self, engine: Engine, keeper: Keeper, now: float) -> None:
        """Put on disk what must be there before an edge acts on it."""
        state, failed = self._state, self.problems
        if now < self._save_at:
            return
        held, hops, local = engine.peers.held, engine.rib.next_hops, engine.local
        life = engine.life
        # Until it is known how this life begins, a list that is missing stays so: an empty one would have it sweep.
        if life is not None and (held != self.peers or "peers" in failed):
            self.peers = held
            self._note("peers", state.save_peers(held), now)
        if life is not None and (life != self._life or "last_life" in failed):
            self._life = life
            self._note("last_life", state.save_last_life(self._network, life), now)
        if self._marks != self.marked or "kernel" in failed:
            self.marked = self._marks
            self._note("kernel", state.save_kernel(self._marks), now)
        if (len(hops) and hops.wanted.keys() - self.next_hops) or "next_hops" in failed:
            self.next_hops = frozenset(hops.wanted) | frozenset(hops.actual)
            self._note("next_hops", state.save_next_hops(self.next_hops), now)
        self._save_neighbours(now)
        if local.endpoints != self.endpoints or "endpoints" in failed:
            self.endpoints = dict(local.endpoints)
            self._note("endpoints", state.save_endpoints(local.endpoints.values()), now)
        if local.floating.kept != self.floating or "floating_ips" in failed:
            self.floating = local.floating.kept
            self._note("floating_ips", state.save_floating_ips(self.floating), now)
        if engine.peers.drain != self.drain or "drain" in failed:
            self.drain = engine.peers.drain
            self._note("drain", state.save_drain(self.drain), now)
        self._note("objects", keeper.save(), now)
        if self._kept != self._config or "config" in failed:
            self._config = self._kept
            self._note("config", state.save_config(self._kept), now)

    def know(self, neighbours: Mapping[str, tuple[IPAddress, IPAddress]]) -> None:
        """Take who was found on links; the next `save` keeps it."""
        self.neighbours = dict(neighbours)

    def _save_neighbours(self, now: float) -> None:
        if self.neighbours != self._neighbours or "neighbours" in self.problems:
            self._neighbours = self.neighbours
            self._note("neighbours", self._state.save_neighbours(self.neighbours), now)

    def keep(self, kept: KeptConfig, now: float) -> str:
        """Put a configuration on disk that is not in force yet; return what is wrong with that, "" if nothing is."""
        if problem := self._state.save_config(kept):
            return problem
        self._kept = self._config = kept
        self._note("config", "", now)
        return ""

    def next_try(self, now: float) -> float:
        """Return the monotonic second at which to `save` what was refused, infinity if nothing was."""
        return self._save_at if self._save_at > now else float("inf")

    def _note(self, what: str, problem: str, now: float) -> None:
        """Take note of whether a document was written; say so where it no longer is, or is again."""
        if problem:
            self._save_at = now + SAVE_AGAIN_S
        if problem != self.problems.get(what, ""):
            if problem:
                self.problems[what] = problem
                log.error("state.unwritten", file=what, reason=problem)
            else:
                del self.problems[what]
                log.info("state.written", file=what)
