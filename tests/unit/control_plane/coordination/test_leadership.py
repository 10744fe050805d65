"""A leadership judges itself by its own clock; here the test moves the clock."""

import asyncio
from dataclasses import dataclass, field

import pytest

from control_plane.coordination.errors import StoreClosed, Unavailable
from control_plane.coordination.leadership import LeadershipLinks, TimedLeadership
from control_plane.coordination.store import Check

DEADLINE_S = 0.05


@dataclass
class Store:
    """Answers what it is told to, at the time it is told to."""

    now_s: float = 100.0
    answer: bool | Exception = True
    takes_s: float = 0.0
    asked: int = 0
    left: int = 0
    ended: list[TimedLeadership] = field(default_factory=list)

    async def confirm(self) -> bool:
        self.asked += 1
        self.now_s += self.takes_s
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def leave(self) -> None:
        self.left += 1

    def leadership(self, deadline_s: float = DEADLINE_S) -> TimedLeadership:
        return TimedLeadership(
            "/leader",
            7,
            LeadershipLinks(self.confirm, self.leave, self.ended.append),
            confirmed_at=self.now_s,
            deadline_s=deadline_s,
            clock=lambda: self.now_s,
        )


async def asked(store: Store, times: int) -> None:
    async with asyncio.timeout(5):
        while store.asked < times:
            await asyncio.sleep(0.001)


def test_the_guard_is_a_check_of_the_term() -> None:
    assert Store().leadership().guard() == Check("/leader", 7)


def test_silence_ends_it_at_the_deadline() -> None:
    store = Store()
    leadership = store.leadership()
    store.now_s += DEADLINE_S * 0.99
    assert leadership.is_leader()
    store.now_s += DEADLINE_S * 0.01
    assert not leadership.is_leader()


async def test_an_answer_counts_from_when_the_question_was_asked() -> None:
    # The session is only known to have lived then; the answer may have been long on its way.
    deadline_s = 50.0  # so long that the next question is far away
    store = Store(takes_s=deadline_s * 0.9)
    leadership = store.leadership(deadline_s)
    keeping = asyncio.create_task(leadership.keep())
    await asked(store, 1)
    assert leadership.is_leader()
    store.now_s += deadline_s * 0.2
    assert not leadership.is_leader()
    leadership.end()
    await keeping


async def test_confirmations_keep_it_alive() -> None:
    store = Store()
    leadership = store.leadership()
    keeping = asyncio.create_task(leadership.keep())
    for times in range(1, 5):
        store.now_s += DEADLINE_S * 0.9
        await asked(store, store.asked + 2)
        assert leadership.is_leader(), times
    leadership.end()
    await keeping


@pytest.mark.parametrize("answer", [False, StoreClosed("closed")], ids=repr)
async def test_a_refusal_ends_it_at_once_and_makes_room(answer: bool | Exception) -> None:
    store = Store(answer=answer)
    leadership = store.leadership()
    await leadership.keep()
    assert not leadership.is_leader()
    assert (store.asked, store.left, store.ended) == (1, 1, [leadership])


async def test_an_unavailable_store_ends_it_by_the_clock_alone() -> None:
    store = Store(answer=Unavailable("away"))
    leadership = store.leadership()
    keeping = asyncio.create_task(leadership.keep())
    await asked(store, 2)
    assert leadership.is_leader()
    store.now_s += DEADLINE_S
    await leadership.lost()
    await keeping
    assert not leadership.is_leader()


async def test_once_over_it_never_leads_again() -> None:
    store = Store()
    leadership = store.leadership()
    store.now_s += DEADLINE_S
    await leadership.keep()
    store.now_s -= DEADLINE_S
    assert not leadership.is_leader()


async def test_resigning_leaves_and_tells_once() -> None:
    store = Store()
    leadership = store.leadership()
    async with leadership:
        assert leadership.is_leader()
    await leadership.resign()
    assert not leadership.is_leader()
    assert store.ended == [leadership]
    assert store.left == 2
