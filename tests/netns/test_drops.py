"""What the rules count, with real packets: two workloads in namespaces of their own behind a router with our chains."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import cast

import pytest

from bgpmesh.drops import Drops
from bgpmesh.errors import KernelError
from bgpmesh.events import ObjectsChanged
from bgpmesh.kernel.nflog import NflogDoor
from bgpmesh.policy.attribution import Counters
from bgpmesh.policy.explain import explain
from bgpmesh.policy.model import Packet
from bgpmesh.policy.objects import Key
from bgpmesh.policy.rule import UDP, Action, Direction, Policy, PortRange, Rule, Side
from bgpmesh.policy.selector import parse
from bgpmesh.workload.endpoint import Endpoint
from tests.netns.host import OFF, Story, World, connect, run
from tests.waiting import DEADLINE_S

ENDPOINTS = [
    Endpoint(
        name,
        "shop",
        (("app", name),),
        (ipaddress.ip_address(f"10.244.1.{number}"), ipaddress.ip_address(f"fd00:10:244::{number}")),
        f"bgpmaaaaaaaaaa{number}",
        f"/run/netns/{name}",
    )
    for number, name in ((1, "web"), (2, "db"))
]
WEB, DB = ENDPOINTS
GROUP = 7077
KEY = Key("NetworkPolicy", "shop", "db")
SEND = """
import socket, sys
_, source, target, port, count = sys.argv
with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind((source, 4000))
    for _ in range(int(count)):
        s.sendto(bytes(10), (target, int(port)))
