"""All sessions of a node: one heap of timers, one epoll, and the turn of a thread at them."""

from __future__ import annotations

import _thread
import json
import os
import select
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from time import monotonic

from bgpmesh import __version__
from bgpmesh.bfd_agent.sockets import draw, inode_of, is_left_behind, receiving_socket, sending_socket, sockaddr, words
from bgpmesh.peering.bfd import (
    MULTIHOP_PORT,
    NEVER,
    PROTOCOL,
    SINGLE_HOP_PORT,
    TTL,
    Change,
    DiscardedError,
    Output,
    Packet,
    Report,
    Session,
    Timing,
    Watched,
    decode,
    encode,
)

MOST_READ = 1024  # datagrams of one socket in a row
CHORES_S = 1.0
STALL_S = 0.03  # later than that we were kept from running
LATE_S = 0.01  # later than that somebody else may take the turn
FIRST_STAY_S = 10.0  # for the first word of a daemon
HAND_OVER_S = 5.0
LONGEST_LINE = 8 << 20  # octets

END = b'{"end": true}\n'  # of all that is handed over

# All that one process hands to another: a line for each thing, and its socket.
Estate = list[tuple[dict[str, object], socket.socket | None]]
Key = tuple[str, str]  # local and remote address

# What one process hands to another beside each session.
HANDED_OVER = ("heard_on", "is_wanted", "is_failure_untold", "changed_at", "source_port")


class Door:
    """A socket that receives on one of our addresses and one of the two ports."""

    __slots__ = ("local", "port", "sock")

    def __init__(self, local: str, port: int, sock: socket.socket) -> None:
        self.local: str = local
        self.port: int = port
        self.sock: socket.socket = sock


class Live:
    """A session with its socket and its place in the heap."""

    __slots__ = (*HANDED_OVER, "due_at", "seen", "session", "sock", "watched")

    def __init__(self, watched: Watched, session: Session, now: float) -> None:
        self.watched, self.session = watched, session
        self.sock: socket.socket | None = None
        self.source_port = 0
        self.heard_on = 0  # the port; 0: not heard
        self.is_wanted = True  # False: it says AdminDown for a while
        self.is_failure_untold = False
        self.changed_at = now
        self.due_at = NEVER  # its valid entry in the heap
        self.seen: tuple[object, ...] = ()  # what a report says beside its state

    @property
    def key(self) -> Key:
        """What no other session has."""
        return self.watched.local, self.watched.remote

    @property
    def ports(self) -> Sequence[int]:
        """Where the peer listens, or may listen."""
        if self.watched.hops:
            return (SINGLE_HOP_PORT,) if self.watched.hops == 1 else (MULTIHOP_PORT,)
        return (self.heard_on,) if self.heard_on else (SINGLE_HOP_PORT, MULTIHOP_PORT)

    def admits(self, port: int, ttl: int) -> bool:
        """Tell whether a packet may be the peer's by its way (RFC 5881 §5, RFC 5082 §3)."""
        hops = self.watched.hops
        if port == SINGLE_HOP_PORT:
            return hops <= 1 and ttl == TTL
        return hops != 1 and ttl > TTL - (hops or TTL) and (hops > 1 or self.heard_on != SINGLE_HOP_PORT)

    def report(self) -> Report:
        """Return what a daemon is told."""
        session = self.session
        is_single_hop = (self.watched.hops or (1 if self.heard_on == SINGLE_HOP_PORT else 2)) == 1
        return Report(
            self.watched.name,
            session.state,
            session.diag,
            session.remote_state,
            session.remote_diag,
            session.is_independent,
            self.is_failure_untold,
            self.changed_at,
            session.detection_us / 1000,
            session.interval_us / 1000,
            is_single_hop if session.remote_discriminator else None,
        )


