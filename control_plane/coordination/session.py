"""What the two stores build in the same way out of a few primitives: ephemerals that come back, and
leadership.
"""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any

from control_plane.coordination.errors import (
    BadOperation,
    Conflict,
    NotFound,
    StoreClosed,
    Unavailable,
)
from control_plane.coordination.leadership import LeadershipLinks, TimedLeadership
from control_plane.coordination.paths import checked_path
from control_plane.coordination.primitives import (
    RETRY_PAUSE_S,
    Holding,
    PutEphemeral,
    SessionOp,
    check_ops,
    check_value,
)
from control_plane.coordination.registration import KeptRegistration
from control_plane.coordination.store import (
    ABSENT,
    Check,
    CoordinationStore,
    Delete,
    Leadership,
    Op,
    Put,
    Registration,
    StoreOptions,
)


class SessionStore(CoordinationStore):
    """A store with a session. Subclasses give the primitives; this gives transactions, campaigns
    and their end.
    """

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        self.closed = False
        self._campaigns: set[str] = set()
        self._leaderships: set[TimedLeadership] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    @abstractmethod
    def session_id(self) -> int:
        """The session that ephemerals are made with; 0 while there is none."""

    @property
    @abstractmethod
    def session_timeout_ms(self) -> int:
        """What the store grants, which may be less than what was asked for."""

    @abstractmethod
    async def holding(self, path: str) -> Holding | None:
        """Who holds a path. An answer also proves that the session was alive, and renewed, when it
        was asked.
        """

    @abstractmethod
    async def apply(self, ops: Sequence[SessionOp]) -> list[int]:
        """As `transact`, without its checks; a path may be deleted and made again in one go."""

    async def transact(self, ops: Sequence[Op]) -> list[int]:
        self.require_open()
        check_ops(ops)
        return await self.apply(ops) if ops else []

    async def campaign(self, path: str, value: bytes) -> Leadership:
        self.require_open()
        checked_path(path)
        check_value(path, value)
        if path in self._campaigns:
            raise BadOperation(f"this store already campaigns for {path} or leads it")
        self._campaigns.add(path)
        try:
            return await self._win(path, value)
        except BaseException:
            # The attempt may have won without our knowing (cancelled, or the answer was lost).
            self._campaigns.discard(path)
            if not self.closed:
                self.spawn(self._abandon(path))
            raise

    async def _win(self, path: str, value: bytes) -> Leadership:
        while True:
            self.require_open()
            asked_at = time.monotonic()
            try:
                term = await self._try_to_lead(path, value)
                if term is not None:
                    return self._leading(path, term, asked_at)
                await self._until_free(path)
            except (Unavailable, Conflict):
                # Conflict: somebody was faster. Either way look again, but not in a tight loop.
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _try_to_lead(self, path: str, value: bytes) -> int | None:
        """The term when won, None while another one holds it."""
        entry = await self.read(path)
        holder = await self.holding(holder_path(path))
        if holder is not None and not holder.ours:
            return None
        ops: list[SessionOp] = [Put(path, value, ABSENT if entry is None else entry.version)]
        if holder is not None:  # ours, left by an attempt whose answer was lost
            ops.append(Delete(holder_path(path), holder.version))
        ops.append(PutEphemeral(holder_path(path), value))
        return (await self.apply(ops))[0]

    def _leading(self, path: str, term: int, confirmed_at: float) -> Leadership:
        async def confirm() -> bool:
            holder = await self.holding(holder_path(path))
            return holder is not None and holder.ours

        # Two thirds of what the store grants: the rest pays for clocks that drift and requests on
        # their way.
        deadline_ms = min(self.options.session_timeout_ms, self.session_timeout_ms) * 2 // 3
        leadership = TimedLeadership(
            path,
            term,
            LeadershipLinks(confirm, lambda: self._leave(path), self._leadership_ended),
            confirmed_at=confirmed_at,
            deadline_s=deadline_ms / 1000,
        )
        self._leaderships.add(leadership)
        self.spawn(leadership.keep())
        return leadership

    def _leadership_ended(self, leadership: TimedLeadership) -> None:
        self._leaderships.discard(leadership)
        self._campaigns.discard(leadership.path)

    async def _leave(self, path: str) -> None:
        if self.closed:
            return
        # Not awaited for ever: while the store is away, abandoning goes on in the background.
        leaving = self.spawn(self._abandon(path))
        await asyncio.wait([leaving], timeout=self.options.operation_timeout_ms / 1000)

    async def _until_free(self, path: str) -> None:
        async with self.watch(holder_path(path)) as watch:
            async for event in watch:
                if event.version is None:
                    return
                holder = await self.holding(holder_path(path))
                if holder is None or holder.ours:
                    return

    async def _abandon(self, path: str) -> None:
        """Remove the holder this session may have left at a campaign's path. Tries until it is
        certain.
        """
        while not self.closed:
            try:
                if await self._try_to_abandon(path):
                    return
            except StoreClosed:
                return
            except (Unavailable, Conflict, NotFound):
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _try_to_abandon(self, path: str) -> bool:
        holder = await self.holding(holder_path(path))
        if holder is None or not holder.ours:
            return True
        entry = await self.read(path)
        # Looked at after the read: a campaign begun later makes the Check below fail, so its holder
        # is safe.
        if entry is None or path in self._campaigns:
            return True
        await self.apply([Check(path, entry.version), Delete(holder_path(path), holder.version)])
        return True

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something for as long as the store is open."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def ephemeral(self, path: str, value: bytes) -> Registration:
        self.require_open()
        checked_path(path)
        check_value(path, value)
        registration = KeptRegistration(self, path, value)
        await registration.begin()
        self.spawn(registration.keep())
        return registration

    async def end_tasks(self) -> None:
        """For close(): end leaderships, then cancel what was spawned and wait for it."""
        for leadership in list(self._leaderships):
            leadership.end()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def require_open(self) -> None:
        if self.closed:
            raise StoreClosed("the coordination store was closed; open a new one")


def holder_path(path: str) -> str:
    return f"{path}/holder"
