"""Connections that the kernel tracks (ctnetlink): those of an address are deleted, those that are revoked marked.

The constants are of linux/netfilter/nfnetlink_conntrack.h. What bites:
 * A dump is no snapshot: what moves in the table meanwhile may be missed, so it is asked again until nothing is found.
 * An entry is deleted by its tuple *and* id, or a younger one with the same tuple would go in its place.
 * A deleted entry comes back with the next packet that the rules let through, so what is revoked is marked instead, for
   a rule to drop it in both directions (nf_conntrack_tcp_loose).
 * Kernels before 5.8 do not heed the filter of a dump, so what comes is looked at here all the same. Of IPv6 addresses
   later ones heed the opposite of it (seen on 6.18): what matches does not come. So these are not filtered there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor

from bgpmesh.delta import Delta
from bgpmesh.errors import KernelError
from bgpmesh.events import ConnectionsCut, Event
from bgpmesh.frozen import frozen
from bgpmesh.kernel.netlink import attribute, attributes, number
from bgpmesh.kernel.nfnetlink import NfnetlinkDoor
from bgpmesh.policy.model import Packet
from bgpmesh.policy.rule import Icmp
from bgpmesh.route.nlri import IPAddress

MOST = 1 << 16  # addresses of one round
PASSES = 5  # dumps of one address, at most
BURST = 250  # messages of one send: all may be refused, in 832 octets each of a receive buffer of 212,992
TICK_S = 1.0  # between looks at what was refused

_SUBSYSTEM = 1  # NFNL_SUBSYS_CTNETLINK
_NEW, _GET, _DELETE = 0, 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _PROTOINFO, _MARK, _ID, _ZONE, _MARK_MASK, _FILTER = 1, 2, 4, 8, 12, 18, 21, 25
_T_IP, _T_PROTO, _V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 1, 2, 3, 4
_P_NUMBER, _P_SRC_PORT, _P_DST_PORT = 1, 2, 3
_P_ICMP = ((5, 6), (8, 9))  # type and code, of ICMP and of ICMPv6
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS, _BY_DST = 1, 2, 1 << 1
_INFO_TCP, _TCP_STATE = 1, 1
_TCP_OVER = {bytes((state,)) for state in (6, 7, 8)}  # LAST_ACK, TIME_WAIT, CLOSE (nf_conntrack_tcp.h)
_NESTED = 0x8000
_UNTOLD = "this kernel does not tell of its connections (module nf_conntrack_netlink)"


@frozen
class Connection:
    """One tracked connection: both directions as the kernel expects their packets, and what names it there."""

    source: IPAddress
    destination: IPAddress  # as called
    reply_source: IPAddress  # who answers: another than was called where that was translated
    reply_destination: IPAddress  # who is answered: another than the source where that was translated
    name: bytes  # attributes that name it in a request
    packet: Packet | None = None  # its first, behind the translation of its destination, as filters have seen it
    mark: int = 0
    is_over: bool = False  # of TCP: both ends have said so; the kernel remembers it for a while


class Connections:
    """The connection tracking of the network namespace that the calling thread is in; used by one thread."""

    def __init__(self) -> None:
        self._door = NfnetlinkDoor(_SUBSYSTEM, dict.fromkeys((errno.EINVAL, errno.EOPNOTSUPP), _UNTOLD))

    def close(self) -> None:
        """Let go of the socket."""
        self._door.close()

    def cut(self, address: IPAddress, leads_to: IPAddress | None) -> int:
        """Delete the connections that call an address, or leave with it, unless they are of `leads_to`; count them.

        Raises KernelError.
        """
        count = 0
        for _ in range(PASSES):
            found = [each for each in self.of(address) if leads_to is None or not _is_of(each, address, leads_to)]
            if not found:
                break
            self.delete(found)
            count += len(found)
        return count

    def of(self, address: IPAddress) -> list[Connection]:
        """Return the connections that were made to an address, and those whose answers are sent to it."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        found: dict[bytes, Connection] = {}
        for body in _filters(address):
            for each in self._dump(str(address), family, body):
                if address in (each.destination, each.reply_destination):
                    found[each.name] = each
        return list(found.values())

    def delete(self, connections: list[Connection]) -> None:
        """Delete these; one that has ended meanwhile is no fault. Raises KernelError."""
        self._send_all(_DELETE, [(each, each.name) for each in connections])

    def _send_all(self, command: int, bodies: Sequence[tuple[Connection, bytes]]) -> None:
        for start in range(0, len(bodies), BURST):
            some = [(_family(each), body) for each, body in bodies[start : start + BURST]]
            for error in self._door.do_all("connections", command, some):
                if error != errno.ENOENT:
                    raise KernelError("connections", error, os.strerror(error))

    def review(self, may_pass: Callable[[Packet], bool | None], revoked: int) -> tuple[int, int]:
        """Set the bits of the connection mark that say `revoked` where a connection may not pass, clear them elsewhere.

        None: it is nobody's business. Returns how many were marked, and how many are cleared. Raises KernelError.
        """
        changes: list[tuple[Connection, int]] = []
        counts = [0, 0]
        for each in self._all():
            allowed = None if each.packet is None else may_pass(each.packet)
            if allowed is not None and bool(each.mark & revoked) is allowed:
                changes.append((each, 0 if allowed else revoked))
                counts[allowed] += 1
        mask = struct.pack(">I", revoked)
        self._send_all(
            _NEW,
            [
                (each, each.name + attribute(_MARK, struct.pack(">I", mark)) + attribute(_MARK_MASK, mask))
                for each, mark in changes
            ],
        )
        return counts[0], counts[1]

    def living(self, addresses: AbstractSet[IPAddress]) -> tuple[list[Connection], int]:
        """Return the connections that have an end in `addresses`, behind translation, and how many there are in all.

        What is over counts as none. Raises KernelError.
        """
        found: list[Connection] = []
        count = 0
        for each in self._all():
            if not each.is_over:
                count += 1
                if each.packet is not None and not addresses.isdisjoint((each.packet.source, each.packet.destination)):
                    found.append(each)
        return found, count

    # ── messages ─────────────────────────────────────────────────────────────

    def _all(self) -> Iterator[Connection]:
        for family in (socket.AF_INET, socket.AF_INET6):
            yield from self._dump("connections", family, b"")

    def _dump(self, what: str, family: int, body: bytes) -> Iterator[Connection]:
        for data in self._door.dump(what, _GET, body, family=family):
            if (connection := _connection(attributes(data, 0, len(data)))) is not None:
                yield connection


