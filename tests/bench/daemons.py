"""The daemons that are measured, each in a class: its version, its configuration, its processes.

Every session is an internal one. The speakers of the bench call the daemons, which wait for it; the nodes of a mesh
call each other. All keep what is their own default; where one has a choice that costs it nothing it
gets the faster one, and its class says which.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bgpmesh import __version__
from bgpmesh.control import client
from containerlab.lab import Lab, Process, until
from tests.bench.scenario import ASN, DUT, Member, Scenario

NODE = "dut"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A speaker of the bench, which calls."""

    address: str
    is_client: bool = False  # of the daemon as a route reflector

    @property
    def family(self) -> str:
        """The address family of its session, and of its routes."""
        return "ipv6" if ":" in self.address else "ipv4"


@dataclass(frozen=True, slots=True)
class Setup:
    """What a daemon is to do in one scenario."""

    neighbours: tuple[Neighbour, ...] = ()
    has_fib: bool = True  # False: no route to the kernel
    hold_time: int = 0  # seconds; 0: its own default
    has_graceful_restart: bool = False
    is_restart: bool = False  # it comes after a crash, and may be told so
    mesh: tuple[Member, ...] = ()  # with `node` among them


class Daemon(Protocol):
    """One daemon under test."""

    name: str
    has_fib: bool  # it writes routes to the kernel
    status: tuple[str, ...]  # the command by which an operator asks for its state, in NODE

    def missing(self) -> str:
        """Return what keeps it from running here, in words; an empty text if nothing does."""

    def why_not(self, scenario: Scenario) -> str:
        """Return why it does not play a scenario, in words; an empty text if it does."""

    def version(self) -> str:
        """Return its version as it says it."""

    def start(self, lab: Lab, node: str, setup: Setup) -> list[Process]:
        """Start it in a node; returns every process of it."""

    def is_in_sync(self, lab: Lab, routes: int) -> bool:
        """Tell whether, restarted in NODE, it has that many routes again and says that its recovery is over."""


class Bgpmesh:
    """This repository, as users run it: metrics on, nexthop objects, read-back."""

    name = "bgpmesh"
    has_fib = True
    status: tuple[str, ...] = ("bgpmesh", "status")

    def missing(self) -> str:
        """Nothing: it is here."""
        return ""

    def why_not(self, _: Scenario) -> str:
        """Nothing: it plays all."""
        return ""

    def version(self) -> str:
        """Return the package's version."""
        return __version__

    def start(self, lab: Lab, node: str, setup: Setup) -> list[Process]:
        """Start `bgpmesh run`."""
        lab.write(node, "/etc/bgpmesh/bgpmesh.toml", self._file(node, setup))
        return [lab.start(node, ["bgpmesh", "run", "--config", "/etc/bgpmesh/bgpmesh.toml", "--node", node])]

    def is_in_sync(self, lab: Lab, routes: int) -> bool:
        """Ask as `bgpmesh status --json` does, without the start of a command each time."""
        daemon = [process for process in lab.processes if process.command[:2] == ("bgpmesh", "run")][-1]
        try:
            status = client.call(f"{daemon.root}{client.DEFAULT_SOCKET}", "status", {})
        except client.NoDaemonError:
            return False
        assert isinstance(status, dict)
        is_up = all(peer["state"] == "Established" for peer in status["peers"])
        return bool(status["ready"]) and is_up and status["fib"]["wanted"] == status["fib"]["installed"] == routes

    def _file(self, node: str, setup: Setup) -> str:
        lines = ["[cluster]", f"asn = {ASN}", f'topology = "{"mesh" if setup.mesh else "none"}"']
        lines += [f"hold_time = {setup.hold_time}"] if setup.hold_time else []
        lines += ["[kernel]", f"enabled = {str(setup.has_fib).lower()}"]
        if setup.mesh:
            lines += ["[pool.default]", 'cidr = "10.244.0.0/16"']
        for each in setup.mesh:
            lines += [f"[node.{each.name}]", f'address = "{each.address}"', f'pod_cidrs = ["{each.block}"]']
        if not setup.mesh:
            lines += [f"[node.{node}]", f'address = "{DUT["ipv4"]}"', f'address6 = "{DUT["ipv6"]}"']
        for number, neighbour in enumerate(setup.neighbours):
            lines += [f"[peer.p{number}]", f'address = "{neighbour.address}"', f"asn = {ASN}", "passive = true"]
            lines += ["max_prefixes = 2000000", f"reflector_client = {str(neighbour.is_client).lower()}"]
        return "\n".join(lines) + "\n"


