"""The command: arguments -> a request to the daemon, or a command of its own -> JSON or a table.

The door is `main`. `commands` is the table of all there is, and how each is used; `asking` what is asked of the daemon,
printed, and told as an exit code; `own` the commands that ask nobody. What talks to the daemon imports the standard
library only, so that it starts in milliseconds; the others import what they need when they need it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from bgpmesh import __version__
from bgpmesh.cli.asking import BAD, DONE, outcome
from bgpmesh.cli.commands import COMMANDS
from bgpmesh.control import client

__all__ = ["COMMANDS", "main"]

EXIT_CODES = """\
exit codes: 0 done; 1 the answer is no (not ready, not there, denied);
            2 bad use, bad configuration or refused; 3 no daemon answers;
            130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        try:
            words = sys.argv[1:] if argv is None else argv
            parser = _parser(words)
            if not words:  # somebody who does not know what there is
                parser.print_help(sys.stderr)
                return BAD
            code = outcome(parser.parse_args(words))
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
