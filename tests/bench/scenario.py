"""What is measured, as data: one row for each scenario."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from tests.bench.feeder import IPAddress

ASN = 64512
DUT = {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}
FEEDER = {"ipv4": "192.0.2.2", "ipv6": "2001:db8::2"}
_FIRST = {"ipv4": "10.0.0.0", "ipv6": "2001:db8:a::"}


@dataclass(frozen=True, slots=True)
class Scenario:
    """Routes of one family over a number of attribute sets; timed is the announcement or the withdrawal."""

    name: str
    title: str  # {routes} is filled in
    family: Literal["ipv4", "ipv6"]
    sets: int
    timed: Literal["announce", "withdraw"] = "announce"

    @property
    def first(self) -> IPAddress:
        """The first prefix."""
        return ipaddress.ip_address(_FIRST[self.family])


SCENARIOS = (
    Scenario("ipv4", "{routes} IPv4 /32, one attribute set, UPDATE to kernel", "ipv4", 1),
    Scenario("ipv4-sets", "{routes} IPv4 /32, 1,000 attribute sets", "ipv4", 1000),
    Scenario("ipv6", "{routes} IPv6 /128, one attribute set", "ipv6", 1),
    Scenario("withdraw", "withdraw all {routes} IPv4 /32", "ipv4", 1, "withdraw"),
)
