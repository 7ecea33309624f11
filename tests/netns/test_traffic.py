"""What is read of the kernel's counters is what it tells others of them."""

from __future__ import annotations

import json

from bgpmesh.kernel.traffic import traffic
from tests.netns.host import apart, run

LINKS = 300  # more than one answer has room for


def test_counters_of_every_link_are_read() -> None:
    """Each link by its number, what came and what went; what is sent in between is added."""

    def told() -> dict[int, tuple[int, int]]:
        rows = json.loads(run("ip", "-j", "-s", "link"))
        return {row["ifindex"]: (row["stats64"]["rx"]["bytes"], row["stats64"]["tx"]["bytes"]) for row in rows}

    def story() -> None:
        made = "".join(f"link add a{number} type veth peer name b{number}\n" for number in range(LINKS // 2))
        run("ip", "-batch", "-", stdin=made)
        before = traffic()
        assert before == told()
        assert len(before) == LINKS + 1
        run("ping", "-c", "2", "-s", "1000", "-W", "30", "127.0.0.1")
        (loopback,) = (link for link, counted in traffic().items() if counted != before[link])
        came, went = traffic()[loopback]
        assert (came - before[loopback][0], went - before[loopback][1]) == (4 * 1028, 4 * 1028)

    apart(story)
