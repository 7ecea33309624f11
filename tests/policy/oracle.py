"""Who may talk to whom, straight from the objects as they were written: nothing of bgpmesh is in here.

Brute force, from the documentation of Kubernetes' NetworkPolicy and of Calico's resources. An object is the document
that a parser makes of it. A question about an address has three answers: yes, no, and None for "nobody here
knows". A rule matches where every answer is yes; where some are None and none is no, a deny rule matches too.

A node knows the workloads it holds, and all others only with identity. An address that none of those it knows has
is nobody's outside of the space of workloads, and inside of it nobody can say whose.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Object = Mapping[str, Any]
Labels = Mapping[str, str]
Answer = bool | None

NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPv6": 58, "UDPLite": 136}
WITH_PORTS = {6, 17, 132, 136}
KUBERNETES_ORDER = 1000.0
DEFAULT_TIER = "default"
OWN_TIERS = {DEFAULT_TIER: (1_000_000.0, "Deny"), "kube-admin": (1_000.0, "Pass"), "kube-baseline": (1e7, "Pass")}


@dataclass(frozen=True, slots=True)
class Pod:
    """A workload, and the node that holds it."""

    namespace: str
    name: str
    labels: Labels
    addresses: tuple[Address, ...]
    node: str
    ports: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (name, "TCP") -> number

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


class Cell(NamedTuple):
    """One probe: the first packet of a connection. Without ports it is an echo request."""

    source: Address
    destination: Address
    protocol: str  # TCP, UDP, SCTP or ICMP, which is ICMPv6 between addresses of that family
    port: int | None
    source_port: int | None

    @property
    def number(self) -> int:
        """The protocol's."""
        return NUMBERS["ICMPv6" if self.protocol == "ICMP" and self.source.version == 6 else self.protocol]

    @property
    def icmp_type(self) -> int | None:
        """Echo request (RFC 792, RFC 4443 §4.1), code 0."""
        return None if self.protocol != "ICMP" else 8 if self.source.version == 4 else 128


@dataclass(frozen=True, slots=True)
class World:
    """Everything that verdicts depend on."""

    objects: tuple[Object, ...]
    pods: tuple[Pod, ...]
    space: tuple[Network, ...]  # pools and pod CIDRs
    has_identity: bool = False


@dataclass(frozen=True, slots=True)
class _Thing:
    """Who a selector can mean: a workload, or a network set (`pod` None)."""

    labels: Labels
    namespace: Labels | None  # its namespace's labels; None: it is in none
    pod: Pod | None = None


class _Policy(NamedTuple):
    """A policy in its tier: `rules` say what each does, and whether a cell is meant by it."""

    tier: str
    order: float
    namespace: str
    name: str
    selects: Callable[[_Thing], bool]
    types: frozenset[str]
    rules: Mapping[str, tuple[tuple[str, Callable[[Cell, _View], Answer]], ...]]


_Layers = tuple[tuple[str, tuple[tuple[str, Callable[[Cell, "_View"], Answer]], ...]], ...]  # (default, rules)


