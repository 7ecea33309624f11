"""Source NAT for workloads that leave every pool: pools -> chains and sets.

    nat POSTROUTING -> bm-POSTROUTING -> bm-nat-outgoing
        to an address of any pool (or a floating address)                      as it is
        from a pool that masquerades, to none of what it excludes              MASQUERADE, or SNAT to its source

So what one workload sends to another keeps its address, which policy matches on. What goes to this node's own
addresses never comes here (it is delivered, not routed on); what goes to another node is outside every pool, and is
masqueraded unless excluded, as in Calico. Like any NAT it is chosen by the first packet of a connection: a change
is for connections that begin after it.

Pools with the same options share a set, so that a pool that comes or goes changes sets and no chain.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from bgpmesh.policy.chains import AddressSet, ChainKey, Rules, identified, name_hash, whole
from bgpmesh.route.nlri import IPAddress, IPNetwork
from bgpmesh.workload.pool import Masquerade, Pool

_TABLE, _HOOK, _ENTRY, _OUTGOING = "nat", "POSTROUTING", "bm-POSTROUTING", "bm-nat-outgoing"


def outgoing(
    pools: Sequence[Pool], floating: Iterable[IPAddress] = ()
) -> tuple[dict[ChainKey, Rules], dict[str, AddressSet]]:
    """Return the chains and the sets by their names; nothing for a family of which no pool masquerades."""
    chains: dict[ChainKey, Rules] = {}
    sets: dict[str, AddressSet] = {}
    hosts = [ipaddress.ip_network(address) for address in floating]
    for family in (4, 6):
        groups: dict[Masquerade, list[IPNetwork]] = {}
        for pool in pools:
            if pool.cidr.version == family and pool.masquerade is not None:
                groups.setdefault(pool.masquerade, []).append(pool.cidr)
        if not groups:
            continue
        inside = f"bm-{family}-inside"
        everything = (*(pool.cidr for pool in pools), *hosts)
        sets[inside] = AddressSet(family, whole(each for each in everything if each.version == family))
        rules = [f"-m set --match-set {inside} dst -j RETURN"]
        named = {_group_name(masquerade): (masquerade, cidrs) for masquerade, cidrs in groups.items()}
        for name, (masquerade, cidrs) in sorted(named.items()):
            sources, kept = f"bm-{family}-from-{name}", f"bm-{family}-keep-{name}"
            sets[sources] = AddressSet(family, whole(cidrs))
            match = f"-m set --match-set {sources} src"
            if masquerade.exclude:
                sets[kept] = AddressSet(family, whole(masquerade.exclude))
                match += f" -m set ! --match-set {kept} dst"
            rules.append(f"{match} -j {_target(masquerade)} --random-fully")
        ways = {_HOOK: [f"-j {_ENTRY}"], _ENTRY: [f"-j {_OUTGOING}"], _OUTGOING: rules}
        chains |= {ChainKey(family, _TABLE, chain): identified(chain, each) for chain, each in ways.items()}
    return chains, sets


def _group_name(masquerade: Masquerade) -> str:
    return name_hash(f"{masquerade.source} {' '.join(sorted(map(str, masquerade.exclude)))}")


def _target(masquerade: Masquerade) -> str:
    return "MASQUERADE" if masquerade.source is None else f"SNAT --to-source {masquerade.source}"
