"""Whatever people write, wherever they may write it: the packet filter gets the rules that are meant and no other.

What is taken is held against its **twin**, the same objects with a plain word in that place: both come to the same
rules, names of chains and sets and ids apart. What iptables-restore reads is read back here by a parser of its own.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgpmesh import config, log
from bgpmesh.control import arguments
from bgpmesh.errors import ConfigError
from bgpmesh.objects import UnreadableError, parse
from bgpmesh.policy.chains import ChainKey, Rules, restore_text
from bgpmesh.policy.objects import Remark, read
from bgpmesh.policy.protection import Protection, Surroundings
from bgpmesh.policy.store import Store
from bgpmesh.workload.endpoint import Endpoint, check_name, interface_name

JsonObject = dict[str, object]
Door = Callable[[str], list[object]]

WORD = "web"  # what stands in a twin; it is good in every place
EVIL = (
    "x\n-A INPUT -j ACCEPT",
    "x\r\n:INPUT ACCEPT [0:0]\r\n-F",
    "COMMIT\n*nat\n-F\nCOMMIT",
    'x" -j ACCEPT --comment "',
    "x' -j ACCEPT",
    "x -j ACCEPT",
    "-j ACCEPT",
    "--comment",
    "! --match-set",
    "x\0y",
    "x\x1b[31m\x07\x08",
    "x\x7f\x85\u2028-A FORWARD -j ACCEPT\u2029",
    "`id`$(id);|&<>%s{}\\n\\",
    "bm-allow",
    "bm-4-inside",
    "bgpm+",
    "0.0.0.0/0",
    "all()",
    "' || all() || a == '",
    '") || all() || has("',
    "漢字 правило 🔥",
    "e\u0301\u202e\u200b",
    "\ud800",
    "a" * 300,
    "A" * 63,
    "1e400",
    "..",
    "/",
    "*",
    "",
    " ",
)
STRANGE = st.one_of(
    st.sampled_from(EVIL),
    st.text(max_size=40),
    st.text(alphabet=" \n\t\"'-A:*jbmINPUTCOE0/[]!\\`$;", max_size=40),
    st.tuples(st.sampled_from(EVIL), st.text(max_size=5)).map("".join),
)

CALICO, K8S = "projectcalico.org/v3", "networking.k8s.io/v1"


def thing(version: str, kind: str, spec: JsonObject, name: object = WORD, **metadata: object) -> JsonObject:
    """Return an object."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def rule(**more: object) -> JsonObject:
    return {"action": "Allow", "protocol": "TCP", **more}


def calico(
    name: object = WORD, namespace: object = "shop", spec: Mapping[str, object] = {}, **rest: object
) -> JsonObject:
    base: JsonObject = {"selector": "all()", "types": ["Ingress", "Egress"], "ingress": [rule(**rest)]}
    return thing(CALICO, "NetworkPolicy", base | dict(spec), name, namespace=namespace)


def kubernetes(spec: Mapping[str, object] = {}, **of_peer: object) -> JsonObject:
    base: JsonObject = {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [of_peer or {"podSelector": {}}]}],
    }
    return thing(K8S, "NetworkPolicy", base | dict(spec), namespace="shop")


