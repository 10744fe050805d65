"""One contract, two stores: every test runs on the embedded store and on a real ZooKeeper."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from control_plane.coordination.epoch import read_snapshot, with_epoch_bump
from control_plane.coordination.errors import (
    BadOperation,
    BadPath,
    Conflict,
    NotEmpty,
    NotFound,
    StoreClosed,
    TooLarge,
)
from control_plane.coordination.store import (
    ABSENT,
    TRANSACTION_BOUND_BYTES,
    VALUE_BOUND_BYTES,
    Changed,
    Check,
    CoordinationStore,
    Delete,
    Entry,
    Expect,
    Op,
    Put,
    Watch,
)
from tests.support.coordination import Backend, sqlite_backend, zookeeper_backend

_roots = itertools.count()


@pytest.fixture(params=["sqlite", pytest.param("zookeeper", marks=pytest.mark.peers)])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    if request.param == "sqlite":
        backend = sqlite_backend(tmp_path)
    else:
        server = request.getfixturevalue("zookeeper")
        backend = zookeeper_backend(server, f"/contract-{next(_roots)}")
    yield backend
    await backend.close()


@pytest.fixture
async def store(backend: Backend) -> CoordinationStore:
    return await backend.open()


@pytest.fixture
async def other(backend: Backend, store: CoordinationStore) -> CoordinationStore:
    """A second client of the same store."""
    return await backend.open()


async def following(watch: Watch) -> Changed:
    async with asyncio.timeout(10):
        return await anext(watch)


# Values and versions


async def test_a_path_that_was_never_written_reads_as_none(store: CoordinationStore) -> None:
    assert await store.read("/a/b") is None
    assert await store.children("/a") == []
    assert await store.read_tree("/a") == {}


async def test_versions_start_at_zero_and_grow_by_one(store: CoordinationStore) -> None:
    versions = [await store.write("/a/b", b"%d" % n) for n in range(3)]
    assert versions == [0, 1, 2]
    assert await store.read("/a/b") == Entry(b"2", 2)


async def test_a_write_is_seen_by_another_client(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    await store.write("/a", b"x")
    await other.sync("/a")
    assert await other.read("/a") == Entry(b"x", 0)


async def test_missing_parents_are_made_empty(store: CoordinationStore) -> None:
    await store.write("/a/b/c", b"x")
    assert await store.read("/a/b") == Entry(b"", 0)
    assert await store.children("/a") == ["b"]


async def test_binary_and_empty_values_come_back_as_written(store: CoordinationStore) -> None:
    for value in (b"", b"\x00\xff\n", bytes(range(256))):
        await store.write("/a", value)
        entry = await store.read("/a")
        assert entry is not None
        assert entry.value == value


async def test_read_many_keeps_the_order_and_shows_the_gaps(store: CoordinationStore) -> None:
    await store.transact([Put("/a", b"1"), Put("/c", b"3")])
    assert await store.read_many(["/c", "/b", "/a", "/c"]) == [
        Entry(b"3", 0),
        None,
        Entry(b"1", 0),
        Entry(b"3", 0),
    ]


async def test_read_tree_has_all_below_and_nothing_beside(store: CoordinationStore) -> None:
    paths = ["/t/a", "/t/a/x", "/t/a/x/y", "/t/a-b", "/t/a.b", "/t/a0", "/t/b"]
    await store.transact([Put(path, path.encode()) for path in paths])
    assert await store.read_tree("/t/a") == {
        path: Entry(path.encode(), 0) for path in ("/t/a", "/t/a/x", "/t/a/x/y")
    }


@pytest.mark.parametrize(
    ("prepare", "expect", "found"),
    [
        ([], 0, "absent"),
        ([b"x"], 3, 0),
        ([b"x", b"y"], 0, 1),
        ([b"x"], ABSENT, 0),
    ],
)
async def test_a_write_with_the_wrong_expectation_is_refused(
    store: CoordinationStore, prepare: Sequence[bytes], expect: Expect, found: int | str
) -> None:
    for value in prepare:
        await store.write("/a/b", value)
    before = await store.read("/a/b")
    with pytest.raises(Conflict) as refused:
        await store.write("/a/b", b"new", expect=expect)
    expected = "absent" if expect is ABSENT else expect
    assert (refused.value.path, refused.value.expected, refused.value.actual) == (
        "/a/b",
        expected,
        found,
    )
    assert await store.read("/a/b") == before


async def test_a_write_expecting_absence_creates(store: CoordinationStore) -> None:
    assert await store.write("/a/b", b"x", expect=ABSENT) == 0


async def test_deletes_are_guarded_and_name_what_they_found(store: CoordinationStore) -> None:
    await store.write("/a", b"x")
    with pytest.raises(Conflict):
        await store.delete("/a", expect=5)
    await store.delete("/a", expect=0)
    assert await store.read("/a") is None
    with pytest.raises(Conflict, match="absent"):
        await store.delete("/a", expect=0)
    with pytest.raises(NotFound):
        await store.delete("/a")


async def test_a_path_with_children_is_not_deleted(store: CoordinationStore) -> None:
    await store.write("/a/b", b"x")
    with pytest.raises(NotEmpty):
        await store.delete("/a")
    assert await store.read("/a/b") is not None


async def test_delete_tree_removes_all_below_and_nothing_beside(store: CoordinationStore) -> None:
    await store.transact([Put(path, b"") for path in ("/a/b/c", "/a/b/d", "/a/bb", "/a/b-c")])
    await store.delete_tree("/a/b")
    await store.delete_tree("/a/b")
    assert sorted(await store.read_tree("/a")) == ["/a", "/a/b-c", "/a/bb"]


# Transactions


async def test_a_transaction_answers_the_version_of_each_path(store: CoordinationStore) -> None:
    await store.transact([Put("/a", b""), Put("/b", b""), Put("/c", b"")])
    await store.write("/b", b"again")
    ops: list[Op] = [
        Put("/a", b"1"),
        Check("/b", 1),
        Delete("/c"),
        Put("/d/e", b""),
        Check("/f", ABSENT),
    ]
    assert await store.transact(ops) == [1, 1, -1, 0, -1]
    assert await store.read("/f") is None


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize(
    "refused",
    [
        Check("/bad", 7),
        Check("/there", ABSENT),
        Put("/there", b"", ABSENT),
        Put("/there", b"", 9),
        Delete("/there", 9),
    ],
    ids=repr,
)
async def test_one_refused_operation_leaves_nothing_of_the_transaction(
    store: CoordinationStore, refused: Op, position: int
) -> None:
    await store.transact([Put("/there", b"0"), Put("/old", b"0"), Put("/gone", b"0")])
    ops: list[Op] = [Put("/new", b"1"), Put("/old", b"1", 0), Delete("/gone")]
    ops.insert(position, refused)
    with pytest.raises(Conflict) as conflict:
        await store.transact(ops)
    assert (conflict.value.path, conflict.value.op_index) == (refused.path, position)
    assert await store.read_many(["/there", "/new", "/old", "/gone"]) == [
        Entry(b"0", 0),
        None,
        Entry(b"0", 0),
        Entry(b"0", 0),
    ]


async def test_of_many_writers_guarded_by_one_epoch_exactly_one_wins(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    await store.write("/epoch", b"41")
    seen = await store.read("/epoch")

    async def write(client: CoordinationStore, n: int) -> int:
        try:
            await client.transact(with_epoch_bump([Put(f"/range/{n}", b"mine")], "/epoch", seen))
        except Conflict:
            return 0
        return 1

    won = await asyncio.gather(*(write((store, other)[n % 2], n) for n in range(10)))
    assert sum(won) == 1
    assert await store.read("/epoch") == Entry(b"42", 1)
    assert len(await store.children("/range")) == 1


async def test_unguarded_writes_of_two_clients_all_succeed(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    async def write(client: CoordinationStore) -> None:
        for n in range(20):
            await client.write("/a/b", b"%d" % n)

    await asyncio.gather(write(store), write(other))
    entry = await store.read("/a/b")
    assert entry == Entry(b"19", 39)


async def test_a_snapshot_is_never_a_mixture_of_two_epochs(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    async def change() -> None:
        for n in range(30):
            epoch = await other.read("/m/epoch")
            ops = [Put(f"/m/ranges/{r}", b"%d" % n) for r in range(8)]
            await other.transact(with_epoch_bump(ops, "/m/epoch", epoch))
            await asyncio.sleep(0.01)

    changing = asyncio.create_task(change())
    seen = set()
    while not changing.done():
        snapshot = await read_snapshot(store, "/m/ranges", "/m/epoch")
        values = {entry.value for path, entry in snapshot.entries.items() if path != "/m/ranges"}
        if snapshot.epoch:
            assert values == {b"%d" % (snapshot.epoch - 1)}
        seen.add(snapshot.epoch)
    await changing
    assert len(seen) > 2


async def test_an_empty_transaction_does_nothing(store: CoordinationStore) -> None:
    assert await store.transact([]) == []


# What is refused before it is sent


async def test_a_value_at_the_bound_is_kept_and_one_over_it_refused(
    store: CoordinationStore,
) -> None:
    await store.write("/a", b"x" * VALUE_BOUND_BYTES)
    with pytest.raises(TooLarge, match="524289"):
        await store.write("/a", b"x" * (VALUE_BOUND_BYTES + 1))
    entry = await store.read("/a")
    assert entry == Entry(b"x" * VALUE_BOUND_BYTES, 0)


async def test_a_transaction_over_the_bound_is_refused_whole(store: CoordinationStore) -> None:
    half = b"x" * (TRANSACTION_BOUND_BYTES // 2)
    with pytest.raises(TooLarge):
        await store.transact([Put("/a", half), Put("/b", half)])
    assert await store.read("/a") is None


async def test_a_transaction_near_the_bound_is_carried_out(store: CoordinationStore) -> None:
    part = b"x" * (TRANSACTION_BOUND_BYTES // 4 - 100)
    assert await store.transact([Put(f"/{n}", part) for n in range(4)]) == [0] * 4


@pytest.mark.parametrize(
    "path", ["", "a", "/", "/a/", "//a", "/a/../b", "/a b", "/é", "/" + "a" * 600]
)
async def test_bad_paths_are_refused(store: CoordinationStore, path: str) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: store.read(path),
        lambda: store.children(path),
        lambda: store.read_tree(path),
        lambda: store.write(path, b""),
        lambda: store.delete_tree(path),
        lambda: store.ephemeral(path, b""),
        lambda: store.campaign(path, b""),
        lambda: store.sync(path),
    ]
    for attempt in attempts:
        with pytest.raises(BadPath):
            await attempt()  # type: ignore[misc]
    with pytest.raises(BadPath):
        store.watch(path)


@pytest.mark.parametrize(
    "ops",
    [
        [Put("/a", b""), Check("/a", 0)],
        [Delete("/a", ABSENT)],
        [Put("/a", b"", -1)],
    ],
    ids=repr,
)
async def test_impossible_transactions_are_refused(
    store: CoordinationStore, ops: Sequence[Op]
) -> None:
    with pytest.raises(BadOperation):
        await store.transact(ops)


async def test_a_closed_store_says_so(store: CoordinationStore) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreClosed):
        await store.read("/a")
    with pytest.raises(StoreClosed):
        await store.campaign("/a", b"")
    assert not store.connected


# Watches


async def test_a_watch_begins_with_the_present_state(store: CoordinationStore) -> None:
    await store.write("/epoch", b"1")
    async with store.watch("/epoch") as watch:
        assert await following(watch) == Changed("/epoch", 0, resync=True)


async def test_a_watch_sees_creation_change_and_deletion_by_another(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    async with store.watch("/epoch") as watch:
        assert await following(watch) == Changed("/epoch", None, resync=True)
        await other.write("/epoch", b"1")
        assert await following(watch) == Changed("/epoch", 0, resync=False)
        await other.write("/epoch", b"2")
        assert await following(watch) == Changed("/epoch", 1, resync=False)
        await other.delete("/epoch")
        assert await following(watch) == Changed("/epoch", None, resync=False)


async def test_a_watch_sees_the_changes_of_its_own_client(store: CoordinationStore) -> None:
    async with store.watch("/epoch") as watch:
        await following(watch)
        await store.write("/epoch", b"1")
        assert (await following(watch)).version == 0


async def test_a_path_made_anew_with_the_same_version_is_a_change(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    await store.write("/epoch", b"old")
    async with store.watch("/epoch") as watch:
        assert (await following(watch)).version == 0
        await other.delete("/epoch")
        await other.write("/epoch", b"new")
        event = await following(watch)
        if event.version is None:  # seen in between
            event = await following(watch)
        assert event.version == 0


async def test_a_storm_of_changes_is_coalesced_and_its_end_never_missed(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    last = -1
    async with store.watch("/epoch") as watch:
        await following(watch)
        for round_number in range(5):
            for _ in range(20):
                last = await other.write("/epoch", b"%d" % round_number)
            events = 0
            version: int | None = None
            while version != last:
                version = (await following(watch)).version
                events += 1
            assert events <= 20


async def test_a_slow_consumer_gets_one_event_for_many_changes(
    store: CoordinationStore, other: CoordinationStore
) -> None:
    slow = store.watch("/epoch")
    keen = store.watch("/epoch")
    await following(slow)
    last = -1
    for n in range(10):
        last = await other.write("/epoch", b"%d" % n)
        while (await following(keen)).version != last:
            pass
    # The slow one was told in the same way; by now at most the last change is on its way.
    events = [await following(slow)]
    while events[-1].version != 9:
        events.append(await following(slow))
    assert len(events) <= 2
    await slow.close()
    await keen.close()


async def test_other_paths_do_not_wake_a_watch(store: CoordinationStore) -> None:
    async with store.watch("/a/epoch") as watch, store.watch("/a/b") as neighbour:
        await following(watch)
        await following(neighbour)
        await store.write("/a/b", b"x")
        await following(neighbour)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(watch)


async def test_a_closed_watch_ends_its_loop(store: CoordinationStore) -> None:
    watch = store.watch("/a")
    await following(watch)
    waiting = asyncio.create_task(anext(watch, None))
    await watch.close()
    async with asyncio.timeout(5):
        assert await waiting is None


async def test_closing_the_store_ends_its_watches(store: CoordinationStore) -> None:
    watch = store.watch("/a")
    await following(watch)
    await store.close()
    with pytest.raises(StopAsyncIteration):
        await following(watch)


# Speed, for the record


async def test_256_ranges_are_read_in_one_go(
    store: CoordinationStore, capsys: pytest.CaptureFixture[str]
) -> None:
    ops = [Put(f"/d/keyspaces/k/ranges/{n:03d}", b"r" * 900) for n in range(256)]
    await store.transact(ops)
    begun = time.perf_counter()
    tree = await store.read_tree("/d/keyspaces")
    took_ms = (time.perf_counter() - begun) * 1000
    assert len([path for path in tree if "/ranges/" in path]) == 256
    with capsys.disabled():
        print(f"\n{type(store).__name__}: 256 ranges read in {took_ms:.1f} ms")  # noqa: T201
