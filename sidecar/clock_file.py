"""A ceiling on disk that makes versions grow over restarts, even when the clock steps back.

The file holds a time (Unix milliseconds) that no version issued so far passes. It is kept a little
ahead of the clock, renewed while there are writes, and lowered to the truth on a clean stop.
"""

import os
from pathlib import Path

import structlog

from replicas.version import HybridClock

# Below the skew that replicas accept (500 ms by default), so that what a process issues after a
# crash, above its predecessor's ceiling, is not refused as too far ahead.
LEAD_MS = 400


log = structlog.get_logger()


class DurableClock(HybridClock):
    """A hybrid clock whose ceiling is on disk before any version passes it.

    Without a file (`path` None) there is no ceiling, and nothing is promised over restarts.
    """

    __slots__ = ("_ceiling_ms", "_path")

    def __init__(self, writer: bytes, path: Path | None) -> None:
        self._path = path
        self._ceiling_ms = _read(self._path)
        super().__init__(writer, self._ceiling_ms)

    def next(self, now_ms: int) -> bytes:
        """As HybridClock.next; raises the ceiling first when it would be passed (one fsync).

        Raises OSError when the disk does not take it: the version must not be used then.
        """
        version = super().next(now_ms)
        if self.last_ms > self._ceiling_ms and self._path is not None:
            self._write(self.last_ms + LEAD_MS)
        return version

    def keep_ahead(self) -> None:
        """Raise the ceiling before `next` has to. Call it a few times a second."""
        if self._path is not None and self._ceiling_ms - LEAD_MS // 2 < self.last_ms:
            self._try_to_write(self.last_ms + LEAD_MS)

    def settle(self) -> None:
        """A clean stop: nothing later was issued, nor will be."""
        if self._path is not None and self.last_ms:
            self._try_to_write(self.last_ms)

    def _try_to_write(self, ceiling_ms: int) -> None:
        """Ahead of time, nothing depends on it yet: `next` says so when it does."""
        try:
            self._write(ceiling_ms)
        except OSError as error:
            log.error("clock not kept on disk", why=str(error))

    def _write(self, ceiling_ms: int) -> None:
        if self._path is None:
            return
        new = self._path.with_suffix(".new")
        with new.open("w") as file:
            file.write(f"{ceiling_ms}\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        self._ceiling_ms = ceiling_ms


def clock_path(state_dir: str, worker: int) -> Path | None:
    """Where worker number `worker` (0: the first process) keeps its ceiling; None: nowhere."""
    return Path(state_dir) / f"clock-{worker}" if state_dir else None


def _read(path: Path | None) -> int:
    if path is None or not path.exists():
        return 0
    text = path.read_bytes().strip()
    return int(text) if text.isdigit() and len(text) < 15 else 0
