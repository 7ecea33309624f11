"""The neighbours that bgpmesh has to get on with, each behind the same small door.

A speaker is told once who it is and whom it talks to (`Setup`); it can be started, killed and started again, and keeps
what it announces over that, as a router keeps its configuration. Everything that is particular to an
implementation (file formats, sockets, privileges, the words of its commands) stays in its class.

All of them run as root inside a lab: BIRD, FRR and OpenBGPD want to change their user, which a rootless
lab's single user does not allow.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Protocol

import pytest
from _pytest.mark import ParameterSet

from containerlab.lab import Lab, Process, missing, until


@dataclass(frozen=True, slots=True)
class Filter:
    """What a flow specification asks for: to an address, UDP, perhaps to one port, so many octets a second (0: none).

    Without `is_udp` it is about everything that goes there.
    """

    destination: str
    port: int | None = None
    rate: int = 0
    is_udp: bool = True

    @property
    def family(self) -> str:
        """The family that it is announced in."""
        return "ipv6" if ":" in self.destination else "ipv4"


@dataclass(frozen=True, slots=True)
class Setup:
    """One session that carries both families, over that of `neighbor`."""

    asn: int
    address: str  # router id too
    address6: str  # next hop of IPv6 routes
    neighbor: str
    neighbor_asn: int
    password: str = ""
    is_passive: bool = False
    graceful_restart: int = 120  # seconds; 0: the capability is not offered
    helps_only: bool = False  # it keeps the routes of a neighbour that restarts, and claims nothing for itself
    long_lived: int = 0  # seconds beyond that (RFC 9494); 0: not offered; BIRD and FRR only
    survives_notification: bool = False  # it offers the N bit (RFC 8538); FRR only, GoBGP always does
    bfd_ms: int = 0  # milliseconds between BFD packets; 0: no BFD
    bfd_multiplier: int = 3  # how many of them may be missed
    announce: tuple[str, ...] = ()
    has_flowspec: bool = False  # it offers FlowSpec, both families
    mark: str = ""  # a community on all of it; BIRD and FRR only
    ipv6_next_hops: bool = False  # IPv4 prefixes have its IPv6 address as next hop (RFC 8950); BIRD and FRR only
    marks_count: int = 0  # so many communities on all of it, 64512:0 and so on; BIRD and FRR only
    is_extended: bool = False  # BIRD: it takes messages of up to 65,535 octets, as FRR does unasked
    has_ttl_security: bool = False  # its packets say 255, and others it does not take (RFC 5082)
    # FRR, GoBGP: `neighbor` is the link at whose other end it is. BIRD: it says on eth1 that it is a router.
    is_unnumbered: bool = False
    role: str = ""  # its own (RFC 9234); BIRD and FRR only
    client: str = ""  # iBGP: reflect to it, and take and send several paths (RFC 7911)

    @property
    def local(self) -> str:
        """The own end of the session."""
        return self.address6 if ":" in self.neighbor else self.address

    @property
    def local_on_link(self) -> str:
        """The same with its link, where it has one."""
        return self.local + "".join(self.neighbor.partition("%")[1:])


@dataclass(frozen=True, slots=True)
class Heard:
    """What a speaker has of a prefix from its neighbour; BIRD and FRR only."""

    as_path: str
    next_hop: str
    med: int | None
    local_pref: int | None
    communities: tuple[str, ...]
    large_communities: tuple[str, ...]
    ext_communities: tuple[str, ...]


class Speaker(Protocol):
    """What a test can ask of any of them."""

    name: str
    has_md5: bool  # TCP MD5 works as Debian ships it
    keeps_forwarding: bool  # its restart capability promises that its forwarding state survives (RFC 4724 F bit)
    asks_refresh: bool  # it sends ROUTE-REFRESH when told to forget and learn again
    setup: Setup
    prefixes: list[str]  # what it announces, over its restarts too

    def __init__(self, lab: Lab, node: str, setup: Setup) -> None:
        """Take note of the setup; nothing runs yet."""

    def start(self) -> None:
        """Start it and wait until it takes commands."""

    def is_established(self) -> bool:
        """Tell whether its session is Established."""

    def is_settled(self) -> bool:
        """Tell whether a session that begins now would be an ordinary one to it."""

    def received(self) -> set[str]:
        """Return the prefixes of both families that it has from its neighbour; FRR names none while that is away."""

    def held(self) -> set[str]:
        """Return the same, also while the neighbour is away."""

    def announce(self, prefix: str) -> None:
        """Announce one more prefix."""

    def withdraw(self, prefix: str) -> None:
        """Withdraw a prefix."""

    def refresh(self) -> None:
        """Ask the neighbour for its routes again (RFC 2918), both families."""

    def kill(self) -> None:
        """End it as a crash would."""

    def stop(self) -> None:
        """End it in order."""


def _families(prefixes: list[str]) -> tuple[list[str], list[str]]:
    """Return the IPv4 and the IPv6 prefixes."""
    return [p for p in prefixes if ":" not in p], [p for p in prefixes if ":" in p]


def link_local_of(lab: Lab, node: str) -> str:
    """Return the address that the kernel has made for a node's end of the link."""
    told = lab.exec(node, ["ip", "-6", "-br", "address", "show", "dev", "eth1", "scope", "link"]).stdout
    (address,) = told.split()[2:]
    return address.partition("/")[0]


