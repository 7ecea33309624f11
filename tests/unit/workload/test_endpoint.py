"""Names, aliases and what can be read back from them."""

from __future__ import annotations

import ipaddress

import pytest

from bgpmesh.errors import ConfigError
from bgpmesh.workload.endpoint import (
    ALIAS_LIMIT,
    Endpoint,
    check_name,
    endpoint_of,
    interface_name,
    is_interface_name,
    link_of,
    parse_alias,
)

ADDRESSES = (ipaddress.ip_address("10.244.1.5"), ipaddress.ip_address("fd00:10:244:1::5"))


def endpoint(name: str = "web", netns: str = "/run/netns/web") -> Endpoint:
    return Endpoint(name, "shop", (), ADDRESSES, interface_name("bgpm", f"shop/{name}"), netns)


def test_an_alias_gives_the_link_and_the_workload_back() -> None:
    """A daemon without any state knows what a link is for."""
    link = link_of(endpoint())
    assert link.alias == "bgpmesh shop/web 10.244.1.5,fd00:10:244:1::5 /run/netns/web"
    assert parse_alias(link.interface, link.alias) == link
    assert endpoint_of(link) == endpoint()


def test_a_namespace_path_with_blanks_survives_the_alias() -> None:
    """The path is last, so it may hold anything."""
    link = link_of(endpoint(netns="/run/my netns/web 1"))
    assert parse_alias(link.interface, link.alias) == link


def test_an_alias_too_long_is_cut_and_still_tells_two_apart() -> None:
    """The kernel keeps 255 octets; beyond that a hash of the whole stands in."""
    one, two = (link_of(endpoint(name="w" * 250, netns=path)) for path in ("/run/netns/one", "/run/netns/two"))
    assert len(one.alias) <= ALIAS_LIMIT
    assert one.alias != two.alias
    parsed = parse_alias(one.interface, one.alias)
    assert parsed is not None
    assert (parsed.addresses, endpoint_of(parsed)) == (ADDRESSES, None)


@pytest.mark.parametrize(
    "alias", ["", "uplink to tor1", "bgpmesh", "bgpmesh shop/web", "bgpmesh web 10.0.0.1 /x", "bgpmesh a/b 10.0.0 /x"]
)
def test_an_alias_of_somebody_else_is_no_link_of_ours(alias: str) -> None:
    """Only the whole form counts."""
    assert parse_alias("bgpmaaaaaaaaaaa", alias) is None


def test_link_names_are_fifteen_characters_and_known_again() -> None:
    """The kernel's limit, whatever the names are; another prefix is not ours."""
    name = interface_name("bgpm", "shop/web")
    assert (len(name), interface_name("bgpm", "shop/web")) == (15, name)
    assert interface_name("bgpm", "shop/web2") != name
    assert [is_interface_name(prefix, name) for prefix in ("bgpm", "bgpmesh", "cali")] == [True, True, False]
    assert not is_interface_name("bgpm", "bgpm0")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "a-", "a\n", "é", "w" * 254])
def test_a_name_that_would_be_ambiguous_is_refused(name: str) -> None:
    """The key to blame and the value are in the error."""
    with pytest.raises(ConfigError) as caught:
        check_name("name", name)
    assert (caught.value.problems[0].key, caught.value.problems[0].value) == ("name", name)


@pytest.mark.parametrize("name", ["a", "web-1", "Web_2.prod", "w" * 253])
def test_an_ordinary_name_is_taken(name: str) -> None:
    """As Kubernetes and Docker give them."""
    check_name("name", name)
