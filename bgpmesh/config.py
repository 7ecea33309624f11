"""TOML -> one frozen Config; every error at once, each with file, key, value and reason.

The knobs are the fields of the options classes in the packages that use them; their metadata (help,
unit, range, choices: see `peering.mesh`) is all that is needed to read a value, to refuse it in words, and
to write the example file (`example()`). What cannot be said for one value alone is in the `_check_*` functions.

What may not happen here:
 1. A key is ignored. Unknown ones are refused with a guess, known ones whose feature is absent by name.
 2. A password is shown: not in an error, not in a repr.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import os
import re
import socket
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bgpmesh.control.http import MetricsOptions, split_listen
from bgpmesh.control.server import ControlOptions
from bgpmesh.errors import ConfigError, Problem
from bgpmesh.events import Configured
from bgpmesh.kernel.fib import KernelOptions
from bgpmesh.peering.mesh import (
    ClusterOptions,
    Limit,
    NodeOptions,
    Password,
    PeerOptions,
    asn_of,
    cluster_id_of,
    has_session,
    peers_of,
    router_id_of,
    shared_addresses,
    warnings_of,
)
from bgpmesh.policy import selector
from bgpmesh.route.attributes import Asn
from bgpmesh.route.nlri import Family, IPAddress, IPNetwork
from bgpmesh.workload.pool import Pool

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DEFAULT_FILE = "/etc/bgpmesh/bgpmesh.toml"
BUILT_IN_FILTERS = ("all", "own", "none")
NOT_BUILT = "not built yet in this version"
LONGEST_PASSWORD = 80  # octets: TCP_MD5SIG_MAXKEYLEN of the kernel

# Known words of the file whose feature this version does not have.
NOT_BUILT_TABLES = ("filter", "floating_ip", "process", "namespace", "policy")
NOT_BUILT_KEYS: dict[str, tuple[str, ...]] = {
    "peer": (
        "range",
        "bfd",
        "local_asn",
        "allow_own_asn",
        "add_path",
        "long_lived_graceful_restart",
        "role",
        "pods",
        "flowspec",
    ),
}

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_WHERE_IN_TOML = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class EcmpOptions:
    """The key of `[kernel]` that the RIB uses."""

    ecmp: int = field(default=8, metadata={"help": "most next hops of one route", "range": (1, 64)})


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """`[workload]`."""

    prefix: str = field(
        default="bgpm",
        metadata={
            "help": "links on the host: the prefix and 11 characters of a hash",
            "pattern": (r"[a-z][a-z0-9]{0,3}", "one to four of a-z and 0-9, a letter first"),
        },
    )


@dataclass(frozen=True, slots=True)
class StateOptions:
    """`[state]`."""

    directory: str = field(
        default="/var/lib/bgpmesh",
        metadata={"help": "what must survive a restart", "pattern": (r"/.*", "an absolute path")},
    )


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the file says, for every node of the cluster."""

    file: str
    cluster: ClusterOptions
    pools: tuple[Pool, ...] = ()
    nodes: tuple[NodeOptions, ...] = ()
    neighbours: tuple[PeerOptions, ...] = ()
    kernel: KernelOptions = field(default_factory=KernelOptions)
    routes: EcmpOptions = field(default_factory=EcmpOptions)
    workload: WorkloadOptions = field(default_factory=WorkloadOptions)
    metrics: MetricsOptions = field(default_factory=MetricsOptions)
    control: ControlOptions = field(default_factory=ControlOptions)
    state: StateOptions = field(default_factory=StateOptions)

    def node(self, name: str) -> NodeOptions:
        """Return the node; raises ConfigError that lists those the file has."""
        for node in self.nodes:
            if node.name == name:
                return node
        has = f"it has {', '.join(node.name for node in self.nodes)}" if self.nodes else "it has no [node.*]"
        raise ConfigError((Problem(self.file, "node", name, f"node {name} is not in the file; {has}"),))

    def neighbours_of(self, node: NodeOptions) -> tuple[PeerOptions, ...]:
        """Return the `[peer.*]` whose selector means this node."""
        return tuple(peer for peer in self.neighbours if _selects(peer, node))


