"""Repair and admission of linearizable keyspaces against real servers."""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from buckets.bucket_map import Bucket
from control_plane.app import App
from control_plane.controllers.cluster_state import StoredNode
from control_plane.jobs.job import DONE, RUNNING
from protos.dabbawala.v1 import admin_pb2, admin_pb2_grpc, map_pb2
from replicas.acceptor import Acceptor, Content, decode_acceptor, encode_acceptor
from replicas.changes import increment
from replicas.client import ReplicaClient
from replicas.commands import (
    pack_limits,
    prepare_prefix,
    prepare_suffix,
    write_prefix,
    write_suffix,
)
from replicas.fence import Role
from replicas.layout import bucket_keys
from replicas.quorum import Group
from replicas.register import Action, Again, Answer, Ask, CasPaxos, Done, Outcome, Route, Step
from replicas.replies import Code, Refusal, parse_accept, parse_prepare
from replicas.scripts import SCRIPTS
from replicas.version import HybridClock
from tests.support.control_planes import add_nodes, admin, create, eventually, running, until
from tests.support.dying_control_planes import runs_until_back
from tests.support.replica_records import flip
from tests.support.servers import Server, Servers

pytestmark = pytest.mark.slow

BUCKETS = 4
LIMITS = pack_limits(500, 1 << 20)
BALLOTS = HybridClock(b"a-writer")
LONG_AGO_MS = 30 * 24 * 3_600_000  # longer than any grace that nobody has chosen
COMPACT = admin_pb2.StartCompactionRequest(keyspace="ledger")
AHEAD_MS = 3_600_000  # of a coordinator whose clock is an hour ahead


def node_of(app: App, node_id: str = "n0") -> StoredNode:
    return app.instance.feed.state.nodes[node_id]


def buckets(app: App) -> tuple[Bucket, ...]:
    return app.instance.feed.state.keyspaces["ledger"].keyspace.buckets


def ballot(ahead_ms: int = -60_000) -> bytes:
    """Mostly a minute old: no longer on its way."""
    return HybridClock(BALLOTS.writer).next(int(time.time() * 1000) + ahead_ms)


async def ask(
    app: App, server: Server, bucket: int, command: str, key: bytes, raw: bytes
) -> object:
    """One prepare (of a ballot) or accept (of a record), as the map names the server's owner."""
    state, known = app.instance.feed.state, buckets(app)[bucket]
    [number] = [n for n, each in state.by_number.items() if each.node.port == server.port]
    lives = {owner.node: owner.incarnation for owner in (*known.owners, *known.pending)}
    keys = bucket_keys("ledger", bucket)
    async with await ReplicaClient.connect(server.host, server.port) as client:
        if command == "prepare":
            built = prepare_prefix(keys, known.epoch, lives[number]) + prepare_suffix(key, raw)
            [reply] = await client.ask([built])
            return parse_prepare(reply, raw)
        head = write_prefix(keys, known.epoch, lives[number], script=SCRIPTS["accept"])
        [reply] = await client.ask([head + write_suffix(key, raw, LIMITS)])
        return parse_accept(reply)


async def accept(
    app: App,
    servers: Sequence[Server],
    bucket: int,
    key: bytes,
    value: bytes | None,
    at: bytes = b"",
) -> None:
    record = encode_acceptor(at or (at := ballot()), Content(value, changed=at))
    for server in servers:
        assert await ask(app, server, bucket, "accept", key, record) is True


