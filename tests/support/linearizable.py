"""Is a history linearizable? The search of Wing and Gong, with a memory of what led nowhere (Lowe).

For short histories of one object: it takes each call that may come next, and backs up where the
answers contradict the state.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True)
class Call(Generic[State]):
    """A call and its answer. `started` and `ended` are points in time that differ from all others.

    `step` gives whether its answer fits the state before it, and the state after it.
    `ended` None: its outcome is unknown, so it may have happened at any time since, or never. A
    call that is known not to have happened has no place in a history.
    """

    name: str
    started: int
    ended: int | None
    step: Callable[[State], tuple[bool, State]]


def order_of(calls: Sequence[Call[State]], initial: State) -> list[str] | None:
    """The names of the calls in an order that explains all answers; None: there is none."""
    answered = sum(1 << index for index, call in enumerate(calls) if call.ended is not None)
    seen: set[tuple[int, State]] = set()
    path: list[int] = []
    stack = [_next(calls, 0, initial)]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
            if path:
                path.pop()
            continue
        index, done, state = found
        if (done, state) in seen:
            continue
        seen.add((done, state))
        path.append(index)
        if done & answered == answered:
            return [calls[place].name for place in path]
        stack.append(_next(calls, done, state))
    return None if answered else []


def _next(
    calls: Sequence[Call[State]], done: int, state: State
) -> Iterator[tuple[int, int, State]]:
    """What may come next: calls that began before the first answer among those still to come."""
    left = [(index, call) for index, call in enumerate(calls) if not done >> index & 1]
    first_answer = min((call.ended for _, call in left if call.ended is not None), default=None)
    for index, call in left:
        if first_answer is None or call.started < first_answer:
            fits, after = call.step(state)
            if fits:
                yield index, done | 1 << index, after
