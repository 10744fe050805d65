"""One write from its version to its outcome.

It goes to all owners at once; the level only says how many acknowledgements are waited for. It
ends as exactly one of OK, NOT_APPLIED (proved: nothing was sent, or every replica contacted refused
it in one atomic step) and UNKNOWN (anything else).
"""

from replicas.commands import write_suffix
from replicas.link import Link
from replicas.quorum import IMPOSSIBLE, REACHED, Needs, tally
from replicas.record import encode_record
from replicas.replies import APPLIED, APPLIED_OVER_LIVE, SUPERSEDED, Code
from sidecar.core.host import Host
from sidecar.core.operation import Write
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
        "needs",
        "op",
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
        record = encode_record(
            op.version, op.value or b"", expires_at_ms=op.expires_at_ms, tombstone=op.value is None
        )
        self.suffix = write_suffix(op.key, record, route.write_limits)
        self.sent = 0  # replicas that may have seen it, in any attempt of this run
        self.acked = 0
        self.refused = 0  # replicas that proved they did not apply it
        self.failed = 0  # replicas that will not acknowledge any more, refusals included
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
        for slot, peer in enumerate(self.route.peers):
            link = peer.link
            # A suspect owner gets the write too (it carries a version); it only counts in nothing.
            if link is None:
                continue
            if link.send(self.route.write_prefixes[slot] + self.suffix, self, slot):
                self.sent |= 1 << slot
                peer.writes += 1
            else:
                self._no_ack(slot, "its connection is full")
        self._judge()

    def _unreachable(self) -> None:
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

    def on_reply(self, slot: int, reply: object, link: Link) -> None:
        """A replica answered the write script."""
        op = self.op
        if op is None:
            return
        if type(reply) is int and APPLIED <= reply <= SUPERSEDED:
            # The connection that answers is the one written to, so one life of the server. What a
            # suspect owner holds counts in nothing, and says nothing about the key.
            if self.countable >> slot & 1:
                self.acked |= 1 << slot
                if reply == APPLIED_OVER_LIVE:
                    op.existed = True
                elif reply == SUPERSEDED:
                    op.superseded = True
        elif type(reply) is list and reply and reply[0] in _REFUSALS:
            self._refusal(slot, reply)
        else:
            self._server_error(slot, str(reply))
        self._judge()

    def on_lost(self, slot: int, sent: bool, link: Link) -> None:
        """The connection broke; `sent` False proves that no byte of the write left."""
        if self.op is None:
            return
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

    def _no_ack(self, slot: int, why: str) -> None:
        self.failed |= 1 << slot
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
                self.core.finish_write(self)
        elif verdict == IMPOSSIBLE:
            self._impossible()

    def _impossible(self) -> None:
        if self.stale or self.core.epoch_moved(self.route):
            self.core.park(self)
            return
        reason, message = Reason.NOT_ENOUGH_REPLICAS, "not enough owners acknowledged"
        if "SKEWED" in self.refusals:
            reason = Reason.CLOCK_SKEW
            message = "owners refused the write's version as too far ahead of their clocks"
        self.core.fail_write(self, reason, Fault.UNAVAILABLE, message)

    def outcome(self) -> Outcome:
        """What can be proved of a write that did not reach its level."""
        before = self.op is not None and self.op.maybe_applied
        if before or self.sent & ~self.refused:
            return Outcome.UNKNOWN
        return Outcome.NOT_APPLIED

    def timed_out(self) -> None:
        """The deadline passed."""
        self.core.fail_write(
            self,
            Reason.TIMEOUT,
            Fault.TIMEOUT,
            "the deadline passed before enough owners acknowledged",
        )
