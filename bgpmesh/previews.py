"""Answers what a change of objects would do, beside the loop: the thinking is pure and done in a thread.

Keepalives go on meanwhile: a thread that computes gives the interpreter up every few milliseconds. Connections are read
in the thread of connection tracking, as a review reads them. One preview at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set as AbstractSet
from typing import Protocol

from bgpmesh.control.policies import JsonObject, Running, previewed
from bgpmesh.engine import Engine
from bgpmesh.errors import KernelError
from bgpmesh.kernel.conntrack import Connection
from bgpmesh.policy.preview import Basis, Change, change_of, outcome
from bgpmesh.route.nlri import IPAddress


class Living(Protocol):
    """What is needed of the edge of connections."""

    async def living(self, addresses: AbstractSet[IPAddress]) -> tuple[list[Connection], int]:
        """Return the connections of these addresses, and how many there are in all."""


class Previews:
    """Tells what changes would do on the node of a daemon."""

    def __init__(self, running: Running, connections: Living) -> None:
        self._running = running
        self._connections = connections
        self._turn = asyncio.Lock()

    async def answer(self, documents: list[object], *, is_deletion: bool) -> JsonObject:
        """Return what applying, or deleting, the objects in the documents would do; nothing is changed."""
        async with self._turn:
            engine, store = self._running.engine, self._running.store.copy()
            change = await asyncio.to_thread(change_of, store, documents, is_deletion=is_deletion)
            unknown: list[str] = []
            if engine.configured.has_identity and engine.rib.fib.keep_unwanted:
                unknown.append("after a restart not every node has said yet who its workloads are")
            basis = _basis(engine, change)
            tracked: list[Connection] = []
            count = 0
            if basis.endpoints:
                try:
                    addresses = {each for endpoint in basis.endpoints.values() for each in endpoint.addresses}
                    tracked, count = await self._connections.living(addresses)
                except KernelError as error:
                    unknown.append(f"connections cannot be looked at: {error.text}")
            found = await asyncio.to_thread(outcome, basis, change, tracked)
            return previewed(found, is_revoking=basis.around.is_revoking, looked_at=count, unknown=unknown)


def _basis(engine: Engine, change: Change) -> Basis:
    """Return what is known now, as copies."""
    configured = engine.configured
    return Basis(
        dict(engine.local.endpoints),
        configured.around,
        {address: engine.rib.host.interfaces_with(address) for address in change.expected(configured.around.node)},
        dict(engine.packets.protection.remote),
        configured.has_identity,
        {owner.name for owner in configured.owners} == {engine.node},
    )
