"""Workload links against a real kernel, in network namespaces of the test's own."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from bgpmesh.delta import Delta
from bgpmesh.events import Event, LinkNamesRead, LinkObserved, LinksRead, LinkWritten
from bgpmesh.kernel.linkread import LinkReader, host_mac, inside_mac
from bgpmesh.kernel.links import LinksEdge, uninstall
from bgpmesh.kernel.sysctls import prepare_host
from bgpmesh.route.nlri import IPAddress
from bgpmesh.workload.endpoint import Endpoint, LinkSpec, interface_name, link_of
from containerlab import lab
from tests.netns.host import apart, run
from tests.waiting import DEADLINE_S, beside, until

LINKS_NEIGHBOURS_AND_ADDRESSES = 0x1 | 0x4 | 0x10 | 0x100  # groups of linux/rtnetlink.h

Scenario = Callable[[], None]


def succeeds(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True, timeout=DEADLINE_S).returncode == 0


def rows(*command: str) -> list[dict[str, object]]:
    """Return what `ip -j` lists."""
    return cast("list[dict[str, object]]", json.loads(run(*command) or "[]"))


@pytest.fixture
def node() -> Callable[[Scenario], None]:
    """Give a way to run a scenario on a node of its own."""
    return apart


def workload(name: str, *addresses: str) -> LinkSpec:
    """Return the link of shop/`name`, whose namespace is /run/netns/`name`."""
    parsed = tuple(ipaddress.ip_address(text) for text in addresses)
    key = f"shop/{name}"
    return link_of(Endpoint(name, "shop", (), parsed, interface_name("bgpm", key), f"/run/netns/{name}"))


@dataclass
class Bench:
    """An edge that runs, its Delta, and a stand-in for the engine."""

    links: Delta[str, LinkSpec] = field(default_factory=Delta)
    events: list[Event] = field(default_factory=list)
    names: list[set[str]] = field(default_factory=list)  # of all links, each time they are told
    addresses: dict[IPAddress, frozenset[int]] = field(default_factory=dict)

    def report(self, event: Event) -> None:
        """Do what the engine does with the event."""
        if isinstance(event, LinkNamesRead):
            self.names.append(set(event.names.values()))
            self.addresses |= event.addresses
            return
        self.events.append(event)
        match event:
            case LinksRead(links):
                self.links.observe_all(links)
            case LinkObserved(interface, link):
                self.links.observe(interface, link)
            case LinkWritten(interface, None):
                self.links.acknowledge([interface])
            case LinkWritten(interface, str(failure)):
                self.links.refuse(interface, failure, time.monotonic())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[LinksEdge]:
        """Give an edge that has read back and runs."""
        edge = LinksEdge(self.links, "bgpm", self.report)
        await edge.start()
        try:
            async with beside(edge.run()):
                yield edge
        finally:
            edge.close()  # for a task that was cancelled before it began

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Poll until something is so."""
        await until(is_so, lambda: self.events)

    async def settled(self, edge: LinksEdge, *specs: LinkSpec) -> None:
        """Want these links, and wait until everything is as wanted."""
        for spec in specs:
            self.links.want(spec.interface, spec)
        edge.kick()
        await self.until(lambda: len(self.links) == 0 and not edge._awake.is_set())
        assert {s.interface: s for s in specs}.items() <= self.links.actual.items()


def in_loop(story: Callable[[], Awaitable[None]]) -> Scenario:
    async def whole() -> None:
        await story()

    return lambda: asyncio.run(whole())


def route_to(spec: LinkSpec) -> None:
    """Do what the fib does: a host route for each address."""
    for address in spec.addresses:
        run("ip", "route", "add", f"{address}/{address.max_prefixlen}", "dev", spec.interface)


def global_addresses(name: str) -> list[dict[str, object]]:
    """Return what eth0 of a workload has, link-local addresses aside."""
    told = cast("list[dict[str, object]]", rows("ip", "-n", name, "-j", "addr", "show", "eth0")[0]["addr_info"])
    return [address for address in told if address["scope"] == "global"]


def inode_of(path: str) -> tuple[int, int]:
    """Return which namespace a path leads to."""
    found = Path(path).stat()
    return found.st_dev, found.st_ino


