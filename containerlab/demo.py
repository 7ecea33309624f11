"""`make demo`: three nodes, a workload on each, and packets between them without a tunnel.

Every step says what it shows, shows it, and fails the demo if it is not so. Nothing is waited for with a
sleep: each step polls until what it claims is true, and gives up after a minute. Everything lives in
namespaces (lab.py), so an end at any point leaves nothing behind.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_network

from containerlab.lab import REPOSITORY, Lab, LabError, until

TOPOLOGY = REPOSITORY / "containerlab/mesh3/mesh3.clab.yml"
CONFIG = "/etc/bgpmesh/bgpmesh.toml"
PROTOCOL = "77"
ROUTERS_BETWEEN = 2  # the two nodes
FIRST_TTL = 64
PINGS = 3
FLOATING = "203.0.113.10"

POD_CIDRS = {
    "n1": ("10.244.1.0/26", "fd00:10:244:1::/112"),
    "n2": ("10.244.2.0/26", "fd00:10:244:2::/112"),
    "n3": ("10.244.3.0/26", "fd00:10:244:3::/112"),
}
NODE_ADDRESSES = {"n1": ("192.0.2.1",), "n2": ("192.0.2.2",), "n3": ("192.0.2.3",)}


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload of the demo: its node, and the addresses that it was given, IPv4 first."""

    name: str
    node: str
    addresses: tuple[str, ...]


