"""Sets of addresses (ipset) over netlink: read, made, changed and removed without the ipset program.

Packed by hand like everything that may one day be done a thousand times a second (linux/netfilter/ipset/ip_set.h).
What bites:
 * Numbers and addresses are in network order, and their attributes say so in a flag, or are refused.
 * Errors from 4096 on are ipset's own and mean nothing to strerror(3).
 * A set that a rule looks into cannot be destroyed or renamed; it can be swapped with another of its type, which is
   how one is replaced in one step.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from bgpmesh.errors import KernelError
from bgpmesh.kernel.netlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    attributes,
    message,
    walk,
)
from bgpmesh.policy.chains import PREFIX, AddressSet, name_hash
from bgpmesh.route.nlri import IPNetwork

# Members that come and go in place; more of them are exchanged at one blow, by a swap.
IN_PLACE = 64
MOST_MEMBERS = 1 << 20
BURST = 1000  # messages of one send

_NETLINK_NETFILTER, _SUBSYSTEM = 12, 6  # NFNL_SUBSYS_IPSET
_PROTOCOL_VERSION = 6  # the oldest that kernels take; nothing of the newer one is needed
_PROTOCOL, _CREATE, _DESTROY, _RENAME, _SWAP, _LIST, _ADD, _DEL = 1, 2, 3, 5, 6, 7, 9, 10
_A_PROTOCOL, _A_SETNAME, _A_TYPENAME, _A_REVISION, _A_FAMILY, _A_FLAGS, _A_DATA, _A_ADT = range(1, 9)
_A_SETNAME2 = _A_TYPENAME
_D_IP, _D_CIDR, _D_MAXELEM = 1, 3, 19
_NESTED, _NET_ORDER = 0x8000, 0x4000
_LIST_HEADER = 1 << 2  # IPSET_FLAG_LIST_HEADER: without members
_NFPROTO = {4: 2, 6: 10}
_VERSION = {2: 4, 10: 6}
_GENERIC = struct.Struct(">BBH")  # nfgenmsg: family, version, resource
_READ_BYTES = 256 * 1024
_PATIENCE_S = 10.0

_TEXTS = {
    4097: "this kernel speaks another version of ipset",
    4098: "this kernel has no such type of set (module ip_set_hash_net)",
    4099: "there are too many sets",
    4100: "in use",
    4101: "a set of that name is there",
    4102: "a set of another type has that name",
    4103: "it is there",
    4104: "not a prefix that a set can have",
    4106: "not of the family of the set",
    4352: "full",
}


class Sets:
    """The sets of the network namespace that the calling thread is in; used by one thread.

    Everything may raise KernelError.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def read(self) -> dict[str, AddressSet]:
        """Return every set whose name is one of ours; members of other people's sets are not even read."""
        flags = _number(_A_FLAGS, _LIST_HEADER)
        names = [_text(found[_A_SETNAME]) for found in self._dump("sets", flags)]
        found = {name: self._one(name) for name in names if name.startswith(PREFIX)}
        return {name: each for name, each in found.items() if each is not None}

    def write(self, name: str, wanted: AddressSet, actual: AddressSet | None) -> None:
        """Make a set as wanted; `actual` is what it is as far as the caller knows, None: it is not there."""
        what = f"set {name}"
        if actual is not None and (actual.kind, actual.family) == (wanted.kind, wanted.family):
            come, go = wanted.members - actual.members, actual.members - wanted.members
            if len(come) + len(go) <= IN_PLACE:
                self._ask(what, [*_members(_ADD, name, come), *_members(_DEL, name, go)])
                return
        new = f"{PREFIX}new-{name_hash(name)}"
        self.remove(new)
        body = _named(new) + attribute(_A_TYPENAME, wanted.kind.encode() + b"\0") + attribute(_A_REVISION, b"\0")
        body += attribute(_A_FAMILY, bytes((_NFPROTO[wanted.family],)))
        body += attribute(_A_DATA | _NESTED, _number(_D_MAXELEM, MOST_MEMBERS))
        self._ask(what, [(_CREATE, NLM_F_EXCL, body)])
        try:
            self._ask(what, _members(_ADD, new, wanted.members))
            if self._one(new) != wanted:
                raise KernelError(what, errno.EIO, "not all members are in it")
            verb = _RENAME if actual is None else _SWAP
            self._ask(what, [(verb, 0, _named(new) + attribute(_A_SETNAME2, name.encode() + b"\0"))])
        finally:
            self.remove(new)

    def remove(self, name: str) -> None:
        """Destroy a set; nothing happens where there is none."""
        try:
            self._ask(f"set {name}", [(_DESTROY, 0, _named(name))])
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise

    def _one(self, name: str) -> AddressSet | None:
        """Return a set with its members, None where it is gone."""
        family, kind, members = 0, "", set()
        try:
            for found in self._dump(f"set {name}", attribute(_A_SETNAME, name.encode() + b"\0")):
                if _A_TYPENAME in found:  # once; a large set takes several messages
                    family, kind = _VERSION.get(found[_A_FAMILY][0], 0), _text(found[_A_TYPENAME])
                for each, data in _children(found.get(_A_ADT, b"")):
                    if each == _A_DATA and (member := _member(data)) is not None:
                        members.add(member)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return AddressSet(family, frozenset(members), kind)

    # ── messages ─────────────────────────────────────────────────────────────

    def _ask(self, what: str, requests: Iterable[tuple[int, int, bytes]]) -> None:
        """Have the kernel do (command, flags, body) in order; the first refusal is raised, after the last was done."""
        pending = list(requests)
        for start in range(0, len(pending), BURST):
            some = pending[start : start + BURST]
            first = self._sequence + 1
            self._sequence += len(some)
            burst = b"".join(
                _request(command, flags | (NLM_F_ACK if number == len(some) - 1 else 0), first + number, body)
                for number, (command, flags, body) in enumerate(some)
            )
            refusal = 0
            for kind, sequence, error, _ in self._exchange(what, burst):
                if kind == NLMSG_ERROR and sequence >= first:
                    refusal = refusal or error
                    if sequence == first + len(some) - 1:
                        break
            if refusal:
                raise _failure(what, refusal)

    def _dump(self, what: str, body: bytes) -> Iterator[dict[int, bytes]]:
        """Yield the attributes of each message of a listing."""
        self._sequence += 1
        asked = self._sequence
        request = _request(_LIST, NLM_F_DUMP, asked, attribute(_A_PROTOCOL, bytes((_PROTOCOL_VERSION,))) + body)
        for kind, sequence, error, found in self._exchange(what, request):
            if sequence != asked:
                continue
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                if error:
                    raise _failure(what, error)
                return
            yield found

    def _exchange(self, what: str, burst: bytes) -> Iterator[tuple[int, int, int, dict[int, bytes]]]:
        """Send, and yield (type, sequence, errno, attributes) of what comes back until the caller has enough."""
        try:
            opened = self._opened()
            opened.send(burst)
            while True:
                data = opened.recv(_READ_BYTES)
                for kind, _, sequence, start, end in walk(data):
                    if kind in (NLMSG_ERROR, NLMSG_DONE):
                        value: int = struct.unpack_from("=i", data, start)[0] if end - start >= 4 else 0
                        yield kind, sequence, max(-value, 0), {}
                    else:
                        yield kind, sequence, 0, attributes(data, start + _GENERIC.size, end)
        except TimeoutError as error:
            raise KernelError(what, errno.ETIMEDOUT, "the kernel does not answer") from error
        except OSError as error:
            raise KernelError(what, error.errno or 0, error.strerror or str(error)) from error

    def _opened(self) -> socket.socket:
        """Return the socket; KernelError where the kernel has no ipset, by name."""
        if self._socket is not None:
            return self._socket
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        try:
            opened.settimeout(_PATIENCE_S)
            opened.bind((0, 0))
            self._sequence += 1
            body = attribute(_A_PROTOCOL, bytes((_PROTOCOL_VERSION,)))
            opened.send(_request(_PROTOCOL, 0, self._sequence, body))
            data = opened.recv(_READ_BYTES)
            _, kind, _, _, _ = HEADER.unpack_from(data)
            if kind == NLMSG_ERROR:
                raise _failure("ipset", max(-struct.unpack_from("=i", data, HEADER.size)[0], 0))
        except BaseException:
            opened.close()
            raise
        self._socket = opened
        return opened


