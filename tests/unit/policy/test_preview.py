"""What a change of objects would do, by the objects, the workloads and the connections: nothing is changed."""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from bgpmesh.policy.identity import encode
from bgpmesh.policy.iptables import Options
from bgpmesh.policy.model import Packet
from bgpmesh.policy.preview import Basis, Lot, Outcome, change_of, outcome
from bgpmesh.policy.protection import Surroundings
from bgpmesh.policy.rule import TCP, UDP
from bgpmesh.policy.store import Store
from bgpmesh.route.nlri import IPAddress, host_nlri
from bgpmesh.workload.endpoint import Endpoint

Json = Mapping[str, object]

WEB, DB, ELSEWHERE, OUTSIDE = (
    ipaddress.ip_address(text) for text in ("10.0.1.1", "10.0.1.2", "10.0.2.1", "198.51.100.7")
)
ENDPOINTS = {
    f"shop/{name}": Endpoint(name, "shop", (("app", name),), (address,), f"bgpm{name}", f"/run/netns/{name}")
    for name, address in (("web", WEB), ("db", DB))
}
SPACE = (ipaddress.ip_network("10.0.0.0/16"),)
BASIS = Basis(ENDPOINTS, Surroundings(SPACE, node="n1"))
REVOKED = Options().revoked


@dataclass(frozen=True)
class Tracked:
    """A connection; `called`: where it is another address than that which answers."""

    packet: Packet
    mark: int = 0
    called: IPAddress | None = None

    @property
    def destination(self) -> IPAddress:
        """As it was called."""
        return self.called or self.packet.destination

    @property
    def reply_destination(self) -> IPAddress:
        """Who is answered."""
        return self.packet.source


def connection(source: IPAddress, destination: IPAddress, port: int, protocol: int = TCP, mark: int = 0) -> Tracked:
    """Return a connection of the kernel's table."""
    return Tracked(Packet(source, destination, protocol, 40_000, port), mark)


