"""Host endpoints: where they are enforced, what is asked of a packet there and in which order, and what is not."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.policy.chains import AddressSet, ChainKey, Rules, bare
from bgpmesh.policy.explain import Explanation, explain, why_not
from bgpmesh.policy.iptables import BIN, HOOKS, ICMPV6_OF_HOSTS, SPARE, Options, render
from bgpmesh.policy.model import Model, Packet
from bgpmesh.policy.objects import read
from bgpmesh.policy.protection import Protection, Surroundings
from bgpmesh.policy.rule import ICMPV6, TCP, UDP, Action, Failsafe, Icmp
from bgpmesh.route.nlri import IPAddress
from bgpmesh.workload.endpoint import Endpoint
from tests.property.chains import IN, OUT, THROUGH, Flow, Tables, Way, travel

OUTSIDE, NODE, WEB = map(ipaddress.ip_address, ("198.51.100.7", "192.0.2.1", "10.0.1.1"))
OUTSIDE6, NODE6 = map(ipaddress.ip_address, ("2001:db8::7", "2001:db8:1::1"))
ENDPOINT = Endpoint("web", "shop", (("app", "web"),), (WEB,), "bgpmweb", "/run/netns/web")
AROUND = Surroundings((ipaddress.ip_network("10.0.0.0/16"),), frozenset({NODE, NODE6}), node="n1")

Json = dict[str, object]


def document(kind: str, name: str, labels: dict[str, str] | None = None, **spec: object) -> Json:
    """Return an object of Calico's."""
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": name, "labels": labels or {}},
        "spec": spec,
    }


def endpoint(name: str, interface: str, **spec: object) -> Json:
    """Return a host endpoint of this node."""
    return document("HostEndpoint", name, {"name": name}, node="n1", interfaceName=interface, **spec)


def rule(action: str, port: int | None = None, protocol: str = "TCP", side: str = "destination") -> Json:
    """Return a rule about a port, or about everything."""
    return {"action": action} if port is None else {"action": action, "protocol": protocol, side: {"ports": [port]}}


def policy(name: str, ingress: object = None, egress: object = None, **spec: object) -> Json:
    """Return a policy on every host endpoint and no workload."""
    rules = {key: each for key, each in (("ingress", ingress), ("egress", egress)) if each is not None}
    return document("GlobalNetworkPolicy", name, None, **{"selector": "has(name)", **rules, **spec})


class Node:
    """What a node makes of objects."""

    def __init__(self, *documents: Json, options: Options = Options(), workloads: bool = True) -> None:
        found = read(documents)
        assert found.refused == []
        self.protection = Protection()
        self.protection.objects = found.objects
        self.options = options
        workload = {ENDPOINT.key: ENDPOINT} if workloads else {}
        around = replace(AROUND, options=options)
        self.chains, self.sets = self.protection.wanted(workload, around, {}, is_needed=workloads)
        self.tables: dict[int, Tables] = {4: {}, 6: {}}
        for key, rules in self.chains.items():
            self.tables[key.family].setdefault(key.table, {})[key.chain] = list(rules)

    def run(self, way: Way, packet: Packet, **change: object) -> str | None:
        """Return what becomes of a packet from eth0 or to it."""
        flow = replace(Flow(packet, "eth0", "eth0"), **change)  # type: ignore[arg-type]
        return travel(self.tables[packet.family], self.sets, flow, way)

    def explain(self, packet: Packet) -> Explanation:
        """Return why."""
        return explain(self.protection.compiled, packet, self.options)

    def text(self, table: str, chain: str, family: int = 4) -> list[str]:
        """Return the rules of a chain without their ids."""
        return [bare(each) for each in self.chains[ChainKey(family, table, chain)]]


def tcp(port: int, source: IPAddress = OUTSIDE, destination: IPAddress = NODE, protocol: int = TCP) -> Packet:
    """Return the first packet of a connection."""
    return Packet(source, destination, protocol, 40_000, port, into="eth0", out="eth0")


ALL = endpoint("all", "*")


