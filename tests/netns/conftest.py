"""What stories about the packet filter are told on."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

import pytest

from tests.netns.host import THEIRS, Story, World, apart


@pytest.fixture(params=["nft", "legacy"])
def backend(request: pytest.FixtureRequest) -> str:
    """Give each kind of iptables."""
    chosen = str(request.param)
    if shutil.which(f"iptables-{chosen}") is None:
        pytest.skip(f"needs iptables-{chosen}")
    return chosen


@pytest.fixture
def world(backend: str) -> Callable[[Story], None]:
    """Give a way to tell a story on a host of its own; somebody has a rule in each family's nat."""

    def tell(story: Story) -> None:
        def whole() -> None:
            here = World(backend)
            for family, theirs in THEIRS.items():
                here.iptables(family, *theirs.split())
            asyncio.run(story(here))

        apart(whole)

    return tell
