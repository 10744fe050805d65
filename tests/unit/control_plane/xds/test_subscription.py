"""One subscriber's stream, without any I/O: what it is sent after what it said."""

import dataclasses

import pytest

from buckets.bucket_map import BucketMap
from buckets.codec import KEYSPACE_TYPE, NODE_TABLE_TYPE, RANGE_TYPE, RESOURCE_TYPES
from control_plane.xds.errors import BadRequest
from control_plane.xds.resources import Snapshot, make_snapshot
from control_plane.xds.subscription import (
    NAMES_BOUND,
    TYPES_BOUND,
    WHOLE_MAP_REFUSED,
    Subscription,
    SyncState,
)
from protos.dabbawala.v1 import discovery_pb2
from tests.support.maps import make_map, move_bucket

BASE = make_map(nodes=9, buckets=256)
SOMEBODY = discovery_pb2.DiscoveryNode(id="s")
ALL_RANGES = [f"range/default/{index:03d}" for index in range(4)]


class Subscriber:
    """Speaks to a Subscription in messages, and remembers what it was sent last."""

    def __init__(self, bucket_map: BucketMap = BASE) -> None:
        self.subscription = Subscription()
        self.snapshot: Snapshot = make_snapshot(bucket_map)
        self.batch: list[discovery_pb2.DeltaDiscoveryResponse] = []

    def say(self, type_url: str = "", **fields: object) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, **fields)  # type: ignore[arg-type]
        if self.subscription.identity is None and not request.node.id:
            request.node.id = "s1"
        self.subscription.on_request(request.SerializeToString())

    def publish(self, bucket_map: BucketMap) -> None:
        self.snapshot = make_snapshot(bucket_map, self.snapshot)

    def receive(self) -> list[discovery_pb2.DeltaDiscoveryResponse]:
        raw = self.subscription.next_batch(self.snapshot)
        self.batch = [discovery_pb2.DeltaDiscoveryResponse.FromString(each) for each in raw]
        return self.batch

    def received(self) -> list[str]:
        return [resource.name for response in self.receive() for resource in response.resources]

    def acknowledge(self) -> None:
        for response in self.batch:
            self.say(response.type_url, response_nonce=response.nonce)

    def refuse(self, number: int = -1, code: int = 3, why: str = "wrong") -> None:
        """Refuses one response of the batch and acknowledges the others."""
        bad = self.batch[number]
        for response in self.batch:
            error = {"code": code, "message": why}
            detail = {"error_detail": error} if response is bad else {}
            self.say(response.type_url, response_nonce=response.nonce, **detail)

    def subscribe_to_all(self, **fields: object) -> None:
        for type_url in RESOURCE_TYPES:
            self.say(type_url, resource_names_subscribe=["*"], **fields)

    @property
    def state(self) -> SyncState:
        return self.subscription.state(self.snapshot)


@pytest.fixture
def synced() -> Subscriber:
    subscriber = Subscriber()
    subscriber.subscribe_to_all()
    subscriber.receive()
    subscriber.acknowledge()
    return subscriber


def test_types_come_in_order_and_the_last_response_carries_the_revision() -> None:
    subscriber = Subscriber()
    for type_url in reversed(RESOURCE_TYPES):
        subscriber.say(type_url, resource_names_subscribe=["*"])
    batch = subscriber.receive()
    assert [response.type_url for response in batch] == list(RESOURCE_TYPES)
    assert [response.system_version_info for response in batch] == ["", "", "1"]
    assert len({response.nonce for response in batch}) == 3


def test_a_first_request_without_names_is_a_wildcard_as_in_old_subscribers() -> None:
    subscriber = Subscriber()
    subscriber.say(RANGE_TYPE)
    assert subscriber.received() == ALL_RANGES


def test_only_the_names_asked_for_are_sent() -> None:
    subscriber = Subscriber()
    subscriber.say(RANGE_TYPE, resource_names_subscribe=["range/default/002"])
    assert subscriber.received() == ["range/default/002"]


