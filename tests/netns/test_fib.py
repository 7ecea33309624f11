"""The FIB edge against a real kernel, in a network namespace of each test's own."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import Callable, Coroutine
from typing import cast

import pytest

from bgpmesh.events import FibObserved, FibRead
from bgpmesh.kernel import fib
from bgpmesh.kernel.fib import KernelOptions, uninstall
from bgpmesh.kernel.mirror import Mirror
from bgpmesh.kernel.netlink import NetlinkDoor, Refused
from bgpmesh.kernel.routes import RouteReader, group_id, object_id
from bgpmesh.kernel.sysctls import prepare_host
from bgpmesh.kernel.table import FOREIGN_ROUTE
from bgpmesh.route.nlri import IPAddress, Nlri, parse_nlri
from bgpmesh.route.path import Blackhole, HostRoute, HostRouteKind, OnLink, Resolution, Via
from tests.netns.host import apart, run
from tests.unit.kernel.stand_in import Core

X, Y = ipaddress.ip_address("192.0.2.2"), ipaddress.ip_address("192.0.2.3")
X6, Y6 = ipaddress.ip_address("2001:db8::2"), ipaddress.ip_address("2001:db8::3")
LINK_LOCAL = ipaddress.ip_address("fe80::2")

Scenario = Callable[[], Coroutine[None, None, None]]


def ip(*arguments: str) -> str:
    """Return what `ip` printed; it must succeed."""
    return run("ip", *arguments)


def routes(*arguments: str) -> list[dict[str, object]]:
    """Return routes as `ip -j` lists them: of the prefix named first, else IPv4 then IPv6."""
    families = ("-4", "-6") if "/" not in arguments[0] else ("-6",) if ":" in arguments[0] else ("-4",)
    return [
        cast("dict[str, object]", row)
        for family in families
        for row in json.loads(ip(family, "-j", "route", "show", *arguments) or "[]")
    ]


def ours(table: int = 254) -> dict[str, dict[str, object]]:
    """Return the routes of our protocol by prefix."""
    return {str(row["dst"]): row for row in routes("table", str(table), "proto", "77")}


def nexthops() -> set[int]:
    """Return the ids of all nexthop objects."""
    return {int(line.split()[1]) for line in ip("nexthop").splitlines()}


def link() -> int:
    """Return the index of the link that the next hops are on."""
    return int(json.loads(ip("-j", "link", "show", "dev", "up0"))[0]["ifindex"])


@pytest.fixture
def node() -> Callable[[Scenario], None]:
    """Give a way to run a scenario on a node of its own, with a link `up0`."""

    def within(scenario: Scenario) -> None:
        def whole() -> None:
            prepare_host()
            ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
            ip("link", "set", "far0", "up")
            up()
            asyncio.run(scenario())

        apart(whole)

    return within


def up() -> None:
    """Bring the link up, with its addresses."""
    ip("link", "set", "up0", "up")
    ip("addr", "replace", "192.0.2.1/24", "dev", "up0")
    ip("addr", "replace", "2001:db8::1/64", "dev", "up0", "nodad")


def core_with_next_hops(*addresses: IPAddress) -> Core:
    """Return an engine's part that wants these next hops, each on the link."""
    core = Core(lambda: asyncio.get_running_loop().time())
    for address in addresses:
        core.next_hops.want(address, Resolution(link(), None, 0))
    return core


class CountingDoor(NetlinkDoor):
    """The real door; counts what is sent through it."""

    sent = 0

    def transact(self, messages: bytes | bytearray, last: int) -> list[Refused]:
        """Count and pass on."""
        CountingDoor.sent += 1
        return super().transact(messages, last)


