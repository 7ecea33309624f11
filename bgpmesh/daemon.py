"""The daemon: builds everything, feeds events to the engine, and makes its answers true.

Who feeds whom:

    speaker, kernel, control, signals  --events-->  pump   --handle, work-->  engine
    peers.held, life, next hops, what commands made  --saved-->  disk   (before anything else of the same turn)
    peers.commands, rib.take               ---------->  speaker
    rib.fib, rib.next_hops                 ---------->  kernel.fib
    local.links                            ---------->  kernel.links
    packets.chains, packets.sets           ---------->  kernel.chains
    packets.leads.connections              ---------->  kernel.conntrack
    kernel.traffic                         ---------->  drain   --each step-->  pump
    peers.paths.watched                          ---------->  bfd_agent   --what it says-->  pump
    the configuration                      ---------->  wire.discovery  --who is on a link-->  revisions
    the configuration                      ---------->  helpers     --what they announce-->  pump
    control, the policy directory          ---------->  keeper  --disk, events-->  pump
    kernel.chains                          --counts-->  counters
    kernel.nflog                           ---------->  drops   --who follows-->  pump
    store, engine (copies), kernel.conntrack  ------->  previews, in threads
    engine.notes                           ---------->  log
    all that the engine is told            ---------->  journal

What drives it is the pump (`pump.py`); what commands change goes through the operations (`operations.py`). Which
configuration is in force is `revisions.py`'s and `chosen.py`'s matter, what is on disk `saved.py`'s and the keeper's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import resource
import signal
import socket
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bgpmesh import __version__, config, log
from bgpmesh.bfd_agent.edge import BfdEdge
from bgpmesh.chosen import Chosen, Overrides, choose
from bgpmesh.config import Config
from bgpmesh.control import views
from bgpmesh.control.arguments import documents_of
from bgpmesh.control.http import HttpServer
from bgpmesh.control.peers import why_down
from bgpmesh.control.server import ControlServer, Request
from bgpmesh.drain import Drainer
from bgpmesh.drops import Drops
from bgpmesh.errors import ConfigError, KernelError, refused
from bgpmesh.events import (
    Configured,
    ConnectionsReviewed,
    EndpointAdded,
    FibRead,
    FloatingIpsKept,
    Level,
    LinksRead,
    ObjectsChanged,
    Stopping,
)
from bgpmesh.helpers.edge import Helpers, Parse
from bgpmesh.journal.record import Journal
from bgpmesh.keeper import Keeper
from bgpmesh.kernel.chains import ChainsEdge
from bgpmesh.kernel.conntrack import ConnectionsEdge
from bgpmesh.kernel.fib import FibEdge, KernelOptions, uninstall
from bgpmesh.kernel.links import LinksEdge
from bgpmesh.kernel.stack import network_stack
from bgpmesh.kernel.sysctls import HostSettings
from bgpmesh.metrics import Metrics
from bgpmesh.operations import Operations
from bgpmesh.policy.attribution import Counters
from bgpmesh.policy.explain import judge
from bgpmesh.policy.store import Store
from bgpmesh.pump import Pump
from bgpmesh.revisions import Revisions
from bgpmesh.rib.drain import Drain
from bgpmesh.route.nlri import link_of
from bgpmesh.saved import Saved
from bgpmesh.state import Loaded, Marks, State
from bgpmesh.wire.discovery import Discovery
from bgpmesh.wire.speaker import Speaker

if TYPE_CHECKING:
    from bgpmesh.previews import Previews

# The lag of the loop is measured this often.
LAG_PROBE_S = 0.5
# Files open at a time: a socket for each peer, and what clients bring.
DESCRIPTORS = 65_536
# Where connections cannot be looked at, it is tried again after this.
REVIEW_AGAIN_S = 5.0
# What policies have counted is not read again sooner for a scrape, and nobody waits longer for it.
COUNTS_S = 5.0
# What was said last leaves within this long at a stop.
FAREWELL_S = 1.0

_SAY = {Level.DEBUG: log.debug, Level.INFO: log.info, Level.WARNING: log.warning, Level.ERROR: log.error}


class Daemon:
    """One running node."""

    def __init__(self, chosen: Chosen, state: State) -> None:
        configuration = chosen.configuration
        self.node = chosen.node
        self._loop = asyncio.get_running_loop()
        self.started_at = self.now()
        self._journal_asked, self._review_asked = asyncio.Event(), asyncio.Event()
        self._has_begun = asyncio.Event()
        self._is_reload_due = False
        self.host = HostSettings()
        kernel = configuration.kernel
        self._marks = Marks(kernel.protocol, kernel.table) if kernel.enabled else None
        self.saved = Saved(state, chosen.kept, network_stack(), self._marks)
        self.revisions = Revisions(chosen, self.saved, lambda: self.engine, self._configure)
        self.journal = Journal(
            Path(configuration.state.directory),
            chosen.node,
            time.time() - self.started_at,
            limit=configuration.state.journal_mb * 1_000_000,
            recorded=configuration.state.record_mb * 1_000_000,
        )
        self.engine = self.journal.engine(
            config.effective(configuration, chosen.node, self.saved.neighbours),
            self.saved.peers,
            random.random,
            adopt_endpoints=not self.saved.has_endpoints,
            last=self.saved.last,
        )
        self.pump = Pump(self.engine, lambda: self.speaker, self._act)
        report, local = self.pump.report, self.engine.local
        self.counters = Counters()
        self.metrics = Metrics(self, per_peer=configuration.metrics.per_peer)
        self.drops = Drops(report, lambda: self.counters.told, lambda: local.endpoints)
        self.keeper = Keeper(state, report)
        if not self.keeper.restore(self._policy_directory()):
            self.engine.handle(ObjectsChanged(None), self.started_at)
        self.speaker: Speaker = Speaker(report, self.engine.take, is_busy=self.pump.is_busy)
        self.discovery = Discovery(self._rediscover, self._is_talking, self.saved.neighbours)
        self._connect_kernel()
        self.drainer = Drainer(self.engine, self.pump)
        self.operations = Operations(
            self.engine,
            self.pump,
            self.revisions,
            keeper=self.keeper,
            drops=self.drops,
            links=self.links,
            drainer=self.drainer,
        )
        self.bfd = BfdEdge(configuration.control.socket, self.engine.peers.paths.wanted, report)
        self.helpers = Helpers(
            {"BGPMESH_NODE": self.node, "BGPMESH_SOCKET": configuration.control.socket},
            report,
            local.why_not_announced,
            _parser,
            is_busy=self.pump.is_busy,
        )
        self.control = ControlServer(configuration.control.socket, self.answer, self.node)
        self.http = HttpServer(configuration.metrics.listen, self)

    def _connect_kernel(self) -> None:
        """Have an edge for each of the engine's Deltas."""
        rib, local, packets, report = self.engine.rib, self.engine.local, self.engine.packets, self.pump.report
        self.fib = FibEdge(
            self.config.kernel,
            rib.fib,
            rib.next_hops,
            report,
            known_next_hops=self.saved.next_hops,
            on_burst=self.metrics.burst_written,
        )
        self.links: LinksEdge = LinksEdge(local.links, self.config.workload.prefix, report)
        self.chains = ChainsEdge(
            packets.chains, packets.sets, report, counters=self.counters, on_apply=self.metrics.policy_applied
        )
        self.connections: ConnectionsEdge = ConnectionsEdge(packets.leads.connections, report)

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.revisions.config

    @property
    def generation(self) -> int:
        """How many configurations have been in force."""
        return self.revisions.generation

    @property
    def store(self) -> Store:
        """The objects of packet policy."""
        return self.keeper.store

    def now(self) -> float:
        """Return the monotonic clock of the engine's events, in seconds."""
        return self._loop.time()

    @cached_property
    def _previews(self) -> Previews:
        from bgpmesh.previews import Previews  # noqa: PLC0415  few ask for one, and it takes two milliseconds to load

        return Previews(self, self.connections)

    # ── life ─────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Run until told to stop; raises ConfigError where it cannot begin."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.pump.end)
        self._loop.add_signal_handler(signal.SIGUSR1, self._journal_asked.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1,))
        self.control.start()
        await self.http.start()
        self.speaker.configure(self.engine.configured.peers, self.engine.configured.ranges)
        try:
            async with asyncio.TaskGroup() as group:
                doors = (self.control.run(), self.speaker.run(), self.http.run())
                tasks = [group.create_task(each) for each in (*doors, self._probe_lag(), self._write_journal())]
                await self._begin()
                self._has_begun.set()
                self._loop.add_signal_handler(signal.SIGHUP, self._hang_up_signal)
                signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what came while nobody was there for it comes now
                kernel = (self.chains.run(), self.connections.run(), self.links.run(), self.fib.run())
                self._configure_edges()
                edges = (*kernel, self.bfd.run(), self.helpers.run(), self.discovery.run())
                rounds = [self._review(), self.keeper.watch(self._policy_directory), self.drainer.run()]
                if self.config.kernel.enabled:
                    rounds.append(self.host.watch())
                tasks += [group.create_task(each) for each in (*edges, *rounds)]
                _tell_supervisor("READY=1")
                file, said = self.revisions.chosen.kept.file, config.warnings(self.config, self.node)
                log.info("daemon.started", node=self.node, version=__version__, pid=os.getpid(), file=file)
                for warning in said:
                    log.warning("config.doubtful", reason=warning)
                gc.freeze()  # what lives from now to the end need not be looked at again and again
                gc.enable()
                await self.pump.ended.wait()
                if self.pump.bug is not None:
                    raise self.pump.bug
                _tell_supervisor("STOPPING=1")
                await self._farewell()
                for task in tasks:
                    task.cancel()
        except Exception:
            self.journal.write(self.journal.pages())
            raise
        finally:
            self.pump.close()
        log.info("daemon.stopped", node=self.node)

    async def _begin(self) -> None:
        """Read the kernel back, and let the engine start with what is there.

        Nothing is changed before: a turn that came first would keep on disk that there is nothing.
        """
        await self._clear_former_place()
        if self.saved.drain.drain is not Drain.NONE:
            self.engine.handle(self.saved.drain, self.now())
        if self.saved.floating:
            self.engine.handle(FloatingIpsKept(self.saved.floating), self.now())
        for endpoint in self.saved.endpoints.values():
            self.engine.handle(EndpointAdded(endpoint), self.now())
        if self.config.kernel.enabled:
            self.host.prepare()
            await self.links.start()  # which tells of workloads that we forgot
            await self._begin_chains()
            await self.fib.start()
        else:
            self.pump.report(LinksRead({}))
            self.pump.report(FibRead({}, {}))
        # Not earlier, and the sessions start in the same turn: who calls an idle session is hung up on.
        self.speaker.accept()
        self.pump.turn()

    async def _clear_former_place(self) -> None:
        """Remove what is in the kernel under marks of an earlier `[kernel]`: nobody would know it as ours any more."""
        former = self.saved.marked
        if former is None or former == self._marks:
            return
        options = KernelOptions(protocol=former.protocol, table=former.table)
        try:
            removed = await asyncio.to_thread(uninstall, options)
        except KernelError as error:
            log.error("fib.former-left", protocol=former.protocol, table=former.table, reason=error.text)
        else:
            log.warning("fib.former-removed", protocol=former.protocol, table=former.table, objects_count=len(removed))

    async def _begin_chains(self) -> None:
        """Have chains and sets as they are wanted, or refused, before a link comes up or a route is written."""
        self.pump.hear()  # whom there is to protect, so that what stands is read before anything is written
        await self.chains.start()
        self.pump.hear()
        await self.chains.settle()

    async def _farewell(self) -> None:
        """Say what an orderly stop says; kernel routes stay."""
        self.engine.handle(Stopping(), self.now())
        self._execute()
        self.bfd.kick()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self.speaker.finish()

    # ── what the engine has come to ──────────────────────────────────────────

    def _act(self) -> float:
        """Make it true, on disk first; return the second at which to try again what the disk refused."""
        engine, packets, now = self.engine, self.engine.packets, self.now()
        self.saved.save(engine, self.keeper, now)
        self.fib.kick()  # what follows is done while its thread wakes up
        self._execute()
        self.speaker.kick(engine.rib.stirred())
        self.counters.know(packets.chains.wanted, packets.protection.compiled, engine.flows.causes)
        self.chains.kick()
        self.connections.kick()
        if packets.is_review_due:
            self._review_asked.set()
        self.links.kick()
        self.bfd.kick()
        while engine.notes:
            note = engine.notes.popleft()
            _SAY[note.level](note.name, **note.keys)
        if engine.converged:
            self.metrics.converged(engine.converged)
            engine.converged.clear()
        self.journal.settle()
        return self.saved.next_try(now)

    def _execute(self) -> None:
        commands = self.engine.peers.commands
        while commands:
            self.speaker.execute(commands.popleft())

    # ── what comes round again ───────────────────────────────────────────────

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
            self.pump.report(ConnectionsReviewed(generation, *counts, problem))
            if problem:
                await asyncio.sleep(REVIEW_AGAIN_S)

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

    # ── configuration ────────────────────────────────────────────────────────

    def _configure(self, configured: Configured) -> None:
        """Have a configuration in force; a daemon that ends talks to nobody new, and otherwise to nobody."""
        if self.pump.ended.is_set():
            return
        self.engine.handle(configured, self.now())
        self._execute()  # farewells leave before their keys go
        self.speaker.configure(configured.peers, configured.ranges)
        self._configure_edges()
        self.pump.turn()

    def _configure_edges(self) -> None:
        """Tell those of a configuration whom the engine does not."""
        node = self.config.node(self.node)
        self.helpers.configure(self.config.processes_of(node))
        links = (peer.interface for peer in self.config.neighbours_of(node))
        self.discovery.configure(filter(None, links))

    def _is_talking(self, link: str) -> bool:
        """Tell whether there is a session between link-local addresses of this link."""
        sessions = self.engine.peers.sessions.values()
        return any(link_of(each.peer.address) == link and each.established_at is not None for each in sessions)

    def _rediscover(self) -> None:
        """Talk to who was found on a link."""
        self.saved.know(self.discovery.found)
        self.revisions.rediscover()

    def processes(self) -> list[views.JsonObject]:
        """Return the programs whose announcements are this node's."""
        return self.helpers.shown()

    def _hang_up_signal(self) -> None:
        """Reload in the next round of the loop, once for all signals of this one: dozens would outlast a hold time."""
        _tell_supervisor(f"RELOADING=1\nMONOTONIC_USEC={int(self.now() * 1e6)}")
        if not self._is_reload_due:
            self._is_reload_due = True
            self._loop.call_soon(self._reload)

    def _reload(self) -> None:
        self._is_reload_due = False
        try:
            self.revisions.reload(None, None)
        except ConfigError as error:
            for problem in error.problems:
                log.error("config.refused", reason=str(problem))
        finally:
            _tell_supervisor("READY=1")

    def _policy_directory(self) -> Path:
        """Return where it is: beside the operator's file, also while another one is in force."""
        return Path(self.revisions.chosen.kept.file).parent / self.config.policy.directory

    # ── requests ─────────────────────────────────────────────────────────────

    async def answer(self, request: Request) -> object:
        """Answer one request of the control socket; raises ConfigError or RequestError where the answer is no."""
        command, args = request.command, request.args
        verb, follows = self.operations.verbs.get(command), command == "policy drops" and args.get("follow")
        if verb is not None or follows:
            await self._has_begun.wait()
        if verb is not None:
            return await verb(request)
        if follows:
            return await self.operations.follow_drops()
        if command == "policy preview":
            self.keeper.check_is_known()
            return await self._previews.answer(documents_of(args), is_deletion=args.get("delete") is True)
        if command in {"policy drops", "policy flows"} or args.get("live"):
            await self.freshen(0.0)  # it shows what policies have counted
        return views.answer(command, args, self)

    async def freshen(self, oldest_s: float = COUNTS_S) -> None:
        """Have read what policies have counted, if that is older; what cannot be read soon is as it was."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COUNTS_S):
                await self.chains.count(oldest_s)

    def unconfirmed(self) -> dict[str, object] | None:
        """Return what is in force and not confirmed, None if nothing is."""
        return self.revisions.unconfirmed()

    def reasons(self) -> list[str]:
        """Return why this node is not ready; empty if it is."""
        engine, peers = self.engine, self.engine.peers
        reasons = [f"configuration: {problem}" for problem in self.revisions.chosen.problems]
        reasons += [*self.saved.problems.values(), *self.host.problems]
        reasons += views.unmade(engine)
        reasons += self.keeper.problems()
        if not peers.is_in_sync:
            waiting = "; ".join(f"{name}: {why}" for name, why in peers.restart.reasons().items())
            reasons.append(f"not in sync after a restart: waiting for {waiting}" if waiting else "starting")
        reasons += [*self.speaker.problems.values(), *self.bfd.problems, *self.discovery.problems]
        if out := views.out_of_service(engine):
            reasons.append(out)
        if peers.is_closed:
            return reasons
        down = [name for name, session in peers.sessions.items() if session.established_at is None]
        if down and len(down) == len(peers.sessions):
            reasons += [f"no session is up: {why_down(peers.sessions[name])}" for name in sorted(down)[:3]]
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


async def _main(file: str, node: str | None, overrides: Overrides) -> None:
    """Choose the configuration in force, and run on it."""
    chosen = choose(file, node, overrides)
    directory = chosen.configuration.state.directory
    state = State(Path(directory))
    state.open(chosen.node)
    try:
        if not chosen.problems and (problem := state.save_config(chosen.kept)) and state.config() == Loaded(None):
            raise refused("state.directory", directory, problem)  # a first start; later ones run on, not ready
        await Daemon(chosen, state).run()
    finally:
        state.close()


def _parser() -> Parse:
    """Return what reads ExaBGP's text API: loaded by the first program, for it would be a quarter of a start."""
    from bgpmesh.wire.announcements import parse  # noqa: PLC0415  see above

    return parse


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


def _tell_supervisor(what: str) -> None:
    """Notify systemd (sd_notify(3)), where it started us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(what.encode(), "\0" + address[1:] if address.startswith("@") else address)
