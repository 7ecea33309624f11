"""Nodes join a reflector that knows them by an address range only: nothing is edited there, and nobody else notices.

    rr1   192.0.2.254   reflects, writes no route; its file names no other node
    c1, c2              bgpmesh, each with a file of its own
    c3                  BIRD, where it is there
    c4                  who is turned away

All of them call from 192.0.2.0/25, with one TCP MD5 key. The lab is containerlab/reflector.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from signal import SIGKILL
from typing import cast

import pytest

from tests.interop.speakers import Bird, Setup, why_not
from tests.lab.cluster import Cluster, Watch, blocks, laid_out, metrics

JsonObject = dict[str, object]
BIRDS = {"198.51.100.0/25", "2001:db8:51::/48"}
SHARED = """
[cluster]
asn = 64512
topology = "reflectors"
hold_time = 90
restart_deferral = 60
identity = true
bfd = true
password = "of all of them"
[pool.v4]
cidr = "10.244.0.0/16"
[pool.v6]
cidr = "fd00:10:244::/48"
[node.rr1]
address = "192.0.2.254"
address6 = "2001:db8::fe"
reflector = true
labels = { role = "reflector" }
[peer.leaves]
range = "192.0.2.0/25"
asn = 64512
nodes = "role == 'reflector'"
reflector_client = true
bfd = true
password = "of all of them"
pods = ["10.244.0.0/16", "fd00:10:244::/48"]
"""
REFLECTOR = f"{SHARED}\n[kernel]\nenabled = false\n"


def text_of(number: int) -> str:
    """Return the file of a node that joins: what all have, and itself."""
    return f"""{SHARED}
[node.c{number}]
address = "192.0.2.{number}"
address6 = "2001:db8::{number}"
pod_cidrs = ["10.244.{number}.0/26", "fd00:10:244:{number}::/112"]
"""


def speaker(number: int) -> str:
    """Return what the reflector calls a node."""
    return f"leaves@192.0.2.{number}"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Start the reflector alone."""
    with laid_out("reflector") as made:
        made.configure("rr1", REFLECTOR)
        made.start("rr1")
        made.await_sync("rr1")
        yield made


def join(cluster: Cluster, number: int) -> None:
    """Start a node that the reflector has not heard of."""
    node = f"c{number}"
    cluster.configure(node, text_of(number))
    cluster.start(node)
    cluster.until("rr1", partial(cluster.has_peer, "rr1", speaker(number), is_up=True), f"a session with {node}")


def bird_of(cluster: Cluster, password: str = "of all of them", asn: int = 64512, node: str = "c3") -> Bird:  # noqa: S107
    """Return a BIRD that is to join, not started yet."""
    number = node[1]
    setup = Setup(asn, f"192.0.2.{number}", f"2001:db8::{number}", "192.0.2.254", 64512, password)
    made = Bird(cluster.lab, node, setup)
    made.prefixes += sorted(BIRDS)
    return made


def range_of(cluster: Cluster) -> JsonObject:
    """Return what the reflector's status says of its range."""
    (row,) = cast("list[JsonObject]", cast("JsonObject", cluster.ask("rr1", "status"))["ranges"])
    return row


def transitions(cluster: Cluster, *numbers: int) -> list[object]:
    """Return how often the reflector's sessions with these entered each state."""
    return [cluster.peer("rr1", speaker(number))["transitions"] for number in numbers]


def sees(cluster: Cluster, number: str) -> bool:
    """Tell whether the reflector's BFD sees the path to a node."""
    return cluster.peer("rr1", f"leaves@192.0.2.{number}")["bfd"] == "up"


def known(cluster: Cluster, node: str) -> object:
    """Return of how many addresses elsewhere a node knows the labels."""
    return cast("dict[str, JsonObject]", cluster.ask(node, "status"))["policy"]["identities"]


