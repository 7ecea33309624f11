"""Flows against a real kernel, with either kind of iptables: what they drop and limit, and whom they never hit."""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from bgpmesh.control import policies
from bgpmesh.events import EndpointAdded, FibRead
from bgpmesh.kernel.chains import uninstall
from bgpmesh.policy.rule import UDP
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.flow import EQ, GT, Flow, Kind
from bgpmesh.route.nlri import Family
from bgpmesh.route.path import PeerName
from tests.netns.host import OFF, Story, World, run, run_all, sets_of_ours
from tests.netns.test_drops import DB, ENDPOINTS, WEB, await_counted, dropped, send, two_workloads
from tests.unit.policy.test_flowmatch import rate
from tests.unit.route.test_flow import field, flow, to
from tests.waiting import DEADLINE_S

TOR = PeerName("tor1")
DROP = PathAttributes(ext_communities=(rate(0),))
ACCEPT = PathAttributes()


def of_family(*parts: object, version: int) -> Flow:
    """Return a flow to a workload."""
    return flow(*parts, family=Family.IPV4_FLOWSPEC if version == 4 else Family.IPV6_FLOWSPEC)  # type: ignore[arg-type]


def towards(index: int, port: int | None = None) -> tuple[Flow, Flow]:
    """Return the flows to a workload, of each family; of one port, or of all."""
    ends = [to(f"{address}/{address.max_prefixlen}") for address in ENDPOINTS[index].addresses]
    what = [] if port is None else [field(Kind.PROTOCOL, (EQ, UDP)), field(Kind.DESTINATION_PORT, (EQ, port))]
    one, two = (of_family(end, *what, version=version) for end, version in zip(ends, (4, 6), strict=True))
    return one, two


def say(here: World, attributes: PathAttributes | None, *announced: Flow, withdrawn: tuple[Flow, ...] = ()) -> None:
    """Have the peer announce and withdraw flows."""
    engine, now = here.engine, time.monotonic()
    engine.flows.take(TOR, attributes, announced, [each.key for each in withdrawn], now)
    engine.work(1000, now)
    here.counters.know(engine.packets.chains.wanted, engine.packets.protection.compiled, engine.flows.causes)
    here.edge.kick()


def rules(here: World) -> list[str]:
    """Return all rules of both families, and chains of ours."""
    lines = (line for family in (4, 6) for line in here.saved(family))
    return [line for line in lines if line.startswith("-A") or "bm-" in line]


def states(here: World) -> list[tuple[int, str]]:
    """Return the number of each flow, and what has become of it."""
    listed = here.engine.flows.listing(here.engine.packets.chains.actual)
    return sorted((each.entry.number, each.state) for each in listed)


def reasons(here: World) -> list[str]:
    """Return why flows are not in force."""
    return [each.reason for each in here.engine.flows.listing(here.engine.packets.chains.actual) if each.reason]


async def in_force(here: World, *numbers: int) -> None:
    """Wait until these flows are in force."""
    await here.until(lambda: states(here) == [(n, "in force") for n in numbers], f"in force, not {reasons(here)}")


def counted(here: World) -> tuple[int, int]:
    """Return how many packets flows have dropped, and how many they have let go."""
    found = {"deny": 0, "allow": 0}
    for (_, cause), (packets, _) in here.counters.sums.items():
        if cause.name == f"flowspec {TOR}":
            found[cause.action] += packets
    return found["deny"], found["allow"]


def test_a_flow_drops_what_it_means_and_nothing_else(world: Callable[[Story], None]) -> None:
    """Each family; counted as its own; withdrawn it is as if it had never been there."""

    async def story(here: World) -> None:
        here.text = OFF
        before = rules(here)
        async with here.running():
            here.engine.flows.peer_up(TOR, (), 100, 0)
            with two_workloads():
                say(here, DROP, *towards(1, 53))
                await in_force(here, 1, 2)
                for source in map(str, WEB.addresses):
                    send(source, DB, 53, 3)
                    send(source, DB, 77, 5)
                await await_counted(here, lambda: dropped(here), {"flowspec tor1": 6})
                rows = policies.flows(cast("policies.Running", _Asked(here)), {})
                assert isinstance(rows, list)
                assert [(row["rule"], row["packets"], row["state"]) for row in rows] == [
                    (1, 3, "in force"),
                    (2, 3, "in force"),
                ]
                say(here, ACCEPT, *towards(1, 53))
                say(here, DROP, *towards(1))
                await in_force(here, 1, 2, 3, 4)
                for source in map(str, WEB.addresses):
                    send(source, DB, 53, 2)
                    send(source, DB, 77, 1)
                await await_counted(here, lambda: counted(here), (2, 4))
                say(here, None, withdrawn=(*towards(1), *towards(1, 53)))
                await here.settled()
        assert rules(here) == before
        assert sets_of_ours() == {}

    world(story)