class Oracle:
    """The verdicts of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._holders = {address: pod for pod in world.pods for address in pod.addresses}
        self._namespaces = dict(_namespaces(world.objects))
        sets = [self._group(each) for each in world.objects if each["kind"] in {"NetworkSet", "GlobalNetworkSet"}]
        self._views = {node: _View(world.space, self._things(node), sets) for node in {pod.node for pod in world.pods}}
        policies = sorted(_policies(world.objects), key=lambda policy: policy[1:4])
        tiers = OWN_TIERS | {
            each["metadata"]["name"]: (
                _number(each.get("spec", {}).get("order")),
                each.get("spec", {}).get("defaultAction", "Deny"),
            )
            for each in world.objects
            if each["kind"] == "Tier"
        }
        names = sorted({policy.tier for policy in policies}, key=lambda name: (tiers.get(name, (math.inf,))[0], name))
        self._layers: dict[tuple[str, str], _Layers] = {}
        for pod in world.pods:
            for direction in ("Ingress", "Egress"):
                thing = self._thing(pod)
                mine = [p for p in policies if direction in p.types and p.selects(thing)]
                self._layers[pod.key, direction] = tuple(
                    (
                        tiers.get(name, (math.inf, "Deny"))[1],
                        tuple(rule for policy in mine if policy.tier == name for rule in policy.rules[direction]),
                    )
                    for name in names
                    if any(policy.tier == name for policy in mine)
                )

    def passes(self, cell: Cell) -> bool:
        """Tell whether the packet arrives: both ends must agree, and within one workload nobody is asked."""
        source, destination = self._holders.get(cell.source), self._holders.get(cell.destination)
        if source is not None and source is destination:
            return True
        return self.lets_out(cell) and self.lets_in(cell)

    def passes_at(self, node: str, cell: Cell) -> bool:
        """Tell what a node says of a cell: a direction of somebody that it does not know is none of its business."""
        ends = self._holders.get(cell.source), self._holders.get(cell.destination)
        source, destination = (end is not None and (end.node == node or self._world.has_identity) for end in ends)
        if ends[0] is ends[1] and source:
            return True
        return (not source or self.lets_out(cell)) and (not destination or self.lets_in(cell))

    def lets_out(self, cell: Cell) -> bool:
        """Tell whether the egress of the source, where it is a workload, allows it."""
        return self._allows(cell, self._holders.get(cell.source), "Egress")

    def lets_in(self, cell: Cell) -> bool:
        """Tell whether the ingress of the destination, where it is a workload, allows it."""
        return self._allows(cell, self._holders.get(cell.destination), "Ingress")

    def _allows(self, cell: Cell, pod: Pod | None, direction: str) -> bool:
        if pod is None:
            return True
        view = self._views[pod.node]
        for default, rules in self._layers[pod.key, direction]:
            action = next((action for action, matches in rules if _does(action, matches(cell, view))), default)
            if action != "Pass":
                return action == "Allow"
        return True  # its namespace's profile

    def _things(self, node: str) -> list[_Thing]:
        """Return the workloads that a node knows."""
        return [self._thing(pod) for pod in self._world.pods if self._world.has_identity or pod.node == node]

    def _thing(self, pod: Pod) -> _Thing:
        labels = {"projectcalico.org/orchestrator": "k8s", **pod.labels}  # of every workload, in Calico
        return _Thing(*self._in_namespace(pod.namespace, labels), pod)

    def _in_namespace(self, name: str, labels: Labels) -> tuple[Labels, Labels]:
        of_namespace = self._namespaces.get(name, _automatic(name))
        inherited = {f"pcns.{key}": value for key, value in of_namespace.items()}
        return {**inherited, "projectcalico.org/namespace": name, **labels}, of_namespace

    def _group(self, document: Object) -> tuple[_Thing, list[Network]]:
        nets = [ipaddress.ip_network(net) for net in document.get("spec", {}).get("nets", ())]
        labels = document["metadata"].get("labels", {})
        if document["kind"] == "GlobalNetworkSet":
            return _Thing(labels, None), nets
        labels = {"projectcalico.org/namespace": document["metadata"]["namespace"], **labels}
        return _Thing(labels, self._in_namespace(document["metadata"]["namespace"], {})[1]), nets


class _View:
    """What one node knows of an address."""

    def __init__(
        self, space: Iterable[Network], things: Iterable[_Thing], sets: Iterable[tuple[_Thing, list[Network]]]
    ) -> None:
        self._space = tuple(space)
        self._sets = tuple(sets)
        self._known = {address: thing for thing in things if thing.pod for address in thing.pod.addresses}

    def is_any(self, address: Address, is_meant: Callable[[_Thing], bool]) -> Answer:
        """Tell whether a workload or a network set that is meant has the address."""
        if any(is_meant(thing) and any(address in net for net in nets) for thing, nets in self._sets):
            return True
        if address in self._known:
            return is_meant(self._known[address])
        return None if self._is_unknown(address) else False

    def port(self, address: Address, name: str, number: int) -> int | Answer:
        """Return the port of the workload at this address that is called so, False where it has none."""
        if address not in self._known:
            return None if self._is_unknown(address) else False
        pod = self._known[address].pod
        assert pod is not None
        protocol = next(key for key, value in NUMBERS.items() if value == number)
        return pod.ports.get((name, protocol), False)

    def _is_unknown(self, address: Address) -> bool:
        return not self._space or any(address in net for net in self._space)


def _does(action: str, answer: Answer) -> bool:
    """Tell whether a rule decides; Log never does."""
    return action != "Log" and (answer is True or (answer is None and action == "Deny"))


def _all(answers: Iterable[Answer]) -> Answer:
    found = list(answers)
    return False if False in found else None if None in found else True


def _any(answers: Iterable[Answer]) -> Answer:
    found = list(answers)
    return True if True in found else None if None in found else False


def _not(answer: Answer) -> Answer:
    return None if answer is None else not answer


def _number(order: float | None) -> float:
    return math.inf if order is None else float(order)


def _automatic(name: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": name, "projectcalico.org/name": name}


def _namespaces(objects: Iterable[Object]) -> Iterator[tuple[str, Labels]]:
    for document in objects:
        if document["kind"] == "Namespace":
            name = document["metadata"]["name"]
            yield name, {**document["metadata"].get("labels", {}), **_automatic(name)}


def _policies(objects: Iterable[Object]) -> Iterator[_Policy]:
    for document in objects:
        if document.get("staged"):
            continue
        if document["kind"] == "NetworkPolicy" and document["apiVersion"] == "networking.k8s.io/v1":
            yield _of_kubernetes(document)
        elif document["kind"] in {"NetworkPolicy", "GlobalNetworkPolicy"}:
            yield _of_calico(document)


# ── Kubernetes ───────────────────────────────────────────────────────────────


def _of_kubernetes(document: Object) -> _Policy:
    namespace, spec = document["metadata"]["namespace"], document["spec"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    rules = {
        direction: tuple(
            ("Allow", functools.partial(_kubernetes_rule, rule, namespace, direction))
            for rule in spec.get(direction.lower()) or ()
        )
        for direction in ("Ingress", "Egress")
    }

    def selects(thing: _Thing) -> bool:
        is_here = thing.pod is not None and thing.pod.namespace == namespace
        return is_here and _has_labels(spec.get("podSelector") or {}, thing.labels)

    name = document["metadata"]["name"]
    return _Policy(DEFAULT_TIER, KUBERNETES_ORDER, namespace, name, selects, frozenset(types), rules)


def _kubernetes_rule(rule: Object, namespace: str, direction: str, cell: Cell, view: _View) -> Answer:
    peers = rule.get("from" if direction == "Ingress" else "to") or ()
    peer_address = cell.source if direction == "Ingress" else cell.destination
    by_peer = _any(_kubernetes_peer(peer, namespace, peer_address, view) for peer in peers) if peers else True
    ports = rule.get("ports") or ()
    by_port = _any(_kubernetes_port(port, cell, view) for port in ports) if ports else True
    return _all((by_peer, by_port))


def _kubernetes_peer(peer: Object, namespace: str, address: Address, view: _View) -> Answer:
    if peer.get("ipBlock") is not None:
        block = peer["ipBlock"]
        is_in = address in ipaddress.ip_network(block["cidr"])
        return is_in and not any(address in ipaddress.ip_network(net) for net in block.get("except") or ())
    pods, namespaces = peer.get("podSelector"), peer.get("namespaceSelector")

    def is_meant(thing: _Thing) -> bool:
        if thing.pod is None or thing.namespace is None or not _has_labels(pods or {}, thing.labels):
            return False  # Kubernetes knows of no network sets
        return thing.pod.namespace == namespace if namespaces is None else _has_labels(namespaces, thing.namespace)

    return view.is_any(address, is_meant)


def _kubernetes_port(port: Object, cell: Cell, view: _View) -> Answer:
    if NUMBERS[port.get("protocol") or "TCP"] != cell.number:
        return False
    number = port.get("port")
    if number is None:
        return True
    if isinstance(number, str):
        named = view.port(cell.destination, number, cell.number)
        return named if named is None else named == cell.port
    return cell.port is not None and number <= cell.port <= port.get("endPort", number)


def _has_labels(selector: Object, labels: Labels) -> bool:
    """Tell whether a LabelSelector means who has these labels; an empty one means everybody."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for requirement in selector.get("matchExpressions") or ():
        value, values = labels.get(requirement["key"]), requirement.get("values") or ()
        holds = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds[requirement["operator"]]:
            return False
    return True


