"""A node that leaves service and comes back: its sessions, the wait for traffic, and what a restart makes of it."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import cast

import pytest

from bgpmesh import config, drain, peers
from bgpmesh.config import Config
from bgpmesh.control import tables, views
from bgpmesh.control.server import Request
from bgpmesh.drain import Drainer, DrainOptions, Follower
from bgpmesh.drops import Drops
from bgpmesh.engine import Engine
from bgpmesh.errors import ConfigError, KernelError
from bgpmesh.events import Connected, DrainChanged, EndpointAdded, LinkNamesRead
from bgpmesh.keeper import Keeper
from bgpmesh.kernel.links import LinksEdge
from bgpmesh.operations import Operations
from bgpmesh.peering.bfd import Watched
from bgpmesh.peering.connection import State
from bgpmesh.peering.message import Cease, Notification
from bgpmesh.peering.session import Dial, Hangup, Send
from bgpmesh.pump import Pump
from bgpmesh.revisions import Revisions
from bgpmesh.rib.drain import Drain
from bgpmesh.route.community import GRACEFUL_SHUTDOWN
from bgpmesh.route.nlri import prefix_text
from bgpmesh.workload.endpoint import link_of
from tests.unit.test_engine import ADOPTED, HOP, KEPT, N2, N3, WEB, World, configured, peer
from tests.waiting import DEADLINE_S

ANYCAST = "203.0.113.7/32"
MANY = 10**7
WATCHED = Watched("n2", "192.0.2.1", "192.0.2.2", 0, 300, 3)


def world(*, drained: Drain = Drain.NONE, listed: tuple[str, ...] = ()) -> World:
    """Return a node with a block and an anycast address, before its kernel is read."""
    given = configured(advertise=(ipaddress.ip_network(ANYCAST),), watched=(WATCHED,))
    made = World(Engine(given, cast("tuple[()]", listed), lambda: 0.5))
    if drained is not Drain.NONE:
        made.engine.handle(DrainChanged(drained), made.now)
    return made


def in_service(now: float = 100.0) -> World:
    """Return one that has a session with n2, which has said all."""
    made = world()
    made.now = now
    made.boot({})
    made.written()
    made.establish(N2, KEPT)
    made.end_of_rib(N2)
    made.told(N2)
    return made


def step(made: World, to: Drain, text: str = "drained") -> list[object]:
    """Take a step; returns what the wire is told."""
    made.engine.handle(DrainChanged(to, text=text), made.now)
    return list(made.settle())


def at(made: World) -> Drain:
    """Return how far it is."""
    return made.engine.peers.drain.drain


def marked(made: World) -> dict[str, bool]:
    """Return what n2 has been told, and whether it is marked."""
    told = made.engine.rib.advertised(N2)
    return {prefix_text(nlri): GRACEFUL_SHUTDOWN in attributes.communities for nlri, attributes in told}


def test_a_stopped_node_ends_its_sessions_with_a_word_after_the_withdrawal() -> None:
    """What it had of its peers goes from the kernel, BFD ends, and nobody is called again."""
    made = in_service()
    made.announce(N2, "10.244.2.0/26")
    made.written()
    assert step(made, Drain.STOPPED, text="moving racks") == []
    assert made.told(N2) == ["-10.244.1.0/26", "-203.0.113.7/32"]
    assert made.engine.peers.paths.watched == (WATCHED,)
    said = made.at(1.0)
    farewell = Notification.cease(Cease.ADMIN_SHUTDOWN, "moving racks")
    assert Send(made.of[N2], farewell) in said
    assert made.written() == [("10.244.2.0/26", None)]
    assert not made.engine.peers.paths.watched
    assert not made.engine.peers.held
    assert {session.state for session in made.engine.peers.sessions.values()} == {State.IDLE}
    assert "moving racks" in made.engine.peers.sessions[N2].last_error
    assert made.engine.next_wakeup() == float("inf")
    made.engine.handle(Connected(99, N2, HOP, HOP, is_inbound=True), made.now)
    assert made.settle() == [Send(99, farewell), Hangup(99)], "who calls meanwhile is told"


def test_a_reload_of_a_stopped_node_begins_no_session() -> None:
    """Also with a peer that is new."""
    made = in_service()
    step(made, Drain.STOPPED)
    made.at(1.0)
    made.engine.handle(configured(peer(2), peer(4), watched=(WATCHED,)), made.now)
    assert made.settle() == []
    assert (made.engine.peers.is_closed, made.engine.peers.paths.watched) == (True, ())


def test_back_in_service_a_node_is_the_last_choice_until_all_is_in_the_kernel() -> None:
    """Everybody is called, also where it is the passive side; who does not answer is waited for three seconds."""
    made = in_service()
    step(made, Drain.STOPPED)
    made.at(1.0)
    made.written()
    assert step(made, Drain.UNDRAINING) == [Dial(N2), Dial(N3)]
    made.establish(N2, KEPT)
    assert set(made.told(N2)) == {"10.244.1.0/26", ANYCAST, "EoR"}
    assert marked(made) == {"10.244.1.0/26": True, ANYCAST: True}
    made.announce(N2, "10.244.2.0/26")
    made.end_of_rib(N2)
    assert made.engine.peers.restart.reasons().keys() == {N3}
    made.at(4.1)
    assert at(made) is Drain.UNDRAINING, "the route is not written"
    made.written()
    assert at(made) is Drain.NONE
    made.told(N2)
    assert marked(made) == {"10.244.1.0/26": False, ANYCAST: False}
    assert made.engine.next_wakeup() < float("inf")


def test_peers_that_never_say_all_are_given_up_at_the_limit() -> None:
    """As after a restart: `restart_deferral`."""
    made = in_service()
    step(made, Drain.STOPPED)
    made.at(1.0)
    step(made, Drain.UNDRAINING)
    made.establish(N2, KEPT)
    made.at(4.0)  # N3 has ignored our calls for long enough
    made.at(10.9)
    assert at(made) is Drain.UNDRAINING
    made.at(11.0)
    made.written()
    assert at(made) is Drain.NONE
    assert [keys["peer"] for keys in made.told_of("drain.gave-up-waiting")] == ["n2"]


def test_a_drain_that_is_taken_back_leaves_nothing() -> None:
    """While the sessions stand there is nobody to wait for."""
    made = in_service()
    step(made, Drain.DRAINING)
    made.told(N2)
    assert marked(made) == {"10.244.1.0/26": True, ANYCAST: True}
    step(made, Drain.UNDRAINING)
    made.told(N2)
    assert at(made) is Drain.NONE
    assert marked(made) == {"10.244.1.0/26": False, ANYCAST: False}


def test_a_restart_of_a_stopped_node_calls_nobody_and_sweeps() -> None:
    """Although peers are listed: they know of it."""
    made = world(drained=Drain.STOPPED, listed=("n2",))
    assert made.boot(ADOPTED) == []
    assert made.engine.peers.is_in_sync
    assert ("10.244.2.0/26", None) in made.written()
    assert made.engine.peers.held == frozenset()
    assert made.engine.peers.paths.watched == ()


def test_a_node_that_stops_while_it_restarts_waits_for_nobody_any_longer() -> None:
    """Nobody is called who could still say anything."""
    made = world(listed=("n2",))
    made.boot(ADOPTED)
    step(made, Drain.STOPPED)
    made.at(0.9)
    assert not made.engine.peers.is_in_sync
    made.at(1.0)
    assert made.engine.peers.is_in_sync
    assert ("10.244.2.0/26", None) in made.written()


def test_a_restart_of_a_drained_node_says_so_from_the_first_update_on() -> None:
    """Only what is its own, as the last choice."""
    made = world(drained=Drain.DRAINED)
    made.boot({})
    made.establish(N2, KEPT)
    assert made.told(N2) == ["10.244.1.0/26", "EoR"]
    assert marked(made) == {"10.244.1.0/26": True}


def test_a_restart_on_the_way_back_goes_on() -> None:
    """It waits for who answers, and is in service then."""
    made = world(drained=Drain.UNDRAINING)
    assert made.boot({}) == [Dial(N2), Dial(N3)]
    made.establish(N2, KEPT)
    made.end_of_rib(N2)
    made.at(10.0)
    made.written()
    assert at(made) is Drain.NONE


@pytest.mark.parametrize("drained", list(Drain))
def test_each_step_is_said_in_words(drained: Drain) -> None:
    """`status` is not ready with that reason, but in service."""
    made = world(drained=drained)
    words = views.out_of_service(made.engine)
    assert (words == "") is (drained is Drain.NONE)
    assert ("drained" in words) is (drained in {Drain.DRAINED, Drain.STOPPED})


# ── the wait for traffic ─────────────────────────────────────────────────────


class Kernel:
    """Stands in for the counters: link 2 is the way to the peers, link 7 that of a workload."""

    def __init__(self, *rates: int, inside: int = 0, problem: str = "") -> None:
        self.rates, self.inside, self.problem = list(rates), inside, problem
        self.came = self.went = self.read = 0

    def __call__(self) -> dict[int, tuple[int, int]]:
        """Return them as they are a second later."""
        if self.problem:
            raise KernelError("traffic", 1, self.problem)
        self.came += self.rates.pop(0) if len(self.rates) > 1 else self.rates[0]
        self.went += self.inside
        self.read += 1
        return {1: (10**9, 10**9), 2: (self.came, 0), 7: (0, self.went)}


@dataclass
class Wire:
    """Stands in for the speaker: nothing comes."""

    connections: dict[int, object] = field(default_factory=dict)

    def unread(self) -> set[int]:
        """Return nobody."""
        return set()


@dataclass
class Running:
    """A drainer at work."""

    drainer: Drainer
    world: World

    async def ended(self, options: DrainOptions) -> list[Mapping[str, object]]:
        """Drain, and return all that was told, the outcome last."""
        following = self.drainer.begin(options).following
        told: list[Mapping[str, object]] = []
        while not told or told[-1]["state"] == "draining":
            told.append(cast("dict[str, object]", await anext(following)))
        await following.aclose()
        return told


def by_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have 10 ms pass each time that the clock is read: a sample takes as long, however busy the machine is."""
    moments = itertools.count(time.monotonic(), 0.01)
    monkeypatch.setattr(Pump, "now", lambda _: next(moments))


