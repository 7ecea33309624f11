"""What a BGP next hop is in this kernel: reachable or not, why not, out of which link, at what cost.

Rules (RFC 4271 §5.1.3 and §9.1.2.1; the guards are ours):
 1. Longest match over the host's routes and our own selected ones; at one prefix the host's counts.
 2. Never through a route of ours that could come back: where a candidate of that route needs, however
    far along, the very next hop in question, the route is passed over. The test looks at what routes
    *could* select, not at what they select now, so the answer does not depend on the order of events
    and resolution cannot swing for ever.
 3. Never through a default route of ours; through blackhole, unreachable or prohibit there is no way on.
 4. The next hop of a single-hop eBGP path is on a connected subnet or nowhere.
 5. An address of this host is nobody's next hop.
 6. A link-local address is on the link that it names, while that has the subnet fe80::/64, or nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from bgpmesh.frozen import frozen
from bgpmesh.route.nlri import IPAddress, Nlri, host_nlri, is_link_local, link_of, prefix_text
from bgpmesh.route.path import Blackhole, HostRoute, HostRouteKind, OnLink, Resolution, Target, Via

OURS = (HostRouteKind.CONNECTED, HostRouteKind.LOCAL)  # prefixes that belong to this host itself

_PREFERENCE = {  # of several kernel routes for one prefix: the local table is asked first, then the metric counts
    HostRouteKind.LOCAL: 0,
    HostRouteKind.CONNECTED: 1,
    HostRouteKind.GATEWAY: 1,
    HostRouteKind.DISCARD: 1,
}


def covering(address: IPAddress) -> tuple[Nlri, ...]:
    """Return every prefix that covers an address, the longest first."""
    bits, number, size = address.max_prefixlen, int(address), address.max_prefixlen // 8
    return tuple(
        Nlri(bytes((length,)) + (number >> (bits - length) << (bits - length)).to_bytes(size, "big"))
        for length in range(bits, -1, -1)
    )


@dataclass(slots=True, eq=False)
class NextHop:
    """An address and what we know about reaching it; one object for all paths that use it alike."""

    address: IPAddress
    is_single_hop: bool  # of single-hop eBGP paths (rule 4)
    resolution: Resolution | None = None
    reason: str = "not looked up yet"  # in words, where there is no resolution
    via: NextHop | None = None  # resolved through a route of ours with this next hop
    prefixes: tuple[Nlri, ...] = field(init=False)  # that cover the address, longest first
    target: Via = field(init=False)  # what a route with this next hop alone is in the kernel

    def __post_init__(self) -> None:
        self.prefixes = covering(self.address)
        self.target = Via((self.address,))

    @property
    def cost(self) -> int:
        """The cost of getting there; 0 where it cannot be reached (such a path is not compared)."""
        return 0 if self.resolution is None else self.resolution.cost


@frozen
class OwnRoute:
    """What the Rib has for one of our prefixes: what it selected, and which next hops it could select."""

    target: Target | None  # None: nothing is selected, or it is only announced
    next_hop: NextHop | None  # of the best path
    possible: tuple[NextHop, ...]


class HostRoutes:
    """The kernel's routes that are not ours, for each prefix the one that counts, and the links they go by."""

    def __init__(self) -> None:
        self._routes: dict[Nlri, set[HostRoute]] = {}
        self.best: dict[Nlri, HostRoute] = {}
        self.link_names: Mapping[int, str] = {}  # of all links, by number
        self._first_addresses: Mapping[IPAddress, frozenset[int]] = {}  # and where they are, before routes tell

    def links_named(self, names: Mapping[int, str], addresses: Mapping[IPAddress, frozenset[int]]) -> None:
        """Know links by name, and before any route is known where the host's addresses are."""
        self.link_names = names
        self._first_addresses = addresses or self._first_addresses

    def link_name(self, number: int) -> str:
        """Return the name of a link, or its number in words."""
        return self.link_names.get(number, f"link {number}")

    def links_of(self, names: Collection[str]) -> set[int]:
        """Return the numbers of the links that have these names."""
        return {number for number, name in self.link_names.items() if name in names}

    def interfaces_with(self, address: IPAddress) -> set[str]:
        """Return the interfaces that have this address as the host's own, as far as their names are known."""
        first = {} if self.best else self._first_addresses
        links = self.links_with(address) or first.get(address, frozenset())
        return {self.link_names[link] for link in links if link in self.link_names}

    def change(self, added: Iterable[HostRoute], removed: Iterable[HostRoute]) -> dict[Nlri, None]:
        """Take routes in and out; return the prefixes whose answer changed."""
        touched: dict[Nlri, None] = {}
        for route in removed:
            self._routes.get(Nlri(route.prefix), set()).discard(route)
            touched[Nlri(route.prefix)] = None
        for route in added:
            self._routes.setdefault(Nlri(route.prefix), set()).add(route)
            touched[Nlri(route.prefix)] = None
        return {prefix: None for prefix in touched if self._choose(prefix)}

    def is_own(self, prefix: Nlri) -> bool:
        """Tell whether this host has the prefix connected, or as an address of its own."""
        return any(route.kind in OURS for route in self._routes.get(prefix, ()))

    def kinds_on(self, prefix: Nlri, link: int | None) -> set[HostRouteKind]:
        """Return what kinds of routes a prefix has on a link."""
        return {route.kind for route in self._routes.get(prefix, ()) if route.link == link}

    def links_with(self, address: IPAddress) -> set[int]:
        """Return the numbers of the links that have this address as the host's own."""
        routes = self._routes.get(host_nlri(address), ())
        return {route.link for route in routes if route.kind is HostRouteKind.LOCAL}

    def connected_subnet(self, address: IPAddress) -> Nlri | None:
        """Return the subnet of ours that an address lies in, None where there is none; fe80::/64 is of many links."""
        if is_link_local(address):
            return None
        for prefix in covering(address):
            if prefix in self.best and self.best[prefix].kind is HostRouteKind.CONNECTED:
                return prefix
        return None

    def _choose(self, prefix: Nlri) -> bool:
        before = self.best.get(prefix)
        routes = self._routes.get(prefix)
        if not routes:
            self._routes.pop(prefix, None)
            self.best.pop(prefix, None)
            return before is not None
        self.best[prefix] = min(routes, key=_order)
        # Even if the best one stays, another of the prefix may have made it connected or not.
        return True


