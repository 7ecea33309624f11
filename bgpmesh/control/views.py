"""What the commands answer: plain functions over the engine, which return exactly the JSON of the contract.

Nothing here changes anything. A table of many prefixes is an iterator over a snapshot of its keys: each
element is true when it is made, and the server sends it piece by piece while the daemon goes on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Protocol

from bgpmesh import log
from bgpmesh.control import concerns, policies
from bgpmesh.control.arguments import number_of
from bgpmesh.control.history import history
from bgpmesh.control.server import RequestError
from bgpmesh.engine import Engine
from bgpmesh.peering import bfd
from bgpmesh.peering.ranges import PeerRange
from bgpmesh.peering.session import Session, State
from bgpmesh.rib.decision import Kept
from bgpmesh.rib.drain import Drain
from bgpmesh.rib.rib import Candidate, Rib
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.community import ext_text
from bgpmesh.route.nlri import (
    ROUTED,
    IPAddress,
    Nlri,
    contains,
    host_nlri,
    network_of,
    nlri_of,
    path_id_of,
    path_key,
    prefix_of,
    prefix_text,
)
from bgpmesh.route.path import Blackhole, OnLink, PeerName, Resolution, Target, Via
from bgpmesh.workload.endpoint import Endpoint
from bgpmesh.workload.floating import FloatingIp, in_order
from bgpmesh.workload.usage import usage

JsonObject = dict[str, object]

SHOWN_REFUSED = 10  # prefixes of one program


class Running(policies.Running, Protocol):
    """What the views need of the daemon."""

    started_at: float  # by the clock of `now`

    def reasons(self) -> list[str]:
        """Return why the node is not ready; empty if it is."""

    def unconfirmed(self) -> JsonObject | None:
        """Return what is in force and not confirmed, None if nothing is."""

    def processes(self) -> list[JsonObject]:
        """Return the programs whose announcements are this node's."""


def answer(command: str, args: Mapping[str, object], running: Running) -> object:
    """Return the answer to a request that only looks; raises RequestError."""
    view = _VIEWS.get(command)
    if view is None:
        raise RequestError("bad-request", f"this daemon does not know the command {command!r}")
    return view(running, args)


# ── status and peers ─────────────────────────────────────────────────────────


def status(running: Running) -> JsonObject:
    """Return the node as a whole."""
    engine, now, reasons = running.engine, running.now(), running.reasons()
    rib = engine.rib
    return {
        "node": engine.node,
        "ready": not reasons,
        "reasons": reasons,
        "uptime_s": round(now - running.started_at, 3),
        "in_sync": engine.peers.is_in_sync,
        "drain": engine.peers.drain.drain.value,
        "unconfirmed": running.unconfirmed(),
        "warnings": concerns.of_node(engine),
        "peers": [peer(engine, name, now) for name in sorted(engine.peers.sessions)],
        "ranges": [_range(engine, each) for each in engine.configured.ranges],
        "rib": {family.label: rib.size(family) for family in ROUTED},
        "fib": {
            "wanted": len(rib.fib.wanted),
            "installed": len(rib.fib.actual),
            "failed": len(rib.fib.refused),
            "drift_repaired": engine.notes.drift_repaired,
        },
        "policy": policies.summary(running),
        "processes": [_process(running, process) for process in running.processes()],
    }


def _process(running: Running, process: JsonObject) -> JsonObject:
    """Return a program with how many prefixes are announced for it, and the first of those that are not."""
    local, name = running.engine.local, str(process["name"])
    said = local.said.by(name)
    heard = [nlri for nlri in said if local.process_of(nlri) == name]
    others = sorted(set(said).difference(heard), key=_order)[:SHOWN_REFUSED]
    refused = [{"prefix": prefix_text(n), "reason": local.why_not_announced(n) or "announced already"} for n in others]
    return process | {"routes": len(heard), "refused": refused}


_OUT_OF_SERVICE = {
    Drain.NONE: "",
    Drain.DRAINING: "draining: traffic is being moved away",
    Drain.DRAINED: "drained: only what runs here is announced, as the last choice; undrain ends it",
    Drain.STOPPED: "drained: nothing is announced and no session is held; undrain ends it",
    Drain.UNDRAINING: "undraining: announced as the last choice until all is learnt and in the kernel",
}


def out_of_service(engine: Engine) -> str:
    """Return how far this node has left service, in words; "" where it has not."""
    words = _OUT_OF_SERVICE[engine.peers.drain.drain]
    waiting = "; ".join(f"{name}: {why}" for name, why in engine.peers.restart.reasons().items())
    return f"{words}: waiting for {waiting}" if words and waiting and engine.peers.is_in_sync else words