def _request(command: int, flags: int, sequence: int, body: bytes) -> bytes:
    return message(_SUBSYSTEM << 8 | command, flags, sequence, _GENERIC.pack(socket.AF_INET, 0, 0) + body)


def _named(name: str) -> bytes:
    return attribute(_A_PROTOCOL, bytes((_PROTOCOL_VERSION,))) + attribute(_A_SETNAME, name.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind | _NET_ORDER, struct.pack(">I", value))


def _members(command: int, name: str, networks: Iterable[IPNetwork]) -> Iterator[tuple[int, int, bytes]]:
    """Yield the requests that add or delete members; one that is there, or gone, already is no fault."""
    front = _named(name)
    for network in networks:
        packed = network.network_address.packed
        address = attribute((1 if len(packed) == 4 else 2) | _NET_ORDER, packed)
        data = attribute(_D_IP | _NESTED, address) + attribute(_D_CIDR, bytes((network.prefixlen,)))
        yield command, 0, front + attribute(_A_DATA | _NESTED, data)


def _member(data: bytes) -> IPNetwork | None:
    """Return the prefix in one element, None where it has none."""
    found = attributes(data, 0, len(data))
    address = next((value for kind, value in _children(found.get(_D_IP, b"")) if kind in (1, 2)), None)
    if address is None or len(address) not in (4, 16):
        return None
    length = found[_D_CIDR][0] if _D_CIDR in found else 8 * len(address)
    return ipaddress.ip_network((address, length))


def _children(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, value) of attributes that may repeat a type."""
    start = 0
    while start + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, start)
        if length < 4 or start + length > len(data):
            return
        yield kind & 0x3FFF, data[start + 4 : start + length]
        start += (length + 3) & ~3


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _failure(what: str, number: int) -> KernelError:
    if what == "ipset" and number in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT):
        return KernelError("ipset", number, "this kernel has none (module ip_set)")
    return KernelError(what, number, _TEXTS.get(number) or os.strerror(number))
