"""A kernel that fails is survived: the gap closes in the end, and what went well is not held up."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import struct
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpmesh.errors import KernelError
from bgpmesh.events import FibRead, FibWritten
from bgpmesh.kernel.fib import FibEdge, KernelOptions
from bgpmesh.kernel.mirror import Slot
from bgpmesh.kernel.netlink import (
    HEADER,
    NLM_F_EXCL,
    RTM_DELLINK,
    RTM_DELNEXTHOP,
    RTM_DELROUTE,
    RTM_GETLINK,
    RTM_GETNEXTHOP,
    RTM_GETROUTE,
    RTM_NEWLINK,
    RTM_NEWNEXTHOP,
    Refused,
    attribute,
    attributes,
    message,
    walk,
)
from bgpmesh.kernel.routes import (
    IFF_LOWER_UP,
    IFF_UP,
    IFLA_IFNAME,
    RTA_TABLE,
    RTN_UNICAST,
    Hop,
    Nexthop,
    RouteReader,
    Shape,
    delete_route,
    for_each,
    group_id,
    new_nexthop,
    new_route,
    object_id,
    read_nexthops,
)
from bgpmesh.kernel.table import FOREIGN_ROUTE, Table
from bgpmesh.route.nlri import IPAddress, parse_nlri, prefix_text
from bgpmesh.route.path import Blackhole, OnLink, Resolution, Target, Via
from tests.flat import pairs
from tests.unit.kernel.stand_in import Core

LINK = 2
X, Y, Z = (ipaddress.ip_address(f"192.0.2.{i}") for i in (2, 3, 4))
NO_MEMORY = os.strerror(errno.ENOMEM)


class FakeKernel:
    """The netlink door of a kernel that keeps routes and objects in dicts, and fails on demand."""

    def __init__(self) -> None:
        self.routes: dict[Slot, Shape] = {}
        self.nexthops: dict[int, Nexthop] = {}
        self.links = {1: "lo", LINK: "eth0"}
        self.has_objects = True
        self.written = 0  # messages worked through
        # What goes wrong, one for each message, answer, dump or hearing; 0: nothing.
        self.message_faults: deque[int] = deque()
        self.lost_answers: deque[bool] = deque()
        self.dump_faults: deque[int] = deque()
        self.deaf: deque[bool] = deque()
        self._news: deque[bytes] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)
        self._sequence = 1

    def reserve(self, count: int) -> int:
        """Return the next number."""
        self._sequence += count
        return self._sequence - count

    def transact(self, messages: bytes | bytearray, last: int) -> list[Refused]:
        """Do what the messages say, or fail."""
        data, refused = bytes(messages), []
        for kind, flags, sequence, start, end in walk(data):
            self.written += 1
            fault = self.message_faults.popleft() if self.message_faults else 0
            fault = fault or self._do(kind, flags, data[start - HEADER.size : end])
            if fault:
                refused.append(Refused(sequence, fault, os.strerror(fault)))
        assert last == sequence
        if self.lost_answers and self.lost_answers.popleft():
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return refused

    def _do(self, kind: int, flags: int, data: bytes) -> int:
        if kind in (RTM_NEWNEXTHOP, RTM_DELNEXTHOP):
            nexthop = next(iter(read_nexthops(data)))[1]
            if kind == RTM_DELNEXTHOP:
                return self.drop_nexthop(nexthop.id)
            if flags & NLM_F_EXCL and nexthop.id in self.nexthops:
                return errno.EEXIST
            if any(member not in self.nexthops for member in nexthop.members):
                return errno.EINVAL
            self.nexthops[nexthop.id] = nexthop
            return 0
        _, _, key, shape = next(iter(RouteReader().read(data)))
        slot = Slot(key, shape.table, shape.metric)
        there = self.routes.get(slot)
        if kind == RTM_DELROUTE:
            if there is None or there.protocol != shape.protocol:
                return errno.ESRCH
            del self.routes[slot]
        elif flags & NLM_F_EXCL and there is not None:
            return errno.EEXIST
        elif (shape.nexthop_id and shape.nexthop_id not in self.nexthops) or any(h.link < 1 for h in shape.hops):
            return errno.EINVAL
        else:
            self.routes[slot] = shape
        return 0

    def drop_nexthop(self, identifier: int) -> int:
        """Remove an object, and its routes in silence."""
        if self.nexthops.pop(identifier, None) is None:
            return errno.ENOENT
        self.routes = {slot: shape for slot, shape in self.routes.items() if shape.nexthop_id != identifier}
        return 0

    def dump(self, request: bytes | bytearray) -> Iterator[bytes]:
        """List links, objects, or the routes of a table; a torn dump shows half of it."""
        kind = HEADER.unpack_from(request)[1]
        fault = self.dump_faults.popleft() if self.dump_faults else 0
        entries = list(self._listed(kind, bytes(request)))
        if fault and fault != errno.EINTR:
            raise OSError(fault, os.strerror(fault))
        yield b"".join(entries[: len(entries) // 2] if fault else entries)
        if fault:
            raise InterruptedError(fault, os.strerror(fault))

    def _listed(self, kind: int, request: bytes) -> Iterator[bytes]:
        if kind == RTM_GETLINK:
            yield from (link_message(RTM_NEWLINK, index, name) for index, name in self.links.items())
        elif kind == RTM_GETNEXTHOP:
            if not self.has_objects:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            yield from (new_nexthop(0, 1, nexthop) for nexthop in self.nexthops.values())
        elif kind == RTM_GETROUTE:
            asked = struct.unpack("=I", attributes(request, 28, len(request))[RTA_TABLE])[0]
            width = 5 if request[16] == 2 else 17
            for slot, shape in self.routes.items():
                if slot.table == asked and len(slot.key) == width:
                    yield bytes(for_each(new_route(len(slot.key), shape, 0), [slot.key], 1))

    def hear(self) -> list[bytes]:
        """Return the news."""
        if self.deaf and self.deaf.popleft():
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        heard, self._news = list(self._news), deque()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        return heard

    def tell(self, data: bytes | bytearray) -> None:
        """Have the edge hear this."""
        self._news.append(bytes(data))
        os.eventfd_write(self._bell, 1)

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._bell

    def close(self) -> None:
        """Nothing is held but the bell."""
        if self._bell >= 0:
            os.close(self._bell)
        self._bell = -1

    # ── somebody else's hands ────────────────────────────────────────────────

    def make_link(self, index: int, name: str) -> None:
        """Make a link, in the place of one of that name, and tell."""
        for there in [there for there, its_name in self.links.items() if its_name == name]:
            self.tell(link_message(RTM_DELLINK, there, self.links.pop(there)))
        self.links[index] = name
        self.tell(link_message(RTM_NEWLINK, index, name))

    def add_route(self, prefix: str, protocol: int = 4, metric: int = 32) -> None:
        """Route a prefix as somebody else would, telling nobody."""
        shape = Shape(RTN_UNICAST, protocol, 254, metric, hops=(Hop(LINK, Z.packed),))
        self.routes[Slot(parse_nlri(prefix), 254, metric)] = shape

    def remove_route(self, prefix: str) -> None:
        """Take a route away and tell."""
        key = parse_nlri(prefix)
        shape = self.routes.pop(Slot(key, 254, 32))
        self.tell(for_each(delete_route(len(key), shape), [key], 0))

    def shown(self) -> dict[str, int]:
        """Return the protocol of each route, by prefix."""
        return {prefix_text(slot.key): shape.protocol for slot, shape in self.routes.items()}


def link_message(kind: int, index: int, name: str) -> bytes:
    """Return what the kernel says of a link that is up."""
    head = struct.pack("=BxHiII", 0, 1, index, IFF_UP | IFF_LOWER_UP, 0)
    return message(kind, 0, 1, head + attribute(IFLA_IFNAME, name.encode() + b"\0"))


class Bench(Core):
    """The engine's part and a Table, stepped by hand: each step is later than every back-off."""

    def __init__(self, kernel: FakeKernel, known: tuple[IPAddress, ...] = ()) -> None:
        self.time = 0.0
        super().__init__(lambda: self.time)
        self.kernel = kernel
        self.table = Table(kernel, KernelOptions(), self.report, self.hurry, known)
        self.doomed: list[IPAddress] = []
        self.table.read_back()

    def hurry(self, woken: object) -> None:
        """Nothing: every step is late enough."""

    def step(self) -> None:
        """Do one round of what the edge does."""
        self.time += 100.0
        self.table.hear()
        taken = pairs(self.next_hops.take(1000, self.time))
        self.doomed += [address for address, resolution in taken if resolution is None]
        written = [(address, resolution) for address, resolution in taken if resolution is not None]
        self.table.write(written, self.fib.take(1000, self.time))
        if self.table.must_read_back():
            with contextlib.suppress(OSError):  # the edge tries again later, and so do we
                self.table.read_back()
        self.doomed = self.table.settle(self.doomed, may_sweep=True)

    def close_gap(self) -> None:
        """Step until everything is as wanted."""
        for _ in range(20):
            if not self.fib and not self.next_hops and not self.table.is_alarmed():
                return
            self.step()
        raise AssertionError((self.fib.refused, self.next_hops.refused, self.kernel.shown()))


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    """Give a kernel with nothing in it but a link."""
    made = FakeKernel()
    yield made
    made.close()


