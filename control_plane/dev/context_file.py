"""The file in which a running `dabba dev` says where its servers are, for the other commands."""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from control_plane.dev.files import write_atomically


@dataclass(frozen=True, slots=True)
class DevContext:
    """Addresses are `host:port`. `started_ticks` tells a later process with this pid apart."""

    pid: int
    started_ticks: int
    cluster: str
    control_plane: str
    sidecar: str
    redis: str
    admin: str


@dataclass(frozen=True, slots=True)
class StaleContext:
    """The file is there, but who wrote it is not."""

    pid: int


def context_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the file is: in the session's runtime folder, else with the user's state."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "dabbawala" / "dev.json"
    home = environ.get("HOME") or str(Path.home())
    state = environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
    return Path(state) / "dabbawala" / "dev.json"


def started_ticks(pid: int) -> int:
    """When a process started, in the kernel's clock ticks since boot; 0 when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    state, start = fields[0], fields[19]
    return 0 if state in "ZX" else int(start)


def process_age_s(pid: int) -> float:
    """How long ago a process started, to a hundredth of a second."""
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return since_boot_s - started_ticks(pid) / os.sysconf("SC_CLK_TCK")


def write_context(path: Path, context: DevContext) -> None:
    """Replaces the file in one step; the folder is made for the user alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, orjson.dumps(asdict(context), option=orjson.OPT_INDENT_2))


def read_context(path: Path) -> DevContext | StaleContext | None:
    """What a running `dabba dev` wrote; StaleContext: it is gone; None: no usable file."""
    try:
        context = DevContext(**orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError, TypeError):
        return None
    alive = started_ticks(context.pid)
    if alive == 0 or alive != context.started_ticks:
        return StaleContext(context.pid)
    return context


def remove_context(path: Path, pid: int) -> None:
    """Removes the file if `pid` wrote it: another `dabba dev` may have replaced it since."""
    context = read_context(path)
    if context is not None and context.pid == pid:
        with contextlib.suppress(OSError):  # it is stale then, and is known to be
            path.unlink()
