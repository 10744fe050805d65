"""Variants that count, or claim, what is not proved."""

from collections.abc import Iterator
from contextlib import contextmanager

import sidecar.core.route
from buckets.bucket_map import Consistency
from replicas.quorum import Group, Needs, majority
from sidecar.core.levels import Members, needs
from sidecar.core.peer import Peer
from sidecar.core.write import WriteRun
from sidecar.errors import Outcome
from tests.sim.broken.patching import patched


@contextmanager
def untrusted_counted() -> Iterator[None]:
    """Whoever is connected counts, whatever life it lives."""

    def judge(self: Peer) -> None:
        self.counts = self.link is not None

    with patched(Peer, judge=judge):
        yield


@contextmanager
def hint_counted() -> Iterator[None]:
    """What is kept as a hint for an owner counts as its acknowledgement."""
    no_ack_before = WriteRun._no_ack

    def no_ack(self: WriteRun, slot: int, why: str) -> None:
        no_ack_before(self, slot, why)
        self.acked |= 1 << slot

    with patched(WriteRun, _no_ack=no_ack):
        yield


@contextmanager
def not_applied_unproved() -> Iterator[None]:
    """A write that nobody acknowledged is said not to have been applied."""

    def outcome(self: WriteRun) -> Outcome:
        return Outcome.UNKNOWN if self.acked else Outcome.NOT_APPLIED

    with patched(WriteRun, outcome=outcome):
        yield


@contextmanager
def one_majority() -> Iterator[None]:
    """In a move, a majority of old and new owners together."""

    def of_the_union(
        members: Members, sets: list[int], level: Consistency, zone: str
    ) -> Needs | None:
        if level is not Consistency.QUORUM or members.old == members.new:
            return needs(members, sets, level, zone)
        union = members.old | members.new
        return (Group(union, majority(union.bit_count())),)

    with patched(sidecar.core.route, needs=of_the_union):
        yield
