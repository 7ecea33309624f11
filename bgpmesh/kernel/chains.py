"""The edge that makes iptables' chains, and the sets that they look into, as they are wanted.

What is ours: chains and sets named `bm-*`, and rules in built-in chains whose comment is `bm:` and an id (see
`policy/chains.py`). Everything else is somebody else's, and so is the order of it.

Rules:
 1. Sets are filled before the chains that look into them are written, and destroyed after those are gone.
 2. A table is written in one transaction, which holds the chains that changed and no other; a table that is refused
    stops no other. What peers ask for is apart from that: their rules may be refused, and nothing else with them.
 3. Nothing is read before a write but the built-in chain that is about to change. Hooks are looked at every few
    seconds, since others insert and flush there (`snapshot.py` says whether there is anything to see); where one is not
    as we left it, and after a refusal, and from time to time, everything is read back: as often as can be had for a
    fiftieth of the time, each minute at least. Repairs are the engine's business: it hears what there is, if that is
    news. What policies have counted is read with it, when somebody asks, and before their chains are written anew.
 4. Where nothing is wanted and no set of ours is found, iptables is never called.
 5. All of it happens in one thread, which hands out only the writing of the two families, so what was read is older
    than what is written next.
 6. Where the kernel has no IPv6 nothing of it can pass, and its chains are as they are wanted. Should it get it, a
    module that somebody loads, the next look at the hooks finds none. Where it has it and there is no ip6tables, nobody
    is let in, by IPv4 either: a sysctl could keep a link from IPv6, but who turns it on for `all` turns it on there
    too, and nothing would stand behind it.

iptables comes as `iptables-nft` and `iptables-legacy`, two packet filters side by side. Where both are there, the
one that others use is ours too, and what an earlier life has left in the other is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import re
import shutil
import socket
import subprocess
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from bgpmesh import log
from bgpmesh.delta import Delta
from bgpmesh.errors import KernelError
from bgpmesh.events import ChainsRead, ChainsWritten, Event, SetsWritten
from bgpmesh.kernel.conntrack import Connections
from bgpmesh.kernel.counters import counts_of
from bgpmesh.kernel.netlink import attribute
from bgpmesh.kernel.nfnetlink import NfnetlinkDoor
from bgpmesh.kernel.sets import Sets
from bgpmesh.kernel.snapshot import snapshot
from bgpmesh.kernel.sysctls import kernel_has_ipv6
from bgpmesh.policy.attribution import Counters, is_counted
from bgpmesh.policy.chains import (
    AddressSet,
    ChainKey,
    Count,
    Rules,
    Standing,
    foreign_rules,
    is_as,
    parse_counts,
    parse_listing,
    restore_text,
    rules_of,
)
from bgpmesh.policy.iptables import SPARE
from bgpmesh.policy.nat import external_set
from bgpmesh.route.nlri import IPAddress, Nlri, network_of

Part = tuple[int, str, bool]  # of the packet filter: family, table, and whether it is of flows (rule 2)

P = ParamSpec("P")
R = TypeVar("R")

READ_BACK_S = 60.0  # at most between two
REST = 50  # times as long as a read-back took, until the next
HOOKS_S = 5.0
TICK_S = 1.0  # retries are due at times that the engine sets behind our back
MOST = 1 << 20  # keys of one round: a table is one transaction, whatever its size

FAMILIES = (4, 6)
_PROGRAM = {4: "iptables", 6: "ip6tables"}
_BACKENDS = ("nft", "legacy")
_LOCK_WAIT_S = 20  # for the lock that every iptables-legacy of the host takes: others write large tables
_PATIENCE_S = 30.0  # for one run of the program
# linux/netfilter/nfnetlink.h and nf_tables.h
_NFTABLES, _DELTABLE, _NFTA_TABLE_NAME = 10, 2, 1
NLM_F_NONREC = 0x100
_BANNER = re.compile(r"^ip6?tables\S*[ /]v?[0-9.]+ \(\w+\):? *")  # ip6tables-restore v1.8.9 (legacy):
_PATH = ":".join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


class ChainsEdge:
    """Keeps our chains and sets as the two Deltas want them; lives on the loop, works in a thread.

    `counters` take what is counted. `on_apply` hears how long each round of writing took, in seconds.
    """

    def __init__(
        self,
        chains: Delta[ChainKey, Rules],
        sets: Delta[str, AddressSet],
        report: Callable[[Event], None],
        *,
        counters: Counters | None = None,
        on_apply: Callable[[float], None] | None = None,
    ) -> None:
        self._chains = chains
        self._counters = Counters() if counters is None else counters
        self._sets = sets
        self._report = report
        self._on_apply = on_apply
        self._host = _Host()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="chains")
        self._awake = asyncio.Event()
        self._read_at = 0.0
        self._rest_s = READ_BACK_S
        self._looked_at = 0.0
        self._counted_at = -math.inf
        self._counting = asyncio.Lock()
        self._is_closed = False
        self._problem = ""  # of the last read-back

    async def start(self) -> None:
        """Read back what is there and report it, if anything of ours is there or wanted."""
        if await self._in_thread(self._host.set_names) or self._chains.wanted:
            await self._read_back(is_news=True)

    async def settle(self) -> None:
        """Write what is not as wanted and due, once; the outcome is reported.

        Not before the engine has heard the last one, and has kicked us for it: what is in flight is not taken, so a
        chain that has just gone would be built upon.
        """
        if self._chains.is_in_flight or self._sets.is_in_flight:
            return
        now = asyncio.get_running_loop().time()
        sets = [(name, wanted) for wanted, names in self._sets.take(MOST, now) for name in names]
        tables: dict[Part, dict[ChainKey, Rules | None]] = defaultdict(dict)
        for rules, keys in self._chains.take(MOST, now):
            for key in keys:
                tables[key.family, key.table, key.is_of_flows][key] = rules
        if not sets and not tables:
            return
        await self._write_sets([(name, wanted) for name, wanted in sets if wanted is not None])
        await self._count({key for own in tables.values() for key in own})
        if tables:
            refused = await self._in_thread(self._host.write, tables)
            failed = {key: reason for table, reason in refused.items() for key in tables[table]}
            done = [key for own in tables.values() for key in own if key not in failed]
            if failed:
                self._read_at = -math.inf  # it is not as we think
            self._counters.written(done)
            self._report(ChainsWritten(done, failed))
        await self._write_sets([(name, wanted) for name, wanted in sets if wanted is None])
        if self._on_apply is not None:
            self._on_apply(asyncio.get_running_loop().time() - now)

    async def run(self) -> None:
        """Keep them so until cancelled; what stands then stays."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._awake.clear()
                await self.settle()
                if self._has_something():
                    await self._look_after(loop.time())
                patience_s = TICK_S if self._has_something() else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience_s):
                        await self._awake.wait()
        finally:
            self.close()

    async def count(self, oldest_s: float) -> None:
        """Read what policies have counted, unless that was read within so many seconds."""
        loop = asyncio.get_running_loop()
        async with self._counting:
            if not self._is_closed and loop.time() >= self._counted_at + oldest_s:
                await self._count(self._chains.actual.keys())
                self._counted_at = loop.time()

    def kick(self) -> None:
        """Say that the Deltas may have work."""
        now = asyncio.get_running_loop().time()
        if self._chains.has_work(now) or self._sets.has_work(now):
            self._awake.set()

    def close(self) -> None:
        """Let the thread end; what it is doing is done first."""
        self._is_closed = True
        with contextlib.suppress(RuntimeError):  # it has ended
            self._thread.submit(self._host.close)
        self._thread.shutdown()

    def _has_something(self) -> bool:
        return bool(self._chains.wanted or self._chains.actual or self._sets.wanted or self._sets.actual)

    async def _write_sets(self, sets: Collection[tuple[str, AddressSet | None]]) -> None:
        failed: dict[str, str] = {}
        for name, wanted in sets:
            try:
                await self._in_thread(self._host.write_set, name, wanted, self._sets.actual.get(name))
            except KernelError as error:
                failed[name] = str(error).removeprefix(f"set {name}: ")
                self._read_at = -math.inf
        if sets:
            self._report(SetsWritten([name for name, _ in sets if name not in failed], failed))

    async def _count(self, keys: Collection[ChainKey]) -> None:
        """Read what those of some chains that stand have counted, as far as that can be had."""
        standing = [key for key in keys if is_counted(key) and key in self._chains.actual]
        if not standing:
            return
        try:
            self._counters.read(await self._in_thread(self._host.counts, standing))
        except KernelError as error:
            log.debug("chains.uncounted", reason=str(error))

    async def _look_after(self, now: float) -> None:
        """Look at the hooks, or at everything, when that is due."""
        if now < self._read_at + self._rest_s:
            if now < self._looked_at + HOOKS_S:
                return
            self._looked_at = now
            hooks = {key: rules for key, rules in self._chains.actual.items() if not key.is_ours}
            if await self._in_thread(self._host.are_as, hooks):
                return
        await self._read_back()

    async def _read_back(self, *, is_news: bool = False) -> None:
        """Report all that is ours if it is news; what could not be read is believed to be as it was."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        absent = {key for key in self._chains.refused if key.table in SPARE}  # a table that is none has no list
        tables = {(key.family, key.table) for key in (*(self._chains.wanted.keys() - absent), *self._chains.actual)}
        read = await self._in_thread(self._host.read, tables, dict(self._sets.actual))
        believed = self._chains.actual
        chains = {key: rules for key, rules in believed.items() if key.family not in read.families}
        for key, standing in read.chains.items():
            chains[key] = rules_of(key, standing, (believed.get(key), self._chains.wanted.get(key)))
        sets = self._sets.actual if read.sets is None else read.sets
        if is_news or chains != believed or sets != self._sets.actual:
            self._report(ChainsRead(chains, dict(sets)))
        self._counters.read(read.counts)
        self._read_at = self._looked_at = loop.time()
        self._rest_s = min(READ_BACK_S, REST * (self._read_at - begun))
        if read.problem != self._problem:
            self._problem = read.problem
            if read.problem:
                log.warning("chains.unread", reason=read.problem)
            else:
                log.info("chains.read")

    async def _in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))


def uninstall() -> list[str]:
    """Remove our hooks, chains and sets, in whichever packet filter they are; say what, and what could not be."""
    with ThreadPoolExecutor(max_workers=1) as thread:  # not in a thread whose loop runs
        return thread.submit(_uninstall).result()


def _uninstall() -> list[str]:
    host = _Host()
    said: list[str] = []
    try:
        for backend in present_backends():
            said += _remove_chains(backend)
        said += _cut(host.floating())
        for name in host.set_names():
            try:
                host.write_set(name, None, None)
                said.append(f"set {name}")
            except KernelError as error:
                said.append(f"set {name} stays: {error.text}")
    finally:
        host.close()
    return said


def _cut(floating: Iterable[IPAddress]) -> list[str]:
    """Cut the connections of floating addresses, which nothing but the connections themselves translates any more."""
    said: list[str] = []
    with contextlib.closing(Connections()) as connections:
        for address in floating:
            try:
                if count := connections.cut(address, None):
                    said.append(f"{count} connections of {address}")
            except KernelError as error:
                said.append(f"connections of {address} stays: {error.text}")
    return said


def _remove_chains(backend: str) -> list[str]:
    """Remove every hook and chain of ours from one packet filter; say what, and what could not be."""
    said: list[str] = []
    for family in FAMILIES:
        try:
            listing = _run(family, backend, "save")
        except KernelError:
            continue  # what cannot be listed cannot be ours: a kernel without it, or no such program
        tables: dict[str, list[ChainKey]] = defaultdict(list)
        for key in parse_listing(listing, family):
            tables[key.table].append(key)
        for table, keys in tables.items():
            words = [f"{'chain' if key.is_ours else 'hook in'} {key}" for key in keys]
            try:
                _write(family, backend, table, {key.chain: None for key in keys})
                if backend == "nft":
                    _drop_if_empty(family, table, [key.chain for key in keys if not key.is_ours])
                said += words
            except KernelError as error:
                said += [f"{each} stays: {error}" for each in words]
    return said


def _drop_if_empty(family: int, table: str, hooks: Iterable[str]) -> None:
    """Remove what iptables-nft made on the way and has no command for: built-in chains without a rule, and their table.

    It looks itself whether a chain is empty; so does the kernel with the table, asked not to take anything along
    (NLM_F_NONREC, linux/netfilter/nf_tables.h). Where either says no, all of it stays.
    """
    for chain in hooks:
        with contextlib.suppress(KernelError):  # somebody has rules there, or an older iptables never does it
            _run(family, "nft", "", "-t", table, "-X", chain)
    name = attribute(_NFTA_TABLE_NAME, table.encode() + b"\0")
    with contextlib.suppress(KernelError), contextlib.closing(NfnetlinkDoor(_NFTABLES)) as door:
        of = socket.AF_INET if family == 4 else socket.AF_INET6
        door.do_in_batch(f"table {table}", _DELTABLE, name, flags=NLM_F_NONREC, family=of)


# ── which iptables ───────────────────────────────────────────────────────────


def present_backends() -> list[str]:
    """Return which packet filters this host can write: nft, legacy; "" is an iptables that is neither by name."""
    found = [each for each in _BACKENDS if any(_which(f"{name}-{each}-restore") for name in _PROGRAM.values())]
    plain = any(_which(f"{name}-restore") for name in _PROGRAM.values())
    return found or ([""] if plain else [])


def choose(default: str, foreign: Mapping[str, int], ours: Collection[str]) -> tuple[str, str]:
    """Return which of several packet filters to use, and why in words.

    `default` is the one that plain `iptables` is, `foreign` the number of other people's rules in each, `ours` where
    chains of ours are.
    """
    used = [backend for backend, count in foreign.items() if count]
    if len(used) == 1:
        return used[0], "others have rules there, and nowhere else"
    if not used and len(ours) == 1:
        return next(iter(ours)), "our rules are there, and nobody has others"
    return default, f"others have rules in {'both' if used else 'none'}, and it is what iptables stands for"


def _detect() -> str:
    """Return the packet filter to use; KernelError where there is none."""
    present = present_backends()
    if not present:
        raise KernelError("iptables", errno.ENOENT, "is not installed")
    if len(present) == 1:
        return present[0]
    default = present[0]
    with contextlib.suppress(KernelError):  # no plain one
        said = _execute("iptables", ["-V"])
        default = "nft" if "nf_tables" in said else "legacy"
    listings = {backend: "".join(_listing(family, backend) for family in FAMILIES) for backend in present}
    foreign = {backend: foreign_rules(text) for backend, text in listings.items()}
    ours = [backend for backend, text in listings.items() if parse_listing(text, 4)]
    backend, why = choose(default, foreign, ours)
    log.info("chains.backend", value=backend, reason=why)
    for other in ours:
        if other != backend:
            for words in _remove_chains(other):
                log.info("chains.left-behind", value=other, reason=f"removed {words}")
    return backend


def _listing(family: int, backend: str) -> str:
    try:
        return _run(family, backend, "save")
    except KernelError:
        return ""


# ── in the thread ────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Read:
    """What a read-back found; `families` could be read; `sets` is None where those could not."""

    chains: dict[ChainKey, Standing] = field(default_factory=dict)
    counts: dict[ChainKey, dict[str, Count]] = field(default_factory=dict)
    families: set[int] = field(default_factory=set)
    sets: dict[str, AddressSet] | None = None
    problem: str = ""  # why something could not be read


class _Host:
    """The packet filter of this network namespace; used in one thread. Everything may raise KernelError."""

    def __init__(self) -> None:
        self._sets = Sets()
        self._backend: str | None = None
        self._seen: bytes | None = None  # a snapshot of the built-in chains when they were right
        self._is_ipv6_skipped = False  # chains of it count as written, and nothing was (rule 6)

    def close(self) -> None:
        """Let go of the sockets."""
        self._sets.close()

    def set_names(self) -> list[str]:
        """Return the names of our sets; none where the kernel has no sets."""
        try:
            return sorted(self._sets.names())
        except KernelError:
            return []

    def floating(self) -> list[IPAddress]:
        """Return the floating addresses that were led to workloads here, as our sets have them."""
        try:
            found = self._sets.read()
        except KernelError:
            return []
        members = [
            member for family in FAMILIES if (each := found.get(external_set(family))) for member in each.members
        ]
        return [network_of(Nlri(member)).network_address for member in sorted(members)]

    def read(self, tables: Collection[tuple[int, str]], believed: Mapping[str, AddressSet]) -> _Read:
        """Return what there is of ours: the first time wherever it may be, later in these tables.

        A set that is as believed comes back as the object believed.
        """
        read = _Read()
        is_first = self._backend is None
        try:
            read.sets = self._sets.read(believed)
            backend = self._used()
        except KernelError as error:
            read.problem = str(error)
            return read
        # iptables-nft-save takes in all of a family whatever it prints; iptables-legacy-save reads one table alone.
        is_whole = is_first or backend == "nft"
        families = _families()
        by_family: dict[int, set[str]] = {family: {""} for family in families if is_first}
        for family, table in tables:
            if family in families:
                by_family.setdefault(family, set()).add("" if is_whole else table)
        for family, names in by_family.items():
            try:
                for name in sorted(names):
                    listing = _run(family, backend, "save", "-c", *(("-t", name) if name else ()))
                    read.chains |= parse_listing(listing, family)
                    read.counts |= parse_counts(listing, family)
                read.families.add(family)
            except KernelError as error:
                if any(family == wanted for wanted, _ in tables) and not read.problem:
                    read.problem = str(error)
        if self._is_ipv6_skipped and 6 in families:
            read.families.add(6)  # there is what was found, and it is not as it was
            self._is_ipv6_skipped = False
        return read

    def counts(self, keys: Collection[ChainKey]) -> dict[ChainKey, dict[str, Count]]:
        """Return what the rules of some chains, and perhaps of others, have counted."""
        backend, families = self._used(), _families()
        keys = [key for key in keys if key.family in families]
        if backend == "nft":
            return counts_of(keys)
        found: dict[ChainKey, dict[str, Count]] = {}
        for family, table in sorted({(key.family, key.table) for key in keys}):
            found |= parse_counts(_run(family, backend, "save", "-c", "-t", table), family)
        return found

    def are_as(self, hooks: Mapping[ChainKey, Rules]) -> bool:
        """Tell whether these built-in chains stand as we left them; nothing is run where nothing has changed."""
        try:
            backend, families = self._used(), _families()
            if self._is_ipv6_skipped and 6 in families:
                return False
            hooks = {key: rules for key, rules in hooks.items() if key.family in families}
            now = snapshot(backend, {(key.family, key.table) for key in hooks})
            if now is None or now != self._seen:
                if not all(is_as(key, rules, _standing(*key, backend)) for key, rules in hooks.items()):
                    return False
                self._seen = now
        except KernelError:
            return False
        return True

    def write(self, tables: Mapping[Part, Mapping[ChainKey, Rules | None]]) -> dict[Part, str]:
        """Make chains of some tables as wanted (None: gone), both families at a time; return what is refused, and why.

        Those of a family that the kernel does not have are as wanted (rule 6).
        Most of what a run takes is the program's own time, and waiting until the kernel has freed what was replaced.
        """
        try:
            backend = self._used()
        except KernelError as error:
            return dict.fromkeys(tables, str(error))

        def write(some: Iterable[Part]) -> dict[Part, str]:
            refused: dict[Part, str] = {}
            for part in some:
                family, table, _ = part
                try:
                    own = {key.chain: rules for key, rules in tables[part].items()}
                    _write(family, backend, table, own)
                except KernelError as error:
                    refused[part] = str(error)
            return refused

        families = _families()
        self._is_ipv6_skipped = self._is_ipv6_skipped or 6 not in families
        with ThreadPoolExecutor(max_workers=len(FAMILIES)) as threads:
            found = threads.map(write, [[each for each in tables if each[0] == family] for family in families])
            return {table: reason for refused in found for table, reason in refused.items()}

    def write_set(self, name: str, wanted: AddressSet | None, actual: AddressSet | None) -> None:
        """Make a set as wanted (None: gone)."""
        if wanted is None:
            self._sets.remove(name)
        else:
            self._sets.write(name, wanted, actual)

    def _used(self) -> str:
        if self._backend is None:
            self._backend = _detect()
            if 6 not in _families():
                log.info("chains.no-ipv6", reason="this kernel has none, so nothing of it can pass")
        return self._backend


def _families() -> tuple[int, ...]:
    return FAMILIES if kernel_has_ipv6() else (4,)


def _write(family: int, backend: str, table: str, wanted: Mapping[str, Rules | None]) -> None:
    hooks = [key for key in (ChainKey(family, table, chain) for chain in wanted) if not key.is_ours]
    standing = {key.chain: _standing(*key, backend) for key in hooks}
    _run(family, backend, "restore", "-n", f"--wait={_LOCK_WAIT_S}", stdin=restore_text(table, wanted, standing))


def _standing(family: int, table: str, chain: str, backend: str) -> Standing:
    """Return a built-in chain as it is now."""
    listing = _run(family, backend, "", f"--wait={_LOCK_WAIT_S}", "-t", table, "-S", chain)
    return parse_listing(listing, family, table).get(ChainKey(family, table, chain), Standing())


def _run(family: int, backend: str, what: str, *arguments: str, stdin: str = "") -> str:
    """Run one of iptables' programs and return what it printed; `what` is restore, save, or "" for iptables itself."""
    program = "-".join(filter(None, (_PROGRAM[family], backend, what)))
    if not _which(program):
        why = "is not installed, and this kernel has IPv6" if family == 6 else "is not installed"
        raise KernelError(_PROGRAM[family], errno.ENOENT, why)
    return _execute(program, arguments, stdin)


def _execute(program: str, arguments: Iterable[str], stdin: str = "") -> str:
    path = _which(program)
    if path is None:
        raise KernelError(program, errno.ENOENT, "is not installed")
    try:
        done = subprocess.run(
            [path, *arguments],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            env=os.environ | {"LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise KernelError(program, errno.ETIMEDOUT, f"did not end within {_PATIENCE_S:g} s") from error
    except OSError as error:
        raise KernelError(program, error.errno or 0, error.strerror or str(error)) from error
    if done.returncode:
        raise KernelError(program, errno.EIO, _reason(done.stderr) or f"exit status {done.returncode}")
    return done.stdout


def _reason(stderr: str) -> str:
    """Return the first line that says something, without the name and version of the program, which may be a line."""
    lines = (_BANNER.sub("", line.strip()) for line in stderr.splitlines() if not line.startswith("#"))
    return next(filter(None, lines), "").rstrip(".")


def _which(program: str) -> str | None:
    return shutil.which(program, path=_PATH)
