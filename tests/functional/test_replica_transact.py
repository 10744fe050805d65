"""Several keys written by one script, on the fake and on Valkey alike."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from buckets.bucket_map import Stage
from replicas.commands import create_fence, pack_limits, write_prefix, write_suffix
from replicas.fence import Fence, Role
from replicas.group import encode_group
from replicas.layout import FENCE_FIELD, bucket_keys, user_field
from replicas.record import FLAG_LINEARIZABLE, encode_record
from replicas.replies import APPLIED, APPLIED_OVER_LIVE, SUPERSEDED, Code, Refusal, parse_write
from replicas.scripts import SCRIPTS
from tests.support.replica_records import flip, sealed, version_at
from tests.support.replica_subjects import FakeSubject, ServerSubject, Subject
from tests.support.servers import start_valkey, stopped_after

KEYS = bucket_keys("places", 17)
FENCE = Fence(epoch=5, stage=Stage.OLD, role=Role.OWNER, incarnation=9)
LIMITS = pack_limits(500, 1 << 20)
A, B = b"{x}a", b"{x}b"


@pytest.fixture(scope="module", params=["fake", "valkey"])
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    if request.param == "fake":
        yield FakeSubject(int(time.time() * 1000))
        return
    with stopped_after(start_valkey(tmp_path_factory.mktemp("valkey"))) as server:
        connected = ServerSubject(server)
        yield connected
        connected.close()


@pytest.fixture
def replica(subject: Subject) -> Subject:
    """An owner of the bucket."""
    subject.clear()
    assert subject.execute(create_fence(KEYS, FENCE.encode(), b"the map entry")) == 1
    return subject


def transact(
    replica: Subject, version: bytes, values: dict[bytes, bytes | None], *, epoch: int = 5
) -> int | Refusal | None:
    records = [
        (key, encode_record(version, value or b"", tombstone=value is None))
        for key, value in values.items()
    ]
    return send(replica, encode_group(version, records), epoch=epoch)


def send(replica: Subject, group: bytes, *, epoch: int = 5) -> int | Refusal | None:
    prefix = write_prefix(KEYS, epoch, 9, script=SCRIPTS["transact"])
    return parse_write(replica.execute(prefix + write_suffix(A, group, LIMITS)))


def put(replica: Subject, key: bytes, record: bytes) -> object:
    return replica.execute(write_prefix(KEYS, 5, 9) + write_suffix(key, record, LIMITS))


def version(replica: Subject, ahead_ms: int = 0) -> bytes:
    return version_at(replica.now_ms() + ahead_ms)


def everything(replica: Subject) -> object:
    return replica.fields(KEYS.data), replica.log(KEYS.log)


def test_all_keys_are_stored_and_logged_under_one_version(replica: Subject) -> None:
    one = version(replica)
    assert transact(replica, one, {A: b"1", B: b"2"}) == APPLIED
    fields = replica.fields(KEYS.data)
    assert fields[user_field(A)] == encode_record(one, b"1")
    assert fields[user_field(B)] == encode_record(one, b"2")
    assert replica.log(KEYS.log) == [one + A, one + B]


def test_the_same_again_changes_nothing(replica: Subject) -> None:
    one = version(replica)
    transact(replica, one, {A: b"1", B: None})
    before = everything(replica)
    assert transact(replica, one, {A: b"1", B: None}) == APPLIED
    assert everything(replica) == before


def test_a_newer_value_stays_and_the_other_keys_are_written(replica: Subject) -> None:
    newer = encode_record(version(replica, -1000), b"newer")
    put(replica, A, newer)
    older = version(replica, -2000)
    assert transact(replica, older, {A: b"1", B: b"2"}) == SUPERSEDED
    fields = replica.fields(KEYS.data)
    assert fields[user_field(A)] == newer
    assert fields[user_field(B)] == encode_record(older, b"2")


def test_over_a_live_value_it_says_so(replica: Subject) -> None:
    put(replica, B, encode_record(version(replica, -1000), b"old"))
    assert transact(replica, version(replica), {A: b"1", B: None}) == APPLIED_OVER_LIVE


@pytest.mark.parametrize("damage", ["corrupt", "linearizable"])
def test_one_key_that_can_not_be_judged_refuses_all_of_them(replica: Subject, damage: str) -> None:
    stored = encode_record(version(replica, -1000), b"v")
    if damage == "corrupt":
        stored = flip(stored, 3)
    else:
        stored = sealed(stored[8:24] + bytes([FLAG_LINEARIZABLE]) + stored[25:])
    replica.poke(KEYS.data, user_field(B), stored)
    before = everything(replica)
    refusal = transact(replica, version(replica), {A: b"1", B: b"2"})
    assert isinstance(refusal, Refusal)
    assert refusal.code is (Code.CORRUPT if damage == "corrupt" else Code.WRONG_MODE)
    assert everything(replica) == before


def test_a_purged_or_closed_time_refuses_all_of_them(replica: Subject) -> None:
    mark = version(replica)
    put(replica, A, encode_record(version(replica, -3000), b"old"))
    for fence, code in (
        (replace(FENCE, purged_through=mark), Code.PURGED),
        (replace(FENCE, closed_through=mark), Code.CLOSED),
    ):
        replica.poke(KEYS.data, FENCE_FIELD, fence.encode())
        before = everything(replica)
        refusal = transact(replica, version(replica, -1000), {A: b"1", B: b"2"})
        assert isinstance(refusal, Refusal)
        assert refusal.code is code
        assert everything(replica) == before


def test_fence_and_clock_judge_it_as_a_write(replica: Subject) -> None:
    refusals = [
        transact(replica, version(replica, 60_000), {A: b"1"}),
        transact(replica, version(replica), {A: b"1"}, epoch=4),
        send(replica, encode_record(version(replica), b"v")),
        send(replica, flip(encode_group(version(replica), [(A, b"no record")]), 0)),
    ]
    codes = [refusal.code for refusal in refusals if isinstance(refusal, Refusal)]
    assert codes == [Code.SKEWED, Code.STALE_EPOCH, Code.BAD_REQUEST, Code.BAD_REQUEST]
    assert replica.fields(KEYS.data).keys().isdisjoint({user_field(A)})


def test_a_write_takes_no_group(replica: Subject) -> None:
    one = version(replica)
    reply = put(replica, A, encode_group(one, [(A, encode_record(one, b"1"))]))
    assert isinstance(reply, list)
    assert reply[0] == b"BAD_REQUEST"
