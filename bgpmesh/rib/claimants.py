"""Who may say of an address who has it: the node that owns the block around it, and nobody else.

Whose word a path is follows from where it came from. A node that does not reflect speaks for itself alone: what names
another as ORIGINATOR_ID is nobody's word. What comes from a reflector is the word of the node whose BGP identifier
ORIGINATOR_ID is (RFC 4456 §8), which the reflector has taken from its session, and its own where there is none.

A reflector judges by the same rules before it passes anything on, so a client cannot speak through it for another.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Claimants:
    """The nodes of the cluster with their blocks."""

    owners: tuple[Owner, ...]

    def judge(
        self, peer: Peer, originator: RouterId | None, nlris: Sequence[Nlri]
    ) -> tuple[Sequence[Nlri], Sequence[Nlri], str]:
        """Return of which prefixes of one family a node of the cluster may say so, of which not, and why."""
        speaker = self._by_name.get(peer.name)
        if originator is None or (speaker is not None and originator == speaker.router_id):
            owner = speaker
        elif peer.is_reflector:
            owner = self._by_router_id.get(originator)
        else:
            said = ipaddress.IPv4Address(originator)
            return (), nlris, f"ORIGINATOR_ID is {said}, and {peer.name} does not reflect"
        if owner is None:
            who = peer.name if originator is None else f"ORIGINATOR_ID {ipaddress.IPv4Address(originator)}"
            return (), nlris, f"{who} is no node of the file"
        ranges = self._ranges[owner.name]
        low, high = min(nlris), max(nlris)
        if any(first <= low and high <= last for first, last in ranges if len(first) == len(low)):
            return nlris, (), ""
        believed = [n for n in nlris if any(f <= n <= t for f, t in ranges if len(f) == len(n))]
        known = frozenset(believed)
        others = [nlri for nlri in nlris if nlri not in known]
        reason = f"{prefix_text(others[0])} is no address in a block of node {owner.name}" if others else ""
        return believed, others, reason

    @functools.cached_property
    def _by_name(self) -> dict[PeerName, Owner]:
        return {owner.name: owner for owner in self.owners}

    @functools.cached_property
    def _by_router_id(self) -> dict[RouterId, Owner]:
        return {owner.router_id: owner for owner in self.owners}

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
            for owner in self.owners
        }
