"""A further worker process: serves the shared doors, is fed the map by the first process."""

import asyncio
import contextlib
import signal
import socket
import sys

import msgspec
import structlog
import uvloop

from sidecar.clock_file import clock_path
from sidecar.config import BAD_CONFIGURATION, ConfigError
from sidecar.core.saved_map import decode_saved_map
from sidecar.data_path import DataPath
from sidecar.listeners import Listeners, adopt_unix, join_tcp
from sidecar.logs import set_up_logs
from sidecar.workers import (
    DRAIN,
    ENTRY,
    MAP,
    REPAIRED,
    STATS,
    Repaired,
    WorkerOrder,
    frame,
    read_frame,
)

log = structlog.get_logger()

REPORT_S = 0.5


async def serve(order: WorkerOrder) -> None:
    """Serve until the first process says drain, or is gone."""
    channel = socket.socket(fileno=order.channel)
    reader, writer = await asyncio.open_connection(sock=channel)

    def learn(entry: bytes) -> None:
        writer.write(frame(ENTRY, entry))

    clock_file = clock_path(order.config.state_dir, order.index)
    path = DataPath(order.config, clock_file, learn, worker=order.index)
    await path.start(
        Listeners(
            join_tcp(order.grpc),
            join_tcp(order.redis),
            adopt_unix(order.grpc_unix),
            adopt_unix(order.redis_unix),
        )
    )
    report = asyncio.create_task(_report(path, writer), name="report")
    try:
        await _obey(reader, path, order.config.cluster)
    finally:
        report.cancel()
        await path.stop()
        writer.close()


async def _obey(reader: asyncio.StreamReader, path: DataPath, cluster: str) -> None:
    while (received := await read_frame(reader)) is not None:
        kind, body = received
        if kind == DRAIN:
            return
        if kind == MAP:
            path.adopt(decode_saved_map(body, cluster))
        elif kind == REPAIRED:
            path.hints.repaired(msgspec.json.decode(body, type=Repaired))
    log.warning("the first process is gone; draining")


async def _report(path: DataPath, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(frame(STATS, msgspec.json.encode(path.stats())))
        await writer.drain()
        await asyncio.sleep(REPORT_S)


def main() -> None:
    """Entry of `python -m sidecar.worker ORDER`; only the first process starts it."""
    order = msgspec.json.decode(sys.argv[1], type=WorkerOrder)
    set_up_logs(sidecar=order.config.id, worker=str(order.index))
    # A terminal's Ctrl-C reaches every process; the first one decides when workers drain.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with contextlib.suppress(ConnectionError):
            uvloop.run(serve(order))
    except ConfigError as error:  # its files were good when the first process read them
        log.error("worker can not start", why=str(error))
        raise SystemExit(BAD_CONFIGURATION) from None


if __name__ == "__main__":
    main()
