"""Calico's objects (projectcalico.org/v3, and the same in crd.projectcalico.org/v1) -> the model.

| kind                                                  | becomes        |
|-------------------------------------------------------|----------------|
| NetworkPolicy, GlobalNetworkPolicy, their staged kind | `Policy`       |
| StagedKubernetesNetworkPolicy                         | `Policy`       |
| Tier, Profile, NetworkSet, GlobalNetworkSet           | what they say  |
| HostEndpoint                                          | `HostEndpoint` |
| IPPool                                                | `IPPool`       |

How it is lowered:
 1. `types`, where absent, follow the rules present: only egress rules: Egress alone; both: both; else Ingress.
 2. A side of a rule that names anybody (`selector`, `notSelector`, `namespaceSelector`) is within the policy's own
    namespace, unless `namespaceSelector` says which; `global()` there is who is in no namespace. `namespaceSelector`
    never means who is in no namespace otherwise, also where it is a negation.
 3. A blank selector is an absent one.
 4. `first.deny`, and `deny` with `tier: first`, name the same policy: `deny` of the tier `first`.
 5. A rule's `metadata` and a policy's `performanceHints` change nothing.
 6. `stagedAction: Delete` and `Ignore` leave a staged policy that closes no direction.

Refused by name, since a packet filter that knows labels and addresses cannot do it: `http`, `services`,
`serviceAccounts`, `serviceAccountSelector`, a named port of a source, `notICMP` without the protocol that it is about,
`Pass` in a profile (nothing comes after it), pools with an overlay or with choices about giving addresses out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from bgpmesh.frozen import frozen
from bgpmesh.policy import kubernetes
from bgpmesh.policy.fields import (
    BadValueError,
    Fields,
    Head,
    address,
    dns_label,
    dns_name,
    network_or_address,
    port_name,
    port_number,
    shown,
    strict_network,
    whole,
)
from bgpmesh.policy.kubernetes import in_namespace, of_namespaces
from bgpmesh.policy.rule import (
    ICMP,
    ICMPV6,
    LAST,
    NAMESPACE_LABEL,
    PROTOCOLS,
    SCTP,
    TCP,
    UDP,
    Action,
    Direction,
    HostEndpoint,
    Icmp,
    IPNetwork,
    NetworkSet,
    Policy,
    Port,
    PortRange,
    Profile,
    Rule,
    Side,
    Tier,
)
from bgpmesh.policy.selector import Everything, Has, Not, Selector, all_of, is_global, is_remote_capable

DEFAULT_TIER = Tier("default", 1_000_000.0)
OWN_TIERS = {  # that exist by themselves; none of it can be changed
    "default": DEFAULT_TIER,
    "kube-admin": Tier("kube-admin", 1_000.0, Action.PASS),
    "kube-baseline": Tier("kube-baseline", 10_000_000.0, Action.PASS),
}
_OTHER_SYSTEMS = ("knp.default.", "ossg.default.")  # names of policies that Calico made of Kubernetes' and OpenStack's

_ACTIONS = {"Allow": Action.ALLOW, "Deny": Action.DENY, "Log": Action.LOG, "Pass": Action.PASS}
_TIER_ACTIONS = {"Deny": Action.DENY, "Pass": Action.PASS}
_STAGED_ACTIONS = {"Set": True, "Learn": True, "Delete": False, "Ignore": False}  # does it have rules?
_PROTOCOLS = {name: PROTOCOLS[name.lower()] for name in ("TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite")}
_WITH_PORTS = {TCP, UDP, SCTP}
_IP_VERSIONS = {ICMP: 4, ICMPV6: 6}
_HINTS = ("AssumeNeededOnEveryNode",)
_INTERFACE_LENGTH = 15  # IFNAMSIZ less one
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NOWHERE = strict_network("0.0.0.0/32")  # in the place of a prefix that was refused


@frozen
class IPPool:
    """A range of workload addresses; what becomes of them is said in the configuration."""

    name: str
    cidr: IPNetwork


def split_name(name: str, tier: str) -> tuple[str, str]:
    """Return (tier, name within it) of a policy that is written as `name`, with `tier` ("": none is given).

    Raises BadValueError where the name says one tier, and `tier` another.
    """
    if name.startswith(_OTHER_SYSTEMS):
        return tier or DEFAULT_TIER.name, name
    front, dot, rest = name.partition(".")
    if not dot:
        return tier or DEFAULT_TIER.name, name
    if "." in rest:
        raise BadValueError(f"is {shown(name)}, with more than one dot: a name is `name` or `tier.name`")
    if tier and tier != front:
        raise BadValueError(f"is {shown(name)}, which is of tier {front}, and spec.tier is {tier}")
    return dns_label(front), dns_label(rest)


def policy(head: Head, spec: Fields) -> Policy:
    """Return what a NetworkPolicy says."""
    return _policy(head, spec, in_namespace(head))


def global_policy(head: Head, spec: Fields) -> Policy:
    """Return what a GlobalNetworkPolicy says."""
    namespaces = spec.selector("namespaceSelector")
    found = _policy(head, spec, Everything() if namespaces is None else of_namespaces(namespaces))
    found = replace(
        found,
        is_untracked=spec.flag("doNotTrack"),
        is_pre_dnat=spec.flag("preDNAT"),
        is_on_forward=spec.flag("applyOnForward"),
    )
    for key, is_set in (("doNotTrack", found.is_untracked), ("preDNAT", found.is_pre_dnat)):
        if is_set and not found.is_on_forward:
            spec.refuse(key, "is true, and applyOnForward is not, which must be with it")
    if found.is_pre_dnat and found.is_untracked:
        spec.refuse("preDNAT", "is true, and so is doNotTrack: it can be one of them")
    if found.is_pre_dnat and (found.egress or Direction.EGRESS in found.types):
        spec.refuse("preDNAT", "is true, and such a policy has no egress rules and no type Egress")
    return found


def staged_policy(head: Head, spec: Fields) -> Policy:
    """Return what a StagedNetworkPolicy says."""
    return _as_staged(policy, head, spec)


def staged_global_policy(head: Head, spec: Fields) -> Policy:
    """Return what a StagedGlobalNetworkPolicy says."""
    return _as_staged(global_policy, head, spec)


def staged_kubernetes_policy(head: Head, spec: Fields) -> Policy:
    """Return what a StagedKubernetesNetworkPolicy says."""
    return _as_staged(kubernetes.policy, head, spec)


def tier(head: Head, spec: Fields) -> Tier:
    """Return a tier; those that exist by themselves are as they are."""
    own = OWN_TIERS.get(head.name)
    order = spec.number("order")
    default = spec.choice("defaultAction", _TIER_ACTIONS, Action.DENY)
    if own is None:
        return Tier(head.name, LAST if order is None else order, default)
    if order is not None and order != own.order:
        spec.refuse("order", f"is {order:g}: the tier {own.name} has {own.order:g}")
    if default is not own.default:
        spec.refuse("defaultAction", f"is {default.name.title()}: the tier {own.name} has {own.default.name.title()}")
    return own


def profile(head: Head, spec: Fields) -> Profile:
    """Return what holds after the last tier for those that name it."""
    rules = {key: spec.tables(key) for key in ("ingress", "egress")}
    for fields in (*rules["ingress"], *rules["egress"]):
        if fields.take("action") == "Pass":
            fields.refuse("action", "is Pass: after a profile comes nothing to pass to")
    labels = spec.labels("labelsToApply", are_own=True)
    ingress, egress = (tuple(_rule(head, fields) for fields in rules[key]) for key in ("ingress", "egress"))
    return Profile(head.name, labels, ingress, egress)


def network_set(head: Head, spec: Fields) -> NetworkSet:
    """Return addresses outside the cluster that have labels."""
    return NetworkSet(head.name, head.namespace, head.labels, spec.each("nets", network_or_address))


def host_endpoint(head: Head, spec: Fields) -> HostEndpoint:
    """Return an interface of a node."""
    ports: dict[tuple[str, int], int] = {}
    for fields in spec.tables("ports"):
        _required(fields, "name", "protocol", "port")
        name = fields.one("name", port_name)
        protocol = fields.one("protocol", _protocol)
        number = fields.whole("port", 1, 65535)
        if protocol is not None and protocol not in _WITH_PORTS:
            fields.refuse("protocol", "is none with ports: TCP, UDP or SCTP")
        if (
            name is not None
            and protocol is not None
            and number is not None
            and ports.setdefault((name, protocol), number) != number
        ):
            fields.refuse("name", f"is {name}, which is port {ports[name, protocol]} already")
    _required(spec, "node")
    interface = spec.one("interfaceName", _interface) if spec.text("interfaceName") else None
    if not spec.text("interfaceName") and not spec.count("expectedIPs"):
        spec.refuse("interfaceName", "is missing, and so is expectedIPs: one of them says which interface")
    return HostEndpoint(
        head.name,
        spec.one("node", dns_name) or "",
        interface,
        spec.each("expectedIPs", address),
        head.labels,
        spec.each("profiles", dns_name),
        ports,
    )


def ip_pool(head: Head, spec: Fields) -> IPPool:
    """Return a range of workload addresses."""
    _required(spec, "cidr")
    cidr = spec.one("cidr", strict_network)
    for key in ("ipipMode", "vxlanMode"):
        mode = spec.choice(key, {word: word for word in ("Never", "Always", "CrossSubnet")}, "Never")
        if mode != "Never":
            spec.refuse(key, f"is {mode}: there is no overlay here, only Never")
    if spec.flag("disableBGPExport"):
        spec.refuse("disableBGPExport", "is true: what is announced is said in the configuration")
    spec.whole("blockSize", 0, 128)  # the blocks are in the configuration; nothing follows from their size
    for key in ("nodeSelector", "namespaceSelector"):
        if spec.selector(key) not in (None, Everything()):
            spec.refuse(key, "says whose the addresses are: that is said in the configuration, by pod_cidrs")
    uses = spec.each("allowedUses", _use)
    if uses and "Workload" not in uses:
        spec.refuse("allowedUses", "is without Workload, and a pool here is for workloads")
    if spec.choice("assignmentMode", {"Automatic": True, "Manual": False}, True) is False:
        spec.refuse("assignmentMode", "is Manual: which addresses are given is said in the configuration")
    for key, cure in (("disabled", "by pod_cidrs"), ("natOutgoing", "by [pool.*] masquerade")):
        if spec.flag(key):
            spec.warn(key, f"is true, and changes nothing here: that is said in the configuration, {cure}")
    return IPPool(head.name, cidr or _NOWHERE)


def _as_staged(read: Callable[[Head, Fields], Policy], head: Head, spec: Fields) -> Policy:
    """Return the policy as one to be counted, and without a direction where it is about one that stands already."""
    word = spec.take("stagedAction")
    has_rules = spec.choice("stagedAction", _STAGED_ACTIONS, True)
    if word == "Delete":
        spec.take("tier")
        spec.refuse_rest("stands beside stagedAction Delete, which goes alone", is_empty_fine=True)
        return Policy(head.name, head.namespace, head.tier, selector=in_namespace(head), is_staged=True)
    found = read(replace(head, is_staged=True), spec)
    return found if has_rules else replace(found, types=frozenset())


def _policy(head: Head, spec: Fields, where: Selector) -> Policy:
    spec.take("tier")  # which the head has
    order = spec.number("order")
    if spec.text("serviceAccountSelector").strip():
        spec.refuse("serviceAccountSelector", "cannot be done: workloads have no service accounts here")
    spec.each("performanceHints", _hint)
    ingress, egress = (tuple(_rule(head, fields) for fields in spec.tables(key)) for key in ("ingress", "egress"))
    types = _types(spec, ingress, egress)
    if ingress and Direction.INGRESS not in types:
        spec.warn("ingress", kubernetes.ignored(Direction.INGRESS, "types"))
    if egress and Direction.EGRESS not in types:
        spec.warn("egress", kubernetes.ignored(Direction.EGRESS, "types"))
    return Policy(
        head.name,
        head.namespace,
        head.tier,
        LAST if order is None else order,
        all_of((where, spec.selector("selector") or Everything())),
        types,
        ingress if Direction.INGRESS in types else (),
        egress if Direction.EGRESS in types else (),
        is_staged=head.is_staged,
    )


def _types(spec: Fields, ingress: tuple[Rule, ...], egress: tuple[Rule, ...]) -> frozenset[Direction]:
    types = spec.each("types", kubernetes.policy_type)
    if len(set(types)) < len(types):
        spec.refuse("types", "names a direction twice")
    if types:
        return frozenset(types)
    return frozenset({Direction.EGRESS} if egress else ()) | ({Direction.INGRESS} if ingress or not egress else set())


def _rule(head: Head, fields: Fields) -> Rule:
    if fields.has("http"):
        fields.refuse("http", "cannot be done: a packet filter does not read HTTP")
    metadata = fields.table("metadata")
    if metadata is not None:
        metadata.texts("annotations")
    rule = Rule(
        fields.choice("action", _ACTIONS, Action.DENY, is_required=True),
        fields.one("ipVersion", _ip_version),
        fields.one("protocol", _protocol),
        fields.one("notProtocol", _protocol),
        _icmp(fields, "icmp"),
        _icmp(fields, "notICMP"),
        _side(head, fields, "source"),
        _side(head, fields, "destination"),
    )
    _check_ports(fields, rule)
    _check_versions(fields, rule)
    _check_icmp(fields, rule)
    return rule


def _side(head: Head, rule: Fields, key: str) -> Side:
    fields = rule.table(key)
    if fields is None:
        return Side()
    for absent, reason in (
        ("services", "cannot be done: there are no services here"),
        ("serviceAccounts", "cannot be done: workloads have no service accounts here"),
    ):
        if fields.has(absent):
            fields.refuse(absent, reason)
    selector, not_selector = fields.selector("selector"), fields.selector("notSelector")
    where = _namespaces(fields)
    for name, part in (("selector", selector), ("notSelector", not_selector), ("namespaceSelector", where)):
        if part is not None and not is_remote_capable(part):
            fields.warn(name, "asks for a part of a value: it knows the workloads of this node only")
    if where is None and (selector is not None or not_selector is not None) and head.namespace is not None:
        where = in_namespace(head)
    positive = [part for part in (where, selector) if part is not None]
    return Side(
        fields.each("nets", strict_network),
        fields.each("notNets", _negated_network),
        all_of(positive) if positive else None,
        not_selector,
        fields.each("ports", _port),
        fields.each("notPorts", _port),
    )


def _namespaces(fields: Fields) -> Selector | None:
    text = fields.text("namespaceSelector")
    if is_global(text):
        return Not(Has(NAMESPACE_LABEL))
    namespaces = fields.selector("namespaceSelector")
    return None if namespaces is None else of_namespaces(namespaces)


def _check_ports(fields: Fields, rule: Rule) -> None:
    """Refuse ports where the protocol has none, or is not said."""
    for key, ports in (
        ("source.ports", rule.source.ports),
        ("source.notPorts", rule.source.not_ports),
        ("destination.ports", rule.destination.ports),
        ("destination.notPorts", rule.destination.not_ports),
    ):
        named = [port for port in ports if isinstance(port, str)]
        if named and key.startswith("source"):
            fields.refuse(key, f"has {named[0]}: a name stands for a port of the destination")
        if rule.protocol is None:
            if len(named) < len(ports) and not fields.has("protocol"):
                fields.refuse(key, "has numbers, and protocol is missing: TCP, UDP or SCTP")
        elif ports and rule.protocol not in _WITH_PORTS:
            fields.refuse(key, f"stands beside protocol {shown(fields.take('protocol'))}: TCP, UDP and SCTP have ports")


def _check_versions(fields: Fields, rule: Rule) -> None:
    """Refuse a rule that is about both IPv4 and IPv6."""
    for key, protocol in (("protocol", rule.protocol), ("notProtocol", rule.not_protocol)):
        version = None if protocol is None else _IP_VERSIONS.get(protocol)
        if rule.ip_version is not None and version is not None and version != rule.ip_version:
            fields.refuse(key, f"is {shown(fields.take(key))} of IPv{version}, and ipVersion is {rule.ip_version}")
    about = rule.ip_version
    for key, nets in (
        ("source.nets", rule.source.nets),
        ("source.notNets", rule.source.not_nets),
        ("destination.nets", rule.destination.nets),
        ("destination.notNets", rule.destination.not_nets),
    ):
        for net in nets:
            about = about or net.version
            if net.version != about:
                fields.refuse(key, f"has {net} in a rule that is about IPv{about}")
                return


def _check_icmp(fields: Fields, rule: Rule) -> None:
    for key, icmp in (("icmp", rule.icmp), ("notICMP", rule.not_icmp)):
        is_refused_already = rule.protocol is None and fields.has("protocol")
        if icmp is not None and rule.protocol not in _IP_VERSIONS and not is_refused_already:
            fields.refuse(key, "needs protocol ICMP or ICMPv6")


def _icmp(rule: Fields, key: str) -> Icmp | None:
    fields = rule.table(key)
    if fields is None:
        return None
    kind, code = fields.whole("type", 0, 254), fields.whole("code", 0, 255)
    if fields.has("code") and not fields.has("type"):
        fields.refuse("code", "is there, and type is missing")
    return None if kind is None else Icmp(kind, code)


def _required(fields: Fields, *keys: str) -> None:
    for key in keys:
        if not fields.has(key):
            fields.refuse(key, "is missing")


def _ip_version(value: object) -> int:
    if value in (4, 6) and isinstance(value, int):
        return value
    raise BadValueError(f"is {shown(value)}, not 4 or 6")


def _protocol(value: object) -> int:
    """Return a protocol's number, of a name or a number, which may be in quotes."""
    if isinstance(value, str) and value in _PROTOCOLS:
        return _PROTOCOLS[value]
    if isinstance(value, int) or (isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < 4):
        return whole(value if isinstance(value, int) else int(value), 1, 255)
    raise BadValueError(f"is {shown(value)}, not one of {', '.join(_PROTOCOLS)} or a number from 1 to 255")