class Bird:
    """BIRD 2. `direct` spares it the recursive lookup of next hops; it has no more protocols than it needs."""

    name = "bird"
    has_fib = True
    status: tuple[str, ...] = ("birdc", "-s", f"/run/bird-{NODE}.ctl", "show", "protocols")

    def missing(self) -> str:
        """Look for the programs."""
        return _absent("bird2", "bird", "birdc")

    def why_not(self, _: Scenario) -> str:
        """Nothing: it plays all."""
        return ""

    def version(self) -> str:
        """Ask the program."""
        return _said("bird", "--version").removeprefix("BIRD version ")

    def start(self, lab: Lab, node: str, setup: Setup) -> list[Process]:
        """Start `bird` in the foreground."""
        lab.write(node, f"/run/bird-{node}.conf", self._file(node, setup))
        recovering = ["-R"] if setup.is_restart else []
        words = ["bird", "-f", "-c", f"/run/bird-{node}.conf", "-s", f"/run/bird-{node}.ctl", *recovering]
        return [lab.start(node, words)]

    def is_in_sync(self, lab: Lab, routes: int) -> bool:
        """Ask three things of one `birdc`."""
        asked = "show protocols p0\nshow status\nshow route count protocol p0\n"
        said = lab.exec(NODE, self.status[:3], check=False, stdin=asked).stdout
        return "Established" in said and "recovery in progress" not in said and f"{routes} of {routes} routes" in said

    def _file(self, node: str, setup: Setup) -> str:
        own = next((each for each in setup.mesh if each.name == node), None)
        address = {"ipv4": own.address} if own else DUT
        lines = [
            "log stderr { warning, error, fatal, bug };",
            f"router id {address['ipv4']};",
            "protocol device { scan time 60; }",
        ]
        if setup.has_fib:
            kept = "persist; graceful restart on;" if setup.has_graceful_restart else ""
            lines += [
                f"protocol kernel kernel{version} {{ scan time 60; learn off; {kept}"
                f" ipv{version} {{ import none; export all; }}; }}"
                for version in (4, 6)
            ]
        # Waits of a second in place of five, and of one to two in place of up to 300 after an error.
        common = "direct; connect delay time 1; connect retry time 1; error wait time 1, 2;"
        if setup.hold_time:
            common += f" hold time {setup.hold_time};"
        if setup.has_graceful_restart:
            common += " graceful restart on;"
        for number, neighbour in enumerate(setup.neighbours):
            export = "all" if neighbour.is_client else "none"
            lines.append(
                f"protocol bgp p{number} {{ local {address[neighbour.family]} as {ASN};"
                f" neighbor {neighbour.address} as {ASN}; passive on; {common}"
                f" {'rr client;' if neighbour.is_client else ''}"
                + "".join(f" ipv{version} {{ import all; export {export}; }};" for version in (4, 6))
                + " }"
            )
        if own:
            lines.append(f"protocol static {{ ipv4; route {own.block} blackhole; }}")
        lines += [
            f"protocol bgp {each.name} {{ local {address['ipv4']} as {ASN}; neighbor {each.address} as {ASN}; {common}"
            " ipv4 { import all; export where source = RTS_STATIC; next hop self; }; }"
            for each in setup.mesh
            if each is not own
        ]
        return "\n".join(lines) + "\n"


