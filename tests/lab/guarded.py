"""A node under policies of every kind, the flows that try them, and hands that break one thing at a time.

    peer 10.0.0.2 .3 .4 .5 ── n1: shop/web, shop/db, shop/other

Every flow runs in both families. Those that must not arrive are named `no-..`; of each it is told whenever a datagram
arrives all the same.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import cast

from containerlab.lab import Process, until
from tests.lab.cluster import script
from tests.lab.nodes import BLOCKS, JsonObject, Node, file_of, pair

REPAIRED_S = 150.0  # the longest that a repair may take: a read-back, or what is tried again, and a busy machine
PORT = 5005
RATE = 25  # datagrams a second of each flow
TRIES = 8  # of every flow, in which one that may pass would be seen to
PROGRAMS = {4: "iptables", 6: "ip6tables"}
WORKLOADS = ("web", "db", "other")
HOST = {4: "10.0.0.1", 6: "2001:db8::1"}
OUTSIDE = {4: "10.0.0.{}", 6: "2001:db8::{}"}
FOREIGN = {4: "-s 172.17.0.0/16 -j ACCEPT", 6: "-s fd17::/16 -j ACCEPT"}  # a rule of others, who use this backend

CALICO = "projectcalico.org/v3"


def calico(kind: str, name: str, namespace: str | None = None, **spec: object) -> JsonObject:
    """Return an object of Calico; a network set's labels are those of `labels`."""
    metadata: JsonObject = {"name": name, **({"namespace": namespace} if namespace else {})}
    if (labels := spec.pop("labels", None)) is not None:
        metadata["labels"] = labels
    return {"apiVersion": CALICO, "kind": kind, "metadata": metadata, "spec": spec}


OBJECTS = (
    calico("Tier", "first", order=10),
    calico("GlobalNetworkSet", "bad", labels={"role": "bad"}, nets=["10.0.0.3/32", "2001:db8::3/128"]),
    calico("GlobalNetworkSet", "suspect", labels={"role": "suspect"}, nets=["10.0.0.5/32", "2001:db8::5/128"]),
    calico(
        "GlobalNetworkPolicy",
        "first.screen",
        tier="first",
        selector="app == 'db'",
        types=["Ingress"],
        ingress=[{"action": "Deny", "source": {"selector": "role == 'bad'"}}, {"action": "Pass"}],
    ),
    calico(
        "GlobalNetworkPolicy",
        "strangers",
        order=5,
        selector="app == 'db'",
        types=["Ingress"],
        ingress=[{"action": "Deny", "source": {"nets": [net]}} for net in ("10.0.0.4/32", "2001:db8::4/128")],
    ),
    calico(
        "GlobalNetworkPolicy",
        "db",
        selector="app == 'db'",
        types=["Ingress"],
        ingress=[
            {
                "action": "Allow",
                "protocol": "UDP",
                "source": {"selector": "app == 'web'"},
                "destination": {"ports": [PORT]},
            },
            *(
                {"action": "Allow", "source": {"nets": [net], "notSelector": "role == 'suspect'"}}
                for net in ("10.0.0.0/24", "2001:db8::/64")
            ),
        ],
    ),
    calico(
        "NetworkPolicy",
        "web",
        "shop",
        selector="app == 'web'",
        types=["Ingress", "Egress"],
        egress=[
            {"action": "Allow", "destination": {"selector": "app == 'db'"}},
            *({"action": "Allow", "destination": {"nets": [net]}} for net in ("10.0.0.2/32", "2001:db8::2/128")),
        ],
    ),
)

