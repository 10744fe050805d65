"""Where a process that took free ports says which: JSON, written whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

import orjson


def write_ports(path: str, addresses: Mapping[str, str]) -> None:
    """Write `addresses` and the process id to `path`."""
    target = Path(path)
    new = target.with_name(f"{target.name}.{os.getpid()}.new")
    new.write_bytes(orjson.dumps({**addresses, "pid": os.getpid()}))
    new.replace(target)
