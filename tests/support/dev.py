"""`dabba dev` and the other commands as processes of their own, as a user runs them."""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from control_plane.dev.die_with_parent import tied
from tests.support.processes import ends_within

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0
COMMAND_DEADLINE_S = 30.0
_DABBA = (sys.executable, "-P", "-c", "from control_plane.cli.main import main; main()")


@dataclass
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        value = orjson.loads(self.out)
        assert isinstance(value, dict)
        return value


@dataclass
class Home:
    """A user's folders: nothing that a command leaves or reads is outside of them.

    The path is short, since sockets lie in it.
    """

    path: Path
    program: Sequence[str] = _DABBA

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DABBA_")}
        return kept | {
            "HOME": str(self.path),
            "TMPDIR": str(self.path / "tmp"),
            "XDG_RUNTIME_DIR": str(self.path / "run"),
            "COLUMNS": "200",
        }

    @property
    def context_file(self) -> Path:
        return self.path / "run" / "dabbawala" / "dev.json"

    def temporary(self) -> list[str]:
        """What is in the folder for temporary files."""
        return sorted(entry.name for entry in (self.path / "tmp").iterdir())

    def dabba(self, *arguments: str) -> Ended:
        """One command, to its end."""
        done = subprocess.run(
            tied([*self.program, *arguments]),
            env=self.environment,
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start_dev(self, *arguments: str) -> "Dev":
        """`dabba dev -o json`, not waited for."""
        return Dev(self, list(arguments))


@contextmanager
def home(*program: str) -> Iterator[Home]:
    """Empty folders, gone afterwards, for the `dabba` of the project or for another one."""
    path = Path(tempfile.mkdtemp(prefix="dabba-"))
    for name in ("tmp", "run"):
        (path / name).mkdir()
    try:
        yield Home(path, program or _DABBA)
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass
class Dev:
    """A `dabba dev` and what it said when it was ready."""

    home: Home
    arguments: list[str]
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with (self.home.path / "dev.err").open("wb") as err:
            self.process = subprocess.Popen(
                tied([*self.home.program, "dev", "-o", "json", *self.arguments]),
                env=self.home.environment,
                cwd=self.home.path,
                stdout=subprocess.PIPE,
                stderr=err,
            )

    @property
    def err(self) -> str:
        """All that it wrote for people."""
        return (self.home.path / "dev.err").read_text()

    @property
    def redis_port(self) -> int:
        return int(self.facts["sidecar"]["redis"].rpartition(":")[2])

    @property
    def pids(self) -> dict[str, int]:
        """Every process that it started."""
        pids: dict[str, int] = self.facts["pids"]
        return pids

    def wait_ready(self) -> "Dev":
        """Reads the one object on its standard output."""
        assert self.process.stdout is not None
        text = b""
        while not text.endswith(b"\n}\n"):
            readable, _, _ = select.select([self.process.stdout], [], [], START_DEADLINE_S)
            assert readable, f"not ready in time: {self.err}"
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            assert more, f"ended with status {self.process.wait()}: {self.err}"
            text += more
        self.facts = orjson.loads(text)
        return self

    def end(self, number: signal.Signals) -> int:
        """Sends the signal to it alone and waits; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_DEADLINE_S)

    def survivors(self, watched: dict[str, int], timeout_ms: int = 5_000) -> list[str]:
        """Which of the processes behind these pidfds are still there after so long."""
        return [name for name, pidfd in watched.items() if not ends_within(pidfd, timeout_ms)]

    def watch(self) -> dict[str, int]:
        """A pidfd of each process that it started: unlike a pid, it is never somebody else's."""
        return {name: os.pidfd_open(pid) for name, pid in self.pids.items()}

    def close(self) -> None:
        """Ends it, however it is."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def dev_cluster(at: Home, *arguments: str) -> Iterator[Dev]:
    """A `dabba dev` that is ready, and ended afterwards."""
    started = at.start_dev(*arguments)
    try:
        yield started.wait_ready()
    finally:
        started.close()
