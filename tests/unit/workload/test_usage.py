"""How full the node's blocks are."""

from __future__ import annotations

import ipaddress

import pytest

from bgpmesh.errors import ConfigError
from bgpmesh.workload.pool import Addresses, Pool
from bgpmesh.workload.usage import BlockUsage, usage

BLOCK = ipaddress.ip_network("10.244.1.0/28")


def pool(*reserved: str) -> Pool:
    """Return the pool around the block."""
    return Pool("p", ipaddress.ip_network("10.244.0.0/16"), reserved=tuple(map(ipaddress.ip_network, reserved)))


@pytest.mark.parametrize(
    ("reserved", "expected"),
    [((), 0), (("10.244.1.0/30",), 4), (("10.244.2.0/30",), 0), (("10.244.1.0/30", "10.244.1.12/31"), 6)],
)
def test_what_a_pool_reserves_in_the_block_is_not_free(reserved: tuple[str, ...], expected: int) -> None:
    """Only what lies in the block counts."""
    in_use = [ipaddress.ip_address("10.244.1.9"), ipaddress.ip_address("10.244.2.9")]
    assert usage((pool(*reserved),), (BLOCK,), in_use) == [BlockUsage(BLOCK, "p", 1, 15 - expected, expected)]


def test_a_block_may_be_reserved_whole_and_lie_in_no_pool() -> None:
    """Nothing is free then; without a pool all of it is."""
    assert usage((pool("10.244.0.0/16"),), (BLOCK,), []) == [BlockUsage(BLOCK, "p", 0, 0, 16)]
    assert usage((), (BLOCK,), []) == [BlockUsage(BLOCK, "", 0, 16, 0)]


@pytest.mark.parametrize("block", ["10.244.1.0/30", "fd00::/126", "10.244.1.0/32", "fd00::1/128"])
def test_free_is_how_many_workloads_still_fit(block: str) -> None:
    """The allocator gives exactly as many addresses as were free."""
    network = ipaddress.ip_network(block)
    addresses = Addresses()
    addresses.configure((), (network,))
    (before,) = usage((), (network,), addresses.in_use())
    for number in range(before.free):
        addresses.request(f"default/{number}")
    (after,) = usage((), (network,), addresses.in_use())
    assert (after.used, after.free) == (before.free, 0)
    with pytest.raises(ConfigError):
        addresses.request("default/one-more")
