"""The file as a whole: read, parsed, and what it means for one node."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from bgpmesh.config.checks import check, check_floating, check_processes, selects, taken_by_others
from bgpmesh.config.filters import check_filters, warnings_of_filters
from bgpmesh.config.options import (
    NAMED,
    SINGLE,
    Config,
    EcmpOptions,
    NamespaceOptions,
    PolicyOptions,
    StateOptions,
    WorkloadOptions,
)
from bgpmesh.config.tables import Reader
from bgpmesh.config.values import Options, guess
from bgpmesh.control.http import MetricsOptions
from bgpmesh.control.server import ControlOptions
from bgpmesh.errors import ConfigError, Problem
from bgpmesh.events import Configured
from bgpmesh.helpers.edge import ProcessOptions
from bgpmesh.kernel.fib import KernelOptions
from bgpmesh.peering.mesh import (
    asn_of,
    cluster_id_of,
    own_address,
    owners_of,
    peers_of,
    ranges_of,
    router_id_of,
    warnings_of,
    watched_of,
)
from bgpmesh.peering.options import ClusterOptions, NodeOptions, PeerOptions
from bgpmesh.policy.iptables import Options as Rendering
from bgpmesh.policy.protection import Surroundings
from bgpmesh.policy.rule import FAILSAFE_INBOUND, FAILSAFE_OUTBOUND, TCP, Failsafe
from bgpmesh.rib.rule import Filter
from bgpmesh.route.attributes import Asn
from bgpmesh.route.nlri import ROUTED, IPAddress, family_of_address
from bgpmesh.workload.floating import FloatingIp
from bgpmesh.workload.pool import Pool

T = TypeVar("T", bound=Options)

_WHERE_IN_TOML = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_HEADER = re.compile(r"\s*\[\s*([^\[\]]*?)\s*\]")
_DIRECTORY = re.compile(r"""\s*directory\s*=\s*["'](/[^"'\\]*)["']""")


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
        text.encode()  # half a surrogate pair, which JSON can carry, is no text
        document = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError((Problem(file, "", "", "not TOML: nested too deeply"),)) from error
    except ValueError as error:
        raise ConfigError((_syntax_problem(file, str(error)),)) from error
    reader = Reader(file)
    config = _read(reader, document)
    if reader.problems:
        raise ConfigError(tuple(reader.problems))
    return config


def state_directory(text: str) -> str:
    """Return where a text says that the state is, also one that is bad elsewhere; the default where it does not say."""
    section = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            section = header[1]
        elif section == "state" and (said := _DIRECTORY.match(line)):
            return said[1]
    return StateOptions().directory


def defaults() -> Config:
    """Return what holds where there is no file, for what works without one: `uninstall`."""
    return Config("", ClusterOptions(Asn(0)))


def effective(
    config: Config, name: str, found: Mapping[str, tuple[IPAddress, IPAddress]] = MappingProxyType({})
) -> Configured:
    """Return what the engine of one node is told; raises ConfigError for a node that is not in the file.

    `found` are our end and the neighbour's of each link where one was found (`[peer.*] interface`).
    """
    node = config.node(name)
    neighbours = [peer.at(found.get(peer.interface or "")) for peer in config.neighbours_of(node)]
    router_id = router_id_of(node)
    if router_id is None:  # refused when the file was read, where the node stands in it
        reason = "missing: needed where `address` is IPv6"
        raise ConfigError((Problem(config.file, f"node.{name}.router_id", "", reason),))
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
        taken=taken_by_others(config.nodes, config.neighbours, node.pod_cidrs),
        has_identity=config.cluster.identity,
        owners=owners_of(config.nodes, config.neighbours),
        watched=watched_of(node, config.cluster, config.nodes, neighbours),
        ranges=ranges_of(node, config.cluster, neighbours),
        around=Surroundings(
            space=(
                *(pool.cidr for pool in config.pools),
                *(cidr for each in config.nodes for cidr in each.pod_cidrs),
                *(cidr for each in config.neighbours for cidr in each.pods),
            ),
            addresses=frozenset(each for each in (node.address, node.address6) if each is not None),
            namespaces={namespace.name: dict(namespace.labels) for namespace in config.namespaces},
            options=_rendering(config, neighbours),
            is_revoking=config.policy.revoke,
            node=node.name,
        ),
        cluster_asn=config.cluster.asn,
        floating=config.floating,
        filters=config.filters,
        processes=tuple(process.name for process in config.processes_of(node)),
    )


def _rendering(config: Config, neighbours: Iterable[PeerOptions]) -> Rendering:
    """Return what the packet filter takes from the file; BGP stays open on the ports that it really uses."""
    policy, listening = config.policy, Failsafe(TCP, config.cluster.port)
    called = (Failsafe(TCP, peer.port) for peer in neighbours)
    inbound = tuple(dict.fromkeys((*FAILSAFE_INBOUND, listening)))
    outbound = tuple(dict.fromkeys((*FAILSAFE_OUTBOUND, listening, *called)))
    return Rendering(
        prefix=config.workload.prefix,
        to_host=policy.workload_to_host,
        failsafe_inbound=inbound if policy.failsafe_inbound is None else policy.failsafe_inbound,
        failsafe_outbound=outbound if policy.failsafe_outbound is None else policy.failsafe_outbound,
    )


def warnings(config: Config, name: str) -> tuple[str, ...]:
    """Return what is allowed and probably not meant, for one node."""
    node = config.node(name)
    chosen = config.neighbours_of(node)
    said = warnings_of(node, config.cluster, config.nodes, chosen)
    chosen_by_none = (
        f"{section}.{each.name}"
        for section, tables in (("peer", config.neighbours), ("process", config.processes))
        for each in tables
        if config.nodes and not any(selects(each, n) for n in config.nodes)
    )
    discarded = (
        f"node.{other.name} has {address}, which node.{name} discards: it lies in its pod CIDR {block}"
        for other in config.nodes
        for address in (other.address, other.address6)
        for block in node.pod_cidrs
        if other.name != name and address is not None and address.version == block.version and address in block
    )
    silent = (
        f"node.{name} has no {family.label} address: it announces no floating address of that family"
        for family in ROUTED
        if own_address(node, family) is None and any(family_of_address(f.external) is family for f in config.floating)
    )
    if not config.kernel.enabled:
        said += tuple(f"peer.{p.name}.flowspec does nothing with kernel.enabled = false" for p in chosen if p.flowspec)
    of_filters = warnings_of_filters(config.filters, asn_of(node, config.cluster), chosen, config.neighbours)
    return (*said, *of_filters, *(f"{where}.nodes selects no node" for where in chosen_by_none), *discarded, *silent)


def find_node(config: Config, asked: str | None) -> str:
    """Return which node this is: as asked, else BGPMESH_NODE, else the host name, whole or up to its first dot.

    Raises ConfigError where that is not in the file.
    """
    if name := asked or os.environ.get("BGPMESH_NODE"):
        return config.node(name).name
    host = socket.gethostname()
    names = {node.name for node in config.nodes}
    return next((name for name in (host, host.partition(".")[0]) if name in names), None) or config.node(host).name


def _read(reader: Reader, document: Mapping[str, object]) -> Config:
    for key in document:
        if key not in SINGLE and key not in NAMED:
            reader.refuse(key, document[key], "unknown table" + guess(key, [*SINGLE, *NAMED]))

    def single(name: str, cls: type[T]) -> T | None:
        return reader.options(cls, document.get(name, {}), name, SINGLE[name])

    cluster = single("cluster", ClusterOptions)
    if cluster is not None:
        cluster = replace(cluster, password=reader.password(cluster, "cluster"))
    pools = reader.named(Pool, document.get("pool", {}), "pool")
    nodes = reader.named(NodeOptions, document.get("node", {}), "node")
    neighbours = [
        replace(peer, password=reader.password(peer, f"peer.{peer.name}"))
        for peer in reader.named(PeerOptions, document.get("peer", {}), "peer")
    ]
    namespaces = reader.named(NamespaceOptions, document.get("namespace", {}), "namespace")
    for part in reader.incomplete:  # what they say of a password is wrong or right all the same
        if isinstance(part, ClusterOptions | PeerOptions):
            reader.password(part, f"peer.{part.name}" if isinstance(part, PeerOptions) else "cluster")
    floating = reader.by_address(FloatingIp, document.get("floating_ip", {}), "floating_ip", "external")
    processes = reader.named(ProcessOptions, document.get("process", {}), "process")
    filters = reader.named(Filter, document.get("filter", {}), "filter")
    check(reader, cluster, pools, nodes, neighbours)
    check_filters(reader, filters, [node.name for node in nodes], neighbours)
    check_floating(reader, floating, pools, nodes, neighbours)
    check_processes(reader, processes)
    # Where one could not be read a problem says so, and nobody gets to see what stands in for it.
    return Config(
        reader.file,
        cluster or ClusterOptions(Asn(0)),
        tuple(pools),
        tuple(nodes),
        tuple(neighbours),
        tuple(filters),
        tuple(floating),
        tuple(processes),
        single("kernel", KernelOptions) or KernelOptions(),
        single("kernel", EcmpOptions) or EcmpOptions(),
        single("workload", WorkloadOptions) or WorkloadOptions(),
        tuple(namespaces),
        single("policy", PolicyOptions) or PolicyOptions(),
        single("metrics", MetricsOptions) or MetricsOptions(),
        single("control", ControlOptions) or ControlOptions(),
        single("state", StateOptions) or StateOptions(),
    )


def _syntax_problem(file: str, said: str) -> Problem:
    found = _WHERE_IN_TOML.search(said)
    reason = f"not TOML: {said[: found.start()] if found else said}"
    if found is None or found[1] is None:
        return Problem(file, "", "", reason + (" before the end of the file" if found else ""))
    return Problem(file, f"line {found[1]}", "", f"{reason} (column {found[2]})")
