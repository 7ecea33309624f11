"""What a configuration would do to a node: which sessions begin, end, are reset or go on, which prefixes come and go.

Pure: from the two configurations, and what is held now, as plain data that JSON can carry. A secret is never in it.

    added, removed   a peer comes or goes; one of another name (`renamed_from`) is both, and its session begins anew
    reset            something else is said in the OPEN or set on the socket, or it is another peer (`Peer.resets`):
                     what it has said (`received`) goes, and comes again with the next session; or it is over a limit
    changed          goes on with other filters, limits or next hops: only what differs by that is told

A range is added or removed as such, with its prefix for an address; else it is its speakers, as they are now, that are
reset, change or go on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, field, is_dataclass

from bgpmesh.config import KeyChange
from bgpmesh.config.changes import OTHER_SECRET, SECRET
from bgpmesh.events import Configured
from bgpmesh.frozen import frozen
from bgpmesh.peering.bfd import Watched
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.ranges import Ranges
from bgpmesh.route.nlri import Family, IPAddress
from bgpmesh.route.path import PeerName, Role

JsonObject = dict[str, object]

# The field of a Peer -> the key by which people know it, where that is another.
_KEYS = {"imports": "import", "exports": "export", "is_passive": "passive"}
# What follows from others: of these it is said already that they change.
_DERIVED = {
    "asn": ("role", "enforce_first_as"),
    "local_asn": ("role", "enforce_first_as"),
    "local_address": ("listen_address", "next_hops"),
}
_NAMED_IDS = {"router_id", "cluster_id"}


@frozen
class Held:
    """What a node has at this moment."""

    received: Mapping[PeerName, Sequence[int]] = field(default_factory=dict)  # prefixes of each family, by session
    addresses: Mapping[IPAddress, str] = field(default_factory=dict)  # in use, with the workload


def plan(
    old: Configured,
    new: Configured,
    keys: Sequence[KeyChange],
    *,
    fixed: Collection[str] = (),
    said: Iterable[str] = (),
    held: Held = Held(),
) -> JsonObject:
    """Return what comes of a configuration in place of another.

    `keys` are those that differ, `fixed` the parts that a daemon is built with, `said` what is probably not meant.
    """
    restart = [each.key for each in keys if each.part in fixed]
    before, after = _prefixes(old), _prefixes(new)
    return {
        "same": not keys,
        "keys": [{"key": each.key, "from": each.before, "to": each.after} for each in keys],
        "sessions": _sessions(old, new, held),
        "prefixes": {"announced": _listed(after - before), "withdrawn": _listed(before - after)},
        "restart": restart,
        "warnings": [*said, *_stranded(old, new, held)],
    }


# ── sessions ─────────────────────────────────────────────────────────────────


def _sessions(old: Configured, new: Configured, held: Held) -> JsonObject:
    were, are = (_peers(each, held) for each in (old, new))
    watched = _watched(old, held), _watched(new, held)
    filters = _changed_filters(old, new)
    found: dict[str, list[JsonObject]] = {"added": [], "removed": [], "reset": [], "changed": []}
    left = {peer.address: peer for name, peer in were.items() if name not in are}
    unchanged = 0
    found["removed"] += _ranges(old, new)
    found["added"] += _ranges(new, old)
    for name in sorted(were.keys() | are.keys()):
        was, now = were.get(name), are.get(name)
        received = held.received.get(name, ())
        if was is None or now is None:
            peer = now or was
            assert peer is not None
            row: JsonObject = {"peer": name, "address": str(peer.address), "asn": peer.asn}
            more: JsonObject = {"received": sum(received)} if was else {}
            if (former := left.get(peer.address)) is not None and _is_renamed(former, now):
                more = {"renamed_from": former.name}
            found["removed" if now is None else "added"].append(row | more)
            continue
        changes = _changes(was, now, *(each.get(name) for each in watched))
        used = sorted(filters & {*now.imports, *now.exports})
        because = [_KEYS.get(each, each) for each in _told(was.resets(now))] if changes else []
        if not because and now.max_prefixes < max(received, default=0):
            because = ["max_prefixes"]
        if because or changes or used:
            row = {"peer": name, "changes": changes, "filters": used, "received": sum(received)}
            found["reset" if because else "changed"].append(row | ({"because": because} if because else {}))
        else:
            unchanged += 1
    return {**found, "unchanged": unchanged}


def _is_renamed(was: Peer, now: Peer | None) -> bool:
    """Tell whether one is the other in all but its name, by which its routes, its list and its metrics are known."""
    return now is not None and now.is_found and was.differences(now) == ("name",)


def _peers(configured: Configured, held: Held) -> dict[PeerName, Peer]:
    """Return the peers of a configuration, and of the speakers that are here those that it lets in."""
    ranges = Ranges(configured.ranges, (peer.address for peer in configured.peers))
    speakers = ((name, ranges.speaker(name)) for name in held.received)
    found = {peer.name: peer for peer in configured.peers}
    return found | {name: peer for name, peer in speakers if peer is not None}


def _ranges(configured: Configured, other: Configured) -> list[JsonObject]:
    """Return the ranges that the other configuration has not."""
    known = {each.name for each in other.ranges}
    rows = (each for each in configured.ranges if each.name not in known)
    return [{"peer": each.name, "address": str(each.network), "asn": each.template.asn} for each in rows]


def _watched(configured: Configured, held: Held) -> dict[str, Watched]:
    ranges = Ranges(configured.ranges, (peer.address for peer in configured.peers))
    speakers = filter(None, map(ranges.find, held.received))
    found = (*configured.watched, *(around.watching(address) for around, address in speakers))
    return {each.name: each for each in found if each is not None}


def _changed_filters(old: Configured, new: Configured) -> set[str]:
    before, after = ({each.name: each for each in configured.filters} for configured in (old, new))
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _changes(was: Peer, now: Peer, watched: Watched | None, watches: Watched | None) -> list[JsonObject]:
    """Return what is another under the same name, each with both values."""
    found: list[JsonObject] = []
    for name in _told(was.differences(now)) if was != now else ():
        before, after = getattr(was, name), getattr(now, name)
        if name == "password":
            pair: tuple[object, object] = before and SECRET, after and (OTHER_SECRET if before else SECRET)
        elif name in _NAMED_IDS:
            pair = _dotted(before), _dotted(after)
        else:
            pair = _plain(before), _plain(after)
        found.append({"field": _KEYS.get(name, name), "from": pair[0], "to": pair[1]})
    if _bfd(watched) != _bfd(watches):
        found.append({"field": "bfd", "from": _bfd(watched), "to": _bfd(watches)})
    return found


def _told(names: Sequence[str]) -> list[str]:
    """Return the fields without those that only follow from another of them."""
    follow = {derived for name in names for derived in _DERIVED.get(name, ())}
    return [name for name in names if name not in follow]


def _bfd(watched: Watched | None) -> JsonObject | None:
    if watched is None:
        return None
    return {"interval_ms": watched.interval_ms, "multiplier": watched.multiplier, "hops": watched.hops}


def _dotted(number: int | None) -> str | None:
    return None if number is None else str(ipaddress.IPv4Address(number))


def _plain(value: object) -> object:
    """Return a value as JSON carries it."""
    match value:
        case None | bool() | int() | str():
            return value
        case Family():
            return value.label
        case Role():
            return value.value
        case (Family(), address) if not isinstance(address, Family):  # of next hops; two families are just that
            return str(address)
        case tuple():
            return [_plain(each) for each in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


# ── prefixes ─────────────────────────────────────────────────────────────────


def _prefixes(configured: Configured) -> set[str]:
    """Return what the node announces by its configuration: pod CIDRs of pools that are, and what it is to advertise."""
    hidden = [pool.cidr for pool in configured.pools if not pool.advertise]
    announced = {str(cidr) for cidr in configured.pod_cidrs if not any(cidr.network_address in each for each in hidden)}
    return announced | {str(prefix) for prefix in configured.advertise}


def _listed(prefixes: Iterable[str]) -> list[str]:
    return [str(each) for each in sorted(map(ipaddress.ip_network, prefixes), key=lambda n: (n.version, n))]


def _stranded(old: Configured, new: Configured, held: Held) -> list[str]:
    """Say which workloads keep an address that no pod CIDR has any more."""
    return [
        f"{workload} keeps {address}, which is in no pod CIDR of this node any more"
        for address, workload in sorted(held.addresses.items(), key=lambda row: row[1])
        if any(address in cidr for cidr in old.pod_cidrs) and not any(address in cidr for cidr in new.pod_cidrs)
    ]
