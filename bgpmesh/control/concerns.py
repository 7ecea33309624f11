"""What `status` and `peers` warn of: what works as it is told, and probably not as somebody wants it.

Each line names the thing, the value and the reason; of things that have one reason in common the first, and how many.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from bgpmesh.engine import Engine
from bgpmesh.faults import fits_none
from bgpmesh.peering import bfd
from bgpmesh.peering.connection import State
from bgpmesh.route.nlri import Family, link_of, nlri_order, prefix_of, prefix_text
from bgpmesh.route.path import PeerName

SHOWN = 10  # reasons of one kind
_IMPORT = "import filter"  # how the reason of a path that one has rejected begins


def of_node(engine: Engine) -> list[str]:
    """Return the concerns about all peers, then about routes, next hops and workloads."""
    said = [f"peer {name}: {words}" for name in sorted(engine.peers.sessions) for words in of_peer(engine, name)]
    refused = ((refusal.reason, prefix_text(nlri)) for nlri, refusal in sorted(engine.rib.fib.refused.items()))
    said += _each_reason_once(refused, "route {} is not in the kernel: {}")
    lost = ((reason, str(address)) for address, reason in engine.rib.ways.unreachable())
    said += _each_reason_once(lost, "next hop {} cannot be reached: {}")
    problems = ((engine.endpoint_problem(key) or "", key) for key in sorted(engine.local.endpoints))
    said += _each_reason_once(((why, key) for why, key in problems if why), "workload {} is not connected: {}")
    return said


def of_peer(engine: Engine, name: PeerName) -> list[str]:
    """Return the concerns about one peer."""
    near = engine.rib.near_limits(name)
    said = [f"{count} of {most} {family.label} prefixes ({limit})" for (family, limit), (count, most) in near.items()]
    if engine.peers.sessions[name].state is State.ESTABLISHED:
        said += [words for words in (_bfd(engine, name), _next_hop(engine, name), _import(engine, name)) if words]
        said += _too_long(engine, name)
    return said


def _bfd(engine: Engine, name: PeerName) -> str:
    """Return why BFD watches nothing although the session is up, which it does not prevent (RFC 5882 §4.1)."""
    if not engine.peers.paths.is_watched(name):
        return ""
    report = engine.peers.paths.reports.get(name)
    if report is None or (report.state != bfd.State.UP and report.is_single_hop is None):
        before = f" ({bfd.diag_words(report.diag)})" if report is not None and report.diag else ""
        return f"BFD is down: nothing is heard from the peer{before}"
    if report.state == bfd.State.UP or report.remote_state == bfd.State.ADMIN_DOWN:
        return ""
    return f"BFD is down: {bfd.diag_words(report.diag)}; the peer: {bfd.State(report.remote_state).words}"


def _next_hop(engine: Engine, name: PeerName) -> str:
    """Return why a peer hears no IPv4 route by us although the session carries the family; not where none is to go."""
    session = engine.peers.sessions[name]
    peer, negotiated = session.peer, session.negotiated
    ours = dict(peer.next_hops).get(Family.IPV4)
    if negotiated is None or ours is None or ours.version == 4 or peer.exports == ("none",):
        return ""
    if Family.IPV4 not in negotiated.families or negotiated.ipv6_next_hops:
        return ""
    or_else = 'say families = ["ipv6"] here' if link_of(ours) else "give this node an IPv4 address"
    return (
        f"no IPv4 route goes to it by our next hop {ours}: it does not offer extended-next-hop (RFC 8950);"
        f" turn that on at the peer, or {or_else}"
    )


def _too_long(engine: Engine, name: PeerName) -> list[str]:
    """Return which prefixes a peer is not told, as they fit no message."""
    unsaid, negotiated = engine.rib.unsaid_to(name), engine.peers.sessions[name].negotiated
    reason = "" if negotiated is None else fits_none(negotiated.message_size)
    return _each_reason_once(
        ((reason, prefix_text(nlri)) for nlri in sorted(unsaid, key=nlri_order)), "{} is not told: {}"
    )


def _import(engine: Engine, name: PeerName) -> str:
    """Return which filter takes nothing of what a peer announces; not where nothing is to be taken."""
    rib = engine.rib
    received, accepted = (sum(counts) for counts in islice(zip(*rib.counts(name).values(), strict=True), 2))
    if not received or accepted or engine.peers.sessions[name].peer.imports == ("none",):
        return ""
    nlri = prefix_of(next(key for key, _ in rib.received(name)))
    reason = next((each.reason for each in rib.candidates(nlri) if each.peer == name), "")
    if not reason.startswith(_IMPORT):
        return ""
    return f"none of {received} prefixes is accepted: {prefix_text(nlri)} by {reason}"


def _each_reason_once(rows: Iterable[tuple[str, str]], form: str) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for reason, thing in rows:
        by_reason.setdefault(reason, []).append(thing)
    most_first = sorted(by_reason.items(), key=lambda row: -len(row[1]))
    said = [
        form.format(things[0] + (f" (and {len(things) - 1} more)" if things[1:] else ""), reason)
        for reason, things in most_first[:SHOWN]
    ]
    rest = sum(len(things) for _, things in most_first[SHOWN:])
    return [*said, *([f"and {rest} more for other reasons"] if rest else [])]
