"""Every Prometheus series, in one list; the only place that knows prometheus_client.

Gauges and counters are read from the engine when somebody scrapes, so that they cost nothing otherwise and
can say nothing else than the commands say; only durations are recorded as they happen. A series
whose feature is not built is absent, not zero.

prometheus_client is loaded at the first scrape: with the HTTP and TLS of the standard library, which it brings, it
would be a seventh of what a start costs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol, cast

from bgpmesh import __version__
from bgpmesh.engine import Engine
from bgpmesh.peering import bfd
from bgpmesh.peering.connection import State
from bgpmesh.policy.attribution import Counters
from bgpmesh.policy.flowspec import STATES
from bgpmesh.rib.drain import Drain
from bgpmesh.route.nlri import ROUTED
from bgpmesh.route.path import PeerName
from bgpmesh.workload.usage import usage

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

# From a burst on an idle host to the full table of a slow one, in seconds.
_CONVERGENCE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BURST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_LAG_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_APPLY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_STAGED = ("policy", "verdict")

Values = Mapping[tuple[str, ...], int]  # by the values of the labels


class Talks(Protocol):
    """The speaker, as far as this module needs to know it."""

    @property
    def messages(self) -> Mapping[tuple[PeerName, str, str], int]:
        """Messages by peer, direction (sent, received) and type."""


class Watches(Protocol):
    """The edge of BFD, as far as this module needs to know it."""

    @property
    def discarded(self) -> Mapping[str, int]:
        """Packets that were not taken, by the reason."""


class Runs(Protocol):
    """The edge of programs, as far as this module needs to know it."""

    @property
    def up(self) -> Mapping[str, bool]:
        """Whether each runs."""


class Observed(Protocol):
    """What is read of the daemon at a scrape."""

    @property
    def generation(self) -> int:
        """Of the configuration; grows with each that comes in force."""

    @property
    def engine(self) -> Engine:
        """The core."""

    @property
    def counters(self) -> Counters:
        """What policies have counted."""

    @property
    def speaker(self) -> Talks:
        """The wire."""

    @property
    def bfd(self) -> Watches:
        """BFD's process."""

    @property
    def helpers(self) -> Runs:
        """The programs whose announcements are this node's."""

    def reasons(self) -> list[str]:
        """Return why the node is not ready; empty if it is."""


