"""One term of leading, judged by this process's own clock.

Hearing that a session was lost takes a working connection, so silence has to count as loss: every
answer proves the session alive at the moment the question was sent, and the leader acts only for a
deadline (below the session timeout) after the last such moment. A pause between the look at the
clock and the write is what `guard()` is for.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from control_plane.coordination.errors import StoreClosed, Unavailable
from control_plane.coordination.store import Leadership

_CONFIRMATIONS_PER_DEADLINE = 5


@dataclass(frozen=True, slots=True)
class LeadershipLinks:
    """What a leadership needs from its store."""

    # Whether this session still holds the campaign's path; may raise Unavailable or StoreClosed.
    confirm: Callable[[], Awaitable[bool]]
    # Takes the holder away, so that the next leader need not wait for the session to end; bounded,
    # never raises.
    leave: Callable[[], Awaitable[None]]
    # Called once, when it is over.
    on_end: Callable[["TimedLeadership"], None]


class TimedLeadership(Leadership):
    """Made by SessionStore.campaign; `keep()` must be running."""

    def __init__(
        self,
        path: str,
        term: int,
        links: LeadershipLinks,
        *,
        confirmed_at: float,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.term = term
        self._links = links
        self._confirmed_at = confirmed_at
        self._deadline_s = deadline_s
        self._clock = clock
        self._ended = asyncio.Event()

    def is_leader(self) -> bool:
        return not self._ended.is_set() and self._remaining_s() > 0

    async def lost(self) -> None:
        await self._ended.wait()

    async def resign(self) -> None:
        self.end()
        await self._links.leave()

    def end(self) -> None:
        """Over for good. Safe to call twice."""
        if not self._ended.is_set():
            self._ended.set()
            self._links.on_end(self)

    async def keep(self) -> None:
        """Confirm until it is over, then make room for the next leader."""
        confirming = asyncio.create_task(self._confirm_until_over())
        try:
            while self.is_leader() and not confirming.done():
                await asyncio.wait([confirming], timeout=self._remaining_s())
        finally:
            confirming.cancel()
            self.end()
        await self._links.leave()

    async def _confirm_until_over(self) -> None:
        while await self._confirmed():
            try:
                async with asyncio.timeout(self._deadline_s / _CONFIRMATIONS_PER_DEADLINE):
                    await self._ended.wait()
                return
            except TimeoutError:
                continue

    async def _confirmed(self) -> bool:
        """False once the path is not ours. Silence changes nothing here: the clock runs."""
        asked_at = self._clock()
        try:
            ours = await self._links.confirm()
        except StoreClosed:
            return False
        except Unavailable:
            return True
        if ours:
            self._confirmed_at = asked_at
        return ours

    def _remaining_s(self) -> float:
        return self._confirmed_at + self._deadline_s - self._clock()
