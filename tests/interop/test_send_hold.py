"""The send hold timer (RFC 9687): a neighbour that keeps its session alive and takes nothing of what we send.

    n1: bgpmesh, AS 65001   192.0.2.1 ──┬── 192.0.2.2, 192.0.2.9   n2: `steady`, AS 65003, and a relay at .9
                                        └── 192.0.2.3              n3: `other`, AS 65002, which is called by the relay

No daemon does so for long by itself: who reads nothing hears no KEEPALIVE either, and its own hold timer ends the
session long before our send hold timer. So between us and `other` there is a relay (`relay.py`) that stops reading
our direction, as a middlebox with a fault does, and keeps `other` content: all that we hear is said by the real
daemon, and the window that we see is really closed. The lab is containerlab/mesh3.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGUSR1

import pytest

from containerlab.lab import Process
from tests.interop.speakers import SPEAKERS, AnySpeaker, Bird, Frr, Setup, each_of
from tests.lab.cluster import PROTOCOL, Watch, lab_of, metrics
from tests.lab.nodes import Node

IS_LONG = bool(os.environ.get("BGPMESH_SOAK"))
CONFIG = "/run/bgpmesh/bgpmesh.toml"
HASTY = (sys.executable, str(Path(__file__).with_name("hasty.py")))
RELAY = (sys.executable, str(Path(__file__).with_name("relay.py")))
HOLD_S = 9
HASTY_S, SEND_HOLD_S = 2 * HOLD_S, 480  # the one of `hasty.py`, and that of RFC 9687
OTHERS, STEADYS = "10.2.0.0/24", "10.3.0.0/24"
EXPIRED = r"send hold timer expired: the peer took nothing for (\d+) s"
FIRST = "203.0.113.7/32"
# More than the buffers of both ends hold, which are made small.
FLOOD = {f"2001:db8:{0xF000 + number:x}::/64" for number in range(3000)}

CASES = [
    pytest.param(*each.values, seconds, id=f"{each.id}-{seconds}s", marks=each.marks)
    for seconds, speakers in (
        (HASTY_S, SPEAKERS if IS_LONG else (Bird,)),
        (SEND_HOLD_S, (Frr,) if IS_LONG else ()),
    )
    for each in each_of(*speakers)
]

TEXT = f"""
[cluster]
asn = 65001
topology = "none"
hold_time = {HOLD_S}
[node.n1]
address = "192.0.2.1"
address6 = "2001:db8::1"
advertise = %s
[peer.other]
address = "192.0.2.9"
port = 1790
asn = 65002
import = ["all"]
export = ["own"]
[peer.steady]
address = "192.0.2.2"
asn = 65003
import = ["all"]
export = ["own"]
"""


@dataclass(slots=True)
class Scene:
    """Our daemon with both sessions up, and what stands at their other ends."""

    node: Node
    relay: Process
    other: AnySpeaker
    steady: AnySpeaker

    def announce(self, *prefixes: str) -> None:
        """Have our daemon announce these and no others."""
        self.node.configure(TEXT % sorted(prefixes))
        done = self.node.command("reload")
        assert done.returncode == 0, done.stderr

    def notifications(self) -> int:
        """Return how many NOTIFICATIONs of ours the metrics have counted."""
        page = metrics(self.node.lab, "n1")
        found = re.search(r'^bgpmesh_messages_total{direction="out",type="notification"} (\S+)$', page, re.MULTILINE)
        return int(float(found[1])) if found else 0


@contextmanager
def scene_of(kind: type[AnySpeaker], command: Sequence[str]) -> Iterator[Scene]:
    """Bring all up, until each has what the other announces."""
    with lab_of("mesh3") as lab:
        lab.exec("n2", ["ip", "address", "add", "192.0.2.9/24", "dev", "eth1"])
        # What our end of a connection takes of us before it says that it is full.
        lab.exec("n1", ["sysctl", "-qw", "net.ipv4.tcp_wmem=4096 8192 8192"])
        other = kind(
            lab, "n3", Setup(65002, "192.0.2.3", "2001:db8::3", "192.0.2.9", 65001, is_passive=True, announce=(OTHERS,))
        )
        steady = kind(lab, "n2", Setup(65003, "192.0.2.2", "2001:db8::2", "192.0.2.1", 65001, announce=(STEADYS,)))
        relay = lab.start("n2", [*RELAY, "192.0.2.9", "192.0.2.3"])
        relay.await_said("listening")
        scene = Scene(Node(lab, config=CONFIG), relay, other, steady)
        scene.node.configure(TEXT % [FIRST])
        other.start()
        steady.start()
        scene.node.start(command=command)
        scene.node.await_up("other", "steady")
        scene.node.await_prefixes({OTHERS, STEADYS})
        for speaker in (other, steady):
            scene.node.until(lambda speaker=speaker: speaker.received() == {FIRST}, "ours")  # type: ignore[misc]
        yield scene


@pytest.mark.parametrize(("kind", "seconds"), CASES)
def test_a_neighbour_that_takes_nothing_is_given_up_and_comes_back(kind: type[AnySpeaker], seconds: int) -> None:
    """`peers` says why, nobody else's session or route notices it, and the next session has everything."""
    with scene_of(kind, HASTY if seconds == HASTY_S else ("bgpmesh",)) as scene:
        node = scene.node
        life, notified = node.life("steady"), scene.notifications()  # where both had called one call was refused
        watch = Watch(node.lab, "n1")
        scene.relay.send_signal(SIGUSR1)
        scene.relay.await_said("stopped")

        scene.announce(FIRST, *FLOOD)
        node.until(lambda: scene.steady.received() == {FIRST, *FLOOD}, "the other session to carry everything")
        node.daemon.until(lambda: node.peer("other")["went_down"], "the end of the session", seconds + 60.0)

        said = re.fullmatch(EXPIRED, str(node.peer("other")["went_down"]))
        assert said is not None, node.peer("other")
        assert int(said[1]) >= seconds
        assert scene.notifications() == notified + 1

        node.await_up("other")
        node.until(lambda: scene.other.received() == {FIRST, *FLOOD}, "the next session to carry everything")
        node.await_prefixes({OTHERS, STEADYS})
        assert life == node.life("steady")
        assert [] == [line for line in watch.end() if STEADYS in line and f"proto {PROTOCOL}" in line]