@dataclass(slots=True)
class Demo:
    """The steps, over one lab."""

    lab: Lab
    took: list[tuple[str, float]] = field(default_factory=list)  # step and seconds
    workloads: list[Workload] = field(default_factory=list)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print a step's title, and note how long it took."""
        print(f"\n== {title}", flush=True)
        begun = time.monotonic()
        yield
        self.took.append((title, time.monotonic() - begun))

    def run(self) -> None:
        """Show everything, in order."""
        whole = (REPOSITORY / "config/demo.toml").read_text(encoding="utf-8")
        alone = re.sub(r'(?m)^topology = "mesh"$', 'topology = "none"', whole)
        check(alone != whole, "the demo's configuration asks for a mesh")
        without_n3 = re.sub(r"(?ms)^\[node\.n3\]\n.*?(?=^\[|\Z)", "", whole)
        left = [node for node in self.lab.nodes if node != "n3"]
        for node in self.lab.nodes:
            self.lab.write(node, "/run/bgpmesh/alone.toml", alone)
            self.lab.write(node, "/run/bgpmesh/without-n3.toml", without_n3)

        with self.step("a daemon and a workload on each node, no sessions yet"):
            self.start()
            self.attach()
        with self.step("without sessions there is no way from workload to workload"):
            self.show_no_way()
        with self.step("sessions: the mesh is put in force on every node"):
            self.reload(CONFIG, self.lab.nodes)
            self.await_sessions(2)
            self.await_kernels(POD_CIDRS, self.lab.nodes)
        with self.step("every workload pings every other, IPv4 and IPv6"):
            self.ping_all()
        with self.step("no tunnel: on the wire the packets carry the workloads' own addresses"):
            self.show_no_tunnel()
        with self.step("what leaves the pools carries the address of its node"):
            self.show_masquerade()
        with self.step("n3 is taken out of the configuration"):
            self.reload("/run/bgpmesh/without-n3.toml", left)
            self.await_kernels({node: POD_CIDRS[node] for node in left}, left)
            self.show_gone("n3")
        with self.step("n3 is put back"):
            self.reload(CONFIG, left)
            self.await_sessions(2)
            self.await_kernels(POD_CIDRS, self.lab.nodes)
            self.ping_all()
        with self.step("a policy on n2: only web-1 may reach web-2; and why the others may not"):
            self.show_policy()
        with self.step("a floating address leads to web-2, step by step, and then to web-3 on another node"):
            self.show_floating()
        with self.step("what the nodes say"):
            self.show_tables()

    # ── the steps ────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the daemons on a configuration without sessions, and wait until they answer."""
        for node in self.lab.nodes:
            process = self.lab.start(node, ["bgpmesh", "run", "--config", "/run/bgpmesh/alone.toml"])
            process.until(partial(self.is_ready, node), f"{node} to be ready")

    def attach(self) -> None:
        """Make a namespace for a workload on each node and hand it to the daemon."""
        for number, node in enumerate(self.lab.nodes, start=1):
            name = f"web-{number}"
            path = self.lab.add_workload_namespace(node, name)
            told = self.lab.exec(node, ["bgpmesh", "workload", "add", name, "--netns", path, "--json"]).stdout
            addresses = sorted(json.loads(told)["addresses"], key=lambda text: ip_address(text).version)
            self.workloads.append(Workload(name, node, tuple(addresses)))
            print(f"   {name} on {node}: {', '.join(addresses)}")
            check([ip_address(text).version for text in addresses] == [4, 6], f"{name} has an address of each family")

    def show_no_way(self) -> None:
        """Show that the nodes reach each other, that the workloads do not, and that no route leads to them."""
        first, second, *_ = self.workloads
        check(self.ping_node(first.node, NODE_ADDRESSES[second.node][0]), f"{first.node} reaches {second.node}")
        for address in second.addresses:
            check(not self.ping(first, address, patience_s=1), f"{first.name} cannot reach {second.name} at {address}")
            found = self.lab.exec(first.node, ["ip", "route", "get", address], check=False)
            check(found.returncode != 0, f"{first.node} has no route to {address}: {found.stderr.strip()}")

    def reload(self, path: str, nodes: Sequence[str]) -> None:
        """Put a file in force on these nodes (one that is not in the file would refuse it)."""
        for node in nodes:
            self.lab.exec(node, ["bgpmesh", "reload", path])

    def await_sessions(self, count: int) -> None:
        """Wait until every node has `count` sessions, all Established."""
        for node in self.lab.nodes:
            until(partial(self.has_sessions, node, count), f"the sessions of {node}")
            print(f"   {node}: {count} sessions Established")

    def await_kernels(self, wanted: Mapping[str, tuple[str, ...]], on: Sequence[str]) -> None:
        """Wait until each kernel lists exactly these blocks, and its own workload, as routes of ours."""
        for node in on:
            own = {str(ip_address(text)) for one in self.workloads if one.node == node for text in one.addresses}
            expected = own | {cidr for cidrs in wanted.values() for cidr in cidrs}
            until(partial(self.has_routes, node, expected), f"the kernel of {node}")
            print(f"   {node}: exactly {len(expected)} routes of protocol {PROTOCOL}")

    def ping_all(self) -> None:
        """Ping from every workload to every other; two routers on the way take two off the TTL."""
        for source in self.workloads:
            for target in self.workloads:
                for address in target.addresses if source is not target else ():
                    answer = self.ping(source, address)
                    check(answer, f"{source.name} reaches {target.name} at {address}")
                    ttl = int(re.findall(r"ttl=(\d+)", answer)[-1])
                    check(ttl == FIRST_TTL - ROUTERS_BETWEEN, f"   its TTL fell by {FIRST_TTL - ttl}")

    def show_no_tunnel(self) -> None:
        """Show what a node gets from a workload of another: plain packets between the two workloads' addresses."""
        source, target, *_ = self.workloads
        for sender, receiver in zip(source.addresses, target.addresses, strict=True):
            counted = self.count_on_the_wire(source, target.node, sender, receiver)
            check(counted >= PINGS, f"{target.node} counted {counted} packets {sender} -> {receiver} on eth1")

    def show_masquerade(self) -> None:
        """Show the same of a workload that calls a node, which is outside of every pool."""
        source, target = self.workloads[0], self.workloads[1].node
        for sender, receiver in zip(NODE_ADDRESSES[source.node], NODE_ADDRESSES[target], strict=True):
            counted = self.count_on_the_wire(source, target, sender, receiver)
            check(counted >= PINGS, f"{target} counted {counted} packets {sender} -> {receiver} on eth1")

    def count_on_the_wire(self, source: Workload, node: str, sender: str, receiver: str) -> int:
        """Ping from a workload, and return how many echo requests a node counts between two addresses on eth1."""
        is_four = ip_address(receiver).version == 4
        tool = "iptables" if is_four else "ip6tables"
        kind = ["icmp", "--icmp-type", "8"] if is_four else ["icmpv6", "--icmpv6-type", "128"]
        rule = ["PREROUTING", "-i", "eth1", "-s", sender, "-d", receiver, "-p", *kind]
        self.lab.exec(node, [tool, "-w", "-t", "mangle", "-A", *rule])
        check(self.ping(source, receiver, count=PINGS), f"{source.name} pings {receiver} {PINGS} times")
        listed = self.lab.exec(node, [tool, "-w", "-t", "mangle", "-vnxL", "PREROUTING"]).stdout
        print(f"   {listed.splitlines()[-1].strip()}")
        self.lab.exec(node, [tool, "-w", "-t", "mangle", "-D", *rule])
        return int(listed.splitlines()[-1].split()[0])

    def show_gone(self, node: str) -> None:
        """Show that the workload of a node that is no longer configured cannot be reached, and the others can."""
        first, second, *_ = self.workloads
        gone = next(one for one in self.workloads if one.node == node)
        for address in gone.addresses:
            check(not self.ping(first, address, patience_s=1), f"{first.name} cannot reach {gone.name} at {address}")
        check(self.ping(first, second.addresses[0]), f"{first.name} still reaches {second.name}")

    def show_policy(self) -> None:
        """Close a workload to all but one, ask why another is denied, and open it again."""
        first, second, third = self.workloads
        blocks = [{"ipBlock": {"cidr": str(ip_network(address))}} for address in first.addresses]
        policy = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "only-web-1", "namespace": "default"},
            "spec": {"podSelector": {}, "ingress": [{"from": blocks}]},
        }
        self.lab.write(second.node, "/run/bgpmesh/only-web-1.json", json.dumps(policy))
        self.show(second.node, ["bgpmesh", "apply", "-f", "/run/bgpmesh/only-web-1.json"])
        for address in second.addresses:
            check(self.ping(first, address), f"{first.name} reaches {second.name} at {address}")
            check(not self.ping(third, address, patience_s=1), f"{third.name} cannot reach {second.name} at {address}")
        words = ["--from", third.addresses[0], "--to", f"default/{second.name}", "--protocol", "icmp", "--why-not"]
        self.show(second.node, ["bgpmesh", "policy", "explain", *words], expected=1)
        self.show(second.node, ["bgpmesh", "delete", "networkpolicy", "only-web-1"])
        check(self.ping(third, second.addresses[0]), f"{third.name} reaches {second.name} again")

    def show_floating(self) -> None:
        """Give a workload an address of the outside, and move it to another node: there first, then away here."""
        first, second, third = self.workloads
        add, remove = ["bgpmesh", "floating-ip", "add", FLOATING], ["bgpmesh", "floating-ip", "del", FLOATING]
        self.show(second.node, [*add, second.name])
        self.await_way(first.node, FLOATING, NODE_ADDRESSES[second.node][0])
        check(self.ping(first, FLOATING), f"{first.name} reaches {second.name} at {FLOATING}")
        check(self.ping_node(first.node, FLOATING), f"{first.node}, which is outside of every pool, does so, too")
        check(self.ping(second, FLOATING), f"{second.name} reaches itself at {FLOATING}")
        self.show(first.node, ["bgpmesh", "floating-ip", "list"])
        for name in (first.addresses[0], f"default/{second.name}"):
            words = ["bgpmesh", "policy", "explain", "--from", name, "--to", FLOATING, "--protocol", "icmp"]
            told = " ".join(self.show(second.node, words).split())
            check(f"dnat {second.addresses[0]}" in told, f"{name} is led to {second.name}")
        self.show(third.node, [*add, third.name])
        self.show(second.node, remove)
        self.await_way(first.node, FLOATING, NODE_ADDRESSES[third.node][0])
        check(self.ping(first, FLOATING), f"{first.name} reaches {third.name} at {FLOATING}")
        self.show(third.node, remove)

    def await_way(self, node: str, address: str, gateway: str) -> None:
        """Wait until a node sends an address by this gateway alone."""

        def is_so() -> bool:
            found = self.lab.exec(node, ["ip", "route", "show", address], check=False).stdout
            ways = self.lab.exec(node, ["ip", "route", "get", address], check=False).stdout
            return bool(found) and f" via {gateway} " in ways

        until(is_so, f"{node} to send {address} by {gateway}")
        print(f"   {node} sends {address} by {gateway}")

    def show(self, node: str, words: Sequence[str], expected: int = 0) -> str:
        """Print a command and what it says, and return that; its exit status is as expected."""
        done = self.lab.exec(node, words, check=False)
        print(f"\n{node}# {' '.join(words)}\n{done.stdout.rstrip()}{done.stderr.rstrip()}\n")
        check(done.returncode == expected, f"exit status {expected}")
        return done.stdout

    def show_tables(self) -> None:
        """Print what an operator would look at."""
        for node, words in (
            *((node, ["bgpmesh", "status"]) for node in self.lab.nodes),
            ("n1", ["bgpmesh", "routes"]),
            ("n1", ["bgpmesh", "workload", "list"]),
            ("n1", ["bgpmesh", "trace", POD_CIDRS["n2"][0]]),
            ("n1", ["ip", "route", "show", "proto", PROTOCOL]),
            ("n1", ["ip", "-6", "route", "show", "proto", PROTOCOL]),
        ):
            print(f"\n{node}# {' '.join(words)}\n{self.lab.exec(node, words).stdout.rstrip()}")

    # ── what is asked of a node ──────────────────────────────────────────────

    def status(self, node: str) -> dict[str, object]:
        """Return what `status --json` says; empty while no daemon answers."""
        answer = self.lab.exec(node, ["bgpmesh", "status", "--json"], check=False).stdout
        document = json.loads(answer) if answer else {}
        return document if isinstance(document, dict) else {}

    def is_ready(self, node: str) -> bool:
        """Tell whether a node's daemon calls itself ready."""
        return self.status(node).get("ready") is True

    def has_sessions(self, node: str, count: int) -> bool:
        """Tell whether a node has so many sessions, all Established."""
        peers = self.status(node).get("peers")
        return isinstance(peers, list) and [peer["state"] for peer in peers] == ["Established"] * count

    def has_routes(self, node: str, expected: set[str]) -> bool:
        """Tell whether a node's kernel has routes of ours to exactly these; host routes go without their length."""
        return expected == self.lab.prefixes(node, PROTOCOL)

    def ping(self, source: Workload, address: str, *, count: int = 1, patience_s: int = 55) -> str:
        """Return what ping printed in a workload's namespace, or an empty text if so many answers did not come."""
        words = ["ping", "-n", "-i", "0.2", "-c", str(count), "-w", str(patience_s), address]
        done = self.lab.exec(source.node, words, inside=source.name, check=False)
        return done.stdout if done.returncode == 0 else ""

    def ping_node(self, node: str, address: str) -> bool:
        """Tell whether a node itself reaches an address."""
        return self.lab.exec(node, ["ping", "-n", "-c", "1", "-w", "55", address], check=False).returncode == 0


def check(holds: object, claim: str) -> None:
    """Print a claim that holds; raises LabError with one that does not."""
    if not holds:
        raise LabError(f"not so: {claim}")
    print(f"   {claim}", flush=True)


def main() -> int:
    """Run the demo; the exit status is 0 if everything was as claimed."""
    begun = time.monotonic()
    try:
        with Lab(TOPOLOGY) as lab:
            demo = Demo(lab, [("the lab: three nodes and a switch in namespaces", time.monotonic() - begun)])
            print(f"lab {lab.topology.name} is up: {', '.join(lab.nodes)}")
            demo.run()
            down = time.monotonic()
    except LabError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    print("\n== how long it took")
    for title, seconds in (*demo.took, ("cleaned up", time.monotonic() - down)):
        print(f"{seconds:8.2f} s  {title}")
    print(f"{time.monotonic() - begun:8.2f} s  in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
