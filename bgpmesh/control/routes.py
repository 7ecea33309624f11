"""What `routes` and `trace` answer: the paths of prefixes, and one prefix through all stations.

A table of many prefixes is an iterator over a snapshot of its keys, as `views` has it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from bgpmesh.control import peers
from bgpmesh.control.peers import dotted
from bgpmesh.control.policies import JsonObject, Running
from bgpmesh.control.server import RequestError
from bgpmesh.engine import Engine
from bgpmesh.peering.connection import State
from bgpmesh.rib.candidate import Candidate
from bgpmesh.rib.decision import Kept
from bgpmesh.rib.nexthop import covering
from bgpmesh.rib.rib import Rib
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.community import ext_text
from bgpmesh.route.nlri import (
    Nlri,
    host_nlri,
    network_of,
    nlri_of,
    nlri_order,
    path_id_of,
    path_key,
    prefix_of,
    prefix_text,
)
from bgpmesh.route.path import Blackhole, OnLink, PeerName, Resolution, Target, Via


def routes(engine: Engine, nlris: Iterable[Nlri]) -> Iterator[JsonObject]:
    """Yield the paths of every prefix that still has some, each with the reason of its fate.

    A local path that a program announces has its name.
    """
    for nlri in nlris:
        candidates = engine.rib.candidates(nlri)
        if candidates:
            process = engine.local.process_of(nlri)
            said: JsonObject = {"process": process} if process is not None else {}
            paths = [_candidate(each) | (said if each.peer is None else {}) for each in candidates]
            yield _route(engine.rib, nlri, paths)


def _routes(running: Running, args: Mapping[str, object]) -> object:
    engine = running.engine
    rib = engine.rib
    wanted = None if args.get("prefix") is None else meant(rib, args["prefix"])
    if args.get("received") is not None:
        name = peers.named(engine, args["received"])
        return _of_peer(rib, rib.received(name), name, wanted, _received)
    if args.get("advertised") is not None:
        name = peers.named(engine, args["advertised"])
        return _of_peer(rib, rib.advertised(name), name, wanted, _advertised)
    if not isinstance(args.get("kernel", False), bool):
        raise RequestError("bad-request", "not true or false", key="kernel", value=str(args["kernel"]))
    if args.get("kernel"):
        keys = sorted(rib.fib.wanted.keys() | rib.fib.actual.keys(), key=nlri_order)
        return kernel(rib, keys if wanted is None else [nlri for nlri in keys if nlri == wanted])
    return routes(engine, rib.prefixes() if wanted is None else [wanted])


def meant(rib: Rib, text: object) -> Nlri:
    """Return the prefix that a person means: an address that has no route of its own means the longest around it."""
    nlri = _nlri(text)
    if "/" in str(text) or rib.candidates(nlri):
        return nlri
    return next(filter(rib.candidates, covering(network_of(nlri).network_address)), nlri)


def _nlri(text: object) -> Nlri:
    try:
        if "/" not in str(text):
            return host_nlri(ipaddress.ip_address(str(text)))
        return nlri_of(ipaddress.ip_network(str(text)))
    except ValueError as error:
        raise RequestError("bad-request", str(error), key="prefix", value=str(text)) from error


# What stands in a peer's table of one prefix: identifiers and attributes.
Told = Iterable[tuple[int | None, PathAttributes]]


def _of_peer(
    rib: Rib,
    table: Iterator[tuple[Nlri, PathAttributes]],
    name: PeerName,
    wanted: Nlri | None,
    paths_of: Callable[[Rib, PeerName, Nlri, Told], list[JsonObject]],
) -> Iterator[JsonObject]:
    """Yield what stands in a peer's table of each prefix: one path, or several. It is copied before it can change."""
    rows = [(prefix_of(key), path_id_of(key), attributes) for key, attributes in table]
    rows = [row for row in rows if wanted is None or row[0] == wanted]
    rows.sort(key=lambda row: (nlri_order(row[0]), row[1] or 0))
    return (
        _route(rib, nlri, paths_of(rib, name, nlri, (row[1:] for row in some)))
        for nlri, some in groupby(rows, key=itemgetter(0))
    )


def _received(rib: Rib, name: PeerName, nlri: Nlri, told: Told) -> list[JsonObject]:
    """Return paths as they came, with what became of each; `after`: as import left it, null where that is the same."""
    now = {candidate.path_id: candidate for candidate in rib.candidates(nlri) if candidate.peer == name}
    return [_became(name, path_id, attributes, now.get(path_id)) for path_id, attributes in told]


