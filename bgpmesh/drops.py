"""Who follows the drops: packets as they are dropped, told by policy, for as long as somebody looks.

While nobody follows no rule tells of anything. The first who does has the group opened, and then each rule that drops
gets one before it that sends its packets there; the last one who goes has those taken away again.

What may happen and must harm nobody: a flood (the rules are limited, the kernel's buffer and each follower's queue
are bounded, and what is lost is said), a follower that does not read or is gone (the server sees to it), a group that
another program listens to (refused by name), a packet that tells of a rule that is not there any more (left out).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from bgpmesh import log
from bgpmesh.control.server import RequestError
from bgpmesh.errors import KernelError, refused
from bgpmesh.events import DropsFollowed, Event
from bgpmesh.kernel.nflog import Logged, NflogDoor
from bgpmesh.policy.attribution import Cause
from bgpmesh.policy.rule import PROTOCOLS, Direction
from bgpmesh.workload.endpoint import Endpoint

MOST_FOLLOWERS = 16
LONGEST_QUEUE = 1000  # drops that one follower has not taken

_NAMES = {number: name for name, number in PROTOCOLS.items()}

Drop = dict[str, object]


class Follower:
    """What one follower has still to hear: drops, and how many were left out."""

    def __init__(self, leave: Callable[[Follower], None]) -> None:
        self._leave = leave
        self._waiting: deque[Drop] = deque()
        self._lost = 0
        self._some = asyncio.Event()

    def tell(self, drop: Drop) -> None:
        """Have it hear of a drop, or that there was one."""
        if len(self._waiting) < LONGEST_QUEUE:
            self._waiting.append(drop)
        else:
            self._lost += 1
        self._some.set()

    def lose(self) -> None:
        """Have it hear that some were lost, nobody knows how many."""
        self._lost += 1
        self._some.set()

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Drop:
        """Wait for the next; what was lost is told once it has caught up."""
        while not self._waiting and not self._lost:
            self._some.clear()
            await self._some.wait()
        if self._waiting:
            return self._waiting.popleft()
        lost, self._lost = self._lost, 0
        return {"lost": lost}

    async def aclose(self) -> None:
        """Follow no longer."""
        self._leave(self)


class Drops:
    """The followers of one daemon. `report` takes what the engine is to hear."""

    def __init__(
        self,
        report: Callable[[Event], None],
        causes: Callable[[], Mapping[tuple[int, str], Cause]],
        endpoints: Callable[[], Mapping[str, Endpoint]],
    ) -> None:
        self._report = report
        self._causes = causes
        self._endpoints = endpoints
        self._followers: set[Follower] = set()
        self._door: NflogDoor | None = None
        self._heard_lost = 0

    def join(self, group: int) -> Follower:
        """Return a new follower; raises ConfigError where the group cannot be had, RequestError where all are taken."""
        if len(self._followers) >= MOST_FOLLOWERS:
            raise RequestError("bad-request", f"{MOST_FOLLOWERS} follow already")
        if self._door is None:
            try:
                self._door = NflogDoor(group)
            except KernelError as error:
                raise refused("policy.nflog_group", str(group), error.text) from error
            self._heard_lost = 0
            asyncio.get_running_loop().add_reader(self._door.fileno(), self._heard)
            self._report(DropsFollowed(group))
        follower = Follower(self._left)
        self._followers.add(follower)
        return follower

    def _left(self, follower: Follower) -> None:
        self._followers.discard(follower)
        if not self._followers and self._door is not None:
            asyncio.get_running_loop().remove_reader(self._door.fileno())
            self._door.close()
            self._door = None
            self._report(DropsFollowed(0))

    def _heard(self) -> None:
        if self._door is None:
            return
        try:
            heard = self._door.read()
        except KernelError as error:
            log.warning("drops.unheard", reason=str(error))
            return
        causes, ends = self._causes(), _Ends(self._endpoints()) if heard else None
        for logged in heard:
            cause = causes.get((logged.source.version, logged.prefix))
            if cause is not None and ends is not None:
                drop = _drop(logged, cause, ends)
                for follower in self._followers:
                    follower.tell(drop)
        if self._door.lost != self._heard_lost:
            self._heard_lost = self._door.lost
            for follower in self._followers:
                follower.lose()


class _Ends:
    """Who is at a link, and who has an address."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.at = {endpoint.interface: key for key, endpoint in endpoints.items()}
        self.of = {address: key for key, endpoint in endpoints.items() for address in endpoint.addresses}


def _drop(logged: Logged, cause: Cause, ends: _Ends) -> Drop:
    """Return a drop as it is sent; what is not known, or not there, is null."""
    sender, receiver = ends.at.get(logged.link_in), ends.at.get(logged.link_out)
    if cause.direction is None:
        own = sender or receiver
    else:
        own = receiver if cause.direction is Direction.INGRESS else sender
    return {
        "time": logged.time,
        "policy": cause.name,
        "tier": cause.tier,
        "rule": cause.rule,
        "direction": None if cause.direction is None else cause.direction.value,
        "workload": own,
        "from": ends.of.get(logged.source),
        "to": ends.of.get(logged.destination),
        "source": str(logged.source),
        "destination": str(logged.destination),
        "protocol": _NAMES.get(logged.protocol, logged.protocol),
        "source_port": logged.source_port,
        "port": logged.port,
        "icmp": None if logged.icmp is None else f"{logged.icmp[0]}/{logged.icmp[1]}",
        "length": logged.length,
        "link_in": logged.link_in or None,
        "link_out": logged.link_out or None,
        "chain": cause.chain,
    }