def test_every_kind_of_route_is_written(node: Callable[[Scenario], None]) -> None:
    """Via one and several next hops, blackhole and link, IPv4 and IPv6, the default route among them."""

    async def scenario() -> None:
        core = core_with_next_hops(X, Y, X6, Y6)
        core.next_hops.want(LINK_LOCAL, Resolution(link(), None, 0))
        core.want(
            {
                "0.0.0.0/0": Via((X,)),
                "10.1.0.0/16": Via((X,)),
                "10.2.0.0/16": Via((X, Y)),
                "10.5.0.0/16": Via((X, Y), (100, 33)),
                "10.6.0.0/16": Via((X6,)),
                "10.7.0.0/16": Via((X, X6)),
                "10.3.0.0/16": Blackhole(),
                "10.4.0.1/32": OnLink("up0"),
                "fd01::/64": Via((X6,)),
                "fd02::/64": Via((X6, Y6)),
                "fd03::/64": Blackhole(),
                "fd04::1/128": OnLink("up0"),
                "fd05::/64": Via((LINK_LOCAL,)),
            }
        )
        async with core.running() as edge:
            await core.at_rest(edge)
            found = ours()
        assert {row["metric"] for row in found.values()} == {32}
        shown = {prefix: row.get("nhid") or row.get("type") or row["dev"] for prefix, row in found.items()}
        assert shown == {
            "default": object_id(X),
            "10.1.0.0/16": object_id(X),
            "10.2.0.0/16": group_id(Via((X, Y))),
            "10.5.0.0/16": group_id(Via((X, Y), (100, 33))),
            "10.6.0.0/16": object_id(X6),
            "10.7.0.0/16": group_id(Via((X, X6))),
            "10.3.0.0/16": "blackhole",
            "10.4.0.1": "up0",
            "fd01::/64": object_id(X6),
            "fd02::/64": group_id(Via((X6, Y6))),
            "fd03::/64": "blackhole",
            "fd04::1": "up0",
            "fd05::/64": object_id(LINK_LOCAL),
        }
        shown = json.loads(ip("-j", "nexthop", "show", "id", str(group_id(Via((X, Y), (100, 33))))))
        assert {(object_id(X), 100), (object_id(Y), 33)} == {(m["id"], m["weight"]) for m in shown[0]["group"]}
        # A second reader finds what the first one wrote.
        reader = Core()
        reader.fib.keep_unwanted = reader.next_hops.keep_unwanted = True
        async with reader.running(known=(LINK_LOCAL,)):
            await reader.until(lambda: any(isinstance(event, FibRead) for event in reader.events))
        assert reader.fib.actual == core.fib.wanted
        assert reader.next_hops.actual == core.next_hops.wanted

    node(scenario)


def test_one_link_local_gateway_of_two_links_is_two_ways(node: Callable[[Scenario], None]) -> None:
    """Most routers are fe80::1 to somebody: both links are used, and known again without a word of what was there."""

    async def scenario() -> None:
        ip("link", "add", "up1", "type", "veth", "peer", "name", "far1")
        for name in ("far1", "up1"):
            ip("link", "set", name, "up")
        links = {each["ifname"]: each["ifindex"] for each in json.loads(ip("-j", "link"))}
        hops = tuple(ipaddress.ip_address(f"fe80::9%{name}") for name in ("up0", "up1"))
        core = Core(lambda: asyncio.get_running_loop().time())
        for hop, name in zip(hops, ("up0", "up1"), strict=True):
            core.next_hops.want(hop, Resolution(links[name], None, 0))
        core.want({"10.1.0.0/16": Via(hops), "fd01::/64": Via(hops), "10.2.0.0/16": Via(hops[:1])})
        async with core.running() as edge:
            await core.at_rest(edge)
            assert core.failures == {}
        ways = {row["id"]: (row.get("gateway"), row.get("dev")) for row in json.loads(ip("-j", "nexthop"))}
        assert [ways[object_id(hop)] for hop in hops] == [("fe80::9", "up0"), ("fe80::9", "up1")]
        assert {prefix: row["nhid"] for prefix, row in ours().items()} == {
            "10.1.0.0/16": group_id(Via(hops)),
            "fd01::/64": group_id(Via(hops)),
            "10.2.0.0/16": object_id(hops[0]),
        }
        reader = Core()
        reader.fib.keep_unwanted = reader.next_hops.keep_unwanted = True
        async with reader.running():
            await reader.until(lambda: any(isinstance(event, FibRead) for event in reader.events))
        assert reader.fib.actual == core.fib.wanted
        assert reader.next_hops.actual == core.next_hops.wanted

    node(scenario)


