"""BFD's own process on real sockets: two agents on a switch, and daemons that come and go."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM, SIGXCPU

import pytest

from bgpmesh.peering.bfd import Diag, Packet, Report, State, Watched, encode
from containerlab.lab import Lab
from tests.lab.agents import (
    ADDRESSES,
    COMMAND,
    SOCKET,
    Agent,
    agents,
    hear_again,
    scheduler,
    silence,
    start,
    watched,
)

BOTH = ("ipv4", "ipv6")
DETECTION_S = 0.3
# Excuses of an agent that was late itself are as long again. On a machine that may be busy nobody says how late it is.
MOST_S = 2 * DETECTION_S if os.environ.get("BGPMESH_SOAK") else 30.0

# Sends datagrams: local and remote address, TTL, seconds between them, how many, the port, the octets.
SENDER = """
import socket, sys, time
local, remote, ttl, pause, count, port, data = sys.argv[1:]
family = socket.AF_INET6 if ":" in local else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
if family == socket.AF_INET6:
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, int(ttl))
else:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(ttl))
sock.bind((local, 0))
for _ in range(int(count)):
    sock.sendto(bytes.fromhex(data), (remote, int(port)))
    time.sleep(float(pause)) if float(pause) else None
"""

HOLDER = """
import signal, socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("192.0.2.1", 3784))
print("bound", flush=True)
signal.pause()
"""


# Has the kernel take in messages on one core, all that one call may hold: it prints for how many seconds that was.
KEEPER = """
import os, socket, struct, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
sock.setsockopt(socket.SOL_SOCKET, 32, 1 << 29)  # SO_SNDBUFFORCE
count, kept = 1 << 19, 0
while kept < float(sys.argv[2]) and count < 1 << 24:
    count *= 2
    messages = struct.pack("=IHHIII", 20, 0xFFFF, 1, 0, 0, 0) * count  # of no type that there is
    begun = time.monotonic()
    sock.send(messages)
    kept = time.monotonic() - begun
