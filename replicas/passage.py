"""A key of the linearizable mode on its way through an identity change, as jobs make it. Pure.

Owners whose copies differ are made equal by it, and an acceptor that lost data is given what is
chosen by the others. Nobody's record is copied: what a majority of the `deciding` slots accepts
under a new ballot is the value, and only then the `following` ones are handed it. Those are never
asked what they know and never counted: they have forgotten something, and a majority that counts
them may share nobody with the majority that chose the value.
"""

from collections.abc import Iterable

from replicas.quorum import Group
from replicas.register import (
    Action,
    Again,
    Answer,
    Ask,
    CasPaxos,
    Done,
    Outcome,
    Route,
    Step,
    Why,
)
from replicas.replies import Code, Refusal
from replicas.version import HybridClock

_STALE = frozenset({Code.STALE_EPOCH, Code.RELEASED})


def ballot_floor(time_ms: int, max_skew_ms: int, promises: Iterable[bytes]) -> bytes:
    """Above anything that an acceptor can have promised before it lost its data.

    `time_ms` is its server's TIME, taken after its restart; `promises` the highest ones of a fenced
    majority of the others, since ballots run ahead of clocks that are behind.
    """
    return max([(time_ms + max_skew_ms).to_bytes(6, "big") + b"\xff" * 10, *promises])


class Passage:
    """An identity change of one key, driven as a CasPaxos is: see replicas/register.py.

    `deciding` is the one group that decides, `following` a mask of other slots. Done comes when a
    majority of the former, and every one of the latter, has accepted. `ballots` must have merged
    the followers' ballot floors; otherwise they refuse once, and it begins again above.
    """

    __slots__ = ("_attempt", "_ballots", "_chosen", "_following", "_left", "_paxos", "_record")

    def __init__(self, deciding: Group, following: int, ballots: HybridClock) -> None:
        if deciding.members & following:
            raise ValueError("a slot that follows does not decide")
        order = tuple(n for n in range(deciding.members.bit_length()) if deciding.members >> n & 1)
        self._paxos = CasPaxos(Route((deciding,), (deciding,), order), ballots)
        self._ballots = ballots
        self._following = following
        self._left = following
        self._record = b""  # what was last proposed
        self._chosen: Done | None = None
        self._attempt = 0

    def start(self, now_ms: int) -> Action:
        """Begin; also after Again."""
        self._chosen = None
        self._left = self._following
        return self._seen(self._paxos.start(now_ms))

    again = start

    def on_answer(self, round_: int, slot: int, answer: Answer, now_ms: int) -> Action:
        """What `slot` answered to the Ask of that round."""
        if round_ < 0:
            return self._followed(round_, slot, answer)
        return self._seen(self._paxos.on_answer(round_, slot, answer, now_ms))

    def _seen(self, action: Action) -> Action:
        if isinstance(action, Ask) and action.step is Step.ACCEPT:
            self._record = action.payload
        if isinstance(action, Again):
            self._attempt += 1
            return Again(action.why, self._attempt)
        if isinstance(action, Done) and action.outcome is Outcome.OK and self._left:
            self._chosen = action
            self._attempt += 1
            # Rounds of the followers count downwards, those of CASPaxos upwards.
            return Ask(-self._attempt, Step.ACCEPT, self._left, self._record)
        return action

    def _followed(self, round_: int, slot: int, answer: Answer) -> Action:
        bit = 1 << slot
        if round_ != -self._attempt or self._chosen is None or not self._left & bit:
            return None
        if answer is True:
            self._left &= ~bit
            return None if self._left else self._chosen
        self._chosen = None
        self._attempt += 1
        if not isinstance(answer, Refusal):
            return Again(Why.UNAVAILABLE, self._attempt)
        if answer.code is Code.LOW_BALLOT and isinstance(answer.detail, bytes):
            self._ballots.merge(answer.detail)
        low = answer.code in (Code.LOW_BALLOT, Code.SKEWED)
        why = Why.STALE if answer.code in _STALE else Why.UNAVAILABLE
        return Again(Why.OUTBID if low else why, self._attempt)
