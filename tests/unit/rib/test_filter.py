"""Filters in a row."""

from __future__ import annotations

import pytest

from bgpmesh.rib.filter import run
from bgpmesh.route.attributes import RouterId
from bgpmesh.route.path import LOCAL, PeerName, Role, Source
from tests.unit.rib.ribworld import key, via

LEARNT = Source(PeerName("a"), Role.EXTERNAL, RouterId(1), None)


@pytest.mark.parametrize(
    ("names", "source", "stopped_by"),
    [
        ((), LEARNT, ""),
        (("all",), LEARNT, ""),
        (("own",), LOCAL, ""),
        (("own",), LEARNT, "own"),
        (("all", "none"), LOCAL, "none"),
        (("none", "all"), LOCAL, "none"),
    ],
)
def test_every_filter_must_let_it_pass(names: tuple[str, ...], source: Source, stopped_by: str) -> None:
    """The first filter that stops a batch is named; nothing undoes it."""
    attributes, nlris = via("192.0.2.9"), [key("10.0.0.0/8")]
    (answer,) = run(names, source, attributes, nlris)
    assert (nlris, stopped_by) == (answer.nlris, answer.stopped_by)
    assert answer.attributes is (None if stopped_by else attributes)


def test_an_unknown_filter_is_a_mistake_of_ours() -> None:
    """The configuration refuses unknown names; one that gets here is a bug, not a silent accept."""
    with pytest.raises(KeyError):
        run(("pods-only",), LEARNT, via("192.0.2.9"), [])
