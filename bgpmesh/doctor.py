"""What `bgpmesh doctor` looks at: the file, this host, and the daemon where one runs; each fault with its cure.

Nothing is changed. What only the daemon can know (why a session is down, which route the kernel refuses) is what it
says of itself: its `status` is asked.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bgpmesh import config
from bgpmesh.config import Config
from bgpmesh.control import client
from bgpmesh.errors import ConfigError
from bgpmesh.kernel import sysctls
from bgpmesh.peering.options import NodeOptions
from bgpmesh.route.nlri import IPAddress

SPACE = 16 * 1024 * 1024  # octets that should be free where the state is kept
PATIENCE_S = 5.0
PROGRAMS = ("iptables", "iptables-restore", "ip6tables", "ip6tables-restore")


# What to do about a session that is down, by words of its last error.
CURES = (
    ("MD5 mismatch", "make `password` (or the first line of `password_file`) the same at both ends"),
    ("TTL security", "set `ttl_security` at both ends or at none, with as many hops as there are"),
    ("AS mismatch", "mend `asn` here, or the AS of that neighbour"),
    ("bad peer AS", "mend the AS that the neighbour has for this node, or `asn` (`local_asn`) here"),
    ("in OpenSent", "make this node a neighbour there, by that address and AS, or see its TTL security"),
    ("connection refused", "start the BGP speaker there, or see which address and port it listens on"),
    ("timed out", "ping it; see firewalls on the way, and the neighbour's password"),
    ("no route to host", "see the link, and the neighbour's address"),
    ("network unreachable", "`ip route get` its address: a route is missing"),
    ("the local address", "give this host the address, or mend it in the file"),
    ("sent more than", "raise `max_prefixes`, or see what it announces"),
    ("hold timer expired", "see the load there, and whether packets of full size get through (MTU)"),
    ("BFD", "see the path: packets of UDP 3784 (4784 over several hops) are lost"),
)


class Finding(NamedTuple):
    """One thing that was looked at; `cure` says what to do about a fault, "" where there is none."""

    check: str
    found: str
    cure: str = ""
    is_warning: bool = False

    @property
    def level(self) -> str:
        """How bad it is, in a word."""
        return "fault" if self.cure else "warning" if self.is_warning else "ok"


def examine(file: str, node: str | None, socket_path: str | None) -> list[Finding]:
    """Return all findings, in the order in which a daemon would meet with them."""
    try:
        loaded = config.load(file)
        name = config.find_node(loaded, node)
    except ConfigError as error:
        cure = "mend the file; `bgpmesh check` says when it is good"
        return [Finding("configuration", str(problem), cure) for problem in error.problems]
    status = _status(socket_path or loaded.control.socket)
    return [
        Finding("configuration", f"{file} is valid, for node {name}"),
        *(Finding("configuration", words, is_warning=True) for words in config.warnings(loaded, name)),
        *_addresses(loaded, loaded.node(name), is_running=isinstance(status, Mapping)),
        *_directory(Path(loaded.state.directory)),
        *(_sysctls(is_running=isinstance(status, Mapping)) if loaded.kernel.enabled else ()),
        *(_programs(loaded, loaded.node(name)) if loaded.kernel.enabled else ()),
        *_daemon(status),
    ]


def _status(path: str) -> Mapping[str, object] | str:
    """Return what the daemon says, or why it says nothing."""
    try:
        status = client.call(path, "status", {}, timeout_s=PATIENCE_S)
    except client.NoDaemonError as error:
        return str(error)
    except client.RefusedError as error:
        return f"the daemon at {path} refuses to say: {error}"
    return status if isinstance(status, Mapping) else f"the daemon at {path} gives no status"


def _addresses(loaded: Config, node: NodeOptions, *, is_running: bool) -> Iterator[Finding]:
    """Look whether this host has the addresses of the node, and whether its port is free for a daemon to come."""
    port = loaded.cluster.port
    own = [each for each in dict.fromkeys((node.address, node.address6)) if each is not None]
    for address in own:
        refusal = _why_unbound(address, 0)
        cure = f"ip address add {address} dev ..., or mend node.{node.name}" if refusal else ""
        yield Finding(f"address {address}", refusal or "is on this host", cure)
    if is_running or not own:
        return
    for address in node.listen or (node.address,):
        refusal = _why_unbound(address, port)
        if refusal == os.strerror(errno.EADDRINUSE):
            yield Finding(f"port {port} of {address}", refusal, f"ss -ltnp 'sport = :{port}' names who has it")
        elif refusal == os.strerror(errno.EACCES):
            yield Finding(f"port {port} of {address}", refusal, "run as root, or with CAP_NET_BIND_SERVICE")
        elif not refusal:
            yield Finding(f"port {port} of {address}", "is free")


def _why_unbound(address: IPAddress, port: int) -> str:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((str(address), port))
            if port:
                tried.listen(1)
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def _directory(directory: Path) -> Iterator[Finding]:
    """Look whether what must survive a restart can be kept."""
    there = next((each for each in (directory, *directory.parents) if each.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        yield Finding(f"state {directory}", f"{there} cannot be written", "mount it read-write, or run as root")
    elif free < SPACE:
        yield Finding(f"state {directory}", f"{free // 1024} kB are free", "make room; 16 MB should be free")
    else:
        yield Finding(f"state {directory}", "can be written")


def _sysctls(*, is_running: bool) -> Iterator[Finding]:
    """Look at what forwarding needs of the kernel; a daemon sets it when it starts, where it may."""
    for name, found, can_be_set in sysctls.wrong():
        if is_running or not can_be_set:
            yield Finding("sysctl", found, f"sysctl -w {name}, from outside of the container where this is one")


def _programs(loaded: Config, node: NodeOptions) -> Iterator[Finding]:
    """Look for the programs that are called, where the node has a use for them."""
    needs = [word for word, has in (("workloads", node.pod_cidrs), ("masquerade", _masquerades(loaded))) if has]
    absent = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if needs and absent:
        said = f"{', '.join(absent)} not found, which {' and '.join(needs)} need"
        yield Finding("packet filter", said, "apt-get install iptables")
    elif needs:
        yield Finding("packet filter", f"{PROGRAMS[0]} is installed")


def _masquerades(loaded: Config) -> bool:
    return any(pool.masquerade is not None for pool in loaded.pools)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def _daemon(status: Mapping[str, object] | str) -> Iterator[Finding]:
    """Tell what the daemon says of itself."""
    if isinstance(status, str):
        yield Finding("daemon", status, "systemctl start bgpmesh; journalctl -u bgpmesh says why it ended")
        return
    reasons, warnings = (_texts(status.get(key)) for key in ("reasons", "warnings"))
    down = dict(_down(status))
    yield from (Finding(f"peer {name}", words, _cure(words)) for name, words in down.items())
    said = [words for words in reasons if not words.startswith("no session is up")]  # each peer says why
    yield from (Finding("not ready", words, "it goes when that is mended") for words in said)
    yield from (Finding("daemon", words, is_warning=True) for words in warnings)
    if not reasons:
        yield Finding("daemon", f"is ready, as node {status.get('node')}")


def _down(status: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    peers = status.get("peers")
    for peer in peers if isinstance(peers, list) else ():
        if isinstance(peer, Mapping) and peer.get("state") != "Established":
            yield str(peer.get("name")), f"is {peer.get('state')}: {peer.get('last_error') or 'no try has ended yet'}"


def _cure(words: str) -> str:
    return next(
        (cure for part, cure in CURES if part in words), "`bgpmesh peers NAME` and the neighbour's log have more"
    )


def _texts(value: object) -> Sequence[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
