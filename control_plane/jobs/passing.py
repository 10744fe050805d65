"""Passing keys of the linearizable mode through identity changes: many at once, round by round.

What decides is replicas/passage.py. Here the questions of a batch of keys go to each owner in one
pipeline, and rounds of all keys go in step: a batch of 256 costs two or three round trips.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from control_plane.jobs.equalizing import LEAVES, Findings, leaf_groups
from control_plane.jobs.job import now_ms
from replicas.acceptor import Acceptor, decode_acceptor
from replicas.bucket_copy import MOVED_ON, Copy, StepRefused
from replicas.commands import prepare_prefix, prepare_suffix, write_prefix, write_suffix
from replicas.digest import NO_ORDER, differences, differing_leaves
from replicas.errors import ReplicaError
from replicas.passage import Passage
from replicas.quorum import Group
from replicas.register import Again, Answer, Ask, Done, Step, Why, backoff_ms
from replicas.replies import SUPERSEDED, Refusal, parse_accept, parse_prepare
from replicas.scripts import SCRIPTS
from replicas.version import WRITER_BYTES, ZERO_VERSION, HybridClock

MOST_ATTEMPTS: Final = 100  # against clients that change the key all the time
MOST_UNANSWERED: Final = 3


@dataclass(frozen=True, slots=True)
class Quorum:
    """Who takes part in one bucket. `deciding` copies are those of trusted owners, whose `need` is
    a majority of all owners; `joining`, if any, is given what they choose.

    `may_heal`: the bucket's epoch has been raised on the deciding ones since, so that nothing which
    a damaged record had promised can still be used. `heard` copies are those of owners that lost
    data, where there is no majority of others and the loss was accepted: none of them counts, but
    the highest that they or the deciding ones have accepted is gone on from.
    """

    deciding: tuple[Copy, ...]
    need: int
    limits: bytes
    ballots: HybridClock
    joining: Copy | None = None
    may_heal: bool = False
    heard: tuple[Copy, ...] = ()

    @property
    def copies(self) -> tuple[Copy, ...]:
        """All of them, in the order of their slots."""
        return (*self.deciding, self.joining) if self.joining is not None else self.deciding


def new_ballots() -> HybridClock:
    """A clock for one job's ballots: of a writer that nobody else is."""
    return HybridClock(os.urandom(WRITER_BYTES))


async def pass_bucket(quorum: Quorum) -> Findings:
    """Pass every key that any of the copies holds, a mere promise or a leftover too.

    `unhealed` counts keys of which too few deciding copies can be read. Raises StepRefused and
    ReplicaError.
    """
    copies = (*quorum.copies, *quorum.heard)
    await asyncio.gather(*(copy.measure() for copy in copies))
    found = Findings(records=max(copy.records for copy in copies))
    for group in leaf_groups(list(range(LEAVES)), found.records):
        listings = await asyncio.gather(*(copy.entries(LEAVES, group) for copy in copies))
        await pass_keys(quorum, sorted(set().union(*listings)), listings, found)
    return found


async def equalize_registers(quorum: Quorum, settled_ms: int) -> Findings:
    """One pass over one bucket: keys on which copies differ are passed. `copied` counts those.

    As of equalize, whose digests these are: what is promised belongs to them, so an attempt that
    came to nothing is seen as a difference too. Raises StepRefused and ReplicaError.
    """
    copies = quorum.copies
    await asyncio.gather(*(copy.measure() for copy in copies))
    digests = await asyncio.gather(*(copy.digest(LEAVES) for copy in copies))
    found = Findings(records=max(records for records, _ in digests))
    leaves = differing_leaves([leaf for _, leaf in digests])
    for group in leaf_groups(leaves, found.records):
        listings = await asyncio.gather(*(copy.entries(LEAVES, group) for copy in copies))
        different = list(differences(listings))
        for difference in different:
            found.count(difference, settled_ms)
        await pass_keys(quorum, [each.field for each in different], listings, found)
    return found


