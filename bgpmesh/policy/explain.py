"""Why a packet passes or does not: the compiled form walked for one packet, term by term as the kernel would.

What is decided elsewhere is answered from what is known here, and said to be so: for a known workload of another
node the same policies are compiled as if it were here; of an address that may be anybody's nothing can be
said, and it is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import assert_never

from bgpmesh.policy.attribution import NEIGHBOURS
from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.form import (
    Body,
    Compiled,
    End,
    HasPort,
    InSet,
    IsIcmp,
    IsIn,
    IsProtocol,
    Run,
    Stack,
    Term,
    lines_of,
)
from bgpmesh.policy.iptables import ICMPV6_ALLOWED, Options
from bgpmesh.policy.model import Member, Packet
from bgpmesh.policy.rule import ICMPV6, Action, Direction, Profile
from bgpmesh.route.nlri import IPAddress, host_nlri

_ELSEWHERE = "a workload of another node, known by its address and hashes of its labels; its own side is decided there"
OPEN = Profile("(open before a policy selects it)")  # for a workload elsewhere, whose profiles are not known here


@dataclass(frozen=True, slots=True)
class Step:
    """One station of a packet. A tier's default has no policy, a profile no tier, the end none of them."""

    direction: Direction
    workload: str
    tier: str | None
    policy: str | None
    rule: int | None  # counted from 1
    action: str  # of Action, or "return": the host's own rules go on
    chain: str
    is_staged: bool = False  # what would be; it decides nothing


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict (ALLOW or DENY), every step to it, and what could not be known."""

    verdict: Action
    steps: tuple[Step, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Passage:
    """One direction of one workload that a packet goes through."""

    direction: Direction
    member: Member
    compiled: Compiled

    @property
    def stack(self) -> Stack:
        return self.compiled.stacks[self.compiled.classes[self.member.key][self.direction]]

    def step(self, action: str, chain: str, tier: str | None = None) -> Step:
        """Return a step that is no policy's."""
        return Step(self.direction, self.member.key, tier, None, None, action, chain)


def explain(compiled: Compiled, packet: Packet, options: Options = Options()) -> Explanation:  # noqa: B008  a value
    """Return whether the first packet of a connection passes, and why; both addresses are of one family.

    O(members), and a compilation of the policies for each end that is a workload of another node.
    """
    model = compiled.model
    unknown = [
        f"{address}: {_ELSEWHERE if model.is_remote(address) else 'no workload known here'}"
        for address in (packet.source, packet.destination)
        if model.is_remote(address) or model.is_unknown(address)
    ]
    steps: list[Step] = []
    for passage in _passages(compiled, packet):
        if passage.member.interface is None:
            unknown.append(f"{passage.direction.value} of {passage.member.key}: decided on its own node")
        if not _is_denied(steps):
            steps += _steps(passage, packet, options)
    if steps and steps[-1].action == "return":
        unknown.append(f"{packet.destination}: the host's own rules decide")
    return Explanation(Action.DENY if _is_denied(steps) else Action.ALLOW, tuple(steps), tuple(unknown))


def why_not(compiled: Compiled, packet: Packet, options: Options = Options()) -> tuple[str, ...]:  # noqa: B008  a value
    """Return what stands in the way, one line for each direction that denies; nothing where the packet passes.

    Where a rule denies, that rule; where a default does, the allow rule of that tier that misses least.
    """
    found: list[str] = []
    for passage in _passages(compiled, packet):
        steps = list(_steps(passage, packet, options))
        last, where = steps[-1], f"{passage.direction.value} of {passage.member.key}"
        if not _is_denied(steps):
            continue
        if last.chain == "bm-to-host":
            found.append(f"{where}: workload_to_host denies it")
        elif last.rule is not None:
            found.append(f"{where}: rule {last.rule} of {last.policy} denies it")
        else:
            found.append(f"{where}: {_nearest(passage, packet, last.tier)}")
    return tuple(found)


def judge(compiled: Compiled, options: Options = Options()) -> Callable[[Packet], bool | None]:  # noqa: B008  a value
    """Return a function that tells whether the chains here let the first packet of a connection pass.

    None: it is no workload's of this node. It may be asked from another thread: a compiled form does not change.
    """
    here = {
        address: member
        for member in compiled.model.members.values()
        if member.interface is not None
        for address in member.addresses
    }

    def may_pass(packet: Packet) -> bool | None:
        ends = (Direction.EGRESS, here.get(packet.source)), (Direction.INGRESS, here.get(packet.destination))
        passages = [_Passage(direction, member, compiled) for direction, member in ends if member is not None]
        if not passages:
            return None
        return not any(_is_denied(list(_steps(passage, packet, options))) for passage in passages)

    return may_pass


