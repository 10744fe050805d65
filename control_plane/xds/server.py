"""The delta ADS endpoint: every subscriber has its own writer, so that a slow one holds up nobody.

Requests and responses cross gRPC as bytes. Requests are read with our own few messages of the
protocol: Envoy's definitions, generated for Python, take 2.8 ms for the first request of a sidecar
that resumes (ours: 0.05 ms), which a thousand sidecars send at once when an instance restarts.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc
import structlog

from buckets.bucket_map import BucketMap
from control_plane.xds.errors import BadRequest, SubscriptionError, TooSlow
from control_plane.xds.resources import Snapshot, difference, make_snapshot
from control_plane.xds.subscription import Subscription, SyncState

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
DELTA_METHOD: Final = "DeltaAggregatedResources"
COALESCE_S: Final = 0.02
# A subscriber that does not read or acknowledge for so long is cut off; it connects and resumes.
ANSWER_TIMEOUT_S: Final = 30.0
STREAMS_BOUND: Final = 4096
# Sidecars ping their stream to notice an instance that is gone; gRPC's default forbids that.
SERVER_OPTIONS: Final = (
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
_log = structlog.get_logger("xds")


@dataclass(frozen=True, slots=True)
class SidecarView:
    """One subscriber, as the admin API shows it. `connected_since_ms` is Unix milliseconds."""

    id: str
    zone: str
    address: str
    version: str
    acked_revision: int
    state: SyncState
    detail: str
    connected_since_ms: int
    clock_skew_ms: float | None = None
    clock_problem: str = ""


class _Stream:
    """One subscriber's connection."""

    def __init__(self, connected_since_ms: int) -> None:
        self.subscription = Subscription()
        self.wake = asyncio.Event()
        self.connected_since_ms = connected_since_ms
        self.sent_at_s = 0.0  # of the batch in flight, by the loop's clock


class XdsService:
    """Publishes maps to all who subscribe. `now_ms` answers Unix milliseconds."""

    def __init__(
        self, now_ms: Callable[[], int], *, answer_timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self._now_ms = now_ms
        self._answer_timeout_s = answer_timeout_s
        self._streams: set[_Stream] = set()
        self._snapshot: Snapshot | None = None
        self._published: BucketMap | None = None
        self._flush: asyncio.TimerHandle | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the endpoint to a server that is not started yet. Give it SERVER_OPTIONS."""
        handler: _Handler = grpc.stream_stream_rpc_method_handler(self._serve)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {DELTA_METHOD: handler}),)
        )

    def publish(self, bucket_map: BucketMap) -> None:
        """Sends a map to everybody; of several within 20 ms only the last. Before the first call
        subscribers wait: an instance that knows no map yet must not say that there is nothing."""
        self._published = bucket_map
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(COALESCE_S, self._encode)

    def sidecars(self) -> list[SidecarView]:
        """Everyone connected to this instance, by id."""
        newest: dict[str, tuple[_Stream, int]] = {}
        for stream in sorted(self._streams, key=lambda each: each.connected_since_ms):
            identity = stream.subscription.identity
            if identity is not None and stream.subscription.subscribed:
                count = newest[identity.id][1] if identity.id in newest else 0
                newest[identity.id] = (stream, count + 1)
        return [self._view(stream, count) for _, (stream, count) in sorted(newest.items())]

    def _view(self, stream: _Stream, count: int) -> SidecarView:
        subscription = stream.subscription
        identity = subscription.identity
        if identity is None:
            raise RuntimeError("only streams that named themselves are shown")
        also = f"{count} connections use this id; give each sidecar its own" if count > 1 else ""
        return SidecarView(
            id=identity.id,
            zone=identity.zone,
            address=identity.address,
            version=identity.version,
            acked_revision=subscription.acked_revision,
            state=subscription.state(self._snapshot),
            detail="; ".join(filter(None, (subscription.detail, also))),
            connected_since_ms=stream.connected_since_ms,
            clock_skew_ms=identity.clock_skew_ms,
            clock_problem=identity.clock_problem,
        )

    def _encode(self) -> None:
        self._flush = None
        if self._published is None:
            return
        snapshot = make_snapshot(self._published, self._snapshot)
        old = self._snapshot
        if old is not None and old.revision == snapshot.revision and not difference(old, snapshot):
            return
        self._snapshot = snapshot
        for stream in self._streams:
            stream.wake.set()

    async def _serve(self, _requests: object, context: _Context) -> None:
        if len(self._streams) >= STREAMS_BOUND:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{STREAMS_BOUND} subscribers are connected here already; use another instance",
            )
        stream = _Stream(self._now_ms())
        self._streams.add(stream)
        try:
            await self._run(stream, context)
        except SubscriptionError as error:
            _log.warning("stream refused", peer=context.peer(), why=str(error))
            code = (
                grpc.StatusCode.INVALID_ARGUMENT
                if isinstance(error, BadRequest)
                else grpc.StatusCode.DEADLINE_EXCEEDED
            )
            await context.abort(code, str(error))
        finally:
            self._streams.discard(stream)

    async def _run(self, stream: _Stream, context: _Context) -> None:
        """Reads and writes until either ends; raises what ended it."""
        tasks = [
            asyncio.create_task(self._read(stream, context)),
            asyncio.create_task(self._write(stream, context)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome

    async def _read(self, stream: _Stream, context: _Context) -> None:
        while (raw := await context.read()) is not grpc.aio.EOF:
            stream.subscription.on_request(raw)
            stream.wake.set()

    async def _write(self, stream: _Stream, context: _Context) -> None:
        while True:
            await self._woken(stream)
            if self._snapshot is None:
                continue
            batch = stream.subscription.next_batch(self._snapshot)
            if batch:
                stream.sent_at_s = asyncio.get_running_loop().time()
            for response in batch:
                await self._send(response, context)

    async def _woken(self, stream: _Stream) -> None:
        waits = stream.subscription.in_flight
        deadline_s = stream.sent_at_s + self._answer_timeout_s if waits else None
        try:
            async with asyncio.timeout_at(deadline_s):
                await stream.wake.wait()
        except TimeoutError:
            raise TooSlow(f"no answer within {self._answer_timeout_s:g} s; connect again") from None
        stream.wake.clear()

    async def _send(self, response: bytes, context: _Context) -> None:
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                await context.write(response)
        except TimeoutError:
            raise TooSlow(f"nothing read for {self._answer_timeout_s:g} s; connect again") from None
