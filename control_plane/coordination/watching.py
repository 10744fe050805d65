"""The consumer's end of a watch: holds at most one event, the latest, so a slow consumer never
falls behind.
"""

import asyncio
from collections.abc import Callable

from control_plane.coordination.store import Changed, Watch


class LatestChange(Watch):
    """A queue of one. The store offers, the consumer takes; both on the event loop."""

    def __init__(self, path: str, on_close: Callable[["LatestChange"], None]) -> None:
        self.path = path
        self._on_close = on_close
        self._pending: Changed | None = None
        self._closed = False
        self._wake = asyncio.Event()

    def offer(self, version: int | None, *, resync: bool) -> None:
        """Replaces an event that was not taken yet; a resync is not forgotten by what comes after
        it.
        """
        hidden = self._pending is not None and self._pending.resync
        self._pending = Changed(self.path, version, resync or hidden)
        self._wake.set()

    async def __anext__(self) -> Changed:
        while not self._closed:
            if self._pending is not None:
                event, self._pending = self._pending, None
                return event
            self._wake.clear()
            await self._wake.wait()
        raise StopAsyncIteration

    async def close(self) -> None:
        self.end()

    def end(self) -> None:
        """Wakes the consumer, whose loop then ends. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._wake.set()
            self._on_close(self)
