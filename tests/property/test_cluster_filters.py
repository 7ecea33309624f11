"""Filters in a whole cluster: after any changes of them it is as if it had been started with the last ones."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpmesh.events import Configured
from bgpmesh.rib import export
from bgpmesh.rib.rule import BUILT_IN, Filter
from bgpmesh.route.attributes import Asn
from bgpmesh.route.nlri import Nlri, parse_nlri, prefix_text
from bgpmesh.route.path import Role
from tests.property.cluster import Cluster
from tests.property.filters import communities_change, filters_over, others_change, terms_over
from tests.property.test_cluster import mesh, node, started

ANYCAST = ("203.0.113.0/24", "203.0.113.7/32", "2001:db8:f::/64")
PREFIXES: tuple[Nlri, ...] = tuple(
    map(parse_nlri, (*ANYCAST, "10.244.1.0/26", "10.244.2.0/26", "10.244.3.0/26", "fd00:10:244:1::/112"))
)
TERMS = terms_over(PREFIXES, ("n1", "n2", "n3", "local"))
States = list[tuple[dict[str, Filter], dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]]]]


def external(size: int) -> list[Configured]:
    """Return a mesh whose nodes are each an AS of its own, and pass on what they hear."""
    found = []
    for number in range(1, size + 1):
        made = node(number, dict.fromkeys(set(range(1, size + 1)) - {number}, Role.EXTERNAL))
        own = Asn(64512 + number)
        peers = tuple(
            replace(peer, asn=Asn(64512 + int(peer.name[1:])), local_asn=own, in_cluster=False) for peer in made.peers
        )
        found.append(replace(made, asn=own, peers=peers))
    return found


def announcing(configurations: list[Configured]) -> list[Configured]:
    """Have all nodes announce some prefixes, so that there is something to choose."""
    anycast = tuple(map(ipaddress.ip_network, ANYCAST))
    return [replace(configured, advertise=anycast[:number]) for number, configured in enumerate(configurations, 1)]


@st.composite
def states(draw: st.DrawFn, some: st.SearchStrategy[Filter], size: int) -> States:
    """Draw filters, and who has which, several times over."""
    found: States = []
    pairs = [(f"n{a}", f"n{b}") for a in range(1, size + 1) for b in range(1, size + 1) if a != b]
    for _ in range(draw(st.integers(2, 3))):
        filters = {each.name: each for each in draw(st.lists(some, min_size=1, max_size=3))}
        in_order = st.lists(st.sampled_from([*filters, *filters, *BUILT_IN]), max_size=2, unique=True).map(tuple)
        found.append((filters, {pair: draw(st.tuples(in_order, in_order)) for pair in pairs}))
    return found


def under(
    configurations: list[Configured],
    state: tuple[dict[str, Filter], dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]]],
) -> list[Configured]:
    """Return a cluster under filters."""
    filters, used = state
    return [
        replace(
            configured,
            filters=tuple(filters.values()),
            peers=tuple(
                replace(peer, imports=imports, exports=exports)
                for peer in configured.peers
                for imports, exports in (used[configured.node, peer.name],)
            ),
        )
        for configured in configurations
    ]


def found(cluster: Cluster) -> dict[str, object]:
    """Return what every node has in its kernel, and what it has told whom."""
    everything: dict[str, object] = {}
    for name, each in cluster.nodes.items():
        assert each.engine is not None
        everything[name] = each.routes()
        for peer in each.engine.peers.sessions:
            told = sorted(each.engine.rib.advertised(peer))
            everything[f"{name} to {peer}"] = [(prefix_text(nlri), export._value_of(said)) for nlri, said in told]
    return everything


def changes_as_a_start(configurations: list[Configured], seed: int, drawn: States) -> None:
    cluster = started(under(configurations, drawn[0]), seed)
    sessions = {
        (name, peer): session.established_at
        for name, each in cluster.nodes.items()
        if each.engine is not None
        for peer, session in each.engine.peers.sessions.items()
    }
    assert None not in sessions.values()
    for state in drawn[1:]:
        order = under(configurations, state)
        cluster.random.shuffle(order)
        for configured in order:
            cluster.reconfigure(configured.node, configured)
            for _ in range(cluster.random.randrange(10)):
                cluster._step()
        if cluster.random.random() < 0.5:
            cluster.settle(1)
    cluster.settle()
    for (name, peer), since in sessions.items():
        engine = cluster.nodes[name].engine
        assert engine is not None
        assert engine.peers.sessions[peer].established_at == since
    fresh = started(under(configurations, drawn[-1]), seed + 1)
    assert found(cluster) == found(fresh)


examples = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@examples
@given(st.integers(0, 1000), states(filters_over(TERMS, {**communities_change, **others_change}), 3))
def test_in_a_mesh_a_change_of_filters_ends_as_a_start_with_them(seed: int, drawn: States) -> None:
    """Kernels and announcements are the same, and every session is the one it was."""
    changes_as_a_start(announcing(mesh(3)), seed, drawn)


@examples
@given(st.integers(0, 1000), states(filters_over(TERMS, communities_change), 3))
def test_between_ases_a_change_of_filters_ends_as_a_start_with_them(seed: int, drawn: States) -> None:
    """Where routes are passed on; filters do not touch what is preferred, or there may be several answers."""
    changes_as_a_start(announcing(external(3)), seed, drawn)
