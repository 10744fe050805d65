"""Repair and admission against real servers: what differs is moved, what was lost comes back."""

import time
from pathlib import Path

import grpc
import pytest
import redis

from buckets.bucket_map import Bucket
from control_plane.app import App
from control_plane.controllers.cluster_state import StoredNode
from control_plane.jobs.job import DONE, KEPT, RUNNING
from control_plane.jobs.repair import repaired_path
from control_plane.metrics import InstanceCollector
from protos.dabbawala.v1 import admin_pb2, admin_pb2_grpc
from replicas.bucket_copy import Copy, Pace
from replicas.client import ReplicaClient
from replicas.commands import pack_limits
from replicas.fence import Role
from replicas.layout import bucket_keys
from replicas.record import decode_record, encode_record
from replicas.version import HybridClock
from tests.support.control_planes import (
    DURABLE,
    Refusal,
    add_nodes,
    admin,
    create,
    eventually,
    running,
    until,
)
from tests.support.dying_control_planes import runs_until_back
from tests.support.replica_records import flip
from tests.support.servers import Server, Servers

pytestmark = pytest.mark.slow

BUCKETS = 16
LIMITS = pack_limits(500, 1 << 20)
CLOCK = HybridClock(b"a-writer")
OLD_MS = 60_000  # before now: no longer on its way


def node_of(app: App, node_id: str = "n0") -> StoredNode:
    return app.instance.feed.state.nodes[node_id]


def buckets(app: App) -> tuple[Bucket, ...]:
    return app.instance.feed.state.keyspaces["places"].keyspace.buckets


def record_now(value: bytes) -> bytes:
    return encode_record(CLOCK.next(int(time.time() * 1000) - OLD_MS), value)


async def copies(app: App, servers: list[Server], bucket: int) -> list[Copy]:
    """The copies of one bucket on all servers, as the map names them."""
    found = []
    state = app.instance.feed.state
    numbers = {known.node.port: number for number, known in state.by_number.items()}
    known = buckets(app)[bucket]
    lives = {owner.node: owner.incarnation for owner in (*known.owners, *known.pending)}
    for server in servers:
        client = await ReplicaClient.connect(server.host, server.port)
        number = numbers[server.port]
        found.append(
            Copy(
                client,
                bucket_keys("places", bucket),
                epoch=known.epoch,
                incarnation=lives.get(number, 1),
                pace=Pace(rest=0.0),
            )
        )
    return found


async def write(app: App, servers: list[Server], records: dict[bytes, bytes], bucket: int) -> None:
    for copy in await copies(app, servers, bucket):
        outcomes = await copy.write(records, LIMITS)
        assert set(outcomes.values()) <= {1, 2, 3}, outcomes
        copy.client.close()


async def contents(app: App, servers: list[Server], bucket: int) -> list[dict[bytes, bytes]]:
    found = []
    for copy in await copies(app, servers, bucket):
        fields = list(await copy.entries(1, [0]))
        found.append(await copy.read(fields))
        copy.client.close()
    return found


async def fill(app: App, servers: list[Server], each: int = 40) -> None:
    for bucket in range(BUCKETS):
        records = {b"k%d-%d" % (bucket, n): record_now(b"value") for n in range(each)}
        await write(app, servers, records, bucket)


async def finished(stub: "admin_pb2_grpc.AdminAsyncStub", job_id: str) -> admin_pb2.JobStatus:
    async def over() -> bool:
        [job] = (await stub.ListJobs(admin_pb2.ListJobsRequest(id=job_id))).jobs
        return job.state != RUNNING

    await eventually(over, "the job is over")
    [job] = (await stub.ListJobs(admin_pb2.ListJobsRequest(id=job_id))).jobs
    return job


async def all_equal(app: App, servers: list[Server]) -> None:
    for bucket in range(BUCKETS):
        first, *others = await contents(app, servers, bucket)
        assert first
        assert all(other == first for other in others), bucket


async def set_up(app: App, servers: list[Server], *, replicas: int = 3) -> None:
    async with admin(app.address) as stub:
        await add_nodes(stub, servers)
        await create(stub, buckets=BUCKETS, replication_factor=replicas)


