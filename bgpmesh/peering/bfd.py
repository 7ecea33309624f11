"""BFD in asynchronous mode, sans-IO (RFC 5880 §6.8): what came and `now` in, what to send and what changed out.

A `Session` watches one path. It opens no socket and reads no clock; `bfd_agent` is the process that runs it, and
the daemon knows of it what that process tells: `Watched` goes there, `Report` comes back.

Rules:
 1. We take the active role, offer no echo and ask for no demand mode. That of the peer is honoured: while both are up
    it hears from us only polls, answers to its polls, and changes.
 2. What we say of intervals and what counts already are two things (§6.8.3). While up, a slower rate of ours and a
    shorter time for detection count from the end of a Poll Sequence on, everything else at once.
 3. Poll Sequences do not overlap: what changes during one is polled for by another behind it.
 4. What differs from what was said last leaves at once (§6.8.7), so a session comes up in a round trip.
 5. A peer that was not heard for a detection time is forgotten, whatever the state (§6.8.1, §6.8.18).
 6. Nothing is authenticated, so what carries authentication is discarded (§6.8.6).

Only the standard library's small modules are imported, and no class is a dataclass: the process is to be small.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

PROTOCOL = 1  # what daemon and agent say to each other

SINGLE_HOP_PORT = 3784  # RFC 5881 §4
MULTIHOP_PORT = 4784  # RFC 5883 §5
TTL = 255  # of all that is sent; single hop: of all that is taken (RFC 5881 §5)

SLOW_US = 1_000_000  # microseconds: our rate while not up is no faster than this (RFC 5880 §6.8.3)
NEVER = float("inf")

_PACKET = struct.Struct("!BBBBIIIII")
_POLL, _FINAL, _INDEPENDENT, _AUTHENTICATED, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01


class State(enum.IntEnum):
    """The states of RFC 5880 §6.2, by their numbers on the wire."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3

    @property
    def words(self) -> str:
        """The state as the RFC writes it: AdminDown."""
        return "".join(part.capitalize() for part in self.name.split("_"))


class Diag(enum.IntEnum):
    """Why a state was entered, as far as we say it (RFC 5880 §4.1)."""

    NONE = 0
    EXPIRED = 1
    NEIGHBOUR_DOWN = 3
    ADMIN_DOWN = 7


_DIAG_WORDS = (
    "no diagnostic",
    "control detection time expired",
    "echo function failed",
    "neighbour signalled session down",
    "forwarding plane reset",
    "path down",
    "concatenated path down",
    "administratively down",
    "reverse concatenated path down",
)


def diag_words(diag: int) -> str:
    """Return a diagnostic code in the words of RFC 5880 §4.1."""
    return _DIAG_WORDS[diag] if diag < len(_DIAG_WORDS) else f"diagnostic {diag}"


# ── what daemon and agent say to each other ──────────────────────────────────


class Watched(NamedTuple):
    """A path to be watched: one session. The two addresses are texts, and no two sessions have both in common.

    `hops`: how far away the peer is at most; 1 is RFC 5881, more are RFC 5883. 0: not known. Both kinds are offered
    then, until the peer is heard; where it uses both it is the single hop, which nobody further away can pretend.
    """

    name: str
    local: str
    remote: str
    hops: int
    interval_ms: int
    multiplier: int


class Report(NamedTuple):
    """What has become of a session; `is_failure`: it failed since it was told of last, whatever it is now."""

    name: str
    state: int
    diag: int
    remote_state: int
    remote_diag: int
    is_independent: bool  # both sides say that they outlive their control plane (RFC 5882 §4.3.1)
    is_failure: bool
    at: float  # monotonic second of the last change
    detection_ms: float = 0.0
    interval_ms: float = 0.0
    is_single_hop: bool | None = None  # None: the peer was not heard


# ── packets ──────────────────────────────────────────────────────────────────


class Packet(NamedTuple):
    """A control packet (RFC 5880 §4.1) without authentication; intervals in microseconds."""

    state: State
    diag: int
    multiplier: int
    my_discriminator: int
    your_discriminator: int
    min_tx_us: int
    min_rx_us: int
    min_echo_rx_us: int = 0
    is_poll: bool = False
    is_final: bool = False
    is_independent: bool = False  # of the control plane: the C bit
    is_demand: bool = False


class DiscardedError(Exception):
    """A packet is not for us, or not one; the text is the reason, one of few."""


def encode(packet: Packet) -> bytes:
    """Return the 24 octets of a packet."""
    flags = packet.state << 6
    flags |= _POLL if packet.is_poll else 0
    flags |= _FINAL if packet.is_final else 0
    flags |= _INDEPENDENT if packet.is_independent else 0
    flags |= _DEMAND if packet.is_demand else 0
    return _PACKET.pack(
        1 << 5 | packet.diag,
        flags,
        packet.multiplier,
        _PACKET.size,
        packet.my_discriminator,
        packet.your_discriminator,
        packet.min_tx_us,
        packet.min_rx_us,
        packet.min_echo_rx_us,
    )


