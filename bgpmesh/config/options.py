"""The tables of the file and the options that each is read into; all of them together are a Config."""

from __future__ import annotations

from dataclasses import field

from bgpmesh.config.checks import selects
from bgpmesh.config.values import Options
from bgpmesh.control.http import MetricsOptions
from bgpmesh.control.server import ControlOptions
from bgpmesh.errors import ConfigError, Problem
from bgpmesh.frozen import frozen
from bgpmesh.helpers.edge import ProcessOptions
from bgpmesh.kernel.fib import KernelOptions
from bgpmesh.peering.options import ClusterOptions, Labels, NodeOptions, PeerOptions
from bgpmesh.policy.rule import Failsafe
from bgpmesh.rib.rule import Filter
from bgpmesh.workload.floating import FloatingIp
from bgpmesh.workload.pool import Pool

_NO_NODES = "it has no [node.*], and no [peer.*] whose source would be this host's address"


@frozen
class EcmpOptions:
    """The key of `[kernel]` that the RIB uses."""

    ecmp: int = field(default=8, metadata={"help": "most next hops of one route", "range": (1, 64)})


@frozen
class WorkloadOptions:
    """`[workload]`."""

    prefix: str = field(
        default="bgpm",
        metadata={
            "help": "links on the host: the prefix and 11 characters of a hash",
            "pattern": (r"[a-z][a-z0-9]{0,3}", "one to four of a-z and 0-9, a letter first"),
        },
    )


@frozen
class NamespaceOptions:
    """`[namespace.NAME]`; a Namespace object of the same name goes before it while it is there."""

    name: str
    labels: Labels = field(default=(), metadata={"help": "for namespace selectors", "shown": '{ env = "prod" }'})


@frozen
class PolicyOptions:
    """`[policy]`."""

    revoke: bool = field(
        default=True, metadata={"help": "a change cuts the connections that it no longer allows; false: they go on"}
    )

    directory: str = field(
        default="policies.d",
        metadata={
            "help": "objects, *.json, *.toml and *.yaml: beside this file, or an absolute path; read as they change"
        },
    )
    workload_to_host: str = field(
        default="deny",
        metadata={
            "help": "what a workload may send to its own node, if its policies allow it: nothing, all, or what the "
            "host's other rules say",
            "choices": ("deny", "allow", "return"),
        },
    )
    nflog_group: int = field(
        default=7077,
        metadata={
            "help": "NFLOG group that drops go to while `policy drops --follow` runs; Calico has 1 and 2",
            "range": (1, 65_535),
        },
    )
    failsafe_inbound: tuple[Failsafe, ...] | None = field(
        default=None,
        metadata={
            "help": "ports of the node that no host endpoint closes, and no others; absent: ssh, DHCP, BGP as "
            "configured, BFD, etcd, Typha and the API server",
            "example": '["tcp:22", "udp:68", "tcp:192.0.2.0/24:6443"]',
        },
    )
    failsafe_outbound: tuple[Failsafe, ...] | None = field(
        default=None,
        metadata={
            "help": "ports elsewhere that no host endpoint closes, and no others; absent: DNS, DHCP, and the same as "
            "inbound but for ssh",
            "example": '["udp:53", "udp:67", "tcp:179"]',
        },
    )


@frozen
class StateOptions:
    """`[state]`."""

    directory: str = field(
        default="/var/lib/bgpmesh",
        metadata={"help": "what must survive a restart", "pattern": (r"/.*", "an absolute path")},
    )
    journal_mb: int = field(
        default=4,
        metadata={
            "help": "the newest events, in memory, for journal.gz on a bug or SIGUSR1; 0: none",
            "unit": "MB",
            "range": (0, 1024),
        },
    )
    record_mb: int = field(
        default=0,
        metadata={
            "help": "every event from the start, in recording.journal, up to this size; 0: none",
            "unit": "MB",
            "range": (0, 65_536),
        },
    )


@frozen
class Config:
    """Everything the file says, for every node of the cluster."""

    file: str
    cluster: ClusterOptions
    pools: tuple[Pool, ...] = ()
    nodes: tuple[NodeOptions, ...] = ()
    neighbours: tuple[PeerOptions, ...] = ()
    filters: tuple[Filter, ...] = ()
    floating: tuple[FloatingIp, ...] = ()
    processes: tuple[ProcessOptions, ...] = ()
    kernel: KernelOptions = field(default_factory=KernelOptions)
    routes: EcmpOptions = field(default_factory=EcmpOptions)
    workload: WorkloadOptions = field(default_factory=WorkloadOptions)
    namespaces: tuple[NamespaceOptions, ...] = ()
    policy: PolicyOptions = field(default_factory=PolicyOptions)
    metrics: MetricsOptions = field(default_factory=MetricsOptions)
    control: ControlOptions = field(default_factory=ControlOptions)
    state: StateOptions = field(default_factory=StateOptions)

    def node(self, name: str) -> NodeOptions:
        """Return the node; raises ConfigError that lists those the file has.

        A file with only `[peer.*]` is about the host that reads it, whatever its name: their `source` is its address.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        sources = [peer.source for peer in self.neighbours if peer.source is not None and not self.nodes]
        sources.sort(key=lambda address: address.version)
        if sources:
            return NodeOptions(name, sources[0], next((each for each in sources if each.version == 6), None))
        has = f"it has {', '.join(node.name for node in self.nodes)}" if self.nodes else _NO_NODES
        raise ConfigError((Problem(self.file, "node", name, f"node {name} is not in the file; {has}"),))

    def neighbours_of(self, node: NodeOptions) -> tuple[PeerOptions, ...]:
        """Return the `[peer.*]` whose selector means this node."""
        return tuple(peer for peer in self.neighbours if selects(peer, node))

    def processes_of(self, node: NodeOptions) -> tuple[ProcessOptions, ...]:
        """Return the `[process.*]` whose selector means this node."""
        return tuple(process for process in self.processes if selects(process, node))


SINGLE: dict[str, tuple[type[Options], ...]] = {
    "cluster": (ClusterOptions,),
    "kernel": (KernelOptions, EcmpOptions),
    "workload": (WorkloadOptions,),
    "policy": (PolicyOptions,),
    "metrics": (MetricsOptions,),
    "control": (ControlOptions,),
    "state": (StateOptions,),
}
NAMED: dict[str, type[Options]] = {
    "pool": Pool,
    "node": NodeOptions,
    "peer": PeerOptions,
    "filter": Filter,
    "floating_ip": FloatingIp,
    "process": ProcessOptions,
    "namespace": NamespaceOptions,
}
