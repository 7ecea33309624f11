"""Requests to netfilter's subsystems, and what the kernel answers (linux/netfilter/nfnetlink.h).

Sets, connections, rules and logs are subsystems of one protocol: the type of a message names the subsystem and its
command, and the body begins with a family and a resource (nfgenmsg). What the attributes behind those mean is the
business of who asks.

What bites:
 * The kernel reports a failure even where no acknowledgement was asked, so a burst asks for one on its last message
   only.
 * Where waiting was given up, or the receive buffer was too small (ENOBUFS), an answer may still be on its way: the
   socket is closed then, and the next request has a new one. A listing that nobody read to its end is told apart by
   the sequence number.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from bgpmesh.errors import KernelError
from bgpmesh.kernel.netlink import NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, message, walk

_NETLINK_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_GENERIC = struct.Struct(">BBH")  # nfgenmsg: family, version, resource
_READ_BYTES = 256 * 1024
_PATIENCE_S = 10.0

_NOTHING: Mapping[int, str] = MappingProxyType({})


class NfnetlinkDoor:
    """One subsystem of the network namespace that the calling thread is in at its first request; used by one thread.

    Everything may raise KernelError: `what` was asked for, and the kernel's words, or those of the subsystem (`texts`).
    """

    def __init__(self, subsystem: int, texts: Mapping[int, str] = _NOTHING) -> None:
        self._subsystem = subsystem
        self._texts = texts
        self._socket: socket.socket | None = None
        self._sequence = 0

    def close(self) -> None:
        """Let go of the socket; a request after that has a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def do(
        self, what: str, command: int, body: bytes, *, flags: int = 0, family: int = 0, resource: int = 0
    ) -> list[bytes]:
        """Have the kernel do one thing; return the bodies of what it says to that, mostly nothing."""
        sequence = self._reserve(1)
        request = self._message(command, flags | NLM_F_ACK, sequence, _GENERIC.pack(family, 0, resource) + body)
        return list(self._answer(what, request, sequence))

    def do_all(self, what: str, command: int, asked: Sequence[tuple[int, bytes]]) -> list[int]:
        """Have the kernel do many things at one blow, each a family and a body; return the errno of every refusal."""
        if not asked:
            return []
        first = self._reserve(len(asked))
        last = first + len(asked) - 1
        burst = b"".join(
            self._message(command, NLM_F_ACK if sequence == last else 0, sequence, _GENERIC.pack(family, 0, 0) + body)
            for sequence, (family, body) in enumerate(asked, start=first)
        )
        refused: list[int] = []
        for sequence, error, _ in self._exchange(what, burst):
            if error and first <= sequence <= last:
                refused.append(error)
            if error is not None and sequence == last:
                break
        return refused

    def do_in_batch(self, what: str, command: int, body: bytes, *, flags: int = 0, family: int = 0) -> None:
        """Have the kernel do one thing of nf_tables, which takes changes between two brackets only."""
        sequence = self._reserve(1)  # of all three: a refusal of a bracket is one of what is in it
        mark = _GENERIC.pack(0, 0, self._subsystem)
        batch = message(_BATCH_BEGIN, 0, sequence, mark)
        batch += self._message(command, flags | NLM_F_ACK, sequence, _GENERIC.pack(family, 0, 0) + body)
        batch += message(_BATCH_END, 0, sequence, mark)
        for _ in self._answer(what, batch, sequence):
            pass

    def dump(self, what: str, command: int, body: bytes, *, family: int = 0) -> Iterator[bytes]:
        """Yield the body of each message of a listing."""
        sequence = self._reserve(1)
        request = self._message(command, NLM_F_DUMP, sequence, _GENERIC.pack(family, 0, 0) + body)
        return self._answer(what, request, sequence)

    def opened(self, what: str) -> socket.socket:
        """Return the socket, for who listens as well."""
        if self._socket is None:
            try:
                self._socket = _open()
            except OSError as error:
                raise self._failure(what, error) from error
        return self._socket

    def _message(self, command: int, flags: int, sequence: int, body: bytes) -> bytes:
        return message(self._subsystem << 8 | command, flags, sequence, body)

    def _reserve(self, count: int) -> int:
        if self._sequence + count >= 1 << 32:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first

    def _answer(self, what: str, request: bytes, asked: int) -> Iterator[bytes]:
        """Send one request and yield the bodies of its answer."""
        for sequence, error, body in self._exchange(what, request):
            if sequence != asked:
                continue
            if error:
                raise KernelError(what, error, self._texts.get(error) or os.strerror(error))
            if error is not None:
                return
            yield body

    def _exchange(self, what: str, request: bytes) -> Iterator[tuple[int, int | None, bytes]]:
        """Send, and yield (sequence, errno or 0 at an end and else None, body) until the caller has enough."""
        door = self.opened(what)
        try:
            door.send(request)
            while True:
                data = door.recv(_READ_BYTES)
                for kind, _, sequence, start, end in walk(data):
                    if kind in (NLMSG_ERROR, NLMSG_DONE):
                        value: int = struct.unpack_from("=i", data, start)[0] if end - start >= 4 else 0
                        yield sequence, max(-value, 0), b""
                    else:
                        yield sequence, None, data[start + _GENERIC.size : end]
        except OSError as error:
            self.close()
            raise self._failure(what, error) from error

    def _failure(self, what: str, error: OSError) -> KernelError:
        if isinstance(error, TimeoutError):
            return KernelError(what, errno.ETIMEDOUT, "the kernel does not answer")
        number = error.errno or 0
        return KernelError(what, number, self._texts.get(number) or error.strerror or str(error))


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        opened.settimeout(_PATIENCE_S)
        opened.bind((0, 0))
    except OSError:
        opened.close()
        raise
    return opened