class _Asked:
    """What a view needs of a daemon."""

    def __init__(self, here: World) -> None:
        self.engine, self.counters = here.engine, here.counters

    @property
    def store(self) -> object:
        raise NotImplementedError

    @staticmethod
    def now() -> float:
        return time.monotonic()


@pytest.mark.parametrize(("limit", "least", "most"), [(rate(4800), 95, 210), (rate(100, packets=True), 95, 210)])
def test_a_flow_lets_so_much_pass(world: Callable[[Story], None], limit: bytes, least: int, most: int) -> None:
    """A hundred datagrams a second and a second's worth at once; of 38 octets the kernel counts 48, by sixteens."""

    async def story(here: World) -> None:
        here.text = OFF
        async with here.running():
            here.engine.flows.peer_up(TOR, (), 100, 0)
            with two_workloads():
                say(here, PathAttributes(ext_communities=(limit,)), towards(1, 53)[0])
                await in_force(here, 1)
                began = time.monotonic()
                for count in (1500, 500):
                    send(str(WEB.addresses[0]), DB, 53, count)
                await await_counted(here, lambda: sum(counted(here)), 2000)
                seconds = time.monotonic() - began
                over, passed = counted(here)
                assert least <= passed <= most + 100 * seconds
                assert over > 0

    world(story)


def test_every_limit_is_taken_by_the_kernel(world: Callable[[Story], None]) -> None:
    """From the least to the most that is said, in octets and in packets."""
    octets = [struct.unpack("!f", struct.pack("!f", each))[0] for each in (16, 17, 999, 125e3, 1.25e8, 1e9, 4e9)]
    packets = (1 / 60, 0.5, 1, 2, 3, 7, 99, 1000, 33_333, 499_999, 500_000, 999_999, 1e6)
    limits = [*map(rate, octets), *(rate(each, packets=True) for each in packets)]

    async def story(here: World) -> None:
        here.text = OFF
        async with here.running():
            here.engine.flows.peer_up(TOR, (), 1000, 0)
            for number, limit in enumerate(limits):
                for version, end in ((4, f"10.9.0.{number}/32"), (6, f"fd09::{number:x}/128")):
                    say(here, PathAttributes(ext_communities=(limit,)), of_family(to(end), version=version))
            await in_force(here, *range(1, 2 * len(limits) + 1))

    world(story)


@contextmanager
def somebody_outside() -> Iterator[None]:
    """Make a host on a link of this one: 198.51.100.7 and 2001:db8:9::7, this one has .1 and ::1."""
    run("mkdir", "-p", "/run/netns")
    run_all("""
        ip netns add out
        ip link add uplink type veth peer name eth0 netns out
        ip addr add 198.51.100.1/24 dev uplink
        ip addr add 2001:db8:9::1/64 dev uplink nodad
        ip link set uplink up
        ip -n out addr add 198.51.100.7/24 dev eth0
        ip -n out addr add 2001:db8:9::7/64 dev eth0 nodad
        ip -n out link set eth0 up
    """)
    try:
        yield
    finally:
        run("ip", "netns", "delete", "out")


def is_heard(address: str, port: int, *, source_port: int = 0, seconds: float = DEADLINE_S / 2) -> bool:
    """Tell whether somebody outside is told by this host, within so many seconds, that a TCP port is closed."""
    other = "2001:db8:9::7" if ":" in address else "198.51.100.7"
    words = map(str, (other, source_port, address, port, seconds))
    return run("ip", "netns", "exec", "out", sys.executable, "-ISc", CALL, *words) == "closed\n"


CALL = """
import socket, sys
_, own, source_port, target, port, seconds = sys.argv
with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET) as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((own, int(source_port)))
    s.settimeout(float(seconds))
    try:
        s.connect((target, int(port)))
    except TimeoutError:
        print("silent")
    except ConnectionRefusedError:
        print("closed")
"""


def test_nobody_is_locked_out_of_the_host(world: Callable[[Story], None]) -> None:
    """All that comes to it is to be dropped: ssh, BGP and what answers there are heard, and neighbours find it."""

    async def story(here: World) -> None:
        tor = "[peer.tor1]\naddress = '198.51.100.7'\nasn = 65001\nimport = []\nexport = []\nflowspec = {}\n"
        here.text = f'{OFF}{tor}[policy]\nfailsafe_inbound = ["tcp:22"]\nfailsafe_outbound = ["tcp:6443"]\n'
        async with here.running():
            here.engine.flows.peer_up(TOR, (), 100, 0)
            with somebody_outside():
                assert is_heard("198.51.100.1", 8080)
                everything = [of_family(to("0.0.0.0/0"), version=4), of_family(to("::/0"), version=6)]
                say(here, DROP, *everything)
                await in_force(here, 1, 2)
                for address in ("198.51.100.1", "2001:db8:9::1"):
                    run("ip", "neigh", "flush", "dev", "uplink")
                    run("ip", "-n", "out", "neigh", "flush", "dev", "eth0")
                    assert is_heard(address, 22)
                    assert is_heard(address, 179)
                    assert not is_heard(address, 8080, seconds=1)
                    for port in (179, 6443):
                        assert is_heard(address, 8080, source_port=port)
                run("ping", "-c", "1", "-W", "30", "127.0.0.1")
                await await_counted(here, lambda: bool(dropped(here)), expected=True)

    world(story)


