"""Reading the host's links: which there are, which are ours, and news of them.

Packed by hand with the pieces of `netlink.py`: a thousand links are read in milliseconds each minute.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

from bgpmesh.errors import KernelError
from bgpmesh.frozen import frozen
from bgpmesh.kernel.netlink import (
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    attribute,
    attributes,
    message,
    number,
    walk,
)
from bgpmesh.route.nlri import IPAddress
from bgpmesh.workload.endpoint import LinkSpec, parse_alias

_READ_BYTES = 256 * 1024
_MOST_TORN = 5  # dumps that changed under us, before we say so
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg: family, prefix length, flags, scope, index
_RTM_GETADDR = 22  # linux/rtnetlink.h
_IFA_ADDRESS, _IFA_LOCAL = 1, 2  # linux/if_addr.h: where both are there the second is ours
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_IFALIAS, _IFLA_EXT_MASK = 1, 3, 20, 29
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS: half of each message
_IFF_UP = 1
_RTMGRP_LINK = 1


def host_mac(interface: str) -> str:
    """Return the link-layer address that we give a link's host end (locally administered)."""
    return _mac(f"host {interface}")


def inside_mac(interface: str) -> str:
    """Return the link-layer address that we give a link's end in the workload."""
    return _mac(f"inside {interface}")


def _mac(text: str) -> str:
    return "02:" + hashlib.sha256(text.encode()).digest()[:5].hex(":")


@frozen
class Found:
    """What the kernel says of one link."""

    name: str
    index: int
    mac: str
    alias: str
    is_up: bool

    def link(self) -> LinkSpec | None:
        """Return the link of ours that this is, None: somebody else's.

        One that has to be looked after (half made, its alias overwritten) has no alias: so it is never what is wanted.
        """
        link = parse_alias(self.name, self.alias)
        if link is not None:
            return replace(link, is_open=self.is_up)
        if self.mac == host_mac(self.name):
            return LinkSpec(self.name, "", (), "")
        return None

    @property
    def is_whole(self) -> bool:
        """Whether it says what it is for: the alias is written last."""
        return parse_alias(self.name, self.alias) is not None


class LinkReader:
    """Asks for links, synchronously; used in one thread, whose network namespace at the first question is read."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()

    def all(self) -> list[Found]:
        """Return every link; KernelError where that cannot be read."""
        for _ in range(_MOST_TORN):
            found = self._ask(NLM_F_DUMP, b"")
            if found is not None:
                return found
        raise KernelError("links", errno.EINTR, f"they changed {_MOST_TORN} times while they were read")

    def named(self, interface: str) -> Found | None:
        """Return the link of that name, None where there is none; KernelError where that cannot be read."""
        return next(iter(self._ask(0, attribute(_IFLA_IFNAME, interface.encode() + b"\0")) or ()), None)

    def addresses(self) -> dict[IPAddress, set[int]]:
        """Return the addresses of this host with the numbers of the links that have them, as they are at the moment."""
        found: dict[IPAddress, set[int]] = {}
        self._sequence += 1
        try:
            with _socket(0) as asking:
                asking.send(message(_RTM_GETADDR, NLM_F_DUMP, self._sequence, _ADDRESS.pack(0, 0, 0, 0, 0)))
                while True:
                    data = asking.recv(_READ_BYTES)
                    for kind, _, _, start, end in walk(data):
                        if kind in (NLMSG_DONE, NLMSG_ERROR):
                            return found
                        told = attributes(data, start + _ADDRESS.size, end) if kind == RTM_NEWADDR else {}
                        if own := told.get(_IFA_LOCAL) or told.get(_IFA_ADDRESS):
                            _, _, _, _, index = _ADDRESS.unpack_from(data, start)
                            found.setdefault(ipaddress.ip_address(own), set()).add(index)
        except OSError as error:
            raise KernelError("addresses", error.errno or 0, os.strerror(error.errno or 0)) from error

    def _ask(self, flags: int, named: bytes) -> list[Found] | None:
        """Return the links that a request finds, None: a dump that changed meanwhile."""
        self._sequence += 1
        body = _LINK.pack(0, 0, 0, 0, 0) + number(_IFLA_EXT_MASK, _SKIP_STATS) + named
        found: list[Found] = []
        is_torn = False
        try:
            if self._socket is None:
                self._socket = _socket(0)
            self._socket.send(message(RTM_GETLINK, flags, self._sequence, body))
            while True:
                data = self._socket.recv(_READ_BYTES)
                found += decode(data)
                for kind, said, _, start, _ in walk(data):
                    is_torn = is_torn or bool(said & NLM_F_DUMP_INTR)
                    refusal = -struct.unpack_from("=i", data, start)[0] if kind == NLMSG_ERROR else 0
                    if refusal == errno.ENODEV:
                        return []
                    if refusal:
                        raise KernelError("links", refusal, os.strerror(refusal))
                    if kind == NLMSG_DONE or not flags:
                        return None if is_torn else found
        except OSError as error:
            raise KernelError("links", error.errno or 0, os.strerror(error.errno or 0)) from error


def open_monitor() -> socket.socket:
    """Return a socket that hears of every change of a link; KernelError where there is none to be had."""
    try:
        return _socket(_RTMGRP_LINK)
    except OSError as error:
        raise KernelError("link monitor", error.errno or 0, os.strerror(error.errno or 0)) from error


def decode(data: bytes) -> Iterator[Found]:
    """Yield the links that an answer or news speaks of."""
    for kind, _, _, start, end in walk(data):
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            _, _, index, flags, _ = _LINK.unpack_from(data, start)
            told = attributes(data, start + _LINK.size, end)
            name, alias = (
                told.get(a, b"").rstrip(b"\0").decode(errors="replace") for a in (_IFLA_IFNAME, _IFLA_IFALIAS)
            )
            yield Found(name, index, told.get(_IFLA_ADDRESS, b"").hex(":"), alias, bool(flags & _IFF_UP))


def _socket(groups: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    opened.bind((0, groups))
    return opened
