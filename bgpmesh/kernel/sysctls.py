"""The sysctls that forwarding needs: of the node as a whole, and of a workload's link.

/proc/sys may be read-only, as in a container. So each setting is read first and written only where it
differs, and only a value that is wrong in the end is a problem, told by its name and what follows from it.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
from pathlib import Path

from bgpmesh import log
from bgpmesh.frozen import frozen

PROC_SYS = Path("/proc/sys")
PREPARE_AGAIN_S = 60.0  # others write the host's sysctls too, at boot or by an upgrade
_RTF_ADDRCONF = 0x00040000  # linux/ipv6_route.h: learnt from a router advertisement
# Entries below which nothing is collected, softly and hard: the default of 128, 512 and 1024 is fewer than
# the neighbours of a large cluster on one LAN.
_NEIGHBOURS = {"gc_thresh1": 1024, "gc_thresh2": 4096, "gc_thresh3": 8192}


@frozen
class Setting:
    """One sysctl, the value it must have, and what is lost without it."""

    path: str  # below /proc/sys
    value: int
    consequence: str
    is_vital: bool = True  # false: it makes things safer or faster, and its absence is only told

    @property
    def name(self) -> str:
        """The name as people write it: net.ipv4.ip_forward."""
        return self.path.replace("/", ".")


_HOST = (
    Setting("net/ipv4/ip_forward", 1, "forwarding is off"),
    Setting("net/ipv4/fib_multipath_hash_policy", 1, "all flows between two addresses take one of several ways"),
    Setting("net/ipv4/nexthop_compat_mode", 0, "each change of a next hop is told once for each of its routes"),
)
_HOST_IPV6 = (
    Setting("net/ipv6/conf/all/forwarding", 1, "IPv6 forwarding is off"),
    Setting("net/ipv6/fib_multipath_hash_policy", 1, "all IPv6 flows between two addresses take one of several ways"),
)


def kernel_has_ipv6(root: Path = PROC_SYS) -> bool:
    """Tell whether this kernel has IPv6. One that has not (`ipv6.disable=1`, or built so) takes no packet of it in.

    Where its sysctls are only hidden it has; so it has where its module is not loaded yet, which a socket does.
    """
    return (root / "net/ipv6").is_dir() or not (root / "net/ipv4").is_dir() or _opens_ipv6()


@functools.cache
def _opens_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC).close()
    except OSError as error:
        return error.errno != errno.EAFNOSUPPORT
    return True


def prepare_host(*, root: Path = PROC_SYS, routes6: Path | None = None) -> list[str]:
    """Make this host forward; return what could not be put right, each by the name of its sysctl. May be repeated.

    Nothing is asked of IPv6 where the kernel has none: routes and links that need it are refused one by one.

    With IPv6 forwarding a link heeds router advertisements only where accept_ra is 2: links that live on them are
    moved there first, or the host would lose its default route. `root` stands for /proc/sys, and `routes6`
    for /proc/net/ipv6_route, which is read only where IPv6 forwarding is still off.
    """
    problems = [_put_and_tell(setting, root) for setting in _HOST]
    if kernel_has_ipv6(root):
        forwarding = _HOST_IPV6[0]
        if _read(root / forwarding.path) == "0":
            problems += [
                _put_and_tell(
                    Setting(f"net/ipv6/conf/{link}/accept_ra", 2, f"{link} will lose its default route"), root
                )
                for link in _links_on_advertisements(routes6 or Path("/proc/net/ipv6_route"))
                if _read(root / f"net/ipv6/conf/{link}/accept_ra") == "1"
            ]
        problems += [_put_and_tell(setting, root) for setting in _HOST_IPV6]
    for family in ("ipv4", "ipv6"):
        for name, least in _NEIGHBOURS.items():
            path = f"net/{family}/neigh/default/{name}"
            found = _read(root / path)  # only the first network namespace has them
            if found is not None and found.isdigit() and int(found) < least:
                put(Setting(path, least, ""), root)  # where it may not be written, smaller clusters do without
    return [problem for problem in problems if problem]


def wrong(root: Path = PROC_SYS) -> list[tuple[str, str, bool]]:
    """Return what is not as forwarding needs it: `name=value` as it should be, in words, and whether we may set it."""
    found = []
    for setting in (*_HOST, *(_HOST_IPV6 if kernel_has_ipv6(root) else ())):
        path, value = root / setting.path, _read(root / setting.path)
        if value is not None and value != str(setting.value):
            can_be_set = os.access(path, os.W_OK) and not _is_read_only(path)
            said = f"{setting.name} is {value}: {setting.consequence}"
            found.append((f"{setting.name}={setting.value}", said, can_be_set))
    return found


class HostSettings:
    """This host's sysctls: put right again and again, and told where that cannot be."""

    def __init__(self) -> None:
        self.problems: tuple[str, ...] = ()

    def prepare(self) -> None:
        """Do as `prepare_host`, and say what is new of it."""
        before, self.problems = self.problems, tuple(prepare_host())
        for problem in self.problems:
            if problem not in before:
                log.warning("host.unprepared", reason=problem)
        for problem in before:
            if problem not in self.problems:
                log.info("host.prepared", reason=f"no longer: {problem}")

    async def watch(self) -> None:
        """Prepare the host again each minute, until cancelled."""
        while True:
            await asyncio.sleep(PREPARE_AGAIN_S)
            self.prepare()


