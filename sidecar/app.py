"""The first process of a sidecar: its own data path, the map feed, the admin door, the workers."""

import asyncio
import contextlib
import importlib.metadata
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import structlog
import uvicorn

from buckets.bucket_map import BucketMap
from sidecar.admin import AdminSource, admin_app
from sidecar.background.hint_ledger import HintsView
from sidecar.background.hint_report import HintReporter
from sidecar.background.map_feed import FeedIdentity, MapFeed
from sidecar.clock_file import clock_path
from sidecar.config import SidecarConfig
from sidecar.data_path import DataPath
from sidecar.hinting import log_id
from sidecar.listeners import Listeners, address_of, bind_tcp, bind_unix
from sidecar.ports_file import write_ports
from sidecar.state_folder import claim
from sidecar.stats import COMPILED, WorkerStats, add_up, clock_stats
from sidecar.workers import Repaired, Worker, WorkerOrder

log = structlog.get_logger()

MAP_FILE = "map"


class Sidecar:
    """Everything that one `dabba-sidecar` runs. Sockets are bound when it is made."""

    def __init__(self, config: SidecarConfig) -> None:
        self._claim = claim(config.state_dir)
        self._log_id = log_id(config.state_dir)
        share = config.workers > 1
        self._config = config
        self._admin_socket = bind_tcp("admin", config.admin, share=False)
        self._listeners = Listeners(
            bind_tcp("grpc", config.grpc, share=share),
            bind_tcp("redis", config.redis, share=share),
            bind_unix("grpc_socket", config.grpc_socket),
            bind_unix("redis_socket", config.redis_socket),
        )
        self.addresses = {
            "grpc": address_of(self._listeners.grpc),
            "redis": address_of(self._listeners.redis),
            "admin": address_of(self._admin_socket),
        }
        if config.grpc_socket:
            self.addresses["grpc_socket"] = config.grpc_socket
        if config.redis_socket:
            self.addresses["redis_socket"] = config.redis_socket
        self._stopping = asyncio.Event()
        self._feed = self._make_feed()
        self._path = DataPath(config, clock_path(config.state_dir, 0), self._feed.learn)
        self._workers = self._make_workers() if share else []

    def _make_feed(self) -> MapFeed:
        config = self._config
        identity = FeedIdentity(
            id=config.id,
            cluster=config.cluster,
            zone=config.zone,
            address=self.addresses["grpc"],
            version=importlib.metadata.version("dabbawala"),
        )
        state = Path(config.state_dir) / MAP_FILE if config.state_dir else None
        return MapFeed(
            identity, config.control_planes, self._adopt, path=state, report=self._report
        )

    def _report(self) -> dict[str, float | str]:
        clock = clock_stats(self._path.core.clocks)
        if clock.skew_ms is None:
            return {}
        # Rounded, so that noise is no news.
        return {"clock_skew_ms": round(clock.skew_ms, -1), "clock_problem": clock.problem}

    def _make_workers(self) -> list[Worker]:
        listeners = self._listeners
        orders = [
            WorkerOrder(
                config=self._config,
                index=index,
                channel=-1,
                grpc=self.addresses["grpc"],
                redis=self.addresses["redis"],
                grpc_unix=_descriptor(listeners.grpc_unix),
                redis_unix=_descriptor(listeners.redis_unix),
            )
            for index in range(1, self._config.workers)
        ]
        return [Worker(order, self._feed.learn) for order in orders]

    def _adopt(self, bucket_map: BucketMap) -> None:
        self._path.adopt(bucket_map)
        saved = self._feed.saved_map() if self._workers else None
        if saved is not None:
            for worker in self._workers:
                worker.adopt(saved)

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or POST /quitquitquit; then drain and return."""
        # For the life of the process. Whichever thread collects the last channel would otherwise
        # wait for gRPC's poller to end, for ever if it waits for a call, and so would the next one.
        grpc.aio.init_grpc_aio()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        await self._path.start(self._listeners)
        for worker in self._workers:
            worker.start()
        self._feed.load()
        feeding = asyncio.create_task(self._feed.run(), name="map-feed")
        reporter = self._make_reporter()
        reporting = asyncio.create_task(reporter.run(), name="hint-report")
        admin = self._make_admin()
        serving = asyncio.create_task(admin.serve(sockets=[self._admin_socket]), name="admin")
        if self._config.ports_file:
            write_ports(self._config.ports_file, self.addresses)
        log.info("serving", compiled=COMPILED, **self.addresses)
        try:
            await self._stopping.wait()
            log.info("draining")
        finally:
            await self._stop(reporter, feeding, reporting)
            admin.should_exit = True
            await serving
        log.info("stopped")

    async def _stop(self, reporter: HintReporter, *tasks: asyncio.Task[None]) -> None:
        workers = (worker.stop() for worker in self._workers)
        await asyncio.gather(self._path.stop(reporter.report_last), *workers)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._remove_unix_sockets()

    def _remove_unix_sockets(self) -> None:
        for path in (self._config.grpc_socket, self._config.redis_socket):
            if path:
                Path(path).unlink(missing_ok=True)

    # --- what the admin door shows

    def _make_admin(self) -> uvicorn.Server:
        source = AdminSource(
            config=self._config,
            addresses=lambda: self.addresses,
            ready=self._path.ready,
            stats=self._stats,
            bucket_map=lambda: self._path.core.map,
            feed=self._feed_view,
            repaired=self._repaired,
            drain=self._drain,
            quit=self._stopping.set,
        )
        config = uvicorn.Config(
            admin_app(source),
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        return _QuietServer(config)

    def _stats(self) -> WorkerStats:
        others = [worker.stats for worker in self._workers if worker.stats is not None]
        return add_up([self._path.stats(), *others])

    def _feed_view(self) -> dict[str, Any]:
        state = self._feed.state
        age_s = self._feed.age_s(asyncio.get_running_loop().time())
        return {
            "connected_to": state.connected_to,
            "source": state.source,
            "synced_revision": state.synced_revision,
            "age_s": round(age_s, 3) if age_s is not None else None,
            "refused": state.refused,
            "last_error": state.last_error,
            "file_error": state.file_error,
        }

    def _make_reporter(self) -> HintReporter:
        return HintReporter(
            self._config.id,
            self._log_id,
            self._config.hint_age_ms,
            view=self._hints_view,
            control_plane=lambda: self._feed.state.connected_to,
            repaired=self._repaired,
        )

    def _hints_view(self) -> HintsView | None:
        """Of all workers; None while one of them has not said yet what it has."""
        if any(worker.stats is None for worker in self._workers):
            return None
        return self._stats().hints

    def _repaired(self, bucket: Repaired) -> None:
        self._path.hints.repaired(bucket)
        for worker in self._workers:
            worker.repaired(bucket)

    async def _drain(self) -> None:
        await asyncio.gather(self._path.drain(), *(worker.stop() for worker in self._workers))


class _QuietServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the sidecar has one way to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the sidecar's."""
        yield


def _descriptor(bound: socket.socket | None) -> int:
    return bound.fileno() if bound is not None else -1


def default_id() -> str:
    """Host name and process: unique enough for `dabba sidecars`."""
    return f"{socket.gethostname().split('.')[0]}-{os.getpid()}"
