"""What the stores do when their server or file misbehaves."""

import asyncio
import socket
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.coordination.errors import Unavailable, WrongStore
from control_plane.coordination.opening import open_store
from control_plane.coordination.store import (
    Changed,
    CoordinationStore,
    Entry,
    Leadership,
    StoreOptions,
)
from tests.support.coordination import Backend, sqlite_backend, until, zookeeper_backend
from tests.support.servers import Server, Servers

peers = pytest.mark.peers
slow = pytest.mark.slow


@pytest.fixture
def server(servers: Servers) -> Server:
    """A ZooKeeper that the test may harm."""
    return servers.zookeeper()


@pytest.fixture
async def on_zookeeper(server: Server) -> AsyncIterator[Backend]:
    backend = zookeeper_backend(server, "/faults")
    yield backend
    await backend.close()


@pytest.fixture
async def on_sqlite(tmp_path: Path) -> AsyncIterator[Backend]:
    backend = sqlite_backend(tmp_path)
    yield backend
    await backend.close()


async def until_available(store: CoordinationStore) -> None:
    async def available() -> bool:
        try:
            await store.sync("/a")
        except Unavailable:
            return False
        return True

    await until(available)


async def stops_leading(leadership: Leadership) -> float:
    """Seconds until it is over. From then on it must say so."""
    begun = time.monotonic()
    async with asyncio.timeout(20):
        await leadership.lost()
    assert not leadership.is_leader()
    return time.monotonic() - begun


# ZooKeeper


@peers
@slow
async def test_a_killed_and_restarted_server_is_found_again(
    server: Server, on_zookeeper: Backend
) -> None:
    store = await on_zookeeper.open(session_timeout_ms=30_000, operation_timeout_ms=500)
    await store.write("/a", b"before")
    registration = await store.ephemeral("/instances/a", b"here")
    watch = store.watch("/a")
    assert await anext(watch) == Changed("/a", 0, resync=True)

    server.kill()
    with pytest.raises(Unavailable):
        await store.read("/a")
    server.restart()
    await until_available(store)

    async with asyncio.timeout(10):
        assert await anext(watch) == Changed("/a", 0, resync=True)
    assert await store.write("/a", b"after", expect=0) == 1
    async with asyncio.timeout(10):
        assert await anext(watch) == Changed("/a", 1, resync=False)
    assert registration.held
    assert await store.read("/instances/a") == Entry(b"here", 0)


@peers
@slow
async def test_a_change_made_while_cut_off_is_not_missed(
    server: Server, on_zookeeper: Backend
) -> None:
    store = await on_zookeeper.open(operation_timeout_ms=500)
    await store.write("/epoch", b"1")
    watch = store.watch("/epoch")
    await anext(watch)
    server.kill()
    server.restart()
    other = await on_zookeeper.open()
    last = await other.write("/epoch", b"2")
    async with asyncio.timeout(20):
        events = [await anext(watch)]
        while events[-1].version != last:
            events.append(await anext(watch))
    assert any(event.resync for event in events)


@peers
@slow
async def test_a_server_that_lost_its_data_is_not_taken_for_the_same_one(
    server: Server, on_zookeeper: Backend
) -> None:
    # ZooKeeper turns away whoever has seen more than it knows. Only a process that starts anew, and
    # so believes nothing, may use it: epochs that were seen are never taken back silently.
    store = await on_zookeeper.open(session_timeout_ms=2_000, operation_timeout_ms=500)
    for n in range(5):
        await store.write("/epoch", b"%d" % n)
    leadership = await store.campaign("/leader", b"me")
    server.kill()
    server.erase()
    server.restart()
    await stops_leading(leadership)
    with pytest.raises(Unavailable):
        await store.read("/epoch")
    fresh = await on_zookeeper.open()
    assert await fresh.read("/epoch") is None


@peers
@slow
async def test_a_frozen_server_is_unavailable_within_the_deadline_and_nobody_leads(
    server: Server, on_zookeeper: Backend
) -> None:
    store = await on_zookeeper.open(session_timeout_ms=3_000, operation_timeout_ms=300)
    leadership = await store.campaign("/leader", b"me")
    server.pause()
    begun = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        await store.write("/a", b"x")
    assert time.monotonic() - begun < 1.0
    assert refused.value.maybe_applied
    # Below the session timeout of 3 s, while the server has said nothing at all.
    assert await stops_leading(leadership) < 2.5
    server.resume()
    await until_available(store)
    again = await store.campaign("/leader", b"me")
    assert again.term > leadership.term