def test_an_address_is_meant_by_its_middle(world: Callable[[Story], None]) -> None:
    """RFC 8956 §3.1: an offset, which ip6tables takes as a mask; the set is asked for everything then."""

    async def story(here: World) -> None:
        here.text = OFF
        own = WEB.addresses[1]
        async with here.running():
            here.engine.flows.peer_up(TOR, (), 100, 0)
            with two_workloads():
                end = to("0:10:244::/48", 16)
                assert end.holds(own)
                say(here, DROP, of_family(end, version=6))
                await in_force(here, 1)
                send(str(own), DB, 53, 2)
                await await_counted(here, lambda: counted(here), (2, 0))

    world(story)


def test_what_this_host_has_no_match_for_is_one_flows_matter(
    world: Callable[[Story], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are in force, the one to blame is named, and a workload that starts meanwhile is protected."""
    libraries = Path(run(sys.executable, "-ISc", _WHERE).strip())
    for library in libraries.glob("*.so"):
        if library.name != "libxt_length.so":
            (tmp_path / library.name).symlink_to(library)
    assert (libraries / "libxt_length.so").exists()
    bad = of_family(to("10.244.1.2/32"), field(Kind.LENGTH, (GT, 1000)), version=4)

    async def story(here: World) -> None:
        here.text = OFF
        monkeypatch.setenv("XTABLES_LIBDIR", str(tmp_path))
        async with here.running():
            here.engine.flows.peer_up(TOR, (), 100, 0)
            with two_workloads():
                here.report(EndpointAdded(DB))
                say(here, DROP, towards(1, 53)[0], bad, towards(1, 77)[0])
                await here.until(lambda: (2, "refused") in states(here), "refused")
                await here.until(lambda: {1, 3} == {n for n, s in states(here) if s == "in force"}, "the others")
                assert [each.partition(": ")[0] for each in reasons(here)] == ["the packet filter refuses it"]
                await here.until(lambda: not here.engine.local._closed, "the workload's link may be opened")
                await here.settled()
                assert here.engine.packets.unmade() == {}

    world(story)


_WHERE = """
import glob
print(next(iter(glob.glob("/usr/lib/*/xtables") or glob.glob("/usr/lib/xtables") or glob.glob("/usr/lib64/xtables"))))
"""


def test_a_restart_lets_nothing_through(world: Callable[[Story], None]) -> None:
    """What stands is held until the node is in sync; then it is what peers have said since, or gone."""

    async def story(here: World) -> None:
        here.text = OFF
        before = rules(here)
        async with here.running():
            here.engine.flows.peer_up(TOR, (), 100, 0)
            say(here, DROP, towards(1, 53)[0], towards(0, 53)[0])
            await in_force(here, 1, 2)
        standing = rules(here)
        async with here.running():
            await here.settled()
            assert rules(here) == standing
            here.engine.flows.peer_up(TOR, (), 100, 0)
            say(here, DROP, towards(1, 53)[0])
            assert states(here) == [(1, "pending")]
            assert rules(here) == standing
            here.report(FibRead({}, {}))
            await in_force(here, 1)
            say(here, None, withdrawn=(towards(1, 53)[0],))
            await here.settled()
        assert rules(here) == before

    world(story)


def test_uninstall_takes_them_away(world: Callable[[Story], None]) -> None:
    """Hook, chains and sets, also of what is over a limit."""

    async def story(here: World) -> None:
        here.text = OFF
        before = rules(here)
        async with here.running():
            here.engine.flows.peer_up(TOR, (), 100, 0)
            say(here, PathAttributes(ext_communities=(rate(1e6),)), *towards(1, 53))
            await in_force(here, 1, 2)
        said = await asyncio.to_thread(uninstall)
        assert any("chain raw bm-flowspec (IPv4)" in line for line in said)
        assert rules(here) == before
        assert sets_of_ours() == {}

    world(story)


def test_what_somebody_takes_away_comes_back(world: Callable[[Story], None]) -> None:
    """The hook, and the chain with all that is in it."""

    async def story(here: World) -> None:
        here.text = OFF
        async with here.running():
            here.engine.flows.peer_up(TOR, (), 100, 0)
            say(here, DROP, *towards(1, 53))
            await in_force(here, 1, 2)
            standing = rules(here)
            for words in (("-F", "PREROUTING"), ("-F", "bm-flowspec")):
                here.iptables(4, *words, table="raw")
                here.read_back()
                await here.until(lambda: rules(here) == standing, "as it was")

    world(story)