def _became(name: PeerName, path_id: int | None, attributes: PathAttributes, candidate: Candidate | None) -> JsonObject:
    if candidate is None:
        reason = "withdrawn meanwhile"
        return _path(name, attributes, path_id=path_id, reason=reason) | {"accepted": False, "after": None}
    is_changed = candidate.is_accepted and not candidate.attributes.same_as(attributes)
    after = _attributes(candidate.attributes) if is_changed else None
    return _candidate(candidate) | _attributes(attributes) | {"accepted": candidate.is_accepted, "after": after}


def _advertised(rib: Rib, name: PeerName, nlri: Nlri, told: Told) -> list[JsonObject]:
    best = rib.best(nlri)
    source = None if best is None else best.best.peer
    return [
        _path(source, attributes, is_best=True, reason="advertised")
        if path_id is None
        else _path(rib.told_from(name, path_key(nlri, path_id)), attributes, path_id=path_id, reason="advertised")
        for path_id, attributes in told
    ]


def _route(rib: Rib, nlri: Nlri, paths: Sequence[JsonObject]) -> JsonObject:
    said = rib.kernel_reason(nlri)
    # "none: connected on this host" is "none", with that reason.
    state, _, reason = said.partition(": ") if said.startswith("none") else (said, "", "")
    found: JsonObject = {"prefix": prefix_text(nlri), "paths": list(paths), "kernel": state}
    return found | {"kernel_reason": reason} if reason else found


def _candidate(candidate: Candidate) -> JsonObject:
    return _path(
        candidate.peer,
        candidate.attributes,
        is_best=candidate.is_best,
        is_multipath=candidate.is_multipath,
        is_stale=candidate.is_stale,
        path_id=candidate.path_id,
        is_long_lived=candidate.kept is Kept.LONG_LIVED,
        reason=candidate.reason,
        filtered=candidate.filtered,
    )


def _path(
    name: PeerName | None,
    attributes: PathAttributes,
    *,
    is_best: bool = False,
    is_multipath: bool = False,
    is_stale: bool = False,
    path_id: int | None = None,
    is_long_lived: bool = False,
    reason: str,
    filtered: str = "",
) -> JsonObject:
    """Return a path; `filtered`: the import filters and rules that changed it, or the one that rejected it."""
    return (
        {"peer": name}
        | _attributes(attributes)
        | {"path_id": path_id, "best": is_best, "multipath": is_multipath, "stale": is_stale, "reason": reason}
        | {"long_lived_stale": is_long_lived, "filtered": filtered or None}
    )


def _attributes(attributes: PathAttributes) -> JsonObject:
    return {
        "next_hop": None if attributes.next_hop is None else str(attributes.next_hop),
        "as_path": str(attributes.as_path),
        "local_pref": attributes.local_pref,
        "med": attributes.med,
        "origin": attributes.origin.name.lower(),
        "communities": [f"{community >> 16}:{community & 0xFFFF}" for community in attributes.communities],
        "large_communities": [":".join(map(str, community)) for community in attributes.large_communities],
        "ext_communities": [ext_text(community) for community in attributes.ext_communities],
        "other_attributes": {str(code): value.hex() for _, code, value in attributes.other},
        "originator_id": None if attributes.originator_id is None else dotted(attributes.originator_id),
        "cluster_list": [dotted(cluster) for cluster in attributes.cluster_list],
    }


def kernel(rib: Rib, nlris: Iterable[Nlri]) -> Iterator[JsonObject]:
    """Yield what the kernel should have of each prefix, what it has, and what is between them."""
    for nlri in nlris:
        wanted, actual = rib.fib.wanted.get(nlri), rib.fib.actual.get(nlri)
        yield _route(rib, nlri, []) | {"wanted": _target(wanted), "actual": _target(actual)}


def _target(target: Target | None) -> str | None:
    match target:
        case None:
            return None
        case Blackhole():
            return "blackhole"
        case OnLink(interface):
            return f"dev {interface}"
        case Via():
            return "via " + " ".join(
                f"{hop}" + (f" weight {weight}" if target.weights else "") for hop, weight in target.shares
            )


# ── one prefix through all stations ──────────────────────────────────────────


