"""What `peers` answers, and `status` of each peer: its session, and what is known of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from bgpmesh.control import concerns
from bgpmesh.control.policies import JsonObject, Running, flows_of
from bgpmesh.control.server import RequestError
from bgpmesh.engine import Engine
from bgpmesh.peering import bfd
from bgpmesh.peering.connection import State
from bgpmesh.peering.session import Session
from bgpmesh.route.path import PeerName


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


def ranges(engine: Engine) -> list[JsonObject]:
    """Return the ranges of neighbours; `last_error`: who called from there last and came to nothing, and why."""
    return [
        {
            "name": around.name,
            "range": str(around.network),
            "asn": around.template.asn,
            "speakers": len(_speakers(engine, around.name)),
            "limit": around.limit,
            "last_error": engine.peers.callers.last_refusal(around.name),
        }
        for around in engine.configured.ranges
    ]


def _speakers(engine: Engine, of_range: PeerName) -> list[PeerName]:
    return sorted(name for name, session in engine.peers.sessions.items() if session.peer.of_range == of_range)


def _bfd(engine: Engine, name: PeerName) -> str | None:
    """Return "up" or "down" of a path that BFD watches, None of another."""
    if not engine.peers.paths.is_watched(name):
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
        "flowspec": flows_of(engine, name),
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
    return [peer_in_full(engine, named(engine, name), now)]


def named(engine: Engine, name: object) -> PeerName:
    """Return the peer that a request names; raises RequestError."""
    for known in engine.peers.sessions:
        if known == name:
            return known
    ranges = (each.name for each in engine.configured.ranges)
    has = ", ".join(sorted((*engine.peers.sessions, *ranges))) or "none"
    raise RequestError("not-found", f"no such peer; there are {has}", key="peer", value=str(name))


def dotted(number: int) -> str:
    """Return a 32-bit identifier as people write it: 192.0.2.1."""
    return str(ipaddress.IPv4Address(number))


VIEWS = {"peers": _peers}
