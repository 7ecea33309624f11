"""The exchange with netfilter's subsystems, on a socket that answers what it is told to."""

from __future__ import annotations

import errno
import struct

import pytest

from bgpmesh.errors import KernelError
from bgpmesh.kernel.netlink import HEADER, NLM_F_ACK, NLMSG_DONE, NLMSG_ERROR, message, walk
from bgpmesh.kernel.nfnetlink import NfnetlinkDoor

IPSET, ADD = 6, 9
FULL = 4352
ONE = bytes(8)  # what is said behind nfgenmsg


def end(sequence: int, error: int = 0, kind: int = NLMSG_ERROR) -> bytes:
    """Return the message that ends an answer."""
    return message(kind, 0, sequence, struct.pack("=i", -error))


def said(sequence: int, body: bytes = ONE) -> bytes:
    """Return a message with something in it."""
    return message(IPSET << 8, 0, sequence, bytes(4) + body)


class Socket:
    """Answers each `recv` with the next of `answers`; what was sent is kept. One after another is opened."""

    def __init__(self) -> None:
        self.answers: list[bytes | OSError] = []
        self.sent: list[bytes] = []
        self.opened = 0

    def open(self, *_: int) -> Socket:
        """Count it."""
        self.opened += 1
        return self

    def settimeout(self, seconds: float) -> None:
        """Take it."""

    def bind(self, address: tuple[int, int]) -> None:
        """Take it."""

    def close(self) -> None:
        """Take it."""

    def send(self, data: bytes) -> None:
        """Keep it."""
        self.sent.append(data)

    def recv(self, _: int) -> bytes:
        """Return the next answer, or raise it."""
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Socket:
    """Give what stands for the kernel."""
    stands_for = Socket()
    monkeypatch.setattr("socket.socket", stands_for.open)
    return stands_for


@pytest.fixture
def door() -> NfnetlinkDoor:
    """Give the door to a subsystem that has one error of its own."""
    return NfnetlinkDoor(IPSET, {FULL: "full"})


def test_one_thing_is_asked_and_acknowledged(kernel: Socket, door: NfnetlinkDoor) -> None:
    """The request has its subsystem, family and resource; what is said before the end is returned."""
    kernel.answers = [said(1) + end(1)]
    assert door.do("a set", ADD, ONE, flags=0x200, family=2, resource=7) == [ONE]
    ((_, kind, flags, _, _),) = [HEADER.unpack_from(sent) for sent in kernel.sent]
    assert (kind, flags) == (IPSET << 8 | ADD, 0x205)
    assert kernel.sent[0][HEADER.size :] == bytes((2, 0, 0, 7)) + ONE


def test_a_refusal_has_the_words_of_the_subsystem_or_the_kernel(kernel: Socket, door: NfnetlinkDoor) -> None:
    """And its number; nothing has to be opened anew for that."""
    kernel.answers = [end(1, FULL), end(2, errno.ENOENT)]
    for number, words in ((FULL, "full"), (errno.ENOENT, "No such file or directory")):
        with pytest.raises(KernelError, match=f"^a set: {words}$") as caught:
            door.do("a set", ADD, ONE)
        assert caught.value.errno == number
    assert kernel.opened == 1


def test_a_listing_is_yielded_to_its_end(kernel: Socket, door: NfnetlinkDoor) -> None:
    """It may take several datagrams; what is left of another is no part of it."""
    kernel.answers = [said(1) + said(1, ONE * 2), said(1), said(2), said(1) + end(1, 0, NLMSG_DONE), end(2)]
    first = door.dump("sets", ADD, b"")
    assert next(first) == ONE
    assert list(door.dump("sets", ADD, b"")) == [ONE]


def test_of_many_things_each_refusal_is_known(kernel: Socket, door: NfnetlinkDoor) -> None:
    """One send, an acknowledgement for the last only, which may be a refusal itself."""
    kernel.answers = [end(2, errno.ENOENT) + end(3, errno.EBUSY), end(4)]
    assert door.do_all("connections", ADD, [(2, ONE)] * 4) == [errno.ENOENT, errno.EBUSY]
    (burst,) = kernel.sent
    assert [bool(flags & NLM_F_ACK) for _, flags, _, _, _ in walk(burst)] == [False, False, False, True]
    kernel.answers = [end(5, errno.EPERM)]
    assert door.do_all("connections", ADD, [(10, ONE)]) == [errno.EPERM]
    assert door.do_all("connections", ADD, []) == []


def test_a_refused_bracket_of_a_batch_is_a_refusal(kernel: Socket, door: NfnetlinkDoor) -> None:
    """Nobody waits for an answer to what is in it, which then never comes."""
    kernel.answers = [end(1, errno.EOPNOTSUPP)]
    with pytest.raises(KernelError) as caught:
        door.do_in_batch("table nat", ADD, ONE)
    assert caught.value.errno == errno.EOPNOTSUPP
    assert [kind for kind, _, _, _, _ in walk(kernel.sent[0])] == [0x10, IPSET << 8 | ADD, 0x11]


@pytest.mark.parametrize(
    ("failure", "number", "words"),
    [
        (TimeoutError("timed out"), errno.ETIMEDOUT, "the kernel does not answer"),
        (OSError(errno.ENOBUFS, "No buffer space"), errno.ENOBUFS, "No buffer space"),
    ],
    ids=["time", "buffer"],
)
def test_after_a_lost_answer_the_socket_is_another(
    kernel: Socket, door: NfnetlinkDoor, failure: OSError, number: int, words: str
) -> None:
    """What is still on its way belongs to nobody."""
    kernel.answers = [failure, end(2)]
    with pytest.raises(KernelError, match=f"^a set: {words}$") as caught:
        door.do("a set", ADD, ONE)
    assert caught.value.errno == number
    door.do("a set", ADD, ONE)
    assert kernel.opened == 2


def test_sequence_numbers_begin_again(kernel: Socket, door: NfnetlinkDoor) -> None:
    """They have 32 bits."""
    door._sequence = (1 << 32) - 3
    kernel.answers = [end(1) + end(2) + end(3)]
    assert door.do_all("connections", ADD, [(2, ONE)] * 3) == []
