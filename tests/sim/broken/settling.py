"""Variants in which reads do not settle what they return."""

from collections.abc import Iterator
from contextlib import contextmanager

from buckets.bucket_map import Consistency
from replicas.quorum import Needs
from sidecar.core.operation import Read
from sidecar.core.read import ReadRun
from sidecar.core.repair import RepairRun
from sidecar.core.route import Route
from tests.sim.broken.patching import patched


@contextmanager
def no_write_back() -> Iterator[None]:
    """The newest of the replies is the answer, whoever else lacks it."""

    def answer(self: ReadRun, op: Read, before_answer: bool) -> None:
        best, _ = self._newest()
        self.core.finish_read(self, best)

    with patched(ReadRun, _settle=answer):
        yield


@contextmanager
def write_back_to_read_only() -> Iterator[None]:
    """Only replicas that were read are repaired, and a repair that fails is not replaced."""

    def needs(self: Route) -> Needs:
        return self.needs_of_read(Consistency.QUORUM) or ()

    def judge(self: RepairRun) -> None:
        if self.waiter is not None and not self.sent & ~self.holders & ~self.failed:
            self._settled()

    with patched(Route, settle_needs=needs), patched(RepairRun, _judge=judge):
        yield
