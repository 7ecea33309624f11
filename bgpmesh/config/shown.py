"""A configuration as `check` says it: plain data, of a node or of the whole file; passwords are not in it."""

from __future__ import annotations

from bgpmesh.config.file import effective, warnings
from bgpmesh.config.filters import in_words, plain
from bgpmesh.config.options import Config
from bgpmesh.events import Configured
from bgpmesh.peering.bfd import Watched
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.ranges import PeerRange


def shown(loaded: Config, node: str | None) -> dict[str, object]:
    """Return the sessions of a node and what is probably not meant; None: of every node how many sessions."""
    names = [each.name for each in loaded.nodes]
    if node is None:
        sessions = {name: len(made.peers) + len(made.ranges) for name in names for made in (effective(loaded, name),)}
        said = {warning: None for name in names for warning in warnings(loaded, name)}
        return {"file": loaded.file, "node": None, "nodes": sessions, "sessions": [], "warnings": list(said)}
    configured = effective(loaded, node)
    watched = {each.name: each for each in configured.watched}
    return {
        "file": loaded.file,
        "node": node,
        "asn": configured.asn,
        "router_id": _dotted(configured.router_id),
        "cluster_id": None if configured.cluster_id is None else _dotted(configured.cluster_id),
        "pod_cidrs": [str(cidr) for cidr in configured.pod_cidrs],
        "advertise": [str(prefix) for prefix in configured.advertise],
        "kernel": configured.kernel_enabled,
        "sessions": [
            *(_session(peer, watched.get(peer.name)) for peer in configured.peers),
            *(_range(each) for each in configured.ranges),
        ],
        "filters": _filters(configured),
        "processes": [{"name": p.name, "run": list(p.run)} for p in loaded.processes_of(loaded.node(node))],
        "policies": [],
        "warnings": list(warnings(loaded, node)),
    }


def _filters(configured: Configured) -> list[dict[str, object]]:
    """Return the filters that are in use here, with who uses them; those that are built in go without saying."""
    found: list[dict[str, object]] = []
    everybody = (*configured.peers, *(each.template for each in configured.ranges))
    for each in configured.filters:
        peers = {
            "import": [peer.name for peer in everybody if each.name in peer.imports],
            "export": [peer.name for peer in everybody if each.name in peer.exports],
        }
        if any(peers.values()):
            rules = [{"number": n, "words": in_words(rule), **plain(rule)} for n, rule in enumerate(each.rules, 1)]
            found.append({"name": each.name, **peers, "rules": rules, "default": each.default})
    return found


def _session(peer: Peer, watched: Watched | None) -> dict[str, object]:
    return {
        "peer": peer.name,
        "address": str(peer.address),
        "port": peer.port,
        "local_address": None if peer.local_address is None else str(peer.local_address),
        "asn": peer.asn,
        "local_asn": peer.local_asn,
        "role": peer.role.value,
        "bgp_role": peer.bgp_role or None,
        "allow_own_asn": peer.allow_own_asn,
        "families": [family.label for family in peer.families],
        "next_hops": [str(address) for _, address in peer.next_hops],
        "next_hop": peer.next_hop,
        "next_hop_resolution": "connected" if peer.is_single_hop else "any route",
        "passive": peer.is_passive and peer.is_found,
        "md5": peer.password is not None,
        "hold_time": peer.hold_time,
        "graceful_restart": peer.graceful_restart,
        "long_lived_graceful_restart": peer.long_lived_graceful_restart,
        "ttl_security": peer.ttl_security,
        "multihop": peer.multihop,
        "max_prefixes": peer.max_prefixes,
        "max_prefixes_warn": peer.max_prefixes_warn,
        "add_path": None if peer.add_path is None else {"send": peer.add_path.send, "receive": peer.add_path.receive},
        "flowspec": None if peer.flowspec is None else {"rules": peer.flowspec.rules, "ttl": peer.flowspec.ttl},
        "import": list(peer.imports),
        "export": list(peer.exports),
        "bfd": None if watched is None else _bfd(watched),
    }


def _range(around: PeerRange) -> dict[str, object]:
    """Return what the session with each speaker of a range is; its `address` is the range."""
    said = _session(around.template, around.watched)
    return said | {"address": str(around.network), "range_limit": around.limit}


def _bfd(watched: Watched) -> dict[str, object]:
    return {
        "interval_ms": watched.interval_ms,
        "multiplier": watched.multiplier,
        "hops": watched.hops or None,  # None: found out
    }


def _dotted(number: int) -> str:
    return ".".join(str(octet) for octet in number.to_bytes(4, "big"))
