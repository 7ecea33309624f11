"""Verdicts straight from the meaning of the policies: no chains, no sets, no index. Slow, and readable on purpose.

A question about an address has three answers: yes, no, and None for "nobody knows". A rule matches where every
answer is yes; where some are None and none is no, a deny rule matches and no other does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bgpmesh.policy.model import Member, Model, Packet
from bgpmesh.policy.rule import NAMESPACE_LABEL, Action, Direction, Failsafe, Policy, PortRange, Rule, Side, Tier
from bgpmesh.policy.selector import Selector, matches
from bgpmesh.route.nlri import IPAddress

Failsafes = Mapping[Direction, tuple[Failsafe, ...]]
NO_FAILSAFES: Failsafes = {Direction.INGRESS: (), Direction.EGRESS: ()}
OF_HOSTS = {*range(130, 137), 143}
ALL_PORTS = {6, 17, 132, 136}
NEIGHBOURS = {130, 131, 132, 133, 135, 136}


def passes(
    model: Model,
    packet: Packet,
    *,
    to_host: bool,
    only_here: bool = False,
    failsafes: Failsafes = NO_FAILSAFES,
    are_hosts_asked: bool = True,
) -> bool:
    """Tell whether the packet passes; `only_here`: as far as this node has a say."""
    source, destination = holder(model, packet.source), holder(model, packet.destination)
    if source is not None and source is destination:
        return True
    if are_hosts_asked and not hosts_let(model, packet, source, destination, failsafes):
        return False
    if source is not None and not (only_here and source.interface is None):
        is_to_host = packet.destination in model.addresses and source.interface is not None
        if is_to_host and packet.protocol == 58 and packet.icmp is not None and packet.icmp.type in NEIGHBOURS:
            return True
        if not direction_allows(model, packet, source, Direction.EGRESS) or (is_to_host and not to_host):
            return False
    if destination is None or (only_here and destination.interface is None):
        return True
    is_from_host = packet.source in model.addresses and destination.interface is not None
    return is_from_host or direction_allows(model, packet, destination, Direction.INGRESS)


def hosts_let(
    model: Model, packet: Packet, source: Member | None, destination: Member | None, failsafes: Failsafes
) -> bool:
    """Tell whether the host endpoints of this node let the packet come in and go out.

    As Calico has it: the host reaches its own workloads, and what these send to it is under `workload_to_host`. What an
    untracked or pre-DNAT policy allows is past its normal policies, and past those for what is forwarded in.
    """
    own_from, own_to = packet.source in model.addresses, packet.destination in model.addresses
    comes_from, goes_to = (member and member.interface for member in (source, destination))
    is_inside = comes_from or goes_to or (source is None and destination is None)
    into, out = host_at(model, comes_from or packet.into), host_at(model, goes_to or packet.out)
    if own_from:
        return bool(goes_to) or out is None or own_traffic(model, packet, out, Direction.EGRESS, failsafes)
    if own_to and not comes_from:
        if into is None:
            return True
        decided = before_dnat(model, packet, into, failsafes)
        return decided or (decided is None and own_traffic(model, packet, into, Direction.INGRESS, failsafes))
    if not own_to and not is_inside:
        return True  # not by way of this node
    decided = None
    if into is not None:
        decided = asked_early(model, packet, into, Direction.INGRESS, failsafes, is_pre_dnat=True)
        if not comes_from:
            decided = before_dnat(model, packet, into, failsafes)
    if decided is False:
        return False
    if own_to:
        return True
    comes_in = decided or into is None or forwarded(model, packet, into, Direction.INGRESS)
    return comes_in and (out is None or forwarded(model, packet, out, Direction.EGRESS))


def host_at(model: Model, interface: str | None) -> Member | None:
    """Return the host endpoint of an interface: that of its name, else that of all."""
    named = {host.interface: host.member for host in model.hosts if host.interface is not None}
    return named.get(interface or "*") or named.get("*")


def before_dnat(model: Model, packet: Packet, host: Member, failsafes: Failsafes) -> bool | None:
    """Return what untracked policies, and then pre-DNAT policies, say of what comes in; None: nothing."""
    untracked = asked_early(model, packet, host, Direction.INGRESS, failsafes, is_pre_dnat=False)
    if untracked is not None:
        return untracked
    return asked_early(model, packet, host, Direction.INGRESS, failsafes, is_pre_dnat=True)


def own_traffic(model: Model, packet: Packet, host: Member, direction: Direction, failsafes: Failsafes) -> bool:
    """Tell whether the host itself may send or receive."""
    if direction is Direction.EGRESS:
        decided = asked_early(model, packet, host, direction, failsafes, is_pre_dnat=False)
        if decided is not None:
            return decided
    return (
        is_neighbour(packet)
        or is_failsafe(packet, direction, failsafes)
        or direction_allows(model, packet, host, direction)
    )


def is_neighbour(packet: Packet) -> bool:
    """Tell whether it is what keeps a link alive."""
    return packet.protocol == 58 and packet.icmp is not None and packet.icmp.type in OF_HOSTS


def is_failsafe(packet: Packet, direction: Direction, failsafes: Failsafes, *, is_answer: bool = False) -> bool:
    """Tell whether the port is one that no host endpoint closes."""
    port, way = packet.port, direction
    if is_answer:
        port, way = packet.source_port, next(each for each in Direction if each is not direction)
    peer = packet.source if direction is Direction.INGRESS else packet.destination
    return any(
        (packet.protocol, port) == (each.protocol, each.port) and (each.net is None or peer in each.net)
        for each in failsafes[way]
    )


def asked_early(
    model: Model, packet: Packet, host: Member, direction: Direction, failsafes: Failsafes, *, is_pre_dnat: bool
) -> bool | None:
    """Return what the policies say that come before all others; no tier's default is among it."""
    if is_neighbour(packet) or is_failsafe(packet, direction, failsafes):
        return None
    if not is_pre_dnat and is_failsafe(packet, direction, failsafes, is_answer=True):
        return None
    policies = [p for p in model.policies if (p.is_pre_dnat if is_pre_dnat else p.is_untracked)]
    for _, own in tiers_of(model, host, direction, policies):
        action = first_match(model, packet, [rule for policy in own for rule in policy.rules(direction)])
        if action in {Action.ALLOW, Action.DENY}:
            return action is Action.ALLOW
    return None