# ── the host itself ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("interface", ["*", "eth0"])
@pytest.mark.parametrize("documents", [(), (policy("none", [], [], types=["Ingress", "Egress"]),)])
def test_a_closed_host_keeps_its_failsafe_ports(interface: str, documents: tuple[Json, ...]) -> None:
    """Without a policy, and with one that denies all: ssh, BGP and BFD come in, BGP, BFD and DNS go out; no more."""
    node = Node(endpoint("e", interface), *documents)
    into = {(protocol, port): node.run(IN, tcp(port, protocol=protocol)) for protocol in (TCP, UDP) for port in PORTS}
    assert {(TCP, 22), (TCP, 179), (UDP, 3784), (UDP, 4784)} == {key for key, said in into.items() if said != "DROP"}
    out = {(p, port): node.run(OUT, tcp(port, NODE, OUTSIDE, p)) for p in (TCP, UDP) for port in PORTS}
    assert {(UDP, 53), (TCP, 179), (UDP, 3784), (UDP, 4784)} == {key for key, said in out.items() if said != "DROP"}


PORTS = (22, 53, 80, 179, 3784, 4784)


def test_what_is_established_passes_and_what_is_revoked_or_invalid_does_not() -> None:
    """Both ways, before the failsafe ports."""
    node = Node(ALL)
    for way, packet in ((IN, tcp(80)), (OUT, tcp(80, NODE, OUTSIDE))):
        assert "ACCEPT" == node.run(way, packet, state="ESTABLISHED")
        assert "DROP" == node.run(way, packet, state="ESTABLISHED", connmark=0x0100_0000)
    assert "DROP" == node.run(IN, tcp(22), state="INVALID")


def test_failsafe_ports_are_what_the_options_say() -> None:
    """Of somebody, of one family, in matches of 15 ports."""
    near = Failsafe(TCP, 22, ipaddress.ip_network("198.51.100.0/24"))
    far = Failsafe(TCP, 22, ipaddress.ip_network("2001:db8::/32"))
    many = tuple(Failsafe(UDP, port) for port in range(1, 17))
    node = Node(ALL, options=Options(failsafe_inbound=(near, far, *many), failsafe_outbound=()))
    first = "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
    expected = [
        "-s 198.51.100.0/24 -p 6 -m multiport --dports 22 -j ACCEPT",
        f"-p 17 -m multiport --dports {first} -j ACCEPT",
        "-p 17 -m multiport --dports 16 -j ACCEPT",
    ]
    assert expected == [each for each in node.text("filter", "bm-fh.any") if "multiport" in each]
    assert "-s 2001:db8::/32 -p 6 -m multiport --dports 22 -j ACCEPT" in node.text("filter", "bm-fh.any", 6)
    assert not [each for each in node.text("filter", "bm-th.any") if "multiport" in each]
    assert ["ACCEPT", "DROP"] == [node.run(IN, tcp(22, source)) for source in (OUTSIDE, NODE + 1)]


def test_policies_and_profiles_open_a_host() -> None:
    """An allow rule; where no policy selects it in a direction, its profile; Calico's own that allows all is there."""
    node = Node(ALL, policy("web", [rule("Allow", 80)]))
    assert ["ACCEPT", "DROP"] == [node.run(IN, tcp(port)) for port in (80, 81)]
    assert "DROP" == node.run(OUT, tcp(80, NODE, OUTSIDE))
    node = Node(endpoint("all", "*", profiles=["projectcalico-default-allow"]), policy("web", [rule("Allow", 80)]))
    assert ["ACCEPT", "DROP"] == [node.run(IN, tcp(port)) for port in (80, 81)]
    assert "ACCEPT" == node.run(OUT, tcp(80, NODE, OUTSIDE))


def test_a_named_interface_goes_before_all_of_them_and_others_are_left_alone() -> None:
    """`*` is who has none of its own; without it nothing is said of an interface that nobody names."""
    web = policy("web", [rule("Allow", 80)], selector="name == 'eth1'")
    node = Node(endpoint("eth1", "eth1"), ALL, web)
    assert ["DROP", "ACCEPT", "DROP"] == [node.run(IN, tcp(80), into=each) for each in ("eth0", "eth1", "eth11")]
    node = Node(endpoint("eth1", "eth1"), web)
    assert [None, "ACCEPT", None] == [node.run(IN, tcp(80), into=each) for each in ("eth0", "eth1", "eth11")]


