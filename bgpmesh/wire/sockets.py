"""What is set on a BGP socket, and the words for what goes wrong with one. ExaBGP's helpers set GTSM.

* **TTL on the listener.** Its SYN-ACK must pass the GTSM check of any peer, so it leaves with 255; an
  accepted socket then gets what its peer is configured for (RFC 5082 §3).
* **MD5 and GTSM fail silently** (RFC 2385, RFC 5082): segments vanish and calls time out. The kernel's counters
  are all there is; they count for the whole network namespace, and only what reaches it. Hence "suspected".
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from exabgp.protocol.family import AFI
from exabgp.reactor.network.error import TTLError
from exabgp.reactor.network.tcp import set_minimum_ttl, set_sending_ttl

from bgpmesh.peering.peer import Peer
from bgpmesh.route.nlri import IPAddress, IPNetwork, link_of

BACKLOG = 128
UNSENT_MARK = 131072  # octets in the kernel not yet sent above which it takes no more
TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; Python has no name for it
TCP_MD5SIG_EXT = 32  # linux/tcp.h: a key for a prefix, since Linux 4.13
MD5_FLAG_PREFIX = 1
LONGEST_KEY = 80  # TCP_MD5SIG_MAXKEYLEN
NETSTAT = Path("/proc/net/netstat")
# What the kernel counts of segments that it drops unseen (ipv4/proc.c), and what that says of a peer.
OTHER_PASSWORD, UNSIGNED, SIGNED, FROM_AFAR = "TCPMD5Failure", "TCPMD5NotFound", "TCPMD5Unexpected", "TCPMinTTLDrop"
COUNTERS = (OTHER_PASSWORD, UNSIGNED, SIGNED, FROM_AFAR)
_MD5_WORDS = {
    OTHER_PASSWORD: "the peer signs with another password",
    UNSIGNED: "the peer does not sign, it has no password",
    SIGNED: "the peer signs, and no password is configured here",
}

Keys = Mapping[IPAddress | IPNetwork, str]  # MD5 keys, by who has them; of several that fit the longest prefix counts

SocketError = (OSError, TTLError, ValueError)  # what any of these functions may raise

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset by peer",
    errno.EPIPE: "connection reset by peer",
    errno.ETIMEDOUT: "timed out",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ENOPROTOOPT: "this kernel has no TCP MD5 (CONFIG_TCP_MD5SIG)",
}


def listening_socket(address: IPAddress, port: int, keys: Keys, hops: int = 0) -> socket.socket:
    """Return a socket that listens on this address only, with these MD5 keys from its first moment on.

    `hops`: all callers sit so many hops away at most (RFC 5082); 0: not said. Set on the accepted socket alone
    it would come too late for what arrives right behind the handshake.
    """
    sock = _socket(address)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_sending_ttl(sock, _afi(address), str(address), 255)
        if hops:
            set_hops(sock, address, hops)
        set_keys(sock, {}, keys)
        sock.bind(sockaddr(address, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def calling_socket(peer: Peer) -> socket.socket:
    """Return a socket whose call to the peer is under way, from our own address."""
    sock = _socket(peer.address)
    try:
        prepare(sock, peer)
        if peer.password:
            set_keys(sock, {}, {peer.address: peer.password})
        if peer.local_address is not None:
            sock.bind(sockaddr(peer.local_address, 0))
        code = sock.connect_ex(sockaddr(peer.address, peer.port))
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def prepare(sock: socket.socket, peer: Peer) -> None:
    """Set what every connection with this peer needs: no delay, its TTL, and GTSM (RFC 5082 §3)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Routes wait in the RIB, where they coalesce, rather than in the kernel, where they cannot.
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_MARK)
    afi, address = _afi(peer.address), str(peer.address)
    ttl = -1  # the kernel's default
    if peer.ttl_security:
        ttl = 255
        set_hops(sock, peer.address, peer.ttl_security)
    elif peer.is_external:
        ttl = peer.multihop or 1
    set_sending_ttl(sock, afi, address, ttl)


def set_hops(sock: socket.socket, address: IPAddress, hops: int) -> None:
    """Take nothing from more than so many hops away (RFC 5082 §3); 0: from anywhere."""
    set_minimum_ttl(sock, _afi(address), str(address), 256 - hops if hops else 1)  # 0 would change nothing


def set_keys(sock: socket.socket, present: dict[IPAddress | IPNetwork, str], wanted: Keys) -> None:
    """Make the MD5 keys on a socket those that are wanted; `present` are those that it has, also where that fails."""
    for of in present.keys() - wanted.keys():
        _set_key(sock, of, "")
        del present[of]
    for of, password in wanted.items():
        if present.get(of) != password:
            _set_key(sock, of, password)
            present[of] = password


