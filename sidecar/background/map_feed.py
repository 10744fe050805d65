"""Keeps the sidecar's map fresh: one stream to one control plane, the disk, and replicas' entries.

Nothing waits for this task. Without any control plane the last good map serves for ever; with one
that sends nonsense, too. Control planes are tried in random order with a jittered, growing pause,
so that a thousand sidecars do not come back in the same moment.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import grpc
import structlog

from buckets.bucket_map import BucketMap
from buckets.codec import decode_entry
from buckets.errors import CodecError
from buckets.validate import NO_LIMITS, ChangeLimits
from protos.dabbawala.v1 import discovery_pb2
from sidecar.background.map_file import MapFile
from sidecar.core.map_assembly import MapAssembly, StreamBroken
from sidecar.core.saved_map import SavedMapError

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
AGENT: Final = "dabba-sidecar"
CHANNEL_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # http_proxy in the environment would capture loopback, too
    ("grpc.use_local_subchannel_pool", 1),  # or a new channel would inherit the old one's backoff
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 16 << 20),
)

_Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"
_log = structlog.get_logger("map_feed")


@dataclass(frozen=True, slots=True)
class FeedIdentity:
    """Who this sidecar is, as the control plane shows it."""

    id: str
    cluster: str
    zone: str
    address: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class FeedTimes:
    """How patient the feed is, in seconds."""

    first_pause_s: float = 0.2
    longest_pause_s: float = 5.0
    answer_timeout_s: float = 10.0  # for the first response of a stream
    report_every_s: float = 2.0  # what changed of `report` is told so often


DEFAULT_TIMES: Final = FeedTimes()


@dataclass(slots=True)
class FeedState:
    """For /ready and /map. Times are those of the event loop, in seconds."""

    connected_to: str = ""  # the control plane, or "" for none now
    source: str = ""  # of the current map: "file", "control plane", "replica"; "" for no map
    synced_revision: int = 0
    confirmed_at_s: float = 0.0  # when a control plane last sent anything; 0: never
    refused: dict[str, str] = field(default_factory=dict)  # why, by resource ("map": all of it)
    last_error: str = ""  # of the connection
    file_error: str = ""


class MapFeed:
    """Calls `on_map` with every map adopted. Start with `load()`, then run `run()` as a task."""

    def __init__(
        self,
        identity: FeedIdentity,
        control_planes: Sequence[str],
        on_map: Callable[[BucketMap], None],
        *,
        path: Path | None = None,
        limits: ChangeLimits = NO_LIMITS,
        times: FeedTimes = DEFAULT_TIMES,
        rng: random.Random | None = None,
        report: Callable[[], Mapping[str, float | str]] = dict,
    ) -> None:
        """`report` says how this sidecar fares: the control plane is told whenever it changes."""
        self.state = FeedState()
        self._identity = identity
        self._control_planes = list(control_planes)
        self._on_map = on_map
        self._file = MapFile(path) if path else None
        self._times = times
        self._rng = rng or random.Random()
        self._assembly = MapAssembly(identity.cluster, limits)
        self._unsaved = asyncio.Event()
        self._report = report
        self._writing = asyncio.Lock()

    @property
    def current(self) -> BucketMap | None:
        """The map in use."""
        return self._assembly.current

    def saved_map(self) -> bytes | None:
        """The current map as saved_map.decode_saved_map reads it, for worker processes."""
        return self._assembly.save()

    def age_s(self, now_s: float) -> float | None:
        """Seconds since a control plane was last heard; 0 while connected, None if it never was."""
        if self.state.connected_to:
            return 0.0
        return now_s - self.state.confirmed_at_s if self.state.confirmed_at_s else None

    def load(self) -> BucketMap | None:
        """Adopts the map on disk, if there is a good one; `state.file_error` says why not."""
        if self._file is None:
            return None
        try:
            raw = self._file.read()
            if raw is None:
                return None
            loaded = self._assembly.load(raw)
        except (OSError, SavedMapError) as error:
            self.state.file_error = str(error)
            _log.warning("saved map not used", why=str(error))
            return None
        self._adopted(loaded, "file")
        return loaded

    def learn(self, raw_entry: bytes) -> bool:
        """Takes a bucket's entry (BucketEntry bytes) that a replica sent; True if it was news."""
        try:
            adopted = self._assembly.learn(decode_entry(raw_entry))
        except CodecError as error:
            _log.warning("entry of a replica not used", why=str(error))
            return False
        if adopted is None:
            return False
        self._adopted(adopted, "replica")
        self._unsaved.set()
        return True

    async def run(self) -> None:
        """Follow the control planes until cancelled; never raises for anything outside."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_file())
            if self._control_planes:
                tasks.create_task(self._follow_any())

    # --- control planes ---------------------------------------------------------------------

    async def _follow_any(self) -> None:
        pause_s = self._times.first_pause_s
        while True:
            for address in self._rng.sample(self._control_planes, len(self._control_planes)):
                if await self._try(address):
                    pause_s = self._times.first_pause_s
            await asyncio.sleep(self._rng.uniform(pause_s / 2, pause_s))
            pause_s = min(2 * pause_s, self._times.longest_pause_s)

    async def _try(self, address: str) -> bool:
        """Follows one control plane until it fails; whether it ever answered."""
        before_s = self.state.confirmed_at_s
        try:
            async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
                await self._follow(address, channel)
        except grpc.aio.AioRpcError as error:
            self.state.last_error = f"{address}: {error.code().name}: {error.details()}"
        except (StreamBroken, TimeoutError) as error:
            self.state.last_error = f"{address}: {error}"
        finally:
            self.state.connected_to = ""
        _log.warning("control plane lost", address=address, why=self.state.last_error)
        return self.state.confirmed_at_s > before_s

    async def _follow(self, address: str, channel: grpc.aio.Channel) -> None:
        call: _Call = channel.stream_stream(METHOD)()
        try:
            told = self._node()
            for request in self._assembly.open_stream(told):
                await self._write(call, request)
            await self._take(await self._first_response(call), call)
            self.state.connected_to = address
            self.state.last_error = ""
            _log.info("control plane found", address=address)
            with self._reporting(call, told):
                while True:
                    response = await call.read()
                    await self._take(response, call)
        finally:
            call.cancel()

    @contextlib.contextmanager
    def _reporting(self, call: _Call, told: discovery_pb2.DiscoveryNode) -> Iterator[None]:
        task = asyncio.create_task(self._report_changes(call, told), name="map-feed-report")
        try:
            yield
        finally:
            task.cancel()

    async def _report_changes(self, call: _Call, told: discovery_pb2.DiscoveryNode) -> None:
        # A stream that fails is noticed by who reads it.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await asyncio.sleep(self._times.report_every_s)
                node = self._node()
                if node != told:
                    await self._write(call, self._assembly.name_again(node))
                    told = node

    async def _write(self, call: _Call, request: bytes) -> None:
        async with self._writing:
            await call.write(request)

    async def _first_response(self, call: _Call) -> object:
        try:
            async with asyncio.timeout(self._times.answer_timeout_s):
                return await call.read()
        except TimeoutError:
            wait_s = self._times.answer_timeout_s
            raise StreamBroken(f"no map within {wait_s:g} s; trying the next one") from None

    async def _take(self, response: object, call: _Call) -> None:
        if not isinstance(response, bytes):  # the end of the stream
            raise StreamBroken(f"stream ended: {await call.details() or 'without a word'}")
        step = self._assembly.on_response(response)
        self.state.confirmed_at_s = asyncio.get_running_loop().time()
        self.state.synced_revision = self._assembly.synced_revision
        self.state.refused = dict(self._assembly.refused)
        for why in self.state.refused.items():
            _log.warning("resource refused", resource=why[0], why=why[1])
        if step.adopted is not None:
            self._adopted(step.adopted, "control plane")
            self._unsaved.set()
        for reply in step.replies:
            await self._write(call, reply)

    def _node(self) -> discovery_pb2.DiscoveryNode:
        node = discovery_pb2.DiscoveryNode(
            id=self._identity.id,
            cluster=self._identity.cluster,
            locality=discovery_pb2.DiscoveryLocality(zone=self._identity.zone),
            user_agent_name=AGENT,
            user_agent_version=self._identity.version,
        )
        node.metadata.update({"address": self._identity.address, **self._report()})
        return node

    def _adopted(self, adopted: BucketMap, source: str) -> None:
        self.state.source = source
        self._on_map(adopted)

    # --- the disk ---------------------------------------------------------------------------

    async def _keep_file(self) -> None:
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            raw = self._assembly.save()
            if self._file is None or raw is None:
                continue
            try:
                await asyncio.to_thread(self._file.write, raw)
                self.state.file_error = ""
            except OSError as error:
                self.state.file_error = f"map not saved: {error}"
                _log.warning("map not saved", why=str(error))