class Metrics:
    """The series of one daemon."""

    def __init__(self, observed: Observed, *, per_peer: bool) -> None:
        self._observed = observed
        self._per_peer = per_peer
        self._convergence = _Durations(_CONVERGENCE_S)
        self._burst = _Durations(_BURST_S)
        self._lag = _Durations(_LAG_S)
        self._policy = _Durations(_APPLY_S)

    def converged(self, updates: Iterable[tuple[float, int]]) -> None:
        """Record UPDATEs that are in the kernel now: (seconds it took, prefixes); each counts once."""
        for seconds, _ in updates:
            self._convergence.add(seconds)

    def burst_written(self, seconds: float) -> None:
        """Record one burst written to the kernel."""
        self._burst.add(seconds)

    def policy_applied(self, seconds: float) -> None:
        """Record one round of writing chains and sets."""
        self._policy.add(seconds)

    def lagged(self, seconds: float) -> None:
        """Record how late the loop ran a timer."""
        self._lag.add(max(seconds, 0.0))

    def render(self) -> bytes:
        """Return every series in the text format."""
        from prometheus_client import generate_latest  # noqa: PLC0415  see above

        return generate_latest(cast("Collector", self))  # of a registry it asks for `collect` and no more

    def collect(self) -> Iterator[Metric]:
        """Yield every series."""
        yield _histogram(
            "convergence_seconds", "From an UPDATE read to the kernel's acknowledgement", self._convergence
        )
        yield _histogram("fib_burst_seconds", "Writing one burst of routes to the kernel", self._burst)
        yield _histogram("loop_lag_seconds", "How late the event loop ran a timer", self._lag)
        yield _histogram("policy_apply_seconds", "Writing chains and sets to the kernel", self._policy)
        observed, rib = self._observed, self._observed.engine.rib
        yield _gauge("build_info", "The version that runs", {(__version__,): 1}, "version")
        yield _gauge("ready", "1 if this node is ready", {(): int(not observed.reasons())})
        is_drained = observed.engine.peers.drain.drain in (Drain.DRAINED, Drain.STOPPED)
        yield _gauge("drained", "1 if this node is drained", {(): int(is_drained)})
        yield _gauge("config_generation", "Grows with each configuration in force", {(): observed.generation})
        yield from self._sessions()
        yield from self._bfd()
        yield from self._processes()
        messages: Counter[tuple[str, ...]] = Counter()
        for (_, direction, kind), count in observed.speaker.messages.items():
            messages[direction, kind] += count
        yield _counter("messages", "BGP messages", messages, "direction", "type")
        sizes: Values = {(family.label,): rib.size(family) for family in ROUTED}
        yield _gauge("rib_routes", "Prefixes with a selected path", sizes, "family")
        routes: Values = {
            ("wanted",): len(rib.fib.wanted),
            ("installed",): len(rib.fib.actual),
            ("pending",): len(rib.fib) - len(rib.fib.refused),
            ("failed",): len(rib.fib.refused),
        }
        yield _gauge("fib_routes", "Routes of ours in the kernel", routes, "state")
        repaired: Values = {(): observed.engine.notes.drift_repaired}
        yield _counter("fib_drift_repaired", "Routes, links, chains and sets that somebody else had changed", repaired)
        engine = observed.engine
        yield _gauge("policy_rules", "Rules of ours in the packet filter", {(): engine.packets.rules_in_force})
        yield _counter("policy_errors", "Chains and sets that were refused", {(): engine.packets.policy_errors})
        announced = sum(map(engine.local.is_announced, engine.local.floating.in_force))
        floating: Values = {("announced",): announced, ("other",): len(engine.packets.leads.known) - announced}
        yield _gauge("floating_ips", "Floating addresses, announced by this node or not", floating, "state")
        remote: Values = {(): engine.packets.protection.remote_count}
        yield _gauge("identities", "Addresses of other nodes' workloads known by labels", remote)
        counters = observed.counters
        verdicts: Values = {(verdict,): count for verdict, count in counters.by_verdict.items()}
        yield _counter(
            "policy_packets", "Packets of workloads: new connections, established, denied", verdicts, "verdict"
        )
        drops: Values = {(name,): count for name, count in counters.drops().items()}
        yield _counter("policy_drops", "Packets that were dropped, by the policy that did it", drops, "policy")
        staged: Values = {(name, action): count for (name, action), count in counters.staged().items()}
        yield _counter("policy_staged_packets", "New connections, by what a staged policy would do", staged, *_STAGED)
        yield _gauge("workloads", "Workloads of this node", {(): len(engine.local.endpoints)})
        yield self._pool_addresses()

    def _sessions(self) -> Iterator[Metric]:
        """Yield what is known of each peer; the sum of all where the peers are not told apart."""
        up: Counter[tuple[str, ...]] = Counter()
        transitions: Counter[tuple[str, ...]] = Counter()
        routes: Counter[tuple[str, ...]] = Counter()
        refused: Counter[tuple[str, ...]] = Counter()
        flows: Counter[tuple[str, ...]] = Counter()
        turned_down: Counter[tuple[str, ...]] = Counter()
        engine = self._observed.engine
        for entry, word, _ in engine.flows.listing(engine.packets.chains.actual):
            flows[*((entry.peer,) if self._per_peer else ()), word.replace(" ", "_")] += 1
        for name, session in engine.peers.sessions.items():
            peer = (name,) if self._per_peer else ()
            if session.peer.flowspec is not None:
                turned_down[peer] += engine.flows.refused[name]
                for word in STATES:
                    flows[*peer, word.replace(" ", "_")] += 0
            refused[peer] += engine.peers.faults[name].claims_refused
            up[peer] += int(session.state is State.ESTABLISHED)
            for state, count in session.transitions.items():
                transitions[*peer, state.value] += count
            for family, counts in engine.rib.counts(name).items():
                for kind, count in zip(("received", "accepted", "advertised"), counts, strict=True):
                    routes[*peer, family.label, kind] += count
        labels = ("peer",) if self._per_peer else ()
        yield _gauge("session_up", "1 if the session is established", up, *labels)
        yield _counter("session_transitions", "States that sessions entered", transitions, *labels, "to")
        yield _counter("claims_refused", "Prefixes of which a peer said what it may not say", refused, *labels)
        yield _gauge("session_routes", "Prefixes of the session", routes, *labels, "family", "kind")
        yield _gauge("flowspec_rules", "Flows that peers ask for", flows, *labels, "state")
        yield _counter("flowspec_refused", "Flows that were refused", turned_down, *labels)

    def _bfd(self) -> Iterator[Metric]:
        """Yield how the paths are that BFD watches, and what came that was no packet of theirs."""
        up: Counter[tuple[str, ...]] = Counter()
        peers = self._observed.engine.peers
        for each in peers.paths.watched:
            report = peers.paths.reports.get(PeerName(each.name))
            up[(each.name,) if self._per_peer else ()] += report is not None and report.state == bfd.State.UP
        labels = ("peer",) if self._per_peer else ()
        yield _gauge("bfd_up", "1 if BFD sees the path to the peer", up, *labels)
        discarded: Values = {(reason,): count for reason, count in self._observed.bfd.discarded.items()}
        yield _counter("bfd_discarded", "BFD packets that were not taken", discarded, "reason")

    def _processes(self) -> Iterator[Metric]:
        """Yield how the programs are that announce prefixes of this node."""
        local, up = self._observed.engine.local, self._observed.helpers.up
        runs: Values = {(name,): int(is_up) for name, is_up in up.items()}
        yield _gauge("process_up", "1 if the program runs", runs, "process")
        routes: Values = {(name,): sum(local.process_of(nlri) == name for nlri in local.said.by(name)) for name in up}
        yield _gauge("process_routes", "Prefixes announced for the program", routes, "process")

    def _pool_addresses(self) -> Metric:
        engine = self._observed.engine
        counted: Counter[tuple[str, ...]] = Counter()
        if engine.configured is not None:
            configured = engine.configured
            for row in usage(configured.pools, configured.pod_cidrs, engine.local.addresses.in_use()):
                counted[row.pool, "used"] += row.used
                counted[row.pool, "free"] += row.free
                counted[row.pool, "reserved"] += row.reserved
        return _gauge("pool_addresses", "Addresses of this node's blocks", counted, "pool", "state")


class _Durations:
    """How often something took how long; `bounds` are the upper ends of the buckets, in seconds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)  # by bucket; the last has no end
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound, as text, and how many took no longer."""
        bounds = [*map(str, self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))


def _histogram(name: str, text: str, durations: _Durations) -> Metric:
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415  see above

    return HistogramMetricFamily(f"bgpmesh_{name}", text, durations.buckets(), durations.sum)


def _gauge(name: str, text: str, values: Values, *labels: str) -> Metric:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415  see above

    family = GaugeMetricFamily(f"bgpmesh_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, values: Values, *labels: str) -> Metric:
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415  see above

    family = CounterMetricFamily(f"bgpmesh_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
