from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import TypedDict

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"

# What interface.md promises to be there. A dashboard asks for nothing else.
SERIES = {
    "bgpmesh_bfd_up",
    "bgpmesh_build_info",
    "bgpmesh_config_generation",
    "bgpmesh_convergence_seconds_bucket",
    "bgpmesh_drained",
    "bgpmesh_fib_burst_seconds_bucket",
    "bgpmesh_fib_drift_repaired_total",
    "bgpmesh_fib_routes",
    "bgpmesh_flowspec_refused_total",
    "bgpmesh_flowspec_rules",
    "bgpmesh_loop_lag_seconds_bucket",
    "bgpmesh_messages_total",
    "bgpmesh_policy_drops_total",
    "bgpmesh_policy_errors_total",
    "bgpmesh_policy_packets_total",
    "bgpmesh_pool_addresses",
    "bgpmesh_process_routes",
    "bgpmesh_process_up",
    "bgpmesh_ready",
    "bgpmesh_rib_routes",
    "bgpmesh_session_routes",
    "bgpmesh_session_transitions_total",
    "bgpmesh_session_up",
    "bgpmesh_workloads",
}


class Source(TypedDict):
    """Whom a query asks."""

    type: str
    uid: str


class Target(TypedDict):
    """One query of a panel."""

    refId: str
    datasource: Source
    expr: str


class Place(TypedDict):
    """Where a panel lies; the grid is 24 wide."""

    x: int
    y: int
    w: int
    h: int


class Panel(TypedDict, total=False):
    """A panel, as far as it is looked at here."""

    id: int
    type: str
    title: str
    description: str
    gridPos: Place
    datasource: Source
    targets: list[Target]


class Variable(TypedDict):
    """A choice at the head of the dashboard."""

    name: str
    type: str


class Templating(TypedDict):
    """The choices."""

    list: list[Variable]


class Dashboard(TypedDict):
    """A Grafana dashboard, as far as it is looked at here."""

    uid: str
    title: str
    schemaVersion: int
    templating: Templating
    panels: list[Panel]


class Service(TypedDict, total=False):
    """One service of the compose file, as far as it is looked at here."""

    image: str
    hostname: str
    privileged: bool
    cap_drop: list[str]
    cap_add: list[str]
    security_opt: list[str]
    pid: str
    networks: dict[str, dict[str, str]] | list[str]
    volumes: list[str]


class Compose(TypedDict):
    """The compose file, as far as it is looked at here."""

    services: dict[str, Service]


def needed(program: str) -> str:
    """Return the path of a program; skip, naming it, where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def output_of(*command: str) -> tuple[int, str]:
    """Return a command's exit code and all that it said."""
    done = subprocess.run(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
    )
    return done.returncode, done.stdout


def dashboard() -> Dashboard:
    """Return the dashboard."""
    read: Dashboard = json.loads((CONFIG / "grafana/bgpmesh.json").read_text(encoding="utf-8"))
    return read


