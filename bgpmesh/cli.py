"""The command: arguments -> a request to the daemon, or a command of its own -> JSON or a table.

`COMMANDS` is the table of all there is. What talks to the daemon imports the standard library only, so
that it starts in milliseconds; the others import what they need when they need it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bgpmesh import __version__
from bgpmesh.control import client, tables

if TYPE_CHECKING:
    from bgpmesh.config import Config

DONE, NO, BAD, NO_DAEMON = 0, 1, 2, 3
DEFAULT_CONFIG = "/etc/bgpmesh/bgpmesh.toml"
LONGEST_TRIAL_S = 86_400  # as the daemon has it (control/arguments.py)
EXIT_CODES = """\
exit codes: 0 done; 1 the answer is no (not ready, not there, denied);
            2 bad use, bad configuration or refused; 3 no daemon answers;
            130 interrupted
"""

Arguments = argparse.Namespace
Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its words, what it does, how it is used, its arguments, and the function that is it.

    `no` and `bad` are what exit codes 1 and 2 mean; where `no` is "" there is no 1.
    `more` is what `--help` tells beside that.
    """

    words: tuple[str, ...]
    help: str
    example: str
    run: Callable[[Arguments], int]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda _: None
    has_socket: bool = True
    no: str = ""
    bad: str = "bad use"
    more: str = ""

    @property
    def exit_codes(self) -> str:
        """The exit codes that it has, one a line."""
        codes = {DONE: "done", NO: self.no, BAD: self.bad, NO_DAEMON: "no daemon answers" if self.has_socket else ""}
        return "\n".join(["exit codes:", *(f"  {code}  {words}" for code, words in codes.items() if words)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        try:
            words = sys.argv[1:] if argv is None else argv
            arguments = _parser(words).parse_args(words)
            code: int = arguments.run(arguments)
        finally:
            if sys.stdout is not None:  # closed by whoever started us
                sys.stdout.flush()  # also on the way out that --help takes: at exit it is too late to catch anything
    except BrokenPipeError:
        # Whoever read us has seen enough (`| head`); Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return 130
    return code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the command that `words` begin with, or of all: each takes argparse 0.2 ms."""
    asked = [command for command in COMMANDS if command.words[0] in words[:1]]
    top = argparse.ArgumentParser(
        prog="bgpmesh",
        description="A BGP mesh for containers, without an overlay.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"bgpmesh {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    groups = {
        name: commands.add_parser(name, help=f"{what}: {', '.join(_actions(name))}").add_subparsers(
            metavar="ACTION", required=True
        )
        for name, what in (
            ("workload", "workloads"),
            ("pool", "addresses"),
            ("policy", "packet policy"),
            ("floating-ip", "external addresses that lead to workloads"),
        )
    }
    for command in asked or COMMANDS:
        inside = commands if len(command.words) == 1 else groups[command.words[0]]
        parser = inside.add_parser(
            command.words[-1],
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.\n\n{command.more}".strip(),
            epilog=f"example: {command.example}\n\n{command.exit_codes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(parser)
        if command.has_socket:
            parser.add_argument("--socket", metavar="P", default=client.DEFAULT_SOCKET, help="the daemon's socket")
        if command.words != ("run",):
            parser.add_argument("--json", action="store_true", help="print JSON")
        parser.set_defaults(run=command.run)
    return top


def _actions(group: str) -> list[str]:
    return [command.words[1] for command in COMMANDS if command.words[0] == group]


# ── commands of their own ────────────────────────────────────────────────────


def _run(arguments: Arguments) -> int:
    gc.disable()  # nothing that a start makes is garbage; the daemon enables it once it runs
    from bgpmesh import daemon  # noqa: PLC0415  only this command pays for asyncio, ExaBGP and pyroute2

    return daemon.run(arguments.config, arguments.node, arguments.socket, arguments.state)


def _check(arguments: Arguments) -> int:
    from bgpmesh import config  # noqa: PLC0415  the reader of the file is not needed to ask the daemon
    from bgpmesh.errors import ConfigError  # noqa: PLC0415  the same

    try:
        loaded = config.load(arguments.config)
        node = _node_to_check(loaded, arguments.node)
        result = config.shown(loaded, node)
    except ConfigError as error:
        return _refused(arguments, [problem._asdict() for problem in error.problems])
    _print(arguments, result, tables.check)
    return DONE


def _node_to_check(loaded: Config, asked: str | None) -> str | None:
    """Return the node to show: as asked, or this host if it is one; None on a machine outside of the cluster."""
    from bgpmesh import config  # noqa: PLC0415  as above
    from bgpmesh.errors import ConfigError  # noqa: PLC0415  as above

    try:
        return config.find_node(loaded, asked)
    except ConfigError:
        if asked or os.environ.get("BGPMESH_NODE"):
            raise
        return None


def _uninstall(arguments: Arguments) -> int:
    """Take everything of ours away; works without a daemon, and refuses while one runs."""
    from bgpmesh import config, uninstall  # noqa: PLC0415  only this command needs both ends of the house
    from bgpmesh.errors import ConfigError  # noqa: PLC0415  the same

    try:
        is_absent = arguments.config == DEFAULT_CONFIG and not Path(arguments.config).exists()
        loaded = config.defaults() if is_absent else config.load(arguments.config)
        socket = arguments.socket or loaded.control.socket
        directory = Path(arguments.state or loaded.state.directory)
        if _is_answered(socket):
            return _failed(arguments, f"a daemon answers at {socket}: stop it first", NO)
        removed, problem = uninstall.uninstall(loaded, socket, directory)
    except ConfigError as error:
        return _refused(arguments, [each._asdict() for each in error.problems])
    if problem:
        done = f" (removed so far: {'; '.join(removed)})" if removed else ""
        return _failed(arguments, f"{problem}{done}", NO)
    _print(arguments, {"removed": removed}, lambda _: "\n".join(removed) or "nothing of ours was there")
    return NO if any(uninstall.STAYS in line for line in removed) else DONE


def _is_answered(socket: str) -> bool:
    try:
        client.call(socket, "status", {}, timeout_s=5.0)
    except client.NoDaemonError:
        return False
    except client.RefusedError:
        return True
    return True


# ── commands for the daemon ──────────────────────────────────────────────────


def _ask(
    arguments: Arguments,
    command: str,
    args: Mapping[str, object],
    show: Callable[[object], str],
    *,
    descriptors: Sequence[int] = (),
    judge: Callable[[object], int] = lambda _: DONE,
    timeout_s: float | None = client.TIMEOUT_S,
) -> int:
    """Ask the daemon, print its answer, and return the exit code that `judge` sees in it."""
    try:
        result = client.call(arguments.socket, command, args, descriptors, timeout_s)
    except client.NoDaemonError as error:
        return _failed(arguments, str(error), NO_DAEMON)
    except client.RefusedError as error:
        return _refused(arguments, error.problems, NO if error.kind == "not-found" else BAD)
    _print(arguments, result, show)
    return judge(result)


def _status(arguments: Arguments) -> int:
    return _ask(
        arguments, "status", {}, tables.status, judge=lambda result: DONE if tables.field(result, "ready") else NO
    )


def _peers(arguments: Arguments) -> int:
    def show(result: object) -> str:
        is_one = arguments.name in {row.get("name") for row in tables.each_of(result)}
        return tables.peer(result) if is_one else tables.peers(result)

    return _ask(arguments, "peers", {"name": arguments.name}, show)


def _routes(arguments: Arguments) -> int:
    args = {
        "prefix": arguments.prefix,
        "received": arguments.received,
        "advertised": arguments.advertised,
        "kernel": arguments.kernel,
    }
    show = tables.kernel if arguments.kernel else tables.routes
    return _ask(arguments, "routes", args, show, judge=lambda found: DONE if found or not arguments.prefix else NO)


def _trace(arguments: Arguments) -> int:
    return _ask(arguments, "trace", {"prefix": arguments.prefix}, tables.trace)


def _reload(arguments: Arguments) -> int:
    return _ask_with_text(arguments, "reload", arguments.file, tables.reload)


def _diff(arguments: Arguments) -> int:
    def judge(result: object) -> int:
        return DONE if tables.field(result, "same") else NO

    def judge_objects(result: object) -> int:
        if tables.field(result, "refused"):
            return BAD
        return NO if any(tables.field(result, word) for word in ("added", "changed", "deleted")) else DONE

    if arguments.file is None or _is_configuration(arguments):
        return _ask_with_text(arguments, "diff", arguments.file, tables.plan, judge=judge)
    return _change(arguments, "policy preview", {"delete": False}, tables.preview, judge_objects)


def _confirm(arguments: Arguments) -> int:
    return _ask(arguments, "confirm", {}, lambda result: f"confirmed: {tables.field(result, 'confirmed')}")


def _rollback(arguments: Arguments) -> int:
    return _ask(arguments, "rollback", {"dry_run": arguments.dry_run}, tables.rollback)


def _is_configuration(arguments: Arguments) -> bool:
    """Tell whether a file is the configuration, and not objects; what is in it is `arguments.text` then.

    It may be a pipe, and is read once.
    """
    from bgpmesh import objects  # noqa: PLC0415  only these commands read files

    try:
        is_stdin = arguments.file == "-"
        arguments.text = sys.stdin.read() if is_stdin else objects.text_of(Path(arguments.file))
    except (objects.UnreadableError, ValueError):
        return False  # who reads objects says what is wrong with it
    return objects.is_configuration(arguments.text, arguments.file)


def _ask_with_text(
    arguments: Arguments,
    command: str,
    file: str | None,
    show: Callable[[object], str],
    *,
    judge: Callable[[object], int] = lambda _: DONE,
    **args: object,
) -> int:
    """Ask with what is in a file, if one is given."""
    if file is not None:
        try:
            args["text"] = arguments.text if "text" in arguments else Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            return _failed(arguments, f"{file}: {_why(error)}", BAD)
        args["file"] = "standard input" if file == "-" else str(Path(file).resolve())
    return _ask(arguments, command, args, show, judge=judge)


def _workload_add(arguments: Arguments) -> int:
    path = f"/proc/{arguments.pid}/ns/net" if arguments.netns is None else str(Path(arguments.netns).absolute())
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # nobody may ever write to a fifo
    except OSError as error:
        return _failed(arguments, f"{path}: {_why(error)}", BAD)
    args = {
        "name": arguments.name,
        "namespace": arguments.namespace,
        "label": arguments.label,
        "ip": arguments.ip,
        "port": arguments.port,
        "netns": path,
    }
    try:
        return _ask(
            arguments, "workload add", args, lambda result: tables.workloads([result]), descriptors=(descriptor,)
        )
    finally:
        os.close(descriptor)


def _workload_del(arguments: Arguments) -> int:
    args = {"name": arguments.name, "namespace": arguments.namespace}
    return _ask(arguments, "workload del", args, lambda _: f"workload {arguments.name} is gone")


def _workload_label(arguments: Arguments) -> int:
    args = {"name": arguments.name, "namespace": arguments.namespace, "label": arguments.label}
    return _ask(arguments, "workload label", args, lambda result: tables.workloads([result]))


def _apply(arguments: Arguments) -> int:
    if _is_configuration(arguments):
        return _ask_with_text(arguments, "reload", arguments.file, tables.reload, confirm=arguments.confirm)
    return _change(arguments, "apply", {"confirm": arguments.confirm})


def _delete(arguments: Arguments) -> int:
    if (arguments.file is None) == (arguments.kind is None) or (arguments.kind and not arguments.name):
        return _failed(arguments, "delete takes -f F, or KIND and NAME", BAD)
    if arguments.file is not None:
        return _change(arguments, "delete")
    args = {"kind": arguments.kind, "name": arguments.name, "namespace": arguments.namespace}
    return _ask(arguments, "delete", args, tables.changed, judge=_judge_change)


def _change(
    arguments: Arguments,
    command: str,
    args: Mapping[str, object] | None = None,
    show: Callable[[object], str] = tables.changed,
    judge: Callable[[object], int] | None = None,
) -> int:
    """Hand over the objects of a file (`-`: standard input), as plain data: only here has YAML to be known."""
    from bgpmesh import objects  # noqa: PLC0415  only these commands read files of objects

    try:
        name = "" if arguments.file == "-" else Path(arguments.file).name
        if "text" not in arguments:
            arguments.text = sys.stdin.read() if arguments.file == "-" else objects.text_of(Path(arguments.file))
        documents = objects.parse(arguments.text, name)
    except (objects.UnreadableError, ValueError) as error:
        return _failed(arguments, f"{arguments.file}: {error}", BAD)
    plain = json.loads(json.dumps(documents, default=str))  # YAML and TOML know dates
    return _ask(arguments, command, {"documents": plain, **(args or {})}, show, judge=judge or _judge_change)


def _judge_change(result: object) -> int:
    reasons = {str(tables.field(each, "reason")) for each in tables.each_of(tables.field(result, "refused"))}
    return DONE if not reasons else NO if reasons == {"is not there"} else BAD


def _get(arguments: Arguments) -> int:
    args = {"kind": arguments.kind, "name": arguments.name, "namespace": arguments.namespace}
    return _ask(arguments, "get", args, tables.objects)


def _policy_list(arguments: Arguments) -> int:
    return _ask(arguments, "policy list", {}, tables.policies)


def _policy_preview(arguments: Arguments) -> int:
    def judge(result: object) -> int:
        if tables.field(result, "refused"):
            return BAD
        return NO if any(tables.field(result, key) for key in ("cut_count", "kept_count", "unknown")) else DONE

    return _change(arguments, "policy preview", {"delete": arguments.delete}, tables.preview, judge)


def _policy_explain(arguments: Arguments) -> int:
    args = {
        "from": arguments.source,
        "to": arguments.destination,
        "protocol": arguments.protocol,
        "port": arguments.port,
        "source_port": arguments.source_port,
        "icmp": arguments.icmp,
        "why_not": arguments.why_not,
        "live": arguments.live,
    }

    def judge(result: object) -> int:
        return DONE if tables.field(result, "verdict") == "allow" else NO

    return _ask(arguments, "policy explain", args, tables.explanation, judge=judge)


def _policy_drops(arguments: Arguments) -> int:
    if not arguments.follow:
        return _ask(arguments, "policy drops", {"staged": arguments.staged}, tables.drops)
    try:
        for number, told in enumerate(client.follow(arguments.socket, "policy drops", {"follow": True})):
            if number:  # the first says that it has begun
                print(json.dumps(told) if arguments.json else tables.drop(told), flush=True)  # noqa: T201  what it is for
            else:
                print("following; Ctrl-C ends it", file=sys.stderr)  # noqa: T201  the same
    except client.NoDaemonError as error:
        return _failed(arguments, str(error), NO_DAEMON)
    except client.RefusedError as error:
        return _refused(arguments, error.problems)
    return DONE


def _policy_flows(arguments: Arguments) -> int:
    return _ask(arguments, "policy flows", {}, tables.flows)


def _drain(arguments: Arguments) -> int:
    args = {key: getattr(arguments, key) for key in ("limit", "below", "stop", "text")}
    try:
        told = client.follow(arguments.socket, "drain", args)
        next(told)  # it has begun
        print("draining; it goes on if this command ends, `bgpmesh undrain` takes it back", file=sys.stderr)  # noqa: T201  how it goes
        for progress in told:
            if tables.field(progress, "state") == "draining":
                print(tables.draining(progress), file=sys.stderr, flush=True)  # noqa: T201  the same
            else:
                _print(arguments, progress, tables.drained)
                return DONE if tables.field(progress, "state") in {"drained", "stopped"} else NO
    except client.NoDaemonError as error:
        return _failed(arguments, str(error), NO_DAEMON)
    except client.RefusedError as error:
        return _refused(arguments, error.problems)
    return NO


def _undrain(arguments: Arguments) -> int:
    def judge(result: object) -> int:
        return DONE if tables.field(result, "state") == "none" else NO

    return _ask(arguments, "undrain", {}, tables.undrained, judge=judge, timeout_s=None)


def _workload_list(arguments: Arguments) -> int:
    return _ask(arguments, "workload list", {}, tables.workloads)


def _pool_show(arguments: Arguments) -> int:
    return _ask(arguments, "pool show", {}, tables.pools)


def _floating_ip_add(arguments: Arguments) -> int:
    args = {
        "external": arguments.external,
        "workload": arguments.workload,
        "namespace": arguments.namespace,
        "outbound": arguments.outbound,
    }
    return _ask(arguments, "floating-ip add", args, lambda result: tables.floating_ips([result]))


def _floating_ip_del(arguments: Arguments) -> int:
    args = {"external": arguments.external}
    return _ask(arguments, "floating-ip del", args, lambda _: f"floating address {arguments.external} is gone")


def _floating_ip_list(arguments: Arguments) -> int:
    return _ask(arguments, "floating-ip list", {}, tables.floating_ips)


# ── what is printed ──────────────────────────────────────────────────────────


def _print(arguments: Arguments, result: object, show: Callable[[object], str]) -> None:
    text = json.dumps(result, indent=2) if arguments.json else show(result)
    print(text)  # noqa: T201  this is what a command is for


def _failed(arguments: Arguments, text: str, code: int) -> int:
    """Say why nothing was done, as text or as JSON."""
    return _refused(arguments, [{"file": "", "key": "", "value": "", "reason": text}], code)


def _refused(arguments: Arguments, problems: Sequence[Row | dict[str, str]], code: int = BAD) -> int:
    """Say every problem, one a line, on standard error; with --json all of them on standard output."""
    if arguments.json:
        print(json.dumps({"errors": list(problems)}, indent=2))  # noqa: T201  this is what a command is for
    else:
        for problem in problems:
            print(f"bgpmesh: {_problem(problem)}", file=sys.stderr)  # noqa: T201  the same
    return code


def _problem(problem: Row) -> str:
    """Return `file: key = value: reason` (as `errors.Problem` says it), without what is empty."""
    file, key, value, reason = (str(problem.get(part, "")) for part in ("file", "key", "value", "reason"))
    return tables.clean(": ".join(part for part in (file, f"{key} = {value}" if value else key, reason) if part))


def _why(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


# ── the table of commands ────────────────────────────────────────────────────


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="F", default=DEFAULT_CONFIG, help=f"the file ({DEFAULT_CONFIG})")
    parser.add_argument("--node", metavar="N", help="which node this is (BGPMESH_NODE, else the host name)")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    _config_arguments(parser)
    parser.add_argument("--socket", metavar="P", help="in place of control.socket")
    parser.add_argument("--state", metavar="D", help="in place of state.directory")


def _uninstall_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="F", default=DEFAULT_CONFIG, help="the file, for what is ours by it")
    parser.add_argument("--socket", metavar="P", help="in place of control.socket")
    parser.add_argument("--state", metavar="D", help="in place of state.directory")


def _peers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="one peer in full")


def _routes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", metavar="PREFIX", nargs="?", help="one prefix; an address stands for its /32 or /128")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--received", metavar="P", help="as peer P sent them, before filters")
    which.add_argument("--advertised", metavar="P", help="as peer P was told")
    which.add_argument("--kernel", action="store_true", help="what the kernel should have and has")


def _trace_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", metavar="PREFIX")


def _reload_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F", nargs="?", help="another file; absent: the daemon's own, as it is now")


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="F",
        nargs="?",
        help="the configuration (TOML), or objects; -: standard input; absent: the daemon's own file, as it is now",
    )


def _apply_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f",
        dest="file",
        metavar="F",
        required=True,
        help="the configuration (TOML), or objects as JSON, YAML or TOML; -: standard input",
    )
    parser.add_argument(
        "--confirm",
        metavar="S",
        type=_seconds,
        help="take it back after S seconds, unless `bgpmesh confirm` comes before",
    )


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what it would do, and change nothing")


def _workload_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("-n", "--namespace", metavar="NS", default="default", help="its namespace (default)")


def _workload_add_arguments(parser: argparse.ArgumentParser) -> None:
    _workload_arguments(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--netns", metavar="P", help="its network namespace: /run/netns/NAME, /proc/PID/ns/net")
    where.add_argument("--pid", metavar="N", type=_pid, help="a process in it")
    parser.add_argument("--label", metavar="K=V", action="append", default=[], help="may be repeated")
    parser.add_argument("--ip", metavar="A", action="append", default=[], help="this address; may be repeated")
    parser.add_argument(
        "--port",
        metavar="NAME=PROTOCOL:N",
        action="append",
        default=[],
        help="a port that policies may name; may be repeated",
    )


def _workload_label_arguments(parser: argparse.ArgumentParser) -> None:
    _workload_arguments(parser)
    parser.add_argument("label", metavar="K=V|K-", nargs="+", help="set a label, or take it away")


def _file_argument(parser: argparse.ArgumentParser, *, is_required: bool) -> None:
    parser.add_argument(
        "-f", dest="file", metavar="F", required=is_required, help="objects as JSON, YAML or TOML; -: standard input"
    )


def _preview_arguments(parser: argparse.ArgumentParser) -> None:
    _file_argument(parser, is_required=True)
    parser.add_argument("--delete", action="store_true", help="what deleting the objects would do")


def _get_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", nargs="?", help="NetworkPolicy, Namespace, Tier, ..")
    parser.add_argument("name", metavar="NAME", nargs="?")
    parser.add_argument("-n", "--namespace", metavar="NS", help="its namespace")


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    _file_argument(parser, is_required=False)
    _get_arguments(parser)


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    for name, dest in (("--from", "source"), ("--to", "destination")):
        parser.add_argument(name, dest=dest, metavar="A", required=True, help="a workload (NS/NAME), node or address")
    parser.add_argument("--protocol", metavar="P", help="a name or a number (tcp)")
    parser.add_argument("--port", metavar="N", help="the destination's; absent: of no rule that asks for one")
    parser.add_argument("--source-port", metavar="N", help="the source's")
    parser.add_argument("--icmp", metavar="TYPE[/CODE]", help="with --protocol icmp (an echo request)")
    parser.add_argument("--why-not", action="store_true", help="what would turn a denial")
    parser.add_argument("--live", action="store_true", help="how many packets the rule of each step has seen")


def _drops_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--follow", action="store_true", help="each packet, one a line; with --json one object a line")
    which.add_argument("--staged", action="store_true", help="what staged policies would allow and deny instead")


def _floating_ip_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("external", metavar="EXTERNAL", help="the address that the outside knows")


def _floating_ip_add_arguments(parser: argparse.ArgumentParser) -> None:
    _floating_ip_arguments(parser)
    parser.add_argument("workload", metavar="WORKLOAD", help="what it leads to: NAME, or NAMESPACE/NAME")
    parser.add_argument("-n", "--namespace", metavar="NS", default="default", help="its namespace (default)")
    parser.add_argument("--outbound", action="store_true", help="the workload's connections to outside leave with it")


def _drain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", metavar="S", type=_amount, default=60.0, help="longest wait for traffic to go (60 s)"
    )
    parser.add_argument(
        "--below", metavar="N", type=_amount, default=10_000.0, help="bytes a second that count as none (10000)"
    )
    parser.add_argument("--stop", action="store_true", help="end all sessions, even if that cuts off workloads here")
    parser.add_argument(
        "--text", metavar="T", default="drained", help="what peers are told when sessions end (RFC 9003)"
    )


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return amount


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_TRIAL_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, {LONGEST_TRIAL_S} at most")
    return seconds


def _pid(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a process id")
    return int(text)


COMMANDS: tuple[Command, ...] = (
    Command(
        ("run",),
        "run the daemon, in the foreground",
        "bgpmesh run --config /etc/bgpmesh/bgpmesh.toml --node n1",
        _run,
        _run_arguments,
        has_socket=False,
        bad="bad use or bad configuration",
    ),
    Command(
        ("check",),
        "validate a file and print the sessions of a node",
        "bgpmesh check --config bgpmesh.toml --node n1",
        _check,
        _config_arguments,
        has_socket=False,
        bad="bad use or bad configuration",
    ),
    Command(("status",), "print readiness, sessions and tables", "bgpmesh status", _status, no="not ready"),
    Command(
        ("peers",),
        "print sessions; with NAME one in full",
        "bgpmesh peers n2",
        _peers,
        _peers_arguments,
        no="no such peer",
    ),
    Command(
        ("routes",),
        "print routes, their paths and the reason of every choice",
        "bgpmesh routes 10.244.2.0/26",
        _routes,
        _routes_arguments,
        no="no such route or peer",
    ),
    Command(
        ("trace",),
        "follow one prefix through all stations",
        "bgpmesh trace 10.244.2.0/26",
        _trace,
        _trace_arguments,
        no="nobody announces it",
    ),
    Command(
        ("diff",),
        "say what a configuration, or objects, would change",
        "bgpmesh diff new.toml",
        _diff,
        _diff_arguments,
        no="there is a difference",
        bad="bad use, bad configuration, or an object would be refused",
    ),
    Command(
        ("reload",),
        "put a configuration in force; a bad one changes nothing",
        "bgpmesh reload /etc/bgpmesh/bgpmesh.toml",
        _reload,
        _reload_arguments,
        bad="bad use or bad configuration",
    ),
    Command(
        ("workload", "add"),
        "connect a network namespace",
        "bgpmesh workload add web-1 --netns /run/netns/web-1 --label app=web",
        _workload_add,
        _workload_add_arguments,
        bad="bad use or refused",
    ),
    Command(
        ("workload", "del"),
        "disconnect a workload",
        "bgpmesh workload del web-1",
        _workload_del,
        _workload_arguments,
        no="no such workload",
    ),
    Command(("workload", "list"), "list the workloads of this node", "bgpmesh workload list", _workload_list),
    Command(
        ("workload", "label"),
        "set and take away labels of a workload",
        "bgpmesh workload label web-1 tier=front canary-",
        _workload_label,
        _workload_label_arguments,
        no="no such workload",
        bad="bad use or refused",
    ),
    Command(
        ("apply",),
        "put a configuration, or objects of policy, in force on this node",
        "bgpmesh apply -f new.toml --confirm 60",
        _apply,
        _apply_arguments,
        bad="bad use, bad configuration, or one was refused",
    ),
    Command(
        ("confirm",),
        "keep what was applied with --confirm",
        "bgpmesh confirm",
        _confirm,
        no="nothing waits for it",
        bad="bad use, or the disk refuses",
    ),
    Command(
        ("rollback",),
        "take back what is not confirmed, else go to the configuration before",
        "bgpmesh rollback --dry-run",
        _rollback,
        _rollback_arguments,
        no="there is nothing to go back to",
        bad="bad use, or that configuration is none any more",
    ),
    Command(
        ("get",),
        "print the objects of this node; with --json in full",
        "bgpmesh get networkpolicy",
        _get,
        _get_arguments,
        no="no such object",
    ),
    Command(
        ("delete",),
        "delete objects",
        "bgpmesh delete networkpolicy web -n shop",
        _delete,
        _delete_arguments,
        no="one was not there",
        bad="bad use, or one was refused",
    ),
    Command(("policy", "list"), "print what each workload here is under", "bgpmesh policy list", _policy_list),
    Command(
        ("policy", "preview"),
        "say what an apply would change, and which connections it would cut",
        "bgpmesh policy preview -f policy.yaml",
        _policy_preview,
        _preview_arguments,
        no="some connections would be cut (or not begin again), or it is not known",
        bad="bad use, or one would be refused",
    ),
    Command(
        ("policy", "explain"),
        "say whether a packet passes, and every step to that",
        "bgpmesh policy explain --from shop/web --to shop/db --port 5432",
        _policy_explain,
        _explain_arguments,
        no="it does not, or an end is not known",
    ),
    Command(
        ("policy", "drops"),
        "print what dropped how many packets, or with --follow each as it is dropped",
        "bgpmesh policy drops --follow",
        _policy_drops,
        _drops_arguments,
    ),
    Command(
        ("policy", "flows"),
        "list the FlowSpec rules of peers: in force, in order; refused, and why",
        "bgpmesh policy flows",
        _policy_flows,
    ),
    Command(
        ("drain",),
        "take this node out of service, traffic first (RFC 8326)",
        "bgpmesh drain --limit 120",
        _drain,
        _drain_arguments,
        no="it was taken back meanwhile",
        bad="bad use or refused",
        more="""\
All that it announces becomes the last choice of its peers (GRACEFUL_SHUTDOWN,
LOCAL_PREF 0), and is forwarded as ever. Once less than --below comes in for
three seconds, or after --limit,
 - while workloads are here: all is withdrawn but their addresses and blocks,
   which nobody else has; the sessions stay up;
 - where none is, or with --stop: all is withdrawn, and the sessions end.
It goes on if this command ends, and lasts over restarts, until `undrain`.
""",
    ),
    Command(
        ("undrain",),
        "take this node back into service, once its routes are in the kernel",
        "bgpmesh undrain",
        _undrain,
        no="not in service yet, or drained again",
    ),
    Command(("pool", "show"), "print the addresses in use", "bgpmesh pool show", _pool_show),
    Command(
        ("floating-ip", "add"),
        "have an external address lead to a workload of this node, or move it there",
        "bgpmesh floating-ip add 203.0.113.10 shop/web --outbound",
        _floating_ip_add,
        _floating_ip_add_arguments,
        bad="bad use or refused",
    ),
    Command(
        ("floating-ip", "del"),
        "take a floating address away from this node",
        "bgpmesh floating-ip del 203.0.113.10",
        _floating_ip_del,
        _floating_ip_arguments,
        no="no command here has given it",
        bad="bad use, or it is the file's",
    ),
    Command(("floating-ip", "list"), "list the floating addresses", "bgpmesh floating-ip list", _floating_ip_list),
    Command(
        ("uninstall",),
        "remove every route, rule, link and file of ours; the daemon must be stopped",
        "bgpmesh uninstall --config /etc/bgpmesh/bgpmesh.toml",
        _uninstall,
        _uninstall_arguments,
        has_socket=False,
        no="a daemon runs, or something stays",
        bad="bad use or bad configuration",
    ),
)
