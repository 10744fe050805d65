"""One operation on a key of a linearizable keyspace: sends what its CASPaxos asks, hears answers.

What decides is replicas/register.py; here its questions become commands on links, replies become
answers, and its end becomes the operation's. Each round has a sink of its own, since a late reply
belongs to the route of its round.
"""

from collections import deque
from typing import Final

from replicas.acceptor import UNTOUCHED, Acceptor, decode_acceptor
from replicas.changes import Change, Current, Propose, Refuse, delete, put
from replicas.commands import prepare_suffix, read_command, write_suffix
from replicas.quorum import Needs
from replicas.register import (
    EXPIRED_ID,
    NOT_SENT,
    Action,
    Again,
    Answer,
    Ask,
    CasPaxos,
    Done,
    Step,
    Why,
)
from replicas.register import Outcome as Ended
from replicas.replies import Code, Refusal, parse_accept, parse_acceptor_read, parse_prepare
from sidecar.core.health import MOST_HEDGE_S
from sidecar.core.operation import Read, Write
from sidecar.core.peer import PeerLink
from sidecar.core.register_host import RegisterHost
from sidecar.core.register_op import Modify, new_operation_id
from sidecar.core.route import Route
from sidecar.errors import Fault, Outcome, Reason

# Attempts that may fail for want of answers while enough owners are connected: a connection that
# has just broken and come back is worth another, a record that nobody can read is not.
MAX_UNANSWERED = 3
TOO_LARGE: Final = "the value would be larger than the keyspace takes"
_STALE = frozenset({Code.STALE_EPOCH, Code.RELEASED})