def test_all_interfaces_are_the_loopback_too_and_no_workload() -> None:
    """As in Calico; the host reaches its workloads, and what they send to it is another option's business."""
    for to_host, expected in (("deny", "DROP"), ("allow", "ACCEPT"), ("return", None)):
        node = Node(ALL, options=Options(to_host=to_host))
        assert expected == node.run(IN, tcp(80, WEB), into="bgpmweb")
    assert "DROP" == node.run(IN, tcp(80, NODE), into="lo")
    assert node.run(OUT, tcp(80, NODE, WEB), out="bgpmweb") is None


@pytest.mark.parametrize("way", [IN, OUT])
def test_a_host_keeps_neighbour_discovery_whatever_its_policies(way: Way) -> None:
    """Also before connection tracking and destination NAT; router advertisements among it, and other ICMPv6 not."""
    deny = [rule("Deny")]
    node = Node(
        ALL,
        policy("raw", deny, deny, doNotTrack=True, applyOnForward=True),
        policy("early", deny, preDNAT=True, applyOnForward=True),
        policy("none", deny, deny),
    )
    kinds = {kind: node.run(way, Packet(OUTSIDE6, NODE6, ICMPV6, icmp=Icmp(kind, 0))) for kind in range(256)}
    assert set(ICMPV6_OF_HOSTS) == {kind for kind, said in kinds.items() if said != "DROP"}
    assert {*range(130, 137)} < set(ICMPV6_OF_HOSTS)


def test_a_workload_advertises_no_router_to_a_host_that_has_an_endpoint() -> None:
    """The endpoint of all interfaces is not asked about what comes from a workload."""
    node = Node(endpoint("all", "*", profiles=["projectcalico-default-allow"]))
    advertisement = Packet(OUTSIDE6, NODE6, ICMPV6, icmp=Icmp(134, 0))
    assert "DROP" == node.run(IN, advertisement, into="bgpmweb")
    assert "ACCEPT" == node.run(IN, advertisement)


# ── forwarded ────────────────────────────────────────────────────────────────


def test_what_is_forwarded_is_not_asked_about_without_a_policy_for_it() -> None:
    """Neither that of others nor that of workloads, and there is no chain for it."""
    node = Node(ALL, policy("none", [], [], types=["Ingress", "Egress"]))
    assert node.run(THROUGH, tcp(80, OUTSIDE, OUTSIDE + 1)) is None
    assert "ACCEPT" == node.run(THROUGH, tcp(80, OUTSIDE, WEB), out="bgpmweb")
    assert ChainKey(4, "filter", "bm-through") not in node.chains


def test_a_policy_for_what_is_forwarded_closes_its_direction() -> None:
    """There are no failsafe ports then; what it allows is left to the host's other rules, or to workloads' policies."""
    node = Node(ALL, policy("web", [rule("Allow", 80)], applyOnForward=True))
    through = [node.run(THROUGH, tcp(port, OUTSIDE, OUTSIDE + 1)) for port in (80, 22)]
    assert [None, "DROP"] == through
    assert "DROP" == node.run(THROUGH, tcp(22, OUTSIDE, WEB), out="bgpmweb")
    assert "ACCEPT" == node.run(THROUGH, tcp(22, OUTSIDE, WEB), out="bgpmweb", state="ESTABLISHED")
    closed = policy("closed", [], selector="app == 'web'", types=["Ingress"])
    node = Node(ALL, policy("web", [rule("Allow", 80)], applyOnForward=True), closed)
    assert "DROP" == node.run(THROUGH, tcp(80, OUTSIDE, WEB), out="bgpmweb")
    assert node.run(THROUGH, tcp(80, OUTSIDE, OUTSIDE + 1)) is None