def trace(running: Running, nlri: Nlri) -> JsonObject:
    """Return the stations of a prefix in order, each with its state, the reason for it, and how long ago."""
    engine, now = running.engine, running.now()
    rib = engine.rib
    candidates = rib.candidates(nlri)
    update = engine.trace(nlri)
    best = next((candidate for candidate in candidates if candidate.is_best), None)
    decided = programmed = None
    if update is not None:
        decided, programmed = update.decided_at, update.programmed_at
    wanted = _target(rib.fib.wanted.get(nlri))
    route = _route(rib, nlri, [])
    reason = route.get("kernel_reason")
    told = _told(engine, nlri)
    return {
        "prefix": prefix_text(nlri),
        "stations": [
            _station("received", *_received_station(candidates, engine.local.process_of(nlri), now)),
            _station("filtered", *_states(candidates, _filtered)),
            _station("next hop", *_states(candidates, lambda each: _resolved(rib, each))),
            _station("decided", *_decided(candidates, best), _ago(now, decided)),
            _station("wanted", wanted or "nothing in the kernel"),
            _station("kernel", str(route["kernel"]) + (f": {reason}" if reason else ""), (), _ago(now, programmed)),
            _station("advertised", f"to {', '.join(told)}" if told else "to nobody"),
        ],
        "times": None
        if update is None
        else {
            "peer": update.peer,
            "read_ago_s": _ago(now, update.read_at),
            "decided_after_s": _ago(decided, update.read_at),
            "programmed_after_s": _ago(programmed, update.read_at),
        },
    }


def _station(name: str, state: str, details: Sequence[str] = (), ago_s: float | None = None) -> JsonObject:
    return {"station": name, "state": state, "details": list(details), "ago_s": ago_s}


def _ago(now: float | None, then: float | None) -> float | None:
    return None if now is None or not then else round(now - then, 6)


def _received_station(
    candidates: Sequence[Candidate], process: str | None, now: float
) -> tuple[str, list[str], float | None]:
    learnt = [candidate for candidate in candidates if candidate.peer is not None]
    local = len(candidates) > len(learnt)
    names = [*(["this node"] if local else []), *map(_whose, learnt)]
    times = [candidate.read_at for candidate in learnt if candidate.read_at]
    state = f"from {', '.join(names)}" if names else "from nobody"
    details = [] if process is None else [f"process {process} has this node announce it"]
    return state, details, _ago(now, max(times, default=None))


def _states(candidates: Sequence[Candidate], say: Callable[[Candidate], str]) -> tuple[str, list[str]]:
    """Return what is said of every path: at once where it is the same for all, else one detail for each."""
    said = {_whose(candidate): say(candidate) for candidate in candidates}
    words = set(said.values())
    if len(words) <= 1:
        return next(iter(words), "-"), []
    return "", [f"{name}: {text}" for name, text in said.items()]


def _whose(candidate: Candidate) -> str:
    """Return who told us of a path and, where it tells of several, by which identifier."""
    return (candidate.peer or "this node") + ("" if candidate.path_id is None else f" path {candidate.path_id}")


def _filtered(candidate: Candidate) -> str:
    if not candidate.is_accepted:
        return candidate.reason
    return f"accepted, changed by {candidate.filtered}" if candidate.filtered else "accepted"


def _resolved(rib: Rib, candidate: Candidate) -> str:
    next_hop, resolution = candidate.attributes.next_hop, candidate.resolution
    if candidate.peer is None:
        return "none needed"
    return f"{next_hop}: {_way(rib, resolution)}" if resolution else candidate.reason.removeprefix("next hop ")


def _way(rib: Rib, resolution: Resolution) -> str:
    way = f"via {resolution.gateway} " if resolution.gateway is not None else "connected "
    return (
        f"{way}on {rib.host.link_name(resolution.link)}, cost {resolution.cost}"
        if resolution.link
        else "taken as reachable"
    )


def _decided(candidates: Sequence[Candidate], best: Candidate | None) -> tuple[str, list[str]]:
    if best is None:
        state = "no path is eligible" if candidates else "no path"
    else:
        state = f"best from {_whose(best)} ({best.reason})"
    lost = [f"{_whose(candidate)}: {candidate.reason}" for candidate in candidates if candidate is not best]
    return state, lost


def _told(engine: Engine, nlri: Nlri) -> list[str]:
    established = [name for name, session in engine.peers.sessions.items() if session.state is State.ESTABLISHED]
    return sorted(name for name in established if engine.rib.is_told(name, nlri))


def _trace(running: Running, args: Mapping[str, object]) -> object:
    nlri = meant(running.engine.rib, args.get("prefix", ""))
    rib = running.engine.rib
    if not rib.candidates(nlri) and nlri not in rib.fib.actual:
        raise RequestError("not-found", "nobody announces it", key="prefix", value=prefix_text(nlri))
    return trace(running, nlri)


VIEWS = {"routes": _routes, "trace": _trace}
