"""Netlink as we use it: one socket that asks and writes, one that listens, and the bytes in between.

Why not a library: a write of a thousand messages with one acknowledgement at its end, failures told
apart by sequence number, and nexthop objects. The constants carry the kernel's own names.

What bites:
 * The kernel works through a whole `send` before it returns and reports each failure even where no
   acknowledgement was asked. So the answers lie ready when `send` is back; if the last one is not
   among them, the receive buffer overflowed and nobody knows what was done.
 * An acknowledgement takes 832 bytes of receive buffer, and SO_RCVBUF is clamped by a sysctl;
   SO_RCVBUFFORCE is not, but is refused inside a user namespace.
 * A dump that changed under the reader says so in a flag of its messages (NLM_F_DUMP_INTR), nothing more.
 * A socket that is bound to groups hears its own changes. Ours are dropped in the kernel, by a
   filter on the port number of the socket that writes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from array import array
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from bgpmesh.errors import KernelError

# linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800  # of a new object
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200  # of an error message
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1

# linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR = 20, 21
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106

_RTNLGRP_LINK, _RTNLGRP_IPV4_IFADDR, _RTNLGRP_IPV4_ROUTE = 1, 5, 7
_RTNLGRP_IPV6_IFADDR, _RTNLGRP_IPV6_ROUTE, _RTNLGRP_NEXTHOP = 9, 11, 32
GROUPS = (
    _RTNLGRP_LINK,
    _RTNLGRP_IPV4_IFADDR,
    _RTNLGRP_IPV4_ROUTE,
    _RTNLGRP_IPV6_IFADDR,
    _RTNLGRP_IPV6_ROUTE,
    _RTNLGRP_NEXTHOP,
)

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
_SO_ATTACH_FILTER, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 26, 32, 33

RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
SEND_BUFFER_BYTES = 1024 * 1024
_READ_BYTES = 256 * 1024  # the kernel fills 32 KiB at most today; a longer message would be cut off
_LONGEST_END_BYTES = 512  # header, errno and a sentence
_MOST_HEARD = 512  # datagrams of one `hear`, so that a storm leaves room for writing

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # length, type
_ATTRIBUTE_TYPE_MASK = 0x3FFF  # without the nested and byte-order bits


class Refused(NamedTuple):
    """One message that the kernel did not do: which, its errno, and its text for people."""

    sequence: int
    errno: int
    text: str


class Door(Protocol):
    """The way to the kernel: the real one below, and the tests' own that fails on demand.

    Every method may raise OSError. EINTR of a dump: it changed under us, ask again; ENOBUFS:
    answers or news were lost.
    """

    def reserve(self, count: int) -> int:
        """Return the first of `count` sequence numbers that nobody else uses."""

    def transact(self, messages: bytes | bytearray, last: int) -> list[Refused]:
        """Have the kernel work through the messages; return what it refused. The one numbered `last` asks an answer."""

    def dump(self, request: bytes | bytearray) -> Iterator[bytes]:
        """Yield the answer of a dump request as buffers of whole messages."""

    def hear(self) -> list[bytes]:
        """Return what was told since the last call, without waiting."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to hear."""

    def close(self) -> None:
        """Let go of the sockets."""