def test_a_policy_for_what_is_forwarded_is_asked_of_the_interfaces_that_have_it() -> None:
    """By the one the packet comes by for ingress, by the one it leaves by for egress."""
    node = Node(
        endpoint("eth0", "eth0"),
        endpoint("eth1", "eth1"),
        policy("in", [], types=["Ingress"], applyOnForward=True, selector="name == 'eth0'"),
        policy("out", None, [], types=["Egress"], applyOnForward=True, selector="name == 'eth1'"),
    )
    ways = [("eth0", "eth2"), ("eth2", "eth1"), ("eth1", "eth0"), ("eth2", "eth0"), ("eth2", "eth2")]
    said = [node.run(THROUGH, tcp(80, OUTSIDE, OUTSIDE + 1), into=into, out=out) for into, out in ways]
    assert ["DROP", "DROP", None, None, None] == said


def test_the_last_tier_that_passes_leaves_what_is_forwarded_open() -> None:
    """As no tier at all does."""
    tier = document("Tier", "last", order=5, defaultAction="Pass")
    node = Node(ALL, tier, policy("last.p", [], types=["Ingress"], applyOnForward=True, tier="last"))
    assert node.run(THROUGH, tcp(80, OUTSIDE, OUTSIDE + 1)) is None
    assert "DROP" == node.run(IN, tcp(80))


# ── before destination NAT, before connection tracking ───────────────────────


def test_a_pre_dnat_policy_decides_before_all_others_and_only_where_a_rule_of_it_matches() -> None:
    """What it allows is past the normal policies, what it denies is gone, and its tier has no default."""
    early = policy("early", [rule("Allow", 80), rule("Deny", 81)], preDNAT=True, applyOnForward=True)
    node = Node(ALL, early, policy("normal", [rule("Allow", 82)], applyOnForward=True))
    assert ["ACCEPT", "DROP", "ACCEPT", "DROP"] == [node.run(IN, tcp(port)) for port in (80, 81, 82, 83)]
    onward = [node.run(THROUGH, tcp(port, OUTSIDE, WEB), out="bgpmweb") for port in (80, 81, 82, 83)]
    assert ["ACCEPT", "DROP", "ACCEPT", "DROP"] == onward
    assert "DROP" == node.run(THROUGH, tcp(81, WEB, OUTSIDE), into="bgpmweb")
    assert "DROP" == node.run(IN, tcp(83), mark=Options().early)  # a mark that somebody else set


def test_an_untracked_policy_takes_connection_tracking_away() -> None:
    """From what it allows, both ways, and from nothing of workloads; failsafe ports and their answers stay tracked."""
    raw = policy(
        "raw",
        [rule("Allow", 53, "UDP"), rule("Deny", 81), rule("Allow", 40_000, side="destination")],
        [rule("Allow", 53, "UDP", "source")],
        doNotTrack=True,
        applyOnForward=True,
    )
    node = Node(ALL, raw)
    flow = Flow(tcp(53, protocol=UDP), "eth0")
    assert "ACCEPT" == travel(node.tables[4], node.sets, flow, IN)
    assert "UNTRACKED" == flow.state
    assert "ACCEPT" == node.run(OUT, Packet(NODE, OUTSIDE, UDP, 53, 40_000))
    assert ["DROP", "DROP"] == [node.run(IN, tcp(port)) for port in (80, 81)]
    flow = Flow(tcp(53, WEB, NODE, UDP), "bgpmweb")
    assert "DROP" == travel(node.tables[4], node.sets, flow, IN)
    assert "NEW" == flow.state
    answer = Flow(Packet(OUTSIDE, NODE, TCP, 179, 40_000), "eth0", state="ESTABLISHED")
    assert "ACCEPT" == travel(node.tables[4], node.sets, answer, IN)
    assert "ESTABLISHED" == answer.state


