"""Writing one workload's link: the veth, both its ends, and what the inside needs to reach the world.

    workload's namespace                          host
    ┌───────────────────────────────┐             ┌──────────────────────────────────┐
    │ lo up                         │             │ bgpmXXXXXXXXXXX   alias: ours    │
    │ eth0  10.244.1.5/32           │─────veth────│ fe80::1/64                       │
    │       fd00:10:244:1::5/128    │             │ 10.244.1.5        lladdr, perm.  │
    │ default via 169.254.1.1       │             │ fd00:10:244:1::5  lladdr, perm.  │
    │ default via fe80::1           │             │ (the routes to them: kernel/fib) │
    │ 169.254.1.1, fe80::1  lladdr  │             └──────────────────────────────────┘
    └───────────────────────────────┘

 * Neither end ever asks for the other's link-layer address: both know it, permanently. Both are derived from
   the name of the link, so they need not be read back, stay when a link is made again, and differ
   from link to link, should somebody bridge two. 169.254.1.1 is nobody's address; fe80::1 is a real one of
   the host end, so that it answers a neighbour solicitation and has a source for ICMPv6 errors.
 * The alias is written last. A link that has it is whole; one that has our link-layer address and no alias was
   left half made by a crash, and is made again.
 * A link that is not open is whole but for its host end, which is down: chains come first, and a link whose chains
   cannot be had is closed.
 * Duplicate address detection is skipped (IFA_F_NODAD): nobody else is on the link, and a second of
   waiting before the first packet is long.
 * Entering a namespace changes the calling thread only, for as long as it takes to open a socket and
   write a sysctl there. All of this runs in one thread that does nothing else.

Every method raises KernelError naming the step that failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
from collections.abc import Iterator

from pyroute2 import IPRoute, NetlinkError

from bgpmesh import log
from bgpmesh.errors import KernelError
from bgpmesh.kernel.linkread import host_mac, inside_mac
from bgpmesh.kernel.sysctls import Setting, link_settings, put
from bgpmesh.route.nlri import IPAddress
from bgpmesh.workload.endpoint import LinkSpec

INSIDE = "eth0"
_GATEWAY = {4: "169.254.1.1", 6: "fe80::1"}
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_IFA_F_NODAD = 0x02  # linux/if_addr.h
_NUD_PERMANENT = 0x80  # linux/neighbour.h
_SCOPE_LINK = 253  # linux/rtnetlink.h
_LOOPBACK_INDEX = 1  # of every network namespace

_libc = ctypes.CDLL(None, use_errno=True)


class VethWriter:
    """Makes, changes and removes links; made, used and closed in one thread."""

    def __init__(self) -> None:
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._host = IPRoute()
        except BaseException:
            os.close(self._own)
            raise

    def close(self) -> None:
        """Let go of the socket and the host's namespace."""
        self._host.close()
        os.close(self._own)

    def make(self, spec: LinkSpec, namespace: int) -> None:
        """Make the link into the namespace of that descriptor; there is none of its name. A failure leaves none."""
        self._check(spec, namespace)
        peer = {"ifname": INSIDE, "address": inside_mac(spec.interface), "net_ns_fd": namespace}
        try:
            with _step(f"link {spec.interface}"):
                self._host.link("add", ifname=spec.interface, kind="veth", address=host_mac(spec.interface), peer=peer)
        except KernelError as error:
            if error.errno == errno.EEXIST:
                raise KernelError(f"{INSIDE} in {_shown(spec)}", error.errno, "exists already") from error
            raise
        with _step(f"link {spec.interface}"):
            index = socket.if_nametoindex(spec.interface)
        try:
            self._dress(index, spec)
            self._allow_ipv6(spec, namespace)
            with self._inside(spec, namespace) as (inside, link):
                _furnish(inside, link, spec, frozenset())
            self._seal(index, spec)
        except BaseException:
            with contextlib.suppress(KernelError):
                self.remove(index)
            raise

    def amend(self, index: int, spec: LinkSpec, before: LinkSpec, namespace: int) -> bool:
        """Change the addresses of a link that is in use, the differences only; False where it leads elsewhere."""
        self._check(spec, namespace)
        with self._inside(spec, namespace) as (inside, link):
            if not _is_other_end(inside, link, spec):
                return False
            self._allow_ipv6(spec, namespace)
            _furnish(inside, link, spec, frozenset(before.addresses))
        self._dress(index, spec)
        for address in set(before.addresses) - set(spec.addresses):
            with _step(f"neighbour {address} on {spec.interface}", errno.ENOENT):
                self._host.neigh("del", dst=str(address), ifindex=index, family=_AF[address.version])
        self._seal(index, spec)
        return True

    def leads_to(self, spec: LinkSpec, namespace: int) -> bool:
        """Tell whether the other end of a link is in the namespace of that descriptor."""
        self._check(spec, namespace)
        with self._inside(spec, namespace) as (inside, link):
            return _is_other_end(inside, link, spec)

    def restore(self, index: int, spec: LinkSpec) -> None:
        """Open or close the host end of a whole link, as it should be; the inside is left alone."""
        self._dress(index, spec)

    def remove(self, index: int) -> None:
        """Delete the link, both its ends; takes tens of milliseconds. One that is gone is no error."""
        with _step(f"link {index}", errno.ENODEV):
            self._host.link("del", index=index)

    def _dress(self, index: int, spec: LinkSpec) -> None:
        """Make the host end as it should be; what is so already stays. On a closed one the kernel keeps nothing."""
        families = _families(spec.addresses)
        for setting in link_settings(spec.interface, has_ipv4=4 in families, has_ipv6=6 in families):
            _require(setting, spec.interface)
        with _step(f"link {spec.interface}"):
            self._host.link("set", index=index, state="up" if spec.is_open else "down")
        if not spec.is_open:
            return
        if 6 in families:
            with _step(f"address fe80::1 on {spec.interface}", errno.EEXIST):
                self._host.addr("add", index=index, address="fe80::1", prefixlen=64, flags=_IFA_F_NODAD)
        for address in spec.addresses:
            with _step(f"neighbour {address} on {spec.interface}"):
                self._host.neigh(
                    "replace",
                    dst=str(address),
                    lladdr=inside_mac(spec.interface),
                    ifindex=index,
                    state=_NUD_PERMANENT,
                    family=_AF[address.version],
                )

    def _seal(self, index: int, spec: LinkSpec) -> None:
        with _step(f"alias of {spec.interface}"):
            self._host.link("set", index=index, ifalias=spec.alias)

    def _check(self, spec: LinkSpec, namespace: int) -> None:
        """Raise KernelError where the descriptor is not another network namespace than the host's."""
        try:
            kind = fcntl.ioctl(namespace, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != _CLONE_NEWNET:
            raise KernelError(_shown(spec), errno.EINVAL, "it is not a network namespace")
        if os.path.sameopenfile(namespace, self._own):
            raise KernelError(_shown(spec), errno.EINVAL, "it is the host's own")

    @contextlib.contextmanager
    def _entered(self, spec: LinkSpec, namespace: int) -> Iterator[None]:
        """Have this thread in the namespace for a moment."""
        _enter(namespace, _shown(spec))
        try:
            yield
        finally:
            _enter(self._own, "the host's network namespace")

    @contextlib.contextmanager
    def _inside(self, spec: LinkSpec, namespace: int) -> Iterator[tuple[IPRoute, int]]:
        """Give a socket in the namespace, and the index of the link there (0: none)."""
        with self._entered(spec, namespace), _step(f"socket in {_shown(spec)}"):
            inside = IPRoute()
        try:
            with _step(f"{INSIDE} in {_shown(spec)}"):
                link = next(iter(inside.link_lookup(ifname=INSIDE)), 0)
            yield inside, link
        finally:
            inside.close()

    def _allow_ipv6(self, spec: LinkSpec, namespace: int) -> None:
        """Turn IPv6 on inside where the workload has it; it is off by default in many containers."""
        if 6 in _families(spec.addresses):
            with self._entered(spec, namespace):
                name = f"net/ipv6/conf/{INSIDE}/disable_ipv6"
                _require(Setting(name, 0, f"no IPv6 in {_shown(spec)}"), spec.interface)


def _is_other_end(inside: IPRoute, link: int, spec: LinkSpec) -> bool:
    with _step(f"{INSIDE} in {_shown(spec)}"):
        return bool(link) and inside.get_links(link)[0].get_attr("IFLA_ADDRESS") == inside_mac(spec.interface)


def _furnish(inside: IPRoute, link: int, spec: LinkSpec, before: frozenset[IPAddress]) -> None:
    """Give the inside its addresses and its ways out; `before` is what it was given earlier (none: it is new).

    New addresses come before old ones go, since the routes go with the last address of their family.
    """
    where = f"in {_shown(spec)}"
    there = errno.EEXIST if before else 0
    with _step(f"links {where}"):
        inside.link("set", index=_LOOPBACK_INDEX, state="up")
        inside.link("set", index=link, state="up")
    for address in spec.addresses:
        if address not in before:
            with _step(f"address {address} {where}", there):
                flags = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
                inside.addr("add", index=link, address=str(address), prefixlen=address.max_prefixlen, **flags)
    for version in sorted(_families(spec.addresses) - _families(before)):
        family, gateway = _AF[version], _GATEWAY[version]
        with _step(f"neighbour {gateway} {where}", there):
            mac = host_mac(spec.interface)
            inside.neigh("add", dst=gateway, lladdr=mac, ifindex=link, state=_NUD_PERMANENT, family=family)
        if version == 4:
            with _step(f"route to {gateway} {where}", there):
                inside.route("add", dst=f"{gateway}/32", oif=link, scope=_SCOPE_LINK)
        with _step(f"IPv{version} default route {where}", there):
            inside.route("add", dst="default", gateway=gateway, oif=link, family=family)
    for address in before - set(spec.addresses):
        with _step(f"address {address} {where}", errno.EADDRNOTAVAIL):
            inside.addr("del", index=link, address=str(address), prefixlen=address.max_prefixlen)
    if 6 in _families(before) - _families(spec.addresses):
        # IPv4 routes went with the last address. IPv6 ones stay, held by the link-local address.
        with _step(f"IPv6 default route {where}", errno.ESRCH):
            inside.route("del", dst="default", gateway=_GATEWAY[6], oif=link, family=_AF[6])


def _require(setting: Setting, interface: str) -> None:
    """Put a sysctl, or raise KernelError where the link is of no use without it."""
    problem = put(setting)
    if problem and setting.is_vital:
        raise KernelError(f"link {interface}", 0, problem)
    if problem:
        log.warning("link.unguarded", interface=interface, reason=problem)


def _families(addresses: tuple[IPAddress, ...] | frozenset[IPAddress]) -> frozenset[int]:
    return frozenset(address.version for address in addresses)


def _shown(spec: LinkSpec) -> str:
    return f"network namespace {spec.netns}"


def _enter(namespace: int, shown: str) -> None:
    """Move this thread into a namespace (Python has os.setns from 3.12 on)."""
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise KernelError(shown, number, f"cannot be entered: {os.strerror(number)}")


@contextlib.contextmanager
def _step(what: str, *harmless: int) -> Iterator[None]:
    """Turn the kernel's refusal of one step into ours, except where its errno means that it is so already."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        if code not in harmless:
            raise KernelError(what, code or 0, os.strerror(code) if code else str(error)) from error
