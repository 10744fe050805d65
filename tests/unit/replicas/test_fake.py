from hiredis import ReplyError

from buckets.bucket_map import Stage
from replicas.commands import (
    PING,
    TIME,
    create_fence,
    pack_command,
    pack_limits,
    read_command,
    read_prefix,
    write_prefix,
    write_suffix,
)
from replicas.fake import LOG_ENTRY_BYTES, FakeReplica
from replicas.fence import Fence, Role
from replicas.layout import bucket_keys
from replicas.record import encode_record
from tests.support.replica_records import version_at

NOW_MS = 1_763_700_000_123
KEYS = bucket_keys("places", 3)
FENCE = Fence(5, Stage.OLD, Role.OWNER, 9).encode()
READ = read_command(read_prefix(KEYS), b"key")
FIRST_LIFE, SECOND_LIFE = b"1" * 20, b"2" * 20


def owner() -> FakeReplica:
    replica = FakeReplica(FIRST_LIFE)
    assert replica.execute(create_fence(KEYS, FENCE, b"entry"), NOW_MS) == 1
    return replica


def put(replica: FakeReplica, ms: int, *, log_bytes: int = 1 << 20) -> bytes:
    record = encode_record(version_at(ms), b"value")
    limits = pack_limits(500, log_bytes)
    command = write_prefix(KEYS, 5, 9) + write_suffix(b"key", record, limits)
    assert replica.execute(command, NOW_MS) in (1, 2)
    return record


def test_a_replica_that_forgot_everything_holds_no_bucket() -> None:
    replica = owner()
    put(replica, NOW_MS)
    replica.restart_empty(SECOND_LIFE)
    assert replica.run_id == SECOND_LIFE
    assert replica.execute(READ, NOW_MS) == [None, None]


def test_a_replica_that_forgot_its_last_second_is_back_at_its_snapshot() -> None:
    replica = owner()
    first = put(replica, NOW_MS - 1000)
    saved = replica.snapshot()
    put(replica, NOW_MS)
    for life in (SECOND_LIFE, FIRST_LIFE):
        replica.restart(life, saved)
        assert replica.execute(READ, NOW_MS) == [FENCE, first]
        put(replica, NOW_MS)  # a snapshot can be used again


def test_a_clean_restart_keeps_everything_in_a_new_life() -> None:
    replica = owner()
    record = put(replica, NOW_MS)
    replica.restart(SECOND_LIFE)
    assert replica.run_id == SECOND_LIFE
    assert replica.execute(READ, NOW_MS) == [FENCE, record]


def test_its_clock_is_the_callers() -> None:
    assert FakeReplica(FIRST_LIFE).execute(TIME, NOW_MS) == [b"1763700000", b"123000"]


def test_its_log_is_bounded() -> None:
    replica = owner()
    for number in range(10):
        put(replica, NOW_MS - 100 + number, log_bytes=3 * LOG_ENTRY_BYTES)
    kept = replica.state.logs[KEYS.log]
    assert kept == [version_at(NOW_MS - 100 + number) + b"key" for number in (7, 8, 9)]


def test_what_it_does_not_know_is_an_error_as_a_value() -> None:
    replica = FakeReplica(FIRST_LIFE)
    assert replica.execute(PING, NOW_MS) == b"PONG"
    assert isinstance(replica.execute(pack_command(b"FLUSHALL"), NOW_MS), ReplyError)
