"""The daemon: builds everything, feeds events to the engine, and makes its answers true.

Who feeds whom:

    speaker, kernel, control, signals  --events-->  inbox  --handle, work-->  engine
    peers.held, next hops, what commands made  --state--->  disk   (before anything else of the same turn)
    peers.commands, rib.take               ---------->  speaker
    rib.fib, rib.next_hops                 ---------->  kernel.fib
    local.links                            ---------->  kernel.links
    packets.chains, packets.sets           ---------->  kernel.chains
    packets.leads.connections              ---------->  kernel.conntrack
    control, the policy directory          ---------->  store   --disk, events-->  inbox
    kernel.chains                          --counts-->  counters
    kernel.nflog                           ---------->  drops   --who follows-->  inbox
    store, engine (copies), kernel.conntrack  ------->  previews, in threads
    engine.notes                           ---------->  log
    all that the engine is told            ---------->  journal

One turn of the pump handles what is in the inbox, lets the engine think for a slice, writes the state
and kicks the edges; then the loop has its turn, so that keepalives leave on time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import ipaddress
import os
import random
import resource
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from bgpmesh import __version__, config, log
from bgpmesh.config import Config, StateOptions
from bgpmesh.config.checks import announced_by, taken_by_others
from bgpmesh.control import views
from bgpmesh.control.http import HttpServer
from bgpmesh.control.server import ControlServer, Request, RequestError, Stream
from bgpmesh.drops import Drops
from bgpmesh.errors import ConfigError, KernelError, refused
from bgpmesh.events import (
    ConnectionsReviewed,
    EndpointAdded,
    EndpointRemoved,
    Event,
    FibRead,
    FibWritten,
    FloatingIpsKept,
    Level,
    LinksRead,
    ObjectsChanged,
    Stopping,
    TimerFired,
)
from bgpmesh.journal.record import Journal
from bgpmesh.keeper import Keeper
from bgpmesh.kernel.chains import ChainsEdge
from bgpmesh.kernel.conntrack import ConnectionsEdge
from bgpmesh.kernel.fib import FibEdge
from bgpmesh.kernel.links import LinksEdge
from bgpmesh.kernel.sysctls import prepare_host
from bgpmesh.metrics import Metrics
from bgpmesh.policy.attribution import Counters
from bgpmesh.policy.chains import WITH_PORTS
from bgpmesh.policy.explain import judge
from bgpmesh.policy.fields import BadValueError, label_key, label_value, port_name
from bgpmesh.policy.objects import Remark
from bgpmesh.policy.protection import OWN_LABELS
from bgpmesh.policy.rule import NAMESPACE_PREFIX, PROTOCOLS
from bgpmesh.policy.store import Answer, Store
from bgpmesh.previews import Previews
from bgpmesh.route.nlri import IPAddress
from bgpmesh.route.path import PeerName
from bgpmesh.state import KeptConfig, State
from bgpmesh.wire.speaker import Speaker
from bgpmesh.workload.endpoint import Endpoint, check_name, interface_name
from bgpmesh.workload.floating import FloatingIp

# Prefixes the engine decides about before the loop has its turn: some 5 ms.
SLICE = 20_000
# Events are handled for this long before the engine thinks, in seconds.
TURN_S = 0.005
# Events waiting for the engine from which on sockets are not read: the peers' TCP holds the rest.
BUSY = 64
# A workload that is not connected by then is given up: longer than chains wait for others (kernel/chains.py).
ATTACH_S = 30.0
# What a daemon is built with, so that a reload cannot change it.
FIXED_SECTIONS = ("kernel", "workload", "metrics", "control", "state")
# The lag of the loop is measured this often.
LAG_PROBE_S = 0.5
# The host's sysctls are looked at this often.
PREPARE_AGAIN_S = 60.0
# What the disk refused to keep is tried again after this.
SAVE_AGAIN_S = 1.0
# Files open at a time: a socket for each peer, and what clients bring.
DESCRIPTORS = 65_536
# Where connections cannot be looked at, it is tried again after this.
REVIEW_AGAIN_S = 5.0
# A change of policy that is not in force by then is answered all the same, with what is in its way.
IN_FORCE_S = 30.0
# What policies have counted is not read again sooner for a scrape, and nobody waits longer for it.
COUNTS_S = 5.0
# What was said last leaves within this long at a stop.
FAREWELL_S = 1.0


@dataclass(slots=True)
class Waiter:
    """Somebody who waits for the engine to be in some state."""

    is_over: Callable[[], bool]
    done: asyncio.Future[None]


class Daemon:
    """One running node."""

    def __init__(self, chosen: Chosen, overrides: Overrides, state: State) -> None:
        self.config = configuration = chosen.configuration
        self.node = chosen.node
        self.state = state
        self._loop = asyncio.get_running_loop()
        self.problems: dict[str, str] = {}  # what cannot be kept on disk, by the document
        self._unprepared: dict[str, None] = {}  # what is wrong with this host's sysctls
        self.config_problems = list(chosen.problems)
        self.generation = 1
        self.started_at = self.now()
        self._kept = chosen.kept
        self._overrides = overrides
        listed, next_hops, endpoints = state.peers(), state.next_hops(), state.endpoints()
        floating = state.floating_ips()
        unread = {
            "peers": listed.problem,
            "next_hops": next_hops.problem,
            "endpoints": endpoints.problem,
            "floating_ips": floating.problem,
        }
        for name, problem in unread.items():
            if problem:
                log.warning("state.unreadable", file=name, reason=problem)
        self.journal = Journal(
            Path(configuration.state.directory),
            chosen.node,
            time.time() - self.started_at,
            limit=configuration.state.journal_mb * 1_000_000,
            recorded=configuration.state.record_mb * 1_000_000,
        )
        self._journal_asked = asyncio.Event()
        self._review_asked = asyncio.Event()
        self.engine = self.journal.engine(
            config.effective(configuration, chosen.node),
            None if listed.value is None else map(PeerName, listed.value),
            random.random,
            adopt_endpoints=endpoints.value is None,
        )
        self._restored = endpoints.value or ()
        self._saved_held = frozenset(listed.value or ()) if listed.value is not None else None
        self._saved_next_hops: frozenset[IPAddress] = frozenset(next_hops.value or ())
        self._saved_endpoints = {endpoint.key: endpoint for endpoint in self._restored}
        self._saved_floating = floating.value or ()
        self._saved_config = state.config().value
        self.counters = Counters()
        self.drops = Drops(self.report, lambda: self.counters.told, lambda: self.engine.local.endpoints)
        self._save_at = 0.0  # not before: the disk has refused
        self._inbox: deque[Event] = deque()
        self._waiters: list[Waiter] = []
        self._is_pumping = True  # nothing is handled until `_begin` is through
        self.keeper = Keeper(state, self.report)
        if not self.keeper.restore(self._policy_directory()):
            self.engine.handle(ObjectsChanged(None), self.started_at)
        self._timer: asyncio.TimerHandle | None = None
        self._is_timer_due = False  # its event is in the inbox
        self._stop = asyncio.Event()
        self._bug: Exception | None = None  # what a callback raised: the end of this process
        self._loop.set_exception_handler(self._broke)
        rib = self.engine.rib
        self.speaker = Speaker(self.report, self.engine.take, is_busy=lambda: len(self._inbox) > BUSY)
        self.metrics = Metrics(self, per_peer=configuration.metrics.per_peer)
        self.fib = FibEdge(
            configuration.kernel,
            rib.fib,
            rib.next_hops,
            self.report,
            known_next_hops=self._saved_next_hops,
            on_burst=self.metrics.burst_written,
        )
        self.links = LinksEdge(self.engine.local.links, configuration.workload.prefix, self.report)
        self.chains = ChainsEdge(
            self.engine.packets.chains,
            self.engine.packets.sets,
            self.report,
            counters=self.counters,
            on_apply=self.metrics.policy_applied,
        )
        self.connections = ConnectionsEdge(self.engine.packets.leads.connections, self.report)
        self.previews = Previews(self, self.connections)
        self.control = ControlServer(configuration.control.socket, self.answer, self.node)
        self.http = HttpServer(configuration.metrics.listen, self)

    # ── life ─────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Run until told to stop; raises ConfigError where it cannot begin."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up_signal)
        self._loop.add_signal_handler(signal.SIGUSR1, self._journal_asked.set)
        self.control.start()
        await self.http.start()
        self.speaker.configure(self.engine.configured.peers)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(edge) for edge in (self.control.run(), self.speaker.run(), self._probe_lag())
                ]
                tasks.append(group.create_task(self._write_journal()))
                if self.http is not None:
                    tasks.append(group.create_task(self.http.run()))
                await self._begin()
                edges = (
                    self.chains.run(),
                    self.connections.run(),
                    self._review(),
                    self.links.run(),
                    self.fib.run(),
                    self._keep_host_prepared(),
                    self.keeper.watch(self._policy_directory),
                )
                tasks += [group.create_task(edge) for edge in edges]
                self._tell_supervisor("READY=1")
                log.info("daemon.started", node=self.node, version=__version__, pid=os.getpid())
                gc.freeze()  # what lives from now to the end need not be looked at again and again
                gc.enable()
                await self._stop.wait()
                if self._bug is not None:
                    raise self._bug
                self._tell_supervisor("STOPPING=1")
                await self._farewell()
                for task in tasks:
                    task.cancel()
        except Exception:
            self.journal.write(self.journal.pages())
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
        log.info("daemon.stopped", node=self.node)

    async def _begin(self) -> None:
        """Read the kernel back, and let the engine start with what is there."""
        if self._saved_floating:
            self.engine.handle(FloatingIpsKept(self._saved_floating), self.now())
        for endpoint in self._restored:
            self.engine.handle(EndpointAdded(endpoint), self.now())
        if self.config.kernel.enabled:
            self._prepare_host()
            await self.links.start()  # which tells of workloads that we forgot
            await self._begin_chains()
            await self.fib.start()
        else:
            self.report(LinksRead({}))
            self.report(FibRead({}, {}))
        # Not earlier, and the sessions start in the same turn: who calls an idle session is hung up on.
        self.speaker.accept()
        self._pump()

    async def _begin_chains(self) -> None:
        """Have chains and sets as they are wanted, or refused, before a link comes up or a route is written."""
        self._hear()  # whom there is to protect, so that what stands is read before anything is written
        await self.chains.start()
        self._hear()
        await self.chains.settle()

    def _hear(self) -> None:
        """Let the engine handle all that was reported."""
        while self._inbox:
            self._turn()

    async def _review(self) -> None:
        """Have the connections cut that what is in force no longer allows, each time that changes."""
        packets = self.engine.packets
        while True:
            await self._review_asked.wait()
            self._review_asked.clear()
            if not packets.is_review_due:
                continue
            generation, protection, counts, problem = packets.review.generation, packets.protection, (0, 0), ""
            may_pass = judge(protection.compiled, protection.options)
            try:
                counts = await self.connections.review(may_pass, protection.options.revoked)
            except KernelError as error:
                problem = error.text
            self.report(ConnectionsReviewed(generation, *counts, problem))
            if problem:
                await asyncio.sleep(REVIEW_AGAIN_S)

    def _is_policy_settled(self) -> bool:
        """Tell whether all that was said of packets is in force, and connections were looked at, or cannot be."""
        packets = self.engine.packets
        return packets.is_policy_in_force and (not packets.is_review_due or bool(packets.review.problem))

    async def _answered(self, answer: Answer, word: str) -> dict[str, object]:
        """Return what became of a request for objects once that is in force here."""
        engine = self.engine
        warnings = [remark._asdict() for remark in answer.warnings]
        if answer.done:
            self._pump()
            if word == "applied" and not engine.configured.has_identity:  # with it, whoever read them has said so
                found = [Remark(*each)._asdict() for each in engine.packets.unknowable()]
                warnings += [each for each in found if each["object"] in answer.done]
            if not await self._until(self._is_policy_settled, IN_FORCE_S):
                warnings.append({"object": "", "field": "", "reason": f"not in force within {IN_FORCE_S:g} s"})
            for what, reason in engine.packets.unmade().items():
                warnings.append({"object": what, "field": "", "reason": f"not in force: {reason}"})
        return {word: answer.done, "refused": [remark._asdict() for remark in answer.refused], "warnings": warnings}

    @property
    def store(self) -> Store:
        """The objects of packet policy."""
        return self.keeper.store

    def _policy_directory(self) -> Path:
        return Path(self.config.file).parent / self.config.policy.directory

    async def _keep_host_prepared(self) -> None:
        """Look at the host's sysctls again and again: others write them too, at boot or by an upgrade."""
        while self.config.kernel.enabled:
            await asyncio.sleep(PREPARE_AGAIN_S)
            self._prepare_host()

    def _prepare_host(self) -> None:
        problems = dict.fromkeys(prepare_host())
        for problem in problems.keys() - self._unprepared.keys():
            log.warning("host.unprepared", reason=problem)
        for problem in self._unprepared.keys() - problems.keys():
            log.info("host.prepared", reason=f"no longer: {problem}")
        self._unprepared = problems

    async def _farewell(self) -> None:
        """Say what an orderly stop says; kernel routes stay."""
        self.engine.handle(Stopping(), self.now())
        self._execute()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self.speaker.finish()

    # ── the pump ─────────────────────────────────────────────────────────────

    def report(self, event: Event) -> None:
        """Take an event from an edge; it is handled in the next turn of the loop."""
        self._inbox.append(event)
        if not self._is_pumping:
            self._is_pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pumping = False
        if self._stop.is_set():
            return
        try:
            self._turn()
        except Exception as bug:  # noqa: BLE001  see `_broke`
            self._end(bug)

    def _broke(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End this process over a bug in any callback: the loop would log it and go on, with half of a turn undone."""
        bug = context.get("exception")
        if isinstance(bug, Exception) and "handle" in context:
            self._end(bug)
        else:
            loop.default_exception_handler(context)

    def _end(self, bug: Exception) -> None:
        self._bug = bug
        self._stop.set()

    def _turn(self) -> None:
        engine, now = self.engine, self.now()
        if self._inbox and engine.next_wakeup() <= now:
            # Keepalives leave although there is always more to do. Whose hold timer ran out is judged later,
            # in the order of what came in.
            engine.handle(TimerFired(self.speaker.connections.keys()), now)
        while self._inbox:
            event = self._inbox.popleft()
            if isinstance(event, TimerFired):
                self._is_timer_due, event = False, TimerFired(self.speaker.unread())
            engine.handle(event, now)
            if isinstance(event, FibWritten) or self.now() > now + TURN_S:
                break  # an acknowledged burst is followed by the next one, not by more reading
        is_left = engine.work(SLICE, now) or bool(self._inbox)
        self.counters.know(engine.packets.chains.wanted, engine.packets.protection.compiled)
        self._save()
        self._execute()
        self.speaker.kick(engine.rib.stirred())
        self.fib.kick()
        self.chains.kick()
        self.connections.kick()
        if engine.packets.is_review_due:
            self._review_asked.set()
        self.links.kick()
        self._notice()
        if is_left and not self._is_pumping:
            self._is_pumping = True
            self._loop.call_soon(self._pump)
        self._set_timer()

    def _set_timer(self) -> None:
        at = self.engine.next_wakeup()
        if self._save_at > self.now():
            at = min(at, self._save_at)
        if self._is_timer_due or (self._timer is not None and at == self._timer.when()):
            return  # what is set anew in every turn never comes where one turn follows the other
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at == float("inf") else self._loop.call_at(at, self._timer_came)

    def _timer_came(self) -> None:
        self._timer, self._is_timer_due = None, True
        self.report(TimerFired())

    def _save(self) -> None:
        """Put on disk what must be there before an edge acts on it; what the disk refuses is tried again."""
        engine, state, failed = self.engine, self.state, self.problems
        if self.now() < self._save_at:
            return
        if engine.peers.held != self._saved_held or "peers" in failed:
            self._saved_held = engine.peers.held
            self._disk("peers", state.save_peers(engine.peers.held))
        is_new = len(engine.rib.next_hops) and engine.rib.next_hops.wanted.keys() - self._saved_next_hops
        if is_new or "next_hops" in failed:
            self._saved_next_hops = frozenset(engine.rib.next_hops.wanted) | frozenset(engine.rib.next_hops.actual)
            self._disk("next_hops", state.save_next_hops(self._saved_next_hops))
        if engine.local.endpoints != self._saved_endpoints or "endpoints" in failed:
            self._saved_endpoints = dict(engine.local.endpoints)
            self._disk("endpoints", state.save_endpoints(engine.local.endpoints.values()))
        if engine.local.floating.kept != self._saved_floating or "floating_ips" in failed:
            self._saved_floating = engine.local.floating.kept
            self._disk("floating_ips", state.save_floating_ips(engine.local.floating.kept))
        if problem := self.keeper.save():
            self._disk("objects", problem)
        elif "objects" in failed:
            self._disk("objects", "")
        if self._kept != self._saved_config or "config" in failed:
            self._saved_config = self._kept
            self._disk("config", state.save_config(self._kept))

    def _disk(self, what: str, problem: str) -> None:
        """Take note of whether a document was written; say so where it no longer is, or is again."""
        if problem:
            self._save_at = self.now() + SAVE_AGAIN_S
        if problem != self.problems.get(what, ""):
            if problem:
                self.problems[what] = problem
                log.error("state.unwritten", file=what, reason=problem)
            else:
                del self.problems[what]
                log.info("state.written", file=what)

    def _execute(self) -> None:
        commands = self.engine.peers.commands
        while commands:
            self.speaker.execute(commands.popleft())

    def _notice(self) -> None:
        engine = self.engine
        while engine.notes:
            note = engine.notes.popleft()
            say = {Level.DEBUG: log.debug, Level.INFO: log.info, Level.WARNING: log.warning, Level.ERROR: log.error}
            say[note.level](note.name, **note.keys)
        if engine.converged:
            self.metrics.converged(engine.converged)
            engine.converged.clear()
        for waiter in [waiter for waiter in self._waiters if waiter.is_over()]:
            self._waiters.remove(waiter)
            if not waiter.done.done():
                waiter.done.set_result(None)

    async def _write_journal(self) -> None:
        """Write the journal each time it is asked for."""
        while True:
            await self._journal_asked.wait()
            self._journal_asked.clear()
            await asyncio.to_thread(self.journal.write, self.journal.pages())

    async def _probe_lag(self) -> None:
        while True:
            due = self.now() + LAG_PROBE_S
            await asyncio.sleep(LAG_PROBE_S)
            self.metrics.lagged(self.now() - due)

    async def _until(self, is_over: Callable[[], bool], seconds: float) -> bool:
        """Wait until the engine is so, `seconds` at most; False if it is not."""
        if is_over():
            return True
        waiter = Waiter(is_over, self._loop.create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter.done
        except TimeoutError:
            self._waiters.remove(waiter)
            return False
        return True

    def _tell_supervisor(self, what: str) -> None:
        """Notify systemd (sd_notify(3)), where it started us."""
        address = os.environ.get("NOTIFY_SOCKET")
        if not address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(what.encode(), "\0" + address[1:] if address.startswith("@") else address)

    # ── configuration ────────────────────────────────────────────────────────

    def _configure(self) -> None:
        configured = config.effective(self.config, self.node)
        self.engine.handle(configured, self.now())
        self._execute()  # farewells leave before their keys go
        self.speaker.configure(configured.peers)

    def _hang_up_signal(self) -> None:
        self._tell_supervisor(f"RELOADING=1\nMONOTONIC_USEC={int(self.now() * 1e6)}")
        try:
            self.reload(None, None)
        except ConfigError as error:
            for problem in error.problems:
                log.error("config.refused", reason=str(problem))
        finally:
            self._tell_supervisor("READY=1")

    def reload(self, text: str | None, file: str | None) -> list[str]:
        """Put a configuration in force: `text`, or the operator's file as it is now; returns warnings.

        Raises ConfigError with every problem, and then nothing has changed.
        """
        own = self._kept.file
        try:
            new_text = config.read(own) if text is None else text
            new = self._overrides.on(config.parse(new_text, own if text is None else file or own))
            warnings = list(config.warnings(new, self.node))
        except ConfigError as error:
            if text is None:
                self.config_problems = [str(problem) for problem in error.problems]
            raise
        fixed = {section: getattr(self.config, section) for section in FIXED_SECTIONS}
        warnings += [
            f"[{section}] has changed: that takes effect when the daemon restarts"
            for section, in_force in fixed.items()
            if getattr(new, section) != in_force
        ]
        kept = KeptConfig(new_text, own, _digest(new_text) if text is None else _digest_on_disk(own))
        if problem := self.state.save_config(kept):
            raise refused("state.directory", self.config.state.directory, problem)
        self._kept = self._saved_config = kept
        self._disk("config", "")
        self.config = replace(new, **fixed)
        self.config_problems = []
        self.generation += 1
        self._configure()
        self._pump()
        log.info("config.loaded", file=file or own, generation_count=self.generation)
        return warnings

    # ── requests ─────────────────────────────────────────────────────────────

    async def answer(self, request: Request) -> object:
        """Answer one request of the control socket; raises ConfigError or RequestError where the answer is no."""
        args = request.args
        match request.command:
            case "reload":
                warnings = self.reload(_text(args, "text"), _text(args, "file"))
                return {"generation": self.generation, "warnings": warnings}
            case "workload add":
                return await self._attach(request)
            case "workload del":
                return await self._detach(_key(args))
            case "floating-ip add":
                return await self._float(_floating_ip(args))
            case "floating-ip del":
                return await self._sink(_address(_text(args, "external") or "", "external"))
            case "workload label":
                return await self._label(_key(args), _strings(args, "label"))
            case "apply":
                return await self._answered(self.keeper.apply(_documents(args)), "applied")
            case "delete":
                if "documents" in args:
                    return await self._answered(self.keeper.delete(_documents(args)), "deleted")
                kind, name = _text(args, "kind") or "", _text(args, "name") or ""
                return await self._answered(self.keeper.delete_named(kind, name, _text(args, "namespace")), "deleted")
            case _:
                return await self._shown(request.command, args)

    async def _shown(self, command: str, args: Mapping[str, object]) -> object:
        """Answer a request that only looks, with counters that are fresh where it shows some."""
        if command == "policy drops" and args.get("follow"):
            return await self._follow_drops()
        if command == "policy preview":
            self.keeper.check_is_known()
            return await self.previews.answer(_documents(args), is_deletion=args.get("delete") is True)
        if command == "policy drops" or args.get("live"):
            await self.freshen(0.0)
        return views.answer(command, args, self)

    async def _follow_drops(self) -> Stream:
        """Answer once the rules tell of what they drop."""
        if not self.config.kernel.enabled:
            raise refused("kernel.enabled", "false", "this node has no chains that drop")
        group = self.config.policy.nflog_group
        chains = self.engine.packets.chains
        before = set(chains.refused)
        follower = self.drops.join(group)
        try:
            self._pump()
            if not await self._until(lambda: self.engine.packets.is_policy_in_force, IN_FORCE_S):
                raise refused("policy.nflog_group", str(group), f"no rule tells of drops within {IN_FORCE_S:g} s")
            for chain in chains.refused.keys() - before:
                raise refused("policy.nflog_group", str(group), f"{chain}: {chains.refused[chain].reason}")
        except BaseException:
            await follower.aclose()
            raise
        return Stream({"following": "drops", "group": group}, follower)

    async def freshen(self, oldest_s: float = COUNTS_S) -> None:
        """Have read what policies have counted, if that is older; what cannot be read soon is as it was."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COUNTS_S):
                await self.chains.count(oldest_s)

    async def _attach(self, request: Request) -> object:
        """Give a workload its addresses, link and routes; answers once it is connected."""
        args, engine = request.args, self.engine
        if not self.config.kernel.enabled:
            raise refused("kernel.enabled", "false", "this node writes no routes, so it has no workloads")
        key = _key(args)
        namespace, _, name = key.partition("/")
        netns = _text(args, "netns") or ""
        if key in engine.local.endpoints:
            raise refused("name", key, f"already attached to {engine.local.endpoints[key].netns}")
        if len(request.descriptors) != 1:
            raise refused("netns", netns, "no descriptor of the namespace came with the request")
        wanted = tuple(_address(text) for text in _strings(args, "ip"))
        labels = _labels(_strings(args, "label"))
        ports = _ports(_strings(args, "port"))
        try:
            descriptor = os.dup(request.descriptors[0])
        except OSError as error:
            raise refused("netns", netns, f"the daemon cannot keep it open: {error.strerror}") from error
        try:
            addresses = engine.local.addresses.request(key, wanted, self.now())
        except ConfigError:
            os.close(descriptor)
            raise
        interface, inode = interface_name(self.config.workload.prefix, key), os.fstat(descriptor)
        endpoint = Endpoint(name, namespace, labels, addresses, interface, netns, ports, (inode.st_dev, inode.st_ino))
        self.links.offer(interface, descriptor)
        self.report(EndpointAdded(endpoint))
        self._pump()  # now: the next request must find name and addresses taken

        def is_over() -> bool:
            return key not in engine.local.endpoints or engine.endpoint_problem(key) != ""

        is_settled = await self._until(is_over, ATTACH_S)
        problem = (engine.endpoint_problem(key) or "") if key in engine.local.endpoints else "removed meanwhile"
        if is_settled and not problem:
            return views.workload(endpoint)
        if key in engine.local.endpoints:
            self.report(EndpointRemoved(key))
        raise refused("workload", key, problem or f"not connected within {ATTACH_S:g} s")

    async def _label(self, key: str, words: list[str]) -> object:
        """Change labels of a workload: `k=v` sets one, `k-` takes one away; answers once that is in force."""
        engine = self.engine
        endpoint = engine.local.endpoints.get(key)
        if endpoint is None:
            raise RequestError("not-found", "no such workload on this node", key="workload", value=key)
        gone = {word[:-1] for word in words if word.endswith("-") and "=" not in word}
        new = dict(_labels([word for word in words if not (word.endswith("-") and "=" not in word)]))
        if both := gone & new.keys():
            raise refused("label", min(both), "both set and taken away")
        labels = {label: value for label, value in endpoint.labels if label not in gone} | new
        endpoint = replace(endpoint, labels=tuple(sorted(labels.items())))
        self.report(EndpointAdded(endpoint))
        self._pump()
        if not await self._until(self._is_policy_settled, IN_FORCE_S):
            raise refused("workload", key, f"its labels are not in force within {IN_FORCE_S:g} s")
        return views.workload(endpoint)

    async def _detach(self, key: str) -> object:
        endpoint = self.engine.local.endpoints.get(key)
        if endpoint is None:
            raise RequestError("not-found", "no such workload on this node", key="workload", value=key)
        self.report(EndpointRemoved(key))

        def is_gone() -> bool:
            another = self.engine.local.endpoints.get(key, endpoint) is not endpoint  # added since: the link is its
            return another or endpoint.interface not in self.engine.local.links.actual

        if not await self._until(is_gone, ATTACH_S):
            raise refused("workload", key, f"its link {endpoint.interface} is still there after {ATTACH_S:g} s")
        return views.workload(endpoint)

    async def _float(self, new: FloatingIp) -> object:
        """Have a floating address lead to a workload, whatever it led to; answers once it does.

        Where the packet filter refuses it is as it was before.
        """
        engine = self.engine
        floating, leads = engine.local.floating, engine.packets.leads
        if not self.config.kernel.enabled:
            raise refused("kernel.enabled", "false", "this node writes no routes, so it has no workloads")
        self.keeper.check_is_known()
        taken = taken_by_others(self.config.nodes, self.config.neighbours, ()) | announced_by(self.config.nodes)
        taken |= engine.local.floating_taken(new.external)
        floating.check(new, self.config.pools, engine.configured.around.space, taken)
        before = floating.kept
        self._keep_floating((*floating.without(new.external), new))

        def is_over() -> bool:
            return floating.in_force.get(new.external) != new or leads.problem(new.external) != ""

        await self._until(is_over, ATTACH_S)
        if floating.in_force.get(new.external) != new:
            raise refused("external", new.external, "changed meanwhile")
        problem = leads.problem(new.external)
        if problem == "" or (problem is not None and new.external in leads.wanted):
            old = tuple(each for each in before if each.external == new.external)
            self._keep_floating((*floating.without(new.external), *old))
            raise refused("external", new.external, problem or f"not in force within {ATTACH_S:g} s")
        return views.floating_ip(engine, new)

    async def _sink(self, external: IPAddress) -> object:
        """Have a floating address lead nowhere; answers once nothing of it is left on this node."""
        floating, leads = self.engine.local.floating, self.engine.packets.leads
        self.keeper.check_is_known()
        left = floating.without(external)
        if len(left) == len(floating.kept):
            reason = "no such floating address on this node"
            raise RequestError("not-found", reason, key="external", value=str(external))
        (gone,) = set(floating.kept) - set(left)
        self._keep_floating(left)

        def is_gone() -> bool:
            return external in floating.in_force or leads.is_gone(external)  # it may be here again

        if not await self._until(is_gone, ATTACH_S):
            raise refused("external", external, f"its translation is still there after {ATTACH_S:g} s")
        return {"external": str(external), "workload": gone.workload, "outbound": gone.outbound}

    def _keep_floating(self, floating: tuple[FloatingIp, ...]) -> None:
        self.report(FloatingIpsKept(floating))
        self._pump()  # now: it is on disk, and the next request finds it

    def now(self) -> float:
        """Return the monotonic clock of the engine's events, in seconds."""
        return self._loop.time()

    def reasons(self) -> list[str]:
        """Return why this node is not ready; empty if it is."""
        engine = self.engine
        reasons = [f"configuration: {problem}" for problem in self.config_problems]
        reasons += [*self.problems.values(), *self._unprepared]
        reasons += views.unmade(engine)
        reasons += self.keeper.problems()
        if not engine.peers.is_in_sync:
            waiting = "; ".join(f"{name}: {why}" for name, why in engine.peers.waiting_for().items())
            reasons.append(f"not in sync after a restart: waiting for {waiting}" if waiting else "starting")
        reasons += self.speaker.problems.values()
        down = [name for name, session in engine.peers.sessions.items() if session.established_at is None]
        if down and len(down) == len(engine.peers.sessions):
            reasons += [f"no session is up: {views.why_down(engine.peers.sessions[name])}" for name in sorted(down)[:3]]
        return reasons


def run(file: str, node: str | None, socket_path: str | None, state_directory: str | None) -> int:
    """Run the daemon until SIGTERM; returns the exit code: 0, or 2 where the configuration is bad."""
    _allow_descriptors()
    try:
        _start_log(os.environ.get("BGPMESH_LOG", "INFO"))
        overrides = Overrides(socket_path, state_directory)
        asyncio.run(_main(os.path.abspath(file), node, overrides))  # noqa: PTH100  not resolved
    except ConfigError as error:
        for problem in error.problems:
            print(f"bgpmesh: {problem}", file=sys.stderr)  # noqa: T201  the last words of a command
        return 2
    return 0


def _start_log(level: str) -> None:
    try:
        log.start(level.upper())
    except ValueError as error:
        raise refused("BGPMESH_LOG", level, "not DEBUG, INFO, WARNING, ERROR or CRITICAL") from error


def _allow_descriptors() -> None:
    """Raise the limit of open files as far as we may; the usual 1024 is meant for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says in place of the file, also of a file that is loaded later."""

    socket: str | None = None
    state_directory: str | None = None

    def on(self, configuration: Config) -> Config:
        """Return a configuration with them put in."""
        control, state = configuration.control, configuration.state
        return replace(
            configuration,
            control=control if self.socket is None else replace(control, socket=self.socket),
            state=state if self.state_directory is None else replace(state, directory=self.state_directory),
        )


async def _main(file: str, node: str | None, overrides: Overrides) -> None:
    """Choose the configuration in force, and run on it."""
    chosen = choose(file, node, overrides)
    directory = chosen.configuration.state.directory
    state = State(Path(directory))
    state.open(chosen.node)
    try:
        if not chosen.problems and (problem := state.save_config(chosen.kept)) and state.config().value is None:
            raise refused("state.directory", directory, problem)  # a first start; later ones run on, not ready
        await Daemon(chosen, overrides, state).run()
    finally:
        state.close()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The configuration to run on, what is kept of it, and why it is not the operator's file ("" for each: it is)."""

    configuration: Config
    node: str
    kept: KeptConfig
    problems: tuple[str, ...] = ()


def choose(file: str, node: str | None, overrides: Overrides) -> Chosen:
    """Return what a daemon that starts now runs on.

    The operator's file, but for two cases: it has not changed since a confirmed `reload F`, whose content
    then still holds; or it is bad, and what was last in force gives way to nothing. Raises ConfigError
    where the file is bad and nothing was in force.
    """
    try:
        text = config.read(file)
        configuration = overrides.on(config.parse(text, file))
        name = config.find_node(configuration, node)
    except ConfigError as error:
        kept = State(Path(overrides.state_directory or StateOptions().directory)).config().value
        if kept is None:
            raise
        for problem in error.problems:
            log.error("config.refused", reason=str(problem))
        try:
            configuration = overrides.on(config.parse(kept.text, kept.file))
            name = config.find_node(configuration, node)
        except ConfigError as worse:  # a password file it names is gone, or it stands for another node
            raise ConfigError((*error.problems, *worse.problems)) from error
        return Chosen(configuration, name, kept, tuple(map(str, error.problems)))
    kept = State(Path(configuration.state.directory)).config().value
    if kept is not None and kept.file == file and kept.digest == _digest(text) and kept.text != text:
        with contextlib.suppress(ConfigError):  # a password file it names may be gone: the operator's file it is
            reloaded = overrides.on(config.parse(kept.text, file))
            return Chosen(reloaded, config.find_node(reloaded, node), kept)
    return Chosen(configuration, name, KeptConfig(text, file, _digest(text)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_on_disk(file: str) -> str:
    """Return the digest of a file that may be anything; one that cannot be read counts as empty."""
    try:
        return _digest(config.read(file))
    except ConfigError:
        return _digest("")


def _key(args: Mapping[str, object]) -> str:
    """Return `namespace/name` of a request about one workload; raises ConfigError where either is no name."""
    name, namespace = _text(args, "name") or "", _text(args, "namespace") or "default"
    check_name("name", name)
    check_name("namespace", namespace)
    return f"{namespace}/{name}"


def _text(args: Mapping[str, object], key: str) -> str | None:
    """Return an argument, None where it is absent; raises ConfigError where it is no text that a file name can be."""
    value = args.get(key)
    if value is None:
        return None
    if not _is_text(value):
        raise refused(key, value, "not a text")
    return value


def _is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value is a text without NUL, and without the halves of surrogate pairs that JSON can carry."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _strings(args: Mapping[str, object], key: str) -> list[str]:
    values = args.get(key) or []
    if not isinstance(values, list) or not all(map(_is_text, values)):
        raise refused(key, values, "not a list of texts")
    return values


def _floating_ip(args: Mapping[str, object]) -> FloatingIp:
    outbound = args.get("outbound", False)
    if not isinstance(outbound, bool):
        raise refused("outbound", outbound, "not true or false")
    namespace, slash, name = (_text(args, "workload") or "").partition("/")
    key = _key({"name": name, "namespace": namespace} if slash else {**args, "name": namespace})
    return FloatingIp(_address(_text(args, "external") or "", "external"), key, outbound)


def _address(text: str, key: str = "ip") -> IPAddress:
    try:
        if "%" in text:
            raise ValueError("scoped (RFC 4007 §11)")
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise refused(key, text, "not an IP address (without prefix length or zone)") from error


def _labels(texts: list[str]) -> tuple[tuple[str, str], ...]:
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise refused("label", text, "not KEY=VALUE")
        try:
            label_key(key)
            label_value(value)
        except BadValueError as error:
            raise refused("label", text, str(error)) from error
        if key in OWN_LABELS or key.startswith(NAMESPACE_PREFIX):
            raise refused("label", text, f"{key} is not given by hand: it follows from the namespace")
        if labels.setdefault(key, value) != value:
            raise refused("label", text, f"{key} is {labels[key]} already")
    return tuple(sorted(labels.items()))


def _ports(texts: list[str]) -> tuple[tuple[str, str, int], ...]:
    """Return (name, protocol, number) of each `NAME=tcp:8080`."""
    ports: dict[tuple[str, str], int] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        protocol, colon, number = rest.partition(":")
        if not (equals and colon and number.isascii() and number.isdigit() and 0 < int(number) < 1 << 16):
            raise refused("port", text, "not NAME=PROTOCOL:NUMBER, with a number from 1 to 65535")
        try:
            port_name(name)
        except BadValueError as error:
            raise refused("port", text, str(error)) from error
        if PROTOCOLS.get(protocol) not in WITH_PORTS:
            known = ", ".join(word for word, each in PROTOCOLS.items() if each in WITH_PORTS)
            raise refused("port", text, f"{protocol!r} is not one of {known}")
        if ports.setdefault((name, protocol), int(number)) != int(number):
            raise refused("port", text, f"{name} is {ports[name, protocol]} already")
    return tuple(sorted((name, protocol, number) for (name, protocol), number in ports.items()))


def _documents(args: Mapping[str, object]) -> list[object]:
    documents = args.get("documents")
    if not isinstance(documents, list):
        raise RequestError("bad-request", "documents is not a list")
    return documents
