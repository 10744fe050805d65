"""What every job of the control plane does to replicas: fence, collect, copy.

Each command carries the epoch of the job and is judged by the replica's fence, so that a leader
that slept and wakes up late does no harm.
"""

from collections.abc import Generator, Iterable

from buckets.bucket_map import Mode, Stage
from replicas.commands import (
    create_fence,
    pack_limits,
    raise_fence,
    read_command,
    read_prefix,
    release_fence,
    write_prefix,
    write_suffix,
)
from replicas.digest import EntriesStep, entries_command, overwrite_fence, parse_entries
from replicas.fence import Fence, Role
from replicas.record import Record, decode_record
from replicas.replies import Code, parse_refusal
from replicas.scripts import SCRIPTS
from replicas.version import ZERO_VERSION, winner
from tests.sim.controller import Answers, Ask, Controller, Request
from tests.sim.server import KEYS, SETTINGS

_TUNABLE = SETTINGS[Mode.TUNABLE]
LIMITS = pack_limits(_TUNABLE.max_skew_ms, _TUNABLE.log_bytes_per_bucket)  # of either mode

Records = dict[bytes, Record]  # by user key


def fence_of(controller: Controller, number: int, role: Role) -> bytes:
    """The fence that the node has under the present epoch."""
    bucket = controller.store.bucket
    owner = controller.store.owner(number)
    if owner is None:
        raise LookupError(f"node {number} is no member of the bucket")
    return Fence(bucket.epoch, bucket.stage, role, owner.incarnation).encode()


def raise_fences(
    controller: Controller, roles: dict[int, Role]
) -> Generator[Request, Answers, set[int]]:
    """Raises these nodes, each in its trusted life, to the present epoch; who did it."""
    store = controller.store
    asks = [
        Ask(
            number,
            raise_fence(KEYS, fence_of(controller, number, role), store.entry()),
            store.node(number).run_id,
        )
        for number, role in roles.items()
    ]
    answers = yield asks
    return {ask.node for ask, each in zip(asks, answers, strict=True) if each and each.reply == 1}


def begin_life(
    controller: Controller,
    number: int,
    *,
    incarnation: int,
    life: bytes,
    may_create: bool = True,
    floor: bytes = ZERO_VERSION,
) -> Generator[Request, Answers, bool | None]:
    """A joining fence over whatever the node has; None: it has none, and none may be created."""
    store = controller.store
    bucket = store.bucket
    fence = Fence(
        bucket.epoch, bucket.stage, Role.JOINING, incarnation, ballot_floor=floor
    ).encode()
    answers = yield [Ask(number, overwrite_fence(KEYS, fence, store.entry()), life)]
    if answers[0] is None:
        return False
    if answers[0].reply == 1:
        return True
    refusal = parse_refusal(answers[0].reply)
    if refusal is None or refusal.code is not Code.NO_FENCE:
        return False
    if not may_create:
        return None
    answers = yield [Ask(number, create_fence(KEYS, fence, store.entry()), life)]
    return answers[0] is not None and answers[0].reply == 1


def collect(
    controller: Controller, sources: Iterable[int], need: int
) -> Generator[Request, Answers, Records | None]:
    """The newest that any of the sources holds, of every key; None: fewer than `need` answered.

    A record that fails its checksum is no answer, so its holder is no source.
    """
    found: Records = {}
    good = 0
    for number in sources:
        theirs = yield from _records_of(controller, number)
        if theirs is None:
            continue
        good += 1
        for key, record in theirs.items():
            best = winner(record, found.get(key))
            if best is not None:
                found[key] = best
    return found if good >= need else None


def _records_of(controller: Controller, number: int) -> Generator[Request, Answers, Records | None]:
    store = controller.store
    owner, life = store.owner(number), store.node(number).run_id
    if owner is None:
        return None
    command = entries_command(
        KEYS, store.bucket.epoch, owner.incarnation, cursor=b"0", count=1000, leaves=1, wanted=[0]
    )
    answers = yield [Ask(number, command, life)]
    step = parse_entries(answers[0].reply) if answers[0] is not None else None
    if not isinstance(step, EntriesStep):
        return None
    prefix = read_prefix(KEYS)
    keys = sorted(name[1:] for name in step.entries)
    answers = yield [Ask(number, read_command(prefix, key), life) for key in keys]
    found = {}
    for key, answer in zip(keys, answers, strict=True):
        raw = answer.reply[1] if answer is not None and isinstance(answer.reply, list) else None
        record = decode_record(raw) if raw is not None else None
        if record is None:
            return None
        found[key] = record
    return found


def copy_to(
    controller: Controller, number: int, records: Records, *, incarnation: int, life: bytes
) -> Generator[Request, Answers, bool]:
    """Writes the records to the node, each under its own version; whether it took them all."""
    epoch = controller.store.bucket.epoch
    prefix = write_prefix(KEYS, epoch, incarnation, script=SCRIPTS["heal"])
    asks = [
        Ask(number, prefix + write_suffix(key, record.raw, LIMITS), life)
        for key, record in sorted(records.items())
    ]
    answers = yield asks
    return all(each is not None and each.reply in (1, 2, 3) for each in answers)


def release(controller: Controller, number: int) -> Generator[Request, Answers, bool]:
    """Leaves a gravestone with the successors' map entry on an owner that was."""
    store = controller.store
    owner = store.owner(number)
    if owner is None:
        return True
    fence = Fence(store.bucket.epoch, Stage.NEW, Role.RELEASED, owner.incarnation).encode()
    command = release_fence(KEYS, fence, store.entry())
    answers = yield [Ask(number, command, store.node(number).run_id)]
    return answers[0] is not None and answers[0].reply == 1