print(kept)
"""


def both_up(one: Agent, other: Agent, hops: int = 1, stay_s: float = 60.0, interval_ms: int = 100) -> None:
    """Have both sessions up at both ends."""
    one.want(watched("n1", hops, interval_ms), stay_s)
    other.want(watched("n2", hops, interval_ms), stay_s)
    for agent in (one, other):
        agent.await_states(State.UP, *BOTH)
        agent.until(partial(is_fast, agent, interval_ms), "the rate that both want")


def is_fast(agent: Agent, interval_ms: int) -> bool:
    """Tell whether both sessions have come to the rate that is wanted."""
    return all(report.detection_ms == 3 * interval_ms for report in last(agent, interval_ms))


def last(agent: Agent, interval_ms: int = 100) -> list[Report]:
    """Return the newest report of each session, asked for anew."""
    agent.want(watched(agent.process.node, 1, interval_ms), 60.0)
    found = [agent.latest(name) for name in BOTH]
    return [report for report in found if report is not None]


@pytest.mark.parametrize(("hops", "is_single_hop"), [(1, True), (0, True), (2, False), (255, False)])
def test_two_agents_come_up(hops: int, is_single_hop: bool) -> None:
    """IPv4 and IPv6, single hop, multihop and not said which; each session has a source port of its own, in range."""
    with agents() as (lab, one, other):
        one.want(watched("n1", hops))
        other.want(watched("n2", hops))
        for agent in (one, other):
            agent.await_states(State.UP, *BOTH)
            reports = [agent.latest(name) for name in BOTH]
            assert [(is_single_hop, True)] * 2 == [
                (r.is_single_hop, r.is_independent) for r in reports if r is not None
            ]
            assert [] == agent.failures()
        sockets = lab.exec("n1", ["ss", "-Huan"]).stdout.split("\n")
        ports = [int(line.split()[3].rpartition(":")[2]) for line in sockets if line]
        sources = [port for port in ports if port not in {3784, 4784}]
        assert len({*sources}) == len(sources) == 2
        assert all(49152 <= port <= 65535 for port in sources)
        listening = {3784} if hops == 1 else {4784} if hops else {3784, 4784}
        assert listening == {*ports} - {*sources}


def test_two_agents_come_up_between_link_local_addresses() -> None:
    """The link is part of the address, and of what tells one session from another."""
    with agents() as (lab, one, other):
        for agent, node in ((one, "n1"), (other, "n2")):
            own, far = ("1", "2") if node == "n1" else ("2", "1")
            lab.exec(node, ["ip", "address", "add", f"fe80::{own}/64", "dev", "eth1", "nodad"])
            agent.want((Watched("link", f"fe80::{own}%eth1", f"fe80:0::{far}%eth1", 1, 100, 3),))
        for agent in (one, other):
            agent.await_states(State.UP, "link")


def test_a_link_that_is_made_anew_is_another_one() -> None:
    """Its name and its addresses are the same, as after a change of bonds or VLANs: the sockets go over to it."""

    def make(lab: Lab) -> None:
        options = ["address", "02:00:00:00:00:77", "type", "macvlan", "mode", "bridge"]
        lab.exec("n1", ["ip", "link", "add", "link", "eth1", "name", "over1", *options])
        lab.exec("n1", ["ip", "link", "set", "over1", "up"])
        lab.exec("n1", ["ip", "address", "add", "fe80::1/64", "dev", "over1", "nodad"])

    with agents() as (lab, one, other):
        make(lab)
        lab.exec("n2", ["ip", "address", "add", "fe80::2/64", "dev", "eth1", "nodad"])
        one.want((Watched("link", "fe80::1%over1", "fe80::2%over1", 1, 100, 3),))
        other.want((Watched("link", "fe80::2%eth1", "fe80::1%eth1", 1, 100, 3),))
        for agent in (one, other):
            agent.await_states(State.UP, "link")
        lab.exec("n1", ["ip", "link", "del", "over1"])
        for agent in (one, other):
            agent.await_states(State.DOWN, "link")
        make(lab)
        for agent in (one, other):
            agent.await_states(State.UP, "link")


def test_a_path_that_is_silent_is_down_within_the_detection_time() -> None:
    """Both ends know within multiplier times interval and say why; both come up again when it is heard.

    `make soak` asks for that time, on a machine that has nothing else to do.
    """
    with agents() as (lab, one, other):
        both_up(one, other)
        silent_at = silence(lab, "n2")
        for agent in (one, other):
            agent.await_states(State.DOWN, *BOTH)
            assert {(name, Diag.EXPIRED) for name in BOTH} == set(agent.failures())
            for name in BOTH:
                report = agent.latest(name)
                assert report is not None
                assert report.at - silent_at < MOST_S
        hear_again(lab, "n2")
        for agent in (one, other):
            agent.await_states(State.UP, *BOTH)


def test_a_machine_that_stands_still_for_a_moment_is_no_silence() -> None:
    """Both ends stop for three detection times, as a paused virtual machine does, and go on as if nothing had been."""
    with agents() as (_, one, other):
        both_up(one, other, interval_ms=400)  # for on a busy machine the one may come round well after the other
        for pid in (one.process.pid, other.process.pid):
            os.kill(pid, SIGSTOP)
        time.sleep(4)
        for pid in (one.process.pid, other.process.pid, one.process.entry.pid, other.process.entry.pid):
            os.kill(pid, SIGCONT)  # the entries stop along with what they have started
        time.sleep(4)
        assert ([], []) == (one.failures(), other.failures())


def test_a_core_that_the_kernel_keeps_takes_no_session_down() -> None:
    """Neither agent runs again on the core where it ran last, for longer than detection times, and another is free.

    Where the kernel is built to be preempted (PREEMPT_FULL, _LAZY) it keeps none, and nothing is asked of the agents.
    """
    interval_ms, kept_s = 200, 0.9
    with agents() as (lab, one, other):
        both_up(one, other, interval_ms=interval_ms)
        if scheduler(one.process.pid) == os.SCHED_OTHER or len(os.sched_getaffinity(0)) < 2:
            pytest.skip("this host lets nobody be scheduled before others, or has one core only")
        for core in {core_of(agent.process.pid) for agent in (one, other)}:
            words = [sys.executable, "-ISE", "-c", KEEPER, str(core), str(kept_s)]
            assert float(lab.exec("n3", words).stdout) >= kept_s
        for agent in (one, other):
            assert {State.UP} == {report.state for report in last(agent, interval_ms)}
        assert ([], []) == (one.failures(), other.failures())


def core_of(pid: int) -> int:
    """Return the core that a process runs on, or ran on last (proc_pid_stat(5), field 39)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[36])


def test_an_agent_that_dies_is_noticed_and_its_next_life_is_welcome() -> None:
    """Killed with -9 it is down within the detection time; the next one has other discriminators and comes up."""
    with agents() as (lab, one, other):
        both_up(one, other)
        one.process.kill()
        other.await_states(State.DOWN, *BOTH)
        assert {Diag.EXPIRED} == {diag for _, diag in other.failures()}
        again = start(lab, "n1")  # over the socket's file that the first has left
        again.want(watched("n1"))
        for agent in (again, other):
            agent.await_states(State.UP, *BOTH)