def load(path: str) -> Config:
    """Return the configuration in a file; raises ConfigError with every problem."""
    return parse(read(path), path)


def read(path: str) -> str:
    """Return the text of a file; raises ConfigError."""
    try:
        return Path(path).read_bytes().decode()
    except OSError as error:
        raise ConfigError((Problem(path, "", "", f"cannot be read: {error.strerror}"),)) from error
    except UnicodeDecodeError as error:
        raise ConfigError((Problem(path, "", "", f"not UTF-8 at byte {error.start}"),)) from error


def parse(text: str, file: str) -> Config:
    """Return the configuration in a text that stood in `file`; raises ConfigError with every problem.

    Password files are read here; a relative one lies beside `file`.
    """
    try:
        document = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError((Problem(file, "", "", "not TOML: nested too deeply"),)) from error
    except ValueError as error:
        raise ConfigError((_syntax_problem(file, str(error)),)) from error
    reader = _Reader(file)
    config = _read(reader, document)
    if reader.problems:
        raise ConfigError(tuple(reader.problems))
    return config


def defaults() -> Config:
    """Return what holds where there is no file, for what works without one: `uninstall`."""
    return Config("", ClusterOptions(Asn(0)))


def effective(config: Config, name: str) -> Configured:
    """Return what the engine of one node is told; raises ConfigError for a node that is not in the file."""
    node = config.node(name)
    neighbours = config.neighbours_of(node)
    router_id = router_id_of(node)
    if router_id is None:  # refused when the file was read
        raise ConfigError((Problem(config.file, f"node.{name}.router_id", "", "missing"),))
    return Configured(
        node=node.name,
        asn=asn_of(node, config.cluster),
        router_id=router_id,
        cluster_id=cluster_id_of(node, config.cluster, neighbours),
        peers=peers_of(node, config.cluster, config.nodes, neighbours),
        pod_cidrs=node.pod_cidrs,
        advertise=node.advertise,
        pools=config.pools,
        interface_prefix=config.workload.prefix,
        kernel_enabled=config.kernel.enabled,
        ecmp=config.routes.ecmp,
        graceful_restart=config.cluster.graceful_restart,
        restart_deferral=config.cluster.restart_deferral,
    )


def warnings(config: Config, name: str) -> tuple[str, ...]:
    """Return what is allowed and probably not meant, for one node."""
    node = config.node(name)
    said = warnings_of(node, config.cluster, config.nodes, config.neighbours_of(node))
    unused = (p.name for p in config.neighbours if config.nodes and not any(_selects(p, n) for n in config.nodes))
    return (*said, *(f"peer.{name}.nodes selects no node" for name in unused))


def find_node(config: Config, asked: str | None) -> str:
    """Return which node this is: as asked, else BGPMESH_NODE, else the host name, whole or up to its first dot.

    Raises ConfigError where that is not in the file.
    """
    if name := asked or os.environ.get("BGPMESH_NODE"):
        return config.node(name).name
    host = socket.gethostname()
    names = {node.name for node in config.nodes}
    return next((name for name in (host, host.partition(".")[0]) if name in names), None) or config.node(host).name


# ── the whole document ───────────────────────────────────────────────────────

_SINGLE: dict[str, tuple[type[DataclassInstance], ...]] = {
    "cluster": (ClusterOptions,),
    "kernel": (KernelOptions, EcmpOptions),
    "workload": (WorkloadOptions,),
    "metrics": (MetricsOptions,),
    "control": (ControlOptions,),
    "state": (StateOptions,),
}
_NAMED: dict[str, type[DataclassInstance]] = {"pool": Pool, "node": NodeOptions, "peer": PeerOptions}


