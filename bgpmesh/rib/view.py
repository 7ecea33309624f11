"""What a peer may hear, and as what: the rules of its session, before and behind the export filters.

They are RFC 4271 §5, RFC 4456 §6 and §8, RFC 1997, RFC 8654 §4, RFC 9494 §4.3; a session outside the cluster passes
nothing without a filter that says so (RFC 8212), which the configuration decides.
"""

from __future__ import annotations

from dataclasses import replace

from bgpmesh.frozen import frozen
from bgpmesh.peering.message import Negotiated
from bgpmesh.peering.peer import Peer
from bgpmesh.rib.decision import DEFAULT_LOCAL_PREF, Path
from bgpmesh.rib.drain import Drain
from bgpmesh.rib.filter import NOTHING
from bgpmesh.route import roles
from bgpmesh.route.attributes import ATTRIBUTES, PARTIAL, Asn, PathAttributes, RouterId, octets_of
from bgpmesh.route.claim import without_claims
from bgpmesh.route.community import GRACEFUL_SHUTDOWN, LLGR_STALE, NO_ADVERTISE, NO_EXPORT, NO_EXPORT_SUBCONFED
from bgpmesh.route.nlri import PATH_ID_SIZE, Family, IPAddress, Nlri, contains, host_nlri, is_link_local
from bgpmesh.route.path import Role, Source

_AROUND = 23  # octets of an UPDATE's header and its two lengths (RFC 4271 §4.3)
_REACH = 4 + 5 + 16  # of MP_REACH_NLRI with an IPv6 next hop, but the prefixes (RFC 4760 §3)
TRANSITIVE = 0x40  # attribute flag (RFC 4271 §4.3)
KNOWN = frozenset(row.code for row in ATTRIBUTES)
EXT_NON_TRANSITIVE = 0x40  # in the type of an extended community (RFC 4360 §2)


@frozen
class Agreed:
    """What a session agreed on, as far as its peer hears other things, or otherwise encoded, by that."""

    families: tuple[Family, ...]
    four_octet_asn: bool
    message_size: int  # octets
    hears_long_lived: bool  # it knows what is stale for long, and that it comes last (RFC 9494 §4.3)
    ipv6_next_hops: bool  # of IPv4 prefixes (RFC 8950)
    path_ids: frozenset[Family]  # families of which several paths of a prefix are told (RFC 7911)


def agreed(negotiated: Negotiated) -> Agreed:
    """Return it."""
    knows_long_lived = negotiated.received.capabilities.long_lived is not None
    return Agreed(
        negotiated.families,
        negotiated.four_octet_asn,
        negotiated.message_size,
        knows_long_lived,
        negotiated.ipv6_next_hops,
        negotiated.path_ids_out,
    )


@frozen
class View:
    """What decides how routes look to a peer, and how they are encoded; peers with equal views share a group."""

    role: Role
    in_cluster: bool
    asn: Asn
    local_asn: Asn
    agreed: Agreed
    exports: tuple[str, ...]
    next_hops: tuple[tuple[Family, IPAddress], ...]
    next_hop: str
    cluster_id: RouterId | None
    shared_subnet: Nlri | None  # where a received next hop may be passed on to an external peer
    asn_behind: Asn | None = None  # stands behind `local_asn` in AS_PATH
    bgp_role: str = ""  # ours (RFC 9234)
    most_paths: int = 0  # of a prefix, where they agreed on several
    silent_on: Asn | None = None  # what nodes of this cluster say of addresses goes no further than the cluster
    drain: Drain = Drain.NONE  # the same for all peers

    @property
    def is_external(self) -> bool:
        """Whether routes leave our AS by it."""
        return self.role is Role.EXTERNAL


def view_of(peer: Peer, agreed: Agreed, subnet: Nlri | None, drain: Drain) -> View:
    """Return the view of a peer whose session agreed on this."""
    return View(
        peer.role,
        peer.in_cluster,
        peer.asn,
        peer.local_asn,
        agreed,
        peer.exports,
        peer.next_hops,
        peer.next_hop,
        peer.cluster_id,
        subnet if peer.is_external and peer.next_hop == "auto" else None,
        peer.asn_behind,
        peer.bgp_role,
        peer.add_path.send if agreed.path_ids and peer.add_path is not None else 0,
        None if peer.in_cluster else peer.cluster_asn,
        drain,
    )


