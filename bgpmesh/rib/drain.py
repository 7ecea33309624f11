"""How far a node has left service, and so what its peers hear (RFC 8326).

    none        all, as it is
    draining    all, with GRACEFUL_SHUTDOWN, and within the AS with LOCAL_PREF 0: whoever knows another way takes it
    drained     only what nobody else could announce: blocks, workloads, floating addresses; as while draining
    stopped     nothing; the sessions are closed
    undraining  as draining, until what peers say is in the kernel

While anything is said traffic is forwarded as ever.
"""

from __future__ import annotations

import enum


class Drain(enum.Enum):
    """The steps, in their order."""

    NONE = "none"
    DRAINING = "draining"
    DRAINED = "drained"
    STOPPED = "stopped"
    UNDRAINING = "undraining"
