"""Flow specifications: what packets are meant, in the terms of RFC 8955 and RFC 8956, and which of two goes first.

A flow is all-of: each component must hold. What a field must be is a sum of products: `and` binds
closer than `or`.
What is done with the packets is said by the attributes of the UPDATE, not here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bgpmesh.frozen import frozen
from bgpmesh.route.nlri import Family, IPAddress

INFINITE = float("inf")  # the type behind the last component (RFC 8955 §5.1)
LT, GT, EQ = 4, 2, 1  # of a numeric operator (RFC 8955 §4.2.1.1)
NOT, MATCH = 2, 1  # of a bitmask operator (§4.2.1.2)


class Kind(enum.IntEnum):
    """Component types (RFC 8955 §4.2.2, RFC 8956 §3)."""

    DESTINATION = 1
    SOURCE = 2
    PROTOCOL = 3  # IPv6: the upper-layer protocol, behind extension headers
    PORT = 4  # source or destination
    DESTINATION_PORT = 5
    SOURCE_PORT = 6
    ICMP_TYPE = 7
    ICMP_CODE = 8
    TCP_FLAGS = 9
    LENGTH = 10  # of the whole IP packet
    DSCP = 11
    FRAGMENT = 12
    FLOW_LABEL = 13

    @property
    def is_bitmask(self) -> bool:
        """Whether its operators are those of a bitmask."""
        return self in {Kind.TCP_FLAGS, Kind.FRAGMENT}


class FlowKey(NamedTuple):
    """A flow as BGP tells it from others: the NLRI as it came, without its length."""

    family: Family
    nlri: bytes


@frozen
class Prefix:
    """The bits of an address from `offset` (IPv4: 0) up to `length` are those of `address`; others of it are zero."""

    kind: Kind
    address: IPAddress
    length: int
    offset: int = 0

    @property
    def mask(self) -> int:
        """The bits that count."""
        width = self.address.max_prefixlen
        return (1 << width - self.offset) - (1 << width - self.length)

    def holds(self, address: IPAddress) -> bool:
        """Tell whether an address of the same family is meant."""
        return int(address) & self.mask == int(self.address)


@frozen
class Comparison:
    """An operator and a value; `is_and`: and what stands before it, else another alternative."""

    operator: int
    value: int
    is_and: bool = False


@frozen
class Field:
    """What a field of the packet must be; `data` is how it was written, which the order of flows goes by."""

    kind: Kind
    comparisons: tuple[Comparison, ...]
    data: bytes

    def holds(self, value: int) -> bool:
        """Tell whether a value of the field is meant."""
        holds = _mask_holds if self.kind.is_bitmask else _number_holds
        return any(all(holds(test, value) for test in group) for group in self.alternatives())

    def alternatives(self) -> Iterator[list[Comparison]]:
        """Yield what must hold together, one after the other."""
        group: list[Comparison] = []
        for test in self.comparisons:
            if group and not test.is_and:
                yield group
                group = []
            group.append(test)
        yield group


def _number_holds(test: Comparison, value: int) -> bool:
    sign = LT if value < test.value else GT if value > test.value else EQ
    return bool(test.operator & sign)


def _mask_holds(test: Comparison, value: int) -> bool:
    found = value & test.value
    return (found == test.value if test.operator & MATCH else found != 0) is not bool(test.operator & NOT)


Component = Prefix | Field


@frozen
class Flow:
    """One flow specification; its components are in the order of their types, one of each at most."""

    key: FlowKey
    components: tuple[Component, ...]

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if self.key.family is Family.IPV4_FLOWSPEC else 6

    def of(self, kind: Kind) -> Component | None:
        """Return the component of a type, if it has one."""
        return next((each for each in self.components if each.kind is kind), None)

    def __str__(self) -> str:
        """Render as people read it: `to 10.244.1.2/32, protocol udp, port 53`."""
        return ", ".join(map(_words, self.components))


Rank = tuple[tuple[float, int, str], ...]


def rank(flow: Flow) -> Rank:
    """Return what sorts flows of one family as RFC 8955 §5.1 and RFC 8956 §4 have them; the lower is asked first.

    Each component becomes its type, the offset of a prefix, and a text that sorts as the RFC compares: digits of what
    is compared, then one that is higher than any digit, so that of two of which one continues the other the longer
    goes first.
    """
    return (*map(_ranked, flow.components), (INFINITE, 0, ""))


def _ranked(component: Component) -> tuple[float, int, str]:
    if isinstance(component, Field):
        return component.kind, 0, component.data.hex() + "g"
    width, size = component.address.max_prefixlen, component.length - component.offset
    bits = f"{int(component.address) >> width - component.length:0{size}b}" if size else ""
    return component.kind, component.offset, bits + "2"


def flow_prefix(kind: Kind, address: IPAddress, length: int, offset: int = 0) -> Prefix:
    """Return the component, with the bits of the address that do not count cleared."""
    mask = Prefix(kind, address, length, offset).mask
    return Prefix(kind, type(address)(int(address) & mask), length, offset)


# ── in words ─────────────────────────────────────────────────────────────────

_LABELS = {
    Kind.DESTINATION: "to",
    Kind.SOURCE: "from",
    Kind.PROTOCOL: "protocol",
    Kind.PORT: "port",
    Kind.DESTINATION_PORT: "destination port",
    Kind.SOURCE_PORT: "source port",
    Kind.ICMP_TYPE: "ICMP type",
    Kind.ICMP_CODE: "ICMP code",
    Kind.TCP_FLAGS: "TCP flags",
    Kind.LENGTH: "packet length",
    Kind.DSCP: "DSCP",
    Kind.FRAGMENT: "fragment",
    Kind.FLOW_LABEL: "flow label",
}
_OPERATORS = {0: "never", EQ: "", GT: ">", GT | EQ: ">=", LT: "<", LT | EQ: "<=", LT | GT: "!=", LT | GT | EQ: "any"}
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 58: "icmpv6", 132: "sctp"}
_BITS = {
    Kind.TCP_FLAGS: ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"),
    Kind.FRAGMENT: ("dont-fragment", "is-fragment", "first-fragment", "last-fragment"),
}


def _words(component: Component) -> str:
    label = _LABELS[component.kind]
    if isinstance(component, Prefix):
        whole = f"{component.address}/{component.length}"
        return f"{label} {whole}" + (f" from bit {component.offset}" if component.offset else "")
    word = _mask_words if component.kind.is_bitmask else _number_words
    groups = (" and ".join(word(component.kind, test) for test in group) for group in component.alternatives())
    return f"{label} {' or '.join(groups)}"


def _number_words(kind: Kind, test: Comparison) -> str:
    operator = _OPERATORS[test.operator & (LT | GT | EQ)]
    if operator in {"never", "any"}:
        return operator
    name = _PROTOCOLS.get(test.value) if kind is Kind.PROTOCOL else None
    return f"{operator}{name or test.value}"


def _mask_words(kind: Kind, test: Comparison) -> str:
    text = ("+" if test.operator & MATCH else "|").join(_bit_names(kind, test.value)) or "none"
    return f"not {text}" if test.operator & NOT else text


def _bit_names(kind: Kind, value: int) -> Iterable[str]:
    names = _BITS[kind]
    return (names[bit] if bit < len(names) else f"bit {bit}" for bit in range(value.bit_length()) if value >> bit & 1)
