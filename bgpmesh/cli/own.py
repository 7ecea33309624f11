"""Commands that ask no daemon: they import what they need when they need it."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from bgpmesh.cli.asking import BAD, DONE, NO, Arguments, fail, is_answered, refuse, say
from bgpmesh.control import tables

if TYPE_CHECKING:
    from bgpmesh.config import Config

DEFAULT_CONFIG = "/etc/bgpmesh/bgpmesh.toml"


def run(arguments: Arguments) -> int:
    """Be the daemon."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1))  # or they end what begins: `Daemon.run`
    gc.disable()  # nothing that a start makes is garbage; the daemon enables it once it runs
    from bgpmesh import daemon  # noqa: PLC0415  only this command pays for asyncio, ExaBGP and pyroute2

    return daemon.run(arguments.config, arguments.node, arguments.socket, arguments.state)


def check(arguments: Arguments) -> int:
    """Read a file, and print what it means for a node."""
    from bgpmesh import config  # noqa: PLC0415  the reader of the file is not needed to ask the daemon
    from bgpmesh.errors import ConfigError  # noqa: PLC0415  the same

    try:
        loaded = config.load(arguments.config)
        node = _node_to_check(loaded, arguments.node)
        result = config.shown(loaded, node)
    except ConfigError as error:
        return refuse(arguments, [problem._asdict() for problem in error.problems])
    say(arguments, result, tables.check)
    return DONE


def doctor(arguments: Arguments) -> int:
    """Look at the file, this host and the daemon, and print each fault with its cure."""
    from bgpmesh import doctor as examiner  # noqa: PLC0415  only this command looks at the host

    findings = examiner.examine(arguments.config, arguments.node, arguments.socket)
    rows = [{"check": each.check, "level": each.level, "found": each.found, "cure": each.cure} for each in findings]
    say(arguments, rows, tables.findings)
    return NO if any(each.cure for each in findings) else DONE


def diags(arguments: Arguments) -> int:
    """Write a bundle for whoever is asked for help, and print its name."""
    import time  # noqa: PLC0415  only this command asks for the date

    from bgpmesh import diags as bundle  # noqa: PLC0415  only this command needs all ends of the house

    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    archive = Path(arguments.output or f"bgpmesh-diags-{os.uname().nodename}-{stamp}.tar.gz")
    try:
        names = bundle.write(bundle.collect(arguments.config, arguments.node, arguments.socket), archive)
    except OSError as error:
        return fail(arguments, f"{archive}: {error.strerror}", BAD)
    say(
        arguments, {"file": str(archive), "parts": names}, lambda _: f"{archive}: {len(names)} parts, no secret in them"
    )
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


def uninstall(arguments: Arguments) -> int:
    """Take everything of ours away; works without a daemon, and refuses while one runs."""
    from bgpmesh import config  # noqa: PLC0415  only this command needs both ends of the house
    from bgpmesh import uninstall as everything  # noqa: PLC0415  the same
    from bgpmesh.errors import ConfigError  # noqa: PLC0415  the same

    try:
        is_absent = arguments.config == DEFAULT_CONFIG and not Path(arguments.config).exists()
        loaded = config.defaults() if is_absent else config.load(arguments.config)
        socket = arguments.socket or loaded.control.socket
        directory = Path(arguments.state or loaded.state.directory)
        if is_answered(socket):
            return fail(arguments, f"a daemon answers at {socket}: stop it first", NO)
        removed, problem = everything.uninstall(loaded, socket, directory)
    except ConfigError as error:
        return refuse(arguments, [each._asdict() for each in error.problems])
    if problem:
        done = f" (removed so far: {'; '.join(removed)})" if removed else ""
        return fail(arguments, f"{problem}{done}", NO)
    say(arguments, {"removed": removed}, lambda _: "\n".join(removed) or "nothing of ours was there")
    return NO if any(everything.STAYS in line for line in removed) else DONE
