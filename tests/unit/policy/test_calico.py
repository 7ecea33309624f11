"""Calico's objects: what they come to in the model, and what is refused."""

from __future__ import annotations

import ipaddress
from typing import TypeVar

import pytest

from bgpmesh.policy.calico import DEFAULT_TIER, IPPool
from bgpmesh.policy.objects import Read, Value, read
from bgpmesh.policy.rule import (
    ICMP,
    ICMPV6,
    LAST,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Action,
    Direction,
    HostEndpoint,
    Icmp,
    NetworkSet,
    Policy,
    PortRange,
    Profile,
    Rule,
    Side,
    Tier,
)
from bgpmesh.policy.selector import Selector, parse

Json = dict[str, object]
V = TypeVar("V", bound=Value)

IN, OUT = Direction.INGRESS, Direction.EGRESS
SHOP = "projectcalico.org/namespace == 'shop'"
INSIDE = "has(projectcalico.org/namespace)"
GLOBAL = "!has(projectcalico.org/namespace)"


def document(kind: str, spec: object, name: str = "web", namespace: str | None = None, **more: object) -> Json:
    """Return an object as an API server would return it."""
    metadata: Json = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec, **more}


def lowered(made: type[V], source: Json) -> V:
    """Return what the object comes to, which must be taken."""
    found = read([source])
    assert found.refused == []
    (value,) = found.objects.values()
    assert isinstance(value, made)
    return value


def in_shop(spec: object) -> Policy:
    """Return what a NetworkPolicy comes to."""
    return lowered(Policy, document("NetworkPolicy", spec, namespace="shop"))


def everywhere(spec: object) -> Policy:
    """Return what a GlobalNetworkPolicy comes to."""
    return lowered(Policy, document("GlobalNetworkPolicy", spec))


def rule_of(rule: Json) -> Rule:
    """Return what a rule of a GlobalNetworkPolicy comes to."""
    (found,) = everywhere({"ingress": [rule]}).ingress
    return found


def faults(found: Read) -> list[tuple[str, str]]:
    """Return (field, reason) of everything that was refused."""
    assert not found.objects
    return [(remark.field, remark.reason) for remark in found.refused]


def selector(text: str | None) -> Selector | None:
    """Return a selector, None for None."""
    return None if text is None else parse(text)


@pytest.mark.parametrize("version", ["projectcalico.org/v3", "crd.projectcalico.org/v1"])
def test_a_whole_policy(version: str) -> None:
    """Everything that a policy of a namespace can say, in either group."""
    source = document(
        "NetworkPolicy",
        {
            "tier": "first",
            "order": 10,
            "selector": "app == 'web'",
            "types": ["Ingress", "Egress"],
            "performanceHints": ["AssumeNeededOnEveryNode"],
            "serviceAccountSelector": "",
            "ingress": [
                {
                    "action": "Allow",
                    "metadata": {"annotations": {"why": "because"}},
                    "protocol": "TCP",
                    "source": {"selector": "app == 'client'", "ports": ["1024:65535"]},
                    "destination": {"ports": [80, "443", "metrics"], "notPorts": [81]},
                },
                {"action": "Log"},
                {"action": "Pass"},
            ],
            "egress": [{"action": "Deny", "destination": {"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"]}}],
        },
        name="first.web",
        namespace="shop",
    )
    source["apiVersion"] = version
    assert lowered(Policy, source) == Policy(
        "web",
        "shop",
        "first",
        10.0,
        parse(f"{SHOP} && app == 'web'"),
        frozenset({IN, OUT}),
        (
            Rule(
                Action.ALLOW,
                protocol=TCP,
                source=Side(selector=parse(f"{SHOP} && app == 'client'"), ports=(PortRange(1024, 65535),)),
                destination=Side(
                    ports=(PortRange(80, 80), PortRange(443, 443), "metrics"), not_ports=(PortRange(81, 81),)
                ),
            ),
            Rule(Action.LOG),
            Rule(Action.PASS),
        ),
        (
            Rule(
                Action.DENY,
                destination=Side(
                    (ipaddress.ip_network("10.0.0.0/8"),), not_nets=(ipaddress.ip_network("10.1.0.0/16"),)
                ),
            ),
        ),
    )


def test_a_policy_that_says_nothing() -> None:
    """It is the last of the default tier and closes the ingress of everybody it can mean."""
    assert in_shop({}) == Policy("web", "shop", "default", LAST, parse(SHOP), frozenset({IN}))
    assert everywhere({}) == Policy("web", None, "default", LAST, parse("all()"), frozenset({IN}))