# Who sends, as whom ("": itself), to whom; "peer.N" is an address of the host outside.
FLOWS = {
    "web-db-echo": ("web", "", "db"),
    "peer-db-echo": ("peer", "peer.2", "db"),
    "web-peer": ("web", "", "peer.2"),
    "other-peer": ("other", "", "peer.2"),
    "peer-other": ("peer", "peer.2", "other"),
    "no-bad-db": ("peer", "peer.3", "db"),  # a set that a deny reads
    "no-suspect-db": ("peer", "peer.5", "db"),  # a set that a `not` reads
    "no-stranger-db-echo": ("peer", "peer.4", "db"),  # a rule of one policy in front of another that allows
    "no-other-db": ("other", "", "db"),
    "no-db-web-echo": ("db", "", "web"),
    "no-web-peer": ("web", "", "peer.4"),
    "no-peer-web": ("peer", "peer.2", "web"),
    "no-other-web": ("other", "", "web"),
    "no-web-host": ("web", "", "host"),
    "no-other-host-echo": ("other", "", "host"),
    "no-spoof-db": ("other", "web", "db"),  # under an address that is another's
}

# The same with an answer to each datagram: connections that could be established.
TALKS = {"no-bad-db-echo": ("peer", "peer.3", "db"), "no-suspect-db-echo": ("peer", "peer.5", "db")}

Saved = Mapping[tuple[int, str, str], tuple[str, ...]]  # family, table, chain: its rules, those of a built-in one ours


