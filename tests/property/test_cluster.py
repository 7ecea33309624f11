"""What must hold for a whole cluster, whatever the order in which messages arrive."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.events import Configured
from bgpmesh.peering.peer import Peer
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.nlri import Family, parse_nlri
from bgpmesh.route.path import Blackhole, PeerName, Role, Target, Via
from tests.property.cluster import Cluster

SEEDS = range(12)


def address(number: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(f"192.0.2.{number}")


def node(
    number: int,
    others: dict[int, Role],
    *,
    cluster_id: int | None = None,
    prefixes: tuple[str, ...] | None = None,
    kernel_enabled: bool = True,
) -> Configured:
    """Return a node `nN` with a pod CIDR of each family, and its sessions."""
    address6 = ipaddress.IPv6Address(f"2001:db8::{number}")
    next_hops = ((Family.IPV4, address(number)), (Family.IPV6, address6))
    peers = tuple(
        Peer(
            name=PeerName(f"n{other}"),
            address=address(other),
            asn=Asn(64512),
            role=role,
            local_address=address(number),
            local_asn=Asn(64512),
            router_id=RouterId(int(address(number))),
            in_cluster=True,
            is_passive=number < other,
            next_hops=next_hops,
            cluster_id=None if cluster_id is None else RouterId(cluster_id),
        )
        for other, role in sorted(others.items())
    )
    networks = prefixes if prefixes is not None else (f"10.244.{number}.0/26", f"fd00:10:244:{number}::/112")
    return Configured(
        node=f"n{number}",
        asn=Asn(64512),
        router_id=RouterId(int(address(number))),
        cluster_id=None if cluster_id is None else RouterId(cluster_id),
        peers=peers,
        pod_cidrs=tuple(map(ipaddress.ip_network, networks)),
        advertise=(),
        pools=(),
        kernel_enabled=kernel_enabled,
    )


def mesh(size: int) -> list[Configured]:
    return [node(i, dict.fromkeys(set(range(1, size + 1)) - {i}, Role.NON_CLIENT)) for i in range(1, size + 1)]


def reflected(clients: int) -> list[Configured]:
    """Two reflectors, n1 and n2, that do not forward, and clients of both."""
    numbers = range(3, 3 + clients)
    reflectors = [
        node(
            i,
            {3 - i: Role.NON_CLIENT, **dict.fromkeys(numbers, Role.CLIENT)},
            cluster_id=i,
            prefixes=(),
            kernel_enabled=False,
        )
        for i in (1, 2)
    ]
    return [*reflectors, *(node(i, {1: Role.NON_CLIENT, 2: Role.NON_CLIENT}) for i in numbers)]


def expected(configurations: list[Configured], of: str) -> dict[str, Target]:
    """Return what the kernel of a node should hold: its own blocks discarded, all others via their node."""
    routes: dict[str, Target] = {}
    for configured in configurations:
        for network in configured.pod_cidrs:
            number = int(configured.node[1:])
            hop = address(number) if network.version == 4 else ipaddress.IPv6Address(f"2001:db8::{number}")
            routes[str(network)] = Blackhole() if configured.node == of else Via((hop,))
    return routes


def started(configurations: list[Configured], seed: int) -> Cluster:
    cluster = Cluster(configurations, seed)
    names = list(cluster.nodes)
    cluster.random.shuffle(names)
    for name in names:
        cluster.start(name)
    cluster.settle()
    return cluster


def assert_converged(cluster: Cluster, configurations: list[Configured]) -> None:
    for configured in configurations:
        if configured.kernel_enabled:
            want = expected(configurations, configured.node)
            assert cluster.nodes[configured.node].routes() == dict(sorted(want.items(), key=lambda r: _order(r[0])))


def _order(prefix: str) -> bytes:
    network = ipaddress.ip_network(prefix)
    return bytes((network.prefixlen,)) + network.network_address.packed


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mesh_converges(seed: int) -> None:
    """Every node's kernel ends with every other node's blocks, whatever the order of messages."""
    configurations = mesh(5)
    assert_converged(started(configurations, seed), configurations)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_reflectors_converge_without_loops(seed: int) -> None:
    """Clients learn one another through two reflectors, and nobody hears its own prefixes back."""
    configurations = reflected(4)
    cluster = started(configurations, seed)
    assert_converged(cluster, configurations)
    for configured in configurations:
        own = {str(network) for network in configured.pod_cidrs}
        assert [heard for heard in cluster.nodes[configured.node].heard if heard[1] in own] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_daemon_comes_back_without_a_write(seed: int) -> None:
    """After kill -9 and a restart no kernel has had a route written or deleted, and no stale path is left."""
    configurations = mesh(4)
    cluster = started(configurations, seed)
    before = {name: n.kernel.writes for name, n in cluster.nodes.items()}
    victim = f"n{cluster.random.choice((1, 4))}"
    cluster.kill(victim)
    cluster.settle(cluster.random.choice((0.5, 5, 30)))
    cluster.start(victim)
    cluster.settle(30)
    assert {name: n.kernel.writes for name, n in cluster.nodes.items()} == before
    assert_converged(cluster, configurations)
    assert cluster.is_established(victim, "n2")
    for n in cluster.nodes.values():
        assert n.engine is not None
        assert {
            peer: n.engine.rib.stale_count(peer) for peer in n.engine.peers.sessions if n.engine.rib.stale_count(peer)
        } == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_twice_before_it_is_in_sync(seed: int) -> None:
    """A second kill in the window still loses nothing: the list of held peers stays until they are gone."""
    configurations = mesh(4)
    cluster = started(configurations, seed)
    before = {name: n.kernel.writes for name, n in cluster.nodes.items()}
    cluster.kill("n1")
    cluster.settle(1)
    cluster.start("n1")
    for _ in range(cluster.random.randrange(40)):
        cluster._step()
    cluster.kill("n1")
    cluster.settle(1)
    cluster.start("n1")
    cluster.settle(30)
    assert {name: n.kernel.writes for name, n in cluster.nodes.items()} == before
    assert_converged(cluster, configurations)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_orderly_stop_looks_like_a_crash(seed: int) -> None:
    """SIGTERM keeps the routes on both sides, where graceful restart was agreed."""
    configurations = mesh(3)
    cluster = started(configurations, seed)
    before = {name: n.kernel.writes for name, n in cluster.nodes.items()}
    cluster.stop("n2")
    cluster.settle(10)
    cluster.start("n2")
    cluster.settle(30)
    assert {name: n.kernel.writes for name, n in cluster.nodes.items()} == before
    assert_converged(cluster, configurations)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reflector_without_a_kernel_restarts_unnoticed(seed: int) -> None:
    """A killed reflector that writes no routes comes back, and no client's kernel changes; alone or not."""
    configurations = reflected(3)
    cluster = started(configurations, seed)
    before = {name: n.kernel.writes for name, n in cluster.nodes.items()}
    cluster.kill("n1")
    cluster.settle(2)
    cluster.start("n1")
    cluster.settle(30)
    assert {name: n.kernel.writes for name, n in cluster.nodes.items()} == before
    assert_converged(cluster, configurations)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_daemons_killed_and_started_together(seed: int) -> None:
    """Every daemon of a mesh restarts at once: each waits for all, and none deletes a route."""
    configurations = mesh(4)
    cluster = started(configurations, seed)
    before = {name: n.kernel.writes for name, n in cluster.nodes.items()}
    for name in cluster.nodes:
        cluster.kill(name)
    for name in cluster.nodes:
        cluster.start(name)
    cluster.settle(60)
    assert {name: n.kernel.writes for name, n in cluster.nodes.items()} == before
    assert_converged(cluster, configurations)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_stays_away_is_swept(seed: int) -> None:
    """A dead node's routes stay for the restart time, and are gone everywhere after it."""
    configurations = mesh(3)
    cluster = started(configurations, seed)
    cluster.kill("n3")
    cluster.settle(60)
    assert cluster.nodes["n1"].routes() == started(configurations, seed).nodes["n1"].routes()
    cluster.settle(100)
    assert_converged(cluster, configurations[:2])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_taken_out_and_put_back(seed: int) -> None:
    """Taking a node out of the configuration withdraws its routes; putting it back brings them again."""
    configurations = mesh(3)
    cluster = started(configurations, seed)
    for configured in configurations[:2]:
        peers = tuple(peer for peer in configured.peers if peer.name != "n3")
        cluster.reconfigure(configured.node, replace(configured, peers=peers))
    cluster.settle()
    assert_converged(cluster, configurations[:2])
    for configured in configurations[:2]:
        cluster.reconfigure(configured.node, configured)
    cluster.settle(30)
    assert_converged(cluster, configurations)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reload_that_begins_every_session_anew_writes_nothing(seed: int) -> None:
    """Another hold time on all nodes, one after the other: each keeps what it has of whom it resets (RFC 8538)."""
    configurations = mesh(4)
    cluster = started(configurations, seed)
    before = {name: n.kernel.writes for name, n in cluster.nodes.items()}
    for configured in configurations:
        peers = tuple(replace(peer, hold_time=30) for peer in configured.peers)
        cluster.reconfigure(configured.node, replace(configured, peers=peers))
        for _ in range(cluster.random.choice((0, 10, 100))):
            cluster._step()
    cluster.settle(30)
    assert {name: n.kernel.writes for name, n in cluster.nodes.items()} == before
    assert_converged(cluster, configurations)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_path_that_is_broken_for_a_while_is_kept_and_mended(seed: int) -> None:
    """Nothing gets through between two nodes until hold timers expire; then it does, and no route was written."""
    configurations = mesh(3)
    cluster = started(configurations, seed)
    before = {name: n.kernel.writes for name, n in cluster.nodes.items()}
    cluster.sever("n1", "n3")
    cluster.settle(cluster.random.choice((10, 30, 90)))
    assert not cluster.is_established("n1", "n3")
    cluster.cut.clear()
    cluster.settle(60)
    assert cluster.is_established("n1", "n3")
    assert {name: n.kernel.writes for name, n in cluster.nodes.items()} == before
    assert_converged(cluster, configurations)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_is_away_for_long_is_outlived(seed: int) -> None:
    """Beyond its restart time, also where a reflector passes its paths on; back again, no route was written."""
    configurations = [
        replace(each, peers=tuple(replace(peer, long_lived_graceful_restart=600) for peer in each.peers))
        for each in reflected(3)
    ]
    cluster = started(configurations, seed)
    before = {name: n.kernel.writes for name, n in cluster.nodes.items()}
    cluster.kill("n4")
    cluster.settle(300)
    for name in ("n3", "n5"):
        engine = cluster.nodes[name].engine
        assert engine is not None
        selected = engine.rib.best(parse_nlri("10.244.4.0/26"))
        assert selected is not None
        assert 0xFFFF0006 in selected.best.attributes.communities
    cluster.start("n4")
    cluster.settle(30)
    assert {name: n.kernel.writes for name, n in cluster.nodes.items()} == before
    assert_converged(cluster, configurations)
    for name in ("n3", "n5"):
        engine = cluster.nodes[name].engine
        assert engine is not None
        selected = engine.rib.best(parse_nlri("10.244.4.0/26"))
        assert selected is not None
        assert selected.best.attributes.communities == ()
