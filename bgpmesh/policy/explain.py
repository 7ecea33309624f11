"""Why a packet passes or does not: the compiled form walked for one packet, term by term as the kernel would.

What is decided elsewhere is answered from what is known here, and said to be so: for a known workload of another
node the same policies are compiled as if it were here; of an address that may be anybody's nothing can be
said, and it is listed. A host endpoint of another node is listed, too.

Address translation is walked with it: the host's policies before it see the packet as it was called, all others as it
is translated, and what it leaves with is said last.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import assert_never

from bgpmesh.frozen import frozen
from bgpmesh.policy.attribution import FAILSAFE, NEIGHBOURS, SPOOFED
from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.form import (
    Body,
    Compiled,
    HasPort,
    HostInterface,
    InSet,
    IsIcmp,
    IsIn,
    IsProtocol,
    Phase,
    Run,
    Stack,
    Term,
    holds,
    lines_of,
)
from bgpmesh.policy.iptables import ICMPV6_ALLOWED, ICMPV6_OF_HOSTS, Options, host_chain
from bgpmesh.policy.model import Member, Model, Packet
from bgpmesh.policy.nat import ARRIVING, LEAVING, LIES, NOTHING, SENDING, Met, Translation
from bgpmesh.policy.rule import ICMPV6, Action, Direction, Profile
from bgpmesh.route.nlri import IPAddress, host_nlri

_ELSEWHERE = "a workload of another node, known by its address and hashes of its labels; its own side is decided there"
OPEN = Profile("(open before a policy selects it)")  # for a workload elsewhere, whose profiles are not known here


@frozen
class Step:
    """One station of a packet. A tier's default has no policy, a profile no tier, the end none of them.

    What is fixed has a name in parentheses as policy, and no rule: a failsafe port the key that it is from.
    """

    direction: Direction
    workload: str | None  # or a host endpoint: `host NODE/NAME`; None: the address translated is nobody's who is known
    tier: str | None
    policy: str | None
    rule: int | None  # counted from 1
    action: str  # of Action, "return": the host's own rules go on; or "dnat", "snat", "masquerade"
    chain: str
    is_staged: bool = False  # what would be; it decides nothing
    to: IPAddress | None = None  # which destination or source it gets; of "masquerade" it is not known here


@frozen
class Explanation:
    """The verdict (ALLOW or DENY), every step to it, and what could not be known."""

    verdict: Action
    steps: tuple[Step, ...]
    unknown: tuple[str, ...]


@frozen
class _Passage:
    """One direction of one workload, or of one host endpoint in one phase, that a packet goes through.

    `interface`: of a host endpoint. `is_here`: this node enforces it.
    """

    direction: Direction
    key: str
    compiled: Compiled
    stack: Stack
    interface: str | None = None
    is_here: bool = True

    @property
    def is_before_translation(self) -> bool:
        """Tell whether it sees the packet as it was called: on the node it is from, or early."""
        return self.stack.phase.is_early or (self.direction is Direction.EGRESS and not self.is_here)

    def step(self, action: str, chain: str, tier: str | None = None, policy: str | None = None) -> Step:
        """Return a step that is no rule's."""
        return Step(self.direction, self.key, tier, policy, None, action, chain)


def explain(
    compiled: Compiled,
    packet: Packet,
    options: Options = Options(),
    nat: Translation = NOTHING,
) -> Explanation:
    """Return whether the first packet of a connection passes, and why; both addresses are of one family.

    `packet` is as it was called. O(members), and a compilation of the policies for each end that is a workload of
    another node.
    """
    model, way = compiled.model, _way(compiled, packet, options, nat)
    unknown = [
        f"{address}: {_ELSEWHERE if model.is_remote(address) else 'no workload known here'}"
        for address in (way.packet.source, way.packet.destination)
        if model.is_remote(address) or model.is_unknown(address)
    ]
    if packet.destination in nat.elsewhere:
        unknown.append(f"{packet.destination}: a floating address, translated on the node of its workload")
    unknown += _undecided(compiled, way.packet)
    steps: list[Step] = [] if way.lie is None else [way.lie]
    waiting = way.arriving
    for passage, own in _walk(compiled, way, options):
        if not passage.is_here:
            unknown.append(f"{passage.direction.value} of {passage.key}: decided on its own node")
        if waiting and not passage.is_before_translation and not _is_denied(steps):
            steps, waiting = [*steps, *waiting], ()
        if not _is_denied(steps):
            steps += own
    if steps and steps[-1].action == "return":
        unknown.append(f"{way.packet.destination}: the host's own rules decide")
    if not _is_denied(steps):
        steps += (*waiting, *way.leaving)
    return Explanation(Action.DENY if _is_denied(steps) else Action.ALLOW, tuple(steps), tuple(unknown))


