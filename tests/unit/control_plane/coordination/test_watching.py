import asyncio

import pytest

from control_plane.coordination.store import Changed
from control_plane.coordination.watching import LatestChange


def watch() -> LatestChange:
    return LatestChange("/epoch", lambda _: None)


async def test_only_the_latest_of_the_waiting_events_is_given() -> None:
    changes = watch()
    for version in range(5):
        changes.offer(version, resync=False)
    assert await anext(changes) == Changed("/epoch", 4, resync=False)


async def test_a_resync_is_not_forgotten_by_a_later_event() -> None:
    changes = watch()
    changes.offer(None, resync=True)
    changes.offer(1, resync=False)
    assert await anext(changes) == Changed("/epoch", 1, resync=True)
    changes.offer(2, resync=False)
    assert await anext(changes) == Changed("/epoch", 2, resync=False)


async def test_a_waiting_consumer_is_woken_by_an_event_and_by_the_end() -> None:
    changes = watch()
    waiting = asyncio.create_task(anext(changes, None))
    await asyncio.sleep(0)
    changes.offer(3, resync=False)
    assert await waiting == Changed("/epoch", 3, resync=False)
    waiting = asyncio.create_task(anext(changes, None))
    await asyncio.sleep(0)
    await changes.close()
    assert await waiting is None


async def test_closing_tells_the_store_once_and_drops_what_waits() -> None:
    closed: list[LatestChange] = []
    changes = LatestChange("/epoch", closed.append)
    changes.offer(1, resync=False)
    async with changes:
        pass
    await changes.close()
    assert closed == [changes]
    with pytest.raises(StopAsyncIteration):
        await anext(changes)