def services() -> dict[str, Service]:
    """Return the services of the compose file."""
    read: Compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return read["services"]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Make a copy of the unit that starts a program which is there."""
    text = (CONFIG / "bgpmesh.service").read_text(encoding="utf-8")
    installed = "/opt/bgpmesh/bin/bgpmesh"
    assert text.count(installed) == 1
    copy = tmp_path / "bgpmesh.service"
    copy.write_text(text.replace(installed, "/bin/true"), encoding="utf-8")
    return copy


def test_systemd_has_nothing_to_say_about_the_unit(unit: Path) -> None:
    """Every key and value of the unit is known (systemd-analyze exits 0 on those that are not)."""
    assert output_of(needed("systemd-analyze"), "verify", "--man=no", str(unit)) == (0, "")


def test_the_unit_is_exposed_no_more_than_it_must(unit: Path) -> None:
    """The unit stays at an exposure of 3.0 of 10 or below, as systemd-analyze counts."""
    command = ("security", "--offline=yes", "--no-pager", "--threshold=30", str(unit))
    exit_code, said = output_of(needed("systemd-analyze"), *command)
    assert exit_code == 0, said


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "config/prometheus.yml"),
        ("check", "rules", "--lint=all", "--lint-fatal", "config/alerts.yml"),
        ("test", "rules", "config/alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(command: tuple[str, ...]) -> None:
    """Prometheus can read its configuration and rules, and the rules fire on what they should and on nothing else."""
    exit_code, said = output_of(needed("promtool"), *command)
    assert exit_code == 0, said


def test_every_alert_has_a_unit_test() -> None:
    """No rule stands there that was never seen to fire."""
    rules = yaml.safe_load((CONFIG / "alerts.yml").read_text(encoding="utf-8"))
    tests = yaml.safe_load((CONFIG / "alerts_test.yml").read_text(encoding="utf-8"))
    named = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    fired = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert named == fired


def test_the_dashboard_has_the_shape_that_grafana_reads() -> None:
    """Panels have identifiers of their own, a place in the grid, and queries that go to the chosen source."""
    read = dashboard()
    chosen: Source = {"type": "prometheus", "uid": "${datasource}"}
    assert (read["uid"], read["title"]) == ("bgpmesh", "bgpmesh")
    assert read["schemaVersion"] >= 36
    assert [(v["name"], v["type"]) for v in read["templating"]["list"]] == [
        ("datasource", "datasource"),
        ("node", "query"),
    ]
    identifiers = [panel["id"] for panel in read["panels"]]
    assert sorted(set(identifiers)) == sorted(identifiers)
    for panel in read["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        assert panel["datasource"] == chosen, panel["title"]
        assert panel["targets"], panel["title"]
        assert [t["refId"] for t in panel["targets"]] == list("ABCDEF"[: len(panel["targets"])]), panel["title"]
        assert all(t["expr"] and t["datasource"] == chosen for t in panel["targets"]), panel["title"]


def test_no_panel_lies_on_another() -> None:
    """Each cell of the grid belongs to one panel at most."""
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_dashboard_and_alerts_ask_for_series_that_are_promised() -> None:
    """A misspelt series is no error to Prometheus, so the names are held against the promised ones."""
    texts = [t["expr"] for panel in dashboard()["panels"] for t in panel.get("targets", [])]
    rules = yaml.safe_load((CONFIG / "alerts.yml").read_text(encoding="utf-8"))
    texts += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    asked = {name for text in texts for name in re.findall(r"\bbgpmesh_\w+", text)}
    assert asked == SERIES


def test_no_container_is_privileged() -> None:
    """Every node gives up all capabilities but the four it needs, a workload all but the one to ping with."""
    node = ["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SYS_ADMIN"]
    ours = {name: service for name, service in services().items() if service["image"] == "bgpmesh:local"}
    assert sorted(ours) == ["n1", "n2", "n3", "w1", "w2", "w3"]
    for name, service in ours.items():
        assert service["cap_drop"] == ["ALL"]
        assert service["cap_add"] == (node if "hostname" in service else ["NET_RAW"]), name
    for service in services().values():
        assert not {"privileged", "security_opt", "pid"} & service.keys()


def test_the_compose_file_gives_each_node_the_addresses_of_the_cluster_file() -> None:
    """Both files name the same nodes at the same addresses, and every pod CIDR lies in a pool."""
    cluster = tomllib.loads((CONFIG / "compose.toml").read_text(encoding="utf-8"))
    named = {name: (node["address"], node["address6"]) for name, node in cluster["node"].items()}
    composed = {}
    for name, service in services().items():
        if "hostname" in service and isinstance(service["networks"], dict):
            fabric = service["networks"]["fabric"]
            composed[name] = (fabric["ipv4_address"], fabric["ipv6_address"])
    assert named == composed
    pools = [ip_network(pool["cidr"]) for pool in cluster["pool"].values()]
    for node in cluster["node"].values():
        for cidr in map(ip_network, node["pod_cidrs"]):
            assert any(p.version == cidr.version and p.supernet_of(cidr) for p in pools), cidr  # type: ignore[arg-type]


def test_every_file_that_a_container_mounts_is_there() -> None:
    """Docker would make an empty folder of a file that is missing, and say nothing."""
    mounted = {volume.split(":")[0] for service in services().values() for volume in service.get("volumes", [])}
    files = {name for name in mounted if name.startswith("./")}
    assert files
    assert sorted(name for name in files if not (ROOT / name).exists()) == []
