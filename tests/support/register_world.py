"""Registers over simulated replicas, under a scheduler that drops, repeats and reorders: one seed,
one run.

Coordinators run operations at the same time on one key; their clocks differ from each other and
from the replicas'. Every message waits until the dice take it. What clients saw becomes a history.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from random import Random

from buckets.bucket_map import Stage
from replicas.changes import Change
from replicas.commands import (
    create_fence,
    pack_limits,
    prepare_prefix,
    prepare_suffix,
    read_command,
    read_prefix,
    write_prefix,
    write_suffix,
)
from replicas.fake import FakeReplica
from replicas.fence import Fence, Role
from replicas.layout import bucket_keys
from replicas.quorum import Group, Needs, majority
from replicas.register import Again, Answer, Ask, CasPaxos, Done, Outcome, Route, Step
from replicas.replies import parse_accept, parse_acceptor_read, parse_prepare
from replicas.scripts import SCRIPTS
from replicas.version import HybridClock
from tests.support.linearizable import Call

KEYS = bucket_keys("orders", 3)
KEY = b"key"
FENCE = Fence(1, Stage.OLD, Role.OWNER, 1)
LIMITS = pack_limits(500, 1 << 20)
START_MS = 1_763_700_000_000
SKEWS_MS = (0, -7_000, 60_000)  # of the coordinators; linearizable keyspaces do not care

Value = bytes | None
Judge = Callable[[Value, Done | None], tuple[bool, Value]]


def majority_of(slots: int) -> Needs:
    """A majority of the slots in the mask."""
    return (Group(slots, majority(slots.bit_count())),)


@dataclass
class Wanted:
    """What a client wants. `judge` gives, for a state and an answer (None: unknown), whether the
    answer fits, and the state after it.
    """

    name: str
    change: Change | None
    judge: Judge


@dataclass(eq=False)
class Running:
    """An operation under way; a repeat with the same id takes the place of one that is unknown."""

    wanted: Wanted
    started: int
    coordinator: int
    operation: CasPaxos
    waits: bool = False  # for its turn after Again
    tries: int = 1


@dataclass(frozen=True, eq=False)
class Message:
    """A request on its way to a replica, or its answer on its way back."""

    running: Running
    operation: CasPaxos
    asked: Ask
    slot: int
    answer: Answer = None
    back: bool = False
    echo: bool = False  # carried out once more; the first answer is the one that comes back


@dataclass
class World:
    """A run. `replica` and `operation` may be variants that break a rule."""

    seed: int
    replica: type[FakeReplica] = FakeReplica
    operation: type[CasPaxos] = CasPaxos
    size: int = 3
    clients: int = 4
    calls: list[Call[Value]] = field(default_factory=list)
    answers: list[tuple[Wanted, Done]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = Random(self.seed)
        self.now_ms = START_MS
        self.skews_ms = SKEWS_MS
        self.moment = 0
        self.replicas = [self.replica(bytes([slot]) * 20) for slot in range(self.size)]
        for replica in self.replicas:
            replica.execute(create_fence(KEYS, FENCE.encode(), b""), self.now_ms)
        self.ballots = [HybridClock(b"writer-%d" % number) for number in range(len(SKEWS_MS))]
        self.running: list[Running] = []
        self.messages: list[Message] = []

    # --- the run

    def run(self, wants: Iterator[Wanted], *, events: int, calm: bool = False) -> None:
        """Let up to `events` things happen; `calm`: no faults, and all there is to do is done."""
        for _ in range(events):
            self.now_ms += self.dice.choice((0, 0, 0, 1, 5))
            if len(self.running) < (1 if calm else self.clients):
                wanted = next(wants, None)
                if wanted is not None:
                    self._begin(wanted)
                elif calm and not self.running:
                    return
            self._something_happens(calm)

    def end(self) -> list[Call[Value]]:
        """The history: what has not ended is unknown."""
        for running in self.running:
            self._record(running, None)
        self.running.clear()
        self.messages.clear()
        return self.calls

    def _something_happens(self, calm: bool) -> None:
        dice = self.dice
        if not calm and dice.random() < 0.01:
            replica = dice.choice(self.replicas)
            replica.restart(dice.randbytes(20))
        if not calm and self.running and dice.random() < 0.01:
            self._give_up(dice.choice(self.running))
        waiting = [running for running in self.running if running.waits]
        if waiting and (not self.messages or dice.random() < 0.2):
            running = dice.choice(waiting)
            running.waits = False
            self._act(running, running.operation.again(self._clock(running)))
        elif self.messages:
            self._move(self.messages.pop(dice.randrange(len(self.messages))), calm)
        elif self.running:
            self._give_up(dice.choice(self.running))

    def _begin(self, wanted: Wanted) -> None:
        coordinator = self.dice.randrange(len(SKEWS_MS))
        id_ = b""
        if wanted.change is not None:
            at_ms = self.now_ms + self.skews_ms[coordinator]
            id_ = at_ms.to_bytes(6, "big") + self.dice.randbytes(10)
        self.moment += 1
        operation = self._operation(wanted, coordinator, id_, fresh=True)
        running = Running(wanted, self.moment, coordinator, operation)
        self.running.append(running)
        self._act(running, operation.start(self._clock(running)))

    def _operation(self, wanted: Wanted, coordinator: int, id_: bytes, *, fresh: bool) -> CasPaxos:
        needs = majority_of((1 << self.size) - 1)
        order = tuple(self.dice.sample(range(self.size), self.size))
        route = Route(needs, needs, order)
        ballots = self.ballots[coordinator]
        one_round = wanted.change is None
        return self.operation(
            route, ballots, wanted.change, operation_id=id_, fresh=fresh, one_round=one_round
        )

    def _clock(self, running: Running) -> int:
        return self.now_ms + self.skews_ms[running.coordinator]

    # --- messages

    def _move(self, message: Message, calm: bool) -> None:
        chance = 1.0 if calm else self.dice.random()
        if not message.back:
            if chance < 0.05:  # lost, noticed or not
                if self.dice.random() < 0.5:
                    self._answer(message, None)
                return
            answer = self._execute(message)
            if message.echo:
                return
            if chance < 0.1:
                self.messages.append(replace(message, echo=True))
            self.messages.append(replace(message, answer=answer, back=True))
        elif chance >= 0.05:
            self._answer(message, message.answer)

    def _answer(self, message: Message, answer: Answer) -> None:
        running = message.running
        if message.operation is not running.operation or running not in self.running:
            return
        asked, clock = message.asked, self._clock(running)
        action = running.operation.on_answer(asked.round, message.slot, answer, clock)
        self._act(running, action)

    def _execute(self, message: Message) -> Answer:
        step, payload = message.asked.step, message.asked.payload
        execute = self.replicas[message.slot].execute
        if step is Step.READ:
            reply = execute(read_command(read_prefix(KEYS), KEY), self.now_ms)
            return parse_acceptor_read(reply, FENCE.prefix, 1, 1)[1]
        if step is Step.PREPARE:
            command = prepare_prefix(KEYS, 1, 1) + prepare_suffix(KEY, payload)
            return parse_prepare(execute(command, self.now_ms), payload)
        prefix = write_prefix(KEYS, 1, 1, script=SCRIPTS["accept"])
        return parse_accept(execute(prefix + write_suffix(KEY, payload, LIMITS), self.now_ms))

    # --- what operations say

    def _act(self, running: Running, action: Ask | Again | Done | None) -> None:
        match action:
            case Ask():
                slots = [slot for slot in range(self.size) if action.slots >> slot & 1]
                self.messages += [
                    Message(running, running.operation, action, slot) for slot in slots
                ]
            case Again():
                running.waits = True
            case Done():
                self._done(running, action)

    def _give_up(self, running: Running) -> None:
        self._done(running, running.operation.give_up("deadline"))

    def _done(self, running: Running, done: Done) -> None:
        if done.outcome is Outcome.UNKNOWN and running.tries < 3 and self.dice.random() < 0.5:
            self._repeat(running)
            return
        self.running.remove(running)
        self.moment += 1
        self.answers.append((running.wanted, done))
        self._record(running, done)

    def _repeat(self, running: Running) -> None:
        """The client asks again, elsewhere perhaps, with the same id."""
        running.tries += 1
        running.waits = False
        running.coordinator = self.dice.randrange(len(SKEWS_MS))
        id_ = running.operation.operation_id
        running.operation = self._operation(running.wanted, running.coordinator, id_, fresh=False)
        self._act(running, running.operation.start(self._clock(running)))

    def _record(self, running: Running, done: Done | None) -> None:
        wanted = running.wanted
        if done is not None and done.outcome is Outcome.NOT_APPLIED and not done.decided:
            return  # proved: if its effect is seen all the same, nothing explains it
        unknown = done is None or done.outcome is Outcome.UNKNOWN
        if unknown and wanted.change is None:
            return
        answer = None if unknown else done

        outcome = "unknown" if answer is None else f"{answer.outcome.name} {answer.current}"
        name = f"{wanted.name} -> {outcome}"
        ended = None if unknown else self.moment
        self.calls.append(
            Call(name, running.started, ended, lambda state: wanted.judge(state, answer))
        )
