"""Registers over simulated replicas stay linearizable, whatever the network and restarts do; and
every variant that breaks a rule is caught by the same test."""

import pytest

from replicas.acceptor import Content
from replicas.changes import Change
from replicas.fake import FakeReplica, State
from replicas.register import Action, CasPaxos, Outcome, Step
from tests.support.linearizable import order_of
from tests.support.register_wants import counting, mixed, read
from tests.support.register_world import World

SEEDS = 150
EVENTS = 900


def violation(world: World) -> bool:
    """Whether a run of mixed operations has no order that explains its answers."""
    world.run(mixed(world.dice), events=EVENTS)
    return order_of(world.end(), None) is None


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 5])
def test_every_history_has_an_order_that_explains_it(size: int) -> None:
    ended = 0
    for seed in range(SEEDS):
        world = World(seed, size=size)
        assert not violation(world), f"seed {seed}: {world.calls}"
        ended += sum(call.ended is not None for call in world.calls)
    assert ended > 5 * SEEDS  # most runs get something done


@pytest.mark.slow
def test_a_counter_ends_between_what_was_acknowledged_and_what_may_have_been() -> None:
    for seed in range(SEEDS):
        world = World(seed)
        world.run(counting(world.dice), events=EVENTS)
        under_way = len(world.running)
        world.end()
        outcomes = [done.outcome for wanted, done in world.answers if wanted.change is not None]
        ok = outcomes.count(Outcome.OK)
        unknown = outcomes.count(Outcome.UNKNOWN) + under_way
        world.run(iter([read()]), events=1000, calm=True)
        final = world.answers[-1][1].current
        assert final is not None
        assert ok <= int(final.value or b"0") <= ok + unknown, f"seed {seed}"
        assert order_of(world.calls, None) is not None, f"seed {seed}"


class Forgetful(FakeReplica):
    """A restart loses what was promised and accepted last, and nobody is told."""

    def restart(self, run_id: bytes, state: State | None = None) -> None:
        super().restart(run_id, state)
        for fields in self.state.hashes.values():
            fields.pop(b"kkey", None)


class WithoutMajority(CasPaxos):
    """The first promise is enough."""

    def _judge(self, now_ms: int) -> Action:
        if self._step is Step.PREPARE and self._acceptors:
            return self._propose(now_ms)
        return super()._judge(now_ms)


class WithoutIdentity(CasPaxos):
    """A failed compare-and-set answers from what it saw, whether or not that was chosen."""

    def _apply(self, change: Change, content: Content) -> Action:  # type: ignore[override]
        action = super()._apply(change, content)
        refused = self._when_chosen is not None and self._when_chosen.decided
        return self._when_chosen if refused else action


class ReadsTheFirst(CasPaxos):
    """A read believes the highest that it sees, without finishing the change in flight."""

    def _judge_read(self, now_ms: int) -> Action:
        if len(self._acceptors) < 2:
            return None
        best = max(self._acceptors.values(), key=lambda acceptor: acceptor.accepted)
        return self._answer(best.content, now_ms)


class ForgetsItsId(CasPaxos):
    """After a refused accept it proposes again, without looking whether it was applied."""

    def _propose(self, now_ms: int) -> Action:
        tail = int.from_bytes(self.operation_id[6:], "big") + 1
        if self._change is not None:
            self.operation_id = self.operation_id[:6] + tail.to_bytes(10, "big")
        return super()._propose(now_ms)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [WithoutMajority, WithoutIdentity, ReadsTheFirst, ForgetsItsId])
def test_a_broken_rule_of_the_register_is_caught(broken: type[CasPaxos]) -> None:
    assert any(violation(World(seed, operation=broken)) for seed in range(SEEDS))


@pytest.mark.slow
def test_an_acceptor_that_forgets_is_caught() -> None:
    assert any(violation(World(seed, replica=Forgetful)) for seed in range(SEEDS))
