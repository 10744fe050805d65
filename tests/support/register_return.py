"""A register whose first replica loses everything under way and is taken back, one seed, one run.

Only ballots protect here: epochs and incarnations stay what they are, so whatever was asked before
the loss is still taken after it. What a job does goes through the same scheduler as all else.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from replicas.acceptor import UNTOUCHED, decode_acceptor
from replicas.commands import create_fence
from replicas.fence import Fence
from replicas.layout import user_field
from replicas.passage import Passage, ballot_floor
from replicas.quorum import Group
from replicas.register import CasPaxos, Done
from replicas.version import ZERO_VERSION
from tests.support.register_wants import read
from tests.support.register_world import FENCE, KEY, KEYS, Message, Running, Wanted, World

LOST = 0  # the slot
OTHERS = 0b110
EVERYBODY = 0b111
MAX_SKEW_MS = 500
SKEWS_MS = (0, -7_000, 400)  # of the coordinators


@dataclass(frozen=True)
class Rules:
    """What taking back keeps to; each is broken by a variant."""

    floor: bool = True  # above all that it can have promised
    alone: bool = True  # the others decide, without it
    keys: bool = True  # every one passes
    promises: bool = True  # one of which there is nothing but a promise too


@dataclass
class Returning(World):
    """A run in which the replica is out from one event to another."""

    clients: int = 2
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.skews_ms = SKEWS_MS
        self.out = False
        self.slow = 0  # slots
        self.job: Running | None = None

    def live(self, wants: Iterator[Wanted]) -> None:
        """Some life, the loss, some more life, the way back, and some more; then all is read."""
        self._phases(wants, self.dice.choice((1, 1, 2, 3)))
        self._lose()
        self._phases(wants, self.dice.choice((0, 0, 1)))
        self._take_back()
        for _ in range(2_000):
            if not self.out:
                break
            self.run(wants, events=1)
        self._phases(wants, 4)
        self.slow = 0
        self.run(iter([read()]), events=1000, calm=True)

    def _phases(self, wants: Iterator[Wanted], count: int) -> None:
        """In each other slots hear nothing, so that those who answer are not always the same."""
        for _ in range(count):
            self.slow = self.dice.choice((0b110, 0b100, 0b010, 0b001, 0))
            self.run(wants, events=self.dice.choice((3, 6, 12)))

    def _lose(self) -> None:
        """It is empty; nothing on its way to it arrives. What it has answered does."""
        self.replicas[LOST].restart_empty(self.dice.randbytes(20))
        self.out = True

    def _take_back(self) -> None:
        lost, others = self.replicas[LOST], self.replicas[1:]
        raws = [replica.state.hashes[KEYS.data].get(user_field(KEY), b"") for replica in others]
        known = [decode_acceptor(raw) or UNTOUCHED for raw in raws]
        floor = ballot_floor(self.now_ms, MAX_SKEW_MS, [each.promise for each in known])
        fence = Fence(
            *(FENCE.epoch, FENCE.stage, FENCE.role, FENCE.incarnation),
            ballot_floor=floor if self.rules.floor else ZERO_VERSION,
        )
        lost.execute(create_fence(KEYS, fence.encode(), b""), self.now_ms)
        accepted = any(each.accepted != ZERO_VERSION for each in known)
        if not self.rules.keys or not any(raws) or not (accepted or self.rules.promises):
            self.out = False
            return
        self.ballots[0].merge(floor)
        deciding, following = (OTHERS, 1 << LOST) if self.rules.alone else (EVERYBODY, 0)
        passage = Passage(Group(deciding, 2), following, self.ballots[0])
        self.job = Running(read(), self.moment, 0, cast(CasPaxos, passage))  # driven as one
        self.running.append(self.job)
        self._act(self.job, passage.start(self.now_ms))

    # --- what is different while it is out

    def _move(self, message: Message, calm: bool) -> None:
        """Its owner's map does not count it, and no connection to its former life is left."""
        to_lost = message.slot == LOST and not message.back
        if self.out and to_lost and message.running is not self.job:
            self._answer(message, None)
            return
        slow = self.slow >> message.slot & 1 and not message.back
        if slow and message.running is not self.job:
            if self.dice.random() < 0.1:
                self._answer(message, None)
            else:
                self.messages.append(message)
            return
        super()._move(message, calm)

    def _give_up(self, running: Running) -> None:
        if running is not self.job:
            super()._give_up(running)
        elif not self.messages and not running.waits:  # all of it was lost: jobs ask again
            self._act(running, running.operation.again(self._clock(running)))

    def _done(self, running: Running, done: Done) -> None:
        if running is not self.job:
            super()._done(running, done)
            return
        self.running.remove(running)
        self.job = None
        self.out = False
