"""The compiled form as chains: the verdict in the filter table, a guard of it in another, and no lies about sources.

    FORWARD -> bm-forwarded             -> bm-fd-.. (a tree on interface names) -> bm-fw-IFACE -> bm-ce-.. -> bm-pe-..
                                        -> bm-td-..                             -> bm-tw-IFACE -> bm-ci-.. -> bm-pi-..
    INPUT   -> bm-INPUT   -> bm-to-host -> bm-fd-.. as above, then what `to_host` says
    OUTPUT  -> bm-OUTPUT  -> returns: the host reaches its own workloads

    mangle FORWARD      -> what comes from or goes to a workload is under guard, and has no verdict yet
    mangle POSTROUTING  -> what is under guard and still has none is dropped
    mangle INPUT        -> where workloads may not reach the host: the same again; where they may: no verdict yet
    security INPUT      -> where workloads may reach the host: what is new and has no verdict then is dropped
    raw PREROUTING      -> a workload sends from the addresses that are routed to it
    mangle PREROUTING   -> IPv6: the same again; of IPv4 the kernel asks it too (rp_filter)

With a host endpoint, what is no workload's goes further; of what nothing asks for there is no chain:

    INPUT                -> bm-INPUT   -> bm-fhd-.. (a tree)  -> bm-fh-IFACE  -> normal, ingress
    OUTPUT               -> bm-OUTPUT  -> bm-thd-..           -> bm-th-IFACE  -> normal, egress
    FORWARD              -> bm-through -> bm-fhfd-.. -> bm-fhf-IFACE -> forward, ingress
                                       -> bm-thfd-.. -> bm-thf-IFACE -> forward, egress
    raw PREROUTING       -> bm-fhd-..  -> bm-fh-IFACE -> untracked, ingress, but for what comes from a workload
    raw OUTPUT           -> bm-thd-..  -> bm-th-IFACE -> untracked, egress
    mangle PREROUTING    -> bm-fhd-..  -> bm-fh-IFACE -> pre-DNAT
    mangle POSTROUTING   -> bm-redirected -> bm-thd-.. -> bm-th-IFACE -> normal, egress, of what OUTPUT's NAT has sent
                            elsewhere: before that the kernel knows no interface for it

Rule 1. Nothing of a body accepts: an allow sets the mark and returns, so that the other direction still runs; the
        one ACCEPT is in `bm-forwarded`, for what came back with the mark from each direction it has.
Rule 2. The mark is cleared before each direction and asked for after it. A chain of ours that somebody empties
        on the way there lets nothing through, and with the guard neither does a hook that somebody deletes. A body
        that denies or passes on says at its end that it was gone through: one that is empty would let more through.
Rule 3. Below a dispatch everything is `-g`: an end of chain comes back to `bm-forwarded`, past the bin's DROP.
Rule 4. Names that people choose do not reach the text. Chains and sets are called by hashes; interface names
        are checked, and every rule is matched against one grammar (`grammar.py`) before it leaves.
Rule 5. What the host endpoint of no interface is about is left to the host's other rules, and so is what one allows
        to be forwarded: there is no guard of a host, which would lock people out of it. Where one is asked, what is
        established passes, then neighbour discovery and the failsafe ports, and only then policy.
Rule 6. What workloads send to the host is guarded against a missing verdict, not against the host's own rules: what is
        established goes on without our hook in INPUT, what is new does not, and where that hook has asked, the rules
        behind it decide as they would. A kernel without the table `security` has no such guard, which `status` says.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import assert_never

from bgpmesh.frozen import frozen
from bgpmesh.policy.chains import ChainKey, Rules
from bgpmesh.policy.compile import MULTIPORT
from bgpmesh.policy.form import (
    FAMILIES,
    Body,
    Compiled,
    End,
    HasPort,
    InSet,
    IsIcmp,
    IsIn,
    IsProtocol,
    Line,
    Phase,
    Run,
    Stack,
    Term,
    lines_of,
    runs_of,
)
from bgpmesh.policy.grammar import as_written, is_interface
from bgpmesh.policy.rule import (
    FAILSAFE_INBOUND,
    FAILSAFE_OUTBOUND,
    ICMPV6,
    Action,
    Direction,
    Failsafe,
    IPNetwork,
)

_Chains = dict[str, Rules]  # of one table

HOOKS = {  # that may lead to chains of ours
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
    "security": ("INPUT",),
}
SPARE = frozenset({"security"})  # tables that a kernel may do without, so nothing is in them but a second guard
BIN = 8  # interfaces that one dispatch chain asks for one after the other; more are split by their next character
# Neighbour discovery and multicast listeners (RFC 4861 §4, RFC 2710 §3): without them a workload has no way to the
# host's link. Not 134: a workload advertises no router, and a host that hears it from one would route by it.
ICMPV6_ALLOWED = (130, 131, 132, 133, 135, 136)
# A host has all of it, both ways: also what its routers advertise, and listener reports of version 2 (RFC 3810 §5.2).
ICMPV6_OF_HOSTS = (*range(130, 137), 143)


@frozen
class Options:
    """What the rules take from the configuration, and the bits that are ours."""

    prefix: str = "bgpm"  # of the links of workloads
    to_host: str = (
        "deny"  # what a workload's egress lets go to its own host: "deny", "allow", or "return" (to the host's)
    )
    accepted: int = 0x0100_0000  # bits of the packet mark
    passed: int = 0x0200_0000
    guarded: int = 0x0400_0000
    walked: int = 0x0800_0000  # gone through to the end of a body that denies or passes on
    early: int = 0x1000_0000  # allowed by a host endpoint before it was tracked, or before destination NAT
    redirected: int = 0x2000_0000  # the host's own, of which the interface is known later
    revoked: int = 0x0100_0000  # of the connection mark: no longer allowed
    log_group: int = 0  # of NFLOG, which hears of drops; 0: none does
    failsafe_inbound: tuple[Failsafe, ...] = FAILSAFE_INBOUND
    failsafe_outbound: tuple[Failsafe, ...] = FAILSAFE_OUTBOUND


@frozen
class Verdicts:
    """The chains of stacks and of the bodies in them, and what they were rendered from."""

    compiled: Compiled
    options: Options
    chains: Mapping[ChainKey, Rules]

    def body(self, key: ChainKey, body: Body) -> Rules | None:
        """Return the rules of a body, None where it is another than it was."""
        return self.chains.get(key) if self.compiled.bodies.get(key.chain) is body else None

    def stack(self, key: ChainKey, stack: Stack, bodies: Mapping[str, Body]) -> Rules | None:
        """Return the rules of a stack, None where it or something in it is another than it was."""
        were = self.compiled.bodies
        asked = itertools.chain(_bodies_of(stack), *(run.bodies for run in runs_of(stack)))
        is_same = self.compiled.stacks.get(key.chain) is stack and all(were.get(c) is bodies[c] for c in asked)
        return self.chains.get(key) if is_same else None


def verdicts(compiled: Compiled, options: Options, last: Verdicts | None = None) -> Verdicts:
    """Return the chains of stacks and bodies; those of the last time cost little where they are the same."""
    if last is not None and last.options != options:
        last = None
    if last is not None:
        parts = zip(_parts(compiled), _parts(last.compiled), strict=True)
        if all(now is before for now, before in parts):
            return last
    found: dict[ChainKey, Rules] = {}
    for family in FAMILIES:
        for table, stacks in _stacks_of(compiled).items():
            found |= _verdicts(compiled, stacks, (family, table), options, last)
    return Verdicts(compiled, options, found)


_parts = operator.attrgetter("stacks", "bodies", "hosts")


def render(compiled: Compiled, options: Options = Options(), known: Verdicts | None = None) -> dict[ChainKey, Rules]:
    """Return every chain of ours, and what the built-in chains begin with; `known`: the verdicts of that form."""
    ways = _ways(compiled, options)
    found = dict((known or verdicts(compiled, options)).chains)
    hosts = _Hosts(compiled, options)
    for family in FAMILIES:
        found |= {ChainKey(family, "filter", chain): rules for chain, rules in ways.items()}
        chains: dict[tuple[str, str], list[str]] = {}
        for place, rules in (*_fixed(family, options, hosts), *hosts.chains(family)):
            chains.setdefault(place, []).extend(rules)
        for table, hooks in HOOKS.items():
            led = [hook for hook in hooks if chains.get((table, f"bm-{hook}"))]
            chains |= {(table, hook): [f"-j bm-{hook}"] for hook in led if (table, hook) not in chains}
        for (table, chain), rules in chains.items():
            if rules:
                found[ChainKey(family, table, chain)] = as_written(chain, tuple(rules), options.log_group)
    return found


def _stacks_of(compiled: Compiled) -> dict[str, list[Stack]]:
    """Return which stacks are asked in which table."""
    found: dict[str, list[Stack]] = {"filter": [], "mangle": [], "raw": []}
    own = {host.stacks[Phase.NORMAL, Direction.EGRESS] for host in compiled.hosts.values()}
    for stack in compiled.stacks.values():
        found[_TABLES.get(stack.phase, "filter")].append(stack)
    found["mangle"] += [compiled.stacks[chain] for chain in sorted(own)]
    return found


_TABLES = {Phase.UNTRACKED: "raw", Phase.PRE_DNAT: "mangle"}


def _ways(compiled: Compiled, options: Options) -> _Chains:
    """Return the chains that lead from an interface to its classes: the same in both families."""
    chains: dict[str, list[str]] = {}
    places: dict[Direction, dict[str, str]] = {direction: {} for direction in Direction}
    for key, classes in compiled.classes.items():
        interface = compiled.model.members[key].interface or ""
        if not (is_interface(interface) and interface.startswith(options.prefix)):
            raise ValueError(f"{key}: {interface!r} is no name of a workload's link (prefix {options.prefix!r})")
        for direction, chain in classes.items():
            places[direction][interface] = chain
    for direction, to_class in places.items():
        flag = "-i" if direction is Direction.EGRESS else "-o"
        targets = {name: f"-g {_own_chain(direction, name)}" for name in sorted(to_class)}
        chains |= _dispatch(flag, _bin(direction, ""), options.prefix, targets, "-j DROP")
        chains |= {_own_chain(direction, name): [f"-g {chain}"] for name, chain in to_class.items()}
    return {chain: as_written(chain, tuple(rules), options.log_group) for chain, rules in chains.items()}


def _verdicts(
    compiled: Compiled, stacks: Iterable[Stack], place: tuple[int, str], options: Options, last: Verdicts | None
) -> dict[ChainKey, Rules]:
    """Return the chains of stacks in one table, and those of the policies and profiles in them."""
    family, bodies = place[0], compiled.bodies
    found: dict[ChainKey, Rules] = {}
    used: dict[str, None] = {}
    runs: dict[str, Run] = {}
    for stack in stacks:
        key = ChainKey(*place, stack.chain)
        rules = last.stack(key, stack, bodies) if last else None
        if rules is None:
            rules = as_written(stack.chain, tuple(_stack(stack, bodies, family, options)), options.log_group)
        found[key] = rules
        used.update(dict.fromkeys(_bodies_of(stack)))
        runs |= {run.chain: run for run in runs_of(stack)}
    for run in runs.values():
        if rules := tuple(_counting(run, bodies, family)):
            found[ChainKey(*place, run.chain)] = as_written(run.chain, rules)
    for chain in sorted(used):
        body, key = bodies[chain], ChainKey(*place, chain)
        if not body.lines[family]:
            continue
        rules = last.body(key, body) if last else None
        if rules is None:
            lines = [_line(line, body, family) for line in body.lines[family]]
            end = [_mark(options.walked)] if _closes(body, family) else []
            rules = as_written(chain, (*lines, *end), options.log_group)
        found[key] = rules
    return found


def _bodies_of(stack: Stack) -> Iterator[str]:
    """Yield the chains of all the bodies that a stack goes through."""
    for layer in stack.layers:
        yield from layer.bodies
    yield from stack.profiles


def _fixed(family: int, options: Options, hosts: _Hosts) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """Yield the chains that are there whatever the model, each with its table."""
    wild = f"{options.prefix}+"
    allowed, denied = _marked(options.accepted), f"{_unmarked(options.accepted)} -j DROP"
    neighbours = _neighbours(ICMPV6_ALLOWED, family, "-j ACCEPT")
    over, *others_known = _known_connections(options, "-g bm-accept")
    first = [over, *others_known, _clear(options.accepted)]
    out = [f"-i {wild} -j {_bin(Direction.EGRESS, options.prefix)}", f"-i {wild} {denied}"]
    into = [f"-o {wild} {_clear(options.accepted)}", f"-o {wild} -j {_bin(Direction.INGRESS, options.prefix)}"]
    last = {"deny": ["-j DROP"], "allow": [f"{allowed} -j ACCEPT", "-j DROP"], "return": []}[options.to_host]
    through = ["-j bm-through"] if hosts.is_on_forward else []
    yield ("filter", "FORWARD"), [*through, f"-i {wild} -j bm-forwarded", f"-o {wild} -j bm-forwarded"]
    yield ("filter", "bm-INPUT"), [f"-i {wild} -g bm-to-host"]
    # A mark that the host's own sockets set is somebody else's, whatever it has of ours.
    yield ("filter", "bm-OUTPUT"), [_clear(options.guarded | options.redirected), f"-o {wild} -j RETURN"]
    yield ("filter", "bm-forwarded"), [*first, *out, *into, f"{allowed} -j ACCEPT", "-j DROP"]
    yield ("filter", "bm-to-host"), [*neighbours, *first, *out, *last]
    yield ("filter", "bm-accept"), [_mark(options.accepted), "-j ACCEPT"]
    yield from ((("filter", chain), rules) for chain, rules in _verdict_chains(options).items())
    yield from _guards(family, options)


def _guards(family: int, options: Options) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """Yield what drops packets whose verdict is missing, and those with a source that is not theirs.

    What every packet meets is in the built-in chain itself: a jump costs as much as a rule.
    """
    wild, over = f"{options.prefix}+", _known_connections(options, "")[0]
    verdict = options.guarded | options.accepted
    # All are put under guard, whatever mark they came with, and those of others let off: that is one rule less.
    guard = f"-j MARK --set-xmark {options.guarded:#x}/{verdict | options.redirected:#x}"
    yield ("mangle", "FORWARD"), [guard, f"! -i {wild} ! -o {wild} {_clear(options.guarded)}"]
    yield ("mangle", "POSTROUTING"), [f"-m mark --mark {options.guarded:#x}/{verdict:#x} -j bm-POSTROUTING"]
    yield ("mangle", "bm-POSTROUTING"), ["-j DROP"]
    known = [*_neighbours(ICMPV6_ALLOWED, family, "-j RETURN"), over]
    known += ["-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN", "-j DROP"]
    if options.to_host == "deny":
        yield ("mangle", "INPUT"), [f"-i {wild} -j bm-INPUT"]
        yield ("mangle", "bm-INPUT"), known
    else:
        yield ("mangle", "INPUT"), [f"-i {wild} {_clear(options.accepted)}"]
        yield ("security", "INPUT"), [f"-i {wild} {_unmarked(options.accepted)} -j bm-INPUT"]
        yield ("security", "bm-INPUT"), known
    spoofed = [f"-i {wild} -m rpfilter --invert -j DROP"]
    yield ("raw", "bm-PREROUTING"), spoofed
    yield ("mangle", "bm-PREROUTING"), spoofed if family == 6 else []


def _verdict_chains(options: Options) -> dict[str, list[str]]:
    """Return the chains in which a body ends, in each table that has bodies."""
    return {
        "bm-allow": [_mark(options.accepted)],
        "bm-pass": [_mark(options.passed | options.walked)],
        "bm-undone": ["-j DROP"],
    }


def _neighbours(kinds: Iterable[int], family: int, verdict: str) -> list[str]:
    return [f"-p {ICMPV6} -m icmp6 --icmpv6-type {kind} {verdict}" for kind in kinds if family == 6]


def _known_connections(options: Options, verdict: str) -> list[str]:
    """Return what is asked first: what may no longer be, what is established, and what is no connection's."""
    return [
        f"-m connmark --mark {options.revoked:#x}/{options.revoked:#x} -j DROP",
        f"-m conntrack --ctstate RELATED,ESTABLISHED {verdict}",
        "-m conntrack --ctstate INVALID -j DROP",
    ]


