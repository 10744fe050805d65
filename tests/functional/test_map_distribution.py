"""The map on its way from a control plane to sidecars, over real gRPC streams on loopback."""

import asyncio
import dataclasses
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from buckets.bucket_map import BucketMap, Owner
from buckets.codec import RESOURCE_TYPES, encode_entry
from control_plane.xds.server import DELTA_METHOD, SERVER_OPTIONS, SERVICE, XdsService
from control_plane.xds.subscription import SyncState
from protos.dabbawala.v1 import discovery_pb2
from sidecar.background.map_feed import FeedIdentity, FeedTimes, MapFeed
from sidecar.core.map_assembly import MapAssembly
from tests.support.maps import make_map, move_bucket, with_bucket

METHOD = f"/{SERVICE}/{DELTA_METHOD}"
QUICK = FeedTimes(first_pause_s=0.02, longest_pause_s=0.1, answer_timeout_s=5.0)
BASE = make_map(nodes=9, buckets=256, keyspaces=("default", "places"))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def serving(
    first: BucketMap | None = BASE, *, port: int = 0, answer_timeout_s: float = 30.0
) -> AsyncIterator[tuple[XdsService, str]]:
    """A control plane's endpoint, and its address."""
    service = XdsService(now_ms, answer_timeout_s=answer_timeout_s)
    server = grpc.aio.server(options=[*SERVER_OPTIONS, ("grpc.so_reuseport", 0)])
    service.register(server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    if first is not None:
        service.publish(first)
    try:
        yield service, f"127.0.0.1:{bound}"
    finally:
        await server.stop(None)


class Sidecar:
    """A map feed that runs, and what it adopted."""

    def __init__(self, *addresses: str, number: int = 0, path: Path | None = None) -> None:
        self.maps: list[BucketMap] = []
        identity = FeedIdentity(f"s{number}", "test", "a", f"127.0.0.1:{number}", "1.2.3")
        self.feed = MapFeed(
            identity,
            addresses,
            self.maps.append,
            path=path,
            times=QUICK,
            rng=random.Random(number),
        )

    @property
    def revision(self) -> int:
        return self.feed.state.synced_revision


@asynccontextmanager
async def running(*sidecars: Sidecar) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(sidecar.feed.run()) for sidecar in sidecars]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(true: Callable[[], object], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.005)


class RawSubscriber:
    """A stream on which a test says what it likes."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            address, options=[("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        )
        self.call: Any = self._channel.stream_stream(METHOD)()

    async def send(self, **fields: Any) -> None:
        await self.call.write(discovery_pb2.DeltaDiscoveryRequest(**fields).SerializeToString())

    async def subscribe(self, name: str = "raw") -> None:
        for raw in MapAssembly("test").open_stream(discovery_pb2.DiscoveryNode(id=name)):
            await self.call.write(raw)

    async def receive(self) -> discovery_pb2.DeltaDiscoveryResponse:
        async with asyncio.timeout(5):
            raw = await self.call.read()
        assert raw is not grpc.aio.EOF, await self.call.details()
        return discovery_pb2.DeltaDiscoveryResponse.FromString(raw)

    async def acknowledge(
        self, response: discovery_pb2.DeltaDiscoveryResponse, **extra: Any
    ) -> None:
        await self.send(type_url=response.type_url, response_nonce=response.nonce, **extra)

    async def receive_all(self) -> list[discovery_pb2.DeltaDiscoveryResponse]:
        """One batch, acknowledged."""
        batch = [await self.receive()]
        while not batch[-1].system_version_info:
            batch.append(await self.receive())
        for response in batch:
            await self.acknowledge(response)
        return batch

    async def receive_to_end(self) -> None:
        """Reads until the stream's status is raised."""
        while True:
            await self.receive()

    async def close(self) -> None:
        self.call.cancel()
        await self._channel.close()


async def test_a_sidecar_receives_the_map_and_is_shown_as_synced() -> None:
    sidecar = Sidecar()
    async with serving() as (service, address):
        sidecar = Sidecar(address, number=7)
        async with running(sidecar):
            await until(lambda: service.sidecars() and service.sidecars()[0].state == "SYNCED")
            (view,) = service.sidecars()
    assert sidecar.maps[-1] == BASE
    assert (view.id, view.zone, view.address, view.version) == ("s7", "a", "127.0.0.1:7", "1.2.3")
    assert view.acked_revision == BASE.revision
    assert 0 <= now_ms() - view.connected_since_ms < 10_000