def _texts_at(value: object, key: str) -> Iterator[str]:
    """Yield every text under `key`, anywhere in a JSON document."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == key and isinstance(item, str):
                yield item
            else:
                yield from _texts_at(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_at(item, key)


class Bird:
    """BIRD 2: one file, read again on every change; commands through its control socket."""

    name = "bird"
    has_md5 = True
    keeps_forwarding = True
    asks_refresh = True
    programs = ("bird", "birdc")

    def __init__(self, lab: Lab, node: str, setup: Setup) -> None:
        self.lab, self.node, self.setup = lab, node, setup
        self.prefixes = list(setup.announce)
        self.filters: list[Filter] = []
        self._process: Process | None = None
        self._folder = f"/run/bird-{node}"

    def start(self) -> None:
        """Start `bird`; after a first life with -R, which is how it knows of its restart."""
        self._write()
        restarted = ["-R"] if self._process else []
        self._process = self.lab.start(
            self.node, ["bird", "-f", "-c", f"{self._folder}/bird.conf", "-s", f"{self._folder}/ctl", *restarted]
        )
        self._process.until(lambda: "up and running" in self._ask("show status"), "BIRD to answer")

    def is_established(self) -> bool:
        """Read it from `show protocols`."""
        return "Established" in self._ask("show protocols session1")

    def is_settled(self) -> bool:
        """Say yes: it always is."""
        return True

    def received(self) -> set[str]:
        """Return what the import tables hold, whether the next hop resolves or not."""
        lines = self._ask("show route protocol session1").splitlines()
        return {line.split()[0] for line in lines if line[:1].isalnum() and "/" in line.split()[0]}

    def table(self) -> str:
        """Return what it has from its neighbour as it writes it: with the time at which each route came."""
        return self._ask("show route protocol session1")

    def heard(self, prefix: str) -> Heard | None:
        """Read it from `show route all`."""
        lines = self._ask(f"show route {prefix} protocol session1 all").splitlines()
        said = {k: v.strip() for k, _, v in (line.strip().partition(":") for line in lines if "BGP." in line)}
        if "BGP.as_path" not in said:
            return None
        return Heard(
            said["BGP.as_path"],
            said["BGP.next_hop"].split()[0],
            int(said["BGP.med"]) if "BGP.med" in said else None,
            int(said["BGP.local_pref"]) if "BGP.local_pref" in said else None,
            *(
                tuple(
                    sorted(
                        re.sub(r"[() ]", "", each).replace(",", ":")
                        for each in re.findall(r"\([^)]+\)", said.get(key, ""))
                    )
                )
                for key in ("BGP.community", "BGP.large_community", "BGP.ext_community")
            ),
        )

    def only_to_customer(self, prefix: str) -> int | None:
        """Read it from `show route all` (RFC 9234)."""
        found = re.search(r"BGP\.(?:otc|23)[^:]*: *(\S+)", self._ask(f"show route {prefix} protocol session1 all"))
        return int(found[1]) if found else None

    def next_hops(self, prefix: str) -> set[str]:
        """Return the next hops of all paths that the neighbour has sent of a prefix."""
        lines = self._ask(f"show route {prefix} protocol session1 all").splitlines()
        return {line.split()[1] for line in lines if line.strip().startswith("BGP.next_hop:")}

    def held(self) -> set[str]:
        """Return the same, also while the neighbour is away."""
        return self.received()

    def bfd(self) -> str:
        """Return how its BFD sees the neighbour, as it writes it; "" without a session."""
        rows = [line.split() for line in self._ask("show bfd sessions").splitlines()]
        return next((row[2] for row in rows if row[:1] == [self.setup.neighbor]), "")

    def bfd_since(self) -> str:
        """Return since when, by its clock: what tells one life of the session from the next."""
        rows = [line.split() for line in self._ask("show bfd sessions").splitlines()]
        return next((row[3] for row in rows if row[:1] == [self.setup.neighbor]), "")

    def announce(self, prefix: str) -> None:
        """Add a static route and read the file again."""
        self.prefixes.append(prefix)
        self._configure()

    def withdraw(self, prefix: str) -> None:
        """Take the static route out and read the file again."""
        self.prefixes.remove(prefix)
        self._configure()

    def ask_for(self, *filters: Filter) -> None:
        """Announce these flows and no others, and read the file again."""
        self.filters = list(filters)
        self._configure()

    def refresh(self) -> None:
        """`reload in` asks with ROUTE-REFRESH, as no import table is kept."""
        self._ask("reload in session1")

    def shut(self, text: str) -> None:
        """End the session with these words (RFC 9003)."""
        self._ask(f'disable session1 "{text}"')

    def end(self) -> str:
        """Return how the session has ended, as it writes it."""
        return self._ask("show protocols all session1")

    def send_again(self) -> None:
        """Send everything again, unasked, between BoRR and EoRR."""
        self._ask("reload out session1")

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM."""
        assert self._process
        self._process.stop(SIGTERM)

    def _ask(self, command: str) -> str:
        socket = ["birdc", "-s", f"{self._folder}/ctl", *command.split()]
        return self.lab.exec(self.node, socket, check=False).stdout

    def _configure(self) -> None:
        self._write()
        answer = self._ask("configure")
        assert "Reconfigur" in answer, answer

    def _write(self) -> None:
        own, (ipv4, ipv6) = self.setup, _families(self.prefixes)
        static = "".join(
            f"protocol static static{version} {{ ipv{version}; "
            + "".join(f"route {prefix} unreachable; " for prefix in prefixes)
            + "}\n"
            for version, prefixes in ((4, ipv4), (6, ipv6))
        )
        mark = f"bgp_community.add(({own.mark.replace(':', ',')}));" if own.mark else ""
        mark += "".join(f"bgp_community.add((64512,{number}));" for number in range(own.marks_count))
        export = f"import all; export filter {{ if source != RTS_STATIC then reject; {mark} accept; }};"
        mode = "aware" if own.helps_only else "on"
        restart = f"graceful restart {mode}; graceful restart time {own.graceful_restart};"
        if own.long_lived:
            restart += f" long lived graceful restart {mode}; long lived stale time {own.long_lived};"
        timing = f"{{ interval {own.bfd_ms} ms; multiplier {own.bfd_multiplier}; }}"
        bfd = f'protocol bfd bfd1 {{ interface "*" {timing}; multihop {timing}; }}' if own.bfd_ms else ""
        paths = "add paths on;" if own.client else ""
        channels = " ".join(f"ipv{version} {{ import all; export all; add paths on; }};" for version in (4, 6))
        ends = f"local {own.local} as {own.asn}; neighbor {own.client} as {own.asn};"
        client = f"protocol bgp session2 {{ {ends} rr client; {channels} }}" if own.client else ""
        text = f"""
router id {own.address};
graceful restart wait 20;
protocol device {{ scan time 5; }}
{'protocol radv { interface "eth1" { max ra interval 4; default lifetime 0; }; }' if own.is_unnumbered else ""}
{bfd}
protocol direct {{ ipv4; ipv6; }}
{static}
{self._flows()}
protocol bgp session1 {{
  local {own.local} as {own.asn};
  neighbor {own.neighbor} as {own.neighbor_asn};
  {"bfd on;" if own.bfd_ms else ""}
  {"ttl security on;" if own.has_ttl_security else ""}
  {f"local role {own.role.replace('-', '_')};" if own.role else ""}
  {"passive on;" if own.is_passive else ""}
  {"direct;" if "%" in own.neighbor else ""}
  {f'password "{own.password}";' if own.password else ""}
  hold time 9; connect retry time 2; connect delay time 1; error wait time 1, 4;
  {"enable extended messages on;" if own.is_extended else ""}
  {restart if own.graceful_restart else "graceful restart off;"}
  ipv4 {{ {export} next hop address {own.address6 if own.ipv6_next_hops else own.address};
    {"extended next hop on;" if own.ipv6_next_hops else ""} {paths} }};
  ipv6 {{ {export} next hop address {own.address6}; {paths} }};
  {f"flow4 {{ table filters4; {export} }}; flow6 {{ table filters6; {export} }};" if own.has_flowspec else ""}
}}
{client}
"""
        self.lab.write(self.node, f"{self._folder}/bird.conf", text)

    def _flows(self) -> str:
        """Return tables and static routes of flow specifications; traffic-rate-bytes is a float (RFC 8955 §7.1)."""
        if not self.setup.has_flowspec:
            return ""
        routes: dict[str, list[str]] = {"ipv4": [], "ipv6": []}
        for each in self.filters:
            port = "" if each.port is None else f" dport = {each.port};"
            rate = int.from_bytes(struct.pack("!f", each.rate), "big")
            protocol = "proto" if each.family == "ipv4" else "next header"
            match = f"dst {each.destination};" + (f" {protocol} = 17;{port}" if each.is_udp else "")
            action = f"bgp_ext_community.add((generic, 0x80060000, {rate:#x}));"
            routes[each.family].append(f"route flow{each.family[-1]} {{ {match} }} {{ {action} }};")
        return "".join(
            f"flow{version} table filters{version};\n"
            f"protocol static flows{version} {{ flow{version} {{ table filters{version}; }};\n"
            + "\n".join(routes[f"ipv{version}"])
            + "}\n"
            for version in (4, 6)
        )


