"""Host endpoints against a real kernel, with either kind of iptables: what reaches the host, leaves it, passes it.

    left (o1) ── eth0  host  eth1 ── right (o2)

Nobody listens: what reaches its end is answered with a reset, or as unreachable, and what is dropped with nothing.
"""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from bgpmesh.events import ObjectsChanged
from bgpmesh.policy.objects import read
from tests.netns.host import World, apart, run, run_all
from tests.policy import prober
from tests.waiting import DEADLINE_S

GRACE_S = 0.7  # for an answer that must not come: a second SYN would be sent after a second

FILE = """
[cluster]
asn = 64512
port = 1790
[pool.default]
cidr = "10.244.0.0/16"
[node.n1]
address = "192.0.2.1"
pod_cidrs = ["10.244.1.0/26"]
"""
LEFT, RIGHT = {4: "192.0.2.10", 6: "2001:db8:a::10"}, {4: "198.51.100.10", 6: "2001:db8:b::10"}
HOST = {"left": {4: "192.0.2.1", 6: "2001:db8:a::1"}, "right": {4: "198.51.100.1", 6: "2001:db8:b::1"}}
SETUP = """
ip netns add left
ip netns add right
sysctl -qw net.ipv6.conf.default.accept_dad=0
ip netns exec left sysctl -qw net.ipv6.conf.default.accept_dad=0
ip netns exec right sysctl -qw net.ipv6.conf.default.accept_dad=0
ip link add eth0 type veth peer name eth0 netns left
ip link add eth1 type veth peer name eth0 netns right
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
ip netns exec left sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
ip netns exec right sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
ip addr add 192.0.2.1/24 dev eth0
ip addr add 2001:db8:a::1/64 dev eth0
ip addr add 198.51.100.1/24 dev eth1
ip addr add 2001:db8:b::1/64 dev eth1
ip link set eth0 up
ip link set eth1 up
ip -n left addr add 192.0.2.10/24 dev eth0
ip -n left addr add 2001:db8:a::10/64 dev eth0
ip -n left link set eth0 up
ip -n left route add default via 192.0.2.1
ip -n left route add default via 2001:db8:a::1
ip -n right addr add 198.51.100.10/24 dev eth0
ip -n right addr add 2001:db8:b::10/64 dev eth0
ip -n right link set eth0 up
ip -n right route add default via 198.51.100.1
ip -n right route add default via 2001:db8:b::1
ip route add default via 198.51.100.10
"""

Json = dict[str, object]
Story = Callable[["Host"], Coroutine[None, None, None]]


class Probe(NamedTuple):
    """The first packet of a connection: `place` is `left`, `right` or "" (the host)."""

    place: str
    address: str
    protocol: str
    port: int


def opened(probe: Probe) -> socket.socket:
    """Return a socket of a probe, made in its place."""
    found: list[socket.socket] = []
    kind = socket.SOCK_STREAM if probe.protocol == "tcp" else socket.SOCK_DGRAM

    def make() -> None:
        if probe.place:
            prober.enter(probe.place)
        found.append(prober.opened(6 if ":" in probe.address else 4, kind))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return found[0]


def reached(probes: Iterable[Probe]) -> set[Probe]:
    """Return which of the probes are answered, be it with a refusal."""
    waiting: dict[int, tuple[Probe, socket.socket]] = {}
    poll, answered = select.poll(), set()
    for probe in probes:
        sock = opened(probe)
        waiting[sock.fileno()] = probe, sock
        try:
            sock.connect((probe.address, probe.port))
            if probe.protocol == "udp":
                sock.send(b"?")
        except BlockingIOError:
            pass
        except PermissionError:  # what the host itself may not send
            waiting.pop(sock.fileno())[1].close()
            continue
        poll.register(sock, select.POLLERR | (select.POLLOUT if probe.protocol == "tcp" else select.POLLIN))
    until = time.monotonic() + GRACE_S
    while waiting and (left := until - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            probe, sock = waiting.pop(fd)
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 110:  # ETIMEDOUT
                answered.add(probe)
            poll.unregister(fd)
            sock.close()
    for _, sock in waiting.values():
        sock.close()
    return answered


def document(kind: str, name: str, **spec: object) -> Json:
    """Return an object of Calico's, with its name as a label."""
    metadata = {"name": name, "labels": {"name": name}}
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}


def endpoint(interface: str) -> Json:
    """Return the host endpoint of an interface."""
    return document("HostEndpoint", "all" if interface == "*" else interface, node="n1", interfaceName=interface)


def policy(name: str, **spec: object) -> Json:
    """Return a policy on all host endpoints."""
    return document("GlobalNetworkPolicy", name, **{"selector": "all()", **spec})


