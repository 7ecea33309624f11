"""Everything of ours on a host, and the order in which it goes: BFD, links, routes, chains and sets, then files.

A daemon must not run meanwhile: it would set right what is taken away. What somebody else has put beside our files
stays, and with it the directory.
"""

from __future__ import annotations

from pathlib import Path

from bgpmesh.bfd_agent import edge
from bgpmesh.config import Config
from bgpmesh.errors import KernelError
from bgpmesh.journal.record import FILE, FORMER, RECORDING
from bgpmesh.kernel import chains, fib, links
from bgpmesh.state import DOCUMENTS, LOCK, State

STAYS = " stays: "  # how the kernel's rooms say that something could not be removed


def uninstall(loaded: Config, socket: str, directory: Path) -> tuple[list[str], str]:
    """Remove everything; return what is gone, and what kept the rest from going, in words ("": nothing).

    Raises ConfigError while a daemon has the state directory.
    """
    if (directory / LOCK).exists():
        state = State(directory)
        state.open("uninstall")
        state.close()
    removed: list[str] = []
    try:
        removed += ["the process of BFD"] if edge.end(socket) else []
        removed += links.uninstall(loaded.workload.prefix)
        removed += fib.uninstall(loaded.kernel)
        removed += chains.uninstall()
        removed += _remove_files(directory, Path(socket))
    except (KernelError, OSError) as error:
        return removed, str(error)
    return removed, ""


def _remove_files(directory: Path, socket: Path) -> list[str]:
    """Remove our files, and directories that are empty then."""
    names = (*(f"{name}.json" for name in DOCUMENTS), FILE, RECORDING, FORMER)
    ours = [directory / name for name in (*names, *(f"{name}.new" for name in names), LOCK)]
    removed = []
    for path in (*ours, socket, Path(f"{socket}.lock"), Path(edge.agent_path(str(socket)))):
        if path.exists() or path.is_socket():
            path.unlink()
            removed.append(f"file {path}")
    parents = [directory, *([socket.parent] if socket.parent.name == "bgpmesh" else [])]
    for path in parents:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
            removed.append(f"directory {path}")
    return removed
