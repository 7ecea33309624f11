"""What may pass at this node: the objects in force, and the workloads and host endpoints here, as chains and sets.

A node without either wants no chain: there is nothing to protect, and iptables is not called. With the first workload
comes all that must stand before its link is opened, and it goes with the last link.

A host endpoint is enforced on the interface of its name, there or not yet, or on those that have an address that it
expects. Where several are about one interface, the first by name is; `*` is all interfaces that none is on.

Labels that nobody writes: a workload has those of its namespace as `pcns.KEY`, the namespace's name, and a mark
that it is a workload, which tells it from a network set with the same labels. A namespace has its name as a label,
as Kubernetes gives it and as Calico does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field, replace
from operator import itemgetter

from bgpmesh.frozen import frozen
from bgpmesh.policy.calico import OWN_TIERS
from bgpmesh.policy.chains import AddressSet, ChainKey, Rules
from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.form import FAMILIES, Compiled, Ground
from bgpmesh.policy.identity import WORKLOAD, encode, unanswered
from bgpmesh.policy.iptables import HOOKS, SPARE, Options, Verdicts, render, verdicts
from bgpmesh.policy.kubernetes import CALICO_NAME_LABEL, NAME_LABEL, Namespace
from bgpmesh.policy.model import Host, Member, Model
from bgpmesh.policy.objects import Key, Value
from bgpmesh.policy.rule import (
    NAMESPACE_LABEL,
    NAMESPACE_PREFIX,
    PROTOCOLS,
    WORKLOAD_LABEL,
    HostEndpoint,
    IPNetwork,
    NetworkSet,
    Policy,
    Profile,
    Tier,
)
from bgpmesh.route.claim import Claims
from bgpmesh.route.nlri import IPAddress, Nlri
from bgpmesh.workload.endpoint import Endpoint

TABLES = frozenset(HOOKS) - SPARE  # without which nobody is let in
OPEN_PROFILE = "projectcalico-default-allow"  # that Calico has, and gives host endpoints that it makes itself
OWN_LABELS = (NAMESPACE_LABEL, WORKLOAD_LABEL)  # of a workload: not given by people, nor what begins with `pcns.`


@frozen
class Surroundings:
    """What the configuration says that verdicts depend on.

    `space`: pools, every node's pod CIDRs, what ranges may own. `namespaces`: the labels of those in the file.
    """

    space: tuple[IPNetwork, ...] = ()
    addresses: frozenset[IPAddress] = frozenset()  # this node's own
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    is_revoking: bool = True  # a change cuts the connections that it no longer allows
    node: str = ""  # whose host endpoints are enforced here


class Protection:
    """The objects in force on this node, what they come to for the workloads here, and what others hear of those."""

    def __init__(self) -> None:
        self.objects: Mapping[Key, Value] = {}
        self.compiled = Compiler().compile(Model())
        self.options = Options()
        self.log_group = 0  # of NFLOG, while somebody follows what is dropped
        self.unplaced: dict[str, str] = {}  # host endpoints of this node that are not in force, with the reason
        self._compiler = Compiler()
        self._looked_in: Mapping[Key, Value] = self.objects  # for host endpoints, and what was found
        self._found: list[HostEndpoint] = []
        self._rendered: tuple[Compiled | None, Options, Mapping[ChainKey, Rules]] = (None, self.options, {})
        self._verdicts: Verdicts | None = None  # of the last time
        self._members: dict[str, tuple[Endpoint, Mapping[str, str], Member]] = {}  # to know again who did not change

    def wanted(
        self,
        endpoints: Mapping[str, Endpoint],
        around: Surroundings,
        interfaces: Mapping[IPAddress, Collection[str]] | None = None,
        *,
        is_needed: bool,
        held: Mapping[str, frozenset[bytes]] | None = None,
    ) -> tuple[dict[ChainKey, Rules], dict[str, AddressSet]]:
        """Return the chains and the sets by their names; nothing where no link of ours is there, and no host endpoint.

        `interfaces`: which of the addresses that host endpoints expect this host has, and where. `held`: other nodes'
        members of the sets that an earlier life has left, while this one knows nothing of them.
        """
        self.compile(endpoints, around, interfaces or {})
        if not is_needed and not self.compiled.hosts:
            return {}, {}
        sets = self._with_held(held) if held else dict(self.compiled.sets)
        return dict(self._chains(replace(around.options, log_group=self.log_group))), sets

    def compile(
        self,
        endpoints: Mapping[str, Endpoint],
        around: Surroundings,
        interfaces: Mapping[IPAddress, Collection[str]],
    ) -> Compiled:
        """Work out the form that `wanted` makes chains and sets of, and return it."""
        hosts = self._place(around, interfaces)
        self.compiled = self._compiler.compile(self._model(endpoints.values(), around, hosts))
        self.options = around.options
        return self.compiled

    def _chains(self, options: Options) -> Mapping[ChainKey, Rules]:
        """Return the rules of the compiled form: those of the last time where only sets differ."""
        compiled, (before, last, chains) = self.compiled, self._rendered
        if before is None or options != last or not compiled.has_rules_of(before):
            self._verdicts = verdicts(compiled, options, self._verdicts)
            chains = render(compiled, options, self._verdicts)
            self._rendered = compiled, options, chains
        return chains

    def _with_held(self, held: Mapping[str, frozenset[bytes]]) -> dict[str, AddressSet]:
        """Return the sets with what is held in those that other nodes' workloads may be in.

        Who is known is held only where each of those sets is: who is known and in no new set would be known not to be.
        """
        sources = {name: source for body in self.compiled.bodies.values() for name, source in body.sets.items()}
        asked = {name: s for name, s in sources.items() if not isinstance(s.content, (tuple, Ground))}
        are_whole = {family for family in FAMILIES if all(n in held for n, s in asked.items() if s.family == family)}
        found = dict(self.compiled.sets)
        for name, source in sources.items():
            if name in held and (name in asked or (source.content is Ground.KNOWN and source.family in are_whole)):
                found[name] = replace(found[name], members=found[name].members | held[name])
        return found

    def learn(self, changes: Mapping[Nlri, Claims | None]) -> bool:
        """Take in what is said of addresses of other nodes' workloads (None: nothing any more).

        Tell whether it is of some another thing than before, beside those that come and go.
        """
        return self._compiler.learn(changes)

    @property
    def remote(self) -> Mapping[Nlri, Claims]:
        """The addresses of other nodes' workloads with what is said of each; follows `learn`."""
        return self._compiler.remote

    @property
    def remote_count(self) -> int:
        """Of how many addresses of other nodes' workloads something is said."""
        return len(self._compiler.remote)

    def claims(self, endpoints: Iterable[Endpoint], around: Surroundings) -> dict[str, Claims]:
        """Return what other nodes are to hear of each of these workloads, by key."""
        namespaces = self._namespaces(around)
        given = {value.name: value.labels for value in self.objects.values() if isinstance(value, Profile)}
        found: dict[str, Claims] = {}
        for endpoint in endpoints:
            member = self._member(endpoint, namespaces)
            labels = {key: value for name in member.profiles for key, value in given.get(name, {}).items()}
            found[endpoint.key] = encode(labels | dict(member.labels), member.ports)
        return found

    def unanswered(self, *, has_identity: bool) -> list[tuple[str, str, str]]:
        """Return (object, field, reason) for each rule that asks for more than is known of other nodes' workloads."""
        return [
            (str(key), field, reason)
            for key, value in self.objects.items()
            if isinstance(value, Policy)
            for field, reason in unanswered(value, has_identity=has_identity)
        ]

    def policies(self) -> list[Policy]:
        """Return the policies in force, staged ones among them."""
        return [value for value in self.objects.values() if isinstance(value, Policy)]

    def expected(self, node: str) -> set[IPAddress]:
        """Return the addresses by which host endpoints of a node find their interfaces."""
        mine = (each for each in self._host_endpoints() if each.node == node and each.interface is None)
        return {address for each in mine for address in each.addresses}

    def _host_endpoints(self) -> list[HostEndpoint]:
        """Return every host endpoint by name; looked for once in the same objects."""
        if self._looked_in is not self.objects:
            found = [value for value in self.objects.values() if isinstance(value, HostEndpoint)]
            self._looked_in, self._found = self.objects, sorted(found, key=lambda each: each.name)
        return self._found

    def _place(self, around: Surroundings, interfaces: Mapping[IPAddress, Collection[str]]) -> tuple[Host, ...]:
        """Return every host endpoint, those of this node once for each interface that it is enforced on."""
        found: list[Host] = []
        taken: dict[str, str] = {}
        self.unplaced = {}
        for each in self._host_endpoints():
            member = _host_member(each)
            here: Collection[str] = () if each.interface is None else (each.interface,)
            if each.interface is None:
                here = sorted({name for address in each.addresses for name in interfaces.get(address, ())})
            free = [name for name in here if name not in taken and not name.startswith(around.options.prefix)]
            if each.node != around.node or not free:
                found.append(Host(member))
            if each.node != around.node:
                continue
            found += [Host(member, name) for name in free]
            if not here:
                self.unplaced[f"HostEndpoint {each.name}"] = "no interface has one of its expectedIPs"
            for name in here:
                if name in taken:
                    self.unplaced[f"HostEndpoint {each.name}"] = f"{name} is under HostEndpoint {taken[name]}"
                elif name not in free:
                    self.unplaced[f"HostEndpoint {each.name}"] = f"{name} is named like a workload's link"
            taken |= dict.fromkeys(free, each.name)
        return tuple(found)

    def _model(self, endpoints: Iterable[Endpoint], around: Surroundings, hosts: tuple[Host, ...]) -> Model:
        values = list(self.objects.values())
        namespaces = self._namespaces(around)
        members = {endpoint.key: self._member(endpoint, namespaces) for endpoint in endpoints}
        self._members = {key: self._members[key] for key in members}
        tiers = {value.name: value for value in values if isinstance(value, Tier)}
        profiles = {profile_of(name): Profile(profile_of(name)) for name in {m.namespace for m, _, _ in self._all()}}
        profiles[OPEN_PROFILE] = Profile(OPEN_PROFILE)
        profiles |= {value.name: value for value in values if isinstance(value, Profile)}
        groups = [value for value in values if isinstance(value, NetworkSet)]
        return Model(
            tuple((OWN_TIERS | tiers).values()),
            tuple(self.policies()),
            tuple(profiles.values()),
            tuple(replace(each, labels=labels_in(each.namespace, each.labels, namespaces)) for each in groups),
            members,
            around.space,
            around.addresses,
            self._compiler.remote,
            hosts,
        )

    def _namespaces(self, around: Surroundings) -> dict[str, dict[str, str]]:
        namespaces = {name: dict(labels) for name, labels in around.namespaces.items()}
        objects = (value for value in self.objects.values() if isinstance(value, Namespace))
        return namespaces | {value.name: dict(value.labels) for value in objects}

    def _all(self) -> Iterable[tuple[Endpoint, Mapping[str, str], Member]]:
        return self._members.values()

    def _member(self, endpoint: Endpoint, namespaces: Mapping[str, Mapping[str, str]]) -> Member:
        of_namespace = namespaces.get(endpoint.namespace, {})
        known = self._members.get(endpoint.key)
        if known is None or known[0] is not endpoint or known[1] != of_namespace:
            labels = labels_in(endpoint.namespace, dict(endpoint.labels), namespaces) | {WORKLOAD_LABEL: WORKLOAD}
            ports = {(name, PROTOCOLS[protocol]): number for name, protocol, number in endpoint.ports}
            profiles = (profile_of(endpoint.namespace),)
            member = Member(endpoint.key, labels, endpoint.addresses, ports, endpoint.interface, profiles)
            known = self._members[endpoint.key] = endpoint, dict(of_namespace), member
        return known[2]


