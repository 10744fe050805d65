"""The folder that a sidecar keeps over restarts: its own, and nobody else's meanwhile.

Two sidecars in one folder would share a clock's ceiling and each other's hints.
"""

import fcntl
from pathlib import Path
from typing import TextIO

from sidecar.config import ConfigError

LOCK_NAME = "lock"


def claim(state_dir: str) -> TextIO | None:
    """Make the folder if need be and lock it until the file returned is closed, or the process
    ends; None when there is no folder. Raises ConfigError when it can not be had."""
    if not state_dir:
        return None
    folder = Path(state_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_NAME).open("w")
    except OSError as error:
        raise ConfigError(f"configuration: state_dir is {folder}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ConfigError(
            f"configuration: state_dir is {folder}, which another sidecar uses; stop it, or give"
            " each sidecar a folder of its own"
        ) from None
    return lock