Scenario = Callable[[Running], Coroutine[object, object, None]]


def run(kernel: Kernel, scenario: Scenario, monkeypatch: pytest.MonkeyPatch, *, workload: bool = False) -> None:
    """Run a scenario on a node in service."""
    monkeypatch.setattr(drain, "SAMPLE_S", 0.002)
    monkeypatch.setattr(peers, "WITHDRAWN_S", 0.0)

    async def begun() -> None:
        made = in_service(asyncio.get_running_loop().time())
        if workload:
            made.engine.handle(LinkNamesRead({2: "eth0", 7: WEB.interface}), made.now)
            made.engine.handle(EndpointAdded(WEB), made.now)
            made.engine.local.links.observe(WEB.interface, link_of(WEB))
        made.announce(N2, "10.244.2.0/26")
        made.written()
        pump = Pump(made.engine, Wire, lambda: float("inf"))
        drainer = Drainer(made.engine, pump, kernel)
        driving = asyncio.ensure_future(drainer.run())
        try:
            async with asyncio.timeout(DEADLINE_S):
                await scenario(Running(drainer, made))
        finally:
            driving.cancel()
            pump.close()

    asyncio.run(begun())


def test_sessions_end_once_traffic_has_been_small_for_three_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """One quiet sample between busy ones counts for nothing."""

    async def scenario(running: Running) -> None:
        told = await running.ended(DrainOptions(limit=DEADLINE_S, below=1000.0))
        assert told[-1] == {"state": "stopped", "reason": "below 1000 B/s for 3 s", "workloads": 0}
        assert running.world.engine.peers.is_closed
        words = "drained (below 1000 B/s for 3 s); nothing is announced, all sessions are closed"
        assert tables.drained(told[-1]) == words

    kernel = Kernel(MANY, MANY, 0, MANY, 0, 0, MANY, 0, 0, 0)
    run(kernel, scenario, monkeypatch)
    assert kernel.read == 10


