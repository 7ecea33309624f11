"""The same table into bgpmesh, BIRD and FRR: all three must call the same path the best, whatever its attributes.

    tor: six raw speakers, 192.0.2.101 to .106, three of them internal  --  switch  --  n1 bgpmesh, n2 BIRD, n3 FRR

Where the three differ as they come, BIRD and FRR are told to do as RFC 4271 says: MED is compared within a
neighbouring AS before anything else is, and the router id decides where an older path would. BIRD 2.0.12 then keeps
paths that it should not after others changed, in one of seventy cases, and is right about the same paths in a new
session: so it is asked after one, while the other two live through the changes. FRR 10 keeps its paths sorted and may
be wrong about one in a thousand, where FRR 8 is not: the MED of one path should have put out another before a third is
looked at. The lab is containerlab/fabric.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from containerlab.lab import LabError, Process, until
from tests.bench.feeder import attribute, update
from tests.interop.speakers import Bird, Frr, Setup, why_not
from tests.lab.cluster import ask, lab_of

IS_LONG = bool(os.environ.get("BGPMESH_SOAK"))
PREFIXES = 20_000 if IS_LONG else 2_000
ROUNDS = 10 if IS_LONG else 2
SETS = 60  # attribute sets of one speaker
ASN = 64512
ASNS = (ASN, ASN, ASN, 65001, 65001, 65002)
SPEAKERS = {f"192.0.2.{number}": asn for number, asn in enumerate(ASNS, 101)}
PROGRAM = str(Path(__file__).with_name("table.py"))
CONTROL = "/run/bgpmesh/table.sock"
CONFIG = "/run/bgpmesh/table.toml"  # the lab binds the usual place to the file of its repository
ROOM = 1_000  # prefixes of one UPDATE: 4 octets each

Said = dict[str, dict[int, bytes]]  # by speaker: what it says of each prefix, in the octets of its attributes


def prefix_of(number: int) -> str:
    """Return one of the prefixes."""
    return f"10.{64 + number // 256}.{number % 256}.0/24"


def attributes_of(dice: random.Random, speaker: str) -> bytes:
    """Return attributes as this speaker may send them, of few values, so that many paths are alike up to some step."""
    asn = SPEAKERS[speaker]
    is_external = asn != ASN
    path = [asn] if is_external else []
    path += [dice.choice((65_001, 65_002, 65_003)) for _ in range(dice.randrange(3))]
    segments = struct.pack(f"!BB{len(path)}I", 2, len(path), *path) if path else b""
    if path and dice.random() < 0.1:  # alone in front it is read in two ways
        segments += struct.pack("!BB2I", 1, 2, 65_010, 65_011)  # an AS_SET counts as one (RFC 4271 §9.1.2.2 a)
    hop = speaker if is_external or dice.random() < 0.5 else dice.choice(list(SPEAKERS))
    made = attribute(0x40, 1, bytes([dice.choice((0, 0, 1, 2))])) + attribute(0x40, 2, segments)
    made += attribute(0x40, 3, socket.inet_aton(hop))
    if dice.random() < 0.6:
        made += attribute(0x80, 4, struct.pack("!I", dice.choice((0, 10, 4_294_967_295))))
    if not is_external:
        made += attribute(0x40, 5, struct.pack("!I", dice.choice((100, 100, 100, 50, 200))))
        if dice.random() < 0.5:  # it was reflected (RFC 4456)
            made += attribute(0x80, 9, socket.inet_aton(f"192.0.2.{dice.choice((99, 102, 150))}"))
            clusters = [f"192.0.2.{200 + dice.randrange(9)}" for _ in range(dice.choice((1, 2)))]
            made += attribute(0x80, 10, b"".join(map(socket.inet_aton, clusters)))
    if dice.random() < 0.2:
        made += attribute(0xC0, 8, struct.pack("!I", ASN << 16 | 7))
    return made


def updates_of(said: Iterable[tuple[int, bytes | None]]) -> Iterator[bytes]:
    """Return UPDATEs that say this: prefixes with their attributes, or None for what is withdrawn."""
    alike: dict[bytes | None, list[int]] = {}
    for number, attributes in said:
        alike.setdefault(attributes, []).append(number)
    for attributes, numbers in alike.items():
        for at in range(0, len(numbers), ROOM):
            nlri = b"".join(b"\x18" + bytes((10, 64 + n // 256, n % 256)) for n in numbers[at : at + ROOM])
            yield update(nlri, b"", b"") if attributes is None else update(b"", attributes, nlri)


class ManyBird(Bird):
    """BIRD with a session to each of the speakers."""

    def best(self) -> dict[str, str]:
        """Return by prefix the speaker that has the best path."""
        lines = self._ask("show route primary where source = RTS_BGP").splitlines()
        found = (re.match(r"(\S+/\d+) .*\[s(\d+) ", line) for line in lines)
        return {each[1]: f"192.0.2.{each[2]}" for each in found if each}

    def restart(self) -> None:
        """Begin every session anew."""
        self._ask("restart all")

    def _write(self) -> None:
        sessions = "".join(
            f"protocol bgp s{address.rpartition('.')[2]} {{ local 192.0.2.2 as {ASN}; neighbor {address} as {asn}; "
            "deterministic med on; connect retry time 1; connect delay time 1; hold time 90; "
            "ipv4 { import all; export none; }; }\n"
            for address, asn in SPEAKERS.items()
        )
        text = f"router id 192.0.2.2;\nprotocol device {{}}\nprotocol direct {{ ipv4; }}\n{sessions}"
        self.lab.write(self.node, f"{self._folder}/bird.conf", text)


class ManyFrr(Frr):
    """FRR with a session to each of the speakers."""

    def best(self) -> dict[str, str]:
        """Return by prefix the speaker that has the best path."""
        table = json.loads(self._ask("show bgp ipv4 unicast json") or "{}")
        return {
            str(prefix): str(path["peerId"])
            for prefix, paths in table.get("routes", {}).items()
            for path in paths
            if path.get("bestpath")
        }

    def may_be_wrong(self) -> int:
        """Return about how many prefixes it may be wrong."""
        said = self.lab.exec(self.node, ["/usr/lib/frr/bgpd", "--version"]).stdout
        found = re.search(r"version (\d+)", said)
        assert found, said
        return PREFIXES // 200 if int(found[1]) >= 10 else 0

    def _file(self) -> str:
        neighbours = "".join(
            f" neighbor {address} remote-as {asn}\n neighbor {address} timers connect 1\n"
            for address, asn in SPEAKERS.items()
        )
        return (
            f"router bgp {ASN}\n bgp router-id 192.0.2.3\n no bgp ebgp-requires-policy\n"
            f" bgp deterministic-med\n bgp bestpath compare-routerid\n timers bgp 30 90\n{neighbours}"
        )


@dataclass(slots=True)
class Trial:
    """The three daemons, and the process that feeds them."""

    feeder: Process
    ours: Process
    bird: ManyBird
    frr: ManyFrr

    def say(self, said: dict[str, list[bytes]]) -> None:
        """Have each speaker send this to all three."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(60.0)
            asking.connect(f"{self.feeder.root}{CONTROL}")
            with asking.makefile("rw", encoding="ascii") as lines:
                lines.write(json.dumps({speaker: b"".join(each).hex() for speaker, each in said.items()}) + "\n")
                lines.flush()
                assert lines.readline() == "{}\n"

    def begin_anew(self, bird: ManyBird) -> None:
        """Have BIRD forget all paths, in new sessions."""
        before = self.established(2)
        bird.restart()
        until(lambda: len(self.established(2) - before) == len(SPEAKERS), "BIRD's new sessions")

    def established(self, number: int) -> Counter[str]:
        """Return how many sessions of each speaker with a daemon there have been."""
        whole = self.feeder.output().split("\n")[:-1]
        return Counter(line.split()[1] for line in whole if line.endswith(f" 192.0.2.{number}"))

    def best(self) -> dict[str, dict[str, str]]:
        """Return by daemon what is the best path of each prefix."""
        routes = cast("list[dict[str, list[dict[str, object]]]]", ask(self.ours, "routes"))
        ours = {str(r["prefix"]): str(p["peer"]) for r in routes for p in r["paths"] if p["best"] and p["peer"]}
        own = {prefix: f"192.0.2.{name[1:]}" for prefix, name in ours.items()}
        return {"bgpmesh": own, "bird": self.bird.best(), "frr": self.frr.best()}