RULES = [{"action": "Allow"}]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, {IN}),
        ({"ingress": RULES}, {IN}),
        ({"egress": RULES}, {OUT}),
        ({"ingress": RULES, "egress": RULES}, {IN, OUT}),
        ({"ingress": [], "egress": RULES, "types": None}, {OUT}),
        ({"ingress": [], "egress": [], "types": []}, {IN}),
        ({"types": ["Egress"]}, {OUT}),
        ({"types": ["Egress", "Ingress"]}, {IN, OUT}),
    ],
)
def test_types_follow_the_rules_present(spec: Json, expected: set[Direction]) -> None:
    """Where they are absent."""
    assert in_shop(spec).types == everywhere(spec).types == expected


@pytest.mark.parametrize(("types", "left_out"), [("Ingress", "egress"), ("Egress", "ingress")])
def test_rules_of_a_type_that_is_not_named_count_for_nothing(types: str, left_out: str) -> None:
    """They are left out, and a warning says so."""
    found = read([document("GlobalNetworkPolicy", {"types": [types], "ingress": RULES, "egress": RULES})])
    (policy,) = found.objects.values()
    assert isinstance(policy, Policy)
    assert {each: policy.rules(each) for each in Direction}[Direction(left_out)] == ()
    assert len(policy.ingress + policy.egress) == 1
    reason = f"has rules, which count for nothing: {left_out.title()} is not in types"
    assert found.warnings == [("GlobalNetworkPolicy web", f"spec.{left_out}", reason)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"selector": "app == 'a'"}, "app == 'a'"),
        ({"selector": " "}, "all()"),
        ({"namespaceSelector": "env == 'prod'"}, "pcns.env == 'prod'"),
        ({"namespaceSelector": "all()"}, INSIDE),
        ({"namespaceSelector": "env != 'prod'", "selector": "has(app)"}, f"{INSIDE} && pcns.env != 'prod' && has(app)"),
        ({"namespaceSelector": "!all()"}, "!all()"),
    ],
)
def test_whom_a_global_policy_is_for(spec: Json, expected: str) -> None:
    """Who is in no namespace is meant by no selector of namespaces."""
    assert everywhere(spec).selector == parse(expected)


SIDES: list[tuple[Json, str | None, str | None]] = [
    ({}, None, None),
    ({"nets": ["10.0.0.0/8"]}, None, None),
    ({"selector": "app == 'a'"}, f"{SHOP} && app == 'a'", "app == 'a'"),
    ({"selector": "all()"}, SHOP, "all()"),
    ({"selector": "a == 'x' || b == 'y'"}, f"{SHOP} && (a == 'x' || b == 'y')", "a == 'x' || b == 'y'"),
    ({"notSelector": "app == 'a'"}, SHOP, None),
    ({"namespaceSelector": "env == 'prod'"}, "pcns.env == 'prod'", "pcns.env == 'prod'"),
    ({"namespaceSelector": "all()", "selector": "has(app)"}, f"{INSIDE} && has(app)", f"{INSIDE} && has(app)"),
    ({"namespaceSelector": "global()"}, GLOBAL, GLOBAL),
    (
        {"namespaceSelector": "global( ) ", "selector": "role == 'dns'"},
        f"{GLOBAL} && role == 'dns'",
        f"{GLOBAL} && role == 'dns'",
    ),
    (
        {"namespaceSelector": "projectcalico.org/name in {'a', 'b'}"},
        "pcns.projectcalico.org/name in {'a', 'b'}",
        "pcns.projectcalico.org/name in {'a', 'b'}",
    ),
    ({"namespaceSelector": "!has(env)"}, f"{INSIDE} && !has(pcns.env)", f"{INSIDE} && !has(pcns.env)"),
    ({"namespaceSelector": " "}, None, None),
]


@pytest.mark.parametrize(("entity", "in_namespace", "at_large"), SIDES)
@pytest.mark.parametrize("end", ["source", "destination"])
def test_who_a_side_is(entity: Json, in_namespace: str | None, at_large: str | None, end: str) -> None:
    """In a policy of a namespace, and in a global one; at either end, in either direction."""
    spec = {"ingress": [{"action": "Allow", end: entity}], "egress": [{"action": "Deny", end: entity}]}
    for policy, expected in ((in_shop(spec), in_namespace), (everywhere(spec), at_large)):
        for rule in (*policy.ingress, *policy.egress):
            side: Side = getattr(rule, end)
            assert side.selector == selector(expected)
            not_selector = entity.get("notSelector")
            assert side.not_selector == selector(None if not_selector is None else str(not_selector))


