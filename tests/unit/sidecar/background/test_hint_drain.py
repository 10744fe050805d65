"""Replays of hints as playbooks: what the owner says, and what becomes of the hint."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hiredis import ReplyError

from buckets.bucket_map import Owner, Stage
from replicas.fence import Fence, Role
from replicas.group import encode_group
from replicas.record import encode_record
from sidecar.background.hint_drain import LEFT_IN_A_ROW, MAX_REST_S, HintDrain
from sidecar.background.hint_log import HintLog
from sidecar.core.hints import ONLY_COPY, Hint
from sidecar.core.peer import Peer
from sidecar.core.route import Route
from tests.support.fake_cluster import KEYSPACE, START_MS, FakeCluster, Move
from tests.support.replica_records import version_at

KEY = b"key"
PURGED_FENCE = Fence(1, Stage.OLD, Role.OWNER, 1, purged_through=b"\1" * 16).encode()


class Routes:
    """What a replay may ask of the coordinator."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._sidecar = cluster.sidecar
        self.peers: dict[int, Peer] = cluster.sidecar.core.peers

    def route_of(self, keyspace: str, key: bytes) -> Route | None:
        bucket_map = self._sidecar.core.map
        assert bucket_map is not None
        known = bucket_map.keyspaces.get(keyspace)
        return None if known is None else Route(known, known.bucket_of(key), self.peers, "a")

    def learn(self, raw_entry: object) -> None:
        assert isinstance(raw_entry, bytes)
        self._sidecar.learn(raw_entry)


class Play:
    """A cluster, a log on disk, and a drain whose turns the test takes."""

    def __init__(self, cluster: FakeCluster, hints: HintLog, rate_per_s: float) -> None:
        self.cluster = cluster
        self.log = hints
        self.drain = HintDrain(hints, Routes(cluster), lambda: cluster.now_s, rate_per_s=rate_per_s)

    async def keep(
        self,
        *nodes: int,
        key: bytes = KEY,
        value: bytes = b"v",
        at_ms: int = START_MS,
        keyspace: str = KEYSPACE,
    ) -> bytes:
        """A hint for each of these nodes; the version."""
        version = version_at(at_ms)
        record = encode_record(version, value)
        for node in nodes:
            self.log.keep(Hint(keyspace, 0, key, record, node, at_ms))
        await self.log.flush()
        return version

    async def turn(self) -> bool:
        """One turn, with what it reads from the disk; nothing moves between the nodes."""
        busy = self.drain.turn()
        await self.read()
        return busy

    async def read(self) -> None:
        for replay in list(self.drain._nodes.values()):
            if replay.reading is not None:
                await replay.reading

    async def replay(self, seconds: float = 0.0) -> None:
        """Turns until none is of use, with all that moves meanwhile; at least so long."""
        ends_at = self.cluster.now_s + seconds
        while await self.turn() or self.cluster.now_s < ends_at:
            self.cluster.flow()
            self.cluster.wait(0.01)
        await self.log.flush()

    def left(self) -> dict[int, int]:
        """How many hints wait for each node."""
        return {node.node: node.count for node in self.log.view().nodes}

    def marked(self) -> list[int]:
        return [mark.bucket for mark in self.log.view().marks]

    def held_by(self, key: bytes = KEY) -> set[int]:
        return {n for n in self.cluster.replicas if self.cluster.record(n, key) is not None}


@asynccontextmanager
async def play(
    tmp_path: Path, cluster: FakeCluster | None = None, rate_per_s: float = 1e9
) -> AsyncIterator[Play]:
    made = cluster or FakeCluster()
    hints = HintLog(tmp_path / "hints.db", "test", wall_ms=lambda: made.wall_ms)
    await hints.start()
    playing = Play(made, hints, rate_per_s)
    yield playing
    await playing.drain.close()
    await hints.close()


