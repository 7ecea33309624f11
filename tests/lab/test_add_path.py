"""Two nodes announce one address through a reflector, and the others reach both (RFC 7911), on real kernels."""

from __future__ import annotations

from functools import partial

from tests.lab.cluster import (
    PATIENT,
    Cluster,
    announcing,
    await_rounds,
    laid_out,
    next_hops_of,
    pinging,
    text_of,
    unanswered,
)

FILE = "containerlab/reflector/bgpmesh.toml"
ANYCAST = ("203.0.113.9", "2001:db8:9::9")
OF_C1, OF_C2 = {"192.0.2.1", "2001:db8::1"}, {"192.0.2.2", "2001:db8::2"}
WATCHERS = ("c3", "c4")


def await_next_hops(cluster: Cluster, expected: set[str]) -> None:
    """Wait until those who do not announce it reach the address by just these."""
    for node in WATCHERS:
        cluster.until(node, partial(_reaches, cluster, node, expected), f"routes by {sorted(expected)}")


def _reaches(cluster: Cluster, node: str, expected: set[str]) -> bool:
    return {hop for address in ANYCAST for hop in next_hops_of(cluster.lab, node, address)} == expected


def test_ecmp_survives_a_reflector_and_who_goes_takes_no_packet_along() -> None:
    """Both next hops stand in one kernel route; as one is withdrawn and comes back no packet is lost, on any path."""
    with laid_out("reflector") as cluster:
        alone = text_of(FILE, hold_time=PATIENT)
        prefixes = [f"{address}/{length}" for address, length in zip(ANYCAST, (32, 128), strict=True)]
        together = announcing(announcing(alone, "c1", *prefixes), "c2", *prefixes)
        for node in ("c1", "c2"):
            for prefix in prefixes:
                cluster.lab.exec(node, ["ip", "address", "add", prefix, "dev", "lo"])
        cluster.bring_up("reflector", {"c1": together, "c2": together})
        await_next_hops(cluster, OF_C1 | OF_C2)
        ids = {
            path["path_id"]
            for path in cluster.ask("c3", "routes", prefix=prefixes[0])[0]["paths"]  # type: ignore[index]
        }
        assert len(ids - {None}) == 2

        pings = [pinging(cluster.lab, node, ANYCAST) for node in WATCHERS]
        for text, expected in ((alone, OF_C1), (together, OF_C1 | OF_C2)):
            await_rounds(pings, 1)
            cluster.reload("c2", text)
            await_next_hops(cluster, expected)
            await_rounds(pings)
        assert unanswered(pings) == []
