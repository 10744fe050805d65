"""Watching processes, our children or not."""

import os
import select
from pathlib import Path


def ends_within(pidfd: int, timeout_ms: int) -> bool:
    """Whether the process of `pidfd` (see os.pidfd_open) ends in time. Closes `pidfd`.

    Works for any process: the kernel makes a pidfd readable when its process has ended.
    """
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(timeout_ms))
    finally:
        os.close(pidfd)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
