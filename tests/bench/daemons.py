"""The daemons that are measured, each in a class: its version, its configuration, its processes.

All of them are internal neighbours of the feeder, which calls them, and write everything they learn to the
kernel. They keep what is their own default; where one has a choice that costs it nothing it gets the
faster one (BIRD: `direct`, which spares it the recursive lookup of next hops).
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Protocol

from bgpmesh import __version__
from containerlab.lab import Lab, Process
from tests.bench.scenario import ASN, DUT, FEEDER

NODE = "dut"


class Daemon(Protocol):
    """One daemon under test."""

    name: str

    def missing(self) -> str:
        """Return what keeps it from running here, in words; an empty text if nothing does."""

    def version(self) -> str:
        """Return its version as it says it."""

    def start(self, lab: Lab, family: str) -> list[Process]:
        """Start it in the node `NODE` with a session to the feeder over that family; returns every process of it."""


class Bgpmesh:
    """This repository, as users run it: metrics on, nexthop objects, read-back."""

    name = "bgpmesh"

    def missing(self) -> str:
        """Nothing: it is here."""
        return ""

    def version(self) -> str:
        """Return the package's version."""
        return __version__

    def start(self, lab: Lab, family: str) -> list[Process]:
        """Start `bgpmesh run`."""
        text = f"""
[cluster]
asn = {ASN}
topology = "none"

[node.{NODE}]
address = "{DUT["ipv4"]}"
address6 = "{DUT["ipv6"]}"

[peer.feeder]
address = "{FEEDER[family]}"
asn = {ASN}
passive = true
max_prefixes = 2000000
"""
        lab.write(NODE, "/etc/bgpmesh/bgpmesh.toml", text)
        command = ["bgpmesh", "run", "--config", "/etc/bgpmesh/bgpmesh.toml", "--node", NODE]
        return [lab.start(NODE, command)]


class Bird:
    """BIRD 2."""

    name = "bird"

    def missing(self) -> str:
        """Look for the program."""
        return "" if shutil.which("bird") else "bird not found (Debian: bird2)"

    def version(self) -> str:
        """Ask the program."""
        said = subprocess.run(["bird", "--version"], capture_output=True, text=True, check=True)
        return (said.stdout + said.stderr).strip().removeprefix("BIRD version ")

    def start(self, lab: Lab, family: str) -> list[Process]:
        """Start `bird` in the foreground."""
        text = f"""
log stderr {{ warning, error, fatal, bug }};
router id {DUT["ipv4"]};
protocol device {{ scan time 60; }}
protocol kernel kernel4 {{ scan time 60; learn off; ipv4 {{ import none; export all; }}; }}
protocol kernel kernel6 {{ scan time 60; learn off; ipv6 {{ import none; export all; }}; }}
protocol bgp feeder {{
  local {DUT[family]} as {ASN};
  neighbor {FEEDER[family]} as {ASN};
  direct;
  passive on;
  ipv4 {{ import all; export none; }};
  ipv6 {{ import all; export none; }};
}}
"""
        lab.write(NODE, "/run/bird.conf", text)
        return [lab.start(NODE, ["bird", "-f", "-c", "/run/bird.conf", "-s", "/run/bird.ctl"])]


DAEMONS: tuple[Daemon, ...] = (Bgpmesh(), Bird())
