"""What `doctor` finds: the file, addresses, port, disk, programs, and what the daemon says."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from bgpmesh import cli, doctor
from bgpmesh.control import client

FILE = """
[cluster]
asn = 64512
port = {port}
[pool.default]
cidr = "10.244.0.0/16"
[node.n1]
address = "{address}"
pod_cidrs = ["10.244.1.0/26"]
[state]
directory = "{directory}"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a good file, of a node that this host is."""
    return written(tmp_path)


def written(folder: Path, address: str = "127.0.0.1", port: int = 0) -> Path:
    """Write a file; 0 is a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = port or free.getsockname()[1]
    path = folder / "f.toml"
    path.write_text(FILE.format(address=address, port=port, directory=folder / "state"), encoding="utf-8")
    return path


def faults(file: Path) -> dict[str, tuple[str, str]]:
    """Return what is wrong, with its cure, by what was looked at; no daemon runs."""
    found = doctor.examine(str(file), "n1", str(file.parent / "nobody.sock"))
    return {each.check: (each.found, each.cure) for each in found if each.level == "fault" and each.check != "sysctl"}


def test_a_good_host_lacks_its_daemon_only(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cure beside it."""
    monkeypatch.setattr(doctor, "PROGRAMS", ("sh",))
    assert faults(file).keys() == {"daemon"}
    assert "systemctl start bgpmesh" in faults(file)["daemon"][1]


def test_an_address_that_this_host_has_not(tmp_path: Path) -> None:
    """The address is named, and where it is said."""
    found, cure = faults(written(tmp_path, "192.0.2.77"))["address 192.0.2.77"]
    assert (found, "node.n1" in cure) == ("Cannot assign requested address", True)


def test_a_port_that_somebody_has(tmp_path: Path) -> None:
    """A daemon could not listen there; how to see who it is."""
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        found, cure = faults(written(tmp_path, port=port))[f"port {port} of 127.0.0.1"]
    assert (found, cure) == ("Address already in use", f"ss -ltnp 'sport = :{port}' names who has it")


def test_a_full_disk_and_programs_that_are_not_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of programs those that are missing are named, and what needs them."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 2048, 2048))
    monkeypatch.setattr(doctor, "PROGRAMS", ("sh", "no-such-program"))
    wrong = faults(file)
    assert wrong[f"state {file.parent / 'state'}"][0] == "2 kB are free"
    assert wrong["packet filter"] == ("no-such-program not found, which workloads need", "apt-get install iptables")


def test_every_problem_of_a_bad_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing else is looked at then; exit 1, since the answer is no."""
    file.write_text(file.read_text("utf-8").replace("64512", '"x"').replace("10.244.1.0", "10.1.1.0"), "utf-8")
    assert cli.main(["doctor", "--config", str(file), "--node", "n1", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["level"] for row in rows] == ["fault", "fault"]
    assert [row["found"].rpartition(": ")[2] for row in rows] == ["not a whole number", "outside every pool"]


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        ("MD5 mismatch suspected: TCPMD5Failure rose by 3: ..", "`password`"),
        ("TTL security mismatch suspected: ..", "`ttl_security`"),
        ("AS mismatch: the peer says 1, configured is 2", "`asn`"),
        ("timed out: 192.0.2.2 port 179 is down, filtered, or asks for an MD5 password", "ping"),
        ("something new", "peers NAME"),
    ],
)
def test_a_session_that_is_down_has_its_cure(
    file: Path, error: str, cure: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what its last error says; the same is not told again as a reason, and warnings are no faults."""
    peers = [{"name": "n2", "state": "Active", "last_error": error}, {"name": "n3", "state": "Established"}]
    reasons = [f"no session is up: n2 is Active: {error}", "draining"]
    status = {"node": "n1", "reasons": reasons, "warnings": ["next hop 192.0.2.9 cannot be reached"], "peers": peers}
    monkeypatch.setattr(client, "call", lambda *_, **__: status)
    assert cli.main(["doctor", "--config", str(file), "--node", "n1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = lines.index(f"fault    peer n2: is Active: {error}")
    assert cure in lines[at + 1]
    assert [line for line in lines if "not ready" in line] == ["fault    not ready: draining"]
    assert "warning  daemon: next hop 192.0.2.9 cannot be reached" in lines


def test_a_daemon_that_is_ready(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port is its own."""
    monkeypatch.setattr(client, "call", lambda *_, **__: {"node": "n1", "reasons": [], "warnings": [], "peers": []})
    found = doctor.examine(str(file), "n1", None)
    assert "is ready, as node n1" in [each.found for each in found]
    assert not any(each.check.startswith("port") for each in found)