# ── what is not taken ────────────────────────────────────────────────────────


def send(
    lab: Lab, node: str, data: bytes, *, ttl: int = 255, family: int = 0, count: int = 3, pause_s: float = 0.05
) -> None:
    """Send datagrams from a node to the other one's BFD."""
    (other,) = ADDRESSES.keys() - {node}
    words = [ADDRESSES[node][family], ADDRESSES[other][family], ttl, pause_s, count, 3784, data.hex()]
    lab.exec(node, [sys.executable, "-ISE", "-c", SENDER, *map(str, words)])


LIAR = Packet(State.DOWN, 0, 3, 4711, 0, 1_000_000, 1_000_000)  # a peer that has just begun


@pytest.mark.parametrize("family", [0, 1], ids=BOTH)
def test_what_may_come_from_further_away_is_discarded(family: int) -> None:
    """A packet that would take the session down does so with TTL 255 only, which no router lets through."""
    with agents() as (lab, one, other):
        both_up(one, other)
        for ttl in (254, 64, 1):
            send(lab, "n2", encode(LIAR), ttl=ttl, family=family)
        one.until(lambda: one.discarded.get("from too far away") == 9, "all of them to be counted")
        assert ([], {State.UP}) == (one.failures(), set(one.states().values()))
        send(lab, "n2", encode(LIAR), family=family, count=1)
        one.until(lambda: one.failures() == [(BOTH[family], Diag.NEIGHBOUR_DOWN)], "its end")
        for agent in (one, other):
            agent.await_states(State.UP, *BOTH)


def test_two_hops_away() -> None:
    """Behind a router a session is multihop; where that is not said it finds out; as a single hop it stays down."""
    loopbacks = {"n1": "198.51.100.1", "n2": "198.51.100.2"}
    with agents() as (lab, one, other):
        for node, via in (("n1", "n2"), ("n2", "n1")):
            lab.exec(node, ["ip", "address", "add", f"{loopbacks[node]}/32", "dev", "lo"])
            lab.exec(node, ["ip", "route", "add", f"{loopbacks[via]}/32", "via", "192.0.2.3", "src", loopbacks[node]])
            lab.exec("n3", ["ip", "route", "add", f"{loopbacks[node]}/32", "via", ADDRESSES[node][0]])
        for key, value in (("ip_forward", "1"), ("conf/all/send_redirects", "0"), ("conf/eth1/send_redirects", "0")):
            lab.exec("n3", ["sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{key}"])

        def rows(node: str, hops: int) -> list[Watched]:
            (remote,) = loopbacks.keys() - {node}
            return [Watched("far", loopbacks[node], loopbacks[remote], hops, 100, 3)]

        for hops in (2, 0):
            one.want(rows("n1", hops))
            other.want(rows("n2", hops))
            for agent in (one, other):
                agent.await_states(State.UP)
                report = agent.latest("far")
                assert report is not None
                assert report.is_single_hop is False
        one.want(rows("n1", 1))
        other.want(rows("n2", 1))
        for agent in (one, other):
            agent.await_states(State.DOWN)
        silent_s = 2.5  # twice the time in which one of them sends
        time.sleep(silent_s)
        assert {State.DOWN} == set(one.states().values()) == set(other.states().values())


def test_a_flood_takes_no_session_down() -> None:
    """A hundred thousand packets for no session, as fast as they can be sent: they are read, and sessions stay up."""
    with agents() as (lab, one, other):
        both_up(one, other)
        send(lab, "n2", encode(LIAR._replace(your_discriminator=1)), count=100_000, pause_s=0)
        last(one)
        assert ([], []) == (one.failures(), other.failures())
        assert {State.UP} == set(one.states().values())


def test_who_runs_without_a_rest_becomes_an_ordinary_process() -> None:
    """The kernel says so by SIGXCPU, half a second before it would end a real-time process; sessions stay up."""
    with agents() as (_, one, other):
        both_up(one, other)
        if scheduler(one.process.pid) == os.SCHED_OTHER:
            pytest.skip("this host lets nobody be scheduled before others")
        one.process.send_signal(SIGXCPU)
        one.until(lambda: scheduler(one.process.pid) == os.SCHED_OTHER, "an ordinary process")
        last(one)
        assert ([], []) == (one.failures(), other.failures())


