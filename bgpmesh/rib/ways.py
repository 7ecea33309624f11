"""The ways of this host to the next hops of all paths: found anew when they may be others, in the kernel while used.

    host_routes_changed, candidates_moved, selection_moved, know_own ..   a way may be another now; cheap
    resolve()                                                             find out which are
    count                                                                 which of them kernel routes go by

`objects` is what the kernel is to have of them: those in use, and of them only what they resolve to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping

from bgpmesh.delta import Delta
from bgpmesh.rib.nexthop import HostRoutes, NextHop, OwnRoute, Resolver
from bgpmesh.route.nlri import IPAddress, Nlri, link_of
from bgpmesh.route.path import HostRoute, Resolution


class Ways:
    """All next hops by address and kind, what may have changed on the way to them, and who uses them."""

    def __init__(
        self, candidates: Container[Nlri], own_route: Callable[[Nlri], OwnRoute | None], *, is_kernel_enabled: bool
    ) -> None:
        """Begin with none; `candidates` are the prefixes of which we know a path, `own_route` says what it is."""
        self.host = HostRoutes()
        self.objects: Delta[IPAddress, Resolution] = Delta()
        self.has_idle = False  # paths went for good, perhaps the last ones of a next hop
        self._candidates = candidates
        self._resolver = Resolver(self.host, own_route, is_kernel_enabled)
        self._hops: dict[tuple[IPAddress, bool], NextHop] = {}
        self._covers: dict[Nlri, dict[NextHop, None]] = {}  # prefix -> next hops in it
        self._behind: dict[NextHop, dict[NextHop, None]] = {}  # next hop -> those resolved through it
        self._in_doubt: dict[NextHop, None] = {}
        self._is_recursion_in_doubt = False
        self._uses: Counter[NextHop] = Counter()  # kernel routes by next hop

    @property
    def is_in_doubt(self) -> bool:
        """Whether `resolve` has something to do."""
        return bool(self._in_doubt) or self._is_recursion_in_doubt

    # ── next hops come and go ────────────────────────────────────────────────

    def to(self, address: IPAddress, *, is_single_hop: bool) -> NextHop:
        """Return the next hop of paths; a new one is resolved."""
        key = (address, is_single_hop)
        hop = self._hops.get(key)
        if hop is None:
            hop = self._hops[key] = NextHop(*key)
            for prefix in hop.prefixes:
                self._covers.setdefault(prefix, {})[hop] = None
            self._resolve(hop)
        return hop

    def known(self, address: IPAddress) -> list[NextHop]:
        """Return what is known of an address, for single-hop eBGP and for the rest."""
        return [self._hops[key] for key in ((address, False), (address, True)) if key in self._hops]

    def keep(self, live: Collection[NextHop | None]) -> None:
        """Forget all others."""
        self.has_idle = False
        for key, hop in list(self._hops.items()):
            if hop not in live:
                del self._hops[key]
                self._in_doubt.pop(hop, None)
                self._leave(hop, hop.via)
                for prefix in hop.prefixes:
                    del self._covers[prefix][hop]
                    if not self._covers[prefix]:
                        del self._covers[prefix]

    # ── a way may be another ─────────────────────────────────────────────────

    def host_routes_changed(self, added: Iterable[HostRoute], removed: Iterable[HostRoute]) -> Collection[Nlri]:
        """Follow the kernel's other routes; returns the prefixes whose answer changed."""
        changed = self.host.change(added, removed)
        for prefix in changed:
            self._in_doubt.update(self._covers.get(prefix, {}))
        self.candidates_moved(changed)
        return changed

    def links_named(self, names: Mapping[int, str], addresses: Mapping[IPAddress, frozenset[int]]) -> None:
        """Know links by name, and before any route is known where the host's addresses are."""
        if names != self.host.link_names:
            self._in_doubt.update((hop, None) for hop in self._hops.values() if link_of(hop.address))
        self.host.links_named(names, addresses)

    def candidates_moved(self, prefixes: Mapping[Nlri, object]) -> None:
        """Know that other routes of ours are possible here."""
        if not prefixes.keys().isdisjoint(self._covers.keys()):
            self._is_recursion_in_doubt = True

    def selection_moved(self, prefixes: Mapping[Nlri, object]) -> None:
        """Know that another route is the one here."""
        for prefix in self._covers.keys() & prefixes.keys():
            self._in_doubt.update(self._covers[prefix])

    def know_own(self, addresses: set[IPAddress]) -> None:
        """Know the addresses that our sessions use: where the kernel is off nobody else tells them."""
        for address in addresses ^ self._resolver.own_addresses:
            for hop in self.known(address):
                self._in_doubt[hop] = None
                self._is_recursion_in_doubt = True
        self._resolver.own_addresses = addresses

    def resolve(self) -> set[NextHop]:
        """Re-resolve what is in doubt; returns those that can or cannot be reached now, or at another cost.

        Rule 2 of `nexthop` makes chains acyclic once candidates and selections agree; until the Rib has made
        them agree a round may go in circles, so it is bounded and the rest waits.
        """
        if self._is_recursion_in_doubt:
            self._is_recursion_in_doubt = False
            for hop in self._hops.values():
                if not hop.is_single_hop and any(prefix in self._candidates for prefix in hop.prefixes):
                    self._in_doubt[hop] = None
        moved: set[NextHop] = set()
        rounds = 4 * len(self._hops) + 16
        while self._in_doubt and rounds:
            rounds -= 1
            hop = next(iter(self._in_doubt))
            del self._in_doubt[hop]
            before = hop.resolution
            if self._resolve(hop):
                self._in_doubt.update(self._behind.get(hop, {}))
                self._want(hop.address)
                if before is None or hop.resolution is None or before.cost != hop.resolution.cost:
                    moved.add(hop)
        return moved

    def _resolve(self, hop: NextHop) -> bool:
        """Find out anew how to reach a next hop; tell whether anything about it changed."""
        before = hop.via
        has_changed = self._resolver.resolve(hop)
        if hop.via is not before:
            self._leave(hop, before)
            if hop.via is not None:
                self._behind.setdefault(hop.via, {})[hop] = None
        return has_changed

    def _leave(self, hop: NextHop, via: NextHop | None) -> None:
        """Know that a next hop is no longer resolved through that one."""
        if via is not None:
            del self._behind[via][hop]
            if not self._behind[via]:
                del self._behind[via]

    # ── which are used ───────────────────────────────────────────────────────

    def count(self, gone: Iterable[NextHop], come: Iterable[NextHop], routes: int) -> None:
        """Count the kernel routes that no longer go by some next hops, and those that now do."""
        stirred: dict[IPAddress, None] = {}  # of next hops that are used now and were not, or the other way round
        for hop in come:
            if hop not in self._uses:
                stirred[hop.address] = None
            self._uses[hop] += routes
        for hop in gone:
            self._uses[hop] -= routes
            if not self._uses[hop]:
                del self._uses[hop]
                stirred[hop.address] = None
        for address in stirred:
            self._want(address)

    def _want(self, address: IPAddress) -> None:
        """Want the kernel object of a next hop in use to be what it resolves to; lost, it stays until unused.

        Where single-hop eBGP and the rest both use it, and differ on the way, the former decides.
        """
        hops = (self._hops.get((address, is_single_hop)) for is_single_hop in (True, False))
        used = [hop for hop in hops if hop is not None and hop in self._uses]
        if not used:
            if address in self.objects.wanted:
                self.objects.want(address, None)
            return
        resolution = next((hop.resolution for hop in used if hop.resolution is not None), None)
        if resolution is not None and self.objects.wanted.get(address) != resolution:
            self.objects.want(address, resolution)

    # ── views ────────────────────────────────────────────────────────────────

    def unreachable(self) -> list[tuple[IPAddress, str]]:
        """Return the next hops that cannot be reached, each with the reason, in order."""
        lost = {hop.address: hop.reason for hop in self._hops.values() if hop.resolution is None}
        return sorted(lost.items(), key=lambda row: (row[0].version, int(row[0])))

    def towards(self, address: IPAddress) -> Resolution | None:
        """Return how this host sends to an address, None where that is not known."""
        hop = NextHop(address, is_single_hop=False)
        self._resolver.resolve(hop)
        return hop.resolution

    def links_towards(self, addresses: Iterable[IPAddress]) -> set[int]:
        """Return the numbers of the links by which this host sends to these addresses, and to next hops in use."""
        found = [*(hop.resolution for hop in self._uses), *map(self.towards, addresses)]
        return {resolution.link for resolution in found if resolution is not None} - {0}

    def interface_towards(self, address: IPAddress) -> str | None:
        """Return the interface by which this host sends to an address, None where that is not known."""
        resolution = self.towards(address)
        return None if resolution is None else self.host.link_names.get(resolution.link)

    def masquerade_of(self, address: IPAddress, own: Collection[IPAddress]) -> IPAddress | None:
        """Return which of this host's `own` addresses MASQUERADE puts in for what it sends to an address.

        That of the link, and of IPv4 in the subnet of the next hop (inet_select_addr in net/ipv4/devinet.c). None: it
        is another, or not known.
        """
        resolution, host = self.towards(address), self.host
        if resolution is None:
            return None
        subnet = host.connected_subnet(resolution.gateway or address)
        return next(
            (
                each
                for each in own
                if each.version == address.version
                and resolution.link in host.links_with(each)
                and (each.version == 6 or subnet in (None, host.connected_subnet(each)))
            ),
            None,
        )
