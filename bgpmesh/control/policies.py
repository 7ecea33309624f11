"""What the commands about packet policy answer: the objects, who is under what, and why a packet passes or does not."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Protocol

from bgpmesh.control.server import RequestError
from bgpmesh.engine import Engine
from bgpmesh.policy.attribution import Cause, Counters
from bgpmesh.policy.explain import Step, explain, why_not
from bgpmesh.policy.flowspec import NEVER, STATES, Entry
from bgpmesh.policy.form import Layer, Phase, Stack, runs_of
from bgpmesh.policy.model import Packet
from bgpmesh.policy.rule import ICMP, ICMPV6, PROTOCOLS, Action, Icmp
from bgpmesh.policy.store import Store
from bgpmesh.route.nlri import IPAddress
from bgpmesh.route.path import PeerName

if TYPE_CHECKING:
    from bgpmesh.policy.preview import Fate, Outcome

JsonObject = dict[str, object]


class Running(Protocol):
    """What these views need of the daemon."""

    @property
    def engine(self) -> Engine:
        """The core."""

    @property
    def counters(self) -> Counters:
        """What policies have counted."""

    @property
    def store(self) -> Store:
        """The objects."""

    def now(self) -> float:
        """Return the monotonic clock of the engine's events, in seconds."""


def summary(running: Running) -> JsonObject:
    """Return what `status` says of packet policy."""
    packets, local = running.engine.packets, running.engine.local
    errors = [remark._asdict() for remark in running.store.problems()]
    errors += [{"object": each, "field": "", "reason": reason} for each, reason in packets.unmade().items()]
    floating = local.floating_problems()
    errors += [{"object": f"floating_ip {each}", "field": "", "reason": reason} for each, reason in floating]
    return {
        "policies": len(packets.protection.policies()),
        "rules": packets.rules_in_force,
        "errors": errors,
        "warnings": [
            dict(zip(("object", "field", "reason"), each, strict=True))
            for each in (*packets.unguarded(), *packets.unknowable(), *running.engine.flows.left_out())
        ],
        "identities": packets.protection.remote_count,
    }


def get(running: Running, args: Mapping[str, object]) -> object:
    """Return objects in force: all, those of a kind, or one."""
    kind, name, namespace = (str(args.get(key) or "") for key in ("kind", "name", "namespace"))
    kept = running.store.kept()
    chosen = {
        key: each
        for key, each in kept.items()
        if not kind
        or (
            key.answers_to(kind, name, namespace or None)
            if name
            else key.is_of(kind) and (not namespace or key.namespace == namespace)
        )
    }
    if name and not chosen:
        raise RequestError("not-found", "no such object on this node", key=kind, value=name)
    return [
        {
            "kind": key.kind.partition(".")[0],
            "namespace": key.namespace,
            "name": key.written or key.name,
            "source": each.source or "applied",
            "object": each.document,
        }
        for key, each in sorted(chosen.items(), key=lambda row: (row[0].kind, row[0].namespace or "", row[0].name))
    ]


def listing(running: Running, _: Mapping[str, object]) -> object:
    """Return what each workload and each host endpoint here is under, in both directions, and in each phase of those.

    A workload has the phase `normal` alone.
    """
    compiled = running.engine.packets.protection.compiled
    rows = [(key, compiled.model.members[key].interface, Phase.NORMAL, own) for key, own in compiled.classes.items()]
    for host in compiled.hosts.values():
        for phase in Phase:
            own = {direction: chain for (of, direction), chain in host.stacks.items() if of is phase}
            rows += [(host.key, host.interface, phase, own)] if own else []
    return [
        {
            "workload": key,
            "interface": interface,
            "phase": phase.value,
            **{direction.value: _stack(running, compiled.stacks[chain]) for direction, chain in own.items()},
        }
        for key, interface, phase, own in rows
    ]