def want_some(bench: Core) -> None:
    """Want two next hops and five routes of every kind."""
    for address in (X, Y):
        bench.next_hops.want(address, Resolution(LINK, None, 0))
    bench.want({"10.1.0.0/24": Via((X,)), "10.2.0.0/24": Via((X, Y)), "10.3.0.0/24": Blackhole()})
    bench.want({"10.4.0.1/32": OnLink("eth0"), "fd00::/64": Blackhole()})


EVERYTHING = dict.fromkeys(("10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24", "10.4.0.1/32", "fd00::/64"), 77)


@pytest.mark.parametrize("number", range(9))
def test_the_nth_message_fails_once(kernel: FakeKernel, number: int) -> None:
    """Whichever message the kernel has no memory for, everything stands in the end."""
    kernel.message_faults.extend([0] * number + [errno.ENOMEM])
    bench = Bench(kernel)
    want_some(bench)
    bench.close_gap()
    assert kernel.shown() == EVERYTHING


def test_a_refusal_belongs_to_its_prefix_and_stops_no_other(kernel: FakeKernel) -> None:
    """One of three routes is refused with the kernel's text; the others are written by the same burst."""
    kernel.message_faults.extend([0, errno.ENOMEM, 0])
    bench = Bench(kernel)
    bench.want({"10.1.0.0/24": Blackhole(), "10.2.0.0/24": Blackhole(), "10.3.0.0/24": Blackhole()})
    bench.step()
    event = next(event for event in bench.events if isinstance(event, FibWritten))
    assert {parse_nlri("10.2.0.0/24"): NO_MEMORY} == event.failed
    assert kernel.shown() == {"10.1.0.0/24": 77, "10.3.0.0/24": 77}


