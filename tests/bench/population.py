"""Who lives on the node of the policy bench, and under which policies: as large as asked, the same every time.

A hundred workloads in a namespace, of ten apps, each with an IPv4 and an IPv6 address. Each app of a namespace has a
policy of its own, each namespace one that denies the rest, and a tier before them bars one address for all. So ten
workloads share a class, and each direction of a workload goes through three policies and a profile.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bgpmesh.policy.objects import Key, Value, read
from bgpmesh.workload.endpoint import Endpoint, interface_name

PORT = 8080
PER_NAMESPACE, APPS = 100, 10
CONFIGURATION = """
[cluster]
asn = 64512
[pool.default]
cidr = "10.244.0.0/16"
[pool.default6]
cidr = "fd00:10:244::/48"
[node.n1]
address = "192.0.2.1"
pod_cidrs = ["10.244.0.0/18", "fd00:10:244::/64"]
"""
_FIRST = ipaddress.IPv4Address("10.244.0.1"), ipaddress.IPv6Address("fd00:10:244::1")
_KUBERNETES, _CALICO = "networking.k8s.io/v1", "projectcalico.org/v3"

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class World:
    """What the node is told of: at any time one of these is in force."""

    endpoints: Mapping[str, Endpoint]
    objects: Mapping[Key, Value]


def felix_name(key: str) -> str:
    """Return the name of a workload's link after Calico's way: `cali` and 11 hexadecimal digits of a hash."""
    return f"cali{hashlib.sha1(key.encode()).hexdigest()[:11]}"  # noqa: S324  as the original


def workload(number: int, *, is_felix: bool = False, **labels: str) -> Endpoint:
    """Return a workload; `labels` replace or add to those it has."""
    namespace, name = f"ns{number // PER_NAMESPACE}", f"w{number}"
    own = {"app": f"a{number % APPS}", "role": "client"} | labels
    key = f"{namespace}/{name}"
    interface = felix_name(key) if is_felix else interface_name("bgpm", key)
    addresses = tuple(first + number for first in _FIRST)
    return Endpoint(name, namespace, tuple(sorted(own.items())), addresses, interface, "")


def world(count: int, *, is_felix: bool = False) -> World:
    """Return the node with that many workloads."""
    endpoints = (workload(number, is_felix=is_felix) for number in range(count))
    return World({endpoint.key: endpoint for endpoint in endpoints}, _objects(*_documents(count)))


def changes(before: World, *, is_felix: bool = False) -> dict[str, World]:
    """Return a world with one thing changed, by what that is."""
    count = len(before.endpoints)
    relabelled = workload(count // 2, is_felix=is_felix, role="none")
    # In the last namespace, where as many more would have room.
    known = replace(workload(count, is_felix=is_felix), namespace=f"ns{(count - 1) // PER_NAMESPACE}")
    special = workload(count, is_felix=is_felix, special="true")
    new = replace(special, namespace=known.namespace)
    if is_felix:
        known, new = (replace(each, interface=felix_name(each.key)) for each in (known, new))
    else:
        known, new = (replace(each, interface=interface_name("bgpm", each.key)) for each in (known, new))
    tenth = _policy(_CALICO, "GlobalNetworkPolicy", {"name": "tenth"}, _TENTH)
    return {
        "labels": World({**before.endpoints, relabelled.key: relabelled}, before.objects),
        "known": World({**before.endpoints, known.key: known}, before.objects),
        "new": World({**before.endpoints, new.key: new}, before.objects),
        "policy": World(before.endpoints, {**before.objects, **_objects(tenth)}),
    }


def average_pair(endpoints: Mapping[str, Endpoint]) -> tuple[Endpoint, Endpoint]:
    """Return the workload in the middle of the dispatch, and that of its namespace which is next to it there."""
    ordered = sorted(endpoints.values(), key=lambda each: each.interface)
    middle = len(ordered) // 2
    source = ordered[middle]
    near = sorted(range(len(ordered)), key=lambda place: abs(place - middle))
    return source, next(ordered[place] for place in near[1:] if ordered[place].namespace == source.namespace)


_TENTH: Document = {
    "selector": "app == 'a3'",
    "order": 5,
    "types": ["Ingress", "Egress"],
    "ingress": [{"action": "Allow", "protocol": "TCP", "source": {"nets": ["192.0.2.0/24"]}}],
    "egress": [{"action": "Allow", "protocol": "TCP", "destination": {"selector": "app == 'a4'", "ports": [9090]}}],
}
_BASE: Document = {
    "tier": "platform",
    "selector": "all()",
    "types": ["Ingress", "Egress"],
    "ingress": [{"action": "Pass"}],
    "egress": [
        {"action": "Deny", "protocol": "TCP", "destination": {"nets": ["169.254.169.254/32"]}},
        {"action": "Pass"},
    ],
}


def _documents(count: int) -> list[Document]:
    tier: Document = {"order": 100, "defaultAction": "Deny"}
    found = [
        _policy(_CALICO, "Tier", {"name": "platform"}, tier),
        _policy(_CALICO, "GlobalNetworkPolicy", {"name": "platform.base"}, _BASE),
    ]
    ports = [{"protocol": protocol, "port": PORT} for protocol in ("TCP", "UDP")]
    dns = {"ports": [{"protocol": "UDP", "port": 53}]}
    clients = {"from": [{"podSelector": {"matchLabels": {"role": "client"}}}], "ports": ports}
    everybody = {"to": [{"podSelector": {}}], "ports": ports}
    for namespace in (f"ns{number}" for number in range(-(-count // PER_NAMESPACE))):
        both: Document = {"policyTypes": ["Ingress", "Egress"]}
        rules: Document = {**both, "ingress": [clients], "egress": [dns, everybody]}
        found += [
            _policy(_KUBERNETES, "NetworkPolicy", {"name": name, "namespace": namespace}, {**spec, "podSelector": who})
            for name, who, spec in (
                *((f"a{app}", {"matchLabels": {"app": f"a{app}"}}, rules) for app in range(APPS)),
                ("deny", {}, both),
                ("special", {"matchLabels": {"special": "true"}}, rules),
            )
        ]
    return found


def _policy(version: str, kind: str, metadata: Document, spec: Document) -> Document:
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _objects(*documents: Document) -> Mapping[Key, Value]:
    found = read(documents)
    if found.refused:
        raise ValueError(found.refused)
    return found.objects