def test_a_name_that_does_not_exist_is_reported_as_removed_once() -> None:
    subscriber = Subscriber()
    subscriber.say(RANGE_TYPE, resource_names_subscribe=["range/none/000"])
    assert list(subscriber.receive()[0].removed_resources) == ["range/none/000"]
    subscriber.acknowledge()
    assert subscriber.receive() == []


def test_a_name_asked_for_again_is_sent_again() -> None:
    subscriber = Subscriber()
    for _ in range(2):
        subscriber.say(RANGE_TYPE, resource_names_subscribe=["range/default/002"])
        assert subscriber.received() == ["range/default/002"]
        subscriber.acknowledge()


def test_an_unsubscribed_name_is_sent_no_more() -> None:
    subscriber = Subscriber()
    subscriber.say(RANGE_TYPE, resource_names_subscribe=["range/default/000", "range/default/001"])
    subscriber.receive()
    subscriber.acknowledge()
    subscriber.say(RANGE_TYPE, resource_names_unsubscribe=["range/default/000"])
    subscriber.publish(move_bucket(move_bucket(BASE, "default", 0), "default", 70))
    assert subscriber.received() == ["range/default/001"]


def test_without_the_wildcard_nothing_more_is_sent(synced: Subscriber) -> None:
    synced.say(RANGE_TYPE, resource_names_unsubscribe=["*"])
    synced.publish(move_bucket(BASE, "default", 0))
    assert synced.received() == []


def test_nothing_is_sent_while_a_batch_is_in_flight() -> None:
    subscriber = Subscriber()
    subscriber.subscribe_to_all()
    subscriber.receive()
    assert subscriber.subscription.in_flight
    for bucket in range(100):
        subscriber.publish(move_bucket(BASE, "default", bucket))
        assert subscriber.subscription.next_batch(subscriber.snapshot) == []


def test_after_a_slow_answer_only_the_newest_is_sent(synced: Subscriber) -> None:
    changed = BASE
    synced.publish(move_bucket(changed, "default", 0))
    synced.receive()
    for bucket in (70, 140, 71):
        changed = move_bucket(changed, "default", bucket)
        synced.publish(dataclasses.replace(move_bucket(changed, "default", 0), revision=bucket))
    synced.acknowledge()
    assert sorted(synced.received()) == ["range/default/001", "range/default/002"]
    assert synced.batch[-1].system_version_info == "71"


def test_a_resumed_stream_is_sent_only_what_differs_and_what_is_gone() -> None:
    old = make_snapshot(make_map(nodes=9, buckets=256, keyspaces=("default", "old")))
    subscriber = Subscriber(move_bucket(BASE, "default", 70))
    for type_url in RESOURCE_TYPES:
        versions = {name: resource.version for name, resource in old.of(type_url).items()}
        subscriber.say(type_url, resource_names_subscribe=["*"], initial_resource_versions=versions)
    assert subscriber.received() == ["range/default/001"]
    gone = [name for response in subscriber.batch for name in response.removed_resources]
    assert gone == ["keyspace/old", *(f"range/old/{index:03d}" for index in range(4))]


def test_a_resumed_stream_without_news_is_still_told_the_revision() -> None:
    subscriber = Subscriber()
    for type_url in RESOURCE_TYPES:
        versions = {n: r.version for n, r in subscriber.snapshot.of(type_url).items()}
        subscriber.say(type_url, resource_names_subscribe=["*"], initial_resource_versions=versions)
    assert subscriber.received() == []
    assert [r.system_version_info for r in subscriber.batch] == ["", "", "1"]
    assert {r.type_url for r in subscriber.batch} == set(RESOURCE_TYPES)


def test_a_revision_without_changes_is_told(synced: Subscriber) -> None:
    synced.publish(dataclasses.replace(BASE, revision=5))
    assert synced.received() == []
    assert [response.system_version_info for response in synced.batch] == ["5"]
    synced.acknowledge()
    assert synced.subscription.acked_revision == 5
    assert synced.receive() == []


