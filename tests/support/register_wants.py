"""What clients of a simulated register want, and how their answers are judged."""

from collections.abc import Iterator
from itertools import count
from random import Random

from replicas.changes import Change, Current, Refuse, compare_and_set, delete, increment, put
from replicas.register import Done
from tests.support.register_world import Value, Wanted


def read() -> Wanted:
    """The value as it stands."""

    def judge(state: Value, answer: Done | None) -> tuple[bool, Value]:
        return answer is None or _value(answer) == state, state

    return Wanted("read", None, judge)


def changing(name: str, change: Change) -> Wanted:
    """A change: its answer must be the one that the change itself gives on the state."""

    def judge(state: Value, answer: Done | None) -> tuple[bool, Value]:
        verdict = change(Current(state))
        if isinstance(verdict, Refuse):
            refused = answer is None or answer.decided
            return refused and _fits(answer, state), state
        applied = answer is None or not answer.decided
        if answer is not None and not answer.repeated:
            applied = applied and answer.result == verdict.result
        return applied and _fits(answer, verdict.value), verdict.value

    return Wanted(name, change, judge)


def mixed(dice: Random) -> Iterator[Wanted]:
    """Everything a register can do; every value is written once."""
    for number in count(1):
        new, expected = b"%d" % number, b"%d" % (number - dice.randint(1, 3))
        kind = dice.choice(["read", "read", "put", "compare", "compare", "add", "delete"])
        if kind == "read":
            yield read()
        elif kind == "put":
            yield changing(f"put {number}", put(new))
        elif kind == "compare":
            change = compare_and_set(new, expected_value=dice.choice([expected, None]))
            yield changing(f"compare and set {number}", change)
        elif kind == "add":
            yield changing("add 1000", increment(1000))
        else:
            yield changing("delete", delete())


def counting(dice: Random) -> Iterator[Wanted]:
    """A counter, mostly incremented."""
    while True:
        yield read() if dice.random() < 0.2 else changing("add 1", increment(1))


def _value(answer: Done) -> Value:
    return answer.current.value if answer.current is not None else None


def _fits(answer: Done | None, value: Value) -> bool:
    """Whether the answer, as far as it says what stands, says this."""
    return answer is None or answer.repeated or answer.current is None or _value(answer) == value
