"""Prefixes as keys."""

from __future__ import annotations

import ipaddress
import random

from bgpmesh.route.nlri import nlri_of, nlri_order


def test_prefixes_are_ordered_as_people_expect() -> None:
    """By family, then by address, and of one address the shorter first."""
    texts = [
        "0.0.0.0/0",
        "9.0.0.0/8",
        "10.0.0.0/8",
        "10.0.0.0/24",
        "10.0.1.0/24",
        "10.1.0.0/16",
        "::/0",
        "2001:db8::/32",
    ]
    networks = list(map(ipaddress.ip_network, texts))
    mixed = random.Random(7).sample(networks, len(networks))
    assert networks == sorted(mixed, key=lambda network: nlri_order(nlri_of(network)))
