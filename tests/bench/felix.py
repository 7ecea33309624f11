"""What the policy bench compares with: chains as Calico's Felix lays them out, and its way to write them.

    FORWARD -> cali-FORWARD -> cali-from-wl-dispatch -> (next character) -> cali-fw-IFACE -> cali-po-.. (each policy)
                            -> cali-to-wl-dispatch   -> (next character) -> cali-tw-IFACE -> cali-pi-..

Synthetic: the layout, the marks and the order of the rules are Felix's, and policies have the sets and matches that
ours have, so that both ask the same of a packet. Each workload has its own chains, with every policy inline.

To write is to read first (`iptables-save`, for the ids) and then to restore the chains that changed; both families at
a time. Rendering, and looking at what was read, are left out of the time, which is in Felix's favour.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from bgpmesh.kernel.sets import Sets
from bgpmesh.policy.chains import AddressSet, ChainKey, Rules, bare, identified, ids_of, member_text
from bgpmesh.policy.form import FAMILIES, Compiled, Stack
from bgpmesh.policy.iptables import Options, render
from bgpmesh.policy.rule import Action, Direction

PREFIX = "cali"
ACCEPTED, PASSED, WORKLOAD = 0x10000, 0x20000, 0x40000

Tables = Mapping[ChainKey, Rules]


def felix_like(compiled: Compiled) -> dict[ChainKey, Rules]:
    """Return every chain, and what the built-in chains get."""
    rendered = render(compiled, Options(prefix=PREFIX))
    found: dict[ChainKey, list[str]] = {}
    for family in FAMILIES:
        for chain in compiled.bodies:
            if (rules := rendered.get(ChainKey(family, "filter", chain))) is not None:
                found[ChainKey(family, "filter", _name(chain))] = list(_body(rules))
        of_body = {key.chain for key in found if key.family == family}
        for direction in Direction:
            own = {
                compiled.model.members[key].interface or "": compiled.stacks[classes[direction]]
                for key, classes in compiled.classes.items()
            }
            for interface, stack in own.items():
                chain = _own(direction, interface)
                found[ChainKey(family, "filter", chain)] = list(_endpoint(stack, direction, of_body))
            for chain, lines in _dispatch(direction, sorted(own)).items():
                found[ChainKey(family, "filter", chain)] = lines
        for (table, chain), lines in _FIXED.items():
            found[ChainKey(family, table, chain)] = lines
    return {key: _identified(key.chain, tuple(rules)) for key, rules in found.items()}


_FIXED = {
    ("filter", "FORWARD"): ["-j cali-FORWARD", f"-m mark --mark {ACCEPTED:#x}/{ACCEPTED:#x} -j ACCEPT"],
    ("filter", "cali-FORWARD"): [
        "-j MARK --set-xmark 0x0/0xe0000",
        f"-m mark --mark 0x0/{ACCEPTED:#x} -j cali-from-hep-forward",
        f"-i {PREFIX}+ -j cali-from-wl-dispatch",
        f"-o {PREFIX}+ -j cali-to-wl-dispatch",
        "-j cali-to-hep-forward",
    ],
    ("filter", "cali-from-hep-forward"): [],
    ("filter", "cali-to-hep-forward"): [],
    ("mangle", "PREROUTING"): ["-j cali-PREROUTING"],
    ("mangle", "cali-PREROUTING"): [
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-m mark --mark {ACCEPTED:#x}/{ACCEPTED:#x} -j ACCEPT",
        "-j cali-from-host-endpoint",
        f"-m mark --mark {ACCEPTED:#x}/{ACCEPTED:#x} -j ACCEPT",
    ],
    ("mangle", "cali-from-host-endpoint"): [],
    ("raw", "PREROUTING"): ["-j cali-PREROUTING"],
    ("raw", "cali-PREROUTING"): [
        "-j MARK --set-xmark 0x0/0xf0000",
        f"-i {PREFIX}+ -j MARK --set-xmark {WORKLOAD:#x}/{WORKLOAD:#x}",
        f"-m mark --mark {WORKLOAD:#x}/{WORKLOAD:#x} -m rpfilter --validmark --invert -j DROP",
        f"-m mark --mark 0x0/{WORKLOAD:#x} -j cali-from-host-endpoint",
        f"-m mark --mark {ACCEPTED:#x}/{ACCEPTED:#x} -j ACCEPT",
    ],
    ("raw", "cali-from-host-endpoint"): [],
}


def _dispatch(direction: Direction, interfaces: list[str]) -> dict[str, list[str]]:
    """Return one level on the character after the prefix that all names share."""
    flag, root = ("-i", "cali-from-wl-dispatch") if direction is Direction.EGRESS else ("-o", "cali-to-wl-dispatch")
    chains: dict[str, list[str]] = {root: []}
    size = len(PREFIX) + 1
    for stem, group in itertools.groupby(interfaces, key=lambda name: name[:size]):
        names = list(group)
        ways = [f"{flag} {name} -g {_own(direction, name)}" for name in names]
        if len(names) > 1:
            bin_ = f"{root}-{stem[-1]}"
            chains[bin_] = [*ways, "-j DROP"]
            ways = [f"{flag} {stem}+ -g {bin_}"]
        chains[root] += ways
    chains[root].append("-j DROP")
    return chains


def _endpoint(stack: Stack, direction: Direction, bodies: set[str]) -> Iterator[str]:
    """Yield the chain of one direction of a workload."""
    back = f"-m mark --mark {ACCEPTED:#x}/{ACCEPTED:#x} -j RETURN"
    yield "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    yield "-m conntrack --ctstate INVALID -j DROP"
    yield f"-j MARK --set-xmark 0x0/{ACCEPTED:#x}"
    if direction is Direction.EGRESS:
        yield "-p 17 -m multiport --dports 4789 -j DROP"
        yield "-p 4 -j DROP"
    for layer in stack.layers:
        yield f"-j MARK --set-xmark 0x0/{PASSED:#x}"
        for chain in map(_name, layer.bodies):
            if chain in bodies:
                yield f"-m mark --mark 0x0/{PASSED:#x} -j {chain}"
                yield back
        if layer.default is not Action.PASS:
            yield f"-m mark --mark 0x0/{PASSED:#x} -j DROP"
    for chain in map(_name, stack.profiles):
        if chain in bodies:
            yield f"-j {chain}"
            yield back
    yield "-j DROP"


def _body(rules: Rules) -> Iterator[str]:
    """Yield the rules of a policy: to allow, or to pass, is a mark and a return; what else is marked is only ours."""
    for text in map(bare, rules):
        if text.startswith("-j MARK "):
            continue
        for target, bit in (("-g bm-allow", ACCEPTED), ("-g bm-pass", PASSED)):
            if text.endswith(target):
                yield f"{text.removesuffix(target)}-j MARK --set-xmark {bit:#x}/{bit:#x}"
                yield f"-m mark --mark {bit:#x}/{bit:#x} -j RETURN"
                break
        else:
            yield text


def _name(chain: str) -> str:
    return f"cali-{chain.removeprefix('bm-')}"


def _own(direction: Direction, interface: str) -> str:
    return f"cali-{'f' if direction is Direction.EGRESS else 't'}w-{interface}"


@functools.cache
def _identified(chain: str, rules: tuple[str, ...]) -> Rules:
    """Return rules with their ids, as Felix writes them: in front of all matches."""
    ids = ids_of(identified(chain, rules))
    return tuple(f"-m comment --comment cali:{each} {rule}" for each, rule in zip(ids, rules, strict=True))


# ── to the kernel ────────────────────────────────────────────────────────────


class Writer:
    """Writes one state after another."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._threads = ThreadPoolExecutor(len(FAMILIES))

    def write_sets(self, commands: str) -> None:
        """Run `ipset restore`."""
        if commands:
            subprocess.run(["ipset", "restore"], input=commands, text=True, check=True)

    def write_tables(self, texts: Mapping[int, Mapping[str, str]], *, reads: bool) -> None:
        """Write what changed of each family, both families at a time; `reads`: and read the table before."""
        list(self._threads.map(functools.partial(self._write, reads=reads), texts, texts.values()))

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _write(self, family: int, tables: Mapping[str, str], *, reads: bool) -> None:
        program = f"{'iptables' if family == 4 else 'ip6tables'}-{self._backend}"
        for table, text in tables.items():
            if reads:
                subprocess.run([f"{program}-save", "-t", table], check=True, capture_output=True)
            subprocess.run([f"{program}-restore", "--noflush", "--wait=60"], input=text.encode(), check=True)


