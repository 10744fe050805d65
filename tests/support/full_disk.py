"""A disk that is full for some files, and has room again when the test says so."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.preloaded import preload

SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True)
class FullDisk:
    """`flag`: the file that tells the library which."""

    flag: Path

    def fill(self, beginning: str) -> None:
        """From now on files whose paths begin so take no more bytes. One beginning at a time."""
        beside = self.flag.with_suffix(".new")
        beside.write_text(beginning)
        beside.replace(self.flag)

    def free(self) -> None:
        """There is room again."""
        self.flag.unlink()


def full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    """For every process that is started from now on, until the test ends."""
    preload(SOURCE, folder, monkeypatch)
    flag = folder / "full"
    monkeypatch.setenv("FULL_DISK", str(flag))
    return FullDisk(flag)