class _Hosts:
    """The chains of host endpoints. Nothing where there is none."""

    def __init__(self, compiled: Compiled, options: Options) -> None:
        self._hosts, self._options = compiled.hosts, options
        self._wild = f"{options.prefix}+"
        self.has_early = self._has(Phase.UNTRACKED) or self._has(Phase.PRE_DNAT)
        self.is_on_forward = self._has(Phase.FORWARD)
        for interface in self._hosts.keys() - {"*"}:
            if not is_interface(interface) or interface.startswith(options.prefix):
                raise ValueError(f"{interface!r} is no name of a host's interface (prefix {options.prefix!r})")

    def chains(self, family: int) -> Iterator[tuple[tuple[str, str], list[str]]]:
        """Yield the chains, each with its table, and what comes to the end of those that are there anyway."""
        if self._hosts:
            yield from self._filter(family)
            yield from self._mangle(family)
            yield from self._raw(family)
            for table in ("mangle", "raw") if self._has(Phase.UNTRACKED) else ("mangle",):
                yield from (((table, chain), rules) for chain, rules in _verdict_chains(self._options).items())

    def _filter(self, family: int) -> Iterator[tuple[tuple[str, str], list[str]]]:
        options = self._options
        yield ("filter", "bm-INPUT"), [f"-g {_FROM_HOSTS}"]
        yield from self._ways("filter", Phase.NORMAL, Direction.INGRESS, family)
        redirected = "-m conntrack --ctstate DNAT -g bm-redirected"
        yield ("filter", "bm-OUTPUT"), [redirected, f"-g {_TO_HOSTS}"]
        yield from self._ways("filter", Phase.NORMAL, Direction.EGRESS, family)
        yield ("filter", "bm-redirected"), [_mark(options.redirected)]
        through: list[str] = []
        for direction in (Direction.INGRESS, Direction.EGRESS):
            if self._has(Phase.FORWARD, direction):
                yield from self._ways("filter", Phase.FORWARD, direction, family)
                asked = f"{_unmarked(options.accepted)} -j DROP"
                through += [_clear(options.accepted), f"-j {_root(Phase.FORWARD, direction)}", asked]
        if through:
            yield ("filter", "bm-through"), [*through, _clear(options.accepted)]

    def _mangle(self, family: int) -> Iterator[tuple[tuple[str, str], list[str]]]:
        redirected = self._options.redirected
        yield ("mangle", "POSTROUTING"), [f"{_marked(redirected)} -j bm-redirected"]
        yield ("mangle", "bm-redirected"), [_clear(redirected), f"-o {self._wild} -j RETURN", f"-g {_TO_HOSTS}"]
        yield from self._ways("mangle", Phase.NORMAL, Direction.EGRESS, family)
        if self._has(Phase.PRE_DNAT):
            yield ("mangle", "bm-PREROUTING"), [f"-g {_FROM_HOSTS}"]
            yield ("mangle", "bm-early"), [_mark(self._options.early)]
            yield from self._ways("mangle", Phase.PRE_DNAT, Direction.INGRESS, family)

    def _raw(self, family: int) -> Iterator[tuple[tuple[str, str], list[str]]]:
        options = self._options
        if self.has_early:
            yield ("raw", "bm-PREROUTING"), [_clear(options.early)]
            yield ("raw", "bm-OUTPUT"), [_clear(options.early)]
        for direction, hook, flag in (
            (Direction.INGRESS, "bm-PREROUTING", "-i"),
            (Direction.EGRESS, "bm-OUTPUT", "-o"),
        ):
            if self._has(Phase.UNTRACKED, direction):
                yield ("raw", hook), [f"{flag} {self._wild} -j RETURN", f"-g {_root(Phase.UNTRACKED, direction)}"]
                yield from self._ways("raw", Phase.UNTRACKED, direction, family)
        if self._has(Phase.UNTRACKED):
            yield ("raw", "bm-untracked"), ["-j CT --notrack", _mark(options.early)]

    def _has(self, phase: Phase, direction: Direction | None = None) -> bool:
        wanted = {(phase, each) for each in Direction if direction in {None, each}}
        return any(wanted & host.stacks.keys() for host in self._hosts.values())

    def _ways(
        self, table: str, phase: Phase, direction: Direction, family: int
    ) -> Iterator[tuple[tuple[str, str], list[str]]]:
        """Yield the tree from interfaces to their own chains, and these."""
        nothing = "-g bm-allow" if phase is Phase.FORWARD else "-j RETURN"
        targets: dict[str, str] = {}
        for interface, host in sorted(self._hosts.items()):
            stack = host.stacks.get((phase, direction))
            chain = host_chain(phase, direction, interface)
            targets[interface] = nothing if stack is None else f"-g {chain}"
            if stack is not None:
                yield (table, chain), list(self._own(table, phase, direction, stack, family))
        last = targets.pop("*", nothing)
        flag = "-i" if direction is Direction.INGRESS else "-o"
        for chain, rules in _dispatch(flag, _root(phase, direction), "", targets, last).items():
            yield (table, chain), rules

    def _own(self, table: str, phase: Phase, direction: Direction, stack: str, family: int) -> Iterator[str]:
        """Yield what is asked of a packet on one interface, in order."""
        options = self._options
        allowed = _ALLOWED[table, phase]
        if phase is not Phase.FORWARD:
            yield from _neighbours(ICMPV6_OF_HOSTS, family, allowed)
        if phase is not Phase.UNTRACKED:
            *known, invalid = _known_connections(options, allowed)
            yield from known
            if self.has_early and (phase, direction) != (Phase.FORWARD, Direction.EGRESS):
                yield f"{_marked(options.early)} {allowed}"
            yield invalid
        if phase is not Phase.FORWARD:
            for text in failsafes(direction, family, options, are_replies_too=phase is Phase.UNTRACKED):
                yield f"{text} {allowed}"
        yield _clear(options.accepted | options.passed)
        yield f"-j {stack}"
        if phase.is_early:
            yield f"{_marked(options.accepted)} -g {'bm-untracked' if phase is Phase.UNTRACKED else 'bm-early'}"
            return
        yield f"{_unmarked(options.accepted)} -j DROP"
        if phase is Phase.NORMAL:
            yield allowed


