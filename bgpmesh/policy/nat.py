"""Address translation: floating addresses of workloads here, and source NAT for what leaves every pool.

    raw PREROUTING
        from a workload, with a floating address of this node as its source: dropped. No workload has one, but a route
        leads to its link, so a check of the reverse path would let it pass
    nat PREROUTING, OUTPUT
        to a floating address of this node  -> bm-fip-dnat       DNAT to its workload
    nat POSTROUTING -> bm-POSTROUTING
        from a workload with one            -> bm-fip-snat       to itself: SNAT to the address it has called;
                                                                 to outside, where asked: SNAT to its `outbound` one
                                            -> bm-nat-outgoing   to inside: as it is; else from a pool that
                                                                 masquerades, to none of what it excludes:
                                                                 MASQUERADE, or SNAT to its source

Inside is every pool (without pools: every pod CIDR) and every floating address, also of other nodes. So what one
workload sends to another keeps its address, which policy matches on. What goes to this node's own addresses never
comes here (it is delivered, not routed on); what goes to another node is outside every pool, and is masqueraded unless
excluded, as in Calico. Like any NAT it is chosen by the first packet of a connection: a change is for connections
that begin after it, and of a floating address that moved the others are cut.

A set is asked before a list of rules is walked, so packets of nobody who has a floating address pay for one look.
Pools with the same options share a set, so that a pool that comes or goes changes sets and no chain.

Rules are kept as what they ask for and what they do. From that their text is made, and what becomes of a packet
is answered (`meets`), so an explanation and the kernel go by the same rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from operator import itemgetter
from typing import assert_never

from bgpmesh.frozen import frozen
from bgpmesh.policy.chains import AddressSet, ChainKey, Rules, identified, name_hash, whole
from bgpmesh.policy.form import End, InSet, IsIn, holds
from bgpmesh.policy.model import Packet
from bgpmesh.route.nlri import IPAddress, IPNetwork
from bgpmesh.workload.floating import Lead
from bgpmesh.workload.pool import Masquerade, Pool

FAMILIES = (4, 6)
Place = tuple[str, str]  # a table, and a built-in chain of it
LIES, ARRIVING, SENDING, LEAVING = (
    ("raw", "PREROUTING"),
    ("nat", "PREROUTING"),
    ("nat", "OUTPUT"),
    ("nat", "POSTROUTING"),
)
_ENTRY = "bm-POSTROUTING"
_DNAT, _SNAT, _OUTGOING = "bm-fip-dnat", "bm-fip-snat", "bm-nat-outgoing"
_Groups = dict[str, tuple[Masquerade, list[IPNetwork]]]  # pools with the same options, by what stands for these
_REWRITES = {"DNAT": " --to-destination", "SNAT": " --to-source", "MASQUERADE": ""}


@frozen
class ComesBy:
    """The packet comes in by a link whose name begins so."""

    prefix: str


@frozen
class NatRule:
    """All terms must hold; the target is iptables' word, or a chain. `to`: the address that is put in."""

    terms: tuple[IsIn | InSet | ComesBy, ...]
    target: str
    to: IPAddress | None = None
    is_random: bool = False  # it gets a port that nobody can guess, and that two packets at a time do not both get

    def __str__(self) -> str:
        """Render as it stands after `-A CHAIN`."""
        to = "" if self.to is None else f"{_REWRITES[self.target]} {self.to}"
        random = " --random-fully" if self.is_random else ""
        return f"{''.join(f'{_term(term)} ' for term in self.terms)}-j {self.target}{to}{random}"


@frozen
class Met:
    """The rule that a packet has met: it is dropped, or gets another destination or source."""

    chain: str
    action: str  # "drop", "dnat", "snat" or "masquerade"
    to: IPAddress | None  # None: dropped, or masqueraded, which is by the address of the link it leaves by


@frozen
class Translation:
    """What address translation comes to on this node: its chains, and the sets by their names."""

    rules: Mapping[ChainKey, tuple[NatRule, ...]] = field(default_factory=dict)
    sets: Mapping[str, AddressSet] = field(default_factory=dict)
    chains: Mapping[ChainKey, Rules] = field(default_factory=dict)  # the same rules as text
    elsewhere: frozenset[IPAddress] = frozenset()  # floating addresses that lead to workloads of other nodes

    def meets(self, packet: Packet, place: Place, chain: str = "") -> Met | None:
        """Return the rule that decides what becomes of the first packet of a connection at a place, if any does."""
        table, entry = place
        for rule in self.rules.get(ChainKey(packet.family, table, chain or entry), ()):
            if not all(self._holds(term, packet) for term in rule.terms):
                continue
            if rule.target == "RETURN":
                return None
            if rule.target == "DROP" or rule.target in _REWRITES:
                return Met(chain or entry, rule.target.lower(), rule.to)
            if (met := self.meets(packet, place, rule.target)) is not None:
                return met
        return None

    def _holds(self, term: IsIn | InSet | ComesBy, packet: Packet) -> bool:
        if isinstance(term, ComesBy):
            return packet.into is not None and packet.into.startswith(term.prefix)
        return holds(term, packet, self.sets)


NOTHING = Translation()


