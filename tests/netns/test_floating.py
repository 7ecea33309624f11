"""Floating addresses with real packets, in namespaces of the test's own, with either kind of iptables.

outside 192.0.2.9 ---- the host 192.0.2.1 ---- web 10.244.1.2
                                          ---- db  10.244.1.3
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass

from bgpmesh.events import ChainsWritten, ConnectionsCut, EndpointRemoved, Event, FloatingIpsKept
from bgpmesh.kernel.chains import uninstall
from bgpmesh.kernel.conntrack import Connections, ConnectionsEdge
from bgpmesh.policy.explain import explain
from bgpmesh.policy.model import Packet
from bgpmesh.policy.rule import UDP, Action
from bgpmesh.route.nlri import IPAddress
from bgpmesh.workload.endpoint import Endpoint
from bgpmesh.workload.floating import FloatingIp
from tests.lab.cluster import script
from tests.netns.host import Story, World, connect, run, run_all, sets_of_ours, without_net_admin
from tests.waiting import DEADLINE_S, beside, until

PORT = "5005"

OUTSIDE = ("192.0.2.9", "2001:db8::9")
HOST = ("192.0.2.1", "2001:db8::1")
WEB, DB = ("10.244.1.2", "fd00:10:244:1::2"), ("10.244.1.3", "fd00:10:244:1::3")
OF_WEB, SECOND, OF_DB = (
    ("203.0.113.10", "2001:db8:f::10"),
    ("203.0.113.11", "2001:db8:f::11"),
    ("203.0.113.12", "2001:db8:f::12"),
)

FILE = """
[cluster]
asn = 64512
[pool.default]
cidr = "10.244.0.0/16"
masquerade = true
[pool.default6]
cidr = "fd00:10:244::/48"
masquerade = true
[node.n1]
address = "192.0.2.1"
address6 = "2001:db8::1"
pod_cidrs = ["10.244.1.0/26", "fd00:10:244:1::/112"]
"""


def table(externals: tuple[str, ...], workload: str, *, outbound: bool = False) -> str:
    """Return the tables of some floating addresses."""
    return "".join(
        f'[floating_ip."{each}"]\nworkload = "shop/{workload}"\noutbound = {str(outbound).lower()}\n'
        for each in externals
    )


ALL = FILE + table(OF_WEB, "web") + table(SECOND, "web", outbound=True) + table(OF_DB, "db")


def endpoint(name: str, addresses: tuple[str, ...]) -> Endpoint:
    """Return a workload of the host."""
    return Endpoint(name, "shop", (), tuple(map(ipaddress.ip_address, addresses)), f"bgpm-{name}", f"/run/netns/{name}")


def lay_out() -> None:
    """Make the host, which the calling thread is in, a router between an outside host and two workloads."""
    run_all("""
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.netfilter.nf_conntrack_udp_timeout=600
        ip netns add outside
        ip link add fabric type veth peer eth0 netns outside
        ip address add 192.0.2.1/24 dev fabric
        ip address add 2001:db8::1/64 dev fabric nodad
        ip link set fabric up
        ip -n outside address add 192.0.2.9/24 dev eth0
        ip -n outside address add 2001:db8::9/64 dev eth0 nodad
        ip -n outside link set eth0 up
        ip -n outside route add 203.0.113.0/24 via 192.0.2.1
        ip -n outside route add 2001:db8:f::/48 via 2001:db8::1
    """)
    # What has no way: where the host would send it if nothing were translated.
    run_all("""
        ip route add 203.0.113.0/24 via 192.0.2.9
        ip route add 2001:db8:f::/48 via 2001:db8::9
    """)
    for name, addresses in (("web", WEB), ("db", DB)):
        connect(endpoint(name, addresses))


def place(name: str) -> list[str]:
    """Return what a command begins with to run there; "" is the host itself."""
    return ["ip", "netns", "exec", name] if name else []


def ask(of: str, target: str, *, tries: int = 60, own_port: str = "0") -> str:
    """Return which server answers and which source it saw, "" where nobody answers."""
    command = [*place(of), *script("source", "ask", target, PORT, str(tries), own_port)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE_S).stdout.strip()


@contextmanager
def servers() -> Iterator[None]:
    """Have everybody answer, by name."""
    started = []
    for name, addresses in (("outside", OUTSIDE), ("web", WEB), ("db", DB)):
        for each in addresses:
            command = [*place(name), *script("source", "serve", each, PORT, name)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
    try:
        for server in started:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
        yield
    finally:
        for server in started:
            server.kill()
            server.communicate()


@dataclass
class Life:
    """One life of a daemon: its engine, the packet filter's edge (both of `world`), and that of connections."""

    world: World
    edge: ConnectionsEdge

    def report(self, event: Event) -> None:
        """Let the engine hear it."""
        self.world.report(event)

    async def settled(self) -> None:
        """Wait until rules and connections are as wanted."""
        engine = self.world.engine

        def is_settled() -> bool:
            self.edge.kick()
            return (
                not len(engine.packets.chains)
                and not len(engine.packets.sets)
                and not len(engine.packets.leads.connections)
            )

        await self.world.until(is_settled, "as wanted")


