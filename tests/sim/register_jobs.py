"""What jobs do to linearizable keys: nothing is copied; an identity change of every key, by the
product's own CASPaxos, makes a majority of whoever is to hold it accept it.
"""

from collections.abc import Generator, Iterable

from replicas.commands import TIME, prepare_prefix, prepare_suffix, write_prefix, write_suffix
from replicas.quorum import Group
from replicas.register import Action, Again, CasPaxos, Done, Route, Step, Why
from replicas.register import Answer as Parsed
from replicas.register import Ask as Asked
from replicas.replies import parse_accept, parse_prepare
from replicas.scripts import SCRIPTS
from tests.sim.controller import Answer, Answers, Ask, Controller, Request
from tests.sim.jobs import LIMITS, listing, places_of
from tests.sim.server import KEYS

MAX_ATTEMPTS = 8
WAIT_S = 0.02  # after an attempt that a client has outbid

Majority = tuple[set[int], int]  # of these nodes so many


def ballot_floor(
    controller: Controller, number: int, life: bytes
) -> Generator[Request, Answers, bytes | None]:
    """Above all that the node can have promised before this life; None: it does not answer."""
    answers = yield [Ask(number, TIME, life)]
    if answers[0] is None or not isinstance(answers[0].reply, list):
        return None
    seconds, micros = answers[0].reply
    floor_ms = int(seconds) * 1000 + int(micros) // 1000 + controller.store.settings.max_skew_ms
    return floor_ms.to_bytes(6, "big") + b"\xff" * 10


def pass_through(
    controller: Controller, sources: Iterable[int], need: int, majorities: list[Majority]
) -> Generator[Request, Answers, set[bytes] | None]:
    """Every key that `need` of the sources know of; None: not all of them went through."""
    keys = yield from _keys_of(controller, sources, need)
    for key in sorted(keys or ()):
        if not (yield from pass_key(controller, key, majorities)):
            return None
    return keys


def pass_key(
    controller: Controller, key: bytes, majorities: list[Majority]
) -> Generator[Request, Answers, bool]:
    """One key; whether it went through."""
    return (yield from _Identity(controller, key, majorities).run())


def _keys_of(
    controller: Controller, sources: Iterable[int], need: int
) -> Generator[Request, Answers, set[bytes] | None]:
    good: list[dict[bytes, bytes]] = []
    for place in places_of(controller, sources):
        names = yield from listing(place)
        if names is not None:
            good.append(names)
    return {name[1:] for each in good for name in each} if len(good) >= need else None


class _Identity:
    """One key. Whom it asks, and under which epoch, is fixed when it is made."""

    def __init__(self, controller: Controller, key: bytes, majorities: list[Majority]) -> None:
        store = controller.store
        self._controller = controller
        self._key = key
        self._epoch = store.bucket.epoch
        owners = [store.owner(n) for n in sorted(set().union(*(each for each, _ in majorities)))]
        self._owners = [owner for owner in owners if owner is not None]
        self._lives = [store.node(owner.node).run_id for owner in self._owners]
        slots = {owner.node: slot for slot, owner in enumerate(self._owners)}
        needs = tuple(
            Group(sum(1 << slots[n] for n in members if n in slots), need)
            for members, need in majorities
        )
        self._paxos = CasPaxos(Route(needs, needs, tuple(slots.values())), controller.ballots)

    def run(self) -> Generator[Request, Answers, bool]:
        """Whether it was chosen."""
        action = self._paxos.start(self._controller.wall_ms)
        while True:
            match action:
                case Asked() as asked:
                    answers = yield self._commands(asked)
                    action = self._hear(asked, answers)
                case Again(why, attempt):
                    if why is Why.STALE or attempt > MAX_ATTEMPTS:
                        return False
                    yield WAIT_S
                    action = self._paxos.again(self._controller.wall_ms)
                case Done():
                    return True
                case None:
                    return False

    def _commands(self, asked: Asked) -> list[Ask]:
        asks = []
        for slot, owner in enumerate(self._owners):
            if not asked.slots >> slot & 1:
                continue
            if asked.step is Step.PREPARE:
                command = prepare_prefix(KEYS, self._epoch, owner.incarnation)
                command += prepare_suffix(self._key, asked.payload)
            else:
                accept = SCRIPTS["accept"]
                command = write_prefix(KEYS, self._epoch, owner.incarnation, script=accept)
                command += write_suffix(self._key, asked.payload, LIMITS)
            asks.append(Ask(owner.node, command, self._lives[slot]))
        return asks

    def _hear(self, asked: Asked, answers: Answers) -> Action:
        slots = [slot for slot in range(len(self._owners)) if asked.slots >> slot & 1]
        action: Action = None
        for slot, answer in zip(slots, answers, strict=True):
            parsed = _parse(asked, answer) if answer is not None else None
            next_action = self._paxos.on_answer(asked.round, slot, parsed, self._controller.wall_ms)
            action = next_action or action
        return action


def _parse(asked: Asked, answer: Answer) -> Parsed:
    if asked.step is Step.PREPARE:
        return parse_prepare(answer.reply, asked.payload)
    return parse_accept(answer.reply)
