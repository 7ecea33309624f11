"""Packets that a rule with `-j NFLOG` has sent to a group: who listens gets the first octets, and the rule's prefix.

A group has one listener in a network namespace, and packets to a group that nobody listens to go nowhere, so a rule
that is left behind costs its match and no more. What comes faster than it is read is lost, and the number of such
moments is all that is known (linux/netfilter/nfnetlink_log.h).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

from bgpmesh.errors import KernelError
from bgpmesh.frozen import frozen
from bgpmesh.kernel.netlink import attribute, attributes, walk
from bgpmesh.kernel.nfnetlink import NfnetlinkDoor
from bgpmesh.policy.chains import WITH_PORTS
from bgpmesh.policy.grammar import LOGGED_OCTETS
from bgpmesh.policy.rule import ICMP, ICMPV6
from bgpmesh.route.nlri import IPAddress

_SUBSYSTEM = 4  # NFNL_SUBSYS_ULOG
_PACKET, _CONFIG = 0, 1
_CFG_CMD, _CFG_MODE, _CFG_TIMEOUT = 1, 2, 4
_BIND, _COPY_PACKET = 1, 2
_TIMESTAMP, _INDEV, _OUTDEV, _PAYLOAD, _PREFIX = 3, 4, 5, 9, 10
_GENERIC_OCTETS = 4  # nfgenmsg
_SOON = 10  # hundredths of a second that the kernel gathers packets for
_READ_BYTES = 256 * 1024
_RECEIVE_BUFFER_BYTES = 1 << 20
_MOST_READ = 64  # datagrams of one `read`, so that a storm leaves room for others
_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options: a length in eights (RFC 8200 §4)
_FRAGMENT = 44
_TEXTS = {
    errno.EPERM: "another program listens to it",  # or we may not at all, to which the kernel says the same
    errno.EBUSY: "another program listens to it",
    errno.EINVAL: "this kernel has none (module nfnetlink_log)",
    errno.EPROTONOSUPPORT: "this kernel has none (module nfnetlink_log)",
}


@frozen
class Logged:
    """One packet: the rule's prefix, Unix time, the links by name ("": none), and what its headers say."""

    prefix: str
    time: float | None
    link_in: str
    link_out: str
    source: IPAddress
    destination: IPAddress
    protocol: int
    length: int  # of the whole packet, in octets
    source_port: int | None = None
    port: int | None = None
    icmp: tuple[int, int] | None = None  # type and code


class NflogDoor:
    """The packets of one group; raises KernelError where it cannot be had."""

    def __init__(self, group: int) -> None:
        self.lost = 0  # moments in which the kernel had more than we took
        self._door = NfnetlinkDoor(_SUBSYSTEM, _TEXTS)
        what = f"NFLOG group {group}"
        mode = struct.pack(">IBB", LOGGED_OCTETS, _COPY_PACKET, 0)
        try:
            self._socket = self._door.opened(what)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            for body in (
                attribute(_CFG_CMD, bytes((_BIND,))),
                attribute(_CFG_MODE, mode) + attribute(_CFG_TIMEOUT, struct.pack(">I", _SOON)),
            ):
                self._door.do(what, _CONFIG, body, resource=group)
            self._socket.setblocking(False)
        except BaseException:
            self._door.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to read."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._door.close()

    def read(self) -> list[Logged]:
        """Return what has come, without waiting; what is no IP packet is left out."""
        found: list[Logged] = []
        for _ in range(_MOST_READ):
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("NFLOG", error.errno or 0, error.strerror or str(error)) from error
                self.lost += 1
                continue
            for kind, _, _, start, end in walk(data):
                if kind == _SUBSYSTEM << 8 | _PACKET:
                    logged = decode(attributes(data, start + _GENERIC_OCTETS, end))
                    if logged is not None:
                        found.append(logged)
        return found


def decode(found: dict[int, bytes]) -> Logged | None:
    """Return a packet out of the attributes of its message; None where its headers are not all there."""
    payload = found.get(_PAYLOAD, b"")
    version = payload[0] >> 4 if payload else 0
    try:
        if version == 4:
            protocol, length = payload[9], int.from_bytes(payload[2:4], "big")
            source, destination = (ipaddress.ip_address(payload[at : at + 4]) for at in (12, 16))
            is_first = not int.from_bytes(payload[6:8], "big") & 0x1FFF
            behind = payload[(payload[0] & 0xF) * 4 :] if is_first else b""
        elif version == 6:
            source, destination = (ipaddress.ip_address(payload[at : at + 16]) for at in (8, 24))
            length = 40 + int.from_bytes(payload[4:6], "big")
            protocol, behind = _past_extensions(payload[6], payload[40:])
        else:
            return None
    except (ValueError, IndexError):
        return None
    has_ports = protocol in WITH_PORTS and len(behind) >= 4
    has_icmp = protocol in (ICMP, ICMPV6) and len(behind) >= 2
    seconds, micros = struct.unpack_from(">QQ", found.get(_TIMESTAMP, b"") + bytes(16))
    return Logged(
        found.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace"),
        seconds + micros / 1e6 if seconds else None,
        _link(found.get(_INDEV)),
        _link(found.get(_OUTDEV)),
        source,
        destination,
        protocol,
        length,
        int.from_bytes(behind[:2], "big") if has_ports else None,
        int.from_bytes(behind[2:4], "big") if has_ports else None,
        (behind[0], behind[1]) if has_icmp else None,
    )


def _past_extensions(protocol: int, data: bytes) -> tuple[int, bytes]:
    """Return the first protocol of an IPv6 packet that is no extension, and what follows as far as it is there."""
    while protocol in _EXTENSIONS or protocol == _FRAGMENT:
        if len(data) < 8:
            return protocol, b""
        if protocol == _FRAGMENT and int.from_bytes(data[2:4], "big") & 0xFFF8:
            return data[0], b""
        size = 8 if protocol == _FRAGMENT else 8 + 8 * data[1]
        protocol, data = data[0], data[size:]
    return protocol, data


def _link(index: bytes | None) -> str:
    if index is None or len(index) != 4:
        return ""
    try:
        return socket.if_indextoname(int.from_bytes(index, "big"))
    except OSError:
        return ""
