"""Where floating addresses lead on this node: what is wanted, what the packet filter has, and whose connections to cut.

A move goes through three gates, each of which is a fact that the kernel told: the chains and the set of a family are as
they are wanted (`follow`), connections that led elsewhere are cut, so that none comes back the old way
(`connections`), and the route of the workload is written (`Local.lead`). The address is announced from then on, and
goes on to be while it moves.
"""

from __future__ import annotations

from collections.abc import Mapping

from bgpmesh.delta import Delta
from bgpmesh.events import Configured, ConnectionsCut
from bgpmesh.local import Local
from bgpmesh.notes import Notes
from bgpmesh.policy.chains import AddressSet, ChainKey, Rules
from bgpmesh.policy.nat import FAMILIES, NOTHING, Translation, external_set, floating_chains, inside_set, translation
from bgpmesh.rib.rib import Rib
from bgpmesh.route.nlri import IPAddress, Nlri, host_nlri, network_of
from bgpmesh.workload.floating import Lead


class Leads:
    """The floating addresses of one node, as its packet filter has them; `chains` and `sets` are that, to be read."""

    def __init__(
        self, rib: Rib, local: Local, notes: Notes, chains: Delta[ChainKey, Rules], sets: Delta[str, AddressSet]
    ) -> None:
        self.connections: Delta[IPAddress, IPAddress] = Delta()  # floating address -> all that its connections lead to
        self.known: frozenset[IPAddress] = frozenset()  # of the whole cluster
        self.wanted: dict[IPAddress, Lead] = {}
        self._rib = rib
        self._local = local
        self._notes = notes
        self._chains = chains
        self._sets = sets
        self._made: dict[IPAddress, Lead] = {}  # as the packet filter has it
        self._found_inside: frozenset[Nlri] = frozenset()  # at start, until this node is in sync and knows them itself
        self.translation = NOTHING  # what addresses are translated to here
        self._said: tuple[object, ...] = ()  # what that was last made from

    def translate(self, configured: Configured) -> Translation:
        """Return the address translation that pools, floating addresses and workloads come to."""
        before = self.wanted
        leads = self._local.floating.leads(self._local.endpoints, self._local.floating_taken())
        self.wanted = leads if configured.kernel_enabled else {}
        if self.wanted != before:
            self._lead()
        others = (network_of(nlri).network_address for nlri in self._rib.floating | self._found_inside)
        self.known = frozenset((*self._local.floating.in_force, *others))
        if not configured.kernel_enabled:
            return NOTHING
        space, prefix = configured.around.space, configured.interface_prefix
        said = (configured.pools, tuple(leads.values()), self.known, space, prefix)
        if said != self._said:  # a workload that comes or goes has no floating address, most often
            self._said, self.translation = said, translation(*said)
        return self.translation

    def hear(self) -> bool:
        """Tell whether other nodes have other floating addresses than before, by what is heard and held; once."""
        is_over = bool(self._found_inside) and not self._rib.fib.keep_unwanted
        if not self._rib.is_floating_stirred and not is_over:
            return False
        self._rib.is_floating_stirred = False
        if not self._rib.fib.keep_unwanted:
            self._found_inside = frozenset()
        return True

    def follow(self) -> None:
        """Follow what the packet filter does with floating addresses."""
        for family in FAMILIES:
            name = external_set(family)
            if self._sets.actual.get(name) != self._sets.wanted.get(name) or any(
                self._chains.actual.get(chain) != self._chains.wanted.get(chain) for chain in floating_chains(family)
            ):
                continue
            new = {address: lead for address, lead in self.wanted.items() if address.version == family}
            old = {address: lead for address, lead in self._made.items() if address.version == family}
            for address in old.keys() - new.keys():
                del self._made[address]
                self.connections.want(address, None)
            for address, lead in new.items():
                self._made[address] = lead
                if self.connections.wanted.get(address) != lead.internal:
                    self.connections.want(address, lead.internal)
            if old != new:
                self._lead()

    def adopt(self, sets: Mapping[str, AddressSet]) -> None:
        """Take what an earlier life has left: what it knew as inside, and which floating addresses led to workloads.

        The first holds until this node is in sync and knows the others' itself. What has become of the second while
        nobody looked is not known, so their connections count as leading nowhere that is right.
        """
        for family in FAMILIES:
            inside, externals = (sets.get(name) for name in (inside_set(family), external_set(family)))
            self._found_inside |= _hosts(inside)
            for nlri in _hosts(externals):
                address = network_of(nlri).network_address
                self.connections.observe(address, address)

    def connections_cut(self, event: ConnectionsCut, now: float) -> None:
        """Take note of which floating addresses have no connection left that leads elsewhere."""
        recovered = [address for address in event.done if address in self.connections.refused]
        self.connections.acknowledge(event.done)
        self._notes.refused(self.connections, event.failed, "connections.uncut", now, word="address", show=str)
        for address in recovered:
            self._notes.add("connections.cut", address=address)

    def problem(self, external: IPAddress) -> str | None:
        """Return why a floating address of this node is not as it was said ("" while it is under way), None once it is.

        As it was said is: packets are led to the workload, connections that led elsewhere are cut, peers hear of it.
        """
        problems = [reason for address, reason in self._local.floating_problems() if address == external]
        if problems:
            return problems[0]
        lead = self.wanted.get(external)
        if lead is None:
            return None  # the workload is on another node
        refusals = [self._chains.refused.get(chain) for chain in floating_chains(external.version)]
        refusals += [self._sets.refused.get(external_set(external.version)), self.connections.refused.get(external)]
        if (refusal := next(filter(None, refusals), None)) is not None:
            return refusal.reason
        is_led = self._made.get(external) == lead and self.connections.actual.get(external) == lead.internal
        route = self._local.routes.get(host_nlri(external))
        return None if is_led and route is not None and route.is_advertised else ""

    def is_gone(self, external: IPAddress) -> bool:
        """Tell whether nothing of a floating address is left on this node: no translation, no connection, no route."""
        is_led = external in self._made or external in self.connections.actual
        return not is_led and host_nlri(external) not in self._local.routes

    def _lead(self) -> None:
        self._local.lead({external: lead for external, lead in self._made.items() if external in self.wanted})


def _hosts(found: AddressSet | None) -> set[Nlri]:
    """Return the single addresses in a set of prefixes."""
    members = () if found is None else found.members
    return {Nlri(member) for member in members if member[0] == 8 * (len(member) - 1)}
