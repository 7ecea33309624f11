"""What programs announce: from what they say to what peers hear and commands show."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bgpmesh import config
from bgpmesh.control import tables
from bgpmesh.engine import Engine
from bgpmesh.events import (
    EndpointAdded,
    EndpointRemoved,
    FloatingIpsKept,
    LinkWritten,
    ProcessEnded,
    ProcessSpoke,
    RoutesReceived,
)
from bgpmesh.metrics import Metrics
from bgpmesh.restart import UNKNOWN, LastLife
from bgpmesh.rib.export import Batch
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.nlri import Family, Nlri, host_nlri, parse_nlri, prefix_text
from bgpmesh.route.path import PeerName, Target
from bgpmesh.workload.endpoint import Endpoint, interface_name
from bgpmesh.workload.floating import FloatingIp
from tests.unit.control.test_views import asked
from tests.unit.test_engine import ADOPTED, KEPT, N2, World, configured, peer

if TYPE_CHECKING:
    from tests.unit.conftest import Running

ANYCAST = parse_nlri("203.0.113.10/32")
WEB = "10.244.1.5/32"
FILE = """
[cluster]
asn = 64512
[pool.default]
cidr = "10.244.0.0/16"
[node.n1]
address = "192.0.2.1"
pod_cidrs = ["10.244.1.0/26", "fd00:10:244:1::/112"]
advertise = ["203.0.113.7/32"]
[node.n2]
address = "192.0.2.2"
pod_cidrs = ["10.244.2.0/26"]
[pool.six]
cidr = "fd00:10:244::/48"
[peer.tor]
address = "192.0.2.254"
asn = 65001
[floating_ip."203.0.113.99"]
workload = "shop/web"
"""


def speak(engine: Engine, process: str, attributes: PathAttributes | None, *prefixes: str) -> None:
    """Have a program say something, and the engine come to rest."""
    engine.handle(ProcessSpoke(process, attributes, [parse_nlri(prefix) for prefix in prefixes]), 50.0)
    while engine.work(1000, 50.0):
        pass


def hears(engine: Engine, name: str = "n2") -> dict[str, PathAttributes | None]:
    """Return what a peer hears by now, the latest of each prefix."""
    heard: dict[str, PathAttributes | None] = {}
    while batches := engine.take(PeerName(name), 1000):
        for batch in batches:
            if isinstance(batch, Batch):
                heard |= {prefix_text(nlri): batch.attributes for nlri in batch.nlris}
    return heard


def test_peers_hear_what_a_program_announces_and_its_end(running: Running) -> None:
    """With its attributes and our next hop; what it says again is nothing new; its end withdraws all."""
    engine = running.engine
    hears(engine)
    said = PathAttributes(med=100, local_pref=200, communities=(1,))
    speak(engine, "p", said, "203.0.113.10/32", "203.0.113.11/32")
    heard = hears(engine)["203.0.113.10/32"]
    assert heard is not None
    assert (heard.med, heard.local_pref, heard.communities, str(heard.next_hop)) == (100, 200, (1,), "192.0.2.1")
    speak(engine, "p", replace(said), "203.0.113.10/32")
    assert hears(engine) == {}
    speak(engine, "p", replace(said, med=1000), "203.0.113.10/32")
    heard = hears(engine)["203.0.113.10/32"]
    assert heard is not None
    assert heard.med == 1000
    speak(engine, "p", None, "203.0.113.11/32")
    assert hears(engine) == {"203.0.113.11/32": None}
    engine.handle(ProcessEnded("p"), 51.0)
    engine.work(1000, 51.0)
    assert hears(engine) == {"203.0.113.10/32": None}


def test_what_is_said_around_a_workload_takes_its_address_nowhere() -> None:
    """Of it only the nodes of the cluster hear, also where two prefixes that a program announces begin with it."""
    address = ipaddress.ip_address("10.244.1.4")
    web = Endpoint("web", "shop", (("app", "web"),), (address,), interface_name("bgpm", "shop/web"), "/run/netns/web")
    world = World(Engine(configured(has_identity=True), None, lambda: 0.5))
    world.boot({})
    world.engine.handle(EndpointAdded(web), world.now)
    world.engine.local.guard(is_whole=True, missing="")
    assert [interface for interface, _ in world.links()] == [web.interface]
    world.engine.handle(LinkWritten(web.interface, None), world.now)
    world.written()
    before = world.engine.local.routes[host_nlri(address)]
    assert before.is_for_cluster
    speak(world.engine, "p", PathAttributes(), "10.244.1.4/31", "10.244.1.4/30")
    assert world.engine.local.routes[host_nlri(address)] == before


def test_a_next_hop_that_it_names_is_kept_within_the_as(running: Running) -> None:
    """As BGP keeps any within an AS."""
    speak(running.engine, "p", PathAttributes(next_hop=ipaddress.ip_address("192.0.2.77")), "203.0.113.10/32")
    heard = hears(running.engine)["203.0.113.10/32"]
    assert heard is not None
    assert str(heard.next_hop) == "192.0.2.77"


def test_of_two_that_say_the_same_prefix_the_first_by_name_is_heard(running: Running) -> None:
    """Whoever spoke first; when it ends the other one is."""
    engine = running.engine
    for order in (("a", "b"), ("b", "a")):
        for name in order:
            speak(engine, name, PathAttributes(med=ord(name)), "203.0.113.10/32")
        heard = hears(engine)["203.0.113.10/32"]
        assert heard is not None
        assert (heard.med, engine.local.process_of(ANYCAST)) == (ord("a"), "a")
        engine.handle(ProcessEnded("a"), 51.0)
        engine.work(1000, 51.0)
        heard = hears(engine)["203.0.113.10/32"]
        assert heard is not None
        assert (heard.med, engine.local.process_of(ANYCAST)) == (ord("b"), "b")
        engine.handle(ProcessEnded("b"), 51.0)
        engine.work(1000, 51.0)
        hears(engine)


def test_a_workload_goes_before_a_program(running: Running) -> None:
    """Its address is announced by nobody else; once it is gone the program's word counts."""
    engine = running.engine
    speak(engine, "p", PathAttributes(med=5), WEB)
    assert engine.local.process_of(parse_nlri(WEB)) is None
    assert engine.local.why_not_announced(parse_nlri(WEB)) == "the address of workload default/web"
    assert engine.local.routes[parse_nlri(WEB)].target is not None
    engine.handle(EndpointRemoved("default/web"), 51.0)
    engine.work(1000, 51.0)
    assert engine.local.process_of(parse_nlri(WEB)) == "p"


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("0.0.0.0/0", "the default route: it would draw all that leaves the cluster"),
        ("::/0", "the default route: it would draw all that leaves the cluster"),
        ("224.0.0.5/32", "not of unicast addresses that others could reach"),
        ("127.0.0.1/32", "not of unicast addresses that others could reach"),
        ("fe80::1/128", "not of unicast addresses that others could reach"),
        ("10.244.1.0/26", "node n1 announces it by its configuration"),
        ("203.0.113.7/32", "node n1 announces it by its configuration"),
        ("192.0.2.1/32", "the address of node n1"),
        ("192.0.2.2/32", "the address of node n2"),
        ("192.0.2.254/32", "the address of peer tor"),
        ("203.0.113.99/32", "floating address of shop/web"),
        ("10.244.2.5/32", "in 10.244.0.0/16, which is for pods, and in no pod CIDR of node n1"),
        ("10.244.0.0/16", "in 10.244.0.0/16, which is for pods, and in no pod CIDR of node n1"),
        ("fd00:10:244:2::/64", "in fd00:10:244::/48, which is for pods, and in no pod CIDR of node n1"),
        ("10.244.1.9/32", ""),
        ("10.0.0.0/8", ""),
        ("203.0.113.10/32", ""),
        ("2001:db8:f::/64", ""),
    ],
)
def test_what_may_not_be_announced(running: Running, prefix: str, reason: str) -> None:
    """What is another's, or everything; and said all the same it is not announced, until a reload lets it."""
    engine, nlri = running.engine, parse_nlri(prefix)
    engine.handle(config.effective(config.parse(FILE, "f.toml"), "n1"), 40.0)
    assert engine.local.why_not_announced(nlri) == reason
    speak(engine, "p", PathAttributes(), prefix)
    assert (engine.local.process_of(nlri) is None) == bool(reason)