def _read(reader: _Reader, document: Mapping[str, object]) -> Config:
    for key in document:
        if key in NOT_BUILT_TABLES:
            reader.refuse(key, document[key], NOT_BUILT)
        elif key not in _SINGLE and key not in _NAMED:
            reader.refuse(key, document[key], "unknown table" + _guess(key, [*_SINGLE, *_NAMED]))

    def single(name: str, cls: type[T]) -> T | None:
        return reader.options(cls, document.get(name, {}), name, _SINGLE[name])

    cluster = single("cluster", ClusterOptions)
    if cluster is not None:
        cluster = replace(cluster, password=reader.password(cluster, "cluster"))
    pools = reader.named(Pool, document.get("pool", {}), "pool")
    nodes = reader.named(NodeOptions, document.get("node", {}), "node")
    neighbours = [
        replace(peer, password=reader.password(peer, f"peer.{peer.name}"))
        for peer in reader.named(PeerOptions, document.get("peer", {}), "peer")
    ]
    _check(reader, cluster, pools, nodes, neighbours)
    # Where one could not be read a problem says so, and nobody gets to see what stands in for it.
    return Config(
        reader.file,
        cluster or ClusterOptions(Asn(0)),
        tuple(pools),
        tuple(nodes),
        tuple(neighbours),
        single("kernel", KernelOptions) or KernelOptions(),
        single("kernel", EcmpOptions) or EcmpOptions(),
        single("workload", WorkloadOptions) or WorkloadOptions(),
        single("metrics", MetricsOptions) or MetricsOptions(),
        single("control", ControlOptions) or ControlOptions(),
        single("state", StateOptions) or StateOptions(),
    )


def _check(
    reader: _Reader,
    cluster: ClusterOptions | None,
    pools: Sequence[Pool],
    nodes: Sequence[NodeOptions],
    neighbours: Sequence[PeerOptions],
) -> None:
    """Refuse what no single value shows: what does not fit together."""
    _check_prefixes(reader, pools, nodes)
    _check_addresses(reader, nodes)
    _check_router_ids(reader, nodes)
    _check_neighbour_addresses(reader, nodes, neighbours)
    for peer in neighbours:
        _check_neighbour(reader, peer)
    if cluster is not None:
        _check_cluster(reader, cluster, nodes, neighbours)
        for node in nodes:
            _check_families(reader, cluster, node, neighbours)


def _check_prefixes(reader: _Reader, pools: Sequence[Pool], nodes: Sequence[NodeOptions]) -> None:
    _check_overlaps(reader, [(pool.cidr, f"pool.{pool.name}.cidr") for pool in pools])
    for pool in pools:
        for reserved in pool.reserved:
            if not _is_inside(reserved, pool.cidr):
                reader.refuse(f"pool.{pool.name}.reserved", str(reserved), f"outside the pool {pool.cidr}")
    _check_overlaps(reader, [(cidr, f"node.{node.name}.pod_cidrs") for node in nodes for cidr in node.pod_cidrs])
    for node in nodes:
        for cidr in node.pod_cidrs:
            ranges = [pool.cidr for pool in pools if pool.cidr.version == cidr.version]
            if ranges and not any(_is_inside(cidr, pool) for pool in ranges):
                reader.refuse(f"node.{node.name}.pod_cidrs", str(cidr), "outside every pool")


def _check_overlaps(reader: _Reader, ranges: Sequence[tuple[IPNetwork, str]]) -> None:
    """Refuse each range that lies in one before it; O(n log n), since networks overlap by nesting only."""
    outer: tuple[IPNetwork, str] | None = None
    order = sorted(ranges, key=lambda row: (row[0].version, int(row[0].network_address), row[0].prefixlen))
    for cidr, key in order:
        if outer is not None and _is_inside(cidr, outer[0]):
            reader.refuse(key, str(cidr), f"overlaps {outer[0]} of {outer[1]}")
        else:
            outer = (cidr, key)


def _owners(nodes: Sequence[NodeOptions]) -> list[tuple[IPAddress, str]]:
    """Return every address of a node with its key; `address` may be repeated as `address6`."""
    own = [(node.address, f"node.{node.name}.address") for node in nodes]
    second = [(n.address6, f"node.{n.name}.address6") for n in nodes if n.address6 not in {None, n.address}]
    return own + [(address, key) for address, key in second if address is not None]