def _filters(address: IPAddress) -> list[bytes]:
    """Return the filters of the dumps that hold each connection that was made to an address, or is answered there."""
    if address.version == 6:
        return [b""]
    called = attribute(_T_IP | _NESTED, attribute(_V4_DST, address.packed))
    return [
        attribute(kind | _NESTED, called) + attribute(_FILTER | _NESTED, number(flags, _BY_DST))
        for kind, flags in ((_TUPLE_ORIG, _FILTER_ORIG_FLAGS), (_TUPLE_REPLY, _FILTER_REPLY_FLAGS))
    ]


def _is_of(connection: Connection, address: IPAddress, leads_to: IPAddress) -> bool:
    """Tell whether an address was translated to this one, or from it, in a connection."""
    is_right = connection.reply_source == leads_to if connection.destination == address else True
    if connection.reply_destination == address:
        is_right = is_right and connection.source == leads_to
    return is_right


def _connection(found: dict[int, bytes]) -> Connection | None:
    """Return one entry of a dump, None where it has not what every entry has."""
    ends = [_ends(found.get(kind, b"")) for kind in (_TUPLE_ORIG, _TUPLE_REPLY)]
    if ends[0] is None or ends[1] is None:
        return None
    name = attribute(_TUPLE_ORIG | _NESTED, found[_TUPLE_ORIG])
    name += b"".join(attribute(kind, found[kind]) for kind in (_ID, _ZONE) if kind in found)
    mark: int = struct.unpack(">I", found[_MARK])[0] if _MARK in found else 0
    packet = _packet(ends[0][0], ends[1][0], found[_TUPLE_ORIG], found[_TUPLE_REPLY])
    return Connection(*ends[0], *ends[1], name, packet, mark, _is_over(found.get(_PROTOINFO, b"")))


