"""A ceiling on disk that makes versions grow over restarts, even when the clock steps back.

The file holds a time (Unix milliseconds) that no version issued so far passes. It is kept a little
ahead of the clock, renewed while there are writes, and lowered to the truth on a clean stop.

It is written in place, in two slots by turns, each with its checksum; the higher one counts. So a
write that is cut short leaves the other, and none needs a descriptor or room, which may be short.
"""

import os
import zlib
from pathlib import Path

import structlog

from replicas.version import COUNTER_BITS, HybridClock

# Below the skew that replicas accept (500 ms by default), so that what a process issues after a
# crash, above its predecessor's ceiling, is not refused as too far ahead.
LEAD_MS = 400
SLOTS = 2
SLOT_BYTES = 25  # 15 digits, a space, the CRC-32 of the digits in hexadecimal, a line feed

log = structlog.get_logger()


class DurableClock(HybridClock):
    """A hybrid clock whose ceiling is on disk before any version passes it.

    Without a file (`path` None) there is no ceiling, and nothing is promised over restarts.
    """

    __slots__ = ("_ceiling_ms", "_file", "_path", "_slot")

    def __init__(self, writer: bytes, path: Path | None) -> None:
        self._path = path
        self._file = -1  # its descriptor
        found = _read(path)
        self._ceiling_ms = max(found)
        self._slot = found.index(min(found))  # the next to be written
        super().__init__(writer, self._ceiling_ms)
        if path is not None:
            try:
                self._open(path)
            except OSError as error:
                log.error("clock not kept on disk", why=str(error))

    def next(self, now_ms: int) -> bytes:
        """As HybridClock.next; raises the ceiling first when it would be passed (one fsync).

        Raises OSError when the disk does not take it: the version must not be used then.
        """
        version = HybridClock.next(self, now_ms)
        if self._last >> COUNTER_BITS > self._ceiling_ms and self._path is not None:
            self._write(self.last_ms + LEAD_MS)
        return version

    def keep_ahead(self) -> None:
        """Raise the ceiling before `next` has to. Call it a few times a second."""
        if self._path is not None and self._ceiling_ms - LEAD_MS // 2 < self.last_ms:
            self._try_to_write(self.last_ms + LEAD_MS)

    def settle(self) -> None:
        """A clean stop: nothing later was issued, nor will be."""
        if self._path is not None and self.last_ms:
            for _ in range(SLOTS):
                self._try_to_write(self.last_ms)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _try_to_write(self, ceiling_ms: int) -> None:
        """Ahead of time, nothing depends on it yet: `next` says so when it does."""
        try:
            self._write(ceiling_ms)
        except OSError as error:
            log.error("clock not kept on disk", why=str(error))

    def _write(self, ceiling_ms: int) -> None:
        if self._path is None:
            return
        if self._file < 0:
            self._open(self._path)
        os.pwrite(self._file, _encode(ceiling_ms), self._slot * SLOT_BYTES)
        os.fsync(self._file)
        self._slot = (self._slot + 1) % SLOTS
        self._ceiling_ms = ceiling_ms

    def _open(self, path: Path) -> None:
        """Open the file, which is there after a loss of power too."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def clock_path(state_dir: str, worker: int) -> Path | None:
    """Where worker number `worker` (0: the first process) keeps its ceiling; None: nowhere."""
    return Path(state_dir) / f"clock-{worker}" if state_dir else None


def _encode(ceiling_ms: int) -> bytes:
    digits = b"%015d" % ceiling_ms
    return b"%b %08x\n" % (digits, zlib.crc32(digits))


def _read(path: Path | None) -> list[int]:
    """What each slot says; 0: nothing."""
    raw = path.read_bytes() if path is not None and path.exists() else b""
    return [_decode(raw[at : at + SLOT_BYTES]) for at in range(0, SLOTS * SLOT_BYTES, SLOT_BYTES)]


def _decode(slot: bytes) -> int:
    digits = slot[:15]
    return int(digits) if digits.isdigit() and slot == _encode(int(digits)) else 0
