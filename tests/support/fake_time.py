"""A wall clock that is wrong and steps, for one process: libfaketime, driven through a file."""

from pathlib import Path


class FakeTime:
    """Start a process with `variables`; its monotonic clock stays true."""

    def __init__(self, folder: Path, offset_s: float = 0.0) -> None:
        self._file = folder / "offset"
        self.step(offset_s)

    def step(self, offset_s: float) -> None:
        """From now on its clock is this far ahead of ours."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+g}\n")
        new.replace(self._file)  # it may be read at any moment

    @property
    def variables(self) -> dict[str, str]:
        """Environment of the process whose clock it is to be."""
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        assert found, "libfaketime is missing: type make peers"
        return {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
