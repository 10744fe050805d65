"""What every job of the control plane does to replicas: fence, collect, copy.

Each command carries the epoch of the job and is judged by the replica's fence, so that a leader
that slept and wakes up late does no harm.
"""

from collections.abc import Collection, Generator, Iterable
from typing import NamedTuple

from buckets.bucket_map import Mode, Stage
from replicas.commands import (
    copy_command,
    create_fence,
    entry_command,
    pack_limits,
    raise_fence,
    read_command,
    read_prefix,
    release_fence,
    write_prefix,
    write_suffix,
)
from replicas.digest import (
    EntriesStep,
    drop_command,
    entries_command,
    overwrite_fence,
    parse_entries,
)
from replicas.fence import Fence, Role, decode_fence
from replicas.record import Record, decode_record
from replicas.replies import APPLIED, APPLIED_OVER_LIVE, SUPERSEDED, Code, parse_refusal
from replicas.scripts import SCRIPTS
from replicas.version import ZERO_VERSION, winner
from tests.sim.controller import Answers, Ask, Controller, Request
from tests.sim.server import KEYS, SETTINGS

_TUNABLE = SETTINGS[Mode.TUNABLE]
LIMITS = pack_limits(_TUNABLE.max_skew_ms, _TUNABLE.log_bytes_per_bucket)  # of either mode

_ACKNOWLEDGED = (APPLIED, APPLIED_OVER_LIVE, SUPERSEDED)

Records = dict[bytes, Record]  # by user key


class Place(NamedTuple):
    """One member as a job addresses it: as it was when the job began."""

    node: int
    epoch: int
    incarnation: int
    life: bytes


def place_of(controller: Controller, number: int, life: bytes = b"") -> Place | None:
    """The node as a member of the bucket, in `life` or else in the one that is trusted."""
    store = controller.store
    owner = store.owner(number)
    if owner is None:
        return None
    life = life or store.node(number).run_id
    return Place(number, store.bucket.epoch, owner.incarnation, life)


def places_of(controller: Controller, numbers: Iterable[int]) -> list[Place]:
    """Those of the nodes that are members."""
    places = (place_of(controller, number) for number in sorted(numbers))
    return [place for place in places if place is not None]


def purged_through(
    controller: Controller, numbers: Iterable[int]
) -> Generator[Request, Answers, bytes | None]:
    """The highest of theirs; None: not all answered."""
    places = places_of(controller, numbers)
    seen = yield from seen_by(places)
    return max(seen.values(), default=ZERO_VERSION) if len(seen) == len(places) else None


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
    purged: bytes = ZERO_VERSION,
    floor: bytes = ZERO_VERSION,
) -> Generator[Request, Answers, bool | None]:
    """A joining fence over whatever the node has; None: it has none, and none may be created."""
    store = controller.store
    bucket = store.bucket
    fence = Fence(
        bucket.epoch,
        bucket.stage,
        Role.JOINING,
        incarnation,
        purged_through=purged,
        ballot_floor=floor,
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
        place = place_of(controller, number)
        held = (yield from listing(place)) if place is not None else None
        if place is None or held is None:
            continue
        theirs = yield from read_records(place, [name[1:] for name in held])
        if theirs is None:
            continue
        good += 1
        for key, record in theirs.items():
            best = winner(record, found.get(key))
            if best is not None:
                found[key] = best
    return found if good >= need else None


def listing(place: Place) -> Generator[Request, Answers, dict[bytes, bytes] | None]:
    """The fields that a node holds, each with the order of its record."""
    command = entries_command(
        KEYS, place.epoch, place.incarnation, cursor=b"0", count=1000, leaves=1, wanted=[0]
    )
    answers = yield [Ask(place.node, command, place.life)]
    step = parse_entries(answers[0].reply) if answers[0] is not None else None
    return step.entries if isinstance(step, EntriesStep) else None


def read_records(
    place: Place, keys: Iterable[bytes]
) -> Generator[Request, Answers, Records | None]:
    """The records of these keys; None: one of them is missing, or fails its checksum."""
    prefix, keys = read_prefix(KEYS), sorted(keys)
    answers = yield [Ask(place.node, read_command(prefix, key), place.life) for key in keys]
    found = {}
    for key, answer in zip(keys, answers, strict=True):
        raw = answer.reply[1] if answer is not None and isinstance(answer.reply, list) else None
        record = decode_record(raw) if raw is not None else None
        if record is None:
            return None
        found[key] = record
    return found


def seen_by(places: Iterable[Place]) -> Generator[Request, Answers, dict[int, bytes]]:
    """Purged-through of each that answers."""
    asks = [Ask(place.node, entry_command(KEYS), place.life) for place in places]
    answers = yield asks
    found = {}
    for ask, answer in zip(asks, answers, strict=True):
        raw = answer.reply[0] if answer is not None and isinstance(answer.reply, list) else None
        fence = decode_fence(raw) if raw is not None else None
        if fence is not None:
            found[ask.node] = fence.purged_through
    return found


def copy_to(place: Place, records: Records, seen: bytes) -> Generator[Request, Answers, bool]:
    """Gives a node what a majority holds, below purged-through too, of which `seen` was read before
    the records were; whether it took them all.
    """
    asks = [
        Ask(
            place.node,
            copy_command(
                KEYS, place.epoch, place.incarnation, key, record.raw, limits=LIMITS, seen=seen
            ),
            place.life,
        )
        for key, record in sorted(records.items())
    ]
    answers = yield asks
    refused = {
        key: record
        for (key, record), each in zip(sorted(records.items()), answers, strict=True)
        if each is None or each.reply not in _ACKNOWLEDGED
    }
    return not refused or (yield from heal(place, refused))


def heal(place: Place, records: Records) -> Generator[Request, Answers, bool]:
    """Writes the records to the node, over corrupt ones too; whether it took them all."""
    prefix = write_prefix(KEYS, place.epoch, place.incarnation, script=SCRIPTS["heal"])
    asks = [
        Ask(place.node, prefix + write_suffix(key, record.raw, LIMITS), place.life)
        for key, record in sorted(records.items())
    ]
    answers = yield asks
    return all(each is not None and each.reply in _ACKNOWLEDGED for each in answers)


def drop_leftovers(place: Place, keys: Collection[bytes]) -> Generator[Request, Answers, None]:
    """What a joining node holds of a former life, at or below purged-through, and nobody else."""
    held = yield from listing(place)
    if held is not None:
        yield [
            Ask(place.node, drop_command(KEYS, place.epoch, place.incarnation, name), place.life)
            for name in sorted(held)
            if name[1:] not in keys
        ]


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