def _put_and_tell(setting: Setting, root: Path) -> str:
    """Do as `put`; what it changes belongs to the host, so the log says so."""
    before = _read(root / setting.path)
    problem = put(setting, root)
    if not problem and before != str(setting.value):
        log.info("host.sysctl-set", key=setting.name, value=setting.value, reason=f"was {before}")
    return problem


def link_settings(interface: str, *, has_ipv4: bool, has_ipv6: bool) -> tuple[Setting, ...]:
    """Return what the host end of a workload's link needs.

    No proxy_arp: the workload has a permanent neighbour entry for its gateway and routes everything to it, so it
    never asks for anybody's address. The IPv6 rows hold without IPv6 too: what comes up by itself on the
    link must not let a workload advertise itself as this host's router. Nothing is said about IPv6 where the
    kernel has none.
    """
    ipv4, ipv6 = f"net/ipv4/conf/{interface}", f"net/ipv6/conf/{interface}"
    rows = [
        Setting(f"{ipv4}/forwarding", 1, "the workload's packets are not forwarded", is_vital=has_ipv4),
        Setting(f"{ipv4}/rp_filter", 1, "the workload can send from addresses of others", is_vital=False),
        Setting(f"{ipv4}/accept_redirects", 0, "the workload can redirect this host", is_vital=False),
    ]
    if has_ipv6:
        rows.append(Setting(f"{ipv6}/disable_ipv6", 0, "the workload has no IPv6"))
    if has_ipv6 or kernel_has_ipv6():
        rows += [
            Setting(f"{ipv6}/addr_gen_mode", 1, "the link has a second link-local address", is_vital=False),
            Setting(f"{ipv6}/forwarding", 1, "this host is no IPv6 router on the link", is_vital=False),
            Setting(f"{ipv6}/accept_ra", 0, "the workload can advertise itself as a router", is_vital=False),
            Setting(f"{ipv6}/accept_redirects", 0, "the workload can redirect this host", is_vital=False),
        ]
    return tuple(rows)


def put(setting: Setting, root: Path = PROC_SYS) -> str:
    """Make a sysctl have its value; return "" or the problem in words."""
    path = root / setting.path
    found = _read(path)
    if found == str(setting.value):
        return ""
    if found is None:
        return f"{setting.name} does not exist: {setting.consequence}"
    try:
        path.write_text(f"{setting.value}\n", encoding="ascii")
    except OSError as error:
        # A read-only mount shows as EROFS, or as EACCES where the file's mode is asked first.
        why = f"{root} is read-only" if _is_read_only(path) else f"cannot be written ({os.strerror(error.errno or 0)})"
        return f"{setting.name} is {found} and {why}: {setting.consequence}"
    return ""


def _is_read_only(path: Path) -> bool:
    """Tell whether a file is on a read-only mount; one that has vanished, with its link, is not."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _read(path: Path) -> str | None:
    """Return the value in force, None where there is no such sysctl or nobody may read it."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _links_on_advertisements(routes6: Path) -> list[str]:
    """Return the links with a route that a router advertised (linux/ipv6_route.h: flags, then the device)."""
    try:
        lines = routes6.read_bytes().splitlines()  # a link's name may be any octets but white space
    except OSError:
        return []
    fields = [line.split() for line in lines]
    return sorted({os.fsdecode(f[9]) for f in fields if len(f) == 10 and int(f[8], 16) & _RTF_ADDRCONF})