@asynccontextmanager
async def running(here: World, *attached: Endpoint) -> AsyncIterator[Life]:
    """Live one life of a daemon with these workloads, connections included."""
    here.attached = attached
    async with here.running():
        life = Life(here, ConnectionsEdge(here.engine.packets.leads.connections, here.report))
        async with beside(life.edge.run()):
            yield life


def connections(external: str) -> list[tuple[str, str]]:
    """Return who called a floating address, and who answers."""
    with closing(Connections()) as tracked:
        found = tracked.of(ipaddress.ip_address(external))
    return sorted((str(each.source), str(each.reply_source)) for each in found)


def test_packets_find_the_workload_and_keep_who_they_are_from(world: Callable[[Story], None]) -> None:
    """From outside, the host, another workload and itself; and out again, by the connection or by `outbound`."""

    async def story(here: World) -> None:
        lay_out()
        here.text = ALL
        with servers():
            async with running(here, endpoint("web", WEB), endpoint("db", DB)) as life:
                await life.settled()
                for family in (0, 1):
                    web, second, db = OF_WEB[family], SECOND[family], OF_DB[family]
                    for external, name in ((web, "web"), (second, "web"), (db, "db")):
                        assert await asyncio.to_thread(ask, "outside", external) == f"{name} {OUTSIDE[family]}"
                        said = await asyncio.to_thread(ask, "", external)
                        assert said.split()[0] == name, "by OUTPUT"
                    asked = {
                        ("db", web): f"web {DB[family]}",
                        ("db", second): f"web {DB[family]}",
                        ("web", db): f"db {WEB[family]}",
                        ("web", web): f"web {second}",  # a hairpin
                        ("web", second): f"web {second}",
                        ("db", db): f"db {db}",
                        ("web", DB[family]): f"db {WEB[family]}",
                        ("web", OUTSIDE[family]): f"outside {second}",  # as it asked for
                        ("db", OUTSIDE[family]): f"outside {HOST[family]}",  # masqueraded
                    }
                    seen = {way: await asyncio.to_thread(ask, *way) for way in asked}
                    assert seen == asked

    world(story)


def explained(here: World, packet: Packet) -> tuple[IPAddress, str]:
    """Return where a connection is led, and with which source it leaves ("masquerade": with the host's)."""
    engine = here.engine
    found = explain(
        engine.packets.protection.compiled, packet, engine.packets.protection.options, engine.packets.leads.translation
    )
    assert found.verdict is Action.ALLOW
    led, source = packet.destination, str(packet.source)
    for step in found.steps:
        if step.action == "dnat" and step.to is not None:
            led = step.to
        elif step.action in {"snat", "masquerade"}:
            source = str(step.to or step.action)
    return led, source


def test_the_explanation_says_what_the_kernel_translates(world: Callable[[Story], None]) -> None:
    """Of each connection, as connection tracking has it: into a workload, out of one, both, and neither."""

    async def story(here: World) -> None:
        lay_out()
        here.text = ALL
        with servers(), closing(Connections()) as tracked:
            async with running(here, endpoint("web", WEB), endpoint("db", DB)) as life:
                await life.settled()
                for family in (0, 1):
                    web, second, outside = OF_WEB[family], SECOND[family], OUTSIDE[family]
                    ways = [("outside", web), ("outside", second), ("db", web), ("web", OF_DB[family]), ("", web)]
                    ways += [("web", web), ("web", second), ("db", OF_DB[family])]
                    ways += [("web", outside), ("db", outside), ("web", DB[family]), ("", DB[family])]
                    for port, (of, target) in enumerate(ways, start=7000):
                        assert await asyncio.to_thread(ask, of, target, own_port=str(port))
                        called = tracked.of(ipaddress.ip_address(target))
                        (entry,) = (e for e in called if e.packet is not None and e.packet.source_port == port)
                        into = "fabric" if of == "outside" else None
                        packet = Packet(entry.source, entry.destination, UDP, port, int(PORT), into=into)
                        led, source = explained(here, packet)
                        kernel = entry.reply_source, str(entry.reply_destination)
                        expected = HOST[family] if source == "masquerade" else source
                        assert (led, expected) == kernel, (of, target)

    world(story)