def _set_key(sock: socket.socket, of: IPAddress | IPNetwork, password: str) -> None:
    """Set the MD5 key of an address or of a prefix; "" takes it away (struct tcp_md5sig of linux/tcp.h)."""
    network = ipaddress.ip_network(str(of).partition("%")[0])
    first, key = network.network_address.packed, password.encode("ascii")
    place = (
        struct.pack("=HH4s", socket.AF_INET, 0, first)
        if network.version == 4
        else struct.pack("=HHI16s", socket.AF_INET6, 0, 0, first)
    )
    rest = struct.pack(f"=BBHi{LONGEST_KEY}s", MD5_FLAG_PREFIX, network.prefixlen, len(key), 0, key)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG_EXT, place.ljust(128, b"\0") + rest)


def sockaddr(address: IPAddress, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return what the socket calls take; a link-local address carries its link."""
    if isinstance(address, ipaddress.IPv4Address):
        return (str(address), port)
    scope = socket.if_nametoindex(address.scope_id) if address.scope_id else 0
    return (str(address).partition("%")[0], port, 0, scope)


def is_left_behind(sock: socket.socket, address: IPAddress) -> bool:
    """Tell whether a socket is bound to a link that is gone: one that is made anew under its name is another one."""
    if not link_of(address):
        return False
    try:
        return bool(sock.getsockname()[3] != socket.if_nametoindex(link_of(address)))
    except OSError:
        return True


def address_of(place: tuple[str, int] | tuple[str, int, int, int]) -> IPAddress:
    """Return the address that a socket call says; a link-local one with its link, or OSError where that is gone."""
    scope = place[3] if len(place) == 4 else 0
    return ipaddress.ip_address(f"{place[0]}%{socket.if_indextoname(scope)}" if scope else place[0])


def words(error: Exception, local: IPAddress | None = None) -> str:
    """Return why a socket call failed, as an operator would say it; `local` is the address it was bound to."""
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL and local is not None:
        return f"the local address {local} is not on this host"
    if isinstance(error, OSError) and error.errno is not None:
        return _WORDS.get(error.errno) or os.strerror(error.errno).lower()
    return str(error)


def unheard(error: Exception, peer: Peer) -> str:
    """Return why a call came to nothing, and what that says of the peer or of the way there."""
    said, code = words(error, peer.local_address), error.errno if isinstance(error, OSError) else None
    meanings = {
        errno.ECONNREFUSED: f"nothing listens at {peer.address} port {peer.port}",
        errno.ETIMEDOUT: f"{peer.address} port {peer.port} is down, filtered, or asks for "
        + ("another MD5 password" if peer.password else "an MD5 password"),
        errno.EHOSTUNREACH: f"{peer.address} does not answer on its link, or a router says so",
        errno.ENETUNREACH: f"this host has no route to {peer.address}",
    }
    return f"{said}: {meanings[code]}" if code in meanings else said


def unheld(error: Exception, address: IPAddress) -> str:
    """Return why an address cannot be listened on, and what that takes."""
    said, code = words(error, address), error.errno if isinstance(error, OSError) else None
    meanings = {
        errno.EADDRINUSE: "by another BGP speaker of this host?",
        errno.EACCES: "a port below 1024 takes CAP_NET_BIND_SERVICE",
        errno.ENOMEM: "the MD5 keys of all peers take more than net.core.optmem_max",
    }
    return f"{said}: {meanings[code]}" if code in meanings else said


def dropped_counters() -> Counter[str]:
    """Return the kernel's counters of segments dropped for their MD5 signature or TTL, in this network namespace."""
    lines = [line.split() for line in NETSTAT.read_text(encoding="ascii").splitlines()]
    for names, values in itertools.pairwise(lines):
        if names[0] == values[0] == "TcpExt:" and names[1].isalpha():
            found = dict(zip(names[1:], map(int, values[1:]), strict=True))
            return Counter({name: found.get(name, 0) for name in COUNTERS})
    return Counter()


def suspicion(peer: Peer, rose: Counter[str]) -> str:
    """Return what may keep a peer away, from the counters that rose meanwhile; "" if nothing says so."""
    if peer.ttl_security and rose[FROM_AFAR]:
        away = f"more than {peer.ttl_security} hop{'s' if peer.ttl_security > 1 else ''} away"
        said = f"{FROM_AFAR} rose by {rose[FROM_AFAR]}"
        return f"TTL security mismatch suspected: {said}: the peer does not send with TTL 255, or is {away}"
    for name in (OTHER_PASSWORD, UNSIGNED) if peer.password else (SIGNED,):
        if rose[name]:
            return f"MD5 mismatch suspected: {name} rose by {rose[name]}: {_MD5_WORDS[name]}"
    return ""


def _socket(address: IPAddress) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _afi(address: IPAddress) -> object:
    return AFI.ipv4 if address.version == 4 else AFI.ipv6