@pytest.mark.parametrize("was", ["", "bgpm1"], ids=["new", "anew"])
def test_a_route_by_a_link_that_was_only_just_made_is_written(kernel: FakeKernel, was: str) -> None:
    """The table hears of it, or of another one by its name, before it writes, whenever it had its turn to listen."""
    if was:
        kernel.links[3] = was
    bench = Bench(kernel)
    kernel.make_link(4, "bgpm1")
    bench.want({"10.4.0.1/32": OnLink("bgpm1")})
    bench.table.write([], bench.fib.take(1000, bench.time))
    assert bench.failures == {}
    (shape,) = kernel.routes.values()
    assert shape.hops == (Hop(4),)


def test_a_route_by_a_next_hop_that_failed_says_which(kernel: FakeKernel) -> None:
    """Without its next hop the route is not tried; the reason names the next hop."""
    kernel.message_faults.append(errno.ENOMEM)
    bench = Bench(kernel)
    bench.next_hops.want(X, Resolution(LINK, None, 0))
    bench.want({"10.1.0.0/24": Via((X,))})
    bench.step()
    assert {X: NO_MEMORY, parse_nlri("10.1.0.0/24"): f"next hop is not written: {X}"} == bench.failures


@pytest.mark.parametrize("number", range(8))
def test_a_torn_dump_is_read_again(kernel: FakeKernel, number: int) -> None:
    """Whichever of the dumps of a read-back changed under us, what is believed is whole."""
    kernel.add_route("10.1.0.0/24", 77)
    kernel.add_route("10.2.0.0/24", 77)
    kernel.dump_faults.extend([0] * number + [errno.EINTR])
    bench = Bench(kernel)
    assert {parse_nlri("10.1.0.0/24"), parse_nlri("10.2.0.0/24")} == set(bench.fib.actual)


def test_lost_answers_are_found_out_by_reading_back(kernel: FakeKernel) -> None:
    """What was written though nobody said so counts as written, and is not written again."""
    bench = Bench(kernel)
    bench.want({"10.1.0.0/24": Blackhole(), "10.2.0.0/24": Blackhole()})
    kernel.lost_answers.append(True)
    bench.close_gap()
    expected = (2, {"10.1.0.0/24": 77, "10.2.0.0/24": 77})
    assert expected == (kernel.written, kernel.shown())


