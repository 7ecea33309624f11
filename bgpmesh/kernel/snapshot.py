"""Whether built-in chains are as they were a moment ago, without running a program: a few system calls.

iptables-nft      the number of the ruleset's generation, which any change of nft in this network namespace raises
iptables-legacy   of each table its layout, and the rules of its built-in chains without what they have counted. A
                  program would copy the table just so, and then print it

Both say too often that something has changed (somebody else's rule, another table), never too seldom.
"""

from __future__ import annotations

import functools
import os
import socket
import struct
from collections.abc import Collection
from contextlib import closing
from typing import TYPE_CHECKING

from bgpmesh.errors import KernelError
from bgpmesh.kernel.nfnetlink import NfnetlinkDoor

if TYPE_CHECKING:
    import ctypes

# linux/netfilter/nfnetlink.h and nf_tables.h
_NFTABLES, _GETGEN = 10, 16
# linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h; both have the same numbers
_GET_INFO, _GET_ENTRIES = 64, 65
_LEVEL = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
_INFO = struct.Struct("=32sI5I5III")  # name, valid hooks, where each begins, where its policy is, entries, octets
_HEAD = struct.Struct("=32sI4x")  # name, octets: then come the entries, at a multiple of eight
_NEXT = {4: 90, 6: 142}  # where an entry says how long it is, in 16 bits
_COUNTS = {4: slice(96, 112), 6: slice(152, 168)}  # and what it has counted: packets, octets


def snapshot(backend: str, tables: Collection[tuple[int, str]]) -> bytes | None:
    """Return what is the same while the built-in chains of these tables are; None where it cannot be had.

    `tables`: (family, name). One that is not there is as good as another that is not there.
    """
    try:
        if backend == "nft":
            return _generation()
        return b"".join(_layout(family, name) for family, name in sorted(tables))
    except (KernelError, OSError, ValueError, struct.error):  # not permitted, or no such kernel
        return None


def _generation() -> bytes | None:
    with closing(NfnetlinkDoor(_NFTABLES)) as door:
        return next(iter(door.do("generation", _GETGEN, b"")), None)


def _layout(family: int, name: str) -> bytes:
    """Return how a table of iptables-legacy is laid out, and the rules of its built-in chains."""
    with closing(socket.socket(_FAMILIES[family], socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)) as door:
        info = _ask(door, family, _GET_INFO, _INFO.pack(name.encode(), *(13 * [0])), _INFO.size).raw
        _, hooks, *places, _, size = _INFO.unpack(info)
        begin, end = places[:5], places[5:10]
        table = memoryview(_ask(door, family, _GET_ENTRIES, _HEAD.pack(name.encode(), size), _HEAD.size + size)).cast(
            "B"
        )
        chains = [
            _rules(family, table, _HEAD.size + begin[hook], _HEAD.size + end[hook])
            for hook in range(len(begin))
            if hooks >> hook & 1
        ]
    return info + b"".join(chains)


_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def _rules(family: int, table: memoryview, start: int, end: int) -> bytes:
    """Return the entries from one offset to another, that of the policy, with it, without what they have counted."""
    counts = _COUNTS[family]
    found: list[bytes] = []
    while start <= end:
        (length,) = struct.unpack_from("=H", table, start + _NEXT[family])
        if not length:
            raise ValueError("an entry of no length")
        found += [bytes(table[start : start + counts.start]), bytes(table[start + counts.stop : start + length])]
        start += length
    return b"".join(found)


def _ask(door: socket.socket, family: int, option: int, request: bytes, size: int) -> ctypes.Array[ctypes.c_char]:
    """Return what getsockopt(2) makes of a request: Python's own takes none, and answers 1,024 octets at the most."""
    import ctypes  # noqa: PLC0415  not loaded where iptables is nft

    buffer, length = ctypes.create_string_buffer(request, size), ctypes.c_uint32(size)
    if _libc().getsockopt(door.fileno(), _LEVEL[family], option, buffer, ctypes.byref(length)) != 0:
        error = ctypes.get_errno()  # ENOENT: no such table; EAGAIN: it has changed between the two questions
        raise OSError(error, os.strerror(error))
    return buffer


@functools.cache
def _libc() -> ctypes.CDLL:
    import ctypes  # noqa: PLC0415  as above

    return ctypes.CDLL(None, use_errno=True)
