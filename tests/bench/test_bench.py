"""The benchmark builds, and measures only what is right; how fast it was is nobody's business here."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bgpmesh import config
from bgpmesh.kernel.chains import present_backends
from bgpmesh.policy.chains import ChainKey, Rules
from bgpmesh.policy.iptables import Options
from bgpmesh.policy.protection import Protection
from containerlab.lab import LabError, missing
from tests.bench import play
from tests.bench.__main__ import main
from tests.bench.daemons import DAEMONS
from tests.bench.felix import felix_like
from tests.bench.plot import Bar, Panel, drawing
from tests.bench.policyside import CHANGES
from tests.bench.population import CONFIGURATION, world
from tests.bench.scenario import SCENARIOS, Scale
from tests.bench.stage import check
from tests.bench.watch import SilentError, Watch, digest, expected
from tests.bench.yardstick import compiled

ROUTES = 1000
HERE = Path(__file__).parent
FIRST, GATEWAY = ipaddress.ip_address("10.0.0.0"), ipaddress.ip_address("192.0.2.2")

needs_lab = pytest.mark.skipif(bool(missing()), reason=missing())
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the other daemons change their user: needs root")

# Every scenario with bgpmesh, and every daemon in scenarios that differ most: in one invocation each.
SAMPLES = {
    "bgpmesh": [scenario.name for scenario in SCENARIOS],
    "bird": ["ipv4", "reflect-10", "restart", "mesh"],
    "frr": ["ipv6", "reflect-10", "restart", "mesh"],
    "gobgp": ["reflect-1", "start"],
}


@needs_lab
@needs_root
@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.timeout(900)
def test_what_is_played_is_right_and_in_the_report(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of each ends with the kernel, or every client, as fed; table, drawing and document have it."""
    monkeypatch.setattr(play, "CHURN_HOLD_S", 90)  # no session is to be lost by somebody who gets no turn
    (daemon,) = (daemon for daemon in DAEMONS if daemon.name == name)
    if reason := daemon.missing():
        pytest.skip(reason)
    chosen = [word for scenario in SAMPLES[name] for word in ("--scenario", scenario)]
    words = ["--routes", str(ROUTES), "--runs", "1", "--daemon", name, *chosen, "--results", str(tmp_path)]
    assert 0 == main(words)
    (path,) = tmp_path.glob("*.json")
    document = json.loads(path.read_text("utf-8"))
    assert SAMPLES[name] == [run["scenario"] for run in document["runs"]]
    assert len(SAMPLES[name]) == path.with_suffix(".md").read_text("utf-8").count(f"| {name} | 1 |")
    assert ET.parse(path.with_suffix(".svg")).getroot().tag.endswith("svg")  # noqa: S314  # our own