def test_nobody_else_is_translated(world: Callable[[Story], None]) -> None:
    """Without masquerading, and for addresses that are not here: packets are as they were sent."""

    async def story(here: World) -> None:
        lay_out()
        here.text = ALL.replace("masquerade = true\n", "")
        run("ip", "-n", "outside", "route", "add", "10.244.0.0/16", "via", HOST[0])
        with servers():
            async with running(here, endpoint("web", WEB), endpoint("db", DB)) as life:
                await life.settled()
                assert await asyncio.to_thread(ask, "db", OUTSIDE[0]) == f"outside {DB[0]}"
                assert await asyncio.to_thread(ask, "web", OUTSIDE[0]) == f"outside {SECOND[0]}"
                life.report(EndpointRemoved("shop/web"))
                await life.settled()
                assert await asyncio.to_thread(ask, "outside", OF_WEB[0], tries=2) == ""
                assert await asyncio.to_thread(ask, "outside", OF_DB[0]) == f"db {OUTSIDE[0]}"
                assert await asyncio.to_thread(ask, "web", OUTSIDE[0], tries=2) == "", "no workload any more"
                life.report(EndpointRemoved("shop/db"))
                await life.settled()
                assert [line for family in (4, 6) for line in here.saved(family) if "bm" in line] == []
                assert sets_of_ours() == {}

    world(story)


def test_a_move_takes_one_transaction_and_cuts_what_led_elsewhere(world: Callable[[Story], None]) -> None:
    """The same connection, to a NAT, is answered by the new workload at once; others go on."""

    async def story(here: World) -> None:
        lay_out()
        here.text = FILE + table(OF_DB, "db")
        with servers():
            async with running(here, endpoint("web", WEB), endpoint("db", DB)) as life:
                external = tuple(map(ipaddress.ip_address, OF_WEB))
                for family in (0, 1):
                    life.report(FloatingIpsKept((FloatingIp(external[family], "shop/web", outbound=True),)))
                    await life.settled()
                    out, web, other = OUTSIDE[family], OF_WEB[family], OF_DB[family]
                    assert await asyncio.to_thread(ask, "outside", web, own_port="6001") == f"web {out}"
                    assert await asyncio.to_thread(ask, "outside", other, own_port="6002") == f"db {out}"
                    assert await asyncio.to_thread(ask, "web", out, own_port="6003") == f"outside {web}"
                    assert connections(web) == sorted([(out, WEB[family]), (WEB[family], out)])
                    here.applied.clear()
                    life.report(FloatingIpsKept((FloatingIp(external[family], "shop/db"),)))
                    await life.settled()
                    assert len(here.applied) == 1, "one round of writing"
                    assert connections(web) == []
                    assert connections(other) == [(out, DB[family])]
                    assert await asyncio.to_thread(ask, "outside", web, own_port="6001") == f"db {out}"
                    assert await asyncio.to_thread(ask, "web", out, own_port="6003") == f"outside {HOST[family]}"
                    life.report(FloatingIpsKept(()))
                    await life.settled()
                    assert connections(web) == []
                assert here.engine.packets.unmade() == {}

    world(story)


def test_a_restart_writes_nothing_and_cuts_what_moved_meanwhile(world: Callable[[Story], None]) -> None:
    """The set of an earlier life tells which addresses it had."""

    async def story(here: World) -> None:
        lay_out()
        here.text = ALL
        both = endpoint("web", WEB), endpoint("db", DB)
        with servers():
            async with running(here, *both) as life:
                await life.settled()
            for external in (OF_WEB[0], SECOND[0], OF_DB[0]):
                await asyncio.to_thread(ask, "outside", external)
            whole = here.saved(4), here.saved(6)
            here.text = FILE + table(OF_WEB, "db") + table(OF_DB, "db")
            async with running(here, *both) as life:
                await life.settled()
                cut = [event for event in here.events if isinstance(event, ConnectionsCut)]
                assert [event.failed for event in cut] == [{}] * len(cut)
                assert connections(OF_WEB[0]) == []
                assert connections(SECOND[0]) == []
                assert connections(OF_DB[0]) == [(OUTSIDE[0], DB[0])]
            here.text = ALL
            async with running(here, *both) as life:
                await life.settled()
            assert (here.saved(4), here.saved(6)) == whole
            async with running(here, *both) as life:
                await life.settled()
                assert [event for event in here.events if isinstance(event, ChainsWritten)] == []
            assert (here.saved(4), here.saved(6)) == whole
        assert connections(OF_DB[0]) != []
        removed = await asyncio.to_thread(uninstall)
        assert f"1 connections of {OF_DB[0]}" in removed
        assert connections(OF_DB[0]) == []
        assert "set bm-4-fip" in removed
        assert "hook in nat OUTPUT (IPv6)" in removed
        assert [line for family in (4, 6) for line in here.saved(family) if "bm" in line] == []
        assert sets_of_ours() == {}

    world(story)


