"""Chains as the text that iptables-restore reads, and what a listing of iptables tells of them.

A listing does not give back what was written (iptables renames and reorders options), so each rule of ours carries
an id as its comment, and listings are read for those only: `bm:` and a hash over the chain, the rule and the
id before it. So an id says what the rule is *and* where it stands, and a restarted daemon knows its own
rules without memory.

    a chain of ours (`bm-*`)   as wanted where the ids of all its rules are those wanted; rewritten whole
    a built-in chain           as wanted where its first rules are ours and no later one is; what stands of ours
                               is deleted by its own text, never by its number: others insert rules too

Nothing of a file or an object gets into the text raw: every line is looked at before it leaves.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bgpmesh.frozen import frozen
from bgpmesh.policy.rule import PROTOCOLS, SCTP, TCP, UDP, UDPLITE
from bgpmesh.route.nlri import IPAddress, IPNetwork, Nlri, nlri_of, prefix_text

PREFIX = "bm-"  # of the names of our chains and sets
FLOWS_CHAIN = "bm-flowspec"  # and what others begin with that are for what peers ask
LONGEST_CHAIN = 28  # characters: XT_EXTENSION_MAXNAMELEN, less one
LONGEST_SET = 31  # characters: IPSET_MAXNAMELEN, less one
HASH_NET, HASH_IP_PORT = "hash:net", "hash:ip,port"  # kinds of set, by ipset's names
WITH_PORTS = frozenset({TCP, UDP, SCTP, UDPLITE})  # of any other a hash:ip,port stores port 0, whatever was said
_SAFE = re.compile(r'[A-Za-z0-9 _.,:/+!"\[\]*-]+')
_ID = re.compile(r'--comment "?bm:([A-Za-z0-9_-]{16})"?(?= |$)')
_OWN_COMMENT = re.compile(r"-m comment --comment bm:[A-Za-z0-9_-]{16} ")
_TARGET = re.compile(r"(?<![^ ])-[jg] ")

_COUNTED = re.compile(r'^\[(\d+):(\d+)\] -A (bm-\S+) (?:.* )?--comment "?bm:([A-Za-z0-9_-]{16})"?(?= |$)', re.MULTILINE)

Count = tuple[int, int]  # packets, bytes
Counts = Mapping[str, Count]  # of one chain, by the ids of its rules
Rules = tuple[str, ...]  # each as it stands after `-A CHAIN`, with its id as comment: what `identified` returns


class ChainKey(NamedTuple):
    """A chain of ours, or a built-in chain whose first rules are ours."""

    family: int  # 4 or 6
    table: str
    chain: str

    def __str__(self) -> str:
        """Render as people look for it: `nat bm-nat-outgoing (IPv4)`."""
        return f"{self.table} {self.chain} (IPv{self.family})"

    @property
    def is_ours(self) -> bool:
        """Whether the whole chain is ours."""
        return self.chain.startswith(PREFIX)

    @property
    def is_of_flows(self) -> bool:
        """Whether its rules are what peers ask for: where one is refused, no other chain may be."""
        return self.chain.startswith(FLOWS_CHAIN)


@frozen
class AddressSet:
    """What `--match-set` looks into. Members are packed, as the kernel's messages and the RIB have them.

    hash:net      an `Nlri`: prefix length and address, 5 or 17 bytes; see `whole`
    hash:ip,port  address, protocol, port in network order, 7 or 19 bytes; see `port_member`
    """

    family: int  # 4 or 6
    members: frozenset[bytes]
    kind: str = HASH_NET

    def holds(self, address: IPAddress) -> bool:
        """Tell whether a prefix of the set has the address: asked length by length, as the kernel does."""
        if address.version != self.family:
            return False
        value, width, size = int(address), address.max_prefixlen, address.max_prefixlen // 8
        return any(
            bytes((length,)) + (value >> width - length << width - length).to_bytes(size, "big") in self.members
            for length in range(width, 0, -1)
        )

    def holds_port(self, address: IPAddress, protocol: int, port: int | None) -> bool:
        """Tell whether the set has this port of the address; a packet without a port (None) has none of them."""
        return port is not None and protocol in WITH_PORTS and port_member(address, protocol, port) in self.members


@frozen
class Standing:
    """A chain as it is listed: the id of each rule ("" where it has none of ours), and the lines of those with one."""

    ids: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def identified(chain: str, rules: Iterable[str]) -> Rules:
    """Return rules with their ids, 16 characters of SHA-224 in base64url (RFC 4648 §5), between matches and target.

    A comment is a match: all that stand before it have held when a packet pays for it, 45 ns on nft.
    """
    found: list[str] = []
    last = ""
    for rule in rules:
        digest = hashlib.sha224(f"{chain}\n{last}\n{rule}".encode()).digest()
        last = base64.urlsafe_b64encode(digest).decode()[:16]
        found.append(_TARGET.sub(rf"-m comment --comment bm:{last} \g<0>", rule, count=1))
    return tuple(found)


def bare(rule: str) -> str:
    """Return a rule without its id."""
    return _OWN_COMMENT.sub("", rule, count=1)


def ids_of(rules: Iterable[str]) -> tuple[str, ...]:
    """Return the id of each rule, "" where it has none."""
    found = map(_ID.search, rules)
    return tuple(match[1] if match else "" for match in found)


def name_hash(text: str) -> str:
    """Return 11 characters that stand for a text in the name of a chain or a set."""
    return base64.b32encode(hashlib.sha224(text.encode()).digest()).decode().lower()[:11]


def whole(networks: Iterable[IPNetwork]) -> frozenset[bytes]:
    """Return prefixes as members of a hash:net: it has no /0, two halves stand for it."""
    members: set[bytes] = set()
    for network in networks:
        parts: Iterable[IPNetwork] = network.subnets() if network.prefixlen == 0 else (network,)
        members.update(map(nlri_of, parts))
    return frozenset(members)


def port_member(address: IPAddress, protocol: int, port: int) -> bytes:
    """Return a member of a hash:ip,port. Raises ValueError for a protocol that has no ports."""
    if protocol not in WITH_PORTS:
        raise ValueError(f"protocol {protocol} has no ports")
    return address.packed + bytes((protocol, port >> 8, port & 0xFF))


def member_text(member: bytes) -> str:
    """Return a member as people write it: `10.0.0.0/8`, `10.0.0.1,tcp:80`."""
    if len(member) in {5, 17}:
        return prefix_text(Nlri(member))
    protocol, port = member[-3], int.from_bytes(member[-2:], "big")
    name = next((name for name, number in PROTOCOLS.items() if number == protocol), str(protocol))
    return f"{ipaddress.ip_address(member[:-3])},{name}:{port}"


def restore_text(table: str, wanted: Mapping[str, Rules | None], standing: Mapping[str, Standing] | None = None) -> str:
    """Return the input that makes some chains of one table as wanted (None: gone), in one transaction (`-n`).

    `standing` has the built-in chains of `wanted` as they are now. Raises ValueError for a line that iptables might
    read as something else: a bug, since nothing that people write gets here raw.
    """
    ours = {chain: rules for chain, rules in wanted.items() if chain.startswith(PREFIX)}
    hooks = {chain: rules for chain, rules in wanted.items() if chain not in ours}
    lines = [f"*{table}"]
    lines += [f":{chain} - [0:0]" for chain in ours]  # makes it, or empties it
    for chain, rules in hooks.items():
        found = standing.get(chain) if standing else None
        lines += ["-D" + line.removeprefix("-A") for line in (found.lines if found else ())]
        lines += [f"-I {chain} {number} {rule}" for number, rule in enumerate(rules or (), start=1)]
    for chain, rules in ours.items():
        lines += [f"-A {chain} {rule}" for rule in rules or ()]
    lines += [f"-X {chain}" for chain, rules in ours.items() if rules is None]
    lines.append("COMMIT")
    for line in lines:
        if not line.startswith("-D ") and not _SAFE.fullmatch(line):  # iptables itself has written what is deleted
            raise ValueError(f"not a line for iptables: {line!r}")
    if not all(all(ids_of(rules)) for rules in wanted.values() if rules):
        raise ValueError(f"a rule without an id: {wanted!r}")
    for chain in ours:
        if len(chain) > LONGEST_CHAIN:
            raise ValueError(f"too long for a chain: {chain!r}")
    return "\n".join(lines) + "\n"


def parse_listing(text: str, family: int, table: str = "") -> dict[ChainKey, Standing]:
    """Return our chains, and built-in ones with rules of ours, out of `iptables-save` or `iptables -S` (one table).

    Everything else in it is somebody else's; counters (`iptables-save -c`) are passed over.
    """
    ids: dict[ChainKey, list[str]] = {}
    lines: dict[ChainKey, list[str]] = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word.startswith("["):
            line = rest  # noqa: PLW2901  without its counters
            word, _, rest = line.partition(" ")
        if word.startswith("*"):
            table = word[1:]
        elif word.startswith(":") and word[1:].startswith(PREFIX):
            ids.setdefault(ChainKey(family, table, word[1:]), [])
        elif word == "-N" and rest.startswith(PREFIX):
            ids.setdefault(ChainKey(family, table, rest.strip()), [])
        elif word == "-A":
            key = ChainKey(family, table, rest.partition(" ")[0])
            found = _ID.search(line)
            ids.setdefault(key, []).append(found[1] if found else "")
            if found:
                lines.setdefault(key, []).append(line)
    return {
        key: Standing(tuple(found), tuple(lines.get(key, ())))
        for key, found in ids.items()
        if key.is_ours or key in lines
    }


def parse_counts(text: str, family: int) -> dict[ChainKey, dict[str, Count]]:
    """Return what the rules in chains of ours have counted, out of `iptables-save -c`."""
    found: dict[ChainKey, dict[str, Count]] = {}
    for part in re.split(r"^\*", text, flags=re.MULTILINE)[1:]:
        table = part.partition("\n")[0]
        for packets, size, chain, rule in _COUNTED.findall(part):
            found.setdefault(ChainKey(family, table, chain), {})[rule] = (int(packets), int(size))
    return found


def foreign_rules(text: str) -> int:
    """Count the rules in a listing that are not ours."""
    return sum(
        line.startswith("-A ") and not line.startswith(f"-A {PREFIX}") and not _ID.search(line)
        for line in text.splitlines()
    )


def is_as(key: ChainKey, rules: Rules, standing: Standing) -> bool:
    """Tell whether a chain stands as these rules would be written."""
    ids = ids_of(rules)
    if key.is_ours:
        return standing.ids == ids
    return standing.ids[: len(ids)] == ids and not any(standing.ids[len(ids) :])


def rules_of(key: ChainKey, standing: Standing, known: Iterable[Rules | None]) -> Rules:
    """Return which of some known rules a chain stands as, or else something that nobody can want."""
    for rules in known:
        if rules is not None and is_as(key, rules, standing):
            return rules
    return ("?", *standing.ids)
