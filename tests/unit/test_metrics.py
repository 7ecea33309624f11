"""The metrics: which series there are, and that they say what the engine says."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bgpmesh import __version__
from bgpmesh.metrics import Metrics
from bgpmesh.route.path import PeerName
from tests.unit.policy.test_attribution import BAD, WEB, made, policy, rule_of

if TYPE_CHECKING:
    from tests.unit.conftest import Running


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def one(text: bytes, name: str, **labels: str) -> float | None:
    """Return one sample, None where there is none."""
    return samples(text).get((f"bgpmesh_{name}", frozenset(labels.items())))


def test_the_series_are_those_of_the_contract(running: Running) -> None:
    """Every series whose feature is built is there, and none besides."""
    running.speaker.messages[PeerName("n2"), "sent", "update"] = 1
    running.bfd.discarded["too short"] = 1
    text = Metrics(running, per_peer=True).render()
    suffixes = ("_bucket", "_count", "_sum")
    names = {name.removeprefix("bgpmesh_") for name, _ in samples(text)}
    names = {next((name.removesuffix(s) for s in suffixes if name.endswith(s)), name) for name in names}
    assert names == {
        "bfd_discarded_total",
        "bfd_up",
        "build_info",
        "claims_refused_total",
        "config_generation",
        "convergence_seconds",
        "drained",
        "fib_burst_seconds",
        "fib_drift_repaired_total",
        "fib_routes",
        "floating_ips",
        "identities",
        "loop_lag_seconds",
        "messages_total",
        "policy_apply_seconds",
        "policy_drops_total",
        "policy_errors_total",
        "policy_packets_total",
        "policy_rules",
        "pool_addresses",
        "ready",
        "rib_routes",
        "session_routes",
        "session_transitions_total",
        "session_up",
        "workloads",
    }


def test_dashboard_and_alerts_ask_for_series_that_there_are(running: Running) -> None:
    """Also where a healthy cluster has none, and where a panel would then show 0."""
    config = Path(__file__).parents[2] / "config"
    texts = [(config / name).read_text(encoding="utf-8") for name in ("grafana/bgpmesh.json", "alerts.yml")]
    asked = {name for text in texts for name in re.findall(r"\bbgpmesh_\w+", text)}
    assert len(asked) > 20
    named = {metric.name for metric in Metrics(running, per_peer=True).collect()}
    named |= {f"{name}{suffix}" for name in named for suffix in ("_bucket", "_total")}
    assert asked <= named


def test_a_path_is_up_when_bfd_says_so(running: Running) -> None:
    """By peer, or added up; a path that is not watched has no sample, one of which nothing was heard is down."""
    text = Metrics(running, per_peer=True).render()
    assert (one(text, "bfd_up", peer="n2"), one(text, "bfd_up", peer="n3")) == (1, 0)
    assert one(Metrics(running, per_peer=False).render(), "bfd_up") == 1
    running.engine.peers.paths.reports.clear()
    assert one(Metrics(running, per_peer=True).render(), "bfd_up", peer="n2") == 0
    running.engine.peers.paths.watched = ()
    assert one(Metrics(running, per_peer=True).render(), "bfd_up", peer="n2") is None
    running.bfd.discarded["from too far away"] = 7
    assert one(Metrics(running, per_peer=True).render(), "bfd_discarded_total", reason="from too far away") == 7


def test_values_are_read_when_somebody_scrapes(running: Running) -> None:
    """What changed since is in the next scrape."""
    running.speaker.messages |= {(PeerName("n2"), "sent", "update"): 4, (PeerName("n3"), "sent", "update"): 1}
    metrics = Metrics(running, per_peer=True)
    text = metrics.render()
    assert one(text, "build_info", version=__version__) == 1
    assert (one(text, "session_up", peer="n2"), one(text, "session_up", peer="n3")) == (1, 0)
    assert one(text, "session_routes", peer="n2", family="ipv4", kind="received") == 2
    assert one(text, "messages_total", direction="sent", type="update") == 5
    assert one(text, "fib_routes", state="failed") == 1
    assert one(text, "pool_addresses", pool="default", state="used") == 1
    assert (one(text, "ready"), one(text, "config_generation")) == (1, 3)
    running.problems.append("starting")
    running.generation += 1
    text = metrics.render()
    assert (one(text, "ready"), one(text, "config_generation")) == (0, 4)


def test_without_peers_there_are_their_sums(running: Running) -> None:
    """With per_peer = false the peer label goes, and a large cluster stays cheap to scrape."""
    text = Metrics(running, per_peer=False).render()
    assert one(text, "session_up") == 1
    assert one(text, "session_transitions_total", to="Connect") == 2
    assert one(text, "session_routes", family="ipv4", kind="received") == 2
    assert b"peer=" not in text


def test_durations_are_recorded_as_they_happen(running: Running) -> None:
    """An UPDATE counts once however many prefixes it had; a clock that steps back is no negative lag."""
    metrics = Metrics(running, per_peer=True)
    metrics.converged([(0.004, 1000), (20.0, 1)])
    metrics.burst_written(0.01)
    metrics.lagged(-0.001)
    metrics.policy_applied(0.02)
    text = metrics.render()
    assert one(text, "convergence_seconds_count") == 2
    assert one(text, "convergence_seconds_bucket", le="0.005") == 1
    assert one(text, "fib_burst_seconds_sum") == 0.01
    assert one(text, "policy_apply_seconds_sum") == 0.02
    assert one(text, "loop_lag_seconds_bucket", le="0.0005") == 1


def test_nothing_of_the_daemon_is_read_before_the_first_scrape(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics may be made before the engine is complete."""
    monkeypatch.delattr(running, "engine")
    Metrics(running, per_peer=True)


def test_the_library_is_loaded_by_the_first_scrape() -> None:
    """A start does not pay for prometheus_client, nor for the HTTP and mail of the standard library that it brings."""
    program = "import sys, bgpmesh.daemon\nprint(*{'prometheus_client', 'http', 'email'}.intersection(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_drops_are_there_by_policy_before_there_are_any(running: Running) -> None:
    """And so is what is fixed, so that the first drop is an increase; a staged policy has a series of its own."""
    chains, compiled = made(policy("web", BAD), replace(policy("next", WEB), is_staged=True))
    running.counters.know(chains, compiled)
    metrics = Metrics(running, per_peer=True)
    assert one(metrics.render(), "policy_drops_total", policy="shop/web") == 0
    assert one(metrics.render(), "policy_drops_total", policy="(spoofed)") == 0
    key, rule = rule_of(chains, compiled, "shop/web")
    running.counters.read({key: {rule: (3, 300)}})
    text = metrics.render()
    assert one(text, "policy_drops_total", policy="shop/web") == 3
    assert one(text, "policy_packets_total", verdict="deny") == 3
    assert one(text, "policy_packets_total", verdict="established") == 0
    assert one(text, "policy_staged_packets_total", policy="shop/next", verdict="allow") == 0