def unmade(engine: Engine) -> list[str]:
    """Return what cannot be made in the packet filter, in words: each reason once, with the first that has it."""
    by_reason: dict[str, list[str]] = {}
    for each, reason in engine.packets.unmade().items():
        by_reason.setdefault(reason, []).append(each)
    return [
        f"{objects[0]}{f' and {len(objects) - 1} more' if objects[1:] else ''}: {reason}"
        for reason, objects in by_reason.items()
    ]


def peer(engine: Engine, name: PeerName, now: float) -> JsonObject:
    """Return one peer as `status` and `peers` show it."""
    session, faults = engine.peers.sessions[name], engine.peers.faults[name]
    counts = engine.rib.counts(name)
    received, accepted, advertised = map(sum, zip(*counts.values(), strict=True))
    return {
        "name": name,
        "address": str(session.peer.address),
        "asn": session.peer.asn,
        "role": session.peer.role.value,
        "state": session.state.value,
        "uptime_s": None if session.established_at is None else round(now - session.established_at, 3),
        "received": received,
        "accepted": accepted,
        "advertised": advertised,
        "last_error": session.last_error,
        "treated_as_withdraw": faults.treated_as_withdraw,
        "attributes_discarded": faults.attributes_discarded,
        "claims_refused": faults.claims_refused,
        "warnings": concerns.of_peer(engine, name),
        "bfd": _bfd(engine, name),
    }


def _range(engine: Engine, around: PeerRange) -> JsonObject:
    """Return a range of neighbours; `last_error`: who called from there last and came to nothing, and why."""
    return {
        "name": around.name,
        "range": str(around.network),
        "asn": around.template.asn,
        "speakers": len(_speakers(engine, around.name)),
        "limit": around.limit,
        "last_error": engine.peers.callers.last_refusal(around.name),
    }


def _speakers(engine: Engine, of_range: PeerName) -> list[PeerName]:
    return sorted(name for name, session in engine.peers.sessions.items() if session.peer.of_range == of_range)


def _bfd(engine: Engine, name: PeerName) -> str | None:
    """Return "up" or "down" of a path that BFD watches, None of another."""
    if all(each.name != name for each in engine.peers.paths.watched):
        return None
    report = engine.peers.paths.reports.get(name)
    return "up" if report is not None and report.state == bfd.State.UP else "down"


def _bfd_in_full(engine: Engine, name: PeerName, now: float) -> JsonObject | None:
    """Return what is known of a path that BFD watches; None: nothing, or it is not watched."""
    report = engine.peers.paths.reports.get(name)
    if report is None:
        return None
    return {
        "state": bfd.State(report.state).words,
        "since_s": round(now - report.at, 3),
        "diagnostic": bfd.diag_words(report.diag),
        "peer_state": bfd.State(report.remote_state).words,
        "peer_diagnostic": bfd.diag_words(report.remote_diag),
        "interval_ms": report.interval_ms,
        "detection_ms": report.detection_ms,
        "single_hop": report.is_single_hop,
        "independent": report.is_independent,
    }


def peer_in_full(engine: Engine, name: PeerName, now: float) -> JsonObject:
    """Return everything about one peer."""
    session, faults = engine.peers.sessions[name], engine.peers.faults[name]
    options, negotiated = session.peer, session.negotiated
    counts = engine.rib.counts(name)
    return peer(engine, name, now) | {
        "local_address": None if options.local_address is None else str(options.local_address),
        "port": options.port,
        "passive": options.is_passive,
        "md5": options.password is not None,
        "import": list(options.imports),
        "export": list(options.exports),
        "went_down": session.down_reason,
        "update_problem": faults.update_problem,
        "claims_problem": faults.claims_problem,
        "next_hop_resolution": "connected" if options.is_single_hop else "any route",
        "router_id": None if negotiated is None else dotted(negotiated.received.router_id),
        "hold_time": options.hold_time if negotiated is None else negotiated.hold_time,
        "capabilities": [] if negotiated is None else list(negotiated.received.capabilities.describe()),
        "families": {
            family.label: dict(zip(("received", "accepted", "advertised"), counted, strict=True))
            for family, counted in counts.items()
        },
        "bfd_session": _bfd_in_full(engine, name, now),
        "identities": engine.rib.identities(name),
        "flowspec": policies.flows_of(engine, name),
        "stale": engine.rib.stale_count(name),
        "long_lived_stale": engine.rib.long_lived_count(name),
        "transitions": {state.value: count for state, count in sorted(session.transitions.items(), key=_state_order)},
    }


def why_down(session: Session) -> str:
    """Return in words that and why a session is not up."""
    words = f"{session.peer.name} is {session.state.value}"
    return f"{words}: {session.last_error}" if session.last_error else words


