"""What nodes say of their workloads: hashes answer as labels do, and sets follow what is said, whoever says it when."""

from __future__ import annotations

import ipaddress
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpmesh.engine import Engine
from bgpmesh.errors import ConfigError
from bgpmesh.events import Configured, Disconnected
from bgpmesh.peering.peer import Owner
from bgpmesh.policy.calico import OWN_TIERS
from bgpmesh.policy.chains import AddressSet
from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.form import Ground, SetSource
from bgpmesh.policy.identity import MOST, encode, marks, ports_named, question_of
from bgpmesh.policy.index import anchors
from bgpmesh.policy.kubernetes import Namespace
from bgpmesh.policy.model import Member, Model
from bgpmesh.policy.objects import Key, Value
from bgpmesh.policy.protection import OWN_LABELS, Surroundings, labels_in, profile_of
from bgpmesh.policy.rule import (
    PROTOCOLS,
    TCP,
    WORKLOAD_LABEL,
    Action,
    Direction,
    NetworkSet,
    Policy,
    Profile,
    Rule,
    Side,
)
from bgpmesh.policy.selector import (
    AllOf,
    AnyOf,
    Everything,
    Has,
    Not,
    OneOf,
    Part,
    Selector,
    is_remote_capable,
    matches,
    parse,
)
from bgpmesh.route.attributes import Asn
from bgpmesh.route.claim import Claims, identity_of
from bgpmesh.route.nlri import Nlri, host_nlri
from bgpmesh.route.path import PeerName
from bgpmesh.workload.endpoint import Endpoint, interface_name
from tests.property.cluster import Cluster
from tests.property.test_cluster import mesh, reflected

ASN = Asn(64512)

# ── selectors over hashes ────────────────────────────────────────────────────

NAMES = ("kubernetes.io/metadata.name", "projectcalico.org/name")
OWN = st.dictionaries(st.sampled_from(["a", "b", "app.kubernetes.io/name"]), st.sampled_from(["", "x", "y", "shop"]))
OF_NAMESPACE = st.dictionaries(st.sampled_from(["env", "a", NAMES[1]]), st.sampled_from(["x", "prod", "shop"]))
KEYS = st.sampled_from(["a", "b", "pcns.env", "pcns.a", *(f"pcns.{name}" for name in NAMES), *OWN_LABELS])
VALUES = st.sampled_from(["", "x", "y", "shop", "web", "prod", "k8s"])


def selectors(*, parts: bool) -> st.SearchStrategy[Selector]:
    """Return selectors, with or without those that ask for a part of a value."""
    simple: st.SearchStrategy[Selector] = (
        st.just(Everything()) | st.builds(Has, KEYS) | st.builds(OneOf, KEYS, st.frozensets(VALUES, max_size=2))
    )
    if parts:
        simple |= st.builds(Part, KEYS, st.sampled_from(["contains", "starts with", "ends with"]), VALUES)
    return st.recursive(
        simple,
        lambda inner: (
            st.builds(Not, inner)
            | st.builds(AllOf, st.lists(inner, min_size=1, max_size=3).map(tuple))
            | st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple))
        ),
        max_leaves=6,
    )


@settings(max_examples=200, deadline=None)
@given(OWN, st.sampled_from(["shop", "web"]), OF_NAMESPACE, selectors(parts=True))
def test_hashes_answer_as_labels_do(
    own: dict[str, str], namespace: str, given_to_it: dict[str, str], selector: Selector
) -> None:
    """Whatever asks for values and keys has the same answer from claims as from labels; the rest has none."""
    labels = labels_in(namespace, own, {namespace: given_to_it}) | {WORKLOAD_LABEL: "k8s"}
    claims, test = encode(labels), question_of(selector)
    assert (test is not None) is is_remote_capable(selector)
    if test is not None:
        assert matches(selector, labels) is test(claims)
        pairs = anchors(selector)
        needed = None if pairs is None else marks(pairs)
        assert not (test(claims) and needed is not None and needed.isdisjoint(claims)), "it would not be tried"


@given(st.dictionaries(st.tuples(st.sampled_from(["http", "dns"]), st.sampled_from([6, 17])), st.integers(0, 65535)))
def test_ports_come_back_out_of_claims(ports: dict[tuple[str, int], int]) -> None:
    """A port is found by its name, with protocol and number."""
    claims = encode({"projectcalico.org/namespace": "shop"}, ports)
    for name in ("http", "dns", "other"):
        assert sorted((p, number) for (n, p), number in ports.items() if n == name) == ports_named(name, claims)


