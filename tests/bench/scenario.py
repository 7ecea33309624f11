"""What is measured, as data: a row for each scenario, and how large it is."""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, dataclass
from typing import Literal

from tests.bench.feeder import IPAddress

ASN = 64512
DUT = {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}
FEEDER = {"ipv4": "192.0.2.2", "ipv6": "2001:db8::2"}
QUIET = "192.0.2.3"  # a neighbour that is told nothing and says nothing
_FIRST = {"ipv4": "10.0.0.0", "ipv6": "2001:db8:a::"}
_FIRST_CLIENT = ipaddress.IPv4Address("192.0.2.101")
_FIRST_MEMBER = ipaddress.IPv4Address("192.0.2.1")
_FIRST_BLOCK = ipaddress.IPv4Network("10.244.0.0/26")

Act = Literal["announce", "withdraw", "reflect", "lost", "restart", "latency", "mesh", "churn", "idle", "start"]
Unit = Literal["s", "ms", "%"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: it all follows from one number, 100,000 for the whole and less for a glance."""

    routes: int
    few: int  # routes that lie there while something small is watched
    singles: int  # routes that come one by one
    changes: int
    nodes: int
    idle_s: float

    @classmethod
    def of(cls, routes: int) -> Scale:
        """Return the scale of that many routes."""
        return cls(
            routes=routes,
            few=routes // 10,
            singles=min(500, routes // 100),
            changes=20 * routes,
            nodes=min(30, 3 + routes // 2500),
            idle_s=min(10.0, max(1.0, routes / 10_000)),
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens (`act`, see play.py), with routes of one family over a number of attribute sets."""

    name: str
    words: str  # the fields of Scale, and `clients`, are filled in
    act: Act
    family: Literal["ipv4", "ipv6"] = "ipv4"
    sets: int = 1
    clients: int = 0
    unit: Unit = "s"

    @property
    def first(self) -> IPAddress:
        """The first prefix."""
        return ipaddress.ip_address(_FIRST[self.family])

    @property
    def needs_fib(self) -> bool:
        """Whether only a daemon that writes to the kernel can play it."""
        return self.act not in {"reflect", "start"}

    def title(self, scale: Scale) -> str:
        """Return what is measured, in words."""
        numbers = {key: f"{value:,g}" if value < 1e6 else f"{value:,.0f}" for key, value in asdict(scale).items()}
        return self.words.format(**numbers, clients=self.clients)


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the mesh."""

    name: str
    address: str
    block: str  # its pod CIDR


def clients(count: int) -> tuple[str, ...]:
    """Return the addresses of a reflector's clients."""
    return tuple(str(_FIRST_CLIENT + number) for number in range(count))


def members(count: int) -> tuple[Member, ...]:
    """Return the nodes of a mesh."""
    size = _FIRST_BLOCK.num_addresses
    return tuple(
        Member(f"n{number + 1}", str(_FIRST_MEMBER + number), f"{_FIRST_BLOCK[0] + number * size}/26")
        for number in range(count)
    )


SCENARIOS = (
    Scenario("ipv4", "{routes} IPv4 /32, one attribute set, UPDATE to kernel", "announce"),
    Scenario("ipv4-sets", "{routes} IPv4 /32, 1,000 attribute sets", "announce", sets=1000),
    Scenario("ipv6", "{routes} IPv6 /128, one attribute set", "announce", "ipv6"),
    Scenario("withdraw", "withdraw all {routes} IPv4 /32", "withdraw"),
    Scenario("reflect-1", "reflect {routes} to one client", "reflect", clients=1),
    Scenario("reflect-10", "reflect {routes} to {clients} clients", "reflect", clients=10),
    Scenario("reflect-50", "reflect {routes} to {clients} clients", "reflect", clients=50),
    Scenario("session-lost", "a session with {few} routes is lost, no graceful restart", "lost"),
    Scenario("restart", "killed and started again with {routes}, until reconciled", "restart"),
    Scenario("latency", "one route more over {few}, UPDATE to kernel", "latency", unit="ms"),
    Scenario("mesh", "a mesh of {nodes} nodes, last start to every kernel complete", "mesh"),
    Scenario("churn", "{changes} route changes at a hold time of 3 s: longest silence", "churn"),
    Scenario("idle", "CPU with {routes} over {idle_s} s of quiet", "idle", unit="%"),
    Scenario("start", "CPU from a cold start to listening", "start"),
)
