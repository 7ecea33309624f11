"""What an attribute set that a peer sent becomes here: the Path that all prefixes with it and one fate share.

Filters come first, then whether the peer may say what it says of addresses, then what is ours to say of a route from
outside, then whether it has been here before. A prefix that no filter lets in has a Path as well, with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from bgpmesh.peering.peer import Peer
from bgpmesh.rib.adjribin import AdjRibIn
from bgpmesh.rib.claimants import Claimants, Refused
from bgpmesh.rib.decision import Kept, Path
from bgpmesh.rib.filter import Answer
from bgpmesh.rib.ways import Ways
from bgpmesh.route import roles
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.claim import IDENTITY, Claims, Kind, has_kind, identity_of, without_claims
from bgpmesh.route.community import BLACKHOLE, GRACEFUL_SHUTDOWN, NO_ADVERTISE, NO_EXPORT
from bgpmesh.route.nlri import Nlri
from bgpmesh.route.path import Blackhole, PeerName

REJECTED = "import filter"  # what the reason of a path that filters rejected begins with
SPARE_CLAIMS = 20_000  # kept beyond twice as many as there are


class Import:
    """Makes Paths by who we are, and whom we believe what is said of addresses."""

    def __init__(
        self, ins: Mapping[PeerName, AdjRibIn], ways: Ways, asn: Asn, router_id: RouterId, cluster_id: RouterId | None
    ) -> None:
        self.refused: list[Refused] = []  # what is said of addresses and not believed; whoever reads it empties it
        self._ins, self._ways = ins, ways
        self._us = (asn, router_id, cluster_id)
        self._claimants: Claimants | None = None  # None: nothing that is said of addresses is heard
        self._interned: dict[Claims, Claims] = {}
        self._interned_live = 0  # after the last sweep

    def configure(self, asn: Asn, router_id: RouterId, cluster_id: RouterId | None) -> bool:
        """Be somebody else, so that loops are others; tell whether that is new."""
        is_new, self._us = self._us != (asn, router_id, cluster_id), (asn, router_id, cluster_id)
        for rib_in in self._ins.values() if is_new else ():
            for path in {*rib_in.table.values(), *rib_in.made.values()}:
                if not path.refusal.startswith(REJECTED):
                    path.refusal = self._refusal(rib_in.peer, path.attributes)
        return is_new

    def believe(self, claimants: Claimants | None) -> bool:
        """Take who may say what of addresses, from the next path on; tell whether that is new."""
        is_new, self._claimants = claimants != self._claimants, claimants
        return is_new

    def run(
        self, rib_in: AdjRibIn, attributes: PathAttributes, nlris: Sequence[Nlri], read_at: float, kept: Kept
    ) -> Iterator[tuple[Path, Collection[Nlri]]]:
        """Yield what this attribute set becomes for prefixes of one family, with those that have one fate."""
        for answer in rib_in.filters.run(rib_in.peer.name, attributes, nlris):
            for part, is_believed in self._judged(rib_in.peer, answer):
                key = (attributes, answer.attributes, answer.by, answer.said, is_believed)
                path = rib_in.made.get(key)
                if path is None:
                    self._ways.has_idle |= rib_in.forget_unused()
                    path = rib_in.made[key] = self._path(rib_in, attributes, answer, is_believed=is_believed)
                if path.kept is not kept:
                    path = rib_in.kept(path, kept)
                path.read_at = read_at
                yield path, part

    def _judged(self, peer: Peer, answer: Answer) -> Sequence[tuple[Collection[Nlri], bool]]:
        """Return the prefixes of an answer of whose claims all are believed, and those of which none is."""
        attributes, claimants = answer.attributes, self._claimants
        if attributes is None or claimants is None or not attributes.large_communities or not peer.in_cluster:
            return ((answer.nlris, False),)
        if identity_of(attributes.large_communities, peer.cluster_asn) is None:
            return ((answer.nlris, False),)
        believed, others, reason = claimants.judge(peer, attributes.originator_id, answer.nlris)
        if others:
            self.refused.append(Refused(peer.name, next(iter(others)), len(others), reason))
        return [(part, is_believed) for part, is_believed in ((believed, True), (others, False)) if part]

    def _path(self, rib_in: AdjRibIn, received: PathAttributes, answer: Answer, *, is_believed: bool) -> Path:
        attributes = received if answer.attributes is None else answer.attributes
        refusal = f"{REJECTED} {answer.by}" if answer.attributes is None else ""
        peer, claims = rib_in.peer, None
        if peer.is_external:
            attributes = _from_outside(attributes, answer.said)
            if peer.bgp_role:
                attributes = roles.received(peer.bgp_role, peer.asn, attributes)
        if attributes.large_communities and not peer.in_cluster:
            attributes = without_claims(attributes, peer.cluster_asn)
        elif is_believed:
            claims = self._intern(identity_of(attributes.large_communities, peer.cluster_asn))
        elif attributes.large_communities and self._claimants is not None:
            attributes = without_claims(attributes, peer.cluster_asn, IDENTITY)
        next_hop = target = None
        if "blackhole" in answer.said:
            target = Blackhole()
        elif attributes.next_hop is not None:
            next_hop = self._ways.to(attributes.next_hop, is_single_hop=rib_in.source.is_single_hop)
        return Path(
            rib_in.source,
            received,
            attributes,
            refusal or self._refusal(peer, attributes),
            answer.by,
            next_hop,
            # The aggregate of its node leads to an address of which something is said.
            target if next_hop is None or claims is not None else next_hop.target,
            is_floating=peer.in_cluster and has_kind(attributes.large_communities, peer.cluster_asn, Kind.FLOATING),
            claims=claims,
            is_for_cluster=claims is not None,
        )

    def _intern(self, claims: Claims | None) -> Claims | None:
        """Return the one object for equal claims."""
        if claims is None:
            return None
        if len(self._interned) > SPARE_CLAIMS + 2 * self._interned_live:
            live = {path.claims for rib_in in self._ins.values() for path in rib_in.made.values()}
            self._interned = {each: each for each in live if each is not None}
            self._interned_live = len(self._interned)
        return self._interned.setdefault(claims, claims)

    def _refusal(self, peer: Peer, attributes: PathAttributes) -> str:
        """Return why no path with these attributes from this peer can be selected; "" where it can."""
        return (
            self.loop(peer, attributes)
            or roles.leak(peer.bgp_role, peer.asn, attributes)
            or ("" if attributes.next_hop is not None else "no next hop")
        )

    def loop(self, peer: Peer, attributes: PathAttributes) -> str:
        """Return how what has these attributes has been here before; "" where it has not."""
        our_asn, router_id, cluster_id = self._us
        for asn in (our_asn, peer.local_asn):
            if attributes.as_path.count(asn) > peer.allow_own_asn:
                return f"loop: our AS {asn} is in AS_PATH"
        if attributes.originator_id == router_id:
            return "loop: ORIGINATOR_ID is ours"
        if cluster_id is not None and cluster_id in attributes.cluster_list:
            return "loop: our cluster is in CLUSTER_LIST"
        return ""


def _from_outside(attributes: PathAttributes, said: Collection[str]) -> PathAttributes:
    """Return what an external peer says as it counts here, after filters.

    LOCAL_PREF is not the neighbour's to say (RFC 4271 §5.1.5), but that it will be gone soon is (RFC 8326 §4.1). What
    it wants discarded goes no further than our AS (RFC 7999 §3.2).
    """
    communities = attributes.communities
    preferred = attributes.local_pref if "local_pref" in said else None
    if GRACEFUL_SHUTDOWN in communities:
        preferred = 0
    if BLACKHOLE in communities and NO_EXPORT not in communities and NO_ADVERTISE not in communities:
        communities = tuple(sorted((*communities, NO_EXPORT)))
    if (preferred, communities) == (attributes.local_pref, attributes.communities):
        return attributes
    return replace(attributes, local_pref=preferred, communities=communities)