def host_chain(phase: Phase, direction: Direction, interface: str) -> str:
    """Return the chain of an interface of the host, `*` for all others; no interface's name begins with a dot."""
    return f"bm-{_word(phase, direction)}{'.any' if interface == '*' else f'-{interface}'}"


def _root(phase: Phase, direction: Direction) -> str:
    return f"bm-{_word(phase, direction)}d-"


def _word(phase: Phase, direction: Direction) -> str:
    return f"{'f' if direction is Direction.INGRESS else 't'}h{'f' if phase is Phase.FORWARD else ''}"


_FROM_HOSTS, _TO_HOSTS = (_root(Phase.NORMAL, direction) for direction in (Direction.INGRESS, Direction.EGRESS))

# What becomes of what a host endpoint allows: the other tables are for other people's changes to what passes, too.
_ALLOWED = {
    ("filter", Phase.NORMAL): "-j ACCEPT",
    ("filter", Phase.FORWARD): "-g bm-allow",
    ("mangle", Phase.NORMAL): "-j RETURN",
    ("mangle", Phase.PRE_DNAT): "-j RETURN",
    ("raw", Phase.UNTRACKED): "-j RETURN",
}


def failsafes(direction: Direction, family: int, options: Options, *, are_replies_too: bool) -> Iterator[str]:
    """Yield the matches of the failsafe ports; before connection tracking an answer is known by the port it is from."""
    ways = {Direction.INGRESS: options.failsafe_inbound, Direction.EGRESS: options.failsafe_outbound}
    other = Direction.EGRESS if direction is Direction.INGRESS else Direction.INGRESS
    far = "-s" if direction is Direction.INGRESS else "-d"
    for ports, option in ((ways[direction], "--dports"), (ways[other] if are_replies_too else (), "--sports")):
        groups: dict[tuple[int, IPNetwork | None], set[int]] = {}
        for each in ports:
            if each.net is None or each.net.version == family:
                groups.setdefault((each.protocol, each.net), set()).add(each.port)
        for (protocol, net), numbers in groups.items():
            place = "" if net is None else f"{far} {net.network_address}/{net.prefixlen} "
            texts = [str(number) for number in sorted(numbers)]
            for first in range(0, len(texts), MULTIPORT):
                some = ",".join(texts[first : first + MULTIPORT])
                yield f"{place}-p {protocol} -m multiport {option} {some}"


