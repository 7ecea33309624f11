"""The lab runner: what it builds, what it refuses, what it leaves behind."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from containerlab.lab import REPOSITORY, Lab, LabError, load, missing, until

TOPOLOGIES = sorted((REPOSITORY / "containerlab").glob("*/*.clab.yml"))
SCHEMA = REPOSITORY.parent / "shared/clab.schema.json"

needs_namespaces = pytest.mark.skipif(bool(missing()), reason=f"no labs here: {missing()}")

MERGED = """
name: merged
topology:
  defaults: {kind: linux, env: {A: default, B: default, C: default, D: default}, exec: [SAY 1]}
  kinds:
    linux: {env: {B: kind, C: kind, D: kind}, exec: [SAY 2], sysctls: {net.ipv4.ip_forward: 1}}
  groups:
    rack: {env: {C: group, D: group}, exec: [SAY 3], cmd: sleep 600}
  nodes:
    a: {group: rack, env: {D: "a 'node'"}, exec: [SAY 4], binds: ["here.txt:/etc/deep/there.txt:ro"]}
    b: {image: "ignored:latest"}
  links:
    - {endpoints: ["a:eth1", "b:eth7"], mtu: 1400, ipv4: ["10.9.0.1/24", "10.9.0.2/24"]}
    - type: veth
      endpoints:
        - {node: a, interface: eth2, mac: "02:00:00:00:00:0a", ipv6: "fd09::1/64"}
        - {node: b, interface: eth2, ipv6: "fd09::2/64"}
"""


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """Return a topology that says something at every level."""
    (tmp_path / "here.txt").write_text("bound\n", encoding="utf-8")
    path = tmp_path / "merged.clab.yml"
    path.write_text(re.sub(r"SAY (\d)", r"sh -c 'echo \1 >> /run/bgpmesh/order'", MERGED), encoding="utf-8")
    return path


def test_there_is_something_to_check() -> None:
    """The folder of topologies is not empty, and each has its drawing beside it."""
    assert TOPOLOGIES
    assert [path for path in TOPOLOGIES if not (path.parent / "README.md").exists()] == []


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: str(path.parent.name))
def test_topologies_are_valid_for_containerlab(path: Path) -> None:
    """Every topology satisfies containerlab's own schema, which lies beside the repository or nowhere."""
    if not SCHEMA.exists():
        pytest.skip("containerlab's schema is not here")
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(SCHEMA), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ok -- validation done\n")


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: str(path.parent.name))
def test_topologies_are_read_whole(path: Path) -> None:
    """The runner refuses nothing in the topologies that are shipped."""
    assert load(path).name == path.parent.name


def test_the_reflector_differs_only_in_writing_no_route() -> None:
    """The reflector's file is its clients' with `[kernel] enabled = false`."""
    folder = REPOSITORY / "containerlab/reflector"
    clients = tomllib.loads((folder / "bgpmesh.toml").read_text(encoding="utf-8"))
    reflector = tomllib.loads((folder / "rr1.toml").read_text(encoding="utf-8"))
    assert {**clients, "kernel": {"enabled": False}} == reflector


def test_what_namespaces_cannot_do_is_refused_by_name(tmp_path: Path) -> None:
    """Every fault of a topology is listed at once."""
    path = tmp_path / "bad.clab.yml"
    path.write_text(
        "name: bad\ntopology:\n  nodes: {a: {kind: nokia_srlinux}, b: {kind: linux, startup-config: x}}\n"
        '  links: [{endpoints: ["a:eth1", "c:eth1"]}, {type: macvlan, endpoint: {node: a, interface: eth2}}]\n',
        encoding="utf-8",
    )
    with pytest.raises(LabError) as caught:
        load(path)
    assert [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()] == [
        "node a: kind 'nokia_srlinux' cannot be built from namespaces (linux and bridge can)",
        "node b: startup-config is not supported in namespaces",
        "link 0: there is no node 'c'",
        "link 1: type macvlan is not supported in namespaces",
        "link 1: two endpoints are needed, not 0",
    ]