@pytest.mark.parametrize("key", ["selector", "notSelector", "namespaceSelector"])
def test_a_part_of_a_value_is_not_known_of_other_nodes(key: str) -> None:
    """It is taken, and a warning says so; for whom the policy is, is a question of one node."""
    rule = {"action": "Allow", "source": {key: "a starts with 'x'"}}
    found = read([document("NetworkPolicy", {"selector": "a contains 'x'", "ingress": [rule]})])
    reason = "asks for a part of a value: it knows the workloads of this node only"
    assert found.warnings == [("NetworkPolicy default/web", f"spec.ingress[0].source.{key}", reason)]
    assert len(found.objects) == 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("TCP", TCP),
        ("UDP", UDP),
        ("ICMP", ICMP),
        ("ICMPv6", ICMPV6),
        ("SCTP", SCTP),
        ("UDPLite", UDPLITE),
        (1, ICMP),
        (255, 255),
        ("47", 47),
    ],
)
def test_protocols(said: object, expected: int) -> None:
    """By name or number, and their negation."""
    assert rule_of({"action": "Allow", "protocol": said}) == Rule(Action.ALLOW, protocol=expected)
    assert rule_of({"action": "Deny", "notProtocol": said}) == Rule(Action.DENY, not_protocol=expected)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"protocol": "ICMP", "icmp": {"type": 8}}, Rule(Action.ALLOW, protocol=ICMP, icmp=Icmp(8))),
        ({"protocol": 1, "icmp": {"type": 0, "code": 0}}, Rule(Action.ALLOW, protocol=ICMP, icmp=Icmp(0, 0))),
        (
            {"protocol": "ICMPv6", "ipVersion": 6, "notICMP": {"type": 254, "code": 255}},
            Rule(Action.ALLOW, 6, ICMPV6, not_icmp=Icmp(254, 255)),
        ),
        ({"icmp": {}, "notICMP": None}, Rule(Action.ALLOW)),
        ({"ipVersion": 4}, Rule(Action.ALLOW, 4)),
        ({"destination": {"ports": ["http"]}}, Rule(Action.ALLOW, destination=Side(ports=("http",)))),
        ({"source": None, "destination": {}, "metadata": {}}, Rule(Action.ALLOW)),
        (
            {"source": {"nets": ["2001:db8::/32"]}, "destination": {"notNets": ["2001:db8:1::/48"]}},
            Rule(
                Action.ALLOW,
                source=Side((ipaddress.ip_network("2001:db8::/32"),)),
                destination=Side(not_nets=(ipaddress.ip_network("2001:db8:1::/48"),)),
            ),
        ),
    ],
)
def test_what_else_a_rule_can_ask(rule: Json, expected: Rule) -> None:
    """ICMP, the version of IP, names of ports without a protocol, what is empty."""
    assert rule_of({"action": "Allow", **rule}) == expected


@pytest.mark.parametrize(
    ("name", "tier", "expected"),
    [
        ("deny", None, ("default", "deny")),
        ("deny", "", ("default", "deny")),
        ("deny", "first", ("first", "deny")),
        ("first.deny", "first", ("first", "deny")),
        ("first.deny", None, ("first", "deny")),
        ("default.deny", None, ("default", "deny")),
        ("default.deny", "default", ("default", "deny")),
        ("knp.default.a.b", "default", ("default", "knp.default.a.b")),
        ("ossg.default.a", None, ("default", "ossg.default.a")),
    ],
)
def test_a_policy_has_one_name_however_it_is_written(name: str, tier: str | None, expected: tuple[str, str]) -> None:
    """The tier may stand in the name, in the spec, or in both."""
    source = document("GlobalNetworkPolicy", {"tier": tier}, name=name)
    policy = lowered(Policy, source)
    assert (policy.tier, policy.name) == expected
    (key,) = read([source]).objects
    assert (key.tier, key.name, str(key)) == (*expected, f"GlobalNetworkPolicy {name}")


@pytest.mark.parametrize("flag", ["doNotTrack", "preDNAT", "applyOnForward"])
def test_policies_of_hosts(flag: str) -> None:
    """Before connection tracking, before destination NAT, for what is forwarded."""
    policy = everywhere({flag: True, "applyOnForward": True, "ingress": RULES})
    assert policy.is_on_forward
    assert policy.is_untracked is (flag == "doNotTrack")
    assert policy.is_pre_dnat is (flag == "preDNAT")


@pytest.mark.parametrize("kind", ["NetworkPolicy", "GlobalNetworkPolicy"])
def test_staged_in_our_own_way_and_in_calicos(kind: str) -> None:
    """Both come to the same policy, but for its kind."""
    namespace = "shop" if kind == "NetworkPolicy" else None
    spec = {"tier": "first", "order": 1.5, "ingress": RULES}
    ours = lowered(Policy, document(kind, spec, namespace=namespace, staged=True))
    assert ours.is_staged
    for action in ({}, {"stagedAction": "Set"}, {"stagedAction": "Learn"}):
        assert lowered(Policy, document(f"Staged{kind}", {**spec, **action}, namespace=namespace)) == ours


def test_a_staged_policy_of_kubernetes() -> None:
    """It is a NetworkPolicy of Kubernetes that is staged."""
    spec = {"podSelector": {"matchLabels": {"app": "a"}}, "egress": [{}]}
    policy = lowered(Policy, document("StagedKubernetesNetworkPolicy", spec, namespace="shop"))
    assert (policy.order, policy.types, policy.is_staged) == (1000.0, frozenset({IN, OUT}), True)
    assert policy.selector == parse(f"{SHOP} && app == 'a' && projectcalico.org/orchestrator == 'k8s'")
    assert policy.egress == (Rule(Action.ALLOW),)


