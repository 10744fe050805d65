"""Compaction against real servers: old tombstones go from all owners, and nothing comes back."""

import asyncio
import shutil
import time
from pathlib import Path
from typing import cast

import pytest
import redis

from buckets.bucket_map import Bucket
from control_plane.app import App
from control_plane.controllers.cluster_state import StoredNode
from control_plane.jobs.job import DONE, RUNNING
from control_plane.metrics import InstanceCollector
from protos.dabbawala.v1 import admin_pb2, admin_pb2_grpc
from replicas.bucket_copy import Copy, Pace
from replicas.client import ReplicaClient
from replicas.commands import pack_limits
from replicas.fence import decode_fence
from replicas.layout import bucket_keys
from replicas.purge import What, purge_bound
from replicas.record import encode_record
from replicas.replies import Code, Refusal
from replicas.version import ZERO_VERSION
from tests.support.control_planes import (
    DEADLINE_S,
    DURABLE,
    add_nodes,
    admin,
    control_plane_process,
    create,
    eventually,
    running,
    until,
)
from tests.support.replica_records import version_at
from tests.support.servers import Server, Servers

pytestmark = pytest.mark.slow

BUCKETS = 4
BUCKET = 2
LIMITS = pack_limits(500, 1 << 20)
HOUR_MS = 3_600_000
GRACE_MS = 5 * HOUR_MS
MANY = 1_000
NOW_MS = int(time.time() * 1000)

Admin = "admin_pb2_grpc.AdminAsyncStub"


def ago(hours: float) -> bytes:
    return version_at(NOW_MS - int(hours * HOUR_MS))


def value(hours: float) -> bytes:
    return encode_record(ago(hours), b"value")


def deleted(hours: float) -> bytes:
    return encode_record(ago(hours), b"", tombstone=True)


def bucket_of(app: App) -> Bucket:
    return app.instance.feed.state.keyspaces["places"].keyspace.buckets[BUCKET]


def node_of(app: App) -> StoredNode:
    return app.instance.feed.state.nodes["n0"]


async def copy_on(app: App, server: Server) -> Copy:
    numbers = {k.node.port: number for number, k in app.instance.feed.state.by_number.items()}
    bucket = bucket_of(app)
    lives = {owner.node: owner.incarnation for owner in bucket.owners}
    return Copy(
        await ReplicaClient.connect(server.host, server.port),
        bucket_keys("places", BUCKET),
        epoch=bucket.epoch,
        incarnation=lives[numbers[server.port]],
        pace=Pace(rest=0.0),
    )


async def write(app: App, servers: list[Server], **records: bytes) -> list[int | Refusal]:
    outcomes: list[int | Refusal] = []
    for server in servers:
        copy = await copy_on(app, server)
        fields = {b"k" + name.encode(): raw for name, raw in records.items()}
        outcomes += (await copy.write(fields, LIMITS)).values()
        copy.client.close()
    return outcomes


async def held(app: App, servers: list[Server]) -> list[set[str]]:
    """The keys on each server."""
    found = []
    for server in servers:
        copy = await copy_on(app, server)
        found.append({name[1:].decode() for name in await copy.entries(1, [0])})
        copy.client.close()
    return found


async def set_up(stub: "admin_pb2_grpc.AdminAsyncStub", servers: list[Server]) -> None:
    await add_nodes(stub, servers)
    await create(stub, buckets=BUCKETS, replication_factor=len(servers), grace_ms=GRACE_MS)


async def compacted(stub: "admin_pb2_grpc.AdminAsyncStub") -> admin_pb2.JobStatus:
    started = await stub.StartCompaction(admin_pb2.StartCompactionRequest(keyspace="places"))
    request = admin_pb2.ListJobsRequest(id=started.id)

    async def over() -> bool:
        [job] = (await stub.ListJobs(request)).jobs
        return job.state != RUNNING

    await eventually(over, "the compaction is over")
    [job] = (await stub.ListJobs(request)).jobs
    return job


def all_purged(outcomes: list[int | Refusal]) -> bool:
    return all(isinstance(o, Refusal) and o.code is Code.PURGED for o in outcomes)