def test_a_reload_decides_anew_what_may_be_announced(running: Running) -> None:
    """What was said counts from the reload on that allows it."""
    engine, nlri = running.engine, parse_nlri("10.244.2.5/32")
    speak(engine, "p", PathAttributes(), "10.244.2.5/32")
    assert engine.local.process_of(nlri) is None
    engine.handle(
        config.effective(
            config.parse(
                FILE.replace("10.244.0.0/16", "10.244.1.0/24").replace("10.244.2.0/26", "10.244.1.64/26"), "f.toml"
            ),
            "n1",
        ),
        60.0,
    )
    assert engine.local.process_of(nlri) == "p"
    engine.handle(config.effective(config.parse(FILE, "f.toml"), "n1"), 61.0)
    assert engine.local.process_of(nlri) is None


def test_commands_and_metrics_name_the_program(running: Running) -> None:
    """In `routes`, `trace` and `status`, with the prefixes that it may not announce."""
    running.helpers.up = {"p": True, "q": False}
    speak(running.engine, "p", PathAttributes(), "203.0.113.10/32", "10.244.2.9/32")
    found = asked(running, "routes", {"prefix": "203.0.113.10"})
    assert isinstance(found, list)
    assert [path["process"] for path in found[0]["paths"]] == ["p"]
    traced = asked(running, "trace", {"prefix": "203.0.113.10"})
    assert isinstance(traced, dict)
    assert traced["stations"][0]["details"] == ["process p has this node announce it"]
    status = asked(running, "status", {})
    assert isinstance(status, dict)
    reason = "in 10.244.0.0/16, which is for pods, and in no pod CIDR of node n1"
    assert [(each["name"], each["routes"], each["refused"]) for each in status["processes"]] == [
        ("p", 1, [{"prefix": "10.244.2.9/32", "reason": reason}]),
        ("q", 0, []),
    ]
    assert tables.status(status).endswith(
        "PROCESS  STATE    PID  RESTARTS  ROUTES  LAST ERROR\n"
        "p        running    7         2       1  exit code 1\n"
        "q        waiting              2       0  exit code 1\n"
        f"  - p: 10.244.2.9/32 is not announced: {reason}"
    )
    page = Metrics(running, per_peer=True).render().decode()
    assert 'bgpmesh_process_up{process="p"} 1.0' in page
    assert 'bgpmesh_process_up{process="q"} 0.0' in page
    assert 'bgpmesh_process_routes{process="p"} 1.0' in page