def test_what_the_hosts_nat_sends_elsewhere_is_asked_about_when_its_interface_is_known() -> None:
    """OUTPUT still has the interface of the address that was asked for."""
    node = Node(endpoint("eth1", "eth1"))
    everywhere = Node(ALL)
    flow = Flow(tcp(80, NODE, OUTSIDE), "", "eth0", is_dnat=True)
    assert travel(everywhere.tables[4], everywhere.sets, flow, OUT[:2]) is None
    flow.out = "bgpmweb"
    assert travel(everywhere.tables[4], everywhere.sets, flow, OUT[2:]) is None
    for out, expected in (("eth1", "DROP"), ("eth0", None), ("bgpmweb", None)):
        flow = Flow(tcp(80, NODE, OUTSIDE), "", "eth0", is_dnat=True)
        assert travel(node.tables[4], node.sets, flow, OUT[:2]) is None
        flow.out = out
        assert expected == travel(node.tables[4], node.sets, flow, OUT[2:])
    assert "DROP" == node.run(OUT, tcp(80, NODE, OUTSIDE), out="eth1")


@pytest.mark.parametrize("bit", [Options().guarded, Options().redirected, Options().early])
def test_a_mark_of_somebody_else_means_nothing(bit: int) -> None:
    """One of our bits on what is none of ours, with workloads and with an endpoint on another interface."""
    for node in (Node(), Node(endpoint("eth9", "eth9"))):
        assert node.run(THROUGH, tcp(80, OUTSIDE, OUTSIDE + 1), mark=bit) is None
        assert node.run(OUT, tcp(80, NODE, OUTSIDE), mark=bit) is None
        assert node.run(IN, tcp(80), mark=bit) is None
    early = policy("early", [rule("Allow", 81)], preDNAT=True, applyOnForward=True)
    assert "DROP" == Node(ALL, early).run(OUT, tcp(80, NODE, OUTSIDE), mark=bit)


@pytest.mark.parametrize("types", [["Ingress"], ["Egress"]])
@pytest.mark.parametrize(("way", "packet"), [(IN, tcp(80)), (OUT, tcp(80, NODE, OUTSIDE)), (THROUGH, tcp(80))])
def test_an_emptied_chain_of_policies_opens_nothing(way: Way, packet: Packet, types: list[str]) -> None:
    """Nor does one that leads to them where what is forwarded is asked; whatever mark a packet comes with."""
    allow = policy("web", types=types, applyOnForward=True, **{types[0].lower(): [rule("Allow", 79)]})
    node = Node(ALL, allow, workloads=False)
    tables = node.tables[4]
    assert "DROP" == node.run(way, packet)
    emptied = ("bm-c", "bm-p", "bm-fhfd", "bm-thfd", "bm-fhf.", "bm-thf.") if way is THROUGH else ("bm-c", "bm-p")
    for name in [name for name in tables["filter"] if name.startswith(emptied) and name != "bm-pass"]:
        kept, tables["filter"][name] = tables["filter"][name], []
        assert "DROP" == node.run(way, packet, mark=Options().accepted)
        tables["filter"][name] = kept


# ── where they are ───────────────────────────────────────────────────────────


def test_without_a_host_endpoint_of_this_node_nothing_is_wanted() -> None:
    """Another node's tells addresses only; with one of this node chains are there without any workload."""
    assert {} == Node(document("HostEndpoint", "far", node="n2", interfaceName="*"), workloads=False).chains
    assert ChainKey(6, "filter", "bm-fh.any") in Node(ALL, workloads=False).chains


ALL_HOOKS = {table: {*hooks} for table, hooks in HOOKS.items() if table not in SPARE}


def test_the_hooks_are_those_that_something_asks_in() -> None:
    """The built-in chains that lead nowhere are left alone."""

    def hooks(node: Node) -> dict[str, set[str]]:
        return {table: {k.chain for k in node.chains if k.table == table and not k.is_ours} for table in ALL_HOOKS}

    plain = {table: all_of - ({"OUTPUT"} if table == "raw" else set()) for table, all_of in ALL_HOOKS.items()}
    assert plain == hooks(Node())
    assert plain == hooks(Node(ALL))
    early = policy("early", [rule("Deny")], preDNAT=True, applyOnForward=True)
    raw = policy("raw", [rule("Deny")], [rule("Deny")], doNotTrack=True, applyOnForward=True)
    assert hooks(Node(ALL, early, raw)) == ALL_HOOKS