@pytest.mark.parametrize("kind", ["StagedNetworkPolicy", "StagedGlobalNetworkPolicy", "StagedKubernetesNetworkPolicy"])
@pytest.mark.parametrize("spec", [{"stagedAction": "Delete", "ingress": []}, {"stagedAction": "Ignore"}])
def test_a_staged_action_about_another_policy_closes_nothing(kind: str, spec: Json) -> None:
    """It is taken, and has no direction."""
    policy = lowered(Policy, document(kind, spec))
    assert (policy.types, policy.ingress, policy.egress, policy.is_staged) == (frozenset(), (), (), True)


@pytest.mark.parametrize(
    ("name", "spec", "expected"),
    [
        ("first", {}, Tier("first", LAST, Action.DENY)),
        ("first", {"order": 5, "defaultAction": "Pass"}, Tier("first", 5.0, Action.PASS)),
        ("first", {"order": -1.5, "defaultAction": "Deny"}, Tier("first", -1.5, Action.DENY)),
        ("default", {}, DEFAULT_TIER),
        ("default", {"order": 1_000_000, "defaultAction": "Deny"}, DEFAULT_TIER),
        ("kube-admin", {"defaultAction": "Pass"}, Tier("kube-admin", 1000.0, Action.PASS)),
        ("kube-baseline", {"order": 1e7, "defaultAction": "Pass"}, Tier("kube-baseline", 1e7, Action.PASS)),
    ],
)
def test_tiers(name: str, spec: Json, expected: Tier) -> None:
    """Without an order a tier is the last; those that exist by themselves are as they are."""
    assert lowered(Tier, document("Tier", spec, name=name)) == expected


def test_network_sets() -> None:
    """Addresses are prefixes of full length, and bits beyond a length are masked."""
    nets = ["10.0.0.1/8", "192.0.2.1", "2001:db8::1", "2001:db8::/32"]
    expected = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "192.0.2.1/32", "2001:db8::1/128", "2001:db8::/32")))
    for kind, namespace in (("NetworkSet", "shop"), ("GlobalNetworkSet", None)):
        source = document(kind, {"nets": nets}, namespace=namespace)
        source["metadata"] = {"name": "web", "labels": {"role": "dns"}} | (
            {"namespace": namespace} if namespace else {}
        )
        assert lowered(NetworkSet, source) == NetworkSet("web", namespace, {"role": "dns"}, expected)


def test_host_endpoints() -> None:
    """By interface or by addresses, with names for ports."""
    spec = {
        "node": "n1",
        "interfaceName": "eth0.100",
        "expectedIPs": ["192.0.2.1", "2001:db8::1"],
        "profiles": ["open"],
        "ports": [
            {"name": "dns", "protocol": "UDP", "port": 53},
            {"name": "dns", "protocol": 6, "port": 53},
            {"name": "dns", "protocol": "TCP", "port": 53},
        ],
    }
    source = document("HostEndpoint", spec)
    source["metadata"] = {"name": "n1-eth0", "labels": {"role": "edge"}}
    assert lowered(HostEndpoint, source) == HostEndpoint(
        "n1-eth0",
        "n1",
        "eth0.100",
        (ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1")),
        {"role": "edge"},
        ("open",),
        {("dns", UDP): 53, ("dns", TCP): 53},
    )
    assert lowered(HostEndpoint, document("HostEndpoint", {"node": "n1", "interfaceName": "*"})).interface == "*"
    by_address = document("HostEndpoint", {"node": "n1", "interfaceName": "", "expectedIPs": ["192.0.2.1"]})
    assert lowered(HostEndpoint, by_address).interface is None


def test_profiles() -> None:
    """Labels for those that name it, and rules that hold after the last tier."""
    spec = {"labelsToApply": {"role": "open"}, "ingress": RULES, "egress": [{"action": "Deny"}]}
    expected = Profile("web", {"role": "open"}, (Rule(Action.ALLOW),), (Rule(Action.DENY),))
    assert lowered(Profile, document("Profile", spec)) == expected
    assert lowered(Profile, document("Profile", {})) == Profile("web", {}, (), ())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"cidr": "10.0.0.0/16"}, IPPool("web", ipaddress.ip_network("10.0.0.0/16"))),
        ({"cidr": "2001:db8::/48", "disabled": False}, IPPool("web", ipaddress.ip_network("2001:db8::/48"))),
        (
            {
                "cidr": "10.0.0.0/16",
                "blockSize": 26,
                "ipipMode": "Never",
                "vxlanMode": "Never",
                "nodeSelector": "all()",
                "namespaceSelector": "",
                "allowedUses": ["Workload", "Tunnel"],
                "assignmentMode": "Automatic",
                "disableBGPExport": False,
            },
            IPPool("web", ipaddress.ip_network("10.0.0.0/16")),
        ),
    ],
)
def test_pools(spec: Json, expected: IPPool) -> None:
    """What is said in the configuration may stand here in its usual form."""
    assert lowered(IPPool, document("IPPool", spec)) == expected


