"""Who may say of an address who has it: the node that owns the block around it, and nobody else.

Whose word a path is follows from where it came from. A node that does not reflect speaks for itself alone: what names
another as ORIGINATOR_ID is nobody's word. What comes from a reflector is the word of the node whose BGP identifier
ORIGINATOR_ID is (RFC 4456 §8), which the reflector has taken from its session, and its own where there is none.

The speakers of a range are one owner: each may speak of any address that `pods` gives them all, but for the blocks of
nodes, and only for itself. An ORIGINATOR_ID that is no node's is one of them: their reflector has let them in.

A reflector judges by the same rules before it passes anything on, so a client cannot speak through it for another.
"""

from __future__ import annotations

import functools
import ipaddress
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from bgpmesh.peering.peer import Owner, Peer
from bgpmesh.route.attributes import RouterId
from bgpmesh.route.nlri import Nlri, prefix_text
from bgpmesh.route.path import PeerName


class Refused(NamedTuple):
    """What somebody said of addresses and may not: the first of them, how many, and why, in words."""

    peer: PeerName
    first: Nlri
    prefixes: int
    reason: str


_ALL_RANGES = PeerName("any range")  # no name of the file has a space


@dataclass(frozen=True)
class Claimants:
    """The nodes of the cluster with their blocks."""

    owners: tuple[Owner, ...]

    def judge(
        self, peer: Peer, originator: RouterId | None, nlris: Collection[Nlri]
    ) -> tuple[Collection[Nlri], Collection[Nlri], str]:
        """Return of which prefixes of one family a node of the cluster may say so, of which not, and why."""
        speaker = self._by_name.get(peer.of_range or peer.name)
        if originator is None or (speaker is not None and originator == speaker.router_id):
            owner = speaker
        elif peer.is_reflector:
            owner = self._by_router_id.get(originator, self._of_ranges)
        else:
            said = ipaddress.IPv4Address(originator)
            return (), nlris, f"ORIGINATOR_ID is {said}, and {peer.name} does not reflect"
        if owner is None:
            who = peer.name if originator is None else f"ORIGINATOR_ID {ipaddress.IPv4Address(originator)}"
            return (), nlris, f"{who} is no node of the file"
        ranges = self._ranges[owner.name]
        low, high = min(nlris), max(nlris)
        is_node = owner.router_id is not None
        if is_node and any(first <= low and high <= last for first, last in ranges if len(first) == len(low)):
            return nlris, (), ""
        believed = [n for n in nlris if any(f <= n <= t for f, t in ranges if len(f) == len(n))]
        if not is_node:
            believed = [nlri for nlri in believed if not self._is_of_node(nlri)]
        known = frozenset(believed)
        others = [nlri for nlri in nlris if nlri not in known]
        where = f"in a block of node {owner.name}" if is_node else f"in the pods of {owner.name} and of no node"
        reason = f"{prefix_text(others[0])} is no address {where}" if others else ""
        return believed, others, reason

    def _is_of_node(self, nlri: Nlri) -> bool:
        """Tell whether a single address lies in the block of a node; no two of those overlap."""
        blocks = self._node_blocks.get(len(nlri), [])
        place = bisect_right(blocks, (nlri, b"\xff")) - 1
        return place >= 0 and blocks[place][0] <= nlri <= blocks[place][1]

    @functools.cached_property
    def _node_blocks(self) -> dict[int, list[tuple[bytes, bytes]]]:
        """The same as `_ranges`, of all nodes, sorted, by the width of the keys."""
        found: dict[int, list[tuple[bytes, bytes]]] = {}
        for owner in self.owners:
            for block in self._ranges[owner.name] if owner.router_id is not None else ():
                found.setdefault(len(block[0]), []).append(block)
        return {width: sorted(blocks) for width, blocks in found.items()}

    @functools.cached_property
    def _of_ranges(self) -> Owner | None:
        """The speakers of all ranges, as one."""
        owners = [owner for owner in self.owners if owner.router_id is None]
        blocks = tuple(block for owner in owners for block in owner.blocks)
        return Owner(_ALL_RANGES, None, blocks) if owners else None

    @functools.cached_property
    def _by_name(self) -> dict[PeerName, Owner]:
        return {owner.name: owner for owner in self.owners}

    @functools.cached_property
    def _by_router_id(self) -> dict[RouterId, Owner]:
        return {owner.router_id: owner for owner in self.owners if owner.router_id is not None}

    @functools.cached_property
    def _ranges(self) -> dict[PeerName, list[tuple[bytes, bytes]]]:
        """The keys of the first and last single address in each block: what lies between is one too.

        A block of one address is none: no other route leads there.
        """
        return {
            owner.name: [
                tuple(bytes((block.max_prefixlen,)) + end.packed for end in (block[0], block[-1]))  # type: ignore[misc]
                for block in owner.blocks
                if block.num_addresses > 1
            ]
            for owner in (*self.owners, *([] if self._of_ranges is None else [self._of_ranges]))
        }
