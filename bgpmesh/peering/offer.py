"""What we offer a peer in our OPEN, and the words for what is wrong with its own.

* A family is offered where we have a next hop for it; FlowSpec, which has none (RFC 8955 §4), where it is configured.
* The F bit says that forwarding was preserved: of a restart where the kernel's routes were still there, and of all
  later sessions of this daemon's life (RFC 4724 §3, RFC 9494 §3). The N bit is always set (RFC 8538 §2).
"""

from __future__ import annotations

from dataclasses import dataclass

from bgpmesh.peering.message import (
    Capabilities,
    Code,
    GracefulRestart,
    LongLived,
    Negotiated,
    Notification,
    Open,
    PathIds,
)
from bgpmesh.peering.peer import AddPath, Peer
from bgpmesh.route import roles
from bgpmesh.route.nlri import FLOWSPEC, ROUTED, Family


@dataclass(slots=True)
class LocalRestart:
    """What our OPENs say about our own restart (RFC 4724 §3); shared by all sessions, changed by the engine."""

    is_restarting: bool = False  # the R bit of the OPENs we send now
    is_forwarding_kept: bool = False  # the F bit of first sessions; later ones of this daemon's life always set it


def families_offered(peer: Peer) -> tuple[Family, ...]:
    """Return the families that an OPEN to a peer offers."""
    able = {family for family, _ in peer.next_hops}
    return tuple(family for family in peer.families if family in able) + (FLOWSPEC if peer.flowspec is not None else ())


def open_to(peer: Peer, *, is_restarting: bool, is_forwarding_kept: bool) -> Open:
    """Return the OPEN for a peer, with the R and F bits that hold now."""
    families = families_offered(peer)
    routed = tuple(family for family in families if family in ROUTED)
    restart = long_lived = None
    if peer.graceful_restart:
        restart = GracefulRestart(
            restart_time=min(peer.graceful_restart, 4095),
            is_restarting=is_restarting,
            families=tuple((family, is_forwarding_kept) for family in families),
            survives_notification=True,
        )
        if (seconds := peer.long_lived_graceful_restart) > 0:
            long_lived = LongLived(tuple((family, is_forwarding_kept, seconds) for family in routed))
    role = ((roles.CAPABILITY, bytes((roles.ROLES[peer.bgp_role],))),) if peer.bgp_role else ()
    paths = peer.add_path or AddPath(0, receive=False)
    capabilities = Capabilities(
        families=families,
        enhanced_refresh=True,
        extended_message=True,
        graceful_restart=restart,
        long_lived=long_lived,
        add_path=tuple(PathIds(f, paths.receive, paths.send > 0) for f in routed if paths.receive or paths.send),
        ipv6_next_hops=Family.IPV4 in routed,
        other=role,
    )
    return Open(peer.local_asn, peer.hold_time, peer.router_id, capabilities)


def why_refused(peer: Peer, negotiated: Negotiated, refusal: Notification) -> str:
    """Return why the peer's OPEN is refused, with what it says and what the limit is."""
    if (refusal.code, refusal.subcode) == (Code.OPEN, 2) and negotiated.received.asn != peer.asn:
        return f"AS mismatch: the peer says {negotiated.received.asn}, configured is {peer.asn}"
    return negotiated.refusal_text or refusal.describe()
