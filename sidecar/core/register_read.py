"""The read of a register as it nearly always goes: one round, a majority that says the same.

Equal bytes from a majority of the owners, accepted and with no later promise, are what stands.
Whatever else comes back (owners that differ, a change in flight, a lost connection, an expiry that
is due) hands the operation to a RegisterRun, which begins anew. This is a third of the work of
putting the same two answers through CASPaxos.
"""

from replicas.acceptor import Standing, decode_standing
from replicas.changes import Current
from replicas.commands import read_command
from replicas.quorum import REACHED, tally
from replicas.version import ZERO_VERSION
from sidecar.core.health import MOST_HEDGE_S
from sidecar.core.operation import Read
from sidecar.core.peer import PeerLink
from sidecar.core.register_host import RegisterHost
from sidecar.core.register_run import RegisterRun
from sidecar.core.route import Route
from sidecar.errors import Fault, Reason

NEVER_WRITTEN = Standing(None, ZERO_VERSION, 0, ZERO_VERSION)


class RegisterRead:
    """The state of one such read, and the sink of its replies."""

    __slots__ = (
        "acked",
        "asked",
        "has_turn",
        "host",
        "needs",
        "op",
        "operation_id",
        "raw",
        "registers",
        "route",
        "sent_at",
        "whys",
    )

    def __init__(self, host: RegisterHost, op: Read, route: Route) -> None:
        self.host = host
        self.op: Read | None = op
        self.route = route
        self.registers = host.registers_of(route)
        self.needs = self.registers.read
        self.asked = 0
        self.acked = 0
        self.raw: bytes | None = None
        self.sent_at = host.now
        self.whys: dict[int, str] = {}
        self.operation_id = b""
        self.has_turn = False

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing."""
        return True

    def start(self) -> None:
        """Ask a majority."""
        for slot in self.registers.first_to_read(self.host.health_age):
            if not self._ask(slot):
                self._hand_over()
                return
        if tally(self.needs, self.asked, 0) != REACHED:
            self._hand_over()

    def _ask(self, slot: int) -> bool:
        op, peer = self.op, self.route.peers[slot]
        if op is None or peer.link is None or not self.registers.counts(peer):
            return False
        if not peer.link.send(read_command(self.route.read_prefix, op.key), self, slot):
            return False
        self.asked |= 1 << slot
        peer.reads += 1
        return True

    def on_reply(self, slot: int, reply: object, link: PeerLink) -> None:
        """An owner answered `HMGET data fence key`."""
        if self.op is None:
            return
        if type(reply) is list and len(reply) == 2:
            fence, raw = reply
            known = fence is not None and fence == self.route.known_fences[slot]
            good = known or self.route.fence_is_good(slot, fence)
            if good and (not self.acked or raw == self.raw):
                self.raw = raw
                self.acked |= 1 << slot
                if tally(self.needs, self.acked, 0) == REACHED:
                    self._agreed(self.op)
                return
        self._hand_over()

    def on_lost(self, slot: int, sent: bool, link: PeerLink) -> None:
        """The connection broke before the answer."""
        self._hand_over()

    def _agreed(self, op: Read) -> None:
        host = self.host
        raw = self.raw
        standing = NEVER_WRITTEN if raw is None else decode_standing(raw, host.wall_ms())
        if standing is None or host.epoch_moved(self.route):
            self._hand_over()
            return
        host.ballots.merge(standing.ballot)
        host.finish_read(
            self, op, Current(standing.value, standing.changed, standing.expires_at_ms)
        )

    def _hand_over(self) -> None:
        """It is not that simple: a RegisterRun begins anew, in place of this one."""
        op = self.end()
        if op is not None:
            run = RegisterRun(self.host, op, self.route)
            run.sent_at = self.sent_at
            self.host.take_over(run)

    def end(self) -> Read | None:
        """End it; gives the operation that it had."""
        op, self.op = self.op, None
        return op

    # --- time

    def slow_at(self) -> float:
        """When one of those awaited has taken longer than it usually does: loop time."""
        awaited = self.asked & ~self.acked
        peers = (peer for slot, peer in enumerate(self.route.peers) if awaited >> slot & 1)
        usual_s = min((peer.breaker.hedge_after_s for peer in peers), default=MOST_HEDGE_S)
        return self.sent_at + usual_s

    def hurry(self) -> bool:
        """Slow: ask one more owner while the others are still awaited.

        False: the budget for that is spent; try again later.
        """
        if self.op is None:
            return True
        slot = self.route.next_to_read(self.asked, self.needs, self.acked)
        if slot < 0:
            return True
        if not self.host.take_hedge():
            return False
        self.host.counters.reads_hurried += 1
        if not self._ask(slot):
            self._hand_over()
        return True

    def timed_out(self) -> None:
        """The deadline passed."""
        message = "the deadline passed before a majority of owners agreed"
        self.host.fail(self, Reason.TIMEOUT, Fault.TIMEOUT, message)

    def outcome(self) -> None:
        """Nothing is to be proved of a read."""

    def again(self) -> None:
        """Never waits between attempts: it has one."""

    def rerouted(self) -> None:
        """Never waits for another map."""
