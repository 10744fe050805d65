"""One operation on one register (CASPaxos): answers of replicas in, what to ask them out.

No sockets, timers or dice: the caller sends what an `Ask` says, hands over what comes back, and
waits where an `Again` says so:

    action = operation.start(now_ms)
    Ask    send it to every slot of the mask; pass every reply to on_answer
    Again  nothing more can come of this attempt. Why is OUTBID: wait backoff_ms(attempt, rng), then
           again(now_ms). STALE: fetch the map, then rerouted(route, now_ms). UNAVAILABLE: wait for
           a replica, then either.
    Done   the answer. A caller whose epoch has moved meanwhile calls rerouted instead of believing
           it; a change is recognized by its id, so it happens once all the same.
    None   more replies are needed.

At the deadline: give_up(reason). Prepare and accept use the write needs of the bucket's stage; only
the read of one round uses the read needs. `now_ms` (Unix milliseconds) decides what has expired,
and mostly lets first ballots be high enough; nothing that must not break depends on it.
"""

import enum
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Literal, NamedTuple

from replicas.acceptor import (
    ID_BYTES,
    REFUSED,
    UNTOUCHED,
    Acceptor,
    Content,
    Decided,
    encode_acceptor,
    id_time_ms,
)
from replicas.changes import Change, Current, Propose
from replicas.quorum import IMPOSSIBLE, REACHED, Needs, smallest_set, tally
from replicas.replies import Code, Refusal
from replicas.version import ZERO_VERSION, HybridClock

BACKOFF_MS = 2.0
MAX_BACKOFF_MS = 200.0
EXPIRED_ID: Final = "the operation id is older than those that the key remembers"
NOT_SENT: Final = Refusal(Code.SERVER, detail=b"not sent")  # the answer of a slot nothing went to

_STALE = frozenset({Code.STALE_EPOCH, Code.RELEASED})


class Step(enum.Enum):
    """What replicas are asked: commands.read_command, prepare_suffix, write_suffix for accept."""

    READ = enum.auto()
    PREPARE = enum.auto()
    ACCEPT = enum.auto()


class Why(enum.Enum):
    """Why an attempt came to nothing."""

    OUTBID = enum.auto()  # another operation is under way, or a clock has not reached an expiry
    STALE = enum.auto()  # replicas are at a later epoch
    UNAVAILABLE = enum.auto()  # too few answered


class Outcome(enum.Enum):
    """How an operation ended. NOT_APPLIED is proved: no reader will ever see the change."""

    OK = enum.auto()
    NOT_APPLIED = enum.auto()
    UNKNOWN = enum.auto()


class Route(NamedTuple):
    """Whom to ask: groups over slots (replicas.quorum), and the slots in order of preference."""

    write: Needs
    read: Needs
    order: tuple[int, ...]


class Ask(NamedTuple):
    """Ask the slots in the mask. `payload`: nothing, the ballot, or the record to accept."""

    round: int
    step: Step
    slots: int
    payload: bytes = b""


class Again(NamedTuple):
    """`attempt` counts from 1, over the whole operation."""

    why: Why
    attempt: int


@dataclass(frozen=True, slots=True)
class Done:
    """The end. `version` is that of the change, or of what was read.

    `current` is what stands (of a refused change: what it was refused for), None where that is not
    known. `repeated`: an earlier call with the same id had done it, and its `result` is not known.
    `decided`: NOT_APPLIED because the change itself refused; otherwise `reason` is give_up's.
    """

    outcome: Outcome
    reason: str = ""
    version: bytes = ZERO_VERSION
    current: Current | None = None
    result: object = None
    repeated: bool = False
    decided: bool = False


Action = Ask | Again | Done | None
Answer = Acceptor | Literal[True] | Refusal | None


def backoff_ms(attempt: int, rng: Random) -> float:
    """How long to wait before `again`: at once the first time, when mostly only the ballot was
    behind; then anything up to a bound that doubles, so that who has lost often waits longest but
    may also come first.
    """
    if attempt <= 1:
        return 0.0
    return rng.uniform(0.0, min(MAX_BACKOFF_MS, BACKOFF_MS * 2.0 ** min(attempt, 30)))


