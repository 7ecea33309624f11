"""Cutting and packing of prefixes, and the runs of UPDATEs."""

from __future__ import annotations

import ipaddress

import pytest

from bgpmesh.errors import PeerError
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.nlri import Family, Nlri, parse_nlri
from bgpmesh.wire.fastpath import (
    Context,
    Interned,
    Routes,
    Table,
    cut,
    decode_updates,
    pack,
    split_attributes,
    without_martians,
)

SET = b"\x40\1\1\0"


def update(announced: bytes, attributes: bytes = SET, withdrawn: bytes = b"") -> bytes:
    """Return an UPDATE with its header."""
    body = len(withdrawn).to_bytes(2, "big") + withdrawn + len(attributes).to_bytes(2, "big") + attributes + announced
    return b"\xff" * 16 + (19 + len(body)).to_bytes(2, "big") + b"\2" + body


def host(number: int) -> Nlri:
    """Return the key of the number-th address of 10/8."""
    return Nlri(b"\x20" + (0x0A000000 + number).to_bytes(4, "big"))


def context() -> Context:
    """Return a context in which SET is known, and its attribute with value 1 is malformed."""
    table = Table()

    def intern(next_hop: bytes, rest: bytes) -> Interned:
        if rest == b"":
            raise PeerError(3, 3, "nothing there")
        interned = Interned(None if rest[-1] == 1 else PathAttributes())
        table.keep(next_hop, rest, interned)
        return interned

    return Context(frozenset(Family), table, intern)


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 64, 65, 1000])
@pytest.mark.parametrize(
    "prefix", ["10.0.0.0/32", "10.0.0.0/24", "10.0.0.0/26", "0.0.0.0/0", "2001:db8::/128", "2001::/52"]
)
def test_fields_of_one_length_are_cut(prefix: str, count: int) -> None:
    """Any number of prefixes of one length comes back whole and in order."""
    key = parse_nlri(prefix)
    family = Family.IPV4 if len(key) == 5 else Family.IPV6
    (field,) = pack([key] * count, family, 100_000)
    assert [key] * count == cut(field, family.bits)


@pytest.mark.parametrize(
    ("field", "bits"),
    [
        (b"\x21\0\0\0\0\0", 32),
        (b"\x20\0\0\0", 32),
        (b"\x18\0\0\0\x20", 32),
        (b"\x81" + bytes(17), 128),
        (b"\xff" * 40, 128),
    ],
)
def test_malformed_fields_are_refused(field: bytes, bits: int) -> None:
    """A prefix that is too long or cut short leaves the field to the codec."""
    assert cut(field, bits) is None


def test_packing_fills_messages_and_splits_between_prefixes() -> None:
    """Fields hold as many prefixes as there is room for, and never part of one."""
    keys = [parse_nlri("10.0.0.0/8"), parse_nlri("10.1.0.0/16"), parse_nlri("10.1.1.0/24"), parse_nlri("10.1.1.1/32")]
    assert list(pack(keys, Family.IPV4, 6)) == [b"\x08\x0a\x10\x0a\1", b"\x18\x0a\1\1", b"\x20\x0a\1\1\1"]


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 66, 130, 500])
def test_a_run_of_single_hosts_is_one_routes(count: int) -> None:
    """UPDATEs with one /32 each and one attribute set are joined, whatever follows."""
    flood = b"".join(update(host(number)) for number in range(count))
    for tail in (b"", update(host(9), SET + SET), update(b"\x18\x0a\0\0"), update(host(1))[:-1], b"\xff" * 16):
        routes, _ = decode_updates(flood + tail, 0, context(), 1.5)
        announced = [key for said in routes for key in said.announced]
        assert [host(number) for number in range(count)] == announced[:count]
        assert routes[0].read_at == 1.5
        assert len(routes[0].announced) >= count


def test_a_head_inside_a_prefix_run_is_no_message() -> None:
    """A message whose octets look like the head of the one before is taken by its length."""
    odd = update(update(host(1))[:30])
    flood = update(host(1)) * 3 + odd
    routes, at = decode_updates(flood, 0, context(), 0.0)
    assert [host(1)] * 3 == routes[0].announced[:3]
    assert at in {len(flood) - len(odd), len(flood)}


def test_withdrawals_start_a_new_routes_after_announcements() -> None:
    """In one Routes the withdrawals come first, so the order of the wire needs a second one."""
    data = update(b"", b"", host(1)) + update(host(1)) + update(b"", b"", host(1)) + update(b"", b"", host(2))
    routes, at = decode_updates(data, 0, context(), 0.0)
    assert [([host(1)], [host(1)]), ([host(1), host(2)], [])] == [(said.withdrawn, said.announced) for said in routes]
    assert len(data) == at