def test_lost_answers_to_next_hops_are_survived(kernel: FakeKernel) -> None:
    """Every answer to the first rounds is lost; everything stands in the end."""
    bench = Bench(kernel)
    want_some(bench)
    kernel.lost_answers.extend([True] * 4)
    bench.close_gap()
    assert kernel.shown() == EVERYTHING


def test_lost_news_is_made_up_for_by_reading_back(kernel: FakeKernel) -> None:
    """A route of ours that vanished while we were deaf is written again, and counted."""
    bench = Bench(kernel)
    bench.want({"10.1.0.0/24": Blackhole()})
    bench.close_gap()
    kernel.routes.clear()
    kernel.deaf.append(True)
    bench.table.hear()
    bench.close_gap()
    assert (kernel.shown(), bench.drift) == ({"10.1.0.0/24": 77}, 1)


def test_a_read_back_that_finds_nothing_says_nothing(kernel: FakeKernel) -> None:
    """The minute's read-back costs the engine nothing where all is well."""
    bench = Bench(kernel)
    want_some(bench)
    bench.close_gap()
    said = len(bench.events)
    bench.table.read_back()
    assert said == len(bench.events)


def test_a_restart_writes_nothing(kernel: FakeKernel) -> None:
    """What an earlier life left is recognised, next hops and groups too, and is right already."""
    first = Bench(kernel)
    want_some(first)
    first.next_hops.want(X, Resolution(LINK, Z, 20))  # not its own gateway: the object does not say whose it is
    first.close_gap()
    written = kernel.written
    second = Bench(kernel)
    want_some(second)
    second.next_hops.want(X, Resolution(LINK, Z, 20))
    second.close_gap()
    assert written == kernel.written


def test_saved_next_hops_name_what_an_earlier_life_left(kernel: FakeKernel) -> None:
    """Told of the next hops, a read-back names every route; without, only those that are their own gateway."""
    first = Bench(kernel)
    want_some(first)
    first.next_hops.want(X, Resolution(LINK, Z, 0))
    first.close_gap()
    key = parse_nlri("10.1.0.0/24")
    found = [Bench(kernel, known).fib.actual[key] for known in ((X,), ())]
    assert [Via((X,)), Via(())] == found


def test_what_nobody_wishes_for_after_a_restart_goes(kernel: FakeKernel) -> None:
    """Routes, groups and objects of an earlier life are swept, also those that cannot be named."""
    first = Bench(kernel)
    want_some(first)
    first.next_hops.want(X, Resolution(LINK, Z, 0))
    first.close_gap()
    second = Bench(kernel)
    second.close_gap()
    second.step()
    second.step()
    assert (kernel.shown(), kernel.nexthops) == ({}, {})


def test_a_route_that_was_there_first_is_left_alone(kernel: FakeKernel) -> None:
    """Ours is refused by name, whether we knew of the other or found out by running into it."""
    kernel.add_route("10.1.0.0/24")
    bench = Bench(kernel)
    kernel.add_route("10.2.0.0/24")  # and nobody told us
    bench.want({"10.1.0.0/24": Blackhole(), "10.2.0.0/24": Blackhole(), "10.3.0.0/24": Blackhole()})
    bench.step()
    expected = {"10.1.0.0/24": 4, "10.2.0.0/24": 4, "10.3.0.0/24": 77}
    assert expected == kernel.shown()
    assert {parse_nlri(f"10.{i}.0.0/24"): FOREIGN_ROUTE for i in (1, 2)} == bench.failures


def test_a_route_that_took_the_place_of_ours_is_set_right(kernel: FakeKernel) -> None:
    """Also where only a read-back shows it."""
    bench = Bench(kernel)
    bench.want({"10.1.0.0/24": Blackhole()})
    bench.close_gap()
    kernel.add_route("10.1.0.0/24")
    bench.table.read_back()
    bench.close_gap()
    assert (kernel.shown(), bench.drift) == ({"10.1.0.0/24": 77}, 1)


def test_without_nexthop_objects_gateways_stand_in_the_routes(kernel: FakeKernel) -> None:
    """Routes go by gateway, and follow when the way to the next hop changes."""
    kernel.has_objects = False
    bench = Bench(kernel)
    want_some(bench)
    bench.close_gap()
    bench.next_hops.want(X, Resolution(LINK, Z, 0))
    bench.close_gap()
    hops = {prefix_text(slot.key): shape.hops for slot, shape in kernel.routes.items() if shape.hops}
    z, y = Hop(LINK, Z.packed), Hop(LINK, Y.packed)
    assert {"10.1.0.0/24": (z,), "10.2.0.0/24": (y, z), "10.4.0.1/32": (Hop(LINK),)} == hops
    bench.want(dict.fromkeys(EVERYTHING))
    bench.next_hops.unwant_many([X, Y])
    bench.close_gap()
    assert (kernel.shown(), kernel.nexthops) == ({}, {})