def _passages(compiled: Compiled, packet: Packet) -> Iterator[_Passage]:
    """Yield the directions that have a say, in the order the packet meets them."""
    model = compiled.model
    source, destination = model.owner(packet.source), model.owner(packet.destination)
    if source is not None and source is destination:
        return  # it never leaves the workload
    ends = {end.key: end for end in (source, destination) if end is not None}
    for direction, member in ((Direction.EGRESS, source), (Direction.INGRESS, destination)):
        if member is None:
            continue
        if member.interface is not None:
            yield _Passage(direction, member, compiled)
            continue
        # Not of this node: compiled for the purpose, with nobody but the two ends, whom alone the packet is about.
        moved = replace(member, interface="-", profiles=member.profiles or (OPEN.name,))
        alone = replace(model, members=ends | {member.key: moved}, profiles=(*model.profiles, OPEN))
        compiler = Compiler()
        ends_elsewhere = map(host_nlri, (packet.source, packet.destination))
        compiler.learn({nlri: model.remote[nlri] for nlri in ends_elsewhere if nlri in model.remote})
        yield _Passage(direction, member, compiler.compile(alone))


def _is_denied(steps: list[Step]) -> bool:
    return bool(steps) and steps[-1].action == Action.DENY.value


def _steps(passage: _Passage, packet: Packet, options: Options) -> Iterator[Step]:
    """Yield the steps of one passage, the last of them deciding; what the host is an end of goes its own way."""
    own = passage.compiled.model.addresses if passage.member.interface is not None else frozenset()
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
            yield passage.step(action.value, stack.chain, layer.tier)
        if action is not Action.PASS:
            return
    for chain in stack.profiles:
        if (yield from _lines(passage, bodies[chain], packet)) in {Action.ALLOW, Action.DENY}:
            return
    yield passage.step(Action.DENY.value, stack.chain)


def _lines(passage: _Passage, body: Body, packet: Packet) -> Generator[Step, None, Action | None]:
    """Yield a step for each line that matches; return the action of the one that decides."""
    for line in body.lines[packet.family]:
        if all(_holds(term, packet, passage.compiled) for term in line.terms):
            key, action = passage.member.key, line.action
            yield Step(passage.direction, key, body.tier, body.policy, line.rule, action.value, body.chain)
            if action is not Action.LOG:
                return action
    return None


def _would_be(passage: _Passage, run: Run, tier: str, packet: Packet) -> Iterator[Step]:
    """Yield what staged policies would do, if that is anything."""
    for body, line in lines_of(run, passage.compiled.bodies, packet.family):
        if all(_holds(term, packet, passage.compiled) for term in line.terms):
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
        ([term for term in line.terms if not _holds(term, packet, passage.compiled)], body.policy, line.rule)
        for body in (bodies[chain] for chain in (stack.profiles if tier is None else chains))
        for line in body.lines[packet.family]
        if line.action is Action.ALLOW
    ]
    what = "no profile" if tier is None else f"no rule of tier {tier}"
    if not missing:
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


def _holds(term: Term, packet: Packet, compiled: Compiled) -> bool:
    """Tell whether one term holds for the packet."""
    match term:
        case IsProtocol(number, is_negated):
            return (packet.protocol == number) is not is_negated
        case IsIcmp(icmp, is_negated):
            own = packet.icmp
            same = own is not None and own.type == icmp.type and icmp.code in {None, own.code}
            return same is not is_negated
        case IsIn(end, net):
            return _address(packet, end) in net
        case InSet(end, name, is_negated, with_port):
            found, address = compiled.sets[name], _address(packet, end)
            has = found.holds_port(address, packet.protocol, _port(packet, end)) if with_port else found.holds(address)
            return has is not is_negated
        case HasPort(end, ranges, is_negated):
            port = _port(packet, end)
            return (port is not None and any(r.first <= port <= r.last for r in ranges)) is not is_negated
    assert_never(term)


def _address(packet: Packet, end: End) -> IPAddress:
    return packet.source if end is End.SOURCE else packet.destination


def _port(packet: Packet, end: End) -> int | None:
    return packet.source_port if end is End.SOURCE else packet.port
