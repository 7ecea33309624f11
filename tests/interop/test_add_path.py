"""Several paths of a prefix with every neighbour, either way (RFC 7911).

    c1, c2: bgpmesh, both announce one address of each family -- rr1: bgpmesh, their reflector
    rr1 -- c3: a neighbour, takes both paths and reflects them -- c4: bgpmesh, which reaches the address by both

All are in AS 64512. The lab is containerlab/reflector.
"""

from __future__ import annotations

import json

import pytest

from containerlab.lab import Lab, until
from tests.interop.speakers import SPEAKERS, AnySpeaker, Setup, each_of
from tests.lab.cluster import lab_of, next_hops_of

CONFIG = "/run/bgpmesh/node.toml"
ASN = 64512
ANYCAST = ("203.0.113.9/32", "2001:db8:9::9/128")
OF_C1, OF_C2 = ("192.0.2.1", "2001:db8::1"), ("192.0.2.2", "2001:db8::2")
ADDRESSES = {"c1": ("192.0.2.1", "2001:db8::1"), "c2": OF_C2, "c4": ("192.0.2.4", "2001:db8::4")}
RR1, C3 = ("192.0.2.254", "2001:db8::fe"), ("192.0.2.3", "2001:db8::3")


def text(name: str, own: tuple[str, str], peers: dict[str, str], prefixes: tuple[str, ...] = ()) -> str:
    """Return the configuration of a node whose peers take and send several paths."""
    head = f"[cluster]\nasn = {ASN}\ntopology = 'none'\nhold_time = 9\ngraceful_restart = 0\n"
    head += f"[node.{name}]\naddress = '{own[0]}'\naddress6 = '{own[1]}'\nadvertise = {json.dumps(prefixes)}\n"
    head += "".join(
        f"[peer.{peer}]\naddress = '{address}'\nasn = {ASN}\nadd_path = true\n"
        + ("reflector_client = true\n" if name == "rr1" else "")
        for peer, address in peers.items()
    )
    return head + ("[kernel]\nenabled = false\n" if name == "rr1" else "")


def start(lab: Lab, name: str, configuration: str) -> None:
    """Start a node of ours."""
    lab.write(name, CONFIG, configuration)
    lab.start(name, ["bgpmesh", "run", "--config", CONFIG])


def kernel(lab: Lab, node: str) -> set[str]:
    """Return the next hops of a node's routes to the address of each family."""
    return {hop for prefix in ANYCAST for hop in next_hops_of(lab, node, prefix.split("/")[0])}


def heard(speaker: AnySpeaker) -> set[str]:
    """Return the next hops of all that a speaker was told of the address of each family."""
    return {hop for prefix in ANYCAST for hop in speaker.next_hops(prefix)}


@pytest.mark.parametrize("kind", each_of(*SPEAKERS))
def test_both_ways_to_an_address_go_through_a_reflector_of_either_make(kind: type[AnySpeaker]) -> None:
    """The neighbour has both paths from us, we have both from it; one that is withdrawn leaves the other everywhere."""
    with lab_of("reflector") as lab:
        for name in ("c1", "c2"):
            start(lab, name, text(name, ADDRESSES[name], {"rr1": RR1[0]}, ANYCAST))
        start(lab, "rr1", text("rr1", RR1, {"c1": OF_C1[0], "c2": OF_C2[0], "c3": C3[0]}))
        start(lab, "c4", text("c4", ADDRESSES["c4"], {"c3": C3[0]}))
        setup = Setup(ASN, *C3, RR1[0], ASN, graceful_restart=0, client=ADDRESSES["c4"][0])
        speaker = kind(lab, "c3", setup)
        speaker.start()
        until(speaker.is_established, f"{speaker.name} to be Established")
        until(lambda: heard(speaker) == {*OF_C1, *OF_C2}, f"{speaker.name} to have both ways")
        until(lambda: kernel(lab, "c4") == {*OF_C1, *OF_C2}, "our node behind it to have both ways")
        (row,) = json.loads(lab.exec("c4", ["bgpmesh", "routes", ANYCAST[0], "--received", "c3", "--json"]).stdout)
        assert len({path["path_id"] for path in row["paths"]} - {None}) == 2
        lab.write("c2", CONFIG, text("c2", OF_C2, {"rr1": RR1[0]}))
        lab.exec("c2", ["bgpmesh", "reload"])
        until(lambda: kernel(lab, "c4") == {*OF_C1}, "our node to have one way")
        until(lambda: heard(speaker) == {*OF_C1}, f"{speaker.name} to have one way")