def _port(value: object) -> Port:
    """Return a port: a number, `first:last`, or a name."""
    if not isinstance(value, str):
        return port_number(value)
    first, colon, last = value.partition(":")
    if not _is_number(first) or (colon and not _is_number(last)):
        try:
            return port_name(value)
        except BadValueError as error:
            raise BadValueError(f"{error}, nor a number or first:last") from error
    low, high = whole(int(first), 1, 65535), whole(int(last if colon else first), 1, 65535)
    if low > high:
        raise BadValueError(f"is {shown(value)}: {low} is more than {high}")
    return PortRange(low, high)


def _is_number(text: str) -> bool:
    return 0 < len(text) <= 5 and text.isascii() and text.isdecimal()


def _negated_network(value: object) -> IPNetwork:
    found = strict_network(value)
    if found.prefixlen == 0:
        raise BadValueError(f"is {found}, without which nothing is left to match")
    return found


def _interface(value: object) -> str:
    is_name = isinstance(value, str) and len(value) <= _INTERFACE_LENGTH and _INTERFACE.fullmatch(value) is not None
    if isinstance(value, str) and (value == "*" or is_name):
        return value
    letters = "A-Z, a-z, 0-9, '_', '.' and '-', the first none of the last two"
    raise BadValueError(f"is {shown(value)}, not '*' or 1 to {_INTERFACE_LENGTH} of {letters}")


def _use(value: object) -> str:
    if value in ("Workload", "Tunnel", "LoadBalancer"):
        return str(value)
    raise BadValueError(f"is {shown(value)}, not one of Workload, Tunnel, LoadBalancer")


def _hint(value: object) -> str:
    if value in _HINTS:
        return str(value)
    raise BadValueError(f"is {shown(value)}, not one of {', '.join(_HINTS)}")