def test_the_host_s_own_routes_are_reported(node: Callable[[Scenario], None]) -> None:
    """Connected, gateway, local and discard routes come at start; what comes and goes later is told."""

    async def scenario() -> None:
        ip("route", "add", "198.51.100.0/24", "via", "192.0.2.9", "metric", "50")
        core = Core()

        def seen(prefix: str) -> set[tuple[HostRouteKind, int]]:
            return {(r.kind, r.metric) for r in core.host_routes if r.prefix == parse_nlri(prefix)}

        async with core.running():
            await core.until(lambda: bool(core.host_routes))
            assert seen("192.0.2.0/24") == {(HostRouteKind.CONNECTED, 0)}
            assert seen("2001:db8::/64") == {(HostRouteKind.CONNECTED, 256)}
            assert seen("192.0.2.1/32") == {(HostRouteKind.LOCAL, 0)}
            assert seen("198.51.100.0/24") == {(HostRouteKind.GATEWAY, 50)}
            ip("route", "add", "unreachable", "203.0.113.0/24")
            await core.until(lambda: seen("203.0.113.0/24") == {(HostRouteKind.DISCARD, 0)})
            ip("route", "replace", "198.51.100.0/24", "dev", "up0", "metric", "50")
            await core.until(lambda: seen("198.51.100.0/24") == {(HostRouteKind.CONNECTED, 50)})
            ip("route", "del", "203.0.113.0/24")
            await core.until(lambda: not seen("203.0.113.0/24"))
            ip("link", "set", "far0", "down")  # the carrier goes, and the kernel says nothing of routes
            await core.until(lambda: not seen("192.0.2.0/24"))
            ip("link", "set", "far0", "up")
            await core.until(lambda: bool(seen("192.0.2.0/24")))

    node(scenario)


def test_a_refusal_carries_the_kernel_s_text(node: Callable[[Scenario], None]) -> None:
    """A next hop that the kernel cannot reach is refused in its words, and the others are written."""

    async def scenario() -> None:
        core = core_with_next_hops(X)
        core.next_hops.want(Y, Resolution(4711, None, 0))
        core.want({"10.1.0.0/16": Via((X,)), "10.2.0.0/16": Via((Y,)), "fd00::/64": Via((X,))})
        async with core.running() as edge:
            edge.kick()
            await core.until(lambda: len(core.failures) == 3 and "10.1.0.0/16" in ours())
        assert core.failures == {
            Y: "Invalid argument: Invalid device index",
            parse_nlri("10.2.0.0/16"): f"next hop is not written: {Y}",
            parse_nlri("fd00::/64"): "Invalid argument: IPv6 routes can not use an IPv4 nexthop",
        }

    node(scenario)


@pytest.mark.parametrize("prefix", ["10.1.0.0/16", "fd01::/64"])
def test_a_route_of_ours_that_somebody_deletes_is_repaired(node: Callable[[Scenario], None], prefix: str) -> None:
    """The monitor sees it, it is written again and counted."""

    async def scenario() -> None:
        core = core_with_next_hops(X, X6)
        core.want({prefix: Via((X6 if ":" in prefix else X,))})
        async with core.running() as edge:
            await core.at_rest(edge)
            ip("route", "del", prefix, "proto", "77", "metric", "32")
            await core.until(lambda: core.drift == 1 and not core.fib)
            assert set(ours()) == {prefix}
            assert any(isinstance(event, FibObserved) for event in core.events)

    node(scenario)


@pytest.mark.parametrize("protocol", ["static", "77"])
@pytest.mark.parametrize(
    ("prefix", "way"),
    [
        ("10.1.0.0/16", ("via", "192.0.2.9")),
        ("fd01::/64", ("via", "2001:db8::9")),
        ("10.1.0.0/16", ("dev", "up0")),
        ("fd01::/64", ("dev", "up0")),
    ],
)
def test_a_route_of_ours_that_somebody_replaces_is_set_right(
    node: Callable[[Scenario], None], prefix: str, way: tuple[str, str], protocol: str
) -> None:
    """Whatever protocol the intruder gives, the prefix goes our way again, and no other route is left there."""

    async def scenario() -> None:
        core = core_with_next_hops(X, X6)
        next_hop = X6 if ":" in prefix else X
        core.want({prefix: Via((next_hop,))})
        async with core.running() as edge:
            await core.at_rest(edge)
            ip("route", "replace", prefix, *way, "metric", "32", "proto", protocol)
            await core.until(lambda: core.drift == 1 and not core.fib)
            there = [(row["protocol"], row.get("nhid")) for row in routes(prefix)]
            assert there == [("77", object_id(next_hop))]
            assert core.failures == {}

    node(scenario)