def test_the_limit_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is left named."""

    async def scenario(running: Running) -> None:
        told = await running.ended(DrainOptions(limit=0.2, below=1000.0))
        reason = str(told[-1]["reason"])
        assert (reason.startswith("0.2 s are over, and there are "), reason.endswith(" B/s still")) == (True, True)

    by_the_sample(monkeypatch)
    run(Kernel(MANY), scenario, monkeypatch)


def test_counters_that_cannot_be_read_leave_it_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are told of."""

    async def scenario(running: Running) -> None:
        told = await running.ended(DrainOptions(limit=0.05))
        assert told[-1]["reason"] == "0.05 s are over, and traffic is not known"
        for each in told[:-1]:
            assert "unknown: not permitted" in tables.draining(each)

    run(Kernel(0, problem="not permitted"), scenario, monkeypatch)


def test_a_node_with_workloads_keeps_their_addresses_and_does_not_wait_for_their_traffic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is drained, its sessions stand; asked again it says so, and with `stop` they end."""

    async def scenario(running: Running) -> None:
        told = await running.ended(DrainOptions(limit=DEADLINE_S, below=1000.0))
        assert (told[-1]["state"], told[-1]["workloads"]) == ("drained", 1)
        assert "the addresses of 1 workloads stay announced" in tables.drained(told[-1])
        engine = running.world.engine
        assert engine.peers.sessions[N2].state is State.ESTABLISHED
        assert (await running.ended(DrainOptions()))[-1]["reason"] == "it was out of service before"
        monkeypatch.setattr(peers, "WITHDRAWN_S", 0.05)
        assert (await running.ended(DrainOptions(stop=True)))[-1]["state"] == "stopped"
        assert engine.peers.is_closed, "it is told once it is so: the host may be turned off then"

    run(Kernel(MANY, inside=MANY), scenario, monkeypatch, workload=True)


def test_who_stops_waits_for_the_traffic_of_workloads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are cut off."""

    async def scenario(running: Running) -> None:
        told = await running.ended(DrainOptions(limit=0.2, below=1000.0, stop=True))
        assert told[-1]["state"] == "stopped"
        assert "B/s still" in str(told[-1]["reason"])

    by_the_sample(monkeypatch)
    run(Kernel(MANY, inside=MANY), scenario, monkeypatch, workload=True)


