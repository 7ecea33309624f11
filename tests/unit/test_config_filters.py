"""Filters of the configuration file: what they become, and how they are refused."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest

from bgpmesh import config
from bgpmesh.control import tables
from bgpmesh.errors import ConfigError
from bgpmesh.rib.rule import BUILT_IN, NextHopTerm, Prepend, Rule
from bgpmesh.route.attributes import Asn

GOLDEN = Path(__file__).parent.parent / "golden" / "config"
BAD = sorted(GOLDEN.glob("*.bad.toml"))
START = "[cluster]\nasn = 64512\n[node.n1]\naddress = '192.0.2.1'\n[peer.tor]\naddress = '192.0.2.254'\nasn = 65001\n"


def compare(file: Path, text: str, is_updating_golden: bool) -> None:
    """Compare with what somebody looked at and found good."""
    if is_updating_golden:
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text


def test_there_are_bad_files() -> None:
    """Else the next test would claim nothing."""
    assert BAD


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.name)
def test_every_mistake_is_named_with_file_key_value_and_reason(file: Path, is_updating_golden: bool) -> None:
    """All at once, in words that name the limit."""
    with pytest.raises(ConfigError) as caught:
        config.parse(file.read_text(encoding="utf-8"), file.name)
    problems = caught.value.problems
    assert {problem.file for problem in problems} == {file.name}
    compare(file.with_suffix(".txt"), "".join(f"{problem}\n" for problem in problems), is_updating_golden)


@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_check_shows_the_filters_that_are_in_use(suffix: str, is_updating_golden: bool) -> None:
    """By whom, in which direction, rule by rule; what does nothing is a warning."""
    file = GOLDEN / "filters.good.toml"
    shown = config.shown(config.parse(file.read_text(encoding="utf-8"), file.name), "n1")
    filters = {"filters": shown["filters"], "warnings": shown["warnings"]}
    text = json.dumps(filters, indent=2) if suffix == "json" else tables.check(shown)
    compare(file.with_suffix(f".{suffix}"), text + "\n", is_updating_golden)


def rule_of(lines: str) -> Rule:
    """Return the one rule of a filter with these lines."""
    loaded = config.parse(f"{START}[filter.f]\n[[filter.f.rule]]\n{lines}", "f.toml")
    (only,) = loaded.filters
    return only.rules[0]


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("prefix = '10.0.0.0/8 le 9'", "prefix = ['10.0.0.0/8 le 9']"),
        ("prefix = '10.0.0.0/8'", "prefix = ['10.0.0.0/8 ge 8 le 8']"),
        ("prefix = '10.0.0.0/8 ge 9'", "prefix = ['10.0.0.0/8 ge 9 le 32']"),
        ("prefix = '10.0.0.0/8  ge 9  le 24'", "prefix = ['10.0.0.0/8 ge 9 le 24']"),
        ("community = '64512:1'", "community = ['64512:1']"),
        ("as_path = '^$'", "as_path = ['^$']"),
        ("peer = 'tor'", "peer = ['tor']"),
        ("family = 'ipv4'", "family = ['ipv4']"),
        ("next_hop = '192.0.2.0/24'", "next_hop = ['192.0.2.0/24']"),
    ],
)
def test_one_value_needs_no_list(one: str, many: str) -> None:
    """And a range that is not said in full is the same as one that is."""
    assert rule_of(f"action = 'accept'\n{one}") == rule_of(f"action = 'accept'\n{many}")


def test_next_hop_and_prepend_mean_what_they_look_like() -> None:
    """Prefixes are asked for, an address or "self" is set; a number is so often, a list is whom."""
    said = {"'self'": NextHopTerm(is_self=True), "'2001:db8::1'": NextHopTerm(to=ipaddress.ip_address("2001:db8::1"))}
    for text, term in said.items():
        assert rule_of(f"action = 'accept'\nnext_hop = {text}").next_hop == term
    assert rule_of("action = 'accept'\nprepend = 3").prepend == Prepend(3)
    assert rule_of("action = 'accept'\nprepend = [1, 1]").prepend == Prepend(asns=(Asn(1), Asn(1)))


def test_a_filter_without_rules_is_its_default() -> None:
    """Which is to reject, unless it says otherwise."""
    loaded = config.parse(f"{START}[filter.f]\n[filter.g]\ndefault = 'accept'", "f.toml")
    assert [(each.name, each.default, each.rules) for each in loaded.filters] == [
        ("f", "reject", ()),
        ("g", "accept", ()),
    ]


def test_the_engine_is_told_of_filters_and_of_who_has_them() -> None:
    """In the order of the file; what is built in is not among them."""
    loaded = config.parse(START + "import = ['f', 'all']\nexport = ['own']\n[filter.f]", "f.toml")
    configured = config.effective(loaded, "n1")
    (peer,) = configured.peers
    assert (peer.imports, peer.exports) == (("f", "all"), ("own",))
    assert [each.name for each in configured.filters] == ["f"]
    assert not {each.name for each in configured.filters} & set(BUILT_IN)


@pytest.mark.parametrize(("asn", "means"), [(65001, ("none",)), (64512, ("all",))])
def test_an_empty_list_of_filters_is_no_policy(asn: int, means: tuple[str, ...]) -> None:
    """So nothing comes from outside, and nothing goes there (RFC 8212 §2): as if the key were not there."""
    text = START.replace("65001", str(asn))
    without, empty = (config.parse(text + lines, "f.toml") for lines in ("", "import = []\nexport = []"))
    (peer,) = config.effective(empty, "n1").peers
    assert (peer.imports, peer.exports) == (means, means)
    assert config.warnings(empty, "n1") == config.warnings(without, "n1")


def test_peers_that_differ_in_filters_have_the_same_session() -> None:
    """And those that differ in anything else do not."""
    texts = ("", "import = ['all']\nexport = ['own']", "hold_time = 30")
    first, filtered, other = (config.effective(config.parse(START + text, "f.toml"), "n1").peers[0] for text in texts)
    assert first != filtered
    assert first.has_same_session(filtered)
    assert not first.has_same_session(other)
