"""Variants in which linearizable registers leave out a step."""

from collections.abc import Iterator
from contextlib import contextmanager

from replicas.acceptor import Content
from replicas.changes import Change
from replicas.fake import FakeReplica
from replicas.quorum import REACHED, tally
from replicas.register import Action, Ask, CasPaxos, Done, Step
from tests.sim.broken.patching import patched


@contextmanager
def acceptor_forgets() -> Iterator[None]:
    """An acceptor answers a prepare, and does not keep what it promised."""
    prepare_before = FakeReplica._prepare

    def prepare(
        self: FakeReplica, keys: list[bytes], arguments: list[bytes], now_ms: int
    ) -> object:
        fields = dict(self.state.hashes.get(keys[0], {}))
        reply = prepare_before(self, keys, arguments, now_ms)
        if fields:
            self.state.hashes[keys[0]] = fields
        return reply

    with patched(FakeReplica, _prepare=prepare):
        yield


@contextmanager
def prepare_on_read_needs() -> Iterator[None]:
    """In a move, prepare asks only those that a read asks."""
    judge_before = CasPaxos._judge

    def judge(self: CasPaxos, now_ms: int) -> Action:
        if self._step is Step.PREPARE and tally(self.route.read, self._acked, 0) == REACHED:
            return self._propose(now_ms)
        return judge_before(self, now_ms)

    with patched(CasPaxos, _judge=judge):
        yield


@contextmanager
def refused_without_identity() -> Iterator[None]:
    """A failed compare-and-set answers from what it saw, whether or not that was chosen."""
    apply_before = CasPaxos._apply

    def apply(self: CasPaxos, change: Change, content: Content) -> Ask | Done:
        ask = apply_before(self, change, content)
        done = self._when_chosen
        return done if done is not None and done.decided else ask

    with patched(CasPaxos, _apply=apply):
        yield


@contextmanager
def no_operation_id() -> Iterator[None]:
    """Nobody looks whether the change has been made before."""
    with patched(Content, find=lambda self, operation_id: None):
        yield