@needs_namespaces
def test_levels_are_merged_and_applied(merged: Path) -> None:
    """Node over group over kind over defaults; commands of all four in this order; links and binds as asked."""
    with Lab(merged) as lab:
        printed = lab.exec("a", ["sh", "-c", 'echo "$A $B $C $D"; cat /run/bgpmesh/order']).stdout
        assert printed == "default kind group a 'node'\n1\n2\n3\n4\n"
        assert lab.read("a", "/etc/deep/there.txt") == "bound\n"
        assert lab.exec("a", ["touch", "/etc/deep/there.txt"], check=False).returncode != 0
        assert lab.read("a", "/proc/sys/net/ipv4/ip_forward") == "1\n"
        assert lab.read("b", "/sys/class/net/eth7/mtu") == "1400\n"
        assert lab.read("a", "/sys/class/net/eth2/address") == "02:00:00:00:00:0a\n"
        assert lab.exec("b", ["hostname"]).stdout == "b\n"
        lab.exec("a", ["ping", "-c", "1", "-w", "30", "10.9.0.2"])
        lab.exec("a", ["ping", "-c", "1", "-w", "30", "fd09::2"])
    assert not Path("/etc/deep").exists()


@needs_namespaces
def test_nodes_have_folders_of_their_own_and_share_the_names_of_namespaces(merged: Path) -> None:
    """What one node writes to its state folder the other does not see; a workload's namespace both can name."""
    with Lab(merged) as lab:
        for folder in ("/run/bgpmesh", "/var/lib/bgpmesh", "/etc/bgpmesh"):
            lab.write("a", f"{folder}/mine", "a")
            assert lab.exec("b", ["ls", f"{folder}/mine"], check=False).returncode != 0
        lab.add_workload_namespace("a", "web")
        assert lab.exec("b", ["ip", "-n", "web", "-br", "link"]).stdout.split()[0] == "lo"


@needs_namespaces
def test_a_program_that_is_killed_is_the_program_itself(merged: Path) -> None:
    """`kill` ends the program in the node, not what leads into it, and its exit status says so."""
    with Lab(merged) as lab:
        process = lab.start("a")
        until(lambda: "sleep 600" in lab.exec("b", ["ps", "-eo", "args"]).stdout, "the topology's cmd")
        assert process.kill() == -9
        assert "sleep 600" not in lab.exec("b", ["ps", "-eo", "args"]).stdout


@needs_namespaces
def test_a_lab_whose_user_is_killed_vanishes(merged: Path) -> None:
    """Kill -9 of whoever holds a lab ends every process of it, and with the last one its namespaces."""
    code = (
        "import sys\nfrom containerlab.lab import Lab\n"
        "lab = Lab(sys.argv[1]).__enter__()\np = lab.start('a', ['sleep', '601'])\n"
        "print(p.pid, lab.directory, flush=True)\nsys.stdin.read()\n"
    )
    user = subprocess.Popen(
        [sys.executable, "-c", code, str(merged)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert user.stdout
    pid, directory = user.stdout.readline().split()
    assert Path(f"/proc/{pid}").exists()
    user.kill()
    user.communicate()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the lab's processes to end")
    shutil.rmtree(directory)  # only this is left, for somebody to read


@needs_namespaces
def test_a_failed_command_of_the_topology_is_named_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lab that cannot come up says which node and why, and is gone."""
    path = tmp_path / "failing.clab.yml"
    path.write_text("name: failing\ntopology: {nodes: {a: {kind: linux, exec: [cat /nothing]}}}\n", encoding="utf-8")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(LabError, match=r"failing: a did not come up: cat: /nothing: No such file"), Lab(path):
        pass
    assert list(tmp_path.iterdir()) == [path]


@needs_namespaces
def test_the_command_runs_beside_the_nodes_and_returns_their_exit_status(merged: Path) -> None:
    """`lab.py run` starts each cmd, offers `node NAME COMMAND`, and ends as COMMAND did."""
    runner = [sys.executable, str(REPOSITORY / "containerlab/lab.py"), "run", str(merged), "--"]
    done = subprocess.run([*runner, "sh", "-c", "node b hostname; exit 7"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "b\n")


@needs_namespaces
@pytest.mark.parametrize("name", ["mesh3", "reflectors2"])
def test_what_a_readme_tells_to_run_shows_what_it_says(name: str) -> None:
    """Word by word, and at once: every session is up when the command runs."""
    said = (REPOSITORY / "containerlab" / name / "README.md").read_text(encoding="utf-8")
    (line,) = (line.split() for line in said.splitlines() if line.startswith("    python containerlab/lab.py run"))
    done = subprocess.run(
        [sys.executable, *line[1:]], capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    sessions = done.stdout.splitlines()[1:]
    assert sessions
    assert all(" Established " in row for row in sessions), done.stdout