@pytest.mark.parametrize("taken", [object_id(X), group_id(Via((X, Y)))])
def test_an_id_that_is_taken_is_left_and_the_routes_go_by_gateway(kernel: FakeKernel, taken: int) -> None:
    """A foreign object with the id that ours would have stays as it is."""
    theirs = kernel.nexthops[taken] = Nexthop(taken, 4, Hop(LINK, Z.packed))
    bench = Bench(kernel)
    want_some(bench)
    bench.close_gap()
    shape = kernel.routes[Slot(parse_nlri("10.2.0.0/24"), 254, 32)]
    assert (theirs, (Hop(LINK, X.packed), Hop(LINK, Y.packed))) == (kernel.nexthops[taken], shape.hops)


def test_an_object_that_vanished_comes_back_with_its_routes(kernel: FakeKernel) -> None:
    """A deleted object takes its routes with it in silence; both are found missing and written."""
    bench = Bench(kernel)
    want_some(bench)
    bench.close_gap()
    kernel.drop_nexthop(object_id(X))
    bench.table.read_back()
    bench.close_gap()
    assert kernel.shown() == EVERYTHING
    assert {object_id(X), object_id(Y), group_id(Via((X, Y)))} == set(kernel.nexthops)


def test_a_next_hop_goes_after_its_last_route(kernel: FakeKernel) -> None:
    """A next hop that is no longer wanted waits for the route that cannot be deleted yet."""
    bench = Bench(kernel)
    bench.next_hops.want(X, Resolution(LINK, None, 0))
    bench.want({"10.1.0.0/24": Via((X,))})
    bench.close_gap()
    kernel.message_faults.append(errno.ENOMEM)
    bench.want({"10.1.0.0/24": None})
    bench.next_hops.want(X, None)
    bench.step()
    assert {object_id(X)} == set(kernel.nexthops)
    bench.close_gap()
    assert (kernel.shown(), kernel.nexthops) == ({}, {})


PREFIXES = (*(f"10.0.{i}.0/24" for i in range(6)), "fd00::/64", "fd01::/64")
TARGETS: tuple[Target | None, ...] = (
    None, Blackhole(), OnLink("eth0"), Via((X,)), Via((Y,)), Via((X, Y)), Via((X, Y, Z))
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from(PREFIXES), st.sampled_from(TARGETS)), max_size=6),
            st.sampled_from((None, Y, Z)),  # where X goes by
            st.lists(st.sampled_from((0, 0, errno.ENOMEM, errno.EINVAL)), max_size=6),
            st.lists(st.booleans(), max_size=3),
            st.lists(st.sampled_from((0, errno.EINTR)), max_size=12),
            st.sets(st.sampled_from(PREFIXES), max_size=2),  # lost to somebody who tells
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_any_mixture_of_wishes_and_faults_ends_as_wanted(
    rounds: list[tuple[list[tuple[str, Target | None]], IPAddress | None, list[int], list[bool], list[int], set[str]]],
    has_objects: bool,
) -> None:
    """However often the kernel fails on the way, in the end it has what is wanted, and no object too many."""
    kernel = FakeKernel()
    kernel.has_objects = has_objects
    bench = Bench(kernel)
    for address in (X, Y, Z):
        bench.next_hops.want(address, Resolution(LINK, None, 0))
    for wishes, gateway, messages, answers, dumps, lost in rounds:
        bench.want(dict(wishes))
        bench.next_hops.want(X, Resolution(LINK, gateway, 0))
        kernel.message_faults.extend(messages)
        kernel.lost_answers.extend(answers)
        kernel.dump_faults.extend(dumps)
        for prefix in sorted(lost):
            if Slot(parse_nlri(prefix), 254, 32) in kernel.routes:
                kernel.remove_route(prefix)
        bench.step()
    for faults in (kernel.message_faults, kernel.lost_answers, kernel.dump_faults):
        faults.clear()
    bench.table.read_back()
    bench.close_gap()
    bench.step()
    wanted = dict(bench.fib.wanted)
    assert wanted == Bench(kernel, (X, Y, Z)).fib.actual if has_objects else set(wanted) == set(bench.fib.actual)
    groups = {group_id(t) for t in wanted.values() if isinstance(t, Via) and len(t.next_hops) > 1}
    objects = {object_id(address) for address in (X, Y, Z)} | groups if has_objects else set()
    assert objects == set(kernel.nexthops)
    kernel.close()