class RegisterRun:
    """The state of one operation; `op` is None once it has ended."""

    __slots__ = (
        "acked",
        "decided",
        "fresh",
        "has_turn",
        "host",
        "needs",
        "op",
        "operation_id",
        "paxos",
        "reading",
        "refused",
        "registers",
        "route",
        "sent_at",
        "unanswered",
        "whys",
    )

    def __init__(self, host: RegisterHost, op: Read | Write | Modify, route: Route) -> None:
        self.host = host
        self.op: Read | Write | Modify | None = op
        self.route = route
        self.registers = host.registers_of(route)
        self.needs: Needs = self.registers.write
        self.acked = 0
        self.whys: dict[int, str] = {}
        self.sent_at = host.now
        self.paxos: CasPaxos | None = None  # None: it waits for its turn
        self.operation_id = b"" if isinstance(op, Read) else op.operation_id
        self.fresh = not self.operation_id
        self.reading: _Round | None = None  # a read of one round under way
        self.refused: list[object] = []  # results of the change's own refusals
        self.unanswered = 0
        self.has_turn = False  # of changes: no other of the key is under way here
        self.decided = False  # it was refused for what stands: proved not applied

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing."""
        return isinstance(self.op, Read)

    def end(self) -> Read | Write | Modify | None:
        """End it; gives the operation that it had."""
        op, self.op = self.op, None
        return op

    # --- events

    def start(self) -> None:
        """Its turn has come."""
        op = self.op
        if op is None:
            return
        if op.deadline <= self.host.now:
            self.timed_out()
            return
        if not self.registers.reachable():
            self._unreachable()
            return
        change = self._change(op)
        if change is not None and not self.operation_id:
            self.operation_id = new_operation_id(self.host.wall_ms(), self.host.dice.randbytes(10))
        self.paxos = CasPaxos(
            self.registers.slots(self.host.health_age),
            self.host.ballots,
            change,
            operation_id=self.operation_id,
            fresh=self.fresh,
            one_round=change is None,
        )
        self.act(self.paxos.start(self.host.wall_ms()))

    def again(self) -> None:
        """The wait after a lost attempt is over."""
        if self.op is None or self.paxos is None:
            return
        if self.host.epoch_moved(self.route):
            self.rerouted()
        elif not self.registers.reachable():
            self._unreachable()
        else:
            self.act(self.paxos.again(self.host.wall_ms()))

    def rerouted(self) -> None:
        """The epoch has moved: go on with the owners of the present one."""
        op, paxos = self.op, self.paxos
        if op is None or paxos is None:
            return
        route = self.host.route_of(op.keyspace, op.key)
        if route is None:
            self._fail(Reason.KEYSPACE_UNKNOWN, Fault.CALLER, "the keyspace is gone")
            return
        self.host.counters.restarts += 1
        self.route = route
        self.registers = self.host.registers_of(route)
        self.needs = self.registers.write
        self.whys.clear()
        self.acked = 0
        if not self.registers.reachable():
            self._unreachable()
            return
        slots = self.registers.slots(self.host.health_age)
        self.act(paxos.rerouted(slots, self.host.wall_ms()))

    def slow_at(self) -> float:
        """When one of those awaited has taken longer than it usually does: loop time."""
        if self.paxos is None:
            return self.host.now + MOST_HEDGE_S  # it has not begun: look again
        round_ = self.reading
        if round_ is None:
            return self.sent_at + MOST_HEDGE_S
        awaited = (p for slot, p in enumerate(self.route.peers) if round_.pending >> slot & 1)
        usual_s = min((peer.breaker.hedge_after_s for peer in awaited), default=MOST_HEDGE_S)
        return round_.asked_at + usual_s

    def hurry(self) -> bool:
        """Slow: a read of one round asks one more owner while the others are still awaited.

        False: the budget for that is spent; try again later.
        """
        if self.op is None or self.paxos is None or self.reading is None or not self.paxos.spare():
            return True
        if not self.host.take_hedge():
            return False
        self.host.counters.reads_hurried += 1
        self.act(self.paxos.hurry())
        return True

    def timed_out(self) -> None:
        """The deadline passed."""
        if self.paxos is None:
            message = "the deadline passed while it waited for earlier changes of this key"
        elif self.is_read:
            message = "the deadline passed before a majority of owners agreed"
        else:
            message = "the deadline passed before a majority of owners accepted it"
        self._fail(Reason.TIMEOUT, Fault.TIMEOUT, message)

    def answered(self, round_: "_Round", slot: int, answer: Answer) -> None:
        """What a slot said in a round, this or an earlier one."""
        if self.op is None or self.paxos is None:
            return
        if round_.route is self.route and answer is not None and not isinstance(answer, Refusal):
            self.acked |= 1 << slot
        elif isinstance(answer, Refusal) and answer is not NOT_SENT:
            self._heard_refusal(round_, slot, answer)
        self.act(self.paxos.on_answer(round_.number, slot, answer, self.host.wall_ms()))

    def _heard_refusal(self, round_: "_Round", slot: int, refusal: Refusal) -> None:
        if refusal.code in _STALE:
            self.host.learn(refusal.entry)
        if round_.route is self.route:
            self.whys[slot] = f"refused it: {refusal.code}"
            self.route.peers[slot].errors += refusal.code is not Code.LOW_BALLOT

    # --- what CASPaxos says

    def act(self, action: Action) -> None:
        """Do as it says, and as what that brings about says."""
        if action is None:
            return
        actions = deque((action,))
        while actions and self.op is not None:
            match actions.popleft():
                case Ask() as ask:
                    actions.extend(self._ask(ask))
                case Again() as again:
                    self._lost(again)
                case Done() as done:
                    self._done(done)

    def _ask(self, ask: Ask) -> list[Ask | Again | Done]:
        """Send a round's commands; gives what those that could not be sent bring about."""
        paxos, op = self.paxos, self.op
        if paxos is None or op is None:
            return []
        round_ = self.reading
        if round_ is None or round_.number != ask.round:  # otherwise: more are asked the same
            round_ = _Round(self, ask)
            self.reading = round_ if ask.step is Step.READ else None
            self.acked = 0
        unsent = [
            slot
            for slot in range(len(self.route.peers))
            if ask.slots >> slot & 1 and not self._sent(round_, slot)
        ]
        now_ms = self.host.wall_ms()
        answers = (paxos.on_answer(ask.round, slot, NOT_SENT, now_ms) for slot in unsent)
        return [action for action in answers if action is not None]

    def _sent(self, round_: "_Round", slot: int) -> bool:
        peer = self.route.peers[slot]
        link = peer.link
        if link is None or not self.registers.counts(peer):
            self.whys[slot] = self.registers.explanation(peer)
            return False
        if not link.send(round_.command(slot), round_, slot):
            self.whys[slot] = "its connection is full"
            return False
        round_.pending |= 1 << slot
        if round_.step is Step.READ:
            peer.reads += 1
        else:
            peer.writes += 1
        return True

    def _lost(self, again: Again) -> None:
        self.reading = None
        if again.why is Why.STALE:
            if self.host.epoch_moved(self.route):
                self.rerouted()
            else:
                self.host.park(self)
            return
        if again.why is Why.OUTBID:
            self.host.counters.outbid += 1
        else:
            self.unanswered += 1
            if not self.registers.reachable() or self.unanswered >= MAX_UNANSWERED:
                self._unreachable()
                return
        self.host.wait(self, again.attempt)

    def _done(self, done: Done) -> None:
        if self.host.epoch_moved(self.route):
            self.rerouted()
        elif done.outcome is Ended.UNKNOWN and done.reason == EXPIRED_ID:
            message = f"{done.reason}, so it is not known whether it was applied; it is not now"
            self._fail(Reason.OPERATION_EXPIRED, Fault.PRECONDITION, message)
        else:
            self._answer(done)

    # --- ends

    def _answer(self, done: Done) -> None:
        op = self.op
        result = self._result(done)
        self.decided = done.decided
        if isinstance(op, Read):
            self.host.finish_read(self, op, done.current)
        elif result is TOO_LARGE:
            limit = self.route.settings.max_value_bytes
            self._fail(Reason.VALUE_TOO_LARGE, Fault.CALLER, f"{TOO_LARGE}: {limit} bytes")
        elif isinstance(op, Write):
            self._answer_write(op, done)
        elif isinstance(op, Modify):
            op.version = done.version
            op.current = done.current
            op.result = result
            op.repeated = done.repeated and result is None
            op.refused = "" if done.outcome is Ended.OK else done.reason or "it does not hold"
            self.host.finish(self)

    def _answer_write(self, op: Write, done: Done) -> None:
        if done.outcome is not Ended.OK:
            message = "a change with this operation_id was refused before"
            self._fail(Reason.OPERATION_ID_INVALID, Fault.PRECONDITION, message)
            return
        op.version = done.version
        op.existed = done.result is True
        op.repeated = done.repeated
        op.acks = self.acked.bit_count()
        self.host.finish(self)

    def _result(self, done: Done) -> object:
        """The change's result. Of a refusal that another operation finished for this one, it is
        known if the change has refused with one result only."""
        if not done.decided or not done.repeated:
            return done.result
        known = self.refused
        return known[0] if known and all(one == known[0] for one in known) else None

    def _unreachable(self) -> None:
        if self.paxos is None and self.route.connecting():
            self.host.await_links(self)
            return
        for slot, peer in enumerate(self.route.peers):
            if not self.registers.counts(peer):
                self.whys[slot] = self.registers.explanation(peer)
        self._fail(
            Reason.NOT_ENOUGH_REPLICAS,
            Fault.UNAVAILABLE,
            "no majority of the owners answers",
        )

    def _fail(self, reason: Reason, fault: Fault, message: str) -> None:
        self.host.fail(self, reason, fault, message)

    def outcome(self) -> Outcome | None:
        """What can be proved of it if it ends now; None: it is a read."""
        if self.is_read:
            return None
        if self.decided:
            return Outcome.NOT_APPLIED
        if self.paxos is None:
            return Outcome.NOT_APPLIED if self.fresh else Outcome.UNKNOWN
        unknown = self.paxos.give_up("").outcome is Ended.UNKNOWN
        return Outcome.UNKNOWN if unknown else Outcome.NOT_APPLIED

    # --- changes

    def _change(self, op: Read | Write | Modify) -> Change | None:
        if isinstance(op, Read):
            return None
        if isinstance(op, Write):
            return delete() if op.value is None else put(op.value, op.expires_at_ms)
        return self._bounded(op.change)

    def _bounded(self, change: Change) -> Change:
        """The change, within the keyspace's largest value; its refusals are kept."""
        limit = self.route.settings.max_value_bytes

        def bounded(current: Current) -> Propose | Refuse:
            verdict = change(current)
            if isinstance(verdict, Propose):
                if verdict.value is None or len(verdict.value) <= limit:
                    return verdict
                verdict = Refuse(TOO_LARGE, TOO_LARGE)
            self.refused.append(verdict.result)
            return verdict

        return bounded


