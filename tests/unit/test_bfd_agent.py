"""The agent of BFD in a process that has no descriptor left."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from time import monotonic

from bgpmesh.bfd_agent.agent import Agent


class Full(socket.socket):
    """A listener that a process has which can open nothing more, for once."""

    is_full = True

    def accept(self) -> tuple[socket.socket, object]:
        """Refuse, the first time."""
        if self.is_full:
            self.is_full = False
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


def test_who_cannot_be_let_in_waits_and_keeps_nobody_busy(tmp_path: Path) -> None:
    """The listener stays readable, and would wake the process again at once; the chores look at it again."""
    path = str(tmp_path / "agent")
    with Full(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as daemon:
        listener.bind(path)
        listener.listen()
        agent = Agent([({"path": path, "is_staying": True}, listener)])
        with contextlib.closing(agent._poll):
            daemon.connect(path)
            for descriptor, events in agent._poll.poll(0):
                agent._readers[descriptor](events)
            assert agent._poll.poll(0) == []
            agent._do_chores(monotonic())
            for descriptor, events in agent._poll.poll(0):
                agent._readers[descriptor](events)
            assert b"protocol" in daemon.recv(1024)
            for client in agent._clients.values():
                client.sock.close()