def _stack(running: Running, stack: Stack) -> list[JsonObject]:
    bodies = running.engine.packets.protection.compiled.bodies

    def row(layer: Layer) -> JsonObject:
        policies = [bodies[chain].policy for chain in layer.bodies]
        staged = [bodies[chain].policy for run in layer.runs for chain in run.bodies]
        default = None if layer.is_absent else layer.default.value
        return {"tier": layer.tier, "policies": policies, "staged": staged, "default": default, "chain": stack.chain}

    profiles = [bodies[chain].policy for chain in stack.profiles]
    last: JsonObject = {
        "tier": None,
        "policies": profiles,
        "staged": [],
        "default": stack.phase.last.value,
        "chain": stack.chain,
    }
    return [*map(row, stack.layers), last]


def explanation(running: Running, args: Mapping[str, object]) -> object:
    """Return whether a packet from one to another passes, every step to that, and on demand what would turn it."""
    engine, protection = running.engine, running.engine.packets.protection
    source, destination = _ends(engine, _word(args, "from"), _word(args, "to"))
    lead = engine.packets.leads.wanted.get(source)
    into, out = (engine.rib.ways.interface_towards(address) for address in (source, destination))
    into = into if lead is None else lead.interface  # where the route to it leads
    packet = replace(_packet(source, destination, args), into=into, out=out)
    translation = engine.packets.leads.translation
    steps, unknown, is_denied = _at_flows(engine, packet)
    found = explain(protection.compiled, packet, protection.options, translation)
    left_by = engine.rib.ways.masquerade_of(destination, engine.configured.around.addresses)
    if not is_denied:
        steps += [replace(step, to=left_by) if step.action == "masquerade" else step for step in found.steps]
        unknown += found.unknown
    if left_by is None and any(step.action == "masquerade" for step in steps):
        unknown.append(f"{destination}: which address of {out or 'this node'} it is masqueraded by")
    reasons = [f"{s.workload}: rule {s.rule} of {s.policy} denies it" for s in steps[-1:] if is_denied]
    answer: JsonObject = {
        "verdict": (Action.DENY if is_denied else found.verdict).value,
        "from": str(source),
        "to": str(destination),
        "steps": [_step(running, step, packet, is_live=bool(args.get("live"))) for step in steps],
        "unknown": unknown,
    }
    if args.get("why_not"):
        others = why_not(protection.compiled, packet, protection.options, translation)
        answer["why_not"] = [*reasons, *others]
    return answer


def _at_flows(engine: Engine, packet: Packet) -> tuple[list[Step], list[str], bool]:
    """Return the steps through what peers ask for by FlowSpec, what is not known, and whether one of them drops it."""
    steps, unknown = engine.flows.explain(packet, engine.configured.around.addresses, engine.node)
    return steps, unknown, any(step.action == Action.DENY.value for step in steps)


def flows(running: Running, _: Mapping[str, object]) -> object:
    """Return every flow that peers announce, in the order in which they are asked; what was refused with the reason.

    `packets` and `bytes` are those that were dropped, `passed` the packets that went on.
    """
    engine, now = running.engine, running.now()
    counts = {(family, c.name, c.rule, c.action): n for (family, c), n in running.counters.sums.items()}

    def row(entry: Entry, state: str, reason: str) -> JsonObject:
        if not engine.configured.kernel_enabled and state == "pending":
            reason = "kernel.enabled is false"
        who = entry.flow.version, entry.name, entry.number
        packets, size = counts.get((*who, Action.DENY.value), (0, 0))
        passed, _ = counts.get((*who, Action.ALLOW.value), (0, 0))
        return {
            "peer": entry.peer,
            "rule": entry.number,
            "family": entry.flow.key.family.label,
            "match": str(entry.flow),
            "action": str(entry.doing),
            "state": state,
            "reason": reason or None,
            "stale": entry.is_stale,
            "age_s": round(now - entry.heard_at, 3),
            "expires_s": None if state == "expired" or entry.expires_at == NEVER else round(entry.expires_at - now, 3),
            "packets": packets,
            "bytes": size,
            "passed": passed,
        }

    return [row(*each) for each in engine.flows.listing(engine.packets.chains.actual)]