# ── Calico ───────────────────────────────────────────────────────────────────


def _of_calico(document: Object) -> _Policy:
    spec, metadata = document.get("spec") or {}, document["metadata"]
    is_global = document["kind"] == "GlobalNetworkPolicy"
    namespace = "" if is_global else metadata.get("namespace", "default")
    front, dot, rest = metadata["name"].partition(".")
    types = spec.get("types")
    if not types:
        types = [*(["Egress"] if spec.get("egress") else [])]
        types += ["Ingress"] if spec.get("ingress") or not types else []
    rules = {
        direction: tuple(
            (rule["action"], functools.partial(_calico_rule, rule, namespace))
            for rule in spec.get(direction.lower(), ())
        )
        for direction in ("Ingress", "Egress")
    }

    def selects(thing: _Thing) -> bool:
        if spec.get("doNotTrack") or spec.get("preDNAT"):
            return False  # of hosts only
        if is_global:
            is_here = _is_of_namespaces(spec.get("namespaceSelector", ""), thing)
        else:
            is_here = thing.labels["projectcalico.org/namespace"] == namespace
        return is_here and means(spec.get("selector", ""), thing.labels)

    tier = spec.get("tier") or (front if dot else DEFAULT_TIER)
    return _Policy(
        tier, _number(spec.get("order")), namespace, rest if dot else front, selects, frozenset(types), rules
    )