def test_a_large_map_comes_in_pieces_of_bounded_size() -> None:
    subscriber = Subscriber(make_map(nodes=9, buckets=1024))
    subscriber.subscription = Subscription(response_bound_bytes=2_000)
    subscriber.subscribe_to_all()
    batch = subscriber.receive()
    assert len(batch) > 4
    assert max(response.ByteSize() for response in batch) <= 2_000 + 200
    assert [r.name for each in batch for r in each.resources if "range" in r.name] == [
        f"range/default/{index:03d}" for index in range(16)
    ]
    assert [bool(r.system_version_info) for r in batch] == [False] * (len(batch) - 1) + [True]


def test_an_answer_with_an_unknown_nonce_changes_nothing(synced: Subscriber) -> None:
    synced.publish(move_bucket(BASE, "default", 0))
    synced.receive()
    synced.say(RANGE_TYPE, response_nonce="no such")
    synced.say(NODE_TABLE_TYPE, response_nonce=synced.batch[0].nonce)
    assert synced.subscription.in_flight
    synced.acknowledge()
    assert synced.state is SyncState.SYNCED


def test_the_state_follows_what_was_acknowledged(synced: Subscriber) -> None:
    states = [synced.state]
    synced.publish(move_bucket(BASE, "default", 0))
    states.append(synced.state)
    synced.receive()
    states.append(synced.state)
    synced.acknowledge()
    states.append(synced.state)
    assert states == ["SYNCED", "STALE", "STALE", "SYNCED"]
    assert synced.subscription.acked_revision == 2


def test_who_never_subscribed_is_stale() -> None:
    assert Subscriber().state is SyncState.STALE


def test_after_a_refusal_resources_come_one_by_one_until_the_bad_one_is_named(
    synced: Subscriber,
) -> None:
    synced.publish(move_bucket(move_bucket(BASE, "default", 0), "default", 70))
    assert synced.received() == ["range/default/000", "range/default/001"]
    synced.refuse()
    assert synced.received() == ["range/default/000"]
    assert synced.batch[0].system_version_info == "3"
    synced.acknowledge()
    assert synced.received() == ["range/default/001"]
    synced.refuse(why="range/default/001: bucket 70 is odd")
    assert synced.state is SyncState.REJECTED
    assert synced.subscription.detail == "range/default/001: bucket 70 is odd"
    assert synced.receive() == []


def test_other_types_of_a_refused_batch_are_not_sent_again() -> None:
    subscriber = Subscriber()
    subscriber.subscribe_to_all()
    subscriber.receive()
    subscriber.refuse(2)
    for name in ALL_RANGES:
        assert subscriber.received() == [name]
        subscriber.acknowledge()
    assert subscriber.receive() == []
    assert subscriber.state is SyncState.SYNCED


def test_a_refused_resource_does_not_hold_up_later_changes(synced: Subscriber) -> None:
    bad = move_bucket(BASE, "default", 0)
    synced.publish(bad)
    synced.receive()
    synced.refuse()
    synced.publish(move_bucket(bad, "default", 70))
    assert synced.received() == ["range/default/001"]
    synced.acknowledge()
    # What was refused is offered again, by itself: the newer map may have mended it.
    assert synced.received() == ["range/default/000"]
    synced.refuse()
    assert synced.state is SyncState.REJECTED
    assert synced.receive() == []


def test_a_mended_resource_ends_the_rejection(synced: Subscriber) -> None:
    bad = move_bucket(BASE, "default", 0)
    synced.publish(bad)
    synced.receive()
    synced.refuse()
    synced.publish(move_bucket(bad, "default", 0))
    while synced.receive():
        synced.acknowledge()
    assert synced.state is SyncState.SYNCED
    assert synced.subscription.detail == ""