@pytest.mark.parametrize("protocol", ["static", "77"])
@pytest.mark.parametrize("is_heard", [True, False])
def test_a_route_that_somebody_puts_before_ours_is_set_right(
    node: Callable[[Scenario], None], protocol: str, monkeypatch: pytest.MonkeyPatch, *, is_heard: bool
) -> None:
    """Ours is there still, and nothing goes by it; the kernel replaces no route by one that stands behind it."""
    if not is_heard:
        monkeypatch.setattr(fib, "READ_BACK_S", 0.2)
        monkeypatch.setattr(NetlinkDoor, "hear", lambda _: [])

    async def scenario() -> None:
        core = core_with_next_hops(X)
        core.want({"10.1.0.0/16": Via((X,))})
        async with core.running() as edge:
            await core.at_rest(edge)
            ip("route", "prepend", "10.1.0.0/16", "via", "192.0.2.9", "metric", "32", "proto", protocol)
            await core.until(lambda: core.drift > 0 and not core.fib)
            there = [(row["protocol"], row.get("nhid")) for row in routes("10.1.0.0/16")]
            assert there == [("77", object_id(X))]
            assert core.failures == {}

    node(scenario)


@pytest.mark.parametrize(("prefix", "way"), [("10.1.0.0/16", "192.0.2.9"), ("fd01::/64", "2001:db8::9")])
def test_a_route_that_was_there_first_stays(node: Callable[[Scenario], None], prefix: str, way: str) -> None:
    """Ours is refused as foreign until the other goes, and then written at once."""

    async def scenario() -> None:
        ip("route", "add", prefix, "via", way, "metric", "32", "proto", "static")
        core = core_with_next_hops(X, X6)
        core.want({prefix: Via((X6 if ":" in prefix else X,))})
        async with core.running() as edge:
            edge.kick()
            await core.until(lambda: core.failures == {parse_nlri(prefix): FOREIGN_ROUTE})
            assert [row["protocol"] for row in routes(prefix)] == ["static"]
            # As if it had been refused for long: only the news of the other's end brings the next try.
            core.fib.refuse(parse_nlri(prefix), FOREIGN_ROUTE, asyncio.get_running_loop().time() + 3600)
            ip("route", "del", prefix, "proto", "static")
            await core.until(lambda: not core.fib)
            assert [row["protocol"] for row in routes(prefix)] == ["77"]

    node(scenario)


def test_a_route_at_another_metric_stays(node: Callable[[Scenario], None]) -> None:
    """The same prefix at another metric is nobody's business, coming before ours or after."""

    async def scenario() -> None:
        ip("route", "add", "10.1.0.0/16", "via", "192.0.2.9", "metric", "10", "proto", "static")
        core = core_with_next_hops(X)
        core.want({"10.1.0.0/16": Via((X,))})
        async with core.running() as edge:
            await core.at_rest(edge)
            ip("route", "add", "10.1.0.0/16", "via", "192.0.2.9", "metric", "50", "proto", "static")
            core.want({"10.1.0.0/16": Blackhole(), "10.2.0.0/16": Blackhole()})
            await core.at_rest(edge)
            core.want({"10.1.0.0/16": None})
            await core.at_rest(edge)
        assert [row.get("metric") for row in routes("10.1.0.0/16")] == [10, 50]
        assert core.drift == 0

    node(scenario)


def test_foreign_nexthop_objects_stay(node: Callable[[Scenario], None]) -> None:
    """One of another id is left alone; one that has our id makes the route go by its gateway."""

    async def scenario() -> None:
        ip("nexthop", "add", "id", "7", "via", "192.0.2.9", "dev", "up0")
        ip("nexthop", "add", "id", str(object_id(X)), "via", "192.0.2.9", "dev", "up0", "proto", "static")
        core = core_with_next_hops(X, Y)
        core.want({"10.1.0.0/16": Via((X,)), "10.2.0.0/16": Via((Y,)), "10.3.0.0/16": Via((X, Y))})
        async with core.running() as edge:
            await core.at_rest(edge)
            shown = ours()
            assert shown["10.1.0.0/16"]["gateway"] == "192.0.2.2"
            assert shown["10.2.0.0/16"]["nhid"] == object_id(Y)
            hops = cast("list[dict[str, object]]", shown["10.3.0.0/16"]["nexthops"])
            assert {hop["gateway"] for hop in hops} == {"192.0.2.2", "192.0.2.3"}
            core.want(dict.fromkeys(("10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16")))
            core.next_hops.unwant_many([X, Y])
            await core.at_rest(edge)
            await core.until(lambda: nexthops() == {7, object_id(X)})

    node(scenario)


