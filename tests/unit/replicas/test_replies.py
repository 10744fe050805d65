import pytest
from hiredis import ReplyError

from buckets.bucket_map import Stage
from replicas.fence import Fence, Role, fence_prefix
from replicas.record import FLAG_LINEARIZABLE, decode_record, encode_record
from replicas.replies import Code, Refusal, Verdict, parse_read, parse_refusal, parse_write
from tests.support.replica_records import flip, sealed, version_at

FENCE = Fence(5, Stage.OLD, Role.OWNER, 9)
EXPECTED = fence_prefix(5, Stage.OLD, Role.OWNER, 9)
RECORD = encode_record(version_at(1), b"value")


def judged(fence: bytes | None, raw: bytes | None = RECORD) -> Verdict:
    return parse_read([fence, raw], EXPECTED, 5, 9)[0]


def fence(epoch: int = 5, role: Role = Role.OWNER, incarnation: int = 9) -> bytes:
    return Fence(epoch, Stage.OLD, role, incarnation).encode()


def test_a_record_behind_the_expected_fence_is_an_answer() -> None:
    answer = parse_read([FENCE.encode(), RECORD], EXPECTED, 5, 9)
    assert answer == (Verdict.ANSWER, decode_record(RECORD))


def test_an_absent_key_is_an_answer_only_behind_a_fence() -> None:
    assert parse_read([FENCE.encode(), None], EXPECTED, 5, 9) == (Verdict.ANSWER, None)
    assert parse_read([None, None], EXPECTED, 5, 9) == (Verdict.NO_FENCE, None)


def test_a_record_without_a_fence_is_no_answer() -> None:
    assert judged(None) is Verdict.NO_FENCE


@pytest.mark.parametrize(
    ("stored", "verdict"),
    [
        (fence(epoch=6), Verdict.STALE),
        (fence(epoch=4), Verdict.ANSWER),  # not raised yet
        (fence(incarnation=8), Verdict.WRONG_INCARNATION),
        (fence(epoch=4, incarnation=8), Verdict.WRONG_INCARNATION),
        (fence(role=Role.JOINING), Verdict.WRONG_ROLE),
        (fence(role=Role.READ_REPLICA), Verdict.WRONG_ROLE),
        (fence(role=Role.RELEASED), Verdict.RELEASED),
        (fence(epoch=6, role=Role.RELEASED), Verdict.STALE),
        (flip(fence(), 5), Verdict.CORRUPT),
        (b"", Verdict.CORRUPT),
    ],
)
def test_a_surprising_fence_is_judged(stored: bytes, verdict: Verdict) -> None:
    assert judged(stored) is verdict


def test_a_record_that_fails_its_checksum_is_no_answer() -> None:
    assert judged(FENCE.encode(), flip(RECORD, -1)) is Verdict.CORRUPT
    assert judged(FENCE.encode(), b"") is Verdict.CORRUPT


def test_a_record_of_the_other_mode_is_no_answer() -> None:
    raw = sealed(version_at(1) + bytes([FLAG_LINEARIZABLE]) + b"state")
    assert judged(FENCE.encode(), raw) is Verdict.WRONG_MODE


@pytest.mark.parametrize("reply", [ReplyError("ERR no"), None, 7, b"x", [], [b"f"]])
def test_what_no_read_answers_is_an_error(reply: object) -> None:
    assert parse_read(reply, EXPECTED, 5, 9) == (Verdict.ERROR, None)


def test_a_write_is_acknowledged_by_a_number() -> None:
    assert [parse_write(reply) for reply in (1, 2, 3)] == [1, 2, 3]


def test_a_refusal_carries_what_the_replica_knows() -> None:
    reply = [b"STALE_EPOCH", FENCE.encode(), b"entry", b""]
    assert parse_write(reply) == Refusal(Code.STALE_EPOCH, FENCE, b"entry", b"")
    assert parse_refusal([b"SKEWED", None, None, 1234]) == Refusal(Code.SKEWED, detail=1234)


@pytest.mark.parametrize(
    "message",
    [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "NOSCRIPT No matching script.",
        "LOADING the server is loading",
        "READONLY You can't write against a read only replica.",
    ],
)
def test_an_error_from_before_the_script_is_a_refusal(message: str) -> None:
    assert parse_write(ReplyError(message)) == Refusal(Code.SERVER, detail=message.encode())


@pytest.mark.parametrize(
    "reply",
    [
        ReplyError("ERR user_script:10: something in the middle"),
        ReplyError(""),
        0,
        4,
        None,
        b"OK",
        [],
        [b"UNHEARD_OF", None, None, b""],
        [b"\xff", None, None, b""],
        [None, None, None, b""],
        [b"PURGED", None, None],
    ],
)
def test_whatever_else_comes_proves_nothing(reply: object) -> None:
    assert parse_write(reply) is None
