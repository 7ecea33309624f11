"""What this node itself has: workloads with their addresses and links, and the prefixes that it originates.

What may not happen here:
 1. A workload's own announcement leaves before its link and its route are acknowledged, or its link goes before its
    route.
 2. A link is open that nobody has said is protected (`guard`), and that was not found so.
 3. A floating address is announced that leads nowhere (`lead`), or before the route of its workload.

Who is protected, what others are to hear of a workload and where floating addresses lead is worked out elsewhere
(`packets.py`), and told here. What is originated follows from all that is told, never from the order of the telling.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from bgpmesh.delta import Delta
from bgpmesh.errors import ConfigError, refused
from bgpmesh.events import Configured, Level, LinkObserved, LinksRead, LinkWritten, ProcessEnded, ProcessSpoke
from bgpmesh.frozen import frozen
from bgpmesh.notes import Notes
from bgpmesh.policy.identity import Sayings
from bgpmesh.rib.rib import Rib
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.claim import Claims, Kind, claim
from bgpmesh.route.nlri import IPAddress, Nlri, host_nlri, network_of, nlri_of, prefix_text
from bgpmesh.route.path import Blackhole, OnLink, Target
from bgpmesh.said import Said
from bgpmesh.workload.endpoint import Endpoint, LinkSpec, endpoint_of, link_of
from bgpmesh.workload.floating import FloatingIp, FloatingIps, Lead
from bgpmesh.workload.pool import Addresses, Pool

# Of some workloads, what the nodes of the cluster are to hear of each by its key; None: nothing of any.
ClaimsOf = Callable[[Iterable[Endpoint]], Mapping[str, Claims] | None]


@frozen
class LocalRoute:
    """A prefix of this node: what the kernel does with it and whether peers hear of it."""

    target: Target | None
    is_advertised: bool
    attributes: PathAttributes | None = None
    is_for_cluster: bool = False  # it is announced to the nodes of the cluster only
    has_waited: bool = False  # it needs no route of its own in the kernel to be announced
    is_movable: bool = False  # nothing that runs here ends when it is withdrawn


class Local:
    """The workloads and the prefixes of one node.

    With `adopt_endpoints` the workloads are not remembered: links of ours that are found at start tell them.
    """

    def __init__(self, configured: Configured, rib: Rib, notes: Notes, *, adopt_endpoints: bool) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.addresses = Addresses()
        self.floating = FloatingIps()  # as they are said; `packets.leads` is what they come to
        self.links: Delta[str, LinkSpec] = Delta()
        self.routes: dict[Nlri, LocalRoute] = {}
        self.sayings = Sayings()
        self.said = Said()
        self._configured = configured
        self._rib = rib
        self._notes = notes
        self._adopt_endpoints = adopt_endpoints
        self._specs: dict[str, LinkSpec] = {}  # by interface: what the link of a workload is when it is open
        self._keys: dict[str, str] = {}  # by interface: of the workload
        self._closed: set[str] = set()  # links of workloads that chains do not protect yet
        self._leaving: dict[str, Endpoint] = {}  # by interface: removed, and the link stands until the routes are gone
        self._disputed: set[str] = set()  # links of ours that no workload can be adopted from
        self._leads: Mapping[IPAddress, Lead] = {}  # where floating addresses lead here, the packet filter says so
        self._of_floating = PathAttributes()  # what they are announced with
        self._announce_when_written: set[Nlri] = set()
        self._awaited_by_floating: set[Nlri] = set()  # routes of workloads, before their addresses are announced
        self._externals: set[Nlri] = set()  # floating addresses that have a route here

    @property
    def has_links(self) -> bool:
        """Whether a link of ours is there, or is to be."""
        return bool(self.endpoints or self.links.actual or self._disputed)

    def configure(self, new: Configured) -> None:
        """Take the configuration; what is originated by it follows with `say`."""
        self._configured = new
        self.floating.configure(new.floating)
        saying = claim(new.cluster_asn or new.asn, Kind.FLOATING)
        if self._of_floating.large_communities != (saying,):
            self._of_floating = PathAttributes(large_communities=(saying,))
        self._take_addresses()
        self.said.configure(new)
        for address, key in self.addresses.in_use().items():
            self._warn_of_taken(key, address)

    # ── addresses ────────────────────────────────────────────────────────────

    def keep_floating(self, floating: Iterable[FloatingIp]) -> None:
        """Take what commands have made of floating addresses: all of it."""
        self.floating.keep(floating)
        self._take_addresses()
        self._originate_at(self.said.nlris)

    def floating_taken(self, *more: IPAddress) -> dict[IPAddress, str]:
        """Return who on this node has each address that can lead nowhere, being its own; `more` are asked for too."""
        own = (address for address in (*self.floating.in_force, *more) if self._rib.host.is_own(host_nlri(address)))
        return dict.fromkeys(own, "this host") | dict(self.addresses.in_use())

    def floating_problems(self) -> list[tuple[IPAddress, str]]:
        """Return which floating addresses cannot be as they were said on this node, each with the reason."""
        return list(self.floating.problems(self.endpoints, self.floating_taken()))

    def is_announced(self, external: IPAddress) -> bool:
        """Tell whether this node announces a floating address."""
        route = self.routes.get(host_nlri(external))
        return route is not None and route.is_advertised and route.attributes is self._of_floating

    def _take_addresses(self) -> None:
        """Have addresses given as configuration and commands say."""
        new = self._configured
        taken = {address: f"floating address of {each.workload}" for address, each in self.floating.in_force.items()}
        # A peer within our blocks is a workload that speaks BGP: it asks for its address by name.
        promised = {peer.address for peer in new.peers}
        self.addresses.configure(new.pools, new.pod_cidrs, taken | dict(new.taken), promised)

    def _warn_of_taken(self, key: str, address: IPAddress) -> None:
        """Say that a workload has the address of another host: a reload, or an older version, let it be so."""
        if (holder := self._configured.taken.get(address)) is not None:
            reason = f"also {holder}"
            self._notes.add("endpoint.address-taken", Level.WARNING, endpoint=key, address=address, reason=reason)

    # ── workloads ────────────────────────────────────────────────────────────

    def add(self, endpoint: Endpoint, claims: Mapping[str, Claims] | None) -> None:
        """Have a workload, or the same with other labels; `claims` is what the cluster is to hear of it.

        Raises ConfigError where its addresses are another's, and changes nothing then.
        """
        known = self.endpoints.get(endpoint.key)
        is_where_it_was = known is not None and known.addresses == endpoint.addresses  # and has other labels
        self.addresses.claim(endpoint.key, endpoint.addresses)
        self.endpoints[endpoint.key] = endpoint
        self._specs[endpoint.interface], self._keys[endpoint.interface] = link_of(endpoint), endpoint.key
        self._leaving.pop(endpoint.interface, None)
        self._disputed.discard(endpoint.interface)
        if known is None:
            self._closed.add(endpoint.interface)
        self._take_claims(claims)
        self._want_link(endpoint)
        for address in endpoint.addresses:
            self._warn_of_taken(endpoint.key, address)
        if not is_where_it_was or self._configured.has_identity:  # its labels say nothing to routes, but for identity
            self._originate([each for each in (known, endpoint) if each is not None])

    def remove(self, key: str, now: float) -> bool:
        """Have a workload no longer; False where there is none: two removed it at once, or an addition had failed."""
        endpoint = self.endpoints.pop(key, None)
        if endpoint is None:
            return False
        self.addresses.release(key, self._believed_until(endpoint, now))
        self.sayings.forget(key)
        self._originate((endpoint,))
        self._leaving[endpoint.interface] = endpoint
        return True

    def problem(self, key: str, why_closed: str) -> str | None:
        """Return why a workload is not connected yet ("" while it is under way), None once it is.

        `why_closed` is what keeps links closed, "" if nothing does.
        """
        endpoint = self.endpoints[key]
        if (refusal := self.links.refused.get(endpoint.interface)) is not None:
            return refusal.reason
        if endpoint.interface in self._closed and why_closed:
            return why_closed
        if not self._is_linked(endpoint):
            return ""
        for nlri in map(host_nlri, endpoint.addresses):
            if (refusal := self._rib.fib.refused.get(nlri)) is not None:
                return refusal.reason
            said, _, why = self._rib.kernel_reason(nlri).partition(": ")
            if said == "none" and why:  # nor will there ever be one
                return f"no route to {prefix_text(nlri)}: {why}"
            if not self._is_written(nlri, OnLink(endpoint.interface)):
                return ""
        return None

    def say(self, claims: Mapping[str, Claims] | None) -> None:
        """Have the nodes of the cluster hear this of some workloads here; None: nothing of any."""
        self._take_claims(claims)
        self._originate()

    def _take_claims(self, claims: Mapping[str, Claims] | None) -> None:
        if claims is None:
            self.sayings = Sayings()
            return
        configured = self._configured
        for key in self.sayings.take(claims, configured.cluster_asn or configured.asn):
            self._notes.add("identity.too-long", Level.WARNING, endpoint=key, reason=self.sayings.too_long[key])

    def _believed_until(self, endpoint: Endpoint, now: float) -> float:
        """Return how long a node that does not hear us may take the addresses for this workload's (RFC 4724 §4.2)."""
        said = (route for nlri in map(host_nlri, endpoint.addresses) if (route := self.routes.get(nlri)) is not None)
        if not self._configured.has_identity or not any(route.attributes is not None for route in said):
            return now
        templates = (each.template for each in self._configured.ranges)
        peers = [peer for peer in (*self._configured.peers, *templates) if peer.in_cluster]
        return now + max((peer.hold_time + peer.graceful_restart for peer in peers), default=0)

    # ── links ────────────────────────────────────────────────────────────────

    def guard(self, *, is_whole: bool, missing: str) -> None:
        """Open the links of workloads if all is in place that protects them; close all while something is missing.

        `missing` is what cannot be had again, in words; "" if nothing is.
        """
        if not missing and not (is_whole and self._closed):
            return
        for endpoint in self.endpoints.values():
            is_closed = endpoint.interface in self._closed
            if missing and not is_closed:
                self._closed.add(endpoint.interface)
                self._notes.add("endpoint.closed", Level.ERROR, endpoint=endpoint.key, reason=missing)
            elif is_whole and is_closed:
                self._closed.discard(endpoint.interface)
            else:
                continue
            self._want_link(endpoint)

    def links_read(self, event: LinksRead, claims_of: ClaimsOf, *, is_policy_known: bool) -> None:
        """Take a read-back; the first one tells of workloads where they are not remembered.

        Where it is not known who is protected by what, a link that is found open stays so.
        """
        links = event.links
        if self._adopt_endpoints:
            self._adopt_endpoints = False
            for endpoint in filter(None, map(endpoint_of, links.values())):
                self._adopt(endpoint, claims_of)
        self._disputed &= links.keys()
        self.links.observe_all({name: link for name, link in links.items() if name not in self._disputed})
        if not is_policy_known:
            for endpoint in self.endpoints.values():
                if (link := links.get(endpoint.interface)) is not None and link.is_open:
                    self._closed.discard(endpoint.interface)
                    self._want_link(endpoint)
        self._originate()

    def link_observed(self, event: LinkObserved) -> None:
        """Take note of what somebody else has made of a link."""
        interface, link = event.interface, event.link
        if interface in self._disputed:
            return
        self.links.observe(interface, link)
        if interface not in self._leaving and self.links.wanted.get(interface) != link:
            self._notes.drifted(1, "changed by somebody else", interface=interface)
        self._originate_on(interface)

    def link_written(self, event: LinkWritten, now: float) -> None:
        """Take note of whether a link is as wanted."""
        interface, failure = event.interface, event.failure
        if failure is not None:
            self._notes.refused(self.links, {interface: failure}, "link.refused", now, word="interface", show=str)
        else:
            was_refused = interface in self.links.refused
            self.links.acknowledge((interface,))
            if was_refused:
                self._notes.add("link.recovered", interface=interface)
        self._originate_on(interface)

    def remove_links(self) -> None:
        """Want the links of removed workloads gone, each once its host routes are (rule 1).

        With the link the kernel would drop them in silence, which the next read-back takes for drift. A daemon that
        ends before finds at its next start a link that nobody wants.
        """
        if not self._leaving:
            return  # as after most events
        for interface, endpoint in list(self._leaving.items()):
            if not self._is_routed(endpoint):
                del self._leaving[interface]
                self._closed.discard(interface)
                del self._specs[interface], self._keys[interface]
                self.links.want(interface, None)

    def _is_linked(self, endpoint: Endpoint) -> bool:
        return self.links.actual.get(endpoint.interface) == self._specs[endpoint.interface]

    def _is_routed(self, endpoint: Endpoint) -> bool:
        """Tell whether a removed workload has its link, and a route on it that is about to be deleted."""
        fib, target = self._rib.fib, OnLink(endpoint.interface)
        addresses = (*endpoint.addresses, *(each.external for each in self.floating.of(endpoint.key)))
        return (
            self._is_linked(endpoint)  # or it would be made again, to be removed
            and not fib.keep_unwanted  # nothing is deleted before this node is in sync
            and any(fib.actual.get(n) == target and n not in fib.refused for n in map(host_nlri, addresses))
        )

    def _want_link(self, endpoint: Endpoint) -> None:
        spec = self._specs[endpoint.interface]
        is_closed = endpoint.interface in self._closed
        self.links.want(endpoint.interface, replace(spec, is_open=False) if is_closed else spec)

    def _adopt(self, endpoint: Endpoint, claims_of: ClaimsOf) -> None:
        """Know a workload again by its link.

        Where another has its name or an address, one of the two aliases is no longer true, and nothing tells which. The
        second link is left as it is, neither used nor deleted, since a workload may live on it: removing the wrong
        one and adding the right one then costs no packet. The next start has a record again, and goes by that.
        """
        key, interface = endpoint.key, endpoint.interface
        if (known := self.endpoints.get(key)) is not None and known.interface == interface:
            return
        try:
            if known is not None:
                raise refused("name", key, f"its link is {known.interface}")
            self.add(endpoint, claims_of((endpoint,)))
        except ConfigError as error:
            self._disputed.add(interface)
            reason = f"{error}; the link is left as it is until the next start"
            self._notes.add("endpoint.not-adopted", Level.WARNING, endpoint=key, interface=interface, reason=reason)
        else:
            self._notes.add("endpoint.adopted", endpoint=key, interface=interface)

    # ── what programs announce ───────────────────────────────────────────────

    def process_spoke(self, event: ProcessSpoke) -> None:
        """Announce or withdraw what a program says."""
        self._originate_at(self.said.spoke(event.process, event.attributes, event.nlris))

    def process_ended(self, event: ProcessEnded) -> None:
        """Withdraw all that a program had announced."""
        self._originate_at(self.said.ended(event.process))

    def why_not_announced(self, nlri: Nlri) -> str:
        """Return why a program may not announce a prefix, as things stand; "" where it may."""
        network = network_of(nlri)
        if network.prefixlen == network.max_prefixlen:
            address = network.network_address
            if (holder := self.addresses.in_use().get(address)) is not None:
                return f"the address of workload {holder}"
            if address in self.floating.in_force:
                return f"floating address of {self.floating.in_force[address].workload}"
        return self.said.refusal(nlri)

    def process_of(self, nlri: Nlri) -> str | None:
        """Return the program that has this node announce a prefix, None where it is none."""
        found = self.said.of(nlri)
        return None if found is None or self.why_not_announced(nlri) else found[0]

    def _originate_at(self, nlris: Collection[Nlri]) -> None:
        """Make the RIB's local prefixes what they should be there."""
        if nlris:
            in_use = self.addresses.in_use()
            keys = dict.fromkeys(in_use.get(network_of(nlri).network_address, "") for nlri in nlris)  # each once
            self._originate([self.endpoints[key] for key in keys if key in self.endpoints], nlris)

    # ── what is originated ───────────────────────────────────────────────────

    def lead(self, leads: Mapping[IPAddress, Lead]) -> None:
        """Have these floating addresses announced, and no others: the packet filter leads them so."""
        self._leads = leads
        self._originate(())

    def routes_read(self) -> None:
        """Announce what waited for routes that a read-back has found."""
        waiting = self._announce_when_written | self._awaited_by_floating
        self.routes_written({n for n in waiting if self._is_written(n, self.routes[n].target)})

    def routes_written(self, nlris: Collection[Nlri]) -> None:
        """Announce what waited for these routes."""
        if self._announce_when_written:
            for nlri in self._announce_when_written.intersection(nlris):
                self._announce_when_written.discard(nlri)
                self._originate_one(nlri, self.routes[nlri], advertise=True)
        if self._awaited_by_floating and not self._awaited_by_floating.isdisjoint(nlris):
            self._originate(())

    def _originate(self, touched: Collection[Endpoint] | None = None, nlris: Collection[Nlri] = ()) -> None:
        """Make the RIB's local prefixes what configuration, workloads and programs say.

        `touched`: the workloads of which alone anything has changed, as they were and as they are, and `nlris`, of
        which programs have spoken; None: all may have.
        """
        if touched is None:
            scope, endpoints = set(self.routes), list(self.endpoints.values())
        else:
            scope = {host_nlri(address) for endpoint in touched for address in endpoint.addresses}
            scope |= self._externals | set(nlris)
            endpoints = [endpoint for endpoint in touched if self.endpoints.get(endpoint.key) is endpoint]
        wanted = self._wanted(scope, endpoints, is_all=touched is None)
        for nlri in (scope & self.routes.keys()) - wanted.keys():
            self._rib.retire(nlri)
            self._announce_when_written.discard(nlri)
            del self.routes[nlri]
        for nlri, route in wanted.items():
            if self.routes.get(nlri) != route:
                waits = isinstance(route.target, OnLink) and not self._is_written(nlri, route.target)
                waits = waits and not route.has_waited  # a floating address: for its workload's route
                self._originate_one(nlri, route, advertise=route.is_advertised and not waits)
                if waits and route.is_advertised:
                    self._announce_when_written.add(nlri)
                self.routes[nlri] = route

    def _originate_on(self, interface: str) -> None:
        """Do so where something has become of a link."""
        endpoint = self.endpoints.get(self._keys.get(interface, "")) or self._leaving.get(interface)
        if endpoint is not None:
            self._originate((endpoint,))

    def _originate_one(self, nlri: Nlri, route: LocalRoute, *, advertise: bool) -> None:
        self._rib.originate(
            nlri,
            route.target,
            advertise=advertise,
            attributes=route.attributes,
            is_for_cluster=route.is_for_cluster,
            is_movable=route.is_movable,
        )

    def _wanted(
        self, scope: Collection[Nlri], endpoints: Iterable[Endpoint], *, is_all: bool
    ) -> dict[Nlri, LocalRoute]:
        """Return what is to be originated of a scope by these workloads and by programs, and all floating addresses.

        What a program says of a prefix that is a workload's, a floating address or the configuration's counts for
        nothing.
        """
        configured = self._configured
        routes = {
            nlri_of(cidr): LocalRoute(Blackhole(), _is_pool_advertised(configured.pools, cidr.network_address))
            for cidr in configured.pod_cidrs
        }
        for network in configured.advertise:
            routes[nlri_of(network)] = LocalRoute(None, is_advertised=True, is_movable=True)
        if not is_all:
            routes = {nlri: route for nlri, route in routes.items() if nlri in scope}
        for endpoint in filter(self._is_linked, endpoints):  # the link comes first
            for address in endpoint.addresses:
                nlri = host_nlri(address)
                routes[nlri] = self._route_of(endpoint, address, routes.get(nlri))
        self._awaited_by_floating.clear()
        self._externals.clear()
        for external, lead in self._leads.items():
            internal, target = host_nlri(lead.internal), OnLink(lead.interface)
            route = routes.get(internal) if is_all or internal in scope else self.routes.get(internal)
            if route is not None and route.target == target:
                is_advertised = self._is_written(internal, target)
                routes[host_nlri(external)] = LocalRoute(target, is_advertised, self._of_floating, has_waited=True)
                self._awaited_by_floating.add(internal)
                self._externals.add(host_nlri(external))
        for nlri in self.said.nlris if is_all else scope:
            if (said := self.said.of(nlri)) is not None and not self.why_not_announced(nlri):
                routes[nlri] = LocalRoute(None, is_advertised=True, attributes=said[1], is_movable=True)
        return routes

    def _route_of(self, endpoint: Endpoint, address: IPAddress, was: LocalRoute | None) -> LocalRoute:
        """Return the route of a workload's address; `was` is what else that is here: a block, or advertised by name."""
        is_covered = self.addresses.is_covered(address)
        is_own = not is_covered and _is_pool_advertised(self._configured.pools, address)
        is_advertised = is_own or (was is not None and was.is_advertised)
        # Other nodes believe what is said of an address in a block of ours that is more than the address.
        is_block = was is not None and isinstance(was.target, Blackhole)
        saying = self.sayings.by_key.get(endpoint.key) if is_covered and not is_block else None
        return LocalRoute(
            OnLink(endpoint.interface),
            is_advertised or saying is not None,
            saying,
            is_for_cluster=saying is not None and not is_advertised,
        )

    def _is_written(self, nlri: Nlri, target: Target | None) -> bool:
        return not self._configured.kernel_enabled or self._rib.fib.actual.get(nlri) == target


def _is_pool_advertised(pools: Sequence[Pool], address: IPAddress) -> bool:
    """Tell whether the pool around an address is announced; an address in no pool is."""
    return all(pool.advertise for pool in pools if address in pool.cidr)