@pytest.mark.parametrize("members", [(X,), (X, Y)])
def test_an_object_of_ours_that_somebody_deletes_is_repaired(
    node: Callable[[Scenario], None], members: tuple[IPAddress, ...]
) -> None:
    """Its routes vanish with it in silence; both come back, and the group is whole again."""

    async def scenario() -> None:
        core = core_with_next_hops(X, Y)
        core.want({"10.1.0.0/16": Via(members), "10.2.0.0/16": Via((X,))})
        async with core.running() as edge:
            await core.at_rest(edge)
            before = ip("nexthop")
            ip("nexthop", "del", "id", str(object_id(X)))
            await core.until(lambda: core.drift > 0 and not core.fib and not core.next_hops)
            await core.until(lambda: len(ours()) == 2 and sorted(ip("nexthop")) == sorted(before))

    node(scenario)


def test_a_link_that_goes_down_and_up_is_repaired(node: Callable[[Scenario], None]) -> None:
    """The kernel drops routes and objects without a word; they are back once the link is."""

    async def scenario() -> None:
        core = core_with_next_hops(X, X6)
        core.want({"10.1.0.0/16": Via((X,)), "fd01::/64": Via((X6,)), "10.4.0.1/32": OnLink("up0")})
        async with core.running() as edge:
            await core.at_rest(edge)
            ip("link", "set", "up0", "down")
            await core.until(lambda: core.drift >= 3 and X in core.next_hops.refused)
            assert ours() == {}
            # As if it had been refused for long: only the news of the link brings the next try.
            core.next_hops.refuse(X, "long ago", asyncio.get_running_loop().time() + 3600)
            up()
            await core.until(lambda: not core.fib and not core.next_hops)
            assert set(ours()) == {"10.1.0.0/16", "fd01::/64", "10.4.0.1"}

    node(scenario)


def test_a_route_waits_for_its_link(node: Callable[[Scenario], None]) -> None:
    """A link that does not exist is named; the route is written when it appears, and again when it is another."""

    async def scenario() -> None:
        core = core_with_next_hops()
        core.want({"10.4.0.1/32": OnLink("bgpmaaa"), "fd04::1/128": OnLink("bgpmaaa")})
        async with core.running() as edge:
            edge.kick()
            await core.until(lambda: len(core.failures) == 2)
            assert set(core.failures.values()) == {"link bgpmaaa does not exist"}
            for _ in range(2):
                ip("link", "add", "bgpmaaa", "type", "veth", "peer", "name", "inside")
                ip("link", "set", "bgpmaaa", "up")
                await core.at_rest(edge)
                await core.until(lambda: {row["dev"] for row in ours().values()} == {"bgpmaaa"})
                ip("link", "del", "bgpmaaa")
                await core.until(lambda: not ours())

    node(scenario)


def test_moving_a_next_hop_is_one_message(node: Callable[[Scenario], None]) -> None:
    """When the way to a node changes its object is replaced, and no route is written."""

    async def scenario() -> None:
        core = core_with_next_hops(X)
        keys = [Nlri(bytes((32, 10, 1, i >> 8, i & 255))) for i in range(3000)]
        core.fib.want_many(keys, Via((X,)))
        async with core.running(open_door=CountingDoor) as edge:
            await core.at_rest(edge)
            await asyncio.sleep(0)
            sent = CountingDoor.sent
            core.next_hops.want(X, Resolution(link(), Y, 20))
            await core.at_rest(edge)
            assert CountingDoor.sent == sent + 1
        assert f"id {object_id(X)} via {Y} dev up0" in ip("nexthop")
        assert len(ours()) == 3000

    node(scenario)