# ── daemons come and go ──────────────────────────────────────────────────────


def test_it_outlives_the_daemon_and_is_found_again() -> None:
    """While nobody is connected the session stays up; the next daemon hears what is, and what failed meanwhile."""
    with agents() as (lab, one, other):
        both_up(one, other)
        one.disconnect()
        time.sleep(2 * DETECTION_S)
        assert [] == other.failures()
        one.reports.clear()
        one.connect()
        one.want(watched("n1"))
        one.await_states(State.UP, *BOTH)
        assert [] == one.failures()

        one.disconnect()
        silence(lab, "n2")
        other.await_states(State.DOWN, *BOTH)
        hear_again(lab, "n2")
        other.await_states(State.UP, *BOTH)
        one.reports.clear()
        one.connect()
        one.want(watched("n1"))
        one.until(lambda: {name for name, _ in one.failures()} == {*BOTH}, "what has failed")
        one.await_states(State.UP, *BOTH)  # it comes up a moment after its peer
        one.reports.clear()
        one.want(watched("n1"))
        one.await_states(State.UP, *BOTH)
        assert [] == one.failures(), "told once"


def test_it_ends_when_no_daemon_comes_back() -> None:
    """After the time that it was told; the peer hears AdminDown, which is no failure, and nothing is left."""
    with agents() as (lab, one, other):
        both_up(one, other)
        one.want(watched("n1"), 1.0)
        one.hear()
        one.disconnect()
        one.await_end()
        other.await_states(State.DOWN, *BOTH)
        reports = [other.latest(name) for name in BOTH]
        assert [(State.ADMIN_DOWN, Diag.NEIGHBOUR_DOWN)] * 2 == [
            (r.remote_state, r.diag) for r in reports if r is not None
        ]
        assert [] == other.failures()
        assert lab.exec("n1", ["ls", str(Path(SOCKET).parent)]).stdout == ""


@pytest.mark.parametrize("why", ["unwanted", "terminated", "not to be found"])
def test_every_other_end_is_as_polite(why: str) -> None:
    """Nothing wanted any more, SIGTERM, a socket that nobody can find: AdminDown, no failure, an end."""
    with agents() as (lab, one, other):
        both_up(one, other)
        if why == "unwanted":
            one.want([])
        elif why == "terminated":
            one.process.send_signal(SIGTERM)
        else:
            lab.exec("n1", ["rm", SOCKET])
            one.disconnect()
        one.await_end()
        other.await_states(State.DOWN, *BOTH)
        assert [] == other.failures()


def test_one_that_an_operator_runs_stays() -> None:
    """With --stay it goes on when nothing is wanted and nobody is there, and watches again when somebody comes."""
    with agents() as (lab, _, other):
        one = start(lab, "n3", "--stay")
        lab.exec("n3", ["ip", "address", "add", "192.0.2.7/24", "dev", "eth1"])
        mine = [Watched("one", "192.0.2.7", "192.0.2.2", 1, 100, 3)]
        other.want([Watched("other", "192.0.2.2", "192.0.2.7", 1, 100, 3)])
        for _ in range(2):
            one.want(mine, stay_s=0.0)
            for agent in (one, other):
                agent.await_states(State.UP)
            one.want([], stay_s=0.0)
            other.await_states(State.DOWN)
            one.disconnect()
            alone_s = 1.5  # it looks whether anybody needs it each second
            time.sleep(alone_s)
            one.connect()
            one.reports.clear()
        assert [] == other.failures()


def test_one_session_of_two_is_taken_away_and_given_back() -> None:
    """The other one notices nothing; the first is AdminDown for its peer, and comes up again."""
    with agents() as (_, one, other):
        both_up(one, other)
        one.want(watched("n1")[1:])
        other.await_states(State.DOWN, "ipv4")
        assert ([], State.UP) == (other.failures(), other.states()["ipv6"])
        one.want(watched("n1"))
        for agent in (one, other):
            agent.await_states(State.UP, *BOTH)
            assert [] == agent.failures()


def test_other_intervals_take_nothing_down() -> None:
    """Whoever wants to be sent less often gets less, by a Poll Sequence."""
    with agents() as (_, one, other):
        both_up(one, other)
        for interval_ms, multiplier, detection_ms in ((500, 3, 1500), (50, 5, 500), (200, 2, 400)):
            one.want(watched("n1", 1, interval_ms, multiplier))
            other.until(lambda ms=detection_ms: all(r.detection_ms == ms for r in last(other)), f"{detection_ms} ms")  # type: ignore[misc]
        assert ([], []) == (one.failures(), other.failures())