def _dispatch(flag: str, root: str, prefix: str, targets: Mapping[str, str], last: str) -> dict[str, list[str]]:
    """Return the tree from all names, sorted, down to bins; what is in none of them has the last target.

    A chain is called `root` and what the names in it begin with.
    """
    chains: dict[str, list[str]] = {}
    waiting = [(prefix, list(targets))]
    while waiting:
        stem, names = waiting.pop()
        rules = chains[f"{root}{stem}"] = []
        front = operator.itemgetter(slice(len(stem) + 1 if len(names) > BIN else None))
        for longer, group in itertools.groupby(names, key=front):
            own = list(group)
            if len(own) == 1:
                rules.append(f"{flag} {own[0]} {targets[own[0]]}")
            else:
                rules.append(f"{flag} {longer}+ -g {root}{longer}")
                waiting.append((longer, own))
        rules.append(last)
    return chains


def _stack(stack: Stack, bodies: Mapping[str, Body], family: int, options: Options) -> Iterator[str]:
    for layer in stack.layers:
        still = f"{_unmarked(options.passed)} " if layer.can_pass else ""
        undone = _unmarked(options.walked | (options.passed if layer.can_pass else 0))
        stale = options.passed if layer.can_pass else 0  # bits that a rule to come asks for
        for part in layer.parts:
            if isinstance(part, Run):
                rules = [f"{still}-j {part.chain}"] if any(_counting(part, bodies, family)) else []
            else:
                rules = list(_through(bodies[part], family, still, undone, options))
                stale |= options.walked if _closes(bodies[part], family) else 0
            if rules and stale:
                yield _clear(stale)
                stale = 0
            yield from rules
        if layer.default is not Action.PASS and not layer.is_absent:
            if stale:
                yield _clear(stale)
            yield f"{still}-j DROP"
    for chain in stack.profiles:
        if _closes(bodies[chain], family):
            yield _clear(options.walked)
        yield from _through(bodies[chain], family, "", _unmarked(options.walked), options)
    yield from _LAST[stack.phase.last]


