"""The compiled form as chains: the verdict in the filter table, a guard of it in another, and no lies about sources.

    FORWARD -> bm-FORWARD -> bm-forwarded -> bm-fd-.. (a tree on interface names) -> bm-fw-IFACE -> bm-ce-.. -> bm-pe-..
                                          -> bm-td-..                             -> bm-tw-IFACE -> bm-ci-.. -> bm-pi-..
    INPUT   -> bm-INPUT   -> bm-to-host   -> bm-fd-.. as above, then what `to_host` says
    OUTPUT  -> bm-OUTPUT  -> returns: the host reaches its own workloads

    mangle FORWARD      -> what comes from or goes to a workload is under guard, and has no verdict yet
    mangle POSTROUTING  -> what is under guard and still has none is dropped
    mangle INPUT        -> where workloads may not reach the host: the same again
    raw PREROUTING      -> a workload sends from the addresses that are routed to it
    mangle PREROUTING   -> IPv6: the same again; of IPv4 the kernel asks it too (rp_filter)

Rule 1. Nothing of a body accepts: an allow sets the mark and returns, so that the other direction still runs; the
        one ACCEPT is in `bm-forwarded`, for what came back with the mark from each direction it has.
Rule 2. The mark is cleared before each direction and asked for after it. A chain of ours that somebody empties
        on the way there lets nothing through, and with the guard neither does a hook that somebody deletes. A body
        that denies or passes on says at its end that it was gone through: one that is empty would let more through.
Rule 3. Below a dispatch everything is `-g`: an end of chain comes back to `bm-forwarded`, past the bin's DROP.
Rule 4. Names that people choose do not reach the text. Chains and sets are called by hashes; interface names
        are checked, and every rule is matched against one grammar before it leaves.
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import assert_never

from bgpmesh.policy.chains import ChainKey, Rules, identified
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
    Run,
    Stack,
    Term,
    lines_of,
    runs_of,
)
from bgpmesh.policy.rule import Action, Direction

_Chains = dict[str, Rules]  # of one table

HOOKS = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "POSTROUTING"),
    "raw": ("PREROUTING",),
}
BIN = 8  # interfaces that one dispatch chain asks for one after the other; more are split by their next character
# Neighbour discovery and multicast listeners (RFC 4861 §4, RFC 2710 §3): without them a workload has no way to the
# host's link. Not 134: a workload advertises no router.
ICMPV6_ALLOWED = (130, 131, 132, 133, 135, 136)

LOGGED_OCTETS = 128  # of a dropped packet, for who follows: its headers
# For each rule that drops, so that a flood is shown and does not become one of messages.
_LOG_LIMIT = "-m limit --limit 10/second --limit-burst 20"

_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")  # IFNAMSIZ less one
_MARK = r"0x[0-9a-f]{1,8}/0x[0-9a-f]{1,8}"
_MATCHES = "|".join(
    [
        r"-[io] [A-Za-z0-9][A-Za-z0-9._-]{0,14}\+?",
        r"-[sd] [0-9a-f.:]{2,39}/[0-9]{1,3}",
        r"(?:! )?-p [0-9]{1,3}",
        r"-m set (?:! )?--match-set bm-[46]-[a-z2-7]{20} (?:src|dst)(?:,(?:src|dst))?",
        r"-m multiport (?:! )?--[sd]ports [0-9:,]{1,89}",
        r"-m icmp (?:! )?--icmp-type [0-9]{1,3}(?:/[0-9]{1,3})?",
        r"-m icmp6 (?:! )?--icmpv6-type [0-9]{1,3}(?:/[0-9]{1,3})?",
        rf"-m (?:conn)?mark --mark {_MARK}",
        r"-m conntrack --ctstate [A-Z,]{3,30}",
        r"-m rpfilter --invert",
        r"-m limit --limit [0-9]{1,3}/second --limit-burst [0-9]{1,3}",
    ]
)
_NFLOG = r"-j NFLOG --nflog-group [0-9]{1,5} --nflog-prefix bm-[A-Za-z0-9._-]{1,25}:[0-9]{1,5} --nflog-size [0-9]{1,3}"
_LOG = r"-j LOG --log-prefix bm-[a-z0-9-]{1,25}:"
_TARGET = rf"-[jg] [A-Za-z0-9._-]{{2,28}}|-j MARK --set-xmark {_MARK}|{_LOG}|{_NFLOG}"
_RULE = re.compile(rf"-m comment --comment bm:[A-Za-z0-9_-]{{16}}(?: (?:{_MATCHES}))* (?:{_TARGET})")


@dataclass(frozen=True, slots=True)
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
    revoked: int = 0x0100_0000  # of the connection mark: no longer allowed
    log_group: int = 0  # of NFLOG, which hears of drops; 0: none does


def render(compiled: Compiled, options: Options = Options()) -> dict[ChainKey, Rules]:
    """Return every chain of ours, and what the built-in chains begin with."""
    ways = _ways(compiled, options)
    found: dict[ChainKey, Rules] = {}
    for family in FAMILIES:
        found |= {ChainKey(family, "filter", chain): rules for chain, rules in ways.items()}
        found |= {ChainKey(family, "filter", chain): rules for chain, rules in _verdicts(compiled, family, options)}
        for (table, chain), rules in _fixed(family, options):
            found[ChainKey(family, table, chain)] = _identified(chain, tuple(rules), options.log_group)
        for table, hooks in HOOKS.items():
            found |= {ChainKey(family, table, hook): _identified(hook, (f"-j bm-{hook}",)) for hook in hooks}
    return found


def _ways(compiled: Compiled, options: Options) -> _Chains:
    """Return the chains that lead from an interface to its classes: the same in both families."""
    chains: dict[str, list[str]] = {}
    places: dict[Direction, dict[str, str]] = {direction: {} for direction in Direction}
    for key, classes in compiled.classes.items():
        interface = compiled.model.members[key].interface or ""
        if not (_INTERFACE.fullmatch(interface) and interface.startswith(options.prefix)):
            raise ValueError(f"{key}: {interface!r} is no name of a workload's link (prefix {options.prefix!r})")
        for direction, chain in classes.items():
            places[direction][interface] = chain
    clear = _clear(options.accepted | options.passed)
    for direction, to_class in places.items():
        chains |= _dispatch(direction, sorted(to_class), options.prefix)
        chains |= {_own_chain(direction, name): [clear, f"-g {chain}"] for name, chain in to_class.items()}
    return {chain: _identified(chain, tuple(rules), options.log_group) for chain, rules in chains.items()}


def _verdicts(compiled: Compiled, family: int, options: Options) -> Iterator[tuple[str, Rules]]:
    """Yield the chains of classes, policies and profiles."""
    for chain, stack in compiled.stacks.items():
        yield chain, _identified(chain, tuple(_stack(stack, compiled.bodies, family, options)), options.log_group)
    for run in {run.chain: run for stack in compiled.stacks.values() for run in runs_of(stack)}.values():
        if rules := tuple(_counting(run, compiled.bodies, family)):
            yield run.chain, _identified(run.chain, rules)
    for chain, body in compiled.bodies.items():
        if body.lines[family] and not body.is_staged:
            lines = [_line(line, body, family) for line in body.lines[family]]
            end = [_mark(options.walked)] if _closes(body, family) else []
            yield chain, _identified(chain, (*lines, *end), options.log_group)


def _fixed(family: int, options: Options) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """Yield the chains that are there whatever the model, each with its table."""
    wild = f"{options.prefix}+"
    allowed, denied = _marked(options.accepted), f"{_unmarked(options.accepted)} -j DROP"
    neighbours = [f"-p 58 -m icmp6 --icmpv6-type {kind} -j ACCEPT" for kind in ICMPV6_ALLOWED if family == 6]
    over = f"-m connmark --mark {options.revoked:#x}/{options.revoked:#x} -j DROP"
    first = [
        over,
        "-m conntrack --ctstate RELATED,ESTABLISHED -g bm-accept",
        "-m conntrack --ctstate INVALID -j DROP",
        _clear(options.accepted),
    ]
    out = [f"-i {wild} -j {_bin(Direction.EGRESS, options.prefix)}", f"-i {wild} {denied}"]
    into = [f"-o {wild} {_clear(options.accepted)}", f"-o {wild} -j {_bin(Direction.INGRESS, options.prefix)}"]
    last = {"deny": ["-j DROP"], "allow": [f"{allowed} -j ACCEPT", "-j DROP"], "return": []}[options.to_host]
    yield ("filter", "bm-FORWARD"), [f"-i {wild} -j bm-forwarded", f"-o {wild} -j bm-forwarded"]
    yield ("filter", "bm-INPUT"), [f"-i {wild} -j bm-to-host"]
    yield ("filter", "bm-OUTPUT"), [f"-o {wild} -j RETURN"]
    yield ("filter", "bm-forwarded"), [*first, *out, *into, f"{allowed} -j ACCEPT", "-j DROP"]
    yield ("filter", "bm-to-host"), [*neighbours, *first, *out, *last]
    yield ("filter", "bm-accept"), [_mark(options.accepted), "-j ACCEPT"]
    yield ("filter", "bm-allow"), [_mark(options.accepted)]
    yield ("filter", "bm-pass"), [_mark(options.passed | options.walked)]
    yield ("filter", "bm-undone"), ["-j DROP"]
    verdict = options.guarded | options.accepted
    under_guard = f"-j MARK --set-xmark {options.guarded:#x}/{verdict:#x}"
    yield ("mangle", "bm-FORWARD"), [f"-i {wild} {under_guard}", f"-o {wild} {under_guard}"]
    yield ("mangle", "bm-POSTROUTING"), [f"-m mark --mark {options.guarded:#x}/{verdict:#x} -j DROP"]
    known = [f"-i {wild} -p 58 -m icmp6 --icmpv6-type {kind} -j RETURN" for kind in ICMPV6_ALLOWED if family == 6]
    known += [
        f"-i {wild} {over}",
        f"-i {wild} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        f"-i {wild} -j DROP",
    ]
    yield ("mangle", "bm-INPUT"), known if options.to_host == "deny" else []
    spoofed = [f"-i {wild} -m rpfilter --invert -j DROP"]
    yield ("raw", "bm-PREROUTING"), spoofed
    yield ("mangle", "bm-PREROUTING"), spoofed if family == 6 else []


def _dispatch(direction: Direction, interfaces: list[str], prefix: str) -> dict[str, list[str]]:
    """Return the tree from all (sorted) names down to bins; what is in none of them is dropped where it ends."""
    flag = "-i" if direction is Direction.EGRESS else "-o"
    chains: dict[str, list[str]] = {}
    waiting = [(prefix, interfaces)]
    while waiting:
        stem, names = waiting.pop()
        rules = chains[_bin(direction, stem)] = []
        front = operator.itemgetter(slice(len(stem) + 1 if len(names) > BIN else None))
        for longer, group in itertools.groupby(names, key=front):
            own = list(group)
            if len(own) == 1:
                rules.append(f"{flag} {own[0]} -g {_own_chain(direction, own[0])}")
            else:
                rules.append(f"{flag} {longer}+ -g {_bin(direction, longer)}")
                waiting.append((longer, own))
        rules.append("-j DROP")
    return chains


def _stack(stack: Stack, bodies: Mapping[str, Body], family: int, options: Options) -> Iterator[str]:
    for layer in stack.layers:
        still = f"{_unmarked(options.passed)} " if layer.can_pass else ""
        undone = _unmarked(options.walked | (options.passed if layer.can_pass else 0))
        if still:
            yield _clear(options.passed)
        for part in layer.parts:
            if not isinstance(part, Run):
                yield from _through(bodies[part], family, still, undone, options)
            elif any(_counting(part, bodies, family)):
                yield f"{still}-j {part.chain}"
        if layer.default is not Action.PASS and not layer.is_absent:
            yield f"{still}-j DROP"
    for chain in stack.profiles:
        yield from _through(bodies[chain], family, "", _unmarked(options.walked), options)
    yield "-j DROP"


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
    if _closes(body, family):
        yield _clear(options.walked)
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


def _telling(chain: str, rules: tuple[str, ...], group: int) -> Iterator[str]:
    """Yield the rules, and before each that drops one that sends its packets to a group; the prefix says whose."""
    for place, rule in enumerate(rules):
        if rule.endswith("-j DROP"):
            target = f"-j NFLOG --nflog-group {group} --nflog-prefix {chain}:{place} --nflog-size {LOGGED_OCTETS}"
            yield f"{rule.removesuffix('-j DROP')}{_LOG_LIMIT} {target}"
        yield rule


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


@functools.lru_cache(maxsize=65_536)
def _identified(chain: str, rules: tuple[str, ...], log_group: int = 0) -> tuple[str, ...]:
    """Return the rules with their ids, each looked at; where drops are followed, each with one before that tells."""
    found = identified(chain, _telling(chain, rules, log_group) if log_group else rules)
    for text in found:
        if not _RULE.fullmatch(text):
            raise ValueError(f"{chain}: {text!r} is no rule that we write")
    return found