def fill(sets: Mapping[str, AddressSet]) -> None:
    """Make sets, at the start."""
    with closing(Sets()) as kernel:
        for name, wanted in sets.items():
            kernel.write(name, wanted, None)


def set_commands(before: Mapping[str, AddressSet], after: Mapping[str, AddressSet]) -> str:
    """Return the input of `ipset restore` that leads from one to the other; sets that nobody wants stay."""
    lines: list[str] = []
    for name, wanted in after.items():
        actual = before.get(name)
        if actual is None:
            lines.append(f"create -exist {name} {wanted.kind} family {'inet' if wanted.family == 4 else 'inet6'}")
        has = frozenset() if actual is None else actual.members
        lines += [f"add -exist {name} {member_text(member)}" for member in wanted.members - has]
        lines += [f"del -exist {name} {member_text(member)}" for member in has - wanted.members]
    return "\n".join([*lines, ""])


def table_texts(before: Tables, after: Tables) -> dict[int, dict[str, str]]:
    """Return the input of iptables-restore that leads from one to the other, by family and table."""
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    texts: dict[int, dict[str, str]] = {}
    for (family, table), group in itertools.groupby(changed, key=lambda key: key[:2]):
        keys = list(group)
        ours = [key for key in keys if key.chain.startswith("cali-")]
        lines = [f"*{table}", *(f":{key.chain} - [0:0]" for key in ours)]
        lines += [f"-A {key.chain} {rule}" for key in keys for rule in after.get(key, ())]
        lines += [f"-X {key.chain}" for key in ours if key not in after]
        texts.setdefault(family, {})[table] = "\n".join([*lines, "COMMIT", ""])
    return texts
