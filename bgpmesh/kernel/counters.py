"""What the rules of chains have counted: by netlink where iptables is nft, from `iptables-save -c` where it is legacy.

The kernel of nft lists single chains, so a reading costs what the chains that are asked for cost (some 25 us each) and
nothing for all others; the program would list the table, at four times the cost for each rule. Legacy has tables only.
Rules are known by the ids in their comments, so there is nothing to understand in them.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing

from bgpmesh.errors import KernelError
from bgpmesh.kernel.netlink import HEADER, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, attribute, message, walk
from bgpmesh.policy.chains import ChainKey, Count

# linux/netfilter/nfnetlink.h and nf_tables.h
_NETLINK_NETFILTER, _NFTABLES, _GETRULE = 12, 10, 7
_RULE_TABLE, _RULE_CHAIN = 1, 2
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ID = re.compile(rb"bm:([A-Za-z0-9_-]{16})(?![A-Za-z0-9_-])")
# The expression by its name, then NFTA_EXPR_DATA with NFTA_COUNTER_BYTES and NFTA_COUNTER_PACKETS in network order.
_COUNTER = re.compile(rb"counter\0.{2}\x02[\0\x80]\x0c\0\x01[\0@](.{8})\x0c\0\x02[\0@](.{8})", re.DOTALL)
_READ_BYTES = 256 * 1024
_PATIENCE_S = 10.0


def counts_of(keys: Iterable[ChainKey]) -> dict[ChainKey, dict[str, Count]]:
    """Return packets and bytes by the ids of rules; a chain that is not there is left out. Raises KernelError."""
    found: dict[ChainKey, dict[str, Count]] = {}
    try:
        with closing(
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        ) as door:
            door.settimeout(_PATIENCE_S)
            door.bind((0, 0))
            for sequence, key in enumerate(keys, 1):
                rules = _chain(door, key, sequence)
                if rules is not None:
                    found[key] = rules
    except TimeoutError as error:
        raise KernelError("counters", errno.ETIMEDOUT, "the kernel does not answer") from error
    except OSError as error:
        raise KernelError("counters", error.errno or 0, error.strerror or str(error)) from error
    return found


def _chain(door: socket.socket, key: ChainKey, sequence: int) -> dict[str, Count] | None:
    names = attribute(_RULE_TABLE, key.table.encode() + b"\0") + attribute(_RULE_CHAIN, key.chain.encode() + b"\0")
    head = struct.pack(">BBH", _FAMILY[key.family], 0, 0)
    door.send(message(_NFTABLES << 8 | _GETRULE, NLM_F_DUMP, sequence, head + names))
    found: dict[str, Count] = {}
    while True:
        data = door.recv(_READ_BYTES)
        if HEADER.unpack_from(data)[3] != sequence:
            continue
        for kind, _, _, start, end in walk(data):
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                value: int = struct.unpack_from("=i", data, start)[0] if end - start >= 4 else 0
                if value == -errno.ENOENT:
                    return None
                if value < 0:
                    raise OSError(-value, os.strerror(-value))
                return found
            found.update(_rule(data[start:end]))


def _rule(data: bytes) -> Iterator[tuple[str, Count]]:
    own, counter = _ID.search(data), _COUNTER.search(data)
    if own is not None and counter is not None:
        size, packets = (int.from_bytes(part, "big") for part in counter.groups())
        yield own[1].decode(), (packets, size)
