"""What is tried of Calico's objects: tiers, order, every action, and everything that a rule can say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.policy.cases import EVERY, Case, Layout, Step, base, netpol, of, peer, port
from tests.policy.oracle import Object

VERSION = "projectcalico.org/v3"


def document(kind: str, name: str, where: str, spec: Mapping[str, object], labels: Mapping[str, str] = {}) -> Object:
    """Return an object; where `where` is empty it is in no namespace."""
    metadata = {"name": name, **({"namespace": where} if where else {}), **({"labels": labels} if labels else {})}
    return {"apiVersion": VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def everywhere(name: str, **spec: object) -> Object:
    """Return a GlobalNetworkPolicy."""
    return document("GlobalNetworkPolicy", name, "", spec)


def within(where: str, name: str, **spec: object) -> Object:
    """Return a NetworkPolicy."""
    return document("NetworkPolicy", name, where, spec)


def tier(name: str, order: float | None = None, default: str | None = None) -> Object:
    """Return a Tier."""
    spec = {"order": order, "defaultAction": default}
    return document("Tier", name, "", {key: value for key, value in spec.items() if value is not None})


def allow(**rule: object) -> Object:
    """Return a rule that allows."""
    return {"action": "Allow", **rule}


def deny(**rule: object) -> Object:
    """Return a rule that denies."""
    return {"action": "Deny", **rule}


def go_on(**rule: object) -> Object:
    """Return a rule that passes."""
    return {"action": "Pass", **rule}


def log(**rule: object) -> Object:
    """Return a rule that logs."""
    return {"action": "Log", **rule}


def to_ports(protocol: str | int | None, *ports: int | str, **rule: object) -> dict[str, object]:
    """Return what a rule says of the destination's ports."""
    said = {} if protocol is None else {"protocol": protocol}
    return {**said, "destination": {"ports": list(ports)}, **rule}


X, Y, Z = (f"projectcalico.org/namespace == '{name}'" for name in "xyz")
A, B, C = (f"pod == '{name}'" for name in "abc")
FIRST, SECOND = tier("first", 10), tier("second", 20)
OPEN = everywhere("open", ingress=[allow()], egress=[allow()])


def from_(selector: str) -> dict[str, object]:
    """Return what a rule says of the source."""
    return {"source": {"selector": selector}}


def _tiers() -> Iterator[tuple[str, tuple[Object, ...]]]:
    closed_x = {"selector": X, "ingress": [deny(**from_(B))]}
    yield "the first tier denies", (FIRST, OPEN, everywhere("no-b", tier="first", **closed_x, order=5))
    yield (
        "the first tier allows",
        (
            FIRST,
            everywhere("first.b", tier="first", selector=X, ingress=[allow(**from_(B))]),
            everywhere("none", selector=X, ingress=[deny()]),
        ),
    )
    yield (
        "a rule passes on",
        (
            FIRST,
            everywhere("first.b", tier="first", selector=X, ingress=[go_on(**from_(B)), deny(**from_(C))]),
            everywhere("some", selector=X, ingress=[allow(**from_(B)), deny()]),
        ),
    )
    passing = tier("first", 10, "Pass")
    yield "the default passes on", (passing, everywhere("no-b", tier="first", **closed_x), base())
    yield "the default denies", (FIRST, everywhere("only-b", tier="first", selector=X, ingress=[allow(**from_(B))]))
    yield (
        "the default denies, said aloud",
        (
            tier("first", 10, "Deny"),
            everywhere("only-b", tier="first", selector=X, ingress=[go_on(**from_(B))]),
        ),
    )
    yield (
        "a tier without a policy for the workload",
        (
            FIRST,
            everywhere("of-y", tier="first", selector=Y, ingress=[deny(**from_(A))]),
            everywhere("of-x", selector=X, ingress=[allow(**from_(A))]),
        ),
    )
    yield (
        "order, not name",
        (
            tier("alpha", 20),
            tier("beta", 10),
            everywhere("alpha.no", tier="alpha", selector=X, ingress=[deny()]),
            everywhere("beta.yes", tier="beta", selector=X, ingress=[allow(**from_(A)), go_on(**from_(B)), deny()]),
        ),
    )
    yield (
        "without an order it is the last",
        (
            tier("alpha"),
            tier("beta", 2_000_000),
            everywhere("alpha.no", tier="alpha", selector=X, ingress=[deny()]),
            everywhere("beta.some", tier="beta", selector=X, ingress=[allow(**from_(A)), go_on()]),
            everywhere("pass", selector=X, ingress=[go_on(**from_(A)), go_on(**from_(B)), allow(**from_(C))]),
        ),
    )
    yield "passed on by the last tier", (everywhere("pass", selector=X, ingress=[go_on(**from_(A))]),)
    yield (
        "three tiers, passed twice",
        (
            FIRST,
            SECOND,
            everywhere("first.all", tier="first", egress=[go_on()]),
            everywhere("second.all", tier="second", egress=[deny(destination={"selector": Z}), go_on()]),
            everywhere("all", egress=[allow(destination={"selector": X}), allow(**to_ports("TCP", 80))]),
        ),
    )
    yield (
        "pass goes over the rest of the tier",
        (
            FIRST,
            everywhere("first.a", tier="first", order=1, selector=X, ingress=[go_on(**from_(B))]),
            everywhere("first.b", tier="first", order=2, selector=X, ingress=[deny(**from_(B)), allow()]),
        ),
    )


