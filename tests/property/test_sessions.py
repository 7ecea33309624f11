"""The session machine under any order of events: it never raises and never contradicts itself."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpmesh.peering.connection import OPEN_HOLD_S, State
from bgpmesh.peering.message import (
    Capabilities,
    Cease,
    EndOfRib,
    GracefulRestart,
    Keepalive,
    LongLived,
    Negotiated,
    Notification,
    Open,
    Refresh,
    RouteRefresh,
)
from bgpmesh.peering.offer import LocalRestart
from bgpmesh.peering.peer import Peer
from bgpmesh.peering.session import (
    Dial,
    Established,
    Hangup,
    Output,
    RefreshBegan,
    Send,
    Session,
    StaleExpired,
    StaleOutlived,
    WentDown,
)
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.nlri import Family
from bgpmesh.route.path import PeerName, Role

OURS = ipaddress.ip_address("192.0.2.1")
PEER = Peer(
    name=PeerName("n2"),
    address=ipaddress.ip_address("192.0.2.2"),
    asn=Asn(65000),
    role=Role.CLIENT,
    local_address=OURS,
    local_asn=Asn(65000),
    router_id=RouterId(10),
    next_hops=((Family.IPV4, OURS), (Family.IPV6, ipaddress.ip_address("2001:db8::1"))),
)
MESSAGES: list[Keepalive | EndOfRib | RouteRefresh | Notification] = [
    Keepalive(),
    EndOfRib(Family.IPV4),
    RouteRefresh(Family.IPV6),
    Notification.cease(Cease.ADMIN_RESET),
]
Offer = tuple[GracefulRestart | None, LongLived | None]
Step = tuple[str, int, int, int, Offer, float]

families = st.lists(st.tuples(st.sampled_from(Family), st.booleans()), unique_by=lambda f: f[0], max_size=2)
FULL = GracefulRestart(30, families=((Family.IPV4, True), (Family.IPV6, True)))
restarts = st.sampled_from([None, FULL, FULL, FULL]) | st.builds(
    GracefulRestart, st.sampled_from([0, 1, 30, 4095]), st.booleans(), families.map(tuple), st.booleans()
)
long_lives = st.none() | st.builds(
    LongLived,
    st.lists(
        st.tuples(st.sampled_from(Family), st.booleans(), st.sampled_from([0, 1, 100, 0xFFFFFF])),
        unique_by=lambda f: f[0],
        max_size=2,
    ).map(tuple),
)
offers = st.tuples(restarts, long_lives)
pauses = st.sampled_from([0.0, 0.0, 0.0, 0.1, 1.0, 3.0, 9.0, 30.0, 240.0, 1e6])
EVENTS = (
    "start restart stop quit inbound inbound answered answered refused lost lost open open open bad-open message "
    "keepalive keepalive update garbage stalled end-of-rib end-of-rib refresh refresh tick due path-failed "
    "path-recovered reload up up up"
)
steps = st.lists(
    st.tuples(
        st.sampled_from(EVENTS.split()),
        st.integers(0, 3),  # which connection, message, family
        st.sampled_from([5, 10, 20]),  # the peer's identifier
        st.sampled_from([0, 3, 9]),  # its hold time
        offers,
        pauses,
    ),
    min_size=8,
    max_size=60,
).map(lambda drawn: [("start", 0, 5, 0, (None, None), 0.0), *drawn])


@dataclass
class World:
    """What the wire and the RIB would believe, from the outputs alone."""

    session: Session
    live: set[int] = field(default_factory=set)
    established: int | None = None
    is_calling: bool = False
    stale: frozenset[Family] = frozenset()
    last: int = 0

    def new(self) -> int:
        """Return the number of a connection that now stands."""
        self.last += 1
        self.live.add(self.last)
        return self.last

    def take(self, outputs: list[Output]) -> None:
        """Do what was said, and check that it could be done."""
        for output in outputs:
            match output:
                case Dial():
                    assert not self.is_calling, "a second call while one is under way"
                    self.is_calling = True
                case Send(connection, _):
                    assert connection in self.live, "said something on a connection that is gone"
                case Hangup(connection):
                    assert connection in self.live, "hung up twice"
                    self.live.remove(connection)
                case Established(connection, negotiated, keep):
                    assert self.established is None, "established twice"
                    assert connection in self.live
                    assert keep <= self.stale & frozenset(negotiated.families)
                    self.established, self.stale = connection, keep
                case WentDown(_, retain):
                    assert self.established is not None, "down without having been up"
                    self.established, self.stale = None, retain
                case RefreshBegan(family):
                    assert self.established is not None, "nobody to say it again"
                    self.stale |= {family}
                case StaleOutlived(outlived):
                    assert self.established is None, "it is back"
                    assert outlived, "nothing"
                    assert outlived <= self.stale, "what is not stale"
                case StaleExpired(expired):
                    assert expired, "swept nothing"
                    assert expired <= self.stale, "swept what was not stale"
                    self.stale -= expired

    def agree(self) -> None:
        """Check that the session believes the same."""
        session = self.session
        assert self.established == session.connection
        assert (session.state is State.ESTABLISHED) == (self.established is not None)
        assert (
            (session.negotiated is not None) == (session.established_at is not None) == (self.established is not None)
        )
        assert len(self.live) <= 2
        assert session.state is not State.IDLE or not self.live


def negotiate(session: Session, router_id: int, hold_time: int, offer: Offer) -> Negotiated:
    restart, long_lived = offer
    offered = Capabilities(tuple(Family), graceful_restart=restart, long_lived=None if restart is None else long_lived)
    received = Open(Asn(65000), hold_time, RouterId(router_id), offered)
    return Negotiated(session.open_message(), received, hold_time, tuple(Family), True)


def run(world: World, script: list[Step]) -> float:  # noqa: C901, PLR0912  one case for each event
    """Play the script on the session and return the second at its end."""
    session, now = world.session, 0.0
    for name, index, router_id, hold_time, offer, pause in script:
        now += pause
        # A number that never was, or is gone, among those that live.
        connection = [*sorted(world.live, reverse=True), world.last, 0][index % (len(world.live) + 2)]
        negotiated = negotiate(session, router_id, hold_time, offer)
        match name:
            case "start":
                outputs = session.start(now)
            case "restart":
                outputs = session.start(now, at_once=True)
            case "stop":
                outputs = session.stop(now, Notification.cease(Cease.ADMIN_SHUTDOWN))
            case "quit":
                outputs = session.stop(now, None)
            case "inbound":
                outputs = session.connected(world.new(), True, now)
            case "answered":
                world.is_calling = False
                outputs = session.connected(world.new(), False, now)
            case "refused":
                world.is_calling = False
                outputs = session.connect_failed("connection refused", now)
            case "lost":
                world.live.discard(connection)
                outputs = session.disconnected(connection, "closed by peer", now)
            case "open":
                outputs = session.open_received(connection, negotiated, now)
            case "bad-open":
                outputs = session.open_received(connection, replace(negotiated, refusal=Notification(2, 2)), now)
            case "message":
                outputs = session.message_received(connection, MESSAGES[index], now)
            case "keepalive":
                outputs = session.message_received(connection, Keepalive(), now)
            case "update":
                outputs = session.update_received(connection, now)
            case "garbage":
                outputs = session.garbage_received(connection, Notification(3, 1), "malformed", now)
            case "stalled":
                outputs = session.sending_stalled(connection, now - [0.0, 480.0][index % 2], now)
            case "end-of-rib":
                outputs = session.message_received(connection, EndOfRib([*Family][index % 2]), now)
            case "refresh":
                marker = RouteRefresh([*Family][index % 2], (Refresh.BEGIN, Refresh.END)[index // 2])
                outputs = session.message_received(connection, marker, now)
            case "tick":
                outputs = session.tick(now)
            case "path-failed":
                outputs = session.path_failed("BFD", now, is_independent=index % 2 == 0)
            case "path-recovered":
                outputs = session.path_recovered(now)
            case "reload":
                to = replace(session.peer, hold_time=9 + index)
                world.take(session.hand_over(to, now, Notification.cease(Cease.OTHER_CONFIGURATION_CHANGE)))
                world.agree()
                changed = Session(to, LocalRestart(), lambda: 0.5)
                changed.succeed(session)
                world.session, session, world.is_calling = changed, changed, False
                outputs = session.start(now)
            case "up":
                connection = world.new()
                world.take(session.connected(connection, True, now))
                world.take(session.open_received(connection, negotiated, now))
                outputs = session.message_received(connection, Keepalive(), now)
            case _:
                if session.next_wakeup() < float("inf"):
                    now = max(now, session.next_wakeup())
                outputs = session.tick(now)
        world.take(outputs)
        world.agree()
    return now


@settings(max_examples=150)
@given(steps, st.booleans(), st.booleans(), st.sampled_from([0, 120]), st.sampled_from([0, 50]))
def test_any_order_of_events(
    script: list[Step],
    is_passive: bool,
    in_cluster: bool,
    graceful_restart: int,
    long_lived: int,
) -> None:
    """Whatever happens whenever: nothing raises, one connection at most is established, outputs make sense."""
    peer = replace(
        PEER,
        is_passive=is_passive,
        in_cluster=in_cluster,
        graceful_restart=graceful_restart,
        long_lived_graceful_restart=long_lived,
    )
    run(World(Session(peer, LocalRestart(), lambda: 0.5)), script)


@settings(max_examples=80)
@given(steps, st.booleans())
def test_every_connection_ends(script: list[Step], is_passive: bool) -> None:
    """Once the peer says nothing more, every connection but one established without timers is hung up."""
    world = World(Session(replace(PEER, is_passive=is_passive), LocalRestart(), lambda: 0.5))
    end = run(world, script)
    world.take(world.session.tick(end + OPEN_HOLD_S))
    world.agree()
    assert world.live == ({world.established} if world.established is not None else set())
    if world.session.negotiated is not None:
        assert world.session.negotiated.hold_time == 0
    world.take(world.session.stop(end + OPEN_HOLD_S, None))
    assert (world.live, world.stale) == (set(), frozenset())


@settings(max_examples=80)
@given(steps, st.booleans())
def test_time_moves_on(script: list[Step], is_passive: bool) -> None:
    """A tick at the second that `next_wakeup` named does what was due: the next one is later."""
    peer = replace(PEER, is_passive=is_passive, long_lived_graceful_restart=50)
    world = World(Session(peer, LocalRestart(), lambda: 0.0))
    end = run(world, script)
    for _ in range(20):
        due = world.session.next_wakeup()
        if due == float("inf"):
            break
        now = max(due, end)
        world.take(world.session.tick(now))
        assert world.session.next_wakeup() > now
        if world.is_calling:
            world.is_calling = False
            world.take(world.session.connect_failed("connection refused", now))


# ── two sessions and the wire between them ───────────────────────────────────


class Link:
    """Two sessions whose connections deliver in order, each at its own pace."""

    def __init__(self, router_ids: tuple[int, int], graceful_restart: int) -> None:
        self.now = 0.0
        self.sessions = [
            Session(
                replace(PEER, router_id=RouterId(router_id), graceful_restart=graceful_restart, local_asn=Asn(asn)),
                LocalRestart(),
                lambda: 0.5,
            )
            for asn, router_id in enumerate(router_ids, 65000)
        ]
        self.queues: dict[tuple[int, int], list[object]] = {}  # (side, connection): what is on its way to it
        self.connections = 0
        self.lost = 0

    def do(self, side: int, outputs: list[Output]) -> None:
        """Carry out what the session of one side said."""
        for output in outputs:
            match output:
                case Dial():
                    self.connections += 1
                    self.queues[side, self.connections] = ["answered"]
                    self.queues[1 - side, self.connections] = ["called"]
                case Send(connection, message):
                    self.queues.get((1 - side, connection), []).append(message)
                case Hangup(connection):
                    self.queues.pop((side, connection), None)
                    self.queues.get((1 - side, connection), []).append("closed")
                case WentDown():
                    self.lost += 1

    def step(self, choice: int) -> None:
        """Deliver one thing, or let time pass until something is due."""
        waiting = sorted(key for key, queue in self.queues.items() if queue)
        if not waiting:
            self.now = max(self.now, min(session.next_wakeup() for session in self.sessions))
            for side, session in enumerate(self.sessions):
                self.do(side, session.tick(self.now))
            return
        side, connection = waiting[choice % len(waiting)]
        session, arrived = self.sessions[side], self.queues[side, connection].pop(0)
        match arrived:
            case "answered" | "called":
                outputs = session.connected(connection, arrived == "called", self.now)
            case "closed":
                del self.queues[side, connection]
                outputs = session.disconnected(connection, "closed by peer", self.now)
            case Open():
                negotiated = Negotiated(session.open_message(), arrived, 9, tuple(Family), True)
                outputs = session.open_received(connection, negotiated, self.now)
            case Keepalive() | Notification():
                outputs = session.message_received(connection, arrived, self.now)
            case _:
                raise AssertionError(arrived)
        self.do(side, outputs)


@settings(max_examples=100)
@given(
    st.sampled_from([(1, 2), (2, 1), (7, 7)]),
    st.sampled_from([0, 120]),
    st.lists(st.integers(0, 5), min_size=5, max_size=40),
)
def test_two_that_call_each_other_end_with_one_connection(
    router_ids: tuple[int, int], graceful_restart: int, choices: list[int]
) -> None:
    """Both call at once, whatever arrives first: both are established on the same connection, and stay so."""
    link = Link(router_ids, graceful_restart)
    for side, session in enumerate(link.sessions):
        link.do(side, session.start(0))
    for number in range(150):
        link.step(choices[number % len(choices)])
    one, two = link.sessions
    assert one.connection is not None
    assert one.connection == two.connection
    lost = link.lost
    for _ in range(50):
        link.step(0)
    assert (lost, one.connection) == (link.lost, two.connection)
    assert link.lost == 0