@pytest.mark.slow
async def test_200_subscribers_see_a_change() -> None:
    async with serving() as (service, address):
        sidecars = [Sidecar(address, number=number) for number in range(200)]
        async with running(*sidecars):
            await until(lambda: all(s.revision == 1 for s in sidecars), 30)
            changed = move_bucket(BASE, "default", 200)
            service.publish(changed)
            await until(lambda: all(s.revision == 2 for s in sidecars), 10)
            await until(lambda: all(v.acked_revision == 2 for v in service.sidecars()))
            assert len(service.sidecars()) == 200
    assert all(sidecar.maps[-1] == changed for sidecar in sidecars)


async def test_a_change_costs_one_range() -> None:
    async with serving() as (service, address):
        raw = RawSubscriber(address)
        await raw.subscribe()
        await raw.receive_all()
        await until(lambda: service.sidecars()[0].state == "SYNCED")
        service.publish(move_bucket(BASE, "default", 200))
        (response,) = await raw.receive_all()
        assert [resource.name for resource in response.resources] == ["range/default/003"]
        assert response.ByteSize() <= 1_000
        await raw.close()


async def test_changes_within_20_ms_arrive_as_one() -> None:
    async with serving() as (service, address):
        raw = RawSubscriber(address)
        await raw.subscribe()
        await raw.receive_all()
        await until(lambda: service.sidecars()[0].state == "SYNCED")
        changed = BASE
        for bucket in (1, 70, 140):
            changed = move_bucket(changed, "default", bucket)
            service.publish(changed)
        (response,) = await raw.receive_all()
        assert len(response.resources) == 3
        assert response.system_version_info == "4"
        await raw.close()


async def test_after_a_restart_of_the_control_plane_only_what_changed_is_sent() -> None:
    async with serving() as (_, address):
        sidecar = Sidecar(address)
        async with running(sidecar):
            await until(lambda: sidecar.revision == 1)
    changed = move_bucket(BASE, "places", 3)
    async with serving(changed) as (_, address):
        raw = RawSubscriber(address)
        # What this sidecar would send on connecting again.
        for request in sidecar.feed._assembly.open_stream(discovery_pb2.DiscoveryNode(id="s0")):
            await raw.call.write(request)
        batches = [await raw.receive_all()]
        while sum(len(batch) for batch in batches) < len(RESOURCE_TYPES):
            batches.append(await raw.receive_all())
        names = [r.name for batch in batches for response in batch for r in response.resources]
        assert names == ["range/places/000"]
        await raw.close()


async def test_a_sidecar_survives_a_restart_of_its_control_plane() -> None:
    async with serving() as (_, address):
        sidecar = Sidecar(address)
        task = asyncio.create_task(sidecar.feed.run())
        await until(lambda: sidecar.revision == 1)
    await until(lambda: sidecar.feed.state.connected_to == "")
    assert sidecar.feed.current == BASE
    changed = move_bucket(BASE, "default", 5)
    async with serving(changed, port=int(address.rpartition(":")[2])):
        await until(lambda: sidecar.maps[-1] == changed)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_sidecar_goes_to_another_control_plane_when_one_is_gone() -> None:
    async with serving() as (first, one), serving() as (second, other):
        sidecar = Sidecar(one, other, "127.0.0.1:1")
        async with running(sidecar):
            await until(lambda: sidecar.feed.state.connected_to)
            assert sidecar.feed.state.connected_to in (one, other)
            assert len(first.sidecars()) + len(second.sidecars()) == 1


async def test_a_control_plane_without_a_map_says_nothing() -> None:
    async with serving(None) as (service, address):
        sidecar = Sidecar(address)
        async with running(sidecar):
            await until(service.sidecars)
            assert service.sidecars()[0].state is SyncState.STALE
            assert sidecar.maps == []
            service.publish(BASE)
            await until(lambda: sidecar.maps == [BASE])