def _step(running: Running, step: Step, packet: Packet, *, is_live: bool) -> JsonObject:
    row: JsonObject = asdict(step) | {
        "direction": step.direction.value,
        "to": None if step.to is None else str(step.to),
    }
    row["staged"] = row.pop("is_staged")
    if is_live:
        place = (step.chain, step.action, step.tier, step.policy, step.rule)
        row["packets"], row["bytes"] = running.counters.of(packet.family, place) or (None, None)
    return row


def flows_of(engine: Engine, peer: PeerName) -> JsonObject | None:
    """Return how many flows of a peer there are in each state; None where none are taken from it."""
    limit = engine.peers.sessions[peer].peer.flowspec
    if limit is None:
        return None
    found = Counter(
        each.state for each in engine.flows.listing(engine.packets.chains.actual) if each.entry.peer == peer
    )
    counted = {state: found[state] for state in STATES}
    forgotten = engine.flows.forgotten().get(peer, 0)
    return {"rules": limit.rules, "ttl": limit.ttl, **counted, "not remembered": forgotten}


def drops(running: Running, args: Mapping[str, object]) -> object:
    """Return what was dropped by which rule, the most first; with the workload where it can only be one.

    With `staged` what staged policies would do, whatever that is.
    """
    is_staged = bool(args.get("staged"))
    compiled = running.engine.packets.protection.compiled
    through: dict[
        str, list[str]
    ] = {}  # chain of a class or a body -> the workloads and host endpoints that go through it
    hosts = ((host.key, host.stacks.values()) for host in compiled.hosts.values())
    for key, chains in (*((key, own.values()) for key, own in compiled.classes.items()), *hosts):
        for chain in chains:
            stack = compiled.stacks[chain]
            bodies = (body for layer in stack.layers for body in layer.bodies)
            runs = (run.chain for run in runs_of(stack))
            for each in (chain, *bodies, *runs, *stack.profiles):
                through.setdefault(each, []).append(key)
    packets: Counter[Cause] = Counter()
    sizes: Counter[Cause] = Counter()
    for (_family, cause), (count, size) in running.counters.sums.items():
        is_drop = cause.is_final and cause.action == Action.DENY.value
        if count and (cause.is_staged if is_staged else is_drop):
            packets[cause] += count
            sizes[cause] += size
    return [
        {
            "policy": cause.name,
            "tier": cause.tier,
            "rule": cause.rule,
            "action": cause.action,
            "direction": None if cause.direction is None else cause.direction.value,
            "workload": own[0] if len(own) == 1 else None,
            "workloads": len(own),
            "packets": count,
            "bytes": sizes[cause],
            "chain": cause.chain,
        }
        for cause, count in packets.most_common()
        for own in (through.get(cause.chain, []),)
    ]


def previewed(found: Outcome, *, is_revoking: bool, looked_at: int, unknown: list[str]) -> JsonObject:
    """Return what a change would do; of connections of each fate the first, and how many there are."""
    lots = {"cut": found.cut, "restored": found.restored, "kept": found.kept}
    objects = {word: list(getattr(found, word)) for word in ("added", "changed", "unchanged", "deleted")}
    remarks = {"refused": found.refused, "warnings": found.warnings}
    return {
        **objects,
        **{word: [remark._asdict() for remark in some] for word, some in remarks.items()},
        "workloads": [
            {
                "workload": turn.workload,
                "phase": turn.phase.value,
                "direction": turn.direction.value,
                **{word: list(getattr(turn, word)) for word in ("added", "removed", "changed", "staged")},
            }
            for turn in found.turns
        ],
        "revoke": is_revoking,
        "looked_at": looked_at,
        **{f"{word}_count": lot.count for word, lot in lots.items()},
        **{word: list(map(_fate, lot.fates)) for word, lot in lots.items()},
        "unknown": unknown,
    }


