"""Kubernetes' objects -> the model: NetworkPolicy (networking.k8s.io/v1) and Namespace (v1).

A NetworkPolicy only allows, and all of them are one tier: the rules of every policy that selects a workload
count together. It is lowered as Calico does it: into the tier `default` at order 1000, one rule for each peer and
protocol.

| written                                         | means                                                     |
|-------------------------------------------------|-----------------------------------------------------------|
| `spec.podSelector: {}`, or absent               | every workload of the policy's namespace                  |
| `from` / `to` / `ports` absent or `[]`          | everybody; every port of every protocol                   |
| `podSelector` alone in a peer                   | within the policy's namespace                             |
| `namespaceSelector` alone; `{}`                 | every workload of those namespaces; of every namespace    |
| both in one peer                                | those workloads of those namespaces                       |
| `ipBlock`                                       | those addresses, whoever has them, less `except`          |
| `policyTypes` absent or `[]`                    | Ingress, and Egress where there are egress rules          |
| a port without `protocol`                       | TCP                                                       |
| a port's name                                   | what the destination workload calls so, in that protocol  |

What an API server rejects is refused, with its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bgpmesh.frozen import frozen
from bgpmesh.policy.fields import (
    BadValueError,
    Fields,
    Head,
    label_key,
    label_value,
    network,
    port_name,
    port_number,
    shown,
)
from bgpmesh.policy.rule import (
    NAMESPACE_LABEL,
    NAMESPACE_PREFIX,
    SCTP,
    TCP,
    UDP,
    WORKLOAD_LABEL,
    Action,
    Direction,
    IPNetwork,
    Policy,
    Port,
    PortRange,
    Rule,
    Side,
)
from bgpmesh.policy.selector import Everything, Has, Not, OneOf, Selector, all_of, matches, with_prefix

ORDER = 1000.0  # of every NetworkPolicy of Kubernetes, as Calico has it
NAME_LABEL = "kubernetes.io/metadata.name"  # of a namespace, given by the API server
CALICO_NAME_LABEL = "projectcalico.org/name"  # of a namespace, given by Calico
TYPES = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}
_PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
_ANYBODY = Side()


@frozen
class Namespace:
    """A namespace and its labels, the automatic ones among them."""

    name: str
    labels: Mapping[str, str]


def namespace(head: Head, spec: Fields) -> Namespace:
    """Return a namespace; its spec says nothing about policy."""
    spec.take("finalizers")
    return Namespace(head.name, {**head.labels, NAME_LABEL: head.name, CALICO_NAME_LABEL: head.name})


def policy(head: Head, spec: Fields) -> Policy:
    """Return what a NetworkPolicy says."""
    pods = spec.table("podSelector")
    rules = {
        Direction.INGRESS: _rules(head, spec.tables("ingress"), "from"),
        Direction.EGRESS: _rules(head, spec.tables("egress"), "to"),
    }
    types = frozenset(spec.each("policyTypes", policy_type))
    if (count := spec.count("policyTypes")) > len(TYPES):
        spec.refuse("policyTypes", f"has {count} of them, the limit is {len(TYPES)}")
    if not types:
        types = frozenset({Direction.INGRESS} | ({Direction.EGRESS} if rules[Direction.EGRESS] else set()))
    for direction, found in rules.items():
        if found and direction not in types:
            spec.warn(direction.value, ignored(direction, "policyTypes"))
            rules[direction] = ()
    return Policy(
        head.name,
        head.namespace,
        order=ORDER,
        selector=_pods(in_namespace(head), pods),
        types=types,
        ingress=rules[Direction.INGRESS],
        egress=rules[Direction.EGRESS],
        is_staged=head.is_staged,
    )


def policy_type(value: object) -> Direction:
    """Return the direction that a policy type means; raises BadValueError."""
    if isinstance(value, str) and value in TYPES:
        return TYPES[value]
    raise BadValueError(f"is {shown(value)}, not one of {', '.join(TYPES)}")


def ignored(direction: Direction, key: str) -> str:
    """Return the warning about rules of a direction that the policy's types leave out."""
    return f"has rules, which count for nothing: {direction.value.capitalize()} is not in {key}"


def in_namespace(head: Head) -> Selector:
    """Return who lives in the object's own namespace."""
    return Everything() if head.namespace is None else OneOf(NAMESPACE_LABEL, frozenset({head.namespace}))


def of_namespaces(namespaces: Selector) -> Selector:
    """Return who lives in a namespace with such labels.

    What is in no namespace (a host, a global network set) has none of them and would pass for one that merely lacks
    a label: it is left out by name wherever the selector alone would let it in.
    """
    lowered = with_prefix(namespaces, NAMESPACE_PREFIX)
    return all_of((Has(NAMESPACE_LABEL), lowered)) if matches(lowered, {}) else lowered


