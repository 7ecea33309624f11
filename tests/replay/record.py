"""Record the stories again: `python -m tests.replay.record [STORY]` plays them in a lab and replaces their journals.

The journals differ in times and in the order in which messages crossed; run the tests with `--update-golden`
afterwards and look at what has changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL

from tests.lab.cluster import CLIENTS, NODES, PATIENT, SESSIONS, STATE, Cluster, blocks, laid_out, text_of

HERE = Path(__file__).parent
RECORDED = "\n[state]\nrecord_mb = 1\n"


def killed_and_restarted() -> dict[str, str]:
    """Play it; returns the journals by their names."""
    with laid_out("mesh3") as cluster:
        text = text_of("config/demo.toml", hold_time=PATIENT) + RECORDED
        nodes = tuple(cluster.bring_up("mesh3", dict.fromkeys(NODES, text)))
        cluster.stop(SIGKILL, "n1")
        for node in ("n2", "n3"):
            cluster.until(node, lambda node=node: cluster.has_peer(node, "n1", is_up=False), "n1 gone")  # type: ignore[misc]
        cluster.start("n1")
        cluster.await_sync("n1")
        cluster.await_sessions(SESSIONS["mesh3"])
        cluster.await_no_stale(*nodes)
        return {"n1": recording(cluster, "n1"), "n2": recording(cluster, "n2")}


def reflector_away_too_long() -> dict[str, str]:
    """Play it; returns the journals by their names."""
    with laid_out("reflector") as cluster:
        options = {"hold_time": PATIENT, "graceful_restart": "5"}
        texts = dict.fromkeys(CLIENTS, text_of("containerlab/reflector/bgpmesh.toml", **options) + RECORDED)
        texts["rr1"] = text_of("containerlab/reflector/rr1.toml", **options) + RECORDED
        cluster.bring_up("reflector", texts)
        cluster.stop(SIGKILL, "rr1")
        for node in CLIENTS:
            cluster.until_logged(node, "peer.stale-swept")
            cluster.await_prefixes(node, blocks(node))
        cluster.start("rr1")
        cluster.await_sync("rr1")
        cluster.await_sessions(SESSIONS["reflector"])
        for node in CLIENTS:
            cluster.await_prefixes(node, blocks(*CLIENTS))
        return {"rr1": recording(cluster, "rr1"), "c1": recording(cluster, "c1")}


def recording(cluster: Cluster, node: str) -> str:
    """Return what the last daemon of a node recorded."""
    head, _, rest = cluster.lab.exec(node, ["cat", f"{STATE}/recording.journal"]).stdout.partition("\n")
    return json.dumps({**json.loads(head), "epoch": 0.0}) + "\n" + rest  # the date is no part of the story


STORIES: dict[str, Callable[[], dict[str, str]]] = {
    "killed-and-restarted": killed_and_restarted,
    "reflector-away-too-long": reflector_away_too_long,
}


def main(names: list[str]) -> None:
    """Record these, or all of them."""
    for name in names or STORIES:
        for node, text in STORIES[name]().items():
            (HERE / name / f"{node}.journal").write_text(text, "ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
