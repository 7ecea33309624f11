"""Which sessions of a node a change of each key resets: those alone of which something else is said on the wire."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from bgpmesh import config
from bgpmesh.peering.peer import LIVE, Peer

NODES, NEIGHBOURS = "n2 n3", "tor inside flows paths"
ALL = f"{NODES} {NEIGHBOURS}"

SECTIONS: dict[str, dict[str, str]] = {
    "cluster": {"asn": "64512"},
    "pool.default": {"cidr": '"10.244.0.0/16"'},
    "node.n1": {"address": '"192.0.2.1"', "address6": '"2001:db8::1"', "pod_cidrs": '["10.244.1.0/26"]'},
    "node.n2": {"address": '"192.0.2.2"', "address6": '"2001:db8::2"', "pod_cidrs": '["10.244.2.0/26"]'},
    "node.n3": {"address": '"192.0.2.3"'},
    "peer.tor": {"address": '"192.0.2.254"', "asn": "65001", "import": '["f"]', "export": '["own"]'},
    "peer.inside": {"address": '"192.0.2.253"', "asn": "64512"},
    "peer.flows": {"address": '"192.0.2.252"', "asn": "65002", "flowspec": "{ rules = 10 }"},
    "peer.paths": {"address": '"192.0.2.251"', "asn": "65003", "add_path": "true"},
    "filter.f": {"default": '"accept"'},
}


def text_with(section: str, key: str, value: str) -> str:
    """Return the file with one key put in or changed."""
    sections = SECTIONS | {section: SECTIONS.get(section, {}) | {key: value}}
    return "\n".join(
        f"[{name}]\n" + "\n".join(f"{k} = {v}" for k, v in keys.items()) for name, keys in sections.items()
    )


def peers(directory: Path, section: str = "cluster", key: str = "asn", value: str = "64512") -> dict[str, Peer]:
    """Return the peers of n1."""
    loaded = config.parse(text_with(section, key, value), str(directory / "bgpmesh.toml"))
    return {peer.name: peer for peer in config.effective(loaded, "n1").peers}


@pytest.mark.parametrize(
    ("section", "key", "value", "reset"),
    [
        ("cluster", "asn", "64513", ALL),
        ("cluster", "identity", "true", ""),
        ("cluster", "max_identities", "5", ""),
        ("cluster", "hold_time", "30", ALL),
        ("cluster", "graceful_restart", "60", ALL),
        ("cluster", "long_lived_graceful_restart", "60", ALL),
        ("cluster", "restart_deferral", "5", ""),
        ("cluster", "password", '"x"', NODES),
        ("cluster", "password_file", '"key"', NODES),
        ("cluster", "bfd", "true", ""),
        ("cluster", "max_prefixes", "5", ""),
        ("cluster", "add_path", "false", ""),
        ("cluster", "port", "1179", ""),
        ("node.n1", "address", '"192.0.2.11"', ALL),
        ("node.n1", "address6", '"2001:db8::11"', ""),
        ("node.n1", "pod_cidrs", '["10.244.9.0/26"]', ""),
        ("node.n1", "advertise", '["203.0.113.7/32"]', ""),
        ("node.n1", "reflector", "true", ""),
        ("node.n1", "labels", '{ rack = "r1" }', ""),
        ("node.n1", "asn", "64513", ALL),
        ("node.n1", "router_id", '"192.0.2.11"', ALL),
        ("node.n1", "cluster_id", '"192.0.2.11"', ""),
        ("node.n1", "listen", '["0.0.0.0", "::"]', ""),
        ("node.n2", "address", '"192.0.2.12"', "n2"),
        ("node.n2", "address6", '"2001:db8::12"', ""),
        ("node.n2", "pod_cidrs", '["10.244.9.0/26"]', ""),
        ("node.n2", "advertise", '["203.0.113.7/32"]', ""),
        ("node.n2", "labels", '{ rack = "r1" }', ""),
        ("node.n2", "asn", "64513", "n2"),
        ("node.n2", "router_id", '"192.0.2.12"', ""),
        ("node.n4", "address", '"192.0.2.4"', ""),
        ("peer.tor", "address", '"192.0.2.250"', "tor"),
        ("peer.tor", "asn", "65009", "tor"),
        ("peer.tor", "passive", "true", ""),
        ("peer.inside", "reflector_client", "true", "inside"),
        ("peer.tor", "import", '["all"]', ""),
        ("peer.tor", "export", '["all"]', ""),
        ("peer.tor", "port", "1179", ""),
        ("peer.tor", "source", '"192.0.2.9"', "tor"),
        ("peer.tor", "password", '"x"', "tor"),
        ("peer.tor", "password_file", '"key"', "tor"),
        ("peer.tor", "hold_time", "30", "tor"),
        ("peer.tor", "graceful_restart", "60", "tor"),
        ("peer.tor", "long_lived_graceful_restart", "60", "tor"),
        ("peer.tor", "ttl_security", "true", "tor"),
        ("peer.tor", "multihop", "4", "tor"),
        ("peer.tor", "max_prefixes", "{ limit = 5, restart = 5 }", ""),
        ("peer.tor", "next_hop", '"self"', ""),
        ("peer.tor", "enforce_first_as", "false", ""),
        ("peer.tor", "allow_own_asn", "1", ""),
        ("peer.tor", "local_asn", "64999", "tor"),
        ("peer.tor", "role", '"customer"', "tor"),
        ("peer.tor", "add_path", "true", "tor"),
        ("peer.paths", "add_path", "{ send = 4 }", ""),
        ("peer.paths", "add_path", "{ send = 0 }", "paths"),
        ("peer.tor", "flowspec", "{ rules = 10 }", "tor"),
        ("peer.flows", "flowspec", "{ rules = 20, ttl = 5 }", ""),
        ("peer.tor", "families", '["ipv4"]', "tor"),
        ("peer.tor", "bfd", "true", ""),
        ("filter.f", "default", '"reject"', ""),
        ("pool.default", "cidr", '"10.0.0.0/8"', ""),
        ("pool.default", "masquerade", "true", ""),
        ("pool.default", "advertise", "false", ""),
        ("pool.default", "reserved", '["10.244.1.1/32"]', ""),
        ("kernel", "ecmp", "1", ""),
        ("policy", "revoke", "false", ""),
        ("namespace.shop", "labels", '{ env = "prod" }', ""),
    ],
)
def test_a_key_resets_the_sessions_that_it_is_about(
    tmp_path: Path, section: str, key: str, value: str, reset: str
) -> None:
    """And the others live on; nobody is lost."""
    (tmp_path / "key").write_text("secret\n", encoding="utf-8")
    before, after = peers(tmp_path), peers(tmp_path, section, key, value)
    assert before.keys() <= after.keys()
    assert sorted(reset.split()) == sorted(n for n, peer in before.items() if not after[n].has_same_session(peer))


def test_a_new_node_and_a_new_client_change_nothing_for_others(tmp_path: Path) -> None:
    """With a first client this node reflects: what it passes on changes, and no session with it."""
    before = peers(tmp_path)
    added = peers(tmp_path, "node.n4", "address", '"192.0.2.4"')
    assert {name: peer for name, peer in added.items() if name != "n4"} == before
    client = peers(tmp_path, "peer.inside", "reflector_client", "true")
    assert {name: client[name].differences(peer) for name, peer in before.items() if name != "inside"} == dict.fromkeys(
        ("n2", "n3", "tor", "flows", "paths"), ("cluster_id",)
    )


def test_what_is_live_is_a_field_of_a_peer() -> None:
    """A name that is none would keep no session."""
    assert {each.name for each in fields(Peer)} >= LIVE
