"""What pools become in the packet filter."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from bgpmesh.policy.chains import AddressSet, ChainKey, Rules, bare, identified, name_hash, restore_text
from bgpmesh.policy.nat import translation
from bgpmesh.route.nlri import IPAddress, IPNetwork, parse_nlri
from bgpmesh.workload.floating import Lead
from bgpmesh.workload.pool import Masquerade, Pool

PLAIN = name_hash("None ")


def translated(
    pools: Sequence[Pool],
    leads: Iterable[Lead] = (),
    floating: Iterable[IPAddress] = (),
    blocks: Iterable[IPNetwork] = (),
) -> tuple[Mapping[ChainKey, Rules], Mapping[str, AddressSet]]:
    """Return the chains and the sets."""
    made = translation(pools, leads, floating, blocks)
    return made.chains, made.sets


def pool(cidr: str, masquerade: Masquerade | None = None) -> Pool:
    return Pool(cidr, ipaddress.ip_network(cidr), masquerade)


def networks(*texts: str) -> frozenset[bytes]:
    return frozenset(map(parse_nlri, texts))


def test_without_a_pool_that_masquerades_there_is_nothing() -> None:
    """Not even an empty chain: iptables is then not called."""
    assert translated([pool("10.244.0.0/16"), pool("fd00::/48")], floating=[ipaddress.ip_address("203.0.113.10")]) == (
        {},
        {},
    )


def test_a_pool_that_masquerades_spares_every_pool() -> None:
    """One that does not masquerade, and a floating address, are inside too; another family is left alone."""
    pools = [pool("10.244.0.0/16", Masquerade()), pool("10.245.0.0/16"), pool("fd00::/48")]
    chains, sets = translated(pools, floating=[ipaddress.ip_address("203.0.113.10")])
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
    chains, sets = translated([pool("fd00::/48", special), pool("fd01::/48", Masquerade())])
    name = name_hash("2001:db8::9 fd99::/16")
    rules = chains[ChainKey(6, "nat", "bm-nat-outgoing")]
    special_match = f"-m set --match-set bm-6-from-{name} src -m set ! --match-set bm-6-keep-{name} dst"
    assert {bare(each) for each in rules[1:]} == {
        f"{special_match} -j SNAT --to-source 2001:db8::9 --random-fully",
        f"-m set --match-set bm-6-from-{PLAIN} src -j MASQUERADE --random-fully",
    }
    assert sets[f"bm-6-keep-{name}"] == AddressSet(6, networks("fd99::/16"))
    assert {key.family for key in chains} == {6}


def test_a_pool_more_changes_sets_and_no_chain() -> None:
    """Pools with the same options share a set."""
    one = translated([pool("10.1.0.0/16", Masquerade())])
    two = translated([pool("10.2.0.0/16", Masquerade()), pool("10.1.0.0/16", Masquerade())])
    assert one[0] == two[0]
    assert one[1].keys() == two[1].keys()
    assert two[1][f"bm-4-from-{PLAIN}"].members == networks("10.1.0.0/16", "10.2.0.0/16")


def test_pools_that_exclude_the_same_share_a_set_in_whatever_order_they_say_it() -> None:
    """None of them is left out."""
    excluded = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("198.51.100.0/24"))
    _, sets = translated([pool("10.1.0.0/16", Masquerade(excluded)), pool("10.2.0.0/16", Masquerade(excluded[::-1]))])
    (sources,) = (each.members for name, each in sets.items() if "-from-" in name)
    assert sources == networks("10.1.0.0/16", "10.2.0.0/16")


def test_everything_is_excluded_by_its_halves() -> None:
    """`hash:net` has no /0."""
    _, sets = translated([pool("10.1.0.0/16", Masquerade((ipaddress.ip_network("0.0.0.0/0"),)))])
    (kept,) = (each.members for name, each in sets.items() if "-keep-" in name)
    assert kept == networks("0.0.0.0/1", "128.0.0.0/1")


def lead(external: str, internal: str, *, is_outbound: bool = False) -> Lead:
    return Lead(ipaddress.ip_address(external), ipaddress.ip_address(internal), "bgpm1", is_outbound)


LEADS = (
    lead("203.0.113.12", "10.244.1.3"),
    lead("203.0.113.11", "10.244.1.2", is_outbound=True),
    lead("203.0.113.10", "10.244.1.2"),
)


def test_floating_addresses_are_asked_for_by_a_set_and_led_one_by_one() -> None:
    """Two of one workload: it leaves, and sees itself, by the one that is for that; before masquerading is asked."""
    chains, sets = translated([pool("10.244.0.0/16", Masquerade()), pool("fd00::/48")], LEADS)
    dnat = ("-m set --match-set bm-4-fip dst -j bm-fip-dnat",)
    expected = {
        "PREROUTING": dnat,
        "OUTPUT": dnat,
        "POSTROUTING": ("-j bm-POSTROUTING",),
        "bm-POSTROUTING": ("-m set --match-set bm-4-fip-to src -j bm-fip-snat", "-j bm-nat-outgoing"),
        "bm-fip-dnat": (
            "-d 203.0.113.10 -j DNAT --to-destination 10.244.1.2",
            "-d 203.0.113.11 -j DNAT --to-destination 10.244.1.2",
            "-d 203.0.113.12 -j DNAT --to-destination 10.244.1.3",
        ),
        "bm-fip-snat": (
            "-s 10.244.1.2 -d 10.244.1.2 -j SNAT --to-source 203.0.113.11",
            "-s 10.244.1.2 -m set ! --match-set bm-4-inside dst -j SNAT --to-source 203.0.113.11",
            "-s 10.244.1.3 -d 10.244.1.3 -j SNAT --to-source 203.0.113.12",
        ),
        "bm-nat-outgoing": (
            "-m set --match-set bm-4-inside dst -j RETURN",
            f"-m set --match-set bm-4-from-{PLAIN} src -j MASQUERADE --random-fully",
        ),
    }
    guard = ChainKey(4, "raw", "PREROUTING")
    lie = identified("PREROUTING", ["-i bgpm+ -m set --match-set bm-4-fip src -j DROP"])
    assert chains == {guard: lie} | {
        ChainKey(4, "nat", chain): identified(chain, rules) for chain, rules in expected.items()
    }
    externals = [f"203.0.113.{last}/32" for last in (10, 11, 12)]
    assert sets == {
        "bm-4-fip": AddressSet(4, networks(*externals)),
        "bm-4-fip-to": AddressSet(4, networks("10.244.1.2/32", "10.244.1.3/32")),
        "bm-4-inside": AddressSet(4, networks("10.244.0.0/16", *externals)),
        f"bm-4-from-{PLAIN}": AddressSet(4, networks("10.244.0.0/16")),
    }


def test_without_masquerading_nothing_but_the_addresses_is_asked() -> None:
    """And what is inside only where something leaves by such an address: pools, or pod CIDRs where there are none."""
    six = lead("2001:db8:f::10", "fd00::5")
    chains, sets = translated([pool("fd00::/48")], [six])
    assert chains[ChainKey(6, "nat", "bm-POSTROUTING")] == identified(
        "bm-POSTROUTING", ["-m set --match-set bm-6-fip-to src -j bm-fip-snat"]
    )
    assert sets.keys() == {"bm-6-fip", "bm-6-fip-to"}
    assert {key.family for key in chains} == {6}
    blocks = [ipaddress.ip_network("10.1.0.0/24"), ipaddress.ip_network("fd01::/64")]
    leaving = [lead("203.0.113.10", "10.1.0.5", is_outbound=True), lead("2001:db8:f::10", "fd00::5", is_outbound=True)]
    _, sets = translated([pool("fd00::/48")], leaving, [ipaddress.ip_address("203.0.113.9")], blocks)
    assert sets["bm-4-inside"].members == networks("10.1.0.0/24", "203.0.113.9/32", "203.0.113.10/32")
    assert sets["bm-6-inside"].members == networks("fd00::/48", "2001:db8:f::10/128")


def test_every_line_is_one_that_iptables_may_get() -> None:
    """Both families."""
    chains, _ = translated([], [*LEADS, lead("2001:db8:f::10", "fd00::5", is_outbound=True)])
    for family in (4, 6):
        of_table = {key.chain: rules for key, rules in chains.items() if key[:2] == (family, "nat")}
        text = restore_text("nat", of_table)
        assert text.count(" -j DNAT ") == (3 if family == 4 else 1)