def label_selector(fields: Fields) -> Selector:
    """Return who has all of `matchLabels` and satisfies all of `matchExpressions`; of none: everybody."""
    terms: list[Selector] = [
        OneOf(key, frozenset({value})) for key, value in sorted(fields.labels("matchLabels").items())
    ]
    return all_of(terms + [_requirement(expression) for expression in fields.tables("matchExpressions")])


def _requirement(fields: Fields) -> Selector:
    key = fields.one("key", label_key) or ""
    if not fields.has("key"):
        fields.refuse("key", "is missing")
    is_by_value = fields.choice(
        "operator", {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}, None, is_required=True
    )
    values = frozenset(fields.each("values", label_value))
    if is_by_value is True and not fields.take("values"):
        fields.refuse("values", "is empty: In and NotIn need a value")
    if is_by_value is False and fields.take("values"):
        fields.refuse("values", "stands beside Exists or DoesNotExist, which take none")
    term: Selector = OneOf(key, values) if is_by_value else Has(key)
    return Not(term) if fields.take("operator") in ("NotIn", "DoesNotExist") else term


def _rules(head: Head, tables: list[Fields], who: str) -> tuple[Rule, ...]:
    """Return the rules of one direction; `who`: the key of their peers, `from` or `to`."""
    rules: list[Rule] = []
    for fields in tables:
        peers = [_peer(head, peer) for peer in fields.tables(who)]
        allowed = _ports(fields.tables("ports"))
        for peer in peers or [_ANYBODY]:
            for protocol, ports in allowed.items():
                if who == "from":
                    rules.append(Rule(Action.ALLOW, protocol=protocol, source=peer, destination=Side(ports=ports)))
                else:
                    rules.append(Rule(Action.ALLOW, protocol=protocol, destination=replace(peer, ports=ports)))
    return tuple(rules)


def _peer(head: Head, fields: Fields) -> Side:
    pods, namespaces, block = map(fields.table, ("podSelector", "namespaceSelector", "ipBlock"))
    is_workload = fields.has("podSelector") or fields.has("namespaceSelector")
    if fields.has("ipBlock"):
        if is_workload:
            fields.refuse("ipBlock", "stands beside podSelector or namespaceSelector: a peer is one or the other")
        return _ANYBODY if block is None else _block(block)
    if not is_workload:
        fields.refuse("", "says nobody: a peer needs podSelector, namespaceSelector or ipBlock")
    where = in_namespace(head) if namespaces is None else of_namespaces(label_selector(namespaces))
    return Side(selector=_pods(where, pods))


def _pods(where: Selector, pods: Fields | None) -> Selector:
    """Return the workloads of some namespaces with such labels; network sets, which Kubernetes has not, are none."""
    named = Everything() if pods is None else label_selector(pods)
    return all_of((where, named, OneOf(WORKLOAD_LABEL, frozenset({"k8s"}))))


def _block(fields: Fields) -> Side:
    cidr = fields.one("cidr", network)
    if not fields.has("cidr"):
        fields.refuse("cidr", "is missing")

    def inside(value: object) -> IPNetwork:
        found = network(value)
        if cidr is not None and not _is_part(found, cidr):
            raise BadValueError(f"is {found}, not a smaller part of {cidr}")
        return found

    excepted = fields.each("except", inside)
    return Side(nets=() if cidr is None else (cidr,), not_nets=excepted)


def _is_part(inner: IPNetwork, outer: IPNetwork) -> bool:
    is_longer = inner.version == outer.version and inner.prefixlen > outer.prefixlen
    return is_longer and inner.network_address in outer


def _ports(tables: list[Fields]) -> dict[int | None, tuple[Port, ...]]:
    """Return the ports of each protocol, () for all of them; of no table: of every protocol (None)."""
    if not tables:
        return {None: ()}
    found: dict[int, list[Port]] = {}
    whole_protocols: set[int] = set()
    for fields in tables:
        protocol = fields.choice("protocol", _PROTOCOLS, TCP)
        port = fields.one("port", _port)
        last = fields.whole("endPort", 1, 65535)
        if last is not None:
            port = _range(fields, port, last)
        ports = found.setdefault(protocol, [])
        if not fields.has("port"):
            whole_protocols.add(protocol)
        elif port is not None and port not in ports:
            ports.append(port)
    return {protocol: () if protocol in whole_protocols else tuple(ports) for protocol, ports in found.items()}


def _port(value: object) -> Port:
    return port_name(value) if isinstance(value, str) else port_number(value)


def _range(fields: Fields, port: Port | None, last: int) -> Port | None:
    if isinstance(port, PortRange) and last >= port.first:
        return PortRange(port.first, last)
    if isinstance(port, PortRange):
        fields.refuse("endPort", f"is {last}, less than port {port.first}")
    elif isinstance(port, str) or not fields.has("port"):
        fields.refuse("endPort", f"is {last}, beside no number as port")
    return port