def _check_addresses(reader: _Reader, nodes: Sequence[NodeOptions]) -> None:
    owners: dict[IPAddress, str] = {}
    for address, key in _owners(nodes):
        if (owner := owners.setdefault(address, key)) != key:
            reader.refuse(key, str(address), f"also the {owner}")


def _check_router_ids(reader: _Reader, nodes: Sequence[NodeOptions]) -> None:
    """Refuse two nodes with one BGP identifier, which no two of an AS may share (RFC 6286 §2.1)."""
    owners: dict[int, str] = {}
    for node in sorted(nodes, key=lambda node: node.router_id is not None):  # those that say nothing come first
        router_id, key = router_id_of(node), f"node.{node.name}.router_id"
        if router_id is None:
            reader.refuse(key, None, "missing: needed where `address` is IPv6")
        elif (owner := owners.setdefault(router_id, key)) != key and node.router_id is not None:
            reader.refuse(key, str(ipaddress.IPv4Address(router_id)), f"also the {owner}")


def _check_neighbour_addresses(
    reader: _Reader, nodes: Sequence[NodeOptions], neighbours: Sequence[PeerOptions]
) -> None:
    """Refuse an address that two have; two neighbours may share one where no node talks to both."""
    owners = dict(_owners(nodes))
    of_nodes = {node.name for node in nodes}
    by_address: dict[IPAddress, list[PeerOptions]] = {}
    for peer in neighbours:
        key = f"peer.{peer.name}.address"
        if peer.name in of_nodes:
            reader.refuse(f"peer.{peer.name}", None, "a node has this name too")
        if peer.address in owners:
            reader.refuse(key, str(peer.address), f"also the {owners[peer.address]}")
        for other in by_address.setdefault(peer.address, []):
            both = next((n.name for n in nodes if _selects(peer, n) and _selects(other, n)), None)
            if both is not None:
                reason = f"also the peer.{other.name}.address, and node {both} talks to both"
                reader.refuse(key, str(peer.address), reason)
                break
        by_address[peer.address].append(peer)


def _check_neighbour(reader: _Reader, peer: PeerOptions) -> None:
    where = f"peer.{peer.name}"
    if peer.source is not None and peer.source.version != peer.address.version:
        reader.refuse(f"{where}.source", str(peer.source), f"not of the family of address {peer.address}")
    if peer.ttl_security and peer.multihop:
        reader.refuse(f"{where}.multihop", peer.multihop, "not together with ttl_security")
    for key, names in (("import", peer.imports), ("export", peer.exports)):
        for name in names or ():
            if name not in BUILT_IN_FILTERS:
                known = ", ".join(BUILT_IN_FILTERS)
                reader.refuse(f"{where}.{key}", name, f"no such filter; built in are {known}, others are {NOT_BUILT}")
    try:
        selector.parse(peer.nodes)
    except selector.SelectorError as error:
        reader.refuse(f"{where}.nodes", peer.nodes, str(error))


def _check_cluster(
    reader: _Reader, cluster: ClusterOptions, nodes: Sequence[NodeOptions], neighbours: Sequence[PeerOptions]
) -> None:
    if len({node.address.version for node in nodes}) > 1:
        for number, node in enumerate(nodes):
            for other in nodes[number + 1 :]:
                if has_session(node, other, cluster) and shared_addresses(node, other) is None:
                    reason = f"no address family in common with node.{other.name}"
                    reader.refuse(f"node.{node.name}.address", str(node.address), reason)
    for peer in neighbours:
        external = [n.name for n in nodes if _selects(peer, n) and asn_of(n, cluster) != peer.asn]
        if peer.reflector_client and external:
            reason = f"needs iBGP, and node {external[0]} has another AS"
            reader.refuse(f"peer.{peer.name}.reflector_client", peer.reflector_client, reason)


