"""What a daemon answers to `policy preview`, without a kernel."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from bgpmesh.control import tables
from bgpmesh.errors import KernelError
from bgpmesh.events import ObjectsChanged
from bgpmesh.kernel.conntrack import Connection
from bgpmesh.policy.iptables import Options
from bgpmesh.policy.model import Packet
from bgpmesh.policy.rule import ICMP, TCP, Icmp
from bgpmesh.previews import Previews
from bgpmesh.route.nlri import IPAddress

if TYPE_CHECKING:
    from tests.unit.conftest import Running

WEB, OUTSIDE, EXTERNAL, OTHER = (
    ipaddress.ip_address(text) for text in ("10.244.1.5", "198.51.100.7", "203.0.113.10", "203.0.113.11")
)
Json = dict[str, object]


def rows(answer: Json, key: str) -> list[Json]:
    """Return the objects in a list of an answer."""
    return cast("list[Json]", answer[key])


def tracked(port: int, mark: int = 0) -> Connection:
    """Return a connection that came in by a floating address."""
    return Connection(OUTSIDE, EXTERNAL, WEB, OUTSIDE, b"", Packet(OUTSIDE, WEB, TCP, 4000 + port, port), mark)


class Living:
    """Stands in for the edge of connections."""

    def __init__(self, *connections: Connection, fault: KernelError | None = None) -> None:
        self.asked: AbstractSet[IPAddress] = frozenset()
        self._connections, self._fault = connections, fault

    async def living(self, addresses: AbstractSet[IPAddress]) -> tuple[list[Connection], int]:
        """Return them; three more are others'."""
        self.asked = addresses
        if self._fault is not None:
            raise self._fault
        return list(self._connections), len(self._connections) + 3