def is_open(fd: int, inode: tuple[int, int]) -> bool:
    """Tell whether a descriptor still leads to that namespace."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == inode


@contextmanager
def process_in_new_namespace() -> Iterator[int]:
    """Give the id of a process that is alone in a network namespace."""
    own = inode_of("/proc/thread-self/ns/net")
    with subprocess.Popen(["unshare", "--net", "sleep", "600"]) as process:
        try:
            lab.until(lambda: inode_of(f"/proc/{process.pid}/ns/net") != own, "a namespace of its own")
            yield process.pid
        finally:
            process.kill()


def pings(of: str, address: IPAddress | str, seconds: int = 30) -> bool:
    """Tell whether a workload ("" is the host itself) is answered within so many seconds."""
    place = ("ip", "netns", "exec", of) if of else ()
    return succeeds(*place, "ping", "-c", "1", "-w", str(seconds), str(address))


WEB = workload("web", "10.244.1.5", "fd00:10:244:1::5")
SHOP_DB = workload("db", "10.244.1.6", "fd00:10:244:1::6")


def test_two_workloads_reach_each_other_through_the_node(node: Callable[[Scenario], None]) -> None:
    """Over IPv4 and IPv6, once the host routes stand and not before; one hop lies between."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        run("ip", "netns", "add", "db")
        assert prepare_host() == []
        bench = Bench()
        async with bench.running() as edge:
            await bench.settled(edge, WEB, SHOP_DB)
            assert not pings("web", "10.244.1.6", seconds=1)
            route_to(WEB)
            route_to(SHOP_DB)
            for address in SHOP_DB.addresses:
                assert pings("web", address)
            for address in WEB.addresses:
                assert pings("db", address)
            assert "ttl=63" in run("ip", "netns", "exec", "web", "ping", "-c", "1", "-w", "30", "10.244.1.6")
            assert pings("", "fd00:10:244:1::5")
            assert pings("web", "fe80::1%eth0")

    node(in_loop(story))


def test_the_inside_is_exactly_what_it_should_be(node: Callable[[Scenario], None]) -> None:
    """Single addresses without a wait, both gateways, permanent neighbours, loopback up, and nothing else."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        bench = Bench()
        async with bench.running() as edge:
            await bench.settled(edge, WEB)
        inside = ("ip", "-n", "web", "-j")
        links = {str(row["ifname"]): row for row in rows(*inside, "link")}
        assert set(links) == {"lo", "eth0"}
        assert "UP" in cast("list[str]", links["lo"]["flags"])
        assert links["eth0"]["address"] == inside_mac(WEB.interface)
        told = global_addresses("web")
        assert [(a["local"], a["prefixlen"]) for a in told] == [("10.244.1.5", 32), ("fd00:10:244:1::5", 128)]
        assert not any("tentative" in a for a in told)
        assert [(r["dst"], r.get("gateway"), r.get("scope")) for r in rows(*inside, "route")] == [
            ("default", "169.254.1.1", None),
            ("169.254.1.1", None, "link"),
        ]
        assert [r["gateway"] for r in rows(*inside, "-6", "route", "show", "default")] == ["fe80::1"]
        assert sorted((n["dst"], n["lladdr"], *cast("list[str]", n["state"])) for n in rows(*inside, "neigh")) == [
            ("169.254.1.1", host_mac(WEB.interface), "PERMANENT"),
            ("fe80::1", host_mac(WEB.interface), "PERMANENT"),
        ]
        outside = rows("ip", "-j", "link", "show", WEB.interface)[0]
        assert (outside["ifalias"], outside["address"]) == (WEB.alias, host_mac(WEB.interface))
        neighbours = rows("ip", "-j", "neigh", "show", "dev", WEB.interface, "nud", "permanent")
        assert {n["dst"] for n in neighbours} == {"10.244.1.5", "fd00:10:244:1::5"}
        assert {n["lladdr"] for n in neighbours} == {inside_mac(WEB.interface)}
        own = rows("ip", "-j", "-6", "addr", "show", "dev", WEB.interface)[0]["addr_info"]
        assert [a["local"] for a in cast("list[dict[str, object]]", own)] == ["fe80::1"]
        assert run("sysctl", "-n", f"net.ipv4.conf.{WEB.interface}.rp_filter").strip() == "1"
        assert run("sysctl", "-n", f"net.ipv6.conf.{WEB.interface}.accept_ra").strip() == "0"

    node(in_loop(story))


def test_a_workload_of_one_family_has_nothing_of_the_other(node: Callable[[Scenario], None]) -> None:
    """IPv4 only: no IPv6 route, neighbour or address but the link-local one that the kernel makes."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        bench = Bench()
        async with bench.running() as edge:
            await bench.settled(edge, workload("web", "10.244.1.5"))
        assert rows("ip", "-n", "web", "-j", "-6", "route", "show", "default") == []
        assert [a["local"] for a in global_addresses("web")] == ["10.244.1.5"]
        assert [n["dst"] for n in rows("ip", "-n", "web", "-j", "neigh")] == ["169.254.1.1"]

    node(in_loop(story))


