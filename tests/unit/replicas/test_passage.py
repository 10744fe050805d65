"""An acceptor that lost everything comes back, and no history notices; unless a rule is broken."""

import pytest

from replicas.acceptor import UNTOUCHED, Acceptor, Content, decode_acceptor, encode_acceptor
from replicas.passage import Passage, ballot_floor
from replicas.quorum import Group
from replicas.register import Again, Ask, Done, Outcome, Step, Why
from replicas.replies import Code, Refusal
from replicas.version import HybridClock, physical_ms
from tests.support.linearizable import order_of
from tests.support.register_return import Returning, Rules
from tests.support.register_wants import counting

NOW_MS = 1_763_700_000_000
SEEDS = 500
MOST_SEEDS = 4_000  # in which a broken variant must be caught


def violation(seed: int, rules: Rules) -> bool:
    world = Returning(seed, rules=rules)
    world.live(counting(world.dice))
    return order_of(world.end(), None) is None


@pytest.mark.slow
def test_no_history_notices_that_a_replica_lost_everything_and_came_back() -> None:
    assert [seed for seed in range(SEEDS) if violation(seed, Rules())] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [Rules(floor=False), Rules(alone=False), Rules(keys=False), Rules(promises=False)],
    ids=["no floor", "counts itself", "skips keys", "skips promises"],
)
def test_without_one_of_the_rules_a_history_contradicts_itself(broken: Rules) -> None:
    assert any(violation(seed, broken) for seed in range(MOST_SEEDS))


def ballot(number: int) -> bytes:
    return number.to_bytes(16, "big")


def state(number: int, value: bytes | None) -> Acceptor:
    """An acceptor that has accepted a value."""
    at = ballot(number)
    found = decode_acceptor(encode_acceptor(at, Content(value, changed=at)))
    assert found is not None
    return found


class TestPassage:
    """Slots 0 and 1 decide, slot 2 follows."""

    def setup_method(self) -> None:
        self.ballots = HybridClock(b"a-writer")
        self.passage = Passage(Group(0b011, 2), 0b100, self.ballots)

    def ask(self, step: Step, slots: int, action: object) -> Ask:
        assert isinstance(action, Ask)
        assert (action.step, action.slots) == (step, slots)
        return action

    def to_the_follower(self, *acceptors: Acceptor) -> Ask:
        """Prepared and accepted by those who decide."""
        asked = self.ask(Step.PREPARE, 0b011, self.passage.start(NOW_MS))
        assert self.passage.on_answer(asked.round, 0, acceptors[0], NOW_MS) is None
        action = self.passage.on_answer(asked.round, 1, acceptors[1], NOW_MS)
        asked = self.ask(Step.ACCEPT, 0b011, action)
        assert self.passage.on_answer(asked.round, 0, True, NOW_MS) is None
        action = self.passage.on_answer(asked.round, 1, True, NOW_MS)
        given = self.ask(Step.ACCEPT, 0b100, action)
        assert given.payload == asked.payload
        return given

    def test_what_a_majority_without_it_has_chosen_is_handed_on(self) -> None:
        given = self.to_the_follower(state(5, b"old"), state(7, b"new"))
        offered = decode_acceptor(given.payload)
        assert offered is not None
        assert offered.content.value == b"new"
        assert offered.content.changed == ballot(7)  # readers see the version that they know
        done = self.passage.on_answer(given.round, 2, True, NOW_MS)
        assert isinstance(done, Done)
        assert done.outcome is Outcome.OK

    def test_a_mere_promise_becomes_an_accepted_nothing(self) -> None:
        given = self.to_the_follower(UNTOUCHED, UNTOUCHED)
        offered = decode_acceptor(given.payload)
        assert offered is not None
        assert offered.accepted == offered.promise > ballot(0)
        assert offered.content.value is None

    def test_a_follower_that_may_have_promised_more_is_offered_it_above(self) -> None:
        given = self.to_the_follower(UNTOUCHED, UNTOUCHED)
        bar = (NOW_MS + 9_000).to_bytes(6, "big") + b"\xff" * 10
        refusal = Refusal(Code.LOW_BALLOT, detail=bar)
        again = self.passage.on_answer(given.round, 2, refusal, NOW_MS)
        assert isinstance(again, Again)
        assert again.why is Why.OUTBID
        assert self.to_the_follower(UNTOUCHED, UNTOUCHED).payload[8:24] > bar

    def test_late_answers_of_a_follower_say_nothing(self) -> None:
        given = self.to_the_follower(UNTOUCHED, UNTOUCHED)
        assert isinstance(self.passage.on_answer(given.round, 2, None, NOW_MS), Again)
        again = self.to_the_follower(UNTOUCHED, UNTOUCHED)
        assert self.passage.on_answer(given.round, 2, True, NOW_MS) is None
        assert isinstance(self.passage.on_answer(again.round, 2, True, NOW_MS), Done)

    def test_who_follows_does_not_decide(self) -> None:
        with pytest.raises(ValueError, match="does not decide"):
            Passage(Group(0b111, 2), 0b100, self.ballots)


def test_the_floor_is_above_the_clock_and_above_what_others_promised() -> None:
    floor = ballot_floor(NOW_MS, 500, [ballot(3)])
    assert physical_ms(floor) == NOW_MS + 500
    assert floor > (NOW_MS + 500).to_bytes(6, "big") + b"\xff" * 9
    ahead = (NOW_MS + 501).to_bytes(6, "big") + bytes(10)
    assert ballot_floor(NOW_MS, 500, [ballot(3), ahead]) == ahead
