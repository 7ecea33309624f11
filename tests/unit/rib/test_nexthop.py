"""Next hops: what they resolve to, why not, and what happens when that changes."""

from __future__ import annotations

import itertools

import pytest

from bgpmesh.route.path import Blackhole, HostRouteKind, OnLink, PeerName, Role, Via
from tests.flat import pairs
from tests.steps import steps
from tests.unit.rib.ribworld import BOTH, CLUSTER_ID, DEFAULT, NONE, World, address, external, host, internal, key, via

A, B = internal("a", 11), internal("b", 12)


def test_a_next_hop_on_a_connected_subnet_costs_nothing() -> None:
    """The link is the subnet's, there is no gateway, and the cost is 0."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), "10.1.0.0/16")
    assert {"10.1.0.0/16": Via((address("192.0.2.9"),))} == world.fib()
    assert world.hops() == {"192.0.2.9": (2, None, 0)}


ON_2, ON_3 = (host("fe80::/64", link, HostRouteKind.CONNECTED) for link in (2, 3))


def test_a_link_local_next_hop_is_on_the_link_that_it_names() -> None:
    """Two neighbours with one address on two links are two next hops, whatever the longest match would be."""
    world = World(A)
    world.rib.ways.links_named({2: "eth2", 3: "eth3", 4: "eth4"}, {})
    world.rib.host_routes_changed([ON_2, ON_3], [])
    for number in (2, 3):
        world.hear("a", via(f"fe80::9%eth{number}"), f"10.{number}.0.0/16")
    assert world.hops() == {"fe80::9%eth2": (2, None, 0), "fe80::9%eth3": (3, None, 0)}
    world.rib.ways.links_named({2: "eth3", 3: "eth2"}, {})
    assert world.hops() == {"fe80::9%eth2": (3, None, 0), "fe80::9%eth3": (2, None, 0)}


@pytest.mark.parametrize(
    ("next_hop", "why"),
    [
        ("fe80::9", "a link-local address says no link"),
        ("fe80::9%eth3", "link eth3 is down, or has no link-local address"),
        ("fe80::9%eth7", "link eth7 is down, or has no link-local address"),
        ("fe80::1%eth2", "it is an address of this host"),
    ],
)
def test_a_link_local_next_hop_that_cannot_be_reached_says_why(next_hop: str, why: str) -> None:
    """Its link is not there, or not up."""
    world = World(A)
    world.rib.ways.links_named({2: "eth2", 3: "eth3"}, {})
    world.rib.host_routes_changed([ON_2, host("fe80::1/128", 2, HostRouteKind.LOCAL)], [])
    world.hear("a", via(next_hop), "10.1.0.0/16")
    assert {"a": f"next hop {next_hop} cannot be reached: {why}"} == world.reasons("10.1.0.0/16")


def test_a_next_hop_behind_a_gateway_costs_that_routes_metric() -> None:
    """The longest match counts, and the better metric of two at one prefix."""
    world = World(A)
    way = host("172.16.0.0/16", 3, HostRouteKind.GATEWAY, "192.0.2.253", 20)
    worse = host("172.16.0.0/16", 4, HostRouteKind.GATEWAY, "192.0.2.252", 30)
    world.rib.host_routes_changed([DEFAULT, worse, way], [])
    world.hear("a", via("172.16.9.9"), "10.1.0.0/16")
    assert world.hops() == {"172.16.9.9": (3, "192.0.2.253", 20)}
    world.rib.host_routes_changed([], [way])
    assert world.hops() == {"172.16.9.9": (4, "192.0.2.252", 30)}


def test_the_hosts_default_counts_but_not_for_single_hop_ebgp() -> None:
    """An iBGP next hop may lie behind the default route; that of a single-hop eBGP path may not."""
    world = World(A, external("e", "192.0.2.14"))
    world.rib.host_routes_changed([DEFAULT], [])
    world.hear("a", via("198.51.100.9"), "10.1.0.0/16")
    world.hear("e", via("198.51.100.9", 65001), "10.2.0.0/16")
    assert {"10.1.0.0/16"} == set(world.fib())
    why = "next hop 198.51.100.9 cannot be reached: it is on no connected subnet (single-hop eBGP)"
    assert {"e": why} == world.reasons("10.2.0.0/16")
    assert world.hops() == {"198.51.100.9": (2, "192.0.2.254", 100)}


@pytest.mark.parametrize(
    ("next_hop", "why"),
    [
        ("198.51.100.9", "no route"),
        ("192.0.2.1", "it is an address of this host"),
        ("10.9.9.9", "10.9.0.0/16 is discarded here"),
        ("224.0.0.5", "it is not a unicast address"),
        ("127.0.0.1", "it is not a unicast address"),
    ],
)
def test_a_path_says_why_its_next_hop_cannot_be_reached(next_hop: str, why: str) -> None:
    """Such a path is kept, is not selected, and has the reason."""
    world = World(A)
    world.rib.host_routes_changed([host("10.9.0.0/16", 0, HostRouteKind.DISCARD)], [])
    world.hear("a", via(next_hop), "10.1.0.0/16")
    assert world.fib() == {}
    assert {"a": f"next hop {next_hop} cannot be reached: {why}"} == world.reasons("10.1.0.0/16")


def test_a_path_is_installed_once_its_next_hop_can_be_reached() -> None:
    """A route of the host that comes makes it eligible, and one that goes makes it wait again."""
    world = World(A)
    world.hear("a", via("198.51.100.9"), "10.1.0.0/16")
    assert world.fib() == {}
    world.rib.host_routes_changed([DEFAULT], [])
    assert {"10.1.0.0/16": Via((address("198.51.100.9"),))} == world.fib()
    world.rib.host_routes_changed([], [DEFAULT])
    assert world.fib() == {}
    assert world.hops() == {}


def test_another_gateway_at_the_same_cost_moves_the_object_only() -> None:
    """Where reachability and cost stay, no route is touched: one kernel object moves them all."""
    world = World(A)
    world.rib.host_routes_changed([DEFAULT], [])
    world.hear("a", via("198.51.100.9"), "10.1.0.0/16", "10.2.0.0/16")
    world.work()
    world.rib.fib.acknowledge([nlri for nlri, _ in pairs(world.rib.fib.take(10, 0.0))])
    moved = host("0.0.0.0/0", 3, HostRouteKind.GATEWAY, "192.0.2.253", 100)
    world.rib.host_routes_changed([moved], [DEFAULT])
    assert world.hops() == {"198.51.100.9": (3, "192.0.2.253", 100)}
    assert not world.rib.fib.has_work(0.0)


def steps_of_a_change(count: int) -> int:
    """Return what it takes in `Ways` to follow a new gateway to so many next hops."""
    world = World(A)
    world.rib.host_routes_changed([DEFAULT], [])
    for number in range(count):
        world.hear("a", via(f"172.16.{number >> 8}.{number & 255}"), f"10.{number >> 8}.{number & 255}.0/24")
    world.work()
    moved = host("0.0.0.0/0", 3, HostRouteKind.GATEWAY, "192.0.2.253", 100)
    world.rib.host_routes_changed([moved], [DEFAULT])
    return steps(world.work, "rib/ways.py")


def test_another_gateway_costs_each_next_hop_the_same_however_many_there_are() -> None:
    """None of them is looked for behind each of the others."""
    assert steps_of_a_change(800) < 1.5 * 8 * steps_of_a_change(100)


def test_a_change_of_cost_decides_again() -> None:
    """The nearer exit wins, and another wins once it is nearer."""
    world = World(A, B)
    near = host("172.16.0.0/16", 3, HostRouteKind.GATEWAY, "192.0.2.253", 10)
    far = host("172.17.0.0/16", 3, HostRouteKind.GATEWAY, "192.0.2.253", 20)
    world.rib.host_routes_changed([near, far], [])
    world.hear("a", via("172.16.0.1"), "10.1.0.0/16")
    world.hear("b", via("172.17.0.1"), "10.1.0.0/16")
    assert world.reasons("10.1.0.0/16") == {"a": "igp-cost", "b": "igp-cost"}
    assert world.best("10.1.0.0/16") == "a"
    world.rib.host_routes_changed([host("172.17.0.0/16", 3, HostRouteKind.GATEWAY, "192.0.2.253", 5)], [far])
    assert world.best("10.1.0.0/16") == "b"


def test_a_next_hop_resolves_through_routes_of_ours() -> None:
    """Two routes of ours deep: the link and gateway are those of the last, the cost the host route's."""
    world = World(A, B)
    world.hear("a", via("10.1.0.1"), "10.2.0.0/16")
    world.hear("a", via("10.3.0.1"), "10.1.0.0/16")
    assert world.fib() == {}
    world.hear("b", via("192.0.2.12"), "10.3.0.0/16")
    assert {"10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"} == set(world.fib())
    assert world.hops() == {
        "10.1.0.1": (2, "192.0.2.12", 0),
        "10.3.0.1": (2, "192.0.2.12", 0),
        "192.0.2.12": (2, None, 0),
    }
    world.lose("b", "10.3.0.0/16")
    assert world.fib() == {}


