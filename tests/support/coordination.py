"""Both coordination stores behind one face, for tests that hold them to the same contract."""

import asyncio
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from control_plane.coordination.opening import open_store
from control_plane.coordination.session import SessionStore
from control_plane.coordination.store import CoordinationStore, StoreOptions
from control_plane.coordination.zookeeper import ZooKeeperStore
from tests.support.servers import Server

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE_S = 20.0


@dataclass
class Backend:
    """A store that any number of clients of one test can open, and whose sessions can be ended."""

    url: str
    end_session: Callable[[CoordinationStore], None]
    opened: list[CoordinationStore] = field(default_factory=list)

    async def open(
        self, *, session_timeout_ms: int = 5_000, operation_timeout_ms: int = 5_000
    ) -> CoordinationStore:
        options = StoreOptions(
            session_timeout_ms=session_timeout_ms, operation_timeout_ms=operation_timeout_ms
        )
        store = await open_store(self.url, options)
        self.opened.append(store)
        return store

    async def lose_session(self, store: CoordinationStore) -> None:
        """End its session, and wait until it has another one."""
        assert isinstance(store, SessionStore)
        lost = store.session_id
        self.end_session(store)

        async def renewed() -> bool:
            return store.session_id not in (0, lost)

        await until(renewed)

    async def close(self) -> None:
        for store in self.opened:
            await store.close()


def sqlite_backend(folder: Path) -> Backend:
    path = folder / "coordination.db"

    def end_session(store: CoordinationStore) -> None:
        # What another process does once it finds the lease overdue.
        assert isinstance(store, SessionStore)
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("DELETE FROM entries WHERE session = ?", (store.session_id,))
            connection.execute("DELETE FROM sessions WHERE id = ?", (store.session_id,))
        connection.close()

    return Backend(f"sqlite://{path}", end_session)


def zookeeper_backend(server: Server, root: str) -> Backend:
    def end_session(store: CoordinationStore) -> None:
        # A second connection takes the session over and closes it.
        assert isinstance(store, ZooKeeperStore)
        session_id, password = store._client.client_id
        with socket.create_connection((server.host, server.port), timeout=5) as connection:
            connect = struct.pack(">iiqiqi16sb", 45, 0, 0, 5_000, session_id, 16, password, 0)
            connection.sendall(connect)
            connection.recv(1024)
            connection.sendall(struct.pack(">iii", 8, 1, -11))
            while connection.recv(1024):
                pass

    return Backend(f"zookeeper://{server.address}{root}", end_session)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so; TimeoutError after DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():
            await asyncio.sleep(0.01)


class LeaderProcess:
    """A leader in a process of its own, that a test can freeze. It campaigns for /leader.

    Says `leading TERM`; for each line it is sent, tries a guarded write of /written and says
    `is_leader BOOL`, then `written` or the name of the error.
    """

    def __init__(self, url: str, session_timeout_ms: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.leader_process", url, str(session_timeout_ms)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def say(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            return (await asyncio.to_thread(self.process.stdout.readline)).strip()

    def ask(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("write\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
