"""What the host's links have carried: one dump of counters (RTM_GETSTATS), without all else that a link is.

Packed by hand like `linkread.py`: a thousand links are some 230 kB.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from bgpmesh.errors import KernelError
from bgpmesh.kernel.netlink import NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, attributes, message, walk

_READ_BYTES = 256 * 1024
_RTM_NEWSTATS, _RTM_GETSTATS = 92, 94  # linux/rtnetlink.h
# linux/if_link.h: if_stats_msg is family, two paddings, index, filter; the filter has a bit for each attribute.
_STATS = struct.Struct("=BBHII")
_LINK_64 = 1
_COUNTERS = struct.Struct("=4Q")  # the head of rtnl_link_stats64: packets received and sent, octets received and sent


def traffic() -> dict[int, tuple[int, int]]:
    """Return the octets received and sent since it was made, of each link by its number; raises KernelError."""
    found: dict[int, tuple[int, int]] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asking:
            asking.bind((0, 0))
            asking.send(message(_RTM_GETSTATS, NLM_F_DUMP, 1, _STATS.pack(0, 0, 0, 0, 1 << _LINK_64 - 1)))
            while True:
                data = asking.recv(_READ_BYTES)
                for kind, _, _, start, end in walk(data):
                    refusal = -struct.unpack_from("=i", data, start)[0] if kind == NLMSG_ERROR else 0
                    if refusal:
                        raise KernelError("traffic", refusal, os.strerror(refusal))
                    if kind == NLMSG_DONE:
                        return found
                    counters = (
                        attributes(data, start + _STATS.size, end).get(_LINK_64) if kind == _RTM_NEWSTATS else None
                    )
                    if counters is not None:
                        _, _, received, sent = _COUNTERS.unpack_from(counters)
                        found[_STATS.unpack_from(data, start)[3]] = (received, sent)
    except OSError as error:
        raise KernelError("traffic", error.errno or errno.EIO, os.strerror(error.errno or errno.EIO)) from error
