"""What replicas answer to reads and writes, as values: nothing here raises."""

import enum
from typing import Final, Literal, NamedTuple

from hiredis import ReplyError

from replicas.acceptor import UNTOUCHED, Acceptor, decode_acceptor
from replicas.fence import Fence, Role, decode_fence
from replicas.record import FLAG_LINEARIZABLE, Record, decode_record

APPLIED: Final = 1  # nothing live was there before
APPLIED_OVER_LIVE: Final = 2
SUPERSEDED: Final = 3  # a newer valid record stands: an acknowledgement all the same


class Code(enum.StrEnum):
    """Why a replica refused, in the words of the scripts."""

    BAD_REQUEST = "BAD_REQUEST"
    NO_FENCE = "NO_FENCE"
    CORRUPT = "CORRUPT"
    RELEASED = "RELEASED"
    STALE_EPOCH = "STALE_EPOCH"
    WRONG_INCARNATION = "WRONG_INCARNATION"
    WRONG_ROLE = "WRONG_ROLE"
    WRONG_MODE = "WRONG_MODE"
    SKEWED = "SKEWED"
    CLOSED = "CLOSED"
    PURGED = "PURGED"
    NOT_CLOSED = "NOT_CLOSED"
    LOW_BALLOT = "LOW_BALLOT"
    EXISTS = "EXISTS"
    LEFTOVERS = "LEFTOVERS"
    SERVER = "SERVER"  # the server refused to run the script at all; the detail is its message


class Refusal(NamedTuple):
    """An atomic refusal: the replica changed nothing.

    `fence` and `entry` (BucketEntry bytes) are the replica's own, where it sent them. `detail` is
    the server's clock in milliseconds for SKEWED, the ballot to be above for LOW_BALLOT, otherwise
    words.
    """

    code: Code
    fence: Fence | None = None
    entry: bytes | None = None
    detail: bytes | int = b""


# First words of errors with which a server refuses a command before it changes anything. The
# scripts write nothing before their last judgement, and the log before the record: it holds there.
_SERVER_REFUSALS = frozenset(
    {
        *("OOM", "MISCONF", "NOSCRIPT", "READONLY", "LOADING", "BUSY", "WRONGTYPE"),
        *("NOAUTH", "WRONGPASS", "NOPERM", "DENIED", "MASTERDOWN", "NOREPLICAS"),
    }
)


class Verdict(enum.IntEnum):
    """What a reader makes of a replica's answer. Only ANSWER counts; the rest say why not."""

    ANSWER = 0
    NO_FENCE = 1  # the replica does not hold the bucket: never "not found"
    STALE = 2  # its fence is newer than the reader's map: fetch the map entry beside it
    WRONG_INCARNATION = 3
    WRONG_ROLE = 4  # joining, or following: not complete
    RELEASED = 5
    CORRUPT = 6  # fence or record fail their checksum: heal the record
    WRONG_MODE = 7
    ERROR = 8  # the server answered with an error, or with nothing that a read answers


def parse_write(reply: object) -> int | Refusal | None:
    """APPLIED, APPLIED_OVER_LIVE or SUPERSEDED; a refusal; None: anything else, so unknown."""
    if isinstance(reply, int):
        return reply if APPLIED <= reply <= SUPERSEDED else None
    return parse_refusal(reply)


def parse_prepare(reply: object, ballot: bytes) -> Acceptor | Refusal | None:
    """The acceptor's state with its promise of `ballot`; a refusal; None: anything else."""
    if isinstance(reply, bytes):
        acceptor = decode_acceptor(reply)
        return acceptor if acceptor is not None and acceptor.promise == ballot else None
    return parse_refusal(reply)


def parse_accept(reply: object) -> Literal[True] | Refusal | None:
    """True: accepted; a refusal; None: anything else, so unknown."""
    return True if reply == APPLIED else parse_refusal(reply)


def parse_refusal(reply: object) -> Refusal | None:
    """The refusal in a script's reply; None when it does not prove that nothing was changed."""
    if isinstance(reply, ReplyError):
        message = str(reply)
        if message.partition(" ")[0] in _SERVER_REFUSALS:
            return Refusal(Code.SERVER, detail=message.encode())
        return None
    if not isinstance(reply, list) or len(reply) != 4:
        return None
    code, fence, entry, detail = reply
    try:
        known = Code(code.decode())
    except (AttributeError, UnicodeDecodeError, ValueError):
        return None
    return Refusal(known, decode_fence(fence) if fence else None, entry, detail)


def parse_read(
    reply: object, expected: bytes, epoch: int, incarnation: int
) -> tuple[Verdict, Record | None]:
    """Judges the reply of a read_command by the fence that came with the record.

    `expected` is fence_prefix of the owner as the reader's map has it: one comparison where the two
    agree. `epoch` and `incarnation` are the map's too. (ANSWER, None) means "no such key here".
    """
    verdict, raw = _judge_pair(reply, expected, epoch, incarnation)
    if raw is None:
        return verdict, None
    record = decode_record(raw)
    if record is None:
        return Verdict.CORRUPT, None
    if record.flags & FLAG_LINEARIZABLE:
        return Verdict.WRONG_MODE, None
    return Verdict.ANSWER, record


def parse_acceptor_read(
    reply: object, expected: bytes, epoch: int, incarnation: int
) -> tuple[Verdict, Acceptor | None]:
    """As parse_read, in the linearizable mode; of a key without a record UNTOUCHED."""
    verdict, raw = _judge_pair(reply, expected, epoch, incarnation)
    if raw is None:
        return verdict, UNTOUCHED if verdict is Verdict.ANSWER else None
    acceptor = decode_acceptor(raw)
    if acceptor is not None:
        return Verdict.ANSWER, acceptor
    record = decode_record(raw)
    tunable = record is not None and not record.is_linearizable
    return Verdict.WRONG_MODE if tunable else Verdict.CORRUPT, None


def _judge_pair(
    reply: object, expected: bytes, epoch: int, incarnation: int
) -> tuple[Verdict, bytes | None]:
    """(ANSWER, what is stored under the key, or None), or why the pair is no answer."""
    if not isinstance(reply, list) or len(reply) != 2:
        return Verdict.ERROR, None
    fence, raw = reply
    if fence is None:
        return Verdict.NO_FENCE, None
    if not fence.startswith(expected):
        verdict = judge_fence(decode_fence(fence), epoch, incarnation)
        if verdict is not Verdict.ANSWER:
            return verdict, None
    return Verdict.ANSWER, raw


def judge_fence(fence: Fence | None, epoch: int, incarnation: int) -> Verdict:
    """What a reader at `epoch`, to whom the owner has `incarnation`, makes of a fence.

    A fence older than the reader's map is no objection: it has not been raised yet.
    """
    if fence is None:
        return Verdict.CORRUPT
    if fence.epoch > epoch:
        return Verdict.STALE
    if fence.role is Role.RELEASED:
        return Verdict.RELEASED
    if fence.incarnation != incarnation:
        return Verdict.WRONG_INCARNATION
    return Verdict.ANSWER if fence.role is Role.OWNER else Verdict.WRONG_ROLE