@pytest.mark.parametrize(
    "odd",
    [
        update(b"", b""),
        update(b"", SET),
        update(host(1), b"\x40\1\1\1"),
        update(host(1), b""),
        update(host(1), b"\x40\1\2\0"),
        update(b"\x21\0\0\0\0\0"),
        update(b"", b"\x80\x0f\3\0\2\1"),
        update(b"", b"\x80\x0f\4\0\x19\1\0"),
        b"\xff" * 16 + b"\0\x13\4",
        b"\xfe" + update(host(1))[1:],
    ],
)
def test_what_is_odd_is_left_where_it_stands(odd: bytes) -> None:
    """End-of-RIB, malformed and foreign messages are the codec's; what came before them is said."""
    before = update(host(1))
    routes, at = decode_updates(before + odd + before, 0, context(), 0.0)
    assert ([[host(1)]], len(before)) == ([said.announced for said in routes], at)


def test_mp_attributes_are_cut_out_of_the_others() -> None:
    """The rest stands as it stood; MP attributes that stand twice or are flagged otherwise are refused."""
    reach, unreach = b"\x80\x0e\2ab", b"\x90\x0f\0\1c"
    assert split_attributes(SET + reach + SET + unreach) == (SET + SET, b"ab", b"c")
    assert split_attributes(reach + reach) is None
    assert split_attributes(b"\xc0\x0e\2ab") is None
    assert split_attributes(SET + b"\x40\1") is None


def test_ipv6_routes_carry_the_set_of_their_next_hop() -> None:
    """The same attributes with another MP next hop are another set."""
    hops = [ipaddress.ip_address(text).packed for text in ("2001:db8::1", "2001:db8::2", "2001:db8::1")]
    key = parse_nlri("2001:db8::9/128")
    values = [b"\0\2\1\x10" + hop + b"\0" + key for hop in hops]
    data = b"".join(update(b"", b"\x80\x0e" + bytes((len(value),)) + value + SET) for value in values)
    routes, at = decode_updates(data, 0, context(), 0.0)
    assert [[key]] * 3 == [said.announced for said in routes]
    assert routes[0].attributes is routes[2].attributes is not routes[1].attributes
    assert len(data) == at


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("start", [b"\x80\x0e", b"\x90\x0e\0"])
@pytest.mark.parametrize("count", [1, 2, 64, 65, 66, 200])
def test_a_run_of_single_ipv6_hosts_is_one_routes(start: bytes, size: int, count: int) -> None:
    """UPDATEs with one /128 each are joined while all but the address is the same, before it and behind it."""
    hop = ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("fe80::1").packed[: size - 16]

    def single(number: int, rest: bytes = SET) -> bytes:
        value = b"\0\2\1" + bytes((size,)) + hop + b"\0\x80" + number.to_bytes(16, "big")
        return update(b"", start + bytes((len(value),)) + value + rest)

    flood = b"".join(single(number) for number in range(count))
    cut_behind_the_address = single(9)[: -len(SET)]
    for tail in (b"", single(9, SET + SET), single(9, b"\x40\1\2\0"), cut_behind_the_address, b"\xff" * 16):
        routes, _ = decode_updates(flood + tail, 0, context(), 0.0)
        assert [key[1:] for key in routes[0].announced] == [number.to_bytes(16, "big") for number in range(count)]


@pytest.mark.parametrize(
    ("prefix", "is_kept"),
    [
        ("0.0.0.0/0", True),
        ("10.0.0.0/8", True),
        ("223.255.255.0/24", True),
        ("127.1.0.0/16", False),
        ("224.0.0.0/24", False),
        ("255.255.255.255/32", False),
        ("::/0", True),
        ("fd00:10::/32", True),
        ("2001:db8::/64", True),
        ("::1/128", False),
        ("fe80:1::/64", False),
        ("fec0::/10", True),
        ("ff02::/16", False),
    ],
)
def test_prefixes_that_nobody_routes_to_are_ignored_and_told_of(prefix: str, is_kept: bool) -> None:
    """Multicast, loopback, link-local reserved: they go no further, and the first is named (RFC 4271 §6.3)."""
    nlri = parse_nlri(prefix)
    neighbour = parse_nlri("10.1.0.0/16")
    routes = without_martians(Routes(PathAttributes(), [neighbour, nlri], []))
    told = "" if is_kept else f"ignored 1 prefixes that nobody routes to, first {prefix}"
    assert (routes.announced, routes.problem) == ([neighbour, nlri] if is_kept else [neighbour], told)