async def test_a_bad_resource_is_named_and_the_others_get_through() -> None:
    async with serving() as (service, address):
        sidecar = Sidecar(address)
        async with running(sidecar):
            await until(lambda: sidecar.revision == 1)
            bucket = BASE.keyspaces["default"].buckets[70]
            twice = dataclasses.replace(bucket, epoch=2, owners=(bucket.owners[0],) * 3)
            service.publish(move_bucket(with_bucket(BASE, "default", twice), "places", 9))
            await until(lambda: service.sidecars()[0].state is SyncState.REJECTED)
            await until(lambda: sidecar.maps[-1].keyspaces["places"].buckets[9].epoch == 2)
            (view,) = service.sidecars()
            assert view.detail.startswith("range/default/001: bucket 70 names a node twice")
            assert sidecar.maps[-1].keyspaces["default"].buckets[70] == bucket
            assert list(sidecar.feed.state.refused) == ["range/default/001"]

            mended = dataclasses.replace(bucket, epoch=3)
            service.publish(
                dataclasses.replace(with_bucket(sidecar.maps[-1], "default", mended), revision=9)
            )
            await until(lambda: service.sidecars()[0].state is SyncState.SYNCED)
            assert sidecar.maps[-1].keyspaces["default"].buckets[70] == mended
            assert service.sidecars()[0].detail == ""
            assert sidecar.feed.state.refused == {}


async def test_a_rollback_is_refused() -> None:
    newer = move_bucket(BASE, "default", 70)
    async with serving(newer) as (service, address):
        sidecar = Sidecar(address)
        async with running(sidecar):
            await until(lambda: sidecar.revision == 2)
            service.publish(dataclasses.replace(BASE, revision=3))
            await until(lambda: service.sidecars()[0].state is SyncState.REJECTED)
            assert "EPOCH_LOWER" in service.sidecars()[0].detail
    assert sidecar.maps == [newer]


async def test_the_loss_of_a_keyspace_is_refused() -> None:
    async with serving() as (service, address):
        sidecar = Sidecar(address)
        async with running(sidecar):
            await until(lambda: sidecar.revision == 1)
            left = {"default": BASE.keyspaces["default"]}
            service.publish(dataclasses.replace(BASE, revision=2, keyspaces=left))
            await until(lambda: service.sidecars()[0].state is SyncState.REJECTED)
    assert sidecar.maps == [BASE]


async def test_a_map_of_another_cluster_is_refused() -> None:
    async with serving(dataclasses.replace(BASE, cluster="other")) as (service, address):
        sidecar = Sidecar(address)
        async with running(sidecar):
            await until(
                lambda: service.sidecars() and service.sidecars()[0].state is SyncState.REJECTED
            )
            assert "cluster is 'other'" in service.sidecars()[0].detail
    assert sidecar.maps == []


async def test_a_subscriber_that_reads_nothing_holds_up_nobody_and_is_cut_off() -> None:
    async with serving(answer_timeout_s=1.0) as (service, address):
        silent = RawSubscriber(address)
        await silent.subscribe("silent")
        sidecar = Sidecar(address, number=1)
        async with running(sidecar):
            await until(lambda: sidecar.revision == 1)
            service.publish(move_bucket(BASE, "default", 1))
            await until(lambda: sidecar.revision == 2, 0.9)
            states = {view.id: view.state for view in service.sidecars()}
            assert states["silent"] is SyncState.STALE
            await until(lambda: [view.id for view in service.sidecars()] == ["s1"])
        with pytest.raises(grpc.aio.AioRpcError, match="connect again") as ended:
            await silent.receive_to_end()
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await silent.close()


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\xff", b"garbage" * 100, b"\x0a\x05ab"])
async def test_garbage_ends_its_own_stream_with_a_reason_and_no_other(raw: bytes) -> None:
    async with serving() as (service, address):
        sidecar = Sidecar(address)
        async with running(sidecar):
            await until(lambda: sidecar.revision == 1)
            hostile = RawSubscriber(address)
            await hostile.call.write(raw)
            assert await hostile.call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "not a DeltaDiscoveryRequest" in await hostile.call.details()
            await hostile.close()
            service.publish(move_bucket(BASE, "default", 1))
            await until(lambda: sidecar.revision == 2)
            assert sidecar.feed.state.connected_to