_LAST = {Action.DENY: ("-j DROP",), Action.ALLOW: ("-g bm-allow",), Action.PASS: ()}


def _counting(run: Run, bodies: Mapping[str, Body], family: int) -> Iterator[str]:
    """Yield a rule for each line of staged policies that would decide, and one for the rest; none of them does."""
    for _, line in lines_of(run, bodies, family):
        yield " ".join([*(_term(term, family) for term in line.terms), "-j RETURN"])
    if run.default is not None:
        yield "-j RETURN"


def _through(body: Body, family: int, still: str, undone: str, options: Options) -> Iterator[str]:
    """Yield the rules that go through a body; `still`: if the packet is still in this tier, `undone`: and did not."""
    if not body.lines[family]:
        return
    yield f"{still}-j {body.chain}"
    yield f"{_marked(options.accepted)} -j RETURN"
    if _closes(body, family):
        yield f"{undone} -g bm-undone"


def _closes(body: Body, family: int) -> bool:
    """Tell whether without its rules a body would let more through."""
    return any(line.action in {Action.DENY, Action.PASS} for line in body.lines[family])


def _line(line: Line, body: Body, family: int) -> str:
    target = {
        Action.ALLOW: "-g bm-allow",
        Action.DENY: "-j DROP",
        Action.PASS: "-g bm-pass",
        Action.LOG: f"-j LOG --log-prefix {body.chain}:",
    }[line.action]
    return " ".join([*(_term(term, family) for term in line.terms), target])


