"""The hint log: takes hints on the event loop, writes them in a thread of its own, many per fsync.

Nothing here blocks the loop or grows without bound: what the disk does not take in time is not
kept, and its bucket is marked as in need of repair, in memory at once and on disk as soon as that
is possible. While one batch is written the next one gathers, so the fsync sets the pace.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import structlog

from sidecar.background.errors import (
    HintDiskFull,
    HintFileDamaged,
    HintFileError,
    HintFileForeign,
)
from sidecar.background.hint_file import (
    Batch,
    Group,
    HintFile,
    Mark,
    Place,
    StoredHint,
    open_hint_file,
)
from sidecar.background.hint_ledger import HintsView, Ledger
from sidecar.background.hint_salvage import start_over, take_over
from sidecar.core.hints import ONLY_COPY, Hint, HintBounds

BATCH_BYTES: Final = 4 << 20
REMOVES_AT_ONCE: Final = 16_384
GATHER_S: Final = 0.1
AGE_INTERVAL_S: Final = 10.0
FIRST_RETRY_S: Final = 0.2
MAX_RETRY_S: Final = 10.0
OFF: Final = "no state_dir: hints are kept nowhere"
CLOSED: Final = "the hint log is closed"

log = structlog.get_logger("hints")

Result = TypeVar("Result")
_Done = Callable[[str], None]
_Add = tuple[Hint, _Done | None]


class HintLog:
    """One worker's hints. All methods on the event loop's thread; `path` None: keeps nothing.

    Start it with `start`. Before that, hints wait in memory within their bound.
    """

    def __init__(
        self,
        path: Path | None,
        cluster: str,
        *,
        wall_ms: Callable[[], int],
        bounds: HintBounds | None = None,
    ) -> None:
        self.path = path
        self.bounds = bounds or HintBounds()
        self.ledger = Ledger()
        self.problem = "" if path else OFF
        self._cluster = cluster
        self._wall_ms = wall_ms
        self._file: HintFile | None = None
        self._counted = False  # the ledger knows what was found in the file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hints")
        self._adds: list[_Add] = []
        self._queued_bytes = 0
        self._removes: dict[int, Hint] = {}
        self._moves: list[Hint] = []  # take the place of rows in _removes: never without them
        self._unmarks: list[Place] = []
        self._work = asyncio.Event()
        self._flushes: list[asyncio.Future[None]] = []
        self._writer: asyncio.Task[None] | None = None
        self._gathering: asyncio.TimerHandle | None = None
        self._removes_at_once = REMOVES_AT_ONCE
        self._grown = False  # the file takes more of the disk than it needs
        self._closing = False
        self._recount = False
        self._distrust: HintFileError | None = None  # the file must be opened anew

    # --- taking hints (core.hints.HintKeeper)

    def keep(self, hint: Hint) -> None:
        """Keep it, or mark its bucket as in need of repair."""
        problem = self._refusal(hint)
        if problem:
            self._lose_one(hint, problem)
        else:
            self._queue(hint, None)

    def keep_only_copy(self, hint: Hint, done: _Done) -> str:
        """Why not, at once; or empty, and `done` follows: see core.hints.HintKeeper."""
        problem = self._refusal(hint)
        if not problem:
            self._queue(hint, done)
        return problem

    def _refusal(self, hint: Hint) -> str:
        if self.problem or self._closing:
            return self.problem or CLOSED
        return self.bounds.refusal(hint.size_bytes, self.ledger.size_bytes, self._queued_bytes)

    def _queue(self, hint: Hint, done: _Done | None) -> None:
        self._adds.append((hint, done))
        self._queued_bytes += hint.size_bytes
        self._work.set()

    def _lose_one(self, hint: Hint, cause: str) -> None:
        self.ledger.counters["lost"] += 1
        self.mark((hint.keyspace, hint.bucket), cause)

    def is_too_old(self, hint: Hint) -> bool:
        """Whether it would be dropped for its age; never an only copy."""
        return hint.node != ONLY_COPY and hint.created_ms <= self.bounds.cutoff_ms(self._wall_ms())

    def mark(self, place: Place, cause: str, lost: int = 1) -> None:
        """A hint of this bucket is gone: its owners may differ until it is repaired."""
        if self.ledger.mark(place, cause, self._wall_ms(), lost):
            log.warning("bucket needs repair", keyspace=place[0], bucket=place[1], cause=cause)
            self._work.set()

    def repaired(self, place: Place, begun_ms: int) -> bool:
        """A repair that began at `begun_ms` made the bucket's owners equal: drop its mark.

        False when there is none, or one from after the repair began.
        """
        if not self.ledger.unmark(place, begun_ms):
            return False
        self._unmarks.append(place)
        self._work.set()
        return True

    # --- replaying

    def nodes(self) -> list[int]:
        """Numbers of the nodes for which hints are on disk."""
        return self.ledger.nodes()

    async def read(self, node: int, after_id: int, count: int) -> tuple[list[StoredHint], int]:
        """Hints for `node` with ids above `after_id`, and the id to go on from (0: no more).

        Rows that fail their checksum are removed and their buckets marked.
        """
        if self._file is None:
            return [], 0
        try:
            page = await self._in_thread(self._file.read, node, after_id, count)
        except HintFileError as error:
            self._failed(error)
            return [], 0
        for row_id, place in page.corrupt:
            self._corrupt_row(row_id, place, node)
        waiting = [stored for stored in page.hints if stored.id not in self._removes]
        return waiting, page.last_id if page.more else 0

    def _corrupt_row(self, row_id: int, place: Place, node: int) -> None:
        self.ledger.counters["corrupt"] += 1
        # Nothing else of the row is sure, so all that is left is counted anew.
        self._removes[row_id] = Hint(*place, b"", b"", node, 0)
        self._recount = True
        self.mark(place, "its hint failed the checksum")
        self._work.set()

    def remove(self, stored: StoredHint, instead: Sequence[Hint] = ()) -> None:
        """Its owner has it: drop the row, and keep `instead` for the owners that have it not.

        All in one commit: a crash leaves either. Not bounded: it takes the place of the row. It is
        not urgent either, since a hint that is replayed twice is the same write: removals gather
        for a while, so that they share an fsync and leave the thread to the reads of the replay.
        """
        self._removes[stored.id] = stored.hint
        self._moves += instead
        if self._gathering is None:
            loop = asyncio.get_running_loop()
            self._gathering = loop.call_later(GATHER_S, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        self._work.set()

    # --- life

    async def start(self, left_behind: Sequence[Path] = ()) -> None:
        """Open the file and begin to write; returns when it is open or has failed.

        `left_behind`: files of workers that are no more; what they hold is taken over.
        """
        if self.path is None:
            return
        if await self._open():
            await self._take_over(left_behind)
        self._writer = asyncio.create_task(self._write_forever(), name="hint-log")
        self._writer.add_done_callback(self._ended)

    async def flush(self) -> None:
        """Until everything taken so far is on disk, or has failed."""
        if self._writer is None or self._writer.done():
            return
        flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append(flushed)
        self._work.set()
        await flushed

    async def close(self) -> None:
        """Write what waits, once more, and let go of the file."""
        await self.flush()
        self._closing = True
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait({self._writer})
        if self._gathering is not None:
            self._gathering.cancel()
        await self._close_file()
        self._thread.shutdown()

    def _ended(self, writer: asyncio.Task[None]) -> None:
        error = None if writer.cancelled() else writer.exception()
        if error is not None:
            log.critical("the writer of hints broke: none are kept any more", exc_info=error)
            self.problem = f"the writer broke: {error!r}"
        self._lose_queue(self.problem or CLOSED)
        self._wake(self._flushes)

    def view(self) -> HintsView:
        """For the admin door."""
        return HintsView(
            state=self._state(),
            problem=self.problem,
            size_bytes=self.ledger.size_bytes,
            bound_bytes=self.bounds.size_bytes,
            queued_bytes=self._queued_bytes,
            nodes=self.ledger.node_views(),
            marks=self.ledger.mark_views(),
            counters=dict(self.ledger.counters),
        )

    def _state(self) -> str:
        if self.problem:
            return "off" if self.path is None else "failing"
        return "on" if self._file is not None and self._counted else "opening"

    # --- writing

    async def _write_forever(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            await self._wait_for_work()
            while self._has_work():
                if await self._write_once():
                    retry_s = FIRST_RETRY_S
                else:
                    await asyncio.sleep(retry_s)
                    retry_s = min(2 * retry_s, MAX_RETRY_S)
            self._wake(self._taken_flushes())

    async def _wait_for_work(self) -> None:
        """Until there is something to write; meanwhile what is too old is dropped."""
        try:
            async with asyncio.timeout(AGE_INTERVAL_S):
                await self._work.wait()
        except TimeoutError:
            await self.expire()
            if self._grown and not self.ledger.hints:
                self._grown = False
                await self._shrink()
        self._work.clear()

    def _has_work(self) -> bool:
        queued = self._adds or self._removes or self._moves or self._unmarks
        return bool(queued or self.problem or self.ledger.undurable())

    async def _write_once(self) -> bool:
        if not await self._usable():
            self._lose_queue(self.problem)
            self._wake(self._taken_flushes())
            return False
        flushes = self._taken_flushes()
        adds, batch = self._take()
        removes = dict(islice(self._removes.items(), self._removes_at_once))
        moves = list(self._moves) if len(removes) == len(self._removes) else []
        batch.adds += moves
        batch.removes = list(removes)
        try:
            nodes = {hint.node for hint in removes.values()}
            committed = await self._in_thread(_commit, self._file, batch, nodes)
        except HintFileError as error:
            self._unmarks = batch.unmarks + self._unmarks
            self._failed(error)
            self._lose(adds, self.problem)
            await self._make_room(error, len(removes))
            self._wake(flushes)
            return False
        self._removes_at_once = min(2 * self._removes_at_once, REMOVES_AT_ONCE)
        self._committed(adds, removes, batch, committed)
        del self._moves[: len(moves)]
        if self._recount:
            await self._count_anew()
        self._wake(flushes)
        return True

    async def _make_room(self, error: HintFileError, removes: int) -> None:
        """On a full disk removals need room too, in the write-ahead log: fewer at a time."""
        if self._file is None or not isinstance(error, HintDiskFull):
            return
        self._removes_at_once = max(1, min(removes, self._removes_at_once) // 4)
        await self._shrink()

    async def _shrink(self) -> None:
        try:
            await self._in_thread(self._file.shrink if self._file else _nothing)
        except HintFileError as error:
            log.debug("hint file not made smaller", why=str(error))

    def _take(self) -> tuple[list[_Add], Batch]:
        """As many hints as make a batch, with everything that is not bounded by its size."""
        size_bytes = taken = 0
        for hint, _ in self._adds:
            if size_bytes >= BATCH_BYTES:
                break
            size_bytes += hint.size_bytes
            taken += 1
        adds, self._adds = self._adds[:taken], self._adds[taken:]
        self._queued_bytes -= size_bytes
        unmarks, self._unmarks = self._unmarks, []
        return adds, Batch([hint for hint, _ in adds], [], self.ledger.undurable(), unmarks)

    def _committed(
        self, adds: list[_Add], removes: dict[int, Hint], batch: Batch, committed: "_Committed"
    ) -> None:
        self.problem = ""
        ledger = self.ledger
        ledger.counters["stored"] += len(adds)
        ledger.written(batch.marks)
        self._grown = self._grown or bool(batch.adds)
        for hint in batch.adds:
            ledger.added(hint)
        for row_id, hint in removes.items():
            del self._removes[row_id]
            if row_id in committed.removed:
                ledger.removed(hint)
        ledger.set_oldest(committed.oldest)
        for _, done in adds:
            if done is not None:
                done("")

    async def expire(self) -> None:
        """Drop what is older than the bound, and mark its buckets; never an only copy."""
        if not await self._usable() or self._file is None:
            return
        while True:
            now_ms = self._wall_ms()
            cutoff_ms = self.bounds.cutoff_ms(now_ms)
            try:
                groups = await self._in_thread(self._file.expire, cutoff_ms, now_ms)
                nodes = {group.node for group in groups}
                oldest = await self._in_thread(_oldest, self._file, nodes)
            except HintFileError as error:
                self._failed(error)
                return
            if not groups:
                return
            for group in groups:
                self.ledger.dropped(group)
                self.ledger.counters["aged_out"] += group.hints
            self.ledger.set_oldest(oldest)
            self.ledger.marked_on_disk(groups, "aged out", now_ms)

    def _taken_flushes(self) -> list[asyncio.Future[None]]:
        """Who waits for what is queued now, if the next batch takes all of it."""
        if self._queued_bytes > BATCH_BYTES:
            return []
        flushes, self._flushes = self._flushes, []
        return flushes

    def _wake(self, flushes: list[asyncio.Future[None]]) -> None:
        for flush in flushes:
            if not flush.done():
                flush.set_result(None)

    # --- failing

    def _failed(self, error: HintFileError) -> None:
        if str(error) != self.problem:
            log.error("hints are not kept", why=str(error))
        self.problem = str(error)
        if not isinstance(error, HintDiskFull):
            self._distrust = error
        self._work.set()

    def _lose_queue(self, cause: str) -> None:
        adds, self._adds = self._adds, []
        self._queued_bytes = 0
        self._lose(adds, cause)

    def _lose(self, adds: list[_Add], cause: str) -> None:
        for hint, done in adds:
            if done is None:
                self._lose_one(hint, cause)
            else:
                done(cause)

    # --- the file

    async def _usable(self) -> bool:
        """Whether there is a file to write to, opened anew if the last use of it failed."""
        why, self._distrust = self._distrust, None
        if why is not None:
            await self._close_file()
        if self._file is not None:
            return True
        return await self._open(why if isinstance(why, HintFileDamaged) else None)

    async def _open(self, damage: HintFileError | None = None) -> bool:
        path = self.path
        if path is None:
            return False
        try:
            if damage is None:
                try:
                    self._file = await self._in_thread(open_hint_file, path, self._cluster)
                except (HintFileDamaged, HintFileForeign) as error:
                    damage = error
            if damage is not None:
                await self._start_over(path, damage)
            await self._count_anew()
        except HintFileError as error:
            self._failed(error)
            return False
        self.problem = ""
        self._work.set()
        return True

    async def _start_over(self, path: Path, why: HintFileError) -> None:
        salvaged = await self._in_thread(start_over, path, self._cluster, why, self._wall_ms())
        self._file = salvaged.file
        self.ledger.counters["corrupt"] += salvaged.corrupt
        log.error(
            "hint file set aside",
            why=why.problem,
            aside=salvaged.aside.name,
            kept=salvaged.kept,
            corrupt=salvaged.corrupt,
        )

    async def _take_over(self, left_behind: Sequence[Path]) -> None:
        for path in left_behind:
            try:
                await self._in_thread(take_over, self._file, path, self._cluster, self._wall_ms())
            except HintFileError as error:
                log.error("hints of a former worker left where they are", why=str(error))
            else:
                log.info("hints of a former worker taken over", file=path.name)
        if left_behind:
            await self._count_anew()

    async def _count_anew(self) -> None:
        self.ledger.load(*await self._in_thread(_count, self._file))
        self._counted = True
        self._recount = False

    async def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                await self._in_thread(file.close)
            except HintFileError as error:
                log.warning("hint file not closed well", why=str(error))

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


class _Committed(NamedTuple):
    removed: set[int]
    oldest: dict[int, int]


def _commit(file: HintFile, batch: Batch, nodes: set[int]) -> _Committed:
    return _Committed(file.commit(batch), _oldest(file, nodes))


def _nothing() -> None:
    """There is no file."""


def _oldest(file: HintFile, nodes: set[int]) -> dict[int, int]:
    return {node: file.oldest_ms(node) for node in nodes}


def _count(file: HintFile) -> tuple[list[Group], dict[int, int], list[Mark]]:
    groups = file.groups()
    return groups, _oldest(file, {group.node for group in groups}), file.marks()