@pytest.mark.parametrize("is_free", [True, False], ids=["goes", "stays"])
def test_the_routes_of_a_node_that_is_gone_go_with_its_object(node: Callable[[Scenario], None], is_free: bool) -> None:
    """One message takes thousands of routes away; not where it would take a route of somebody else along."""

    async def scenario() -> None:
        core = core_with_next_hops(X, Y, X6)
        lost = [Nlri(bytes((32, 10, 1, i >> 8, i & 255))) for i in range(5000)]
        lost6 = [Nlri(bytes((128, *bytes(14), i >> 8, i & 255))) for i in range(1000)]
        kept = [Nlri(bytes((32, 10, 2, i >> 8, i & 255))) for i in range(500)]
        core.fib.want_many(lost, Via((X,)))
        core.fib.want_many(lost6, Via((X6,)))
        core.fib.want_many(kept, Via((Y,)))
        core.fib.want_many(kept[:3], Via((X,)))
        async with core.running(open_door=CountingDoor) as edge:
            await core.at_rest(edge)
            if not is_free:
                ip("route", "add", "10.9.0.0/16", "nhid", str(object_id(X)))
                await core.until(lambda: any(host.prefix == parse_nlri("10.9.0.0/16") for host in core.host_routes))
            sent = CountingDoor.sent
            core.fib.want_many(kept[:3], Via((Y,)))
            edge.kick()
            await core.at_rest(edge)
            core.fib.unwant_many(lost)
            core.fib.unwant_many(lost6)
            core.next_hops.unwant_many([X, X6])
            edge.kick()
            await core.until(lambda: not core.fib and X6 not in core.next_hops.actual)
            assert set(ours()) == {f"10.2.{i >> 8}.{i & 255}" for i in range(500)}
            if is_free:
                assert CountingDoor.sent == sent + 2  # what moved, and the two objects
                assert nexthops() == {object_id(Y)}
            else:
                assert nexthops() == {object_id(X), object_id(Y)}
                assert "10.9.0.0/16" in ip("route")
                ip("route", "delete", "10.9.0.0/16")
                await core.until(lambda: nexthops() == {object_id(Y)})
        assert core.failures == {}

    node(scenario)


def test_a_restart_writes_nothing_and_sweeps_what_is_not_wanted(node: Callable[[Scenario], None]) -> None:
    """Adopted routes are left alone while nothing may go; then only differences are written."""

    async def scenario() -> None:
        core = core_with_next_hops(X, Y)
        core.next_hops.want(Y, Resolution(link(), X, 20))
        same = {"10.1.0.0/16": Via((X,)), "10.2.0.0/16": Via((X, Y)), "10.3.0.0/16": Via((Y,))}
        core.want({**same, "10.9.0.0/16": Via((Y,))})
        async with core.running() as edge:
            await core.at_rest(edge)
        before = ip("route"), ip("nexthop")

        again = core_with_next_hops(X)
        again.fib.keep_unwanted = again.next_hops.keep_unwanted = True
        async with again.running(open_door=CountingDoor) as edge:
            sent = CountingDoor.sent
            again.next_hops.want(Y, Resolution(link(), X, 20))
            again.want(dict(same))
            edge.kick()
            await again.until(lambda: all(again.fib.actual.get(k) == v for k, v in again.fib.wanted.items()))
            assert (ip("route"), ip("nexthop")) == before
            assert CountingDoor.sent == sent
            again.fib.keep_unwanted = again.next_hops.keep_unwanted = False
            await again.at_rest(edge)
            await again.until(lambda: set(ours()) == set(same))
        assert again.failures == {}

    node(scenario)


def test_next_hops_and_groups_go_with_their_last_route(node: Callable[[Scenario], None]) -> None:
    """Nothing of ours is left when nothing is wanted; a group goes though its members stay."""

    async def scenario() -> None:
        core = core_with_next_hops(X, Y)
        core.want({"10.1.0.0/16": Via((X, Y)), "10.2.0.0/16": Via((X,))})
        async with core.running() as edge:
            await core.at_rest(edge)
            core.want({"10.1.0.0/16": Via((Y,))})
            await core.at_rest(edge)
            await core.until(lambda: nexthops() == {object_id(X), object_id(Y)})
            core.want(dict.fromkeys(("10.1.0.0/16", "10.2.0.0/16")))
            core.next_hops.unwant_many([X, Y])
            await core.at_rest(edge)
            await core.until(lambda: nexthops() == set())
        assert ours() == {}

    node(scenario)


def test_a_next_hop_wanted_again_in_time_is_written_as_it_is_wanted(node: Callable[[Scenario], None]) -> None:
    """Unwanted and wanted in quick succession, the last wish stands."""

    async def scenario() -> None:
        core = core_with_next_hops(X)
        core.want({"10.1.0.0/16": Via((X,))})
        async with core.running() as edge:
            await core.at_rest(edge)
            for i in range(20):
                core.want({"10.1.0.0/16": None})
                core.next_hops.want(X, None)
                edge.kick()
                await asyncio.sleep(0.001 * (i % 4))
                core.next_hops.want(X, Resolution(link(), Y if i % 2 else None, 0))
                core.want({"10.1.0.0/16": Via((X,))})
                edge.kick()
                await asyncio.sleep(0.001 * (i % 3))
            await core.at_rest(edge)
        assert f"id {object_id(X)} via {Y} dev up0" in ip("nexthop")
        assert set(ours()) == {"10.1.0.0/16"}

    node(scenario)


