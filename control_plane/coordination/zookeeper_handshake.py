"""Ask a ZooKeeper server for a session by hand, to learn whether it serves and what session timeout
it grants.

kazoo backs off while a server starts (up to 5 s) and does not tell the granted timeout, which may
be shorter than the one asked for, and by which a leader must judge itself. A connect request needs
no four-letter word to be switched on.
"""

import asyncio
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from control_plane.coordination.errors import Unavailable

_ATTEMPT_S: Final = 1.0
_PAUSE_S: Final = 0.1

# ConnectRequest: protocol version, last zxid seen, timeout in ms, session id, password, read only.
_CONNECT = struct.Struct(">iiqiqi16sb")
# ConnectResponse up to the session id: length, protocol version, timeout in ms, session id.
_ANSWER = struct.Struct(">iiiq")
# A request of type -11 ends the session: length, xid, type.
_CLOSE: Final = struct.pack(">iii", 8, 1, -11)


async def granted_timeout_ms(
    hosts: Sequence[tuple[str, int]], wanted_ms: int, deadline_ms: int
) -> int:
    """The session timeout the first serving host grants. Unavailable when none serves within the
    deadline.
    """
    last_error = "not tried"
    try:
        async with asyncio.timeout(deadline_ms / 1000):
            while True:
                for host, port in hosts:
                    last_error = f"{host}:{port}: no answer"
                    try:
                        async with asyncio.timeout(_ATTEMPT_S):
                            return await _ask(host, port, wanted_ms)
                    except (OSError, EOFError, TimeoutError) as error:
                        last_error = f"{host}:{port}: {error!r}"
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError as error:
        raise Unavailable(
            f"no ZooKeeper server answered within {deadline_ms} ms (last: {last_error});"
            " check that the ensemble runs and that the address is right"
        ) from error


async def _ask(host: str, port: int, wanted_ms: int) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_CONNECT.pack(_CONNECT.size - 4, 0, 0, wanted_ms, 0, 16, b"", 0))
        answer = await reader.readexactly(_ANSWER.size)
        _, _, timeout_ms, _ = _ANSWER.unpack(answer)
        if timeout_ms <= 0:
            raise ConnectionError("the server refused a session")
        writer.write(_CLOSE)
        await writer.drain()
        # Reading to the end lets the server handle the close; otherwise the session lingers until
        # its timeout.
        await reader.read()
        return int(timeout_ms)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