def network_policy(name: str, *rules: Json, staged: bool = False, **spec: object) -> Json:
    """Return a NetworkPolicy on what reaches `db`."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": list(rules), **spec},
        **({"staged": True} if staged else {}),
    }


def port(number: int, protocol: str = "TCP") -> Json:
    """Return a rule that lets everybody reach a port."""
    return {"ports": [{"port": number, "protocol": protocol}]}


def previewed(
    *documents: object,
    before: tuple[object, ...] = (),
    tracked: tuple[Tracked, ...] = (),
    basis: Basis = BASIS,
    is_deletion: bool = False,
) -> Outcome:
    """Return what a change would do to a node that has some objects."""
    store = Store()
    assert store.apply(before).refused == ()
    saved = json.dumps(store.saved())
    found = outcome(basis, change_of(store.copy(), documents, is_deletion=is_deletion), tracked)
    assert json.dumps(store.saved()) == saved
    return found


def ports(lot: Lot) -> list[int | None]:
    """Return the ports of some connections."""
    assert lot.count == len(lot.fates)
    return [fate.packet.port for fate in lot.fates]


NONE = Lot()


ON_5432, ON_5433, DATAGRAMS = (
    connection(WEB, DB, 5432),
    connection(WEB, DB, 5433),
    connection(WEB, DB, 53, UDP),
)
OTHERS = connection(DB, WEB, 80), connection(WEB, OUTSIDE, 443), connection(OUTSIDE, ELSEWHERE, 22)


def test_exactly_what_the_new_form_denies_would_be_cut() -> None:
    """By the step that denies it; UDP too; what was cut before is not cut again."""
    gone = replace(connection(WEB, DB, 99), mark=REVOKED)
    found = previewed(network_policy("db", port(5432)), tracked=(ON_5432, ON_5433, DATAGRAMS, gone, *OTHERS))
    assert ports(found.cut) == [5433, 53]
    assert (found.restored, found.kept) == (NONE, NONE)
    fate = found.cut.fates[0]
    assert (fate.connection, fate.source, fate.destination) == (ON_5433, "shop/web", "shop/db")
    assert fate.step is not None
    assert (fate.step.direction.value, fate.step.workload, fate.step.tier) == ("ingress", "shop/db", "default")
    assert (fate.step.policy, fate.step.rule) == (None, None), "by default"


def test_a_rule_that_denies_is_named() -> None:
    """At the end of whom it is, egress before ingress."""
    deny = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "out"},
        "spec": {
            "selector": "app == 'web'",
            "egress": [
                {"action": "Allow", "protocol": "UDP"},
                {"action": "Deny", "destination": {"nets": [f"{DB}/32"]}},
            ],
        },
    }
    (fate,) = previewed(deny, network_policy("db"), tracked=(ON_5432,)).cut.fates
    assert fate.step is not None
    assert (fate.step.direction.value, fate.step.workload) == ("egress", "shop/web")
    assert (fate.step.policy, fate.step.rule, fate.step.action) == ("out", 2, "deny")


def test_what_is_translated_is_judged_as_it_is_translated() -> None:
    """It is known by what it called."""
    called = replace(connection(OUTSIDE, DB, 5433), called=ipaddress.ip_address("203.0.113.10"))
    (fate,) = previewed(network_policy("db", port(5432)), tracked=(called,)).cut.fates
    assert (fate.connection.destination, fate.packet.destination) == (called.called, DB)
    assert (fate.source, fate.destination) == (None, "shop/db")


def test_what_is_allowed_again_would_be_restored() -> None:
    """With what denies it now."""
    tracked = tuple(replace(each, mark=REVOKED) for each in (ON_5432, ON_5433))
    before = (network_policy("db", port(5432)),)
    found = previewed(network_policy("db", port(5433)), before=before, tracked=tracked)
    assert (ports(found.restored), found.cut) == ([5433], NONE)
    (step,) = (fate.step for fate in found.restored.fates)
    assert step is not None
    assert (step.tier, step.workload) == ("default", "shop/db")


def test_without_revocation_nothing_is_cut_and_nothing_comes_back() -> None:
    """What would not begin again is told apart; what could not begin before is no news."""
    basis = replace(BASIS, around=replace(BASIS.around, is_revoking=False))
    cut = replace(connection(WEB, DB, 53, UDP), mark=REVOKED)
    found = previewed(
        network_policy("db", port(53, "UDP")),
        before=(network_policy("db", port(5432)),),
        tracked=(ON_5432, ON_5433, cut),
        basis=basis,
    )
    assert (found.cut, found.restored, ports(found.kept)) == (NONE, NONE, [5432])


def test_a_change_that_comes_to_the_same_touches_no_connection() -> None:
    """There is no review: also of what nothing allows."""
    before = (network_policy("db", port(5432)),)
    found = previewed(network_policy("db", port(5432)), before=before, tracked=(ON_5433,))
    assert (found.cut, found.turns, found.unchanged) == (NONE, (), ("NetworkPolicy shop/db",))


def test_what_is_staged_cuts_nothing() -> None:
    """It is told who would be under it."""
    found = previewed(network_policy("soon", staged=True), tracked=(ON_5432,))
    assert (found.added, found.cut) == (("NetworkPolicy shop/soon",), NONE)
    (turn,) = found.turns
    assert (turn.workload, turn.added, turn.staged) == ("shop/db", ("shop/soon",), ("shop/soon",))


def test_objects_are_told_by_what_becomes_of_them() -> None:
    """In the words of the answer to `apply`: what is refused stops no other."""
    before = (network_policy("one", port(1)), network_policy("two", port(2)))
    bad = network_policy("bad", podSelector={"matchLabels": "x"})
    found = previewed(before[0], network_policy("two", port(3)), network_policy("new"), bad, before=before)
    assert found.added == ("NetworkPolicy shop/new",)
    assert found.changed == ("NetworkPolicy shop/two",)
    assert found.unchanged == ("NetworkPolicy shop/one",)
    assert [(remark.object, remark.field) for remark in found.refused] == [
        ("NetworkPolicy shop/bad", "spec.podSelector.matchLabels")
    ]
    assert found.deleted == ()


def test_a_deletion_is_told_too() -> None:
    """Whom it opens, and what is refused."""
    closed = network_policy("db")
    cut = replace(ON_5432, mark=REVOKED)
    found = previewed(closed, network_policy("none"), before=(closed,), tracked=(cut,), is_deletion=True)
    assert (found.deleted, ports(found.restored)) == (("NetworkPolicy shop/db",), [5432])
    assert [(remark.object, remark.reason) for remark in found.refused] == [("NetworkPolicy shop/none", "is not there")]
    (turn,) = found.turns
    assert (turn.workload, turn.direction.value, turn.removed) == ("shop/db", "ingress", ("shop/db",))


def test_what_applies_to_whom_is_compared() -> None:
    """Policies that come, go, say something else or mean others; tiers and the order of policies too."""
    from_front = network_policy("db", {"from": [{"namespaceSelector": {"matchLabels": {"tier": "front"}}}]})
    labelled = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"tier": "front"}}}
    found = previewed(labelled, before=(from_front,), tracked=(ON_5432,))
    assert [(turn.workload, turn.changed, turn.added) for turn in found.turns] == [("shop/db", ("shop/db",), ())]

    def calico(name: str, order: int, action: str = "Allow") -> Json:
        head = {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": name}}
        spec = {"selector": "app == 'db'", "order": order, "tier": "first", "ingress": [{"action": action}]}
        return {**head, "metadata": {"name": f"first.{name}"}, "spec": spec}

    tier = {"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "first"}, "spec": {"order": 1}}
    before = (tier, calico("a", 1), calico("b", 2))
    (turn,) = previewed(calico("b", 0), before=before).turns
    assert (turn.added, turn.removed, turn.changed) == ((), (), ("order",))
    (turn,) = previewed(calico("b", 2, "Deny"), before=before).turns
    assert turn.changed == ("b",)
    (turn,) = previewed({**tier, "spec": {"order": 1, "defaultAction": "Pass"}}, before=before).turns
    assert turn.changed == ("default of tier first",)


def test_a_host_endpoint_is_told_with_its_phases_and_interfaces() -> None:
    """Those that it would be on are looked for among what the host has."""
    head = {"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": "lan"}}
    by_address = {**head, "spec": {"node": "n1", "expectedIPs": ["192.0.2.1"]}}
    change = change_of(Store(), [by_address])
    assert change.expected("n1") == {ipaddress.ip_address("192.0.2.1")}
    assert change.expected("n2") == set()
    unplaced = previewed(by_address)
    assert [remark.reason for remark in unplaced.warnings] == ["not in force: no interface has one of its expectedIPs"]
    basis = replace(BASIS, interfaces={ipaddress.ip_address("192.0.2.1"): ["eth0"]})
    profile = "projectcalico-default-allow"
    found = previewed({**head, "spec": {**by_address["spec"], "profiles": [profile]}}, basis=basis)  # type: ignore[dict-item]
    assert found.warnings == ()
    assert {(t.workload, t.direction.value, t.phase.value, t.added) for t in found.turns} == {
        ("host n1/lan", "egress", "normal", (profile,)),
        ("host n1/lan", "ingress", "normal", (profile,)),
    }


def test_rules_that_ask_for_more_than_is_known_are_warned_of() -> None:
    """As `apply` does; not on the only node, nor where others tell."""
    asks = network_policy("db", {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]})
    assert [remark.object for remark in previewed(asks).warnings] == ["NetworkPolicy shop/db"]
    assert previewed(asks, basis=replace(BASIS, is_alone=True)).warnings == ()
    assert previewed(asks, basis=replace(BASIS, has_identity=True)).warnings == ()


@pytest.mark.parametrize(("label", "expected"), [("web", []), ("other", [5432])])
def test_workloads_of_other_nodes_are_known_by_what_is_said_of_them(label: str, expected: list[int]) -> None:
    """Labels over BGP decide over connections from there."""
    asks = network_policy("db", {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]})
    said = encode({"app": label, "projectcalico.org/namespace": "shop", "projectcalico.org/orchestrator": "x"}, {})
    basis = replace(BASIS, remote={host_nlri(ELSEWHERE): said}, has_identity=True)
    found = previewed(asks, tracked=(connection(ELSEWHERE, DB, 5432),), basis=basis)
    assert ports(found.cut) == expected


def test_it_shares_nothing_with_who_runs_on() -> None:
    """In another thread, while everything it came from goes on to change."""
    endpoints, remote = dict(ENDPOINTS), {host_nlri(ELSEWHERE): encode({"app": "x"}, {})}
    store = Store()
    store.apply([network_policy("db", port(5432))])
    basis = Basis(dict(endpoints), BASIS.around, {}, dict(remote))
    copy, found = store.copy(), []
    endpoints.clear()
    remote.clear()
    store.apply([network_policy("db"), network_policy("more")])

    def think() -> None:
        found.append(outcome(basis, change_of(copy, [network_policy("db", port(5433))]), [ON_5432, ON_5433]))

    thread = threading.Thread(target=think)
    thread.start()
    store.delete_named("netpol", "db", "shop")
    thread.join()
    assert (found[0].changed, ports(found[0].cut)) == (("NetworkPolicy shop/db",), [5432])
    assert [str(key) for key in store.objects()] == ["NetworkPolicy shop/more"]