def test_what_a_pool_says_in_vain_is_told() -> None:
    """It is taken, as every cluster of Calico's has such; what it asks for is to be had in the configuration."""
    found = read([document("IPPool", {"cidr": "10.0.0.0/16", "disabled": True, "natOutgoing": True})])
    in_vain = "is true, and changes nothing here: that is said in the configuration"
    assert found.warnings == [
        ("IPPool web", "spec.disabled", f"{in_vain}, by pod_cidrs"),
        ("IPPool web", "spec.natOutgoing", f"{in_vain}, by [pool.*] masquerade"),
    ]
    assert (found.refused, len(found.objects)) == ([], 1)


def rule_with(**parts: object) -> Json:
    """Return a spec with one rule."""
    return {"ingress": [{"action": "Allow", **parts}]}


AT = "spec.ingress[0]"
NO_ACCOUNTS = "cannot be done: workloads have no service accounts here"
NO_PROTOCOL = "not one of TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255"
NO_PREFIX = "not a prefix such as 192.0.2.0/24 or 2001:db8::/32"
NO_PORT = "not the name of a port: 1 to 15 of a-z, 0-9 and single '-', a letter among them, nor a number or first:last"
GLOBAL_ALONE = "global() stands alone, as the namespaceSelector of a rule"

REFUSED = [
    ({"serviceAccountSelector": "all()"}, "spec.serviceAccountSelector", NO_ACCOUNTS),
    ({"performanceHints": ["Fast"]}, "spec.performanceHints[0]", "is 'Fast', not one of AssumeNeededOnEveryNode"),
    ({"order": "1"}, "spec.order", "is '1', not a number"),
    ({"order": True}, "spec.order", "is true, not a number"),
    ({"order": float("nan")}, "spec.order", "is nan, not a finite number"),
    ({"order": float("inf")}, "spec.order", "is inf, not a finite number"),
    ({"order": 10**5000}, "spec.order", "is a number of 16610 bits, not a finite number"),
    ({"tier": "a.b"}, "spec.tier", "is 'a.b', not 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"),
    ({"tier": 1}, "spec.tier", "is 1, not 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"),
    ({"types": ["Ingress", "Ingress"]}, "spec.types", "names a direction twice"),
    ({"types": ["ingress"]}, "spec.types[0]", "is 'ingress', not one of Ingress, Egress"),
    ({"selector": "a = 'x'"}, "spec.selector", "column 3: '=' is not understood here"),
    ({"selector": 1}, "spec.selector", "is 1, not a text"),
    ({"selector": "a == '\ud800'"}, "spec.selector", "is \"a == '\\ud800'\", not a text"),
    ({"selector": "global()"}, "spec.selector", f"column 1: {GLOBAL_ALONE}"),
    ({"ingress": [{}]}, f"{AT}.action", "is missing: one of Allow, Deny, Log, Pass"),
    ({"ingress": [{"action": "allow"}]}, f"{AT}.action", "is 'allow', not one of Allow, Deny, Log, Pass"),
    (rule_with(http={"methods": ["GET"]}), f"{AT}.http", "cannot be done: a packet filter does not read HTTP"),
    (rule_with(metadata={"annotations": {"a": 1}}), f"{AT}.metadata.annotations", "has 'a' = 1: both must be texts"),
    (rule_with(metadata={"labels": {}}), f"{AT}.metadata.labels", "is not known here"),
    (rule_with(ipVersion=5), f"{AT}.ipVersion", "is 5, not 4 or 6"),
    (rule_with(ipVersion="4"), f"{AT}.ipVersion", "is '4', not 4 or 6"),
    (rule_with(protocol="tcp"), f"{AT}.protocol", f"is 'tcp', {NO_PROTOCOL}"),
    (rule_with(protocol="1000"), f"{AT}.protocol", f"is '1000', {NO_PROTOCOL}"),
    (rule_with(protocol=0), f"{AT}.protocol", "is 0, not between 1 and 255"),
    (rule_with(protocol="256"), f"{AT}.protocol", "is 256, not between 1 and 255"),
    (rule_with(protocol=True), f"{AT}.protocol", "is true, not a whole number"),
    (rule_with(notProtocol=[]), f"{AT}.notProtocol", f"is a list, {NO_PROTOCOL}"),
    (rule_with(protocol="ICMP", icmp={"code": 0}), f"{AT}.icmp.code", "is there, and type is missing"),
    (rule_with(protocol="ICMP", icmp={"type": 255}), f"{AT}.icmp.type", "is 255, not between 0 and 254"),
    (rule_with(protocol="ICMP", icmp={"type": 8, "code": 256}), f"{AT}.icmp.code", "is 256, not between 0 and 255"),
    (rule_with(icmp={"type": 8}), f"{AT}.icmp", "needs protocol ICMP or ICMPv6"),
    (rule_with(protocol="TCP", icmp={"type": 8}), f"{AT}.icmp", "needs protocol ICMP or ICMPv6"),
    (rule_with(notICMP={"type": 8}), f"{AT}.notICMP", "needs protocol ICMP or ICMPv6"),
    (rule_with(protocol="tcp", icmp={"type": 8}), f"{AT}.protocol", f"is 'tcp', {NO_PROTOCOL}"),
    (rule_with(protocol="ICMP", ipVersion=6), f"{AT}.protocol", "is 'ICMP' of IPv4, and ipVersion is 6"),
    (rule_with(notProtocol=58, ipVersion=4), f"{AT}.notProtocol", "is 58 of IPv6, and ipVersion is 4"),
    (
        rule_with(source={"nets": ["10.0.0.0/8", "2001:db8::/32"]}),
        f"{AT}.source.nets",
        "has 2001:db8::/32 in a rule that is about IPv4",
    ),
    (
        rule_with(source={"nets": ["2001:db8::/32"]}, destination={"notNets": ["10.0.0.0/8"]}),
        f"{AT}.destination.notNets",
        "has 10.0.0.0/8 in a rule that is about IPv6",
    ),
    (
        rule_with(ipVersion=6, destination={"nets": ["10.0.0.0/8"]}),
        f"{AT}.destination.nets",
        "has 10.0.0.0/8 in a rule that is about IPv6",
    ),
    (rule_with(source={"nets": ["10.0.0.1"]}), f"{AT}.source.nets[0]", f"is '10.0.0.1', {NO_PREFIX}"),
    (
        rule_with(source={"nets": ["10.0.0.1/8"]}),
        f"{AT}.source.nets[0]",
        "is '10.0.0.1/8', with bits set beyond its length: write 10.0.0.0/8",
    ),
    (
        rule_with(source={"notNets": ["0.0.0.0/0"]}),
        f"{AT}.source.notNets[0]",
        "is 0.0.0.0/0, without which nothing is left to match",
    ),
    (
        rule_with(source={"selector": "(a"}),
        f"{AT}.source.selector",
        "column 3: expected ==, !=, in or not in, not the end",
    ),
    (rule_with(source={"selector": "global()"}), f"{AT}.source.selector", f"column 1: {GLOBAL_ALONE}"),
    (
        rule_with(source={"notSelector": "!"}),
        f"{AT}.source.notSelector",
        "column 2: expected a label, has(..), all(), ! or (, not the end",
    ),
    (
        rule_with(source={"namespaceSelector": "has(a) || global()"}),
        f"{AT}.source.namespaceSelector",
        f"column 11: {GLOBAL_ALONE}",
    ),
    (rule_with(source={"namespaceSelector": 1}), f"{AT}.source.namespaceSelector", "is 1, not a text"),
    (
        rule_with(source={"services": {"name": "a"}}),
        f"{AT}.source.services",
        "cannot be done: there are no services here",
    ),
    (rule_with(destination={"serviceAccounts": {"names": ["a"]}}), f"{AT}.destination.serviceAccounts", NO_ACCOUNTS),
    (rule_with(source={"domains": ["a"]}), f"{AT}.source.domains", "is not known here"),
    (
        rule_with(destination={"ports": [80]}),
        f"{AT}.destination.ports",
        "has numbers, and protocol is missing: TCP, UDP or SCTP",
    ),
    (
        rule_with(notProtocol="ICMP", source={"notPorts": ["80"]}),
        f"{AT}.source.notPorts",
        "has numbers, and protocol is missing: TCP, UDP or SCTP",
    ),
    (
        rule_with(protocol="UDPLite", destination={"notPorts": ["http"]}),
        f"{AT}.destination.notPorts",
        "stands beside protocol 'UDPLite': TCP, UDP and SCTP have ports",
    ),
    (rule_with(protocol="tcp", destination={"ports": [80]}), f"{AT}.protocol", f"is 'tcp', {NO_PROTOCOL}"),
    (
        rule_with(protocol="TCP", source={"ports": [80, "http"]}),
        f"{AT}.source.ports",
        "has http: a name stands for a port of the destination",
    ),
    *(
        (rule_with(protocol="TCP", destination={"ports": [said]}), f"{AT}.destination.ports[0]", reason)
        for said, reason in (
            (0, "is 0, not between 1 and 65535"),
            ("0", "is 0, not between 1 and 65535"),
            ("65536", "is 65536, not between 1 and 65535"),
            ("90:80", "is '90:80': 90 is more than 80"),
            ("0:80", "is 0, not between 1 and 65535"),
            (80.5, "is 80.5, not a whole number"),
            (None, "is null, not a whole number"),
            ("80-90", f"is '80-90', {NO_PORT}"),
            ("80:", f"is '80:', {NO_PORT}"),
            (":80", f"is ':80', {NO_PORT}"),
            ("80:90:100", f"is '80:90:100', {NO_PORT}"),
            ("123456", f"is '123456', {NO_PORT}"),
            ("\u0663", f"is '\u0663', {NO_PORT}"),
            ("HTTP", f"is 'HTTP', {NO_PORT}"),
            ("", f"is '', {NO_PORT}"),
        )
    ),
    ({"egress": [{"action": "Allow", "source": []}]}, "spec.egress[0].source", "is a list, not a table"),
    ({"unknown": 1}, "spec.unknown", "is not known here"),
]