async def test_a_repair_moves_only_what_differs_both_ways_and_heals(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        await fill(app, nodes)
        await write(app, nodes[:1], {b"konly-first": record_now(b"1")}, 3)
        await write(app, nodes[1:], {b"kall-but-first": record_now(b"2")}, 3)
        newer = record_now(b"newer")
        await write(app, nodes[2:], {b"k5-7": newer}, 5)
        [damaged] = await copies(app, nodes[1:2], 7)
        raw = (await damaged.read([b"k7-1"]))[b"k7-1"]
        await damaged.client.call(b"HSET", damaged.keys.data, b"k7-1", flip(raw, len(raw) - 1))
        damaged.client.close()

        started = await stub.StartRepair(admin_pb2.StartRepairRequest(keyspace="places"))
        job = await finished(stub, started.id)
        assert (job.state, job.problem, job.buckets_done) == (DONE, "", BUCKETS)
        assert (job.differing, job.copied, job.healed, job.unhealed) == (4, 5, 1, 0)
        assert {d.bucket: d.keys for d in job.diverged} == {3: 2, 5: 1, 7: 1}
        assert job.records >= BUCKETS * 40
        [differed] = [
            metric
            for metric in InstanceCollector(app.instance.view, lambda: True).collect()
            if metric.name == "dabbawala_diverged_keys"
        ]
        assert {s.labels["bucket"]: s.value for s in differed.samples} == {"3": 2, "5": 1, "7": 1}
        await all_equal(app, nodes)
        assert (await contents(app, nodes, 5))[0][b"k5-7"] == newer
        path = repaired_path(app.instance.feed._paths, "places", 0)
        entry = await app.instance.ledger.store.read(path)
        assert entry is not None
        assert entry.value.count(b":") == BUCKETS


async def test_a_repair_without_one_owner_says_so_and_promises_nothing(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        await write(app, nodes[:1], {b"konly-first": record_now(b"1")}, 3)
        nodes[2].kill()
        request = admin_pb2.StartRepairRequest(keyspace="places", buckets=[3])
        job = await finished(stub, (await stub.StartRepair(request)).id)
        assert (job.state, job.buckets_skipped, job.copied) == (DONE, 1, 1)
        assert "n2" in job.problem
        path = repaired_path(app.instance.feed._paths, "places", 0)
        assert await app.instance.ledger.store.read(path) is None


async def test_a_node_that_restarts_empty_comes_back_in_its_next_incarnation(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path, admission_settle_ms=200) as app:
        await set_up(app, nodes)
        await fill(app, nodes)
        before = [bucket.epoch for bucket in buckets(app)]
        nodes[0].kill()
        nodes[0].erase()
        nodes[0].restart()
        await until(lambda: node_of(app).node.incarnation == 2, "it is admitted")
        assert node_of(app).record.trusted
        after = buckets(app)
        number = node_of(app).node.number
        for bucket, epoch in zip(after, before, strict=True):
            assert bucket.epoch == epoch + 2  # one without it, one with it again
            assert {owner.node: owner.incarnation for owner in bucket.owners}[number] == 2
            assert len(bucket.owners) == 3
            assert not bucket.pending
        await all_equal(app, nodes)
        await until(lambda: app.instance.healths["n0"].word == "up", "it is up")
        client = await ReplicaClient.connect(nodes[0].host, nodes[0].port)
        keys = [bucket_keys("places", bucket.id) for bucket in after]
        for bucket, stands in zip(after, await client.read_fences(keys), strict=True):
            assert stands.fence is not None
            assert stands.fence.role is Role.OWNER
            assert (stands.fence.epoch, stands.fence.incarnation) == (bucket.epoch, 2)
        identity = await client.identity()
        assert identity is not None
        assert identity.incarnation == 2
        client.close()


async def test_an_old_dump_is_merged_and_its_fence_is_not_believed(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey("--appendonly", "yes") for _ in range(3)]
    async with running(tmp_path, admission_settle_ms=200) as app:
        await set_up(app, nodes)
        await fill(app, nodes)
        mine = record_now(b"acknowledged at ONE")
        await write(app, nodes[:1], {b"kmine": mine}, 4)
        nodes[0].stop()
        newer = record_now(b"while it was away")
        await write(app, nodes[1:], {b"k4-1": newer}, 4)
        nodes[0].restart()
        await until(lambda: node_of(app).node.incarnation == 2, "it is admitted")
        await all_equal(app, nodes)
        [first, *_] = await contents(app, nodes, 4)
        assert (first[b"kmine"], first[b"k4-1"]) == (mine, newer)


async def test_a_flushed_node_comes_back_too(tmp_path: Path, servers: Servers) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path, admission_settle_ms=200) as app:
        await set_up(app, nodes)
        await fill(app, nodes)
        client = await ReplicaClient.connect(nodes[0].host, nodes[0].port)
        await client.call(b"FLUSHALL")
        client.close()
        await until(lambda: node_of(app).node.incarnation == 2, "it is admitted")
        await all_equal(app, nodes)


async def test_without_a_majority_nothing_comes_back_until_the_loss_is_accepted(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path, admission_settle_ms=200) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        await fill(app, nodes)
        began_ms = int(time.time() * 1000)
        repair = await stub.StartRepair(admin_pb2.StartRepairRequest(keyspace="places"))
        assert (await finished(stub, repair.id)).problem == ""
        for node in nodes[:2]:
            node.kill()
            node.erase()
            node.restart()
        await until(
            lambda: "no majority" in app.instance.view().admissions.get("n0", ""), "it waits"
        )
        epochs = {bucket.epoch for bucket in buckets(app)}
        assert epochs == {1}
        request = admin_pb2.RecoverNodeRequest(id="n0")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.RecoverNode(request)
        assert Refusal(refused.value).reason == "LOSS_NOT_ACCEPTED"
        assert "--accept-loss" in Refusal(refused.value).message
        request.accept_loss = True
        started = await stub.RecoverNode(request)
        job = await finished(stub, started.id)
        assert job.state == DONE
        # What every owner had at the last repair is not lost; its bound is a minute behind it.
        assert began_ms - 61_000 < job.loss_from_ms < began_ms - 30_000 < job.loss_to_ms
        await until(lambda: node_of(app, "n1").node.incarnation > 1, "the other one follows")
        await all_equal(app, nodes)
        first = (await contents(app, nodes, 3))[0]
        assert len(first) == 40
        assert all(decode_record(raw) is not None for raw in first.values())


def loading(server: Server) -> bool:
    with redis.Redis(port=server.port) as client:
        return bool(client.info("persistence")["loading"])


async def test_a_loss_is_accepted_where_two_that_lost_something_still_hold_the_rest(
    tmp_path: Path, servers: Servers
) -> None:
    kept = ("--appendonly", "yes", "--appendfsync", "no")
    nodes = [servers.valkey(*kept) for _ in range(2)] + [servers.valkey()]
    async with running(tmp_path, admission_settle_ms=200) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        await fill(app, nodes)
        for number, node in enumerate(nodes[:2]):
            node.kill()
            node.restart()
            await until(lambda node=node: not loading(node), "it has read its data")  # type: ignore[misc]
            with redis.Redis(port=node.port) as client:
                assert client.hdel(bucket_keys("places", 3).data, b"k3-%d" % number) == 1
        await until(
            lambda: "no majority" in app.instance.view().admissions.get("n0", ""), "it waits"
        )
        started = await stub.RecoverNode(admin_pb2.RecoverNodeRequest(id="n0", accept_loss=True))
        job = await finished(stub, started.id)
        assert job.state == DONE
        await until(lambda: node_of(app, "n1").node.incarnation > 1, "the other one follows")
        await all_equal(app, nodes)
        assert len((await contents(app, nodes, 3))[0]) == 40


async def damage(app: App, server: Server, bucket: int, field: bytes) -> None:
    [copy] = await copies(app, [server], bucket)
    raw = (await copy.read([field]))[field]
    await copy.client.call(b"HSET", copy.keys.data, field, flip(raw, 12))
    copy.client.close()


async def test_a_corrupt_record_is_not_healed_without_a_majority_of_valid_ones(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        await fill(app, nodes)
        # The third one may have missed the last write of that key: it alone proves nothing.
        for node in nodes[:2]:
            await damage(app, node, 3, b"k3-1")
        request = admin_pb2.StartRepairRequest(keyspace="places", buckets=[3])
        job = await finished(stub, (await stub.StartRepair(request)).id)
        assert (job.healed, job.unhealed) == (0, 2)
        assert "stay different" in job.problem
        path = repaired_path(app.instance.feed._paths, "places", 0)
        assert await app.instance.ledger.store.read(path) is None


async def test_interrupted_after_every_transaction_an_admission_still_ends_well(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app:
        await set_up(app, nodes)
        await fill(app, nodes, each=5)
    nodes[0].kill()
    nodes[0].erase()
    nodes[0].restart()
    assert await runs_until_back(tmp_path, nodes[0], "places") > 5
    async with running(tmp_path) as app:
        await until(lambda: "n0" in app.instance.healths, "the map is read")
        await until(lambda: app.instance.healths["n0"].word == "up", "it is up")
        await all_equal(app, nodes)


async def test_finished_repairs_do_not_gather_in_the_store(
    tmp_path: Path, servers: Servers
) -> None:
    """One a night, under a leader that leads for years."""
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, [servers.valkey()])
        await create(stub, buckets=1, replication_factor=1)
        for _ in range(KEPT + 3):
            await stub.StartRepair(admin_pb2.StartRepairRequest(keyspace="places"))
            await until(lambda: not app.instance.jobs or not app.instance.jobs._passes, "repaired")
        jobs = (await stub.ListJobs(admin_pb2.ListJobsRequest(kind="repair"))).jobs
        assert len(jobs) == KEPT + 1