"""


def send(source: str, target: Endpoint, port: int, count: int, *, of: Endpoint = WEB) -> None:
    """Send datagrams of 38 octets (IPv6: 58) from a workload, from one of its addresses."""
    family = ipaddress.ip_address(source).version
    address = next(str(each) for each in target.addresses if each.version == family)
    script = (sys.executable, "-ISc", SEND, source, address, str(port), str(count))
    run("ip", "netns", "exec", of.name, *script)


@contextmanager
def two_workloads() -> Iterator[None]:
    """Make a router of this namespace, and two workloads."""
    run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=0")
    run("mkdir", "-p", "/run/netns")
    try:
        for endpoint in ENDPOINTS:
            connect(endpoint)
        yield
    finally:
        for endpoint in ENDPOINTS:
            run("ip", "netns", "delete", endpoint.name)


def policy(*rules: Rule, **change: object) -> dict[Key, Policy]:
    """Return objects: a policy on what reaches `db`."""
    made = Policy("db", "shop", selector=parse("app == 'db'"), types=frozenset({Direction.INGRESS}), ingress=rules)
    return {KEY: replace(made, **change)}  # type: ignore[arg-type]


def udp(action: Action, port: int) -> Rule:
    """Return a rule about datagrams to a port."""
    return Rule(action, protocol=UDP, destination=Side(ports=(PortRange(port, port),)))


def dropped(here: World) -> dict[str, int]:
    """Return who dropped how many."""
    return {name: count for name, count in here.counters.drops().items() if count}


async def await_counted(here: World, counted: Callable[[], object], expected: object) -> None:
    """Read until what is counted is as expected: what was just sent may still be under way."""
    seen: object = None
    with suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE_S):
            while seen != expected:
                await here.edge.count(0.0)
                seen = counted()
    assert expected == seen


def test_drops_are_counted_by_policy(world: Callable[[Story], None]) -> None:
    """Each family; also over a chain that is written anew, a read-back, and a new life of the daemon."""

    async def story(here: World) -> None:
        here.text, here.attached = OFF, tuple(ENDPOINTS)
        own, own6 = map(str, WEB.addresses)
        objects = policy(udp(Action.ALLOW, 53), udp(Action.DENY, 99))
        here.known = (ObjectsChanged(objects),)
        async with here.running():
            await here.settled()
            with two_workloads():
                await await_counted(here, lambda: dropped(here), {})
                for source in (own, own6):
                    send(source, DB, 53, 1)
                    send(source, DB, 99, 3)
                    send(source, DB, 77, 4)
                await await_counted(here, lambda: dropped(here), {"shop/db": 14})
                packet = Packet(WEB.addresses[0], DB.addresses[0], UDP, 4000, 99)
                (*_, last) = explain(here.engine.packets.protection.compiled, packet).steps
                place = (last.chain, last.action, last.tier, last.policy, last.rule)
                assert here.counters.of(4, place) == (3, 3 * 38)

                send(own, DB, 99, 1)
                here.report(ObjectsChanged(policy(udp(Action.DENY, 98), *objects[KEY].ingress)))
                await here.settled()
                await await_counted(here, lambda: dropped(here), {"shop/db": 15})
                send(own, DB, 99, 1)
                here.read_back()
                await here.until(lambda: here.counters.drops()["shop/db"] == 16, "a read-back that counts")
                run("ip", "-n", "web", "addr", "add", "192.0.2.77/32", "dev", "lo")
                send("192.0.2.77", DB, 53, 2)
                await await_counted(here, lambda: dropped(here), {"shop/db": 16, "(spoofed)": 2})
                (allowed, denied) = (here.counters.by_verdict[word] for word in ("allow", "deny"))
                assert (allowed, denied) == (2, 18)

        here.known = (ObjectsChanged(policy(udp(Action.DENY, 98), *objects[KEY].ingress)),)
        here.counters = Counters()
        async with here.running():
            await here.settled()
            await await_counted(here, lambda: dropped(here)["(spoofed)"], 2)

    world(story)


def test_drops_can_be_followed_while_somebody_does(world: Callable[[Story], None]) -> None:
    """Each with its policy and its ends; the rules that tell come with the first who follows, and go with the last."""

    async def story(here: World) -> None:
        here.text, here.attached = OFF, tuple(ENDPOINTS)
        objects = policy(udp(Action.ALLOW, 53), udp(Action.DENY, 99))
        here.known = (ObjectsChanged(objects),)
        async with here.running():
            await here.settled()
            before = here.filters()
            drops = Drops(here.report, lambda: here.counters.told, lambda: here.engine.local.endpoints)
            first, second = drops.join(GROUP), drops.join(GROUP)
            with pytest.raises(KernelError, match="another program listens to it"):
                NflogDoor(GROUP)
            await here.settled()
            assert here.filters() != before
            with two_workloads():
                for family, source in zip((4, 6), map(str, WEB.addresses), strict=True):
                    for port, rule in ((99, 2), (77, None)):
                        send(source, DB, port, 1)
                        async with asyncio.timeout(DEADLINE_S):
                            (told, again) = [await anext(each) for each in (first, second)]
                        assert told == again
                        expected = {
                            "policy": "shop/db",
                            "tier": "default",
                            "rule": rule,
                            "direction": "ingress",
                            "workload": "shop/db",
                            "from": "shop/web",
                            "to": "shop/db",
                            "source": source,
                            "protocol": "udp",
                            "source_port": 4000,
                            "port": port,
                            "icmp": None,
                            "length": 38 if family == 4 else 58,
                            "link_in": WEB.interface,
                            "link_out": DB.interface,
                        }
                        assert {key: told[key] for key in expected} == expected
                        assert abs(cast("float", told["time"]) - time.time()) < DEADLINE_S
                run("ip", "-n", "web", "addr", "add", "192.0.2.77/32", "dev", "lo")
                await first.aclose()
                send("192.0.2.77", DB, 53, 1)
                async with asyncio.timeout(DEADLINE_S):
                    told = await anext(second)
                assert (told["policy"], told["workload"], told["from"]) == ("(spoofed)", "shop/web", None)
                await second.aclose()
                await here.settled()
                assert here.filters() == before
                await await_counted(here, lambda: dropped(here), {"shop/db": 4, "(spoofed)": 1})
            NflogDoor(GROUP).close()

    world(story)


def test_staged_policies_count_and_let_everything_be(world: Callable[[Story], None]) -> None:
    """What each would allow and deny, of the first packets of connections; enforced it does just that."""

    async def story(here: World) -> None:
        here.text, here.attached = OFF, tuple(ENDPOINTS)
        rules = (udp(Action.ALLOW, 53), udp(Action.DENY, 99))
        here.known = (ObjectsChanged(policy(*rules, is_staged=True)),)

        def sent() -> None:
            for source in map(str, WEB.addresses):
                for port, count in ((53, 1), (99, 2), (77, 3)):
                    send(source, DB, port, count)

        async with here.running():
            await here.settled()
            with two_workloads():
                sent()
                would = {("shop/db", "allow"): 2, ("shop/db", "deny"): 10}
                await await_counted(here, here.counters.staged, would)
                await await_counted(here, lambda: here.counters.by_verdict["allow"], 12)
                assert dropped(here) == {}
                here.report(ObjectsChanged(policy(*rules)))
                await here.settled()
                sent()
                await await_counted(here, lambda: dropped(here), {"shop/db": 10})
                await await_counted(here, lambda: here.counters.by_verdict["allow"], 14)
                assert here.counters.staged() == {}

    world(story)