async def counted(app: App, servers: Sequence[Server], bucket: int, key: bytes) -> Done:
    """An increment by one, as a coordinator makes it."""
    group = Group((1 << len(servers)) - 1, len(servers) // 2 + 1)
    now_ms = int(time.time() * 1000)
    route = Route((group,), (group,), tuple(range(len(servers))))
    operation_id = now_ms.to_bytes(6, "big") + os.urandom(10)
    operation = CasPaxos(route, BALLOTS, increment(1), operation_id=operation_id)
    action: Action = operation.start(now_ms)
    for _ in range(10):
        if not isinstance(action, Ask):
            break
        asked, command = action, "prepare" if action.step is Step.PREPARE else "accept"
        for slot, server in enumerate(servers):
            answer = await ask(app, server, bucket, command, key, asked.payload)
            action = operation.on_answer(asked.round, slot, cast(Answer, answer), now_ms)
            if action is not None:
                break
        if isinstance(action, Again):
            action = operation.again(now_ms)
    assert isinstance(action, Done)
    return action


async def stands(server: Server, bucket: int, key: bytes) -> Acceptor | None:
    async with await ReplicaClient.connect(server.host, server.port) as client:
        raw = await client.call(b"HGET", bucket_keys("ledger", bucket).data, b"k" + key)
    return decode_acceptor(raw) if isinstance(raw, bytes) else None


async def all_agree(
    servers: Sequence[Server], bucket: int, key: bytes, value: bytes | None
) -> None:
    for server in servers:
        found = await stands(server, bucket, key)
        assert found is not None, (server.port, key)
        assert found.content.value == value, (server.port, key)


async def set_up(app: App, servers: list[Server], *, replicas: int = 3) -> None:
    async with admin(app.address) as stub:
        await add_nodes(stub, servers)
        mode, durability = map_pb2.KEYSPACE_MODE_LINEARIZABLE, map_pb2.DURABILITY_MEMORY
        await create(
            stub,
            "ledger",
            buckets=BUCKETS,
            replication_factor=replicas,
            mode=mode,
            durability=durability,
        )


async def damage(server: Server, bucket: int, key: bytes) -> None:
    data, field = bucket_keys("ledger", bucket).data, b"k" + key
    async with await ReplicaClient.connect(server.host, server.port) as client:
        raw = await client.call(b"HGET", data, field)
        assert isinstance(raw, bytes)
        await client.call(b"HSET", data, field, flip(raw, len(raw) - 1))


async def repaired(stub: "admin_pb2_grpc.AdminAsyncStub") -> admin_pb2.JobStatus:
    return await over(stub, await stub.StartRepair(admin_pb2.StartRepairRequest(keyspace="ledger")))


async def over(
    stub: "admin_pb2_grpc.AdminAsyncStub", started: admin_pb2.JobStatus
) -> admin_pb2.JobStatus:
    async def finished() -> bool:
        [job] = (await stub.ListJobs(admin_pb2.ListJobsRequest(id=started.id))).jobs
        return job.state != RUNNING

    await eventually(finished, "the job is over")
    [job] = (await stub.ListJobs(admin_pb2.ListJobsRequest(id=started.id))).jobs
    return job


def restart_empty(server: Server) -> None:
    server.kill()
    server.erase()
    server.restart()


async def test_an_acceptor_that_lost_everything_is_taken_back_and_nothing_is_forgotten(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path, admission_settle_ms=200) as app:
        await set_up(app, nodes)
        for number in range(300):
            await accept(app, nodes, number % BUCKETS, b"k%d" % number, b"v%d" % number)
        # Chosen by a majority that the lost one belonged to.
        await accept(app, nodes[:2], 1, b"by two", b"1")
        await accept(app, [nodes[0], nodes[2]], 1, b"by two others", b"2")
        # An operation under way: a promise, to somebody whose clock is far ahead.
        ahead = ballot(AHEAD_MS)
        assert isinstance(await ask(app, nodes[1], 2, "prepare", b"promised", ahead), Acceptor)
        before = [bucket.epoch for bucket in buckets(app)]
        restart_empty(nodes[0])
        restarted_ms = int(time.time() * 1000)
        await until(lambda: node_of(app).node.incarnation == 2, "it is admitted")

        for number in range(300):
            await all_agree(nodes, number % BUCKETS, b"k%d" % number, b"v%d" % number)
        await all_agree(nodes, 1, b"by two", b"1")
        await all_agree(nodes, 1, b"by two others", b"2")
        await all_agree(nodes, 2, b"promised", None)
        assert [bucket.epoch for bucket in buckets(app)] == [epoch + 2 for epoch in before]
        keys = [bucket_keys("ledger", bucket) for bucket in range(BUCKETS)]
        async with await ReplicaClient.connect(nodes[0].host, nodes[0].port) as client:
            fences = [now.fence for now in await client.read_fences(keys)]
        for bucket, fence in enumerate(fences):
            assert fence is not None
            assert (fence.role, fence.incarnation) == (Role.OWNER, 2)
            lowest = max(restarted_ms, 0).to_bytes(6, "big")
            assert fence.ballot_floor > lowest
            low = await ask(app, nodes[0], bucket, "prepare", b"new", fence.ballot_floor)
            assert isinstance(low, Refusal)
            assert low.code is Code.LOW_BALLOT
        assert fences[2] is not None
        assert fences[2].ballot_floor >= ahead


async def test_what_an_old_dump_says_is_neither_believed_nor_counted(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey("--appendonly", "yes") for _ in range(3)]
    async with running(tmp_path, admission_settle_ms=200) as app:
        await set_up(app, nodes)
        await accept(app, nodes, 1, b"k", b"old")
        await accept(app, nodes[:1], 1, b"never chosen", b"1")
        await accept(app, nodes, 2, b"damaged", b"v")
        await accept(app, nodes[:1], 2, b"never chosen, damaged", b"1")
        await damage(nodes[0], 2, b"damaged")
        await damage(nodes[0], 2, b"never chosen, damaged")
        nodes[0].stop()
        await accept(app, nodes[1:], 1, b"k", b"new", ballot(-30_000))
        nodes[0].restart()
        await until(lambda: node_of(app).node.incarnation == 2, "it is admitted")
        await all_agree(nodes, 1, b"k", b"new")
        await all_agree(nodes, 1, b"never chosen", None)
        await all_agree(nodes, 2, b"damaged", b"v")
        await all_agree(nodes, 2, b"never chosen, damaged", None)


async def test_without_a_majority_of_others_it_waits_until_the_loss_is_accepted(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path, admission_settle_ms=200) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        await accept(app, nodes, 0, b"k", b"v")
        for node in nodes[:2]:
            restart_empty(node)
        await until(
            lambda: "no majority" in app.instance.view().admissions.get("n0", ""), "it waits"
        )
        assert {bucket.epoch for bucket in buckets(app)} == {1}
        await stub.RecoverNode(admin_pb2.RecoverNodeRequest(id="n0", accept_loss=True))
        await until(lambda: node_of(app).node.incarnation > 1, "it is back")
        await until(lambda: node_of(app, "n1").node.incarnation > 1, "the other one follows")
        await all_agree(nodes, 0, b"k", b"v")


async def recovered(app: App, stub: "admin_pb2_grpc.AdminAsyncStub", node: str) -> None:
    await until(lambda: "no majority" in app.instance.view().admissions.get(node, ""), "it waits")
    await stub.RecoverNode(admin_pb2.RecoverNodeRequest(id=node, accept_loss=True))
    await until(lambda: node_of(app, node).record.trusted, "it is back")


@pytest.mark.parametrize("lost", [2, 3])
async def test_an_accepted_loss_merges_whatever_can_be_reached(
    tmp_path: Path, servers: Servers, lost: int
) -> None:
    """They lost something, nobody knows what. Here: what only they can tell of is still there."""
    nodes = [servers.valkey("--appendonly", "yes", "--appendfsync", "no") for _ in range(3)]
    async with running(tmp_path, admission_settle_ms=200) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        await accept(app, nodes, 0, b"k", b"old")
        await accept(app, nodes[:2], 0, b"k", b"new", ballot(-30_000))
        await accept(app, nodes[1:2], 1, b"of the second", b"1")
        await accept(app, nodes[:1], 1, b"of the first", b"1")
        for node in nodes[:lost]:
            node.kill()
            node.restart()
        ahead = ballot(AHEAD_MS)
        await accept(app, nodes[1:2], 2, b"ahead", b"1", ahead)
        await recovered(app, stub, "n0")
        if lost == 3:
            await recovered(app, stub, "n1")
        await until(lambda: all(node_of(app, f"n{n}").record.trusted for n in range(3)), "all are")

        await all_agree(nodes, 0, b"k", b"new")
        await all_agree(nodes, 1, b"of the second", b"1")
        await all_agree(nodes, 1, b"of the first", b"1")
        await all_agree(nodes, 2, b"ahead", b"1")
        keys = bucket_keys("ledger", 2)
        async with await ReplicaClient.connect(nodes[0].host, nodes[0].port) as client:
            [now] = await client.read_fences([keys])
        assert now.fence is not None
        assert now.fence.ballot_floor >= ahead


async def test_interrupted_after_every_transaction_nothing_is_lost_and_it_still_ends(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app:
        await set_up(app, nodes)
        for number in range(12):
            await accept(app, nodes, number % BUCKETS, b"k%d" % number, b"v")
        await accept(app, nodes[:2], 1, b"by two", b"1")
        await accept(app, [nodes[0], nodes[2]], 1, b"by two others", b"2")
        await ask(app, nodes[1], 2, "prepare", b"promised", ballot())
    restart_empty(nodes[0])
    assert await runs_until_back(tmp_path, nodes[0], "ledger") > BUCKETS  # each is a transaction
    for number in range(12):
        await all_agree(nodes, number % BUCKETS, b"k%d" % number, b"v")
    await all_agree(nodes, 1, b"by two", b"1")
    await all_agree(nodes, 1, b"by two others", b"2")
    await all_agree(nodes, 2, b"promised", None)


async def test_what_was_deleted_is_purged_from_every_owner_and_old_ballots_are_refused(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey("--appendonly", "yes", "--appendfsync", "no") for _ in range(3)]
    async with running(tmp_path, admission_settle_ms=200) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        written, deleted = ballot(-LONG_AGO_MS - 60_000), ballot(-LONG_AGO_MS)
        for key in (b"counter", b"gone", b"promised", b"on one"):
            await accept(app, nodes, 3, key, b"41", written)
        for key in (b"counter", b"gone", b"promised"):
            await accept(app, nodes, 3, key, None, deleted)
        await accept(app, nodes[2:], 3, b"on one", None, deleted)
        assert (await repaired(stub)).problem == ""  # what differs is under a new ballot from now
        await ask(app, nodes[1], 3, "prepare", b"promised", ballot(-30_000))

        job = await over(stub, await stub.StartCompaction(COMPACT))
        assert (job.state, job.problem, job.purged) == (DONE, "", 6)
        for node in nodes:
            assert await stands(node, 3, b"counter") is None
            assert await stands(node, 3, b"promised") is not None
        for node in nodes:
            late = encode_acceptor(written, Content(b"41", changed=written))
            for command, raw in (("prepare", written), ("accept", late)):
                answer = await ask(app, node, 3, command, b"counter", raw)
                assert isinstance(answer, Refusal)
                assert answer.code is Code.LOW_BALLOT
        for expected in (1, 2):
            done = await counted(app, nodes, 3, b"counter")
            assert (done.outcome, done.result) == (Outcome.OK, expected)
        assert (await repaired(stub)).unhealed == 0
        await all_agree(nodes, 3, b"counter", b"2")
        await all_agree(nodes, 3, b"on one", None)

        # An old disk, and a loss accepted: what only the old disk has is not believed.
        late = encode_acceptor(written, Content(b"41", changed=written))
        async with await ReplicaClient.connect(nodes[0].host, nodes[0].port) as client:
            await client.call(b"HSET", bucket_keys("ledger", 3).data, b"kgone", late)
        for node in nodes[:2]:
            node.kill()
            node.restart()
        await recovered(app, stub, "n0")
        await until(lambda: node_of(app, "n1").record.trusted, "the other one follows")
        await all_agree(nodes, 3, b"gone", None)
        await all_agree(nodes, 3, b"counter", b"2")


async def test_a_repair_settles_what_differs_and_heals_under_a_new_epoch(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        for number in range(100):
            await accept(app, nodes, number % BUCKETS, b"k%d" % number, b"v")
        await accept(app, nodes[1:], 0, b"k0", b"chosen without the first", ballot(-30_000))
        await accept(app, nodes[2:], 1, b"only one", b"1")
        await ask(app, nodes[1], 2, "prepare", b"k2", ballot(-30_000))
        await damage(nodes[1], 3, b"k3")

        job = await repaired(stub)
        assert (job.state, job.problem, job.buckets_done) == (DONE, "", BUCKETS)
        assert (job.differing, job.healed, job.unhealed) == (4, 1, 0)
        assert {d.bucket: d.keys for d in job.diverged} == {0: 1, 1: 1, 2: 1, 3: 1}
        assert [bucket.epoch for bucket in buckets(app)] == [1, 1, 1, 2]
        await all_agree(nodes, 0, b"k0", b"chosen without the first")
        await all_agree(nodes, 1, b"only one", b"1")
        await all_agree(nodes, 3, b"k3", b"v")
        for bucket, key in ((0, b"k0"), (1, b"only one"), (2, b"k2"), (3, b"k3")):
            states = await asyncio.gather(*(stands(node, bucket, key) for node in nodes))
            assert len({state.raw for state in states if state is not None}) == 1, key
        again = await repaired(stub)
        assert (again.differing, again.healed, again.unhealed) == (0, 0, 0)


async def test_two_damaged_copies_of_one_register_stay_unhealed(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        await accept(app, nodes, 3, b"k", b"v")
        # The third one may have missed the last change: it alone proves nothing.
        for node in nodes[:2]:
            await damage(node, 3, b"k")
        job = await repaired(stub)
        assert (job.healed, job.unhealed) == (0, 2)
        assert "stay different" in job.problem
        assert {bucket.epoch for bucket in buckets(app)} == {1}
