"""Hints on another owner's stream: who may put them there, and when they are deleted."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from buckets.bucket_map import Stage
from replicas.commands import (
    claim_hints,
    create_fence,
    drop_hints,
    keep_hint,
    list_hints,
    release_fence,
)
from replicas.fence import Fence, Role
from replicas.layout import HINTS_TURN_KEY
from replicas.link import Link, open_link
from replicas.replies import Code, Refusal, parse_refusal
from sidecar.background.hint_handover import HintAdoption
from sidecar.background.hint_log import HintLog
from sidecar.core.handover import encode_hint
from sidecar.core.hints import Hint, HintBounds
from sidecar.core.peer import Peer
from tests.support.control_planes import until
from tests.support.fake_cluster import KEYS, FakeCluster
from tests.support.replica_subjects import ServerSubject
from tests.support.servers import Server

HINT = Hint("default", 0, b"key", b"record", 9, 1_763_700_000_000)  # for a node that is no more
ENTRY = encode_hint(HINT)
EPOCH, INCARNATION = 5, 9
PLENTY = 1 << 20
HOUR_MS = 3_600_000
NOW_MS = 1_800_000_000_000


@pytest.fixture
def replica(valkey: Server) -> Iterator[ServerSubject]:
    subject = ServerSubject(valkey)
    subject.clear()
    fence = Fence(EPOCH, Stage.OLD, Role.OWNER, INCARNATION)
    assert subject.execute(create_fence(KEYS, fence.encode(), b"entry")) == 1
    yield subject
    subject.close()


def keep(replica: ServerSubject, entry: bytes = ENTRY, **changes: int) -> object:
    place = {"epoch": EPOCH, "incarnation": INCARNATION, "most_bytes": PLENTY} | changes
    return replica.execute(
        keep_hint(KEYS, place["epoch"], place["incarnation"], entry, most_bytes=place["most_bytes"])
    )


def code(reply: object) -> Code:
    refusal = parse_refusal(reply) if isinstance(reply, list) else None
    assert isinstance(refusal, Refusal), reply
    return refusal.code


def entries(replica: ServerSubject) -> list[tuple[bytes, bytes]]:
    reply = replica.execute(list_hints(b"", 100))
    assert isinstance(reply, list)
    return [(id_, fields[1]) for id_, fields in reply]


def test_the_fence_judges_who_hands_over(replica: ServerSubject) -> None:
    assert code(keep(replica, epoch=EPOCH - 1)) is Code.STALE_EPOCH
    assert code(keep(replica, incarnation=INCARNATION + 1)) is Code.WRONG_INCARNATION
    assert keep(replica) == 1
    gone = Fence(EPOCH + 1, Stage.OLD, Role.RELEASED, INCARNATION)
    replica.execute(release_fence(KEYS, gone.encode(), b"entry"))
    assert code(keep(replica, epoch=EPOCH + 1)) is Code.RELEASED
    replica.call(b"DEL", KEYS.data)
    assert code(keep(replica)) is Code.NO_FENCE
    assert [entry for _, entry in entries(replica)] == [ENTRY]


@pytest.mark.parametrize("entry", [b"", b"short", ENTRY[:-1], ENTRY[:-1] + b"x"])
def test_an_entry_that_fails_its_checksum_is_not_taken(
    replica: ServerSubject, entry: bytes
) -> None:
    assert code(keep(replica, entry)) is Code.BAD_REQUEST
    assert entries(replica) == []


def test_hints_of_a_server_are_bounded_in_bytes(replica: ServerSubject) -> None:
    most_bytes = 3 * len(ENTRY)
    assert [keep(replica, most_bytes=most_bytes) for _ in range(4)] == [1, 1, 1, 0]
    [first, *rest] = [id_ for id_, _ in entries(replica)]
    assert replica.execute(drop_hints([first])) == 1
    assert [keep(replica, most_bytes=most_bytes) for _ in range(2)] == [1, 0]
    replica.execute(drop_hints([*rest, *(id_ for id_, _ in entries(replica))]))
    assert [keep(replica, most_bytes=most_bytes) for _ in range(4)] == [1, 1, 1, 0]


def test_one_has_the_turn_until_its_time_is_over(replica: ServerSubject) -> None:
    def holder(name: bytes) -> object:
        return [replica.execute(command) for command in claim_hints(name, 60_000)][1]

    assert holder(b"a") == b"a"
    assert holder(b"b") == b"a"
    replica.call(b"DEL", HINTS_TURN_KEY)
    assert holder(b"b") == b"b"


@pytest.fixture
async def link(valkey: Server) -> AsyncIterator[Link]:
    async with AsyncExitStack() as stack:
        opened = await open_link(valkey.host, valkey.port, timeout_s=5)
        stack.callback(opened.close)
        yield opened


@pytest.mark.slow
async def test_a_hint_leaves_the_stream_only_when_its_owner_has_answered(
    replica: ServerSubject, link: Link, tmp_path: Path
) -> None:
    assert keep(replica) == 1
    cluster = FakeCluster()
    cluster.sidecar.core.peers[1].link = link  # of three servers one is real
    hints = HintLog(tmp_path / "hints.db", "test", wall_ms=lambda: time.time_ns() // 1_000_000)
    await hints.start()
    adopting = asyncio.create_task(HintAdoption(hints, cluster.sidecar.core, visit_s=0.05).run())
    await until(lambda: hints.nodes() == [HINT.node], "the hint is taken over")
    [stored], _ = await hints.read(HINT.node, 0, 10)
    assert stored.hint == HINT
    replica.call(b"DEL", HINTS_TURN_KEY)
    await until(lambda: replica.call(b"EXISTS", HINTS_TURN_KEY) == 1, "it has come by again")
    assert [entry for _, entry in entries(replica)] == [ENTRY]
    hints.remove(stored)  # its owner has answered
    await until(lambda: entries(replica) == [], "it is deleted")
    adopting.cancel()
    await asyncio.wait({adopting})
    await hints.close()


@asynccontextmanager
async def adoption(link: Link, folder: Path) -> AsyncIterator[tuple[HintAdoption, HintLog, Peer]]:
    """Visits one real server; another node, the peer, is away. Hints age within an hour."""
    cluster = FakeCluster()
    peers = cluster.sidecar.core.peers
    for number in (2, 3):
        peers[number].link = None
    peers[1].link = link
    hints = HintLog(
        folder / "hints.db", "test", wall_ms=lambda: NOW_MS, bounds=HintBounds(age_ms=HOUR_MS)
    )
    await hints.start()
    yield HintAdoption(hints, cluster.sidecar.core), hints, peers[2]
    await hints.close()


def listed(replica: ServerSubject) -> int:
    """How often the stream was read."""
    stats = replica.call(b"INFO", b"commandstats")
    assert isinstance(stats, bytes)
    found = re.search(rb"cmdstat_xrange:calls=(\d+)", stats)
    return int(found[1]) if found else 0


async def test_a_stream_whose_owners_are_away_is_not_read_over_and_over(
    replica: ServerSubject, link: Link, tmp_path: Path
) -> None:
    keep(replica, encode_hint(HINT._replace(node=2, created_ms=NOW_MS)))
    async with adoption(link, tmp_path) as (adopting, hints, owner):
        await adopting.visit_all()
        before = listed(replica)
        await adopting.visit_all()
        assert (listed(replica), hints.nodes()) == (before, [])
        owner.link = link  # it is back
        await adopting.visit_all()
        assert hints.nodes() == [2]


async def test_a_hint_whose_owner_stays_away_ages_out_with_a_mark(
    replica: ServerSubject, link: Link, tmp_path: Path
) -> None:
    keep(replica, encode_hint(HINT._replace(node=2, created_ms=NOW_MS - HOUR_MS)))
    keep(replica, encode_hint(HINT._replace(node=2, created_ms=NOW_MS - HOUR_MS + 1)))
    async with adoption(link, tmp_path) as (adopting, hints, _):
        await adopting.visit_all()
        await adopting.visit_all()
        assert len(entries(replica)) == 1
        [mark] = hints.view().marks
        assert (mark.keyspace, mark.bucket, mark.cause) == (HINT.keyspace, HINT.bucket, "aged out")
        assert mark.durable
