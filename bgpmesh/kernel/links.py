"""The edge that makes the workloads' links as they are wanted: reads back, compares, writes, watches.

What is ours: a link whose name is the prefix and 11 characters, *and* whose alias is one of ours, or
which has the link-layer address that we give (left half made by a crash, or given another alias). A link that
merely has such a name is somebody else's: it is never touched, and a workload that needs the name is told so.
One that was renamed has our alias and our address; it goes when it is in the way, or by `uninstall`.

Rules:
 1. A link that is whole and says in its alias what is wanted is adopted: not one message is sent about it, since a
    workload is using it.
 2. All reading and writing is done in one thread, one link at a time. A delete waits tens of milliseconds for
    the kernel, and entering a namespace must not carry the loop along. So what was read is always
    older than what is written next, and answers come in the order of the work.
 3. News from the kernel is only a hint: the link named in it is looked at, and told about only where it is
    not as we last told. So our own writing makes no news.
 4. Of links that are not ours the names are told, when one is new and each minute.
 5. A namespace handed over (`offer`) is kept open until its link stands, and no longer: it would keep the
    namespace of a dead workload alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from bgpmesh import log
from bgpmesh.delta import Delta
from bgpmesh.errors import KernelError
from bgpmesh.events import Event, LinkNamesRead, LinkObserved, LinksRead, LinkWritten
from bgpmesh.kernel.linkread import Found, LinkReader, decode, host_mac, open_monitor
from bgpmesh.route.nlri import IPAddress
from bgpmesh.workload.endpoint import LinkSpec, is_interface_name

if TYPE_CHECKING:
    from bgpmesh.kernel.veth import VethWriter

P = ParamSpec("P")
R = TypeVar("R")

READ_BACK_S = 60.0
SETTLE_S = 0.1  # news of one link comes in handfuls
RETRY_S = 5.0  # after a read-back that failed
TICK_S = 1.0  # retries are due at times that the engine sets behind our back
BATCH = 16

_READ_BYTES = 256 * 1024
_MOST_HEARD = 256  # messages in a row, so that a storm leaves room for the loop


class LinksEdge:
    """Keeps the workload links of this node as `links` wants them; lives on the loop, works in a thread."""

    def __init__(self, links: Delta[str, LinkSpec], prefix: str, report: Callable[[Event], None]) -> None:
        self._links = links
        self._report = report
        self._prefix = prefix
        self._host = _Host(prefix)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="links")
        self._monitor: socket.socket | None = None
        self._awake = asyncio.Event()
        self._namespaces: dict[str, int] = {}
        self._unclaimed: set[str] = set()  # offered, and not wanted at the last read-back: the workload went first
        self._told: dict[str, LinkSpec] = {}  # what we last told of each link
        self._names: dict[int, str] = {}  # of all links, as last told
        self._has_new = False  # a link that is not ours has come, or has another name
        self._hinted: set[str] = set()  # links to look at
        self._hinted_at = 0.0
        self._read_at = 0.0

    async def start(self) -> None:
        """Watch, then read back what is there and report it (LinksRead); KernelError where neither can be done."""
        self._monitor = open_monitor()
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._hear, self._monitor)
        found = await self._in_thread(self._host.addresses)
        await self._read_back({address: frozenset(links) for address, links in found.items()})

    async def run(self) -> None:
        """Close the gap whenever there is one, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._awake.clear()
                runs = self._links.take(BATCH, loop.time())
                taken = [(interface, spec) for spec, interfaces in runs for interface in interfaces]
                for interface, spec in taken:
                    await self._write(interface, spec)
                now = loop.time()
                try:
                    await self._compare()
                    if now >= self._read_at + READ_BACK_S:
                        await self._read_back()
                    elif (self._hinted or self._has_new) and now >= self._hinted_at + SETTLE_S:
                        await self._look()
                except KernelError as error:
                    log.warning("links.unread", reason=str(error))
                    self._read_at = now + RETRY_S - READ_BACK_S
                if len(taken) < BATCH:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(SETTLE_S if self._hinted or self._has_new else TICK_S):
                            await self._awake.wait()
        finally:
            self.close()

    def kick(self) -> None:
        """Say that the Delta may have work."""
        if self._links.has_work(asyncio.get_running_loop().time()):
            self._awake.set()

    def offer(self, interface: str, netns_fd: int) -> None:
        """Take over the descriptor of the namespace that the link of this name leads to (ours to close from now on)."""
        self._forget(interface)
        self._namespaces[interface] = netns_fd
        self._awake.set()

    def close(self) -> None:
        """Stop watching and let the thread end; what it is doing is done first. `run` does so when it ends."""
        if self._monitor is None:
            return
        asyncio.get_running_loop().remove_reader(self._monitor.fileno())
        self._monitor.close()
        self._monitor = None
        for interface in tuple(self._namespaces):
            self._forget(interface)
        self._thread.submit(self._host.close)
        self._thread.shutdown()

    async def _write(self, interface: str, spec: LinkSpec | None) -> None:
        failure: str | None = None
        # A delete leads nowhere; what is offered while one is under way is for the link after it.
        offered = None if spec is None else self._namespaces.pop(interface, None)
        try:
            await self._in_thread(self._host.write, interface, spec, offered)
        except KernelError as error:
            failure = str(error)
        if failure is None:
            self._remember(interface, spec)
        if offered is not None:
            if failure is None or interface in self._namespaces:
                os.close(offered)
            else:
                self._namespaces[interface] = offered  # for the next try
        self._report(LinkWritten(interface, failure))

    async def _compare(self) -> None:
        """See whether a link that is as wanted leads to the namespace just offered for it.

        A workload that went and came back at once leaves no gap, but its namespace may be a new one.
        """
        for interface in tuple(self._namespaces):
            told = self._told.get(interface)
            if told is None or told != self._links.wanted.get(interface) or interface in self._links.refused:
                continue
            offered = self._namespaces.pop(interface)
            if await self._in_thread(self._host.leads_to, told, offered):
                os.close(offered)
                continue
            if interface in self._namespaces:
                os.close(offered)  # there is a newer one
            else:
                self._namespaces[interface] = offered
            stray = replace(told, alias="")
            self._remember(interface, stray)
            self._report(LinkObserved(interface, stray))

    async def _read_back(self, addresses: Mapping[IPAddress, frozenset[int]] | None = None) -> None:
        self._hinted.clear()
        self._has_new = False
        self._told, names = await self._in_thread(self._host.read)
        self._read_at = asyncio.get_running_loop().time()
        self._name(names, addresses or {})
        self._report(LinksRead(dict(self._told)))
        unclaimed = self._namespaces.keys() - self._links.wanted.keys()
        for interface in unclaimed & self._unclaimed:
            self._forget(interface)
        self._unclaimed = unclaimed

    async def _look(self) -> None:
        names, self._hinted = self._hinted, set()
        for interface in sorted(names):
            self._tell(interface, await self._in_thread(self._host.look, interface))
        if self._has_new:
            self._has_new = False
            links, all_names = await self._in_thread(self._host.read)
            self._name(all_names, {})
            for interface in sorted(self._told.keys() | links.keys()):  # the new one may be one of ours, renamed
                self._tell(interface, links.get(interface))

    def _tell(self, interface: str, link: LinkSpec | None) -> None:
        if link != self._told.get(interface):
            self._remember(interface, link)
            self._report(LinkObserved(interface, link))

    def _name(self, names: dict[int, str], addresses: Mapping[IPAddress, frozenset[int]]) -> None:
        if names != self._names:
            self._names = names
            self._report(LinkNamesRead(names, addresses))

    def _hear(self, monitor: socket.socket) -> None:
        """Note which of our links the kernel speaks of, and whether it has one that we never heard of."""
        for _ in range(_MOST_HEARD):
            try:
                data = monitor.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._read_at = -math.inf  # news was lost: look at everything
                self._awake.set()
                return
            for found in decode(data):
                is_ours = is_interface_name(self._prefix, found.name)
                if not is_ours and self._names.get(found.index) == found.name:
                    continue
                if not self._hinted and not self._has_new:
                    self._hinted_at = asyncio.get_running_loop().time()
                if is_ours:
                    self._hinted.add(found.name)
                self._has_new = self._has_new or not is_ours
                self._awake.set()

    async def _in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))

    def _remember(self, interface: str, spec: LinkSpec | None) -> None:
        if spec is None:
            self._told.pop(interface, None)
        else:
            self._told[interface] = spec

    def _forget(self, interface: str) -> None:
        """Close the namespace that was offered for a link."""
        fd = self._namespaces.pop(interface, None)
        if fd is not None:
            os.close(fd)