def _state_order(row: tuple[State, int]) -> int:
    return list(State).index(row[0])


def _peers(running: Running, args: Mapping[str, object]) -> object:
    engine, now = running.engine, running.now()
    name = args.get("name")
    if name is None:
        return [peer(engine, known, now) for known in sorted(engine.peers.sessions)]
    if any(name == each.name for each in engine.configured.ranges):
        return [peer_in_full(engine, known, now) for known in _speakers(engine, PeerName(str(name)))]
    return [peer_in_full(engine, _peer_name(engine, name), now)]


def _peer_name(engine: Engine, name: object) -> PeerName:
    for known in engine.peers.sessions:
        if known == name:
            return known
    ranges = (each.name for each in engine.configured.ranges)
    has = ", ".join(sorted((*engine.peers.sessions, *ranges))) or "none"
    raise RequestError("not-found", f"no such peer; there are {has}", key="peer", value=str(name))


# ── routes ───────────────────────────────────────────────────────────────────


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
    wanted = None if args.get("prefix") is None else _wanted(rib, args["prefix"])
    if args.get("received") is not None:
        name = _peer_name(engine, args["received"])
        return _of_peer(rib, rib.received(name), name, wanted, _received)
    if args.get("advertised") is not None:
        name = _peer_name(engine, args["advertised"])
        return _of_peer(rib, rib.advertised(name), name, wanted, _advertised)
    if not isinstance(args.get("kernel", False), bool):
        raise RequestError("bad-request", "not true or false", key="kernel", value=str(args["kernel"]))
    if args.get("kernel"):
        keys = sorted(rib.fib.wanted.keys() | rib.fib.actual.keys(), key=_order)
        return kernel(rib, keys if wanted is None else [nlri for nlri in keys if nlri == wanted])
    return routes(engine, rib.prefixes() if wanted is None else [wanted])


def _wanted(rib: Rib, text: object) -> Nlri:
    """Return the prefix that a person means: an address that has no route of its own means the longest around it."""
    nlri = _nlri(text)
    if "/" in str(text) or rib.candidates(nlri):
        return nlri
    around = [other for other in rib.prefixes() if contains(other, nlri)]
    return max(around, key=lambda other: other[0], default=nlri)


def _nlri(text: object) -> Nlri:
    try:
        if "/" not in str(text):
            return host_nlri(ipaddress.ip_address(str(text)))
        return nlri_of(ipaddress.ip_network(str(text)))
    except ValueError as error:
        raise RequestError("bad-request", str(error), key="prefix", value=str(text)) from error


def _order(nlri: Nlri) -> tuple[int, bytes, int]:
    return (len(nlri), nlri[1:], nlri[0])


PathOf = Callable[[Rib, Nlri, PathAttributes, PeerName, int | None], JsonObject]


def _of_peer(
    rib: Rib,
    table: Iterator[tuple[Nlri, PathAttributes]],
    name: PeerName,
    wanted: Nlri | None,
    path_of: PathOf,
) -> Iterator[JsonObject]:
    """Yield what stands in a peer's table of each prefix: one path, or several. It is copied before it can change."""
    rows = [(prefix_of(key), path_id_of(key), attributes) for key, attributes in table]
    rows = [row for row in rows if wanted is None or row[0] == wanted]
    rows.sort(key=lambda row: (_order(row[0]), row[1] or 0))
    return (
        _route(rib, nlri, [path_of(rib, nlri, attributes, name, path_id) for _, path_id, attributes in some])
        for nlri, some in groupby(rows, key=itemgetter(0))
    )


def _received(rib: Rib, nlri: Nlri, attributes: PathAttributes, name: PeerName, path_id: int | None) -> JsonObject:
    """Return a path as it came, with what became of it; `after`: as import left it, null where that is the same."""
    for candidate in rib.candidates(nlri):
        if (candidate.peer, candidate.path_id) == (name, path_id):
            found = _candidate(candidate)
            is_changed = candidate.is_accepted and not candidate.attributes.same_as(attributes)
            after = _attributes(candidate.attributes) if is_changed else None
            return found | _attributes(attributes) | {"accepted": candidate.is_accepted, "after": after}
    return _path(name, attributes, path_id=path_id, reason="withdrawn meanwhile") | {"accepted": False, "after": None}


def _advertised(rib: Rib, nlri: Nlri, attributes: PathAttributes, name: PeerName, path_id: int | None) -> JsonObject:
    best = rib.best(nlri)
    source = None if best is None else best.best.peer
    if path_id is not None:  # one of several
        source = rib.told_from(name, path_key(nlri, path_id))
    return _path(source, attributes, is_best=path_id is None, path_id=path_id, reason="advertised")


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


