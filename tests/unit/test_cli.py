"""The command, run as people run it: output, exit code, and what it imports."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgpmesh import __version__, cli
from bgpmesh.errors import KernelError

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden" / "cli"

CHECKED = """
[cluster]
asn = 64512
topology = "reflectors"
password = "not shown"
[pool.default]
cidr = "10.244.0.0/16"
[node.n1]
address = "192.0.2.1"
address6 = "2001:db8::1"
pod_cidrs = ["10.244.1.0/26"]
advertise = ["203.0.113.7/32"]
reflector = true
labels = { rack = "r1" }
[node.n2]
address = "192.0.2.2"
[node.n3]
address = "192.0.2.3"
asn = 64513
[peer.tor1]
address = "192.0.2.254"
asn = 65001
nodes = "rack == 'r1'"
bfd = { interval_ms = 100 }
[peer.nobody]
address = "192.0.2.253"
asn = 65001
nodes = "rack == 'r9'"
"""


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty directory, on a host that is no node."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BGPMESH_NODE", raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")


@contextmanager
def daemon(path: str, answer: object) -> Iterator[list[dict[str, object]]]:
    """Answer every request at a socket alike, a list line by line; what was asked is collected."""
    asked: list[dict[str, object]] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    line, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 4)
                    request = json.loads(line)
                    request["files"] = [os.read(descriptor, 100).decode() for descriptor in descriptors]
                    for descriptor in descriptors:
                        os.close(descriptor)
                    asked.append(request)
                    for each in answer if isinstance(answer, list) else [answer]:
                        connection.sendall(json.dumps(each).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


Ran = tuple[int, str, str]
Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Return a function that runs the command and returns (exit code, output, errors).

    `bgpmesh run` keeps signals and the garbage collector off, which later tests and their programs would inherit.
    """

    def ran(*argv: str) -> Ran:
        try:
            code = cli.main(argv)
        except SystemExit as stop:  # argparse's own way out
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield ran
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    gc.enable()


# ── check ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("suffix", ["txt", "json"])
@pytest.mark.parametrize("node", ["n1", "n2", None])
def test_check_output_is_as_recorded(suffix: str, node: str | None, run: Run, is_updating_golden: bool) -> None:
    """The sessions of a node, or of a host outside the cluster the nodes; passwords are never shown."""
    Path("f.toml").write_text(CHECKED)
    code, out, err = run(
        "check", "--config", "f.toml", *(["--node", node] if node else []), *(["--json"] if suffix == "json" else [])
    )
    file = GOLDEN / f"check-{node or 'elsewhere'}.{suffix}"
    if is_updating_golden:
        file.write_text(out, encoding="utf-8")
    assert (code, err) == (0, "")
    assert file.read_text(encoding="utf-8") == out
    assert "not shown" not in out


def test_check_says_every_problem_one_a_line(run: Run) -> None:
    """Exit 2, each problem with file, key, value and reason; with --json the same as data."""
    Path("f.toml").write_text("[cluster]\nasn = 0\nhold_time = 2\n")
    code, out, err = run("check", "--config", "f.toml")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "bgpmesh: f.toml: cluster.asn = 0: not between 1 and 4294967295",
        "bgpmesh: f.toml: cluster.hold_time = 2: 1 and 2 are below the minimum of 3 s (RFC 4271 §4.2)",
    ]
    code, out, err = run("check", "--config", "f.toml", "--json")
    assert (code, err) == (2, "")
    errors = json.loads(out)["errors"]
    assert errors[0] == {
        "file": "f.toml",
        "key": "cluster.asn",
        "value": "0",
        "reason": "not between 1 and 4294967295",
    }


def test_check_refuses_a_node_that_is_not_in_the_file(run: Run) -> None:
    """Asked by name, absence is an error."""
    Path("f.toml").write_text(CHECKED)
    code, _, err = run("check", "--config", "f.toml", "--node", "n9")
    assert (code, "node n9 is not in the file; it has n1, n2, n3" in err) == (2, True)


# ── asking the daemon ────────────────────────────────────────────────────────

