"""What an operator writes in `[cluster]`, `[node.*]` and `[peer.*]`.

Each knob carries its help, unit, range and choices in the metadata of its field, and the configuration reader, the
example file and the error messages are made from that. Keys of the metadata:

 * `help`: one line;  `unit`: "s";  `range`: lowest and highest;  `choices`: the words allowed;
 * `version`: of an address, where only one will do;  `pattern`: an expression, and it in words;
 * `refused`: single values within the range that cannot be, and `refused_reason`;
 * `key`: the name in the file where it is not the field's;
 * `or`: keys of which one stands in place of one that is required;
 * in the example file: `shown`, a right-hand side other than the default; `example`, one that is commented out.
"""

from __future__ import annotations

import ipaddress
from dataclasses import field, replace
from typing import NewType

from bgpmesh.frozen import frozen
from bgpmesh.peering.peer import NOBODY, AddPath, FlowLimit
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.nlri import ROUTED, Family, IPAddress, IPNetwork
from bgpmesh.route.roles import ROLES

Hops = NewType("Hops", int)  # in the file also `true`
Ttl = NewType("Ttl", int)  # the same
Password = NewType("Password", str)  # never shown
Labels = tuple[tuple[str, str], ...]  # sorted

ASN_RANGE = (1, 4_294_967_295)
_ASN = {"range": ASN_RANGE, "refused": (23_456,), "refused_reason": "it is AS_TRANS (RFC 6793 §9)"}
_HOLD_TIME = {
    "unit": "s",
    "range": (0, 65_535),
    "refused": (1, 2),
    "refused_reason": "1 and 2 are below the minimum of 3 s (RFC 4271 §4.2)",
}
PORT_RANGE = (1, 65_535)


@frozen
class Limit:
    """How many prefixes a peer may send in each family, and when it is tried again after more: N or a table."""

    limit: int
    warn: int  # from so many on people are told
    restart: int = 60  # seconds


@frozen
class Bfd:
    """How the path to a peer is watched: `true`, or a table."""

    interval_ms: int = 300  # between packets, either way, at the least
    multiplier: int = 3  # packets that may be missed
    hops: int = 0  # how far away the peer is at most; 0: as its session says, or not known


@frozen
class ClusterOptions:
    """What holds for every node: `[cluster]`."""

    asn: Asn = field(metadata={"help": "AS number of the cluster", **_ASN, "shown": "64512"})
    identity: bool = field(default=False, metadata={"help": "carry workload labels in BGP"})
    max_identities: int = field(
        default=250_000,
        metadata={
            "help": "addresses with labels a node or reflector may send in each family",
            "range": (1, 100_000_000),
        },
    )
    topology: str = field(
        default="mesh",
        metadata={
            "help": "sessions between the nodes: all with all, through reflectors, or only [peer.*]",
            "choices": ("mesh", "reflectors", "none"),
        },
    )
    hold_time: int = field(
        default=9,
        metadata={"help": "a silent peer is down after this; keepalive is a third", **_HOLD_TIME},
    )
    graceful_restart: int = field(
        default=120, metadata={"help": "how long peers keep our routes; 0: off", "unit": "s", "range": (0, 4095)}
    )
    long_lived_graceful_restart: int = field(
        default=0,
        metadata={
            "help": "and beyond that, after all other routes and marked (RFC 9494); 0: off",
            "unit": "s",
            "range": (0, 0xFFFFFF),
        },
    )
    restart_deferral: float = field(
        default=10.0,
        metadata={"help": "longest wait to be in sync after a restart", "unit": "s", "range": (0, 3600)},
    )
    password: Password | None = field(
        default=None, repr=False, metadata={"help": "TCP MD5 between the nodes, or:", "example": '"secret"'}
    )
    password_file: str | None = field(
        default=None,
        metadata={"help": "a file whose first line is the password", "example": '"/etc/bgpmesh/mesh.key"'},
    )
    bfd: Bfd | None = field(
        default=None,
        metadata={"help": "BFD between the nodes: true, or { interval_ms = 300, multiplier = 3 }", "shown": "false"},
    )
    max_prefixes: int = field(
        default=100_000,
        metadata={"help": "prefixes a node may send in each family", "range": (1, 100_000_000)},
    )
    add_path: AddPath | None = field(
        default=AddPath(),
        metadata={
            "help": "reflectors pass on several paths (RFC 7911): true, false, { send = 8 }",
            "shown": "true",
        },
    )
    port: int = field(default=179, metadata={"help": "TCP port the nodes listen on", "range": PORT_RANGE})