# ── sets ─────────────────────────────────────────────────────────────────────

ADDRESSES = [ipaddress.ip_address(f"10.0.2.{n}") for n in range(1, 7)] + [ipaddress.ip_address("fd00::2")]
PORTS = st.dictionaries(st.just(("http", TCP)), st.sampled_from([80, 8080]))
SPOKEN = st.builds(lambda own, ports: encode({"projectcalico.org/namespace": "shop", **own}, ports), OWN, PORTS)
LESSONS = st.dictionaries(st.sampled_from(list(map(host_nlri, ADDRESSES))), st.none() | SPOKEN, max_size=4)
ASKED = st.lists(selectors(parts=True), min_size=1, max_size=4)


def asking(asked: list[Selector]) -> Model:
    """Return a node with one workload, whose policies ask for all of these, and for a port by its name."""
    web = Member("shop/web", {"a": "x"}, (ipaddress.ip_address("10.0.1.1"),), {("http", TCP): 80}, "bgpmx", ())
    rules = [Rule(Action.ALLOW, source=Side(selector=each)) for each in asked]
    rules += [Rule(Action.ALLOW, source=Side(not_selector=each)) for each in asked]
    out = Rule(Action.ALLOW, protocol=TCP, destination=Side(ports=("http",)))
    policy = Policy("p", types=frozenset(Direction), ingress=tuple(rules), egress=(out,))
    nets = NetworkSet("n", None, {"a": "y"}, (ipaddress.ip_network("10.0.2.1/32"),))
    return Model(policies=(policy,), network_sets=(nets,), members={web.key: web})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LESSONS, ASKED), min_size=1, max_size=5))
def test_the_way_to_what_is_said_does_not_matter(steps: list[tuple[dict[Nlri, Claims | None], list[Selector]]]) -> None:
    """After any changes of what is said and what is asked the sets are those of who learns it all at once."""
    gradual = Compiler()
    said: dict[Nlri, Claims | None] = {}
    for lesson, asked in steps:
        gradual.learn(lesson)
        said |= lesson
        found = gradual.compile(asking(asked))
        fresh = Compiler()
        fresh.learn({nlri: claims for nlri, claims in said.items() if claims is not None})
        assert fresh.compile(asking(asked)).sets == found.sets
        for selector in asked:
            test = question_of(selector)
            meant = {n for n, claims in said.items() if claims is not None and test is not None and test(claims)}
            held = set().union(*(each.members for each in members_of(gradual, selector)))
            assert meant == {nlri for nlri in held if nlri in said and nlri != host_nlri(ADDRESSES[0])} | (
                meant & {host_nlri(ADDRESSES[0])}
            )


def members_of(compiler: Compiler, selector: Selector) -> list[AddressSet]:
    """Return the sets of a selector."""
    return [tally.made() for tally in compiler._everyone.groups[selector].tallies.values()]


# ── a cluster ────────────────────────────────────────────────────────────────


def policies() -> dict[Key, Value]:
    """Return policies that ask for all kinds of things."""
    found: dict[Key, Value] = {}
    for number, text in enumerate(
        (
            "app == 'web'",
            "app != 'web' && has(app)",
            "pcns.env == 'prod'",
            "projectcalico.org/namespace == 'shop'",
            "app starts with 'w'",
        )
    ):
        selector = parse(text)
        found[Key("NetworkPolicy", "shop", f"p{number}")] = Policy(
            f"p{number}",
            "shop",
            selector=parse("projectcalico.org/namespace == 'shop'"),
            types=frozenset(Direction),
            ingress=(Rule(Action.ALLOW, source=Side(selector=selector)),),
            egress=(Rule(Action.ALLOW, protocol=TCP, destination=Side(not_selector=selector, ports=("http",))),),
        )
    return found


def with_identity(configurations: list[Configured]) -> list[Configured]:
    """Return the nodes with identity on, and each other's blocks known."""
    owners = tuple(Owner(PeerName(c.node), c.router_id, c.pod_cidrs) for c in configurations)
    reflectors = {c.node for c in configurations if c.cluster_id is not None}
    space = tuple(itertools.chain.from_iterable(c.pod_cidrs for c in configurations))
    return [
        replace(
            c,
            peers=tuple(replace(p, cluster_asn=ASN, is_reflector=p.name in reflectors) for p in c.peers),
            cluster_asn=ASN,
            has_identity=True,
            owners=owners,
            around=Surroundings(space=space),
        )
        for c in configurations
    ]


