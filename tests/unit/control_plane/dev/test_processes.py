import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from control_plane.dev.processes import Command, Server

DEADLINE_S = 20.0
SLEEP = "import time; print('awake', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"

Start = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    started: list[Server] = []

    async def start_one(script: str, grace_s: float = 10.0) -> Server:
        command = Command("one", [sys.executable, "-c", script], tmp_path / "one.log", grace_s)
        server = await Server.start(command, os.environ)
        started.append(server)
        return server

    yield start_one
    for server in started:
        server.send(signal.SIGKILL)
        await server.ended()


async def awake(server: Server) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while "awake" not in server.last_words():
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_server_that_is_stopped_ends_and_is_not_reported(start: Start) -> None:
    server, reported = await start(SLEEP), list[Server]()
    server.on_death(reported.append)
    await awake(server)
    await server.stop()
    assert await server.ended() == -signal.SIGTERM
    assert not server.running
    assert reported == []


@pytest.mark.slow
async def test_a_server_that_dies_is_reported_with_its_last_words(start: Start) -> None:
    server, reported = await start("print('the disk is full'); raise SystemExit(3)"), list[Server]()
    server.on_death(reported.append)
    await server.ended()
    await asyncio.sleep(0)
    assert reported == [server]
    assert server.epitaph() == "ended with status 3"
    assert server.last_words() == ["the disk is full"]
    assert "one ended with status 3 while starting: the disk is full" in str(server.start_error())


@pytest.mark.slow
async def test_a_killed_server_is_said_to_be_killed(start: Start) -> None:
    server = await start(SLEEP)
    await awake(server)
    os.kill(server.pid, signal.SIGKILL)
    await server.ended()
    assert server.epitaph() == "was killed by SIGKILL"


@pytest.mark.slow
async def test_a_server_that_does_not_stop_is_killed_after_its_grace(start: Start) -> None:
    server = await start(STUBBORN, 0.05)
    await awake(server)
    await server.stop()
    assert await server.ended() == -signal.SIGKILL


@pytest.mark.slow
async def test_stopping_a_server_that_has_ended_is_fine(start: Start) -> None:
    server = await start("")
    assert await server.ended() == 0
    await server.stop()
    server.send(signal.SIGKILL)


@pytest.mark.slow
async def test_a_server_is_out_of_reach_of_the_terminals_ctrl_c(start: Start) -> None:
    server = await start(SLEEP)
    await awake(server)
    assert os.getsid(server.pid) == server.pid