def policy(*ports: int, name: str = "web", **change: object) -> Json:
    """Return a NetworkPolicy on everybody, of who may reach some ports."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": port}]} for port in ports]},
        **change,
    }


def asked(running: Running, living: Living, *documents: Json, is_deletion: bool = False) -> Json:
    """Return the answer as it arrives at the other end of the socket; nothing is changed by it."""
    before = (
        running.store.saved(),
        running.engine.packets.protection.compiled,
        dict(running.engine.packets.chains.wanted),
    )
    answer = asyncio.run(Previews(running, living).answer([*documents], is_deletion=is_deletion))
    assert (
        running.store.saved(),
        running.engine.packets.protection.compiled,
        dict(running.engine.packets.chains.wanted),
    ) == before
    plain: Json = json.loads(json.dumps(answer))
    return plain


def test_the_answer_in_full(running: Running) -> None:
    """As JSON and as text: what would be cut is told with the address that was called."""
    living = Living(tracked(80), tracked(443))
    answer = asked(running, living, policy(443), policy(name="bad", spec={"podSelector": "x"}))
    assert living.asked == {WEB}
    (row,) = rows(answer, "cut")
    assert str(row.pop("chain")).startswith("bm-ci-")
    assert row == {
        "protocol": "tcp",
        "source": "198.51.100.7",
        "source_port": 4080,
        "destination": "203.0.113.10",
        "port": 80,
        "icmp": None,
        "translated_source": None,
        "translated_destination": "10.244.1.5",
        "from": None,
        "to": "default/web",
        "direction": "ingress",
        "workload": "default/web",
        "tier": "default",
        "policy": None,
        "rule": None,
    }
    (refused,) = rows(answer, "refused")
    assert (refused["object"], refused["field"]) == ("NetworkPolicy default/bad", "spec.podSelector")
    del answer["cut"], answer["refused"]
    turn = {"workload": "default/web", "phase": "normal", "direction": "ingress", "added": ["default/web"]}
    assert answer == {
        "added": ["NetworkPolicy default/web"],
        "changed": [],
        "unchanged": [],
        "deleted": [],
        "warnings": [],
        "workloads": [turn | {"removed": [], "changed": [], "staged": []}],
        "revoke": True,
        "looked_at": 5,
        "cut_count": 1,
        "restored_count": 0,
        "kept_count": 0,
        "restored": [],
        "kept": [],
        "unknown": [],
    }
    shown = tables.preview(answer | {"cut": [row], "refused": [refused]})
    assert [line.rstrip() for line in shown.splitlines()] == [
        "NetworkPolicy default/web would be added",
        f"refused: NetworkPolicy default/bad: spec.podSelector: {refused['reason']}",
        "",
        "WORKLOADS    DIRECTION  ADDED",
        "default/web  ingress    default/web",
        "",
        "1 of 5 connections would be cut",
        "     SOURCE             DESTINATION                    TRANSLATED  WORKLOAD     DIRECTION  TIER     RULE",
        "tcp  198.51.100.7:4080  203.0.113.10:80 (default/web)  10.244.1.5  default/web  ingress    default  default",
    ]


def test_what_has_been_cut_would_come_back(running: Running) -> None:
    """By a deletion as by another policy; where nothing changes nothing does."""
    running.store.apply([policy(443)])
    running.engine.handle(ObjectsChanged(running.store.objects()), 24.0)
    running.engine.work(1000, 24.0)
    living = Living(tracked(80, Options().revoked), tracked(443))
    answer = asked(running, living, policy(443), is_deletion=True)
    assert (answer["deleted"], answer["restored_count"], answer["cut_count"]) == (["NetworkPolicy default/web"], 1, 0)
    shown = tables.preview(answer)
    assert "none of 5 connections would be cut" in shown
    assert "1 of 5 connections have been cut, and would come back" in shown
    same = asked(running, living, policy(443))
    assert (same["unchanged"], same["workloads"], same["cut"]) == (["NetworkPolicy default/web"], [], [])
    assert tables.preview(same) == ("NetworkPolicy default/web is as it was\n\nnone of 5 connections would be cut")


def test_with_revoke_false_nothing_would_be_cut(running: Running) -> None:
    """Said in words, with those that would not begin again."""
    configured = running.engine.configured
    running.engine.handle(replace(configured, around=replace(configured.around, is_revoking=False)), 24.0)
    running.engine.work(1000, 24.0)
    answer = asked(running, Living(tracked(80), tracked(443)), policy(443))
    assert (answer["revoke"], answer["cut_count"], answer["kept_count"]) == (False, 0, 1)
    shown = tables.preview(answer)
    assert "1 of 5 connections would go on, and not begin again ([policy] revoke = false)" in shown
    assert "would be cut" not in shown


def test_what_cannot_be_known_is_said(running: Running) -> None:
    """Where connections cannot be read, and where other nodes have not said who is who."""
    answer = asked(running, Living(fault=KernelError("connections", 1, "Operation not permitted")), policy())
    assert answer["unknown"] == ["connections cannot be looked at: Operation not permitted"]
    assert "not known here: connections cannot be looked at" in tables.preview(answer)
    running.engine.handle(replace(running.engine.configured, has_identity=True), 24.0)
    running.engine.rib.fib.keep_unwanted = True
    answer = asked(running, Living(), policy())
    assert answer["unknown"] == ["after a restart not every node has said yet who its workloads are"]


def test_as_many_connections_are_told_as_people_read(running: Running) -> None:
    """And how many there are; those with ICMP have a type."""
    many = [tracked(port) for port in range(1, 1200)]
    ping = Connection(OUTSIDE, WEB, WEB, OTHER, b"", Packet(OUTSIDE, WEB, ICMP, icmp=Icmp(8, 0)))
    answer = asked(running, Living(*many, ping), policy())
    assert (answer["cut_count"], len(rows(answer, "cut"))) == (1200, 1000)
    first = rows(answer, "cut")[0]
    assert (first["protocol"], first["icmp"], first["port"], first["translated_source"]) == (
        "icmp",
        "8/0",
        None,
        str(OTHER),
    )
    shown = tables.preview(answer).splitlines()
    assert shown[-1] == "(the first 1000)"
    assert shown[7].startswith("icmp 8/0  198.51.100.7 ")


def test_workloads_with_the_same_change_are_told_together() -> None:
    """By name as far as there are few."""
    row = {"phase": "normal", "direction": "ingress", "added": ["p"], "removed": [], "changed": [], "staged": []}
    own = [row | {"workload": f"shop/{name}"} for name in "abcde"]
    host = row | {"workload": "host n1/lan", "phase": "forward"}
    shown = tables.preview({"workloads": [*own, host]}).splitlines()
    assert [line.split() for line in shown[1:]] == [
        ["WORKLOADS", "DIRECTION", "PHASE", "ADDED"],
        ["shop/a,", "shop/b,", "shop/c", "and", "2", "more", "ingress", "p"],
        ["host", "n1/lan", "ingress", "forward", "p"],
    ]
