"""One replica's copy of one bucket, as a job compares and mends it: paced, every step judged.

A job that sleeps wakes up late: every step carries epoch and incarnation, and is refused by the
replica itself once the bucket has moved on.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from hiredis import ReplyError

from replicas.client import ReplicaClient
from replicas.commands import copy_command, pack_command, write_prefix, write_suffix
from replicas.digest import (
    FIRST_CURSOR,
    LEAF_BYTES,
    DigestStep,
    EntriesStep,
    PromisesStep,
    add_digests,
    digest_command,
    drop_command,
    entries_command,
    parse_digest,
    parse_entries,
    parse_promises,
    promises_command,
)
from replicas.errors import CommandFailed, UnexpectedReply
from replicas.fence import decode_fence
from replicas.layout import FENCE_FIELD, BucketKeys
from replicas.purge import Purged, PurgeStep, What, parse_purge, purge_command
from replicas.replies import Refusal, parse_refusal, parse_write
from replicas.scripts import SCRIPTS
from replicas.version import ZERO_VERSION

MOST_RECORDS_A_STEP: Final = 2_000  # 7 ms of the server's time at 100 bytes a record
MOST_BYTES_A_STEP: Final = 1 << 20
MOST_BYTES_A_BATCH: Final = 4 << 20
MOST_RECORDS_A_BATCH: Final = 256

_StepT = TypeVar("_StepT")


class StepRefused(Exception):
    """A replica refused a job's step: the bucket moved on, or this is not the life it was."""

    def __init__(self, address: str, refusal: Refusal) -> None:
        super().__init__(f"{address} refused: {refusal.code}")
        self.address = address
        self.refusal = refusal


@dataclass(slots=True)
class Pace:
    """After a step that took t seconds its replica rests `rest` times t: more than one when it is
    slow, because then somebody waits for it. `moved_bytes` counts what was sent and received.
    """

    rest: float = 1.0
    slow_s: float = 0.05
    slow_rest: float = 4.0
    moved_bytes: int = field(default=0)

    async def after(self, took_s: float) -> None:
        """Give the replica back to its users."""
        rest = self.rest if took_s < self.slow_s else self.slow_rest
        await asyncio.sleep(min(took_s * rest, 1.0))


