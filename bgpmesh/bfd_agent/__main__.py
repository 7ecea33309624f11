"""Start and end of the process; the head of the package says how it is called."""

from __future__ import annotations

import _thread
import gc
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from time import sleep

from bgpmesh import bfd_agent
from bgpmesh.bfd_agent.agent import END, HAND_OVER_S, Agent, Estate
from bgpmesh.bfd_agent.sockets import bound
from bgpmesh.peering.bfd import PROTOCOL

PRIORITY = 1  # the lowest above all that is not real-time
NICE = -10  # where that is not allowed
RUN_US, LAST_RUN_US = 500_000, 5_000_000  # at that priority, without a rest
LOOK_S = 0.03  # how often the one who stands in looks whether he is needed


def hurry() -> str:
    """Have this thread go before ordinary ones, if we may; return in which way, in words.

    LimitRTPRIO= and LimitNICE= of systemd allow it, or CAP_SYS_NICE.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    except OSError:
        return calm_down()
    return f"SCHED_RR {PRIORITY}"


def calm_down(*_: object) -> str:
    """Have this thread be an ordinary one, preferred if we may; return in which way, in words."""
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError:
        return "ordinary"
    return f"nice {NICE}"


def keep_to(cores: set[int]) -> None:
    """Have this thread run on these only, unless they are none, or were taken away meanwhile."""
    with suppress(OSError):
        os.sched_setaffinity(0, cores)


def stand_in(agent: Agent, cores: set[int]) -> None:
    """Look, as a thread on cores of its own, whether the agent is late, and do what is due; it always rests between.

    A core that is in the kernel for somebody is nobody else's before it is out of that, whatever the priorities, on a
    kernel without preemption (PREEMPT_NONE and _VOLUNTARY: most servers): 0.2 s where a next hop goes with a million
    routes. Nor does the kernel move who waits there to a core that is idle. A core of a virtual machine that its host
    runs late is the same to us.
    """
    keep_to(cores)
    hurry()
    try:
        while not agent.is_over:
            sleep(LOOK_S)
            agent.stand_in()
    except Exception:  # noqa: BLE001  whatever it is, it ends the process
        agent.confess()
        os._exit(1)


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
    cores = sorted(os.sched_getaffinity(0))
    _thread.start_new_thread(stand_in, (agent, {*cores[: len(cores) // 2]}))
    keep_to({*cores[len(cores) // 2 :]})
    agent.scheduling = hurry()
    # Who runs without a rest, as under a flood, is ordinary from then on, so that the machine stays its owner's.
    signal.signal(signal.SIGXCPU, calm_down)
    resource.setrlimit(resource.RLIMIT_RTTIME, (RUN_US, LAST_RUN_US))
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
