"""One write from its version to its outcome.

It goes to all owners at once; the level only says how many acknowledgements are waited for. It
ends as exactly one of OK, NOT_APPLIED (proved: nothing was sent, or every replica contacted refused
it in one atomic step) and UNKNOWN (anything else).

Owners that missed it get a hint as soon as that is known, before the end or after it, if the level
was met: see sidecar/core/hints.py.
"""

from buckets.bucket_map import Consistency
from replicas.commands import write_suffix
from replicas.quorum import IMPOSSIBLE, PENDING, REACHED, Needs, tally
from replicas.record import encode_record
from replicas.replies import APPLIED, APPLIED_OVER_LIVE, SUPERSEDED, Code
from replicas.version import ZERO_VERSION
from sidecar.core.health import MOST_HEDGE_S
from sidecar.core.host import NO_COPY, Host
from sidecar.core.operation import Write
from sidecar.core.peer import PeerLink
from sidecar.core.route import Route
from sidecar.errors import Fault, Outcome, Reason

# How the write script refuses. Anything else in a list proves nothing.
_REFUSALS = frozenset(code.value.encode() for code in Code)

# Server errors that are given before a script runs, so nothing of it was applied.
_REFUSED_UNRUN = (
    "NOSCRIPT",
    "LOADING",
    "READONLY",
    "MISCONF",
    "NOAUTH",
    "NOPERM",
    "BUSY",
    "MASTERDOWN",
)