def endpoint(node: str, number: int, app: str, namespace: str = "shop", port: int = 80) -> Endpoint:
    """Return a workload of a node, of both families."""
    addresses = (
        ipaddress.ip_address(f"10.244.{node[1:]}.{number}"),
        ipaddress.ip_address(f"fd00:10:244:{node[1:]}::{number}"),
    )
    name = f"{node}-{number}"
    ports = (("http", "tcp", port),)
    return Endpoint(
        name, namespace, (("app", app),), addresses, interface_name("bgpm", f"{namespace}/{name}"), "", ports
    )


def expected_sets(cluster: Cluster, node: str) -> dict[str, AddressSet]:
    """Return what the sets of a node should be: as if it knew every workload of the cluster that it can know.

    Each node gives its workloads the labels of namespaces that it knows of itself.
    """
    members: dict[str, Member] = {}
    for other in cluster.nodes.values():
        namespaces = {v.name: dict(v.labels) for v in other.objects.values() if isinstance(v, Namespace)}
        for each in other.endpoints.values():
            labels = labels_in(each.namespace, dict(each.labels), namespaces) | {WORKLOAD_LABEL: "k8s"}
            ports = {(name, PROTOCOLS[protocol]): number for name, protocol, number in each.ports}
            is_here = other.name == node
            interface = each.interface if is_here else None
            members[each.key] = Member(
                each.key, labels, each.addresses, ports, interface, (profile_of(each.namespace),)
            )
    own = cluster.nodes[node]
    here = {key: member for key, member in members.items() if member.interface is not None}
    model = Model(
        tuple(OWN_TIERS.values()),
        tuple(v for v in own.objects.values() if isinstance(v, Policy)),
        tuple(Profile(name) for name in {m.profiles[0] for m in here.values()}),
        members=here,
        space=own.configured.around.space,
    )
    compiler = Compiler()
    compiled = compiler.compile(model)
    sets: dict[str, AddressSet] = dict(compiled.sets)
    sources = {name: source for body in compiled.bodies.values() for name, source in body.sets.items()}
    elsewhere = [member for member in members.values() if member.interface is None]
    for name, source in sources.items():
        content = source.content
        extra: set[bytes] = set()
        for member in elsewhere:
            for address in member.addresses:
                if address.version != source.family:
                    continue
                if isinstance(content, str):
                    extra |= {
                        address.packed + bytes((protocol, number >> 8, number & 255))
                        for (port, protocol), number in member.ports.items()
                        if port == content
                    }
                elif is_meant_from_afar(content, member):
                    extra.add(host_nlri(address))
        sets[name] = replace(sets[name], members=sets[name].members | extra)
    return sets


def is_meant_from_afar(content: object, member: Member) -> bool:
    """Tell whether a workload of another node is in the set of a content, by its labels."""
    if not isinstance(content, (Everything, Has, OneOf, Part, Not, AllOf, AnyOf)):
        return getattr(content, "value", "") == "known"
    return is_remote_capable(content) and matches(content, member.labels)


def assert_sets(cluster: Cluster) -> None:
    """Compare the sets of every node that runs with what they should be."""
    for name, node in cluster.nodes.items():
        if node.engine is not None and node.configured.kernel_enabled:
            want = expected_sets(cluster, name) if node.endpoints else {}
            assert want == node.kernel.sets, name
            assert not [
                nlri for nlri in node.kernel.routes if nlri[0] in (32, 128) and not _is_own(node.endpoints, nlri)
            ]


def _is_own(endpoints: dict[str, Endpoint], nlri: Nlri) -> bool:
    return any(nlri == host_nlri(address) for each in endpoints.values() for address in each.addresses)


def populated(configurations: list[Configured], seed: int) -> Cluster:
    """Return a cluster at rest, with workloads and policies on every node that forwards."""
    cluster = Cluster(with_identity(configurations), seed)
    for name, node in cluster.nodes.items():
        if node.configured.kernel_enabled:
            cluster.apply(name, policies())
            for number in (1, 2):
                cluster.attach(name, endpoint(name, number, cluster.random.choice(("web", "db"))))
    names = list(cluster.nodes)
    cluster.random.shuffle(names)
    for name in names:
        cluster.start(name)
    cluster.settle()
    return cluster


SEEDS = range(10)
SHAPES = {"mesh": lambda: mesh(3), "reflectors": lambda: reflected(3)}