def _check_families(
    reader: _Reader, cluster: ClusterOptions, node: NodeOptions, neighbours: Sequence[PeerOptions]
) -> None:
    """Refuse a neighbour with whom no family is left: the node has no address that could be a next hop."""
    chosen = [peer for peer in neighbours if _selects(peer, node)]
    silent = {peer.name for peer in peers_of(node, cluster, (), chosen) if not peer.families}
    for peer in chosen:
        if peer.name in silent:
            said = [family.label for family in peer.families]
            reader.refuse(f"peer.{peer.name}.families", said, f"node {node.name} has no address of it")


def _selects(peer: PeerOptions, node: NodeOptions) -> bool:
    try:
        return selector.matches(selector.parse(peer.nodes), dict(node.labels))
    except selector.SelectorError:
        return False  # refused where it stands


def _is_inside(inner: IPNetwork, outer: IPNetwork) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


# ── one table ────────────────────────────────────────────────────────────────

T = TypeVar("T", bound="DataclassInstance")


class _Reader:
    """Reads tables into options and keeps every problem that it meets."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def refuse(self, where: str, value: object, reason: str, *, key: str = "") -> None:
        """Note a problem once; what may be a secret is not shown."""
        name = key or where.rpartition(".")[2]
        shown = "" if value is None else "(not shown)" if _is_secret(name) else _shown(value)
        problem = Problem(self.file, where, shown, reason)
        if problem not in self.problems:
            self.problems.append(problem)

    def named(self, cls: type[T], tables: object, section: str) -> list[T]:
        """Return the options of every `[section.NAME]` that could be read."""
        if not isinstance(tables, dict):
            self.refuse(section, tables, f"not a table; write [{section}.NAME]")
            return []
        found = []
        for name, table in tables.items():
            if not _NAME.fullmatch(name):
                self.refuse(
                    f"{section}.{json.dumps(name)}", None, "a name is 1 to 63 letters, digits, '.', '_' and '-'"
                )
            elif not isinstance(table, dict) and any(_key(knob) == name for knob in _knobs(cls)):
                self.refuse(f"{section}.{name}", table, f"stands outside of a [{section}.NAME]")
            else:
                found.append(self.options(cls, table, f"{section}.{name}", (cls,), name=name))
        return [options for options in found if options is not None]

    def options(
        self, cls: type[T], table: object, where: str, all_of_table: Sequence[type[DataclassInstance]], **fixed: object
    ) -> T | None:
        """Return one options object; None where a required key is missing or bad. Others fall back to their default."""
        if not isinstance(table, dict):
            self.refuse(where, table, "not a table")
            return None
        known = {_key(knob): knob for other in all_of_table for knob in _knobs(other)}
        absent = NOT_BUILT_KEYS.get(where.partition(".")[0], ())
        for key in table:
            if key in absent:
                self.refuse(f"{where}.{key}", table[key], NOT_BUILT)
            elif key not in known:
                self.refuse(f"{where}.{key}", table[key], "unknown key" + _guess(key, known), key=key)
        values = dict(fixed)
        is_complete = True
        for knob in _knobs(cls):
            key = _key(knob)
            is_required = knob.default is MISSING and knob.default_factory is MISSING
            if key in table:
                try:
                    values[knob.name] = _value(knob, table[key])
                    continue
                except _BadValueError as error:
                    for value, reason in error.faults:
                        self.refuse(f"{where}.{key}", value, reason)
            elif is_required and not (key == "address" and "range" in table):
                self.refuse(f"{where}.{key}", None, f"missing: {knob.metadata.get('help', 'required')}")
            is_complete = is_complete and not is_required
        make: Callable[..., T] = cls
        return make(**values) if is_complete else None

    def password(self, options: ClusterOptions | PeerOptions, where: str) -> Password | None:
        """Return the password that an options object names, read from its file where it is in one."""
        if options.password_file is None:
            return options.password
        key = f"{where}.password_file"
        if options.password is not None:
            self.refuse(key, options.password_file, "not together with password")
            return None
        path = Path(self.file).parent / options.password_file
        try:
            lines = path.read_bytes().decode().splitlines()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self.refuse(key, options.password_file, f"cannot be read: {why}")
            return None
        try:
            return _password(lines[0].strip() if lines else "", {})
        except _BadValueError as error:
            self.refuse(key, options.password_file, f"its first line {error.faults[0][1]}")
            return None


def _knobs(cls: type[DataclassInstance]) -> list[Field[object]]:
    return [knob for knob in fields(cls) if knob.name != "name"]


def _key(knob: Field[object]) -> str:
    return str(knob.metadata.get("key", knob.name))


def _guess(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key.lower(), list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _is_secret(key: str) -> bool:
    """Tell whether what stands under this key, perhaps misspelt, may be a password; the name of a file is none."""
    word = key.lower()
    if word == "password_file":
        return False
    return any(part in word for part in ("pass", "secret", "md5", "psw", "pwd")) or bool(
        difflib.get_close_matches(word, ["password", "password_file"], 1, 0.6)
    )


def _shown(value: object) -> str:
    """Return a value as it would stand in the file; of a table its keys only."""
    match value:
        case bool():
            text = "true" if value else "false"
        case str():
            text = json.dumps(value, ensure_ascii=False)
        case int():
            text = str(value) if value.bit_length() < 1000 else f"a number of {value.bit_length()} bits"
        case dict():
            text = "{ " + ", ".join(value) + " }" if value else "{}"
        case list():
            text = "[" + ", ".join(map(_shown, value[:8])) + (", .." if len(value) > 8 else "") + "]"
        case _:
            text = str(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 100 else text[:100] + ".."


def _syntax_problem(file: str, said: str) -> Problem:
    found = _WHERE_IN_TOML.search(said)
    reason = f"not TOML: {said[: found.start()] if found else said}"
    if found is None or found[1] is None:
        return Problem(file, "", "", reason + (" before the end of the file" if found else ""))
    return Problem(file, f"line {found[1]}", "", f"{reason} (column {found[2]})")


# ── one value, by the type of its field ──────────────────────────────────────


class _BadValueError(Exception):
    """A value cannot be: each part of it that is wrong, with the reason."""

    def __init__(self, *faults: tuple[object, str]) -> None:
        super().__init__()
        self.faults = faults


Meta = Mapping[str, object]


def _value(knob: Field[object], value: object) -> object:
    """Return what the file's value means for this field; raises _BadValueError."""
    kind = str(knob.type).removesuffix(" | None")
    if "only" in knob.metadata:
        if isinstance(value, bool) and value == knob.metadata["only"]:
            return value
        if isinstance(value, bool | dict):
            raise _BadValueError((value, NOT_BUILT))
    return _KINDS[kind](value, knob.metadata)


