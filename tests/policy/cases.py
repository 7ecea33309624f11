"""What is tried: worlds, one after the other, in the categories of cyclonus, for NetworkPolicies of Kubernetes.

Three namespaces of three workloads: x, y, z, each with a, b, c, labelled `pod`, and the namespaces `ns`; each serves
80 and 81 in every protocol, by name (`serve-80-tcp`) too. A case is a few steps, and a step says all that is
there after it. The one policy that most cases vary is `base`: workload a of x, 80/TCP from b and c of x and y, and
80/TCP to a and b of y and z.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.policy.oracle import Address, Cell, Object, Pod, World

NAMESPACES, NAMES, PORTS = ("x", "y", "z"), ("a", "b", "c"), (80, 81)
NINE = tuple(f"{namespace}/{name}" for namespace in NAMESPACES for name in NAMES)
EXTRAS = ("x/d", "y-2/a", "y-2/b", "w/a")  # that some step adds
PROTOCOLS = ("TCP", "UDP", "SCTP")
BLOCK_SIZE = 64  # of a node's IPv4 addresses
SPACE = (ipaddress.ip_network("10.244.0.0/16"), ipaddress.ip_network("fd00:10:244::/48"))
# Within a node's block: a namespace is 16 addresses, of which c has the last quarter with some.
OFFSETS = {"x": 16, "y": 32, "z": 48, "y-2": 0, "w": 0}
NUMBERS = {"a": 1, "b": 5, "c": 9, "d": 13}
SERVED = {(f"serve-{port}-{protocol.lower()}", protocol): port for port in PORTS for protocol in PROTOCOLS}

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Layout:
    """Which of the nodes n1, n2, n3 holds which workload."""

    name: str
    nodes: Mapping[str, str]

    def addresses(self, key: str) -> tuple[Address, Address]:
        """Return the addresses of a workload, IPv4 first."""
        namespace, _, name = key.partition("/")
        offset = OFFSETS[namespace] + NUMBERS[name] + (8 if namespace == "w" else 0)
        node = self.nodes[key][1]
        return (
            ipaddress.ip_address(f"10.244.{node}.0") + offset,
            ipaddress.ip_address(f"fd00:10:244:{node}::") + offset,
        )

    def block(self, key: str, version: int, host_bits: int) -> str:
        """Return the block of addresses around a workload."""
        address = self.addresses(key)[version // 6]
        return str(ipaddress.ip_network((address, address.max_prefixlen - host_bits), strict=False))


TOGETHER = Layout("together", dict.fromkeys((*NINE, *EXTRAS), "n1"))
# Each node has one workload of each namespace, and one of each name.
APART = Layout(
    "apart",
    {key: f"n{1 + (NAMES.index(key[-1]) + NAMESPACES.index(key[0])) % 3}" for key in NINE}
    | {"x/d": "n2", "y-2/a": "n3", "y-2/b": "n1", "w/a": "n2"},
)


@dataclass(frozen=True, slots=True)
class Step:
    """What is there: the objects, the workloads besides the nine, and those whose labels are not the usual."""

    objects: tuple[Object, ...] = ()
    extras: tuple[str, ...] = ()
    labels: Mapping[str, Labels] = field(default_factory=dict)

    def world(self, layout: Layout, *, has_identity: bool = False) -> World:
        """Return the step as the oracle takes it; the namespaces are among the objects."""
        there = {each["metadata"]["name"] for each in self.objects if each["kind"] == "Namespace"}
        given = tuple(namespace(name) for name in NAMESPACES if name not in there)
        pods = tuple(self._pod(layout, key) for key in (*NINE, *self.extras))
        return World((*given, *self.objects), pods, SPACE, has_identity)

    def _pod(self, layout: Layout, key: str) -> Pod:
        where, _, name = key.partition("/")
        labels = self.labels.get(key, {"pod": name})
        return Pod(where, name, labels, layout.addresses(key), layout.nodes[key], SERVED)


@dataclass(frozen=True, slots=True)
class Case:
    """One case; the same name is the same case in every layout."""

    category: str
    name: str
    steps: tuple[Step, ...]


def cells(world: World, source_port: int) -> Iterator[Cell]:
    """Yield every probe of a world: each workload to each, itself too, in both families."""
    for source, destination in itertools.product(world.pods, repeat=2):
        for ends in zip(source.addresses, destination.addresses, strict=True):
            for protocol in PROTOCOLS:
                for port in PORTS:
                    yield Cell(*ends, protocol, port, source_port)
            yield Cell(*ends, "ICMP", None, None)


# ── objects ──────────────────────────────────────────────────────────────────


def namespace(name: str, **labels: str) -> Object:
    """Return a Namespace, labelled `ns` and more."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"ns": name} | labels}}


