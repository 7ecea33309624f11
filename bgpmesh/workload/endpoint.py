"""A workload's attachment to this node, and the link that it needs."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from bgpmesh.route.nlri import IPAddress


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One workload here: who it is, where it is attached, what it is called by."""

    name: str
    namespace: str
    labels: tuple[tuple[str, str], ...]  # sorted
    addresses: tuple[IPAddress, ...]
    interface: str  # the link on the host
    netns: str  # path of its network namespace as it was given, for people and for a rebuilt link
    ports: tuple[tuple[str, str, int], ...] = ()  # (name, protocol, number)

    @property
    def key(self) -> str:
        """`namespace/name`: unique on the node."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """The veth that should exist: its host end, its alias (how we know it as ours), what the inside has."""

    interface: str
    alias: str
    addresses: tuple[IPAddress, ...]
    netns: str


def interface_name(prefix: str, key: str) -> str:
    """Return the host link's name for `namespace/name`: the prefix and 11 characters of a hash, 15 at most."""
    digest = base64.b32encode(hashlib.sha256(key.encode()).digest()).decode().lower()
    return prefix[:4] + digest[:11]