def _orders() -> Iterator[tuple[str, tuple[Object, ...]]]:
    no, yes = {"selector": X, "ingress": [deny(**from_(B))]}, {"selector": X, "ingress": [allow()]}
    yield "deny first", (everywhere("zzz", order=1, **no), everywhere("aaa", order=2, **yes))
    yield "allow first", (everywhere("zzz", order=1, **yes), everywhere("aaa", order=2, **no))
    yield "without order last", (everywhere("aaa", **no), everywhere("zzz", order=1e9, **yes))
    yield "of equal order by name", (everywhere("aaa", order=7, **no), everywhere("bbb", order=7, **yes))
    yield (
        "of equal order the global one first",
        (
            everywhere("zzz", order=7, **yes),
            within("x", "aaa", order=7, ingress=[deny()]),
        ),
    )
    yield "fractions", (everywhere("zzz", order=0.5, **no), everywhere("aaa", order=0.75, **yes))
    closed = netpol("closed", "x", EVERY, ingress=[{"from": [peer(of(pod="a"))]}])
    yield "before Kubernetes'", (closed, within("x", "few", order=10, ingress=[allow(**from_(B)), deny(**from_(A))]))
    yield "behind Kubernetes'", (closed, within("x", "few", order=2000, ingress=[deny(**from_(A)), allow(**from_(B))]))
    yield (
        "a tier over Kubernetes'",
        (
            FIRST,
            closed,
            everywhere("first.tcp", tier="first", ingress=[deny(**to_ports("TCP", 80)), go_on()]),
        ),
    )


def _actions() -> Iterator[tuple[str, tuple[Object, ...]]]:
    yield "log goes on", (everywhere("logs", selector=X, ingress=[log(), log(**from_(A)), allow(**from_(A))]),)
    yield "log alone", (everywhere("logs", selector=X, ingress=[log()]),)
    yield "a deny in front of an allow", (everywhere("one", selector=X, ingress=[deny(**from_(B)), allow()]),)
    yield "an allow in front of a deny", (everywhere("one", selector=X, ingress=[allow(**from_(B)), deny()]),)
    yield "no rule", (everywhere("none", selector=X),)
    yield "only egress rules", (everywhere("out", selector=X, egress=[allow(destination={"selector": Y})]),)
    yield "types without rules", (everywhere("out", selector=X, types=["Egress"]),)
    yield (
        "both types, one with rules",
        (everywhere("both", selector=A, types=["Ingress", "Egress"], ingress=[allow(**from_(B))]),),
    )
    yield (
        "at both ends",
        (
            within("x", "out", selector=A, egress=[deny(destination={"namespaceSelector": "ns == 'y'"}), allow()]),
            within("y", "in", selector=B, ingress=[allow(source={"namespaceSelector": "ns in {'x', 'z'}"})]),
        ),
    )
    staged = document("StagedGlobalNetworkPolicy", "closed", "", {"selector": X, "types": ["Ingress", "Egress"]})
    yield "a staged kind", (staged, everywhere("out", selector=A, egress=[allow(destination={"selector": Y})]))
    yield (
        "a tier of staged policies is absent",
        (
            FIRST,
            document("StagedGlobalNetworkPolicy", "first.none", "", {"tier": "first", "ingress": [deny()]}),
            document("StagedNetworkPolicy", "none", "x", {"ingress": [deny()]}),
            document("StagedKubernetesNetworkPolicy", "none", "y", {"podSelector": {}}),
        ),
    )
    yield "staged by its flag", ({**everywhere("closed", selector=X), "staged": True}, {**base(), "staged": True})
    yield (
        "the tiers that are there by themselves",
        (
            everywhere("kube-admin.b", tier="kube-admin", selector=X, ingress=[deny(**from_(B)), go_on(**from_(A))]),
            everywhere(
                "kube-baseline.c", tier="kube-baseline", selector=X, ingress=[allow(**from_(A)), deny(**from_(C))]
            ),
            everywhere("few", selector=X, ingress=[go_on(**from_(A)), go_on(**from_(C)), allow(**from_(B))]),
        ),
    )
    yield (
        "of hosts only",
        (
            everywhere("before-nat", preDNAT=True, applyOnForward=True, ingress=[deny()]),
            everywhere("untracked", doNotTrack=True, applyOnForward=True, ingress=[deny()], egress=[deny()]),
        ),
    )