def _term(term: Term, family: int) -> str:
    match term:
        case IsProtocol(number, is_negated):
            return f"{_not(is_negated)}-p {number}"
        case IsIcmp(icmp, is_negated):
            kind = f"{icmp.type}" if icmp.code is None else f"{icmp.type}/{icmp.code}"
            name = "icmp --icmp-type" if family == 4 else "icmp6 --icmpv6-type"
            return f"-m {name.replace(' ', f' {_not(is_negated)}')} {kind}"
        case IsIn(end, net):
            return f"-{'s' if end is End.SOURCE else 'd'} {net.network_address}/{net.prefixlen}"
        case InSet(end, name, is_negated, with_port):
            return f"-m set {_not(is_negated)}--match-set {name} {end.value}{f',{end.value}' if with_port else ''}"
        case HasPort(end, ranges, is_negated):
            numbers = (f"{r.first}" if r.first == r.last else f"{r.first}:{r.last}" for r in ranges)
            return f"-m multiport {_not(is_negated)}--{end.value[0]}ports {','.join(numbers)}"
    assert_never(term)


def _not(is_negated: bool) -> str:
    return "! " if is_negated else ""


def _mark(bits: int) -> str:
    return f"-j MARK --set-xmark {bits:#x}/{bits:#x}"


def _clear(bits: int) -> str:
    return f"-j MARK --set-xmark 0x0/{bits:#x}"


def _marked(bits: int) -> str:
    return f"-m mark --mark {bits:#x}/{bits:#x}"


def _unmarked(bits: int) -> str:
    return f"-m mark --mark 0x0/{bits:#x}"


def _bin(direction: Direction, stem: str) -> str:
    return f"bm-{'f' if direction is Direction.EGRESS else 't'}d-{stem}"


def _own_chain(direction: Direction, interface: str) -> str:
    return f"bm-{'f' if direction is Direction.EGRESS else 't'}w-{interface}"
