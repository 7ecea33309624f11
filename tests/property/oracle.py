"""Verdicts straight from the meaning of the policies: no chains, no sets, no index. Slow, and readable on purpose.

A question about an address has three answers: yes, no, and None for "nobody knows". A rule matches where every
answer is yes; where some are None and none is no, a deny rule matches and no other does.
"""

from __future__ import annotations

from collections.abc import Mapping

from bgpmesh.policy.model import Member, Model, Packet
from bgpmesh.policy.rule import NAMESPACE_LABEL, Action, Direction, Policy, PortRange, Rule, Side, Tier
from bgpmesh.policy.selector import Selector, matches
from bgpmesh.route.nlri import IPAddress

ALL_PORTS = {6, 17, 132, 136}
NEIGHBOURS = {130, 131, 132, 133, 135, 136}


def passes(model: Model, packet: Packet, *, to_host: bool, only_here: bool = False) -> bool:
    """Tell whether the packet passes; `only_here`: as far as this node has a say."""
    source, destination = holder(model, packet.source), holder(model, packet.destination)
    if source is not None and source is destination:
        return True
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
    tiers = {tier.name: tier for tier in model.tiers}
    names = {policy.tier for policy in model.policies}
    labels = labels_of(model, member)
    for tier in sorted((tiers.get(name, Tier(name)) for name in names), key=lambda tier: (tier.order, tier.name)):
        own = [p for p in model.policies if p.tier == tier.name and selects(p, labels, direction)]
        if not own:
            continue
        own.sort(key=lambda policy: (policy.order, policy.namespace or "", policy.name))
        rules = [rule for policy in own for rule in policy.rules(direction)]
        action = first_match(model, packet, rules) or tier.default
        if action is not Action.PASS:
            return action is Action.ALLOW
    if member.interface is None and not member.profiles:
        return True  # elsewhere, as far as we know: open
    for name in member.profiles:
        for profile in model.profiles:
            if profile.name == name:
                is_ingress = direction is Direction.INGRESS
                last = first_match(model, packet, list(profile.ingress if is_ingress else profile.egress))
                if last in {Action.ALLOW, Action.DENY}:
                    return last is Action.ALLOW
    return False


def selects(policy: Policy, labels: Mapping[str, str], direction: Direction, *, staged: bool = False) -> bool:
    """Tell whether the policy is in force on who has these labels; with `staged`, or would be."""
    is_off = (policy.is_staged and not staged) or policy.is_untracked or policy.is_pre_dnat
    return not is_off and direction in policy.types and matches(policy.selector, labels)


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


def is_meant(model: Model, selector: Selector, address: IPAddress) -> bool | None:
    """Tell whether the selector means who has the address."""
    for group in model.network_sets:
        labels = dict(group.labels) if group.namespace is None else {NAMESPACE_LABEL: group.namespace, **group.labels}
        if matches(selector, labels) and any(net.version == address.version and address in net for net in group.nets):
            return True
    member = holder(model, address)
    if member is not None:
        return matches(selector, labels_of(model, member))
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
    member = holder(model, address)
    if member is not None:
        return any(member.ports.get((name, packet.protocol)) == port for name in names)
    return None if names and nobody_knows(model, address) else False
