"""What each peer may hear, and how it is rewritten."""

from __future__ import annotations

from dataclasses import dataclass

from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.nlri import Family, Nlri


@dataclass(slots=True, eq=False)
class Batch:
    """One attribute set and many prefixes of one family, for every peer of an update group.

    `attributes` None withdraws. `encoded` is the wire's own: the bytes are made once for the group.
    """

    family: Family
    attributes: PathAttributes | None
    nlris: list[Nlri]
    encoded: list[bytes] | None = None