def _calico_rule(rule: Object, namespace: str, cell: Cell, view: _View) -> Answer:
    answers: list[Answer] = []
    if "ipVersion" in rule:
        answers.append(rule["ipVersion"] == cell.source.version)
    if "protocol" in rule:
        answers.append(_protocol(rule["protocol"]) == cell.number)
    if "notProtocol" in rule:
        answers.append(_protocol(rule["notProtocol"]) != cell.number)
    if "icmp" in rule:
        answers.append(_is_icmp(rule["icmp"], cell))
    if "notICMP" in rule:
        answers += [cell.icmp_type is not None, not _is_icmp(rule["notICMP"], cell)]
    for side, address, port in (
        (rule.get("source") or {}, cell.source, cell.source_port),
        (rule.get("destination") or {}, cell.destination, cell.port),
    ):
        answers += _calico_side(side, namespace, address, view)
        if side.get("ports"):
            answers.append(_any(_calico_port(each, port, address, cell, view) for each in side["ports"]))
        if side.get("notPorts"):
            answers.append(cell.number in WITH_PORTS)
            answers.append(_not(_any(_calico_port(each, port, address, cell, view) for each in side["notPorts"])))
    return _all(answers)


def _calico_side(side: Object, namespace: str, address: Address, view: _View) -> Iterator[Answer]:
    if side.get("nets"):
        yield any(address in ipaddress.ip_network(net) for net in side["nets"])
    if side.get("notNets"):
        yield not any(address in ipaddress.ip_network(net) for net in side["notNets"])
    selector, not_selector = side.get("selector", ""), side.get("notSelector", "")
    namespaces = side.get("namespaceSelector", "")
    if namespaces or selector or (not_selector and namespace):

        def is_meant(thing: _Thing) -> bool:
            if not namespaces and namespace:
                is_where = thing.labels.get("projectcalico.org/namespace") == namespace
            else:
                is_where = _is_of_namespaces(namespaces, thing)
            return is_where and means(selector, thing.labels)

        yield view.is_any(address, is_meant)
    if not_selector:
        yield _not(view.is_any(address, lambda thing: means(not_selector, thing.labels)))