def test_ipv6_is_turned_on_inside_where_it_was_off(node: Callable[[Scenario], None]) -> None:
    """As in many containers; a host that has it off for new links is no hindrance either."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        run("ip", "netns", "exec", "web", "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        bench = Bench()
        async with bench.running() as edge:
            await bench.settled(edge, WEB)
        route_to(WEB)
        assert pings("", "fd00:10:244:1::5")

    node(in_loop(story))


def test_a_restart_adopts_without_one_message_about_the_link(node: Callable[[Scenario], None]) -> None:
    """Whether the workload is wanted before or after the read-back."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        bench = Bench()
        async with bench.running() as edge:
            await bench.settled(edge, WEB)
        await bench.until(lambda: rows("ip", "-j", "link", "show", WEB.interface)[0]["operstate"] == "UP")
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as monitor:
            monitor.bind((0, LINKS_NEIGHBOURS_AND_ADDRESSES))
            late, early = Bench(), Bench()
            late.links.keep_unwanted = True
            async with late.running() as edge:
                assert late.events == [LinksRead({WEB.interface: WEB})]
                await late.settled(edge, WEB)
            early.links.want(WEB.interface, WEB)
            async with early.running() as edge:
                await early.settled(edge, WEB)
            assert early.events == [LinksRead({WEB.interface: WEB})]
            with pytest.raises(BlockingIOError):
                monitor.recv(65536, socket.MSG_DONTWAIT)

    node(in_loop(story))


def test_a_foreign_link_with_our_prefix_stays_as_it_is(node: Callable[[Scenario], None]) -> None:
    """It is not read back, not deleted, not taken over; who needs its name is told why not."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        run("ip", "link", "add", WEB.interface, "type", "veth", "peer", "name", "other0")
        run("ip", "link", "set", WEB.interface, "alias", "somebody's")
        before = run("ip", "-d", "link", "show", WEB.interface)
        bench = Bench()
        async with bench.running() as edge:
            bench.links.want(WEB.interface, WEB)
            edge.kick()
            await bench.until(lambda: bool(bench.links.refused))
            assert bench.events == [
                LinksRead({}),
                LinkWritten(
                    WEB.interface, f'link {WEB.interface}: a link of that name is not ours (alias "somebody\'s")'
                ),
            ]
            bench.links.want(WEB.interface, None)
            edge.kick()
        assert uninstall("bgpm") == []
        assert run("ip", "-d", "link", "show", WEB.interface) == before

    node(in_loop(story))


@pytest.mark.parametrize("kind", ["absent", "file", "own"])
def test_a_namespace_that_cannot_be_is_named(node: Callable[[Scenario], None], kind: str) -> None:
    """Absent, no namespace at all, or the host's own: the failure says so and no link is left."""

    async def story() -> None:
        run("mkdir", "/run/netns")
        if kind == "file":
            run("touch", "/run/netns/web")
        if kind == "own":
            own = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
            run("ln", "-s", own, "/run/netns/web")
        reason = {
            "absent": "No such file or directory",
            "file": "it is not a network namespace",
            "own": "it is the host's own",
        }[kind]
        spec = replace(WEB, netns_inode=inode_of("/proc/thread-self/ns/net"))
        bench = Bench()
        async with bench.running() as edge:
            bench.links.want(WEB.interface, spec)
            edge.kick()
            await bench.until(lambda: bool(bench.links.refused))
        assert bench.events[1] == LinkWritten(WEB.interface, f"network namespace /run/netns/web: {reason}")
        assert not succeeds("ip", "link", "show", WEB.interface)

    node(in_loop(story))


