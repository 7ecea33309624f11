"""The table of commands: the words of each, what it does, how it is used, and what its exit codes mean."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

from bgpmesh.cli import asking, own
from bgpmesh.cli.asking import BAD, DONE, NO, NO_DAEMON, Arguments, asks, one, yes_if
from bgpmesh.cli.own import DEFAULT_CONFIG
from bgpmesh.control import tables
from bgpmesh.control.client import LONGEST_TRIAL_S

EXPLAINED = ("from", "to", "protocol", "port", "source_port", "icmp", "why_not", "live")


class Command(NamedTuple):
    """One command: its words, what it does, how it is used, its arguments, and the function that is it.

    `no` and `bad` are what exit codes 1 and 2 mean; where `no` is "" there is no 1.
    `more` is what `--help` tells beside that. A tuple: to load dataclasses would take each command five milliseconds.
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


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    _config_arguments(parser)
    parser.add_argument("--socket", metavar="P", help="in place of control.socket")


def _diags_arguments(parser: argparse.ArgumentParser) -> None:
    _doctor_arguments(parser)
    parser.add_argument(
        "-o", "--output", metavar="F", help="the archive to write (bgpmesh-diags-HOST-TIME.tar.gz here)"
    )


def _pool_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fix", action="store_true", help="remove those workloads, which frees their addresses")


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
    for name in ("--from", "--to"):
        parser.add_argument(name, metavar="A", required=True, help="a workload (NS/NAME), node or address")
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


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", metavar="PREFIX", nargs="?", help="one prefix, or what leads to an address")
    parser.add_argument(
        "--since", metavar="T", type=_since, default=0.0, help="how long ago (90s, 10m, 2h, 1d), or an ISO 8601 time"
    )


