"""A Rib with a few routes of the host, and short words for what tests do to it."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from bgpmesh.peering.message import Capabilities, EndOfRib, LongLived, Negotiated, Open, RouteRefresh
from bgpmesh.peering.peer import AddPath, Peer
from bgpmesh.rib.candidate import Candidate
from bgpmesh.rib.export import Batch
from bgpmesh.rib.rib import Rib
from bgpmesh.route.attributes import Asn, AsPath, PathAttributes, RouterId, SegmentKind
from bgpmesh.route.nlri import Family, IPAddress, Nlri, parse_nlri, path_id_of, path_key, prefix_text
from bgpmesh.route.path import HostRoute, HostRouteKind, PeerName, Role

ASN, ROUTER_ID, CLUSTER_ID = Asn(64512), RouterId(1), RouterId(900)
BOTH = frozenset(Family)
NONE: frozenset[Family] = frozenset()
OWN = ((Family.IPV4, ipaddress.ip_address("192.0.2.1")), (Family.IPV6, ipaddress.ip_address("2001:db8::1")))


def address(text: str) -> IPAddress:
    """Return an address as people write it."""
    return ipaddress.ip_address(text)


def sequence(*asns: int) -> AsPath:
    """Return an AS_PATH of one sequence."""
    return AsPath(((SegmentKind.SEQUENCE, tuple(map(Asn, asns))),)) if asns else AsPath()


def via(next_hop: str, *asns: int) -> PathAttributes:
    """Return plain attributes with this next hop and AS_PATH."""
    return PathAttributes(as_path=sequence(*asns), next_hop=address(next_hop))


def host(
    prefix: str, link: int, kind: HostRouteKind = HostRouteKind.CONNECTED, gateway: str | None = None, metric: int = 0
) -> HostRoute:
    """Return a kernel route of somebody else, in the main table."""
    return HostRoute(parse_nlri(prefix), link, None if gateway is None else address(gateway), metric, kind, 2, 254)


LAN = host("192.0.2.0/24", 2)
LAN6 = host("2001:db8::/64", 2)
OWN_ADDRESS = host("192.0.2.1/32", 1, HostRouteKind.LOCAL)
DEFAULT = host("0.0.0.0/0", 2, HostRouteKind.GATEWAY, "192.0.2.254", 100)


def internal(name: str, last: int, role: Role = Role.NON_CLIENT, cluster_id: RouterId | None = None) -> Peer:
    """Return an iBGP peer at 192.0.2.LAST."""
    at = address(f"192.0.2.{last}")
    return Peer(
        PeerName(name), at, ASN, role, address("192.0.2.1"), ASN, ROUTER_ID, next_hops=OWN, cluster_id=cluster_id
    )


def external(name: str, at: str, asn: int = 65001) -> Peer:
    """Return a single-hop eBGP peer."""
    own = address("192.0.2.1")
    return Peer(PeerName(name), address(at), Asn(asn), Role.EXTERNAL, own, ASN, ROUTER_ID, next_hops=OWN)


class World:
    """A Rib under test; sessions are up once added."""

    def __init__(self, *peers: Peer, ecmp: int = 8, cluster_id: RouterId | None = None, kernel: bool = True) -> None:
        self.rib = Rib(ASN, ROUTER_ID, cluster_id, ecmp, kernel_enabled=kernel)
        self.rib.host_routes_changed([LAN, LAN6, OWN_ADDRESS], [])
        for peer in peers:
            self.up(peer)

    def up(
        self,
        peer: Peer,
        keep: frozenset[Family] = NONE,
        router_id: int | None = None,
        long_lived: LongLived | None = None,
        *,
        enhanced: bool = False,
    ) -> None:
        """Establish a session; the peer's identifier is the last byte of its address unless given."""
        identifier = RouterId(int(peer.address) & 0xFF if router_id is None else router_id)
        offered = Capabilities(peer.families, enhanced_refresh=enhanced)
        ours = Open(peer.local_asn, 9, ROUTER_ID, offered)
        theirs = Open(peer.asn, 9, identifier, replace(offered, long_lived=long_lived))
        paths = peer.add_path or AddPath(0, receive=False)
        negotiated = Negotiated(
            ours,
            theirs,
            9,
            peer.families,
            four_octet_asn=True,
            path_ids_in=frozenset(peer.families if paths.receive else ()),
            path_ids_out=frozenset(peer.families if paths.send else ()),
        )
        self.rib.peer_up(peer, negotiated, keep)

    def hear(self, name: str, attributes: PathAttributes, *prefixes: str) -> None:
        """Let a peer announce."""
        self.rib.receive(PeerName(name), attributes, [parse_nlri(prefix) for prefix in prefixes], [], 7.0)

    def lose(self, name: str, *prefixes: str) -> None:
        """Let a peer withdraw."""
        self.rib.receive(PeerName(name), None, [], [parse_nlri(prefix) for prefix in prefixes])

    def hear_paths(self, name: str, attributes: PathAttributes, *paths: tuple[int, str]) -> None:
        """Let a peer announce paths by their identifiers (RFC 7911)."""
        self.rib.receive(PeerName(name), attributes, [keyed(*path) for path in paths], [], 7.0)

    def lose_paths(self, name: str, *paths: tuple[int, str]) -> None:
        """Let a peer withdraw paths by their identifiers."""
        self.rib.receive(PeerName(name), None, [], [keyed(*path) for path in paths])

    def told(self, name: str) -> dict[tuple[int | None, str], str]:
        """Return the next hop of everything a peer has been told, by path identifier and prefix."""
        self.take(name)
        table = self.rib.advertised(PeerName(name))
        return {(path_id_of(nlri), prefix_text(nlri)): str(attributes.next_hop) for nlri, attributes in table}

    def work(self) -> None:
        """Think until there is nothing left."""
        while self.rib.work(1000):
            pass

    def fib(self) -> dict[str, object]:
        """Return what the kernel is to have, by prefix."""
        self.work()
        return {prefix_text(nlri): target for nlri, target in self.rib.fib.wanted.items()}

    def hops(self) -> dict[str, tuple[int, str | None, int]]:
        """Return what next hops are to be: link, gateway, cost."""
        self.work()
        found = self.rib.next_hops.wanted.items()
        return {str(at): (r.link, None if r.gateway is None else str(r.gateway), r.cost) for at, r in found}

    def reasons(self, prefix: str) -> dict[str, str]:
        """Return the reason of each path of a prefix, by peer."""
        self.work()
        return {c.peer or "local": c.reason for c in self.rib.candidates(parse_nlri(prefix))}

    def best(self, prefix: str) -> str | None:
        """Return whose path is best."""
        return next((c.peer or "local" for c in self.shown(prefix) if c.is_best), None)

    def shown(self, prefix: str) -> list[Candidate]:
        """Return a prefix's candidates."""
        self.work()
        return self.rib.candidates(parse_nlri(prefix))

    def take(self, name: str, limit: int = 1000) -> list[tuple[str | None, list[str]]]:
        """Return everything a peer is sent now: (next hop or None, prefixes), End-of-RIB as ("end", [family]).

        BoRR and EoRR are ("BEGIN", [family]) and ("END", [family]).
        """
        self.work()
        said: list[tuple[str | None, list[str]]] = []
        while parts := self.rib.take(PeerName(name), limit):
            for part in parts:
                if isinstance(part, EndOfRib):
                    said.append(("end", [part.family.label]))
                elif isinstance(part, RouteRefresh):
                    said.append((part.kind.name, [part.family.label]))
                else:
                    said.append((_next_hop(part), [prefix_text(nlri) for nlri in part.nlris]))
        return said

    def heard(self, name: str, prefix: str) -> PathAttributes | None:
        """Return what a peer has been told of a prefix."""
        self.take(name)
        return dict(self.rib.advertised(PeerName(name))).get(parse_nlri(prefix))


def _next_hop(batch: Batch) -> str | None:
    return None if batch.attributes is None else str(batch.attributes.next_hop)


def changed(attributes: PathAttributes | None, **fields: object) -> PathAttributes:
    """Return attributes with fields changed."""
    assert attributes is not None
    return replace(attributes, **fields)  # type: ignore[arg-type]  # tests name real fields


def keyed(path_id: int, prefix: str) -> Nlri:
    """Return the key of one path of a prefix."""
    return path_key(parse_nlri(prefix), path_id)


def key(prefix: str) -> Nlri:
    """Return the key of a prefix."""
    return parse_nlri(prefix)