@pytest.mark.parametrize(("spec", "field", "reason"), REFUSED)
@pytest.mark.parametrize("kind", ["NetworkPolicy", "GlobalNetworkPolicy"])
def test_what_calico_rejects_or_we_cannot_do_is_refused(kind: str, spec: Json, field: str, reason: str) -> None:
    """With its path, its value and the limit; nothing else is wrong, and nothing is taken."""
    assert faults(read([document(kind, spec)])) == [(field, reason)]


def metadata(**more: object) -> Json:
    """Return the metadata of an object."""
    return {"name": "web", **more}


NAMESPACE_ALONE = "which is given by the namespace alone"

OTHERS = [
    ("NetworkPolicy", {"namespaceSelector": "all()"}, "spec.namespaceSelector", "is not known here"),
    ("NetworkPolicy", {"applyOnForward": True}, "spec.applyOnForward", "is not known here"),
    ("GlobalNetworkPolicy", {"namespaceSelector": "global()"}, "spec.namespaceSelector", f"column 1: {GLOBAL_ALONE}"),
    ("GlobalNetworkPolicy", {"doNotTrack": "yes"}, "spec.doNotTrack", "is 'yes', not true or false"),
    (
        "GlobalNetworkPolicy",
        {"doNotTrack": True},
        "spec.doNotTrack",
        "is true, and applyOnForward is not, which must be with it",
    ),
    (
        "GlobalNetworkPolicy",
        {"preDNAT": True},
        "spec.preDNAT",
        "is true, and applyOnForward is not, which must be with it",
    ),
    (
        "GlobalNetworkPolicy",
        {"preDNAT": True, "doNotTrack": True, "applyOnForward": True},
        "spec.preDNAT",
        "is true, and so is doNotTrack: it can be one of them",
    ),
    *(
        (
            "GlobalNetworkPolicy",
            {"preDNAT": True, "applyOnForward": True, **more},
            "spec.preDNAT",
            "is true, and such a policy has no egress rules and no type Egress",
        )
        for more in ({"egress": RULES}, {"types": ["Ingress", "Egress"]})
    ),
    (
        "StagedNetworkPolicy",
        {"stagedAction": "set"},
        "spec.stagedAction",
        "is 'set', not one of Set, Learn, Delete, Ignore",
    ),
    (
        "StagedNetworkPolicy",
        {"stagedAction": "Delete", "tier": "first", "ingress": RULES},
        "spec.ingress",
        "stands beside stagedAction Delete, which goes alone",
    ),
    ("StagedKubernetesNetworkPolicy", {"tier": "first"}, "spec.tier", "is not known here"),
    ("Tier", {"defaultAction": "Allow"}, "spec.defaultAction", "is 'Allow', not one of Deny, Pass"),
    ("NetworkSet", {"nets": ["10.0.0.0/33"]}, "spec.nets[0]", f"is '10.0.0.0/33', {NO_PREFIX}"),
    (
        "NetworkSet",
        {"nets": ["1.2.3"]},
        "spec.nets[0]",
        "is '1.2.3', not an address such as 192.0.2.1 or 2001:db8::1",
    ),
    ("HostEndpoint", {"interfaceName": "eth0"}, "spec.node", "is missing"),
    (
        "HostEndpoint",
        {"node": "n1"},
        "spec.interfaceName",
        "is missing, and so is expectedIPs: one of them says which interface",
    ),
    *(
        (
            "HostEndpoint",
            {"node": "n1", "interfaceName": said},
            "spec.interfaceName",
            f"is {said!r}, not '*' or 1 to 15 of A-Z, a-z, 0-9, '_', '.' and '-', the first none of the last two",
        )
        for said in ("eth*", "a/b", "a" * 16, "a b")
    ),
    (
        "HostEndpoint",
        {"node": "n1", "interfaceName": "*", "expectedIPs": ["192.0.2.0/24"]},
        "spec.expectedIPs[0]",
        "is '192.0.2.0/24', not an address such as 192.0.2.1 or 2001:db8::1",
    ),
    (
        "HostEndpoint",
        {"node": "n1", "interfaceName": "*", "ports": [{"name": "a", "protocol": "ICMP", "port": 1}]},
        "spec.ports[0].protocol",
        "is none with ports: TCP, UDP or SCTP",
    ),
    (
        "HostEndpoint",
        {
            "node": "n1",
            "interfaceName": "*",
            "ports": [{"name": "a", "protocol": "TCP", "port": 1}, {"name": "a", "protocol": 6, "port": 2}],
        },
        "spec.ports[1].name",
        "is a, which is port 1 already",
    ),
    (
        "HostEndpoint",
        {"node": "n1", "interfaceName": "*", "ports": [{"name": "a", "port": 1}]},
        "spec.ports[0].protocol",
        "is missing",
    ),
    (
        "Profile",
        {"ingress": [{"action": "Pass"}]},
        "spec.ingress[0].action",
        "is Pass: after a profile comes nothing to pass to",
    ),
    ("Profile", {"labelsToApply": {"pcns.env": "prod"}}, "spec.labelsToApply", f"has 'pcns.env', {NAMESPACE_ALONE}"),
    ("IPPool", {}, "spec.cidr", "is missing"),
    (
        "IPPool",
        {"cidr": "10.0.0.1/8"},
        "spec.cidr",
        "is '10.0.0.1/8', with bits set beyond its length: write 10.0.0.0/8",
    ),
    *(
        ("IPPool", {"cidr": "10.0.0.0/8", key: value}, f"spec.{key}", reason)
        for key, value, reason in (
            ("ipipMode", "Always", "is Always: there is no overlay here, only Never"),
            ("vxlanMode", "CrossSubnet", "is CrossSubnet: there is no overlay here, only Never"),
            ("vxlanMode", "on", "is 'on', not one of Never, Always, CrossSubnet"),
            ("disableBGPExport", True, "is true: what is announced is said in the configuration"),
            ("blockSize", 129, "is 129, not between 0 and 128"),
            ("nodeSelector", "has(a)", "says whose the addresses are: that is said in the configuration, by pod_cidrs"),
            (
                "namespaceSelector",
                "has(a)",
                "says whose the addresses are: that is said in the configuration, by pod_cidrs",
            ),
            ("allowedUses", ["Tunnel"], "is without Workload, and a pool here is for workloads"),
            ("assignmentMode", "Manual", "is Manual: which addresses are given is said in the configuration"),
        )
    ),
    (
        "IPPool",
        {"cidr": "10.0.0.0/8", "allowedUses": ["Workload", "All"]},
        "spec.allowedUses[1]",
        "is 'All', not one of Workload, Tunnel, LoadBalancer",
    ),
]


