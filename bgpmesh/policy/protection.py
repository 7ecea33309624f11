"""What may pass at this node: the objects in force, and the workloads here, as chains and sets.

A node without workloads wants no chain: there is nothing to protect, and iptables is not called. With the first one
comes all that must stand before its link is opened, and it goes with the last link.

Labels that nobody writes: a workload has those of its namespace as `pcns.KEY`, the namespace's name, and a mark
that it is a workload, which tells it from a network set with the same labels. A namespace has its name as a label,
as Kubernetes gives it and as Calico does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from bgpmesh.policy.calico import OWN_TIERS
from bgpmesh.policy.chains import AddressSet, ChainKey, Rules
from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.iptables import HOOKS, Options, render
from bgpmesh.policy.kubernetes import CALICO_NAME_LABEL, NAME_LABEL, Namespace
from bgpmesh.policy.model import Member, Model
from bgpmesh.policy.objects import Key, Value
from bgpmesh.policy.rule import (
    NAMESPACE_LABEL,
    NAMESPACE_PREFIX,
    PROTOCOLS,
    WORKLOAD_LABEL,
    IPNetwork,
    NetworkSet,
    Policy,
    Profile,
    Tier,
)
from bgpmesh.route.nlri import IPAddress
from bgpmesh.workload.endpoint import Endpoint

TABLES = frozenset(HOOKS)  # that have a say in what passes
OWN_LABELS = (NAMESPACE_LABEL, WORKLOAD_LABEL)  # of a workload: not given by people, nor what begins with `pcns.`


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the configuration says that verdicts depend on.

    `space`: pools, every node's pod CIDRs, what ranges may own. `namespaces`: the labels of those in the file.
    """

    space: tuple[IPNetwork, ...] = ()
    addresses: frozenset[IPAddress] = frozenset()  # this node's own
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    is_revoking: bool = True  # a change cuts the connections that it no longer allows


class Protection:
    """The objects in force on this node, and what they come to for the workloads here."""

    def __init__(self) -> None:
        self.objects: Mapping[Key, Value] = {}
        self.compiled = Compiler().compile(Model())
        self.options = Options()
        self._compiler = Compiler()
        self._members: dict[str, tuple[Endpoint, Mapping[str, str], Member]] = {}  # to know again who did not change

    def wanted(
        self, endpoints: Mapping[str, Endpoint], around: Surroundings, *, is_needed: bool
    ) -> tuple[dict[ChainKey, Rules], dict[str, AddressSet]]:
        """Return the chains and the sets by their names; nothing where it is not needed: no link of ours is there."""
        self.compiled = self._compiler.compile(self._model(endpoints.values(), around))
        self.options = around.options
        if not is_needed:
            return {}, {}
        return render(self.compiled, around.options), dict(self.compiled.sets)

    def policies(self) -> list[Policy]:
        """Return the policies in force, staged ones among them."""
        return [value for value in self.objects.values() if isinstance(value, Policy)]

    def _model(self, endpoints: Iterable[Endpoint], around: Surroundings) -> Model:
        values = list(self.objects.values())
        namespaces = {name: dict(labels) for name, labels in around.namespaces.items()}
        namespaces |= {value.name: dict(value.labels) for value in values if isinstance(value, Namespace)}
        members = {endpoint.key: self._member(endpoint, namespaces) for endpoint in endpoints}
        self._members = {key: self._members[key] for key in members}
        tiers = {value.name: value for value in values if isinstance(value, Tier)}
        profiles = {profile_of(name): Profile(profile_of(name)) for name in {m.namespace for m, _, _ in self._all()}}
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
        )

    def _all(self) -> Iterable[tuple[Endpoint, Mapping[str, str], Member]]:
        return self._members.values()

    def _member(self, endpoint: Endpoint, namespaces: Mapping[str, Mapping[str, str]]) -> Member:
        of_namespace = namespaces.get(endpoint.namespace, {})
        known = self._members.get(endpoint.key)
        if known is None or known[0] is not endpoint or known[1] != of_namespace:
            labels = labels_in(endpoint.namespace, dict(endpoint.labels), namespaces) | {WORKLOAD_LABEL: "k8s"}
            ports = {(name, PROTOCOLS[protocol]): number for name, protocol, number in endpoint.ports}
            profiles = (profile_of(endpoint.namespace),)
            member = Member(endpoint.key, labels, endpoint.addresses, ports, endpoint.interface, profiles)
            known = self._members[endpoint.key] = endpoint, dict(of_namespace), member
        return known[2]


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
