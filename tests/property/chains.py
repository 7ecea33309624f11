"""A small iptables: takes iptables-restore text and runs packets through the chains. What we never write it refuses.

Written from iptables-extensions(8), not from the renderer: an option that is not in here is an error.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bgpmesh.policy.chains import AddressSet, ids_of
from bgpmesh.policy.model import Packet
from bgpmesh.route.nlri import IPAddress, Nlri, network_of

Seen = dict[tuple[str, str, str], int]  # (table, chain, id of a rule) -> packets
Way = tuple[tuple[str, str], ...]
Tables = dict[str, dict[str, list[str]]]


def restore(tables: Tables, text: str) -> Tables:
    """Return what `iptables-restore --noflush` makes of the tables; an undeclared or used chain is an error."""
    result = {table: {chain: list(rules) for chain, rules in chains.items()} for table, chains in tables.items()}
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            chains = result.setdefault(line[1:], {})
        elif line.startswith(":"):
            chains[line[1:].split()[0]] = []
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            chains[chain].append(rule)
        elif line.startswith("-I "):
            _, chain, number, rule = line.split(" ", 3)
            chains.setdefault(chain, []).insert(int(number) - 1, rule)
        elif line.startswith("-D "):
            _, chain, rule = line.split(" ", 2)
            chains[chain].remove(rule)
        elif line.startswith("-X "):
            chain = line[3:]
            assert not chains.pop(chain)
            assert not any(rule.endswith(f" {chain}") for rules in chains.values() for rule in rules)
        else:
            assert line == "COMMIT"
            for rules in chains.values():
                for rule in rules:
                    target = rule.split()[-1] if rule.split()[-2] in {"-j", "-g"} else "ACCEPT"
                    assert target in chains or target in {"ACCEPT", "DROP", "RETURN"}, rule
    return result


@dataclass
class Flow:
    """A packet on its way, with what the host knows of it."""

    packet: Packet
    into: str = ""  # the interface it came in by
    out: str = ""
    state: str = "NEW"
    is_dnat: bool = False  # its destination was translated here
    is_spoofed: bool = False  # its source is not routed to where it came in
    mark: int = 0
    connmark: int = 0
    logged: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    translated: list[tuple[str, str]] = field(default_factory=list)  # the target, and the address that was put in


class Host:
    """One table of one family, and the sets; `seen` counts for each chain and id of a rule what the rule matched."""

    def __init__(self, chains: Mapping[str, list[str]], sets: Mapping[str, AddressSet]) -> None:
        self._chains, self._sets = chains, sets
        self.seen: Counter[tuple[str, str]] = Counter()

    def run(self, chain: str, flow: Flow) -> str | None:
        """Return ACCEPT, DROP, or None where the chain is left without a verdict."""
        position = 0
        while position < len(self._chains[chain]):
            rule = self._chains[chain][position]
            target = self._target(rule.split(), flow)
            if target is not None:
                self.seen[chain, ids_of([rule])[0]] += 1
            position += 1
            match target:
                case ["-j", "ACCEPT" | "DROP" as verdict]:
                    return verdict
                case ["-j", "RETURN"]:
                    return None
                case ["-j", "DNAT" | "SNAT" | "MASQUERADE" as how, *words]:
                    _translate(how, words, flow)
                    return "ACCEPT"  # no other rule of this hook's nat table is asked
                case ["-j", "MARK" | "LOG" | "NFLOG" | "CT" as how, *words]:
                    _act(how, words, flow)
                case ["-j", other]:
                    verdict_there = self.run(other, flow)
                    if verdict_there is not None:
                        return verdict_there
                case ["-g", other]:
                    chain, position = other, 0
                case _:
                    assert target is None, target
        return None

    def _target(self, words: list[str], flow: Flow) -> list[str] | None:
        """Return the target and what follows, None where the rule does not match."""
        is_negated, module = False, ""
        while words:
            option, *words = words
            if option in {"-j", "-g"}:
                return [option, *words]
            if option == "!":
                is_negated = True
                continue
            if (module, option) == ("rpfilter", "--invert"):
                if not flow.is_spoofed:
                    return None
                continue
            value, *words = words
            if option == "-m":
                module = value
                continue
            if option == "--match-set":
                end, *words = words
                found = self._in_set(value, end.split(","), flow.packet)
            else:
                found = _matches(f"{module} --mark" if option == "--mark" else option, value, flow)
            if found is is_negated:
                return None
            is_negated = False
        raise AssertionError("a rule without target")

    def _in_set(self, name: str, ends: list[str], packet: Packet) -> bool:
        found = self._sets[name]
        address = packet.source if ends[0] == "src" else packet.destination
        if found.kind == "hash:net":
            assert len(ends) == 1
            return any(address in network_of(Nlri(net)) for net in found.members)
        assert found.kind == "hash:ip,port"
        assert len(ends) == 2
        port = packet.source_port if ends[1] == "src" else packet.port
        return port is not None and address.packed + struct.pack(">BH", packet.protocol, port) in found.members


def _act(how: str, words: list[str], flow: Flow) -> None:
    """Do what a target does that goes on."""
    match how, words:
        case "MARK", ["--set-xmark", bits]:
            value, mask = (int(part, 16) for part in bits.split("/"))
            flow.mark = (flow.mark & ~mask) ^ value
        case "CT", ["--notrack"]:
            flow.state = "UNTRACKED"
        case _:
            prefix = words[words.index(f"--{how.lower()}-prefix") + 1]
            (flow.logged if how == "LOG" else flow.told).append(prefix)


def _translate(how: str, words: list[str], flow: Flow) -> None:
    """Put another address into a packet; which one MASQUERADE takes, nobody here knows."""
    match how, words:
        case "DNAT", ["--to-destination", address]:
            flow.packet = replace(flow.packet, destination=ipaddress.ip_address(address))
            flow.is_dnat = True
        case "SNAT", ["--to-source", address] | ["--to-source", address, "--random-fully"]:
            flow.packet = replace(flow.packet, source=ipaddress.ip_address(address))
        case "MASQUERADE", ["--random-fully"]:
            address = ""
        case _:
            raise AssertionError(words)
    flow.translated.append((how.lower(), address))


# The hooks that a packet comes by, in order, with the tables in order: netfilter's priorities.
IN: Way = (
    ("raw", "PREROUTING"),
    ("mangle", "PREROUTING"),
    ("nat", "PREROUTING"),
    ("filter", "INPUT"),
    ("security", "INPUT"),
)
LEAVING: Way = (("mangle", "POSTROUTING"), ("nat", "POSTROUTING"))
OUT: Way = (("raw", "OUTPUT"), ("nat", "OUTPUT"), ("filter", "OUTPUT"), *LEAVING)
THROUGH: Way = (*IN[:3], ("mangle", "FORWARD"), ("filter", "FORWARD"), *LEAVING)


def travel(
    tables: Tables, sets: Mapping[str, AddressSet], flow: Flow, way: Way, seen: Seen | None = None
) -> str | None:
    """Return DROP, ACCEPT where the filter table says so, or None: nobody of ours decides.

    The way depends on what the packet is translated to, which is for the caller to know. `seen`: takes what each rule
    has matched.
    """
    verdict = None
    into, out = flow.into, flow.out
    for table, hook in way:
        if hook not in tables.get(table, {}) or (table == "nat" and flow.state == "UNTRACKED"):
            continue
        flow.into = into if hook in {"PREROUTING", "INPUT", "FORWARD"} else ""
        flow.out = out if hook in {"OUTPUT", "FORWARD", "POSTROUTING"} else ""
        host = Host(tables[table], sets)
        answer = host.run(hook, flow)
        if seen is not None:
            seen |= {(table, chain, rule): count for (chain, rule), count in host.seen.items()}
        if answer == "DROP":
            return "DROP"
        verdict = answer if table == "filter" else verdict
    return verdict


def _matches(option: str, value: str, flow: Flow) -> bool:
    packet = flow.packet
    match option:
        case "--comment" | "--limit" | "--limit-burst":
            return True
        case "-i" | "-o":
            name = flow.into if option == "-i" else flow.out
            return name.startswith(value[:-1]) if value.endswith("+") else name == value
        case "-s" | "-d":
            return _end(packet, option) in ipaddress.ip_network(value)
        case "-p":
            return value == "0" or packet.protocol == int(value)
        case "--sports" | "--dports":
            assert packet.protocol in {6, 17, 132, 136}, "multiport without a protocol before"
            port = packet.source_port if option == "--sports" else packet.port
            ranges = [(part.split(":")[0], part.split(":")[-1]) for part in value.split(",")]
            assert sum(1 if first == last else 2 for first, last in ranges) <= 15
            return port is not None and any(int(first) <= port <= int(last) for first, last in ranges)
        case "--icmp-type" | "--icmpv6-type":
            if packet.icmp is None or packet.protocol != (1 if option == "--icmp-type" else 58):
                return False
            kind, _, code = value.partition("/")
            return packet.icmp.type == int(kind) and (not code or packet.icmp.code == int(code))
        case "mark --mark" | "connmark --mark":
            wanted, mask = (int(part, 16) for part in value.split("/"))
            return (flow.mark if option == "mark --mark" else flow.connmark) & mask == wanted
        case "--ctstate":
            return flow.state in value.split(",") or ("DNAT" in value.split(",") and flow.is_dnat)
        case _:
            raise AssertionError(option)


def _end(packet: Packet, option: str) -> IPAddress:
    return packet.source if option == "-s" else packet.destination
