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
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from bgpmesh.policy.chains import AddressSet, ChainKey, Rules, identified, name_hash, whole
from bgpmesh.route.nlri import IPAddress, IPNetwork
from bgpmesh.workload.floating import Lead
from bgpmesh.workload.pool import Masquerade, Pool

FAMILIES = (4, 6)
_TABLE, _ENTRY = "nat", "bm-POSTROUTING"
_DNAT, _SNAT, _OUTGOING = "bm-fip-dnat", "bm-fip-snat", "bm-nat-outgoing"


def translation(
    pools: Sequence[Pool],
    leads: Iterable[Lead] = (),
    floating: Iterable[IPAddress] = (),
    blocks: Iterable[IPNetwork] = (),
    prefix: str = "bgpm",
) -> tuple[dict[ChainKey, Rules], dict[str, AddressSet]]:
    """Return the chains and the sets by their names; nothing for a family in which nothing is to be translated.

    `leads` are the floating addresses of workloads here, `floating` all that are known; `blocks` are the pod CIDRs,
    which a file without pools has outside of any; `prefix` is that of workloads' links.
    """
    chains: dict[ChainKey, Rules] = {}
    sets: dict[str, AddressSet] = {}
    leads = sorted(leads, key=lambda lead: int(lead.external))
    floating = {*floating, *(lead.external for lead in leads)}
    for family in FAMILIES:
        here = [lead for lead in leads if lead.external.version == family]
        groups: dict[Masquerade, list[IPNetwork]] = {}
        for pool in pools:
            if pool.cidr.version == family and pool.masquerade is not None:
                groups.setdefault(pool.masquerade, []).append(pool.cidr)
        ways: dict[str, list[str]] = {}
        entry: list[str] = []
        if here:
            sets[external_set(family)] = _hosts(family, (lead.external for lead in here))
            sets[_internal_set(family)] = _hosts(family, (lead.internal for lead in here))
            inwards = f"-m set --match-set {external_set(family)} dst -j {_DNAT}"
            ways |= {"PREROUTING": [inwards], "OUTPUT": [inwards], _DNAT: list(map(_inwards, here))}
            ways[_SNAT] = [*_outwards(here, family)]
            entry.append(f"-m set --match-set {_internal_set(family)} src -j {_SNAT}")
        if groups:
            ways[_OUTGOING], more = _outgoing(family, groups)
            sets |= more
            entry.append(f"-j {_OUTGOING}")
        if groups or any(lead.is_outbound for lead in here):
            ranges = [pool.cidr for pool in pools if pool.cidr.version == family] or blocks
            inside = (*ranges, *map(ipaddress.ip_network, floating))
            sets[inside_set(family)] = AddressSet(family, whole(each for each in inside if each.version == family))
        if entry:
            ways = {"POSTROUTING": [f"-j {_ENTRY}"], _ENTRY: entry, **ways}
        if here:
            lie = f"-i {prefix}+ -m set --match-set {external_set(family)} src -j DROP"
            chains[ChainKey(family, "raw", "PREROUTING")] = identified("PREROUTING", [lie])
        chains |= {ChainKey(family, _TABLE, chain): identified(chain, rules) for chain, rules in ways.items()}
    return chains, sets


def floating_chains(family: int) -> tuple[ChainKey, ...]:
    """Return the chains that a floating address of a workload here needs."""
    chains = ("PREROUTING", "OUTPUT", "POSTROUTING", _ENTRY, _DNAT, _SNAT)
    return (ChainKey(family, "raw", "PREROUTING"), *(ChainKey(family, _TABLE, chain) for chain in chains))


def external_set(family: int) -> str:
    """Return the name of the set of floating addresses of workloads here."""
    return f"bm-{family}-fip"


def inside_set(family: int) -> str:
    """Return the name of the set of what is inside: pools and floating addresses."""
    return f"bm-{family}-inside"


def _internal_set(family: int) -> str:
    return f"bm-{family}-fip-to"


def _inwards(lead: Lead) -> str:
    return f"-d {lead.external} -j DNAT --to-destination {lead.internal}"


def _outwards(here: Sequence[Lead], family: int) -> Iterator[str]:
    """Yield, for each workload with a floating address, what its packets leave with.

    A workload that calls an address of its own sees itself called by that one: by which of several does not matter
    to the connection, which is translated back as it was translated.
    """
    by_internal: dict[IPAddress, Lead] = {}
    for lead in here:
        if lead.is_outbound or lead.internal not in by_internal:
            by_internal[lead.internal] = lead
    for internal, lead in sorted(by_internal.items(), key=lambda row: int(row[0])):
        yield f"-s {internal} -d {internal} -j SNAT --to-source {lead.external}"
        if lead.is_outbound:
            yield f"-s {internal} -m set ! --match-set {inside_set(family)} dst -j SNAT --to-source {lead.external}"


def _outgoing(family: int, groups: dict[Masquerade, list[IPNetwork]]) -> tuple[list[str], dict[str, AddressSet]]:
    """Return the rules for pools that masquerade, and their sets."""
    sets: dict[str, AddressSet] = {}
    rules = [f"-m set --match-set {inside_set(family)} dst -j RETURN"]
    named = {_group_name(masquerade): (masquerade, cidrs) for masquerade, cidrs in groups.items()}
    for name, (masquerade, cidrs) in sorted(named.items()):
        sources, kept = f"bm-{family}-from-{name}", f"bm-{family}-keep-{name}"
        sets[sources] = AddressSet(family, whole(cidrs))
        match = f"-m set --match-set {sources} src"
        if masquerade.exclude:
            sets[kept] = AddressSet(family, whole(masquerade.exclude))
            match += f" -m set ! --match-set {kept} dst"
        rules.append(f"{match} -j {_target(masquerade)} --random-fully")
    return rules, sets


def _hosts(family: int, addresses: Iterable[IPAddress]) -> AddressSet:
    return AddressSet(family, whole(map(ipaddress.ip_network, addresses)))


def _group_name(masquerade: Masquerade) -> str:
    return name_hash(f"{masquerade.source} {' '.join(sorted(map(str, masquerade.exclude)))}")


def _target(masquerade: Masquerade) -> str:
    return "MASQUERADE" if masquerade.source is None else f"SNAT --to-source {masquerade.source}"