@pytest.mark.parametrize("is_linked", [False, True], ids=["direct", "by symbolic link"])
def test_a_process_id_counts_as_long_as_it_leads_to_the_same_namespace(
    node: Callable[[Scenario], None], is_linked: bool
) -> None:
    """Once the workload's process is gone its number is anybody's, who must not get the link."""

    async def story() -> None:
        run("mkdir", "-p", "/run/netns")
        with process_in_new_namespace() as ours, process_in_new_namespace() as another:
            path = f"/proc/{another}/ns/net"
            inodes = (inode_of(f"/proc/{ours}/ns/net"), None, inode_of(path))
            if is_linked:
                run("ln", "-s", path, "/run/netns/web")
                path = "/run/netns/web"
            bench = Bench()
            async with bench.running() as edge:
                for inode in inodes:
                    spec = replace(WEB, netns=path, netns_inode=inode)
                    bench.links.want(WEB.interface, spec)
                    edge.kick()
                    if inode == inodes[2]:
                        await bench.until(lambda: len(bench.links) == 0)
                        break
                    await bench.until(lambda: WEB.interface in bench.links.refused)
                    why = f"network namespace {path}: not known to be the one the workload was added with"
                    assert bench.links.refused[WEB.interface].reason == why
                    assert not succeeds("ip", "link", "show", WEB.interface)
                    bench.links.want(WEB.interface, None)
            assert "10.244.1.5" in run("nsenter", f"--net=/proc/{another}/ns/net", "ip", "addr")

    node(in_loop(story))


def test_an_inside_that_is_taken_is_named_and_left(node: Callable[[Scenario], None]) -> None:
    """A namespace that has an eth0 keeps it."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        run("ip", "-n", "web", "link", "add", "eth0", "type", "bridge")
        bench = Bench()
        async with bench.running() as edge:
            bench.links.want(WEB.interface, WEB)
            edge.kick()
            await bench.until(lambda: bool(bench.links.refused))
        failure = "eth0 in network namespace /run/netns/web: exists already"
        assert bench.links.refused[WEB.interface].reason == failure
        assert not succeeds("ip", "link", "show", WEB.interface)

    node(in_loop(story))


def test_a_namespace_handed_over_needs_no_path_and_is_let_go(node: Callable[[Scenario], None]) -> None:
    """The descriptor alone leads there, and it is closed once the link stands."""

    async def story() -> None:
        run("ip", "netns", "add", "hidden")
        spec = workload("web", "10.244.1.5")
        bench = Bench()
        async with bench.running() as edge:
            fd, inode = os.open("/run/netns/hidden", os.O_RDONLY), inode_of("/run/netns/hidden")
            edge.offer(spec.interface, fd)
            await bench.settled(edge, spec)
            assert not is_open(fd, inode)
        assert "10.244.1.5" in run("ip", "-n", "hidden", "addr")

    node(in_loop(story))


def test_a_new_namespace_under_the_old_path_gets_the_link(node: Callable[[Scenario], None]) -> None:
    """A workload that came back at once, while somebody still holds its old namespace open."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        bench = Bench()
        async with bench.running() as edge:
            await bench.settled(edge, WEB)
            held = os.open("/run/netns/web", os.O_RDONLY)
            run("ip", "netns", "del", "web")
            run("ip", "netns", "add", "web")
            bench.links.want(WEB.interface, None)
            edge.kick()
            edge.offer(WEB.interface, os.open("/run/netns/web", os.O_RDONLY))
            bench.links.want(WEB.interface, WEB)
            edge.kick()
            # The edge compares and writes in a thread: what it has in hand meanwhile looks as if all were done.
            await bench.until(lambda: succeeds("ip", "-n", "web", "link", "show", "eth0") and len(bench.links) == 0)
            os.close(held)
            bench.events.clear()
            again, inode = os.open("/run/netns/web", os.O_RDONLY), inode_of("/run/netns/web")
            edge.offer(WEB.interface, again)
            await bench.until(lambda: not is_open(again, inode))
            assert not any(isinstance(event, LinkWritten) for event in bench.events)  # the same one again
        assert [a["local"] for a in global_addresses("web")] == ["10.244.1.5", "fd00:10:244:1::5"]
        assert succeeds("ip", "link", "show", WEB.interface)

    node(in_loop(story))


