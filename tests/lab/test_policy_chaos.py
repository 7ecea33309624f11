"""Hands and failures at the packet filter under traffic: what no rule allows does not pass, and all is repaired.

`-s` shows each fault with the time of its repair; BGPMESH_SEED repeats a run.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from random import Random
from signal import SIGKILL

import pytest

from containerlab.lab import until
from tests.lab.guarded import FLOWS, REPAIRED_S, TALKS, Stage, calico, chosen, closing_sets, staged

IS_LONG = bool(os.environ.get("BGPMESH_SOAK"))
BACKENDS = ("nft", "legacy") if IS_LONG else ("nft",)
CHAOS_S = 300.0 if IS_LONG else 20.0
UNHOOKED = 30 if IS_LONG else 1  # times that all hooks are deleted
HELD_S = 10.0 if IS_LONG else 4.0
UNDER_WAY_S = 0.3  # what has passed has arrived within this


@pytest.fixture(scope="module", params=BACKENDS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Give a node under policies with all flows running, for all tests of this module; each leaves it whole."""
    with staged(str(request.param)) as found:
        found.fire(FLOWS)
        yield found


@pytest.fixture
def chance() -> Random:
    """Give the choices of one run."""
    return chosen()


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  shown on failure, and by -s


def spread(took: Sequence[float]) -> str:
    """Return median and 99th percentile in words."""
    ordered = sorted(took)
    p50, p99 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99))
    return f"{len(took)} times, p50 {p50:.2f} s, p99 {p99:.2f} s"


class Chaos:
    """Faults at a stage, whose repair is waited for."""

    def __init__(self, stage: Stage, chance: Random) -> None:
        self.stage, self.chance = stage, chance
        self.whole = stage.whole()
        self.closing = closing_sets(self.whole[0])
        self.begun = time.monotonic()
        self.took: dict[str, list[float]] = defaultdict(list)
        self._forgiven: list[tuple[float, float]] = []
        self.faults: dict[str, Callable[[], str]] = {
            "flush a chain": self._flush,
            "delete a hook": self._unhook,
            "empty a set": self._empty,
            "hold the lock": self._hold,
            "kill the daemon": self._kill,
        }

    def run(self, kind: str) -> None:
        """Do one fault, and wait until all is as it was, the daemon up, and every flow that may flow does."""
        begun = time.monotonic()
        what = self.faults[kind]()
        done = time.monotonic()
        until(lambda: self.stage.whole() == self.whole, f"the repair of: {what}", REPAIRED_S, 0.1)
        repaired = time.monotonic()
        self.took[kind].append(repaired - done)
        say(f"{repaired - done:6.2f} s  {what}")
        if what.removeprefix("empty ") in self.closing:  # less is denied as long as it is empty
            self._forgiven.append((begun, repaired + UNDER_WAY_S))
        self.stage.await_flow()

    def strays(self) -> list[tuple[float, str]]:
        """Return when something passed that should not, and what, but for what is forgiven."""
        return [
            (at, flow)
            for at, flow in self.stage.strays()
            if at >= self.begun and not any(start <= at <= end for start, end in self._forgiven)
        ]

    def _flush(self) -> str:
        family, table, chain = self.chance.choice(sorted(key for key in self.whole[0] if key[2].startswith("bm-")))
        self.stage.table(family, table, f"-F {chain}")
        return f"flush {table} {chain} (IPv{family})"

    def _unhook(self) -> str:
        family, table, chain = hook = self.chance.choice(sorted(self.stage.hooks()))
        self.stage.unhook(hook)
        return f"delete the hook in {table} {chain} (IPv{family})"

    def _empty(self) -> str:
        name = self.chance.choice(sorted(self.whole[1]))
        self.stage.node.sh(f"ipset flush {name}")
        return f"empty {name}"

    def _hold(self) -> str:
        seconds = self.chance.uniform(1.0, 4.0)
        self.stage.hold(seconds)
        return f"hold the lock for {seconds:.1f} s"

    def _kill(self) -> str:
        wait_s = self.chance.uniform(0.0, 1.0)
        self.stage.node.stop(SIGKILL)
        time.sleep(wait_s)
        self.stage.node.start()
        return f"kill the daemon, and start it {wait_s:.1f} s later"


def test_no_chain_and_no_hook_opens_anything_by_its_absence(stage: Stage, chance: Random) -> None:
    """Each of them gone, or some, one after the other, with no daemon there to repair it."""
    whole = stage.whole()
    begun = time.monotonic()
    places = sorted({(table, chain) for _, table, chain in whole[0]})
    stage.node.stop(SIGKILL)
    try:
        assert stage.opened_by_absence(places if IS_LONG else sorted(chance.sample(places, 12))) == {}
        assert stage.whole() == whole
        stage.await_flow()
    finally:
        stage.node.start()
    assert not [at for at, _ in stage.strays() if at >= begun]


