"""Who a workload is, as other nodes hear it."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys

import pytest

from bgpmesh.policy.chains import AddressSet, port_member
from bgpmesh.policy.identity import (
    MOST,
    SPARE,
    Sayings,
    communities,
    encode,
    marks,
    ports_named,
    question_of,
    unanswered,
)
from bgpmesh.policy.protection import labels_in, members_within
from bgpmesh.policy.rule import TCP, UDP, WORKLOAD_LABEL, Action, Direction, Policy, Rule, Side
from bgpmesh.policy.selector import parse
from bgpmesh.route.attributes import Asn
from bgpmesh.route.nlri import host_nlri, parse_nlri

ASN = Asn(64512)
SHOP = {"shop": {"env": "prod"}}
WEB = labels_in("shop", {"app": "web"}, SHOP) | {WORKLOAD_LABEL: "k8s"}
PORTS = {("http", TCP): 8080}

# Other versions say the same on the wire: these never change.
VECTOR = (
    (64512, 0x1F95E140, 0x0B23ACF9),  # sha256("app=web") begins with f95e1400b23acf9
    (64512, 0x2A172CED, 0xCAE47474),  # "app"
    (64512, 0x37C650AF, 0xFA4929EA),  # "env=prod"
    (64512, 0x4B77349B, 0xF1FA9B26),  # "env"
    (64512, 0x58D9001D, 0x32C6A703),  # "shop"
    (64512, 0x6061F90E, 0x0603C499),  # protocol 6, port 8080, sha256("http") begins with e0603c499
)


def test_the_encoding_never_changes() -> None:
    """One workload, and what is said of it: a label, its key, those of the namespace, its name, a port."""
    assert VECTOR == communities(encode(WEB, PORTS), ASN)


def test_the_encoding_is_the_same_in_every_process() -> None:
    """It does not hang on the seed of Python's own hashes."""
    program = f"from bgpmesh.policy.identity import *; print(sorted(encode({WEB!r}, {PORTS!r})))"
    said = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert {f"{sorted(encode(WEB, PORTS))}\n".encode()} == said


def test_labels_that_all_workloads_have_are_not_said() -> None:
    """The mark of a workload and the namespace's names as labels follow from the rest."""
    assert encode(labels_in("shop", {}, {})) == encode({"projectcalico.org/namespace": "shop"})
    assert len(encode(labels_in("shop", {}, {}))) == 1


@pytest.mark.parametrize(
    ("text", "is_meant"),
    [
        ("projectcalico.org/orchestrator == 'k8s'", True),
        ("projectcalico.org/orchestrator != 'k8s'", False),
        ("has(projectcalico.org/orchestrator)", True),
        ("pcns.kubernetes.io/metadata.name == 'shop'", True),
        ("pcns.projectcalico.org/name in {'shop', 'x'}", True),
        ("has(pcns.projectcalico.org/name)", True),
        ("projectcalico.org/namespace not in {'shop'}", False),
        ("pcns.env == 'prod' && app == 'web'", True),
        ("env == 'prod'", False),
        ("pcns.app == 'web'", False),
        ("!has(tier)", True),
        ("tier != 'x'", True),
    ],
)
def test_selectors_are_asked_of_hashes(text: str, is_meant: bool) -> None:
    """Labels that are not sent, a namespace's and a workload's own are told apart."""
    question = question_of(parse(text))
    assert question is not None
    assert is_meant is question(encode(WEB))


@pytest.mark.parametrize("text", ["app contains 'w'", "!(app starts with 'x')", "app == 'web' || app ends with 'b'"])
def test_a_part_of_a_value_is_no_question_to_a_hash(text: str) -> None:
    """Not even the negation of one, which would mean everybody."""
    assert question_of(parse(text)) is None


def test_a_namespace_with_another_name_as_label_says_so() -> None:
    """What somebody wrote goes before what follows from the name."""
    claims = encode(labels_in("shop", {}, {"shop": {"projectcalico.org/name": "other"}}))
    for text, is_meant in (
        ("pcns.projectcalico.org/name == 'shop'", False),
        ("has(pcns.projectcalico.org/name)", True),
    ):
        question = question_of(parse(text))
        assert question is not None
        assert is_meant is question(claims)


def test_ports_of_one_name_in_two_protocols() -> None:
    """Each is found with its number, and by no other name."""
    claims = encode(WEB, {("dns", TCP): 53, ("dns", UDP): 5353, ("http", TCP): 80})
    assert [(TCP, 53), (UDP, 5353)] == ports_named("dns", claims)
    assert [] == ports_named("ns", claims)