def may_hear(view: View, path: Path) -> bool:
    """Tell whether the rules let a path go to such a peer, before any filter (RFC 4271 §9.2, RFC 4456 §6)."""
    source = path.source
    if view.drain is Drain.STOPPED or (view.drain is Drain.DRAINED and (path.is_movable or not source.is_local)):
        return False
    communities = path.attributes.communities
    if communities and (
        NO_ADVERTISE in communities
        or (LLGR_STALE in communities and not view.agreed.hears_long_lived)
        or (view.is_external and (NO_EXPORT in communities or NO_EXPORT_SUBCONFED in communities))
    ):
        return False
    if view.bgp_role and not roles.may_leave(view.bgp_role, path.attributes):
        return False
    if path.is_for_cluster and (source.is_external or not view.in_cluster):
        return False  # whoever hears of a node's address from a third one that does not reflect would not believe it
    if source.is_local:
        return path.is_advertised
    if source.is_external or view.is_external:
        return True
    return view.cluster_id is not None and (source.role is Role.CLIENT or view.role is Role.CLIENT)


def rewrite(
    view: View, source: Source, attributes: PathAttributes, family: Family, said: frozenset[str] = NOTHING
) -> PathAttributes | None:
    """Return a path's attributes as such a peer is to see them; None where there is no next hop to give it.

    Of `said` the export filters have the last word, but that a node which leaves service says so.
    """
    if view.drain is not Drain.NONE:
        attributes = _leaving(attributes)
    next_hop = _next_hop(view, attributes, family, said)
    if next_hop is None or (family is Family.IPV4 and next_hop.version == 6 and not view.agreed.ipv6_next_hops):
        return None
    if view.silent_on is not None and attributes.large_communities:
        attributes = without_claims(attributes, view.silent_on)
    passed = tuple(
        (flags if code in KNOWN else flags | PARTIAL, code, value)  # RFC 4271 §5
        for flags, code, value in attributes.other
        if flags & TRANSITIVE
    )
    if view.is_external:
        as_path = attributes.as_path.outside()
        if view.asn_behind is not None:
            as_path = as_path.prepended(view.asn_behind)
        made = replace(attributes, next_hop=next_hop, link_local=None, other=passed)
        return replace(
            roles.sent(view.bgp_role, view.local_asn, made, is_ours=source.is_local),
            as_path=as_path.prepended(view.local_asn),
            med=attributes.med if source.is_local or "med" in said else None,
            local_pref=None,
            originator_id=None,
            cluster_list=(),
            ext_communities=tuple(c for c in attributes.ext_communities if not c[0] & EXT_NON_TRANSITIVE),
        )
    originator, cluster_list = attributes.originator_id, attributes.cluster_list
    if not (source.is_local or source.is_external or view.cluster_id is None):  # reflected (RFC 4456 §8)
        originator = source.router_id if originator is None else originator
        cluster_list = (view.cluster_id, *cluster_list)
    return replace(
        attributes,
        next_hop=next_hop,
        link_local=None,
        other=passed,
        local_pref=DEFAULT_LOCAL_PREF if attributes.local_pref is None else attributes.local_pref,
        originator_id=originator,
        cluster_list=cluster_list,
    )


def fits(view: View, attributes: PathAttributes, family: Family) -> bool:
    """Tell whether attributes as such a peer is to see them leave room for a prefix in a message that it takes."""
    if _is_short(attributes):
        return True
    needed = _AROUND + octets_of(attributes, four_octet_asn=view.agreed.four_octet_asn) + 1 + family.bits // 8
    if family in view.agreed.path_ids:
        needed += PATH_ID_SIZE
    if attributes.next_hop is not None and attributes.next_hop.version == 6:
        needed += _REACH
    return needed <= view.agreed.message_size


def _is_short(attributes: PathAttributes) -> bool:
    """Tell at a glance whether attributes fit any message, as nearly all do: 3,400 octets at the most."""
    segments = attributes.as_path.segments
    return (
        not attributes.other
        and len(segments) < 2
        and (not segments or len(segments[0][1]) < 256)  # of eight octets each, with AS4_PATH
        and len(attributes.communities) + len(attributes.large_communities) < 100  # of twelve at most
        and len(attributes.ext_communities) + len(attributes.cluster_list) < 10
    )


def _leaving(attributes: PathAttributes) -> PathAttributes:
    """Return attributes as the last choice of whoever hears them (RFC 8326 §4.2)."""
    communities = tuple(sorted({*attributes.communities, GRACEFUL_SHUTDOWN}))
    return replace(attributes, local_pref=0, communities=communities)


def _next_hop(view: View, attributes: PathAttributes, family: Family, said: frozenset[str]) -> IPAddress | None:
    ours = dict(view.next_hops).get(family)
    received = attributes.next_hop
    if "next_hop" in said:
        return received
    if "next_hop_self" in said:
        return ours
    if received is None or view.next_hop == "self":  # None: of a local path, but where a program names one
        return ours
    if is_link_local(received):
        return ours  # beyond its link it means nobody (RFC 2545 §2)
    if not view.is_external or view.next_hop == "keep":
        return received
    if view.shared_subnet is not None and contains(view.shared_subnet, host_nlri(received)):
        return received  # third party (RFC 4271 §5.1.3)
    return ours