async def test_a_subscriber_without_a_name_is_refused() -> None:
    async with serving() as (_, address):
        raw = RawSubscriber(address)
        await raw.send(type_url=RESOURCE_TYPES[0])
        assert await raw.call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "node.id" in await raw.call.details()
        await raw.close()


async def test_two_sidecars_of_one_id_are_pointed_out() -> None:
    async with serving() as (service, address):
        first, second = Sidecar(address), Sidecar(address)
        async with running(first, second):
            await until(lambda: first.revision == second.revision == 1)
            (view,) = service.sidecars()
            assert "2 connections use this id" in view.detail


async def test_a_sidecar_starts_from_its_file_without_any_control_plane(tmp_path: Path) -> None:
    path = tmp_path / "state" / "map"
    async with serving() as (_, address):
        before = Sidecar(address, path=path)
        async with running(before):
            await until(path.exists)
    after = Sidecar("127.0.0.1:1", path=path)
    assert after.feed.load() == BASE
    assert after.feed.state.source == "file"
    async with running(after):
        await until(lambda: after.feed.state.last_error)
    assert "UNAVAILABLE" in after.feed.state.last_error
    assert after.maps == [BASE]


@pytest.mark.parametrize("damage", [b"", b"dabbamap1\n", b"x" * 1000])
async def test_a_damaged_file_is_passed_over_and_replaced(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "map"
    path.write_bytes(damage)
    async with serving() as (_, address):
        sidecar = Sidecar(address, path=path)
        assert sidecar.feed.load() is None
        assert "DAMAGED" in sidecar.feed.state.file_error
        async with running(sidecar):
            await until(lambda: path.read_bytes() != damage)
    assert Sidecar(path=path).feed.load() == BASE


async def test_a_file_of_another_cluster_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "map"
    other = MapAssembly("other")
    path.write_bytes(Sidecar().feed._assembly.save() or b"")
    foreign = dataclasses.replace(BASE, cluster="other")
    async with serving(foreign) as (_, address):
        feed = MapFeed(FeedIdentity("s", "other", "a"), [address], lambda _: None, path=path)
        task = asyncio.create_task(feed.run())
        await until(lambda: feed.current is not None and path.stat().st_size)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert other.load(path.read_bytes()) == foreign
    sidecar = Sidecar(path=path)
    assert sidecar.feed.load() is None
    assert "OTHER_CLUSTER" in sidecar.feed.state.file_error


async def test_an_entry_learnt_from_a_replica_is_adopted_at_once_and_kept(tmp_path: Path) -> None:
    newer = move_bucket(BASE, "default", 70)
    bucket = newer.keyspaces["default"].buckets[70]
    path = tmp_path / "map"
    async with serving() as (service, address):
        sidecar = Sidecar(address, path=path)
        async with running(sidecar):
            await until(lambda: sidecar.revision == 1)
            assert sidecar.feed.learn(encode_entry("default", bucket, newer.nodes))
            assert not sidecar.feed.learn(encode_entry("default", bucket, newer.nodes))
            assert not sidecar.feed.learn(b"damaged")
            assert sidecar.maps[-1].keyspaces["default"].buckets[70] == bucket
            # An unrelated change, from a control plane that knows nothing of the entry yet.
            service.publish(move_bucket(BASE, "default", 71))
            await until(lambda: sidecar.revision == 2)
            assert sidecar.maps[-1].keyspaces["default"].buckets[70] == bucket
            assert sidecar.maps[-1].keyspaces["default"].buckets[71].epoch == 2
        await until(lambda: Sidecar(path=path).feed.load() is not None)


def test_an_entry_that_is_not_newer_or_names_unknown_owners_is_not_believed() -> None:
    assembly = MapAssembly("test")
    sidecar = Sidecar()
    sidecar.feed._assembly = assembly
    bucket = BASE.keyspaces["default"].buckets[70]
    entry = encode_entry("default", dataclasses.replace(bucket, epoch=9), BASE.nodes)
    assert not sidecar.feed.learn(entry)  # no map yet
    older = dataclasses.replace(bucket, epoch=0, owners=(Owner(1, 1),))
    assert not sidecar.feed.learn(encode_entry("default", older, BASE.nodes))