class CasPaxos:
    """A read (`change` None and `one_round`), an identity change (`change` None) or a change.

    A change has an `operation_id`: 16 bytes that begin with its time (UUIDv7). `fresh`: the id was
    made for this very call, so nobody else has used it; otherwise an earlier call may have been
    applied, and no failure proves anything. `ballots` is one per process, of a writer of its own,
    and merges every ballot seen: none is ever issued twice.
    """

    def __init__(
        self,
        route: Route,
        ballots: HybridClock,
        change: Change | None = None,
        *,
        operation_id: bytes = b"",
        fresh: bool = True,
        one_round: bool = False,
    ) -> None:
        if (change is not None) != (len(operation_id) == ID_BYTES):
            raise ValueError(f"a change, and nothing else, has an operation id of {ID_BYTES} bytes")
        self.route = route
        self.operation_id = operation_id
        self._ballots = ballots
        self._change = change
        self._fresh = fresh
        self._one_round = one_round
        self._attempt = 0
        self._results: dict[bytes, object] = {}  # of what was proposed, by ballot
        self._open: dict[
            int, int
        ] = {}  # rounds that may have applied it: slots not known to refuse
        self._clock_ms: int | None = None  # of a replica that said an expiry is still to come
        # Of the present round.
        self._round = 0
        self._step: Step | None = None
        self._ballot = ZERO_VERSION
        self._asked = self._acked = self._failed = 0
        self._acceptors: dict[int, Acceptor] = {}
        self._refusals: set[Code] = set()
        self._when_chosen: Done | None = None  # None: not the end, an expiry came first

    # --- events

    def start(self, now_ms: int) -> Action:
        """Begin; also after Again."""
        if self._one_round and self._change is None:
            mask = smallest_set(self.route.read, self.route.order)
            return self._ask(Step.READ, mask)
        return self._prepare(now_ms)

    again = start

    def rerouted(self, route: Route, now_ms: int) -> Action:
        """Begin again with the owners of another epoch, even after Done."""
        self.route = route
        return self.start(now_ms)

    def give_up(self, reason: str) -> Done:
        """The deadline passed, or nothing helps: what can be said of the outcome."""
        self._step = None
        maybe = self._change is not None and (bool(self._open) or not self._fresh)
        outcome = Outcome.UNKNOWN if maybe else Outcome.NOT_APPLIED
        return Done(outcome, reason, max(self._results, default=ZERO_VERSION))

    def spare(self) -> int:
        """Mask of the owners that a read of one round has not asked; 0 in any other step."""
        return _members(self.route.read) & ~self._asked if self._step is Step.READ else 0

    def hurry(self) -> Ask | None:
        """Those asked are slow: the best of the spare ones, while the others are still awaited."""
        spare = self.spare()
        for slot in self.route.order:
            if spare >> slot & 1:
                self._asked |= 1 << slot
                return Ask(self._round, Step.READ, 1 << slot)
        return None

    def on_answer(self, round_: int, slot: int, answer: Answer, now_ms: int) -> Action:
        """What `slot` answered to the Ask of that round.

        To READ an Acceptor (replies.parse_acceptor_read), to PREPARE an Acceptor
        (replies.parse_prepare), to ACCEPT True (replies.parse_accept); NOT_SENT; any Refusal; None:
        no answer that counts, and there will be none.
        """
        bit = 1 << slot
        if isinstance(answer, Refusal):
            self._refused(round_, bit, answer)
        if round_ != self._round or self._step is None or bit & (self._acked | self._failed):
            return None
        if answer is None or isinstance(answer, Refusal):
            self._failed |= bit
        else:
            self._acked |= bit
        if isinstance(answer, Refusal):
            self._refusals.add(answer.code)
        elif isinstance(answer, Acceptor):
            self._acceptors[slot] = answer
            self._ballots.merge(answer.promise)
        return self._judge(now_ms)

    def _refused(self, round_: int, bit: int, refusal: Refusal) -> None:
        if round_ in self._open:
            self._open[round_] &= ~bit
            if not self._open[round_]:
                del self._open[round_]
        if refusal.code is Code.LOW_BALLOT and isinstance(refusal.detail, bytes):
            self._ballots.merge(refusal.detail)
        elif refusal.code is Code.SKEWED and isinstance(refusal.detail, int):
            self._clock_ms = refusal.detail

    # --- rounds

    def _ask(self, step: Step, slots: int, payload: bytes = b"") -> Ask:
        self._round += 1
        self._step = step
        self._asked, self._acked, self._failed = slots, 0, 0
        self._acceptors.clear()
        self._refusals.clear()
        return Ask(self._round, step, slots, payload)

    def _judge(self, now_ms: int) -> Action:
        if self._step is Step.READ:
            return self._judge_read(now_ms)
        verdict = tally(self.route.write, self._acked, self._failed)
        if verdict == IMPOSSIBLE:
            return self._lost()
        if verdict != REACHED:
            return None
        return self._propose(now_ms) if self._step is Step.PREPARE else self._chosen(now_ms)

    def _lost(self) -> Again:
        self._step = None
        self._attempt += 1
        if self._refusals & _STALE:
            return Again(Why.STALE, self._attempt)
        outbid = self._refusals & {Code.LOW_BALLOT, Code.SKEWED}
        return Again(Why.OUTBID if outbid else Why.UNAVAILABLE, self._attempt)

    # --- the read of one round

    def _judge_read(self, now_ms: int) -> Action:
        best = max(self._acceptors.values(), key=_accepted, default=UNTOUCHED)
        agreed = 0
        for slot, acceptor in self._acceptors.items():
            if acceptor.accepted == best.accepted == acceptor.promise:
                agreed |= 1 << slot
        if tally(self.route.read, agreed, 0) == REACHED:
            return self._answer(best.content, now_ms)
        pending = self._asked & ~self._acked & ~self._failed
        if tally(self.route.read, agreed | pending, 0) == REACHED:
            return None
        rest = self.spare()
        if rest:
            self._asked |= rest
            return Ask(self._round, Step.READ, rest)
        return self._prepare(now_ms)

    def _answer(self, content: Content, now_ms: int) -> Action:
        if content.due(self._clock(now_ms)):
            return self._prepare(now_ms)  # nobody says "absent" before the tombstone is accepted
        self._step = None
        return _read(content)

    # --- prepare, then accept

    def _prepare(self, now_ms: int) -> Ask:
        self._ballot = self._ballots.next(now_ms)
        return self._ask(Step.PREPARE, _members(self.route.write), self._ballot)

    def _propose(self, now_ms: int) -> Action:
        content = max(self._acceptors.values(), key=_accepted).content
        past = content.find(self.operation_id)
        if past is not None:
            self._when_chosen = self._remembered(content, past)
            return self._accept(content)
        if self._change is not None and id_time_ms(self.operation_id) <= content.forgotten_ms:
            if self._open or not self._fresh:
                return self.give_up(EXPIRED_ID)
            self._renew_id(max(now_ms, content.forgotten_ms + 1))
        if content.due(self._clock(now_ms)):
            return self._expire(content)
        if self._change is None:
            self._when_chosen = _read(content)
            return self._accept(content)
        return self._apply(self._change, content)

    def _apply(self, change: Change, content: Content) -> Ask:
        current = _current(content)
        verdict = change(current)
        if isinstance(verdict, Propose):
            return self._accept_change(verdict, content)
        # Accepted like any change before it is answered: what it was refused for may not have been
        # chosen yet. And remembered, so that no late repeat of it is applied.
        decided, forgotten_ms = content.remember(Decided(self.operation_id, REFUSED))
        self._when_chosen = Done(
            Outcome.NOT_APPLIED,
            verdict.reason,
            current.version,
            current,
            verdict.result,
            decided=True,
        )
        return self._accept(replace(content, decided=decided, forgotten_ms=forgotten_ms))

    def _accept_change(self, proposal: Propose, content: Content) -> Ask:
        decided, forgotten_ms = content.remember(Decided(self.operation_id, self._ballot))
        expires_at_ms = proposal.expires_at_ms if proposal.value is not None else 0
        new = Content(proposal.value, expires_at_ms, False, self._ballot, decided, forgotten_ms)
        self._results[self._ballot] = proposal.result
        self._when_chosen = Done(Outcome.OK, "", self._ballot, _current(new), proposal.result)
        asked = self._accept(new)
        self._open[asked.round] = asked.slots
        return asked

    def _expire(self, content: Content) -> Ask:
        gone = replace(content, value=None, expired=True, changed=self._ballot)
        self._when_chosen = None if self._change is not None else _read(gone)
        return self._accept(gone)

    def _accept(self, content: Content) -> Ask:
        record = encode_acceptor(self._ballot, content)
        return self._ask(Step.ACCEPT, _members(self.route.write), record)

    def _chosen(self, now_ms: int) -> Action:
        if self._when_chosen is None:
            return self._prepare(now_ms)
        self._step = None
        return self._when_chosen

    def _remembered(self, content: Content, past: Decided) -> Done:
        """The answer to a change that was decided already, by this call or an earlier one."""
        if past.ballot == REFUSED:
            return Done(Outcome.NOT_APPLIED, "it was refused before", repeated=True, decided=True)
        current = _current(content) if content.changed == past.ballot else None
        known = past.ballot in self._results
        result = self._results.get(past.ballot)
        return Done(Outcome.OK, "", past.ballot, current, result, repeated=not known)

    def _renew_id(self, at_ms: int) -> None:
        """Nothing was ever proposed under the id, and nobody else has it: another time will do."""
        self.operation_id = at_ms.to_bytes(6, "big") + self.operation_id[6:]

    def _clock(self, now_ms: int) -> int:
        return now_ms if self._clock_ms is None else min(now_ms, self._clock_ms)


def _accepted(acceptor: Acceptor) -> bytes:
    return acceptor.accepted


def _members(needs: Needs) -> int:
    mask = 0
    for group in needs:
        mask |= group.members
    return mask


def _current(content: Content) -> Current:
    return Current(
        content.value, content.changed, content.expires_at_ms if content.value is not None else 0
    )


def _read(content: Content) -> Done:
    current = _current(content)
    return Done(Outcome.OK, "", current.version, current)