def decode(data: bytes) -> Packet:
    """Return the packet in a datagram; raises DiscardedError as far as §6.8.6 discards without knowing the session."""
    if len(data) < _PACKET.size:
        raise DiscardedError("too short")
    first, flags, multiplier, length, mine, yours, min_tx, min_rx, min_echo = _PACKET.unpack_from(data)
    if first >> 5 != 1:
        raise DiscardedError("not version 1")
    if length < _PACKET.size or length > len(data):
        raise DiscardedError("length does not fit")
    if flags & _AUTHENTICATED:
        raise DiscardedError("authenticated")
    if not multiplier:
        raise DiscardedError("multiplier is zero")
    if flags & _MULTIPOINT:
        raise DiscardedError("multipoint")
    if not mine:
        raise DiscardedError("no discriminator")
    state = State(flags >> 6)
    if not yours and state > State.DOWN:
        raise DiscardedError("does not say whom it answers")
    return Packet(
        state,
        first & 0x1F,
        multiplier,
        mine,
        yours,
        min_tx,
        min_rx,
        min_echo,
        bool(flags & _POLL),
        bool(flags & _FINAL),
        bool(flags & _INDEPENDENT),
        bool(flags & _DEMAND),
    )


# ── the machine ──────────────────────────────────────────────────────────────


class Timing(NamedTuple):
    """How often we send at most and want to be sent to at most, and how many may be missed."""

    interval_us: int
    multiplier: int


class Change(NamedTuple):
    """The session has another state; `diag` says why, and `is_failure` that the path is to be taken for broken.

    It is not where the neighbour said that somebody wants it so (RFC 5882 §3.2), nor where we did.
    """

    before: State
    state: State
    diag: int
    is_failure: bool


Output = Packet | Change