async def test_an_owner_gets_what_it_missed_with_its_version(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        version = await game.keep(2)
        await game.replay()
        assert game.held_by() == {2}
        record = game.cluster.record(2, KEY)
        assert record is not None
        assert record.version == version
        assert game.left() == {}
        assert game.log.view().counters["replayed"] == 1


async def test_the_hint_stays_until_the_owner_has_answered(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        await game.keep(2)
        await game.turn()
        game.cluster.link(2).deliver()
        await game.log.flush()
        assert game.held_by() == {2}
        assert game.left() == {2: 1}  # its answer is on the way
        game.cluster.link(2).answer()
        await game.log.flush()
        assert game.left() == {}


async def test_nothing_is_sent_to_a_node_that_is_away(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        await game.keep(2)
        game.cluster.link(2).cut()
        await game.replay(2.0)
        assert game.left() == {2: 1}
        game.cluster.sidecar.connect(2)
        await game.replay()
        assert game.left() == {}


async def test_a_broken_connection_keeps_the_hint_and_the_next_one_takes_it(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        await game.keep(2)
        await game.turn()
        game.cluster.link(2).deliver()
        game.cluster.link(2).cut()  # applied, and the answer was lost
        await game.log.flush()
        assert game.left() == {2: 1}
        game.cluster.sidecar.connect(2)
        await game.replay(1.0)
        assert game.left() == {}


async def test_a_newer_version_there_ends_the_hint(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        newer = game.cluster.put(KEY, b"newer")
        game.cluster.flow()
        assert newer.ended
        await game.keep(2, value=b"old", at_ms=START_MS - 60_000)
        await game.replay()
        assert game.left() == {}
        record = game.cluster.record(2, KEY)
        assert record is not None
        assert record.value == b"newer"


async def test_what_was_purged_is_not_brought_back(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        await game.keep(2)
        await game.turn()
        game.cluster.link(2).answer_with([b"PURGED", PURGED_FENCE, None, b""])
        await game.replay()
        assert game.left() == {}
        assert game.held_by() == set()
        assert game.log.view().counters["purged"] == 1
        assert game.marked() == []


async def test_an_only_copy_that_comes_after_the_purge_is_not_dropped_silently(
    tmp_path: Path,
) -> None:
    async with play(tmp_path) as game:
        await game.keep(ONLY_COPY)
        await game.turn()
        for number in (1, 2, 3):
            game.cluster.link(number).answer_with([b"PURGED", PURGED_FENCE, None, b""])
        await game.replay()
        assert game.left() == {}
        assert game.held_by() == set()
        [(cause, lost)] = [(mark.cause, mark.lost) for mark in game.log.view().marks]
        assert (cause, lost) == ("the only copy of a write came after its purge", 1)


async def test_an_owner_at_a_later_epoch_teaches_it_and_gets_its_hint(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        cluster = game.cluster
        cluster.change()
        cluster.fence_raised(1, 2, 3)  # and the sidecar has not heard of it
        await game.keep(2)
        await game.replay(1.0)
        assert game.held_by() == {2}
        assert game.left() == {}
        bucket_map = cluster.sidecar.core.map
        assert bucket_map is not None
        assert bucket_map.keyspaces[KEYSPACE].buckets[0].epoch == cluster.bucket.epoch


async def test_a_hint_for_an_owner_that_has_gone_goes_to_all_that_are_owners_now(
    tmp_path: Path,
) -> None:
    cluster = FakeCluster(nodes=6)
    async with play(tmp_path, cluster) as game:
        await game.keep(2)
        move = Move(cluster, (4, 5, 6))
        move.write_both_read_old()
        move.copy()
        move.write_both_read_new()
        move.write_new()
        cluster.change(owners=tuple(Owner(n, 1) for n in (4, 5, 6)), pending=(), stage=0)
        cluster.fence_raised(4, 5, 6)
        cluster.publish()
        cluster.link(6).cut()
        await game.replay()
        assert game.held_by() == {4, 5}
        assert game.left() == {6: 1}  # the one that is away has a hint of its own
        cluster.sidecar.connect(6)
        await game.replay(1.0)
        assert game.held_by() == {4, 5, 6}
        assert game.left() == {}


async def test_a_clock_that_is_ahead_keeps_the_hint_until_time_has_caught_up(
    tmp_path: Path,
) -> None:
    async with play(tmp_path) as game:
        await game.keep(2, at_ms=START_MS + 5_000)
        await game.replay(1.0)
        assert game.left() == {2: 1}
        game.cluster.wait(6.0)
        await game.replay(MAX_REST_S)
        assert game.left() == {}


async def test_a_suspect_owner_with_a_fence_gets_its_hint(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        game.cluster.suspect(2)
        game.cluster.publish()
        await game.keep(2)
        await game.replay()
        assert game.held_by() == {2}
        assert game.left() == {}


async def test_an_owner_without_a_fence_keeps_its_hint_waiting(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        game.cluster.crash(2, empty=True)
        game.cluster.sidecar.connect(2)
        await game.keep(2)
        await game.replay(1.0)
        assert game.left() == {2: 1}
        assert game.held_by() == set()


async def test_what_an_owner_will_never_take_marks_the_bucket(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        await game.keep(2)
        await game.turn()
        game.cluster.link(2).answer_with([b"WRONG_MODE", None, None, b"stored"])
        await game.replay()
        assert game.left() == {}
        assert game.marked() == [0]
        assert game.log.view().counters["refused_for_good"] == 1


async def test_a_server_without_memory_is_tried_again_later(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        await game.keep(2)
        await game.turn()
        game.cluster.link(2).answer_with(ReplyError("OOM command not allowed"))
        assert game.left() == {2: 1}
        await game.turn()
        assert not await game.turn()  # it rests first
        await game.replay(1.0)
        assert game.left() == {}


async def test_a_keyspace_that_is_not_in_the_map_keeps_its_hints(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        await game.keep(2, keyspace="gone")
        await game.replay(1.0)
        assert game.left() == {2: 1}


# --- the only copy (level ANY)


async def test_an_only_copy_goes_to_every_owner(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        await game.keep(ONLY_COPY)
        await game.replay()
        assert game.held_by() == {1, 2, 3}
        assert game.left() == {}


async def test_owners_that_are_away_get_hints_of_their_own_once_one_has_it(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        await game.keep(ONLY_COPY)
        game.cluster.link(1).cut()
        game.cluster.link(3).cut()
        await game.replay()
        assert game.held_by() == {2}
        assert game.left() == {1: 1, 3: 1}


async def test_an_only_copy_is_not_given_up_for_a_suspect_owner(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        game.cluster.suspect(2)
        game.cluster.publish()
        game.cluster.link(1).cut()
        game.cluster.link(3).cut()
        await game.keep(ONLY_COPY)
        await game.replay(1.0)
        assert game.held_by() == {2}  # it has it, and may be emptied before it is trusted
        assert game.left() == {ONLY_COPY: 1}


async def test_an_only_copy_is_kept_even_if_an_owner_will_never_take_it(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        await game.keep(ONLY_COPY)
        game.cluster.link(1).cut()
        game.cluster.link(3).cut()
        await game.turn()
        game.cluster.link(2).answer_with([b"WRONG_MODE", None, None, b"stored"])
        await game.log.flush()
        assert game.left() == {ONLY_COPY: 1}


async def test_a_joining_owner_gets_it_too(tmp_path: Path) -> None:
    cluster = FakeCluster(nodes=4)
    async with play(tmp_path, cluster) as game:
        Move(cluster, (2, 3, 4)).write_both_read_old()
        cluster.publish()
        assert cluster.fence(4).role is Role.JOINING
        await game.keep(4, ONLY_COPY)
        await game.replay()
        assert game.held_by() == {1, 2, 3, 4}
        assert game.left() == {}


# --- many


async def test_no_more_are_on_their_way_than_the_window_has(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        for number in range(100):
            game.log.keep(hint_of(number))
        await game.log.flush()
        await game.turn()
        assert len(game.cluster.link(2).commands) == 2
        game.cluster.link(2).deliver(2)
        game.cluster.link(2).answer(2)
        assert 2 <= len(game.cluster.link(2).commands) <= 4
        await game.replay()
        assert game.left() == {}


async def test_the_budget_is_kept(tmp_path: Path) -> None:
    async with play(tmp_path, rate_per_s=100) as game:
        for number in range(300):
            game.log.keep(hint_of(number))
        await game.log.flush()
        began = game.cluster.now_s
        await game.replay()
        assert game.left() == {}
        assert 2.4 < game.cluster.now_s - began < 4.0


async def test_hints_that_are_refused_do_not_hold_up_those_behind_them(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        for number in range(2 * LEFT_IN_A_ROW):
            game.log.keep(hint_of(number, at_ms=START_MS + 3_600_000))  # from the future
        await game.keep(2)
        await game.replay(5.0)
        assert game.held_by() == {2}
        assert game.left() == {2: 2 * LEFT_IN_A_ROW}


async def test_finish_replays_all_that_can_be_without_a_budget(tmp_path: Path) -> None:
    async with play(tmp_path, rate_per_s=1) as game:
        for number in range(500):
            game.log.keep(hint_of(number))
        game.log.keep(hint_of(1, node=3))
        game.cluster.link(3).cut()

        async def answer() -> None:
            while True:
                game.cluster.flow()
                await asyncio.sleep(0)

        answering = asyncio.create_task(answer())
        left = await game.drain.finish(10.0)
        answering.cancel()
        assert left == 1
        assert game.left() == {3: 1}


async def test_finish_ends_in_time_when_a_node_does_not_answer(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        await game.keep(2)

        async def pass_time() -> None:
            while True:
                game.cluster.now_s += 0.1
                await asyncio.sleep(0.001)

        passing = asyncio.create_task(pass_time())
        assert await game.drain.finish(5.0) == 1
        passing.cancel()


def hint_of(number: int, *, node: int = 2, at_ms: int = START_MS) -> Hint:
    record = encode_record(version_at(at_ms, number), b"v")
    return Hint(KEYSPACE, 0, b"key-%d" % number, record, node, at_ms)


async def test_a_group_is_replayed_together(tmp_path: Path) -> None:
    async with play(tmp_path) as game:
        version = version_at(START_MS)
        keys = (b"{x}a", b"{x}b")
        group = encode_group(version, [(key, encode_record(version, b"v")) for key in keys])
        game.log.keep(Hint(KEYSPACE, 0, keys[0], group, 3, START_MS))
        await game.log.flush()
        await game.replay()
        assert [game.cluster.holders(key, version) for key in keys] == [{3}, {3}]
        assert game.left() == {}