def dotted(number: int) -> str:
    """Return a 32-bit identifier as people write it: 192.0.2.1."""
    return str(ipaddress.IPv4Address(number))


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
    return sorted(
        name for name in established if any(prefix_of(told) == nlri for told, _ in engine.rib.advertised(name))
    )


def _trace(running: Running, args: Mapping[str, object]) -> object:
    nlri = _wanted(running.engine.rib, args.get("prefix", ""))
    rib = running.engine.rib
    if not rib.candidates(nlri) and nlri not in rib.fib.actual:
        raise RequestError("not-found", "nobody announces it", key="prefix", value=prefix_text(nlri))
    return trace(running, nlri)


def _history(running: Running, args: Mapping[str, object]) -> object:
    rib, since = running.engine.rib, number_of(args, "since", 0.0)
    nlri = None if args.get("prefix") is None else _wanted(rib, args["prefix"])
    return history(running.engine, running.now(), nlri, since, log.remembered)


# ── workloads and addresses ──────────────────────────────────────────────────


def workload(endpoint: Endpoint, problem: str | None = None) -> JsonObject:
    """Return one workload; addresses without prefix length; `problem`: why it is not connected, null once it is."""
    return {
        "name": endpoint.name,
        "namespace": endpoint.namespace,
        "labels": dict(endpoint.labels),
        "addresses": [str(address) for address in endpoint.addresses],
        "interface": endpoint.interface,
        "netns": endpoint.netns,
        "problem": problem,
    }


def _workloads(running: Running, _: Mapping[str, object]) -> object:
    engine = running.engine
    problems = {key: engine.endpoint_problem(key) for key in sorted(engine.local.endpoints)}
    return [
        workload(engine.local.endpoints[key], "being connected" if problem == "" else problem)
        for key, problem in problems.items()
    ]


def _pool_show(running: Running, _: Mapping[str, object]) -> object:
    engine = running.engine
    configured = engine.configured
    in_use = engine.local.addresses.in_use()
    blocks = [] if configured is None else usage(configured.pools, configured.pod_cidrs, in_use)
    return {
        "node": engine.node,
        "blocks": [
            {
                "cidr": str(row.block),
                "pool": row.pool or None,
                "used": row.used,
                "free": row.free,
                "reserved": row.reserved,
            }
            for row in blocks
        ],
        "addresses": [
            {
                "address": str(address),
                "workload": in_use[address],
                "block": next((str(row.block) for row in blocks if address in row.block), None),
            }
            for address in sorted(in_use, key=lambda address: (address.version, int(address)))
        ],
    }


# ── floating addresses ───────────────────────────────────────────────────────


def floating_ip(engine: Engine, floating: FloatingIp) -> JsonObject:
    """Return one floating address; `address` is what it leads to here, null where its workload is not."""
    local, leads = engine.local, engine.packets.leads
    lead = leads.wanted.get(floating.external)
    is_in_force = local.floating.in_force.get(floating.external) is floating
    problem = leads.problem(floating.external) if is_in_force else "the configuration has it"
    return {
        "external": str(floating.external),
        "workload": floating.workload,
        "outbound": floating.outbound,
        "from": "configuration" if is_in_force and local.floating.has_of_file(floating.external) else "command",
        "address": None if lead is None or not is_in_force else str(lead.internal),
        "announced": is_in_force and local.is_announced(floating.external),
        "problem": "under way" if problem == "" else problem,
    }


def _floating_ips(running: Running, _: Mapping[str, object]) -> object:
    """Return those of the file, those of commands here, and others that nodes announce, each of these with its peer."""
    engine = running.engine
    floating = engine.local.floating
    shadowed = [each for each in floating.kept if floating.in_force[each.external] is not each]
    known = [floating_ip(engine, each) for each in in_order((*floating.in_force.values(), *shadowed))]
    others = sorted(nlri for nlri in engine.rib.floating if _host(nlri) not in floating.in_force)
    return [*known, *(_learnt(engine, nlri) for nlri in others)]


def _learnt(engine: Engine, nlri: Nlri) -> JsonObject:
    best = engine.rib.best(nlri)
    peer = None if best is None else best.best.peer
    none: JsonObject = dict.fromkeys(("workload", "outbound", "address", "problem"))
    return {"external": str(_host(nlri)), **none, "from": f"peer {peer}", "announced": False}


def _host(nlri: Nlri) -> IPAddress:
    return network_of(nlri).network_address


_VIEWS: dict[str, Callable[[Running, Mapping[str, object]], object]] = {
    "status": lambda running, _: status(running),
    "peers": _peers,
    "routes": _routes,
    "trace": _trace,
    "history": _history,
    "workload list": _workloads,
    "pool show": _pool_show,
    **policies.VIEWS,
    "floating-ip list": _floating_ips,
}
