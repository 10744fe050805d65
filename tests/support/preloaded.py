"""Small C libraries of ours, compiled when a test asks, and preloaded into what it starts."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.servers import installed


def preload(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process that is started from now on, until the test ends, begins with it.

    `folder`, one of the test's own, is where the compiled library lies.
    """
    library = folder / source.with_suffix(".so").name
    subprocess.run(
        [
            installed("gcc"),
            *("-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"),
        ],
        check=True,
    )
    others = os.environ.get("LD_PRELOAD")
    monkeypatch.setenv("LD_PRELOAD", f"{library}:{others}" if others else str(library))