def test_a_route_does_not_resolve_through_itself() -> None:
    """A route that covers its own next hop is passed over; the next shorter match is taken, or nothing."""
    world = World(A)
    world.hear("a", via("10.1.0.1"), "10.1.0.0/16")
    assert world.reasons("10.1.0.0/16") == {"a": "next hop 10.1.0.1 cannot be reached: no route"}
    world.rib.host_routes_changed([DEFAULT], [])
    assert world.hops() == {"10.1.0.1": (2, "192.0.2.254", 100)}


def test_two_routes_do_not_resolve_through_each_other() -> None:
    """A circle of two is no way, whichever came first."""
    for order in ([0, 1], [1, 0]):
        world = World(A)
        said = [(via("10.2.0.1"), "10.1.0.0/16"), (via("10.1.0.1"), "10.2.0.0/16")]
        for at in order:
            world.hear("a", said[at][0], said[at][1])
            world.work()
        assert world.fib() == {}


def test_a_node_that_announces_its_own_address_stays_reachable() -> None:
    """The /32 of a next hop by way of that next hop does not cut the branch that it sits on."""
    world = World(A)
    world.hear("a", via("192.0.2.11"), "192.0.2.11/32", "10.1.0.0/16")
    assert {"192.0.2.11/32", "10.1.0.0/16"} == set(world.fib())
    assert world.hops() == {"192.0.2.11": (2, None, 0)}


