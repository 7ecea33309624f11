"""What a configuration would do, by example; the whole of one stands in tests/golden/plan."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import cast

import pytest

from bgpmesh import config
from bgpmesh.chosen import FIXED_SECTIONS
from bgpmesh.control import tables
from bgpmesh.plan import Held, JsonObject, plan
from bgpmesh.route.path import PeerName

GOLDEN = Path(__file__).parent.parent / "golden" / "plan"

BEFORE = """
[cluster]
asn = 64512
password = "hunter2"
[pool.default]
cidr = "10.244.0.0/16"
[pool.hidden]
cidr = "10.99.0.0/16"
advertise = false
[node.n1]
address = "192.0.2.1"
pod_cidrs = ["10.244.1.0/26", "10.99.1.0/26"]
advertise = ["203.0.113.7/32"]
[node.n2]
address = "192.0.2.2"
[node.n3]
address = "192.0.2.3"
[peer.tor1]
address = "192.0.2.254"
asn = 65001
import = ["fabric"]
export = ["own"]
password = "first"
[peer.tor2]
address = "192.0.2.253"
asn = 65001
import = ["fabric"]
export = ["own"]
[peer.tor3]
address = "192.0.2.252"
asn = 65001
import = ["all"]
export = ["own"]
[filter.fabric]
[[filter.fabric.rule]]
prefix = ["0.0.0.0/0 le 24"]
action = "accept"
"""
AFTER = (
    BEFORE.replace('[node.n3]\naddress = "192.0.2.3"', '[node.n4]\naddress = "192.0.2.4"\nlabels = { rack = "r4" }')
    .replace('password = "first"', 'password = "second"\nhold_time = 30')
    .replace("le 24", "le 28")
    .replace('"10.244.1.0/26", ', '"10.244.9.0/26", ')
    .replace('["203.0.113.7/32"]', '["203.0.113.8/32", "2001:db8:7::7/128"]')
    .replace('address = "192.0.2.252"', 'address = "192.0.2.252"\nmax_prefixes = 5\nbfd = true')
    + '[kernel]\nmetric = 33\necmp = 2\n[floating_ip."203.0.113.10"]\nworkload = "shop/web"\noutbound = true\n'
)
HELD = Held(
    {PeerName("n2"): (4, 0), PeerName("n3"): (7, 1), PeerName("tor1"): (900, 100), PeerName("tor3"): (6, 3)},
    {ipaddress.ip_address("10.244.1.5"): "shop/web"},
)


def planned(before: str, after: str, held: Held) -> JsonObject:
    """Return what the second does in place of the first, as it arrives at the other end of the socket."""
    old, new = config.parse(before, "f.toml"), config.parse(after, "f.toml")
    was, now = (config.effective(each, "n1") for each in (old, new))
    keys = config.changes(old, new)
    found = plan(was, now, keys, fixed=FIXED_SECTIONS, said=config.warnings(new, "n1"), held=held)
    return cast("JsonObject", json.loads(json.dumps(found)))


def sessions(found: JsonObject) -> dict[str, object]:
    """Return the names by what becomes of their sessions, and how many stay."""
    rows = cast("dict[str, object]", found["sessions"])
    return {w: [r["peer"] for r in each] if isinstance(each, list) else each for w, each in rows.items()}


@pytest.mark.parametrize("suffix", ["json", "txt"])
def test_a_plan_is_as_recorded(suffix: str, is_updating_golden: bool) -> None:
    """Nodes that come and go, a peer with another password, a filter, prefixes, a limit, what needs a restart."""
    found = planned(BEFORE, AFTER, HELD)
    text = (json.dumps(found, indent=2) if suffix == "json" else tables.plan(found)) + "\n"
    file = GOLDEN / f"changed.{suffix}"
    if is_updating_golden:
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text


def test_the_same_is_the_same() -> None:
    """Also where it is written otherwise."""
    found = planned(BEFORE, BEFORE.replace("asn = 64512", "asn = 64512  # ours\nhold_time = 9"), HELD)
    assert (found["same"], found["keys"], tables.plan(found)) == (True, [], "no difference")
    assert sessions(found) == {"added": [], "removed": [], "reset": [], "changed": [], "unchanged": 5}


def test_no_secret_is_shown() -> None:
    """That there is another one is."""
    for after in (AFTER, AFTER.replace("hunter2", "hunter3"), AFTER.replace('password = "hunter2"\n', "")):
        for before, now in ((BEFORE, after), (after, BEFORE), (BEFORE, BEFORE.replace("[peer.tor1]", "[peer.tor9]"))):
            found = planned(before, now, HELD)
            said = json.dumps(found) + tables.plan(found)
            assert not [
                secret for secret in ("hunter", "first", "second") if f'"{secret}' in said or f" {secret}" in said
            ]


def test_a_new_node_changes_no_other_session() -> None:
    """What belongs to it comes, and that is all."""
    found = planned(BEFORE, BEFORE + '[node.n9]\naddress = "192.0.2.9"\npod_cidrs = ["10.244.9.0/26"]\n', HELD)
    assert sessions(found) == {"added": ["n9"], "removed": [], "reset": [], "changed": [], "unchanged": 5}
    assert found["prefixes"] == {"announced": [], "withdrawn": []}


def test_a_peer_that_is_renamed_is_told_to_reset() -> None:
    """One goes and one comes, and the session begins anew; with another address it is another one."""
    after = BEFORE.replace("[peer.tor1]", "[peer.leaf1]").replace("[node.n3]", "[node.m3]")
    found = planned(BEFORE, after, HELD)
    assert sessions(found) == {
        "added": ["leaf1", "m3"],
        "removed": ["n3", "tor1"],
        "reset": [],
        "changed": [],
        "unchanged": 3,
    }
    rows = cast("dict[str, list[JsonObject]]", found["sessions"])
    assert [row.get("renamed_from") for row in rows["added"]] == ["tor1", "n3"]
    assert "renamed from tor1: resets" in tables.plan(found)
    moved = planned(BEFORE, after.replace("192.0.2.254", "192.0.2.199"), HELD)
    assert "renamed from tor1" not in tables.plan(moved)


@pytest.mark.parametrize(("held", "what"), [(5, "changed"), (6, "reset")])
def test_a_limit_below_what_is_there_closes_the_session(held: int, what: str) -> None:
    """Of one family; else it goes on with the other limit."""
    after = BEFORE.replace('address = "192.0.2.252"', 'address = "192.0.2.252"\nmax_prefixes = 5')
    assert sessions(planned(BEFORE, after, Held({PeerName("tor3"): (held, 2)})))[what] == ["tor3"]


def test_families_that_go_are_named_as_in_the_file() -> None:
    """Each of them, also where there were two."""
    before = BEFORE.replace('address = "192.0.2.1"', 'address = "192.0.2.1"\naddress6 = "2001:db8::1"')
    found = planned(before, before.replace('"192.0.2.252"', '"192.0.2.252"\nfamilies = ["ipv4"]'), HELD)
    (row,) = cast("dict[str, list[JsonObject]]", found["sessions"])["reset"]
    assert {"field": "families", "from": ["ipv4", "ipv6"], "to": ["ipv4"]} in cast("list[JsonObject]", row["changes"])
    assert "families ipv4, ipv6 -> ipv4" in tables.plan(found)


def test_a_range_is_what_becomes_of_its_speakers() -> None:
    """One that comes or goes is told of as such; of one that changes the speakers are reset, change or go on."""
    leaves = """