def uninstall(prefix: str) -> list[str]:
    """Delete every link of ours; return what was deleted, and what could not be, in words.

    Also one that has another name by now, or another prefix: our alias says whose it is.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:  # not in a thread whose loop runs
        return thread.submit(_uninstall, prefix).result()


def _uninstall(prefix: str) -> list[str]:
    host = _Host(prefix)
    said: list[str] = []
    try:
        for interface, link in sorted(host.every().items()):
            try:
                host.write(interface, None, None)
                said.append(f"link {interface} ({link.alias or 'half made'})")
            except KernelError as error:
                said.append(f"link {interface} stays: {error}")
    finally:
        host.close()
    return said


# ── in the thread ────────────────────────────────────────────────────────────


class _Host:
    """The links of the host, read and written synchronously; used in one thread. Everything may raise KernelError."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._reader = LinkReader()
        self._writer: VethWriter | None = None

    def close(self) -> None:
        """Let go of the sockets."""
        self._reader.close()
        if self._writer is not None:
            self._writer.close()

    def read(self) -> tuple[dict[str, LinkSpec], dict[int, str]]:
        """Return every link of ours by name, those of this prefix; and the names of all links by their numbers."""
        found = self._reader.all()
        ours = {name: link for name, link in _ours(found).items() if is_interface_name(self._prefix, name)}
        return ours, {each.index: each.name for each in found}

    def addresses(self) -> dict[IPAddress, set[int]]:
        """Return the addresses of this host with the numbers of the links that have them."""
        return self._reader.addresses()

    def every(self) -> dict[str, LinkSpec]:
        """Return every link of ours by the name that it has now."""
        return _ours(self._reader.all())

    def look(self, interface: str) -> LinkSpec | None:
        """Return what a link of ours is, None: there is none, or it is not ours."""
        found = self._reader.named(interface)
        return None if found is None else found.link()

    def leads_to(self, spec: LinkSpec, namespace: int) -> bool:
        """Tell whether the link has its other end in the namespace of that descriptor.

        False also for what cannot be entered: the write that follows says why.
        """
        try:
            return self._hand().leads_to(spec, namespace)
        except KernelError:
            return False

    def write(self, interface: str, spec: LinkSpec | None, namespace: int | None) -> None:
        """Make a link as wanted (None: gone), into the namespace handed over or named; KernelError where it is not.

        One handed over for a link that seems as wanted may be new under the old path: it is looked into.
        """
        found = self._reader.named(interface)
        before = None if found is None else found.link()
        if spec is None:
            if found is not None and before is not None:
                self._hand().remove(found.index)
        elif found is None:
            with _opened(spec, namespace) as fd:
                try:
                    self._hand().make(spec, fd)
                except KernelError as error:
                    if error.errno != errno.EEXIST or not self._remove_renamed(spec.interface):
                        raise
                    self._hand().make(spec, fd)
        elif before is None:
            raise KernelError(
                f"link {interface}", errno.EEXIST, f"a link of that name is not ours (alias {found.alias!r})"
            )
        elif found.alias != spec.alias or namespace is not None:
            self._change(found, before, spec, namespace)
        elif found.is_up is not spec.is_open:
            self._hand().restore(found.index, spec)

    def _change(self, found: Found, before: LinkSpec, spec: LinkSpec, namespace: int | None) -> None:
        """Make a link of ours what is wanted: in place where it is whole and leads to the namespace wanted."""
        with _opened(spec, namespace) as fd:
            if found.is_whole and self._hand().amend(found.index, spec, before, fd):
                return
            self._hand().remove(found.index)
            self._hand().make(spec, fd)

    def _remove_renamed(self, interface: str) -> bool:
        """Delete what was this link of ours before somebody gave it another name; tell whether there was one."""
        renamed = [each for each in self._reader.all() if each.is_whole and each.mac == host_mac(interface)]
        for found in renamed:
            self._hand().remove(found.index)
        return bool(renamed)

    def _hand(self) -> VethWriter:
        """Return what writes; the library behind it takes long to import, and a node without workloads has no use."""
        if self._writer is None:
            try:
                from bgpmesh.kernel.veth import VethWriter  # noqa: PLC0415  see above

                self._writer = VethWriter()
            except OSError as error:  # out of descriptors or memory: also a module that cannot be read
                raise KernelError("link writer", error.errno or 0, error.strerror or str(error)) from error
        return self._writer


def _ours(found: Iterable[Found]) -> dict[str, LinkSpec]:
    links = {each.name: each.link() for each in found}
    return {name: link for name, link in links.items() if link is not None}


@contextlib.contextmanager
def _opened(spec: LinkSpec, offered: int | None) -> Iterator[int]:
    """Give a descriptor of the namespace a link leads to: the one handed over, else by its path.

    A path below /proc, perhaps by way of a symbolic link, leads to whichever process has that id today: it counts only
    where it leads to the namespace that the workload was added with.
    """
    if offered is not None:
        yield offered
        return
    try:
        fd = os.open(spec.netns, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KernelError(f"network namespace {spec.netns}", error.errno or 0, os.strerror(error.errno or 0)) from error
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != spec.netns_inode and os.path.realpath(spec.netns).startswith("/proc/"):
            raise KernelError(
                f"network namespace {spec.netns}", errno.ESTALE, "not known to be the one the workload was added with"
            )
        yield fd
    finally:
        os.close(fd)
