"""What the rules of chains have counted: by netlink where iptables is nft, from `iptables-save -c` where it is legacy.

The kernel of nft lists single chains, so a reading costs what the chains that are asked for cost (some 25 us each) and
nothing for all others; the program would list the table, at four times the cost for each rule. Legacy has tables only.
Rules are known by the ids in their comments, so there is nothing to understand in them.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import closing

from bgpmesh.errors import KernelError
from bgpmesh.kernel.netlink import attribute
from bgpmesh.kernel.nfnetlink import NfnetlinkDoor
from bgpmesh.policy.chains import ChainKey, Count

# linux/netfilter/nfnetlink.h and nf_tables.h
_NFTABLES, _GETRULE = 10, 7
_RULE_TABLE, _RULE_CHAIN = 1, 2
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ID = re.compile(rb"bm:([A-Za-z0-9_-]{16})(?![A-Za-z0-9_-])")
# The expression by its name, then NFTA_EXPR_DATA with NFTA_COUNTER_BYTES and NFTA_COUNTER_PACKETS in network order.
_COUNTER = re.compile(rb"counter\0.{2}\x02[\0\x80]\x0c\0\x01[\0@](.{8})\x0c\0\x02[\0@](.{8})", re.DOTALL)


def counts_of(keys: Iterable[ChainKey]) -> dict[ChainKey, dict[str, Count]]:
    """Return packets and bytes by the ids of rules; a chain that is not there is left out. Raises KernelError."""
    found: dict[ChainKey, dict[str, Count]] = {}
    with closing(NfnetlinkDoor(_NFTABLES)) as door:
        for key in keys:
            try:
                found[key] = dict(each for rule in _chain(door, key) for each in _rule(rule))
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
    return found


def _chain(door: NfnetlinkDoor, key: ChainKey) -> Iterator[bytes]:
    names = attribute(_RULE_TABLE, key.table.encode() + b"\0") + attribute(_RULE_CHAIN, key.chain.encode() + b"\0")
    return door.dump("counters", _GETRULE, names, family=_FAMILY[key.family])


def _rule(data: bytes) -> Iterator[tuple[str, Count]]:
    own, counter = _ID.search(data), _COUNTER.search(data)
    if own is not None and counter is not None:
        size, packets = (int.from_bytes(part, "big") for part in counter.groups())
        yield own[1].decode(), (packets, size)
