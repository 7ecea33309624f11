"""Who is at the other end of a link, by router advertisements (RFC 4861): for `[peer.*] interface`.

On each link that is asked for we say that a router is here, of no use as a default one (lifetime 0), and hear who says
so too. Its link-local address and ours are then the two ends of a session. FRR does the same for its unnumbered
neighbours, BIRD with its protocol radv.

Rules:
 1. Only what a neighbour on the link can have sent counts: from a link-local address, with hop limit 255 (§6.1.2).
 2. Who was heard first stays while there is a session with it, and until it has been silent for `SILENT_S`: a second
    router takes nobody's place.
 3. Who was found in an earlier life counts as heard at the start, so that a restart calls it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bgpmesh import log
from bgpmesh.route.nlri import IPAddress

Ends = tuple[IPAddress, IPAddress]  # ours and theirs, each with its link
Found = Mapping[str, Ends]  # by the link's name

UPKEEP_S = 1.0
SAY_S = 10.0  # between advertisements; FRR's for unnumbered neighbours too
FIRST_SAY_S, FIRST_SAYS = 1.0, 3  # the first ones come faster
SILENT_S = 35.0  # three of them were lost

SOLICITATION, ADVERTISEMENT = 133, 134
_ALL_NODES, _ALL_ROUTERS = "ff02::1", "ff02::2"
_ICMPV6_FILTER = 1  # linux/icmpv6.h: a bit for each type, set: not wanted
_LINK_SCOPE, _TENTATIVE, _DAD_FAILED = 0x20, 0x40, 0x08  # of that file
_HOP_LIMIT = 255
ADDRESSES = Path("/proc/thread-self/net/if_inet6")


@dataclass(slots=True)
class _Link:
    """A link that is asked for."""

    ours: IPAddress | None = None  # None: it has no link-local address now
    theirs: IPAddress | None = None
    heard_at: float = 0.0
    said: int = 0  # advertisements since it came up
    say_at: float = 0.0
    problem: str = field(default="it was not looked at yet")


class Discovery:
    """The neighbours of this node's links; `found` is who there is, `changed` is called when that is another.

    `is_talking` tells whether there is a session on a link.
    """

    def __init__(self, changed: Callable[[], None], is_talking: Callable[[str], bool], found: Found) -> None:
        self.found: dict[str, Ends] = dict(found)
        self._changed, self._is_talking = changed, is_talking
        self._links: dict[str, _Link] = {}
        self._has_links = asyncio.Event()
        self._problem = ""
        self._loop = asyncio.get_running_loop()

    @property
    def problems(self) -> list[str]:
        """Why nobody can be found, link by link, or on any. That nobody is there is none of them."""
        if self._problem and self._links:
            return [self._problem]
        return [f"{name}: {link.problem}" for name, link in sorted(self._links.items()) if link.problem]

    def configure(self, names: Iterable[str]) -> None:
        """Look at these links, and at no others."""
        wanted = set(names)
        for name in self._links.keys() - wanted:
            del self._links[name]
            self.found.pop(name, None)
        for name in wanted - self._links.keys():
            theirs = self.found[name][1] if name in self.found else None
            self._links[name] = _Link(theirs=theirs, heard_at=self._loop.time())
        if self._links:
            self._has_links.set()
        else:
            self._has_links.clear()

    async def run(self) -> None:
        """Say and hear until cancelled; where that is not allowed it is tried again."""
        while await self._has_links.wait():
            try:
                with _socket() as sock:
                    self._problem = ""
                    await self._serve(sock)
            except OSError as error:
                self._problem = f"router advertisements cannot be heard: {os.strerror(error.errno or 0).lower()}"
            await asyncio.sleep(UPKEEP_S)

    async def _serve(self, sock: socket.socket) -> None:
        """Be on the links for as long as there are any."""
        self._loop.add_reader(sock, self._hear, sock)
        try:
            while self._links:
                own = _own_addresses()
                for name, link in self._links.items():
                    self._look(name, link, own.get(name, []))
                    if link.ours is not None and self._loop.time() >= link.say_at:
                        self._say(sock, name, link)
                await asyncio.sleep(UPKEEP_S)
        finally:
            self._loop.remove_reader(sock)

    def _look(self, name: str, link: _Link, own: list[IPAddress]) -> None:
        """Know our own address on a link."""
        if link.ours in own:
            return
        link.ours, link.said, link.say_at = next(iter(own), None), 0, 0.0
        if link.ours is None:
            link.problem = "there is no link-local address on it, or no such link that is up"
        else:
            link.problem = ""
            self._know(name, link)

    def _know(self, name: str, link: _Link) -> None:
        """Take both ends, where they are known."""
        if link.ours is None or link.theirs is None:
            return
        if self.found.get(name) != (link.ours, link.theirs):
            self.found[name] = link.ours, link.theirs
            log.info("neighbour.found", interface=name, address=link.theirs)
            self._changed()

    def _say(self, sock: socket.socket, name: str, link: _Link) -> None:
        """Say that a router is here, and when a link comes up ask who else is one."""
        link.say_at = self._loop.time() + (SAY_S if link.said >= FIRST_SAYS else FIRST_SAY_S)
        link.said += 1
        option = _link_address(name)
        try:
            number = socket.if_nametoindex(name)
            if link.said == 1:
                member = socket.inet_pton(socket.AF_INET6, _ALL_ROUTERS) + struct.pack("@i", number)
                with contextlib.suppress(OSError):  # it is one already
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
                sock.sendto(struct.pack("!BBHI", SOLICITATION, 0, 0, 0) + option, (_ALL_ROUTERS, 0, 0, number))
            # Neither a default router nor anything else that a host would take from it.
            advertisement = struct.pack("!BBHBBHII", ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0) + option
            sock.sendto(advertisement, (_ALL_NODES, 0, 0, number))
        except OSError as error:
            link.problem = f"nothing can be sent there: {os.strerror(error.errno or 0).lower()}"
            link.said = 0
        else:
            link.problem = ""

    def _hear(self, sock: socket.socket) -> None:
        """Take one message."""
        try:
            data, ancillary, _, source = sock.recvmsg(2048, 64)
            name = socket.if_indextoname(source[3])
        except OSError:
            return
        link = self._links.get(name)
        address = ipaddress.ip_address(source[0])
        hops = struct.unpack_from("i", ancillary[0][2])[0] if ancillary else 0
        if link is None or hops != _HOP_LIMIT or len(data) < 8 or data[1] or not address.is_link_local:
            return
        theirs = ipaddress.ip_address(f"{address}%{name}")
        if theirs == link.ours:
            return
        now = self._loop.time()
        if data[0] == SOLICITATION:
            link.say_at = min(link.say_at, now)
        elif data[0] == ADVERTISEMENT and len(data) >= 16:
            is_another = link.theirs is not None and theirs != link.theirs
            if is_another and (now < link.heard_at + SILENT_S or self._is_talking(name)):
                return
            link.theirs, link.heard_at = theirs, now
            self._know(name, link)


def _socket() -> socket.socket:
    """Return a socket for both kinds of messages; raises OSError."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 58)
    try:
        unwanted = (1 << 256) - 1 ^ 1 << SOLICITATION ^ 1 << ADVERTISEMENT
        words = struct.pack("=8I", *(unwanted >> at & 0xFFFFFFFF for at in range(0, 256, 32)))
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, words)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    except BaseException:
        sock.close()
        raise
    return sock


def _own_addresses() -> dict[str, list[IPAddress]]:
    """Return the link-local addresses of each link that may be used by now; none where the kernel has no IPv6."""
    try:
        lines = ADDRESSES.read_bytes().splitlines()  # a link's name may be any octets but white space
    except OSError:
        return {}
    found: dict[str, list[IPAddress]] = {}
    for packed, _, _, scope, flags, link in map(bytes.split, lines):
        if int(scope, 16) == _LINK_SCOPE and not int(flags, 16) & (_TENTATIVE | _DAD_FAILED):
            name = os.fsdecode(link)
            address = ipaddress.ip_address(bytes.fromhex(packed.decode()))
            found.setdefault(name, []).append(ipaddress.ip_address(f"{address}%{name}"))
    return {name: sorted(addresses, key=int) for name, addresses in found.items()}


def _link_address(name: str) -> bytes:
    """Return the option that says our address of the layer below (§4.6.1), b"" where that is no Ethernet."""
    try:
        packed = bytes.fromhex(Path(f"/sys/class/net/{name}/address").read_text(encoding="ascii").replace(":", ""))
    except (OSError, ValueError):
        return b""
    return struct.pack("!BB", 1, 1) + packed if len(packed) == 6 else b""