class Frr:
    """FRR: bgpd and zebra, the latter with the netlink buffer that Debian gives it; no zebra where no FIB is asked for.

    It waits 10 ms in place of 1,000 for neighbours to share an update group, by default most of what it takes to
    reflect, and a second in place of 120 between two tries to connect.
    """

    name = "frr"
    has_fib = True
    status: tuple[str, ...] = ("vtysh", "-N", NODE, "-c", "show bgp summary")
    _ZEBRA, _BGPD, _MGMTD = "/usr/lib/frr/zebra", "/usr/lib/frr/bgpd", "/usr/lib/frr/mgmtd"

    def missing(self) -> str:
        """Look for the programs."""
        return _absent("frr", self._ZEBRA, self._BGPD, "vtysh")

    def why_not(self, _: Scenario) -> str:
        """Nothing: it plays all."""
        return ""

    def version(self) -> str:
        """Ask the program."""
        return _said(self._BGPD, "--version").splitlines()[0].rpartition(" ")[2]

    def start(self, lab: Lab, node: str, setup: Setup) -> list[Process]:
        """Start zebra, then bgpd, in a name space of paths of their own."""
        etc, run = f"/etc/frr/{node}", f"/run/frr/{node}"
        for name, text in (("zebra", ""), ("vtysh", ""), ("bgpd", self._file(node, setup))):
            lab.write(node, f"{etc}/{name}.conf", text)
        # The socket of a zebra that was killed would be taken for that of the next one; and they become user frr.
        prepare = f"rm -rf {run}; install -d -o frr -g frr /run/frr {run}; chown -R frr:frr {etc}"
        lab.exec(node, ["sh", "-c", prepare])
        if not setup.has_fib:
            return [self._start(lab, node, self._BGPD, "-Z")]
        kept = ["-r", "-K", "120"] if setup.has_graceful_restart else []
        # Since version 9; without it the zebra of 10 never comes to rest, it has something to tell it.
        managed = [self._start(lab, node, self._MGMTD)] if Path(self._MGMTD).exists() else []
        zebra = self._start(lab, node, self._ZEBRA, "-s", "90000000", *kept)
        # A bgpd that finds no zebra comes back ten seconds later, and knows no interface until then.
        zebra.until(Path(f"{zebra.root}{run}/zserv.api").exists, "zebra's socket")
        return [*managed, zebra, self._start(lab, node, self._BGPD)]

    def is_in_sync(self, lab: Lab, routes: int) -> bool:
        """Read from the summary that the routes are back; of its recovery it says nothing there."""
        said = lab.exec(NODE, ["vtysh", "-N", NODE, "-c", "show bgp ipv4 unicast summary json"], check=False).stdout
        try:
            peers = json.loads(said or "{}").get("peers", {}).values()
        except ValueError:
            return False
        return bool(peers) and all((peer["state"], peer["pfxRcd"]) == ("Established", routes) for peer in peers)

    def _start(self, lab: Lab, node: str, program: str, *options: str) -> Process:
        # With -f, as a /etc/frr/frr.conf on the host would otherwise keep it from reading a file of its own.
        file = () if program == self._MGMTD else ("-f", f"/etc/frr/{node}/{Path(program).name}.conf")
        return lab.start(node, [program, "-N", node, *file, "-A", "127.0.0.1", "--log", "stdout", *options])

    def _file(self, node: str, setup: Setup) -> str:
        own = next((each for each in setup.mesh if each.name == node), None)
        others = tuple(Neighbour(each.address) for each in setup.mesh if each is not own)
        lines = [
            f"router bgp {ASN}",
            f"bgp router-id {own.address if own else DUT['ipv4']}",
            "coalesce-time 10",
            "no bgp network import-check",
            "no bgp default ipv4-unicast",
        ]
        if setup.hold_time:
            lines.append(f"timers bgp {max(setup.hold_time // 3, 1)} {setup.hold_time}")
        if setup.has_graceful_restart:
            lines += ["bgp graceful-restart", "bgp graceful-restart preserve-fw-state"]
        for each in (*setup.neighbours, *others):
            lines += [f"neighbor {each.address} remote-as {ASN}", f"neighbor {each.address} timers connect 1"]
        lines += [f"neighbor {each.address} passive" for each in setup.neighbours]
        for family in ("ipv4", "ipv6"):
            lines.append(f"address-family {family} unicast")
            lines += [f"network {own.block}"] if own and family == "ipv4" else []
            for each in (*setup.neighbours, *others):
                if each.family == family:
                    words = ["activate", *(["route-reflector-client"] if each.is_client else [])]
                    lines += [f"neighbor {each.address} {word}" for word in words]
            lines.append("exit-address-family")
        return "\n".join(lines) + "\n"


