"""What every worker process of a sidecar runs: the coordinator, its links, and both doors."""

import asyncio
import contextlib
import gc
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import SystemRandom

import structlog
from grpc_health.v1.health_pb2 import HealthCheckResponse

from buckets.bucket_map import BucketMap
from protos.dabbawala.v1 import data_pb2
from replicas.version import WRITER_BYTES
from sidecar.clock_file import DurableClock
from sidecar.config import SidecarConfig
from sidecar.core.coordinator import Coordinator
from sidecar.hinting import Hinting
from sidecar.listeners import Listeners, address_of
from sidecar.net.data_service import DataService
from sidecar.net.grpc_door import GrpcDoor
from sidecar.net.grpc_rights import GrpcRights
from sidecar.net.grpc_standard import HealthService, standard_routes
from sidecar.net.grpcio_door import GrpcioDoor
from sidecar.net.links import Links
from sidecar.net.peers import peer_of
from sidecar.net.resp_door import RespDoor
from sidecar.net.tls import HANDSHAKE_TIMEOUT_S, make_tls
from sidecar.redis.limits import RespLimits
from sidecar.rights import Denials
from sidecar.rights_file import make_rights
from sidecar.session_key_file import session_keys
from sidecar.stats import WorkerStats, worker_stats
from sidecar.watched_files import keep_fresh
from sidecar.wire.grpc import GrpcLimits, GrpcRoutes

log = structlog.get_logger()

TICK_S = 0.005
KEEP_CLOCK_S = 0.1
MS_NS = 1_000_000
SERVICE_NAME = data_pb2.DESCRIPTOR.services_by_name["Data"].full_name