# Every place where an object takes a text of its author's.
PLACES: dict[str, Door] = {
    "name of a policy": lambda t: [calico(t)],
    "name of a policy of Kubernetes": lambda t: [thing(K8S, "NetworkPolicy", {"podSelector": {}}, t, namespace="shop")],
    "namespace": lambda t: [calico(namespace=t)],
    "tier": lambda t: [thing(CALICO, "Tier", {"order": 1}, t), calico(f"{t}.x", spec={"tier": t})],
    "order": lambda t: [calico(spec={"order": t})],
    "label of a policy": lambda t: [thing(CALICO, "GlobalNetworkPolicy", {}, labels={WORD: t})],
    "key of a label of a policy": lambda t: [thing(CALICO, "GlobalNetworkPolicy", {}, labels={t: WORD})],
    "annotation": lambda t: [thing(CALICO, "GlobalNetworkPolicy", {}, annotations={t: t})],
    "selector": lambda t: [calico(spec={"selector": t})],
    "value in a selector": lambda t: [calico(spec={"selector": f"app == '{t}'"})],
    "value in a set": lambda t: [calico(source={"selector": f'app in {{"{t}", "b"}}'})],
    "part of a value": lambda t: [calico(source={"notSelector": f"app contains '{t}'"})],
    "key in a selector": lambda t: [calico(source={"selector": f"has({t})"})],
    "selector of namespaces": lambda t: [calico(source={"namespaceSelector": f"env == '{t}'"})],
    "key in podSelector": lambda t: [kubernetes(podSelector={"matchLabels": {t: WORD}})],
    "value in podSelector": lambda t: [kubernetes(podSelector={"matchLabels": {"app": t}})],
    "value in an expression": lambda t: [
        kubernetes(podSelector={"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [t]}]})
    ],
    "operator": lambda t: [kubernetes(podSelector={"matchExpressions": [{"key": "app", "operator": t}]})],
    "net": lambda t: [calico(source={"nets": [t]})],
    "net of Kubernetes": lambda t: [kubernetes(ipBlock={"cidr": t, "except": [t]})],
    "port": lambda t: [calico(destination={"ports": [t]})],
    "port of Kubernetes": lambda t: [kubernetes({"ingress": [{"ports": [{"protocol": "TCP", "port": t}]}]})],
    "protocol": lambda t: [calico(protocol=t)],
    "action": lambda t: [calico(action=t)],
    "icmp": lambda t: [calico(protocol="ICMP", icmp={"type": t})],
    "metadata of a rule": lambda t: [calico(metadata={"annotations": {t: t}})],
    "name of a network set": lambda t: [thing(CALICO, "NetworkSet", {"nets": ["192.0.2.0/24"]}, t, namespace="shop")],
    "label of a network set": lambda t: [
        thing(CALICO, "GlobalNetworkSet", {"nets": ["192.0.2.0/24"]}, labels={"app": t}),
        calico(source={"selector": "app == 'web'"}),
    ],
    "net of a network set": lambda t: [thing(CALICO, "GlobalNetworkSet", {"nets": [t]}, labels={"app": WORD})],
    "name of a profile": lambda t: [thing(CALICO, "Profile", {"ingress": [rule()]}, t)],
    "label of a profile": lambda t: [thing(CALICO, "Profile", {"labelsToApply": {t: t}}, "kns.shop")],
    "name of a namespace": lambda t: [thing("v1", "Namespace", {}, t)],
    "label of a namespace": lambda t: [thing("v1", "Namespace", {}, "shop", labels={"env": t})],
    "interface of a host": lambda t: [thing(CALICO, "HostEndpoint", {"node": "n1", "interfaceName": t})],
    "node of a host": lambda t: [thing(CALICO, "HostEndpoint", {"node": t, "interfaceName": "*"})],
    "kind": lambda t: [thing(CALICO, t, {})],
    "version": lambda t: [thing(t, "NetworkPolicy", {})],
    "a field": lambda t: [calico(spec={t: t})],
    "the whole": lambda t: [t],
}


# ── what iptables-restore reads ──────────────────────────────────────────────

_LINE = re.compile(r":(?P<made>bm-\S+) - \[0:0\]|-(?P<word>[A-Z]) (?P<chain>\S+)(?: (?P<rest>\S.*))?")


def read_back(text: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Return the table, and its chains with their rules, out of the text; what we never say is an error."""
    table, *lines, last = text.removesuffix("\n").split("\n")
    assert (table[:1], last) == ("*", "COMMIT")
    chains: dict[str, tuple[str, ...]] = {}
    for line in lines:
        found = _LINE.fullmatch(line)
        assert found is not None, line
        if made := found["made"]:
            assert made not in chains
            chains[made] = ()
        elif found["word"] == "I":
            number, _, rest = found["rest"].partition(" ")
            before = chains.get(found["chain"], ())
            assert (number, found["chain"][:3]) == (str(len(before) + 1), found["chain"][:3].upper()), line
            chains[found["chain"]] = (*before, rest)
        else:
            assert found["word"] == "A"
            chains[found["chain"]] += (found["rest"],)
    return table[1:], chains


_VOCABULARY = re.compile(
    r"-[iodspmjg]|!|--(comment|set-xmark|mark|ctstate|invert|match-set|[sd]ports|icmp(v6)?-type|log-prefix)"
    r"|comment|mark|connmark|conntrack|rpfilter|set|multiport|icmp6?|src|dst|src,src|dst,dst"
    r"|ACCEPT|DROP|RETURN|MARK|LOG|(NEW|INVALID|ESTABLISHED|RELATED|,)+"
    r"|bm:[A-Za-z0-9_-]{16}|bm-[A-Za-z0-9-]{1,25}:?|bgpm([a-z2-7]{11}|[a-z2-7]{0,10}\+)"
    r"|0x[0-9a-f]+/0x[0-9a-f]+|[0-9a-f.:]+/[0-9]+|[0-9]+(/[0-9]+)?|[0-9:]+(,[0-9:]+)*"
)


def texts(wanted: Mapping[ChainKey, Rules]) -> Iterator[tuple[int, str, dict[str, Rules], str]]:
    """Yield family, table, chains, and what iptables-restore is given for them."""
    for family, table in sorted({(key.family, key.table) for key in wanted}):
        chains = {k.chain: rules for k, rules in wanted.items() if (k.family, k.table) == (family, table)}
        yield family, table, chains, restore_text(table, chains)


_HASHES = re.compile(r"bm:[\w-]{16}|(?<=bm-)([a-z]{2}-|[46]-)[a-z2-7]{20}")


def shape(wanted: Mapping[ChainKey, Rules]) -> list[str]:
    """Return every line that is written, names that are hashes blanked."""
    return sorted(_HASHES.sub(r"\1#", line) for *_, text in texts(wanted) for line in text.splitlines())


# ── a node ───────────────────────────────────────────────────────────────────


def workload(
    name: str, address: int, labels: Mapping[str, str], *, namespace: str = "shop", port: str = WORD
) -> Endpoint:
    """Return a workload as the state file may have it: none of the doors was asked."""
    addresses = (ipaddress.ip_address("10.0.0.0") + address, ipaddress.ip_address("fd00::") + address)
    key = f"{namespace}/{name}"
    pairs = tuple(sorted(labels.items()))
    return Endpoint(name, namespace, pairs, addresses, interface_name("bgpm", key), "", ((port, "tcp", 80),))


def protected(
    documents: Iterable[object],
    endpoints: Iterable[Endpoint] = (),
    namespaces: Mapping[str, Mapping[str, str]] = {},
) -> dict[ChainKey, Rules]:
    """Return the chains that a node with these objects wants."""
    protection = Protection()
    protection.objects = read(documents).objects
    members = list(endpoints) or [workload("a", 1, {"app": WORD}), workload("b", 2, {})]
    around = Surroundings((ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")), namespaces=namespaces)
    wanted, sets = protection.wanted({each.key: each for each in members}, around, is_needed=True)
    assert all(re.fullmatch(r"bm-[46]-[a-z2-7]{20}", name) for name in sets)
    return wanted


def check(wanted: Mapping[ChainKey, Rules]) -> None:
    """See that exactly these chains and rules are written, of words that are ours."""
    for _, table, chains, written in texts(wanted):
        assert (table, chains) == read_back(written)
        for word in (word for rules in chains.values() for each in rules for word in each.split(" ")):
            assert _VOCABULARY.fullmatch(word), word


def lines_of(remarks: Iterable[Remark]) -> list[str]:
    return [part for remark in remarks for part in remark]


@pytest.mark.parametrize("place", PLACES)
@given(text=STRANGE)
def test_a_text_in_an_object_makes_no_rule(place: str, text: str) -> None:
    """Either it is refused, in words of one line, or it comes to what any other word there does."""
    documents = PLACES[place](text)
    found = read(copy.deepcopy(documents))
    assert all(line.isprintable() and len(line) < 1200 for line in lines_of([*found.refused, *found.warnings]))
    wanted = protected(documents)
    check(wanted)
    twin = read(PLACES[place](WORD))
    if len(found.objects) == len(documents) and not twin.refused and place not in MEANT:
        assert shape(wanted) == shape(protected(PLACES[place](WORD)))


# Where a text may mean something else than a word does: another rule is right there.
MEANT = {
    "selector",  # also all(), or a condition with others
    "key in a selector",
    "tier",  # `first` stands before `default`, `web` after it
    "net",
    "net of Kubernetes",
    "port",
    "protocol",
    "value in a selector",  # who is meant by it is in another class
    "name of a profile",  # kns.shop is the namespace's
    "namespace",  # of workloads, or of nobody
    "order",
    "a field",
}


@pytest.mark.parametrize("text", [each for each in EVIL if each != "\ud800"])
def test_a_text_of_a_workload_makes_no_rule(text: str) -> None:
    """Its name, its labels, its ports, its namespace: also where a state file has what no command would take."""
    plain = [workload(WORD, 1, {"app": WORD}), workload("b", 2, {})]
    policy = calico(source={"selector": "has(app)"}, destination={"ports": ["web"]})
    for odd in (
        workload(text, 1, {"app": WORD}),
        workload(WORD, 1, {"app": WORD, text: "b"}),
        workload(WORD, 1, {"app": text}),
    ):
        wanted = protected([policy], [odd, plain[1]])
        check(wanted)
        assert len(shape(wanted)) == len(shape(protected([policy], plain)))
    check(protected([policy], [workload(WORD, 1, {}, namespace=text), plain[1]], {text: {text: text}}))
    check(protected([policy], [workload(WORD, 1, {}, port=text), plain[1]]))


@pytest.mark.parametrize("text", EVIL)
def test_the_doors_for_workloads_take_plain_words_only(text: str) -> None:
    """`workload add` and `workload label` refuse the rest, in one line."""
    for door in (
        lambda: arguments.labels([f"{text}=x"]),
        lambda: arguments.labels([f"x={text}"]),
        lambda: arguments.ports([f"{text}=tcp:80"]),
        lambda: arguments.ports([f"web={text}:80"]),
        lambda: check_name("name", text),
    ):
        words = refusal(door)
        assert words or re.fullmatch(r"[A-Za-z0-9._/-]*", text)
        assert all(log.render("x", {"reason": line}).isprintable() for line in words)


@pytest.mark.parametrize("text", [each for each in EVIL if each != "\ud800"])
def test_a_namespace_of_the_file_makes_no_rule(text: str) -> None:
    """Its name and its labels: refused with the key, or nothing but a label."""
    shown = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # a basic string of TOML, but for this
    for table in (f"[namespace.{shown}]\nlabels = {{ a = 'b' }}", f"[namespace.shop]\nlabels = {{ a = {shown} }}"):
        file = f"[cluster]\nasn = 1\n[pool.a]\ncidr = '10.0.0.0/8'\n[node.n1]\naddress = '192.0.2.1'\n{table}\n"
        tomllib.loads(file)
        said = refusal(lambda file=file: config.parse(file, "f.toml"))  # type: ignore[misc]
        assert all(line.isprintable() for line in said)
        if not said:
            around = config.effective(config.parse(file, "f.toml"), "n1").around
            check(protected([calico(source={"namespaceSelector": "has(a)"})], namespaces=around.namespaces))


@pytest.mark.parametrize("text", EVIL)
def test_what_a_file_is_called_stays_a_name(text: str) -> None:
    """It is said in what is wrong with the file, and escaped in the log."""
    store = Store()
    store.files({f"{text}.json": "is not JSON"})
    (problem,) = store.problems()
    line = log.render("object.refused", {"value": problem.object, "reason": problem.reason})
    assert line.isprintable()
    assert json.loads(json.dumps(problem)) == list(problem)


@example('\x85 \u2028 \n a="b"\\n')
@given(st.text())
def test_one_event_is_one_line_of_the_log(text: str) -> None:
    """And it can be told what was said."""
    line = log.render("x", {"value": text, "reason": text})
    assert line.isprintable()
    assert line.isascii() or text
    if text.isprintable() and not set(text) & set(' "=\\') and text:
        assert line == f"x value={text} reason={text}"


@given(
    st.text(alphabet="{}[]\"':,-#&*!|>%@`\n\t abc0", max_size=60), st.sampled_from(["a.json", "a.toml", "a.yaml", "a"])
)
def test_whatever_a_file_holds_it_is_data_or_a_reason_on_one_line(text: str, name: str) -> None:
    """No parser makes more of it than plain data; then objects are read of that."""
    said = refusal(lambda: parse(text, name))
    assert all(len(line.splitlines()) == 1 for line in said)
    if not said:
        assert all(line.isprintable() for line in lines_of(read(parse(text, name)).refused))


def refusal(door: Callable[[], object]) -> list[str]:
    """Return what is said against something, nothing where it is taken."""
    try:
        door()
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    except UnreadableError as error:
        return [str(error)]
    return []