def netpol(
    name: str, where: str, pods: Object, ingress: Sequence[Object] | None = None, egress: Sequence[Object] | None = None
) -> Object:
    """Return a NetworkPolicy; a direction that is None is not among its types."""
    rules = {key: list(each) for key, each in (("ingress", ingress), ("egress", egress)) if each is not None}
    spec = {"podSelector": pods, "policyTypes": [key.capitalize() for key in rules], **rules}
    metadata = {"name": name, "namespace": where}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def of(**labels: str) -> Object:
    """Return a selector by labels."""
    return {"matchLabels": labels}


def among(key: str, *values: str, operator: str = "In") -> Object:
    """Return a selector by the values of a label."""
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


def peer(pods: Object | None = None, namespaces: Object | None = None) -> Object:
    """Return a peer; what is None is not there."""
    both = {"podSelector": pods, "namespaceSelector": namespaces}
    return {key: each for key, each in both.items() if each is not None}


def ip_block(cidr: str, *excepted: str) -> Object:
    """Return a peer by address."""
    return {"ipBlock": {"cidr": cidr, **({"except": list(excepted)} if excepted else {})}}


def port(number: int | str | None = None, protocol: str | None = None, last: int | None = None) -> Object:
    """Return a port; what is None is not there."""
    parts = {"port": number, "protocol": protocol, "endPort": last}
    return {key: each for key, each in parts.items() if each is not None}


EVERY: Object = {}
DNS = {"ports": [port(53, "UDP"), port(53, "TCP")]}
_BASE = {
    "ingress": {
        "from": [peer(among("pod", "b", "c"), among("ns", "x", "y"))],
        "ports": [port(80, "TCP")],
    },
    "egress": {
        "to": [peer(among("pod", "a", "b"), among("ns", "y", "z"))],
        "ports": [port(80, "TCP")],
    },
}
DIRECTIONS = ("ingress", "egress")


def base(
    direction: str = "",
    *,
    peers: Sequence[Object] | None = None,
    ports: Sequence[Object] | None = None,
    rules: Sequence[Object] | None = None,
    where: str = "x",
    pods: Object | None = None,
) -> Object:
    """Return the one policy, with something else in its place: in one direction, or of its target."""
    varied: dict[str, Any] = {"ingress": [_BASE["ingress"]], "egress": [_BASE["egress"], DNS]}
    if direction:
        first: dict[str, Any] = dict(_BASE[direction])
        if peers is not None:
            first["from" if direction == "ingress" else "to"] = list(peers)
        if ports is not None:
            first["ports"] = list(ports)
        varied[direction] = [first, *varied[direction][1:]] if rules is None else rules
    return netpol("base", where, of(pod="a") if pods is None else pods, **varied)


# ── the categories ───────────────────────────────────────────────────────────


def _one(category: str, name: str, *objects: Object) -> Case:
    return Case(category, name, (Step(objects),))


def _targets() -> Iterator[Case]:
    for name in NAMESPACES:
        yield _one("target", f"namespace {name}", base(where=name))
    for name, pods in (("all", EVERY), ("a", of(pod="a")), ("a or b", among("pod", "a", "b"))):
        yield _one("target", f"workloads {name}", base(pods=pods))


def _rules() -> Iterator[Case]:
    for direction in DIRECTIONS:
        yield _one("rules", f"{direction} no rule", base(direction, rules=[]))
        yield _one("rules", f"{direction} an empty rule", base(direction, rules=[{}]))


def _peer_table(layout: Layout, version: int) -> list[tuple[str, Object]]:
    c, x = of(pod="c"), of(ns="x")
    return [
        ("all pods", peer(EVERY)),
        ("pods by label", peer(c)),
        ("all namespaces", peer(None, EVERY)),
        ("all pods of all namespaces", peer(EVERY, EVERY)),
        ("pods by label of all namespaces", peer(c, EVERY)),
        ("namespaces by label", peer(None, x)),
        ("all pods of namespaces by label", peer(EVERY, x)),
        ("pods by label of namespaces by label", peer(c, x)),
        ("block", ip_block(layout.block("z/c", version, 4))),
        ("block with except", ip_block(layout.block("z/c", version, 4), layout.block("z/c", version, 2))),
    ]


def _peers(layout: Layout) -> Iterator[Case]:
    for direction, version in zip(DIRECTIONS, (4, 6), strict=True):
        table = _peer_table(layout, version)
        yield _one("peers", f"{direction} none", base(direction, peers=[]))
        for name, who in table:
            yield _one("peers", f"{direction} {name}", base(direction, peers=[who]))
        for (name, who), (other, whom) in itertools.combinations(table, 2):
            yield _one("peers", f"{direction} {name}, {other}", base(direction, peers=[who, whom]))