class DataPath:
    """One worker's data path. `learn` takes map entries (BucketEntry bytes) seen on replicas.

    `worker` is the worker's number; 0 is the first process.
    """

    def __init__(
        self,
        config: SidecarConfig,
        clock_file: Path | None,
        learn: Callable[[bytes], object],
        *,
        worker: int = 0,
    ) -> None:
        self._config = config
        self._worker = worker
        self._clock = DurableClock(secrets.token_bytes(WRITER_BYTES), clock_file)
        self.core = Coordinator(
            zone=config.zone,
            clock=self._clock,
            wall_ms=wall_ms,
            monotonic=time.monotonic,
            dice=SystemRandom(),
            default_timeout_ms=config.default_timeout_ms,
        )
        self.core.sessions.keys = session_keys(config, worker)
        time_ms = self.core.clocks.time_ms  # the wall clock, unless the replicas contradict it
        self.hints = Hinting(config, worker, self.core, wall_ms=time_ms, monotonic=time.monotonic)
        self.health = HealthService()
        self.tls = make_tls(config)
        self.rights = make_rights(config)
        self._grpc_rights = GrpcRights(self.rights.rights) if self.rights is not None else None
        self.grpc_door = self._make_grpc_door()
        limits = RespLimits(
            connections=config.max_connections,
            half_command_ms=config.half_sent_timeout_ms,
            stalled_reader_ms=config.unread_timeout_ms,
            auth_timeout_ms=config.auth_timeout_ms,
        )
        rights = self.rights.rights if self.rights is not None else None
        self.redis_door = RespDoor(self.core, limits, time_ms, rights)  # needs the running loop
        self._links: Links | None = None
        self._learn = learn
        if self.tls is not None:
            self.redis_door.refusal = self.tls.refusal
        self._tcp: Listeners | None = None  # for new servers with new certificates
        self._tcp_servers: list[asyncio.Server] = []
        self._servers: list[asyncio.Server] = []
        self._timers: list[asyncio.Task[None]] = []
        self.draining = False

    def _make_grpc_door(self) -> GrpcDoor | GrpcioDoor:
        soon = asyncio.get_running_loop().call_soon
        service = DataService(self.core, time.monotonic, soon, self._grpc_rights)
        data = GrpcRoutes(unary=service.handlers(), stream=service.streams())
        routes = data | standard_routes(self.health, [SERVICE_NAME])
        config = self._config
        usual = GrpcLimits()
        half_sent_ns = config.half_sent_timeout_ms * MS_NS
        limits = GrpcLimits(
            max_connections=config.max_connections,
            request_timeout_ns=half_sent_ns,
            preface_timeout_ns=min(half_sent_ns, usual.preface_timeout_ns),
            partial_timeout_ns=min(half_sent_ns, usual.partial_timeout_ns),
            stall_timeout_ns=config.unread_timeout_ms * MS_NS,
            max_message_bytes=config.grpc_max_message_bytes,
            max_connection_age_ns=config.grpc_connection_age_ms * MS_NS,
            connection_grace_ns=config.grpc_connection_grace_ms * MS_NS,
        )
        if config.grpc_engine == "grpcio":
            theirs = GrpcioDoor(routes, limits, self.tls)
            theirs.asks_who = self.rights is not None
            return theirs
        door = GrpcDoor(routes, limits, time.monotonic_ns)
        if self.tls is not None:
            door.refusal = self.tls.refusal
        if self.rights is not None:
            door.peer_of = peer_of
        return door

    async def start(self, listeners: Listeners) -> None:
        """Open the doors; calls wait for the first map up to their deadlines."""
        self._links = Links(self.core, self._learn)
        self.core.learner = self._links
        self.hints.start()
        loop = asyncio.get_running_loop()
        self._tcp = listeners
        await self._listen()
        if isinstance(self.grpc_door, GrpcioDoor):
            await self._listen_by_grpcio(self.grpc_door, listeners)
        elif listeners.grpc_unix is not None:
            unix = await loop.create_unix_server(self.grpc_door, sock=listeners.grpc_unix)
            self._servers.append(unix)
        if listeners.redis_unix is not None:
            await self.redis_door.listen_socket(listeners.redis_unix)
        self._timers = [
            asyncio.create_task(_every(TICK_S, self.core.tick), name="tick"),
            *self._file_timers(),
            asyncio.create_task(_every(KEEP_CLOCK_S, self._clock.keep_ahead), name="clock"),
        ]
        _spare_the_collector()

    def _file_timers(self) -> list[asyncio.Task[None]]:
        timers = []
        if self.tls is not None:
            timers.append(asyncio.create_task(keep_fresh(self.tls, self._listen), name="tls"))
        if self.rights is not None:
            keeping = keep_fresh(self.rights, self._use_rights)
            timers.append(asyncio.create_task(keeping, name="rights"))
        return timers

    async def _use_rights(self) -> None:
        """Judge by the new rights what comes from now on."""
        if self.rights is not None and self._grpc_rights is not None:
            self._grpc_rights.use(self.rights.rights)
            self.redis_door.use_rights(self.rights.rights)

    async def _listen(self) -> None:
        """Take TCP clients, with the certificates of now; those that are here stay as they are."""
        if self._tcp is None or self.draining:
            return
        before, tls = self._tcp_servers, self.tls.made if self.tls is not None else None
        with contextlib.ExitStack() as half_done:  # those of before go on alone
            # A socket of its own for each server, for it closes it: the queue behind them is one.
            redis = await self.redis_door.listen_socket(
                self._tcp.redis.dup(), tls=tls.redis if tls is not None else None
            )
            half_done.callback(redis.close)
            servers = [redis]
            if isinstance(self.grpc_door, GrpcDoor):
                grpc = await asyncio.get_running_loop().create_server(
                    self.grpc_door,
                    sock=self._tcp.grpc.dup(),
                    ssl=tls.grpc if tls is not None else None,
                    ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls is not None else None,
                )
                servers.append(grpc)
            half_done.pop_all()
        self._tcp_servers = servers
        for server in before:
            server.close()

    async def _listen_by_grpcio(self, door: GrpcioDoor, listeners: Listeners) -> None:
        """grpcio binds by itself: it takes over the addresses that were held for it."""
        address, path = address_of(listeners.grpc), ""
        listeners.grpc.close()
        if listeners.grpc_unix is not None:
            listeners.grpc_unix.close()
            if not self._worker:  # a Unix socket can be bound once
                path = self._config.grpc_socket
                Path(path).unlink(missing_ok=True)  # noqa: ASYNC240  # at the start, once
        await door.listen(address, path)

    def adopt(self, bucket_map: BucketMap) -> None:
        """Route by a new map."""
        if self._links is None:
            raise RuntimeError("DataPath.start comes before DataPath.adopt")
        joined, left = self.core.adopt(bucket_map)
        self._links.follow(joined, left)
        log.info("map adopted", revision=bucket_map.revision, nodes=len(bucket_map.nodes))
        if not self.draining:
            for service in ("", SERVICE_NAME):
                self.health.set(service, HealthCheckResponse.SERVING)

    def ready(self) -> str:
        """Empty when requests can be served; else what is missing."""
        if self.draining:
            return "draining"
        if self.core.map is None:
            return "no map yet"
        peers = self.core.peers.values()
        waiting = [p.node.id for p in peers if not p.tried]
        if waiting:
            return f"connecting to {', '.join(sorted(waiting)[:5])}"
        if peers and not any(peer.counts for peer in peers):
            return "no node answers: " + next(iter(peers)).explanation
        return ""

    def stats(self) -> WorkerStats:
        """What this worker counted."""
        hints = self.hints.view()
        denials = self._grpc_rights.denials if self._grpc_rights is not None else Denials()
        stats = worker_stats(self.core, self.grpc_door, self.redis_door, hints, denials)
        stats.tls_problem = self.tls.problem if self.tls is not None else ""
        stats.rights_problem = self.rights.problem if self.rights is not None else ""
        return stats

    async def drain(self) -> None:
        """Take no new connection, finish what is under way, then close; bounded in time."""
        if self.draining:
            return
        self.draining = True
        for service in ("", SERVICE_NAME):
            self.health.set(service, HealthCheckResponse.NOT_SERVING)
        for server in [*self._servers, *self._tcp_servers]:
            server.close()
        if self._tcp is not None:
            self._tcp.grpc.close()
            self._tcp.redis.close()
        timeout_s = self._config.drain_timeout_ms / 1000
        self.grpc_door.drain()
        _, late = await asyncio.wait(
            {
                asyncio.create_task(self.grpc_door.wait_closed()),
                asyncio.create_task(self.redis_door.drain(timeout_s)),
            },
            timeout=timeout_s,
        )
        if late:
            log.warning("drain timed out; closing connections", active=self.core.active)
        self.grpc_door.close()
        await self.redis_door.close()

    async def stop(self, replayed: Callable[[], Awaitable[None]] | None = None) -> None:
        """Drain, replay hints in what is left of the time, then let go of the replicas.

        `replayed` is awaited while it is still known what hints are left.
        """
        ends_at = time.monotonic() + self._config.drain_timeout_ms / 1000
        await self.drain()
        await self.hints.finish(max(0.0, ends_at - time.monotonic()))
        if replayed is not None:
            await replayed()
        for timer in self._timers:
            timer.cancel()
        if self._links is not None:
            await self._links.close()
        await self.hints.close()
        self._clock.settle()


def _spare_the_collector() -> None:
    """Have Python look for cycles rarely: operations leave none, and modules never go.

    With the defaults 18 % of the time of pipelined reads went into looking; this saves 8 to 10 %.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def wall_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


async def _every(interval_s: float, action: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            action()
        except Exception:  # without its timer no operation would ever time out
            log.exception("a timer's action failed", action=getattr(action, "__qualname__", ""))
