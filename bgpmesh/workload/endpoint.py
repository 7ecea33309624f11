"""A workload's attachment to this node, and the link that it needs."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from dataclasses import field

from bgpmesh.errors import refused
from bgpmesh.frozen import frozen
from bgpmesh.route.nlri import IPAddress

ALIAS_MARK = "bgpmesh"
ALIAS_LIMIT = 255  # octets that the kernel keeps of a link's alias (IFALIASZ less one)
NAME_LIMIT = 253  # characters of a name: a Kubernetes object's, and a DNS name's
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@frozen
class Endpoint:
    """One workload here: who it is, where it is attached, what it is called by."""

    name: str
    namespace: str
    labels: tuple[tuple[str, str], ...]  # sorted
    addresses: tuple[IPAddress, ...]
    interface: str  # the link on the host
    netns: str  # path of its network namespace as it was given, for people and for a rebuilt link
    ports: tuple[tuple[str, str, int], ...] = ()  # (name, protocol, number)
    netns_inode: tuple[int, int] | None = None  # (st_dev, st_ino) of the namespace; None: not known

    @property
    def key(self) -> str:
        """`namespace/name`: unique on the node."""
        return f"{self.namespace}/{self.name}"


@frozen
class LinkSpec:
    """The veth that should exist: its host end, its alias (how we know it as ours), what the inside has.

    One that is not open has its host end down: no packet comes out of it or goes in.
    """

    interface: str
    alias: str
    addresses: tuple[IPAddress, ...]
    netns: str
    netns_inode: tuple[int, int] | None = field(default=None, compare=False)  # which namespace it was; not in the alias
    is_open: bool = True


def interface_name(prefix: str, key: str) -> str:
    """Return the host link's name for `namespace/name`: the prefix and 11 characters of a hash, 15 at most."""
    digest = base64.b32encode(hashlib.sha256(key.encode()).digest()).decode().lower()
    return prefix[:4] + digest[:11]


def is_interface_name(prefix: str, name: str) -> bool:
    """Tell whether `interface_name` could have made `name` with this prefix; the alias decides whose it is."""
    front = prefix[:4]
    return len(name) == len(front) + 11 and name.startswith(front)


def check_name(what: str, name: str) -> None:
    """Raise ConfigError where `name` cannot be a workload's or a namespace's (`what`: the key to blame).

    Letters, digits, and `-`, `_`, `.` between them; a `/` or a blank would make keys and aliases ambiguous.
    """
    if len(name) > NAME_LIMIT:
        raise refused(what, name, f"is {len(name)} characters long, the limit is {NAME_LIMIT}")
    if not _NAME.fullmatch(name):
        raise refused(what, name, "must be letters and digits, with '-', '_' and '.' between them")


def link_of(endpoint: Endpoint) -> LinkSpec:
    """Return the link that a workload needs; its alias says everything else in it.

    An alias too long for the kernel is cut, and ends in a hash of the whole, so that it still differs
    whenever the whole does.
    """
    shown = ",".join(map(str, endpoint.addresses))
    alias = f"{ALIAS_MARK} {endpoint.key} {shown} {endpoint.netns}"
    if len(alias.encode()) > ALIAS_LIMIT:
        digest = hashlib.sha256(alias.encode()).hexdigest()[:24]
        kept = ",".join(map(str, endpoint.addresses[:2]))
        alias = f"{ALIAS_MARK} {endpoint.key[:100]}~ {kept} #{digest}"
    return LinkSpec(endpoint.interface, alias, endpoint.addresses, endpoint.netns, endpoint.netns_inode)


def parse_alias(interface: str, alias: str) -> LinkSpec | None:
    """Return the link that an alias of ours stands for, None where the alias is somebody else's."""
    parts = alias.split(" ", 3)
    if len(parts) != 4 or parts[0] != ALIAS_MARK or "/" not in parts[1]:
        return None
    try:
        addresses = tuple(ipaddress.ip_address(text) for text in parts[2].split(",") if text)
    except ValueError:
        return None
    return LinkSpec(interface, alias, addresses, parts[3])


def endpoint_of(link: LinkSpec) -> Endpoint | None:
    """Return the workload a link was made for, without labels and ports: for a daemon that lost its state.

    None where the alias is not ours, or was too long to hold everything.
    """
    if parse_alias(link.interface, link.alias) is None:
        return None
    key = link.alias.split(" ", 3)[1]
    if key.endswith("~"):
        return None
    namespace, _, name = key.partition("/")
    return Endpoint(name, namespace, (), link.addresses, link.interface, link.netns)
