"""The control-plane process: store, controllers, gRPC server, from start to graceful stop."""

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Final

import grpc
import orjson
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from control_plane.admin_service import AdminService
from control_plane.config import Config, split_address
from control_plane.controllers.instance import ControlPlaneInstance
from control_plane.controllers.roster import InstanceRecord
from control_plane.coordination.errors import BadUrl, WrongStore
from control_plane.coordination.opening import open_store
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import CoordinationStore, StoreOptions
from control_plane.errors import BadConfig
from control_plane.metrics import InstanceCollector, MetricsPage
from control_plane.xds.server import SERVER_OPTIONS, XdsService
from control_plane.xds.server import SERVICE as ADS_SERVICE
from protos.dabbawala.v1 import admin_pb2, admin_pb2_grpc

STOP_GRACE_S: Final = 0.5  # for calls under way; map streams never end by themselves
_ADMIN_SERVICE: Final = admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name
# Without this two processes listen on one port, and each gets some of the calls.
_OPTIONS: Final = (*SERVER_OPTIONS, ("grpc.so_reuseport", 0))
_WILDCARDS: Final = ("0.0.0.0", "[::]")

_log = structlog.get_logger(part="app")


class App:
    """One running control plane. `address` is where its gRPC server listens."""

    def __init__(self, config: Config, store: CoordinationStore) -> None:
        self._config = config
        self._store = store
        self._server = grpc.aio.server(options=_OPTIONS)
        self._health = health.aio.HealthServicer()
        self._xds = XdsService(lambda: time.time_ns() // 1_000_000)
        self.address = _bind(self._server, config)
        own = InstanceRecord(config.id, config.advertise or self.address)
        self.instance = ControlPlaneInstance(
            store,
            ClusterPaths(config.cluster),
            own,
            store_kind="zookeeper" if config.store.startswith("zookeeper:") else "embedded",
            probe_interval_ms=config.probe_interval_ms,
            admission_settle_ms=config.admission_settle_ms,
            compaction_interval_ms=config.compaction_interval_ms,
            publish=self._xds.publish,
        )
        self._admin = AdminService(self.instance, config.id, self._sidecars)
        self._metrics: MetricsPage | None = None

    @classmethod
    async def start(cls, config: Config) -> "App":
        """Open the store, listen, begin to watch. Raises BadConfig, Unavailable."""
        store = await _open_store(config)
        try:
            app = cls(config, store)
            await app._serve()
        except BaseException:
            await store.close()
            raise
        return app

    async def stop(self) -> None:
        """Hand over leadership, end the calls, close the store."""
        _log.info("stopping")
        await self._health.enter_graceful_shutdown()
        await self.instance.stop()
        await self._server.stop(STOP_GRACE_S)
        await self._admin.close()
        if self._metrics is not None:
            self._metrics.close()
        await self._store.close()
        if self._config.ports_file:
            _remove(Path(self._config.ports_file))

    async def _serve(self) -> None:
        admin_pb2_grpc.add_AdminServicer_to_server(self._admin, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._xds.register(self._server)
        names = (_ADMIN_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        ports = {"grpc": self.address, "pid": os.getpid()}
        if self._config.metrics:
            self._metrics = _metrics_page(self._config, self.instance)
            host, _ = split_address("metrics", self._config.metrics)
            ports["metrics"] = f"{host}:{self._metrics.port}"
        await self._server.start()
        self.instance.start()
        for name in ("", _ADMIN_SERVICE, ADS_SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if self._config.ports_file:
            _write_atomically(Path(self._config.ports_file), orjson.dumps(ports))
        _log.info("listening", grpc=self.address, cluster=self._config.cluster)

    def _sidecars(self) -> list[admin_pb2.SidecarStatus]:
        return [
            admin_pb2.SidecarStatus(
                id=sidecar.id,
                zone=sidecar.zone,
                address=sidecar.address,
                map_revision=sidecar.acked_revision,
                state=sidecar.state.value,
                detail=sidecar.detail,
                connected_since_ms=sidecar.connected_since_ms,
                version=sidecar.version,
                clock_skew_ms=sidecar.clock_skew_ms,
                clock_problem=sidecar.clock_problem,
            )
            for sidecar in self._xds.sidecars()
        ]


async def _open_store(config: Config) -> CoordinationStore:
    options = StoreOptions(
        session_timeout_ms=config.session_timeout_ms,
        connect_timeout_ms=config.session_timeout_ms * 3 // 2,
        cluster=config.cluster,
    )
    try:
        return await open_store(config.store, options)
    except (BadUrl, WrongStore) as error:
        raise BadConfig(f"store: {error}") from None


def _bind(server: grpc.aio.Server, config: Config) -> str:
    host, port = split_address("listen", config.listen)
    if host in _WILDCARDS and not config.advertise:
        raise BadConfig(
            f"listen is {config.listen}, which other instances cannot connect to;"
            " set advertise to an address of this host"
        )
    try:
        # gRPC would say no more than "failed to bind", after lines of its own.
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        socket.create_server((host.strip("[]"), port), family=family).close()
        return f"{host}:{server.add_insecure_port(f'{host}:{port}')}"
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadConfig(
            f"listen: cannot bind {config.listen}: {reason}; choose another address of this host,"
            " or port 0 for a free port"
        ) from None


def _metrics_page(config: Config, instance: ControlPlaneInstance) -> MetricsPage:
    host, port = split_address("metrics", config.metrics)
    collector = InstanceCollector(instance.view, lambda: instance.term is not None)
    try:
        return MetricsPage(host.strip("[]"), port, collector)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadConfig(f"metrics: cannot bind {config.metrics}: {reason}") from None


def _write_atomically(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_bytes(content)
        fresh.replace(path)
    except OSError as error:
        raise BadConfig(f"ports_file: cannot write {path}: {error.strerror}") from None


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def run_until(stopping: asyncio.Event, config: Config) -> None:
    """Run a control plane until `stopping` is set."""
    app = await App.start(config)
    try:
        await stopping.wait()
    finally:
        await app.stop()