async def pass_keys(
    quorum: Quorum,
    fields: Sequence[bytes],
    listings: Sequence[Mapping[bytes, bytes]],
    found: Findings,
) -> None:
    """Pass these keys; what the listings call corrupt neither decides nor is left so."""
    size = min(copy.batch for copy in quorum.copies)
    for start in range(0, len(fields), size):
        some = fields[start : start + size]
        batch = _Batch(quorum, found, await _salvage(quorum, some))
        for field in some:
            slots = listings[: len(quorum.copies)]
            batch.add(field, [listing.get(field) == NO_ORDER for listing in slots])
        await batch.run()


async def _salvage(quorum: Quorum, fields: Sequence[bytes]) -> dict[bytes, Acceptor]:
    """The highest that the heard copies have accepted of each key.

    What lies at or below purged-through and is only where it was not purged had been deleted.
    """
    purged = max(copy.purged_through for copy in (*quorum.copies, *quorum.heard))
    best: dict[bytes, Acceptor] = {}
    for copy in quorum.heard:
        # The joining one's fence is new: it says nothing of what its dump has purged.
        behind = copy is quorum.joining or copy.purged_through < purged
        lowest = purged if behind else ZERO_VERSION
        for field, raw in (await copy.read(fields)).items():
            state = decode_acceptor(raw)
            known = best.get(field)
            if state and state.accepted > max(lowest, known.accepted if known else lowest):
                best[field] = state
                quorum.ballots.merge(state.accepted)
    return best


class _Key:
    """One key of a batch: what it asks next, if it does not wait."""

    __slots__ = ("ask", "damaged", "passage", "unanswered", "wait_ms")

    def __init__(self, passage: Passage, damaged: int, ask: Ask) -> None:
        self.passage = passage
        self.damaged = damaged  # slots whose record fails its checksum
        self.ask: Ask | None = ask
        self.wait_ms = 0.0
        self.unanswered = 0