def _selectors() -> Iterator[tuple[str, tuple[Object, ...]]]:
    for text in (
        "pod in {'a', 'c'}",
        "pod not in {'a', 'c'}",
        "pod != 'a'",
        "absent != 'a'",
        "has(pod)",
        "!has(pod)",
        "pod == 'a' || projectcalico.org/namespace == 'y' && pod != 'c'",
        "!(pod == 'a' || pod == 'b')",
        "projectcalico.org/namespace starts with 'x'",
        "kubernetes.io/metadata.name == 'x'",
        "pcns.ns contains 'y'",
        'pcns.ns ends with "z" && all()',
    ):
        yield f"on {text}", (everywhere("some", selector=text, ingress=[allow(**from_(A))]),)
        yield f"from {text}", (everywhere("some", selector=X, ingress=[allow(**from_(text))]),)
    yield "not of who is denied", (everywhere("some", selector=X, ingress=[deny(source={"notSelector": A}), allow()]),)
    yield "not of who is allowed", (everywhere("some", selector=X, ingress=[allow(source={"notSelector": A})]),)
    yield (
        "a selector and a notSelector",
        (
            everywhere(
                "some", selector=X, egress=[allow(destination={"selector": "has(pod)", "notSelector": f"{A} || {Z}"})]
            ),
        ),
    )


def _namespaces() -> Iterator[tuple[str, tuple[Object, ...]]]:
    yield "a selector is of the own namespace", (within("x", "some", ingress=[allow(**from_(B))]),)
    yield "a notSelector is of the own namespace", (within("x", "some", ingress=[allow(source={"notSelector": B})]),)
    yield (
        "no selector is of every namespace",
        (within("x", "some", ingress=[allow(source={"notNets": ["192.0.2.0/24"]}), allow(**to_ports("UDP", 80))]),),
    )
    for text in ("ns == 'y'", "ns != 'y'", "all()", "has(ns)", "!has(ns)", "projectcalico.org/name == 'z'", "global()"):
        yield f"namespaceSelector {text}", (within("x", "some", ingress=[allow(source={"namespaceSelector": text})]),)
        both = {"namespaceSelector": text, "selector": B}
        yield (
            f"namespaceSelector {text}, and a selector",
            (everywhere("some", selector=X, ingress=[deny(source=both), allow()]),),
        )
    yield "a global policy on namespaces", (everywhere("some", namespaceSelector="ns in {'x', 'y'}", selector=A),)
    yield (
        "a global policy on other namespaces",
        (everywhere("some", namespaceSelector="ns != 'x'", ingress=[allow(source={"selector": X})]),),
    )