@contextmanager
def trial() -> Iterator[Trial]:
    """Bring the lab up, with every session established."""
    with lab_of("fabric") as lab:
        for address in SPEAKERS:
            lab.exec("tor", ["ip", "address", "add", f"{address}/24", "dev", "eth1"])
        words = [f"{address}={asn}" for address, asn in SPEAKERS.items()]
        feeder = lab.start("tor", [sys.executable, PROGRAM, CONTROL, *words])
        lab.write("n1", CONFIG, _ours())
        ours = lab.start("n1", ["bgpmesh", "run", "--config", CONFIG, "--node", "n1"])
        first, *_ = SPEAKERS
        bird = ManyBird(lab, "n2", Setup(ASN, "192.0.2.2", "2001:db8::2", first, ASN))
        frr = ManyFrr(lab, "n3", Setup(ASN, "192.0.2.3", "2001:db8::3", first, ASN))
        bird.start()
        frr.start()
        made = Trial(feeder, ours, bird, frr)
        until(lambda: all(len(made.established(number)) == len(SPEAKERS) for number in (1, 2, 3)), "all sessions")
        yield made


def _ours() -> str:
    peers = "".join(
        f'[peer.s{address.rpartition(".")[2]}]\naddress = "{address}"\nasn = {asn}\nimport = ["all"]\n'
        'export = ["none"]\nhold_time = 90\n'
        for address, asn in SPEAKERS.items()
    )
    return f'[cluster]\nasn = {ASN}\ntopology = "none"\n[node.n1]\naddress = "192.0.2.1"\n{peers}'


