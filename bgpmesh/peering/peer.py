"""A neighbour that we are configured to talk to; the session is one life of the conversation with it."""

from __future__ import annotations

from dataclasses import field, fields

from bgpmesh.frozen import frozen
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.nlri import Family, IPAddress, IPNetwork
from bgpmesh.route.path import PeerName, Role

NOBODY = "fe80::"  # with a link: the address of a peer that has still to be found there


@frozen
class Owner:
    """Who may say who has the addresses of these blocks: a node of the cluster file, or the speakers of a range."""

    name: PeerName
    router_id: RouterId | None  # None: of a range, whose speakers have many
    blocks: tuple[IPNetwork, ...]


@frozen
class FlowLimit:
    """How many flows of a peer are in force at a time, and the seconds until one goes that it does not announce again.

    `ttl` 0: they stay until they are withdrawn.
    """

    rules: int = 100
    ttl: int = 3600


def most_but_a_fifth(limit: int) -> int:
    """Return from how many on people are told of a limit, where they do not say: four fifths of it."""
    return -(-limit * 4 // 5)


# What may change under a session: what is let in and passed on, as what; limits; who calls whom, and where.
# All else was said in the OPEN, is set on the socket, or is who the peer is.
LIVE = frozenset(
    {
        "imports",
        "exports",
        "next_hops",
        "next_hop",
        "cluster_id",
        "max_prefixes",
        "max_prefixes_warn",
        "max_identities",
        "max_prefixes_restart",
        "enforce_first_as",
        "allow_own_asn",
        "is_passive",
        "port",
        "listen_address",
        "listen_port",
    }
)


@frozen
class AddPath:
    """Several paths of one prefix over a session (RFC 7911): how many we send at most, and whether we take them."""

    send: int = 8  # 0: only the best, without an identifier
    receive: bool = True


@frozen
class Peer:
    """Identity, role and options of one neighbour, as this node sees it. Two equal Peers need no new session.

    `local_address` is the source of our connection and what we listen on. `next_hops` are our own
    addresses for each family we can be the next hop of; a family without one is not offered.
    """

    name: PeerName
    address: IPAddress
    asn: Asn
    role: Role
    local_address: IPAddress | None
    local_asn: Asn
    router_id: RouterId  # ours
    in_cluster: bool = (
        False  # a node of the cluster file, or who speaks for its own addresses like one; else a [peer.*]
    )
    of_range: PeerName | None = None  # a speaker of this range (peering/ranges.py), which calls and is never called
    cluster_asn: Asn | None = None  # in whose name nodes speak of addresses (route/claim.py)
    is_reflector: bool = False  # what it passes on may be other nodes', by ORIGINATOR_ID
    reflects_to_us: bool = False  # the reflector of which this node is a client: it speaks for other nodes too
    port: int = 179  # the peer's, which we call
    listen_address: IPAddress | None = None  # where we accept its calls; None: on `local_address`
    listen_port: int = 179  # ours
    is_passive: bool = False  # the other side connects (but for the first call of a node, and where a restart waits)
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    hold_time: int = 9  # seconds; keepalive is a third
    graceful_restart: int = 120  # seconds we ask to be waited for; 0: off
    long_lived_graceful_restart: int = 0  # seconds beyond that, either way (RFC 9494); 0: off
    password: str | None = field(default=None, repr=False)  # TCP MD5 (RFC 2385)
    ttl_security: int = 0  # hops away at most (RFC 5082); 0: off
    multihop: int = 0  # TTL of our packets for eBGP beyond one hop; 0: single hop
    max_prefixes: int = 100_000  # for each family; each of several paths counts
    max_prefixes_warn: int = 80_000  # from so many on people are told
    max_identities: int = 250_000  # the same for addresses of which something is said
    max_prefixes_restart: int = 60  # seconds until we try again
    enforce_first_as: bool = False  # eBGP: the first AS must be the peer's (RFC 4271 §6.3)
    asn_behind: Asn | None = None  # our own AS, where `local_asn` is another for this peer's sake
    allow_own_asn: int = 0  # how often our AS may stand in AS_PATH
    bgp_role: str = ""  # ours (RFC 9234): a key of `route.roles.ROLES`; "": none is said
    imports: tuple[str, ...] = ("all",)  # filters, in order
    exports: tuple[str, ...] = ("all",)
    next_hops: tuple[tuple[Family, IPAddress], ...] = ()
    next_hop: str = "auto"  # or "self", "keep"
    cluster_id: RouterId | None = None  # ours as a reflector; None: we do not reflect
    add_path: AddPath | None = None  # None: one path of each prefix, either way
    flowspec: FlowLimit | None = None  # what we take of its FlowSpec; None: it is not offered

    def differences(self, other: Peer) -> tuple[str, ...]:
        """Return the fields in which they differ."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name) != getattr(other, each.name))

    def resets(self, other: Peer) -> tuple[str, ...]:
        """Return the fields for whose difference a session with the one is none with the other."""
        live = LIVE | {name for name, offered in self._offered().items() if offered == other._offered()[name]}
        return tuple(name for name in self.differences(other) if name not in live)

    def _offered(self) -> dict[str, object]:
        """Return what the OPEN says of options of which the rest, limits, is ours."""
        paths = self.add_path or AddPath(0, receive=False)
        return {"flowspec": self.flowspec is not None, "add_path": (paths.receive, paths.send > 0)}

    def has_same_session(self, other: Peer) -> bool:
        """Whether a session with the one is a session with the other."""
        return self == other or not self.resets(other)

    @property
    def asks_for_s(self) -> int:
        """Seconds for which the peer is asked to keep our routes while we are away."""
        return self.graceful_restart and self.graceful_restart + self.long_lived_graceful_restart

    def is_same_speaker(self, other: Peer) -> bool:
        """Whether what the one has announced still counts if it is the other."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("address", "asn", "role", "bgp_role", "local_asn", "in_cluster")
        )

    @property
    def is_found(self) -> bool:
        """Whether it is known where it is; one that is not has neither an address nor calls to take."""
        return not str(self.address).startswith(f"{NOBODY}%")

    @property
    def is_external(self) -> bool:
        """Whether this is an eBGP session."""
        return self.role is Role.EXTERNAL

    @property
    def is_single_hop(self) -> bool:
        """Whether the peer must sit on a subnet of ours: eBGP without multihop."""
        return self.is_external and self.multihop == 0