def _bool(value: object, _: Meta) -> bool:
    if isinstance(value, bool):
        return value
    raise _BadValueError((value, "not true or false"))


def _int(value: object, meta: Meta) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _BadValueError((value, "not a whole number"))
    _in_range(value, meta)
    return value


def _float(value: object, meta: Meta) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(value, float) and math.isnan(value))
    ):
        raise _BadValueError((value, "not a number"))
    _in_range(value, meta)
    return float(value)


def _in_range(value: float, meta: Meta) -> None:
    match meta.get("range"):
        case (int() as low, int() as high):
            if not low <= value <= high:
                unit = f" {meta['unit']}" if "unit" in meta else ""
                raise _BadValueError((value, f"not between {low} and {high}{unit}"))
    if value in _refused_values(meta):
        raise _BadValueError((value, str(meta["refused_reason"])))


def _refused_values(meta: Meta) -> tuple[object, ...]:
    refused = meta.get("refused", ())
    return refused if isinstance(refused, tuple) else ()


def _str(value: object, meta: Meta) -> str:
    if not isinstance(value, str):
        raise _BadValueError((value, "not a string"))
    match meta.get("choices"):
        case tuple(choices) if value not in choices:
            raise _BadValueError((value, f"not one of {', '.join(choices)}{_guess(value, choices)}"))
    match meta.get("pattern"):
        case (str(pattern), str(words)) if not re.fullmatch(pattern, value):
            raise _BadValueError((value, f"not {words}"))
    match meta.get("longest"):
        case int(longest) if len(value.encode()) > longest:
            raise _BadValueError((value, f"longer than {longest} octets"))
    if "\0" in value:
        raise _BadValueError((value, "has a NUL in it"))
    return value