def _since(text: str) -> float:
    """Return the second of 1970 that a duration until now, or a time, stands for."""
    from datetime import datetime  # noqa: PLC0415  two milliseconds, for this command alone

    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:], 0)
    try:
        if not unit:
            return datetime.fromisoformat(text).timestamp()
        if not 0 <= (ago := float(text[:-1])) < float("inf"):
            raise ValueError(text)
        return max(time.time() - ago * unit, 0.0)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither as 90s, 10m, 2h or 1d nor an ISO 8601 time") from error


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
        own.run,
        _run_arguments,
        has_socket=False,
        bad="bad use or bad configuration",
    ),
    Command(
        ("check",),
        "validate a file and print the sessions of a node",
        "bgpmesh check --config bgpmesh.toml --node n1",
        own.check,
        _config_arguments,
        has_socket=False,
        bad="bad use or bad configuration",
    ),
    Command(
        ("status",),
        "print readiness, sessions and tables",
        "bgpmesh status",
        asks("status", tables.status, judge=yes_if("ready", value=True)),
        no="not ready",
    ),
    Command(
        ("peers",),
        "print sessions; with NAME one in full",
        "bgpmesh peers n2",
        asking.peers,
        _peers_arguments,
        no="no such peer",
    ),
    Command(
        ("routes",),
        "print routes, their paths and the reason of every choice",
        "bgpmesh routes 10.244.2.0/26",
        asking.routes,
        _routes_arguments,
        no="no such route or peer",
    ),
    Command(
        ("trace",),
        "follow one prefix through all stations",
        "bgpmesh trace 10.244.2.0/26",
        asks("trace", tables.trace, "prefix"),
        _trace_arguments,
        no="nobody announces it",
    ),
    Command(
        ("history",),
        "say what changed and why: of all, or of a prefix and those who tell of it",
        "bgpmesh history 10.244.2.0/26 --since 10m",
        asks("history", tables.history, "prefix", "since", judge=lambda found: DONE if found else NO),
        _history_arguments,
        no="nothing is remembered",
        more="""\
Remembered are the newest 2,000 events of the log and 1,024 UPDATEs, since the
daemon started. The log of the host goes back further.
""",
    ),
    Command(
        ("diff",),
        "say what a configuration, or objects, would change",
        "bgpmesh diff new.toml",
        asking.diff,
        _diff_arguments,
        no="there is a difference",
        bad="bad use, bad configuration, or an object would be refused",
    ),
    Command(
        ("reload",),
        "put a configuration in force; a bad one changes nothing",
        "bgpmesh reload /etc/bgpmesh/bgpmesh.toml",
        asking.reload,
        _reload_arguments,
        bad="bad use or bad configuration",
    ),
    Command(
        ("workload", "add"),
        "connect a network namespace",
        "bgpmesh workload add web-1 --netns /run/netns/web-1 --label app=web",
        asking.workload_add,
        _workload_add_arguments,
        bad="bad use or refused",
    ),
    Command(
        ("workload", "del"),
        "disconnect a workload",
        "bgpmesh workload del web-1",
        asks("workload del", "workload {name} is gone", "name", "namespace"),
        _workload_arguments,
        no="no such workload",
    ),
    Command(
        ("workload", "list"),
        "list the workloads of this node",
        "bgpmesh workload list",
        asks("workload list", tables.workloads),
    ),
    Command(
        ("workload", "label"),
        "set and take away labels of a workload",
        "bgpmesh workload label web-1 tier=front canary-",
        asks("workload label", one(tables.workloads), "name", "namespace", "label"),
        _workload_label_arguments,
        no="no such workload",
        bad="bad use or refused",
    ),
    Command(
        ("apply",),
        "put a configuration, or objects of policy, in force on this node",
        "bgpmesh apply -f new.toml --confirm 60",
        asking.apply,
        _apply_arguments,
        bad="bad use, bad configuration, or one was refused",
    ),
    Command(
        ("confirm",),
        "keep what was applied with --confirm",
        "bgpmesh confirm",
        asks("confirm", tables.confirmed),
        no="nothing waits for it",
        bad="bad use, or the disk refuses",
    ),
    Command(
        ("rollback",),
        "take back what is not confirmed, else go to the configuration before",
        "bgpmesh rollback --dry-run",
        asks("rollback", tables.rollback, "dry_run"),
        _rollback_arguments,
        no="there is nothing to go back to",
        bad="bad use, or that configuration is none any more",
    ),
    Command(
        ("get",),
        "print the objects of this node; with --json in full",
        "bgpmesh get networkpolicy",
        asks("get", tables.objects, "kind", "name", "namespace"),
        _get_arguments,
        no="no such object",
    ),
    Command(
        ("delete",),
        "delete objects",
        "bgpmesh delete networkpolicy web -n shop",
        asking.delete,
        _delete_arguments,
        no="one was not there",
        bad="bad use, or one was refused",
    ),
    Command(
        ("policy", "list"),
        "print what each workload here is under",
        "bgpmesh policy list",
        asks("policy list", tables.policies),
    ),
    Command(
        ("policy", "preview"),
        "say what an apply would change, and which connections it would cut",
        "bgpmesh policy preview -f policy.yaml",
        asking.policy_preview,
        _preview_arguments,
        no="some connections would be cut (or not begin again), or it is not known",
        bad="bad use, or one would be refused",
    ),
    Command(
        ("policy", "explain"),
        "say whether a packet passes, and every step to that",
        "bgpmesh policy explain --from shop/web --to shop/db --port 5432",
        asks("policy explain", tables.explanation, *EXPLAINED, judge=yes_if("verdict", value="allow")),
        _explain_arguments,
        no="it does not, or an end is not known",
    ),
    Command(
        ("policy", "drops"),
        "print what dropped how many packets, or with --follow each as it is dropped",
        "bgpmesh policy drops --follow",
        asking.policy_drops,
        _drops_arguments,
    ),
    Command(
        ("policy", "flows"),
        "list the FlowSpec rules of peers: in force, in order; refused, and why",
        "bgpmesh policy flows",
        asks("policy flows", tables.flows),
    ),
    Command(
        ("drain",),
        "take this node out of service, traffic first (RFC 8326)",
        "bgpmesh drain --limit 120",
        asking.drain,
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
        asks("undrain", tables.undrained, judge=yes_if("state", value="none"), timeout_s=None),
        no="not in service yet, or drained again",
    ),
    Command(("pool", "show"), "print the addresses in use", "bgpmesh pool show", asks("pool show", tables.pools)),
    Command(
        ("pool", "check"),
        "find addresses of workloads whose namespace is gone, and with --fix free them",
        "bgpmesh pool check --fix",
        asks("pool check", tables.leaks, "fix", judge=asking.all_fixed, timeout_s=None),
        _pool_check_arguments,
        no="some are held in vain",
    ),
    Command(
        ("floating-ip", "add"),
        "have an external address lead to a workload of this node, or move it there",
        "bgpmesh floating-ip add 203.0.113.10 shop/web --outbound",
        asking.floating_ip_add,
        _floating_ip_add_arguments,
        bad="bad use or refused",
    ),
    Command(
        ("floating-ip", "del"),
        "take a floating address away from this node",
        "bgpmesh floating-ip del 203.0.113.10",
        asks("floating-ip del", "floating address {external} is gone", "external"),
        _floating_ip_arguments,
        no="no command here has given it",
        bad="bad use, or it is the file's",
    ),
    Command(
        ("floating-ip", "list"),
        "list the floating addresses",
        "bgpmesh floating-ip list",
        asks("floating-ip list", tables.floating_ips),
    ),
    Command(
        ("doctor",),
        "look at the file, this host and the daemon: what is wrong, and the cure",
        "bgpmesh doctor",
        own.doctor,
        _doctor_arguments,
        has_socket=False,
        no="something is wrong",
    ),
    Command(
        ("diags",),
        "write a bundle for support: what the daemon and this host say, and no secret",
        "bgpmesh diags -o /tmp/n1.tar.gz",
        own.diags,
        _diags_arguments,
        has_socket=False,
        bad="bad use, or it cannot be written",
    ),
    Command(
        ("uninstall",),
        "remove every route, rule, link and file of ours; the daemon must be stopped",
        "bgpmesh uninstall --config /etc/bgpmesh/bgpmesh.toml",
        own.uninstall,
        _uninstall_arguments,
        has_socket=False,
        no="a daemon runs, or something stays",
        bad="bad use or bad configuration",
    ),
)