def why_not(
    compiled: Compiled,
    packet: Packet,
    options: Options = Options(),
    nat: Translation = NOTHING,
) -> tuple[str, ...]:
    """Return what stands in the way, one line for each direction that denies; nothing where the packet passes.

    Where a rule denies, that rule; where a default does, the allow rule of that tier that misses least.
    """
    way = _way(compiled, packet, options, nat)
    found: list[str] = [] if way.lie is None else [f"no workload sends from a floating address: {SPOOFED} denies it"]
    for passage, steps in _walk(compiled, way, options):
        if not _is_denied(steps):
            continue
        last, where = steps[-1], f"{passage.direction.value} of {passage.key}"
        if last.chain == "bm-to-host":
            found.append(f"{where}: workload_to_host denies it")
        elif last.rule is not None:
            found.append(f"{where}: rule {last.rule} of {last.policy} denies it")
        else:
            found.append(f"{where}: {_nearest(passage, way.seen_by(passage), last.tier)}")
    return tuple(found)


def judge(compiled: Compiled, options: Options = Options()) -> Callable[[Packet], bool | None]:
    """Return a function that tells whether the chains here let the first packet of a connection pass.

    None: it is no workload's of this node. Host endpoints are not asked: by which interface a connection goes is not
    known of it, and what is established passes them. It may be asked from another thread: a form does not change.
    """
    trial = _trial(compiled, options)

    def may_pass(packet: Packet) -> bool | None:
        is_asked = False
        for steps in trial(packet):
            if _is_denied(steps):
                return False
            is_asked = True
        return True if is_asked else None

    return may_pass


def denier(compiled: Compiled, options: Options = Options()) -> Callable[[Packet], Step | None]:
    """Return a function that tells by which step `judge` does not let a packet pass; None: it does, or is not asked."""
    trial = _trial(compiled, options)

    def denied_by(packet: Packet) -> Step | None:
        denied = (steps for steps in trial(packet) if _is_denied(steps))
        return next((step for steps in denied for step in reversed(steps) if not step.is_staged), None)

    return denied_by


def _trial(compiled: Compiled, options: Options) -> Callable[[Packet], Iterator[list[Step]]]:
    """Return a function that yields the steps of a packet at the workloads here."""
    here = {
        address: member
        for member in compiled.model.members.values()
        if member.interface is not None
        for address in member.addresses
    }

    def trial(packet: Packet) -> Iterator[list[Step]]:
        ends = (Direction.EGRESS, here.get(packet.source)), (Direction.INGRESS, here.get(packet.destination))
        for direction, member in ends:
            if member is not None:
                yield list(_steps(_at_workload(compiled, member, direction), packet, options))

    return trial


@frozen
class _Way:
    """What address translation makes of a packet, and the steps of that in three places."""

    called: Packet
    packet: Packet  # with the destination that it gets
    lie: Step | None = None  # it is dropped: no workload has that source
    arriving: tuple[Step, ...] = ()
    leaving: tuple[Step, ...] = ()

    def seen_by(self, passage: _Passage) -> Packet:
        """Return the packet as it is there."""
        return self.called if passage.is_before_translation else self.packet


def _way(compiled: Compiled, packet: Packet, options: Options, nat: Translation) -> _Way:
    """Return what becomes of the addresses of a packet, if it passes."""
    model = compiled.model
    source = model.owner(packet.source)
    into = source.interface if source is not None and source.interface is not None else packet.into
    if nat.meets(replace(packet, into=into), LIES) is not None:
        owner = next((key for key, member in model.members.items() if member.interface == into), None)
        lie = Step(Direction.EGRESS, owner, None, SPOOFED, None, Action.DENY.value, " ".join(LIES))
        return _Way(packet, packet, lie)
    met = nat.meets(packet, SENDING if packet.source in model.addresses else ARRIVING)
    way = _Way(packet, packet if met is None or met.to is None else replace(packet, destination=met.to))
    if _is_untracked(compiled, way, options):
        return _Way(packet, packet)
    destination = model.owner(way.packet.destination)
    if met is not None:
        way = replace(way, arriving=(_translated(met, Direction.INGRESS, destination),))
    is_of_host = packet.source in model.addresses
    if not is_of_host and not _is_through(model, way.packet, source, destination):
        return way
    if way.packet.destination in model.addresses or _is_inside(way, source, destination):
        return way
    left = nat.meets(way.packet, LEAVING)
    return way if left is None else replace(way, leaving=(_translated(left, Direction.EGRESS, source),))