class Frr:
    """FRR: zebra and bgpd with a name space of paths of their own; commands through vtysh."""

    name = "frr"
    has_md5 = True
    keeps_forwarding = True
    asks_refresh = True
    programs = ("/usr/lib/frr/zebra", "/usr/lib/frr/bgpd", "vtysh")

    def __init__(self, lab: Lab, node: str, setup: Setup) -> None:
        self.lab, self.node, self.setup = lab, node, setup
        self.prefixes = list(setup.announce)
        self._space = f"lab-{node}"  # files below /etc/frr and /run/frr
        self._processes: list[Process] = []

    def start(self) -> None:
        """Start zebra, then bgpd; what is announced stands in bgpd's file."""
        etc, run = f"/etc/frr/{self._space}", f"/run/frr/{self._space}"
        self.lab.write(self.node, f"{etc}/zebra.conf", "")
        self.lab.write(self.node, f"{etc}/vtysh.conf", "")
        self.lab.write(self.node, f"{etc}/bgpd.conf", self._file())
        # The socket of a zebra that was killed would be taken for that of the next one.
        self.lab.exec(self.node, ["rm", "-rf", run])
        # They become user frr, who has to reach, read and write both folders.
        self.lab.exec(self.node, ["install", "-d", "-o", "frr", "-g", "frr", "/run/frr", run])
        self.lab.exec(self.node, ["chown", "-R", "frr:frr", etc])
        zebra = self._start("zebra")
        # A bgpd that finds no zebra comes back ten seconds later, and knows no interface until then.
        zebra.until(
            lambda: self.lab.exec(self.node, ["test", "-S", f"{run}/zserv.api"], check=False).returncode == 0, "zebra"
        )
        bfdd = []
        if self.setup.bfd_ms:
            profile = f"transmit-interval {self.setup.bfd_ms}\n  receive-interval {self.setup.bfd_ms}"
            profile += f"\n  detect-multiplier {self.setup.bfd_multiplier}"
            self.lab.write(self.node, f"{etc}/bfdd.conf", f"bfd\n profile lab\n  {profile}\n")
            bfdd = [self._start("bfdd")]
            bfdd[0].until(lambda: "lab" in self._ask("show running-config bfdd"), "bfdd")
        bgpd = self._start("bgpd", "-A", "127.0.0.1", *(() if self.setup.is_unnumbered else ("-l", self.setup.local)))
        self._processes = [zebra, *bfdd, bgpd]
        bgpd.until(lambda: f"local AS {self.setup.asn}" in self._ask("show bgp neighbors"), "FRR to answer")
        # Its session waits (shutdown) until it has selected its own routes: a session that comes before may be sent
        # an End-of-RIB first, and the routes when the selection that it then defers is over, minutes later.
        tables = "show bgp ipv4 unicast", "show bgp ipv6 unicast"
        bgpd.until(lambda: set(self.prefixes) <= self._best(*tables), "FRR's own routes")
        self._ask("configure terminal", f"router bgp {self.setup.asn}", f"no neighbor {self.setup.neighbor} shutdown")

    def is_established(self) -> bool:
        """Read it from `show bgp neighbors`."""
        return "BGP state = Established" in self._ask("show bgp neighbors")

    def is_settled(self) -> bool:
        """Say yes: it always is."""
        return True

    def received(self) -> set[str]:
        """Return what both tables have from the neighbour."""
        return {
            prefix
            for family in ("ipv4", "ipv6")
            for prefix in self._routes(f"show bgp {family} unicast neighbors {self.setup.neighbor} routes json")
        }

    def heard(self, prefix: str) -> Heard | None:
        """Read it from `show bgp PREFIX json`."""
        family = "ipv6" if ":" in prefix else "ipv4"
        document = json.loads(self._ask(f"show bgp {family} unicast {prefix} json") or "{}")
        for path in document.get("paths", []):
            if path.get("peer", {}).get("peerId") == self.setup.neighbor:
                return Heard(
                    path["aspath"]["string"].replace("Local", ""),
                    path["nexthops"][0]["ip"],
                    path.get("metric", path.get("med")),
                    path.get("locPrf"),
                    *(
                        tuple(sorted(path.get(key, {}).get("string", "").split()))
                        for key in ("community", "largeCommunity", "extendedCommunity")
                    ),
                )
        return None

    def only_to_customer(self, prefix: str) -> int | None:
        """Read it from `show bgp PREFIX` (RFC 9234)."""
        family = "ipv6" if ":" in prefix else "ipv4"
        found = re.search(r"otc (\d+)", self._ask(f"show bgp {family} unicast {prefix}"))
        return int(found[1]) if found else None

    def next_hops(self, prefix: str) -> set[str]:
        """Return the next hops of all paths that the neighbour has sent of a prefix, without link-local ones."""
        family = "ipv6" if ":" in prefix else "ipv4"
        document = json.loads(self._ask(f"show bgp {family} unicast {prefix} json") or "{}")
        return {
            hop["ip"]
            for path in document.get("paths", [])
            if path.get("peer", {}).get("peerId") == self.setup.neighbor
            for hop in path["nexthops"]
            if not hop["ip"].startswith("fe80:")
        }

    def held(self) -> set[str]:
        """Return what both tables have of the neighbour, also while it is away."""
        tables = [json.loads(self._ask(f"show bgp {family} unicast json") or "{}") for family in ("ipv4", "ipv6")]
        return {
            str(prefix)
            for table in tables
            for prefix, paths in table.get("routes", {}).items()
            if any(path.get("peerId") == self.setup.neighbor for path in paths)
        }

    def bfd(self) -> str:
        """Return how its BFD sees the neighbour, as it writes it; "" without a session."""
        return next((str(row["status"]) for row in self._bfd("")), "")

    def bfd_since(self) -> str:
        """Return how often the session went up and down: what tells one life of it from the next."""
        return next((f"{row['session-up']} {row['session-down']}" for row in self._bfd(" counters")), "")

    def configure(self, *commands: str) -> None:
        """Give commands of its configuration mode."""
        answer = self._ask("configure terminal", *commands)
        assert not answer.strip(), answer

    def reset(self) -> None:
        """End the session as an operator does who wants it to begin anew."""
        self._ask(f"clear bgp {self.setup.neighbor}")

    def freeze(self) -> None:
        """Stop bgpd's clock: it says nothing and hears nothing."""
        self._processes[-1].send_signal(SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._processes[-1].entry.pid, SIGCONT)  # its nsenter stopped along with it, and passes this on

    def send_again(self) -> None:
        """Send everything again, unasked."""
        self._ask("clear bgp * soft out")

    def _bfd(self, what: str) -> list[dict[str, object]]:
        rows = json.loads(self._ask(f"show bfd peers{what} json") or "[]")
        return [row for row in rows if row.get("peer") == self.setup.neighbor]

    def announce(self, prefix: str) -> None:
        """Add a `network` statement."""
        self.prefixes.append(prefix)
        self._network(prefix, "network")

    def withdraw(self, prefix: str) -> None:
        """Take the `network` statement out."""
        self.prefixes.remove(prefix)
        self._network(prefix, "no network")

    def refresh(self) -> None:
        """`clear ... in` asks with ROUTE-REFRESH, as no received routes are stored."""
        for family in ("ipv4", "ipv6"):
            self._ask(f"clear bgp {family} unicast {self.setup.neighbor} in")

    def shut(self, text: str) -> None:
        """End the session with these words (RFC 9003)."""
        self.configure(f"router bgp {self.setup.asn}", f"neighbor {self.setup.neighbor} shutdown message {text}")

    def end(self) -> str:
        """Return how the session has ended, as it writes it."""
        return self._ask("show bgp neighbors")

    def kill(self) -> None:
        """SIGKILL to both."""
        for process in reversed(self._processes):
            process.stop(SIGKILL)

    def stop(self) -> None:
        """SIGTERM, bgpd first."""
        for process in reversed(self._processes):
            process.stop(SIGTERM)

    def _ask(self, *commands: str) -> str:
        words = [word for command in commands for word in ("-c", command)]
        return self.lab.exec(self.node, ["vtysh", "-N", self._space, *words], check=False).stdout

    def _best(self, *tables: str) -> set[str]:
        # How many spaces stand round the mark depends on the release.
        return set(re.findall(r"^ ?\*> +(\S+)", self._ask(*tables), re.MULTILINE))

    def _start(self, name: str, *options: str) -> Process:
        # With -f, as a /etc/frr/frr.conf on the host would otherwise keep it from reading a file of its own.
        words = ["-N", self._space, "-f", f"/etc/frr/{self._space}/{name}.conf", "--log", "stdout", *options]
        return self.lab.start(self.node, [f"/usr/lib/frr/{name}", *words])

    def _routes(self, command: str) -> set[str]:
        document = json.loads(self._ask(command) or "{}")
        return {str(prefix) for prefix in document.get("routes", {})}

    def _network(self, prefix: str, word: str) -> None:
        family = "ipv6" if ":" in prefix else "ipv4"
        answer = self._ask(
            "configure terminal", f"router bgp {self.setup.asn}", f"address-family {family} unicast", f"{word} {prefix}"
        )
        assert not answer.strip(), answer

    def _file(self) -> str:
        own = self.setup
        networks = ["".join(f"  network {prefix}\n" for prefix in prefixes) for prefixes in _families(self.prefixes)]
        if not own.graceful_restart:
            restart = " bgp graceful-restart-disable"
        elif own.helps_only:
            # Helping is what it does unasked. It calls itself restarting for two minutes after any start, though, and
            # for such a peer nobody waits long: so it must not sit on its first UPDATE for the second that is usual.
            restart = " coalesce-time 10"
        else:
            restart = (
                f" bgp graceful-restart restart-time {own.graceful_restart}\n"
                " bgp graceful-restart preserve-fw-state\n"
                " bgp graceful-restart"
            )
        if own.long_lived:
            restart += f"\n bgp long-lived-graceful-restart stale-time {own.long_lived}"
        if own.survives_notification:
            restart += "\n bgp graceful-restart notification"
        of_client = ("activate", "route-reflector-client", "addpath-tx-all-paths") if own.client else ()
        reflecting = "".join(f"  neighbor {own.client} {word}\n" for word in of_client)
        has_marks = own.mark or own.marks_count
        marked = f"  neighbor {own.neighbor} route-map MARK out\n" if has_marks else ""
        # A line of a file is cut after some 4,000 characters, so it takes several to add many.
        marks = [
            f"route-map MARK permit {10 + at}\n on-match next\n set community "
            + " ".join(f"64512:{number}" for number in range(at, min(at + 250, own.marks_count)))
            + " additive\n"
            for at in range(0, own.marks_count, 250)
        ]
        return f"""
router bgp {own.asn}
 bgp router-id {own.address}
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
{restart}
 timers bgp 3 9
 neighbor {own.neighbor} {"interface " if own.is_unnumbered else ""}remote-as {own.neighbor_asn}
 neighbor {own.neighbor} timers connect 2
 {f"neighbor {own.neighbor} password {own.password}" if own.password else ""}
 {f"neighbor {own.neighbor} bfd profile lab" if own.bfd_ms else ""}
 {f"neighbor {own.neighbor} passive" if own.is_passive else ""}
 {f"neighbor {own.neighbor} ttl-security hops 1" if own.has_ttl_security else ""}
 {f"neighbor {own.neighbor} capability extended-nexthop" if own.ipv6_next_hops else ""}
 {f"neighbor {own.neighbor} local-role {own.role}" if own.role else ""}
 {f"neighbor {own.client} remote-as {own.asn}" if own.client else ""}
 address-family ipv4 unicast
  neighbor {own.neighbor} activate
{reflecting}{marked}{networks[0]} exit-address-family
 address-family ipv6 unicast
  neighbor {own.neighbor} activate
{reflecting}{marked}{networks[1]} exit-address-family
{"".join(marks)}route-map MARK permit 65000
 {f"set community {own.mark}" if own.mark else ""}
"""


