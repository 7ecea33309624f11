"""Who follows the drops, without a kernel."""

from __future__ import annotations

import asyncio

from bgpmesh.drops import LONGEST_QUEUE, Follower


def test_a_follower_that_is_slow_hears_how_many_it_missed() -> None:
    """Once it has taken what waited; then it goes on."""
    left: list[Follower] = []
    follower = Follower(left.append)

    async def story() -> None:
        for number in range(LONGEST_QUEUE + 5):
            follower.tell({"number": number})
        taken = [await anext(follower) for _ in range(LONGEST_QUEUE)]
        assert [drop["number"] for drop in taken] == list(range(LONGEST_QUEUE))
        assert await anext(follower) == {"lost": 5}
        waiting = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0)
        assert not waiting.done()
        follower.lose()
        assert await waiting == {"lost": 1}
        follower.tell({"number": 7})
        assert await anext(follower) == {"number": 7}
        await follower.aclose()
        assert left == [follower]

    asyncio.run(story())
