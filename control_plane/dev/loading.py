"""Runs the loader as a process of its own and shows what it tells."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec

from control_plane.dev.die_with_parent import tied
from control_plane.dev.errors import DevError
from control_plane.dev.load_report import Finished, LoadEvent, LoadPlan
from control_plane.dev.screen import PhaseDisplay, Screen

_LINE_LIMIT_BYTES = 1 << 20  # the last event names every node
_LOG_TAIL_LINES = 3


class LoadFailed(DevError):
    """The loader ended without a report."""


async def run_load(
    plan: LoadPlan, log: Path, environment: Mapping[str, str], screen: Screen
) -> Finished:
    """The loader's last event. Cancelled, it ends the loader. Raises LoadFailed."""
    with log.open("ab") as log_file:
        process = await asyncio.create_subprocess_exec(
            *tied(_command(plan)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log_file,
            env=environment,
            start_new_session=True,
            limit=_LINE_LIMIT_BYTES,
        )
    finished: Finished | None = None
    try:
        with PhaseDisplay(screen) as display:
            async for event in _events(process.stdout):
                if isinstance(event, Finished):
                    finished = event
                else:
                    display.show(event)
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
    if finished is None:
        raise LoadFailed(f"the loader ended with status {status}: {_tail(log)}; its log is {log}")
    return finished


def _command(plan: LoadPlan) -> list[str]:
    module = "control_plane.dev.load_cities"
    return [sys.executable, "-P", "-m", module, msgspec.json.encode(plan).decode()]


async def _events(stream: asyncio.StreamReader | None) -> AsyncIterator[LoadEvent]:
    while stream is not None and (line := await stream.readline()):
        yield msgspec.json.decode(line, type=LoadEvent)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()[-_LOG_TAIL_LINES:]
    return " | ".join(line.strip() for line in lines) or "it printed nothing"