def with_programs(
    *names: str,
    listed: tuple[PeerName, ...] | None,
    last: LastLife = UNKNOWN,
    routes: Mapping[Nlri, Target] = ADOPTED,
    is_kernel: bool = True,
) -> World:
    """Return a node with programs at its start."""
    own = () if not routes else configured().pod_cidrs
    made = configured(peer(2), kernel_enabled=is_kernel, processes=names, pod_cidrs=own)
    world = World(Engine(made, listed, lambda: 0.5, last=last))
    world.boot(routes)
    return world


def speak_of(world: World, program: str, *prefixes: str, is_withdrawal: bool = False) -> None:
    """Have a program announce prefixes, or withdraw them."""
    attributes = None if is_withdrawal else PathAttributes()
    world.engine.handle(ProcessSpoke(program, attributes, list(map(parse_nlri, prefixes))), world.now)
    world.settle()


def test_after_a_restart_the_end_of_rib_waits_until_each_program_has_spoken_or_ended() -> None:
    """What peers hold of the earlier life as stale is told again before."""
    world = with_programs("p", "q", listed=(N2,))
    world.establish(N2, KEPT)
    world.end_of_rib(N2)
    assert world.engine.peers.restart.reasons() == {
        "process p": "it has said nothing yet",
        "process q": "it has said nothing yet",
    }
    world.engine.handle(ProcessEnded("q"), world.now)
    world.settle()
    assert not world.engine.peers.is_in_sync
    world.engine.handle(ProcessSpoke("p", PathAttributes(), [ANYCAST]), world.now)
    world.settle()
    assert world.engine.peers.is_in_sync
    assert world.told(N2) == ["10.244.1.0/26", "203.0.113.10/32", "EoR"]


def test_a_program_that_says_nothing_is_waited_for_no_longer_than_peers_are() -> None:
    """The limit is the same."""
    world = with_programs("p", listed=(N2,))
    world.establish(N2, KEPT)
    world.end_of_rib(N2)
    world.at(9.0)
    assert not world.engine.peers.is_in_sync
    world.at(10.0)
    assert world.engine.peers.is_in_sync


ONE, TWO = "203.0.113.10/32", "203.0.113.20/32"


def test_a_program_is_waited_for_until_it_has_said_again_as_much_as_it_had_announced() -> None:
    """One prefix of two would have peers drop the other; a withdrawal is a word too, and who had none owes none."""
    world = with_programs("p", "q", "silent", listed=(N2,), last=LastLife(announced={"p": 2, "q": 1, "gone": 4}))
    world.establish(N2, KEPT)
    world.end_of_rib(N2)
    speak_of(world, "p", ONE, ONE)
    assert world.engine.peers.restart.reasons() == {
        "process p": "1 of 2 prefixes are not said again yet",
        "process q": "it has said nothing yet",
    }
    speak_of(world, "q", TWO, is_withdrawal=True)
    assert world.engine.peers.restart.reasons().keys() == {"process p"}
    speak_of(world, "p", TWO)
    assert world.engine.peers.is_in_sync
    assert world.told(N2) == ["10.244.1.0/26", ONE, TWO, "EoR"]


