"""Families and prefixes as fixed-width byte keys.

An `Nlri` is the prefix length in one byte and the packed address: 5 bytes for IPv4, 17 for IPv6.
It hashes fast, slices out of the wire and joins back into it, and its length tells its family, so
one dict may hold both. Bits behind the prefix length are zero (RFC 4271 §4.3 calls them
irrelevant; we clear them, so one prefix has one key).

Where a session carries several paths of a prefix (RFC 7911), what it says is keyed by the path's identifier, four
bytes, and the key of the prefix behind it: 9 or 21 bytes, and again the length tells the family. Such keys are the
wire's and those of what one peer said or was told; all else goes by prefixes.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Collection
from typing import NewType, TypeVar

Nlri = NewType("Nlri", bytes)
C = TypeVar("C", bound=Collection[Nlri])

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Family(enum.Enum):
    """An (AFI, SAFI) pair that we speak (RFC 4760): `ROUTED` ones are routes, `FLOWSPEC` ones are not."""

    IPV4 = (1, 1)
    IPV6 = (2, 1)
    IPV4_FLOWSPEC = (1, 133)
    IPV6_FLOWSPEC = (2, 133)

    __hash__ = object.__hash__  # that of its name is asked for by a call of Python code, each time

    @property
    def afi(self) -> int:
        """The address family number."""
        return self.value[0]

    @property
    def safi(self) -> int:
        """The subsequent address family number."""
        return self.value[1]

    @property
    def label(self) -> str:
        """The name in JSON, metrics and configuration: ipv4, ipv6, ipv4-flowspec or ipv6-flowspec."""
        return self.name.lower().replace("_", "-")

    @property
    def bits(self) -> int:
        """The width of an address: 32 or 128."""
        return 32 if self.afi == 1 else 128


ROUTED = (Family.IPV4, Family.IPV6)
PATH_ID_SIZE = 4  # octets (RFC 7911 §3)
WIDTHS = {Family.IPV4: (5, 9), Family.IPV6: (17, 21)}  # bytes of a key: of a prefix, of one of its paths
PATH_WIDTHS = frozenset(path for _, path in WIDTHS.values())
FLOWSPEC = (Family.IPV4_FLOWSPEC, Family.IPV6_FLOWSPEC)  # RFC 8955 §4, RFC 8956 §2


def family_of(nlri: Nlri) -> Family:
    """Return the family of a key, told by its length."""
    return Family.IPV4 if len(nlri) < 17 else Family.IPV6


def prefix_of(nlri: Nlri) -> Nlri:
    """Return the key of the prefix of which a key says a path, or that it is."""
    return Nlri(nlri[PATH_ID_SIZE:]) if len(nlri) in PATH_WIDTHS else nlri


def by_width(nlris: C) -> list[C | list[Nlri]]:
    """Split keys by their width, so by family; one, as most often, is not copied."""
    if len(nlris) == 1 or len(widths := set(map(len, nlris))) == 1:
        return [nlris]
    return [[nlri for nlri in nlris if len(nlri) == width] for width in sorted(widths)]


def path_key(prefix: Nlri, path_id: int | None) -> Nlri:
    """Return the key of a path of a prefix; None: that of the prefix."""
    return prefix if path_id is None else Nlri(path_id.to_bytes(PATH_ID_SIZE, "big") + prefix)


def path_id_of(nlri: Nlri) -> int | None:
    """Return the identifier of the path that a key stands for; None: it stands for a prefix."""
    return int.from_bytes(nlri[:PATH_ID_SIZE], "big") if len(nlri) in PATH_WIDTHS else None


def family_of_address(address: IPAddress) -> Family:
    """Return the family an address belongs to."""
    return Family.IPV4 if address.version == 4 else Family.IPV6


def link_of(address: IPAddress | None) -> str:
    """Return the link that an IPv6 link-local address is of (RFC 4007): fe80::1%eth1 is of eth1; "": it says none."""
    return (address.scope_id or "") if isinstance(address, ipaddress.IPv6Address) else ""


def is_link_local(address: IPAddress) -> bool:
    """Tell whether an address means nothing beyond its link; of IPv4 none does here."""
    return address.version == 6 and address.is_link_local


def address_rank(address: IPAddress | None) -> tuple[int, int, str]:
    """Return what addresses are ordered by, the same link-local one of several links too."""
    return (0, 0, "") if address is None else (address.version, int(address), link_of(address))


def nlri_of(network: IPNetwork) -> Nlri:
    """Return the key of a network."""
    return Nlri(bytes((network.prefixlen,)) + network.network_address.packed)


def parse_nlri(text: str) -> Nlri:
    """Return the key of a prefix as people write it; a bare address is its /32 or /128.

    Raises ValueError for what is no prefix, and for host bits set behind the length.
    """
    return nlri_of(ipaddress.ip_network(text))


def network_of(nlri: Nlri) -> IPNetwork:
    """Return the network a key stands for."""
    nlri = prefix_of(nlri)
    if len(nlri) == 5:
        return ipaddress.IPv4Network((nlri[1:], nlri[0]))
    return ipaddress.IPv6Network((nlri[1:], nlri[0]))


def prefix_text(nlri: Nlri) -> str:
    """Return the prefix as people write it: 10.244.1.0/26."""
    return str(network_of(nlri))


def host_nlri(address: IPAddress) -> Nlri:
    """Return the key of a single address: its /32 or /128."""
    return Nlri(bytes((address.max_prefixlen,)) + address.packed)


def nlri_order(nlri: Nlri) -> bytes:
    """Return what people expect prefixes ordered by: family, address, length; as one key, faster than three."""
    return b"%c%b%b" % (len(nlri), nlri[1:], nlri[:1])


def is_martian(nlri: Nlri) -> bool:
    """Tell whether nobody routes to a prefix: who hears of it takes no notice (RFC 4271 §6.3).

    IPv4: loopback, multicast and what lies above it. IPv6: unspecified, loopback, link-local, multicast.
    """
    first = nlri[1]
    if len(nlri) == 5:
        return nlri[0] > 0 and (first == 127 or first >= 224)
    if first < 0xFE:
        return nlri[0] == 128 and int.from_bytes(nlri[1:], "big") <= 1
    return first == 0xFF or (nlri[0] >= 10 and nlri[2] & 0xC0 == 0x80)


def is_host(address: IPAddress) -> bool:
    """Tell whether an address may be that of a host, and so a next hop (RFC 4271 §6.3)."""
    if address.version == 4 and not 0 < int(address) >> 24 < 240:
        return False
    return not (address.is_unspecified or address.is_multicast)


def contains(outer: Nlri, inner: Nlri) -> bool:
    """Tell whether `outer` covers `inner` (equal counts); never across families."""
    if len(outer) != len(inner) or outer[0] > inner[0]:
        return False
    shift = (len(outer) - 1) * 8 - outer[0]
    return int.from_bytes(outer[1:], "big") >> shift == int.from_bytes(inner[1:], "big") >> shift
