"""Awaited calls against a real Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from buckets.bucket_map import Stage
from replicas.client import FenceChange, ReplicaClient, StoredFence, StoredRecord
from replicas.commands import pack_limits
from replicas.errors import CommandFailed, LinkLost, Unreachable, WrongIdentity
from replicas.fence import Fence, Role
from replicas.identity import Identity
from replicas.layout import FENCE_FIELD, IDENTITY_KEY, bucket_keys, user_field
from replicas.record import decode_record, encode_record
from replicas.replies import APPLIED, Code, Refusal
from replicas.version import HybridClock
from tests.support.replica_records import flip
from tests.support.servers import Server

KEYS = bucket_keys("places", 3)
FENCE = Fence(5, Stage.OLD, Role.OWNER, 9)
LIMITS = pack_limits(500, 1 << 20)


@pytest.fixture
async def client(valkey: Server) -> AsyncIterator[ReplicaClient]:
    async with await ReplicaClient.connect(valkey.host, valkey.port) as connected:
        yield connected


@pytest.fixture
async def owner(client: ReplicaClient) -> ReplicaClient:
    assert await client.create_fence(KEYS, FENCE, b"entry") is None
    return client


def record(value: bytes = b"value") -> bytes:
    return encode_record(HybridClock(b"writer-1").next(int(time.time() * 1000)), value)


async def test_a_record_is_written_and_read_with_its_fence(owner: ReplicaClient) -> None:
    raw = record()
    outcome = await owner.write(KEYS, b"key", raw, epoch=5, incarnation=9, limits=LIMITS)
    assert outcome == APPLIED
    assert await owner.read(KEYS, b"key") == StoredRecord(FENCE, decode_record(raw), raw)
    assert await owner.read(KEYS, b"absent") == StoredRecord(FENCE, None, None)


async def test_a_refused_write_is_a_value(owner: ReplicaClient) -> None:
    outcome = await owner.write(KEYS, b"key", record(), epoch=4, incarnation=9, limits=LIMITS)
    assert outcome == Refusal(Code.STALE_EPOCH, FENCE, b"entry")


async def test_a_damaged_record_is_seen_and_healed(owner: ReplicaClient) -> None:
    good = record()
    await owner.call(b"HSET", KEYS.data, user_field(b"key"), flip(good, -1))
    assert (await owner.read(KEYS, b"key")).record is None
    refused = await owner.write(KEYS, b"key", good, epoch=5, incarnation=9, limits=LIMITS)
    assert isinstance(refused, Refusal)
    assert refused.code is Code.CORRUPT
    healed = await owner.write(KEYS, b"key", good, epoch=5, incarnation=9, limits=LIMITS, heal=True)
    assert healed == APPLIED
    assert (await owner.read(KEYS, b"key")).raw == good


async def test_a_fence_is_made_raised_and_released(client: ReplicaClient) -> None:
    raised = Fence(6, Stage.WRITE_BOTH_READ_OLD, Role.OWNER, 9)
    older = Fence(5, Stage.NEW, Role.RELEASED, 9)
    grave = Fence(7, Stage.NEW, Role.RELEASED, 9)
    assert await client.raise_fence(KEYS, raised, b"") == Refusal(Code.NO_FENCE)
    assert await client.create_fence(KEYS, FENCE, b"one") is None
    assert await client.raise_fence(KEYS, raised, b"two") is None
    assert await client.release_fence(KEYS, grave, b"three") is None
    assert await client.read_fences([KEYS]) == [StoredFence(grave, grave.encode(), b"three")]
    assert await client.release_fence(KEYS, older, b"") == Refusal(
        Code.STALE_EPOCH, grave, b"three"
    )


async def test_many_fences_go_together(client: ReplicaClient) -> None:
    buckets = [bucket_keys("places", bucket) for bucket in range(1200)]
    changes = [FenceChange(keys, FENCE, b"%d" % n) for n, keys in enumerate(buckets)]
    assert await client.create_fences(changes) == [None] * 1200
    again = await client.create_fences(changes[:2])
    assert again == [Refusal(Code.EXISTS, FENCE, b"%d" % n) for n in (0, 1)]
    stored = await client.read_fences([*buckets, bucket_keys("places", 5000)])
    assert [fence.entry for fence in stored] == [b"%d" % n for n in range(1200)] + [None]
    assert stored[-1] == StoredFence(None, None, None)


async def test_a_fence_that_fails_its_checksum_is_told_from_none(owner: ReplicaClient) -> None:
    broken = flip(FENCE.encode(), 4)
    await owner.call(b"HSET", KEYS.data, FENCE_FIELD, broken)
    assert await owner.read_fences([KEYS]) == [StoredFence(None, broken, b"entry")]


async def test_an_identity_is_claimed_once(client: ReplicaClient) -> None:
    mine = Identity("dev", "node-a", 1)
    assert await client.identity() is None
    assert await client.claim_identity(mine) == mine
    assert await client.claim_identity(Identity("dev", "node-a", 2)) == mine
    assert await client.identity() == mine


@pytest.mark.parametrize("other", [Identity("prod", "node-a", 1), Identity("dev", "node-b", 1)])
async def test_data_of_another_cluster_or_node_is_refused(
    client: ReplicaClient, other: Identity
) -> None:
    await client.claim_identity(other)
    with pytest.raises(WrongIdentity, match=f"'{other.node}' of cluster '{other.cluster}'"):
        await client.claim_identity(Identity("dev", "node-a", 1))
    assert await client.identity() == other


async def test_an_identity_that_is_none_is_refused(client: ReplicaClient) -> None:
    await client.call(b"SET", IDENTITY_KEY, b"somebody else's")
    with pytest.raises(WrongIdentity, match="no identity"):
        await client.identity()


async def test_the_servers_clock_can_be_asked(client: ReplicaClient) -> None:
    assert abs(await client.time_ms() - time.time() * 1000) < 2000
    assert client.server.server == "valkey"


async def test_what_the_server_refuses_is_an_error(client: ReplicaClient) -> None:
    with pytest.raises(CommandFailed, match="unknown command"):
        await client.call(b"NO-SUCH-COMMAND")
    await client.call(b"SET", KEYS.data, b"not a hash")
    with pytest.raises(CommandFailed, match="WRONGTYPE"):
        await client.read(KEYS, b"key")


async def test_a_script_error_that_proves_nothing_is_an_error(owner: ReplicaClient) -> None:
    with pytest.raises(CommandFailed, match="NOSCRIPT"):
        await owner.call(b"EVALSHA", b"0" * 40, b"0")
    with pytest.raises(LinkLost):
        await owner.time_ms()


async def test_a_frozen_server_ends_the_call_in_time(valkey: Server) -> None:
    async with await ReplicaClient.connect(valkey.host, valkey.port) as client:
        client.timeout_s = 0.05
        valkey.pause()
        with pytest.raises(Unreachable, match=r"within 0\.05 s"):
            await client.time_ms()
        valkey.resume()


async def test_a_call_on_a_link_that_breaks_is_an_error(
    client: ReplicaClient, valkey: Server
) -> None:
    valkey.pause()
    call = asyncio.ensure_future(client.time_ms())
    await asyncio.sleep(0)
    valkey.kill()
    with pytest.raises(LinkLost, match="may have been done"):
        await call