class GoBgp:
    """GoBGP: a file for the session, its API for the routes."""

    name = "gobgp"
    has_md5 = True
    keeps_forwarding = True
    asks_refresh = False  # it keeps what it was told, and reads that again
    programs = ("gobgpd", "gobgp")

    def __init__(self, lab: Lab, node: str, setup: Setup) -> None:
        self.lab, self.node, self.setup = lab, node, setup
        self.prefixes = list(setup.announce)
        self.filters: list[Filter] = []
        self._process: Process | None = None

    def start(self) -> None:
        """Start gobgpd, give it its routes, and only then let it talk: else its End-of-RIB comes before them."""
        path = f"/run/gobgp-{self.node}.toml"
        self.lab.write(self.node, path, self._file())
        restarted = ["-r"] if self._process and self.setup.graceful_restart else []
        if self.setup.is_unnumbered:  # it looks once who is there, and ends where the kernel has not heard of anybody
            listing = ["ip", "-6", "neighbor", "show", "dev", self.setup.neighbor]
            until(lambda: "fe80:" in self.lab.exec(self.node, listing).stdout, "the kernel to know who is on the link")
        self._process = self.lab.start(
            self.node, ["gobgpd", "-f", path, "-p", "--api-hosts=127.0.0.1:50051", "--pprof-disable", *restarted]
        )
        self._process.until(lambda: self.setup.neighbor in self._ask("neighbor"), "GoBGP to answer")
        for prefix in self.prefixes:
            self._route("add", prefix)
        for each in self.filters:
            self._filter("add", each)
        self._do("neighbor", self.setup.neighbor, "enable")

    def is_established(self) -> bool:
        """Read it from `neighbor`."""
        return "BGP state = ESTABLISHED" in self._ask("neighbor", self.setup.neighbor)

    def is_settled(self) -> bool:
        """Tell whether it is past the five seconds after a loss, in which it closes whatever it accepts."""
        return "BGP state = IDLE" not in self._ask("neighbor", self.setup.neighbor)

    def received(self) -> set[str]:
        """Return what the tables of both families have from the neighbour, stale or not."""
        return {
            prefix
            for family in ("ipv4", "ipv6")
            for prefix, paths in self._table(family).items()
            if any(self._is_theirs(path) for path in paths)
        }

    def _is_theirs(self, path: Mapping[str, object]) -> bool:
        """Tell whether the neighbour has said this, on a link whoever is there."""
        said_by = str(path.get("neighbor-ip"))
        return said_by.startswith("fe80:") if self.setup.is_unnumbered else said_by == self.setup.neighbor

    def held(self) -> set[str]:
        """Return the same, also while the neighbour is away."""
        return self.received()

    def next_hops(self, prefix: str) -> set[str]:
        """Return the next hops of all paths of a prefix in the table."""
        paths = self._table("ipv6" if ":" in prefix else "ipv4").get(prefix, [])
        return {hop for path in paths for hop in _texts_at(path, "nexthop")}

    def announce(self, prefix: str) -> None:
        """Add it through the API."""
        self.prefixes.append(prefix)
        self._route("add", prefix)

    def withdraw(self, prefix: str) -> None:
        """Delete it through the API."""
        self.prefixes.remove(prefix)
        self._route("del", prefix)

    def ask_for(self, *filters: Filter) -> None:
        """Announce these flows and no others."""
        for each in self.filters:
            self._filter("del", each)
        for each in filters:
            self._filter("add", each)
        self.filters = list(filters)

    def refresh(self) -> None:
        """`softresetin` only reads again what it has stored."""
        self._do("neighbor", self.setup.neighbor, "softresetin")

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM."""
        assert self._process
        self._process.stop(SIGTERM)

    def _ask(self, *words: str) -> str:
        done = self.lab.exec(self.node, ["gobgp", *words], check=False)
        return done.stdout + done.stderr

    def _do(self, *words: str) -> str:
        """Have something done; a daemon that gets no turn for a second has not heard of it, and is told again."""
        answers: list[str] = []

        def is_heard() -> bool:
            answers.append(self._ask(*words))
            return "context deadline exceeded" not in answers[-1]

        until(is_heard, "GoBGP to hear")
        return answers[-1]

    def _table(self, family: str) -> dict[str, list[dict[str, object]]]:
        answer = self._ask("global", "rib", "-a", family, "-j")
        document = json.loads(answer) if answer.startswith("{") else {}
        return document if isinstance(document, dict) else {}

    def _route(self, action: str, prefix: str) -> None:
        family, next_hop = ("ipv6", self.setup.address6) if ":" in prefix else ("ipv4", self.setup.address)
        if self.setup.is_unnumbered:  # what 3.36 puts in by itself is ::
            next_hop = link_local_of(self.lab, self.node)
        hop = ["nexthop", next_hop] if action == "add" else []
        answer = self._do("global", "rib", action, prefix, *hop, "-a", family)
        assert not answer.strip(), answer

    def _filter(self, action: str, each: Filter) -> None:
        port = [] if each.port is None else ["destination-port", f"=={each.port}"]
        match = ["match", "destination", each.destination, *(["protocol", "udp"] if each.is_udp else []), *port]
        then = ["then", *(["rate-limit", str(each.rate)] if each.rate else ["discard"])]
        answer = self._do("global", "rib", "-a", f"{each.family}-flowspec", action, *match, *then)
        assert not answer.strip(), answer

    def _file(self) -> str:
        own = self.setup
        restart = ""
        if own.graceful_restart:
            restart = f"""
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = {own.graceful_restart}
    deferral-time = 20
    notification-enabled = true
    helper-only = {"true" if own.helps_only else "false"}