def forwarded(model: Model, packet: Packet, host: Member, direction: Direction) -> bool:
    """Tell whether the policies for what is forwarded let it pass; without any it does."""
    policies = [p for p in model.policies if p.is_on_forward and not p.is_untracked and not p.is_pre_dnat]
    for tier, own in tiers_of(model, host, direction, policies):
        action = first_match(model, packet, [rule for policy in own for rule in policy.rules(direction)])
        if (action or tier.default) is not Action.PASS:
            return (action or tier.default) is Action.ALLOW
    return True


def holder(model: Model, address: IPAddress) -> Member | None:
    """Return the known workload that has the address."""
    for member in model.members.values():
        if address in member.addresses:
            return member
    return None


def labels_of(model: Model, member: Member) -> dict[str, str]:
    """Return a workload's labels, its profiles' under its own."""
    found: dict[str, str] = {}
    for name in member.profiles:
        for profile in model.profiles:
            if profile.name == name:
                found.update(profile.labels)
    return found | dict(member.labels)


def direction_allows(model: Model, packet: Packet, member: Member, direction: Direction) -> bool:
    """Go through the tiers, then the profiles; nothing left means no."""
    normal = [policy for policy in model.policies if not policy.is_untracked and not policy.is_pre_dnat]
    for tier, own in tiers_of(model, member, direction, normal):
        rules = [rule for policy in own for rule in policy.rules(direction)]
        action = first_match(model, packet, rules) or tier.default
        if action is not Action.PASS:
            return action is Action.ALLOW
    if member.key in model.members and member.interface is None and not member.profiles:
        return True  # elsewhere, as far as we know: open
    for name in member.profiles:
        for profile in model.profiles:
            if profile.name == name:
                is_ingress = direction is Direction.INGRESS
                last = first_match(model, packet, list(profile.ingress if is_ingress else profile.egress))
                if last in {Action.ALLOW, Action.DENY}:
                    return last is Action.ALLOW
    return False


def tiers_of(
    model: Model, member: Member, direction: Direction, policies: list[Policy]
) -> Iterator[tuple[Tier, list[Policy]]]:
    """Yield the tiers in order that have some of these policies for somebody, with those in order."""
    tiers = {tier.name: tier for tier in model.tiers}
    labels = labels_of(model, member)
    names = {policy.tier for policy in policies}
    for tier in sorted((tiers.get(name, Tier(name)) for name in names), key=lambda tier: (tier.order, tier.name)):
        own = [p for p in policies if p.tier == tier.name and selects(p, labels, direction)]
        if own:
            yield tier, sorted(own, key=lambda policy: (policy.order, policy.namespace or "", policy.name))


