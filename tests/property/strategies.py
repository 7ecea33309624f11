"""A small world in which routes collide: few peers, prefixes that cover the next hops, few attribute values."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from bgpmesh.peering.message import Capabilities, Negotiated, Open
from bgpmesh.peering.peer import Peer
from bgpmesh.route.attributes import Asn, Origin, PathAttributes, RouterId
from bgpmesh.route.nlri import Family, IPAddress, Nlri, parse_nlri
from bgpmesh.route.path import HostRoute, HostRouteKind, PeerName, Role
from tests.unit.rib.ribworld import sequence

ASN, ROUTER_ID, CLUSTER_ID = Asn(64512), RouterId(1), RouterId(900)
BOTH = (Family.IPV4, Family.IPV6)


def address(text: str) -> IPAddress:
    """Return an address as people write it."""
    return ipaddress.ip_address(text)


OWN = ((Family.IPV4, address("192.0.2.1")), (Family.IPV6, address("2001:db8::1")))


def make_peer(
    name: str,
    at: str,
    role: Role,
    asn: int = ASN,
    *,
    multihop: int = 0,
    exports: tuple[str, ...] = ("all",),
    imports: tuple[str, ...] = ("all",),
    next_hop: str = "auto",
    cluster_id: RouterId | None = CLUSTER_ID,
    max_prefixes: int = 100_000,
) -> Peer:
    """Return a peer of this node, which has 192.0.2.1 and reflects."""
    return Peer(
        PeerName(name),
        address(at),
        Asn(asn),
        role,
        address("192.0.2.1"),
        ASN,
        ROUTER_ID,
        multihop=multihop,
        max_prefixes=max_prefixes,
        imports=imports,
        exports=exports,
        next_hops=OWN,
        next_hop=next_hop,
        cluster_id=cluster_id,
    )


def negotiated(peer: Peer, router_id: int, families: tuple[Family, ...] = BOTH) -> Negotiated:
    """Return what two plain OPENs agree on."""
    ours = Open(ASN, 9, ROUTER_ID, Capabilities(families))
    theirs = Open(peer.asn, 9, RouterId(router_id), Capabilities(families))
    return Negotiated(ours, theirs, 9, families, four_octet_asn=True)


PEERS: dict[PeerName, Peer] = {
    peer.name: peer
    for peer in (
        make_peer("c1", "192.0.2.11", Role.CLIENT),
        make_peer("c2", "192.0.2.12", Role.CLIENT),
        make_peer("n1", "192.0.2.13", Role.NON_CLIENT),
        make_peer("e1", "192.0.2.14", Role.EXTERNAL, 65001),
        make_peer("e2", "198.51.100.2", Role.EXTERNAL, 65002, multihop=3, exports=("own",), next_hop="self"),
    )
}
ROUTER_IDS = {name: RouterId(100 + at) for at, name in enumerate(PEERS)}

PREFIXES: tuple[Nlri, ...] = tuple(
    map(
        parse_nlri,
        (
            "0.0.0.0/0",
            "10.1.0.0/16",
            "10.1.1.0/24",
            "10.1.1.1/32",
            "10.2.0.0/16",
            "10.2.2.2/32",
            "172.16.0.0/24",
            "192.0.2.0/24",
            "2001:db8::/32",
            "2001:db8:1::/64",
        ),
    )
)
NEXT_HOPS: dict[Family, tuple[IPAddress, ...]] = {
    Family.IPV4: tuple(map(address, ("10.1.1.1", "10.2.2.2", "172.16.0.5", "192.0.2.20", "192.0.2.12", "192.0.2.1"))),
    Family.IPV6: tuple(map(address, ("2001:db8::5", "2001:db8:1::5"))),
}


def host(prefix: str, link: int, kind: HostRouteKind, gateway: str | None = None, metric: int = 0) -> HostRoute:
    """Return a kernel route of somebody else."""
    via = None if gateway is None else address(gateway)
    return HostRoute(parse_nlri(prefix), link, via, metric, kind, 2, 254)


HOSTS: tuple[HostRoute, ...] = (
    host("192.0.2.0/24", 2, HostRouteKind.CONNECTED),
    host("192.0.2.1/32", 1, HostRouteKind.LOCAL),
    host("0.0.0.0/0", 2, HostRouteKind.GATEWAY, "192.0.2.254", 100),
    host("10.1.0.0/16", 3, HostRouteKind.GATEWAY, "192.0.2.253", 20),
    host("10.1.0.0/16", 3, HostRouteKind.GATEWAY, "192.0.2.252", 20),
    host("10.2.2.0/24", 0, HostRouteKind.DISCARD),
    host("172.16.0.0/24", 4, HostRouteKind.CONNECTED),
    host("10.1.1.0/24", 5, HostRouteKind.CONNECTED),
    host("2001:db8::/32", 2, HostRouteKind.CONNECTED),
)


def attribute_sets(family: Family) -> st.SearchStrategy[PathAttributes]:
    """Draw attribute sets of few values, so that ties and loops are common."""
    return st.builds(
        PathAttributes,
        origin=st.sampled_from((Origin.IGP, Origin.INCOMPLETE)),
        as_path=st.sampled_from(
            (sequence(), sequence(65001), sequence(65001, 65009), sequence(65002, 65001), sequence(65003, ASN))
        ),
        next_hop=st.sampled_from(NEXT_HOPS[family]),
        med=st.sampled_from((None, 0, 10)),
        local_pref=st.sampled_from((None, None, 100, 200)),
        originator_id=st.sampled_from((None, None, RouterId(77), ROUTER_ID, RouterId(101))),
        cluster_list=st.sampled_from(((), (RouterId(5),), (RouterId(5), RouterId(6)), (CLUSTER_ID,))),
        communities=st.sampled_from(((), (), (), (0xFFFFFF01,), (0xFFFFFF02,), (0xFFFF0006,), (0xFFFF0007,))),
    )


def batches(family: Family) -> st.SearchStrategy[tuple[PathAttributes, list[Nlri]]]:
    """Draw one UPDATE's announcement."""
    width = 5 if family is Family.IPV4 else 17
    prefixes = [nlri for nlri in PREFIXES if len(nlri) == width]
    return st.tuples(attribute_sets(family), st.lists(st.sampled_from(prefixes), min_size=1, max_size=4, unique=True))
