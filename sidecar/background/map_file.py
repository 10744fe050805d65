"""The last good map on disk: written whole or not at all."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SIZE_BOUND_BYTES: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class MapFile:
    """One file. Its folder is made when the first map is written."""

    path: Path

    def read(self) -> bytes | None:
        """The bytes, or None when there is no file. Raises OSError (also above 256 MiB)."""
        try:
            if self.path.stat().st_size > SIZE_BOUND_BYTES:
                raise OSError(f"{self.path} is above {SIZE_BOUND_BYTES} bytes: not a map")
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, raw: bytes) -> None:
        """Replaces the file: old bytes or new, even after a power cut. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            with fresh.open("wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