STATUS = {"node": "n1", "ready": True, "reasons": [], "uptime_s": 1, "peers": [], "rib": {}, "fib": {}}


def test_without_a_daemon_the_exit_code_is_3(run: Run) -> None:
    """Every command that asks says that nobody is there, as text or JSON."""
    Path("f.json").write_text("{}")
    for argv in (argv for argv, _, code in CODES if code in {0, 1}):
        code, out, err = run(*argv, "--socket", "nobody")
        assert (code, out, err) == (3, "", "bgpmesh: no daemon at nobody: No such file or directory\n")
    code, out, _ = run("status", "--socket", "nobody", "--json")
    assert (code, json.loads(out)["errors"][0]["reason"]) == (3, "no daemon at nobody: No such file or directory")


NOT_FOUND = {"error": {"kind": "not-found", "problems": [{"reason": "none"}]}}
WRONG = {"error": {"kind": "config", "problems": [{"file": "f", "key": "k", "reason": "r"}]}}
ENDS = ["--from", "a", "--to", "b"]
CODES: list[tuple[list[str], object, int]] = [
    (["status"], {"result": STATUS}, 0),
    (["status"], {"result": STATUS | {"ready": False, "reasons": ["starting"]}}, 1),
    (["peers", "n9"], NOT_FOUND, 1),
    (["routes", "x"], {"error": {"kind": "bad-request", "problems": [{"reason": "not a prefix"}]}}, 2),
    (["routes", "203.0.113.0/24"], {"result": []}, 1),
    (["routes", "--received", "n9"], NOT_FOUND, 1),
    (["routes"], {"result": []}, 0),
    (["trace", "203.0.113.0/24"], NOT_FOUND, 1),
    (["reload"], WRONG, 2),
    (["reload"], {"result": {"generation": 2, "warnings": []}}, 0),
    (["workload", "add", "web", "--netns", "f.json"], WRONG, 2),
    (["workload", "del", "web"], NOT_FOUND, 1),
    (["workload", "label", "web", "a=b"], NOT_FOUND, 1),
    (["workload", "list"], {"result": []}, 0),
    (["apply", "-f", "f.json"], {"result": {"applied": ["Tier t"], "refused": []}}, 0),
    (["apply", "-f", "f.json"], {"result": {"applied": ["Tier t"], "refused": [{"reason": "no"}]}}, 2),
    (["delete", "-f", "f.json"], {"result": {"deleted": [], "refused": [{"reason": "is not there"}]}}, 1),
    (["delete", "tier", "t"], {"result": {"deleted": [], "refused": [{"reason": "is of a file"}]}}, 2),
    (["delete", "tier"], {}, 2),
    (["get", "tier", "t"], NOT_FOUND, 1),
    (["get"], {"result": []}, 0),
    (["policy", "list"], {"result": []}, 0),
    (["policy", "preview", "-f", "f.json"], {"result": {"cut_count": 0, "kept_count": 0}}, 0),
    (["policy", "preview", "-f", "f.json"], {"result": {"cut_count": 2, "kept_count": 0}}, 1),
    (["policy", "preview", "-f", "f.json"], {"result": {"cut_count": 0, "kept_count": 2}}, 1),
    (["policy", "preview", "-f", "f.json"], {"result": {"cut_count": 0, "unknown": ["x"]}}, 1),
    (["policy", "preview", "-f", "f.json"], {"result": {"cut_count": 2, "refused": [{"reason": "no"}]}}, 2),
    (["diff"], {"result": {"same": True}}, 0),
    (["diff"], {"result": {"same": False}}, 1),
    (["diff"], WRONG, 2),
    (["diff", "f.json"], {"result": {"unchanged": ["x"]}}, 0),
    (["diff", "f.json"], {"result": {"added": ["x"]}}, 1),
    (["diff", "f.json"], {"result": {"added": ["x"], "refused": [{"reason": "no"}]}}, 2),
    (["confirm"], {"result": {"confirmed": "x"}}, 0),
    (["confirm"], NOT_FOUND, 1),
    (["rollback"], {"result": {"rolled_back": True, "to": "x"}}, 0),
    (["rollback"], NOT_FOUND, 1),
    (["policy", "explain", *ENDS], {"result": {"verdict": "allow"}}, 0),
    (["policy", "explain", *ENDS], {"result": {"verdict": "deny"}}, 1),
    (["policy", "explain", *ENDS], NOT_FOUND, 1),
    (["policy", "drops"], {"result": []}, 0),
    (["policy", "flows"], {"result": []}, 0),
    (["policy", "drops", "--follow"], {"result": "go"}, 3),  # and then the daemon ends
    (["drain"], {"result": "go"}, 3),  # the same
    (["drain"], [{"result": {}}, {"next": {"state": "draining"}}, {"next": {"state": "drained"}}], 0),
    (["drain"], [{"result": {}}, {"next": {"state": "undraining"}}], 1),
    (["undrain"], {"result": {"state": "none"}}, 0),
    (["undrain"], {"result": {"state": "draining"}}, 1),
    (["history"], {"result": []}, 1),
    (
        ["history", "--since", "10m"],
        {"result": [{"at": "2026-01-02T03:04:05+00:00", "event": "peer.up", "keys": {}}]},
        0,
    ),
    (["pool", "show"], {"result": {}}, 0),
    (["pool", "check"], {"result": {"leaks": []}}, 0),
    (["pool", "check"], {"result": {"leaks": [{"fixed": True}, {"fixed": False}]}}, 1),
    (["floating-ip", "list"], {"result": []}, 0),
    (["floating-ip", "add", "1.2.3.4", "web"], {"result": {"external": "1.2.3.4"}}, 0),
    (["floating-ip", "add", "x", "web"], WRONG, 2),
    (["floating-ip", "del", "1.2.3.4"], NOT_FOUND, 1),
]