def test_a_default_route_of_ours_leads_to_no_next_hop() -> None:
    """We may have a default route by BGP; next hops do not resolve through it."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), "0.0.0.0/0")
    world.hear("a", via("198.51.100.9"), "10.1.0.0/16")
    assert {"0.0.0.0/0"} == set(world.fib())


@pytest.mark.parametrize("target", [Blackhole(), OnLink("bgpm1")])
def test_there_is_no_way_through_what_this_node_ends(target: Blackhole | OnLink) -> None:
    """Neither our own block nor a workload's address leads on, though the default route would."""
    world = World(A)
    world.rib.host_routes_changed([DEFAULT], [])
    world.rib.originate(key("10.244.1.0/26"), target, advertise=True)
    world.hear("a", via("10.244.1.5"), "10.1.0.0/16")
    assert "10.1.0.0/16" not in world.fib()


def test_a_connected_prefix_is_never_written() -> None:
    """A neighbour that announces this host's own LAN captures nothing, now or when the LAN comes later."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), "192.0.2.0/24", "172.16.0.0/24", "2001:db8::/64")
    assert {"172.16.0.0/24"} == set(world.fib())
    assert world.rib.kernel_reason(key("192.0.2.0/24")) == "none: connected on this host"
    assert world.hops() == {"192.0.2.9": (2, None, 0)}
    added = host("172.16.0.0/24", 5)
    world.rib.host_routes_changed([added], [])
    assert (world.fib(), world.hops()) == ({}, {})
    world.rib.host_routes_changed([], [added])
    assert {"172.16.0.0/24"} == set(world.fib())


def test_a_connected_prefix_stays_so_while_one_of_two_links_has_it() -> None:
    """The same subnet on two links, and one goes: still nothing is written there."""
    world = World(A)
    twice = [host("172.16.0.0/24", 5), host("172.16.0.0/24", 6)]
    world.rib.host_routes_changed(twice, [])
    world.hear("a", via("192.0.2.9"), "172.16.0.0/24")
    world.rib.host_routes_changed([], twice[:1])
    assert world.fib() == {}


def test_without_a_kernel_every_unicast_next_hop_of_others_is_there() -> None:
    """A reflector off the path resolves nothing, writes nothing, and still refuses its own address."""
    world = World(A, kernel=False)
    world.hear("a", via("198.51.100.9"), "10.1.0.0/16")
    world.hear("a", via("192.0.2.1"), "10.2.0.0/16")
    assert (world.fib(), world.hops()) == ({}, {})
    assert world.best("10.1.0.0/16") == "a"
    assert world.best("10.2.0.0/16") is None
    assert world.rib.kernel_reason(key("10.1.0.0/16")) == "none"


def test_without_a_kernel_a_link_local_address_of_no_link_is_nobody() -> None:
    """A reflector off the path would put itself in its place, and nothing is forwarded there."""
    world = World(
        internal("c", 21, Role.CLIENT, CLUSTER_ID),
        internal("b", 12, Role.NON_CLIENT, CLUSTER_ID),
        cluster_id=CLUSTER_ID,
        kernel=False,
    )
    world.hear("c", via("fe80::9"), "2001:db8:5::/48")
    assert {"c": "next hop fe80::9 cannot be reached: a link-local address says no link"} == world.reasons(
        "2001:db8:5::/48"
    )
    assert [] == world.take("b")


def test_next_hops_are_wanted_only_while_a_route_uses_them() -> None:
    """The last route that leaves a next hop takes its kernel object away; the first one brings it."""
    world = World(A, B)
    world.hear("a", via("192.0.2.9"), "10.1.0.0/16", "10.2.0.0/16")
    world.hear("b", via("192.0.2.10", 65001), "10.1.0.0/16")
    assert {"192.0.2.9"} == set(world.hops())
    world.lose("a", "10.1.0.0/16")
    assert {"192.0.2.9", "192.0.2.10"} == set(world.hops())
    world.lose("a", "10.2.0.0/16")
    assert {"192.0.2.10"} == set(world.hops())
    world.rib.peer_down(PeerName("b"), NONE)
    assert world.hops() == {}


def test_what_is_known_of_next_hops_is_forgotten_with_the_last_path() -> None:
    """A peer that goes for good leaves no next hop behind."""
    world = World(A)
    world.hear("a", via("192.0.2.9"), "10.1.0.0/16")
    world.work()
    world.rib.peer_down(PeerName("a"), BOTH)
    world.rib.sweep(PeerName("a"), BOTH)
    world.work()
    assert world.rib.ways.known(address("192.0.2.9")) == []


def test_what_is_behind_a_next_hop_follows_it_after_others_there_were_forgotten() -> None:
    """Of two that resolve through one, the first goes with its peer, comes again, and both follow another way."""
    world = World(A, B)
    near, far = (host("172.16.0.0/16", link, HostRouteKind.GATEWAY, f"192.0.2.25{link}", 10) for link in (2, 3))
    world.rib.host_routes_changed([near], [])
    world.hear("a", via("172.16.0.1"), "10.8.0.0/16")
    world.hear("a", via("10.8.0.1"), "10.1.0.0/16")
    world.hear("b", via("10.8.0.2"), "10.2.0.0/16")
    world.work()
    world.rib.peer_down(B.name, NONE)
    world.work()
    world.up(B)
    world.hear("b", via("10.8.0.2"), "10.2.0.0/16")
    world.work()
    world.rib.host_routes_changed([far], [near])
    assert dict.fromkeys(("172.16.0.1", "10.8.0.1", "10.8.0.2"), (3, "192.0.2.253", 10)) == world.hops()


# On our LAN, but this host has a route of its own to it: single-hop eBGP passes that over (rule 4), iBGP does not.
BEHIND = host("192.0.2.9/32", 2, HostRouteKind.GATEWAY, "192.0.2.77", 50)


def hops_after(*steps: str) -> dict[str, tuple[int, str | None, int]]:
    """Return what the next hop is to be, that an iBGP peer ("a") and an eBGP neighbour ("out", "lost") announce."""
    world = World(A, external("out", "192.0.2.3"))
    world.rib.host_routes_changed([BEHIND], [])
    for step in steps:
        if step == "lost":
            world.lose("out", "10.2.0.0/16")
        else:
            world.hear(step, via("192.0.2.9", 65001), "10.1.0.0/16" if step == "a" else "10.2.0.0/16")
        world.work()
    return world.hops()


def test_of_two_ways_to_one_next_hop_the_order_decides_nothing() -> None:
    """Single-hop eBGP and iBGP mean two ways by one address, and the kernel has one object for it."""
    answers = [hops_after(*order) for order in itertools.permutations(("a", "out"))]
    assert answers == [{"192.0.2.9": (2, None, 0)}] * 2
    assert hops_after("a") == {"192.0.2.9": (2, "192.0.2.77", 50)}


@pytest.mark.parametrize("order", list(itertools.permutations(("a", "out"))))
def test_a_way_that_nobody_uses_any_more_decides_nothing(order: tuple[str, ...]) -> None:
    """What the eBGP neighbour had announced by it leaves no trace."""
    assert hops_after(*order, "lost") == hops_after("a")