@pytest.mark.parametrize(("kind", "spec", "field", "reason"), OTHERS)
def test_each_kind_has_its_own_rules(kind: str, spec: Json, field: str, reason: str) -> None:
    """What Calico rejects, and what cannot be done here."""
    assert faults(read([document(kind, spec)])) == [(field, reason)]


@pytest.mark.parametrize(
    ("name", "spec", "expected"),
    [
        ("default", {"order": 5}, [("spec.order", "is 5: the tier default has 1e+06")]),
        ("default", {"defaultAction": "Pass"}, [("spec.defaultAction", "is Pass: the tier default has Deny")]),
        ("kube-admin", {}, [("spec.defaultAction", "is Deny: the tier kube-admin has Pass")]),
    ],
)
def test_tiers_that_exist_by_themselves_stay(name: str, spec: Json, expected: list[tuple[str, str]]) -> None:
    """Their order and default action are part of what they are."""
    assert faults(read([document("Tier", spec, name=name)])) == expected


@pytest.mark.parametrize("kind", ["NetworkSet", "GlobalNetworkSet", "HostEndpoint"])
@pytest.mark.parametrize("label", ["projectcalico.org/namespace", "pcns.env"])
def test_nobody_claims_a_namespace_by_a_label(kind: str, label: str) -> None:
    """Policies of that namespace would let it in."""
    spec = {"node": "n1", "interfaceName": "*"} if kind == "HostEndpoint" else {}
    source = document(kind, spec)
    source["metadata"] = metadata(labels={label: "shop"})
    assert faults(read([source])) == [("metadata.labels", f"has '{label}', {NAMESPACE_ALONE}")]


@pytest.mark.parametrize(
    ("name", "tier", "reason"),
    [
        ("second.deny", "first", "is 'second.deny', which is of tier second, and spec.tier is first"),
        ("a.b.c", None, "is 'a.b.c', with more than one dot: a name is `name` or `tier.name`"),
        (
            f"{'t' * 64}.deny",
            None,
            f"is {'t' * 60 + '..'!r}, not 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends",
        ),
    ],
)
def test_a_name_that_says_another_tier_is_refused(name: str, tier: str | None, reason: str) -> None:
    """It would be two policies to two readers."""
    assert faults(read([document("GlobalNetworkPolicy", {"tier": tier}, name=name)])) == [("metadata.name", reason)]