def _is_inside(way: _Way, source: Member | None, destination: Member | None) -> bool:
    """Tell whether the packet never leaves a workload; to its own floating address it does."""
    return source is not None and source is destination and way.packet is way.called


def _translated(met: Met, direction: Direction, member: Member | None) -> Step:
    key = None if member is None else member.key
    return Step(direction, key, None, None, None, met.action, met.chain, to=met.to)


def _is_untracked(compiled: Compiled, way: _Way, options: Options) -> bool:
    """Tell whether a host endpoint allows the packet before it is tracked; then it is not translated either."""
    model = compiled.model
    ends = model.owner(way.packet.source), model.owner(way.packet.destination)
    return any(
        passage.stack.phase is Phase.UNTRACKED
        and _decision(list(_at_host(passage, way.called, options))) == Action.ALLOW.value
        for passage in _of_hosts(compiled, way.packet, *ends)
    )


def _walk(compiled: Compiled, way: _Way, options: Options) -> Iterator[tuple[_Passage, list[Step]]]:
    """Yield what has a say, in the order the packet meets it and past every denial, each with its steps."""
    is_allowed_early: set[Direction] = set()
    for passage in _passages(compiled, way):
        phase, direction, packet = passage.stack.phase, passage.direction, way.seen_by(passage)
        if passage.interface is None:
            yield passage, list(_steps(passage, packet, options))
        elif direction not in is_allowed_early:
            steps = list(_at_host(passage, packet, options))
            if phase.is_early and _decision(steps) == Action.ALLOW.value:
                is_allowed_early.add(direction)
            yield passage, steps


def _passages(compiled: Compiled, way: _Way) -> Iterator[_Passage]:
    """Yield the directions that have a say, in the order the packet meets them."""
    model, packet = compiled.model, way.packet
    source, destination = model.owner(packet.source), model.owner(packet.destination)
    if _is_inside(way, source, destination):
        return
    if source is not None and source.interface is None:
        yield _elsewhere(model, way.called, source, destination, Direction.EGRESS)
    yield from _of_hosts(compiled, packet, source, destination)
    for direction, member in ((Direction.EGRESS, source), (Direction.INGRESS, destination)):
        if member is not None and member.interface is not None:
            yield _at_workload(compiled, member, direction)
    if destination is not None and destination.interface is None:
        yield _elsewhere(model, packet, destination, source, Direction.INGRESS)


def _at_workload(compiled: Compiled, member: Member, direction: Direction) -> _Passage:
    return _Passage(direction, member.key, compiled, compiled.stacks[compiled.classes[member.key][direction]])


def _elsewhere(model: Model, packet: Packet, member: Member, other: Member | None, direction: Direction) -> _Passage:
    """Return a direction of a workload that is not of this node.

    Compiled for the purpose, with nobody but the two ends, whom alone the packet is about.
    """
    moved = replace(member, interface="-", profiles=member.profiles or (OPEN.name,))
    ends = {end.key: end for end in (other, moved) if end is not None}
    compiler = Compiler()
    addresses = (host_nlri(address) for address in (packet.source, packet.destination))
    compiler.learn({nlri: model.remote[nlri] for nlri in addresses if nlri in model.remote})
    compiled = compiler.compile(replace(model, members=ends, profiles=(*model.profiles, OPEN)))
    stack = compiled.stacks[compiled.classes[member.key][direction]]
    return _Passage(direction, member.key, compiled, stack, is_here=False)


def _is_here(member: Member | None) -> bool:
    return member is not None and member.interface is not None


def _is_through(model: Model, packet: Packet, source: Member | None, destination: Member | None) -> bool:
    """Tell whether this node forwards the packet; one between two that are not of the cluster it may."""
    ends = {packet.source, packet.destination}
    if ends & model.addresses or (any(map(model.is_remote, ends)) and not (_is_here(source) or _is_here(destination))):
        return False
    return _is_here(source) or _is_here(destination) or (source is None and destination is None)