@frozen
class NodeOptions:
    """One node: `[node.NAME]`."""

    name: str
    address: IPAddress = field(metadata={"help": "session source, next hop, default router id", "shown": '"192.0.2.1"'})
    address6: IPAddress | None = field(
        default=None, metadata={"help": "next hop of its IPv6 routes", "version": 6, "shown": '"2001:db8::1"'}
    )
    pod_cidrs: tuple[IPNetwork, ...] = field(
        default=(),
        metadata={
            "help": "the blocks its workloads get their addresses from",
            "shown": '["10.244.1.0/26", "fd00:10:244:1::/112"]',
        },
    )
    advertise: tuple[IPNetwork, ...] = field(
        default=(),
        metadata={
            "help": "single addresses and prefixes of the node itself, to announce",
            "example": '["203.0.113.7/32"]',
        },
    )
    reflector: bool = field(default=False, metadata={"help": "a route reflector (topology reflectors)"})
    labels: Labels = field(default=(), metadata={"help": "for the selectors of [peer.*]", "shown": '{ rack = "r1" }'})
    asn: Asn | None = field(
        default=None, metadata={"help": "where it is not the cluster's", **_ASN, "example": "64513"}
    )
    router_id: RouterId | None = field(
        default=None, metadata={"help": "where it is not `address`", "example": '"192.0.2.1"'}
    )
    cluster_id: RouterId | None = field(
        default=None, metadata={"help": "of a reflector, where it is not its router id", "example": '"192.0.2.1"'}
    )
    listen: tuple[IPAddress, ...] = field(
        default=(),
        metadata={"help": "where to accept calls, where it is not `address`", "example": '["0.0.0.0", "::"]'},
    )


