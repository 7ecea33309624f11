"""What pools become in the packet filter."""

from __future__ import annotations

import ipaddress

from bgpmesh.policy.chains import AddressSet, ChainKey, identified, name_hash
from bgpmesh.policy.nat import outgoing
from bgpmesh.route.nlri import parse_nlri
from bgpmesh.workload.pool import Masquerade, Pool

PLAIN = name_hash("None ")


def pool(cidr: str, masquerade: Masquerade | None = None) -> Pool:
    return Pool(cidr, ipaddress.ip_network(cidr), masquerade)


def networks(*texts: str) -> frozenset[bytes]:
    return frozenset(map(parse_nlri, texts))


def test_without_a_pool_that_masquerades_there_is_nothing() -> None:
    """Not even an empty chain: iptables is then not called."""
    assert outgoing([pool("10.244.0.0/16"), pool("fd00::/48")], [ipaddress.ip_address("203.0.113.10")]) == ({}, {})


def test_a_pool_that_masquerades_spares_every_pool() -> None:
    """One that does not masquerade, and a floating address, are inside too; another family is left alone."""
    pools = [pool("10.244.0.0/16", Masquerade()), pool("10.245.0.0/16"), pool("fd00::/48")]
    chains, sets = outgoing(pools, [ipaddress.ip_address("203.0.113.10")])
    sources = f"bm-4-from-{PLAIN}"
    expected = {
        "POSTROUTING": ("-j bm-POSTROUTING",),
        "bm-POSTROUTING": ("-j bm-nat-outgoing",),
        "bm-nat-outgoing": (
            "-m set --match-set bm-4-inside dst -j RETURN",
            f"-m set --match-set {sources} src -j MASQUERADE --random-fully",
        ),
    }
    assert chains == {ChainKey(4, "nat", chain): identified(chain, rules) for chain, rules in expected.items()}
    assert sets == {
        "bm-4-inside": AddressSet(4, networks("10.244.0.0/16", "10.245.0.0/16", "203.0.113.10/32")),
        sources: AddressSet(4, networks("10.244.0.0/16")),
    }


def test_what_is_excluded_keeps_its_address_and_a_source_is_said() -> None:
    """Pools with other options have rules and sets of their own."""
    special = Masquerade((ipaddress.ip_network("fd99::/16"),), ipaddress.ip_address("2001:db8::9"))
    chains, sets = outgoing([pool("fd00::/48", special), pool("fd01::/48", Masquerade())])
    name = name_hash("2001:db8::9 fd99::/16")
    rules = chains[ChainKey(6, "nat", "bm-nat-outgoing")]
    special_match = f"-m set --match-set bm-6-from-{name} src -m set ! --match-set bm-6-keep-{name} dst"
    assert {each.partition(" -m set ")[1].lstrip() + each.partition(" -m set ")[2] for each in rules[1:]} == {
        f"{special_match} -j SNAT --to-source 2001:db8::9 --random-fully",
        f"-m set --match-set bm-6-from-{PLAIN} src -j MASQUERADE --random-fully",
    }
    assert sets[f"bm-6-keep-{name}"] == AddressSet(6, networks("fd99::/16"))
    assert {key.family for key in chains} == {6}


def test_a_pool_more_changes_sets_and_no_chain() -> None:
    """Pools with the same options share a set."""
    one = outgoing([pool("10.1.0.0/16", Masquerade())])
    two = outgoing([pool("10.2.0.0/16", Masquerade()), pool("10.1.0.0/16", Masquerade())])
    assert one[0] == two[0]
    assert one[1].keys() == two[1].keys()
    assert two[1][f"bm-4-from-{PLAIN}"].members == networks("10.1.0.0/16", "10.2.0.0/16")


def test_everything_is_excluded_by_its_halves() -> None:
    """`hash:net` has no /0."""
    _, sets = outgoing([pool("10.1.0.0/16", Masquerade((ipaddress.ip_network("0.0.0.0/0"),)))])
    (kept,) = (each.members for name, each in sets.items() if "-keep-" in name)
    assert kept == networks("0.0.0.0/1", "128.0.0.0/1")