def test_no_single_fault_lets_anything_through(stage: Stage, chance: Random) -> None:
    """In random order, each a few times, the next when the last is repaired."""
    chaos = Chaos(stage, chance)
    end = time.monotonic() + CHAOS_S
    kinds: list[str] = []
    while time.monotonic() < end or kinds:
        kinds = kinds or chance.sample(list(chaos.faults), len(chaos.faults))
        chaos.run(kinds.pop())
    for kind, took in chaos.took.items():
        say(f"{stage.backend}: {kind}: {spread(took)}")
    strays = chaos.strays()
    assert strays == [], f"{len(strays)} datagrams, the first: {strays[:5]}"


def test_with_all_hooks_gone_packets_pass_until_the_repair_and_no_longer(stage: Stage, chance: Random) -> None:
    """Nor does a connection that began meanwhile go on."""
    chaos = Chaos(stage, chance)
    hooks = stage.hooks()
    repairs: list[float] = []
    passing: list[float] = []
    passed: list[int] = []
    # A repair that comes at once lets nothing pass: what flows do with all hooks gone is then seen at another time.
    while len(passed) < UNHOOKED or (not any(passed) and len(passed) < 10):
        time.sleep(chance.uniform(0.0, 5.0))  # anywhere between two looks
        begun = time.monotonic()
        stage.unhook(*hooks)
        until(lambda: stage.whole() == chaos.whole, "the repair of all hooks", REPAIRED_S, 0.05)
        repaired = time.monotonic()
        stage.await_flow()
        stage.await_flow()
        strays = [at for at, _ in stage.strays() if at >= begun]
        late = [at for at in strays if at > repaired + UNDER_WAY_S]
        assert late == [], f"{len(late)} datagrams, the last {late[-1] - repaired:.1f} s after the repair"
        repairs.append(repaired - begun)
        passing.append(strays[-1] - strays[0] if strays else 0.0)
        passed.append(len(strays))
    say(f"{stage.backend}: all hooks deleted: repaired {spread(repairs)}")
    say(f"{stage.backend}: packets passed for {spread(passing)}; {min(passed)} to {max(passed)} of them")
    assert max(passed) > 0


def test_what_an_emptied_set_has_let_begin_ends_with_the_repair(stage: Stage, chance: Random) -> None:
    """It is a connection by then, and connections pass before any rule is asked; so they are looked at."""
    chaos = Chaos(stage, chance)
    stage.fire(TALKS)
    try:
        emptied = "\n".join(f"ipset flush {name}" for name in sorted(chaos.closing))

        def is_all_open() -> bool:
            if stage.whole() == chaos.whole:  # a look of the daemon's may come before a datagram does
                stage.node.sh(emptied)
            return len({flow for _, flow in chaos.strays()}) >= 2 * len(TALKS)

        until(is_all_open, "what is no longer denied")
        until(lambda: stage.whole() == chaos.whole, "the repair of all sets", REPAIRED_S, 0.05)
        repaired = time.monotonic()
        stage.await_flow()
        assert [each for each in chaos.strays() if each[0] > repaired + UNDER_WAY_S] == []
    finally:
        stage.senders.pop().kill()


def slowest_status(stage: Stage, words: tuple[str, ...]) -> float:
    """Do as these words say while others hold the table; return the longest that a status took meanwhile, in s."""
    holding = threading.Thread(target=stage.hold, args=(HELD_S,))
    holding.start()
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(stage.said(*words)))
    asking.start()
    slowest = 0.0
    while asking.is_alive():
        asked = time.monotonic()
        stage.node.status()
        slowest = max(slowest, time.monotonic() - asked)
        time.sleep(0.1)
    asking.join()
    holding.join()
    assert "not in force" not in answers[0]
    return slowest


def test_others_that_hold_the_table_are_waited_for(stage: Stage, chance: Random) -> None:
    """Nothing is lost, and the daemon answers meanwhile."""
    chaos = Chaos(stage, chance)
    policy = calico(
        "GlobalNetworkPolicy",
        "more",
        order=7,
        selector="app == 'db'",
        types=["Ingress"],
        ingress=[{"action": "Deny", "source": {"nets": ["192.0.2.9/32"]}}],
    )
    path = stage.node.lab.add_workload_namespace("n1", "late")
    asks: list[tuple[str, ...]] = [
        ("workload", "add", "late", "--netns", path, "-n", "shop"),
        ("apply", "-f", stage.node.written(policy)),
        ("delete", "globalnetworkpolicy", "more"),
        ("workload", "del", "late", "-n", "shop"),
    ]
    # Who waits for the table himself does so each time; a machine that stands still does not.
    slowest = dict.fromkeys(asks, HELD_S)
    for _ in range(4):
        for words in asks:
            slowest[words] = min(slowest[words], slowest_status(stage, words))
        if max(slowest.values()) < HELD_S / 2:
            break
    assert max(slowest.values()) < HELD_S / 2, "it does not wait for the table itself"
    until(lambda: stage.whole() == chaos.whole, "as it was", REPAIRED_S, 0.1)
    stage.node.ip("netns del late")
    assert chaos.strays() == []
