"""What can go wrong with files that a sidecar keeps, grouped by what helps."""

import sqlite3
from pathlib import Path


class HintFileError(Exception):
    """A hint file can not be used. The text names the file, what is wrong, and what to do."""

    fix = "Look at the disk"

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}. {self.fix}")
        self.path = path
        self.problem = problem


class HintDiskFull(HintFileError):
    """No room: nothing of the batch was kept, and what stands in the file is whole."""

    fix = "Free space on the disk of state_dir, or set state_dir to another"


class HintDiskFailed(HintFileError):
    """The disk refused: what was being written may be there or not."""

    fix = "Check the disk, its quota and the rights on state_dir"


class HintFileBusy(HintFileError):
    """Another process has it."""

    fix = "Give every sidecar a state_dir of its own"


class HintFileDamaged(HintFileError):
    """What the file holds can not be trusted, or it is no hint file."""

    fix = "It is set aside, and what can be read of it is kept"


class HintFileForeign(HintFileError):
    """The hints in it are for another cluster."""

    fix = "It is set aside; give every cluster's sidecar a state_dir of its own"


def hint_file_error(path: Path, error: sqlite3.Error) -> HintFileError:
    """SQLite's error as one of ours."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind of error
    kinds: dict[int, type[HintFileError]] = {
        sqlite3.SQLITE_FULL: HintDiskFull,
        sqlite3.SQLITE_BUSY: HintFileBusy,
        sqlite3.SQLITE_LOCKED: HintFileBusy,
        sqlite3.SQLITE_CORRUPT: HintFileDamaged,
        sqlite3.SQLITE_NOTADB: HintFileDamaged,
        sqlite3.SQLITE_ERROR: HintFileDamaged,  # a table that is not there, or of another form
    }
    return kinds.get(code, HintDiskFailed)(path, str(error))