@pytest.mark.parametrize("count", [1, BIN + 1, 60])
def test_every_interface_finds_its_own(count: int) -> None:
    """Names that begin like others, or are the beginning of them."""
    names = [f"eth{n}" for n in range(count)] + [f"eth{n}.{n}" for n in range(count)]
    node = Node(*(endpoint(f"e{n}", name) for n, name in enumerate(names)))
    for chain in node.chains:
        if chain.chain.startswith("bm-fhd-"):
            assert len(node.chains[chain]) <= 41
    said = [node.run(IN, tcp(80), into=name) for name in (*names, "eth", f"eth{count}", "eth0.")]
    assert ["DROP"] * len(names) + [None] * 3 == said


def placed(*documents: Json, **interfaces: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return which endpoint is on which interface, and which is not in force; `interfaces`: who has 192.0.2.N."""
    protection = Protection()
    protection.objects = read(documents).objects
    where = {NODE - 1 + int(number[1:]): {name} for number, name in interfaces.items()}
    protection.wanted({}, AROUND, where, is_needed=False)
    hosts = protection.compiled.hosts
    return [(name, host.key) for name, host in hosts.items()], protection.unplaced


def test_an_endpoint_without_interface_is_on_those_that_have_its_addresses() -> None:
    """All of them; where none has, it is not in force, and that is said."""
    several = endpoint("e", "", expectedIPs=["192.0.2.1", "192.0.2.2", "192.0.2.3"])
    assert ([("eth0", "host n1/e"), ("eth1", "host n1/e")], {}) == placed(several, n1="eth0", n2="eth1")
    assert ([], {"HostEndpoint e": "no interface has one of its expectedIPs"}) == placed(several)


def test_of_two_endpoints_of_one_interface_the_first_by_name_is_in_force() -> None:
    """By name or by address, and the other is told."""
    one, two = endpoint("b", "eth0"), endpoint("a", "", expectedIPs=["192.0.2.1"])
    expected = [("eth0", "host n1/a")], {"HostEndpoint b": "eth0 is under HostEndpoint a"}
    assert expected == placed(one, two, n1="eth0")
    assert [("*", "host n1/a"), ("eth0", "host n1/b")] == placed(one, endpoint("a", "*"), endpoint("c", "*"))[0]


def test_a_workloads_link_has_no_host_endpoint() -> None:
    """It would never be asked."""
    assert ([], {"HostEndpoint e": "bgpmweb is named like a workload's link"}) == placed(endpoint("e", "bgpmweb"))


@pytest.mark.parametrize("name", ["eth 0", "eth0\n-A", ".any", "-j", "eth+", "bgpmx", "x" * 16])
def test_an_interface_that_is_called_otherwise_is_refused(name: str) -> None:
    """Nothing that is not a plain name reaches the text."""
    compiled = Node(ALL).protection.compiled
    odd = replace(compiled, hosts={name: replace(compiled.hosts["*"], interface=name)})
    with pytest.raises(ValueError, match="no name of a host's interface"):
        render(odd)


def test_selectors_mean_the_addresses_that_host_endpoints_expect() -> None:
    """Of every node, and their ports by name; an address of one is known."""
    far = document("HostEndpoint", "far", {"role": "edge"}, node="n2", interfaceName="*", expectedIPs=[str(OUTSIDE)])
    allow = {"action": "Allow", "source": {"selector": "role == 'edge'"}}
    other = {"action": "Allow", "source": {"selector": "role != 'edge'", "notSelector": "has(none)"}}
    node = Node(far, ALL, policy("edge", [allow]))
    assert ["ACCEPT", "DROP"] == [node.run(IN, tcp(80, source)) for source in (OUTSIDE, OUTSIDE + 1)]
    assert "DROP" == Node(far, ALL, policy("edge", [other])).run(IN, tcp(80))
    ports = {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http"]}}
    named = endpoint("all", "*", expectedIPs=[str(NODE)], ports=[{"name": "http", "protocol": "TCP", "port": 8080}])
    node = Node(named, policy("web", [ports]))
    assert ["ACCEPT", "DROP"] == [node.run(IN, tcp(port)) for port in (8080, 80)]
    assert not Model(hosts=node.protection.compiled.model.hosts).is_unknown(NODE)


# ── explained ────────────────────────────────────────────────────────────────


def test_a_failsafe_port_is_a_step() -> None:
    """It is called like the key of the configuration that it is from."""
    (step,) = Node(ALL).explain(tcp(22)).steps
    assert ("host n1/all", "ingress", None, "(failsafe_inbound)", None, "allow", "bm-fh.any") == (
        step.workload,
        step.direction.value,
        step.tier,
        step.policy,
        step.rule,
        step.action,
        step.chain,
    )


def test_every_phase_is_explained_and_what_denies_is_named() -> None:
    """In the order in which the packet meets them."""
    early = policy("early", [rule("Pass", 80), rule("Allow", 81)], preDNAT=True, applyOnForward=True)
    node = Node(endpoint("eth0", "eth0"), early, policy("web", [rule("Allow", 80)]))
    steps = [(step.workload, step.policy, step.rule, step.action) for step in node.explain(tcp(80)).steps]
    assert [("host n1/eth0", "early", 1, "pass"), ("host n1/eth0", "web", 1, "allow")] == steps
    assert ["early"] == [step.policy for step in node.explain(tcp(81)).steps]
    assert Action.DENY is node.explain(tcp(82)).verdict
    expected = ("ingress of host n1/eth0: rule 1 of web would allow it but for the destination port",)
    assert expected == why_not(node.protection.compiled, tcp(82), node.options)


def test_the_endpoint_of_the_interface_is_explained_and_of_the_loopback_both_directions() -> None:
    """A name goes before `*`; what the node says to itself leaves and comes by `lo`."""
    node = Node(ALL, endpoint("eth0", "eth0"), endpoint("lo", "lo", profiles=["projectcalico-default-allow"]))
    assert ["host n1/eth0"] == [step.workload for step in node.explain(tcp(80)).steps]
    own = [(step.direction.value, step.workload) for step in node.explain(tcp(80, NODE)).steps]
    assert [("egress", "host n1/lo"), ("ingress", "host n1/lo")] == own


def test_what_is_not_known_of_host_endpoints_is_listed() -> None:
    """By which interface a packet comes where that matters, and what another node's endpoint says."""
    unknown = replace(tcp(80), into=None, out=None)
    assert (f"{OUTSIDE}: which interface of this node it comes by",) == Node(endpoint("eth0", "eth0")).explain(
        unknown
    ).unknown
    assert () == Node(ALL).explain(unknown).unknown
    far = document("HostEndpoint", "far", node="n2", interfaceName="*", expectedIPs=[str(OUTSIDE)])
    assert ("egress of host n2/far: decided on its own node",) == Node(far, ALL).explain(tcp(80)).unknown


def test_a_host_is_known_by_one_interface_at_most() -> None:
    """A model has no two endpoints on one, and the other is known by its addresses still."""
    hosts = Node(endpoint("a", "eth0"), endpoint("b", "eth0")).protection.compiled.model.hosts
    assert [("host n1/a", "eth0"), ("host n1/b", None)] == [(host.member.key, host.interface) for host in hosts]


def test_what_is_compiled_stays_the_same_object_while_nothing_changes() -> None:
    """And chains and sets are equal, so nothing is written."""
    node = Node(ALL, policy("web", [{"action": "Allow", "source": {"selector": "has(app)"}}]))
    before: tuple[dict[ChainKey, Rules], dict[str, AddressSet]] = (node.chains, node.sets)
    hosts = node.protection.compiled.hosts
    again = node.protection.wanted({ENDPOINT.key: ENDPOINT}, replace(AROUND, options=node.options), {}, is_needed=True)
    assert before == again
    assert hosts is node.protection.compiled.hosts