def _port_table() -> Iterator[tuple[str, list[Object]]]:
    yield "none", []
    for protocol, number in itertools.product((None, *PROTOCOLS), (None, *PORTS)):
        yield f"{number or 'all'}/{protocol or 'no protocol'}", [port(number, protocol)]
    for name, protocol in SERVED:
        yield f"{name}/{protocol}", [port(name, protocol)]
    for protocol, last in itertools.product(PROTOCOLS, (80, 84)):
        yield f"53-{last}/{protocol}", [port(53, protocol, last)]
    yield "a name of another protocol", [port("serve-81-udp", "TCP")]
    yield "a name that nobody serves", [port("serve-7981-udp", "TCP")]
    yield "a port that nobody serves", [port(7981, "TCP")]
    yield "all, 80", [port(), port(80)]
    yield "all, serve-80-tcp", [port(), port("serve-80-tcp")]
    yield "all, all UDP", [port(), port(None, "UDP")]
    yield "80, 81", [port(80), port(81)]
    yield "80, serve-81-tcp", [port(80), port("serve-81-tcp")]
    yield "80, serve-81-udp UDP", [port(80), port("serve-81-udp", "UDP")]
    yield "80 UDP, serve-81-udp UDP", [port(80, "UDP"), port("serve-81-udp", "UDP")]


def _ports() -> Iterator[Case]:
    for direction, (name, ports) in itertools.product(DIRECTIONS, _port_table()):
        yield _one("port and protocol", f"{direction} {name}", base(direction, ports=ports))


def _actions() -> Iterator[Case]:
    def steps(name: str, *several: Step) -> Case:
        return Case("action", name, several)

    plain = Step((base(),))
    yield steps("make and delete a policy", plain, Step())
    yield steps("change a policy", plain, Step((base("ingress", ports=[port("serve-81-udp", "UDP")]),)))
    more = Step((base(), namespace("y-2", ns="y")), ("y-2/a", "y-2/b"))
    yield steps("make and delete a namespace", plain, more, plain)
    by_namespace = base("ingress", peers=[peer(None, of(**{"new-ns": "qrs"}))])
    relabelled = Step((by_namespace, namespace("y", **{"new-ns": "qrs"})))
    yield steps("label a namespace and back", Step((by_namespace,)), relabelled, Step((by_namespace,)))
    yield steps("make and delete a workload", plain, Step((base(),), ("x/d",)), plain)
    by_pod = base("ingress", peers=[peer(of(**{"new-label": "abc"}), among("ns", "y", "z"))])
    changed = Step((by_pod,), labels={"y/b": {"pod": "b", "new-label": "abc"}})
    yield steps("label a workload and back", Step((by_pod,)), changed, Step((by_pod,)))


NOBODY: Sequence[Object] = ()
ANYBODY: Sequence[Object] = ({},)
BY_POD = {"ingress": ({"from": [peer(None, EVERY)]},), "egress": ({"to": [peer(None, EVERY)]},)}
BY_IP = {"ingress": ({"from": [ip_block("0.0.0.0/0")]},), "egress": ({"to": [ip_block("0.0.0.0/0")]},)}
NO_IP = {"ingress": ({"from": [ip_block("0.0.0.0/31")]},), "egress": ({"to": [ip_block("0.0.0.0/31")]},)}
NO_POD = {
    "ingress": ({"from": [peer(None, of(never="qrs123"))]},),
    "egress": ({"to": [peer(None, of(never="qrs123"))]},),
}


def _conflicts() -> Iterator[Case]:
    source, target = ("x", of(pod="b")), ("y", of(pod="c"))

    def policy(name: str, whom: tuple[str, Object], **ways: Sequence[Object]) -> Object:
        return netpol(name, *whom, ways.get("ingress"), ways.get("egress"))

    def case(name: str, *objects: Object) -> Case:
        return _one("conflict", name, *objects)

    yield case("out nobody, in anybody", policy("one", source, egress=NOBODY), policy("two", target, ingress=ANYBODY))
    yield case("out anybody, in nobody", policy("one", source, egress=ANYBODY), policy("two", target, ingress=NOBODY))
    for way, whom in (("egress", source), ("ingress", target)):
        one, two = policy("one", whom, **{way: NOBODY}), policy("two", whom, **{way: ANYBODY})
        yield case(f"{way} nobody and anybody", one, two)
    for way in ("egress", "ingress"):
        for name, few, many in (
            ("nobody, all pods", NOBODY, BY_POD[way]),
            ("nobody, all addresses", NOBODY, BY_IP[way]),
            ("no address, all pods", NO_IP[way], BY_POD[way]),
            ("no pod, all addresses", NO_POD[way], BY_IP[way]),
        ):
            yield case(f"{way} {name}", policy("one", source, **{way: few}), policy("two", source, **{way: many}))
    for way in ("egress", "ingress"):
        yield case(f"{way} no address", policy("one", source, **{way: NO_IP[way]}))
        yield case(f"{way} no pod", policy("one", source, **{way: NO_POD[way]}))