def _is_over(info: bytes) -> bool:
    """Tell whether both ends of a TCP connection have said that it is over, by the kernel's account of it."""
    tcp = attributes(info, 0, len(info)).get(_INFO_TCP, b"")
    return attributes(tcp, 0, len(tcp)).get(_TCP_STATE, b"")[:1] in _TCP_OVER


def _packet(source: IPAddress, destination: IPAddress, original: bytes, reply: bytes) -> Packet | None:
    """Return the first packet of a connection from the protocol parts of its two tuples."""
    called, answered = (
        attributes(part, 0, len(part))
        for part in (attributes(d, 0, len(d)).get(_T_PROTO, b"") for d in (original, reply))
    )
    if _P_NUMBER not in called:
        return None
    icmp = next((Icmp(called[t][0], called[c][0]) for t, c in _P_ICMP if t in called and c in called), None)
    ports = (called.get(_P_SRC_PORT), answered.get(_P_SRC_PORT))
    numbers = [None if port is None else int.from_bytes(port, "big") for port in ports]
    return Packet(source, destination, called[_P_NUMBER][0], numbers[0], numbers[1], icmp)


def _ends(data: bytes) -> tuple[IPAddress, IPAddress] | None:
    """Return source and destination of a tuple."""
    nested = attributes(data, 0, len(data)).get(_T_IP, b"")
    found = attributes(nested, 0, len(nested))
    source, destination = found.get(_V4_SRC, found.get(_V6_SRC)), found.get(_V4_DST, found.get(_V6_DST))
    if source is None or destination is None or {len(source), len(destination)} - {4, 16}:
        return None
    return ipaddress.ip_address(source), ipaddress.ip_address(destination)


def _family(connection: Connection) -> int:
    return socket.AF_INET if connection.source.version == 4 else socket.AF_INET6


class ConnectionsEdge:
    """Has connections of addresses lead where a Delta wants them to, by deleting those that lead elsewhere.

    An address that is no longer wanted keeps none. Lives on the loop, works in a thread.
    """

    def __init__(self, wanted: Delta[IPAddress, IPAddress], report: Callable[[Event], None]) -> None:
        self._delta = wanted
        self._report = report
        self._connections = Connections()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="conntrack")
        self._awake = asyncio.Event()

    async def run(self) -> None:
        """Do so until cancelled."""
        try:
            while True:
                self._awake.clear()
                await self.settle()
                patience_s = TICK_S if len(self._delta) else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience_s):
                        await self._awake.wait()
        finally:
            self.close()

    async def settle(self) -> None:
        """Cut what is due, once; the outcome is reported."""
        loop = asyncio.get_running_loop()
        done: list[IPAddress] = []
        failed: dict[IPAddress, str] = {}
        for leads_to, some in self._delta.take(MOST, loop.time()):
            for address in some:
                try:
                    await loop.run_in_executor(self._thread, self._connections.cut, address, leads_to)
                    done.append(address)
                except KernelError as error:
                    failed[address] = error.text
        if done or failed:
            self._report(ConnectionsCut(done, failed))

    async def review(self, may_pass: Callable[[Packet], bool | None], revoked: int) -> tuple[int, int]:
        """Mark the connections that may not pass any more; see `Connections.review`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._connections.review, may_pass, revoked)

    async def living(self, addresses: AbstractSet[IPAddress]) -> tuple[list[Connection], int]:
        """Return the connections of these addresses; see `Connections.living`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._connections.living, addresses)

    def kick(self) -> None:
        """Say that the Delta may have work."""
        if self._delta.has_work(asyncio.get_running_loop().time()):
            self._awake.set()

    def close(self) -> None:
        """Let the thread end; what it is doing is done first."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._thread.submit(self._connections.close)
        self._thread.shutdown()