class _Batch:
    """Keys that go through their rounds in step."""

    def __init__(self, quorum: Quorum, found: Findings, salvaged: Mapping[bytes, Acceptor]) -> None:
        self._quorum = quorum
        self._found = found
        self._salvaged = salvaged
        self._dice = Random()
        self._keys: dict[bytes, _Key] = {}
        accept, heal = SCRIPTS["accept"], SCRIPTS["heal_acceptor"]
        heads = [(copy.keys, copy.epoch, copy.incarnation) for copy in quorum.copies]
        self._prepares = [prepare_prefix(*head) for head in heads]
        self._accepts = [write_prefix(*head, script=accept) for head in heads]
        self._heals = [write_prefix(*head, script=heal) for head in heads]

    def add(self, field: bytes, corrupt: Sequence[bool]) -> None:
        """Take up a key; one of which too few deciding copies are left can not be passed."""
        quorum = self._quorum
        damaged = sum(1 << slot for slot, bad in enumerate(corrupt) if bad)
        deciding = (1 << len(quorum.deciding)) - 1 & ~damaged
        following = damaged if quorum.may_heal else 0
        if quorum.joining is not None:
            following |= 1 << len(quorum.deciding)
        if deciding.bit_count() < quorum.need:
            self._found.unhealed += max(damaged.bit_count(), 1)
            return
        if not quorum.may_heal:
            self._found.unhealed += damaged.bit_count()
            self._found.healable += damaged.bit_count()
        passage = Passage(Group(deciding, quorum.need), following, quorum.ballots)
        first = passage.start(now_ms())
        if isinstance(first, Ask):
            self._keys[field] = _Key(passage, damaged, first)

    async def run(self) -> None:
        """Until every key has passed."""
        while self._keys:
            waits = [key.wait_ms for key in self._keys.values()]
            if min(waits):
                await asyncio.sleep(min(waits) / 1000)
            for key in self._keys.values():
                if key.ask is None and key.wait_ms <= min(waits):
                    self._advance(key)
                key.wait_ms = max(0.0, key.wait_ms - min(waits))
            await self._round()

    def _advance(self, key: _Key) -> None:
        action = key.passage.start(now_ms())
        key.ask = action if isinstance(action, Ask) else None

    async def _round(self) -> None:
        """Ask what all keys ask, and hear the answers."""
        asked = {field: key.ask for field, key in self._keys.items() if key.ask is not None}
        for field in asked:
            self._keys[field].ask = None
        slots = range(len(self._quorum.copies))
        answers = await asyncio.gather(*(self._ask_slot(slot, asked) for slot in slots))
        for field, ask in asked.items():
            heard = [(slot, of[field]) for slot, of in enumerate(answers) if field in of]
            # The highest first: what only a minority has accepted is kept where that is free.
            for slot, answer in sorted(heard, key=_accepted, reverse=True):
                self._hear(field, ask, slot, answer)

    async def _ask_slot(self, slot: int, asked: Mapping[bytes, Ask]) -> dict[bytes, Answer]:
        """One copy's answers; of a deciding one that fails, none."""
        fields = [field for field, ask in asked.items() if ask.slots >> slot & 1]
        built = [self._command(slot, field, asked[field]) for field in fields]
        copy = self._quorum.copies[slot]
        try:
            replies = await copy.ask(built)
        except ReplicaError:
            if copy is self._quorum.joining:
                raise
            return dict.fromkeys(fields)
        answers = {
            field: self._known(field, _parse(asked[field], reply))
            for field, reply in zip(fields, replies, strict=True)
        }
        for answer in answers.values():
            if isinstance(answer, Refusal) and answer.code.value in MOVED_ON:
                raise StepRefused(copy.client.link.address, answer)
        return answers

    def _known(self, field: bytes, answer: Answer) -> Answer:
        """A promise, as though what was salvaged had been accepted by whoever gave it."""
        known = self._salvaged.get(field)
        if known is None or not isinstance(answer, Acceptor) or known.accepted <= answer.accepted:
            return answer
        return Acceptor(answer.promise, known.accepted, known.raw)

    def _command(self, slot: int, field: bytes, ask: Ask) -> bytes:
        name = field[1:]
        if ask.step is Step.PREPARE:
            return self._prepares[slot] + prepare_suffix(name, ask.payload)
        damaged = self._keys[field].damaged >> slot & 1
        heads = self._heals if damaged else self._accepts
        return heads[slot] + write_suffix(name, ask.payload, self._quorum.limits)

    def _hear(self, field: bytes, asked: Ask, slot: int, answer: Answer) -> None:
        key = self._keys.get(field)
        if key is None:
            return
        if answer is True and key.damaged >> slot & 1:
            self._found.healed += 1
        match key.passage.on_answer(asked.round, slot, answer, now_ms()):
            case Ask() as ask:
                key.ask = ask
            case Again() as again:
                self._again(field, key, again)
            case Done():
                self._found.copied += 1
                del self._keys[field]

    def _again(self, field: bytes, key: _Key, again: Again) -> None:
        key.ask = None
        key.wait_ms = max(1.0, backoff_ms(again.attempt, self._dice))
        key.unanswered += again.why is not Why.OUTBID
        if again.attempt >= MOST_ATTEMPTS or key.unanswered >= MOST_UNANSWERED:
            self._found.unhealed += 1
            del self._keys[field]


def _accepted(heard: tuple[int, Answer]) -> bytes:
    answer = heard[1]
    return answer.accepted if isinstance(answer, Acceptor) else b""


def _parse(ask: Ask, reply: object) -> Answer:
    if ask.step is Step.PREPARE:
        return parse_prepare(reply, ask.payload)
    return True if reply == SUPERSEDED else parse_accept(reply)