class GoBgp:
    """GoBGP. It has no way to the kernel without FRR's zebra, so it plays only where none is asked for."""

    name = "gobgp"
    has_fib = False
    _MOST_CLIENTS = 10
    status: tuple[str, ...] = ("gobgp", "neighbor")

    def missing(self) -> str:
        """Look for the programs."""
        return _absent("gobgpd", "gobgpd", "gobgp")

    def why_not(self, scenario: Scenario) -> str:
        """Name what it lacks, or lacks the speed for."""
        if scenario.needs_fib:
            return "it has no FIB of its own without zebra"
        if scenario.clients > self._MOST_CLIENTS:
            return f"it sends a prefix an UPDATE, and takes minutes for more than {self._MOST_CLIENTS} clients"
        return ""

    def version(self) -> str:
        """Ask the program."""
        return _said("gobgpd", "--version").removeprefix("gobgpd version ")

    def start(self, lab: Lab, node: str, setup: Setup) -> list[Process]:
        """Start `gobgpd`."""
        path = f"/run/gobgp-{node}.toml"
        lab.write(node, path, self._file(setup))
        return [lab.start(node, ["gobgpd", "-f", path, "--api-hosts=127.0.0.1:50051", "--pprof-disable"])]

    def is_in_sync(self, lab: Lab, routes: int) -> bool:
        """Read it from the summary of its table."""
        said = lab.exec(NODE, ["gobgp", "global", "rib", "summary"], check=False).stdout
        return f"Destination: {routes}," in said

    def _file(self, setup: Setup) -> str:
        lines = ["[global.config]", f"as = {ASN}", f'router-id = "{DUT["ipv4"]}"']
        for each in setup.neighbours:
            lines += ["[[neighbors]]", "[neighbors.config]", f'neighbor-address = "{each.address}"', f"peer-as = {ASN}"]
            lines += ["[neighbors.transport.config]", "passive-mode = true"]
            if each.is_client:
                lines += ["[neighbors.route-reflector.config]", "route-reflector-client = true"]
                lines += [f'route-reflector-cluster-id = "{DUT["ipv4"]}"']
            lines += ["[[neighbors.afi-safis]]", "[neighbors.afi-safis.config]"]
            lines += [f'afi-safi-name = "{each.family}-unicast"']
        return "\n".join(lines) + "\n"


def is_listening(process: Process, port: int = 179) -> bool:
    """Tell whether anybody in the network namespace of a process listens on a TCP port."""
    wanted = re.compile(rf"^ *\d+: [0-9A-F]+:{port:04X} \S+ 0A ", re.MULTILINE)
    tables = (Path(f"/proc/{process.pid}/net/{name}") for name in ("tcp", "tcp6"))
    return process.is_running and any(wanted.search(table.read_text("ascii")) for table in tables)


def until_listening(processes: list[Process]) -> None:
    """Wait until a daemon takes calls."""
    last = processes[-1]
    until(lambda: is_listening(last) or not last.is_running, f"{last.command[0]} to listen", every_s=0.002)


def _absent(package: str, *programs: str) -> str:
    absent = [program for program in programs if shutil.which(program) is None]
    return f"{', '.join(absent)} not found (Debian: {package})" if absent else ""


def _said(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).strip()


DAEMONS: tuple[Daemon, ...] = (Bgpmesh(), Bird(), Frr(), GoBgp())