class WriteRun:
    """The state of one write; the sink of its replicas' replies."""

    __slots__ = (
        "acked",
        "core",
        "countable",
        "failed",
        "handed_over",
        "heard",
        "met",
        "missed",
        "needs",
        "op",
        "prefixes",
        "refusals",
        "refused",
        "route",
        "sent",
        "sent_at",
        "stale",
        "suffix",
        "whys",
    )

    def __init__(self, core: Host, op: Write, route: Route, write_needs: Needs) -> None:
        self.core = core
        self.op: Write | None = op
        self.route = route
        self.needs = write_needs
        version = version_of(op)
        record = encode_record(
            version, op.value or b"", expires_at_ms=op.expires_at_ms, tombstone=op.value is None
        )
        self.suffix = write_suffix(op.key, record, route.write_limits)
        self.prefixes = route.write_prefixes
        self.sent = 0  # replicas that may have seen it, in any attempt of this run
        self.heard = 0  # replicas sent to that have answered, or whose connection broke
        self.acked = 0
        self.refused = 0  # replicas that proved they did not apply it
        self.failed = 0  # replicas that will not acknowledge any more, refusals included
        self.missed = 0  # replicas that will not acknowledge it, suspect ones too: as far as known
        self.met = False  # the level is reached: who missed it gets a hint
        self.handed_over = False  # of level ANY: the hint log has it, on disk or on its way there
        self.countable = 0
        self.stale = False
        self.refusals: set[str] = set()
        self.whys: dict[int, str] = {}
        self.sent_at = core.now

    def start(self) -> None:
        """Send to every owner that is connected, unless the level can not be met from the start."""
        self.countable = self.route.countable()
        self.failed = ~self.countable
        if tally(self.needs, 0, self.failed) == IMPOSSIBLE:
            self._unreachable()
            return
        failed_before = self.failed
        for slot, peer in enumerate(self.route.peers):
            link = peer.link
            # A suspect owner gets the write too (it carries a version); it only counts in nothing.
            if link is None:
                self.missed |= 1 << slot
                continue
            if link.send(self.prefixes[slot] + self.suffix, self, slot):
                self.sent |= 1 << slot
                peer.writes += 1
            else:
                self._no_ack(slot, "its connection is full")
        if self.failed != failed_before:
            self._judge()

    def _unreachable(self) -> None:
        if self._kept_as_hint():
            return
        if self.route.connecting():
            self.core.await_links(self)
            return
        for slot, peer in enumerate(self.route.peers):
            if not peer.counts:
                self.whys[slot] = peer.explanation
        self.core.fail_write(
            self,
            Reason.NOT_ENOUGH_REPLICAS,
            Fault.UNAVAILABLE,
            "not enough owners can be reached, so nothing was sent",
        )

    def on_reply(self, slot: int, reply: object, link: PeerLink) -> None:
        """A replica answered the write script."""
        op = self.op
        acknowledged = type(reply) is int and APPLIED <= reply <= SUPERSEDED
        if op is None:
            if not (acknowledged and self.met):  # the last of three is usually just that
                self._late(slot, acknowledged=acknowledged)
            return
        bit = 1 << slot
        self.heard |= bit
        if acknowledged:
            # The connection that answers is the one written to, so one life of the server. What a
            # suspect owner holds counts in nothing, and says nothing about the key.
            if self.countable & bit:
                self.acked |= bit
                if reply == APPLIED_OVER_LIVE:
                    op.existed = True
                elif reply == SUPERSEDED:
                    op.superseded = True
        elif type(reply) is list and reply and reply[0] in _REFUSALS:
            self._refusal(slot, reply)
        else:
            self._server_error(slot, str(reply))
        self._judge()

    def on_lost(self, slot: int, sent: bool, link: PeerLink) -> None:
        """The connection broke; `sent` False proves that no byte of the write left."""
        if self.op is None:
            self._late(slot, acknowledged=False)
            return
        self.heard |= 1 << slot
        if not sent:
            self.refused |= 1 << slot
        self._no_ack(slot, "its connection broke before it answered")
        self._judge()

    def _refusal(self, slot: int, reply: list[object]) -> None:
        code = reply[0]
        name = code.decode() if isinstance(code, bytes) else str(code)
        self.refusals.add(name)
        self.refused |= 1 << slot
        if name == "STALE_EPOCH":
            self.stale = True
            entry = reply[2] if len(reply) > 2 else None
            self.core.learn(entry)
        self._no_ack(slot, f"refused it: {name}")

    def _server_error(self, slot: int, text: str) -> None:
        if text.startswith(_REFUSED_UNRUN):
            self.refused |= 1 << slot
        self._no_ack(slot, text)

    def _late(self, slot: int, *, acknowledged: bool) -> None:
        """An answer after the end: nobody waits for it, but it decides who missed the write."""
        if acknowledged:
            self.acked |= (1 << slot) & self.countable
            if not self.met and tally(self.needs, self.acked, self.failed) == REACHED:
                self.met = True
                self._hint(self.missed)
        else:
            self.missed |= 1 << slot
            if self.met:
                self._hint(1 << slot)

    def _hint(self, missed: int) -> None:
        if missed and not self.handed_over:  # what the log has goes to every owner
            self.core.keep_hints(self.route, self.suffix, missed)

    def _no_ack(self, slot: int, why: str) -> None:
        self.failed |= 1 << slot
        self.missed |= 1 << slot
        self.whys[slot] = why
        self.route.peers[slot].errors += 1

    def _judge(self) -> None:
        if self.op is None:
            return
        verdict = tally(self.needs, self.acked, self.failed)
        if verdict == REACHED:
            if self.core.epoch_moved(self.route):
                self.core.restart(self)
            else:
                self.op.acks = self.acked.bit_count()
                self.met = True
                self.core.finish_write(self)
                if self.missed:
                    self._hint(self.missed)
        elif verdict == IMPOSSIBLE:
            self._impossible()

    def _impossible(self) -> None:
        if self._kept_as_hint():
            return
        if self.stale or self.core.epoch_moved(self.route):
            self.core.park(self)
            return
        if not self._may_prove_unapplied():
            self._fail_impossible()

    def _may_prove_unapplied(self) -> bool:
        """Whether all that were heard refused it, and the rest may: a proof worth the wait."""
        proved = self.sent & self.heard & ~self.refused == 0
        awaited = self.sent & ~self.heard
        before = self.op is not None and self.op.maybe_applied
        return bool(self.refused and awaited and proved) and not (before or self.handed_over)

    def _fail_impossible(self) -> None:
        reason, message = Reason.NOT_ENOUGH_REPLICAS, "not enough owners acknowledged"
        if "SKEWED" in self.refusals:
            reason = Reason.CLOCK_SKEW
            message = "owners refused the write's version as too far ahead of their clocks"
        self.core.fail_write(self, reason, Fault.UNAVAILABLE, message)

    # --- level ANY: one owner, or a durable hint

    def slow_at(self) -> float:
        """When the owners have taken long: loop time."""
        return self.sent_at + MOST_HEDGE_S

    def hurry(self) -> bool:
        """Slow: at level ANY the hint log may be faster than the owners. True: nothing is left."""
        if self.op is not None and tally(self.needs, self.acked, self.failed) == PENDING:
            self._kept_as_hint()
        return True

    def _kept_as_hint(self) -> bool:
        """Whether the hint log has the write, or takes it now; False: it does not, for good."""
        if self.op is None or self.op.level != Consistency.ANY or NO_COPY in self.whys:
            return False
        if not self.handed_over:
            self.handed_over = True
            why = self.core.keep_only_copy(self.route, self.suffix, self._kept)
            if why:
                self.handed_over = False
                self.whys[NO_COPY] = why
        return self.handed_over

    def _kept(self, problem: str) -> None:
        """The hint is on disk, or it is not known to be."""
        if not problem:
            if self.op is not None:
                self.core.finish_write(self)
            return
        self.whys[NO_COPY] = problem
        if self.op is None:
            self.handed_over = False
            if self.met:
                self._hint(self.missed)
        else:
            self.op.maybe_applied = True
            self.handed_over = False
            self._judge()

    def outcome(self) -> Outcome:
        """What can be proved of a write that did not reach its level."""
        before = self.op is not None and self.op.maybe_applied
        if before or self.handed_over or self.sent & ~self.refused:
            return Outcome.UNKNOWN
        return Outcome.NOT_APPLIED

    def timed_out(self) -> None:
        """The deadline passed."""
        if tally(self.needs, self.acked, self.failed) == IMPOSSIBLE and not self.handed_over:
            self._fail_impossible()
            return
        self.core.fail_write(
            self,
            Reason.TIMEOUT,
            Fault.TIMEOUT,
            "the deadline passed before enough owners acknowledged",
        )


def version_of(op: Write) -> bytes:
    """The write's version; zero for one that has none, since nothing of it can be sent."""
    return op.version or ZERO_VERSION
