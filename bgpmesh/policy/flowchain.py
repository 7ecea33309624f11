"""Flows that are in force as rules in a chain of their own, in order; and that chain walked for one packet.

    raw PREROUTING -> bm-flowspec   what comes in by any interface, those of workloads too, before it is tracked and
                                    before destination NAT:
        to an address that no flow is about             goes on: one look into a set
        by the loopback, or neighbour discovery         goes on
        to this host, and to a port that is kept open   goes on: failsafe ports; BGP and BFD always; answers, too
        each flow in order                              dropped; or goes on, and no further flow is asked
                              -> bm-flowspec-..         what is over the limit of one flow

What the host itself sends does not come here. A flow never opens anything: what goes on meets every policy.

`render` makes it, `walked` asks it: there is no second account of what flows do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import field, replace
from typing import NamedTuple

from bgpmesh.frozen import frozen
from bgpmesh.policy.attribution import FAILSAFE, Cause
from bgpmesh.policy.chains import FLOWS_CHAIN, ChainKey, Rules, identified, ids_of, name_hash, whole
from bgpmesh.policy.explain import Step
from bgpmesh.policy.flowmatch import Doing, judge
from bgpmesh.policy.grammar import as_written, told_as
from bgpmesh.policy.iptables import ICMPV6_OF_HOSTS, Options, failsafes
from bgpmesh.policy.model import Packet
from bgpmesh.policy.rule import ICMPV6, TCP, UDP, Action, Direction, Failsafe, IPNetwork
from bgpmesh.route.flow import Flow, Kind, Prefix
from bgpmesh.route.nlri import IPAddress

TABLE, HOOK = "raw", "PREROUTING"
JUMP = identified(HOOK, (f"-j {FLOWS_CHAIN}",))
_EVERYTHING = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}
_BFD = tuple(Failsafe(UDP, port) for port in (3784, 4784))  # RFC 5881 §4, RFC 5883 §5


class FlowRule(NamedTuple):
    """A flow in force: whom people hold to account for it, what it is about and what is done, as matches."""

    name: str
    number: int  # of the peer's flows
    flow: Flow
    doing: Doing
    lines: tuple[str, ...]
    hash: str  # what its chain and its buckets are called by


@frozen
class Rendered:
    """The chains of one family, what each of their rules is for, the flows in them, in order, and the set they ask."""

    chains: Mapping[ChainKey, Rules] = field(default_factory=dict)
    causes: Mapping[ChainKey, tuple[Cause | None, ...]] = field(default_factory=dict)
    rules: tuple[FlowRule, ...] = ()
    about: frozenset[bytes] = frozenset()  # members of `flows_set`

    def stands(self, actual: Mapping[ChainKey, Rules]) -> bool:
        """Tell whether all chains are as they are to be."""
        return all(actual.get(key) == rules for key, rules in self.chains.items())


def walked(
    rules: Collection[FlowRule], packet: Packet, own: Collection[IPAddress], node: str, options: Options
) -> tuple[list[Step], list[str]]:
    """Return the steps of a packet through rules, the last of them deciding; and what of it is not known.

    `own` are this host's addresses: what it sends itself meets no flow.
    """
    steps: list[Step] = []
    unknown: list[str] = []
    if packet.source in own or not rules:
        return steps, unknown

    def step(policy: str, rule: int | None, action: str, chain: str = FLOWS_CHAIN) -> Step:
        return Step(Direction.INGRESS, f"node {node}", None, policy, rule, action, chain)

    if packet.destination in own and (way := _kept_open(packet, options)) is not None:
        return [step(FAILSAFE[way], None, "accept")], unknown
    for rule in rules:
        may_be, conditions = judge(rule.flow, packet)
        who = f"rule {rule.number} of {rule.name} ({rule.doing})"
        if not may_be:
            continue
        if conditions:
            unknown.append(f"{who} is for it if {' and '.join(conditions)}")
            continue
        if rule.doing.drops_all:
            steps.append(step(rule.name, rule.number, Action.DENY.value))
            break
        if rule.doing.limits:
            unknown.append(f"{who} lets it pass within the limit")
            steps.append(step(rule.name, rule.number, "rate-limit", over_chain(rule)))
        else:
            steps.append(step(rule.name, rule.number, "accept"))
        if not rule.doing.goes_on:
            break
    return steps, unknown


def flows_set(family: int) -> str:
    """Return the name of the set of what the flows of a family are about."""
    return f"bm-{family}-flows"


def is_of_flows(key: ChainKey) -> bool:
    """Tell whether a chain is of flows, or the one that leads to them."""
    return key.is_of_flows or (key.table, key.chain) == (TABLE, HOOK)


def over_chain(rule: FlowRule) -> str:
    """Return the chain of what is over the limit of a flow."""
    return f"{FLOWS_CHAIN}-{rule.hash}"


def is_led(family: int, chains: Mapping[ChainKey, Rules]) -> bool:
    """Tell whether packets are led to the flows, by our own rules or by what was read of them."""
    (jump,) = ids_of(JUMP)
    return any(jump in rule for rule in chains.get(ChainKey(family, TABLE, HOOK), ()))


def guarded(options: Options, ports: Iterable[tuple[int, int]]) -> Options:
    """Return options in which BGP and BFD are kept open, whatever the file says of other ports."""
    ports = sorted(set(ports))
    listens, calls = (tuple(Failsafe(TCP, port) for port in sorted({pair[way] for pair in ports})) for way in (0, 1))
    return replace(
        options,
        failsafe_inbound=tuple(dict.fromkeys((*options.failsafe_inbound, *listens, *_BFD))),
        failsafe_outbound=tuple(dict.fromkeys((*options.failsafe_outbound, *calls, *_BFD))),
    )


def _kept_open(packet: Packet, options: Options) -> Direction | None:
    """Return which failsafe ports keep a packet to this host from being asked about."""
    ways = (
        (Direction.INGRESS, options.failsafe_inbound, packet.port),
        (Direction.EGRESS, options.failsafe_outbound, packet.source_port),
    )
    for way, ports, port in ways:
        for each in ports:
            if (each.protocol, each.port) == (packet.protocol, port) and (
                each.net is None or packet.source in each.net
            ):
                return way
    return None


def _destinations(rules: Iterable[FlowRule], family: int) -> Iterator[IPNetwork]:
    """Yield what flows are about; everything, where one has no destination, or one that is no prefix."""
    for rule in rules:
        end = rule.flow.of(Kind.DESTINATION)
        if isinstance(end, Prefix) and not end.offset:
            yield ipaddress.ip_network(f"{end.address}/{end.length}")
        else:
            yield _EVERYTHING[family]


def render(family: int, rules: Iterable[FlowRule], options: Options) -> Rendered:
    """Return the chains that say what these flows ask for, in this order."""
    rules = tuple(rules)
    if not rules:
        return Rendered()
    texts: list[tuple[str, Cause | None]] = [(text, None) for text in _first(family, options)]
    chains: dict[str, list[tuple[str, Cause | None]]] = {FLOWS_CHAIN: texts}
    for rule in rules:
        allowed = Cause(FLOWS_CHAIN, Action.ALLOW.value, rule.name, policy=rule.name, rule=rule.number)
        dropped = replace(allowed, action=Action.DENY.value, is_final=True)
        over = over_chain(rule)
        if rule.doing.limits:
            chains[over] = [("-j DROP", replace(dropped, chain=over))]
        for line in rule.lines:
            start = f"{line} " if line else ""
            if rule.doing.drops_all:
                texts.append((f"{start}-j DROP", dropped))
                continue
            for number, limit in enumerate(rule.doing.limits):
                # A bucket keeps the limit it was made with as long as a rule with its name stands.
                bucket = f"bm{name_hash(f'{rule.hash} {limit}')}{number}"
                texts.append((f"{start}-m hashlimit {limit} --hashlimit-name {bucket} -j {over}", None))
            if not rule.doing.goes_on:
                texts.append((f"{start}-j RETURN", allowed))
    written = {c: as_written(c, tuple(text for text, _ in own), options.log_group) for c, own in chains.items()}
    return Rendered(
        {ChainKey(family, TABLE, chain): own for chain, own in written.items()},
        {ChainKey(family, TABLE, c): _beside(written[c], (cause for _, cause in own)) for c, own in chains.items()},
        rules,
        whole(_destinations(rules, family)),
    )


def _beside(rules: Rules, causes: Iterator[Cause | None]) -> tuple[Cause | None, ...]:
    """Return the cause of each rule; one that tells of drops has none."""
    return tuple(None if told_as(rule) else next(causes) for rule in rules)


def _first(family: int, options: Options) -> Iterator[str]:
    """Yield what no flow is asked about."""
    yield f"-m set ! --match-set {flows_set(family)} dst -j RETURN"
    yield "-i lo -j RETURN"
    for kind in ICMPV6_OF_HOSTS if family == 6 else ():
        yield f"-p {ICMPV6} -m icmp6 --icmpv6-type {kind} -j RETURN"
    for text in failsafes(Direction.INGRESS, family, options, are_replies_too=True):
        yield f"{text} -m addrtype --dst-type LOCAL -j RETURN"