def members_within(sets: Mapping[str, AddressSet], blocks: Iterable[IPNetwork]) -> dict[str, frozenset[bytes]]:
    """Return the members of each set that are single addresses, or ports of such, in one of these blocks."""
    ends: dict[int, list[tuple[bytes, bytes]]] = {4: [], 16: []}  # by octets of an address
    for first, last in sorted((block[0].packed, block[-1].packed) for block in blocks):
        ends[len(first)].append((first, last))

    def is_within(member: bytes) -> bool:
        is_net = len(member) in {5, 17}
        address = member[1:] if is_net else member[:-3]
        if is_net and member[0] != 8 * len(address):
            return False
        ranges = ends[len(address)]
        at = bisect_right(ranges, address, key=itemgetter(0)) - 1
        return at >= 0 and address <= ranges[at][1]

    return {name: frozenset(filter(is_within, each.members)) for name, each in sets.items()}


def _host_member(each: HostEndpoint) -> Member:
    key = f"host {each.node}/{each.name}"
    return Member(key, dict(each.labels), each.addresses, dict(each.ports), None, each.profiles)


def labels_in(
    namespace: str | None, own: Mapping[str, str], namespaces: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Return the labels of what lives in a namespace (None: in no one): its own, and those that it has from there."""
    if namespace is None:
        return dict(own)
    named = {NAME_LABEL: namespace, CALICO_NAME_LABEL: namespace} | dict(namespaces.get(namespace, {}))
    given = {f"{NAMESPACE_PREFIX}{key}": value for key, value in named.items()}
    return dict(own) | given | {NAMESPACE_LABEL: namespace}


def profile_of(namespace: str) -> str:
    """Return the name of the profile that every workload of a namespace has, and that allows all (Calico's name)."""
    return f"kns.{namespace}"
