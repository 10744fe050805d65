"""Loss of power: of a server's files only what it had made durable is left.

A small library (power_loss.c), preloaded into every process that is started meanwhile, notes what
each fsync made durable; `lose` takes the rest away after the process was killed.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.preloaded import preload

SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True)
class PowerLoss:
    """`notes`: the folder in which the library says what is durable."""

    notes: Path

    def lose(self, folder: Path) -> int:
        """Cuts every file below a dead server's folder to what was durable; bytes that went."""
        lost = 0
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                size, durable = path.stat().st_size, self.durable_bytes(path)
                if durable < size:
                    os.truncate(path, durable)
                    lost += size - durable
        return lost

    def durable_bytes(self, path: Path) -> int:
        """How much of the file would survive now."""
        status = path.stat()
        try:
            note = (self.notes / f"{status.st_dev}-{status.st_ino}").read_bytes()
        except FileNotFoundError:
            return 0
        (durable,) = struct.unpack("=q", note)
        return min(int(durable), status.st_size)


def power_loss(folder: Path, monkeypatch: pytest.MonkeyPatch) -> PowerLoss:
    """Every process that is started from now on, until the test ends, can lose its power.

    `folder` is for the library and its notes: one of the test's own, for inodes are used again.
    """
    notes = folder / "synced"
    notes.mkdir()
    preload(SOURCE, folder, monkeypatch)
    monkeypatch.setenv("SYNCED_DIR", str(notes))
    return PowerLoss(notes)