@pytest.mark.parametrize(("argv", "answer", "code"), CODES)
def test_exit_codes(argv: list[str], answer: object, code: int, run: Run) -> None:
    """0 done, 1 the answer is no, 2 bad use or configuration."""
    Path("f.json").write_text("{}")
    with daemon("s", answer):
        assert run(*argv, "--socket", "s")[0] == code


def test_each_command_that_asks_has_its_exit_codes_seen() -> None:
    """Those that can be told no, as their help has it, and no others."""
    asking = {command.words: command for command in cli.COMMANDS if command.has_socket}
    seen = {(words, code) for argv, _, code in CODES for words in asking if tuple(argv[: len(words)]) == words}
    assert {words for words, _ in seen} == asking.keys()
    assert {words for words, code in seen if code == 1} == {words for words, each in asking.items() if each.no}


def test_a_signal_waits_for_a_daemon_that_begins(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP and SIGUSR1 would end the process while it reads its modules and its state."""
    blocked: list[set[signal.Signals]] = []

    def begins(*_: object) -> int:
        blocked.append(
            {each for each in signal.pthread_sigmask(signal.SIG_BLOCK, ()) if isinstance(each, signal.Signals)}
        )
        return 0

    monkeypatch.setattr("bgpmesh.daemon.run", begins)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        assert run("run")[0] == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        gc.enable()
    assert blocked == [{signal.SIGHUP, signal.SIGUSR1}]


def test_reload_hands_the_content_over(run: Run) -> None:
    """The command reads F, so that F need not exist where the daemon lives; without F the daemon reads its own."""
    Path("f.toml").write_text("[cluster]\nasn = 1\n")
    with daemon("s", {"result": {"generation": 2, "warnings": ["mind the gap"]}}) as asked:
        _, out, _ = run("reload", "f.toml", "--socket", "s")
        run("reload", "--socket", "s")
    assert out == "in force: generation 2\nwarning: mind the gap\n"
    file = str(Path("f.toml").resolve())
    assert [request["args"] for request in asked] == [{"text": "[cluster]\nasn = 1\n", "file": file}, {}]
    code, _, err = run("reload", "absent.toml", "--socket", "s")
    assert (code, err) == (2, "bgpmesh: absent.toml: No such file or directory\n")


def test_apply_tells_a_configuration_from_objects(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TOML file without a kind goes to the reload, as does standard input; all else are objects."""
    texts = {
        "f.toml": "[cluster]\nasn = 1\n",
        "broken.toml": "[cluster",
        "object.toml": 'kind = "Namespace"\n',
        "o.json": '{"kind": "Namespace"}',
    }
    for name, text in texts.items():
        Path(name).write_text(text)
    with daemon("s", {"result": {"generation": 2}}) as asked:
        for name in texts:
            run("apply", "-f", name, "--confirm", "30", "--socket", "s")
        monkeypatch.setattr("sys.stdin", io.StringIO(texts["f.toml"]))
        run("diff", "-", "--socket", "s")
    assert [(each["command"], sorted(each["args"])) for each in asked] == [  # type: ignore[call-overload]
        ("reload", ["confirm", "file", "text"]),
        ("reload", ["confirm", "file", "text"]),
        ("apply", ["confirm", "documents"]),
        ("apply", ["confirm", "documents"]),
        ("diff", ["file", "text"]),
    ]
    assert asked[0]["args"]["confirm"] == 30  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "reason"), [("2024-01-01: x\n", "keys must be str"), ("&a [*a]\n", "Circular reference")]
)
def test_yaml_that_no_json_can_carry_is_refused(run: Run, text: str, reason: str) -> None:
    """A key that is a date, and what contains itself."""
    pytest.importorskip("yaml")
    Path("o.yaml").write_text(text)
    code, _, err = run("apply", "-f", "o.yaml", "--socket", "s")
    assert (code, err.startswith(f"bgpmesh: o.yaml: {reason}")) == (2, True)


