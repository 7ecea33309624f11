"""What changed lately and why: events as the log has them; of one prefix its UPDATEs too, and whose path became best.

All are remembered in memory, the newest of them, and gone with the daemon; the journal and the log of the host go back
further. An event concerns a prefix where it names it, or a peer that has told of it, or the node as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime

from bgpmesh import log
from bgpmesh.engine import Engine, Replacement, Update
from bgpmesh.route.nlri import Nlri, prefix_text

JsonObject = dict[str, object]

# Of these every prefix may have its part.
OF_THE_NODE = ("config.", "daemon.", "drain.", "restart.", "apply.")


def history(engine: Engine, now: float, nlri: Nlri | None, since: float, said: Iterable[log.Said]) -> list[JsonObject]:
    """Return what was said since a second of 1970, the oldest first; `now` is the engine's second of this moment.

    `said` is what is remembered of the log, to which the engine's clock is fitted by its newest time.
    """
    tellers = frozenset[str]() if nlri is None else frozenset(_peers(engine, nlri))
    found = [(each.at, _event(each)) for each in said if each.at >= since and _concerns(each, nlri, tellers)]
    if nlri is not None:
        offset = datetime.now(UTC).timestamp() - now
        updates = ((update.read_at + offset, update) for update in engine.updates if nlri in update.nlris)
        found += [(at, _update(update, nlri, at)) for at, update in updates if at >= since]
        replaced = ((each.at + offset, each) for each in engine.replacements if nlri in each.nlris)
        found += [(at, _replaced(each, nlri, at)) for at, each in replaced if at >= since]
    return [event for _, event in sorted(found, key=lambda row: row[0])]


def _concerns(said: log.Said, nlri: Nlri | None, tellers: Collection[str]) -> bool:
    if nlri is None or said.name.startswith(OF_THE_NODE):
        return True
    if "prefix" in said.keys:
        return said.keys["prefix"] == prefix_text(nlri)
    return said.keys.get("peer") in tellers


def _peers(engine: Engine, nlri: Nlri) -> Iterator[str]:
    """Yield who tells of a prefix, or has; O(prefixes remembered)."""
    yield from (each.peer for each in engine.rib.candidates(nlri) if each.peer is not None)
    yield from (update.peer for update in engine.updates if nlri in update.nlris)


def _event(said: log.Said) -> JsonObject:
    keys = {key: value if isinstance(value, int | float | bool) else str(value) for key, value in said.keys.items()}
    shown = {key: value for key, value in keys.items() if said.keys[key] is not None}
    return {"at": _iso(said.at), "level": said.level, "event": said.name, "keys": shown}


def _update(update: Update, nlri: Nlri, at: float) -> JsonObject:
    keys: JsonObject = {"peer": update.peer, "prefix": prefix_text(nlri)}
    for key, then in (("decided_after_s", update.decided_at), ("in_kernel_after_s", update.programmed_at)):
        if then is not None:
            keys[key] = round(then - update.read_at, 6)
    name = "route.withdrawn" if update.is_withdrawal else "route.announced"
    return {"at": _iso(at), "level": "info", "event": name, "keys": keys}


def _replaced(change: Replacement, nlri: Nlri, at: float) -> JsonObject:
    keys: JsonObject = {
        "peer": change.now or "local",
        "prefix": prefix_text(nlri),
        "in_place_of": change.was or "local",
    }
    return {"at": _iso(at), "level": "info", "event": "route.replaced", "keys": keys}


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