def rule(action: str, protocol: str = "", port: int = 0, side: str = "destination") -> Json:
    """Return a rule about a port, or about everything."""
    return {"action": action} if not port else {"action": action, "protocol": protocol, side: {"ports": [port]}}


DENY_ALL = policy("none", types=["Ingress", "Egress"], ingress=[], egress=[])


@dataclass
class Host(World):
    """A host without workloads: its objects, and what reaches it."""

    text: str = FILE

    async def apply(self, *documents: Json) -> None:
        """Have these objects in force, and no others."""
        found = read(documents)
        assert found.refused == []
        self.report(ObjectsChanged(found.objects))
        await self.until(lambda: self.engine.packets.is_policy_in_force, "policy in force")
        assert self.engine.packets.unmade() == {}

    async def await_reached(self, probes: set[Probe], expected: set[Probe]) -> None:
        """Wait until these of the probes are answered and no others: what is late on a busy machine is no denial."""
        deadline = time.monotonic() + DEADLINE_S
        while (found := await asyncio.to_thread(reached, probes)) != expected:
            assert time.monotonic() < deadline, f"dropped: {expected - found}, let through: {found - expected}"


@pytest.fixture
def world(backend: str) -> Callable[[Story], None]:
    """Give a way to tell a story on a host with two neighbours."""

    def tell(story: Story) -> None:
        def whole() -> None:
            run_all(SETUP)
            here = Host(backend)
            # A rule of somebody else, so that the backend under test is the one in use.
            here.iptables(4, "-A", "FORWARD", "-s", "172.17.0.0/16", "-j", "ACCEPT", table="filter")
            asyncio.run(story(here))

        apart(whole)

    return tell


INBOUND = {("tcp", port) for port in (22, 80, 179, 1790)} | {("udp", port) for port in (53, 68, 3784, 4784)}
KEPT_IN = INBOUND - {("tcp", 80), ("udp", 53)}
KEPT_OUT = INBOUND - {("tcp", 22), ("tcp", 80), ("udp", 68)}


def into(place: str, ports: Iterable[tuple[str, int]], family: int) -> set[Probe]:
    """Return probes of the host's ports from one side."""
    return {Probe(place, HOST[place][family], *port) for port in ports}


def out(neighbour: dict[int, str], ports: Iterable[tuple[str, int]], family: int) -> set[Probe]:
    """Return probes of the host's own."""
    return {Probe("", neighbour[family], *port) for port in ports}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("objects", [(), (DENY_ALL,)])
def test_a_closed_host_keeps_ssh_bgp_and_bfd(
    world: Callable[[Story], None], family: int, objects: tuple[Json, ...]
) -> None:
    """BGP on the port that is configured, too; and nothing else, in or out, by any interface."""

    async def story(here: Host) -> None:
        ways = [into("left", INBOUND, family), into("right", INBOUND, family)]
        ways += [out(LEFT, INBOUND, family), out(RIGHT, INBOUND, family)]
        async with here.running():
            everything = set[Probe]().union(*ways)
            await here.await_reached(everything, everything)
            await here.apply(endpoint("*"), *objects)
            run("ip", f"-{family}", "neigh", "flush", "all")  # neighbours are found again
            expected = into("left", KEPT_IN, family) | into("right", KEPT_IN, family)
            expected |= out(LEFT, KEPT_OUT, family) | out(RIGHT, KEPT_OUT, family)
            await here.await_reached(everything, expected)
            through = {Probe("left", RIGHT[family], "tcp", 80), Probe("right", LEFT[family], "udp", 53)}
            await here.await_reached(through, through)
            await here.apply()
            await here.await_reached(everything, everything)
            assert not [key for key in here.engine.packets.chains.actual if key.table in {"filter", "mangle", "raw"}]

    world(story)


def test_a_named_interface_and_all_of_them(world: Callable[[Story], None]) -> None:
    """The name goes before `*`; without `*` the others are open."""

    async def story(here: Host) -> None:
        left, right = into("left", {("tcp", 80)}, 4), into("right", {("tcp", 80)}, 4)
        open_left = policy("left", selector="name == 'eth0'", ingress=[rule("Allow", "TCP", 80)])
        async with here.running():
            await here.await_reached(left | right, left | right)
            await here.apply(endpoint("eth0"))
            await here.await_reached(left | right, right)
            await here.apply(endpoint("eth0"), endpoint("*"), open_left)
            await here.await_reached(left | right, left)

    world(story)


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_forwarded_is_under_policies_for_it(world: Callable[[Story], None], family: int) -> None:
    """By the interface it comes in, or goes out by; the host's own traffic has nothing to do with that."""

    async def story(here: Host) -> None:
        right = {Probe("left", RIGHT[family], "tcp", port) for port in (22, 80)}
        left = {Probe("right", LEFT[family], "tcp", port) for port in (22, 80)}
        profile = {"profiles": ["projectcalico-default-allow"]}
        eth0 = document("HostEndpoint", "eth0", node="n1", interfaceName="eth0", **profile)
        only_web = [rule("Allow", "TCP", 80)]
        async with here.running():
            await here.await_reached(left | right, left | right)
            for key, types, closed in (("ingress", ["Ingress"], right), ("egress", ["Egress"], left)):
                web = {"selector": "name == 'eth0'", "types": types, "applyOnForward": True, key: only_web}
                await here.apply(eth0, policy("web", **web))
                await here.await_reached(left | right, (left | right) - {probe for probe in closed if probe.port == 22})

    world(story)


