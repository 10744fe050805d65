"""Make the copies of one bucket equal: compare digests, list what differs, move only that.

Records travel with their own versions, and replicas compare these, so it does not matter that
clients write meanwhile, nor how often a step is repeated. What a trusted copy holds is copied below
purged-through too; what only others hold is written as by a client, and refused where it was
purged. A record that fails its checksum is healed from the highest valid version, when a majority
that does not count it has answered.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Final

from replicas.bucket_copy import Copy
from replicas.digest import Difference, differences, differing_leaves
from replicas.record import decode_record
from replicas.replies import Code, Refusal
from replicas.version import physical_ms

LEAVES: Final = 16
MOST_LISTED: Final = 65_536  # keys of one copy that are in memory at once


@dataclass(slots=True)
class Findings:
    """What was compared and done. Counts are keys, but for `records`: of the largest copy.

    `differing` are keys on which copies disagreed, of which `settled` are older than the pass:
    not merely writes on their way. `oldest_ms` is the time of the oldest of those (Unix ms, 0:
    none). `unhealed` are corrupt records of which too few others have a valid one; `healable` those
    among them that a new epoch of the bucket would let be healed.
    """

    records: int = 0
    differing: int = 0
    settled: int = 0
    copied: int = 0
    healed: int = 0
    unhealed: int = 0
    healable: int = 0
    refused: int = 0
    dropped: int = 0
    oldest_ms: int = 0

    def count(self, difference: Difference, settled_ms: int) -> None:
        """Take note of a key on which copies disagree."""
        self.differing += 1
        at_ms = physical_ms(difference.best[:16]) if difference.best else 0
        if at_ms <= settled_ms:
            self.settled += 1
            if at_ms:
                self.oldest_ms = min(self.oldest_ms or at_ms, at_ms)

    def add(self, other: "Findings") -> None:
        """Sum up; the oldest time is the lower one."""
        oldest = [ms for ms in (self.oldest_ms, other.oldest_ms) if ms]
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        self.oldest_ms = min(oldest, default=0)


@dataclass(frozen=True, slots=True)
class Terms:
    """`limits`: those of the keyspace's writes. `heal_need`: how many trusted copies must have
    answered validly before a corrupt record is replaced. `settled_ms`: versions at or below this
    time (Unix ms) are no longer on their way.
    """

    limits: bytes
    heal_need: int
    settled_ms: int


async def equalize(copies: Sequence[Copy], terms: Terms) -> Findings:
    """One pass over one bucket. Raises StepRefused and ReplicaError."""
    await asyncio.gather(*(copy.measure() for copy in copies))
    digests = await asyncio.gather(*(copy.digest(LEAVES) for copy in copies))
    found = Findings(records=max(records for records, _ in digests))
    leaves = differing_leaves([leaf for _, leaf in digests])
    for group in leaf_groups(leaves, found.records):
        listings = await asyncio.gather(*(copy.entries(LEAVES, group) for copy in copies))
        differing = differences(listings)
        while batch := list(islice(differing, min(copy.batch for copy in copies))):
            await _Mending(copies, terms, found).mend(batch)
    return found


def leaf_groups(leaves: list[int], records: int) -> Iterator[list[int]]:
    """Leaves that are listed together: as many as fit into memory."""
    size = max(1, MOST_LISTED * LEAVES // max(records, 1))
    for start in range(0, len(leaves), size):
        yield leaves[start : start + size]


@dataclass(slots=True)
class _Mending:
    """One batch of keys on which copies disagree."""

    copies: Sequence[Copy]
    terms: Terms
    found: Findings
    # Of trusted copies, and of others.
    behind: dict[int, dict[bytes, bytes]] = field(default_factory=lambda: defaultdict(dict))
    doubtful: dict[int, dict[bytes, bytes]] = field(default_factory=lambda: defaultdict(dict))
    corrupt: dict[int, dict[bytes, bytes]] = field(default_factory=lambda: defaultdict(dict))

    async def mend(self, batch: list[Difference]) -> None:
        """Bring the best record of each key to the copies that lack it."""
        batch = [difference for difference in batch if self._can_be_mended(difference)]
        for difference in batch:
            self.found.count(difference, self.terms.settled_ms)
        raws = await self._read_best(batch)
        for difference in batch:
            self._plan(difference, raws.get(difference.field))
        outcomes = await asyncio.gather(
            *(self._copy(place) for place in list(self.behind)),
            *(self._write(place) for place in list(self.doubtful)),
            *(self._heal(place) for place in list(self.corrupt)),
        )
        await self._drop_leftovers(batch, set().union(*outcomes))

    def _can_be_mended(self, difference: Difference) -> bool:
        """Copies that are only listened to may lack what they will."""
        lacking = (*difference.behind, *difference.corrupt)
        return not all(self.copies[place].read_only for place in lacking)

    async def _read_best(self, batch: list[Difference]) -> dict[bytes, bytes]:
        """The record of each key as a holder has it now; it may be newer than listed."""
        wanted: dict[int, list[bytes]] = defaultdict(list)
        for difference in batch:
            if difference.holders:
                wanted[self._source(difference)].append(difference.field)
        found: dict[bytes, bytes] = {}
        for raws in await asyncio.gather(
            *(self.copies[place].read(names) for place, names in wanted.items())
        ):
            found |= {name: raw for name, raw in raws.items() if decode_record(raw) is not None}
        return found

    def _source(self, difference: Difference) -> int:
        """A trusted holder, where there is one."""
        trusted = (place for place in difference.holders if self.copies[place].trusted)
        return next(trusted, difference.holders[0])

    def _plan(self, difference: Difference, raw: bytes | None) -> None:
        if raw is not None:
            source = self.copies[self._source(difference)]
            given = self.behind if source.trusted else self.doubtful
            for place in difference.behind:
                if not self.copies[place].read_only:
                    given[place][difference.field] = raw
        for place in difference.corrupt:
            if self.copies[place].read_only:
                continue
            if raw is not None and self._may_heal(difference):
                self.corrupt[place][difference.field] = raw
            elif self.copies[place].trusted:
                self.found.unhealed += 1

    def _may_heal(self, difference: Difference) -> bool:
        """A copy without the key has answered too; one that fails its checksum has not."""
        valid = sum(
            copy.trusted and place not in difference.corrupt
            for place, copy in enumerate(self.copies)
        )
        return valid >= self.terms.heal_need

    async def _copy(self, place: int) -> set[bytes]:
        outcomes = await self.copies[place].copy(self.behind[place], self.terms.limits)
        self.found.copied += self._taken(outcomes)
        return set()

    async def _write(self, place: int) -> set[bytes]:
        """Fields that a trusted copy refused because their tombstones are purged."""
        outcomes = await self.copies[place].write(self.doubtful[place], self.terms.limits)
        self.found.copied += self._taken(outcomes)
        if not self.copies[place].trusted:
            return set()
        return {
            name
            for name, outcome in outcomes.items()
            if isinstance(outcome, Refusal) and outcome.code is Code.PURGED
        }

    async def _heal(self, place: int) -> set[bytes]:
        records = self.corrupt[place]
        outcomes = await self.copies[place].write(records, self.terms.limits, heal=True)
        self.found.healed += self._taken(outcomes)
        return set()

    def _taken(self, outcomes: Mapping[bytes, int | Refusal]) -> int:
        refused = sum(isinstance(outcome, Refusal) for outcome in outcomes.values())
        self.found.refused += refused
        return len(outcomes) - refused

    async def _drop_leftovers(self, batch: list[Difference], purged: set[bytes]) -> None:
        """What only a joining copy's former life holds, and the owners have purged or lost."""
        for place, copy in enumerate(self.copies):
            if copy.trusted or copy.read_only:
                continue
            leftovers = [
                difference.field
                for difference in batch
                if difference.field in purged
                or (place in difference.corrupt and not difference.best)
            ]
            self.found.dropped += await copy.drop(leftovers)
