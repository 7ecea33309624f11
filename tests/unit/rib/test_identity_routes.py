"""Addresses of which their nodes say who has them: believed or not, selected, counted, and passed on to whom."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.peering.peer import Owner, Peer
from bgpmesh.policy.identity import communities, encode
from bgpmesh.rib.claimants import Claimants
from bgpmesh.route.attributes import Asn, PathAttributes, RouterId
from bgpmesh.route.claim import Kind, claim
from bgpmesh.route.nlri import Family, parse_nlri, prefix_text
from bgpmesh.route.path import PeerName, Role
from tests.unit.rib.ribworld import ASN, BOTH, NONE, World, external, internal, via

CLAIMS = encode({"projectcalico.org/namespace": "shop", "app": "web"})
SAID = communities(CLAIMS, ASN)
OTHERS = encode({"projectcalico.org/namespace": "shop", "app": "db"})
BLOCK, POD, POD2 = "10.244.2.0/26", "10.244.2.5/32", "10.244.2.6/32"
FLOATING = claim(ASN, Kind.FLOATING)
OPERATORS = (64512, 100, 7)


def node(name: str, last: int, role: Role = Role.NON_CLIENT, cluster_id: RouterId | None = None) -> Peer:
    """Return a node of the cluster."""
    return replace(internal(name, last, role, cluster_id), in_cluster=True, cluster_asn=ASN)


def owner(name: str, router_id: int, *blocks: str) -> Owner:
    """Return who may speak of what."""
    return Owner(PeerName(name), RouterId(router_id), tuple(map(ipaddress.ip_network, blocks)))


N2, N3 = node("n2", 2), node("n3", 3)
OWNERS = (owner("n1", 1, "10.244.1.0/26"), owner("n2", 2, BLOCK), owner("n3", 3, "10.244.3.0/26"))
TOR = replace(internal("tor", 200), cluster_asn=ASN)


def saying(at: str = "192.0.2.2", *more: tuple[int, int, int], **fields: object) -> PathAttributes:
    """Return attributes with claims."""
    said = tuple(sorted((*SAID, *more)))
    return replace(via(at), large_communities=said, **fields)  # type: ignore[arg-type]  # fields of the dataclass


def world(*peers: Peer, cluster_id: RouterId | None = None) -> World:
    """Return a Rib that believes nodes."""
    made = World(cluster_id=cluster_id)
    made.rib.believe(Claimants(OWNERS))
    for peer in peers:
        made.up(peer)
    return made


def told(world: World, name: str) -> dict[str, PathAttributes]:
    """Return what a peer has been told."""
    world.take(name)
    return {prefix_text(nlri): attributes for nlri, attributes in world.rib.advertised(PeerName(name))}


def large(world: World, prefix: str) -> set[tuple[tuple[int, int, int], ...]]:
    """Return the large communities of each path of a prefix, as it is passed on."""
    return {candidate.attributes.large_communities for candidate in world.shown(prefix)}


def test_what_is_believed_is_selected_and_no_route() -> None:
    """The block leads there; whoever keeps the sets hears who has the address, and hears the end of it."""
    it = world(N2)
    it.hear("n2", via("192.0.2.2"), BLOCK)
    it.hear("n2", saying(), POD)
    assert {BLOCK} == set(it.fib())
    assert {parse_nlri(POD): CLAIMS} == it.rib.said
    assert it.rib.kernel_reason(parse_nlri(POD)).startswith("none: ")
    it.rib.said.clear()
    it.hear("n2", replace(via("192.0.2.2"), large_communities=communities(OTHERS, ASN)), POD)
    it.work()
    assert {parse_nlri(POD): OTHERS} == it.rib.said
    it.lose("n2", POD)
    it.work()
    assert {parse_nlri(POD): None} == it.rib.said


def test_what_is_not_believed_is_a_route_like_any_other() -> None:
    """Without what was said of it, but with what operators and other kinds say; it is counted and named."""
    it = world(N2)
    it.hear("n2", saying("192.0.2.2", FLOATING, OPERATORS), "10.244.3.5/32", POD)
    assert {"10.244.3.5/32"} == set(it.fib())
    assert {parse_nlri(POD): CLAIMS} == it.rib.said
    assert {tuple(sorted((FLOATING, OPERATORS)))} == large(it, "10.244.3.5/32")
    (refused,) = it.rib.refused_claims
    assert ("n2", parse_nlri("10.244.3.5/32"), 1) == refused[:3]


def test_who_owns_the_block_goes_before_whoever_else_has_the_address() -> None:
    """A third node cannot take an address out of the sets by announcing it, whatever it prefers."""
    it = world(N2, N3)
    it.hear("n2", saying(), POD)
    it.hear("n3", replace(via("192.0.2.3"), local_pref=1000), POD)
    assert {"n2": "own-block", "n3": "own-block"} == it.reasons(POD)
    assert it.best(POD) == "n2"
    assert {} == it.fib()
    it.lose("n2", POD)
    assert {POD} == set(it.fib())


@pytest.mark.parametrize("is_believing", [True, False])
def test_outside_nothing_is_said_and_nothing_heard(is_believing: bool) -> None:
    """Claims are taken off on sessions with others, both ways, also where nobody asks for them."""
    it = world(N2)
    if not is_believing:
        it.rib.believe(None)
    it.up(TOR)
    it.up(replace(external("isp", "192.0.2.201"), cluster_asn=ASN))
    it.hear("tor", saying("192.0.2.200", FLOATING, OPERATORS), "203.0.113.5/32")
    assert {(OPERATORS,)} == large(it, "203.0.113.5/32")
    it.hear("n2", saying("192.0.2.2", OPERATORS), POD)
    it.work()
    assert {} == {n: c for n, c in it.rib.said.items() if n != parse_nlri(POD)}
    heard = told(it, "isp")
    assert is_believing is (POD not in heard)
    assert {(OPERATORS,)} == {attributes.large_communities for attributes in heard.values()}


def test_a_reflector_passes_on_what_it_believes_to_nodes_alone() -> None:
    """Its clients hear the claims with the ORIGINATOR_ID of their node; a client that names another is not believed."""
    cluster_id = RouterId(9)
    two, three = (replace(each, role=Role.CLIENT, cluster_id=cluster_id) for each in (N2, N3))
    it = world(two, three, replace(TOR, role=Role.CLIENT, cluster_id=cluster_id), cluster_id=cluster_id)
    it.hear("n2", saying(), POD)
    it.hear("n3", saying("192.0.2.3", originator_id=RouterId(2)), POD2)
    heard = told(it, "n3")[POD]
    assert (SAID, 2) == (heard.large_communities, heard.originator_id)
    assert {POD2: ()} == {prefix: attributes.large_communities for prefix, attributes in told(it, "tor").items()}
    assert [("n3", 1)] == [(refused.peer, refused.prefixes) for refused in it.rib.refused_claims]


def test_what_is_heard_over_ebgp_is_not_passed_on() -> None:
    """Nobody could tell whose word it is: there is no ORIGINATOR_ID."""
    far = replace(external("n2", "192.0.2.2", 64513), in_cluster=True, cluster_asn=ASN)
    it = world(far, N3)
    it.hear("n2", saying(as_path=via("192.0.2.2", 64513).as_path), POD)
    assert {} == told(it, "n3")
    assert {parse_nlri(POD): CLAIMS} == it.rib.said


def test_identities_have_a_limit_of_their_own() -> None:
    """They do not count as prefixes; stale ones do not count at all; one that loses its claims is a prefix again."""
    peer = replace(N2, max_prefixes=1, max_identities=1)
    it = world(peer)
    name = peer.name
    it.hear("n2", via("192.0.2.2"), BLOCK)
    it.hear("n2", saying(), POD)
    assert it.rib.is_over_limit(name) is None
    assert it.rib.identities(name) == 1
    it.rib.peer_down(name, BOTH)
    it.up(peer, BOTH)
    it.hear("n2", saying(), POD2)
    assert it.rib.is_over_limit(name) is None
    it.hear("n2", saying(), POD)
    assert (Family.IPV4, "max_identities") == it.rib.is_over_limit(name)
    it.rib.peer_down(name, NONE)
    it.up(peer, NONE)
    it.hear("n2", saying(), POD)
    it.hear("n2", via("192.0.2.2"), BLOCK)
    it.hear("n2", via("192.0.2.2"), POD)
    assert (Family.IPV4, "max_prefixes") == it.rib.is_over_limit(name)
    it.lose("n2", POD, BLOCK)
    assert (0, None) == (it.rib.identities(name), it.rib.is_over_limit(name))


def test_stale_ones_that_are_believed_no_longer_are_stale_prefixes() -> None:
    """A reload while their node is away: the limit of prefixes does not count them, nor does what is told of it."""
    peer = replace(N2, max_prefixes=1, max_prefixes_warn=1, max_identities=1)
    it = world(peer)
    it.hear("n2", saying(), POD)
    assert {(Family.IPV4, "max_identities"): (1, 1)} == it.rib.near_limits(peer.name)
    it.rib.peer_down(peer.name, BOTH)
    it.up(peer, BOTH)
    it.rib.believe(None)
    it.work()
    assert (0, {}) == (it.rib.identities(peer.name), it.rib.near_limits(peer.name))
    it.hear("n2", saying(), POD2)
    assert {(Family.IPV4, "max_prefixes"): (1, 1)} == it.rib.near_limits(peer.name)
    assert it.rib.is_over_limit(peer.name) is None
    it.rib.believe(Claimants(OWNERS))
    it.work()
    assert {(Family.IPV4, "max_identities"): (1, 1)} == it.rib.near_limits(peer.name)
    it.hear("n2", saying(), POD)
    assert (Family.IPV4, "max_identities") == it.rib.is_over_limit(peer.name)


def test_a_new_file_judges_what_was_heard_again() -> None:
    """Blocks that moved, identity turned on or off: as if it were heard only now."""
    it = world(N2, N3)
    it.hear("n2", saying(), POD)
    it.work()
    it.rib.said.clear()
    it.rib.believe(Claimants((OWNERS[0], owner("n2", 2, "10.244.7.0/26"), owner("n3", 3, BLOCK))))
    assert {POD} == set(it.fib())
    assert ({parse_nlri(POD): None}, {()}) == (it.rib.said, large(it, POD))
    it.rib.believe(None)
    assert {POD} == set(it.fib())
    assert {SAID} == large(it, POD)
    it.rib.said.clear()
    it.rib.believe(Claimants(OWNERS))
    assert {} == it.fib()
    assert ({parse_nlri(POD): CLAIMS}, 1) == (it.rib.said, it.rib.identities(N2.name))


def test_a_next_hop_is_not_looked_for_in_an_identity() -> None:
    """A neighbour that is a workload of another node is reached by the block, as before."""
    it = world(N2)
    it.hear("n2", via("192.0.2.2"), BLOCK)
    it.hear("n2", saying(), POD)
    it.up(TOR)
    it.hear("tor", via("10.244.2.5"), "203.0.113.0/24")
    assert {BLOCK, "203.0.113.0/24"} == set(it.fib())


def test_claims_of_another_cluster_are_communities() -> None:
    """They are passed on, and say nothing to us."""
    it = world(N2)
    other = tuple((1, x, y) for _, x, y in SAID)
    it.hear("n2", replace(via("192.0.2.2"), large_communities=other), POD)
    assert {POD} == set(it.fib())
    assert {other} == large(it, POD)
    assert Asn(1) != ASN