def test_undrain_takes_a_drain_back_and_whoever_waits_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node is in service at once: its sessions stand."""

    async def scenario(running: Running) -> None:
        waiting = asyncio.ensure_future(running.ended(DrainOptions(limit=DEADLINE_S, below=0.0)))
        await asyncio.sleep(0)
        back = await running.drainer.end()
        assert back == {"state": "none", "waiting_for": {}}
        assert (await waiting)[-1] == {"state": "none", "reason": "taken back"}

    run(Kernel(MANY), scenario, monkeypatch)


def test_a_drain_goes_on_where_nobody_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command was interrupted; another one that is given meanwhile follows the same drain, on its own terms."""

    async def scenario(running: Running) -> None:
        await running.drainer.begin(DrainOptions(limit=DEADLINE_S, below=0.0)).following.aclose()
        await asyncio.sleep(0.01)
        assert at(running.world) is Drain.DRAINING
        assert (await running.ended(DrainOptions(limit=0.0)))[-1]["state"] == "stopped"

    run(Kernel(MANY), scenario, monkeypatch)


def test_a_drain_that_the_end_of_the_daemon_broke_off_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was asked for at its end."""

    async def scenario(running: Running) -> None:
        engine, pump = running.world.engine, running.drainer._pump  # of the life before
        engine.handle(DrainChanged(Drain.DRAINING, is_to_stop=True, text="racks"), pump.now())
        another = asyncio.ensure_future(Drainer(engine, pump, Kernel(0)).run())
        assert await pump.until(lambda: engine.peers.is_closed, DEADLINE_S)
        assert engine.peers.drain.text == "racks"
        another.cancel()

    run(Kernel(MANY), scenario, monkeypatch, workload=True)


@pytest.mark.parametrize(("elapsed_s", "waited_s"), [(600.0, 600.0), (-600.0, 0.0)])
def test_a_drain_that_is_taken_up_goes_on_with_what_is_left_of_its_limit(
    monkeypatch: pytest.MonkeyPatch, elapsed_s: float, waited_s: float
) -> None:
    """And with its rate; where the host was booted since, so that its clock began anew, with all of it."""
    limit_s = 1000.0

    async def scenario(running: Running) -> None:
        engine, pump = running.world.engine, running.drainer._pump  # of the life before
        begun_at = pump.now() - elapsed_s
        engine.handle(DrainChanged(Drain.DRAINING, limit=limit_s, below=0.5, begun_at=begun_at), pump.now())
        another, follower = Drainer(engine, pump, Kernel(MANY)), Follower(lambda _: None)
        another._followers.add(follower)
        driving = asyncio.ensure_future(another.run())
        told = await anext(follower)
        assert (told["limit_s"], told["below"]) == (limit_s, 0.5)
        assert waited_s <= cast("float", told["waited_s"]) < waited_s + DEADLINE_S
        driving.cancel()

    run(Kernel(MANY), scenario, monkeypatch)


@pytest.mark.parametrize("is_back", [True, False])
def test_a_drain_that_is_taken_up_waits_until_peers_are_back(monkeypatch: pytest.MonkeyPatch, is_back: bool) -> None:
    """Who is not would keep what this node announced, and send here, where nothing is forwarded; but not for ever."""

    async def scenario(running: Running) -> None:
        restart = running.world.engine.peers.restart
        restart.is_in_sync = False
        following = running.drainer.begin(DrainOptions(limit=0.0)).following
        for _ in range(5):
            assert cast("dict[str, object]", await anext(following))["state"] == "draining"
        if is_back:
            restart.is_in_sync = True
        else:
            monkeypatch.setattr(drain, "SETTLE_S", 0.01)
        while cast("dict[str, object]", await anext(following))["state"] == "draining":
            pass
        assert running.world.engine.peers.drain.drain is Drain.STOPPED

    run(Kernel(0), scenario, monkeypatch)


# ── what is asked for ────────────────────────────────────────────────────────

REFLECTORS = """
[cluster]
asn = 64512
topology = "reflectors"
[node.n1]
address = "192.0.2.1"
reflector = true
[node.n2]
address = "192.0.2.2"
"""


@dataclass
class Asked:
    """Stands in for the drainer: what it is told."""

    options: list[DrainOptions] = field(default_factory=list)

    def begin(self, options: DrainOptions) -> str:
        """Remember."""
        self.options.append(options)
        return "begun"

    async def end(self) -> str:
        """Do nothing."""
        return "in service"


@dataclass
class InForce:
    """Stands in for the revisions."""

    config: Config


def asked(configuration: str, **args: object) -> list[DrainOptions]:
    """Return what a request comes to on n1 of a configuration."""
    drainer = Asked()
    operations = Operations(
        world().engine,
        cast("Pump", None),
        cast("Revisions", InForce(config.parse(configuration, "f.toml"))),
        keeper=cast("Keeper", None),
        drops=cast("Drops", None),
        links=cast("LinksEdge", None),
        drainer=cast("Drainer", drainer),
    )
    asyncio.run(cast("Coroutine[object, object, None]", operations.verbs["drain"](Request("drain", args))))
    return drainer.options


def test_a_request_without_arguments_has_the_usual_ones() -> None:
    """They are what the command shows too."""
    assert asked(REFLECTORS.replace("reflector = true", "")) == [
        DrainOptions(60.0, 10_000.0, stop=False, text="drained")
    ]
    assert asked(REFLECTORS, limit=5, below=0.5, stop=True, text="x") == [DrainOptions(5.0, 0.5, stop=True, text="x")]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({}, "the only reflector"),
        ({"stop": 1}, "not true or false"),
        ({"stop": True, "limit": -1}, "not a number of 0 or more"),
        ({"stop": True, "below": True}, "not a number of 0 or more"),
        ({"stop": True, "text": "é" * 128}, "more than 255 octets"),
    ],
)
def test_what_cannot_be_is_refused_by_name(args: dict[str, object], reason: str) -> None:
    """And nothing begins."""
    with pytest.raises(ConfigError, match=reason):
        asked(REFLECTORS, **args)


def test_a_reflector_leaves_where_there_is_another() -> None:
    """Its clients have their routes from that one."""
    another = '[node.n3]\naddress = "192.0.2.3"\nreflector = true\n'
    assert asked(REFLECTORS + another) == [DrainOptions()]
