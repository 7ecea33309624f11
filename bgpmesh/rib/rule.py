"""What an operator says of filters: prefixes, terms and changes of a rule, rules and default of a filter.

A rule matches a route of which every term is true; of several values in one term any will do. The first rule that
matches decides. With "accept" it may change the route, in this order: communities go, communities come, the rest.
Texts are checked by those who read them: communities by `route.community`, AS_PATH by `rib.aspath`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import NewType

from bgpmesh.frozen import frozen
from bgpmesh.route import community
from bgpmesh.route.attributes import Asn
from bgpmesh.route.nlri import ROUTED, Family, IPAddress, IPNetwork, family_of_address

LOCAL = "local"  # in a term `peer`: this node itself
ACTIONS = ("accept", "reject")


@frozen
class PrefixRange:
    """The prefixes within `network` that are `ge` to `le` bits long."""

    network: IPNetwork
    ge: int
    le: int

    def __str__(self) -> str:
        """Render it as it stands in the file."""
        length = self.network.prefixlen
        low = f" ge {self.ge}" if self.ge != length else ""
        unsaid = self.network.max_prefixlen if low else length
        return f"{self.network}{low}" + (f" le {self.le}" if self.le != unsaid else "")


Community = NewType("Community", str)  # each as in `route.community`
LargeCommunity = NewType("LargeCommunity", str)
ExtCommunity = NewType("ExtCommunity", str)
PathExpression = NewType("PathExpression", str)  # as in `rib.aspath`
PeerTerm = str  # the name of a peer, or LOCAL
FamilyTerm = Family


@frozen
class NextHopTerm:
    """`next_hop` of a rule: prefixes are asked for; an address or "self" is what it is set to."""

    within: tuple[IPNetwork, ...] = ()
    to: IPAddress | None = None
    is_self: bool = False  # ours, as `next_hop = "self"` of a peer

    @property
    def is_set(self) -> bool:
        """Whether it changes the route."""
        return self.to is not None or self.is_self


@frozen
class Prepend:
    """What is put before AS_PATH: the AS of who announces the route so many times, or these ASes."""

    times: int = 0
    asns: tuple[Asn, ...] = ()


_U32 = (0, 4_294_967_295)


@frozen(kw_only=True)
class Rule:
    """`[[filter.NAME.rule]]`: what it asks, what it says, and what it changes."""

    prefix: tuple[PrefixRange, ...] = field(
        default=(),
        metadata={
            "help": "one of these; P alone is P itself, ge and le are the shortest and the longest under it",
            "shown": '["10.244.0.0/16 ge 26 le 32"]',
        },
    )
    community: tuple[Community, ...] = field(
        default=(),
        metadata={
            "help": f"A:B, A:*, {', '.join(community.WELL_KNOWN)}",
            "example": '["64512:100", "64512:*"]',
        },
    )
    large_community: tuple[LargeCommunity, ...] = field(
        default=(), metadata={"help": "A:B:C, any of them *", "example": '["64512:1:*"]'}
    )
    ext_community: tuple[ExtCommunity, ...] = field(
        default=(), metadata={"help": "rt:A:B, soo:A:B, B may be *, or 16 digits of hex", "example": '["rt:64512:100"]'}
    )
    as_path: tuple[PathExpression, ...] = field(
        default=(),
        metadata={
            "help": "expressions of AS numbers, ^ $ . _ * + ? ( | ) [LOW-HIGH]",
            "example": '["^65001", "_65009$"]',
        },
    )
    peer: tuple[PeerTerm, ...] = field(
        default=(), metadata={"help": "who told us; local: this node itself", "example": '["tor1", "local"]'}
    )
    family: tuple[FamilyTerm, ...] = field(default=(), metadata={"help": "of the prefix", "example": '["ipv4"]'})
    next_hop: NextHopTerm | None = field(
        default=None,
        metadata={
            "help": 'prefixes are asked for; an address, or "self", is what it is set to',
            "example": '["192.0.2.0/24"]',
        },
    )
    action: str = field(metadata={"help": "what becomes of it", "choices": ACTIONS, "shown": '"accept"'})
    remove_community: tuple[Community, ...] = field(
        default=(), metadata={"help": "first these go ..", "example": '["64512:*"]'}
    )
    add_community: tuple[Community, ...] = field(
        default=(),
        metadata={
            "help": ".. then these come; the same with large_ and ext_",
            "example": '["64512:200"]',
            "added": True,
        },
    )
    remove_large_community: tuple[LargeCommunity, ...] = field(default=(), metadata={"example": '["64512:1:*"]'})
    add_large_community: tuple[LargeCommunity, ...] = field(
        default=(), metadata={"example": '["64512:1:2"]', "added": True}
    )
    remove_ext_community: tuple[ExtCommunity, ...] = field(default=(), metadata={"example": '["rt:64512:*"]'})
    add_ext_community: tuple[ExtCommunity, ...] = field(
        default=(), metadata={"example": '["rt:64512:100"]', "added": True}
    )
    local_pref: int | None = field(
        default=None, metadata={"help": "higher is preferred; 100 where nobody says", "range": _U32, "example": "200"}
    )
    med: int | None = field(default=None, metadata={"help": "lower is preferred", "range": _U32, "example": "50"})
    prepend: Prepend | None = field(
        default=None,
        metadata={
            "help": "so often the AS that announces it, or a list of AS numbers",
            "range": (1, 32),
            "example": "2",
        },
    )
    blackhole: bool = field(
        default=False, metadata={"help": "on import: the kernel discards what goes there (RFC 7999)", "example": "true"}
    )


@frozen
class Filter:
    """`[filter.NAME]`: the first rule that matches decides, or else the default."""

    name: str
    default: str = field(
        default="reject", metadata={"help": "where no rule matches", "choices": ACTIONS, "shown": '"reject"'}
    )
    rules: tuple[Rule, ...] = field(default=(), metadata={"key": "rule", "tables": Rule})


BUILT_IN: Mapping[str, Filter] = {
    "all": Filter("all", "accept"),
    "own": Filter("own", "reject", (Rule(peer=(LOCAL,), action="accept"),)),
    "none": Filter("none", "reject"),
}

CHANGES = (  # the keys that change a route
    "remove_community",
    "add_community",
    "remove_large_community",
    "add_large_community",
    "remove_ext_community",
    "add_ext_community",
    "local_pref",
    "med",
    "prepend",
    "blackhole",
)


def changes_of(rule: Rule) -> list[str]:
    """Return the keys by which a rule changes routes."""
    found = [key for key in CHANGES if (value := getattr(rule, key)) is not None and value is not False and value != ()]
    return [*found, "next_hop"] if rule.next_hop is not None and rule.next_hop.is_set else found


def families_of(rule: Rule) -> frozenset[Family]:
    """Return the families of which routes can match a rule; who sets a next hop means that next hop's family."""
    found = frozenset(rule.family or ROUTED)
    if rule.prefix:
        found &= {family_of_address(each.network.network_address) for each in rule.prefix}
    if rule.next_hop is not None and rule.next_hop.to is not None:
        found &= {family_of_address(rule.next_hop.to)}
    return found
