"""Whatever happens to a read, its lane does not show: random schedules on equal clusters."""

from collections.abc import Callable
from random import Random

import pytest

from buckets.bucket_map import Consistency
from replicas.fence import Fence, Role
from replicas.layout import user_field
from tests.support.fake_cluster import (
    START_MS,
    Asked,
    FakeCluster,
    FakeLink,
    FakeSidecar,
)
from tests.support.lanes import Lane, fast_lane, general_lane, lone_lane
from tests.support.replica_records import flip

LEVELS = (Consistency.ONE, Consistency.QUORUM, Consistency.ALL)
A, B, C = b"a", b"b", b"c"


class Twin:
    """A cluster whose reads all go one way. Steps are chosen by their dice alone."""

    def __init__(self, seed: int, lane: Callable[..., None]) -> None:
        self.dice = Random(seed)
        self.cluster = FakeCluster(nodes=4, zones=4)
        self.cluster.sidecar.lane = lane
        # No two are equally good, or the lanes would take turns differently.
        for number, peer in self.cluster.sidecar.core.peers.items():
            peer.latency_s = 0.0005 * 4**number
        self.cluster.sidecar.core.health_changed()
        self.cluster.tick()  # the one sample of a tick is taken in either lane
        self.asked: list[Asked] = []
        self.story: list[object] = []

    @property
    def sidecar(self) -> FakeSidecar:
        return self.cluster.sidecar

    def step(self) -> None:
        what = self.dice.choice(STEPS)
        link = self.sidecar.links.get(self.dice.randint(1, 4))
        what(self, link)
        self.story.append((what.__name__, self._seen()))

    def _seen(self) -> object:
        links = self.sidecar.links.items()
        ends = [(asked.ends, asked.op.version, asked.reason) for asked in self.asked]
        afloat = [(number, [sent.command for sent in link.commands]) for number, link in links]
        return ends, afloat, self.sidecar.core.active


def _put(twin: Twin, link: FakeLink | None) -> None:
    key, value = twin.dice.choice((A, B)), b"%d" % twin.dice.randrange(10)
    more = (
        {"expires_at_ms": START_MS + twin.dice.randrange(500)} if twin.dice.random() < 0.3 else {}
    )
    twin.asked.append(twin.sidecar.put(key, value, twin.dice.choice(LEVELS), **more))


def _get(twin: Twin, link: FakeLink | None) -> None:
    twin.asked.append(twin.sidecar.get(twin.dice.choice((A, B, C)), twin.dice.choice(LEVELS)))


def _deliver(twin: Twin, link: FakeLink | None) -> None:
    if link is not None and link.commands:
        link.deliver(twin.dice.randint(1, len(link.commands)))


def _answer(twin: Twin, link: FakeLink | None) -> None:
    if link is not None and link.replies:
        link.answer(twin.dice.randint(1, len(link.replies)))


def _flow(twin: Twin, link: FakeLink | None) -> None:
    twin.cluster.flow()


def _cut(twin: Twin, link: FakeLink | None) -> None:
    if link is not None:
        link.cut()


def _connect(twin: Twin, link: FakeLink | None) -> None:
    twin.sidecar.connect(twin.dice.randint(1, 4))


def _restart(twin: Twin, link: FakeLink | None) -> None:
    number = twin.dice.randint(1, 4)
    twin.cluster.crash(number, empty=twin.dice.random() < 0.5)
    twin.sidecar.connect(number)


def _flip(twin: Twin, link: FakeLink | None) -> None:
    fields = twin.cluster.fields(twin.dice.randint(1, 4))
    if user_field(A) in fields:
        fields[user_field(A)] = flip(fields[user_field(A)], twin.dice.randrange(20))


def _refence(twin: Twin, link: FakeLink | None) -> None:
    number = twin.dice.randint(1, 3)
    if b"f" in twin.cluster.fields(number):
        twin.cluster.set_fence(number, twin.dice.choice((None, b"", b"\x00" * 59)))


def _epoch(twin: Twin, link: FakeLink | None) -> None:
    twin.cluster.change()
    for number in (1, 2, 3):
        if b"f" in twin.cluster.fields(number) and twin.dice.random() < 0.7:
            bucket, incarnation = twin.cluster.bucket, twin.cluster.incarnation(number)
            fence = Fence(bucket.epoch, bucket.stage, Role.OWNER, incarnation)
            twin.cluster.set_fence(number, fence.encode())
    if twin.dice.random() < 0.8:
        twin.cluster.publish()


def _wait(twin: Twin, link: FakeLink | None) -> None:
    twin.cluster.wait(twin.dice.choice((0.005, 0.02, 0.2)))


STEPS = (_put, _get, _get, _get, _get, _deliver, _deliver, _answer, _answer, _flow, _wait) * 2 + (
    _cut,
    _connect,
    _restart,
    _flip,
    _refence,
    _epoch,
)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("lane", [fast_lane, lone_lane])
def test_whatever_happens_all_lanes_ask_and_answer_the_same(lane: Lane, seed: int) -> None:
    general, fast = Twin(seed, general_lane), Twin(seed, lane)
    for _ in range(120):
        general.step()
        fast.step()
        assert fast.story[-1] == general.story[-1], fast.story[-3:]
    for twin in (general, fast):
        twin.cluster.flow()
        twin.cluster.time_out()
    assert fast._seen() == general._seen()
    assert all(asked.ends == 1 for asked in fast.asked)
