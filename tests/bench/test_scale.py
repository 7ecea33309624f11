"""Far more of everything than a node has to do with: right all the same. How fast it was is nobody's business here."""

from __future__ import annotations

import os

import pytest

from containerlab.lab import missing
from tests.bench.daemons import Bgpmesh
from tests.bench.play import run
from tests.bench.scenario import Scale, Scenario

SIZES = [
    pytest.param(Scenario("peers", "", "reflect", clients=499), Scale.of(1_000), id="500-peers"),
    pytest.param(Scenario("clients", "", "reflect", clients=200), Scale.of(100_000), id="200-clients"),
    pytest.param(Scenario("mesh", "", "mesh"), Scale(0, 0, 0, 0, nodes=50, idle_s=0.0), id="mesh-of-50"),
    pytest.param(Scenario("routes", "", "withdraw"), Scale.of(1_000_000), id="1,000,000-routes"),
]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the host's table of neighbours is too small by default")
@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize(("scenario", "scale"), SIZES)
@pytest.mark.timeout(900)
def test_it_scales(scenario: Scenario, scale: Scale) -> None:
    """The kernel holds the feed, and then nothing; every client was told all of it; every node reaches the others."""
    run(scenario, Bgpmesh(), scale)