def test_a_map_refused_as_a_whole_is_not_sent_in_parts(synced: Subscriber) -> None:
    changed = move_bucket(move_bucket(BASE, "default", 0), "default", 70)
    synced.publish(changed)
    synced.receive()
    synced.refuse(code=WHOLE_MAP_REFUSED, why="too much at once")
    assert synced.receive() == []
    assert synced.state is SyncState.REJECTED
    assert synced.subscription.detail == "too much at once"
    synced.publish(move_bucket(changed, "default", 140))
    assert sorted(synced.received()) == ALL_RANGES[:3]


def test_a_refused_removal_is_named(synced: Subscriber) -> None:
    synced.publish(dataclasses.replace(BASE, revision=2, keyspaces={}))
    assert [list(r.removed_resources) for r in synced.receive()] == [
        ["keyspace/default"],
        ALL_RANGES,
    ]
    synced.refuse(0, why="keyspace is gone from the map")
    assert synced.subscription.detail == "keyspace/default: keyspace is gone from the map"


def test_the_first_request_says_who_subscribes() -> None:
    subscriber = Subscriber()
    node = discovery_pb2.DiscoveryNode(id="s9", cluster="c", user_agent_version="2")
    node.locality.zone = "b"
    node.metadata["address"] = "127.0.0.1:1"
    subscriber.say(NODE_TABLE_TYPE, node=node)
    identity = subscriber.subscription.identity
    assert identity is not None
    assert (identity.id, identity.cluster, identity.zone) == ("s9", "c", "b")
    assert (identity.address, identity.version) == ("127.0.0.1:1", "2")


def test_a_type_that_is_not_served_is_borne_in_silence() -> None:
    subscriber = Subscriber()
    subscriber.say("type.googleapis.com/envoy.config.cluster.v3.Cluster")
    assert subscriber.receive() == []
    assert not subscriber.subscription.subscribed


def test_only_some_of_the_types_may_be_asked_for() -> None:
    subscriber = Subscriber()
    subscriber.say(KEYSPACE_TYPE)
    assert subscriber.received() == ["keyspace/default"]
    subscriber.acknowledge()
    assert subscriber.state is SyncState.SYNCED


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff",
        discovery_pb2.DeltaDiscoveryRequest(type_url=RANGE_TYPE).SerializeToString(),
        discovery_pb2.DeltaDiscoveryRequest(node=SOMEBODY).SerializeToString(),
        discovery_pb2.DeltaDiscoveryRequest(
            node=SOMEBODY, type_url=RANGE_TYPE, resource_names_subscribe=["x" * 1000]
        ).SerializeToString(),
        discovery_pb2.DeltaDiscoveryRequest(
            node=SOMEBODY,
            type_url=RANGE_TYPE,
            resource_names_subscribe=[str(number) for number in range(NAMES_BOUND + 1)],
        ).SerializeToString(),
    ],
    ids=["not a request", "no node", "no type", "name too long", "too many names"],
)
def test_a_request_that_makes_no_sense_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        Subscription().on_request(raw)


def test_too_many_types_on_one_stream_are_refused() -> None:
    subscriber = Subscriber()
    for number in range(TYPES_BOUND):
        subscriber.say(f"type/{number}")
    with pytest.raises(BadRequest, match="types"):
        subscriber.say("type/more")


def test_a_subscriber_says_anew_how_its_clock_is() -> None:
    subscriber = Subscriber()
    subscriber.say(RANGE_TYPE, resource_names_subscribe=["*"])
    received = subscriber.received()
    subscriber.acknowledge()
    node = discovery_pb2.DiscoveryNode(id="s1")
    node.metadata.update({"clock_skew_ms": 30_000.0, "clock_problem": "it is ahead"})
    subscriber.say(RANGE_TYPE, node=node)
    identity = subscriber.subscription.identity
    assert identity is not None
    assert (identity.clock_skew_ms, identity.clock_problem) == (30_000.0, "it is ahead")
    assert received
    assert subscriber.received() == []  # it asked for nothing
    subscriber.say(RANGE_TYPE, node=discovery_pb2.DiscoveryNode(id="somebody else"))
    assert subscriber.subscription.identity == identity
