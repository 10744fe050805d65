"""The servers of a local cluster as processes: tied to our life, watched, stopped."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from control_plane.dev.die_with_parent import tied
from control_plane.dev.errors import StartFailed

_TAIL_BYTES = 4096
_TAIL_LINES = 6


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `grace_s`: how long it may take to stop by itself before it is killed."""

    name: str
    arguments: Sequence[str]
    log: Path
    grace_s: float
    keep_open: tuple[int, ...] = ()


class Server:
    """One child process. It gets no Ctrl-C of the terminal: the order of stopping is ours."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process) -> None:
        self.command = command
        self._process = process
        self._stopping = False
        self._exit: asyncio.Task[int] = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(cls, command: Command, environment: Mapping[str, str]) -> "Server":
        """Starts it, with everything it prints appended to its log. Call from the main thread."""
        with command.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *tied(command.arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=command.log.parent,
                env=environment,
                start_new_session=True,
                pass_fds=command.keep_open,
            )
        return cls(command, process)

    @property
    def name(self) -> str:
        return self.command.name

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def on_death(self, report: Callable[["Server"], None]) -> None:
        """Calls `report` once if it ends without having been told to."""

        def ended(_: asyncio.Task[int]) -> None:
            if not self._stopping:
                report(self)

        self._exit.add_done_callback(ended)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal that is meant to end it; one that has ended is left alone."""
        self._stopping = True
        if self.running:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                pass

    async def stop(self) -> None:
        """Asks it to end; kills it when it takes longer than its grace."""
        self.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(self._exit), self.command.grace_s)
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self._exit

    async def ended(self) -> int:
        """Its exit status, once it has one; negative: the signal that killed it."""
        return await asyncio.shield(self._exit)

    def epitaph(self) -> str:
        """How it ended, in words."""
        status = self._process.returncode
        if status is None:
            return "is running"
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def last_words(self) -> list[str]:
        """The last lines of its log."""
        try:
            with self.command.log.open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-_TAIL_LINES:]

    def start_error(self) -> StartFailed:
        """The error for a server that ended before it was ready."""
        words = " | ".join(self.last_words()[-2:]) or "it printed nothing"
        return StartFailed(f"{self.name} {self.epitaph()} while starting: {words}")
