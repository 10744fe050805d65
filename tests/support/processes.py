"""Watching processes that are not our children."""

import os
import select


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