def test_the_mark_of_a_workload_tells_nobody_apart() -> None:
    """Who asks for it asks everybody; who asks for another one asks nobody."""
    assert marks([("projectcalico.org/orchestrator", "k8s"), ("a", "b")]) is None
    assert set() == marks([("projectcalico.org/orchestrator", "other")])


def test_text_that_is_no_unicode_has_a_hash() -> None:
    """An object may say half a surrogate pair in JSON; it must not end the daemon."""
    question = question_of(parse("app == '\ud800'"))
    assert question is not None
    assert question(encode({"app": "\ud800"}))


def test_what_is_too_long_is_told_once_and_not_said() -> None:
    """A workload of which there is too much to say has no attributes; it has them again when there is less."""
    sayings = Sayings()
    claims = frozenset(range(6 << 60, (6 << 60) + MOST + 1))
    assert ["shop/web"] == sayings.take({"shop/web": claims}, ASN)
    assert [] == sayings.take({"shop/web": claims}, ASN)
    assert ({}, ["shop/web"]) == (sayings.by_key, list(sayings.too_long))
    assert [] == sayings.take({"shop/web": encode(WEB)}, ASN)
    assert ({}, ["shop/web"]) == (sayings.too_long, list(sayings.by_key))


def test_workloads_that_are_alike_share_their_attributes() -> None:
    """One UPDATE carries them all; what was said of nobody for long is forgotten."""
    sayings = Sayings()
    sayings.take({"shop/a": encode(WEB), "shop/b": encode(WEB)}, ASN)
    assert sayings.by_key["shop/a"] is sayings.by_key["shop/b"]
    for number in range(SPARE + 10):
        sayings.take({"shop/a": encode({"n": str(number)})}, ASN)
    assert len(sayings._made) <= SPARE + 10
    sayings.take({"shop/a": encode(WEB)}, Asn(1))
    assert sayings.by_key["shop/a"].large_communities[0][0] == 1


def policy(ingress: Side, egress: Side = Side()) -> Policy:  # noqa: B008  a value
    """Return a policy with a rule each way: who may come, and where to."""
    rules = Rule(Action.ALLOW, source=ingress), Rule(Action.ALLOW, destination=egress)
    return Policy("p", types=frozenset(Direction), ingress=rules[:1], egress=rules[1:])


def test_policies_that_ask_for_more_than_is_known() -> None:
    """Without identity every selector of the other end does, with it one that asks for a part of a value."""
    asking = policy(Side(selector=parse("app == 'web'")), Side(ports=("http",)))
    assert ["egress[0]", "ingress[0]"] == [field for field, _ in unanswered(asking, has_identity=False)]
    assert [] == unanswered(asking, has_identity=True)
    partly = policy(Side(not_selector=parse("app contains 'w'")))
    ((field, reason),) = unanswered(partly, has_identity=True)
    assert field == "ingress[0]"
    assert "app contains 'w'" in reason
    assert [] == unanswered(policy(Side(ports=("http",))), has_identity=True)


def test_members_of_other_nodes_are_single_addresses_and_ports_in_their_blocks() -> None:
    """Neither nets, nor what lies beside the blocks, in either family."""
    blocks = [ipaddress.ip_network(text) for text in ("10.244.2.0/26", "10.244.9.0/24", "fd00:2::/112")]
    inside = {host_nlri(ipaddress.ip_address(a)) for a in ("10.244.2.0", "10.244.2.63", "10.244.9.7", "fd00:2::ffff")}
    beside = {host_nlri(ipaddress.ip_address(a)) for a in ("10.244.1.255", "10.244.2.64", "fd00:2::1:0", "fd00:1::")}
    ports = {port_member(ipaddress.ip_address(a), TCP, 80) for a in ("10.244.2.5", "10.244.3.5", "fd00:2::5")}
    sets = {
        "a": AddressSet(4, frozenset(inside | beside | {parse_nlri("10.244.2.0/26")})),
        "b": AddressSet(4, frozenset(ports)),
    }
    found = members_within(sets, blocks)
    assert found == {"a": inside, "b": {each for each in ports if each[:4] != bytes((10, 244, 3, 5))}}
    assert members_within(sets, []) == {"a": frozenset(), "b": frozenset()}
