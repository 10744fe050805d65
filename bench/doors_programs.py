"""The programs of the doors' benchmark: where they are, and processes that end with us."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from control_plane.dev.die_with_parent import tied

NEEDED = ("envoy", "nutcracker", "haproxy", "redis-benchmark", "h2load")
HOW_TO_INSTALL = "make setup-dev peers"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_POLL_S = 0.02
_LAST_WORDS = 2_000


class BenchFailed(Exception):
    """The benchmark can not go on; the text says why and what to do."""


def find(program: str) -> str:
    """Path of a program; "" when it is not there. Envoy lies beside our own Python."""
    beside = Path(sys.executable).parent
    places = os.pathsep.join([str(beside), os.environ.get("PATH", ""), "/usr/sbin"])
    return shutil.which(program, path=places) or ""


def require_all() -> None:
    """Raises BenchFailed, with the command to type, when a program is missing."""
    missing = [program for program in NEEDED if not find(program)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise BenchFailed(f"{', '.join(missing)} {verb} missing. Type: {HOW_TO_INSTALL}")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process used up to now."""

    pid: int

    def cpu_s(self) -> float:
        """Processor seconds, of all its threads, in steps of a clock tick (10 ms)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S

    def resident_bytes(self) -> int:
        """Resident memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise BenchFailed(f"process {self.pid} has ended; its log is shown above if it has one")


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    cwd: Path | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is stopped afterwards, and killed if we are. Its standard output is a pipe.

    It does not get the terminal's Ctrl-C: the order of stopping is ours. `folder` gets its log.
    """
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            tied(command),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=cwd or folder,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def wait_until(
    true: Callable[[], bool],
    what: str,
    process: "subprocess.Popen[bytes] | None" = None,
    timeout_s: float = START_TIMEOUT_S,
) -> None:
    """Asks until it is true; what can not be reached is not true yet. Raises BenchFailed.

    So it does when the process that it depends on has ended.
    """
    deadline = time.monotonic() + timeout_s
    last = "it was never so"
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise BenchFailed(f"{what}: the process has ended with status {process.returncode}")
        try:
            if true():
                return
        except OSError as error:
            last = str(error)
        time.sleep(_POLL_S)
    raise BenchFailed(f"not within {timeout_s:.0f} s: {what} ({last})")


def read_line(process: "subprocess.Popen[bytes]", what: str, log: Path) -> str:
    """The next line that a server prints; raises BenchFailed if it ends without."""
    assert process.stdout is not None  # running() has given it a pipe
    line = process.stdout.readline().decode()
    if not line:
        words = log.read_text()[-_LAST_WORDS:]
        raise BenchFailed(f"{what} ended with status {process.wait()} before it was ready: {words}")
    return line