def test_another_version_takes_over_and_nobody_notices() -> None:
    """Sessions, discriminators and sockets go from one process to the next; the first ends."""
    with agents() as (lab, one, other):
        both_up(one, other)
        ports = lab.exec("n1", ["sh", "-c", "ss -Huan | awk '{print $4}' | sort"]).stdout
        new = Agent(lab.start("n1", [*COMMAND, SOCKET, "--take-over"]))
        one.await_end()
        new.connect()
        new.want(watched("n1"))
        new.await_states(State.UP, *BOTH)
        assert ports == lab.exec("n1", ["sh", "-c", "ss -Huan | awk '{print $4}' | sort"]).stdout
        silent_s = 2 * DETECTION_S
        time.sleep(silent_s)
        assert ([], []) == (new.failures(), other.failures())
        silence(lab, "n2")
        new.await_states(State.DOWN, *BOTH)
        assert {Diag.EXPIRED} == {diag for _, diag in new.failures()}


def test_who_cannot_take_over_leaves_all_as_it_was() -> None:
    """A process that speaks another protocol, or breaks off, is turned away; the sessions go on."""
    with agents() as (lab, one, other):
        both_up(one, other)
        old, broken = Agent(one.process), Agent(one.process)
        old.connect()
        old.send({"hand_over": 99})
        old.until(lambda: old.is_hung_up and old.errors, "being turned away")
        broken.connect()
        broken.send({"hand_over": 1})
        broken.disconnect()
        one.want(watched("n1"))
        one.await_states(State.UP, *BOTH)
        assert ([], []) == (one.failures(), other.failures())
        assert lab.exec("n1", ["ls", str(Path(SOCKET).parent)]).stdout


# ── what may harm nobody ─────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "said",
    [
        b"no json\n",
        b"17\n",
        b"[]\n",
        b"{}\n",
        b'{"wanted": 1, "stay_s": 1}\n',
        b'{"wanted": [], "stay_s": "long"}\n',
        b'{"wanted": [["x"]], "stay_s": 1}\n',
        b'{"wanted": [["x", "192.0.2.1", "2001:db8::1", 1, 100, 3]], "stay_s": 1}\n',
        b'{"wanted": [["x", "192.0.2.1", "nowhere", 1, 100, 3]], "stay_s": 1}\n',
        b'{"wanted": [["x", "192.0.2.1", "192.0.2.2", 1, 0, 3]], "stay_s": 1}\n',
        b'{"wanted": [["x", "192.0.2.1", "192.0.2.2", 1, 100, 256]], "stay_s": 1}\n',
        b'{"wanted": [["x", "192.0.2.1", "192.0.2.2", true, 100, 3]], "stay_s": 1}\n',
        b'{"wanted": [[1, "192.0.2.1", "192.0.2.2", 1, 100, 3]], "stay_s": 1}\n',
        b"\xff\xfe\n",
    ],
)
def test_what_makes_no_sense_is_answered_and_changes_nothing(said: bytes) -> None:
    """The reason is told, that connection ends, and the one of the daemon does not."""
    with agents() as (_, one, other):
        both_up(one, other)
        stranger = Agent(one.process)
        stranger.connect()
        stranger.send(said)
        stranger.until(lambda: stranger.is_hung_up and stranger.errors, "the reason")
        one.want(watched("n1"))
        one.await_states(State.UP, *BOTH)
        assert ([], False) == (one.failures(), one.is_hung_up)


def test_the_newest_daemon_counts() -> None:
    """A second one that says what is wanted replaces the first; one that says nothing replaces nobody."""
    with agents() as (_, one, other):
        both_up(one, other)
        second = Agent(one.process)
        second.connect()
        one.want(watched("n1"))
        one.await_states(State.UP, *BOTH)
        assert not one.is_hung_up
        second.want(watched("n1"))
        second.await_states(State.UP, *BOTH)
        one.until(lambda: one.is_hung_up, "the first to be hung up on")
        assert [] == other.failures()


def test_a_daemon_that_reads_nothing_hears_the_newest_in_the_end() -> None:
    """The agent goes on without it, in bounded memory, and tells each session's newest state when it reads again."""
    with agents() as (_, one, other):
        both_up(one, other)
        many = [
            *watched("n1"),
            *(Watched(f"far-{n}", "192.0.2.1", f"198.51.100.{n}", 1, 1000, 3) for n in range(1, 250)),
        ]
        for _ in range(40):  # some 3 MB of reports, if each were kept
            one.want(many)
        other.want([])
        other.await_end()
        assert one.process.is_running
        one.until(lambda: one.states()["ipv4"] is State.DOWN, "the newest")
        assert [] == one.failures()


