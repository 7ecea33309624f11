"""Who gets which address, and who does not and why."""

from __future__ import annotations

import ipaddress

import pytest

from bgpmesh.errors import ConfigError
from bgpmesh.route.nlri import IPAddress
from bgpmesh.workload.pool import Addresses, Pool

POOLS = (
    Pool("default", ipaddress.ip_network("10.244.0.0/16"), reserved=(ipaddress.ip_network("10.244.1.0/30"),)),
    Pool("six", ipaddress.ip_network("fd00:10:244::/48")),
)
BLOCKS = (ipaddress.ip_network("10.244.1.0/26"), ipaddress.ip_network("fd00:10:244:1::/112"))


def ip(text: str) -> IPAddress:
    return ipaddress.ip_address(text)


def node(*blocks: str, reserved: str = "") -> Addresses:
    addresses = Addresses()
    cidr = ipaddress.ip_network("10.244.0.0/16")
    kept = tuple(ipaddress.ip_network(text) for text in reserved.split())
    addresses.configure((Pool("default", cidr, reserved=kept),), tuple(map(ipaddress.ip_network, blocks)))
    return addresses


def refusal(addresses: Addresses, key: str, *wanted: str) -> str:
    before = dict(addresses.in_use())
    with pytest.raises(ConfigError) as caught:
        addresses.request(key, tuple(map(ip, wanted)))
    assert addresses.in_use() == before
    return str(caught.value)


def test_a_workload_gets_one_address_of_each_family() -> None:
    """The first that are not reserved; the Subnet-Router anycast address is passed over."""
    addresses = Addresses()
    addresses.configure(POOLS, BLOCKS)
    assert addresses.request("shop/web") == (ip("10.244.1.4"), ip("fd00:10:244:1::1"))
    assert addresses.request("shop/db") == (ip("10.244.1.5"), ip("fd00:10:244:1::2"))


def test_an_address_asked_for_is_given_and_the_other_family_added() -> None:
    """IPv4 first, however it was asked."""
    addresses = Addresses()
    addresses.configure(POOLS, BLOCKS)
    assert addresses.request("shop/web", (ip("10.244.1.20"),)) == (ip("10.244.1.20"), ip("fd00:10:244:1::1"))
    assert addresses.request("shop/db", (ip("fd00::9"),)) == (ip("10.244.1.4"), ip("fd00::9"))


def test_a_promised_address_is_for_who_asks_for_it() -> None:
    """Nobody gets it by chance, and it counts as used."""
    addresses = Addresses()
    addresses.configure((), (ipaddress.ip_network("10.244.1.0/30"),), promised=[ip("10.244.1.1")])
    assert addresses.request("shop/a") == (ip("10.244.1.0"),)
    assert addresses.request("shop/b") == (ip("10.244.1.2"),)
    assert addresses.request("shop/router", (ip("10.244.1.1"),)) == (ip("10.244.1.1"),)
    addresses.request("shop/c")
    addresses.release("shop/router")
    assert refusal(addresses, "shop/d") == "pod_cidrs: 10.244.1.0/30 has no address left, 4 in use"


def test_a_repeated_request_is_answered_as_before() -> None:
    """And one that asks for something else is refused."""
    addresses = node("10.244.1.0/26")
    first = addresses.request("shop/web")
    assert [addresses.request("shop/web"), addresses.request("shop/web", first)] == [first, first]
    assert refusal(addresses, "shop/web", "10.244.1.9") == "ip = 10.244.1.9: shop/web already has 10.244.1.0"


def test_every_address_of_an_ipv4_block_is_used_and_then_it_says_so() -> None:
    """Routed links have no network or broadcast address."""
    addresses = node("10.244.1.0/29")
    given = [addresses.request(f"shop/w{number}")[0] for number in range(8)]
    assert given == list(ipaddress.ip_network("10.244.1.0/29"))
    assert refusal(addresses, "shop/late") == "pod_cidrs: 10.244.1.0/29 has no address left, 8 in use"


def test_an_exhausted_block_counts_what_is_reserved() -> None:
    """So that the operator sees where the addresses are."""
    addresses = node("10.244.1.0/30", reserved="10.244.1.0/31")
    assert [addresses.request(f"a/{n}")[0] for n in "xy"] == [ip("10.244.1.2"), ip("10.244.1.3")]
    assert refusal(addresses, "a/z") == "pod_cidrs: 10.244.1.0/30 has no address left, 2 in use and 2 reserved"


def test_a_released_address_comes_back_last() -> None:
    """Giving goes round the blocks before it gives an address a second time."""
    addresses = node("10.244.1.0/30")
    assert addresses.request("a/1") == (ip("10.244.1.0"),)
    addresses.release("a/1")
    given: list[IPAddress] = []
    for number in range(2, 6):
        given += addresses.request(f"a/{number}")
        addresses.release(f"a/{number}")
    assert given == [ip("10.244.1.1"), ip("10.244.1.2"), ip("10.244.1.3"), ip("10.244.1.0")]