@peers
@slow
async def test_a_store_closes_in_time_while_its_server_is_frozen(
    server: Server, on_zookeeper: Backend
) -> None:
    store = await on_zookeeper.open(session_timeout_ms=2_000, operation_timeout_ms=300)
    await store.campaign("/leader", b"me")
    server.pause()
    async with asyncio.timeout(2):
        await store.close()


@peers
@slow
async def test_a_leader_judges_itself_by_the_timeout_that_the_server_grants(
    server: Server, on_zookeeper: Backend
) -> None:
    # The test server grants 60 s at most.
    store = await on_zookeeper.open(session_timeout_ms=90_000)
    assert store.session_timeout_ms == 60_000  # type: ignore[attr-defined]


@pytest.mark.parametrize("listens", [False, True], ids=["refused", "silent"])
async def test_no_server_is_a_clear_error_within_the_bound(listens: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if not listens:
            silent.close()
        options = StoreOptions(connect_timeout_ms=200)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=f"no ZooKeeper server answered.*{port}"):
            await open_store(f"zookeeper://127.0.0.1:{port}", options)
        assert time.monotonic() - begun < 1.5


# The SQLite file


def locked(backend: Backend) -> sqlite3.Connection:
    """A connection that holds the file's write lock, as a frozen process might."""
    connection = sqlite3.connect(backend.url.removeprefix("sqlite://"), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


@slow
async def test_a_locked_file_is_unavailable_within_the_deadline_and_nobody_leads(
    on_sqlite: Backend,
) -> None:
    store = await on_sqlite.open(session_timeout_ms=1_500, operation_timeout_ms=300)
    leadership = await store.campaign("/leader", b"me")
    holder = locked(on_sqlite)
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        await store.write("/a", b"x")
    assert time.monotonic() - begun < 1.0
    assert await stops_leading(leadership) < 1.4
    holder.close()
    await until_available(store)
    assert await store.write("/a", b"x") == 0
    again = await store.campaign("/leader", b"me")
    assert again.term > leadership.term


@slow
async def test_a_file_that_did_not_answer_for_a_while_gives_a_resync(on_sqlite: Backend) -> None:
    store = await on_sqlite.open(operation_timeout_ms=300)
    watch = store.watch("/epoch")
    await anext(watch)
    holder = locked(on_sqlite)
    # Each waits for the lock, one after the other, and the poll behind them for too long.
    writes = []
    for n in range(60):
        writes.append(asyncio.create_task(store.write(f"/{n}", b"")))
        await asyncio.sleep(0.025)
    refused = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in refused)
    holder.close()
    async with asyncio.timeout(10):
        assert await anext(watch) == Changed("/epoch", None, resync=True)


async def test_the_file_survives_being_closed_and_opened(on_sqlite: Backend) -> None:
    first = await on_sqlite.open()
    await first.write("/a", b"kept")
    await first.ephemeral("/instances/a", b"gone")
    await first.close()
    second = await on_sqlite.open()
    assert await second.read("/a") == Entry(b"kept", 0)
    assert await second.read("/instances/a") is None


async def test_many_stores_may_make_the_file_at_once(on_sqlite: Backend) -> None:
    stores = await asyncio.gather(*(on_sqlite.open() for _ in range(8)))
    await asyncio.gather(*(store.write(f"/{n}", b"") for n, store in enumerate(stores)))
    assert len(await stores[0].read_many([f"/{n}" for n in range(8)])) == 8


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("PRAGMA user_version = 2", "schema 2"),
        ("PRAGMA application_id = 7", "something else"),
    ],
)
async def test_a_file_that_is_not_ours_is_refused(
    on_sqlite: Backend, damage: str, says: str
) -> None:
    await (await on_sqlite.open()).close()
    connection = sqlite3.connect(on_sqlite.url.removeprefix("sqlite://"))
    connection.execute(damage)
    connection.close()
    with pytest.raises(WrongStore, match=says):
        await on_sqlite.open()


async def test_a_foreign_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(WrongStore):
        await open_store(f"sqlite://{path}")
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but longer than its header would be" * 40)
    before = path.read_bytes()
    with pytest.raises(WrongStore):
        await open_store(f"sqlite://{path}")
    assert path.read_bytes() == before


async def test_another_clusters_file_is_refused(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/c.db"
    await (await open_store(url, StoreOptions(cluster="a"))).close()
    await (await open_store(url)).close()
    await (await open_store(url, StoreOptions(cluster="a"))).close()
    with pytest.raises(WrongStore, match="'a', not to 'b'"):
        await open_store(url, StoreOptions(cluster="b"))


async def test_a_file_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="file"):
        await open_store(f"sqlite://{tmp_path}/file/below/c.db")
