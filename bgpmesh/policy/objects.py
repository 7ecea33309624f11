"""Objects as people and API servers write them -> the model: `read` is the one door.

A document is what a JSON, YAML or TOML parser makes of a text: an object in the shape of Kubernetes or Calico
(`apiVersion`, `kind`, `metadata`, `spec`), a `List` of such (or a `NetworkPolicyList` and the like), or nothing. TOML
has no form of its own: each object is an `[[object]]` table with the same keys in it.

    [[object]]
    apiVersion = "networking.k8s.io/v1"
    kind = "NetworkPolicy"
    metadata = { name = "web", namespace = "shop" }
    staged = true                                    # counted and explained, not enforced
    [object.spec]
    podSelector = { matchLabels = { app = "web" } }

`staged = true` makes a staged policy of a NetworkPolicy or GlobalNetworkPolicy, in TOML and elsewhere.

 1. An object is taken as a whole or refused as a whole, with everything that is wrong with it, each with its path.
 2. A refused object never stops the others.
 3. What is not known is refused, never ignored; what an API server adds (`status`, `metadata.uid` and the like)
    is not looked at.
 4. Whatever a parser can return is answered: there is no exception.
 5. Of two objects of one name the first is taken, and the second refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, TypeGuard

from bgpmesh.frozen import frozen
from bgpmesh.policy import calico, kubernetes
from bgpmesh.policy.calico import DEFAULT_TIER, IPPool
from bgpmesh.policy.fields import (
    LONGEST_NAME,
    BadValueError,
    Fields,
    Findings,
    Head,
    dns_label,
    dns_name,
    printable,
    shown,
)
from bgpmesh.policy.kubernetes import Namespace
from bgpmesh.policy.rule import HostEndpoint, NetworkSet, Policy, Profile, Tier

Value = Policy | Tier | Profile | NetworkSet | HostEndpoint | IPPool | Namespace

CALICO = "projectcalico.org"
_SHORT = {  # as kubectl and calicoctl have them
    "netpol": "networkpolicy",
    "np": "networkpolicy",
    "gnp": "globalnetworkpolicy",
    "ns": "namespace",
    "netset": "networkset",
    "gns": "globalnetworkset",
    "hep": "hostendpoint",
}
DEEPEST = 100  # tables and lists of an object within each other
MOST_VALUES = 4 << 20  # in all of them; aliases of YAML make as many of a few lines as they like
DEFAULT_NAMESPACE = "default"  # of an object whose kind has namespaces and which names none

# What an API server writes into metadata, and says nothing about who may talk to whom.
_SERVER_METADATA = (
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)


@frozen
class Key:
    """Which object: `kind` as kubectl tells kinds of one name apart, and for a policy of Calico its tier."""

    kind: str  # "NetworkPolicy" (Kubernetes'), "NetworkPolicy.projectcalico.org", "Tier", ..
    namespace: str | None
    name: str
    tier: str = ""
    written: str = field(default="", compare=False)  # the name in the object: `deny` or `first.deny`

    def __str__(self) -> str:
        name = self.written or self.name
        return f"{self.kind.partition('.')[0]} {name if self.namespace is None else f'{self.namespace}/{name}'}"

    def is_of(self, kind: str) -> bool:
        """Tell whether a word means this kind; the short one means all that share it."""
        names = {self.kind.lower(), self.kind.partition(".")[0].lower()}
        plurals = {f"{name[:-1]}ies" if name.endswith("y") else f"{name}s" for name in names}
        return kind.lower() in names | plurals or _SHORT.get(kind.lower()) in names

    def answers_to(self, kind: str, name: str, namespace: str | None) -> bool:
        """Tell whether these words of a command line mean this object; `namespace` counts where the kind has them."""
        names = {self.written or self.name, f"{self.tier}.{self.name}" if self.tier else self.name}
        if self.tier in {"", DEFAULT_TIER.name}:
            names.add(self.name)
        return self.is_of(kind) and name in names and self.namespace in {None, namespace or DEFAULT_NAMESPACE}


class Remark(NamedTuple):
    """What is wrong with an object: `NetworkPolicy shop/web`, `spec.ingress[0].from`, and why."""

    object: str
    field: str
    reason: str


@dataclass(slots=True)
class Read:
    """What came of the documents: what was taken, and the object it stood in, by key; what was not; what is odd.

    `bad`: the objects that were refused, as far as they say which they are; `is_certain`: all of them do.
    """

    objects: dict[Key, Value] = field(default_factory=dict)
    documents: dict[Key, Mapping[object, object]] = field(default_factory=dict)
    refused: list[Remark] = field(default_factory=list)
    warnings: list[Remark] = field(default_factory=list)
    bad: dict[Key, list[Remark]] = field(default_factory=dict)
    is_certain: bool = True


class _Kind(NamedTuple):
    """How a kind is read; `identity`: its name in keys."""

    identity: str
    read: Callable[[Head, Fields], Value]
    is_namespaced: bool = False
    has_tier: bool = False
    can_be_staged: bool = False
    are_labels_matched: bool = False  # its own labels are what selectors look at


_CALICO_KINDS = {
    "NetworkPolicy": _Kind(
        f"NetworkPolicy.{CALICO}", calico.policy, is_namespaced=True, has_tier=True, can_be_staged=True
    ),
    "GlobalNetworkPolicy": _Kind("GlobalNetworkPolicy", calico.global_policy, has_tier=True, can_be_staged=True),
    "StagedNetworkPolicy": _Kind("StagedNetworkPolicy", calico.staged_policy, is_namespaced=True, has_tier=True),
    "StagedGlobalNetworkPolicy": _Kind("StagedGlobalNetworkPolicy", calico.staged_global_policy, has_tier=True),
    "StagedKubernetesNetworkPolicy": _Kind(
        "StagedKubernetesNetworkPolicy", calico.staged_kubernetes_policy, is_namespaced=True
    ),
    "Tier": _Kind("Tier", calico.tier),
    "Profile": _Kind("Profile", calico.profile),
    "NetworkSet": _Kind("NetworkSet", calico.network_set, is_namespaced=True, are_labels_matched=True),
    "GlobalNetworkSet": _Kind("GlobalNetworkSet", calico.network_set, are_labels_matched=True),
    "HostEndpoint": _Kind("HostEndpoint", calico.host_endpoint, are_labels_matched=True),
    "IPPool": _Kind("IPPool", calico.ip_pool),
}
_KUBERNETES_KINDS = {
    ("networking.k8s.io/v1", "NetworkPolicy"): _Kind(
        "NetworkPolicy", kubernetes.policy, is_namespaced=True, can_be_staged=True
    ),
    ("v1", "Namespace"): _Kind("Namespace", kubernetes.namespace),
}
_KINDS: dict[tuple[str, str], _Kind] = _KUBERNETES_KINDS | {
    (version, name): kind for version in (f"{CALICO}/v3", f"crd.{CALICO}/v1") for name, kind in _CALICO_KINDS.items()
}


def read(documents: Iterable[object]) -> Read:
    """Return what the documents say; never raises for what they say."""
    found = Read()
    for where, document in _unpacked(documents, found):
        _read_one(where, document, found)
    return found


def _unpacked(documents: Iterable[object], found: Read) -> Iterator[tuple[str, object]]:
    """Yield every single object, with what to call it where it does not say a name."""
    for number, document in enumerate(documents, 1):
        where = f"document {number}"
        if document is None:  # nothing between two `---` of YAML
            continue
        if not isinstance(document, Mapping):
            yield where, document
        elif "object" in document and "kind" not in document:
            yield from _items(where, document, "object", found)
        elif _is_list(document):
            yield from _items(where, document, "items", found)
        else:
            yield where, document


def _is_list(document: Mapping[object, object]) -> bool:
    version, kind = document.get("apiVersion"), document.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str):
        return False
    is_typed = kind.endswith("List") and (version, kind.removesuffix("List")) in _KINDS
    return is_typed or (version, kind) == ("v1", "List")


def _items(where: str, document: Mapping[object, object], key: str, found: Read) -> Iterator[tuple[str, object]]:
    """Yield the objects of a list; those of a typed list need not say again what they are."""
    findings = Findings()
    fields = Fields(document, "", findings)
    given: dict[object, object] = {}
    if key == "items":
        version, kind = fields.text("apiVersion"), fields.text("kind")
        fields.take("metadata")
        given = {} if kind == "List" else {"apiVersion": version, "kind": kind.removesuffix("List")}
    items = fields.each(key, lambda item: (item,))  # in a tuple: null is absent elsewhere, and a fault here
    findings.close()
    found.refused += [Remark(where, *fault) for fault in findings.faults]
    found.is_certain = found.is_certain and not findings.faults
    for index, (item,) in enumerate(items, 1):
        yield f"{where}, {key} {index}", {**given, **item} if isinstance(item, Mapping) else item


def _read_one(where: str, document: object, found: Read) -> None:
    findings = Findings()
    top = Fields(document, "", findings)
    if not isinstance(document, Mapping):
        found.refused += [Remark(where, *fault) for fault in findings.faults]
        found.is_certain = False
        return
    kind = _kind(top)
    title = _title(document, kind, where)
    key = None
    if kind is not None:
        key, head = _head(top, kind)
        top.take("status")
        if key in found.objects:
            top.refuse("metadata.name", f"is {shown(key.written)}: there is another {title} before it")
        value = kind.read(head, top.table("spec") or Fields({}, "spec", findings))
        if reason := _not_to_be_kept(document):
            top.refuse("", reason)
        findings.close()
        if not findings.faults:
            found.objects[key] = value
            found.documents[key] = document
            found.warnings += [Remark(title, *fault) for fault in findings.warnings]
    remarks = [Remark(title, *fault) for fault in findings.faults]
    found.refused += remarks
    if remarks and key is not None and key.name and key not in found.objects:
        found.bad.setdefault(key, []).extend(remarks)
    elif remarks and (key is None or not key.name):
        found.is_certain = False


def _not_to_be_kept(document: object) -> str:
    """Return why a document cannot be written as JSON, as it is kept and shown, "" where it can.

    YAML has keys that are dates, what contains itself, and lists of lists of a thousand of the same.
    """
    level, count = [document], 0
    for _ in range(DEEPEST):
        tables = [each for each in level if isinstance(each, Mapping)]
        odd = next((key for each in tables for key in each if not isinstance(key, str | int | float | None)), "")
        if odd != "":
            return f"has the key {printable(str(odd))}, which is not a text: put it in quotation marks"
        inner = [each.values() if isinstance(each, Mapping) else each for each in level if _has_more(each)]
        count += sum(map(len, inner))
        if count > MOST_VALUES:
            return f"has more than {MOST_VALUES} values"
        level = list(chain.from_iterable(inner))
        if not level:
            return ""
    return f"is nested more than {DEEPEST} deep"


def _has_more(value: object) -> TypeGuard[Mapping[object, object] | list[object] | tuple[object, ...]]:
    return isinstance(value, Mapping | list | tuple)


def _title(document: Mapping[object, object], kind: _Kind | None, where: str) -> str:
    """Return what people call an object, whatever is wrong with it."""
    metadata = document.get("metadata")
    name, namespace = (metadata.get("name"), metadata.get("namespace")) if isinstance(metadata, Mapping) else ("", "")
    if kind is not None:
        namespace = (namespace or DEFAULT_NAMESPACE) if kind.is_namespaced else None
    said = document.get("kind")
    if not isinstance(said, str) or not said or not isinstance(name, str) or not name:
        return f"{printable(said)} ({where})" if isinstance(said, str) and said else where
    full = f"{namespace}/{name}" if isinstance(namespace, str) and namespace else name
    return f"{printable(said)} {printable(full, 2 * LONGEST_NAME)}"


def _kind(top: Fields) -> _Kind | None:
    """Return how to read an object, None (and a fault) where nobody can."""
    version, kind = top.text("apiVersion"), top.text("kind")
    for key in ("apiVersion", "kind"):
        if top.take(key) in (None, ""):
            top.refuse(key, "is missing")
    if not version or not kind:
        return None
    if (version, kind) in _KINDS:
        return _KINDS[version, kind]
    versions = [known for known, name in _KINDS if name == kind]
    if versions:
        top.refuse("apiVersion", f"is {shown(version)}: a {kind} is of {' or '.join(versions)}")
    else:
        known = sorted({name for _, name in _KINDS})
        top.refuse(
            "kind", f"is {shown(kind)} of {shown(version)}, which says nothing here; known are {', '.join(known)}"
        )
    return None


def _head(top: Fields, kind: _Kind) -> tuple[Key, Head]:
    """Return which object it is, and what stands around its spec; a name that is none is ""."""
    metadata = top.table("metadata")
    if metadata is None:
        if not top.has("metadata"):
            top.refuse("metadata", "is missing: it has the name")
        return Key(kind.identity, None, ""), Head("", None, {})
    for ignored in _SERVER_METADATA:
        metadata.take(ignored)
    namespace = _namespace(metadata, kind)
    labels = metadata.labels("labels", are_own=kind.are_labels_matched)
    written = metadata.one("name", dns_label if kind.identity in {"Namespace", "Tier"} else dns_name) or ""
    if not metadata.has("name"):
        metadata.refuse("name", "is missing")
    is_staged = kind.can_be_staged and top.flag("staged")
    tier, name = _tier(top, metadata, written) if kind.has_tier else ("", written)
    if kind.identity == "Namespace" and labels.get(kubernetes.NAME_LABEL, name) != name:
        metadata.refuse("labels", f"has {kubernetes.NAME_LABEL} of another name: it is always {name}")
    key = Key(kind.identity, namespace, name, tier, written)
    return key, Head(name, namespace, labels, tier or DEFAULT_TIER.name, is_staged)


def _namespace(metadata: Fields, kind: _Kind) -> str | None:
    if kind.is_namespaced:
        named = metadata.one("namespace", dns_label) if metadata.text("namespace") else None
        return named or DEFAULT_NAMESPACE
    if metadata.text("namespace"):
        metadata.refuse("namespace", f"is {shown(metadata.text('namespace'))}: a {kind.identity} is in none")
    return None


def _tier(top: Fields, metadata: Fields, written: str) -> tuple[str, str]:
    """Return the tier of a policy, and its name within it."""
    spec = top.take("spec")
    said = spec.get("tier") if isinstance(spec, Mapping) else None
    try:
        tier = "" if said in (None, "") else dns_label(said)
    except BadValueError as error:
        top.refuse("spec.tier", str(error))
        return DEFAULT_TIER.name, written
    try:
        return calico.split_name(written, tier)
    except BadValueError as error:
        metadata.refuse("name", str(error))
        return tier or DEFAULT_TIER.name, written