def test_a_second_block_is_used_when_the_first_is_full() -> None:
    """In numerical order, whatever the order of the file."""
    addresses = node("10.244.9.0/31", "10.244.1.0/31")
    given = [str(addresses.request(f"a/{number}")[0]) for number in range(4)]
    assert given == ["10.244.1.0", "10.244.1.1", "10.244.9.0", "10.244.9.1"]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("10.244.1.4", "already in use by shop/web"),
        ("10.244.1.1", "reserved by pool default (10.244.1.0/30)"),
        ("192.0.2.1", "already in use by node n1"),
        ("224.0.0.5", "is not a unicast address that can be routed to a workload"),
        ("127.0.0.1", "is not a unicast address that can be routed to a workload"),
        ("0.0.0.1", "is not a unicast address that can be routed to a workload"),
        ("255.255.255.255", "is not a unicast address that can be routed to a workload"),
        ("169.254.1.1", "is not a unicast address that can be routed to a workload"),
        ("fe80::1", "is not a unicast address that can be routed to a workload"),
        ("::", "is not a unicast address that can be routed to a workload"),
        ("::ffff:10.0.0.1", "is not a unicast address that can be routed to a workload"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused_by_name(wanted: str, reason: str) -> None:
    """With the value and what stands against it."""
    addresses = Addresses()
    addresses.configure(POOLS, BLOCKS, {ip("192.0.2.1"): "node n1"})
    addresses.request("shop/web")
    assert refusal(addresses, "shop/db", wanted) == f"ip = {ip(wanted)}: {reason}"


def test_an_address_asked_for_twice_is_refused() -> None:
    """A workload has an address once."""
    assert refusal(node(), "a/b", "10.0.0.1", "10.0.0.1") == "ip = 10.0.0.1: is asked for twice"


def test_an_address_outside_the_blocks_is_given_but_not_covered() -> None:
    """It is announced on its own; a node without blocks can have no other."""
    addresses = node("10.244.1.0/26")
    addresses.request("shop/web", (ip("198.51.100.7"),))
    assert [addresses.is_covered(ip(text)) for text in ("198.51.100.7", "10.244.1.7", "::1")] == [False, True, False]
    assert node().request("shop/web", (ip("198.51.100.7"),)) == (ip("198.51.100.7"),)
    assert refusal(node(), "shop/web").startswith("pod_cidrs: this node has none")


def test_a_claim_stands_whatever_the_configuration_says() -> None:
    """What ran before a restart runs on, and giving goes on behind it."""
    addresses = node("10.244.1.0/29", reserved="10.244.1.4/31")
    addresses.claim("shop/web", (ip("10.244.1.4"), ip("203.0.113.5")))
    assert addresses.request("shop/db") == (ip("10.244.1.6"),)
    with pytest.raises(ConfigError, match=r"ip = 203\.0\.113\.5: already in use by shop/web"):
        addresses.claim("shop/other", (ip("203.0.113.5"),))
    addresses.release("shop/web")
    assert addresses.in_use() == {ip("10.244.1.6"): "shop/db"}


def test_a_block_of_2_to_the_64_costs_no_more_than_a_small_one() -> None:
    """The reserved half is jumped over, not walked through."""
    addresses = Addresses()
    half = ipaddress.ip_network("fd00:10:244:1::/65")
    pool = Pool("six", ipaddress.ip_network("fd00:10:244::/48"), reserved=(half,))
    addresses.configure((pool,), (ipaddress.ip_network("fd00:10:244:1::/64"),))
    assert addresses.request("a/b") == (ip("fd00:10:244:1:8000::"),)


def test_an_address_rests_until_nobody_takes_it_for_who_had_it() -> None:
    """It is neither drawn nor had by asking but by who had it; when the time is over it is one like any other."""
    addresses = Addresses()
    addresses.configure((), (ipaddress.ip_network("10.244.1.0/31"),))
    one, two = ipaddress.ip_address("10.244.1.0"), ipaddress.ip_address("10.244.1.1")
    assert addresses.request("a/web", (), 10.0) == (one,)
    addresses.release("a/web", 100.0)
    with pytest.raises(ConfigError, match="may take it for a/web, which had it, for 50 s more"):
        addresses.request("a/new", (one,), 50.0)
    assert addresses.request("a/new", (), 50.0) == (two,)
    with pytest.raises(ConfigError, match="no address left, 1 in use, 1 that others may take for who had them"):
        addresses.request("a/more", (), 50.0)
    assert addresses.request("a/web", (one,), 50.0) == (one,)
    addresses.release("a/web", 100.0)
    assert addresses.request("a/more", (), 100.0) == (one,)