class Session:
    """One session; every method returns what is to be sent and what has changed, in order.

    To be read: `state`, `diag`, `remote_state`, `remote_diag`, `remote_discriminator` (0: not heard), `is_independent`
    (the C bit of both sides).
    """

    # What one process hands to another that takes the session over.
    _HANDED_OVER = (
        "discriminator",
        "state",
        "diag",
        "remote_state",
        "remote_diag",
        "remote_discriminator",
        "_timing",
        "_min_tx_us",
        "_min_rx_us",
        "_tx_us",
        "_rx_us",
        "_remote_min_tx_us",
        "_remote_min_rx_us",
        "_remote_multiplier",
        "_is_remote_demanding",
        "_is_remote_independent",
        "_is_polling",
        "_is_poll_said",
        "_is_poll_owed",
        "_heard_at",
        "_excuses",
        "_detect_at",
        "_sent_at",
        "_send_at",
        "_leaving_until",
    )
    __slots__ = (*_HANDED_OVER, "_jitter")

    def __init__(self, discriminator: int, timing: Timing, jitter: Callable[[], float], now: float) -> None:
        """Make a session that is down and sends at once; `jitter` returns a number in [0, 1)."""
        self.discriminator = discriminator
        self.state = State.DOWN
        self.diag: int = Diag.NONE
        self.remote_state = State.DOWN
        self.remote_diag: int = Diag.NONE
        self.remote_discriminator = 0
        self._jitter = jitter
        self._timing = timing
        self._min_tx_us = max(timing.interval_us, SLOW_US)  # what we say
        self._min_rx_us = timing.interval_us
        self._tx_us, self._rx_us = self._min_tx_us, self._min_rx_us  # what counts (rule 2)
        self._remote_min_tx_us = self._remote_multiplier = 0
        self._remote_min_rx_us = 1
        self._is_remote_demanding = self._is_remote_independent = False
        self._is_polling = False
        self._is_poll_said = self._is_poll_owed = False  # a packet of this sequence was sent; another is to follow
        self._heard_at, self._excuses = -NEVER, 0
        self._detect_at = NEVER
        self._sent_at, self._send_at = -NEVER, now
        self._leaving_until = NEVER  # AdminDown is said until then

    # ── what is known ────────────────────────────────────────────────────────

    @property
    def detection_us(self) -> int:
        """Microseconds without a packet after which the peer is down; 0: none was heard (§6.8.4)."""
        return self._remote_multiplier * max(self._rx_us, self._remote_min_tx_us)

    @property
    def interval_us(self) -> int:
        """Microseconds between our packets, before jitter (§6.8.7); 0: the peer wants none."""
        return max(self._tx_us, self._remote_min_rx_us) if self._remote_min_rx_us else 0

    @property
    def is_independent(self) -> bool:
        """Whether both sides say that they outlive their control planes (RFC 5882 §4.3.1); ours does."""
        return self._is_remote_independent

    def is_left(self, now: float) -> bool:
        """Whether nobody has to be told any more that the session is gone: §6.8.16 asks for a detection time."""
        if self.state is not State.ADMIN_DOWN:
            return False
        return self.remote_state <= State.DOWN or now >= self._leaving_until

    def next_wakeup(self) -> float:
        """Return the second at which `tick` has something to do."""
        return min(self._send_at, self._detect_at)

    # ── what happens ─────────────────────────────────────────────────────────

    def configure(self, timing: Timing, now: float) -> None:
        """Have other intervals; the peer is asked before anything becomes slower than it expects."""
        if timing == self._timing:
            return
        self._timing = timing
        self._send_soon(now)
        self._say_min_tx(timing.interval_us, now)
        if timing.interval_us != self._min_rx_us:
            self._min_rx_us = timing.interval_us
            if self.state is not State.UP or self._min_rx_us > self._rx_us:
                self._rx_us = self._min_rx_us
                self._expect()
            self._poll(now)

    def received(self, packet: Packet, now: float) -> list[Output]:
        """Take a packet that was demultiplexed to this session (§6.8.6, from "Set bfd.RemoteDiscr" on)."""
        outputs: list[Output] = []
        pace = self._pace
        self.remote_discriminator, self.remote_state = packet.my_discriminator, packet.state
        self.remote_diag = packet.diag
        self._is_remote_demanding, self._is_remote_independent = packet.is_demand, packet.is_independent
        self._remote_min_tx_us, self._remote_min_rx_us = packet.min_tx_us, packet.min_rx_us
        self._remote_multiplier = packet.multiplier
        if packet.is_final and self._is_poll_said:
            self._polled(now)
        self._heard_at, self._excuses = now, 0
        self._expect()
        if self._pace != pace:
            self._schedule(now)
        if self.state is State.ADMIN_DOWN:
            return []  # §6.8.6 discards it here: a poll is not answered
        state, diag = self._follow(packet.state)
        if state is not self.state:
            outputs += self._change(state, diag, now)
        if packet.is_poll:
            outputs.append(self._packet(is_final=True))
        if self._send_at <= now:
            outputs += self._periodic(now)
        return outputs

    def tick(self, now: float) -> list[Output]:
        """Do what is due: give up a peer that was not heard, send."""
        outputs: list[Output] = []
        if now >= self._detect_at:
            self._forget()
            if self.state in {State.INIT, State.UP}:
                outputs += self._change(State.DOWN, Diag.EXPIRED, now)
        if now >= self._send_at:
            outputs += self._periodic(now)
        return outputs

    def excuse(self, now: float) -> None:
        """Give the peer another interval to be heard in: it is we who did not listen up to now.

        Who stood still for a moment, with the whole machine perhaps, cannot tell silence from that. There are as many
        excuses as packets may be missed, so that who is always late finds a broken path too.
        """
        if self._excuses < self._remote_multiplier:
            self._excuses += 1
            self._detect_at = max(self._detect_at, now + self.detection_us / 1e6 / self._remote_multiplier)

    def disable(self, now: float) -> list[Output]:
        """Enter AdminDown (§6.8.16), which no neighbour takes for a failure.

        It is said at the rate of before until the peer has confirmed it: a single packet may get lost.
        """
        if self.state is State.ADMIN_DOWN:
            return []
        self._leaving_until = now + self._timing.multiplier * self.interval_us / 1e6
        self._say_min_tx(max(self._timing.interval_us, SLOW_US), now)
        outputs = self._change(State.ADMIN_DOWN, Diag.ADMIN_DOWN, now)
        return outputs + self._periodic(now)

    def enable(self, now: float) -> list[Output]:
        """Leave AdminDown again."""
        if self.state is not State.ADMIN_DOWN:
            return []
        self._leaving_until = NEVER
        outputs = self._change(State.DOWN, Diag.NONE, now)
        return outputs + self._periodic(now)

    # ── handing over ─────────────────────────────────────────────────────────

    def handed_over(self) -> dict[str, object]:
        """Return the whole session as plain data, times by the clock of `now`."""
        return {name: getattr(self, name) for name in self._HANDED_OVER}

    @classmethod
    def taken_over(cls, data: Mapping[str, object], jitter: Callable[[], float]) -> Session:
        """Return the session that another process had; raises KeyError, TypeError or ValueError where it is none."""
        taken = cls.__new__(cls)
        for name in cls._HANDED_OVER:
            setattr(taken, name, data[name])
        taken._jitter = jitter  # noqa: SLF001  it is ours
        taken.state, taken.remote_state = State(taken.state), State(taken.remote_state)
        taken._timing = Timing(*taken._timing)  # noqa: SLF001  the same
        return taken

    # ── inside ───────────────────────────────────────────────────────────────

    def _follow(self, remote: State) -> tuple[State, int]:
        """Return our state after one of the peer's (the machine of §6.8.6) and the reason, if it is another."""
        match self.state, remote:
            case State.INIT | State.UP, State.ADMIN_DOWN:
                return State.DOWN, Diag.NEIGHBOUR_DOWN
            case State.DOWN, State.DOWN:
                return State.INIT, Diag.NONE
            case (State.DOWN, State.INIT) | (State.INIT, State.INIT | State.UP):
                return State.UP, Diag.NONE
            case State.UP, State.DOWN:
                return State.DOWN, Diag.NEIGHBOUR_DOWN
        return self.state, self.diag

    def _change(self, state: State, diag: int, now: float) -> list[Output]:
        before = self.state
        is_failure = before is State.UP and state is State.DOWN and self.remote_state is not State.ADMIN_DOWN
        if state is State.INIT and self.diag:
            diag = self.diag  # why it was down is of interest until it is up
        self.state, self.diag = state, diag
        if state is not State.UP:
            self._rx_us = self._min_rx_us
            self._expect()
        if state is not State.ADMIN_DOWN:
            self._say_min_tx(self._timing.interval_us, now)
        self._send_soon(now)
        return [Change(before, state, diag, is_failure)]

    def _forget(self) -> None:
        self.remote_discriminator, self.remote_state = 0, State.DOWN
        self._remote_min_tx_us, self._remote_min_rx_us, self._remote_multiplier = 0, 1, 0
        self._is_remote_demanding = False
        self._detect_at = NEVER

    def _expect(self) -> None:
        """Know when the peer is down if it is not heard again."""
        if self._remote_multiplier:
            self._detect_at = self._heard_at + self.detection_us / 1e6

    def _say_min_tx(self, interval_us: int, now: float) -> None:
        """Have another rate, which is no faster than the slow one while not up."""
        wanted = interval_us if self.state is State.UP else max(interval_us, SLOW_US)
        if wanted == self._min_tx_us:
            return
        self._min_tx_us = wanted
        if self.state is not State.UP or wanted < self._tx_us:
            self._tx_us = wanted
            self._schedule(now)
        self._poll(now)

    def _poll(self, now: float) -> None:
        self._is_poll_owed = self._is_polling and self._is_poll_said
        self._is_polling = True
        self._send_soon(now)

    def _polled(self, now: float) -> None:
        """End the Poll Sequence: what was said counts, unless it has changed since."""
        self._is_poll_said = False
        if self._is_poll_owed:
            self._is_poll_owed = False
            self._send_soon(now)
            return
        self._is_polling = False
        self._tx_us, self._rx_us = self._min_tx_us, self._min_rx_us

    @property
    def _is_silent(self) -> bool:
        """Whether nothing is to be sent unasked (§6.8.7)."""
        is_demanded = self._is_remote_demanding and self.state is State.UP and self.remote_state is State.UP
        return not self._remote_min_rx_us or (is_demanded and not self._is_polling)

    @property
    def _pace(self) -> int:
        """Microseconds between packets that are sent unasked; 0: none are."""
        return 0 if self._is_silent else self.interval_us

    def _send_soon(self, now: float) -> None:
        """Send what differs from what was said before; whoever calls this sends before it returns, or wakes up."""
        self._send_at = now

    def _schedule(self, now: float) -> None:
        """Name the next second to send at: the interval less a quarter at most, and less a tenth with multiplier 1."""
        share = 0.9 - 0.15 * self._jitter() if self._timing.multiplier == 1 else 1 - 0.25 * self._jitter()
        pace = self._pace
        self._send_at = max(self._sent_at + share * pace / 1e6, now) if pace else NEVER

    def _periodic(self, now: float) -> list[Output]:
        """Send, unless the peer is to hear nothing, and name the next time."""
        if self._is_silent:
            self._send_at = NEVER
            return []
        self._sent_at = now
        self._schedule(now)
        return [self._packet(is_final=False)]

    def _packet(self, *, is_final: bool) -> Packet:
        self._is_poll_said = self._is_poll_said or (self._is_polling and not is_final)
        return Packet(
            self.state,
            self.diag,
            self._timing.multiplier,
            self.discriminator,
            self.remote_discriminator,
            self._min_tx_us,
            self._min_rx_us,
            is_poll=self._is_polling and not is_final,
            is_final=is_final,
            is_independent=True,
        )
