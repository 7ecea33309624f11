"""The door for objects: what is unpacked, named, refused, and never raised."""

from __future__ import annotations

import datetime as dt
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.policy import objects
from bgpmesh.policy.objects import Key, Read, read
from bgpmesh.policy.rule import Policy

Json = dict[object, object]

K8S, CALICO, CRD = "networking.k8s.io/v1", "projectcalico.org/v3", "crd.projectcalico.org/v1"


def document(kind: str = "NetworkPolicy", version: str = K8S, **metadata: object) -> Json:
    """Return an object without a spec."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "web", **metadata}}


def also(source: Json, key: object, value: object) -> dict[object, object]:
    """Return an object with one more key."""
    return {**source, key: value}


def titles(found: Read) -> list[str]:
    """Return what was taken, as people call it."""
    return list(map(str, found.objects))


def test_every_kind_has_its_key() -> None:
    """Objects of one name and different kinds are different objects; a kind has a namespace or has none."""
    documents = [
        document(),
        document(version=CALICO),
        document("StagedNetworkPolicy", CALICO),
        document("StagedKubernetesNetworkPolicy", CALICO),
        document("GlobalNetworkPolicy", CALICO),
        document("StagedGlobalNetworkPolicy", CALICO),
        document("NetworkSet", CALICO),
        document("GlobalNetworkSet", CALICO),
        document("Tier", CALICO),
        document("Profile", CALICO),
        document("Namespace", "v1"),
        {**document("HostEndpoint", CALICO), "spec": {"node": "n1", "interfaceName": "*"}},
        {**document("IPPool", CALICO), "spec": {"cidr": "10.0.0.0/8"}},
    ]
    found = read(documents)
    assert found.refused == []
    assert list(found.objects) == [
        Key("NetworkPolicy", "default", "web"),
        Key("NetworkPolicy.projectcalico.org", "default", "web", "default"),
        Key("StagedNetworkPolicy", "default", "web", "default"),
        Key("StagedKubernetesNetworkPolicy", "default", "web"),
        Key("GlobalNetworkPolicy", None, "web", "default"),
        Key("StagedGlobalNetworkPolicy", None, "web", "default"),
        Key("NetworkSet", "default", "web"),
        Key("GlobalNetworkSet", None, "web"),
        Key("Tier", None, "web"),
        Key("Profile", None, "web"),
        Key("Namespace", None, "web"),
        Key("HostEndpoint", None, "web"),
        Key("IPPool", None, "web"),
    ]
    assert titles(found)[:2] == ["NetworkPolicy default/web"] * 2
    assert titles(found)[4] == "GlobalNetworkPolicy web"
    assert list(found.documents.items()) == list(zip(found.objects, documents, strict=True))


def test_what_an_api_server_adds_is_not_looked_at() -> None:
    """An object can be applied as it was fetched."""
    added = {
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        "creationTimestamp": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "finalizers": [],
        "generation": 1,
        "managedFields": [{}],
        "ownerReferences": [],
        "resourceVersion": "1",
        "uid": "2",
        "labels": {"app": "a"},
    }
    found = read([{**document("NetworkPolicy", K8S, **added), "status": {"conditions": []}}])
    assert found.refused == []
    assert titles(found) == ["NetworkPolicy default/web"]


def test_lists_are_unpacked() -> None:
    """Of kubectl and of calicoctl, where the items need not say what they are; and what is nothing is passed over."""
    items = [document(), document(name="db")]
    bare = [{"metadata": {"name": "all"}}, {"metadata": {"name": "none"}}]
    found = read(
        [
            None,
            {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items},
            {"apiVersion": CRD, "kind": "GlobalNetworkPolicyList", "items": bare},
            {"apiVersion": "v1", "kind": "List", "items": []},
        ]
    )
    assert found.refused == []
    assert titles(found) == [
        "NetworkPolicy default/web",
        "NetworkPolicy default/db",
        "GlobalNetworkPolicy all",
        "GlobalNetworkPolicy none",
    ]


def test_toml_has_the_same_shape() -> None:
    """`[[object]]` tables, and `staged = true`."""
    text = """
        [[object]]
        apiVersion = "networking.k8s.io/v1"
        kind = "NetworkPolicy"
        metadata = { name = "web", namespace = "shop" }
        staged = true
        [object.spec]
        podSelector = { matchLabels = { app = "web" } }
        [[object.spec.ingress]]
        from = [{ podSelector = {} }]

        [[object]]
        apiVersion = "projectcalico.org/v3"
        kind = "Tier"
        metadata.name = "first"
        spec.order = 10
    """
    found = read([tomllib.loads(text)])
    assert found.refused == []
    policy, _ = found.objects.values()
    assert isinstance(policy, Policy)
    assert (policy.is_staged, len(policy.ingress)) == (True, 1)
    assert titles(found) == ["NetworkPolicy shop/web", "Tier first"]


KNOWN = (
    "GlobalNetworkPolicy, GlobalNetworkSet, HostEndpoint, IPPool, Namespace, NetworkPolicy, NetworkSet, Profile,"
    " StagedGlobalNetworkPolicy, StagedKubernetesNetworkPolicy, StagedNetworkPolicy, Tier"
)
DNS_LABEL = "not 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"
DNS_NAME = "not 1 to 253 of a-z, 0-9, '-' and '.', with a letter or digit at both ends of every part"

REFUSED: list[tuple[object, str, str, str]] = [
    ("text", "document 1", "", "is 'text', not a table"),
    ([document()], "document 1", "", "is a list, not a table"),
    (dt.date(2024, 1, 1), "document 1", "", "is a date, not a table"),
    ({}, "document 1", "apiVersion", "is missing"),
    (also(document(), "kind", ""), "document 1", "kind", "is missing"),
    (also(document(), "kind", 1), "document 1", "kind", "is 1, not a text"),
    (also(document(), "apiVersion", None), "NetworkPolicy web", "apiVersion", "is missing"),
    (
        document("NetworkPolicy", "extensions/v1beta1", namespace="shop"),
        "NetworkPolicy shop/web",
        "apiVersion",
        f"is 'extensions/v1beta1': a NetworkPolicy is of {K8S} or {CALICO} or {CRD}",
    ),
    (
        document("Deployment", "apps/v1", namespace="shop"),
        "Deployment shop/web",
        "kind",
        f"is 'Deployment' of 'apps/v1', which says nothing here; known are {KNOWN}",
    ),
    (
        {"apiVersion": K8S, "kind": "NetworkPolicy"},
        "NetworkPolicy (document 1)",
        "metadata",
        "is missing: it has the name",
    ),
    (also(document(), "metadata", "web"), "NetworkPolicy (document 1)", "metadata", "is 'web', not a table"),
    (document(name=None), "NetworkPolicy (document 1)", "metadata.name", "is missing"),
    (document(name=7), "NetworkPolicy (document 1)", "metadata.name", f"is 7, {DNS_NAME}"),
    *(
        (document(name=name), f"NetworkPolicy default/{shown}", "metadata.name", f"is {name!r}, {DNS_NAME}")
        for name, shown in (
            ("Web", "Web"),
            ("a..b", "a..b"),
            ("-a", "-a"),
            ("a_b", "a_b"),
            ("a/b", "a/b"),
            ("web\n", "web\\n"),
            ("\u00e9", "\u00e9"),
        )
    ),
    (document("Namespace", "v1", name="a.b"), "Namespace a.b", "metadata.name", f"is 'a.b', {DNS_LABEL}"),
    (document("Tier", CALICO, name="a.b"), "Tier a.b", "metadata.name", f"is 'a.b', {DNS_LABEL}"),
    (
        document(namespace="Shop"),
        "NetworkPolicy Shop/web",
        "metadata.namespace",
        f"is 'Shop', {DNS_LABEL}",
    ),
    (
        document("Tier", CALICO, namespace="shop"),
        "Tier web",
        "metadata.namespace",
        "is 'shop': a Tier is in none",
    ),
    (document(generateName="web-"), "NetworkPolicy default/web", "metadata.generateName", "is not known here"),
    (also(document(), "data", {}), "NetworkPolicy default/web", "data", "is not known here"),
    (also(document(), 1, {}), "NetworkPolicy default/web", "1", "is not known here"),
    (also(document(), "a\n" + "b" * 99, 1), "NetworkPolicy default/web", f"a\\n{'b' * 58}..", "is not known here"),
    (also(document(), "staged", "yes"), "NetworkPolicy default/web", "staged", "is 'yes', not true or false"),
    (also(document("Tier", CALICO), "staged", True), "Tier web", "staged", "is not known here"),
    (
        also(document("StagedNetworkPolicy", CALICO), "staged", True),
        "StagedNetworkPolicy default/web",
        "staged",
        "is not known here",
    ),
    ({"apiVersion": "v1", "kind": "List", "items": {}}, "document 1", "items", "is a table, not a list"),
    ({"apiVersion": "v1", "kind": "List", "objects": []}, "document 1", "objects", "is not known here"),
    ({"apiVersion": "v1", "kind": "List", "items": [None]}, "document 1, items 1", "", "is null, not a table"),
    ({"object": "x"}, "document 1", "object", "is 'x', not a list"),
    ({"object": [], "rule": 1}, "document 1", "rule", "is not known here"),
]


@pytest.mark.parametrize(("source", "title", "field", "reason"), REFUSED)
def test_a_refusal_says_which_object_where_and_why(source: object, title: str, field: str, reason: str) -> None:
    """The object by its name, where it has one that can be read, and on one line whatever it is."""
    found = read([source])
    assert found.refused[0] == (title, field, reason)
    assert found.objects == {}
    assert not any("\n" in part for part in found.refused[0])


def test_a_list_within_a_list_is_refused() -> None:
    """It is no object, and the others of the list are taken."""
    inner = {"apiVersion": "v1", "kind": "List", "items": [document()]}
    found = read([{"apiVersion": "v1", "kind": "List", "items": [inner, document(name="db")]}])
    assert titles(found) == ["NetworkPolicy default/db"]
    assert [(remark.object, remark.field) for remark in found.refused] == [("List (document 1, items 1)", "kind")]


def test_one_refused_object_never_stops_the_others() -> None:
    """Everything else is taken, in order."""
    bad: list[object] = [1, {}, also(document(name="bad"), "spec", {"ingress": 1}), document("Pod", "v1")]
    found = read([document(name="a"), *bad, document(name="z")])
    assert titles(found) == ["NetworkPolicy default/a", "NetworkPolicy default/z"]
    assert {remark.object for remark in found.refused} == {
        "document 2",
        "document 3",
        "NetworkPolicy default/bad",
        "Pod web",
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (document(), document(namespace="default")),
        (document("Tier", CALICO), document("Tier", CRD)),
        (
            {**document("GlobalNetworkPolicy", CALICO, name="deny"), "spec": {"tier": "first"}},
            document("GlobalNetworkPolicy", CALICO, name="first.deny"),
        ),
    ],
)
def test_two_objects_of_one_name_are_refused(first: Json, second: Json) -> None:
    """The first is taken, whatever way the second is written."""
    found = read([first, second])
    (remark,) = found.refused
    (title,) = titles(read([second]))
    metadata = second["metadata"]
    assert isinstance(metadata, dict)
    assert remark == (title, "metadata.name", f"is {metadata['name']!r}: there is another {title} before it")
    assert list(found.documents.values()) == [first]


def test_a_refused_object_does_not_hold_its_name() -> None:
    """The next of that name is taken."""
    good = document()
    found = read([{**good, "spec": 1}, good])
    assert (len(found.refused), list(found.documents.values())) == (1, [good])


FIRST = Key("GlobalNetworkPolicy", None, "deny", "first", "deny")


@pytest.mark.parametrize(
    ("key", "kind", "name", "namespace", "expected"),
    [
        (FIRST, "GlobalNetworkPolicy", "deny", None, True),
        (FIRST, "globalnetworkpolicy", "first.deny", "shop", True),
        (FIRST, "NetworkPolicy", "deny", None, False),
        (FIRST, "GlobalNetworkPolicy", "second.deny", None, False),
        (Key("GlobalNetworkPolicy", None, "deny", "first", "first.deny"), "GlobalNetworkPolicy", "deny", None, False),
        (
            Key("GlobalNetworkPolicy", None, "deny", "default", "default.deny"),
            "GlobalNetworkPolicy",
            "deny",
            None,
            True,
        ),
        (Key("NetworkPolicy", "shop", "web"), "NetworkPolicy", "web", "shop", True),
        (Key("NetworkPolicy", "shop", "web"), "NetworkPolicy", "web", None, False),
        (Key("NetworkPolicy", "default", "web"), "NetworkPolicy", "web", None, True),
        (Key("NetworkPolicy.projectcalico.org", "shop", "web", "default"), "NetworkPolicy", "web", "shop", True),
        (Key("NetworkPolicy", "shop", "web"), "NetworkPolicy.projectcalico.org", "web", "shop", False),
    ],
)
def test_an_object_answers_to_its_names(key: Key, kind: str, name: str, namespace: str | None, expected: bool) -> None:
    """To the one it was written with, and to `tier.name`; without a tier to that of the default tier alone."""
    assert key.answers_to(kind, name, namespace) is expected


_WORDS = st.sampled_from(
    (
        *(
            "apiVersion",
            "kind",
            "metadata",
            "spec",
            "status",
            "items",
            "object",
            "staged",
            "name",
            "namespace",
            "labels",
        ),
        *(
            "podSelector",
            "namespaceSelector",
            "matchLabels",
            "matchExpressions",
            "key",
            "operator",
            "values",
            "policyTypes",
        ),
        *("ingress", "egress", "from", "to", "ports", "port", "endPort", "protocol", "ipBlock", "cidr", "except"),
        *("tier", "order", "selector", "types", "action", "source", "destination", "nets", "notNets", "notPorts"),
        *("icmp", "notICMP", "type", "code", "ipVersion", "http", "doNotTrack", "preDNAT", "applyOnForward"),
        *("node", "interfaceName", "expectedIPs", "profiles", "labelsToApply", "stagedAction", "defaultAction"),
        *("Ingress", "Egress", "Allow", "Pass", "In", "Exists", "TCP", "ICMP", "Delete", "Never", "default", "first.a"),
        *("10.0.0.0/8", "2001:db8::/32", "192.0.2.1", "80", "8000:9000", "http", "all()", "global()", "has(a)", "!"),
        *("v1", "List", "NetworkPolicyList", K8S, CALICO, CRD, "\ud800", "\x00", ""),
    )
)
_LEAVES = st.one_of(
    _WORDS,
    st.text(max_size=4),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from((4, 6, 80, 0, -1, 65536, 1 << 1000, dt.date(2024, 1, 1), b"", ())),
)


def _grown(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    keys = st.one_of(_WORDS, st.none(), st.integers(0, 3), st.text(max_size=2))
    return st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=5))


_ANYTHING: st.SearchStrategy[object] = st.recursive(_LEAVES, _grown, max_leaves=12)
_KINDS = st.sampled_from(
    [
        (K8S, "NetworkPolicy"),
        ("v1", "Namespace"),
        *((CALICO, kind) for kind in KNOWN.replace(",", "").split() if kind != "Namespace"),
    ]
)


def _entity() -> st.SearchStrategy[object]:
    """Return a side of a rule, or a peer, or something like it."""
    names = ("selector", "namespaceSelector", "nets", "notNets", "ports", "notPorts", "podSelector", "ipBlock", "cidr")
    return st.dictionaries(st.sampled_from(names), _ANYTHING | st.lists(_WORDS, max_size=2), max_size=3)


_SPECS = st.dictionaries(
    _WORDS,
    _ANYTHING
    | st.lists(
        st.fixed_dictionaries(
            {"action": _WORDS},
            optional={"source": _entity(), "from": st.lists(_entity(), max_size=2), "ports": _ANYTHING},
        ),
        max_size=2,
    ),
    max_size=4,
)


def _object(kind: tuple[str, str], name: object, spec: object) -> object:
    return {"apiVersion": kind[0], "kind": kind[1], "metadata": {"name": name}, "spec": spec}


@given(st.lists(_ANYTHING | st.builds(_object, _KINDS, st.just("web") | _ANYTHING, _SPECS | _ANYTHING), max_size=3))
def test_whatever_a_parser_returns_is_answered(documents: list[object]) -> None:
    """With objects or with refusals that name what they are about, on one line each; never with an exception."""
    found = read(documents)
    for remark in found.refused + found.warnings:
        assert remark.object
        assert remark.reason
        assert all(part.isprintable() for part in remark)
    assert found.objects.keys() == found.documents.keys()
    single = [each for each in documents if isinstance(each, dict) and "metadata" in each and "object" not in each]
    assert len(single) <= len(found.objects) + len(found.refused)
    assert read(found.documents.values()).objects == found.objects


def within(depth: int) -> object:
    """Return lists within each other."""
    value: object = "x"
    for _ in range(depth):
        value = [value]
    return value


def repeated(depth: int) -> object:
    """Return what aliases of YAML make of a few lines."""
    value: object = ["x", "x"]
    for _ in range(depth):
        value = [value, value]
    return value


ROUND: list[object] = []
ROUND.append({"again": ROUND})


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ({dt.date(2024, 1, 1): "x"}, "has the key 2024-01-01, which is not a text: put it in quotation marks"),
        ({"a": [{b"x": 1}]}, "has the key b'x', which is not a text: put it in quotation marks"),
        ({"a": ROUND}, "is nested more than 100 deep"),
        ({"a": within(5_000)}, "is nested more than 100 deep"),
        ({"a": repeated(60)}, "has more than 2000 values"),
    ],
    ids=["date", "octets", "round", "deep", "repeated"],
)
def test_what_cannot_be_kept_is_refused_whatever_part_it_is_in(
    annotations: Json, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads annotations here, but they are written to the disk and shown."""
    monkeypatch.setattr(objects, "MOST_VALUES", 2_000)
    found = read([document(annotations=annotations)])
    assert titles(found) == []
    assert [remark.reason for remark in found.refused] == [reason]


def test_what_json_can_carry_is_kept() -> None:
    """Numbers and nothing as keys too, dates as values, and a hundred tables and lists within each other."""
    metadata = {1: 2.5, None: dt.date(2024, 1, 1), "deep": within(96), "often": ["x"] * 100_000}
    assert len(read([document(annotations=metadata)]).objects) == 1