def test_a_flush_of_everything_is_repaired(node: Callable[[Scenario], None]) -> None:
    """Somebody flushes thousands of routes of ours; each is written again."""

    async def scenario() -> None:
        core = core_with_next_hops(X)
        keys = [Nlri(bytes((32, 10, 1, i >> 8, i & 255))) for i in range(20_000)]
        core.fib.want_many(keys, Via((X,)))
        async with core.running() as edge:
            await core.at_rest(edge)
            ip("route", "flush", "proto", "77")
            await core.until(lambda: core.drift >= len(keys) and not core.fib)
            await core.until(lambda: len(ours()) == len(keys))

    node(scenario)


def test_a_table_of_its_own(node: Callable[[Scenario], None]) -> None:
    """With another table, protocol and metric nothing is written elsewhere; `uninstall` finds it."""

    async def scenario() -> None:
        options = KernelOptions(protocol=111, metric=7, table=1000)
        core = core_with_next_hops(X)
        core.want({"10.1.0.0/16": Via((X,)), "fd03::/64": Blackhole()})
        async with core.running(options) as edge:
            await core.at_rest(edge)
        there = [(row["dst"], row["metric"], row["protocol"]) for row in routes("table", "1000")]
        assert there == [("10.1.0.0/16", 7, "111"), ("fd03::/64", 7, "111")]
        ip("route", "add", "10.8.0.0/16", "via", "192.0.2.9", "table", "1000")
        assert set(uninstall(options)) == {
            "route 10.1.0.0/16 table 1000 metric 7",
            "route fd03::/64 table 1000 metric 7",
            f"nexthop object {object_id(X)}",
        }
        assert [row["dst"] for row in routes("table", "1000")] == ["10.8.0.0/16"]
        assert nexthops() == set()
        assert uninstall(options) == []

    node(scenario)


def test_a_gateway_outside_every_subnet_is_taken_on_our_word(node: Callable[[Scenario], None]) -> None:
    """Hosts whose default route goes by an on-link gateway outside their subnet are served too."""

    async def scenario() -> None:
        gateway = ipaddress.ip_address("203.0.113.1")
        core = core_with_next_hops()
        core.next_hops.want(X, Resolution(link(), gateway, 0))
        core.want({"10.1.0.0/16": Via((X,))})
        async with core.running() as edge:
            await core.at_rest(edge)
        assert f"id {object_id(X)} via {gateway} dev up0 onlink" in " ".join(ip("nexthop").split()).replace(
            "scope link proto 77 ", ""
        )

    node(scenario)


@pytest.mark.parametrize(("prefix", "way"), [("10.1.0.0/16", "192.0.2.9"), ("fd01::/64", "2001:db8::9")])
def test_ours_is_still_changed_where_somebody_appends_a_route(
    node: Callable[[Scenario], None], prefix: str, way: str
) -> None:
    """Ours was first and stays the one in use, so it has to follow what is wanted."""

    async def scenario() -> None:
        core = core_with_next_hops(X, Y, X6, Y6)
        first, second = (X6, Y6) if ":" in prefix else (X, Y)
        core.want({prefix: Via((first,))})
        async with core.running() as edge:
            await core.at_rest(edge)
            ip("route", "append", prefix, "via", way, "metric", "32", "proto", "static")
            await core.until(lambda: any(host.prefix == parse_nlri(prefix) for host in core.host_routes))
            core.want({prefix: Via((second,))})
            edge.kick()
            await core.until(lambda: not core.fib or bool(core.failures))
            shown = [(row["protocol"], row.get("nhid")) for row in routes(prefix)]
            assert (core.failures, shown[0]) == ({}, ("77", object_id(second)))

    node(scenario)