def test_a_port_and_an_address_that_are_not_there_yet() -> None:
    """Both are told in words, and had as soon as that is possible."""
    with agents() as (lab, one, other):
        holder = lab.start("n1", [sys.executable, "-c", HOLDER])
        holder.until(lambda: "bound" in holder.output(), "the port to be taken")
        lab.exec("n1", ["ip", "address", "del", "2001:db8::1/64", "dev", "eth1"])
        one.want(watched("n1"))
        other.want(watched("n2"))
        expected = [
            "192.0.2.1 port 3784: address already in use",
            "2001:db8::1 port 3784: cannot assign requested address",
            "2001:db8::1: cannot assign requested address",
        ]
        one.until(lambda: one.problems == expected, "the problems")
        holder.kill()
        lab.exec("n1", ["ip", "address", "add", "2001:db8::1/64", "dev", "eth1", "nodad"])
        one.until(lambda: one.problems == [], "no problem")
        one.await_states(State.UP, *BOTH)


def test_a_second_agent_with_another_socket_disturbs_nobody() -> None:
    """It says nothing to the peers of the first, for whom a daemon may come back, and has them when that one ends."""
    with agents() as (lab, one, other):
        both_up(one, other)
        second = start(lab, "n1", place=f"{SOCKET}2")
        second.want(watched("n1"))
        second.until(lambda: len(second.problems) == 2, "the ports to be taken")
        silent_s = 2.5  # it would say Down once a second
        time.sleep(silent_s)
        for agent in (one, other):
            agent.await_states(State.UP, *BOTH)
            assert [] == agent.failures()
        one.want([])
        for agent in (second, other):
            agent.await_states(State.UP, *BOTH)
            assert [] == agent.failures()


def test_a_second_agent_at_the_same_socket_is_refused() -> None:
    """By name, with exit status 1; bad use is 2."""
    with agents() as (lab, _, _):
        done = lab.exec("n1", [*COMMAND, SOCKET], check=False)
        assert (1, f"bfd_agent: {SOCKET}: [Errno 98] Address already in use\n") == (done.returncode, done.stderr)
        assert lab.exec("n1", COMMAND, check=False).returncode == 2
        assert lab.exec("n1", [*COMMAND, "--bad"], check=False).returncode == 2


def test_detached_it_is_nobodys_child() -> None:
    """It has a session of its own, no streams of whoever started it, and whoever waits for it is answered at once."""
    with agents() as (lab, _, _):
        started = lab.exec("n3", [*COMMAND, SOCKET, "--detach"])
        assert (0, "") == (started.returncode, started.stdout)
        found = Agent(lab.start("n3", ["sleep", "infinity"]))  # for the way to its files
        found.connect()
        pid = str(found.said["pid"])
        said = lab.exec("n3", ["sh", "-c", f"cat /proc/{pid}/stat; ls -l /proc/{pid}/fd"]).stdout
        assert [pid, pid] == said.splitlines()[0].rpartition(")")[2].split()[2:4], "process group and session"
        assert said.count("/dev/null") == 3


def test_it_is_small() -> None:
    """It imports neither asyncio, nor anything of the daemon, nor a third party, and is far smaller than that."""
    with agents() as (lab, one, _):
        maps = lab.exec("n1", ["cat", f"/proc/{one.said['pid']}/smaps_rollup"]).stdout
        (rss,) = [int(line.split()[1]) for line in maps.splitlines() if line.startswith("Rss:")]
        assert rss < 20_000
        imported = (
            "import sys; import bgpmesh.bfd_agent.__main__;"
            "print(*(m for m in sys.modules if m.split('.')[0] in"
            " {'asyncio', 'logging', 'dataclasses', 'exabgp', 'ipaddress', 'argparse', 'bgpmesh'}))"
        )
        modules = lab.exec("n1", [*COMMAND[:-2], "-c", imported]).stdout.split()
        assert {
            "bgpmesh",
            "bgpmesh.bfd_agent",
            "bgpmesh.bfd_agent.__main__",
            "bgpmesh.bfd_agent.agent",
            "bgpmesh.bfd_agent.sockets",
            "bgpmesh.peering",
            "bgpmesh.peering.bfd",
        } == set(modules)
