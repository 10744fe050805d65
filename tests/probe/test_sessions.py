"""Sessions that hop two sidecars while a node is killed, misses writes, and comes back behind."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random

import grpc
import pytest

from protos.dabbawala.v1 import data_pb2, data_pb2_grpc
from tests.support.fault_table import Judged
from tests.support.local_cluster import (
    CHANNEL_OPTIONS,
    LocalCluster,
    local_cluster,
    second_sidecar,
    wait_until,
)
from tests.support.rich_errors import info_of

pytestmark = [pytest.mark.slow, pytest.mark.probe]

KEYS = 12
CLIENTS = 3
MOST_ROUNDS = 4
LEVELS = (data_pb2.CONSISTENCY_ONE, data_pb2.CONSISTENCY_QUORUM)


@pytest.fixture
def three() -> Iterator[LocalCluster]:
    """Three nodes, so each owns everything, on kept data."""
    with local_cluster("--data", "data", "--nodes", "3") as running:
        yield running


@dataclass
class Hopper:
    """One client with keys of its own, whose every call goes to another sidecar with its token."""

    number: int
    doors: list[data_pb2_grpc.DataStub]
    ended: threading.Event
    token: bytes = b"new"
    met: dict[bytes, int] = field(default_factory=dict)  # key -> the newest value met
    reads: int = 0
    writes: int = 0
    escalated: int = 0
    stale: int = 0
    failed: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        rng = Random(self.number)
        value = 0
        while not self.ended.wait(0.003):
            key = b"%d-%d" % (self.number, rng.randrange(KEYS))
            try:
                if rng.random() < 0.4:
                    value += 1
                    self._put(rng.choice(self.doors), key, value, rng.choice(LEVELS))
                else:
                    self._get(rng.choice(self.doors), key)
            except grpc.RpcError as error:
                info = info_of(error)
                self.stale += info is not None and info.reason == "SESSION_STALE"
                self.failed += 1

    def _put(self, door: data_pb2_grpc.DataStub, key: bytes, value: int, level: int) -> None:
        request = data_pb2.PutRequest(
            key=key,
            value=b"%d" % value,
            consistency=level,  # type: ignore[arg-type]
            session=self.token,
        )
        put = door.Put(request, timeout=5)
        self.token = put.session
        self.writes += 1
        if not put.superseded:  # by an earlier one, whose outcome was not known
            self.met[key] = value

    def _get(self, door: data_pb2_grpc.DataStub, key: bytes) -> None:
        request = data_pb2.GetRequest(
            key=key, consistency=data_pb2.CONSISTENCY_SESSION, session=self.token
        )
        got = door.Get(request, timeout=5)
        self.token = got.session
        self.reads += 1
        self.escalated += got.consistency == data_pb2.CONSISTENCY_QUORUM
        value, before = int(got.value or b"0"), self.met.get(key, 0)
        if value < before:
            self.wrong.append(f"{key!r}: read {value} after {before}")
        self.met[key] = max(value, before)


@pytest.mark.fault(27)
def test_a_session_that_hops_reads_its_writes_and_never_goes_back(
    three: LocalCluster, judged: Judged
) -> None:
    other = second_sidecar(three, "b")
    wait_until(lambda: len(three.status().sidecars) == 2, "the second sidecar has the map")
    ended = threading.Event()
    with ExitStack() as stack:
        addresses = (three.sidecar.address, other.address)
        opened = [grpc.insecure_channel(each, options=CHANNEL_OPTIONS) for each in addresses]
        channels = [stack.enter_context(channel) for channel in opened]
        doors = [data_pb2_grpc.DataStub(channel) for channel in channels]
        hoppers = [Hopper(number, doors, ended) for number in range(CLIENTS)]
        threads = [threading.Thread(target=hopper.run) for hopper in hoppers]
        for thread in threads:
            thread.start()
        try:
            _harm_the_nodes(three, hoppers)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    wrong = [what for hopper in hoppers for what in hopper.wrong]
    answered = sum(hopper.reads + hopper.writes for hopper in hoppers)
    failed = sum(hopper.failed for hopper in hoppers)
    judged.count(
        operations=answered + failed, acknowledged=answered, unknown=failed, lost=len(wrong)
    )
    assert wrong == []
    assert sum(hopper.escalated for hopper in hoppers) > 0  # something did lag
    assert sum(hopper.stale for hopper in hoppers) < sum(hopper.reads for hopper in hoppers)


def _harm_the_nodes(cluster: LocalCluster, hoppers: list[Hopper]) -> None:
    """The nodes that the sidecars read first are killed in turn, miss writes, and come back; again
    if hints have been so quick that no read met what they lacked."""
    for turn in range(2 * MOST_ROUNDS):
        if turn >= 2 and any(hopper.escalated for hopper in hoppers):
            break
        node = cluster.nodes[turn % 2]
        _some_more(hoppers)
        node.kill()
        _some_more(hoppers)
        node.start()
        cluster.wait_trusted()
    _some_more(hoppers)


def _some_more(hoppers: list[Hopper]) -> None:
    """Until every client has had 100 more reads answered."""
    goals = [(hopper, hopper.reads + 100) for hopper in hoppers]
    wait_until(lambda: all(hopper.reads >= goal for hopper, goal in goals), "the clients go on")
