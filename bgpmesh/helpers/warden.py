"""The warden of one program: runs it, and ends it, and all that it has started, when the daemon ends or says so.

    warden.py DESCRIPTOR PROGRAM [ARGUMENT ..]

The descriptor is a socket to the daemon. On it goes one line when the program is started, `pid N`, or `failed REASON`;
and one when it has ended, `exit code N` or `signal N`. When its other end closes the program gets SIGTERM, and what is
left after `GRACE_S` is killed. Programs that leave their process group or their parent are found all the same, since
the warden is the subreaper of all of them (prctl(2)); if the warden itself is killed, the kernel kills the program.

Started by its path, with nothing but the standard library, in an environment that is the program's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

GRACE_S = 2.0  # from SIGTERM to SIGKILL
REAP_S = 3.0  # and until what cannot be killed is left alone

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # whoever ends the warden is the daemon


def main() -> None:
    """Run the program until it or the daemon ends."""
    prctl = ctypes.CDLL(None).prctl
    warden = os.getpid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def begin() -> None:
        """Prepare the process that becomes the program."""
        for number in _IGNORED:
            signal.signal(number, signal.SIG_DFL)
        prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != warden:  # it died before the line above
            os._exit(1)

    with socket.socket(fileno=int(sys.argv[1])) as daemon:
        daemon.set_inheritable(False)
        try:
            program = subprocess.Popen(sys.argv[2:], start_new_session=True, preexec_fn=begin)  # noqa: PLW1509  no threads here
        except OSError as error:
            _tell(daemon, f"failed {error.strerror}")
            return
        _tell(daemon, f"pid {program.pid}")
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):  # the pipes end with the program
            os.dup2(nowhere, descriptor)
        _wait(daemon, program)
        code = program.poll()
        _end_all()
        if code is None:
            code = program.returncode if program.returncode is not None else -signal.SIGKILL
        _tell(daemon, f"signal {-code}" if code < 0 else f"exit code {code}")


def _wait(daemon: socket.socket, program: subprocess.Popen[bytes]) -> None:
    """Return once the program has ended, or has had its time to do so since the daemon has closed its end."""
    ended = os.pidfd_open(program.pid)
    poll = select.poll()
    poll.register(daemon, select.POLLIN | select.POLLHUP)
    poll.register(ended, select.POLLIN)
    while ended not in (ready := dict(poll.poll())):
        if daemon.fileno() in ready and _is_gone(daemon):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGTERM)
            select.select([ended], [], [], GRACE_S)
            return


def _is_gone(daemon: socket.socket) -> bool:
    try:
        return not daemon.recv(64)
    except ConnectionResetError:  # it went before it had read what we said
        return True


def _end_all() -> None:
    """Kill all that is left; whose parent was killed becomes ours, and is found the next time."""
    deadline = time.monotonic() + REAP_S
    while time.monotonic() < deadline:
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _children() -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def _tell(daemon: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):
        daemon.sendall(f"{line}\n".encode())


if __name__ == "__main__":
    main()
