"""Who may say of an address who has it."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bgpmesh.peering.peer import Owner, Peer
from bgpmesh.rib.claimants import Claimants
from bgpmesh.route.attributes import Asn, RouterId
from bgpmesh.route.nlri import parse_nlri
from bgpmesh.route.path import PeerName, Role

N2, N3 = RouterId(2), RouterId(3)


def owner(number: int, *blocks: str) -> Owner:
    """Return a node with blocks; its BGP identifier is its number."""
    return Owner(PeerName(f"n{number}"), RouterId(number), tuple(map(ipaddress.ip_network, blocks)))


CLAIMANTS = Claimants(
    (
        owner(1),
        owner(2, "10.244.2.0/26", "10.250.0.0/24", "fd00:2::/112", "10.9.9.9/32"),
        owner(3, "10.244.3.0/26"),
        Owner(PeerName("leaves"), None, tuple(map(ipaddress.ip_network, ("10.244.0.0/16", "fd00::/16")))),
        Owner(PeerName("others"), None, (ipaddress.ip_network("10.251.0.0/16"),)),
    )
)
PEER = Peer(
    PeerName("n2"),
    ipaddress.ip_address("192.0.2.2"),
    Asn(64512),
    Role.NON_CLIENT,
    ipaddress.ip_address("192.0.2.1"),
    Asn(64512),
    RouterId(1),
    in_cluster=True,
)
REFLECTOR = replace(PEER, name=PeerName("n1"), is_reflector=True)
LEAF = replace(PEER, name=PeerName("leaves@192.0.2.77"), of_range=PeerName("leaves"))
STRANGER = replace(PEER, name=PeerName("n9"))


@pytest.mark.parametrize(
    ("peer", "originator", "prefix", "reason"),
    [
        (PEER, None, "10.244.2.0/32", ""),
        (PEER, None, "10.244.2.63/32", ""),
        (PEER, None, "10.250.0.7/32", ""),
        (PEER, None, "fd00:2::ffff/128", ""),
        (PEER, N2, "10.244.2.1/32", ""),
        (PEER, None, "10.244.2.64/32", "10.244.2.64/32 is no address in a block of node n2"),
        (PEER, None, "10.244.3.1/32", "10.244.3.1/32 is no address in a block of node n2"),
        (PEER, None, "fd00:3::1/128", "fd00:3::1/128 is no address in a block of node n2"),
        (PEER, None, "10.244.2.0/31", "10.244.2.0/31 is no address in a block of node n2"),
        (PEER, None, "10.244.2.0/26", "10.244.2.0/26 is no address in a block of node n2"),
        (PEER, None, "10.9.9.9/32", "10.9.9.9/32 is no address in a block of node n2"),
        (PEER, N3, "10.244.3.1/32", "ORIGINATOR_ID is 0.0.0.3, and n2 does not reflect"),
        (REFLECTOR, N3, "10.244.3.1/32", ""),
        (REFLECTOR, N2, "10.244.3.1/32", "10.244.3.1/32 is no address in a block of node n2"),
        (REFLECTOR, None, "10.244.3.1/32", "10.244.3.1/32 is no address in a block of node n1"),
        (REFLECTOR, RouterId(9), "10.244.9.1/32", ""),
        (REFLECTOR, RouterId(9), "10.251.9.1/32", ""),
        (
            REFLECTOR,
            RouterId(9),
            "10.244.3.1/32",
            "10.244.3.1/32 is no address in the pods of any range and of no node",
        ),
        (LEAF, None, "10.244.9.1/32", ""),
        (LEAF, None, "10.244.2.64/32", ""),
        (LEAF, None, "fd00:9::1/128", ""),
        (LEAF, None, "10.244.2.0/32", "10.244.2.0/32 is no address in the pods of leaves and of no node"),
        (LEAF, None, "10.244.2.63/32", "10.244.2.63/32 is no address in the pods of leaves and of no node"),
        (LEAF, None, "fd00:2::ff/128", "fd00:2::ff/128 is no address in the pods of leaves and of no node"),
        (LEAF, None, "10.251.0.1/32", "10.251.0.1/32 is no address in the pods of leaves and of no node"),
        (LEAF, N3, "10.244.3.1/32", "ORIGINATOR_ID is 0.0.0.3, and leaves@192.0.2.77 does not reflect"),
        (STRANGER, None, "10.244.3.1/32", "n9 is no node of the file"),
    ],
)
def test_whose_word_counts(peer: Peer, originator: RouterId | None, prefix: str, reason: str) -> None:
    """A node's, of single addresses in its own blocks, from itself or through a reflector."""
    nlri = parse_nlri(prefix)
    believed, others, why = CLAIMANTS.judge(peer, originator, [nlri])
    assert (
        ([], [nlri], reason) == (list(believed), list(others), why)
        if reason
        else ([nlri], [], "")
        == (
            list(believed),
            list(others),
            why,
        )
    )


def test_a_batch_is_judged_prefix_by_prefix() -> None:
    """What lies in one of the blocks is believed, the rest is not, and the first of it is named."""
    texts = ["10.244.2.1/32", "10.244.3.1/32", "10.250.0.1/32", "10.251.0.1/32"]
    believed, others, why = CLAIMANTS.judge(PEER, None, list(map(parse_nlri, texts)))
    assert [parse_nlri(texts[0]), parse_nlri(texts[2])] == list(believed)
    assert [parse_nlri(texts[1]), parse_nlri(texts[3])] == list(others)
    assert why.startswith("10.244.3.1/32 ")