def _password(value: object, _: Meta) -> Password:
    if not isinstance(value, str):
        raise _BadValueError((value, "not a string"))
    if not 1 <= len(value.encode()) <= LONGEST_PASSWORD:
        raise _BadValueError((value, f"not 1 to {LONGEST_PASSWORD} octets long"))
    return Password(value)


def _listen(value: object, _: Meta) -> str:
    if not isinstance(value, str):
        raise _BadValueError((value, "not a string"))
    try:
        split_listen(value)
    except ValueError as error:
        raise _BadValueError((value, str(error))) from error
    return value


def _router_id(value: object, _: Meta) -> int:
    try:
        number = int(ipaddress.IPv4Address(value if isinstance(value, str) else ""))
    except ValueError as error:
        raise _BadValueError((value, "not four numbers with dots")) from error
    if number == 0:
        raise _BadValueError((value, "zero is no identifier (RFC 6286 §2.1)"))
    return number


def _address(value: object, meta: Meta) -> IPAddress:
    try:
        address = ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError as error:
        raise _BadValueError((value, "not an IP address")) from error
    if meta.get("version", address.version) != address.version:
        raise _BadValueError((value, f"not an IPv{meta['version']} address"))
    if address.is_multicast or (address.is_unspecified and not meta.get("unspecified")):
        raise _BadValueError((value, "not the address of one host"))
    if address.is_link_local and address.version == 6:
        raise _BadValueError((value, f"a session over a link-local address is {NOT_BUILT}"))
    return address


def _network(value: object, _: Meta) -> IPNetwork:
    try:
        return ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError as error:
        try:
            loose = ipaddress.ip_network(value if isinstance(value, str) else "", strict=False)
        except ValueError:
            raise _BadValueError((value, "not a prefix")) from error
        raise _BadValueError((value, f"host bits are set; the prefix is {loose}")) from error


def _many(one: Callable[[object, Meta], object]) -> Callable[[object, Meta], tuple[object, ...]]:
    """Return a parser of a list of what `one` parses: each bad member is named, and none may stand twice."""

    def parse_all(value: object, meta: Meta) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise _BadValueError((value, "not a list"))
        good: list[object] = []
        faults: list[tuple[object, str]] = []
        for member in value:
            try:
                parsed = one(member, meta)
            except _BadValueError as error:
                faults += error.faults
            else:
                faults += [(member, "stands here twice")] if parsed in good else []
                good.append(parsed)
        if faults:
            raise _BadValueError(*faults)
        return tuple(good)

    return parse_all


def _one_or_many(value: object, meta: Meta) -> tuple[object, ...]:
    return _many(_address)([value] if isinstance(value, str) else value, {**meta, "unspecified": True})


def _family(value: object, _: Meta) -> Family:
    for family in Family:
        if value == family.label:
            return family
    raise _BadValueError((value, "not one of ipv4, ipv6"))


def _families(value: object, meta: Meta) -> tuple[object, ...]:
    if value == []:
        raise _BadValueError((value, "empty: a session has at least one family"))
    return _many(_family)(value, meta)


def _labels(value: object, _: Meta) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise _BadValueError((value, "not a table of labels"))
    faults: list[tuple[object, str]] = []
    for key, text in value.items():
        if not _LABEL_KEY.fullmatch(key):
            faults.append((key, "not a label key: letters, digits, '.', '_', '-' and '/'"))
        if not isinstance(text, str):
            faults.append((text, f"label {key} is not a string"))
        elif not _LABEL_VALUE.fullmatch(text):
            faults.append((text, f"label {key} is not letters, digits, '.', '_' and '-', 63 at most"))
    if faults:
        raise _BadValueError(*faults)
    return tuple(sorted(value.items()))


