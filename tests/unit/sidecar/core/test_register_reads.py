"""Reads of registers that take one round, and what must not be answered after one."""

from dataclasses import replace

import pytest

from buckets.bucket_map import Durability
from sidecar.errors import Outcome
from tests.support.fake_cluster import TIMEOUT_S, FakeCluster
from tests.support.register_cluster import SETTINGS, Ended, get, linearizable, modify, put


@pytest.fixture
def cluster() -> FakeCluster:
    """All three owners hold the first value."""
    made = linearizable(zones=1)
    put(made.sidecar, b"1")
    made.flow()
    return made


def read_from(cluster: FakeCluster, first: int, last: int) -> Ended:
    """A read that asked these two; the answer of `last` is the last."""
    for _ in range(10):
        read = get(cluster.sidecar)
        if {number for number in (1, 2, 3) if cluster.link(number).commands} == {first, last}:
            cluster.link(first).flow()
            cluster.link(last).flow()
            return read
        cluster.flow()
    raise AssertionError(f"{first} and {last} are never asked together")


def test_two_that_differ_are_no_answer(cluster: FakeCluster) -> None:
    """The second value is chosen, and the third owner has not heard of it."""
    cluster.link(3).cut()
    change = put(cluster.sidecar, b"2")
    cluster.flow()
    assert change.outcome is Outcome.OK
    cluster.sidecar.connect(3)
    for first, last in ((1, 3), (3, 1)):
        read = read_from(cluster, first, last)
        cluster.flow()
        assert read.value == b"2"


def test_owners_that_lost_their_fences_do_not_make_a_key_absent(cluster: FakeCluster) -> None:
    for number in (1, 2, 3):
        cluster.fields(number).clear()
    read = get(cluster.sidecar)
    cluster.flow()
    cluster.wait(TIMEOUT_S + 0.01)
    cluster.tick()
    assert read.op.error is not None


def test_an_epoch_that_moves_before_the_last_answer_asks_again(cluster: FakeCluster) -> None:
    read = get(cluster.sidecar)
    links = [cluster.link(number) for number in (1, 2, 3)]
    for link in links:
        link.deliver(len(link.commands))
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    cluster.sidecar.adopt(cluster.map)
    for link in links:
        link.answer(len(link.replies))
    assert not read.ends
    cluster.flow()
    assert read.value == b"1"


def test_one_that_is_not_durable_is_not_read_from_where_it_has_to_be() -> None:
    cluster = FakeCluster(zones=1, settings=replace(SETTINGS, durability=Durability.FSYNC))
    for number in (1, 2):
        link = cluster.sidecar.connect(number)
        cluster.sidecar.core.peers[number].connected(link, link.life, durable=True)
    for _ in range(6):
        read = get(cluster.sidecar)
        assert not cluster.link(3).commands
        cluster.flow()
        assert read.value is None


def test_beside_a_promise_of_both_the_read_ends_the_change_in_flight_first(
    cluster: FakeCluster,
) -> None:
    other = cluster.new_sidecar("b")
    modify(other)
    for number in (1, 2, 3):
        other.links[number].flow()  # all promise
    read = get(cluster.sidecar)
    asked = [cluster.link(number) for number in (1, 2, 3) if cluster.link(number).commands]
    for link in asked:
        link.deliver()
        link.answer()
    assert len(asked) == 2
    assert not read.ends
    cluster.flow()
    again = get(cluster.sidecar)
    cluster.flow()
    assert read.value == again.value