def test_a_change_of_addresses_rewrites_only_the_differences(node: Callable[[Scenario], None]) -> None:
    """The link stays the same one; families that come get their way out, those that go lose it."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        bench = Bench()
        async with bench.running() as edge:
            await bench.settled(edge, workload("web", "10.244.1.5"))
            index = rows("ip", "-j", "link", "show", WEB.interface)[0]["ifindex"]
            for addresses in (("10.244.1.5", "fd00::5"), ("10.244.1.9", "fd00::5"), ("fd00::5",), ("10.244.1.9",)):
                await bench.settled(edge, workload("web", *addresses))
                assert rows("ip", "-j", "link", "show", WEB.interface)[0]["ifindex"] == index
                assert sorted(str(a["local"]) for a in global_addresses("web")) == sorted(addresses)
                known = rows("ip", "-j", "neigh", "show", "dev", WEB.interface, "nud", "permanent")
                assert sorted(str(n["dst"]) for n in known) == sorted(addresses)
                has = [bool(rows("ip", "-n", "web", "-j", f, "route", "show", "default")) for f in ("-4", "-6")]
                assert has == [any("." in a for a in addresses), any(":" in a for a in addresses)]

    node(in_loop(story))


def test_a_link_that_somebody_deleted_or_set_down_is_repaired(node: Callable[[Scenario], None]) -> None:
    """The news is told once, and the Delta closes the gap."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        bench = Bench()
        async with bench.running() as edge:
            await bench.settled(edge, WEB)
            run("ip", "link", "set", WEB.interface, "down")
            await bench.until(lambda: any(isinstance(e, LinkObserved) for e in bench.events))
            edge.kick()
            await bench.until(lambda: len(bench.links) == 0)
            route_to(WEB)
            run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
            assert pings("web", ipaddress.ip_address("192.0.2.1"))
            assert pings("", "fd00:10:244:1::5")
            bench.events.clear()
            run("ip", "link", "del", WEB.interface)
            await bench.until(lambda: any(isinstance(e, LinkObserved) for e in bench.events))
            edge.kick()
            await bench.until(lambda: len(bench.links) == 0)
            assert bench.events == [LinkObserved(WEB.interface, None), LinkWritten(WEB.interface)]
            assert succeeds("ip", "link", "show", WEB.interface, "up")

    node(in_loop(story))


