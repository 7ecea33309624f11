"""Pools and the addresses that this node gives out from its own blocks."""

from __future__ import annotations

from dataclasses import dataclass

from bgpmesh.route.nlri import IPNetwork


@dataclass(frozen=True, slots=True)
class Pool:
    """A range that workload addresses are drawn from, cluster-wide ([pool.NAME])."""

    name: str
    cidr: IPNetwork
    masquerade: bool = True
    advertise: bool = True
    reserved: tuple[IPNetwork, ...] = ()
