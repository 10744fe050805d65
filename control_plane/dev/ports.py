"""Free ports of the loopback interface."""

import random
import socket
from collections.abc import Collection

from control_plane.dev.errors import StartFailed

# Below the range from which the kernel takes the ports of outgoing connections, so that a port
# that is kept with the data is not met by chance at the next start.
_FIRST, _LAST = 20_000, 32_000


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_ports(count: int, taken: Collection[int] = ()) -> list[int]:
    """`count` different free ports, none of `taken`. Somebody else may still be faster."""
    start = random.randrange(_FIRST, _LAST)
    chosen: list[int] = []
    for offset in range(_LAST - _FIRST):
        port = _FIRST + (start - _FIRST + offset) % (_LAST - _FIRST)
        if port not in taken and is_free(port):
            chosen.append(port)
            if len(chosen) == count:
                return chosen
    raise StartFailed(
        f"there are no {count} free ports from {_FIRST} to {_LAST}; stop some servers"
    )