@pytest.mark.parametrize("text", ["[cluster]\nasn = 1\n", '{"kind": "Namespace"}'])
def test_what_is_applied_may_be_a_pipe(run: Run, text: str) -> None:
    """As `<(...)` of a shell is: it can be read once."""
    os.mkfifo("pipe")
    with daemon("s", {"result": {"generation": 2}}) as asked:
        writer = threading.Thread(target=Path("pipe").write_text, args=(text,))
        writer.start()
        assert run("apply", "-f", "pipe", "--socket", "s")[0] == 0
        writer.join()
    assert [each["command"] for each in asked] == ["reload" if "cluster" in text else "apply"]


def test_floating_ip_commands_say_what_is_meant(run: Run) -> None:
    """The namespace by its option or before the name; JSON is what the daemon answers."""
    row = {"external": "203.0.113.10", "workload": "shop/web", "outbound": True, "address": "10.244.1.5"}
    with daemon("s", {"result": row}) as asked:
        words = ("floating-ip", "add", "203.0.113.10", "shop/web", "--outbound", "--socket", "s")
        assert run(*words)[1].split() == [
            *("EXTERNAL", "WORKLOAD", "ADDRESS", "OUTBOUND"),
            *("203.0.113.10", "shop/web", "10.244.1.5", "yes"),
        ]
        assert json.loads(run(*words, "--json")[1]) == row
        run("floating-ip", "add", "203.0.113.10", "web", "-n", "shop", "--socket", "s")
        _, out, _ = run("floating-ip", "del", "203.0.113.10", "--socket", "s")
    assert out == "floating address 203.0.113.10 is gone\n"
    first = {"external": "203.0.113.10", "workload": "shop/web", "namespace": "default", "outbound": True}
    assert [request["args"] for request in asked] == [
        first,
        first,
        first | {"workload": "web", "namespace": "shop", "outbound": False},
        {"external": "203.0.113.10"},
    ]


def test_a_floating_address_of_a_workload_that_is_not_here_is_taken_and_said_to_lead_nowhere(run: Run) -> None:
    """On standard error, for scripts too: it is done, as the workload may be yet to come."""
    row = {"external": "203.0.113.10", "workload": "shop/nope", "outbound": False, "address": None}
    words = ("floating-ip", "add", "203.0.113.10", "shop/nope", "--socket", "s")
    with daemon("s", {"result": row}):
        code, out, said = run(*words, "--json")
        assert (code, json.loads(out), run(*words)[2]) == (0, row, said)
    assert said == "bgpmesh: 203.0.113.10 leads nowhere until workload shop/nope is on this node\n"
    with daemon("t", {"result": row | {"address": "10.244.1.5"}}):
        assert run(*words[:-1], "t")[2] == ""