def _nets(layout: Layout) -> Iterator[tuple[str, tuple[Object, ...]]]:
    for version in (4, 6):
        block, part = layout.block("z/c", version, 4), layout.block("z/c", version, 2)
        single = layout.block("y/b", version, 0)
        of_family = f"IPv{version}"
        yield f"{of_family} nets", (within("x", "some", ingress=[allow(source={"nets": [block, single]})]),)
        yield f"{of_family} nets denied", (within("x", "some", ingress=[deny(source={"nets": [block]}), allow()]),)
        yield (
            f"{of_family} nets and notNets",
            (within("x", "some", egress=[allow(destination={"nets": [block], "notNets": [part]}), deny()]),),
        )
        yield f"{of_family} notNets", (within("x", "some", egress=[allow(destination={"notNets": [part, single]})]),)
        yield (
            f"{of_family} nets at both ends, and a selector",
            (
                everywhere(
                    "one",
                    ingress=[deny(source={"nets": [single]}, destination={"nets": [block], "selector": C}), allow()],
                ),
            ),
        )
        yield f"{of_family} by ipVersion", (everywhere("one", selector=X, ingress=[allow(ipVersion=version)]),)
        every = "0.0.0.0/0" if version == 4 else "::/0"
        yield f"{of_family} whole", (within("x", "some", ingress=[allow(source={"nets": [every]})]),)

    def group(name: str, where: str, *keys: str, label: str) -> Object:
        kind = "NetworkSet" if where else "GlobalNetworkSet"
        addresses = [layout.block(key, version, 0) for key in keys for version in (4, 6)]
        return document(kind, name, where, {"nets": addresses}, {"group": label})

    of_everybody = group("many", "", "y/a", "z/b", label="good")
    of_x = group("few", "x", "y/c", label="good")
    by_label = {"selector": "group == 'good'"}
    yield "a global network set", (of_everybody, everywhere("some", selector=X, ingress=[allow(source=by_label)]))
    yield (
        "a global network set denied",
        (
            of_everybody,
            everywhere("some", selector=X, ingress=[deny(source=by_label), allow()]),
        ),
    )
    yield (
        "who is not in a network set",
        (
            of_everybody,
            everywhere("some", selector=X, ingress=[deny(source={"notSelector": "group == 'good'"}), allow()]),
        ),
    )
    yield "a network set of the namespace", (of_everybody, of_x, within("x", "some", ingress=[allow(source=by_label)]))
    yield "a network set of another namespace", (of_x, within("y", "some", ingress=[allow(source=by_label)]))
    yield (
        "network sets of no namespace",
        (
            of_everybody,
            of_x,
            within("x", "some", ingress=[allow(source={**by_label, "namespaceSelector": "global()"})]),
        ),
    )
    yield (
        "a namespaceSelector is no network set's of no namespace",
        (of_everybody, within("x", "some", ingress=[allow(source={**by_label, "namespaceSelector": "!has(ns)"})])),
    )
    yield (
        "network sets and workloads in one selector",
        (
            of_everybody,
            everywhere("some", selector=X, egress=[allow(destination={"selector": f"group == 'good' || {A}"})]),
        ),
    )
    yield (
        "a network set whose label is another",
        (
            group("bad", "", "y/a", label="bad"),
            of_everybody,
            everywhere("some", selector=X, ingress=[allow(source={"selector": "group != 'good'"})]),
        ),
    )


def _protocols() -> Iterator[tuple[str, tuple[Object, ...]]]:
    def case(name: str, *rules: Object) -> tuple[str, tuple[Object, ...]]:
        return name, (everywhere("some", selector=X, ingress=list(rules)),)

    yield case("a name", allow(**to_ports("TCP", "serve-80-tcp")))
    yield case("a name of another protocol", allow(**to_ports("UDP", "serve-80-tcp")))
    yield case("a name without protocol", allow(**to_ports(None, "serve-80-tcp", "serve-81-sctp")))
    yield case("a name denied", deny(**to_ports("UDP", "serve-80-udp")), allow())
    yield case("a name and a number", allow(**to_ports("TCP", 80, "serve-81-tcp")))
    yield case("a range", allow(**to_ports("SCTP", "70:80")))
    yield case("ranges and numbers", allow(**to_ports("UDP", "1:79", 81, "82:65535")))
    yield case("notPorts", allow(protocol="TCP", destination={"notPorts": [80]}))
    yield case("notPorts by name", allow(protocol="UDP", destination={"notPorts": ["serve-81-udp"]}))
    yield case("ports and notPorts", deny(protocol="TCP", destination={"ports": ["1:100"], "notPorts": [80]}), allow())
    yield case("of the source", allow(protocol="TCP", source={"ports": ["1024:65535"]}))
    yield case("of the source, denied", deny(protocol="UDP", source={"ports": ["1024:65535"]}), allow())
    yield case("of the source, low", allow(protocol="SCTP", source={"ports": ["1:1023"]}))
    yield case("of the source, not high", allow(protocol="TCP", source={"notPorts": ["1024:65535"]}))
    yield case("a number", allow(protocol=132), allow(protocol="17", destination={"ports": [81]}))
    yield case("not TCP", allow(notProtocol="TCP"))
    yield case("not UDP, denied", deny(notProtocol=17), allow())
    yield case("not ICMP, from b", allow(notProtocol="ICMP", **from_(B)))
    yield case("by protocol alone", allow(protocol="SCTP"), allow(protocol="UDP", **from_(C)))
    yield case("ICMP", allow(protocol="ICMP"))
    yield case("ICMPv6", allow(protocol="ICMPv6"))
    yield case("ICMP echo", allow(protocol="ICMP", icmp={"type": 8}), allow(protocol="TCP"))
    yield case("ICMP echo by code", allow(protocol="ICMP", icmp={"type": 8, "code": 0}))
    yield case("ICMP echo by another code", allow(protocol="ICMP", icmp={"type": 8, "code": 3}))
    yield case("ICMP unreachable", allow(protocol="ICMP", icmp={"type": 3, "code": 1}))
    yield case("ICMPv6 echo", allow(protocol="ICMPv6", icmp={"type": 128}))
    yield case("ICMPv6 echo denied", deny(protocol="ICMPv6", icmp={"type": 128, "code": 0}), allow())
    yield case("ICMP but echo", allow(protocol="ICMP", notICMP={"type": 8}))
    yield case("ICMP but unreachable", allow(protocol="ICMP", notICMP={"type": 3}))
    yield case("ICMPv6 but a code, denied", deny(protocol="ICMPv6", notICMP={"type": 128, "code": 1}), allow())
    far = [20_000 + 3 * number for number in range(20)]
    yield case("more ports than one match takes", allow(**to_ports("TCP", *far, 81)))
    yield case("more notPorts than one match takes", allow(protocol="TCP", destination={"notPorts": [*far, 81]}))


