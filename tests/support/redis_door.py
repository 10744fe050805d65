"""A Redis door over an in-memory coordinator, on uvloop in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from sidecar.net.resp_door import RespDoor, wall_clock_ms
from sidecar.redis.limits import RespLimits
from tests.support.memory_coordinator import MemoryCoordinator

T = TypeVar("T")
_DEADLINE_S = 20.0


@dataclass
class RunningDoor:
    """Where the door listens, and ways to its loop."""

    loop: asyncio.AbstractEventLoop
    door: RespDoor
    coordinator: MemoryCoordinator
    host: str
    port: int
    path: Path

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` in the door's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(_DEADLINE_S)

    def call(self, function: Callable[[], T]) -> T:
        """Call `function` in the door's loop and wait for it."""

        async def called() -> T:
            return function()

        return self.run(called())


@contextmanager
def running_door(folder: Path, limits: RespLimits | None = None) -> Iterator[RunningDoor]:
    """A door with the keyspaces `default` (SELECT 0) and `other` (1), closed at the end."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=_serve, args=(loop,), daemon=True)
    thread.start()

    async def started() -> RunningDoor:
        coordinator = MemoryCoordinator({0: "default", 1: "other"}, wall_clock_ms)
        coordinator.in_batches = True
        door = RespDoor(coordinator, limits)
        host, port = await door.listen_tcp("127.0.0.1", 0)
        path = folder / "redis.sock"
        await door.listen_unix(path)
        return RunningDoor(loop, door, coordinator, host, port, path)

    try:
        running = asyncio.run_coroutine_threadsafe(started(), loop).result(_DEADLINE_S)
        yield running
        running.run(running.door.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_DEADLINE_S)
        loop.close()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