@pytest.mark.parametrize("way", [("via", "192.0.2.9"), ("dev", "up0"), ("nhid", str(object_id(Y)))])
def test_what_is_appended_to_ours_with_our_mark_goes(
    node: Callable[[Scenario], None], way: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Heard or found by a reading, and ours stays the same: nothing takes its place for a moment."""

    async def scenario() -> None:
        core = core_with_next_hops(X, Y)
        core.want({"10.1.0.0/16": Via((X,)), "10.2.0.0/16": Via((Y,))})
        stray = ("10.1.0.0/16", *way, "metric", "32", "proto", "77")

        def shown() -> list[object]:
            return [row.get("nhid") for row in routes("10.1.0.0/16")]

        async with core.running() as edge:
            await core.at_rest(edge)
            ip("route", "append", *stray)
            await core.until(lambda: "fib.stray_removed" in caplog.text and shown() == [object_id(X)])
            assert core.drift == 0
        ip("route", "append", *stray)
        assert len(shown()) == 2
        async with core.running():
            await core.until(lambda: shown() == [object_id(X)])

    node(scenario)


@pytest.mark.parametrize(("prefix", "near", "far"), [("10.9.0.0/16", X, "198.51.100.9"), ("fd09::/64", X6, "fd99::9")])
def test_of_a_route_with_several_ways_those_of_links_that_are_down_lead_nowhere(
    node: Callable[[Scenario], None], prefix: str, near: IPAddress, far: str
) -> None:
    """Only the way that is left is one that next hops resolve by; the other is one again when its link is up."""

    async def scenario() -> None:
        ip("link", "add", "up1", "type", "veth", "peer", "name", "far1")
        ip("link", "set", "far1", "up")
        ip("link", "set", "up1", "up")
        ip("addr", "add", "198.51.100.1/24", "dev", "up1")
        ip("addr", "add", "fd99::1/64", "dev", "up1", "nodad")
        ways = ("nexthop", "via", far, "dev", "up1", "nexthop", "via", str(near), "dev", "up0")
        ip("route", "add", prefix, *ways)
        core = Core(lambda: asyncio.get_running_loop().time())

        def gateways() -> set[str]:
            return {str(host.gateway) for host in core.host_routes if host.prefix == parse_nlri(prefix)}

        async with core.running():
            await core.until(lambda: gateways() == {far, str(near)})
            ip("link", "set", "far1", "down")  # it has no carrier then, and keeps its addresses
            await core.until(lambda: gateways() == {str(near)})
            ip("link", "set", "far1", "up")
            await core.until(lambda: gateways() == {far, str(near)})

    node(scenario)


def test_one_of_several_ways_that_somebody_deletes_leaves_the_others(node: Callable[[Scenario], None]) -> None:
    """IPv6 tells of that one alone."""

    async def scenario() -> None:
        ways = ("nexthop", "via", str(X6), "dev", "up0", "nexthop", "via", str(Y6), "dev", "up0")
        ip("route", "add", "fd09::/64", *ways)
        core = Core(lambda: asyncio.get_running_loop().time())

        def gateways() -> set[object]:
            return {host.gateway for host in core.host_routes if host.prefix == parse_nlri("fd09::/64")}

        async with core.running():
            await core.until(lambda: gateways() == {X6, Y6})
            ip("route", "del", "fd09::/64", "via", str(X6), "dev", "up0")
            await core.until(lambda: X6 not in gateways())
            assert gateways() == {Y6}

    node(scenario)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["10.9.0.0/16 via 192.0.2.8", "10.9.0.0/16 via 192.0.2.9"], "replace 10.9.0.0/16 metric 100 via 192.0.2.7"),
        (["fd09::/64 dev up0"], "append fd09::/64 metric 100 nexthop via 2001:db8::8 nexthop via 2001:db8::9"),
        (["fd09::/64 dev up0", "fd09::/64 via 2001:db8::8"], "append fd09::/64 metric 100 via 2001:db8::9"),
    ],
)
def test_of_several_routes_of_others_each_is_known(
    node: Callable[[Scenario], None], first: list[str], then: str
) -> None:
    """Which of them another one replaces, or is joined by, is not told; nothing is forgotten all the same."""

    def there() -> set[HostRoute]:
        with contextlib.closing(NetlinkDoor()) as door:
            found = Mirror.read(door, RouteReader(), KernelOptions())
        return found.host_routes_since(Mirror(KernelOptions()))[0]

    async def scenario() -> None:
        for words in first:
            ip("route", "append", *words.split(), "metric", "100")
        core = Core(lambda: asyncio.get_running_loop().time())
        async with core.running():
            before = set(core.host_routes)
            ip("route", *then.split())
            await core.until(lambda: core.host_routes != before)
            await core.until(lambda: core.host_routes == there())  # link-local addresses may come meanwhile

    node(scenario)