def test_no_workload_sends_from_its_floating_address(world: Callable[[Story], None]) -> None:
    """Although a route leads that to its link: policy knows it by its own address."""

    async def story(here: World) -> None:
        lay_out()
        here.text = ALL.replace("masquerade = true\n", "")
        script = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as opened:
    opened.bind((sys.argv[1], 0))
    opened.sendto(b"?", (sys.argv[2], 5005))
"""
        with servers():
            async with running(here, endpoint("web", WEB), endpoint("db", DB)) as life:
                await life.settled()
                for family, bits in ((0, 32), (1, 128)):
                    nodad = ["nodad"] if family else []
                    run("ip", "route", "replace", f"{OF_WEB[family]}/{bits}", "dev", "bgpm-web")
                    run("ip", "-n", "web", "address", "add", f"{OF_WEB[family]}/{bits}", "dev", "eth0", *nodad)
                    command = [*place("web"), sys.executable, "-ISE", "-c", script]
                    await asyncio.to_thread(run, *command, OF_WEB[family], DB[family])
                    assert await asyncio.to_thread(ask, "web", DB[family]) == f"db {WEB[family]}", "behind it"
                    assert connections(DB[family]) == [(WEB[family], DB[family])]
                    source, target = (ipaddress.ip_address(each[family]) for each in (OF_WEB, DB))
                    lie = Packet(source, target, UDP, 1, int(PORT), into="bgpm-web")
                    engine = here.engine
                    options = engine.packets.protection.options
                    found = explain(engine.packets.protection.compiled, lie, options, engine.packets.leads.translation)
                    assert [(step.policy, step.action) for step in found.steps] == [("(spoofed)", "deny")]

    world(story)


def test_without_permission_it_says_so(world: Callable[[Story], None]) -> None:
    """By the address; nothing ends over it."""

    async def story(here: World) -> None:
        here.text = FILE
        async with running(here) as life:
            await life.settled()
            without_net_admin()
            here.engine.packets.leads.connections.want(ipaddress.ip_address(OF_WEB[0]), ipaddress.ip_address(WEB[0]))
            life.edge.kick()
            await here.until(here.engine.packets.unmade, "the refusal")
            assert here.engine.packets.unmade() == {f"connections of {OF_WEB[0]}": "Operation not permitted"}

    world(story)


def test_thousands_of_connections_are_cut(world: Callable[[Story], None]) -> None:
    """More than a message holds, and none of the others."""

    async def story(here: World) -> None:
        lay_out()
        here.text = FILE + table(OF_DB[:1], "db") + table(OF_WEB[:1], "web")
        script = f"""
import socket
for number in range(3000):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("", 10000 + number))
        opened.sendto(b"?", ("{OF_WEB[0]}" if number % 3 else "{OF_DB[0]}", {PORT}))
"""
        async with running(here, endpoint("web", WEB), endpoint("db", DB)) as life:
            await life.settled()
            await asyncio.to_thread(run, *place("outside"), sys.executable, "-ISE", "-c", script)
            await until(lambda: len(connections(OF_WEB[0])) == 2000, lambda: len(connections(OF_WEB[0])))
            life.report(EndpointRemoved("shop/web"))
            await life.settled()
            assert connections(OF_WEB[0]) == []
            assert len(connections(OF_DB[0])) == 1000
            with closing(Connections()) as tracked:
                found = tracked.of(ipaddress.ip_address(OF_DB[0]))
                for _ in range(2):
                    tracked.delete(found)  # the second time every single one is refused
            assert connections(OF_DB[0]) == []

    world(story)


def test_what_is_over_is_no_living_connection(world: Callable[[Story], None]) -> None:
    """Although the kernel remembers it for a while; and who is not asked about is only counted."""

    async def story(here: World) -> None:
        lay_out()
        here.text = FILE + table(OF_WEB, "web")
        own, other = map(ipaddress.ip_address, (HOST[0], WEB[0]))
        async with running(here, endpoint("web", WEB)) as life:
            await life.settled()
            with closing(Connections()) as tracked, socket.create_server((HOST[0], 5006)) as server:
                with socket.create_connection((HOST[0], 5006), timeout=DEADLINE_S) as opened:
                    accepted, _ = server.accept()
                    (found,), count = tracked.living({own})
                    assert found.packet is not None
                    assert (found.packet.port, found.is_over) == (5006, False)
                    assert tracked.living({other}) == ([], count)
                    opened.shutdown(socket.SHUT_WR)
                    assert len(tracked.living({own})[0]) == 1, "one end has not said so"
                    accepted.close()
                assert tracked.living({own}) == ([], count - 1)
                (known,) = (each for each in tracked.of(own) if each.packet is not None and each.packet.port == 5006)
                assert known.is_over

    world(story)
