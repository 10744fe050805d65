"""What a real server does at its limits: a full memory, a long log, keys of a wrong type."""

import time
from collections.abc import Iterator

import pytest
from hiredis import ReplyError

from buckets.bucket_map import Stage
from replicas.acceptor import NOTHING, encode_acceptor
from replicas.commands import (
    create_fence,
    pack_limits,
    prepare_prefix,
    prepare_suffix,
    write_prefix,
    write_suffix,
)
from replicas.fence import Fence, Role
from replicas.layout import bucket_keys
from replicas.record import encode_record
from replicas.replies import (
    APPLIED,
    Code,
    Refusal,
    parse_accept,
    parse_prepare,
    parse_write,
)
from replicas.scripts import SCRIPTS
from replicas.version import HybridClock
from tests.support.replica_subjects import ServerSubject
from tests.support.servers import start_redis, start_valkey, stopped_after

KEYS = bucket_keys("places", 3)
FENCE = Fence(1, Stage.OLD, Role.OWNER, 1)
PREFIX = write_prefix(KEYS, 1, 1)
LOG_BYTES = 64 << 10
LIMITS = pack_limits(600_000, LOG_BYTES)


@pytest.fixture(scope="module", params=["valkey", pytest.param("redis", marks=pytest.mark.peers)])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerSubject]:
    start = start_valkey if request.param == "valkey" else start_redis
    with stopped_after(start(tmp_path_factory.mktemp(request.param))) as running:
        connected = ServerSubject(running)
        yield connected
        connected.close()


@pytest.fixture
def replica(server: ServerSubject) -> ServerSubject:
    server.clear()
    assert server.execute(create_fence(KEYS, FENCE.encode(), b"")) == 1
    return server


@pytest.fixture
def clock() -> HybridClock:
    return HybridClock(b"writer-1")


def put(key: bytes, clock: HybridClock, value: bytes = b"x") -> bytes:
    return PREFIX + write_suffix(key, encode_record(clock.next(now_ms()), value), LIMITS)


def now_ms() -> int:
    return int(time.time() * 1000)


@pytest.mark.slow
@pytest.mark.parametrize("key_bytes", [1, 30, 200, 1024])
def test_a_log_stays_within_its_bytes_whatever_the_keys(
    replica: ServerSubject, key_bytes: int
) -> None:
    # Versions spread over the milliseconds, as under real load.
    commands = [
        PREFIX
        + write_suffix(
            b"%0*d" % (key_bytes, number % 10),
            encode_record(HybridClock(b"writer-1").next(now_ms() - 5000 + number), b"x"),
            LIMITS,
        )
        for number in range(5000)
    ]
    for start in range(0, len(commands), 500):
        replica.execute_all(commands[start : start + 500])
    used = replica.call(b"MEMORY", b"USAGE", KEYS.log)
    assert isinstance(used, int)
    # Entries leave in blocks of up to 4 KiB, and are weighed once in about 64 writes.
    assert LOG_BYTES / 4 < used < LOG_BYTES + 128 * (key_bytes + 64)


def test_a_log_key_of_a_wrong_type_refuses_the_write_before_anything_is_written(
    replica: ServerSubject, clock: HybridClock
) -> None:
    replica.call(b"SET", KEYS.log, b"not a log")
    outcome = parse_write(replica.execute(put(b"key", clock)))
    assert isinstance(outcome, Refusal)
    assert outcome.code is Code.SERVER
    assert b"kkey" not in replica.fields(KEYS.data)


def test_a_full_memory_refuses_the_write_before_anything_is_written(
    replica: ServerSubject, clock: HybridClock
) -> None:
    replica.call(b"CONFIG", b"SET", b"maxmemory", b"1")
    try:
        reply = replica.execute(put(b"key", clock))
    finally:
        replica.call(b"CONFIG", b"SET", b"maxmemory", b"0")
    assert isinstance(reply, ReplyError)
    outcome = parse_write(reply)
    assert isinstance(outcome, Refusal)
    assert outcome.code is Code.SERVER
    assert replica.log(KEYS.log) == []
    assert b"kkey" not in replica.fields(KEYS.data)
    assert parse_write(replica.execute(put(b"key", clock))) == APPLIED


def test_acceptors_refuse_at_these_limits_too_before_anything_is_written(
    replica: ServerSubject, clock: HybridClock
) -> None:
    ballot = clock.next(now_ms())
    prepare = prepare_prefix(KEYS, 1, 1) + prepare_suffix(b"key", ballot)
    record = encode_acceptor(ballot, NOTHING)
    prefix = write_prefix(KEYS, 1, 1, script=SCRIPTS["accept"])
    accept = prefix + write_suffix(b"key", record, LIMITS)
    replica.call(b"SET", KEYS.log, b"not a log")
    refusals: list[object] = [parse_accept(replica.execute(accept))]
    replica.call(b"DEL", KEYS.log)
    replica.call(b"CONFIG", b"SET", b"maxmemory", b"1")
    try:
        refusals.append(parse_accept(replica.execute(accept)))
        refusals.append(parse_prepare(replica.execute(prepare), ballot))
    finally:
        replica.call(b"CONFIG", b"SET", b"maxmemory", b"0")
    codes = [refusal.code for refusal in refusals if isinstance(refusal, Refusal)]
    assert codes == [Code.SERVER] * 3
    assert replica.log(KEYS.log) == []
    assert b"kkey" not in replica.fields(KEYS.data)


@pytest.mark.parametrize("value_bytes", [0, 1, 1 << 20])
@pytest.mark.parametrize("key", [b"k", b"\x00", b"f", b"{a}\r\n", b"\xff" * 1024])
def test_keys_and_values_of_any_bytes_come_back(
    replica: ServerSubject, clock: HybridClock, key: bytes, value_bytes: int
) -> None:
    record = encode_record(clock.next(now_ms()), b"\n" * value_bytes)
    assert parse_write(replica.execute(PREFIX + write_suffix(key, record, LIMITS))) == APPLIED
    assert replica.fields(KEYS.data)[b"k" + key] == record