@pytest.mark.skipif(bool(why_not(Bird)), reason=f"bird: {why_not(Bird)}")
@pytest.mark.skipif(bool(why_not(Frr)), reason=f"frr: {why_not(Frr)}")
def test_all_choose_the_same() -> None:
    """First of a new table, then again and again after some paths came and others went."""
    number = random.randrange(1 << 32)
    dice = random.Random(number)
    with trial() as lab:
        said: Said = {speaker: {} for speaker in SPEAKERS}
        for turn in range(ROUNDS):
            lab.say({speaker: list(updates_of(_change(dice, speaker, said[speaker]))) for speaker in SPEAKERS})
            if turn:
                lab.begin_anew(lab.bird)
                lab.say({speaker: list(updates_of(said[speaker].items())) for speaker in SPEAKERS})
            wanted = {prefix_of(n) for own in said.values() for n in own}
            try:
                until(partial(_agree, lab, wanted), "the same best paths", every_s=1.0)
            except LabError as error:
                pytest.fail(f"seed {number}, turn {turn}: {error}: {_difference(lab, said)}")


def _change(dice: random.Random, speaker: str, own: dict[int, bytes]) -> list[tuple[int, bytes | None]]:
    """Give a part of the prefixes other attributes, take some away, and return what has to be said."""
    sets = [attributes_of(dice, speaker) for _ in range(SETS)]
    changes: list[tuple[int, bytes | None]] = []
    for number in dice.sample(range(PREFIXES), PREFIXES * 2 // 3):
        if number in own and dice.random() < 0.3:
            del own[number]
            changes.append((number, None))
        else:
            own[number] = dice.choice(sets)
            changes.append((number, own[number]))
    return changes


def _agree(lab: Trial, wanted: set[str]) -> bool:
    best = lab.best()
    ours, frr = best["bgpmesh"], best["frr"]
    differing = sum(frr.get(prefix) != speaker for prefix, speaker in ours.items())
    return ours.keys() == frr.keys() == wanted and ours == best["bird"] and differing <= lab.frr.may_be_wrong()


def _difference(lab: Trial, said: Said) -> str:
    """Return in words where they differ, a few prefixes at most."""
    best = lab.best()
    numbers: Sequence[int] = sorted({n for own in said.values() for n in own})
    rows = [(n, {name: table.get(prefix_of(n)) for name, table in best.items()}) for n in numbers]
    wrong = [(n, row) for n, row in rows if len(set(row.values())) > 1]
    told = [
        f"{prefix_of(n)} {row} of " + str({speaker: own[n].hex(" ", -4) for speaker, own in said.items() if n in own})
        for n, row in wrong[:5]
    ]
    return f"{len(wrong)} of {len(rows)} differ: " + "; ".join(told)
