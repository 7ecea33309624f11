"""The sockets of BFD: UDP with TTL 255 both ways (RFC 5881 §4 and §5), and the unix socket for the daemon."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Collection

from bgpmesh.peering.bfd import TTL

SOURCE_PORTS = range(49152, 65536)  # RFC 5881 §4: one for each session
RECEIVE_BUFFER = 1 << 20  # octets: more than all that comes while the machine is too busy to run us
TRAFFIC_CLASS = 0xC0  # CS6, network control
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; Python has no name for it
IP_RECVTTL = 12  # linux/in.h; the same


def draw() -> float:
    """Return a random number in [0, 1); the module `random` would be a tenth of what this process takes."""
    return int.from_bytes(os.urandom(3)) / (1 << 24)


def receiving_socket(local: str, port: int) -> socket.socket:
    """Return a socket that receives on one address, with the TTL of each packet; raises OSError."""
    family, level = (socket.AF_INET6, socket.IPPROTO_IPV6) if ":" in local else (socket.AF_INET, socket.IPPROTO_IP)
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(level, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(level, socket.IPV6_RECVHOPLIMIT if family == socket.AF_INET6 else IP_RECVTTL, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind(sockaddr(local, port))
    except BaseException:
        sock.close()
        raise
    return sock


def sockaddr(address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return what the socket calls take; a link-local address carries its link. Raises OSError where that is gone."""
    host, _, link = address.partition("%")
    return (host, port, 0, socket.if_nametoindex(link)) if link else (host, port)


def is_left_behind(sock: socket.socket, address: str) -> bool:
    """Tell whether a socket is bound to a link that is gone: one that is made anew under its name is another one."""
    link = address.partition("%")[2]
    try:
        return bool(link) and sock.getsockname()[3] != socket.if_nametoindex(link)
    except OSError:
        return True


def sending_socket(local: str, used: Collection[int]) -> tuple[socket.socket, int]:
    """Return a socket that sends from one address and a port of its own, and the port; raises OSError."""
    family, level = (socket.AF_INET6, socket.IPPROTO_IPV6) if ":" in local else (socket.AF_INET, socket.IPPROTO_IP)
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        is_6 = family == socket.AF_INET6
        sock.setsockopt(level, socket.IPV6_UNICAST_HOPS if is_6 else socket.IP_TTL, TTL)
        sock.setsockopt(level, socket.IPV6_TCLASS if is_6 else socket.IP_TOS, TRAFFIC_CLASS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # nobody answers to this port
        first = int(draw() * len(SOURCE_PORTS))
        for port in itertools.chain(SOURCE_PORTS[first:], SOURCE_PORTS[:first]):
            if port in used:
                continue
            try:
                sock.bind(sockaddr(local, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return sock, port
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    except BaseException:
        sock.close()
        raise


def bound(path: str) -> socket.socket:
    """Return a socket that listens at a path; a file that nobody listens at is replaced. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            if not other.connect_ex(path):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        if inode_of(path):
            os.unlink(path)  # noqa: PTH108  pathlib would be a third of all imports
        os.fchmod(listener.fileno(), 0o600)  # the mode of the file that bind makes
        listener.bind(path)
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener


def inode_of(path: str) -> int:
    """Return what tells one file of this name from another; 0: there is none."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116  as above
    except OSError:
        return 0


def words(error: OSError) -> str:
    """Return what went wrong, as the log writes it."""
    return os.strerror(error.errno or 0).lower()
