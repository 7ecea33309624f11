"""Sets of addresses (ipset) over netlink: read, made, changed and removed without the ipset program.

Packed by hand like everything that may one day be done a thousand times a second (linux/netfilter/ipset/ip_set.h).
A message holds a thousand members (IPSET_ATTR_ADT): a template repeated, the columns of the members laid into it. A
listing is read the same way backwards.

What bites:
 * Numbers and addresses are in network order, and their attributes say so in a flag, or are refused. In a listing
   addresses come without it.
 * Errors from 4096 on are ipset's own and mean nothing to strerror(3).
 * A message of many members ends at the first that is refused; those before it are in.
 * A set that a rule looks into cannot be destroyed or renamed; it can be swapped with another of its type, which is
   how one is replaced in one step.
 * A set may have more to it than members: an entry that is an exception (`nomatch`), that goes by itself (`timeout`), a
   mask over all addresses. What is not as we make it is read as a kind of its own, so that it is replaced.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from bgpmesh.errors import KernelError
from bgpmesh.frozen import frozen
from bgpmesh.kernel.netlink import NLM_F_EXCL, attribute, attributes
from bgpmesh.kernel.nfnetlink import NfnetlinkDoor
from bgpmesh.policy.chains import HASH_IP_PORT, HASH_NET, PREFIX, AddressSet, name_hash

# Members that come and go in place, or a quarter of the set; more of them are exchanged at one blow, by a swap.
IN_PLACE = 64
BURST = 1000  # members of one message; the length of an attribute has 16 bits

_SUBSYSTEM = 6  # NFNL_SUBSYS_IPSET
_PROTOCOL_VERSION = 6  # the oldest that kernels take; nothing of the newer one is needed
_PROTOCOL, _CREATE, _DESTROY, _RENAME, _SWAP, _LIST, _ADD, _DEL = 1, 2, 3, 5, 6, 7, 9, 10
_A_PROTOCOL, _A_SETNAME, _A_TYPENAME, _A_REVISION, _A_FAMILY, _A_FLAGS, _A_DATA, _A_ADT = range(1, 9)
_A_SETNAME2 = _A_TYPENAME
_A_LINENO = 9  # where a message has many members it must be there
_D_IP, _D_CIDR, _D_PORT, _D_PROTO, _D_HASHSIZE, _D_MAXELEM, _D_ELEMENTS = 1, 3, 4, 7, 18, 19, 24
_D_STRANGE = {6, 8, 11, 12, 20}  # of a set: timeout; counters, comments and the like; a mask, by three names
_NESTED, _NET_ORDER = 0x8000, 0x4000
_LIST_HEADER = 1 << 2  # IPSET_FLAG_LIST_HEADER: without members
_MAXELEM = 0xFFFFFFFF  # a limit and no size: it costs nothing, and 65,536 is what one has that says nothing
_FULL = 4352
_NFPROTO = {4: 2, 6: 10}
_VERSION = {2: 4, 10: 6}
_REVISION = {HASH_NET: 0, HASH_IP_PORT: 1}  # the first that has SCTP and UDP-Lite

_NOTHING: Mapping[str, AddressSet] = MappingProxyType({})

_TEXTS = {
    4097: "this kernel speaks another version of ipset",
    4098: "this kernel has no such type of set (module ip_set_hash_net or ip_set_hash_ipport)",
    4099: "there are too many sets",
    4100: "in use",
    4101: "a set of that name is there",
    4102: "a set of another type has that name",
    4103: "it is there",
    4104: "not a prefix that a set can have",
    4106: "not of the family of the set",
    _FULL: "full",
}


@frozen
class _Shape:
    """How members of one kind and family lie in a message, one behind the other.

    `written` and `listed` are an entry with zeros for the member; `places` says where each byte of a member goes.
    """

    written: bytes
    listed: bytes
    places: tuple[int, ...]

    def encode(self, members: Collection[bytes]) -> bytes:
        """Return members as entries; ValueError where one is of another kind or family."""
        joined = b"".join(members)
        if len(joined) != len(members) * len(self.places):
            raise ValueError("a member of another kind or family")
        return bytes(self._laid(self.written, joined, len(members)))

    def decode(self, data: bytes) -> list[bytes] | None:
        """Return the members of entries, None where there is more to an entry than a member."""
        size, stride = len(self.places), len(self.listed)
        count = len(data) // stride
        joined = bytearray(count * size)
        if len(data) != count * stride:
            return None
        for number, place in enumerate(self.places):
            joined[number::size] = data[place::stride]
        packed = bytes(joined)
        if self._laid(self.listed, packed, count) != data:
            return None
        return [packed[start : start + size] for start in range(0, len(packed), size)]

    def _laid(self, template: bytes, joined: bytes, count: int) -> bytearray:
        size, stride = len(self.places), len(template)
        data = bytearray(template * count)
        for number, place in enumerate(self.places):
            data[place::stride] = joined[number::size]
        return data


def _shapes() -> Iterator[tuple[tuple[str, int], _Shape]]:
    length = attribute(_D_CIDR, b"\0")
    port = attribute(_D_PORT | _NET_ORDER, bytes(2)) + attribute(_D_PROTO, b"\0")
    for family, kind, size in ((4, 1, 4), (6, 2, 16)):  # IPSET_ATTR_IPADDR_IPV4 and _IPV6
        address, end = tuple(range(12, 12 + size)), 12 + size  # behind three headers
        for name, rest, places in (
            (HASH_NET, length, (end + 4, *address)),
            (HASH_IP_PORT, port, (*address, end + 12, end + 4, end + 5)),
        ):
            written, listed = (
                attribute(_A_DATA | _NESTED, attribute(_D_IP | _NESTED, attribute(kind | flag, bytes(size))) + rest)
                for flag in (_NET_ORDER, 0)
            )
            yield (name, family), _Shape(written, listed, places)


_SHAPES = dict(_shapes())


class Sets:
    """The sets of the network namespace that the calling thread is in; used by one thread.

    Everything may raise KernelError.
    """

    def __init__(self) -> None:
        self._door = NfnetlinkDoor(_SUBSYSTEM, _TEXTS)
        self._is_there = False

    def close(self) -> None:
        """Let go of the socket."""
        self._door.close()

    def names(self) -> list[str]:
        """Return the names of the sets that are ours."""
        found = (_text(each[_A_SETNAME]) for each in self._dump("sets", _number(_A_FLAGS, _LIST_HEADER)))
        return [name for name in found if name.startswith(PREFIX)]

    def read(self, believed: Mapping[str, AddressSet] = _NOTHING) -> dict[str, AddressSet]:
        """Return every set of ours; what is as believed is the object believed, so that members are held once."""
        read = {name: self._one(name) for name in self.names()}
        found = {name: each for name, each in read.items() if each is not None}
        return {name: believed[name] if each == believed.get(name) else each for name, each in found.items()}

    def write(self, name: str, wanted: AddressSet, actual: AddressSet | None) -> None:
        """Make a set as wanted; `actual` is what it is as far as the caller knows, None: it is not there.

        One that comes or goes costs the difference of two sets, 10 to 20 ns for each member, and 10 us. A set that was
        made too small for what is wanted (by others: ours have no limit) is exchanged for one that is not.
        """
        if actual is not None and (actual.kind, actual.family) == (wanted.kind, wanted.family):
            come, go = _differences(wanted.members, actual.members)
            if len(come) + len(go) <= max(IN_PLACE, len(actual.members) // 4):
                try:
                    self._change(name, name, _ADD, wanted, come)
                    self._change(name, name, _DEL, wanted, go)
                except KernelError as error:
                    if error.errno != _FULL:
                        raise
                else:
                    return
        self._replace(name, wanted, _RENAME if actual is None else _SWAP)

    def remove(self, name: str) -> None:
        """Destroy a set; nothing happens where there is none."""
        try:
            self._ask(f"set {name}", _DESTROY, 0, _named(name))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise

    def _replace(self, name: str, wanted: AddressSet, verb: int) -> None:
        """Build a set beside the one of that name and put it in its place.

        Where the daemon ends on the way, a set is left whose name is ours: removed as what nobody wants, and here.
        """
        what, new = f"set {name}", f"{PREFIX}new-{name_hash(name)}"
        self.remove(new)
        body = _named(new) + attribute(_A_TYPENAME, wanted.kind.encode() + b"\0")
        body += attribute(_A_REVISION, bytes((_REVISION[wanted.kind],)))
        body += attribute(_A_FAMILY, bytes((_NFPROTO[wanted.family],)))
        sizes = _number(_D_HASHSIZE, _hash_size(len(wanted.members))) + _number(_D_MAXELEM, _MAXELEM)
        self._ask(what, _CREATE, NLM_F_EXCL, body + attribute(_A_DATA | _NESTED, sizes))
        try:
            self._change(name, new, _ADD, wanted, wanted.members)
            if self._count(new) != len(wanted.members):
                raise KernelError(what, errno.EIO, "not all members are in it")
            self._ask(what, verb, 0, _named(new) + attribute(_A_SETNAME2, name.encode() + b"\0"))
        finally:
            self.remove(new)

    def _change(self, name: str, at: str, command: int, like: AddressSet, members: Collection[bytes]) -> None:
        """Add or delete members in the set `at`; one that is there, or gone, already is no fault."""
        shape, pending = _SHAPES[like.kind, like.family], list(members)
        front = _named(at) + _number(_A_LINENO, 0)
        for start in range(0, len(pending), BURST):
            entries = shape.encode(pending[start : start + BURST])
            self._ask(f"set {name}", command, 0, front + attribute(_A_ADT | _NESTED, entries))

    def _count(self, name: str) -> int:
        """Return how many members a set has, -1 where the kernel does not say."""
        asked = attribute(_A_SETNAME, name.encode() + b"\0") + _number(_A_FLAGS, _LIST_HEADER)
        (header,) = self._dump(f"set {name}", asked)
        data = header[_A_DATA]
        return int.from_bytes(attributes(data, 0, len(data)).get(_D_ELEMENTS, b"\xff" * 4), "big", signed=True)

    def _one(self, name: str) -> AddressSet | None:
        """Return a set with its members, None where it is gone."""
        family, kind, is_strange = 0, "", False
        members: list[bytes] = []
        try:
            for found in self._dump(f"set {name}", attribute(_A_SETNAME, name.encode() + b"\0")):
                if _A_TYPENAME in found:  # once; a large set takes several messages
                    family, kind = _VERSION.get(found[_A_FAMILY][0], 0), _text(found[_A_TYPENAME])
                    header = found.get(_A_DATA, b"")
                    is_strange = not _D_STRANGE.isdisjoint(attributes(header, 0, len(header)))
                shape = _SHAPES.get((kind, family))
                some = shape.decode(found.get(_A_ADT, b"")) if shape else None
                members += some or ()
                is_strange = is_strange or some is None
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return AddressSet(family, frozenset(() if is_strange else members), f"{kind}, not ours" if is_strange else kind)

    # ── messages ─────────────────────────────────────────────────────────────

    def _ask(self, what: str, command: int, flags: int, body: bytes) -> None:
        """Have the kernel do one thing; its refusal is raised."""
        self._look_for_ipset()
        self._door.do(what, command, body, flags=flags, family=socket.AF_INET)

    def _dump(self, what: str, body: bytes) -> Iterator[dict[int, bytes]]:
        """Yield the attributes of each message of a listing."""
        self._look_for_ipset()
        request = attribute(_A_PROTOCOL, bytes((_PROTOCOL_VERSION,))) + body
        for found in self._door.dump(what, _LIST, request, family=socket.AF_INET):
            yield attributes(found, 0, len(found))

    def _look_for_ipset(self) -> None:
        """Raise KernelError where the kernel has no ipset, by name."""
        if self._is_there:
            return
        try:
            version = attribute(_A_PROTOCOL, bytes((_PROTOCOL_VERSION,)))
            self._door.do("ipset", _PROTOCOL, version, family=socket.AF_INET)
        except KernelError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT):
                raise KernelError("ipset", error.errno, "this kernel has none (module ip_set)") from error
            raise
        self._is_there = True


def _named(name: str) -> bytes:
    return attribute(_A_PROTOCOL, bytes((_PROTOCOL_VERSION,))) + attribute(_A_SETNAME, name.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind | _NET_ORDER, struct.pack(">I", value))


def _hash_size(members: int) -> int:
    """Return how many buckets of a dozen a set begins with; the kernel doubles them one day, copying all."""
    return max(1024, 1 << (members // 4).bit_length())


def _differences(wanted: frozenset[bytes], actual: frozenset[bytes]) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return what is to come and what is to go; the second is worked out only where the numbers say there is some."""
    come = wanted - actual
    return come, actual - wanted if len(actual) + len(come) != len(wanted) else frozenset()


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