def _others() -> Iterator[Case]:
    def old(each: Object) -> Object:
        return {**each, "apiVersion": "crd.projectcalico.org/v1"}

    by_name = everywhere("first.only-b", ingress=[allow(**from_(B))], selector=X)
    yield Case("calico: others", "of the older group, its tier in its name", (Step((old(FIRST), old(by_name))),))
    twins = (
        netpol("few", "x", EVERY, ingress=[{"ports": [port(80)]}]),
        within("x", "few", ingress=[allow(**to_ports("UDP", 81))]),
    )
    yield Case("calico: others", "twins of two groups", (Step(twins),))
    pass_, close = tier("first", 10, "Pass"), tier("first", 10)
    only_b = everywhere("first.only-b", tier="first", selector=X, ingress=[allow(**from_(B))])
    steps = Step((pass_, only_b)), Step((close, only_b)), Step((close,)), Step((close, only_b)), Step()
    yield Case("calico: others", "a tier changes its default, and its policy comes and goes", steps)
    late, early = (everywhere("deny", order=order, selector=X, ingress=[deny(**from_(A))]) for order in (20, 5))
    yes = everywhere("yes", order=10, selector=X, ingress=[allow()])
    yield Case("calico: others", "an order changes", (Step((yes, late)), Step((yes, early)), Step((yes, late))))
    space = {"nets": ["10.244.0.0/16", "fd00:10:244::/48"]}
    group = document("GlobalNetworkSet", "group", "", {"nets": ["192.0.2.0/24"]}, {"group": "good"})
    grown = document("GlobalNetworkSet", "group", "", space, {"group": "good"})
    other = document("GlobalNetworkSet", "group", "", space, {"group": "bad"})
    few = everywhere("few", selector=X, ingress=[allow(**from_("group == 'good'"))])
    yield Case("calico: others", "a network set changes", tuple(Step((each, few)) for each in (group, grown, other)))
    relabelled = (
        Step((only_c := within("x", "c", ingress=[allow(**from_(C))]),)),
        Step((only_c,), labels={"x/b": {"pod": "c"}}),
    )
    yield Case("calico: others", "a workload's label changes", relabelled)


def calico_cases(layout: Layout) -> list[Case]:
    """Return all of them."""
    tables = {
        "tiers": _tiers(),
        "order": _orders(),
        "actions": _actions(),
        "selectors": _selectors(),
        "namespaces": _namespaces(),
        "nets": _nets(layout),
        "protocols": _protocols(),
    }
    single = [
        Case(f"calico: {category}", name, (Step(objects),))
        for category, table in tables.items()
        for name, objects in table
    ]
    return [*single, *_others()]