def test_workload_add_opens_the_namespace_and_hands_it_over(run: Run) -> None:
    """The daemon gets a descriptor, and the path for people to read."""
    Path("netns").write_text("a namespace")
    answer = {"result": {"name": "web", "namespace": "shop", "addresses": ["10.0.0.1"], "interface": "bgpmx"}}
    with daemon("s", answer) as asked:
        code, out, err = run(
            "workload", "add", "web", "--netns", "netns", "-n", "shop", "--label", "a=b", "--ip", "10.0.0.1",
            "--socket", "s",
        )  # fmt: skip
    assert (code, err, "10.0.0.1" in out) == (0, "", True)
    assert asked == [
        {
            "command": "workload add",
            "args": {
                "name": "web",
                "namespace": "shop",
                "label": ["a=b"],
                "ip": ["10.0.0.1"],
                "port": [],
                "netns": str(Path("netns").absolute()),
            },
            "files": ["a namespace"],
        }
    ]


def test_workload_add_of_a_namespace_that_is_not_there(run: Run) -> None:
    """Bad use, found before the daemon is asked."""
    code, _, err = run("workload", "add", "web", "--netns", "absent", "--socket", "s")
    assert (code, err) == (2, f"bgpmesh: {Path('absent').absolute()}: No such file or directory\n")


def test_workload_add_does_not_wait_at_a_fifo(run: Run) -> None:
    """Whatever lies at the path is handed over, and the daemon says what it is not."""
    os.mkfifo("fifo")
    answer = {"error": {"kind": "config", "problems": [{"key": "netns", "reason": "it is not a network namespace"}]}}
    with daemon("s", answer):
        code, _, err = run("workload", "add", "web", "--netns", "fifo", "--socket", "s")
    assert (code, err) == (2, "bgpmesh: netns: it is not a network namespace\n")


def test_an_empty_path_of_a_namespace_is_no_process(run: Run) -> None:
    """It is the current directory, as elsewhere; nobody is asked about a process called None."""
    assert run("workload", "add", "web", "--netns", "", "--socket", "s")[0] == 3


# ── use ──────────────────────────────────────────────────────────────────────


def test_version_is_name_and_number(run: Run) -> None:
    """As written once."""
    assert run("--version") == (0, f"bgpmesh {__version__}\n", "")


@pytest.mark.parametrize(
    "argv",
    [[], ["drain", "--limit", "-1"], ["status", "x"],
     ["workload"], ["workload", "add", "x"], ["routes", "--received", "a", "--kernel"],
     ["workload", "add", "x", "--pid", "self"], ["workload", "add", "x", "--pid", "²"], ["run", "--json"],
     ["apply", "-f", "x", "--confirm", "0"], ["apply", "-f", "x", "--confirm", "soon"]],
)  # fmt: skip
def test_bad_use_is_exit_2(argv: list[str], run: Run) -> None:
    """Also for commands of later versions, which are absent rather than empty."""
    assert run(*argv)[0] == 2


def test_without_a_command_the_help_says_what_there_is(run: Run) -> None:
    """As errors, since nothing was done."""
    assert run() == (2, "", run("--help")[1])