def test_a_link_that_somebody_renamed_or_gave_another_alias_is_made_again(node: Callable[[Scenario], None]) -> None:
    """It has our link-layer address still, and is in the way of what the workload needs."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        bench = Bench()
        async with bench.running() as edge:
            await bench.settled(edge, WEB)
            for meddle in (["alias", "theirs"], ["name", "renamed0"]):
                bench.events.clear()
                run("ip", "link", "set", WEB.interface, *meddle)
                await bench.until(lambda: any(isinstance(e, LinkObserved) for e in bench.events))
                edge.kick()
                await bench.until(lambda: len(bench.links) == 0)
                (link,) = rows("ip", "-j", "link", "show", WEB.interface)
                assert link["ifalias"] == WEB.alias
            assert not succeeds("ip", "link", "show", "renamed0")
            assert "10.244.1.5" in run("ip", "-n", "web", "addr", "show", "eth0")

    node(in_loop(story))


def test_a_link_left_half_made_is_made_again_or_swept(node: Callable[[Scenario], None]) -> None:
    """Our link-layer address without our alias: a crash came between."""

    async def story() -> None:
        for spec in (WEB, SHOP_DB):
            name = spec.netns.rpartition("/")[2]
            run("ip", "netns", "add", name)
            run(
                *("ip", "link", "add", spec.interface, "address", host_mac(spec.interface)),
                *("type", "veth", "peer", "name", "eth0", "netns", name),
            )
        bench = Bench()
        async with bench.running() as edge:
            await bench.settled(edge, WEB)
        assert "10.244.1.5" in run("ip", "-n", "web", "addr")
        assert not succeeds("ip", "link", "show", SHOP_DB.interface)

    node(in_loop(story))


def test_what_nobody_wants_goes_and_uninstall_takes_the_rest(node: Callable[[Scenario], None]) -> None:
    """A workload removed loses its link; uninstall deletes ours only, whatever they are called now, and says which."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        run("ip", "netns", "add", "db")
        run("ip", "link", "add", "bystander", "type", "bridge")
        bench = Bench()
        async with bench.running() as edge:
            await bench.settled(edge, WEB, SHOP_DB)
            bench.links.want(WEB.interface, None)
            await bench.settled(edge, SHOP_DB)
            assert not succeeds("ip", "link", "show", WEB.interface)
        run("ip", "link", "set", SHOP_DB.interface, "name", "renamed0")
        assert uninstall("bgpm") == [f"link renamed0 ({SHOP_DB.alias})"]
        reader = LinkReader()
        assert sorted(found.name for found in reader.all()) == ["bystander", "lo"]
        reader.close()

    node(in_loop(story))


def test_a_read_only_proc_sys_is_reported_by_name(node: Callable[[Scenario], None]) -> None:
    """Settings that are right are no problem there; one that is wrong is told with what follows from it."""

    def story() -> None:
        run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv4.fib_multipath_hash_policy=1")
        run("sysctl", "-qw", "net.ipv4.nexthop_compat_mode=0", "net.ipv6.fib_multipath_hash_policy=1")
        run("sysctl", "-qw", "net.ipv4.ip_forward=0")
        run("mount", "--bind", "/proc/sys", "/proc/sys")
        run("mount", "-o", "remount,bind,ro", "/proc/sys")
        assert prepare_host() == ["net.ipv4.ip_forward is 0 and /proc/sys is read-only: forwarding is off"]

    node(story)


def test_a_host_is_prepared_once(node: Callable[[Scenario], None]) -> None:
    """A fresh namespace forwards afterwards, in both families, and hashes flows by their ports."""

    def story() -> None:
        assert prepare_host() == []
        names = ("ipv4.ip_forward", "ipv6.conf.all.forwarding", "ipv4.fib_multipath_hash_policy")
        assert [run("sysctl", "-n", f"net.{name}").strip() for name in names] == ["1", "1", "1"]

    node(story)


def test_the_names_of_all_links_are_told_at_start_and_when_there_is_a_new_one(
    node: Callable[[Scenario], None],
) -> None:
    """Also after one was renamed; links of ours that come make no news of that kind."""

    async def story() -> None:
        run("ip", "netns", "add", "web")
        run("ip", "link", "add", "theirs0", "type", "veth", "peer", "name", "theirs1")
        run("ip", "address", "add", "192.0.2.1/24", "dev", "theirs0")
        run("ip", "address", "add", "2001:db8::1/64", "dev", "theirs0", "nodad")
        bench = Bench()
        async with bench.running() as edge:
            assert bench.names == [{"lo", "theirs0", "theirs1"}]
            index = socket.if_nametoindex("theirs0")
            assert bench.addresses[ipaddress.ip_address("192.0.2.1")] == frozenset({index})
            assert bench.addresses[ipaddress.ip_address("2001:db8::1")] == frozenset({index})
            await bench.settled(edge, WEB)
            assert len(bench.names) == 1
            for command in ("add new0 type veth peer name new2", "set theirs1 name new1"):
                told = len(bench.names)
                run("ip", "link", *command.split())
                await bench.until(lambda told=told: len(bench.names) > told)  # type: ignore[misc]
            assert {"lo", "theirs0", "new0", "new1", "new2", WEB.interface} == bench.names[-1]

    node(in_loop(story))