def _hops(value: object, meta: Meta) -> int:
    return (1 if value else 0) if isinstance(value, bool) else _int(value, meta)


def _limit(value: object, meta: Meta) -> Limit:
    if not isinstance(value, dict):
        return Limit(_int(value, meta))
    faults: list[tuple[object, str]] = []
    unknown = sorted(value.keys() - {"limit", "restart"})
    faults += [(value, f"warn is {NOT_BUILT}" if key == "warn" else f"unknown key {key}") for key in unknown]
    if "limit" not in value:
        faults.append((value, "limit is missing"))
    numbers = {"limit": 1, "restart": 60}
    for key, low in (("limit", 1), ("restart", 0)):
        if key in value:
            try:
                numbers[key] = _int(value[key], {"range": (low, 100_000_000)})
            except _BadValueError as error:
                faults += [(bad, f"{key} is {reason}") for bad, reason in error.faults]
    if faults:
        raise _BadValueError(*faults)
    return Limit(**numbers)


_KINDS: dict[str, Callable[[object, Meta], object]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _str,
    "Asn": _int,
    "RouterId": _router_id,
    "Listen": _listen,
    "Hops": _hops,
    "Limit": _limit,
    "Password": _password,
    "Labels": _labels,
    "IPAddress": _address,
    "IPNetwork": _network,
    "tuple[IPAddress, ...]": _one_or_many,
    "tuple[IPNetwork, ...]": _many(_network),
    "tuple[Family, ...]": _families,
    "tuple[str, ...]": _many(_str),
}


# ── the example file ─────────────────────────────────────────────────────────

_EXAMPLE_NAMES = {"pool": "default", "node": "n1", "peer": "tor1"}
_EXAMPLE_WIDTH = 118
_EXAMPLE_INTRODUCTION = """\
# bgpmesh: one file for the whole cluster, the same on every node (/etc/bgpmesh/bgpmesh.toml).
# A node finds itself by --node, BGPMESH_NODE or its host name. Durations are seconds.
# What is commented out shows a possible value; everything else but the examples' addresses is the default.
# Made from the options of the program by `bgpmesh.config.example()`; `make check` compares.
"""


def example() -> str:
    """Return the complete commented example file, made from the metadata of every knob."""
    parts = [_EXAMPLE_INTRODUCTION]
    for section in ("cluster", "pool", "node", "peer", "kernel", "workload", "metrics", "control", "state"):
        classes = _SINGLE.get(section) or (_NAMED[section],)
        header = f"[{section}.{_EXAMPLE_NAMES[section]}]" if section in _EXAMPLE_NAMES else f"[{section}]"
        parts.append("\n".join([header, *(_example_line(knob) for cls in classes for knob in _knobs(cls))]) + "\n")
    return "\n".join(parts)


def _example_line(knob: Field[object]) -> str:
    meta = knob.metadata
    shown = meta.get("shown") or meta.get("example") or _toml(knob.default)
    line = f"{'# ' if 'example' in meta else ''}{_key(knob)} = {shown}"
    remark = " ".join(filter(None, (str(meta.get("help", "")), _limits(knob))))
    if not remark:
        return line
    beside = f"{line:<36}  # {remark}"
    return beside if len(beside) <= _EXAMPLE_WIDTH else f"# {remark}:\n{line}"


def _limits(knob: Field[object]) -> str:
    meta, parts = knob.metadata, []
    match meta.get("range"):
        case (low, high):
            parts.append(f"{low} to {high}" + (f" {meta['unit']}" if "unit" in meta else ""))
    match meta.get("choices"):
        case tuple(choices):
            parts.append(", ".join(map(_toml, choices)))
    if "only" in meta:
        parts.append(f"{_toml(not meta['only'])} is {NOT_BUILT}")
    return f"({'; '.join(parts)})" if parts else ""


def _toml(value: object) -> str:
    match value:
        case tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case Family():
            return _toml(value.label)
        case float() if value == int(value):
            return str(int(value))
    return _shown(value)