def _is_of_namespaces(selector: str, thing: _Thing) -> bool:
    if not selector.strip():
        return True
    if selector.strip() == "global()":
        return thing.namespace is None
    return thing.namespace is not None and means(selector, thing.namespace)


def _calico_port(wanted: int | str, port: int | None, address: Address, cell: Cell, view: _View) -> Answer:
    if cell.number not in WITH_PORTS or port is None:
        return False
    if isinstance(wanted, int):
        return wanted == port
    first, _, last = wanted.partition(":")
    if first.isdecimal():
        return int(first) <= port <= int(last or first)
    named = view.port(address, wanted, cell.number)
    return named if named is None else named == port


def _protocol(said: int | str) -> int:
    return said if isinstance(said, int) else NUMBERS[said] if said in NUMBERS else int(said)


def _is_icmp(wanted: Object, cell: Cell) -> bool:
    return cell.icmp_type is not None and wanted.get("type") == cell.icmp_type and wanted.get("code", 0) == 0


# ── Calico's selectors ───────────────────────────────────────────────────────

_TOKEN = re.compile(r"""\s*("[^"]*"|'[^']*'|==|!=|&&|\|\||[!(){},]|[A-Za-z0-9_./-]+)""")


def means(selector: str, labels: Labels) -> bool:
    """Tell whether a selector means who has these labels; a blank one means everybody."""
    return not selector.strip() or _meaning(selector)(labels)


@functools.cache
def _meaning(selector: str) -> Callable[[Labels], bool]:
    tokens = _TOKEN.findall(selector)
    assert "".join(tokens) == re.sub(r"\s+(?=(?:[^']*'[^']*')*[^']*$)", "", selector), selector
    found = _either(tokens)
    assert not tokens, selector
    return found


def _either(tokens: list[str]) -> Callable[[Labels], bool]:
    terms = [_both(tokens)]
    while tokens[:1] == ["||"]:
        del tokens[0]
        terms.append(_both(tokens))
    return lambda labels: any(term(labels) for term in terms)


def _both(tokens: list[str]) -> Callable[[Labels], bool]:
    terms = [_single(tokens)]
    while tokens[:1] == ["&&"]:
        del tokens[0]
        terms.append(_single(tokens))
    return lambda labels: all(term(labels) for term in terms)


def _single(tokens: list[str]) -> Callable[[Labels], bool]:  # noqa: C901  one case a form
    match tokens:
        case ["!", *_]:
            del tokens[0]
            inner = _single(tokens)
            return lambda labels: not inner(labels)
        case ["(", *_]:
            del tokens[0]
            inner = _either(tokens)
            assert tokens.pop(0) == ")"
            return inner
        case ["all", "(", ")", *_]:
            del tokens[:3]
            return lambda _: True
        case ["has", "(", key, ")", *_]:
            del tokens[:4]
            return lambda labels: key in labels
        case [key, "==", value, *_]:
            del tokens[:3]
            return lambda labels: labels.get(key) == value[1:-1]
        case [key, "!=", value, *_]:
            del tokens[:3]
            return lambda labels: labels.get(key) != value[1:-1]
        case [key, "in", "{", *_]:
            del tokens[:2]
            values = _values(tokens)
            return lambda labels: labels.get(key) in values
        case [key, "not", "in", "{", *_]:
            del tokens[:3]
            values = _values(tokens)
            return lambda labels: labels.get(key) not in values
        case [key, "contains", value, *_]:
            del tokens[:3]
            return lambda labels: value[1:-1] in labels.get(key, "") and key in labels
        case [key, "starts", "with", value, *_]:
            del tokens[:4]
            return lambda labels: key in labels and labels[key].startswith(value[1:-1])
        case [key, "ends", "with", value, *_]:
            del tokens[:4]
            return lambda labels: key in labels and labels[key].endswith(value[1:-1])
    raise AssertionError(tokens)


def _values(tokens: list[str]) -> set[str]:
    end = tokens.index("}")
    values = {word[1:-1] for word in tokens[1:end] if word != ","}
    del tokens[: end + 1]
    return values
