"""Addresses against a model that scans the whole block."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.errors import ConfigError
from bgpmesh.route.nlri import IPAddress
from bgpmesh.workload.pool import Addresses, Pool

BLOCK = ipaddress.ip_network("10.244.1.0/28")
KEYS = [f"a/{number}" for number in range(20)]
RESERVED = st.lists(
    st.sampled_from(sorted({n for p in (29, 30, 31, 32) for n in BLOCK.subnets(new_prefix=p)})), max_size=3
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["request", "release"]), st.sampled_from(KEYS), st.none() | st.sampled_from(list(BLOCK))),
    max_size=60,
)


@given(RESERVED, STEPS)
def test_an_address_has_one_owner_and_is_refused_only_when_none_is_left(
    reserved: list[ipaddress.IPv4Network], steps: list[tuple[str, str, IPAddress | None]]
) -> None:
    """Whatever the order of requests and releases: no address twice, none reserved, none missed."""
    addresses = Addresses()
    addresses.configure((Pool("p", BLOCK, reserved=tuple(reserved)),), (BLOCK,))
    model: dict[IPAddress, str] = {}
    usable = {address for address in BLOCK if not any(address in kept for kept in reserved)}
    for what, key, wanted in steps:
        held = [address for address, owner in model.items() if owner == key]
        if what == "release":
            addresses.release(key)
            for address in held:
                del model[address]
            continue
        free = usable - model.keys()
        possible = bool(held) and wanted in (None, *held)
        possible = possible or (not held and (wanted in free if wanted is not None else bool(free)))
        try:
            (got,) = addresses.request(key, () if wanted is None else (wanted,))
        except ConfigError:
            assert not possible
        else:
            assert possible
            assert got in held or got in free
            model[got] = key
        assert addresses.in_use() == model


@given(RESERVED, STEPS)
def test_the_same_requests_give_the_same_addresses(
    reserved: list[ipaddress.IPv4Network], steps: list[tuple[str, str, IPAddress | None]]
) -> None:
    """Nothing is left to chance."""

    def played() -> dict[IPAddress, str]:
        addresses = Addresses()
        addresses.configure((Pool("p", BLOCK, reserved=tuple(reserved)),), (BLOCK,))
        for what, key, wanted in steps:
            try:
                addresses.release(key) if what == "release" else addresses.request(key, (wanted,) if wanted else ())
            except ConfigError:
                continue
        return dict(addresses.in_use())

    assert played() == played()