def test_a_policy_before_destination_nat_sees_the_address_that_was_asked_for(world: Callable[[Story], None]) -> None:
    """What it denies never comes to the translation, what is asked for directly passes."""

    async def story(here: Host) -> None:
        asked, directly = Probe("left", "192.0.2.1", "tcp", 8080), Probe("left", RIGHT[4], "tcp", 80)
        translate = f"-A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination {RIGHT[4]}:80"
        here.iptables(4, *translate.split())
        deny = policy("early", preDNAT=True, applyOnForward=True, ingress=[rule("Deny", "TCP", 8080)])
        allow = policy("early", preDNAT=True, applyOnForward=True, ingress=[rule("Allow", "TCP", 8080)])
        none = policy("none", types=["Ingress"], applyOnForward=True, ingress=[])
        async with here.running():
            await here.await_reached({asked, directly}, {asked, directly})
            await here.apply(endpoint("*"), deny)
            await here.await_reached({asked, directly}, {directly})
            await here.apply(endpoint("*"), allow, none)
            await here.await_reached({asked, directly}, {asked})

    world(story)


def test_what_the_host_has_translated_is_under_the_interface_it_leaves_by(world: Callable[[Story], None]) -> None:
    """Where it was asked for elsewhere, by the default route, and goes to a neighbour."""

    async def story(here: Host) -> None:
        asked = {Probe("", "203.0.113.9", "tcp", port) for port in (80, 179)}
        translate = f"-A OUTPUT -d 203.0.113.9 -j DNAT --to-destination {LEFT[4]}"
        here.iptables(4, *translate.split())
        async with here.running():
            await here.await_reached(asked, asked)
            await here.apply(endpoint("eth0"))
            await here.await_reached(asked, {probe for probe in asked if probe.port == 179})
            await here.apply(endpoint("eth1"))
            await here.await_reached(asked, asked)

    world(story)


def test_an_untracked_policy_needs_both_directions(world: Callable[[Story], None]) -> None:
    """Nothing is remembered of what it lets in, so the answer goes out by a rule only."""

    async def story(here: Host) -> None:
        probe = {Probe("left", "192.0.2.1", "tcp", 80)}
        come, go = [rule("Allow", "TCP", 80)], [rule("Allow", "TCP", 80, side="source")]
        raw = {"doNotTrack": True, "applyOnForward": True, "ingress": come}
        async with here.running():
            await here.await_reached(probe, probe)
            await here.apply(endpoint("eth0"), policy("raw", **raw))
            await here.await_reached(probe, set())
            await here.apply(endpoint("eth0"), policy("raw", egress=go, **raw))
            await here.await_reached(probe, probe)

    world(story)


def test_connections_outlive_a_policy_that_would_not_let_them_begin(world: Callable[[Story], None]) -> None:
    """And a new one is dropped."""

    async def story(here: Host) -> None:
        server = socket.create_server(("192.0.2.1", 80))
        client = opened(Probe("left", "192.0.2.1", "tcp", 80))
        client.setblocking(True)
        client.settimeout(DEADLINE_S)
        with server, client:
            async with here.running():
                await here.apply(endpoint("*"), policy("web", ingress=[rule("Allow", "TCP", 80)]))
                client.connect(("192.0.2.1", 80))
                accepted, _ = server.accept()
                with accepted:
                    accepted.settimeout(DEADLINE_S)
                    for objects in ((endpoint("*"), DENY_ALL), (endpoint("*"),), (endpoint("eth0"),), ()):
                        await here.apply(*objects)
                        client.sendall(b"ping")
                        assert accepted.recv(4) == b"ping"
                        accepted.sendall(b"pong")
                        assert client.recv(4) == b"pong"
                        probe = {Probe("left", "192.0.2.1", "tcp", 80)}
                        await here.await_reached(probe, set() if objects else probe)

    world(story)