@needs_lab
@needs_root
@pytest.mark.timeout(900)
def test_what_policy_costs_is_in_the_report(tmp_path: Path) -> None:
    """Each packet filter that is there, each change by both sides, packets where there is a compiler."""
    backends = [backend for backend in present_backends() if backend]
    if not backends:
        pytest.skip("needs iptables-nft or iptables-legacy")
    assert 0 == main(["--routes", str(ROUTES), "--runs", "1", "--scenario", "policy", "--results", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    document = json.loads(path.read_text("utf-8"))
    found = Counter((cost["backend"], cost["what"]) for cost in document["policy"])
    sides = dict.fromkeys(("all", *CHANGES), 2)
    if compiled(tmp_path, HERE / "packets.c") is not None:
        sides |= {"new flow": 3, "established": 3}
    assert {(backend, what): count for backend in backends for what, count in sides.items()} == found
    assert len(found) == path.with_suffix(".md").read_text("utf-8").count("| 100 | 1 |")


def test_both_sides_ask_the_same_of_a_packet() -> None:
    """The other's chains of policies have our matches and sets, and each workload its own two chains."""
    node = world(100, is_felix=True)
    protection = Protection()
    protection.objects = node.objects
    around = config.effective(config.parse(CONFIGURATION, "f.toml"), "n1").around
    ours, _ = protection.wanted(node.endpoints, replace(around, options=Options(prefix="cali")), is_needed=True)
    theirs = felix_like(protection.compiled)

    def matches(chains: Mapping[ChainKey, Rules], front: str) -> set[tuple[str, tuple[str, ...]]]:
        found = set()
        for key, rules in chains.items():
            if key.chain.startswith((f"{front}-pi-", f"{front}-pe-")):
                texts = [re.sub(r"-m comment --comment \S+ ", "", rule) for rule in rules]
                if front == "bm":  # at the end, that it was gone through: the other has no such thing
                    texts = [text for text in texts if not text.startswith("-j MARK")]
                asked = [re.sub(r" ?-[jg] .*", "", text) for text in texts]
                said = tuple(each for each in asked if not each.startswith("-m mark"))
                found.add((key.chain.partition("-")[2], said))
        return found

    assert matches(ours, "bm") == matches(theirs, "cali") != set()
    for endpoint in node.endpoints.values():
        for chain in (f"cali-fw-{endpoint.interface}", f"cali-tw-{endpoint.interface}"):
            assert any(rule.endswith(f"-g {chain}") for rules in theirs.values() for rule in rules)
            assert theirs[ChainKey(4, "filter", chain)][-1].endswith("-j DROP")


def test_a_kernel_that_holds_other_routes_fails_the_run() -> None:
    """The right number of wrong routes is no result."""
    other = expected(ipaddress.ip_address("10.0.0.1"), ROUTES)
    with pytest.raises(LabError):
        check({"count": ROUTES, "digest": digest(other)}, expected(FIRST, ROUTES))


# ── the watch ────────────────────────────────────────────────────────────────


class Kernel:
    """A network namespace with a link and a watch over ten routes; commands go to a shell in it.

    `before`: what is there before anybody watches. A line to the descriptor 3 is one to the watch.
    """

    def __init__(self, steps: str, timeout_s: int = 120, before: Sequence[str] = ()) -> None:
        user = ["--user", "--map-root-user"] if os.geteuid() else []
        command = ["unshare", *user, "--net", "sh", "-e"]
        self._shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.run("ip link add v0 type veth peer v1; ip address add 192.0.2.1/24 dev v0")
        self.run("ip link set v0 up; ip link set v1 up", *before)
        self.run("place=$(mktemp -d); mkfifo $place/lines; exec 3<>$place/lines; rm -r $place")
        watch = f"{sys.executable} {HERE / 'watch.py'} --first {FIRST} --routes 10 --gateway {GATEWAY}"
        self.run(f"{watch} --steps {steps} --timeout {timeout_s} <&3 &")

    def run(self, *lines: str) -> None:
        """Run commands, in their order; the next `said` may come before they are through."""
        assert self._shell.stdin
        self._shell.stdin.write("\n".join(lines) + "\n")
        self._shell.stdin.flush()

    def said(self) -> dict[str, object]:
        """Return the next line of the watch."""
        assert self._shell.stdout
        line: dict[str, object] = json.loads(self._shell.stdout.readline())
        return line

    def close(self) -> int:
        """Return the exit status of the watch, which has nothing left to wait for."""
        self._shell.communicate("wait $!\n", timeout=120)
        return self._shell.returncode


def routes(verb: str, numbers: range, way: str = "") -> list[str]:
    """Return the commands that change some of the feed's routes."""
    return [f"ip route {verb} 10.0.0.{number}/32 {way}" for number in numbers]


@needs_lab
def test_the_watch_sees_routes_come_and_go() -> None:
    """It says so when the last one came, and when the last one went, whatever else lies in the table."""
    kernel = Kernel("complete,gone")
    assert "watching complete" == kernel.said()["event"]
    kernel.run("ip route add 10.0.0.0/24 via 192.0.2.3", *routes("add", range(10), f"via {GATEWAY}"))
    assert ("complete", 10) == ((line := kernel.said())["event"], line["count"])
    assert "watching gone" == kernel.said()["event"]
    kernel.run(*routes("delete", range(10)))
    assert ("gone", 0) == ((line := kernel.said())["event"], line["count"])
    assert 0 == kernel.close()


@needs_lab
def test_the_watch_sees_routes_go_with_their_nexthop_object() -> None:
    """The kernel does not tell of them; that the object went it tells."""
    kernel = Kernel("complete,gone")
    assert "watching complete" == kernel.said()["event"]
    kernel.run(f"ip nexthop add id 7 via {GATEWAY} dev v0", *routes("add", range(10), "nhid 7"))
    assert "complete" == kernel.said()["event"]
    assert "watching gone" == kernel.said()["event"]
    kernel.run("ip nexthop delete id 7")
    assert ("gone", "nexthop objects", 0) == ((line := kernel.said())["event"], line["seen_by"], line["count"])
    assert 0 == kernel.close()


@needs_lab
def test_the_watch_counts_what_is_done_to_kept_routes() -> None:
    """A replaced route is touched once, a deleted one that comes again twice."""
    kernel = Kernel("complete,kept")
    assert "watching complete" == kernel.said()["event"]
    kernel.run(*routes("add", range(10), f"via {GATEWAY}"))
    assert "complete" == kernel.said()["event"]
    assert "watching kept" == kernel.said()["event"]
    kernel.run(*routes("replace", range(3), f"via {GATEWAY} mtu 1400"), *routes("delete", range(9, 10)))
    kernel.run(*routes("add", range(9, 10), f"via {GATEWAY}"), "echo >&3")
    assert ("kept", 5, 10) == ((line := kernel.said())["event"], line["touched"], line["count"])
    assert 0 == kernel.close()


@needs_lab
def test_the_watch_does_not_take_another_gateway() -> None:
    """Ten routes of which one leads elsewhere are not the feed."""
    there = [*routes("add", range(9), f"via {GATEWAY}"), *routes("add", range(9, 10), "via 192.0.2.3")]
    kernel = Kernel("complete", 2, there)
    assert "watching complete" == kernel.said()["event"]
    line = kernel.said()
    assert ("not complete", 10) == (line["event"], line["count"])
    assert digest(expected(FIRST, 9)) == line["digest"]
    assert 1 == kernel.close()


def stubbed(monkeypatch: pytest.MonkeyPatch, told: object, readings: list[dict[bytes, bytes]]) -> Watch:
    """Return a watch over ten routes that is told this, and reads this."""

    def wait(*_: object) -> object:
        if isinstance(told, Exception):
            raise told
        return told

    left = iter(readings)
    reader = SimpleNamespace(read=lambda: next(left), gateways=dict)
    monkeypatch.setattr("tests.bench.watch.Notices", lambda *_: SimpleNamespace(wait=wait))
    monkeypatch.setattr("tests.bench.watch.Reader", lambda *_: reader)
    return Watch(FIRST, 10, 0, GATEWAY, 60)


@pytest.mark.parametrize("told", [None, {b"x": 0.5}, SilentError()])
def test_the_table_is_read_again_where_too_little_was_told(
    told: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notifications that were lost (None), or were not the last, are no time; the first right reading is."""
    right = dict.fromkeys(expected(FIRST, 10), GATEWAY.packed)
    assert stubbed(monkeypatch, told, [{}, right]).complete()
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ("complete", "readings", True) == (line["event"], line["seen_by"], line["at"] > 0.5)


# ── the rest ─────────────────────────────────────────────────────────────────


@needs_lab
@needs_root
@pytest.mark.parametrize("way", ["C", "Python"])
@pytest.mark.parametrize(("first", "gateway"), [("10.0.0.0", "192.0.2.2"), ("2001:db8:a::", "2001:db8::2")])
def test_the_yardstick_writes_and_deletes_its_routes(way: str, first: str, gateway: str, tmp_path: Path) -> None:
    """Both programs do it, for both families; a kernel that refused would end them."""
    if way == "C" and compiled(tmp_path) is None:
        pytest.skip("no C compiler")
    script = f"""
ip link add v0 type veth peer v1; ip link set v1 up; ip link set v0 up
ip address add 192.0.2.1/24 dev v0; ip address add 2001:db8::1/64 dev v0 nodad
exec {sys.executable} -m tests.bench.yardstick --gateway {gateway} --device v0 --first {first} --routes 2500 \
    {"--python" if way == "Python" else ""}
"""
    words = ["unshare", "--net", "--mount", "sh", "-ec", f"mount -t tmpfs none /run; {script}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120, cwd=HERE.parents[1])
    said = json.loads(done.stdout)
    assert (way, 2500, True) == (said["by"], said["routes"], 0 < said["add_s"] < 60)


def test_the_scale_of_the_whole_is_what_the_titles_say() -> None:
    """100,000 routes stand for the figures of the README."""
    scale = Scale.of(100_000)
    assert (10_000, 500, 2_000_000, 30, 10.0) == (scale.few, scale.singles, scale.changes, scale.nodes, scale.idle_s)
    titles = {scenario.name: scenario.title(scale) for scenario in SCENARIOS}
    assert "reflect 100,000 to 50 clients" == titles["reflect-50"]
    assert titles["churn"].startswith("2,000,000 route changes")


def test_the_drawing_has_a_bar_for_each_median() -> None:
    """Lengths are in proportion within a panel, whatever the other panels hold, and words are escaped."""
    panels = [
        Panel("a < b", (Bar("bgpmesh", 1.0, 0.5, 2.0, "1 s"), Bar("bird", 2.0, 2.0, 2.0, "2 s")), 0.5),
        Panel("c", (Bar("frr", 1000.0, 1000.0, 1000.0, "1000 s"),)),
    ]
    root = ET.fromstring(drawing("title", panels))  # noqa: S314  # our own
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(each.get("width", "0")) for each in root.iter(f"{space}rect")][1:]
    assert [0.5, 1.0, 1.0] == [width / max(widths) for width in widths]
    assert {"a < b", "c", "bird", "1000 s"} <= {each.text for each in root.iter(f"{space}text")}