def test_a_kernel_that_cannot_be_read_is_an_error_at_start(kernel: FakeKernel) -> None:
    """The daemon is told, in the kernel's words."""
    kernel.dump_faults.append(errno.EPERM)

    async def start() -> None:
        core = Core()
        await FibEdge(KernelOptions(), core.fib, core.next_hops, core.report, open_door=lambda: kernel).start()

    with pytest.raises(KernelError, match=os.strerror(errno.EPERM)):
        asyncio.run(start())


def test_the_edge_retries_by_itself(kernel: FakeKernel) -> None:
    """Refused, torn, unanswered and unheard: nobody needs to kick it a second time."""

    async def scenario() -> None:
        core = Core()
        async with core.running(open_door=lambda: kernel) as edge:
            kernel.message_faults.extend([errno.ENOMEM, 0, errno.EINVAL, 0, 0, errno.ENOMEM])
            kernel.lost_answers.extend([False, False, True])
            kernel.dump_faults.append(errno.EINTR)
            want_some(core)
            await core.at_rest(edge)
        assert kernel.shown() == EVERYTHING
        assert all(not event.lost and not event.moved for event in core.events if isinstance(event, FibRead))

    asyncio.run(scenario())


def test_routes_at_an_earlier_metric_go_once_this_node_is_in_sync(kernel: FakeKernel) -> None:
    """Although nothing is written any more then, and something was before."""
    kernel.add_route("10.9.0.0/24", protocol=77, metric=99)

    async def scenario() -> None:
        core = Core()
        core.fib.keep_unwanted = True
        async with core.running(open_door=lambda: kernel) as edge:
            want_some(core)
            await core.at_rest(edge)
            core.next_hops.want(Y, None)
            core.want({"10.2.0.0/24": Via((X,))})
            await core.at_rest(edge)
            await core.until(lambda: object_id(Y) not in kernel.nexthops)
            assert "10.9.0.0/24" in kernel.shown()
            core.fib.keep_unwanted = False
            edge.kick()
            await core.until(lambda: kernel.shown() == EVERYTHING)

    asyncio.run(scenario())


def test_a_bug_in_the_thread_ends_the_daemon(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the thread cannot handle is raised by `run`, so the supervisor gets to know."""

    def broken(_: FakeKernel, __: bytes, ___: int) -> list[Refused]:
        raise ZeroDivisionError

    async def scenario() -> None:
        core = Core()
        edge = FibEdge(KernelOptions(), core.fib, core.next_hops, core.report, open_door=lambda: kernel)
        await edge.start()
        monkeypatch.setattr(FakeKernel, "transact", broken)
        core.want({"10.1.0.0/24": Blackhole()})
        async with asyncio.timeout(60):
            await edge.run()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(scenario())


class Downed(FakeKernel):
    """A kernel whose links are down until somebody sets them up."""

    flags = 0

    def _listed(self, kind: int, request: bytes) -> Iterator[bytes]:
        yield from (self.link() for _ in range(kind == RTM_GETLINK))
        if kind != RTM_GETLINK:
            yield from super()._listed(kind, request)

    def link(self) -> bytes:
        """Return what the kernel says of the link."""
        head = struct.pack("=BxHiII", 0, 1, LINK, self.flags, 0)
        return message(RTM_NEWLINK, 0, 1, head + attribute(IFLA_IFNAME, b"eth0\0"))


@pytest.mark.parametrize("is_read_back_first", [False, True])
def test_what_waited_for_a_link_is_tried_once_it_is_up(is_read_back_first: bool) -> None:
    """Also where the news of that come while everything is read back, which makes them superfluous."""
    kernel, woken = Downed(), list[object]()
    bench = Bench(kernel)
    bench.table._hurry = woken.extend
    kernel.message_faults.extend([errno.ENETDOWN])
    bench.table.write([(X, Resolution(LINK, None, 0))], [])
    assert bench.failures == {X: os.strerror(errno.ENETDOWN)}
    kernel.flags = IFF_UP | IFF_LOWER_UP
    kernel.tell(kernel.link())
    if is_read_back_first:
        bench.table.read_back()
    bench.table.hear()
    assert woken == [X]
    kernel.close()
