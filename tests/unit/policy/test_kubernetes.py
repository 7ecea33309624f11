"""Kubernetes' objects: what they come to in the model, and what is refused."""

from __future__ import annotations

import ipaddress

import pytest

from bgpmesh.policy.kubernetes import Namespace
from bgpmesh.policy.objects import Read, read
from bgpmesh.policy.rule import SCTP, TCP, UDP, Action, Direction, Policy, Port, PortRange, Rule, Side
from bgpmesh.policy.selector import parse, show

Json = dict[str, object]

IN, OUT = Direction.INGRESS, Direction.EGRESS


def network_policy(spec: object, name: str = "web", namespace: str = "shop", **more: object) -> Json:
    """Return a NetworkPolicy as an API server would return it."""
    metadata: Json = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec, **more}


def lowered(spec: object, name: str = "web", namespace: str = "shop", **more: object) -> Policy:
    """Return what the policy comes to, which must be taken."""
    found = read([network_policy(spec, name, namespace, **more)])
    assert found.refused == []
    (policy,) = found.objects.values()
    assert isinstance(policy, Policy)
    return policy


def faults(found: Read) -> list[tuple[str, str]]:
    """Return (field, reason) of everything that was refused."""
    return [(remark.field, remark.reason) for remark in found.refused]


POD = "projectcalico.org/orchestrator == 'k8s'"  # Kubernetes' selectors mean workloads only


def side(selector: str | None = None, ports: tuple[Port, ...] = (), nets: str = "", less: str = "") -> Side:
    """Return one end of a packet; prefixes stand with blanks between."""
    return Side(
        tuple(map(ipaddress.ip_network, nets.split())),
        tuple(map(ipaddress.ip_network, less.split())),
        None if selector is None else parse(f"{selector} && {POD}"),
        ports=ports,
    )


def allow(protocol: int | None = None, source: Side | None = None, destination: Side | None = None) -> Rule:
    """Return a rule that allows."""
    return Rule(Action.ALLOW, protocol=protocol, source=source or Side(), destination=destination or Side())


def port(first: int, last: int | None = None) -> PortRange:
    """Return a port, or several."""
    return PortRange(first, last or first)


SHOP = "projectcalico.org/namespace == 'shop'"


def test_the_policy_of_the_documentation() -> None:
    """The first example of "Network Policies": database pods, three kinds of peers, both directions."""
    policy = lowered(
        {
            "podSelector": {"matchLabels": {"role": "db"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [
                        {"ipBlock": {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}},
                        {"namespaceSelector": {"matchLabels": {"project": "myproject"}}},
                        {"podSelector": {"matchLabels": {"role": "frontend"}}},
                    ],
                    "ports": [{"protocol": "TCP", "port": 6379}],
                }
            ],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}], "ports": [{"protocol": "TCP", "port": 5978}]}],
        },
        name="test-network-policy",
        namespace="default",
    )
    default = "projectcalico.org/namespace == 'default'"
    at = side(ports=(port(6379),))
    assert policy == Policy(
        "test-network-policy",
        "default",
        order=1000.0,
        selector=parse(f"{default} && role == 'db' && {POD}"),
        types=frozenset({IN, OUT}),
        ingress=(
            allow(TCP, side(nets="172.17.0.0/16", less="172.17.1.0/24"), at),
            allow(TCP, side("pcns.project == 'myproject'"), at),
            allow(TCP, side(f"{default} && role == 'frontend'"), at),
        ),
        egress=(allow(TCP, destination=side(ports=(port(5978),), nets="10.0.0.0/24")),),
    )


