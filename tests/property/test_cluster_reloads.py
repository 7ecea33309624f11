"""Reloads of any kind, in any order: what a cluster comes to is what a start with its last file comes to.

Four nodes and two neighbours outside read files as operators write them. Between two files everything may differ: who
is there, by name or out of a range, topology, reflectors and their cluster ids, ASes, identifiers, families, prefixes,
filters, several paths of a prefix, next hops, how long routes outlive a session. Nodes take a new file one after the
other, in any order, while others still go by the last one, and some are killed meanwhile, before they have seen the
new one or after.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpmesh.config.file import effective, parse
from bgpmesh.events import Configured
from bgpmesh.rib import export
from bgpmesh.route.nlri import prefix_of, prefix_text
from tests.property.cluster import Cluster

NODES = ("n1", "n2", "n3", "n4")
OUTSIDE = ("x1", "x2")
SHARED = ("203.0.113.0/24", "203.0.113.7/32", "2001:db8:f::/64")
# Beyond the last clock of a peer that is away or does not say End-of-RIB: 120 s and 120 s.
REST_S = 300.0


@dataclass(frozen=True)
class State:
    """One file for the nodes, one for each neighbour outside, and which nodes there are."""

    nodes: tuple[str, ...]
    files: Mapping[str, str]

    def configured(self) -> dict[str, Configured]:
        """Return what each of them makes of its file."""
        read = {name: parse(text, f"{name}.toml") for name, text in self.files.items()}
        return {name: effective(read.get(name, read["inside"]), name) for name in (*self.nodes, *OUTSIDE)}


def table(name: str, values: Mapping[str, object]) -> str:
    """Return a table of TOML; None is left out."""
    lines = [f"{key} = {_text(value)}" for key, value in values.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, ""])


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_text(each)}" for key, each in value.items()) + " }"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return json.dumps(value)


some = st.sampled_from
addresses = {name: f"192.0.2.{number}" for number, name in enumerate((*NODES, *OUTSIDE), 1)}
FILTERS = ("plain", "marked", "preferred", "thinned", "elsewhere")
filters = st.lists(some(("all", *FILTERS, *FILTERS)), min_size=1, max_size=2, unique=True)
RULES = {
    "marked": 'action = "accept"\nadd_community = ["64512:7"]\nadd_large_community = "64512:1:1"',
    "preferred": 'prefix = "203.0.113.0/24 le 32"\naction = "accept"\nlocal_pref = %d',
    "thinned": 'prefix = ["10.244.1.0/24 le 32", "2001:db8:f::/48 le 128"]\naction = "reject"',
    "elsewhere": 'community = "64512:7"\naction = "accept"\nremove_community = "64512:*"\nprepend = 1',
    "plain": 'family = "%s"\naction = "accept"',
}


@st.composite
def states(draw: st.DrawFn) -> State:
    """Draw one."""
    nodes = tuple(draw(st.lists(some(NODES), min_size=2, max_size=4, unique=True).map(sorted)))
    asn = draw(some((64512, 64512, 64512, 64599)))
    topology = draw(some(("mesh", "reflectors", "reflectors", "none")))
    restart, long_lived = draw(some(((0, 0), (120, 0), (120, 0), (20, 30))))
    cluster = {
        "asn": asn,
        "topology": topology,
        "hold_time": draw(some((60, 90))),
        "graceful_restart": restart,
        "long_lived_graceful_restart": long_lived,
        "add_path": draw(some((True, True, False, {"send": 2}))),
    }
    parts = [table("cluster", cluster), table("kernel", {"ecmp": draw(some((1, 2, 8)))})]
    parts += [table("pool.four", {"cidr": "10.244.0.0/16"}), table("pool.six", {"cidr": "fd00::/16"})]
    asns = {name: draw(some((None, None, None, None, 64700 + int(name[1:])))) for name in nodes}
    filtered = draw(some(("ipv4", "ipv6")))
    for name, rule in RULES.items():
        default = draw(some(("accept", "accept", "reject")))
        said = rule.replace("%s", filtered).replace("%d", str(draw(some((50, 100, 300)))))
        parts += [f'[filter.{name}]\ndefault = "{default}"\n[[filter.{name}.rule]]\n{said}\n']
    for name in nodes:
        number = int(name[1:])
        parts.append(
            table(
                f"node.{name}",
                {
                    "address": addresses[name],
                    "address6": draw(some((f"2001:db8::{number}", f"2001:db8::{number}", None))),
                    "asn": asns[name],
                    "router_id": draw(some((None, None, f"10.0.0.{10 - number}"))),
                    "cluster_id": draw(some((None, None, "10.9.9.9"))),
                    "reflector": draw(st.booleans()) or name == nodes[0],
                    "pod_cidrs": draw(
                        some(([f"10.244.{number}.0/26"], [f"10.244.{number}.0/26", f"fd00:{number}::/64"]))
                    ),
                    "advertise": draw(st.lists(some(SHARED), max_size=2, unique=True)),
                    "labels": {"edge": draw(some(("yes", "no")))},
                },
            )
        )
    files = {}
    for name in OUTSIDE:
        is_inside = draw(some((False, False, True)))
        theirs = asn if is_inside else draw(some((65001, 65001, 65002)))
        local_asn = None if is_inside else draw(some((None, None, 64999)))
        is_called_by = draw(some((False, False, True)))
        families = draw(some((["ipv4", "ipv6"], ["ipv4", "ipv6"], ["ipv4"])))
        several = draw(some((None, None, True, {"send": 2})))
        parts.append(
            table(
                f"peer.{name}",
                {
                    **({"range": f"{addresses[name]}/32"} if is_called_by else {"address": addresses[name]}),
                    "asn": theirs,
                    "nodes": draw(some(("all()", "edge == 'yes'"))),
                    "passive": None if is_called_by else draw(st.booleans()),
                    "families": families,
                    "import": draw(filters),
                    "export": draw(st.one_of(filters, st.just(["own"]))),
                    "next_hop": draw(some(("auto", "auto", "self", "keep"))),
                    "local_asn": local_asn,
                    "allow_own_asn": draw(some((0, 0, 1))),
                    "enforce_first_as": draw(some((None, None, False))),
                    "reflector_client": is_inside and not any(asns.values()) and draw(st.booleans()),
                    "add_path": several,
                    "graceful_restart": draw(some((None, 0, 60))) if not long_lived else None,
                    "multihop": draw(some((None, None, 4))),
                    "role": None if is_inside else draw(some((None, None, "provider"))),
                    "max_prefixes": draw(some((1000, 2000))),
                },
            )
        )
        number = int(name[1:])
        their_file = [
            table("cluster", {"asn": theirs, "topology": "none", "hold_time": 90, "graceful_restart": restart}),
            table(
                f"node.{name}",
                {
                    "address": addresses[name],
                    "address6": f"2001:db8::10{number}",
                    "advertise": [
                        f"198.51.{number}.0/24",
                        f"2001:db8:{number}00::/48",
                        *draw(st.lists(some(SHARED), unique=True)),
                    ],
                },
            ),
        ]
        their_file += [
            table(
                f"peer.{node}",
                {
                    "address": addresses[node],
                    "asn": local_asn or asns[node] or asn,
                    "import": ["all"],
                    "export": ["own"],
                    "families": families,
                    "add_path": several,
                },
            )
            for node in nodes
        ]
        files[name] = "\n".join(their_file)
    return State(nodes, {"inside": "\n".join(parts), **files})


def found(cluster: Cluster) -> dict[str, object]:
    """Return all that every node has, writes and tells; identifiers of paths are numbers that say nothing."""
    everything: dict[str, object] = {}
    for name, each in cluster.nodes.items():
        engine = each.engine
        if engine is None:
            continue
        everything[f"{name} kernel"] = (each.routes(), dict(sorted(each.kernel.next_hops.items(), key=str)))
        everything[f"{name} held"] = sorted(engine.peers.held)
        for nlri in engine.rib.prefixes():
            everything[f"{name} {prefix_text(nlri)}"] = sorted(
                (
                    path.peer or "",
                    repr(export._value_of(path.attributes)),
                    path.is_best or path.reason == "path-id",  # which of these is first their identifiers say
                    path.is_multipath,
                    path.is_stale,
                    path.reason,
                    path.filtered,
                )
                for path in engine.rib.candidates(nlri)
            )
        for peer, session in engine.peers.sessions.items():
            everything[f"{name} - {peer}"] = session.state
            told = engine.rib.advertised(peer)
            everything[f"{name} to {peer}"] = sorted(
                (prefix_text(prefix_of(nlri)), repr(export._value_of(said))) for nlri, said in told
            )
    return everything


def reload(cluster: Cluster, state: State) -> None:
    """Have every node take its new file, one after the other."""
    configured = state.configured()
    order = sorted({*cluster.nodes, *configured})
    cluster.random.shuffle(order)
    for name in order:
        if cluster.random.random() < 0.15 and name in configured and name in cluster.nodes:
            cluster.kill(name)
            cluster.nodes[name].configured = configured[name]
            cluster.start(name)  # on a kernel that is as the last file had it
        else:
            cluster.become(name, configured.get(name))
        for _ in range(cluster.random.randrange(20)):
            cluster._step()
        if cluster.random.random() < 0.1 and name in configured:
            cluster.kill(name)
            cluster.start(name)
        if cluster.random.random() < 0.1:
            cluster.settle(2)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.integers(0, 1000), st.lists(states(), min_size=2, max_size=4))
def test_reloads_end_as_a_start_with_the_last_file(seed: int, drawn: list[State]) -> None:
    """Tables, reasons, kernel routes, what is told to whom: all of it is that of the last file, whatever was before."""
    cluster = Cluster([], seed)
    for state in drawn:
        reload(cluster, state)
        if cluster.random.random() < 0.7:
            cluster.settle(5)
    cluster.settle(REST_S)
    fresh = Cluster([], seed + 1)
    reload(fresh, drawn[-1])
    fresh.settle(REST_S)
    now, wanted = found(cluster), found(fresh)
    assert {key: now.get(key) for key in wanted} == wanted
    assert now.keys() == wanted.keys()