RESTARTS = {
    # what is listed, what is known of the last life, the kernel's routes, whether there is a kernel
    "had learnt nothing": ((N2,), LastLife(is_bare=True, announced={"p": 1}), {}, True),
    "its peer had gone": ((), LastLife(is_bare=True, announced={"p": 1}), {}, True),
    "its peer had gone, with routes": ((), LastLife(announced={"p": 1}), ADOPTED, True),
    "no kernel": ((), LastLife(announced={"p": 1}), {}, False),
    "no list": (None, LastLife(is_bare=True, announced={"p": 1}), {}, True),
}


@pytest.mark.parametrize(("listed", "last", "routes", "is_kernel"), RESTARTS.values(), ids=RESTARTS)
def test_a_node_whose_program_had_announced_restarts(
    listed: tuple[PeerName, ...] | None, last: LastLife, routes: Mapping[Nlri, Target], *, is_kernel: bool
) -> None:
    """R and F are set, so that peers keep what they have, and End-of-RIB waits."""
    world = with_programs("p", listed=listed, last=last, routes=routes, is_kernel=is_kernel)
    restart = world.establish(N2, KEPT).capabilities.graceful_restart
    assert restart is not None
    assert (restart.is_restarting, restart.families) == (True, ((Family.IPV4, True),))
    world.end_of_rib(N2)
    assert "EoR" not in world.told(N2)
    speak_of(world, "p", ONE)
    assert world.engine.peers.restart.reasons() == {}
    assert world.told(N2) == [ONE, "EoR"]


@pytest.mark.parametrize(
    "last", [UNKNOWN, LastLife(announced={"p": 1}), LastLife(is_bare=True, announced={"q": 1}), LastLife(is_bare=True)]
)
def test_without_routes_it_is_a_first_boot_unless_there_were_none(last: LastLife) -> None:
    """The host was booted, or nobody had announced anything: nothing is claimed, and nobody is waited for."""
    world = with_programs("p", listed=(), last=last, routes={})
    assert world.engine.peers.is_in_sync
    restart = world.establish(N2, KEPT).capabilities.graceful_restart
    assert restart is not None
    assert (restart.is_restarting, restart.families) == (False, ((Family.IPV4, False),))


def test_what_the_next_life_is_to_know_of_this_one() -> None:
    """Nothing before the kernel is known; what is still waited for counts as announced, until it is given up."""
    last = LastLife(is_bare=True, announced={"p": 2})
    made = Engine(replace(configured(), processes=("p", "q"), pod_cidrs=()), (N2,), lambda: 0.5, last=last)
    assert made.life is None
    world = World(made)
    world.boot({})
    assert made.life == last
    speak_of(world, "q", ONE)
    assert made.life == LastLife(is_bare=True, announced={"p": 2, "q": 1})
    world.at(10.0)
    assert made.life == LastLife(is_bare=True, announced={"q": 1})
    speak_of(world, "q", ONE, is_withdrawal=True)
    assert made.life == LastLife(is_bare=True, announced={})


def test_a_life_is_bare_while_its_first_route_is_written_and_its_last_deleted() -> None:
    """A kill just then leaves a kernel with the route, which tells of a restart by itself, or one without."""
    made = Engine(replace(configured(), pod_cidrs=()), (), lambda: 0.5)
    world = World(made)
    world.boot({})
    world.establish(N2, KEPT)
    world.announce(N2, "10.244.2.0/26")
    assert made.life == LastLife(is_bare=True, announced={})
    assert world.written()
    assert made.life == LastLife(is_bare=False, announced={})
    gone = RoutesReceived(world.of[N2], None, (), [parse_nlri("10.244.2.0/26")], world.now)
    world.engine.handle(gone, world.now)
    world.settle()
    assert made.life == LastLife(is_bare=True, announced={})


def test_a_first_boot_waits_for_no_program() -> None:
    """Nobody holds anything of an earlier life."""
    world = World(Engine(replace(configured(), processes=("p",)), None, lambda: 0.5))
    world.boot({})
    assert world.engine.peers.is_in_sync


def test_a_floating_address_goes_before_a_program(running: Running) -> None:
    """From the moment that a command says so."""
    engine = running.engine
    speak(engine, "p", PathAttributes(), "203.0.113.10/32")
    assert ANYCAST in engine.local.routes
    engine.handle(FloatingIpsKept((FloatingIp(ipaddress.ip_address("203.0.113.10"), "shop/web"),)), 52.0)
    assert engine.local.process_of(ANYCAST) is None
    assert ANYCAST not in engine.local.routes
    engine.handle(FloatingIpsKept(()), 53.0)
    assert engine.local.process_of(ANYCAST) == "p"
    assert ANYCAST in engine.local.routes