DEFAULTS = [
    ("default deny ingress", {"podSelector": {}, "policyTypes": ["Ingress"]}, {IN}, (), ()),
    ("allow all ingress", {"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]}, {IN}, (allow(),), ()),
    ("default deny egress", {"podSelector": {}, "policyTypes": ["Egress"]}, {OUT}, (), ()),
    ("allow all egress", {"podSelector": {}, "egress": [{}], "policyTypes": ["Egress"]}, {OUT}, (), (allow(),)),
    ("default deny all", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}, {IN, OUT}, (), ()),
    ("nothing is said", {}, {IN}, (), ()),
    ("types are empty", {"policyTypes": []}, {IN}, (), ()),
    ("everything is null", dict.fromkeys(("podSelector", "ingress", "egress", "policyTypes")), {IN}, (), ()),
    ("lists are empty", {"ingress": [], "egress": []}, {IN}, (), ()),
    ("egress is implied by its rules", {"egress": [{}]}, {IN, OUT}, (), (allow(),)),
    ("ingress alone implies nothing else", {"ingress": [{}]}, {IN}, (allow(),), ()),
]


@pytest.mark.parametrize(
    ("spec", "types", "ingress", "egress"), [row[1:] for row in DEFAULTS], ids=[r[0] for r in DEFAULTS]
)
def test_defaults(spec: Json, types: set[Direction], ingress: tuple[Rule, ...], egress: tuple[Rule, ...]) -> None:
    """The default policies of the documentation, and what absent and empty mean."""
    policy = lowered(spec)
    assert (policy.types, policy.ingress, policy.egress) == (frozenset(types), ingress, egress)
    assert show(policy.selector) == f"{SHOP} && {POD}"


def test_a_policy_without_a_spec_closes_the_namespace() -> None:
    """As for an API server, where every field of it has a default."""
    document = network_policy({})
    del document["spec"]
    (policy,) = read([document]).objects.values()
    assert policy == lowered({})


def test_rules_of_a_type_that_is_not_named_count_for_nothing() -> None:
    """They are left out, and a warning says so."""
    found = read([network_policy({"ingress": [{}], "egress": [{}], "policyTypes": ["Egress"]})])
    (policy,) = found.objects.values()
    assert isinstance(policy, Policy)
    assert (policy.ingress, policy.egress) == ((), (allow(),))
    reason = "has rules, which count for nothing: Ingress is not in policyTypes"
    assert found.warnings == [("NetworkPolicy shop/web", "spec.ingress", reason)]


PEERS = [
    ({"podSelector": {}}, SHOP),
    ({"podSelector": {"matchLabels": {"app": "a"}}}, f"{SHOP} && app == 'a'"),
    ({"namespaceSelector": {}}, "has(projectcalico.org/namespace)"),
    ({"namespaceSelector": {"matchLabels": {"env": "prod"}}}, "pcns.env == 'prod'"),
    ({"namespaceSelector": {}, "podSelector": {}}, "has(projectcalico.org/namespace)"),
    (
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "a"}}},
        "has(projectcalico.org/namespace) && app == 'a'",
    ),
    (
        {"namespaceSelector": {"matchLabels": {"env": "prod"}}, "podSelector": {"matchLabels": {"app": "a"}}},
        "pcns.env == 'prod' && app == 'a'",
    ),
    (
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "b"}}},
        "pcns.kubernetes.io/metadata.name == 'b'",
    ),
    (
        {"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["prod"]}]}},
        "has(projectcalico.org/namespace) && pcns.env != 'prod'",
    ),
    (
        {"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]}},
        "has(projectcalico.org/namespace) && !has(pcns.env)",
    ),
    (
        {"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "Exists"}]}},
        "has(pcns.env)",
    ),
]


@pytest.mark.parametrize(("peer", "expected"), PEERS)
def test_who_a_peer_is(peer: Json, expected: str) -> None:
    """The two selectors, absent, empty and with conditions, in both directions alike."""
    policy = lowered({"ingress": [{"from": [peer]}], "egress": [{"to": [peer]}]})
    assert policy.ingress == (allow(source=side(expected)),)
    assert policy.egress == (allow(destination=side(expected)),)


def test_peers_in_one_entry_are_and_and_in_two_are_or() -> None:
    """The distinction that the documentation warns about."""
    user, client = {"matchLabels": {"user": "alice"}}, {"matchLabels": {"role": "client"}}
    together = lowered({"ingress": [{"from": [{"namespaceSelector": user, "podSelector": client}]}]})
    apart = lowered({"ingress": [{"from": [{"namespaceSelector": user}, {"podSelector": client}]}]})
    assert together.ingress == (allow(source=side("pcns.user == 'alice' && role == 'client'")),)
    assert apart.ingress == (
        allow(source=side("pcns.user == 'alice'")),
        allow(source=side(f"{SHOP} && role == 'client'")),
    )


def test_every_operator_of_a_label_selector() -> None:
    """Labels first, by key; then the expressions as they stand."""
    policy = lowered(
        {
            "podSelector": {
                "matchLabels": {"b": "2", "a": "1", "empty": ""},
                "matchExpressions": [
                    {"key": "tier", "operator": "In", "values": ["x", "y"]},
                    {"key": "tier", "operator": "NotIn", "values": ["z"]},
                    {"key": "example.org/on", "operator": "Exists"},
                    {"key": "off", "operator": "DoesNotExist", "values": []},
                ],
            }
        }
    )
    assert show(policy.selector) == (
        f"{SHOP} && a == '1' && b == '2' && empty == '' && tier in {{'x', 'y'}} && tier != 'z'"
        f" && has(example.org/on) && !has(off) && {POD}"
    )


PORTS: list[tuple[list[Json] | None, dict[int | None, tuple[Port, ...]]]] = [
    (None, {None: ()}),
    ([], {None: ()}),
    ([{}], {TCP: ()}),
    ([{"protocol": "UDP"}], {UDP: ()}),
    ([{"port": 80}], {TCP: (port(80),)}),
    ([{"port": "http"}], {TCP: ("http",)}),
    ([{"port": 32000, "endPort": 32768, "protocol": "TCP"}], {TCP: (port(32000, 32768),)}),
    ([{"port": 80, "endPort": 80}], {TCP: (port(80),)}),
    ([{"port": 80}, {"port": 81}, {"port": 80}, {"port": "dns"}], {TCP: (port(80), port(81), "dns")}),
    ([{"port": 53}, {"port": 53, "protocol": "UDP"}], {TCP: (port(53),), UDP: (port(53),)}),
    ([{"port": 7, "protocol": "SCTP"}, {"protocol": "SCTP"}], {SCTP: ()}),
    ([{"protocol": "UDP"}, {"port": 7, "protocol": "UDP"}, {"port": 80}], {UDP: (), TCP: (port(80),)}),
    ([{"port": 1}, {"port": 65535}], {TCP: (port(1), port(65535))}),
]


@pytest.mark.parametrize(("ports", "expected"), PORTS)
def test_ports(ports: list[Json] | None, expected: dict[int | None, tuple[Port, ...]]) -> None:
    """One rule for each protocol and peer; absent is every port of every protocol, a port's protocol is TCP."""
    peers = [{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {"cidr": "2001:db8::/32"}}]
    policy = lowered({"ingress": [{"ports": ports}], "egress": [{"to": peers, "ports": ports}]})
    assert policy.ingress == tuple(
        allow(protocol, destination=side(ports=those)) for protocol, those in expected.items()
    )
    assert policy.egress == tuple(
        allow(protocol, destination=side(ports=those, nets=net))
        for net in ("10.0.0.0/8", "2001:db8::/32")
        for protocol, those in expected.items()
    )


def test_a_block_may_have_bits_beyond_its_length() -> None:
    """An API server takes it, and means the prefix."""
    block = {"cidr": "10.1.2.3/8", "except": ["10.4.5.6/16", "10.9.0.1/32"]}
    (rule,) = lowered({"ingress": [{"from": [{"ipBlock": block}]}]}).ingress
    assert rule.source == side(nets="10.0.0.0/8", less="10.4.0.0/16 10.9.0.1/32")


def test_staged() -> None:
    """Our own key, beside the kind."""
    assert lowered({}, staged=True).is_staged
    assert not lowered({}, staged=False).is_staged
    assert not lowered({}).is_staged


def peer_with(peer: object) -> Json:
    """Return a spec with one peer."""
    return {"ingress": [{"from": [peer]}]}


def pods_with(**expression: object) -> Json:
    """Return a spec with one expression."""
    return {"podSelector": {"matchExpressions": [expression]}}


def ports_with(**entry: object) -> Json:
    """Return a spec with one port."""
    return {"egress": [{"ports": [entry]}]}


AT_PEER, AT_PORT = "spec.ingress[0].from[0]", "spec.egress[0].ports[0]"
AT_EXPRESSION = "spec.podSelector.matchExpressions[0]"
NO_PORT_NAME = "not the name of a port: 1 to 15 of a-z, 0-9 and single '-', a letter among them"
NO_PREFIX = "not a prefix such as 192.0.2.0/24 or 2001:db8::/32"

REFUSED = [
    ([], "spec", "is a list, not a table"),
    ({"pods": {}}, "spec.pods", "is not known here"),
    ({"pod_selector": {}}, "spec.pod_selector", "is not known here: did you mean podSelector?"),
    ({"podSelector": []}, "spec.podSelector", "is a list, not a table"),
    ({"podSelector": {"app": "a"}}, "spec.podSelector.app", "is not known here"),
    ({"podSelector": {"matchLabels": []}}, "spec.podSelector.matchLabels", "is a list, not a table"),
    ({"podSelector": {"matchLabels": {"a": 1}}}, "spec.podSelector.matchLabels", "has 'a' = 1: both must be texts"),
    ({"podSelector": {"matchLabels": {1: "a"}}}, "spec.podSelector.matchLabels", "has 1 = 'a': both must be texts"),
    (
        {"podSelector": {"matchLabels": {"a b": "x"}}},
        "spec.podSelector.matchLabels",
        (
            "has 'a b', which is no label's key: a DNS name and '/' (or neither), then 1 to 63 of A-Z, a-z, 0-9,"
            " '-', '_' and '.', with a letter or digit at both ends"
        ),
    ),
    (
        {"podSelector": {"matchLabels": {"a": "x y"}}},
        "spec.podSelector.matchLabels",
        (
            "has 'x y', which is no label's value: at most 63 of A-Z, a-z, 0-9, '-', '_' and '.',"
            " with a letter or digit at both ends"
        ),
    ),
    (pods_with(operator="Exists"), f"{AT_EXPRESSION}.key", "is missing"),
    (pods_with(key="a"), f"{AT_EXPRESSION}.operator", "is missing: one of In, NotIn, Exists, DoesNotExist"),
    (
        pods_with(key="a", operator="exists"),
        f"{AT_EXPRESSION}.operator",
        "is 'exists', not one of In, NotIn, Exists, DoesNotExist",
    ),
    (pods_with(key="a", operator="In"), f"{AT_EXPRESSION}.values", "is empty: In and NotIn need a value"),
    (pods_with(key="a", operator="NotIn", values=[]), f"{AT_EXPRESSION}.values", "is empty: In and NotIn need a value"),
    (
        pods_with(key="a", operator="Exists", values=["x"]),
        f"{AT_EXPRESSION}.values",
        "stands beside Exists or DoesNotExist, which take none",
    ),
    (pods_with(key="a", operator="In", values="x"), f"{AT_EXPRESSION}.values", "is 'x', not a list"),
    ({"policyTypes": ["ingress"]}, "spec.policyTypes[0]", "is 'ingress', not one of Ingress, Egress"),
    ({"policyTypes": "Ingress"}, "spec.policyTypes", "is 'Ingress', not a list"),
    ({"policyTypes": ["Egress"] * 3}, "spec.policyTypes", "has 3 of them, the limit is 2"),
    ({"ingress": {}}, "spec.ingress", "is a table, not a list"),
    ({"ingress": [None]}, "spec.ingress[0]", "is null, not a table"),
    ({"ingress": [{"to": []}]}, "spec.ingress[0].to", "is not known here"),
    ({"egress": [{"from": []}]}, "spec.egress[0].from", "is not known here"),
    (peer_with({}), AT_PEER, "says nobody: a peer needs podSelector, namespaceSelector or ipBlock"),
    (peer_with("all"), AT_PEER, "is 'all', not a table"),
    (
        peer_with({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}),
        f"{AT_PEER}.ipBlock",
        "stands beside podSelector or namespaceSelector: a peer is one or the other",
    ),
    (peer_with({"ipBlock": {}}), f"{AT_PEER}.ipBlock.cidr", "is missing"),
    (peer_with({"ipBlock": {"cidr": "10.0.0.1"}}), f"{AT_PEER}.ipBlock.cidr", f"is '10.0.0.1', {NO_PREFIX}"),
    (peer_with({"ipBlock": {"cidr": "10.0.0.0/33"}}), f"{AT_PEER}.ipBlock.cidr", f"is '10.0.0.0/33', {NO_PREFIX}"),
    (
        peer_with({"ipBlock": {"cidr": "10.0.0.0/255.0.0.0"}}),
        f"{AT_PEER}.ipBlock.cidr",
        f"is '10.0.0.0/255.0.0.0', {NO_PREFIX}",
    ),
    (peer_with({"ipBlock": {"cidr": "fe80::%1/64"}}), f"{AT_PEER}.ipBlock.cidr", f"is 'fe80::%1/64', {NO_PREFIX}"),
    (peer_with({"ipBlock": {"cidr": 10}}), f"{AT_PEER}.ipBlock.cidr", f"is 10, {NO_PREFIX}"),
    (
        peer_with({"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}}),
        f"{AT_PEER}.ipBlock.cidr",
        "is '::ffff:10.0.0.0/104': IPv4 within IPv6 is on no wire; write it as IPv4",
    ),
    *(
        (
            peer_with({"ipBlock": {"cidr": "10.0.0.0/16", "except": [outside]}}),
            f"{AT_PEER}.ipBlock.except[0]",
            f"is {outside}, not a smaller part of 10.0.0.0/16",
        )
        for outside in ("10.1.0.0/24", "10.0.0.0/16", "10.0.0.0/8", "2001:db8::/32")
    ),
    (ports_with(port=0), f"{AT_PORT}.port", "is 0, not between 1 and 65535"),
    (ports_with(port=65536), f"{AT_PORT}.port", "is 65536, not between 1 and 65535"),
    (ports_with(port=80.0), f"{AT_PORT}.port", "is 80.0, not a whole number"),
    (ports_with(port=True), f"{AT_PORT}.port", "is true, not a whole number"),
    *(
        (ports_with(port=name), f"{AT_PORT}.port", f"is {name!r}, {NO_PORT_NAME}")
        for name in ("80", "", "HTTP", "a--b", "-a", "a-", "a" * 16, "8080-8090", "http\n")
    ),
    (ports_with(port=80, protocol="tcp"), f"{AT_PORT}.protocol", "is 'tcp', not one of TCP, UDP, SCTP"),
    (ports_with(port=80, protocol="ICMP"), f"{AT_PORT}.protocol", "is 'ICMP', not one of TCP, UDP, SCTP"),
    (ports_with(port=80, protocol=6), f"{AT_PORT}.protocol", "is 6, not one of TCP, UDP, SCTP"),
    (ports_with(port=80, endPort=79), f"{AT_PORT}.endPort", "is 79, less than port 80"),
    (ports_with(port="http", endPort=80), f"{AT_PORT}.endPort", "is 80, beside no number as port"),
    (ports_with(endPort=80), f"{AT_PORT}.endPort", "is 80, beside no number as port"),
    (ports_with(port=80, endPort=65536), f"{AT_PORT}.endPort", "is 65536, not between 1 and 65535"),
    (ports_with(port=80, endport=81), f"{AT_PORT}.endport", "is not known here: did you mean endPort?"),
]


@pytest.mark.parametrize(("spec", "field", "reason"), REFUSED)
def test_what_an_api_server_rejects_is_refused(spec: object, field: str, reason: str) -> None:
    """With its path, its value and the limit; nothing else is wrong, and nothing is taken."""
    found = read([network_policy(spec)])
    assert faults(found) == [(field, reason)]
    assert found.objects == {}


def test_every_fault_is_named_at_once() -> None:
    """In one pass, and each once."""
    spec = {
        "podSelector": {"matchLabels": {"a": 1}},
        "ingress": [{"from": [{"ipBlock": {"cidr": "x"}}, {}], "ports": [{"port": 0}]}],
        "policyTypes": ["Both"],
        "unknown": 1,
    }
    assert {field for field, _ in faults(read([network_policy(spec, status={"is": "ignored"})]))} == {
        "spec.podSelector.matchLabels",
        "spec.ingress[0].from[0].ipBlock.cidr",
        "spec.ingress[0].from[1]",
        "spec.ingress[0].ports[0].port",
        "spec.policyTypes[0]",
        "spec.unknown",
    }


def namespace(labels: object, name: str = "shop") -> Json:
    """Return a Namespace as an API server would return it."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


@pytest.mark.parametrize("given", [{"env": "prod"}, {"env": "prod", "kubernetes.io/metadata.name": "shop"}])
def test_a_namespace_has_its_automatic_labels(given: dict[str, str]) -> None:
    """Its name, as the API server and Calico write it."""
    (found,) = read([namespace(given)]).objects.values()
    automatic = {"kubernetes.io/metadata.name": "shop", "projectcalico.org/name": "shop"}
    assert found == Namespace("shop", {"env": "prod"} | automatic)


def test_a_namespace_cannot_have_the_name_of_another_as_label() -> None:
    """Policies match on it."""
    reason = "has kubernetes.io/metadata.name of another name: it is always shop"
    assert faults(read([namespace({"kubernetes.io/metadata.name": "other"})])) == [("metadata.labels", reason)]