def _fate(fate: Fate) -> JsonObject:
    """Return a connection: as it was called, what that is translated to if it is, and the step that denies it."""
    packet, each, step = fate.packet, fate.connection, fate.step
    called, answered = each.destination, each.reply_destination
    return {
        "protocol": _NAMES.get(packet.protocol, packet.protocol),
        "source": str(packet.source),
        "source_port": packet.source_port,
        "destination": str(called),
        "port": packet.port,
        "icmp": None if packet.icmp is None else f"{packet.icmp.type}/{packet.icmp.code}",
        "translated_source": None if answered == packet.source else str(answered),
        "translated_destination": None if called == packet.destination else str(packet.destination),
        "from": fate.source,
        "to": fate.destination,
        **dict.fromkeys(_OF_STEP),
        **({} if step is None else {key: getattr(step, key) for key in _OF_STEP}),
        "direction": None if step is None else step.direction.value,
    }


_OF_STEP = ("direction", "workload", "tier", "policy", "rule", "chain")
_NAMES = {number: name for name, number in PROTOCOLS.items()}


def _packet(source: IPAddress, destination: IPAddress, args: Mapping[str, object]) -> Packet:
    protocol = _protocol(str(args.get("protocol") or ("icmp" if args.get("icmp") else "tcp")), source.version)
    icmp = None
    if args.get("icmp"):
        kind, _, code = _word(args, "icmp").partition("/")
        if protocol not in (ICMP, ICMPV6):
            raise RequestError("bad-request", "goes with protocol icmp", key="icmp", value=_word(args, "icmp"))
        icmp = Icmp(_number(kind, "icmp", 255), _number(code or "0", "icmp", 255))
    elif protocol in (ICMP, ICMPV6):
        icmp = Icmp(8 if protocol == ICMP else 128, 0)  # an echo request
    ports = {key: None if args.get(key) is None else _number(str(args[key]), key, 65535) for key in _PORTS}
    return Packet(source, destination, protocol, ports["source_port"], ports["port"], icmp)


_PORTS = ("port", "source_port")


def _protocol(word: str, version: int) -> int:
    name = "icmpv6" if word == "icmp" and version == 6 else word
    return PROTOCOLS[name] if name in PROTOCOLS else _number(word, "protocol", 255)


def _number(text: str, key: str, most: int) -> int:
    if text.isascii() and text.isdigit() and int(text) <= most:
        return int(text)
    raise RequestError("bad-request", f"not a number up to {most}", key=key, value=text)


def _word(args: Mapping[str, object], key: str) -> str:
    word = args.get(key)
    if isinstance(word, str) and word:
        return word
    raise RequestError("bad-request", "is missing", key=key)


def _ends(engine: Engine, source: str, destination: str) -> tuple[IPAddress, IPAddress]:
    """Return an address of each end, of one family: IPv4 where both have one."""
    ends = _addresses(engine, source, "from"), _addresses(engine, destination, "to")
    for version in (4, 6):
        pair = [[each for each in addresses if each.version == version] for addresses in ends]
        if all(pair):
            return pair[0][0], pair[1][0]
    shown = ", ".join(map(str, ends[1]))
    raise RequestError("bad-request", f"{shown}: not of the family of {ends[0][0]}", key="to", value=destination)


def _addresses(engine: Engine, word: str, key: str) -> tuple[IPAddress, ...]:
    """Return the addresses of a workload, a node, or the one that the word is."""
    try:
        return (ipaddress.ip_address(word),)
    except ValueError:
        pass
    members = engine.packets.protection.compiled.model.members
    named = [each for each in members.values() if word in {each.key, each.key.partition("/")[2]}]
    if word in members:
        named = [members[word]]
    if len(named) > 1:
        choice = ", ".join(sorted(each.key for each in named))
        raise RequestError("bad-request", f"is more than one: {choice}", key=key, value=word)
    if named:
        return named[0].addresses
    if word == engine.node:
        return tuple(sorted(engine.configured.around.addresses, key=lambda address: address.version))
    peers = tuple(session.peer.address for name, session in engine.peers.sessions.items() if name == word)
    if not peers:
        reason = "neither an address, nor a workload (NAMESPACE/NAME) or node that is known here"
        raise RequestError("not-found", reason, key=key, value=word)
    return peers


VIEWS = {
    "get": get,
    "policy list": listing,
    "policy explain": explanation,
    "policy drops": drops,
    "policy flows": flows,
}