def _order(route: HostRoute) -> tuple[int, int, int, int, str, str]:
    gateway = str(route.gateway or "")
    return (_PREFERENCE[route.kind], route.metric, route.table, route.link, gateway, route.kind.value)


@dataclass(slots=True)
class Resolver:
    """Resolve next hops in the host's routes and ours; `own_route` asks the Rib about a prefix of ours."""

    hosts: HostRoutes
    own_route: Callable[[Nlri], OwnRoute | None]
    is_kernel_enabled: bool
    own_addresses: set[IPAddress] = field(default_factory=set)  # those our sessions use, as configured

    def resolve(self, next_hop: NextHop) -> bool:
        """Find out anew how to reach a next hop; tell whether anything about it changed."""
        before = (next_hop.resolution, next_hop.reason, next_hop.via)
        answer, via = self._answer(next_hop)
        next_hop.via = via
        if isinstance(answer, str):
            next_hop.resolution, next_hop.reason = None, answer
        else:
            next_hop.resolution, next_hop.reason = answer, ""
        return before != (next_hop.resolution, next_hop.reason, next_hop.via)

    def _answer(self, next_hop: NextHop) -> tuple[Resolution | str, NextHop | None]:
        address = next_hop.address
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            return "it is not a unicast address", None
        if address in self.own_addresses:
            return "it is an address of this host", None
        if is_link_local(address) and not link_of(address):
            return "a link-local address says no link", None
        if not self.is_kernel_enabled:
            host = self.hosts.best.get(next_hop.prefixes[0])
            is_ours = host is not None and host.kind is HostRouteKind.LOCAL
            return "it is an address of this host" if is_ours else Resolution(0, None, 0), None
        if is_link_local(address):
            return self._on_link(next_hop), None
        if next_hop.is_single_hop:
            return self._connected(next_hop), None
        return self._longest_match(next_hop)

    def _on_link(self, next_hop: NextHop) -> Resolution | str:
        name = link_of(next_hop.address)
        number = next(iter(self.hosts.links_of((name,))), None)
        kinds = {kind for prefix in next_hop.prefixes for kind in self.hosts.kinds_on(prefix, number)}
        if HostRouteKind.LOCAL in kinds:
            return "it is an address of this host"
        if number is None or HostRouteKind.CONNECTED not in kinds:
            return f"link {name} is down, or has no link-local address"
        return Resolution(number, None, 0)

    def _connected(self, next_hop: NextHop) -> Resolution | str:
        for prefix in next_hop.prefixes:
            host = self.hosts.best.get(prefix)
            if host is not None and host.kind is not HostRouteKind.GATEWAY:
                return _through_host(host)
        return "it is on no connected subnet (single-hop eBGP)"

    def _longest_match(self, next_hop: NextHop) -> tuple[Resolution | str, NextHop | None]:
        for prefix in next_hop.prefixes:
            host = self.hosts.best.get(prefix)
            if host is not None:
                return _through_host(host), None
            own = self.own_route(prefix) if prefix[0] else None
            if own is None or own.target is None:
                continue
            match own.target:
                case Blackhole():
                    return f"{prefix_text(prefix)} is discarded here", None
                case OnLink():
                    return f"{prefix_text(prefix)} is a workload of this host", None
            through = own.next_hop
            if through is None or through.resolution is None or self._comes_back(next_hop, own):
                continue
            found = through.resolution
            return Resolution(found.link, found.gateway or through.address, found.cost), through
        return "no route", None

    def _comes_back(self, next_hop: NextHop, own: OwnRoute) -> bool:
        """Tell whether anything the route could select needs `next_hop` in turn (rule 2)."""
        seen: set[NextHop] = set()
        ahead = [*own.possible] if own.next_hop is None else [own.next_hop, *own.possible]
        while ahead:
            at = ahead.pop()
            if at.address == next_hop.address and not at.is_single_hop:
                return True
            if at not in seen:
                seen.add(at)
                ahead += self._needs(at)
        return False

    def _needs(self, next_hop: NextHop) -> list[NextHop]:
        """Return the next hops that this one could resolve through."""
        if next_hop.is_single_hop:
            return []
        found: list[NextHop] = []
        for prefix in next_hop.prefixes[:-1]:  # never our default (rule 3)
            if prefix not in self.hosts.best:
                own = self.own_route(prefix)
                found += own.possible if own is not None else ()
        return found


def _through_host(host: HostRoute) -> Resolution | str:
    match host.kind:
        case HostRouteKind.LOCAL:
            return "it is an address of this host"
        case HostRouteKind.DISCARD:
            return f"{prefix_text(Nlri(host.prefix))} is discarded here"
        case HostRouteKind.CONNECTED:
            return Resolution(host.link, None, 0)
        case HostRouteKind.GATEWAY:
            return Resolution(host.link, host.gateway, host.metric)