def disturb(cluster: Cluster, source: random.Random) -> None:  # noqa: C901  one line for all that can happen
    """Do one thing to the cluster that may happen."""
    name = source.choice([n for n, node in cluster.nodes.items() if node.configured.kernel_enabled])
    node = cluster.nodes[name]
    match source.randrange(8):
        case 0:
            if node.engine is not None:
                cluster.kill(name)
        case 1:
            if node.engine is None:
                cluster.start(name)
        case 2:
            number = source.choice((1, 2, 3))
            app, namespace = source.choice(("web", "db", "other")), source.choice(("shop", "blog"))
            new = endpoint(name, number, app, namespace, source.choice((80, 8080)))
            held = [each for each in node.endpoints.values() if set(each.addresses) & set(new.addresses)]
            if held and held[0].key != new.key:
                cluster.detach(name, held[0].key)
            cluster.attach(name, new)
        case 3:
            if node.endpoints:
                cluster.detach(name, source.choice(sorted(node.endpoints)))
        case 4:
            labels = {"env": source.choice(("prod", "test"))}
            cluster.apply(name, {**node.objects, Key("Namespace", None, "shop"): Namespace("shop", labels)})
        case 5:
            kept = {key: value for key, value in node.objects.items() if source.random() < 0.8}
            cluster.apply(name, {**policies(), **kept} if source.random() < 0.5 else kept)
        case 6:
            other = source.choice(sorted(set(cluster.nodes) - {name}))
            cluster.cut ^= {frozenset((name, other))}
        case _:
            cluster.settle(source.choice((0.01, 1, 15)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_sets_are_what_the_labels_come_to(shape: str, seed: int) -> None:
    """Whatever happens to the cluster and in which order, at rest each set is what all labels together come to."""
    cluster = populated(SHAPES[shape](), seed)
    assert_sets(cluster)
    for _ in range(25):
        disturb(cluster, cluster.random)
        for _ in range(cluster.random.randrange(30)):
            cluster._step()
    cluster.cut.clear()
    for name, node in cluster.nodes.items():
        if node.engine is None:
            cluster.start(name)
    cluster.settle(300)
    assert_sets(cluster)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_restart_takes_nobody_out_of_a_set(shape: str, seed: int) -> None:
    """While a killed daemon comes back no set of any node changes, not even for a moment."""
    cluster = populated(SHAPES[shape](), seed)
    for node in cluster.nodes.values():
        node.kernel.set_writes.clear()
    victim = cluster.random.choice(sorted(cluster.nodes))
    cluster.kill(victim)
    cluster.settle(cluster.random.choice((0.5, 5, 30)))
    cluster.start(victim)
    cluster.settle(30)
    assert {name: [] for name in cluster.nodes} == {
        name: node.kernel.set_writes for name, node in cluster.nodes.items()
    }
    assert_sets(cluster)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_policy_that_is_new_after_a_restart_opens_nothing_meanwhile(seed: int) -> None:
    """What came while the daemon was down asks for who is not known yet, and nobody is known not to be one."""
    cluster = populated(mesh(3), seed)
    cluster.kill("n1")
    selector = parse("app == 'db'")
    rule = Rule(Action.ALLOW, source=Side(not_selector=selector))
    everybody = parse("projectcalico.org/namespace == 'shop'")
    new = Policy("new", "shop", selector=everybody, types=frozenset({Direction.INGRESS}), ingress=(rule,))
    cluster.apply("n1", {Key("NetworkPolicy", "shop", "new"): new})
    cluster.start("n1")
    node, looked = cluster.nodes["n1"], 0
    while node.engine is not None and not node.engine.peers.is_in_sync:
        asked = node.engine.packets.sets.wanted.get(SetSource(4, selector).name)
        if asked is not None:
            looked += 1
            wanted = set().union(*(each.members for each in known_sets(node.engine.packets.sets.wanted)))
            assert not wanted & {host_nlri(a) for a in elsewhere(cluster, "n1")}
        if not cluster._step():
            cluster.settle(0.5)
    assert looked
    cluster.settle(30)
    assert_sets(cluster)


def known_sets(sets: Mapping[str, AddressSet]) -> list[AddressSet]:
    """Return the sets of who is known."""
    return [sets[name] for family in (4, 6) if (name := SetSource(family, Ground.KNOWN).name) in sets]


def elsewhere(cluster: Cluster, name: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return the addresses of workloads of other nodes."""
    return [
        address
        for other in cluster.nodes.values()
        if other.name != name
        for each in other.endpoints.values()
        for address in each.addresses
    ]


# ── claims that are not to be believed ───────────────────────────────────────


def lying(configured: Configured, victim: Configured) -> Configured:
    """Return a node that takes the blocks of another for its own, and says so to everybody."""
    return replace(configured, pod_cidrs=victim.pod_cidrs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_nobody_speaks_for_the_block_of_another(shape: str, seed: int) -> None:
    """What a node says of an address of another's block is in no set and in nobody's mouth; a third one counts it."""
    configurations = with_identity(SHAPES[shape]())
    *_, truthful, liar = configurations
    configurations[-1] = lying(liar, truthful)
    cluster = Cluster(configurations, seed)
    for name, node in cluster.nodes.items():
        if node.configured.kernel_enabled:
            cluster.apply(name, policies())
            cluster.attach(
                name, endpoint(truthful.node if name == liar.node else name, 9 if name == liar.node else 1, "db")
            )
    spoofed = endpoint(truthful.node, 1, "web")
    cluster.attach(liar.node, replace(spoofed, name="liar", interface="bgpmliar"))
    for name in cluster.random.sample(sorted(cluster.nodes), len(cluster.nodes)):
        cluster.start(name)
    cluster.settle()
    of_liar = {host_nlri(a) for e in cluster.nodes[liar.node].endpoints.values() for a in e.addresses}
    of_others = {host_nlri(a) for a in elsewhere(cluster, liar.node)}
    web = SetSource(4, parse("app == 'web'")).name
    for name, node in cluster.nodes.items():
        assert node.engine is not None
        if name == liar.node:
            continue
        if node.configured.kernel_enabled:
            members = set().union(*(each.members for each in node.kernel.sets.values()))
            assert not members & (of_liar - of_others)
            assert not node.kernel.sets[web].members & of_liar
        for peer in node.engine.peers.sessions:
            told = {n: attributes for n, attributes in node.engine.rib.advertised(peer) if n in of_liar - of_others}
            assert not [n for n, attributes in told.items() if identity_of(attributes.large_communities, ASN)]
    hearers = [
        node for node in cluster.nodes.values() if PeerName(liar.node) in (node.engine or refuse()).peers.sessions
    ]
    assert hearers
    for node in hearers:
        assert node.engine is not None
        assert node.engine.peers.faults[PeerName(liar.node)].claims_refused >= 4
        assert f"node {liar.node}" in node.engine.peers.faults[PeerName(liar.node)].claims_problem
        said = [note for note in node.engine.notes if note.name == "identity.refused"]
        assert len(said) == 1


def refuse() -> Engine:
    """Say that a daemon should run."""
    raise AssertionError("it runs")


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_outside_hears_who_is_who(seed: int) -> None:
    """A peer that is no node hears the blocks and no community; what it says itself is not believed."""
    configurations = with_identity(mesh(3))
    first, second, outside = configurations
    owners = first.owners[:2]
    first = replace(first, owners=owners, peers=tuple(replace(p, in_cluster=p.name != "n3") for p in first.peers))
    second = replace(second, owners=owners, peers=tuple(p for p in second.peers if p.name != "n3"))
    outside = replace(outside, peers=tuple(p for p in outside.peers if p.name == "n1"), pod_cidrs=second.pod_cidrs)
    cluster = Cluster([first, second, outside], seed)
    for name in cluster.nodes:
        cluster.apply(name, policies())
        cluster.attach(name, endpoint("n2" if name == "n3" else name, 7 if name == "n3" else 1, "web"))
        cluster.start(name)
    cluster.settle()
    engine = cluster.nodes["n1"].engine or refuse()
    told = dict(engine.rib.advertised(PeerName("n3")))
    assert sorted(nlri[0] for nlri in told) == [26, 112]
    assert not [n for n, attributes in told.items() if attributes.large_communities]
    heard = dict(engine.rib.received(PeerName("n3")))
    (lie,) = (nlri for nlri in heard if nlri[0] == 32)
    assert identity_of(heard[lie].large_communities, ASN)
    assert not [name for name, each in cluster.nodes["n1"].kernel.sets.items() if lie in each.members]
    assert [c.attributes.large_communities for c in engine.rib.candidates(lie)] == [()]
    assert lie in cluster.nodes["n1"].kernel.routes, "it is a route like any other"


def test_what_is_too_long_is_not_said() -> None:
    """Of a workload with more labels than fit nothing is said, and people hear of it."""
    cluster = Cluster(with_identity(mesh(2)), 0)
    labels = tuple((f"k{number:03}", "v") for number in range(MOST // 2))
    cluster.attach("n1", replace(endpoint("n1", 1, "web"), labels=labels))
    cluster.attach("n1", endpoint("n1", 2, "web"))
    cluster.attach("n2", endpoint("n2", 1, "web"))
    for name in cluster.nodes:
        cluster.apply(name, policies())
        cluster.start(name)
    cluster.settle()
    known = set().union(*(each.members for each in known_sets(cluster.nodes["n2"].kernel.sets)))
    assert host_nlri(ipaddress.ip_address("10.244.1.1")) not in known
    assert host_nlri(ipaddress.ip_address("10.244.1.2")) in known
    engine = cluster.nodes["n1"].engine or refuse()
    assert [note.keys["endpoint"] for note in engine.notes if note.name == "identity.too-long"] == ["shop/n1-1"]


# ── what follows for connections and addresses ───────────────────────────────


def test_another_label_there_calls_for_a_look_at_connections_here() -> None:
    """What somebody over there may no longer do is cut here; who comes or goes has nothing to be cut."""
    cluster = populated(mesh(2), 0)
    engine = cluster.nodes["n1"].engine or refuse()

    def grows(change: Callable[[], None]) -> bool:
        before = engine.packets.review.generation
        change()
        cluster.settle(3)
        return engine.packets.review.generation > before

    assert grows(lambda: cluster.attach("n2", endpoint("n2", 1, "other")))
    assert not grows(lambda: cluster.attach("n2", endpoint("n2", 3, "web")))
    assert not grows(lambda: cluster.detach("n2", "shop/n2-3"))


def test_no_connection_is_cut_before_it_is_known_who_is_who() -> None:
    """After a restart other nodes have to say it first."""
    cluster = populated(mesh(3), 1)
    cluster.kill("n1")
    cluster.start("n1")
    engine, looked = cluster.nodes["n1"].engine or refuse(), 0
    while engine.rib.fib.keep_unwanted:
        looked += engine.packets.review.generation != engine.packets.review.reviewed
        assert not engine.packets.is_review_due
        if not cluster._step():
            cluster.settle(0.5)
    cluster.settle(3)
    assert looked
    assert engine.packets.is_review_due


def test_an_address_is_not_given_away_while_it_may_be_taken_for_another() -> None:
    """A node that does not hear the withdrawal keeps the old owner in its sets for hold time and restart time."""
    cluster = populated(mesh(2), 2)
    engine = cluster.nodes["n1"].engine or refuse()
    address = ipaddress.ip_address("10.244.1.1")
    cluster.cut.add(frozenset(("n1", "n2")))
    for node in cluster.nodes.values():
        for number in list(node.ends):
            node.ends.pop(number).is_open = False
            cluster._tell(node, Disconnected(number, "reset"))
    cluster.settle(1)
    cluster.detach("n1", "shop/n1-1")
    released, nlri = cluster.now, host_nlri(address)
    while any(nlri in each.members for each in cluster.nodes["n2"].kernel.sets.values()):
        with pytest.raises(ConfigError, match="may take it for shop/n1-1"):
            engine.local.addresses.request("shop/evil", (address,), cluster.now)
        cluster.settle(5)
    assert cluster.now > released + 60
    cluster.settle(30)
    assert address in engine.local.addresses.request("shop/evil", (address,), cluster.now)


def test_more_identities_than_a_peer_may_send_end_its_session() -> None:
    """They have a limit of their own, and do not count as prefixes."""
    configurations = with_identity(mesh(2))
    tight = [
        replace(c, peers=tuple(replace(p, max_prefixes=1, max_identities=2) for p in c.peers)) for c in configurations
    ]
    cluster = Cluster(tight, 0)
    for name in cluster.nodes:
        cluster.apply(name, policies())
        cluster.attach(name, endpoint(name, 1, "web"))
        cluster.start(name)
    cluster.attach("n2", endpoint("n2", 2, "web"))
    cluster.settle()
    assert cluster.is_established("n1", "n2")
    cluster.attach("n2", endpoint("n2", 3, "web"))
    cluster.settle(5)
    engine = cluster.nodes["n1"].engine or refuse()
    assert not cluster.is_established("n1", "n2")
    assert (
        engine.peers.sessions[PeerName("n2")].last_error
        == "sent more than max_identities = 2 ipv4 prefixes: closed for 60 s"
    )
