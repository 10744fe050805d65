"""Counters of a linearizable keyspace while its replicas are killed, paused and emptied."""

from collections.abc import Callable

import pytest
import redis

from protos.dabbawala.v1 import data_pb2
from tests.support.counters import Client, Counting, Counts, incrementing, swapping
from tests.support.fault_table import Judged
from tests.support.local_cluster import LocalCluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.probe, pytest.mark.fault(8)]

KEYSPACE = "ledger"
DATABASE = 7
KEYS = [f"counter-{number}" for number in range(6)]
BACK_WITHIN_S = 40.0


def create(cluster: LocalCluster) -> None:
    created = cluster.dabba(
        *("keyspace", "create", KEYSPACE, "--mode", "linearizable"),
        *("--redis-db", str(DATABASE), "--buckets", "8"),
    )
    assert created.status == 0, created
    cluster.wait_served(KEYSPACE)


def one_after_another(cluster: LocalCluster, go_on: Callable[[], None]) -> None:
    """Of three owners of a bucket: one killed, one paused, and then one emptied."""
    killed, paused, emptied = cluster.nodes[:3]
    killed.kill()
    go_on()
    killed.start()
    cluster.wait_trusted(BACK_WITHIN_S)
    go_on()
    paused.pause()
    go_on()
    paused.resume()
    cluster.wait_trusted(BACK_WITHIN_S)
    emptied.kill()
    emptied.erase()
    go_on()
    emptied.start()
    wait_until(lambda: cluster.node_health()[emptied.name] == "suspect", "it is seen as emptied")
    cluster.wait_trusted(BACK_WITHIN_S)
    go_on()


def count(cluster: LocalCluster, client: Client, clients: int) -> Counts:
    counting = Counting(client, clients)

    def go_on() -> None:
        """Some more of them are acknowledged, whoever is missing."""
        enough = counting.total() + 100
        wait_until(lambda: counting.total() >= enough, "counting goes on")

    try:
        go_on()
        one_after_another(cluster, go_on)
    finally:
        counts = counting.stop()
    return counts


def all_own_again(cluster: LocalCluster) -> None:
    """Every node is back in every bucket, the emptied one in its next life, and repair agrees."""
    incarnations = {n.node.id: n.node.incarnation for n in cluster.status().nodes}
    assert incarnations == {node.name: 2 if node.name == "node-3" else 1 for node in cluster.nodes}
    assert all(len(cluster.owners(key.encode(), KEYSPACE)) == 3 for key in KEYS)
    repair = cluster.dabba("repair", KEYSPACE)
    assert repair.status == 0, repair


def told(judged: Judged, counts: Counts, final: dict[str, int]) -> None:
    acknowledged, unknown = counts.acknowledged.total(), counts.unknown.total()
    lost = sum(max(0, counts.acknowledged[key] - final[key]) for key in KEYS)
    judged.count(
        operations=acknowledged + unknown, acknowledged=acknowledged, unknown=unknown, lost=lost
    )
    assert counts.problems(final) == []


def test_fifty_clients_lose_no_increment(kept_cluster: LocalCluster, judged: Judged) -> None:
    create(kept_cluster)
    client = incrementing(kept_cluster.redis_port, DATABASE, KEYS)
    counts = count(kept_cluster, client, clients=50)
    with redis.Redis(port=kept_cluster.redis_port, db=DATABASE) as door:
        final = {key: int(door.get(key) or 0) for key in KEYS}
    told(judged, counts, final)
    all_own_again(kept_cluster)
    with redis.Redis(port=kept_cluster.redis_port, db=DATABASE) as door:
        assert {key: int(door.get(key) or 0) for key in KEYS} == final


def test_swaps_repeated_with_their_operation_id_happen_once(
    kept_cluster: LocalCluster, judged: Judged
) -> None:
    create(kept_cluster)
    client = swapping(kept_cluster.grpc_targets[0], KEYSPACE, KEYS)
    counts = count(kept_cluster, client, clients=12)
    data = kept_cluster.data()
    final = {}
    for key in KEYS:
        got = data.Get(data_pb2.GetRequest(keyspace=KEYSPACE, key=key.encode()), timeout=5)
        final[key] = int(got.value or b"0")
    told(judged, counts, final)
    all_own_again(kept_cluster)
