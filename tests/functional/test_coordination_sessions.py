"""What lives and dies with a session, on both stores: ephemerals, leadership, and the fence."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.coordination.errors import BadOperation, BadPath, Conflict
from control_plane.coordination.store import (
    CoordinationStore,
    Entry,
    Leadership,
    Put,
    Registration,
)
from tests.support.coordination import (
    Backend,
    LeaderProcess,
    sqlite_backend,
    until,
    zookeeper_backend,
)

_roots = itertools.count()


@pytest.fixture(params=["sqlite", pytest.param("zookeeper", marks=pytest.mark.peers)])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    if request.param == "sqlite":
        backend = sqlite_backend(tmp_path)
    else:
        server = request.getfixturevalue("zookeeper")
        backend = zookeeper_backend(server, f"/sessions-{next(_roots)}")
    yield backend
    await backend.close()


@pytest.fixture
async def store(backend: Backend) -> CoordinationStore:
    return await backend.open()


@pytest.fixture
async def other(backend: Backend, store: CoordinationStore) -> CoordinationStore:
    """A second client of the same store, with a session of its own."""
    return await backend.open()


async def until_read(store: CoordinationStore, path: str, value: bytes | None) -> None:
    async def there() -> bool:
        entry = await store.read(path)
        return (None if entry is None else entry.value) == value

    await until(there)


async def until_held(registration: Registration, *, held: bool = True) -> None:
    async def so() -> bool:
        return registration.held == held

    await until(so)


async def over(leadership: Leadership) -> None:
    async with asyncio.timeout(20):
        await leadership.lost()


async def won(campaign: asyncio.Task[Leadership]) -> Leadership:
    async with asyncio.timeout(20):
        return await campaign


# Ephemerals


async def test_an_ephemeral_is_seen_by_others_and_ends_with_its_store(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    registration = await store.ephemeral("/instances/a", b"here")
    assert registration.held
    assert await other.read("/instances/a") == Entry(b"here", 0)
    await store.close()
    await until_read(other, "/instances/a", None)
    assert not registration.held


async def test_an_ephemeral_outlives_many_sessions(
    backend: Backend, store: CoordinationStore, other: CoordinationStore
) -> None:
    registration = await store.ephemeral("/instances/a", b"here")
    for _ in range(2):
        async with other.watch("/instances/a") as watch:
            assert (await anext(watch)).version == 0
            backend.end_session(store)
            async with asyncio.timeout(20):
                await anext(watch)  # it went, and may be back already
        await until_read(other, "/instances/a", b"here")
        await until_held(registration)


async def test_a_withdrawn_ephemeral_stays_away(
    backend: Backend, store: CoordinationStore, other: CoordinationStore
) -> None:
    registration = await store.ephemeral("/instances/a", b"here")
    kept = await store.ephemeral("/instances/b", b"here")
    await registration.withdraw()
    await registration.withdraw()
    assert await other.children("/instances") == ["b"]
    await backend.lose_session(store)
    await until_held(kept)
    assert await other.children("/instances") == ["b"]


async def test_an_updated_value_is_what_comes_back(
    backend: Backend, store: CoordinationStore, other: CoordinationStore
) -> None:
    registration = await store.ephemeral("/instances/a", b"old")
    await registration.update(b"new")
    await until_read(other, "/instances/a", b"new")
    await backend.lose_session(store)
    await until_held(registration)
    await until_read(other, "/instances/a", b"new")


async def test_the_last_one_to_register_wins_and_the_first_one_knows(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    # A restarted instance does not wait until its former life's session has ended.
    first = await store.ephemeral("/instances/a", b"first life")
    second = await other.ephemeral("/instances/a", b"second life")
    assert second.held
    await until_held(first, held=False)
    await first.update(b"from the grave")
    await first.withdraw()
    assert await other.read("/instances/a") == Entry(b"second life", 0)


async def test_an_ephemeral_does_not_replace_a_lasting_value(store: CoordinationStore) -> None:
    await store.write("/instances/a", b"lasting")
    with pytest.raises(Conflict):
        await store.ephemeral("/instances/a", b"x")
    assert await store.read("/instances/a") == Entry(b"lasting", 0)


async def test_an_ephemeral_has_no_children(store: CoordinationStore) -> None:
    await store.ephemeral("/instances/a", b"x")
    with pytest.raises(BadPath, match="ephemeral"):
        await store.write("/instances/a/b", b"x")


# Leadership


async def test_one_of_two_leads_and_the_next_one_follows_at_once(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    first = await store.campaign("/leader", b"first")
    assert first.is_leader()
    waiting = asyncio.create_task(other.campaign("/leader", b"second"))
    await until_read(other, "/leader/holder", b"first")
    assert not waiting.done()
    await first.resign()
    await first.resign()
    second = await won(waiting)
    assert (first.is_leader(), second.is_leader()) == (False, True)
    assert second.term > first.term
    assert await store.read("/leader") == Entry(b"second", second.term)


async def test_a_deposed_leaders_transactions_change_nothing(
    backend: Backend, store: CoordinationStore, other: CoordinationStore
) -> None:
    deposed = await store.campaign("/leader", b"first")
    guard = deposed.guard()
    assert await store.transact([guard, Put("/map", b"1")]) == [deposed.term, 0]
    backend.end_session(store)
    second = await won(asyncio.create_task(other.campaign("/leader", b"second")))
    with pytest.raises(Conflict) as refused:
        await store.transact([Put("/map", b"stale"), guard])
    assert (refused.value.path, refused.value.op_index) == ("/leader", 1)
    assert await other.transact([second.guard(), Put("/map", b"2")]) == [second.term, 1]
    await store.sync("/map")
    assert await store.read("/map") == Entry(b"2", 1)


async def test_a_lost_session_ends_the_leadership_for_good(
    backend: Backend, store: CoordinationStore
) -> None:
    leadership = await store.campaign("/leader", b"me")
    backend.end_session(store)
    await over(leadership)
    assert not leadership.is_leader()
    again = await won(asyncio.create_task(store.campaign("/leader", b"me")))
    assert again.term > leadership.term
    assert (leadership.is_leader(), again.is_leader()) == (False, True)


async def test_a_holder_taken_away_ends_the_leadership(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    leadership = await store.campaign("/leader", b"me")
    await other.delete("/leader/holder")
    await over(leadership)
    assert not leadership.is_leader()


async def test_a_cancelled_campaign_leaves_the_lead_to_others(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    first = await store.campaign("/leader", b"first")
    for _ in range(3):
        given_up = asyncio.create_task(other.campaign("/leader", b"given up"))
        await other.read("/leader")
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
    await first.resign()
    async with await store.campaign("/leader", b"again") as again:
        assert again.term > first.term


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 32])
async def test_a_campaign_cancelled_while_it_wins_leaves_no_holder(
    store: CoordinationStore, other: CoordinationStore, steps: int
) -> None:
    winning = asyncio.create_task(store.campaign("/leader", b"cancelled"))
    for _ in range(steps):
        await asyncio.sleep(0.0002)
    winning.cancel()
    try:
        await (await winning).resign()
    except asyncio.CancelledError:
        pass
    async with asyncio.timeout(4):  # well before the session of the first one could end
        assert (await other.campaign("/leader", b"other")).is_leader()


async def test_many_campaigns_never_have_two_leaders(backend: Backend) -> None:
    stores = [await backend.open() for _ in range(4)]
    leading: list[Leadership] = []
    terms: list[int] = []

    async def lead(store: CoordinationStore) -> None:
        for _ in range(3):
            async with await store.campaign("/leader", b"x") as leadership:
                assert not any(other.is_leader() for other in leading)
                leading.append(leadership)
                terms.append(leadership.term)
                await store.transact([leadership.guard(), Put("/map", b"%d" % leadership.term)])
                leading.remove(leadership)

    async with asyncio.timeout(30):
        await asyncio.gather(*(lead(store) for store in stores))
    assert terms == sorted(set(terms))
    assert len(terms) == 12


async def test_one_store_campaigns_for_a_path_once(store: CoordinationStore) -> None:
    leadership = await store.campaign("/leader", b"x")
    with pytest.raises(BadOperation):
        await store.campaign("/leader", b"x")
    await leadership.resign()
    assert (await store.campaign("/leader", b"x")).is_leader()


async def test_closing_the_store_ends_its_leadership(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    leadership = await store.campaign("/leader", b"first")
    await store.close()
    await over(leadership)
    assert (await won(asyncio.create_task(other.campaign("/leader", b"next")))).is_leader()


async def test_an_idle_leader_keeps_leading_past_its_deadline(backend: Backend) -> None:
    store = await backend.open(session_timeout_ms=1_000)
    leadership = await store.campaign("/leader", b"x")
    for _ in range(30):
        await asyncio.sleep(0.05)
        assert leadership.is_leader()


@pytest.mark.slow
async def test_a_frozen_leader_is_replaced_and_fenced_when_it_wakes(backend: Backend) -> None:
    frozen = LeaderProcess(backend.url, session_timeout_ms=1_000)
    try:
        assert await frozen.say() == "leading 0"
        store = await backend.open()
        frozen.ask()
        assert (await frozen.say(), await frozen.say()) == ("is_leader True", "written")
        frozen.process.send_signal(signal.SIGSTOP)
        next_leader = await won(asyncio.create_task(store.campaign("/leader", b"next")))
        await store.transact([next_leader.guard(), Put("/written", b"by the next one")])
        frozen.ask()
        frozen.process.send_signal(signal.SIGCONT)
        # Whatever it had believed when it woke up, its clock and the fence both say no.
        assert await frozen.say() == "is_leader False"
        assert await frozen.say() in ("Conflict", "SessionLost", "Unavailable")
        frozen.ask()
        assert (await frozen.say(), await frozen.say()) == ("is_leader False", "Conflict")
        assert await store.read("/written") == Entry(b"by the next one", 1)
        assert next_leader.is_leader()
    finally:
        frozen.end()