def test_an_unknown_log_level_is_bad_use(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told as everything else that an operator writes."""
    monkeypatch.setenv("BGPMESH_LOG", "loud")
    expected = "bgpmesh: BGPMESH_LOG = loud: not DEBUG, INFO, WARNING, ERROR or CRITICAL\n"
    assert run("run", "--config", "absent") == (2, "", expected)


def test_every_command_has_help_with_an_example_and_the_exit_codes(run: Run) -> None:
    """--help tells what it does, how it is used, and what each exit code means that it can have."""
    for command in cli.COMMANDS:
        code, out, _ = run(*command.words, "--help")
        assert (code, command.example in out) == (0, True)
        told = [int(line.split()[0]) for line in out.partition("exit codes:\n")[2].splitlines()]
        assert told == [0, *([1] if command.no else []), 2, *([3] if command.has_socket else [])]
        assert max(map(len, out.splitlines())) <= 80
        assert run("--help")[0] == 0


def test_asking_imports_neither_asyncio_nor_the_core_nor_third_parties() -> None:
    """`bgpmesh status` starts in milliseconds because it loads the standard library only."""
    program = (
        "import sys\nfrom bgpmesh import cli\ncli.main(['status', '--socket', '/nobody'])\n"
        "heavy = ('asyncio', 'exabgp', 'pyroute2', 'prometheus', 'bgpmesh')\n"
        "print(*sorted(name for name in sys.modules if name.startswith(heavy)))"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.split() == [
        "bgpmesh",
        "bgpmesh.cli",
        "bgpmesh.cli.asking",
        "bgpmesh.cli.commands",
        "bgpmesh.cli.own",
        "bgpmesh.control",
        "bgpmesh.control.cells",
        "bgpmesh.control.client",
        "bgpmesh.control.tables",
    ]


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`bgpmesh ... | head -1` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = subprocess.run(
        [sys.executable, "-m", "bgpmesh", "--help"],
        check=False,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=buffered,
    )
    os.close(writer)
    assert (0, "") == (ended.returncode, ended.stderr)


# ── uninstall ────────────────────────────────────────────────────────────────


def test_uninstall_refuses_while_a_daemon_answers(run: Run) -> None:
    """Nothing is removed under a running daemon."""
    Path("f.toml").write_text("[cluster]\nasn = 1\n")
    with daemon("s", {"result": {}}):
        code, _, err = run("uninstall", "--config", "f.toml", "--socket", "s", "--state", "state")
    assert (code, err) == (1, "bgpmesh: a daemon answers at s: stop it first\n")


def test_uninstall_removes_what_is_ours_and_nothing_else(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routes, links and chains by their own rooms, our files here; a stranger's file keeps the directory."""
    monkeypatch.setattr("bgpmesh.kernel.fib.uninstall", lambda options: [f"route of protocol {options.protocol}"])
    monkeypatch.setattr("bgpmesh.kernel.links.uninstall", lambda prefix: [f"link {prefix}x"])
    monkeypatch.setattr("bgpmesh.kernel.chains.uninstall", lambda: ["set bm-x"])
    Path("f.toml").write_text("[cluster]\nasn = 1\n[kernel]\nprotocol = 78\n")
    Path("bgpmesh").mkdir()
    for name in ("peers.json", "config.json.new", "lock", "precious"):
        Path("bgpmesh", name).touch()
    Path("s.lock").touch()
    code, out, _ = run("uninstall", "--config", "f.toml", "--socket", "s", "--state", "bgpmesh")
    assert (code, out.splitlines()) == (
        0,
        [
            "link bgpmx",
            "route of protocol 78",
            "set bm-x",
            "file bgpmesh/peers.json",
            "file bgpmesh/config.json.new",
            "file bgpmesh/lock",
            "file s.lock",
        ],
    )
    assert [path.name for path in Path("bgpmesh").iterdir()] == ["precious"]


def test_uninstall_says_what_it_could_not_remove(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that refuses is named, and so is what was removed before; exit 1."""

    def refuse(options: object) -> list[str]:
        raise KernelError(f"routes of protocol {getattr(options, 'protocol', '')}", 1, "Operation not permitted")

    monkeypatch.setattr("bgpmesh.kernel.fib.uninstall", refuse)
    monkeypatch.setattr("bgpmesh.kernel.links.uninstall", lambda _: ["link bgpmx"])
    Path("f.toml").write_text("[cluster]\nasn = 1\n")
    code, _, err = run("uninstall", "--config", "f.toml", "--socket", "s", "--state", "state")
    expected = "bgpmesh: routes of protocol 77: Operation not permitted (removed so far: link bgpmx)\n"
    assert (code, err) == (1, expected)
