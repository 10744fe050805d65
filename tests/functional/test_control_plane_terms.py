"""What guards the writes of a leader: its term, and the revision that it decided from."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.controllers.leading import Term
from control_plane.controllers.map_feed import MapFeed
from control_plane.coordination.errors import Conflict, NotLeader, Unavailable
from control_plane.coordination.opening import open_store
from control_plane.coordination.store import ABSENT, CoordinationStore, Put
from tests.support.cluster_states import PATHS

MARK = f"{PATHS.root}/mark"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CoordinationStore]:
    async with await open_store(f"sqlite://{tmp_path}/store.db") as opened:
        yield opened


async def begun(store: CoordinationStore) -> tuple[Term, MapFeed]:
    feed = MapFeed(store, PATHS, lambda _: None)
    term = Term(store, PATHS, await store.campaign(PATHS.leader, b"{}"), feed)
    await term.begin()
    return term, feed


async def test_the_first_leader_gives_the_cluster_its_identity_and_later_ones_keep_it(
    store: CoordinationStore,
) -> None:
    first, _ = await begun(store)
    uid = first.state.uid
    assert len(uid) == 32
    await first.leadership.resign()
    second, _ = await begun(store)
    assert second.state.uid == uid


async def test_a_write_is_the_next_revision(store: CoordinationStore) -> None:
    term, _ = await begun(store)
    before = term.state
    after = await term.write(before, [Put(MARK, b"x", ABSENT)])
    assert after.revision == before.revision + 1
    assert term.state == after


async def test_a_write_decided_from_an_older_revision_is_refused(store: CoordinationStore) -> None:
    term, _ = await begun(store)
    old = term.state
    await term.write(old, [Put(MARK, b"first")])
    with pytest.raises(Conflict) as caught:
        await term.write(old, [Put(MARK, b"second")])
    assert caught.value.path == PATHS.epoch
    assert (await store.read(MARK)).value == b"first"  # type: ignore[union-attr]


async def test_a_write_of_a_term_that_a_later_one_followed_is_refused(
    store: CoordinationStore,
) -> None:
    """As of a leader that slept: it still believes to lead, and knows the newest revision."""
    term, _ = await begun(store)
    await store.write(PATHS.leader, b"{}")  # what the next leader does to begin its term
    assert term.is_leader()
    with pytest.raises(Conflict) as caught:
        await term.write(term.state, [Put(MARK, b"x")])
    assert caught.value.path == PATHS.leader
    assert await store.read(MARK) is None


async def test_a_leader_that_resigned_writes_nothing(store: CoordinationStore) -> None:
    term, _ = await begun(store)
    await term.leadership.resign()
    with pytest.raises(NotLeader):
        await term.write(term.state, [Put(MARK, b"x")])
    assert await store.read(MARK) is None


async def test_nothing_is_written_while_the_stores_map_is_refused(
    store: CoordinationStore,
) -> None:
    term, feed = await begun(store)
    await store.write(PATHS.epoch, b"0")
    await feed.refresh()
    assert "went back" in feed.problem
    with pytest.raises(Unavailable, match="went back"):
        await term.write(term.state, [Put(MARK, b"x")])
    assert await store.read(MARK) is None
