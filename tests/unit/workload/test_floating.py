"""Which floating addresses are in force, what they lead to, and what a command cannot have."""

from __future__ import annotations

import ipaddress
from itertools import permutations

import pytest

from bgpmesh.errors import ConfigError
from bgpmesh.workload.endpoint import Endpoint
from bgpmesh.workload.floating import FloatingIp, FloatingIps, Lead
from bgpmesh.workload.pool import Pool

FOUR, SIX = ipaddress.ip_address("203.0.113.10"), ipaddress.ip_address("2001:db8:f::10")
NEXT = ipaddress.ip_address("203.0.113.11")
POOL = Pool("p", ipaddress.ip_network("10.244.0.0/16"))


def endpoint(name: str, *addresses: str) -> Endpoint:
    return Endpoint(name, "shop", (), tuple(map(ipaddress.ip_address, addresses)), f"bgpm{name}", f"/run/netns/{name}")


WEB, DB = endpoint("web", "10.244.1.5", "10.244.1.6", "fd00::5"), endpoint("db", "10.244.1.7")
BOTH = {each.key: each for each in (WEB, DB)}


def floating(of_file: tuple[FloatingIp, ...] = (), kept: tuple[FloatingIp, ...] = ()) -> FloatingIps:
    made = FloatingIps()
    made.configure(of_file)
    made.keep(kept)
    return made


def test_each_leads_to_the_first_address_of_its_family() -> None:
    """Several may lead to one workload; one of them is what its own connections leave by."""
    said = (
        FloatingIp(FOUR, "shop/web"),
        FloatingIp(NEXT, "shop/web", outbound=True),
        FloatingIp(SIX, "shop/web", outbound=True),
    )
    first, sixth = WEB.addresses[0], WEB.addresses[2]
    expected = {
        FOUR: Lead(FOUR, first, "bgpmweb"),
        NEXT: Lead(NEXT, first, "bgpmweb", is_outbound=True),
        SIX: Lead(SIX, sixth, "bgpmweb", is_outbound=True),
    }
    for order in permutations(said):
        assert floating(order).leads(BOTH, {}) == expected
    assert floating(said).leads({}, {}) == {}


def test_the_file_goes_before_commands() -> None:
    """Also in what connections leave by; what a command said is in force again when the file no longer has it."""
    kept = (FloatingIp(FOUR, "shop/db"), FloatingIp(NEXT, "shop/web", outbound=True))
    made = floating((FloatingIp(FOUR, "shop/web", outbound=True),), kept)
    assert {str(each): lead.is_outbound for each, lead in made.leads(BOTH, {}).items()} == {
        "203.0.113.10": True,
        "203.0.113.11": False,
    }
    assert list(made.problems(BOTH, {})) == [
        (FOUR, "the configuration has it for shop/web; not in force for shop/db"),
        (NEXT, "connections of shop/web leave by another floating address"),
    ]
    made.configure(())
    assert made.leads(BOTH, {})[FOUR].internal == DB.addresses[0]
    assert list(made.problems(BOTH, {})) == []


def test_what_cannot_be_is_named() -> None:
    """A workload without the family; one that is not here, of a command (the file's may be elsewhere); one in use."""
    made = floating((FloatingIp(SIX, "shop/db"), FloatingIp(FOUR, "shop/nobody")), (FloatingIp(NEXT, "shop/nobody"),))
    assert list(made.problems(BOTH, {})) == [
        (NEXT, "no workload shop/nobody on this node"),
        (SIX, "shop/db has no IPv6 address"),
    ]
    in_use = {SIX: "shop/web"}
    assert made.leads(BOTH, in_use) == {}
    assert (SIX, "already in use by shop/web") in list(made.problems(BOTH, in_use))


@pytest.mark.parametrize(
    ("external", "reason"),
    [
        ("203.0.113.10", "the configuration has it, for shop/web: change it there"),
        ("10.244.3.4", r"lies in pool p \(10.244.0.0/16\)"),
        ("10.9.0.1", "lies in pod CIDR 10.9.0.0/24"),
        ("192.0.2.7", "already in use by node n7"),
        ("224.0.0.1", "is not a unicast address"),
        ("::ffff:10.0.0.1", "is not a unicast address"),
        ("fe80::1", "is not a unicast address"),
    ],
)
def test_a_command_cannot_have_what_is_somebody_else_s(external: str, reason: str) -> None:
    """Each is refused with the reason; nothing is changed by asking."""
    made = floating((FloatingIp(FOUR, "shop/web", outbound=True),))
    taken = {ipaddress.ip_address("192.0.2.7"): "node n7"}
    with pytest.raises(ConfigError, match=reason):
        made.check(
            FloatingIp(ipaddress.ip_address(external), "shop/db"), [POOL], [ipaddress.ip_network("10.9.0.0/24")], taken
        )


def test_one_outbound_address_of_each_family() -> None:
    """A second is refused by name; the same one again is not."""
    made = floating((), (FloatingIp(FOUR, "shop/web", outbound=True),))
    with pytest.raises(ConfigError, match=r"connections of shop/web leave by 203.0.113.10 already"):
        made.check(FloatingIp(NEXT, "shop/web", outbound=True), [], [], {})
    for fine in (
        FloatingIp(FOUR, "shop/web", outbound=True),
        FloatingIp(NEXT, "shop/web"),
        FloatingIp(NEXT, "shop/db", outbound=True),
        FloatingIp(SIX, "shop/web", outbound=True),
    ):
        made.check(fine, [], [], {})


def test_a_command_removes_what_commands_made() -> None:
    """What the file has it cannot; what nobody has is nothing."""
    made = floating((FloatingIp(FOUR, "shop/web"),), (FloatingIp(NEXT, "shop/web"),))
    assert made.without(NEXT) == ()
    assert made.without(SIX) == made.kept
    with pytest.raises(ConfigError, match="remove it there"):
        made.without(FOUR)
    made.keep((FloatingIp(FOUR, "shop/db"),))
    assert made.without(FOUR) == (), "what it kept behind the file's"