def test_nodes_join_a_reflector_that_is_not_edited(cluster: Cluster) -> None:
    """Each new one hears and is heard of, what it says of its workloads too, and no other session changes its state."""
    join(cluster, 1)
    join(cluster, 2)
    for node in ("c1", "c2"):
        cluster.await_prefixes(node, blocks("c1", "c2"))
    lives = transitions(cluster, 1, 2)
    join(cluster, 4)
    for node in ("c1", "c2", "c4"):
        cluster.await_prefixes(node, blocks("c1", "c2", "c4"))
        cluster.until("rr1", lambda number=node[1]: sees(cluster, number), f"BFD to see {node}")  # type: ignore[misc]
    cluster.attach("c4")
    for node in ("c1", "c2"):
        cluster.until(node, lambda node=node: known(cluster, node) == 2, "to know c4's workload")  # type: ignore[misc]
    said = cluster.peer("rr1", speaker(4))
    assert (said["identities"], said["claims_refused"]) == (2, 0)
    assert lives == transitions(cluster, 1, 2)
    assert range_of(cluster)["speakers"] == 3
    listed = cluster.lab.exec("rr1", ["bgpmesh", "peers", "leaves"]).stdout
    assert [line.split()[0] for line in listed.splitlines()[1:]] == [speaker(number) for number in (1, 2, 4)]
    assert f'bgpmesh_session_up{{peer="{speaker(4)}"}} 1.0' in metrics(cluster.lab, "rr1")

    cluster.lab.exec("c4", ["bgpmesh", "workload", "del", "w-c4"])
    cluster.configure("c4", text_of(4).replace("[cluster]", "[cluster]\ngraceful_restart = 0"))
    cluster.ask("c4", "reload")
    cluster.until_logged("rr1", f"peer.down peer={speaker(4)} ")
    cluster.until("rr1", partial(cluster.has_peer, "rr1", speaker(4), is_up=True), "another session with c4")
    cluster.daemons["c4"].stop()
    cluster.until("rr1", lambda: range_of(cluster)["speakers"] == 2, "c4 to be gone")
    assert speaker(4) not in metrics(cluster.lab, "rr1")
    for node in ("c1", "c2"):
        cluster.await_prefixes(node, blocks("c1", "c2"))
    assert lives == transitions(cluster, 1, 2)


@pytest.mark.skipif(bool(why_not(Bird)), reason=f"bird: {why_not(Bird)}")
def test_who_may_not_join_is_named(cluster: Cluster) -> None:
    """A wrong key and a wrong AS are told of, each in its words; with both right BIRD is one of them, and hears all."""
    join(cluster, 1)
    lives = transitions(cluster, 1)
    for bird, words in (
        (bird_of(cluster, password="another"), "leaves: MD5 mismatch suspected"),  # noqa: S106
        (bird_of(cluster, asn=64999), f"{speaker(3)}: AS mismatch: the peer says 64999, configured is 64512"),
    ):
        bird.start()
        cluster.until("rr1", lambda words=words: words in str(range_of(cluster)["last_error"]), words)  # type: ignore[misc]
        assert not bird.is_established()
        bird.kill()
    cluster.until_logged("rr1", f"peer.failed peer={speaker(3)}")
    bird = bird_of(cluster)
    bird.start()
    cluster.until("rr1", partial(cluster.has_peer, "rr1", speaker(3), is_up=True), "a session with BIRD")
    cluster.await_prefixes("c1", blocks("c1") | BIRDS)
    cluster.until("rr1", lambda: bird.received() == blocks("c1"), "BIRD to have c1's blocks")
    assert lives == transitions(cluster, 1)


def test_a_reflector_that_is_killed_loses_none_of_those_it_cannot_call(cluster: Cluster) -> None:
    """Their routes stand, in both kernels and as they were, until they have called again and said all."""
    bird = None if why_not(Bird) else bird_of(cluster)
    expected = blocks("c1", "c2") | (BIRDS if bird else set())
    join(cluster, 1)
    join(cluster, 2)
    if bird is not None:
        bird.start()
    for node in ("c1", "c2"):
        cluster.await_prefixes(node, expected)
    before = {node: cluster.kernel(node) for node in ("c1", "c2")}
    watches = {node: Watch(cluster.lab, node) for node in before}

    cluster.stop(SIGKILL, "rr1")
    for node in before:
        cluster.until(node, partial(cluster.has_peer, node, "rr1", is_up=False), "the reflector gone")
    cluster.start("rr1")
    cluster.await_sync("rr1")
    for number in (1, 2):
        cluster.until("rr1", partial(cluster.has_peer, "rr1", speaker(number), is_up=True), f"c{number} back")
    cluster.await_no_stale("c1", "c2")

    assert "restart.in-sync" in cluster.log("rr1")
    assert "restart.gave-up-waiting" not in cluster.log("rr1"), "all have called"
    assert {"c1": [], "c2": []} == {node: watch.end() for node, watch in watches.items()}
    assert before == {node: cluster.kernel(node) for node in before}