def translation(
    pools: Sequence[Pool],
    leads: Iterable[Lead] = (),
    floating: Iterable[IPAddress] = (),
    blocks: Iterable[IPNetwork] = (),
    prefix: str = "bgpm",
) -> Translation:
    """Return the translation; nothing for a family in which nothing is to be translated.

    `leads` are the floating addresses of workloads here, `floating` all that are known; `blocks` are the pod CIDRs,
    which a file without pools has outside of any; `prefix` is that of workloads' links.
    """
    found: dict[ChainKey, tuple[NatRule, ...]] = {}
    sets: dict[str, AddressSet] = {}
    leads = sorted(leads, key=lambda lead: int(lead.external))
    own = {lead.external for lead in leads}
    floating = {*floating, *own}
    for family in FAMILIES:
        here = [lead for lead in leads if lead.external.version == family]
        groups: _Groups = {}
        for pool in pools:
            if pool.cidr.version == family and pool.masquerade is not None:
                groups.setdefault(_group_name(pool.masquerade), (pool.masquerade, []))[1].append(pool.cidr)
        ways: dict[str, list[NatRule]] = {}
        entry: list[NatRule] = []
        if here:
            sets[external_set(family)] = _hosts(family, (lead.external for lead in here))
            sets[_internal_set(family)] = _hosts(family, (lead.internal for lead in here))
            inwards = NatRule((InSet(End.DESTINATION, external_set(family)),), _DNAT)
            ways |= {"PREROUTING": [inwards], "OUTPUT": [inwards], _DNAT: list(map(_inwards, here))}
            ways[_SNAT] = [*_outwards(here, family)]
            entry.append(NatRule((InSet(End.SOURCE, _internal_set(family)),), _SNAT))
        if groups:
            ways[_OUTGOING], more = _outgoing(family, groups)
            sets |= more
            entry.append(NatRule((), _OUTGOING))
        if groups or any(lead.is_outbound for lead in here):
            ranges = [pool.cidr for pool in pools if pool.cidr.version == family] or blocks
            inside = (*ranges, *map(ipaddress.ip_network, floating))
            sets[inside_set(family)] = AddressSet(family, whole(each for each in inside if each.version == family))
        if entry:
            ways = {"POSTROUTING": [NatRule((), _ENTRY)], _ENTRY: entry, **ways}
        if here:
            lie = NatRule((ComesBy(prefix), InSet(End.SOURCE, external_set(family))), "DROP")
            found[ChainKey(family, *LIES)] = (lie,)
        found |= {ChainKey(family, "nat", chain): tuple(rules) for chain, rules in ways.items()}
    chains = {key: identified(key.chain, map(str, rules)) for key, rules in found.items()}
    return Translation(found, sets, chains, frozenset(floating - own))


def floating_chains(family: int) -> tuple[ChainKey, ...]:
    """Return the chains that a floating address of a workload here needs."""
    chains = ("PREROUTING", "OUTPUT", "POSTROUTING", _ENTRY, _DNAT, _SNAT)
    return (ChainKey(family, *LIES), *(ChainKey(family, "nat", chain) for chain in chains))


def external_set(family: int) -> str:
    """Return the name of the set of floating addresses of workloads here."""
    return f"bm-{family}-fip"


def inside_set(family: int) -> str:
    """Return the name of the set of what is inside: pools and floating addresses."""
    return f"bm-{family}-inside"


def _internal_set(family: int) -> str:
    return f"bm-{family}-fip-to"


def _inwards(lead: Lead) -> NatRule:
    return NatRule((_is(End.DESTINATION, lead.external),), "DNAT", lead.internal)


def _outwards(here: Sequence[Lead], family: int) -> Iterator[NatRule]:
    """Yield, for each workload with a floating address, what its packets leave with.

    A workload that calls an address of its own sees itself called by that one: by which of several does not matter
    to the connection, which is translated back as it was translated.
    """
    by_internal: dict[IPAddress, Lead] = {}
    for lead in here:
        if lead.is_outbound or lead.internal not in by_internal:
            by_internal[lead.internal] = lead
    for internal, lead in sorted(by_internal.items(), key=lambda row: int(row[0])):
        is_own = _is(End.SOURCE, internal)
        yield NatRule((is_own, _is(End.DESTINATION, internal)), "SNAT", lead.external)
        if lead.is_outbound:
            is_outside = InSet(End.DESTINATION, inside_set(family), is_negated=True)
            yield NatRule((is_own, is_outside), "SNAT", lead.external)


def _outgoing(family: int, groups: _Groups) -> tuple[list[NatRule], dict[str, AddressSet]]:
    """Return the rules for pools that masquerade, and their sets."""
    sets: dict[str, AddressSet] = {}
    rules = [NatRule((InSet(End.DESTINATION, inside_set(family)),), "RETURN")]
    for name, (masquerade, cidrs) in sorted(groups.items(), key=itemgetter(0)):
        sources, kept = f"bm-{family}-from-{name}", f"bm-{family}-keep-{name}"
        sets[sources] = AddressSet(family, whole(cidrs))
        terms = [InSet(End.SOURCE, sources)]
        if masquerade.exclude:
            sets[kept] = AddressSet(family, whole(masquerade.exclude))
            terms.append(InSet(End.DESTINATION, kept, is_negated=True))
        target = "MASQUERADE" if masquerade.source is None else "SNAT"
        rules.append(NatRule(tuple(terms), target, masquerade.source, is_random=True))
    return rules, sets


def _hosts(family: int, addresses: Iterable[IPAddress]) -> AddressSet:
    return AddressSet(family, whole(map(ipaddress.ip_network, addresses)))


def _group_name(masquerade: Masquerade) -> str:
    return name_hash(f"{masquerade.source} {' '.join(sorted(map(str, masquerade.exclude)))}")


def _is(end: End, address: IPAddress) -> IsIn:
    return IsIn(end, ipaddress.ip_network(address))


def _term(term: IsIn | InSet | ComesBy) -> str:
    match term:
        case IsIn(end, net):  # a host's, see `_is`
            return f"-{end.value[0]} {net.network_address}"
        case InSet(end, name, is_negated):
            return f"-m set {'! ' if is_negated else ''}--match-set {name} {end.value}"
        case ComesBy(prefix):
            return f"-i {prefix}+"
    assert_never(term)