def _default_labels() -> Iterator[Case]:
    by_default = [peer(None, of(**{"kubernetes.io/metadata.name": "z"}))]
    for direction in DIRECTIONS:
        yield _one("namespace", f"{direction} by its automatic label", base(direction, peers=by_default))


def _end_to_end() -> Iterator[Case]:
    a = of(pod="a")

    def steps(name: str, *several: Step) -> Case:
        return Case("end to end", name, several)

    def one(*objects: Object, labels: Mapping[str, Labels] | None = None) -> Step:
        return Step(objects, (), labels or {})

    yield steps("deny ingress by default", one(netpol("deny-ingress", "x", EVERY, ingress=[])))
    yield steps("deny all by default", one(netpol("deny-all", "x", EVERY, ingress=[], egress=[DNS])))
    several = [peer(among("pod", "b", "c"), among("ns", "x", operator="NotIn"))]
    yield steps("several selectors", one(netpol("allow-y-z-b-c", "x", a, ingress=[{"from": several}])))
    from_y = [peer(None, of(ns="y"))]
    stack = [
        netpol(f"allow-{number}", "x", a, ingress=[{"from": from_y, "ports": [port(number, "TCP")]}])
        for number in (81, 80)
    ]
    yield steps("stacked policies", one(stack[0]), one(*stack))
    yield steps("allow all", one(netpol("allow-all", "x", EVERY, ingress=[{}])))
    named = {"ports": [port("serve-81-tcp")]}
    yield steps("one named port", one(netpol("allow-all", "x", EVERY, ingress=[named])))
    mutated = [netpol("allow-to-deny", "x", EVERY, ingress=rules) for rules in (ANYBODY, NOBODY)]
    yield steps("an updated policy", *map(one, mutated))
    updated = netpol("by-namespace", "x", a, ingress=[{"from": [peer(None, of(ns2="updated"))]}])
    yield steps("an updated namespace", one(updated), one(updated, namespace("y", ns2="updated")))
    by_pod = netpol("by-pod", "x", a, ingress=[{"from": [peer(of(pod="b", pod2="updated"))]}])
    yield steps("an updated peer", one(by_pod), one(by_pod, labels={"x/b": {"pod": "b", "pod2": "updated"}}))
    isolated = netpol("isolated", "x", of(target="isolated"), ingress=[])
    yield steps("an updated target", one(isolated), one(isolated, labels={"x/a": {"target": "isolated"}}))
    both = [{"from": [peer(of(pod="b"))]}], [{"ports": [port(80), port(53, "UDP")]}]
    yield steps("both directions", one(netpol("both", "x", a, *both)))
    to_y_a = [{"to": [peer(a, of(ns="y"))]}, {"ports": [port(53, "UDP")]}]
    from_x_a = [{"from": [peer(a, of(ns="x"))]}]
    yield steps(
        "egress denied, ingress allowed",
        one(
            netpol("to-y-a", "x", a, egress=to_y_a),
            netpol("from-x-a-on-y-a", "y", a, ingress=from_x_a),
            netpol("from-x-a-on-y-b", "y", of(pod="b"), ingress=from_x_a),
        ),
    )
    yield steps("deleted policies", one(netpol("deny-all", "x", EVERY, ingress=[], egress=[])), Step())


def _examples() -> Iterator[Case]:
    allowed = netpol("allow-all", "x", EVERY, ingress=[{"ports": [port("serve-81-tcp")]}])
    there = Step((allowed, namespace("w")), ("w/a",))
    emptied, gone = Step((allowed, namespace("w"))), Step((allowed,))
    yield Case("example", "a named port, and a namespace that comes and goes", (gone, there, emptied, gone))


def kubernetes_cases(layout: Layout) -> list[Case]:
    """Return the 230 of cyclonus: 6, 4, 112, 70, 6, 16, 2, 13 and 1."""
    categories: Iterable[Iterable[Case]] = (
        _targets(),
        _rules(),
        _peers(layout),
        _ports(),
        _actions(),
        _conflicts(),
        _default_labels(),
        _end_to_end(),
        _examples(),
    )
    return list(itertools.chain.from_iterable(categories))