def _of_hosts(
    compiled: Compiled, packet: Packet, source: Member | None, destination: Member | None
) -> Iterator[_Passage]:
    """Yield the phases of the host endpoints by which the packet comes and goes, where these are known."""
    own = compiled.model.addresses
    is_from, is_to = packet.source in own, packet.destination in own
    into = source.interface if source and source.interface else packet.into
    out = destination.interface if destination and destination.interface else packet.out
    if is_from and is_to:
        into = out = "lo"
    asked: list[tuple[Phase, Direction, str | None]] = []
    if is_from and not _is_here(destination):
        asked += [(phase, Direction.EGRESS, out) for phase in (Phase.UNTRACKED, Phase.NORMAL)]
    is_through = _is_through(compiled.model, packet, source, destination)
    if is_to or is_through:
        asked += [(Phase.UNTRACKED, Direction.INGRESS, into)] * (not _is_here(source))
        asked += [(Phase.PRE_DNAT, Direction.INGRESS, into)]
    if is_to and not _is_here(source):
        asked += [(Phase.NORMAL, Direction.INGRESS, into)]
    if is_through:
        asked += [(Phase.FORWARD, Direction.INGRESS, into), (Phase.FORWARD, Direction.EGRESS, out)]
    for phase, direction, interface in asked:
        host = compiled.host_on(interface) if interface is not None else _only_host(compiled)
        if host is not None and (phase, direction) in host.stacks:
            stack = compiled.stacks[host.stacks[phase, direction]]
            yield _Passage(direction, host.key, compiled, stack, host.interface)


def _only_host(compiled: Compiled) -> HostInterface | None:
    """Return the host endpoint that every interface is under, if there is no other."""
    return compiled.hosts.get("*") if len(compiled.hosts) == 1 else None


def _undecided(compiled: Compiled, packet: Packet) -> Iterator[str]:
    """Yield what is not known of host endpoints: by which interface, or what another node says."""
    model = compiled.model
    source, destination = model.owner(packet.source), model.owner(packet.destination)
    ends = (
        (Direction.EGRESS, packet.source, source, packet.into, "comes by"),
        (Direction.INGRESS, packet.destination, destination, packet.out, "leaves by"),
    )
    own = model.addresses & {packet.source, packet.destination}
    is_asked = bool(own) or _is_through(model, packet, source, destination)
    for direction, address, member, interface, word in ends:
        for host in model.hosts:
            if host.interface is None and address in host.member.addresses and address not in model.addresses:
                yield f"{direction.value} of {host.member.key}: decided on its own node"
        is_met = is_asked and not _is_here(member) and address not in model.addresses
        if is_met and interface is None and compiled.hosts and _only_host(compiled) is None:
            yield f"{address}: which interface of this node it {word}"


def _is_denied(steps: list[Step]) -> bool:
    return _decision(steps) == Action.DENY.value


def _decision(steps: list[Step]) -> str | None:
    """Return what the last step says that decides anything."""
    return next((step.action for step in reversed(steps) if not step.is_staged), None)


def _steps(passage: _Passage, packet: Packet, options: Options) -> Iterator[Step]:
    """Yield the steps of one passage, the last of them deciding; what the host is an end of goes its own way."""
    own = passage.compiled.model.addresses if passage.is_here else frozenset()
    if passage.direction is Direction.INGRESS and packet.source in own:
        yield passage.step(Action.ALLOW.value, "bm-OUTPUT")  # a node always reaches its own workloads
        return
    if passage.direction is Direction.INGRESS or packet.destination not in own:
        yield from _through(passage, packet)
        return
    if packet.family == 6 and packet.protocol == ICMPV6 and packet.icmp and packet.icmp.type in ICMPV6_ALLOWED:
        yield replace(passage.step(Action.ALLOW.value, "bm-to-host"), policy=NEIGHBOURS)
        return
    steps = list(_through(passage, packet))
    yield from steps
    if not _is_denied(steps):
        yield passage.step(options.to_host, "bm-to-host")


def _at_host(passage: _Passage, packet: Packet, options: Options) -> Iterator[Step]:
    """Yield the steps at a host endpoint. Before the other phases neighbours and failsafe ports are passed over."""
    phase, direction = passage.stack.phase, passage.direction
    if phase is not Phase.FORWARD:
        chain = host_chain(phase, direction, passage.interface or "*")
        is_neighbour = packet.family == 6 and packet.protocol == ICMPV6 and packet.icmp is not None
        if is_neighbour and packet.icmp and packet.icmp.type in ICMPV6_OF_HOSTS:
            if not phase.is_early:
                yield passage.step(Action.ALLOW.value, chain, policy=NEIGHBOURS)
            return
        if (key := _failsafe(packet, direction, phase, options)) is not None:
            if not phase.is_early:
                yield passage.step(Action.ALLOW.value, chain, policy=key)
            return
    yield from _through(passage, packet)