class NetlinkDoor:
    """The kernel of the network namespace that the calling thread is in; used by one thread."""

    def __init__(self) -> None:
        """Raise KernelError where there is no netlink."""
        try:
            self._asking = _open(0)
            self._listening = _open(self._asking.getsockname()[0])
        except OSError as error:
            raise KernelError("netlink socket", error.errno or 0, error.strerror or "unknown") from error
        self._next_sequence = 1

    def reserve(self, count: int) -> int:
        """Return the first of `count` sequence numbers that nobody else uses."""
        if self._next_sequence + count >= 1 << 32:
            self._next_sequence = 1
        first = self._next_sequence
        self._next_sequence += count
        return first

    def transact(self, messages: bytes | bytearray, last: int) -> list[Refused]:
        """Have the kernel work through the messages; return what it refused.

        Raises OSError: ENOBUFS where the answer to the last one is not there.
        """
        self._asking.send(messages)
        refused: list[Refused] = []
        while True:
            try:
                data = self._asking.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError as error:
                raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)) from error
            for kind, flags, sequence, start, end in walk(data):
                if kind != NLMSG_ERROR:
                    continue  # left over from a dump that was given up
                refusal, text = _error(data, flags, start, end)
                if refusal:
                    refused.append(Refused(sequence, refusal, text))
                if sequence == last:
                    return refused

    def dump(self, request: bytes | bytearray) -> Iterator[bytes]:
        """Yield the answer of a dump request as buffers of whole messages.

        Raises OSError: EINTR where the table changed meanwhile, else the kernel's own refusal.
        """
        asked = HEADER.unpack_from(request)[3]
        self._asking.send(request)
        is_torn = False
        while True:
            data = self._asking.recv(_READ_BYTES)
            # Messages of one datagram belong to one answer, and the first carries the flag for all of them.
            _, kind, flags, sequence, _ = HEADER.unpack_from(data)
            if sequence != asked:
                continue
            is_torn = is_torn or bool(flags & NLM_F_DUMP_INTR)
            if kind not in (NLMSG_ERROR, NLMSG_DONE):
                yield data
            end = _end_of_dump(data, asked)
            if end is None:
                continue
            flags, start = end
            refusal, text = _error(data, flags, start, len(data))
            if refusal:
                raise OSError(refusal, text)
            if is_torn or flags & NLM_F_DUMP_INTR:
                raise InterruptedError(errno.EINTR, "the table changed while it was read")
            return

    def hear(self) -> list[bytes]:
        """Return what was told since the last call, without waiting."""
        heard: list[bytes] = []
        while len(heard) < _MOST_HEARD:
            try:
                heard.append(self._listening.recv(_READ_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                break
        return heard

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to hear."""
        return self._listening.fileno()

    def close(self) -> None:
        """Let go of the sockets."""
        self._asking.close()
        self._listening.close()


# ── bytes ────────────────────────────────────────────────────────────────────


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return one request; the body is a multiple of four bytes long."""
    return HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    return ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    """Return an attribute that holds an unsigned 32-bit number."""
    return struct.pack("=HHI", 8, kind, value)


def walk(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (type, flags, sequence, start of the body, end) of each message; stops at what is cut short."""
    offset, size = 0, len(data)
    while offset + 16 <= size:
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > size:
            return
        yield kind, flags, sequence, offset + 16, offset + length
        offset += (length + 3) & ~3


def attributes(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """Return the attributes between two offsets by type, the last of each; stops at what is cut short."""
    found: dict[int, bytes] = {}
    while start + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            break
        found[kind & _ATTRIBUTE_TYPE_MASK] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def _end_of_dump(data: bytes, asked: int) -> tuple[int, int] | None:
    """Return (flags, start of the body) of the message that ends a dump, None where more follows.

    It stands last in its buffer, behind entries or alone; looked for from the back, since walking
    through the entries would cost as much as decoding them.
    """
    for length in range(20, min(len(data), _LONGEST_END_BYTES) + 1, 4):
        at = len(data) - length
        size, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
        if size == length and kind in (NLMSG_ERROR, NLMSG_DONE) and sequence == asked:
            return flags, at + HEADER.size
    return None


def _error(data: bytes, flags: int, start: int, end: int) -> tuple[int, str]:
    """Return errno (0: done) and the text of an error or end message, with the kernel's own words where it has any."""
    value = struct.unpack_from("=i", data, start)[0] if end - start >= 4 else 0
    if value >= 0:
        return 0, ""
    text = os.strerror(-value)
    if value == -errno.EPERM:
        text += " (it takes CAP_NET_ADMIN)"
    if flags & NLM_F_ACK_TLVS:
        header_end = start + 4 + HEADER.size
        if not flags & NLM_F_CAPPED:
            header_end = start + 4 + HEADER.unpack_from(data, start + 4)[0]
        said = attributes(data, header_end, end).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
        if said:
            text = f"{text}: {said.rstrip('.')}"
    return -value, text


def _open(writer: int) -> socket.socket:
    """Return a route socket: one that asks, or (given the port of the one that writes) one that listens."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        _widen(opened, _SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        _widen(opened, _SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            opened.setsockopt(_SOL_NETLINK, option, 1)
        if writer:
            _drop_from(opened, writer)
        opened.bind((0, 0))
        if writer:
            for group in GROUPS:
                _join(opened, group)
    except OSError:
        opened.close()
        raise
    return opened


def _widen(opened: socket.socket, force: int, ask: int, size_bytes: int) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, force, size_bytes)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, ask, size_bytes)


def _join(opened: socket.socket, group: int) -> None:
    """Join a group; a kernel without nexthop objects has no group for them."""
    try:
        opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except OSError as error:
        if group != _RTNLGRP_NEXTHOP or error.errno != errno.EINVAL:
            raise


def _drop_from(opened: socket.socket, port: int) -> None:
    """Have the kernel drop what the socket of that port caused: a classic BPF program of four steps."""
    program = b"".join(
        (
            struct.pack("=HBBI", 0x20, 0, 0, 12),  # load the word at 12, nlmsg_pid (in network order)
            struct.pack("=HBBI", 0x15, 0, 1, socket.htonl(port)),  # equal: go on, else skip one
            struct.pack("=HBBI", 0x06, 0, 0, 0),  # drop
            struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF),  # keep it whole
        )
    )
    held = array("B", program)
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 4, held.buffer_info()[0]))
