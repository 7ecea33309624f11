"""Start and end of the process; the head of the package says how it is called."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence

from bgpmesh import bfd_agent
from bgpmesh.bfd_agent.agent import END, HAND_OVER_S, Agent, Estate
from bgpmesh.bfd_agent.sockets import bound
from bgpmesh.peering.bfd import PROTOCOL

PRIORITY = 1  # the lowest above all that is not real-time
NICE = -10  # where that is not allowed
RUN_US, LAST_RUN_US = 500_000, 5_000_000  # at that priority, without a rest


def hurry() -> str:
    """Go before ordinary processes, if we may; return in which way, in words.

    LimitRTPRIO= and LimitNICE= of systemd allow it, or CAP_SYS_NICE. Who runs without a rest, as under a flood, is an
    ordinary process from then on, so that the machine stays its owner's.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    except OSError:
        return calm_down()
    signal.signal(signal.SIGXCPU, calm_down)
    resource.setrlimit(resource.RLIMIT_RTTIME, (RUN_US, LAST_RUN_US))
    return f"SCHED_RR {PRIORITY}"


def calm_down(*_: object) -> str:
    """Be an ordinary process, a preferred one if we may; return in which way, in words."""
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError:
        return "ordinary"
    return f"nice {NICE}"


def received(former: socket.socket) -> Estate:
    """Return all that an agent had, which goes on until it is told that we have it; raises OSError or ValueError."""
    former.sendall(json.dumps({"hand_over": PROTOCOL}).encode() + b"\n")
    data, descriptors = bytearray(), []
    while not data.endswith(END):
        chunk, came, _, _ = socket.recv_fds(former, 1 << 16, 64)
        data += chunk
        descriptors += came
        if not chunk:
            raise ValueError(f"it did not hand over: {data[-200:].decode(errors='replace')}")
    sockets = iter([socket.socket(fileno=descriptor) for descriptor in descriptors])
    lines = [json.loads(line) for line in data.splitlines()[1:-1]]  # its greeting comes first
    return [(line, next(sockets) if line["has_socket"] else None) for line in lines]


def taken_over(path: str) -> Agent:
    """Return an agent in place of the one at a path, which has ended; raises what says why not, and it goes on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as former:
        former.settimeout(HAND_OVER_S)
        former.connect(path)
        agent = Agent(received(former))
        former.sendall(b"\n")
    return agent


def detach() -> None:
    """Go on in the background, with a session, and without the streams, of our own; who waits for us is answered."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.close(null)


def options_of(arguments: Sequence[str]) -> tuple[str, dict[str, int]] | None:
    """Return the path and the options of a command line, None where it is not one; argparse is not imported here."""
    options = {"--detach": 0, "--stay": 0, "--take-over": 0, "--listener": -1}
    words, paths = iter(arguments), []
    for word in words:
        if word not in options:
            paths.append(word)
        else:
            options[word] = int(next(words, "-1")) if word == "--listener" else 1
    return None if len(paths) != 1 or paths[0].startswith("-") else (paths[0], options)


def main(arguments: Sequence[str]) -> int:
    """Run an agent; returns the exit code: 2 for bad use, 1 where it cannot begin."""
    asked = options_of(arguments)
    if asked is None:
        print(bfd_agent.__doc__, file=sys.stderr)  # noqa: T201  a program's last words
        return 2
    path, options = asked
    try:
        if options["--take-over"]:
            agent = taken_over(path)
        else:
            found = options["--listener"]
            listener = bound(path) if found < 0 else socket.socket(fileno=found)
            agent = Agent([({"path": path, "is_staying": bool(options["--stay"])}, listener)])
    except (OSError, KeyError, TypeError, ValueError) as error:
        print(f"bfd_agent: {path}: {error}", file=sys.stderr)  # noqa: T201  the same
        return 1
    if options["--detach"]:
        detach()
    agent.scheduling = hurry()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, agent.leave)
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing that lives here makes cycles
    try:
        agent.run()
    except Exception:
        agent.confess()
        raise
    agent.end()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