def selects(policy: Policy, labels: Mapping[str, str], direction: Direction, *, staged: bool = False) -> bool:
    """Tell whether the policy is in force on who has these labels; with `staged`, or would be."""
    return (staged or not policy.is_staged) and direction in policy.types and matches(policy.selector, labels)


def first_match(model: Model, packet: Packet, rules: list[Rule]) -> Action | None:
    """Return what the first rule says that matches and is no log."""
    for rule in rules:
        answers = conditions(model, packet, rule)
        if False in answers or (None in answers and rule.action is not Action.DENY):
            continue
        if rule.action is not Action.LOG:
            return rule.action
    return None


def conditions(model: Model, packet: Packet, rule: Rule) -> list[bool | None]:
    """Return the answer to everything that the rule asks."""
    answers: list[bool | None] = []
    if rule.ip_version is not None:
        answers.append(rule.ip_version == packet.source.version)
    if rule.protocol is not None:
        answers.append(rule.protocol == packet.protocol)
    if rule.not_protocol is not None:
        answers.append(rule.not_protocol != packet.protocol)
    if rule.icmp is not None or rule.not_icmp is not None:
        answers.append(packet.icmp is not None)
    for wanted, is_wanted in ((rule.icmp, True), (rule.not_icmp, False)):
        if wanted is not None and packet.icmp is not None:
            same = packet.icmp.type == wanted.type and wanted.code in {None, packet.icmp.code}
            answers.append(same is is_wanted)
    answers += side(model, packet, rule.source, packet.source, packet.source_port)
    answers += side(model, packet, rule.destination, packet.destination, packet.port)
    return answers


def side(model: Model, packet: Packet, asked: Side, address: IPAddress, port: int | None) -> list[bool | None]:
    """Return the answers at one end."""
    answers: list[bool | None] = []
    if asked.nets:
        answers.append(any(address.version == net.version and address in net for net in asked.nets))
    if asked.not_nets:
        answers.append(not any(address.version == net.version and address in net for net in asked.not_nets))
    if asked.selector is not None:
        answers.append(is_meant(model, asked.selector, address))
    if asked.not_selector is not None:
        meant = is_meant(model, asked.not_selector, address)
        answers.append(None if meant is None else not meant)
    if asked.ports:
        answers.append(has_port(model, packet, asked.ports, address, port))
    if asked.not_ports:
        has = has_port(model, packet, asked.not_ports, address, port)
        answers += [packet.protocol in ALL_PORTS, None if has is None else not has]
    return answers


def nobody_knows(model: Model, address: IPAddress) -> bool:
    """Tell whether an address that no known workload has may be some workload's."""
    return not model.space or any(net.version == address.version and address in net for net in model.space)


def everybody_at(model: Model, address: IPAddress) -> list[Member]:
    """Return the workload and the host endpoints, of any node, that have the address."""
    hosts = [host.member for host in model.hosts]
    return [member for member in (*model.members.values(), *hosts) if address in member.addresses]


def is_meant(model: Model, selector: Selector, address: IPAddress) -> bool | None:
    """Tell whether the selector means who has the address."""
    for group in model.network_sets:
        labels = dict(group.labels) if group.namespace is None else {NAMESPACE_LABEL: group.namespace, **group.labels}
        if matches(selector, labels) and any(net.version == address.version and address in net for net in group.nets):
            return True
    known = everybody_at(model, address)
    if known:
        return any(matches(selector, labels_of(model, member)) for member in known)
    return None if nobody_knows(model, address) else False


def has_port(
    model: Model, packet: Packet, ports: tuple[PortRange | str, ...], address: IPAddress, port: int | None
) -> bool | None:
    """Tell whether the port is among these; a name is a port of the workload at this end."""
    if packet.protocol not in ALL_PORTS or port is None:
        return False
    if any(isinstance(one, PortRange) and one.first <= port <= one.last for one in ports):
        return True
    names = [one for one in ports if isinstance(one, str)]
    known = everybody_at(model, address)
    if known:
        return any(member.ports.get((name, packet.protocol)) == port for name in names for member in known)
    return None if names and nobody_knows(model, address) else False