@frozen
class PeerOptions:
    """A neighbour outside the cluster, or all that call from a range: `[peer.NAME]`."""

    name: str
    address: IPAddress | None = field(  # None: it has a range
        metadata={
            "help": "where it is called; or a range or an interface",
            "or": ("range", "interface"),
            "link_local": True,
            "shown": '"192.0.2.254"',
        }
    )
    asn: Asn = field(metadata={"help": "its AS number", **_ASN, "shown": "65001"})
    range: IPNetwork | None = field(
        default=None,
        metadata={"help": "everybody who calls from there; each is NAME@ADDRESS", "example": '"192.0.2.128/25"'},
    )
    interface: str | None = field(
        default=None,
        metadata={
            "help": "the link at whose other end it is, found by router advertisements: no address is needed",
            "pattern": (r"[^\s/%]{1,15}", "the name of a link"),
            "example": '"eth1"',
        },
    )
    range_limit: int = field(
        default=256, metadata={"help": "speakers of the range at a time", "range": (1, 100_000), "example": "256"}
    )
    pods: tuple[IPNetwork, ...] = field(
        default=(),
        metadata={
            "help": "of a range: its speakers are of the cluster, and what they say of addresses in these is believed",
            "example": '["10.244.128.0/17"]',
        },
    )
    nodes: str = field(
        default="all()",
        metadata={"help": "selector over node labels: who talks to it", "example": "\"rack == 'r1'\""},
    )
    passive: bool | None = field(
        default=None, metadata={"help": "wait for its call; always so for a range", "shown": "false"}
    )
    reflector_client: bool = field(default=False, metadata={"help": "iBGP: reflect to and from it (RFC 4456)"})
    imports: tuple[str, ...] | None = field(
        default=None,
        metadata={
            "key": "import",
            "help": "filters in order, of [filter.*] or all, own, none; absent: all on iBGP, none on eBGP",
            "example": '["pods-only"]',
        },
    )
    exports: tuple[str, ...] | None = field(
        default=None, metadata={"key": "export", "help": "the same, outwards", "example": '["own"]'}
    )
    port: int = field(default=179, metadata={"help": "its TCP port", "range": PORT_RANGE})
    source: IPAddress | None = field(
        default=None,
        metadata={
            "help": "our end, where it is not the node's address",
            "link_local": True,
            "example": '"192.0.2.1"',
        },
    )
    password: Password | None = field(
        default=None, repr=False, metadata={"help": "TCP MD5 (RFC 2385), or:", "example": '"secret"'}
    )
    password_file: str | None = field(
        default=None,
        metadata={"help": "a file whose first line is the password", "example": '"/etc/bgpmesh/tor1.key"'},
    )
    hold_time: int | None = field(
        default=None,
        metadata={"help": "where it is not the cluster's", **_HOLD_TIME, "example": "90"},
    )
    graceful_restart: int | None = field(
        default=None,
        metadata={"help": "where it is not the cluster's; 0: off", "unit": "s", "range": (0, 4095), "example": "120"},
    )
    long_lived_graceful_restart: int | None = field(
        default=None,
        metadata={
            "help": "where it is not the cluster's; 0: off",
            "unit": "s",
            "range": (0, 0xFFFFFF),
            "example": "86400",
        },
    )
    ttl_security: Hops = field(
        default=Hops(0),
        metadata={
            "help": "GTSM (RFC 5082): true (one hop) or how many hops away",
            "range": (1, 254),
            "example": "true",
        },
    )
    multihop: Ttl = field(
        default=Ttl(0),
        metadata={"help": "eBGP beyond one hop: true, or the TTL of our packets", "range": (2, 255), "example": "4"},
    )
    max_prefixes: Limit | None = field(
        default=None,
        metadata={
            "help": "in each family, or a table; told of from warn on (4/5), tried again after restart s",
            "range": (1, 100_000_000),
            "example": "{ limit = 1000, warn = 800, restart = 60 }",
        },
    )
    add_path: AddPath | None = field(
        default=None,
        metadata={
            "help": "several paths of a prefix (RFC 7911), or true; send 0: only the best",
            "example": "{ send = 8, receive = true }",
        },
    )
    next_hop: str = field(
        default="auto", metadata={"help": "of what we announce to it", "choices": ("auto", "self", "keep")}
    )
    enforce_first_as: bool | None = field(
        default=None, metadata={"help": "eBGP: the first AS must be its own; absent: true", "example": "true"}
    )
    local_asn: Asn | None = field(
        default=None,
        metadata={
            "help": "our AS on this session, where it is not the node's, which stands behind it",
            **_ASN,
            "example": "64999",
        },
    )
    allow_own_asn: int = field(
        default=0,
        metadata={"help": "how often our own AS may stand in AS_PATH before that is a loop", "range": (0, 10)},
    )
    role: str | None = field(
        default=None,
        metadata={
            "help": "eBGP: what we are to it (RFC 9234), so that no route leaks",
            "choices": tuple(ROLES),
            "example": '"customer"',
        },
    )
    flowspec: FlowLimit | None = field(
        default=None,
        metadata={
            "help": "take FlowSpec (RFC 8955): so many flows, each so many seconds after it was last announced (0: for "
            "ever)",
            "example": "{ rules = 100, ttl = 3600 }",
        },
    )
    families: tuple[Family, ...] = field(
        default=ROUTED, metadata={"help": "over this one session, whatever its transport"}
    )
    bfd: Bfd | None = field(
        default=None,
        metadata={
            "help": "true, or { interval_ms = 300, multiplier = 3, hops = 1 }: 1 hop away at most",
            "shown": "false",
        },
    )

    @property
    def near(self) -> IPAddress:
        """Its address, or the first of its range; for what depends on the family. Nobody's while it is not found."""
        if self.range is not None:
            return self.range.network_address
        if self.address is None:
            assert self.interface is not None
            return ipaddress.ip_address(f"{NOBODY}%{self.interface}")
        return self.address

    @property
    def is_found(self) -> bool:
        """Whether it is known where it is: what is by its link alone has to be found first."""
        return self.interface is None or self.address is not None

    def at(self, ends: tuple[IPAddress, IPAddress] | None) -> PeerOptions:
        """Return it with our end and its own, as they were found on its link."""
        return self if ends is None or self.interface is None else replace(self, source=ends[0], address=ends[1])
