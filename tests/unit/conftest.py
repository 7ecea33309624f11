"""A node with one session up, one that is refused, and a few routes: what the views and pages are asked about."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

import pytest

from bgpmesh import config
from bgpmesh.engine import Engine
from bgpmesh.events import (
    BfdReported,
    Connected,
    ConnectFailed,
    EndpointAdded,
    FibRead,
    FibWritten,
    HostRoutesChanged,
    LinkNamesRead,
    LinksRead,
    LinkWritten,
    MessageReceived,
    OpenReceived,
    RoutesReceived,
)
from bgpmesh.peering.bfd import Report, State
from bgpmesh.peering.message import Capabilities, EndOfRib, GracefulRestart, Keepalive, Negotiated, Open
from bgpmesh.peering.session import Send
from bgpmesh.policy.attribution import Counters
from bgpmesh.policy.store import Store
from bgpmesh.route.attributes import Asn, AsPath, Origin, PathAttributes, RouterId, SegmentKind
from bgpmesh.route.nlri import Family, parse_nlri
from bgpmesh.route.path import HostRoute, HostRouteKind, PeerName
from bgpmesh.workload.endpoint import Endpoint
from tests.flat import pairs, protect

FILE = """
[cluster]
asn = 64512
bfd = true
[pool.default]
cidr = "10.244.0.0/16"
reserved = ["10.244.1.0/30"]
[node.n1]
address = "192.0.2.1"
pod_cidrs = ["10.244.1.0/26"]
[node.n2]
address = "192.0.2.2"
[node.n3]
address = "192.0.2.3"
"""


@dataclass
class Metrics:
    """Stands in for the metrics."""

    def render(self) -> bytes:
        """Return one series."""
        return b"bgpmesh_ready 1\n"


@dataclass
class Speaker:
    """Stands in for the speaker."""

    messages: dict[tuple[PeerName, str, str], int] = field(default_factory=dict)


@dataclass
class Bfd:
    """Stands in for the edge of BFD."""

    discarded: dict[str, int] = field(default_factory=dict)


@dataclass
class Helpers:
    """Stands in for the edge of programs."""

    up: dict[str, bool] = field(default_factory=dict)


@dataclass
class Running:
    """What views, pages and metrics see of a daemon, at second 100 of its clock."""

    engine: Engine
    store: Store = field(default_factory=Store)
    counters: Counters = field(default_factory=Counters)
    started_at: float = 10.0
    generation: int = 3
    problems: list[str] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    speaker: Speaker = field(default_factory=Speaker)
    bfd: Bfd = field(default_factory=Bfd)
    helpers: Helpers = field(default_factory=Helpers)

    def processes(self) -> list[dict[str, object]]:
        """Return how each program is."""
        found: list[dict[str, object]] = []
        for name, is_up in self.helpers.up.items():
            state, pid = ("running", 7) if is_up else ("waiting", None)
            found.append({"name": name, "state": state, "pid": pid, "restarts": 2, "last_error": "exit code 1"})
        return found

    def reasons(self) -> list[str]:
        """Return why it is not ready."""
        return self.problems

    def unconfirmed(self) -> dict[str, object] | None:
        """Return that nothing is on trial."""
        return None

    async def freshen(self) -> None:
        """Read nothing."""

    def now(self) -> float:
        """Return the second."""
        return 100.0


def engine_of_n1() -> Engine:
    """Return n1: n2 is established and has announced two prefixes, n3 refuses, one workload is attached."""
    engine = Engine(config.effective(config.parse(FILE, "f.toml"), "n1"), (), lambda: 0.0)
    lan = HostRoute(parse_nlri("192.0.2.0/24"), 2, None, 0, HostRouteKind.CONNECTED, 2, 254)
    engine.handle(HostRoutesChanged((lan,), ()), 10.0)
    engine.handle(LinkNamesRead({2: "eth0"}), 10.0)
    engine.handle(LinksRead({}), 10.0)
    engine.handle(FibRead({}, {}), 10.0)
    _establish(engine, PeerName("n2"), RouterId(int(ipaddress.ip_address("192.0.2.2"))))
    engine.handle(ConnectFailed(PeerName("n3"), "connection refused"), 12.0)
    for report in (
        Report("n2", State.UP, 0, State.UP, 0, True, False, 11.5, 900.0, 300.0, True),
        Report("n3", State.DOWN, 1, State.DOWN, 0, False, False, 14.0, 0.0, 1000.0),
    ):
        engine.handle(BfdReported(report), 14.0)
    address = engine.local.addresses.request("default/web", (ipaddress.ip_address("10.244.1.5"),))
    engine.handle(
        EndpointAdded(Endpoint("web", "default", (("app", "web"),), address, "bgpmx", "/run/netns/web")), 13.0
    )
    protect(engine, 13.0)
    pairs(engine.local.links.take(1, 13.0))
    engine.handle(LinkWritten("bgpmx"), 13.0)
    learnt = PathAttributes(
        origin=Origin.INCOMPLETE,
        as_path=AsPath(((SegmentKind.SEQUENCE, (Asn(65001), Asn(65002))),)),
        next_hop=ipaddress.ip_address("192.0.2.2"),
        local_pref=100,
        communities=(64512 << 16 | 100,),
        ext_communities=(bytes((0, 2)) + (64512).to_bytes(2, "big") + (7).to_bytes(4, "big"),),
        large_communities=((64512, 1, 2),),
        cluster_list=(RouterId(1),),
        originator_id=RouterId(2),
        other=((0xC0, 99, b"\x01\x02"),),
    )
    away = PathAttributes(next_hop=ipaddress.ip_address("198.51.100.1"), local_pref=100)
    engine.handle(RoutesReceived(1, learnt, [parse_nlri("10.244.2.0/26")], [], 20.0), 20.0)
    engine.handle(RoutesReceived(1, away, [parse_nlri("10.244.9.0/26")], [], 21.0), 21.0)
    engine.handle(MessageReceived(1, EndOfRib(Family.IPV4)), 22.0)
    while engine.work(1000, 22.5):
        pass
    while engine.rib.take(PeerName("n2"), 1000):
        pass
    written = [nlri for nlri, _ in pairs(engine.rib.fib.take(1000, 23.0)) if nlri != parse_nlri("10.244.2.0/26")]
    engine.handle(FibWritten(written, {parse_nlri("10.244.2.0/26"): "Network is unreachable"}), 23.0)
    return engine


def _establish(engine: Engine, name: PeerName, router_id: RouterId) -> None:
    local, remote = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("192.0.2.2")
    engine.handle(Connected(1, name, local, remote, is_inbound=True), 11.0)
    ours = next(c.message for c in engine.peers.commands if isinstance(c, Send) and isinstance(c.message, Open))
    restart = GracefulRestart(120, is_restarting=False, families=((Family.IPV4, True),))
    theirs = Open(Asn(64512), 9, router_id, Capabilities((Family.IPV4,), graceful_restart=restart))
    negotiated = Negotiated(ours, theirs, 9, (Family.IPV4,), four_octet_asn=True)
    engine.handle(OpenReceived(1, negotiated), 11.0)
    engine.handle(MessageReceived(1, Keepalive()), 11.0)


@pytest.fixture
def running() -> Running:
    """Return n1 as a daemon shows it."""
    return Running(engine_of_n1())