"""
        of_family = "\n    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true"
        kinds = ("unicast", "flowspec") if own.has_flowspec else ("unicast",)
        paths = (
            "\n    [neighbors.afi-safis.add-paths.config]\n      receive = true\n      send-max = 8"
            if own.client
            else ""
        )
        families = "".join(
            f"""
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "{name}"{of_family if restart else ""}{paths}
"""
            for name in (f"{version}-{kind}" for kind in kinds for version in ("ipv4", "ipv6"))
        )
        ends = "".join(
            self._session(neighbor, restart + families) for neighbor in (own.neighbor, own.client) if neighbor
        )
        return f"""
[global.config]
  as = {own.asn}
  router-id = "{own.address}"
  port = 179
  local-address-list = ["{"::" if own.is_unnumbered else own.address}"]
{ends}
"""

    def _session(self, neighbor: str, options: str) -> str:
        """Return the lines of a session; all but that with the client wait until they are enabled."""
        own = self.setup
        return f"""
[[neighbors]]
  [neighbors.config]
    neighbor-{"interface" if own.is_unnumbered else "address"} = "{neighbor}"
    peer-as = {own.neighbor_asn}
    admin-down = {"true" if neighbor == own.neighbor else "false"}
    {f'auth-password = "{own.password}"' if own.password else ""}
  [neighbors.transport.config]
    {"" if own.is_unnumbered else f'local-address = "{own.address}"'}
    passive-mode = {"true" if own.is_passive else "false"}
  [neighbors.timers.config]
    connect-retry = 2
    idle-hold-time-after-reset = 2
    hold-time = 9
    keepalive-interval = 3
  [neighbors.ttl-security.config]
    enabled = {"true" if own.has_ttl_security else "false"}
    ttl-min = 255
  [neighbors.route-reflector.config]
    route-reflector-client = {"true" if neighbor == own.client else "false"}
{options}
"""


class OpenBgpd:
    """OpenBGPD: one file to start with, its control socket for the routes."""

    name = "openbgpd"
    has_md5 = False  # the portable version is built without it on Linux
    keeps_forwarding = False  # it announces the capability for End-of-RIB, with no family kept
    asks_refresh = True
    programs = ("/usr/sbin/bgpd", "bgpctl")

    def __init__(self, lab: Lab, node: str, setup: Setup) -> None:
        self.lab, self.node, self.setup = lab, node, setup
        self.prefixes = list(setup.announce)
        self._process: Process | None = None
        self._folder = f"/run/openbgpd-{node}"

    def start(self) -> None:
        """Start bgpd in the foreground; its children live in an empty folder that must exist."""
        self.lab.exec(self.node, ["install", "-d", "-m", "755", "/run/openbgpd", self._folder])
        # On Linux it finds its IPv6 next hop for an IPv4 session on lo, and takes ::1 where nothing better is there.
        self.lab.exec(self.node, ["ip", "address", "replace", f"{self.setup.address6}/128", "dev", "lo", "nodad"])
        self.lab.write(self.node, f"{self._folder}/bgpd.conf", self._file())
        self.lab.exec(self.node, ["chmod", "600", f"{self._folder}/bgpd.conf"])
        self._process = self.lab.start(self.node, ["/usr/sbin/bgpd", "-d", "-f", f"{self._folder}/bgpd.conf"])
        self._process.until(lambda: self.setup.neighbor in self._ask("show", "neighbor"), "OpenBGPD to answer")

    def is_established(self) -> bool:
        """Read it from `show neighbor`."""
        return "BGP state = Established" in self._ask("show", "neighbor", self.setup.neighbor)

    def is_settled(self) -> bool:
        """Say yes: it always is."""
        return True

    def received(self) -> set[str]:
        """Return what the Adj-RIB-In holds."""
        return self._heard("prefix")

    def held(self) -> set[str]:
        """Return the same, also while the neighbour is away."""
        return self.received()

    def next_hops(self, prefix: str) -> set[str]:
        """Return the next hops of all paths of a prefix in the Adj-RIB-In."""
        return self._heard("exit_nexthop", prefix)

    def announce(self, prefix: str) -> None:
        """Add it with `network add`."""
        self.prefixes.append(prefix)
        self._network("add", prefix)

    def withdraw(self, prefix: str) -> None:
        """Take it out with `network delete`."""
        self.prefixes.remove(prefix)
        self._network("delete", prefix)

    def refresh(self) -> None:
        """Ask with ROUTE-REFRESH."""
        self._ask("neighbor", self.setup.neighbor, "refresh")

    def kill(self) -> None:
        """SIGKILL to the parent; its two children end with the pipe to it."""
        assert self._process
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM to the parent."""
        assert self._process
        self._process.stop(SIGTERM)

    def _ask(self, *words: str) -> str:
        return self.lab.exec(self.node, ["bgpctl", "-s", f"{self._folder}/control", *words], check=False).stdout

    def _heard(self, key: str, *words: str) -> set[str]:
        answer = self._ask("-j", "show", "rib", "in", "neighbor", self.setup.neighbor, *words)
        return set(_texts_at(json.loads(answer), key)) if answer.lstrip().startswith("{") else set()

    def _network(self, action: str, prefix: str) -> None:
        answer = self._ask("network", action, prefix)
        assert "request sent" in answer, answer

    def _file(self) -> str:
        own = self.setup
        networks = "".join(f"network {prefix}\n" for prefix in self.prefixes)
        sessions = "".join(self._session(neighbor) for neighbor in (own.neighbor, own.client) if neighbor)
        return f"""
AS {own.asn}
router-id {own.address}
listen on {own.local_on_link}
fib-update no
holdtime 9
connect-retry 2
socket "{self._folder}/control"
{networks}
{sessions}
allow from any
allow to any
"""

    def _session(self, neighbor: str) -> str:
        own = self.setup
        return f"""
neighbor {neighbor} {{
    remote-as {own.neighbor_asn}
    local-address {own.local_on_link}
    announce IPv4 unicast
    announce IPv6 unicast
    announce refresh yes
    announce restart {"yes" if own.graceful_restart else "no"}
    {"passive" if own.is_passive else ""}
    {"ttl-security yes" if own.has_ttl_security else ""}
    {"announce add-path recv yes" if own.client else ""}
    {"announce add-path send all" if own.client else ""}
    {"route-reflector" if neighbor == own.client else ""}
}}
"""


AnySpeaker = Bird | Frr | GoBgp | OpenBgpd
SPEAKERS: tuple[type[AnySpeaker], ...] = (Bird, Frr, GoBgp, OpenBgpd)


def why_not(speaker: type[AnySpeaker]) -> str:
    """Return what keeps this speaker from running here, in words; an empty text if nothing does."""
    absent = [program for program in speaker.programs if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} not found"
    return missing() or ("the neighbours change their user: needs root" if os.geteuid() else "")


def each_of(*speakers: type[AnySpeaker]) -> list[ParameterSet]:
    """Return the speakers as parameters of a test, which is skipped where one cannot run."""
    return [
        pytest.param(
            speaker,
            id=speaker.name,
            marks=pytest.mark.skipif(bool(why_not(speaker)), reason=f"{speaker.name}: {why_not(speaker)}"),
        )
        for speaker in speakers
    ]
