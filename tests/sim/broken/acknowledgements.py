"""Variants that count, or claim, what is not proved."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import sidecar.core.route
from buckets.bucket_map import Consistency
from replicas.quorum import Group, Needs, majority
from sidecar.core.coordinator import Coordinator
from sidecar.core.levels import Members, needs
from sidecar.core.operation import Read, Write
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
def tally_across_epochs() -> Iterator[None]:
    """A write that goes on under another epoch keeps the acknowledgements of the former one."""
    acked: WeakKeyDictionary[Coordinator, dict[bytes, set[int]]] = WeakKeyDictionary()
    abandon_before, start_before = Coordinator._abandon, WriteRun.start

    def abandon(self: Coordinator, run: Any) -> Read | Write | None:
        op = abandon_before(self, run)
        if isinstance(run, WriteRun) and isinstance(op, Write):
            nodes = {
                peer.node.number
                for slot, peer in enumerate(run.route.peers)
                if run.acked >> slot & 1
            }
            acked.setdefault(self, {}).setdefault(op.version, set()).update(nodes)
        return op

    def start(self: WriteRun) -> None:
        if self.op is not None and isinstance(self.core, Coordinator):
            before = acked.get(self.core, {}).get(self.op.version, set())
            for slot, peer in enumerate(self.route.peers):
                self.acked |= (peer.node.number in before) << slot
        start_before(self)

    with patched(Coordinator, _abandon=abandon), patched(WriteRun, start=start):
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
