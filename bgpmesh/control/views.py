"""What the commands answer: plain functions over the engine, which return exactly the JSON of the contract.

Nothing here changes anything. A table of many prefixes is an iterator over a snapshot of its keys: each
element is true when it is made, and the server sends it piece by piece while the daemon goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from bgpmesh import log
from bgpmesh.control import concerns, peers, policies, routes
from bgpmesh.control.arguments import number_of
from bgpmesh.control.history import history
from bgpmesh.control.server import RequestError
from bgpmesh.engine import Engine
from bgpmesh.rib.drain import Drain
from bgpmesh.route.nlri import ROUTED, IPAddress, Nlri, network_of, nlri_order, prefix_text
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


# ── status ───────────────────────────────────────────────────────────────────


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
        "peers": [peers.peer(engine, name, now) for name in sorted(engine.peers.sessions)],
        "ranges": peers.ranges(engine),
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
    others = sorted(set(said).difference(heard), key=nlri_order)[:SHOWN_REFUSED]
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


# ── history ──────────────────────────────────────────────────────────────────


def _history(running: Running, args: Mapping[str, object]) -> object:
    rib, since = running.engine.rib, number_of(args, "since", 0.0)
    nlri = None if args.get("prefix") is None else routes.meant(rib, args["prefix"])
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
    **peers.VIEWS,
    **routes.VIEWS,
    "history": _history,
    "workload list": _workloads,
    "pool show": _pool_show,
    **policies.VIEWS,
    "floating-ip list": _floating_ips,
}
