"""Run by LeaderProcess: leads, and writes under its guard when told to."""

import asyncio
import sys

from control_plane.coordination.errors import CoordinationError
from control_plane.coordination.opening import open_store
from control_plane.coordination.store import CoordinationStore, Leadership, Put, StoreOptions


async def write_guarded(store: CoordinationStore, leadership: Leadership) -> str:
    try:
        await store.transact([leadership.guard(), Put("/written", b"by the frozen one")])
    except CoordinationError as error:
        return type(error).__name__
    return "written"


async def main(url: str, session_timeout_ms: int) -> None:
    store = await open_store(url, StoreOptions(session_timeout_ms=session_timeout_ms))
    leadership = await store.campaign("/leader", b"frozen")
    sys.stdout.write(f"leading {leadership.term}\n")
    sys.stdout.flush()
    while await asyncio.to_thread(sys.stdin.readline):
        leading = leadership.is_leader()
        answer = await write_guarded(store, leadership)
        sys.stdout.write(f"is_leader {leading}\n{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