[peer.leaves]
range = "198.51.100.0/24"
asn = 64512
[peer.others]
range = "203.0.113.0/24"
asn = 64512
"""
    here = (PeerName("leaves@198.51.100.9"), PeerName("leaves@198.51.100.99"), PeerName("others@203.0.113.9"))
    held = Held({PeerName("n2"): (4, 0), **dict.fromkeys(here, (3, 0))})

    def sessions(before: str, after: str) -> dict[str, list[object]]:
        """Return who is told of under which word."""
        old, new = (config.parse(BEFORE + text, "f.toml") for text in (before, after))
        made = plan(config.effective(old, "n1"), config.effective(new, "n1"), config.changes(old, new), held=held)
        rows = cast("dict[str, list[JsonObject]]", made["sessions"])
        return {word: [row["peer"] for row in rows[word]] for word in ("added", "removed", "reset", "changed")}

    nothing: dict[str, list[object]] = {"added": [], "removed": [], "reset": [], "changed": []}
    assert sessions(leaves, leaves) == nothing
    assert sessions("", leaves)["added"][:2] == ["leaves", "others"]
    assert sessions(leaves, "")["removed"] == ["leaves", "others", *here]
    held_longer = leaves.replace("[peer.others]", "hold_time = 30\n[peer.others]")
    assert sessions(leaves, held_longer) == {**nothing, "reset": [*here[:2]]}
    filtered = leaves.replace("[peer.others]", 'export = ["own"]\n[peer.others]')
    assert sessions(leaves, filtered) == {**nothing, "changed": [*here[:2]]}
    assert sessions(leaves, leaves.replace("198.51.100.0/24", "198.51.100.0/26")) == {**nothing, "removed": [here[1]]}