def _failsafe(packet: Packet, direction: Direction, phase: Phase, options: Options) -> str | None:
    """Return what keeps the packet's port open, if anything does; before tracking that is so of answers, too."""
    ways = {Direction.INGRESS: options.failsafe_inbound, Direction.EGRESS: options.failsafe_outbound}
    far = packet.source if direction is Direction.INGRESS else packet.destination
    for way, ports in ways.items():
        port = packet.port if way is direction else packet.source_port
        if way is not direction and phase is not Phase.UNTRACKED:
            continue
        for each in ports:
            if (each.protocol, each.port) == (packet.protocol, port) and (each.net is None or far in each.net):
                return FAILSAFE[way]
    return None


def _through(passage: _Passage, packet: Packet) -> Iterator[Step]:
    """Yield the steps through the stack."""
    stack, bodies = passage.stack, passage.compiled.bodies
    for layer in stack.layers:
        action: Action | None = None
        for part in layer.parts:
            if isinstance(part, Run):
                yield from _would_be(passage, part, layer.tier, packet)
                continue
            action = yield from _lines(passage, bodies[part], packet)
            if action is not None:
                break
        if layer.is_absent:
            continue
        if action is None:
            action = layer.default
            yield from _by_default(passage, action, layer.tier)
        if action is not Action.PASS:
            return
    for chain in stack.profiles:
        if (yield from _lines(passage, bodies[chain], packet)) in {Action.ALLOW, Action.DENY}:
            return
    yield from _at_the_end(passage)


def _by_default(passage: _Passage, action: Action, tier: str | None = None) -> Iterator[Step]:
    """Yield what a tier without a match comes to, or the end: nothing where another phase is asked."""
    if not passage.stack.phase.is_early:
        yield passage.step(action.value, passage.stack.chain, tier)


def _at_the_end(passage: _Passage) -> Iterator[Step]:
    """Yield what the end of a stack comes to; what is forwarded meets none where policies for it are staged only."""
    stack = passage.stack
    if stack.phase is not Phase.FORWARD or any(layer.bodies for layer in stack.layers):
        yield from _by_default(passage, stack.phase.last)


def _lines(passage: _Passage, body: Body, packet: Packet) -> Generator[Step, None, Action | None]:
    """Yield a step for each line that matches; return the action of the one that decides."""
    for line in body.lines[packet.family]:
        if all(holds(term, packet, passage.compiled.sets) for term in line.terms):
            key, action = passage.key, line.action
            yield Step(passage.direction, key, body.tier, body.policy, line.rule, action.value, body.chain)
            if action is not Action.LOG:
                return action
    return None


def _would_be(passage: _Passage, run: Run, tier: str, packet: Packet) -> Iterator[Step]:
    """Yield what staged policies would do, if that is anything."""
    for body, line in lines_of(run, passage.compiled.bodies, packet.family):
        if all(holds(term, packet, passage.compiled.sets) for term in line.terms):
            step = passage.step(line.action.value, run.chain, tier)
            yield replace(step, policy=body.policy, rule=line.rule, is_staged=True)
            return
    if run.default is not None:
        yield replace(passage.step(run.default.value, run.chain, tier), is_staged=True)


def _nearest(passage: _Passage, packet: Packet, tier: str | None) -> str:
    """Return the allow rule of a tier (None: of the profiles) that misses least, and what it misses."""
    stack, bodies = passage.stack, passage.compiled.bodies
    chains = [chain for layer in stack.layers if layer.tier == tier for chain in layer.bodies]
    missing = [
        ([term for term in line.terms if not holds(term, packet, passage.compiled.sets)], body.policy, line.rule)
        for body in (bodies[chain] for chain in (stack.profiles if tier is None else chains))
        for line in body.lines[packet.family]
        if line.action is Action.ALLOW
    ]
    if not missing:
        names = ", ".join(dict.fromkeys(bodies[chain].policy for chain in chains))
        what = "no profile" if tier is None else f"no rule of tier {tier} ({names})"
        return f"{what} allows anything here"
    terms, policy, rule = min(missing, key=lambda row: len(row[0]))
    return f"rule {rule} of {policy} would allow it but for {' and '.join(dict.fromkeys(map(_name, terms)))}"


def _name(term: Term) -> str:
    """Return what a term is about."""
    match term:
        case IsProtocol():
            return "the protocol"
        case IsIcmp():
            return "the ICMP type"
        case IsIn(end, _):
            return f"the {end.name.lower()} address"
        case InSet(end, _, _, with_port):
            return f"the {end.name.lower()} {'port' if with_port else 'address'}"
        case HasPort(end, _, _):
            return f"the {end.name.lower()} port"
    assert_never(term)
