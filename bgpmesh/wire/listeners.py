"""Where peers call us: a listener for each address and port at which one does, and none for anybody else.

* **All keys, and the widest fence.** A listener is shared by all who call at its place: it has the MD5 key of each, and
  takes what comes from as far away as the farthest of them may be.
* **What cannot be had is tried again.** An address that is not there yet, a port that somebody else has, a link that is
  gone or made anew: `open` looks at all of them, and says in `problems` what is missing.
* **Before anybody is taken in** (`accept`) callers wait with the kernel: refused, they would try again only later.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bgpmesh import log
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.ranges import PeerRange, Ranges
from bgpmesh.route.nlri import IPAddress, IPNetwork
from bgpmesh.wire.sockets import (
    Keys,
    SocketError,
    address_of,
    is_left_behind,
    listening_socket,
    prepare,
    set_hops,
    set_keys,
    unheld,
    words,
)


@dataclass(slots=True, eq=False)
class _Listener:
    """What should listen on one address and port, and does once `sock` is there."""

    address: IPAddress
    port: int
    peers: dict[IPAddress, Peer] = field(default_factory=dict)  # by remote address
    ranges: list[PeerRange] = field(default_factory=list)
    sock: socket.socket | None = None
    keys: dict[IPAddress | IPNetwork, str] = field(default_factory=dict)  # MD5 keys the kernel has
    fence: int = 0  # the `hops` it has

    @property
    def hops(self) -> int:
        """How far away callers are at most; 0: one of them may be anywhere."""
        hops = [peer.ttl_security for peer in (*self.peers.values(), *(each.template for each in self.ranges))]
        return max(hops) if hops and all(hops) else 0

    @property
    def wanted_keys(self) -> Keys:
        """The MD5 keys that the kernel should have."""
        of_peers = {address: peer.password for address, peer in self.peers.items() if peer.password}
        return of_peers | {each.network: each.template.password for each in self.ranges if each.template.password}

    @property
    def place(self) -> str:
        """Address and port as people write them."""
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


class Listeners:
    """The listeners of one node, inside the running loop; `adopt` gets each connection, and whose it is.

    Read by views: `problems`, what cannot be listened on, by place, with the reason.
    """

    def __init__(self, adopt: Callable[[socket.socket, Peer], None]) -> None:
        self.problems: dict[str, str] = {}
        self._adopt = adopt
        self._ranges = Ranges()
        self._listeners: dict[tuple[IPAddress, int], _Listener] = {}
        self._is_accepting = False

    def configure(self, peers: Iterable[Peer], ranges: Ranges) -> None:
        """Listen wherever one of these calls, and nowhere else; idempotent."""
        self._ranges = ranges
        wanted: dict[tuple[IPAddress, int], _Listener] = {}
        for of, peer in (*((None, peer) for peer in peers), *((each, each.template) for each in ranges.all)):
            address = peer.listen_address or peer.local_address
            if address is None:
                continue
            listener = wanted.setdefault((address, peer.listen_port), _Listener(address, peer.listen_port))
            if of is None:
                listener.peers[peer.address] = peer
            else:
                listener.ranges.append(of)
        for place in self._listeners.keys() - wanted.keys():
            self._shut(self._listeners.pop(place))
        for place, made in wanted.items():
            listener = self._listeners.setdefault(place, made)
            listener.peers, listener.ranges = made.peers, made.ranges
        self.open()

    def open(self) -> None:
        """Bind and listen where that is missing, and set the MD5 keys where they differ."""
        for listener in self._listeners.values():
            keys = listener.wanted_keys
            if listener.sock is not None and is_left_behind(listener.sock, listener.address):
                self._shut(listener)
            try:
                if listener.sock is None:
                    listener.sock = listening_socket(listener.address, listener.port, keys, listener.hops)
                    listener.keys = dict(keys)
                    if self._is_accepting:
                        self._watch(listener, listener.sock)
                else:
                    set_keys(listener.sock, listener.keys, keys)
                    if listener.fence != listener.hops:
                        set_hops(listener.sock, listener.address, listener.hops)
            except SocketError as error:
                self._note_problem(listener, unheld(error, listener.address))
                continue
            listener.fence = listener.hops
            if self.problems.pop(listener.place, None):
                log.info("listener.recovered", address=listener.place)

    def accept(self) -> None:
        """Take in who calls, from now on."""
        self._is_accepting = True
        for listener in self._listeners.values():
            if listener.sock is not None:
                self._watch(listener, listener.sock)

    def close(self) -> None:
        """Listen no longer."""
        for listener in self._listeners.values():
            self._shut(listener)

    def _watch(self, listener: _Listener, sock: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(sock, self._take_in, listener, sock)

    def _note_problem(self, listener: _Listener, reason: str) -> None:
        problem = f"cannot listen on {listener.place}: {reason}"
        if self.problems.get(listener.place) != problem:
            log.warning("listener.failed", address=listener.place, reason=reason)
        self.problems[listener.place] = problem

    def _shut(self, listener: _Listener) -> None:
        self.problems.pop(listener.place, None)
        if listener.sock is not None:
            asyncio.get_running_loop().remove_reader(listener.sock)
            listener.sock.close()
            listener.sock = None

    def _take_in(self, listener: _Listener, sock: socket.socket) -> None:
        """Take one waiting connection, and close it where it is nobody's; the loop calls again if there are more."""
        try:
            accepted, remote = sock.accept()
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                return  # the caller has gone again (accept(2))
            # Closed it does not spin, and `open` makes it anew.
            self._shut(listener)
            self._note_problem(listener, words(error))
            return
        try:
            address = address_of(remote)
        except OSError:  # its link is gone
            accepted.close()
            return
        peer, around = listener.peers.get(address), self._ranges.around(address)
        if peer is None and around in listener.ranges:
            peer = around.speaker(address)
        if peer is None:
            accepted.close()
            return
        accepted.setblocking(False)
        try:
            prepare(accepted, peer)
        except SocketError as error:
            log.warning("connection.refused", peer=peer.name, reason=words(error))
            accepted.close()
            return
        self._adopt(accepted, peer)
