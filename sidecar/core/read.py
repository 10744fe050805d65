"""One read from its first request to its answer.

The replicas that the level needs are asked at once; one that fails is replaced by another. When
all that answered agree, the answer is theirs. When they differ, a read at QUORUM or above
*settles*: the newest version is first written to enough replicas, read or not, that every majority
a write needs holds it. Repairing only the replicas that were read lets a later reader go back.
"""

from replicas.commands import read_command
from replicas.quorum import IMPOSSIBLE, PENDING, REACHED, Needs, tally
from replicas.record import FLAG_LINEARIZABLE, Record, decode_record
from sidecar.core.health import MOST_HEDGE_S
from sidecar.core.host import Host
from sidecar.core.levels import SETTLING_LEVELS
from sidecar.core.operation import Read
from sidecar.core.peer import PeerLink
from sidecar.core.repair import RepairRun
from sidecar.core.route import Route
from sidecar.errors import Fault, Reason

_NEVER_WRITTEN = b""  # orders below every record


class ReadRun:
    """The state of one read; the sink of its replicas' replies."""

    __slots__ = (
        "acked",
        "asked",
        "core",
        "disagree",
        "failed",
        "key",
        "needs",
        "op",
        "raws",
        "repair",
        "route",
        "sent_at",
        "stale",
        "whys",
    )

    def __init__(self, core: Host, op: Read, route: Route, read_needs: Needs) -> None:
        self.core = core
        self.op: Read | None = op
        self.route = route
        self.needs = read_needs
        self.key = op.key
        self.asked = 0
        self.acked = 0
        self.failed = 0
        self.raws: list[tuple[int, bytes | None]] = []
        self.disagree = False
        self.repair: RepairRun | None = None  # while the answer waits for it
        self.stale = False  # a replica is fenced at a later epoch than ours
        self.whys: dict[int, str] = {}
        self.sent_at = core.now

    def start(self) -> None:
        """Ask as many replicas as the level needs, the best first."""
        op = self.op
        if op is None:
            return
        self.failed = ~self.route.countable()
        for slot in self.route.first_to_read(op.level, self.needs, self.core.health_age):
            self._ask(slot)
        self._judge()

    def resume(self, failed: int, asked: list[int], heard: list[tuple[int, bytes | None]]) -> None:
        """Go on from requests that were sent in its name to the slots `asked`, when those in the
        mask `failed` did not count, and from records that came with good fences: see fast_lane.py.
        """
        if not asked:
            self.start()
            return
        self.failed = failed
        for slot in asked:
            self.asked |= 1 << slot
        for slot, raw in heard:
            self._take(slot, raw)
        self._judge()

    def _ask(self, slot: int) -> None:
        self.asked |= 1 << slot
        peer = self.route.peers[slot]
        link = peer.link
        if (
            link is not None
            and peer.counts
            and link.send(read_command(self.route.read_prefix, self.key), self, slot)
        ):
            peer.reads += 1
        else:
            self._no_answer(slot, peer.explanation or "its connection is full")

    def on_reply(self, slot: int, reply: object, link: PeerLink) -> None:
        """A replica answered `HMGET data fence key`."""
        if self.op is None:
            return
        if type(reply) is not list or len(reply) != 2:
            self._no_answer(slot, str(reply))
        else:
            fence, raw = reply
            known = fence is not None and fence == self.route.known_fences[slot]
            if known or self.route.fence_is_good(slot, fence):
                self._take(slot, raw)
            else:
                self._refused(slot, fence)
        self._judge()

    def on_lost(self, slot: int, sent: bool, link: PeerLink) -> None:
        """The connection broke before the answer."""
        if self.op is not None:
            self._no_answer(slot, "its connection broke")
            self._judge()

    def _take(self, slot: int, raw: bytes | None) -> None:
        raws = self.raws
        if raws:
            # Equal bytes need not be decoded again: the usual second reply of a quorum.
            if raw != raws[0][1]:
                if raw is not None:
                    record = decode_record(raw)
                    if record is None or record.flags & FLAG_LINEARIZABLE:
                        self._unreadable(slot, record)
                        return
                self.disagree = True
        elif raw is not None:
            record = decode_record(raw)
            if record is None or record.flags & FLAG_LINEARIZABLE:
                self._unreadable(slot, record)
                return
            if self.op is not None:
                self.op.record = record
        raws.append((slot, raw))
        self.acked |= 1 << slot

    def _unreadable(self, slot: int, record: Record | None) -> None:
        if record is None:
            self.core.counters.corrupt_records += 1
            self._no_answer(slot, "its record fails the checksum")
        else:
            self._no_answer(slot, "its record is of the linearizable mode")

    def _refused(self, slot: int, raw_fence: bytes | None) -> None:
        why, newer = self.core.fence_refusal(self.route, slot, raw_fence)
        self.stale = self.stale or newer
        self._no_answer(slot, why)

    def _no_answer(self, slot: int, why: str) -> None:
        self.failed |= 1 << slot
        self.whys[slot] = why
        self.route.peers[slot].errors += 1

    def _judge(self) -> None:
        if self.op is None:
            return
        verdict = tally(self.needs, self.acked, self.failed)
        if verdict == REACHED:
            self._reached()
        elif verdict == IMPOSSIBLE:
            self._impossible()
        elif self.asked & ~self.acked & ~self.failed == 0 or self._short_of_asked():
            self._replace_failed()

    def _short_of_asked(self) -> bool:
        """Whether even answers from all that were asked would not be enough."""
        return tally(self.needs, self.asked & ~self.failed, self.failed) != REACHED

    def slow_at(self) -> float:
        """When one of those awaited has taken longer than it usually does: loop time."""
        if self.repair is not None:
            return self.sent_at + MOST_HEDGE_S
        return self.sent_at + min(
            (self.route.peers[slot].breaker.hedge_after_s for slot in self._awaited()),
            default=MOST_HEDGE_S,
        )

    def hurry(self) -> bool:
        """Slow: have one more replica asked while the others are still awaited.

        False: the budget for that is spent; try again later.
        """
        if self.op is None:
            return True
        if self.repair is not None:
            return self.repair.hurry()
        if tally(self.needs, self.acked, self.failed) != PENDING:
            return True
        slot = self.route.next_to_read(self.asked, self.needs, self.acked)
        if slot < 0:
            return True
        if not self._goes_round(slot) and not self.core.hedges.take():
            return False
        self.core.counters.reads_hurried += 1
        self._ask(slot)
        self._judge()
        return True

    def _goes_round(self, slot: int) -> bool:
        """Whether `slot` stands in for one known to be stuck: that is free of the budget."""
        peers = self.route.peers
        stuck = any(peers[awaited].breaker.demoted for awaited in self._awaited())
        return stuck and not peers[slot].breaker.demoted

    def _awaited(self) -> list[int]:
        waits = self.asked & ~self.acked & ~self.failed
        return [slot for slot in range(len(self.route.peers)) if waits >> slot & 1]

    def _replace_failed(self) -> None:
        """Ask the next best replica in place of one that failed, as far as the budget goes.

        Where requests fail at large, each one's replacements are load that helps nobody.
        """
        slot = self.route.next_to_read(self.asked, self.needs, self.acked)
        if slot >= 0 and self.core.replacements.take():
            self.core.counters.reads_replaced += 1
            self._ask(slot)
            self._judge()
        elif self.asked & ~self.acked & ~self.failed == 0:
            self._impossible()

    def _reached(self) -> None:
        op = self.op
        if op is None:
            return
        if self.core.epoch_moved(self.route):
            self.core.restart(self)
            return
        op.acks = self.acked.bit_count()
        before_answer = op.level in SETTLING_LEVELS
        if self.disagree:
            self.core.counters.reads_divergent += 1
            self._settle(op, before_answer)
        elif before_answer and self.route.writes_need_more and op.record is not None:
            # In a move the next stage may read owners that none of those who agree is among.
            self._settle(op, before_answer)
        else:
            self.core.finish_read(self, op.record)

    def _settle(self, op: Read, before_answer: bool) -> None:
        """Bring the newest version to those that lack it, before or after the answer."""
        best, holders = self._newest()
        behind = self.acked & ~holders
        if behind and best is not None:
            found = self.core.counters.divergence.found
            found(self.route.keyspace, self.route.bucket, best.version)
        op.record = best
        repair = RepairRun(self.core, self.route, self.key, best, holders=holders)
        if before_answer:
            self.repair = repair
            repair.settle(behind, self)
        else:
            self.core.finish_read(self, best)
            repair.mend(behind)

    def _newest(self) -> tuple[Record | None, int]:
        """The newest record among the replies, and the mask of replicas that hold it."""
        best: Record | None = None
        order = _NEVER_WRITTEN
        holders = 0
        for slot, raw in self.raws:
            record = decode_record(raw) if raw is not None else None
            its_order = record.order if record is not None else _NEVER_WRITTEN
            if its_order > order:
                best, order, holders = record, its_order, 1 << slot
            elif its_order == order:
                holders |= 1 << slot
        return best, holders

    def settled(self, record: Record) -> None:
        """The newest version stands on every majority that matters."""
        if self.op is None:
            return
        if self.core.epoch_moved(self.route):
            self.core.restart(self)
        else:
            self.core.finish_read(self, record)

    def not_settled(self, why: str, *, stale: bool) -> None:
        """Too few replicas are left to hold the newest version: no answer is safe."""
        if stale or self.core.epoch_moved(self.route):
            self.core.park(self)
            return
        self.core.fail_read(
            self,
            Reason.REPLICAS_DISAGREE,
            Fault.UNAVAILABLE,
            f"the replicas differ and the newest version could not be settled on a majority: {why}",
        )

    def _impossible(self) -> None:
        if self.stale or self.core.epoch_moved(self.route):
            self.core.park(self)
            return
        if self.route.connecting():
            self.core.await_links(self)
            return
        self.core.fail_read(
            self,
            Reason.NOT_ENOUGH_REPLICAS,
            Fault.UNAVAILABLE,
            "not enough replicas can answer",
        )

    def timed_out(self) -> None:
        """The deadline passed."""
        self.core.fail_read(
            self,
            Reason.TIMEOUT,
            Fault.TIMEOUT,
            "the deadline passed before enough replicas answered",
        )


class SampledReadRun(ReadRun):
    """A read that also measures its replicas: one of many, for no other reads the clock."""

    __slots__ = ("first",)

    def start(self) -> None:
        """As ever; who is asked later would be measured from the start too, and is not."""
        self.first = 0
        super().start()
        self.first = self.asked

    def on_reply(self, slot: int, reply: object, link: PeerLink) -> None:
        """A replica answered, in time or late."""
        if self.first >> slot & 1:
            self.route.peers[slot].breaker.observe(self.core.elapsed_s(self.sent_at))
        super().on_reply(slot, reply, link)
