"""The coordination store in one SQLite file, shared by the processes of one host. No server to run.

All SQLite work happens in one thread of its own. A session is a lease that a heartbeat renews; a
watch is a poll of PRAGMA data_version, which costs microseconds while nothing changes.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from control_plane.coordination.errors import StoreClosed, Unavailable
from control_plane.coordination.paths import checked_path
from control_plane.coordination.primitives import Holding, SessionOp
from control_plane.coordination.session import SessionStore
from control_plane.coordination.sqlite_file import Seen, SqliteFile, open_file
from control_plane.coordination.store import Entry, StoreOptions, Watch
from control_plane.coordination.watching import LatestChange

_HEARTBEATS_PER_SESSION = 5

T = TypeVar("T")


class EmbeddedStore(SessionStore):
    """Made by `EmbeddedStore.open`."""

    def __init__(self, file: SqliteFile, thread: ThreadPoolExecutor, options: StoreOptions) -> None:
        super().__init__(options)
        self._file = file
        self._thread = thread
        self._session_id = file.session_id
        self._watches: dict[LatestChange, Seen | None] = {}
        # Watches that must be told at the next poll whatever they saw.
        self._unsynced: set[LatestChange] = set()
        self._wrote = False
        self._answered = True

    @classmethod
    async def open(cls, path: Path, options: StoreOptions) -> "EmbeddedStore":
        """Open or make the file at `path`. Raises Unavailable, WrongStore."""
        thread = ThreadPoolExecutor(1, "coordination-sqlite")

        def begin() -> SqliteFile:
            # Half: a lock held elsewhere must be reported by SQLite before the operation's own
            # deadline.
            file = open_file(
                path,
                busy_timeout_ms=options.operation_timeout_ms // 2,
                session_length_ms=options.session_timeout_ms,
                cluster=options.cluster,
            )
            file.renew()
            return file

        try:
            file = await asyncio.get_running_loop().run_in_executor(thread, begin)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        store = cls(file, thread, options)
        store.spawn(store._heartbeat())
        store.spawn(store._poll())
        return store

    @property
    def session_id(self) -> int:
        return 0 if self.closed else self._session_id

    @property
    def session_timeout_ms(self) -> int:
        return self.options.session_timeout_ms

    @property
    def connected(self) -> bool:
        return self._answered and not self.closed

    async def read_many(self, paths: Iterable[str]) -> list[Entry | None]:
        wanted = [checked_path(path) for path in paths]
        return await self._ask(lambda: self._file.read(wanted))

    async def children(self, path: str) -> list[str]:
        checked_path(path)
        return await self._ask(lambda: self._file.children(path))

    async def read_tree(self, prefix: str) -> dict[str, Entry]:
        checked_path(prefix)
        return await self._ask(lambda: self._file.read_tree(prefix))

    async def apply(self, ops: Sequence[SessionOp]) -> list[int]:
        return await self._ask(lambda: self._file.apply(ops), writes=True)

    async def delete_tree(self, prefix: str) -> None:
        checked_path(prefix)
        await self._ask(lambda: self._file.delete_tree(prefix), writes=True)

    async def holding(self, path: str) -> Holding | None:
        checked_path(path)
        return await self._ask(lambda: self._file.holding(path), writes=True)

    async def sync(self, path: str) -> None:
        """Every read already sees the last commit; this only proves that the file answers."""
        checked_path(path)
        await self._ask(self._file.data_version)

    def watch(self, path: str) -> Watch:
        self.require_open()
        watch = LatestChange(checked_path(path), self._forget)
        self._watches[watch] = None
        self._unsynced.add(watch)
        return watch

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        await self.end_tasks()
        for watch in list(self._watches):
            watch.end()
        ending = asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        await asyncio.wait([ending], timeout=self.options.operation_timeout_ms / 1000)
        self._thread.shutdown(wait=False)

    def _end(self) -> None:
        try:
            self._file.end_session()
        except Unavailable:
            pass  # the lease ends by itself
        finally:
            self._file.close()

    def _forget(self, watch: LatestChange) -> None:
        self._watches.pop(watch, None)
        self._unsynced.discard(watch)

    async def _ask(self, work: Callable[[], T], *, writes: bool = False) -> T:
        """Run blocking work in the SQLite thread, within the deadline. What had not begun by then
        never runs.
        """
        self.require_open()
        begun = False

        def step() -> tuple[T, int]:
            nonlocal begun
            begun = True
            return work(), self._file.session_id

        try:
            async with asyncio.timeout(self.options.operation_timeout_ms / 1000):
                future = asyncio.get_running_loop().run_in_executor(self._thread, step)
                answer, self._session_id = await future
        except TimeoutError as error:
            self._answered = False
            raise Unavailable(
                "the coordination file did not answer within"
                f" {self.options.operation_timeout_ms} ms; try again",
                maybe_applied=writes and begun,
            ) from error
        except Unavailable:
            self._answered = False
            raise
        finally:
            self._wrote = self._wrote or writes
        self._answered = True
        return answer

    async def _heartbeat(self) -> None:
        pause_s = self.options.session_timeout_ms / 1000 / _HEARTBEATS_PER_SESSION
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._ask(self._file.renew, writes=True)
            except Unavailable:
                continue

    async def _poll(self) -> None:
        data_version = -1
        pause_s = self.options.poll_interval_ms / 1000
        while True:
            try:
                latest = await self._ask(self._file.data_version)
                if latest != data_version or self._wrote or self._unsynced:
                    self._wrote = False
                    await self._look()
                data_version = latest
            except Unavailable:
                data_version = -1
                self._unsynced.update(self._watches)
            except StoreClosed:
                return
            await asyncio.sleep(pause_s)

    async def _look(self) -> None:
        watches = list(self._watches)
        paths = [watch.path for watch in watches]
        states = await self._ask(lambda: self._file.seen(paths))
        for watch, state in zip(watches, states, strict=True):
            if watch not in self._watches:
                continue
            resync = watch in self._unsynced
            if resync or state != self._watches[watch]:
                self._watches[watch] = state
                self._unsynced.discard(watch)
                watch.offer(None if state is None else state.version, resync=resync)
