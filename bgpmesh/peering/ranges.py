"""Neighbours that are known by where they call from: `[peer.NAME] range`, and who of them may be here.

Each that calls from inside becomes a Peer of its own, `NAME@ADDRESS`, as the template says. The longest range around an
address counts; an address that is a peer's or a node's own belongs to no range. `@` is in no name of the file.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import replace

from bgpmesh.frozen import frozen
from bgpmesh.peering.bfd import Watched
from bgpmesh.peering.peer import Peer
from bgpmesh.route.nlri import IPAddress, IPNetwork
from bgpmesh.route.path import PeerName

REMEMBERED = 64  # callers of one range of whom it is known why nothing came of it


@frozen
class PeerRange:
    """A range of neighbours, and what each of them is like.

    Name and address of `template` are those of the range, and so are the name and far end of `watched` (None: no BFD).
    """

    network: IPNetwork
    limit: int  # speakers at a time
    template: Peer
    watched: Watched | None = None

    @property
    def name(self) -> PeerName:
        """The name in the file."""
        return self.template.name

    def name_of(self, address: IPAddress) -> PeerName:
        """Return the name of the speaker with this address."""
        return PeerName(f"{self.name}@{address}")

    def speaker(self, address: IPAddress) -> Peer:
        """Return the peer that calls from this address."""
        return replace(self.template, name=self.name_of(address), address=address, of_range=self.name)

    def watching(self, address: IPAddress) -> Watched | None:
        """Return how the path to it is watched."""
        watched = self.watched
        return None if watched is None else watched._replace(name=self.name_of(address), remote=str(address))


class Ranges:
    """The ranges of one node, `all` of them as they were given; `known` are the addresses of its other peers."""

    def __init__(self, ranges: Iterable[PeerRange] = (), known: Iterable[IPAddress] = ()) -> None:
        self.all = tuple(ranges)
        self._longest_first = sorted(self.all, key=lambda each: -each.network.prefixlen)
        self._known = frozenset(known)

    def has(self, address: IPAddress) -> bool:
        """Tell whether who calls from there is somebody."""
        return address in self._known or self.around(address) is not None

    def around(self, address: IPAddress) -> PeerRange | None:
        """Return the range whose speaker has this address, None where it is nobody's or another peer's."""
        if address in self._known:
            return None
        return next((each for each in self._longest_first if address in each.network), None)

    def find(self, name: PeerName) -> tuple[PeerRange, IPAddress] | None:
        """Return the range and address of `NAME@ADDRESS`, None where there is no such speaker now."""
        of, at, text = name.partition("@")
        try:
            address = ipaddress.ip_address(text if at else "")
        except ValueError:
            return None
        found = self.around(address)
        return None if found is None or found.name != of else (found, address)

    def speaker(self, name: PeerName) -> Peer | None:
        """Return `NAME@ADDRESS` as a peer, None where there is no such speaker now."""
        found = self.find(name)
        return None if found is None else found[0].speaker(found[1])


class Refusals:
    """Why nothing came of some who called from a range, the latest last."""

    def __init__(self) -> None:
        self._reasons: dict[PeerName, str] = {}

    @property
    def last(self) -> str:
        """Who came to nothing last, and why; "": nobody."""
        return next((f"{name}: {reason}" for name, reason in reversed(self._reasons.items())), "")

    def add(self, name: PeerName, reason: str) -> bool:
        """Note one more; tell whether it is news: who tries again and again does so for the same reason."""
        before = self._reasons.pop(name, "")
        self._reasons[name] = reason
        if len(self._reasons) > REMEMBERED:
            del self._reasons[next(iter(self._reasons))]
        return before.partition(":")[0] != reason.partition(":")[0]

    def forget(self, name: PeerName) -> None:
        """Note that something came of it."""
        self._reasons.pop(name, None)