@dataclass(slots=True)
class Stage:
    """The node, what runs in it, and what has arrived."""

    node: Node
    backend: str
    addresses: dict[str, dict[int, str]] = field(default_factory=dict)  # of each workload, by family
    flows: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    hearers: dict[str, Process] = field(default_factory=dict)
    senders: list[Process] = field(default_factory=list)

    # ── the way up ───────────────────────────────────────────────────────────

    def bring_up(self, text: str = "") -> None:
        """Start the daemon (on this configuration), attach the workloads, put the policies in force."""
        node = self.node
        for family, program in PROGRAMS.items():
            node.sh(f"{program}-{self.backend} -w -A FORWARD {FOREIGN[family]}")
        node.configure(text or file_of())
        node.start()
        node.await_prefixes(BLOCKS)
        node.lab.exec("peer", ["ip", "route", "add", "10.244.1.0/26", "via", HOST[4]])
        node.lab.exec("peer", ["ip", "route", "add", "fd00:10:244:1::/112", "via", HOST[6]])
        for number in range(3, 6):
            node.lab.exec("peer", ["ip", "address", "add", f"2001:db8::{number}/64", "dev", "eth1", "nodad"])
        self.apply(*OBJECTS)
        for name in WORKLOADS:
            path = node.lab.add_workload_namespace("n1", name)
            said = self.said(*f"workload add {name} --netns {path} -n shop --label app={name}".split())
            self.addresses[name] = {6 if ":" in each else 4: each for each in json.loads(said)["addresses"]}

    def apply(self, *documents: JsonObject) -> None:
        """Apply objects, none of which is refused."""
        assert self.node.apply(*documents)["refused"] == []

    def said(self, *words: str) -> str:
        """Return what a command of ours says, which does what it is told."""
        answer = self.node.command(*words, "--json")
        assert answer.returncode == 0, f"{words}: {answer.stdout}{answer.stderr}{self.node.daemon.output()[-2000:]}"
        return answer.stdout

    def volley(self, place: str, *words: str) -> Process:
        """Start a sender or a hearer in a workload, on the node ("host") or outside ("peer")."""
        node, inside = ("peer", "") if place == "peer" else ("n1", "" if place == "host" else place)
        return self.node.lab.start(node, script("volley", *words), inside=inside)

    def address(self, word: str, family: int) -> str:
        """Return whom a word of `FLOWS` means."""
        if word.startswith("peer."):
            return OUTSIDE[family].format(word.removeprefix("peer."))
        return HOST[family] if word == "host" else self.addresses[word][family]

    def hear(self, place: str) -> None:
        """Have what arrives at a place told."""
        hearer = self.hearers[place] = self.volley(place, "hear", str(PORT))
        hearer.await_said("listening")

    def fire(self, flows: Mapping[str, tuple[str, str, str]]) -> None:
        """Have these flows run; those that are to arrive do so before this returns."""
        for place in (*WORKLOADS, "host", "peer"):
            if place not in self.hearers:
                self.hear(place)
        words: dict[str, list[str]] = defaultdict(list)
        for name, (sender, source, target) in flows.items():
            for family in PROGRAMS:
                bound = self.address(source, family) if source else ""
                words[sender].append(f"{name}-{family},{bound},{self.address(target, family)},{PORT}")
        for sender, each in words.items():
            self.senders.append(self.volley(sender, "send", str(RATE), *each))
        self.flows |= flows
        self.await_flow()

    # ── what arrived ─────────────────────────────────────────────────────────

    def seen(self) -> dict[str, int]:
        """Return how many datagrams of each flow have arrived; of one with an echo, how many came back."""
        found: dict[str, int] = {}
        for process in (*self.hearers.values(), *self.senders):
            last = cast("dict[str, int]", _said(process).get("seen", {}))
            is_sender = process in self.senders
            found |= {name: count for name, count in last.items() if is_sender or "-echo" not in name}
        return found

    def await_flow(self) -> None:
        """Wait until some datagrams of every flow that may arrive have arrived anew."""
        wanted = [f"{name}-{family}" for name in self.flows if not name.startswith("no-") for family in PROGRAMS]
        before = self.seen()

        def flows() -> bool:
            now = self.seen()
            return all(now.get(name, 0) > before.get(name, 0) + 5 for name in wanted)

        until(flows, f"all of {wanted} to arrive again; had {before}, have {self.seen()}", every_s=0.1)

    def await_tries(self, count: int) -> None:
        """Wait until every flow that runs has been tried so often again, and all that has arrived meanwhile is told."""
        wanted = [(sender, _told(sender, "tries") + count) for sender in self.senders]
        until(lambda: all(_told(sender, "tries") >= tries for sender, tries in wanted), f"{count} tries", every_s=0.05)
        now = time.monotonic()
        hearers = self.hearers.values()
        until(lambda: all(_told(each, "told_until") >= now for each in hearers), "what has arrived", every_s=0.05)

    def strays(self) -> list[tuple[float, str]]:
        """Return when a datagram arrived that should not, and of which flow, from the first one on."""
        found = []
        for hearer in self.hearers.values():
            for line in hearer.output().splitlines():
                if '"strayed"' in line and line.endswith("}"):
                    said = json.loads(line)
                    found.append((float(said["at"]), str(said["strayed"])))
        return sorted(found)

    def cease(self) -> None:
        """Have no flow run any longer."""
        for sender in self.senders:
            sender.kill()
        self.senders.clear()

    # ── the packet filter ────────────────────────────────────────────────────

    def saved(self) -> Saved:
        """Return our chains and hooks as they stand; counters aside."""
        found: dict[tuple[int, str, str], tuple[str, ...]] = {}
        for family, program in PROGRAMS.items():
            table = ""
            for line in self.node.sh(f"{program}-{self.backend}-save").splitlines():
                if line.startswith("*"):
                    table = line[1:]
                elif line.startswith(":bm-"):
                    found[family, table, line[1:].split()[0]] = ()
                elif line.startswith("-A") and (line.startswith("-A bm-") or "--comment bm:" in line.replace('"', "")):
                    chain = line.split()[1]
                    found[family, table, chain] = (*found.get((family, table, chain), ()), line)
        return found

    def sets(self) -> dict[str, frozenset[str]]:
        """Return the members of every set of ours."""
        found: dict[str, set[str]] = {}
        for line in self.node.sh("ipset save").splitlines():
            word, name, member = line.split()[:3]
            if name.startswith("bm-"):
                found.setdefault(name, set()).update([member] if word == "add" else [])
        return {name: frozenset(members) for name, members in found.items()}

    def whole(self) -> tuple[Saved, dict[str, frozenset[str]]]:
        """Return all that is ours in the packet filter."""
        return self.saved(), self.sets()

    def hooks(self) -> list[tuple[int, str, str]]:
        """Return the built-in chains that begin with rules of ours."""
        return [key for key in self.saved() if not key[2].startswith("bm-")]

    def table(self, family: int, table: str, words: str) -> None:
        """Do something to a table as others would."""
        self.node.sh(f"{PROGRAMS[family]}-{self.backend} -w 30 -t {table} {words}")

    def unhook(self, *hooks: tuple[int, str, str]) -> None:
        """Delete our rules in built-in chains, all at one blow for each table."""
        saved = self.saved()
        by_table: dict[tuple[int, str], list[str]] = defaultdict(list)
        for family, table, chain in hooks:
            by_table[family, table] += ["-D" + line[2:] for line in saved[family, table, chain]]
        script = []
        for (family, table), lines in by_table.items():
            text = "\n".join([f"*{table}", *lines, "COMMIT"])
            script.append(f"{PROGRAMS[family]}-{self.backend}-restore -w 30 -n <<'X'\n{text}\nX")
        self.node.sh("\n".join(script))

    def opened_by_absence(self, places: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
        """Return what has come through that should not, while each of some chains, or what is ours in it, was away."""
        whole, found = self.saved(), dict[str, set[str]]()
        texts = {
            (family, table): self.node.sh(f"{PROGRAMS[family]}-{self.backend}-save -t {table}")
            for family, table in sorted({(family, table) for family, table, _ in whole})
        }
        for table, chain in places:
            since = time.monotonic()
            families = [family for family in PROGRAMS if (family, table, chain) in whole]
            for family in families:
                if chain.startswith("bm-"):
                    self.table(family, table, f"-F {chain}")
                else:
                    self.unhook((family, table, chain))
            self.await_tries(TRIES)
            if passed := {flow for at, flow in self.strays() if at >= since}:
                found[f"{table} {chain}"] = passed
            for family in families:
                self.restore(family, texts[family, table])
        return found

    def restore(self, family: int, text: str) -> None:
        """Put tables back as `iptables-save` has told them."""
        command = [f"{PROGRAMS[family]}-{self.backend}-restore", "-w", "30"]
        self.node.lab.exec("n1", command, stdin=text)

    def hold(self, seconds: float) -> None:
        """Keep others out for a while: by the lock (legacy), by writing all the time (nft, which has none)."""
        if self.backend == "legacy":
            self.node.sh(f"flock /run/xtables.lock sleep {seconds}")
            return
        self.node.sh(
            f"""
            end=$(($(date +%s%N) + {seconds * 1e9:.0f}))
            while [ $(date +%s%N) -lt $end ]; do
                printf '*filter\\n:THEIRS - [0:0]\\n-A THEIRS -j RETURN\\nCOMMIT\\n' | iptables-nft-restore -n
            done
            iptables-nft -F THEIRS
            iptables-nft -X THEIRS
            """
        )


def _said(process: Process) -> JsonObject:
    """Return the last account of a sender or a hearer, empty where it has given none yet."""
    with process.log.open("rb") as file:
        file.seek(max(0, process.log.stat().st_size - 65_536))
        lines = file.read().decode(errors="replace").splitlines()
    told = (json.loads(line) for line in reversed(lines) if line.startswith("{") and line.endswith("}"))
    return next((each for each in told if "seen" in each), {})


def _told(process: Process, key: str) -> float:
    return cast("float", _said(process).get(key, 0.0))


def chosen() -> Random:
    """Return the choices of one run, whose seed is shown after a failure; BGPMESH_SEED repeats it."""
    seed = int(os.environ.get("BGPMESH_SEED") or SystemRandom().randrange(1 << 32))
    print(f"BGPMESH_SEED={seed}", flush=True)  # noqa: T201
    return Random(seed)


@contextmanager
def staged(backend: str, text: str = "") -> Iterator[Stage]:
    """Lay everything out, with flows running; what was in the packet filter before is there after `uninstall`."""
    with pair() as lab:
        stage = Stage(Node(lab), backend)
        stage.bring_up(text)
        yield stage
        stage.cease()


def closing_sets(saved: Saved) -> set[str]:
    """Return the sets that a deny rule or a `not` reads: with one of these emptied less is denied."""
    found: set[str] = set()
    for rule in (rule for rules in saved.values() for rule in rules):
        found.update(re.findall(r"! --match-set (\S+)", rule))
        if rule.endswith("-j DROP"):
            found.update(re.findall(r"--match-set (\S+)", rule))
    return found