class Client:
    """Somebody at the unix socket."""

    __slots__ = ("input", "output", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.input = bytearray()
        self.output = bytearray()


class Agent:
    """All sessions of a node."""

    def __init__(self, estate: Estate) -> None:
        """Begin with what there is: a listener at least, and with it all that another process had.

        Raises KeyError, TypeError or ValueError where it is not that. `scheduling` is what the daemon is told of it.
        """
        self.scheduling = ""
        own, listener = estate[0]
        if listener is None:
            raise ValueError("there is no listener")
        self._listener, self._path = listener, str(own["path"])
        self._is_staying = bool(own.get("is_staying"))
        self._inode = inode_of(self._path)
        self._poll = select.epoll()
        self._readers: dict[int, Callable[[int], None]] = {}  # by descriptor: what to do about its events
        self._live: dict[Key, Live] = {}
        self._by_discriminator: dict[int, Live] = {}
        self._doors: dict[tuple[str, int], Door] = {}
        self._heap: list[tuple[float, int, Live]] = []
        self._number = 0
        self._clients: dict[int, Client] = {}
        self._daemon: Client | None = None  # the one that said last what is wanted
        self._stay_s = float(own.get("stay_s", FIRST_STAY_S))  # type: ignore[arg-type]  # or TypeError
        self._alone_since = monotonic()
        self._untold: dict[Key, None] = {}
        self._problems: dict[str, None] = {}
        self._are_problems_untold = False
        self._chores_at = self._due = monotonic()  # `_due`: when `run` comes back by itself
        self._turn = _thread.allocate_lock()
        self._is_leaving = False  # nothing is taken on any more
        self.is_over = False
        self._discarded: Counter[str] = Counter()
        self._told_discarded = 0
        listener.setblocking(False)
        self._watch(listener, lambda _: self._accept())
        self._inherit(estate[1:])

    def run(self) -> None:
        """Go on until nobody needs us."""
        while not self.is_over:
            happened = self._poll.poll(max(0.0, self._due - monotonic()))
            with self._turn:
                self._go_on(happened)

    def stand_in(self) -> None:
        """Do what is due if `run` has not come to it in time; what it finds then is done already."""
        if monotonic() - self._due > LATE_S and self._turn.acquire(blocking=False):
            try:
                self._go_on(self._poll.poll(0))
            finally:
                self._turn.release()

    def _go_on(self, happened: Iterable[tuple[int, int]]) -> None:
        """Do what these events ask for, and what is due."""
        now = monotonic()
        for descriptor, events in happened:
            if (reader := self._readers.get(descriptor)) is not None:
                reader(events)
        if now - self._due > STALL_S:
            self._excuse()
        # As of the moment up to which all was read: who is stopped behind it finds himself late the next time.
        self._run_timers(now)
        self._tell()
        self._due = min(self._heap[0][0] if self._heap else NEVER, self._chores_at)

    def _excuse(self) -> None:
        """Blame nobody for a silence in which we did not run."""
        now = monotonic()
        for live in self._live.values():
            live.session.excuse(now)

    def leave(self, *_: object) -> None:
        """Tell all neighbours, then end; a handler of signals."""
        self._is_leaving = True
        self._chores_at = monotonic()

    # ── packets ──────────────────────────────────────────────────────────────

    def _receive(self, door: Door) -> None:
        """Read what came to one door: before any timer is looked at, so nobody is given up whose packets lie here."""
        recvmsg, port, now = door.sock.recvmsg, door.port, monotonic()
        for _ in range(MOST_READ):
            try:
                data, ancillary, _, source = recvmsg(128, 64)
            except BlockingIOError:
                return
            except OSError:  # an error of what was sent before, which UDP tells the next who asks
                continue
            try:
                packet = decode(data)
                live = self._addressee(packet, door, source[0])
                if not ancillary or not live.admits(port, struct.unpack_from("i", ancillary[0][2])[0]):
                    raise DiscardedError("from too far away")
            except DiscardedError as error:
                self._discarded[str(error)] += 1
                continue
            live.heard_on = port
            self._do(live, live.session.received(packet, now), now)

    def _addressee(self, packet: Packet, door: Door, source: str) -> Live:
        """Return the session by the discriminator, or by the addresses where the peer does not know it yet (§6.3)."""
        if packet.your_discriminator:
            live = self._by_discriminator.get(packet.your_discriminator)
        else:
            _, percent, link = door.local.partition("%")  # a link-local address is bound to its link
            live = self._live.get((door.local, source + percent + link))
        if live is None:
            raise DiscardedError("for no session")
        return live

    def _do(self, live: Live, outputs: Iterable[Output], now: float) -> None:
        """Send and note what a session answered, and know when it is due again."""
        for output in outputs:
            if isinstance(output, Change):
                live.changed_at = now
                live.is_failure_untold = live.is_failure_untold or output.is_failure
                self._untold[live.key] = None
            else:
                self._send(live, output)
        session = live.session
        seen = session.detection_us, session.interval_us, session.remote_state, session.remote_diag
        if seen != live.seen:
            live.seen = seen
            self._untold[live.key] = None
        if not session.remote_discriminator:
            live.heard_on = 0
        if not live.is_wanted and session.is_left(now):
            self._drop(live)
            return
        due = session.next_wakeup()
        if due < live.due_at:
            self._schedule(live, due)

    def _send(self, live: Live, packet: Packet) -> None:
        """Send a packet, but nothing where the answer would be another's to hear."""
        if live.sock is None:
            return
        data = encode(packet)
        for port in live.ports:
            if (live.watched.local, port) not in self._doors:
                continue  # who listens there may well be an agent that the peer has a session with
            try:
                live.sock.sendto(data, sockaddr(live.watched.remote, port))
            except OSError as error:  # no route, or a full queue: as if it were lost, and the detection time judges
                self._discarded[f"not sent: {error.strerror}"] += 1

    def _schedule(self, live: Live, due: float) -> None:
        self._number += 1
        live.due_at = due
        heappush(self._heap, (due, self._number, live))

    def _run_timers(self, now: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now:
            due, _, live = heappop(heap)
            if due != live.due_at:
                continue  # it was put in anew for an earlier time, or is gone
            live.due_at = NEVER
            self._do(live, live.session.tick(now), now)
        if now >= self._chores_at:
            self._chores_at = now + CHORES_S
            self._do_chores(now)

    # ── what is wanted ───────────────────────────────────────────────────────

    def _want(self, rows: Iterable[Watched], now: float) -> None:
        """Watch exactly these."""
        wanted = {(row.local, row.remote): row for row in rows}
        for key, live in list(self._live.items()):
            if key not in wanted and live.is_wanted:
                live.is_wanted = False
                self._do(live, live.session.disable(now), now)
        for key, row in wanted.items():
            timing = Timing(row.interval_ms * 1000, row.multiplier)
            live = self._live.get(key) or self._begin(row, Session(self._discriminator(), timing, draw, now), now)
            live.watched, live.is_wanted = row, True
            self._untold[key] = None
            outputs = live.session.enable(now)
            live.session.configure(timing, now)
            self._do(live, outputs, now)
        self._open()

    def _begin(self, row: Watched, session: Session, now: float) -> Live:
        live = self._live[row.local, row.remote] = Live(row, session, now)
        self._by_discriminator[session.discriminator] = live
        return live

    def _drop(self, live: Live) -> None:
        del self._live[live.key], self._by_discriminator[live.session.discriminator]
        self._untold.pop(live.key, None)
        live.due_at = NEVER
        if live.sock is not None:
            live.sock.close()
        self._chores_at = monotonic()

    def _discriminator(self) -> int:
        """Return one that no session has, and nobody can guess."""
        while not (number := int.from_bytes(os.urandom(4))) or number in self._by_discriminator:
            pass
        return number

    def _open(self) -> None:
        """Have the sockets that the sessions need, and no others; what cannot be had is tried again."""
        places = {
            (live.watched.local, port)
            for live in self._live.values()
            for port, is_needed in (
                (SINGLE_HOP_PORT, live.watched.hops <= 1),
                (MULTIHOP_PORT, live.watched.hops != 1),
            )
            if is_needed
        }
        left = {place for place, door in self._doors.items() if is_left_behind(door.sock, place[0])}
        for place in self._doors.keys() - (places - left):
            self._close(self._doors.pop(place).sock)
        problems: dict[str, None] = {}
        for place in sorted(places - self._doors.keys()):
            try:
                self._enter(Door(*place, receiving_socket(*place)))
            except OSError as error:
                problems[f"{place[0]} port {place[1]}: {words(error)}"] = None
        ports = {live.source_port for live in self._live.values()}
        for live in self._live.values():
            if live.sock is not None and is_left_behind(live.sock, live.watched.local):
                live.sock.close()
                live.sock = None
            if live.sock is None:
                try:
                    live.sock, live.source_port = sending_socket(live.watched.local, ports)
                    ports.add(live.source_port)
                except OSError as error:
                    problems[f"{live.watched.local}: {words(error)}"] = None
        if problems != self._problems:
            self._problems, self._are_problems_untold = problems, True

    def _enter(self, door: Door) -> None:
        self._doors[door.local, door.port] = door
        self._watch(door.sock, lambda _: self._receive(door))

    def _do_chores(self, now: float) -> None:
        """Try again what could not be had, and see whether anybody needs us."""
        self._poll.modify(self._listener.fileno(), select.EPOLLIN)
        self._open()
        discarded = sum(self._discarded.values())
        if discarded != self._told_discarded:
            self._told_discarded, self._are_problems_untold = discarded, True
        if self._daemon is None and (now >= self._alone_since + self._stay_s or not self._is_found()):
            self._is_leaving = self._is_leaving or not self._is_staying
        if self._is_leaving:
            self._want((), now)
        is_needed = self._is_staying or (self._daemon is None and now < self._alone_since + self._stay_s)
        if not self._live and (self._is_leaving or not is_needed):
            self.is_over = True

    def _is_found(self) -> bool:
        """Tell whether who looks for an agent finds this one."""
        return self._inode != 0 and inode_of(self._path) == self._inode

    # ── the daemon ───────────────────────────────────────────────────────────

    def _watch(self, sock: socket.socket, reader: Callable[[int], None]) -> None:
        self._readers[sock.fileno()] = reader
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _close(self, sock: socket.socket) -> None:
        del self._readers[sock.fileno()]
        self._poll.unregister(sock.fileno())
        sock.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # out of descriptors: who knocks is let in with the chores, if there are any then
            self._poll.modify(self._listener.fileno(), 0)
            return
        sock.setblocking(False)
        client = self._clients[sock.fileno()] = Client(sock)
        self._watch(sock, lambda events: self._serve(client, events))
        self._say(
            client,
            {"protocol": PROTOCOL, "version": __version__, "pid": os.getpid(), "scheduling": self.scheduling},
        )

    def _serve(self, client: Client, events: int) -> None:
        """Read what a client says, and go on saying what it did not take."""
        if events & select.EPOLLOUT:
            self._flush(client)
        if not events & ~select.EPOLLOUT:
            return
        try:
            data = client.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.input += data
        lines = client.input.split(b"\n")
        client.input = lines.pop()
        try:
            for line in lines:
                self._hear(client, json.loads(line))
                if self.is_over:
                    return
        except (ValueError, TypeError, KeyError) as error:
            self._say(client, {"error": f"{type(error).__name__}: {error}"})
            data = b""
        if not data or len(client.input) > LONGEST_LINE:
            self._hang_up(client)

    def _hear(self, client: Client, said: dict[str, object]) -> None:
        """Do what a line says; raises ValueError, TypeError or KeyError where it says nothing that we know."""
        now = monotonic()
        if "hand_over" in said:
            self._hand_over(client, said["hand_over"])
            return
        rows, stay_s = said["wanted"], said["stay_s"]
        if not isinstance(rows, list) or not isinstance(stay_s, int | float):
            raise TypeError("wanted is not a list, or stay_s not a number")
        watched = [checked(row) for row in rows]
        if self._daemon is not None and self._daemon is not client:
            self._hang_up(self._daemon)
        self._are_problems_untold = self._are_problems_untold or self._daemon is not client
        self._daemon, self._stay_s = client, stay_s
        if not self._is_leaving:
            self._want(watched, now)
        self._chores_at = monotonic()

    def _hang_up(self, client: Client) -> None:
        self._clients.pop(client.sock.fileno(), None)
        self._close(client.sock)
        if client is self._daemon:
            self._daemon, self._alone_since = None, monotonic()

    def _tell(self) -> None:
        """Tell the daemon what has changed, as soon as it has read what was said before."""
        daemon = self._daemon
        if daemon is None or daemon.output or not (self._untold or self._are_problems_untold):
            return
        if self._are_problems_untold:
            self._are_problems_untold = False
            self._say(daemon, {"problems": list(self._problems), "discarded": dict(self._discarded)})
        for key in list(self._untold):
            if daemon.output:
                return
            del self._untold[key]
            live = self._live[key]
            if live.is_wanted:
                report, live.is_failure_untold = live.report(), False
                self._say(daemon, {"report": report._asdict()})

    def _say(self, client: Client, what: dict[str, object]) -> None:
        client.output += json.dumps(what).encode() + b"\n"
        self._flush(client)

    def _flush(self, client: Client) -> None:
        try:
            del client.output[: client.sock.send(client.output)]
        except BlockingIOError:
            pass
        except OSError:
            client.output.clear()  # it is gone, as its reader will find
        is_waiting = select.EPOLLOUT if client.output else 0
        self._poll.modify(client.sock.fileno(), select.EPOLLIN | is_waiting)

    # ── the end ──────────────────────────────────────────────────────────────

    def end(self) -> None:
        """Let nobody find us any more; who has just knocked is turned away, and starts another agent."""
        if self._is_found():
            os.unlink(self._path)  # noqa: PTH108  pathlib is not imported here
        self._listener.close()

    def confess(self) -> None:
        """Tell the daemon of a bug that ends this process: its log is the only one there is."""
        if self._daemon is not None:
            import traceback  # noqa: PLC0415  not for every process

            self._say(self._daemon, {"bug": traceback.format_exc()})

    # ── from one version to the next ─────────────────────────────────────────

    def _hand_over(self, client: Client, protocol: object) -> None:
        """Give another process all there is, each descriptor with the line that speaks of it, and end once it has it.

        No packet is sent meanwhile, some milliseconds; what comes waits in the sockets, which stay open.
        """
        if protocol != PROTOCOL:
            raise ValueError(f"protocol {protocol!r} is not spoken here")
        try:
            client.sock.settimeout(HAND_OVER_S)
            for line, sock in self._estate():
                data = json.dumps({**line, "has_socket": sock is not None}).encode() + b"\n"
                sent = socket.send_fds(client.sock, [data], [] if sock is None else [sock.fileno()])
                client.sock.sendall(data[sent:])
            client.sock.sendall(END)
            if client.sock.recv(1) == b"\n":
                os._exit(0)  # nothing is closed, unlinked or said: it is all the other's
        except OSError:
            client.sock.setblocking(False)
            self._hang_up(client)

    def _estate(self) -> Estate:
        """Return all there is, as `__init__` takes it."""
        estate: Estate = [
            ({"path": self._path, "stay_s": self._stay_s, "is_staying": self._is_staying}, self._listener)
        ]
        estate += [({"door": (door.local, door.port)}, door.sock) for door in self._doors.values()]
        for live in self._live.values():
            others = {name: getattr(live, name) for name in HANDED_OVER}
            estate.append(({"watched": live.watched, "session": live.session.handed_over(), **others}, live.sock))
        return estate

    def _inherit(self, estate: Estate) -> None:
        now = monotonic()
        for line, sock in estate:
            if "door" in line and sock is not None:
                self._enter(Door(*line["door"], sock))  # type: ignore[call-arg, misc]  # or TypeError
            elif "session" in line:
                session = Session.taken_over(line["session"], draw)  # type: ignore[arg-type]  # or TypeError
                live = self._begin(checked(line["watched"]), session, now)
                for name in HANDED_OVER:
                    setattr(live, name, line[name])
                live.sock = sock
                self._untold[live.key] = None
                self._do(live, (), now)


def _as_listed(family: int, text: str) -> str:
    """Return an address as the kernel and Python write it, a link-local one with its link; raises OSError."""
    host, percent, link = text.partition("%")
    return socket.inet_ntop(family, socket.inet_pton(family, host)) + percent + link


def checked(row: object) -> Watched:
    """Return what is to be watched, addresses as the kernel writes them; raises TypeError, ValueError or OSError."""
    if not isinstance(row, list) or len(row) != len(Watched._fields):
        raise TypeError(f"{row!r:.80} is no session")
    name, local, remote, hops, interval_ms, multiplier = row
    if not all(isinstance(text, str) for text in (name, local, remote)):
        raise TypeError(f"{row!r:.80}: a name or an address is no text")
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    try:
        local, remote = (_as_listed(family, text) for text in (local, remote))
    except OSError as error:
        raise ValueError(f"{row!r:.80}: not two addresses of one family") from error
    limits = ((hops, 0, 255), (interval_ms, 1, 60_000), (multiplier, 1, 255))
    if not all(type(number) is int and low <= number <= high for number, low, high in limits):
        raise ValueError(f"{row!r:.80}: a number is out of its range")
    return Watched(name, local, remote, hops, interval_ms, multiplier)