class _Round:
    """The sink of one round's replies; its route stays that of its questions."""

    __slots__ = (
        "asked_at",
        "first",
        "number",
        "payload",
        "pending",
        "registers",
        "route",
        "run",
        "step",
        "suffix",
    )

    def __init__(self, run: RegisterRun, ask: Ask) -> None:
        self.run = run
        self.number = ask.round
        self.step = ask.step
        self.asked_at = run.host.now
        self.payload = ask.payload
        self.route = run.route
        self.registers = run.registers
        self.pending = 0  # slots that were asked and have not answered
        self.first: Acceptor | None = None  # of a read: equal bytes are parsed once
        key = run.op.key if run.op is not None else b""
        if ask.step is Step.READ:
            self.suffix = read_command(self.route.read_prefix, key)
        elif ask.step is Step.PREPARE:
            self.suffix = prepare_suffix(key, ask.payload)
        else:
            self.suffix = write_suffix(key, ask.payload, self.route.write_limits)

    def command(self, slot: int) -> bytes:
        """What the slot is sent."""
        if self.step is Step.READ:
            return self.suffix
        prefixes = self.registers.prepares if self.step is Step.PREPARE else self.registers.accepts
        return prefixes[slot] + self.suffix

    def on_reply(self, slot: int, reply: object, link: PeerLink) -> None:
        """A replica answered."""
        self.pending &= ~(1 << slot)
        if self.run.op is None:
            return
        answer: Answer
        if self.step is Step.READ:
            answer = self._parse_read(slot, reply)
        elif self.step is Step.PREPARE:
            answer = parse_prepare(reply, self.payload)
        else:
            answer = parse_accept(reply)
        if answer is None and self.step is not Step.READ:
            self._no_answer(slot, str(reply)[:80])
        self.run.answered(self, slot, answer)

    def on_lost(self, slot: int, sent: bool, link: PeerLink) -> None:
        """The connection broke; `sent` False proves that nothing of the command left."""
        self.pending &= ~(1 << slot)
        if self.run.op is not None:
            self._no_answer(slot, "its connection broke before it answered")
            self.run.answered(self, slot, None if sent else NOT_SENT)

    def _parse_read(self, slot: int, reply: object) -> Acceptor | None:
        if type(reply) is list and len(reply) == 2:
            fence, raw = reply
            known = fence is not None and fence == self.route.known_fences[slot]
            if known or self.route.fence_is_good(slot, fence):
                acceptor = self._acceptor(raw)
                if acceptor is not None:
                    return acceptor
        owner = self.route.members.slots[slot]
        verdict, _ = parse_acceptor_read(reply, b"\0", self.route.epoch, owner.incarnation)
        self._no_answer(slot, f"can not be read: {verdict.name}")
        return None

    def _acceptor(self, raw: bytes | None) -> Acceptor | None:
        if raw is None:
            return UNTOUCHED
        if self.first is not None and self.first.raw == raw:
            return self.first
        acceptor = decode_acceptor(raw)
        if acceptor is None:
            self.run.host.counters.corrupt_records += 1
        elif self.first is None:
            self.first = acceptor
        return acceptor

    def _no_answer(self, slot: int, why: str) -> None:
        self.route.peers[slot].errors += 1
        if self.route is self.run.route:
            self.run.whys[slot] = why