class Copy:
    """One copy. `trusted`: it is one of those whose majority decides. `read_only`: it is listened
    to, and given nothing.

    Raises StepRefused, and what ReplicaClient raises.
    """

    def __init__(
        self,
        client: ReplicaClient,
        keys: BucketKeys,
        *,
        epoch: int,
        incarnation: int,
        pace: Pace,
        trusted: bool = True,
        read_only: bool = False,
    ) -> None:
        self.client = client
        self.keys = keys
        self.epoch = epoch
        self.incarnation = incarnation
        self.pace = pace
        self.trusted = trusted
        self.read_only = read_only
        self.records = 0
        self._purged_through = ZERO_VERSION
        self._step = MOST_RECORDS_A_STEP
        self._batch = MOST_RECORDS_A_BATCH

    async def measure(self) -> None:
        """How many records there are, how many of their size make a step and a batch, and what is
        purged here. Call it before any record is read that may be written to this copy.
        """
        fields, used, fence = await self._ask_plain(
            [b"HLEN", self.keys.data],
            [b"MEMORY", b"USAGE", self.keys.data, b"SAMPLES", b"20"],
            [b"HGET", self.keys.data, FENCE_FIELD],
        )
        decoded = decode_fence(fence) if isinstance(fence, bytes) else None
        self._purged_through = decoded.purged_through if decoded is not None else ZERO_VERSION
        self.records = fields if isinstance(fields, int) else 0
        each = (used if isinstance(used, int) else 0) // max(self.records, 1) or 1
        self._step = max(16, min(MOST_RECORDS_A_STEP, MOST_BYTES_A_STEP // each))
        self._batch = max(1, min(MOST_RECORDS_A_BATCH, MOST_BYTES_A_BATCH // each))

    @property
    def purged_through(self) -> bytes:
        """As `measure` found it."""
        return self._purged_through

    @property
    def batch(self) -> int:
        """How many records may be read or written at once."""
        return self._batch

    async def digest(self, leaves: int) -> tuple[int, bytes]:
        """(records, leaf digests) of the whole copy."""
        cursor, records, digests = FIRST_CURSOR, 0, bytes(LEAF_BYTES * leaves)
        while True:
            reply = await self._one(
                digest_command(
                    self.keys,
                    self.epoch,
                    self.incarnation,
                    cursor=cursor,
                    count=self._step,
                    leaves=leaves,
                )
            )
            step = self._parsed(parse_digest(reply), DigestStep, reply)
            cursor, records = step.cursor, records + step.records
            digests = add_digests(digests, step.leaves)
            if cursor == FIRST_CURSOR:
                return records, digests

    async def entries(self, leaves: int, wanted: Iterable[int]) -> dict[bytes, bytes]:
        """Fields of the wanted leaves with their orders (digest.NO_ORDER: corrupt)."""
        chosen = list(wanted)
        cursor, found = FIRST_CURSOR, dict[bytes, bytes]()
        while True:
            reply = await self._one(
                entries_command(
                    self.keys,
                    self.epoch,
                    self.incarnation,
                    cursor=cursor,
                    count=self._step,
                    leaves=leaves,
                    wanted=chosen,
                )
            )
            step = self._parsed(parse_entries(reply), EntriesStep, reply)
            found |= step.entries
            cursor = step.cursor
            if cursor == FIRST_CURSOR:
                return found

    async def highest_promise(self) -> bytes:
        """The highest ballot that is promised in a copy of the linearizable mode."""
        cursor, highest = FIRST_CURSOR, ZERO_VERSION
        while True:
            reply = await self._one(
                promises_command(
                    self.keys, self.epoch, self.incarnation, cursor=cursor, count=self._step
                )
            )
            step = self._parsed(parse_promises(reply), PromisesStep, reply)
            cursor, highest = step.cursor, max(highest, step.promise)
            if cursor == FIRST_CURSOR:
                return highest

    async def ask(self, built: Sequence[bytes]) -> list[object]:
        """The replies to commands of the caller's own; paced, not judged."""
        return await self._paced(built)

    async def read(self, fields: Sequence[bytes]) -> dict[bytes, bytes]:
        """The records of these fields as they are, those that are there; not judged."""
        if not fields:
            return {}
        [reply] = await self._paced([pack_command(b"HMGET", self.keys.data, *fields)])
        match self._accepted(reply):
            case list() as found if len(found) == len(fields):
                return {f: raw for f, raw in zip(fields, found, strict=True) if raw is not None}
        raise self._unexpected(reply)

    async def write(
        self, records: Mapping[bytes, bytes], limits: bytes, *, heal: bool = False
    ) -> dict[bytes, int | Refusal]:
        """Write records (field -> bytes) under their own versions; each one's outcome.

        A refusal that says the bucket or the life is another one raises StepRefused.
        """
        script = SCRIPTS["heal" if heal else "write"]
        prefix = write_prefix(self.keys, self.epoch, self.incarnation, script=script)
        built = [prefix + write_suffix(f[1:], raw, limits) for f, raw in records.items()]
        return await self._written(records, built)

    async def copy(
        self, records: Mapping[bytes, bytes], limits: bytes
    ) -> dict[bytes, int | Refusal]:
        """As write, of what a trusted owner holds: also below purged-through, as long as that is
        what `measure` found (scripts/copy.lua).
        """
        seen = self._purged_through
        built = [
            copy_command(
                self.keys, self.epoch, self.incarnation, f[1:], raw, limits=limits, seen=seen
            )
            for f, raw in records.items()
        ]
        return await self._written(records, built)

    async def _written(
        self, records: Mapping[bytes, bytes], built: Sequence[bytes]
    ) -> dict[bytes, int | Refusal]:
        outcomes: dict[bytes, int | Refusal] = {}
        for name, reply in zip(records, await self._paced(built), strict=True):
            outcome = parse_write(reply)
            if outcome is None:
                raise self._unexpected(reply)
            if isinstance(outcome, Refusal) and outcome.code.value in MOVED_ON:
                raise StepRefused(self.client.link.address, outcome)
            outcomes[name] = outcome
        return outcomes

    async def drop(self, fields: Sequence[bytes]) -> int:
        """Remove leftovers of a former life (scripts/drop.lua); how many are gone."""
        built = [drop_command(self.keys, self.epoch, self.incarnation, f) for f in fields]
        gone = 0
        for reply in await self._paced(built):
            if not isinstance(reply, int):
                self._parsed(parse_refusal(reply), int, reply)
            gone += reply == 1
        return gone

    async def purge(self, what: What, bound: bytes, grace_ms: int) -> Purged:
        """All steps of one kind (scripts/purge.lua); what was seen in all."""
        cursor, total = FIRST_CURSOR, Purged()
        while True:
            reply = await self._one(
                purge_command(
                    self.keys,
                    self.epoch,
                    self.incarnation,
                    what=what,
                    bound=bound,
                    grace_ms=grace_ms,
                    cursor=cursor,
                    count=self._step,
                )
            )
            step = self._parsed(parse_purge(reply), PurgeStep, reply)
            total.add(step.seen)
            cursor = step.cursor
            if cursor == FIRST_CURSOR:
                return total

    # --- asking

    async def _one(self, command: bytes) -> object:
        [reply] = await self._paced([command])
        return reply

    async def _paced(self, built: Sequence[bytes]) -> list[object]:
        if not built:
            return []
        began = time.monotonic()
        replies = await self.client.ask(built)
        self.pace.moved_bytes += sum(map(len, built)) + sum(map(_size, replies))
        await self.pace.after(time.monotonic() - began)
        return replies

    async def _ask_plain(self, *commands: list[bytes]) -> list[object]:
        return await self.client.ask([pack_command(*arguments) for arguments in commands])

    def _parsed(
        self, parsed: "_StepT | Refusal | None", kind: type[_StepT], reply: object
    ) -> _StepT:
        if isinstance(parsed, kind):
            return parsed
        if isinstance(parsed, Refusal):
            raise StepRefused(self.client.link.address, parsed)
        self._accepted(reply)
        raise self._unexpected(reply)

    def _accepted(self, reply: object) -> object:
        if isinstance(reply, ReplyError):
            address = self.client.link.address
            raise CommandFailed(address, f"the server answered: {reply}", "Look at its log")
        return reply

    def _unexpected(self, reply: object) -> Exception:
        address = self.client.link.address
        return UnexpectedReply(address, f"unexpected reply {str(reply)[:200]!r}", "Report this")


# Refusals of a write that concern the bucket or the replica's life, not the one record.
MOVED_ON: Final = frozenset(
    {"STALE_EPOCH", "NO_FENCE", "RELEASED", "WRONG_INCARNATION", "WRONG_ROLE", "BAD_REQUEST"}
)


def _size(reply: object) -> int:
    """About what a reply takes on the wire."""
    if isinstance(reply, bytes):
        return len(reply) + 8
    if isinstance(reply, list):
        return 8 + sum(map(_size, reply))
    return 8