async def test_old_tombstones_go_from_every_owner_and_late_writes_are_refused(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(stub, nodes)
        await write(app, nodes, gone=deleted(20), young=deleted(3), old=value(30))
        job = await compacted(stub)
        assert (job.state, job.problem, job.buckets_done) == (DONE, "", BUCKETS)
        assert (job.records, job.tombstones, job.purged) == (9, 6, 3)
        assert job.purged_bytes == 3 * (len(b"kgone") + 25)
        assert await held(app, nodes) == [{"young", "old"}] * 3
        late = await write(app, nodes, gone=value(21), old=value(29), other=value(6))
        assert all_purged(late)
        assert await write(app, nodes, gone=value(1)) == [1, 1, 1]
        metrics = {
            metric.name: metric.samples[0].value
            for metric in InstanceCollector(app.instance.view, lambda: True).collect()
            if metric.name.startswith("dabbawala_compaction")
        }
        assert metrics["dabbawala_compaction_purged"] == 3
        assert (await compacted(stub)).purged == 0


async def test_what_is_too_young_to_go_is_counted(tmp_path: Path, servers: Servers) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(stub, nodes)
        await write(app, nodes, young=deleted(3), old=value(30))
        job = await compacted(stub)
        assert (job.records, job.tombstones, job.purged) == (6, 3, 0)


async def test_what_a_tombstone_covers_elsewhere_does_not_come_back(
    tmp_path: Path, servers: Servers
) -> None:
    """It reached one owner, after the last repair: the others have what it deletes."""
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(stub, nodes)
        await write(app, nodes, k=value(30))
        repair = await stub.StartRepair(admin_pb2.StartRepairRequest(keyspace="places"))
        await until(lambda: not app.instance.jobs or not app.instance.jobs._passes, "repaired")
        assert repair.buckets_total == BUCKETS
        await write(app, nodes[:1], k=deleted(20))
        assert (await compacted(stub)).purged == 3
        assert await held(app, nodes) == [set()] * 3


async def test_an_owner_that_is_away_holds_the_purge_back(tmp_path: Path, servers: Servers) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(stub, nodes)
        await write(app, nodes, gone=value(30))
        await write(app, nodes[1:], gone=deleted(20))
        nodes[0].kill()
        job = await compacted(stub)
        assert (job.purged, job.buckets_skipped) == (0, BUCKETS)
        assert "n0" in job.problem
        life = node_of(app).node.run_id
        nodes[0].restart()
        await until(lambda: node_of(app).node.run_id != life, "its new life is trusted")
        assert (await compacted(stub)).purged == 3
        assert await held(app, nodes) == [set()] * 3


async def test_a_compaction_that_died_on_the_way_is_finished_by_the_next(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(stub, nodes)
        await write(app, nodes, gone=deleted(20), old=value(30))
        bound = purge_bound(NOW_MS, NOW_MS, GRACE_MS)
        for server in nodes:
            copy = await copy_on(app, server)
            await copy.purge(What.CLOSE, bound, GRACE_MS)
            if server is nodes[0]:
                await copy.purge(What.DROP, bound, GRACE_MS)
            copy.client.close()
        assert await held(app, nodes) == [{"old"}, {"gone", "old"}, {"gone", "old"}]
        assert (await compacted(stub)).buckets_skipped == 0
        assert await held(app, nodes) == [{"old"}] * 3


async def test_a_control_plane_killed_in_the_midst_leaves_nothing_that_comes_back(
    tmp_path: Path, servers: Servers
) -> None:
    """One as soon as a bucket is closed, the next as soon as a tombstone is gone somewhere."""
    nodes = [servers.valkey() for _ in range(3)]
    raw = [redis.Redis(node.host, node.port) for node in nodes]
    data = bucket_keys("places", BUCKET).data
    names = [f"gone{number}" for number in range(MANY)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(stub, nodes)
        await write(app, nodes, old=value(30), **dict.fromkeys(names, value(30)))
        await write(app, nodes[:2], **dict.fromkeys(names, deleted(20)))

    def closed() -> bool:
        fences = [decode_fence(cast(bytes, server.hget(data, "f"))) for server in raw]
        return any(fence and fence.purged_through != ZERO_VERSION for fence in fences)

    def dropping() -> bool:
        return any(server.hlen(data) < MANY for server in raw)

    every = ("--compaction-interval-ms", "100")
    for killed, reached in (("cp-2", closed), ("cp-3", dropping)):
        with control_plane_process(tmp_path, killed, *every) as process:
            async with asyncio.timeout(DEADLINE_S):
                while not reached():
                    await asyncio.sleep(0.001)
            process.kill()
    async with running(tmp_path, "cp-4") as app, admin(app.address) as stub:
        await until(lambda: app.instance.jobs, "it leads")
        job = await compacted(stub)
        assert (job.state, job.buckets_done, job.buckets_skipped) == (DONE, BUCKETS, 0)
        assert await held(app, nodes) == [{"old"}] * 3
        assert all_purged(await write(app, nodes, gone0=value(21)))


async def test_a_node_that_comes_back_empty_gets_what_is_older_than_the_purge(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path, admission_settle_ms=200) as app, admin(app.address) as stub:
        await set_up(stub, nodes)
        await write(app, nodes, gone=deleted(20), old=value(30))
        assert (await compacted(stub)).purged == 3
        nodes[0].kill()
        nodes[0].erase()
        nodes[0].restart()
        await until(lambda: node_of(app).node.incarnation == 2, "it is admitted")
        assert await held(app, nodes) == [{"old"}] * 3
        assert all_purged(await write(app, nodes, gone=value(21)))


async def test_an_old_disk_brings_nothing_back_that_was_deleted(
    tmp_path: Path, servers: Servers
) -> None:
    """Fault 15: durable data, away longer than the grace. Its life was replaced meanwhile, or the
    purge would have waited for it.
    """
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    disk = tmp_path / "the old disk"
    async with running(tmp_path, admission_settle_ms=200) as app, admin(app.address) as stub:
        await set_up(stub, nodes)
        await write(app, nodes, gone=value(30), kept=value(30))
        nodes[0].stop()
        shutil.copytree(nodes[0].folder, disk)
        nodes[0].erase()
        nodes[0].restart()
        await until(lambda: node_of(app).node.incarnation == 2, "it came back empty")
        await write(app, nodes, gone=deleted(20))
        assert (await compacted(stub)).purged == 3
        nodes[0].stop()
        nodes[0].erase()
        shutil.copytree(disk, nodes[0].folder, dirs_exist_ok=True)
        nodes[0].restart()
        await until(lambda: node_of(app).node.incarnation == 3, "its old disk is taken back")
        assert await held(app, nodes) == [{"kept"}] * 3
        await until(lambda: app.instance.healths["n0"].word == "up", "it is up")
        assert (await compacted(stub)).buckets_skipped == 0
        assert await held(app, nodes) == [{"kept"}] * 3


async def test_the_only_copy_that_a_sidecar_kept_holds_tombstones_until_it_is_forgotten(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(stub, nodes)
        await write(app, nodes, older=deleted(25), newer=deleted(15))
        report = admin_pb2.ReportHintsRequest(
            sidecar="Host_7:1", only_copy_ms=NOW_MS - 20 * HOUR_MS, age_ms=3 * HOUR_MS
        )
        await stub.ReportHints(report)
        assert (await compacted(stub)).purged == 3
        assert await held(app, nodes) == [{"newer"}] * 3
    # The sidecar is gone; so is the control plane that it told.
    async with running(tmp_path, "cp-2") as app, admin(app.address) as stub:
        await until(lambda: app.instance.healths.get("n0"), "the nodes are seen")
        assert (await compacted(stub)).purged == 0
        request = admin_pb2.ForgetHintsRequest(sidecar="Host_7:1")
        assert (await stub.ForgetHints(request)).known
        assert not (await stub.ForgetHints(request)).known
        assert (await compacted(stub)).purged == 3


async def test_it_begins_by_itself(tmp_path: Path, servers: Servers) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path, compaction_interval_ms=100) as app, admin(app.address) as stub:
        await set_up(stub, nodes)
        await write(app, nodes, gone=deleted(20))

        async def gone() -> bool:
            return await held(app, nodes) == [set()] * 3

        await eventually(gone, "the tombstone is purged")


async def test_marks_are_done_with_once_their_bucket_was_repaired(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(stub, nodes)
        early, late = NOW_MS - HOUR_MS, int(time.time() * 1000) + HOUR_MS
        marks = [("places", 1, early), ("places", 2, late), ("", -1, early), ("unknown", 1, early)]
        report = admin_pb2.ReportHintsRequest(
            sidecar="s",
            marks=[
                admin_pb2.RepairMark(keyspace=keyspace, bucket=bucket, last_ms=last_ms)
                for keyspace, bucket, last_ms in marks
            ],
        )

        async def done_with() -> set[tuple[str, int]]:
            answer = await stub.ReportHints(report)
            return {(mark.keyspace, mark.bucket) for mark in answer.repaired}

        assert await done_with() == set()
        for wanted, expected in (([1], {("places", 1)}), ([], {("places", 1), ("", -1)})):
            request = admin_pb2.StartRepairRequest(keyspace="places", buckets=wanted)
            await stub.StartRepair(request)
            await until(lambda: not app.instance.jobs or not app.instance.jobs._passes, "repaired")
            assert await done_with() == expected
