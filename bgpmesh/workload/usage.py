"""How full this node's blocks are; for `pool show` and the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bgpmesh.frozen import frozen
from bgpmesh.route.nlri import IPAddress, IPNetwork
from bgpmesh.workload.pool import Pool


@frozen
class BlockUsage:
    """One of the node's pod CIDRs: the pool around it ("": none), and its addresses by what became of them."""

    block: IPNetwork
    pool: str
    used: int
    free: int
    reserved: int  # never given: by the pool, and the Subnet-Router anycast address (RFC 4291 §2.6.1)


def usage(pools: Sequence[Pool], pod_cidrs: Iterable[IPNetwork], in_use: Iterable[IPAddress]) -> list[BlockUsage]:
    """Return each block's usage; O(blocks x addresses in use), never the size of a block."""
    addresses = list(in_use)
    return [
        _of(block, next((pool for pool in pools if _is_inside(block, pool.cidr)), None), addresses)
        for block in pod_cidrs
    ]


def _of(block: IPNetwork, pool: Pool | None, addresses: list[IPAddress]) -> BlockUsage:
    used = sum(address in block for address in addresses)
    anycast = 1 if block.version == 6 and block.num_addresses > 1 else 0
    reserved = anycast
    for kept in () if pool is None else pool.reserved:
        if _is_inside(kept, block):
            is_anycast_in = bool(anycast) and kept.network_address == block.network_address
            reserved += kept.num_addresses - is_anycast_in
        elif _is_inside(block, kept):
            reserved = block.num_addresses
    free = max(block.num_addresses - reserved - used, 0)
    return BlockUsage(block, "" if pool is None else pool.name, used, free, reserved)


def _is_inside(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer
